//! Bad input gets a clear answer and costs nothing: frames, handshakes, hosts, origins, silence.

use futures_util::StreamExt;
use lanyard_device::connection::{ReceivedFrame, RelayConnection};
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use lanyard_tests::harness::*;

/// Sends raw bytes and reads what comes until the end.
async fn raw(hub: &TestHub, request: &str) -> String {
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(NEVER, stream.read_to_end(&mut answer)).await.expect("it ends").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn only_one_right_host_is_answered() {
    let hub = TestHub::start().await;
    let at = hub.address;
    for (headers, expected) in [
        (format!("Host: {at}"), 200),
        ("Host: 192.168.1.77".into(), 200),
        ("Host: localhost:9".into(), 200),
        ("Host: evil.example".into(), 421),
        (format!("Host: {at}\r\nHost: evil.example"), 400),
        ("X: y".into(), 400),
    ] {
        for path in ["/", "/healthz"] {
            let answer = raw(
                &hub,
                &format!("GET {path} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n"),
            )
            .await;
            assert_eq!(status(&answer), expected, "{path} with {headers:?}: {answer:.200}");
        }
    }
    let absolute =
        format!("GET http://evil.example/ HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&raw(&hub, &absolute).await), 400);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_open_a_socket() {
    let hub = TestHub::start().await;
    let at = hub.address.to_string();
    for (origin, opens) in [
        (format!("http://{at}"), true),
        ("http://evil.example".into(), false),
        ("null".into(), false),
        (format!("http://{at}.evil"), false),
        (format!("https://{at}"), false),
    ] {
        let opened = RelayConnection::open(&hub.url, "/ws/device", Some(&origin)).await;
        assert_eq!(opened.is_ok(), opens, "{origin}: {:?}", opened.err());
    }
    assert!(
        RelayConnection::open(&hub.url, "/ws/master", Some(&format!("http://{at}"))).await.is_err()
    );
}

#[tokio::test]
async fn a_socket_without_our_subprotocol_is_refused() {
    let hub = TestHub::start().await;
    let request = format!(
        "GET /ws/device HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        hub.address
    );
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 64];
    let read = stream.read(&mut head).await.unwrap();
    assert_eq!(status(&String::from_utf8_lossy(&head[..read])), 400);
}

#[tokio::test]
async fn before_the_proof_anything_but_the_proof_ends_the_socket() {
    let hub = TestHub::start().await;
    let ping = r#"{"opcode":"PING","data":{}}"#;
    let long = format!(r#"{{"opcode":"PING","data":{{"x":"{}"}}}}"#, "y".repeat(300 * 1024));
    for (said, code) in [(ping, 4401), ("[]", 4400), ("{", 4400), (long.as_str(), 4413)] {
        let mut link = RelayConnection::open(&hub.url, "/ws/device", None).await.unwrap();
        link.receive().await.unwrap();
        link.send(said.into()).await.unwrap();
        assert_eq!(link.receive().await.unwrap(), ReceivedFrame::Closed(Some(code)), "{said:.40}");
    }
}

#[tokio::test]
async fn a_proof_for_another_host_name_or_of_another_key_is_refused() {
    let hub = TestHub::start().await;
    for forge in 0..3 {
        let mut link = RelayConnection::open(&hub.url, "/ws/device", None).await.unwrap();
        let ReceivedFrame::Text(text) = link.receive().await.unwrap() else {
            panic!("no challenge")
        };
        let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
        let RelayToDevice::Challenge(challenge) = frame.message else { panic!("{text}") };
        let key = Keypair::from_seed(&[1; 32]);
        let authority = if forge == 0 { "evil.example".into() } else { hub.url.authority() };
        let (mut register, _) =
            registration(&authority, &challenge, &key, Reveal([1; 32]), Instance([1; 16]));
        if forge == 1 {
            register.public_key = Keypair::from_seed(&[2; 32]).public();
        }
        if forge == 2 {
            register.signature.0[0] ^= 1;
        }
        link.send(codec::encode(&DeviceToRelay::ClientRegister(register), None)).await.unwrap();
        assert_eq!(
            link.receive().await.unwrap(),
            ReceivedFrame::Closed(Some(4401)),
            "forgery {forge}"
        );
    }
}

/// R45.
#[tokio::test]
async fn a_device_of_another_version_hears_why_it_cannot_come_in() {
    let hub = TestHub::start().await;
    let mut link = RelayConnection::open(&hub.url, "/ws/device", None).await.unwrap();
    let ReceivedFrame::Text(text) = link.receive().await.unwrap() else { panic!("no challenge") };
    let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
    let RelayToDevice::Challenge(challenge) = frame.message else { panic!("{text}") };
    let key = Keypair::from_seed(&[1; 32]);
    let (register, _) =
        registration(&hub.url.authority(), &challenge, &key, Reveal([1; 32]), Instance([1; 16]));
    let newer = message::ClientRegister { protocol: PROTOCOL_VERSION + 1, ..register };
    link.send(codec::encode(&DeviceToRelay::ClientRegister(newer), None)).await.unwrap();
    let ReceivedFrame::Text(text) = link.receive().await.unwrap() else { panic!("no word") };
    let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
    let RelayToDevice::RequestFailed(no) = frame.message else { panic!("{text}") };
    assert_eq!(no.code, FailureCode::UnsupportedVersion);
    assert_eq!(link.receive().await.unwrap(), ReceivedFrame::Closed(Some(4400)));
}

/// R45. An older page shows its button for loading anew when the challenge names another version,
/// and an older program ends.
#[tokio::test]
async fn a_client_of_version_1_is_told_to_update_in_words_that_it_knows() {
    let hub = TestHub::start().await;
    let mut request =
        format!("ws://{}/ws/device", hub.url.authority()).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "lanyard.v1".parse().unwrap());
    let (mut socket, answer) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(
        answer.headers()["sec-websocket-protocol"],
        "lanyard.v1",
        "a browser takes no other"
    );
    let mut said: Vec<serde_json::Value> = Vec::new();
    let closed = loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => said.push(serde_json::from_str(&text).unwrap()),
            Message::Close(frame) => break frame.map(|frame| u16::from(frame.code)),
            other => panic!("{other:?}"),
        }
    };
    let mut fields: Vec<&String> = said[0]["data"].as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(said[0]["opcode"], "CHALLENGE");
    assert_eq!(
        fields,
        ["boot_id", "hub", "mode", "nonce", "protocol"],
        "version 1 refuses fields that it does not know"
    );
    assert_eq!(said[0]["data"]["protocol"], PROTOCOL_VERSION);
    assert_eq!(said[1]["opcode"], "REQUEST_FAILED");
    assert_eq!(said[1]["data"]["code"], "UNSUPPORTED_VERSION");
    assert!(said[1]["data"]["message"].as_str().unwrap().contains("update"), "{}", said[1]);
    assert_eq!((said.len(), closed), (2, Some(4400)));
}

#[tokio::test]
async fn strange_messages_are_answered_and_frames_that_are_none_close() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    for strange in [
        r#"{"opcode":"NO_SUCH_THING","data":{},"ref":"x1"}"#,
        r#"{"opcode":"FEED_PULL","data":{"epoch":"one"},"ref":"x1"}"#,
        r#"{"opcode":"FEED_PULL","ref":"x1"}"#,
    ] {
        ana.say_text(strange.into()).await;
        let answer = ana.answer(&Ref::new("x1").unwrap()).await;
        let no = matches!(&answer, RelayToDevice::RequestFailed(no) if no.code == FailureCode::BadMessage);
        assert!(no, "{strange}: {answer:?}");
    }
    ana.say_text(r#"{"opcode":"PING","data":{},"unheard_of":1,"ref":"x2"}"#.into()).await;
    assert!(matches!(ana.answer(&Ref::new("x2").unwrap()).await, RelayToDevice::Pong(_)));
    ana.say_text(r#"{"opcode":"PING","data":{},"from":{"public_id":"x"}}"#.into()).await;
    assert_eq!(ana.closed().await, Some(4400));
}

#[tokio::test]
async fn a_socket_that_says_nothing_is_closed() {
    let hub = TestHub::start().await;
    let mut silent = TcpStream::connect(hub.address).await.unwrap();
    let mut link = RelayConnection::open(&hub.url, "/ws/device", None).await.unwrap();
    link.receive().await.unwrap();
    let mut byte = [0];
    let ended = tokio::time::timeout(NEVER, silent.read(&mut byte))
        .await
        .expect("within the first-byte deadline");
    assert!(matches!(ended, Ok(0) | Err(_)));
    let closed = tokio::time::timeout(NEVER, link.receive())
        .await
        .expect("within the proof's deadline")
        .unwrap();
    assert_eq!(closed, ReceivedFrame::Closed(Some(4401)));
}

#[tokio::test]
async fn a_crowd_of_silent_sockets_drives_out_its_own_and_nobody_who_belongs() {
    let hub = TestHub::start().await;
    let mut member = hub.approved(1).await;
    let mut crowd = Vec::new();
    for _ in 0..limits::MAX_UNKNOWN_AN_ADDRESS + 16 {
        crowd.push(TcpStream::connect(hub.address).await.unwrap());
    }
    // As others come, the oldest of the crowd give way to them.
    let has_ended = |silent: &TcpStream| match silent.try_read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", hub.address);
    let drain_timeout = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    tokio::time::timeout(NEVER, async {
        while !crowd[..16].iter().all(has_ended) {
            assert_eq!(status(&raw(&hub, &drain_timeout).await), 200);
        }
    })
    .await
    .expect("they give way");
    // It was not the deadline, which the youngest have too: they are still listened to.
    let mut answer = [0; 12];
    let youngest = crowd.last_mut().unwrap();
    youngest.write_all(request.as_bytes()).await.unwrap();
    youngest.read_exact(&mut answer).await.unwrap();
    // A member stays.
    let reference = member.say(DeviceToRelay::Ping(message::Empty {})).await;
    assert!(matches!(member.answer(&reference).await, RelayToDevice::Pong(_)));
}

#[tokio::test]
async fn nothing_of_the_hub_is_visible_without_a_session() {
    let hub = TestHub::start().await;
    let client = http_client();
    let health = client.get(hub.http("/healthz")).send().await.unwrap().text().await.unwrap();
    assert!(!health.contains("device"), "{health}");
    let get = async |path: &str| client.get(hub.http(path)).send().await.unwrap().status().as_u16();
    assert_eq!(get("/chunks/00000000000000000000000000000000").await, 401);
    assert_eq!(get("/nothing/here").await, 404);
    assert_eq!(
        client
            .put(hub.http(&format!("/chunks/{}", "0".repeat(32))))
            .body("{}")
            .send()
            .await
            .unwrap()
            .status(),
        401
    );
    assert_eq!(client.post(hub.http("/")).body("").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn rejections_are_counted_for_the_hubs_own_machine() {
    let hub = TestHub::start().await;
    raw(&hub, "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    let mut link = RelayConnection::open(&hub.url, "/ws/device", None).await.unwrap();
    link.receive().await.unwrap();
    link.send("[]".into()).await.unwrap();
    assert_eq!(link.receive().await.unwrap(), ReceivedFrame::Closed(Some(4400)));
    let page = hub.metrics().await;
    for line in [
        "lanyard_refused_total{code=\"HOST_DENIED\"} 1",
        "lanyard_closed_total{reason=\"BAD_MESSAGE\"} 1",
    ] {
        assert!(page.lines().any(|known| known == line), "{line} in {page}");
    }
}
