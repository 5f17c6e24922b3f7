//! What the person at the host may do, by whatever screen: terminal, console, control socket. All
//! see one truth.

use lanyard_protocol::device::is_valid_name;
use lanyard_protocol::limits::{MAX_INVITATION_MS, MAX_INVITATIONS, MAX_STAY_MS};
use lanyard_protocol::message::{
    Admission, Audience, ClientDisApproved, ClientUpdated, DisApproveClient, Empty, FeedAck,
    FeedPull, ForgetClient, Invitation, LinksPull,
};
use lanyard_protocol::{
    DeviceId, FailureCode, InvitationId, InvitationSecret, LinkHash, MasterToConsole,
    MasterToRelay, RequestId,
};

use super::catalogue_feed::Key;
use super::{
    Approval, AuditEvent, Authority, ChangeOrigin, Member, RequestToken, StoreWrite, Timer, Verdict,
};

/// One wish of the person at the host.
#[derive(Debug, Clone, PartialEq)]
pub enum OperatorCommand {
    /// Without `request_id`: the knock of that device which fits the word best.
    Approve {
        /// The device.
        public_id: DeviceId,
        /// The knock.
        request_id: Option<RequestId>,
        /// How sure the person is: digits typed, a tap, or a name.
        word: Approval,
        /// How long it may stay; then it is turned away.
        for_ms: Option<u64>,
    },
    /// Turn away: final.
    Refuse {
        /// The device.
        public_id: DeviceId,
    },
    /// Lift a refusal: that key may knock again, no more.
    Forget {
        /// The device.
        public_id: DeviceId,
    },
    /// Gives a device another name.
    Rename {
        /// The device.
        public_id: DeviceId,
        /// The new name.
        name: String,
    },
    /// Make an invitation.
    Invite {
        /// Milliseconds for which the invitation can be used.
        valid_ms: u64,
        /// Milliseconds for which an approval lasts; `None` for one without an end.
        for_ms: Option<u64>,
    },
    /// Sets which devices are let in from now on.
    SetDoor(Admission),
    /// Ask about more devices than usual, for ten minutes.
    AllowMore,
    /// Asks for a page of the feed.
    Pull(FeedPull),
    /// Everybody's links.
    PullLinks(LinksPull),
    /// Ends a link, whoever made it.
    DropLink(LinkHash),
}

impl Authority {
    pub(super) fn operator_said(&mut self, ask: RequestToken, command: OperatorCommand) {
        if let OperatorCommand::Approve { for_ms: Some(for_ms), .. }
        | OperatorCommand::Invite { for_ms: Some(for_ms), .. } = command
            && !(1..=MAX_STAY_MS).contains(&for_ms)
        {
            let days = MAX_STAY_MS / 86_400_000;
            let words = format!(
                "a stay that ends lasts {days} days at most; leave its end out for one without"
            );
            return self.refuse_ask_saying(ask, FailureCode::BadMessage, words);
        }
        match command {
            OperatorCommand::Approve { public_id, request_id, word, for_ms } => {
                let may_name =
                    word != Approval::Named || request_id.is_none() || self.config.tap_to_approve;
                if may_name {
                    self.approve(ask, public_id, request_id, &word, for_ms);
                } else {
                    self.refuse_ask(ask, FailureCode::BadMessage);
                }
            }
            OperatorCommand::Refuse { public_id } => self.refuse(ask, public_id),
            OperatorCommand::Forget { public_id } => self.forget(ask, public_id),
            OperatorCommand::Rename { public_id, name } => {
                self.rename_by_host(ask, public_id, name)
            }
            OperatorCommand::Invite { valid_ms, for_ms } => self.invite(ask, valid_ms, for_ms),
            OperatorCommand::SetDoor(admission) => self.set_door(ask, admission),
            OperatorCommand::AllowMore => self.allow_more(ask),
            OperatorCommand::PullLinks(pull) => self.links_pulled_by_host(ask, &pull),
            OperatorCommand::DropLink(hash) => self.link_dropped_by_host(ask, hash),
            OperatorCommand::Pull(pull) => match self.answer_pull(&pull) {
                Ok(page) => self.answer(ask, MasterToConsole::FeedPage(page)),
                Err(code) => self.refuse_ask(ask, code),
            },
        }
    }

    /// Turns a device away: on disk first, then everywhere, with all that it had.
    fn refuse(&mut self, ask: RequestToken, device: DeviceId) {
        if self.config.host == Some(device) {
            return self.refuse_ask(ask, FailureCode::BadMessage);
        }
        let known = self.roster.get(device).cloned();
        if let Some(member) = known.as_ref().filter(|member| member.verdict == Verdict::Refused) {
            let message = MasterToConsole::ClientDisApproved(ClientDisApproved {
                public_id: device,
                epoch: self.feed.epoch(),
                revision: member.revision,
                audience: Audience::All,
            });
            return self.answer(ask, message);
        }
        if self.disapprove(device, Some(ask)).is_none() {
            self.refuse_ask(ask, FailureCode::NotFound);
        }
    }

    /// On disk first, then everywhere. `None`: nobody knows it.
    fn disapprove(&mut self, device: DeviceId, ask: Option<RequestToken>) -> Option<()> {
        let known = self.roster.get(device).cloned();
        let who = known.as_ref().map(|member| (member.client.clone(), member.public_key));
        let (client, public_key) = who.or_else(|| self.knocker(device))?;
        let revision = self.next_revision();
        let (verdict, since_ms) = (Verdict::Refused, self.wall_ms);
        let member = Member { client, public_key, verdict, revision, since_ms, until_ms: None };
        self.save(StoreWrite::MemberPut(member.clone()));
        self.note(AuditEvent::Refused { client: member.client.clone(), time_over: ask.is_none() });
        self.roster.put(member);
        if known.is_some() {
            self.save(StoreWrite::BelongingsGone(device));
            self.drop_belongings(device, revision);
        }
        let no = DisApproveClient { public_id: device, epoch: self.feed.epoch(), revision };
        self.broadcast(MasterToRelay::DisApproveClient(no), ChangeOrigin::operator(ask));
        self.drop_knocks_of(device);
        self.publish(MasterToConsole::Refused(self.refused()), None);
        Some(())
    }

    /// Turns away whose time is over, and sets the alarm for the next.
    pub(super) fn watch_ends(&mut self) {
        for device in self.roster.overdue(self.wall_ms) {
            self.disapprove(device, None);
        }
        self.deadlines.clear(&Timer::End);
        if let Some(next) = self.roster.next_end() {
            // The time of day may jump: looked at again within the hour.
            let wait = next.saturating_sub(self.wall_ms).min(3_600_000);
            self.deadlines.set(Timer::End, self.now.plus(wait));
        }
    }

    fn invite(&mut self, ask: RequestToken, valid_ms: u64, for_ms: Option<u64>) {
        if !(1..=MAX_INVITATION_MS).contains(&valid_ms) {
            let days = MAX_INVITATION_MS / 86_400_000;
            let words = format!("an invitation can be used for {days} days at most");
            return self.refuse_ask_saying(ask, FailureCode::BadMessage, words);
        }
        self.invitations.forget_old(self.wall_ms);
        if self.invitations.len() >= MAX_INVITATIONS {
            let words = format!(
                "{MAX_INVITATIONS} invitations are out, and no more can be; one that is used or too old makes room"
            );
            return self.refuse_ask_saying(ask, FailureCode::Quota, words);
        }
        let (id, secret) = (InvitationId(self.ids.bytes()), InvitationSecret(self.ids.bytes()));
        let expires_ms = self.wall_ms.saturating_add(valid_ms);
        self.invitations.give(id, secret, expires_ms, for_ms);
        self.note(AuditEvent::Invited { id, expires_ms });
        self.answer(ask, MasterToConsole::Invitation(Invitation { id, secret, expires_ms }));
    }

    fn drop_belongings(&mut self, device: DeviceId, revision: u64) {
        let offering: Vec<_> = self.catalogue.sessions_of(device).collect();
        for session in offering {
            self.deadlines.clear(&super::Timer::Grace(session));
        }
        self.drop_files_of(device);
        self.drop_links_of(device);
        self.feed.remove(Key::Client(device), revision);
        self.online.remove(&device);
    }

    fn forget(&mut self, ask: RequestToken, device: DeviceId) {
        if self.roster.verdict(device) != Some(Verdict::Refused) {
            return self.refuse_ask(ask, FailureCode::NotFound);
        }
        self.save(StoreWrite::MemberGone(device));
        self.note(AuditEvent::Forgotten { public_id: device });
        self.roster.remove(device);
        self.send(MasterToRelay::ForgetClient(ForgetClient { public_id: device }));
        self.answer(ask, MasterToConsole::ForgetClientAck(Empty {}));
        self.publish(MasterToConsole::Refused(self.refused()), None);
    }

    fn rename_by_host(&mut self, ask: RequestToken, device: DeviceId, name: String) {
        if !is_valid_name(&name) {
            return self.refuse_ask(ask, FailureCode::BadMessage);
        }
        if !self.roster.is_approved(device) {
            return self.refuse_ask(ask, FailureCode::NotFound);
        }
        if !self.rename(device, name, ChangeOrigin::operator(Some(ask))) {
            let ack = FeedAck { epoch: self.feed.epoch(), revision: self.feed.revision() };
            self.answer(ask, MasterToConsole::UpdateNameAck(ack));
        }
    }

    /// Whether that changed anything.
    pub(super) fn rename(&mut self, device: DeviceId, name: String, asker: ChangeOrigin) -> bool {
        let Some(mut member) =
            self.roster.get(device).cloned().filter(|member| member.client.name != name)
        else {
            return false;
        };
        member.client.name = name;
        member.revision = self.next_revision();
        self.save(StoreWrite::MemberPut(member.clone()));
        self.note(AuditEvent::Renamed { public_id: device, name: member.client.name.clone() });
        self.list_client(device, member.revision);
        let updated = ClientUpdated {
            client: member.client.clone(),
            epoch: self.feed.epoch(),
            revision: member.revision,
            audience: Audience::All,
        };
        self.roster.put(member);
        // An archive's folders are called by it.
        self.catalogue.note_change(device);
        self.broadcast(MasterToRelay::ClientUpdated(updated), asker);
        true
    }
}
