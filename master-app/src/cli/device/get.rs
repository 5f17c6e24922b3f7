//! `lanyard get`: fetch, verify, go on where it stopped, wait for whoever is away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lanyard_device::{DeviceEvent, MembershipPhase, SavedFile, StartedTransfers, WantedDownload};
use lanyard_protocol::path::file_name;
use lanyard_protocol::{EntryKind, FailureCode, FileRef, TransferId};
use serde_json::json;

use super::args::GetArgs;
use super::choose;
use super::common::{failure_of, split_words};
use super::connection::{DeviceConnection, interrupted};
use super::output::{Output, ProgressLine};
use crate::cli::global::Global;
use crate::operator::control;
use crate::output::exit::{Exit, Failure, Outcome};
use crate::output::text;

pub(super) async fn get(global: &Global, args: GetArgs) -> Outcome {
    let (url, words) = split_words(args.words)?;
    let streamed = args.output == Path::new("-");
    if streamed && global.json {
        return Err(Failure::usage(
            "standard output cannot carry both the file (-o -) and JSON (--json)",
        ));
    }
    let mut connection = DeviceConnection::open(global, url, None, args.limits.into())?;
    connection.enter().await?;
    let _commands = control::device::offer(&global.data_dir, connection.handle.clone()).await;
    let outcome = tokio::select! {
        outcome = fetch(global, &mut connection, words, &args.output, streamed) => outcome,
        () = interrupted() => {
            Err(Failure::new(Exit::Failed, "stopped; the same command goes on from here"))
        }
    };
    // Notes what is good for another run.
    connection.handle.shutdown().await;
    outcome
}

async fn fetch(
    global: &Global,
    connection: &mut DeviceConnection,
    words: Vec<String>,
    folder: &Path,
    streamed: bool,
) -> Outcome {
    let catalogue = connection.handle.catalogue().await.map_err(failure_of)?;
    let mut wanted = BTreeMap::<FileRef, WantedDownload>::new();
    for word in &words {
        for file in choose::choose(&catalogue, word)?.files {
            wanted.entry(file.entry.file_ref()).or_insert(file);
        }
    }
    let wanted: Vec<WantedDownload> = wanted.into_values().collect();
    let started = if streamed {
        let [WantedDownload { entry, .. }] = wanted.as_slice() else {
            return Err(Failure::usage("standard output takes one file at a time"));
        };
        if entry.kind == EntryKind::Folder {
            return Err(Failure::usage("this is an empty folder"));
        }
        connection.handle.start_stream(entry.clone(), std::io::stdout()).await
    } else {
        connection.handle.start_transfer(wanted.clone(), folder.to_path_buf()).await
    };
    GetJob::new(global, &wanted, started.map_err(failure_of)?).run(connection).await
}

/// What is being fetched and how far it is.
struct GetJob {
    output: Output,
    progress: ProgressLine,
    running: BTreeSet<TransferId>,
    /// Bytes that are here, by transfer.
    done: BTreeMap<TransferId, u64>,
    already: u64,
    total: u64,
    paths: BTreeMap<FileRef, String>,
    saved: usize,
    /// What of the first failure is said at the end.
    failed: usize,
    writer: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    waiting: Option<FailureCode>,
    paused: BTreeSet<TransferId>,
    /// Whether people were told that all of it is paused.
    said_paused: bool,
    cancelled: usize,
}

impl GetJob {
    fn new(global: &Global, wanted: &[WantedDownload], started: StartedTransfers) -> Self {
        let output = Output::new(global);
        output.event(&json!({ "event": "started", "files": wanted.len(), "bytes": started.total }));
        let mut job = Self {
            output,
            progress: ProgressLine::new(global, started.total),
            running: started.transfers.into_iter().collect(),
            done: BTreeMap::new(),
            already: started.already.iter().map(|file| file.size).sum(),
            total: started.total,
            paths: wanted
                .iter()
                .map(|file| (file.entry.file_ref(), file.entry.path.clone()))
                .collect(),
            saved: 0,
            failed: 0,
            writer: started.writer,
            waiting: None,
            paused: BTreeSet::new(),
            said_paused: false,
            cancelled: 0,
        };
        for file in &started.already {
            job.saved(file, true);
        }
        job
    }

    async fn run(mut self, connection: &mut DeviceConnection) -> Outcome {
        while !self.running.is_empty() {
            match connection.event().await {
                DeviceEvent::Progress { transfer_id, done, .. } => {
                    self.progressed(transfer_id, done)
                }
                DeviceEvent::FileDone { file, .. } => self.saved(&file, false),
                DeviceEvent::FileFailed { file, code, message, .. } => {
                    self.file_failed(file, code, &message)
                }
                DeviceEvent::Transfer { transfer_id, waits_for, paused } => {
                    self.stands(transfer_id, waits_for, paused)
                }
                DeviceEvent::TransferEnded { transfer_id, cancelled, .. } => {
                    self.ended(transfer_id, cancelled)
                }
                DeviceEvent::Phase(MembershipPhase::Ended { reason }) => {
                    return Err(connection.ended(reason));
                }
                DeviceEvent::Phase(_)
                | DeviceEvent::Unreachable { .. }
                | DeviceEvent::Hub { .. }
                | DeviceEvent::CatalogueChanged
                | DeviceEvent::SharesChanged { .. }
                | DeviceEvent::Renamed { .. }
                | DeviceEvent::RenameFailed { .. }
                | DeviceEvent::RelayProgress(_) => {}
            }
        }
        self.progress.end();
        if let Some(writer) = self.writer.take() {
            let written = writer.await?;
            if self.cancelled == 0 {
                written?;
            }
        }
        let Self { saved, failed, cancelled, .. } = self;
        self.output.event(
            &json!({ "event": "done", "files": saved, "failed": failed, "cancelled": cancelled }),
        );
        match (failed, cancelled) {
            (0, 0) => Ok(()),
            (0, _) => {
                Err(Failure::new(Exit::Failed, "cancelled; the same command goes on from here"))
            }
            (n, _) => Err(Failure::new(
                Exit::Failed,
                format!("{n} of {} files did not come", n + self.saved),
            )),
        }
    }

    fn progressed(&mut self, transfer_id: TransferId, done: u64) {
        self.done.insert(transfer_id, done);
        let done = self.already + self.done.values().sum::<u64>();
        self.progress.at(done, self.total);
        self.output.event(&json!({ "event": "progress", "done": done, "total": self.total }));
    }

    fn saved(&mut self, file: &SavedFile, already: bool) {
        self.saved += 1;
        let how = if file.copied { " (copied)" } else { "" };
        self.progress.message(&format!("{}{how}", text::visible(file_name(&file.path))));
        self.output.event(&json!({
            "event": "saved", "owner": file.owner, "file_id": file.file_id, "path": file.path,
            "saved_as": file.saved_as, "size": file.size, "root": file.root, "already": already,
            "copied": file.copied,
        }));
    }

    fn file_failed(&mut self, file: FileRef, code: FailureCode, message: &str) {
        self.failed += 1;
        let path = self.paths.get(&file).map_or("a file", String::as_str);
        self.progress.line(&format!("{}: {message}", text::visible(path)));
        self.output.event(&json!({
            "event": "failed", "owner": file.public_id, "file_id": file.file_id, "path": path,
            "code": code, "message": message,
        }));
    }

    fn ended(&mut self, transfer_id: TransferId, cancelled: usize) {
        self.running.remove(&transfer_id);
        self.paused.remove(&transfer_id);
        self.cancelled += cancelled;
    }

    fn stands(&mut self, transfer_id: TransferId, waits_for: Option<FailureCode>, paused: bool) {
        match paused {
            true => self.paused.insert(transfer_id),
            false => self.paused.remove(&transfer_id),
        };
        let all_paused = self.running.is_subset(&self.paused);
        if self.said_paused != all_paused {
            self.said_paused = all_paused;
            let (word, event) = if all_paused { ("paused", "paused") } else { ("", "resumed") };
            self.progress.message(word);
            self.output.event(&json!({ "event": event }));
        }
        if !paused {
            self.waits(waits_for);
        }
    }

    fn waits(&mut self, waits_for: Option<FailureCode>) {
        if self.waiting == waits_for {
            return;
        }
        self.waiting = waits_for;
        match waits_for {
            Some(code) => {
                self.progress.message(code.sentence());
                self.output.event(&json!({ "event": "waiting", "code": code }));
            }
            None => self.progress.message(""),
        }
    }
}
