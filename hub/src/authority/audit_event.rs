//! What is worth keeping for whoever asks later who let whom in: one note for each decision and its
//! occasion.

use lanyard_protocol::message::Admission;
use lanyard_protocol::{Client, DeviceId, InvitationId, RequestId};

/// Why a device came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmittedBy {
    /// The person at the host said so.
    ByHost,
    /// An invitation admitted the device.
    ByInvitation,
    /// The door stood open.
    ByOpenDoor,
    /// It is the host's own.
    AsHost,
}

/// One line of the record. It holds no secret and no name of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditEvent {
    /// It asks to come in: it is about to show its digits, or needs none.
    Knocked {
        /// The device as others see it.
        client: Client,
        /// Network address of the device's connection, as the relay sees it.
        address: String,
        /// The knock.
        request_id: RequestId,
    },
    /// It left while the person was asked about it.
    Left {
        /// The device.
        public_id: DeviceId,
        /// The knock.
        request_id: RequestId,
    },
    /// Digits were typed that it does not show.
    WrongCode {
        /// The device.
        public_id: DeviceId,
        /// The knock.
        request_id: RequestId,
        /// Wrong codes that the knock still survives.
        tries_left: u32,
    },
    /// A device was let in.
    Approved {
        /// The device as others see it.
        client: Client,
        /// The knock.
        request_id: RequestId,
        /// The reason for which the device was admitted.
        how: AdmittedBy,
        /// Milliseconds since 1970 at which the approval ends; `None` for one without an end.
        until_ms: Option<u64>,
    },
    /// Turned away: by the host, or because its time was over.
    Refused {
        /// The device as others see it.
        client: Client,
        /// True when an approval's time was over, false when a person refused the device.
        time_over: bool,
    },
    /// A refusal was lifted.
    Forgotten {
        /// The device.
        public_id: DeviceId,
    },
    /// A device got another name.
    Renamed {
        /// The device.
        public_id: DeviceId,
        /// The new name.
        name: String,
    },
    /// An invitation was made.
    Invited {
        /// Names the invitation.
        id: InvitationId,
        /// Milliseconds since 1970 at which it ends.
        expires_ms: u64,
    },
    /// A wrong proof, or one that came too late.
    BadInvitation {
        /// Names the invitation.
        id: InvitationId,
        /// The device that showed it.
        public_id: DeviceId,
    },
    /// The host wants to be asked about more devices than usual, for a while.
    MoreAllowed,
    /// The admission policy changed.
    Door {
        /// The policy that holds from now on.
        admission: Admission,
    },
    /// The relay has the whole roster.
    RelayReady,
    /// The connection to the relay ended.
    RelayLost,
}
