//! Shared files: found on this disk, kept in a library, read for uploads.

pub(crate) mod block_pool;
pub(crate) mod library;
pub(crate) mod shared_root;
pub(crate) mod upload;
pub(crate) mod walk;
