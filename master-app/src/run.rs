//! Running a hub: its start, its threads, its log, its own device, its health.

mod banner;
mod health_monitor;
mod host_device;
pub(crate) mod hub;
pub(crate) mod log;
pub(crate) mod runtime;
pub(crate) mod setup;
mod signals;
