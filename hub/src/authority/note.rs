//! What is worth keeping for whoever asks later who let whom in: one note for each decision and its occasion.

use lanyard_protocol::message::Admission;
use lanyard_protocol::{Client, DeviceId, InvitationId, RequestId};

/// Why a device came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// The person at the host said so.
    ByHost,
    ByInvitation,
    /// The door stood open.
    ByOpenDoor,
    /// It is the host's own.
    AsHost,
}

/// One line of the record. It holds no secret and no name of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// It asks to come in: it is about to show its digits, or needs none.
    Knocked {
        client: Client,
        address: String,
        request_id: RequestId,
    },
    /// It left while the person was asked about it.
    Left {
        public_id: DeviceId,
        request_id: RequestId,
    },
    /// Digits were typed that it does not show.
    WrongCode {
        public_id: DeviceId,
        request_id: RequestId,
        tries_left: u32,
    },
    Approved {
        client: Client,
        request_id: RequestId,
        how: Admitted,
        until_ms: Option<u64>,
    },
    /// Turned away: by the host, or because its time was over.
    Refused {
        client: Client,
        time_over: bool,
    },
    Forgotten {
        public_id: DeviceId,
    },
    Renamed {
        public_id: DeviceId,
        name: String,
    },
    Invited {
        id: InvitationId,
        expires_ms: u64,
    },
    /// A wrong proof, or one that came too late.
    BadInvitation {
        id: InvitationId,
        public_id: DeviceId,
    },
    /// The host wants to be asked about more devices than usual, for a while.
    MoreAllowed,
    Door {
        admission: Admission,
    },
    RelayReady,
    RelayLost,
}
