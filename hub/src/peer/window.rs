//! How much is asked for: by one transfer, bytes of a run and runs at once, growing on success and halving on failure; by
//! all together, what a limited rate allows.

use lanyard_protocol::limits::{MAX_RUN_BYTES, MIN_BODY_RATE};

/// What a first run asks for: the plateau of the measurements.
const START_BYTES: u64 = 1 << 20;
/// Larger runs bring nothing, and the relay gives one owner a quarter of its budget: two such runs fit.
const MOST_BYTES: u64 = if MAX_RUN_BYTES < 4 << 20 { MAX_RUN_BYTES } else { 4 << 20 };
/// A run should take about this long: long enough to be worth its messages, short enough to be lost.
const AIM_MS: u64 = 250;
const START_RUNS: usize = 4;
const MOST_RUNS: usize = 8;

/// The adaptive window of one transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    run_bytes: u64,
    runs: usize,
    /// Good runs since `runs` last changed.
    good: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { run_bytes: START_BYTES, runs: START_RUNS, good: 0 }
    }
}

impl Window {
    /// Bytes that the next run of a large file may have (at least one group goes in any case).
    pub fn run_bytes(&self) -> u64 {
        self.run_bytes
    }

    /// Runs that may be on their way at once.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// A run came whole, in `took_ms`.
    pub fn good(&mut self, took_ms: u64, group_bytes: u64) {
        if took_ms <= AIM_MS {
            self.run_bytes = (self.run_bytes + group_bytes).min(MOST_BYTES);
        } else if took_ms > 2 * AIM_MS {
            self.run_bytes = self.run_bytes.saturating_sub(group_bytes).max(group_bytes);
        }
        self.good += 1;
        if self.good >= self.runs && self.runs < MOST_RUNS {
            self.runs += 1;
            self.good = 0;
        }
    }

    /// A run failed or was cut. Fewer at once, too: on a line of 250 kbit/s four bodies at once are each slower than the relay
    /// waits for (`tests/deep/ladder`).
    pub fn bad(&mut self, group_bytes: u64) {
        self.run_bytes = (self.run_bytes / 2).max(group_bytes);
        self.runs = (self.runs / 2).max(1);
        self.good = 0;
    }
}

/// What all transfers together may have on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Runs at once: their buffers are this device's memory.
    pub runs: usize,
    /// Bytes of a run (at least one group, or one small file, goes in any case).
    pub run_bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { runs: MOST_RUNS, run_bytes: u64::MAX }
    }
}

impl Pace {
    /// At so many bytes a second together, each run takes about twice the aim, or is one group; and they are so few that
    /// each is twice as fast as the relay demands of a body.
    pub fn of(bytes_a_second: Option<u64>) -> Self {
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
        (0..3).for_each(|_| window.good(10, GROUP));
        assert_eq!(window.runs(), 3, "what works is tried with more soon");
    }

    #[test]
    fn runs_of_a_limited_device_are_short_and_never_starve() {
        assert_eq!(Pace::of(None), Pace::default());
        for (rate, runs, run_bytes) in [
            (16 << 10, 1, 8 << 10),
            (40 << 10, 2, 10 << 10),
            (500 << 10, 2, 125 << 10),
            (2 << 20, 4, GROUP),
            (64 << 20, 8, 4 << 20),
        ] {
            assert_eq!(Pace::of(Some(rate)), Pace { runs, run_bytes }, "{rate}");
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
