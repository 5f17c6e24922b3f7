//! What an attacker has at hand: raw requests, raw frames, a relay without a master, a master of
//! one's own, other addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use lanyard_device::connection::{
    FrameReceiver, FrameSender, HubUrl, ReceivedFrame, RelayConnection,
};
use lanyard_protocol::identity::{Keypair, Transcript};
use lanyard_protocol::message::*;
use lanyard_protocol::*;
use lanyard_relay::{Relay, RelayConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

/// Sends raw bytes and reads what comes until the end.
pub async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has heard enough may have closed already.
    let _ = stream.write_all(request).await;
    all_of(&mut stream).await
}

/// The same, and tells the server that nothing more comes.
pub async fn raw_then_close(mut stream: TcpStream, request: &[u8]) -> String {
    let _ = stream.write_all(request).await;
    let _ = stream.shutdown().await;
    all_of(&mut stream).await
}

async fn all_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    // A reset is an end, too; what came before it counts.
    while let Ok(count @ 1..) = within(stream.read(&mut part)).await {
        answer.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends raw bytes and reads the head of the answer; the connection stays open.
pub async fn head(address: SocketAddr, request: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match within(stream.read(&mut byte)).await {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    (stream, String::from_utf8_lossy(&head).into_owned())
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// The statuses of all answers that stand in one stream.
pub fn statuses(answer: &str) -> Vec<u16> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

/// Waits for something that must come.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(NEVER, what).await.expect("it comes")
}

/// The text of a request for a socket, with more headers.
pub fn upgrade(path: &str, host: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: lanyard.v2\r\n{headers}\r\n"
    )
}

/// Every route of the relay, as its router says them: path and methods. Where methods are missing
/// here, they are refused.
pub fn routes() -> Vec<(String, Vec<&'static str>)> {
    // The tests of the router add routes of their own, which no relay serves.
    let (source, _tests) = include_str!("../../../relay/src/router.rs")
        .split_once("#[cfg(test)]")
        .expect("it has tests");
    let of = |line: &str| {
        let rest = line.trim().strip_prefix(".route(\"")?;
        let (path, handlers) = rest.split_once('"')?;
        let known =
            ["get", "put", "post", "delete", "patch", "options", "head", "any", "trace", "connect"];
        let methods = known.into_iter().filter(|method| {
            handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(").{method}("))
        });
        Some((path.to_owned(), methods.collect()))
    };
    let routes: Vec<(String, Vec<&str>)> = source.lines().filter_map(of).collect();
    assert_eq!(
        routes.len(),
        source.matches(".route(").count(),
        "each route stands on a line of its own"
    );
    assert!(routes.iter().all(|(_, methods)| !methods.is_empty() && !methods.contains(&"any")));
    routes
}

/// A path of each route, and of what is no route.
pub fn paths() -> Vec<String> {
    let zeros = "0".repeat(32);
    let filled = |path: &str| {
        path.replace("{ticket}", &zeros).replace("{link}", &zeros).replace("{*name}", "x")
    };
    let mut paths: Vec<String> = routes().iter().map(|(path, _)| filled(path)).collect();
    paths.extend(["/", "/index.html", "/no/such/thing"].map(str::to_owned));
    paths
}

/// A relay whose master, if any, is the test's.
pub struct TestRelay {
    pub address: SocketAddr,
    pub url: HubUrl,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl TestRelay {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Each with the same key and secret: a relay that was restarted.
    pub async fn at(listen: SocketAddr) -> Self {
        let config =
            RelayConfig::new(listen, "test hub".into(), Keypair::from_seed(&[200; 32]), SECRET);
        let relay = Relay::bind(config).await.unwrap();
        let address = relay.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(relay.run(async { drop(stopped.await) }));
        Self { address, url: format!("http://{address}").parse().unwrap(), stop, ended }
    }

    pub async fn restarted(self) -> Self {
        let address = self.address;
        drop(self.stop);
        within(self.ended).await.unwrap();
        Self::at(address).await
    }
}

/// A master that does nothing by itself.
pub struct RawMaster {
    sender: FrameSender,
    receiver: FrameReceiver,
    said: u64,
}

impl RawMaster {
    /// Registers by the book, with this roster.
    pub async fn register(
        url: &HubUrl,
        term: u64,
        approved: Vec<DeviceId>,
        refused: Vec<DeviceId>,
    ) -> Self {
        let (sender, receiver, _) = register(url, term).await;
        let mut master = Self { sender, receiver, said: 0 };
        let roster =
            MasterRoster { page: 0, last: true, approved, refused, epoch: 77, revision: 0 };
        master.say(MasterToRelay::MasterRoster(roster)).await;
        master.settle().await;
        master
    }

    pub async fn say(&mut self, message: MasterToRelay) -> Ref {
        self.said += 1;
        let reference = Ref::number(self.said);
        let frame =
            MasterFrame { reference: Some(reference.clone()), ..MasterFrame::plain(message) };
        self.say_text(codec::encode_master(&frame)).await;
        reference
    }

    pub async fn say_text(&mut self, text: String) {
        self.sender.send(text).await.unwrap();
    }

    /// Says something to a relay that may not listen any more.
    pub async fn try_say(&mut self, text: String) {
        let _ = self.sender.send(text).await;
    }

    /// What comes next; the close code at the end.
    pub async fn next(&mut self) -> Result<MasterFrame<RelayToMaster>, Option<u16>> {
        match within(self.receiver.receive()).await {
            Ok(ReceivedFrame::Text(text)) => Ok(codec::decode_master(&text).unwrap()),
            Ok(ReceivedFrame::Closed(code)) => Err(code),
            Err(_) => Err(None),
        }
    }

    pub async fn answer(&mut self, reference: &Ref) -> RelayToMaster {
        loop {
            let frame = self.next().await.expect("the relay answers");
            if frame.reference.as_ref() == Some(reference) {
                return frame.message;
            }
        }
    }

    /// Waits until the relay has done all that it was told.
    pub async fn settle(&mut self) {
        let ping = self.say(MasterToRelay::Ping(Empty {})).await;
        self.answer(&ping).await;
    }

    /// The next knock.
    pub async fn knock(&mut self) -> NewClientRegistered {
        loop {
            let frame = self.next().await.expect("somebody knocks");
            if let RelayToMaster::Relay(RelayMessage::NewClientRegistered(knock)) = frame.message {
                return knock;
            }
        }
    }

    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }
}

/// A socket on which nothing was said yet but the challenge.
pub async fn challenged(url: &HubUrl) -> (RelayConnection, Challenge) {
    let mut link = RelayConnection::open(url, "/ws/device", None).await.unwrap();
    let ReceivedFrame::Text(text) = within(link.receive()).await.unwrap() else {
        panic!("no challenge")
    };
    let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
    let RelayToDevice::Challenge(challenge) = frame.message else { panic!("no challenge: {text}") };
    (link, challenge)
}

/// What comes first after a registration that was changed, or signed otherwise.
pub async fn registers(
    url: &HubUrl,
    seed: u8,
    change: impl FnOnce(&mut ClientRegister, &mut Transcript),
) -> (RelayConnection, ReceivedFrame) {
    let (mut link, challenge) = challenged(url).await;
    let key = Keypair::from_seed(&[seed; 32]);
    let tab = Instance([seed; 16]);
    let (mut register, mut transcript) =
        registration(&url.authority(), &challenge, &key, Reveal([seed; 32]), tab);
    change(&mut register, &mut transcript);
    link.send(codec::encode(&DeviceToRelay::ClientRegister(register), None)).await.unwrap();
    let first = within(link.receive()).await.unwrap();
    (link, first)
}

/// Reads until the socket is closed.
pub async fn close_code(link: &mut RelayConnection) -> Option<u16> {
    loop {
        match within(link.receive()).await {
            Ok(ReceivedFrame::Text(_)) => {}
            Ok(ReceivedFrame::Closed(code)) => return code,
            Err(_) => return None,
        }
    }
}

/// A way to the relay that comes from another address of this machine's loopback.
pub async fn from_address(to: SocketAddr, from: Ipv4Addr) -> HubUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4()?;
                socket.bind((from, 0).into())?;
                let mut there = socket.connect(to).await?;
                copy_bidirectional(&mut here, &mut there).await
            });
        }
    });
    url
}

/// Somebody on the way who records every byte in both directions, as a listener on plain http does.
pub struct Tap {
    pub url: HubUrl,
    /// For each connection what went up, and what came down.
    heard: Arc<Mutex<Vec<[Vec<u8>; 2]>>>,
}

impl Tap {
    pub async fn on(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let heard: Arc<Mutex<Vec<[Vec<u8>; 2]>>> = Arc::default();
        let all = heard.clone();
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                let there = TcpStream::connect(to).await.unwrap();
                let connection = {
                    let mut all = all.lock().unwrap();
                    all.push(Default::default());
                    all.len() - 1
                };
                let ((here_out, here_in), (there_out, there_in)) =
                    (here.into_split(), there.into_split());
                tokio::spawn(record(here_out, there_in, all.clone(), (connection, 0)));
                tokio::spawn(record(there_out, here_in, all.clone(), (connection, 1)));
            }
        });
        Self { url, heard }
    }

    /// All bytes of all connections.
    pub fn bytes(&self) -> Vec<u8> {
        self.heard.lock().unwrap().iter().flatten().flatten().copied().collect()
    }

    /// All HTTP requests that prove a session, whole.
    pub fn proven_requests(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for [up, _] in self.heard.lock().unwrap().iter() {
            let mut rest = &up[..];
            while let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&rest[..end]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let whole = end + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
                if head.contains("authorization: lanyard ") {
                    found.push(rest[..whole].to_vec());
                }
                rest = if head.contains("upgrade: websocket") { &[] } else { &rest[whole..] };
            }
        }
        found
    }
}

/// Passes one direction on and keeps it.
async fn record(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    all: Arc<Mutex<Vec<[Vec<u8>; 2]>>>,
    (connection, direction): (usize, usize),
) {
    let mut part = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut part).await {
        all.lock().unwrap()[connection][direction].extend_from_slice(&part[..count]);
        if to.write_all(&part[..count]).await.is_err() {
            break;
        }
    }
}

/// The status of what is sent from this address of the loopback.
pub async fn status_from(address: SocketAddr, from: Ipv4Addr, request: &[u8]) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    // A server that has heard enough may have closed already.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && matches!(within(stream.read(&mut byte)).await, Ok(1)) {
        answer.push(byte[0]);
    }
    status(&String::from_utf8_lossy(&answer))
}

/// A WebSocket whose frames are made by hand.
pub struct RawSocket(pub TcpStream);

impl RawSocket {
    pub async fn open(address: SocketAddr) -> Self {
        let (stream, head) = head(address, &upgrade("/ws/device", &address.to_string(), "")).await;
        assert_eq!(status(&head), 101, "{head}");
        Self(stream)
    }

    /// Sends a frame with this first byte; `false` when the other side no longer takes it.
    pub async fn send(&mut self, first: u8, payload: &[u8]) -> bool {
        let mut frame = vec![first];
        match payload.len() {
            0..126 => frame.push(0x80 | payload.len() as u8),
            126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend((payload.len() as u16).to_be_bytes());
            }
            long => {
                frame.push(0x80 | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        // A mask of zeros is a mask.
        frame.extend([0; 4]);
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await.is_ok()
    }

    /// The code that the socket is closed with; `None` for an end without a word.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            let mut head = [0; 2];
            within(self.0.read_exact(&mut head)).await.ok()?;
            let length = match head[1] & 0x7f {
                126 => u64::from(self.0.read_u16().await.ok()?),
                127 => self.0.read_u64().await.ok()?,
                short => u64::from(short),
            };
            let mut payload = vec![0; length as usize];
            within(self.0.read_exact(&mut payload)).await.ok()?;
            if head[0] & 0x0f == 8 {
                return Some(u16::from_be_bytes([*payload.first()?, *payload.get(1)?]));
            }
        }
    }
}

/// All that two answers could be told apart by, but for the date.
pub async fn look(answer: reqwest::Response) -> (u16, Vec<(String, String)>, String) {
    let status = answer.status().as_u16();
    let mut headers: Vec<(String, String)> = answer
        .headers()
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    headers.sort();
    (status, headers, answer.text().await.unwrap())
}

/// The owner's answer to one upload, in parts of the test's choosing.
pub struct UploadFeed(tokio::sync::mpsc::Sender<Result<bytes::Bytes, std::io::Error>>);

impl UploadFeed {
    /// Begins an upload that nothing has come of yet.
    pub fn begin(
        owner: &TestDevice,
        upload: &UploadChunkRequest,
    ) -> (Self, JoinHandle<reqwest::Result<reqwest::Response>>) {
        let (feed, source) = tokio::sync::mpsc::channel(1);
        let source = futures_util::stream::unfold(source, |mut s| async move {
            s.recv().await.map(|item| (item, s))
        });
        let body = reqwest::Body::wrap_stream(source);
        let put = owner.put(&upload.ticket, body).header("content-length", upload.length);
        (Self(feed), tokio::spawn(put.send()))
    }

    pub async fn push(&self, bytes: &[u8]) {
        self.0.send(Ok(bytes::Bytes::copy_from_slice(bytes))).await.unwrap();
    }
}
