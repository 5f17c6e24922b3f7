//! What the master and the relay say to each other, devices' requests and the answers to them included.

use serde::{Deserialize, Serialize};

use super::*;
use crate::device::HubInfo;
use crate::feed::FeedPage;
use crate::file::FileRef;

wire! {
    #[serde(deny_unknown_fields)]
    pub struct MasterChallenge {
        pub protocol: u32,
        pub boot_id: BootId,
        pub nonce: Nonce,
    }

    #[serde(deny_unknown_fields)]
    pub struct MasterAppRegister {
        pub protocol: u32,
        pub nonce: Nonce,
        pub term: u64,
        pub mac: Mac,
    }

    #[serde(deny_unknown_fields)]
    pub struct MasterAppRegisterAck {
        pub boot_id: BootId,
        pub hub: HubInfo,
        pub mac: Mac,
    }

    /// Who belongs and who was turned away; the relay is ready after the last page.
    pub struct MasterRoster {
        pub page: u32,
        pub last: bool,
        pub approved: Vec<DeviceId>,
        pub refused: Vec<DeviceId>,
        pub epoch: u64,
        pub revision: u64,
    }

    /// Somebody knocks.
    #[serde(deny_unknown_fields)]
    pub struct NewClientRegistered {
        pub client: Client,
        /// As the relay sees it; towards the master only.
        pub address: String,
        pub instance: Instance,
        pub public_key: PublicKey,
        pub commit: Commit,
        pub relay_nonce: Nonce,
        pub request_id: RequestId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub invitation: Option<InvitationProof>,
    }

    #[serde(deny_unknown_fields)]
    pub struct ApproveClient {
        pub public_id: DeviceId,
        pub request_id: RequestId,
    }

    /// The knock is this one still, and frozen: it will not change under the approval.
    pub struct ApproveClientAck {
        pub public_id: DeviceId,
        pub request_id: RequestId,
    }

    #[serde(deny_unknown_fields)]
    pub struct DisApproveClient {
        pub public_id: DeviceId,
        pub epoch: u64,
        pub revision: u64,
    }

    pub struct ForgetClient {
        pub public_id: DeviceId,
    }

    #[serde(deny_unknown_fields)]
    pub struct ApprovalRestartRequest {
        pub request_id: RequestId,
    }

    pub struct FileLookup {
        pub files: Vec<FileRef>,
    }

    /// Answers one FILE_LOOKUP: asked and not in it is gone.
    pub struct FileGrant {
        #[serde(deserialize_with = "crate::file::entries")]
        pub files: Vec<FileEntry>,
    }

    pub struct FileRoot {
        pub public_id: DeviceId,
        pub file_id: FileId,
        pub root: Root,
    }

    /// The relay's figures, for the person at the host. Numbers only: no device, no file, no address.
    #[derive(Default)]
    pub struct RelayStatus {
        /// Sessions that wait for the host, and how many may.
        pub pending: u64,
        pub pending_limit: u64,
        /// Bytes that uploads have reserved, and how many they may.
        pub slot_bytes: u64,
        pub slot_budget_bytes: u64,
        /// Requests for bytes that wait for room, an owner or the master.
        pub waiting_asks: u64,
        /// HTTP requests that were refused since the relay started, by code.
        pub refused: Vec<RefusedCount>,
        /// Sockets that the relay closed since it started, by reason.
        pub closed: Vec<ClosedCount>,
    }

    pub struct RefusedCount {
        pub code: FailureCode,
        pub count: u64,
    }

    pub struct ClosedCount {
        pub reason: CloseCode,
        pub count: u64,
    }
}

impl RelayStatus {
    /// Returns true if no other device can wait for the host.
    pub fn is_door_full(&self) -> bool {
        self.pending_limit > 0 && self.pending >= self.pending_limit
    }
}

/// Master → relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum MasterToRelay {
    MasterAppRegister(MasterAppRegister),
    MasterRoster(MasterRoster),
    ApprovalChallenge(ApprovalChallenge),
    ApprovalOpen(ApprovalOpen),
    ApprovalRestart(ApprovalRestartRequest),
    ApprovalClosed(ApprovalClosed),
    ApproveClient(ApproveClient),
    ClientApproved(ClientApproved),
    DisApproveClient(DisApproveClient),
    ForgetClient(ForgetClient),
    ClientUpdated(ClientUpdated),
    FeedPage(FeedPage),
    FilesAdded(FilesAdded),
    FilesUpdated(FilesUpdated),
    FileRemoved(FileRemoved),
    FilesWithdrawn(FilesWithdrawn),
    AddFilesAck(FeedAck),
    RemoveFileAck(FeedAck),
    UpdateNameAck(FeedAck),
    FileGrant(FileGrant),
    LinkMade(LinkMade),
    LinkDropped(LinkDropped),
    LinksPage(LinksPage),
    LinkGrant(LinkGrant),
    LinkMembers(LinkMembers),
    RequestFailed(RequestFailed),
    Ping(Empty),
}

/// Relay → master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum RelayToMaster {
    MasterChallenge(MasterChallenge),
    MasterAppRegisterAck(MasterAppRegisterAck),
    NewClientRegistered(NewClientRegistered),
    ApprovalReveal(ApprovalReveal),
    ApproveClientAck(ApproveClientAck),
    ClientDisconnected(PresenceChange),
    ClientReconnected(PresenceChange),
    UpdateName(UpdateName),
    FeedPull(FeedPull),
    AddFiles(AddFiles),
    RemoveFile(RemoveFile),
    FileLookup(FileLookup),
    FileRoot(FileRoot),
    FileChanged(FileChanged),
    LinkRequest(LinkRequest),
    LinksPull(LinksPull),
    LinkDrop(LinkDrop),
    LinkLookup(LinkLookup),
    LinkPage(LinkPage),
    LinkUsed(LinkUsed),
    RelayStatus(RelayStatus),
    RequestFailed(RequestFailed),
    Pong(Empty),
}
