//! Guessing and looking: who does not belong learns nothing, and what is forbidden looks like what
//! is not there.

use std::time::Duration;

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::message::*;
use lanyard_protocol::session_key::{Authorization, SessionKey};
use lanyard_protocol::*;

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// What an unapproved device gets for everything that it may ask, by socket and by HTTP.
async fn answers_to_the_unapproved(hub: &TestHub, file: FileRef) -> Vec<String> {
    let mut eve = TestDevice::connect(hub, 66, 66).await;
    assert_eq!(eve.membership, Membership::Pending);
    let transfer_id = "00000000-0000-4000-8000-000000000001".parse().unwrap();
    let pieces = vec![GroupSpan::new(file.file_id, 0, 1)];
    let drawn = eve.new_link();
    let asks = [
        DeviceToRelay::FeedPull(FeedPull {
            feed: Default::default(),
            epoch: 0,
            since: 0,
            cursor: None,
        }),
        DeviceToRelay::RequestChunk(RequestChunk {
            transfer_id,
            public_id: file.public_id,
            pieces,
            what: BodyKind::Bytes,
            have: None,
        }),
        DeviceToRelay::AddFiles(AddFiles { files: vec![] }),
        DeviceToRelay::RemoveFile(RemoveFile { file_ids: vec![file.file_id], keep: false }),
        DeviceToRelay::UpdateName(UpdateName { name: "Ana's phone".into() }),
        DeviceToRelay::LinkRequest(LinkRequest { files: vec![file], ..link_request(&drawn) }),
        DeviceToRelay::LinksPull(LinksPull { cursor: None }),
        DeviceToRelay::LinkDrop(LinkDrop { link_hash: LinkHash([8; 32]) }),
    ];
    let mut answers = Vec::new();
    for ask in asks {
        let reference = eve.say(ask).await;
        let answer = eve.answer(&reference).await;
        assert!(
            matches!(&answer, RelayToDevice::RequestFailed(no) if no.code == FailureCode::NotApproved),
            "{answer:?}"
        );
        answers.push(format!("{answer:?}"));
    }
    let zeros = "0".repeat(32);
    let order = format!(
        r#"{{"files":[{{"public_id":"{}","file_id":"{}"}}]}}"#,
        file.public_id, file.file_id
    );
    for (method, path) in [("GET", format!("/chunks/{zeros}")), ("PUT", format!("/chunks/{zeros}"))]
    {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = eve.ask(method.clone(), &hub.http(&path)).body(order.clone());
        let answer = look(request.send().await.unwrap()).await;
        assert_eq!(answer.0, 403, "{method} {path}");
        answers.push(format!("{answer:?}"));
    }
    answers
}

/// A10. An unapproved device asks for the list, for bytes, for a link: one "no" that does not
/// depend on what there is, and no word of what happens meanwhile.
#[tokio::test]
async fn a10_the_unapproved_learn_nothing_of_what_there_is() {
    let hub = TestHub::start().await;
    let nothing = FileRef {
        public_id: "00000000-0000-8000-8000-000000000000".parse().unwrap(),
        file_id: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
    };
    hub.approved(9).await;
    let of_an_empty_hub = answers_to_the_unapproved(&hub, nothing).await;
    let mut ana = hub.approved(1).await;
    let mut eve = TestDevice::connect(&hub, 67, 67).await;
    for n in 0..20 {
        ana.offers(&format!("{n}.mp4"), 1_000).await;
    }
    let entry = ana.offers("secret.mp4", 300_000).await;
    assert_eq!(answers_to_the_unapproved(&hub, entry.file_ref()).await, of_an_empty_hub);
    let ping = eve.say(DeviceToRelay::Ping(Empty {})).await;
    loop {
        let frame = eve.next().await;
        if frame.reference.as_ref() == Some(&ping) {
            break;
        }
        let own = matches!(
            frame.message,
            RelayToDevice::ApprovalChallenge(_) | RelayToDevice::ApprovalRestart(_)
        );
        assert!(own, "{:?}", frame.message);
    }
}

/// A11. Proofs, tickets, links, ids are guessed: none is hit, each is at least 128 bits wide, and
/// of what exists and is forbidden the answer is that of what was never there, byte for byte.
#[tokio::test]
async fn a11_guesses_hit_nothing_and_forbidden_looks_like_unknown() {
    assert!(size_of::<Ticket>() >= 16 && size_of::<Link>() >= 16 && size_of::<FileId>() >= 16);
    assert!(size_of::<Mac>() >= 32 && size_of::<SessionKey>() >= 32 && size_of::<DeviceId>() >= 16);
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let mut ana = hub.approved(2).await;
    let mut eve = hub.approved(3).await;
    let entry = owner.offers("a.bin", 1_000).await;
    let made = ana.link(&[&entry]).await;
    ana.request(&entry, 1, 0, 1).await;
    let upload = owner.asked().await;
    let mut guess = blake3::Hasher::new().update(b"guesses").finalize_xof();
    for _ in 0..500 {
        let mut ticket = [0; 16];
        let mut mac = [0; 32];
        guess.fill(&mut ticket);
        guess.fill(&mut mac);
        let ticket = Ticket(ticket);
        let known = ana.signer.authorize("GET", "/");
        let guessed = Authorization { mac: Mac(mac), ..known };
        assert_eq!(eve.get(&ticket).send().await.unwrap().status(), 403);
        assert_eq!(eve.put(&ticket, "x").send().await.unwrap().status(), 403);
        let guessed = eve
            .http
            .get(eve.chunk_url(&upload.ticket))
            .header("authorization", guessed.to_string());
        assert_eq!(guessed.send().await.unwrap().status(), 401);
    }
    let unknown = Ticket([7; 16]);
    let of = async |request: reqwest::RequestBuilder| look(request.send().await.unwrap()).await;
    let body = || vec![0; 1_000];
    assert_eq!(
        of(eve.put(&upload.ticket, body())).await,
        of(eve.put(&unknown, body())).await,
        "another's ticket"
    );
    assert_eq!(of(eve.get(&upload.ticket)).await, of(eve.get(&unknown)).await);
    let mut drops = async |link_hash| {
        let reference = eve.say(DeviceToRelay::LinkDrop(LinkDrop { link_hash })).await;
        format!("{:?}", eve.answer(&reference).await)
    };
    let others = drops(LinkHash::of(&made.link)).await;
    assert!(others.contains("NotFound"), "{others}");
    assert_eq!(others, drops(LinkHash([7; 32])).await, "another's link");
    let own_id = eve.id;
    let mut orders = async |file: FileRef| {
        let request = LinkRequest { files: vec![file], ..link_request(&eve.new_link()) };
        let reference = eve.say(DeviceToRelay::LinkRequest(request)).await;
        format!("{:?}", eve.answer(&reference).await)
    };
    let strange = FileRef {
        public_id: owner.id,
        file_id: "99999999-0000-4000-8000-000000000001".parse().unwrap(),
    };
    let nobodys = FileRef { public_id: own_id, file_id: entry.file_id };
    let refused = orders(strange).await;
    assert!(refused.contains("NotFound"), "{refused}");
    assert_eq!(refused, orders(nobodys).await);
}

/// A11. An address asks for hundreds of links that do not exist, thirty at a time: each answer is
/// 404. Meanwhile the same address is served a link that exists, and afterwards one that is made
/// under a key it asked for in vain.
#[tokio::test]
async fn a11_a_flood_of_unknown_links_punishes_no_address_and_delays_no_link() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let entry = owner.offers("a.bin", 1_000).await;
    let made = owner.link(&[&entry]).await;
    let http = owner.http.clone();
    let absent = |n: u32| {
        let mut key = [7; 16];
        key[..4].copy_from_slice(&n.to_be_bytes());
        Link(key)
    };
    let status = async |link: Link| {
        let url = hub.http(&format!("/d/{}", link.to_hex()));
        within(http.head(url).send()).await.unwrap().status().as_u16()
    };
    for round in 0..10 {
        let flood = futures_util::future::join_all((0..30).map(|n| status(absent(round * 30 + n))));
        let (flooded, there) = tokio::join!(flood, status(made.link));
        assert!(flooded.iter().all(|status| *status == 404), "{flooded:?}");
        assert_eq!(there, 200);
    }
    let late = owner.new_link();
    assert_eq!(status(late.link).await, 404);
    let request = LinkRequest { files: vec![entry.file_ref()], ..link_request(&late) };
    let reference = owner.say(DeviceToRelay::LinkRequest(request)).await;
    assert!(matches!(owner.answer(&reference).await, RelayToDevice::LinkMade(_)));
    assert_eq!(status(late.link).await, 200, "its absence is forgotten");
}

/// A17. A ticket in other hands, for the other verb, with any one bit flipped, after its time: the
/// same 403, and the ticket is as good as before for whom it was made.
#[tokio::test]
async fn a17_a_ticket_serves_nobody_else_for_nothing_else() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana, eve) =
        (hub.approved(1).await, hub.approved(2).await, hub.approved(3).await);
    let tab = TestDevice::connect(&hub, 1, 99).await;
    let entry = owner.offers("a.bin", 1_000).await;
    ana.request(&entry, 1, 0, 1).await;
    let upload = owner.asked().await;
    let of = async |request: reqwest::RequestBuilder| look(request.send().await.unwrap()).await;
    let body = || vec![0; 1_000];
    let refused = of(owner.put(&Ticket([7; 16]), body())).await;
    assert_eq!(refused.0, 403);
    assert!(refused.2.contains("TICKET_REFUSED"), "{refused:?}");
    for device in [&eve, &ana, &tab] {
        assert_eq!(
            of(device.put(&upload.ticket, body())).await,
            refused,
            "another device, another tab"
        );
        assert_eq!(of(device.get(&upload.ticket)).await, refused);
    }
    assert_eq!(of(owner.get(&upload.ticket)).await, refused, "the other verb");
    for bit in 0..128 {
        let mut flipped = upload.ticket;
        flipped.0[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(of(owner.put(&flipped, body())).await, refused, "bit {bit}");
    }
    for text in [
        "",
        "0",
        &"G".repeat(32),
        &upload.ticket.to_hex().to_uppercase(),
        "%00",
        "..%2f..%2fhealthz",
    ] {
        let url = hub.http(&format!("/chunks/{text}"));
        let answer = owner.ask(reqwest::Method::PUT, &url).body(body()).send().await.unwrap();
        let as_expected = matches!(answer.status().as_u16(), 403 | 404)
            || upload.ticket.to_hex() == text.to_lowercase();
        assert!(as_expected, "{text:?}: {answer:?}");
    }
    assert_eq!(
        owner.put(&upload.ticket, owner.body_of(&upload)).send().await.unwrap().status(),
        204
    );
    let ready = ana.ready().await;
    assert_eq!(of(eve.get(&ready.ticket)).await, refused);
    assert_eq!(of(ana.put(&ready.ticket, body())).await, refused);
    assert_eq!(ana.get(&ready.ticket).send().await.unwrap().bytes().await.unwrap(), content(1_000));
    // A ticket whose time is over: the asker is told, and then it is one that never was.
    let late = owner.offers("late.bin", 1_000).await;
    ana.request(&late, 2, 0, 1).await;
    let upload = owner.asked().await;
    assert_eq!(ana.failed().await.code, FailureCode::TimedOut);
    assert_eq!(of(owner.put(&upload.ticket, body())).await, refused);
}

/// A16. One ticket, two hundred requests at once: exactly one gets the bytes, all others hear that
/// it was used. The same for uploads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a16_a_ticket_redeemed_two_hundred_times_at_once_is_given_once() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("a.bin", 100_000).await;
    ana.request(&entry, 1, 0, 1).await;
    let upload = owner.asked().await;
    let body = owner.body_of(&upload);
    let puts = (0..50).map(|_| tokio::spawn(owner.put(&upload.ticket, body.clone()).send()));
    assert_eq!(outcomes(puts.collect()).await, (1, 49), "uploads");
    let ready = ana.ready().await;
    let gets = (0..200).map(|_| tokio::spawn(ana.get(&ready.ticket).send()));
    assert_eq!(outcomes(gets.collect()).await, (1, 199), "downloads");
}

type Sent = tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>;

/// How many of them succeeded, and how many heard that the ticket was used.
async fn outcomes(requests: Vec<Sent>) -> (usize, usize) {
    let (mut won, mut used) = (0, 0);
    for request in requests {
        match request.await.unwrap() {
            Ok(answer) if answer.status().is_success() => won += 1,
            Ok(answer) if answer.status() == 409 => used += 1,
            // An upload whose head was refused may lose its answer with its connection.
            Err(error) if error.is_request() => used += 1,
            other => panic!("{other:?}"),
        }
    }
    (won, used)
}

/// A57. No difference in time between a proof whose first bytes are right and one whose last are.
/// Not measured here: what is compared is looked up by its hash or compared as one (`dashmap`,
/// `blake3::Hash`), and over sockets the noise is a thousand times what could be seen. What holds
/// instead: secrets are wide, and a wrong one is answered alike wherever it differs.
#[tokio::test]
async fn a57_a_wrong_proof_is_answered_alike_wherever_it_differs() {
    let hub = TestHub::start().await;
    let ana = hub.approved(1).await;
    let mut answers = Vec::new();
    for at in [0, 1, 15, 30, 31] {
        let target = format!("/chunks/{}", "0".repeat(32));
        let mut wrong = ana.signer.authorize("GET", &target);
        wrong.mac.0[at] ^= 1;
        let request = ana.http.get(hub.http(&target)).header("authorization", wrong.to_string());
        answers.push(look(request.timeout(Duration::from_secs(20)).send().await.unwrap()).await);
    }
    assert!(answers.iter().all(|answer| answer.0 == 401 && *answer == answers[0]), "{answers:?}");
}
