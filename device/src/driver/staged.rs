//! Transfers before the machine knows of them: what lies on this machine already is copied, then
//! the rest is fetched.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lanyard_hub::peer::{Input, TransferOrder};
use lanyard_protocol::{DeviceId, FileId, RelayToDevice, Root, TransferId};

use super::DeviceDriver;
use super::report::TaskReport;
use crate::download::content_index::{self, ContentIndex};
use crate::download::task::SavedFile;
use crate::handle::DeviceEvent;
use crate::share::library::LibraryFile;

/// A transfer that waits for others, or is being copied.
#[derive(Debug)]
pub(super) struct Staged {
    /// Transfers that bring what it copies.
    after: HashSet<TransferId>,
    /// Until copying begins.
    order: Option<TransferOrder>,
    /// It was cancelled: copying ends soon.
    stop: Arc<AtomicBool>,
    /// The machine hears it with the transfer; a copy costs nobody else anything and goes on.
    paused: bool,
}

/// Notes where a finished file lies.
pub(super) fn note_saved(content: Option<&ContentIndex>, file: Option<&SavedFile>) {
    let (Some(content), Some(file)) = (content, file) else { return };
    if let (Some(root), Some(path)) = (file.root, &file.saved_as)
        && file.size >= content_index::MIN_BYTES
        && let Err(error) = content.note(root, path, None)
    {
        tracing::debug!(%error, "where a file lies was not noted");
    }
}

impl DeviceDriver {
    /// Copies what can be copied once the transfers of `after` are over.
    pub(super) fn stage(&mut self, order: TransferOrder, after: HashSet<TransferId>) {
        let (transfer_id, ready) = (order.transfer_id, after.is_empty());
        let staged = Staged { after, order: Some(order), stop: Arc::default(), paused: false };
        self.staged.insert(transfer_id, staged);
        if ready {
            self.copy(transfer_id);
        }
    }

    /// A transfer is over; others may have waited for what it brought.
    pub(super) fn copy_after(&mut self, over: TransferId) {
        let mut ready = Vec::new();
        for (transfer_id, staged) in &mut self.staged {
            if staged.after.remove(&over) && staged.after.is_empty() {
                ready.push(*transfer_id);
            }
        }
        ready.into_iter().for_each(|transfer_id| self.copy(transfer_id));
    }

    fn copy(&mut self, transfer_id: TransferId) {
        let (Some(staged), Some(download)) =
            (self.staged.get_mut(&transfer_id), self.downloads.get(&transfer_id))
        else {
            return;
        };
        let Some(order) = staged.order.take() else { return };
        let (stop, download) = (staged.stop.clone(), download.clone());
        let (closings, reports, content) =
            (self.closings.clone(), self.reports.clone(), self.content.clone());
        tokio::spawn(async move {
            let _turn = closings.acquire_owned().await;
            let mut copied = order.clone();
            let copying = tokio::task::spawn_blocking(move || {
                if let Some(content) = content {
                    download.copy(&mut copied, &content, &stop);
                }
                copied
            });
            // A copy that broke in the middle is fetched.
            let order = copying.await.unwrap_or(order);
            let _ = reports.send(TaskReport::Copied { order }).await;
        });
    }

    /// From here on it is a transfer like any other.
    pub(super) fn copied(&mut self, order: TransferOrder) {
        let transfer_id = order.transfer_id;
        let Some(staged) = self.staged.remove(&transfer_id) else { return };
        if staged.stop.load(Ordering::Relaxed) {
            return self.put_aside(transfer_id, 0, 0);
        }
        self.tell(Input::StartTransfer { order });
        if staged.paused {
            self.tell(Input::Pause { transfer_id });
        }
    }

    pub(super) fn pause_staged(&mut self, transfer_id: TransferId, paused: bool) {
        let Some(staged) = self.staged.get_mut(&transfer_id) else { return };
        staged.paused = paused;
        self.downs.entry(transfer_id).or_default().paused = paused;
        self.event(DeviceEvent::Transfer { transfer_id, waits_for: None, paused });
    }

    pub(super) fn cancel_staged(&mut self, transfer_id: TransferId) {
        let Some(staged) = self.staged.get(&transfer_id) else { return };
        staged.stop.store(true, Ordering::Relaxed);
        if staged.order.is_some() {
            self.staged.remove(&transfer_id);
            self.put_aside(transfer_id, 0, 0);
        }
    }

    pub(super) fn stop_copying(&mut self) {
        self.staged.drain().for_each(|(_, staged)| staged.stop.store(true, Ordering::Relaxed));
    }

    /// The hub tells the roots of files that this process shares.
    pub(super) fn note_roots(&self, message: &RelayToDevice) {
        let known = roots_in(message, self.peer.public_id());
        known.iter().for_each(|(file_id, _)| self.library.root_known(*file_id));
        let Some(content) = self.content.clone() else { return };
        let shared = known
            .into_iter()
            .filter_map(|(file_id, root)| Some((root, self.library.get(file_id)?)));
        let shared: Vec<(Root, LibraryFile)> = shared.collect();
        if shared.is_empty() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            for (root, file) in shared {
                if let Err(error) =
                    content.note(root, &file.path(), Some((file.size, file.modified)))
                {
                    tracing::debug!(%error, "where a shared file lies was not noted");
                }
            }
        });
    }
}

/// Returns the roots that a message tells of the files of `owner`.
fn roots_in(message: &RelayToDevice, owner: DeviceId) -> Vec<(FileId, Root)> {
    if let RelayToDevice::FilesUpdated(updated) = message
        && updated.public_id == owner
    {
        return updated.files.iter().map(|known| (known.file_id, known.root)).collect();
    }
    if let RelayToDevice::FilesAdded(added) = message
        && added.public_id == owner
    {
        return added.files.iter().filter_map(|entry| Some((entry.file_id, entry.root?))).collect();
    }
    Vec::new()
}
