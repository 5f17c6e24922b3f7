//! The device's copy of the feed: roster and shared files. It applies the next change, drops old
//! ones, and pulls after a gap (PROTOCOL.md 4).

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::limits::MAX_KEPT_CHANGES;
use lanyard_protocol::message::{FilesWithdrawn, KnownRoot};
use lanyard_protocol::{
    Client, DeviceId, FeedMode, FeedPage, FileEntry, FileId, FileRef, Instance, RelayToDevice,
    Resume,
};

/// Everything listed, as this device knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogueView {
    /// Approved devices.
    pub clients: BTreeMap<DeviceId, Client>,
    /// Everything that is listed.
    pub files: BTreeMap<FileRef, FileEntry>,
    /// Devices that are online, as the relay reports them; not part of the feed.
    pub online: BTreeSet<DeviceId>,
    /// Where this stands in the feed; zeros before the first whole pull.
    pub position: Resume,
}

/// One change of the feed, as an absolute state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FeedChange {
    Approved(Client),
    Updated(Client),
    ClientGone(DeviceId),
    Files { owner: DeviceId, files: Vec<FileEntry> },
    Roots { owner: DeviceId, files: Vec<KnownRoot> },
    Removed { owner: DeviceId, file_ids: Vec<FileId> },
    Withdrawn { owner: DeviceId, file_ids: Option<Vec<FileId>>, instance: Option<Instance> },
}

impl FeedChange {
    /// The change that a message carries, and its place in the feed.
    pub(super) fn of(message: &RelayToDevice) -> Option<(Resume, FeedChange)> {
        let at = |epoch, revision| Resume { epoch, revision };
        Some(match message.clone() {
            RelayToDevice::ClientApproved(m) => {
                (at(m.epoch, m.revision), FeedChange::Approved(m.client))
            }
            RelayToDevice::ClientUpdated(m) => {
                (at(m.epoch, m.revision), FeedChange::Updated(m.client))
            }
            RelayToDevice::ClientDisApproved(m) => {
                (at(m.epoch, m.revision), FeedChange::ClientGone(m.public_id))
            }
            RelayToDevice::FilesAdded(m) => {
                (at(m.epoch, m.revision), FeedChange::Files { owner: m.public_id, files: m.files })
            }
            RelayToDevice::FilesUpdated(m) => {
                (at(m.epoch, m.revision), FeedChange::Roots { owner: m.public_id, files: m.files })
            }
            RelayToDevice::FileRemoved(m) => (
                at(m.epoch, m.revision),
                FeedChange::Removed { owner: m.public_id, file_ids: m.file_ids },
            ),
            RelayToDevice::FilesWithdrawn(m) => (at(m.epoch, m.revision), FeedChange::withdrawn(m)),
            RelayToDevice::Challenge(_)
            | RelayToDevice::ClientRegisterAck(_)
            | RelayToDevice::Membership(_)
            | RelayToDevice::ApprovalChallenge(_)
            | RelayToDevice::ApprovalOpen(_)
            | RelayToDevice::ApprovalRestart(_)
            | RelayToDevice::ApprovalClosed(_)
            | RelayToDevice::ClientDisconnected(_)
            | RelayToDevice::ClientReconnected(_)
            | RelayToDevice::Presence(_)
            | RelayToDevice::FeedPage(_)
            | RelayToDevice::FeedDirty(_)
            | RelayToDevice::HubReady(_)
            | RelayToDevice::ServerNotReady(_)
            | RelayToDevice::AddFilesAck(_)
            | RelayToDevice::RemoveFileAck(_)
            | RelayToDevice::UpdateNameAck(_)
            | RelayToDevice::LinkMade(_)
            | RelayToDevice::LinkDropped(_)
            | RelayToDevice::LinksPage(_)
            | RelayToDevice::UploadChunkRequest(_)
            | RelayToDevice::UploadCancelled(_)
            | RelayToDevice::ChunkReady(_)
            | RelayToDevice::ChunkFailed(_)
            | RelayToDevice::JoinAt(_)
            | RelayToDevice::TransferProgress(_)
            | RelayToDevice::FileChanged(_)
            | RelayToDevice::RequestFailed(_)
            | RelayToDevice::Pong(_) => return None,
        })
    }

    /// Whether files of `device` go off the list.
    pub(super) fn takes_files_of(&self, device: DeviceId) -> bool {
        matches!(self, FeedChange::Removed { owner, .. } | FeedChange::Withdrawn { owner, .. } if *owner == device)
    }

    fn withdrawn(m: FilesWithdrawn) -> FeedChange {
        FeedChange::Withdrawn { owner: m.public_id, file_ids: m.file_ids, instance: m.instance }
    }
}

/// The fate of a pushed change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    Applied,
    /// Known already.
    Dropped,
    /// A pull is running; it is applied after it.
    Kept,
    /// Something before it is missing: pull.
    Gap,
}

/// The fate of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Paged {
    /// Not the page of the running pull.
    Ignored,
    /// Ask for the next one, with this cursor and the position that the pull started from.
    More { from: Resume, cursor: String },
    /// The pull is whole.
    Finished,
    /// The pull is over, but something was missed meanwhile: pull again.
    Again,
}

/// A pull on its way.
#[derive(Debug, Clone)]
struct PendingPull {
    /// Our request's number; `None` while the master's unasked first page is awaited.
    reference: Option<u64>,
    /// The position it started from.
    from: Resume,
    /// Mode and head of its first page.
    first: Option<(FeedMode, Resume)>,
    /// Entries that a SNAPSHOT named so far.
    named_clients: BTreeSet<DeviceId>,
    named_files: BTreeSet<FileRef>,
    /// Changes pushed meanwhile, without a hole between them.
    kept: Vec<(Resume, FeedChange)>,
    /// A hole was seen meanwhile.
    again: bool,
}

impl PendingPull {
    fn new(reference: Option<u64>, from: Resume) -> Self {
        let (named_clients, named_files) = Default::default();
        Self {
            reference,
            from,
            first: None,
            named_clients,
            named_files,
            kept: Vec::new(),
            again: false,
        }
    }

    fn miss(&mut self) {
        self.kept.clear();
        self.again = true;
    }

    fn keep(&mut self, at: Resume, change: FeedChange) {
        let follows = self
            .kept
            .last()
            .is_none_or(|(last, _)| (last.epoch, last.revision + 1) == (at.epoch, at.revision));
        if !follows || self.kept.len() >= MAX_KEPT_CHANGES {
            self.miss();
        }
        self.kept.push((at, change));
    }
}

/// The catalogue and the pull that brings it up to date.
#[derive(Debug, Clone, Default)]
pub(super) struct Mirror {
    catalogue: CatalogueView,
    pull: Option<PendingPull>,
    /// A pull was whole at least once.
    complete: bool,
}

impl Mirror {
    pub(super) fn catalogue(&self) -> &CatalogueView {
        &self.catalogue
    }

    /// Whether everything listed was known at some moment.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether nothing is being pulled.
    pub(super) fn is_settled(&self) -> bool {
        self.complete && self.pull.is_none()
    }

    /// Returns the position for the next registration; `None` while nothing is held.
    pub(super) fn resume(&self) -> Option<Resume> {
        self.complete.then_some(self.catalogue.position)
    }

    /// The master knows nothing of our position: it will send all that is.
    pub(super) fn forget_position(&mut self) {
        self.catalogue.position = Resume::default();
    }

    /// The master sends a first page unasked.
    pub(super) fn expect(&mut self) {
        self.pull = Some(PendingPull::new(None, self.catalogue.position));
    }

    /// Our own pull with this reference; returns the position to pull from.
    pub(super) fn begin(&mut self, reference: u64) -> Resume {
        let from = self.catalogue.position;
        let kept = self.pull.take().map(|pull| pull.kept).unwrap_or_default();
        self.pull = Some(PendingPull { kept, ..PendingPull::new(Some(reference), from) });
        from
    }

    /// The number under which the next page is asked for.
    pub(super) fn rename_pull(&mut self, reference: u64) {
        if let Some(pull) = &mut self.pull {
            pull.reference = Some(reference);
        }
    }

    /// The reference of the running pull.
    pub(super) fn pulling(&self) -> Option<u64> {
        self.pull.as_ref().and_then(|pull| pull.reference)
    }

    /// The link or the master is gone: the pull starts anew when both are back.
    pub(super) fn abandon(&mut self) {
        self.pull = None;
    }

    /// Changes were dropped on their way (FEED_DIRTY). `true`: pull at once.
    pub(super) fn dirty(&mut self) -> bool {
        match &mut self.pull {
            Some(pull) => {
                pull.miss();
                false
            }
            None => true,
        }
    }

    pub(super) fn push(&mut self, at: Resume, change: FeedChange) -> Pushed {
        if let Some(pull) = &mut self.pull {
            pull.keep(at, change);
            return Pushed::Kept;
        }
        let mine = self.catalogue.position;
        if at.epoch == mine.epoch && at.revision <= mine.revision {
            return Pushed::Dropped;
        }
        if at.epoch != mine.epoch || at.revision != mine.revision + 1 {
            return Pushed::Gap;
        }
        self.catalogue.apply(change);
        self.catalogue.position = at;
        Pushed::Applied
    }

    /// Takes a page; `reference` is what stood beside it.
    pub(super) fn page(&mut self, page: FeedPage, reference: Option<u64>) -> Paged {
        let from = self.catalogue.position;
        let pull = match &mut self.pull {
            Some(pull) if pull.reference == reference => pull,
            Some(_) => return Paged::Ignored,
            None if reference.is_some() => return Paged::Ignored,
            empty => empty.insert(PendingPull::new(None, from)),
        };
        let head = Resume { epoch: page.epoch, revision: page.revision };
        if !follows(&page, pull.from) {
            // A delta from a position that is not ours answers another session of this instance.
            return self.finish_later();
        }
        let (mode, first) = *pull.first.get_or_insert((page.mode, head));
        if first.epoch != head.epoch {
            return self.finish_later();
        }
        if mode == FeedMode::Snapshot {
            pull.named_clients.extend(page.clients.iter().map(|client| client.public_id));
            pull.named_files.extend(page.files.iter().map(FileEntry::file_ref));
        }
        let (from, cursor) = (pull.from, page.cursor.clone().filter(|_| !page.last));
        self.catalogue.apply_page(page);
        match cursor {
            Some(cursor) => Paged::More { from, cursor },
            None => self.finish(head),
        }
    }

    fn finish_later(&mut self) -> Paged {
        self.pull = None;
        Paged::Again
    }

    fn finish(&mut self, head: Resume) -> Paged {
        let Some(pull) = self.pull.take() else { return Paged::Ignored };
        let (mode, first) = pull.first.unwrap_or((FeedMode::UpToDate, head));
        if mode == FeedMode::Snapshot {
            self.catalogue.clients.retain(|id, _| pull.named_clients.contains(id));
            self.catalogue.files.retain(|id, _| pull.named_files.contains(id));
        }
        self.catalogue.position = head;
        self.complete = true;
        let mut again = pull.again;
        for (at, change) in pull.kept {
            again |= !self.catch_up(first, at, change);
        }
        if again { Paged::Again } else { Paged::Finished }
    }

    /// A change pushed during the pull. Those between its first and its last page are applied too:
    /// each is an absolute state, and a page made before a removal may have named what the removal
    /// took. `false`: something is missing.
    fn catch_up(&mut self, first: Resume, at: Resume, change: FeedChange) -> bool {
        let mine = self.catalogue.position;
        if at.epoch != mine.epoch {
            // The change has another epoch than the pages: the next pull shows which epoch lives.
            return false;
        }
        if at.revision <= first.revision {
            return true;
        }
        if at.revision > mine.revision + 1 {
            return false;
        }
        self.catalogue.apply(change);
        self.catalogue.position.revision = mine.revision.max(at.revision);
        true
    }

    /// PRESENCE: who is online, whole.
    pub(super) fn set_online(&mut self, online: Vec<DeviceId>) {
        self.catalogue.online = online.into_iter().collect();
    }

    pub(super) fn set_presence(&mut self, device: DeviceId, online: bool) {
        if online {
            self.catalogue.online.insert(device);
        } else {
            self.catalogue.online.remove(&device);
        }
    }
}

impl CatalogueView {
    /// All files of one device.
    pub fn files_of(&self, owner: DeviceId) -> impl Iterator<Item = &FileEntry> {
        let from = FileRef { public_id: owner, file_id: FileId(Default::default()) };
        self.files
            .range(from..)
            .take_while(move |(id, _)| id.public_id == owner)
            .map(|(_, entry)| entry)
    }

    fn apply_page(&mut self, page: FeedPage) {
        for gone in page.gone {
            match gone.file_id {
                Some(file_id) => {
                    drop(self.files.remove(&FileRef { public_id: gone.public_id, file_id }))
                }
                None => self.drop_client(gone.public_id),
            }
        }
        self.clients.extend(page.clients.into_iter().map(|client| (client.public_id, client)));
        self.files.extend(page.files.into_iter().map(|file| (file.file_ref(), file)));
    }

    fn drop_client(&mut self, id: DeviceId) {
        self.clients.remove(&id);
        self.drop_files(id, |_| true);
    }

    /// Looks at the files of this device only: a page may name thousands that are gone.
    fn drop_files(&mut self, owner: DeviceId, is_gone: impl Fn(&FileEntry) -> bool) {
        let visited = self.files_of(owner).inspect(|_| {
            #[cfg(test)]
            crate::peer::testing::visit();
        });
        let gone: Vec<FileRef> =
            visited.filter(|entry| is_gone(entry)).map(FileEntry::file_ref).collect();
        for file in gone {
            self.files.remove(&file);
        }
    }

    fn apply(&mut self, change: FeedChange) {
        match change {
            FeedChange::Approved(client) | FeedChange::Updated(client) => {
                drop(self.clients.insert(client.public_id, client))
            }
            FeedChange::ClientGone(id) => self.drop_client(id),
            FeedChange::Files { owner: _, files } => {
                self.files.extend(files.into_iter().map(|file| (file.file_ref(), file)))
            }
            FeedChange::Roots { owner, files } => {
                for known in files {
                    if let Some(entry) =
                        self.files.get_mut(&FileRef { public_id: owner, file_id: known.file_id })
                    {
                        entry.root = Some(known.root);
                    }
                }
            }
            FeedChange::Removed { owner, file_ids }
            | FeedChange::Withdrawn { owner, file_ids: Some(file_ids), .. } => {
                for file_id in file_ids {
                    self.files.remove(&FileRef { public_id: owner, file_id });
                }
            }
            FeedChange::Withdrawn { owner, file_ids: None, instance } => {
                self.drop_files(owner, |entry| instance.is_none_or(|one| entry.instance == one));
            }
        }
    }
}

/// Whether the page goes on from there.
fn follows(page: &FeedPage, from: Resume) -> bool {
    match page.mode {
        FeedMode::Snapshot => true,
        FeedMode::UpToDate => (page.epoch, page.revision) == (from.epoch, from.revision),
        FeedMode::Delta => {
            page.epoch == from.epoch && page.since.is_none_or(|since| since <= from.revision)
        }
    }
}

#[cfg(test)]
mod tests {
    //! A mirror ends up with what the feed says, whatever is pushed, dropped or changed between two
    //! pages.
    use super::*;
    use crate::peer::testing::{client, device, entry, file_id};

    fn at(revision: u64) -> Resume {
        Resume { epoch: 7, revision }
    }

    fn page(
        mode: FeedMode,
        revision: u64,
        files: Vec<FileEntry>,
        cursor: Option<&str>,
    ) -> FeedPage {
        let (clients, gone) = Default::default();
        let cursor = cursor.map(String::from);
        let since = (mode == FeedMode::Delta).then_some(5);
        FeedPage {
            feed: Default::default(),
            mode,
            epoch: 7,
            revision,
            since,
            clients,
            files,
            gone,
            last: cursor.is_none(),
            cursor,
        }
    }

    fn names(mirror: &Mirror) -> Vec<&str> {
        mirror.catalogue().files.values().map(|file| file.path.as_str()).collect()
    }

    fn removed(n: u8) -> FeedChange {
        FeedChange::Removed { owner: device(1), file_ids: vec![file_id(n)] }
    }

    fn pulled() -> Mirror {
        let mut mirror = Mirror::default();
        mirror.expect();
        let files = vec![entry(1, 1, "a"), entry(1, 2, "b")];
        assert_eq!(mirror.page(page(FeedMode::Snapshot, 5, files, None), None), Paged::Finished);
        mirror
    }

    #[test]
    fn the_next_change_is_applied_an_old_one_dropped_a_later_one_is_a_gap() {
        let mut mirror = pulled();
        assert_eq!(mirror.push(at(6), removed(1)), Pushed::Applied);
        assert_eq!(
            mirror
                .push(at(6), FeedChange::Files { owner: device(1), files: vec![entry(1, 1, "a")] }),
            Pushed::Dropped
        );
        assert_eq!(mirror.push(at(8), removed(2)), Pushed::Gap);
        assert_eq!(mirror.push(Resume { epoch: 8, revision: 7 }, removed(2)), Pushed::Gap);
        assert_eq!(names(&mirror), ["b"]);
    }

    /// Two tabs with one instance stand elsewhere in the feed, and an answer to one may reach the
    /// other (PROTOCOL.md 1.4).
    #[test]
    fn a_page_that_goes_on_from_elsewhere_is_pulled_anew() {
        for stranger in [
            page(FeedMode::UpToDate, 9, vec![], None),
            FeedPage { since: Some(7), ..page(FeedMode::Delta, 9, vec![], None) },
        ] {
            let mut mirror = pulled();
            mirror.expect();
            assert_eq!(mirror.page(stranger, None), Paged::Again);
            assert_eq!(mirror.resume(), Some(at(5)), "it stands where it stood");
        }
        let mut mirror = pulled();
        mirror.expect();
        assert_eq!(mirror.page(page(FeedMode::UpToDate, 5, vec![], None), None), Paged::Finished);
    }

    #[test]
    fn a_snapshot_drops_what_it_does_not_name() {
        let mut mirror = pulled();
        mirror.begin(1);
        let first = page(FeedMode::Snapshot, 9, vec![entry(1, 2, "b")], Some("next"));
        let more = Paged::More { from: at(5), cursor: "next".into() };
        assert_eq!(mirror.page(first, Some(1)), more);
        assert_eq!(
            mirror.page(page(FeedMode::Snapshot, 9, vec![entry(1, 3, "c")], None), Some(1)),
            Paged::Finished
        );
        assert_eq!(names(&mirror), ["b", "c"]);
        assert_eq!(mirror.resume(), Some(at(9)));
    }

    #[test]
    fn a_delta_keeps_the_rest() {
        let mut mirror = pulled();
        mirror.begin(1);
        let mut delta = page(FeedMode::Delta, 9, vec![entry(1, 3, "c")], None);
        delta.gone.push(lanyard_protocol::Gone { public_id: device(1), file_id: Some(file_id(1)) });
        assert_eq!(mirror.page(delta, Some(1)), Paged::Finished);
        assert_eq!(names(&mirror), ["b", "c"]);
    }

    #[test]
    fn changes_during_a_pull_are_applied_after_it() {
        let mut mirror = pulled();
        mirror.begin(1);
        mirror.page(page(FeedMode::Snapshot, 9, vec![entry(1, 1, "a")], Some("next")), Some(1));
        assert_eq!(mirror.push(at(10), removed(1)), Pushed::Kept);
        assert_eq!(mirror.push(at(11), FeedChange::Approved(client(4, "D"))), Pushed::Kept);
        assert_eq!(
            mirror.page(page(FeedMode::Snapshot, 10, vec![entry(1, 2, "b")], None), Some(1)),
            Paged::Finished
        );
        assert_eq!(names(&mirror), ["b"], "named on the first page, removed before the last");
        assert_eq!(mirror.resume(), Some(at(11)));
        assert!(mirror.catalogue().clients.contains_key(&device(4)));
    }

    #[test]
    fn a_hole_during_a_pull_means_another_pull() {
        let mut mirror = pulled();
        mirror.begin(1);
        mirror.push(at(10), removed(1));
        mirror.push(at(12), removed(2));
        assert_eq!(mirror.page(page(FeedMode::UpToDate, 12, vec![], None), Some(1)), Paged::Again);
        mirror.begin(2);
        assert!(!mirror.dirty());
        assert_eq!(mirror.page(page(FeedMode::UpToDate, 12, vec![], None), Some(2)), Paged::Again);
        assert!(mirror.dirty());
    }

    #[test]
    fn pages_of_another_pull_are_ignored() {
        let mut mirror = pulled();
        mirror.begin(4);
        assert_eq!(mirror.page(page(FeedMode::Snapshot, 9, vec![], None), None), Paged::Ignored);
        assert_eq!(mirror.page(page(FeedMode::Snapshot, 9, vec![], None), Some(3)), Paged::Ignored);
        assert_eq!(names(&mirror), ["a", "b"]);
    }

    #[test]
    fn an_instance_that_stays_away_takes_only_its_own_files() {
        let mut mirror = pulled();
        let mut other = entry(1, 3, "c");
        other.instance = Instance([9; 16]);
        mirror.push(at(6), FeedChange::Files { owner: device(1), files: vec![other] });
        let change = FeedChange::Withdrawn {
            owner: device(1),
            file_ids: None,
            instance: Some(Instance([9; 16])),
        };
        mirror.push(at(7), change);
        assert_eq!(names(&mirror), ["a", "b"]);
    }

    /// A page of devices that are gone, and a list of others' files: each device costs what it had.
    #[test]
    fn devices_that_go_cost_what_they_had_and_not_what_is_listed() {
        let mut mirror = pulled();
        let many = (0..200).map(|n| entry(9, n, "x")).collect();
        assert_eq!(
            mirror.push(at(6), FeedChange::Files { owner: device(9), files: many }),
            Pushed::Applied
        );
        mirror.begin(1);
        crate::peer::testing::visited();
        let gone = (10..250)
            .chain([1])
            .map(|n| lanyard_protocol::Gone { public_id: device(n), file_id: None });
        let page = FeedPage { gone: gone.collect(), ..page(FeedMode::Delta, 9, vec![], None) };
        assert_eq!(mirror.page(page, Some(1)), Paged::Finished);
        assert_eq!(mirror.catalogue().files.len(), 200);
        assert_eq!(crate::peer::testing::visited(), 2, "the two files of the one that had any");
    }
}
