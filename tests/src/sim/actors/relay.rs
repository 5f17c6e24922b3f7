//! The relay's driver around a Broker: who speaks on which socket, and where each effect goes.

use std::collections::BTreeMap;

use lanyard_hub::broker::{
    Broker, BrokerConfig, Effect, Identity, Input, MasterEffect, MasterInput, Rejections,
    SessionEffect, SessionId, SessionInput,
};
use lanyard_protocol::message::{Challenge, ClientRegister, ClientRegisterAck};
use lanyard_protocol::{
    BootId, CloseCode, DeviceToRelay, EphemeralKey, Frame, HubInfo, KeyId, MasterFrame,
    MasterToRelay, Membership, Nonce, PROTOCOL_VERSION, RelayToDevice, Signature, TransportMode,
    codec, identity,
};

use super::sim_slots::Plane;
use crate::sim::simulation::{ConnId, Packet, SimEvent, Simulation};

/// One life of the relay.
pub struct SimRelay {
    pub boot: u64,
    boot_id: BootId,
    pub broker: Broker,
    pub plane: Plane,
    next_session: u64,
    pub conn_of: BTreeMap<SessionId, ConnId>,
    pub session_of: BTreeMap<ConnId, SessionId>,
    /// Challenges that are not answered yet.
    challenges: BTreeMap<ConnId, Nonce>,
    master_of: BTreeMap<ConnId, SessionId>,
    highest_term: u64,
    /// Sessions that slept after the last input.
    asleep: usize,
    /// Sockets of devices that it closed.
    rejections: Rejections,
}

/// How often the relay lets its broker report to the master.
const REPORT_MS: u64 = 1_000;

impl Simulation {
    pub fn start_relay(&mut self) {
        if self.relay.is_some() {
            return;
        }
        self.relay_boots += 1;
        let config = BrokerConfig { budget_bytes: self.config.budget_bytes };
        let relay = SimRelay {
            boot: self.relay_boots,
            boot_id: BootId(self.random.bytes()),
            broker: Broker::new(config, self.random.seed()),
            plane: Plane::default(),
            next_session: 1,
            conn_of: BTreeMap::new(),
            session_of: BTreeMap::new(),
            challenges: BTreeMap::new(),
            master_of: BTreeMap::new(),
            highest_term: 0,
            asleep: 0,
            rejections: Rejections::default(),
        };
        self.relay = Some(relay);
        self.after(REPORT_MS, SimEvent::RelayReports(self.relay_boots));
        self.trace(|| "relay starts".into());
    }

    /// Killed: nothing is said, nothing is kept.
    pub fn kill_relay(&mut self) {
        if self.relay.take().is_some() {
            self.model.count("relay killed");
            self.model.relay_died();
            self.cut_all();
            self.links_lost_relay();
        }
    }

    /// The relay tells its broker what it refused, as it does all the time.
    pub(crate) fn relay_reports(&mut self, boot: u64) {
        let Some(relay) = self.relay.as_ref().filter(|relay| relay.boot == boot) else { return };
        let rejections = relay.rejections.clone();
        self.tell_broker(Input::Master(MasterInput::RejectionsCounted(rejections)));
        self.after(REPORT_MS, SimEvent::RelayReports(boot));
    }

    pub(crate) fn relay_timeout(&mut self) {
        let now = self.moment();
        if let Some(relay) = &mut self.relay {
            relay.broker.handle_timeout(now);
            self.drain_relay();
        }
    }

    /// Tells the broker something and does what it wants.
    pub(crate) fn tell_broker(&mut self, input: Input) {
        let now = self.moment();
        self.trace(|| format!("  broker {input:?}"));
        if let Some(relay) = &mut self.relay {
            relay.broker.handle(now, input);
            self.drain_relay();
        }
    }

    fn asleep(&self) -> usize {
        self.relay.as_ref().map_or(0, |relay| relay.broker.counts().asleep)
    }

    fn drain_relay(&mut self) {
        let asleep = self.asleep();
        let before = std::mem::replace(
            &mut self.relay.as_mut().expect("it was just told something").asleep,
            asleep,
        );
        if asleep > before {
            self.model.count("fell asleep");
        }
        while let Some(effect) = self.relay.as_mut().and_then(|relay| relay.broker.poll_effect()) {
            self.relay_does(effect);
        }
        crate::sim::model::budget_holds(self);
    }

    /// A device's socket is open: the challenge comes at once.
    pub(crate) fn relay_accepts(&mut self, conn: ConnId) {
        let nonce = Nonce(self.random.bytes());
        let relay = self.relay.as_mut().unwrap();
        relay.challenges.insert(conn, nonce);
        let challenge = Challenge {
            protocol: PROTOCOL_VERSION,
            boot_id: relay.boot_id,
            nonce,
            ephemeral_key: EphemeralKey([1; 32]),
            hub: HubInfo { name: "Hub".into(), public_key: crate::sim::actors::master::hub_key() },
            mode: TransportMode::Open,
        };
        self.deliver(conn, RelayToDevice::Challenge(challenge), None);
    }

    pub(crate) fn relay_hears_device(&mut self, conn: ConnId, frame: Frame<DeviceToRelay>) {
        let frame = self.sometimes_through_text(frame);
        let relay = self.relay.as_mut().unwrap();
        if let Some(nonce) = relay.challenges.get(&conn).copied() {
            let DeviceToRelay::ClientRegister(register) = frame.message else {
                relay.challenges.remove(&conn);
                return self.close_from_relay(conn, Some(CloseCode::Unauthenticated));
            };
            relay.challenges.remove(&conn);
            return self.relay_registers(conn, nonce, register);
        }
        let Some(session) = relay.session_of.get(&conn).copied() else { return };
        self.model.device_says(session, &frame);
        let asleep = self.asleep();
        self.tell_broker(Input::Session(SessionInput::MessageReceived {
            session,
            message: frame.message,
            reference: frame.reference,
        }));
        let is_open = self.relay.as_ref().is_some_and(|relay| relay.conn_of.contains_key(&session));
        if is_open && self.asleep() < asleep {
            self.model.count("woke up");
        }
    }

    fn relay_registers(&mut self, conn: ConnId, relay_nonce: Nonce, register: ClientRegister) {
        let relay = self.relay.as_mut().unwrap();
        let session = SessionId(relay.next_session);
        relay.next_session += 1;
        relay.conn_of.insert(session, conn);
        relay.session_of.insert(conn, session);
        let public_id = identity::public_id(&register.public_key);
        let identity = Identity {
            public_id,
            public_key: register.public_key,
            name: register.name,
            kind: register.kind,
            platform: register.platform,
            instance: register.instance,
            commit: register.commit,
            invitation: register.invitation,
            relay_nonce,
            // Two to an address, as behind one access point.
            address: format!("192.168.1.{}", public_id.0.as_bytes()[0] / 2),
            resume: register.resume,
        };
        self.model.session_opens(session, public_id, identity.instance);
        self.model.count("session opened");
        self.tell_broker(Input::Session(SessionInput::Opened {
            session,
            identity: Box::new(identity),
        }));
    }

    /// The socket of a device is gone.
    pub(crate) fn relay_lost_device(&mut self, conn: ConnId) {
        let relay = self.relay.as_mut().unwrap();
        relay.challenges.remove(&conn);
        let Some(session) = relay.session_of.remove(&conn) else { return };
        relay.conn_of.remove(&session);
        self.model.session_ends(session);
        self.tell_broker(Input::Session(SessionInput::Closed { session }));
        // Its askers hear so at once and ask another source; they do not wait until the lease
        // lapses.
        let left = self
            .relay
            .as_ref()
            .and_then(|relay| relay.plane.slots.values().find(|slot| slot.waits_for(session)));
        assert!(left.is_none(), "a slot waits for a session that is over: {left:?}");
    }

    pub(crate) fn relay_hears_register(&mut self, conn: ConnId, term: u64) {
        let relay = self.relay.as_mut().unwrap();
        if term <= relay.highest_term {
            return self.close_from_relay(conn, Some(CloseCode::Superseded));
        }
        relay.highest_term = term;
        let session = SessionId(relay.next_session);
        relay.next_session += 1;
        relay.master_of.insert(conn, session);
        self.model.count("master registered");
        self.send_from_relay(conn, Packet::MasterRegistered);
        self.tell_broker(Input::Master(MasterInput::Opened { session }));
    }

    pub(crate) fn relay_hears_master(&mut self, conn: ConnId, frame: MasterFrame<MasterToRelay>) {
        let Some(session) =
            self.relay.as_ref().and_then(|relay| relay.master_of.get(&conn).copied())
        else {
            return;
        };
        self.model.master_says(&frame.message);
        self.tell_broker(Input::Master(MasterInput::MessageReceived {
            session,
            frame: Box::new(frame),
        }));
    }

    pub(crate) fn relay_lost_master(&mut self, conn: ConnId) {
        let relay = self.relay.as_mut().unwrap();
        if let Some(session) = relay.master_of.remove(&conn) {
            self.model.master_lost();
            self.tell_broker(Input::Master(MasterInput::Closed { session }));
        }
    }

    fn relay_does(&mut self, effect: Effect) {
        self.trace(|| format!("    does {effect:?}"));
        match effect {
            Effect::Session(effect) => self.session_effect(effect),
            Effect::Master(effect) => self.master_effect(effect),
            Effect::Slot(effect) => self.plane_does(effect),
            Effect::Link(effect) => self.link_effect(effect),
            Effect::Call(effect) => self.call_effect(effect),
        }
    }

    fn session_effect(&mut self, effect: SessionEffect) {
        match effect {
            SessionEffect::Acknowledge { session, membership, hub_ready } => {
                self.acknowledge(session, membership, hub_ready)
            }
            SessionEffect::Send { session, message, reference } => {
                self.say(session, message, reference)
            }
            SessionEffect::Broadcast { sessions, message, answered } => {
                for session in sessions {
                    let reference = answered
                        .as_ref()
                        .filter(|(who, _)| *who == session)
                        .map(|(_, r)| r.clone());
                    self.say(session, message.clone(), reference);
                }
            }
            SessionEffect::Close { session, code } => self.close_session(session, code),
        }
    }

    fn master_effect(&mut self, effect: MasterEffect) {
        match effect {
            MasterEffect::Send { session, frame } => {
                self.model.relay_tells_master(&frame.message);
                if let Some(conn) = self.master_conn(session) {
                    self.send_from_relay(conn, Packet::ToMaster(frame));
                }
            }
            MasterEffect::Close { session, code } => {
                if let Some(conn) = self.master_conn(session) {
                    self.close_from_relay(conn, Some(code));
                    self.after(0, SimEvent::RelayNotices(conn));
                }
            }
        }
    }

    fn master_conn(&self, session: SessionId) -> Option<ConnId> {
        self.relay.as_ref()?.master_of.iter().find(|(_, s)| **s == session).map(|(conn, _)| *conn)
    }

    fn acknowledge(&mut self, session: SessionId, membership: Membership, hub_ready: bool) {
        let Some(conn) = self.relay.as_ref().unwrap().conn_of.get(&session).copied() else {
            return;
        };
        let public_id = self.model.device_of(session);
        self.model.acknowledges(session, membership, &self.disk);
        let session_id = (membership != Membership::Disapproved).then_some(KeyId([7; 16]));
        let signature = Signature([0; 64]);
        let ack = ClientRegisterAck { public_id, membership, hub_ready, session_id, signature };
        self.deliver(conn, RelayToDevice::ClientRegisterAck(ack), None);
    }

    fn say(
        &mut self,
        session: SessionId,
        message: RelayToDevice,
        reference: Option<lanyard_protocol::Ref>,
    ) {
        let Some(conn) = self.relay.as_ref().unwrap().conn_of.get(&session).copied() else {
            panic!("the broker speaks to a session that is over: {message:?}");
        };
        self.model.relay_says(session, &message, reference.as_ref(), &self.disk);
        self.deliver(conn, message, reference);
    }

    /// The broker forgets the session at once; its socket ends a little later, and that is told,
    /// too.
    fn close_session(&mut self, session: SessionId, code: CloseCode) {
        let relay = self.relay.as_mut().unwrap();
        let Some(conn) = relay.conn_of.remove(&session) else {
            panic!("{session:?} is closed twice")
        };
        *relay.rejections.closed.entry(code).or_default() += 1;
        self.model.closes(session, code);
        self.close_from_relay(conn, Some(code));
        let late = self.random.below(30);
        self.after(late, SimEvent::RelayNotices(conn));
    }

    /// To a device's socket; one that does not read keeps answers, and one FEED_DIRTY for all
    /// changes.
    fn deliver(
        &mut self,
        id: ConnId,
        message: RelayToDevice,
        reference: Option<lanyard_protocol::Ref>,
    ) {
        let frame = Frame::new(message, reference);
        let most = self.config.outbox_messages;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !conn.stalled {
            return self.send_from_relay(id, Packet::ToDevice(frame));
        }
        let is_change =
            |frame: &Frame<RelayToDevice>| frame.reference.is_none() && is_change(&frame.message);
        let changes = conn.outbox.iter().filter(|frame| is_change(frame)).count();
        if changes < most {
            return conn.outbox.push_back(frame);
        }
        conn.outbox.retain(|frame| !is_change(frame));
        if !conn.dirty {
            conn.dirty = true;
            conn.outbox.push_back(Frame::new(RelayToDevice::FeedDirty(Default::default()), None));
            self.model.count("feed dirty");
        }
        if !is_change(&frame) {
            self.conns.get_mut(&id).unwrap().outbox.push_back(frame);
        }
    }

    /// The device reads again.
    pub fn unstall(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.stalled = false;
        conn.dirty = false;
        for frame in std::mem::take(&mut conn.outbox) {
            self.send_from_relay(id, Packet::ToDevice(frame));
        }
    }

    /// Most frames skip the text; some go through it, so that no message is left out.
    fn sometimes_through_text(&mut self, frame: Frame<DeviceToRelay>) -> Frame<DeviceToRelay> {
        if !self.random.one_in(16) {
            return frame;
        }
        let text = codec::encode(&frame.message, frame.reference.as_ref());
        let read: Frame<DeviceToRelay> =
            codec::decode(&text).expect("what a peer says is a message");
        assert_eq!(read, frame);
        read
    }
}

/// What a pull makes superfluous.
fn is_change(message: &RelayToDevice) -> bool {
    matches!(
        message,
        RelayToDevice::ClientApproved(_)
            | RelayToDevice::ClientDisApproved(_)
            | RelayToDevice::ClientUpdated(_)
            | RelayToDevice::FilesAdded(_)
            | RelayToDevice::FilesUpdated(_)
            | RelayToDevice::FileRemoved(_)
            | RelayToDevice::FilesWithdrawn(_)
    )
}
