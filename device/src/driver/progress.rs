//! Progress of transfers in both directions, for showing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lanyard_protocol::message::TransferProgress;
use lanyard_protocol::{DeviceId, TransferId};

use super::{DeviceDriver, MAX_EVENTS_FOR_PROGRESS, PROGRESS_INTERVAL};
use crate::download::task::DownloadTask;
use crate::handle::DeviceEvent;
use crate::transfers::{TransferDirection, TransferInfo};

impl DeviceDriver {
    pub(super) fn measure(&mut self) {
        for (transfer_id, download) in &self.downloads {
            let done = download.received.load(Ordering::Relaxed);
            self.downs.entry(*transfer_id).or_default().looked(done, PROGRESS_INTERVAL);
        }
    }

    /// Other processes of this device hear of its files, too.
    pub(super) fn note_upload(&mut self, progress: &TransferProgress) {
        if progress.public_id == self.peer.public_id()
            && self.library.get(progress.file_id).is_some()
        {
            self.uploading.heard(progress);
        }
    }

    pub(super) fn transfers(&mut self) -> Vec<TransferInfo> {
        let (asker, clients) = (self.peer.public_id(), &self.peer.catalogue().clients);
        let name = |id: DeviceId| {
            clients.get(&id).map_or_else(|| id.to_string(), |client| client.name.clone())
        };
        let down = |(transfer_id, download): (&TransferId, &Arc<DownloadTask>)| {
            let down = self.downs.get(transfer_id).cloned().unwrap_or_default();
            TransferInfo {
                transfer_id: Some(*transfer_id),
                owner: download.owner,
                owner_name: name(download.owner),
                asker,
                asker_name: name(asker),
                direction: TransferDirection::Down,
                files: download.files,
                done: download.received.load(Ordering::Relaxed),
                total: download.total,
                rate: down.rate,
                state: down.state(),
                waits_for: down.waits_for,
            }
        };
        let mut list: Vec<TransferInfo> = self.downloads.iter().map(down).collect();
        list.sort_by_key(|info| info.transfer_id);
        list.extend(self.uploading.list(name));
        list
    }

    pub(super) fn show_progress(&mut self) {
        let mut changed = Vec::new();
        for (transfer_id, download) in &self.downloads {
            let done = download.received.load(Ordering::Relaxed);
            if self.shown.insert(*transfer_id, done) != Some(done) {
                changed.push(DeviceEvent::Progress {
                    transfer_id: *transfer_id,
                    done,
                    total: download.total,
                });
            }
        }
        if self.news.len() < MAX_EVENTS_FOR_PROGRESS {
            changed.into_iter().for_each(|event| self.event(event));
        }
    }
}
