//! Errors of the store, and which of them pass by themselves.

use std::path::PathBuf;

use lanyard_system::private_file::PrivateFileError;
use rusqlite::ErrorCode;

/// Why the master's memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot make {}: {source}; check that the folder belongs to you and has room", path.display())]
    Make { path: PathBuf, source: std::io::Error },
    #[error("cannot open {}: {source}; check that the folder belongs to you and has room", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("{} is damaged ({why})", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} is damaged and cannot be moved aside: {source}; check that the folder belongs to you", path.display())]
    Aside { path: PathBuf, source: std::io::Error },
    #[error("{} is another program's database; move it away, or choose another folder with --data", path.display())]
    Foreign { path: PathBuf },
    #[error("{} was written by a newer Lanyard (schema {found}); start that one", path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error("this build holds SQLite {found}; 3.51.3 or newer is needed to keep what is promised")]
    OldSqlite { found: &'static str },
    #[error("cannot write {}: {source}; check that the disk has room", path.display())]
    Write { path: PathBuf, source: rusqlite::Error },
    #[error(transparent)]
    Copy(#[from] PrivateFileError),
    #[error("get randomness from the system: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// What passes by itself, or when the person at the host does something about it: worth waiting
/// for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransientStoreError {
    /// Another program holds the file.
    Locked,
    /// There is no room.
    Full,
}

impl StoreError {
    pub(crate) fn transient(&self) -> Option<TransientStoreError> {
        let (Self::Open { source, .. } | Self::Write { source, .. }) = self else { return None };
        let rusqlite::Error::SqliteFailure(failure, _) = source else { return None };
        if matches!(failure.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) {
            return Some(TransientStoreError::Locked);
        }
        // SHMSIZE: the index of the log could not grow.
        let is_full = failure.code == ErrorCode::DiskFull
            || failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
        is_full.then_some(TransientStoreError::Full)
    }

    /// Returns true if the file itself is broken: trying again does not help.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Write { source, .. } => is_broken_file(source),
            Self::Make { .. }
            | Self::Open { .. }
            | Self::Aside { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::OldSqlite { .. }
            | Self::Copy(_)
            | Self::Randomness(_) => false,
        }
    }
}

pub(super) fn is_broken_file(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return false };
    matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
}

/// A table or a row of a shape that this program does not write.
pub(super) fn is_strange_content(error: &rusqlite::Error) -> bool {
    if let rusqlite::Error::SqliteFailure(failure, _) = error {
        // "no such table": the statements here never change.
        return failure.extended_code == rusqlite::ffi::SQLITE_ERROR;
    }
    matches!(
        error,
        rusqlite::Error::SqlInputError { .. }
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::InvalidColumnName(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::QueryReturnedNoRows
    )
}

pub(super) fn corrupt(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(why),
    )
}
