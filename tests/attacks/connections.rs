//! One address that opens whatever it can, and refusals of every kind: others are served all the
//! while, and every "no" says why.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lanyard_device::connection::{ReceivedFrame, RelayConnection};
use lanyard_protocol::http::HttpError;
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 67));
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: lanyard.v2\r\n";

/// A connection from an address of this machine's; `None` if the hub takes no more.
async fn from(address: IpAddr, hub: &TestHub) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address, 0)).unwrap();
    within(socket.connect(hub.address)).await.ok()
}

fn request(hub: &TestHub, path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", hub.address)
}

/// The status of one request from the guest's address.
async fn is_served(hub: &TestHub) -> u16 {
    let Some(mut stream) = from(GUEST, hub).await else { return 0 };
    let asked = request(hub, "/healthz", "Connection: close\r\n");
    if stream.write_all(asked.as_bytes()).await.is_err() {
        return 0;
    }
    let mut answer = String::new();
    let _ = within(stream.read_to_string(&mut answer)).await;
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// A71. Whatever one address opens, silent, half said, asked once and not read, or a socket that
/// does not register: another is served, and who belongs stays connected. The relay may have few
/// connections here, so that they would be used up at once.
#[tokio::test]
async fn a71_one_address_does_not_take_the_house() {
    let hub = TestHub::with(|config| config.max_connections = Some(120)).await;
    let mut member = hub.approved(1).await;
    let half = request(&hub, "/", &format!("X: {}", "x".repeat(8_000)));
    let kinds = [
        String::new(),
        half[..half.len() - 2].to_owned(),
        request(&hub, "/healthz", ""),
        request(&hub, "/", ""),
        request(&hub, "/ws/device", UPGRADE),
    ];
    for kind in kinds {
        let mut crowd = Vec::new();
        for number in 0..400 {
            if let Some(mut stream) = from(ATTACKER, &hub).await {
                let _ = stream.write_all(kind.as_bytes()).await;
                crowd.push(stream);
            }
            if number % 100 == 99 {
                assert_eq!(is_served(&hub).await, 200, "after {number} of {kind:.40}");
            }
        }
        assert!(crowd.len() > 120, "more than there is room for tried: {}", crowd.len());
    }
    let reference = member.say(DeviceToRelay::Ping(message::Empty {})).await;
    assert!(matches!(member.answer(&reference).await, RelayToDevice::Pong(_)));
}

/// A71. A key is free, so whoever only waits at the door is no reason to keep connections: three of
/// one address prove 150 requests with their sessions' keys, more than there is room for, and
/// another address is served, as is who belongs.
#[tokio::test]
async fn a71_waiting_devices_do_not_take_the_connections_of_members() {
    let hub = TestHub::with(|config| config.max_connections = Some(120)).await;
    let mut member = hub.approved(1).await;
    let path = format!("/chunks/{}", "0".repeat(32));
    let mut crowd = Vec::new();
    let mut waiting = Vec::new();
    for number in 0..3 {
        let eve = TestDevice::connect(&hub, 67 + number, 67 + number).await;
        for _ in 0..50 {
            let Some(mut stream) = from(ATTACKER, &hub).await else { continue };
            let proof = format!("Authorization: {}\r\n", eve.signer.authorize("GET", &path));
            let _ = stream.write_all(request(&hub, &path, &proof).as_bytes()).await;
            let _ = within(stream.read(&mut [0; 512])).await;
            crowd.push(stream);
        }
        assert_eq!(is_served(&hub).await, 200, "after {} connections", crowd.len());
        waiting.push(eve);
    }
    assert!(crowd.len() > 120, "more than there is room for tried: {}", crowd.len());
    let reference = member.say(DeviceToRelay::Ping(message::Empty {})).await;
    assert!(matches!(member.answer(&reference).await, RelayToDevice::Pong(_)));
}

/// A71. Until it is registered a socket may send 6 KiB, and what it sends right behind its
/// registration is not lost.
#[tokio::test]
async fn a71_a_first_frame_is_small_and_the_next_may_be_as_long_as_any() {
    let hub = TestHub::start().await;
    for (length, code) in [(5 * 1024, 4400), (7 * 1024, 4413), (200 * 1024, 4413)] {
        let mut link = RelayConnection::open(&hub.url, "/ws/device", None).await.unwrap();
        link.receive().await.unwrap();
        link.send("x".repeat(length)).await.unwrap();
        assert_eq!(
            link.receive().await.unwrap(),
            ReceivedFrame::Closed(Some(code)),
            "{length} bytes"
        );
    }
    let mut link = RelayConnection::open(&hub.url, "/ws/device", None).await.unwrap();
    let ReceivedFrame::Text(text) = link.receive().await.unwrap() else { panic!("no challenge") };
    let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
    let RelayToDevice::Challenge(challenge) = frame.message else { panic!("{text}") };
    let key = Keypair::from_seed(&[41; 32]);
    let (register, ..) =
        registration(&hub.url.authority(), &challenge, &key, Reveal([1; 32]), Instance([1; 16]));
    let reference = Ref::new("r7");
    link.send(codec::encode(&DeviceToRelay::ClientRegister(register), reference.as_ref()))
        .await
        .unwrap();
    link.send(format!(
        r#"{{"opcode":"PING","data":{{"x":"{}"}},"ref":"p1"}}"#,
        "y".repeat(200 * 1024)
    ))
    .await
    .unwrap();
    link.send(r#"{"opcode":"PING","data":{},"ref":"p2"}"#.into()).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 3 {
        let ReceivedFrame::Text(text) = within(link.receive()).await.unwrap() else {
            panic!("closed after {heard:?}")
        };
        let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
        match frame.message {
            RelayToDevice::ClientRegisterAck(_) | RelayToDevice::Pong(_) => {
                heard.push(frame.reference)
            }
            _ => {}
        }
    }
    // PROTOCOL.md 1.4: the ack is an answer, and has the `ref` of its request.
    assert_eq!(heard, [reference, Ref::new("p1"), Ref::new("p2")]);
}

/// A71. Pings may come before the registration, and what comes then is remembered: they come to an
/// end after 16 KiB.
#[tokio::test]
async fn a71_pings_before_the_registration_come_to_an_end() {
    let hub = TestHub::start().await;
    let stream = from(ATTACKER, &hub).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(request(&hub, "/ws/device", UPGRADE).as_bytes()).await.unwrap();
    // 125 bytes, masked with zeros.
    let ping = [&[0x89u8, 0x80 | 125, 0, 0, 0, 0][..], &[b'x'; 125]].concat();
    let length = ping.len();
    tokio::spawn(async move {
        for _ in 0..2_000 {
            if writer.write_all(&ping).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await; // only the relay ends it
    });
    let mut answered = Vec::new();
    let _ = within(reader.read_to_end(&mut answered)).await; // what it did not read resets the connection
    let pongs = answered.windows(2).filter(|head| *head == [0x8a, 125]).count();
    let most = 2 * limits::MAX_UNREGISTERED_BYTES / length;
    assert!(pongs <= most, "{pongs} pings were answered, of which {most} would be too many");
}

/// Sends a request as it stands and gives its status, its Allow, and the code and the sentence in
/// its body.
async fn refused(hub: &TestHub, request: &[u8]) -> (u16, Option<String>, HttpError) {
    let answer = raw_then_close(from(GUEST, hub).await.unwrap(), request).await;
    let (head, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
            .next()
    };
    assert_eq!(header("content-type").as_deref(), Some("application/json"), "{answer}");
    let error = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (status, header("allow"), error)
}

/// A72. Each refusal is JSON with a code and a sentence, whoever of us made it: our code, the
/// framework, the HTTP library.
#[tokio::test]
async fn a72_every_refusal_says_why() {
    let hub = TestHub::start().await;
    let host = format!("Host: {}\r\nConnection: close\r\n", hub.address);
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\n{host}{more}\r\n").into_bytes();
    let long = "x".repeat(5_000);
    let id = "00112233445566778899aabbccddeeff";
    let requests: Vec<(Vec<u8>, u16)> = vec![
        (head("GET /d/%ff", ""), 400),
        (head("GET /d/%ff/x", ""), 400),
        (head(&format!("GET /d/{id}/%ff%fe"), ""), 400),
        (head(&format!("GET /d/{long}"), ""), 404),
        (head("GET /chunks/%ff", ""), 401),
        (head("PUT /chunks/%ff", "Content-Length: 0\r\n"), 401),
        (head(&format!("GET /chunks/{id}"), ""), 401),
        (head("DELETE /d/%ff", ""), 405),
        (head("GET /%ff", ""), 404),
        (head("GET /nothing", ""), 404),
        (head(&format!("DELETE /chunks/{id}"), ""), 405),
        (head("PUT /healthz", "Content-Length: 0\r\n"), 405),
        (head("POST /ws/device", "Content-Length: 0\r\n"), 405),
        (head("GET /ws/device", ""), 400),
        (head("GET /healthz", &format!("X: {}\r\n", "x".repeat(17 * 1024))), 431),
        (head("GET /healthz", &"X: y\r\n".repeat(200)), 431),
        (format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(17 * 1024)).into_bytes(), 431),
        (b"nothing of the kind\r\n\r\n".to_vec(), 400),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_vec(), 421),
        (format!("GET / HTTP/1.1\r\n{host}Sec-Fetch-Site: cross-site\r\n\r\n").into_bytes(), 403),
    ];
    for (request, expected) in requests {
        let line = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        let (status, allow, error) = refused(&hub, &request).await;
        assert_eq!(status, expected, "{line}: {error:?}");
        assert!(error.message.contains(' '), "{line}: {error:?}");
        assert_eq!(allow.is_some(), status == 405, "{line}: {allow:?}");
    }
    // A head just below the bound is answered.
    let allowed = head("GET /healthz", &format!("X: {}\r\n", "x".repeat(14 * 1024)));
    let answer =
        String::from_utf8_lossy(&raw(hub.address, &allowed).await.into_bytes()).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.100}");
}
