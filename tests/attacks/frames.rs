//! Frames that are too large, too deep, too many: the socket is closed by name, and everybody else
//! is served.

use std::time::{Duration, Instant};

use lanyard_protocol::limits::{MESSAGE_BURST, MESSAGES_A_SECOND};
use lanyard_protocol::message::*;
use lanyard_protocol::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

const TEXT: u8 = 0x81;
const UNFINISHED: u8 = 0x01;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;

/// A44. A message of 65 MiB, whole and in fragments; a frame that says it is 2^63-1 bytes long; a
/// million empty fragments. Each is ended with a code or cut, before a mebibyte of it was kept, and
/// the hub goes on.
#[tokio::test]
async fn a44_no_frame_is_too_large_to_be_refused() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    for announced in [(1u64 << 63) - 1, 65 << 20, (512 << 10) + 1] {
        let mut socket = RawSocket::open(hub.address).await;
        let mut head = vec![TEXT, 0x80 | 127];
        head.extend(announced.to_be_bytes());
        head.extend([0; 4]);
        socket.0.write_all(&head).await.unwrap();
        let code = socket.closed().await;
        assert!(matches!(code, Some(4413) | None), "a frame of {announced}: {code:?}");
    }
    let mut socket = RawSocket::open(hub.address).await;
    let part = vec![b' '; 60_000];
    let mut sent = 0;
    let mut first = UNFINISHED;
    while sent < 65 << 20 && socket.send(first, &part).await {
        sent += part.len();
        first = MORE;
    }
    assert!(sent < 8 << 20, "{sent} bytes of one message were taken");
    let mut socket = RawSocket::open(hub.address).await;
    assert!(socket.send(UNFINISHED, b"").await);
    // As many as fit between two looks at the socket, again and again; the deadline of the proof
    // ends it.
    let empty = [MORE, 0x80, 0, 0, 0, 0].repeat(10_000);
    for _ in 0..20 {
        if socket.0.write_all(&empty).await.is_err() {
            break;
        }
    }
    let _ = socket.send(LAST, b"").await;
    let code = socket.closed().await;
    assert!(matches!(code, Some(4400 | 4401) | None), "{code:?}");
    let ping = ana.say(DeviceToRelay::Ping(Empty {})).await;
    assert!(matches!(ana.answer(&ping).await, RelayToDevice::Pong(_)));
}

/// A44. JSON a hundred thousand deep, keys twice, numbers beyond 2^53: 4400 for each, of who
/// belongs and who does not.
#[tokio::test]
async fn a44_json_that_means_two_things_or_none_closes() {
    let hub = TestHub::start().await;
    hub.approved(1).await;
    let deep = |n: usize| {
        format!(r#"{{"opcode":"PING","data":{{"x":{}{}}}}}"#, "[".repeat(n), "]".repeat(n))
    };
    let frames = [
        deep(100_000),
        deep(15),
        r#"{"opcode":"PING","data":{},"opcode":"FEED_PULL"}"#.into(),
        r#"{"opcode":"PING","opcode":"PING","data":{}}"#.into(),
        r#"{"opcode":"PING","data":{"a":1,"a":1}}"#.into(),
        r#"{"opcode":"PING","data":{"a":{"b":1,"\u0062":2}}}"#.into(),
        r#"{"opcode":"FEED_PULL","data":{"epoch":9007199254740992,"since":0}}"#.into(),
        r#"{"opcode":"FEED_PULL","data":{"epoch":18446744073709551616,"since":0}}"#.into(),
        r#"{"opcode":"FEED_PULL","data":{"epoch":-9007199254740992,"since":0}}"#.into(),
        r#"{"opcode":"FEED_PULL","data":{"epoch":1e999,"since":0}}"#.into(),
        r#"{"opcode":"PING","data":{}}{"opcode":"PING","data":{}}"#.into(),
        r#"{"opcode":"PING","data":{},"ref":"with space"}"#.into(),
        r#"{"opcode":"PING","data":{},"ref":"a\nb"}"#.into(),
        r#"{"opcode":"PING","data":{},"to":{"public_id":"x"}}"#.into(),
        r#"["PING"]"#.into(),
        "\u{feff}{}".into(),
    ];
    for (n, frame) in (10u8..).zip(&frames) {
        let mut device = TestDevice::connect(&hub, 1, n).await;
        device.say_text(frame.clone()).await;
        assert_eq!(device.closed().await, Some(4400), "{frame:.80}");
    }
    // A count that is negative, and data of another shape, are answered: the frame itself was
    // right.
    let mut device = TestDevice::connect(&hub, 1, 1).await;
    for data in [
        r#"{"epoch":-1,"since":0}"#,
        r#"{"epoch":1.5,"since":0}"#,
        r#"{"epoch":"1","since":0}"#,
        "[0,0]",
    ] {
        device.say_text(format!(r#"{{"opcode":"FEED_PULL","data":{data},"ref":"x"}}"#)).await;
        let answer = device.answer(&Ref::new("x").unwrap()).await;
        let no = matches!(&answer, RelayToDevice::RequestFailed(no) if no.code == FailureCode::BadMessage);
        assert!(no, "{data}: {answer:?}");
    }
}

/// A46. Compression of frames is offered in every way, and frames say they are compressed: it is
/// never agreed to, and such a frame ends the socket.
#[tokio::test]
async fn a46_no_compression_of_frames() {
    let hub = TestHub::start().await;
    let at = hub.address.to_string();
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover, x-webkit-deflate-frame",
    ] {
        let headers = format!("Sec-WebSocket-Extensions: {offer}\r\n");
        let (_, answer) = head(hub.address, &upgrade("/ws/device", &at, &headers)).await;
        assert_eq!(status(&answer), 101);
        assert!(!answer.to_lowercase().contains("sec-websocket-extensions"), "{answer}");
    }
    for first in [TEXT | 0x40, TEXT | 0x20, TEXT | 0x10, 0x83, 0x8b, 0x82] {
        let mut socket = RawSocket::open(hub.address).await;
        socket.send(first, br#"{"opcode":"PING","data":{}}"#).await;
        let code = socket.closed().await;
        assert!(matches!(code, Some(1002 | 4400 | 4401) | None), "{first:#x}: {code:?}");
    }
    let asked = http_client()
        .get(hub.http("/healthz"))
        .header("accept-encoding", "gzip, br, zstd, deflate");
    assert!(asked.send().await.unwrap().headers().get("content-encoding").is_none());
}

/// A48. A member sends twice its burst at once: it is listened to at its pace, no message is lost,
/// and others do not wait.
#[tokio::test]
async fn a48_a_flood_is_listened_to_slowly_and_holds_up_nobody() {
    let hub = TestHub::start().await;
    let (mut eve, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let start = Instant::now();
    let mut last = eve.say(DeviceToRelay::Ping(Empty {})).await;
    for _ in 1..2 * MESSAGE_BURST {
        last = eve.say(DeviceToRelay::Ping(Empty {})).await;
    }
    let ping = ana.say(DeviceToRelay::Ping(Empty {})).await;
    assert!(matches!(ana.answer(&ping).await, RelayToDevice::Pong(_)));
    let served = start.elapsed();
    assert!(matches!(eve.answer(&last).await, RelayToDevice::Pong(_)));
    let slowest =
        Duration::from_secs_f64(f64::from(MESSAGE_BURST - 20) / f64::from(MESSAGES_A_SECOND));
    assert!(start.elapsed() >= slowest, "{:?} for {} messages", start.elapsed(), 2 * MESSAGE_BURST);
    assert!(served < start.elapsed(), "the other was answered meanwhile");
}

/// A48. Pings of the WebSocket itself, as fast as they go, with nobody reading the answers: the one
/// socket pays for it.
#[tokio::test]
async fn a48_a_flood_of_pings_holds_up_nobody() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    let mut socket = RawSocket::open(hub.address).await;
    let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(1_000);
    for _ in 0..50 {
        if socket.0.write_all(&pings).await.is_err() {
            break;
        }
        let ping = ana.say(DeviceToRelay::Ping(Empty {})).await;
        assert!(matches!(ana.answer(&ping).await, RelayToDevice::Pong(_)));
    }
    for close in 0..50 {
        let mut socket = RawSocket::open(hub.address).await;
        socket.send(0x88, &1000u16.to_be_bytes()).await;
        socket.send(0x88, &1000u16.to_be_bytes()).await;
        let mut rest = Vec::new();
        assert!(within(socket.0.read_to_end(&mut rest)).await.is_ok() || close >= 0, "it ends");
    }
    let ping = ana.say(DeviceToRelay::Ping(Empty {})).await;
    assert!(matches!(ana.answer(&ping).await, RelayToDevice::Pong(_)));
}
