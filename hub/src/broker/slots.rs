//! Slots: one upload of one run each, its readers, and its life from asked over filling to full. The rules are protocol.md 6.
//! "Asked" and "filling" reserve their whole length; "full" without readers is cache in the same budget.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use lanyard_protocol::chunk::What;
use lanyard_protocol::limits::{GET_TICKET_MS, PUT_TICKET_MS};
use lanyard_protocol::message::{ChunkReady, UploadCancelled, UploadChunkRequest};
use lanyard_protocol::{FailureCode, FileRef, GroupRange, Piece, RelayToDevice, Ticket};

use super::asks::{Ask, Asker};
use super::credit::AskerKey;
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The holder has its ticket.
    Asked,
    /// Its PUT has begun.
    Filling,
    Full,
}

/// One reader of a slice of a slot.
#[derive(Debug)]
pub(super) struct Waiter {
    pub asker: Asker,
    pub pieces: Vec<Piece>,
    /// Where its pieces lie in the body, one range a piece.
    pub ranges: Vec<Range<u64>>,
    /// A device's ticket, once the PUT's head is there.
    pub ticket: Option<Ticket>,
    pub told: bool,
    pub started: bool,
    pub still: bool,
    pub told_at: Moment,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub holder: SessionId,
    pub ticket: Ticket,
    pub what: What,
    pub pieces: Vec<SlotPiece>,
    pub length: u64,
    pub phase: Phase,
    /// Who caused it: it counts for them.
    pub cause: AskerKey,
    pub waiters: BTreeMap<ReaderId, Waiter>,
    /// In the cache since; `None` while read or filling.
    pub cached_since: Option<Moment>,
}

impl Slot {
    pub fn has_file(&self, file: &FileRef) -> bool {
        self.pieces.iter().any(|piece| piece.file == *file)
    }

    /// Its file, if it is no bundle.
    pub fn only_file(&self) -> Option<FileRef> {
        let first = self.pieces.first()?.file;
        self.pieces.iter().all(|piece| piece.file == first).then_some(first)
    }

    /// Where groups of a file lie in the body; the caller knows that they are in it.
    fn range_of(&self, file: &FileRef, groups: GroupRange) -> Option<Range<u64>> {
        let piece = self
            .pieces
            .iter()
            .find(|p| p.file == *file && p.groups.first <= groups.first && groups.end() <= p.groups.end())?;
        let length = |first: u32, count: u32| match self.what {
            What::Bytes => lanyard_protocol::group::Groups::new(piece.size, piece.group_log).span(first, count),
            What::Values => 32 * u64::from(count),
        };
        let start = piece.offset + length(piece.groups.first, groups.first - piece.groups.first);
        Some(start..start + length(groups.first, groups.count))
    }
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    live: BTreeMap<SlotId, Slot>,
    by_group: BTreeMap<(FileRef, bool, u32), SlotId>,
    by_ticket: BTreeMap<Ticket, SlotId>,
    by_file: BTreeMap<FileRef, BTreeSet<SlotId>>,
    cache: BTreeSet<(Moment, SlotId)>,
    reserved: u64,
    /// Bytes that each asker's slots hold, cache left out.
    held: BTreeMap<AskerKey, u64>,
    /// Runs and bytes that each holder is asked for or filling.
    loads: BTreeMap<SessionId, (usize, u64)>,
}

impl Slots {
    pub fn get(&self, id: SlotId) -> Option<&Slot> {
        self.live.get(&id)
    }

    pub fn count(&self) -> usize {
        self.live.len()
    }

    pub fn filling_count(&self) -> usize {
        self.live.values().filter(|slot| slot.phase != Phase::Full).count()
    }

    pub fn reader_count(&self) -> usize {
        self.live.values().map(|slot| slot.waiters.len()).sum()
    }

    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// What is cached, oldest use first.
    pub fn cached(&self) -> Vec<SlotId> {
        self.cache.iter().map(|(_, id)| *id).collect()
    }

    pub fn held(&self, asker: AskerKey) -> u64 {
        self.held.get(&asker).copied().unwrap_or(0)
    }

    /// Everybody who holds slots.
    pub fn askers(&self) -> impl Iterator<Item = &AskerKey> {
        self.held.keys()
    }

    pub fn load(&self, holder: SessionId) -> (usize, u64) {
        self.loads.get(&holder).copied().unwrap_or((0, 0))
    }

    pub fn holding(&self, file: &FileRef, what: What, group: u32) -> Option<SlotId> {
        self.by_group.get(&(*file, what == What::Values, group)).copied()
    }

    /// Whether any of these groups' bytes lies in a live slot.
    pub fn has_any(&self, file: &FileRef, groups: Range<u32>) -> bool {
        self.by_group.range((*file, false, groups.start)..(*file, false, groups.end)).next().is_some()
    }

    pub fn by_ticket(&self, ticket: &Ticket) -> Option<SlotId> {
        self.by_ticket.get(ticket).copied()
    }

    pub fn of_file(&self, file: &FileRef) -> Vec<SlotId> {
        self.by_file.get(file).map(|ids| ids.iter().copied().collect()).unwrap_or_default()
    }

    pub fn of_holder(&self, holder: SessionId) -> Vec<SlotId> {
        self.live.iter().filter(|(_, s)| s.holder == holder && s.phase != Phase::Full).map(|(id, _)| *id).collect()
    }

    pub fn readers_where(&self, matches: impl Fn(&Waiter) -> bool) -> Vec<(SlotId, ReaderId)> {
        let mut found = Vec::new();
        for (slot, state) in &self.live {
            found.extend(state.waiters.iter().filter(|(_, w)| matches(w)).map(|(reader, _)| (*slot, *reader)));
        }
        found
    }

    /// Wants of links that joined a slot and were not told that they may read.
    pub fn links_untold(&self, matches: impl Fn(&Asker) -> bool) -> Vec<(LinkReader, u64, FileRef)> {
        let mut found = Vec::new();
        for slot in self.live.values() {
            let Some(first) = slot.pieces.first() else { continue };
            for waiter in slot.waiters.values().filter(|waiter| !waiter.told && matches(&waiter.asker)) {
                if let Asker::Link { reader, want, .. } = waiter.asker {
                    found.push((reader, want, first.file));
                }
            }
        }
        found
    }

    /// Full slots whose readers all stand still: they can be cut to make room.
    pub fn standing(&self) -> Vec<SlotId> {
        let stands = |slot: &Slot| {
            slot.phase == Phase::Full && !slot.waiters.is_empty() && slot.waiters.values().all(|w| w.started && w.still)
        };
        self.live.iter().filter(|(_, slot)| stands(slot)).map(|(id, _)| *id).collect()
    }

    fn insert(&mut self, id: SlotId, slot: Slot) {
        for piece in &slot.pieces {
            self.by_file.entry(piece.file).or_default().insert(id);
            for group in piece.groups.iter() {
                let old = self.by_group.insert((piece.file, slot.what == What::Values, group), id);
                debug_assert!(old.is_none(), "a group is in at most one live slot");
            }
        }
        self.by_ticket.insert(slot.ticket, id);
        self.reserved += slot.length;
        *self.held.entry(slot.cause).or_default() += slot.length;
        if slot.phase != Phase::Full {
            let load = self.loads.entry(slot.holder).or_default();
            *load = (load.0 + 1, load.1 + slot.length);
        }
        self.live.insert(id, slot);
    }

    fn remove(&mut self, id: SlotId) -> Option<Slot> {
        self.leave_cache(id);
        self.end_load(id);
        let slot = self.live.remove(&id)?;
        for piece in &slot.pieces {
            if let Some(ids) = self.by_file.get_mut(&piece.file) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_file.remove(&piece.file);
                }
            }
            for group in piece.groups.iter() {
                self.by_group.remove(&(piece.file, slot.what == What::Values, group));
            }
        }
        self.by_ticket.remove(&slot.ticket);
        self.reserved -= slot.length;
        self.release_held(slot.cause, slot.length);
        Some(slot)
    }

    fn release_held(&mut self, cause: AskerKey, length: u64) {
        if let Some(held) = self.held.get_mut(&cause) {
            *held = held.saturating_sub(length);
            if *held == 0 {
                self.held.remove(&cause);
            }
        }
    }

    fn enter_cache(&mut self, id: SlotId, now: Moment) {
        let Some(slot) = self.live.get_mut(&id) else { return };
        if slot.cached_since.replace(now).is_none() {
            let (cause, length) = (slot.cause, slot.length);
            self.cache.insert((now, id));
            self.release_held(cause, length);
        }
    }

    fn leave_cache(&mut self, id: SlotId) {
        let Some(slot) = self.live.get_mut(&id) else { return };
        if let Some(since) = slot.cached_since.take() {
            self.cache.remove(&(since, id));
            *self.held.entry(slot.cause).or_default() += slot.length;
        }
    }

    /// The holder has done its part, or will not.
    fn end_load(&mut self, id: SlotId) {
        let Some(slot) = self.live.get(&id) else { return };
        if slot.phase == Phase::Full {
            return;
        }
        if let Some(load) = self.loads.get_mut(&slot.holder) {
            *load = (load.0.saturating_sub(1), load.1.saturating_sub(slot.length));
            if load.0 == 0 {
                self.loads.remove(&slot.holder);
            }
        }
    }
}

impl Broker {
    /// Reserves a run and asks its holder; the ask that caused it is its first reader.
    pub(super) fn open_slot(&mut self, now: Moment, ask: &Ask, holder: SessionId, length: u64) {
        let id = SlotId(self.number());
        let ticket = Ticket(self.ids.bytes());
        let pieces = self.lay_out(ask);
        let cause = self.asker_key(&ask.asker);
        let new = NewSlot { slot: id, holder, ticket, what: ask.what, pieces: pieces.clone(), length };
        let slot = Slot {
            holder,
            ticket,
            what: ask.what,
            pieces,
            length,
            phase: Phase::Asked,
            cause,
            waiters: BTreeMap::new(),
            cached_since: None,
        };
        self.slots.insert(id, slot);
        self.effects.push(Effect::OpenSlot(Box::new(new)));
        self.deadlines.set(Timer::PutStart(id), now.plus(PUT_TICKET_MS));
        let message =
            UploadChunkRequest { ticket, public_id: ask.owner, pieces: ask.pieces.clone(), what: ask.what, length };
        self.send(holder, RelayToDevice::UploadChunkRequest(message), None);
        self.join(now, id, ask.asker, &ask.pieces);
        self.join_queued(now, id);
    }

    fn lay_out(&self, ask: &Ask) -> Vec<SlotPiece> {
        let mut offset = 0;
        let mut pieces = Vec::with_capacity(ask.pieces.len());
        for piece in &ask.pieces {
            let file = ask.file(piece);
            let Some(entry) = self.grants.entry(&file) else { continue };
            pieces.push(SlotPiece {
                file,
                size: entry.size,
                group_log: entry.group_log,
                groups: piece.groups,
                offset,
                root: entry.root,
            });
            offset += self.piece_length(&file, piece, ask.what);
        }
        pieces
    }

    /// A list of values that the relay has: full at once.
    pub(super) fn open_values(&mut self, now: Moment, ask: Ask, file: FileRef) {
        let absent = self.join_live(now, &ask);
        if absent.is_empty() {
            return;
        }
        let id = SlotId(self.number());
        let length = self.length_of(&ask);
        let pieces = self.lay_out(&ask);
        let slot = Slot {
            holder: SessionId(0),
            ticket: Ticket(self.ids.bytes()),
            what: What::Values,
            pieces,
            length,
            phase: Phase::Full,
            cause: self.asker_key(&ask.asker),
            waiters: BTreeMap::new(),
            cached_since: None,
        };
        self.slots.insert(id, slot);
        self.effects.push(Effect::OpenValues { slot: id, file, length });
        self.join(now, id, ask.asker, &ask.pieces);
    }

    /// A reader more; what is already coming it may read at once.
    pub(super) fn join(&mut self, now: Moment, id: SlotId, asker: Asker, pieces: &[Piece]) {
        let reader = ReaderId(self.number());
        self.deadlines.clear(&Timer::CacheEnd(id));
        self.slots.leave_cache(id);
        let Some(slot) = self.slots.live.get_mut(&id) else { return };
        let Some(owner) = slot.pieces.first().map(|piece| piece.file.public_id) else { return };
        let ranges = pieces
            .iter()
            .filter_map(|p| slot.range_of(&FileRef { public_id: owner, file_id: p.file_id }, p.groups))
            .collect();
        let waiter = Waiter {
            asker,
            pieces: pieces.to_vec(),
            ranges,
            ticket: None,
            told: false,
            started: false,
            still: false,
            told_at: now,
        };
        slot.waiters.insert(reader, waiter);
        if slot.phase != Phase::Asked {
            self.tell_ready(now, id, reader);
        }
    }

    /// CHUNK_READY, or its like for a link.
    fn tell_ready(&mut self, now: Moment, id: SlotId, reader: ReaderId) {
        let ticket = Ticket(self.ids.bytes());
        let Some(slot) = self.slots.live.get_mut(&id) else { return };
        let Some(owner) = slot.pieces.first().map(|piece| piece.file.public_id) else { return };
        let Some(waiter) = slot.waiters.get_mut(&reader) else { return };
        if waiter.told {
            return;
        }
        waiter.told = true;
        waiter.told_at = now;
        match waiter.asker {
            Asker::Device { session, transfer } => {
                waiter.ticket = Some(ticket);
                let ranges = merged(&waiter.ranges);
                let length = ranges.iter().map(|r| r.end - r.start).sum();
                let pieces = waiter.pieces.clone();
                self.deadlines.set(Timer::GetStart(id, reader), now.plus(GET_TICKET_MS));
                self.effects.push(Effect::GrantRead { ticket, session, slot: id, reader, ranges });
                let message = ChunkReady { transfer_id: transfer, pieces, ticket, length };
                self.send(session, RelayToDevice::ChunkReady(message), None);
            }
            Asker::Link { reader: link, want, .. } => {
                waiter.started = true;
                let parts = waiter
                    .pieces
                    .iter()
                    .zip(&waiter.ranges)
                    .map(|(p, range)| (FileRef { public_id: owner, file_id: p.file_id }, p.groups, range.clone()))
                    .collect();
                self.effects.push(Effect::LinkReady { reader: link, want, slot: id, slice: reader, parts });
            }
            Asker::Relay => {}
        }
    }

    pub(super) fn put_started(&mut self, now: Moment, id: SlotId) {
        self.deadlines.clear(&Timer::PutStart(id));
        let Some(slot) = self.slots.live.get_mut(&id) else { return };
        if slot.phase != Phase::Asked {
            return;
        }
        slot.phase = Phase::Filling;
        let holder = slot.holder;
        let readers: Vec<ReaderId> = slot.waiters.keys().copied().collect();
        if let Some(session) = self.sessions.get_mut(holder) {
            session.lapses = 0;
        }
        for reader in readers {
            self.tell_ready(now, id, reader);
        }
    }

    pub(super) fn put_finished(&mut self, now: Moment, id: SlotId) {
        self.slots.end_load(id);
        let Some(slot) = self.slots.live.get_mut(&id) else { return };
        slot.phase = Phase::Full;
        let relay_asked = slot.waiters.iter().find(|(_, w)| w.asker == Asker::Relay).map(|(reader, _)| *reader);
        let values_of = (slot.what == What::Values).then(|| slot.only_file()).flatten();
        if let Some(file) = values_of {
            self.grants.note_values(&file);
        }
        if let Some(reader) = relay_asked {
            self.reader_left(now, id, reader, 0);
            self.retry_parked(now);
        }
        self.rest_if_unread(now, id);
    }

    pub(super) fn put_failed(&mut self, now: Moment, id: SlotId, code: FailureCode, culprit: Option<FileRef>) {
        self.fail_slot(now, id, code, culprit, true);
        match (code, culprit) {
            (FailureCode::BadBytes, Some(file)) => {
                self.keep_sweeping(now);
                if self.blame.differs(now, file) {
                    self.file_changed(now, file);
                }
            }
            (FailureCode::FileChanged, Some(file)) => self.file_changed(now, file),
            _ => {}
        }
    }

    /// The holder did not even start; twice in a row means it sleeps.
    pub(super) fn put_lapsed(&mut self, now: Moment, id: SlotId) {
        let Some(holder) = self.slots.get(id).map(|slot| slot.holder) else { return };
        self.fail_slot(now, id, FailureCode::TimedOut, None, true);
        let Some(session) = self.sessions.get_mut(holder) else { return };
        session.lapses += 1;
        if session.lapses >= 2 {
            self.fell_asleep(holder);
            self.end_holder(now, holder, FailureCode::OwnerAway);
        }
    }

    pub(super) fn reader_started(&mut self, id: SlotId, reader: ReaderId) {
        self.deadlines.clear(&Timer::GetStart(id, reader));
        if let Some(waiter) = self.slots.live.get_mut(&id).and_then(|slot| slot.waiters.get_mut(&reader)) {
            waiter.started = true;
        }
    }

    pub(super) fn reader_still(&mut self, id: SlotId, reader: ReaderId, still: bool) {
        if let Some(waiter) = self.slots.live.get_mut(&id).and_then(|slot| slot.waiters.get_mut(&reader)) {
            waiter.still = still;
        }
    }

    /// A reader has all its bytes, or is gone.
    pub(super) fn reader_left(&mut self, now: Moment, id: SlotId, reader: ReaderId, delivered: u64) {
        self.deadlines.clear(&Timer::GetStart(id, reader));
        let Some(slot) = self.slots.live.get_mut(&id) else { return };
        let Some(waiter) = slot.waiters.remove(&reader) else { return };
        let length = waiter.ranges.iter().map(|range| range.end - range.start).sum();
        self.followers.took(now, &waiter.asker, length, waiter.told_at);
        if let (Asker::Device { session, transfer }, Some(piece)) = (waiter.asker, waiter.pieces.last())
            && slot.what == What::Bytes
            && let Some(file) = slot.pieces.iter().find(|p| p.file.file_id == piece.file_id)
        {
            let (file, size) = (file.file, file.size);
            let effects = &mut self.effects;
            self.progress.delivered(now, effects, &self.sessions, (session, transfer), file, size, delivered);
        }
        self.rest_if_unread(now, id);
    }

    /// Nobody waits any more: a filling slot is called off, a full one becomes cache.
    fn rest_if_unread(&mut self, now: Moment, id: SlotId) {
        let Some(slot) = self.slots.live.get(&id) else { return };
        if !slot.waiters.is_empty() {
            return;
        }
        if slot.phase == Phase::Full {
            self.slots.enter_cache(id, now);
            self.deadlines.set(Timer::CacheEnd(id), now.plus(GET_TICKET_MS));
        } else {
            self.fail_slot(now, id, FailureCode::Cancelled, None, true);
        }
    }

    /// Takes a reader away: its ticket is void, its body is cut.
    pub(super) fn dismiss(&mut self, now: Moment, id: SlotId, reader: ReaderId, code: FailureCode) {
        self.deadlines.clear(&Timer::GetStart(id, reader));
        let Some(slot) = self.slots.live.get_mut(&id) else { return };
        let Some(waiter) = slot.waiters.remove(&reader) else { return };
        if let Some(ticket) = waiter.ticket.filter(|_| !waiter.started) {
            self.effects.push(Effect::RevokeTicket { ticket });
        } else if waiter.told {
            self.effects.push(Effect::CutReader { slot: id, reader, code });
        }
        self.rest_if_unread(now, id);
    }

    /// A ticket that nobody came for.
    pub(super) fn get_lapsed(&mut self, now: Moment, id: SlotId, reader: ReaderId) {
        self.dismiss(now, id, reader, FailureCode::TimedOut);
    }

    pub(super) fn cache_ended(&mut self, id: SlotId) {
        if self.slots.get(id).is_some_and(|slot| slot.cached_since.is_some()) {
            self.drop_slot(id);
        }
    }

    pub(super) fn drop_slot(&mut self, id: SlotId) {
        self.deadlines.clear(&Timer::CacheEnd(id));
        if self.slots.remove(id).is_some() {
            self.effects.push(Effect::DropSlot { slot: id });
        }
    }

    /// Cuts the readers of a full slot that all stand still; they ask again at their own pace.
    pub(super) fn cut_standing(&mut self, id: SlotId) {
        let Some(slot) = self.slots.remove(id) else { return };
        for reader in slot.waiters.into_keys() {
            self.deadlines.clear(&Timer::GetStart(id, reader));
            self.effects.push(Effect::CutReader { slot: id, reader, code: FailureCode::Busy });
        }
        self.effects.push(Effect::DropSlot { slot: id });
    }

    /// The slot fails at once: who has not been told CHUNK_READY hears CHUNK_FAILED, who has sees it at its GET.
    pub(super) fn fail_slot(
        &mut self,
        now: Moment,
        id: SlotId,
        code: FailureCode,
        culprit: Option<FileRef>,
        tell_holder: bool,
    ) {
        let Some(slot) = self.slots.remove(id) else { return };
        self.deadlines.clear(&Timer::PutStart(id));
        self.deadlines.clear(&Timer::CacheEnd(id));
        self.effects.push(Effect::FailSlot { slot: id, code });
        if tell_holder && slot.phase != Phase::Full && self.sessions.get(slot.holder).is_some() {
            let message = UploadCancelled { ticket: slot.ticket, code };
            self.send(slot.holder, RelayToDevice::UploadCancelled(message), None);
        }
        let Some(owner) = slot.pieces.first().map(|piece| piece.file.public_id) else { return };
        for (reader, waiter) in slot.waiters {
            self.deadlines.clear(&Timer::GetStart(id, reader));
            if waiter.told {
                continue; // its GET tells
            }
            let guilty = |p: &Piece| culprit.is_none_or(|f| f.file_id == p.file_id);
            let (guilty, innocent): (Vec<Piece>, Vec<Piece>) = waiter.pieces.into_iter().partition(guilty);
            for (pieces, code) in [(guilty, code), (innocent, FailureCode::Busy)] {
                if !pieces.is_empty() {
                    let ask = self.ask_again(waiter.asker, owner, slot.what, pieces);
                    self.ask_failed(now, ask, code);
                }
            }
        }
    }

    fn ask_again(&mut self, asker: Asker, owner: lanyard_protocol::DeviceId, what: What, pieces: Vec<Piece>) -> Ask {
        let id = super::asks::AskId(self.number());
        Ask { id, asker, owner, what, pieces, reference: None, tries: 0, parked: super::asks::Parked::Retry }
    }

    pub(super) fn fail_slots_of(&mut self, now: Moment, file: &FileRef, code: FailureCode) {
        for id in self.slots.of_file(file) {
            self.fail_slot(now, id, code, Some(*file), true);
        }
    }

    /// The holder's session ended or sleeps: what it was filling fails; what is full stays.
    pub(super) fn end_holder(&mut self, now: Moment, holder: SessionId, code: FailureCode) {
        for id in self.slots.of_holder(holder) {
            self.fail_slot(now, id, code, None, true);
        }
    }
}

/// Adjacent ranges as one.
fn merged(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => out.push(range.clone()),
        }
    }
    out
}
