//! The state machine of the relay: who is connected, who receives what, which groups are in
//! transit.
//!
//! The broker knows no file names and keeps no catalogue. It asks the master for what it needs of a
//! file or a link, and may forget the answer. It holds no bytes and no secrets: the relay's tasks
//! verify keys and move bytes, and report both. A broker that starts empty loses nothing.

#![warn(clippy::wildcard_enum_match_arm)]

mod effect;
#[cfg(test)]
mod flows;
mod input;
mod links;
mod master;
mod pending_sessions;
mod routing;
mod sessions;
mod status;
#[cfg(test)]
mod tests;
mod transfer;

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

pub use transfer::{SpeedGroup, TransferStats};

use crate::idsource::IdSource;
use crate::machine::{Deadlines, EffectQueue, Moment};
use links::Links;
use master::MasterState;
use sessions::Sessions;
use transfer::{
    Cx, DeviceTransferInput, FilesInput, LinkTransferInput, MasterTransferInput,
    SessionTransferInput, TransferEvent, TransferInput, TransferTimer, Transfers,
};

/// Configuration of a broker.
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

/// Timers of the broker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Transfer(TransferTimer),
    /// A call about a link waited long enough for the master.
    Call(CallId),
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
    transfers: Transfers,
    /// What transfers found out and the broker has not acted on yet.
    events: Vec<TransferEvent>,
    links: Links,
    /// As they were told last.
    rejections: Rejections,
}

impl Broker {
    /// Makes a broker without sessions; `seed` feeds its ids and nonces.
    pub fn new(config: BrokerConfig, seed: [u8; 32]) -> Self {
        let budget_bytes = config.budget_bytes;
        Self {
            config,
            ids: IdSource::new(seed),
            effects: EffectQueue::default(),
            deadlines: Deadlines::default(),
            next_number: 1,
            sessions: Sessions::default(),
            master: MasterState::default(),
            transfers: Transfers::new(budget_bytes),
            events: Vec::new(),
            links: Links::default(),
            rejections: Rejections::default(),
        }
    }

    /// One mutation.
    pub fn handle(&mut self, now: Moment, input: Input) {
        match input {
            Input::Session(input) => self.handle_session(now, input),
            Input::Master(input) => self.handle_master(now, input),
            Input::Slot(input) => self.transfer(now, TransferInput::Slot(input)),
            Input::Reader(input) => self.transfer(now, TransferInput::Reader(input)),
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
                Timer::Transfer(timer) => self.transfer(now, TransferInput::Timer(timer)),
                Timer::Call(call) => self.call_waited(call),
                Timer::Sweep => self.sweep(now),
            }
        }
        self.pump(now);
    }

    /// Bytes reserved by live slots; never above the budget unless a single run is larger.
    pub fn reserved_bytes(&self) -> u64 {
        self.transfers.reserved_bytes()
    }

    /// Returns the counts of work so far.
    pub fn tally(&self) -> TransferStats {
        self.transfers.stats()
    }

    /// Whether a master is there and the roster is known.
    pub fn is_hub_ready(&self) -> bool {
        self.hub_ready()
    }

    /// Returns counts of everything live, for health checks and for tests of leftovers.
    pub fn counts(&self) -> BrokerCounts {
        let mut counts = BrokerCounts {
            sessions: self.sessions.count(),
            approved_online: self.sessions.approved_count(),
            pending: self.sessions.pending_count(),
            asleep: self.sessions.asleep_count(),
            calls: self.links.call_count(),
            hub_ready: self.hub_ready(),
            ..BrokerCounts::default()
        };
        self.transfers.count_into(&mut counts);
        counts
    }

    /// Splits off the transfers, and all that they may use beside their own fields.
    fn split(&mut self, now: Moment) -> (&mut Transfers, Cx<'_>) {
        let cx = Cx {
            now,
            ids: &mut self.ids,
            next_number: &mut self.next_number,
            effects: &mut self.effects,
            deadlines: &mut self.deadlines,
            sessions: &self.sessions,
            master: &self.master,
            events: &mut self.events,
        };
        (&mut self.transfers, cx)
    }

    /// Lets the transfers take an input, then does what they found out about sessions.
    fn transfer(&mut self, now: Moment, input: TransferInput<'_>) {
        let (transfers, mut cx) = self.split(now);
        transfers.handle(&mut cx, input);
        for event in std::mem::take(&mut self.events) {
            match event {
                TransferEvent::UploadBegan(session) => self.sessions.clear_lapses(session),
                TransferEvent::UploadLapsed(session) => self.upload_lapsed(now, session),
            }
        }
    }

    fn pump(&mut self, now: Moment) {
        let (transfers, mut cx) = self.split(now);
        transfers.pump(&mut cx);
    }

    fn number(&mut self) -> u64 {
        next_number(&mut self.next_number)
    }

    fn send(&mut self, session: SessionId, message: RelayToDevice, reference: Option<Ref>) {
        self.effects.push(Effect::Session(SessionEffect::Send { session, message, reference }));
    }

    /// Drops what has not been used for a while; links and grants can be asked for again.
    fn sweep(&mut self, now: Moment) {
        self.links.sweep(now);
        if self.transfers.sweep(now) || !self.links.is_empty() {
            self.keep_sweeping(now);
        }
    }

    fn keep_sweeping(&mut self, now: Moment) {
        keep_sweeping(&mut self.deadlines, now);
    }

    /// Ends all that a refused device had in flight, in both directions.
    fn end_device(&mut self, now: Moment, device: DeviceId) {
        self.transfer(now, TransferInput::Session(SessionTransferInput::Refused(device)));
        self.end_links_of(now, device);
    }
}

/// Sweeps a minute from now, unless a sweep is due anyway.
fn keep_sweeping(deadlines: &mut Deadlines<Timer>, now: Moment) {
    if deadlines.get(&Timer::Sweep).is_none() {
        deadlines.set(Timer::Sweep, now.plus(60_000));
    }
}

/// Returns a number that this broker has never used before.
fn next_number(next: &mut u64) -> u64 {
    let number = *next;
    *next += 1;
    number
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
