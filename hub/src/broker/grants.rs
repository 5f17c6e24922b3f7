//! Grants: what the relay needs of a file, asked of the master once and kept while it is used. They serve while the master is
//! away, at most ten minutes.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::group::Groups;
use lanyard_protocol::limits::{GRANT_MS, MAX_FILES_A_MESSAGE};
use lanyard_protocol::message::{FileGrant, FileLookup, FileRoot};
use lanyard_protocol::{DeviceId, FailureCode, FileEntry, FileRef, Ref, RelayToMaster, Root};

use super::asks::Parked;
use super::*;

#[derive(Debug)]
struct Grant {
    entry: FileEntry,
    used: Moment,
    /// When the master last said so.
    confirmed: Moment,
    has_values: bool,
    values_refused: bool,
}

#[derive(Debug, Default)]
pub(super) struct Grants {
    known: BTreeMap<FileRef, Grant>,
    /// Look-ups under way, by their reference.
    lookups: BTreeMap<Ref, Vec<FileRef>>,
    asked: BTreeSet<FileRef>,
    /// The master is away: grants older than ten minutes are not trusted.
    master_away: bool,
}

impl Grants {
    pub fn entry(&self, file: &FileRef) -> Option<&FileEntry> {
        self.known.get(file).map(|grant| &grant.entry)
    }

    pub fn groups(&self, file: &FileRef) -> Option<Groups> {
        let entry = self.entry(file)?;
        entry.kind.is_file().then(|| Groups::new(entry.size, entry.group_log))
    }

    pub fn root(&self, file: &FileRef) -> Option<Root> {
        self.entry(file)?.root
    }

    pub fn has_values(&self, file: &FileRef) -> bool {
        self.known.get(file).is_some_and(|grant| grant.has_values)
    }

    pub fn note_values(&mut self, file: &FileRef) {
        if let Some(grant) = self.known.get_mut(file) {
            grant.has_values = true;
        }
    }

    pub fn values_refused(&self, file: &FileRef) -> bool {
        self.known.get(file).is_some_and(|grant| grant.values_refused)
    }

    pub fn refuse_values(&mut self, file: &FileRef) {
        if let Some(grant) = self.known.get_mut(file) {
            grant.values_refused = true;
        }
    }

    /// Whether the root is news.
    pub fn set_root(&mut self, file: &FileRef, root: Root) -> bool {
        match self.known.get_mut(file) {
            Some(grant) => grant.entry.root.replace(root) != Some(root),
            None => false,
        }
    }

    /// Notes the use of those that are known and gives back those that are not (or too old to trust).
    pub fn unknown(&mut self, now: Moment, files: BTreeSet<FileRef>) -> Vec<FileRef> {
        let away = self.master_away;
        let mut unknown = Vec::new();
        for file in files {
            match self.known.get_mut(&file) {
                Some(grant) if !away || now.since(grant.confirmed) < GRANT_MS => grant.used = now,
                _ => unknown.push(file),
            }
        }
        unknown
    }

    pub fn insert(&mut self, now: Moment, entry: FileEntry) {
        let file = entry.file_ref();
        let old = self.known.remove(&file);
        let has_values = old.as_ref().is_some_and(|grant| grant.has_values);
        let values_refused = old.as_ref().is_some_and(|grant| grant.values_refused);
        let root = entry.root.or(old.and_then(|grant| grant.entry.root));
        let entry = FileEntry { root, ..entry };
        self.known.insert(file, Grant { entry, used: now, confirmed: now, has_values, values_refused });
    }

    /// A file was added again (another instance of its owner has it now): what is known of it follows.
    pub fn renew(&mut self, entry: &FileEntry) {
        if let Some(grant) = self.known.get_mut(&entry.file_ref()) {
            let root = entry.root.or(grant.entry.root);
            grant.entry = FileEntry { root, ..entry.clone() };
        }
    }

    pub fn remove(&mut self, file: &FileRef) {
        self.known.remove(file);
    }

    pub fn files_of(&self, device: DeviceId) -> Vec<FileRef> {
        self.known.keys().filter(|file| file.public_id == device).copied().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub fn sweep(&mut self, now: Moment) {
        self.known.retain(|_, grant| now.since(grant.used) < GRANT_MS);
    }
}

impl Broker {
    /// Asks the master for files that are not being asked for already.
    pub(super) fn look_up(&mut self, files: Vec<FileRef>) {
        let files: Vec<FileRef> = files.into_iter().filter(|file| self.grants.asked.insert(*file)).collect();
        self.send_lookups(files);
    }

    fn send_lookups(&mut self, files: Vec<FileRef>) {
        for part in files.chunks(MAX_FILES_A_MESSAGE) {
            let reference = Ref::number(self.number());
            self.grants.lookups.insert(reference.clone(), part.to_vec());
            let message = RelayToMaster::FileLookup(FileLookup { files: part.to_vec() });
            self.tell_master_from(message, None, Some(reference));
        }
    }

    /// The answer to one look-up: asked and not in it is gone.
    pub(super) fn files_granted(&mut self, now: Moment, grant: FileGrant, reference: Option<Ref>) {
        let Some(asked) = reference.and_then(|reference| self.grants.lookups.remove(&reference)) else { return };
        let granted: BTreeSet<FileRef> = grant.files.iter().map(FileEntry::file_ref).collect();
        let mut roots_to_tell = Vec::new();
        for entry in grant.files {
            let file = entry.file_ref();
            let ours = self.grants.root(&file);
            if let (Some(root), None) = (ours, entry.root) {
                roots_to_tell.push((file, root));
            }
            self.grants.insert(now, entry);
        }
        for file in &asked {
            self.grants.asked.remove(file);
            if !granted.contains(file) {
                self.grants.remove(file);
                self.end_file(now, *file, FailureCode::FileGone);
            }
        }
        for (FileRef { public_id, file_id }, root) in roots_to_tell {
            self.tell_master(RelayToMaster::FileRoot(FileRoot { public_id, file_id, root }));
        }
        self.keep_sweeping(now);
        self.grants_arrived(now);
    }

    /// Asks that waited for grants go on with what came.
    fn grants_arrived(&mut self, now: Moment) {
        for ask in self.take_parked(|parked| *parked == Parked::Grants) {
            if ask.files().iter().any(|file| self.grants.asked.contains(file)) {
                self.asks.insert(ask.id, ask);
            } else {
                self.consider(now, ask);
            }
        }
    }

    pub(super) fn lookup_failed(&mut self, now: Moment, code: FailureCode, reference: Option<&Ref>) {
        let Some(asked) = reference.and_then(|reference| self.grants.lookups.remove(reference)) else { return };
        for file in asked {
            self.grants.asked.remove(&file);
            self.fail_asks_of(now, &file, code);
        }
    }

    /// The master went away with look-ups unanswered.
    pub(super) fn lookups_lost(&mut self, now: Moment) {
        self.grants.lookups.clear();
        self.grants.asked.clear();
        self.grants.master_away = true;
        for ask in self.take_parked(|parked| *parked == Parked::Grants) {
            self.ask_failed(now, ask, FailureCode::ServerNotReady);
        }
    }

    /// A master that came back is asked again for all live grants.
    pub(super) fn confirm_grants(&mut self) {
        self.grants.master_away = false;
        let live: Vec<FileRef> = self.grants.known.keys().copied().collect();
        self.send_lookups(live);
    }
}
