//! Running a hub: its start, its threads, its log, its own device, its health.

pub(crate) mod health_monitor;
pub(crate) mod host_device;
pub(crate) mod hub;
pub(crate) mod log;
pub(crate) mod runtime;
