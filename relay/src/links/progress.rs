//! Progress of a response, reported to the maker of its link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lanyard_hub::broker::{Input, LinkInput, LinkProgress};
use lanyard_protocol::limits::PROGRESS_INTERVAL_MS;
use lanyard_protocol::message::TransferState;
use lanyard_protocol::{FileRef, LinkHash};

use crate::state::RelayState;

/// Progress of one response, at most four times a second.
pub(crate) struct ProgressReport {
    state: Arc<RelayState>,
    hash: LinkHash,
    pub file: FileRef,
    total: u64,
    done: u64,
    said: Option<Instant>,
    moved_at: Instant,
    since: u64,
    rate: f64,
    transfer: TransferState,
    /// Bytes that a link's counted use paid for and that did not go out yet.
    pub unread: u64,
}

impl ProgressReport {
    pub(crate) fn new(
        state: Arc<RelayState>,
        hash: LinkHash,
        file: FileRef,
        total: u64,
        done: u64,
    ) -> Self {
        let transfer = TransferState::Waiting;
        let moved_at = Instant::now();
        Self {
            state,
            hash,
            file,
            total,
            done,
            said: None,
            moved_at,
            since: 0,
            rate: 0.0,
            transfer,
            unread: 0,
        }
    }

    pub(crate) fn moved(&mut self, count: u64) {
        self.done += count;
        self.unread = self.unread.saturating_sub(count);
        self.since += count;
        let elapsed = self.moved_at.elapsed();
        if elapsed >= Duration::from_millis(PROGRESS_INTERVAL_MS) {
            let now = self.since as f64 / elapsed.as_secs_f64();
            // A moving average over about five seconds.
            let weight = (elapsed.as_secs_f64() / 5.0).min(1.0);
            self.rate = if self.rate == 0.0 { now } else { self.rate + (now - self.rate) * weight };
            (self.moved_at, self.since) = (Instant::now(), 0);
            self.say(TransferState::Running);
        }
    }

    /// Ends when nothing has moved for a second and a half: the maker should hear that it waits.
    pub(crate) async fn quiet_too_long(&self) {
        if self.transfer == TransferState::Waiting && self.said.is_some() {
            return std::future::pending().await;
        }
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }

    pub(crate) fn say(&mut self, transfer: TransferState) {
        let interval = Duration::from_millis(PROGRESS_INTERVAL_MS);
        let recently = self.said.is_some_and(|said| said.elapsed() < interval);
        if recently && transfer == self.transfer {
            return;
        }
        (self.transfer, self.said) = (transfer, Some(Instant::now()));
        let progress = LinkProgress {
            file: self.file,
            done: self.done,
            total: self.total,
            rate: if transfer == TransferState::Running { self.rate as u64 } else { 0 },
            state: transfer,
        };
        self.state.send_detached(Input::Link(LinkInput::Moved { hash: self.hash, progress }));
    }

    pub(crate) fn end(mut self, transfer: TransferState) {
        self.said = None;
        self.say(transfer);
    }
}

impl Drop for ProgressReport {
    fn drop(&mut self) {
        if self.unread > 0 {
            self.state.send_detached(Input::Link(LinkInput::Unread {
                hash: self.hash,
                bytes: self.unread,
            }));
        }
    }
}
