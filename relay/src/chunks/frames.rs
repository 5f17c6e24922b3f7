//! Frames of bodies that may pause: bounds the memory that the transport keeps for a reader that
//! takes nothing.
//!
//! The HTTP library takes frames until it holds 256 KiB, and returns none of them. So a response
//! has one frame with the transport at a time, and reads the next from its slot only when the last
//! byte of that one was written. The frame is a copy of at most [`SMALL_FRAME_BYTES`] bytes. A
//! quick reader gets a whole segment of a slot without a copy, as long as a small pool allows: a
//! reader that then stops keeps that segment out of the budget, and nobody can take it back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lanyard_hub::source_address::SourceNetwork;
use lanyard_protocol::limits::{MAX_LARGE_FRAMES, MAX_LARGE_FRAMES_A_NET, SMALL_FRAME_BYTES};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::chunks::buffer_pool::SEGMENT;

/// The speed from which on a reader gets large frames: below it a copy costs nothing that could be
/// measured.
const QUICK_BYTES_A_SECOND: u128 = 5 << 20;
/// A frame that was written within this time says nothing against its reader: tasks of a busy relay
/// take turns.
const AT_ONCE: Duration = Duration::from_millis(5);

/// The large frames that are with the transport.
#[derive(Debug, Default)]
pub(crate) struct LargeFrames(Mutex<Lent>);

#[derive(Debug, Default)]
struct Lent {
    in_all: usize,
    by_net: HashMap<SourceNetwork, usize>,
}

impl LargeFrames {
    /// Lends one large frame to a reader of this network; `None` while the network, or all
    /// together, have as many as may be.
    fn lend(self: &Arc<Self>, net: SourceNetwork) -> Option<LargeFrame> {
        let mut lent = self.0.lock();
        let of_net = lent.by_net.get(&net).copied().unwrap_or(0);
        if lent.in_all >= MAX_LARGE_FRAMES || of_net >= MAX_LARGE_FRAMES_A_NET {
            return None;
        }
        lent.in_all += 1;
        lent.by_net.insert(net, of_net + 1);
        Some(LargeFrame { pool: self.clone(), net })
    }
}

/// One large frame; returned to the pool when the frame was written, or its connection ended.
#[derive(Debug)]
struct LargeFrame {
    pool: Arc<LargeFrames>,
    net: SourceNetwork,
}

impl Drop for LargeFrame {
    fn drop(&mut self) {
        let mut lent = self.pool.0.lock();
        lent.in_all -= 1;
        if let Some(of_net) = lent.by_net.get_mut(&self.net) {
            *of_net -= 1;
            if *of_net == 0 {
                lent.by_net.remove(&self.net);
            }
        }
    }
}

/// The frames of one response.
#[derive(Debug)]
pub(crate) struct Frames {
    pool: Arc<LargeFrames>,
    /// The network of the reader; without it all frames are small.
    net: Option<SourceNetwork>,
    /// Holds its one permit while no frame is with the transport.
    turn: Arc<Semaphore>,
    /// When the last frame was given away, and its length.
    last: Option<(Instant, usize)>,
}

impl Frames {
    pub(crate) fn new(pool: Arc<LargeFrames>, net: Option<SourceNetwork>) -> Self {
        Self { pool, net, turn: Arc::new(Semaphore::new(1)), last: None }
    }

    /// Waits until the transport has written the last frame.
    pub(crate) async fn next(&mut self) -> NextFrame {
        // The semaphore is never closed.
        let turn = self.turn.clone().acquire_owned().await.ok();
        let is_quick =
            self.last.take().is_some_and(|(since, length)| is_quick(since.elapsed(), length));
        let net = self.net.filter(|_| is_quick);
        NextFrame { pool: self.pool.clone(), net, turn, large: None }
    }

    /// Makes the frame of these bytes, which are no more than [`NextFrame::most`] said.
    pub(crate) fn give(&mut self, next: NextFrame, bytes: Bytes) -> Bytes {
        self.last = Some((Instant::now(), bytes.len()));
        let NextFrame { turn, large, .. } = next;
        let large = large.filter(|_| bytes.len() > SMALL_FRAME_BYTES);
        let bytes = if large.is_some() { bytes } else { Bytes::copy_from_slice(&bytes) };
        Bytes::from_owner(InFlightFrame { bytes, _turn: turn, _large: large })
    }
}

fn is_quick(taken: Duration, length: usize) -> bool {
    taken <= AT_ONCE || taken.as_millis() * QUICK_BYTES_A_SECOND <= length as u128 * 1_000
}

/// The right to give the transport one frame.
#[derive(Debug)]
pub(crate) struct NextFrame {
    pool: Arc<LargeFrames>,
    /// Set for a reader that took the last frame quickly.
    net: Option<SourceNetwork>,
    turn: Option<OwnedSemaphorePermit>,
    large: Option<LargeFrame>,
}

impl NextFrame {
    /// Returns how many bytes the frame may have.
    pub(crate) fn most(&mut self) -> u64 {
        if self.large.is_none() {
            self.large = self.net.and_then(|net| self.pool.lend(net));
        }
        if self.large.is_some() { SEGMENT as u64 } else { SMALL_FRAME_BYTES as u64 }
    }

    /// Returns the large frame to the pool while there is nothing to fill it with.
    pub(crate) fn waits(&mut self) {
        self.large = None;
    }
}

/// Bytes that are with the transport: their end lets the next frame come.
struct InFlightFrame {
    bytes: Bytes,
    _turn: Option<OwnedSemaphorePermit>,
    _large: Option<LargeFrame>,
}

impl AsRef<[u8]> for InFlightFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt;
    use lanyard_hub::source_address::SourceAddress;

    use super::*;

    fn net(n: u8) -> SourceNetwork {
        SourceAddress::from(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))).network()
    }

    fn quick(pool: &Arc<LargeFrames>, n: u8) -> Frames {
        Frames { last: Some((Instant::now(), SEGMENT)), ..Frames::new(pool.clone(), Some(net(n))) }
    }

    fn fill(frames: &mut Frames, segment: &Bytes) -> Bytes {
        let mut next = frames.next().now_or_never().expect("no frame is with the transport");
        let most = next.most() as usize;
        frames.give(next, segment.slice(..segment.len().min(most)))
    }

    #[test]
    fn a_response_has_one_frame_with_the_transport() {
        let mut frames = Frames::new(Arc::default(), None);
        let segment = Bytes::from(vec![7; SEGMENT]);
        let frame = fill(&mut frames, &segment);
        assert_eq!(frame.len(), SMALL_FRAME_BYTES);
        assert!(frames.next().now_or_never().is_none());
        drop(frame);
        assert!(frames.next().now_or_never().is_some());
    }

    /// A small frame holds no bytes of a slot; a large one is the slot's own bytes.
    #[test]
    fn a_slow_reader_gets_copies_and_a_quick_one_whole_segments() {
        let pool = Arc::default();
        let segment = Bytes::from(vec![7; SEGMENT]);
        let is_copy = |frame: &Bytes| !segment.as_ptr_range().contains(&frame.as_ptr());
        let first = fill(&mut Frames::new(pool, Some(net(1))), &segment);
        assert!(is_copy(&first) && first.len() == SMALL_FRAME_BYTES, "nothing is known of it yet");
        let pool = Arc::default();
        let large = fill(&mut quick(&pool, 1), &segment);
        assert!(!is_copy(&large) && large.len() == SEGMENT);
        let few = fill(&mut quick(&pool, 1), &segment.slice(..SMALL_FRAME_BYTES));
        assert!(is_copy(&few));
        assert_eq!(pool.0.lock().in_all, 1, "a few bytes need no place in the pool");
        drop(large);
        assert!(pool.0.lock().by_net.is_empty());
        assert!(
            is_quick(Duration::from_millis(50), SEGMENT)
                && !is_quick(Duration::from_millis(51), SEGMENT)
        );
        assert!(!is_quick(Duration::from_millis(7), SMALL_FRAME_BYTES));
    }

    /// Readers that stop at full speed keep so many large frames, and those of one network leave
    /// most to others.
    #[test]
    fn readers_that_stop_at_full_speed_keep_a_small_pool() {
        let pool = Arc::default();
        let segment = Bytes::from(vec![7; SEGMENT]);
        let mut paused = Vec::new();
        for n in 0..MAX_LARGE_FRAMES / MAX_LARGE_FRAMES_A_NET {
            let of_net: Vec<Bytes> =
                (0..100).map(|_| fill(&mut quick(&pool, n as u8), &segment)).collect();
            assert_eq!(
                of_net.iter().filter(|frame| frame.len() == SEGMENT).count(),
                MAX_LARGE_FRAMES_A_NET
            );
            paused.extend(of_net);
        }
        assert!(paused.iter().all(|frame| matches!(frame.len(), SEGMENT | SMALL_FRAME_BYTES)));
        assert_eq!(
            fill(&mut quick(&pool, 99), &segment).len(),
            SMALL_FRAME_BYTES,
            "served, in small frames"
        );
        drop(paused);
        assert_eq!(fill(&mut quick(&pool, 99), &segment).len(), SEGMENT);
    }

    #[test]
    fn a_reader_that_waits_for_bytes_keeps_no_large_frame_from_others() {
        let pool = Arc::default();
        let mut frames = quick(&pool, 1);
        let mut next = frames.next().now_or_never().unwrap();
        assert_eq!(next.most(), SEGMENT as u64);
        next.waits();
        assert_eq!(pool.0.lock().in_all, 0);
        assert_eq!(next.most(), SEGMENT as u64, "and gets one once there is something to read");
    }
}
