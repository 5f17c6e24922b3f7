//! Inputs and effects of the Peer.

use lanyard_protocol::identity::Transcript;
use lanyard_protocol::message::{
    Challenge, ClientRegister, InvitationProof, RequestFailed, TransferProgress,
};
use lanyard_protocol::{
    Channel, CloseCode, Commit, DeviceId, DeviceKind, DeviceToRelay, EphemeralKey, FailureCode,
    FileId, Frame, GroupRange, GroupSpan, Instance, NewFile, Nonce, PROTOCOL_VERSION, PublicKey,
    Ref, RelayToDevice, Resume, Root, Signature, Ticket, TransferId,
};

use super::group_set::GroupSet;
use lanyard_protocol::chunk::BodyKind;

/// Names one GET on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FetchId(pub u64);

/// A file to fetch, and what of it is here already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    /// The file, among its owner's.
    pub file_id: FileId,
    /// Exact number of bytes.
    pub size: u64,
    /// log2 of the bytes of a group.
    pub group_log: u8,
    /// As listed, if it is known.
    pub root: Option<Root>,
    /// Groups that an earlier run stored.
    pub have: GroupSet,
}

/// One download: files of one owner, fetched under one transfer id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferOrder {
    /// The download.
    pub transfer_id: TransferId,
    /// The device that shares the files.
    pub owner: DeviceId,
    /// In the order in which they should come.
    pub files: Vec<WantedFile>,
    /// For a reader that takes bytes in order: how far ahead of it groups are asked for.
    pub lookahead_bytes: Option<u64>,
}

/// How a GET ended. Groups that were stored before are good in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchOutcome {
    /// Every byte arrived and was right.
    Complete,
    /// The body ended early or the connection broke.
    Cut,
    /// A status instead of a body.
    Refused {
        /// The stable name of the reason.
        code: FailureCode,
        /// Milliseconds to wait before another attempt.
        retry_after_ms: Option<u64>,
    },
    /// This device cannot store the bytes: a full or broken disk.
    LocalFailure {
        /// A sentence for people.
        message: String,
    },
}

/// The result of closing a file whose groups are all here (answers [`Effect::CloseFile`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// It lies under its final name.
    Done,
    /// The groups do not merge to the listed root.
    Mismatch,
    /// This device's disk or system failed.
    LocalFailure {
        /// A sentence for people.
        message: String,
    },
}

/// Something that happened to this device, told by its driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Go.
    Start,
    /// The socket is open; CHALLENGE comes next.
    LinkOpened,
    /// The socket is gone, or did not open.
    LinkClosed {
        /// Close code of the WebSocket, if it was closed with one.
        code: Option<u16>,
    },
    /// A message; CHALLENGE and CLIENT_REGISTER_ACK only after the driver found key and signature
    /// to be right.
    Received {
        /// The message and its reference.
        frame: Frame<RelayToDevice>,
    },
    /// The hub's proof was wrong, or its key is not the one this device knows.
    HubRefused,
    /// A person gives this device another name.
    Rename {
        /// Text for people.
        name: String,
    },
    /// Sends a request of the driver's own; answered by `Answered`.
    Ask {
        /// Names the request, for its answer.
        ask: u64,
        /// The request to send.
        message: Box<DeviceToRelay>,
    },
    /// Files are to be listed.
    Share {
        /// The files.
        files: Vec<NewFile>,
    },
    /// Files are to be removed from the list.
    Unshare {
        /// The files, among their owner's.
        file_ids: Vec<FileId>,
    },
    /// A shared file changed (`new`: its present version under a new id) or vanished.
    Replaced {
        /// The version that is no longer there.
        old: FileId,
        /// The version in its place, if there is one.
        new: Option<NewFile>,
    },
    /// A PUT cannot be made or gone on with.
    UploadRefused {
        /// Opens one body over HTTP, once.
        ticket: Ticket,
        /// The stable name of the reason.
        code: FailureCode,
        /// The file at fault, in a body of several.
        file_id: Option<FileId>,
    },
    /// A download begins.
    StartTransfer {
        /// The files to fetch.
        order: TransferOrder,
    },
    /// Whole groups, hashed and written.
    Stored {
        /// The download.
        transfer_id: TransferId,
        /// The groups that are on the disk now.
        pieces: Vec<GroupSpan>,
    },
    /// The reader took all groups below this number.
    Consumed {
        /// The download.
        transfer_id: TransferId,
        /// The file, among its owner's.
        file_id: FileId,
        /// Number of the first group that the reader did not take yet.
        groups: u32,
    },
    /// Stored groups whose values are not those of the list: thrown away.
    Rejected {
        /// The download.
        transfer_id: TransferId,
        /// The file, among its owner's.
        file_id: FileId,
        /// The groups whose bytes are wrong.
        groups: Vec<GroupRange>,
    },
    /// A GET ended.
    FetchEnded {
        /// Names the GET.
        fetch: FetchId,
        /// How it ended.
        outcome: FetchOutcome,
    },
    /// The file that the driver was told to close is closed.
    FileClosed {
        /// The download.
        transfer_id: TransferId,
        /// The file, among its owner's.
        file_id: FileId,
        /// How it ended.
        outcome: CloseReason,
    },
    /// All transfers together shall take no more than this; the driver slows their bodies.
    LimitDown {
        /// The limit for all bodies together; `None` for no limit.
        bytes_a_second: Option<u64>,
    },
    /// A download is to pause.
    Pause {
        /// The download.
        transfer_id: TransferId,
    },
    /// A paused download is to go on.
    Resume {
        /// The download.
        transfer_id: TransferId,
    },
    /// Ends the transfer; what is stored stays stored.
    Cancel {
        /// The download.
        transfer_id: TransferId,
    },
    /// Takes back what is shared, then ends.
    Stop,
}

/// A task for the driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Open the socket; answered by `LinkOpened` or `LinkClosed`.
    OpenLink,
    /// Close the socket; its end is not reported back.
    CloseLink {
        /// Close code to send, if any.
        code: Option<CloseCode>,
    },
    /// Sign and send CLIENT_REGISTER.
    Register {
        /// The registration to sign and send.
        registration: Registration,
    },
    /// A reveal is about to be sent: that is on disk before it is ([`super::Reveals::give`]).
    Revealing,
    /// It was opened ([`super::Reveals::opened`]).
    Opened,
    /// Sends a message.
    Send {
        /// The message to send.
        message: DeviceToRelay,
        /// The `ref` by which the answer will be known.
        reference: Option<Ref>,
    },
    /// The standing with the hub changed.
    PhaseChanged {
        /// The new standing.
        phase: MembershipPhase,
    },
    /// The catalogue is another one than before.
    CatalogueChanged,
    /// The state of shared files changed.
    SharesChanged {
        /// The files, among their owner's.
        file_ids: Vec<FileId>,
        /// How it stands now.
        state: ShareState,
    },
    /// The hub knows the new name.
    Renamed {
        /// Text for people.
        name: String,
    },
    /// The answer to an `Ask`; a refusal too when there is no hub to ask.
    Answered {
        /// Names the request, for its answer.
        ask: u64,
        /// The answer of the hub.
        answer: Result<Box<RelayToDevice>, RequestFailed>,
    },
    /// The hub did not take the new name.
    RenameFailed {
        /// The stable name of the reason.
        code: FailureCode,
        /// A sentence for people.
        message: String,
    },
    /// Start a PUT of these groups.
    Upload {
        /// Opens one body over HTTP, once.
        ticket: Ticket,
        /// The groups of files in the body, in the order of their bytes.
        pieces: Vec<GroupSpan>,
        /// Exact number of bytes.
        length: u64,
    },
    /// Nobody waits for it any more, or it was refused.
    CancelUpload {
        /// Opens one body over HTTP, once.
        ticket: Ticket,
        /// The stable name of the reason.
        code: FailureCode,
    },
    /// The hub says that our copy is no longer the listed one: look, and answer with `Replaced`.
    FileDisputed {
        /// The file, among its owner's.
        file_id: FileId,
    },
    /// The session is over, and with it all bodies: end them without a word.
    EndBodies,
    /// Start a GET; answered by `Stored`… and `FetchEnded`.
    Fetch {
        /// Names the GET.
        fetch: FetchId,
        /// The download.
        transfer_id: TransferId,
        /// The device that shares the files.
        owner: DeviceId,
        /// The groups of files in the body, in the order of their bytes.
        pieces: Vec<GroupSpan>,
        /// Says whether the body holds groups or their hashes.
        what: BodyKind,
        /// Opens one body over HTTP, once.
        ticket: Ticket,
        /// Exact number of bytes.
        length: u64,
    },
    /// Ends a GET.
    CancelFetch {
        /// Names the GET.
        fetch: FetchId,
    },
    /// All groups are here: check against the root, give it its name; answered by `FileClosed`.
    CloseFile {
        /// The download.
        transfer_id: TransferId,
        /// The file, among its owner's.
        file_id: FileId,
        /// The listed root, if it is known.
        root: Option<Root>,
    },
    /// Forget that anything of this file is stored.
    DiscardFile {
        /// The download.
        transfer_id: TransferId,
        /// The file, among its owner's.
        file_id: FileId,
    },
    /// A file has its name on the disk.
    FileDone {
        /// The download.
        transfer_id: TransferId,
        /// The file, among its owner's.
        file_id: FileId,
    },
    /// A file will not come.
    FileFailed {
        /// The download.
        transfer_id: TransferId,
        /// The file, among its owner's.
        file_id: FileId,
        /// The stable name of the reason.
        code: FailureCode,
        /// A sentence for people, if the code alone says too little.
        message: Option<String>,
    },
    /// Running, or what it waits for.
    TransferChanged {
        /// The download.
        transfer_id: TransferId,
        /// The reason why the transfer waits; `None` while it runs.
        waits_for: Option<FailureCode>,
        /// True when a person paused it.
        paused: bool,
    },
    /// Nothing of it is left to do.
    TransferEnded {
        /// The download.
        transfer_id: TransferId,
        /// Files that are complete.
        done: usize,
        /// Files that failed.
        failed: usize,
    },
    /// The relay's word on a transfer, for showing.
    Progress {
        /// How far the transfer is.
        progress: TransferProgress,
    },
}

/// Where this device stands with the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipPhase {
    /// No link, or no answer yet. What is known stays shown.
    Connecting,
    /// The relay is here but does not know yet who belongs: the host is away.
    HostAway,
    /// Knocked; the digits to show, once there are some.
    Waiting {
        /// Six digits; `None` until both sides opened their commitments.
        code: Option<String>,
    },
    /// Knocked in vain: the host lets nobody in at the moment. It goes on when that changes.
    Closed,
    /// Let in; the list is on its way.
    Entering,
    /// Belongs, and the list is known. `host_away`: nothing new can be agreed until the host is
    /// back.
    Approved {
        /// True while the master is away.
        host_away: bool,
    },
    /// Over; nothing more is tried.
    Ended {
        /// Why nothing more is tried.
        reason: EndReason,
    },
}

/// Why a device does not come back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Turned away: final.
    Refused,
    /// A newer session of this instance took over.
    Superseded,
    /// The hub speaks another version.
    Version,
    /// The hub took our words for wrong ones.
    Rejected,
    /// Another hub than the one this device knows.
    UntrustedHub,
    /// Reveals were not opened, or too many were made: a person must ask for more.
    NotOpened,
    /// As told.
    Stopped,
}

/// How a shared file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareState {
    /// Sent to the hub, not answered yet.
    Syncing,
    /// Listed.
    Shared,
    /// The hub did not take it.
    Failed {
        /// The stable name of the reason.
        code: FailureCode,
    },
    /// No longer listed.
    Removed,
}

/// All of CLIENT_REGISTER but the ephemeral key and the signature, and what it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// The relay's first frame.
    pub challenge: Challenge,
    /// This device's, for this connect.
    pub nonce: Nonce,
    /// Binds the device to a nonce that it reveals later.
    pub commit: Commit,
    /// Proof of an invitation for this knock, if there is one.
    pub invitation: Option<InvitationProof>,
    /// Text for people.
    pub name: String,
    /// Says what runs on the device.
    pub kind: DeviceKind,
    /// Free text for people; may be empty.
    pub platform: String,
    /// Tells this process or tab from the others of the device.
    pub instance: Instance,
    /// Ed25519 key of the device.
    pub public_key: PublicKey,
    /// Where the device stands in the feed; `None` when it holds nothing.
    pub resume: Option<Resume>,
}

impl Registration {
    /// Returns the transcript that both sides sign.
    pub fn transcript(
        &self,
        authority: &str,
        channel: Channel,
        ephemeral: EphemeralKey,
    ) -> Transcript {
        Transcript {
            boot_id: self.challenge.boot_id,
            relay_nonce: self.challenge.nonce,
            device_nonce: self.nonce,
            hub_key: self.challenge.hub.public_key,
            device_key: self.public_key,
            authority: authority.into(),
            channel,
            relay_ephemeral: self.challenge.ephemeral_key,
            device_ephemeral: ephemeral,
        }
    }

    /// The message, with the key and the signature that the driver made.
    pub fn message(&self, ephemeral_key: EphemeralKey, signature: Signature) -> ClientRegister {
        ClientRegister {
            protocol: PROTOCOL_VERSION,
            name: self.name.clone(),
            kind: self.kind,
            platform: self.platform.clone(),
            instance: self.instance,
            public_key: self.public_key,
            nonce: self.nonce,
            ephemeral_key,
            signature,
            commit: self.commit,
            invitation: self.invitation.clone(),
            host_proof: None,
            resume: self.resume,
        }
    }
}
