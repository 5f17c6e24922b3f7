//! A clock that jumps, links that keep their order, and one process of each kind at its end.
//! Everything that happens is an event in one queue; a tie is broken by who came first.

use std::collections::{BTreeMap, VecDeque};

use lanyard_hub::Moment;
use lanyard_hub::broker::{CallId, LinkInfo};
use lanyard_protocol::{
    CloseCode, DeviceToRelay, Frame, MasterFrame, MasterToRelay, RelayToDevice, RelayToMaster,
};

use crate::sim::actors::device::{DeviceIndex, SimDevice};
use crate::sim::actors::links::LinkReading;
use crate::sim::actors::master::{SimDisk, SimMaster};
use crate::sim::actors::relay::SimRelay;
use crate::sim::actors::sim_slots::PlaneEvent;
use crate::sim::model::Model;
use crate::sim::random::Random;

/// What a schedule is played with.
#[derive(Debug, Clone)]
pub struct SimulationConfig {
    pub budget_bytes: u64,
    /// One way, in milliseconds, before jitter.
    pub latency_ms: u64,
    pub tap_to_approve: bool,
    pub admit_everyone: bool,
    /// Messages that a slow reader may owe before its changes are dropped.
    pub outbox_messages: usize,
    /// Everything but a handshake comes twice, to the relay and from it.
    pub twice: bool,
    /// Tables of group hashes go for want of room.
    pub tables_drop: bool,
}

impl Default for SimulationConfig {
    fn default() -> Self {
        Self {
            budget_bytes: lanyard_protocol::limits::DEFAULT_BUDGET_BYTES,
            latency_ms: 2,
            tap_to_approve: false,
            admit_everyone: false,
            outbox_messages: 64,
            twice: false,
            tables_drop: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// What travels on a link.
#[derive(Debug, Clone)]
pub enum Packet {
    FromDevice(Frame<DeviceToRelay>),
    ToDevice(Frame<RelayToDevice>),
    FromMaster(Box<MasterFrame<MasterToRelay>>),
    ToMaster(Box<MasterFrame<RelayToMaster>>),
    /// The master's proof and its answer; cryptography is for other tests.
    MasterRegister {
        term: u64,
    },
    MasterRegistered,
    /// The last packet of an orderly close.
    Close(Option<CloseCode>),
}

impl Packet {
    /// Whether it may come twice: all but a socket's first words, which are said once by what a
    /// socket is.
    fn is_repeatable(&self) -> bool {
        use RelayToDevice::{Challenge, ClientRegisterAck};
        match self {
            Self::FromDevice(frame) => !matches!(frame.message, DeviceToRelay::ClientRegister(_)),
            Self::ToDevice(frame) => !matches!(frame.message, Challenge(_) | ClientRegisterAck(_)),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Device(DeviceIndex),
    Master,
}

/// One WebSocket between the relay and a device or the master.
#[derive(Debug)]
pub struct Conn {
    pub end: Endpoint,
    /// Which life of the relay it belongs to.
    pub boot: u64,
    /// Neither side hears the other any more.
    pub cut: bool,
    /// Its peer is gone; what it had said still comes.
    pub left: bool,
    pub latency_ms: u64,
    to_relay_at: u64,
    from_relay_at: u64,
    /// The peer does not read: packets wait here.
    pub stalled: bool,
    pub outbox: VecDeque<Frame<RelayToDevice>>,
    pub dirty: bool,
}

#[derive(Debug)]
pub enum SimEvent {
    ToRelay(ConnId, Packet),
    FromRelay(ConnId, Packet),
    /// One side notices that the link is gone.
    RelayNotices(ConnId),
    PeerNotices(ConnId, Option<u16>),
    /// A device's socket opens, or does not.
    Connect(DeviceIndex, u64),
    /// The person at a device asks it to try again.
    TryAgain(DeviceIndex, u64),
    MasterConnect(u64),
    RelayStart,
    /// Of that life of the relay.
    RelayReports(u64),
    MasterStart,
    Committed {
        life: u64,
        items: usize,
    },
    Plane(u64, PlaneEvent),
    DeviceBytes(DeviceIndex, u64, crate::sim::actors::device::BytesEvent),
    Link(usize, u64),
    LinkWatch(usize, u64),
}

/// Everything there is.
pub struct Simulation {
    pub now: u64,
    pub random: Random,
    pub config: SimulationConfig,
    sequence: u64,
    queue: BTreeMap<(u64, u64), SimEvent>,
    pub conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    pub relay: Option<SimRelay>,
    pub relay_boots: u64,
    pub master: Option<SimMaster>,
    pub master_lives: u64,
    pub disk: SimDisk,
    pub devices: Vec<SimDevice>,
    pub links: Vec<LinkReading>,
    /// The subjects of calls that begin uses.
    pub(crate) begun: BTreeMap<CallId, std::sync::Arc<LinkInfo>>,
    pub model: Model,
    steps_here: u64,
    tracing: bool,
}

/// More events at one moment than this means that two sides chase each other.
const MOST_STEPS_A_MOMENT: u64 = 20_000;

impl Simulation {
    pub fn new(seed: u64, config: SimulationConfig) -> Self {
        let mut world = Self {
            now: 1_000,
            random: Random::new(seed),
            config,
            sequence: 0,
            queue: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            relay: None,
            relay_boots: 0,
            master: None,
            master_lives: 0,
            disk: SimDisk::default(),
            devices: Vec::new(),
            links: Vec::new(),
            begun: Default::default(),
            model: Model::default(),
            steps_here: 0,
            tracing: std::env::var_os("LANYARD_TRACE").is_some(),
        };
        world.start_relay();
        world.start_master();
        world
    }

    pub fn moment(&self) -> Moment {
        Moment(self.now)
    }

    /// The time of day, for what is measured across restarts.
    pub fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.now
    }

    pub fn trace(&self, what: impl FnOnce() -> String) {
        if self.tracing {
            eprintln!("{:>9} {}", self.now, what());
        }
    }

    pub fn after(&mut self, delay_ms: u64, event: SimEvent) {
        self.at(self.now + delay_ms, event);
    }

    fn at(&mut self, when: u64, event: SimEvent) {
        self.sequence += 1;
        self.queue.insert((when, self.sequence), event);
    }

    /// Lets everything happen that is due within `ms`.
    pub fn run_for(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.step(until) {}
    }

    /// One event or timer at or before `until`; otherwise the clock goes there.
    fn step(&mut self, until: u64) -> bool {
        let event = self.queue.first_key_value().map(|(key, _)| key.0);
        let timer = self.next_timer();
        let next = match (event, timer) {
            (Some(event), Some((timer, _))) => event.min(timer),
            (Some(event), None) => event,
            (None, Some((timer, _))) => timer,
            (None, None) => u64::MAX,
        };
        if next > until {
            self.now = until;
            return false;
        }
        if next > self.now {
            self.now = next;
            self.steps_here = 0;
        }
        self.steps_here += 1;
        assert!(
            self.steps_here < MOST_STEPS_A_MOMENT,
            "the machines chase each other at {}",
            self.now
        );
        match timer {
            Some((at, who)) if event.is_none_or(|event| at < event) => self.wake(who),
            _ => {
                let (_, event) = self.queue.pop_first().unwrap();
                self.happen(event);
            }
        }
        true
    }

    fn next_timer(&self) -> Option<(u64, Actor)> {
        let relay =
            self.relay.as_ref().and_then(|r| r.broker.poll_timeout()).map(|m| (m.0, Actor::Relay));
        let master = self
            .master
            .as_ref()
            .and_then(|m| m.authority.poll_timeout())
            .map(|m| (m.0, Actor::Master));
        let devices =
            self.devices.iter().enumerate().filter(|(_, d)| !d.frozen).filter_map(|(n, device)| {
                let at = device.peer.as_ref()?.poll_timeout()?;
                Some((at.0, Actor::Device(DeviceIndex(n))))
            });
        relay.into_iter().chain(master).chain(devices).min_by_key(|(at, _)| *at)
    }

    fn wake(&mut self, who: Actor) {
        match who {
            Actor::Relay => self.relay_timeout(),
            Actor::Master => self.master_timeout(),
            Actor::Device(index) => self.device_timeout(index),
        }
    }

    fn happen(&mut self, event: SimEvent) {
        match event {
            SimEvent::ToRelay(conn, packet) => self.relay_hears(conn, packet),
            SimEvent::FromRelay(conn, packet) => self.peer_hears(conn, packet),
            SimEvent::RelayNotices(conn) => self.relay_lost_conn(conn),
            SimEvent::PeerNotices(conn, code) => self.peer_lost_conn(conn, code),
            SimEvent::Connect(device, life) => self.device_connects(device, life),
            SimEvent::TryAgain(device, life) => self.tries_again(device, life),
            SimEvent::MasterConnect(life) => self.master_connects(life),
            SimEvent::RelayStart => self.start_relay(),
            SimEvent::RelayReports(boot) => self.relay_reports(boot),
            SimEvent::MasterStart => self.start_master(),
            SimEvent::Committed { life, items } => self.master_committed(life, items),
            SimEvent::Plane(boot, event) => self.plane_happens(boot, event),
            SimEvent::DeviceBytes(device, life, event) => self.device_bytes(device, life, event),
            SimEvent::Link(link, generation) => self.link_goes_on(link, generation),
            SimEvent::LinkWatch(link, generation) => self.watch_link(link, generation),
        }
    }

    // ── Links
    // ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A new connection to the relay that is there.
    pub fn open_conn(&mut self, end: Endpoint) -> Option<ConnId> {
        let boot = self.relay.as_ref()?.boot;
        self.next_conn += 1;
        let id = ConnId(self.next_conn);
        let latency_ms = self.config.latency_ms;
        let conn = Conn {
            end,
            boot,
            cut: false,
            left: false,
            latency_ms,
            to_relay_at: self.now,
            from_relay_at: self.now,
            stalled: false,
            outbox: VecDeque::new(),
            dirty: false,
        };
        self.conns.insert(id, conn);
        Some(id)
    }

    fn delay(&mut self, latency_ms: u64) -> u64 {
        latency_ms + self.random.below(latency_ms + 1)
    }

    pub fn send_to_relay(&mut self, id: ConnId, packet: Packet) {
        if self.config.twice && packet.is_repeatable() {
            self.carry_to_relay(id, packet.clone());
        }
        self.carry_to_relay(id, packet);
    }

    fn carry_to_relay(&mut self, id: ConnId, packet: Packet) {
        let Some(conn) = self.conns.get(&id).filter(|conn| !conn.cut) else { return };
        let delay = self.delay(conn.latency_ms);
        let conn = self.conns.get_mut(&id).unwrap();
        conn.to_relay_at = conn.to_relay_at.max(self.now + delay);
        let at = conn.to_relay_at;
        self.at(at, SimEvent::ToRelay(id, packet));
    }

    pub fn send_from_relay(&mut self, id: ConnId, packet: Packet) {
        if self.config.twice && packet.is_repeatable() {
            self.carry_from_relay(id, packet.clone());
        }
        self.carry_from_relay(id, packet);
    }

    fn carry_from_relay(&mut self, id: ConnId, packet: Packet) {
        let Some(conn) = self.conns.get(&id).filter(|conn| !conn.cut) else { return };
        let delay = self.delay(conn.latency_ms);
        let conn = self.conns.get_mut(&id).unwrap();
        conn.from_relay_at = conn.from_relay_at.max(self.now + delay);
        let at = conn.from_relay_at;
        self.at(at, SimEvent::FromRelay(id, packet));
    }

    fn relay_hears(&mut self, id: ConnId, packet: Packet) {
        let alive = self.conns.get(&id).is_some_and(|conn| !conn.cut);
        if !alive || self.relay.is_none() {
            return;
        }
        self.trace(|| format!("→ relay  {} {packet:?}", id.0));
        match packet {
            Packet::FromDevice(frame) => self.relay_hears_device(id, frame),
            Packet::FromMaster(frame) => self.relay_hears_master(id, *frame),
            Packet::MasterRegister { term } => self.relay_hears_register(id, term),
            Packet::Close(_) => {
                self.relay_lost_conn(id);
                self.conns.remove(&id);
            }
            Packet::ToDevice(_) | Packet::ToMaster(_) | Packet::MasterRegistered => {
                unreachable!("the other direction")
            }
        }
    }

    fn peer_hears(&mut self, id: ConnId, packet: Packet) {
        let Some(conn) = self.conns.get(&id).filter(|conn| !conn.cut && !conn.left) else { return };
        let end = conn.end;
        self.trace(|| format!("← {end:?} {} {packet:?}", id.0));
        match (end, packet) {
            (Endpoint::Device(device), Packet::ToDevice(frame)) => {
                self.device_hears(device, id, frame)
            }
            (Endpoint::Master, Packet::ToMaster(frame)) => self.master_hears(id, *frame),
            (Endpoint::Master, Packet::MasterRegistered) => self.master_registered(id),
            (_, Packet::Close(code)) => {
                self.peer_lost_conn(id, code.map(CloseCode::number));
                self.conns.remove(&id);
            }
            (end, packet) => unreachable!("{packet:?} for {end:?}"),
        }
    }

    /// The cable is out: what is under way is lost, each side notices in its own time.
    pub fn cut(&mut self, id: ConnId, relay_notices_ms: u64, peer_notices_ms: u64) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.cut) else { return };
        conn.cut = true;
        self.trace(|| format!("cut {}", id.0));
        self.after(relay_notices_ms, SimEvent::RelayNotices(id));
        self.after(peer_notices_ms, SimEvent::PeerNotices(id, None));
    }

    /// Its peer goes, to another network or for good. What it had said is still on its way, later
    /// by `late_ms`: so it may come after what the same peer says over its next connection. Then
    /// comes the end.
    pub fn leave(&mut self, id: ConnId, late_ms: u64) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.cut && !conn.left) else {
            return;
        };
        conn.left = true;
        conn.to_relay_at = conn.to_relay_at.max(now) + late_ms;
        let end = conn.to_relay_at;
        let is_of_it =
            |event: &SimEvent| matches!(event, SimEvent::ToRelay(conn, _) if *conn == id);
        let on_the_way: Vec<(u64, u64)> =
            self.queue.iter().filter(|(_, event)| is_of_it(event)).map(|(key, _)| *key).collect();
        self.trace(|| format!("left {}, {} still come", id.0, on_the_way.len()));
        if !on_the_way.is_empty() {
            self.model.count("came after its sender had left");
        }
        for key in on_the_way {
            if let Some(event) = self.queue.remove(&key) {
                self.at(key.0 + late_ms, event);
            }
        }
        self.at(end, SimEvent::RelayNotices(id));
        self.after(0, SimEvent::PeerNotices(id, None));
    }

    /// The relay closes after what it said.
    pub fn close_from_relay(&mut self, id: ConnId, code: Option<CloseCode>) {
        if self.conns.get(&id).is_some_and(|conn| conn.stalled) {
            // Nobody reads there; the frame of the close is lost with the rest.
            return self.cut(id, 0, 0);
        }
        self.send_from_relay(id, Packet::Close(code));
    }

    pub fn close_from_peer(&mut self, id: ConnId) {
        self.send_to_relay(id, Packet::Close(None));
    }

    fn relay_lost_conn(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else { return };
        if self.relay.as_ref().is_none_or(|relay| relay.boot != conn.boot) {
            return;
        }
        match conn.end {
            Endpoint::Device(_) => self.relay_lost_device(id),
            Endpoint::Master => self.relay_lost_master(id),
        }
    }

    fn peer_lost_conn(&mut self, id: ConnId, code: Option<u16>) {
        let Some(conn) = self.conns.get(&id) else { return };
        match conn.end {
            Endpoint::Device(device) => self.device_lost_conn(device, id, code),
            Endpoint::Master => self.master_lost_conn(id),
        }
    }

    /// All links of a relay that is killed.
    pub fn cut_all(&mut self) {
        let all: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in all {
            let notices = self.random.below(20);
            self.cut(id, 0, notices);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Actor {
    Relay,
    Master,
    Device(DeviceIndex),
}
