//! A device as others see it, and the hub as devices see it.

use serde::{Deserialize, Serialize};

use crate::ids::{DeviceId, PublicKey};
use crate::limits::{MAX_LABEL_BYTES, MAX_NAME_BYTES};

/// The kind of program that runs on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum DeviceKind {
    /// A page in a browser.
    Browser,
    /// A program such as `lanyard share`.
    Native,
    /// The host's own files; proved with the secret that master and relay share.
    Master,
}

/// Whether a device belongs. `Disapproved` is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum Membership {
    /// The relay has no roster yet.
    Unknown,
    /// Not decided yet.
    Pending,
    /// Let in.
    Approved,
    /// Refused; such a device is told so and closed.
    Disapproved,
}

/// How private the way to the relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum TransportMode {
    /// TLS, and the hub's key was verified.
    Locked,
    /// TLS, with nothing that verifies the hub.
    Encrypted,
    /// Plain HTTP: others on the network can read along.
    Open,
}

/// A device as every approved device sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Client {
    /// Follows from the device's key.
    pub public_id: DeviceId,
    /// UTF-8 text for people, 1 to 255 bytes without control characters.
    pub name: String,
    /// Says what runs on the device.
    pub kind: DeviceKind,
    /// Free text such as "Chrome on Windows"; may be empty.
    pub platform: String,
}

/// The hub as a device sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct HubInfo {
    /// The name that the host gave the hub.
    pub name: String,
    /// The Ed25519 key that signs for its holder.
    pub public_key: PublicKey,
}

/// Whether `name` may be a device's name: 1 to 255 bytes, no control characters.
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Whether `text` may be a platform or media type: at most 255 bytes, no control characters.
pub fn is_valid_label(text: &str) -> bool {
    text.len() <= MAX_LABEL_BYTES && !text.chars().any(char::is_control)
}
