//! The person at the host: console, terminal, event lines, and the sockets that commands use.

pub(crate) mod actions;
pub(crate) mod console;
pub(crate) mod control;
pub(crate) mod events;
pub(crate) mod terminal;
