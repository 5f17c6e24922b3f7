//! The machine's addresses, and certificates for them.

pub(crate) mod addresses;
pub(crate) mod certificates;
