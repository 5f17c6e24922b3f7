//! The state machine of the relay: who is connected, who receives what, which groups are in transit.
//!
//! The broker knows no file names and keeps no catalogue. It asks the master for what it needs of a
//! file or a link, and may forget the answer. It holds no bytes and no secrets: the relay's tasks
//! verify keys and move bytes, and report both. A broker that starts empty loses nothing.

#![warn(clippy::wildcard_enum_match_arm)]

mod budget;
mod corruption;
mod effect;
#[cfg(test)]
mod flows;
mod grants;
mod group_joining;
mod input;
mod links;
mod master;
mod pending_sessions;
mod progress;
mod requests;
mod routing;
mod sessions;
mod slot_lifecycle;
mod slots;
mod speed;
mod stats;
mod status;
#[cfg(test)]
mod tests;
mod work_counter;

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::{DeviceId, FailureCode, FileRef, Ref, RelayMessage, RelayToDevice};

pub use effect::{
    CallEffect, Effect, LinkContent, LinkEffect, LinkInfo, LinkPart, MasterEffect, NewSlot,
    SessionEffect, SlotEffect, SlotSpan,
};
pub use input::{
    CallId, CallInput, Identity, Input, LinkInput, LinkProgress, LinkReader, MasterInput, ReaderId,
    ReaderInput, Rejections, SessionId, SessionInput, SlotId, SlotInput, WantedSpan,
};

pub use speed::SpeedGroup;
pub use stats::TransferStats;

use crate::idsource::IdSource;
use crate::machine::{Deadlines, EffectQueue, Moment};
use budget::BudgetQueue;
use corruption::CorruptionLog;
use grants::Grants;
use links::Links;
use master::MasterState;
use progress::ProgressTracker;
use requests::{ChunkRequest, ChunkRequestId};
use sessions::Sessions;
use slots::Slots;
use speed::Speeds;
use work_counter::WorkCounter;

/// What a broker is told once.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Bytes that all slots together may hold.
    pub budget_bytes: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self { budget_bytes: lanyard_protocol::limits::DEFAULT_BUDGET_BYTES }
    }
}

/// What comes due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
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
    /// A call about a link waited long enough for the master.
    Call(CallId),
    /// Speeds are looked at, and blocked asks look whether who they wait for still moves.
    LookAgain,
    /// Unused grants and links go.
    Sweep,
}

/// The machine. One driver owns it; see the crate's documentation for the four verbs.
#[derive(Debug)]
pub struct Broker {
    config: BrokerConfig,
    ids: IdSource,
    effects: EffectQueue<Effect>,
    deadlines: Deadlines<Timer>,
    next_number: u64,
    sessions: Sessions,
    master: MasterState,
    grants: Grants,
    slots: Slots,
    /// Asks that wait for something other than budget.
    asks: BTreeMap<ChunkRequestId, ChunkRequest>,
    queue: BudgetQueue,
    links: Links,
    blame: CorruptionLog,
    progress: ProgressTracker,
    speeds: Speeds,
    /// As they were told last.
    rejections: Rejections,
    tally: TransferStats,
    work: WorkCounter,
}

impl Broker {
    /// Makes a broker without sessions; `seed` feeds its ids and nonces.
    pub fn new(config: BrokerConfig, seed: [u8; 32]) -> Self {
        Self {
            config,
            ids: IdSource::new(seed),
            effects: EffectQueue::default(),
            deadlines: Deadlines::default(),
            next_number: 1,
            sessions: Sessions::default(),
            master: MasterState::default(),
            grants: Grants::default(),
            slots: Slots::default(),
            asks: BTreeMap::new(),
            queue: BudgetQueue::default(),
            links: Links::default(),
            blame: CorruptionLog::default(),
            progress: ProgressTracker::default(),
            speeds: Speeds::default(),
            rejections: Rejections::default(),
            tally: TransferStats::default(),
            work: WorkCounter::default(),
        }
    }

    /// One mutation.
    pub fn handle(&mut self, now: Moment, input: Input) {
        match input {
            Input::Session(input) => self.handle_session(now, input),
            Input::Master(input) => self.handle_master(now, input),
            Input::Slot(input) => self.handle_slot(now, input),
            Input::Reader(input) => self.handle_reader(now, input),
            Input::Link(input) => self.handle_link(now, input),
            Input::Call(input) => self.handle_call(now, input),
        }
        self.pump(now);
    }

    fn handle_session(&mut self, now: Moment, input: SessionInput) {
        match input {
            SessionInput::Opened { session, identity } => {
                self.session_opened(now, session, *identity)
            }
            SessionInput::MessageReceived { session, message, reference } => {
                self.message_received(now, session, message, reference)
            }
            SessionInput::Closed { session } => self.session_closed(now, session),
        }
    }

    fn handle_master(&mut self, now: Moment, input: MasterInput) {
        match input {
            MasterInput::Opened { session } => self.master_opened(now, session),
            MasterInput::MessageReceived { session, frame } => {
                self.master_message(now, session, *frame)
            }
            MasterInput::Closed { session } => self.master_closed(now, session),
            MasterInput::RejectionsCounted(rejections) => self.rejections_counted(rejections),
        }
    }

    fn handle_slot(&mut self, now: Moment, input: SlotInput) {
        match input {
            SlotInput::PutStarted { slot } => self.put_started(now, slot),
            SlotInput::PutFinished { slot } => self.put_finished(now, slot),
            SlotInput::PutFailed { slot, code, culprit } => {
                self.put_failed(now, slot, code, culprit)
            }
            SlotInput::RootKnown { file, root } => self.root_known(file, root),
            SlotInput::HashesKnown { file } => self.grants.note_hashes(&file),
            SlotInput::HashesLost { file } => self.grants.forget_hashes(&file),
        }
    }

    fn handle_reader(&mut self, now: Moment, input: ReaderInput) {
        match input {
            ReaderInput::Started { slot, reader } => self.reader_started(slot, reader),
            ReaderInput::Left { slot, reader, delivered } => {
                self.reader_left(now, slot, reader, delivered)
            }
            ReaderInput::Moved { moved } => self.readers_moved(now, moved),
            ReaderInput::Still { slot, reader, still } => self.reader_still(slot, reader, still),
        }
    }

    fn handle_link(&mut self, now: Moment, input: LinkInput) {
        match input {
            LinkInput::Wanted { reader, hash, want, pieces } => {
                self.link_wanted(now, reader, hash, want, pieces)
            }
            LinkInput::Left { reader, up_to } => self.link_left(now, reader, up_to),
            LinkInput::Moved { hash, progress } => self.link_moved(hash, progress),
            LinkInput::Unread { hash, bytes } => self.link_unread(&hash, bytes),
        }
    }

    fn handle_call(&mut self, now: Moment, input: CallInput) {
        match input {
            CallInput::LinkOpened { call, link } => self.link_opened(now, call, link),
            CallInput::UseBegun { call, link, whole, bytes } => {
                self.link_begun(now, call, link, whole, bytes)
            }
            CallInput::PageWanted { call, reader, page } => {
                self.link_page_wanted(now, call, reader, page)
            }
            CallInput::Left { call } => self.call_left(now, call),
        }
    }

    /// The next thing to do; drain to `None` before the next mutation.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop()
    }

    /// When to call [`Broker::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.deadlines.earliest()
    }

    /// Everything that is due by `now`.
    pub fn handle_timeout(&mut self, now: Moment) {
        while let Some(timer) = self.deadlines.pop_due(now) {
            match timer {
                Timer::PutStart(slot) => self.put_lapsed(now, slot),
                Timer::GetStart(slot, reader) => self.get_lapsed(now, slot, reader),
                Timer::CacheEnd(slot) => self.cache_ended(slot),
                Timer::AskWaited(ask) => self.ask_waited(now, ask),
                Timer::AskRetry(ask) => self.ask_retried(now, ask),
                Timer::Call(call) => self.call_waited(call),
                Timer::LookAgain => self.look_unreported(now), // and the pump below serves
                Timer::Sweep => self.sweep(now),
            }
        }
        self.pump(now);
    }

    /// Bytes reserved by live slots; never above the budget unless a single run is larger.
    pub fn reserved_bytes(&self) -> u64 {
        self.slots.reserved()
    }

    /// What was done so far.
    pub fn tally(&self) -> TransferStats {
        self.tally
    }

    /// Whether a master is there and the roster is known.
    pub fn is_hub_ready(&self) -> bool {
        self.hub_ready()
    }

    /// What is live, for health and for tests that nothing is left behind.
    pub fn counts(&self) -> BrokerCounts {
        BrokerCounts {
            sessions: self.sessions.count(),
            approved_online: self.sessions.approved_count(),
            pending: self.sessions.pending_count(),
            asleep: self.sessions.asleep_count(),
            slots: self.slots.count(),
            filling: self.slots.filling_count(),
            readers: self.slots.reader_count(),
            asks: self.asks.len() + self.queue.len(),
            calls: self.links.call_count(),
            grants: self.grants.count(),
            hub_ready: self.hub_ready(),
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    fn send(&mut self, session: SessionId, message: RelayToDevice, reference: Option<Ref>) {
        self.effects.push(Effect::Session(SessionEffect::Send { session, message, reference }));
    }

    /// Drops what has not been used for a while; links and grants can be asked for again.
    fn sweep(&mut self, now: Moment) {
        self.grants.sweep(now);
        self.links.sweep(now);
        self.blame.sweep(now);
        self.speeds.sweep(now);
        if !(self.grants.is_empty() && self.links.is_empty() && self.blame.is_empty()) {
            self.keep_sweeping(now);
        }
    }

    fn keep_sweeping(&mut self, now: Moment) {
        if self.deadlines.get(&Timer::Sweep).is_none() {
            self.deadlines.set(Timer::Sweep, now.plus(60_000));
        }
    }

    /// Ends what is in flight of files that are no more, or no longer this version, with `code`.
    /// One walk over the asks serves all files: a message may name hundreds.
    fn end_files(&mut self, now: Moment, files: &BTreeSet<FileRef>, code: FailureCode) {
        for file in files {
            self.fail_slots_of(now, file, code);
        }
        self.fail_asks_of(now, files, code);
        for file in files {
            self.effects.push(Effect::Slot(SlotEffect::ForgetHashes { file: *file }));
        }
    }

    /// Ends what is in flight of files that are not listed any more, each for its reason.
    fn end_gone(&mut self, now: Moment, files: &BTreeSet<FileRef>) {
        let (changed, gone): (BTreeSet<FileRef>, BTreeSet<FileRef>) =
            files.iter().partition(|file| self.blame.went_for_change(file));
        self.end_files(now, &changed, FailureCode::FileChanged);
        self.end_files(now, &gone, FailureCode::FileGone);
    }

    /// All that a device that was turned away had in flight, both directions.
    fn end_device(&mut self, now: Moment, device: DeviceId) {
        let files = self.grants.files_of(device);
        for file in &files {
            self.grants.remove(file);
        }
        self.end_files(now, &files, FailureCode::PeerRevoked);
        self.fail_asks_to(now, device, FailureCode::PeerRevoked);
        self.end_links_of(now, device);
    }
}

/// See [`Broker::counts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BrokerCounts {
    /// Sessions that are registered.
    pub sessions: usize,
    /// Approved devices with a session.
    pub approved_online: usize,
    /// Knocks that wait.
    pub pending: usize,
    /// Approved sessions whose socket answers and whose tickets lapse, as of a frozen tab.
    pub asleep: usize,
    /// Slots that hold a reservation of the budget.
    pub slots: usize,
    /// Slots whose body is arriving.
    pub filling: usize,
    /// Readers of all slots.
    pub readers: usize,
    /// Requests for runs that wait for a slot.
    pub asks: usize,
    /// Questions about links that wait for the master.
    pub calls: usize,
    /// Entries of files that the relay holds.
    pub grants: usize,
    /// True while the master is registered and its roster is whole.
    pub hub_ready: bool,
}
