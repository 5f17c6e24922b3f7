//! Promises: what is said was saved before; nobody comes in but by the host's word; a refusal is
//! final; away is not removed; every list can be caught up with by number.

use lanyard_protocol::limits::{
    CODE_LIFETIME_MS, GRACE_MS, LEFT_PROMPT_MS, MAX_FILES_A_MESSAGE, REQUEST_TIMEOUT_MS,
    WRONG_PROOFS_A_KEY, WRONG_PROOFS_AN_ADDRESS,
};
use lanyard_protocol::message::JoinRequestList;
use lanyard_protocol::message::*;
use lanyard_protocol::{
    DeviceKind, DeviceRequest, FeedMode, InvitationSecret, LinkHash, RelayMessage, RelayToMaster,
    Reveal, approval,
};

use super::fixture::*;
use super::*;

fn approve(n: u32, word: Approval) -> OperatorCommand {
    OperatorCommand::Approve { public_id: device(n), request_id: None, word, for_ms: None }
}

/// Knocks and reveals as device `n`; returns the request and the digits.
fn knock_with_code(fixture: &mut AuthorityFixture, n: u32) -> (RequestId, String) {
    let request = knock(n, 1);
    fixture.knocks(&request).expect("a challenge");
    let (_, code) = fixture.reveals(n, request.request_id);
    (request.request_id, code.expect("an opening"))
}

fn none_waits() -> MasterToConsole {
    MasterToConsole::Knocks(JoinRequestList { knocks: vec![], waiting: 0, more_for_ms: None })
}

fn ack(n: u32, request_id: RequestId) -> RelayToMaster {
    RelayToMaster::Relay(RelayMessage::ApproveClientAck(ApproveClientAck {
        public_id: device(n),
        request_id,
    }))
}

fn plain(message: MasterToRelay) -> Effect {
    Effect::Send(MasterFrame::plain(message))
}

#[test]
fn registering_tells_the_roster_first() {
    let members = vec![member(1, Verdict::Approved), member(2, Verdict::Refused)];
    let mut fixture = AuthorityFixture::new(
        AuthorityConfig::default(),
        SavedState { revision: 4, members, ..SavedState::default() },
    );
    let roster = MasterRoster {
        page: 0,
        last: true,
        approved: vec![device(1)],
        refused: vec![device(2)],
        epoch: EPOCH,
        revision: 4,
    };
    assert_eq!(
        fixture.put(Input::RelayReady { hub_key: HUB }),
        vec![
            plain(MasterToRelay::MasterRoster(roster)),
            plain(MasterToRelay::Ping(Empty {})),
            Effect::Publish {
                message: MasterToConsole::RelayState(RelayPresence { ready: true }),
                ask: None
            },
        ]
    );
}

#[test]
fn the_right_digits_let_a_device_in_and_are_saved_first() {
    let mut fixture = AuthorityFixture::with_members(1);
    let (request_id, code) = knock_with_code(&mut fixture, 2);
    assert_eq!(fixture.authority.knocks(true).knocks[0].code, Some(code.clone()));
    assert_eq!(fixture.authority.knocks(false).knocks[0].code, None);
    let spaced = format!("{} {}", &code[..3], &code[3..]);
    let effects = fixture.operator(approve(2, Approval::Typed(spaced)));
    let approve_client =
        MasterToRelay::ApproveClient(ApproveClient { public_id: device(2), request_id });
    assert_eq!(sent(&effects), vec![&approve_client]);
    assert_eq!(fixture.authority.member(device(2)), None, "not before the relay's ack");

    let effects = fixture.relay(ack(2, request_id));
    let approved =
        ClientApproved { client: client(2), epoch: EPOCH, revision: 2, audience: Audience::All };
    let page = FeedPage {
        feed: Default::default(),
        mode: FeedMode::Snapshot,
        epoch: EPOCH,
        revision: 2,
        since: None,
        clients: vec![client(1), client(2)],
        files: vec![],
        gone: vec![],
        cursor: None,
        last: true,
    };
    let to = Some(Recipient { public_id: device(2), instance: None });
    assert_eq!(
        effects,
        vec![
            Effect::Save(StoreWrite::Revision(2)),
            Effect::Save(StoreWrite::MemberPut(Member {
                revision: 2,
                ..member(2, Verdict::Approved)
            })),
            Effect::Publish {
                message: MasterToConsole::ClientReconnected(presence_of(device(2))),
                ask: None
            },
            Effect::Publish {
                message: MasterToConsole::ClientApproved(approved.clone()),
                ask: Some(RequestToken(1))
            },
            plain(MasterToRelay::ClientApproved(approved)),
            Effect::Send(MasterFrame { to, ..MasterFrame::plain(MasterToRelay::FeedPage(page)) }),
            Effect::Publish { message: none_waits(), ask: None },
        ]
    );
    assert!(fixture.authority.is_online(device(2)));
}

use lanyard_protocol::FeedPage;

#[test]
fn three_wrong_codes_end_the_knock() {
    let mut fixture = AuthorityFixture::with_members(1);
    let (request_id, code) = knock_with_code(&mut fixture, 2);
    let wrong = if code == "000000" { "000001" } else { "000000" };
    assert_eq!(
        refusal_of(&fixture.operator(approve(2, Approval::Typed("12".into())))),
        Some(FailureCode::BadMessage)
    );
    for left in [2, 1] {
        let effects = fixture.operator(approve(2, Approval::Typed(wrong.into())));
        assert_eq!(refusal_of(&effects), Some(FailureCode::WrongCode));
        assert_eq!(fixture.authority.knocks(false).knocks[0].tries_left, left);
    }
    let effects = fixture.operator(approve(2, Approval::Typed(wrong.into())));
    let restart = MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id });
    assert_eq!(sent(&effects), vec![&restart]);
    assert_eq!(refusal_of(&effects), Some(FailureCode::WrongCode));
    assert!(fixture.authority.knocks(false).knocks.is_empty());
}

#[test]
fn an_old_code_is_asked_for_anew() {
    let mut fixture = AuthorityFixture::with_members(1);
    let (request_id, _) = knock_with_code(&mut fixture, 2);
    assert!(sent(&fixture.pass(CODE_LIFETIME_MS - 1)).is_empty());
    let restart = MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id });
    assert_eq!(sent(&fixture.pass(1)), vec![&restart]);
}

#[test]
fn a_broken_promise_ends_the_knock() {
    let mut fixture = AuthorityFixture::with_members(1);
    let request = knock(2, 1);
    fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(request.clone())));
    let said = ApprovalReveal { request_id: request.request_id, reveal: Reveal([99; 32]) };
    assert_eq!(
        fixture.relay(RelayToMaster::Relay(RelayMessage::ApprovalReveal(said))),
        vec![],
        "nothing is opened"
    );
    assert_eq!(fixture.reveals(2, request.request_id).1, None, "it is over");
    assert!(fixture.authority.knocks(true).knocks.is_empty());
    let mut forged = knock(3, 1);
    forged.client.name = "Ana".into();
    assert_eq!(
        fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(forged))),
        vec![]
    );
}

#[test]
fn an_approval_of_another_request_is_stale() {
    let mut fixture = AuthorityFixture::with_members(1);
    let (request_id, code) = knock_with_code(&mut fixture, 2);
    let command = OperatorCommand::Approve {
        public_id: device(2),
        request_id: Some(RequestId([5; 16])),
        word: Approval::Typed(code.clone()),
        for_ms: None,
    };
    assert_eq!(refusal_of(&fixture.operator(command)), Some(FailureCode::StaleRequest));
    fixture.operator(approve(2, Approval::Typed(code)));
    let no = RequestFailed {
        code: FailureCode::StaleRequest,
        message: "".into(),
        retry_after_ms: None,
        file_id: None,
    };
    let frame = MasterFrame {
        reference: Ref::new(format!("approve-{request_id}")),
        ..MasterFrame::plain(RelayToMaster::Relay(RelayMessage::RequestFailed(no)))
    };
    assert_eq!(
        refusal_of(&fixture.put(Input::Frame(Box::new(frame)))),
        Some(FailureCode::StaleRequest)
    );
    assert!(fixture.authority.knocks(false).knocks.is_empty());
}

#[test]
fn a_silent_relay_is_reported_but_its_late_word_counts() {
    let mut fixture = AuthorityFixture::with_members(1);
    let (request_id, code) = knock_with_code(&mut fixture, 2);
    fixture.operator(approve(2, Approval::Typed(code)));
    assert_eq!(refusal_of(&fixture.pass(REQUEST_TIMEOUT_MS)), Some(FailureCode::TimedOut));
    fixture.relay(ack(2, request_id));
    assert!(fixture.authority.member(device(2)).is_some());
}

#[test]
fn a_knock_ends_with_its_session_and_is_seen_to() {
    let mut fixture = AuthorityFixture::with_members(1);
    let (request_id, code) = knock_with_code(&mut fixture, 2);
    let in_sight = fixture.authority.knocks(true).knocks[0].clone();
    fixture.notes.clear();
    let effects = fixture.leaves(&knock(2, 1));
    let left = lanyard_protocol::message::JoinRequestInfo { left: true, code: None, ..in_sight };
    let knocks = JoinRequestList { knocks: vec![left], waiting: 0, more_for_ms: None };
    let seen = OperatorEvent::DeviceLeft { client: client(2), address: "192.168.1.5".into() };
    let published = Effect::Publish { message: MasterToConsole::Knocks(knocks), ask: None };
    assert_eq!(effects, vec![published, Effect::Event(seen)]);
    assert_eq!(fixture.notes, [AuditEvent::Left { public_id: device(2), request_id }]);
    // Nobody is let in who is gone.
    assert_eq!(
        refusal_of(&fixture.operator(approve(2, Approval::Typed(code)))),
        Some(FailureCode::NotFound)
    );
    assert_eq!(fixture.relay(ack(2, request_id)), vec![]);
    assert_eq!(fixture.pass(LEFT_PROMPT_MS - 1), vec![]);
    assert_eq!(fixture.pass(1), vec![Effect::Publish { message: none_waits(), ask: None }]);
    assert_eq!(fixture.authority.poll_timeout(), None);
}

#[test]
fn a_device_that_left_can_still_be_refused() {
    let mut fixture = AuthorityFixture::with_members(1);
    knock_with_code(&mut fixture, 2);
    fixture.leaves(&knock(2, 1));
    fixture.operator(OperatorCommand::Refuse { public_id: device(2) });
    assert_eq!(fixture.authority.member(device(2)).map(|m| m.verdict), Some(Verdict::Refused));
    assert!(fixture.authority.knocks(false).knocks.is_empty());
}

/// The figures are those of the relay that is there: none of one that is lost stay.
#[test]
fn the_figures_of_a_relay_go_with_it() {
    let mut fixture = AuthorityFixture::ready(AuthorityConfig::default(), SavedState::default());
    assert_eq!(fixture.authority.relay_status(), None);
    let status = RelayStatus { pending: 3, ..RelayStatus::default() };
    assert_eq!(
        fixture.relay(RelayToMaster::Relay(RelayMessage::RelayStatus(status.clone()))),
        vec![],
        "nobody is answered"
    );
    assert_eq!(fixture.authority.relay_status(), Some(&status));
    fixture.put(Input::RelayLost);
    assert_eq!(fixture.authority.relay_status(), None);
    fixture.relay(RelayToMaster::Relay(RelayMessage::RelayStatus(status)));
    assert_eq!(fixture.authority.relay_status(), None, "words of a relay that is lost");
}

#[test]
fn knocks_from_before_this_master_promise_anew_once() {
    let mut fixture = AuthorityFixture::new(AuthorityConfig::default(), SavedState::default());
    fixture.put(Input::RelayReady { hub_key: HUB });
    let old = knock(2, 1);
    let restart =
        MasterToRelay::ApprovalRestart(ApprovalRestartRequest { request_id: old.request_id });
    assert_eq!(
        sent(&fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(old)))),
        vec![&restart]
    );
    assert!(fixture.knocks(&knock(2, 2)).is_some());
    fixture.relay(RelayToMaster::Relay(RelayMessage::Pong(Empty {})));
    assert!(fixture.knocks(&knock(3, 1)).is_some());
}

#[test]
fn the_hosts_own_files_and_open_houses_need_no_prompt() {
    let config = AuthorityConfig { host: Some(device(1)), ..AuthorityConfig::default() };
    let mut fixture = AuthorityFixture::ready(config, SavedState::default());
    let mut host = knock(1, 1);
    host.client.kind = DeviceKind::Master;
    let approve = MasterToRelay::ApproveClient(ApproveClient {
        public_id: device(1),
        request_id: host.request_id,
    });
    assert_eq!(
        sent(&fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(host.clone())))),
        vec![&approve]
    );
    fixture.relay(ack(1, host.request_id));
    assert_eq!(fixture.authority.member(device(1)).map(|m| m.verdict), Some(Verdict::Approved));
    let refused = fixture.operator(OperatorCommand::Refuse { public_id: device(1) });
    assert_eq!(refusal_of(&refused), Some(FailureCode::BadMessage));

    let mut impostor = knock(2, 1);
    impostor.client.kind = DeviceKind::Master;
    assert!(fixture.knocks(&impostor).is_some());

    let config = AuthorityConfig { admission: Admission::Everyone, ..AuthorityConfig::default() };
    let mut fixture = AuthorityFixture::ready(config, SavedState::default());
    let request = knock(2, 1);
    let effects =
        fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(request.clone())));
    let approve = MasterToRelay::ApproveClient(ApproveClient {
        public_id: device(2),
        request_id: request.request_id,
    });
    assert_eq!(
        effects,
        vec![Effect::Send(MasterFrame {
            reference: Ref::new(format!("approve-{}", request.request_id)),
            ..MasterFrame::plain(approve)
        })]
    );
}

#[test]
fn a_refusal_is_on_disk_before_it_is_said_and_takes_everything_along() {
    let mut fixture = AuthorityFixture::with_members(2);
    fixture.add(session(2, 1), files(0..2));
    let link_hash = LinkHash([3; 32]);
    let wanted = vec![FileRef { public_id: device(2), file_id: file_id(0) }];
    let request = LinkRequest { files: wanted, ..link_request(link_hash) };
    fixture.device(session(2, 1), RelayToMaster::Device(DeviceRequest::LinkRequest(request)));
    let effects = fixture.operator(OperatorCommand::Refuse { public_id: device(2) });
    let no = DisApproveClient { public_id: device(2), epoch: EPOCH, revision: 3 };
    let shown = ClientDisApproved {
        public_id: device(2),
        epoch: EPOCH,
        revision: 3,
        audience: Audience::All,
    };
    let refused = Member { verdict: Verdict::Refused, revision: 3, ..member(2, Verdict::Approved) };
    assert_eq!(
        effects,
        vec![
            Effect::Save(StoreWrite::Revision(3)),
            Effect::Save(StoreWrite::MemberPut(refused)),
            Effect::Save(StoreWrite::BelongingsGone(device(2))),
            Effect::Publish {
                message: MasterToConsole::ClientDisApproved(shown),
                ask: Some(RequestToken(1))
            },
            plain(MasterToRelay::DisApproveClient(no.clone())),
            Effect::Publish {
                message: MasterToConsole::Refused(fixture.authority.refused()),
                ask: None
            },
        ]
    );
    assert_eq!(fixture.authority.file_count(), 0);
    let pages = fixture.pull(1);
    assert_eq!(pages[0].gone, vec![lanyard_protocol::Gone { public_id: device(2), file_id: None }]);
    let lookup = fixture.relay_asks(RelayToMaster::Relay(RelayMessage::LinkLookup(LinkLookup {
        link_hash,
        begins: false,
    })));
    assert_eq!(refusal_of(&lookup), Some(FailureCode::NotFound));

    // It knocks again: never a prompt.
    let effects =
        fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(knock(2, 1))));
    assert_eq!(effects, vec![plain(MasterToRelay::DisApproveClient(no))]);
    // Nor may it speak.
    assert_eq!(
        refusal_of(&fixture.add(session(2, 1), files(0..1))),
        Some(FailureCode::NotApproved)
    );
}

#[test]
fn a_pending_device_can_be_turned_away_and_forgotten() {
    let mut fixture = AuthorityFixture::with_members(1);
    knock_with_code(&mut fixture, 2);
    fixture.operator(OperatorCommand::Refuse { public_id: device(2) });
    assert!(fixture.authority.knocks(false).knocks.is_empty());
    assert_eq!(fixture.authority.refused().clients[0].public_id, device(2));
    let effects = fixture.operator(OperatorCommand::Forget { public_id: device(2) });
    assert_eq!(
        effects,
        vec![
            Effect::Save(StoreWrite::MemberGone(device(2))),
            plain(MasterToRelay::ForgetClient(ForgetClient { public_id: device(2) })),
            Effect::Answer {
                ask: RequestToken(1),
                message: MasterToConsole::ForgetClientAck(Empty {})
            },
            Effect::Publish {
                message: MasterToConsole::Refused(RefusedList { clients: vec![] }),
                ask: None
            },
        ]
    );
    assert!(fixture.knocks(&knock(2, 2)).is_some());
    assert_eq!(
        refusal_of(&fixture.operator(OperatorCommand::Forget { public_id: device(1) })),
        Some(FailureCode::NotFound)
    );
    assert_eq!(
        refusal_of(&fixture.operator(OperatorCommand::Refuse { public_id: device(9) })),
        Some(FailureCode::NotFound)
    );
}

#[test]
fn without_a_relay_a_refusal_is_kept_and_an_approval_is_not_possible() {
    let members = vec![member(1, Verdict::Approved)];
    let mut fixture = AuthorityFixture::new(
        AuthorityConfig::default(),
        SavedState { members, ..SavedState::default() },
    );
    let effects = fixture.operator(OperatorCommand::Refuse { public_id: device(1) });
    assert!(sent(&effects).is_empty() && !fixture.saves.is_empty());
    let effects = fixture.operator(approve(2, Approval::Named));
    assert_eq!(refusal_of(&effects), Some(FailureCode::ServerNotReady));
}

#[test]
fn added_files_are_saved_then_told_to_all_with_the_ref_to_one() {
    let mut fixture = AuthorityFixture::with_members(1);
    let effects = fixture.add(session(1, 1), vec![new_file(1, "a")]);
    let files = vec![entry(1, "a")];
    let added = FilesAdded {
        public_id: device(1),
        files: files.clone(),
        epoch: EPOCH,
        revision: 2,
        audience: Audience::All,
    };
    let frame = MasterFrame {
        reference: Some(Ref::number(7)),
        ref_to: Some(session(1, 1)),
        ..MasterFrame::plain(MasterToRelay::FilesAdded(added.clone()))
    };
    assert_eq!(
        effects,
        vec![
            Effect::Save(StoreWrite::Revision(2)),
            Effect::Save(StoreWrite::FilesPut { files, revision: 2 }),
            Effect::Publish { message: MasterToConsole::FilesAdded(added), ask: None },
            Effect::Send(frame),
        ]
    );
    // Again: nothing new.
    let again = fixture.add(session(1, 1), vec![new_file(1, "a")]);
    let to = Some(Recipient { public_id: device(1), instance: Some(session(1, 1).instance) });
    let ack = MasterToRelay::AddFilesAck(FeedAck { epoch: EPOCH, revision: 2 });
    assert_eq!(
        again,
        vec![Effect::Send(MasterFrame {
            reference: Some(Ref::number(7)),
            to,
            ..MasterFrame::plain(ack)
        })]
    );
    // From another tab: that one holds it from here on.
    let moved = fixture.add(session(1, 2), vec![new_file(1, "a")]);
    let [MasterToRelay::FilesAdded(moved)] = sent(&moved)[..] else { panic!("{moved:?}") };
    assert_eq!((moved.files[0].instance, moved.revision), (session(1, 2).instance, 3));
}

#[test]
fn one_bad_file_refuses_the_whole_message_and_is_named() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), vec![new_file(1, "a")]);
    let with = |n: u32, change: &dyn Fn(&mut NewFile)| {
        let mut file = new_file(n, "ok");
        change(&mut file);
        file
    };
    use lanyard_protocol::{EntryKind, NewFile};
    let cases: Vec<(NewFile, FailureCode)> = vec![
        (with(1, &|_| {}), FailureCode::IdTaken),
        (with(2, &|f| f.path = "../x".into()), FailureCode::PathRejected),
        (with(2, &|f| f.size = (1 << 40) + 1), FailureCode::TooLarge),
        (with(2, &|f| f.kind = EntryKind::Folder), FailureCode::BadMessage),
        (with(2, &|f| f.media_type = "a\nb".into()), FailureCode::BadMessage),
    ];
    for (bad, code) in cases {
        let culprit = bad.file_id;
        let effects =
            fixture.add(session(1, 1), vec![new_file(8, "good"), bad, new_file(9, "good too")]);
        let [MasterToRelay::RequestFailed(no)] = sent(&effects)[..] else { panic!("{effects:?}") };
        assert_eq!((no.code, no.file_id), (code, Some(culprit)));
        assert_eq!(fixture.head(), 2);
    }
    let twice = fixture.add(session(1, 1), vec![new_file(8, "one"), new_file(8, "two")]);
    assert_eq!(refusal_of(&twice), Some(FailureCode::IdTaken));
    let many = fixture.add(session(1, 1), files(10..10 + MAX_FILES_A_MESSAGE as u32 + 1));
    assert_eq!(refusal_of(&many), Some(FailureCode::BadMessage));
}

#[test]
fn a_hundred_thousand_files_fit_and_the_next_is_too_many() {
    let mut fixture = AuthorityFixture::with_members(1);
    for start in (0..100_000).step_by(500) {
        let effects = fixture.add(session(1, 1), files(start..start + 500));
        assert_eq!(refusal_of(&effects), None);
    }
    assert_eq!(
        refusal_of(&fixture.add(session(1, 1), files(100_000..100_001))),
        Some(FailureCode::Quota)
    );
    let pages = fixture.pull(0);
    assert_eq!(pages.iter().map(|page| page.files.len()).sum::<usize>(), 100_000);
    let mut ids: Vec<_> =
        pages.iter().flat_map(|page| page.files.iter().map(|file| file.file_id)).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100_000);
    fixture.left(session(1, 1));
    let gone = fixture.pass(GRACE_MS);
    assert_eq!(sent(&gone).len(), 1);
    assert_eq!(fixture.authority.file_count(), 0);
}

#[test]
fn away_is_withdrawn_after_the_grace_and_comes_back_with_the_same_fields() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), files(0..2));
    fixture.left(session(1, 1));
    assert!(sent(&fixture.pass(GRACE_MS - 1)).is_empty());
    fixture.came(session(1, 1));
    assert!(sent(&fixture.pass(GRACE_MS)).is_empty(), "it came back in time");
    fixture.left(session(1, 1));
    let effects = fixture.pass(GRACE_MS);
    let withdrawn = FilesWithdrawn {
        public_id: device(1),
        file_ids: None,
        instance: Some(session(1, 1).instance),
        epoch: EPOCH,
        revision: 3,
        audience: Audience::All,
    };
    assert_eq!(sent(&effects), vec![&MasterToRelay::FilesWithdrawn(withdrawn)]);
    assert!(matches!(effects[1], Effect::Save(StoreWrite::FilesWithdrawn { revision: 3, .. })));
    let pages = fixture.pull(2);
    assert_eq!(pages[0].gone.len(), 2);

    // Still granted for a day.
    let file = FileRef { public_id: device(1), file_id: file_id(0) };
    let lookup =
        || RelayToMaster::Relay(RelayMessage::FileLookup(FileLookup { files: vec![file] }));
    let granted = |effects: &[Effect]| match sent(effects)[..] {
        [MasterToRelay::FileGrant(grant)] => grant.files.len(),
        ref other => panic!("{other:?}"),
    };
    assert_eq!(granted(&fixture.relay_asks(lookup())), 1);
    let other = fixture.add(session(1, 2), vec![new_file(0, "other")]);
    assert_eq!(refusal_of(&other), Some(FailureCode::IdTaken));
    let revived = fixture.add(session(1, 2), vec![new_file(0, "folder/0.txt")]);
    assert!(matches!(sent(&revived)[..], [MasterToRelay::FilesAdded(_)]));
    let page = fixture.pull(3).remove(0);
    assert_eq!((page.files.len(), page.gone.len()), (1, 0), "what came back is not gone");
    let gone = fixture.pass(24 * 3_600_000 + 600_000);
    assert!(
        sent(&gone)
            .iter()
            .any(|m| matches!(m, MasterToRelay::FileRemoved(m) if m.file_ids == [file_id(1)]))
    );
    let other = FileRef { public_id: device(1), file_id: file_id(1) };
    let effects = fixture.relay_asks(RelayToMaster::Relay(RelayMessage::FileLookup(FileLookup {
        files: vec![other],
    })));
    assert_eq!(granted(&effects), 0);
}

#[test]
fn removing_keeps_or_ends_and_says_so_once() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), files(0..3));
    let remove = |ids: &[u32], keep| {
        RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile {
            file_ids: ids.iter().map(|n| file_id(*n)).collect(),
            keep,
        }))
    };
    let effects = fixture.device(session(1, 1), remove(&[0, 0, 9], true));
    let [MasterToRelay::FilesWithdrawn(said)] = sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(said.file_ids, Some(vec![file_id(0)]));
    assert!(matches!(
        sent(&fixture.device(session(1, 1), remove(&[0], true)))[..],
        [MasterToRelay::RemoveFileAck(_)]
    ));
    let effects = fixture.device(session(1, 1), remove(&[0, 1], false));
    let [MasterToRelay::FileRemoved(said)] = sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(said.file_ids, vec![file_id(0), file_id(1)]);
    assert!(matches!(effects[1], Effect::Save(StoreWrite::FilesGone { .. })));
    assert!(matches!(
        sent(&fixture.device(session(1, 1), remove(&[1], false)))[..],
        [MasterToRelay::RemoveFileAck(_)]
    ));
}

#[test]
fn only_the_owner_removes() {
    let mut fixture = AuthorityFixture::with_members(2);
    fixture.add(session(1, 1), files(0..1));
    let remove = RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile {
        file_ids: vec![file_id(0)],
        keep: false,
    }));
    assert!(matches!(
        sent(&fixture.device(session(2, 1), remove))[..],
        [MasterToRelay::RemoveFileAck(_)]
    ));
    assert_eq!(fixture.authority.file_count(), 1);
}

#[test]
fn roots_are_told_together_and_a_changed_file_goes() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), files(0..2));
    for n in 0..2 {
        let known =
            FileRoot { public_id: device(1), file_id: file_id(n), root: Root([n as u8; 32]) };
        assert_eq!(fixture.relay(RelayToMaster::Relay(RelayMessage::FileRoot(known))), vec![]);
    }
    let effects = fixture.pass(1_000);
    let [MasterToRelay::FilesUpdated(updated)] = sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((updated.files.len(), updated.revision), (2, 3));
    assert_eq!(fixture.pull(2)[0].files.iter().filter(|file| file.root.is_some()).count(), 2);
    let again = FileRoot { public_id: device(1), file_id: file_id(0), root: Root([0; 32]) };
    fixture.relay(RelayToMaster::Relay(RelayMessage::FileRoot(again)));
    assert!(sent(&fixture.pass(1_000)).is_empty());
    let changed = FileChanged { public_id: device(1), file_id: file_id(0) };
    let effects = fixture.relay(RelayToMaster::Relay(RelayMessage::FileChanged(changed)));
    assert!(matches!(sent(&effects)[..], [MasterToRelay::FileRemoved(_)]));
}

#[test]
fn names_change_for_all_or_not_at_all() {
    let mut fixture = AuthorityFixture::with_members(1);
    let name = |name: &str| {
        RelayToMaster::Device(DeviceRequest::UpdateName(UpdateName { name: name.into() }))
    };
    let effects = fixture.device(session(1, 1), name("Ana"));
    let [MasterToRelay::ClientUpdated(updated)] = sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((updated.client.name.as_str(), updated.revision), ("Ana", 2));
    assert!(matches!(
        sent(&fixture.device(session(1, 1), name("Ana")))[..],
        [MasterToRelay::UpdateNameAck(_)]
    ));
    assert_eq!(
        refusal_of(&fixture.device(session(1, 1), name("a\nb"))),
        Some(FailureCode::BadMessage)
    );
    let effects =
        fixture.operator(OperatorCommand::Rename { public_id: device(1), name: "Ben".into() });
    assert!(
        effects.iter().any(|e| matches!(e, Effect::Publish { ask: Some(RequestToken(1)), .. }))
    );
}

#[test]
fn every_pull_is_answered_by_number() {
    let mut fixture = AuthorityFixture::with_members(1);
    assert_eq!(fixture.pull(1)[0].mode, FeedMode::UpToDate);
    fixture.add(session(1, 1), files(0..3));
    let delta = fixture.pull(1).remove(0);
    assert_eq!((delta.mode, delta.files.len(), delta.clients.len()), (FeedMode::Delta, 3, 0));
    assert_eq!(fixture.pull(0)[0].mode, FeedMode::Snapshot, "before the oldest change still known");
    assert_eq!(fixture.pull(99)[0].mode, FeedMode::Snapshot, "ahead of the head");
    let pull = |epoch, cursor: Option<&str>| {
        RelayToMaster::Device(DeviceRequest::FeedPull(FeedPull {
            feed: Default::default(),
            epoch,
            since: 2,
            cursor: cursor.map(str::to_owned),
        }))
    };
    let other_epoch = fixture.device(session(1, 1), pull(5, None));
    assert!(
        matches!(sent(&other_epoch)[..], [MasterToRelay::FeedPage(p)] if p.mode == FeedMode::Snapshot)
    );
    assert_eq!(
        refusal_of(&fixture.device(session(1, 1), pull(EPOCH, Some("nonsense")))),
        Some(FailureCode::BadMessage)
    );
    let cursor = format!("d.5.1.2.{}", device(1));
    assert_eq!(
        refusal_of(&fixture.device(session(1, 1), pull(5, Some(&cursor)))),
        Some(FailureCode::StaleRequest)
    );
}

/// Silence would leave the asker waiting for its time-out.
#[test]
fn a_pull_of_an_unknown_feed_is_refused_by_name() {
    let mut fixture = AuthorityFixture::with_members(1);
    let mut pull = |feed: &str| {
        let feed = lanyard_protocol::FeedId::new(feed).unwrap();
        let pull = FeedPull { feed, epoch: EPOCH, since: 0, cursor: None };
        fixture.device(session(1, 1), RelayToMaster::Device(DeviceRequest::FeedPull(pull)))
    };
    assert_eq!(refusal_of(&pull("photos")), Some(FailureCode::NotFound));
    assert!(matches!(sent(&pull("catalogue"))[..], [MasterToRelay::FeedPage(_)]));
}

#[test]
fn a_file_removed_between_two_pages_of_a_snapshot_is_named_as_gone() {
    let mut fixture = AuthorityFixture::with_members(1);
    for start in (0..1_200).step_by(400) {
        fixture.add(session(1, 1), files(start..start + 400));
    }
    let pull = |cursor| {
        RelayToMaster::Device(DeviceRequest::FeedPull(FeedPull {
            feed: Default::default(),
            epoch: 0,
            since: 0,
            cursor,
        }))
    };
    let effects = fixture.device(session(1, 1), pull(None));
    let [MasterToRelay::FeedPage(first)] = sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((first.files.len() + first.clients.len(), first.last), (512, false));
    let met = first.files[0].file_id;
    let remove = RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile {
        file_ids: vec![met],
        keep: false,
    }));
    fixture.device(session(1, 1), remove);
    let mut cursor = first.cursor.clone();
    let mut gone = Vec::new();
    while let Some(next) = cursor {
        // As the wire says: with a cursor, epoch and since are those of the pull that it continues.
        let effects = fixture.device(session(1, 1), pull(Some(next)));
        let [MasterToRelay::FeedPage(page)] = sent(&effects)[..] else { panic!("{effects:?}") };
        gone.extend(page.gone.clone());
        cursor = page.cursor.clone();
    }
    assert_eq!(gone, vec![lanyard_protocol::Gone { public_id: device(1), file_id: Some(met) }]);
}

#[test]
fn a_returning_device_gets_its_first_page_unasked() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), files(0..1));
    let resume = Some(Resume { epoch: EPOCH, revision: 1 });
    let change = PresenceChange {
        public_id: device(1),
        instance: Some(session(1, 1).instance),
        resume,
        request_id: None,
    };
    let effects = fixture.relay(RelayToMaster::Relay(RelayMessage::ClientReconnected(change)));
    let [Effect::Send(frame)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(
        frame.to,
        Some(Recipient { public_id: device(1), instance: Some(session(1, 1).instance) })
    );
    assert!(
        matches!(&frame.message, MasterToRelay::FeedPage(p) if p.mode == FeedMode::Delta && p.files.len() == 1)
    );
}

/// Changes that wait for the disk are told to nobody, also not by a page of the list.
#[test]
fn while_changes_wait_for_the_disk_pages_tell_of_what_was_before_them() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), files(0..2));
    let told = fixture.head();
    fixture.add(session(1, 1), files(2..5));
    fixture.put(Input::Held { at: Some(told) });
    let held: Vec<FeedPage> =
        [0, 1, told].into_iter().flat_map(|since| fixture.pull(since)).collect();
    assert!(held.iter().all(|page| page.revision == told));
    assert_eq!(held.iter().map(|page| page.files.len()).collect::<Vec<_>>(), [2, 2, 0]);
    assert_eq!(held[2].mode, FeedMode::UpToDate);
    // A root would take the place of an entry; it waits, too.
    let root = Root([1; 32]);
    fixture.relay(RelayToMaster::Relay(RelayMessage::FileRoot(FileRoot {
        public_id: device(1),
        file_id: file_id(0),
        root,
    })));
    assert_eq!(sent(&fixture.pass(5_000)), [] as [&MasterToRelay; 0]);
    assert_eq!(fixture.pull(0)[0].files.len(), 2);

    fixture.put(Input::Held { at: None });
    let after = fixture.pull(told);
    assert_eq!((after[0].revision, after[0].files.len()), (told + 1, 3));
    let effects = fixture.pass(5_000);
    assert!(matches!(sent(&effects)[..], [MasterToRelay::FilesUpdated(_)]));
}

/// What was is known no longer where something took its place; then pages are as new as the list,
/// and wait for the disk with it.
#[test]
fn a_list_of_which_something_was_replaced_is_not_told_as_it_was() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), files(0..2));
    let told = fixture.head();
    fixture.device(
        session(1, 1),
        RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile {
            file_ids: vec![file_id(0)],
            keep: false,
        })),
    );
    fixture.put(Input::Held { at: Some(told) });
    assert_eq!(fixture.pull(0)[0].revision, told + 1);
}

#[test]
fn after_a_restart_everything_stands_and_the_graces_start_with_the_relay() {
    let mut before = AuthorityFixture::with_members(1);
    before.add(session(1, 1), files(0..2));
    let saved = SavedState {
        epoch: EPOCH,
        revision: before.head(),
        members: before.authority.members().cloned().collect(),
        files: before
            .authority
            .files()
            .map(|e| ListedFile { entry: e.clone(), revision: 2, withdrawn_ms: None })
            .collect(),
        links: vec![],
    };
    let mut fixture = AuthorityFixture::new(AuthorityConfig::default(), saved);
    assert!(fixture.pass(10 * GRACE_MS).is_empty(), "without a relay nobody is away");
    fixture.put(Input::RelayReady { hub_key: HUB });
    assert_eq!(fixture.authority.head(), Resume { epoch: EPOCH, revision: 2 });
    fixture.pass(GRACE_MS - 1);
    assert_eq!(fixture.authority.file_count(), 2);
    fixture.put(Input::RelayLost);
    fixture.pass(GRACE_MS);
    fixture.put(Input::RelayReady { hub_key: HUB });
    fixture.pass(GRACE_MS - 1);
    assert_eq!(fixture.authority.file_count(), 2, "each relay gives a fresh grace");
    fixture.pass(1);
    assert_eq!(fixture.authority.file_count(), 0);
}

#[test]
fn presence_is_told_when_the_first_session_comes_and_the_last_leaves() {
    let mut fixture = AuthorityFixture::with_members(1);
    assert!(!fixture.came(session(1, 2)).iter().any(|e| matches!(e, Effect::Publish { .. })));
    assert_eq!(fixture.left(session(1, 1)), vec![]);
    let gone = MasterToConsole::ClientDisconnected(presence_of(device(1)));
    assert_eq!(fixture.left(session(1, 2)), vec![Effect::Publish { message: gone, ask: None }]);
    assert!(!fixture.authority.is_online(device(1)));
}

#[test]
fn saves_stand_before_what_depends_on_them() {
    let mut fixture = AuthorityFixture::with_members(2);
    let mut streams = vec![
        fixture.add(session(1, 1), files(0..3)),
        fixture.device(
            session(2, 1),
            RelayToMaster::Device(DeviceRequest::LinkRequest(LinkRequest {
                files: vec![FileRef { public_id: device(1), file_id: file_id(0) }],
                ..link_request(LinkHash([3; 32]))
            })),
        ),
        fixture.device(
            session(1, 1),
            RelayToMaster::Device(DeviceRequest::UpdateName(UpdateName { name: "New".into() })),
        ),
    ];
    fixture.left(session(1, 1));
    streams.push(fixture.pass(GRACE_MS));
    streams.push(fixture.operator(OperatorCommand::Refuse { public_id: device(2) }));
    for effects in streams {
        let last_save = effects.iter().rposition(|e| matches!(e, Effect::Save(_)));
        let first_word = effects.iter().position(|e| !matches!(e, Effect::Save(_)));
        assert!(last_save < first_word, "{effects:?}");
    }
}

// ── Who comes in without being asked about, who does not although he asks, and who leaves by
// himself ────────────────────

fn invitation(effects: &[Effect]) -> Invitation {
    let made = effects.iter().find_map(|effect| match effect {
        Effect::Answer { message: MasterToConsole::Invitation(made), .. } => Some(made.clone()),
        _ => None,
    });
    made.expect("an invitation")
}

/// Knocks as device `n` with an invitation; `secret` may be another than it has.
fn brings(
    fixture: &mut AuthorityFixture,
    n: u32,
    made: &Invitation,
    secret: InvitationSecret,
) -> (RequestId, Vec<Effect>) {
    let request_id = knock(n, 1).request_id;
    let proof = approval::invitation_proof(&secret, &request_id);
    let invitation = Some(InvitationProof { id: made.id, proof });
    let request = NewClientRegistered { invitation, ..knock(n, 1) };
    (request_id, fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(request))))
}

fn is_let_in(effects: &[Effect]) -> bool {
    sent(effects).iter().any(|message| matches!(message, MasterToRelay::ApproveClient(_)))
}

#[test]
fn an_invitation_lets_one_device_in_once_also_through_a_closed_door() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.operator(OperatorCommand::SetDoor(Admission::Closed));
    let made =
        invitation(&fixture.operator(OperatorCommand::Invite { valid_ms: 60_000, for_ms: None }));
    let (request_id, effects) = brings(&mut fixture, 2, &made, made.secret);
    assert!(is_let_in(&effects), "{effects:?}");
    fixture.relay(ack(2, request_id));
    assert!(fixture.authority.member(device(2)).is_some());
    let (_, effects) = brings(&mut fixture, 3, &made, made.secret);
    assert!(!is_let_in(&effects), "it was used");
}

#[test]
fn an_invitation_outlives_wrong_proofs_and_ends_with_its_time() {
    let mut fixture = AuthorityFixture::with_members(1);
    let made =
        invitation(&fixture.operator(OperatorCommand::Invite { valid_ms: 60_000, for_ms: None }));
    for n in 2..40 {
        let (_, effects) = brings(&mut fixture, n, &made, InvitationSecret([0; 16]));
        assert!(!is_let_in(&effects));
    }
    let noted = fixture
        .notes
        .iter()
        .filter(|note| matches!(note, AuditEvent::BadInvitation { .. }))
        .count();
    assert_eq!(noted, WRONG_PROOFS_AN_ADDRESS, "of one address no more are worth a line");
    let (_, effects) = brings(&mut fixture, 50, &made, made.secret);
    assert!(is_let_in(&effects), "whoever has it comes in, whatever others guessed");

    let made =
        invitation(&fixture.operator(OperatorCommand::Invite { valid_ms: 60_000, for_ms: None }));
    fixture.wall_ms += 60_000;
    let (_, effects) = brings(&mut fixture, 60, &made, made.secret);
    assert!(!is_let_in(&effects), "its time is over");
}

/// Whoever sends too many wrong proofs is not asked about for a while: they count against the key,
/// and against the address.
#[test]
fn wrong_proofs_count_against_their_sender() {
    let mut fixture = AuthorityFixture::with_members(1);
    let made =
        invitation(&fixture.operator(OperatorCommand::Invite { valid_ms: 60_000, for_ms: None }));
    let mut tries = |nonce: u8, n: u32, address: &str| {
        let known = NewClientRegistered { address: address.into(), ..knock(n, nonce) };
        let proof = approval::invitation_proof(&InvitationSecret([0; 16]), &known.request_id);
        let request = NewClientRegistered {
            invitation: Some(InvitationProof { id: made.id, proof }),
            ..known
        };
        let is_challenged = fixture.knocks(&request).is_some();
        fixture.leaves(&request);
        is_challenged
    };
    let of_key = (0..20).filter(|nonce| tries(*nonce, 2, &format!("10.0.0.{nonce}"))).count();
    assert_eq!(of_key, WRONG_PROOFS_A_KEY);
    let of_address = (0..60).filter(|n| tries(1, 100 + n, "10.0.1.1")).count();
    assert_eq!(of_address, WRONG_PROOFS_AN_ADDRESS);
    assert!(tries(1, 200, "10.0.1.2"), "another one is listened to");
}

#[test]
fn a_proof_of_another_knock_is_none() {
    let mut fixture = AuthorityFixture::with_members(1);
    let made =
        invitation(&fixture.operator(OperatorCommand::Invite { valid_ms: 60_000, for_ms: None }));
    // Heard when device 2 showed it.
    let proof = approval::invitation_proof(&made.secret, &knock(2, 1).request_id);
    let request = NewClientRegistered {
        invitation: Some(InvitationProof { id: made.id, proof }),
        ..knock(3, 1)
    };
    assert!(!is_let_in(
        &fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(request)))
    ));
}

#[test]
fn a_refused_device_is_not_admitted_by_an_invitation() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.operator(OperatorCommand::Refuse { public_id: device(1) });
    let made =
        invitation(&fixture.operator(OperatorCommand::Invite { valid_ms: 60_000, for_ms: None }));
    let (_, effects) = brings(&mut fixture, 1, &made, made.secret);
    assert!(!is_let_in(&effects));
}

#[test]
fn a_closed_door_says_so_and_an_opened_one_asks_again() {
    let mut fixture = AuthorityFixture::with_members(1);
    let (waiting, _) = knock_with_code(&mut fixture, 2);
    let effects = fixture.operator(OperatorCommand::SetDoor(Admission::Closed));
    let closed = |request_id| MasterToRelay::ApprovalClosed(ApprovalClosed { request_id });
    assert_eq!(sent(&effects), vec![&closed(waiting)], "who waits hears it at once");
    assert!(fixture.authority.knocks(false).knocks.is_empty());
    let later = knock(3, 1).request_id;
    let effects =
        fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(knock(3, 1))));
    assert_eq!(sent(&effects), vec![&closed(later)], "nobody is asked to reveal for nothing");
    assert!(fixture.authority.knocks(false).knocks.is_empty(), "nobody is asked about");

    let effects = fixture.operator(OperatorCommand::SetDoor(Admission::Ask));
    let restarted: BTreeSet<RequestId> = sent(&effects)
        .into_iter()
        .map(|message| match message {
            MasterToRelay::ApprovalRestart(restart) => restart.request_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(restarted, BTreeSet::from([waiting, later]));
}

#[test]
fn a_door_for_everyone_lets_in_who_waits() {
    let mut fixture = AuthorityFixture::with_members(1);
    knock_with_code(&mut fixture, 2);
    assert!(is_let_in(&fixture.operator(OperatorCommand::SetDoor(Admission::Everyone))));
}

fn lets_in_for(fixture: &mut AuthorityFixture, n: u32, for_ms: u64) {
    let (request_id, code) = knock_with_code(fixture, n);
    let word = Approval::Typed(code);
    fixture.operator(OperatorCommand::Approve {
        public_id: device(n),
        request_id: None,
        word,
        for_ms: Some(for_ms),
    });
    fixture.relay(ack(n, request_id));
}

#[test]
fn a_membership_with_an_end_is_refused_when_it_is_over() {
    let mut fixture = AuthorityFixture::with_members(1);
    lets_in_for(&mut fixture, 2, 10_000);
    assert!(sent(&fixture.pass(9_999)).is_empty());
    let effects = fixture.pass(1);
    let [MasterToRelay::DisApproveClient(no)] = &sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(no.public_id, device(2));
    let saved = effects.iter().position(
        |e| matches!(e, Effect::Save(StoreWrite::MemberPut(m)) if m.verdict == Verdict::Refused),
    );
    let said = effects.iter().position(|e| matches!(e, Effect::Send(_)));
    assert!(saved < said, "on disk before it is said");
    assert_eq!(fixture.authority.member(device(1)).unwrap().verdict, Verdict::Approved);
}

#[test]
fn a_time_that_ended_while_the_master_was_away_has_ended() {
    let mut temporary = member(2, Verdict::Approved);
    temporary.until_ms = Some(NOON - 1);
    let members = vec![member(1, Verdict::Approved), temporary];
    let mut fixture = AuthorityFixture::new(
        AuthorityConfig::default(),
        SavedState { revision: 4, members, ..SavedState::default() },
    );
    let effects = fixture.put(Input::RelayReady { hub_key: HUB });
    let MasterToRelay::MasterRoster(roster) = sent(&effects)[0] else { panic!("{effects:?}") };
    assert_eq!((&roster.approved, &roster.refused), (&vec![device(1)], &vec![device(2)]));
}

#[test]
fn the_time_of_day_may_jump() {
    let mut fixture = AuthorityFixture::with_members(1);
    lets_in_for(&mut fixture, 2, 7_200_000);
    // Asleep: the machine's own clock stood still meanwhile.
    fixture.wall_ms += 7_200_000;
    let effects = fixture.pass(3_600_000);
    assert!(matches!(sent(&effects)[..], [MasterToRelay::DisApproveClient(_)]), "{effects:?}");
}

#[test]
fn a_name_like_that_of_one_who_was_turned_away_is_told() {
    let mut fixture = AuthorityFixture::with_members(1);
    let name = fixture.authority.member(device(1)).unwrap().client.name.clone();
    fixture.operator(OperatorCommand::Refuse { public_id: device(1) });
    let mut again = knock(2, 1);
    again.client.name = name.to_uppercase();
    again.request_id = approval::request_id(
        &again.public_key,
        &again.commit,
        &again.relay_nonce,
        &again.client.name,
    );
    fixture.knocks(&again);
    fixture.reveals(2, again.request_id);
    let knocks = fixture.authority.knocks(false).knocks;
    assert_eq!(
        knocks[0].like_refused.as_ref().map(|like| (&like.name, like.refused_ms)),
        Some((&name, NOON))
    );
}

/// A18: the host is told for whom of those who belong it could take who knocks.
#[test]
fn a18_a_name_like_that_of_one_who_belongs_is_told() {
    let mut fixture = AuthorityFixture::with_members(1);
    let name = fixture.authority.member(device(1)).unwrap().client.name.clone();
    let mut alike = knock(2, 1);
    alike.client.name = name.to_uppercase();
    alike.request_id = approval::request_id(
        &alike.public_key,
        &alike.commit,
        &alike.relay_nonce,
        &alike.client.name,
    );
    fixture.knocks(&alike);
    fixture.reveals(2, alike.request_id);
    assert_eq!(fixture.authority.knocks(false).knocks[0].looks_like, Some(name));
}

/// A22: what the host sees of who knocks is what the request's id was made of.
#[test]
fn a22_a_knock_under_another_name_than_its_id_has_is_dropped() {
    let mut fixture = AuthorityFixture::with_members(1);
    let (mut renamed, mut anothers) = (knock(2, 1), knock(2, 1));
    renamed.client.name = "Marta (host)".into();
    anothers.client.public_id = device(3);
    for lie in [renamed, anothers] {
        let effects =
            fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(lie.clone())));
        assert_eq!((effects, fixture.authority.knocks(false).knocks), (vec![], vec![]), "{lie:?}");
    }
    knock_with_code(&mut fixture, 2);
    assert_eq!(fixture.authority.knocks(false).knocks.len(), 1, "the true one is shown");
}

// ── The record
// ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn every_decision_is_noted_with_its_occasion() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.notes.clear();
    let (request_id, code) = knock_with_code(&mut fixture, 2);
    let wrong = if code == "000000" { "000001" } else { "000000" };
    fixture.operator(approve(2, Approval::Typed(wrong.into())));
    fixture.operator(approve(2, Approval::Typed(code)));
    fixture.relay(ack(2, request_id));
    fixture.operator(OperatorCommand::Refuse { public_id: device(2) });
    fixture.operator(OperatorCommand::Forget { public_id: device(2) });
    fixture.operator(OperatorCommand::SetDoor(Admission::Closed));
    let known = knock(2, 1).client;
    let public_id = device(2);
    assert_eq!(
        fixture.notes,
        [
            AuditEvent::Knocked {
                client: known.clone(),
                address: "192.168.1.5".into(),
                request_id
            },
            AuditEvent::WrongCode { public_id, request_id, tries_left: 2 },
            AuditEvent::Approved {
                client: known.clone(),
                request_id,
                how: AdmittedBy::ByHost,
                until_ms: None
            },
            AuditEvent::Refused { client: known, time_over: false },
            AuditEvent::Forgotten { public_id },
            AuditEvent::Door { admission: Admission::Closed },
        ]
    );
}
