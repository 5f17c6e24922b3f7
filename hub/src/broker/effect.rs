//! What the broker wants done, in order.

use std::ops::Range;
use std::sync::Arc;

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::message::{LinkArchive, LinkGrant, LinkMember};
use lanyard_protocol::{
    CloseCode, DeviceId, FailureCode, FileEntry, FileRef, GroupRange, LinkHash, MasterFrame,
    Membership, Ref, RelayToDevice, RelayToMaster, Root, Ticket,
};

use super::input::{CallId, LinkReader, ReaderId, SessionId, SlotId};
use super::transfer::SpeedGroup;

/// An instruction to the relay's driver, carried out in order. Each family is matched by a function
/// of its own, so that a new effect cannot be overlooked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// For the sessions of devices.
    Session(SessionEffect),
    /// For the master's session.
    Master(MasterEffect),
    /// For slots, their tickets and their readers.
    Slot(SlotEffect),
    /// For the response that reads a link.
    Link(LinkEffect),
    /// For the HTTP request that asked about a link.
    Call(CallEffect),
}

/// An instruction about sessions of devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEffect {
    /// The first answer to a session; the relay adds signature and, unless it is turned away, a
    /// session token.
    Acknowledge {
        /// The session, as the driver named it.
        session: SessionId,
        /// Says where the device stands.
        membership: Membership,
        /// True while the master is registered.
        hub_ready: bool,
    },
    /// Sends a message.
    Send {
        /// The session, as the driver named it.
        session: SessionId,
        /// The message to send.
        message: RelayToDevice,
        /// The `ref` of the request that this answers, if it answers one.
        reference: Option<Ref>,
    },
    /// The same to many; `answered` hears it with its reference.
    Broadcast {
        /// The sessions that get it.
        sessions: Vec<SessionId>,
        /// The message to send.
        message: RelayToDevice,
        /// The session whose request this answers, and the `ref` for it.
        answered: Option<(SessionId, Ref)>,
    },
    /// Closes a device's socket.
    Close {
        /// The session, as the driver named it.
        session: SessionId,
        /// Close code to send.
        code: CloseCode,
    },
}

/// An instruction about the master's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterEffect {
    /// Sends a message to the master.
    Send {
        /// The session, as the driver named it.
        session: SessionId,
        /// The message with its addresses.
        frame: Box<MasterFrame<RelayToMaster>>,
    },
    /// Closes the master's socket.
    Close {
        /// The session, as the driver named it.
        session: SessionId,
        /// Close code to send.
        code: CloseCode,
    },
}

/// An instruction about slots, their tickets, and the memory of group hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotEffect {
    /// Make room for one run and accept its PUT; comes before the holder is asked.
    Open(Box<NewSlot>),
    /// A slot that is full at once: the file's group hashes, from the relay's memory.
    OpenHashes {
        /// The slot, as the broker named it.
        slot: SlotId,
        /// The file and its owner.
        file: FileRef,
        /// Bytes of the list.
        length: u64,
    },
    /// A ticket for a GET of these byte ranges of the slot, one after the other.
    GrantRead {
        /// Opens one body over HTTP, once.
        ticket: Ticket,
        /// The session, as the driver named it.
        session: SessionId,
        /// The slot, as the broker named it.
        slot: SlotId,
        /// The reader of the slot.
        reader: ReaderId,
        /// Ranges of the slot's bytes, in the order in which they are sent.
        ranges: Vec<Range<u64>>,
    },
    /// Makes a ticket worthless.
    RevokeTicket {
        /// Opens one body over HTTP, once.
        ticket: Ticket,
    },
    /// The slot is over: its PUT ends, its readers see `code`.
    Fail {
        /// The slot, as the broker named it.
        slot: SlotId,
        /// The stable name of the reason.
        code: FailureCode,
    },
    /// Nobody reads it: its bytes go.
    Drop {
        /// The slot, as the broker named it.
        slot: SlotId,
    },
    /// Ends a reader's body in the middle.
    CutReader {
        /// The slot, as the broker named it.
        slot: SlotId,
        /// The reader of the slot.
        reader: ReaderId,
        /// The stable name of the reason.
        code: FailureCode,
    },
    /// Forget the group hashes of a file that changed or is gone.
    ForgetHashes {
        /// The file and its owner.
        file: FileRef,
    },
}

/// Something that happened to one want of a link's response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEffect {
    /// Groups that the want may read, and where each piece lies in the slot.
    Ready {
        /// The response that reads the link.
        reader: LinkReader,
        /// Number of the want among those of its reader.
        want: u64,
        /// The slot, as the broker named it.
        slot: SlotId,
        /// The reader of the slot that serves the link.
        slice: ReaderId,
        /// Where the bytes are in the slot.
        parts: Vec<LinkPart>,
    },
    /// Final: the body is cut.
    Failed {
        /// The response that reads the link.
        reader: LinkReader,
        /// Number of the want among those of its reader.
        want: u64,
        /// The stable name of the reason.
        code: FailureCode,
        /// The file whose groups did not come.
        file: FileRef,
    },
    /// It waits and will go on by itself.
    Waits {
        /// The response that reads the link.
        reader: LinkReader,
        /// Number of the want among those of its reader.
        want: u64,
        /// The reason for which it waits.
        code: FailureCode,
    },
}

/// The answer to one question about a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEffect {
    /// Answers the question what a link opens.
    Found {
        /// Names the question that waits for an answer.
        call: CallId,
        /// The answer, or why there is none.
        result: Result<Arc<LinkInfo>, FailureCode>,
    },
    /// Answers the question whether a use may begin.
    Begun {
        /// Names the question that waits for an answer.
        call: CallId,
        /// The answer, or why there is none.
        result: Result<(), FailureCode>,
    },
    /// Answers the question for members of an archive.
    Members {
        /// Names the question that waits for an answer.
        call: CallId,
        /// The answer, or why there is none.
        result: Result<Vec<LinkMember>, FailureCode>,
    },
}

/// Groups of a file and the bytes of a slot that hold them.
pub type LinkPart = (FileRef, GroupRange, Range<u64>);

/// One upload of one run, as the data plane needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSlot {
    /// Names the slot from now on.
    pub slot: SlotId,
    /// The session that is asked for the body.
    pub holder: SessionId,
    /// Opens one body over HTTP, once.
    pub ticket: Ticket,
    /// Says whether the body holds groups or their hashes.
    pub what: BodyKind,
    /// The groups of files in the body, in the order of their bytes.
    pub pieces: Vec<SlotSpan>,
    /// Bytes of the whole body.
    pub length: u64,
    /// The group of speed that shares it.
    pub group: SpeedGroup,
}

/// Groups of one file within a slot's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSpan {
    /// The file and its owner.
    pub file: FileRef,
    /// Bytes of the file.
    pub size: u64,
    /// log2 of the bytes of a group.
    pub group_log: u8,
    /// Which groups of the file.
    pub groups: GroupRange,
    /// Where they start in the body.
    pub offset: u64,
    /// Root to which the file's groups must merge, if it is known.
    pub root: Option<Root>,
}

/// The contents of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkContent {
    /// One file.
    File(FileEntry),
    /// An archive, written as it is read.
    Archive(LinkArchive),
    /// Nothing: all that it was made of is gone.
    Nothing,
}

/// Contents of a link, as the master granted them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Names the link; its key is known to nobody here.
    pub hash: LinkHash,
    /// The device that made the link.
    pub maker: DeviceId,
    /// Its uses are counted.
    pub limited: bool,
    /// Files or the archive that the link opens.
    pub what: LinkContent,
}

impl LinkInfo {
    pub(super) fn of(grant: LinkGrant) -> Self {
        let what = match (grant.file, grant.archive) {
            (Some(file), _) => LinkContent::File(file),
            (None, Some(archive)) => LinkContent::Archive(archive),
            (None, None) => LinkContent::Nothing,
        };
        Self { hash: grant.link_hash, maker: grant.public_id, limited: grant.limited, what }
    }

    /// Bytes of its texts.
    pub(super) fn text_bytes(&self) -> usize {
        match &self.what {
            LinkContent::File(entry) => entry.path.len() + entry.media_type.len(),
            LinkContent::Archive(archive) => archive.name.len(),
            LinkContent::Nothing => 0,
        }
    }
}
