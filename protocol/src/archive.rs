//! How long an archive is before any byte of it exists, and the name of its layout. The master
//! promises the length and the relay writes the bytes, so both count with this: stored members,
//! zip64 only where a number needs it (PROTOCOL.md 7.3).

use crate::file::{EntryKind, FileRef};
use crate::ids::LayoutId;

/// From this size or offset on, a field of 32 bits says "look into the zip64 extra".
pub const FULL32: u64 = 0xffff_ffff;
/// The same of the field of 16 bits that counts members.
pub const FULL16: u64 = 0xffff;

/// The properties of a member that decide its lengths.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes of the name in UTF-8.
    pub name_bytes: u64,
    /// Exact number of bytes of the content.
    pub size: u64,
    /// True for an empty folder, which has no content and no descriptor.
    pub is_folder: bool,
}

impl Shape {
    /// Describes a member by what the list says about it.
    pub fn new(name: &str, size: u64, kind: EntryKind) -> Self {
        Self { name_bytes: name.len() as u64, size, is_folder: !kind.is_file() }
    }

    /// Whether its size stands in a zip64 extra.
    pub fn is_large(&self) -> bool {
        self.size >= FULL32
    }

    /// Returns the bytes of the header in front of the content: 30, the name, and 20 for a zip64
    /// extra.
    pub fn local_length(&self) -> u64 {
        30 + self.name_bytes + if self.is_large() { 20 } else { 0 }
    }

    /// Returns the bytes behind the content, where its checksum stands: 16, or 24 with sizes of 64
    /// bits.
    pub fn descriptor_length(&self) -> u64 {
        match (self.is_folder, self.is_large()) {
            (true, _) => 0,
            (false, true) => 24,
            (false, false) => 16,
        }
    }

    /// Bytes of the zip64 extra of the directory, for a member that begins at `offset`.
    pub fn central_extra(&self, offset: u64) -> u64 {
        let size = if self.is_large() { 16 } else { 0 };
        let place = if offset >= FULL32 { 8 } else { 0 };
        if size + place > 0 { 4 + size + place } else { 0 }
    }

    /// Returns the bytes of its row in the directory: 46, the name and the extra.
    pub fn central_length(&self, offset: u64) -> u64 {
        46 + self.name_bytes + self.central_extra(offset)
    }
}

/// Adds up an archive member by member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Members so far.
    pub members: u64,
    /// Where the next member begins; after the last the directory.
    pub central_at: u64,
    /// Bytes of the directory so far.
    pub central_length: u64,
}

impl Extent {
    /// Adds a member and returns where it begins.
    pub fn add(&mut self, member: &Shape) -> u64 {
        let offset = self.central_at;
        self.members += 1;
        self.central_at += member.local_length() + member.size + member.descriptor_length();
        self.central_length += member.central_length(offset);
        offset
    }

    /// Returns true if a number does not fit the classic end record, so that the zip64 records are
    /// needed.
    pub fn needs_end64(&self) -> bool {
        self.members >= FULL16 || self.central_at >= FULL32 || self.central_length >= FULL32
    }

    /// Bytes of the whole archive.
    pub fn length(&self) -> u64 {
        self.central_at + self.central_length + 22 + if self.needs_end64() { 56 + 20 } else { 0 }
    }
}

/// Computes the name of a layout: equal ones have equal members, in one order, under equal names.
#[derive(Debug, Default)]
pub struct LayoutHasher(blake3::Hasher);

impl LayoutHasher {
    /// Mixes in the next member, in the order of the archive.
    pub fn add(&mut self, name: &str, file: &FileRef, size: u64, modified_ms: u64) {
        self.0.update(&(name.len() as u64).to_le_bytes());
        self.0.update(name.as_bytes());
        self.0.update(file.public_id.0.as_bytes());
        self.0.update(file.file_id.0.as_bytes());
        self.0.update(&size.to_le_bytes());
        self.0.update(&modified_ms.to_le_bytes());
    }

    /// Returns the name of the layout.
    pub fn finish(&self) -> LayoutId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0.finalize().as_bytes()[..16]);
        LayoutId(id)
    }
}
