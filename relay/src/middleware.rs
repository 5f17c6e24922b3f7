//! The layers around all routes, in the order of `router`.

pub(crate) mod count_rejections;
pub(crate) mod host_guard;
pub(crate) mod require_tls;
