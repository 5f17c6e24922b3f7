//! What both kinds of WebSocket have in common: writing from an outbox, pings, and an orderly end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use lanyard_protocol::CloseCode;
use lanyard_protocol::limits::{PING_MS, PONG_TIMEOUT_MS};
use tokio_tungstenite::tungstenite::{Error, Message, protocol::CloseFrame};

use crate::limits::outbox::Outbox;
use crate::limits::outbox::WriterStep;
use crate::state::RelayState;
use crate::ws::upgrade::Sink;
use crate::ws::upgrade::Stream;
use crate::ws::upgrade::send_text;

/// A frame that cannot be written for this long ends the session (4408).
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the other side to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Activity of the other side: how many frames, and when last.
pub(crate) struct Activity {
    started: Instant,
    at: AtomicU64,
    frames: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), at: AtomicU64::new(0), frames: AtomicU64::new(0) }
    }

    pub(crate) fn note(&self) {
        self.at.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.started
            .elapsed()
            .saturating_sub(Duration::from_millis(self.at.load(Ordering::Relaxed)))
    }

    fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }
}

/// The next step after silence.
#[derive(Debug, PartialEq, Eq)]
enum HeartbeatStep {
    Wait(Duration),
    Ping,
    GiveUp,
}

/// Asks for a sign of life after a while, and gives up when none comes. Any frame is one. Frames
/// are counted: by the clock an answer that comes within its grain could not be told from one that
/// came before.
#[derive(Debug, Default)]
struct Heartbeat {
    /// When a ping went out, and how many frames had come before it.
    pinged: Option<(Instant, u64)>,
}

impl Heartbeat {
    fn step(&mut self, now: Instant, frames: u64, silence: Duration) -> HeartbeatStep {
        let quiet = Duration::from_millis(PING_MS);
        let timeout = Duration::from_millis(PONG_TIMEOUT_MS);
        match self.pinged {
            Some((at, before)) if frames == before => {
                match timeout.checked_sub(now.duration_since(at)) {
                    Some(left) if !left.is_zero() => HeartbeatStep::Wait(left),
                    _ => HeartbeatStep::GiveUp,
                }
            }
            _ if silence >= quiet => {
                self.pinged = Some((now, frames));
                HeartbeatStep::Ping
            }
            _ => {
                self.pinged = None;
                HeartbeatStep::Wait(quiet - silence)
            }
        }
    }
}

/// A frame, or the end of the connection.
pub(crate) enum Incoming {
    Text(String),
    /// A frame that has no business here.
    Binary,
    /// Larger than anything the wire knows.
    TooLarge,
    Gone,
}

/// The next frame that means something.
pub(crate) async fn receive(stream: &mut Stream, last: &Activity) -> Incoming {
    loop {
        let frame = stream.next().await;
        last.note();
        match frame {
            Some(Ok(Message::Text(text))) => return Incoming::Text(text.as_str().to_owned()),
            Some(Ok(Message::Binary(_))) => return Incoming::Binary,
            // A close is answered by the library, but only if the stream is polled to its end.
            Some(Ok(
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_),
            )) => {}
            Some(Err(Error::Capacity(_))) => return Incoming::TooLarge,
            Some(Err(_)) | None => return Incoming::Gone,
        }
    }
}

/// Writes what the outbox holds, and pings when it has been quiet; returns when the session is to
/// end.
pub(crate) async fn write(sink: &mut Sink, outbox: &Outbox, last: &Activity) -> CloseCode {
    let mut vigil = Heartbeat::default();
    loop {
        let changed = outbox.changed.notified();
        match outbox.next() {
            WriterStep::Write(text) => {
                let written = tokio::time::timeout(WRITE_TIMEOUT, send_text(sink, text)).await;
                if !matches!(written, Ok(Ok(()))) {
                    return CloseCode::TooSlow;
                }
                continue;
            }
            WriterStep::Close(code) => return code,
            WriterStep::Nothing => {}
        }
        let wake = match vigil.step(Instant::now(), last.frames(), last.silence()) {
            HeartbeatStep::Wait(wake) => wake,
            HeartbeatStep::GiveUp => return CloseCode::TooSlow,
            HeartbeatStep::Ping => {
                let sent = tokio::time::timeout(
                    WRITE_TIMEOUT,
                    sink.send(Message::Ping(Default::default())),
                )
                .await;
                if !matches!(sent, Ok(Ok(()))) {
                    return CloseCode::TooSlow;
                }
                continue;
            }
        };
        let _ = tokio::time::timeout(wake, changed).await;
    }
}

/// Counts the reason, and says it.
pub(crate) async fn close_with_code(
    state: &RelayState,
    sink: Sink,
    stream: Stream,
    code: CloseCode,
) {
    state.rejections.closed(code);
    close_gracefully(sink, stream, code).await;
}

/// Says goodbye and waits a moment for the answer, so that the reason arrives.
async fn close_gracefully(mut sink: Sink, mut stream: Stream, code: CloseCode) {
    let frame = CloseFrame { code: code.number().into(), reason: code.reason().into() };
    let farewell = async {
        if sink.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(PING_MS);
    const TIMEOUT: Duration = Duration::from_millis(PONG_TIMEOUT_MS);
    const BLINK: Duration = Duration::from_millis(1);

    #[test]
    fn an_answer_within_the_same_millisecond_is_an_answer() {
        let (mut vigil, start) = (Heartbeat::default(), Instant::now());
        assert_eq!(vigil.step(start, 7, QUIET), HeartbeatStep::Ping);
        // The clock of what was heard stands a grain before the ping.
        assert_eq!(vigil.step(start, 8, BLINK), HeartbeatStep::Wait(QUIET - BLINK));
        assert_eq!(vigil.step(start + QUIET, 8, QUIET), HeartbeatStep::Ping);
    }

    #[test]
    fn a_silent_peer_is_given_up_within_15_s_and_not_before_the_timeout() {
        let (mut vigil, start) = (Heartbeat::default(), Instant::now());
        assert_eq!(vigil.step(start, 7, Duration::ZERO), HeartbeatStep::Wait(QUIET));
        let pinged = start + QUIET;
        assert_eq!(vigil.step(pinged, 7, QUIET), HeartbeatStep::Ping);
        let almost = TIMEOUT - BLINK;
        assert_eq!(vigil.step(pinged + almost, 7, QUIET + almost), HeartbeatStep::Wait(BLINK));
        assert_eq!(vigil.step(pinged + TIMEOUT, 7, QUIET + TIMEOUT), HeartbeatStep::GiveUp);
        assert!(QUIET + TIMEOUT < Duration::from_secs(15));
    }
}
