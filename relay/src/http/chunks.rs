//! `PUT` and `GET /chunks/{ticket}`: the bytes of a run, in from its holder and out to its askers,
//! as they come.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::{HeaderMap, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use lanyard_hub::broker::{Input, ReaderId, ReaderInput, SessionId, SlotInput};
use lanyard_protocol::limits::{MIN_BODY_RATE, MIN_BODY_WINDOW_MS};
use lanyard_protocol::{FailureCode, Ticket};
use tokio::sync::watch;

use crate::chunks::frames::Frames;
use crate::chunks::frames::NextFrame;
use crate::chunks::slot::ReadMark;
use crate::chunks::slot::ReaderMeter;
use crate::chunks::slot::SlotBuffer;
use crate::chunks::slot::SlotError;
use crate::chunks::slot::SlotFiller;
use crate::chunks::slot::SlotRead;
use crate::chunks::tickets::TicketKind;
use crate::error::ApiError;
use crate::limits::connections::ConnectionPermit;
use crate::limits::connections::KnownReason;
use crate::state::{Caller, RelayState};
use crate::ws::sessions::SessionHandle;

/// A pause in a body after which what is here is published.
const SHORT_PAUSE: Duration = Duration::from_millis(1);
/// How often everybody else has a turn before that: the connection reads its socket in the first.
const TURNS: usize = 3;

/// Returns the session that a body belongs to: a ticket that it uses gives it one message more.
fn earner(state: &RelayState, session: SessionId) -> Result<Arc<SessionHandle>, FailureCode> {
    let handle = state.sessions.get(session).ok_or(FailureCode::Unauthenticated)?;
    handle.earned.fetch_add(1, Ordering::Relaxed);
    Ok(handle)
}

/// Redeems a ticket by the head of its request.
fn redeem(
    state: &RelayState,
    caller: Caller,
    ticket: &str,
    is_put: bool,
) -> Result<(Arc<SlotBuffer>, TicketKind), FailureCode> {
    let ticket: Ticket = ticket.parse().map_err(|_| FailureCode::TicketRefused)?;
    state.tickets.redeem(&ticket, caller.session, is_put)
}

/// A holder uploads one run.
pub(crate) async fn put(
    State(state): State<Arc<RelayState>>,
    caller: Caller,
    Path(ticket): Path<String>,
    headers: HeaderMap,
    permit: Option<Extension<Arc<ConnectionPermit>>>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let (slot, _) = redeem(&state, caller, &ticket, true)?;
    let owner = earner(&state, caller.session)?;
    permit.iter().for_each(|permit| permit.claim_body(KnownReason::Device(owner.public_id)));
    if let Err(code) = check_form(&headers, slot.length) {
        state
            .send(Input::Slot(SlotInput::PutFailed {
                slot: slot.id,
                code: FailureCode::Busy,
                culprit: None,
            }))
            .await;
        return Err(code.into());
    }
    state.send(Input::Slot(SlotInput::PutStarted { slot: slot.id })).await;
    // In a task of its own: if the connection dies the handler is dropped, and the slot must still
    // hear of it.
    let fill = tokio::spawn(fill(state.clone(), slot, body, owner));
    match fill.await {
        Ok(Ok(())) => Ok(StatusCode::NO_CONTENT),
        Ok(Err(code)) => Err(code.into()),
        Err(_) => Err(FailureCode::Internal.into()),
    }
}

fn check_form(headers: &HeaderMap, length: u64) -> Result<(), FailureCode> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(FailureCode::UnsupportedEncoding);
    }
    let said = headers.get(header::CONTENT_LENGTH).ok_or(FailureCode::LengthRequired)?;
    let said: u64 =
        said.to_str().ok().and_then(|text| text.parse().ok()).ok_or(FailureCode::BadMessage)?;
    if said == length { Ok(()) } else { Err(FailureCode::BadMessage) }
}

/// Takes the body to its end, or to the first thing that is wrong with it, and tells the broker
/// which.
async fn fill(
    state: Arc<RelayState>,
    slot: Arc<SlotBuffer>,
    body: Body,
    owner: Arc<SessionHandle>,
) -> Result<(), FailureCode> {
    let mut filler = SlotFiller::new(slot.clone(), &state.hashes, &state.pool);
    let mut changes = slot.changes();
    let received = receive(&state, &owner, &slot, &mut filler, body, &mut changes).await;
    let last = match received {
        Ok(()) => filler.finish(),
        Err(refused) => Err(refused),
    };
    state.learn(filler.take_learnt());
    match last {
        Ok(last) => {
            // The broker hears it before any reader can be done with it: a slot whose readers have
            // left while it was still filling would be called off.
            state.send(Input::Slot(SlotInput::PutFinished { slot: slot.id })).await;
            last.publish();
            Ok(())
        }
        Err(SlotError { code, culprit }) => {
            // Whether wrong bytes are an accident or a changed file is the broker's to say: its
            // word ends the slot.
            if code != FailureCode::BadBytes {
                slot.fail(code);
            }
            state.send(Input::Slot(SlotInput::PutFailed { slot: slot.id, code, culprit })).await;
            Err(code)
        }
    }
}

async fn receive(
    state: &RelayState,
    holder: &SessionHandle,
    slot: &SlotBuffer,
    filler: &mut SlotFiller<'_>,
    mut body: Body,
    changes: &mut watch::Receiver<u64>,
) -> Result<(), SlotError> {
    let window = Duration::from_millis(MIN_BODY_WINDOW_MS);
    let enough = MIN_BODY_RATE * MIN_BODY_WINDOW_MS / 1_000;
    let mut deadline = Box::pin(tokio::time::sleep(window));
    let mut before = holder.received.load(Ordering::Relaxed);
    while filler.missing() > 0 {
        let frame = match next_soon(&mut body, filler.has_unpublished()).await {
            Some(frame) => frame,
            None => {
                // What is here may be read while more is long in coming.
                let flushed = filler.flush();
                state.learn(filler.take_learnt());
                flushed?;
                tokio::select! {
                    frame = body.frame() => frame,
                    code = ended(slot, changes) => return Err(SlotError { code, culprit: None }),
                    () = &mut deadline => {
                        let received = holder.received.load(Ordering::Relaxed);
                        if received - before < enough {
                            return Err(SlotError { code: FailureCode::TimedOut, culprit: None });
                        }
                        before = received;
                        deadline.as_mut().reset(tokio::time::Instant::now() + window);
                        continue;
                    }
                }
            }
        };
        let Some(Ok(frame)) = frame else {
            return Err(SlotError { code: FailureCode::Busy, culprit: None });
        };
        if let Ok(data) = frame.into_data() {
            holder.received.fetch_add(data.len() as u64, Ordering::Relaxed);
            state.carried.received.fetch_add(data.len() as u64, Ordering::Relaxed);
            let pushed = filler.push(&data);
            state.learn(filler.take_learnt());
            pushed?;
        }
        if let Some(code) = slot.failed() {
            return Err(SlotError { code, culprit: None });
        }
    }
    Ok(())
}

/// The next frame if it is there, or comes when all else that is ready was done, or within a short
/// pause: most pauses are short, and larger segments are cheaper to hash and to hold. A pause costs
/// a timer, so it comes last. With nothing to publish there is nothing to gain by not waiting
/// longer.
async fn next_soon(
    body: &mut Body,
    has_unpublished: bool,
) -> Option<Option<Result<Frame<Bytes>, axum::Error>>> {
    for _ in 0..TURNS {
        if let Some(frame) = body.frame().now_or_never() {
            return Some(frame);
        }
        if !has_unpublished {
            return None;
        }
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(SHORT_PAUSE, body.frame()).await.ok()
}

/// Waits until the slot fails.
async fn ended(slot: &SlotBuffer, changes: &mut watch::Receiver<u64>) -> FailureCode {
    loop {
        if let Some(code) = slot.failed() {
            return code;
        }
        if changes.changed().await.is_err() {
            return FailureCode::Cancelled;
        }
    }
}

/// An asker takes its slice.
pub(crate) async fn get(
    State(state): State<Arc<RelayState>>,
    caller: Caller,
    Path(ticket): Path<String>,
    permit: Option<Extension<Arc<ConnectionPermit>>>,
) -> Result<Response, ApiError> {
    let (slot, kind) = redeem(&state, caller, &ticket, false)?;
    let asker = earner(&state, caller.session)?;
    permit.iter().for_each(|permit| permit.claim_body(KnownReason::Device(asker.public_id)));
    let TicketKind::Get { reader, ranges } = kind else {
        return Err(FailureCode::TicketRefused.into());
    };
    let length: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let meter = slot.add_reader(reader);
    state.send(Input::Reader(ReaderInput::Started { slot: slot.id, reader })).await;
    let changes = slot.changes();
    let frames = Frames::new(state.large_frames.clone(), permit.map(|permit| permit.network()));
    let leaving = ReaderGuard { state, slot: slot.clone(), reader, meter: meter.clone() };
    let mut reading = BodyReader { slot, ranges: ranges.into(), meter, frames, changes, leaving };
    // The head waits for the first readable byte, or for the failure that becomes the status.
    let first = reading.next().await.transpose()?;
    let rest = stream::unfold(reading, |mut reading| async move {
        let item = reading.next().await?;
        Some((item.map_err(|code| std::io::Error::other(code.as_str())), reading))
    });
    let body = Body::from_stream(stream::StreamExt::chain(stream::iter(first.map(Ok)), rest));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Tells the broker when a reader leaves, however it leaves.
struct ReaderGuard {
    state: Arc<RelayState>,
    slot: Arc<SlotBuffer>,
    reader: ReaderId,
    meter: Arc<ReaderMeter>,
}

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        self.slot.remove_reader(self.reader);
        let delivered = self.meter.delivered.load(Ordering::Relaxed);
        self.state.send_detached(Input::Reader(ReaderInput::Left {
            slot: self.slot.id,
            reader: self.reader,
            delivered,
        }));
    }
}

/// One GET on its way through its ranges.
struct BodyReader {
    slot: Arc<SlotBuffer>,
    ranges: std::collections::VecDeque<Range<u64>>,
    meter: Arc<ReaderMeter>,
    frames: Frames,
    changes: watch::Receiver<u64>,
    leaving: ReaderGuard,
}

impl BodyReader {
    async fn next(&mut self) -> Option<Result<Bytes, FailureCode>> {
        while self.ranges.front().is_some_and(|range| range.is_empty()) {
            self.ranges.pop_front();
        }
        self.ranges.front()?;
        let read = match self.next_frame().await {
            Ok(frame) => self.read(frame).await,
            Err(code) => Err(code),
        };
        if read.is_err() {
            self.ranges.clear();
        }
        Some(read)
    }

    /// Waits until the reader has taken the last frame. A reader that is cut meanwhile is told at
    /// once: the connection ends, and what the transport holds for it goes.
    async fn next_frame(&mut self) -> Result<NextFrame, FailureCode> {
        loop {
            if let Some(code) = self.slot.ended_for(&self.meter) {
                return Err(code);
            }
            tokio::select! {
                biased;
                frame = self.frames.next() => return Ok(frame),
                changed = self.changes.changed() => changed.map_err(|_| FailureCode::Busy)?,
            }
        }
    }

    /// Fills a frame with the next bytes of the first range; waits until there are some.
    async fn read(&mut self, mut frame: NextFrame) -> Result<Bytes, FailureCode> {
        loop {
            let Some(range) = self.ranges.front_mut() else { return Ok(Bytes::new()) };
            let end = range.end.min(range.start + frame.most());
            match self.slot.read(range.start..end, ReadMark::Received, &self.meter) {
                SlotRead::Bytes(bytes) => {
                    range.start += bytes.len() as u64;
                    self.meter.starved.store(false, Ordering::Relaxed);
                    self.meter.delivered.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    self.leaving
                        .state
                        .carried
                        .to_devices
                        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    return Ok(self.frames.give(frame, bytes));
                }
                SlotRead::Failed(code) => return Err(code),
                SlotRead::Wait => {
                    frame.waits();
                    self.meter.starved.store(true, Ordering::Relaxed);
                    self.changes.changed().await.map_err(|_| FailureCode::Busy)?;
                }
            }
        }
    }
}
