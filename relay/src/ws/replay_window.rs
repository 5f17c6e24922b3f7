//! Which counters of a session were used (RFC 6479): requests run in parallel and overtake each
//! other, so it is not enough to remember the last. Its size is fixed; what lies too far back
//! counts as used.

use lanyard_protocol::limits::SESSION_COUNTERS as COUNTERS;

const WORD: u64 = 64;
/// One word more than the window needs: the one that is being filled is cleared when it is entered.
const WORDS: usize = (COUNTERS / WORD) as usize + 1;

/// The used counters of one session, from the highest back.
#[derive(Debug)]
pub(crate) struct CounterWindow {
    highest: u64,
    used: [u64; WORDS],
}

impl Default for CounterWindow {
    fn default() -> Self {
        Self { highest: 0, used: [0; WORDS] }
    }
}

impl CounterWindow {
    /// Uses a counter; `false` if it was used before, or lies too far back to tell.
    pub(crate) fn use_once(&mut self, counter: u64) -> bool {
        if counter == 0 || counter + COUNTERS <= self.highest {
            return false;
        }
        if counter > self.highest {
            let entered = counter / WORD - self.highest / WORD;
            for step in 1..=entered.min(WORDS as u64) {
                self.used[Self::word(self.highest / WORD + step)] = 0;
            }
            // After a leap the words that were cleared are all, the present one among them.
            self.highest = counter;
        }
        let word = &mut self.used[Self::word(counter / WORD)];
        let bit = 1 << (counter % WORD);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn word(index: u64) -> usize {
        (index % WORDS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_counter_is_good_once_in_any_order() {
        let mut window = CounterWindow::default();
        for counter in [3, 1, 2, 64, 63, 65, 1_000, 999, 128] {
            assert!(window.use_once(counter), "{counter}");
            assert!(!window.use_once(counter), "{counter} again");
        }
        assert!(!window.use_once(0));
    }

    #[test]
    fn a_number_too_far_back_counts_as_used() {
        let mut window = CounterWindow::default();
        assert!(window.use_once(10_000));
        assert!(!window.use_once(10_000 - COUNTERS));
        assert!(window.use_once(10_001 - COUNTERS));
        assert!(window.use_once(u64::MAX >> 11), "a leap to the largest counter of the wire");
        assert!(!window.use_once(10_001));
    }

    /// Against a set that forgets nothing: never is a counter good twice, and never is one refused
    /// that is fresh and near.
    #[test]
    fn it_agrees_with_a_set_that_forgets_nothing() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut window = CounterWindow::default();
        let mut used = BTreeSet::new();
        let mut highest = 0u64;
        for _ in 0..200_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let leap = if random.is_multiple_of(997) { 5_000 } else { 40 };
            let back = (random >> 20) % (COUNTERS + 300);
            let counter = (highest + (random >> 40) % leap).saturating_sub(back).max(1);
            let good = window.use_once(counter);
            let fresh = !used.contains(&counter) && counter + COUNTERS > highest;
            assert_eq!(good, fresh, "{counter} after {highest}");
            used.insert(counter);
            highest = highest.max(counter);
        }
        assert!(used.len() > 50_000, "{}", used.len());
    }
}
