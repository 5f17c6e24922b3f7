//! Bounds what is requested. A transfer's bytes per run and runs at once grow on success and halve
//! on failure. All transfers together request only what a limited rate allows.

use lanyard_protocol::limits::{MAX_RUN_BYTES, MIN_BODY_RATE};

/// Bytes of a first run: the plateau of the measurements.
const START_BYTES: u64 = 1 << 20;
/// Larger runs bring nothing, and the relay gives one owner a quarter of its budget: two such runs
/// fit.
const MOST_BYTES: u64 = if MAX_RUN_BYTES < 4 << 20 { MAX_RUN_BYTES } else { 4 << 20 };
/// A run should take about this long: long enough to be worth its messages, short enough to be
/// lost.
const AIM_MS: u64 = 250;
/// … or as many round trips, if that is longer: two of them pass before its first byte, and shorter
/// runs only leave a late line empty (`tests/deep/ladder`, satellite).
const AIM_ROUNDS: u64 = 4;
/// Round trips of this length are not those of a network of one house.
const LATE_MS: u64 = 20;
const START_RUNS: usize = 4;
const MOST_RUNS: usize = 8;

/// The adaptive window of one transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    run_bytes: u64,
    runs: usize,
    /// Good runs since `runs` last changed.
    good: usize,
    /// Until a run fails, each that is good lets one more go at once.
    opening: bool,
    /// Runs of large files asked for, up to [`START_RUNS`].
    started: usize,
    /// The shortest time from a request to the word that its bytes are there.
    round_ms: u64,
}

impl Default for Window {
    fn default() -> Self {
        let (run_bytes, runs) = (START_BYTES, START_RUNS);
        Self { run_bytes, runs, good: 0, opening: true, started: 0, round_ms: u64::MAX }
    }
}

impl Window {
    /// Bytes that a run of a large file may have (at least one group goes in any case).
    pub(super) fn run_bytes(&self) -> u64 {
        self.run_bytes
    }

    /// The same of the next run of a file of which so much is not asked for. The first runs are of
    /// different lengths: of one length they end at one time, and then nothing is on its way until
    /// the next are. On a late line the last ones share what is left, so that no long one is waited
    /// for (Polychronopoulos and Kuck, Guided self-scheduling, 1987).
    pub(super) fn next_bytes(&mut self, missing: u64) -> u64 {
        self.started = (self.started + 1).min(START_RUNS);
        let bytes = self.run_bytes * self.started as u64 / START_RUNS as u64;
        if self.is_late() { bytes.min(missing.div_ceil(self.runs as u64)) } else { bytes }
    }

    /// Whether a run waits longer for its first byte than a network of one house makes it wait.
    pub(super) fn is_late(&self) -> bool {
        (LATE_MS..u64::MAX).contains(&self.round_ms)
    }

    /// Notes that a request was answered after this time.
    pub(super) fn ready(&mut self, after_ms: u64) {
        self.round_ms = self.round_ms.min(after_ms);
    }

    /// Runs that may be on their way at once.
    pub(super) fn runs(&self) -> usize {
        self.runs
    }

    /// A run came whole, in `took_ms`.
    pub(super) fn good(&mut self, took_ms: u64, group_bytes: u64) {
        let rounds = if self.round_ms == u64::MAX { 0 } else { AIM_ROUNDS * self.round_ms };
        let aim_ms = AIM_MS.max(rounds);
        if took_ms <= aim_ms {
            self.run_bytes = (self.run_bytes + group_bytes).min(MOST_BYTES);
        } else if took_ms > 2 * aim_ms {
            self.run_bytes = self.run_bytes.saturating_sub(group_bytes).max(group_bytes);
        }
        self.good += 1;
        if (self.opening || self.good >= self.runs) && self.runs < MOST_RUNS {
            self.runs += 1;
            self.good = 0;
        }
    }

    /// A run failed or was cut. Fewer at once, too: on a line of 250 kbit/s four bodies at once are
    /// each slower than the relay waits for (`tests/deep/ladder`).
    pub(super) fn bad(&mut self, group_bytes: u64) {
        self.run_bytes = (self.run_bytes / 2).max(group_bytes);
        self.runs = (self.runs / 2).max(1);
        self.good = 0;
        self.opening = false;
    }
}

/// Bounds what all transfers together have in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InFlightLimit {
    /// Runs at once: their buffers are this device's memory.
    pub runs: usize,
    /// Bytes of a run (at least one group, or one small file, goes in any case).
    pub run_bytes: u64,
}

impl Default for InFlightLimit {
    fn default() -> Self {
        Self { runs: MOST_RUNS, run_bytes: u64::MAX }
    }
}

impl InFlightLimit {
    /// Returns the bounds for a rate that all transfers share. Each run takes about twice the aim,
    /// or is one group. There are so few runs that each is twice as fast as the relay demands of a
    /// body.
    pub(super) fn of(bytes_a_second: Option<u64>) -> Self {
        let Some(rate) = bytes_a_second else { return Self::default() };
        let at_once = (rate * 2 * AIM_MS / 1_000) >> lanyard_protocol::group::MIN_GROUP_LOG;
        let none_starves = rate / (2 * MIN_BODY_RATE);
        let runs = at_once.clamp(2, MOST_RUNS as u64).min(none_starves).max(1);
        Self { runs: runs as usize, run_bytes: rate * 2 * AIM_MS / 1_000 / runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: u64 = 256 << 10;

    #[test]
    fn a_good_run_adds_a_group_a_bad_one_halves() {
        let mut window = Window::default();
        window.good(10, GROUP);
        assert_eq!(window.run_bytes(), START_BYTES + GROUP);
        window.bad(GROUP);
        assert_eq!(window.run_bytes(), (START_BYTES + GROUP) / 2);
        for _ in 0..20 {
            window.bad(GROUP);
        }
        assert_eq!((window.run_bytes(), window.runs()), (GROUP, 1));
        (0..3).for_each(|_| window.good(10, GROUP)); // 1, then 2 in a row
        assert_eq!(window.runs(), 3, "what works is tried with more soon");
    }

    /// On a line where a word takes 600 ms there and back a run of 1 MiB may take two seconds.
    #[test]
    fn a_late_line_makes_runs_no_shorter() {
        let mut window = Window::default();
        window.ready(600);
        window.ready(900);
        (0..4).for_each(|_| window.good(2_000, GROUP));
        assert_eq!((window.run_bytes(), window.runs()), (START_BYTES + 4 * GROUP, MOST_RUNS));
        (0..8).for_each(|_| window.good(5_000, GROUP));
        assert_eq!(window.run_bytes(), GROUP, "shorter, where it takes longer than that");
    }

    #[test]
    fn runs_of_a_limited_device_are_short_and_never_starve() {
        assert_eq!(InFlightLimit::of(None), InFlightLimit::default());
        for (rate, runs, run_bytes) in [
            (16 << 10, 1, 8 << 10),
            (40 << 10, 2, 10 << 10),
            (500 << 10, 2, 125 << 10),
            (2 << 20, 4, GROUP),
            (64 << 20, 8, 4 << 20),
        ] {
            assert_eq!(InFlightLimit::of(Some(rate)), InFlightLimit { runs, run_bytes }, "{rate}");
            assert!(rate / runs as u64 >= 2 * MIN_BODY_RATE);
        }
    }

    #[test]
    fn it_settles_around_the_aim_and_below_the_limits() {
        let mut window = Window::default();
        for _ in 0..100 {
            window.good(1, GROUP);
        }
        assert_eq!((window.run_bytes(), window.runs()), (MOST_BYTES, MOST_RUNS));
        window.good(AIM_MS + 1, GROUP);
        assert_eq!(window.run_bytes(), MOST_BYTES);
        window.good(3 * AIM_MS, GROUP);
        assert_eq!(window.run_bytes(), MOST_BYTES - GROUP);
    }
}
