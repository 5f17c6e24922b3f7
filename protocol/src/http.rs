//! Plain HTTP: addresses and bodies (PROTOCOL.md 7).

use serde::{Deserialize, Serialize};

use crate::failure::FailureCode;
use crate::ids::Link;

/// The path of a link on its hub. The name at its end is decoration, but what `curl -O` calls the
/// file.
pub fn link_path(link: &Link, name: &str) -> String {
    let mut path = format!("/d/{}/", link.to_hex());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte))
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// Body of every HTTP error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct HttpError {
    /// Stable name of the reason, for programs.
    pub code: FailureCode,
    /// A sentence for people, in English.
    pub message: String,
}
