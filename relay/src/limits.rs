//! Limits on what outsiders may open, send and leave unread.

pub(crate) mod connections;
pub(crate) mod message_rate;
pub(crate) mod outbox;
