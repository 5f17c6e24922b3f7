//! The one owner of the Peer: carries messages, moves bytes, keeps the time; decides nothing.

mod bodies;
mod closing;
mod connection_task;
mod progress;
mod report;
mod session;
mod staged;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lanyard_hub::peer::{
    CatalogueView, Effect, EndReason, FetchId, Input, MembershipPhase, Peer, PeerConfig, Reveals,
    TransferOrder,
};
use lanyard_hub::{IdSource, Moment};
use lanyard_protocol::identity::Transcript;
use lanyard_protocol::message::TransferProgress;
use lanyard_protocol::session_key::{EphemeralSecret, Signer};
use lanyard_protocol::{
    Channel, DeviceToRelay, FailureCode, FileId, FileRef, NewFile, PublicKey, Root, Ticket,
    TransferId,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::DeviceConfig;
use crate::connection::http::Clients;
use crate::download::content_index::ContentIndex;
use crate::download::fetch::{FetchJob, Fetched};
use crate::download::task::{DownloadStage, DownloadTask, SavedFile};
use crate::share::block_pool::BlockPool;
use crate::share::shared_root::SharedRoots;
use report::{Replaced, TaskReport};
use staged::Staged;

use crate::connection::ConnectionError;
use crate::error::DeviceError;
use crate::handle::{DeviceEvent, DriverAnswer, DriverCommand, SharedFile};
use crate::rate_limit::{Buckets, Rate, RateLimits};
use crate::share::library::Library;
use crate::transfers::{IncomingTransfer, Uploads};

/// Messages that wait for the socket. A relay that takes none for so long is left, and found again.
const OUTBOX_CAPACITY: usize = 1_024;
/// PUTs at once, and files that are checked and named at once.
const MAX_PUTS: usize = 4;
const MAX_CLOSINGS: usize = 4;
/// Uploads that the relay may ask for before others of them are over. It asks for what fits its
/// budget.
const MAX_UPLOADS: usize = 4_096;
/// News for a reader that does not read; beyond, the oldest is dropped.
const MAX_UNREAD_EVENTS: usize = 20_000;
/// Beyond so much unread news, progress is not worth telling.
const MAX_EVENTS_FOR_PROGRESS: usize = 100;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// The socket that is open or being opened.
struct ConnectionSlot {
    /// Tells its reports from those of the one before.
    number: u64,
    outbox: Option<mpsc::Sender<String>>,
    /// The outbox was full.
    stuck: bool,
}

pub(crate) struct DeviceDriver {
    config: DeviceConfig,
    peer: Peer,
    started: Instant,
    /// For bodies of this session.
    clients: Clients,
    buckets: Buckets,
    blocks: Arc<BlockPool>,
    library: Arc<Library>,
    link: ConnectionSlot,
    last_ask: u64,
    /// Requests that wait for their answers.
    asked: HashMap<u64, oneshot::Sender<DriverAnswer>>,
    /// What this session's proofs are made over, until the hub's is checked.
    transcript: Option<Transcript>,
    /// This side's half of the key of the session that is being agreed.
    ephemeral: Option<EphemeralSecret>,
    /// Proves the HTTP requests of the live session.
    signer: Option<Arc<Signer>>,
    pinned: Option<PublicKey>,
    downloads: HashMap<TransferId, Arc<DownloadTask>>,
    uploads: HashMap<Ticket, AbortHandle>,
    fetches: HashMap<FetchId, AbortHandle>,
    puts: Arc<Semaphore>,
    closings: Arc<Semaphore>,
    /// Small files of which all is here, in this round of effects.
    to_close: HashMap<TransferId, Vec<(FileId, Option<Root>)>>,
    /// Files that were closed well, until the machine says that they are done.
    saved: HashMap<(TransferId, FileId), SavedFile>,
    /// What was told last of each transfer's bytes.
    shown: HashMap<TransferId, u64>,
    /// How each download stands, for showing.
    downs: HashMap<TransferId, IncomingTransfer>,
    /// Transfers that the machine does not know yet: copies are tried first.
    staged: HashMap<TransferId, Staged>,
    content: Option<Arc<ContentIndex>>,
    uploading: Uploads,
    catalogue: Option<Arc<CatalogueView>>,
    reports: mpsc::Sender<TaskReport>,
    news: VecDeque<DeviceEvent>,
    stopped: bool,
}

/// The ends of the channels that a driver listens to and speaks into.
pub(crate) struct Ends {
    pub commands: mpsc::Receiver<DriverCommand>,
    pub events: mpsc::Sender<DeviceEvent>,
    /// Dropped when all is over.
    pub alive: watch::Sender<()>,
}

impl DeviceDriver {
    pub(crate) fn new(
        config: DeviceConfig,
        content: Option<Arc<ContentIndex>>,
        roots: Arc<SharedRoots>,
        reports: mpsc::Sender<TaskReport>,
    ) -> Result<Self, DeviceError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| DeviceError::Setup(error.to_string()))?;
        let peer = PeerConfig {
            public_key: config.keypair.public(),
            instance: config.instance,
            name: config.name.clone(),
            kind: config.kind,
            platform: config.platform.clone(),
            invitation: config.invitation,
            reveals: config
                .reveals
                .read()
                .map_err(|error| DeviceError::Setup(error.to_string()))?,
        };
        Ok(Self {
            peer: Peer::new(peer, IdSource::new(seed)),
            started: Instant::now(),
            clients: Clients::new(Channel::PLAIN)?,
            buckets: Buckets::new(config.limits),
            blocks: Arc::default(),
            library: Arc::new(Library::new(&config.keypair.seed(), roots)),
            link: ConnectionSlot { number: 0, outbox: None, stuck: false },
            last_ask: 0,
            asked: HashMap::new(),
            transcript: None,
            ephemeral: None,
            signer: None,
            pinned: config.pinned_hub,
            config,
            downloads: HashMap::new(),
            uploads: HashMap::new(),
            fetches: HashMap::new(),
            puts: Arc::new(Semaphore::new(MAX_PUTS)),
            closings: Arc::new(Semaphore::new(MAX_CLOSINGS)),
            to_close: HashMap::new(),
            saved: HashMap::new(),
            shown: HashMap::new(),
            downs: HashMap::new(),
            staged: HashMap::new(),
            content,
            uploading: Uploads::default(),
            catalogue: None,
            reports,
            news: VecDeque::new(),
            stopped: false,
        })
    }

    /// Runs until it is told to stop or the last handle is gone.
    pub(crate) async fn run(mut self, mut ends: Ends, mut reports: mpsc::Receiver<TaskReport>) {
        let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listening = true;
        self.tell(Input::LimitDown { bytes_a_second: self.buckets.down.rate().get() });
        self.tell(Input::Start);
        while !self.stopped {
            let wake =
                self.peer.poll_timeout().map(|at| self.started + Duration::from_millis(at.0));
            tokio::select! {
                command = ends.commands.recv(), if listening => match command {
                    Some(command) => self.command(command),
                    None => {
                        listening = false;
                        self.stop();
                    }
                },
                Some(report) = reports.recv() => {
                    self.report(report);
                    // What else is there goes the same way, so that small files are closed many at
                    // a time.
                    while let Ok(report) = reports.try_recv() {
                        self.report(report);
                    }
                }
                () = sleep_until(wake), if wake.is_some() => {
                    self.peer.handle_timeout(self.now());
                    self.drain();
                }
                permit = ends.events.reserve(), if !self.news.is_empty() => match (permit, self.news.pop_front()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    _ => self.news.clear(),
                },
                _ = tick.tick(), if !self.downloads.is_empty() => {
                    self.measure();
                    self.show_progress();
                }
            }
            self.close_the_rest();
        }
        self.finish(&ends.events).await;
        drop(ends.alive);
    }

    /// Notes what was fetched, so that another run goes on from there, and tells the last news.
    async fn finish(mut self, events: &mpsc::Sender<DeviceEvent>) {
        self.end_bodies();
        self.stop_copying();
        let downloads: Vec<Arc<DownloadTask>> =
            self.downloads.drain().map(|(_, download)| download).collect();
        let put_aside = move || downloads.iter().try_for_each(|download| download.put_aside());
        if let Ok(Err(error)) = tokio::task::spawn_blocking(put_aside).await {
            tracing::warn!(%error, "what was fetched could not be noted for another run");
        }
        for event in self.news.drain(..) {
            if events.try_send(event).is_err() {
                break;
            }
        }
    }

    fn now(&self) -> Moment {
        Moment(self.started.elapsed().as_millis() as u64)
    }

    fn tell(&mut self, input: Input) {
        self.peer.handle(self.now(), input);
        self.drain();
    }

    fn stop(&mut self) {
        self.tell(Input::Stop);
        self.stopped |= matches!(self.peer.phase(), MembershipPhase::Ended { .. });
    }

    fn drain(&mut self) {
        loop {
            while let Some(effect) = self.peer.poll_effect() {
                self.effect(effect);
            }
            if !std::mem::take(&mut self.link.stuck) {
                break;
            }
            self.close_link();
            self.peer.handle(self.now(), Input::LinkClosed { code: None });
        }
    }

    fn event(&mut self, event: DeviceEvent) {
        if self.news.len() >= MAX_UNREAD_EVENTS {
            self.news.pop_front();
        }
        self.news.push_back(event);
    }

    // ── What the machine wants
    // ──────────────────────────────────────────────────────────────────────────────────────

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::OpenLink => self.open_link(),
            Effect::CloseLink { .. } => self.close_link(),
            Effect::Register { registration } => self.register(&registration),
            Effect::Send { message, reference } => self.send(&message, reference.as_ref()),
            Effect::Revealing => self.count_reveal(Reveals::give),
            Effect::Opened => self.count_reveal(Reveals::opened),
            Effect::PhaseChanged { phase } => self.phase(phase),
            Effect::Upload { ticket, pieces, length } => self.upload(ticket, pieces, length),
            Effect::CancelUpload { ticket, code } => {
                tracing::debug!(code = code.as_str(), "an upload was cancelled");
                if let Some(task) = self.uploads.remove(&ticket) {
                    task.abort();
                }
            }
            Effect::FileDisputed { file_id } => self.disputed(file_id),
            Effect::EndBodies => self.end_bodies(),
            Effect::Fetch { fetch, transfer_id, pieces, what, ticket, length, .. } => {
                self.fetch(fetch, transfer_id, FetchJob { ticket, pieces, what, length });
            }
            Effect::CancelFetch { fetch } => {
                if let Some(task) = self.fetches.remove(&fetch) {
                    task.abort();
                }
            }
            Effect::CloseFile { transfer_id, file_id, root } => {
                self.close_file(transfer_id, file_id, root)
            }
            Effect::DiscardFile { transfer_id, file_id } => self.discard(transfer_id, file_id),
            Effect::TransferEnded { transfer_id, done, failed } => {
                self.put_aside(transfer_id, done, failed)
            }
            Effect::Answered { ask, answer } => {
                if let Some(reply) = self.asked.remove(&ask) {
                    let _ = reply.send(answer); // who asked is gone: nobody wants it
                }
            }
            Effect::CatalogueChanged => self.catalogue_changed(),
            Effect::SharesChanged { file_ids, state } => {
                self.event(DeviceEvent::SharesChanged { file_ids, state })
            }
            Effect::Renamed { name } => self.event(DeviceEvent::Renamed { name }),
            Effect::RenameFailed { code, message } => {
                self.event(DeviceEvent::RenameFailed { code, message })
            }
            Effect::FileDone { transfer_id, file_id } => self.file_done(transfer_id, file_id),
            Effect::FileFailed { transfer_id, file_id, code, message } => {
                self.file_failed(transfer_id, file_id, code, message)
            }
            Effect::TransferChanged { transfer_id, waits_for, paused } => {
                let down = self.downs.entry(transfer_id).or_default();
                down.waits_for = waits_for;
                down.paused = paused;
                self.event(DeviceEvent::Transfer { transfer_id, waits_for, paused });
            }
            Effect::Progress { progress } => self.relay_progress(progress),
        }
    }

    fn catalogue_changed(&mut self) {
        self.catalogue = None;
        // An application reads the whole catalogue for this event, however many changes there were.
        if self.news.back() != Some(&DeviceEvent::CatalogueChanged) {
            self.event(DeviceEvent::CatalogueChanged);
        }
    }

    fn file_done(&mut self, transfer_id: TransferId, file_id: FileId) {
        if let Some(file) = self.saved.remove(&(transfer_id, file_id)) {
            self.event(DeviceEvent::FileDone { transfer_id, file });
        }
    }

    fn file_failed(
        &mut self,
        transfer_id: TransferId,
        file_id: FileId,
        code: FailureCode,
        message: Option<String>,
    ) {
        let Some(download) = self.downloads.get(&transfer_id) else { return };
        let file = FileRef { public_id: download.owner, file_id };
        let message = message.unwrap_or_else(|| code.sentence().into());
        self.event(DeviceEvent::FileFailed { transfer_id, file, code, message });
    }

    fn relay_progress(&mut self, progress: TransferProgress) {
        self.note_upload(&progress);
        if self.news.len() < MAX_EVENTS_FOR_PROGRESS {
            self.event(DeviceEvent::RelayProgress(progress));
        }
    }

    fn phase(&mut self, phase: MembershipPhase) {
        if matches!(phase, MembershipPhase::Approved { .. }) {
            // From here on another key at this address is another hub.
            self.pinned =
                self.pinned.or(self.transcript.as_ref().map(|transcript| transcript.hub_key));
        }
        self.stopped = phase == MembershipPhase::Ended { reason: EndReason::Stopped };
        self.event(DeviceEvent::Phase(phase));
    }

    // ── Reports and commands
    // ────────────────────────────────────────────────────────────────────────────────────────

    fn report(&mut self, report: TaskReport) {
        match report {
            TaskReport::ConnectionOpened { link, channel } if link == self.link.number => {
                self.link_opened(channel)
            }
            TaskReport::Text { link, text } if link == self.link.number => self.heard(&text),
            TaskReport::ConnectionClosed { link, code, error } if link == self.link.number => {
                self.close_link();
                match error {
                    // A hub on this machine is spoken to without TLS, unless it takes nothing else.
                    Some(ConnectionError::TlsRequired { .. }) => {
                        self.config.hub = self.config.hub.secured()
                    }
                    Some(error) => {
                        self.event(DeviceEvent::Unreachable { message: error.to_string() })
                    }
                    None => {}
                }
                self.tell(Input::LinkClosed { code });
            }
            TaskReport::ConnectionOpened { .. }
            | TaskReport::Text { .. }
            | TaskReport::ConnectionClosed { .. } => {}
            TaskReport::Uploaded { ticket, outcome } => self.uploaded(ticket, outcome),
            TaskReport::Unreadable { ticket, file_id, code, replaced } => {
                self.unreadable(ticket, file_id, code, replaced)
            }
            TaskReport::Disputed(Replaced { old, new }) => self.tell(Input::Replaced { old, new }),
            TaskReport::Fetched { transfer_id, fetched: Fetched::Stored { pieces } } => {
                self.tell(Input::Stored { transfer_id, pieces });
            }
            TaskReport::Fetched { transfer_id, fetched: Fetched::Rejected { file_id, groups } } => {
                self.tell(Input::Rejected { transfer_id, file_id, groups });
            }
            TaskReport::FetchEnded { fetch, outcome } => {
                self.fetches.remove(&fetch);
                self.tell(Input::FetchEnded { fetch, outcome });
            }
            TaskReport::Consumed { transfer_id, file_id, groups } => {
                self.tell(Input::Consumed { transfer_id, file_id, groups });
            }
            TaskReport::FilesClosed { transfer_id, closed } => {
                closed
                    .into_iter()
                    .for_each(|(file_id, result)| self.file_closed(transfer_id, file_id, result));
            }
            TaskReport::Copied { order } => self.copied(order),
            TaskReport::PutAside { transfer_id, done, failed, result } => {
                self.transfer_over(transfer_id, done, failed, &result);
            }
        }
    }

    fn command(&mut self, command: DriverCommand) {
        match command {
            DriverCommand::Offer { found, reply } => {
                let files: Vec<NewFile> =
                    found.into_iter().map(|file| self.library.add(file)).collect();
                let _ = reply.send(files.clone());
                self.tell(Input::Share { files });
            }
            DriverCommand::Unshare { file_ids } => {
                file_ids.iter().for_each(|file_id| drop(self.library.remove(*file_id)));
                self.tell(Input::Unshare { file_ids });
            }
            DriverCommand::Start { plan, written } => self.start(plan, written),
            DriverCommand::Pause { transfer_id } if self.staged.contains_key(&transfer_id) => {
                self.pause_staged(transfer_id, true)
            }
            DriverCommand::Resume { transfer_id } if self.staged.contains_key(&transfer_id) => {
                self.pause_staged(transfer_id, false)
            }
            DriverCommand::Cancel { transfer_id } if self.staged.contains_key(&transfer_id) => {
                self.cancel_staged(transfer_id)
            }
            DriverCommand::Pause { transfer_id } => self.tell(Input::Pause { transfer_id }),
            DriverCommand::Resume { transfer_id } => self.tell(Input::Resume { transfer_id }),
            DriverCommand::Cancel { transfer_id } => self.tell(Input::Cancel { transfer_id }),
            DriverCommand::Limit { up, down, reply } => drop(reply.send(self.limit(up, down))),
            DriverCommand::Rename { name } => self.tell(Input::Rename { name }),
            DriverCommand::Request { message, reply } => self.request(message, reply),
            DriverCommand::Catalogue { reply } => {
                let known = || Arc::new(self.peer.catalogue().clone());
                let _ = reply.send(self.catalogue.get_or_insert_with(known).clone());
            }
            DriverCommand::Transfers { reply } => drop(reply.send(self.transfers())),
            DriverCommand::Shares { reply } => drop(reply.send(self.shares())),
            DriverCommand::Shutdown => self.stop(),
        }
    }

    fn limit(&mut self, up: Option<Rate>, down: Option<Rate>) -> RateLimits {
        if let Some(up) = up {
            self.buckets.up.set(up);
        }
        if let Some(down) = down {
            self.buckets.down.set(down);
            self.tell(Input::LimitDown { bytes_a_second: down.get() });
        }
        self.buckets.limits()
    }

    fn start(
        &mut self,
        plan: crate::download::task::DownloadPlan,
        written: Option<watch::Receiver<u32>>,
    ) {
        let before =
            |(_, download): &&(TransferOrder, DownloadTask)| download.stage != DownloadStage::Later;
        let first: HashSet<TransferId> =
            plan.downloads.iter().filter(before).map(|(o, _)| o.transfer_id).collect();
        for (order, download) in plan.downloads {
            if let (Some(written), Some(file)) = (written.clone(), order.files.first()) {
                tokio::spawn(report_written(
                    written,
                    order.transfer_id,
                    file.file_id,
                    self.reports.clone(),
                ));
            }
            let stage = download.stage;
            self.downloads.insert(order.transfer_id, Arc::new(download));
            match stage {
                DownloadStage::Now => self.tell(Input::StartTransfer { order }),
                DownloadStage::Copy => self.stage(order, HashSet::new()),
                DownloadStage::Later => self.stage(order, first.clone()),
            }
        }
    }

    fn shares(&self) -> Vec<SharedFile> {
        let states: HashMap<FileId, _> = self.peer.shares().collect();
        let shared = |(file_id, file): (FileId, crate::share::library::LibraryFile)| {
            let state = *states.get(&file_id)?;
            Some(SharedFile { file_id, path: file.path(), wire: file.wire, size: file.size, state })
        };
        self.library.list().into_iter().filter_map(shared).collect()
    }

    fn request(&mut self, message: Box<DeviceToRelay>, reply: oneshot::Sender<DriverAnswer>) {
        self.last_ask += 1;
        let ask = self.last_ask;
        self.asked.insert(ask, reply);
        self.tell(Input::Ask { ask, message });
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

/// Passes on how far a reader in order has come.
async fn report_written(
    mut written: watch::Receiver<u32>,
    transfer_id: TransferId,
    file_id: FileId,
    reports: mpsc::Sender<TaskReport>,
) {
    while written.changed().await.is_ok() {
        let groups = *written.borrow_and_update();
        if reports.send(TaskReport::Consumed { transfer_id, file_id, groups }).await.is_err() {
            return;
        }
    }
}
