//! Figures of the relay: bytes carried, requests rejected, and the state of the broker.

use std::sync::atomic::AtomicU64;

use lanyard_hub::broker::{BrokerCounts, Rejections, TransferStats};
use lanyard_protocol::{CloseCode, FailureCode};
use parking_lot::Mutex;

/// The state of the broker at one moment.
pub(crate) struct BrokerStats {
    pub counts: BrokerCounts,
    pub tally: TransferStats,
    pub reserved_bytes: u64,
}

/// Bytes of bodies that went through, since the relay began.
#[derive(Default)]
pub(crate) struct CarriedBytes {
    /// Bytes of PUTs, from owners.
    pub received: AtomicU64,
    /// Bytes of GETs, to devices.
    pub to_devices: AtomicU64,
    /// Bytes of links, to whatever opened them.
    pub to_links: AtomicU64,
    /// The most that one response held of an archive's members and their checksums.
    pub archive_window: AtomicU64,
}

/// Counts that only grow. There are few kinds, so the maps stay small.
#[derive(Debug, Default)]
pub(crate) struct RejectionCounters {
    counts: Mutex<Rejections>,
}

/// The code of an answer that was a no; put there by [`crate::error::ApiError`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct RejectionCode(pub FailureCode);

impl RejectionCounters {
    /// Counts a socket that the relay closed with this code.
    pub(crate) fn closed(&self, code: CloseCode) {
        *self.counts.lock().closed.entry(code).or_default() += 1;
    }

    /// Counts a request that was answered with this code.
    pub(crate) fn refused(&self, code: FailureCode) {
        *self.counts.lock().refused.entry(code).or_default() += 1;
    }

    /// Returns the counts of this moment.
    pub(crate) fn counts(&self) -> Rejections {
        self.counts.lock().clone()
    }
}
