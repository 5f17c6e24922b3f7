//! Who takes long: nothing said, a byte now and then, a body that crawls. All at once, for each has
//! to wait for a true deadline.

use std::future::pending;
use std::time::Duration;

use lanyard_device::connection::ReceivedFrame;
use lanyard_protocol::message::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// Longer than the longest deadline of the relay, and a slow machine's share.
const LATEST: Duration = Duration::from_secs(45);
const SLOWLY: Duration = Duration::from_millis(500);

/// Waits until the other side ends a connection to which nothing more is sent.
async fn ends(mut stream: TcpStream) {
    let mut rest = [0; 1024];
    let ending = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
    tokio::time::timeout(LATEST, ending).await.expect("the hub ends it");
}

/// Sends one byte after the other, far apart, until the other side ends it.
async fn drips(mut stream: TcpStream, bytes: impl Iterator<Item = u8>) {
    let dripping = async {
        for byte in bytes {
            let mut rest = [0; 1024];
            tokio::select! {
                read = stream.read(&mut rest) => if matches!(read, Ok(0) | Err(_)) { return },
                () = tokio::time::sleep(SLOWLY) => if stream.write_all(&[byte]).await.is_err() { return },
            }
        }
        panic!("all of it was taken");
    };
    tokio::time::timeout(LATEST, dripping).await.expect("the hub ends it");
}

/// A47. A socket that says nothing, in plain and after the first byte of TLS; a head and a
/// registration that drip; a body that crawls below 8 KiB/s. Each is ended, and who is quick is
/// served all the while.
#[tokio::test]
async fn a47_a_client_that_is_too_slow_is_ended_and_holds_up_nobody() {
    let hub = TestHub::with_tls().await;
    let mut ana = hub.approved(1).await;
    let connect = async || TcpStream::connect(hub.address).await.unwrap();
    let sent = async |bytes: &[u8]| {
        let mut stream = connect().await;
        stream.write_all(bytes).await.unwrap();
        stream
    };
    let head = format!("GET / HTTP/1.1\r\nHost: {}\r\nX: ", hub.address);
    let dripping = sent(head.as_bytes()).await;
    let silent_socket = async {
        let (mut link, _) = challenged(&hub.url).await;
        assert_eq!(
            tokio::time::timeout(LATEST, link.receive()).await.unwrap().unwrap(),
            ReceivedFrame::Closed(Some(4401))
        );
    };
    let others = async {
        for _ in 0..10 {
            let ping = ana.say(DeviceToRelay::Ping(Empty {})).await;
            assert!(matches!(ana.answer(&ping).await, RelayToDevice::Pong(_)));
            assert_eq!(http_client().get(hub.http("/healthz")).send().await.unwrap().status(), 200);
        }
    };
    tokio::join!(
        ends(connect().await),
        ends(connect().await),
        ends(sent(b"\x16").await),
        ends(sent(b"\x16\x03\x01\x02\x00\x01").await),
        ends(sent(b"G").await),
        ends(sent(head.as_bytes()).await),
        drips(dripping, std::iter::repeat_n(b'x', 200)),
        silent_socket,
        crawling_upload(&hub),
        others,
    );
}

/// An owner that sends a byte now and then: its upload ends as too slow, and the asker hears that
/// it may ask again.
async fn crawling_upload(hub: &TestHub) {
    let (mut owner, mut ana) = (hub.approved(2).await, hub.approved(3).await);
    let entry = owner.offers("a.bin", 100_000).await;
    ana.request(&entry, 1, 0, 1).await;
    let upload = owner.asked().await;
    let target = format!("/chunks/{}", upload.ticket.to_hex());
    let head = format!(
        "PUT {target} HTTP/1.1\r\nHost: {}\r\n{}\r\nContent-Length: 100000\r\n\r\n",
        hub.address,
        owner.proof("PUT", &target)
    );
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let ready = ana.ready().await;
    let get = ana.get(&ready.ticket).send();
    let crawling =
        async { tokio::join!(drips(stream, std::iter::repeat_n(b'x', 200)), get).1.unwrap() };
    // Both answer pings: nothing but the body is at fault.
    let alive = async { tokio::join!(owner.serve_until(pending()), ana.serve_until(pending())) };
    let answer = tokio::select! {
        answer = crawling => answer,
        _ = alive => unreachable!(),
    };
    assert!(answer.status() == 503 || answer.bytes().await.is_err(), "never whole");
}

/// Two uploads of one device share a line that is slow for both: one comes with less than 8 KiB/s,
/// both together with more. Neither is ended, for to begin again on the same line would take longer
/// still.
#[tokio::test]
async fn a47_bodies_that_share_a_slow_line_are_judged_together() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let mut uploads = Vec::new();
    for (transfer, (name, size)) in
        [("slow.bin", 25_000), ("quicker.bin", 250_000)].into_iter().enumerate()
    {
        let entry = owner.offers(name, size).await;
        ana.request(&entry, transfer as u8 + 1, 0, 1).await;
        let upload = owner.asked().await;
        let target = format!("/chunks/{}", upload.ticket.to_hex());
        let head = format!(
            "PUT {target} HTTP/1.1\r\nHost: {}\r\n{}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n",
            hub.address,
            owner.proof("PUT", &target)
        );
        uploads.push((head, owner.body_of(&upload)));
    }
    let sends = async |(head, body): &(String, Vec<u8>)| {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // A little more than one window of twenty seconds.
        for part in body.chunks(body.len() / 125) {
            stream.write_all(part).await.unwrap();
            tokio::time::sleep(Duration::from_millis(180)).await;
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        status(&answer)
    };
    let answers = tokio::select! {
        answers = async { tokio::join!(sends(&uploads[0]), sends(&uploads[1])) } => answers,
        _ = async { tokio::join!(owner.serve_until(pending()), ana.serve_until(pending())) } => unreachable!(),
    };
    assert_eq!(answers, (204, 204));
}
