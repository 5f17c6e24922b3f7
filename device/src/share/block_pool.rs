//! Buffers for bytes on their way to the relay, used again: a fresh one for each read was a
//! twentieth of the sender's work.

use std::sync::{Arc, Mutex, PoisonError};

/// One read: large enough that threads and system calls do not count, small enough for four at
/// once.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
/// Idle ones that are kept.
const IDLE: usize = 4;

/// Buffers of [`BLOCK_BYTES`].
#[derive(Debug, Default)]
pub(crate) struct BlockPool(Mutex<Vec<Vec<u8>>>);

impl BlockPool {
    pub(crate) fn take(self: &Arc<Self>) -> PooledBlock {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        PooledBlock {
            bytes: idle.unwrap_or_else(|| vec![0; BLOCK_BYTES]),
            filled: 0,
            home: self.clone(),
        }
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(bytes);
        }
    }
}

/// A buffer and how far it is filled; goes home when dropped.
#[derive(Debug)]
pub(crate) struct PooledBlock {
    bytes: Vec<u8>,
    filled: usize,
    home: Arc<BlockPool>,
}

impl PooledBlock {
    /// Bytes that still fit.
    pub(crate) fn room(&self) -> usize {
        BLOCK_BYTES - self.filled
    }

    /// The next `count` bytes, to be filled by the caller; at most [`Block::room`].
    pub(crate) fn next(&mut self, count: usize) -> &mut [u8] {
        let start = self.filled;
        self.filled += count.min(self.room());
        &mut self.bytes[start..self.filled]
    }
}

impl AsRef<[u8]> for PooledBlock {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for PooledBlock {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_shows_what_was_put_into_it_and_comes_back_empty() {
        let blocks = Arc::new(BlockPool::default());
        let mut block = blocks.take();
        block.next(3).copy_from_slice(b"abc");
        block.next(2).copy_from_slice(b"de");
        assert_eq!((block.as_ref(), block.room()), (&b"abcde"[..], BLOCK_BYTES - 5));
        drop(block);
        assert_eq!(blocks.0.lock().unwrap().len(), 1);
        assert_eq!(blocks.take().as_ref(), b"");
    }

    #[test]
    fn only_a_few_idle_ones_are_kept() {
        let blocks = Arc::new(BlockPool::default());
        drop((0..IDLE + 3).map(|_| blocks.take()).collect::<Vec<_>>());
        assert_eq!(blocks.0.lock().unwrap().len(), IDLE);
    }
}
