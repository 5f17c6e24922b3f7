//! What the broker is told.

use std::collections::BTreeMap;

use lanyard_protocol::{
    CloseCode, Commit, DeviceId, DeviceKind, DeviceToRelay, FailureCode, FileRef, GroupRange,
    Instance, Link, LinkHash, MasterFrame, MasterToRelay, Nonce, PublicKey, Ref, Resume, Root,
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

/// One response to a `/d/` request; named by the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkReader(pub u64);

/// One HTTP request that waits for the broker's answer; named by the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// The identity of a session, as the relay verified it by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The device.
    pub public_id: DeviceId,
    /// Ed25519 key of the device.
    pub public_key: PublicKey,
    /// Text for people.
    pub name: String,
    /// Says what runs on the device.
    pub kind: DeviceKind,
    /// Free text for people; may be empty.
    pub platform: String,
    /// Tells this process or tab from the others of the device.
    pub instance: Instance,
    /// Binds the device to a nonce that it reveals later.
    pub commit: Commit,
    /// Passed on to the master with the knock.
    pub invitation: Option<InvitationProof>,
    /// The nonce of the challenge that it answered.
    pub relay_nonce: Nonce,
    /// Where it comes from, without port.
    pub address: String,
    /// Where the device stands in the feed; `None` when it holds nothing.
    pub resume: Option<Resume>,
}

/// A piece of a link's want: groups of one file, wherever its owner.
pub type WantedSpan = (FileRef, GroupRange);

/// How often the relay refused, counted outside of the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejections {
    /// HTTP requests, by code.
    pub refused: BTreeMap<FailureCode, u64>,
    /// Sockets, by the reason of their close.
    pub closed: BTreeMap<CloseCode, u64>,
}

/// Something that happened to the relay, told by its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "inputs are handled one by one, and none is kept")]
pub enum Input {
    /// From the socket of a device.
    Session(SessionInput),
    /// From the socket of the master, or for its report.
    Master(MasterInput),
    /// From the upload into a slot, and what was learnt from its bytes.
    Slot(SlotInput),
    /// From the readers of slots.
    Reader(ReaderInput),
    /// From the response that reads a link.
    Link(LinkInput),
    /// From an HTTP request that asks about a link.
    Call(CallInput),
}

/// Something that happened on the socket of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "inputs are handled one by one, and none is kept")]
pub enum SessionInput {
    /// The relay verified a device's key proof.
    Opened {
        /// The session, as the driver named it.
        session: SessionId,
        /// Identity that the device proved at the handshake.
        identity: Box<Identity>,
    },
    /// A device sent a message.
    MessageReceived {
        /// The session, as the driver named it.
        session: SessionId,
        /// The message as it was decoded.
        message: DeviceToRelay,
        /// The `ref` beside the message.
        reference: Option<Ref>,
    },
    /// A device's socket ended.
    Closed {
        /// The session, as the driver named it.
        session: SessionId,
    },
}

/// Something that happened on the socket of the master, or belongs in its report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterInput {
    /// The relay verified a master's mac and that its term is the highest of this boot.
    Opened {
        /// The session, as the driver named it.
        session: SessionId,
    },
    /// The master sent a message.
    MessageReceived {
        /// The session, as the driver named it.
        session: SessionId,
        /// The message with its addresses.
        frame: Box<MasterFrame<MasterToRelay>>,
    },
    /// The master's socket ended.
    Closed {
        /// The session, as the driver named it.
        session: SessionId,
    },
    /// What the relay refused and closed since it started, told about once a second: time to report
    /// to the master.
    RejectionsCounted(Rejections),
}

/// How the upload into a slot goes, and what the relay learnt from bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotInput {
    /// The head of the slot's PUT was accepted.
    PutStarted {
        /// The slot, as the broker named it.
        slot: SlotId,
    },
    /// All bytes are there and verified.
    PutFinished {
        /// The slot, as the broker named it.
        slot: SlotId,
    },
    /// The body ended before it was whole and right.
    PutFailed {
        /// The slot, as the broker named it.
        slot: SlotId,
        /// The stable name of the reason.
        code: FailureCode,
        /// The file whose bytes are wrong, in a body of several.
        culprit: Option<FileRef>,
    },
    /// All groups of a file are pinned: this is what they merge to.
    RootKnown {
        /// The file and its owner.
        file: FileRef,
        /// BLAKE3 hash of the whole file.
        root: Root,
    },
    /// The relay has the whole list of the file's group hashes.
    HashesKnown {
        /// The file and its owner.
        file: FileRef,
    },
    /// The relay had to drop its list of the file's group hashes.
    HashesLost {
        /// The file and its owner.
        file: FileRef,
    },
}

/// How readers of slots get on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReaderInput {
    /// A reader redeemed its ticket.
    Started {
        /// The slot, as the broker named it.
        slot: SlotId,
        /// The reader of the slot.
        reader: ReaderId,
    },
    /// Its last byte is with the transport, or its body broke.
    Left {
        /// The slot, as the broker named it.
        slot: SlotId,
        /// The reader of the slot.
        reader: ReaderId,
        /// Bytes that left the relay.
        delivered: u64,
    },
    /// How many bytes running bodies have delivered so far, looked at about twice a second, all at
    /// once.
    Moved {
        /// Bytes that each reader has been sent so far.
        moved: Vec<(SlotId, ReaderId, u64)>,
    },
    /// A reader took nothing for two seconds, or moves again.
    Still {
        /// The slot, as the broker named it.
        slot: SlotId,
        /// The reader of the slot.
        reader: ReaderId,
        /// True when the reader takes nothing.
        still: bool,
    },
}

/// Wants, withdrawals and progress of a link's response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkInput {
    /// Bytes that `LinkBegun` counted and that did not go out.
    Unread {
        /// Names the link; its key is known to nobody here.
        hash: LinkHash,
        /// Bytes that did not go out.
        bytes: u64,
    },
    /// A link's response wants groups of one owner's files, as one run.
    Wanted {
        /// The response that reads the link.
        reader: LinkReader,
        /// Names the link; its key is known to nobody here.
        hash: LinkHash,
        /// Number of the want among those of its reader.
        want: u64,
        /// Groups of one owner's files, in the order of their bytes.
        pieces: Vec<WantedSpan>,
    },
    /// A link's response gave up its wants up to this number (all: `u64::MAX`, when it is over).
    Left {
        /// The response that reads the link.
        reader: LinkReader,
        /// Number of the last want that is given up.
        up_to: u64,
    },
    /// Bytes went out through a link.
    Moved {
        /// Names the link; its key is known to nobody here.
        hash: LinkHash,
        /// How far the transfer is.
        progress: LinkProgress,
    },
}

/// A question about a link that is answered with an effect, or the end of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallInput {
    /// A request for a link arrived.
    LinkOpened {
        /// Names the question that waits for an answer.
        call: CallId,
        /// The link's key, as it stood in the address.
        link: Link,
    },
    /// A link whose uses are counted is about to be read.
    UseBegun {
        /// Names the question that waits for an answer.
        call: CallId,
        /// The link's key, as it stood in the address.
        link: Link,
        /// From its first byte to its last.
        whole: bool,
        /// Bytes that the request asks for.
        bytes: u64,
    },
    /// A link's response wants the next members of its archive.
    PageWanted {
        /// Names the question that waits for an answer.
        call: CallId,
        /// The response that reads the link.
        reader: LinkReader,
        /// The members that are asked for.
        page: LinkPage,
    },
    /// The HTTP request behind `call` is gone.
    Left {
        /// Names the question that waits for an answer.
        call: CallId,
    },
}

/// Where a link's response stands, measured by the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkProgress {
    /// The file and its owner.
    pub file: FileRef,
    /// Bytes sent so far.
    pub done: u64,
    /// Bytes of the whole.
    pub total: u64,
    /// Bytes a second, a moving average.
    pub rate: u64,
    /// How it stands now.
    pub state: TransferState,
}
