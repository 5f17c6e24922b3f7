//! The session with the relay: the socket, the handshake, and the messages in both directions.

use std::sync::Arc;

use lanyard_hub::peer::{Input, Registration, Reveals};
use lanyard_protocol::codec::{self, DecodeError};
use lanyard_protocol::message::ClientRegisterAck;
use lanyard_protocol::session_key::{EphemeralSecret, Signer};
use lanyard_protocol::{Channel, DeviceToRelay, Frame, Ref, RelayToDevice, master_proof};
use tokio::sync::mpsc;

use super::connection_task::ConnectionTask;
use super::{DeviceDriver, OUTBOX_CAPACITY};
use crate::connection::http::Clients;
use crate::handle::DeviceEvent;

impl DeviceDriver {
    pub(super) fn open_link(&mut self) {
        let (outbox, messages) = mpsc::channel(OUTBOX_CAPACITY);
        self.link.number += 1;
        self.link.outbox = Some(outbox);
        let task = ConnectionTask {
            number: self.link.number,
            hub: self.config.hub.clone(),
            reports: self.reports.clone(),
        };
        tokio::spawn(task.run(messages));
    }

    /// Without its outbox the task says goodbye and ends; what it still reports is of an old
    /// number.
    pub(super) fn close_link(&mut self) {
        self.link.outbox = None;
        self.link.number += 1;
        self.ephemeral = None;
        self.signer = None;
    }

    /// A reveal that cannot be counted does not go out: the link is left before it.
    pub(super) fn count_reveal(&mut self, change: fn(&mut Reveals)) {
        if let Err(error) = self.config.reveals.note(change) {
            self.event(DeviceEvent::Unreachable { message: error.to_string() });
            self.close_link();
            self.link.stuck = true;
        }
    }

    pub(super) fn send(&mut self, message: &DeviceToRelay, reference: Option<&Ref>) {
        self.send_text(codec::encode(message, reference));
    }

    pub(super) fn send_text(&mut self, text: String) {
        let Some(outbox) = &self.link.outbox else { return };
        if outbox.try_send(text).is_err() {
            tracing::warn!("the relay takes no messages; connecting anew");
            self.link.stuck = true;
        }
    }

    /// What is sent from now on is bound to the certificate of this link.
    pub(super) fn link_opened(&mut self, channel: Channel) {
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

    pub(super) fn register(&mut self, registration: &Registration) {
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
    pub(super) fn host_proof(&self) -> Option<lanyard_protocol::Mac> {
        let secret = self.config.host_secret.as_ref()?;
        let transcript = self.transcript.as_ref()?;
        Some(master_proof::host_proof(&secret.0, transcript))
    }

    pub(super) fn heard(&mut self, text: &str) {
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
        if let RelayToDevice::Challenge(challenge) = &message {
            if self.pinned.is_some_and(|key| key != challenge.hub.public_key) {
                return self.tell(Input::HubRefused);
            }
            self.event(DeviceEvent::Hub { hub: challenge.hub.clone() });
        }
        if let RelayToDevice::ClientRegisterAck(ack) = &message
            && !self.acknowledged(ack)
        {
            return self.tell(Input::HubRefused);
        }
        self.note_roots(&message);
        self.tell(Input::Received { frame: Frame::new(message, reference) });
    }

    /// Checks the hub's proof, and keeps what proves this session's requests. Returns false if the
    /// proof is wrong.
    pub(super) fn acknowledged(&mut self, ack: &ClientRegisterAck) -> bool {
        let Some(transcript) = &self.transcript else { return false };
        let proven = ack.public_id == self.peer.public_id()
            && transcript.hub_signed(ack.public_id, &ack.signature);
        if !proven {
            return false;
        }
        let Some(ephemeral) = self.ephemeral.take() else { return false };
        let key = ephemeral.agree(&transcript.relay_ephemeral, &transcript.device_text());
        let Some(key) = key else { return false };
        self.signer = ack.session_id.map(|session_id| Arc::new(Signer::new(session_id, key)));
        true
    }
}
