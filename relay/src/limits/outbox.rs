//! What waits to be written to one session. Bounded: a reader that falls behind loses its queued
//! *changes* for one FEED_DIRTY and pulls them later; answers are kept. It never makes the driver
//! wait.

use std::collections::VecDeque;

use lanyard_protocol::limits::{OUTBOX_BYTES, OUTBOX_MESSAGES};
use lanyard_protocol::{CloseCode, RelayToDevice, codec};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Beyond this many times its bound even answers do not fit: the session is closed as too slow.
const HARD_FACTOR: usize = 8;

/// One frame and whether a pull of the feed would make it superfluous.
#[derive(Debug, Clone)]
pub(crate) struct QueuedFrame {
    pub text: Utf8Bytes,
    pub is_change: bool,
}

/// The next step of the writer.
#[derive(Debug)]
pub(crate) enum WriterStep {
    Write(Utf8Bytes),
    Close(CloseCode),
    /// The queue is empty and the session goes on.
    Nothing,
}

#[derive(Debug, Default)]
struct OutboxState {
    queue: VecDeque<QueuedFrame>,
    bytes: usize,
    /// A FEED_DIRTY is queued already.
    dirty: bool,
    closing: Option<CloseCode>,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<OutboxState>,
    pub changed: Notify,
    max_messages: usize,
    max_bytes: usize,
}

impl Outbox {
    /// Creates the outbox of a device.
    pub(crate) fn for_device() -> Self {
        Self::bounded(OUTBOX_MESSAGES, OUTBOX_BYTES)
    }

    /// Creates the outbox of the master, which receives everybody's requests.
    pub(crate) fn for_master() -> Self {
        Self::bounded(65_536, 64 << 20)
    }

    fn bounded(max_messages: usize, max_bytes: usize) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), max_messages, max_bytes }
    }

    /// Queues a frame; never waits.
    pub(crate) fn push(&self, message: QueuedFrame) {
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return;
        }
        let full = |state: &OutboxState| {
            state.queue.len() >= self.max_messages
                || state.bytes + message.text.len() > self.max_bytes
        };
        if full(&state) {
            make_dirty(&mut state);
            if message.is_change {
                drop(state);
                return self.changed.notify_one();
            }
        }
        if state.bytes + message.text.len() > self.max_bytes * HARD_FACTOR {
            state.closing = Some(CloseCode::TooSlow);
        }
        state.bytes += message.text.len();
        state.queue.push_back(message);
        drop(state);
        self.changed.notify_one();
    }

    /// Closes after what is queued; the first reason counts.
    pub(crate) fn close(&self, code: CloseCode) {
        self.state.lock().closing.get_or_insert(code);
        self.changed.notify_one();
    }

    pub(crate) fn next(&self) -> WriterStep {
        let mut state = self.state.lock();
        match (state.queue.pop_front(), state.closing) {
            (Some(_), Some(CloseCode::TooSlow)) | (None, Some(CloseCode::TooSlow)) => {
                WriterStep::Close(CloseCode::TooSlow)
            }
            (Some(message), _) => {
                state.bytes -= message.text.len();
                if state.queue.is_empty() {
                    state.dirty = false;
                }
                WriterStep::Write(message.text)
            }
            (None, Some(code)) => WriterStep::Close(code),
            (None, None) => WriterStep::Nothing,
        }
    }

    /// A device that asks faster than it reads is not listened to until it has read.
    pub(crate) fn is_crowded(&self) -> bool {
        let state = self.state.lock();
        state.bytes > self.max_bytes / 2 && state.closing.is_none()
    }
}

/// Takes the queued changes out and puts one FEED_DIRTY in their place.
fn make_dirty(state: &mut OutboxState) {
    state.queue.retain(|message| !message.is_change);
    if !state.dirty {
        state.dirty = true;
        let text = codec::encode(&RelayToDevice::FeedDirty(Default::default()), None);
        state.queue.push_back(QueuedFrame { text: text.into(), is_change: false });
    }
    state.bytes = state.queue.iter().map(|message| message.text.len()).sum();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(outbox: &Outbox) -> Option<String> {
        match outbox.next() {
            WriterStep::Write(text) => Some(text.to_string()),
            WriterStep::Close(_) | WriterStep::Nothing => None,
        }
    }

    #[test]
    fn changes_that_do_not_fit_become_one_feed_dirty_and_answers_stay() {
        let outbox = Outbox::bounded(3, 1_000);
        outbox.push(QueuedFrame { text: "answer".into(), is_change: false });
        for _ in 0..10 {
            outbox.push(QueuedFrame { text: "change".into(), is_change: true });
        }
        assert_eq!(text(&outbox).as_deref(), Some("answer"));
        let rest: Vec<String> = std::iter::from_fn(|| text(&outbox)).collect();
        assert_eq!(rest.iter().filter(|t| t.contains("FEED_DIRTY")).count(), 1, "{rest:?}");
        assert!(rest.len() <= 3, "{rest:?}");
    }

    #[test]
    fn queued_messages_are_written_before_the_close() {
        let outbox = Outbox::for_device();
        outbox.push(QueuedFrame { text: "last words".into(), is_change: false });
        outbox.close(CloseCode::Revoked);
        outbox.push(QueuedFrame { text: "too late".into(), is_change: false });
        assert_eq!(text(&outbox).as_deref(), Some("last words"));
        assert!(matches!(outbox.next(), WriterStep::Close(CloseCode::Revoked)));
    }

    #[test]
    fn even_answers_have_a_bound() {
        let outbox = Outbox::bounded(1, 10);
        for _ in 0..20 {
            outbox.push(QueuedFrame { text: "0123456789".into(), is_change: false });
        }
        assert!(matches!(outbox.next(), WriterStep::Close(CloseCode::TooSlow)));
    }
}
