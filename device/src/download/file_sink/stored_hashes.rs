//! The hashes of a file's groups that are here. A size is what somebody says: memory is taken for
//! groups that came, not for those that a file would have.

use lanyard_protocol::group::GroupHash;

/// Groups of one page: a group that comes alone takes 2 KiB.
const PAGE: usize = 64;

type HashPage = [Option<GroupHash>; PAGE];

/// Values by the number of their group.
#[derive(Debug)]
pub(super) struct StoredHashes {
    count: usize,
    pages: Vec<Option<Box<HashPage>>>,
    stored: usize,
}

impl StoredHashes {
    /// For a file of so many groups; takes no memory yet.
    pub(super) fn new(count: u32) -> Self {
        Self { count: count as usize, pages: Vec::new(), stored: 0 }
    }

    /// How many groups the file has.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn get(&self, group: u32) -> Option<GroupHash> {
        let group = group as usize;
        self.pages.get(group / PAGE)?.as_ref()?[group % PAGE]
    }

    /// Sets the value of a group, or takes it away, and returns the one before.
    pub(super) fn set(&mut self, group: u32, value: Option<GroupHash>) -> Option<GroupHash> {
        let page = group as usize / PAGE;
        let at = group as usize % PAGE;
        if group as usize >= self.count || (value.is_none() && self.get(group).is_none()) {
            return None;
        }
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let place = &mut self.pages[page].get_or_insert_with(|| Box::new([None; PAGE]))[at];
        let before = std::mem::replace(place, value);
        self.stored = self.stored + usize::from(value.is_some()) - usize::from(before.is_some());
        before
    }

    pub(super) fn clear(&mut self) {
        self.pages.clear();
        self.stored = 0;
    }

    pub(super) fn is_whole(&self) -> bool {
        self.stored == self.count
    }

    /// All of them in order, if none is missing.
    pub(super) fn whole(&self) -> Option<Vec<GroupHash>> {
        let pages = self.is_whole().then_some(&self.pages)?;
        Some(pages.iter().flatten().flat_map(|page| page.iter()).flatten().copied().collect())
    }

    /// Groups that are missing.
    pub(super) fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.count as u32).filter(|group| self.get(*group).is_none())
    }

    /// Groups that are here, in order, each with its value.
    pub(super) fn stored(&self) -> impl Iterator<Item = (u32, GroupHash)> + '_ {
        let numbered = |(page, hashes): (usize, &Option<Box<HashPage>>)| {
            let hashes = hashes.iter().flat_map(|hashes| hashes.iter()).enumerate();
            let numbered =
                hashes.filter_map(move |(at, value)| Some(((page * PAGE + at) as u32, (*value)?)));
            numbered.collect::<Vec<_>>()
        };
        self.pages.iter().enumerate().flat_map(numbered)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Option<Box<HashPage>>>()
            + self.pages.iter().flatten().count() * size_of::<HashPage>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(n: u8) -> GroupHash {
        GroupHash([n; 32])
    }

    #[test]
    fn memory_is_taken_for_groups_that_came_and_not_for_a_claim() {
        let mut hashes = StoredHashes::new(65_536);
        assert_eq!(hashes.bytes(), 0);
        hashes.set(65_535, Some(value(1)));
        assert!(hashes.bytes() < 16 << 10, "{}", hashes.bytes());
        assert_eq!(hashes.stored().collect::<Vec<_>>(), [(65_535, value(1))]);
    }

    #[test]
    fn it_is_whole_when_no_group_is_missing() {
        let mut hashes = StoredHashes::new(130);
        for group in (0..130).rev() {
            assert!(!hashes.is_whole() && hashes.whole().is_none());
            assert_eq!(hashes.set(group, Some(value(group as u8))), None);
        }
        assert_eq!(hashes.set(7, Some(value(7))), Some(value(7)), "known before");
        assert_eq!(hashes.whole().unwrap(), (0..130).map(value).collect::<Vec<_>>());
        assert_eq!(hashes.set(130, Some(value(1))), None, "beyond the end");
        assert_eq!(hashes.set(64, None), Some(value(64)));
        assert_eq!((hashes.missing().collect::<Vec<_>>(), hashes.is_whole()), (vec![64], false));
        hashes.clear();
        assert_eq!((hashes.missing().count(), hashes.stored().count()), (130, 0));
        assert_eq!(StoredHashes::new(0).whole(), Some(vec![]));
    }
}
