//! Everything that reads what a stranger wrote, each as a function of bytes that must not panic and
//! that checks what must be true of the answer. `tests/wire/decoders.rs` runs them in each test run
//! with a few thousand mutants of their seeds, and `tests/deep/fuzz` for as long as one likes,
//! guided by coverage.

use std::collections::HashSet;
use std::str::FromStr;

use lanyard_device::connection::{GivenUrl, HubUrl};
use lanyard_device::file_names::NameAllocator;
use lanyard_device::{Rate, testing as device};
use lanyard_hub::layout::lay_out;
use lanyard_protocol::codec::{
    DecodeError, MasterMessage, decode, decode_master, encode, encode_master,
};
use lanyard_protocol::group::{GroupHash, Groups};
use lanyard_protocol::limits::{MAX_FILE_BYTES, MAX_SAFE_INTEGER};
use lanyard_protocol::range::{RangeRequest, wanted};
use lanyard_protocol::session_key::Authorization;
use lanyard_protocol::*;
use lanyard_relay::testing as relay;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A decoder under proof.
pub type Decoder = fn(&[u8]);

/// All of them, with a few inputs that get past the first check.
pub const ALL: &[(&str, Decoder, &[&[u8]])] = &[
    (
        "frames",
        frames,
        &[
            b"0{\"opcode\":\"PING\",\"data\":{},\"ref\":\"1\"}",
            b"1{\"opcode\":\"PONG\",\"data\":{}}",
        ],
    ),
    (
        "master_frames",
        master_frames,
        &[b"0{\"opcode\":\"PING\",\"data\":{}}", b"1{\"opcode\":\"PONG\",\"data\":{}}"],
    ),
    (
        "range",
        range,
        &[
            b"\0\x01\0\0\0\0\0\0bytes=0-99",
            b"\0\x01\0\0\0\0\0\0bytes=-5",
            b"\0\0\0\0\0\0\0\0bytes=7-",
        ],
    ),
    (
        "paths",
        paths,
        &[b"a/b.txt", "K\u{fc}che/\u{e9}.bin".as_bytes(), b"CON/nul.txt", b"a/../b", b"C:\\x"],
    ),
    (
        "names",
        names,
        &[b"A.txt\na.TXT\na (1).TXT", b"Pics/a\npics/a\nPics", b"x.lanyard-part\nCOM1\na%41"],
    ),
    (
        "ids",
        ids,
        &[b"00112233445566778899aabbccddeeff", b"0b7a3c52-6a0e-4c6e-9d0a-3a8f4b1f2c01", b"ref_1-2"],
    ),
    ("proofs", proofs, &[PROOF, OTHER_SPELLING]),
    (
        "groups",
        groups,
        &[
            b"\0\0\x10\0\0\0\0\0\x02\0\0\0\x03\0\0\0abc",
            b"\x01\0\0\0\0\x01\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        ],
    ),
    (
        "addresses",
        addresses,
        &[b"http://[FE80::1]:7070/#k=00&i=0011223344556677", b"HTTPS://Hub.Local:443", b"1.5M"],
    ),
    ("disposition", disposition, &["K\u{fc}che \"1\"; %41\u{202e}.bin".as_bytes(), b"a.txt"]),
    ("authority", authority, &[b"Hub.Local:80", b"[FE80::1]:7070\nhub", b"a\na"]),
    ("have_table", have_table, &[b"\0\0\x40\0\0\0\0\0\x07records that nobody wrote"]),
    (
        "content_record",
        content_record,
        &[b"0123456789abcdef {\"root\":\"\",\"path\":\"/a\",\"size\":1}"],
    ),
    ("archive", archive, &[b"a.txt\na.txt\nA.TXT\nb/c.d\n.e", b"x/\nx (1)\nx"]),
];

fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}

/// The first eight bytes as a number, and the rest; what is missing is zero.
fn number(data: &[u8]) -> (u64, &[u8]) {
    let (head, rest) = data.split_at(data.len().min(8));
    let mut bytes = [0; 8];
    bytes[..head.len()].copy_from_slice(head);
    (u64::from_le_bytes(bytes), rest)
}

fn size(data: &[u8]) -> (u64, &[u8]) {
    let (number, rest) = number(data);
    (number % (MAX_FILE_BYTES + 1), rest)
}

/// What was read is written, and read to the same again.
fn again<M: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(frame) = decode::<M>(text) {
        let written = encode(&frame.message, frame.reference.as_ref());
        // A ref may make it a little longer than what was read only if the escapes were shorter
        // there.
        match decode::<M>(&written) {
            Ok(second) => assert_eq!(second, frame),
            Err(error) => assert_eq!(error, DecodeError::TooLarge, "{written}"),
        }
    }
}

fn again_master<M: MasterMessage + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(frame) = decode_master::<M>(text) {
        let written = encode_master(&frame);
        assert_eq!(decode_master::<M>(&written).as_ref(), Ok(&frame), "{written}");
    }
}

/// Frames of a device's and the console's socket; the first byte chooses the direction.
pub fn frames(data: &[u8]) {
    let Some((direction, frame)) = data.split_first() else { return };
    let frame = text(frame);
    match direction % 4 {
        0 => again::<DeviceToRelay>(&frame),
        1 => again::<RelayToDevice>(&frame),
        2 => again::<ConsoleToMaster>(&frame),
        _ => again::<MasterToConsole>(&frame),
    }
}

/// Frames of the master's socket.
pub fn master_frames(data: &[u8]) {
    let Some((direction, frame)) = data.split_first() else { return };
    let frame = text(frame);
    match direction % 2 {
        0 => again_master::<MasterToRelay>(&frame),
        _ => again_master::<RelayToMaster>(&frame),
    }
}

/// A `Range` header over a file of some size.
pub fn range(data: &[u8]) {
    let (size, header) = size(data);
    match wanted(Some(&text(header)), size) {
        RangeRequest::Part { first, last } => {
            assert!(first <= last && last < size, "{first}-{last}/{size}")
        }
        RangeRequest::Whole | RangeRequest::Unsatisfiable => {}
    }
}

/// A path of the wire, and where a receiver puts it.
pub fn paths(data: &[u8]) {
    let wire = text(data);
    let travels = path::validate(&wire).is_ok();
    if !travels && wire.len() > 256 {
        // Nobody reads an entry with such a path, and a thousand folders would only take time.
        return;
    }
    let place = NameAllocator::default().place(&wire);
    assert!(place.iter().all(|name| is_plain(name)), "{wire:?} → {place:?}");
    if travels {
        assert_eq!(place.len(), wire.split('/').count(), "{wire:?} → {place:?}");
    }
    let folder = NameAllocator::default().place_folder(&wire);
    assert!(folder.iter().all(|name| is_plain(name)), "{wire:?} → {folder:?}");
}

/// Files of one download: each below the folder of the download, no two in one place.
pub fn names(data: &[u8]) {
    let (mut names, mut seen) = (NameAllocator::default(), HashSet::new());
    for wire in text(data).split('\n').take(64) {
        let place = names.place(wire);
        assert!(place.iter().all(|name| is_plain(name)), "{wire:?} → {place:?}");
        let folded = place.join("/").to_lowercase();
        assert!(seen.insert(folded), "{wire:?} → {place:?}, which is taken");
    }
}

/// Whether a name on disk is nothing but a name, on every platform.
pub fn is_plain(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let is_device = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"]
        .contains(&stem.as_str())
        || ["COM", "LPT"].iter().any(|port| {
            stem.strip_prefix(port)
                .is_some_and(|n| n.chars().count() == 1 && n.contains(|c: char| c.is_numeric()))
        });
    let forbidden = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    let is_hidden = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !name.is_empty()
        && name.len() <= 255
        && !name.ends_with(['.', ' '])
        && !is_device
        && !name.contains(|c| forbidden(c) || is_hidden(c))
}

fn one_spelling<T: FromStr>(text: &str, write: impl Fn(&T) -> String) {
    if let Ok(id) = text.parse::<T>() {
        assert_eq!(write(&id), text);
    }
}

/// Ids have one spelling.
pub fn ids(data: &[u8]) {
    let text = text(data);
    one_spelling::<Ticket>(&text, Ticket::to_hex);
    one_spelling::<Root>(&text, Root::to_hex);
    one_spelling::<Signature>(&text, Signature::to_hex);
    one_spelling::<InvitationId>(&text, InvitationId::to_hex);
    one_spelling::<FileId>(&text, FileId::to_string);
    if let Some(reference) = Ref::new(text.as_ref()) {
        assert_eq!(reference.as_str(), text);
    }
}

/// A proof of an HTTP request, as its header carries it.
const PROOF: &[u8] = b"Lanyard 00112233445566778899aabbccddeeff.17.\
000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// The same number, spelled as no proof spells it.
const OTHER_SPELLING: &[u8] = b"Lanyard 00112233445566778899aabbccddeeff.+017.\
000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Proofs of HTTP requests have one spelling, and a counter that survives JavaScript.
pub fn proofs(data: &[u8]) {
    let text = text(data);
    one_spelling::<Authorization>(&text, ToString::to_string);
    if let Ok(read) = text.parse::<Authorization>() {
        assert!((1..=MAX_SAFE_INTEGER).contains(&read.counter), "{text}");
    }
}

/// Groups and pieces of a file of some size, asked for by somebody who may not know it.
pub fn groups(data: &[u8]) {
    let (size, rest) = size(data);
    let (asked, content) = number(rest);
    let (first, count) = (asked as u32, (asked >> 32) as u32);
    let groups = Groups::of(size);
    assert!(u64::from(groups.count()) <= group::MAX_GROUPS);
    assert!(groups.span(first, count) <= size);
    let all: u64 = groups.span(0, groups.count());
    assert_eq!(all, size);
    if let Some(last) = groups.count().checked_sub(1) {
        assert_eq!(groups.offset(last) + groups.len(last), size);
        assert_eq!(groups.at(size - 1), last);
    }
    assert_eq!(groups.len(groups.count()), 0);
    let range = GroupRange::new(first, count);
    let is_last_of_all = first == u32::MAX;
    assert!(range.end() >= first && !range.contains(range.end()));
    assert!(count == 0 || is_last_of_all || range.contains(first));
    let small = Groups::of(content.len() as u64);
    let values: Vec<GroupHash> =
        (0..small.count()).map(|index| small.value(index, content)).collect();
    assert_eq!(small.root(&values), Some(Root(*blake3::hash(content).as_bytes())));
    assert_eq!(groups.root(&[GroupHash([0; 32]); 3]).is_some(), groups.count() == 3);
}

/// What people type: addresses of hubs, with invitations, and rates.
pub fn addresses(data: &[u8]) {
    let text = text(data);
    if let Ok(url) = text.parse::<HubUrl>() {
        assert_eq!(url.to_string().parse::<HubUrl>().as_ref(), Ok(&url), "{text}");
        assert!(!url.authority().contains(['/', '@', '#', ' ', '\n']), "{text}");
        assert!(url.is_same_place(&url.secured()));
        assert!(::http::HeaderValue::from_str(&url.authority()).is_ok());
    }
    if let Ok(given) = text.parse::<GivenUrl>() {
        assert_eq!(text.parse::<HubUrl>(), Ok(given.url));
    }
    if let Ok(rate) = text.parse::<Rate>() {
        assert!(rate.to_string().parse::<Rate>().is_ok(), "{text} → {rate}");
    }
}

/// The name of a download in its header: one line, nothing that ends it early, and the same name
/// again for who decodes it.
pub fn disposition(data: &[u8]) {
    let name = text(data);
    let header = relay::disposition(&name);
    let header = header.to_str().expect("visible ASCII");
    let (plain, encoded) = header
        .strip_prefix("attachment; filename=\"")
        .and_then(|rest| rest.split_once("\"; filename*=UTF-8''"))
        .expect("both forms of the name");
    assert!(!plain.contains(['"', '\\', '%', '/', ';']), "{header}");
    assert!(
        encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"%-._~".contains(&b)),
        "{header}"
    );
    let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8().expect("UTF-8");
    assert_eq!(decoded, name);
}

/// `Host` headers, one a line, and behind an empty line the target of the request.
pub fn authority(data: &[u8]) {
    let (hosts, target) = match data.windows(2).position(|two| two == b"\n\n") {
        Some(at) => (&data[..at], Some(text(&data[at + 2..]))),
        None => (data, None),
    };
    let mut headers = ::http::HeaderMap::new();
    for host in hosts.split(|b| *b == b'\n').take(4) {
        if let Ok(value) = ::http::HeaderValue::from_bytes(host) {
            headers.append(::http::header::HOST, value);
        }
    }
    let Some((name, canonical)) = relay::authority(&headers, target.as_deref(), 80) else { return };
    assert_eq!(headers.len(), 1);
    assert!(!name.is_empty() && canonical.starts_with(&name), "{name} {canonical}");
    headers.insert(::http::header::HOST, canonical.parse().expect("it was a header's value"));
    assert_eq!(relay::authority(&headers, None, 80), Some((name, canonical)));
}

fn entry(path: &str, size: u64, number: u128) -> FileEntry {
    let kind = if path.ends_with('/') { EntryKind::Folder } else { EntryKind::File };
    let size = if kind.is_file() { size } else { 0 };
    FileEntry {
        public_id: DeviceId(uuid(1)),
        instance: Instance([1; 16]),
        file_id: FileId(uuid(number)),
        path: path.trim_end_matches('/').into(),
        size,
        modified_ms: u64::MAX >> (number % 64),
        media_type: String::new(),
        kind,
        group_log: group::group_log(size),
        root: None,
    }
}

fn uuid(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

/// The table beside an unfinished file: only groups that there are can be good. (The fuzzer learns
/// how a record is made, by watching what it is compared with.)
pub fn have_table(data: &[u8]) {
    let (size, records) = size(data);
    let entry = entry("file", size % (1 << 26), 1);
    let groups = Groups::of(entry.size).count();
    assert!(device::have_table(&entry, records).runs().all(|run| run.end() <= groups));
}

/// A line of the index of contents.
pub fn content_record(data: &[u8]) {
    // Without the check of the whole line nothing behind it would ever be read: every line is tried
    // with a right one.
    let json = data.get(17..).unwrap_or(data);
    let checked = [&blake3::hash(json).to_hex().as_bytes()[..16], b" ", json].concat();
    for line in [data, &checked] {
        if let Some(written) = device::content_record(line) {
            assert_eq!(device::content_record(written.trim().as_bytes()), Some(written));
        }
    }
}

/// An archive of files with these paths, one a line: as long as was promised, and readable.
pub fn archive(data: &[u8]) {
    let text = text(data);
    let files: Vec<FileEntry> = text
        .split('\n')
        .take(24)
        .filter(|path| path::validate(path.trim_end_matches('/')).is_ok())
        .zip(1u128..)
        .map(|(path, number)| entry(path, number as u64 * 7 % 50, number))
        .collect();
    let layout = lay_out(&files, []).expect("few names");
    let bytes = relay::archive(&layout);
    assert_eq!(bytes.len() as u64, layout.length);
    let members = zip::ZipArchive::new(std::io::Cursor::new(&bytes)).expect("an archive");
    assert_eq!(members.len(), files.len());
    let large: Vec<FileEntry> =
        files.iter().map(|file| FileEntry { size: MAX_FILE_BYTES, ..file.clone() }).collect();
    assert!(lay_out(&large, []).expect("few names").length >= MAX_FILE_BYTES * files.len() as u64);
}
