//! Pieces and runs: which groups of which files one body carries (PROTOCOL.md 6).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::FileId;

/// `[file_id, first, count]`: consecutive groups of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "[string, number, number]"))]
pub struct Piece {
    pub file_id: FileId,
    pub groups: GroupRange,
}

/// Consecutive groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupRange {
    pub first: u32,
    pub count: u32,
}

impl GroupRange {
    pub fn new(first: u32, count: u32) -> Self {
        Self { first, count }
    }

    /// One past the last.
    pub fn end(&self) -> u32 {
        self.first.saturating_add(self.count)
    }

    pub fn contains(&self, group: u32) -> bool {
        (self.first..self.end()).contains(&group)
    }

    pub fn iter(&self) -> std::ops::Range<u32> {
        self.first..self.end()
    }
}

impl Piece {
    pub fn new(file_id: FileId, first: u32, count: u32) -> Self {
        Self { file_id, groups: GroupRange::new(first, count) }
    }
}

impl Serialize for Piece {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.file_id, self.groups.first, self.groups.count).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Piece {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (file_id, first, count) = <(FileId, u32, u32)>::deserialize(deserializer)?;
        Ok(Piece::new(file_id, first, count))
    }
}

/// What a run carries: the bytes of the groups, or their values (32 bytes each).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum What {
    #[default]
    Bytes,
    Values,
}
