//! What the suites over real sockets share: a hub on a free port ([`TestHub`]), a device that a
//! test steers message by message ([`TestDevice`]), the native device as users have it
//! ([`native_device`]), and bytes written by hand ([`raw_client`]). Every wait is for a condition.

#![allow(clippy::disallowed_methods, reason = "tests plant what they like")]

pub mod native_device;
pub mod raw_client;
mod test_device;
mod test_hub;

use std::time::Duration;

pub use test_device::{TestDevice, TestLink, ephemeral, link_request, registration, while_serving};
pub use test_hub::{TestHub, certificate, http_client, register};

/// A condition that does not come by then never comes: the test fails.
pub const NEVER: Duration = Duration::from_secs(20);
pub const SECRET: [u8; 32] = [3; 32];

/// Byte i of every test file (protocol/vectors, content_rule).
pub fn content(size: u64) -> Vec<u8> {
    (0..size).map(|i| ((i * 31 + i / 251) % 256) as u8).collect()
}
