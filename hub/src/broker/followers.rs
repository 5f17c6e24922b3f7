//! Followers: who is on the way through a file that others read too. What a follower will want next, and can have without
//! asking the owner again, is kept for it while it moves: that is how one upload serves quick and slow askers alike. A
//! quick one then goes at most a budget ahead. Who stands still, or is slower by more than [`TOO_SLOW`], is not waited for.

use std::collections::BTreeMap;

use lanyard_protocol::chunk::What;
use lanyard_protocol::limits::STANDING_STILL_MS;
use lanyard_protocol::{FileRef, TransferId};

use super::asks::{Ask, Asker};
use super::*;

/// A follower that is slower than an asker by more than this factor does not hold it up: it would cost the others more time
/// than one more upload for it alone costs the owner.
const TOO_SLOW: u64 = 32;
/// Paces are of about the last so many bytes.
const RECENT: u64 = 64 << 20;
/// What of the budget one file's leftovers may take.
const LEFTOVER_PART: u64 = 4;
/// Who has not moved for this long is not on its way any more.
const GONE_MS: u64 = 60_000;
/// How often blocked asks look whether who they wait for still moves.
const LOOK_AGAIN_MS: u64 = 500;

/// One transfer or one link's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Transfer(SessionId, TransferId),
    Link(LinkReader),
}

impl Lane {
    pub fn of(asker: &Asker) -> Option<Self> {
        match asker {
            Asker::Device { session, transfer } => Some(Self::Transfer(*session, *transfer)),
            Asker::Link { reader, .. } => Some(Self::Link(*reader)),
            Asker::Relay => None,
        }
    }
}

#[derive(Debug)]
struct Follower {
    file: FileRef,
    /// The first group that it has not asked for yet.
    next: u32,
    moved: Moment,
    pace: Pace,
}

/// How fast a follower reads while it has something to read: what it waits for does not count against it.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    bytes: u64,
    busy_ms: u64,
    busy_until: Moment,
}

impl Pace {
    /// A run of `bytes` was read from `begun` on; runs overlap.
    fn note(&mut self, begun: Moment, now: Moment, bytes: u64) {
        self.busy_ms += now.since(begun.max(self.busy_until));
        self.busy_until = now;
        self.bytes += bytes;
        if self.bytes > RECENT {
            (self.bytes, self.busy_ms) = (self.bytes / 2, self.busy_ms / 2);
        }
    }

    /// Bytes a millisecond; `None` before the first run.
    fn rate(&self) -> Option<u64> {
        (self.bytes > 0).then(|| (self.bytes / self.busy_ms.max(1)).max(1))
    }
}

#[derive(Debug, Default)]
pub(super) struct Followers(BTreeMap<Lane, Follower>);

impl Followers {
    pub fn forget(&mut self, matches: impl Fn(&Lane) -> bool) {
        self.0.retain(|lane, _| !matches(lane));
    }

    pub fn forget_session(&mut self, session: SessionId) {
        self.forget(|lane| matches!(lane, Lane::Transfer(s, _) if *s == session));
    }

    pub fn forget_transfer(&mut self, session: SessionId, transfer: TransferId) {
        self.forget(|lane| *lane == Lane::Transfer(session, transfer));
    }

    pub fn forget_link(&mut self, reader: LinkReader) {
        self.forget(|lane| *lane == Lane::Link(reader));
    }

    pub fn sweep(&mut self, now: Moment) {
        self.0.retain(|_, follower| now.since(follower.moved) < GONE_MS);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A run of a large file was asked for.
    pub fn asked(&mut self, now: Moment, ask: &Ask) {
        let (Some(lane), [piece]) = (Lane::of(&ask.asker), ask.pieces.as_slice()) else { return };
        if ask.what != What::Bytes {
            return;
        }
        let (file, next) = (ask.file(piece), piece.groups.end());
        let pace = self.0.get(&lane).filter(|old| old.file == file).map(|old| old.pace).unwrap_or_default();
        self.0.insert(lane, Follower { file, next, moved: now, pace });
    }

    /// The next groups of those who are on their way through a file.
    fn behind(&self, now: Moment, file: &FileRef) -> Vec<u32> {
        let moving = |follower: &&Follower| follower.file == *file && now.since(follower.moved) < GONE_MS;
        self.0.values().filter(moving).map(|follower| follower.next).collect()
    }

    /// A run of `bytes` that could be read from `begun` on was read.
    pub fn took(&mut self, now: Moment, asker: &Asker, bytes: u64, begun: Moment) {
        let Some(follower) = Lane::of(asker).and_then(|lane| self.0.get_mut(&lane)) else { return };
        follower.moved = now;
        follower.pace.note(begun, now, bytes);
    }
}

impl Broker {
    /// Who an asker of this file must not run away from: they move, are not too slow for it, and are close behind what is
    /// live, so that they need no upload of their own. Each as the first group that it has not asked for.
    fn awaiting(&self, now: Moment, ask: &Ask) -> Vec<(FileRef, u32)> {
        let own = Lane::of(&ask.asker);
        let pace = own.and_then(|lane| self.followers.0.get(&lane)).and_then(|follower| follower.pace.rate());
        let keeps_up = |follower: &Follower| match (follower.pace.rate(), pace) {
            (Some(its), Some(ours)) => its.saturating_mul(TOO_SLOW) >= ours,
            _ => true,
        };
        let others = self.followers.0.iter().filter(|(lane, _)| Some(**lane) != own);
        others
            .map(|(_, follower)| follower)
            .filter(|follower| now.since(follower.moved) < STANDING_STILL_MS)
            .filter(|follower| keeps_up(follower))
            .filter(|follower| self.is_near(follower))
            .map(|follower| (follower.file, follower.next))
            .collect()
    }

    /// Of what of a large file was read to its end, only so much stays that nobody on the way through the file needs: the
    /// beginning, for who starts a moment later. What one asker reads is gone as it is read.
    pub(super) fn trim_leftovers(&mut self, now: Moment, file: FileRef) {
        let behind: Vec<u32> = self.followers.behind(now, &file);
        let mut leftovers: Vec<(u32, u64, SlotId)> = Vec::new();
        for id in self.slots.of_file(&file) {
            let Some(slot) = self.slots.get(id).filter(|slot| slot.cached_since.is_some()) else { continue };
            let (Some(_), Some(first), Some(last)) = (slot.only_file(), slot.pieces.first(), slot.pieces.last()) else {
                continue;
            };
            if !behind.iter().any(|next| *next < last.groups.end()) {
                leftovers.push((first.groups.first, slot.length, id));
            }
        }
        leftovers.sort_unstable();
        let (most, mut kept) = (self.config.budget_bytes / LEFTOVER_PART, 0);
        for (_, length, id) in leftovers {
            kept += length;
            if kept > most {
                self.drop_slot(id);
            }
        }
    }

    /// Whether what it wants next is live, or so close that a budget spans the gap: runs open out of order, and holes fill.
    fn is_near(&self, follower: &Follower) -> bool {
        let Some(groups) = self.grants.groups(&follower.file) else { return false };
        let reach = u32::try_from(self.config.budget_bytes >> groups.group_log).unwrap_or(u32::MAX);
        self.slots.has_any(&follower.file, follower.next..follower.next.saturating_add(reach))
    }

    /// Cached slots in the order in which they may go to make room for an ask: what nobody awaits, then what is awaited by
    /// followers of other files, then what lies ahead of the ask in its own file, the farthest first. What lies behind it
    /// and is awaited stays.
    pub(super) fn evictable(&self, now: Moment, ask: &Ask) -> Vec<SlotId> {
        let cached = self.slots.cached();
        let awaiting = self.awaiting(now, ask);
        if awaiting.is_empty() {
            return cached;
        }
        let place = ask.pieces.first().map(|piece| (ask.file(piece), piece.groups.first));
        let mut ranked: Vec<(u8, u32, SlotId)> = Vec::new();
        for id in cached {
            let Some(slot) = self.slots.get(id) else { continue };
            let is_awaited = slot
                .pieces
                .iter()
                .any(|piece| awaiting.iter().any(|(file, next)| *file == piece.file && *next < piece.groups.end()));
            let own = slot.pieces.iter().find(|piece| place.is_some_and(|(file, _)| file == piece.file));
            let first = own.map_or(0, |piece| piece.groups.first);
            let ahead = own.is_some() && place.is_some_and(|(_, group)| first > group);
            match (is_awaited, own.is_some(), ahead) {
                (false, _, _) => ranked.push((0, 0, id)),
                (true, false, _) => ranked.push((1, 0, id)),
                (true, true, true) => ranked.push((2, u32::MAX - first, id)),
                (true, true, false) => {}
            }
        }
        // The sort is stable: within a rank the oldest use goes first.
        ranked.sort_by_key(|(rank, order, _)| (*rank, *order));
        ranked.into_iter().map(|(_, _, id)| id).collect()
    }

    /// While somebody is waited for, looks again soon whether it still moves.
    pub(super) fn look_again(&mut self, now: Moment) {
        if self.deadlines.get(&Timer::LookAgain).is_none() && self.queue.len() > 0 && !self.followers.is_empty() {
            self.deadlines.set(Timer::LookAgain, now.plus(LOOK_AGAIN_MS));
        }
    }
}
