//! The state machine of a device: what it knows, what it shares, what it fetches next.
//!
//! The driver reports what the connection received and what became of the bytes. The machine
//! returns what to send and which bodies to move. It holds no key, no token and no path: the driver
//! signs, proves, reads and writes.

// A new variant of an enum must be decided on wherever the enum is matched; tests may pick one.
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod group_set;
mod input;
mod mirror;
mod scheduler;
mod session;
mod shares;
mod transfer;
mod window;

#[cfg(test)]
mod testing;

use std::collections::BTreeMap;

use lanyard_protocol::message::{Empty, RequestFailed};
use lanyard_protocol::{
    DeviceId, DeviceKind, DeviceToRelay, FailureCode, FileId, Frame, Instance, InvitationId,
    InvitationSecret, PublicKey, Ref, RelayToDevice, Resume,
};

pub use group_set::GroupSet;
pub use input::{
    CloseReason, Effect, EndReason, FetchId, FetchOutcome, Input, MembershipPhase, Registration,
    ShareState, TransferOrder, WantedFile,
};
pub use mirror::CatalogueView;

use crate::idsource::IdSource;
use crate::machine::{Deadlines, EffectQueue, Moment};
use mirror::{FeedChange, Mirror, Paged, Pushed};
use scheduler::Scheduler;
use session::PeerSession;
pub use session::Reveals;
use shares::Shares;

/// The identity of this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Ed25519 key of the device.
    pub public_key: PublicKey,
    /// Names this process; a newer session of the same instance replaces the older one.
    pub instance: Instance,
    /// Text for people.
    pub name: String,
    /// Says what runs on the device.
    pub kind: DeviceKind,
    /// Free text for people; may be empty.
    pub platform: String,
    /// The invitation to register with.
    pub invitation: Option<(InvitationId, InvitationSecret)>,
    /// Reveals of earlier runs of this device.
    pub reveals: Reveals,
}

/// Deadlines of the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Open the link again.
    Reconnect,
    /// The relay must have answered the handshake.
    Handshake,
    /// The master must have opened what it promised.
    Opening,
    /// The page that a pull waits for.
    Pull,
    /// An answer to our request.
    Request(u64),
    /// Offer again what the hub had no room or no ear for.
    Shares,
    /// A file's groups may be asked for again.
    Retry(lanyard_protocol::TransferId, FileId),
    /// The root of a file whose groups are all here did not come.
    Root(lanyard_protocol::TransferId, FileId),
    /// A run that nobody spoke of any more.
    Asked(u64),
    /// Shutting down does not wait for ever.
    Stop,
}

/// References count up from one.
const NOBODYS_REFERENCE: u64 = 0;

/// A request whose answer is awaited (REQUEST_CHUNK is kept with its transfer).
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pending {
    Add(Vec<FileId>),
    Remove(Vec<FileId>),
    Rename(String),
    Ask(u64),
}

/// The device as a pure machine. See the crate's documentation for the four verbs.
#[derive(Debug)]
pub struct Peer {
    config: PeerConfig,
    public_id: DeviceId,
    ids: IdSource,
    session: PeerSession,
    mirror: Mirror,
    shares: Shares,
    scheduler: Scheduler,
    pending: BTreeMap<u64, Pending>,
    /// The last reference given to a request.
    references: u64,
    timers: Deadlines<Timer>,
    effects: EffectQueue<Effect>,
    /// The last state that the driver was told.
    told: MembershipPhase,
    /// The catalogue changed since the driver was told.
    listed: bool,
}

impl Peer {
    /// `ids` makes nonces, reveals and jitter.
    pub fn new(config: PeerConfig, mut ids: IdSource) -> Self {
        // An answer may reach the next session of an instance, and a duplicated tab has the same
        // one (PROTOCOL.md 1.4).
        let references = ids.below(1 << 32);
        let public_id = lanyard_protocol::identity::public_id(&config.public_key);
        Self {
            config,
            public_id,
            ids,
            session: PeerSession::default(),
            mirror: Mirror::default(),
            shares: Shares::default(),
            scheduler: Scheduler::default(),
            pending: BTreeMap::new(),
            references,
            timers: Deadlines::default(),
            effects: EffectQueue::default(),
            told: MembershipPhase::Connecting,
            listed: false,
        }
    }

    /// Returns the id that follows from this device's key.
    pub fn public_id(&self) -> DeviceId {
        self.public_id
    }

    /// Returns where this device stands with the hub.
    pub fn phase(&self) -> &MembershipPhase {
        &self.told
    }

    /// Everything listed, as known here.
    pub fn catalogue(&self) -> &CatalogueView {
        self.mirror.catalogue()
    }

    /// Files that this device shares, each with its state.
    pub fn shares(&self) -> impl Iterator<Item = (FileId, ShareState)> + '_ {
        self.shares.states()
    }

    /// Applies one input; its effects are then drained with [`Peer::poll_effect`].
    pub fn handle(&mut self, now: Moment, input: Input) {
        match input {
            Input::Start => self.open_link(),
            Input::LinkOpened => self.link_opened(now),
            Input::LinkClosed { code } => self.link_closed(now, code),
            Input::HubRefused => self.end(EndReason::UntrustedHub),
            Input::Received { frame } => self.received(now, frame),
            Input::Rename { name } => self.rename(now, name),
            Input::Ask { ask, message } => self.ask_for_driver(now, ask, *message),
            Input::Share { files } => self.share(files),
            Input::Unshare { file_ids } => self.unshare(now, file_ids),
            Input::Replaced { old, new } => self.replaced(now, old, new),
            Input::UploadRefused { ticket, code, file_id } => {
                self.upload_refused(ticket, code, file_id)
            }
            Input::StartTransfer { order } => self.start_transfer(now, order),
            Input::Stored { transfer_id, pieces } => self.stored(now, transfer_id, &pieces),
            Input::Consumed { transfer_id, file_id, groups } => {
                self.scheduler.consumed(transfer_id, file_id, groups)
            }
            Input::Rejected { transfer_id, file_id, groups } => {
                self.rejected(transfer_id, file_id, &groups)
            }
            Input::FetchEnded { fetch, outcome } => self.fetch_ended(now, fetch, outcome),
            Input::FileClosed { transfer_id, file_id, outcome } => {
                self.file_closed(transfer_id, file_id, outcome)
            }
            Input::LimitDown { bytes_a_second } => self.scheduler.limit(bytes_a_second),
            Input::Pause { transfer_id } => self.pause(transfer_id),
            Input::Resume { transfer_id } => self.scheduler.resume(transfer_id),
            Input::Cancel { transfer_id } => self.cancel(transfer_id),
            Input::Stop => self.stop(now),
        }
        self.settle(now);
    }

    /// Takes the next effect; `None` when all were taken.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop()
    }

    /// Returns when [`Peer::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.timers.earliest()
    }

    /// Applies every deadline that has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Reconnect => self.open_link(),
                Timer::Handshake => self.handshake_late(now),
                Timer::Opening => self.opening_late(now),
                Timer::Pull => self.pull(now),
                Timer::Request(reference) => self.request_late(reference),
                Timer::Shares => self.offer_again(),
                Timer::Retry(transfer_id, file_id) => self.scheduler.retry(transfer_id, file_id),
                Timer::Root(transfer_id, file_id) => self.root_waited(transfer_id, file_id),
                Timer::Asked(reference) => self.ask_lapsed(now, reference),
                Timer::Stop => self.end(EndReason::Stopped),
            }
        }
        self.settle(now);
    }

    /// Follows every mutation: sends, offers and requests what is possible now.
    fn settle(&mut self, now: Moment) {
        self.offer(now);
        self.pump(now);
        self.stop_when_done();
        if std::mem::take(&mut self.listed) {
            self.effects.push(Effect::CatalogueChanged);
        }
        let phase = self.session.phase(self.mirror.is_complete());
        if phase != self.told {
            self.told = phase.clone();
            self.effects.push(Effect::PhaseChanged { phase });
        }
    }

    fn received(&mut self, now: Moment, frame: Frame<RelayToDevice>) {
        // A reference that this device never gives answers nothing. A page with one was not sent
        // unasked.
        let reference =
            frame.reference.as_ref().map(|r| r.as_str().parse().unwrap_or(NOBODYS_REFERENCE));
        let answered = if matches!(frame.message, RelayToDevice::RequestFailed(_)) {
            None
        } else {
            reference.and_then(|reference| self.take_pending(reference))
        };
        if let Some((at, change)) = FeedChange::of(&frame.message) {
            self.change(now, at, change);
        }
        if let Some(pending) = answered {
            self.request_done(pending, &frame.message);
        }
        self.message(now, frame.message, reference);
    }

    /// All but the changes of the feed, which are applied by now.
    fn message(&mut self, now: Moment, message: RelayToDevice, reference: Option<u64>) {
        match message {
            RelayToDevice::Challenge(challenge) => self.challenged(now, challenge),
            RelayToDevice::ClientRegisterAck(ack) => {
                self.registered(now, ack.membership, ack.hub_ready)
            }
            RelayToDevice::Membership(notice) => self.membership_said(now, notice.membership),
            RelayToDevice::ApprovalChallenge(m) => {
                self.approval_challenged(now, m.request_id, m.commit)
            }
            RelayToDevice::ApprovalOpen(m) => self.approval_opened(m.request_id, m.nonce),
            RelayToDevice::ApprovalRestart(m) => self.approval_restarted(m.request_id, m.nonce),
            RelayToDevice::ApprovalClosed(m) => self.approval_closed(m.request_id),
            RelayToDevice::Presence(presence) => self.presence(presence.online),
            RelayToDevice::ClientReconnected(m) => self.presence_changed(m.public_id, true),
            RelayToDevice::ClientDisconnected(m) => self.presence_changed(m.public_id, false),
            RelayToDevice::FeedPage(page) => self.paged(now, page, reference),
            RelayToDevice::FeedDirty(m) => {
                if m.feed.is_catalogue() && self.mirror.dirty() {
                    self.pull(now);
                }
            }
            RelayToDevice::HubReady(m) => {
                self.hub_ready(now, Resume { epoch: m.epoch, revision: m.revision })
            }
            RelayToDevice::ServerNotReady(_) => self.hub_away(),
            RelayToDevice::UploadChunkRequest(request) => self.upload_asked(request),
            RelayToDevice::UploadCancelled(m) => {
                self.effects.push(Effect::CancelUpload { ticket: m.ticket, code: m.code });
                // Two that lapse make the relay think that this device sleeps; who has nothing to
                // say would be away for good.
                if m.code == FailureCode::TimedOut {
                    self.send(DeviceToRelay::Ping(Empty {}), None);
                }
            }
            RelayToDevice::ChunkReady(ready) => self.chunk_ready(now, ready),
            RelayToDevice::ChunkFailed(failed) => self.chunk_failed(now, failed),
            RelayToDevice::JoinAt(at) => {
                self.scheduler.join_at(at.transfer_id, at.file_id, at.group)
            }
            RelayToDevice::TransferProgress(progress) => {
                self.effects.push(Effect::Progress { progress })
            }
            RelayToDevice::FileChanged(m) => {
                if m.public_id == self.public_id {
                    self.effects.push(Effect::FileDisputed { file_id: m.file_id });
                }
            }
            RelayToDevice::RequestFailed(failed) => self.request_failed(now, failed, reference),
            // Applied by `change`.
            RelayToDevice::ClientApproved(_)
            | RelayToDevice::ClientDisApproved(_)
            | RelayToDevice::ClientUpdated(_)
            | RelayToDevice::FilesAdded(_)
            | RelayToDevice::FilesUpdated(_)
            | RelayToDevice::FileRemoved(_)
            | RelayToDevice::FilesWithdrawn(_) => {}
            // Answers: `request_done` has them.
            RelayToDevice::AddFilesAck(_)
            | RelayToDevice::RemoveFileAck(_)
            | RelayToDevice::UpdateNameAck(_)
            | RelayToDevice::LinkMade(_)
            | RelayToDevice::LinkDropped(_)
            | RelayToDevice::LinksPage(_)
            | RelayToDevice::Pong(_) => {}
        }
    }

    fn change(&mut self, now: Moment, at: lanyard_protocol::Resume, change: FeedChange) {
        let mut hashed = None;
        match &change {
            FeedChange::Approved(client) => {
                if client.public_id == self.public_id {
                    self.let_in(now);
                }
            }
            FeedChange::ClientGone(device) => {
                if *device == self.public_id {
                    return self.end(EndReason::Refused);
                }
                self.owner_revoked(*device);
            }
            // Also by the host: the next registration carries this name.
            FeedChange::Updated(client) => {
                if client.public_id == self.public_id {
                    self.config.name = client.name.clone();
                }
            }
            FeedChange::Removed { owner, file_ids } => self.files_removed(*owner, file_ids),
            FeedChange::Files { owner, files } => self.files_listed(*owner, files),
            FeedChange::Roots { owner, files } => {
                let known: Vec<FileId> = files.iter().map(|file| file.file_id).collect();
                hashed = Some((*owner, known));
            }
            FeedChange::Withdrawn { .. } => {}
        }
        let takes_mine = change.takes_files_of(self.public_id);
        match self.mirror.push(at, change) {
            Pushed::Gap => self.pull(now),
            Pushed::Applied => {
                self.listed = true;
                if takes_mine {
                    self.reconcile_shares();
                }
                if let Some((owner, known)) = hashed {
                    self.roots_known(now, owner, &known);
                }
            }
            Pushed::Dropped | Pushed::Kept => {}
        }
    }

    // ── Pulls
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Pulls from where this mirror stands.
    fn pull(&mut self, now: Moment) {
        if !self.session.hub_here() {
            return;
        }
        let reference = self.next_reference();
        let from = self.mirror.begin(reference);
        self.send_pull(now, reference, from, None);
    }

    fn send_pull(
        &mut self,
        now: Moment,
        reference: u64,
        from: lanyard_protocol::Resume,
        cursor: Option<String>,
    ) {
        let pull = lanyard_protocol::message::FeedPull {
            feed: Default::default(),
            epoch: from.epoch,
            since: from.revision,
            cursor,
        };
        self.send(DeviceToRelay::FeedPull(pull), Some(reference));
        self.timers.set(Timer::Pull, now.plus(lanyard_protocol::limits::REQUEST_TIMEOUT_MS));
    }

    fn paged(&mut self, now: Moment, page: lanyard_protocol::FeedPage, reference: Option<u64>) {
        // A feed that this device does not follow.
        if !page.feed.is_catalogue() {
            return;
        }
        match self.mirror.page(page, reference) {
            Paged::Ignored => {}
            Paged::More { from, cursor } => {
                let reference = self.next_reference();
                self.mirror.rename_pull(reference);
                self.send_pull(now, reference, from, Some(cursor));
            }
            Paged::Again => {
                self.listed = true;
                self.pull(now);
            }
            Paged::Finished => {
                self.timers.clear(&Timer::Pull);
                self.listed = true;
                self.reconcile_shares();
                self.scheduler.owners_listed(self.mirror.catalogue());
                self.any_root_known(now);
            }
        }
    }

    fn presence(&mut self, online: Vec<DeviceId>) {
        for owner in &online {
            self.scheduler.owner_back(*owner);
        }
        self.mirror.set_online(online);
        self.listed = true;
    }

    fn presence_changed(&mut self, device: DeviceId, online: bool) {
        self.mirror.set_presence(device, online);
        self.listed = true;
        if online {
            self.scheduler.owner_back(device);
        }
    }

    // ── Requests
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    fn next_reference(&mut self) -> u64 {
        self.references += 1;
        self.references
    }

    fn send(&mut self, message: DeviceToRelay, reference: Option<u64>) {
        self.effects.push(Effect::Send { message, reference: reference.map(Ref::number) });
    }

    /// Sends a request and waits for its answer.
    fn request(&mut self, now: Moment, message: DeviceToRelay, pending: Pending) -> u64 {
        let reference = self.next_reference();
        self.pending.insert(reference, pending);
        self.timers
            .set(Timer::Request(reference), now.plus(lanyard_protocol::limits::REQUEST_TIMEOUT_MS));
        self.send(message, Some(reference));
        reference
    }

    fn take_pending(&mut self, reference: u64) -> Option<Pending> {
        self.timers.clear(&Timer::Request(reference));
        self.pending.remove(&reference)
    }

    fn request_done(&mut self, pending: Pending, answer: &RelayToDevice) {
        match pending {
            Pending::Add(file_ids) => self.added(file_ids),
            Pending::Remove(file_ids) => self.shares.removed(&file_ids),
            Pending::Rename(name) => self.effects.push(Effect::Renamed { name }),
            Pending::Ask(ask) => {
                self.effects.push(Effect::Answered { ask, answer: Ok(Box::new(answer.clone())) });
            }
        }
    }

    /// No answer in time. It still counts when it comes.
    fn request_late(&mut self, reference: u64) {
        let code = lanyard_protocol::FailureCode::TimedOut;
        match self.pending.get(&reference).cloned() {
            Some(Pending::Add(file_ids)) => {
                self.shares.late(&file_ids);
                self.effects
                    .push(Effect::SharesChanged { file_ids, state: ShareState::Failed { code } });
            }
            Some(Pending::Rename(_)) => {
                let message = code.sentence().into();
                self.effects.push(Effect::RenameFailed { code, message });
            }
            Some(Pending::Ask(ask)) => {
                self.pending.remove(&reference);
                self.refuse_driver(ask, code);
            }
            Some(Pending::Remove(_)) | None => {}
        }
    }

    fn ask_for_driver(&mut self, now: Moment, ask: u64, message: DeviceToRelay) {
        if !self.session.hub_here() {
            return self.refuse_driver(ask, lanyard_protocol::FailureCode::ServerNotReady);
        }
        self.request(now, message, Pending::Ask(ask));
    }

    fn refuse_driver(&mut self, ask: u64, code: lanyard_protocol::FailureCode) {
        let message = code.sentence().into();
        let no = RequestFailed { code, message, retry_after_ms: None, file_id: None };
        self.effects.push(Effect::Answered { ask, answer: Err(no) });
    }

    fn request_failed(&mut self, now: Moment, failed: RequestFailed, reference: Option<u64>) {
        let Some(reference) = reference else { return };
        if self.mirror.pulling() == Some(reference) {
            let wait =
                failed.retry_after_ms.unwrap_or(lanyard_protocol::limits::PULL_RETRY_MS).max(200);
            self.timers.set(Timer::Pull, now.plus(wait));
            return;
        }
        match self.take_pending(reference) {
            Some(Pending::Add(file_ids)) => self.add_failed(now, file_ids, failed),
            // Asked again after the next pull, if it is listed still.
            Some(Pending::Remove(_)) => {
                self.timers.set(Timer::Shares, now.plus(failed.retry_after_ms.unwrap_or(1_000)))
            }
            Some(Pending::Rename(_)) => {
                self.effects
                    .push(Effect::RenameFailed { code: failed.code, message: failed.message });
            }
            Some(Pending::Ask(ask)) => {
                self.effects.push(Effect::Answered { ask, answer: Err(failed) })
            }
            None => self.ask_refused(now, reference, failed),
        }
    }
}

#[cfg(test)]
mod tests;
