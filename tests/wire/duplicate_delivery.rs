//! Every frame twice, in both directions, but for the handshake: devices and the relay take the
//! second for the first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use lanyard_protocol::FailureCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::header::{HOST, SEC_WEBSOCKET_PROTOCOL};

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::{TestHub, content};

/// How often each ticket was used for an upload.
type Uploads = Arc<Mutex<BTreeMap<String, usize>>>;

/// A way to the hub on which frames come twice.
struct DoublingProxy {
    address: SocketAddr,
    uploads: Uploads,
}

impl DoublingProxy {
    async fn to(hub: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, uploads) = (listener.local_addr().unwrap(), Uploads::default());
        let seen = uploads.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, hub, seen.clone()));
            }
        });
        Self { address, uploads }
    }
}

async fn carry(stream: TcpStream, hub: SocketAddr, uploads: Uploads) {
    let mut head = [0; 8];
    while stream.peek(&mut head).await.is_ok_and(|length| (1..head.len()).contains(&length)) {
        tokio::task::yield_now().await;
    }
    if &head == b"GET /ws/" {
        carry_frames(stream, hub).await
    } else {
        carry_bytes(stream, hub, uploads).await
    }
}

/// Said once on each socket, for they make it what it is.
fn is_handshake(text: &str) -> bool {
    ["CHALLENGE", "CLIENT_REGISTER", "CLIENT_REGISTER_ACK"]
        .iter()
        .any(|opcode| text.contains(&format!("\"opcode\":\"{opcode}\"")))
}

#[allow(clippy::result_large_err)]
async fn carry_frames(stream: TcpStream, hub: SocketAddr) {
    let mut asked = None;
    let answer = |request: &Request, mut response: Response| {
        let protocol = request.headers().get(SEC_WEBSOCKET_PROTOCOL).cloned().unwrap();
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol.clone());
        // Devices sign the address that they called, and the relay compares it with what it was
        // called.
        let host = request.headers().get(HOST).cloned().unwrap();
        asked = Some((request.uri().path().to_owned(), protocol, host));
        Ok(response)
    };
    let Ok(near) = tokio_tungstenite::accept_hdr_async(stream, answer).await else { return };
    let (path, protocol, host) = asked.unwrap();
    let mut request = format!("ws://{hub}{path}").into_client_request().unwrap();
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    request.headers_mut().insert(HOST, host);
    let far = TcpStream::connect(hub).await.unwrap();
    let Ok((far, _)) = tokio_tungstenite::client_async(request, far).await else { return };
    let ((near_out, near_in), (far_out, far_in)) = (near.split(), far.split());
    tokio::select! {
        () = twice(near_in, far_out) => {}
        () = twice(far_in, near_out) => {}
    }
}

async fn twice<E>(
    mut from: impl StreamExt<Item = Result<Message, E>> + Unpin,
    mut to: impl SinkExt<Message> + Unpin,
) {
    while let Some(Ok(message)) = from.next().await {
        let times = match &message {
            Message::Text(text) => 2 - usize::from(is_handshake(text)),
            Message::Close(_) => 1,
            _ => 0,
        };
        for _ in 0..times {
            if to.send(message.clone()).await.is_err() {
                return;
            }
        }
    }
}

/// Plain HTTP, as it is; which tickets its PUTs name is noted.
async fn carry_bytes(stream: TcpStream, hub: SocketAddr, uploads: Uploads) {
    const NAMED: &[u8] = b"PUT /chunks/";
    const TICKET: usize = 32;
    let far = TcpStream::connect(hub).await.unwrap();
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
        (stream.into_split(), far.into_split());
    let back = tokio::spawn(async move { tokio::io::copy(&mut far_in, &mut near_out).await });
    let (mut seen, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(length @ 1..) = near_in.read(&mut buffer).await {
        seen.extend_from_slice(&buffer[..length]);
        while let Some(at) =
            seen.windows(NAMED.len() + TICKET).position(|part| part.starts_with(NAMED))
        {
            let ticket = &seen[at + NAMED.len()..][..TICKET];
            *uploads
                .lock()
                .unwrap()
                .entry(String::from_utf8_lossy(ticket).into_owned())
                .or_default() += 1;
            seen.drain(..at + NAMED.len() + TICKET);
        }
        seen.drain(..seen.len().saturating_sub(NAMED.len() + TICKET - 1));
        if far_out.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    drop(far_out);
    let _ = back.await;
}

#[tokio::test]
async fn everything_said_twice_is_done_once() {
    let hub = TestHub::start().await;
    let way = DoublingProxy::to(hub.address).await;
    let by_the_way = |seed| {
        let mut config = config(&hub, seed);
        config.hub = format!("http://{}", way.address).parse().unwrap();
        config
    };
    let mut ana = Native::inside_as(&hub, by_the_way(1)).await;
    let mut bo = Native::inside_as(&hub, by_the_way(2)).await;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let album = from.path().join("album");
    std::fs::create_dir(&album).unwrap();
    let files =
        [("film.mkv", 24_000_000u64), ("note.txt", 5), ("nothing", 0), ("two groups", 300_000)];
    for (name, size) in files {
        std::fs::write(album.join(name), content(size)).unwrap();
    }
    assert_eq!(ana.shares(&album).await, files.len());
    let wanted = bo.sees(files.len()).await;
    let (saved, failed) = bo.fetches(wanted, to.path()).await;
    assert_eq!((saved.len(), failed), (files.len(), Vec::<FailureCode>::new()));
    for (name, size) in files {
        assert_eq!(
            std::fs::read(to.path().join("album").join(name)).unwrap(),
            content(size),
            "{name}"
        );
    }
    let uploads = way.uploads.lock().unwrap();
    assert!(uploads.len() > 3, "a large file comes in several runs: {uploads:?}");
    assert!(
        uploads.values().all(|times| *times == 1),
        "an upload that is asked for twice is one: {uploads:?}"
    );
}
