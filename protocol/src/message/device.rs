//! What devices and the relay say to each other.

use serde::{Deserialize, Serialize};

use super::*;
use crate::device::{DeviceKind, HubInfo, Membership, TransportMode};
use crate::feed::{FeedPage, Resume};

wire! {
    /// The relay's first word: what to prove.
    #[serde(deny_unknown_fields)]
    pub struct Challenge {
        pub protocol: u32,
        pub boot_id: BootId,
        pub nonce: Nonce,
        /// The relay's half of the session key.
        pub ephemeral_key: EphemeralKey,
        pub hub: HubInfo,
        pub mode: TransportMode,
    }

    /// The device's first word: who it is, and the proof.
    #[serde(deny_unknown_fields)]
    pub struct ClientRegister {
        pub protocol: u32,
        pub name: String,
        pub kind: DeviceKind,
        pub platform: String,
        pub instance: Instance,
        pub public_key: PublicKey,
        pub nonce: Nonce,
        /// The device's half of the session key.
        pub ephemeral_key: EphemeralKey,
        pub signature: Signature,
        pub commit: Commit,
        /// Whoever brings one need not be asked about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub invitation: Option<InvitationProof>,
        /// Proves the host's own device, with the secret that master and relay share.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub host_proof: Option<Mac>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub resume: Option<Resume>,
    }

    #[serde(deny_unknown_fields)]
    pub struct ClientRegisterAck {
        pub public_id: DeviceId,
        pub membership: Membership,
        pub hub_ready: bool,
        /// Absent for a device that was turned away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub session_id: Option<KeyId>,
        pub signature: Signature,
    }

    pub struct MembershipNotice {
        pub membership: Membership,
    }

    /// A new promise after APPROVAL_RESTART.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalCommit {
        pub commit: Commit,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub invitation: Option<InvitationProof>,
    }

    /// The knock is to be made anew, with this nonce of the relay.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalRestart {
        pub request_id: RequestId,
        pub nonce: Nonce,
    }

    pub struct ServerNotReady {
        pub retry_after_ms: u64,
    }
}

/// Device → relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[allow(clippy::large_enum_variant, reason = "the large one is said once a session")]
pub enum DeviceToRelay {
    ClientRegister(ClientRegister),
    ApprovalReveal(ApprovalReveal),
    ApprovalCommit(ApprovalCommit),
    UpdateName(UpdateName),
    FeedPull(FeedPull),
    AddFiles(AddFiles),
    RemoveFile(RemoveFile),
    LinkRequest(LinkRequest),
    LinksPull(LinksPull),
    LinkDrop(LinkDrop),
    RequestChunk(RequestChunk),
    CancelChunk(CancelChunk),
    ChunkUnavailable(ChunkUnavailable),
    Ping(Empty),
}

/// Relay → device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum RelayToDevice {
    Challenge(Challenge),
    ClientRegisterAck(ClientRegisterAck),
    Membership(MembershipNotice),
    ApprovalChallenge(ApprovalChallenge),
    ApprovalOpen(ApprovalOpen),
    ApprovalRestart(ApprovalRestart),
    ApprovalClosed(ApprovalClosed),
    ClientApproved(ClientApproved),
    ClientDisApproved(ClientDisApproved),
    ClientUpdated(ClientUpdated),
    ClientDisconnected(PresenceChange),
    ClientReconnected(PresenceChange),
    Presence(Presence),
    FeedPage(FeedPage),
    FeedDirty(Empty),
    HubReady(HubReady),
    ServerNotReady(ServerNotReady),
    FilesAdded(FilesAdded),
    FilesUpdated(FilesUpdated),
    FileRemoved(FileRemoved),
    FilesWithdrawn(FilesWithdrawn),
    AddFilesAck(FeedAck),
    RemoveFileAck(FeedAck),
    UpdateNameAck(FeedAck),
    LinkMade(LinkMade),
    LinkDropped(LinkDropped),
    LinksPage(LinksPage),
    UploadChunkRequest(UploadChunkRequest),
    UploadCancelled(UploadCancelled),
    ChunkReady(ChunkReady),
    ChunkFailed(ChunkFailed),
    JoinAt(JoinAt),
    TransferProgress(TransferProgress),
    FileChanged(FileChanged),
    RequestFailed(RequestFailed),
    Pong(Empty),
}
