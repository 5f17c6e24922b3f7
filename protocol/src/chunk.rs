//! Pieces and runs: which groups of which files one body carries (PROTOCOL.md 6).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::FileId;

/// `[file_id, first, count]`: consecutive groups of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "[string, number, number]"))]
pub struct GroupSpan {
    /// The file, of the owner that the message names.
    pub file_id: FileId,
    /// Which of its groups.
    pub groups: GroupRange,
}

/// Consecutive groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupRange {
    /// Number of the first group, from 0.
    pub first: u32,
    /// How many groups.
    pub count: u32,
}

impl GroupRange {
    /// Spans `count` groups from `first`.
    pub fn new(first: u32, count: u32) -> Self {
        Self { first, count }
    }

    /// One past the last.
    pub fn end(&self) -> u32 {
        self.first.saturating_add(self.count)
    }

    /// Returns true if `group` is one of them.
    pub fn contains(&self, group: u32) -> bool {
        (self.first..self.end()).contains(&group)
    }

    /// Iterates over the numbers of the groups.
    pub fn iter(&self) -> std::ops::Range<u32> {
        self.first..self.end()
    }
}

impl GroupSpan {
    /// Names `count` groups of a file from `first`.
    pub fn new(file_id: FileId, first: u32, count: u32) -> Self {
        Self { file_id, groups: GroupRange::new(first, count) }
    }
}

impl Serialize for GroupSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.file_id, self.groups.first, self.groups.count).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GroupSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (file_id, first, count) = <(FileId, u32, u32)>::deserialize(deserializer)?;
        Ok(GroupSpan::new(file_id, first, count))
    }
}

/// The content of a run: the bytes of the groups, or their group hashes (32 bytes each).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum BodyKind {
    /// The bytes of the groups, one after another.
    #[default]
    Bytes,
    /// 32 bytes for each group: its BLAKE3 chaining value.
    Hashes,
}
