//! One download: which groups of which files are missing, which are on their way, what it waits
//! for.

use std::collections::{BTreeMap, VecDeque};

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::group::Groups;
use lanyard_protocol::limits::{MAX_PIECES, MAX_RUN_BYTES};
use lanyard_protocol::{DeviceId, FailureCode, FileId, GroupRange, GroupSpan, Root};

use super::group_set::GroupSet;
use super::window::Window;
use super::{TransferOrder, WantedFile};

/// Files of which less is missing travel many to a body.
const SMALL_BYTES: u64 = 1 << 20;
/// Bytes of a bundle: half of the largest run, so that two fit what the relay gives one owner.
const BUNDLE_BYTES: u64 = MAX_RUN_BYTES / 2;
/// Large files of one transfer that are on their way at once.
const FILES_AT_A_TIME: usize = 3;

/// The event or time that a file waits for before it is requested again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RetryReason {
    pub(super) code: FailureCode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobState {
    /// Groups are missing or on their way.
    Fetching,
    /// All groups are here, and the root that they must merge to is on its way.
    WantsRoot,
    /// The driver checks and names the file.
    Closing,
    /// They do not merge to the root: the list of values shall tell which are wrong.
    WantsHashes,
    AskedHashes,
    Done,
    Failed,
}

/// One file of a transfer.
#[derive(Debug, Clone)]
pub(super) struct FileJob {
    pub(super) groups: Groups,
    pub(super) root: Option<Root>,
    /// Stored.
    pub(super) have: GroupSet,
    /// Neither stored nor on its way.
    pub(super) missing: GroupSet,
    pub(super) state: JobState,
    /// Failures since a group was stored.
    pub(super) tries: u32,
    pub(super) waiting: Option<RetryReason>,
    /// The reader took all groups below this one.
    pub(super) consumed: u32,
    /// How often the groups did not merge to the root.
    pub(super) mismatches: u32,
    /// Groups from here on are asked for first: others read them now (`JOIN_AT`).
    pub(super) from: u32,
    /// Stands in the transfer's queue.
    queued: bool,
    /// Stands among those that waited.
    among_waiters: bool,
}

impl FileJob {
    fn new(wanted: &WantedFile) -> Self {
        let groups = Groups::new(wanted.size, wanted.group_log);
        let mut missing = GroupSet::full(groups.count());
        wanted.have.runs().for_each(|run| missing.remove(run));
        Self {
            groups,
            root: wanted.root,
            have: wanted.have.clone(),
            missing,
            state: JobState::Fetching,
            tries: 0,
            waiting: None,
            consumed: 0,
            mismatches: 0,
            from: 0,
            queued: false,
            among_waiters: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, JobState::Done | JobState::Failed)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.have.len() == self.groups.count()
    }

    /// Bytes stored, for the owner's screen.
    pub(super) fn have_bytes(&self) -> u64 {
        self.have.bytes(self.groups)
    }

    fn missing_bytes(&self) -> u64 {
        self.missing.bytes(self.groups)
    }

    /// Everything that is not stored is missing again.
    pub(super) fn nothing_under_way(&mut self) {
        self.missing = GroupSet::full(self.groups.count());
        for run in self.have.runs().collect::<Vec<_>>() {
            self.missing.remove(run);
        }
        self.waiting = None;
        if self.state == JobState::AskedHashes {
            self.state = JobState::WantsHashes;
        }
    }

    /// These were on their way; what of them is not stored is missing again.
    pub(super) fn give_back(&mut self, range: GroupRange) {
        for gap in self.have.gaps(range) {
            self.missing.insert(gap);
        }
    }

    pub(super) fn start_over(&mut self) {
        self.have = GroupSet::default();
        self.missing = GroupSet::full(self.groups.count());
        self.state = JobState::Fetching;
    }
}

/// Files of one owner, fetched under one id.
#[derive(Debug, Clone)]
pub(super) struct Transfer {
    pub(super) owner: DeviceId,
    pub(super) jobs: BTreeMap<FileId, FileJob>,
    /// As ordered.
    order: Vec<FileId>,
    /// Files with something to ask for; the first few large ones take turns.
    queue: VecDeque<FileId>,
    /// Files that waited for something, oldest first; some do not any more.
    waiters: VecDeque<FileId>,
    pub(super) window: Window,
    pub(super) paused: bool,
    lookahead_bytes: Option<u64>,
    /// The last state that the driver was told: the reason for waiting, and whether it is paused.
    pub(super) told: Option<(Option<FailureCode>, bool)>,
    pub(super) done: usize,
    pub(super) failed: usize,
}

impl Transfer {
    pub(super) fn new(order: &TransferOrder) -> Self {
        let mut transfer = Self {
            owner: order.owner,
            jobs: order.files.iter().map(|file| (file.file_id, FileJob::new(file))).collect(),
            order: order.files.iter().map(|file| file.file_id).collect(),
            queue: VecDeque::new(),
            waiters: VecDeque::new(),
            window: Window::default(),
            paused: false,
            lookahead_bytes: order.lookahead_bytes,
            told: None,
            done: 0,
            failed: 0,
        };
        transfer.line_up();
        transfer
    }

    pub(super) fn is_over(&self) -> bool {
        self.done + self.failed == self.jobs.len()
    }

    /// Puts a file into the queue if there is something to ask of it.
    pub(super) fn enqueue(&mut self, file_id: FileId) {
        let Some(job) = self.jobs.get_mut(&file_id) else { return };
        let wants = match job.state {
            JobState::Fetching => !job.missing.is_empty(),
            JobState::WantsHashes => true,
            JobState::WantsRoot
            | JobState::Closing
            | JobState::AskedHashes
            | JobState::Done
            | JobState::Failed => false,
        };
        if wants && job.waiting.is_none() && !job.queued {
            job.queued = true;
            self.queue.push_back(file_id);
        }
    }

    /// A file waits from now on.
    pub(super) fn waits(&mut self, file_id: FileId, code: FailureCode) {
        if let Some(job) = self.jobs.get_mut(&file_id) {
            job.waiting = Some(RetryReason { code });
            if !job.among_waiters {
                job.among_waiters = true;
                self.waiters.push_back(file_id);
            }
        }
    }

    /// Returns the reason for waiting of a transfer that has nothing to request. Keeps the few
    /// waiting files apart, so that this does not scan ten thousand.
    pub(super) fn waits_for(&mut self) -> Option<FailureCode> {
        while let Some(first) = self.waiters.front() {
            let job = self.jobs.get_mut(first)?;
            if let Some(waiting) = job.waiting {
                return Some(waiting.code);
            }
            job.among_waiters = false;
            self.waiters.pop_front();
        }
        None
    }

    /// Wakes those that waited for this, and looks at no others.
    pub(super) fn wake(&mut self, code: FailureCode) {
        for file_id in std::mem::take(&mut self.waiters) {
            #[cfg(test)]
            super::testing::visit();
            let Some(job) = self.jobs.get_mut(&file_id) else { continue };
            match job.waiting {
                Some(waiting) if waiting.code != code => self.waiters.push_back(file_id),
                _ => {
                    job.among_waiters = false;
                    if job.waiting.take().is_some() {
                        self.enqueue(file_id);
                    }
                }
            }
        }
    }

    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    fn take_front(&mut self) -> Option<FileId> {
        let file_id = self.queue.pop_front()?;
        if let Some(job) = self.jobs.get_mut(&file_id) {
            job.queued = false;
        }
        Some(file_id)
    }

    /// The next run to ask for, of `most` bytes if groups are that small; its groups are no longer
    /// missing.
    pub(super) fn next_run(&mut self, most: u64) -> Option<(BodyKind, Vec<GroupSpan>)> {
        // Each file in the queue is looked at once at most: one behind its reader stays and asks
        // nothing now.
        for _ in 0..self.queue.len() {
            let file_id = *self.queue.front()?;
            let job = self.jobs.get_mut(&file_id)?;
            if job.state == JobState::WantsHashes {
                job.state = JobState::AskedHashes;
                let whole = GroupSpan::new(file_id, 0, job.groups.count());
                self.take_front();
                return Some((BodyKind::Hashes, vec![whole]));
            }
            if job.state != JobState::Fetching || job.waiting.is_some() || job.missing.is_empty() {
                self.take_front();
                continue;
            }
            let shared = self.window.is_late() && job.groups.size > SMALL_BYTES;
            if self.lookahead_bytes.is_none() && job.missing_bytes() <= SMALL_BYTES && !shared {
                return Some((BodyKind::Bytes, self.bundle(most)));
            }
            if let Some(piece) = self.run_of(file_id, most) {
                return Some((BodyKind::Bytes, vec![piece]));
            }
            self.rotate();
        }
        None
    }

    /// Small files from the front of the queue, as many as fit one body.
    fn bundle(&mut self, most: u64) -> Vec<GroupSpan> {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while let Some(file_id) = self.queue.front().copied() {
            let Some(job) = self.jobs.get_mut(&file_id) else { break };
            if job.state == JobState::WantsHashes {
                break;
            }
            let fetching = job.state == JobState::Fetching && job.waiting.is_none();
            let (size, runs) = (job.missing_bytes(), job.missing.runs().count());
            if fetching && !pieces.is_empty() {
                let full =
                    bytes + size > BUNDLE_BYTES.min(most) || pieces.len() + runs > MAX_PIECES;
                if full || size > SMALL_BYTES {
                    break;
                }
            }
            if fetching {
                bytes += size;
                pieces.extend(job.missing.runs().map(|run| GroupSpan { file_id, groups: run }));
                job.missing = GroupSet::default();
            }
            self.take_front();
        }
        pieces
    }

    /// The next run of one large file. A reader in order is given whole runs of a third of its
    /// lookahead: asking for each group as the one before is taken would be a message a group.
    fn run_of(&mut self, file_id: FileId, most: u64) -> Option<GroupSpan> {
        let lookahead = self.lookahead_bytes;
        let job = self.jobs.get_mut(&file_id)?;
        let run_bytes = match lookahead {
            None => self.window.next_bytes(job.missing_bytes()),
            Some(ahead) => self.window.run_bytes().min(ahead / 3),
        };
        let run_bytes = run_bytes.min(MAX_RUN_BYTES).min(most);
        // A reader in order takes the first that is missing, wherever others are.
        let from = if lookahead.is_none() { job.from } else { 0 };
        let first = job.missing.first_from(from).or_else(|| job.missing.first())?;
        let groups_in = |bytes: u64| (bytes >> job.groups.group_log).max(1) as u32;
        let count = first.count.min(groups_in(run_bytes));
        let room = lookahead
            .map(|ahead| job.consumed.saturating_add(groups_in(ahead)).saturating_sub(first.first));
        if room.is_some_and(|room| room < count) {
            return None;
        }
        let run = GroupRange::new(first.first, count);
        job.missing.remove(run);
        if job.missing.is_empty() {
            self.take_front();
        } else {
            self.rotate();
        }
        Some(GroupSpan { file_id, groups: run })
    }

    /// The front file goes behind the others that are on their way.
    fn rotate(&mut self) {
        if let Some(front) = self.queue.pop_front() {
            let place = self.queue.len().min(FILES_AT_A_TIME - 1);
            self.queue.insert(place, front);
        }
    }

    /// After a session: everything that is not stored is asked for again, in the old order.
    pub(super) fn nothing_under_way(&mut self) {
        for job in self.jobs.values_mut().filter(|job| !job.is_over()) {
            job.nothing_under_way();
        }
        self.line_up();
    }

    /// The queue as it was ordered, without what has nothing to ask.
    fn line_up(&mut self) {
        self.queue.clear();
        self.jobs.values_mut().for_each(|job| job.queued = false);
        for file_id in std::mem::take(&mut self.order) {
            self.enqueue(file_id);
            self.order.push(file_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::testing::{device, file_id, visited};

    fn transfer(files: u8) -> Transfer {
        let file = |n| WantedFile {
            file_id: file_id(n),
            size: 1,
            group_log: 18,
            root: None,
            have: GroupSet::default(),
        };
        let files = (0..files).map(file).collect();
        let transfer_id =
            lanyard_protocol::TransferId("00000003-0000-8000-8000-000000000001".parse().unwrap());
        Transfer::new(&TransferOrder {
            transfer_id,
            owner: device(1),
            files,
            lookahead_bytes: None,
        })
    }

    /// Whoever lists something wakes what waits for him: as often as he likes, so it must cost what
    /// waits.
    #[test]
    fn waking_looks_at_what_waits_and_a_file_waits_once_however_often() {
        let mut transfer = transfer(200);
        while transfer.next_run(u64::MAX).is_some() {}
        for n in [7, 8] {
            transfer.jobs.get_mut(&file_id(n)).unwrap().give_back(GroupRange::new(0, 1));
        }
        visited();
        for _ in 0..1_000 {
            transfer.waits(file_id(7), FailureCode::OwnerAway);
            transfer.waits(file_id(8), FailureCode::ServerNotReady);
        }
        assert_eq!(transfer.waiters.len(), 2);
        transfer.wake(FailureCode::OwnerAway);
        assert_eq!((visited(), transfer.queue.len(), transfer.waiters.len()), (2, 1, 1));
        transfer.wake(FailureCode::OwnerAway);
        assert_eq!((visited(), transfer.waits_for()), (1, Some(FailureCode::ServerNotReady)));
        transfer.wake(FailureCode::ServerNotReady);
        assert_eq!(
            (transfer.queue.len(), transfer.waits_for()),
            (2, None),
            "both are asked for again"
        );
    }
}
