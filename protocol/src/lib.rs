//! The protocol of relay, master and devices, version 2. `PROTOCOL.md` beside this crate is the
//! normative text.
//!
//! Holds types, limits and everything that is *computed* on the wire: ids, signature texts, codes,
//! group hashes. Each is checked against `vectors/`. Callers bring IO, the clock and randomness.

// A new variant of an enum must be decided on wherever the enum is matched; tests may pick one.
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]
#![warn(missing_docs)]

pub mod approval;
pub mod archive;
pub mod chunk;
pub mod codec;
pub mod device;
pub mod failure;
pub mod feed;
pub mod file;
pub mod group;
pub mod http;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod link_key;
pub mod master_proof;
pub mod message;
pub mod path;
pub mod range;
pub mod session_key;

pub use chunk::{GroupRange, GroupSpan};
pub use codec::{DecodeError, Frame, MasterFrame};
pub use device::{Client, DeviceKind, HubInfo, Membership, TransportMode};
pub use failure::{CloseCode, FailureCode};
pub use feed::{FeedMode, FeedPage, Gone, Resume};
pub use file::{EntryKind, FileEntry, FileRef, NewFile};
pub use ids::*;
pub use message::{
    ConsoleToMaster, DeviceRequest, DeviceToRelay, MasterToConsole, MasterToRelay, RelayMessage,
    RelayToDevice, RelayToMaster,
};

/// The one live version of the wire, said once, at the handshake.
pub const PROTOCOL_VERSION: u32 = 2;
/// The WebSocket subprotocol that every socket must offer (PROTOCOL.md 1).
pub const SUBPROTOCOL: &str = "lanyard.v2";
/// The beginning of the subprotocols of all versions.
const ANY_SUBPROTOCOL: &str = "lanyard.v";

/// Returns the subprotocol that a socket gets of those in its `Sec-WebSocket-Protocol` headers:
/// ours, or else that of another version, whose client is then told to update.
pub fn chosen_subprotocol<'a>(headers: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let offered: Vec<&str> = headers.flat_map(|value| value.split(',')).map(str::trim).collect();
    let of_a_version = |name: &&str| {
        let version = name.strip_prefix(ANY_SUBPROTOCOL);
        version.is_some_and(|version| {
            (1..=4).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_digit())
        })
    };
    let ours = offered.iter().find(|name| **name == SUBPROTOCOL);
    ours.copied().or_else(|| offered.into_iter().find(of_a_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_version_is_chosen_before_another_and_nothing_else_is() {
        for (offered, chosen) in [
            ("lanyard.v2", Some("lanyard.v2")),
            ("lanyard.v1, lanyard.v2", Some("lanyard.v2")),
            ("lanyard.v1", Some("lanyard.v1")),
            ("chat,lanyard.v31", Some("lanyard.v31")),
            ("lanyard.v", None),
            ("lanyard.v1x", None),
            ("lanyard.v12345", None),
            ("lanyard", None),
            ("", None),
        ] {
            assert_eq!(chosen_subprotocol([offered].into_iter()), chosen, "{offered}");
        }
    }
}
