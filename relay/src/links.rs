//! `/d/{link}`: shared files as ordinary resources of the web (PROTOCOL.md 7).

pub(crate) mod archive;
pub(crate) mod call;
pub(crate) mod conditional;
pub(crate) mod handlers;
pub(crate) mod names;
pub(crate) mod progress;
pub(crate) mod range_fetcher;
pub(crate) mod response;
pub(crate) mod zip;
