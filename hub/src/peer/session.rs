//! Connecting, knocking, belonging: the life of one session after another.

use lanyard_protocol::limits::{
    MAX_REVEALS, MAX_UNOPENED_REVEALS, OPENING_TIMEOUT_MS, RECONNECT_BASE_MS, RECONNECT_CAP_MS,
    REQUEST_TIMEOUT_MS,
};
use lanyard_protocol::message::{
    ApprovalCommit, ApprovalReveal, Challenge, InvitationProof, UpdateName,
};
use lanyard_protocol::{
    CloseCode, Commit, DeviceToRelay, Membership, Nonce, PROTOCOL_VERSION, PublicKey, RequestId,
    Resume, Reveal, approval,
};

use super::{Effect, EndReason, MembershipPhase, Peer, Pending, Registration, Timer};
use crate::machine::Moment;

/// The relay says CHALLENGE at once and answers a register at once; longer is a dead relay.
const HANDSHAKE_MS: u64 = 10_000;
/// How long a stopping device waits for the word that its files are off the list.
const STOP_MS: u64 = 2_000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ConnectionState {
    #[default]
    Down,
    Opening,
    Open,
}

/// How far a knock has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum JoinPhase {
    /// The device is bound to its reveal.
    Committed,
    /// The master was bound before, and owes the opening. Now the hub knows the digits, and this
    /// device does not.
    Revealed { commit: Commit },
    /// The digits stand on the screen.
    Opened { code: String },
    /// The host lets nobody in. A promise serves once, so only a new knock goes on.
    Closed,
}

/// One knock: a promise, and what was said of it.
#[derive(Debug, Clone)]
struct PendingJoin {
    relay_nonce: Nonce,
    commit: Commit,
    /// Revealed once.
    reveal: Reveal,
    stage: JoinPhase,
}

impl PendingJoin {
    fn code(&self) -> Option<String> {
        match &self.stage {
            JoinPhase::Opened { code } => Some(code.clone()),
            JoinPhase::Committed | JoinPhase::Revealed { .. } | JoinPhase::Closed => None,
        }
    }

    fn awaits_opening(&self) -> bool {
        matches!(self.stage, JoinPhase::Revealed { .. })
    }
}

/// Reveals of this device since a person last asked it to try: to whatever hub, in whatever
/// process. A hub that is in between two others learns the digits first and could leave until they
/// suit it; so it gets few reveals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reveals {
    /// Those that no valid opening followed. One counts from before it is made, and no success
    /// makes up for it: a false hub could open some to be shown others.
    pub unopened: u32,
    /// Reveals since a person last asked.
    pub given: u32,
}

impl Reveals {
    /// A person must ask for more.
    pub fn is_spent(self) -> bool {
        self.unopened >= MAX_UNOPENED_REVEALS || self.given >= MAX_REVEALS
    }

    /// One more, before it is made.
    pub fn give(&mut self) {
        self.unopened = self.unopened.saturating_add(1);
        self.given = self.given.saturating_add(1);
    }

    /// The last was opened as it was promised.
    pub fn opened(&mut self) {
        self.unopened = self.unopened.saturating_sub(1);
    }
}

/// Where this device stands with the relay.
#[derive(Debug, Default)]
pub(super) struct PeerSession {
    link: ConnectionState,
    hub_key: Option<PublicKey>,
    knock: Option<PendingJoin>,
    /// As the relay said it in this session.
    membership: Option<Membership>,
    /// The master is there.
    hub_ready: bool,
    /// Tries to connect since the last success.
    tries: u32,
    ended: Option<EndReason>,
    stopping: bool,
}

impl PeerSession {
    pub(super) fn phase(&self, complete: bool) -> MembershipPhase {
        if let Some(reason) = self.ended {
            return MembershipPhase::Ended { reason };
        }
        match self.membership {
            None => MembershipPhase::Connecting,
            Some(Membership::Unknown) => MembershipPhase::HostAway,
            Some(Membership::Pending)
                if self.knock.as_ref().is_some_and(|knock| knock.stage == JoinPhase::Closed) =>
            {
                MembershipPhase::Closed
            }
            Some(Membership::Pending) => {
                MembershipPhase::Waiting { code: self.knock.as_ref().and_then(PendingJoin::code) }
            }
            Some(Membership::Disapproved) => MembershipPhase::Ended { reason: EndReason::Refused },
            Some(Membership::Approved) if !complete => MembershipPhase::Entering,
            Some(Membership::Approved) => MembershipPhase::Approved { host_away: !self.hub_ready },
        }
    }

    /// May ask for chunks.
    pub(super) fn approved(&self) -> bool {
        self.membership == Some(Membership::Approved) && self.ended.is_none()
    }

    /// May ask for what needs the master.
    pub(super) fn hub_here(&self) -> bool {
        self.approved() && self.hub_ready
    }

    pub(super) fn stopping(&self) -> bool {
        self.stopping
    }
}

impl Peer {
    pub(super) fn open_link(&mut self) {
        if self.session.ended.is_some() || self.session.link != ConnectionState::Down {
            return;
        }
        self.session.link = ConnectionState::Opening;
        self.effects.push(Effect::OpenLink);
    }

    pub(super) fn link_opened(&mut self, now: Moment) {
        if self.session.link != ConnectionState::Opening {
            return;
        }
        self.session.link = ConnectionState::Open;
        self.timers.set(Timer::Handshake, now.plus(HANDSHAKE_MS));
    }

    pub(super) fn link_closed(&mut self, now: Moment, code: Option<u16>) {
        self.session.link = ConnectionState::Down;
        self.session_over();
        if self.session.ended.is_some() {
            return;
        }
        if let Some(reason) = code.and_then(CloseCode::from_number).and_then(end_of) {
            return self.end(reason);
        }
        if self.session.stopping {
            return self.end(EndReason::Stopped);
        }
        let ceiling = (RECONNECT_BASE_MS << self.session.tries.min(16)).min(RECONNECT_CAP_MS);
        self.session.tries = self.session.tries.saturating_add(1);
        self.timers.set(Timer::Reconnect, now.plus(self.ids.below(ceiling + 1)));
    }

    /// Ends everything that dies with a session: its join request, its requests, its bodies.
    fn session_over(&mut self) {
        let was_registered = self.session.membership.take().is_some();
        let is_lost = self.session.knock.take().is_some_and(|knock| knock.awaits_opening());
        self.session.hub_ready = false;
        for timer in [Timer::Handshake, Timer::Pull, Timer::Reconnect, Timer::Opening] {
            self.timers.clear(&timer);
        }
        for (reference, pending) in std::mem::take(&mut self.pending) {
            self.timers.clear(&Timer::Request(reference));
            match pending {
                Pending::Ask(ask) => {
                    self.refuse_driver(ask, lanyard_protocol::FailureCode::ServerNotReady)
                }
                Pending::Add(_) | Pending::Remove(_) | Pending::Rename(_) => {}
            }
        }
        self.mirror.abandon();
        self.shares.session_over();
        if was_registered {
            self.effects.push(Effect::EndBodies);
        }
        for timer in self.scheduler.session_over() {
            self.timers.clear(&timer);
        }
        if is_lost {
            self.reveal_lost();
        }
    }

    /// Nothing more is tried.
    pub(super) fn end(&mut self, reason: EndReason) {
        if self.session.ended.is_some() {
            return;
        }
        self.session.ended = Some(reason);
        if self.session.link == ConnectionState::Open {
            self.effects.push(Effect::CloseLink { code: None });
        }
        self.session_over();
        self.timers.clear(&Timer::Stop);
    }

    pub(super) fn handshake_late(&mut self, now: Moment) {
        self.effects.push(Effect::CloseLink { code: None });
        self.link_closed(now, None);
    }

    // ── Handshake
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn challenged(&mut self, now: Moment, challenge: Challenge) {
        if self.session.link != ConnectionState::Open || self.session.membership.is_some() {
            return;
        }
        if challenge.protocol != PROTOCOL_VERSION {
            return self.end(EndReason::Version);
        }
        let knock = self.new_knock(challenge.nonce);
        let registration = Registration {
            nonce: Nonce(self.ids.bytes()),
            commit: knock.commit,
            invitation: self.invitation_for(&knock),
            name: self.config.name.clone(),
            kind: self.config.kind,
            platform: self.config.platform.clone(),
            instance: self.config.instance,
            public_key: self.config.public_key,
            resume: self.mirror.resume(),
            challenge,
        };
        self.session.hub_key = Some(registration.challenge.hub.public_key);
        self.session.knock = Some(knock);
        self.timers.set(Timer::Handshake, now.plus(HANDSHAKE_MS));
        self.effects.push(Effect::Register { registration });
    }

    fn new_knock(&mut self, relay_nonce: Nonce) -> PendingJoin {
        let reveal = Reveal(self.ids.bytes());
        let commit = approval::commit(&self.config.public_key, &reveal);
        PendingJoin { relay_nonce, commit, reveal, stage: JoinPhase::Committed }
    }

    pub(super) fn registered(&mut self, now: Moment, membership: Membership, hub_ready: bool) {
        self.timers.clear(&Timer::Handshake);
        self.session.tries = 0;
        self.session.hub_ready = hub_ready;
        self.membership_is(now, membership);
    }

    pub(super) fn membership_said(&mut self, now: Moment, membership: Membership) {
        // The relay learns who belongs from the master alone.
        self.session.hub_ready |= membership != Membership::Unknown;
        if self.session.membership != Some(membership) {
            self.membership_is(now, membership);
        }
    }

    fn membership_is(&mut self, now: Moment, membership: Membership) {
        self.session.membership = Some(membership);
        match membership {
            Membership::Approved => {
                self.session.knock = None;
                self.timers.clear(&Timer::Opening);
                if self.session.hub_ready {
                    self.expect_page(now);
                }
            }
            Membership::Disapproved => self.end(EndReason::Refused),
            Membership::Pending | Membership::Unknown => {}
        }
    }

    /// CLIENT_APPROVED of itself. Its first page comes right behind it.
    pub(super) fn let_in(&mut self, now: Moment) {
        if self.session.approved() {
            return;
        }
        self.session.hub_ready = true;
        self.mirror.forget_position();
        self.membership_is(now, Membership::Approved);
    }

    fn expect_page(&mut self, now: Moment) {
        self.mirror.expect();
        self.timers.set(Timer::Pull, now.plus(REQUEST_TIMEOUT_MS));
    }

    /// The master is there. Where its list is the one that is known here, nothing is asked.
    pub(super) fn hub_ready(&mut self, now: Moment, feed: Resume) {
        self.session.hub_ready = true;
        if self.mirror.is_settled() && self.mirror.resume() == Some(feed) {
            self.reconcile_shares();
        } else {
            self.pull(now);
        }
        self.scheduler.hub_back();
    }

    pub(super) fn hub_away(&mut self) {
        self.session.hub_ready = false;
        self.mirror.abandon();
        self.timers.clear(&Timer::Pull);
    }

    // ── The knock
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    fn request_id(&self, knock: &PendingJoin) -> RequestId {
        approval::request_id(
            &self.config.public_key,
            &knock.commit,
            &knock.relay_nonce,
            &self.config.name,
        )
    }

    /// Shows what was given to this device, for this knock.
    fn invitation_for(&self, knock: &PendingJoin) -> Option<InvitationProof> {
        let (id, secret) = self.config.invitation?;
        Some(InvitationProof {
            id,
            proof: approval::invitation_proof(&secret, &self.request_id(knock)),
        })
    }

    fn is_ours(&self, request_id: RequestId) -> bool {
        self.session.knock.as_ref().is_some_and(|knock| self.request_id(knock) == request_id)
    }

    /// The master is bound; so the reveal can be made, once. It counts before it is made.
    pub(super) fn approval_challenged(
        &mut self,
        now: Moment,
        request_id: RequestId,
        commit: Commit,
    ) {
        if !self.is_ours(request_id) {
            return;
        }
        let Some(knock) =
            self.session.knock.as_mut().filter(|knock| knock.stage == JoinPhase::Committed)
        else {
            return;
        };
        if self.config.reveals.is_spent() {
            return self.end(EndReason::NotOpened);
        }
        knock.stage = JoinPhase::Revealed { commit };
        let reveal = knock.reveal;
        // A challenge comes from the master alone.
        self.session.hub_ready = true;
        self.config.reveals.give();
        self.effects.push(Effect::Revealing);
        self.timers.set(Timer::Opening, now.plus(OPENING_TIMEOUT_MS));
        self.send(DeviceToRelay::ApprovalReveal(ApprovalReveal { request_id, reveal }), None);
    }

    /// Takes the nonce that the master had committed to: only now this device knows its digits.
    /// Ignores anything else.
    pub(super) fn approval_opened(&mut self, request_id: RequestId, nonce: Nonce) {
        if !self.is_ours(request_id) {
            return;
        }
        let (Some(knock), Some(hub_key)) = (self.session.knock.as_mut(), self.session.hub_key)
        else {
            return;
        };
        let promised =
            JoinPhase::Revealed { commit: approval::master_commit(&hub_key, &request_id, &nonce) };
        if knock.stage != promised {
            return;
        }
        let code =
            approval::code(&hub_key, &self.config.public_key, &request_id, &knock.reveal, &nonce);
        knock.stage = JoinPhase::Opened { code };
        self.timers.clear(&Timer::Opening);
        self.config.reveals.opened();
        self.effects.push(Effect::Opened);
    }

    /// The opening did not come in time.
    pub(super) fn opening_late(&mut self, now: Moment) {
        self.effects.push(Effect::CloseLink { code: None });
        self.link_closed(now, None);
    }

    /// A reveal that nobody opened stays counted; it may have been the last.
    fn reveal_lost(&mut self) {
        self.timers.clear(&Timer::Opening);
        if self.config.reveals.is_spent() {
            self.end(EndReason::NotOpened);
        }
    }

    /// Nobody is let in at the moment.
    pub(super) fn approval_closed(&mut self, request_id: RequestId) {
        if !self.is_ours(request_id) {
            return;
        }
        let Some(knock) = self.session.knock.as_mut() else { return };
        let is_lost = knock.awaits_opening();
        knock.stage = JoinPhase::Closed;
        if is_lost {
            self.reveal_lost();
        }
    }

    /// A new promise, bound to the relay's new nonce.
    pub(super) fn approval_restarted(&mut self, request_id: RequestId, nonce: Nonce) {
        if !self.is_ours(request_id) {
            return;
        }
        let knock = self.new_knock(nonce);
        let commit = knock.commit;
        let invitation = self.invitation_for(&knock);
        if self.session.knock.replace(knock).is_some_and(|knock| knock.awaits_opening()) {
            self.reveal_lost();
        }
        if self.session.ended.is_none() {
            self.send(DeviceToRelay::ApprovalCommit(ApprovalCommit { commit, invitation }), None);
        }
    }

    // ── Name, end
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Renames the device. A pending device asks anew, because the name is part of its join
    /// request.
    pub(super) fn rename(&mut self, now: Moment, name: String) {
        if !lanyard_protocol::device::is_valid_name(&name) {
            let code = lanyard_protocol::FailureCode::BadMessage;
            let message = "a name has 1 to 255 bytes and no control characters".into();
            return self.effects.push(Effect::RenameFailed { code, message });
        }
        self.config.name = name.clone();
        match self.session.membership {
            Some(Membership::Approved) => {
                let message = DeviceToRelay::UpdateName(UpdateName { name: name.clone() });
                self.request(now, message, Pending::Rename(name));
            }
            Some(_) => {
                self.effects.push(Effect::CloseLink { code: None });
                self.session.link = ConnectionState::Down;
                self.session_over();
                self.open_link();
            }
            None => {}
        }
    }

    /// Takes back what is shared and ends when the hub has said so, or after a moment.
    pub(super) fn stop(&mut self, now: Moment) {
        self.session.stopping = true;
        let all: Vec<_> = self.shares.states().map(|(file_id, _)| file_id).collect();
        self.unshare(now, all);
        self.timers.set(Timer::Stop, now.plus(STOP_MS));
    }

    pub(super) fn stop_when_done(&mut self) {
        if self.session.stopping && (self.shares.is_quiet() || !self.session.hub_here()) {
            self.end(EndReason::Stopped);
        }
    }
}

/// Why a close code is the end (PROTOCOL.md 1), or `None` if the device comes back by itself.
fn end_of(code: CloseCode) -> Option<EndReason> {
    match code {
        CloseCode::Revoked => Some(EndReason::Refused),
        CloseCode::Superseded => Some(EndReason::Superseded),
        CloseCode::BadMessage | CloseCode::Unauthenticated => Some(EndReason::Rejected),
        CloseCode::TooSlow
        | CloseCode::TooLarge
        | CloseCode::RateLimited
        | CloseCode::ServerNotReady => None,
    }
}
