//! A feed's order: which entry changed at which revision, what is gone, and where a page ends.
//!
//! Knows keys and revisions only. Its owner knows what an entry looks like and who may see it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Bound;
use std::str::FromStr;

use lanyard_protocol::limits::{MAX_CURSOR_CHARS, MAX_REMOVALS};
use lanyard_protocol::{FeedMode, Resume};

/// Says whether an entry is there, or that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyState {
    Listed,
    Gone,
}

/// Place of an entry in the order of pages. `None` lies before all keys of the revision.
type Place<K> = (u64, Option<K>);

/// Holds every key once, at the revision of its last change. Removals have an order of their own,
/// so that a page never walks over those that it does not tell.
///
/// The order of keys is that of pages within one revision; their text goes into cursors and holds
/// nothing but what survives a split at the first four dots.
#[derive(Debug)]
pub(crate) struct Feed<K> {
    epoch: u64,
    revision: u64,
    /// Revision behind which changes wait for the disk.
    held_at: Option<u64>,
    last: BTreeMap<K, u64>,
    listed: BTreeSet<Place<K>>,
    gone: BTreeSet<Place<K>>,
    /// Removals up to this revision are forgotten: a delta can start here, not before.
    floor: u64,
    /// The last revision that took the place of something told before it.
    replaced: u64,
    max_gone: usize,
    /// Entries that pages looked at.
    #[cfg(test)]
    pub(crate) visited: std::cell::Cell<usize>,
}

impl<K: Copy + Ord> Feed<K> {
    /// Continues from the head that was saved. Removals before it are not known.
    pub(crate) fn starting_at(head: Resume) -> Self {
        Self {
            epoch: head.epoch,
            revision: head.revision,
            held_at: None,
            last: BTreeMap::new(),
            listed: BTreeSet::new(),
            gone: BTreeSet::new(),
            floor: head.revision,
            replaced: 0,
            max_gone: MAX_REMOVALS,
            #[cfg(test)]
            visited: Default::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn remember_at_most(&mut self, max_gone: usize) {
        self.max_gone = max_gone;
    }

    /// Identifies this life of the feed.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the number of the last change, told or not.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Counts one more change.
    pub(crate) fn advance(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// Holds back what comes after this revision; `None` tells all.
    pub(crate) fn hold(&mut self, at: Option<u64>) {
        self.held_at = at;
    }

    /// Returns true while changes are held back.
    pub(crate) fn is_held(&self) -> bool {
        self.held_at.is_some()
    }

    /// Returns the revision that pages tell of: the newest, or while changes are held back the last
    /// before them. The list as it was then can be told only if it has grown since.
    pub(crate) fn told(&self) -> u64 {
        self.held_at.filter(|at| self.replaced <= *at).unwrap_or(self.revision)
    }

    /// Lists the key; returns the revision of its removal, if it was gone.
    pub(crate) fn list(&mut self, key: K, revision: u64) -> Option<u64> {
        let was_gone = self.replace(&key, revision);
        self.last.insert(key, revision);
        self.listed.insert((revision, Some(key)));
        was_gone
    }

    /// Forgets how the list came to what it was at this revision: no delta starts before it.
    pub(crate) fn raise_floor(&mut self, revision: u64) {
        self.floor = self.floor.max(revision);
    }

    /// Takes the key off the list and remembers the removal.
    pub(crate) fn remove(&mut self, key: K, revision: u64) {
        self.replace(&key, revision);
        self.last.insert(key, revision);
        self.gone.insert((revision, Some(key)));
        while self.gone.len() > self.max_gone {
            if let Some((revision, Some(oldest))) = self.gone.pop_first() {
                self.last.remove(&oldest);
                self.raise_floor(revision);
            }
        }
    }

    /// Drops the key without a trace: something else says that it is gone.
    pub(crate) fn forget(&mut self, key: K) {
        self.clear(&key);
    }

    /// The same as [`Feed::clear`], by this revision.
    fn replace(&mut self, key: &K, revision: u64) -> Option<u64> {
        if self.last.contains_key(key) {
            self.replaced = self.replaced.max(revision);
        }
        self.clear(key)
    }

    /// Drops the key; returns the revision of its removal, if it was gone.
    fn clear(&mut self, key: &K) -> Option<u64> {
        let at = self.last.remove(key)?;
        self.listed.remove(&(at, Some(*key)));
        self.gone.remove(&(at, Some(*key))).then_some(at)
    }

    fn reaches_back_to(&self, revision: u64) -> bool {
        revision >= self.floor
    }

    /// Begins a pull from `held`; `None`: nothing changed since.
    pub(crate) fn pull(&self, held: Resume) -> Option<PullCursor<K>> {
        let told = self.told();
        let same_epoch = held.epoch == self.epoch && held.revision <= told;
        if same_epoch && held.revision == told {
            return None;
        }
        if same_epoch && self.reaches_back_to(held.revision) {
            return Some(PullCursor { mode: FeedMode::Delta, low: held.revision, after: None });
        }
        Some(PullCursor { mode: FeedMode::Snapshot, low: told, after: None })
    }

    /// Returns true if the pull of this cursor can go on: its history is still here.
    pub(crate) fn can_continue(&self, epoch: u64, pull: &PullCursor<K>) -> bool {
        epoch == self.epoch && self.reaches_back_to(pull.low) && pull.low <= self.told()
    }

    /// Iterates over what a pull has still to say, in order, up to this revision.
    pub(crate) fn rest<'a>(
        &'a self,
        pull: &PullCursor<K>,
        up_to: u64,
    ) -> impl Iterator<Item = (u64, K, KeyState)> + 'a {
        let after_low = Bound::Included((pull.low + 1, None));
        let place = pull.after.map(|(revision, key)| (revision, Some(key)));
        let from = match place {
            Some(place) => Bound::Excluded(place),
            None if pull.mode == FeedMode::Delta => after_low,
            None => Bound::Unbounded,
        };
        let removals_from = match place {
            Some(place) if place.0 > pull.low => Bound::Excluded(place),
            Some(_) | None => after_low,
        };
        let mut listed = self.listed.range((from, Bound::Unbounded)).copied().peekable();
        let mut gone = self.gone.range((removals_from, Bound::Unbounded)).copied().peekable();
        let next = move || {
            let is_removal = match (listed.peek(), gone.peek()) {
                (Some(entry), Some(removal)) => removal < entry,
                (entry, removal) => entry.is_none() && removal.is_some(),
            };
            #[cfg(test)]
            self.visited.set(self.visited.get() + 1);
            let (place, state) = if is_removal {
                (gone.next()?, KeyState::Gone)
            } else {
                (listed.next()?, KeyState::Listed)
            };
            Some((place.0, place.1?, state))
        };
        std::iter::from_fn(next).take_while(move |(revision, ..)| *revision <= up_to)
    }
}

/// One pull, as its cursor remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PullCursor<K> {
    mode: FeedMode,
    /// Sends removals after this revision. In a delta it is the requester's own revision. In a
    /// snapshot it is the head at its beginning: an entry may go between two pages.
    low: u64,
    after: Option<(u64, K)>,
}

impl<K: Display + FromStr> PullCursor<K> {
    pub(crate) fn mode(&self) -> FeedMode {
        self.mode
    }

    /// Returns the revision that a delta starts from; a snapshot has none.
    pub(crate) fn since(&self) -> Option<u64> {
        (self.mode == FeedMode::Delta).then_some(self.low)
    }

    /// Writes the cursor of the next page, after this entry. The feed's epoch goes into it: the
    /// pull that it continues may have started with none.
    pub(crate) fn cursor(&self, epoch: u64, after: (u64, K)) -> String {
        let mode = if self.mode == FeedMode::Delta { 'd' } else { 's' };
        let (revision, key) = after;
        let cursor = format!("{mode}.{epoch}.{}.{revision}.{key}", self.low);
        debug_assert!(cursor.len() <= MAX_CURSOR_CHARS);
        cursor
    }

    /// Reads the epoch and the pull from a cursor.
    pub(crate) fn parse(cursor: &str) -> Option<(u64, Self)> {
        let mut parts = cursor.splitn(5, '.');
        let mode = match parts.next()? {
            "d" => FeedMode::Delta,
            "s" => FeedMode::Snapshot,
            _ => return None,
        };
        let epoch = parts.next()?.parse().ok()?;
        let low = parts.next()?.parse().ok()?;
        let revision = parts.next()?.parse().ok()?;
        let key = parts.next()?.parse().ok()?;
        Some((epoch, Self { mode, low, after: Some((revision, key)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Resume = Resume { epoch: 3, revision: 0 };

    /// A room of the future has other keys than members and files: the feed does not care.
    #[test]
    fn a_feed_of_other_keys_tells_what_changed_and_goes_on_where_a_page_ended() {
        let mut feed: Feed<u32> = Feed::starting_at(HEAD);
        for key in [5, 3, 9] {
            let revision = feed.advance();
            assert_eq!(feed.list(key, revision), None);
        }
        let removal = feed.advance();
        feed.remove(3, removal);
        let told = |pull: &PullCursor<u32>| -> Vec<(u64, u32, KeyState)> {
            feed.rest(pull, feed.told()).collect()
        };
        let pull = feed.pull(Resume { epoch: 3, revision: 1 }).unwrap();
        assert_eq!(told(&pull), [(3, 9, KeyState::Listed), (4, 3, KeyState::Gone)]);
        let cursor = pull.cursor(feed.epoch(), (3, 9));
        let (epoch, next) = PullCursor::<u32>::parse(&cursor).unwrap();
        assert!(feed.can_continue(epoch, &next));
        assert!(!feed.can_continue(epoch + 1, &next), "another life of the feed");
        assert_eq!(told(&next), [(4, 3, KeyState::Gone)]);
        assert_eq!(feed.pull(Resume { epoch: 3, revision: 4 }), None, "nothing changed");
        let snapshot = feed.pull(Resume::default()).unwrap();
        assert_eq!(snapshot.mode(), FeedMode::Snapshot);
        assert_eq!(told(&snapshot), [(1, 5, KeyState::Listed), (3, 9, KeyState::Listed)]);
    }

    #[test]
    fn forgotten_removals_move_the_floor() {
        let mut feed: Feed<u32> = Feed::starting_at(HEAD);
        feed.remember_at_most(2);
        for n in 1..=3 {
            feed.remove(n as u32, n);
        }
        assert!(!feed.reaches_back_to(0));
        assert!(feed.reaches_back_to(1));
        assert_eq!(feed.gone.len(), 2);
        assert_eq!(feed.last.len(), 2);
    }
}
