//! Bodies in both directions: uploads that the relay asks for, and runs of groups to fetch.

use std::sync::Arc;

use lanyard_hub::peer::{FetchId, FetchOutcome, Input};
use lanyard_protocol::message::ChunkUnavailable;
use lanyard_protocol::{DeviceToRelay, FailureCode, FileId, GroupSpan, Ticket, TransferId};
use tokio::time::Instant;
use tracing::Instrument;

use super::report::{Replaced, TaskReport};
use super::{DeviceDriver, MAX_PUTS, MAX_UPLOADS};
use crate::download::fetch::{self, FetchJob, FetchReporter};
use crate::share::library::{Library, ReadError};
use crate::share::upload::{self, Bodies, Uploaded};

impl DeviceDriver {
    pub(super) fn bodies(&self) -> Option<Bodies> {
        let (http, buckets, blocks) =
            (self.clients.gets.clone(), self.buckets.clone(), self.blocks.clone());
        Some(Bodies {
            http,
            base: self.config.hub.http_base(),
            signer: self.signer.clone()?,
            buckets,
            blocks,
        })
    }

    pub(super) fn end_bodies(&mut self) {
        self.signer = None;
        self.uploads.drain().for_each(|(_, task)| task.abort());
        self.fetches.drain().for_each(|(_, task)| task.abort());
    }

    pub(super) fn upload(&mut self, ticket: Ticket, pieces: Vec<GroupSpan>, length: u64) {
        // Said twice, it is one upload; a second task would also hide the first from a cancel.
        let Some(bodies) = self.bodies().filter(|_| !self.uploads.contains_key(&ticket)) else {
            return;
        };
        if self.uploads.len() >= MAX_UPLOADS {
            let busy = ChunkUnavailable { ticket, code: FailureCode::Busy, file_id: None };
            return self.send(&DeviceToRelay::ChunkUnavailable(busy), None);
        }
        let bodies = Bodies { http: self.clients.puts.clone(), ..bodies };
        let (library, puts, reports) =
            (self.library.clone(), self.puts.clone(), self.reports.clone());
        let unreadable = self.on_unreadable(ticket);
        let task = tokio::spawn(async move {
            let places = bodies.buckets.up.places_a_body(MAX_PUTS as u32);
            let _turn = puts.acquire_many_owned(places).await;
            let outcome = upload::put(bodies, library, ticket, (pieces, length), unreadable).await;
            let _ = reports.send(TaskReport::Uploaded { ticket, outcome }).await;
        });
        self.uploads.insert(ticket, task.abort_handle());
    }

    /// Looks at the file and reports, in a task of its own: the PUT's may be cancelled at any
    /// moment. What is there and cannot be read stays on the list, and the person is told.
    pub(super) fn on_unreadable(&self, ticket: Ticket) -> upload::Unreadable {
        let (library, reports) = (self.library.clone(), self.reports.clone());
        Box::new(move |file_id, error| {
            let (library, reports) = (library.clone(), reports.clone());
            let code = error.map_or(FailureCode::FileGone, ReadError::code);
            let stays = matches!(error, Some(ReadError::Away(_) | ReadError::Broken(_)));
            let news =
                error.filter(|_| stays && library.is_news(file_id, Instant::now().into_std()));
            if let Some((error, file)) = news.zip(library.get(file_id)) {
                tracing::warn!(path = %file.path().display(), "a shared file was asked for: {error}");
            }
            tokio::spawn(async move {
                let replaced = if stays { None } else { replace(library, file_id, code).await };
                let _ =
                    reports.send(TaskReport::Unreadable { ticket, file_id, code, replaced }).await;
            });
        })
    }

    pub(super) fn uploaded(&mut self, ticket: Ticket, outcome: Uploaded) {
        if outcome == Uploaded::Unreadable {
            // Its report comes by itself, and says more.
            return;
        }
        if self.uploads.remove(&ticket).is_some() && outcome == Uploaded::Broken {
            self.tell(Input::UploadRefused { ticket, code: FailureCode::Busy, file_id: None });
        }
    }

    pub(super) fn unreadable(
        &mut self,
        ticket: Ticket,
        file_id: FileId,
        code: FailureCode,
        replaced: Option<Replaced>,
    ) {
        self.uploads.remove(&ticket);
        // Also for a PUT that the relay has given up meanwhile: a notice too many does no harm.
        self.tell(Input::UploadRefused { ticket, code, file_id: Some(file_id) });
        if let Some(Replaced { old, new }) = replaced {
            self.tell(Input::Replaced { old, new });
        }
    }

    pub(super) fn disputed(&mut self, file_id: FileId) {
        let (library, reports) = (self.library.clone(), self.reports.clone());
        tokio::spawn(async move {
            if let Some(replaced) = replace(library, file_id, FailureCode::FileChanged).await {
                let _ = reports.send(TaskReport::Disputed(replaced)).await;
            }
        });
    }

    pub(super) fn fetch(&mut self, fetch: FetchId, transfer_id: TransferId, job: FetchJob) {
        let reports = self.reports.clone();
        let (Some(bodies), Some(download)) =
            (self.bodies(), self.downloads.get(&transfer_id).cloned())
        else {
            let cut = TaskReport::FetchEnded { fetch, outcome: FetchOutcome::Cut };
            return drop(tokio::spawn(async move { reports.send(cut).await }));
        };
        let channel = self.clients.channel;
        let started =
            download.bytes_thread().and_then(|thread| Ok((thread, thread.http(channel)?)));
        let (thread, http) = match started {
            Ok(started) => started,
            Err(error) => {
                let outcome = FetchOutcome::LocalFailure { message: error.to_string() };
                let failed = TaskReport::FetchEnded { fetch, outcome };
                return drop(tokio::spawn(async move { reports.send(failed).await }));
            }
        };
        let (bodies, download) = (Bodies { http, ..bodies }, download.clone());
        let span = download.span.clone();
        let running = async move {
            let wrap = Box::new(move |fetched| TaskReport::Fetched { transfer_id, fetched });
            let teller = FetchReporter { to: reports.clone(), wrap };
            let outcome = fetch::get(bodies, download, job, &teller).await;
            tracing::trace!(?outcome, "a run ended");
            let _ = reports.send(TaskReport::FetchEnded { fetch, outcome }).await;
        };
        let task = thread.spawn(running.instrument(span));
        self.fetches.insert(fetch, task.abort_handle());
    }
}

/// Looks at a file that could not be read as listed. Returns `None` if another task did.
async fn replace(library: Arc<Library>, old: FileId, code: FailureCode) -> Option<Replaced> {
    let look = move || {
        if code == FailureCode::FileChanged {
            library.replace(old)
        } else {
            library.remove(old).map(|_| None)
        }
    };
    let new = tokio::task::spawn_blocking(look).await.ok()??;
    Some(Replaced { old, new })
}
