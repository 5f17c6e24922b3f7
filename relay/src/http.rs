//! Plain HTTP: chunk bodies, links, downloads, the web client, liveness, the way to https (PROTOCOL.md 7).

pub mod archive;
pub mod assets;
pub mod chunks;
pub mod download;
pub mod frames;
pub mod health;
pub mod links;
pub mod metrics;
pub mod pull;
pub mod secure;
pub mod zip;
