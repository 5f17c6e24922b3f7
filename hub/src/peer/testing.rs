//! Short names for what the tests of the Peer are made of.

use lanyard_protocol::group::group_log;
use lanyard_protocol::{
    Client, DeviceId, DeviceKind, EntryKind, FileEntry, FileId, Instance, NewFile,
};

thread_local! {
    static VISITED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts an entry that a loop over what others said has looked at.
pub(super) fn visit() {
    VISITED.set(VISITED.get() + 1);
}

/// Entries that were looked at since the last call, in this test.
pub(super) fn visited() -> usize {
    VISITED.take()
}

/// A UUID as text; this crate has no need of the crate for them.
fn uuid(kind: u8, n: u8) -> String {
    format!("{kind:08x}-0000-8000-8000-0000000000{n:02x}")
}

pub(super) fn device(n: u8) -> DeviceId {
    uuid(1, n).parse().unwrap()
}

pub(super) fn file_id(n: u8) -> FileId {
    uuid(2, n).parse().unwrap()
}

pub(super) fn client(n: u8, name: &str) -> Client {
    Client {
        public_id: device(n),
        name: name.into(),
        kind: DeviceKind::Native,
        platform: String::new(),
    }
}

pub(super) fn new_file(n: u8, path: &str, size: u64) -> NewFile {
    NewFile {
        file_id: file_id(n),
        path: path.into(),
        size,
        modified_ms: 1,
        media_type: String::new(),
        kind: EntryKind::File,
        root: None,
    }
}

/// File `n` of device `owner`, 1 MiB.
pub(super) fn entry(owner: u8, n: u8, path: &str) -> FileEntry {
    listed(device(owner), Instance([owner; 16]), new_file(n, path, 1 << 20))
}

pub(super) fn listed(owner: DeviceId, instance: Instance, new: NewFile) -> FileEntry {
    FileEntry {
        public_id: owner,
        instance,
        file_id: new.file_id,
        path: new.path,
        size: new.size,
        modified_ms: new.modified_ms,
        media_type: new.media_type,
        kind: new.kind,
        group_log: group_log(new.size),
        root: new.root,
    }
}
