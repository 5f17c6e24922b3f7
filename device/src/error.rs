//! Failures of a device, each with a sentence that a person can act on.

use std::io;

use lanyard_protocol::FailureCode;

use crate::share::walk::WalkError;

/// Why something asked of a device was not done.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// This device's disk or system said no.
    #[error("{0}")]
    Local(String),
    #[error("the device cannot be set up: {0}")]
    Setup(String),
    /// The hub said no.
    #[error("{message}")]
    Refused { code: FailureCode, message: String },
    #[error("the hub is not reachable at the moment")]
    NotConnected,
    #[error("the device has ended")]
    Ended,
}

impl From<io::Error> for DeviceError {
    fn from(error: io::Error) -> Self {
        Self::Local(local_failure(&error))
    }
}

/// EIO, ENXIO and ENODEV of Unix; that other platforms call other things so costs a few words.
const BROKEN_DISK: [i32; 3] = [5, 6, 19];

/// Returns a sentence that a person can act on.
#[expect(clippy::wildcard_enum_match_arm, reason = "std adds kinds, and most mean the same here")]
pub(crate) fn local_failure(error: &io::Error) -> String {
    match error.kind() {
        // Ours, which says how much.
        io::ErrorKind::StorageFull if error.get_ref().is_some() => error.to_string(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "there is no room left on this disk; what came is kept, and the same command goes on from there".into()
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("this folder cannot be written to ({error})")
        }
        io::ErrorKind::BrokenPipe => "whoever read the bytes stopped reading".into(),
        _ if BROKEN_DISK.contains(&error.raw_os_error().unwrap_or_default()) => {
            format!("the disk is out of order ({error}); what came is kept, and the same command goes on from there")
        }
        _ => error.to_string(),
    }
}
