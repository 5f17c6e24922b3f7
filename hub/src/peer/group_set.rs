//! A set of groups of one file, kept as runs: a file of 65,536 groups that came in order is one
//! entry.

use std::collections::BTreeMap;

use lanyard_protocol::GroupRange;
use lanyard_protocol::group::Groups;

/// Group numbers as disjoint, non-touching runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupSet {
    /// First → one past the last.
    runs: BTreeMap<u32, u32>,
    len: u32,
}

impl GroupSet {
    /// All groups from 0 to `count` - 1.
    pub fn full(count: u32) -> Self {
        let mut set = Self::default();
        set.insert(GroupRange::new(0, count));
        set
    }

    /// How many groups are in it.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Returns true if there is no group in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns true if the group is in it.
    pub fn contains(&self, group: u32) -> bool {
        self.runs.range(..=group).next_back().is_some_and(|(_, end)| group < *end)
    }

    /// The runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = GroupRange> + '_ {
        self.runs.iter().map(|(first, end)| GroupRange::new(*first, end - first))
    }

    /// The first run.
    pub fn first(&self) -> Option<GroupRange> {
        self.runs().next()
    }

    /// Returns the part at or beyond a group, of the first run that reaches beyond it.
    pub fn first_from(&self, group: u32) -> Option<GroupRange> {
        let around = self.runs.range(..=group).next_back().filter(|(_, end)| **end > group);
        let (first, end) = around.or_else(|| self.runs.range(group..).next())?;
        let first = (*first).max(group);
        Some(GroupRange::new(first, end - first))
    }

    /// Adds the groups of the range.
    pub fn insert(&mut self, range: GroupRange) {
        let (mut first, mut end) = (range.first, range.end());
        if first == end {
            return;
        }
        // Swallows every run that overlaps or touches.
        while let Some((at, until)) =
            self.runs.range(..=end).next_back().map(|(at, until)| (*at, *until))
        {
            if until < first {
                break;
            }
            self.runs.remove(&at);
            self.len -= until - at;
            first = first.min(at);
            end = end.max(until);
        }
        self.runs.insert(first, end);
        self.len += end - first;
    }

    /// Takes the groups of the range out.
    pub fn remove(&mut self, range: GroupRange) {
        let (first, end) = (range.first, range.end());
        if first == end {
            return;
        }
        while let Some((at, until)) =
            self.runs.range(..end).next_back().map(|(at, until)| (*at, *until))
        {
            if until <= first {
                break;
            }
            self.runs.remove(&at);
            self.len -= until - at;
            self.put_back(at, first.max(at));
            self.put_back(end.min(until), until);
        }
    }

    fn put_back(&mut self, first: u32, end: u32) {
        if first < end {
            self.runs.insert(first, end);
            self.len += end - first;
        }
    }

    /// The parts of `range` that are not in the set. Looks at the runs that touch it, and no
    /// others.
    pub fn gaps(&self, range: GroupRange) -> Vec<GroupRange> {
        let mut gaps = GroupSet::default();
        gaps.insert(range);
        for (first, end) in
            self.runs.range(..range.end()).rev().take_while(|(_, end)| **end > range.first)
        {
            #[cfg(test)]
            super::testing::visit();
            gaps.remove(GroupRange::new(*first, end - first));
        }
        gaps.runs().collect()
    }

    /// Bytes of its groups in a file that divides so. However many runs it has, this looks at one.
    pub fn bytes(&self, groups: Groups) -> u64 {
        let Some(last) = groups.count().checked_sub(1) else { return 0 };
        let whole = u64::from(self.len) << groups.group_log;
        let short = (1 << groups.group_log) - groups.len(last);
        if self.contains(last) { whole - short } else { whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, end: u32) -> GroupRange {
        GroupRange::new(first, end - first)
    }

    fn runs(set: &GroupSet) -> Vec<(u32, u32)> {
        set.runs().map(|run| (run.first, run.end())).collect()
    }

    #[test]
    fn neighbours_become_one_run() {
        let mut set = GroupSet::default();
        for part in [range(4, 6), range(0, 2), range(2, 3), range(8, 9), range(3, 8)] {
            set.insert(part);
        }
        assert_eq!((runs(&set), set.len()), (vec![(0, 9)], 9));
    }

    #[test]
    fn the_first_from_a_group_on_may_begin_within_a_run() {
        let mut set = GroupSet::default();
        set.insert(range(2, 5));
        set.insert(range(8, 9));
        for (group, found) in
            [(0, Some(range(2, 5))), (3, Some(range(3, 5))), (5, Some(range(8, 9))), (9, None)]
        {
            assert_eq!(set.first_from(group), found, "{group}");
        }
    }

    #[test]
    fn taking_out_splits() {
        let mut set = GroupSet::full(10);
        set.remove(range(3, 5));
        set.remove(range(9, 20));
        assert_eq!((runs(&set), set.len()), (vec![(0, 3), (5, 9)], 7));
        assert!(set.contains(5) && !set.contains(4) && !set.contains(9));
        assert_eq!(set.gaps(range(2, 6)), [range(3, 5)]);
        set.remove(range(0, 10));
        assert!(set.is_empty());
    }

    /// Every second group of a large file is here: what is asked of one group costs one look, not
    /// one a run.
    #[test]
    fn work_on_a_set_with_holes_does_not_grow_with_them() {
        const RUNS: u32 = 20_000;
        let mut set = GroupSet::default();
        (0..RUNS).for_each(|n| set.insert(GroupRange::new(2 * n, 1)));
        crate::peer::testing::visited();
        for n in 0..RUNS {
            assert_eq!(set.gaps(range(2 * n, 2 * n + 2)), [range(2 * n + 1, 2 * n + 2)]);
        }
        assert!(crate::peer::testing::visited() <= 2 * RUNS as usize);
    }

    #[test]
    fn its_bytes_are_those_of_its_groups() {
        for size in [0, 1, 1 << 18, (1 << 18) + 1, 5 << 18] {
            let groups = Groups::of(size);
            for first in 0..groups.count() {
                let mut set = GroupSet::full(groups.count());
                set.remove(range(0, first));
                assert_eq!(
                    set.bytes(groups),
                    set.runs().map(|run| groups.span(run.first, run.count)).sum::<u64>()
                );
            }
            assert_eq!(GroupSet::full(groups.count()).bytes(groups), size);
        }
    }

    #[test]
    fn it_agrees_with_a_plain_set_of_numbers() {
        let mut ids = crate::IdSource::new([3; 32]);
        let (mut set, mut plain) = (GroupSet::default(), std::collections::BTreeSet::new());
        for _ in 0..2_000 {
            let first = ids.below(60) as u32;
            let part = range(first, first + ids.below(12) as u32);
            if ids.below(2) == 0 {
                set.insert(part);
                plain.extend(part.iter());
            } else {
                set.remove(part);
                plain.retain(|group| !part.contains(*group));
            }
            assert_eq!(set.len() as usize, plain.len());
            assert!((0..80).all(|group| set.contains(group) == plain.contains(&group)));
            let runs = runs(&set);
            assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "{runs:?}");
        }
    }
}
