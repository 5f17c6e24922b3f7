//! Groups of speed: nobody is slowed by a slower one.
//!
//! All who read one large file alike share its uploads; they are a group of speed. The rule, for
//! each file:
//!
//! 1. The *first* groups are those that are as quick as the file's quickest reader, within 10 %. In
//!    a first group the quick ones wait for a member only while it is within 10 % of the quickest
//!    member. In every *slower* group they wait for members within a factor of four: its uploads
//!    are shared more widely, because slow uploads cost the owner longer.
//! 2. A member that was too slow for its group for two seconds, and has fallen back by half of the
//!    budget, moves to a slower group that fits it, or to a new one. Before it is that far behind
//!    it holds nobody up, and readers that are alike differ by what lies in their sockets. Half a
//!    second is enough for a member that is not half as quick and holds others up, or is about to.
//! 3. A member that was too quick for its slower group for two seconds leaves it forwards.
//! 4. Who comes later joins where its group is (`JOIN_AT`) and fetches the beginning afterwards.
//!    Who reads in order and comes later is a group of its own.
//! 5. The budget comes first. Slower groups have caps: what they read in about two seconds, at
//!    least one group of bytes, at most five eighths of the budget together. The rest is the first
//!    groups'.
//!
//! A group's identity is part of each slot, so a slow reader never reads from, and so never holds,
//! a slot that a quick group opened after it left. Speeds are bytes of one file that left the
//! relay, over the time in which the reader was not held up for room. How long an owner takes
//! counts for all members alike.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lanyard_protocol::limits::{MAX_READ_AT_ONCE, STANDING_STILL_MS};
use lanyard_protocol::{DeviceId, FileRef, LinkHash, TransferId};

use super::requests::Requester;
use super::*;

/// Looks are about half a second apart; a shorter time is no sample.
const SAMPLE_MS: u64 = 400;
/// Samples that make a speed sure: two seconds, with looks half a second apart.
const SAMPLES: usize = 4;
/// Two seconds, less what timers are early by.
const SURE_MS: u64 = 1_900;
/// A reader that has not moved for this long is not on its way any more.
const GONE_MS: u64 = 60_000;
/// A reader that was held up for more than this part of a sample (one fifth) keeps its former
/// speed.
const HELD_PART: u64 = 5;
/// The least part (a tenth) of its time that the first sample of a held reader counts as: clocks
/// and reports have a grain, and a shorter time would make a speed of what lies in sockets.
const LEAST_FREE_PART: u64 = 10;
/// A member that left its group for being slow must be quick for two seconds before it returns,
/// then for four, eight, … up to two seconds times 2^6. So whoever alternates its speed holds
/// others up ever more seldom.
const MOST_DOUBLINGS: u32 = 6;
/// How long asks below the place of a `JOIN_AT` may still be on their way.
const HINT_MS: u64 = 1_000;

/// One transfer or one link's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Transfer(SessionId, TransferId),
    Link(LinkReader),
}

impl Lane {
    pub(super) fn of(asker: &Requester) -> Option<Self> {
        match asker {
            Requester::Device { session, transfer } => Some(Self::Transfer(*session, *transfer)),
            Requester::Link { reader, .. } => Some(Self::Link(*reader)),
            Requester::Relay => None,
        }
    }
}

/// The owner of a record that a lane adds to: it outlives transfers, sessions and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SpeedOwner {
    Device(DeviceId),
    Link(LinkHash),
}

/// The identity of a group of speed; never used twice in one life of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpeedGroup(pub u64);

impl SpeedGroup {
    /// Shared by everybody: lists of values, bundles and small files, which nobody waits for.
    pub const ALL: Self = Self(0);
}

/// How fast a reader took bytes lately, in samples of about half a second.
#[derive(Debug, Clone, Default)]
struct SpeedSamples(VecDeque<(u64, u64)>);

impl SpeedSamples {
    /// Adds what a reader took in `ms`, of which it was held up for `held_ms`. A held reader could
    /// not show its speed, unless it took `much` all the same: then that alone is what is known of
    /// it. Where nothing is known yet, the time in which the reader was not held up counts: so the
    /// first look tells it from those that held it up.
    fn add(&mut self, bytes: u64, ms: u64, held_ms: u64, much: u64) {
        let was_held = held_ms * HELD_PART > ms;
        let mut taken_ms = ms;
        match self.rate().filter(|_| was_held) {
            Some(rate) if bytes < much || bytes * 1_000 / ms.max(1) <= rate => return,
            Some(_) => self.0.clear(),
            None if was_held && bytes >= much => {
                taken_ms = ms.saturating_sub(held_ms).max(ms / LEAST_FREE_PART);
            }
            None => {}
        }
        self.0.push_back((bytes, taken_ms));
        if self.0.len() > SAMPLES {
            self.0.pop_front();
        }
    }

    /// Bytes a second; `None` before the first sample.
    fn rate(&self) -> Option<u64> {
        let (bytes, ms) =
            self.0.iter().fold((0, 0), |(bytes, ms), sample| (bytes + sample.0, ms + sample.1));
        (ms > 0).then(|| bytes * 1_000 / ms)
    }

    fn is_sure(&self) -> bool {
        self.0.iter().map(|(_, ms)| ms).sum::<u64>() >= SURE_MS
    }
}

/// One lane on its way through one file.
#[derive(Debug)]
pub(super) struct SpeedMember {
    pub group: SpeedGroup,
    who: SpeedOwner,
    /// The first group of bytes that it has not asked for yet.
    pub next: u32,
    moved: Moment,
    /// Bytes of the file that it took, in all and up to the last sample; how long it was held up
    /// until then.
    pub read: u64,
    read_before: u64,
    held_before: u64,
    sampled: Moment,
    speed: SpeedSamples,
    /// Others wait for it. Who comes later must show its speed before.
    pub is_awaited: bool,
    /// It reads in order: a place to join at means nothing to it.
    in_order: bool,
    /// Where it was told to join, and when; until it asks for that.
    told: Option<(u32, Moment)>,
    /// The first place where it joined: it has, or asked for, what lies behind that.
    joined_at: Option<u32>,
    /// How often it, or who reads, left a group for being slow while others waited for it.
    fell_back: u32,
    /// Looks in a row at which it was as quick as the file's quickest.
    quick_looks: u32,
}

impl SpeedMember {
    fn new(now: Moment, group: SpeedGroup, who: SpeedOwner, held_ms: u64) -> Self {
        Self {
            group,
            who,
            next: 0,
            moved: now,
            read: 0,
            read_before: 0,
            held_before: held_ms,
            sampled: now,
            speed: SpeedSamples::default(),
            is_awaited: false,
            in_order: false,
            told: None,
            joined_at: None,
            fell_back: 0,
            quick_looks: 0,
        }
    }

    pub(super) fn is_moving(&self, now: Moment) -> bool {
        now.since(self.moved) < STANDING_STILL_MS
    }

    /// Bytes a second, if they were measured for two seconds.
    pub(super) fn sure_rate(&self) -> Option<u64> {
        self.speed.rate().filter(|_| self.speed.is_sure())
    }

    /// Whether it lacks what lies at a place and behind it.
    fn lacks(&self, place: u32) -> bool {
        let end = self.joined_at.filter(|joined| self.next < *joined).unwrap_or(u32::MAX);
        (self.next..end).contains(&place)
    }
}

/// A group of speed that has members.
#[derive(Debug, Clone, Default)]
struct SpeedGroupState {
    /// Some member waited for room since the last look.
    is_held: bool,
    /// Bytes that a slower group may reserve; `None` of a first group.
    cap: Option<u64>,
}

/// The speeds of a group's members at one look.
#[derive(Debug, Clone, Copy)]
struct SpeedRange {
    quickest: u64,
    slowest: u64,
}

/// A group of speed at one moment, as its moving members stand.
#[derive(Debug, Default)]
pub(super) struct SpeedSummary {
    members: usize,
    range: Option<SpeedRange>,
    /// The next groups of bytes of its moving members.
    pub places: Vec<u32>,
    /// The farthest of these places.
    pub head: u32,
    /// How much of the file the member that read most has read.
    pub read_most: u64,
}

impl SpeedSummary {
    fn add(&mut self, now: Moment, member: &SpeedMember) {
        self.members += 1;
        self.read_most = self.read_most.max(member.read);
        if !member.is_moving(now) {
            return;
        }
        self.places.push(member.next);
        self.head = self.head.max(member.next);
        if let Some(rate) = member.speed.rate() {
            let range = self.range.unwrap_or(SpeedRange { quickest: rate, slowest: rate });
            self.range = Some(SpeedRange {
                quickest: range.quickest.max(rate),
                slowest: range.slowest.min(rate),
            });
        }
    }

    fn quickest(&self) -> Option<u64> {
        self.range.map(|range| range.quickest)
    }
}

/// How long a lane was held up for room.
#[derive(Debug, Default)]
struct HoldTime {
    since: Option<Moment>,
    ms: u64,
}

impl HoldTime {
    fn until(&self, now: Moment) -> u64 {
        self.ms + self.since.map_or(0, |since| now.since(since))
    }
}

/// Where a member goes at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpeedMove {
    /// To a slower group.
    Back,
    /// Out of a group that is slower than it.
    Forward,
}

#[derive(Debug, Default)]
pub(super) struct Speeds {
    members: BTreeMap<FileRef, BTreeMap<Lane, SpeedMember>>,
    groups: BTreeMap<SpeedGroup, SpeedGroupState>,
    held: BTreeMap<Lane, HoldTime>,
    /// The last known speed of a lane, for the next file of the same transfer.
    known: BTreeMap<Lane, u64>,
    /// How often somebody was waited for and fell back; one less each minute. New transfers do not
    /// begin with a clean record.
    record: BTreeMap<SpeedOwner, u32>,
    /// Bytes that all slower groups together may reserve.
    caps: u64,
    looked: Moment,
    /// Files and transfers in the order in which each session began to read them.
    entered: BTreeMap<SessionId, VecDeque<(FileRef, Lane)>>,
}

impl Speeds {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn last_look(&self) -> Moment {
        self.looked
    }

    pub(super) fn looked(&mut self, now: Moment) {
        self.looked = now;
        self.groups.values_mut().for_each(|group| group.is_held = false);
    }

    fn forget(&mut self, matches: impl Fn(&Lane) -> bool) {
        for members in self.members.values_mut() {
            members.retain(|lane, _| !matches(lane));
        }
        self.held.retain(|lane, _| !matches(lane));
        self.known.retain(|lane, _| !matches(lane));
        self.tidy();
    }

    pub(super) fn forget_session(&mut self, session: SessionId) {
        self.entered.remove(&session);
        self.forget(|lane| matches!(lane, Lane::Transfer(s, _) if *s == session));
    }

    pub(super) fn forget_transfer(&mut self, session: SessionId, transfer: TransferId) {
        self.forget(|lane| *lane == Lane::Transfer(session, transfer));
    }

    pub(super) fn forget_link(&mut self, reader: LinkReader) {
        self.forget(|lane| *lane == Lane::Link(reader));
    }

    /// Drops groups without members, and gives their caps back.
    fn tidy(&mut self) {
        self.members.retain(|_, members| !members.is_empty());
        let of_members: BTreeSet<SpeedGroup> =
            self.all().map(|(_, _, member)| member.group).collect();
        self.groups.retain(|group, _| of_members.contains(group));
        self.caps = self.caps.min(self.groups.values().filter_map(|group| group.cap).sum());
    }

    pub(super) fn sweep(&mut self, now: Moment) {
        for members in self.members.values_mut() {
            members.retain(|_, member| now.since(member.moved) < GONE_MS);
        }
        self.tidy();
        let there: BTreeSet<Lane> = self.all().map(|(_, lane, _)| *lane).collect();
        self.held.retain(|lane, _| there.contains(lane));
        self.known.retain(|lane, _| there.contains(lane));
        self.record.retain(|_, times| {
            *times -= 1;
            *times > 0
        });
    }

    // ── Who is where
    // ────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn files(&self) -> Vec<FileRef> {
        self.members.keys().copied().collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&FileRef, &Lane, &SpeedMember)> {
        self.members.iter().flat_map(|(file, members)| {
            members.iter().map(move |(lane, member)| (file, lane, member))
        })
    }

    pub(super) fn of_file(&self, file: &FileRef) -> impl Iterator<Item = (&Lane, &SpeedMember)> {
        self.members.get(file).into_iter().flatten()
    }

    pub(super) fn member(&self, file: &FileRef, lane: Lane) -> Option<&SpeedMember> {
        self.members.get(file)?.get(&lane)
    }

    fn member_mut(&mut self, file: &FileRef, lane: Lane) -> Option<&mut SpeedMember> {
        self.members.get_mut(file)?.get_mut(&lane)
    }

    fn of_group(&self, file: &FileRef, group: SpeedGroup) -> impl Iterator<Item = &SpeedMember> {
        self.of_file(file).map(|(_, member)| member).filter(move |member| member.group == group)
    }

    /// The groups of speed of a file, from one walk over its readers.
    pub(super) fn groups_of(
        &self,
        now: Moment,
        file: &FileRef,
    ) -> BTreeMap<SpeedGroup, SpeedSummary> {
        let mut groups: BTreeMap<SpeedGroup, SpeedSummary> = BTreeMap::new();
        for (_, member) in self.of_file(file) {
            groups.entry(member.group).or_default().add(now, member);
        }
        groups
    }

    pub(super) fn has_members(&self, group: SpeedGroup) -> bool {
        self.groups.contains_key(&group)
    }

    pub(super) fn is_alone(&self, file: &FileRef, group: SpeedGroup) -> bool {
        self.of_group(file, group).count() == 1
    }

    /// The next groups of bytes of a group's moving members.
    pub(super) fn places(
        &self,
        now: Moment,
        file: &FileRef,
        group: SpeedGroup,
    ) -> impl Iterator<Item = u32> {
        self.of_group(file, group)
            .filter(move |member| member.is_moving(now))
            .map(|member| member.next)
    }

    /// The next groups of bytes of all members that may come back.
    pub(super) fn on_the_way(&self, now: Moment, file: &FileRef, group: SpeedGroup) -> Vec<u32> {
        let members = self.of_group(file, group).filter(|member| now.since(member.moved) < GONE_MS);
        members.map(|member| member.next).collect()
    }

    /// Whether anybody else reads a large file.
    pub(super) fn has_others(&self, lane: Lane) -> bool {
        self.all().any(|(_, other, _)| *other != lane)
    }

    // ── What happens
    // ────────────────────────────────────────────────────────────────────────────────────────────────

    /// An ask for what lies before the place where the lane was told to join, and the group that it
    /// joined: asks of before are still on their way. Later ones mean that it reads in order.
    pub(super) fn asks_before_its_place(
        &mut self,
        now: Moment,
        file: &FileRef,
        lane: Lane,
        first: u32,
    ) -> Option<SpeedGroup> {
        let member = self.member_mut(file, lane)?;
        let (place, since) = member.told?;
        if first >= place {
            member.told = None;
            return None;
        }
        if now.since(since) < HINT_MS {
            return Some(member.group);
        }
        member.told = None;
        member.joined_at = None;
        member.in_order = true;
        member.next = first;
        None
    }

    /// A lane reads a file in a group from here on. In a young group it is waited for at once,
    /// unless it fell back of late.
    pub(super) fn enter(
        &mut self,
        now: Moment,
        file: &FileRef,
        (lane, who): (Lane, SpeedOwner),
        group: SpeedGroup,
        is_young: bool,
        cap: Option<u64>,
    ) {
        let held_ms = self.held.get(&lane).map_or(0, |held| held.until(now));
        if self.member(file, lane).is_none() {
            self.make_room(file, lane);
        }
        let fell_back = self.record.get(&who).copied().unwrap_or(0);
        let members = self.members.entry(*file).or_default();
        let member =
            members.entry(lane).or_insert_with(|| SpeedMember::new(now, group, who, held_ms));
        member.in_order |= matches!(lane, Lane::Link(_));
        member.fell_back = member.fell_back.max(fell_back);
        member.is_awaited |= is_young && member.fell_back == 0;
        member.moved = now;
        self.moves_to(file, lane, group, cap);
    }

    /// One session reads so many files at once at most; of more, the oldest is forgotten.
    fn make_room(&mut self, file: &FileRef, lane: Lane) {
        let Lane::Transfer(session, _) = lane else { return };
        let entered = self.entered.entry(session).or_default();
        entered.push_back((*file, lane));
        if entered.len() > MAX_READ_AT_ONCE
            && let Some((file, lane)) = entered.pop_front()
            && let Some(members) = self.members.get_mut(&file)
        {
            members.remove(&lane);
        }
    }

    /// A member is of another group from here on; a new group has this cap until the next look.
    pub(super) fn moves_to(
        &mut self,
        file: &FileRef,
        lane: Lane,
        group: SpeedGroup,
        cap: Option<u64>,
    ) {
        if let Some(member) = self.member_mut(file, lane) {
            member.group = group;
            member.quick_looks = 0;
        }
        self.groups.entry(group).or_insert_with(|| SpeedGroupState { is_held: false, cap });
        self.tidy();
    }

    pub(super) fn asked(&mut self, now: Moment, file: &FileRef, lane: Lane, next: u32) {
        if let Some(member) = self.member_mut(file, lane) {
            member.next = next;
            member.moved = now;
        }
    }

    /// A lane was told where its group is.
    pub(super) fn told(&mut self, now: Moment, file: &FileRef, lane: Lane, place: u32) {
        if let Some(member) = self.member_mut(file, lane) {
            member.told = Some((place, now));
            member.joined_at = Some(member.joined_at.map_or(place, |joined| joined.min(place)));
            member.next = place;
        }
    }

    /// Whether a lane can go on at a place: it takes hints, and lacks what is there.
    pub(super) fn may_jump(&self, file: &FileRef, lane: Lane, place: u32) -> bool {
        self.member(file, lane)
            .is_some_and(|member| !member.in_order && member.told.is_none() && member.lacks(place))
    }

    /// A reader took bytes of a file.
    pub(super) fn took(&mut self, now: Moment, file: &FileRef, lane: Lane, bytes: u64) {
        let Some(member) = self.member_mut(file, lane).filter(|_| bytes > 0) else { return };
        member.read += bytes;
        member.moved = now;
    }

    /// A lane has nothing to read of a file and waits for room: it is still on its way. `group` is
    /// its group of speed, if that is because others of it take the room.
    pub(super) fn is_held(
        &mut self,
        now: Moment,
        file: &FileRef,
        lane: Lane,
        group: Option<SpeedGroup>,
    ) {
        self.held.entry(lane).or_default().since.get_or_insert(now);
        if let Some(member) = self.member_mut(file, lane) {
            member.moved = now;
        }
        if let Some(group) = group.and_then(|group| self.groups.get_mut(&group)) {
            group.is_held = true;
        }
    }

    /// A lane has something to read, or asks for nothing any more.
    pub(super) fn is_released(&mut self, now: Moment, lane: Lane) {
        if let Some(held) = self.held.get_mut(&lane) {
            held.ms = held.until(now);
            held.since = None;
        }
    }

    // ── The rule
    // ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The speed of a file's quickest reader beside one lane.
    pub(super) fn quickest_beside(&self, now: Moment, file: &FileRef, lane: Lane) -> Option<u64> {
        let others =
            self.of_file(file).filter(|(other, member)| **other != lane && member.is_moving(now));
        others.filter_map(|(_, member)| member.speed.rate()).max()
    }

    /// The groups of a file that a lane may share, the quickest first, and where they are. Whose
    /// speed is not known may try a first one.
    pub(super) fn fitting(
        &self,
        now: Moment,
        file: &FileRef,
        lane: Lane,
    ) -> Vec<(SpeedGroup, SpeedSummary)> {
        let own = self.member(file, lane).and_then(|member| member.speed.rate());
        let rate = own.or_else(|| self.known.get(&lane).copied());
        let fits = |group: SpeedGroup, range: Option<SpeedRange>| {
            let is_first = self.cap(group).is_none();
            match (rate, range, is_first) {
                (None, _, is_first) => is_first,
                (Some(_), None, _) => true,
                (Some(rate), Some(range), true) => {
                    is_alike(rate, range.quickest) && is_alike(range.quickest, rate)
                }
                (Some(rate), Some(range), false) => {
                    range.slowest.min(rate) * 4 >= range.quickest.max(rate)
                }
            }
        };
        let groups = self.groups_of(now, file).into_iter();
        let mut found: Vec<(SpeedGroup, SpeedSummary)> =
            groups.filter(|(group, at)| fits(*group, at.range)).collect();
        found.sort_by_key(|(group, at)| std::cmp::Reverse((at.quickest(), *group)));
        found
    }

    /// Takes a sample of each member's speed. `unit` is the size of a file's groups of bytes.
    pub(super) fn sample(&mut self, now: Moment, unit: impl Fn(&FileRef) -> u64) {
        for (file, members) in &mut self.members {
            for (lane, member) in members {
                let ms = now.since(member.sampled);
                if ms < SAMPLE_MS {
                    continue;
                }
                let held = self.held.get(lane).map_or(0, |held| held.until(now));
                let bytes = member.read - member.read_before;
                let held_ms = held.saturating_sub(member.held_before);
                member.read_before = member.read;
                member.held_before = held;
                member.sampled = now;
                if !member.is_moving(now) && bytes == 0 && member.speed.rate().is_none() {
                    continue; // it has not begun
                }
                member.speed.add(bytes, ms, held_ms.min(ms), 4 * unit(file));
                if let Some(rate) = member.speed.rate().filter(|_| member.is_moving(now)) {
                    self.known.insert(*lane, rate);
                }
            }
        }
    }

    /// Finds who is in the wrong group of a file, and which way it goes. `far` tells how many bytes
    /// a member is behind its group; who is behind by `room` takes room from the others.
    pub(super) fn moves(
        &mut self,
        now: Moment,
        file: &FileRef,
        room: u64,
        far: impl Fn(&Lane) -> u64,
    ) -> Vec<(Lane, SpeedMove)> {
        let groups = self.groups_of(now, file);
        let Some(best) = groups.values().filter_map(SpeedSummary::quickest).max() else {
            return Vec::new();
        };
        let mut moves = Vec::new();
        for (lane, member) in self.members.get_mut(file).into_iter().flatten() {
            let Some((at, range)) = groups.get(&member.group).and_then(|at| Some((at, at.range?)))
            else {
                continue;
            };
            let is_held = self.groups.get(&member.group).is_some_and(|group| group.is_held);
            let is_first = is_alike(range.quickest, best);
            let is_shared = at.members > 1;
            let far = far(lane);
            let situation = Situation { range, best, is_held, is_shared, is_first, far, room };
            let was_awaited = member.is_awaited;
            if let Some(way) = member.judge(&situation) {
                moves.push((*lane, way));
                if way == SpeedMove::Back && was_awaited {
                    let times = self.record.entry(member.who).or_default();
                    *times = (*times + 1).min(MOST_DOUBLINGS);
                }
            }
        }
        moves
    }

    // ── Room
    // ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Returns what a slower group may reserve; `None` of a first group, and of what everybody
    /// shares.
    pub(super) fn cap(&self, group: SpeedGroup) -> Option<u64> {
        self.groups.get(&group)?.cap
    }

    /// Returns what all slower groups together may reserve.
    pub(super) fn caps(&self) -> u64 {
        self.caps
    }

    /// All slower groups.
    pub(super) fn slower(&self) -> impl Iterator<Item = SpeedGroup> {
        self.groups.iter().filter(|(_, group)| group.cap.is_some()).map(|(id, _)| *id)
    }

    /// Tells first groups from slower ones, and gives each slower one its cap: what it reads in two
    /// seconds, or what it has read so far while its speed is not known; the smallest wish first,
    /// until five eighths of the budget are given away.
    pub(super) fn set_caps(&mut self, now: Moment, budget: u64, unit: impl Fn(&FileRef) -> u64) {
        let mut wishes: Vec<(u64, u64, SpeedGroup)> = Vec::new();
        for file in self.files() {
            let groups = self.groups_of(now, &file);
            let best = groups.values().filter_map(SpeedSummary::quickest).max();
            for (id, at) in groups {
                let rate = at.quickest();
                let is_first = match (rate, best) {
                    (Some(rate), Some(best)) => is_alike(rate, best),
                    (None, Some(_)) => false,
                    (_, None) => true,
                };
                let least = unit(&file);
                let wish = rate.map_or(at.read_most, |rate| rate.saturating_mul(2));
                let wish = wish.clamp(2 * least, (budget / 8).max(2 * least));
                match (is_first, self.groups.get_mut(&id)) {
                    (true, Some(group)) => group.cap = None,
                    (false, Some(_)) => wishes.push((wish, least, id)),
                    (_, None) => {}
                }
            }
        }
        wishes.sort_unstable();
        let most = budget / 8 * 5;
        let mut left = most;
        let mut count = wishes.len() as u64;
        for (wish, least, id) in wishes {
            let cap = wish.min(left / count.max(1)).max(least);
            left = left.saturating_sub(cap);
            count -= 1;
            if let Some(group) = self.groups.get_mut(&id) {
                group.cap = Some(cap);
            }
        }
        self.caps = self.groups.values().filter_map(|group| group.cap).sum::<u64>().min(most);
    }
}

/// How a member's group stands at a look.
#[derive(Clone, Copy)]
struct Situation {
    range: SpeedRange,
    /// The speed of the file's quickest reader.
    best: u64,
    is_held: bool,
    is_shared: bool,
    is_first: bool,
    /// Bytes by which the member is behind its group, and those from which on it takes room from
    /// the others.
    far: u64,
    room: u64,
}

impl SpeedMember {
    /// Whether it is in the wrong group, and which way it goes.
    fn judge(&mut self, at: &Situation) -> Option<SpeedMove> {
        let rate = self.speed.rate()?;
        let fits = match at.is_first {
            true => is_alike(rate, at.range.quickest),
            false => rate.saturating_mul(4) >= at.range.quickest,
        };
        self.quick_looks = if is_alike(rate, at.best) { self.quick_looks + 1 } else { 0 };
        let looks = (SAMPLES as u32) << self.fell_back.saturating_sub(1).min(MOST_DOUBLINGS);
        self.is_awaited |=
            fits && (!at.is_first || self.fell_back == 0 || self.quick_looks >= looks);
        let is_far = at.far >= at.room;
        let is_clear = (at.is_held || is_far) && rate.saturating_mul(2) < at.range.quickest;
        let is_behind = self.speed.is_sure() && is_far;
        if at.is_shared && !fits && (is_clear || is_behind) {
            self.fell_back += 1;
            self.is_awaited = false;
            return Some(SpeedMove::Back);
        }
        let is_ahead = at.is_shared && !at.is_first && rate > at.range.slowest.saturating_mul(4);
        let is_quick =
            !at.is_shared && !self.in_order && self.fell_back > 0 && self.quick_looks >= looks;
        (is_ahead || is_quick).then_some(SpeedMove::Forward)
    }
}

/// Whether a speed is within 10 % of another.
fn is_alike(rate: u64, quickest: u64) -> bool {
    rate.saturating_mul(10) >= quickest.saturating_mul(9)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(range: (u64, u64), best: u64) -> Situation {
        let range = SpeedRange { quickest: range.0, slowest: range.1 };
        let is_first = is_alike(range.quickest, best);
        Situation { range, best, is_held: false, is_shared: true, is_first, far: 0, room: 16 * MIB }
    }

    /// A member that took `rate` a second in so many samples of half a second.
    fn member(rate: u64, samples: usize) -> SpeedMember {
        let mut member =
            SpeedMember::new(Moment(0), SpeedGroup(7), SpeedOwner::Link(LinkHash([1; 32])), 0);
        (0..samples).for_each(|_| member.speed.add(rate / 2, 500, 0, MIB));
        member
    }

    #[test]
    fn time_spent_waiting_for_bytes_does_not_count_against_a_reader() {
        let mut speed = SpeedSamples::default();
        speed.add(10 * MIB, 500, 0, MIB);
        (0..8).for_each(|_| speed.add(0, 500, 400, MIB));
        assert_eq!(speed.rate(), Some(20 * MIB), "it was held up for room");
        speed.add(15 * MIB, 500, 400, MIB);
        assert_eq!(speed.rate(), Some(30 * MIB), "it was held up and took more all the same");
        speed.add(MIB / 2, 500, 400, MIB);
        (0..4).for_each(|_| speed.add(5 * MIB, 500, 50, MIB));
        assert_eq!((speed.rate(), speed.is_sure()), (Some(10 * MIB), true));
    }

    #[test]
    fn the_first_sample_of_a_held_reader_counts_the_time_in_which_it_could_read() {
        let first = |bytes, held_ms| {
            let mut speed = SpeedSamples::default();
            speed.add(bytes, 500, held_ms, MIB);
            speed.rate()
        };
        assert_eq!(first(8 * MIB, 400), Some(80 * MIB));
        assert_eq!(first(8 * MIB, 499), Some(160 * MIB), "a tenth of the time at least");
        assert_eq!(first(8 * MIB, 50), Some(16 * MIB), "it was hardly held up");
        assert_eq!(first(MIB / 2, 400), Some(MIB), "too little to tell");
    }

    #[test]
    fn a_reader_in_bursts_is_judged_by_two_seconds() {
        let mut bursts = member(0, 0);
        [4, 0, 0, 0, 4, 0, 0, 0]
            .into_iter()
            .for_each(|mib| bursts.speed.add(mib * MIB, 500, 0, MIB));
        assert_eq!(
            bursts.judge(&Situation { far: 32 * MIB, ..at((2 * MIB, 2 * MIB), 2 * MIB) }),
            None
        );
    }

    #[test]
    fn slower_by_more_than_a_tenth_for_two_seconds_and_far_behind_leaves_a_first_group() {
        let best = 20 * MIB;
        let far = Situation { far: 16 * MIB, ..at((best, MIB), best) };
        assert_eq!(member(18 * MIB, 4).judge(&far), None, "within a tenth");
        assert_eq!(member(17 * MIB, 4).judge(&far), Some(SpeedMove::Back));
        assert_eq!(member(17 * MIB, 2).judge(&far), None, "not sure yet");
        assert_eq!(
            member(17 * MIB, 4).judge(&Situation { far: 10 * MIB, ..far }),
            None,
            "readers with large sockets differ by as much"
        );
        assert_eq!(
            member(17 * MIB, 4).judge(&Situation { is_shared: false, ..far }),
            None,
            "it is alone"
        );
    }

    #[test]
    fn a_reader_below_half_speed_that_holds_others_up_leaves_at_once() {
        let held = Situation { is_held: true, ..at((20 * MIB, MIB), 20 * MIB) };
        assert_eq!(member(9 * MIB, 1).judge(&held), Some(SpeedMove::Back));
        assert_eq!(member(11 * MIB, 1).judge(&held), None);
    }

    #[test]
    fn a_slower_group_is_left_beyond_a_factor_of_four_both_ways() {
        let slower = Situation { far: 16 * MIB, ..at((4 * MIB, MIB), 20 * MIB) };
        assert_eq!(member(MIB, 4).judge(&slower), None);
        assert_eq!(member(MIB - MIB / 8, 4).judge(&slower), Some(SpeedMove::Back));
        assert_eq!(member(4 * MIB, 4).judge(&slower), None);
        assert_eq!(member(5 * MIB, 4).judge(&slower), Some(SpeedMove::Forward));
    }

    #[test]
    fn a_reader_that_fell_back_returns_after_two_seconds_then_four_then_eight() {
        let alone = Situation { is_shared: false, ..at((20 * MIB, 20 * MIB), 20 * MIB) };
        for (fell_back, looks) in [(1, 4), (2, 8), (3, 16), (9, 256)] {
            let mut member = SpeedMember { fell_back, ..member(20 * MIB, 4) };
            assert!((1..looks).all(|_| member.judge(&alone).is_none()));
            assert_eq!(member.judge(&alone), Some(SpeedMove::Forward), "{fell_back}");
        }
    }

    /// Whoever was waited for and fell back is waited for later each time, whatever transfer or
    /// response it reads in.
    #[test]
    fn a_new_transfer_does_not_clear_the_record() {
        let file = file();
        let who = SpeedOwner::Link(LinkHash([1; 32]));
        let mut speeds = Speeds::default();
        let mut now = Moment(0);
        let mut looks_until_awaited = Vec::new();
        for transfer in 0..4 {
            let hostile = Lane::Link(LinkReader(transfer));
            let quick = Lane::Link(LinkReader(100));
            speeds.enter(
                now,
                &file,
                (quick, SpeedOwner::Link(LinkHash([2; 32]))),
                SpeedGroup(5),
                true,
                None,
            );
            speeds.enter(now, &file, (hostile, who), SpeedGroup(5), true, None);
            let mut looks = 0;
            while !speeds.member(&file, hostile).unwrap().is_awaited {
                looks += 1;
                now = now.plus(500);
                [quick, hostile]
                    .into_iter()
                    .for_each(|lane| speeds.took(now, &file, lane, 10 * MIB));
                speeds.sample(now, |_| MIB / 4);
                assert_eq!(speeds.moves(now, &file, 8 * MIB, |_| 0), []);
            }
            looks_until_awaited.push(looks);
            // It stands still, and others are held up.
            now = now.plus(500);
            speeds.took(now, &file, quick, 10 * MIB);
            speeds.asked(now, &file, hostile, 1);
            speeds.sample(now, |_| MIB / 4);
            (0..4)
                .for_each(|_| speeds.member_mut(&file, hostile).unwrap().speed.add(0, 500, 0, MIB));
            speeds.is_held(now, &file, quick, Some(SpeedGroup(5)));
            assert_eq!(speeds.moves(now, &file, 8 * MIB, |_| 0), [(hostile, SpeedMove::Back)]);
            speeds.is_released(now, quick);
            speeds.looked(now);
            speeds.forget_link(LinkReader(transfer));
        }
        assert_eq!(looks_until_awaited, [0, 4, 8, 16]);
    }

    fn file() -> FileRef {
        let public_id = lanyard_protocol::identity::Keypair::from_seed(&[1; 32]).public_id();
        FileRef { public_id, file_id: "6f2d4a0e-1111-4222-8333-444455556666".parse().unwrap() }
    }
}
