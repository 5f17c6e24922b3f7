//! Bytes on their way: slots, their group hashes and tickets, and the frames of bodies.

pub(crate) mod buffer_pool;
pub(crate) mod frames;
pub(crate) mod group_hashes;
pub(crate) mod slot;
pub(crate) mod tickets;
