//! Promises: nobody knows digits before the master is bound and the prompt is counted; however many
//! come, from however many addresses, the person is asked so often and no more; and nobody keeps
//! others from being asked about.

use lanyard_protocol::limits::*;
use lanyard_protocol::message::*;
use lanyard_protocol::{Instance, RelayMessage, RelayToMaster, approval};

use super::fixture::*;
use super::*;

fn fixture() -> AuthorityFixture {
    AuthorityFixture::ready(AuthorityConfig::default(), SavedState::default())
}

/// A knock of device `n` from there. Its instance is its own, its promise always the same.
fn from(n: u32, nonce: u8, address: &str) -> NewClientRegistered {
    NewClientRegistered { address: address.into(), ..knock(n, nonce) }
}

/// The outcomes of many knocks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gained {
    challenges: usize,
    openings: usize,
}

/// Knocks, reveals what it is asked for, learns its digits and leaves.
fn knock_reveal_leave(
    fixture: &mut AuthorityFixture,
    request: &NewClientRegistered,
    n: u32,
    gained: &mut Gained,
) {
    if fixture.knocks(request).is_some() {
        gained.challenges += 1;
        gained.openings += usize::from(fixture.reveals(n, request.request_id).1.is_some());
    }
    fixture.leaves(request);
}

fn prompts(fixture: &AuthorityFixture) -> usize {
    fixture.notes.iter().filter(|note| matches!(note, AuditEvent::Knocked { .. })).count()
}

/// A64: the master is bound before the device reveals, and the prompt is counted, in the record and
/// on the screens before it opens.
#[test]
fn a64_a_prompt_is_recorded_and_shown_before_it_is_opened() {
    let mut fixture = fixture();
    let request = from(2, 1, "10.0.0.1");
    let promised = fixture.knocks(&request).expect("a challenge");
    assert!(
        fixture.authority.knocks(true).knocks.is_empty(),
        "nobody is asked about who has revealed nothing"
    );
    fixture.authority.handle(
        fixture.now,
        fixture.wall_ms,
        Input::Frame(Box::new(MasterFrame::plain(RelayToMaster::Relay(
            RelayMessage::ApprovalReveal(ApprovalReveal {
                request_id: request.request_id,
                reveal: reveal(2),
            }),
        )))),
    );
    let effects: Vec<Effect> = std::iter::from_fn(|| fixture.authority.poll_effect()).collect();
    let place = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted).expect("it is there");
    let opened = place(
        |e| matches!(e, Effect::Send(f) if matches!(f.message, MasterToRelay::ApprovalOpen(_))),
    );
    assert!(place(|e| matches!(e, Effect::Note(AuditEvent::Knocked { .. }))) < opened);
    assert!(
        place(|e| matches!(e, Effect::Publish { message: MasterToConsole::Knocks(_), .. }))
            < opened
    );
    assert!(place(|e| matches!(e, Effect::Event(OperatorEvent::DevicePending { .. }))) < opened);
    let Effect::Send(MasterFrame { message: MasterToRelay::ApprovalOpen(opening), .. }) =
        &effects[opened]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(approval::master_commit(&HUB, &request.request_id, &opening.nonce), promised);
}

/// A64: 5,000 knocks of 5,000 addresses that reveal, learn their digits and leave: no more openings
/// than the bound.
#[test]
fn a64_5000_addresses_are_shown_no_more_digits_than_prompts() {
    for address in [
        |n: u32| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255),
        |n: u32| format!("fe80::{n:x}"),
    ] {
        let mut fixture = fixture();
        let mut gained = Gained::default();
        for n in 0..5_000 {
            knock_reveal_leave(&mut fixture, &from(n + 2, 1, &address(n)), n + 2, &mut gained);
        }
        // All at once: what is allowed in ten minutes, and the first turn.
        assert_eq!(gained, Gained { challenges: PROMPTS + 1, openings: PROMPTS + 1 });
        assert_eq!(prompts(&fixture), gained.openings, "each is in the record");
    }
}

/// A64: who leaves before the reveal knows nothing, and gains nothing: what was challenged is not
/// opened.
#[test]
fn a64_a_device_that_leaves_before_the_reveal_learns_nothing() {
    let mut fixture = fixture();
    for n in 0..5_000u32 {
        let request = from(n + 2, 1, &format!("fe80::{n:x}"));
        let effects =
            fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(request.clone())));
        let tells_nonce =
            |message: &&MasterToRelay| matches!(message, MasterToRelay::ApprovalOpen(_));
        assert_eq!(sent(&effects).into_iter().filter(tells_nonce).count(), 0);
        fixture.leaves(&request);
    }
    assert_eq!((prompts(&fixture), fixture.authority.knocks(true).knocks.len()), (0, 0));
    assert!(fixture.knocks(&from(9_999, 1, "fe80::ffff:1")).is_some(), "and keeps nobody out");
}

/// A65: 200 times knock, reveal, leave from one address.
#[test]
fn a65_one_address_causes_sixteen_prompts() {
    let mut fixture = fixture();
    let mut gained = Gained::default();
    for n in 0..200 {
        let spelling = ["192.168.1.5", "::ffff:192.168.1.5"][n as usize % 2];
        knock_reveal_leave(&mut fixture, &from(n + 2, 1, spelling), n + 2, &mut gained);
    }
    assert_eq!((gained.openings, prompts(&fixture)), (PROMPTS_AN_ADDRESS, PROMPTS_AN_ADDRESS));
    // The same with one key: it is asked about again without a share of its own, but not for ever.
    let mut gained = Gained::default();
    for nonce in 0..200 {
        knock_reveal_leave(&mut fixture, &from(900, nonce, "192.168.1.6"), 900, &mut gained);
    }
    assert_eq!(gained.openings, PROMPTS_AN_ADDRESS);
    fixture.pass(PROMPTS_WINDOW_MS);
    assert!(
        fixture.knocks(&from(3_000, 1, "192.168.1.5")).is_some(),
        "after ten minutes it may again"
    );
}

/// A65: a device in the attacker's own /64 is asked about although ::1 there has had its share and
/// comes on.
#[test]
fn a65_an_address_does_not_keep_its_neighbour_from_being_shown() {
    let mut fixture = fixture();
    let mut gained = Gained::default();
    for n in 0..40 {
        knock_reveal_leave(&mut fixture, &from(n + 2, 1, "2001:db8::1"), n + 2, &mut gained);
    }
    let mut waits = Vec::new();
    for n in 0..MAX_PENDING_AN_ADDRESS as u32 {
        let request = from(n + 100, 1, "2001:db8::1");
        assert_eq!(fixture.knocks(&request), None);
        waits.push(request);
    }
    let neighbour = from(1_000, 1, "2001:db8::2");
    assert!(fixture.knocks(&neighbour).is_some());
    assert!(fixture.reveals(1_000, neighbour.request_id).1.is_some());
    assert_eq!(fixture.authority.knocks(false).waiting as usize, waits.len());
}

/// A65: when the sum is used up, one is asked about every ten seconds, network by network, address
/// by address: who comes last waits for a turn and not for the crowd before it.
#[test]
fn a65_beyond_the_sum_turns_go_round() {
    let mut fixture = fixture();
    let mut gained = Gained::default();
    for n in 0..200 {
        knock_reveal_leave(
            &mut fixture,
            &from(n + 2, 1, &format!("2001:db8::{n:x}")),
            n + 2,
            &mut gained,
        );
    }
    assert_eq!(gained.openings, PROMPTS + 1);
    // Four addresses of the attacker with ten devices each, then a neighbour, then somebody
    // elsewhere.
    let mut names = std::collections::BTreeMap::new();
    for n in 0..40u32 {
        let request = from(n + 1_000, 1, &format!("2001:db8::a{}", n % 4));
        names.insert(request.request_id, "attacker");
        assert_eq!(fixture.knocks(&request), None);
    }
    for (n, address, name) in
        [(2_000, "2001:db8::b", "neighbour"), (2_001, "192.168.1.9", "elsewhere")]
    {
        let request = from(n, 1, address);
        names.insert(request.request_id, name);
        assert_eq!(fixture.knocks(&request), None);
    }
    let mut order = Vec::new();
    for _ in 0..8 {
        let effects = fixture.pass(PROMPT_TURN_MS);
        let challenged = sent(&effects).into_iter().filter_map(|message| match message {
            MasterToRelay::ApprovalChallenge(challenge) => Some(challenge.request_id),
            _ => None,
        });
        let challenged: Vec<RequestId> = challenged.collect();
        assert_eq!(challenged.len(), 1, "one every ten seconds");
        order.push(names[&challenged[0]]);
        let n = fixture
            .authority
            .waiting()
            .into_iter()
            .find(|request| request.request_id == challenged[0])
            .cloned();
        let n = n.expect("it owes its reveal");
        fixture.leaves(&n);
    }
    assert_eq!(order[0], "elsewhere", "{order:?}");
    assert!(order[..6].contains(&"neighbour"), "{order:?}");
}

/// A65: who is challenged and says nothing holds up others for ten seconds, and pays for it; nobody
/// waits for ever.
#[test]
fn a65_silent_devices_hold_nobody_up_for_long() {
    let mut fixture = fixture();
    for n in 0..60u32 {
        fixture.knocks(&from(n + 2, 1, &format!("10.0.0.{}", n % 4)));
    }
    let honest = from(500, 1, "10.0.9.9");
    let mut came = fixture.knocks(&honest).is_some();
    let mut waited = 0;
    while !came {
        let effects = fixture.pass(REVEAL_TIMEOUT_MS);
        waited += REVEAL_TIMEOUT_MS;
        came = challenge_of(&effects, honest.request_id).is_some();
        assert!(waited <= 2 * REVEAL_TIMEOUT_MS, "it waits behind those who say nothing");
    }
    assert_eq!(prompts(&fixture), 0);
}

/// A class of thirty behind one address: sixteen are asked about, and the others when the teacher
/// allows more.
#[test]
fn thirty_laptops_behind_one_address_are_let_in_when_more_is_allowed() {
    let mut fixture = fixture();
    let class: Vec<NewClientRegistered> = (0..30).map(|n| from(n + 2, 1, "192.168.1.1")).collect();
    let mut shown = 0;
    for (n, request) in class.iter().enumerate() {
        if fixture.knocks(request).is_some() {
            shown += usize::from(fixture.reveals(n as u32 + 2, request.request_id).1.is_some());
        }
    }
    assert_eq!((shown, fixture.authority.knocks(false).waiting), (16, 14));
    let mut effects = fixture.operator(OperatorCommand::AllowMore);
    let answer = effects.iter().find_map(|effect| match effect {
        Effect::Publish {
            message: MasterToConsole::Knocks(knocks),
            ask: Some(RequestToken(1)),
        } => Some(knocks.more_for_ms),
        _ => None,
    });
    assert_eq!(answer, Some(Some(ALLOW_MORE_MS)));
    for _ in 0..30 {
        let challenged: Vec<RequestId> = sent(&effects)
            .into_iter()
            .filter_map(|message| match message {
                MasterToRelay::ApprovalChallenge(challenge) => Some(challenge.request_id),
                _ => None,
            })
            .collect();
        effects = Vec::new();
        for request_id in challenged {
            let n = class
                .iter()
                .position(|request| request.request_id == request_id)
                .expect("of the class") as u32;
            let (more, code) = fixture.reveals(n + 2, request_id);
            shown += usize::from(code.is_some());
            effects.extend(more);
        }
    }
    assert_eq!((shown, fixture.authority.knocks(false).waiting), (30, 0));
    assert!(fixture.notes.contains(&AuditEvent::MoreAllowed));
    fixture.pass(ALLOW_MORE_MS);
    assert_eq!(fixture.authority.knocks(false).more_for_ms, None);
}

/// Restarts of a standing prompt, the same key again, an open door and good invitations take no
/// share of the prompts.
#[test]
fn restarts_known_keys_and_invitations_take_no_share_of_the_prompts() {
    let mut fixture = fixture();
    for n in 0..15 {
        let request = from(n + 2, 1, "192.168.1.1");
        assert!(fixture.knocks(&request).is_some());
        assert!(fixture.reveals(n + 2, request.request_id).1.is_some());
    }
    // Its page was loaded anew.
    fixture.leaves(&from(2, 1, "192.168.1.1"));
    let again = from(2, 2, "192.168.1.1");
    assert!(fixture.knocks(&again).is_some());
    assert!(fixture.reveals(2, again.request_id).1.is_some());
    // Wrong digits were typed three times.
    for _ in 0..3 {
        let public_id = device(3);
        let request_id = Some(from(3, 1, "").request_id);
        let code = fixture
            .authority
            .knocks(true)
            .knocks
            .iter()
            .find(|k| k.public_id == public_id)
            .unwrap()
            .code
            .clone();
        let wrong = if code.as_deref() == Some("000000") { "000001" } else { "000000" };
        fixture.operator(OperatorCommand::Approve {
            public_id,
            request_id,
            word: Approval::Typed(wrong.into()),
            for_ms: None,
        });
    }
    let anew = from(3, 2, "192.168.1.1");
    assert!(fixture.knocks(&anew).is_some());
    assert!(fixture.reveals(3, anew.request_id).1.is_some());
    // An open door.
    fixture.operator(OperatorCommand::SetDoor(Admission::Closed));
    fixture.operator(OperatorCommand::SetDoor(Admission::Everyone));
    for n in 100..200 {
        let instance = Instance([9; 16]);
        fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(
            NewClientRegistered { instance, ..from(n, 1, "192.168.1.1") },
        )));
        fixture.leaves(&NewClientRegistered { instance, ..from(n, 1, "192.168.1.1") });
    }
    fixture.operator(OperatorCommand::SetDoor(Admission::Ask));
    assert!(fixture.knocks(&from(300, 1, "192.168.1.1")).is_some(), "the sixteenth");
    assert!(fixture.reveals(300, from(300, 1, "").request_id).1.is_some());
    assert_eq!(fixture.knocks(&from(301, 1, "192.168.1.1")), None, "and no more");
}

/// All counts have an end, whatever is tried; nothing is forgotten before its time.
#[test]
fn counters_are_bounded_by_what_they_count() {
    let mut fixture = fixture();
    fixture.operator(OperatorCommand::AllowMore);
    let mut gained = Gained::default();
    for n in 0..5_000u32 {
        let request = from(n + 2, 1, &format!("2001:db8:{:x}::{n:x}", n % 777));
        knock_reveal_leave(&mut fixture, &request, n + 2, &mut gained);
        if n % 100 == 0 {
            fixture.pass(1_000);
        }
    }
    // 50 seconds: what is allowed at once, and a turn every ten seconds.
    assert!(gained.openings <= PROMPTS * ALLOW_MORE_FACTOR + 6, "{gained:?}");
    let in_sight = fixture.authority.knocks(false).knocks.len();
    assert!(in_sight <= PROMPTS * ALLOW_MORE_FACTOR, "{in_sight}");
}

/// Screens are told of a crowd that comes and goes, but not at each of its steps.
#[test]
fn a_crowd_that_comes_and_goes_is_not_told_each_time() {
    let mut fixture = fixture();
    let mut gained = Gained::default();
    for n in 0..20 {
        knock_reveal_leave(&mut fixture, &from(n + 2, 1, "10.0.0.1"), n + 2, &mut gained);
    }
    fixture.pass(LEFT_PROMPT_MS);
    let mut told = 0;
    for n in 0..2_000u32 {
        let request = from(n + 100, 1, "10.0.0.1");
        let mut effects =
            fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(request.clone())));
        effects.extend(fixture.leaves(&request));
        told += effects.iter().filter(|effect| matches!(effect, Effect::Publish { .. })).count();
    }
    assert!(told <= 2, "{told}");
    let effects = fixture.pass(1_000);
    assert!(effects.iter().any(|effect| matches!(
        effect,
        Effect::Publish { message: MasterToConsole::Knocks(knocks), .. } if knocks.waiting == 0
    )));
}
