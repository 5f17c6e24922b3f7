//! How a command ends: stable numbers that scripts may rely on, and the sentence that goes with
//! them.

use std::process::ExitCode;

/// The exit code of the process; documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotApproved = 3,
    NotReachable = 4,
    NotFound = 5,
}

pub(crate) const HELP: &str = "Exit codes:
  0  done
  1  failed
  2  invalid command line
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
pub(crate) struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl std::fmt::Display) -> Self {
        Self { exit, error: anyhow::anyhow!("{message}") }
    }

    pub(crate) fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }
}

/// Prints the error, and those of its causes that the error does not name itself.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut said = String::new();
        for cause in self.error.chain().map(|cause| cause.to_string()) {
            if !said.contains(&cause) {
                said = if said.is_empty() { cause } else { format!("{said}: {cause}") };
            }
        }
        f.write_str(&said)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_said_once() {
        let disk = || std::io::Error::other("the disk is full");
        let told =
            anyhow::anyhow!(disk()).context("cannot write a.key: the disk is full; make room");
        assert_eq!(
            Failure::from(told).to_string(),
            "cannot write a.key: the disk is full; make room"
        );
        let untold = Err::<(), _>(disk()).context("cannot write a.key").unwrap_err();
        assert_eq!(Failure::from(untold).to_string(), "cannot write a.key: the disk is full");
    }
}
