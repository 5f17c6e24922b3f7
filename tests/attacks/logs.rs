//! What the hub's parts log while they are used and attacked: no secret of anybody's, and one line
//! for each event.

use std::io;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use lanyard_protocol::{Nonce, Reveal};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tracing_subscriber::EnvFilter;

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// More than `lanyard` logs by itself: all that its own crates have to say.
const FILTER: &str =
    "info,lanyard_relay=trace,lanyard_hub=trace,lanyard_device=trace,lanyard_protocol=trace";

/// What was logged by all tests of this process, as it would stand on standard error.
static LOGGED: LazyLock<Mutex<Vec<String>>> = LazyLock::new(|| {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(FILTER))
        .with_writer(|| Keeps)
        .with_ansi(false)
        .init();
    Mutex::default()
});

/// Takes one event a time.
struct Keeps;

impl io::Write for Keeps {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        events().push(String::from_utf8_lossy(event).into_owned());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A test that fails while it looks must not fail all others.
fn events() -> MutexGuard<'static, Vec<String>> {
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn begin() {
    LazyLock::force(&LOGGED);
}

/// Waits until somebody logs this, and gives the event.
async fn logged(word: &str) -> String {
    within(async {
        loop {
            if let Some(event) = events().iter().find(|event| event.contains(word)) {
                return event.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// A51. Joining, sharing, fetching, links, refusals and mistakes, with secrets that are known to
/// the test: none of them is in any log line, nor in what a secret prints as.
#[tokio::test]
async fn a51_no_secret_is_ever_logged() {
    begin();
    let hub = TestHub::with_tls().await;
    let (mut owner, mut ana) = (hub.approved(171).await, hub.approved(172).await);
    let entry = owner.offers("canary.bin", 1_000).await;
    ana.request(&entry, 1, 0, 1).await;
    let upload = owner.asked().await;
    assert_eq!(
        owner.put(&upload.ticket, owner.body_of(&upload)).send().await.unwrap().status(),
        204
    );
    let ready = ana.ready().await;
    assert_eq!(ana.get(&ready.ticket).send().await.unwrap().status(), 200);
    assert_eq!(ana.get(&ready.ticket).send().await.unwrap().status(), 409);
    assert_eq!(owner.get(&ready.ticket).send().await.unwrap().status(), 403);
    let made = ana.link(&[&entry]).await;
    let url = hub.http(&made.url);
    owner
        .serve_until(async { drop(http_client().get(url).send().await.unwrap().bytes().await) })
        .await;
    ana.say_text(format!(
        r#"{{"opcode":"NO_SUCH_THING","data":{{"token":"{}"}}}}"#,
        Nonce(*ana.session_key.bytes()).to_hex()
    ))
    .await;
    logged("NO_SUCH_THING").await;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(from.path().join("a"), content(300_000)).unwrap();
    let mut native = Native::inside_as(
        &hub,
        lanyard_device::DeviceConfig { hub: hub.url.secured(), ..config(&hub, 173) },
    )
    .await;
    native.shares(&from.path().join("a")).await;
    let mut other = Native::inside(&hub, 174).await;
    let wanted = other.sees(2).await.into_iter().filter(|file| file.as_path == "a").collect();
    assert_eq!(other.fetches(wanted, to.path()).await.0.len(), 1);
    other.handle.shutdown().await;
    let secrets = [
        ("a session's key", Nonce(*owner.session_key.bytes()).to_hex()),
        ("a session's key", Nonce(*ana.session_key.bytes()).to_hex()),
        ("an upload's ticket", upload.ticket.to_hex()),
        ("a download's ticket", ready.ticket.to_hex()),
        ("a link", made.link.to_hex()),
        ("the master's secret", "03".repeat(32)),
        ("the hub's key", "c8".repeat(32)),
        ("a device's key", "ab".repeat(32)),
        ("a device's key", "ad".repeat(32)),
    ];
    let all = events().clone();
    for (what, secret) in &secrets {
        let found = all.iter().find(|event| event.to_lowercase().contains(secret.as_str()));
        assert_eq!(found, None, "{what} is logged");
    }
    let shown = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        ana.session_key,
        ana.signer,
        upload.ticket,
        made.link,
        owner.key,
        Reveal([0xab; 32])
    );
    for (what, secret) in &secrets {
        assert!(!shown.contains(secret.as_str()), "{what} prints as itself: {shown}");
    }
}

/// A56. Opcodes, values and names with line breaks, escapes and quotes from a device, a master and
/// a hub: one event is one line, and no control character is in it.
#[tokio::test]
async fn a56_one_event_is_one_line() {
    begin();
    let hub = TestHub::start().await;
    let mut eve = hub.approved(175).await;
    eve.say_text(
        r#"{"opcode":"X\n2026-01-01 ERROR by-device \u001b[2J\r\u009b\u0085\u2028\"}","data":{}}"#
            .into(),
    )
    .await;
    eve.say_text(r#"{"opcode":"FEED_PULL","data":{"epoch":"a\nby-device-value\u001b]8;;x\u0007","since":0}}"#.into())
        .await;
    let relay = TestRelay::start().await;
    let mut master = RawMaster::register(&relay.url, 1, vec![], vec![]).await;
    master.say_text(r#"{"opcode":"X\nERROR by-master \u001b[31m\r","data":{}}"#.into()).await;
    let challenge = r#"{"opcode":"CHALLENGE","data":{"mode":"a\nERROR by-hub \u001b[31m\r"}}"#;
    let url = injecting(&hub, challenge).await;
    let _native = Native::start(lanyard_device::DeviceConfig { hub: url, ..config(&hub, 176) });
    let agent = "curl\t\u{9b}31m by-agent";
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n",
        hub.address
    );
    raw(hub.address, request.as_bytes()).await;
    for word in ["by-device ", "by-device-value", "by-master", "by-hub"] {
        logged(word).await;
    }
    for event in &events().clone() {
        let line = event.strip_suffix('\n').unwrap_or_else(|| panic!("no end: {event:?}"));
        assert!(!line.contains(char::is_control), "{event:?}");
    }
}

/// A way to the hub that says something to the device before the hub does.
async fn injecting(hub: &TestHub, text: &'static str) -> lanyard_device::connection::HubUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let address = hub.address;
    tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            let mut there = TcpStream::connect(address).await?;
            let mut request = [0; 4096];
            let count = here.read(&mut request).await?;
            there.write_all(&request[..count]).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(there.read_u8().await?);
            }
            here.write_all(&head).await?;
            here.write_all(&[0x81, u8::try_from(text.len()).unwrap()]).await?;
            here.write_all(text.as_bytes()).await?;
            tokio::spawn(async move { copy_bidirectional(&mut here, &mut there).await });
        }
        Ok::<(), io::Error>(())
    });
    url
}
