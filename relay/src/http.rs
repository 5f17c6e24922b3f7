//! The other routes of plain HTTP: chunk bodies, the web client, liveness, figures (PROTOCOL.md 7).

pub(crate) mod assets;
pub(crate) mod ca_certificate;
pub(crate) mod chunks;
pub(crate) mod health;
pub(crate) mod metrics;
