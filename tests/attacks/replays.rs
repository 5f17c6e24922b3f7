//! What was recorded once is worth nothing a second time: proofs, tickets, the master's handshake, before and after a restart.

use lanyard_device::link::{Incoming, Link};
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::master_proof::MasterTranscript;
use lanyard_protocol::message::*;
use lanyard_protocol::*;

use crate::hands::*;
use crate::world::*;

/// A12. Somebody claims the key of a device that is there: without its proof 4401 and the true session goes on; with it, as the
/// same tab, the older one is closed.
#[tokio::test]
async fn a12_an_id_is_not_taken_by_claiming_it() {
    let hub = Hub::start().await;
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
        assert_eq!(first, Incoming::Closed(Some(4401)), "forgery {forgery}");
    }
    let ping = ana.say(DeviceToRelay::Ping(Empty {})).await;
    assert!(matches!(ana.answer(&ping).await, RelayToDevice::Pong(_)), "nothing happened to the true one");
    let _newer = Device::connect(&hub, 1, 1).await;
    assert_eq!(ana.closed().await, Some(4409));
}

/// Registers, and gives the very text that proved it.
async fn recorded(relay: &Bare, seed: u8) -> (Link, String) {
    let (mut link, challenge) = challenged(&relay.url).await;
    let (key, tab) = (Keypair::from_seed(&[seed; 32]), Instance([seed; 16]));
    let (register, _) = registration(&relay.url.authority(), &challenge, &key, Reveal([seed; 32]), tab);
    let text = codec::encode(&DeviceToRelay::ClientRegister(register), None);
    link.send(text.clone()).await.unwrap();
    let Incoming::Text(ack) = within(link.receive()).await.unwrap() else { panic!("no ack") };
    assert!(ack.contains("CLIENT_REGISTER_ACK"), "{ack}");
    (link, text)
}

async fn replayed(relay: &Bare, path: &str, text: &str) -> Incoming {
    let mut link = Link::open(&relay.url, path, None).await.unwrap();
    within(link.receive()).await.unwrap();
    link.send(text.to_owned()).await.unwrap();
    within(link.receive()).await.unwrap()
}

/// A13. A device's recorded proof is sent again, while it is there, when it has gone, and to the relay that was started anew.
#[tokio::test]
async fn a13_a_recorded_proof_of_a_device_is_none() {
    let relay = Bare::start().await;
    let (link, text) = recorded(&relay, 1).await;
    assert_eq!(replayed(&relay, "/ws/device", &text).await, Incoming::Closed(Some(4401)), "while it is there");
    drop(link);
    assert_eq!(replayed(&relay, "/ws/device", &text).await, Incoming::Closed(Some(4401)), "when it has gone");
    let relay = relay.restarted().await;
    assert_eq!(replayed(&relay, "/ws/device", &text).await, Incoming::Closed(Some(4401)), "after a restart");
}

/// A13. The same of the master's handshake; and the true master still registers.
#[tokio::test]
async fn a13_a_recorded_handshake_of_the_master_is_none() {
    let relay = Bare::start().await;
    let mut link = Link::open(&relay.url, "/ws/master", None).await.unwrap();
    let Incoming::Text(text) = within(link.receive()).await.unwrap() else { panic!("no challenge") };
    let frame: MasterFrame<RelayToMaster> = codec::decode_master(&text).unwrap();
    let RelayToMaster::MasterChallenge(challenge) = frame.message else { panic!("{text}") };
    let (boot_id, relay_nonce, nonce) = (challenge.boot_id, challenge.nonce, Nonce([4; 32]));
    // A term far ahead: what is refused is the proof and not the term.
    let term = 1_000;
    let transcript = MasterTranscript { boot_id, relay_nonce, master_nonce: nonce, term, channel: Channel::PLAIN };
    let mac = transcript.master_mac(&SECRET);
    let register = MasterToRelay::MasterAppRegister(MasterAppRegister { protocol: PROTOCOL_VERSION, nonce, term, mac });
    let text = codec::encode_master(&MasterFrame::plain(register));
    assert_eq!(replayed(&relay, "/ws/master", &text).await, Incoming::Closed(Some(4401)), "on another socket");
    link.send(text.clone()).await.unwrap();
    assert!(matches!(within(link.receive()).await.unwrap(), Incoming::Text(ack) if ack.contains("ACK")));
    drop(link);
    assert_eq!(replayed(&relay, "/ws/master", &text).await, Incoming::Closed(Some(4401)), "when it has gone");
    let relay = relay.restarted().await;
    assert_eq!(replayed(&relay, "/ws/master", &text).await, Incoming::Closed(Some(4401)), "after a restart");
    Master::register(&relay.url, 1, vec![], vec![]).await;
}

/// A13. Tickets and tokens of a session that ended are worth nothing to the next one of the same device.
#[tokio::test]
async fn a13_tickets_and_tokens_end_with_their_session() {
    let hub = Hub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("a.bin", 1_000).await;
    ana.request(&entry, 1, 0, 1).await;
    let upload = owner.asked().await;
    assert_eq!(owner.put(&upload.ticket, owner.body_of(&upload)).send().await.unwrap().status(), 204);
    let ready = ana.ready().await;
    let again = Device::connect(&hub, 2, 2).await;
    assert_eq!(ana.closed().await, Some(4409));
    assert_eq!(ana.get(&ready.ticket).send().await.unwrap().status(), 401, "the old token");
    assert_eq!(again.get(&ready.ticket).send().await.unwrap().status(), 403, "the old ticket");
}
