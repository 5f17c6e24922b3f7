//! Buffers of one size for received bytes, used again. The general allocator kept a third more than
//! the slots' budget after a while of large buffers coming and going (measured with two threads);
//! this keeps none but a few idle ones.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// BLAKE3 is fastest on at least 128 KiB; hyper's own frames would pin the larger buffers that they
/// are slices of.
pub(crate) const SEGMENT: usize = 256 * 1024;
/// Idle buffers that are kept: 2 MiB.
const IDLE: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct BufferPool(Mutex<Vec<Vec<u8>>>);

impl BufferPool {
    /// An empty buffer of [`SEGMENT`] bytes; for fewer bytes to come one that grows with them, or
    /// many small bodies would take far more than they reserved.
    pub(crate) fn take(self: &Arc<Self>, to_come: u64) -> PoolBuffer {
        let bytes = match to_come {
            few if few < SEGMENT as u64 / 2 => Vec::new(),
            _ => self.0.lock().pop().unwrap_or_else(|| Vec::with_capacity(SEGMENT)),
        };
        PoolBuffer { bytes, pool: self.clone() }
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        let mut idle = self.0.lock();
        if idle.len() < IDLE {
            bytes.clear();
            idle.push(bytes);
        }
    }
}

/// Bytes that are being collected.
#[derive(Debug)]
pub(crate) struct PoolBuffer {
    bytes: Vec<u8>,
    pool: Arc<BufferPool>,
}

impl PoolBuffer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= SEGMENT
    }

    /// Takes as much of `bytes` as fits; gives how much that was.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = (SEGMENT - self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..count]);
        count
    }

    /// What is collected, immutable. A buffer that is mostly empty is copied, so that it does not
    /// hold memory for nothing.
    pub(crate) fn freeze(mut self) -> Bytes {
        if self.bytes.len() < SEGMENT / 2 {
            return Bytes::copy_from_slice(&self.bytes);
        }
        let bytes = std::mem::take(&mut self.bytes);
        Bytes::from_owner(FrozenBuffer { bytes, pool: self.pool.clone() })
    }
}

impl Drop for PoolBuffer {
    fn drop(&mut self) {
        if self.bytes.capacity() >= SEGMENT {
            self.pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

struct FrozenBuffer {
    bytes: Vec<u8>,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for FrozenBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for FrozenBuffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_reads_it() {
        let pool = Arc::new(BufferPool::default());
        let mut buffer = pool.take(SEGMENT as u64);
        assert_eq!(buffer.fill(&vec![7; SEGMENT + 5]), SEGMENT);
        assert!(buffer.is_full());
        let frozen = buffer.freeze();
        let slice = frozen.slice(10..20);
        drop(frozen);
        assert!(pool.0.lock().is_empty(), "a slice of it is still read");
        assert_eq!(&slice[..], [7; 10]);
        drop(slice);
        assert_eq!(pool.0.lock().len(), 1);
        assert_eq!(pool.take(SEGMENT as u64).len(), 0, "it comes back empty");
    }

    /// A70: a body of one byte reserves one byte.
    #[test]
    fn a70_a_small_body_takes_no_large_buffer() {
        let pool = Arc::new(BufferPool::default());
        let mut buffer = pool.take(1);
        buffer.fill(&[1]);
        assert!(buffer.bytes.capacity() <= 64, "{} bytes", buffer.bytes.capacity());
        assert_eq!(&buffer.freeze()[..], [1]);
        assert!(pool.0.lock().is_empty(), "nor is it kept");
    }

    #[test]
    fn a_nearly_empty_buffer_is_not_held_for_a_few_bytes() {
        let pool = Arc::new(BufferPool::default());
        let mut buffer = pool.take(SEGMENT as u64);
        buffer.fill(&[1, 2, 3]);
        let frozen = buffer.freeze();
        assert_eq!(&frozen[..], [1, 2, 3]);
        assert_eq!(pool.0.lock().len(), 1, "the large one is free again");
    }
}
