//! The host's authority: the driver of the state machine, and its connection to the relay.

pub(crate) mod commit;
pub(crate) mod driver;
pub(crate) mod relay_connection;
