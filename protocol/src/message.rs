//! The messages, one enum a direction, and the parts they share.
//!
//! Device and relay speak over `/ws/device`; master and relay over `/ws/master`, where the relay passes devices' requests
//! on unchanged (`from` beside them says whose) and the master's answers back (`to`); the host's console speaks to the
//! master app over `/ws/console`. Adding a message means a vector, a line in PROTOCOL.md and a simulation step together.

mod console;
mod device;
mod link;
mod master;

use serde::{Deserialize, Serialize};

use crate::chunk::{Piece, What};
use crate::device::Client;
use crate::failure::{CloseCode, FailureCode};
use crate::file::{FileEntry, NewFile};
use crate::ids::*;

pub use console::*;
pub use device::*;
pub use link::*;
pub use master::*;

macro_rules! wire {
    ($($(#[$meta:meta])* $vis:vis struct $name:ident { $($body:tt)* })*) => {$(
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
        $(#[$meta])*
        $vis struct $name { $($body)* }
    )*};
}
pub(crate) use wire;

wire! {
    /// The one "no" to a request.
    pub struct RequestFailed {
        pub code: FailureCode,
        pub message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub retry_after_ms: Option<u64>,
        /// The first culprit of an ADD_FILES.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub file_id: Option<FileId>,
    }

    /// The request changed nothing; this is where the feed stands.
    pub struct FeedAck {
        pub epoch: u64,
        pub revision: u64,
    }

    /// The master binds itself to its nonce before the device reveals: whoever learns the digits last cannot choose them.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalChallenge {
        pub request_id: RequestId,
        pub commit: Commit,
    }

    #[serde(deny_unknown_fields)]
    pub struct ApprovalReveal {
        pub request_id: RequestId,
        pub reveal: Reveal,
    }

    /// The nonce that the master had committed to: from here on both sides know the digits.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalOpen {
        pub request_id: RequestId,
        pub nonce: Nonce,
    }

    /// That the sender holds an invitation, for this very knock.
    #[serde(deny_unknown_fields)]
    pub struct InvitationProof {
        pub id: InvitationId,
        pub proof: Mac,
    }

    /// The host lets nobody in at the moment. The knock is over; when that changes, an APPROVAL_RESTART comes.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalClosed {
        pub request_id: RequestId,
    }

    /// A device was let in, or its entry as it is after that.
    #[serde(deny_unknown_fields)]
    pub struct ClientApproved {
        pub client: Client,
        pub epoch: u64,
        pub revision: u64,
        pub audience: Audience,
    }

    pub struct ClientUpdated {
        pub client: Client,
        pub epoch: u64,
        pub revision: u64,
        pub audience: Audience,
    }

    /// A device was turned away: final.
    #[serde(deny_unknown_fields)]
    pub struct ClientDisApproved {
        pub public_id: DeviceId,
        pub epoch: u64,
        pub revision: u64,
        pub audience: Audience,
    }

    pub struct UpdateName {
        pub name: String,
    }

    /// Asks for the feed after `since`, or with `cursor` for the next page of a pull.
    pub struct FeedPull {
        pub epoch: u64,
        pub since: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub cursor: Option<String>,
    }

    pub struct AddFiles {
        pub files: Vec<NewFile>,
    }

    pub struct RemoveFile {
        pub file_ids: Vec<FileId>,
        /// Withdraw only: the page lost its handles and hopes to have them picked again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<bool>", optional))]
        pub keep: bool,
    }

    pub struct FilesAdded {
        pub public_id: DeviceId,
        #[serde(deserialize_with = "crate::file::entries")]
        pub files: Vec<FileEntry>,
        pub epoch: u64,
        pub revision: u64,
        pub audience: Audience,
    }

    pub struct KnownRoot {
        pub file_id: FileId,
        pub root: Root,
    }

    /// Roots that became known; nothing else of a file ever changes.
    pub struct FilesUpdated {
        pub public_id: DeviceId,
        pub files: Vec<KnownRoot>,
        pub epoch: u64,
        pub revision: u64,
        pub audience: Audience,
    }

    pub struct FileRemoved {
        pub public_id: DeviceId,
        pub file_ids: Vec<FileId>,
        pub epoch: u64,
        pub revision: u64,
        pub audience: Audience,
    }

    /// Off the list, not gone: their transfers and links wait. Without `file_ids` all entries of `instance`.
    pub struct FilesWithdrawn {
        pub public_id: DeviceId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub file_ids: Option<Vec<FileId>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub instance: Option<Instance>,
        pub epoch: u64,
        pub revision: u64,
        pub audience: Audience,
    }

    /// Where the feed stands: HUB_READY.
    pub struct HubReady {
        pub epoch: u64,
        pub revision: u64,
    }

    /// Who is online now, whole.
    pub struct Presence {
        pub online: Vec<DeviceId>,
    }

    /// A device came or went; towards the master also which instance of it, and whose knock ended.
    pub struct PresenceChange {
        pub public_id: DeviceId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub instance: Option<Instance>,
        /// Where that session says it stands in the feed (CLIENT_RECONNECTED towards the master).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub resume: Option<crate::feed::Resume>,
        /// The knock that ended with its session (CLIENT_DISCONNECTED towards the master).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub request_id: Option<RequestId>,
    }

    pub struct RequestChunk {
        pub transfer_id: TransferId,
        pub public_id: DeviceId,
        pub pieces: Vec<Piece>,
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(as = "Option<What>", optional))]
        pub what: What,
        /// Bytes of the file that the asker holds, for the owner's screen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub have: Option<u64>,
    }

    pub struct CancelChunk {
        pub transfer_id: TransferId,
        /// Absent: all of the transfer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub pieces: Option<Vec<Piece>>,
    }

    pub struct UploadChunkRequest {
        pub ticket: Ticket,
        pub public_id: DeviceId,
        pub pieces: Vec<Piece>,
        pub what: What,
        pub length: u64,
    }

    pub struct ChunkReady {
        pub transfer_id: TransferId,
        pub pieces: Vec<Piece>,
        pub ticket: Ticket,
        pub length: u64,
    }

    pub struct ChunkFailed {
        pub transfer_id: TransferId,
        pub pieces: Vec<Piece>,
        pub code: FailureCode,
        pub retry: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub retry_after_ms: Option<u64>,
    }

    /// Others read a file from here on: whoever can take it out of order goes on here and fetches the rest afterwards.
    pub struct JoinAt {
        pub transfer_id: TransferId,
        pub file_id: FileId,
        /// The first group to ask for.
        pub group: u32,
    }

    pub struct ChunkUnavailable {
        pub ticket: Ticket,
        pub code: FailureCode,
        /// Whose fault it is, in a bundle.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub file_id: Option<FileId>,
    }

    pub struct UploadCancelled {
        pub ticket: Ticket,
        pub code: FailureCode,
    }

    /// From the relay, which sees all bytes. `link_hash` only towards the link's maker.
    pub struct TransferProgress {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub link_hash: Option<LinkHash>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub transfer_id: Option<TransferId>,
        /// The device that takes.
        pub asker: DeviceId,
        /// The owner; of an archive, that of the member on its way.
        pub public_id: DeviceId,
        pub file_id: FileId,
        pub done: u64,
        pub total: u64,
        /// Bytes a second, a moving average.
        pub rate: u64,
        pub state: TransferState,
    }

    /// The owner's copy is no longer the listed version (relay to owner and master).
    pub struct FileChanged {
        pub public_id: DeviceId,
        pub file_id: FileId,
    }
}

/// Who may see a change. One value today; a list message without it would leave no room for another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum Audience {
    #[default]
    All,
}

/// Where a transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum TransferState {
    /// Its owner is away, or the hub has no room: it goes on by itself.
    Waiting,
    Running,
    /// The reader stands still (a paused download).
    Paused,
    Done,
    Failed,
    Cancelled,
}

/// Marker fields may be absent on the wire only as `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "Record<string, never>"))]
pub struct Empty {}
