//! What was recorded once is worth nothing a second time: proofs, tickets, the master's handshake,
//! before and after a restart.

use lanyard_device::connection::{ReceivedFrame, RelayConnection};
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::master_proof::MasterTranscript;
use lanyard_protocol::message::*;
use lanyard_protocol::*;

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// A12. Somebody claims the key of a device that is there: without its proof 4401 and the true
/// session goes on; with it, as the same tab, the older one is closed.
#[tokio::test]
async fn a12_an_id_is_not_taken_by_claiming_it() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    let key = ana.key.public();
    for forgery in 0..4 {
        let (_, first) = registers(&hub.url, 9, |register, transcript| {
            register.instance = Instance([1; 16]);
            register.public_key = key;
            match forgery {
                0 => {}
                1 => transcript.device_key = key,
                2 => register.signature = Signature([0; 64]),
                _ => (),
            }
            if forgery != 2 {
                register.signature = transcript.sign_as_device(&Keypair::from_seed(&[9; 32]));
            }
        })
        .await;
        assert_eq!(first, ReceivedFrame::Closed(Some(4401)), "forgery {forgery}");
    }
    let ping = ana.say(DeviceToRelay::Ping(Empty {})).await;
    assert!(
        matches!(ana.answer(&ping).await, RelayToDevice::Pong(_)),
        "nothing happened to the true one"
    );
    let _newer = TestDevice::connect(&hub, 1, 1).await;
    assert_eq!(ana.closed().await, Some(4409));
}

/// Registers, and gives the very text that proved it.
async fn recorded(relay: &TestRelay, seed: u8) -> (RelayConnection, String) {
    let (mut link, challenge) = challenged(&relay.url).await;
    let (key, tab) = (Keypair::from_seed(&[seed; 32]), Instance([seed; 16]));
    let (register, _) =
        registration(&relay.url.authority(), &challenge, &key, Reveal([seed; 32]), tab);
    let text = codec::encode(&DeviceToRelay::ClientRegister(register), None);
    link.send(text.clone()).await.unwrap();
    let ReceivedFrame::Text(ack) = within(link.receive()).await.unwrap() else { panic!("no ack") };
    assert!(ack.contains("CLIENT_REGISTER_ACK"), "{ack}");
    (link, text)
}

async fn replayed(relay: &TestRelay, path: &str, text: &str) -> ReceivedFrame {
    let mut link = RelayConnection::open(&relay.url, path, None).await.unwrap();
    within(link.receive()).await.unwrap();
    link.send(text.to_owned()).await.unwrap();
    within(link.receive()).await.unwrap()
}

/// A13. A device's recorded proof is sent again, while it is there, when it has gone, and to the
/// relay that was started anew.
#[tokio::test]
async fn a13_a_recorded_proof_of_a_device_is_none() {
    let relay = TestRelay::start().await;
    let (link, text) = recorded(&relay, 1).await;
    assert_eq!(
        replayed(&relay, "/ws/device", &text).await,
        ReceivedFrame::Closed(Some(4401)),
        "while it is there"
    );
    drop(link);
    assert_eq!(
        replayed(&relay, "/ws/device", &text).await,
        ReceivedFrame::Closed(Some(4401)),
        "when it has gone"
    );
    let relay = relay.restarted().await;
    assert_eq!(
        replayed(&relay, "/ws/device", &text).await,
        ReceivedFrame::Closed(Some(4401)),
        "after a restart"
    );
}

/// A13. The same of the master's handshake; and the true master still registers.
#[tokio::test]
async fn a13_a_recorded_handshake_of_the_master_is_none() {
    let relay = TestRelay::start().await;
    let mut link = RelayConnection::open(&relay.url, "/ws/master", None).await.unwrap();
    let ReceivedFrame::Text(text) = within(link.receive()).await.unwrap() else {
        panic!("no challenge")
    };
    let frame: MasterFrame<RelayToMaster> = codec::decode_master(&text).unwrap();
    let RelayToMaster::Relay(RelayMessage::MasterChallenge(challenge)) = frame.message else {
        panic!("{text}")
    };
    let (boot_id, relay_nonce, nonce) = (challenge.boot_id, challenge.nonce, Nonce([4; 32]));
    // A term far ahead: what is refused is the proof and not the term.
    let term = 1_000;
    let transcript = MasterTranscript {
        boot_id,
        relay_nonce,
        master_nonce: nonce,
        term,
        authority: relay.url.authority(),
        channel: Channel::PLAIN,
    };
    let mac = transcript.master_mac(&SECRET);
    let register = MasterToRelay::MasterAppRegister(MasterAppRegister {
        protocol: PROTOCOL_VERSION,
        nonce,
        term,
        mac,
    });
    let text = codec::encode_master(&MasterFrame::plain(register));
    assert_eq!(
        replayed(&relay, "/ws/master", &text).await,
        ReceivedFrame::Closed(Some(4401)),
        "on another socket"
    );
    link.send(text.clone()).await.unwrap();
    assert!(
        matches!(within(link.receive()).await.unwrap(), ReceivedFrame::Text(ack) if ack.contains("ACK"))
    );
    drop(link);
    assert_eq!(
        replayed(&relay, "/ws/master", &text).await,
        ReceivedFrame::Closed(Some(4401)),
        "when it has gone"
    );
    let relay = relay.restarted().await;
    assert_eq!(
        replayed(&relay, "/ws/master", &text).await,
        ReceivedFrame::Closed(Some(4401)),
        "after a restart"
    );
    RawMaster::register(&relay.url, 1, vec![], vec![]).await;
}

/// A13. Tickets and the key of a session that ended are worth nothing to the next one of the same
/// device.
#[tokio::test]
async fn a13_tickets_and_keys_end_with_their_session() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("a.bin", 1_000).await;
    ana.request(&entry, 1, 0, 1).await;
    let upload = owner.asked().await;
    assert_eq!(
        owner.put(&upload.ticket, owner.body_of(&upload)).send().await.unwrap().status(),
        204
    );
    let ready = ana.ready().await;
    let again = TestDevice::connect(&hub, 2, 2).await;
    assert_eq!(ana.closed().await, Some(4409));
    assert_eq!(ana.get(&ready.ticket).send().await.unwrap().status(), 401, "the old key");
    assert_eq!(again.get(&ready.ticket).send().await.unwrap().status(), 403, "the old ticket");
}

/// All that a listener may try with one request that it recorded: the same again, and the same for
/// something else.
fn tries_with(recorded: &str, tickets: &[Ticket], links: &[lanyard_protocol::Link]) -> Vec<String> {
    let (line, rest) = recorded.split_once("\r\n").unwrap();
    let [method, target, _] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let mut tries = vec![recorded.to_owned()];
    let mut targets = vec!["/chunks".to_owned(), format!("{target}?again"), format!("{target}/")];
    targets.extend(tickets.iter().map(|ticket| format!("/chunks/{}", ticket.to_hex())));
    targets.extend(links.iter().map(|link| format!("/d/{}/x", link.to_hex())));
    for other in targets {
        let methods =
            if other.starts_with("/chunks") { ["PUT", "GET"] } else { ["POST", "DELETE"] };
        tries.extend(methods.map(|method| format!("{method} {other} HTTP/1.1\r\n{rest}")));
    }
    let proof = rest.split_once("Lanyard ").unwrap().1.split_once("\r\n").unwrap().0;
    let parts: Vec<&str> = proof.split('.').collect();
    for counter in [1, 2, 3, 100, 4_000, 9_007_199_254_740_991_u64] {
        let later = format!("{}.{counter}.{}", parts[0], parts[2]);
        tries.push(format!("{method} {target} HTTP/1.1\r\n{}", rest.replace(proof, &later)));
    }
    tries
}

/// A66. Somebody on the network records all that members say and hear by plain http, and uses it:
/// the same requests again, for other things, with other counters, from the same and from another
/// address. What it heard is all it has.
#[tokio::test]
async fn a66_a_recorded_conversation_proves_nothing() {
    let hub = TestHub::start().await;
    let tap = Tap::on(hub.address).await;
    drop((hub.approved(1).await, hub.approved(2).await));
    let mut owner = TestDevice::connect_to(&tap.url, 1, 11).await;
    let mut ana = TestDevice::connect_to(&tap.url, 2, 12).await;
    let entry = owner.offers("a.bin", 1_000).await;
    ana.request(&entry, 1, 0, 1).await;
    let upload = owner.asked().await;
    assert_eq!(
        owner.put(&upload.ticket, owner.body_of(&upload)).send().await.unwrap().status(),
        204
    );
    let ready = ana.ready().await;
    assert_eq!(ana.get(&ready.ticket).send().await.unwrap().bytes().await.unwrap(), content(1_000));
    let kept = ana.link(&[&entry]).await;
    let dropped = ana.link(&[&entry]).await;
    let end = DeviceToRelay::LinkDrop(message::LinkDrop { link_hash: LinkHash::of(&dropped.link) });
    let reference = ana.say(end).await;
    assert!(matches!(ana.answer(&reference).await, RelayToDevice::LinkDropped(_)));
    // Not used yet, and heard by the listener as well.
    let second = owner.offers("b.bin", 1_000).await;
    ana.request(&second, 2, 0, 1).await;
    let open = owner.asked().await;

    let recorded = tap.proven_requests();
    let methods: Vec<&str> = ["PUT", "GET"].into();
    let verb =
        |request: &Vec<u8>| String::from_utf8_lossy(request).split(' ').next().unwrap().to_owned();
    let mut heard: Vec<String> = recorded.iter().map(verb).collect();
    heard.sort();
    assert_eq!(heard.len(), methods.len());
    assert!(methods.iter().all(|method| heard.iter().any(|verb| verb == method)), "{heard:?}");
    let mut tried = 0;
    for request in &recorded {
        let request = String::from_utf8_lossy(request).into_owned();
        for again in tries_with(&request, &[open.ticket, ready.ticket], &[kept.link, dropped.link])
        {
            for from in [[127, 0, 0, 1], [127, 0, 0, 77]] {
                let status = status_from(hub.address, from.into(), again.as_bytes()).await;
                assert!([401, 404, 405].contains(&status), "{status} for {again}");
                assert!(again != request || status == 401, "{status} for {again}");
                tried += 1;
            }
        }
    }
    assert!(tried > 60, "{tried}");
    // Nothing of it used anything up, and what is there is there.
    let by = http_client();
    assert_eq!(
        by.head(hub.http(&kept.url)).send().await.unwrap().status(),
        200,
        "a heard link reads its file"
    );
    assert_eq!(by.head(hub.http(&dropped.url)).send().await.unwrap().status(), 404);
    assert_eq!(owner.put(&open.ticket, owner.body_of(&open)).send().await.unwrap().status(), 204);

    let heard = tap.bytes();
    let says = |needle: &[u8]| heard.windows(needle.len()).any(|part| part == needle);
    assert!(says(open.ticket.to_hex().as_bytes()), "the listener hears what is said");
    for link in [&kept, &dropped] {
        assert!(
            !says(link.link.to_hex().as_bytes()),
            "nobody hears a link's key before it is used"
        );
    }
    for key in [owner.session_key.bytes(), ana.session_key.bytes()] {
        assert!(
            !says(key) && !says(Nonce(*key).to_hex().as_bytes()),
            "a session's key crossed the wire"
        );
    }
}

/// A66. The end of a session ends its key, also for requests that it proved and did not send.
#[tokio::test]
async fn a66_a_key_ends_with_its_session() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    let before = ana.get(&Ticket([0; 16]));
    let after = ana.get(&Ticket([0; 16]));
    assert_eq!(
        before.send().await.unwrap().status(),
        403,
        "the session is known, and the ticket is not"
    );
    let _again = TestDevice::connect(&hub, 1, 1).await;
    assert_eq!(ana.closed().await, Some(4409));
    assert_eq!(after.send().await.unwrap().status(), 401);
}
