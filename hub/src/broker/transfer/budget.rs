//! The byte budget and the queue for it: round robin over askers, then over their transfers; none
//! holds more than its share while others wait; a slow holder cannot fill the budget.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::limits::{MAX_UNSTARTED_PUTS, MAX_WAITING_BYTES, MAX_WAITING_RUNS};
use lanyard_protocol::{DeviceId, FailureCode, GroupSpan, TransferId};

use super::requests::{ChunkRequest, ChunkRequestId, Requester};
use super::speed::{self, SpeedGroup};
use super::*;

/// What one transfer may have ahead of it with any budget: runs from a page are as large. Beside
/// others, a reader of unknown speed has an eighth of the budget, from half of this on: readers of
/// unlike speed share the rest.
const LEAST_AHEAD: u64 = 4 << 20;

/// Who a slot counts for: a device with all its sessions, a link for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum RequesterKey {
    Device(DeviceId),
    Link(LinkReader),
    Relay,
}

type Lane = Option<TransferId>;

#[derive(Debug, Default)]
struct QueuedRequest {
    /// One lane a transfer, first asked first served; the front lane is tried first.
    lanes: VecDeque<(Lane, VecDeque<(ChunkRequest, u64)>)>,
    runs: usize,
    bytes: u64,
}

/// Asks that wait for budget.
#[derive(Debug, Default)]
pub(super) struct BudgetQueue {
    waiting: BTreeMap<RequesterKey, QueuedRequest>,
    rotation: VecDeque<RequesterKey>,
    /// Groups of speed that wait for nothing but a holder's turn, since the last look at speeds.
    pub kept_waiting: BTreeSet<(SessionId, SpeedGroup)>,
}

impl BudgetQueue {
    pub(super) fn len(&self) -> usize {
        self.waiting.values().map(|w| w.runs).sum()
    }

    pub(super) fn has_room(&self, key: RequesterKey, length: u64) -> bool {
        self.waiting.get(&key).is_none_or(|w| {
            w.runs < MAX_WAITING_RUNS
                && (w.bytes == 0 || w.bytes.saturating_add(length) <= MAX_WAITING_BYTES)
        })
    }

    pub(super) fn push(&mut self, key: RequesterKey, ask: ChunkRequest, length: u64) {
        let lane = match ask.asker {
            Requester::Device { transfer, .. } => Some(transfer),
            Requester::Link { .. } | Requester::Relay => None,
        };
        if !self.waiting.contains_key(&key) {
            self.rotation.push_back(key);
        }
        let waiting = self.waiting.entry(key).or_default();
        waiting.runs += 1;
        waiting.bytes += length;
        match waiting.lanes.iter_mut().find(|(name, _)| *name == lane) {
            Some((_, asks)) => {
                // Within a file in order: what is left of a run that was partly there comes before
                // later runs.
                let later = asks.iter().position(|(other, _)| is_earlier(&ask, other));
                asks.insert(later.unwrap_or(asks.len()), (ask, length));
            }
            None => waiting.lanes.push_back((lane, VecDeque::from([(ask, length)]))),
        }
    }

    pub(super) fn take(&mut self, id: ChunkRequestId) -> Option<ChunkRequest> {
        self.take_where(|ask| ask.id == id).pop()
    }

    pub(super) fn take_where(
        &mut self,
        matches: impl Fn(&ChunkRequest) -> bool,
    ) -> Vec<ChunkRequest> {
        let mut taken = Vec::new();
        for waiting in self.waiting.values_mut() {
            for (_, asks) in &mut waiting.lanes {
                let (out, kept): (VecDeque<_>, VecDeque<_>) =
                    asks.drain(..).partition(|(ask, _)| matches(ask));
                *asks = kept;
                for (ask, length) in out {
                    waiting.runs -= 1;
                    waiting.bytes -= length;
                    taken.push(ask);
                }
            }
        }
        self.tidy();
        taken
    }

    fn tidy(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting.lanes.retain(|(_, asks)| !asks.is_empty());
        }
        self.waiting.retain(|_, waiting| waiting.runs > 0);
        let waiting = &self.waiting;
        self.rotation.retain(|key| waiting.contains_key(key));
    }

    /// Everybody who waits for a group of speed that `counts`.
    fn waiting_for(
        &self,
        counts: impl Fn(SpeedGroup) -> bool,
    ) -> impl Iterator<Item = RequesterKey> {
        let counted = move |waiting: &QueuedRequest| {
            waiting
                .lanes
                .iter()
                .any(|(_, asks)| asks.front().is_some_and(|(ask, _)| counts(ask.group)))
        };
        self.waiting.iter().filter(move |(_, waiting)| counted(waiting)).map(|(key, _)| *key)
    }

    /// The first ask of each lane of `key`, in turn order.
    fn heads(&self, key: RequesterKey) -> Vec<(ChunkRequestId, u64)> {
        let Some(waiting) = self.waiting.get(&key) else { return Vec::new() };
        waiting
            .lanes
            .iter()
            .filter_map(|(_, asks)| asks.front().map(|(ask, length)| (ask.id, *length)))
            .collect()
    }

    fn get(&self, key: RequesterKey, id: ChunkRequestId) -> Option<&ChunkRequest> {
        let waiting = self.waiting.get(&key)?;
        waiting
            .lanes
            .iter()
            .filter_map(|(_, asks)| asks.front())
            .map(|(ask, _)| ask)
            .find(|ask| ask.id == id)
    }

    /// Whether some lane's first ask wants earlier groups of the same file.
    fn has_earlier(&self, ask: &ChunkRequest) -> bool {
        let lanes = self.waiting.values().flat_map(|waiting| &waiting.lanes);
        lanes.filter_map(|(_, asks)| asks.front()).any(|(other, _)| is_earlier(other, ask))
    }

    /// Takes a head out; its lane goes to the end.
    fn take_head(&mut self, key: RequesterKey, id: ChunkRequestId) -> Option<ChunkRequest> {
        let waiting = self.waiting.get_mut(&key)?;
        let at = waiting
            .lanes
            .iter()
            .position(|(_, asks)| asks.front().is_some_and(|(ask, _)| ask.id == id))?;
        let (name, mut asks) = waiting.lanes.remove(at)?;
        let (ask, length) = asks.pop_front()?;
        waiting.runs -= 1;
        waiting.bytes -= length;
        if !asks.is_empty() {
            waiting.lanes.push_back((name, asks));
        }
        self.tidy();
        Some(ask)
    }
}

/// Whether `a` wants earlier groups of the file that `b` wants, of the same upload.
fn is_earlier(a: &ChunkRequest, b: &ChunkRequest) -> bool {
    match (a.pieces.first(), b.pieces.first()) {
        (Some(x), Some(y)) => {
            a.group == b.group && a.file(x) == b.file(y) && x.groups.first < y.groups.first
        }
        _ => false,
    }
}

impl Transfers {
    pub(super) fn asker_key(&self, cx: &Cx<'_>, asker: &Requester) -> RequesterKey {
        match asker {
            Requester::Device { session, .. } => {
                let device = cx.sessions.get(*session).map(|s| s.identity.public_id);
                device.map_or(RequesterKey::Relay, RequesterKey::Device)
            }
            Requester::Link { reader, .. } => RequesterKey::Link(*reader),
            Requester::Relay => RequesterKey::Relay,
        }
    }

    /// Gives budget to those who wait, one run in each one's turn, until nothing more fits.
    pub(in crate::broker) fn pump(&mut self, cx: &mut Cx<'_>) {
        let mut idle_turns = 0;
        while idle_turns < self.queue.rotation.len() {
            let Some(key) = self.queue.rotation.pop_front() else { return };
            self.queue.rotation.push_back(key);
            if self.serve_one(cx, key) {
                idle_turns = 0;
            } else {
                idle_turns += 1;
            }
        }
        self.look_again(cx);
    }

    /// Serves one ask of `key`, if any of its lanes can go on.
    fn serve_one(&mut self, cx: &mut Cx<'_>, key: RequesterKey) -> bool {
        for (id, length) in self.queue.heads(key) {
            let Some(ask) = self.queue.get(key, id) else { continue };
            let file = ask.pieces.first().map(|piece| ask.file(piece));
            let Some(holder) = file.and_then(|file| self.holder_of(cx, &file)) else {
                self.leave_queue(cx, key, id, FailureCode::OwnerAway);
                return true;
            };
            let part = self.first_part(ask, length, self.longest_run(ask));
            let length = part.as_ref().map_or(length, |part| self.length_of(part));
            if self.has_enough_to_read(ask, length) {
                continue;
            }
            if self.is_over_share(key, ask.group, length) {
                // What it caused and has read is kept by slower readers of its group: they hold it
                // up.
                let is_kept = self.slots.held(key, |group| group == ask.group) > 0;
                let is_short = is_kept || !self.reserved_for(ask.group).fits(length);
                self.note_held(cx, key, id, is_short);
                continue;
            }
            let waits = (holder, ask.group);
            if self.is_holder_full(holder, ask.group, length) {
                if self.reserved_for(ask.group).fits(length) {
                    self.queue.kept_waiting.insert(waits);
                }
                continue;
            }
            let run = (part, length);
            let Some(Fitting { part, length, room }) = self.fit(cx, ask, run) else {
                self.note_held(cx, key, id, true);
                continue;
            };
            self.queue.kept_waiting.remove(&waits);
            let Some(ask) = self.queue.take_head(key, id) else { continue };
            self.make_room(cx, room);
            match part {
                Some(part) => self.open_part(cx, key, ask, &part, holder, length),
                None => {
                    cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskWaited(id)));
                    self.open_slot(cx, &ask, holder, length);
                }
            }
            return true;
        }
        false
    }

    /// Returns the run and what goes for it. A run of a first group that finds no room shrinks to
    /// what is left after all that may go has gone, down to one group of bytes. It shrinks only for
    /// an asker that has nothing to read until then: short runs cost the owner and the asker a
    /// request each.
    fn fit(
        &self,
        cx: &Cx<'_>,
        ask: &ChunkRequest,
        (part, length): (Option<ChunkRequest>, u64),
    ) -> Option<Fitting> {
        let left = match self.room_for(cx, ask, length) {
            Ok(room) => return Some(Fitting { part, length, room }),
            Err(left) => left,
        };
        let lane = speed::Lane::of(&ask.asker)?;
        let is_first = self.speeds.cap(ask.group).is_none();
        if left == 0
            || !is_first
            || !self.speeds.has_others(lane)
            || self.reads_meanwhile(lane, ask)
        {
            return None;
        }
        let part = self.first_part(ask, self.length_of(ask), left)?;
        let length = self.length_of(&part);
        let room = self.room_for(cx, &part, length).ok()?;
        Some(Fitting { part: Some(part), length, room })
    }

    /// Returns the beginning of an ask that is longer than `most`, at least one group of bytes;
    /// `None` if all of it may go.
    fn first_part(&self, ask: &ChunkRequest, length: u64, most: u64) -> Option<ChunkRequest> {
        if length <= most || ask.what == BodyKind::Hashes {
            return None;
        }
        let (mut pieces, mut left): (Vec<GroupSpan>, u64) = (Vec::new(), most);
        for piece in &ask.pieces {
            let Some(groups) = self.grants.groups(&ask.file(piece)) else { break };
            let fit = (left >> groups.group_log) as u32;
            let fit = if pieces.is_empty() { fit.max(1) } else { fit };
            let count = piece.groups.count.min(fit);
            if count == 0 {
                break;
            }
            pieces.push(GroupSpan::new(piece.file_id, piece.groups.first, count));
            left = left.saturating_sub(groups.span(piece.groups.first, count));
            if count < piece.groups.count {
                break;
            }
        }
        (pieces != ask.pieces).then(|| ChunkRequest { pieces, ..ask.clone() })
    }

    /// Opens a slot for the beginning of an ask; the rest goes on waiting.
    fn open_part(
        &mut self,
        cx: &mut Cx<'_>,
        key: RequesterKey,
        mut ask: ChunkRequest,
        part: &ChunkRequest,
        holder: SessionId,
        length: u64,
    ) {
        let Some(last) = part.pieces.last() else { return };
        let mut rest: Vec<GroupSpan> = ask.pieces.split_off(part.pieces.len() - 1);
        match rest.first_mut() {
            Some(cut) if cut.groups.count > last.groups.count => {
                let taken = last.groups.count;
                *cut =
                    GroupSpan::new(cut.file_id, cut.groups.first + taken, cut.groups.count - taken);
            }
            _ => drop(rest.remove(0)),
        }
        ask.pieces = rest;
        let left = self.length_of(&ask);
        self.queue.push(key, ask, left);
        self.open_slot(cx, part, holder, length);
    }

    /// A head that finds no room, or has its share: its lane is held up, if it has nothing else to
    /// read until this comes. Its group is, if room is short.
    fn note_held(
        &mut self,
        cx: &mut Cx<'_>,
        key: RequesterKey,
        id: ChunkRequestId,
        is_short: bool,
    ) {
        let Some(ask) = self.queue.get(key, id) else { return };
        let (Some(lane), Some(first)) = (speed::Lane::of(&ask.asker), ask.pieces.first()) else {
            return;
        };
        if !self.reads_meanwhile(lane, ask) {
            let file = ask.file(first);
            let group = Some(ask.group).filter(|_| is_short);
            self.speeds.is_held(cx.now, &file, lane, group);
        }
    }

    /// Whether a lane has something to read while an ask of it waits. A link reads in order: what
    /// it was given of later bytes does not help it.
    fn reads_meanwhile(&self, lane: speed::Lane, ask: &ChunkRequest) -> bool {
        match (lane, ask.pieces.first()) {
            (speed::Lane::Link(_), Some(first)) => {
                self.slots.reads_before(lane, &ask.file(first), first.groups.first)
            }
            (speed::Lane::Link(_) | speed::Lane::Transfer(..), _) => self.slots.unread(lane) > 0,
        }
    }

    fn leave_queue(
        &mut self,
        cx: &mut Cx<'_>,
        key: RequesterKey,
        id: ChunkRequestId,
        code: FailureCode,
    ) {
        cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskWaited(id)));
        if let Some(ask) = self.queue.take_head(key, id) {
            self.ask_failed(cx, ask, code);
        }
    }

    /// Asks in the queue for groups of a slot that was just opened join it now: it may be gone at
    /// their turn.
    pub(super) fn join_queued(&mut self, cx: &mut Cx<'_>, slot: SlotId) {
        let Some(opened) = self.slots.get(slot) else { return };
        let what = opened.what;
        let group = opened.group;
        let holds = |ask: &ChunkRequest| {
            ask.what == what
                && ask.group == group
                && ask.pieces.iter().any(|piece| {
                    let file = ask.file(piece);
                    opened.pieces.iter().any(|p| {
                        p.file == file
                            && p.groups.first < piece.groups.end()
                            && piece.groups.first < p.groups.end()
                    })
                })
        };
        for ask in self.queue.take_where(holds) {
            self.join_or_wait(cx, ask);
        }
    }

    /// An ask that was in the queue joins what is live; the rest of it goes on waiting.
    pub(super) fn join_or_wait(&mut self, cx: &mut Cx<'_>, mut ask: ChunkRequest) {
        ask.pieces = self.join_live(cx, &ask);
        if ask.pieces.is_empty() {
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskWaited(ask.id)));
            return;
        }
        let key = self.asker_key(cx, &ask.asker);
        let length = self.length_of(&ask);
        self.queue.push(key, ask, length);
    }

    /// Whether a holder has as much to upload as it may: in all, and in turn with other groups of
    /// speed that want its line. With as many bodies each, they share that line evenly, and what
    /// one of them does not use is the others'.
    fn is_holder_full(&self, holder: SessionId, group: SpeedGroup, length: u64) -> bool {
        let mut runs = 0;
        let mut bytes = 0;
        let mut own_runs = 0;
        let mut own_bytes = 0;
        let mut rivals: BTreeSet<SpeedGroup> = BTreeSet::new();
        for (other, its_runs, its_bytes) in self.slots.loads(holder) {
            runs += its_runs;
            bytes += its_bytes;
            if other == group {
                (own_runs, own_bytes) = (its_runs, its_bytes);
            } else {
                rivals.insert(other);
            }
        }
        let waiting = self
            .queue
            .kept_waiting
            .range((holder, SpeedGroup::ALL)..=(holder, SpeedGroup(u64::MAX)));
        rivals.extend(waiting.map(|(_, other)| *other).filter(|other| *other != group));
        let all = 1 + rivals.len();
        let most = self.budget_bytes / 4;
        let over = |held: u64, most: u64| held > 0 && held + length > most;
        runs >= MAX_UNSTARTED_PUTS
            || over(bytes, most)
            || all > 1
                && (own_runs >= (MAX_UNSTARTED_PUTS / all).max(1)
                    || over(own_bytes, most / all as u64))
    }

    /// Whether an asker holds its share while others wait. Slower groups of speed have caps
    /// instead, and leave the rest to the first ones.
    fn is_over_share(&self, key: RequesterKey, group: SpeedGroup, length: u64) -> bool {
        if self.speeds.cap(group).is_some() {
            return false;
        }
        let counts = |group: SpeedGroup| self.speeds.cap(group).is_none();
        let mut askers: BTreeSet<RequesterKey> = self.queue.waiting_for(counts).collect();
        if !askers.iter().any(|other| *other != key) {
            return false;
        }
        let holding = self.slots.askers().filter(|(_, group)| counts(*group));
        askers.extend(holding.map(|(key, _)| *key));
        let room = self.budget_bytes - self.speeds.caps().min(self.budget_bytes);
        let share = length.max(room / askers.len().max(1) as u64);
        // What stands still gives way to whoever needs the room: it must not keep its cause from
        // going on.
        let standing = self.slots.standing().into_iter().filter_map(|id| self.slots.get(id));
        let gives_way: u64 =
            standing.filter(|slot| slot.cause == key).map(|slot| slot.length).sum();
        let held = self.slots.held(key, counts).saturating_sub(gives_way);
        held + length > share
    }

    /// One transfer or response is given a quarter of the budget to read, and its next run when it
    /// has read: what lies ready beyond that is memory without speed. Beside others it is given
    /// what it reads in two seconds, or twice what it has read so far while its speed is not known:
    /// what it was given cannot be taken back when others need the room.
    fn has_enough_to_read(&self, ask: &ChunkRequest, length: u64) -> bool {
        let Some(lane) = speed::Lane::of(&ask.asker) else { return false };
        let quarter = (self.budget_bytes / 4).max(LEAST_AHEAD);
        let least = LEAST_AHEAD.min((self.budget_bytes / 8).max(LEAST_AHEAD / 2));
        let has_others = self.speeds.has_others(lane);
        let file = ask.pieces.first().filter(|_| has_others).map(|piece| ask.file(piece));
        let most = match (
            self.speeds.cap(ask.group),
            file.and_then(|file| self.speeds.member(&file, lane)),
        ) {
            (Some(cap), _) => cap,
            (None, None) => quarter,
            (None, Some(member)) => match member.sure_rate() {
                Some(rate) => quarter.min((2 * rate).max(LEAST_AHEAD / 2)),
                None => quarter.min((2 * member.read).max(least)),
            },
        };
        self.slots.unread(lane) + length > most && self.reads_meanwhile(lane, ask)
    }

    /// Returns what must go so that the run fits: cache first, then full slots whose readers all
    /// stand still. If the run does not fit even then, returns how many bytes would. A run larger
    /// than the whole budget goes alone. A slower group has its cap, the first groups what all caps
    /// leave.
    pub(super) fn room_for(
        &self,
        cx: &Cx<'_>,
        ask: &ChunkRequest,
        length: u64,
    ) -> Result<Eviction, u64> {
        let mut room = Eviction::default();
        let mut reserved = self.reserved_for(ask.group);
        if reserved.fits(length) {
            return Ok(room);
        }
        // When room is short a file's groups come in order: a hole that is filled late drives out
        // what lies ahead of it.
        if self.queue.has_earlier(ask) {
            return Err(0);
        }
        for id in self.evictable(cx, ask) {
            if self.give_up(&mut reserved, ask.group, length, id) {
                room.cached.push(id);
            }
            if reserved.fits(length) {
                return Ok(room);
            }
        }
        for id in self.slots.standing() {
            if self.give_up(&mut reserved, ask.group, length, id) {
                room.standing.push(id);
            }
            if reserved.fits(length) {
                return Ok(room);
            }
        }
        Err(reserved.left())
    }

    /// Takes a slot out of what is reserved, if its going makes room for the group's run.
    fn give_up(&self, reserved: &mut Reserved, group: SpeedGroup, length: u64, id: SlotId) -> bool {
        let Some(slot) = self.slots.get(id) else { return false };
        let is_slower = |group: SpeedGroup| self.speeds.cap(group).is_some();
        let is_own = slot.group == group || !is_slower(slot.group) && !is_slower(group);
        if !is_own && reserved.in_all + length <= reserved.budget {
            return false;
        }
        let out_of = |reserved: &mut u64| *reserved = reserved.saturating_sub(slot.length);
        out_of(&mut reserved.in_all);
        if is_own {
            out_of(&mut reserved.own);
        }
        if is_slower(slot.group) {
            out_of(&mut reserved.slower);
        }
        true
    }

    fn reserved_for(&self, group: SpeedGroup) -> Reserved {
        let budget = self.budget_bytes;
        let in_all = self.slots.reserved();
        let slower: u64 = self.speeds.slower().map(|group| self.slots.reserved_by(group)).sum();
        let most_slower = self.speeds.caps();
        match self.speeds.cap(group) {
            Some(most) => Reserved {
                budget,
                in_all,
                own: self.slots.reserved_by(group),
                most,
                slower,
                most_slower,
            },
            None => {
                let most = budget - most_slower.min(budget);
                Reserved {
                    budget,
                    in_all,
                    own: in_all - slower,
                    most,
                    slower: 0,
                    most_slower: u64::MAX,
                }
            }
        }
    }

    pub(super) fn make_room(&mut self, cx: &mut Cx<'_>, room: Eviction) {
        for id in room.cached {
            self.drop_slot(cx, id);
        }
        for id in room.standing {
            self.cut_standing(cx, id);
        }
    }
}

/// A slot or reader that makes room for a run.
#[derive(Debug, Default)]
pub(super) struct Eviction {
    cached: Vec<SlotId>,
    standing: Vec<SlotId>,
}

/// A run that fits, and what goes for it.
#[derive(Debug)]
struct Fitting {
    /// The beginning of its ask; `None` if it is all of it.
    part: Option<ChunkRequest>,
    length: u64,
    room: Eviction,
}

/// Reserved bytes, as the run of one group of speed sees them.
#[derive(Debug)]
struct Reserved {
    budget: u64,
    in_all: u64,
    /// By the run's own group, or by all first groups together; and the most that may be.
    own: u64,
    most: u64,
    /// By all slower groups, if the run's is one.
    slower: u64,
    most_slower: u64,
}

impl Reserved {
    /// Returns how many bytes fit beside what is reserved.
    fn left(&self) -> u64 {
        let left = |reserved: u64, most: u64| most.saturating_sub(reserved);
        left(self.in_all, self.budget)
            .min(left(self.own, self.most))
            .min(left(self.slower, self.most_slower))
    }

    fn fits(&self, length: u64) -> bool {
        let fits =
            |reserved: u64, most: u64| reserved == 0 || reserved.saturating_add(length) <= most;
        fits(self.in_all, self.budget)
            && fits(self.own, self.most)
            && fits(self.slower, self.most_slower)
    }
}
