//! `lanyard share`: offer files and folders until the person has had enough.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use lanyard_device::{DeviceEvent, MembershipPhase, ShareState};
use lanyard_protocol::message::TransferState;
use lanyard_protocol::{FailureCode, FileId, NewFile};
use serde_json::json;

use super::args::ShareArgs;
use super::common::{failure_of, split_words};
use super::connection::{DeviceConnection, interrupted};
use super::output::Output;
use crate::cli::global::Global;
use crate::operator::control;
use crate::output::exit::{Exit, Failure, Outcome};
use crate::output::text;

pub(super) async fn share(global: &Global, args: ShareArgs) -> Outcome {
    let (url, words) = split_words(args.words)?;
    let paths: Vec<PathBuf> = words.into_iter().map(PathBuf::from).collect();
    for path in &paths {
        if let Err(error) = std::fs::metadata(path) {
            return Err(Failure::new(
                Exit::NotFound,
                format!("cannot share {}: {error}", text::visible(&path.to_string_lossy())),
            ));
        }
    }
    let mut connection = DeviceConnection::open(global, url, None, args.limits.into())?;
    connection.enter().await?;
    let _commands = control::device::offer(&global.data_dir, connection.handle.clone()).await;
    let outcome = tokio::select! {
        outcome = serve(global, &mut connection, paths) => outcome,
        () = interrupted() => Ok(()),
    };
    // Takes back what was shared; who is fetching hears it at once.
    connection.handle.shutdown().await;
    outcome
}

/// Ends only when the device does.
async fn serve(global: &Global, connection: &mut DeviceConnection, paths: Vec<PathBuf>) -> Outcome {
    let output = Output::new(global);
    let offered = connection.handle.share(paths).await.map_err(failure_of)?;
    for skipped in &offered.skipped {
        output.note(&format!(
            "not shared: {} ({})",
            text::visible(&skipped.path.to_string_lossy()),
            skipped.why
        ));
    }
    if offered.files.is_empty() {
        return Err(Failure::new(Exit::Failed, "there is nothing to share in there"));
    }
    let mut listing = ShareReport::new(offered.files);
    loop {
        match connection.event().await {
            DeviceEvent::SharesChanged { file_ids, state } if listing.changed(&file_ids, state) => {
                listing.say(output, connection)?;
            }
            DeviceEvent::Phase(MembershipPhase::Ended { reason }) => {
                return Err(connection.ended(reason));
            }
            DeviceEvent::Phase(MembershipPhase::Connecting) => {
                output.note("the hub is gone; looking for it")
            }
            DeviceEvent::Phase(MembershipPhase::Approved { host_away: true }) => {
                output.note("the host is away")
            }
            DeviceEvent::RelayProgress(progress) => {
                output.event(&json!({
                    "event": "progress", "file_id": progress.file_id, "asker": progress.asker,
                    "done": progress.done, "total": progress.total, "state": progress.state,
                }));
                if progress.state == TransferState::Done {
                    output.note(&listing.fetched(progress.file_id));
                }
            }
            DeviceEvent::Phase(_)
            | DeviceEvent::Unreachable { .. }
            | DeviceEvent::Hub { .. }
            | DeviceEvent::CatalogueChanged
            | DeviceEvent::SharesChanged { .. }
            | DeviceEvent::Renamed { .. }
            | DeviceEvent::RenameFailed { .. }
            | DeviceEvent::Transfer { .. }
            | DeviceEvent::Progress { .. }
            | DeviceEvent::FileDone { .. }
            | DeviceEvent::FileFailed { .. }
            | DeviceEvent::TransferEnded { .. } => {}
        }
    }
}

/// What is not listed yet, and what cannot be.
#[derive(Debug)]
struct ShareReport {
    files: BTreeMap<FileId, NewFile>,
    waiting: BTreeSet<FileId>,
    failed: BTreeMap<FileId, FailureCode>,
    said: bool,
}

impl ShareReport {
    fn new(files: Vec<NewFile>) -> Self {
        let files: BTreeMap<FileId, NewFile> =
            files.into_iter().map(|file| (file.file_id, file)).collect();
        Self {
            waiting: files.keys().copied().collect(),
            files,
            failed: BTreeMap::new(),
            said: false,
        }
    }

    /// Whether now, for the first time, each file is listed or refused.
    fn changed(&mut self, file_ids: &[FileId], state: ShareState) -> bool {
        for file_id in file_ids {
            match state {
                ShareState::Shared => {
                    self.waiting.remove(file_id);
                    self.failed.remove(file_id);
                }
                // The answer is late; it counts when it comes.
                ShareState::Failed { code: FailureCode::TimedOut } | ShareState::Syncing => {}
                ShareState::Failed { code } => {
                    self.waiting.remove(file_id);
                    self.failed.insert(*file_id, code);
                }
                // Changed while it was being listed: its new version comes under another id.
                ShareState::Removed => {
                    self.waiting.remove(file_id);
                }
            }
        }
        self.waiting.is_empty() && !std::mem::replace(&mut self.said, self.waiting.is_empty())
    }

    fn say(&self, output: Output, connection: &DeviceConnection) -> Outcome {
        for (file_id, code) in &self.failed {
            let path = self.files.get(file_id).map_or("", |file| &file.path);
            output.note(&format!("not shared: {} ({})", text::visible(path), code.sentence()));
        }
        let mut shared: Vec<&NewFile> =
            self.files.values().filter(|file| !self.failed.contains_key(&file.file_id)).collect();
        if shared.is_empty() {
            return Err(Failure::new(Exit::Failed, "the hub took none of these files"));
        }
        shared.sort_by(|a, b| a.path.cmp(&b.path));
        let file = |file: &&NewFile| json!({ "file_id": file.file_id, "path": file.path, "size": file.size });
        output.event(&json!({
            "event": "shared",
            "owner": connection.handle.public_id(),
            "files": shared.iter().map(file).collect::<Vec<_>>(),
        }));
        let size = text::size(shared.iter().map(|file| file.size).sum());
        let count = match shared.as_slice() {
            [one] => text::visible(&one.path),
            many => format!("{} files", many.len()),
        };
        output.note(&format!("sharing {count} ({size}) at {}; Ctrl-C ends it", connection.url));
        Ok(())
    }

    fn fetched(&self, file_id: FileId) -> String {
        let path = self.files.get(&file_id).map_or("a file", |file| &file.path);
        format!("{} was fetched", text::visible(path))
    }
}
