//! What the groups of a file must hash to: the hashes of a list that merges to a known root, else
//! the first value seen of each group. When all are there the root is known.
//!
//! A table grows with the groups that passed, never with the size that a listing claims. All tables
//! together have a bound; beyond it the one that was not used for longest goes. That costs its file
//! the root until all groups passed once more, and nothing else: a table that begins anew takes the
//! first value of each group again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use lanyard_hub::broker::SlotSpan;
use lanyard_protocol::group::{GroupHash, Groups};
use lanyard_protocol::limits::GROUP_HASHES_MS;
use lanyard_protocol::{FileRef, Root};
use parking_lot::Mutex;

/// Groups of one block of a table: as many as a word has bits.
const BLOCK: u32 = u64::BITS;
/// Bytes of a table and a block beside their hashes: map entries, vectors, indices; generous.
const TABLE_BYTES: usize = 1_024;
const BLOCK_BYTES: usize = 96;

/// The hashes of up to 64 neighbouring groups.
#[derive(Debug, Default)]
struct HashBlock {
    /// One bit for each group that is there; its value stands at the number of bits below it.
    seen: u64,
    hashes: Vec<GroupHash>,
}

impl HashBlock {
    fn place(&self, bit: u32) -> usize {
        (self.seen & ((1 << bit) - 1)).count_ones() as usize
    }

    fn get(&self, bit: u32) -> Option<GroupHash> {
        (self.seen & (1 << bit) != 0).then(|| self.hashes[self.place(bit)])
    }

    fn insert(&mut self, bit: u32, value: GroupHash) {
        let place = self.place(bit);
        self.hashes.insert(place, value);
        self.seen |= 1 << bit;
    }

    fn bytes(&self) -> usize {
        BLOCK_BYTES + self.hashes.capacity() * size_of::<GroupHash>()
    }
}

/// The group hashes of one version of one file, as far as they are known.
#[derive(Debug)]
pub(crate) struct FileHashes {
    groups: Groups,
    blocks: BTreeMap<u32, HashBlock>,
    known: u32,
    root: Option<Root>,
    bytes: usize,
}

/// The result of checking a received group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupVerdict {
    Good,
    /// The last missing value: this is what all merge to.
    Complete(Root),
    /// Not the value that was seen, or listed, before.
    Differs,
    /// All hashes are there, and do not merge to the known root.
    WrongRoot,
}

impl FileHashes {
    pub(crate) fn new(groups: Groups, root: Option<Root>) -> Self {
        let mut hashes =
            Self { groups, blocks: BTreeMap::new(), known: 0, root, bytes: TABLE_BYTES };
        if let (1, Some(root)) = (groups.count(), root) {
            hashes.insert(0, GroupHash(root.0)); // of a file of one group the value is the root
        }
        hashes
    }

    /// The root became known elsewhere.
    pub(crate) fn learn_root(&mut self, root: Root) {
        self.root.get_or_insert(root);
    }

    fn get(&self, group: u32) -> Option<GroupHash> {
        self.blocks.get(&(group / BLOCK))?.get(group % BLOCK)
    }

    fn insert(&mut self, group: u32, value: GroupHash) {
        let before = self.blocks.get(&(group / BLOCK)).map_or(0, HashBlock::bytes);
        let block = self.blocks.entry(group / BLOCK).or_default();
        block.insert(group % BLOCK, value);
        self.bytes += block.bytes() - before;
        self.known += 1;
    }

    fn is_complete(&self) -> bool {
        self.known == self.groups.count()
    }

    /// Checks the hash of a group against the known one, or takes it as the first.
    pub(crate) fn check(&mut self, group: u32, value: GroupHash) -> GroupVerdict {
        if group >= self.groups.count() {
            return GroupVerdict::Differs;
        }
        match self.get(group) {
            Some(known) if known == value => return GroupVerdict::Good,
            Some(_) => return GroupVerdict::Differs,
            None => self.insert(group, value),
        }
        match (self.merge(), self.root) {
            (Some(root), Some(known)) if root != known => GroupVerdict::WrongRoot,
            (Some(root), _) => {
                self.root = Some(root);
                GroupVerdict::Complete(root)
            }
            (None, _) => GroupVerdict::Good,
        }
    }

    fn merge(&self) -> Option<Root> {
        if !self.is_complete() {
            return None;
        }
        self.groups.root_of(
            (0..self.groups.count()).map(|group| self.get(group).unwrap_or(GroupHash([0; 32]))),
        )
    }

    /// Takes a holder's list, if it merges to the known root.
    pub(crate) fn accept_list(&mut self, list: &[u8]) -> bool {
        let hashes: Vec<GroupHash> =
            list.chunks_exact(32).filter_map(|v| v.try_into().ok()).map(GroupHash).collect();
        let merges = self.root.is_some()
            && self.groups.root(&hashes) == self.root
            && list.len() == hashes.len() * 32;
        if merges {
            *self = Self::new(self.groups, self.root);
            for (group, value) in (0..).zip(hashes) {
                if self.get(group).is_none() {
                    self.insert(group, value);
                }
            }
        }
        merges
    }

    /// The whole list as a body, if it is complete.
    pub(crate) fn list(&self) -> Option<Vec<u8>> {
        self.is_complete().then(|| {
            self.blocks.values().flat_map(|block| &block.hashes).flat_map(|value| value.0).collect()
        })
    }
}

/// One table, and when it was last of use.
#[derive(Debug)]
struct CachedTable {
    hashes: FileHashes,
    turn: u64,
    used: Instant,
    /// Its part of the sum of all.
    counted: usize,
}

#[derive(Debug, Default)]
struct HashTables {
    by_file: HashMap<FileRef, CachedTable>,
    /// The same, the least recently used first.
    by_turn: BTreeSet<(u64, FileRef)>,
    turn: u64,
    bytes: usize,
}

/// The tables of all files that are on their way, within a bound in bytes.
#[derive(Debug)]
pub(crate) struct GroupHashes {
    limit: usize,
    tables: Mutex<HashTables>,
}

/// Files whose whole list went with their table: whoever counted on it has to be told.
pub(crate) type LostLists = Vec<FileRef>;

impl GroupHashes {
    /// Tables of at most `limit` bytes together.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, tables: Mutex::default() }
    }

    /// Checks the hash of one group of a piece, or takes it as the first.
    pub(crate) fn check(
        &self,
        piece: &SlotSpan,
        group: u32,
        value: GroupHash,
    ) -> (GroupVerdict, LostLists) {
        self.with(piece, |hashes| hashes.check(group, value))
    }

    /// Takes a holder's list of a piece's file, if it merges to the known root.
    pub(crate) fn accept_list(&self, piece: &SlotSpan, list: &[u8]) -> (bool, LostLists) {
        self.with(piece, |hashes| hashes.accept_list(list))
    }

    /// The whole list of a file, if it is there.
    pub(crate) fn list(&self, file: &FileRef) -> Option<Vec<u8>> {
        self.tables.lock().by_file.get(file)?.hashes.list()
    }

    pub(crate) fn forget(&self, file: &FileRef) {
        self.tables.lock().remove(file);
    }

    /// Bytes that all tables take.
    pub(crate) fn bytes(&self) -> usize {
        self.tables.lock().bytes
    }

    /// Drops tables of files whose owner and askers have all been gone for a minute.
    pub(crate) fn sweep(&self, now: Instant, is_used: impl Fn(&FileRef) -> bool) -> LostLists {
        let mut tables = self.tables.lock();
        let mut old = Vec::new();
        for (file, entry) in &mut tables.by_file {
            if is_used(file) {
                entry.used = now;
            } else if now.duration_since(entry.used) >= Duration::from_millis(GROUP_HASHES_MS) {
                old.push(*file);
            }
        }
        old.into_iter().filter(|file| tables.remove(file)).collect()
    }

    fn with<T>(&self, piece: &SlotSpan, act: impl FnOnce(&mut FileHashes) -> T) -> (T, LostLists) {
        let mut tables = self.tables.lock();
        let answer = act(tables.touch(piece));
        tables.count(&piece.file);
        (answer, tables.shrink(self.limit))
    }
}

impl HashTables {
    /// The table of a piece's file, as the most recently used.
    fn touch(&mut self, piece: &SlotSpan) -> &mut FileHashes {
        self.turn += 1;
        let turn = self.turn;
        let used = Instant::now();
        let entry = self.by_file.entry(piece.file).or_insert_with(|| {
            let hashes = FileHashes::new(Groups::new(piece.size, piece.group_log), piece.root);
            CachedTable { hashes, turn, used, counted: 0 }
        });
        self.by_turn.remove(&(entry.turn, piece.file));
        self.by_turn.insert((turn, piece.file));
        (entry.turn, entry.used) = (turn, used);
        if let Some(root) = piece.root {
            entry.hashes.learn_root(root);
        }
        &mut entry.hashes
    }

    /// Takes the present size of a file's table into the sum.
    fn count(&mut self, file: &FileRef) {
        let Some(entry) = self.by_file.get_mut(file) else { return };
        self.bytes = self.bytes + entry.hashes.bytes - entry.counted;
        entry.counted = entry.hashes.bytes;
    }

    /// Drops a file's table; whether a whole list went with it.
    fn remove(&mut self, file: &FileRef) -> bool {
        let Some(entry) = self.by_file.remove(file) else { return false };
        self.by_turn.remove(&(entry.turn, *file));
        self.bytes -= entry.counted;
        entry.hashes.is_complete()
    }

    /// Drops what was not used for longest until the rest is within the limit. The one that was
    /// just used is the last to go.
    fn shrink(&mut self, limit: usize) -> LostLists {
        let mut lost = Vec::new();
        while self.bytes > limit {
            let Some((_, file)) = self.by_turn.first().copied() else { break };
            if self.remove(&file) {
                lost.push(file);
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> (Groups, Vec<GroupHash>) {
        let groups = Groups::of(size);
        let bytes: Vec<u8> = (0..size).map(|i| ((i * 31 + i / 251) % 256) as u8).collect();
        let hashes = (0..groups.count())
            .map(|g| groups.value(g, &bytes[groups.offset(g) as usize..][..groups.len(g) as usize]))
            .collect();
        (groups, hashes)
    }

    #[test]
    fn the_first_value_seen_is_the_one_that_counts() {
        let (groups, all) = file(600_000);
        let mut hashes = FileHashes::new(groups, None);
        assert_eq!(hashes.check(1, all[1]), GroupVerdict::Good);
        assert_eq!(hashes.check(1, all[1]), GroupVerdict::Good);
        assert_eq!(hashes.check(1, all[0]), GroupVerdict::Differs);
        assert_eq!(hashes.check(0, all[0]), GroupVerdict::Good);
        assert_eq!(hashes.check(2, all[2]), GroupVerdict::Complete(groups.root(&all).unwrap()));
        assert_eq!(hashes.list().unwrap().len(), 96);
    }

    #[test]
    fn values_that_do_not_merge_to_the_known_root_are_told_before_the_last_byte_leaves() {
        let (groups, all) = file(600_000);
        let mut hashes = FileHashes::new(groups, Some(Root([7; 32])));
        hashes.check(0, all[0]);
        hashes.check(1, all[1]);
        assert_eq!(hashes.check(2, all[2]), GroupVerdict::WrongRoot);
    }

    #[test]
    fn a_list_counts_only_if_it_merges_to_the_root() {
        let (groups, all) = file(600_000);
        let list: Vec<u8> = all.iter().flat_map(|v| v.0).collect();
        let root = groups.root(&all);
        assert!(!FileHashes::new(groups, None).accept_list(&list));
        assert!(!FileHashes::new(groups, root).accept_list(&list[..64]));
        let mut hashes = FileHashes::new(groups, root);
        assert!(hashes.accept_list(&list));
        assert_eq!(hashes.check(0, all[1]), GroupVerdict::Differs);
        let (one, value) = file(5);
        let mut hashes = FileHashes::new(one, one.root(&value));
        assert_eq!(hashes.check(0, value[0]), GroupVerdict::Good);
        assert_eq!(hashes.check(0, all[0]), GroupVerdict::Differs);
    }

    fn piece(n: u32, size: u64, root: Option<Root>) -> SlotSpan {
        let owner = lanyard_protocol::identity::Keypair::from_seed(&[1; 32]).public_id();
        let file_id = format!("00000000-0000-4000-8000-{n:012x}").parse().unwrap();
        SlotSpan {
            file: FileRef { public_id: owner, file_id },
            size,
            group_log: Groups::of(size).group_log,
            groups: lanyard_protocol::GroupRange::new(0, 1),
            offset: 0,
            root,
        }
    }

    /// A70: a size is a claim, and costs nothing; what passed does.
    #[test]
    fn a70_two_thousand_files_that_claim_65_536_groups_and_send_the_last_cost_less_than_16_mib() {
        let hashes = GroupHashes::new(usize::MAX);
        for n in 0..2_000 {
            let (verdict, lost) =
                hashes.check(&piece(n, 1 << 34, None), 65_535, GroupHash([7; 32]));
            assert!(verdict == GroupVerdict::Good && lost.is_empty());
        }
        assert!(hashes.bytes() < 16 << 20, "{} bytes", hashes.bytes());
        assert!(hashes.bytes() / 2_000 < 2_048, "{} bytes a table", hashes.bytes() / 2_000);
    }

    #[test]
    fn tables_stay_within_their_limit_and_the_longest_unused_goes_first() {
        let hashes = GroupHashes::new(64 << 10);
        let fill = |n: u32, groups: std::ops::Range<u32>| {
            groups.for_each(|group| {
                hashes.check(&piece(n, 1 << 34, None), group, GroupHash([group as u8; 32]));
                assert!(hashes.bytes() <= 64 << 10, "{} bytes", hashes.bytes());
            });
        };
        fill(1, 0..600);
        fill(2, 0..600);
        fill(1, 0..1);
        fill(3, 0..900);
        let files = |hashes: &GroupHashes| {
            let mut files: Vec<FileRef> = hashes.tables.lock().by_file.keys().copied().collect();
            files.sort_unstable();
            files
        };
        assert_eq!(
            files(&hashes),
            [piece(1, 1, None).file, piece(3, 1, None).file],
            "the second was not used again"
        );
        // One that is larger than all may be goes itself, and begins anew.
        fill(4, 0..5_000);
        assert_eq!(files(&hashes), [piece(4, 1, None).file]);
    }

    /// A table that went costs the root, and accuses nobody.
    #[test]
    fn a_table_that_begins_anew_finds_the_same_file_good_and_its_root_when_all_have_passed() {
        let (groups, all) = file(600_000);
        let root = groups.root(&all).unwrap();
        for known in [None, Some(root)] {
            let hashes = GroupHashes::new(1 << 20);
            let piece = piece(1, 600_000, known);
            assert_eq!(hashes.check(&piece, 0, all[0]).0, GroupVerdict::Good);
            assert_eq!(hashes.check(&piece, 1, all[1]).0, GroupVerdict::Good);
            hashes.forget(&piece.file);
            assert_eq!(hashes.check(&piece, 2, all[2]).0, GroupVerdict::Good);
            assert_eq!(hashes.list(&piece.file), None, "no list without the first groups");
            assert_eq!(hashes.check(&piece, 1, all[1]).0, GroupVerdict::Good);
            assert_eq!(hashes.check(&piece, 0, all[0]).0, GroupVerdict::Complete(root));
            assert_eq!(hashes.list(&piece.file).map(|list| list.len()), Some(96));
        }
    }

    #[test]
    fn a_reader_that_counted_on_a_list_learns_that_it_went() {
        let (groups, all) = file(600_000);
        let list: Vec<u8> = all.iter().flat_map(|v| v.0).collect();
        let listed = piece(1, 600_000, groups.root(&all));
        let hashes = GroupHashes::new(2_000);
        assert_eq!(hashes.accept_list(&listed, &list), (true, vec![]));
        let (_, lost) = hashes.check(&piece(2, 600_000, None), 0, all[0]);
        assert_eq!(lost, [listed.file]);
        assert_eq!(hashes.list(&listed.file), None);
    }

    #[test]
    fn a_table_is_kept_while_it_is_used_and_a_minute_longer() {
        let hashes = GroupHashes::new(1 << 20);
        let here = piece(1, 600_000, None);
        let gone = piece(2, 600_000, None);
        for piece in [&here, &gone] {
            hashes.check(piece, 0, GroupHash([1; 32]));
        }
        let sweep = |after: u64| {
            let now = Instant::now() + Duration::from_millis(after);
            hashes.sweep(now, |file| *file == here.file);
            hashes.tables.lock().by_file.len()
        };
        assert_eq!(sweep(GROUP_HASHES_MS / 2), 2);
        assert_eq!(sweep(GROUP_HASHES_MS + 1_000), 1);
        assert!(hashes.bytes() > 0);
        hashes.forget(&here.file);
        assert_eq!(hashes.bytes(), 0);
        assert!(hashes.tables.lock().by_turn.is_empty());
    }
}
