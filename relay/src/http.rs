//! Plain HTTP: chunk bodies, links, downloads, the web client, liveness, the way to https
//! (PROTOCOL.md 7).

pub(crate) mod archive;
pub(crate) mod assets;
pub(crate) mod chunks;
pub(crate) mod download;
pub(crate) mod frames;
pub(crate) mod health;
pub(crate) mod links;
pub(crate) mod metrics;
pub(crate) mod pull;
pub(crate) mod secure;
pub(crate) mod zip;
