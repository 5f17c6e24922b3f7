//! The messages, one enum a direction, and the parts they share.
//!
//! Device and relay exchange messages over `/ws/device`, master and relay over `/ws/master`. There
//! the relay passes devices' requests on unchanged (`from` beside them names the sender) and the
//! master's answers back (`to`). The host's console uses `/ws/console` of the master app. Adding a
//! message means a vector, a line in PROTOCOL.md and a simulation step together.

mod console;
mod device;
mod link;
mod master;

use serde::{Deserialize, Serialize};

use crate::chunk::{BodyKind, GroupSpan};
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
        /// Stable name of the reason, for programs.
        pub code: FailureCode,
        /// A sentence for people, in English; says what to do where something can be done.
        pub message: String,
        /// Milliseconds after which the same request may succeed.
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
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// The head of the feed.
        pub revision: u64,
    }

    /// The master binds itself to its nonce before the device reveals: whoever learns the digits
    /// last cannot choose them.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalChallenge {
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
        /// Binds the sender to a nonce that it reveals later.
        pub commit: Commit,
    }

    /// Answers an APPROVAL_CHALLENGE: the device opens its own commitment, after the master is
    /// bound.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalReveal {
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
        /// The nonce that the device committed to, and what blinded the commitment.
        pub reveal: Reveal,
    }

    /// The nonce that the master had committed to: from here on both sides know the digits.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalOpen {
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
        /// 32 random bytes, drawn for this exchange.
        pub nonce: Nonce,
    }

    /// That the sender holds an invitation, for this very knock.
    #[serde(deny_unknown_fields)]
    pub struct InvitationProof {
        /// Names the invitation without revealing its secret.
        pub id: InvitationId,
        /// Made with the invitation's secret over this knock, so it proves nothing for another.
        pub proof: Mac,
    }

    /// The host lets nobody in at the moment. The knock is over; when that changes, an
    /// APPROVAL_RESTART comes.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalClosed {
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
    }

    /// A device was let in, or its entry as it is after that.
    #[serde(deny_unknown_fields)]
    pub struct ClientApproved {
        /// The entry as it is after the change.
        pub client: Client,
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// Counts the changes of this epoch; this change, or the head, has this number.
        pub revision: u64,
        /// Names who may see the change.
        pub audience: Audience,
    }

    /// The name of an approved device changed.
    pub struct ClientUpdated {
        /// The entry as it is after the change.
        pub client: Client,
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// Counts the changes of this epoch; this change, or the head, has this number.
        pub revision: u64,
        /// Names who may see the change.
        pub audience: Audience,
    }

    /// A device was turned away: final.
    #[serde(deny_unknown_fields)]
    pub struct ClientDisApproved {
        /// The refused device.
        pub public_id: DeviceId,
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// Counts the changes of this epoch; this change, or the head, has this number.
        pub revision: u64,
        /// Names who may see the change.
        pub audience: Audience,
    }

    /// Asks for another name for the sender's own device.
    pub struct UpdateName {
        /// UTF-8 text for people, 1 to 255 bytes without control characters.
        pub name: String,
    }

    /// Asks for the feed after `since`, or with `cursor` for the next page of a pull.
    pub struct FeedPull {
        /// The feed that is meant; absent: the catalogue.
        #[serde(default, skip_serializing_if = "FeedId::is_catalogue")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<FeedId>", optional))]
        pub feed: FeedId,
        /// Epoch of what the sender holds; 0 for nothing.
        pub epoch: u64,
        /// Last revision of `epoch` that the sender holds; 0 for nothing.
        pub since: u64,
        /// Opaque place to go on from, at most 256 characters; absent on a first request and on a
        /// last page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub cursor: Option<String>,
    }

    /// Says that changes were dropped on their way to this session.
    #[derive(Default)]
    pub struct FeedDirty {
        /// The feed that is meant; absent: the catalogue.
        #[serde(default, skip_serializing_if = "FeedId::is_catalogue")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<FeedId>", optional))]
        pub feed: FeedId,
    }

    /// Lists files of the sender's instance, or brings withdrawn ones back.
    pub struct AddFiles {
        /// At most 512 entries and 192 KiB; all are taken or none is.
        pub files: Vec<NewFile>,
    }

    /// Takes files of the sender off the list, for good or for a while.
    pub struct RemoveFile {
        /// At most 512 ids.
        pub file_ids: Vec<FileId>,
        /// Withdraw only: the page lost its handles and hopes to have them picked again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<bool>", optional))]
        pub keep: bool,
    }

    /// Files were listed, or came back.
    pub struct FilesAdded {
        /// The owner.
        pub public_id: DeviceId,
        /// The entries, whole.
        #[serde(deserialize_with = "crate::file::entries")]
        pub files: Vec<FileEntry>,
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// Counts the changes of this epoch; this change, or the head, has this number.
        pub revision: u64,
        /// Names who may see the change.
        pub audience: Audience,
    }

    /// A file and the hash that its first whole pass showed.
    pub struct KnownRoot {
        /// The file, of the owner named beside the list.
        pub file_id: FileId,
        /// BLAKE3 hash of the whole file, as `b3sum` prints it.
        pub root: Root,
    }

    /// Roots that became known; nothing else of a file ever changes.
    pub struct FilesUpdated {
        /// The owner.
        pub public_id: DeviceId,
        /// The files whose roots became known.
        pub files: Vec<KnownRoot>,
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// Counts the changes of this epoch; this change, or the head, has this number.
        pub revision: u64,
        /// Names who may see the change.
        pub audience: Audience,
    }

    /// Files were removed for good; their transfers and links end.
    pub struct FileRemoved {
        /// The owner.
        pub public_id: DeviceId,
        /// The files that are gone.
        pub file_ids: Vec<FileId>,
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// Counts the changes of this epoch; this change, or the head, has this number.
        pub revision: u64,
        /// Names who may see the change.
        pub audience: Audience,
    }

    /// Off the list, not gone: their transfers and links wait. Without `file_ids` all entries of
    /// `instance`.
    pub struct FilesWithdrawn {
        /// The owner.
        pub public_id: DeviceId,
        /// The files that are off the list; absent: all of `instance`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub file_ids: Option<Vec<FileId>>,
        /// The process or tab whose files are off the list; absent when `file_ids` says which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub instance: Option<Instance>,
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// Counts the changes of this epoch; this change, or the head, has this number.
        pub revision: u64,
        /// Names who may see the change.
        pub audience: Audience,
    }

    /// Where the feed stands: HUB_READY.
    pub struct HubReady {
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// The head of the feed; whoever holds another revision pulls.
        pub revision: u64,
    }

    /// The whole list of devices that are online now.
    pub struct Presence {
        /// Approved devices with at least one session, in any order.
        pub online: Vec<DeviceId>,
    }

    /// A device came or went; towards the master also which instance of it, and whose knock ended.
    pub struct PresenceChange {
        /// The device that came or went.
        pub public_id: DeviceId,
        /// The session's process or tab; towards the master only.
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

    /// Asks for one run of a file: the relay answers with CHUNK_READY or CHUNK_FAILED.
    pub struct RequestChunk {
        /// Identifies the download, as its asker chose it.
        pub transfer_id: TransferId,
        /// The owner of the file.
        pub public_id: DeviceId,
        /// At most 256 spans and 8 MiB, unless one group is larger.
        pub pieces: Vec<GroupSpan>,
        /// Asks for the bytes of the groups or for their hashes.
        #[serde(default)]
        #[cfg_attr(feature = "typescript", ts(as = "Option<BodyKind>", optional))]
        pub what: BodyKind,
        /// Bytes of the file that the asker holds, for the owner's screen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub have: Option<u64>,
    }

    /// Ends requests that the sender no longer needs.
    pub struct CancelChunk {
        /// Identifies the download, as its asker chose it.
        pub transfer_id: TransferId,
        /// Absent: all of the transfer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub pieces: Option<Vec<GroupSpan>>,
    }

    /// Asks the owner for one body: a PUT to `/chunks/{ticket}`, to begin within 10 s.
    pub struct UploadChunkRequest {
        /// Opens one body of `/chunks/{ticket}`, once.
        pub ticket: Ticket,
        /// The owner of the files: the device that gets this.
        pub public_id: DeviceId,
        /// The groups of files in one body, in the order of their bytes.
        pub pieces: Vec<GroupSpan>,
        /// Says whether the body holds the groups or their hashes.
        pub what: BodyKind,
        /// Exact number of bytes of the body.
        pub length: u64,
    }

    /// A run can be fetched: a GET of `/chunks/{ticket}`, to begin within 60 s. Its bytes may still
    /// be arriving.
    pub struct ChunkReady {
        /// Identifies the download, as its asker chose it.
        pub transfer_id: TransferId,
        /// The groups of files in one body, in the order of their bytes.
        pub pieces: Vec<GroupSpan>,
        /// Opens one body of `/chunks/{ticket}`, once.
        pub ticket: Ticket,
        /// Exact number of bytes of the body.
        pub length: u64,
    }

    /// A run will not come by itself.
    pub struct ChunkFailed {
        /// Identifies the download, as its asker chose it.
        pub transfer_id: TransferId,
        /// The groups of files in one body, in the order of their bytes.
        pub pieces: Vec<GroupSpan>,
        /// Stable name of the reason, for programs.
        pub code: FailureCode,
        /// True when the same request may succeed later.
        pub retry: bool,
        /// Milliseconds to wait before another attempt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub retry_after_ms: Option<u64>,
    }

    /// Others read a file from here on: whoever can take it out of order goes on here and fetches
    /// the rest afterwards.
    pub struct JoinAt {
        /// Identifies the download, as its asker chose it.
        pub transfer_id: TransferId,
        /// The file that others read.
        pub file_id: FileId,
        /// The first group to ask for.
        pub group: u32,
    }

    /// Tells the relay that the owner cannot send the body of this ticket.
    pub struct ChunkUnavailable {
        /// Opens one body of `/chunks/{ticket}`, once.
        pub ticket: Ticket,
        /// Stable name of the reason, for programs.
        pub code: FailureCode,
        /// The file that caused the failure, in a bundle.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub file_id: Option<FileId>,
    }

    /// Nobody needs the body of this ticket any more.
    pub struct UploadCancelled {
        /// Opens one body of `/chunks/{ticket}`, once.
        pub ticket: Ticket,
        /// Stable name of the reason, for programs.
        pub code: FailureCode,
    }

    /// From the relay, which sees all bytes. `link_hash` only towards the link's maker.
    pub struct TransferProgress {
        /// The link that is read; only towards its maker.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub link_hash: Option<LinkHash>,
        /// The download; absent for a link.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub transfer_id: Option<TransferId>,
        /// The device that takes.
        pub asker: DeviceId,
        /// The owner; of an archive, that of the member on its way.
        pub public_id: DeviceId,
        /// The file on its way; of an archive, the present member.
        pub file_id: FileId,
        /// Bytes that the relay passed on so far.
        pub done: u64,
        /// Bytes of the whole.
        pub total: u64,
        /// Bytes a second, a moving average.
        pub rate: u64,
        /// Says whether bytes are moving, and if not, why.
        pub state: TransferState,
    }

    /// The owner's copy is no longer the listed version (relay to owner and master).
    pub struct FileChanged {
        /// The owner.
        pub public_id: DeviceId,
        /// The listed version.
        pub file_id: FileId,
    }
}

/// The devices that may see a change. There is one value today; a list message without it would
/// leave no room for another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum Audience {
    /// Every approved device.
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
    /// Bytes are moving.
    Running,
    /// The reader stands still (a paused download).
    Paused,
    /// The last byte left the relay.
    Done,
    /// It ended without all of its bytes, and nobody asked for that.
    Failed,
    /// The asker ended it.
    Cancelled,
}

/// Marker fields may be absent on the wire only as `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "Record<string, never>"))]
pub struct Empty {}
