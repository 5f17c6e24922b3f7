//! What the broker has done since it began: counts that only grow, for whoever watches a hub.

/// Bytes are of runs asked for, not of the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransferStats {
    /// Runs that their owners were asked for.
    pub opened_runs: u64,
    /// Bytes of all slots that were opened since the start.
    pub opened_bytes: u64,
    /// Asked for by somebody more while they were on their way.
    pub joined_bytes: u64,
    /// Asked for when they were there already.
    pub cached_bytes: u64,
    /// Bodies that were not what they had to be, by their verified groups.
    pub bad_bodies: u64,
    /// Files that were taken off the list because their bytes are others than before.
    pub changed_files: u64,
    /// Runs that failed for any other reason: owner away, slow, cut.
    pub failed_runs: u64,
}
