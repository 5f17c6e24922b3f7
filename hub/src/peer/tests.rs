//! The Peer knocks once, mirrors what the hub says, offers what is not listed, and asks for exactly
//! what is missing.

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::device::{HubInfo, TransportMode};
use lanyard_protocol::group::Groups;
use lanyard_protocol::limits::MAX_REVEALS;
use lanyard_protocol::message::*;
use lanyard_protocol::*;

use super::testing::{device, entry, file_id, listed, new_file};
use super::*;

const MIB: u64 = 1 << 20;

struct PeerFixture {
    peer: Peer,
    now: Moment,
}

fn key() -> PublicKey {
    PublicKey([7; 32])
}

fn transfer(n: u8) -> TransferId {
    TransferId(device(n).0)
}

fn all(files: &[(u8, u64)]) -> Vec<WantedFile> {
    let wanted = |(n, size): &(u8, u64)| WantedFile {
        file_id: file_id(*n),
        size: *size,
        group_log: Groups::of(*size).group_log,
        root: None,
        have: GroupSet::default(),
    };
    files.iter().map(wanted).collect()
}

impl PeerFixture {
    fn new() -> Self {
        let config = PeerConfig {
            public_key: key(),
            instance: Instance([7; 16]),
            name: "laptop".into(),
            kind: DeviceKind::Native,
            platform: "test".into(),
            invitation: None,
            reveals: Reveals::default(),
        };
        Self { peer: Peer::new(config, IdSource::new([1; 32])), now: Moment(1_000) }
    }

    fn drain(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.peer.poll_effect()).collect()
    }

    fn tell(&mut self, input: Input) -> Vec<Effect> {
        self.peer.handle(self.now, input);
        self.drain()
    }

    fn hear(&mut self, message: RelayToDevice, reference: Option<&Ref>) -> Vec<Effect> {
        self.tell(Input::Received { frame: Frame::new(message, reference.cloned()) })
    }

    /// To the next deadline.
    fn wait(&mut self) -> Vec<Effect> {
        self.now = self.peer.poll_timeout().expect("it waits for something");
        self.peer.handle_timeout(self.now);
        self.drain()
    }

    fn wait_until(&mut self, wanted: impl Fn(&Effect) -> bool) -> Effect {
        for _ in 0..100 {
            if let Some(effect) = self.wait().into_iter().find(|effect| wanted(effect)) {
                return effect;
            }
        }
        panic!("it never came");
    }

    fn challenge(&mut self) -> Registration {
        let challenge = Challenge {
            protocol: PROTOCOL_VERSION,
            boot_id: BootId([1; 16]),
            nonce: Nonce([2; 32]),
            ephemeral_key: EphemeralKey([4; 32]),
            hub: HubInfo { name: "Kitchen".into(), public_key: PublicKey([3; 32]) },
            mode: TransportMode::Open,
        };
        self.tell(Input::LinkOpened);
        match self.hear(RelayToDevice::Challenge(challenge), None).remove(0) {
            Effect::Register { registration } => registration,
            other => panic!("{other:?}"),
        }
    }

    fn ack(&mut self, membership: Membership, hub_ready: bool) -> Vec<Effect> {
        let (public_id, signature) = (self.peer.public_id(), Signature([0; 64]));
        let ack =
            ClientRegisterAck { public_id, membership, hub_ready, session_id: None, signature };
        self.hear(RelayToDevice::ClientRegisterAck(ack), None)
    }

    /// Connected, approved, with these files listed at revision 5.
    fn inside(files: Vec<FileEntry>) -> Self {
        let mut rig = Self::new();
        assert_eq!(rig.tell(Input::Start), [Effect::OpenLink]);
        rig.back_inside(files);
        rig
    }

    fn back_inside(&mut self, files: Vec<FileEntry>) -> Vec<Effect> {
        self.challenge();
        let mut effects = self.ack(Membership::Approved, true);
        effects.extend(self.hear(RelayToDevice::FeedPage(snapshot(5, files)), None));
        effects
    }

    fn lose_link(&mut self) -> Vec<Effect> {
        let mut effects = self.tell(Input::LinkClosed { code: None });
        let reopened = self.wait_until(|effect| *effect == Effect::OpenLink);
        effects.push(reopened);
        effects
    }
}

fn snapshot(revision: u64, files: Vec<FileEntry>) -> FeedPage {
    let (clients, gone) = Default::default();
    FeedPage {
        feed: Default::default(),
        mode: FeedMode::Snapshot,
        epoch: 7,
        revision,
        since: None,
        clients,
        files,
        gone,
        cursor: None,
        last: true,
    }
}

fn sent(effects: &[Effect]) -> Vec<(DeviceToRelay, Option<Ref>)> {
    let one = |effect: &Effect| match effect {
        Effect::Send { message, reference } => Some((message.clone(), reference.clone())),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

fn asked(effects: &[Effect]) -> Vec<Vec<GroupSpan>> {
    let one = |(message, _): (DeviceToRelay, _)| match message {
        DeviceToRelay::RequestChunk(request) => Some(request.pieces),
        _ => None,
    };
    sent(effects).into_iter().filter_map(one).collect()
}

fn failed(code: FailureCode) -> RequestFailed {
    RequestFailed { code, message: String::new(), retry_after_ms: None, file_id: None }
}

// ── Session
// ─────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_knock_shows_its_digits_and_reveals_once() {
    let mut rig = PeerFixture::new();
    rig.tell(Input::Start);
    let registration = rig.challenge();
    assert_eq!(
        rig.ack(Membership::Pending, true),
        [Effect::PhaseChanged { phase: MembershipPhase::Waiting { code: None } }]
    );
    let request_id = approval::request_id(&key(), &registration.commit, &Nonce([2; 32]), "laptop");
    let challenge = ApprovalChallenge { request_id, commit: promise(request_id, 9) };

    let strange = ApprovalChallenge { request_id: RequestId([0; 16]), ..challenge.clone() };
    assert_eq!(rig.hear(RelayToDevice::ApprovalChallenge(strange), None), []);

    let effects = rig.hear(RelayToDevice::ApprovalChallenge(challenge.clone()), None);
    assert_eq!(effects[0], Effect::Revealing, "counted before it is said: {effects:?}");
    let [(DeviceToRelay::ApprovalReveal(said), None)] = &sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(approval::commit(&key(), &said.reveal), registration.commit);
    assert_eq!(
        *rig.peer.phase(),
        MembershipPhase::Waiting { code: None },
        "no digits before the hub is bound to them"
    );

    assert_eq!(open(&mut rig, request_id, 8), [], "that is not what was promised");
    let code =
        approval::code(&PublicKey([3; 32]), &key(), &request_id, &said.reveal, &Nonce([9; 32]));
    let phase = MembershipPhase::Waiting { code: Some(code) };
    assert_eq!(
        open(&mut rig, request_id, 9),
        [Effect::Opened, Effect::PhaseChanged { phase: phase.clone() }]
    );

    let again = ApprovalChallenge { commit: promise(request_id, 8), ..challenge };
    assert_eq!(
        rig.hear(RelayToDevice::ApprovalChallenge(again), None),
        [],
        "a second challenge is never answered"
    );
    assert_eq!(open(&mut rig, request_id, 8), []);
    assert_eq!(*rig.peer.phase(), phase);
}

/// The nonce that the master commits to.
fn promise(request_id: RequestId, nonce: u8) -> Commit {
    approval::master_commit(&PublicKey([3; 32]), &request_id, &Nonce([nonce; 32]))
}

fn open(rig: &mut PeerFixture, request_id: RequestId, nonce: u8) -> Vec<Effect> {
    rig.hear(
        RelayToDevice::ApprovalOpen(ApprovalOpen { request_id, nonce: Nonce([nonce; 32]) }),
        None,
    )
}

#[test]
fn a_restart_makes_a_new_promise_bound_to_the_new_nonce() {
    let mut rig = PeerFixture::new();
    rig.tell(Input::Start);
    let registration = rig.challenge();
    rig.ack(Membership::Pending, true);
    let old = approval::request_id(&key(), &registration.commit, &Nonce([2; 32]), "laptop");
    let restart = ApprovalRestart { request_id: old, nonce: Nonce([5; 32]) };
    let effects = rig.hear(RelayToDevice::ApprovalRestart(restart), None);
    let [(DeviceToRelay::ApprovalCommit(said), None)] = &sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_ne!(said.commit, registration.commit);
    let request_id = approval::request_id(&key(), &said.commit, &Nonce([5; 32]), "laptop");
    let challenge = ApprovalChallenge { request_id, commit: promise(request_id, 9) };
    assert_eq!(sent(&rig.hear(RelayToDevice::ApprovalChallenge(challenge), None)).len(), 1);
}

/// How a false hub may leave once it knows the digits.
#[derive(Debug, Clone, Copy)]
enum Abort {
    Close,
    Restart,
    Shut,
    Silence,
    WrongOpening,
    /// Lets the device in without an opening, and turns it out again.
    Admit,
}

/// Plays a false hub that aborts as soon as it knows the digits; how many reveals it was given.
fn reveals_before_it_ends(rig: &mut PeerFixture, aborts: impl Iterator<Item = Abort>) -> usize {
    let mut reveals = 0;
    rig.tell(Input::Start);
    let mut request_id = None;
    for abort in aborts {
        let of_knock = |commit: &Commit, nonce: u8| {
            approval::request_id(&key(), commit, &Nonce([nonce; 32]), "laptop")
        };
        let id = match request_id.take() {
            Some(id) => id,
            None => {
                let registration = rig.challenge();
                rig.ack(Membership::Pending, true);
                of_knock(&registration.commit, 2)
            }
        };
        let challenge = ApprovalChallenge { request_id: id, commit: promise(id, 9) };
        let effects = rig.hear(RelayToDevice::ApprovalChallenge(challenge), None);
        reveals += sent(&effects)
            .iter()
            .filter(|(said, _)| matches!(said, DeviceToRelay::ApprovalReveal(_)))
            .count();
        match abort {
            Abort::Restart => {
                let restart = ApprovalRestart { request_id: id, nonce: Nonce([5; 32]) };
                let effects = rig.hear(RelayToDevice::ApprovalRestart(restart), None);
                if let [(DeviceToRelay::ApprovalCommit(said), None)] = &sent(&effects)[..] {
                    request_id = Some(of_knock(&said.commit, 5));
                }
            }
            Abort::Shut => {
                rig.hear(RelayToDevice::ApprovalClosed(ApprovalClosed { request_id: id }), None);
            }
            Abort::WrongOpening => {
                open(rig, id, 77);
            }
            Abort::Admit => {
                rig.hear(
                    RelayToDevice::Membership(MembershipNotice {
                        membership: Membership::Approved,
                    }),
                    None,
                );
            }
            Abort::Close | Abort::Silence => {}
        }
        if matches!(rig.peer.phase(), MembershipPhase::Ended { .. }) {
            break;
        }
        if request_id.is_none() {
            if !matches!(abort, Abort::Silence | Abort::WrongOpening) {
                rig.tell(Input::LinkClosed { code: None });
            }
            if !matches!(rig.peer.phase(), MembershipPhase::Ended { .. }) {
                // Silence, too, has an end: the device leaves and comes back by itself.
                for _ in 0..10 {
                    if rig.peer.poll_timeout().is_none() || rig.wait().contains(&Effect::OpenLink) {
                        break;
                    }
                }
            }
        }
        if matches!(rig.peer.phase(), MembershipPhase::Ended { .. }) {
            break;
        }
    }
    reveals
}

/// A63: whatever way a false hub leaves after it has learnt the digits, in 5,000 tries it is given
/// three reveals.
#[test]
fn a63_5000_aborts_give_three_reveals() {
    let all = [
        Abort::Close,
        Abort::Restart,
        Abort::Shut,
        Abort::Silence,
        Abort::WrongOpening,
        Abort::Admit,
    ];
    for abort in all {
        let mut rig = PeerFixture::new();
        assert_eq!(
            reveals_before_it_ends(&mut rig, std::iter::repeat_n(abort, 5_000)),
            3,
            "{abort:?}"
        );
        assert_eq!(
            *rig.peer.phase(),
            MembershipPhase::Ended { reason: EndReason::NotOpened },
            "{abort:?}"
        );
    }
    let mut rig = PeerFixture::new();
    assert_eq!(reveals_before_it_ends(&mut rig, all.into_iter().cycle().take(5_000)), 3);
}

/// A63: openings in between win a false hub nothing: no success makes up for an abort, and all
/// reveals together have a bound.
#[test]
fn a63_openings_do_not_buy_more_reveals() {
    let mut rig = PeerFixture::new();
    rig.tell(Input::Start);
    let registration = rig.challenge();
    rig.ack(Membership::Pending, true);
    let mut commit = registration.commit;
    let mut nonce = 2;
    let mut reveals = 0;
    for n in 0..5_000 {
        let request_id = approval::request_id(&key(), &commit, &Nonce([nonce; 32]), "laptop");
        let challenge = ApprovalChallenge { request_id, commit: promise(request_id, 9) };
        reveals += sent(&rig.hear(RelayToDevice::ApprovalChallenge(challenge), None)).len();
        // Two of three are opened.
        if n % 3 != 0 {
            open(&mut rig, request_id, 9);
        }
        let restart = ApprovalRestart { request_id, nonce: Nonce([5; 32]) };
        let effects = rig.hear(RelayToDevice::ApprovalRestart(restart), None);
        let [(DeviceToRelay::ApprovalCommit(said), None)] = &sent(&effects)[..] else { break };
        (commit, nonce) = (said.commit, 5);
    }
    assert_eq!(reveals, 7, "three are lost, four were opened");

    let mut rig = PeerFixture::new();
    rig.peer.config.reveals = Reveals { unopened: 0, given: MAX_REVEALS };
    assert_eq!(reveals_before_it_ends(&mut rig, std::iter::repeat_n(Abort::Close, 5)), 0);
}

/// A63: what earlier runs revealed counts in this one.
#[test]
fn a63_a_new_process_does_not_begin_anew() {
    let mut rig = PeerFixture::new();
    rig.peer.config.reveals = Reveals { unopened: 2, given: 2 };
    assert_eq!(reveals_before_it_ends(&mut rig, std::iter::repeat_n(Abort::Close, 5_000)), 1);
}

#[test]
fn let_in_it_acts_when_it_has_the_list() {
    let mut rig = PeerFixture::new();
    rig.tell(Input::Start);
    rig.challenge();
    rig.ack(Membership::Pending, true);
    let client = testing::client(0, "laptop");
    let client = Client { public_id: rig.peer.public_id(), ..client };
    let approved = ClientApproved { client, epoch: 7, revision: 5, audience: Audience::All };
    let effects = rig.hear(RelayToDevice::ClientApproved(approved), None);
    assert_eq!(effects, [Effect::PhaseChanged { phase: MembershipPhase::Entering }]);
    let mut first = snapshot(5, vec![entry(1, 1, "a")]);
    (first.cursor, first.last) = (Some("more".into()), false);
    let effects = rig.hear(RelayToDevice::FeedPage(first), None);
    let [(DeviceToRelay::FeedPull(pull), Some(reference))] = &sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(
        *pull,
        FeedPull { feed: Default::default(), epoch: 0, since: 0, cursor: Some("more".into()) }
    );
    let effects =
        rig.hear(RelayToDevice::FeedPage(snapshot(5, vec![entry(1, 2, "b")])), Some(reference));
    let phase = MembershipPhase::Approved { host_away: false };
    assert_eq!(effects, [Effect::CatalogueChanged, Effect::PhaseChanged { phase }]);
    assert_eq!(rig.peer.catalogue().files.len(), 2);
    assert_eq!(rig.peer.poll_timeout(), None, "nothing is waited for");
}

#[test]
fn it_comes_back_by_itself_but_not_after_a_refusal() {
    let mut rig = PeerFixture::inside(vec![]);
    let effects = rig.lose_link();
    assert_eq!(effects.first(), Some(&Effect::EndBodies));
    let registration = rig.challenge();
    assert_eq!(registration.resume, Some(Resume { epoch: 7, revision: 5 }));
    rig.ack(Membership::Approved, true);
    let effects = rig.tell(Input::LinkClosed { code: Some(4403) });
    let phase = MembershipPhase::Ended { reason: EndReason::Refused };
    assert_eq!(effects, [Effect::EndBodies, Effect::PhaseChanged { phase }]);
    assert_eq!(rig.peer.poll_timeout(), None);
}

#[test]
fn a_relay_of_another_version_is_left_for_good() {
    let mut rig = PeerFixture::new();
    rig.tell(Input::Start);
    rig.tell(Input::LinkOpened);
    let challenge = Challenge {
        protocol: PROTOCOL_VERSION + 1,
        boot_id: BootId([1; 16]),
        nonce: Nonce([2; 32]),
        ephemeral_key: EphemeralKey([4; 32]),
        hub: HubInfo { name: "Kitchen".into(), public_key: PublicKey([3; 32]) },
        mode: TransportMode::Open,
    };
    let effects = rig.hear(RelayToDevice::Challenge(challenge), None);
    let phase = MembershipPhase::Ended { reason: EndReason::Version };
    assert!(effects.contains(&Effect::PhaseChanged { phase }), "{effects:?}");
    assert_eq!(rig.peer.poll_timeout(), None, "it does not come again");
}

/// R04: a relay that is away for ten minutes is not hammered, and not forgotten.
#[test]
fn a_relay_that_is_away_is_looked_for_a_few_times_a_minute() {
    let mut rig = PeerFixture::new();
    rig.tell(Input::Start);
    let begun = rig.now;
    let (mut tries, mut last) = (0, begun);
    while rig.now.since(begun) < 600_000 {
        rig.tell(Input::LinkClosed { code: None });
        rig.wait_until(|effect| *effect == Effect::OpenLink);
        tries += 1;
        assert!(rig.now.since(last) <= 15_000);
        last = rig.now;
    }
    // random(0 … 15 s) is 7.5 s on the way (PROTOCOL.md 1.5).
    assert!((60..=110).contains(&tries), "{tries} in ten minutes");
}

#[test]
fn a_relay_that_says_nothing_is_left() {
    let mut rig = PeerFixture::new();
    rig.tell(Input::Start);
    rig.tell(Input::LinkOpened);
    assert_eq!(rig.wait(), [Effect::CloseLink { code: None }]);
    assert_eq!(rig.wait(), [Effect::OpenLink]);
}

#[test]
fn while_the_host_is_away_the_list_stays_and_is_pulled_when_it_is_back() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    let effects =
        rig.hear(RelayToDevice::ServerNotReady(ServerNotReady { retry_after_ms: 1_000 }), None);
    assert_eq!(
        effects,
        [Effect::PhaseChanged { phase: MembershipPhase::Approved { host_away: true } }]
    );
    assert_eq!(rig.peer.catalogue().files.len(), 1);
    let effects = rig.hear(RelayToDevice::HubReady(HubReady { epoch: 7, revision: 6 }), None);
    let pull = FeedPull { feed: Default::default(), epoch: 7, since: 5, cursor: None };
    assert!(
        matches!(&sent(&effects)[..], [(DeviceToRelay::FeedPull(said), Some(_))] if *said == pull)
    );
}

#[test]
fn a_gap_is_pulled() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    let removed = FileRemoved {
        public_id: device(1),
        file_ids: vec![file_id(1)],
        epoch: 7,
        revision: 9,
        audience: Audience::All,
    };
    let effects = rig.hear(RelayToDevice::FileRemoved(removed), None);
    assert!(matches!(&sent(&effects)[..], [(DeviceToRelay::FeedPull(pull), _)] if pull.since == 5));
    let effects = rig.wait_until(|effect| matches!(effect, Effect::Send { .. }));
    assert!(
        matches!(effects, Effect::Send { message: DeviceToRelay::FeedPull(_), .. }),
        "no page: it asks again"
    );
}

// ── Shares
// ─────────────────────────────────────────────────────────────────────────────────────────────────

fn files_added(rig: &PeerFixture, revision: u64, files: Vec<NewFile>) -> RelayToDevice {
    let (public_id, instance) = (rig.peer.public_id(), Instance([7; 16]));
    let files = files.into_iter().map(|file| listed(public_id, instance, file)).collect();
    RelayToDevice::FilesAdded(FilesAdded {
        public_id,
        files,
        epoch: 7,
        revision,
        audience: Audience::All,
    })
}

#[test]
fn the_broadcast_is_the_acknowledgement() {
    let mut rig = PeerFixture::inside(vec![]);
    let new = new_file(1, "a", 10);
    let effects = rig.tell(Input::Share { files: vec![new.clone()] });
    let [(DeviceToRelay::AddFiles(add), Some(reference))] = &sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(add.files, std::slice::from_ref(&new));
    let added = files_added(&rig, 6, vec![new]);
    let effects = rig.hear(added, Some(reference));
    let state = ShareState::Shared;
    assert_eq!(
        effects,
        [Effect::SharesChanged { file_ids: vec![file_id(1)], state }, Effect::CatalogueChanged]
    );
    assert_eq!(rig.peer.poll_timeout(), None);
}

#[test]
fn no_answer_is_shown_as_failed_and_still_counts_later() {
    let mut rig = PeerFixture::inside(vec![]);
    let new = new_file(1, "a", 10);
    let effects = rig.tell(Input::Share { files: vec![new.clone()] });
    let reference = sent(&effects)[0].1.clone();
    let state = ShareState::Failed { code: FailureCode::TimedOut };
    assert_eq!(rig.wait(), [Effect::SharesChanged { file_ids: vec![file_id(1)], state }]);
    let added = files_added(&rig, 6, vec![new]);
    let effects = rig.hear(added, reference.as_ref());
    assert_eq!(
        effects[0],
        Effect::SharesChanged { file_ids: vec![file_id(1)], state: ShareState::Shared }
    );
}

#[test]
fn many_files_go_in_messages_that_fit() {
    let mut rig = PeerFixture::inside(vec![]);
    let file = |n: u32| NewFile {
        file_id: format!("{n:08x}-0000-8000-8000-000000000000").parse().unwrap(),
        path: format!("{}/{n}", "x".repeat(200)),
        ..new_file(1, "", 1)
    };
    let effects = rig.tell(Input::Share { files: (0..2_000).map(file).collect() });
    let batches: Vec<Vec<NewFile>> = sent(&effects)
        .into_iter()
        .map(|(message, _)| match message {
            DeviceToRelay::AddFiles(add) => add.files,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 2_000);
    for batch in batches {
        let text = codec::encode(&DeviceToRelay::AddFiles(AddFiles { files: batch.clone() }), None);
        assert!(batch.len() <= limits::MAX_FILES_A_MESSAGE && text.len() <= limits::MAX_LIST_BYTES);
    }
}

#[test]
fn the_culprit_fails_and_the_others_are_offered_again() {
    let mut rig = PeerFixture::inside(vec![]);
    let effects = rig.tell(Input::Share { files: vec![new_file(1, "a", 1), new_file(2, "b", 1)] });
    let reference = sent(&effects)[0].1.clone();
    let no = RequestFailed { file_id: Some(file_id(2)), ..failed(FailureCode::PathRejected) };
    let effects = rig.hear(RelayToDevice::RequestFailed(no), reference.as_ref());
    let state = ShareState::Failed { code: FailureCode::PathRejected };
    assert_eq!(effects[0], Effect::SharesChanged { file_ids: vec![file_id(2)], state });
    let [(DeviceToRelay::AddFiles(add), _)] = &sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(add.files, [new_file(1, "a", 1)]);
}

#[test]
fn after_a_snapshot_without_them_shares_are_offered_again_and_strangers_taken_back() {
    let mut rig = PeerFixture::inside(vec![]);
    let new = new_file(1, "a", 10);
    rig.tell(Input::Share { files: vec![new.clone()] });
    let added = files_added(&rig, 6, vec![new.clone()]);
    rig.hear(added, None);
    rig.lose_link();
    let stranger = listed(rig.peer.public_id(), Instance([7; 16]), new_file(9, "old", 1));
    let effects = rig.back_inside(vec![stranger]);
    let messages: Vec<DeviceToRelay> =
        sent(&effects).into_iter().map(|(message, _)| message).collect();
    let remove = RemoveFile { file_ids: vec![file_id(9)], keep: false };
    let expected =
        [DeviceToRelay::RemoveFile(remove), DeviceToRelay::AddFiles(AddFiles { files: vec![new] })];
    assert_eq!(messages, expected);
}

#[test]
fn stopping_takes_back_what_is_shared_first() {
    let mut rig = PeerFixture::inside(vec![]);
    let new = new_file(1, "a", 10);
    rig.tell(Input::Share { files: vec![new.clone()] });
    let added = files_added(&rig, 6, vec![new]);
    rig.hear(added, None);
    let effects = rig.tell(Input::Stop);
    let [(DeviceToRelay::RemoveFile(_), reference)] = &sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    let ack = RelayToDevice::RemoveFileAck(FeedAck { epoch: 7, revision: 7 });
    let effects = rig.hear(ack, reference.as_ref());
    assert_eq!(effects[0], Effect::CloseLink { code: None });
    assert_eq!(*rig.peer.phase(), MembershipPhase::Ended { reason: EndReason::Stopped });
}

#[test]
fn only_groups_of_shared_files_are_uploaded() {
    let mut rig = PeerFixture::inside(vec![]);
    rig.tell(Input::Share { files: vec![new_file(1, "a", 3 * MIB)] });
    let ask = |pieces: Vec<GroupSpan>, what, length| {
        let ticket = Ticket([1; 16]);
        let public_id = device(7);
        RelayToDevice::UploadChunkRequest(UploadChunkRequest {
            ticket,
            public_id,
            pieces,
            what,
            length,
        })
    };
    let said_no = |effects: Vec<Effect>| match &sent(&effects)[..] {
        [(DeviceToRelay::ChunkUnavailable(no), None)] => no.code,
        other => panic!("{other:?}"),
    };
    let piece = |n, first, count| vec![GroupSpan::new(file_id(n), first, count)];
    assert_eq!(
        said_no(rig.hear(ask(piece(2, 0, 1), BodyKind::Bytes, 1), None)),
        FailureCode::FileGone
    );
    assert_eq!(
        said_no(rig.hear(ask(piece(1, 11, 2), BodyKind::Bytes, 1), None)),
        FailureCode::FileChanged
    );
    assert_eq!(
        said_no(rig.hear(ask(piece(1, 0, 12), BodyKind::Hashes, 384), None)),
        FailureCode::NoHashes
    );
    let effects = rig.hear(ask(piece(1, 0, 12), BodyKind::Bytes, 3 * MIB), None);
    let (ticket, pieces, length) = (Ticket([1; 16]), piece(1, 0, 12), 3 * MIB);
    assert_eq!(effects, [Effect::Upload { ticket, pieces, length }]);
}

// ── Transfers
// ─────────────────────────────────────────────────────────────────────────────────────────────────

fn order(files: &[(u8, u64)]) -> TransferOrder {
    TransferOrder {
        transfer_id: transfer(1),
        owner: device(1),
        files: all(files),
        lookahead_bytes: None,
    }
}

impl PeerFixture {
    fn ready(&mut self, pieces: Vec<GroupSpan>) -> Vec<Effect> {
        let (transfer_id, ticket) = (transfer(1), Ticket([2; 16]));
        self.hear(
            RelayToDevice::ChunkReady(ChunkReady { transfer_id, pieces, ticket, length: 1 }),
            None,
        )
    }

    fn chunk_failed(&mut self, pieces: Vec<GroupSpan>, code: FailureCode) -> Vec<Effect> {
        let (transfer_id, retry) = (transfer(1), code != FailureCode::FileGone);
        let failed = ChunkFailed { transfer_id, pieces, code, retry, retry_after_ms: None };
        self.hear(RelayToDevice::ChunkFailed(failed), None)
    }

    fn stored(&mut self, piece: GroupSpan) -> Vec<Effect> {
        self.tell(Input::Stored { transfer_id: transfer(1), pieces: vec![piece] })
    }

    /// The whole life of one run.
    fn fetch(&mut self, pieces: Vec<GroupSpan>) -> Vec<Effect> {
        let mut effects = self.ready(pieces.clone());
        let fetch = effects
            .iter()
            .find_map(|e| if let Effect::Fetch { fetch, .. } = e { Some(*fetch) } else { None });
        for piece in pieces {
            effects.extend(self.stored(piece));
        }
        let outcome = FetchOutcome::Complete;
        effects.extend(
            self.tell(Input::FetchEnded { fetch: fetch.expect("a fetch was started"), outcome }),
        );
        effects
    }
}

fn groups(first: u32, count: u32) -> Vec<GroupSpan> {
    vec![GroupSpan::new(file_id(1), first, count)]
}

#[test]
fn a_large_file_is_asked_for_in_runs_that_grow() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    let effects = rig.tell(Input::StartTransfer { order: order(&[(1, 64 * MIB)]) });
    let first = [groups(0, 1), groups(1, 2), groups(3, 3), groups(6, 4)];
    assert_eq!(asked(&effects), first, "of different lengths, so that they do not all end at once");
    let effects = rig.fetch(groups(0, 1));
    assert_eq!(
        asked(&effects),
        [groups(10, 5), groups(15, 5)],
        "one group more after a good one, and one run more"
    );
    let effects = rig.chunk_failed(groups(1, 2), FailureCode::Busy);
    assert_eq!(asked(&effects), [] as [Vec<GroupSpan>; 0], "what failed waits a moment");
}

#[test]
fn the_whole_file_is_closed_once_and_the_transfer_ends() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    let effects = rig.tell(Input::StartTransfer { order: order(&[(1, 300_000)]) });
    assert_eq!(asked(&effects), [groups(0, 2)]);
    let (transfer_id, file_id) = (transfer(1), file_id(1));
    let closed = |root| Effect::CloseFile { transfer_id, file_id, root };
    assert!(
        !rig.fetch(groups(0, 2)).iter().any(|effect| matches!(effect, Effect::CloseFile { .. }))
    );
    let root = Root([7; 32]);
    let (public_id, files) = (device(1), vec![KnownRoot { file_id, root }]);
    let known = FilesUpdated { public_id, files, epoch: 7, revision: 6, audience: Audience::All };
    let effects = rig.hear(RelayToDevice::FilesUpdated(known), None);
    assert!(
        effects.contains(&closed(Some(root))),
        "it is checked against the root, which comes a moment later"
    );
    let effects = rig.tell(Input::FileClosed { transfer_id, file_id, outcome: CloseReason::Done });
    let ended = Effect::TransferEnded { transfer_id, done: 1, failed: 0 };
    assert_eq!(effects, [Effect::FileDone { transfer_id, file_id }, ended]);
    assert_eq!(rig.peer.poll_timeout(), None);
}

#[test]
fn a_file_whose_root_nobody_tells_is_closed_without_it() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, 300_000)]) });
    rig.fetch(groups(0, 2));
    let effects = rig.wait();
    let (transfer_id, file_id) = (transfer(1), file_id(1));
    assert!(effects.contains(&Effect::CloseFile { transfer_id, file_id, root: None }));
}

#[test]
fn small_files_travel_many_to_a_body() {
    let mut rig = PeerFixture::inside(vec![]);
    let files: Vec<(u8, u64)> = (0..200).map(|n| (n, 4_096)).collect();
    let effects = rig.tell(Input::StartTransfer { order: order(&files) });
    let runs = asked(&effects);
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].len(), 200);
    let big: Vec<(u8, u64)> = (0..10).map(|n| (n, MIB)).collect();
    let mut rig = PeerFixture::inside(vec![]);
    let runs = asked(&rig.tell(Input::StartTransfer { order: order(&big) }));
    assert_eq!(runs.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2], "a body has its limit");
}

#[test]
fn files_take_turns() {
    let mut rig = PeerFixture::inside(vec![]);
    let files: Vec<(u8, u64)> = (1..=5).map(|n| (n, 64 * MIB)).collect();
    let runs = asked(&rig.tell(Input::StartTransfer { order: order(&files) }));
    let turns: Vec<FileId> = runs.iter().map(|pieces| pieces[0].file_id).collect();
    assert_eq!(turns, [file_id(1), file_id(2), file_id(3), file_id(1)]);
}

#[test]
fn a_resumed_file_asks_only_for_what_is_missing() {
    let mut rig = PeerFixture::inside(vec![]);
    let mut resumed = order(&[(1, 64 * MIB)]);
    resumed.files[0].have.insert(GroupRange::new(2, 250));
    let effects = rig.tell(Input::StartTransfer { order: resumed });
    assert_eq!(asked(&effects), [groups(0, 1), groups(1, 1), groups(252, 4)]);
}

#[test]
fn after_a_reconnect_only_the_rest_is_asked_for() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, 2 * MIB)]) });
    rig.ready(groups(0, 4));
    rig.stored(groups(0, 3)[0]);
    rig.lose_link();
    let effects = rig.back_inside(vec![entry(1, 1, "a")]);
    assert_eq!(asked(&effects), [groups(3, 4), groups(7, 1)]);
}

#[test]
fn an_absent_owner_is_waited_for() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, MIB * 2)]) });
    rig.chunk_failed(groups(0, 4), FailureCode::OwnerAway);
    let effects = rig.chunk_failed(groups(4, 4), FailureCode::OwnerAway);
    let waits_for = Some(FailureCode::OwnerAway);
    assert_eq!(
        effects,
        [Effect::TransferChanged { transfer_id: transfer(1), waits_for, paused: false }]
    );
    let back =
        PresenceChange { public_id: device(1), instance: None, resume: None, request_id: None };
    let effects = rig.hear(RelayToDevice::ClientReconnected(back), None);
    assert_eq!(asked(&effects).concat().iter().map(|piece| piece.groups.count).sum::<u32>(), 8);
}

#[test]
fn other_failures_are_tried_again_after_a_moment() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, MIB)]) });
    rig.chunk_failed(groups(0, 4), FailureCode::BadBytes);
    let before = rig.now;
    let again = rig.wait_until(|effect| matches!(effect, Effect::Send { .. }));
    assert_eq!(asked(&[again]), [groups(0, 4)]);
    assert!(rig.now.since(before) <= 200);
}

#[test]
fn a_final_no_ends_the_file() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, MIB)]) });
    let effects = rig.chunk_failed(groups(0, 4), FailureCode::FileGone);
    let (transfer_id, file_id, code) = (transfer(1), file_id(1), FailureCode::FileGone);
    let ended = Effect::TransferEnded { transfer_id, done: 0, failed: 1 };
    assert_eq!(effects, [Effect::FileFailed { transfer_id, file_id, code, message: None }, ended]);
}

#[test]
fn a_removed_file_ends_its_transfer_and_its_bodies() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, MIB)]) });
    rig.ready(groups(0, 4));
    let file_ids = vec![file_id(1)];
    let removed = FileRemoved {
        public_id: device(1),
        file_ids,
        epoch: 7,
        revision: 6,
        audience: Audience::All,
    };
    let effects = rig.hear(RelayToDevice::FileRemoved(removed), None);
    assert!(effects.contains(&Effect::CancelFetch { fetch: FetchId(1) }));
    assert!(matches!(effects[0], Effect::FileFailed { code: FailureCode::FileGone, .. }));
}

#[test]
fn a_ticket_that_is_told_twice_is_fetched_once_and_not_called_off() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, MIB)]) });
    assert!(matches!(rig.ready(groups(0, 4))[..], [Effect::Fetch { .. }, ..]));
    assert_eq!(rig.ready(groups(0, 4)), []);
}

#[test]
fn bytes_nobody_asked_for_are_sent_back() {
    let mut rig = PeerFixture::inside(vec![]);
    let effects = rig.ready(groups(0, 4));
    let cancel = CancelChunk { transfer_id: transfer(1), pieces: Some(groups(0, 4)) };
    assert_eq!(sent(&effects), [(DeviceToRelay::CancelChunk(cancel), None)]);
}

#[test]
fn a_request_that_nobody_speaks_of_is_asked_again() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, MIB)]) });
    let cancel = rig.wait_until(|effect| matches!(effect, Effect::Send { .. }));
    assert!(matches!(cancel, Effect::Send { message: DeviceToRelay::CancelChunk(_), .. }));
    let again = rig.wait_until(|effect| matches!(effect, Effect::Send { .. }));
    assert_eq!(asked(&[again]), [groups(0, 4)]);
}

#[test]
fn groups_that_do_not_merge_are_found_by_the_list_and_asked_again() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, MIB)]) });
    rig.fetch(groups(0, 4));
    rig.wait(); // for its root, which does not come
    let (transfer_id, id) = (transfer(1), file_id(1));
    let effects =
        rig.tell(Input::FileClosed { transfer_id, file_id: id, outcome: CloseReason::Mismatch });
    let [(DeviceToRelay::RequestChunk(ask), _)] = &sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((ask.what, ask.pieces.clone()), (BodyKind::Hashes, groups(0, 4)));
    let effects = rig.ready(groups(0, 4));
    let Some(Effect::Fetch { fetch, what: BodyKind::Hashes, .. }) = effects.first().cloned() else {
        panic!("{effects:?}")
    };
    rig.tell(Input::Rejected { transfer_id, file_id: id, groups: vec![GroupRange::new(2, 1)] });
    let effects = rig.tell(Input::FetchEnded { fetch, outcome: FetchOutcome::Complete });
    assert_eq!(asked(&effects), [groups(2, 1)]);
}

#[test]
fn without_a_list_all_is_fetched_once_more_and_then_it_has_changed() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, MIB)]) });
    rig.fetch(groups(0, 4));
    rig.wait(); // for its root, which does not come
    let (transfer_id, id) = (transfer(1), file_id(1));
    rig.tell(Input::FileClosed { transfer_id, file_id: id, outcome: CloseReason::Mismatch });
    let effects = rig.chunk_failed(groups(0, 4), FailureCode::NoHashes);
    assert_eq!(effects[0], Effect::DiscardFile { transfer_id, file_id: id });
    assert_eq!(asked(&effects), [groups(0, 4)]);
    rig.fetch(groups(0, 4));
    rig.wait(); // for its root, which does not come
    let effects =
        rig.tell(Input::FileClosed { transfer_id, file_id: id, outcome: CloseReason::Mismatch });
    let code = FailureCode::FileChanged;
    assert_eq!(effects[0], Effect::FileFailed { transfer_id, file_id: id, code, message: None });
}

#[test]
fn a_full_disk_ends_the_transfer_with_its_sentence() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, 64 * MIB)]) });
    rig.ready(groups(0, 4));
    let outcome = FetchOutcome::LocalFailure { message: "no space left".into() };
    let effects = rig.tell(Input::FetchEnded { fetch: FetchId(1), outcome });
    let said = effects.iter().find_map(|e| {
        if let Effect::FileFailed { message, .. } = e { message.clone() } else { None }
    });
    assert_eq!(said.as_deref(), Some("no space left"));
    assert!(matches!(sent(&effects)[..], [(DeviceToRelay::CancelChunk(_), None)]));
    assert_eq!(rig.peer.poll_timeout(), None);
}

#[test]
fn paused_it_asks_nothing_and_resumed_it_goes_on() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::StartTransfer { order: order(&[(1, 2 * MIB)]) });
    rig.ready(groups(0, 4));
    let effects = rig.tell(Input::Pause { transfer_id: transfer(1) });
    assert!(effects.contains(&Effect::CancelFetch { fetch: FetchId(1) }));
    assert_eq!(rig.peer.poll_timeout(), None);
    let effects = rig.tell(Input::Resume { transfer_id: transfer(1) });
    assert_eq!(asked(&effects), [groups(0, 4), groups(4, 4)]);
}

#[test]
fn paused_while_it_waits_for_a_root_it_still_gets_what_is_here() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    let (transfer_id, file_id) = (transfer(1), file_id(1));
    rig.tell(Input::StartTransfer { order: order(&[(1, MIB)]) });
    rig.fetch(groups(0, 4));
    rig.tell(Input::Pause { transfer_id });
    let closed = Effect::CloseFile { transfer_id, file_id, root: None };
    assert!(rig.wait().contains(&closed), "nobody tells the root");
}

#[test]
fn an_owner_whose_upload_was_too_late_says_that_it_is_awake() {
    let mut rig = PeerFixture::inside(vec![]);
    for (code, word) in [
        (FailureCode::TimedOut, Some(DeviceToRelay::Ping(Empty {}))),
        (FailureCode::FileGone, None),
    ] {
        let ticket = Ticket([7; 16]);
        let effects =
            rig.hear(RelayToDevice::UploadCancelled(UploadCancelled { ticket, code }), None);
        assert!(effects.contains(&Effect::CancelUpload { ticket, code }));
        assert_eq!(sent(&effects).first().map(|(message, _)| (*message).clone()), word);
    }
}

#[test]
fn a_limited_device_asks_for_little_at_once_and_for_more_when_it_may() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    rig.tell(Input::LimitDown { bytes_a_second: Some(500 << 10) });
    let effects = rig.tell(Input::StartTransfer { order: order(&[(1, 16 * MIB)]) });
    assert_eq!(asked(&effects), [groups(0, 1), groups(1, 1)]);
    let effects = rig.tell(Input::LimitDown { bytes_a_second: None });
    assert_eq!(asked(&effects), [groups(2, 3), groups(5, 4)]);
}

#[test]
fn an_ordered_reader_is_not_run_away_from() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    let ahead = TransferOrder { lookahead_bytes: Some(3 * MIB), ..order(&[(1, 64 * MIB)]) };
    let effects = rig.tell(Input::StartTransfer { order: ahead });
    assert_eq!(asked(&effects), [groups(0, 4), groups(4, 4), groups(8, 4)]);
    assert_eq!(asked(&rig.fetch(groups(4, 4))), [] as [Vec<GroupSpan>; 0]);
    let (transfer_id, file_id) = (transfer(1), file_id(1));
    let taken = |groups| Input::Consumed { transfer_id, file_id, groups };
    assert_eq!(asked(&rig.tell(taken(3))), [] as [Vec<GroupSpan>; 0], "not a message a group");
    assert_eq!(asked(&rig.tell(taken(4))), [groups(12, 4)]);
}

#[test]
fn a_download_that_learns_where_others_read_continues_there_and_fetches_the_rest_afterwards() {
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    let effects = rig.tell(Input::StartTransfer { order: order(&[(1, 64 * MIB)]) });
    let first = asked(&effects);
    assert_eq!(first[0], groups(0, 1));
    let at = JoinAt { transfer_id: transfer(1), file_id: file_id(1), group: 250 };
    rig.hear(RelayToDevice::JoinAt(at), None);
    let mut asks: Vec<GroupSpan> = Vec::new();
    for piece in first {
        asks.extend(asked(&rig.fetch(piece)).concat());
    }
    let behind = first_groups(&asks);
    assert_eq!(behind[0], 250, "{behind:?}");
    let wrapped = behind.iter().position(|group| *group < 250).expect("the file's end is near");
    assert_eq!(asks[wrapped].groups.first, 10, "the rest of the beginning: {behind:?}");
    assert!(behind[..wrapped].is_sorted() && behind[wrapped..].is_sorted(), "{behind:?}");

    // A place that is not in the file, or a reader in order: nothing changes.
    let mut rig = PeerFixture::inside(vec![entry(1, 1, "a")]);
    let ahead = TransferOrder { lookahead_bytes: Some(3 * MIB), ..order(&[(1, 64 * MIB)]) };
    rig.tell(Input::StartTransfer { order: ahead });
    rig.hear(
        RelayToDevice::JoinAt(JoinAt {
            transfer_id: transfer(1),
            file_id: file_id(1),
            group: u32::MAX,
        }),
        None,
    );
    rig.hear(
        RelayToDevice::JoinAt(JoinAt { transfer_id: transfer(1), file_id: file_id(1), group: 250 }),
        None,
    );
    rig.fetch(groups(0, 4));
    let taken = Input::Consumed { transfer_id: transfer(1), file_id: file_id(1), groups: 4 };
    assert_eq!(asked(&rig.tell(taken)), [groups(12, 4)]);
}

fn first_groups(pieces: &[GroupSpan]) -> Vec<u32> {
    pieces.iter().map(|piece| piece.groups.first).collect()
}

#[test]
fn an_empty_file_is_there_at_once() {
    let mut rig = PeerFixture::inside(vec![]);
    let effects = rig.tell(Input::StartTransfer { order: order(&[(1, 0)]) });
    assert_eq!(
        effects[0],
        Effect::CloseFile { transfer_id: transfer(1), file_id: file_id(1), root: None }
    );
}
