//! The network: the accept loop, TLS, and the bytes that a connection may hold.

pub(crate) mod listener;
pub(crate) mod metered;
pub(crate) mod tls;
