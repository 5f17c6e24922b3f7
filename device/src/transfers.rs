//! What is on its way, as people are shown it: what this process fetches, and what others fetch
//! from it.

use std::collections::BTreeMap;
use std::time::Duration;

use lanyard_protocol::message::{TransferProgress, TransferState};
use lanyard_protocol::{DeviceId, FailureCode, FileId, TransferId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// An upload of which the relay says nothing for so long is no longer shown.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// … and after so long it stands still.
const STILL: Duration = Duration::from_secs(2);
/// Uploads that are kept for showing; beyond, the one heard of first is dropped.
const MAX_SHOWN_UPLOADS: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferDirection {
    /// Others fetch from this device.
    Up,
    /// This device fetches.
    Down,
}

/// How a transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferStatus {
    Running,
    /// It goes on by itself.
    Waiting,
    /// It goes on when somebody says so.
    Paused,
}

/// One transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferInfo {
    /// Nothing for an upload to a link.
    pub transfer_id: Option<TransferId>,
    pub owner: DeviceId,
    pub owner_name: String,
    pub asker: DeviceId,
    pub asker_name: String,
    pub direction: TransferDirection,
    /// Of an upload, those that are known to be on their way.
    pub files: usize,
    /// Bytes that are there.
    pub done: u64,
    /// Bytes of all its files.
    pub total: u64,
    /// Bytes a second, a moving average.
    pub rate: u64,
    pub state: TransferStatus,
    /// The reason for which a transfer waits.
    pub waits_for: Option<FailureCode>,
}

/// How a download stands, beside its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IncomingTransfer {
    pub waits_for: Option<FailureCode>,
    pub paused: bool,
    /// Bytes a second.
    pub rate: u64,
    /// Bytes at the last look.
    seen: Option<u64>,
}

impl IncomingTransfer {
    pub(crate) fn state(&self) -> TransferStatus {
        match (self.paused, self.waits_for) {
            (true, _) => TransferStatus::Paused,
            (false, Some(_)) => TransferStatus::Waiting,
            (false, None) => TransferStatus::Running,
        }
    }

    /// So many bytes are there now, `every` after the last look. Bytes of an earlier run are not
    /// this one's speed.
    pub(crate) fn looked(&mut self, done: u64, every: Duration) {
        let before = self.seen.replace(done).unwrap_or(done);
        let rate = done.saturating_sub(before) * 1_000 / every.as_millis().max(1) as u64;
        self.rate = (self.rate * 7 + rate) / 8;
    }
}

#[derive(Debug, Clone)]
struct OutgoingTransfer {
    progress: TransferProgress,
    heard: Instant,
}

/// What others fetch from this process, as the relay tells it.
#[derive(Debug, Default)]
pub(crate) struct Uploads(BTreeMap<(Option<TransferId>, DeviceId, FileId), OutgoingTransfer>);

impl Uploads {
    /// The relay's word on a file of this process.
    pub(crate) fn heard(&mut self, progress: &TransferProgress) {
        let key = (progress.transfer_id, progress.asker, progress.file_id);
        if matches!(
            progress.state,
            TransferState::Done | TransferState::Failed | TransferState::Cancelled
        ) {
            self.0.remove(&key);
            return;
        }
        self.0.insert(key, OutgoingTransfer { progress: progress.clone(), heard: Instant::now() });
        if self.0.len() > MAX_SHOWN_UPLOADS
            && let Some(oldest) = self.0.iter().min_by_key(|(_, up)| up.heard).map(|(key, _)| *key)
        {
            self.0.remove(&oldest);
        }
    }

    /// One entry for each transfer and each reader of a link. `name` knows devices.
    pub(crate) fn list(&mut self, name: impl Fn(DeviceId) -> String) -> Vec<TransferInfo> {
        let now = Instant::now();
        self.0.retain(|_, up| now.duration_since(up.heard) < FORGOTTEN);
        let mut list: Vec<TransferInfo> = Vec::new();
        for up in self.0.values() {
            let TransferProgress {
                transfer_id, asker, public_id, done, total, rate, state, ..
            } = up.progress;
            let still = now.duration_since(up.heard) >= STILL;
            let rate = if still { 0 } else { rate };
            let same =
                |last: &&mut TransferInfo| transfer_id.is_some() && last.transfer_id == transfer_id;
            if let Some(last) = list.last_mut().filter(same) {
                last.files += 1;
                (last.done, last.total, last.rate) =
                    (last.done + done, last.total + total, last.rate.max(rate));
                continue;
            }
            let state = match state {
                TransferState::Paused => TransferStatus::Paused,
                TransferState::Waiting => TransferStatus::Waiting,
                _ if still => TransferStatus::Waiting,
                TransferState::Running
                | TransferState::Done
                | TransferState::Failed
                | TransferState::Cancelled => TransferStatus::Running,
            };
            let (owner, direction) = (public_id, TransferDirection::Up);
            let (owner_name, asker_name) = (name(owner), name(asker));
            #[rustfmt::skip]
            list.push(TransferInfo {
                transfer_id, owner, owner_name, asker, asker_name, direction,
                files: 1, done, total, rate, state, waits_for: None,
            });
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(transfer: u8, file: u8, done: u64, state: TransferState) -> TransferProgress {
        let id = |kind: u8, n: u8| format!("{kind:08x}-0000-8000-8000-0000000000{n:02x}");
        TransferProgress {
            link_hash: None,
            transfer_id: Some(TransferId(id(3, transfer).parse().unwrap())),
            asker: id(1, 2).parse().unwrap(),
            public_id: id(1, 1).parse().unwrap(),
            file_id: id(2, file).parse().unwrap(),
            done,
            total: 100,
            rate: 10,
            state,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_files_of_an_upload_are_one_entry_and_what_ended_is_none() {
        let mut uploads = Uploads::default();
        for (transfer, file) in [(1, 1), (1, 2), (2, 1)] {
            uploads.heard(&progress(transfer, file, 30, TransferState::Running));
        }
        let list = uploads.list(|_| "x".into());
        assert_eq!(
            list.iter().map(|up| (up.files, up.done, up.total)).collect::<Vec<_>>(),
            [(2, 60, 200), (1, 30, 100)]
        );
        uploads.heard(&progress(1, 2, 100, TransferState::Done));
        uploads.heard(&progress(2, 1, 40, TransferState::Cancelled));
        assert_eq!(uploads.list(|_| "x".into()).len(), 1);
        tokio::time::advance(STILL).await;
        assert_eq!(uploads.list(|_| "x".into())[0].state, TransferStatus::Waiting);
        tokio::time::advance(FORGOTTEN).await;
        assert_eq!(uploads.list(|_| "x".into()), []);
    }

    #[test]
    fn bytes_of_an_earlier_run_do_not_count_as_speed() {
        let mut down = IncomingTransfer::default();
        let every = Duration::from_millis(250);
        down.looked(1_000_000, every);
        assert_eq!(down.rate, 0);
        for n in 1..100 {
            down.looked(1_000_000 + n * 250, every);
        }
        assert!((950..=1_000).contains(&down.rate), "{}", down.rate);
    }
}
