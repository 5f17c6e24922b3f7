//! The one owner of the Peer: carries messages, moves bytes, keeps the time; decides nothing.

mod closing;
mod connection_task;
mod staged;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lanyard_hub::peer::{
    CatalogueView, Effect, EndReason, FetchId, FetchOutcome, Input, MembershipPhase, Peer,
    PeerConfig, Registration, Reveals, TransferOrder,
};
use lanyard_hub::{IdSource, Moment};
use lanyard_protocol::codec::{self, DecodeError};
use lanyard_protocol::identity::Transcript;
use lanyard_protocol::master_proof;
use lanyard_protocol::message::{ChunkUnavailable, ClientRegisterAck, TransferProgress};
use lanyard_protocol::session_key::{EphemeralSecret, Signer};
use lanyard_protocol::{
    Channel, DeviceId, DeviceToRelay, FailureCode, FileId, FileRef, Frame, NewFile, PublicKey, Ref,
    RelayToDevice, Root, Ticket, TransferId,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Instrument;

use crate::DeviceConfig;
use crate::connection::http::Clients;
use crate::download::content_index::ContentIndex;
use crate::download::fetch::{self, FetchJob, FetchReporter, Fetched};
use crate::download::task::{DownloadStage, DownloadTask, SavedFile};
use crate::share::block_pool::BlockPool;
use crate::share::shared_root::SharedRoots;
use staged::Staged;

use crate::connection::ConnectionError;
use crate::download::file_sink::FinishError;
use crate::handle::{DeviceError, DeviceEvent, DriverAnswer, DriverCommand, SharedFile};
use crate::rate_limit::{Buckets, Rate, RateLimits};
use crate::share::library::{Library, ReadError};
use crate::share::upload::{self, Bodies, Uploaded};
use crate::transfers::{IncomingTransfer, TransferDirection, TransferInfo, Uploads};

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

/// What the tasks of a device tell its driver. Bounded: a driver that is behind makes them wait.
pub(crate) enum TaskReport {
    ConnectionOpened { link: u64, channel: Channel },
    Text { link: u64, text: String },
    ConnectionClosed { link: u64, code: Option<u16>, error: Option<ConnectionError> },
    Uploaded { ticket: Ticket, outcome: Uploaded },
    Unreadable { ticket: Ticket, file_id: FileId, code: FailureCode, replaced: Option<Replaced> },
    Disputed(Replaced),
    Fetched { transfer_id: TransferId, fetched: Fetched },
    FetchEnded { fetch: FetchId, outcome: FetchOutcome },
    Consumed { transfer_id: TransferId, file_id: FileId, groups: u32 },
    FilesClosed { transfer_id: TransferId, closed: Vec<(FileId, Result<SavedFile, FinishError>)> },
    Copied { order: TransferOrder },
    PutAside { transfer_id: TransferId, done: usize, failed: usize, result: io::Result<()> },
}

/// A shared file that is no longer what was listed.
pub(crate) struct Replaced {
    old: FileId,
    new: Option<NewFile>,
}

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
            other => self.events_of(other),
        }
    }

    /// Effects that are news and nothing else.
    fn events_of(&mut self, effect: Effect) {
        let event = match effect {
            Effect::CatalogueChanged => {
                self.catalogue = None;
                if self.news.back() == Some(&DeviceEvent::CatalogueChanged) {
                    return;
                }
                DeviceEvent::CatalogueChanged
            }
            Effect::SharesChanged { file_ids, state } => {
                DeviceEvent::SharesChanged { file_ids, state }
            }
            Effect::Renamed { name } => DeviceEvent::Renamed { name },
            Effect::RenameFailed { code, message } => DeviceEvent::RenameFailed { code, message },
            Effect::FileDone { transfer_id, file_id } => {
                let Some(file) = self.saved.remove(&(transfer_id, file_id)) else { return };
                DeviceEvent::FileDone { transfer_id, file }
            }
            Effect::FileFailed { transfer_id, file_id, code, message } => {
                let Some(owner) = self.downloads.get(&transfer_id).map(|download| download.owner)
                else {
                    return;
                };
                let file = FileRef { public_id: owner, file_id };
                let message = message.unwrap_or_else(|| code.sentence().into());
                DeviceEvent::FileFailed { transfer_id, file, code, message }
            }
            Effect::TransferChanged { transfer_id, waits_for, paused } => {
                let down = self.downs.entry(transfer_id).or_default();
                (down.waits_for, down.paused) = (waits_for, paused);
                DeviceEvent::Transfer { transfer_id, waits_for, paused }
            }
            Effect::Progress { progress } => {
                self.note_upload(&progress);
                if self.news.len() >= MAX_EVENTS_FOR_PROGRESS {
                    return;
                }
                DeviceEvent::RelayProgress(progress)
            }
            _ => return,
        };
        self.event(event);
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

    // ── Link
    // ────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn open_link(&mut self) {
        let (outbox, messages) = mpsc::channel(OUTBOX_CAPACITY);
        self.link.number += 1;
        self.link.outbox = Some(outbox);
        let task = connection_task::ConnectionTask {
            number: self.link.number,
            hub: self.config.hub.clone(),
            reports: self.reports.clone(),
        };
        tokio::spawn(task.run(messages));
    }

    /// Without its outbox the task says goodbye and ends; what it still reports is of an old
    /// number.
    fn close_link(&mut self) {
        self.link.outbox = None;
        self.link.number += 1;
        self.ephemeral = None;
        self.signer = None;
    }

    /// A reveal that cannot be counted does not go out: the link is left before it.
    fn count_reveal(&mut self, change: fn(&mut Reveals)) {
        if let Err(error) = self.config.reveals.note(change) {
            self.event(DeviceEvent::Unreachable { message: error.to_string() });
            self.close_link();
            self.link.stuck = true;
        }
    }

    fn send(&mut self, message: &DeviceToRelay, reference: Option<&Ref>) {
        self.send_text(codec::encode(message, reference));
    }

    fn send_text(&mut self, text: String) {
        let Some(outbox) = &self.link.outbox else { return };
        if outbox.try_send(text).is_err() {
            tracing::warn!("the relay takes no messages; connecting anew");
            self.link.stuck = true;
        }
    }

    /// What is sent from now on is bound to the certificate of this link.
    fn link_opened(&mut self, channel: Channel) {
        if self.clients.channel != channel {
            match Clients::new(channel) {
                Ok(clients) => self.clients = clients,
                Err(error) => {
                    self.close_link();
                    self.event(DeviceEvent::Unreachable { message: error.to_string() });
                    return self.tell(Input::LinkClosed { code: None });
                }
            }
        }
        self.tell(Input::LinkOpened);
    }

    fn register(&mut self, registration: &Registration) {
        let mut random = [0; 32];
        if let Err(error) = getrandom::fill(&mut random) {
            tracing::error!(%error, "the system has no randomness");
            self.close_link();
            return self.tell(Input::LinkClosed { code: None });
        }
        let ephemeral = EphemeralSecret::new(random);
        let authority = self.config.hub.authority();
        let transcript =
            registration.transcript(&authority, self.clients.channel, ephemeral.public());
        let signature = transcript.sign_as_device(&self.config.keypair);
        self.transcript = Some(transcript);
        let mut register = registration.message(ephemeral.public(), signature);
        register.host_proof = self.host_proof();
        self.send(&DeviceToRelay::ClientRegister(register), None);
        self.ephemeral = Some(ephemeral);
    }

    /// That this is the host's own device, where it is.
    fn host_proof(&self) -> Option<lanyard_protocol::Mac> {
        let secret = self.config.host_secret.as_ref()?;
        let transcript = self.transcript.as_ref()?;
        Some(master_proof::host_proof(&secret.0, transcript))
    }

    fn heard(&mut self, text: &str) {
        let frame: Frame<RelayToDevice> = match codec::decode(text) {
            Ok(frame) => frame,
            Err(DecodeError::BadMessage { opcode, why, .. }) => {
                return tracing::debug!(opcode, why, "a message of another shape");
            }
            Err(error) => {
                return tracing::warn!(?error, "the relay sent something that is no message");
            }
        };
        let Frame { message, reference } = frame;
        let message = match message {
            RelayToDevice::Challenge(challenge)
                if self.pinned.is_some_and(|key| key != challenge.hub.public_key) =>
            {
                return self.tell(Input::HubRefused);
            }
            RelayToDevice::Challenge(challenge) => {
                self.event(DeviceEvent::Hub { hub: challenge.hub.clone() });
                RelayToDevice::Challenge(challenge)
            }
            RelayToDevice::ClientRegisterAck(ack) => match self.acknowledged(ack) {
                Some(ack) => RelayToDevice::ClientRegisterAck(ack),
                None => return self.tell(Input::HubRefused),
            },
            other => other,
        };
        self.note_roots(&message);
        self.tell(Input::Received { frame: Frame::new(message, reference) });
    }

    /// The hub's proof is right: keeps what proves this session's requests. The machine gets the
    /// rest.
    fn acknowledged(&mut self, ack: ClientRegisterAck) -> Option<ClientRegisterAck> {
        let transcript = self.transcript.as_ref()?;
        let proven = ack.public_id == self.peer.public_id()
            && transcript.hub_signed(ack.public_id, &ack.signature);
        if !proven {
            return None;
        }
        let key =
            self.ephemeral.take()?.agree(&transcript.relay_ephemeral, &transcript.device_text())?;
        self.signer = ack.session_id.map(|session_id| Arc::new(Signer::new(session_id, key)));
        Some(ack)
    }

    // ── Bodies
    // ──────────────────────────────────────────────────────────────────────────────────────────────────────

    fn bodies(&self) -> Option<Bodies> {
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

    fn end_bodies(&mut self) {
        self.signer = None;
        self.uploads.drain().for_each(|(_, task)| task.abort());
        self.fetches.drain().for_each(|(_, task)| task.abort());
    }

    fn upload(&mut self, ticket: Ticket, pieces: Vec<lanyard_protocol::GroupSpan>, length: u64) {
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
    fn on_unreadable(&self, ticket: Ticket) -> upload::Unreadable {
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

    fn uploaded(&mut self, ticket: Ticket, outcome: Uploaded) {
        if outcome == Uploaded::Unreadable {
            // Its report comes by itself, and says more.
            return;
        }
        if self.uploads.remove(&ticket).is_some() && outcome == Uploaded::Broken {
            self.tell(Input::UploadRefused { ticket, code: FailureCode::Busy, file_id: None });
        }
    }

    fn unreadable(
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

    fn disputed(&mut self, file_id: FileId) {
        let (library, reports) = (self.library.clone(), self.reports.clone());
        tokio::spawn(async move {
            if let Some(replaced) = replace(library, file_id, FailureCode::FileChanged).await {
                let _ = reports.send(TaskReport::Disputed(replaced)).await;
            }
        });
    }

    fn fetch(&mut self, fetch: FetchId, transfer_id: TransferId, job: FetchJob) {
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

    fn discard(&mut self, transfer_id: TransferId, file_id: FileId) {
        let Some(download) = self.downloads.get(&transfer_id) else { return };
        if let Err(error) = download.discard(file_id) {
            tracing::warn!(%error, "the table of a file could not be emptied");
        }
    }

    /// Nothing of a transfer is left to do: its last news comes when its files are safe.
    fn put_aside(&mut self, transfer_id: TransferId, done: usize, failed: usize) {
        let Some(download) = self.downloads.get(&transfer_id).cloned() else { return };
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let noted = tokio::task::spawn_blocking(move || download.put_aside()).await;
            let result = noted.unwrap_or_else(|error| Err(io::Error::other(error)));
            let _ = reports.send(TaskReport::PutAside { transfer_id, done, failed, result }).await;
        });
    }

    fn transfer_over(
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

    fn measure(&mut self) {
        for (transfer_id, download) in &self.downloads {
            let done = download.received.load(Ordering::Relaxed);
            self.downs.entry(*transfer_id).or_default().looked(done, PROGRESS_INTERVAL);
        }
    }

    /// Other processes of this device hear of its files, too.
    fn note_upload(&mut self, progress: &TransferProgress) {
        if progress.public_id == self.peer.public_id()
            && self.library.get(progress.file_id).is_some()
        {
            self.uploading.heard(progress);
        }
    }

    fn transfers(&mut self) -> Vec<TransferInfo> {
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

    fn show_progress(&mut self) {
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

/// Looks at a file that could not be read as listed. `None`: somebody else did.
async fn replace(library: Arc<Library>, old: FileId, code: FailureCode) -> Option<Replaced> {
    let look = move || match code {
        FailureCode::FileChanged => library.replace(old),
        _ => library.remove(old).map(|_| None),
    };
    let new = tokio::task::spawn_blocking(look).await.ok()??;
    Some(Replaced { old, new })
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
