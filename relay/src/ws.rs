//! WebSockets: one task per device and one per master.

pub(crate) mod connection;
pub(crate) mod device;
pub(crate) mod master;
pub(crate) mod replay_window;
pub(crate) mod sessions;
pub(crate) mod upgrade;
