//! `/d/{link}`: shared files as ordinary resources of the web (PROTOCOL.md 7).

pub(crate) mod archive;
pub(crate) mod call;
pub(crate) mod handlers;
pub(crate) mod range_fetcher;
pub(crate) mod zip;
