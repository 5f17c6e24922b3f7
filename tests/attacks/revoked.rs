//! Turned away is turned away: at once, in everything that runs, by whatever door it comes again.

use std::time::Instant;

use futures_util::StreamExt;
use lanyard_device::connection::ReceivedFrame;
use lanyard_hub::authority::OperatorCommand;
use lanyard_protocol::message::*;
use lanyard_protocol::*;

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// A14. A device that was refused comes again: with the same key, as another tab, by another name,
/// to a master and to a relay that were started anew. 4403, always, and no token.
#[tokio::test]
async fn a14_a_refused_key_stays_out_after_every_restart() {
    let hub = TestHub::start().await;
    let mut eve = hub.approved(1).await;
    hub.operator(OperatorCommand::Refuse { public_id: eve.id }).await;
    assert_eq!(eve.closed().await, Some(4403));
    for (tab, name) in [(1, "device"), (2, "device"), (3, "Ana's phone")] {
        assert_turned_away(&hub.url, tab, name).await;
    }
    let mut ana = hub.approved(2).await;
    hub.restart_master().await;
    ana.until(|m| matches!(m, RelayToDevice::HubReady(_))).await;
    assert_turned_away(&hub.url, 4, "device").await;

    let relay = TestRelay::start().await.restarted().await;
    let mut master = RawMaster::register(&relay.url, 1, vec![ana.id], vec![eve.id]).await;
    assert_turned_away(&relay.url, 5, "device").await;
    assert_eq!(TestDevice::connect_to(&relay.url, 2, 2).await.membership, Membership::Approved);
    // Another key is another device: it may ask, and is asked about.
    let _other = TestDevice::connect_to(&relay.url, 3, 3).await;
    master.knock().await;
}

async fn assert_turned_away(url: &lanyard_device::connection::HubUrl, tab: u8, name: &str) {
    let (mut link, first) = registers(url, 1, |register, _| {
        register.instance = Instance([tab; 16]);
        register.name = name.into();
    })
    .await;
    let ReceivedFrame::Text(text) = first else { panic!("{first:?}") };
    let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
    let RelayToDevice::ClientRegisterAck(ack) = frame.message else { panic!("{text}") };
    assert_eq!((ack.membership, ack.session_id), (Membership::Disapproved, None));
    assert_eq!(close_code(&mut link).await, Some(4403));
}

/// A15. An asker is turned away in mid-transfer: its socket, its running body, its queued ticket
/// and its links end, and its key with them. How long that took is printed.
#[tokio::test]
async fn a15_everything_of_an_asker_that_is_turned_away_ends() {
    let hub = TestHub::start().await;
    let (mut owner, mut eve, mut tab) =
        (hub.approved(1).await, hub.approved(2).await, TestDevice::connect(&hub, 2, 9).await);
    let entry = owner.offers("film.mkv", 3 * 262_144).await;
    let made = eve.link(&[&entry]).await;
    eve.request(&entry, 1, 0, 1).await;
    let first = owner.asked().await;
    let body = owner.body_of(&first);
    let (feed, _put) = UploadFeed::begin(&owner, &first);
    feed.push(&body[..1_000]).await;
    let ready = eve.ready().await;
    let mut reading = eve.get(&ready.ticket).send().await.unwrap().bytes_stream();
    assert!(reading.next().await.unwrap().is_ok());
    tab.request(&entry, 2, 0, 1).await;
    let queued = tab.ready().await;
    let download = eve.http.get(hub.http(&made.url)).send();
    let mut download = within(download).await.unwrap().bytes_stream();

    let start = Instant::now();
    hub.operator(OperatorCommand::Refuse { public_id: eve.id }).await;
    assert_eq!((eve.closed().await, tab.closed().await), (Some(4403), Some(4403)));
    assert!(
        within(reading.next()).await.is_none_or(|part| part.is_err()),
        "the running body is cut"
    );
    assert!(
        within(download.next()).await.is_none_or(|part| part.is_err()),
        "so is what was read by its link"
    );
    println!("all ended {:?} after the refusal", start.elapsed());
    assert_eq!(tab.get(&queued.ticket).send().await.unwrap().status(), 401, "the queued ticket");
    let link = eve.http.get(hub.http(&made.url)).send().await.unwrap().status().as_u16();
    assert!(matches!(link, 404 | 410), "the link: {link}");
    owner
        .until(|m| matches!(m, RelayToDevice::UploadCancelled(no) if no.ticket == first.ticket))
        .await;
    assert_eq!(owner.get(&ready.ticket).send().await.unwrap().status(), 403);
}

/// A15. An owner is turned away in mid-transfer: its upload dies, whoever reads is cut and never
/// has the whole, the files are gone from the list and from links, and who asks again hears why.
#[tokio::test]
async fn a15_everything_of_an_owner_that_is_turned_away_ends() {
    let hub = TestHub::start().await;
    let (mut eve, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = eve.offers("film.mkv", 2 * 262_144).await;
    let made = ana.link(&[&entry]).await;
    ana.request(&entry, 1, 0, 2).await;
    let upload = eve.asked().await;
    let body = eve.body_of(&upload);
    let (feed, put) = UploadFeed::begin(&eve, &upload);
    feed.push(&body[..300_000]).await;
    let ready = ana.ready().await;
    let mut reading = ana.get(&ready.ticket).send().await.unwrap().bytes_stream();
    let mut got = reading.next().await.unwrap().unwrap().len();

    let start = Instant::now();
    hub.operator(OperatorCommand::Refuse { public_id: eve.id }).await;
    assert_eq!(eve.closed().await, Some(4403));
    let cut = loop {
        match within(reading.next()).await {
            Some(Ok(part)) => got += part.len(),
            end => break end,
        }
    };
    assert!(
        matches!(cut, Some(Err(_))) && got < body.len(),
        "cut, not complete: {got} of {}",
        body.len()
    );
    println!("all ended {:?} after the refusal", start.elapsed());
    let answer = within(put).await.unwrap();
    assert!(
        answer.is_err() || answer.is_ok_and(|answer| !answer.status().is_success()),
        "its upload"
    );
    ana.until(
        |m| matches!(m, RelayToDevice::ClientDisApproved(no) if no.public_id == entry.public_id),
    )
    .await;
    ana.request(&entry, 2, 0, 1).await;
    assert_eq!(
        ana.failed().await.code,
        FailureCode::PeerRevoked,
        "nor from what the relay still held"
    );
    let link = ana.http.get(hub.http(&made.url)).send().await.unwrap().status().as_u16();
    assert!(matches!(link, 404 | 410), "the link: {link}");
}
