//! The state machine of the master: who belongs, what is shared, in which order.
//!
//! Its state is the only one that survives every restart. It emits [`Effect::Save`] before the
//! [`Effect::Send`]s that depend on it; the driver has the saves on disk before it sends what
//! follows. It knows no disk, no socket and no secret. The driver checks the relay's proof, chooses
//! the master's term, and sends [`Input::RelayReady`] when both are settled.

// A new variant of an enum must be decided on wherever the enum is matched; tests may pick one.
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod admission;
mod audit_event;
mod catalogue;
mod catalogue_feed;
mod files;
#[cfg(test)]
mod fixture;
mod join_requests;
#[cfg(test)]
mod join_tests;
mod links;
#[cfg(test)]
mod memory_tests;
mod operator;
mod prompts;
mod quota;
mod roster;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::limits::{GRACE_MS, MAX_MEMBERS_UNASKED};
use lanyard_protocol::message::{
    DoorState, Empty, FeedAck, FeedPull, Presence, PresenceChange, RelayPresence, RelayStatus,
    RequestFailed, UpdateName,
};
use lanyard_protocol::{
    Client, DeviceId, DeviceRequest, FailureCode, FileEntry, FileId, FileRef, Instance, LinkHash,
    MasterFrame, MasterToConsole, MasterToRelay, PublicKey, Recipient, Ref, RelayMessage,
    RelayToMaster, RequestId, Resume, Root, SessionAddress,
};

pub use admission::{Admission, Approval};
pub use audit_event::{AdmittedBy, AuditEvent};
pub use catalogue::ListedFile;
pub use links::{LinkRecord, LinkTarget};
pub use operator::OperatorCommand;
pub use quota::Remembered;
pub use roster::{Member, Verdict};

use crate::feed::Feed;
use crate::idsource::IdSource;
use crate::machine::{Deadlines, EffectQueue, Moment};
use admission::Invitations;
use catalogue::Catalogue;
use catalogue_feed::Key;
use join_requests::JoinRequests;
use links::{Archives, LinkRegistry};
use roster::Roster;

/// Lapsed links and withdrawn files are looked for this often. Lookups do not wait for it.
const SWEEP_MS: u64 = 600_000;

/// Configuration of an authority.
#[derive(Debug, Clone, Default)]
pub struct AuthorityConfig {
    /// The device of the host's own files: let in without a prompt.
    pub host: Option<DeviceId>,
    /// The policy at the start.
    pub admission: Admission,
    /// The console shows the digits and asks for a tap instead of typing.
    pub tap_to_approve: bool,
}

/// All that is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SavedState {
    /// Random, never 0; new only when the history was lost.
    pub epoch: u64,
    /// The head of the feed.
    pub revision: u64,
    /// Devices that were let in or refused.
    pub members: Vec<Member>,
    /// Listed and withdrawn files.
    pub files: Vec<ListedFile>,
    /// Links that did not end.
    pub links: Vec<LinkRecord>,
}

/// One thing to have on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreWrite {
    /// The head of the feed moved.
    Revision(u64),
    /// Writes a member, in place of an older row.
    MemberPut(Member),
    /// Removes a member; it may knock again.
    MemberGone(DeviceId),
    /// Listed, whatever they were before.
    FilesPut {
        /// The files.
        files: Vec<FileEntry>,
        /// Number of the change in the feed.
        revision: u64,
    },
    /// Marks files as off the list.
    FilesWithdrawn {
        /// The owner.
        public_id: DeviceId,
        /// The files, among their owner's.
        file_ids: Vec<FileId>,
        /// Number of the change in the feed.
        revision: u64,
        /// Milliseconds since 1970 of the withdrawal.
        at_ms: u64,
    },
    /// Removes files for good.
    FilesGone {
        /// The owner.
        public_id: DeviceId,
        /// The files, among their owner's.
        file_ids: Vec<FileId>,
    },
    /// All files of a device and all links it made.
    BelongingsGone(DeviceId),
    /// Notes the hash that a whole pass showed.
    RootKnown {
        /// The file and its owner.
        file: FileRef,
        /// BLAKE3 hash of the whole file.
        root: Root,
        /// Number of the change in the feed.
        revision: u64,
    },
    /// Writes a link, in place of an older row.
    LinkPut(LinkRecord),
    /// Moves a link's last use.
    LinkUsed {
        /// Names the link; its key is known to nobody here.
        hash: LinkHash,
        /// Milliseconds since 1970 of that use.
        used_ms: u64,
        /// Uses that remain; `None` when they are not counted.
        uses_left: Option<u32>,
    },
    /// Removes a link.
    LinkGone(LinkHash),
}

/// One request of a screen or a command at the host; its answer carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestToken(pub u64);

/// Inputs of the authority.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Registered with a relay, both proofs checked.
    RelayReady {
        /// The key that the relay proved.
        hub_key: PublicKey,
    },
    /// The connection to the relay ended.
    RelayLost,
    /// The relay sent a message.
    Frame(Box<MasterFrame<RelayToMaster>>),
    /// The person at the host, by whatever screen.
    Operator {
        /// Names the request, for its answer.
        ask: RequestToken,
        /// The command of the person at the host.
        command: OperatorCommand,
    },
    /// Changes after this revision wait for the disk, and nobody may hear of them: pages tell the
    /// list as it was then, if that can still be told. `None`: the disk took them.
    Held {
        /// The last revision that is on disk, or `None`.
        at: Option<u64>,
    },
}

/// Effects that the driver carries out, in order.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "effects are drained after every input, and none is kept"
)]
pub enum Effect {
    /// On disk before anything that follows.
    Save(StoreWrite),
    /// Sends a message.
    Send(MasterFrame<MasterToRelay>),
    /// To every screen at the host; to the one that asked with its `ref`.
    Publish {
        /// The message to show.
        message: MasterToConsole,
        /// The request that caused it, if one did.
        ask: Option<RequestToken>,
    },
    /// To the screen that asked, alone.
    Answer {
        /// The request.
        ask: RequestToken,
        /// The answer.
        message: MasterToConsole,
    },
    /// Tells the person at the host.
    Event(OperatorEvent),
    /// For the record, once what it is about is on disk.
    Note(AuditEvent),
}

/// Events without a message of their own on the screens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorEvent {
    /// The device shows its digits: time to ask the person.
    DevicePending {
        /// The device as it describes itself.
        client: Client,
        /// Network address of its connection, as the relay sees it.
        address: String,
        /// The knock.
        request_id: RequestId,
    },
    /// It left while the person was asked about it.
    DeviceLeft {
        /// The device as it described itself.
        client: Client,
        /// Network address of the connection that it had.
        address: String,
    },
}

/// The origin of a change: its acknowledgement carries the `ref`.
#[derive(Debug, Clone, Default)]
struct ChangeOrigin {
    session: Option<(SessionAddress, Ref)>,
    ask: Option<RequestToken>,
}

impl ChangeOrigin {
    fn device(session: SessionAddress, reference: Option<Ref>) -> Self {
        Self { session: reference.map(|reference| (session, reference)), ask: None }
    }

    fn operator(ask: Option<RequestToken>) -> Self {
        Self { session: None, ask }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The code is too old, the reveal is late, or who left was in sight long enough.
    Knock(RequestId),
    /// More may be asked about.
    Prompts,
    /// The number of those who wait has changed.
    Waiting,
    /// No more than usual are asked about any longer.
    More,
    /// The relay owes an APPROVE_CLIENT_ACK.
    Approve(RequestId),
    /// The session is away; its files leave the list.
    Grace(SessionAddress),
    /// Roots wait to be told together.
    Roots,
    Sweep,
    /// Somebody's time is over.
    End,
    /// A layout is built further.
    Layout,
}

/// The machine. One driver owns it; see the crate's documentation for the four verbs.
#[derive(Debug)]
pub struct Authority {
    config: AuthorityConfig,
    ids: IdSource,
    effects: EffectQueue<Effect>,
    deadlines: Deadlines<Timer>,
    /// The moment of the input at hand.
    now: Moment,
    wall_ms: u64,
    feed: Feed<Key>,
    roster: Roster,
    catalogue: Catalogue,
    links: LinkRegistry,
    archives: Archives,
    knocks: JoinRequests,
    invitations: Invitations,
    /// Approved sessions that are there.
    online: BTreeMap<DeviceId, BTreeSet<Instance>>,
    /// Known since the last FILES_UPDATED.
    new_roots: BTreeMap<FileRef, Root>,
    /// Figures of the relay that is there; none while it is away.
    hub_key: Option<PublicKey>,
    /// The figures of the relay that is there, as it told them last.
    relay_status: Option<RelayStatus>,
}

impl Authority {
    /// Continues from what is on disk.
    pub fn new(config: AuthorityConfig, saved: SavedState, seed: [u8; 32]) -> Self {
        let mut authority = Self {
            config,
            ids: IdSource::new(seed),
            effects: EffectQueue::default(),
            deadlines: Deadlines::default(),
            now: Moment::default(),
            wall_ms: 0,
            feed: Feed::starting_at(Resume { epoch: saved.epoch, revision: saved.revision }),
            roster: Roster::default(),
            catalogue: Catalogue::default(),
            links: LinkRegistry::default(),
            archives: Archives::default(),
            knocks: JoinRequests::default(),
            invitations: Invitations::default(),
            online: BTreeMap::new(),
            new_roots: BTreeMap::new(),
            hub_key: None,
            relay_status: None,
        };
        for member in saved.members {
            if member.verdict == Verdict::Approved {
                authority.list_client(member.client.public_id, member.revision);
            }
            authority.roster.put(member);
        }
        for listing in saved.files {
            if listing.withdrawn_ms.is_none() {
                authority.feed.list(Key::File(listing.entry.file_ref()), listing.revision);
            }
            authority.catalogue.put(listing);
        }
        for mut link in saved.links {
            if link.name.is_empty() {
                link.name = authority.download_name(&link.linked, None);
            }
            authority.links.put(link);
        }
        authority
    }

    /// One mutation. `wall_ms` is the time of day, for what must be measured across restarts.
    pub fn handle(&mut self, now: Moment, wall_ms: u64, input: Input) {
        (self.now, self.wall_ms) = (now, wall_ms);
        match input {
            Input::RelayReady { hub_key } => self.relay_ready(hub_key),
            Input::RelayLost => self.relay_lost(),
            Input::Frame(frame) => self.relay_said(*frame),
            Input::Operator { ask, command } => self.operator_said(ask, command),
            Input::Held { at } => self.feed.hold(at),
        }
        self.shut_full_door();
    }

    /// An open door lets in whoever comes, so that anybody with enough keys could fill the roster:
    /// from a number on the person is asked again.
    fn shut_full_door(&mut self) {
        if self.config.admission != Admission::Everyone || self.roster.len() < MAX_MEMBERS_UNASKED {
            return;
        }
        self.config.admission = Admission::Ask;
        self.note(AuditEvent::Door { admission: Admission::Ask });
        self.publish(MasterToConsole::Door(DoorState { admission: Admission::Ask }), None);
    }

    /// The next thing to do; drain to `None` before the next mutation.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop()
    }

    /// When to call [`Authority::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.deadlines.earliest()
    }

    /// Everything that is due by `now`.
    pub fn handle_timeout(&mut self, now: Moment, wall_ms: u64) {
        (self.now, self.wall_ms) = (now, wall_ms);
        while let Some(timer) = self.deadlines.pop_due(now) {
            match timer {
                Timer::Knock(request) => self.knock_is_due(request),
                Timer::Prompts => self.ask_about_more(),
                Timer::Waiting => self.tell_waiting(),
                Timer::More => self.publish_knocks(),
                Timer::Approve(request) => self.approve_waited(request),
                Timer::Grace(session) => self.withdraw_session(session),
                Timer::Roots => self.tell_roots(),
                Timer::Sweep => self.sweep(),
                Timer::End => self.watch_ends(),
                Timer::Layout => self.build_some(),
            }
        }
    }

    /// Where the feed stands.
    pub fn head(&self) -> Resume {
        Resume { epoch: self.feed.epoch(), revision: self.feed.revision() }
    }

    /// Returns true while the relay has the whole roster.
    pub fn is_relay_ready(&self) -> bool {
        self.hub_key.is_some()
    }

    /// Returns the figures of the relay that is there.
    pub fn relay_status(&self) -> Option<&RelayStatus> {
        self.relay_status.as_ref()
    }

    /// Iterates over all devices that were let in or refused.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.roster.iter()
    }

    /// Returns the member of this id.
    pub fn member(&self, id: DeviceId) -> Option<&Member> {
        self.roster.get(id)
    }

    /// Every listed file.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.catalogue.listed()
    }

    /// Returns how many files are listed.
    pub fn file_count(&self) -> usize {
        self.catalogue.listed_total()
    }

    /// Returns true if the device has a session at the relay.
    pub fn is_online(&self, device: DeviceId) -> bool {
        self.online.contains_key(&device)
    }

    /// Returns all devices that are online.
    pub fn presence(&self) -> Presence {
        Presence { online: self.online.keys().copied().collect() }
    }

    /// All who were turned away.
    pub fn refused(&self) -> lanyard_protocol::message::RefusedList {
        self.roster.refused()
    }

    fn relay_ready(&mut self, hub_key: PublicKey) {
        if self.hub_key.is_some() {
            self.relay_lost();
        }
        // Before the relay learns who belongs.
        self.watch_ends();
        self.hub_key = Some(hub_key);
        self.note(AuditEvent::RelayReady);
        self.begin_settling();
        for page in self.roster.pages(self.feed.epoch(), self.feed.revision()) {
            self.send(MasterToRelay::MasterRoster(page));
        }
        // The relay answers after it has told of everybody who is there.
        self.send(MasterToRelay::Ping(Empty {}));
        let away: Vec<SessionAddress> = self.catalogue.sessions().collect();
        for session in away {
            self.deadlines.set(Timer::Grace(session), self.now.plus(GRACE_MS));
        }
        self.keep_sweeping();
        self.publish(MasterToConsole::RelayState(RelayPresence { ready: true }), None);
    }

    /// Nobody can be there without a relay, and nobody can come back: the graces stop until it
    /// does.
    fn relay_lost(&mut self) {
        if self.hub_key.take().is_none() {
            return;
        }
        self.relay_status = None;
        self.note(AuditEvent::RelayLost);
        self.drop_all_knocks();
        self.archives.relay_lost();
        let sessions: Vec<SessionAddress> = self.catalogue.sessions().collect();
        for session in sessions {
            self.deadlines.clear(&Timer::Grace(session));
        }
        self.online.clear();
        self.publish(MasterToConsole::RelayState(RelayPresence { ready: false }), None);
        self.publish(MasterToConsole::Presence(self.presence()), None);
    }

    fn relay_said(&mut self, frame: MasterFrame<RelayToMaster>) {
        let MasterFrame { message, reference, from, .. } = frame;
        if self.hub_key.is_none() {
            return; // words of a relay that is lost
        }
        match message {
            RelayToMaster::Relay(message) => self.relay_message(message, reference),
            RelayToMaster::Device(request) => match from {
                Some(from) => self.device_request(from, request, reference),
                None => self.fail_relay(FailureCode::BadMessage, reference),
            },
        }
    }

    fn relay_message(&mut self, message: RelayMessage, reference: Option<Ref>) {
        match message {
            RelayMessage::NewClientRegistered(request) => self.knocked(request),
            RelayMessage::ApprovalReveal(reveal) => self.revealed(reveal),
            RelayMessage::ApproveClientAck(ack) => self.frozen(ack),
            RelayMessage::RequestFailed(no) => self.not_frozen(reference.as_ref(), no.code),
            RelayMessage::ClientReconnected(change) => self.reconnected(change),
            RelayMessage::ClientDisconnected(change) => self.disconnected(change),
            RelayMessage::FileLookup(lookup) => self.files_looked_up(lookup, reference),
            RelayMessage::FileRoot(known) => self.root_known(known),
            RelayMessage::FileChanged(changed) => self.file_changed(changed),
            RelayMessage::LinkLookup(lookup) => self.link_looked_up(lookup, reference),
            RelayMessage::LinkUsed(used) => self.link_used(used),
            RelayMessage::LinkPage(page) => self.link_page_asked(page, reference),
            RelayMessage::RelayStatus(status) => self.relay_status = Some(status),
            RelayMessage::Pong(_) => self.settled(),
            RelayMessage::MasterChallenge(_) | RelayMessage::MasterAppRegisterAck(_) => {
                tracing::warn!("a handshake message after the handshake");
            }
        }
    }

    fn device_request(
        &mut self,
        from: SessionAddress,
        request: DeviceRequest,
        reference: Option<Ref>,
    ) {
        if !self.roster.is_approved(from.public_id) {
            return self.fail_device(from, FailureCode::NotApproved, None, reference);
        }
        match request {
            DeviceRequest::UpdateName(said) => self.renamed_itself(from, said, reference),
            DeviceRequest::FeedPull(pull) => self.pulled(from, pull, reference),
            DeviceRequest::AddFiles(said) => self.files_offered(from, said, reference),
            DeviceRequest::RemoveFile(said) => self.files_taken_away(from, said, reference),
            DeviceRequest::LinkRequest(request) => self.link_requested(from, request, reference),
            DeviceRequest::LinksPull(pull) => self.links_pulled(from, pull, reference),
            DeviceRequest::LinkDrop(drop) => self.link_dropped_by(from, drop, reference),
        }
    }

    fn renamed_itself(&mut self, from: SessionAddress, said: UpdateName, reference: Option<Ref>) {
        if !lanyard_protocol::device::is_valid_name(&said.name) {
            return self.fail_device(from, FailureCode::BadMessage, None, reference);
        }
        if !self.rename(from.public_id, said.name, ChangeOrigin::device(from, reference.clone())) {
            let ack = FeedAck { epoch: self.feed.epoch(), revision: self.feed.revision() };
            self.answer_device(from, MasterToRelay::UpdateNameAck(ack), reference);
        }
    }

    fn pulled(&mut self, from: SessionAddress, pull: FeedPull, reference: Option<Ref>) {
        match self.answer_pull(&pull) {
            Ok(page) => self.answer_device(from, MasterToRelay::FeedPage(page), reference),
            Err(code) => self.fail_device(from, code, None, reference),
        }
    }

    fn reconnected(&mut self, change: PresenceChange) {
        let Some(instance) = change.instance else { return };
        if !self.roster.is_approved(change.public_id) {
            return;
        }
        let session = SessionAddress { public_id: change.public_id, instance };
        self.came_back(session, change.resume.unwrap_or_default());
    }

    /// An approved session is there: it learns what it missed.
    fn came_back(&mut self, session: SessionAddress, held: Resume) {
        self.present(session);
        let page = self.first_page(held);
        self.answer_device(session, MasterToRelay::FeedPage(page), None);
    }

    fn present(&mut self, session: SessionAddress) {
        self.deadlines.clear(&Timer::Grace(session));
        let instances = self.online.entry(session.public_id).or_default();
        let first = instances.is_empty();
        instances.insert(session.instance);
        if first {
            self.publish(MasterToConsole::ClientReconnected(presence_of(session.public_id)), None);
        }
    }

    fn disconnected(&mut self, change: PresenceChange) {
        if let Some(request) = change.request_id {
            self.knock_left(request);
        }
        let Some(instance) = change.instance else { return };
        let session = SessionAddress { public_id: change.public_id, instance };
        self.left_the_door(session);
        let Some(instances) = self.online.get_mut(&change.public_id) else { return };
        if !instances.remove(&instance) {
            return;
        }
        let was_last = instances.is_empty();
        if self.catalogue.offers(&session) {
            self.deadlines.set(Timer::Grace(session), self.now.plus(GRACE_MS));
        }
        if was_last {
            self.online.remove(&change.public_id);
            self.publish(MasterToConsole::ClientDisconnected(presence_of(change.public_id)), None);
        }
    }

    fn sweep(&mut self) {
        self.drop_expired_links();
        self.drop_lapsed_files();
        self.keep_sweeping();
    }

    fn keep_sweeping(&mut self) {
        let next_end = self.links.next_end();
        if next_end.is_none() && !self.catalogue.has_withdrawn() {
            return;
        }
        // A link with an end is cut when that comes. The time of day may jump: looked at again
        // within ten minutes.
        let to_end = next_end.map_or(SWEEP_MS, |end| end.saturating_sub(self.wall_ms).max(1));
        let at = self.now.plus(to_end.min(SWEEP_MS));
        if self.deadlines.get(&Timer::Sweep).is_none_or(|known| at < known) {
            self.deadlines.set(Timer::Sweep, at);
        }
    }

    fn next_revision(&mut self) -> u64 {
        let revision = self.feed.advance();
        self.save(StoreWrite::Revision(revision));
        revision
    }

    fn save(&mut self, change: StoreWrite) {
        self.effects.push(Effect::Save(change));
    }

    fn event(&mut self, event: OperatorEvent) {
        self.effects.push(Effect::Event(event));
    }

    /// To every screen at the host.
    fn publish(&mut self, message: MasterToConsole, ask: Option<RequestToken>) {
        self.effects.push(Effect::Publish { message, ask });
    }

    fn answer(&mut self, ask: RequestToken, message: MasterToConsole) {
        self.effects.push(Effect::Answer { ask, message });
    }

    fn refuse_ask(&mut self, ask: RequestToken, code: FailureCode) {
        self.answer(ask, MasterToConsole::RequestFailed(failure(code, None)));
    }

    fn refuse_ask_saying(&mut self, ask: RequestToken, code: FailureCode, message: String) {
        self.answer(
            ask,
            MasterToConsole::RequestFailed(RequestFailed { message, ..failure(code, None) }),
        );
    }

    /// A change: to the relay, if it is there, and to the screens here.
    fn note(&mut self, note: AuditEvent) {
        self.effects.push(Effect::Note(note));
    }

    fn broadcast(&mut self, message: MasterToRelay, asker: ChangeOrigin) {
        if let Some(shown) = towards_screens(&message) {
            self.publish(shown, asker.ask);
        }
        let (ref_to, reference) = asker.session.unzip();
        self.push_frame(MasterFrame { message, reference, from: None, to: None, ref_to });
    }

    fn send(&mut self, message: MasterToRelay) {
        self.push_frame(MasterFrame::plain(message));
    }

    fn send_with_ref(&mut self, message: MasterToRelay, reference: Ref) {
        self.answer_relay(message, Some(reference));
    }

    fn send_to(&mut self, message: MasterToRelay, to: Recipient, reference: Option<Ref>) {
        self.push_frame(MasterFrame { message, reference, from: None, to: Some(to), ref_to: None });
    }

    fn answer_relay(&mut self, message: MasterToRelay, reference: Option<Ref>) {
        self.push_frame(MasterFrame { reference, ..MasterFrame::plain(message) });
    }

    fn fail_relay(&mut self, code: FailureCode, reference: Option<Ref>) {
        self.answer_relay(MasterToRelay::RequestFailed(failure(code, None)), reference);
    }

    fn answer_device(
        &mut self,
        device: SessionAddress,
        message: MasterToRelay,
        reference: Option<Ref>,
    ) {
        let to = Recipient { public_id: device.public_id, instance: Some(device.instance) };
        self.send_to(message, to, reference);
    }

    fn fail_device(
        &mut self,
        device: SessionAddress,
        code: FailureCode,
        file_id: Option<FileId>,
        reference: Option<Ref>,
    ) {
        self.answer_device(device, MasterToRelay::RequestFailed(failure(code, file_id)), reference);
    }

    /// Refuses for want of room, in words that say which.
    fn fail_full(
        &mut self,
        device: SessionAddress,
        message: String,
        file_id: Option<FileId>,
        reference: Option<Ref>,
    ) {
        let failed = RequestFailed { message, ..failure(FailureCode::Quota, file_id) };
        self.answer_device(device, MasterToRelay::RequestFailed(failed), reference);
    }

    fn push_frame(&mut self, frame: MasterFrame<MasterToRelay>) {
        if self.hub_key.is_some() {
            self.effects.push(Effect::Send(frame));
        }
    }
}

fn failure(code: FailureCode, file_id: Option<FileId>) -> RequestFailed {
    let retry_after_ms = code.may_retry().then_some(1_000);
    RequestFailed { code, message: code.sentence().into(), retry_after_ms, file_id }
}

fn presence_of(public_id: DeviceId) -> PresenceChange {
    PresenceChange { public_id, instance: None, resume: None, request_id: None }
}

/// A change as the screens at the host know it.
fn towards_screens(message: &MasterToRelay) -> Option<MasterToConsole> {
    Some(match message.clone() {
        MasterToRelay::ClientApproved(m) => MasterToConsole::ClientApproved(m),
        MasterToRelay::ClientUpdated(m) => MasterToConsole::ClientUpdated(m),
        MasterToRelay::FilesAdded(m) => MasterToConsole::FilesAdded(m),
        MasterToRelay::FilesUpdated(m) => MasterToConsole::FilesUpdated(m),
        MasterToRelay::FileRemoved(m) => MasterToConsole::FileRemoved(m),
        MasterToRelay::FilesWithdrawn(m) => MasterToConsole::FilesWithdrawn(m),
        MasterToRelay::LinkMade(m) => MasterToConsole::LinkMade(m),
        MasterToRelay::LinkDropped(m) => MasterToConsole::LinkDropped(m),
        MasterToRelay::DisApproveClient(m) => {
            MasterToConsole::ClientDisApproved(lanyard_protocol::message::ClientDisApproved {
                public_id: m.public_id,
                epoch: m.epoch,
                revision: m.revision,
                audience: lanyard_protocol::message::Audience::All,
            })
        }
        MasterToRelay::MasterAppRegister(_)
        | MasterToRelay::MasterRoster(_)
        | MasterToRelay::ApprovalChallenge(_)
        | MasterToRelay::ApprovalOpen(_)
        | MasterToRelay::ApprovalRestart(_)
        | MasterToRelay::ApprovalClosed(_)
        | MasterToRelay::ApproveClient(_)
        | MasterToRelay::ForgetClient(_)
        | MasterToRelay::FeedPage(_)
        | MasterToRelay::AddFilesAck(_)
        | MasterToRelay::RemoveFileAck(_)
        | MasterToRelay::UpdateNameAck(_)
        | MasterToRelay::FileGrant(_)
        | MasterToRelay::LinksPage(_)
        | MasterToRelay::LinkGrant(_)
        | MasterToRelay::LinkMembers(_)
        | MasterToRelay::RequestFailed(_)
        | MasterToRelay::Ping(_) => return None,
    })
}
