//! What the host's console page and the master app say to each other, on the master's own loopback port.

use serde::{Deserialize, Serialize};

use super::*;
use crate::device::{DeviceKind, HubInfo};
use crate::feed::FeedPage;

wire! {
    /// The page's first word: the token it got for its one-time secret (32 bytes of hex).
    #[serde(deny_unknown_fields)]
    pub struct ConsoleRegister {
        pub token: SessionToken,
    }

    pub struct ConsoleRegisterAck {
        /// The host's own device.
        pub public_id: DeviceId,
        pub hub: HubInfo,
        /// Addresses of the hub, the best first.
        pub urls: Vec<String>,
        pub relay_ready: bool,
        pub tap_to_approve: bool,
    }

    /// One knock as the host sees it.
    pub struct Knock {
        pub request_id: RequestId,
        pub public_id: DeviceId,
        pub name: String,
        pub kind: DeviceKind,
        pub platform: String,
        pub address: String,
        pub asked_ms: u64,
        pub tries_left: u32,
        /// Its device has left; it stays in sight for a moment, so that the person sees who asked and was gone.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        #[cfg_attr(feature = "typescript", ts(as = "Option<bool>", optional))]
        pub left: bool,
        /// The name of an approved device that this one's name resembles.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub looks_like: Option<String>,
        /// A device that was turned away and has a name like this one's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub like_refused: Option<LikeRefused>,
        /// Only with the setting "tap to approve".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub code: Option<String>,
    }

    pub struct LikeRefused {
        pub name: String,
        pub refused_ms: u64,
    }

    /// All knocks whose devices show their digits, oldest first, whenever one changes.
    pub struct Knocks {
        pub knocks: Vec<Knock>,
        /// How many wait until they may be asked about.
        pub waiting: u32,
        /// For how long more of them are asked about than usual.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub more_for_ms: Option<u64>,
    }

    pub struct RefusedClient {
        pub public_id: DeviceId,
        pub name: String,
        pub kind: DeviceKind,
        pub platform: String,
        pub refused_ms: u64,
    }

    /// All who were turned away, whenever that changes.
    pub struct Refused {
        pub clients: Vec<RefusedClient>,
    }

    pub struct RelayState {
        pub ready: bool,
    }

    pub struct ConsoleApprove {
        pub public_id: DeviceId,
        pub request_id: RequestId,
        /// The digits as typed; absent only with "tap to approve".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub code: Option<String>,
        /// How long it may stay; absent: until it is turned away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub for_ms: Option<u64>,
    }

    pub struct ConsoleInvite {
        /// How long the invitation can be used.
        pub valid_ms: u64,
        /// How long who comes with it may stay; absent: until it is turned away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub for_ms: Option<u64>,
    }

    /// For one device, once. The secret is told to who asked and to nobody else.
    pub struct Invitation {
        pub id: InvitationId,
        pub secret: InvitationSecret,
        pub expires_ms: u64,
    }

    /// Whom the host lets in.
    pub struct DoorState {
        pub admission: Admission,
    }

    /// Something that is wrong with the hub, in words for the person at the host.
    pub struct Problem {
        /// Stable: there is one problem of a code at a time.
        pub code: String,
        pub what: String,
        /// What that person can do.
        pub advice: String,
        pub since_ms: u64,
    }

    /// All that is wrong, the oldest first, whenever that changes.
    pub struct Problems {
        pub problems: Vec<Problem>,
    }

    pub struct ConsoleDevice {
        pub public_id: DeviceId,
    }

    pub struct ConsoleRename {
        pub public_id: DeviceId,
        pub name: String,
    }
}

/// Whether the person at the host is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum Admission {
    #[default]
    Ask,
    /// Everybody who knocks and was not turned away before is let in.
    Everyone,
    /// Nobody is, but who brings an invitation.
    Closed,
}

/// Console → master app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum ConsoleToMaster {
    ConsoleRegister(ConsoleRegister),
    FeedPull(FeedPull),
    ApproveClient(ConsoleApprove),
    DisApproveClient(ConsoleDevice),
    ForgetClient(ConsoleDevice),
    UpdateName(ConsoleRename),
    Invite(ConsoleInvite),
    SetDoor(DoorState),
    AllowMore(Empty),
    LinksPull(LinksPull),
    LinkDrop(LinkDrop),
    Ping(Empty),
}

/// Master app → console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum MasterToConsole {
    ConsoleRegisterAck(ConsoleRegisterAck),
    Knocks(Knocks),
    Refused(Refused),
    RelayState(RelayState),
    Door(DoorState),
    Problems(Problems),
    Invitation(Invitation),
    FeedPage(FeedPage),
    FeedDirty(Empty),
    ClientApproved(ClientApproved),
    ClientDisApproved(ClientDisApproved),
    ClientUpdated(ClientUpdated),
    ClientDisconnected(PresenceChange),
    ClientReconnected(PresenceChange),
    Presence(Presence),
    FilesAdded(FilesAdded),
    FilesUpdated(FilesUpdated),
    FileRemoved(FileRemoved),
    FilesWithdrawn(FilesWithdrawn),
    UpdateNameAck(FeedAck),
    ForgetClientAck(Empty),
    LinkMade(LinkMade),
    LinkDropped(LinkDropped),
    LinksPage(LinksPage),
    RequestFailed(RequestFailed),
    Pong(Empty),
}
