//! From an HTTP request to a WebSocket, and large texts in small frames.
//!
//! The library keeps a buffer as large as the largest frame that it ever wrote, for each socket: a
//! roster of a thousand devices, sent once, cost 30 KiB of every session for good (measured). A
//! text therefore goes out in fragments (RFC 6455, 5.4), for which a framework's sockets have no
//! call.

#![cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, reason = "`testing` shows these outside of the crate")
)]

use std::io::Cursor;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use lanyard_protocol::FailureCode;
use lanyard_protocol::limits::{MAX_FIRST_FRAME_BYTES, MAX_UNREGISTERED_BYTES};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::error::ApiError;
use crate::limits::connections::ConnectionPermit;

pub(crate) type Socket = WebSocketStream<UpgradedStream>;
pub(crate) type Sink = SplitSink<Socket, Message>;
pub(crate) type Stream = SplitStream<Socket>;

/// Bytes of a fragment: what a socket's write buffer grows to.
const FRAGMENT: usize = 2 * 1024;

/// What is kept for a socket that does not read: texts wait in its outbox, so that only answers to
/// pings can fill this, and those replace each other then. Anybody may open a socket and send pings
/// (48 of them cost 150 MiB, measured at 4 MiB each).
const MOST_UNWRITTEN: usize = 32 * 1024;

/// Answers the request for a socket and serves it in a task of its own. 400 for what asks for none,
/// or not for ours.
///
/// Small buffers: 10 KiB a session instead of 137 (measured with 1,000 idle sockets), and until it
/// is [`admitted`] a socket may send `max_first` bytes at once.
pub(crate) fn upgrade<F>(
    mut request: Request,
    max_first: usize,
    serve: impl FnOnce(Socket) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    let Some(answer) = handshake(&request) else {
        return ApiError(FailureCode::BadMessage).into_response();
    };
    let upgraded = hyper::upgrade::on(&mut request);
    // The socket outlives its HTTP connection, and is counted as long.
    let permit = request.extensions_mut().remove::<Arc<ConnectionPermit>>();
    tokio::spawn(async move {
        let io = match upgraded.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => {
                return tracing::trace!(%error, "a connection ended before it was a socket");
            }
        };
        if let Some(permit) = &permit {
            permit.upgraded();
        }
        // A socket whose first message may be as long as any is not to be admitted later.
        let heard = (max_first <= MAX_FIRST_FRAME_BYTES).then(Vec::new);
        let connection = UpgradedStream { io, permit: permit.clone(), heard };
        let config = config(max_first);
        let socket = Socket::from_raw_socket(connection, Role::Server, Some(config)).await;
        tokio::select! {
            () = serve(socket) => {}
            () = evicted_unregistered(permit) => tracing::trace!("a socket gave way to a new connection"),
        }
    });
    answer
}

/// Small buffers: the library reserves what a frame's head claims, up to the largest that it may
/// be.
fn config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(MOST_UNWRITTEN)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

async fn evicted_unregistered(permit: Option<Arc<ConnectionPermit>>) {
    if let Some(permit) = permit {
        permit.evicted().await;
        if !permit.is_registered() {
            return;
        }
    }
    std::future::pending().await
}

/// The stream below a socket. It remembers what came before the registration, so that nothing of it
/// is lost when the socket is made anew with the buffers of a session.
#[derive(Debug)]
pub(crate) struct UpgradedStream {
    io: TokioIo<Upgraded>,
    permit: Option<Arc<ConnectionPermit>>,
    heard: Option<Vec<u8>>,
}

impl UpgradedStream {
    /// The place of this connection among all.
    pub(crate) fn permit(&self) -> Option<Arc<ConnectionPermit>> {
        self.permit.clone()
    }
}

impl AsyncRead for UpgradedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        // Pings are answered before anybody has proven anything, and are remembered too: they must
        // come to an end.
        if this.heard.as_ref().is_some_and(|heard| heard.len() >= MAX_UNREGISTERED_BYTES) {
            return Poll::Ready(Err(std::io::ErrorKind::InvalidData.into()));
        }
        let read = Pin::new(&mut this.io).poll_read(cx, buffer);
        if let Some(heard) = &mut this.heard {
            heard.extend_from_slice(&buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for UpgradedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// The bytes behind the first text of a socket: they were read, and not yet looked at.
fn behind_first_text(heard: &[u8]) -> &[u8] {
    let mut rest = heard;
    loop {
        let mut cursor = Cursor::new(rest);
        let Ok(Some((header, length))) = FrameHeader::parse(&mut cursor) else { return &[] };
        let end = cursor.position().saturating_add(length) as usize;
        rest = rest.get(end..).unwrap_or_default();
        if header.is_final && matches!(header.opcode, OpCode::Data(_)) {
            return rest;
        }
    }
}

/// A socket that has proven who it is, with room for the messages of a session. Messages above the
/// wire's bound are still received whole when they are not much larger, so that they can be refused
/// by name.
pub(crate) async fn admitted(
    sink: Sink,
    stream: Stream,
    max_message: usize,
) -> Option<(Sink, Stream)> {
    let mut connection = sink.reunite(stream).ok()?.into_inner();
    let heard = connection.heard.take().unwrap_or_default();
    let rest = behind_first_text(&heard).to_vec();
    if let Some(permit) = &connection.permit {
        permit.registered();
    }
    let config = config(max_message * 2);
    let socket = Socket::from_partially_read(connection, rest, Role::Server, Some(config)).await;
    Some(socket.split())
}

/// The answer of RFC 6455 4.2.2, if the request is one for a socket.
fn handshake(request: &Request) -> Option<Response> {
    let mut asked = http::Request::new(());
    (*asked.method_mut(), *asked.uri_mut()) = (request.method().clone(), request.uri().clone());
    (*asked.version_mut(), *asked.headers_mut()) = (request.version(), request.headers().clone());
    let mut answer = create_response(&asked).ok()?.map(|()| axum::body::Body::empty());
    let chosen = http::HeaderValue::from_str(subprotocol(request.headers())?).ok()?;
    answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    Some(answer)
}

/// Returns what the socket will speak: our subprotocol where it is offered, else that of another
/// version.
fn subprotocol(headers: &http::HeaderMap) -> Option<&str> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    lanyard_protocol::chosen_subprotocol(offered.iter().filter_map(|value| value.to_str().ok()))
}

/// Whether the client offers other versions only.
pub(crate) fn is_of_another_version(headers: &http::HeaderMap) -> bool {
    subprotocol(headers).is_some_and(|chosen| chosen != lanyard_protocol::SUBPROTOCOL)
}

/// Sends one text.
pub(crate) async fn send_text(sink: &mut Sink, text: Utf8Bytes) -> Result<(), Error> {
    if text.len() <= FRAGMENT {
        return sink.send(Message::Text(text)).await;
    }
    let mut rest = Bytes::from(text);
    let mut kind = Data::Text;
    while !rest.is_empty() {
        let part = rest.split_to(FRAGMENT.min(rest.len()));
        let frame = Frame::message(part, OpCode::Data(kind), rest.is_empty());
        sink.send(Message::Frame(frame)).await?;
        kind = Data::Continue;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &str, kind: Data, is_final: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut frame = Frame::message(bytes.as_bytes().to_vec(), OpCode::Data(kind), is_final);
        frame.header_mut().mask = Some([1, 2, 3, 4]);
        frame.format(&mut out).unwrap();
        out
    }

    #[test]
    fn bytes_that_came_with_the_registration_are_not_lost() {
        let mut ping = Vec::new();
        Frame::ping("x").format(&mut ping).unwrap();
        let whole = frame("register", Data::Text, true);
        let parts =
            [frame("regi", Data::Text, false), ping.clone(), frame("ster", Data::Continue, true)]
                .concat();
        let next = frame("FEED_PULL", Data::Text, true);
        for first in [whole, parts] {
            assert_eq!(behind_first_text(&first), [0u8; 0]);
            for cut in 0..=next.len() {
                let heard = [&ping[..], &first, &next[..cut]].concat();
                assert_eq!(behind_first_text(&heard), &next[..cut]);
            }
        }
    }

    /// A71: the library reserves what a frame claims to be, so that its bound is what an unproven
    /// socket may hold.
    #[test]
    fn a71_an_unproven_socket_reserves_no_more_than_a_first_frame() {
        let config = config(MAX_FIRST_FRAME_BYTES);
        assert_eq!(config.max_frame_size, Some(6 * 1024));
        assert_eq!(config.max_message_size, Some(6 * 1024));
        assert!(config.read_buffer_size + config.max_write_buffer_size <= 36 * 1024);
    }
}
