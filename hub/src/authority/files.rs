//! Adding, withdrawing and removing files: what owners say, and what the relay finds out.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::device::is_valid_label;
use lanyard_protocol::group::group_log;
use lanyard_protocol::limits::{
    MAX_FILE_BYTES, MAX_FILES_A_DEVICE, MAX_FILES_A_MESSAGE, MAX_FRAME_BYTES,
    MAX_MASTER_FRAME_BYTES,
};
use lanyard_protocol::message::{
    AddFiles, Audience, FeedAck, FileChanged, FileGrant, FileLookup, FileRemoved, FileRoot,
    FilesAdded, FilesUpdated, FilesWithdrawn, KnownRoot, RemoveFile,
};
use lanyard_protocol::{
    DeviceId, EntryKind, FailureCode, FileEntry, FileId, FileRef, MasterToRelay, NewFile, Ref,
    Root, SessionAddress, path,
};

use super::catalogue::ListedFile;
use super::catalogue_feed::{Key, file_cost};
use super::quota::file_bytes;
use super::{Authority, ChangeOrigin, StoreWrite, Timer};

/// Roots that become known are told together: a folder of ten thousand small files is a handful of
/// changes. Who fetched waits for them, so it is not for long; and longer where there are many to
/// tell.
const ROOTS_TOGETHER_MS: u64 = 5;
const MOST_TOGETHER_MS: u64 = 100;
/// While the disk hinders they are looked at again after this.
const HELD_ROOTS_MS: u64 = 1_000;
/// Room for what surrounds the entries of a frame.
const FRAME_AROUND: usize = 1_024;

/// Why an ADD_FILES adds nothing at all, and whose fault it is.
struct Culprit {
    code: FailureCode,
    file_id: Option<FileId>,
}

impl Authority {
    pub(super) fn files_offered(
        &mut self,
        from: SessionAddress,
        said: AddFiles,
        reference: Option<Ref>,
    ) {
        let files = match self.changed_by(from, said) {
            Err(Culprit { code: FailureCode::Quota, file_id }) => {
                let words = format!("a device lists at most {MAX_FILES_A_DEVICE} files");
                return self.fail_full(from, words, file_id, reference);
            }
            Err(Culprit { code, file_id }) => {
                return self.fail_device(from, code, file_id, reference);
            }
            Ok(files) => files,
        };
        if files.is_empty() {
            let ack = FeedAck { epoch: self.feed.epoch(), revision: self.feed.revision() };
            return self.answer_device(from, MasterToRelay::AddFilesAck(ack), reference);
        }
        match self.make_room(from.public_id, &files) {
            Ok(()) => self.list_files(from, files, reference),
            Err(culprit) => {
                self.fail_full(from, self.words_when_full(from.public_id), Some(culprit), reference)
            }
        }
    }

    /// Finds room for what `files` need beyond what is remembered of them; the owner's longest
    /// withdrawn files make way. Else the first file that does not fit.
    fn make_room(&mut self, owner: DeviceId, files: &[FileEntry]) -> Result<(), FileId> {
        let mut room = self.room_for(owner);
        let is_new = |entry: &&FileEntry| self.catalogue.get(&entry.file_ref()).is_none();
        let needed: u64 = files.iter().filter(is_new).map(file_bytes).sum();
        if needed <= room {
            return Ok(());
        }
        let staying: BTreeSet<FileId> = files.iter().map(|entry| entry.file_id).collect();
        let mut leaving = Vec::new();
        for file_id in self.catalogue.withdrawn_of(owner) {
            let file = FileRef { public_id: owner, file_id };
            if needed <= room {
                break;
            }
            if !staying.contains(&file_id) {
                room += self.catalogue.get(&file).map_or(0, |listing| file_bytes(&listing.entry));
                leaving.push(file_id);
            }
        }
        if needed > room {
            let mut left = room;
            let is_beyond = |entry: &&FileEntry| {
                let bytes = file_bytes(entry);
                let is_beyond = bytes > left;
                left = left.saturating_sub(bytes);
                is_beyond
            };
            let first_beyond = files.iter().filter(is_new).find(is_beyond);
            return Err(first_beyond.map_or(files[0].file_id, |entry| entry.file_id));
        }
        for some in leaving.chunks(MAX_FILES_A_MESSAGE) {
            self.remove_files(owner, some.to_vec(), ChangeOrigin::default());
        }
        Ok(())
    }

    /// The entries that an ADD_FILES would make or change; all or nothing.
    fn changed_by(&self, from: SessionAddress, said: AddFiles) -> Result<Vec<FileEntry>, Culprit> {
        if said.files.len() > MAX_FILES_A_MESSAGE {
            return Err(Culprit { code: FailureCode::BadMessage, file_id: None });
        }
        let mut changed: BTreeMap<FileId, FileEntry> = BTreeMap::new();
        let mut order = Vec::new();
        let mut listed = self.catalogue.listed_count(from.public_id);
        for new in said.files {
            let file_id = new.file_id;
            let culprit = |code| Culprit { code, file_id: Some(file_id) };
            check_form(&new).map_err(culprit)?;
            let file = FileRef { public_id: from.public_id, file_id };
            let known = changed
                .get(&file_id)
                .or_else(|| self.catalogue.get(&file).map(|listing| &listing.entry));
            let is_listed = changed.contains_key(&file_id) || self.catalogue.is_listed(&file);
            let entry = match known {
                Some(entry) if !entry.same_version(&new) => {
                    return Err(culprit(FailureCode::IdTaken));
                }
                Some(entry) => FileEntry {
                    instance: from.instance,
                    root: entry.root.or(new.root),
                    ..entry.clone()
                },
                None => entry_of(from, new),
            };
            if is_listed && known == Some(&entry) {
                continue;
            }
            listed += usize::from(!is_listed);
            if listed > MAX_FILES_A_DEVICE {
                return Err(culprit(FailureCode::Quota));
            }
            if changed.insert(file_id, entry).is_none() {
                order.push(file_id);
            }
        }
        let files: Vec<FileEntry> = order.iter().filter_map(|id| changed.remove(id)).collect();
        if files.iter().map(file_cost).sum::<usize>() + FRAME_AROUND > MAX_FRAME_BYTES {
            return Err(Culprit { code: FailureCode::BadMessage, file_id: None });
        }
        Ok(files)
    }

    fn list_files(&mut self, from: SessionAddress, files: Vec<FileEntry>, reference: Option<Ref>) {
        let revision = self.next_revision();
        self.save(StoreWrite::FilesPut { files: files.clone(), revision });
        for entry in &files {
            self.feed.list(Key::File(entry.file_ref()), revision);
            self.catalogue.put(ListedFile { entry: entry.clone(), revision, withdrawn_ms: None });
        }
        self.present(from);
        let (public_id, epoch) = (from.public_id, self.feed.epoch());
        let added = FilesAdded { public_id, files, epoch, revision, audience: Audience::All };
        self.broadcast(MasterToRelay::FilesAdded(added), ChangeOrigin::device(from, reference));
    }

    /// REMOVE_FILE: gone, or with `keep` off the list only.
    pub(super) fn files_taken_away(
        &mut self,
        from: SessionAddress,
        said: RemoveFile,
        reference: Option<Ref>,
    ) {
        if said.file_ids.len() > MAX_FILES_A_MESSAGE {
            return self.fail_device(from, FailureCode::BadMessage, None, reference);
        }
        let public_id = from.public_id;
        let mut seen = BTreeSet::new();
        let mut file_ids = said.file_ids;
        file_ids.retain(|file_id| {
            let file = FileRef { public_id, file_id: *file_id };
            let there = if said.keep {
                self.catalogue.is_listed(&file)
            } else {
                self.catalogue.get(&file).is_some()
            };
            there && seen.insert(*file_id)
        });
        if file_ids.is_empty() {
            let ack = FeedAck { epoch: self.feed.epoch(), revision: self.feed.revision() };
            return self.answer_device(from, MasterToRelay::RemoveFileAck(ack), reference);
        }
        let asker = ChangeOrigin::device(from, reference);
        if said.keep {
            self.withdraw_files(public_id, file_ids, asker);
        } else {
            self.remove_files(public_id, file_ids, asker);
        }
    }

    fn remove_files(&mut self, public_id: DeviceId, file_ids: Vec<FileId>, asker: ChangeOrigin) {
        let revision = self.next_revision();
        self.save(StoreWrite::FilesGone { public_id, file_ids: file_ids.clone() });
        for file_id in &file_ids {
            let file = FileRef { public_id, file_id: *file_id };
            self.catalogue.remove(&file);
            self.feed.remove(Key::File(file), revision);
        }
        let removed = FileRemoved {
            public_id,
            file_ids,
            epoch: self.feed.epoch(),
            revision,
            audience: Audience::All,
        };
        self.broadcast(MasterToRelay::FileRemoved(removed), asker);
    }

    fn withdraw_files(&mut self, public_id: DeviceId, file_ids: Vec<FileId>, asker: ChangeOrigin) {
        let (revision, at_ms) = (self.next_revision(), self.wall_ms);
        self.save(StoreWrite::FilesWithdrawn {
            public_id,
            file_ids: file_ids.clone(),
            revision,
            at_ms,
        });
        let files: Vec<FileRef> =
            file_ids.iter().map(|file_id| FileRef { public_id, file_id: *file_id }).collect();
        self.take_off_the_list(&files, revision, at_ms);
        let withdrawn = FilesWithdrawn {
            public_id,
            file_ids: Some(file_ids),
            instance: None,
            epoch: self.feed.epoch(),
            revision,
            audience: Audience::All,
        };
        self.broadcast(MasterToRelay::FilesWithdrawn(withdrawn), asker);
        self.trim_withdrawn(public_id);
    }

    /// The grace of a session is over: all it offers goes off the list in one revision.
    pub(super) fn withdraw_session(&mut self, session: SessionAddress) {
        let files = self.catalogue.listed_by(&session);
        if files.is_empty() {
            return;
        }
        let (revision, at_ms) = (self.next_revision(), self.wall_ms);
        // By their ids: the database has no index by session, and would look at all files of the
        // device.
        let file_ids = files.iter().map(|file| file.file_id).collect();
        self.save(StoreWrite::FilesWithdrawn {
            public_id: session.public_id,
            file_ids,
            revision,
            at_ms,
        });
        self.take_off_the_list(&files, revision, at_ms);
        let withdrawn = FilesWithdrawn {
            public_id: session.public_id,
            file_ids: None,
            instance: Some(session.instance),
            epoch: self.feed.epoch(),
            revision,
            audience: Audience::All,
        };
        self.broadcast(MasterToRelay::FilesWithdrawn(withdrawn), ChangeOrigin::default());
        self.trim_withdrawn(session.public_id);
    }

    fn take_off_the_list(&mut self, files: &[FileRef], revision: u64, at_ms: u64) {
        for file in files {
            self.catalogue.withdraw(file, at_ms, revision);
            self.feed.remove(Key::File(*file), revision);
        }
        self.keep_sweeping();
    }

    /// What a device withdrew is bounded like what it lists; the oldest go for good.
    fn trim_withdrawn(&mut self, device: DeviceId) {
        let excess = self.catalogue.withdrawn_count(device).saturating_sub(MAX_FILES_A_DEVICE);
        let oldest: Vec<FileId> = self.catalogue.withdrawn_of(device).take(excess).collect();
        for some in oldest.chunks(MAX_FILES_A_MESSAGE) {
            self.remove_files(device, some.to_vec(), ChangeOrigin::default());
        }
    }

    /// Removes files whose owner did not come back within a day.
    pub(super) fn drop_lapsed_files(&mut self) {
        for (owner, file_ids) in self.catalogue.lapsed(self.wall_ms) {
            for some in file_ids.chunks(MAX_FILES_A_MESSAGE) {
                self.remove_files(owner, some.to_vec(), ChangeOrigin::default());
            }
        }
    }

    /// All of a device that was turned away. Its own word in the feed stands for all of them.
    pub(super) fn drop_files_of(&mut self, device: DeviceId) {
        for file in self.catalogue.of_device(device) {
            self.catalogue.remove(&file);
            self.feed.forget(Key::File(file));
            self.new_roots.remove(&file);
        }
    }

    /// The owner's copy is another by now: that version is no more.
    pub(super) fn file_changed(&mut self, said: FileChanged) {
        let FileChanged { public_id, file_id } = said;
        if self.catalogue.get(&FileRef { public_id, file_id }).is_some() {
            self.remove_files(public_id, vec![file_id], ChangeOrigin::default());
        }
    }

    pub(super) fn root_known(&mut self, said: FileRoot) {
        let file = FileRef { public_id: said.public_id, file_id: said.file_id };
        match self.catalogue.get(&file).map(|listing| listing.entry.root) {
            Some(None) => {
                self.new_roots.insert(file, said.root);
                if self.deadlines.get(&Timer::Roots).is_none() {
                    let together =
                        (ROOTS_TOGETHER_MS + self.online.len() as u64 / 10).min(MOST_TOGETHER_MS);
                    self.deadlines.set(Timer::Roots, self.now.plus(together));
                }
                if self.new_roots.len() >= MAX_FILES_A_MESSAGE {
                    self.tell_roots();
                }
            }
            Some(Some(known)) if known != said.root => {
                tracing::warn!(file = %said.file_id, "the relay found another root than the one that is listed");
            }
            _ => {}
        }
    }

    /// Tells the roots that became known, one change an owner. While changes wait for the disk
    /// these wait, too: each takes the place of an entry that could be told until then.
    pub(super) fn tell_roots(&mut self) {
        self.deadlines.clear(&Timer::Roots);
        if self.feed.is_held() {
            return self.deadlines.set(Timer::Roots, self.now.plus(HELD_ROOTS_MS));
        }
        let mut owners: BTreeMap<DeviceId, Vec<KnownRoot>> = BTreeMap::new();
        for (file, root) in std::mem::take(&mut self.new_roots) {
            if self.catalogue.get(&file).is_none() {
                continue;
            }
            if self.catalogue.is_listed(&file) {
                owners
                    .entry(file.public_id)
                    .or_default()
                    .push(KnownRoot { file_id: file.file_id, root });
            } else {
                self.note_root(file, root, self.feed.revision());
            }
        }
        for (public_id, files) in owners {
            let revision = self.next_revision();
            for known in &files {
                let file = FileRef { public_id, file_id: known.file_id };
                self.note_root(file, known.root, revision);
                self.feed.list(Key::File(file), revision);
            }
            let updated = FilesUpdated {
                public_id,
                files,
                epoch: self.feed.epoch(),
                revision,
                audience: Audience::All,
            };
            self.broadcast(MasterToRelay::FilesUpdated(updated), ChangeOrigin::default());
        }
    }

    fn note_root(&mut self, file: FileRef, root: Root, revision: u64) {
        self.save(StoreWrite::RootKnown { file, root, revision });
        self.catalogue.set_root(&file, root, revision);
    }

    /// Grants the files that somebody asks for to the relay.
    pub(super) fn files_looked_up(&mut self, lookup: FileLookup, reference: Option<Ref>) {
        if lookup.files.len() > MAX_FILES_A_MESSAGE {
            return self.fail_relay(FailureCode::BadMessage, reference);
        }
        let granted =
            lookup.files.iter().filter_map(|file| self.catalogue.grantable(file, self.wall_ms));
        let files: Vec<FileEntry> = granted.cloned().collect();
        // Leaving some out would say that they are gone.
        if files.iter().map(file_cost).sum::<usize>() + FRAME_AROUND > MAX_MASTER_FRAME_BYTES {
            return self.fail_relay(FailureCode::TooLarge, reference);
        }
        self.answer_relay(MasterToRelay::FileGrant(FileGrant { files }), reference);
    }
}

fn check_form(new: &NewFile) -> Result<(), FailureCode> {
    if path::validate(&new.path).is_err() {
        return Err(FailureCode::PathRejected);
    }
    if new.size > MAX_FILE_BYTES {
        return Err(FailureCode::TooLarge);
    }
    let sized_folder = new.kind == EntryKind::Folder && new.size != 0;
    if sized_folder || !is_valid_label(&new.media_type) {
        return Err(FailureCode::BadMessage);
    }
    Ok(())
}

fn entry_of(from: SessionAddress, new: NewFile) -> FileEntry {
    FileEntry {
        public_id: from.public_id,
        instance: from.instance,
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
