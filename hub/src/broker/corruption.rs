//! Whose bytes were wrong. From the owner itself the second difference means that the file changed:
//! final until it is removed, and for ten minutes after that the reason why it is gone.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::limits::{BAD_BODIES_WINDOW_MS, MAX_CHANGED_FILES};
use lanyard_protocol::message::FileChanged;
use lanyard_protocol::{FailureCode, FileRef, RelayMessage, RelayToDevice};

use super::*;

#[derive(Debug, Default)]
pub(super) struct CorruptionLog {
    /// First difference seen of a file, and when.
    differed: BTreeMap<FileRef, Moment>,
    /// Files that changed, and when they were removed for it: whoever was cut by the change asks
    /// once more, and hears why.
    changed: BTreeMap<FileRef, Option<Moment>>,
}

impl CorruptionLog {
    /// Notes wrong bytes; true at the second time within ten minutes.
    pub(super) fn differs(&mut self, now: Moment, file: FileRef) -> bool {
        let second =
            self.differed.get(&file).is_some_and(|first| now.since(*first) < BAD_BODIES_WINDOW_MS);
        if !second {
            self.differed.insert(file, now);
        }
        second
    }

    pub(super) fn is_changed(&self, file: &FileRef) -> bool {
        self.changed.get(file) == Some(&None)
    }

    /// Whether the file is gone because it changed.
    pub(super) fn went_for_change(&self, file: &FileRef) -> bool {
        self.changed.contains_key(file)
    }

    /// Notes a change; false if it was known.
    fn change(&mut self, file: FileRef) -> bool {
        self.differed.remove(&file);
        if self.changed.len() >= MAX_CHANGED_FILES && !self.changed.contains_key(&file) {
            // Those that are removed already are told another reason at worst.
            let removed =
                |(file, removed): (&FileRef, &Option<Moment>)| removed.map(|at| (at, *file));
            let oldest = self.changed.iter().filter_map(removed).min().map(|(_, file)| file);
            let oldest = oldest.or_else(|| self.changed.keys().next().copied());
            oldest.map(|oldest| self.changed.remove(&oldest));
        }
        self.changed.insert(file, None) != Some(None)
    }

    /// A removal passed by.
    pub(super) fn removed(&mut self, now: Moment, file: &FileRef) {
        self.differed.remove(file);
        if let Some(removed) = self.changed.get_mut(file) {
            removed.get_or_insert(now);
        }
    }

    /// The file is listed again: the same version lies there.
    pub(super) fn listed(&mut self, file: &FileRef) {
        if self.changed.get(file).is_some_and(Option::is_some) {
            self.changed.remove(file);
        }
    }

    #[cfg(test)]
    pub(super) fn changed_count(&self) -> usize {
        self.changed.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.differed.is_empty() && self.changed.values().all(Option::is_none)
    }

    pub(super) fn sweep(&mut self, now: Moment) {
        self.differed.retain(|_, first| now.since(*first) < BAD_BODIES_WINDOW_MS);
        self.changed
            .retain(|_, removed| removed.is_none_or(|at| now.since(at) < BAD_BODIES_WINDOW_MS));
    }
}

impl Broker {
    /// The owner's copy is no longer the listed version: everything of it ends, master and owner
    /// are told.
    pub(super) fn file_changed(&mut self, now: Moment, file: FileRef) {
        if !self.blame.change(file) {
            return;
        }
        self.tally.changed_files += 1;
        self.end_files(now, &BTreeSet::from([file]), FailureCode::FileChanged);
        let FileRef { public_id, file_id } = file;
        let message = FileChanged { public_id, file_id };
        let instance = self.grants.entry(&file).map(|entry| entry.instance);
        if let Some(owner) = instance.and_then(|instance| self.sessions.holder(public_id, instance))
        {
            self.send(owner, RelayToDevice::FileChanged(message.clone()), None);
        }
        self.tell_master(RelayMessage::FileChanged(message));
    }
}
