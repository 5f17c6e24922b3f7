//! The public face of a device: what it can be asked, and what it tells.

pub(crate) mod shared_links;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lanyard_hub::peer::{CatalogueView, MembershipPhase, ShareState};
use lanyard_protocol::device::HubInfo;
use lanyard_protocol::message::{RequestFailed, TransferProgress};
use lanyard_protocol::{
    DeviceId, DeviceToRelay, FailureCode, FileEntry, FileId, FileRef, NewFile, RelayToDevice,
    TransferId,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::download::content_index::{self, ContentIndex};
use crate::download::task::{DownloadPlan, SavedFile, WantedDownload, write_in_order};
use crate::error::{DeviceError, local_failure};
use crate::rate_limit::{Rate, RateLimits};
use crate::share::shared_root::SharedRoots;
use crate::share::walk::{FoundFile, Skipped, walk};
use crate::transfers::TransferInfo;

/// What a device tells. A reader that falls far behind loses progress first, and the oldest news at
/// last.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceEvent {
    Phase(MembershipPhase),
    /// A try to connect failed; the next one comes by itself.
    Unreachable {
        message: String,
    },
    /// The hub proved its key.
    Hub {
        hub: HubInfo,
    },
    /// [`DeviceHandle::catalogue`] is another one than before.
    CatalogueChanged,
    SharesChanged {
        file_ids: Vec<FileId>,
        state: ShareState,
    },
    Renamed {
        name: String,
    },
    RenameFailed {
        code: FailureCode,
        message: String,
    },
    /// Running (`waits_for` is `None`), waiting for something, or paused.
    Transfer {
        transfer_id: TransferId,
        waits_for: Option<FailureCode>,
        paused: bool,
    },
    Progress {
        transfer_id: TransferId,
        done: u64,
        total: u64,
    },
    FileDone {
        transfer_id: TransferId,
        file: SavedFile,
    },
    FileFailed {
        transfer_id: TransferId,
        file: FileRef,
        code: FailureCode,
        message: String,
    },
    /// Files neither done nor failed were cancelled.
    TransferEnded {
        transfer_id: TransferId,
        done: usize,
        failed: usize,
        cancelled: usize,
    },
    /// The relay's word on a transfer or a link, for showing.
    RelayProgress(TransferProgress),
}

/// Files that were offered, and files that could not be.
#[derive(Debug, Clone, PartialEq)]
pub struct ShareOutcome {
    pub files: Vec<NewFile>,
    pub skipped: Vec<Skipped>,
}

/// Transfers that were started.
#[derive(Debug)]
pub struct StartedTransfers {
    /// One for each owner.
    pub transfers: Vec<TransferId>,
    /// Files that were there already, and folders that were made.
    pub already: Vec<SavedFile>,
    /// Bytes of all of them.
    pub total: u64,
    /// Ends when a reader in order has everything, or failed.
    pub writer: Option<JoinHandle<io::Result<()>>>,
}

/// The outcome of a request.
pub(crate) type DriverAnswer = Result<Box<RelayToDevice>, RequestFailed>;

/// Commands to the driver.
pub(crate) enum DriverCommand {
    Offer { found: Vec<FoundFile>, reply: oneshot::Sender<Vec<NewFile>> },
    Unshare { file_ids: Vec<FileId> },
    Start { plan: DownloadPlan, written: Option<watch::Receiver<u32>> },
    Pause { transfer_id: TransferId },
    Resume { transfer_id: TransferId },
    Cancel { transfer_id: TransferId },
    Limit { up: Option<Rate>, down: Option<Rate>, reply: oneshot::Sender<RateLimits> },
    Rename { name: String },
    Request { message: Box<DeviceToRelay>, reply: oneshot::Sender<DriverAnswer> },
    Catalogue { reply: oneshot::Sender<Arc<CatalogueView>> },
    Transfers { reply: oneshot::Sender<Vec<TransferInfo>> },
    Shares { reply: oneshot::Sender<Vec<SharedFile>> },
    Shutdown,
}

/// A file that this device offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFile {
    pub file_id: FileId,
    pub path: PathBuf,
    pub wire: String,
    pub size: u64,
    pub state: ShareState,
}

/// Blocks: looks at what is there, and where else it may be.
fn plan(
    content: Option<&ContentIndex>,
    folder: &Path,
    wanted: Vec<WantedDownload>,
) -> io::Result<DownloadPlan> {
    let Some(content) = content else { return DownloadPlan::below(folder, wanted) };
    let roots = wanted.iter().filter_map(|file| content_index::root_worth(&file.entry)).collect();
    let here = content.find(&roots).into_keys().collect();
    let plan = DownloadPlan::with_copies(folder, wanted, Some(&here))?;
    let fresh = |file: &&SavedFile| {
        file.root.is_some_and(|root| roots.contains(&root) && !here.contains(&root))
    };
    for file in plan.already.iter().filter(fresh) {
        if let (Some(root), Some(path)) = (file.root, &file.saved_as) {
            // Only a cache.
            let _ = content.note(root, path, None);
        }
    }
    Ok(plan)
}

/// Asks things of a running device. Cheap to clone; the device ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct DeviceHandle {
    pub(crate) commands: mpsc::Sender<DriverCommand>,
    pub(crate) public_id: DeviceId,
    /// Closed when the device has ended.
    pub(crate) alive: watch::Receiver<()>,
    pub(crate) content: Option<Arc<ContentIndex>>,
    pub(crate) roots: Arc<SharedRoots>,
}

impl DeviceHandle {
    pub fn public_id(&self) -> DeviceId {
        self.public_id
    }

    async fn tell(&self, command: DriverCommand) -> Result<(), DeviceError> {
        self.commands.send(command).await.map_err(|_| DeviceError::Ended)
    }

    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> DriverCommand,
    ) -> Result<T, DeviceError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| DeviceError::Ended)
    }

    /// Offers files and whole folders. A path that is not there is an error and nothing is offered;
    /// what cannot be read or named below them is left out and reported.
    pub async fn share(&self, paths: Vec<PathBuf>) -> Result<ShareOutcome, DeviceError> {
        let roots = self.roots.clone();
        let walked = tokio::task::spawn_blocking(move || walk(&paths, &roots))
            .await
            .map_err(io::Error::other)??;
        let files = self.ask(|reply| DriverCommand::Offer { found: walked.files, reply }).await?;
        Ok(ShareOutcome { files, skipped: walked.skipped })
    }

    pub async fn unshare(&self, file_ids: Vec<FileId>) -> Result<(), DeviceError> {
        self.tell(DriverCommand::Unshare { file_ids }).await
    }

    /// Returns the files that this device offers, by path.
    pub async fn shares(&self) -> Result<Vec<SharedFile>, DeviceError> {
        self.ask(|reply| DriverCommand::Shares { reply }).await
    }

    /// Everything listed, as it is known here.
    pub async fn catalogue(&self) -> Result<Arc<CatalogueView>, DeviceError> {
        self.ask(|reply| DriverCommand::Catalogue { reply }).await
    }

    /// Fetches files into a folder. Never replaces anything; goes on where an earlier run stopped;
    /// copies what lies on this machine already.
    pub async fn start_transfer(
        &self,
        wanted: Vec<WantedDownload>,
        folder: PathBuf,
    ) -> Result<StartedTransfers, DeviceError> {
        let shown = folder.display().to_string();
        let content = self.content.clone();
        let planned =
            tokio::task::spawn_blocking(move || plan(content.as_deref(), &folder, wanted));
        let planned = planned.await.map_err(io::Error::other)?;
        let mut plan = planned.map_err(|error| {
            DeviceError::Local(format!("cannot save to {shown}: {}", local_failure(&error)))
        })?;
        let already = std::mem::take(&mut plan.already);
        let (transfers, total) =
            (plan.downloads.iter().map(|(order, _)| order.transfer_id).collect(), plan.total);
        self.tell(DriverCommand::Start { plan, written: None }).await?;
        Ok(StartedTransfers { transfers, already, total, writer: None })
    }

    /// Fetches one file for a reader that takes its bytes in order.
    pub async fn start_stream(
        &self,
        entry: FileEntry,
        writer: impl Write + Send + 'static,
    ) -> Result<StartedTransfers, DeviceError> {
        let (output, groups) = std::sync::mpsc::sync_channel(4);
        let plan = DownloadPlan::in_order(entry, output)?;
        let (transfers, total) =
            (plan.downloads.iter().map(|(order, _)| order.transfer_id).collect(), plan.total);
        let (report, written) = watch::channel(0);
        let writer = tokio::task::spawn_blocking(move || write_in_order(writer, groups, &report));
        self.tell(DriverCommand::Start { plan, written: Some(written) }).await?;
        Ok(StartedTransfers { transfers, already: Vec::new(), total, writer: Some(writer) })
    }

    /// Returns the transfers on their way, in both directions.
    pub async fn transfers(&self) -> Result<Vec<TransferInfo>, DeviceError> {
        self.ask(|reply| DriverCommand::Transfers { reply }).await
    }

    pub async fn pause(&self, transfer_id: TransferId) -> Result<(), DeviceError> {
        self.tell(DriverCommand::Pause { transfer_id }).await
    }

    pub async fn resume(&self, transfer_id: TransferId) -> Result<(), DeviceError> {
        self.tell(DriverCommand::Resume { transfer_id }).await
    }

    /// Ends a transfer; what came is kept for another time.
    pub async fn cancel(&self, transfer_id: TransferId) -> Result<(), DeviceError> {
        self.tell(DriverCommand::Cancel { transfer_id }).await
    }

    /// Changes what all transfers of this device may send and take, in bytes a second, from now on;
    /// `None` leaves it. What holds then.
    pub async fn limit(
        &self,
        up: Option<Rate>,
        down: Option<Rate>,
    ) -> Result<RateLimits, DeviceError> {
        self.ask(|reply| DriverCommand::Limit { up, down, reply }).await
    }

    pub async fn rename(&self, name: String) -> Result<(), DeviceError> {
        self.tell(DriverCommand::Rename { name }).await
    }

    /// Takes back what is shared, notes what was fetched, says goodbye. Returns when that is done.
    pub async fn shutdown(&self) {
        let mut alive = self.alive.clone();
        if self.tell(DriverCommand::Shutdown).await.is_ok() {
            while alive.changed().await.is_ok() {}
        }
    }
}
