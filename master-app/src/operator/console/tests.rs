//! Promises: nobody opens the console but by a link from the host, once; no other page can speak
//! here; what one tab does, all tabs see.

use futures_util::{SinkExt, StreamExt};
use lanyard_protocol::message::*;
use lanyard_protocol::{ConsoleToMaster, MasterToConsole, Ref, SUBPROTOCOL, SessionToken, codec};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::*;
use crate::authority::driver::tests::DriverFixture;

struct ConsoleFixture {
    bench: DriverFixture,
    door: LoginLinks,
    _stop: tokio_util::sync::DropGuard,
}

/// The console speaks no TLS, but the client is built for it.
fn http() -> reqwest::Client {
    static PROVIDER: std::sync::Once = std::sync::Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    reqwest::Client::new()
}

async fn fixture() -> ConsoleFixture {
    let bench = DriverFixture::new().await;
    let info = ConsoleInfo {
        host: DeviceId(uuid::Uuid::from_bytes([9; 16])),
        hub_name: "Studio PC".into(),
        urls: vec!["http://192.168.1.2:7070".into()],
        tap_to_approve: false,
        record: bench.dir.path().to_owned(),
    };
    let stop = CancellationToken::new();
    let console = Console::bind(bench.driver.clone(), info, stop.clone()).await.unwrap();
    let door = console.door();
    tokio::spawn(console.run());
    ConsoleFixture { bench, door, _stop: stop.drop_guard() }
}

impl ConsoleFixture {
    fn origin(&self) -> String {
        format!("http://{}", self.door.address())
    }

    fn secret(&self) -> String {
        let link = self.door.link().unwrap();
        link.split_once("#s=").unwrap().1.to_owned()
    }

    async fn post(&self, secret: &str, origin: &str) -> reqwest::Response {
        http()
            .post(format!("{}/console/session", self.origin()))
            .header("origin", origin)
            .body(serde_json::json!({ "secret": secret }).to_string())
            .send()
            .await
            .unwrap()
    }

    async fn token(&self) -> SessionToken {
        let answer: serde_json::Value = serde_json::from_slice(
            &self.post(&self.secret(), &self.origin()).await.bytes().await.unwrap(),
        )
        .unwrap();
        answer["token"].as_str().unwrap().parse().unwrap()
    }

    async fn tab(&self) -> TabFixture {
        let mut tab = TabFixture(self.socket(&self.origin(), SUBPROTOCOL).await.unwrap());
        let token = self.token().await;
        tab.say(ConsoleToMaster::ConsoleRegister(ConsoleRegister { token }), "r0").await;
        tab.until(|m, _| matches!(m, MasterToConsole::ConsoleRegisterAck(_)).then_some(())).await;
        tab
    }

    async fn socket(
        &self,
        origin: &str,
        protocol: &str,
    ) -> Result<
        WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
        tokio_tungstenite::tungstenite::Error,
    > {
        let mut request =
            format!("ws://{}/ws/console", self.door.address()).into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        Ok(tokio_tungstenite::connect_async(request).await?.0)
    }
}

struct TabFixture(WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>);

impl TabFixture {
    async fn say(&mut self, message: ConsoleToMaster, reference: &str) {
        let text = codec::encode(&message, Ref::new(reference).as_ref());
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn until<T>(
        &mut self,
        wanted: impl Fn(&MasterToConsole, Option<&str>) -> Option<T>,
    ) -> T {
        loop {
            let Message::Text(text) = self.0.next().await.unwrap().unwrap() else { continue };
            let frame = codec::decode::<MasterToConsole>(&text).unwrap();
            if let Some(found) = wanted(&frame.message, frame.reference.as_ref().map(Ref::as_str)) {
                return found;
            }
        }
    }

    async fn close_code(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.0.next().await.unwrap().unwrap() {
                return frame.unwrap().code.into();
            }
        }
    }
}

#[tokio::test]
async fn a_link_opens_once_and_not_after_a_minute() {
    let fixture = fixture().await;
    let secret = fixture.secret();
    assert_eq!(fixture.post(&secret, &fixture.origin()).await.status(), 200);
    assert_eq!(fixture.post(&secret, &fixture.origin()).await.status(), 401);
    assert_eq!(fixture.post("nonsense", &fixture.origin()).await.status(), 401);
    let old = fixture.secret();
    fixture.door.age_links();
    assert_eq!(fixture.post(&old, &fixture.origin()).await.status(), 401);
}

#[tokio::test]
async fn pages_from_elsewhere_are_refused() {
    let fixture = fixture().await;
    let secret = fixture.secret();
    for origin in ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"] {
        assert_eq!(fixture.post(&secret, origin).await.status(), 403, "{origin}");
        assert!(fixture.socket(origin, SUBPROTOCOL).await.is_err(), "{origin}");
    }
    let client = http();
    let rebound = client.get(fixture.origin()).header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), 421);
    let without =
        client.post(format!("{}/console/session", fixture.origin())).send().await.unwrap();
    assert_eq!(without.status(), 403, "no Origin at all");
    assert!(fixture.socket(&fixture.origin(), "other").await.is_err());
    assert_eq!(
        fixture.post(&secret, &fixture.origin()).await.status(),
        200,
        "none of that used the link up"
    );
}

#[tokio::test]
async fn a_tab_without_a_token_is_closed() {
    let fixture = fixture().await;
    let mut tab = TabFixture(fixture.socket(&fixture.origin(), SUBPROTOCOL).await.unwrap());
    let token = SessionToken([0; 32]);
    tab.say(ConsoleToMaster::ConsoleRegister(ConsoleRegister { token }), "r").await;
    assert_eq!(tab.close_code().await, 4401);
    let mut tab = TabFixture(fixture.socket(&fixture.origin(), SUBPROTOCOL).await.unwrap());
    tab.say(ConsoleToMaster::Ping(Empty {}), "r").await;
    assert_eq!(tab.close_code().await, 4400);
}

#[tokio::test]
async fn a_command_typed_in_one_tab_is_seen_in_all() {
    let mut fixture = fixture().await;
    let (mut typing, mut watching) = (fixture.tab().await, fixture.tab().await);
    let (request, code) = fixture.bench.knock(7, "Ana").await;
    for tab in [&mut typing, &mut watching] {
        let knock = tab
            .until(|m, _| match m {
                MasterToConsole::Knocks(k) => k.knocks.first().cloned(),
                _ => None,
            })
            .await;
        assert_eq!(
            (knock.name.as_str(), knock.code),
            ("Ana", None),
            "the person types, the page does not know"
        );
    }
    let approve = |code: Option<String>| {
        let (public_id, request_id) = (request.client.public_id, request.request_id);
        ConsoleToMaster::ApproveClient(ConsoleApprove { public_id, request_id, code, for_ms: None })
    };
    let refusal = |m: &MasterToConsole, r: Option<&str>| match m {
        MasterToConsole::RequestFailed(no) => Some((no.code, r.map(str::to_owned))),
        _ => None,
    };
    typing.say(approve(None), "r1").await;
    assert_eq!(typing.until(refusal).await, (FailureCode::BadMessage, Some("r1".into())));
    typing.say(approve(Some(code)), "r2").await;
    fixture.bench.ack_approval().await;
    let approved = |m: &MasterToConsole, r: Option<&str>| {
        matches!(m, MasterToConsole::ClientApproved(_)).then(|| r.map(str::to_owned))
    };
    assert_eq!(typing.until(approved).await, Some("r2".into()));
    assert_eq!(watching.until(approved).await, None);
}

#[tokio::test]
async fn a_tab_pulls_the_feed_and_hears_of_changes() {
    let mut fixture = fixture().await;
    let session = fixture.bench.member(7, "Ana").await;
    let mut tab = fixture.tab().await;
    tab.say(
        ConsoleToMaster::FeedPull(FeedPull {
            feed: Default::default(),
            epoch: 0,
            since: 0,
            cursor: None,
        }),
        "p",
    )
    .await;
    let page = tab
        .until(|m, _| if let MasterToConsole::FeedPage(p) = m { Some(p.clone()) } else { None })
        .await;
    assert_eq!((page.clients.len(), page.last), (1, true));
    fixture.bench.add(session, 2).await;
    let added =
        tab.until(
            |m, _| if let MasterToConsole::FilesAdded(a) = m { Some(a.files.len()) } else { None },
        );
    assert_eq!(added.await, 2);
    tab.0.send(Message::text(r#"{"opcode":"NONSENSE","data":{},"ref":"x"}"#)).await.unwrap();
    let failed = tab
        .until(|m, r| matches!(m, MasterToConsole::RequestFailed(_)).then(|| r.map(str::to_owned)));
    assert_eq!(failed.await, Some("x".into()));
}

#[tokio::test]
async fn the_page_is_served_here_and_only_the_consoles() {
    let fixture = fixture().await;
    let page = http().get(fixture.origin()).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.headers().contains_key("content-security-policy"));
    assert_eq!(
        http().get(format!("{}/nothing", fixture.origin())).send().await.unwrap().status(),
        404
    );
}

/// A tab is told what is wrong as soon as it is there, and again whenever that changes, also that
/// it is over.
#[tokio::test]
async fn a_problem_is_sent_to_every_tab() {
    let fixture = fixture().await;
    let codes = |message: &MasterToConsole| match message {
        MasterToConsole::Problems(all) => {
            Some(all.problems.iter().map(|p| p.code.clone()).collect::<Vec<_>>())
        }
        _ => None,
    };
    let mut tab = fixture.tab().await;
    assert!(tab.until(|m, _| codes(m)).await.is_empty());
    let (what, advice) = ("The disk is full.".to_owned(), "Make room.".to_owned());
    let problems = fixture.bench.driver.problems();
    problems.raise(crate::problems::ActiveProblem {
        code: "little_room",
        what,
        advice,
        since_ms: 7,
    });
    assert_eq!(tab.until(|m, _| codes(m)).await, ["little_room"]);
    let mut late = fixture.tab().await;
    assert_eq!(late.until(|m, _| codes(m)).await, ["little_room"]);
    problems.clear("little_room");
    assert!(tab.until(|m, _| codes(m)).await.is_empty());
}

/// How full the list is concerns the host alone.
#[tokio::test]
async fn the_usage_of_the_list_is_shown_to_the_host_only() {
    let fixture = fixture().await;
    let url = format!("{}/console/usage", fixture.origin());
    assert_eq!(http().get(&url).send().await.unwrap().status(), 401);
    let answer = http()
        .get(&url)
        .header("authorization", format!("Bearer {}", fixture.token().await.to_hex()));
    let answer = answer.send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["cache-control"].to_str().unwrap()),
        (200, "no-store")
    );
    let usage: crate::operator::actions::ListUsage =
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!((usage.bytes, usage.limit_bytes, usage.devices.len()), (0, 256 << 20, 0));
}

/// A71: the console's port is within reach of each program on this machine. It keeps to a few
/// descriptors, and the host's page is served all the while.
#[tokio::test]
async fn a71_a_program_here_does_not_take_the_descriptors_through_the_console() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fixture = fixture().await;
    let mut tab = fixture.tab().await;
    let mut crowd = Vec::new();
    for number in 0..4 * CONNECTIONS {
        let mut half = tokio::net::TcpStream::connect(fixture.door.address()).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\nX: y").await.unwrap();
        crowd.push(half);
        if number % 48 == 47 {
            let answer = http().get(format!("{}/", fixture.origin())).send().await.unwrap();
            assert_eq!(answer.status(), 200, "after {number}");
        }
    }
    // All but as many as may be were closed.
    let mut ended = 0;
    while ended < crowd.len() - CONNECTIONS {
        ended = crowd
            .iter()
            .filter(
                |half| !matches!(half.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            )
            .count();
        tokio::task::yield_now().await;
    }
    tab.say(ConsoleToMaster::Ping(Empty {}), "p1").await;
    tab.until(|m, _| matches!(m, MasterToConsole::Pong(_)).then_some(())).await;
    drop(crowd.pop().unwrap().read(&mut [0]).await);
}

/// A72: refusals of the framework are JSON here, too.
#[tokio::test]
async fn a72_every_refusal_of_the_console_says_why() {
    let fixture = fixture().await;
    let origin = fixture.origin();
    let client = http();
    let large = "x".repeat(10_000);
    for (request, expected) in [
        (client.put(format!("{origin}/console/record")), 405),
        (client.get(format!("{origin}/console/session")), 405),
        (client.post(format!("{origin}/console/session")).body(large), 413),
        (client.post(format!("{origin}/console/session")).body("{"), 400),
        (client.get(format!("{origin}/ws/console")), 400),
        (client.get(format!("{origin}/nothing")), 404),
        (client.get(format!("{origin}/console/record")), 401),
    ] {
        let answer = request.header("origin", &origin).send().await.unwrap();
        let status = answer.status().as_u16();
        let allow = answer.headers().contains_key("allow");
        let text = answer.text().await.unwrap();
        assert_eq!((status, allow), (expected, expected == 405), "{text}");
        let error: HttpError =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(error.message.contains(' '), "{text}");
    }
}
