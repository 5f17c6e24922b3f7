//! Downloads: planned, fetched group by group, verified, and named when whole.

pub(crate) mod bytes_thread;
pub(crate) mod content_index;
pub(crate) mod fetch;
pub mod file_names;
pub(crate) mod file_sink;
pub(crate) mod task;
