//! Plain HTTP: paths and bodies (PROTOCOL.md 7).

use serde::{Deserialize, Serialize};

use crate::failure::FailureCode;
use crate::file::FileRef;
use crate::ids::Link;

/// Body of `POST /links`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct LinkOrder {
    pub files: Vec<FileRef>,
    /// What the archive of several files is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub name: Option<String>,
}

/// Answer of `POST /links`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct LinkMade {
    pub link: Link,
    /// A path on this relay: `/d/{link}/{name}`.
    pub url: String,
    pub expires_ms: u64,
}

/// Body of every HTTP error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct HttpError {
    pub code: FailureCode,
    pub message: String,
}
