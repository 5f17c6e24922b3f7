//! Members, files and disks for the tests of the store.

use std::collections::BTreeMap;
use std::path::Path;

use lanyard_hub::authority::{LinkRecord, LinkTarget, Member, SavedState, Verdict};
use lanyard_protocol::{
    Client, DeviceId, DeviceKind, EntryKind, FileEntry, FileId, FileRef, Instance, LinkBinding,
    LinkHash, PublicKey, identity,
};

use super::Store;

pub(crate) fn id(n: u8) -> DeviceId {
    identity::public_id(&PublicKey([n; 32]))
}

pub(crate) fn member(n: u8, verdict: Verdict) -> Member {
    let client = Client {
        public_id: id(n),
        name: "Ana’s 📱".into(),
        kind: DeviceKind::Browser,
        platform: "".into(),
    };
    Member {
        client,
        public_key: PublicKey([n; 32]),
        verdict,
        revision: 3,
        since_ms: 1_700_000_000_000,
        until_ms: Some(1_800_000_000_000),
    }
}

/// The decided ones, by id.
pub(crate) fn roster(saved: &SavedState) -> BTreeMap<DeviceId, Member> {
    saved.members.iter().map(|member| (member.client.public_id, member.clone())).collect()
}

/// The files of a data directory as they lie there, to be laid out again and again.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DiskImage(pub BTreeMap<String, Vec<u8>>);

impl DiskImage {
    /// As after a kill: what SQLite keeps in shared memory is not on a disk.
    pub(crate) fn of(dir: &Path) -> Self {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.ends_with("-shm") {
                files.insert(name.clone(), std::fs::read(dir.join(name)).unwrap());
            }
        }
        Self(files)
    }

    pub(crate) fn lay_out(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.0
            .iter()
            .for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
        dir
    }

    pub(crate) fn with(&self, name: &str, bytes: Vec<u8>) -> Self {
        let mut files = self.0.clone();
        files.insert(name.into(), bytes);
        Self(files)
    }

    pub(crate) fn without(&self, name: &str) -> Self {
        let mut files = self.0.clone();
        files.remove(name);
        Self(files)
    }

    pub(crate) fn file(&self, name: &str) -> &[u8] {
        &self.0[name]
    }
}

pub(crate) const DB: &str = "lanyard.db";
pub(crate) const WAL: &str = "lanyard.db-wal";
pub(crate) const COPY: &str = "roster.json";

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(&dir.join(DB)).unwrap()
}

/// Files of one device.
pub(crate) fn files(owner: u8, count: u8) -> Vec<FileEntry> {
    let entry = |n: u8| FileEntry {
        public_id: id(owner),
        instance: Instance([owner; 16]),
        file_id: FileId(uuid::Uuid::from_bytes([n; 16])),
        path: format!("{}/{n}.txt", "folder".repeat(10)),
        size: 1 << 40,
        modified_ms: 5,
        media_type: "text/plain".into(),
        kind: EntryKind::File,
        group_log: 24,
        root: None,
    };
    (0..count).map(entry).collect()
}

pub(crate) fn link(maker: u8) -> LinkRecord {
    let file = FileRef { public_id: id(maker), file_id: FileId(uuid::Uuid::from_bytes([1; 16])) };
    LinkRecord {
        hash: LinkHash([maker; 32]),
        binding: LinkBinding([maker + 100; 32]),
        maker: id(maker),
        name: "a.txt".into(),
        linked: LinkTarget::Files(vec![file]),
        made_ms: 8,
        used_ms: 9,
        ends_ms: None,
        uses_left: None,
    }
}
