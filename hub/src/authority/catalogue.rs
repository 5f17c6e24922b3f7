//! What is shared: files by owner, by the session that offers them, and those taken off the list
//! but not gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use lanyard_protocol::{DeviceId, FileEntry, FileId, FileRef, Instance, SessionAddress};

use super::quota::{Ledger, file_bytes};

/// A withdrawn file is still granted for this long: a download that waits for its owner overnight
/// goes on.
pub(super) const WITHDRAWN_KEPT_MS: u64 = 24 * 3_600_000;

/// One file as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// The file as it is listed.
    pub entry: FileEntry,
    /// Revision of its last change in the feed.
    pub revision: u64,
    /// When it was taken off the list, if it was.
    pub withdrawn_ms: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Catalogue {
    files: BTreeMap<FileRef, ListedFile>,
    /// Listed files of each session.
    by_session: BTreeMap<SessionAddress, BTreeSet<FileId>>,
    /// Listed files of each device, counted.
    counts: BTreeMap<DeviceId, usize>,
    /// The others, the longest withdrawn first.
    withdrawn: BTreeMap<DeviceId, BTreeSet<(u64, FileId)>>,
    /// Bytes of listed and withdrawn files.
    bytes: Ledger,
    /// The number of the last change of each device's files, of all changes; roots are none.
    versions: BTreeMap<DeviceId, u64>,
    changes: u64,
}

impl Catalogue {
    pub(super) fn get(&self, file: &FileRef) -> Option<&ListedFile> {
        self.files.get(file)
    }

    pub(super) fn bytes(&self) -> &Ledger {
        &self.bytes
    }

    pub(super) fn is_listed(&self, file: &FileRef) -> bool {
        self.files.get(file).is_some_and(|listing| listing.withdrawn_ms.is_none())
    }

    /// Listed, or withdrawn not too long ago.
    pub(super) fn grantable(&self, file: &FileRef, wall_ms: u64) -> Option<&FileEntry> {
        let listing = self.files.get(file)?;
        let kept =
            listing.withdrawn_ms.is_none_or(|at| wall_ms < at.saturating_add(WITHDRAWN_KEPT_MS));
        kept.then_some(&listing.entry)
    }

    pub(super) fn listed_count(&self, device: DeviceId) -> usize {
        self.counts.get(&device).copied().unwrap_or(0)
    }

    pub(super) fn withdrawn_count(&self, device: DeviceId) -> usize {
        self.withdrawn.get(&device).map_or(0, BTreeSet::len)
    }

    pub(super) fn has_withdrawn(&self) -> bool {
        !self.withdrawn.is_empty()
    }

    /// Another number than before when files of this device were listed, withdrawn or removed, or
    /// its name changed.
    pub(super) fn version(&self, device: DeviceId) -> u64 {
        self.versions.get(&device).copied().unwrap_or(0)
    }

    pub(super) fn note_change(&mut self, device: DeviceId) {
        self.changes += 1;
        self.versions.insert(device, self.changes);
    }

    /// The file of this device that comes after that one, withdrawn ones too.
    pub(super) fn next_of(&self, device: DeviceId, after: Option<FileId>) -> Option<&ListedFile> {
        let file = |file_id| FileRef { public_id: device, file_id };
        let from = after.map_or(Bound::Included(file(FileId(Default::default()))), |id| {
            Bound::Excluded(file(id))
        });
        let (file, listing) = self.files.range((from, Bound::Unbounded)).next()?;
        (file.public_id == device).then_some(listing)
    }

    pub(super) fn put(&mut self, listing: ListedFile) {
        let file = listing.entry.file_ref();
        self.remove(&file);
        self.bytes.add(file.public_id, file_bytes(&listing.entry));
        self.note_change(file.public_id);
        match listing.withdrawn_ms {
            None => {
                self.by_session.entry(session_of(&listing.entry)).or_default().insert(file.file_id);
                *self.counts.entry(file.public_id).or_default() += 1;
            }
            Some(at) => {
                self.withdrawn.entry(file.public_id).or_default().insert((at, file.file_id));
            }
        }
        self.files.insert(file, listing);
    }

    pub(super) fn set_root(&mut self, file: &FileRef, root: lanyard_protocol::Root, revision: u64) {
        if let Some(listing) = self.files.get_mut(file) {
            listing.entry.root = Some(root);
            listing.revision = revision;
        }
    }

    pub(super) fn withdraw(&mut self, file: &FileRef, at_ms: u64, revision: u64) {
        if let Some(listing) = self.remove(file) {
            self.put(ListedFile { withdrawn_ms: Some(at_ms), revision, ..listing });
        }
    }

    pub(super) fn remove(&mut self, file: &FileRef) -> Option<ListedFile> {
        let listing = self.files.remove(file)?;
        self.bytes.subtract(file.public_id, file_bytes(&listing.entry));
        self.note_change(file.public_id);
        match listing.withdrawn_ms {
            None => {
                remove_from(&mut self.by_session, session_of(&listing.entry), &file.file_id);
                if let Some(count) = self.counts.get_mut(&file.public_id) {
                    *count -= 1;
                    if *count == 0 {
                        self.counts.remove(&file.public_id);
                    }
                }
            }
            Some(at) => remove_from(&mut self.withdrawn, file.public_id, &(at, file.file_id)),
        }
        Some(listing)
    }

    /// Sessions that have listed files.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionAddress> {
        self.by_session.keys().copied()
    }

    /// Those of one device.
    pub(super) fn sessions_of(&self, public_id: DeviceId) -> impl Iterator<Item = SessionAddress> {
        let first = SessionAddress { public_id, instance: Instance([0; 16]) };
        let of_device = self
            .by_session
            .range(first..)
            .take_while(move |(session, _)| session.public_id == public_id);
        of_device.map(|(session, _)| *session)
    }

    pub(super) fn listed_by(&self, session: &SessionAddress) -> Vec<FileRef> {
        let ids = self.by_session.get(session).into_iter().flatten();
        ids.map(|file_id| FileRef { public_id: session.public_id, file_id: *file_id }).collect()
    }

    pub(super) fn offers(&self, session: &SessionAddress) -> bool {
        self.by_session.contains_key(session)
    }

    /// All of a device, withdrawn ones too.
    pub(super) fn of_device(&self, device: DeviceId) -> Vec<FileRef> {
        let from = FileRef { public_id: device, file_id: FileId(Default::default()) };
        self.files
            .range(from..)
            .take_while(|(file, _)| file.public_id == device)
            .map(|(file, _)| *file)
            .collect()
    }

    /// Withdrawn files of a device, the longest withdrawn first.
    pub(super) fn withdrawn_of(&self, device: DeviceId) -> impl Iterator<Item = FileId> {
        self.withdrawn.get(&device).into_iter().flatten().map(|(_, file_id)| *file_id)
    }

    /// Withdrawn too long ago to be granted, by owner.
    pub(super) fn lapsed(&self, wall_ms: u64) -> Vec<(DeviceId, Vec<FileId>)> {
        let is_lapsed = |at: u64| at.saturating_add(WITHDRAWN_KEPT_MS) <= wall_ms;
        let of_owner = |(owner, files): (&DeviceId, &BTreeSet<(u64, FileId)>)| {
            let ids: Vec<FileId> =
                files.iter().take_while(|(at, _)| is_lapsed(*at)).map(|(_, id)| *id).collect();
            (*owner, ids)
        };
        self.withdrawn.iter().map(of_owner).filter(|(_, ids)| !ids.is_empty()).collect()
    }

    #[cfg(test)]
    pub(super) fn listings(&self) -> impl Iterator<Item = &ListedFile> {
        self.files.values()
    }

    /// Every listed file, by owner and id.
    pub(super) fn listed(&self) -> impl Iterator<Item = &FileEntry> {
        self.files
            .values()
            .filter(|listing| listing.withdrawn_ms.is_none())
            .map(|listing| &listing.entry)
    }

    pub(super) fn listed_total(&self) -> usize {
        self.counts.values().sum()
    }
}

fn session_of(entry: &FileEntry) -> SessionAddress {
    SessionAddress { public_id: entry.public_id, instance: entry.instance }
}

fn remove_from<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: &V) {
    if let Some(set) = map.get_mut(&key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::fixture::entry;

    #[test]
    fn every_index_follows_the_file() {
        let mut catalogue = Catalogue::default();
        let one = entry(1, "a");
        let (file, session) = (one.file_ref(), session_of(&one));
        catalogue.put(ListedFile { entry: one, revision: 1, withdrawn_ms: None });
        assert!(catalogue.offers(&session) && catalogue.listed_count(file.public_id) == 1);
        catalogue.withdraw(&file, 100, 2);
        assert!(!catalogue.offers(&session) && catalogue.listed_count(file.public_id) == 0);
        assert!(catalogue.grantable(&file, 100 + WITHDRAWN_KEPT_MS - 1).is_some());
        assert!(catalogue.grantable(&file, 100 + WITHDRAWN_KEPT_MS).is_none());
        assert_eq!(
            catalogue.lapsed(100 + WITHDRAWN_KEPT_MS),
            vec![(file.public_id, vec![file.file_id])]
        );
        catalogue.remove(&file);
        assert!(catalogue.files.is_empty() && catalogue.by_session.is_empty());
        assert_eq!(catalogue.bytes().total(), 0);
        assert!(catalogue.counts.is_empty() && !catalogue.has_withdrawn());
    }
}
