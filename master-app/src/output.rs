//! Output of commands: text on a terminal, and exit codes.

pub(crate) mod exit;
pub(crate) mod tables;
pub(crate) mod text;
