//! Whose bytes were wrong. From the owner itself the second difference means that the file changed: final until it is
//! removed.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::limits::BAD_BODIES_WINDOW_MS;
use lanyard_protocol::message::FileChanged;
use lanyard_protocol::{FailureCode, FileRef, RelayToDevice, RelayToMaster};

use super::*;

#[derive(Debug, Default)]
pub(super) struct Blame {
    /// First difference seen of a file, and when.
    differed: BTreeMap<FileRef, Moment>,
    changed: BTreeSet<FileRef>,
}

impl Blame {
    /// Notes wrong bytes; true at the second time within ten minutes.
    pub fn differs(&mut self, now: Moment, file: FileRef) -> bool {
        let second = self.differed.get(&file).is_some_and(|first| now.since(*first) < BAD_BODIES_WINDOW_MS);
        if !second {
            self.differed.insert(file, now);
        }
        second
    }

    pub fn is_changed(&self, file: &FileRef) -> bool {
        self.changed.contains(file)
    }

    pub fn forget_file(&mut self, file: &FileRef) {
        self.differed.remove(file);
        self.changed.remove(file);
    }

    pub fn is_empty(&self) -> bool {
        self.differed.is_empty()
    }

    pub fn sweep(&mut self, now: Moment) {
        self.differed.retain(|_, first| now.since(*first) < BAD_BODIES_WINDOW_MS);
    }
}

impl Broker {
    /// The owner's copy is no longer the listed version: everything of it ends, master and owner are told.
    pub(super) fn file_changed(&mut self, now: Moment, file: FileRef) {
        if !self.blame.changed.insert(file) {
            return;
        }
        self.tally.changed_files += 1;
        self.end_file(now, file, FailureCode::FileChanged);
        let FileRef { public_id, file_id } = file;
        let message = FileChanged { public_id, file_id };
        let instance = self.grants.entry(&file).map(|entry| entry.instance);
        if let Some(owner) = instance.and_then(|instance| self.sessions.holder(public_id, instance)) {
            self.send(owner, RelayToDevice::FileChanged(message.clone()), None);
        }
        self.tell_master(RelayToMaster::FileChanged(message));
    }
}
