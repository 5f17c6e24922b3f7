//! What the broker wants done, in order.

use std::ops::Range;
use std::sync::Arc;

use lanyard_protocol::chunk::What;
use lanyard_protocol::message::{LinkArchive, LinkGrant, LinkMember};
use lanyard_protocol::{
    CloseCode, DeviceId, FailureCode, FileEntry, FileRef, GroupRange, LinkHash, MasterFrame, Membership, Ref,
    RelayToDevice, RelayToMaster, Root, Ticket,
};

use super::input::{CallId, LinkReader, ReaderId, SessionId, SlotId};
use super::speed::SpeedGroup;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The first answer to a session; the edge adds signature and, unless it is turned away, a session token.
    Acknowledge {
        session: SessionId,
        membership: Membership,
        hub_ready: bool,
    },
    Send {
        session: SessionId,
        message: RelayToDevice,
        reference: Option<Ref>,
    },
    /// The same to many; `answered` hears it with its reference.
    Broadcast {
        sessions: Vec<SessionId>,
        message: RelayToDevice,
        answered: Option<(SessionId, Ref)>,
    },
    Close {
        session: SessionId,
        code: CloseCode,
    },
    SendMaster {
        session: SessionId,
        frame: Box<MasterFrame<RelayToMaster>>,
    },
    CloseMaster {
        session: SessionId,
        code: CloseCode,
    },

    /// Make room for one run and accept its PUT; comes before the holder is asked.
    OpenSlot(Box<NewSlot>),
    /// A slot that is full at once: the file's group values, from the relay's memory.
    OpenValues {
        slot: SlotId,
        file: FileRef,
        length: u64,
    },
    /// A ticket for a GET of these byte ranges of the slot, one after the other.
    GrantRead {
        ticket: Ticket,
        session: SessionId,
        slot: SlotId,
        reader: ReaderId,
        ranges: Vec<Range<u64>>,
    },
    RevokeTicket {
        ticket: Ticket,
    },
    /// The slot is over: its PUT ends, its readers see `code`.
    FailSlot {
        slot: SlotId,
        code: FailureCode,
    },
    /// Nobody reads it: its bytes go.
    DropSlot {
        slot: SlotId,
    },
    CutReader {
        slot: SlotId,
        reader: ReaderId,
        code: FailureCode,
    },
    /// Forget the group values of a file that changed or is gone.
    ForgetValues {
        file: FileRef,
    },

    /// Groups that the want may read, and where each piece lies in the slot.
    LinkReady {
        reader: LinkReader,
        want: u64,
        slot: SlotId,
        slice: ReaderId,
        parts: Vec<LinkPart>,
    },
    /// Final: the body is cut.
    LinkFailed {
        reader: LinkReader,
        want: u64,
        code: FailureCode,
        file: FileRef,
    },
    /// It waits and will go on by itself.
    LinkWaits {
        reader: LinkReader,
        want: u64,
        code: FailureCode,
    },
    LinkFound {
        call: CallId,
        result: Result<Arc<LinkInfo>, FailureCode>,
    },
    LinkBegun {
        call: CallId,
        result: Result<(), FailureCode>,
    },
    LinkMembers {
        call: CallId,
        result: Result<Vec<LinkMember>, FailureCode>,
    },
}

/// Groups of a file and the bytes of a slot that hold them.
pub type LinkPart = (FileRef, GroupRange, Range<u64>);

/// One upload of one run, as the data plane needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSlot {
    pub slot: SlotId,
    pub holder: SessionId,
    pub ticket: Ticket,
    pub what: What,
    pub pieces: Vec<SlotPiece>,
    /// Bytes of the whole body.
    pub length: u64,
    /// The group of speed that shares it.
    pub group: SpeedGroup,
}

/// Groups of one file within a slot's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotPiece {
    pub file: FileRef,
    pub size: u64,
    pub group_log: u8,
    pub groups: GroupRange,
    /// Where they start in the body.
    pub offset: u64,
    /// What the file's groups must merge to, if that is known.
    pub root: Option<Root>,
}

/// The contents of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkedTo {
    File(FileEntry),
    Archive(LinkArchive),
    /// Nothing: all that it was made of is gone.
    Nothing,
}

/// What is behind a link, as the master granted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    pub hash: LinkHash,
    pub maker: DeviceId,
    /// Its uses are counted.
    pub limited: bool,
    pub what: LinkedTo,
}

impl LinkInfo {
    pub(super) fn of(grant: LinkGrant) -> Self {
        let what = match (grant.file, grant.archive) {
            (Some(file), _) => LinkedTo::File(file),
            (None, Some(archive)) => LinkedTo::Archive(archive),
            (None, None) => LinkedTo::Nothing,
        };
        Self { hash: grant.link_hash, maker: grant.public_id, limited: grant.limited, what }
    }

    /// Bytes of its texts.
    pub(super) fn text_bytes(&self) -> usize {
        match &self.what {
            LinkedTo::File(entry) => entry.path.len() + entry.media_type.len(),
            LinkedTo::Archive(archive) => archive.name.len(),
            LinkedTo::Nothing => 0,
        }
    }
}
