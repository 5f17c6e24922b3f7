//! What the native client and the host's program both need of the operating system, and std does
//! not have. Nothing here is async, and nothing knows of hubs, devices or messages.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant what they like"))]
#![warn(clippy::wildcard_enum_match_arm, missing_docs)]

pub mod clock;
pub mod confined_fs;
pub mod hostname;
pub mod private_file;
