//! The language between relay, master and devices, version 1. `PROTOCOL.md` beside this crate is the normative text.
//!
//! Types, limits and everything that is *computed* on the wire (ids, signature texts, codes, group values), each checked
//! against `vectors/`. No IO, no clock, no randomness: callers bring those.

pub mod approval;
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
pub mod master_proof;
pub mod message;
pub mod path;
pub mod range;

pub use chunk::{GroupRange, Piece};
pub use codec::{DecodeError, Frame, MasterFrame};
pub use device::{Client, DeviceKind, HubInfo, Membership, TransportMode};
pub use failure::{CloseCode, FailureCode};
pub use feed::{FeedMode, FeedPage, Gone, Resume};
pub use file::{EntryKind, FileEntry, FileRef, NewFile};
pub use ids::*;
pub use message::{ConsoleToMaster, DeviceToRelay, MasterToConsole, MasterToRelay, RelayToDevice, RelayToMaster};

/// The one live version of the wire, said once, at the handshake.
pub const PROTOCOL_VERSION: u32 = 1;
/// The WebSocket subprotocol that every socket must offer (PROTOCOL.md 1).
pub const SUBPROTOCOL: &str = "lanyard.v1";
