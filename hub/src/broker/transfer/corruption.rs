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

impl Transfers {
    /// The owner's copy is no longer the listed version: everything of it ends, master and owner
    /// are told.
    pub(super) fn file_changed(&mut self, cx: &mut Cx<'_>, file: FileRef) {
        if !self.corruption.change(file) {
            return;
        }
        self.stats.changed_files += 1;
        self.end_files(cx, &BTreeSet::from([file]), FailureCode::FileChanged);
        let FileRef { public_id, file_id } = file;
        let message = FileChanged { public_id, file_id };
        let instance = self.grants.entry(&file).map(|entry| entry.instance);
        if let Some(owner) = instance.and_then(|instance| cx.sessions.holder(public_id, instance)) {
            cx.send(owner, RelayToDevice::FileChanged(message.clone()), None);
        }
        cx.tell_master(RelayMessage::FileChanged(message));
    }

    /// Ends what is in flight of files that are no more, or no longer this version, with `code`.
    /// One walk over the asks serves all files: a message may name hundreds.
    pub(super) fn end_files(
        &mut self,
        cx: &mut Cx<'_>,
        files: &BTreeSet<FileRef>,
        code: FailureCode,
    ) {
        for file in files {
            self.fail_slots_of(cx, file, code);
        }
        self.fail_asks_of(cx, files, code);
        for file in files {
            cx.effects.push(Effect::Slot(SlotEffect::ForgetHashes { file: *file }));
        }
    }

    /// Ends what is in flight of files that are not listed any more, each for its reason.
    pub(super) fn end_gone(&mut self, cx: &mut Cx<'_>, files: &BTreeSet<FileRef>) {
        let (changed, gone): (BTreeSet<FileRef>, BTreeSet<FileRef>) =
            files.iter().partition(|file| self.corruption.went_for_change(file));
        self.end_files(cx, &changed, FailureCode::FileChanged);
        self.end_files(cx, &gone, FailureCode::FileGone);
    }
}
