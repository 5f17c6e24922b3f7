//! Says what it hears, over the relay's own accept loop, sockets and fragments:
//! `tests/deep/autobahn` speaks to it. The relay itself has no echo, and demands a subprotocol that
//! the suite does not offer: here it is put in, and taken out again.

#![allow(clippy::unwrap_used)]

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use lanyard_relay::testing::{Sink, Socket, send_text, serve, upgrade};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

/// The suite sends messages of 16 MiB, of which the relay would want none; the settings are
/// otherwise the same.
const LARGEST: usize = 16 << 20;

async fn open(mut request: Request) -> Response {
    request
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, lanyard_protocol::SUBPROTOCOL.parse().unwrap());
    let mut response = upgrade(request, LARGEST, echo);
    response.headers_mut().remove(SEC_WEBSOCKET_PROTOCOL);
    response
}

/// As the relay hears: a close is answered by the library, if the stream is polled to its end.
async fn echo(socket: Socket) {
    let (mut sink, mut stream) = socket.split();
    while let Some(Ok(message)) = stream.next().await {
        let said = match message {
            Message::Text(text) => send_text(&mut sink, text).await,
            Message::Binary(bytes) => send_binary(&mut sink, bytes).await,
            _ => Ok(()),
        };
        // Who closes gets what was on its way, and then the answer to the close.
        if said.is_err() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    }
}

/// In fragments too: a frame of 16 MiB is far beyond the write buffer. The relay itself sends no
/// binary ones.
async fn send_binary(sink: &mut Sink, mut rest: Bytes) -> Result<(), Error> {
    let mut kind = Data::Binary;
    loop {
        let part = rest.split_to(rest.len().min(16 * 1024));
        sink.send(Message::Frame(Frame::message(part, OpCode::Data(kind), rest.is_empty())))
            .await?;
        if rest.is_empty() {
            return Ok(());
        }
        kind = Data::Continue;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    serve(listener, Router::new().fallback(get(open))).await;
}
