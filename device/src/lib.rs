//! The native device: a reconnecting link, the files it offers, the files it fetches.

pub mod confine;
pub mod link;
pub mod names;
pub mod private_file;
pub mod store;
