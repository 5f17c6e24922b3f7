//! What both kinds of WebSocket have in common: writing from an outbox, pings, and an orderly end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use futures_util::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use lanyard_protocol::CloseCode;
use lanyard_protocol::limits::PONG_TIMEOUT_MS;

use crate::outbox::{Next, Outbox};

/// A frame that cannot be written for this long ends the session (4408).
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// What the other side gets to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Small buffers: 8.5 KiB a session instead of 137 (measured with 1,000 idle sockets). Frames above the wire's bound are
/// still received whole when they are not much larger, so that they can be refused by name.
pub fn configure(upgrade: WebSocketUpgrade, max_frame: usize) -> WebSocketUpgrade {
    upgrade
        .protocols([lanyard_protocol::SUBPROTOCOL])
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 << 20)
        .max_message_size(max_frame * 2)
        .max_frame_size(max_frame * 2)
}

/// Whether the client offers our subprotocol.
pub fn offers_subprotocol(headers: &http::HeaderMap) -> bool {
    headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offered| offered.trim() == lanyard_protocol::SUBPROTOCOL)
}

/// When something last came from the other side.
pub struct LastHeard {
    started: Instant,
    at: AtomicU64,
}

impl LastHeard {
    pub fn new() -> Self {
        Self { started: Instant::now(), at: AtomicU64::new(0) }
    }

    pub fn note(&self) {
        self.at.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.at.load(Ordering::Relaxed)))
    }
}

/// What came.
pub enum Heard {
    Text(String),
    /// A frame that has no business here.
    Binary,
    /// Larger than anything the wire knows.
    TooLarge,
    Gone,
}

/// The next frame that means something.
pub async fn hear(stream: &mut SplitStream<WebSocket>, last: &LastHeard) -> Heard {
    loop {
        let frame = stream.next().await;
        last.note();
        match frame {
            Some(Ok(Message::Text(text))) => return Heard::Text(text.as_str().to_owned()),
            Some(Ok(Message::Binary(_))) => return Heard::Binary,
            // A close is answered by the library, but only if the stream is polled to its end.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
            Some(Err(error)) => {
                let text = error.to_string();
                let too_large = text.contains("too long") || text.contains("Space limit");
                return if too_large { Heard::TooLarge } else { Heard::Gone };
            }
            None => return Heard::Gone,
        }
    }
}

/// Writes what the outbox holds, and pings when it has been quiet; returns when the session is to end.
pub async fn write(
    sink: &mut SplitSink<WebSocket, Message>,
    outbox: &Outbox,
    last: &LastHeard,
    idle: impl Fn() -> Duration,
) -> CloseCode {
    let mut pinged: Option<Instant> = None;
    loop {
        let changed = outbox.changed.notified();
        match outbox.next() {
            Next::Write(text) => {
                let written = tokio::time::timeout(WRITE_TIMEOUT, sink.send(Message::Text(text))).await;
                if !matches!(written, Ok(Ok(()))) {
                    return CloseCode::TooSlow;
                }
                continue;
            }
            Next::Close(code) => return code,
            Next::Nothing => {}
        }
        let silence = last.silence();
        if pinged.is_some_and(|at| silence < at.elapsed()) {
            pinged = None;
        }
        let idle = idle();
        let wake = match pinged {
            Some(at) if at.elapsed() >= Duration::from_millis(PONG_TIMEOUT_MS) => return CloseCode::TooSlow,
            Some(at) => Duration::from_millis(PONG_TIMEOUT_MS).saturating_sub(at.elapsed()),
            None if silence >= idle => {
                let sent = tokio::time::timeout(WRITE_TIMEOUT, sink.send(Message::Ping(Default::default()))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return CloseCode::TooSlow;
                }
                pinged = Some(Instant::now());
                continue;
            }
            None => idle - silence,
        };
        // At most a second: `idle` may have become shorter meanwhile.
        let _ = tokio::time::timeout(wake.min(Duration::from_secs(1)), changed).await;
    }
}

/// Says goodbye and waits a moment for the answer, so that the reason arrives.
pub async fn say_goodbye(mut sink: SplitSink<WebSocket, Message>, mut stream: SplitStream<WebSocket>, code: CloseCode) {
    let frame = CloseFrame { code: code.number(), reason: code.reason().into() };
    let farewell = async {
        if sink.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
}
