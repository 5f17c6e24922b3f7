//! Groups: the unit of verification. Group hashes are BLAKE3 chaining hashes; merged they give the
//! root that `b3sum` prints (PROTOCOL.md 6). The only module that touches `blake3::hazmat`.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::ids::Root;

/// log2 of the smallest group: 256 KiB.
pub const MIN_GROUP_LOG: u8 = 18;
/// log2 of the largest group: 16 MiB, so a file of 1 TiB has at most 65,536 groups.
pub const MAX_GROUP_LOG: u8 = 24;
/// A file has at most this many groups.
pub const MAX_GROUPS: u64 = 65_536;

/// The BLAKE3 chaining value of one group; the root itself when the file is one group.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupHash(pub [u8; 32]);

impl std::fmt::Debug for GroupHash {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "GroupValue({})", hex::encode(&self.0[..4]))
    }
}

/// The smallest g in 18…24 with `size` ≤ 2^(g+16).
pub fn group_log(size: u64) -> u8 {
    (MIN_GROUP_LOG..MAX_GROUP_LOG).find(|g| size <= 1u64 << (g + 16)).unwrap_or(MAX_GROUP_LOG)
}

/// How a file of some size divides into groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Bytes of the file.
    pub size: u64,
    /// log2 of the bytes of a group.
    pub group_log: u8,
}

impl Groups {
    /// `group_log` as the listing says it.
    pub fn new(size: u64, group_log: u8) -> Self {
        Self { size, group_log }
    }

    /// Returns the groups of a file of `size` bytes by the rule of the wire.
    pub fn of(size: u64) -> Self {
        Self::new(size, group_log(size))
    }

    /// How many there are; none in an empty file.
    pub fn count(&self) -> u32 {
        self.size.div_ceil(1 << self.group_log) as u32
    }

    /// Where group `index` starts in the file.
    pub fn offset(&self, index: u32) -> u64 {
        u64::from(index) << self.group_log
    }

    /// Bytes of group `index`; the last may be short, beyond it 0.
    pub fn len(&self, index: u32) -> u64 {
        self.size.saturating_sub(self.offset(index)).min(1 << self.group_log)
    }

    /// Returns true for a file without bytes, which has no groups.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Bytes of `count` groups from `first`.
    pub fn span(&self, first: u32, count: u32) -> u64 {
        let end = self.size.min((u64::from(first) + u64::from(count)) << self.group_log);
        end.saturating_sub(self.offset(first))
    }

    /// The group that holds byte `offset`.
    pub fn at(&self, offset: u64) -> u32 {
        (offset >> self.group_log) as u32
    }

    /// A hasher for the bytes of group `index`.
    pub fn hasher(&self, index: u32) -> GroupHasher {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(self.offset(index));
        GroupHasher { hasher, is_root: self.count() == 1 }
    }

    /// The value of group `index` whose bytes are `bytes`.
    pub fn value(&self, index: u32, bytes: &[u8]) -> GroupHash {
        let mut hasher = self.hasher(index);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The root that `hashes` (one per group, in order) merge to; `None` when their number is
    /// wrong.
    pub fn root(&self, hashes: &[GroupHash]) -> Option<Root> {
        self.root_of(hashes.iter().copied())
    }

    /// The same of hashes that lie in no slice: a large file has a megabyte of them.
    pub fn root_of(&self, hashes: impl ExactSizeIterator<Item = GroupHash>) -> Option<Root> {
        if hashes.len() != self.count() as usize {
            return None;
        }
        let mut hashes = hashes.peekable();
        match (hashes.len(), hashes.peek()) {
            (0, _) => Some(Root(*blake3::hash(b"").as_bytes())),
            (1, Some(only)) => Some(Root(only.0)),
            _ => merge(hashes),
        }
    }
}

/// Takes the bytes of one group, in any pieces; whole multiples of 128 KiB are hashed fastest.
#[derive(Clone, Debug)]
pub struct GroupHasher {
    hasher: blake3::Hasher,
    is_root: bool,
}

impl GroupHasher {
    /// Takes the next bytes of the group.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Returns the hash of the bytes so far.
    pub fn finish(self) -> GroupHash {
        if self.is_root {
            GroupHash(*self.hasher.finalize().as_bytes())
        } else {
            GroupHash(self.hasher.finalize_non_root())
        }
    }
}

/// Pairs neighbours level by level; an odd last one goes up unchanged. The last pair is hashed with
/// ROOT. Keeps a stack of finished subtrees, each a power of two of groups, the largest at the
/// bottom. `None` for fewer than two.
fn merge(hashes: impl Iterator<Item = GroupHash>) -> Option<Root> {
    let mut stack: Vec<ChainingValue> = Vec::new();
    for (index, value) in hashes.enumerate() {
        // Subtrees are closed only when more follows: the very last pair is the root.
        let mut finished = index;
        while finished > 0 && finished & 1 == 0 {
            let (right, left) = (stack.pop()?, stack.pop()?);
            stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
            finished >>= 1;
        }
        stack.push(value.0);
    }
    let mut right = stack.pop()?;
    loop {
        let left = stack.pop()?;
        if stack.is_empty() {
            return Some(Root(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()));
        }
        right = merge_subtrees_non_root(&left, &right, Mode::Hash);
    }
}
