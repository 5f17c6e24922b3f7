//! How a command ends: stable numbers that scripts may rely on, and the sentence that goes with them.

use std::process::ExitCode;

/// What the process returns; documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotApproved = 3,
    NotReachable = 4,
    NotFound = 5,
}

pub const HELP: &str = "Exit codes:
  0  done
  1  failed
  2  the command line cannot be meant that way
  3  this device is not approved, or was turned away
  4  no hub is reachable (or nothing that could answer runs on that data directory)
  5  no such device, file or transfer";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it was told, and the number for that.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

pub type Outcome = Result<(), Failure>;

impl Failure {
    pub fn new(exit: Exit, message: impl std::fmt::Display) -> Self {
        Self { exit, error: anyhow::anyhow!("{message}") }
    }

    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}
