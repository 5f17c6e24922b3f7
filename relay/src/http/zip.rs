//! Several files as one streamed archive: stored, zip64 where needed, its exact length known before the first byte. Written
//! here because no library can promise a length without the bytes; APPNOTE.TXT 6.3.10 is the format. CRCs follow each
//! member in a data descriptor and stand in the central directory.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use lanyard_hub::broker::LinkInfo;
use lanyard_hub::naming::Naming;
use lanyard_protocol::{FileEntry, FileRef};

const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const END: u32 = 0x0605_4b50;
/// Names are UTF-8 (bit 11); CRC and sizes follow the data (bit 3, files only).
const UTF8: u16 = 1 << 11;
const DEFERRED: u16 = 1 << 3;
/// From this size or offset on, a field of 32 bits says "look into the zip64 extra".
const FULL32: u64 = 0xffff_ffff;
const FULL16: usize = 0xffff;

#[derive(Debug, Clone)]
pub struct Member {
    pub entry: FileEntry,
    name: String,
    offset: u64,
    crc: u32,
}

impl Member {
    fn is_large(&self) -> bool {
        self.entry.size >= FULL32
    }

    fn is_folder(&self) -> bool {
        !self.entry.kind.is_file()
    }

    fn local_length(&self) -> u64 {
        30 + self.name.len() as u64 + if self.is_large() { 20 } else { 0 }
    }

    fn descriptor_length(&self) -> u64 {
        match (self.is_folder(), self.is_large()) {
            (true, _) => 0,
            (false, true) => 24,
            (false, false) => 16,
        }
    }

    fn central_extra(&self) -> u64 {
        let size = if self.is_large() { 16 } else { 0 };
        let offset = if self.offset >= FULL32 { 8 } else { 0 };
        if size + offset > 0 { 4 + size + offset } else { 0 }
    }

    fn central_length(&self) -> u64 {
        46 + self.name.len() as u64 + self.central_extra()
    }
}

/// Layout of an archive: what lies where, before any byte of it exists.
#[derive(Debug, Clone)]
pub struct Archive {
    pub members: Vec<Member>,
    central_at: u64,
    central_length: u64,
}

impl Archive {
    pub fn new(info: &LinkInfo) -> Self {
        let mut naming = Naming::default();
        info.owners.iter().for_each(|owner| naming.owner(owner.public_id, &owner.name));
        let mut entries = BTreeMap::new();
        for entry in &info.files {
            naming.add(entry.file_ref(), &entry.path, !entry.kind.is_file());
            entries.insert(entry.file_ref(), entry);
        }
        let mut offset = 0;
        let mut members = Vec::with_capacity(info.files.len());
        while let Some(named) = naming.next(u64::MAX).flatten() {
            let Some(entry) = entries.get(&named.file) else { continue };
            let slash = if named.is_folder { "/" } else { "" };
            let member = Member { entry: (*entry).clone(), name: named.name + slash, offset, crc: 0 };
            offset += member.local_length() + entry.size + member.descriptor_length();
            members.push(member);
        }
        let central_length = members.iter().map(Member::central_length).sum();
        Self { members, central_at: offset, central_length }
    }

    fn needs_end64(&self) -> bool {
        self.members.len() >= FULL16 || self.central_at >= FULL32 || self.central_length >= FULL32
    }

    /// Bytes of the whole archive.
    pub fn length(&self) -> u64 {
        self.central_at + self.central_length + 22 + if self.needs_end64() { 56 + 20 } else { 0 }
    }
}

/// What the archive needs next.
pub enum Step {
    Write(Bytes),
    /// Bytes of this file, in order; then [`Writer::member_bytes`].
    NeedBytes(FileRef),
}

#[derive(Clone, Copy)]
enum State {
    Local,
    Data { left: u64 },
    Descriptor,
    Central,
    End,
    Done,
}

/// Writes an archive step by step.
pub struct Writer {
    archive: Archive,
    at: usize,
    state: State,
    crc: crc32fast::Hasher,
}

impl Writer {
    pub fn new(archive: Archive) -> Self {
        let state = if archive.members.is_empty() { State::Central } else { State::Local };
        Self { archive, at: 0, state, crc: crc32fast::Hasher::new() }
    }

    /// Takes note of bytes of the member on its way.
    pub fn member_bytes(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        if let State::Data { left } = &mut self.state {
            *left = left.saturating_sub(bytes.len() as u64);
        }
    }

    pub fn next(&mut self) -> Option<Step> {
        loop {
            match self.state {
                State::Local => {
                    let member = &self.archive.members[self.at];
                    self.state = State::Data { left: member.entry.size };
                    self.crc = crc32fast::Hasher::new();
                    return Some(Step::Write(local_header(member)));
                }
                State::Data { left: 0 } => self.state = State::Descriptor,
                State::Data { .. } => return Some(Step::NeedBytes(self.archive.members[self.at].entry.file_ref())),
                State::Descriptor => {
                    let member = &mut self.archive.members[self.at];
                    member.crc = std::mem::take(&mut self.crc).finalize();
                    let bytes = descriptor(member);
                    self.at += 1;
                    self.state = if self.at < self.archive.members.len() { State::Local } else { State::Central };
                    if !bytes.is_empty() {
                        return Some(Step::Write(bytes));
                    }
                }
                State::Central => return Some(self.central()),
                State::End => {
                    self.state = State::Done;
                    return Some(Step::Write(end(&self.archive)));
                }
                State::Done => return None,
            }
        }
    }

    /// The central directory in pieces: 10,000 members are about a megabyte.
    fn central(&mut self) -> Step {
        if self.at >= self.archive.members.len() {
            self.at = 0;
        }
        let mut out = BytesMut::new();
        while let Some(member) = self.archive.members.get(self.at) {
            central_header(&mut out, member);
            self.at += 1;
            if out.len() > 64 * 1024 {
                break;
            }
        }
        if self.at >= self.archive.members.len() {
            self.state = State::End;
        }
        Step::Write(out.freeze())
    }
}

/// DOS time and date of a moment, in UTC; before 1980 its beginning.
fn dos_time(modified_ms: u64) -> (u16, u16) {
    let seconds = modified_ms / 1_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    if year < 1980 {
        return (0, (1 << 5) | 1);
    }
    let time = (rest / 3_600) << 11 | (rest % 3_600 / 60) << 5 | (rest % 60 / 2);
    let date = (year.min(2107) - 1980) << 9 | month << 5 | day;
    (time as u16, date as u16)
}

fn version(member: &Member) -> u16 {
    if member.is_large() || member.offset >= FULL32 { 45 } else { 20 }
}

fn flags(member: &Member) -> u16 {
    if member.is_folder() { UTF8 } else { UTF8 | DEFERRED }
}

fn size32(member: &Member) -> u32 {
    if member.is_large() { u32::MAX } else { member.entry.size as u32 }
}

/// Sizes stand here although bit 3 is set: readers of a stream need them to find the end of stored data.
fn local_header(member: &Member) -> Bytes {
    let mut out = BytesMut::new();
    let (time, date) = dos_time(member.entry.modified_ms);
    out.put_u32_le(LOCAL);
    out.put_u16_le(version(member));
    out.put_u16_le(flags(member));
    out.put_u16_le(0);
    out.put_u16_le(time);
    out.put_u16_le(date);
    out.put_u32_le(0);
    out.put_u32_le(size32(member));
    out.put_u32_le(size32(member));
    out.put_u16_le(member.name.len() as u16);
    out.put_u16_le(if member.is_large() { 20 } else { 0 });
    out.put_slice(member.name.as_bytes());
    if member.is_large() {
        out.put_u16_le(1);
        out.put_u16_le(16);
        out.put_u64_le(member.entry.size);
        out.put_u64_le(member.entry.size);
    }
    out.freeze()
}

fn descriptor(member: &Member) -> Bytes {
    let mut out = BytesMut::new();
    if member.is_folder() {
        return out.freeze();
    }
    out.put_u32_le(DESCRIPTOR);
    out.put_u32_le(member.crc);
    if member.is_large() {
        out.put_u64_le(member.entry.size);
        out.put_u64_le(member.entry.size);
    } else {
        out.put_u32_le(member.entry.size as u32);
        out.put_u32_le(member.entry.size as u32);
    }
    out.freeze()
}

fn central_header(out: &mut BytesMut, member: &Member) {
    let (time, date) = dos_time(member.entry.modified_ms);
    // Made on Unix: rw-r--r-- files, rwxr-xr-x folders; never executable because a stranger said so.
    let mode: u32 = if member.is_folder() { 0o040_755 } else { 0o100_644 };
    out.put_u32_le(CENTRAL);
    out.put_u16_le(3 << 8 | 45);
    out.put_u16_le(version(member));
    out.put_u16_le(flags(member));
    out.put_u16_le(0);
    out.put_u16_le(time);
    out.put_u16_le(date);
    out.put_u32_le(member.crc);
    out.put_u32_le(size32(member));
    out.put_u32_le(size32(member));
    out.put_u16_le(member.name.len() as u16);
    out.put_u16_le(member.central_extra() as u16);
    out.put_u16_le(0);
    out.put_u16_le(0);
    out.put_u16_le(0);
    out.put_u32_le(mode << 16 | u32::from(member.is_folder()) << 4);
    out.put_u32_le(member.offset.min(FULL32) as u32);
    out.put_slice(member.name.as_bytes());
    if member.central_extra() > 0 {
        out.put_u16_le(1);
        out.put_u16_le(member.central_extra() as u16 - 4);
        if member.is_large() {
            out.put_u64_le(member.entry.size);
            out.put_u64_le(member.entry.size);
        }
        if member.offset >= FULL32 {
            out.put_u64_le(member.offset);
        }
    }
}

fn end(archive: &Archive) -> Bytes {
    let mut out = BytesMut::new();
    let count = archive.members.len();
    if archive.needs_end64() {
        out.put_u32_le(END64);
        out.put_u64_le(44);
        out.put_u16_le(3 << 8 | 45);
        out.put_u16_le(45);
        out.put_u32_le(0);
        out.put_u32_le(0);
        out.put_u64_le(count as u64);
        out.put_u64_le(count as u64);
        out.put_u64_le(archive.central_length);
        out.put_u64_le(archive.central_at);
        out.put_u32_le(LOCATOR64);
        out.put_u32_le(0);
        out.put_u64_le(archive.central_at + archive.central_length);
        out.put_u32_le(1);
    }
    out.put_u32_le(END);
    out.put_u16_le(0);
    out.put_u16_le(0);
    out.put_u16_le(count.min(FULL16) as u16);
    out.put_u16_le(count.min(FULL16) as u16);
    out.put_u32_le(archive.central_length.min(FULL32) as u32);
    out.put_u32_le(archive.central_at.min(FULL32) as u32);
    out.put_u16_le(0);
    out.freeze()
}
