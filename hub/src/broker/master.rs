//! The live master and its roster as the broker projects it: who may speak, who may hear.

use std::collections::BTreeSet;

use lanyard_protocol::message::*;
use lanyard_protocol::{
    CloseCode, DeviceId, FailureCode, FileRef, MasterFrame, MasterToRelay, Membership, Recipient,
    Ref, RelayMessage, RelayToDevice, RelayToMaster, RequestId, Resume, SessionAddress,
};

use super::*;

#[derive(Debug, Default)]
pub(super) struct MasterState {
    /// The one live master's session.
    pub session: Option<SessionId>,
    /// Its roster has arrived whole: devices may be served.
    pub ready: bool,
    /// Some master's roster has been seen in this boot; without one nobody's membership is known.
    roster_known: bool,
    approved: BTreeSet<DeviceId>,
    refused: BTreeSet<DeviceId>,
    /// Pages of a roster that is still arriving.
    arriving: Option<(BTreeSet<DeviceId>, BTreeSet<DeviceId>)>,
    pub head: Resume,
    /// The figures that this master was told last.
    pub told_status: Option<RelayStatus>,
}

impl MasterState {
    pub(super) fn membership(&self, device: DeviceId) -> Membership {
        if self.refused.contains(&device) {
            Membership::Disapproved
        } else if self.approved.contains(&device) {
            Membership::Approved
        } else if self.roster_known {
            Membership::Pending
        } else {
            Membership::Unknown
        }
    }

    /// Returns the session of the master whose roster is known.
    pub(super) fn ready_session(&self) -> Option<SessionId> {
        self.session.filter(|_| self.ready)
    }

    pub(super) fn is_refused(&self, device: DeviceId) -> bool {
        self.refused.contains(&device)
    }
}

/// Where a message of the master goes, and whose request it answers.
struct MessageRoute {
    /// One device; `None` means everybody who may hear of it.
    to: Option<Recipient>,
    reference: Option<Ref>,
    /// The session that caused a change, which hears it with its own reference.
    answer: Option<(SessionAddress, Ref)>,
}

impl Broker {
    pub(super) fn hub_ready(&self) -> bool {
        self.master.ready_session().is_some()
    }

    /// A newer master closes the older; it is ready after the last page of its roster.
    pub(super) fn master_opened(&mut self, now: Moment, session: SessionId) {
        if let Some(old) = self.master.session {
            self.effects.push(Effect::Master(MasterEffect::Close {
                session: old,
                code: CloseCode::Superseded,
            }));
            self.master_closed(now, old);
        }
        self.master.session = Some(session);
        self.master.ready = false;
        self.master.arriving = None;
    }

    /// The master is away: new requests are refused, what is granted goes on.
    pub(super) fn master_closed(&mut self, now: Moment, session: SessionId) {
        if self.master.session != Some(session) {
            return;
        }
        let was_ready = self.hub_ready();
        self.master.session = None;
        self.master.ready = false;
        self.master.arriving = None;
        if was_ready {
            let notice = ServerNotReady { retry_after_ms: 1_000 };
            self.broadcast(self.sessions.ids(), RelayToDevice::ServerNotReady(notice), None);
        }
        self.transfer(now, TransferInput::Master(MasterTransferInput::Lost));
        self.calls_lost();
        // An approval that it had begun and not decided ends with it: the next master asks anew.
        self.sessions.thaw_knocks();
    }

    pub(super) fn master_message(
        &mut self,
        now: Moment,
        session: SessionId,
        frame: MasterFrame<MasterToRelay>,
    ) {
        if self.master.session != Some(session) {
            return; // words of an old term
        }
        let MasterFrame { message, reference, to, ref_to, .. } = frame;
        if let MasterToRelay::MasterRoster(page) = message {
            return self.roster_page(now, page);
        }
        if let MasterToRelay::Ping(empty) = message {
            let frame = MasterFrame {
                reference,
                ..MasterFrame::plain(RelayToMaster::Relay(RelayMessage::Pong(empty)))
            };
            self.effects
                .push(Effect::Master(MasterEffect::Send { session, frame: Box::new(frame) }));
            return;
        }
        if self.master.ready {
            let answer = ref_to.zip(reference.clone());
            self.ready_message(now, session, message, MessageRoute { to, reference, answer });
        }
    }

    /// Acts on a message of a master whose roster is known. Whatever concerns devices is passed on
    /// after the broker learnt what it needs of it.
    fn ready_message(
        &mut self,
        now: Moment,
        session: SessionId,
        message: MasterToRelay,
        route: MessageRoute,
    ) {
        use MasterToRelay as M;
        use RelayToDevice as D;
        let reference = route.reference.clone();
        match message {
            // Both are dealt with before the hub is ready.
            M::MasterAppRegister(_) | M::MasterRoster(_) | M::Ping(_) => {}
            M::FileGrant(grant) => {
                let input = MasterTransferInput::Granted { grant, reference };
                self.transfer(now, TransferInput::Master(input));
            }
            M::LinkGrant(grant) => self.link_granted(now, grant, reference),
            M::LinkMembers(members) => self.link_members(now, members, reference),
            M::LinkMade(made) => {
                self.links.link_made(&made.link.link_hash);
                self.tell_maker(made.link.public_id, D::LinkMade(made), route.answer);
            }
            M::LinkDropped(dropped) => {
                self.link_over(now, dropped.link_hash, FailureCode::Cancelled);
                self.tell_maker(dropped.public_id, D::LinkDropped(dropped), route.answer);
            }
            M::RequestFailed(no) => match route.to {
                None => self.relay_request_failed(now, no, reference),
                Some(to) => self.send_all(self.recipients(to), D::RequestFailed(no), reference),
            },
            M::ApproveClient(approve) => self.freeze_knock(session, approve, reference),
            M::ClientApproved(approved) => self.client_approved(now, approved, route.answer),
            M::DisApproveClient(no) => self.client_refused(now, no, route.answer),
            M::ForgetClient(forget) => _ = self.master.refused.remove(&forget.public_id),
            M::ApprovalChallenge(m) => self.tell_knocking(m.request_id, D::ApprovalChallenge(m)),
            M::ApprovalOpen(m) => self.tell_knocking(m.request_id, D::ApprovalOpen(m)),
            M::ApprovalClosed(m) => self.tell_knocking(m.request_id, D::ApprovalClosed(m)),
            M::ApprovalRestart(restart) => self.restart_knock(restart.request_id),
            M::FilesAdded(m) => {
                self.files_added(now, &m);
                self.pass_on(D::FilesAdded(m), route);
            }
            M::FilesUpdated(m) => {
                self.files_updated(now, &m);
                self.pass_on(D::FilesUpdated(m), route);
            }
            M::FileRemoved(m) => {
                self.files_removed(now, &m);
                self.pass_on(D::FileRemoved(m), route);
            }
            M::FilesWithdrawn(m) => {
                self.master.head = Resume { epoch: m.epoch, revision: m.revision };
                self.pass_on(D::FilesWithdrawn(m), route);
            }
            M::ClientUpdated(m) => {
                self.master.head = Resume { epoch: m.epoch, revision: m.revision };
                self.pass_on(D::ClientUpdated(m), route);
            }
            M::FeedPage(m) => self.pass_on(D::FeedPage(m), route),
            M::AddFilesAck(m) => self.pass_on(D::AddFilesAck(m), route),
            M::RemoveFileAck(m) => self.pass_on(D::RemoveFileAck(m), route),
            M::UpdateNameAck(m) => self.pass_on(D::UpdateNameAck(m), route),
            M::LinksPage(m) => self.pass_on(D::LinksPage(m), route),
        }
    }

    /// Sends a list or a change to one device or to all, approved ones only.
    fn pass_on(&mut self, message: RelayToDevice, route: MessageRoute) {
        let MessageRoute { to, reference, answer } = route;
        match to {
            Some(to) => self.send_all(self.approved_recipients(to), message, reference),
            None => self.broadcast_approved(message, answer),
        }
    }

    fn send_all(
        &mut self,
        sessions: Vec<SessionId>,
        message: RelayToDevice,
        reference: Option<Ref>,
    ) {
        for id in sessions {
            self.send(id, message.clone(), reference.clone());
        }
    }

    fn tell_knocking(&mut self, request: RequestId, message: RelayToDevice) {
        if let Some(id) = self.sessions.knocking(&request) {
            self.send(id, message, None);
        }
    }

    /// News of a link: to all sessions of its maker and to nobody else.
    fn tell_maker(
        &mut self,
        maker: DeviceId,
        message: RelayToDevice,
        answer: Option<(SessionAddress, Ref)>,
    ) {
        let mut sessions = self.sessions.of_device(maker);
        sessions.retain(|id| self.sessions.get(*id).is_some_and(|session| session.is_approved()));
        self.broadcast(sessions, message, answer);
    }

    fn files_added(&mut self, now: Moment, added: &FilesAdded) {
        self.transfer(now, TransferInput::Files(FilesInput::Listed(&added.files)));
        self.master.head = Resume { epoch: added.epoch, revision: added.revision };
    }

    fn files_updated(&mut self, now: Moment, updated: &FilesUpdated) {
        self.transfer(now, TransferInput::Files(FilesInput::RootsListed(updated)));
        self.master.head = Resume { epoch: updated.epoch, revision: updated.revision };
    }

    fn files_removed(&mut self, now: Moment, removed: &FileRemoved) {
        let public_id = removed.public_id;
        let files = removed.file_ids.iter().map(|id| FileRef { public_id, file_id: *id }).collect();
        self.links.files_gone(&files);
        self.transfer(now, TransferInput::Files(FilesInput::Removed(&files)));
        self.master.head = Resume { epoch: removed.epoch, revision: removed.revision };
    }

    /// One page of who belongs; after the last the hub is ready.
    fn roster_page(&mut self, now: Moment, page: MasterRoster) {
        let (approved, refused) = self.master.arriving.get_or_insert_default();
        approved.extend(page.approved);
        refused.extend(page.refused);
        if !page.last {
            return;
        }
        let (approved, refused) = self.master.arriving.take().unwrap_or_default();
        self.master.approved = approved;
        self.master.refused = refused;
        self.master.roster_known = true;
        self.master.ready = true;
        self.master.head = Resume { epoch: page.epoch, revision: page.revision };
        self.project_roster(now);
        self.tell_master_who_is_here();
        self.tell_status(self.status());
        let ready = HubReady { epoch: page.epoch, revision: page.revision };
        self.broadcast_approved(RelayToDevice::HubReady(ready), None);
        self.transfer(now, TransferInput::Master(MasterTransferInput::Returned));
        self.calls_again();
        self.transfer(now, TransferInput::Session(SessionTransferInput::CameBack));
    }

    /// Gives every live session the membership that the roster says.
    fn project_roster(&mut self, now: Moment) {
        let mut admitted = Vec::new();
        for id in self.sessions.ids() {
            let Some(session) = self.sessions.get(id) else { continue };
            let device = session.identity.public_id;
            let source = session.source;
            let old = session.membership;
            let new = self.master.membership(device);
            match new {
                Membership::Approved if old != Membership::Approved => {
                    self.admit(id);
                    admitted.push((id, device));
                }
                Membership::Disapproved => self.close_with_code(now, id, self.master.head),
                // Nobody could be counted among the waiting before there was a roster.
                Membership::Pending
                    if old == Membership::Unknown && !self.makes_room(now, source) =>
                {
                    self.close(now, id, CloseCode::RateLimited);
                }
                Membership::Pending if old != Membership::Pending => {
                    self.sessions.set_membership(id, Membership::Pending);
                    let Some(session) = self.sessions.get_mut(id) else { continue };
                    let was_here = old == Membership::Approved && !session.away;
                    // Sleeping is for members: who wakes up is greeted as one.
                    (session.away, session.lapses) = (false, 0);
                    let notice = MembershipNotice { membership: Membership::Pending };
                    self.send(id, RelayToDevice::Membership(notice), None);
                    self.transfer(now, TransferInput::Session(SessionTransferInput::Demoted(id)));
                    // Announced with the others by `tell_master_who_is_here`.
                    let Some(session) = self.sessions.get(id) else { continue };
                    let who = &session.identity;
                    let request = lanyard_protocol::approval::request_id(
                        &who.public_key,
                        &who.commit,
                        &who.relay_nonce,
                        &who.name,
                    );
                    self.sessions.set_knock(id, Some(request));
                    if was_here && !self.sessions.is_present(device) {
                        self.tell_presence(device, false, None);
                    }
                }
                Membership::Approved | Membership::Pending | Membership::Unknown => {}
            }
        }
        for (id, device) in admitted {
            self.greet(id);
            self.tell_presence(device, true, Some(id));
        }
    }

    /// The last moment before an approval is final: the knock must still be the one on the host's
    /// screen.
    fn freeze_knock(&mut self, master: SessionId, approve: ApproveClient, reference: Option<Ref>) {
        let ApproveClient { public_id, request_id } = approve;
        let session = self.sessions.knocking(&request_id).and_then(|id| self.sessions.get_mut(id));
        let message = match session {
            Some(session) if session.identity.public_id == public_id => {
                session.frozen_knock = true;
                RelayToMaster::Relay(RelayMessage::ApproveClientAck(ApproveClientAck {
                    public_id,
                    request_id,
                }))
            }
            Some(_) | None => RelayToMaster::Relay(RelayMessage::RequestFailed(RequestFailed {
                code: FailureCode::StaleRequest,
                message: FailureCode::StaleRequest.sentence().into(),
                retry_after_ms: None,
                file_id: None,
            })),
        };
        let frame = MasterFrame { reference, ..MasterFrame::plain(message) };
        self.effects
            .push(Effect::Master(MasterEffect::Send { session: master, frame: Box::new(frame) }));
    }

    /// On the master's disk already: its sessions belong, and everybody hears of it.
    fn client_approved(
        &mut self,
        now: Moment,
        approved: ClientApproved,
        answer: Option<(SessionAddress, Ref)>,
    ) {
        let device = approved.client.public_id;
        self.master.head = Resume { epoch: approved.epoch, revision: approved.revision };
        self.master.refused.remove(&device);
        self.master.approved.insert(device);
        let was_present = self.sessions.is_present(device);
        let waiting: Vec<SessionId> = self
            .sessions
            .of_device(device)
            .into_iter()
            .filter(|id| self.sessions.get(*id).is_some_and(|s| !s.is_approved()))
            .collect();
        for id in &waiting {
            self.admit(*id);
        }
        self.broadcast_approved(RelayToDevice::ClientApproved(approved), answer);
        for id in &waiting {
            self.greet(*id);
        }
        if !was_present && let Some(first) = waiting.first() {
            self.tell_presence(device, true, Some(*first));
        }
        self.transfer(now, TransferInput::Session(SessionTransferInput::CameBack));
    }

    /// Final: everybody hears it, then all that the device had is over.
    fn client_refused(
        &mut self,
        now: Moment,
        no: DisApproveClient,
        answer: Option<(SessionAddress, Ref)>,
    ) {
        let device = no.public_id;
        self.master.head = Resume { epoch: no.epoch, revision: no.revision };
        self.master.approved.remove(&device);
        self.master.refused.insert(device);
        let own = self.sessions.of_device(device);
        let others = self.sessions.approved().into_iter().filter(|id| !own.contains(id)).collect();
        self.broadcast(others, refusal(device, self.master.head), answer);
        for id in own {
            self.close_with_code(now, id, self.master.head);
        }
        self.end_device(now, device);
    }

    fn close_with_code(&mut self, now: Moment, id: SessionId, head: Resume) {
        let Some(session) = self.sessions.get(id) else { return };
        let device = session.identity.public_id;
        let was_here = session.is_approved() && !session.away;
        self.sessions.set_membership(id, Membership::Disapproved);
        self.send(id, refusal(device, head), None);
        self.close(now, id, CloseCode::Revoked);
        if was_here && !self.sessions.is_present(device) {
            self.tell_presence(device, false, None);
        }
    }

    /// A "no" to something the relay itself asked.
    fn relay_request_failed(&mut self, now: Moment, no: RequestFailed, reference: Option<Ref>) {
        self.link_call_failed(now, no.code, reference.as_ref());
        self.transfer(now, TransferInput::Master(MasterTransferInput::Failed { no, reference }));
    }
}

fn refusal(device: DeviceId, head: Resume) -> RelayToDevice {
    RelayToDevice::ClientDisApproved(ClientDisApproved {
        public_id: device,
        epoch: head.epoch,
        revision: head.revision,
        audience: Audience::All,
    })
}
