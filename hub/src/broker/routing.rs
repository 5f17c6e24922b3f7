//! Who hears what. Lists and changes go to approved sessions only, whatever anybody says.

use lanyard_protocol::message::PresenceChange;
use lanyard_protocol::{
    DeviceRequest, FailureCode, MasterFrame, Recipient, Ref, RelayMessage, RelayToDevice,
    RelayToMaster, SessionAddress,
};

use super::*;

impl Broker {
    /// Sends one message to many; `answer` names who caused it and hears it with its reference.
    pub(super) fn broadcast(
        &mut self,
        sessions: Vec<SessionId>,
        message: RelayToDevice,
        answer: Option<(SessionAddress, Ref)>,
    ) {
        if sessions.is_empty() {
            return;
        }
        let answered =
            answer.and_then(|(address, reference)| Some((self.sessions.at(address)?, reference)));
        self.effects.push(Effect::Session(SessionEffect::Broadcast {
            sessions,
            message,
            answered,
        }));
    }

    /// Passes a change of the master's on to everybody approved.
    pub(super) fn broadcast_approved(
        &mut self,
        message: RelayToDevice,
        answer: Option<(SessionAddress, Ref)>,
    ) {
        self.broadcast(self.sessions.approved(), message, answer);
    }

    /// The approved sessions that the master means.
    pub(super) fn approved_recipients(&self, to: Recipient) -> Vec<SessionId> {
        self.recipients(to)
            .into_iter()
            .filter(|id| self.sessions.get(*id).is_some_and(|s| s.is_approved()))
            .collect()
    }

    pub(super) fn recipients(&self, to: Recipient) -> Vec<SessionId> {
        match to.instance {
            Some(instance) => self
                .sessions
                .at(SessionAddress { public_id: to.public_id, instance })
                .into_iter()
                .collect(),
            None => self.sessions.of_device(to.public_id),
        }
    }

    /// Passes an approved device's request on to the master, or answers why not.
    pub(super) fn ask_master(
        &mut self,
        id: SessionId,
        request: DeviceRequest,
        reference: Option<Ref>,
    ) {
        if !self.admits(id, &reference) {
            return;
        }
        let Some(session) = self.sessions.get(id) else { return };
        let from = session.address();
        if !self.hub_ready() {
            return self.fail(id, FailureCode::ServerNotReady, reference);
        }
        self.tell_master_from(RelayToMaster::Device(request), Some(from), reference);
    }

    pub(super) fn tell_master(&mut self, message: RelayMessage) {
        self.tell_master_from(RelayToMaster::Relay(message), None, None);
    }

    /// Says something to the live master; without one it is dropped, for a master that comes back
    /// is told all anew.
    pub(super) fn tell_master_from(
        &mut self,
        message: RelayToMaster,
        from: Option<SessionAddress>,
        reference: Option<Ref>,
    ) {
        if !self.hub_ready() {
            return;
        }
        if let Some(session) = self.master.session {
            let frame = MasterFrame { message, reference, from, to: None, ref_to: None };
            self.effects
                .push(Effect::Master(MasterEffect::Send { session, frame: Box::new(frame) }));
        }
    }

    /// What the master that just came back hears of every session that is there.
    pub(super) fn tell_master_who_is_here(&mut self) {
        for id in self.sessions.ids() {
            let Some(session) = self.sessions.get(id) else { continue };
            if session.knock.is_some() {
                self.announce_knock(id);
            } else if session.is_approved() && !session.away {
                let change = PresenceChange {
                    public_id: session.identity.public_id,
                    instance: Some(session.identity.instance),
                    resume: session.identity.resume,
                    request_id: None,
                };
                self.tell_master(RelayMessage::ClientReconnected(change));
            }
        }
    }
}
