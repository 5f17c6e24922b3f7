//! Who would like to be the master: without the secret, with an echo, with a term that is over.

use lanyard_device::connection::{HubUrl, ReceivedFrame, RelayConnection};
use lanyard_protocol::master_proof::MasterTranscript;
use lanyard_protocol::message::*;
use lanyard_protocol::*;

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// What the relay says to a registration whose mac is made by `mac`.
async fn tries(url: &HubUrl, term: u64, mac: impl Fn(&MasterTranscript) -> Mac) -> ReceivedFrame {
    let mut link = RelayConnection::open(url, "/ws/master", None).await.unwrap();
    let ReceivedFrame::Text(text) = within(link.receive()).await.unwrap() else {
        panic!("no challenge")
    };
    let frame: MasterFrame<RelayToMaster> = codec::decode_master(&text).unwrap();
    let RelayToMaster::Relay(RelayMessage::MasterChallenge(challenge)) = frame.message else {
        panic!("{text}")
    };
    let nonce = Nonce([4; 32]);
    let (boot_id, relay_nonce) = (challenge.boot_id, challenge.nonce);
    let transcript = MasterTranscript {
        boot_id,
        relay_nonce,
        master_nonce: nonce,
        term,
        authority: url.authority(),
        channel: link.channel,
    };
    let register =
        MasterAppRegister { protocol: PROTOCOL_VERSION, nonce, term, mac: mac(&transcript) };
    let register = MasterToRelay::MasterAppRegister(register);
    link.send(codec::encode_master(&MasterFrame::plain(register))).await.unwrap();
    within(link.receive()).await.unwrap()
}

/// A25. An impostor without the secret, with an empty one, with one bit wrong, first in line and
/// with the highest term: 4401, half a second later. No term is used up by it, and the true master
/// registers after it.
#[tokio::test]
async fn a25_without_the_secret_nobody_is_the_master() {
    let relay = TestRelay::start().await;
    let mut near = SECRET;
    near[31] ^= 1;
    for secret in [[0; 32], [255; 32], near] {
        let first =
            tries(&relay.url, u64::from(u32::MAX), |transcript| transcript.master_mac(&secret))
                .await;
        assert_eq!(first, ReceivedFrame::Closed(Some(4401)));
    }
    let asked = std::time::Instant::now();
    assert_eq!(tries(&relay.url, 9, |_| Mac([1; 32])).await, ReceivedFrame::Closed(Some(4401)));
    let waited = asked.elapsed().as_millis() as u64;
    assert!(waited >= limits::WRONG_SECRET_DELAY_MS, "answered after {waited} ms");
    for mac in [Mac([0; 32]), Mac([255; 32])] {
        assert_eq!(tries(&relay.url, 9, |_| mac).await, ReceivedFrame::Closed(Some(4401)));
    }
    let other_term = tries(&relay.url, 10, |transcript| {
        MasterTranscript { term: 9, ..transcript.clone() }.master_mac(&SECRET)
    });
    assert_eq!(other_term.await, ReceivedFrame::Closed(Some(4401)), "a mac over another term");
    for said in [
        r#"{"opcode":"PING","data":{}}"#,
        r#"{"opcode":"MASTER_ROSTER","data":{"page":0,"last":true,"approved":[],"refused":[],"epoch":1,"revision":1}}"#,
    ] {
        let mut link = RelayConnection::open(&relay.url, "/ws/master", None).await.unwrap();
        within(link.receive()).await.unwrap();
        link.send(said.into()).await.unwrap();
        assert_eq!(
            within(link.receive()).await.unwrap(),
            ReceivedFrame::Closed(Some(4401)),
            "{said}"
        );
    }
    RawMaster::register(&relay.url, 1, vec![], vec![]).await;
}

/// A26. The relay's own proof is echoed back at it as the master's: the role is part of what is
/// proven.
#[tokio::test]
async fn a26_an_echo_is_no_proof() {
    let relay = TestRelay::start().await;
    let echoed = tries(&relay.url, 1, |transcript| transcript.relay_mac(&SECRET)).await;
    assert_eq!(echoed, ReceivedFrame::Closed(Some(4401)));
    let genuine = tries(&relay.url, 1, |transcript| transcript.master_mac(&SECRET)).await;
    assert!(matches!(genuine, ReceivedFrame::Text(_)), "the same words in the right role");
}

/// A27. A master that was superseded: it is closed, what it still says changes nothing, and it
/// comes back only with a term that is higher than any.
#[tokio::test]
async fn a27_an_old_term_is_over() {
    let relay = TestRelay::start().await;
    let mut old = RawMaster::register(&relay.url, 5, vec![], vec![]).await;
    let eve = TestDevice::connect_to(&relay.url, 1, 1).await;
    let mut new = RawMaster::register(&relay.url, 6, vec![], vec![]).await;
    let client = Client {
        public_id: eve.id,
        name: "Eve".into(),
        kind: DeviceKind::Native,
        platform: String::new(),
    };
    let approved = ClientApproved { client, epoch: 77, revision: 9, audience: Audience::All };
    let frame = MasterFrame::plain(MasterToRelay::ClientApproved(approved));
    old.try_say(codec::encode_master(&frame)).await;
    assert_eq!(old.closed().await, Some(4409));
    for term in [0, 1, 5, 6] {
        let first = tries(&relay.url, term, |transcript| transcript.master_mac(&SECRET)).await;
        assert_eq!(first, ReceivedFrame::Closed(Some(4409)), "term {term}");
    }
    new.settle().await;
    assert_eq!(
        TestDevice::connect_to(&relay.url, 1, 2).await.membership,
        Membership::Pending,
        "the old one's yes is none"
    );
}
