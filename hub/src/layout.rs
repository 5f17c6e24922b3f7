//! An archive before any byte of it exists: its members in order, their names, and how long it is.
//!
//! The master builds a layout step by step, so that a folder of 100,000 files holds nobody else up,
//! and hands it out in pages. A layout knows what the archive's directory says of each member, so a
//! file that is removed after its bytes went out does not spoil what was downloaded.

use std::collections::BTreeMap;

use lanyard_protocol::archive::{Extent, LayoutHasher, Shape};
use lanyard_protocol::limits::MAX_ONE_LAYOUT_BYTES;
use lanyard_protocol::{DeviceId, EntryKind, FileEntry, FileRef, LayoutId};

use crate::naming::Naming;

/// A member beside its name: its record and what an allocator adds.
const MEMBER_OVERHEAD: usize = 96;

/// A member as the directory describes it, and which file it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedMember {
    /// A folder's ends in a slash.
    pub name: String,
    /// The file and its owner.
    pub file: FileRef,
    /// Exact number of bytes.
    pub size: u64,
    /// Milliseconds since 1970, by the owner's clock.
    pub modified_ms: u64,
    /// File or empty folder.
    pub kind: EntryKind,
}

impl PlacedMember {
    /// Returns the properties that decide the member's lengths.
    pub fn shape(&self) -> Shape {
        Shape::new(&self.name, self.size, self.kind)
    }
}

/// A finished layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Names this exact sequence of members and lengths.
    pub id: LayoutId,
    /// The members, in the order of the archive.
    pub members: Vec<PlacedMember>,
    /// Exact number of bytes.
    pub length: u64,
    /// Memory that it takes.
    pub bytes: usize,
}

/// The members would take more memory than one layout may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an archive of so many and so long names is too large")]
pub struct TooLarge;

#[derive(Debug, Clone, Copy)]
struct MemberFacts {
    size: u64,
    modified_ms: u64,
    kind: EntryKind,
}

/// Builds a layout: members are added, then named, both in steps.
#[derive(Debug, Default)]
pub struct Builder {
    naming: Naming,
    facts: BTreeMap<FileRef, MemberFacts>,
    members: Vec<PlacedMember>,
    hasher: LayoutHasher,
    extent: Extent,
    bytes: usize,
}

impl Builder {
    /// Tells what an owner is called, for its folder.
    pub fn owner(&mut self, id: DeviceId, name: &str) {
        self.naming.owner(id, name);
    }

    /// Appends a file; fails when the layout would be larger than may be kept.
    pub fn add(&mut self, entry: &FileEntry) -> Result<(), TooLarge> {
        let file = entry.file_ref();
        let facts =
            MemberFacts { size: entry.size, modified_ms: entry.modified_ms, kind: entry.kind };
        if self.facts.insert(file, facts).is_some() {
            return Ok(());
        }
        self.bytes += MEMBER_OVERHEAD + entry.path.len();
        if self.bytes > MAX_ONE_LAYOUT_BYTES {
            return Err(TooLarge);
        }
        self.naming.add(file, &entry.path, !entry.kind.is_file());
        Ok(())
    }

    /// Names members, at most about `most` steps of work. True once all are named.
    pub fn name_some(&mut self, most: u64) -> bool {
        let end = self.naming.work() + most;
        let mut named_now = 0;
        while named_now < most && self.naming.work() < end {
            let left = end - self.naming.work();
            let Some(next) = self.naming.next(left) else { return true };
            let Some(named) = next else { continue };
            named_now += 1;
            let Some(MemberFacts { size, modified_ms, kind }) =
                self.facts.get(&named.file).copied()
            else {
                continue;
            };
            let name = if named.is_folder { named.name + "/" } else { named.name };
            self.hasher.add(&name, &named.file, size, modified_ms);
            let placed = PlacedMember { name, file: named.file, size, modified_ms, kind };
            self.extent.add(&placed.shape());
            self.members.push(placed);
        }
        false
    }

    /// Steps of work done so far.
    pub fn work(&self) -> u64 {
        self.naming.work() + self.members.len() as u64
    }

    /// Returns the layout of what was added.
    pub fn finish(mut self) -> Layout {
        self.members.shrink_to_fit();
        let bytes = self.members.iter().map(|member| MEMBER_OVERHEAD + member.name.len()).sum();
        Layout {
            id: self.hasher.finish(),
            members: self.members,
            length: self.extent.length(),
            bytes,
        }
    }
}

/// Lays out all at once.
pub fn lay_out<'a>(
    entries: impl IntoIterator<Item = &'a FileEntry>,
    owners: impl IntoIterator<Item = (DeviceId, &'a str)>,
) -> Result<Layout, TooLarge> {
    let mut builder = Builder::default();
    owners.into_iter().for_each(|(id, name)| builder.owner(id, name));
    entries.into_iter().try_for_each(|entry| builder.add(entry))?;
    while !builder.name_some(u64::MAX / 2) {}
    Ok(builder.finish())
}
