//! Messages between the host's console page and the master app, on the master's own loopback port.

use serde::{Deserialize, Serialize};

use super::*;
use crate::device::{DeviceKind, HubInfo};
use crate::feed::FeedPage;

wire! {
    /// The page's first word: the token it got for its one-time secret (32 bytes of hex).
    #[serde(deny_unknown_fields)]
    pub struct ConsoleRegister {
        /// 32 random bytes as hex.
        pub token: SessionToken,
    }

    /// The page is let in, and learns about the hub.
    pub struct ConsoleRegisterAck {
        /// The host's own device.
        pub public_id: DeviceId,
        /// Name and key of the hub.
        pub hub: HubInfo,
        /// Addresses of the hub, the best first.
        pub urls: Vec<String>,
        /// True while the master is registered at its relay.
        pub relay_ready: bool,
        /// True when the page shows the digits and a tap approves.
        pub tap_to_approve: bool,
    }

    /// One knock as the host sees it.
    pub struct JoinRequestInfo {
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
        /// The device that asks.
        pub public_id: DeviceId,
        /// The name that the device asks to have.
        pub name: String,
        /// Says what runs on the device.
        pub kind: DeviceKind,
        /// Free text for people, such as "Firefox on Linux"; at most 255 bytes, may be empty.
        pub platform: String,
        /// Address of its connection, as the relay sees it.
        pub address: String,
        /// Milliseconds since 1970, by the host's clock, at which the digits could be compared.
        pub asked_ms: u64,
        /// Wrong codes that the knock still survives, 3 at first.
        pub tries_left: u32,
        /// Its device has left; it stays in sight for a moment, so that the person sees who asked
        /// and was gone.
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

    /// A refused device whose name a person could take for a newcomer's.
    pub struct LikeRefused {
        /// Its name.
        pub name: String,
        /// Milliseconds since 1970, by the host's clock, at which the device was refused.
        pub refused_ms: u64,
    }

    /// All knocks whose devices show their digits, oldest first, whenever one changes.
    pub struct JoinRequestList {
        /// At most 64.
        pub knocks: Vec<JoinRequestInfo>,
        /// How many wait until they may be asked about.
        pub waiting: u32,
        /// For how long more of them are asked about than usual.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub more_for_ms: Option<u64>,
    }

    /// A refused device as the host lists it.
    pub struct RefusedClient {
        /// The refused device.
        pub public_id: DeviceId,
        /// The name that it had when it was refused.
        pub name: String,
        /// Says what runs on the device.
        pub kind: DeviceKind,
        /// Free text for people, such as "Firefox on Linux"; at most 255 bytes, may be empty.
        pub platform: String,
        /// Milliseconds since 1970, by the host's clock, at which the device was refused.
        pub refused_ms: u64,
    }

    /// All who were turned away, whenever that changes.
    pub struct RefusedList {
        /// In the order of their refusals.
        pub clients: Vec<RefusedClient>,
    }

    /// Tells the page whether the master reaches its relay.
    pub struct RelayPresence {
        /// True while it does.
        pub ready: bool,
    }

    /// Lets a device in, with the digits that its screen shows.
    pub struct ConsoleApprove {
        /// The device that asks.
        pub public_id: DeviceId,
        /// Identifies the knock; each one gets a new id.
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

    /// Asks for an invitation for one device.
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
        /// Names the invitation.
        pub id: InvitationId,
        /// Whoever holds it comes in; it goes into the address that the host passes on.
        pub secret: InvitationSecret,
        /// Milliseconds since 1970, by the host's clock, after which it admits nobody.
        pub expires_ms: u64,
    }

    /// The host's admission policy.
    pub struct DoorState {
        /// The policy that holds until the hub is started anew.
        pub admission: Admission,
    }

    /// Something that is wrong with the hub, in words for the person at the host.
    pub struct Problem {
        /// Stable: there is one problem of a code at a time.
        pub code: String,
        /// One sentence about what is wrong.
        pub what: String,
        /// Advice about what that person can do.
        pub advice: String,
        /// Milliseconds since 1970, by the host's clock, at which it was found.
        pub since_ms: u64,
    }

    /// All that is wrong, the oldest first, whenever that changes.
    pub struct Problems {
        /// At most one of each code.
        pub problems: Vec<Problem>,
    }

    /// Names the device of a DIS_APPROVE_CLIENT or FORGET_CLIENT.
    pub struct ConsoleDevice {
        /// The device.
        pub public_id: DeviceId,
    }

    /// Gives an approved device another name.
    pub struct ConsoleRename {
        /// The device.
        pub public_id: DeviceId,
        /// UTF-8 text for people, 1 to 255 bytes without control characters.
        pub name: String,
    }
}

/// Whether the person at the host is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum Admission {
    /// Each newcomer's digits are compared by a person.
    #[default]
    Ask,
    /// Everybody who knocks and was not turned away before is let in.
    Everyone,
    /// Only devices with an invitation are let in.
    Closed,
}

/// Console → master app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum ConsoleToMaster {
    /// Opens the session; the first frame.
    ConsoleRegister(ConsoleRegister),
    /// Asks for the feed, as a device does.
    FeedPull(FeedPull),
    /// Lets a device in.
    ApproveClient(ConsoleApprove),
    /// Refuses a device, for good.
    DisApproveClient(ConsoleDevice),
    /// Lets a refused device knock again.
    ForgetClient(ConsoleDevice),
    /// Renames a device.
    UpdateName(ConsoleRename),
    /// Asks for an invitation.
    Invite(ConsoleInvite),
    /// Sets the admission policy.
    SetDoor(DoorState),
    /// Allows more knocks than usual for ten minutes.
    AllowMore(Empty),
    /// Asks for everybody's links.
    LinksPull(LinksPull),
    /// Ends anybody's link.
    LinkDrop(LinkDrop),
    /// Asks for a PONG.
    Ping(Empty),
}

/// Master app → console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum MasterToConsole {
    /// Answers the registration.
    ConsoleRegisterAck(ConsoleRegisterAck),
    /// All knocks that wait for the person, after each change.
    Knocks(JoinRequestList),
    /// All refused devices, after each change.
    Refused(RefusedList),
    /// The relay was reached or lost.
    RelayState(RelayPresence),
    /// The admission policy, after each change.
    Door(DoorState),
    /// Everything that is wrong, after each change.
    Problems(Problems),
    /// Answers INVITE, to the page that asked.
    Invitation(Invitation),
    /// One page of a pull.
    FeedPage(FeedPage),
    /// Changes were dropped for this session: pull.
    FeedDirty(FeedDirty),
    /// A device was let in.
    ClientApproved(ClientApproved),
    /// A device was refused.
    ClientDisApproved(ClientDisApproved),
    /// A device has another name.
    ClientUpdated(ClientUpdated),
    /// A device has no session left; towards the master, one session ended.
    ClientDisconnected(PresenceChange),
    /// A device has a session again; towards the master, one session began.
    ClientReconnected(PresenceChange),
    /// Everybody who is online, whole.
    Presence(Presence),
    /// Files were listed.
    FilesAdded(FilesAdded),
    /// Roots became known.
    FilesUpdated(FilesUpdated),
    /// Files were removed for good.
    FileRemoved(FileRemoved),
    /// Files are off the list for a while.
    FilesWithdrawn(FilesWithdrawn),
    /// Answers an UPDATE_NAME that changed nothing.
    UpdateNameAck(FeedAck),
    /// The device may knock again.
    ForgetClientAck(Empty),
    /// A link was made or changed.
    LinkMade(LinkMade),
    /// A link ended.
    LinkDropped(LinkDropped),
    /// One page of links.
    LinksPage(LinksPage),
    /// The "no" to the request of the same `ref`.
    RequestFailed(RequestFailed),
    /// Answers a PING.
    Pong(Empty),
}
