//! Files of which all is here: checked, named, and told to the machine. Large ones one by one, for
//! they are synced; small ones many at a time.

use std::io;

use lanyard_hub::peer::{CloseReason, Input};
use lanyard_protocol::{FileId, Root, TransferId};

use super::DeviceDriver;
use super::report::TaskReport;
use super::staged::note_saved;
use crate::download::file_sink::FinishError;
use crate::download::task::SavedFile;
use crate::error::local_failure;
use crate::handle::DeviceEvent;

/// Small files that are named in one go.
const MAX_CLOSED_AT_ONCE: usize = 64;

impl DeviceDriver {
    /// Small files are named many at a time: a thread woken for each would cost more than the
    /// naming.
    pub(super) fn close_file(
        &mut self,
        transfer_id: TransferId,
        file_id: FileId,
        root: Option<Root>,
    ) {
        let Some(download) = self.downloads.get(&transfer_id) else { return };
        if !download.is_quick_to_finish(file_id) {
            return self.close_files(transfer_id, vec![(file_id, root)]);
        }
        let closing = self.to_close.entry(transfer_id).or_default();
        closing.push((file_id, root));
        if closing.len() >= MAX_CLOSED_AT_ONCE {
            let closing = std::mem::take(closing);
            self.close_files(transfer_id, closing);
        }
    }

    /// Files that one round of effects closes.
    pub(super) fn close_the_rest(&mut self) {
        for (transfer_id, files) in std::mem::take(&mut self.to_close) {
            if !files.is_empty() {
                self.close_files(transfer_id, files);
            }
        }
    }

    fn close_files(&mut self, transfer_id: TransferId, files: Vec<(FileId, Option<Root>)>) {
        let Some(download) = self.downloads.get(&transfer_id).cloned() else { return };
        let (closings, reports, content) =
            (self.closings.clone(), self.reports.clone(), self.content.clone());
        tokio::spawn(async move {
            let _turn = closings.acquire_owned().await;
            let ids: Vec<FileId> = files.iter().map(|(file_id, _)| *file_id).collect();
            let finish = move |(file_id, root): (FileId, Option<Root>)| {
                let finished = download.finish(file_id, root);
                note_saved(content.as_deref(), finished.as_ref().ok());
                (file_id, finished)
            };
            let closed =
                tokio::task::spawn_blocking(move || files.into_iter().map(finish).collect()).await;
            let broken = |error: tokio::task::JoinError| {
                let why = error.to_string();
                ids.iter().map(|id| (*id, Err(io::Error::other(why.clone()).into()))).collect()
            };
            let closed = closed.unwrap_or_else(broken);
            let _ = reports.send(TaskReport::FilesClosed { transfer_id, closed }).await;
        });
    }

    pub(super) fn file_closed(
        &mut self,
        transfer_id: TransferId,
        file_id: FileId,
        result: Result<SavedFile, FinishError>,
    ) {
        let outcome = match result {
            Ok(file) => {
                self.saved.insert((transfer_id, file_id), file);
                CloseReason::Done
            }
            Err(FinishError::Mismatch) => CloseReason::Mismatch,
            Err(FinishError::Io(error)) => {
                CloseReason::LocalFailure { message: local_failure(&error) }
            }
        };
        self.tell(Input::FileClosed { transfer_id, file_id, outcome });
        // Nobody asks any more for a transfer that was cancelled meanwhile.
        self.saved.remove(&(transfer_id, file_id));
    }

    pub(super) fn discard(&mut self, transfer_id: TransferId, file_id: FileId) {
        let Some(download) = self.downloads.get(&transfer_id) else { return };
        if let Err(error) = download.discard(file_id) {
            tracing::warn!(%error, "the table of a file could not be emptied");
        }
    }

    /// Nothing of a transfer is left to do: its last news comes when its files are safe.
    pub(super) fn put_aside(&mut self, transfer_id: TransferId, done: usize, failed: usize) {
        let Some(download) = self.downloads.get(&transfer_id).cloned() else { return };
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let noted = tokio::task::spawn_blocking(move || download.put_aside()).await;
            let result = noted.unwrap_or_else(|error| Err(io::Error::other(error)));
            let _ = reports.send(TaskReport::PutAside { transfer_id, done, failed, result }).await;
        });
    }

    pub(super) fn transfer_over(
        &mut self,
        transfer_id: TransferId,
        done: usize,
        failed: usize,
        result: &io::Result<()>,
    ) {
        // Of a transfer that failed its failure was told.
        if let Some(error) = result.as_ref().err().filter(|_| failed == 0) {
            tracing::warn!(%error, "what was fetched may not survive a power cut");
        }
        self.show_progress();
        let files = self.downloads.remove(&transfer_id).map_or(0, |download| download.files);
        self.shown.remove(&transfer_id);
        self.downs.remove(&transfer_id);
        let cancelled = files.saturating_sub(done + failed);
        self.event(DeviceEvent::TransferEnded { transfer_id, done, failed, cancelled });
        self.copy_after(transfer_id);
    }
}
