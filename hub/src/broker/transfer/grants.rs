//! Grants: what the relay needs of a file, asked of the master once and kept while it is used. They
//! serve while the master is away, at most ten minutes.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::group::Groups;
use lanyard_protocol::limits::{GRANT_MS, MAX_FILES_A_MESSAGE, MAX_LOOKUPS_AN_ASKER};
use lanyard_protocol::message::{FileGrant, FileLookup, FileRoot};
use lanyard_protocol::{DeviceId, FailureCode, FileEntry, FileRef, Ref, RelayMessage, Root};

use super::budget::RequesterKey;
use super::requests::{ChunkRequest, ChunkRequestId, WaitReason};
use super::*;

#[derive(Debug)]
struct FileGrantState {
    entry: FileEntry,
    used: Moment,
    /// When the master last said so.
    confirmed: Moment,
    has_hashes: bool,
    hashes_refused: bool,
    /// Pages of archives that hold it. When the last is read it goes, unless a device wants it too.
    pages: u32,
    is_wanted: bool,
}

/// One FILE_LOOKUP that the master has not answered.
#[derive(Debug, Default)]
struct PendingLookup {
    files: Vec<FileRef>,
    /// Asks that cannot go on without it: its answer visits these and no others.
    waiting: Vec<(ChunkRequestId, RequesterKey)>,
}

#[derive(Debug, Default)]
pub(super) struct Grants {
    known: BTreeMap<FileRef, FileGrantState>,
    /// Look-ups under way, by their reference.
    lookups: BTreeMap<Ref, PendingLookup>,
    /// The look-up that each file is asked for in.
    asked: BTreeMap<FileRef, Ref>,
    /// Places in `waiting` of all look-ups that each asker takes.
    places: BTreeMap<RequesterKey, usize>,
    /// The master is away: grants older than ten minutes are not trusted.
    master_away: bool,
}

/// Keeps the parts of an entry that the relay needs. A path may be 4 KiB long, and a hundred
/// thousand grants may be live.
fn nameless(entry: FileEntry) -> FileEntry {
    FileEntry { path: String::new(), media_type: String::new(), ..entry }
}

impl Grants {
    pub(super) fn entry(&self, file: &FileRef) -> Option<&FileEntry> {
        self.known.get(file).map(|grant| &grant.entry)
    }

    pub(super) fn groups(&self, file: &FileRef) -> Option<Groups> {
        let entry = self.entry(file)?;
        entry.kind.is_file().then(|| Groups::new(entry.size, entry.group_log))
    }

    pub(super) fn root(&self, file: &FileRef) -> Option<Root> {
        self.entry(file)?.root
    }

    pub(super) fn has_hashes(&self, file: &FileRef) -> bool {
        self.known.get(file).is_some_and(|grant| grant.has_hashes)
    }

    pub(super) fn note_hashes(&mut self, file: &FileRef) {
        if let Some(grant) = self.known.get_mut(file) {
            grant.has_hashes = true;
        }
    }

    /// The data plane had to drop its list.
    pub(super) fn forget_hashes(&mut self, file: &FileRef) {
        if let Some(grant) = self.known.get_mut(file) {
            grant.has_hashes = false;
        }
    }

    pub(super) fn hashes_refused(&self, file: &FileRef) -> bool {
        self.known.get(file).is_some_and(|grant| grant.hashes_refused)
    }

    pub(super) fn refuse_hashes(&mut self, file: &FileRef) {
        if let Some(grant) = self.known.get_mut(file) {
            grant.hashes_refused = true;
        }
    }

    /// Whether the root is news.
    pub(super) fn set_root(&mut self, file: &FileRef, root: Root) -> bool {
        match self.known.get_mut(file) {
            Some(grant) => grant.entry.root.replace(root) != Some(root),
            None => false,
        }
    }

    /// Notes the use of those that are known and gives back those that are not (or too old to
    /// trust).
    pub(super) fn unknown(&mut self, now: Moment, files: BTreeSet<FileRef>) -> Vec<FileRef> {
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

    pub(super) fn insert(&mut self, now: Moment, entry: FileEntry) {
        let file = entry.file_ref();
        let old = self.known.remove(&file);
        let has_hashes = old.as_ref().is_some_and(|grant| grant.has_hashes);
        let hashes_refused = old.as_ref().is_some_and(|grant| grant.hashes_refused);
        let pages = old.as_ref().map_or(0, |grant| grant.pages);
        let root = entry.root.or(old.and_then(|grant| grant.entry.root));
        let entry = FileEntry { root, ..nameless(entry) };
        let is_wanted = true;
        self.known.insert(
            file,
            FileGrantState {
                entry,
                used: now,
                confirmed: now,
                has_hashes,
                hashes_refused,
                pages,
                is_wanted,
            },
        );
    }

    /// Takes an entry for the page of an archive that names it.
    pub(super) fn hold(&mut self, now: Moment, entry: FileEntry) {
        let file = entry.file_ref();
        let was_wanted = self.known.get(&file).is_some_and(|grant| grant.is_wanted);
        self.insert(now, entry);
        if let Some(grant) = self.known.get_mut(&file) {
            grant.pages += 1;
            grant.is_wanted = was_wanted;
        }
    }

    /// One page that held it is read.
    pub(super) fn release(&mut self, file: &FileRef) {
        let Some(grant) = self.known.get_mut(file) else { return };
        grant.pages = grant.pages.saturating_sub(1);
        if grant.pages == 0 && !grant.is_wanted {
            self.known.remove(file);
        }
    }

    /// Devices want these: they are kept for a while.
    pub(super) fn note_wanted(&mut self, files: &BTreeSet<FileRef>) {
        for file in files {
            if let Some(grant) = self.known.get_mut(file) {
                grant.is_wanted = true;
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// A file was added again (another instance of its owner has it now): what is known of it
    /// follows.
    pub(super) fn renew(&mut self, entry: &FileEntry) {
        if let Some(grant) = self.known.get_mut(&entry.file_ref()) {
            let root = entry.root.or(grant.entry.root);
            grant.entry = FileEntry { root, ..nameless(entry.clone()) };
        }
    }

    pub(super) fn remove(&mut self, file: &FileRef) {
        self.known.remove(file);
    }

    pub(super) fn files_of(&self, device: DeviceId) -> BTreeSet<FileRef> {
        self.known.keys().filter(|file| file.public_id == device).copied().collect()
    }

    /// Takes out a look-up that was answered.
    fn end_lookup(&mut self, reference: &Ref) -> Option<PendingLookup> {
        let lookup = self.lookups.remove(reference)?;
        for file in &lookup.files {
            if self.asked.get(file) == Some(reference) {
                self.asked.remove(file);
            }
        }
        for (_, key) in &lookup.waiting {
            if let Some(taken) = self.places.get_mut(key) {
                *taken -= 1;
                if *taken == 0 {
                    self.places.remove(key);
                }
            }
        }
        Some(lookup)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn sweep(&mut self, now: Moment) {
        self.known.retain(|_, grant| now.since(grant.used) < GRANT_MS);
    }
}

impl Transfers {
    /// Asks the master for files that are not being asked for already, and lets the ask wait for
    /// all of them. False if its asker has too much waiting for the master as it is.
    pub(super) fn look_up(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &ChunkRequest,
        files: Vec<FileRef>,
    ) -> bool {
        let key = self.asker_key(cx, &ask.asker);
        let taken = self.grants.places.get(&key).copied().unwrap_or(0);
        if taken >= MAX_LOOKUPS_AN_ASKER {
            return false;
        }
        let news =
            files.iter().filter(|file| !self.grants.asked.contains_key(file)).copied().collect();
        for (reference, part) in self.send_lookups(cx, news) {
            self.grants.asked.extend(part.into_iter().map(|file| (file, reference.clone())));
        }
        let lookups: BTreeSet<Ref> =
            files.iter().filter_map(|file| self.grants.asked.get(file).cloned()).collect();
        *self.grants.places.entry(key).or_default() += lookups.len();
        for reference in lookups {
            self.grants.lookups.entry(reference).or_default().waiting.push((ask.id, key));
        }
        true
    }

    fn send_lookups(&mut self, cx: &mut Cx<'_>, files: Vec<FileRef>) -> Vec<(Ref, Vec<FileRef>)> {
        let mut sent = Vec::new();
        for part in files.chunks(MAX_FILES_A_MESSAGE) {
            let reference = Ref::number(cx.number());
            let lookup = PendingLookup { files: part.to_vec(), waiting: Vec::new() };
            self.grants.lookups.insert(reference.clone(), lookup);
            let message = RelayMessage::FileLookup(FileLookup { files: part.to_vec() });
            cx.ask_master(message, Some(reference.clone()));
            sent.push((reference, part.to_vec()));
        }
        sent
    }

    /// The answer to one look-up: asked and not in it is gone.
    pub(super) fn files_granted(
        &mut self,
        cx: &mut Cx<'_>,
        grant: FileGrant,
        reference: Option<Ref>,
    ) {
        let Some(lookup) = reference.and_then(|reference| self.grants.end_lookup(&reference))
        else {
            return;
        };
        let granted: BTreeSet<FileRef> = grant.files.iter().map(FileEntry::file_ref).collect();
        let mut roots_to_tell = Vec::new();
        for entry in grant.files {
            let file = entry.file_ref();
            self.corruption.listed(&file);
            let ours = self.grants.root(&file);
            if let (Some(root), None) = (ours, entry.root) {
                roots_to_tell.push((file, root));
            }
            self.grants.insert(cx.now, entry);
        }
        let gone: BTreeSet<FileRef> =
            lookup.files.iter().filter(|file| !granted.contains(file)).copied().collect();
        for file in &gone {
            self.grants.remove(file);
        }
        self.end_gone(cx, &gone);
        for (FileRef { public_id, file_id }, root) in roots_to_tell {
            cx.tell_master(RelayMessage::FileRoot(FileRoot { public_id, file_id, root }));
        }
        cx.keep_sweeping();
        self.grants_arrived(cx, lookup.waiting);
    }

    /// Asks that waited for this look-up go on with what came, unless they wait for another one,
    /// too.
    fn grants_arrived(&mut self, cx: &mut Cx<'_>, waiting: Vec<(ChunkRequestId, RequesterKey)>) {
        for (id, _) in waiting {
            let Some(ask) = self.requests.remove(&id) else { continue };
            self.work.visit(ask.pieces.len());
            if ask.pieces.iter().any(|piece| self.grants.asked.contains_key(&ask.file(piece))) {
                self.requests.insert(ask.id, ask);
            } else {
                self.consider(cx, ask);
            }
        }
    }

    pub(super) fn lookup_failed(
        &mut self,
        cx: &mut Cx<'_>,
        code: FailureCode,
        reference: Option<&Ref>,
    ) {
        let Some(lookup) = reference.and_then(|reference| self.grants.end_lookup(reference)) else {
            return;
        };
        self.fail_asks_of(cx, &lookup.files.into_iter().collect(), code);
    }

    /// The master went away with look-ups unanswered.
    pub(super) fn lookups_lost(&mut self, cx: &mut Cx<'_>) {
        self.grants.lookups.clear();
        self.grants.asked.clear();
        self.grants.places.clear();
        self.grants.master_away = true;
        for ask in self.take_parked(cx, |parked| *parked == WaitReason::Grants) {
            self.ask_failed(cx, ask, FailureCode::ServerNotReady);
        }
    }

    /// A master that came back is asked again for all live grants.
    pub(super) fn confirm_grants(&mut self, cx: &mut Cx<'_>) {
        self.grants.master_away = false;
        let live: Vec<FileRef> = self.grants.known.keys().copied().collect();
        self.send_lookups(cx, live);
    }
}
