//! What all machines are made of: time as a number, deadlines in one ordered map, effects in one
//! queue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Milliseconds on the driver's monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment and `ms` more.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if that lies ahead.
    pub fn since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One deadline a key, the earliest first.
#[derive(Debug, Clone)]
pub struct Deadlines<K> {
    by_key: BTreeMap<K, Moment>,
    by_time: BTreeSet<(Moment, K)>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Deadlines<K> {
    /// Sets the key's deadline, in place of an older one.
    pub fn set(&mut self, key: K, at: Moment) {
        if let Some(old) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(old, key.clone()));
        }
        self.by_time.insert((at, key));
    }

    /// Removes the key's deadline, if there is one.
    pub fn clear(&mut self, key: &K) {
        if let Some(old) = self.by_key.remove(key) {
            self.by_time.remove(&(old, key.clone()));
        }
    }

    /// Returns the key's deadline.
    pub fn get(&self, key: &K) -> Option<Moment> {
        self.by_key.get(key).copied()
    }

    /// When to wake next.
    pub fn earliest(&self) -> Option<Moment> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one key whose deadline has come.
    pub fn pop_due(&mut self, now: Moment) -> Option<K> {
        let (at, key) = self.by_time.first()?.clone();
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }

    /// Returns true if nothing is waited for.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

/// Effects of a machine, in order.
#[derive(Debug, Clone)]
pub struct EffectQueue<E>(VecDeque<E>);

impl<E> Default for EffectQueue<E> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<E> EffectQueue<E> {
    /// Appends an effect.
    pub fn push(&mut self, effect: E) {
        self.0.push_back(effect);
    }

    /// Takes the oldest effect.
    pub fn pop(&mut self) -> Option<E> {
        self.0.pop_front()
    }

    /// Returns true if all effects were taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_deadline_and_the_earliest_comes_first() {
        let mut deadlines = Deadlines::default();
        deadlines.set("a", Moment(30));
        deadlines.set("b", Moment(20));
        deadlines.set("a", Moment(10));
        assert_eq!(deadlines.earliest(), Some(Moment(10)));
        assert_eq!(deadlines.pop_due(Moment(5)), None);
        assert_eq!(deadlines.pop_due(Moment(25)), Some("a"));
        deadlines.clear(&"b");
        assert_eq!(deadlines.pop_due(Moment(25)), None);
        assert!(deadlines.is_empty());
    }
}
