//! Messages between devices and the relay.

use serde::{Deserialize, Serialize};

use super::*;
use crate::device::{DeviceKind, HubInfo, Membership, TransportMode};
use crate::feed::{FeedPage, Resume};

wire! {
    /// The relay's first word: what to prove.
    #[serde(deny_unknown_fields)]
    pub struct Challenge {
        /// The version of the wire that the sender speaks; see [`crate::PROTOCOL_VERSION`].
        pub protocol: u32,
        /// Drawn when the relay starts; a proof for one life of the relay is worth nothing in the
        /// next.
        pub boot_id: BootId,
        /// The relay's, for this connect.
        pub nonce: Nonce,
        /// The relay's half of the session key.
        pub ephemeral_key: EphemeralKey,
        /// Name and key of the hub.
        pub hub: HubInfo,
        /// Says how private the connection is.
        pub mode: TransportMode,
    }

    /// The device's first word: who it is, and the proof.
    #[serde(deny_unknown_fields)]
    pub struct ClientRegister {
        /// The version of the wire that the sender speaks; see [`crate::PROTOCOL_VERSION`].
        pub protocol: u32,
        /// The name that the device asks to have.
        pub name: String,
        /// Says what runs on the device.
        pub kind: DeviceKind,
        /// Free text for people, such as "Firefox on Linux"; at most 255 bytes, may be empty.
        pub platform: String,
        /// Tells this process or tab from the others of the same device.
        pub instance: Instance,
        /// The Ed25519 key that signs for its holder.
        pub public_key: PublicKey,
        /// The device's, for this connect.
        pub nonce: Nonce,
        /// The device's half of the session key.
        pub ephemeral_key: EphemeralKey,
        /// Made with the device's key over everything so far.
        pub signature: Signature,
        /// Binds the sender to a nonce that it reveals later.
        pub commit: Commit,
        /// Whoever brings one need not be asked about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub invitation: Option<InvitationProof>,
        /// Proves the host's own device, with the secret that master and relay share.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub host_proof: Option<Mac>,
        /// Where the device stands in the feed; absent when it holds nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub resume: Option<Resume>,
    }

    /// The relay's proof of the hub's key, and where the device stands.
    #[serde(deny_unknown_fields)]
    pub struct ClientRegisterAck {
        /// The id that follows from the device's key.
        pub public_id: DeviceId,
        /// Says where the device stands with the hub.
        pub membership: Membership,
        /// True while the master is registered.
        pub hub_ready: bool,
        /// Absent for a device that was turned away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub session_id: Option<KeyId>,
        /// Made with the hub's key over everything so far.
        pub signature: Signature,
    }

    /// Tells a session that its device's standing changed.
    pub struct MembershipNotice {
        /// Says where the device stands with the hub.
        pub membership: Membership,
    }

    /// A new promise after APPROVAL_RESTART.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalCommit {
        /// Binds the sender to a nonce that it reveals later.
        pub commit: Commit,
        /// Proof of an invitation for the new knock.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub invitation: Option<InvitationProof>,
    }

    /// The knock is to be made anew, with this nonce of the relay.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalRestart {
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
        /// 32 random bytes, drawn for this exchange.
        pub nonce: Nonce,
    }

    /// Requests for the master cannot be answered now.
    pub struct ServerNotReady {
        /// Milliseconds to wait before another attempt.
        pub retry_after_ms: u64,
    }
}

/// Device → relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[allow(clippy::large_enum_variant, reason = "the large one is said once a session")]
pub enum DeviceToRelay {
    /// The device's first frame.
    ClientRegister(ClientRegister),
    /// The device opens its commitment.
    ApprovalReveal(ApprovalReveal),
    /// A new commitment after a restart.
    ApprovalCommit(ApprovalCommit),
    /// Asks for another name.
    UpdateName(UpdateName),
    /// Asks for the feed.
    FeedPull(FeedPull),
    /// Lists files.
    AddFiles(AddFiles),
    /// Removes or withdraws files.
    RemoveFile(RemoveFile),
    /// Makes a link, or adds to one.
    LinkRequest(LinkRequest),
    /// Asks for the maker's links.
    LinksPull(LinksPull),
    /// Ends a link.
    LinkDrop(LinkDrop),
    /// Asks for one run.
    RequestChunk(RequestChunk),
    /// Ends requests for runs.
    CancelChunk(CancelChunk),
    /// The owner cannot send a body.
    ChunkUnavailable(ChunkUnavailable),
    /// Asks for a PONG, so that both sides know the line works.
    Ping(Empty),
}

/// Relay → device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum RelayToDevice {
    /// The relay's first frame: what to sign.
    Challenge(Challenge),
    /// The relay's proof, and where the device stands.
    ClientRegisterAck(ClientRegisterAck),
    /// The device's standing changed.
    Membership(MembershipNotice),
    /// The master's commitment, for the device that knocks.
    ApprovalChallenge(ApprovalChallenge),
    /// The master opens its own; both screens can show the digits.
    ApprovalOpen(ApprovalOpen),
    /// The knock is made anew.
    ApprovalRestart(ApprovalRestart),
    /// Nobody is let in at the moment.
    ApprovalClosed(ApprovalClosed),
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
    /// One page of a pull.
    FeedPage(FeedPage),
    /// Changes were dropped for this session: pull.
    FeedDirty(FeedDirty),
    /// The master is here, and the feed stands there.
    HubReady(HubReady),
    /// The master is away; what is known stays known.
    ServerNotReady(ServerNotReady),
    /// Files were listed.
    FilesAdded(FilesAdded),
    /// Roots became known.
    FilesUpdated(FilesUpdated),
    /// Files were removed for good.
    FileRemoved(FileRemoved),
    /// Files are off the list for a while.
    FilesWithdrawn(FilesWithdrawn),
    /// Answers an ADD_FILES that changed nothing.
    AddFilesAck(FeedAck),
    /// Answers a REMOVE_FILE that changed nothing.
    RemoveFileAck(FeedAck),
    /// Answers an UPDATE_NAME that changed nothing.
    UpdateNameAck(FeedAck),
    /// A link was made or changed.
    LinkMade(LinkMade),
    /// A link ended.
    LinkDropped(LinkDropped),
    /// One page of links.
    LinksPage(LinksPage),
    /// Asks the owner for a body.
    UploadChunkRequest(UploadChunkRequest),
    /// A body is no longer needed.
    UploadCancelled(UploadCancelled),
    /// A run can be fetched.
    ChunkReady(ChunkReady),
    /// A run will not come.
    ChunkFailed(ChunkFailed),
    /// Others read the same file from there on.
    JoinAt(JoinAt),
    /// How far a transfer is, at most four times a second.
    TransferProgress(TransferProgress),
    /// The owner's copy is another one than the listed version.
    FileChanged(FileChanged),
    /// The "no" to the request of the same `ref`.
    RequestFailed(RequestFailed),
    /// Answers a PING.
    Pong(Empty),
}
