//! Everything listed is a feed: an epoch, a revision that grows by one per change, and pages for
//! who missed some.

use serde::{Deserialize, Serialize};

use crate::device::Client;
use crate::file::FileEntry;
use crate::ids::{DeviceId, FeedId, FileId};

/// Where a device stands in the feed; zeros for who holds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Resume {
    /// Epoch of the last change that is held.
    pub epoch: u64,
    /// Revision of the last change that is held.
    pub revision: u64,
}

/// The kind of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum FeedMode {
    /// Nothing changed.
    UpToDate,
    /// Everything that changed after `since`, each entry in its present state.
    Delta,
    /// All that is.
    Snapshot,
}

/// A removal; without `file_id` the device is gone, and its files with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Gone {
    /// The device, or the owner of the file.
    pub public_id: DeviceId,
    /// The file; absent when the device itself is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub file_id: Option<FileId>,
}

/// One page of the feed, in the order of (revision of the entry's last change, id).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct FeedPage {
    /// The feed that is meant; absent: the catalogue.
    #[serde(default, skip_serializing_if = "FeedId::is_catalogue")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<FeedId>", optional))]
    pub feed: FeedId,
    /// Says how to apply the page.
    pub mode: FeedMode,
    /// Epoch of every page of this pull.
    pub epoch: u64,
    /// The head when this page was made.
    pub revision: u64,
    /// The revision that a delta begins after. A delta that begins after its reader's position
    /// belongs to another session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional, type = "number"))]
    pub since: Option<u64>,
    /// Approved devices on this page.
    pub clients: Vec<Client>,
    /// Listed files on this page.
    #[serde(deserialize_with = "crate::file::entries")]
    pub files: Vec<FileEntry>,
    /// Removals of a delta.
    pub gone: Vec<Gone>,
    /// Opaque; asks for the next page. Absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub cursor: Option<String>,
    /// True on the last page.
    pub last: bool,
}
