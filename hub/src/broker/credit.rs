//! The byte budget and the queue for it: round robin over askers, then over their transfers; none holds more than its share
//! while others wait; a slow holder cannot fill the budget.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lanyard_protocol::limits::{MAX_UNSTARTED_PUTS, MAX_WAITING_BYTES, MAX_WAITING_RUNS};
use lanyard_protocol::{DeviceId, FailureCode, TransferId};

use super::asks::{Ask, AskId, Asker};
use super::*;

/// What one transfer may have ahead of it with any budget: runs from a page are as large.
const LEAST_AHEAD: u64 = 4 << 20;

/// Who a slot counts for: a device with all its sessions, a link for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum AskerKey {
    Device(DeviceId),
    Link(LinkReader),
    Relay,
}

type Lane = Option<TransferId>;

#[derive(Debug, Default)]
struct Waiting {
    /// One lane a transfer, first asked first served; the front lane is tried first.
    lanes: VecDeque<(Lane, VecDeque<(Ask, u64)>)>,
    runs: usize,
    bytes: u64,
}

/// Asks that wait for budget.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<AskerKey, Waiting>,
    rotation: VecDeque<AskerKey>,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.waiting.values().map(|w| w.runs).sum()
    }

    pub fn has_room(&self, key: AskerKey, length: u64) -> bool {
        self.waiting.get(&key).is_none_or(|w| {
            w.runs < MAX_WAITING_RUNS && (w.bytes == 0 || w.bytes.saturating_add(length) <= MAX_WAITING_BYTES)
        })
    }

    pub fn push(&mut self, key: AskerKey, ask: Ask, length: u64) {
        let lane = match ask.asker {
            Asker::Device { transfer, .. } => Some(transfer),
            _ => None,
        };
        if !self.waiting.contains_key(&key) {
            self.rotation.push_back(key);
        }
        let waiting = self.waiting.entry(key).or_default();
        waiting.runs += 1;
        waiting.bytes += length;
        match waiting.lanes.iter_mut().find(|(name, _)| *name == lane) {
            Some((_, asks)) => {
                // Within a file in order: what is left of a run that was partly there comes before later runs.
                let later = asks.iter().position(|(other, _)| is_earlier(&ask, other));
                asks.insert(later.unwrap_or(asks.len()), (ask, length));
            }
            None => waiting.lanes.push_back((lane, VecDeque::from([(ask, length)]))),
        }
    }

    pub fn take(&mut self, id: AskId) -> Option<Ask> {
        self.take_where(|ask| ask.id == id).pop()
    }

    pub fn take_where(&mut self, matches: impl Fn(&Ask) -> bool) -> Vec<Ask> {
        let mut taken = Vec::new();
        for waiting in self.waiting.values_mut() {
            for (_, asks) in &mut waiting.lanes {
                let (out, kept): (VecDeque<_>, VecDeque<_>) = asks.drain(..).partition(|(ask, _)| matches(ask));
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

    fn others_wait(&self, key: AskerKey) -> bool {
        self.waiting.keys().any(|other| *other != key)
    }

    /// The first ask of each lane of `key`, in turn order.
    fn heads(&self, key: AskerKey) -> Vec<(AskId, u64)> {
        let Some(waiting) = self.waiting.get(&key) else { return Vec::new() };
        waiting.lanes.iter().filter_map(|(_, asks)| asks.front().map(|(ask, length)| (ask.id, *length))).collect()
    }

    fn get(&self, key: AskerKey, id: AskId) -> Option<&Ask> {
        let waiting = self.waiting.get(&key)?;
        waiting.lanes.iter().filter_map(|(_, asks)| asks.front()).map(|(ask, _)| ask).find(|ask| ask.id == id)
    }

    /// Whether some lane's first ask wants earlier groups of the same file.
    fn has_earlier(&self, ask: &Ask) -> bool {
        let lanes = self.waiting.values().flat_map(|waiting| &waiting.lanes);
        lanes.filter_map(|(_, asks)| asks.front()).any(|(other, _)| is_earlier(other, ask))
    }

    /// Takes a head out; its lane goes to the end.
    fn take_head(&mut self, key: AskerKey, id: AskId) -> Option<Ask> {
        let waiting = self.waiting.get_mut(&key)?;
        let at = waiting.lanes.iter().position(|(_, asks)| asks.front().is_some_and(|(ask, _)| ask.id == id))?;
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

/// Whether `a` wants earlier groups of the file that `b` wants.
fn is_earlier(a: &Ask, b: &Ask) -> bool {
    match (a.pieces.first(), b.pieces.first()) {
        (Some(x), Some(y)) => a.file(x) == b.file(y) && x.groups.first < y.groups.first,
        _ => false,
    }
}

impl Broker {
    pub(super) fn asker_key(&self, asker: &Asker) -> AskerKey {
        match asker {
            Asker::Device { session, .. } => {
                let device = self.sessions.get(*session).map(|s| s.identity.public_id);
                device.map_or(AskerKey::Relay, AskerKey::Device)
            }
            Asker::Link { reader, .. } => AskerKey::Link(*reader),
            Asker::Relay => AskerKey::Relay,
        }
    }

    /// Gives budget to those who wait, one run in each one's turn, until nothing more fits.
    pub(super) fn pump(&mut self, now: Moment) {
        let mut idle_turns = 0;
        while idle_turns < self.queue.rotation.len() {
            let Some(key) = self.queue.rotation.pop_front() else { return };
            self.queue.rotation.push_back(key);
            if self.serve_one(now, key) {
                idle_turns = 0;
            } else {
                idle_turns += 1;
            }
        }
        self.look_again(now);
    }

    /// Serves one ask of `key`, if any of its lanes can go on.
    fn serve_one(&mut self, now: Moment, key: AskerKey) -> bool {
        for (id, length) in self.queue.heads(key) {
            let Some(ask) = self.queue.get(key, id) else { continue };
            let file = ask.pieces.first().map(|piece| ask.file(piece));
            let Some(holder) = file.and_then(|file| self.holder_of(&file)) else {
                self.leave_queue(now, key, id, FailureCode::OwnerAway);
                return true;
            };
            if !self.may_open(key, holder, length) || self.has_enough_to_read(ask, length) {
                continue;
            }
            let Some(room) = self.room_for(now, ask, length) else { continue };
            let Some(ask) = self.queue.take_head(key, id) else { continue };
            self.deadlines.clear(&Timer::AskWaited(id));
            self.make_room(room);
            self.open_slot(now, &ask, holder, length);
            return true;
        }
        false
    }

    fn leave_queue(&mut self, now: Moment, key: AskerKey, id: AskId, code: FailureCode) {
        self.deadlines.clear(&Timer::AskWaited(id));
        if let Some(ask) = self.queue.take_head(key, id) {
            self.ask_failed(now, ask, code);
        }
    }

    /// Asks in the queue for groups of a slot that was just opened join it now: it may be gone at their turn.
    pub(super) fn join_queued(&mut self, now: Moment, slot: SlotId) {
        let Some(opened) = self.slots.get(slot) else { return };
        let what = opened.what;
        let holds = |ask: &Ask| {
            ask.what == what
                && ask.pieces.iter().any(|piece| {
                    let file = ask.file(piece);
                    opened.pieces.iter().any(|p| {
                        p.file == file && p.groups.first < piece.groups.end() && piece.groups.first < p.groups.end()
                    })
                })
        };
        for mut ask in self.queue.take_where(holds) {
            ask.pieces = self.join_live(now, &ask);
            if ask.pieces.is_empty() {
                self.deadlines.clear(&Timer::AskWaited(ask.id));
                continue;
            }
            let (key, length) = (self.asker_key(&ask.asker), self.length_of(&ask));
            self.queue.push(key, ask, length);
        }
    }

    fn may_open(&self, key: AskerKey, holder: SessionId, length: u64) -> bool {
        let budget = self.config.budget_bytes;
        let (runs, bytes) = self.slots.load(holder);
        let holder_full = runs >= MAX_UNSTARTED_PUTS || (bytes > 0 && bytes + length > budget / 4);
        let mut askers: BTreeSet<AskerKey> = self.slots.askers().copied().collect();
        askers.extend(self.queue.waiting.keys());
        let share = length.max(budget / askers.len().max(1) as u64);
        // What stands still gives way to whoever needs the room: it must not keep its cause from going on.
        let standing = self.slots.standing().into_iter().filter_map(|id| self.slots.get(id));
        let gives_way: u64 = standing.filter(|slot| slot.cause == key).map(|slot| slot.length).sum();
        let held = self.slots.held(key).saturating_sub(gives_way);
        let over_share = self.queue.others_wait(key) && held + length > share;
        !holder_full && !over_share
    }

    /// One transfer or response is given a quarter of the budget to read, and its next run when it has read: what lies ready
    /// beyond that is memory without speed.
    fn has_enough_to_read(&self, ask: &Ask, length: u64) -> bool {
        let Some(lane) = followers::Lane::of(&ask.asker) else { return false };
        let unread = self.slots.unread(lane);
        unread > 0 && unread + length > (self.config.budget_bytes / 4).max(LEAST_AHEAD)
    }

    /// What must go so that the run fits: cache first, then full slots whose readers all stand still. `None` if it does not
    /// fit even then. A run larger than the whole budget goes alone.
    pub(super) fn room_for(&self, now: Moment, ask: &Ask, length: u64) -> Option<Room> {
        let budget = self.config.budget_bytes;
        let mut room = Room::default();
        let mut reserved = self.slots.reserved();
        let fits = |reserved: u64| reserved == 0 || reserved + length <= budget;
        if fits(reserved) {
            return Some(room);
        }
        // When room is short a file's groups come in order: a hole that is filled late drives out what lies ahead of it.
        if self.queue.has_earlier(ask) {
            return None;
        }
        let bytes = |id: &SlotId| self.slots.get(*id).map_or(0, |slot| slot.length);
        for id in self.evictable(now, ask) {
            reserved -= bytes(&id);
            room.cached.push(id);
            if fits(reserved) {
                return Some(room);
            }
        }
        for id in self.slots.standing() {
            reserved -= bytes(&id);
            room.standing.push(id);
            if fits(reserved) {
                return Some(room);
            }
        }
        None
    }

    pub(super) fn make_room(&mut self, room: Room) {
        for id in room.cached {
            self.drop_slot(id);
        }
        for id in room.standing {
            self.cut_standing(id);
        }
    }
}

/// What goes to make room for a run.
#[derive(Debug, Default)]
pub(super) struct Room {
    cached: Vec<SlotId>,
    standing: Vec<SlotId>,
}
