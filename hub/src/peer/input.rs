//! What the Peer is told and what it wants done.

use lanyard_protocol::identity::Transcript;
use lanyard_protocol::message::{Challenge, ClientRegister, InvitationProof, RequestFailed, TransferProgress};
use lanyard_protocol::{
    Channel, CloseCode, Commit, DeviceId, DeviceKind, DeviceToRelay, EphemeralKey, FailureCode, FileId, Frame,
    GroupRange, Instance, NewFile, Nonce, PROTOCOL_VERSION, Piece, PublicKey, Ref, RelayToDevice, Resume, Root,
    Signature, Ticket, TransferId,
};

use super::groupset::GroupSet;
use lanyard_protocol::chunk::What;

/// Names one GET on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FetchId(pub u64);

/// A file to fetch, and what of it is here already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    pub file_id: FileId,
    pub size: u64,
    pub group_log: u8,
    /// As listed, if it is known.
    pub root: Option<Root>,
    /// Groups that an earlier run stored.
    pub have: GroupSet,
}

/// One download: files of one owner, fetched under one transfer id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferOrder {
    pub transfer_id: TransferId,
    pub owner: DeviceId,
    /// In the order in which they should come.
    pub files: Vec<WantedFile>,
    /// For a reader that takes bytes in order: how far ahead of it groups are asked for.
    pub lookahead_bytes: Option<u64>,
}

/// How a GET ended. Groups that were stored before are good in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchOutcome {
    Complete,
    /// The body ended early or the connection broke.
    Cut,
    /// A status instead of a body.
    Refused {
        code: FailureCode,
        retry_after_ms: Option<u64>,
    },
    /// This device cannot store the bytes: a full or broken disk.
    LocalFailure {
        message: String,
    },
}

/// What became of a file whose groups are all here (answer to [`Effect::CloseFile`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// It lies under its final name.
    Done,
    /// The groups do not merge to the listed root.
    Mismatch,
    LocalFailure {
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Go.
    Start,
    /// The socket is open; CHALLENGE comes next.
    LinkOpened,
    /// The socket is gone, or did not open.
    LinkClosed {
        code: Option<u16>,
    },
    /// A message; CHALLENGE and CLIENT_REGISTER_ACK only after the edge found key and signature to be right.
    Received {
        frame: Frame<RelayToDevice>,
    },
    /// The hub's proof was wrong, or its key is not the one this device knows.
    HubRefused,
    Rename {
        name: String,
    },
    /// Sends a request of the driver's own; answered by `Answered`.
    Ask {
        ask: u64,
        message: Box<DeviceToRelay>,
    },
    Share {
        files: Vec<NewFile>,
    },
    Unshare {
        file_ids: Vec<FileId>,
    },
    /// A shared file changed (`new`: its present version under a new id) or vanished.
    Replaced {
        old: FileId,
        new: Option<NewFile>,
    },
    /// A PUT cannot be made or gone on with.
    UploadRefused {
        ticket: Ticket,
        code: FailureCode,
        file_id: Option<FileId>,
    },
    StartTransfer {
        order: TransferOrder,
    },
    /// Whole groups, hashed and written.
    Stored {
        transfer_id: TransferId,
        pieces: Vec<Piece>,
    },
    /// The reader took all groups below this number.
    Consumed {
        transfer_id: TransferId,
        file_id: FileId,
        groups: u32,
    },
    /// Stored groups whose values are not those of the list: thrown away.
    Rejected {
        transfer_id: TransferId,
        file_id: FileId,
        groups: Vec<GroupRange>,
    },
    FetchEnded {
        fetch: FetchId,
        outcome: FetchOutcome,
    },
    FileClosed {
        transfer_id: TransferId,
        file_id: FileId,
        outcome: Closed,
    },
    /// All transfers together shall take no more than this; the driver slows their bodies.
    LimitDown {
        bytes_a_second: Option<u64>,
    },
    Pause {
        transfer_id: TransferId,
    },
    Resume {
        transfer_id: TransferId,
    },
    /// Ends the transfer; what is stored stays stored.
    Cancel {
        transfer_id: TransferId,
    },
    /// Takes back what is shared, then ends.
    Stop,
}

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Open the socket; answered by `LinkOpened` or `LinkClosed`.
    OpenLink,
    /// Close the socket; its end is not reported back.
    CloseLink {
        code: Option<CloseCode>,
    },
    /// Sign and send CLIENT_REGISTER.
    Register {
        registration: Registration,
    },
    /// A reveal is about to be sent: that is on disk before it is ([`super::Reveals::give`]).
    Revealing,
    /// It was opened ([`super::Reveals::opened`]).
    Opened,
    Send {
        message: DeviceToRelay,
        reference: Option<Ref>,
    },
    PhaseChanged {
        phase: Phase,
    },
    /// The catalogue is another one than before.
    CatalogueChanged,
    SharesChanged {
        file_ids: Vec<FileId>,
        state: ShareState,
    },
    Renamed {
        name: String,
    },
    /// The answer to an `Ask`; a refusal too when there is no hub to ask.
    Answered {
        ask: u64,
        answer: Result<Box<RelayToDevice>, RequestFailed>,
    },
    RenameFailed {
        code: FailureCode,
        message: String,
    },
    /// Start a PUT of these groups.
    Upload {
        ticket: Ticket,
        pieces: Vec<Piece>,
        length: u64,
    },
    /// Nobody waits for it any more, or it was refused.
    CancelUpload {
        ticket: Ticket,
        code: FailureCode,
    },
    /// The hub says that our copy is no longer the listed one: look, and answer with `Replaced`.
    FileDisputed {
        file_id: FileId,
    },
    /// The session is over, and with it all bodies: end them without a word.
    EndBodies,
    /// Start a GET; answered by `Stored`… and `FetchEnded`.
    Fetch {
        fetch: FetchId,
        transfer_id: TransferId,
        owner: DeviceId,
        pieces: Vec<Piece>,
        what: What,
        ticket: Ticket,
        length: u64,
    },
    CancelFetch {
        fetch: FetchId,
    },
    /// All groups are here: check against the root, give it its name; answered by `FileClosed`.
    CloseFile {
        transfer_id: TransferId,
        file_id: FileId,
        root: Option<Root>,
    },
    /// Forget that anything of this file is stored.
    DiscardFile {
        transfer_id: TransferId,
        file_id: FileId,
    },
    FileDone {
        transfer_id: TransferId,
        file_id: FileId,
    },
    FileFailed {
        transfer_id: TransferId,
        file_id: FileId,
        code: FailureCode,
        message: Option<String>,
    },
    /// Running, or what it waits for.
    TransferChanged {
        transfer_id: TransferId,
        waits_for: Option<FailureCode>,
        paused: bool,
    },
    /// Nothing of it is left to do.
    TransferEnded {
        transfer_id: TransferId,
        done: usize,
        failed: usize,
    },
    /// The relay's word on a transfer, for showing.
    Progress {
        progress: TransferProgress,
    },
}

/// Where this device stands with the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// No link, or no answer yet. What is known stays shown.
    Connecting,
    /// The relay is here but does not know yet who belongs: the host is away.
    HostAway,
    /// Knocked; the digits to show, once there are some.
    Waiting { code: Option<String> },
    /// Knocked in vain: the host lets nobody in at the moment. It goes on when that changes.
    Closed,
    /// Let in; the list is on its way.
    Entering,
    /// Belongs, and the list is known. `host_away`: nothing new can be agreed until the host is back.
    Approved { host_away: bool },
    /// Over; nothing more is tried.
    Ended { reason: EndReason },
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
    Syncing,
    Shared,
    Failed { code: FailureCode },
    Removed,
}

/// All of CLIENT_REGISTER but the ephemeral key and the signature, and what it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    pub challenge: Challenge,
    pub nonce: Nonce,
    pub commit: Commit,
    pub invitation: Option<InvitationProof>,
    pub name: String,
    pub kind: DeviceKind,
    pub platform: String,
    pub instance: Instance,
    pub public_key: PublicKey,
    pub resume: Option<Resume>,
}

impl Registration {
    /// What both sides sign.
    pub fn transcript(&self, authority: &str, channel: Channel, ephemeral: EphemeralKey) -> Transcript {
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

    /// The message, with the key and the signature that the edge made.
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
