//! At the door: approvals that are meant for somebody else, floods of knocks, registrations that
//! say more than they may.

use std::net::Ipv4Addr;

use lanyard_device::connection::{HubUrl, ReceivedFrame, RelayConnection};
use lanyard_device::{
    Device as NativeDevice, DeviceConfig, DeviceEvent, EndReason, MembershipPhase, RevealBook,
};
use lanyard_hub::authority::{Approval, OperatorCommand};
use lanyard_protocol::limits::{MAX_PENDING, MAX_PENDING_AN_ADDRESS};
use lanyard_protocol::message::*;
use lanyard_protocol::*;

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// A18, A19. A name that would move a cursor, ring a bell or start a new line on the host's screen
/// never comes in; what deceives without control characters is shown as it is
/// (`master-app/src/output/text.rs`).
#[tokio::test]
async fn a19_names_with_control_characters_do_not_come_in() {
    let hub = TestHub::start().await;
    let long = "x".repeat(256);
    for name in [
        "",
        "\u{1b}[2J",
        "\u{1b}]8;;http://evil.example\u{7}",
        "\u{1b}P\u{1b}\\",
        "\u{9b}31m",
        "a\u{7}",
        "a\rb",
        "a\u{8}b",
        "a\u{7f}",
        "a\nApproved",
        "a\0b",
        "\u{85}",
        &long,
    ] {
        let (_, first) = registers(&hub.url, 5, |register, _| register.name = name.into()).await;
        assert_eq!(first, ReceivedFrame::Closed(Some(4400)), "{name:?}");
        let (_, first) = registers(&hub.url, 5, |register, _| {
            register.platform = if name.is_empty() { "\n".into() } else { name.into() };
        })
        .await;
        assert_eq!(first, ReceivedFrame::Closed(Some(4400)), "{name:?} as a platform");
    }
    let mut ana = hub.approved(1).await;
    let reference =
        ana.say(DeviceToRelay::UpdateName(UpdateName { name: "a\u{1b}[2Jb".into() })).await;
    assert!(matches!(ana.answer(&reference).await, RelayToDevice::RequestFailed(_)));
}

/// Knocks with this name.
async fn knock(url: &HubUrl, seed: u8, name: &str) -> RelayConnection {
    let (link, first) = registers(url, seed, |register, _| register.name = name.into()).await;
    assert!(matches!(first, ReceivedFrame::Text(_)), "{first:?}");
    link
}

async fn assert_stale(master: &mut RawMaster, public_id: DeviceId, request_id: RequestId) {
    let reference =
        master.say(MasterToRelay::ApproveClient(ApproveClient { public_id, request_id })).await;
    let answer = master.answer(&reference).await;
    assert!(
        matches!(&answer, RelayToMaster::Relay(RelayMessage::RequestFailed(no)) if no.code == FailureCode::StaleRequest),
        "{public_id} {request_id:?}: {answer:?}"
    );
}

/// A21. A device asks and leaves, another comes in its place with the same name from the same
/// address, and the host approves what is still on its screen: that request is stale, and nobody is
/// approved by it.
#[tokio::test]
async fn a21_an_approval_names_the_request_it_is_for() {
    let relay = TestRelay::start().await;
    let mut master = RawMaster::register(&relay.url, 1, vec![], vec![]).await;
    let ana = knock(&relay.url, 1, "Ana's phone").await;
    let of_ana = master.knock().await;
    drop(ana);
    while !matches!(
        master.next().await.unwrap().message,
        RelayToMaster::Relay(RelayMessage::ClientDisconnected(_))
    ) {}
    let mut eve = knock(&relay.url, 2, "Ana's phone").await;
    let of_eve = master.knock().await;
    let (ana_id, eve_id) = (of_ana.client.public_id, of_eve.client.public_id);
    assert_stale(&mut master, ana_id, of_ana.request_id).await;
    assert_stale(&mut master, eve_id, of_ana.request_id).await;
    assert_stale(&mut master, ana_id, of_eve.request_id).await;
    let text = codec::encode(
        &DeviceToRelay::FeedPull(FeedPull {
            feed: Default::default(),
            epoch: 0,
            since: 0,
            cursor: None,
        }),
        None,
    );
    eve.send(text).await.unwrap();
    let ReceivedFrame::Text(answer) = within(eve.receive()).await.unwrap() else {
        panic!("closed")
    };
    assert!(answer.contains("NOT_APPROVED"), "{answer}");
    // Hers alone is good.
    let approve = ApproveClient { public_id: eve_id, request_id: of_eve.request_id };
    let reference = master.say(MasterToRelay::ApproveClient(approve)).await;
    assert!(matches!(
        master.answer(&reference).await,
        RelayToMaster::Relay(RelayMessage::ApproveClientAck(_))
    ));
}

/// A21. The same where the person's click arrives: the master refuses the old request, too.
#[tokio::test]
async fn a21_the_host_cannot_approve_what_is_no_longer_there() {
    let hub = TestHub::start().await;
    let mut ana = TestDevice::connect(&hub, 1, 1).await;
    ana.knock_through().await;
    let code = hub.code_of(ana.id).await;
    let (eve_id, request_id) = {
        let mut eve = TestDevice::connect(&hub, 2, 2).await;
        eve.knock_through().await;
        hub.code_of(eve.id).await;
        (eve.id, RequestId([7; 16]))
    };
    for (public_id, request_id) in
        [(ana.id, Some(request_id)), (eve_id, Some(request_id)), (eve_id, None)]
    {
        let word = Approval::Typed(code.clone());
        hub.operator(OperatorCommand::Approve { public_id, request_id, word, for_ms: None }).await;
    }
    // Commands are done in order: the code is asked for after them.
    hub.code_of(ana.id).await;
    let reference = ana
        .say(DeviceToRelay::FeedPull(FeedPull {
            feed: Default::default(),
            epoch: 0,
            since: 0,
            cursor: None,
        }))
        .await;
    let answer = ana.answer(&reference).await;
    assert!(
        matches!(&answer, RelayToDevice::RequestFailed(no) if no.code == FailureCode::NotApproved),
        "{answer:?}"
    );
    assert_eq!(TestDevice::connect(&hub, 2, 3).await.membership, Membership::Pending);
}

/// A22. A device changes its name, or what it promised, between prompt and click: that is another
/// request, and the old one is stale. Within a request nothing changes.
#[tokio::test]
async fn a22_another_name_is_another_request() {
    let relay = TestRelay::start().await;
    let mut master = RawMaster::register(&relay.url, 1, vec![], vec![]).await;
    let mut link = knock(&relay.url, 1, "Ana's phone").await;
    let before = master.knock().await;
    let rename = DeviceToRelay::UpdateName(UpdateName { name: "Marta (host)".into() });
    link.send(codec::encode(&rename, None)).await.unwrap();
    let ReceivedFrame::Text(answer) = within(link.receive()).await.unwrap() else {
        panic!("closed")
    };
    assert!(answer.contains("NOT_APPROVED"), "{answer}");
    let _renamed = knock(&relay.url, 1, "Marta (host)").await;
    assert_eq!(close_code(&mut link).await, Some(4409));
    let after = master.knock().await;
    assert_eq!(
        (before.client.public_id, after.client.name.as_str()),
        (after.client.public_id, "Marta (host)")
    );
    assert_ne!(before.request_id, after.request_id);
    let under =
        |name| approval::request_id(&before.public_key, &before.commit, &before.relay_nonce, name);
    assert_eq!(under("Ana's phone"), before.request_id);
    assert_ne!(under("Marta (host)"), before.request_id, "the name alone makes another request");
    assert_stale(&mut master, before.client.public_id, before.request_id).await;
}

/// Registers as many devices as are asked for; how many were let in to wait, and the others' close
/// codes.
async fn flood(
    url: &HubUrl,
    seeds: std::ops::Range<u8>,
) -> (Vec<RelayConnection>, Vec<Option<u16>>) {
    let (mut waiting, mut refused) = (Vec::new(), Vec::new());
    for seed in seeds {
        let (link, first) = registers(url, seed, |_, _| {}).await;
        match first {
            ReceivedFrame::Text(_) => waiting.push(link),
            ReceivedFrame::Closed(code) => refused.push(code),
        }
    }
    (waiting, refused)
}

/// Whether a device waits still, or was closed with 4429 meanwhile.
async fn still_waits(link: &mut RelayConnection) -> bool {
    link.send(codec::encode(&DeviceToRelay::Ping(Empty {}), None)).await.unwrap_or_default();
    loop {
        match within(link.receive()).await {
            Ok(ReceivedFrame::Text(text)) if text.contains("PONG") => return true,
            Ok(ReceivedFrame::Text(_)) => {}
            Ok(ReceivedFrame::Closed(code)) => {
                assert_eq!(code, Some(4429));
                return false;
            }
            Err(_) => return false,
        }
    }
}

/// A23. A flood of knocks from one address, and from many: 16 and 64 wait, all others are turned
/// away with 4429, and who belongs comes and goes as before. Whoever comes from where few wait gets
/// a place, in place of one of a crowd.
#[tokio::test]
async fn a23_a_flood_of_knocks_has_an_end_and_disturbs_nobody() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(200).await;
    let (mut waiting, refused) = flood(&hub.url, 1..31).await;
    assert_eq!(
        (waiting.len(), refused),
        (MAX_PENDING_AN_ADDRESS, vec![Some(4429); 30 - MAX_PENDING_AN_ADDRESS])
    );
    for other in 2..7u8 {
        let url = from_address(hub.address, Ipv4Addr::new(127, 0, 0, other)).await;
        let (more, refused) = flood(&url, other * 20..other * 20 + 18).await;
        waiting.extend(more);
        assert!(
            refused.len() >= 2 && refused.iter().all(|code| *code == Some(4429)),
            "{refused:?}"
        );
    }
    let elsewhere = from_address(hub.address, Ipv4Addr::new(127, 0, 0, 9)).await;
    let (late, refused) = flood(&elsewhere, 220..221).await;
    assert_eq!((late.len(), refused), (1, vec![]), "another address is heard");
    let mut pending = late.len();
    for mut link in waiting {
        pending += usize::from(still_waits(&mut link).await);
    }
    assert_eq!(pending, MAX_PENDING);
    let ping = ana.say(DeviceToRelay::Ping(Empty {})).await;
    assert!(matches!(ana.answer(&ping).await, RelayToDevice::Pong(_)));
    ana.offers("still.bin", 10).await;
    assert_eq!(TestDevice::connect(&hub, 200, 7).await.membership, Membership::Approved);
}

/// A23. The same flood while no master is there to say who belongs: when it comes, no more are left
/// waiting than may.
#[tokio::test]
async fn a23_a_flood_before_the_master_is_there_has_the_same_end() {
    let relay = TestRelay::start().await;
    let (waiting, _) = flood(&relay.url, 1..60).await;
    let mut master = RawMaster::register(&relay.url, 1, vec![], vec![]).await;
    let mut pending = 0;
    for mut link in waiting {
        pending += usize::from(still_waits(&mut link).await);
    }
    assert_eq!(pending, MAX_PENDING_AN_ADDRESS);
    master.settle().await;
}

/// A24. A registration with a field too many, at any depth; messages of the hub's, said by a
/// device: 4400, and nobody is in.
#[tokio::test]
async fn a24_security_messages_say_exactly_what_they_must() {
    let hub = TestHub::start().await;
    let lies = [
        r#""approved":true"#,
        r#""membership":"approved""#,
        r#""public_id":"00000000-0000-8000-8000-000000000000""#,
        r#""session_id":null"#,
        r#""resume":{"epoch":0,"revision":0,"approved":true}"#,
    ];
    for lie in lies {
        let (mut link, challenge) = challenged(&hub.url).await;
        let key = identity::Keypair::from_seed(&[1; 32]);
        let (register, _) = registration(
            &hub.url.authority(),
            &challenge,
            &key,
            Reveal([1; 32]),
            Instance([1; 16]),
        );
        let text = codec::encode(&DeviceToRelay::ClientRegister(register), None);
        let lying = text.replacen(r#""data":{"#, &format!(r#""data":{{{lie},"#), 1);
        assert_ne!(text, lying);
        link.send(lying).await.unwrap();
        assert_eq!(
            within(link.receive()).await.unwrap(),
            ReceivedFrame::Closed(Some(4400)),
            "{lie}"
        );
    }
    let zeros = "0".repeat(32);
    for said in [
        r#"{"opcode":"CLIENT_APPROVED","data":{}}"#.to_owned(),
        r#"{"opcode":"APPROVE_CLIENT","data":{"public_id":"00000000-0000-8000-8000-000000000000"}}"#.into(),
        r#"{"opcode":"CLIENT_REGISTER_ACK","data":{"membership":"approved"}}"#.into(),
        r#"{"opcode":"MASTER_APP_REGISTER","data":{}}"#.into(),
        r#"{"opcode":"APPROVAL_COMMIT","data":{"commit":"00","approved":true}}"#.into(),
        format!(r#"{{"opcode":"APPROVAL_REVEAL","data":{{"request_id":"{zeros}","reveal":"{zeros}{zeros}","ok":1}}}}"#),
        r#"{"opcode":"CLIENT_REGISTER","data":{}}"#.into(),
    ] {
        let mut eve = TestDevice::connect(&hub, 6, 6).await;
        eve.say_text(said.clone()).await;
        assert_eq!(eve.closed().await, Some(4400), "{said}");
    }
    assert_eq!(TestDevice::connect(&hub, 6, 6).await.membership, Membership::Pending);
    assert_eq!(TestDevice::connect(&hub, 1, 1).await.membership, Membership::Pending);
}

/// A63. A hub that breaks off once it knows the digits is given three reveals by a device, however
/// often the device's process begins anew; then a person is asked, and only that person gives it
/// more.
#[tokio::test]
async fn a63_a_new_process_gives_a_false_hub_no_more_reveals() {
    let relay = TestRelay::start().await;
    let mut master = RawMaster::register(&relay.url, 1, vec![], vec![]).await;
    let dir = tempfile::tempdir().unwrap();
    let book = RevealBook::in_folder(dir.path());
    let mut total = 0;
    for person_asks in [false, true] {
        if person_asks {
            book.begin_anew().unwrap();
        }
        let mut reveals = 0;
        for process in 0..6 {
            let is_revealed =
                a_false_hub_is_shown_a_reveal(&relay.url, &mut master, book.clone()).await;
            assert_eq!(is_revealed, process < 3, "process {process}");
            reveals += u32::from(is_revealed);
        }
        total += reveals;
    }
    assert_eq!(total, 6);
}

/// One life of a native device at a hub that is not what it says: whether it revealed.
async fn a_false_hub_is_shown_a_reveal(
    url: &HubUrl,
    master: &mut RawMaster,
    reveals: RevealBook,
) -> bool {
    let config = DeviceConfig {
        hub: url.clone(),
        keypair: identity::Keypair::from_seed(&[63; 32]),
        name: "laptop".into(),
        kind: DeviceKind::Native,
        host_secret: None,
        platform: "test".into(),
        instance: lanyard_device::new_instance().unwrap(),
        pinned_hub: None,
        invitation: None,
        reveals,
        limits: Default::default(),
        content_dir: None,
    };
    let (device, mut events) = NativeDevice::start(config).unwrap();
    let is_revealed = loop {
        tokio::select! {
            frame = master.next() => match frame.unwrap().message {
                RelayToMaster::Relay(RelayMessage::NewClientRegistered(knocked)) => {
                    let request_id = knocked.request_id;
                    let commit = Commit([1; 32]);
                    let challenge = ApprovalChallenge { request_id, commit };
                    master.say(MasterToRelay::ApprovalChallenge(challenge)).await;
                }
                RelayToMaster::Relay(RelayMessage::ApprovalReveal(_)) => break true,
                _ => {}
            },
            event = events.recv() => {
                let ended = DeviceEvent::Phase(MembershipPhase::Ended { reason: EndReason::NotOpened });
                if event.expect("it says why it ends") == ended {
                    break false;
                }
            }
        }
    };
    // Its process ends here, as if it were killed.
    drop(device);
    while events.recv().await.is_some() {}
    is_revealed
}

/// A24. Messages in another order than the door's: a reveal before its challenge, a second promise
/// unasked, a second registration. Nothing of it lets anybody in.
#[tokio::test]
async fn a24_the_doors_messages_in_another_order_open_nothing() {
    let relay = TestRelay::start().await;
    let mut master = RawMaster::register(&relay.url, 1, vec![], vec![]).await;
    let mut link = knock(&relay.url, 1, "Eve").await;
    let knocked = master.knock().await;
    let reveal = |request_id, byte| {
        let reveal = ApprovalReveal { request_id, reveal: Reveal([byte; 32]) };
        codec::encode(&DeviceToRelay::ApprovalReveal(reveal), None)
    };
    link.send(reveal(RequestId([9; 16]), 1)).await.unwrap();
    let commit = approval::commit(&knocked.public_key, &Reveal([8; 32]));
    let unasked = codec::encode(
        &DeviceToRelay::ApprovalCommit(ApprovalCommit { commit, invitation: None }),
        None,
    );
    link.send(unasked).await.unwrap();
    link.send(codec::encode(&DeviceToRelay::Ping(Empty {}), None)).await.unwrap();
    while !matches!(within(link.receive()).await.unwrap(), ReceivedFrame::Text(text) if text.contains("PONG"))
    {
    }
    master.settle().await;
    let approve =
        ApproveClient { public_id: knocked.client.public_id, request_id: knocked.request_id };
    let reference = master.say(MasterToRelay::ApproveClient(approve)).await;
    let answer = master.answer(&reference).await;
    assert!(
        matches!(answer, RelayToMaster::Relay(RelayMessage::ApproveClientAck(_))),
        "the knock is still the one it was: {answer:?}"
    );
    link.send(reveal(knocked.request_id, 77)).await.unwrap();
    assert_eq!(close_code(&mut link).await, Some(4401), "a reveal that breaks its promise");
}
