//! How fast a device sends and takes: one bucket for all PUT bodies, one for all GET bodies, both
//! changeable at any time.
//!
//! A bucket releases bytes at its rate; a body claims the next ones, in the order of asking, and
//! waits until they are released. What nobody claims is kept for [`BURST_MS`] and no longer. Known
//! crates fix their rate when they are made, which is the one thing that must change here.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt, unfold};
use lanyard_protocol::limits::MIN_BODY_RATE;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What may pass at once after a pause, in milliseconds of the rate.
const BURST_MS: u64 = 100;
/// A limited body passes in steps of this many milliseconds of the rate, or of so many bytes if
/// that is more: each step wakes three processes, and twenty small ones a second are felt by
/// whoever shares a processor with them (`tests/deep/flow`).
const STEP_MS: u64 = 50;
const SMALL_STEP: u64 = 16 << 10;
/// … but nothing waits longer than this for its next one.
const LONGEST_STEP_MS: u64 = 250;
/// The slowest limit in bytes a second: twice what the relay demands of a body, which counts in
/// windows and would now and then end one that keeps exactly to its minimum.
pub(crate) const SLOWEST: u64 = 2 * MIN_BODY_RATE;

/// Bytes a second, or no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct Rate(u64);

/// Why something is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error("a rate is bytes a second such as 500K, 5M or 1.5G, or `none`")]
    Format,
    #[error("the slowest limit is {}K bytes a second: the hub ends transfers that are slower", SLOWEST >> 10)]
    TooSlow,
}

impl Rate {
    pub const UNLIMITED: Rate = Rate(0);

    /// Bytes a second; nothing when there is no limit.
    pub fn get(self) -> Option<u64> {
        (self.0 > 0).then_some(self.0)
    }
}

impl TryFrom<u64> for Rate {
    type Error = RateError;

    /// Bytes a second; 0 is no limit. Fails below twice the least rate of a body (`MIN_BODY_RATE`).
    fn try_from(bytes: u64) -> Result<Self, RateError> {
        if (1..SLOWEST).contains(&bytes) { Err(RateError::TooSlow) } else { Ok(Self(bytes)) }
    }
}

impl From<Rate> for u64 {
    fn from(rate: Rate) -> u64 {
        rate.0
    }
}

impl FromStr for Rate {
    type Err = RateError;

    /// `500K`, `5M`, `1.5G`: bytes a second in powers of 1024; a number alone is bytes; `0` and
    /// `none` are no limit.
    fn from_str(text: &str) -> Result<Self, RateError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self::UNLIMITED);
        }
        let bytes = bytes_of(text).ok_or(RateError::Format)?;
        // Not quite nothing is too slow, and not unlimited.
        Self::try_from(if bytes > 0.0 { (bytes as u64).max(1) } else { 0 })
    }
}

/// Bytes as a person writes them: `500K`, `5M`, `1.5G` in powers of 1024; a number alone is bytes.
pub fn bytes_of(text: &str) -> Option<f64> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1u64 << 30),
        _ => (text, 1),
    };
    let is_number = number.starts_with(|c: char| c.is_ascii_digit())
        && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && number.len() <= 15;
    let value: f64 = number.parse().ok().filter(|_| is_number)?;
    Some(value * unit as f64)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit =
            [(30, "G"), (20, "M"), (10, "K")].into_iter().find(|(log, _)| self.0 >= 1 << log);
        match (self.0, unit) {
            (0, _) => f.write_str("none"),
            (bytes, Some((log, unit))) if bytes.trailing_zeros() >= log => {
                write!(f, "{}{unit}", bytes >> log)
            }
            (bytes, Some((log, unit))) => {
                write!(f, "{:.1}{unit}", bytes as f64 / (1u64 << log) as f64)
            }
            (bytes, None) => write!(f, "{bytes}"),
        }
    }
}

/// What a device may send and take, all transfers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimits {
    pub up: Rate,
    pub down: Rate,
}

/// The buckets of one device. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Buckets {
    pub up: Bucket,
    pub down: Bucket,
}

impl Buckets {
    pub(crate) fn new(limits: RateLimits) -> Self {
        Self { up: Bucket::new(limits.up), down: Bucket::new(limits.down) }
    }

    pub(crate) fn limits(&self) -> RateLimits {
        RateLimits { up: self.up.rate(), down: self.down.rate() }
    }
}

/// Bytes that are released at a rate. Cheap to clone; clones share.
#[derive(Debug, Clone)]
pub(crate) struct Bucket(Arc<SharedBuckets>);

#[derive(Debug)]
struct SharedBuckets {
    /// As in [`Rate`]; read without the lock by whoever is not limited.
    rate: AtomicU64,
    state: Mutex<BucketState>,
    /// The rate is another one: who waits reckons anew.
    changed: Notify,
}

/// Both count from the beginning.
#[derive(Debug)]
struct BucketState {
    /// Bytes released by `since`.
    released: u64,
    since: Instant,
    /// Bytes that bodies asked for.
    claimed: u64,
}

impl BucketState {
    fn settle(&mut self, rate: u64) {
        let now = Instant::now();
        let passed = now.duration_since(self.since).as_nanos() * u128::from(rate) / 1_000_000_000;
        let most = self.claimed.saturating_add(rate * BURST_MS / 1_000);
        self.released =
            self.released.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)).min(most);
        self.since = now;
    }
}

impl Bucket {
    pub(crate) fn new(rate: Rate) -> Self {
        let state = BucketState { released: 0, since: Instant::now(), claimed: 0 };
        Self(Arc::new(SharedBuckets {
            rate: rate.0.into(),
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, BucketState> {
        // Each change of the state is whole before the lock goes.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rate(&self) -> Rate {
        Rate(self.0.rate.load(Ordering::Relaxed))
    }

    /// Holds from here on, also for bodies that wait.
    pub(crate) fn set(&self, rate: Rate) {
        let mut state = self.state();
        match self.0.rate.swap(rate.0, Ordering::Relaxed) {
            0 => (state.released, state.since) = (state.claimed, Instant::now()),
            before => state.settle(before),
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// How many of `bytes` should pass in one step.
    fn step(&self, bytes: usize) -> usize {
        match self.rate().get() {
            None => bytes,
            Some(rate) => bytes.min(step(rate) as usize),
        }
    }

    /// Waits until so many bytes may pass.
    async fn take(&self, bytes: usize) {
        if self.rate() == Rate::UNLIMITED {
            return;
        }
        let mine = self.claim(bytes as u64);
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let Some(wait) = self.wait_for(mine) else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    fn claim(&self, bytes: u64) -> u64 {
        let mut state = self.state();
        state.settle(self.rate().0);
        state.claimed += bytes;
        state.claimed
    }

    fn wait_for(&self, mine: u64) -> Option<Duration> {
        let mut state = self.state();
        let rate = self.rate().get()?;
        state.settle(rate);
        let missing = mine.checked_sub(state.released).filter(|missing| *missing > 0)?;
        Some(Duration::from_nanos(
            (u128::from(missing) * 1_000_000_000 / u128::from(rate)) as u64 + 1,
        ))
    }

    /// Of `places` for bodies, how many one body takes, so that all who have one are fast enough
    /// for the relay.
    pub(crate) fn places_a_body(&self, places: u32) -> u32 {
        let Some(rate) = self.rate().get() else { return 1 };
        let bodies = u32::try_from(rate / SLOWEST).unwrap_or(places).clamp(1, places);
        places / bodies
    }
}

/// Bytes of one step at a rate.
fn step(rate: u64) -> u64 {
    (rate * STEP_MS / 1_000).max(SMALL_STEP.min(rate * LONGEST_STEP_MS / 1_000))
}

/// The same bytes, as fast as the bucket allows. Without a limit they pass as they come.
pub(crate) fn paced<E: Send + 'static>(
    stream: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    bucket: Bucket,
) -> BoxStream<'static, Result<Bytes, E>> {
    unfold((Box::pin(stream), Bytes::new(), bucket), |(mut stream, mut rest, bucket)| async move {
        if rest.is_empty() {
            match stream.next().await? {
                Ok(bytes) => rest = bytes,
                Err(error) => return Some((Err(error), (stream, rest, bucket))),
            }
        }
        let part = rest.split_to(bucket.step(rest.len()));
        bucket.take(part.len()).await;
        Some((Ok(part), (stream, rest, bucket)))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_reads_as_people_write_it() {
        for (text, bytes) in [
            ("0", 0),
            ("none", 0),
            ("NONE", 0),
            ("16K", 16 << 10),
            ("500k", 500 << 10),
            (" 5M ", 5 << 20),
            ("1.5G", 3 << 29),
            ("20000", 20_000),
        ] {
            assert_eq!(u64::from(rate(text)), bytes, "{text}");
        }
        for text in ["", "K", "5 M", "5MB/s", "-1", "+5M", "1e9", "inf", "nan", ".5M", "fast", "5µ"]
        {
            assert_eq!(text.parse::<Rate>(), Err(RateError::Format), "{text}");
        }
        for (text, shown) in [("none", "none"), ("512K", "512K"), ("1.5M", "1.5M"), ("2048M", "2G")]
        {
            assert_eq!(rate(text).to_string(), shown);
        }
    }

    #[test]
    fn a_rate_at_which_the_relay_would_end_bodies_is_refused() {
        for text in ["1", "0.1", "8K", "15.9K"] {
            assert_eq!(text.parse::<Rate>(), Err(RateError::TooSlow), "{text}");
        }
        assert!(serde_json::from_str::<Rate>("100").is_err());
        assert_eq!(serde_json::from_str::<Rate>("0").unwrap(), Rate::UNLIMITED);
        assert!(RateError::TooSlow.to_string().contains("16K"));
    }

    fn body(
        blocks: usize,
        bytes: usize,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        futures_util::stream::iter((0..blocks).map(move |_| Ok(Bytes::from(vec![7; bytes]))))
    }

    /// Never more than the rate and a burst, counted from any moment.
    async fn keeps_to(bucket: &Bucket, bodies: usize, blocks: usize) -> Duration {
        let (start, (told, mut passed)) = (Instant::now(), tokio::sync::mpsc::unbounded_channel());
        for _ in 0..bodies {
            let (told, mut body) = (told.clone(), paced(body(blocks, 256 << 10), bucket.clone()));
            tokio::spawn(async move {
                while let Some(Ok(bytes)) = body.next().await {
                    told.send((Instant::now(), bytes.len() as u64)).unwrap();
                }
            });
        }
        drop(told);
        let (mut log, rate) = (Vec::new(), bucket.rate().get().unwrap());
        while let Some(entry) = passed.recv().await {
            log.push(entry);
        }
        for from in (0..log.len()).step_by(7) {
            let mut bytes = 0;
            for (at, count) in &log[from..] {
                bytes += count;
                let allowed = rate as f64 * (at.duration_since(log[from].0).as_secs_f64() + 0.11);
                assert!(bytes as f64 <= allowed + step(rate) as f64, "{bytes} > {allowed}");
            }
        }
        assert_eq!(
            log.iter().map(|(_, count)| count).sum::<u64>(),
            (bodies * blocks * (256 << 10)) as u64
        );
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_sum_of_all_bodies_keeps_to_the_rate_in_every_window_and_uses_it() {
        for (text, bodies, blocks, seconds) in
            [("64K", 1, 2, 8.0), ("1M", 3, 4, 3.0), ("100M", 8, 50, 1.0)]
        {
            let took = keeps_to(&Bucket::new(rate(text)), bodies, blocks).await.as_secs_f64();
            assert!((seconds * 0.85..=seconds * 1.05).contains(&took), "{text}: {took}");
        }
    }

    #[test]
    fn a_slow_body_comes_in_few_steps_and_a_fast_one_evenly() {
        for (text, bytes) in
            [("16K", 4 << 10), ("64K", 16 << 10), ("320K", 16 << 10), ("10M", 512 << 10)]
        {
            assert_eq!(step(rate(text).get().unwrap()), bytes, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_earns_no_more_than_a_tenth_of_a_second() {
        let bucket = Bucket::new(rate("1M"));
        bucket.take(1).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        keeps_to(&bucket, 1, 4).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_sender_follows_a_changed_rate() {
        let bucket = Bucket::new(rate("16K"));
        let start = Instant::now();
        let waits = tokio::spawn({
            let bucket = bucket.clone();
            async move { bucket.take(16 << 20).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        bucket.set(Rate::UNLIMITED);
        waits.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 1);
        bucket.set(rate("1M"));
        bucket.take(1 << 20).await;
        assert_eq!(start.elapsed().as_secs(), 2, "what passed unlimited is not owed");
    }

    #[tokio::test]
    async fn without_a_limit_bytes_pass_as_they_came() {
        let mut body = paced(body(1, 1 << 20), Bucket::new(Rate::UNLIMITED));
        assert_eq!(body.next().await.unwrap().unwrap().len(), 1 << 20);
    }

    #[test]
    fn so_few_bodies_share_a_slow_limit_that_each_is_fast_enough() {
        for (text, places) in [("none", 1), ("5M", 1), ("64K", 1), ("32K", 2), ("16K", 4)] {
            assert_eq!(Bucket::new(rate(text)).places_a_body(4), places, "{text}");
        }
    }
}
