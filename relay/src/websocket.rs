//! From an HTTP request to a WebSocket, and large texts in small frames.
//!
//! The library keeps a buffer as large as the largest frame that it ever wrote, for each socket: a roster of a thousand
//! devices, sent once, cost 30 KiB of every session for good (measured). A text therefore goes out in fragments (RFC 6455,
//! 5.4), for which a framework's sockets have no call.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::{SplitSink, SplitStream};
use http::header;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use lanyard_protocol::FailureCode;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::error::ApiError;
use crate::lobby::Guest;

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;
pub type Sink = SplitSink<Socket, Message>;
pub type Stream = SplitStream<Socket>;

/// Bytes of a fragment: what a socket's write buffer grows to.
const FRAGMENT: usize = 2 * 1024;

/// What is kept for a socket that does not read: texts wait in its outbox, so that only answers to pings can fill this, and
/// those replace each other then. Anybody may open a socket and send pings (48 of them cost 150 MiB, measured at 4 MiB each).
const MOST_UNWRITTEN: usize = 32 * 1024;

/// Answers the request for a socket and serves it in a task of its own. 400 for what asks for none, or not for ours.
///
/// Small buffers: 10 KiB a session instead of 137 (measured with 1,000 idle sockets). Messages above the wire's bound are
/// still received whole when they are not much larger, so that they can be refused by name.
pub fn upgrade<F>(
    mut request: Request,
    max_message: usize,
    serve: impl FnOnce(Socket) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    let Some(answer) = handshake(&request) else {
        return ApiError(FailureCode::BadMessage).into_response();
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(MOST_UNWRITTEN)
        .max_message_size(Some(max_message * 2))
        .max_frame_size(Some(max_message * 2));
    let upgraded = hyper::upgrade::on(&mut request);
    // The socket outlives its HTTP connection, and is counted as long.
    let guest = request.extensions_mut().remove::<Arc<Guest>>();
    tokio::spawn(async move {
        let _counted = guest;
        match upgraded.await {
            Ok(io) => serve(Socket::from_raw_socket(TokioIo::new(io), Role::Server, Some(config)).await).await,
            Err(error) => tracing::trace!(%error, "a connection ended before it was a socket"),
        }
    });
    answer
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

/// Returns what the socket will speak: our subprotocol where it is offered, else that of another version.
fn subprotocol(headers: &http::HeaderMap) -> Option<&str> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    lanyard_protocol::chosen_subprotocol(offered.iter().filter_map(|value| value.to_str().ok()))
}

/// Whether the client offers other versions only.
pub fn is_of_another_version(headers: &http::HeaderMap) -> bool {
    subprotocol(headers).is_some_and(|chosen| chosen != lanyard_protocol::SUBPROTOCOL)
}

/// Sends one text.
pub async fn send_text(sink: &mut Sink, text: Utf8Bytes) -> Result<(), Error> {
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
