//! How the rule of `speed` meets slots: whose upload an ask joins, what of it is kept for those
//! behind, who is told where its group is, and how much room each group has.

use std::collections::BTreeMap;

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::message::JoinAt;
use lanyard_protocol::{FileRef, GroupRange, GroupSpan, RelayToDevice};

use super::requests::{ChunkRequest, Requester};
use super::speed::{Lane, SpeedGroup, SpeedMove, SpeedOwner, SpeedSummary};
use super::*;

/// Files up to this size have no groups of speed: devices fetch them in bundles, and nobody waits
/// for anybody.
const SMALL_BYTES: u64 = 1 << 20;
/// The share of the budget for leftovers of one file: a quarter, the beginning, for who starts a
/// moment later. It is also how far from its group a reader may be and still share its uploads.
const LEFTOVER_PART: u64 = 4;
/// Runs of this length are not split while all readers of a file are alike.
const LEAST_RUN: u64 = 2 << 20;
/// How often blocked asks look whether who they wait for still moves.
const LOOK_AGAIN_MS: u64 = 500;
/// While bodies run the relay reports them twice a second; without its word speeds are looked at
/// after this.
const UNREPORTED_MS: u64 = 900;

/// How often one message may be a reason to walk over all readers of its file: what is left of it
/// then is read where its asker reads. A transfer asks for places that are close to each other.
const WALKS_A_MESSAGE: u32 = 4;

/// Somebody who will want bytes of its group's uploads.
struct AwaitedReader {
    file: FileRef,
    group: SpeedGroup,
    next: u32,
    /// Others wait for it.
    firmly: bool,
}

impl Transfers {
    /// The pieces of an ask by the group of speed that they are read in. The asker becomes a member
    /// where it was none.
    pub(super) fn by_speed(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &ChunkRequest,
    ) -> BTreeMap<SpeedGroup, Vec<GroupSpan>> {
        // One ask is for one large file, or for many small ones: it makes one member at most.
        let first =
            ask.pieces.first().map(|piece| ask.file(piece)).filter(|_| ask.what == BodyKind::Bytes);
        let file =
            first.filter(|file| ask.pieces.iter().all(|piece| piece.file_id == file.file_id));
        let large = file.filter(|file| {
            self.grants.groups(file).is_some_and(|groups| groups.size > SMALL_BYTES)
        });
        let (Some(file), Some(lane), Some(who)) =
            (large, Lane::of(&ask.asker), self.who_asks(cx, &ask.asker))
        else {
            return BTreeMap::from([(SpeedGroup::ALL, ask.pieces.clone())]);
        };
        let mut parts: BTreeMap<SpeedGroup, Vec<GroupSpan>> = BTreeMap::new();
        let mut walks = WALKS_A_MESSAGE;
        for piece in &ask.pieces {
            let group = self.group_of(cx, &file, (lane, who), piece.groups, &mut walks);
            parts.entry(group).or_default().push(*piece);
        }
        parts
    }

    fn who_asks(&self, cx: &Cx<'_>, asker: &Requester) -> Option<SpeedOwner> {
        match asker {
            Requester::Device { session, .. } => {
                cx.sessions.get(*session).map(|s| SpeedOwner::Device(s.identity.public_id))
            }
            Requester::Link { hash, .. } => Some(SpeedOwner::Link(*hash)),
            Requester::Relay => None,
        }
    }

    /// The group in which a lane reads these groups of bytes.
    fn group_of(
        &mut self,
        cx: &mut Cx<'_>,
        file: &FileRef,
        (lane, who): (Lane, SpeedOwner),
        wanted: GroupRange,
        walks: &mut u32,
    ) -> SpeedGroup {
        if let Some(group) = self.speeds.asks_before_its_place(cx.now, file, lane, wanted.first) {
            return group;
        }
        let group = match self.stays(cx, file, lane, wanted.first, walks) {
            Some(group) => group,
            None => {
                *walks = walks.saturating_sub(1);
                let (group, place) = self.choose(cx, file, lane, wanted.first);
                let read =
                    self.speeds.groups_of(cx.now, file).get(&group).map_or(0, |at| at.read_most);
                let is_young = read < self.budget_bytes / LEFTOVER_PART;
                let cap = self.cap_of_unknown(cx, file, lane);
                self.speeds.enter(cx.now, file, (lane, who), group, is_young, cap);
                if let Some(place) = place {
                    self.tell_place(cx, file, lane, place);
                    return group;
                }
                group
            }
        };
        self.speeds.asked(cx.now, file, lane, wanted.end());
        group
    }

    /// How many groups of bytes of a file a part of the budget holds.
    fn reach(&self, file: &FileRef, bytes: u64) -> u32 {
        let log = self
            .grants
            .groups(file)
            .map_or(lanyard_protocol::group::MIN_GROUP_LOG, |groups| groups.group_log);
        u32::try_from(bytes >> log).unwrap_or(u32::MAX).max(1)
    }

    /// The group of a lane, if it reads on in it: that is where these bytes are, or this message
    /// walked over the readers often enough.
    fn stays(
        &self,
        cx: &Cx<'_>,
        file: &FileRef,
        lane: Lane,
        first: u32,
        walks: &mut u32,
    ) -> Option<SpeedGroup> {
        let member = self.speeds.member(file, lane)?;
        let group = member.group;
        let own = member.next;
        let places = [own];
        let own = if member.is_moving(cx.now) { places.as_slice() } else { &[] };
        if *walks == 0 || self.is_there(file, group, own, first) {
            return Some(group);
        }
        *walks -= 1;
        self.work.visit(self.speeds.of_file(file).count());
        let places: Vec<u32> = self.speeds.places(cx.now, file, group).collect();
        self.is_there(file, group, &places, first).then_some(group)
    }

    /// Whether a group of speed is where these bytes are: they are in one of its slots, or some
    /// member is close to them.
    fn is_there(&self, file: &FileRef, group: SpeedGroup, places: &[u32], first: u32) -> bool {
        let reach = self.reach(file, self.budget_bytes / LEFTOVER_PART);
        self.slots.holding(file, BodyKind::Bytes, group, first).is_some()
            || places.iter().any(|next| next.abs_diff(first) <= reach)
    }

    /// Which group a lane reads in from here on, and where that group is if it is elsewhere.
    fn choose(
        &mut self,
        cx: &mut Cx<'_>,
        file: &FileRef,
        lane: Lane,
        first: u32,
    ) -> (SpeedGroup, Option<u32>) {
        self.work.visit(self.speeds.of_file(file).count());
        let own = self.speeds.member(file, lane).map(|member| member.group);
        let is_new = own.is_none();
        let mut others = self.speeds.fitting(cx.now, file, lane);
        others.retain(|(group, _)| Some(*group) != own);
        if let Some((group, _)) =
            others.iter().find(|(group, at)| self.is_there(file, *group, &at.places, first))
        {
            return (*group, None);
        }
        let left = self
            .slots
            .groups_with(file, first)
            .into_iter()
            .filter(|group| *group != SpeedGroup::ALL);
        if let Some(group) = left.filter(|group| !self.speeds.has_members(*group)).max() {
            return (group, None); // what others read before it is still there
        }
        if is_new && matches!(lane, Lane::Transfer(..)) {
            let place = |(group, at): &(SpeedGroup, SpeedSummary)| {
                Some((*group, Some(self.place_of(file, at, first)?)))
            };
            if let Some(found) = others.iter().find_map(place) {
                return found;
            }
        }
        let alone = own.filter(|group| self.speeds.is_alone(file, *group));
        (alone.unwrap_or_else(|| SpeedGroup(cx.number())), None)
    }

    /// Where a group of speed that is ahead can be joined: at the first bytes that some member
    /// still wants.
    fn place_of(&self, file: &FileRef, at: &SpeedSummary, after: u32) -> Option<u32> {
        let count = self.grants.groups(file)?.count();
        at.places.iter().min().copied().filter(|place| *place > after && *place < count)
    }

    fn tell_place(&mut self, cx: &mut Cx<'_>, file: &FileRef, lane: Lane, place: u32) {
        let Lane::Transfer(session, transfer_id) = lane else { return };
        self.speeds.told(cx.now, file, lane, place);
        let message = JoinAt { transfer_id, file_id: file.file_id, group: place };
        cx.send(session, RelayToDevice::JoinAt(message), None);
    }

    /// Takes speeds, moves those who are in the wrong group, and gives each group its room.
    pub(super) fn look_at_speeds(&mut self, cx: &mut Cx<'_>) {
        let units =
            |file: &FileRef| self.grants.groups(file).map_or(0, |groups| 1 << groups.group_log);
        self.speeds.sample(cx.now, units);
        self.queue.kept_waiting.clear();
        for file in self.speeds.files() {
            let behind = self.behind(cx, &file);
            // Sockets hold as much as a quarter of the usual budget, and alike readers differ by
            // it.
            let room = self.budget_bytes / 2;
            let far = |lane: &Lane| behind.get(lane).copied().unwrap_or(0);
            for (lane, way) in self.speeds.moves(cx.now, &file, room, far) {
                self.moves_on(cx, &file, lane, way);
            }
        }
        self.set_caps(cx);
        self.speeds.looked(cx.now);
    }

    /// Without a report of the relay for a while: nobody reads, and some may wait for that.
    pub(super) fn look_unreported(&mut self, cx: &mut Cx<'_>) {
        if cx.now.since(self.speeds.last_look()) >= UNREPORTED_MS {
            self.look_at_speeds(cx);
        }
    }

    /// Bytes by which each member is behind the head of its group, of those for whom something is
    /// kept.
    fn behind(&self, cx: &Cx<'_>, file: &FileRef) -> BTreeMap<Lane, u64> {
        let Some(groups) = self.grants.groups(file) else { return BTreeMap::new() };
        let at = self.speeds.groups_of(cx.now, file);
        let mut behind = BTreeMap::new();
        for (lane, member) in self.speeds.of_file(file) {
            let head = at.get(&member.group).map_or(0, |at| at.head);
            if head > member.next && self.keeps_something(file, member.group, member.next) {
                behind.insert(*lane, u64::from(head - member.next) << groups.group_log);
            }
        }
        behind
    }

    /// Whether what somebody wants next is live, or so close that a budget spans the gap: runs open
    /// out of order, and holes fill.
    fn keeps_something(&self, file: &FileRef, group: SpeedGroup, next: u32) -> bool {
        let reach = self.reach(file, self.budget_bytes);
        self.slots.first_live(file, group, next..next.saturating_add(reach)).is_some()
    }

    /// A member leaves its group: back to a slower one, or forwards. What it asked for and did not
    /// get it asks there.
    fn moves_on(&mut self, cx: &mut Cx<'_>, file: &FileRef, lane: Lane, way: SpeedMove) {
        let Some((old, next)) =
            self.speeds.member(file, lane).map(|member| (member.group, member.next))
        else {
            return;
        };
        let mut fitting = self.speeds.fitting(cx.now, file, lane);
        fitting.retain(|(group, _)| *group != old);
        let near = fitting.iter().find(|(group, at)| self.is_there(file, *group, &at.places, next));
        let near = near.map(|(group, _)| (*group, None));
        let ahead = || {
            let place = |(group, at): &(SpeedGroup, SpeedSummary)| {
                let place = self.place_of(file, at, next)?;
                self.speeds.may_jump(file, lane, place).then_some((*group, Some(place)))
            };
            fitting.iter().find_map(place)
        };
        let (group, place) = match (near.or_else(ahead), way) {
            (Some(found), _) => found,
            (None, SpeedMove::Forward) if self.speeds.is_alone(file, old) => return,
            (None, _) => (SpeedGroup(cx.number()), None),
        };
        let cap = self.cap_of_unknown(cx, file, lane);
        self.speeds.moves_to(file, lane, group, cap);
        if let Some(place) = place {
            self.tell_place(cx, file, lane, place);
        }
        self.ask_in(cx, file, lane, old, group);
    }

    /// Asks in the new group for what a lane did not get in its old one.
    fn ask_in(
        &mut self,
        cx: &mut Cx<'_>,
        file: &FileRef,
        lane: Lane,
        old: SpeedGroup,
        group: SpeedGroup,
    ) {
        let its = |ask: &ChunkRequest| {
            ask.group == old
                && Lane::of(&ask.asker) == Some(lane)
                && ask.pieces.iter().all(|p| ask.file(p) == *file)
        };
        for mut ask in self.queue.take_where(its) {
            ask.group = group;
            self.join_or_wait(cx, ask);
        }
    }

    /// The longest run that is opened for an ask: a part of what first groups may reserve, so that
    /// several fit and slow readers of the same slots do not take all of it, or half of a slower
    /// group's cap. One group of bytes goes in any case.
    pub(super) fn longest_run(&self, ask: &ChunkRequest) -> u64 {
        let budget = self.budget_bytes;
        let caps = self.speeds.caps().min(budget);
        match self.speeds.cap(ask.group) {
            Some(cap) => cap / 2,
            None if caps > 0 => (budget - caps) / 4,
            None => (budget / 8).max(LEAST_RUN),
        }
    }

    /// Returns what a slower group whose speed is not known yet may reserve; `None` if it would be
    /// the only one of its file.
    fn cap_of_unknown(&self, cx: &Cx<'_>, file: &FileRef, lane: Lane) -> Option<u64> {
        let others_known = self.speeds.quickest_beside(cx.now, file, lane).is_some();
        others_known.then(|| self.grants.groups(file).map_or(0, |groups| 2 << groups.group_log))
    }

    fn set_caps(&mut self, cx: &mut Cx<'_>) {
        let units =
            |file: &FileRef| self.grants.groups(file).map_or(0, |groups| 1 << groups.group_log);
        self.speeds.set_caps(cx.now, self.budget_bytes, units);
    }

    /// Members whose next bytes are kept or close, by group of speed; without the asker's own.
    fn awaiting(&self, cx: &Cx<'_>, ask: &ChunkRequest) -> Vec<AwaitedReader> {
        let own = Lane::of(&ask.asker);
        let others = self.speeds.all().filter(|(_, lane, _)| Some(**lane) != own);
        others
            .filter(|(file, _, member)| {
                member.is_moving(cx.now) && self.keeps_something(file, member.group, member.next)
            })
            .map(|(file, _, member)| AwaitedReader {
                file: *file,
                group: member.group,
                next: member.next,
                firmly: member.is_awaited,
            })
            .collect()
    }

    /// Bounds what stays of a large file after it was read to its end and nobody of its group of
    /// speed needs it: the beginning, for who starts a moment later. What one asker reads is gone
    /// as it is read.
    pub(super) fn trim_leftovers(&mut self, cx: &mut Cx<'_>, file: FileRef, group: SpeedGroup) {
        let behind: Vec<u32> = self.speeds.on_the_way(cx.now, &file, group);
        let mut leftovers: Vec<(u32, u64, SlotId)> = Vec::new();
        for id in self.slots.of_file(&file) {
            let Some(slot) = self.slots.get(id).filter(|slot| slot.cached_since.is_some()) else {
                continue;
            };
            let (Some(_), Some(first), Some(last)) =
                (slot.only_file(), slot.pieces.first(), slot.pieces.last())
            else {
                continue;
            };
            if slot.group == group && !behind.iter().any(|next| *next < last.groups.end()) {
                leftovers.push((first.groups.first, slot.length, id));
            }
        }
        leftovers.sort_unstable();
        let most =
            if self.speeds.cap(group).is_some() { 0 } else { self.budget_bytes / LEFTOVER_PART };
        let mut kept = 0;
        for (_, length, id) in leftovers {
            kept += length;
            if kept > most {
                self.drop_slot(cx, id);
            }
        }
    }

    /// Cached slots in the order in which they may go to make room for an ask: what nobody awaits,
    /// then what members of other groups await, or members who have not shown their speed, then
    /// what lies ahead of the ask in its own group, the farthest first. What lies behind it and is
    /// awaited stays, and so does what members of a slower group await, if that group keeps to its
    /// cap.
    pub(super) fn evictable(&self, cx: &Cx<'_>, ask: &ChunkRequest) -> Vec<SlotId> {
        let cached = self.slots.cached();
        let awaiting = self.awaiting(cx, ask);
        if awaiting.is_empty() {
            return cached;
        }
        let first = ask.pieces.first().map(|piece| (ask.file(piece), piece.groups.first));
        let mut ranked: Vec<(u8, u32, SlotId)> = Vec::new();
        for id in cached {
            let Some(slot) = self.slots.get(id) else { continue };
            let needs = |who: &&AwaitedReader| {
                let here =
                    |piece: &SlotSpan| piece.file == who.file && who.next < piece.groups.end();
                who.group == slot.group && slot.pieces.iter().any(here)
            };
            let mut needing = awaiting.iter().filter(needs).peekable();
            let is_awaited = needing.peek().is_some();
            let firmly = needing.any(|who| who.firmly);
            let is_own = slot.group == ask.group;
            let own = slot
                .pieces
                .iter()
                .find(|piece| is_own && first.is_some_and(|(file, _)| file == piece.file));
            let begin = own.map_or(0, |piece| piece.groups.first);
            let is_ahead = own.is_some() && first.is_some_and(|(_, group)| begin > group);
            match (is_awaited, is_own, firmly, is_ahead) {
                (false, ..) => ranked.push((0, 0, id)),
                (true, false, ..) if self.is_within_cap(slot.group) => {}
                (true, false, ..) | (true, true, false, false) => ranked.push((1, 0, id)),
                (true, true, _, true) => ranked.push((2, u32::MAX - begin, id)),
                (true, true, true, false) => {}
            }
        }
        // The sort is stable: within a rank the oldest use goes first.
        ranked.sort_by_key(|(rank, order, _)| (*rank, *order));
        ranked.into_iter().map(|(_, _, id)| id).collect()
    }

    /// Whether a slower group reserves no more than it may: what its members await is safe from
    /// others.
    fn is_within_cap(&self, group: SpeedGroup) -> bool {
        self.speeds.cap(group).is_some_and(|cap| self.slots.reserved_by(group) <= cap)
    }

    /// While somebody is waited for, looks again soon whether it still moves.
    pub(super) fn look_again(&mut self, cx: &mut Cx<'_>) {
        if cx.deadlines.get(&Timer::Transfer(TransferTimer::LookAgain)).is_none()
            && self.queue.len() > 0
            && !self.speeds.is_empty()
        {
            cx.deadlines.set(Timer::Transfer(TransferTimer::LookAgain), cx.now.plus(LOOK_AGAIN_MS));
        }
    }
}
