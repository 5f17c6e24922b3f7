//! Counts the entries that the broker visits, so that tests hold a message to a bound. Outside of
//! tests it counts nothing.

#[derive(Debug, Default)]
pub(super) struct WorkCounter {
    #[cfg(test)]
    visited: std::cell::Cell<u64>,
}

impl WorkCounter {
    /// Notes that as many entries are about to be looked at.
    #[cfg(test)]
    pub(super) fn visit(&self, entries: usize) {
        self.visited.set(self.visited.get() + entries as u64);
    }

    #[cfg(not(test))]
    pub(super) fn visit(&self, _entries: usize) {}

    /// Returns the count so far and begins anew.
    #[cfg(test)]
    pub(super) fn take(&self) -> u64 {
        self.visited.replace(0)
    }
}
