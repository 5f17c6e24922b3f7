//! A device's driver around a Peer: a socket that opens or does not, files that change under its
//! hands, and a disk of group hashes in place of bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lanyard_hub::IdSource;
use lanyard_hub::peer::{
    CloseReason, Effect, EndReason, FetchId, FetchOutcome, GroupSet, Input, MembershipPhase, Peer,
    PeerConfig, Reveals, ShareState, TransferOrder, WantedFile,
};
use lanyard_protocol::group::{GroupHash, Groups};
use lanyard_protocol::identity::{Keypair, public_id};
use lanyard_protocol::{
    DeviceId, DeviceKind, DeviceToRelay, EntryKind, EphemeralKey, FailureCode, FileEntry, FileId,
    FileRef, Frame, GroupRange, Instance, NewFile, PublicKey, Ref, RelayToDevice, Root, Signature,
    Ticket, TransferId,
};

use super::sim_slots::{PlaneEvent, ReadBy, SimBody, Unit};
use crate::sim::simulation::{ConnId, Endpoint, Packet, SimEvent, Simulation};

/// A person who reads why a device ended takes so long to ask again.
const TRIES_AGAIN_MS: u64 = 3_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceIndex(pub usize);

/// The keys that simulated devices have; several processes may share one.
pub fn device_key(n: usize) -> PublicKey {
    static KEYS: std::sync::OnceLock<Vec<PublicKey>> = std::sync::OnceLock::new();
    let keys =
        KEYS.get_or_init(|| (0..20).map(|n| Keypair::from_seed(&[n + 1; 32]).public()).collect());
    keys[n]
}

/// What a file is made of, in place of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    pub seed: u64,
    pub size: u64,
}

impl Content {
    pub fn groups(&self) -> Groups {
        Groups::of(self.size)
    }

    pub fn value(&self, group: u32) -> GroupHash {
        let mut random = crate::sim::random::Random::new(self.seed ^ (u64::from(group) << 32));
        GroupHash(random.seed())
    }

    pub fn values(&self) -> Vec<GroupHash> {
        (0..self.groups().count()).map(|group| self.value(group)).collect()
    }

    pub fn root(&self) -> Root {
        self.groups().root(&self.values()).unwrap()
    }
}

/// A file on the owner's disk.
#[derive(Debug, Clone)]
pub struct LocalFile {
    pub new: NewFile,
    pub content: Content,
    /// What lies there by now, if it is another content.
    pub changed: Option<Content>,
}

#[derive(Debug)]
struct Upload {
    units: Vec<(FileId, u32)>,
    length_ms: u64,
}

#[derive(Debug)]
struct Fetching {
    transfer_id: TransferId,
}

/// What a transfer stored of a file.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    pub values: BTreeMap<u32, GroupHash>,
    list: Option<Vec<GroupHash>>,
}

/// A download as its person sees it.
#[derive(Debug, Clone)]
pub struct SimDownload {
    pub owner: DeviceId,
    pub files: Vec<WantedFile>,
    pub done: BTreeSet<FileId>,
    pub failed: BTreeMap<FileId, FailureCode>,
    pub ended: bool,
    pub cancelled: bool,
    pub paused: bool,
    pub streams: bool,
}

pub struct SimDevice {
    pub key: usize,
    pub public_key: PublicKey,
    pub public_id: DeviceId,
    pub instance: Instance,
    pub name: String,
    pub kind: DeviceKind,
    pub peer: Option<Peer>,
    life: u64,
    pub conn: Option<ConnId>,
    /// Its cable is in.
    pub online: bool,
    /// Its process stands still, though its socket answers pings.
    pub frozen: bool,
    inbox: VecDeque<(ConnId, Frame<RelayToDevice>)>,
    pub local: BTreeMap<FileId, LocalFile>,
    pub share_states: BTreeMap<FileId, ShareState>,
    uploads: BTreeMap<Ticket, Upload>,
    fetches: BTreeMap<FetchId, Fetching>,
    pub stored: BTreeMap<(TransferId, FileId), Stored>,
    pub downloads: BTreeMap<TransferId, SimDownload>,
    pub phase: MembershipPhase,
    /// On its disk: what it revealed since its person asked it to try.
    reveals: Reveals,
    /// Milliseconds a group takes to be sent and to be received.
    pub put_ms: u64,
    pub get_ms: u64,
    /// It does not start its PUTs.
    pub lazy: bool,
    /// It takes no bytes for now.
    pub holds_gets: bool,
    /// So many groups that it sends are wrong.
    pub corrupt: u32,
    raw_ref: u64,
}

#[derive(Debug)]
pub enum BytesEvent {
    PutNext { ticket: Ticket, index: usize },
    Got { fetch: FetchId, unit: Box<Unit> },
    Complete { fetch: FetchId },
    Cut { fetch: FetchId },
    Refused { fetch: FetchId, code: FailureCode },
    Consumed { transfer_id: TransferId, file_id: FileId, groups: u32 },
}

impl SimDevice {
    pub fn is_approved(&self) -> bool {
        matches!(self.phase, MembershipPhase::Approved { .. })
    }

    pub fn takes_bytes(&self) -> bool {
        self.online && !self.frozen && !self.holds_gets
    }

    /// The digits on its screen.
    pub fn code(&self) -> Option<&str> {
        match &self.phase {
            MembershipPhase::Waiting { code } => code.as_deref(),
            _ => None,
        }
    }

    pub fn ended(&self) -> Option<EndReason> {
        match self.phase {
            MembershipPhase::Ended { reason } => Some(reason),
            _ => None,
        }
    }
}

impl Simulation {
    /// A process on a device: not started yet.
    pub fn add_device(&mut self, key: usize, name: &str) -> DeviceIndex {
        let public_key = device_key(key);
        self.devices.push(SimDevice {
            key,
            public_key,
            public_id: public_id(&public_key),
            instance: Instance(self.random.bytes()),
            name: name.into(),
            kind: DeviceKind::Native,
            peer: None,
            life: 0,
            conn: None,
            online: true,
            frozen: false,
            inbox: VecDeque::new(),
            local: BTreeMap::new(),
            share_states: BTreeMap::new(),
            uploads: BTreeMap::new(),
            fetches: BTreeMap::new(),
            stored: BTreeMap::new(),
            downloads: BTreeMap::new(),
            phase: MembershipPhase::Connecting,
            reveals: Reveals::default(),
            put_ms: 2,
            get_ms: 2,
            lazy: false,
            holds_gets: false,
            corrupt: 0,
            raw_ref: 0,
        });
        DeviceIndex(self.devices.len() - 1)
    }

    pub fn device(&self, index: DeviceIndex) -> &SimDevice {
        &self.devices[index.0]
    }

    pub fn device_mut(&mut self, index: DeviceIndex) -> &mut SimDevice {
        &mut self.devices[index.0]
    }

    /// Starts its process, with the files it offered before.
    pub fn start_device(&mut self, index: DeviceIndex) {
        let seed = self.random.seed();
        let device = self.device_mut(index);
        if device.peer.is_some() {
            return;
        }
        device.life += 1;
        let config = PeerConfig {
            public_key: device.public_key,
            instance: device.instance,
            name: device.name.clone(),
            kind: device.kind,
            platform: "simulated".into(),
            invitation: None,
            reveals: device.reveals,
        };
        device.peer = Some(Peer::new(config, IdSource::new(seed)));
        device.phase = MembershipPhase::Connecting;
        let files: Vec<NewFile> = device.local.values().map(|file| file.new.clone()).collect();
        self.tell_peer(index, Input::Start);
        if !files.is_empty() {
            self.tell_peer(index, Input::Share { files });
        }
    }

    /// A person reads why it ended, and asks it to try again.
    pub fn tries_again(&mut self, index: DeviceIndex, life: u64) {
        let device = self.device_mut(index);
        if device.life == life && device.ended() == Some(EndReason::NotOpened) {
            device.reveals = Reveals::default();
            self.kill_device(index);
            self.start_device(index);
        }
    }

    /// Its process is killed; what it stored stays.
    pub fn kill_device(&mut self, index: DeviceIndex) {
        let device = self.device_mut(index);
        if device.peer.take().is_none() {
            return;
        }
        device.life += 1;
        device.phase = MembershipPhase::Connecting;
        device.frozen = false;
        device.inbox.clear();
        device.share_states.clear();
        device.downloads.clear();
        self.bodies_break(index);
        let notices = self.random.below(50);
        let system_sends_the_rest = self.random.one_in(2);
        match self.device_mut(index).conn.take() {
            Some(conn) if system_sends_the_rest => self.leave(conn, notices),
            Some(conn) => self.cut(conn, notices, 0),
            None => {}
        }
    }

    /// Goes to another network. What it had said over the old one may come after what it says over
    /// the new one.
    pub fn wander(&mut self, index: DeviceIndex, late_ms: u64) {
        if let Some(conn) = self.device(index).conn {
            self.leave(conn, late_ms);
        }
    }

    /// Takes its cable out. The relay may notice late.
    pub fn unplug(&mut self, index: DeviceIndex, relay_notices_ms: u64) {
        let device = self.device_mut(index);
        device.online = false;
        if let Some(conn) = device.conn {
            let notices = self.random.below(2_000);
            self.cut(conn, relay_notices_ms, notices);
        }
    }

    pub fn plug_in(&mut self, index: DeviceIndex) {
        self.device_mut(index).online = true;
    }

    pub fn freeze(&mut self, index: DeviceIndex) {
        self.device_mut(index).frozen = true;
    }

    pub fn thaw(&mut self, index: DeviceIndex) {
        let device = self.device_mut(index);
        device.frozen = false;
        for (conn, frame) in std::mem::take(&mut device.inbox) {
            self.device_hears(index, conn, frame);
        }
    }

    /// The device stops reading its socket.
    pub fn stall(&mut self, index: DeviceIndex) {
        if let Some(conn) = self.device(index).conn.and_then(|conn| self.conns.get_mut(&conn)) {
            conn.stalled = true;
        }
    }

    pub fn unstall_device(&mut self, index: DeviceIndex) {
        if let Some(conn) = self.device(index).conn {
            self.unstall(conn);
        }
    }

    // ── Its socket
    // ──────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn device_timeout(&mut self, index: DeviceIndex) {
        let now = self.moment();
        if let Some(peer) = &mut self.device_mut(index).peer {
            peer.handle_timeout(now);
            self.drain_peer(index);
        }
    }

    pub fn tell_peer(&mut self, index: DeviceIndex, input: Input) {
        let now = self.moment();
        self.trace(|| format!("  peer {} {input:?}", index.0));
        if let Some(peer) = &mut self.device_mut(index).peer {
            peer.handle(now, input);
            self.drain_peer(index);
        }
    }

    fn drain_peer(&mut self, index: DeviceIndex) {
        while let Some(effect) = self.device_mut(index).peer.as_mut().and_then(Peer::poll_effect) {
            self.peer_does(index, effect);
        }
    }

    pub(crate) fn device_connects(&mut self, index: DeviceIndex, life: u64) {
        let device = self.device(index);
        if device.life != life || device.peer.is_none() {
            return;
        }
        let conn = if device.online { self.open_conn(Endpoint::Device(index)) } else { None };
        let Some(conn) = conn else {
            return self.tell_peer(index, Input::LinkClosed { code: None });
        };
        self.device_mut(index).conn = Some(conn);
        self.tell_peer(index, Input::LinkOpened);
        self.relay_accepts(conn);
    }

    pub(crate) fn device_hears(
        &mut self,
        index: DeviceIndex,
        conn: ConnId,
        frame: Frame<RelayToDevice>,
    ) {
        let device = self.device_mut(index);
        if device.conn != Some(conn) {
            return;
        }
        if device.frozen {
            return device.inbox.push_back((conn, frame));
        }
        self.model.device_hears(self.devices[index.0].public_id, &frame);
        self.tell_peer(index, Input::Received { frame });
    }

    pub(crate) fn device_lost_conn(&mut self, index: DeviceIndex, conn: ConnId, code: Option<u16>) {
        let device = self.device_mut(index);
        if device.conn != Some(conn) {
            return;
        }
        device.conn = None;
        self.tell_peer(index, Input::LinkClosed { code });
    }

    /// Says something that its Peer knows nothing of.
    pub fn say_raw(&mut self, index: DeviceIndex, message: DeviceToRelay, with_ref: bool) {
        let device = self.device_mut(index);
        device.raw_ref += 1;
        let reference = with_ref.then(|| Ref::new(format!("raw-{}", device.raw_ref)).unwrap());
        if let Some(conn) = device.conn {
            self.send_to_relay(conn, Packet::FromDevice(Frame::new(message, reference)));
        }
    }

    fn peer_does(&mut self, index: DeviceIndex, effect: Effect) {
        self.trace(|| format!("    peer {} does {effect:?}", index.0));
        let latency = self.config.latency_ms;
        match effect {
            Effect::OpenLink => {
                let life = self.device(index).life;
                self.after(latency, SimEvent::Connect(index, life));
            }
            Effect::CloseLink { .. } => {
                if let Some(conn) = self.device_mut(index).conn.take() {
                    self.close_from_peer(conn);
                }
            }
            Effect::Register { registration } => {
                let register = registration.message(EphemeralKey([2; 32]), Signature([0; 64]));
                self.send(index, DeviceToRelay::ClientRegister(register), None);
            }
            Effect::Send { message, reference } => self.send(index, message, reference),
            Effect::Revealing => self.device_mut(index).reveals.give(),
            Effect::Opened => self.device_mut(index).reveals.opened(),
            Effect::PhaseChanged { phase } => {
                self.model.phase_changes(&phase);
                if phase == (MembershipPhase::Ended { reason: EndReason::NotOpened }) {
                    self.after(TRIES_AGAIN_MS, SimEvent::TryAgain(index, self.device(index).life));
                }
                self.device_mut(index).phase = phase;
            }
            Effect::Answered { ask, answer } => self.link_answered(ask, answer),
            Effect::CatalogueChanged | Effect::Renamed { .. } | Effect::RenameFailed { .. } => {}
            Effect::SharesChanged { file_ids, state } => {
                for file_id in file_ids {
                    self.device_mut(index).share_states.insert(file_id, state);
                }
            }
            Effect::Upload { ticket, pieces, length: _ } => {
                self.start_upload(index, ticket, pieces)
            }
            Effect::CancelUpload { ticket, .. } => {
                self.model.count("upload cancelled");
                self.device_mut(index).uploads.remove(&ticket);
            }
            Effect::FileDisputed { file_id } => {
                self.model.count("file disputed");
                self.replace_file(index, file_id);
            }
            Effect::EndBodies => self.bodies_break(index),
            Effect::Fetch { fetch, transfer_id, ticket, .. } => {
                self.start_fetch(index, fetch, transfer_id, ticket)
            }
            Effect::CancelFetch { fetch } => {
                if self.device_mut(index).fetches.remove(&fetch).is_some() {
                    self.model.count("fetch cancelled");
                    self.tell_plane(PlaneEvent::GetBroken { fetch, device: index });
                }
            }
            Effect::CloseFile { transfer_id, file_id, root } => {
                self.close_file(index, transfer_id, file_id, root)
            }
            Effect::DiscardFile { transfer_id, file_id } => {
                self.model.count("file discarded");
                self.device_mut(index).stored.remove(&(transfer_id, file_id));
            }
            Effect::FileDone { transfer_id, file_id } => {
                self.file_done(index, transfer_id, file_id)
            }
            Effect::FileFailed { transfer_id, file_id, code, .. } => {
                self.model.count("download failed");
                if let Some(download) = self.device_mut(index).downloads.get_mut(&transfer_id) {
                    download.failed.insert(file_id, code);
                }
            }
            Effect::TransferChanged { waits_for, .. } => {
                if waits_for.is_some() {
                    self.model.count("download waits");
                }
            }
            Effect::TransferEnded { transfer_id, done, failed } => {
                if let Some(download) = self.device_mut(index).downloads.get_mut(&transfer_id) {
                    assert!(!download.ended, "a transfer ends once");
                    download.ended = true;
                    assert_eq!((done, failed), (download.done.len(), download.failed.len()));
                }
            }
            Effect::Progress { .. } => self.model.count("progress told"),
        }
    }

    fn send(&mut self, index: DeviceIndex, message: DeviceToRelay, reference: Option<Ref>) {
        if let Some(conn) = self.device(index).conn {
            self.send_to_relay(conn, Packet::FromDevice(Frame::new(message, reference)));
        }
    }

    fn tell_plane(&mut self, event: PlaneEvent) {
        let Some(boot) = self.relay.as_ref().map(|relay| relay.boot) else { return };
        let latency = self.config.latency_ms;
        self.after(latency, SimEvent::Plane(boot, event));
    }

    /// All bodies of its session break, as far as the other side can notice.
    fn bodies_break(&mut self, index: DeviceIndex) {
        let device = self.device_mut(index);
        let uploads = std::mem::take(&mut device.uploads);
        let fetches = std::mem::take(&mut device.fetches);
        if !device.online {
            return; // nobody hears it; the relay notices by its clocks
        }
        for ticket in uploads.into_keys() {
            self.tell_plane(PlaneEvent::PutBroken { ticket });
        }
        for fetch in fetches.into_keys() {
            self.tell_plane(PlaneEvent::GetBroken { fetch, device: index });
        }
    }

    // ── Sharing
    // ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Puts a new file on its disk and offers it.
    pub fn share(&mut self, index: DeviceIndex, path: &str, size: u64, with_root: bool) -> FileId {
        let content = Content { seed: self.random.number(), size };
        let new = NewFile {
            file_id: self.new_file_id(),
            path: path.into(),
            size,
            modified_ms: self.wall_ms(),
            media_type: String::new(),
            kind: EntryKind::File,
            root: with_root.then(|| content.root()),
        };
        self.offer(index, new, content)
    }

    pub fn share_folder(&mut self, index: DeviceIndex, path: &str) -> FileId {
        let new = NewFile {
            file_id: self.new_file_id(),
            path: path.into(),
            size: 0,
            modified_ms: 0,
            media_type: String::new(),
            kind: EntryKind::Folder,
            root: None,
        };
        self.offer(index, new, Content { seed: 0, size: 0 })
    }

    fn new_file_id(&mut self) -> FileId {
        let mut bytes: [u8; 16] = self.random.bytes();
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            .parse()
            .unwrap()
    }

    fn offer(&mut self, index: DeviceIndex, new: NewFile, content: Content) -> FileId {
        let file_id = new.file_id;
        let public_id = self.device(index).public_id;
        self.model.truth.insert(FileRef { public_id, file_id }, (content, false));
        self.device_mut(index)
            .local
            .insert(file_id, LocalFile { new: new.clone(), content, changed: None });
        self.tell_peer(index, Input::Share { files: vec![new] });
        file_id
    }

    pub fn unshare(&mut self, index: DeviceIndex, file_id: FileId) {
        self.device_mut(index).local.remove(&file_id);
        self.tell_peer(index, Input::Unshare { file_ids: vec![file_id] });
    }

    /// Another content lies there; its owner does not know yet.
    pub fn change_file(&mut self, index: DeviceIndex, file_id: FileId) {
        let content = Content { seed: self.random.number(), size: self.random.between(1, 900_000) };
        if let Some(file) = self.device_mut(index).local.get_mut(&file_id) {
            file.changed = Some(content);
        }
    }

    /// The owner noticed: the present version comes under a new id.
    fn replace_file(&mut self, index: DeviceIndex, old: FileId) {
        let Some(file) = self.device_mut(index).local.remove(&old) else { return };
        let content = file.changed.unwrap_or(file.content);
        let modified_ms = self.wall_ms();
        let new = NewFile {
            file_id: self.new_file_id(),
            size: content.size,
            modified_ms,
            root: None,
            ..file.new
        };
        let public_id = self.device(index).public_id;
        self.model.count("file replaced");
        self.model.truth.insert(FileRef { public_id, file_id: new.file_id }, (content, false));
        let local = LocalFile { new: new.clone(), content, changed: None };
        self.device_mut(index).local.insert(new.file_id, local);
        self.tell_peer(index, Input::Replaced { old, new: Some(new) });
    }

    fn start_upload(
        &mut self,
        index: DeviceIndex,
        ticket: Ticket,
        pieces: Vec<lanyard_protocol::GroupSpan>,
    ) {
        let device = self.device_mut(index);
        if device.lazy || !device.online || device.uploads.contains_key(&ticket) {
            return;
        }
        let units = pieces
            .iter()
            .flat_map(|piece| piece.groups.iter().map(|group| (piece.file_id, group)))
            .collect();
        device.uploads.insert(ticket, Upload { units, length_ms: device.put_ms });
        let (conn, life, put_ms) = (device.conn, device.life, device.put_ms);
        let Some(conn) = conn else { return };
        self.tell_plane(PlaneEvent::PutHead { conn, ticket });
        self.after(
            put_ms,
            SimEvent::DeviceBytes(index, life, BytesEvent::PutNext { ticket, index: 0 }),
        );
    }

    fn put_next(&mut self, index: DeviceIndex, ticket: Ticket, at: usize) {
        let device = self.device_mut(index);
        let life = device.life;
        if device.frozen || !device.online {
            return self.after(
                500,
                SimEvent::DeviceBytes(index, life, BytesEvent::PutNext { ticket, index: at }),
            );
        }
        let Some(upload) = device.uploads.get(&ticket) else { return };
        let (file_id, group) = upload.units[at];
        let (last, wait) = (at + 1 == upload.units.len(), upload.length_ms);
        let Some(file) = device.local.get(&file_id) else {
            return self.refuse_upload(index, ticket, FailureCode::FileGone, file_id);
        };
        let run: BTreeSet<FileId> = upload.units.iter().map(|(file_id, _)| *file_id).collect();
        let content = file.content;
        // Looked at after the last byte of the run was read, before it is sent.
        let changed = run
            .iter()
            .find(|id| device.local.get(id).is_none_or(|file| file.changed.is_some()))
            .copied();
        if let Some(culprit) = changed.filter(|_| last) {
            self.model.count("file changed at its owner");
            self.refuse_upload(index, ticket, FailureCode::FileChanged, culprit);
            return self.replace_file(index, culprit);
        }
        let mut value = file.changed.unwrap_or(content).value(group);
        if device.corrupt > 0 {
            device.corrupt -= 1;
            value.0[0] ^= 0x55;
            let file = FileRef { public_id: device.public_id, file_id };
            if let Some(truth) = self.model.truth.get_mut(&file) {
                truth.1 = true;
            }
            self.model.count("wrong bytes sent");
        }
        if self.device(index).local[&file_id].changed.is_some() {
            let file = FileRef { public_id: self.device(index).public_id, file_id };
            self.model.truth.get_mut(&file).unwrap().1 = true;
        }
        self.tell_plane(PlaneEvent::PutUnit { ticket, index: at, body: SimBody::Group(value) });
        if last {
            self.device_mut(index).uploads.remove(&ticket);
        } else {
            self.after(
                wait,
                SimEvent::DeviceBytes(index, life, BytesEvent::PutNext { ticket, index: at + 1 }),
            );
        }
    }

    fn refuse_upload(
        &mut self,
        index: DeviceIndex,
        ticket: Ticket,
        code: FailureCode,
        file_id: FileId,
    ) {
        self.device_mut(index).uploads.remove(&ticket);
        self.tell_plane(PlaneEvent::PutBroken { ticket });
        self.tell_peer(index, Input::UploadRefused { ticket, code, file_id: Some(file_id) });
    }

    // ── Downloading
    // ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Fetches files of one owner, going on from what an earlier try stored.
    pub fn download(
        &mut self,
        index: DeviceIndex,
        owner: DeviceId,
        entries: &[FileEntry],
        streams: bool,
    ) -> TransferId {
        let transfer_id: TransferId = self.new_file_id().to_string().parse().unwrap();
        self.download_as(index, transfer_id, owner, entries, streams);
        transfer_id
    }

    pub fn download_as(
        &mut self,
        index: DeviceIndex,
        transfer_id: TransferId,
        owner: DeviceId,
        entries: &[FileEntry],
        streams: bool,
    ) {
        let device = self.device_mut(index);
        let files: Vec<WantedFile> = entries
            .iter()
            .map(|entry| {
                let mut have = GroupSet::default();
                for group in device
                    .stored
                    .get(&(transfer_id, entry.file_id))
                    .into_iter()
                    .flat_map(|s| s.values.keys())
                {
                    have.insert(GroupRange::new(*group, 1));
                }
                WantedFile {
                    file_id: entry.file_id,
                    size: entry.size,
                    group_log: entry.group_log,
                    root: entry.root,
                    have,
                }
            })
            .collect();
        let download = SimDownload {
            owner,
            files: files.clone(),
            done: BTreeSet::new(),
            failed: BTreeMap::new(),
            ended: false,
            cancelled: false,
            paused: false,
            streams,
        };
        device.downloads.insert(transfer_id, download);
        let lookahead_bytes = streams.then_some(600_000);
        let order = TransferOrder { transfer_id, owner, files, lookahead_bytes };
        self.model.count(if streams { "streaming download" } else { "download" });
        self.tell_peer(index, Input::StartTransfer { order });
    }

    pub fn cancel_download(&mut self, index: DeviceIndex, transfer_id: TransferId) {
        self.device_mut(index).downloads.get_mut(&transfer_id).unwrap().cancelled = true;
        self.model.count("download cancelled");
        self.tell_peer(index, Input::Cancel { transfer_id });
    }

    pub fn pause_download(&mut self, index: DeviceIndex, transfer_id: TransferId, paused: bool) {
        self.device_mut(index).downloads.get_mut(&transfer_id).unwrap().paused = paused;
        self.tell_peer(
            index,
            if paused { Input::Pause { transfer_id } } else { Input::Resume { transfer_id } },
        );
    }

    fn start_fetch(
        &mut self,
        index: DeviceIndex,
        fetch: FetchId,
        transfer_id: TransferId,
        ticket: Ticket,
    ) {
        let device = self.device_mut(index);
        let (life, online, conn) = (device.life, device.online, device.conn);
        device.fetches.insert(fetch, Fetching { transfer_id });
        match conn.filter(|_| online && self.relay.is_some()) {
            Some(conn) => {
                let by = ReadBy::Device { device: index, life, fetch };
                self.tell_plane(PlaneEvent::GetHead { conn, ticket, by });
            }
            None => self.after(100, SimEvent::DeviceBytes(index, life, BytesEvent::Cut { fetch })),
        }
    }

    pub(crate) fn device_bytes(&mut self, index: DeviceIndex, life: u64, event: BytesEvent) {
        let device = self.device(index);
        if device.life != life {
            return;
        }
        let over = |device: &SimDevice, fetch: &FetchId| !device.fetches.contains_key(fetch);
        match event {
            BytesEvent::PutNext { ticket, index: at } => self.put_next(index, ticket, at),
            BytesEvent::Got { fetch, unit } if !over(device, &fetch) => {
                self.got(index, fetch, *unit)
            }
            BytesEvent::Complete { fetch } if !over(device, &fetch) => {
                self.fetch_ends(index, fetch, FetchOutcome::Complete);
            }
            BytesEvent::Cut { fetch } if !over(device, &fetch) => {
                self.model.count("body cut");
                self.fetch_ends(index, fetch, FetchOutcome::Cut);
            }
            BytesEvent::Refused { fetch, code } if !over(device, &fetch) => {
                self.model.count("body refused");
                self.fetch_ends(index, fetch, FetchOutcome::Refused { code, retry_after_ms: None });
            }
            BytesEvent::Consumed { transfer_id, file_id, groups } => {
                self.tell_peer(index, Input::Consumed { transfer_id, file_id, groups });
            }
            _ => {}
        }
    }

    fn fetch_ends(&mut self, index: DeviceIndex, fetch: FetchId, outcome: FetchOutcome) {
        self.device_mut(index).fetches.remove(&fetch);
        self.tell_peer(index, Input::FetchEnded { fetch, outcome });
    }

    fn got(&mut self, index: DeviceIndex, fetch: FetchId, unit: Unit) {
        let device = self.device_mut(index);
        let Fetching { transfer_id } = device.fetches[&fetch];
        let file_id = unit.file.file_id;
        let stored = device.stored.entry((transfer_id, file_id)).or_default();
        match unit.body.expect("only what passed is read") {
            SimBody::Group(value) => {
                if stored.list.as_ref().is_some_and(|list| list[unit.group as usize] != value) {
                    return; // not stored: asked for again when the body is over
                }
                stored.values.insert(unit.group, value);
                let groups = GroupRange::new(unit.group, 1);
                let read =
                    (0..).take_while(|group| stored.values.contains_key(group)).count() as u32;
                let life = device.life;
                let streams =
                    device.downloads.get(&transfer_id).is_some_and(|download| download.streams);
                self.tell_peer(
                    index,
                    Input::Stored {
                        transfer_id,
                        pieces: vec![lanyard_protocol::GroupSpan { file_id, groups }],
                    },
                );
                if streams {
                    let event = BytesEvent::Consumed { transfer_id, file_id, groups: read };
                    self.after(20, SimEvent::DeviceBytes(index, life, event));
                }
            }
            SimBody::List(list) => {
                let wrong: Vec<u32> = stored
                    .values
                    .iter()
                    .filter(|(n, value)| list[**n as usize] != **value)
                    .map(|(n, _)| *n)
                    .collect();
                stored.values.retain(|n, _| !wrong.contains(n));
                stored.list = Some(list);
                self.model.count("values fetched");
                if !wrong.is_empty() {
                    self.model.count("stored groups rejected");
                    let groups = wrong.into_iter().map(|n| GroupRange::new(n, 1)).collect();
                    self.tell_peer(index, Input::Rejected { transfer_id, file_id, groups });
                }
            }
        }
    }

    fn close_file(
        &mut self,
        index: DeviceIndex,
        transfer_id: TransferId,
        file_id: FileId,
        root: Option<Root>,
    ) {
        let device = self.device(index);
        let Some(download) = device.downloads.get(&transfer_id) else { return };
        let wanted = download.files.iter().find(|file| file.file_id == file_id).unwrap();
        let stored = device.stored.get(&(transfer_id, file_id));
        let values: Vec<GroupHash> =
            stored.into_iter().flat_map(|stored| stored.values.values().copied()).collect();
        let merged = Groups::new(wanted.size, wanted.group_log).root(&values);
        assert!(merged.is_some(), "a file is closed when all its groups are here");
        let right = root.is_none_or(|root| merged == Some(root));
        if !right {
            self.model.count("file does not merge to its root");
        }
        let outcome = if right { CloseReason::Done } else { CloseReason::Mismatch };
        self.tell_peer(index, Input::FileClosed { transfer_id, file_id, outcome });
    }

    fn file_done(&mut self, index: DeviceIndex, transfer_id: TransferId, file_id: FileId) {
        self.model.count("download done");
        let device = self.device_mut(index);
        let Some(download) = device.downloads.get_mut(&transfer_id) else { return };
        assert!(download.done.insert(file_id), "a file is done once");
        let file = FileRef { public_id: download.owner, file_id };
        let stored = device.stored.get(&(transfer_id, file_id)).cloned().unwrap_or_default();
        let (content, tainted) = self.model.truth[&file];
        if !tainted {
            let values: Vec<GroupHash> = stored.values.values().copied().collect();
            assert_eq!(values, content.values(), "a download is what its owner shares");
        }
    }
}
