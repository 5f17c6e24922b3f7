//! What the broker is told.

use std::collections::BTreeMap;

use lanyard_protocol::{
    CloseCode, Commit, DeviceId, DeviceKind, DeviceToRelay, FailureCode, FileRef, GroupRange, Instance, LinkHash,
    MasterFrame, MasterToRelay, Nonce, PublicKey, Ref, Resume, Root,
    message::{InvitationProof, LinkPage, TransferState},
};

/// The generation of one WebSocket; never used twice in one life of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// One upload of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u64);

/// One reader's slice of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReaderId(pub u64);

/// One response to a `/d/` request; named by the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkReader(pub u64);

/// One HTTP request that waits for the broker's answer; named by the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// What the edge has verified of a session: who it is, by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub public_id: DeviceId,
    pub public_key: PublicKey,
    pub name: String,
    pub kind: DeviceKind,
    pub platform: String,
    pub instance: Instance,
    pub commit: Commit,
    /// Passed on to the master with the knock.
    pub invitation: Option<InvitationProof>,
    /// The nonce of the challenge that it answered.
    pub relay_nonce: Nonce,
    /// Where it comes from, without port.
    pub address: String,
    pub resume: Option<Resume>,
}

/// A piece of a link's want: groups of one file, wherever its owner.
pub type WantedPiece = (FileRef, GroupRange);

/// How often the relay refused, counted outside of the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejections {
    /// HTTP requests, by code.
    pub refused: BTreeMap<FailureCode, u64>,
    /// Sockets, by the reason of their close.
    pub closed: BTreeMap<CloseCode, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "inputs are handled one by one, and none is kept")]
pub enum Input {
    /// The edge verified a device's key proof.
    SessionOpened {
        session: SessionId,
        identity: Box<Identity>,
    },
    MessageReceived {
        session: SessionId,
        message: DeviceToRelay,
        reference: Option<Ref>,
    },
    SessionClosed {
        session: SessionId,
    },

    /// The edge verified a master's mac and that its term is the highest of this boot.
    MasterOpened {
        session: SessionId,
    },
    MasterMessage {
        session: SessionId,
        frame: Box<MasterFrame<MasterToRelay>>,
    },
    MasterClosed {
        session: SessionId,
    },
    /// What the relay refused and closed since it started, told about once a second: time to report to the master.
    RejectionsCounted(Rejections),

    /// The head of the slot's PUT was accepted.
    PutStarted {
        slot: SlotId,
    },
    /// All bytes are there and verified.
    PutFinished {
        slot: SlotId,
    },
    PutFailed {
        slot: SlotId,
        code: FailureCode,
        culprit: Option<FileRef>,
    },
    /// A reader redeemed its ticket.
    ReaderStarted {
        slot: SlotId,
        reader: ReaderId,
    },
    /// Its last byte is with the transport, or its body broke.
    ReaderLeft {
        slot: SlotId,
        reader: ReaderId,
        delivered: u64,
    },
    /// How many bytes running bodies have delivered so far, looked at about twice a second, all at once.
    ReadersMoved {
        moved: Vec<(SlotId, ReaderId, u64)>,
    },
    /// A reader took nothing for two seconds, or moves again.
    ReaderStill {
        slot: SlotId,
        reader: ReaderId,
        still: bool,
    },
    /// All groups of a file are pinned: this is what they merge to.
    RootKnown {
        file: FileRef,
        root: Root,
    },
    /// The relay has the whole list of the file's group values.
    ValuesKnown {
        file: FileRef,
    },
    /// The relay had to drop its list of the file's group values.
    ValuesLost {
        file: FileRef,
    },

    LinkOpened {
        call: CallId,
        hash: LinkHash,
    },
    /// A link whose uses are counted is about to be read.
    LinkBegun {
        call: CallId,
        hash: LinkHash,
        /// From its first byte to its last.
        whole: bool,
        bytes: u64,
    },
    /// Bytes that `LinkBegun` counted and that did not go out.
    LinkUnread {
        hash: LinkHash,
        bytes: u64,
    },
    /// A link's response wants the next members of its archive.
    LinkPageWanted {
        call: CallId,
        reader: LinkReader,
        page: LinkPage,
    },
    /// The HTTP request behind `call` is gone.
    CallLeft {
        call: CallId,
    },
    /// A link's response wants groups of one owner's files, as one run.
    LinkWanted {
        reader: LinkReader,
        hash: LinkHash,
        want: u64,
        pieces: Vec<WantedPiece>,
    },
    /// A link's response gave up its wants up to this number (all: `u64::MAX`, when it is over).
    LinkLeft {
        reader: LinkReader,
        up_to: u64,
    },
    LinkMoved {
        hash: LinkHash,
        progress: LinkProgress,
    },
}

/// Where a link's response stands, measured by the edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkProgress {
    pub file: FileRef,
    pub done: u64,
    pub total: u64,
    pub rate: u64,
    pub state: TransferState,
}
