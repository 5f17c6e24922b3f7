//! Which sessions are live, what membership each has, and who is present. Identity and connection
//! are two things: a device may have several sessions, and a session's end is compared by its id
//! before anything is removed.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::limits::MAX_SESSIONS_A_DEVICE;
use lanyard_protocol::message::{
    ApprovalCommit, ApprovalRestart, ApprovalReveal, MembershipNotice, Presence, PresenceChange,
    RequestChunk, RequestFailed,
};
use lanyard_protocol::{
    Client, CloseCode, DeviceId, DeviceRequest, DeviceToRelay, FailureCode, Instance, Membership,
    Nonce, Ref, RelayMessage, RelayToDevice, RelayToMaster, RequestId, SessionAddress, approval,
};

use super::pending_sessions::{PendingRoom, PendingSessions};
use super::*;
use crate::source_address::SourceAddress;

/// One live session of a device.
#[derive(Debug)]
pub(super) struct Session {
    pub identity: Identity,
    /// Its address, as bounds see it.
    pub source: SourceAddress,
    /// Changed by [`Sessions::set_membership`] alone.
    pub membership: Membership,
    /// Its knock, while it is pending.
    pub knock: Option<RequestId>,
    /// The master says yes to this very knock: it will not change under the approval.
    pub frozen_knock: bool,
    /// It was asked for a new promise; unasked it gives none, or it could look for a code that
    /// suits it.
    pub restarting: bool,
    /// PUTs in a row that lapsed without a word; at two the session counts as away.
    pub lapses: u32,
    pub away: bool,
    /// The reference of its last REQUEST_CHUNK: who repeats it asks nothing new.
    pub last_ask: Option<Ref>,
}

impl Session {
    pub(super) fn address(&self) -> SessionAddress {
        SessionAddress { public_id: self.identity.public_id, instance: self.identity.instance }
    }

    pub(super) fn is_approved(&self) -> bool {
        self.membership == Membership::Approved
    }

    pub(super) fn client(&self) -> Client {
        let identity = &self.identity;
        Client {
            public_id: identity.public_id,
            name: identity.name.clone(),
            kind: identity.kind,
            platform: identity.platform.clone(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    live: BTreeMap<SessionId, Session>,
    by_device: BTreeMap<DeviceId, BTreeMap<Instance, SessionId>>,
    by_knock: BTreeMap<RequestId, SessionId>,
    waiting: PendingSessions,
}

impl Sessions {
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.live.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.live.get_mut(&id)
    }

    /// Notes the reference of a session's newest ask; gives back the one before.
    pub(super) fn set_last_ask(&mut self, id: SessionId, reference: &Option<Ref>) -> Option<Ref> {
        std::mem::replace(&mut self.live.get_mut(&id)?.last_ask, reference.clone())
    }

    /// Notes that the session uploads: what lapsed before does not count any more.
    pub(super) fn clear_lapses(&mut self, id: SessionId) {
        if let Some(session) = self.live.get_mut(&id) {
            session.lapses = 0;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.live.len()
    }

    pub(super) fn approved_count(&self) -> usize {
        self.live.values().filter(|s| s.is_approved()).count()
    }

    pub(super) fn pending_count(&self) -> usize {
        self.waiting.count()
    }

    pub(super) fn asleep_count(&self) -> usize {
        self.live.values().filter(|s| s.is_approved() && s.away).count()
    }

    pub(super) fn ids(&self) -> Vec<SessionId> {
        self.live.keys().copied().collect()
    }

    pub(super) fn approved(&self) -> Vec<SessionId> {
        self.live.iter().filter(|(_, s)| s.is_approved()).map(|(id, _)| *id).collect()
    }

    pub(super) fn of_device(&self, device: DeviceId) -> Vec<SessionId> {
        self.by_device.get(&device).map(|map| map.values().copied().collect()).unwrap_or_default()
    }

    /// Returns the approved sessions of a device.
    pub(super) fn approved_of(&self, device: DeviceId) -> Vec<SessionId> {
        let mut sessions = self.of_device(device);
        sessions.retain(|id| self.live.get(id).is_some_and(Session::is_approved));
        sessions
    }

    pub(super) fn at(&self, address: SessionAddress) -> Option<SessionId> {
        self.by_device.get(&address.public_id)?.get(&address.instance).copied()
    }

    pub(super) fn knocking(&self, request: &RequestId) -> Option<SessionId> {
        self.by_knock.get(request).copied()
    }

    /// The approved session of that instance that can be asked for bytes now.
    pub(super) fn holder(&self, device: DeviceId, instance: Instance) -> Option<SessionId> {
        let id = self.at(SessionAddress { public_id: device, instance })?;
        let session = self.live.get(&id)?;
        (session.is_approved() && !session.away).then_some(id)
    }

    pub(super) fn is_present(&self, device: DeviceId) -> bool {
        self.of_device(device)
            .iter()
            .any(|id| self.live.get(id).is_some_and(|s| s.is_approved() && !s.away))
    }

    pub(super) fn present(&self) -> Vec<DeviceId> {
        let online: BTreeSet<DeviceId> = self
            .live
            .values()
            .filter(|s| s.is_approved() && !s.away)
            .map(|s| s.identity.public_id)
            .collect();
        online.into_iter().collect()
    }

    /// Whether one more may wait from there.
    pub(super) fn room_for(&self, source: SourceAddress) -> PendingRoom {
        self.waiting
            .room_for(source, |id| self.live.get(&id).is_some_and(|session| session.frozen_knock))
    }

    pub(super) fn set_membership(&mut self, id: SessionId, membership: Membership) {
        let Some(session) = self.live.get_mut(&id) else { return };
        session.membership = membership;
        if membership == Membership::Pending {
            self.waiting.add(session.source, id);
        } else {
            self.waiting.remove(session.source, id);
        }
    }

    fn insert(&mut self, id: SessionId, session: Session) {
        let at = session.address();
        self.by_device.entry(at.public_id).or_default().insert(at.instance, id);
        let membership = session.membership;
        self.live.insert(id, session);
        self.set_membership(id, membership);
    }

    fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.live.remove(&id)?;
        self.waiting.remove(session.source, id);
        if let Some(request) = session.knock {
            self.by_knock.remove(&request);
        }
        let at = session.address();
        if let Some(instances) = self.by_device.get_mut(&at.public_id) {
            // A newer session of the same instance stays: this one's end is not that one's.
            if instances.get(&at.instance) == Some(&id) {
                instances.remove(&at.instance);
            }
            if instances.is_empty() {
                self.by_device.remove(&at.public_id);
            }
        }
        Some(session)
    }

    /// No approval is under way any more.
    pub(super) fn thaw_knocks(&mut self) {
        self.live.values_mut().for_each(|session| session.frozen_knock = false);
    }

    pub(super) fn set_knock(&mut self, id: SessionId, request: Option<RequestId>) {
        let Some(session) = self.live.get_mut(&id) else { return };
        if let Some(old) = session.knock.take() {
            self.by_knock.remove(&old);
        }
        session.frozen_knock = false;
        session.knock = request;
        if let Some(request) = request {
            self.by_knock.insert(request, id);
        }
    }
}

/// Returns the one "no" to a request.
pub(super) fn request_failed(code: FailureCode) -> RelayToDevice {
    RelayToDevice::RequestFailed(RequestFailed {
        code,
        message: code.sentence().into(),
        retry_after_ms: code.may_retry().then_some(1_000),
        file_id: None,
    })
}

impl Broker {
    /// A session with a proven key: it replaces an older one of its instance, and learns where it
    /// stands.
    pub(super) fn session_opened(&mut self, now: Moment, id: SessionId, identity: Identity) {
        let at = SessionAddress { public_id: identity.public_id, instance: identity.instance };
        if let Some(old) = self.sessions.at(at) {
            self.effects.push(Effect::Session(SessionEffect::Close {
                session: old,
                code: CloseCode::Superseded,
            }));
            self.session_closed(now, old);
        }
        let membership = self.master.membership(identity.public_id);
        let source = SourceAddress::of(&identity.address);
        if let Some(code) = self.refuses(now, &identity, source, membership) {
            if membership == Membership::Disapproved {
                self.effects.push(Effect::Session(SessionEffect::Acknowledge {
                    session: id,
                    membership,
                    hub_ready: self.hub_ready(),
                }));
            }
            self.effects.push(Effect::Session(SessionEffect::Close { session: id, code }));
            return;
        }
        let device = identity.public_id;
        let was_present = self.sessions.is_present(device);
        let session = Session {
            identity,
            source,
            membership,
            knock: None,
            frozen_knock: false,
            restarting: false,
            lapses: 0,
            away: false,
            last_ask: None,
        };
        self.sessions.insert(id, session);
        self.effects.push(Effect::Session(SessionEffect::Acknowledge {
            session: id,
            membership,
            hub_ready: self.hub_ready(),
        }));
        match membership {
            Membership::Pending => self.knock(id),
            Membership::Approved => self.came_back(now, id, was_present),
            Membership::Unknown | Membership::Disapproved => {}
        }
    }

    fn refuses(
        &mut self,
        now: Moment,
        identity: &Identity,
        source: SourceAddress,
        membership: Membership,
    ) -> Option<CloseCode> {
        if membership == Membership::Disapproved {
            return Some(CloseCode::Revoked);
        }
        if self.sessions.of_device(identity.public_id).len() >= MAX_SESSIONS_A_DEVICE {
            return Some(CloseCode::RateLimited);
        }
        (membership == Membership::Pending && !self.makes_room(now, source))
            .then_some(CloseCode::RateLimited)
    }

    /// Whether one more may wait from there; somebody of a larger crowd may have to go for it.
    pub(super) fn makes_room(&mut self, now: Moment, source: SourceAddress) -> bool {
        match self.sessions.room_for(source) {
            PendingRoom::Free => true,
            PendingRoom::InPlaceOf(other) => {
                self.close(now, other, CloseCode::RateLimited);
                true
            }
            PendingRoom::None => false,
        }
    }

    /// Makes a session's knock and tells the master of it.
    pub(super) fn knock(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let who = &session.identity;
        let request =
            approval::request_id(&who.public_key, &who.commit, &who.relay_nonce, &who.name);
        self.sessions.set_knock(id, Some(request));
        self.announce_knock(id);
    }

    pub(super) fn announce_knock(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let (Some(request_id), who) = (session.knock, &session.identity) else { return };
        let message =
            RelayMessage::NewClientRegistered(lanyard_protocol::message::NewClientRegistered {
                client: session.client(),
                address: who.address.clone(),
                instance: who.instance,
                public_key: who.public_key,
                commit: who.commit,
                relay_nonce: who.relay_nonce,
                request_id,
                invitation: who.invitation.clone(),
            });
        self.tell_master(message);
    }

    /// An approved session is there: it hears who is present, the others and the master hear of it.
    pub(super) fn came_back(&mut self, now: Moment, id: SessionId, was_present: bool) {
        self.greet(id);
        let Some(session) = self.sessions.get(id) else { return };
        let (device, instance, resume) =
            (session.identity.public_id, session.identity.instance, session.identity.resume);
        if !was_present {
            self.tell_presence(device, true, Some(id));
        }
        self.tell_master(RelayMessage::ClientReconnected(PresenceChange {
            public_id: device,
            instance: Some(instance),
            resume,
            request_id: None,
        }));
        self.transfer(now, TransferInput::Session(SessionTransferInput::CameBack));
    }

    /// Sends an approved session the list of devices that are present.
    pub(super) fn greet(&mut self, id: SessionId) {
        let online = self.sessions.present();
        self.send(id, RelayToDevice::Presence(Presence { online }), None);
    }

    /// Tells approved sessions (all but `except`) that a device came or went.
    pub(super) fn tell_presence(
        &mut self,
        device: DeviceId,
        here: bool,
        except: Option<SessionId>,
    ) {
        let change =
            PresenceChange { public_id: device, instance: None, resume: None, request_id: None };
        let message = if here {
            RelayToDevice::ClientReconnected(change)
        } else {
            RelayToDevice::ClientDisconnected(change)
        };
        // One that is about to be turned away in this very step hears nothing more of others.
        let refused = |id: &SessionId| {
            self.sessions
                .get(*id)
                .is_some_and(|session| self.master.is_refused(session.identity.public_id))
        };
        let sessions = self
            .sessions
            .approved()
            .into_iter()
            .filter(|id| Some(*id) != except && !refused(id))
            .collect();
        self.broadcast(sessions, message, None);
    }

    /// A session ended, however: everything bound to it ends.
    pub(super) fn session_closed(&mut self, now: Moment, id: SessionId) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.transfer(now, TransferInput::Session(SessionTransferInput::Ended(id)));
        let device = session.identity.public_id;
        let here = session.is_approved() && !session.away;
        if here && !self.sessions.is_present(device) {
            self.tell_presence(device, false, None);
        }
        if here || session.knock.is_some() {
            self.tell_master(RelayMessage::ClientDisconnected(PresenceChange {
                public_id: device,
                instance: Some(session.identity.instance),
                resume: None,
                request_id: session.knock,
            }));
        }
    }

    /// A message of a device. What only approved devices may say is refused to all others alike.
    pub(super) fn message_received(
        &mut self,
        now: Moment,
        id: SessionId,
        message: DeviceToRelay,
        reference: Option<Ref>,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.lapses = 0;
        if session.away {
            self.woke_up(now, id);
        }
        match message {
            DeviceToRelay::Ping(empty) => self.send(id, RelayToDevice::Pong(empty), reference),
            DeviceToRelay::ClientRegister(_) => self.close(now, id, CloseCode::BadMessage),
            DeviceToRelay::ApprovalReveal(reveal) => self.revealed(now, id, reveal),
            DeviceToRelay::ApprovalCommit(commit) => self.committed_anew(id, commit),
            DeviceToRelay::RequestChunk(request) => {
                if self.admits(id, &reference) {
                    self.chunk_requested(now, id, request, reference);
                }
            }
            // Both are notices: nobody waits for an answer, so a stranger gets none.
            DeviceToRelay::CancelChunk(cancel) => {
                if self.is_approved(id) {
                    let input = DeviceTransferInput::Cancelled { session: id, cancel, reference };
                    self.transfer(now, TransferInput::Device(input));
                }
            }
            DeviceToRelay::ChunkUnavailable(no) => {
                if self.is_approved(id) {
                    let input = DeviceTransferInput::Unavailable { session: id, no };
                    self.transfer(now, TransferInput::Device(input));
                }
            }
            DeviceToRelay::UpdateName(m) => {
                self.ask_master(id, DeviceRequest::UpdateName(m), reference)
            }
            DeviceToRelay::FeedPull(m) => {
                self.ask_master(id, DeviceRequest::FeedPull(m), reference)
            }
            DeviceToRelay::AddFiles(m) => {
                self.ask_master(id, DeviceRequest::AddFiles(m), reference)
            }
            DeviceToRelay::RemoveFile(m) => {
                self.ask_master(id, DeviceRequest::RemoveFile(m), reference)
            }
            DeviceToRelay::LinkRequest(m) => {
                self.ask_master(id, DeviceRequest::LinkRequest(m), reference)
            }
            DeviceToRelay::LinksPull(m) => {
                self.ask_master(id, DeviceRequest::LinksPull(m), reference)
            }
            DeviceToRelay::LinkDrop(m) => {
                self.ask_master(id, DeviceRequest::LinkDrop(m), reference)
            }
        }
    }

    /// REQUEST_CHUNK of an approved session.
    fn chunk_requested(
        &mut self,
        now: Moment,
        session: SessionId,
        request: RequestChunk,
        reference: Option<Ref>,
    ) {
        // Two outcomes of one ask would cross: the asker calls off the one that it does not know,
        // and with it the other.
        if reference.is_some() && self.sessions.set_last_ask(session, &reference) == reference {
            return;
        }
        let input = DeviceTransferInput::Requested { session, request, reference };
        self.transfer(now, TransferInput::Device(input));
    }

    /// The holder did not even start; twice in a row means that it sleeps.
    pub(super) fn upload_lapsed(&mut self, now: Moment, holder: SessionId) {
        let Some(session) = self.sessions.get_mut(holder) else { return };
        session.lapses += 1;
        if session.lapses >= 2 {
            self.fell_asleep(holder);
            self.transfer(now, TransferInput::Session(SessionTransferInput::FellAsleep(holder)));
        }
    }

    fn is_approved(&self, id: SessionId) -> bool {
        self.sessions.get(id).is_some_and(Session::is_approved)
    }

    /// Returns true for an approved session; any other is told why it is refused.
    pub(super) fn admits(&mut self, id: SessionId, reference: &Option<Ref>) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let code = match session.membership {
            Membership::Approved => return true,
            Membership::Unknown => FailureCode::ServerNotReady,
            Membership::Pending | Membership::Disapproved => FailureCode::NotApproved,
        };
        self.fail(id, code, reference.clone());
        false
    }

    /// The one "no".
    pub(super) fn fail(&mut self, id: SessionId, code: FailureCode, reference: Option<Ref>) {
        self.send(id, request_failed(code), reference);
    }

    pub(super) fn close(&mut self, now: Moment, id: SessionId, code: CloseCode) {
        self.effects.push(Effect::Session(SessionEffect::Close { session: id, code }));
        self.session_closed(now, id);
    }

    /// A reveal must fit the promise made when knocking; then the master hears it and checks again.
    fn revealed(&mut self, now: Moment, id: SessionId, reveal: ApprovalReveal) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.knock != Some(reveal.request_id) {
            return; // an old knock's reveal: it is over, and the device has been told of the new one
        }
        if approval::commit(&session.identity.public_key, &reveal.reveal) != session.identity.commit
        {
            return self.close(now, id, CloseCode::Unauthenticated);
        }
        let from = session.address();
        self.tell_master_from(
            RelayToMaster::Relay(RelayMessage::ApprovalReveal(reveal)),
            Some(from),
            None,
        );
    }

    /// The answer to APPROVAL_RESTART: a new promise, hence a new knock with the nonce of the
    /// restart.
    fn committed_anew(&mut self, id: SessionId, commit: ApprovalCommit) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.membership != Membership::Pending || session.frozen_knock || !session.restarting
        {
            return;
        }
        session.restarting = false;
        session.identity.commit = commit.commit;
        session.identity.invitation = commit.invitation;
        self.knock(id);
    }

    /// The master wants a fresh knock: the session gets a new nonce to make it with.
    pub(super) fn restart_knock(&mut self, request: RequestId) {
        let Some(id) = self.sessions.knocking(&request) else { return };
        let nonce = Nonce(self.ids.bytes());
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.frozen_knock {
            return;
        }
        session.identity.relay_nonce = nonce;
        session.restarting = true;
        let message = ApprovalRestart { request_id: request, nonce };
        self.send(id, RelayToDevice::ApprovalRestart(message), None);
    }

    /// A session that was pending or unknown belongs now.
    pub(super) fn admit(&mut self, id: SessionId) {
        self.sessions.set_knock(id, None);
        self.sessions.set_membership(id, Membership::Approved);
        self.send(
            id,
            RelayToDevice::Membership(MembershipNotice { membership: Membership::Approved }),
            None,
        );
    }

    /// Its PUTs lapse though its socket answers: a frozen tab. It is away until it speaks.
    pub(super) fn fell_asleep(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.away || !session.is_approved() {
            return;
        }
        session.away = true;
        let at = session.address();
        if !self.sessions.is_present(at.public_id) {
            self.tell_presence(at.public_id, false, Some(id));
        }
        self.tell_master(RelayMessage::ClientDisconnected(PresenceChange {
            public_id: at.public_id,
            instance: Some(at.instance),
            resume: None,
            request_id: None,
        }));
    }

    fn woke_up(&mut self, now: Moment, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let device = session.identity.public_id;
        session.away = false;
        session.identity.resume = None;
        let others = self.sessions.of_device(device).into_iter().filter(|other| *other != id);
        let was_present = others
            .into_iter()
            .any(|other| self.sessions.get(other).is_some_and(|s| s.is_approved() && !s.away));
        self.came_back(now, id, was_present);
    }
}
