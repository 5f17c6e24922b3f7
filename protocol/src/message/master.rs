//! Messages between master and relay, including devices' requests and the answers to them.

use serde::{Deserialize, Serialize};

use super::*;
use crate::codec::MasterMessage;
use crate::device::HubInfo;
use crate::feed::FeedPage;
use crate::file::FileRef;

wire! {
    /// The relay's first frame to a master: what to prove.
    #[serde(deny_unknown_fields)]
    pub struct MasterChallenge {
        /// The version of the wire that the sender speaks; see [`crate::PROTOCOL_VERSION`].
        pub protocol: u32,
        /// Drawn when the relay starts; a proof for one life of the relay is worth nothing in the
        /// next.
        pub boot_id: BootId,
        /// The relay's, for this registration.
        pub nonce: Nonce,
    }

    /// The master's proof of the shared secret.
    #[serde(deny_unknown_fields)]
    pub struct MasterAppRegister {
        /// The version of the wire that the sender speaks; see [`crate::PROTOCOL_VERSION`].
        pub protocol: u32,
        /// The master's, for this registration.
        pub nonce: Nonce,
        /// Grows with each registration; a lower one than the relay has seen is refused.
        pub term: u64,
        /// Proves the secret that master and relay share, over the nonces of both.
        pub mac: Mac,
    }

    /// The relay's proof of the same secret, the other way round.
    #[serde(deny_unknown_fields)]
    pub struct MasterAppRegisterAck {
        /// Drawn when the relay starts; a proof for one life of the relay is worth nothing in the
        /// next.
        pub boot_id: BootId,
        /// Name and key of the hub.
        pub hub: HubInfo,
        /// Proves the secret that master and relay share, over the nonces of both.
        pub mac: Mac,
    }

    /// Lists approved and refused devices; the relay is ready after the last page.
    pub struct MasterRoster {
        /// Number of the page, from 0.
        pub page: u32,
        /// True on the last page.
        pub last: bool,
        /// Devices that the relay lets in; at most 4,096 ids on a page, refused ones included.
        pub approved: Vec<DeviceId>,
        /// Devices that the relay must not let in.
        pub refused: Vec<DeviceId>,
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// Counts the changes of this epoch; this change, or the head, has this number.
        pub revision: u64,
    }

    /// Somebody knocks.
    #[serde(deny_unknown_fields)]
    pub struct NewClientRegistered {
        /// The device as it describes itself.
        pub client: Client,
        /// As the relay sees it; towards the master only.
        pub address: String,
        /// Tells this process or tab from the others of the same device.
        pub instance: Instance,
        /// The Ed25519 key that signs for its holder.
        pub public_key: PublicKey,
        /// Binds the sender to a nonce that it reveals later.
        pub commit: Commit,
        /// The relay's nonce that the knock is bound to.
        pub relay_nonce: Nonce,
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
        /// Proof of an invitation, for this knock.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "typescript", ts(optional))]
        pub invitation: Option<InvitationProof>,
    }

    /// Names the knock that the person approved, before the approval is decided.
    #[serde(deny_unknown_fields)]
    pub struct ApproveClient {
        /// The device that knocks.
        pub public_id: DeviceId,
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
    }

    /// The knock is this one still, and frozen: it will not change under the approval.
    pub struct ApproveClientAck {
        /// The device that knocks.
        pub public_id: DeviceId,
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
    }

    /// Ends every session of a device and lets none begin.
    #[serde(deny_unknown_fields)]
    pub struct DisApproveClient {
        /// The refused device.
        pub public_id: DeviceId,
        /// Identifies one life of the feed; a new database starts a new one.
        pub epoch: u64,
        /// Counts the changes of this epoch; this change, or the head, has this number.
        pub revision: u64,
    }

    /// Lets a refused device knock again.
    pub struct ForgetClient {
        /// The device.
        pub public_id: DeviceId,
    }

    /// Asks the relay to restart a knock with a nonce of its own.
    #[serde(deny_unknown_fields)]
    pub struct ApprovalRestartRequest {
        /// Identifies the knock; each one gets a new id.
        pub request_id: RequestId,
    }

    /// Asks for entries that the relay needs for requests.
    pub struct FileLookup {
        /// At most 512.
        pub files: Vec<FileRef>,
    }

    /// Answers one FILE_LOOKUP: asked and not in it is gone.
    pub struct FileGrant {
        /// The entries that exist, in any order.
        #[serde(deserialize_with = "crate::file::entries")]
        pub files: Vec<FileEntry>,
    }

    /// The relay saw a whole file pass, and this is its hash.
    pub struct FileRoot {
        /// The owner.
        pub public_id: DeviceId,
        /// Identifies one version of one file among its owner's.
        pub file_id: FileId,
        /// BLAKE3 hash of the whole file, as `b3sum` prints it.
        pub root: Root,
    }

    /// The relay's figures, for the person at the host. Numbers only: no device, no file, no
    /// address.
    #[derive(Default)]
    pub struct RelayStatus {
        /// Sessions that wait for the host, and how many may.
        pub pending: u64,
        /// Sessions that may wait for the host at once.
        pub pending_limit: u64,
        /// Bytes that uploads have reserved, and how many they may.
        pub slot_bytes: u64,
        /// Bytes that uploads may reserve.
        pub slot_budget_bytes: u64,
        /// Requests for bytes that wait for room, an owner or the master.
        pub waiting_asks: u64,
        /// HTTP requests that were refused since the relay started, by code.
        pub refused: Vec<RefusedCount>,
        /// Sockets that the relay closed since it started, by reason.
        pub closed: Vec<ClosedCount>,
    }

    /// How often one code was the answer to an HTTP request.
    pub struct RefusedCount {
        /// Stable name of the reason.
        pub code: FailureCode,
        /// Answers since the relay started.
        pub count: u64,
    }

    /// How often one reason closed a socket.
    pub struct ClosedCount {
        /// Reason of the close frame.
        pub reason: CloseCode,
        /// Sockets since the relay started.
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
    /// The master's first frame.
    MasterAppRegister(MasterAppRegister),
    /// One page of who belongs.
    MasterRoster(MasterRoster),
    /// The master's commitment, for the device that knocks.
    ApprovalChallenge(ApprovalChallenge),
    /// The master opens its own; both screens can show the digits.
    ApprovalOpen(ApprovalOpen),
    /// The knock is made anew.
    ApprovalRestart(ApprovalRestartRequest),
    /// Nobody is let in at the moment.
    ApprovalClosed(ApprovalClosed),
    /// Asks the relay to freeze the knock that the person approved.
    ApproveClient(ApproveClient),
    /// A device was let in.
    ClientApproved(ClientApproved),
    /// Refuses a device.
    DisApproveClient(DisApproveClient),
    /// Forgets a refusal.
    ForgetClient(ForgetClient),
    /// A device has another name.
    ClientUpdated(ClientUpdated),
    /// One page of a pull.
    FeedPage(FeedPage),
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
    /// Answers FILE_LOOKUP.
    FileGrant(FileGrant),
    /// A link was made or changed.
    LinkMade(LinkMade),
    /// A link ended.
    LinkDropped(LinkDropped),
    /// One page of links.
    LinksPage(LinksPage),
    /// Answers LINK_LOOKUP.
    LinkGrant(LinkGrant),
    /// Answers LINK_PAGE.
    LinkMembers(LinkMembers),
    /// The "no" to the request of the same `ref`.
    RequestFailed(RequestFailed),
    /// Asks for a PONG, so that both sides know the line works.
    Ping(Empty),
}

impl MasterMessage for MasterToRelay {
    fn parse(_: &str, text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

/// Relay → master. The wire knows opcodes only: the families tell what a frame needs beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum RelayToMaster {
    /// A message of the relay itself.
    Relay(RelayMessage),
    /// A request that the relay passes on; `from` beside it names the session.
    Device(DeviceRequest),
}

impl MasterMessage for RelayToMaster {
    fn parse(opcode: &str, text: &str) -> serde_json::Result<Self> {
        if DeviceRequest::has_opcode(opcode) {
            serde_json::from_str(text).map(Self::Device)
        } else {
            serde_json::from_str(text).map(Self::Relay)
        }
    }
}

/// A message of the relay itself, and what it says about devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum RelayMessage {
    /// The relay's first frame.
    MasterChallenge(MasterChallenge),
    /// The relay's proof.
    MasterAppRegisterAck(MasterAppRegisterAck),
    /// A device knocks.
    NewClientRegistered(NewClientRegistered),
    /// The device opens its commitment.
    ApprovalReveal(ApprovalReveal),
    /// The knock is frozen.
    ApproveClientAck(ApproveClientAck),
    /// A session of a device ended.
    ClientDisconnected(PresenceChange),
    /// A session of a device began.
    ClientReconnected(PresenceChange),
    /// Asks for entries of files.
    FileLookup(FileLookup),
    /// A root became known.
    FileRoot(FileRoot),
    /// The owner's copy is another one than the listed version.
    FileChanged(FileChanged),
    /// Asks what a link opens.
    LinkLookup(LinkLookup),
    /// Asks for members of an archive.
    LinkPage(LinkPage),
    /// A link is in use.
    LinkUsed(LinkUsed),
    /// The relay's figures, whenever they change.
    RelayStatus(RelayStatus),
    /// The "no" to the request of the same `ref`.
    RequestFailed(RequestFailed),
    /// Answers a PING.
    Pong(Empty),
}

/// A request of a device that only the master can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opcode", content = "data", rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum DeviceRequest {
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
}

impl DeviceRequest {
    /// Returns true if messages of this opcode belong to the family.
    fn has_opcode(opcode: &str) -> bool {
        matches!(opcode, "UPDATE_NAME" | "FEED_PULL" | "ADD_FILES" | "REMOVE_FILE")
            || matches!(opcode, "LINK_REQUEST" | "LINKS_PULL" | "LINK_DROP")
    }
}
