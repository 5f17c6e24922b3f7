//! Nobody gets in who was not let in; a refusal is final; a master that comes back changes nothing.

use lanyard_hub::authority::OperatorCommand;
use lanyard_protocol::message::*;
use lanyard_protocol::*;

use lanyard_tests::harness::*;

#[tokio::test]
async fn a_device_knocks_shows_the_hosts_digits_and_is_let_in_with_the_first_page() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    let page = ana.until(|m| matches!(m, RelayToDevice::FeedPage(_))).await;
    let RelayToDevice::FeedPage(page) = page else { unreachable!() };
    assert!(page.clients.iter().any(|client| client.public_id == ana.id));
    let mut ben = hub.approved(2).await;
    let entry = ben.offers("film.mkv", 10).await;
    let told = ana.until(|m| matches!(m, RelayToDevice::FilesAdded(_))).await;
    assert!(matches!(told, RelayToDevice::FilesAdded(added) if added.files == [entry]));
}

#[tokio::test]
async fn a_refusal_closes_the_device_and_outlives_the_master() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    hub.operator(OperatorCommand::Refuse { public_id: ana.id }).await;
    ana.until(|m| matches!(m, RelayToDevice::ClientDisApproved(_))).await;
    assert_eq!(ana.closed().await, Some(4403));
    let status = ana.get(&Ticket([0; 16])).send().await.unwrap().status();
    assert_eq!(status, 401, "its key died with its session");
    hub.restart_master().await;
    let mut again = TestDevice::connect(&hub, 1, 9).await;
    while again.membership == Membership::Unknown {
        again = TestDevice::connect(&hub, 1, 9).await;
    }
    assert_eq!(again.membership, Membership::Disapproved);
    assert_eq!(again.closed().await, Some(4403));
}

#[tokio::test]
async fn a_master_that_comes_back_needs_no_new_approval() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    hub.restart_master().await;
    ana.until(|m| matches!(m, RelayToDevice::ServerNotReady(_))).await;
    ana.until(|m| matches!(m, RelayToDevice::HubReady(_))).await;
    let ben = TestDevice::connect(&hub, 1, 2).await;
    assert_eq!(ben.membership, Membership::Approved);
}

#[tokio::test]
async fn a_newer_session_of_an_instance_closes_the_older_and_another_instance_does_not() {
    let hub = TestHub::start().await;
    let mut first = hub.approved(1).await;
    let tab = TestDevice::connect(&hub, 1, 2).await;
    assert_eq!(tab.membership, Membership::Approved);
    let _same = TestDevice::connect(&hub, 1, 1).await;
    assert_eq!(first.closed().await, Some(4409));
}

#[tokio::test]
async fn a_master_without_the_secret_or_with_an_old_term_is_refused() {
    use lanyard_device::connection::{ReceivedFrame, RelayConnection};
    use lanyard_protocol::master_proof::MasterTranscript;
    let hub = TestHub::start().await;
    let _ready = hub.approved(1).await;
    for (secret, term, expected) in [([9u8; 32], 1_000, 4401), (SECRET, 1, 4409)] {
        let mut link = RelayConnection::open(&hub.url, "/ws/master", None).await.unwrap();
        let ReceivedFrame::Text(text) = link.receive().await.unwrap() else {
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
            authority: hub.url.authority(),
            channel: link.channel,
        };
        let mac = transcript.master_mac(&secret);
        let register = MasterToRelay::MasterAppRegister(MasterAppRegister {
            protocol: PROTOCOL_VERSION,
            nonce,
            term,
            mac,
        });
        link.send(codec::encode_master(&MasterFrame::plain(register))).await.unwrap();
        assert_eq!(link.receive().await.unwrap(), ReceivedFrame::Closed(Some(expected)));
    }
}
