//! Transfers: which groups are on their way from whom to whom, within the byte budget.
//!
//! A state machine of its own that knows nothing of the broker around it. It reads the sessions and
//! the master's state through [`Cx`]. Messages to either leave as effects. Where the broker has to
//! decide, a [`TransferEvent`] tells it what happened.

mod budget;
mod corruption;
mod grants;
mod group_joining;
mod progress;
mod requests;
mod slot_lifecycle;
mod slots;
mod speed;
mod stats;
mod work_counter;

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::message::{
    CancelChunk, ChunkUnavailable, FileGrant, FileRoot, FilesUpdated, RequestChunk, RequestFailed,
};
use lanyard_protocol::{
    FileEntry, GroupSpan, LinkHash, MasterFrame, RelayMessage, RelayToMaster, Root,
};

use super::master::MasterState;
use super::sessions::Sessions;
use super::*;
use budget::BudgetQueue;
use corruption::CorruptionLog;
use grants::Grants;
use progress::ProgressTracker;
use requests::{ChunkRequest, ChunkRequestId, Requester};
use slots::Slots;
use speed::Speeds;
use work_counter::WorkCounter;

pub use speed::SpeedGroup;
pub use stats::TransferStats;

/// Timers of a transfer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TransferTimer {
    /// The slot's PUT has not started.
    PutStart(SlotId),
    /// The reader's GET has not started.
    GetStart(SlotId, ReaderId),
    /// A full slot without readers has been cache long enough.
    CacheEnd(SlotId),
    /// A run waited long enough for budget.
    AskWaited(ChunkRequestId),
    /// A link's ask may be tried again.
    AskRetry(ChunkRequestId),
    /// Speeds are looked at, and blocked asks look whether who they wait for still moves.
    LookAgain,
}

/// Something that concerns transfers, told by the broker.
#[derive(Debug)]
pub(super) enum TransferInput<'a> {
    Slot(SlotInput),
    Reader(ReaderInput),
    Timer(TransferTimer),
    Device(DeviceTransferInput),
    Link(LinkTransferInput),
    Session(SessionTransferInput),
    Files(FilesInput<'a>),
    Master(MasterTransferInput),
}

/// A message of an approved session.
#[derive(Debug)]
pub(super) enum DeviceTransferInput {
    Requested { session: SessionId, request: RequestChunk, reference: Option<Ref> },
    Cancelled { session: SessionId, cancel: CancelChunk, reference: Option<Ref> },
    Unavailable { session: SessionId, no: ChunkUnavailable },
}

/// Wants and withdrawals of responses behind links.
#[derive(Debug)]
pub(super) enum LinkTransferInput {
    /// The pieces are of one owner.
    Wanted {
        reader: LinkReader,
        hash: LinkHash,
        want: u64,
        owner: DeviceId,
        pieces: Vec<GroupSpan>,
    },
    Left {
        reader: LinkReader,
        up_to: u64,
    },
    /// The link is over: its responses are cut.
    Over {
        hash: LinkHash,
        code: FailureCode,
    },
}

/// A change of the sessions that transfers depend on. The sessions themselves have changed already.
#[derive(Debug)]
pub(super) enum SessionTransferInput {
    /// The session is gone, or belongs no more.
    Ended(SessionId),
    /// The session stays, but waits for the host again.
    Demoted(SessionId),
    /// The session answers, but its uploads lapse.
    FellAsleep(SessionId),
    /// The device was refused: what it had in flight ends in both directions.
    Refused(DeviceId),
    /// Some session or the master came back: what waited for either is tried again.
    CameBack,
}

/// News of the list of files.
#[derive(Debug)]
pub(super) enum FilesInput<'a> {
    Listed(&'a [FileEntry]),
    RootsListed(&'a FilesUpdated),
    Removed(&'a BTreeSet<FileRef>),
    /// A link that was opened names the file.
    Linked(&'a FileEntry),
    /// A page of an archive names the files.
    PageHeld(Vec<FileEntry>),
    /// Pages that named the files are read.
    PageRead(Vec<FileRef>),
}

/// Answers of the master, and its coming and going.
#[derive(Debug)]
pub(super) enum MasterTransferInput {
    Granted { grant: FileGrant, reference: Option<Ref> },
    Failed { no: RequestFailed, reference: Option<Ref> },
    Lost,
    Returned,
}

/// Something that transfers found out about a session. The broker decides what follows of it.
#[derive(Debug)]
pub(super) enum TransferEvent {
    /// The holder began an upload.
    UploadBegan(SessionId),
    /// The holder's ticket lapsed without a word.
    UploadLapsed(SessionId),
}

/// Context of a mutation: everything it may use beside the fields of the transfers.
pub(super) struct Cx<'a> {
    pub now: Moment,
    pub ids: &'a mut IdSource,
    pub next_number: &'a mut u64,
    pub effects: &'a mut EffectQueue<Effect>,
    pub deadlines: &'a mut Deadlines<Timer>,
    pub sessions: &'a Sessions,
    pub master: &'a MasterState,
    pub events: &'a mut Vec<TransferEvent>,
}

impl Cx<'_> {
    fn number(&mut self) -> u64 {
        next_number(self.next_number)
    }

    fn hub_ready(&self) -> bool {
        self.master.ready_session().is_some()
    }

    fn send(&mut self, session: SessionId, message: RelayToDevice, reference: Option<Ref>) {
        self.effects.push(Effect::Session(SessionEffect::Send { session, message, reference }));
    }

    fn fail(&mut self, session: SessionId, code: FailureCode, reference: Option<Ref>) {
        self.send(session, sessions::request_failed(code), reference);
    }

    /// Sends a message to the master; without one it is dropped, for a master that comes back is
    /// told all anew.
    fn tell_master(&mut self, message: RelayMessage) {
        self.ask_master(message, None);
    }

    fn ask_master(&mut self, message: RelayMessage, reference: Option<Ref>) {
        if let Some(session) = self.master.ready_session() {
            let frame = Box::new(MasterFrame {
                reference,
                ..MasterFrame::plain(RelayToMaster::Relay(message))
            });
            self.effects.push(Effect::Master(MasterEffect::Send { session, frame }));
        }
    }

    fn keep_sweeping(&mut self) {
        keep_sweeping(self.deadlines, self.now);
    }
}

/// The sub-machine. Only the broker owns one.
#[derive(Debug)]
pub(super) struct Transfers {
    /// Bytes that all slots together may hold.
    budget_bytes: u64,
    /// Requests that wait for something other than budget.
    requests: BTreeMap<ChunkRequestId, ChunkRequest>,
    queue: BudgetQueue,
    slots: Slots,
    grants: Grants,
    speeds: Speeds,
    corruption: CorruptionLog,
    progress: ProgressTracker,
    stats: TransferStats,
    work: WorkCounter,
}

impl Transfers {
    pub(super) fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            requests: BTreeMap::new(),
            queue: BudgetQueue::default(),
            slots: Slots::default(),
            grants: Grants::default(),
            speeds: Speeds::default(),
            corruption: CorruptionLog::default(),
            progress: ProgressTracker::default(),
            stats: TransferStats::default(),
            work: WorkCounter::default(),
        }
    }

    /// One mutation. Whatever it made room for is served by [`Transfers::pump`], which the broker
    /// calls once all parts have had their say.
    pub(super) fn handle(&mut self, cx: &mut Cx<'_>, input: TransferInput<'_>) {
        match input {
            TransferInput::Slot(input) => self.handle_slot(cx, input),
            TransferInput::Reader(input) => self.handle_reader(cx, input),
            TransferInput::Timer(timer) => self.handle_timer(cx, timer),
            TransferInput::Device(input) => self.handle_device(cx, input),
            TransferInput::Link(input) => self.handle_link(cx, input),
            TransferInput::Session(input) => self.handle_session(cx, input),
            TransferInput::Files(input) => self.handle_files(cx, input),
            TransferInput::Master(input) => self.handle_master(cx, input),
        }
    }

    fn handle_slot(&mut self, cx: &mut Cx<'_>, input: SlotInput) {
        match input {
            SlotInput::PutStarted { slot } => self.put_started(cx, slot),
            SlotInput::PutFinished { slot } => self.put_finished(cx, slot),
            SlotInput::PutFailed { slot, code, culprit } => {
                self.put_failed(cx, slot, code, culprit)
            }
            SlotInput::RootKnown { file, root } => self.root_known(cx, file, root),
            SlotInput::HashesKnown { file } => self.grants.note_hashes(&file),
            SlotInput::HashesLost { file } => self.grants.forget_hashes(&file),
        }
    }

    fn handle_reader(&mut self, cx: &mut Cx<'_>, input: ReaderInput) {
        match input {
            ReaderInput::Started { slot, reader } => self.reader_started(cx, slot, reader),
            ReaderInput::Left { slot, reader, delivered } => {
                self.reader_left(cx, slot, reader, delivered)
            }
            ReaderInput::Moved { moved } => self.readers_moved(cx, moved),
            ReaderInput::Still { slot, reader, still } => self.reader_still(slot, reader, still),
        }
    }

    fn handle_timer(&mut self, cx: &mut Cx<'_>, timer: TransferTimer) {
        match timer {
            TransferTimer::PutStart(slot) => self.put_lapsed(cx, slot),
            TransferTimer::GetStart(slot, reader) => self.get_lapsed(cx, slot, reader),
            TransferTimer::CacheEnd(slot) => self.cache_ended(cx, slot),
            TransferTimer::AskWaited(ask) => self.ask_waited(cx, ask),
            TransferTimer::AskRetry(ask) => self.ask_retried(cx, ask),
            TransferTimer::LookAgain => self.look_unreported(cx), // and the pump serves
        }
    }

    fn handle_device(&mut self, cx: &mut Cx<'_>, input: DeviceTransferInput) {
        match input {
            DeviceTransferInput::Requested { session, request, reference } => {
                self.chunk_requested(cx, session, request, reference)
            }
            DeviceTransferInput::Cancelled { session, cancel, reference } => {
                self.chunk_cancelled(cx, session, cancel, reference)
            }
            DeviceTransferInput::Unavailable { session, no } => {
                self.chunk_unavailable(cx, session, no)
            }
        }
    }

    fn handle_link(&mut self, cx: &mut Cx<'_>, input: LinkTransferInput) {
        match input {
            LinkTransferInput::Wanted { reader, hash, want, owner, pieces } => {
                let asker = Requester::Link { reader, want, hash };
                self.ask(cx, asker, owner, BodyKind::Bytes, pieces, None)
            }
            LinkTransferInput::Left { reader, up_to } => self.link_left(cx, reader, up_to),
            LinkTransferInput::Over { hash, code } => self.link_over(cx, hash, code),
        }
    }

    fn handle_session(&mut self, cx: &mut Cx<'_>, input: SessionTransferInput) {
        match input {
            SessionTransferInput::Ended(session) => {
                self.end_asker(cx, session);
                self.end_holder(cx, session, FailureCode::OwnerAway);
                self.progress.forget_session(session);
                self.speeds.forget_session(session);
            }
            SessionTransferInput::Demoted(session) => {
                self.end_asker(cx, session);
                self.end_holder(cx, session, FailureCode::OwnerAway);
            }
            SessionTransferInput::FellAsleep(session) => {
                self.end_holder(cx, session, FailureCode::OwnerAway)
            }
            SessionTransferInput::Refused(device) => self.end_device(cx, device),
            SessionTransferInput::CameBack => self.retry_parked(cx),
        }
    }

    fn handle_files(&mut self, cx: &mut Cx<'_>, input: FilesInput<'_>) {
        match input {
            FilesInput::Listed(files) => {
                for entry in files {
                    self.grants.renew(entry);
                    self.corruption.listed(&entry.file_ref());
                }
                self.retry_parked(cx);
            }
            FilesInput::RootsListed(updated) => {
                for known in &updated.files {
                    let file = FileRef { public_id: updated.public_id, file_id: known.file_id };
                    self.grants.set_root(&file, known.root);
                }
            }
            FilesInput::Removed(files) => {
                for file in files {
                    self.grants.remove(file);
                    self.corruption.removed(cx.now, file);
                }
                self.end_gone(cx, files);
            }
            FilesInput::Linked(entry) => self.grants.insert(cx.now, entry.clone()),
            FilesInput::PageHeld(entries) => {
                entries.into_iter().for_each(|entry| self.grants.hold(cx.now, entry))
            }
            FilesInput::PageRead(files) => files.iter().for_each(|file| self.grants.release(file)),
        }
    }

    fn handle_master(&mut self, cx: &mut Cx<'_>, input: MasterTransferInput) {
        match input {
            MasterTransferInput::Granted { grant, reference } => {
                self.files_granted(cx, grant, reference)
            }
            MasterTransferInput::Failed { no, reference } => {
                self.lookup_failed(cx, no.code, reference.as_ref())
            }
            MasterTransferInput::Lost => self.lookups_lost(cx),
            MasterTransferInput::Returned => self.confirm_grants(cx),
        }
    }

    /// Returns the bytes that live slots reserve.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.slots.reserved()
    }

    /// Returns how many runs wait for a slot.
    pub(super) fn waiting_count(&self) -> usize {
        self.requests.len() + self.queue.len()
    }

    pub(super) fn stats(&self) -> TransferStats {
        self.stats
    }

    /// Writes the live counts of transfers into `counts`.
    pub(super) fn count_into(&self, counts: &mut BrokerCounts) {
        counts.slots = self.slots.count();
        counts.filling = self.slots.filling_count();
        counts.readers = self.slots.reader_count();
        counts.asks = self.waiting_count();
        counts.grants = self.grants.count();
    }

    /// Drops what has not been used for a while. Returns true if there may be more to drop later.
    pub(super) fn sweep(&mut self, now: Moment) -> bool {
        self.grants.sweep(now);
        self.corruption.sweep(now);
        self.speeds.sweep(now);
        !(self.grants.is_empty() && self.corruption.is_empty())
    }

    /// Ends all that a refused device had in flight, in both directions.
    fn end_device(&mut self, cx: &mut Cx<'_>, device: DeviceId) {
        let files = self.grants.files_of(device);
        for file in &files {
            self.grants.remove(file);
        }
        self.end_files(cx, &files, FailureCode::PeerRevoked);
        self.fail_asks_to(cx, device, FailureCode::PeerRevoked);
    }

    fn link_left(&mut self, cx: &mut Cx<'_>, reader: LinkReader, up_to: u64) {
        self.speeds.forget_link(reader);
        let ours = |asker: &Requester| matches!(asker, Requester::Link { reader: r, want, .. } if *r == reader && *want <= up_to);
        self.end_asks_where(cx, ours, FailureCode::Cancelled);
    }

    fn link_over(&mut self, cx: &mut Cx<'_>, hash: LinkHash, code: FailureCode) {
        let ours =
            |asker: &Requester| matches!(asker, Requester::Link { hash: h, .. } if *h == hash);
        let wanting: Vec<ChunkRequest> =
            self.requests.values().filter(|ask| ours(&ask.asker)).cloned().collect();
        for ask in wanting.iter().chain(&self.queue.take_where(|ask| ours(&ask.asker))) {
            self.tell_link_failed(cx, ask, code);
        }
        // Who waits in a slot that is not filling yet would hear nothing of its end.
        for (reader, want, file) in self.slots.links_untold(ours) {
            let failed = LinkEffect::Failed { reader, want, code, file };
            cx.effects.push(Effect::Link(failed));
        }
        self.end_asks_where(cx, ours, code);
    }

    /// Takes a file's root that became known here: the master writes it into the list.
    fn root_known(&mut self, cx: &mut Cx<'_>, file: FileRef, root: Root) {
        self.grants.note_hashes(&file);
        if self.grants.set_root(&file, root) {
            let FileRef { public_id, file_id } = file;
            cx.tell_master(RelayMessage::FileRoot(FileRoot { public_id, file_id, root }));
        }
    }
}

/// Counters that tests hold to a bound.
#[cfg(test)]
impl Transfers {
    /// Returns how many entries were visited since the last call.
    pub(super) fn take_work(&self) -> u64 {
        self.work.take()
    }

    pub(super) fn queued_count(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn progress_count(&self) -> usize {
        self.progress.count()
    }

    pub(super) fn changed_count(&self) -> usize {
        self.corruption.changed_count()
    }

    pub(super) fn measured_reader_count(&self) -> usize {
        self.speeds.all().count()
    }

    pub(super) fn granted(&self, file: &FileRef) -> Option<&FileEntry> {
        self.grants.entry(file)
    }
}
