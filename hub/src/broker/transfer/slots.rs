//! The table of slots: one upload of one run each, and its readers. What holds what, who is asked
//! for how much, who has how much to read, and the bytes that all of it reserves; `slot_life` is
//! what happens to a slot.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::{FileRef, GroupRange, GroupSpan, Ticket};

use super::budget::RequesterKey;
use super::requests::Requester;
use super::speed::{Lane, SpeedGroup};
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotPhase {
    /// The holder has its ticket.
    Asked,
    /// Its PUT has begun.
    Filling,
    Full,
}

/// One reader of a slice of a slot.
#[derive(Debug)]
pub(super) struct SlotReader {
    pub asker: Requester,
    pub pieces: Vec<GroupSpan>,
    /// Where its pieces lie in the body, one range a piece.
    pub ranges: Vec<Range<u64>>,
    /// A device's ticket, once the PUT's head is there.
    pub ticket: Option<Ticket>,
    pub told: bool,
    pub started: bool,
    pub still: bool,
    /// Bytes that it took, as far as the relay said.
    pub taken: u64,
}

impl SlotReader {
    pub(super) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

#[derive(Debug)]
pub(super) struct Slot {
    pub holder: SessionId,
    pub ticket: Ticket,
    pub what: BodyKind,
    pub pieces: Vec<SlotSpan>,
    pub length: u64,
    pub phase: SlotPhase,
    /// The requester that caused the slot, and that it counts for.
    pub cause: RequesterKey,
    /// The group of speed that shares it; only members read it.
    pub group: SpeedGroup,
    pub waiters: BTreeMap<ReaderId, SlotReader>,
    /// In the cache since; `None` while read or filling.
    pub cached_since: Option<Moment>,
}

impl Slot {
    pub(super) fn has_file(&self, file: &FileRef) -> bool {
        self.pieces.iter().any(|piece| piece.file == *file)
    }

    /// Its file, if it is no bundle.
    pub(super) fn only_file(&self) -> Option<FileRef> {
        let first = self.pieces.first()?.file;
        self.pieces.iter().all(|piece| piece.file == first).then_some(first)
    }

    /// Where groups of a file lie in the body; the caller knows that they are in it.
    pub(super) fn range_of(&self, file: &FileRef, groups: GroupRange) -> Option<Range<u64>> {
        let piece = self.pieces.iter().find(|p| {
            p.file == *file && p.groups.first <= groups.first && groups.end() <= p.groups.end()
        })?;
        let length = |first: u32, count: u32| match self.what {
            BodyKind::Bytes => {
                lanyard_protocol::group::Groups::new(piece.size, piece.group_log).span(first, count)
            }
            BodyKind::Hashes => 32 * u64::from(count),
        };
        let start = piece.offset + length(piece.groups.first, groups.first - piece.groups.first);
        Some(start..start + length(groups.first, groups.count))
    }
}

/// The groups of a piece that stand in the index: each of its bytes, but one for a whole list of
/// values.
fn indexed(what: BodyKind, piece: &SlotSpan) -> Range<u32> {
    match what {
        BodyKind::Bytes => piece.groups.iter(),
        BodyKind::Hashes => piece.groups.first..piece.groups.first + 1,
    }
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    live: BTreeMap<SlotId, Slot>,
    /// Each group of bytes is in at most one live slot of each group of speed.
    by_group: BTreeMap<(FileRef, bool, SpeedGroup, u32), SlotId>,
    by_ticket: BTreeMap<Ticket, SlotId>,
    by_file: BTreeMap<FileRef, BTreeSet<SlotId>>,
    cache: BTreeSet<(Moment, SlotId)>,
    reserved: u64,
    /// Bytes that each asker's slots hold, by group of speed, cache left out.
    held: BTreeMap<(RequesterKey, SpeedGroup), u64>,
    /// Bytes that each group of speed reserves, cache included.
    of_groups: BTreeMap<SpeedGroup, u64>,
    /// Bytes that each transfer or response was promised and has not read.
    unread: BTreeMap<Lane, u64>,
    /// Runs and bytes that each holder is asked for or filling, by group of speed.
    loads: BTreeMap<(SessionId, SpeedGroup), (usize, u64)>,
}

impl Slots {
    pub(super) fn get(&self, id: SlotId) -> Option<&Slot> {
        self.live.get(&id)
    }

    pub(super) fn count(&self) -> usize {
        self.live.len()
    }

    pub(super) fn filling_count(&self) -> usize {
        self.live.values().filter(|slot| slot.phase != SlotPhase::Full).count()
    }

    pub(super) fn reader_count(&self) -> usize {
        self.live.values().map(|slot| slot.waiters.len()).sum()
    }

    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Returns cached slots, the oldest use first.
    pub(super) fn cached(&self) -> Vec<SlotId> {
        self.cache.iter().map(|(_, id)| *id).collect()
    }

    /// Sums what an asker's slots hold for the groups of speed that `counts`.
    pub(super) fn held(&self, asker: RequesterKey, counts: impl Fn(SpeedGroup) -> bool) -> u64 {
        let groups = self.held.range((asker, SpeedGroup::ALL)..=(asker, SpeedGroup(u64::MAX)));
        groups.filter(|((_, group), _)| counts(*group)).map(|(_, bytes)| bytes).sum()
    }

    /// Everybody who holds slots, and for which group of speed.
    pub(super) fn askers(&self) -> impl Iterator<Item = &(RequesterKey, SpeedGroup)> {
        self.held.keys()
    }

    /// Sums what a group of speed reserves.
    pub(super) fn reserved_by(&self, group: SpeedGroup) -> u64 {
        self.of_groups.get(&group).copied().unwrap_or(0)
    }

    /// Runs and bytes that a holder is asked for, by group of speed.
    pub(super) fn loads(
        &self,
        holder: SessionId,
    ) -> impl Iterator<Item = (SpeedGroup, usize, u64)> {
        let groups = self.loads.range((holder, SpeedGroup::ALL)..=(holder, SpeedGroup(u64::MAX)));
        groups.map(|((_, group), (runs, bytes))| (*group, *runs, *bytes))
    }

    pub(super) fn unread(&self, lane: Lane) -> u64 {
        self.unread.get(&lane).copied().unwrap_or(0)
    }

    pub(super) fn holding(
        &self,
        file: &FileRef,
        what: BodyKind,
        speed: SpeedGroup,
        group: u32,
    ) -> Option<SlotId> {
        self.by_group.get(&(*file, what == BodyKind::Hashes, speed, group)).copied()
    }

    /// The first of these groups whose bytes lie in a live slot of a group of speed.
    pub(super) fn first_live(
        &self,
        file: &FileRef,
        speed: SpeedGroup,
        groups: Range<u32>,
    ) -> Option<u32> {
        let range = (*file, false, speed, groups.start)
            ..(*file, false, speed, groups.end.max(groups.start));
        self.by_group.range(range).next().map(|((_, _, _, group), _)| *group)
    }

    /// The groups of speed that have a live slot with the bytes of a group.
    pub(super) fn groups_with(&self, file: &FileRef, group: u32) -> Vec<SpeedGroup> {
        let of_file =
            self.by_file.get(file).into_iter().flatten().filter_map(|id| self.live.get(id));
        let has = |slot: &&Slot| {
            let here = |piece: &SlotSpan| piece.file == *file && piece.groups.contains(group);
            slot.what == BodyKind::Bytes && slot.pieces.iter().any(here)
        };
        of_file.filter(has).map(|slot| slot.group).collect()
    }

    /// Whether a lane still reads groups of a file that lie before this one.
    pub(super) fn reads_before(&self, lane: Lane, file: &FileRef, group: u32) -> bool {
        let of_file =
            self.by_file.get(file).into_iter().flatten().filter_map(|id| self.live.get(id));
        let its = |waiter: &&SlotReader| Lane::of(&waiter.asker) == Some(lane);
        let earlier =
            |piece: &GroupSpan| piece.file_id == file.file_id && piece.groups.first < group;
        of_file
            .flat_map(|slot| slot.waiters.values())
            .filter(its)
            .any(|waiter| waiter.pieces.iter().any(earlier))
    }

    pub(super) fn by_ticket(&self, ticket: &Ticket) -> Option<SlotId> {
        self.by_ticket.get(ticket).copied()
    }

    pub(super) fn of_file(&self, file: &FileRef) -> Vec<SlotId> {
        self.by_file.get(file).map(|ids| ids.iter().copied().collect()).unwrap_or_default()
    }

    pub(super) fn of_holder(&self, holder: SessionId) -> Vec<SlotId> {
        self.live
            .iter()
            .filter(|(_, s)| s.holder == holder && s.phase != SlotPhase::Full)
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn readers_where(
        &self,
        matches: impl Fn(&SlotReader) -> bool,
    ) -> Vec<(SlotId, ReaderId)> {
        let mut found = Vec::new();
        for (slot, state) in &self.live {
            found.extend(
                state
                    .waiters
                    .iter()
                    .filter(|(_, w)| matches(w))
                    .map(|(reader, _)| (*slot, *reader)),
            );
        }
        found
    }

    /// Wants of links that joined a slot and were not told that they may read.
    pub(super) fn links_untold(
        &self,
        matches: impl Fn(&Requester) -> bool,
    ) -> Vec<(LinkReader, u64, FileRef)> {
        let mut found = Vec::new();
        for slot in self.live.values() {
            let Some(first) = slot.pieces.first() else { continue };
            for waiter in
                slot.waiters.values().filter(|waiter| !waiter.told && matches(&waiter.asker))
            {
                if let Requester::Link { reader, want, .. } = waiter.asker {
                    found.push((reader, want, first.file));
                }
            }
        }
        found
    }

    /// Full slots whose readers all stand still: they can be cut to make room.
    pub(super) fn standing(&self) -> Vec<SlotId> {
        let stands = |slot: &Slot| {
            slot.phase == SlotPhase::Full
                && !slot.waiters.is_empty()
                && slot.waiters.values().all(|w| w.started && w.still)
        };
        self.live.iter().filter(|(_, slot)| stands(slot)).map(|(id, _)| *id).collect()
    }

    pub(super) fn live_mut(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.live.get_mut(&id)
    }

    pub(super) fn add_waiter(&mut self, id: SlotId, reader: ReaderId, waiter: SlotReader) {
        let Some(slot) = self.live.get_mut(&id) else { return };
        if let Some(lane) = Lane::of(&waiter.asker) {
            *self.unread.entry(lane).or_default() += waiter.bytes();
        }
        slot.waiters.insert(reader, waiter);
    }

    pub(super) fn take_waiter(&mut self, id: SlotId, reader: ReaderId) -> Option<SlotReader> {
        let waiter = self.live.get_mut(&id)?.waiters.remove(&reader)?;
        self.nothing_to_read(&waiter);
        Some(waiter)
    }

    fn nothing_to_read(&mut self, waiter: &SlotReader) {
        let Some(lane) = Lane::of(&waiter.asker) else { return };
        reduce(&mut self.unread, &lane, waiter.bytes());
    }

    pub(super) fn insert(&mut self, id: SlotId, slot: Slot) {
        for piece in &slot.pieces {
            self.by_file.entry(piece.file).or_default().insert(id);
            for group in indexed(slot.what, piece) {
                let old = self
                    .by_group
                    .insert((piece.file, slot.what == BodyKind::Hashes, slot.group, group), id);
                debug_assert!(
                    old.is_none(),
                    "a group is in at most one live slot of each group of speed"
                );
            }
        }
        self.by_ticket.insert(slot.ticket, id);
        self.reserved += slot.length;
        *self.held.entry((slot.cause, slot.group)).or_default() += slot.length;
        *self.of_groups.entry(slot.group).or_default() += slot.length;
        if slot.phase != SlotPhase::Full {
            let load = self.loads.entry((slot.holder, slot.group)).or_default();
            *load = (load.0 + 1, load.1 + slot.length);
        }
        self.live.insert(id, slot);
    }

    pub(super) fn remove(&mut self, id: SlotId) -> Option<Slot> {
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
            for group in indexed(slot.what, piece) {
                self.by_group.remove(&(
                    piece.file,
                    slot.what == BodyKind::Hashes,
                    slot.group,
                    group,
                ));
            }
        }
        self.by_ticket.remove(&slot.ticket);
        self.reserved -= slot.length;
        self.release_held((slot.cause, slot.group), slot.length);
        reduce(&mut self.of_groups, &slot.group, slot.length);
        slot.waiters.values().for_each(|waiter| self.nothing_to_read(waiter));
        Some(slot)
    }

    fn release_held(&mut self, holds: (RequesterKey, SpeedGroup), length: u64) {
        reduce(&mut self.held, &holds, length);
    }

    pub(super) fn enter_cache(&mut self, id: SlotId, now: Moment) {
        let Some(slot) = self.live.get_mut(&id) else { return };
        if slot.cached_since.replace(now).is_none() {
            let holds = (slot.cause, slot.group);
            let length = slot.length;
            self.cache.insert((now, id));
            self.release_held(holds, length);
        }
    }

    pub(super) fn leave_cache(&mut self, id: SlotId) {
        let Some(slot) = self.live.get_mut(&id) else { return };
        if let Some(since) = slot.cached_since.take() {
            self.cache.remove(&(since, id));
            *self.held.entry((slot.cause, slot.group)).or_default() += slot.length;
        }
    }

    /// The holder has done its part, or will not.
    pub(super) fn end_load(&mut self, id: SlotId) {
        let Some(slot) = self.live.get(&id) else { return };
        if slot.phase == SlotPhase::Full {
            return;
        }
        let key = (slot.holder, slot.group);
        if let Some(load) = self.loads.get_mut(&key) {
            *load = (load.0.saturating_sub(1), load.1.saturating_sub(slot.length));
            if load.0 == 0 {
                self.loads.remove(&key);
            }
        }
    }
}

/// Takes bytes from an entry, and the entry away when nothing is left.
fn reduce<K: Ord>(bytes: &mut BTreeMap<K, u64>, key: &K, length: u64) {
    if let Some(left) = bytes.get_mut(key) {
        *left = left.saturating_sub(length);
        if *left == 0 {
            bytes.remove(key);
        }
    }
}
