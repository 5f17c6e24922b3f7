//! What the groups of a file must hash to: the values of a list that merges to a known root, else the first value seen of each
//! group. When all are there the root is known.

use lanyard_protocol::Root;
use lanyard_protocol::group::{GroupValue, Groups};

/// The group values of one version of one file, as far as they are known.
#[derive(Debug)]
pub struct Pins {
    groups: Groups,
    values: Vec<Option<GroupValue>>,
    missing: usize,
    root: Option<Root>,
}

/// What a received group turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// The last missing value: this is what all merge to.
    Complete(Root),
    /// Not the value that was seen, or listed, before.
    Differs,
    /// All values are there, and do not merge to the known root.
    WrongRoot,
}

impl Pins {
    pub fn new(groups: Groups, root: Option<Root>) -> Self {
        let count = groups.count() as usize;
        let mut pins = Self { groups, values: vec![None; count], missing: count, root };
        if let (1, Some(root)) = (count, root) {
            pins.values[0] = Some(GroupValue(root.0)); // of a file of one group the value is the root
            pins.missing = 0;
        }
        pins
    }

    /// The root became known elsewhere.
    pub fn learn_root(&mut self, root: Root) {
        self.root.get_or_insert(root);
    }

    /// Checks a group's value against what is known, or pins it.
    pub fn check(&mut self, group: u32, value: GroupValue) -> Verdict {
        let Some(pin) = self.values.get_mut(group as usize) else { return Verdict::Differs };
        match pin {
            Some(known) if *known == value => return Verdict::Good,
            Some(_) => return Verdict::Differs,
            None => *pin = Some(value),
        }
        self.missing -= 1;
        if self.missing > 0 {
            return Verdict::Good;
        }
        match (self.merge(), self.root) {
            (Some(root), Some(known)) if root != known => Verdict::WrongRoot,
            (Some(root), _) => {
                self.root = Some(root);
                Verdict::Complete(root)
            }
            (None, _) => Verdict::Good,
        }
    }

    fn merge(&self) -> Option<Root> {
        if self.missing > 0 {
            return None;
        }
        self.groups.root_of(self.values.iter().map(|value| value.unwrap_or(GroupValue([0; 32]))))
    }

    /// Takes a holder's list, if it merges to the known root.
    pub fn accept_list(&mut self, list: &[u8]) -> bool {
        let values: Vec<GroupValue> = list.chunks_exact(32).filter_map(|v| v.try_into().ok()).map(GroupValue).collect();
        let merges = self.root.is_some() && self.groups.root(&values) == self.root && list.len() == values.len() * 32;
        if merges {
            self.values = values.into_iter().map(Some).collect();
            self.missing = 0;
        }
        merges
    }

    /// The whole list as a body, if it is complete.
    pub fn list(&self) -> Option<Vec<u8>> {
        let values: Option<Vec<[u8; 32]>> = self.values.iter().map(|value| value.map(|v| v.0)).collect();
        values.map(|values| values.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> (Groups, Vec<GroupValue>) {
        let groups = Groups::of(size);
        let bytes: Vec<u8> = (0..size).map(|i| ((i * 31 + i / 251) % 256) as u8).collect();
        let values = (0..groups.count())
            .map(|g| groups.value(g, &bytes[groups.offset(g) as usize..][..groups.len(g) as usize]))
            .collect();
        (groups, values)
    }

    #[test]
    fn the_first_value_seen_is_the_one_that_counts() {
        let (groups, values) = file(600_000);
        let mut pins = Pins::new(groups, None);
        assert_eq!(pins.check(1, values[1]), Verdict::Good);
        assert_eq!(pins.check(1, values[1]), Verdict::Good);
        assert_eq!(pins.check(1, values[0]), Verdict::Differs);
        assert_eq!(pins.check(0, values[0]), Verdict::Good);
        assert_eq!(pins.check(2, values[2]), Verdict::Complete(groups.root(&values).unwrap()));
        assert_eq!(pins.list().unwrap().len(), 96);
    }

    #[test]
    fn values_that_do_not_merge_to_the_known_root_are_told_before_the_last_byte_leaves() {
        let (groups, values) = file(600_000);
        let mut pins = Pins::new(groups, Some(Root([7; 32])));
        pins.check(0, values[0]);
        pins.check(1, values[1]);
        assert_eq!(pins.check(2, values[2]), Verdict::WrongRoot);
    }

    #[test]
    fn a_list_counts_only_if_it_merges_to_the_root() {
        let (groups, values) = file(600_000);
        let list: Vec<u8> = values.iter().flat_map(|v| v.0).collect();
        let root = groups.root(&values);
        assert!(!Pins::new(groups, None).accept_list(&list));
        assert!(!Pins::new(groups, root).accept_list(&list[..64]));
        let mut pins = Pins::new(groups, root);
        assert!(pins.accept_list(&list));
        assert_eq!(pins.check(0, values[1]), Verdict::Differs);
        let (one, value) = file(5);
        let mut pins = Pins::new(one, one.root(&value));
        assert_eq!(pins.check(0, value[0]), Verdict::Good);
        assert_eq!(pins.check(0, values[0]), Verdict::Differs);
    }
}
