//! The relay's figures for the master (`RELAY_STATUS`): told when a roster is whole, and then when
//! one of them changed.

use lanyard_protocol::limits::MAX_PENDING;
use lanyard_protocol::message::{ClosedCount, RefusedCount, RelayStatus};

use super::*;

impl Broker {
    /// Reports to the master if a figure changed since the last report. The relay sets the pace, so
    /// a busy second costs one message and a quiet one none.
    pub(super) fn rejections_counted(&mut self, rejections: Rejections) {
        self.rejections = rejections;
        let status = self.status();
        if self.hub_ready() && self.master.told_status.as_ref() != Some(&status) {
            self.tell_status(status);
        }
    }

    /// Returns the figures of this moment.
    pub fn status(&self) -> RelayStatus {
        let refused = self.rejections.refused.iter();
        let closed = self.rejections.closed.iter();
        RelayStatus {
            pending: self.sessions.pending_count() as u64,
            pending_limit: MAX_PENDING as u64,
            slot_bytes: self.transfers.reserved_bytes(),
            slot_budget_bytes: self.config.budget_bytes,
            waiting_asks: self.transfers.waiting_count() as u64,
            refused: refused
                .map(|(code, count)| RefusedCount { code: *code, count: *count })
                .collect(),
            closed: closed
                .map(|(reason, count)| ClosedCount { reason: *reason, count: *count })
                .collect(),
        }
    }

    pub(super) fn tell_status(&mut self, status: RelayStatus) {
        self.master.told_status = Some(status.clone());
        self.tell_master(RelayMessage::RelayStatus(status));
    }
}
