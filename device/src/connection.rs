//! One WebSocket to a relay: opened with the subprotocol, kept alive, ended with a close code. It
//! knows no messages.
//!
//! Reconnecting is the caller's: [`Backoff`] says how long to wait, a new [`RelayConnection`] is
//! opened, and the handshake starts anew.

pub(crate) mod http;
pub(crate) mod hub_url;
pub(crate) mod tls;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use lanyard_protocol::limits::{MAX_FRAME_BYTES, MAX_MASTER_FRAME_BYTES, PING_MS, PONG_TIMEOUT_MS};
use lanyard_protocol::{Channel, SUBPROTOCOL};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WireCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

pub use crate::connection::hub_url::{BadUrl, GivenUrl, HubUrl};
use crate::connection::tls::Stream;

/// Where devices and the master connect.
pub const DEVICE_PATH: &str = "/ws/device";
pub const MASTER_PATH: &str = "/ws/master";

/// A relay answers a TCP connect and the upgrade within this, or it is not there.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// The relay pings who says nothing for `PING_MS`; who hears nothing for a little longer asks by
/// itself.
const QUIET: Duration = Duration::from_millis(PING_MS + 1_000);
const PONG_TIMEOUT: Duration = Duration::from_millis(PONG_TIMEOUT_MS);

/// Why a link did not open or broke.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("no hub answers at {authority}: {source}")]
    Unreachable { authority: String, source: std::io::Error },
    #[error("no hub answers at {authority} in time")]
    TimedOut { authority: String },
    /// Something answered, but not with TLS.
    #[error("{authority} does not speak https as a hub does: {source}")]
    Unsecured { authority: String, source: std::io::Error },
    /// A hub, which takes https only.
    #[error("the hub at {authority} takes https only")]
    TlsRequired { authority: String },
    /// Something answered, but not with a WebSocket.
    #[error("{authority} answers, but not as a hub does (status {status})")]
    NotAHub { authority: String, status: u16 },
    #[error("the connection broke: {0}")]
    Broken(#[from] tungstenite::Error),
    #[error("the hub fell silent")]
    Silent,
}

/// Frames and ends that a connection yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceivedFrame {
    Text(String),
    /// The other side said goodbye, with a code if it gave one. Nothing comes after it.
    Closed(Option<u16>),
}

type Socket = WebSocketStream<Stream>;
type Sink = Arc<Mutex<SplitSink<Socket, Message>>>;

/// An open WebSocket; [`RelayConnection::split`] gives its halves to two tasks.
#[derive(Debug)]
pub struct RelayConnection {
    /// Certificate that proofs over this connection are bound to.
    pub channel: Channel,
    sender: FrameSender,
    receiver: FrameReceiver,
}

/// The half that speaks.
#[derive(Debug, Clone)]
pub struct FrameSender {
    sink: Sink,
}

/// The half that listens, answers pings and notices a dead link.
#[derive(Debug)]
pub struct FrameReceiver {
    stream: SplitStream<Socket>,
    sink: Sink,
    heard: Instant,
    /// When our own ping went out, if it has no answer yet.
    pinged: Option<Instant>,
}

fn upgrade_request(
    url: &HubUrl,
    path: &str,
    origin: Option<&str>,
) -> Result<Request<()>, tungstenite::Error> {
    let mut request = url.ws(path).into_client_request()?;
    let headers = request.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    headers.insert(header::HOST, HeaderValue::from_str(&url.authority())?);
    if let Some(origin) = origin {
        headers.insert(header::ORIGIN, HeaderValue::from_str(origin)?);
    }
    Ok(request)
}

async fn connect(url: &HubUrl) -> Result<TcpStream, ConnectionError> {
    let unreachable = |source| ConnectionError::Unreachable { authority: url.authority(), source };
    let stream = TcpStream::connect(url.host_and_port()).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

/// Over TLS any certificate will do: the hub's proof is made over the one that was seen.
async fn secure(url: &HubUrl, stream: TcpStream) -> Result<(Stream, Channel), ConnectionError> {
    if !url.is_secure() {
        return Ok((Stream::Plain(stream), Channel::PLAIN));
    }
    let failed = |source| ConnectionError::Unsecured { authority: url.authority(), source };
    tls::connect(url.host_and_port().0, stream).await.map_err(failed)
}

/// Small buffers: a socket carries messages, not files. The master's frames may be larger than a
/// device's.
fn socket_config(path: &str) -> WebSocketConfig {
    let most = if path == MASTER_PATH { MAX_MASTER_FRAME_BYTES } else { MAX_FRAME_BYTES };
    WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(most))
        .max_frame_size(Some(most))
}

/// Opens a connection for a plain request of HTTP. Over TLS any certificate will do: nothing secret
/// of a device goes here.
pub async fn connection(
    url: &HubUrl,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, ConnectionError> {
    Ok(secure(url, connect(url).await?).await?.0)
}

impl RelayConnection {
    /// Connects and upgrades. `path` starts with `/`; `origin` is for who poses as a page.
    pub async fn open(
        url: &HubUrl,
        path: &str,
        origin: Option<&str>,
    ) -> Result<Self, ConnectionError> {
        let opening = async {
            let stream = connect(url).await?;
            let (stream, channel) = secure(url, stream).await?;
            let request = upgrade_request(url, path, origin)?;
            match client_async_with_config(request, stream, Some(socket_config(path))).await {
                Ok((socket, _)) => Ok(Self::over(socket, channel)),
                Err(tungstenite::Error::Http(response))
                    if response.status() == 426 && !url.is_secure() =>
                {
                    Err(ConnectionError::TlsRequired { authority: url.authority() })
                }
                Err(tungstenite::Error::Http(response)) => Err(ConnectionError::NotAHub {
                    authority: url.authority(),
                    status: response.status().as_u16(),
                }),
                Err(error) => Err(error.into()),
            }
        };
        let late = ConnectionError::TimedOut { authority: url.authority() };
        timeout(OPEN_TIMEOUT, opening).await.unwrap_or(Err(late))
    }

    fn over(socket: Socket, channel: Channel) -> Self {
        let (sink, stream) = socket.split();
        let sink = Arc::new(Mutex::new(sink));
        let receiver =
            FrameReceiver { stream, sink: sink.clone(), heard: Instant::now(), pinged: None };
        Self { channel, sender: FrameSender { sink }, receiver }
    }

    pub async fn send(&mut self, text: String) -> Result<(), ConnectionError> {
        self.sender.send(text).await
    }

    pub async fn receive(&mut self) -> Result<ReceivedFrame, ConnectionError> {
        self.receiver.receive().await
    }

    pub fn split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }
}

impl FrameSender {
    /// Sends one text frame and waits until it is with the system: a slow relay makes the caller
    /// wait.
    pub async fn send(&self, text: String) -> Result<(), ConnectionError> {
        Ok(self.sink.lock().await.send(Message::text(text)).await?)
    }

    /// Says goodbye; with a number, it is the close code.
    pub async fn close(&self, code: Option<u16>) -> Result<(), ConnectionError> {
        let frame = code.map(|code| CloseFrame { code: WireCode::from(code), reason: "".into() });
        let closing = async { self.sink.lock().await.send(Message::Close(frame)).await };
        match timeout(PONG_TIMEOUT, closing).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(ConnectionError::Silent),
        }
    }
}

impl FrameReceiver {
    /// When silence has lasted too long.
    fn deadline(&self) -> Instant {
        self.pinged.map_or(self.heard + QUIET, |at| at + PONG_TIMEOUT)
    }

    /// The next text, or the end. May be dropped and called again without losing anything.
    pub async fn receive(&mut self) -> Result<ReceivedFrame, ConnectionError> {
        loop {
            let Ok(next) = timeout_at(self.deadline(), self.stream.next()).await else {
                self.ping().await?;
                continue;
            };
            self.heard = Instant::now();
            self.pinged = None;
            match next {
                Some(Ok(Message::Text(text))) => {
                    return Ok(ReceivedFrame::Text(text.as_str().to_owned()));
                }
                Some(Ok(Message::Close(frame))) => {
                    return Ok(ReceivedFrame::Closed(frame.map(|f| f.code.into())));
                }
                // Pings are answered by the library; there are no binary frames in this protocol.
                Some(Ok(_)) => {}
                Some(Err(
                    tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed,
                ))
                | None => {
                    return Ok(ReceivedFrame::Closed(None));
                }
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    async fn ping(&mut self) -> Result<(), ConnectionError> {
        if self.pinged.is_some() {
            return Err(ConnectionError::Silent);
        }
        let ping = async { self.sink.lock().await.send(Message::Ping(Vec::new().into())).await };
        match timeout(PONG_TIMEOUT, ping).await {
            Ok(sent) => sent?,
            Err(_) => return Err(ConnectionError::Silent),
        }
        self.pinged = Some(Instant::now());
        Ok(())
    }
}

/// Full jitter: random(0 … min(cap, base · 2^n)), so that a thousand devices do not come back in
/// step.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    pub const BASE: Duration = Duration::from_millis(250);
    pub const CAP: Duration = Duration::from_secs(15);

    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait before the next try.
    pub fn wait(&mut self) -> Duration {
        let ceiling = Self::CAP.min(Self::BASE.saturating_mul(1 << self.tries.min(16)));
        self.tries = self.tries.saturating_add(1);
        let mut random = [0u8; 8];
        // Without randomness the full wait is still right, only in step with others.
        let share = match getrandom::fill(&mut random) {
            Ok(()) => u64::from_le_bytes(random) as f64 / u64::MAX as f64,
            Err(_) => 1.0,
        };
        ceiling.mul_f64(share)
    }

    /// After a connection that worked.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn url(text: &str) -> HubUrl {
        text.parse().unwrap()
    }

    #[test]
    fn backoff_stays_below_its_ceiling_and_starts_over() {
        let mut backoff = Backoff::new();
        for n in 0..40u32 {
            assert!(
                backoff.wait() <= Backoff::CAP.min(Backoff::BASE.saturating_mul(1 << n.min(16)))
            );
        }
        backoff.reset();
        assert!(backoff.wait() <= Backoff::BASE);
    }

    #[tokio::test]
    async fn a_line_whose_other_side_says_nothing_any_more_is_given_up_after_15_s() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = url(&format!("http://{}", listener.local_addr().unwrap()));
        // Everything is taken, nothing answered: what a half-open line looks like from here.
        let accepted = tokio::spawn(async move { accept(listener).await });
        let link = RelayConnection::open(&hub, "/ws/device", None).await.unwrap();
        let _there = accepted.await.unwrap();
        let (_sender, mut receiver) = link.split();
        tokio::time::pause();
        let started = Instant::now();
        assert!(matches!(receiver.receive().await, Err(ConnectionError::Silent)));
        assert_eq!(started.elapsed().as_secs(), 15);
    }

    async fn accept(listener: TcpListener) -> WebSocketStream<TcpStream> {
        use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
        let (stream, _) = listener.accept().await.unwrap();
        #[allow(clippy::result_large_err)]
        let callback = |request: &Request, mut response: Response| {
            let offered = request.headers().get("sec-websocket-protocol").cloned().unwrap();
            response.headers_mut().insert("sec-websocket-protocol", offered);
            Ok(response)
        };
        tokio_tungstenite::accept_hdr_async(stream, callback).await.unwrap()
    }

    async fn echo_once(listener: TcpListener) {
        let mut socket = accept(listener).await;
        let text = socket.next().await.unwrap().unwrap();
        socket.send(text).await.unwrap();
        let goodbye = CloseFrame { code: WireCode::from(4409), reason: "SUPERSEDED".into() };
        socket.close(Some(goodbye)).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    }

    #[tokio::test]
    async fn a_link_carries_text_and_ends_with_its_close_code() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = url(&format!("http://{}", listener.local_addr().unwrap()));
        let server = tokio::spawn(echo_once(listener));
        let mut link = RelayConnection::open(&hub, "/ws/device", None).await.unwrap();
        link.send("hello".into()).await.unwrap();
        assert_eq!(link.receive().await.unwrap(), ReceivedFrame::Text("hello".into()));
        assert_eq!(link.receive().await.unwrap(), ReceivedFrame::Closed(Some(4409)));
        drop(link);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_port_without_a_listener_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = url(&format!("http://{}", listener.local_addr().unwrap()));
        drop(listener);
        assert!(matches!(
            RelayConnection::open(&hub, "/ws/device", None).await,
            Err(ConnectionError::Unreachable { .. })
        ));
    }
}
