//! The bytes of an archive around its members: stored, zip64 where needed. Written here because no
//! library can promise a length without the bytes; APPNOTE.TXT 6.3.10 is the format. CRCs follow
//! each member in a data descriptor and stand in the directory at the end.

use bytes::{BufMut, Bytes, BytesMut};
use lanyard_protocol::archive::{Extent, FULL16, FULL32, Shape};
use lanyard_protocol::message::LinkMember;

const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const END: u32 = 0x0605_4b50;
/// Names are UTF-8 (bit 11); CRC and sizes follow the data (bit 3, files only).
const UTF8: u16 = 1 << 11;
const DEFERRED: u16 = 1 << 3;

pub(crate) fn shape(member: &LinkMember) -> Shape {
    Shape::new(&member.name, member.size, member.kind)
}

/// DOS time and date of a moment, in UTC; before 1980 its beginning.
fn dos_time(modified_ms: u64) -> (u16, u16) {
    let seconds = modified_ms / 1_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970 (Howard Hinnant, "chrono-compatible low-level date
    // algorithms").
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

fn version(shape: &Shape, offset: u64) -> u16 {
    if shape.is_large() || offset >= FULL32 { 45 } else { 20 }
}

fn flags(shape: &Shape) -> u16 {
    if shape.is_folder { UTF8 } else { UTF8 | DEFERRED }
}

fn size32(shape: &Shape) -> u32 {
    if shape.is_large() { u32::MAX } else { shape.size as u32 }
}

/// Sizes stand here although bit 3 is set: readers of a stream need them to find the end of stored
/// data.
pub(crate) fn local_header(member: &LinkMember, offset: u64) -> Bytes {
    let shape = shape(member);
    let mut out = BytesMut::new();
    let (time, date) = dos_time(member.modified_ms);
    out.put_u32_le(LOCAL);
    out.put_u16_le(version(&shape, offset));
    out.put_u16_le(flags(&shape));
    out.put_u16_le(0);
    out.put_u16_le(time);
    out.put_u16_le(date);
    out.put_u32_le(0);
    out.put_u32_le(size32(&shape));
    out.put_u32_le(size32(&shape));
    out.put_u16_le(member.name.len() as u16);
    out.put_u16_le(if shape.is_large() { 20 } else { 0 });
    out.put_slice(member.name.as_bytes());
    if shape.is_large() {
        out.put_u16_le(1);
        out.put_u16_le(16);
        out.put_u64_le(shape.size);
        out.put_u64_le(shape.size);
    }
    out.freeze()
}

/// The record after a member's bytes; nothing after a folder.
pub(crate) fn descriptor(member: &LinkMember, crc: u32) -> Bytes {
    let shape = shape(member);
    let mut out = BytesMut::new();
    if shape.is_folder {
        return out.freeze();
    }
    out.put_u32_le(DESCRIPTOR);
    out.put_u32_le(crc);
    if shape.is_large() {
        out.put_u64_le(shape.size);
        out.put_u64_le(shape.size);
    } else {
        out.put_u32_le(shape.size as u32);
        out.put_u32_le(shape.size as u32);
    }
    out.freeze()
}

pub(crate) fn central_header(out: &mut BytesMut, member: &LinkMember, offset: u64, crc: u32) {
    let shape = shape(member);
    let extra = shape.central_extra(offset);
    let (time, date) = dos_time(member.modified_ms);
    // Made on Unix: rw-r--r-- files, rwxr-xr-x folders; never executable because a stranger said
    // so.
    let mode: u32 = if shape.is_folder { 0o040_755 } else { 0o100_644 };
    out.put_u32_le(CENTRAL);
    out.put_u16_le(3 << 8 | 45);
    out.put_u16_le(version(&shape, offset));
    out.put_u16_le(flags(&shape));
    out.put_u16_le(0);
    out.put_u16_le(time);
    out.put_u16_le(date);
    out.put_u32_le(crc);
    out.put_u32_le(size32(&shape));
    out.put_u32_le(size32(&shape));
    out.put_u16_le(member.name.len() as u16);
    out.put_u16_le(extra as u16);
    out.put_u16_le(0);
    out.put_u16_le(0);
    out.put_u16_le(0);
    out.put_u32_le(mode << 16 | u32::from(shape.is_folder) << 4);
    out.put_u32_le(offset.min(FULL32) as u32);
    out.put_slice(member.name.as_bytes());
    if extra > 0 {
        out.put_u16_le(1);
        out.put_u16_le(extra as u16 - 4);
        if shape.is_large() {
            out.put_u64_le(shape.size);
            out.put_u64_le(shape.size);
        }
        if offset >= FULL32 {
            out.put_u64_le(offset);
        }
    }
}

pub(crate) fn end(extent: &Extent) -> Bytes {
    let mut out = BytesMut::new();
    let Extent { members, central_at, central_length } = *extent;
    if extent.needs_end64() {
        out.put_u32_le(END64);
        out.put_u64_le(44);
        out.put_u16_le(3 << 8 | 45);
        out.put_u16_le(45);
        out.put_u32_le(0);
        out.put_u32_le(0);
        out.put_u64_le(members);
        out.put_u64_le(members);
        out.put_u64_le(central_length);
        out.put_u64_le(central_at);
        out.put_u32_le(LOCATOR64);
        out.put_u32_le(0);
        out.put_u64_le(central_at + central_length);
        out.put_u32_le(1);
    }
    out.put_u32_le(END);
    out.put_u16_le(0);
    out.put_u16_le(0);
    out.put_u16_le(members.min(FULL16) as u16);
    out.put_u16_le(members.min(FULL16) as u16);
    out.put_u32_le(central_length.min(FULL32) as u32);
    out.put_u32_le(central_at.min(FULL32) as u32);
    out.put_u16_le(0);
    out.freeze()
}
