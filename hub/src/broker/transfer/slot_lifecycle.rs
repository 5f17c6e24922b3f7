//! A slot's life, from asked over filling to full, and its readers'. The rules are PROTOCOL.md 6.
//! "Asked" and "filling" reserve their whole length; "full" without readers is cache in the same
//! budget.

use std::collections::BTreeMap;
use std::ops::Range;

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::limits::{GET_TICKET_MS, PUT_TICKET_MS};
use lanyard_protocol::message::{ChunkReady, UploadCancelled, UploadChunkRequest};
use lanyard_protocol::{FailureCode, FileRef, GroupSpan, RelayToDevice, Ticket};

use super::requests::{ChunkRequest, Requester};
use super::slots::{Slot, SlotPhase, SlotReader};
use super::speed::{Lane, SpeedGroup};
use super::*;

impl Transfers {
    /// Reserves a run and asks its holder; the ask that caused it is its first reader.
    pub(super) fn open_slot(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &ChunkRequest,
        holder: SessionId,
        length: u64,
    ) {
        let id = SlotId(cx.number());
        let ticket = Ticket(cx.ids.bytes());
        let pieces = self.lay_out(ask);
        let cause = self.asker_key(cx, &ask.asker);
        let group = ask.group;
        let new = NewSlot {
            slot: id,
            holder,
            ticket,
            what: ask.what,
            pieces: pieces.clone(),
            length,
            group,
        };
        let slot = Slot {
            holder,
            ticket,
            what: ask.what,
            pieces,
            length,
            phase: SlotPhase::Asked,
            cause,
            group,
            waiters: BTreeMap::new(),
            cached_since: None,
        };
        self.slots.insert(id, slot);
        self.stats.opened_runs += 1;
        self.stats.opened_bytes += length;
        cx.effects.push(Effect::Slot(SlotEffect::Open(Box::new(new))));
        cx.deadlines.set(Timer::Transfer(TransferTimer::PutStart(id)), cx.now.plus(PUT_TICKET_MS));
        let message = UploadChunkRequest {
            ticket,
            public_id: ask.owner,
            pieces: ask.pieces.clone(),
            what: ask.what,
            length,
        };
        cx.send(holder, RelayToDevice::UploadChunkRequest(message), None);
        self.join(cx, id, ask.asker, &ask.pieces);
        self.join_queued(cx, id);
    }

    fn lay_out(&self, ask: &ChunkRequest) -> Vec<SlotSpan> {
        let mut offset = 0;
        let mut pieces = Vec::with_capacity(ask.pieces.len());
        for piece in &ask.pieces {
            let file = ask.file(piece);
            let Some(entry) = self.grants.entry(&file) else { continue };
            pieces.push(SlotSpan {
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

    /// A list of values that the relay has: full at once, within the budget like any other body.
    pub(super) fn open_hashes(&mut self, cx: &mut Cx<'_>, ask: ChunkRequest, file: FileRef) {
        let absent = self.join_live(cx, &ask);
        if absent.is_empty() {
            return;
        }
        let length = self.length_of(&ask);
        let Ok(room) = self.room_for(cx, &ask, length) else {
            return self.ask_failed(cx, ask, FailureCode::Busy);
        };
        self.make_room(cx, room);
        let id = SlotId(cx.number());
        let pieces = self.lay_out(&ask);
        let slot = Slot {
            holder: SessionId(0),
            ticket: Ticket(cx.ids.bytes()),
            what: BodyKind::Hashes,
            pieces,
            length,
            phase: SlotPhase::Full,
            cause: self.asker_key(cx, &ask.asker),
            group: ask.group,
            waiters: BTreeMap::new(),
            cached_since: None,
        };
        self.slots.insert(id, slot);
        cx.effects.push(Effect::Slot(SlotEffect::OpenHashes { slot: id, file, length }));
        self.join(cx, id, ask.asker, &ask.pieces);
    }

    /// A reader more; what is already coming it may read at once.
    pub(super) fn join(
        &mut self,
        cx: &mut Cx<'_>,
        id: SlotId,
        asker: Requester,
        pieces: &[GroupSpan],
    ) {
        let reader = ReaderId(cx.number());
        cx.deadlines.clear(&Timer::Transfer(TransferTimer::CacheEnd(id)));
        self.slots.leave_cache(id);
        let Some(slot) = self.slots.live_mut(id) else { return };
        let Some(owner) = slot.pieces.first().map(|piece| piece.file.public_id) else { return };
        let ranges = pieces
            .iter()
            .filter_map(|p| {
                slot.range_of(&FileRef { public_id: owner, file_id: p.file_id }, p.groups)
            })
            .collect();
        let waiter = SlotReader {
            asker,
            pieces: pieces.to_vec(),
            ranges,
            ticket: None,
            told: false,
            started: false,
            still: false,
            taken: 0,
        };
        if let Some(lane) = Lane::of(&asker) {
            self.speeds.is_released(cx.now, lane);
        }
        let (is_first, is_full, is_coming) = (
            slot.waiters.is_empty(),
            slot.phase == SlotPhase::Full,
            slot.phase != SlotPhase::Asked,
        );
        match (is_full, is_first) {
            (true, _) => self.stats.cached_bytes += waiter.bytes(),
            (false, false) => self.stats.joined_bytes += waiter.bytes(),
            (false, true) => {} // the one that it was opened for
        }
        self.slots.add_waiter(id, reader, waiter);
        if is_coming {
            self.tell_ready(cx, id, reader);
        }
    }

    /// CHUNK_READY, or its like for a link.
    fn tell_ready(&mut self, cx: &mut Cx<'_>, id: SlotId, reader: ReaderId) {
        let ticket = Ticket(cx.ids.bytes());
        let Some(slot) = self.slots.live_mut(id) else { return };
        let Some(owner) = slot.pieces.first().map(|piece| piece.file.public_id) else { return };
        let Some(waiter) = slot.waiters.get_mut(&reader) else { return };
        if waiter.told {
            return;
        }
        waiter.told = true;
        match waiter.asker {
            Requester::Device { session, transfer } => {
                waiter.ticket = Some(ticket);
                let ranges = merged(&waiter.ranges);
                let length = ranges.iter().map(|r| r.end - r.start).sum();
                let pieces = waiter.pieces.clone();
                cx.deadlines.set(
                    Timer::Transfer(TransferTimer::GetStart(id, reader)),
                    cx.now.plus(GET_TICKET_MS),
                );
                cx.effects.push(Effect::Slot(SlotEffect::GrantRead {
                    ticket,
                    session,
                    slot: id,
                    reader,
                    ranges,
                }));
                let message = ChunkReady { transfer_id: transfer, pieces, ticket, length };
                cx.send(session, RelayToDevice::ChunkReady(message), None);
            }
            Requester::Link { reader: link, want, .. } => {
                waiter.started = true;
                let parts = waiter
                    .pieces
                    .iter()
                    .zip(&waiter.ranges)
                    .map(|(p, range)| {
                        (FileRef { public_id: owner, file_id: p.file_id }, p.groups, range.clone())
                    })
                    .collect();
                cx.effects.push(Effect::Link(LinkEffect::Ready {
                    reader: link,
                    want,
                    slot: id,
                    slice: reader,
                    parts,
                }));
            }
            Requester::Relay => {}
        }
    }

    pub(super) fn put_started(&mut self, cx: &mut Cx<'_>, id: SlotId) {
        cx.deadlines.clear(&Timer::Transfer(TransferTimer::PutStart(id)));
        let Some(slot) = self.slots.live_mut(id) else { return };
        if slot.phase != SlotPhase::Asked {
            return;
        }
        slot.phase = SlotPhase::Filling;
        let holder = slot.holder;
        let readers: Vec<ReaderId> = slot.waiters.keys().copied().collect();
        cx.events.push(TransferEvent::UploadBegan(holder));
        for reader in readers {
            self.tell_ready(cx, id, reader);
        }
    }

    pub(super) fn put_finished(&mut self, cx: &mut Cx<'_>, id: SlotId) {
        self.slots.end_load(id);
        let Some(slot) = self.slots.live_mut(id) else { return };
        slot.phase = SlotPhase::Full;
        let relay_asked = slot
            .waiters
            .iter()
            .find(|(_, w)| w.asker == Requester::Relay)
            .map(|(reader, _)| *reader);
        let hashes_of = (slot.what == BodyKind::Hashes).then(|| slot.only_file()).flatten();
        if let Some(file) = hashes_of {
            self.grants.note_hashes(&file);
        }
        if let Some(reader) = relay_asked {
            self.reader_left(cx, id, reader, 0);
            self.retry_parked(cx);
        }
        self.rest_if_unread(cx, id);
    }

    pub(super) fn put_failed(
        &mut self,
        cx: &mut Cx<'_>,
        id: SlotId,
        code: FailureCode,
        culprit: Option<FileRef>,
    ) {
        let mut code = code;
        if let (FailureCode::BadBytes, Some(file)) = (code, culprit) {
            self.stats.bad_bodies += 1;
            cx.keep_sweeping();
            if self.corruption.differs(cx.now, file) {
                // Its readers hear what that means, not that they should ask again: by then the
                // file may be gone.
                code = FailureCode::FileChanged;
            }
        }
        self.fail_slot(cx, id, code, culprit, true);
        if let (FailureCode::FileChanged, Some(file)) = (code, culprit) {
            self.file_changed(cx, file);
        }
    }

    /// The holder did not even start; twice in a row means it sleeps.
    pub(super) fn put_lapsed(&mut self, cx: &mut Cx<'_>, id: SlotId) {
        let Some(holder) = self.slots.get(id).map(|slot| slot.holder) else { return };
        self.fail_slot(cx, id, FailureCode::TimedOut, None, true);
        cx.events.push(TransferEvent::UploadLapsed(holder));
    }

    pub(super) fn reader_started(&mut self, cx: &mut Cx<'_>, id: SlotId, reader: ReaderId) {
        cx.deadlines.clear(&Timer::Transfer(TransferTimer::GetStart(id, reader)));
        if let Some(waiter) = self.slots.live_mut(id).and_then(|slot| slot.waiters.get_mut(&reader))
        {
            waiter.started = true;
        }
    }

    pub(super) fn reader_still(&mut self, id: SlotId, reader: ReaderId, still: bool) {
        if let Some(waiter) = self.slots.live_mut(id).and_then(|slot| slot.waiters.get_mut(&reader))
        {
            waiter.still = still;
        }
    }

    /// How far running bodies have come, all looked at in one moment: what a reader took counts as
    /// it takes it.
    pub(super) fn readers_moved(&mut self, cx: &mut Cx<'_>, moved: Vec<(SlotId, ReaderId, u64)>) {
        for (id, reader, delivered) in moved {
            let Some(slot) = self.slots.live_mut(id) else { continue };
            let Some(waiter) = slot.waiters.get_mut(&reader) else { continue };
            let more = delivered.min(waiter.bytes()).saturating_sub(waiter.taken);
            waiter.taken += more;
            let asker = waiter.asker;
            let wanted = waiter.pieces.first().map(|piece| piece.file_id);
            let file = slot
                .pieces
                .iter()
                .map(|piece| piece.file)
                .find(|file| Some(file.file_id) == wanted);
            if let (Some(lane), Some(file)) = (Lane::of(&asker), file) {
                self.speeds.took(cx.now, &file, lane, more);
            }
        }
        self.look_at_speeds(cx);
    }

    /// A reader has all its bytes, or is gone.
    pub(super) fn reader_left(
        &mut self,
        cx: &mut Cx<'_>,
        id: SlotId,
        reader: ReaderId,
        delivered: u64,
    ) {
        cx.deadlines.clear(&Timer::Transfer(TransferTimer::GetStart(id, reader)));
        let Some(waiter) = self.slots.take_waiter(id, reader) else { return };
        let Some(slot) = self.slots.get(id) else { return };
        let file = slot
            .pieces
            .iter()
            .find(|p| waiter.pieces.first().is_some_and(|w| w.file_id == p.file.file_id));
        if let (Some(lane), Some(file)) = (Lane::of(&waiter.asker), file) {
            let more = delivered.min(waiter.bytes()).saturating_sub(waiter.taken);
            self.speeds.took(cx.now, &file.file, lane, more);
        }
        if let (Requester::Device { session, transfer }, Some(piece)) =
            (waiter.asker, waiter.pieces.last())
            && slot.what == BodyKind::Bytes
            && let Some(file) = slot.pieces.iter().find(|p| p.file.file_id == piece.file_id)
        {
            let (file, size) = (file.file, file.size);
            self.progress.delivered(
                cx.now,
                cx.effects,
                cx.sessions,
                (session, transfer),
                file,
                size,
                delivered,
            );
        }
        self.rest_if_unread(cx, id);
    }

    /// Nobody waits any more: a filling slot is called off, a full one becomes cache.
    fn rest_if_unread(&mut self, cx: &mut Cx<'_>, id: SlotId) {
        let Some(slot) = self.slots.get(id) else { return };
        if !slot.waiters.is_empty() {
            return;
        }
        if slot.phase == SlotPhase::Full {
            let file = slot.only_file();
            let slot_group = slot.group;
            self.slots.enter_cache(id, cx.now);
            cx.deadlines
                .set(Timer::Transfer(TransferTimer::CacheEnd(id)), cx.now.plus(GET_TICKET_MS));
            file.into_iter().for_each(|file| self.trim_leftovers(cx, file, slot_group));
        } else {
            self.fail_slot(cx, id, FailureCode::Cancelled, None, true);
        }
    }

    /// Takes a reader away: its ticket is void, its body is cut.
    pub(super) fn dismiss(
        &mut self,
        cx: &mut Cx<'_>,
        id: SlotId,
        reader: ReaderId,
        code: FailureCode,
    ) {
        cx.deadlines.clear(&Timer::Transfer(TransferTimer::GetStart(id, reader)));
        let Some(waiter) = self.slots.take_waiter(id, reader) else { return };
        if let Some(ticket) = waiter.ticket.filter(|_| !waiter.started) {
            cx.effects.push(Effect::Slot(SlotEffect::RevokeTicket { ticket }));
        } else if waiter.told {
            cx.effects.push(Effect::Slot(SlotEffect::CutReader { slot: id, reader, code }));
        }
        self.rest_if_unread(cx, id);
    }

    /// A ticket that nobody came for.
    pub(super) fn get_lapsed(&mut self, cx: &mut Cx<'_>, id: SlotId, reader: ReaderId) {
        self.dismiss(cx, id, reader, FailureCode::TimedOut);
    }

    pub(super) fn cache_ended(&mut self, cx: &mut Cx<'_>, id: SlotId) {
        if self.slots.get(id).is_some_and(|slot| slot.cached_since.is_some()) {
            self.drop_slot(cx, id);
        }
    }

    pub(super) fn drop_slot(&mut self, cx: &mut Cx<'_>, id: SlotId) {
        cx.deadlines.clear(&Timer::Transfer(TransferTimer::CacheEnd(id)));
        if self.slots.remove(id).is_some() {
            cx.effects.push(Effect::Slot(SlotEffect::Drop { slot: id }));
        }
    }

    /// Cuts the readers of a full slot that all stand still; they ask again at their own pace.
    pub(super) fn cut_standing(&mut self, cx: &mut Cx<'_>, id: SlotId) {
        let Some(slot) = self.slots.remove(id) else { return };
        for reader in slot.waiters.into_keys() {
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::GetStart(id, reader)));
            cx.effects.push(Effect::Slot(SlotEffect::CutReader {
                slot: id,
                reader,
                code: FailureCode::Busy,
            }));
        }
        cx.effects.push(Effect::Slot(SlotEffect::Drop { slot: id }));
    }

    /// The slot fails at once: who has not been told CHUNK_READY hears CHUNK_FAILED, who has sees
    /// it at its GET.
    pub(super) fn fail_slot(
        &mut self,
        cx: &mut Cx<'_>,
        id: SlotId,
        code: FailureCode,
        culprit: Option<FileRef>,
        tell_holder: bool,
    ) {
        let Some(slot) = self.slots.remove(id) else { return };
        self.stats.failed_runs +=
            u64::from(code != FailureCode::Cancelled && code != FailureCode::BadBytes);
        cx.deadlines.clear(&Timer::Transfer(TransferTimer::PutStart(id)));
        cx.deadlines.clear(&Timer::Transfer(TransferTimer::CacheEnd(id)));
        cx.effects.push(Effect::Slot(SlotEffect::Fail { slot: id, code }));
        if tell_holder && slot.phase != SlotPhase::Full && cx.sessions.get(slot.holder).is_some() {
            let message = UploadCancelled { ticket: slot.ticket, code };
            cx.send(slot.holder, RelayToDevice::UploadCancelled(message), None);
        }
        let Some(owner) = slot.pieces.first().map(|piece| piece.file.public_id) else { return };
        for (reader, waiter) in slot.waiters {
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::GetStart(id, reader)));
            if waiter.told {
                continue; // its GET tells
            }
            let guilty = |p: &GroupSpan| culprit.is_none_or(|f| f.file_id == p.file_id);
            let (guilty, innocent): (Vec<GroupSpan>, Vec<GroupSpan>) =
                waiter.pieces.into_iter().partition(guilty);
            for (pieces, code) in [(guilty, code), (innocent, FailureCode::Busy)] {
                if !pieces.is_empty() {
                    let ask = self.ask_again(cx, waiter.asker, owner, slot.what, pieces);
                    self.ask_failed(cx, ask, code);
                }
            }
        }
    }

    fn ask_again(
        &mut self,
        cx: &mut Cx<'_>,
        asker: Requester,
        owner: lanyard_protocol::DeviceId,
        what: BodyKind,
        pieces: Vec<GroupSpan>,
    ) -> ChunkRequest {
        let id = super::requests::ChunkRequestId(cx.number());
        ChunkRequest {
            id,
            asker,
            owner,
            what,
            pieces,
            reference: None,
            tries: 0,
            parked: super::requests::WaitReason::Retry,
            group: SpeedGroup::ALL,
        }
    }

    pub(super) fn fail_slots_of(&mut self, cx: &mut Cx<'_>, file: &FileRef, code: FailureCode) {
        for id in self.slots.of_file(file) {
            self.fail_slot(cx, id, code, Some(*file), true);
        }
    }

    /// The holder's session ended or sleeps: what it was filling fails; what is full stays.
    pub(super) fn end_holder(&mut self, cx: &mut Cx<'_>, holder: SessionId, code: FailureCode) {
        for id in self.slots.of_holder(holder) {
            self.fail_slot(cx, id, code, None, true);
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
