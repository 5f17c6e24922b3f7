//! The rules of the broker, one promise a test. The fixture plays relay, data plane and master.

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::group::group_log;
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::link_key::DrawnLink;
use lanyard_protocol::message::*;
use lanyard_protocol::*;
use uuid_bytes as uuid;

use super::*;

mod bounds;
mod links;

fn uuid_bytes(n: u8) -> [u8; 16] {
    [n; 16]
}

/// A file id made of one number.
pub(super) fn file_id(n: u8) -> FileId {
    let hex = hex_of(&uuid(n));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
        .parse()
        .unwrap()
}

pub(super) fn transfer(n: u8) -> TransferId {
    file_id(n).to_string().parse().unwrap()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn device(n: u8) -> DeviceId {
    Keypair::from_seed(&[n; 32]).public_id()
}

pub(super) const MASTER: SessionId = SessionId(1_000);
pub(super) const MIB: u64 = 1 << 20;

pub(super) struct BrokerFixture {
    pub(super) broker: Broker,
    pub(super) now: Moment,
    pub(super) effects: Vec<Effect>,
    pub(super) files: BTreeMap<FileRef, FileEntry>,
    /// Messages said, each with a reference of its own.
    said: u32,
}

impl BrokerFixture {
    /// A broker with a master whose roster names devices 1 to 4.
    pub(super) fn ready(budget_bytes: u64) -> Self {
        let mut hub = Self::new(budget_bytes);
        hub.master_comes();
        hub
    }

    pub(super) fn new(budget_bytes: u64) -> Self {
        let broker = Broker::new(BrokerConfig { budget_bytes }, [9; 32]);
        Self { broker, now: Moment(1_000), effects: Vec::new(), files: BTreeMap::new(), said: 0 }
    }

    pub(super) fn master_comes(&mut self) {
        self.master_comes_with(1..=4);
    }

    pub(super) fn master_comes_with(&mut self, members: impl Iterator<Item = u8>) {
        self.give(Input::Master(MasterInput::Opened { session: MASTER }));
        self.master(MasterToRelay::MasterRoster(MasterRoster {
            page: 0,
            last: true,
            approved: members.map(device).collect(),
            refused: vec![device(9)],
            epoch: 5,
            revision: 7,
        }));
    }

    /// One input; look-ups are answered from `files` at once, as a master would.
    pub(super) fn give(&mut self, input: Input) {
        self.broker.handle(self.now, input);
        self.drain();
    }

    pub(super) fn drain(&mut self) {
        while let Some(effect) = self.broker.poll_effect() {
            if let Effect::Master(MasterEffect::Send { frame, .. }) = &effect
                && let RelayToMaster::Relay(RelayMessage::FileLookup(lookup)) = &frame.message
            {
                let files =
                    lookup.files.iter().filter_map(|file| self.files.get(file)).cloned().collect();
                let message = MasterToRelay::FileGrant(FileGrant { files });
                let answer = MasterFrame {
                    reference: frame.reference.clone(),
                    ..MasterFrame::plain(message)
                };
                self.broker.handle(
                    self.now,
                    Input::Master(MasterInput::MessageReceived {
                        session: MASTER,
                        frame: Box::new(answer),
                    }),
                );
            }
            self.effects.push(effect);
        }
    }

    pub(super) fn master(&mut self, message: MasterToRelay) {
        let frame = Box::new(MasterFrame::plain(message));
        self.give(Input::Master(MasterInput::MessageReceived { session: MASTER, frame }));
    }

    pub(super) fn passes(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while let Some(at) = self.broker.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.broker.handle_timeout(at);
            self.drain();
        }
        self.now = end;
    }

    /// Device `n` opens a session numbered like it; `tab` makes it another instance.
    pub(super) fn opens_as(&mut self, session: u64, n: u8, tab: u8) -> SessionId {
        let key = Keypair::from_seed(&[n; 32]);
        let identity = Identity {
            public_id: key.public_id(),
            public_key: key.public(),
            name: format!("device {n}"),
            kind: DeviceKind::Native,
            platform: String::new(),
            instance: Instance([tab; 16]),
            commit: approval::commit(&key.public(), &Reveal([n; 32])),
            relay_nonce: Nonce([n; 32]),
            invitation: None,
            address: format!("10.0.0.{n}"),
            resume: None,
        };
        let session = SessionId(session);
        self.give(Input::Session(SessionInput::Opened { session, identity: Box::new(identity) }));
        session
    }

    pub(super) fn opens(&mut self, n: u8) -> SessionId {
        self.opens_as(u64::from(n), n, n)
    }

    /// Device 1 lists file `n`.
    pub(super) fn lists(&mut self, n: u8, size: u64) -> FileRef {
        let file = FileRef { public_id: device(1), file_id: file_id(n) };
        let entry = FileEntry {
            public_id: file.public_id,
            instance: Instance([1; 16]),
            file_id: file.file_id,
            path: format!("file {n}"),
            size,
            modified_ms: 1,
            media_type: String::new(),
            kind: EntryKind::File,
            group_log: group_log(size),
            root: None,
        };
        self.files.insert(file, entry);
        file
    }

    pub(super) fn says(&mut self, session: SessionId, message: DeviceToRelay) {
        self.said += 1;
        self.says_as(session, message, &format!("r{}", self.said));
    }

    pub(super) fn says_as(&mut self, session: SessionId, message: DeviceToRelay, reference: &str) {
        self.give(Input::Session(SessionInput::MessageReceived {
            session,
            message,
            reference: Ref::new(reference),
        }));
    }

    pub(super) fn asks(&mut self, session: SessionId, n: u8, first: u32, count: u32) {
        self.asks_for(session, vec![GroupSpan::new(file_id(n), first, count)]);
    }

    pub(super) fn asks_for(&mut self, session: SessionId, pieces: Vec<GroupSpan>) {
        self.says(session, Self::request(session, pieces));
    }

    pub(super) fn request(session: SessionId, pieces: Vec<GroupSpan>) -> DeviceToRelay {
        let (transfer_id, public_id) = (transfer(session.0 as u8), device(1));
        DeviceToRelay::RequestChunk(RequestChunk {
            transfer_id,
            public_id,
            pieces,
            what: BodyKind::Bytes,
            have: None,
        })
    }

    pub(super) fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Takes all effects and gives the slots that were opened.
    pub(super) fn opened(&mut self) -> Vec<NewSlot> {
        let effects = self.take();
        effects
            .into_iter()
            .filter_map(|e| {
                if let Effect::Slot(SlotEffect::Open(slot)) = e { Some(*slot) } else { None }
            })
            .collect()
    }

    /// Returns the messages to one session, and nothing else.
    pub(super) fn told(effects: &[Effect], to: SessionId) -> Vec<RelayToDevice> {
        let mut told = Vec::new();
        for effect in effects {
            match effect {
                Effect::Session(SessionEffect::Send { session, message, .. }) if *session == to => {
                    told.push(message.clone())
                }
                Effect::Session(SessionEffect::Broadcast { sessions, message, .. })
                    if sessions.contains(&to) =>
                {
                    told.push(message.clone())
                }
                Effect::Session(_)
                | Effect::Master(_)
                | Effect::Slot(_)
                | Effect::Link(_)
                | Effect::Call(_) => {}
            }
        }
        told
    }

    pub(super) fn readies(effects: &[Effect], to: SessionId) -> Vec<ChunkReady> {
        let told = Self::told(effects, to).into_iter();
        told.filter_map(
            |m| if let RelayToDevice::ChunkReady(ready) = m { Some(ready) } else { None },
        )
        .collect()
    }

    pub(super) fn failures(
        effects: &[Effect],
        to: SessionId,
    ) -> Vec<(Vec<GroupSpan>, FailureCode)> {
        let told = Self::told(effects, to).into_iter();
        told.filter_map(|m| {
            if let RelayToDevice::ChunkFailed(f) = m { Some((f.pieces, f.code)) } else { None }
        })
        .collect()
    }

    pub(super) fn readers(effects: &[Effect]) -> Vec<(SlotId, ReaderId)> {
        effects
            .iter()
            .filter_map(|e| {
                if let Effect::Slot(SlotEffect::GrantRead { slot, reader, .. }) = e {
                    Some((*slot, *reader))
                } else {
                    None
                }
            })
            .collect()
    }

    /// The slot's PUT comes whole and every reader so far takes it.
    pub(super) fn completes(&mut self, slot: SlotId) {
        self.give(Input::Slot(SlotInput::PutStarted { slot }));
        let readers = Self::readers(&self.effects);
        for (at, reader) in readers.iter().filter(|(at, _)| *at == slot) {
            self.give(Input::Reader(ReaderInput::Started { slot: *at, reader: *reader }));
        }
        self.give(Input::Slot(SlotInput::PutFinished { slot }));
        for (at, reader) in readers.iter().filter(|(at, _)| *at == slot) {
            self.give(Input::Reader(ReaderInput::Left {
                slot: *at,
                reader: *reader,
                delivered: 1,
            }));
        }
    }
}

#[test]
fn a_pending_device_hears_of_nothing_but_its_own_fate() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let stranger = hub.opens(7);
    hub.opens(1);
    hub.opens(2);
    hub.lists(1, MIB);
    hub.says(
        stranger,
        DeviceToRelay::FeedPull(FeedPull {
            feed: Default::default(),
            epoch: 0,
            since: 0,
            cursor: None,
        }),
    );
    hub.asks(stranger, 1, 0, 1);
    hub.master(MasterToRelay::FilesAdded(FilesAdded {
        public_id: device(1),
        files: vec![],
        epoch: 5,
        revision: 8,
        audience: Audience::All,
    }));
    let effects = hub.take();
    let told = BrokerFixture::told(&effects, stranger);
    assert_eq!(told.len(), 2, "{told:?}");
    let refused = |m: &RelayToDevice| matches!(m, RelayToDevice::RequestFailed(no) if no.code == FailureCode::NotApproved);
    assert!(told.iter().all(refused), "{told:?}");
    assert!(!effects.iter().any(|e| matches!(e, Effect::Slot(SlotEffect::Open(_)))));
}

#[test]
fn a_request_that_comes_twice_has_one_outcome_and_a_new_one_its_own() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    hub.opens(1);
    let asker = hub.opens(2);
    hub.lists(1, MIB);
    let request = BrokerFixture::request(asker, vec![GroupSpan::new(file_id(1), 0, 2)]);
    hub.take();
    hub.says_as(asker, request.clone(), "a");
    hub.says_as(asker, request.clone(), "a");
    let slot = hub.effects.iter().find_map(|e| {
        if let Effect::Slot(SlotEffect::Open(slot)) = e { Some(slot.slot) } else { None }
    });
    hub.give(Input::Slot(SlotInput::PutStarted { slot: slot.unwrap() }));
    hub.says_as(asker, request.clone(), "a");
    assert_eq!(BrokerFixture::readies(&hub.take(), asker).len(), 1);
    hub.says_as(asker, request, "b");
    assert_eq!(BrokerFixture::readies(&hub.take(), asker).len(), 1);
}

#[test]
fn a_stale_close_does_not_evict_the_newer_session() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let old = hub.opens_as(1, 1, 1);
    let new = hub.opens_as(2, 1, 1);
    assert!(hub.effects.contains(&Effect::Session(SessionEffect::Close {
        session: old,
        code: CloseCode::Superseded
    })));
    hub.opens_as(3, 2, 2);
    hub.take();
    hub.give(Input::Session(SessionInput::Closed { session: old }));
    assert_eq!(hub.take(), vec![]);
    assert_eq!(hub.broker.sessions.of_device(device(1)), vec![new]);
}

#[test]
fn a_refused_key_is_closed_at_once_and_nobody_is_asked() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    hub.take();
    let refused = hub.opens(9);
    let effects = hub.take();
    assert_eq!(
        effects,
        vec![
            Effect::Session(SessionEffect::Acknowledge {
                session: refused,
                membership: Membership::Disapproved,
                hub_ready: true
            }),
            Effect::Session(SessionEffect::Close { session: refused, code: CloseCode::Revoked }),
        ]
    );
}

#[test]
fn an_approval_of_a_knock_that_is_over_is_stale() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let stranger = hub.opens(7);
    let request_id = hub.broker.sessions.get(stranger).unwrap().knock.unwrap();
    hub.give(Input::Session(SessionInput::Closed { session: stranger }));
    hub.opens_as(8, 7, 8);
    hub.take();
    hub.master(MasterToRelay::ApproveClient(ApproveClient { public_id: device(7), request_id }));
    // The same key knocked with the same promise and nonce here, so the request is the same;
    // another one must not be.
    let other = RequestId([1; 16]);
    hub.take();
    hub.master(MasterToRelay::ApproveClient(ApproveClient {
        public_id: device(7),
        request_id: other,
    }));
    let said: Vec<_> = hub.take();
    assert!(
        matches!(&said[..], [Effect::Master(MasterEffect::Send { frame, .. })]
            if matches!(&frame.message, RelayToMaster::Relay(RelayMessage::RequestFailed(no)) if no.code == FailureCode::StaleRequest)),
        "{said:?}"
    );
}

#[test]
fn a_reveal_that_is_not_the_promised_one_ends_the_session() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let stranger = hub.opens(7);
    let request_id = hub.broker.sessions.get(stranger).unwrap().knock.unwrap();
    hub.take();
    hub.says(
        stranger,
        DeviceToRelay::ApprovalReveal(ApprovalReveal { request_id, reveal: Reveal([1; 32]) }),
    );
    assert!(hub.take().contains(&Effect::Session(SessionEffect::Close {
        session: stranger,
        code: CloseCode::Unauthenticated
    })));
}

#[test]
fn without_a_roster_nobody_is_served_and_nobody_is_refused() {
    let mut hub = BrokerFixture::new(32 * MIB);
    let early = hub.opens(2);
    assert_eq!(
        hub.take(),
        vec![Effect::Session(SessionEffect::Acknowledge {
            session: early,
            membership: Membership::Unknown,
            hub_ready: false
        })]
    );
    hub.asks(early, 1, 0, 1);
    let told = BrokerFixture::told(&hub.take(), early);
    assert!(
        matches!(&told[..], [RelayToDevice::RequestFailed(no)] if no.code == FailureCode::ServerNotReady)
    );
    hub.master_comes();
    let told = BrokerFixture::told(&hub.take(), early);
    assert!(matches!(
        &told[..],
        [
            RelayToDevice::Membership(MembershipNotice { membership: Membership::Approved }),
            RelayToDevice::Presence(_),
            RelayToDevice::HubReady(HubReady { epoch: 5, revision: 7 })
        ]
    ));
}

#[test]
fn one_upload_serves_all_who_wait_and_all_who_come_while_it_runs() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let sessions: Vec<SessionId> = (1..=4).map(|n| hub.opens(n)).collect();
    hub.lists(1, 16 * MIB);
    hub.take();
    hub.asks(sessions[1], 1, 0, 4);
    let slot = hub.opened().remove(0);
    assert_eq!((slot.holder, slot.length), (sessions[0], MIB));
    hub.asks(sessions[2], 1, 2, 4);
    let second = hub.opened();
    assert_eq!(second.len(), 1, "only what is in no live slot is asked for");
    assert_eq!(second[0].pieces[0].groups, GroupRange::new(4, 2));
    hub.give(Input::Slot(SlotInput::PutStarted { slot: slot.slot }));
    let effects = hub.take();
    assert_eq!(BrokerFixture::readies(&effects, sessions[1])[0].length, MIB);
    let ready = &BrokerFixture::readies(&effects, sessions[2])[0];
    assert_eq!(
        (ready.length, ready.pieces.clone()),
        (MIB / 2, vec![GroupSpan::new(file_id(1), 2, 2)])
    );
    hub.give(Input::Slot(SlotInput::PutFinished { slot: slot.slot }));
    hub.asks(sessions[3], 1, 0, 4);
    let effects = hub.take();
    assert_eq!(
        BrokerFixture::readies(&effects, sessions[3]).len(),
        1,
        "what is full is read again, not asked for again"
    );
    assert!(!effects.iter().any(|e| matches!(e, Effect::Slot(SlotEffect::Open(_)))));
}

#[test]
fn every_group_asked_has_exactly_one_outcome_when_the_owner_leaves() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let (owner, asker) = (hub.opens(1), hub.opens(2));
    hub.lists(1, 16 * MIB);
    hub.take();
    hub.asks(asker, 1, 0, 4);
    hub.asks(asker, 1, 4, 4);
    let slots = hub.opened();
    hub.give(Input::Slot(SlotInput::PutStarted { slot: slots[0].slot }));
    let effects = hub.take();
    assert_eq!(BrokerFixture::readies(&effects, asker).len(), 1);
    hub.give(Input::Session(SessionInput::Closed { session: owner }));
    let effects = hub.take();
    // The first run was announced: its GET tells. The second was not: CHUNK_FAILED does.
    assert_eq!(
        BrokerFixture::failures(&effects, asker),
        vec![(vec![GroupSpan::new(file_id(1), 4, 4)], FailureCode::OwnerAway)]
    );
    for slot in slots {
        assert!(effects.contains(&Effect::Slot(SlotEffect::Fail {
            slot: slot.slot,
            code: FailureCode::OwnerAway
        })));
    }
    hub.asks(asker, 1, 0, 4);
    assert_eq!(BrokerFixture::failures(&hub.take(), asker)[0].1, FailureCode::OwnerAway);
}

#[test]
fn the_budget_is_reserved_before_a_holder_is_asked_and_never_exceeded() {
    let mut hub = BrokerFixture::ready(4 * MIB);
    hub.opens(1);
    let (a, b) = (hub.opens(2), hub.opens(3));
    hub.lists(1, 64 * MIB);
    hub.take();
    for run in 0..8 {
        hub.asks(a, 1, run * 4, 4);
        hub.asks(b, 1, 100 + run * 4, 4);
        assert!(hub.broker.reserved_bytes() <= 4 * MIB);
    }
    let mut opened = hub.opened();
    assert_eq!(opened.len(), 1, "one holder fills at most a quarter of the budget");
    let mut total = 0;
    while let Some(slot) = opened.pop() {
        total += 1;
        hub.completes(slot.slot);
        assert!(hub.broker.reserved_bytes() <= 4 * MIB);
        opened.extend(hub.opened());
    }
    assert_eq!(total, 16, "everybody is served in the end");
    hub.passes(120_000);
    assert_eq!((hub.broker.reserved_bytes(), hub.broker.counts().slots), (0, 0));
}

#[test]
fn a_run_that_is_larger_than_the_whole_budget_goes_alone() {
    let mut hub = BrokerFixture::ready(MIB);
    hub.opens(1);
    let a = hub.opens(2);
    hub.lists(1, 64 * MIB);
    hub.lists(2, 64 * MIB);
    hub.take();
    hub.asks_for(a, vec![GroupSpan::new(file_id(1), 0, 4), GroupSpan::new(file_id(2), 0, 3)]);
    assert_eq!(hub.opened().len(), 1, "there is nothing that it could wait for");
    hub.asks(a, 1, 8, 1);
    assert_eq!(hub.opened().len(), 0);
}

#[test]
fn askers_take_turns() {
    let mut hub = BrokerFixture::ready(4 * MIB);
    hub.opens(1);
    let (a, b) = (hub.opens(2), hub.opens(3));
    hub.lists(1, 64 * MIB);
    hub.take();
    for run in 0..4 {
        hub.asks(a, 1, run * 4, 4);
    }
    hub.asks(b, 1, 100, 4);
    let mut order = Vec::new();
    while let Some(slot) = hub.opened().pop() {
        order.push(slot.pieces[0].groups.first);
        hub.completes(slot.slot);
    }
    assert_eq!(order, [0, 4, 100, 8, 12], "a was first in the queue; then it is b's turn, not a's");
}

#[test]
fn a_run_that_waits_too_long_is_told_so() {
    let mut hub = BrokerFixture::ready(4 * MIB);
    hub.opens(1);
    let asker = hub.opens(2);
    hub.lists(1, 64 * MIB);
    hub.take();
    hub.asks(asker, 1, 0, 4);
    let slot = hub.opened().remove(0);
    hub.give(Input::Slot(SlotInput::PutStarted { slot: slot.slot }));
    hub.asks(asker, 1, 4, 4);
    hub.take();
    hub.passes(31_000);
    assert_eq!(
        BrokerFixture::failures(&hub.take(), asker),
        vec![(vec![GroupSpan::new(file_id(1), 4, 4)], FailureCode::TimedOut)]
    );
}

#[test]
fn too_many_waiting_runs_are_refused_as_busy() {
    let mut hub = BrokerFixture::ready(4 * MIB);
    hub.opens(1);
    let asker = hub.opens(2);
    hub.lists(1, 200 * MIB);
    for run in 0..80 {
        hub.asks(asker, 1, run * 4, 4);
    }
    let busy = BrokerFixture::failures(&hub.take(), asker);
    assert_eq!(busy.len(), 80 - 1 - 64);
    assert!(busy.iter().all(|(_, code)| *code == FailureCode::Busy));
}

#[test]
fn a_filling_slot_that_nobody_waits_for_is_called_off() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let (owner, asker) = (hub.opens(1), hub.opens(2));
    hub.lists(1, MIB);
    hub.take();
    hub.asks(asker, 1, 0, 4);
    let slot = hub.opened().remove(0);
    hub.give(Input::Slot(SlotInput::PutStarted { slot: slot.slot }));
    hub.take();
    hub.says(
        asker,
        DeviceToRelay::CancelChunk(CancelChunk { transfer_id: transfer(2), pieces: None }),
    );
    let effects = hub.take();
    assert!(effects.contains(&Effect::Slot(SlotEffect::Fail {
        slot: slot.slot,
        code: FailureCode::Cancelled
    })));
    let no = UploadCancelled { ticket: slot.ticket, code: FailureCode::Cancelled };
    assert_eq!(BrokerFixture::told(&effects, owner), vec![RelayToDevice::UploadCancelled(no)]);
    assert!(effects.iter().any(|e| matches!(e, Effect::Slot(SlotEffect::RevokeTicket { .. }))));
    assert_eq!(hub.broker.reserved_bytes(), 0);
}

#[test]
fn full_slots_whose_readers_stand_still_make_room() {
    let mut hub = BrokerFixture::ready(4 * MIB);
    hub.opens(1);
    let (slow, quick) = (hub.opens(2), hub.opens(3));
    hub.lists(1, 64 * MIB);
    hub.take();
    for run in 0..4 {
        hub.asks(slow, 1, run * 4, 4);
        for slot in hub.opened() {
            hub.give(Input::Slot(SlotInput::PutStarted { slot: slot.slot }));
            for (slot, reader) in BrokerFixture::readers(&hub.take()) {
                hub.give(Input::Reader(ReaderInput::Started { slot, reader }));
                hub.give(Input::Slot(SlotInput::PutFinished { slot }));
                hub.give(Input::Reader(ReaderInput::Still { slot, reader, still: true }));
            }
        }
    }
    assert_eq!(hub.broker.reserved_bytes(), 4 * MIB);
    hub.take();
    hub.asks(quick, 1, 100, 4);
    let effects = hub.take();
    assert!(
        effects.iter().any(|e| matches!(
            e,
            Effect::Slot(SlotEffect::CutReader { code: FailureCode::Busy, .. })
        )),
        "{effects:?}"
    );
    assert!(effects.iter().any(|e| matches!(e, Effect::Slot(SlotEffect::Open(_)))));
}

/// The figures are told when a master comes, and then once for each change: a hub at rest says
/// nothing.
#[test]
fn a_master_is_told_the_figures_when_it_comes_and_when_one_of_them_changed() {
    fn figures(hub: &mut BrokerFixture) -> Vec<RelayStatus> {
        let told = hub.take().into_iter().filter_map(|effect| {
            let Effect::Master(MasterEffect::Send { session: MASTER, frame }) = effect else {
                return None;
            };
            Some(frame.message)
        });
        told.filter_map(|m| {
            if let RelayToMaster::Relay(RelayMessage::RelayStatus(status)) = m {
                Some(status)
            } else {
                None
            }
        })
        .collect()
    }
    let counted = |count| {
        let refused = [(FailureCode::NotFound, count)].into();
        Input::Master(MasterInput::RejectionsCounted(Rejections {
            refused,
            closed: [(CloseCode::TooSlow, 1)].into(),
        }))
    };
    let refused = |count| vec![RefusedCount { code: FailureCode::NotFound, count }];
    let mut hub = BrokerFixture::new(32 * MIB);
    hub.give(counted(1));
    assert_eq!(figures(&mut hub), [], "there is nobody to tell");
    hub.master_comes();
    let [first] = &figures(&mut hub)[..] else { panic!("the figures come with the roster") };
    assert_eq!((first.pending, first.pending_limit, first.slot_budget_bytes), (0, 64, 32 * MIB));
    assert_eq!(
        (&first.refused, &first.closed),
        (&refused(1), &vec![ClosedCount { reason: CloseCode::TooSlow, count: 1 }])
    );
    hub.give(counted(1));
    assert_eq!(figures(&mut hub), [], "nothing changed");
    hub.give(counted(2));
    assert_eq!(figures(&mut hub).len(), 1);
    hub.opens(7);
    let asker = hub.opens(2);
    hub.opens(1);
    hub.lists(1, MIB);
    hub.asks(asker, 1, 0, 4);
    assert_eq!(figures(&mut hub), [], "the relay sets the pace");
    hub.give(counted(2));
    let [busy] = &figures(&mut hub)[..] else { panic!("two figures changed") };
    assert_eq!((busy.pending, busy.slot_bytes), (1, MIB));
    hub.give(Input::Master(MasterInput::Closed { session: MASTER }));
    hub.give(counted(3));
    assert_eq!(figures(&mut hub), []);
    hub.master_comes();
    assert_eq!(figures(&mut hub)[0].refused, refused(3), "a new master is told all of them");
}

#[test]
fn a_holder_whose_tickets_lapse_twice_sleeps_until_it_speaks() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let (owner, asker) = (hub.opens(1), hub.opens(2));
    hub.lists(1, 16 * MIB);
    hub.asks(asker, 1, 0, 4);
    hub.passes(11_000);
    assert_eq!(BrokerFixture::failures(&hub.take(), asker)[0].1, FailureCode::TimedOut);
    hub.asks(asker, 1, 0, 4);
    hub.passes(11_000);
    let effects = hub.take();
    let left = |m: &RelayToDevice| matches!(m, RelayToDevice::ClientDisconnected(gone) if gone.public_id == device(1));
    assert_eq!(
        BrokerFixture::told(&effects, asker).into_iter().filter(left).count(),
        1,
        "{effects:?}"
    );
    hub.asks(asker, 1, 0, 4);
    assert_eq!(BrokerFixture::failures(&hub.take(), asker)[0].1, FailureCode::OwnerAway);
    hub.says(owner, DeviceToRelay::Ping(Empty {}));
    let effects = hub.take();
    assert!(
        BrokerFixture::told(&effects, asker)
            .iter()
            .any(|m| matches!(m, RelayToDevice::ClientReconnected(_)))
    );
    hub.asks(asker, 1, 0, 4);
    assert_eq!(hub.opened().len(), 1);
}

#[test]
fn a_device_forgotten_in_its_sleep_wakes_up_as_a_stranger() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let (owner, asker) = (hub.opens(1), hub.opens(2));
    hub.lists(1, 16 * MIB);
    for _ in 0..2 {
        hub.asks(asker, 1, 0, 4);
        hub.passes(11_000);
    }
    let effects = hub.take();
    assert!(
        BrokerFixture::told(&effects, asker)
            .iter()
            .any(|m| matches!(m, RelayToDevice::ClientDisconnected(_)))
    );
    hub.give(Input::Master(MasterInput::Closed { session: MASTER }));
    hub.master_comes_with(2..=4);
    hub.take();
    hub.says(owner, DeviceToRelay::Ping(Empty {}));
    let effects = hub.take();
    assert!(
        matches!(BrokerFixture::told(&effects, owner)[..], [RelayToDevice::Pong(_)]),
        "not who is here: {effects:?}"
    );
    assert_eq!(
        BrokerFixture::told(&effects, asker),
        Vec::<RelayToDevice>::new(),
        "nor is anybody told that it is"
    );
}

#[test]
fn wrong_bytes_twice_mean_that_the_file_changed_for_good() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let (owner, asker) = (hub.opens(1), hub.opens(2));
    let file = hub.lists(1, MIB);
    let bad = |hub: &mut BrokerFixture| {
        hub.take();
        hub.asks(asker, 1, 0, 4);
        let slot = hub.opened().remove(0).slot;
        hub.give(Input::Slot(SlotInput::PutStarted { slot }));
        hub.give(Input::Slot(SlotInput::PutFailed {
            slot,
            code: FailureCode::BadBytes,
            culprit: Some(file),
        }));
        hub.take()
    };
    let effects = bad(&mut hub);
    assert!(
        !BrokerFixture::told(&effects, owner)
            .iter()
            .any(|m| matches!(m, RelayToDevice::FileChanged(_)))
    );
    let effects = bad(&mut hub);
    assert!(
        BrokerFixture::told(&effects, owner)
            .iter()
            .any(|m| matches!(m, RelayToDevice::FileChanged(_)))
    );
    assert!(effects.contains(&Effect::Slot(SlotEffect::ForgetHashes { file })));
    hub.asks(asker, 1, 0, 4);
    assert_eq!(BrokerFixture::failures(&hub.take(), asker)[0].1, FailureCode::FileChanged);
}

/// PROTOCOL.md 6.5: the owner removes a changed file at once, and the asker that was cut hears of
/// the change all the same.
#[test]
fn a_reader_cut_by_a_change_is_told_changed_and_not_gone() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    let file = hub.lists(1, MIB);
    let entry = hub.files[&file].clone();
    for code in [FailureCode::BadBytes, FailureCode::FileChanged] {
        hub.take();
        hub.asks(asker, 1, 0, 4);
        let slot = hub.opened().remove(0).slot;
        hub.give(Input::Slot(SlotInput::PutStarted { slot }));
        hub.give(Input::Slot(SlotInput::PutFailed {
            slot,
            code: FailureCode::BadBytes,
            culprit: Some(file),
        }));
        assert!(
            hub.effects.contains(&Effect::Slot(SlotEffect::Fail { slot, code })),
            "{:?}",
            hub.effects
        );
    }
    let removed = FileRemoved {
        public_id: device(1),
        file_ids: vec![file.file_id],
        epoch: 5,
        revision: 8,
        audience: Audience::All,
    };
    hub.files.remove(&file);
    hub.master(MasterToRelay::FileRemoved(removed));
    let hears = |hub: &mut BrokerFixture| {
        hub.take();
        hub.asks(asker, 1, 0, 4);
        BrokerFixture::failures(&hub.take(), asker).first().map(|(_, code)| *code)
    };
    assert_eq!(hears(&mut hub), Some(FailureCode::FileChanged));
    hub.passes(11 * 60_000);
    assert_eq!(
        hears(&mut hub),
        Some(FailureCode::FileGone),
        "ten minutes later nobody is left who was cut"
    );
    hub.files.insert(file, entry);
    assert_eq!(hears(&mut hub), None, "the same version is listed again");
}

#[test]
fn in_a_bundle_only_the_guilty_file_fails_for_its_reason() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let (owner, asker) = (hub.opens(1), hub.opens(2));
    hub.lists(1, 10);
    hub.lists(2, 20);
    hub.take();
    hub.asks_for(asker, vec![GroupSpan::new(file_id(1), 0, 1), GroupSpan::new(file_id(2), 0, 1)]);
    let slot = hub.opened().remove(0);
    assert_eq!(slot.length, 30);
    let no = ChunkUnavailable {
        ticket: slot.ticket,
        code: FailureCode::FileGone,
        file_id: Some(file_id(2)),
    };
    hub.says(owner, DeviceToRelay::ChunkUnavailable(no));
    assert_eq!(
        BrokerFixture::failures(&hub.take(), asker),
        vec![
            (vec![GroupSpan::new(file_id(2), 0, 1)], FailureCode::FileGone),
            (vec![GroupSpan::new(file_id(1), 0, 1)], FailureCode::Busy),
        ]
    );
}

#[test]
fn a_removed_file_ends_its_slots_and_asks_at_once() {
    let mut hub = BrokerFixture::ready(4 * MIB);
    hub.opens(1);
    let asker = hub.opens(2);
    let file = hub.lists(1, 64 * MIB);
    hub.take();
    hub.asks(asker, 1, 0, 4);
    hub.asks(asker, 1, 4, 4);
    let slot = hub.opened().remove(0).slot;
    hub.files.remove(&file);
    hub.master(MasterToRelay::FileRemoved(FileRemoved {
        public_id: device(1),
        file_ids: vec![file.file_id],
        epoch: 5,
        revision: 8,
        audience: Audience::All,
    }));
    let effects = hub.take();
    assert!(
        effects.contains(&Effect::Slot(SlotEffect::Fail { slot, code: FailureCode::FileGone }))
    );
    let failures = BrokerFixture::failures(&effects, asker);
    assert_eq!(failures.len(), 2);
    assert!(failures.iter().all(|(_, code)| *code == FailureCode::FileGone));
    hub.asks(asker, 1, 0, 4);
    assert_eq!(
        BrokerFixture::failures(&hub.take(), asker)[0].1,
        FailureCode::FileGone,
        "the master does not know it either"
    );
}

#[test]
fn turning_a_device_away_ends_both_directions_and_closes_it_last() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let (owner, asker, third) = (hub.opens(1), hub.opens(2), hub.opens(3));
    hub.lists(1, MIB);
    hub.take();
    hub.asks(asker, 1, 0, 4);
    let slot = hub.opened().remove(0).slot;
    hub.master(MasterToRelay::DisApproveClient(DisApproveClient {
        public_id: device(1),
        epoch: 5,
        revision: 8,
    }));
    let effects = hub.take();
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Slot(SlotEffect::Fail { slot: s, .. }) if *s == slot))
    );
    assert!(effects.contains(&Effect::Session(SessionEffect::Close {
        session: owner,
        code: CloseCode::Revoked
    })));
    for session in [owner, asker, third] {
        assert!(
            BrokerFixture::told(&effects, session)
                .iter()
                .any(|m| matches!(m, RelayToDevice::ClientDisApproved(_)))
        );
    }
    hub.asks(asker, 1, 0, 4);
    assert_eq!(BrokerFixture::failures(&hub.take(), asker)[0].1, FailureCode::PeerRevoked);
    hub.opens_as(50, 1, 1);
    assert!(hub.take().contains(&Effect::Session(SessionEffect::Close {
        session: SessionId(50),
        code: CloseCode::Revoked
    })));
}

#[test]
fn granted_transfers_go_on_without_the_master_and_new_ones_wait_for_it() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    hub.opens(1);
    let asker = hub.opens(2);
    hub.lists(1, 16 * MIB);
    hub.lists(2, 16 * MIB);
    hub.asks(asker, 1, 0, 4);
    hub.take();
    hub.give(Input::Master(MasterInput::Closed { session: MASTER }));
    assert!(
        BrokerFixture::told(&hub.take(), asker)
            .iter()
            .any(|m| matches!(m, RelayToDevice::ServerNotReady(_)))
    );
    hub.asks(asker, 1, 4, 4);
    assert_eq!(hub.opened().len(), 1);
    hub.asks(asker, 2, 0, 4);
    assert_eq!(BrokerFixture::failures(&hub.take(), asker)[0].1, FailureCode::ServerNotReady);
    hub.passes(11 * 60_000);
    hub.take();
    hub.asks(asker, 1, 8, 4);
    assert_eq!(
        BrokerFixture::failures(&hub.take(), asker)[0].1,
        FailureCode::ServerNotReady,
        "a grant serves ten minutes"
    );
}

#[test]
fn misshapen_requests_are_answered_and_cost_nothing() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    hub.opens(1);
    let asker = hub.opens(2);
    hub.lists(1, 64 * MIB);
    hub.asks(asker, 1, 0, 1);
    hub.take();
    let piece = |first, count| GroupSpan::new(file_id(1), first, count);
    for pieces in [
        vec![],
        vec![piece(0, 0)],
        vec![piece(256, 1)],
        vec![piece(0, 33)],
        vec![piece(0, 2), piece(1, 1)],
        vec![piece(u32::MAX, u32::MAX)],
    ] {
        hub.asks_for(asker, pieces.clone());
        let told = BrokerFixture::told(&hub.take(), asker);
        let refused = matches!(&told[..], [RelayToDevice::RequestFailed(no)] if no.code == FailureCode::BadMessage);
        assert!(refused, "{pieces:?}: {told:?}");
    }
}

#[test]
fn a_links_want_waits_for_its_owner_and_goes_on() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let (owner, _maker) = (hub.opens(1), hub.opens(2));
    let file = hub.lists(1, 16 * MIB);
    let DrawnLink { link, hash, binding } = DrawnLink::new(&LinkSeed([1; 32]), device(2));
    let call = CallId(1);
    hub.give(Input::Call(CallInput::LinkOpened { call, link }));
    let reference = hub
        .take()
        .into_iter()
        .find_map(|e| {
            let Effect::Master(MasterEffect::Send { frame, .. }) = e else { return None };
            matches!(frame.message, RelayToMaster::Relay(RelayMessage::LinkLookup(_)))
                .then_some(frame.reference?)
        })
        .unwrap();
    let grant = LinkGrant {
        link_hash: hash,
        public_id: device(2),
        binding,
        lives_ms: 1_000_000,
        limited: false,
        file: Some(hub.files[&file].clone()),
        archive: None,
    };
    let frame = MasterFrame {
        reference: Some(reference),
        ..MasterFrame::plain(MasterToRelay::LinkGrant(grant))
    };
    hub.give(Input::Master(MasterInput::MessageReceived {
        session: MASTER,
        frame: Box::new(frame),
    }));
    assert!(
        hub.take()
            .iter()
            .any(|e| matches!(e, Effect::Call(CallEffect::Found { result: Ok(_), .. })))
    );
    hub.give(Input::Session(SessionInput::Closed { session: owner }));
    let reader = LinkReader(5);
    let pieces = vec![(file, GroupRange::new(0, 4))];
    hub.give(Input::Link(LinkInput::Wanted { reader, hash, want: 1, pieces }));
    assert!(hub.take().contains(&Effect::Link(LinkEffect::Waits {
        reader,
        want: 1,
        code: FailureCode::OwnerAway
    })));
    hub.opens_as(77, 1, 1);
    let slot = hub.opened().remove(0).slot;
    hub.give(Input::Slot(SlotInput::PutStarted { slot }));
    assert!(
        hub.take().iter().any(|e| matches!(e, Effect::Link(LinkEffect::Ready { want: 1, .. })))
    );
    hub.give(Input::Link(LinkInput::Left { reader, up_to: u64::MAX }));
    assert!(
        hub.take().contains(&Effect::Slot(SlotEffect::Fail { slot, code: FailureCode::Cancelled }))
    );
    assert_eq!(hub.broker.counts().asks, 0);
}

/// A hub with a file of 64 MiB, and two askers that both read run after run of it.
fn two_on_the_way() -> (BrokerFixture, SessionId, SessionId) {
    let mut hub = BrokerFixture::ready(8 * MIB);
    hub.opens(1);
    let (quick, slow) = (hub.opens(2), hub.opens(3));
    hub.lists(1, 64 * MIB);
    hub.take();
    (hub, quick, slow)
}

/// The asker's next run comes whole and is read within `ms`; false if it has to wait.
fn reads_a_run(hub: &mut BrokerFixture, asker: SessionId, run: u32, ms: u64) -> bool {
    hub.take();
    hub.asks(asker, 1, run * 4, 4);
    let asked: Vec<SlotId> = hub
        .effects
        .iter()
        .filter_map(|e| {
            if let Effect::Slot(SlotEffect::Open(slot)) = e { Some(slot.slot) } else { None }
        })
        .collect();
    for slot in &asked {
        hub.give(Input::Slot(SlotInput::PutStarted { slot: *slot }));
    }
    let readers = BrokerFixture::readers(&hub.take());
    hub.passes(ms);
    for slot in &asked {
        hub.give(Input::Slot(SlotInput::PutFinished { slot: *slot }));
    }
    for (slot, reader) in &readers {
        hub.give(Input::Reader(ReaderInput::Left { slot: *slot, reader: *reader, delivered: MIB }));
    }
    !readers.is_empty()
}

#[test]
fn a_quick_asker_goes_at_most_a_budget_ahead_of_a_slow_one_and_the_owner_uploads_once() {
    let (mut hub, quick, slow) = two_on_the_way();
    assert!(reads_a_run(&mut hub, slow, 0, 100));
    let mut ahead = 0;
    while reads_a_run(&mut hub, quick, ahead, 10) {
        ahead += 1;
    }
    assert_eq!(ahead, 9, "eight runs of cache beyond the one that both have");
    assert_eq!(hub.broker.counts().asks, 1, "it waits");
    assert!(reads_a_run(&mut hub, slow, 1, 100));
    let opened: Vec<u32> = hub.opened().iter().map(|slot| slot.pieces[0].groups.first).collect();
    assert_eq!(
        opened,
        [36],
        "the slow one read from the cache, and what it left makes room for the quick one"
    );
}

#[test]
fn a_reader_that_stands_still_or_crawls_is_not_waited_for() {
    let (mut hub, quick, slow) = two_on_the_way();
    assert!(reads_a_run(&mut hub, slow, 0, 100));
    for run in 0..9 {
        assert!(reads_a_run(&mut hub, quick, run, 10));
    }
    assert!(!reads_a_run(&mut hub, quick, 9, 10));
    hub.passes(2_600);
    let opened: u64 = hub.opened().iter().map(|slot| slot.length).sum();
    assert_eq!(opened, MIB, "the slow one has stood still for two seconds");

    let (mut hub, quick, crawling) = two_on_the_way();
    assert!(reads_a_run(&mut hub, crawling, 0, 1_500));
    let mut run = 0;
    while reads_a_run(&mut hub, quick, run, 10) {
        run += 1;
    }
    // At the next look at speeds it is clear that it is slower.
    hub.passes(1_000);
    assert!(!hub.opened().is_empty(), "run {run}: who is slower is not waited for");
}

#[test]
fn bytes_with_one_reader_are_freed_as_they_are_read_except_the_beginning() {
    let (mut hub, first, second) = two_on_the_way();
    for run in 0..10 {
        assert!(reads_a_run(&mut hub, first, run, 10));
    }
    assert_eq!(hub.broker.reserved_bytes(), 2 * MIB, "a quarter of the budget");
    assert!(reads_a_run(&mut hub, second, 0, 10));
    assert!(reads_a_run(&mut hub, second, 1, 10));
    assert_eq!(
        hub.opened(),
        [],
        "who starts a moment later has the beginning without asking the owner"
    );
    hub.asks(second, 1, 8, 4);
    assert_eq!(hub.opened().len(), 1);
    assert!(reads_a_run(&mut hub, first, 10, 10));
    assert_eq!(
        hub.broker.reserved_bytes(),
        3 * MIB + MIB,
        "what the second has still to read stays"
    );
}

#[test]
fn a_transfer_is_given_its_next_run_when_it_has_read_what_is_ready() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    hub.opens(1);
    let (asker, other) = (hub.opens(2), hub.opens(3));
    hub.lists(1, 64 * MIB);
    hub.take();
    (0..20).for_each(|run| hub.asks(asker, 1, run * 4, 4));
    let (mut opened, mut readers) = (0, Vec::new());
    loop {
        readers.extend(BrokerFixture::readers(&hub.effects));
        let slots = hub.opened();
        if slots.is_empty() {
            break;
        }
        for slot in slots {
            opened += 1;
            hub.give(Input::Slot(SlotInput::PutStarted { slot: slot.slot }));
            hub.give(Input::Slot(SlotInput::PutFinished { slot: slot.slot }));
        }
    }
    assert_eq!(
        (opened, hub.broker.reserved_bytes()),
        (8, 8 * MIB),
        "a quarter of the budget lies ready"
    );
    hub.asks(other, 1, 200, 4);
    assert_eq!(hub.opened().len(), 1, "others are not held up");
    // Beside others, what it is given grows with what it reads.
    for (slot, reader) in readers.drain(..5) {
        hub.give(Input::Reader(ReaderInput::Left { slot, reader, delivered: MIB }));
    }
    assert_eq!(hub.opened()[0].pieces[0].groups.first, 32);
}

#[test]
fn askers_of_other_files_do_not_wait_for_a_slow_one() {
    let (mut hub, quick, slow) = two_on_the_way();
    let other = hub.opens(4);
    hub.lists(2, 64 * MIB);
    assert!(reads_a_run(&mut hub, slow, 0, 100));
    for run in 0..9 {
        assert!(reads_a_run(&mut hub, quick, run, 10));
    }
    hub.take();
    hub.asks_for(other, vec![GroupSpan::new(file_id(2), 0, 4)]);
    assert_eq!(hub.opened().len(), 1);
}

#[test]
fn a_slow_one_that_needs_what_is_gone_is_never_stuck_behind_what_it_will_need() {
    let (mut hub, quick, slow) = two_on_the_way();
    for run in 4..12 {
        assert!(reads_a_run(&mut hub, quick, run, 10));
    }
    for run in 0..12 {
        assert!(reads_a_run(&mut hub, slow, run, 100), "run {run}");
    }
}
