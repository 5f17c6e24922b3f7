//! What must be true: at every step, and when all is at rest. A breach is a panic that names it;
//! whoever plays the schedule adds the seed.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_hub::authority::{ListedFile, Verdict};
use lanyard_hub::broker::SessionId;
use lanyard_hub::peer::{EndReason, MembershipPhase};
use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::{
    Client, CloseCode, DeviceId, DeviceToRelay, FailureCode, FileEntry, FileId, FileRef, Frame,
    GroupSpan, Instance, MasterToRelay, Membership, Ref, RelayMessage, RelayToDevice,
    RelayToMaster, TransferId,
};

use crate::sim::actors::device::Content;
use crate::sim::actors::links::LinkReadingState;
use crate::sim::actors::master::SimDisk;
use crate::sim::actors::sim_slots::{Plane, SimSlot};
use crate::sim::simulation::Simulation;

/// Of a piece that lies far outside of its file the first groups stand for all.
const MOST_GROUPS: usize = 1_000;

/// One group that somebody asked for.
type Asked = (SessionId, TransferId, bool, FileId, u32);

#[derive(Debug, Default)]
pub struct Model {
    /// How often each kind of transition was seen.
    pub counts: BTreeMap<&'static str, u64>,
    /// What each shared version is made of, and whether wrong bytes were ever sent for it.
    pub truth: BTreeMap<FileRef, (Content, bool)>,
    pub uploaded_bytes: u64,
    /// Running number of HTTP calls and link readers.
    pub calls: u64,
    sessions: BTreeMap<SessionId, Live>,
    instances: BTreeSet<(DeviceId, Instance)>,
    /// Outcomes that are owed, per group.
    owed: BTreeMap<Asked, u32>,
    /// Outcomes that may come or not, for the asker said that it does not care.
    waived: BTreeMap<Asked, u32>,
    /// Requests whose one answer is owed; false when the master that should answer was lost.
    /// Several of one ref: the message came twice, and each is answered.
    requests: BTreeMap<(SessionId, Ref), Vec<ModelRequest>>,
    /// Approved on disk at some time and not refused or forgotten since.
    approved: BTreeSet<DeviceId>,
    /// Refused on disk at some time.
    refused_ever: BTreeSet<DeviceId>,
    /// Refusals that this relay was told of.
    relay_refuses: BTreeSet<DeviceId>,
}

#[derive(Debug)]
struct Live {
    device: DeviceId,
    told_approved: bool,
    was_approved: bool,
    had_another: bool,
    /// The reference of its last REQUEST_CHUNK: the same again asks nothing more.
    last_ask: Option<Ref>,
}

#[derive(Debug)]
struct ModelRequest {
    what: &'static str,
    groups: Vec<Asked>,
    answered: bool,
    may_lapse: bool,
}

impl Model {
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn device_of(&self, session: SessionId) -> DeviceId {
        self.sessions[&session].device
    }

    // ── What is told to whom
    // ────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn session_opens(
        &mut self,
        session: SessionId,
        device: DeviceId,
        instance: Instance,
    ) {
        let had_another = !self.instances.insert((device, instance));
        self.sessions.insert(
            session,
            Live { device, told_approved: false, was_approved: false, had_another, last_ask: None },
        );
    }

    pub(crate) fn session_ends(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        self.owed.retain(|asked, _| asked.0 != session);
        self.waived.retain(|asked, _| asked.0 != session);
        self.requests.retain(|(of, _), _| *of != session);
    }

    pub(crate) fn closes(&mut self, session: SessionId, code: CloseCode) {
        self.count(match code {
            CloseCode::Superseded => "session superseded",
            CloseCode::Revoked => "session revoked",
            CloseCode::Unauthenticated => "session closed for a wrong reveal",
            CloseCode::RateLimited => "session closed for crowding",
            _ => "session closed",
        });
        self.session_ends(session);
    }

    pub(crate) fn relay_died(&mut self) {
        self.sessions.clear();
        self.owed.clear();
        self.waived.clear();
        self.requests.clear();
        self.relay_refuses.clear();
    }

    /// On disk: the one truth about who belongs.
    pub(crate) fn saved(&mut self, disk: &SimDisk) {
        self.approved.retain(|device| disk.verdict(*device) == Some(Verdict::Approved));
        for (device, member) in &disk.members {
            match member.verdict {
                Verdict::Approved => self.approved.insert(*device),
                Verdict::Refused => self.refused_ever.insert(*device),
            };
        }
    }

    pub(crate) fn acknowledges(
        &mut self,
        session: SessionId,
        membership: Membership,
        disk: &SimDisk,
    ) {
        let device = self.device_of(session);
        self.count(match membership {
            Membership::Unknown => "acknowledged unknown",
            Membership::Pending => "acknowledged pending",
            Membership::Approved => "acknowledged approved",
            Membership::Disapproved => "acknowledged disapproved",
        });
        match membership {
            Membership::Approved => {
                self.assert_may_hear(device, disk, "an approval");
                self.tell_approved(session, true);
            }
            Membership::Disapproved => {
                assert!(self.refused_ever.contains(&device), "a refusal nobody decided")
            }
            Membership::Pending | Membership::Unknown => {}
        }
    }

    fn tell_approved(&mut self, session: SessionId, approved: bool) {
        let live = self.sessions.get_mut(&session).unwrap();
        live.told_approved = approved;
        live.was_approved |= approved;
    }

    /// Approved on disk, or refused on disk with the word of that not yet at the relay.
    fn assert_may_hear(&self, device: DeviceId, disk: &SimDisk, what: &str) {
        let belongs = self.approved.contains(&device);
        let on_its_way =
            disk.verdict(device) != Some(Verdict::Approved) && self.refused_ever.contains(&device);
        assert!(belongs || on_its_way, "{what} reaches {device}, which is not approved on disk");
        assert!(
            !self.relay_refuses.contains(&device),
            "{what} reaches {device}, which the relay knows to be refused"
        );
    }

    pub(crate) fn relay_says(
        &mut self,
        session: SessionId,
        message: &RelayToDevice,
        reference: Option<&Ref>,
        disk: &SimDisk,
    ) {
        let device = self.device_of(session);
        match message {
            RelayToDevice::Membership(notice) => {
                self.count("membership told");
                if notice.membership == Membership::Approved {
                    self.assert_may_hear(device, disk, "MEMBERSHIP approved");
                }
                self.tell_approved(session, notice.membership == Membership::Approved);
                if notice.membership != Membership::Approved {
                    // It belongs no longer; what it asked ended with that.
                    self.owed.retain(|asked, _| asked.0 != session);
                }
            }
            RelayToDevice::ApprovalChallenge(_) => self.count("knock challenged"),
            RelayToDevice::ApprovalOpen(_)
            | RelayToDevice::ApprovalRestart(_)
            | RelayToDevice::ServerNotReady(_)
            | RelayToDevice::Pong(_)
            | RelayToDevice::RequestFailed(_) => {}
            // What it had in flight ends after it was told why.
            RelayToDevice::JoinAt(_) => {
                self.count("told where others read");
                assert!(self.sessions[&session].was_approved, "{message:?} reaches a stranger");
            }
            RelayToDevice::UploadCancelled(_) | RelayToDevice::ChunkFailed(_) => {
                assert!(self.sessions[&session].was_approved, "{message:?} reaches a stranger");
            }
            RelayToDevice::ClientDisApproved(no) => {
                assert!(
                    self.refused_ever.contains(&no.public_id),
                    "a refusal is said before it is on disk"
                );
                if no.public_id != device {
                    self.assert_may_hear(device, disk, "another's refusal");
                }
            }
            other => {
                self.assert_may_hear(device, disk, "a list or a change");
                let told = self.sessions[&session].told_approved;
                assert!(told, "{other:?} reaches a session that was not told that it is approved");
            }
        }
        if let Some(revision) = revision_of(message) {
            assert!(
                revision <= disk.revision,
                "revision {revision} is told, {} is on disk",
                disk.revision
            );
        }
        self.note_outcome(session, message);
        if let Some(reference) = reference {
            self.note_answer(session, reference, message);
        }
    }

    pub(crate) fn master_says(&mut self, message: &MasterToRelay) {
        match message {
            MasterToRelay::DisApproveClient(no) => drop(self.relay_refuses.insert(no.public_id)),
            MasterToRelay::ForgetClient(m) => drop(self.relay_refuses.remove(&m.public_id)),
            MasterToRelay::ClientApproved(m) => {
                self.relay_refuses.remove(&m.client.public_id);
            }
            MasterToRelay::MasterRoster(page) if page.last => {
                self.relay_refuses = page.refused.iter().copied().collect();
            }
            _ => {}
        }
    }

    pub(crate) fn relay_tells_master(&mut self, message: &RelayToMaster) {
        match message {
            RelayToMaster::Relay(RelayMessage::NewClientRegistered(_)) => self.count("knocked"),
            RelayToMaster::Relay(RelayMessage::FileLookup(_)) => self.count("files looked up"),
            RelayToMaster::Relay(RelayMessage::FileChanged(_)) => self.count("file found changed"),
            RelayToMaster::Relay(RelayMessage::LinkUsed(_)) => self.count("link use told"),
            RelayToMaster::Relay(RelayMessage::LinkLookup(_)) => self.count("link looked up"),
            RelayToMaster::Relay(RelayMessage::LinkPage(_)) => self.count("archive page asked"),
            RelayToMaster::Relay(RelayMessage::RelayStatus(_)) => self.count("figures told"),
            _ => {}
        }
    }

    /// The master will not answer what it was asked and had not answered.
    pub(crate) fn master_lost(&mut self) {
        self.requests.values_mut().flatten().for_each(|request| request.may_lapse = true);
    }

    pub(crate) fn device_hears(&mut self, device: DeviceId, frame: &Frame<RelayToDevice>) {
        let _ = device;
        self.count(match &frame.message {
            RelayToDevice::HubReady(_) => "hub ready",
            RelayToDevice::ServerNotReady(_) => "hub away",
            RelayToDevice::FeedDirty(_) => "feed dirty heard",
            RelayToDevice::ClientDisconnected(_) => "somebody went",
            RelayToDevice::ClientReconnected(_) => "somebody came",
            _ => return,
        });
    }

    pub(crate) fn phase_changes(&mut self, phase: &MembershipPhase) {
        self.count(match phase {
            MembershipPhase::Connecting => "peer connecting",
            MembershipPhase::HostAway => "peer finds the host away",
            MembershipPhase::Waiting { .. } => "peer waiting",
            MembershipPhase::Closed => "peer finds the door closed",
            MembershipPhase::Entering => "peer entering",
            MembershipPhase::Approved { host_away: false } => "peer approved",
            MembershipPhase::Approved { host_away: true } => "peer approved, host away",
            MembershipPhase::Ended { reason: EndReason::Refused } => "peer refused",
            MembershipPhase::Ended { reason: EndReason::Superseded } => "peer superseded",
            MembershipPhase::Ended { reason: EndReason::NotOpened } => "peer asks its person",
            MembershipPhase::Ended { .. } => "peer ended",
        });
    }

    // ── One answer a request, one outcome a group
    // ───────────────────────────────────────────────────────────────────

    pub(crate) fn device_says(&mut self, session: SessionId, frame: &Frame<DeviceToRelay>) {
        let what = match &frame.message {
            DeviceToRelay::UpdateName(_) => "UPDATE_NAME",
            DeviceToRelay::FeedPull(_) => "FEED_PULL",
            DeviceToRelay::AddFiles(_) => "ADD_FILES",
            DeviceToRelay::RemoveFile(_) => "REMOVE_FILE",
            DeviceToRelay::LinkRequest(_) => "LINK_REQUEST",
            DeviceToRelay::LinksPull(_) => "LINKS_PULL",
            DeviceToRelay::LinkDrop(_) => "LINK_DROP",
            DeviceToRelay::Ping(_) => "PING",
            DeviceToRelay::RequestChunk(_) => "REQUEST_CHUNK",
            _ => "",
        };
        let Some(live) = self.sessions.get_mut(&session) else {
            return; // closed, with its last words still arriving
        };
        // Of who is not approved each is refused, and none is an ask.
        let repeats = what == "REQUEST_CHUNK"
            && live.told_approved
            && frame.reference.is_some()
            && std::mem::replace(&mut live.last_ask, frame.reference.clone()) == frame.reference;
        let mut groups = Vec::new();
        match &frame.message {
            DeviceToRelay::RequestChunk(_) if repeats => {
                self.count("groups asked for again by the same message")
            }
            DeviceToRelay::RequestChunk(request) => {
                self.count("groups asked for");
                groups = asked(session, request.transfer_id, request.what, &request.pieces);
                for asked in &groups {
                    *self.owed.entry(*asked).or_default() += 1;
                }
            }
            DeviceToRelay::CancelChunk(cancel) => {
                self.waive(session, cancel.transfer_id, cancel.pieces.as_deref())
            }
            _ => {}
        }
        if let (Some(reference), false) = (&frame.reference, what.is_empty()) {
            let may_lapse = what == "REQUEST_CHUNK";
            let request = ModelRequest { what, groups, answered: false, may_lapse };
            self.requests.entry((session, reference.clone())).or_default().push(request);
        }
    }

    fn waive(&mut self, session: SessionId, transfer: TransferId, pieces: Option<&[GroupSpan]>) {
        let covered = |asked: &Asked| {
            let in_pieces = |pieces: &[GroupSpan]| {
                pieces.iter().any(|p| p.file_id == asked.3 && p.groups.contains(asked.4))
            };
            asked.0 == session && asked.1 == transfer && pieces.is_none_or(in_pieces)
        };
        let waived: Vec<Asked> = self.owed.keys().filter(|asked| covered(asked)).copied().collect();
        for asked in waived {
            *self.waived.entry(asked).or_default() += self.owed.remove(&asked).unwrap();
        }
    }

    fn note_outcome(&mut self, session: SessionId, message: &RelayToDevice) {
        let (transfer, pieces) = match message {
            RelayToDevice::ChunkReady(ready) => {
                self.count("chunk ready");
                (ready.transfer_id, &ready.pieces)
            }
            RelayToDevice::ChunkFailed(failed) => {
                self.count(match failed.code {
                    FailureCode::OwnerAway => "chunk failed: owner away",
                    FailureCode::ServerNotReady => "chunk failed: hub away",
                    FailureCode::Busy => "chunk failed: busy",
                    FailureCode::TimedOut => "chunk failed: timed out",
                    FailureCode::BadBytes => "chunk failed: bad bytes",
                    FailureCode::FileGone => "chunk failed: file gone",
                    FailureCode::FileChanged => "chunk failed: file changed",
                    FailureCode::PeerRevoked => "chunk failed: owner refused",
                    FailureCode::NoHashes => "chunk failed: no values",
                    _ => "chunk failed otherwise",
                });
                (failed.transfer_id, &failed.pieces)
            }
            _ => return,
        };
        // The message does not say whether it is about bytes or values; a group is rarely asked for
        // both at once.
        for piece in pieces {
            for group in piece.groups.iter().take(MOST_GROUPS) {
                let key = |values| (session, transfer, values, piece.file_id, group);
                let paid = [false, true].into_iter().any(|values| {
                    settle(&mut self.owed, key(values)) || settle(&mut self.waived, key(values))
                });
                assert!(
                    paid,
                    "group {group} of {} has an outcome that nobody is owed: {message:?}",
                    piece.file_id
                );
            }
        }
    }

    fn note_answer(&mut self, session: SessionId, reference: &Ref, message: &RelayToDevice) {
        let requests = self.requests.get_mut(&(session, reference.clone())).into_iter().flatten();
        // Of two, that whose answer was lost with the host does without.
        let Some(request) =
            requests.filter(|request| !request.answered).min_by_key(|request| request.may_lapse)
        else {
            // The master names sessions by instance: the answer to one may reach the next of its
            // kind.
            let had_another = self.sessions[&session].had_another;
            assert!(
                had_another,
                "an answer to nothing, or the second to one: {reference:?} {message:?}"
            );
            return self.count("answer to an earlier session");
        };
        request.answered = true;
        if let RelayToDevice::RequestFailed(_) = message {
            for asked in std::mem::take(&mut request.groups) {
                let _ = settle(&mut self.owed, asked) || settle(&mut self.waived, asked);
            }
            self.count("request failed");
        }
    }

    // ── Slots
    // ───────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn slot_opens(&mut self, new: &SimSlot, plane: &Plane) {
        let key = |slot: &SimSlot| -> BTreeSet<(FileRef, u32)> {
            slot.units.iter().map(|unit| (unit.file, unit.group)).collect()
        };
        let groups = key(new);
        assert_eq!(groups.len(), new.units.len(), "a run names a group twice");
        for slot in plane.slots.values().filter(|slot| slot.what == new.what) {
            let both = key(slot).intersection(&groups).next().copied();
            if slot.group == new.group {
                assert_eq!(
                    both, None,
                    "one group in two live slots of one group of speed: it is uploaded twice"
                );
            } else if both.is_some() {
                self.count("uploaded for two groups of speed");
            }
        }
    }

    // ── At rest
    // ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Everybody is there, nothing is cut, nothing moves: all agree, and nothing is left over.
    pub fn at_rest(&self, world: &Simulation) {
        let relay = world.relay.as_ref().expect("the relay is there");
        let master = world.master.as_ref().expect("the master is there");
        let counts = relay.broker.counts();
        assert!(counts.hub_ready, "the hub is ready");
        // A link that waits for an absent owner may hold what is there already.
        if !world.links.iter().any(|link| link.state == LinkReadingState::Reading) {
            assert_eq!(
                (counts.slots, counts.filling, counts.readers),
                (0, 0, 0),
                "slots are left: {counts:?}"
            );
            assert_eq!((counts.asks, counts.calls), (0, 0), "asks or calls are left: {counts:?}");
            assert_eq!(relay.broker.reserved_bytes(), 0, "budget is left reserved");
            assert!(
                relay.plane.slots.is_empty(),
                "slots are left in the plane: {:?}",
                relay.plane.slots
            );
            assert!(relay.plane.grants.is_empty(), "tickets are left: {:?}", relay.plane.grants);
        }
        assert_eq!(self.owed, BTreeMap::new(), "groups without an outcome");
        for ((_, reference), requests) in &self.requests {
            for request in requests {
                assert!(
                    request.answered || request.may_lapse,
                    "{} {reference:?} was never answered",
                    request.what
                );
            }
        }
        let told = master.authority.relay_status();
        assert_eq!(told, Some(&relay.broker.status()), "the host knows the relay's figures");
        assert!(
            master.unanswered.is_empty(),
            "the host waits for an answer: {:?}",
            master.unanswered
        );
        self.disk_is_what_the_authority_says(world);
        self.mirrors_agree(world);
        self.presence_is_true(world);
        self.downloads_are_decided(world);
        self.links_are_decided(world);
    }

    fn disk_is_what_the_authority_says(&self, world: &Simulation) {
        let authority = &world.master.as_ref().unwrap().authority;
        let members: BTreeMap<DeviceId, _> =
            authority.members().map(|m| (m.client.public_id, m.clone())).collect();
        assert_eq!(members, world.disk.members, "the roster in memory and the one on disk");
        let listed: BTreeMap<FileRef, FileEntry> =
            authority.files().map(|f| (f.file_ref(), f.clone())).collect();
        assert_eq!(listed, listed_on_disk(&world.disk), "the list in memory and the one on disk");
        assert_eq!(authority.head().revision, world.disk.revision);
    }

    fn mirrors_agree(&self, world: &Simulation) {
        let clients: BTreeMap<DeviceId, Client> = world
            .disk
            .members
            .values()
            .filter(|member| member.verdict == Verdict::Approved)
            .map(|member| (member.client.public_id, member.client.clone()))
            .collect();
        let files = listed_on_disk(&world.disk);
        let head = world.master.as_ref().unwrap().authority.head();
        for device in world.devices.iter().filter(|device| device.is_approved()) {
            let catalogue = device.peer.as_ref().unwrap().catalogue();
            assert_eq!(catalogue.clients, clients, "{} knows who belongs", device.name);
            assert_eq!(catalogue.files, files, "{} knows what is shared", device.name);
            assert_eq!(catalogue.position, head, "{} stands at the head", device.name);
        }
        for (index, device) in
            world.devices.iter().enumerate().filter(|(_, device)| device.peer.is_some())
        {
            let verdict = world.disk.verdict(device.public_id);
            match &device.phase {
                MembershipPhase::Approved { host_away } => {
                    assert_eq!(
                        verdict,
                        Some(Verdict::Approved),
                        "{} believes to be approved",
                        device.name
                    );
                    assert!(!host_away, "{} believes the host to be away", device.name);
                }
                MembershipPhase::Waiting { .. } => {
                    assert_eq!(verdict, None, "{} waits at the door", device.name)
                }
                MembershipPhase::Ended { reason: EndReason::Refused } => {
                    assert!(
                        self.refused_ever.contains(&device.public_id),
                        "{} was refused by nobody",
                        device.name
                    );
                }
                // Rejected: strange words were put into its mouth.
                MembershipPhase::Ended {
                    reason: EndReason::Superseded | EndReason::Stopped | EndReason::Rejected,
                } => {}
                other => {
                    panic!("device {index} {} rests as {other:?}, verdict {verdict:?}", device.name)
                }
            }
            if device.is_approved() {
                self.shares_are_listed(world, index);
            }
        }
    }

    /// What a device offers is listed as its own, and nothing else is.
    fn shares_are_listed(&self, world: &Simulation, index: usize) {
        use lanyard_hub::peer::ShareState;
        let device = &world.devices[index];
        let listed: BTreeSet<FileId> = listed_on_disk(&world.disk)
            .values()
            .filter(|entry| {
                (entry.public_id, entry.instance) == (device.public_id, device.instance)
            })
            .map(|entry| entry.file_id)
            .collect();
        let by_others: BTreeSet<FileId> = listed_on_disk(&world.disk)
            .values()
            .filter(|entry| entry.public_id == device.public_id)
            .map(|entry| entry.file_id)
            .collect();
        for (file_id, state) in device.peer.as_ref().unwrap().shares() {
            match state {
                ShareState::Shared => {
                    assert!(by_others.contains(&file_id), "{} offers {file_id}", device.name)
                }
                ShareState::Failed { .. } | ShareState::Removed => {}
                ShareState::Syncing => panic!("{} is still syncing {file_id}", device.name),
            }
        }
        let offered: BTreeSet<FileId> =
            device.peer.as_ref().unwrap().shares().map(|(id, _)| id).collect();
        let orphans: Vec<&FileId> = listed.difference(&offered).collect();
        assert!(
            orphans.is_empty(),
            "{} is listed with files that it does not offer: {orphans:?}",
            device.name
        );
    }

    fn presence_is_true(&self, world: &Simulation) {
        let online: BTreeSet<DeviceId> = world
            .devices
            .iter()
            .filter(|device| device.is_approved())
            .map(|device| device.public_id)
            .collect();
        for device in world.devices.iter().filter(|device| device.is_approved()) {
            let seen = &device.peer.as_ref().unwrap().catalogue().online;
            assert_eq!(*seen, online, "{} knows who is online", device.name);
        }
        let authority = &world.master.as_ref().unwrap().authority;
        let known: BTreeSet<DeviceId> = authority.presence().online.into_iter().collect();
        assert_eq!(known, online, "the host knows who is online");
    }

    fn downloads_are_decided(&self, world: &Simulation) {
        let files = listed_on_disk(&world.disk);
        for device in world.devices.iter().filter(|device| device.is_approved()) {
            for (id, download) in &device.downloads {
                if download.cancelled || download.paused || download.ended {
                    continue;
                }
                for file in &download.files {
                    let decided = download.done.contains(&file.file_id)
                        || download.failed.contains_key(&file.file_id);
                    let file_ref = FileRef { public_id: download.owner, file_id: file.file_id };
                    let offered = files.get(&file_ref).is_some_and(|entry| {
                        world.devices.iter().any(|owner| {
                            (owner.public_id, owner.instance) == (entry.public_id, entry.instance)
                                && owner.is_approved()
                        })
                    });
                    let gone = !world.disk.files.contains_key(&file_ref);
                    assert!(
                        decided || !offered,
                        "{} waits for {file_ref:?} of {id} though its owner is there",
                        device.name
                    );
                    assert!(
                        decided || !gone,
                        "{} waits for {file_ref:?} of {id} though it is gone",
                        device.name
                    );
                }
            }
        }
    }

    fn links_are_decided(&self, world: &Simulation) {
        for link in &world.links {
            match &link.state {
                LinkReadingState::Done => {
                    let clean = link
                        .read
                        .iter()
                        .all(|file| self.truth.get(file).is_some_and(|(_, tainted)| !tainted));
                    if clean {
                        let right: Vec<_> =
                            link.read.iter().flat_map(|file| self.truth[file].0.values()).collect();
                        assert!(link.values == right, "a link gives what its owners share");
                    }
                }
                LinkReadingState::Reading | LinkReadingState::Opening if !link.paused => {
                    let known = if link.files.is_empty() { &link.read } else { &link.files };
                    let owner_there = |file: &FileRef| {
                        world.disk.files.get(file).is_some_and(|listing| {
                            world.devices.iter().any(|owner| {
                                let entry = &listing.entry;
                                (owner.public_id, owner.instance)
                                    == (entry.public_id, entry.instance)
                                    && owner.is_approved()
                                    && listing.withdrawn_ms.is_none()
                            })
                        })
                    };
                    assert!(
                        !known.iter().all(owner_there),
                        "a link waits though all its owners are there: {link:?}"
                    );
                }
                _ => {}
            }
        }
    }
}

/// What uploads reserve stays within the budget; one run that is larger goes alone.
pub(crate) fn budget_holds(world: &Simulation) {
    let Some(relay) = &world.relay else { return };
    let lengths =
        relay.plane.slots.values().filter(|slot| slot.holder.is_some()).map(|slot| slot.length);
    let (count, total) =
        lengths.fold((0u32, 0u64), |(count, total), length| (count + 1, total + length));
    let budget = world.config.budget_bytes;
    assert!(
        total <= budget || count == 1,
        "{total} bytes in {count} slots, with a budget of {budget}"
    );
}

fn listed_on_disk(disk: &SimDisk) -> BTreeMap<FileRef, FileEntry> {
    let listed = |listing: &&ListedFile| listing.withdrawn_ms.is_none();
    disk.files
        .values()
        .filter(listed)
        .map(|listing| (listing.entry.file_ref(), listing.entry.clone()))
        .collect()
}

fn asked(
    session: SessionId,
    transfer: TransferId,
    what: BodyKind,
    pieces: &[GroupSpan],
) -> Vec<Asked> {
    let values = what == BodyKind::Hashes;
    let groups_of = |piece: &GroupSpan| piece.groups.iter().take(MOST_GROUPS);
    let groups =
        pieces.iter().flat_map(|piece| groups_of(piece).map(|group| (piece.file_id, group)));
    groups.map(|(file_id, group)| (session, transfer, values, file_id, group)).collect()
}

/// Takes one off what is owed; false if nothing is.
fn settle(owed: &mut BTreeMap<Asked, u32>, asked: Asked) -> bool {
    let Some(count) = owed.get_mut(&asked) else { return false };
    *count -= 1;
    if *count == 0 {
        owed.remove(&asked);
    }
    true
}

fn revision_of(message: &RelayToDevice) -> Option<u64> {
    Some(match message {
        RelayToDevice::ClientApproved(m) => m.revision,
        RelayToDevice::ClientUpdated(m) => m.revision,
        RelayToDevice::FilesAdded(m) => m.revision,
        RelayToDevice::FilesUpdated(m) => m.revision,
        RelayToDevice::FileRemoved(m) => m.revision,
        RelayToDevice::FilesWithdrawn(m) => m.revision,
        RelayToDevice::FeedPage(m) => m.revision,
        RelayToDevice::HubReady(m) => m.revision,
        _ => return None,
    })
}
