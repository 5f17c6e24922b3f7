//! Knocks: from a promise at the door to six digits typed at the host, and what comes of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lanyard_protocol::limits::{CODE_LIFETIME_MS, MAX_PENDING, REQUEST_TIMEOUT_MS};
use lanyard_protocol::message::{
    self, ApprovalChallenge, ApprovalClosed, ApprovalRestartRequest, ApprovalReveal, ApproveClient, ApproveClientAck,
    Audience, ClientApproved, DisApproveClient, DoorState, NewClientRegistered,
};
use lanyard_protocol::{
    DeviceId, FailureCode, MasterToConsole, MasterToRelay, Nonce, PublicKey, Recipient, Ref, RequestId, Resume,
    SessionAddress, approval, identity,
};

use super::admission::{self, Admission, Course, Judgement, Shown, Word};
use super::feed::Key;
use super::roster::{Member, Verdict};
use crate::machine::Moment;

use super::{Admitted, Ask, Asker, Authority, Change, Effect, Event, Note, Timer};

/// Knocks of one address that may end unsaid within the window: a million guesses take half a year.
const UNSAID_AN_ADDRESS: usize = 32;
const UNSAID_WINDOW_MS: u64 = 600_000;
/// How many are remembered in all.
const UNSAID_KEPT: usize = 4_096;

/// One knock.
#[derive(Debug, Clone)]
pub(super) struct Knock {
    pub request: NewClientRegistered,
    /// Where it stands in the queue; the oldest is shown first.
    order: u64,
    asked_ms: u64,
    nonce: Nonce,
    /// The digits, once the device has revealed its promise.
    pub code: Option<String>,
    tries_left: u32,
    /// Whether APPROVE_CLIENT is on its way, and who waits for what comes of it.
    approving: Option<Option<Ask>>,
    /// How long it may stay when it is let in.
    for_ms: Option<u64>,
    how: Admitted,
}

impl Knock {
    fn session(&self) -> SessionAddress {
        SessionAddress { public_id: self.request.client.public_id, instance: self.request.instance }
    }
}

#[derive(Debug, Default)]
pub(super) struct Knocks {
    by_request: BTreeMap<RequestId, Knock>,
    next_order: u64,
    /// While this relay still tells of knocks from before us (until its PONG): a device that revealed to an earlier
    /// master never answers a challenge for the same promise, so each is asked to promise anew, once.
    settling: bool,
    restarted: BTreeSet<SessionAddress>,
    /// Knocks that ended because nobody is let in at the moment.
    closed: BTreeSet<RequestId>,
    /// When knocks ended that had their challenge and did not reveal, and where they came from. Who sees a challenge knows what
    /// his digits would be: leaving and knocking anew until they suit him is how a man in the middle would look for them.
    unsaid: VecDeque<(Moment, String)>,
    /// Sessions at the door, also those whose knock is over and that have not knocked anew: an approval lets all of a
    /// device's sessions in.
    at_door: BTreeSet<SessionAddress>,
}

impl Knocks {
    pub fn get(&self, request: &RequestId) -> Option<&Knock> {
        self.by_request.get(request)
    }

    fn left_unsaid(&mut self, now: Moment, address: String) {
        if self.unsaid.len() >= UNSAID_KEPT {
            self.unsaid.pop_front();
        }
        self.unsaid.push_back((now, address));
    }

    /// From there so many left of late that no more are challenged for a while.
    fn leaves_too_often(&mut self, now: Moment, address: &str) -> bool {
        while self.unsaid.front().is_some_and(|(at, _)| now.since(*at) >= UNSAID_WINDOW_MS) {
            self.unsaid.pop_front();
        }
        self.unsaid.iter().filter(|(_, from)| from == address).count() >= UNSAID_AN_ADDRESS
    }

    fn of_session(&self, session: SessionAddress) -> Option<RequestId> {
        self.by_request.values().find(|knock| knock.session() == session).map(|knock| knock.request.request_id)
    }

    /// All of a device, oldest first.
    pub fn of_device(&self, device: DeviceId) -> Vec<RequestId> {
        self.sorted()
            .into_iter()
            .filter(|knock| knock.request.client.public_id == device)
            .map(|knock| knock.request.request_id)
            .collect()
    }

    fn sorted(&self) -> Vec<&Knock> {
        let mut knocks: Vec<&Knock> = self.by_request.values().collect();
        knocks.sort_by_key(|knock| knock.order);
        knocks
    }
}

impl Authority {
    /// All knocks as the host sees them, oldest first. With the digits: only for eyes that may see them.
    pub fn knocks(&self, with_codes: bool) -> message::Knocks {
        let view = |knock: &Knock| message::Knock {
            request_id: knock.request.request_id,
            public_id: knock.request.client.public_id,
            name: knock.request.client.name.clone(),
            kind: knock.request.client.kind,
            platform: knock.request.client.platform.clone(),
            address: knock.request.address.clone(),
            asked_ms: knock.asked_ms,
            ready: knock.code.is_some(),
            tries_left: knock.tries_left,
            looks_like: self.roster.looks_like(&knock.request.client),
            like_refused: self.roster.like_refused(&knock.request.client),
            code: knock.code.clone().filter(|_| with_codes),
        };
        message::Knocks { knocks: self.knocks.sorted().into_iter().map(view).collect() }
    }

    fn publish_knocks(&mut self) {
        let knocks = self.knocks(self.config.tap_to_approve);
        self.publish(MasterToConsole::Knocks(knocks), None);
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
        let expected = approval::request_id(&request.public_key, &request.commit, &request.relay_nonce, &client.name);
        if identity::public_id(&request.public_key) != client.public_id || expected != request.request_id {
            tracing::warn!(device = %client.public_id, "a knock whose ids do not fit its key was dropped");
            return;
        }
        match admission::course(&self.roster, self.config.host, client.public_id) {
            Course::TurnAway => self.refuse_again(client.public_id),
            Course::Welcome => {
                let session = SessionAddress { public_id: client.public_id, instance: request.instance };
                self.came_back(session, Resume::default());
            }
            Course::LetIn => {
                let id = request.request_id;
                self.keep_knock(request);
                self.let_in_unasked(id, Admitted::AsHost, None);
            }
            Course::Challenge => self.challenge(request),
        }
    }

    /// On disk already; the relay only missed it.
    fn refuse_again(&mut self, public_id: DeviceId) {
        let (epoch, revision) = (self.epoch, self.revision);
        self.send(MasterToRelay::DisApproveClient(DisApproveClient { public_id, epoch, revision }));
    }

    fn challenge(&mut self, request: NewClientRegistered) {
        let request_id = request.request_id;
        let session = SessionAddress { public_id: request.client.public_id, instance: request.instance };
        self.knocks.at_door.insert(session);
        if self.knocks.settling && self.knocks.restarted.insert(session) {
            return self.send(MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id }));
        }
        if self.knocks.get(&request_id).is_some() {
            return;
        }
        if let Some(older) = self.knocks.of_session(session) {
            self.drop_knock(older);
        }
        if self.knocks.leaves_too_often(self.now, &request.address) {
            tracing::warn!(
                address = request.address,
                "too many knocks from there ended before they showed their digits"
            );
            return;
        }
        if self.knocks.by_request.len() >= MAX_PENDING {
            tracing::warn!("more knocks than a person can look at; one was passed over");
            return;
        }
        let nonce = self.keep_knock(request);
        self.deadlines.set(Timer::Knock(request_id), self.now.plus(CODE_LIFETIME_MS));
        self.send(MasterToRelay::ApprovalChallenge(ApprovalChallenge { request_id, nonce }));
        self.publish_knocks();
    }

    fn keep_knock(&mut self, request: NewClientRegistered) -> Nonce {
        let nonce = Nonce(self.ids.bytes());
        self.knocks.next_order += 1;
        let knock = Knock {
            order: self.knocks.next_order,
            asked_ms: self.wall_ms,
            nonce,
            code: None,
            tries_left: admission::TRIES,
            approving: None,
            for_ms: None,
            how: Admitted::ByHost,
            request,
        };
        self.knocks.by_request.insert(knock.request.request_id, knock);
        nonce
    }

    /// The device keeps its promise: from here on both sides know the digits.
    pub(super) fn revealed(&mut self, said: ApprovalReveal) {
        let Some(hub_key) = self.hub_key else { return };
        let Some(knock) = self.knocks.by_request.get_mut(&said.request_id) else { return };
        if knock.code.is_some() {
            return;
        }
        let NewClientRegistered { public_key, commit, .. } = knock.request;
        if approval::commit(&public_key, &said.reveal) != commit {
            tracing::warn!(device = %knock.request.client.public_id, "a reveal that breaks its promise");
            self.drop_knock(said.request_id);
            return self.publish_knocks();
        }
        knock.code = Some(code_of(&hub_key, &public_key, &said, &knock.nonce));
        let client = knock.request.client.clone();
        let address = knock.request.address.clone();
        self.deadlines.set(Timer::Knock(said.request_id), self.now.plus(CODE_LIFETIME_MS));
        let (knocks, wall_ms) = (&self.knocks.by_request, self.wall_ms);
        let is_pending = |other: &RequestId| knocks.contains_key(other);
        let brought = said.invitation.as_ref();
        let shown = brought.map(|i| (i.id, self.invitations.show(i, said.request_id, wall_ms, is_pending)));
        let request_id = said.request_id;
        self.note(Note::Knocked { client: client.clone(), address: address.clone(), request_id });
        if let Some((id, worth)) = shown {
            if let Shown::Good { for_ms } = worth {
                return self.let_in_unasked(request_id, Admitted::ByInvitation, for_ms);
            }
            self.note(Note::BadInvitation { id, public_id: client.public_id, burnt: worth == Shown::Wrong });
        }
        match self.config.admission {
            Admission::Everyone => return self.let_in_unasked(request_id, Admitted::ByOpenDoor, None),
            Admission::Closed => return self.close_knock(request_id),
            Admission::Ask => {}
        }
        self.publish_knocks();
        self.event(Event::DevicePending { client, address, request_id: said.request_id });
    }

    /// Nobody is let in at the moment; the device hears so and waits.
    fn close_knock(&mut self, request_id: RequestId) {
        self.drop_knock(request_id);
        self.knocks.closed.insert(request_id);
        self.send(MasterToRelay::ApprovalClosed(ApprovalClosed { request_id }));
        self.publish_knocks();
    }

    /// Whom the host lets in from now on: who waited may knock anew, who waits is let in or hears that nobody is.
    pub(super) fn set_door(&mut self, ask: Ask, admission: Admission) {
        self.config.admission = admission;
        self.note(Note::Door { admission });
        if admission != Admission::Closed {
            for request_id in std::mem::take(&mut self.knocks.closed) {
                self.send(MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id }));
            }
        }
        let waiting: Vec<RequestId> = self.knocks.sorted().iter().map(|knock| knock.request.request_id).collect();
        for request in waiting {
            let knock = &self.knocks.by_request[&request];
            match admission {
                _ if knock.code.is_none() || knock.approving.is_some() => {}
                Admission::Ask => {}
                Admission::Everyone => self.let_in_unasked(request, Admitted::ByOpenDoor, None),
                Admission::Closed => self.close_knock(request),
            }
        }
        self.effects.push(Effect::Publish { message: MasterToConsole::Door(DoorState { admission }), ask: Some(ask) });
    }

    pub fn admission(&self) -> Admission {
        self.config.admission
    }

    /// The knock ended with its session.
    pub(super) fn knock_left(&mut self, request: RequestId) {
        self.knocks.closed.remove(&request);
        if let Some(knock) = self.knocks.get(&request).filter(|knock| knock.code.is_none()) {
            let address = knock.request.address.clone();
            self.knocks.left_unsaid(self.now, address);
        }
        if self.knocks.get(&request).is_some() {
            self.drop_knock(request);
            self.publish_knocks();
        }
    }

    /// Its code is too old, or was guessed at three times: the device promises anew.
    pub(super) fn restart_knock(&mut self, request_id: RequestId) {
        if self.knocks.get(&request_id).is_some() {
            self.drop_knock(request_id);
            self.send(MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id }));
            self.publish_knocks();
        }
    }

    fn drop_knock(&mut self, request: RequestId) {
        self.forget_deadlines(request);
        if let Some(Knock { approving: Some(Some(ask)), .. }) = self.knocks.by_request.remove(&request) {
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
        ask: Ask,
        device: DeviceId,
        request: Option<RequestId>,
        word: &Word,
        for_ms: Option<u64>,
    ) {
        if let Some(member) = self.roster.get(device).filter(|member| member.verdict == Verdict::Approved) {
            let message = MasterToConsole::ClientApproved(self.approval_of(member));
            return self.answer(ask, message);
        }
        if self.hub_key.is_none() {
            return self.refuse_ask(ask, FailureCode::ServerNotReady);
        }
        let knocks = self.knocks.of_device(device);
        let meant = match request {
            Some(request) => knocks.into_iter().find(|known| *known == request),
            None => self.best_fit(knocks, word),
        };
        let Some(request) = meant else {
            let code = if request.is_some() { FailureCode::StaleRequest } else { FailureCode::NotFound };
            return self.refuse_ask(ask, code);
        };
        let knock = &self.knocks.by_request[&request];
        if matches!(knock.approving, Some(Some(_))) {
            return self.refuse_ask(ask, FailureCode::Busy);
        }
        match admission::judge(knock, word) {
            Judgement::Right => self.ask_relay_to_freeze(request, Some(ask), for_ms),
            Judgement::Wrong => self.tried_in_vain(ask, request),
            Judgement::NotDigits => self.refuse_ask(ask, FailureCode::BadMessage),
            Judgement::TooEarly => self.refuse_ask(ask, FailureCode::Busy),
        }
    }

    /// Of several knocks of one device: the one whose digits were typed, else the oldest that shows some.
    fn best_fit(&self, knocks: Vec<RequestId>, word: &Word) -> Option<RequestId> {
        let judged = |wanted: Judgement| {
            knocks.iter().find(|id| admission::judge(&self.knocks.by_request[*id], word) == wanted).copied()
        };
        judged(Judgement::Right).or_else(|| judged(Judgement::Wrong)).or_else(|| knocks.first().copied())
    }

    fn tried_in_vain(&mut self, ask: Ask, request: RequestId) {
        let Some(knock) = self.knocks.by_request.get_mut(&request) else { return };
        knock.tries_left = knock.tries_left.saturating_sub(1);
        let (public_id, tries_left) = (knock.request.client.public_id, knock.tries_left);
        self.effects.push(Effect::Note(Note::WrongCode { public_id, request_id: request, tries_left }));
        if tries_left == 0 {
            self.restart_knock(request);
        } else {
            self.publish_knocks();
        }
        self.refuse_ask(ask, FailureCode::WrongCode);
    }

    /// The relay must still hold this very knock; from its ack on the approval cannot meet another.
    fn let_in_unasked(&mut self, request_id: RequestId, how: Admitted, for_ms: Option<u64>) {
        if let Some(knock) = self.knocks.by_request.get_mut(&request_id) {
            knock.how = how;
        }
        self.ask_relay_to_freeze(request_id, None, for_ms);
    }

    fn ask_relay_to_freeze(&mut self, request_id: RequestId, ask: Option<Ask>, for_ms: Option<u64>) {
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
        self.note(Note::Approved { client: noted, request_id, how, until_ms });
        let device = client.public_id;
        let revision = self.next_revision();
        let member =
            Member { client, public_key, verdict: Verdict::Approved, revision, since_ms: self.wall_ms, until_ms };
        self.save(Change::MemberPut(member.clone()));
        let approved = self.approval_of(&member);
        self.roster.put(member);
        self.feed.list(Key::Client(device), revision);
        self.watch_ends();
        // All its sessions come in with it.
        for session in self.take_from_door(device) {
            self.present(session);
        }
        for request in self.knocks.of_device(device) {
            if let Some(knock) = self.knocks.by_request.get(&request) {
                let session = knock.session();
                self.present(session);
            }
            self.drop_knock(request);
        }
        self.broadcast(MasterToRelay::ClientApproved(approved), Asker::operator(ask));
        let page = self.first_page(Resume::default());
        self.send_to(MasterToRelay::FeedPage(page), Recipient { public_id: device, instance: None }, None);
        self.publish_knocks();
    }

    fn approval_of(&self, member: &Member) -> ClientApproved {
        ClientApproved {
            client: member.client.clone(),
            epoch: self.epoch,
            revision: member.revision,
            audience: Audience::All,
        }
    }

    /// The relay's "no" to an APPROVE_CLIENT: the knock is another one by now.
    pub(super) fn not_frozen(&mut self, reference: Option<&Ref>, code: FailureCode) {
        let request = self.knocks.by_request.keys().find(|id| Some(&approve_ref(**id)) == reference).copied();
        let Some(request) = request else { return };
        if code == FailureCode::StaleRequest {
            self.drop_knock(request);
            return self.publish_knocks();
        }
        let knock = self.knocks.by_request.get_mut(&request).expect("it was found here");
        if let Some(ask) = knock.approving.take().flatten() {
            self.refuse_ask(ask, code);
        }
    }

    /// A session that may have been at the door is gone.
    pub(super) fn left_the_door(&mut self, session: SessionAddress) {
        self.knocks.at_door.remove(&session);
    }

    fn take_from_door(&mut self, device: DeviceId) -> Vec<SessionAddress> {
        let of_device: Vec<SessionAddress> =
            self.knocks.at_door.iter().filter(|session| session.public_id == device).copied().collect();
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
        }
    }

    /// The client and key behind a device's knock.
    pub(super) fn knocker(&self, device: DeviceId) -> Option<(lanyard_protocol::Client, PublicKey)> {
        let request = &self.knocks.get(self.knocks.of_device(device).first()?)?.request;
        Some((request.client.clone(), request.public_key))
    }
}

fn code_of(hub: &PublicKey, device: &PublicKey, said: &ApprovalReveal, nonce: &Nonce) -> String {
    approval::code(hub, device, &said.request_id, &said.reveal, nonce)
}

/// The `ref` of an APPROVE_CLIENT names its knock.
fn approve_ref(request: RequestId) -> Ref {
    Ref::new(format!("approve-{request}")).expect("eight letters and hex")
}
