//! Knocks: from a promise at the door to six digits typed at the host, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::limits::{
    ALLOW_MORE_MS, CODE_LIFETIME_MS, LEFT_PROMPT_MS, MAX_PENDING, REQUEST_TIMEOUT_MS,
    REVEAL_TIMEOUT_MS,
};
use lanyard_protocol::message::{
    self, ApprovalChallenge, ApprovalClosed, ApprovalOpen, ApprovalRestartRequest, ApprovalReveal,
    ApproveClient, ApproveClientAck, Audience, ClientApproved, DisApproveClient, DoorState,
    NewClientRegistered,
};
use lanyard_protocol::{
    DeviceId, FailureCode, MasterToConsole, MasterToRelay, Nonce, PublicKey, Recipient, Ref,
    RequestId, Resume, SessionAddress, approval, identity,
};

use super::admission::{self, Admission, Approval, CodeCheck, InvitationCheck, JoinDecision};
use super::prompts::{Candidate, Prompts, Wrong};
use super::roster::{Member, Verdict, skeleton};
use crate::source_address::SourceAddress;

use super::{
    AdmittedBy, AuditEvent, Authority, ChangeOrigin, Effect, OperatorEvent, RequestToken,
    StoreWrite, Timer,
};

/// The number of those who wait is told again this long after it changed.
const WAITING_TOLD_MS: u64 = 1_000;

/// How far a knock has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JoinStage {
    /// Until the person may be asked about it.
    Waiting,
    /// The device has the master's commitment and owes its reveal.
    Challenged,
    /// Both sides know these digits, and the person is asked.
    Shown { code: String },
    /// Its device left after the person was asked.
    Left,
}

/// One knock.
#[derive(Debug, Clone)]
pub(super) struct JoinRequest {
    pub request: NewClientRegistered,
    source: SourceAddress,
    /// The look of its name.
    look: String,
    /// Where it stands in the queue; the oldest is shown first.
    order: u64,
    asked_ms: u64,
    nonce: Nonce,
    stage: JoinStage,
    /// It takes the place of a prompt that stood.
    restarts: bool,
    tries_left: u32,
    /// Whether APPROVE_CLIENT is on its way, and who waits for what comes of it.
    approving: Option<Option<RequestToken>>,
    /// How long it may stay when it is let in.
    for_ms: Option<u64>,
    how: AdmittedBy,
}

impl JoinRequest {
    fn session(&self) -> SessionAddress {
        SessionAddress { public_id: self.request.client.public_id, instance: self.request.instance }
    }

    /// The digits that the device shows.
    pub(super) fn code(&self) -> Option<&String> {
        match &self.stage {
            JoinStage::Shown { code } => Some(code),
            JoinStage::Waiting | JoinStage::Challenged | JoinStage::Left => None,
        }
    }

    fn has_left(&self) -> bool {
        self.stage == JoinStage::Left
    }

    /// Until the person may be asked about it, unless it is let in unasked.
    fn waits(&self) -> bool {
        self.stage == JoinStage::Waiting && self.approving.is_none()
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            request: self.request.request_id,
            source: self.source,
            key: self.request.client.public_id,
            order: self.order,
            restarts: self.restarts,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct JoinRequests {
    by_request: BTreeMap<RequestId, JoinRequest>,
    next_order: u64,
    prompts: Prompts,
    /// While this relay still tells of knocks from before us (until its PONG): a device that
    /// revealed to an earlier master never answers a challenge for the same promise, so each is
    /// asked to promise anew, once.
    settling: bool,
    restarted: BTreeSet<SessionAddress>,
    /// Sessions whose prompt was ended by the master itself: their next one takes its place.
    replaced: BTreeSet<SessionAddress>,
    /// Knocks that ended because nobody is let in at the moment.
    closed: BTreeSet<RequestId>,
    /// Sessions at the door, also those whose knock is over and that have not knocked anew: an
    /// approval lets all of a device's sessions in.
    at_door: BTreeSet<SessionAddress>,
    /// How many the screens were told that wait.
    told_waiting: u32,
}

impl JoinRequests {
    pub(super) fn get(&self, request: &RequestId) -> Option<&JoinRequest> {
        self.by_request.get(request)
    }

    fn of_session(&self, session: SessionAddress) -> Option<RequestId> {
        let of_it = |knock: &&JoinRequest| knock.session() == session && !knock.has_left();
        self.by_request.values().find(of_it).map(|knock| knock.request.request_id)
    }

    /// All of a device, oldest first.
    pub(super) fn of_device(&self, device: DeviceId) -> Vec<RequestId> {
        self.sorted()
            .into_iter()
            .filter(|knock| knock.request.client.public_id == device)
            .map(|knock| knock.request.request_id)
            .collect()
    }

    fn sorted(&self) -> Vec<&JoinRequest> {
        let mut knocks: Vec<&JoinRequest> = self.by_request.values().collect();
        knocks.sort_by_key(|knock| knock.order);
        knocks
    }

    fn waiting(&self) -> u32 {
        self.by_request.values().filter(|knock| knock.waits()).count() as u32
    }

    fn still_here(&self) -> usize {
        self.by_request.values().filter(|knock| !knock.has_left()).count()
    }
}

impl Authority {
    /// All knocks as the host sees them, oldest first: those whose devices show their digits, or
    /// did and left. With the digits: only for eyes that may see them.
    pub fn knocks(&self, with_codes: bool) -> message::JoinRequestList {
        let view = |knock: &JoinRequest| message::JoinRequestInfo {
            request_id: knock.request.request_id,
            public_id: knock.request.client.public_id,
            name: knock.request.client.name.clone(),
            kind: knock.request.client.kind,
            platform: knock.request.client.platform.clone(),
            address: knock.request.address.clone(),
            asked_ms: knock.asked_ms,
            tries_left: knock.tries_left,
            left: knock.has_left(),
            looks_like: self.roster.looks_like(knock.request.client.public_id, &knock.look),
            like_refused: self.roster.like_refused(knock.request.client.public_id, &knock.look),
            code: knock.code().cloned().filter(|_| with_codes),
        };
        let in_sight =
            |knock: &&JoinRequest| matches!(knock.stage, JoinStage::Shown { .. } | JoinStage::Left);
        message::JoinRequestList {
            knocks: self.knocks.sorted().into_iter().filter(in_sight).map(view).collect(),
            waiting: self.knocks.waiting(),
            more_for_ms: self.knocks.prompts.more_for(self.now),
        }
    }

    /// The devices that wait until the person may be asked about them, or are about to show their
    /// digits; oldest first.
    pub fn waiting(&self) -> Vec<&NewClientRegistered> {
        let waits = |knock: &&JoinRequest| knock.waits() || knock.stage == JoinStage::Challenged;
        self.knocks.sorted().into_iter().filter(waits).map(|knock| &knock.request).collect()
    }

    pub(super) fn publish_knocks(&mut self) {
        let knocks = self.knocks(self.config.tap_to_approve);
        self.knocks.told_waiting = knocks.waiting;
        self.publish(MasterToConsole::Knocks(knocks), None);
    }

    /// Tells that somebody waits, at once, and how many they are a little later: who comes and goes
    /// all the time is not worth a message each time.
    fn watch_waiting(&mut self) {
        let waiting = self.knocks.waiting();
        if waiting > 0 && self.knocks.told_waiting == 0 {
            self.publish_knocks();
        } else if waiting != self.knocks.told_waiting
            && self.deadlines.get(&Timer::Waiting).is_none()
        {
            self.deadlines.set(Timer::Waiting, self.now.plus(WAITING_TOLD_MS));
        }
    }

    pub(super) fn tell_waiting(&mut self) {
        if self.knocks.waiting() != self.knocks.told_waiting {
            self.publish_knocks();
        }
    }

    /// The relay is there: whatever it tells until its PONG was pending before.
    pub(super) fn begin_settling(&mut self) {
        self.knocks.settling = true;
        self.knocks.restarted.clear();
    }

    pub(super) fn settled(&mut self) {
        self.knocks.settling = false;
        self.knocks.restarted.clear();
    }

    /// The relay is away and with it everybody at the door; who waited for an approval hears so.
    pub(super) fn drop_all_knocks(&mut self) {
        self.knocks.at_door.clear();
        self.knocks.closed.clear();
        self.knocks.replaced.clear();
        self.knocks.prompts.drop_all();
        self.deadlines.clear(&Timer::Prompts);
        let knocks = std::mem::take(&mut self.knocks.by_request);
        if knocks.is_empty() {
            return;
        }
        for (request, knock) in knocks {
            self.forget_deadlines(request);
            if let Some(Some(ask)) = knock.approving {
                self.refuse_ask(ask, FailureCode::ServerNotReady);
            }
        }
        self.publish_knocks();
    }

    pub(super) fn knocked(&mut self, request: NewClientRegistered) {
        let client = &request.client;
        let expected = approval::request_id(
            &request.public_key,
            &request.commit,
            &request.relay_nonce,
            &client.name,
        );
        if identity::public_id(&request.public_key) != client.public_id
            || expected != request.request_id
        {
            tracing::warn!(device = %client.public_id, "a knock whose ids do not fit its key was dropped");
            return;
        }
        match admission::decide(&self.roster, self.config.host, client.public_id) {
            JoinDecision::TurnAway => self.refuse_again(client.public_id),
            JoinDecision::Welcome => {
                let session =
                    SessionAddress { public_id: client.public_id, instance: request.instance };
                self.came_back(session, Resume::default());
            }
            JoinDecision::LetIn => {
                let id = request.request_id;
                self.keep_knock(request);
                self.let_in_unasked(id, AdmittedBy::AsHost, None);
            }
            JoinDecision::Challenge => self.asks_to_come_in(request),
        }
    }

    /// On disk already; the relay only missed it.
    fn refuse_again(&mut self, public_id: DeviceId) {
        let (epoch, revision) = (self.feed.epoch(), self.feed.revision());
        self.send(MasterToRelay::DisApproveClient(DisApproveClient { public_id, epoch, revision }));
    }

    /// An unknown device is at the door: it is let in by what it brings, hears that nobody is, or
    /// waits for the person.
    fn asks_to_come_in(&mut self, request: NewClientRegistered) {
        let request_id = request.request_id;
        let session =
            SessionAddress { public_id: request.client.public_id, instance: request.instance };
        self.knocks.at_door.insert(session);
        if self.knocks.settling && self.knocks.restarted.insert(session) {
            return self
                .send(MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id }));
        }
        if self.knocks.get(&request_id).is_some() {
            return;
        }
        if let Some(older) = self.knocks.of_session(session) {
            self.drop_knock(older);
        }
        if self.knocks.still_here() >= MAX_PENDING {
            tracing::warn!("more knocks than a person can look at; one was passed over");
            return;
        }
        self.knocks.prompts.expire(self.now);
        let brought = self.weigh_invitation(&request);
        if brought == Brought::TooManyWrong {
            return;
        }
        self.keep_knock(request);
        match (brought, self.config.admission) {
            (Brought::Good { for_ms }, _) => {
                self.let_in_as_known(request_id, AdmittedBy::ByInvitation, for_ms)
            }
            (_, Admission::Everyone) => {
                self.let_in_as_known(request_id, AdmittedBy::ByOpenDoor, None)
            }
            (_, Admission::Closed) => self.close_knock(request_id),
            (_, Admission::Ask) => self.ask_about_more(),
        }
    }

    fn let_in_as_known(&mut self, request_id: RequestId, how: AdmittedBy, for_ms: Option<u64>) {
        self.note_knock(request_id);
        self.let_in_unasked(request_id, how, for_ms);
    }

    /// A wrong proof says nothing about the invitation: its id can be heard, its secret not
    /// guessed. It counts against whoever sent it.
    fn weigh_invitation(&mut self, request: &NewClientRegistered) -> Brought {
        let Some(brought) = &request.invitation else { return Brought::Nothing };
        let by_request = &self.knocks.by_request;
        let wall_ms = self.wall_ms;
        let is_pending =
            |other: &RequestId| by_request.get(other).is_some_and(|knock| !knock.has_left());
        match self.invitations.show(brought, request.request_id, wall_ms, is_pending) {
            InvitationCheck::Good { for_ms } => return Brought::Good { for_ms },
            InvitationCheck::Wrong | InvitationCheck::Unknown => {}
        }
        let id = brought.id;
        let public_id = request.client.public_id;
        let source = SourceAddress::of(&request.address);
        match self.knocks.prompts.proved_wrongly(self.now, source, public_id) {
            Wrong::Noted => self.note(AuditEvent::BadInvitation { id, public_id }),
            Wrong::Unnoted => {}
            Wrong::TooOften => return Brought::TooManyWrong,
        }
        Brought::Nothing
    }

    /// Challenges those whose turn it is, as long as more may be asked about.
    pub(super) fn ask_about_more(&mut self) {
        self.knocks.prompts.expire(self.now);
        loop {
            let waiting = self.knocks.by_request.values().filter(|knock| knock.waits());
            let Some(next) =
                self.knocks.prompts.next(self.now, waiting.map(JoinRequest::candidate))
            else {
                break;
            };
            self.challenge(next);
        }
        self.deadlines.clear(&Timer::Prompts);
        if self.knocks.waiting() > 0 {
            self.deadlines.set(Timer::Prompts, self.knocks.prompts.next_chance(self.now));
        }
        self.watch_waiting();
    }

    /// Binds this side to its nonce before the device reveals.
    fn challenge(&mut self, request_id: RequestId) {
        let Some(hub_key) = self.hub_key else { return };
        let Some(knock) = self.knocks.by_request.get_mut(&request_id) else { return };
        knock.stage = JoinStage::Challenged;
        let commit = approval::master_commit(&hub_key, &request_id, &knock.nonce);
        let candidate = knock.candidate();
        self.knocks.prompts.challenged(self.now, &candidate);
        self.deadlines.set(Timer::Knock(request_id), self.now.plus(REVEAL_TIMEOUT_MS));
        self.send(MasterToRelay::ApprovalChallenge(ApprovalChallenge { request_id, commit }));
    }

    fn keep_knock(&mut self, request: NewClientRegistered) {
        let nonce = Nonce(self.ids.bytes());
        self.knocks.next_order += 1;
        let session =
            SessionAddress { public_id: request.client.public_id, instance: request.instance };
        let knock = JoinRequest {
            source: SourceAddress::of(&request.address),
            look: skeleton(&request.client.name),
            order: self.knocks.next_order,
            asked_ms: self.wall_ms,
            nonce,
            stage: JoinStage::Waiting,
            restarts: self.knocks.replaced.remove(&session),
            tries_left: admission::TRIES,
            approving: None,
            for_ms: None,
            how: AdmittedBy::ByHost,
            request,
        };
        self.knocks.by_request.insert(knock.request.request_id, knock);
    }

    fn note_knock(&mut self, request_id: RequestId) {
        let Some(NewClientRegistered { client, address, .. }) =
            self.knocks.get(&request_id).map(|k| &k.request)
        else {
            return;
        };
        let client = client.clone();
        let address = address.clone();
        self.note(AuditEvent::Knocked { client, address, request_id });
    }

    /// The device keeps its promise. The prompt counts, is in the record and on the screens before
    /// the device can know its digits, so that leaving now is seen.
    pub(super) fn revealed(&mut self, said: ApprovalReveal) {
        let Some(hub_key) = self.hub_key else { return };
        let request_id = said.request_id;
        let Some(knock) = self.knocks.by_request.get_mut(&request_id) else { return };
        if knock.stage != JoinStage::Challenged {
            return;
        }
        let NewClientRegistered { public_key, commit, .. } = knock.request;
        if approval::commit(&public_key, &said.reveal) != commit {
            tracing::warn!(device = %knock.request.client.public_id, "a reveal that breaks its promise");
            self.drop_knock(request_id);
            return self.ask_about_more();
        }
        let nonce = knock.nonce;
        let code = approval::code(&hub_key, &public_key, &request_id, &said.reveal, &nonce);
        knock.stage = JoinStage::Shown { code };
        let client = knock.request.client.clone();
        let address = knock.request.address.clone();
        self.knocks.prompts.revealed(self.now, request_id);
        self.note_knock(request_id);
        self.deadlines.set(Timer::Knock(request_id), self.now.plus(CODE_LIFETIME_MS));
        let is_asked_about = self.config.admission == Admission::Ask;
        if is_asked_about {
            self.publish_knocks();
            self.event(OperatorEvent::DevicePending { client, address, request_id });
        }
        self.send(MasterToRelay::ApprovalOpen(ApprovalOpen { request_id, nonce }));
        match self.config.admission {
            Admission::Everyone => self.let_in_unasked(request_id, AdmittedBy::ByOpenDoor, None),
            Admission::Closed => self.close_knock(request_id),
            Admission::Ask => {}
        }
        self.ask_about_more();
    }

    /// Nobody is let in at the moment; the device hears so and waits.
    fn close_knock(&mut self, request_id: RequestId) {
        let was_in_sight = self.knocks.get(&request_id).is_some_and(|knock| knock.code().is_some());
        self.drop_knock(request_id);
        self.knocks.closed.insert(request_id);
        self.send(MasterToRelay::ApprovalClosed(ApprovalClosed { request_id }));
        if was_in_sight {
            self.publish_knocks();
        }
    }

    /// Whom the host lets in from now on: who waited may knock anew, who waits is let in or hears
    /// that nobody is.
    pub(super) fn set_door(&mut self, ask: RequestToken, admission: Admission) {
        self.config.admission = admission;
        self.note(AuditEvent::Door { admission });
        if admission != Admission::Closed {
            for request_id in std::mem::take(&mut self.knocks.closed) {
                self.send(MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id }));
            }
        }
        let waiting: Vec<RequestId> =
            self.knocks.sorted().iter().map(|knock| knock.request.request_id).collect();
        for request in waiting {
            let knock = &self.knocks.by_request[&request];
            // A device that owes a reveal is looked at when it comes.
            if knock.approving.is_some()
                || matches!(knock.stage, JoinStage::Challenged | JoinStage::Left)
            {
                continue;
            }
            let was_asked_about = knock.code().is_some();
            match admission {
                Admission::Ask => {}
                Admission::Everyone if was_asked_about => {
                    self.let_in_unasked(request, AdmittedBy::ByOpenDoor, None);
                }
                Admission::Everyone => self.let_in_as_known(request, AdmittedBy::ByOpenDoor, None),
                Admission::Closed => self.close_knock(request),
            }
        }
        self.ask_about_more();
        self.effects.push(Effect::Publish {
            message: MasterToConsole::Door(DoorState { admission }),
            ask: Some(ask),
        });
    }

    /// The person wants to be asked about more devices than usual, for a while.
    pub(super) fn allow_more(&mut self, ask: RequestToken) {
        self.knocks.prompts.allow_more(self.now);
        self.note(AuditEvent::MoreAllowed);
        self.deadlines.set(Timer::More, self.now.plus(ALLOW_MORE_MS));
        self.ask_about_more();
        let knocks = self.knocks(self.config.tap_to_approve);
        self.knocks.told_waiting = knocks.waiting;
        self.effects
            .push(Effect::Publish { message: MasterToConsole::Knocks(knocks), ask: Some(ask) });
    }

    /// Returns the policy that holds now.
    pub fn admission(&self) -> Admission {
        self.config.admission
    }

    /// The knock ended with its session. If the person was asked about it, it stays in sight for a
    /// moment.
    pub(super) fn knock_left(&mut self, request: RequestId) {
        self.knocks.closed.remove(&request);
        let Some(knock) = self.knocks.by_request.get_mut(&request) else { return };
        if knock.code().is_none() {
            self.drop_knock(request);
            return self.ask_about_more();
        }
        knock.stage = JoinStage::Left;
        let waited = knock.approving.take().flatten();
        let client = knock.request.client.clone();
        let address = knock.request.address.clone();
        self.forget_deadlines(request);
        self.deadlines.set(Timer::Knock(request), self.now.plus(LEFT_PROMPT_MS));
        self.note(AuditEvent::Left { public_id: client.public_id, request_id: request });
        if let Some(ask) = waited {
            self.refuse_ask(ask, FailureCode::StaleRequest);
        }
        self.publish_knocks();
        self.event(OperatorEvent::DeviceLeft { client, address });
    }

    /// A knock's time is over: its code is too old, its device owes a reveal, or it left.
    pub(super) fn knock_is_due(&mut self, request_id: RequestId) {
        match self.knocks.get(&request_id).map(|knock| &knock.stage) {
            Some(JoinStage::Shown { .. }) => self.restart_knock(request_id),
            Some(JoinStage::Challenged) => {
                self.knocks.prompts.lapsed(self.now, request_id);
                self.drop_knock(request_id);
                self.send(MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id }));
                self.ask_about_more();
            }
            Some(JoinStage::Left) => {
                self.drop_knock(request_id);
                self.publish_knocks();
            }
            Some(JoinStage::Waiting) | None => {}
        }
    }

    /// Its code is too old, or was guessed at three times: the device promises anew, in place of
    /// this prompt.
    fn restart_knock(&mut self, request_id: RequestId) {
        let Some(session) = self.knocks.get(&request_id).map(JoinRequest::session) else { return };
        self.drop_knock(request_id);
        self.knocks.replaced.insert(session);
        self.send(MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id }));
        self.publish_knocks();
    }

    fn drop_knock(&mut self, request: RequestId) {
        self.forget_deadlines(request);
        self.knocks.prompts.dropped(request);
        if let Some(JoinRequest { approving: Some(Some(ask)), .. }) =
            self.knocks.by_request.remove(&request)
        {
            self.refuse_ask(ask, FailureCode::StaleRequest);
        }
    }

    fn forget_deadlines(&mut self, request: RequestId) {
        self.deadlines.clear(&Timer::Knock(request));
        self.deadlines.clear(&Timer::Approve(request));
    }

    /// The person at the host lets a device in.
    pub(super) fn approve(
        &mut self,
        ask: RequestToken,
        device: DeviceId,
        request: Option<RequestId>,
        word: &Approval,
        for_ms: Option<u64>,
    ) {
        if let Some(member) =
            self.roster.get(device).filter(|member| member.verdict == Verdict::Approved)
        {
            let message = MasterToConsole::ClientApproved(self.approval_of(member));
            return self.answer(ask, message);
        }
        if self.hub_key.is_none() {
            return self.refuse_ask(ask, FailureCode::ServerNotReady);
        }
        let is_here =
            |request: &RequestId| self.knocks.get(request).is_some_and(|knock| !knock.has_left());
        let knocks: Vec<RequestId> =
            self.knocks.of_device(device).into_iter().filter(is_here).collect();
        let meant = match request {
            Some(request) => knocks.into_iter().find(|known| *known == request),
            None => self.best_fit(knocks, word),
        };
        let Some(request) = meant else {
            let code =
                if request.is_some() { FailureCode::StaleRequest } else { FailureCode::NotFound };
            return self.refuse_ask(ask, code);
        };
        let knock = &self.knocks.by_request[&request];
        if matches!(knock.approving, Some(Some(_))) {
            return self.refuse_ask(ask, FailureCode::Busy);
        }
        match admission::check_code(knock, word) {
            CodeCheck::Right => self.ask_relay_to_freeze(request, Some(ask), for_ms),
            CodeCheck::Wrong => self.tried_in_vain(ask, request),
            CodeCheck::NotDigits => self.refuse_ask(ask, FailureCode::BadMessage),
            CodeCheck::TooEarly => self.refuse_ask(ask, FailureCode::Busy),
        }
    }

    /// Of several knocks of one device: the one whose digits were typed, else the oldest that shows
    /// some.
    fn best_fit(&self, knocks: Vec<RequestId>, word: &Approval) -> Option<RequestId> {
        let judged = |wanted: CodeCheck| {
            knocks
                .iter()
                .find(|id| admission::check_code(&self.knocks.by_request[*id], word) == wanted)
                .copied()
        };
        judged(CodeCheck::Right)
            .or_else(|| judged(CodeCheck::Wrong))
            .or_else(|| knocks.first().copied())
    }

    fn tried_in_vain(&mut self, ask: RequestToken, request: RequestId) {
        let Some(knock) = self.knocks.by_request.get_mut(&request) else { return };
        knock.tries_left = knock.tries_left.saturating_sub(1);
        let (public_id, tries_left) = (knock.request.client.public_id, knock.tries_left);
        self.effects.push(Effect::Note(AuditEvent::WrongCode {
            public_id,
            request_id: request,
            tries_left,
        }));
        if tries_left == 0 {
            self.restart_knock(request);
        } else {
            self.publish_knocks();
        }
        self.refuse_ask(ask, FailureCode::WrongCode);
    }

    /// The relay must still hold this very knock; from its ack on the approval cannot meet another.
    fn let_in_unasked(&mut self, request_id: RequestId, how: AdmittedBy, for_ms: Option<u64>) {
        if let Some(knock) = self.knocks.by_request.get_mut(&request_id) {
            knock.how = how;
        }
        self.ask_relay_to_freeze(request_id, None, for_ms);
    }

    fn ask_relay_to_freeze(
        &mut self,
        request_id: RequestId,
        ask: Option<RequestToken>,
        for_ms: Option<u64>,
    ) {
        let Some(knock) = self.knocks.by_request.get_mut(&request_id) else { return };
        (knock.approving, knock.for_ms) = (Some(ask), for_ms);
        let public_id = knock.request.client.public_id;
        self.deadlines.set(Timer::Approve(request_id), self.now.plus(REQUEST_TIMEOUT_MS));
        let message = MasterToRelay::ApproveClient(ApproveClient { public_id, request_id });
        self.send_with_ref(message, approve_ref(request_id));
    }

    /// Who asked hears that it takes too long; the relay's word still counts when it comes.
    pub(super) fn approve_waited(&mut self, request: RequestId) {
        let Some(knock) = self.knocks.by_request.get_mut(&request) else { return };
        if let Some(ask) = knock.approving.as_mut().and_then(Option::take) {
            self.refuse_ask(ask, FailureCode::TimedOut);
        }
    }

    pub(super) fn frozen(&mut self, ack: ApproveClientAck) {
        let Some(knock) = self.knocks.by_request.get_mut(&ack.request_id) else { return };
        let Some(ask) = knock.approving.take() else { return };
        let NewClientRegistered { client, public_key, .. } = knock.request.clone();
        let until_ms = knock.for_ms.map(|for_ms| self.wall_ms.saturating_add(for_ms));
        if client.public_id != ack.public_id {
            return;
        }
        let how = knock.how;
        self.invitations.used_by(ack.request_id);
        let (request_id, noted) = (ack.request_id, client.clone());
        self.note(AuditEvent::Approved { client: noted, request_id, how, until_ms });
        let device = client.public_id;
        let revision = self.next_revision();
        let member = Member {
            client,
            public_key,
            verdict: Verdict::Approved,
            revision,
            since_ms: self.wall_ms,
            until_ms,
        };
        self.save(StoreWrite::MemberPut(member.clone()));
        let approved = self.approval_of(&member);
        self.roster.put(member);
        self.list_client(device, revision);
        self.watch_ends();
        // All its sessions come in with it.
        for session in self.take_from_door(device) {
            self.present(session);
        }
        for request in self.knocks.of_device(device) {
            if let Some(session) = self
                .knocks
                .get(&request)
                .filter(|knock| !knock.has_left())
                .map(JoinRequest::session)
            {
                self.present(session);
            }
            self.drop_knock(request);
        }
        self.broadcast(MasterToRelay::ClientApproved(approved), ChangeOrigin::operator(ask));
        let page = self.first_page(Resume::default());
        self.send_to(
            MasterToRelay::FeedPage(page),
            Recipient { public_id: device, instance: None },
            None,
        );
        self.publish_knocks();
        self.ask_about_more();
    }

    fn approval_of(&self, member: &Member) -> ClientApproved {
        ClientApproved {
            client: member.client.clone(),
            epoch: self.feed.epoch(),
            revision: member.revision,
            audience: Audience::All,
        }
    }

    /// The relay's "no" to an APPROVE_CLIENT: the knock is another one by now.
    pub(super) fn not_frozen(&mut self, reference: Option<&Ref>, code: FailureCode) {
        let request =
            self.knocks.by_request.keys().find(|id| Some(&approve_ref(**id)) == reference).copied();
        let Some(request) = request else { return };
        if code == FailureCode::StaleRequest {
            self.drop_knock(request);
            self.publish_knocks();
            return self.ask_about_more();
        }
        let knock = self.knocks.by_request.get_mut(&request).expect("it was found here");
        if let Some(ask) = knock.approving.take().flatten() {
            self.refuse_ask(ask, code);
        }
        self.ask_about_more();
    }

    /// A session that may have been at the door is gone.
    pub(super) fn left_the_door(&mut self, session: SessionAddress) {
        self.knocks.at_door.remove(&session);
        self.knocks.replaced.remove(&session);
    }

    fn take_from_door(&mut self, device: DeviceId) -> Vec<SessionAddress> {
        let of_device: Vec<SessionAddress> = self
            .knocks
            .at_door
            .iter()
            .filter(|session| session.public_id == device)
            .copied()
            .collect();
        self.knocks.at_door.retain(|session| session.public_id != device);
        of_device
    }

    /// Ends all knocks of a device that is turned away.
    pub(super) fn drop_knocks_of(&mut self, device: DeviceId) {
        self.take_from_door(device);
        let knocks = self.knocks.of_device(device);
        let any = !knocks.is_empty();
        for request in knocks {
            self.drop_knock(request);
        }
        if any {
            self.publish_knocks();
            self.ask_about_more();
        }
    }

    /// The client and key behind a device's knock.
    pub(super) fn knocker(
        &self,
        device: DeviceId,
    ) -> Option<(lanyard_protocol::Client, PublicKey)> {
        let request = &self.knocks.get(self.knocks.of_device(device).first()?)?.request;
        Some((request.client.clone(), request.public_key))
    }
}

/// An invitation that a device brings to the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought {
    Nothing,
    Good {
        for_ms: Option<u64>,
    },
    /// One wrong proof more than its sender may send.
    TooManyWrong,
}

/// The `ref` of an APPROVE_CLIENT names its knock.
fn approve_ref(request: RequestId) -> Ref {
    Ref::new(format!("approve-{request}")).expect("eight letters and hex")
}
