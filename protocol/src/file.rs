//! A shared file as its owner announces it, and as the hub lists it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::group::group_log;
use crate::ids::{DeviceId, FileId, Instance, Root};
use crate::limits::MAX_FILE_BYTES;
use crate::path;

/// Names a file everywhere and routes itself to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct FileRef {
    /// The owner.
    pub public_id: DeviceId,
    /// The version, among the owner's.
    pub file_id: FileId,
}

/// A file, or an empty folder (a folder with files is their common prefix).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum EntryKind {
    /// A file.
    #[default]
    File,
    /// An empty folder; its size is 0.
    Folder,
}

impl EntryKind {
    /// Returns true for a file.
    pub fn is_file(&self) -> bool {
        *self == EntryKind::File
    }
}

/// One version of one file as its owner announces it (ADD_FILES).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct NewFile {
    /// New for each version: a changed file gets another id.
    pub file_id: FileId,
    /// Relative, `/`-separated (see [`crate::path`]).
    pub path: String,
    /// Exact, in bytes.
    pub size: u64,
    /// A hint for showing, never an order.
    pub modified_ms: u64,
    /// May be empty.
    pub media_type: String,
    /// File or empty folder.
    #[serde(default, skip_serializing_if = "EntryKind::is_file")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<EntryKind>", optional))]
    pub kind: EntryKind,
    /// BLAKE3 hash of the content, when the owner knows it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub root: Option<Root>,
}

/// A file as the hub lists it. What it may cost whoever reads it (its groups, the depth
/// of its path) is checked as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct FileEntry {
    /// The owner.
    pub public_id: DeviceId,
    /// The session that added it or brought it back last: it is asked for the bytes.
    pub instance: Instance,
    /// The version, among the owner's.
    pub file_id: FileId,
    /// Relative and `/`-separated, as the owner announced it.
    pub path: String,
    /// Exact, in bytes.
    pub size: u64,
    /// Milliseconds since 1970, by the owner's clock; a hint.
    pub modified_ms: u64,
    /// Such as "video/mp4"; may be empty.
    pub media_type: String,
    /// File or empty folder.
    #[serde(default, skip_serializing_if = "EntryKind::is_file")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<EntryKind>", optional))]
    pub kind: EntryKind,
    /// log2 of the group size (see [`crate::group::group_log`]).
    pub group_log: u8,
    /// Known after the first whole pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub root: Option<Root>,
}

impl Serialize for FileEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for FileEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entry = Self::deserialize(deserializer)?;
        if entry.can_be() {
            Ok(entry)
        } else {
            Err(de::Error::custom("an entry whose path, size or group_log cannot be"))
        }
    }
}

/// An entry of a list, or nothing where it cannot be.
struct Listed(Option<FileEntry>);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entry = FileEntry::deserialize(deserializer)?;
        Ok(Self(entry.can_be().then_some(entry)))
    }
}

/// Reads the list of a message. An entry that cannot be is read as no entry, and takes none of the
/// others along (PROTOCOL.md 5.2).
pub(crate) fn entries<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<FileEntry>, D::Error> {
    let listed = Vec::<Listed>::deserialize(deserializer)?;
    Ok(listed.into_iter().filter_map(|listed| listed.0).collect())
}

/// Reads the one entry of a message in the same way: one that cannot be is none.
pub(crate) fn entry<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<FileEntry>, D::Error> {
    Ok(Option::<Listed>::deserialize(deserializer)?.and_then(|listed| listed.0))
}

impl FileEntry {
    /// Whether its path may travel, and its size and group size are such as may be.
    pub fn can_be(&self) -> bool {
        self.size <= MAX_FILE_BYTES
            && self.group_log == group_log(self.size)
            && path::validate(&self.path).is_ok()
    }

    /// Returns the name of the file everywhere.
    pub fn file_ref(&self) -> FileRef {
        FileRef { public_id: self.public_id, file_id: self.file_id }
    }

    /// Whether `new` says the same of this id; the root may be known on one side only.
    pub fn same_version(&self, new: &NewFile) -> bool {
        let roots_agree = match (self.root, new.root) {
            (Some(listed), Some(said)) => listed == said,
            _ => true,
        };
        self.path == new.path
            && self.size == new.size
            && self.modified_ms == new.modified_ms
            && self.media_type == new.media_type
            && self.kind == new.kind
            && roots_agree
    }
}
