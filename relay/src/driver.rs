//! The only owner of the Broker: an input, then its effects to the last, then the next. Nothing
//! here waits for a socket.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lanyard_hub::Moment;
use lanyard_hub::broker::{
    Broker, BrokerConfig, CallEffect, Effect, Input, LinkEffect, LinkInput, MasterEffect, NewSlot,
    ReaderInput, SessionEffect, SessionId, SlotEffect, SlotInput,
};
use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::message::ClientRegisterAck;
use lanyard_protocol::{FailureCode, Membership, Ref, RelayToDevice, codec};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use crate::chunks::slot::SlotBuffer;
use crate::chunks::tickets::TicketKind;
use crate::limits::outbox::QueuedFrame;
use crate::state::{CallAnswer, DriverMessage, LinkEvent, RelayState};
use crate::stats::BrokerStats;

pub(crate) async fn run(
    state: Arc<RelayState>,
    mut inputs: mpsc::Receiver<DriverMessage>,
    stop: CancellationToken,
) {
    let started = Instant::now();
    let now = || Moment(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    let config = BrokerConfig { budget_bytes: state.config.budget_bytes };
    let mut broker = Broker::new(config, state.seed);
    loop {
        let wake = broker.poll_timeout().map(|at| started + Duration::from_millis(at.0));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            input = inputs.recv() => match input {
                Some(DriverMessage::Input(input)) => broker.handle(now(), input),
                Some(DriverMessage::Stats(reply)) => drop(reply.send(stats(&broker))),
                None => return,
            },
            () = sleep_until(wake) => broker.handle_timeout(now()),
        }
        while let Some(effect) = broker.poll_effect() {
            apply(&state, effect);
        }
        state.hub_ready.store(broker.is_hub_ready(), Ordering::Relaxed);
    }
}

fn stats(broker: &Broker) -> BrokerStats {
    BrokerStats {
        counts: broker.counts(),
        tally: broker.tally(),
        reserved_bytes: broker.reserved_bytes(),
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Carries out one effect of the broker. Each family has a function that matches it whole.
fn apply(state: &Arc<RelayState>, effect: Effect) {
    match effect {
        Effect::Session(effect) => apply_to_session(state, effect),
        Effect::Master(effect) => apply_to_master(state, effect),
        Effect::Slot(effect) => apply_to_slot(state, effect),
        Effect::Link(effect) => apply_to_link(state, effect),
        Effect::Call(effect) => apply_to_call(state, effect),
    }
}

fn apply_to_session(state: &RelayState, effect: SessionEffect) {
    match effect {
        SessionEffect::Acknowledge { session, membership, hub_ready } => {
            acknowledge(state, session, membership, hub_ready)
        }
        SessionEffect::Send { session, message, reference } => {
            send(state, session, &message, reference)
        }
        SessionEffect::Broadcast { sessions, message, answered } => {
            broadcast(state, &sessions, &message, answered)
        }
        SessionEffect::Close { session, code } => state.sessions.close(session, code),
    }
}

fn apply_to_master(state: &RelayState, effect: MasterEffect) {
    match effect {
        MasterEffect::Send { session, frame } => {
            if let Some(outbox) = state.sessions.master(session) {
                outbox.push(QueuedFrame {
                    text: codec::encode_master(&frame).into(),
                    is_change: false,
                });
            }
        }
        MasterEffect::Close { session, code } => {
            if let Some(outbox) = state.sessions.remove_master(session) {
                outbox.close(code);
            }
        }
    }
}

/// Applies what is about slots, their tickets, and the group hashes that are kept.
fn apply_to_slot(state: &Arc<RelayState>, effect: SlotEffect) {
    match effect {
        SlotEffect::Open(new) => open_slot(state, *new),
        SlotEffect::OpenHashes { slot, file, .. } => open_hashes(state, slot, file),
        SlotEffect::GrantRead { ticket, session, slot, reader, ranges } => {
            if let Some(slot) = state.slots.get(&slot).map(|slot| slot.clone()) {
                state.tickets.issue(ticket, session, TicketKind::Get { reader, ranges }, slot);
            }
        }
        SlotEffect::RevokeTicket { ticket } => {
            state.tickets.revoke(&ticket);
        }
        SlotEffect::Fail { slot, code } => {
            if let Some((_, slot)) = state.slots.remove(&slot) {
                slot.fail(code);
                // A PUT that has not begun can no longer; GETs that have a ticket learn the code
                // from the slot.
                slot.put_ticket.iter().for_each(|ticket| state.tickets.revoke(ticket));
            }
        }
        SlotEffect::Drop { slot } => {
            tracing::trace!(slot = slot.0, "a slot goes");
            if let Some((_, slot)) = state.slots.remove(&slot) {
                slot.fail(FailureCode::Busy);
            }
        }
        SlotEffect::CutReader { slot, reader, code } => {
            if let Some(slot) = state.slots.get(&slot) {
                slot.cut_reader(reader, code);
            }
        }
        SlotEffect::ForgetHashes { file } => state.hashes.forget(&file),
    }
}

/// Applies what is about a want of a link's response.
fn apply_to_link(state: &Arc<RelayState>, effect: LinkEffect) {
    match effect {
        LinkEffect::Ready { reader, want, slot, slice, parts } => {
            if let Some(slot) = state.slots.get(&slot).map(|slot| slot.clone()) {
                tell_link(state, reader, want, LinkEvent::Ready { slot, slice, parts });
            }
        }
        LinkEffect::Failed { reader, want, code, .. } => {
            tell_link(state, reader, want, LinkEvent::Failed { code })
        }
        LinkEffect::Waits { reader, want, .. } => tell_link(state, reader, want, LinkEvent::Waits),
    }
}

/// Hands an answer to the HTTP request that waits for it.
fn apply_to_call(state: &RelayState, effect: CallEffect) {
    match effect {
        CallEffect::Found { call, result } => answer(state, call, CallAnswer::Found(result)),
        CallEffect::Begun { call, result } => answer(state, call, CallAnswer::Begun(result)),
        CallEffect::Members { call, result } => answer(state, call, CallAnswer::Members(result)),
    }
}

fn open_slot(state: &RelayState, new: NewSlot) {
    let first = new.pieces.first().map(|piece| (piece.file.file_id, piece.groups));
    tracing::trace!(
        slot = new.slot.0,
        ?first,
        pieces = new.pieces.len(),
        length_bytes = new.length,
        "a slot opens"
    );
    let slot = SlotBuffer::new(new.slot, new.what, new.pieces, new.length).filled_by(new.ticket);
    let slot = Arc::new(slot);
    state.slots.insert(new.slot, slot.clone());
    state.tickets.issue(new.ticket, new.holder, TicketKind::Put, slot);
}

fn acknowledge(state: &RelayState, session: SessionId, membership: Membership, hub_ready: bool) {
    let Some(handle) = state.sessions.get(session) else { return };
    // Devices at the door are bounded there; without a roster nobody is.
    if matches!(membership, Membership::Approved | Membership::Pending) {
        handle.is_counted();
    }
    let session_id =
        (membership != Membership::Disapproved).then(|| state.name_key(session)).flatten();
    let ack = ClientRegisterAck {
        public_id: handle.public_id,
        membership,
        hub_ready,
        session_id,
        signature: handle.signature,
    };
    send(state, session, &RelayToDevice::ClientRegisterAck(ack), handle.reference.clone());
}

fn send(state: &RelayState, session: SessionId, message: &RelayToDevice, reference: Option<Ref>) {
    let Some(handle) = state.sessions.get(session) else { return };
    if matches!(message, RelayToDevice::Membership(_)) {
        handle.is_counted(); // the roster came
    }
    let text = codec::encode(message, reference.as_ref());
    handle.outbox.push(QueuedFrame {
        text: text.into(),
        is_change: reference.is_none() && is_change(message),
    });
}

/// One encoding serves all; who caused it hears its reference.
fn broadcast(
    state: &RelayState,
    sessions: &[SessionId],
    message: &RelayToDevice,
    answered: Option<(SessionId, Ref)>,
) {
    let text: Utf8Bytes = codec::encode(message, None).into();
    let is_change = is_change(message);
    for session in sessions {
        if let Some((_, reference)) = answered.as_ref().filter(|(answered, _)| answered == session)
        {
            send(state, *session, message, Some(reference.clone()));
        } else if let Some(handle) = state.sessions.get(*session) {
            handle.outbox.push(QueuedFrame { text: text.clone(), is_change });
        }
    }
}

/// What a pull of the feed brings too, and reports that the next one replaces.
fn is_change(message: &RelayToDevice) -> bool {
    matches!(
        message,
        RelayToDevice::FilesAdded(_)
            | RelayToDevice::FilesUpdated(_)
            | RelayToDevice::FileRemoved(_)
            | RelayToDevice::FilesWithdrawn(_)
            | RelayToDevice::ClientUpdated(_)
            | RelayToDevice::TransferProgress(_)
    )
}

fn answer(state: &RelayState, call: lanyard_hub::broker::CallId, answer: CallAnswer) {
    if let Some((_, waiting)) = state.calls.remove(&call) {
        let _ = waiting.send(answer); // the HTTP request is gone: nobody wants it
    }
}

/// Tells a link's response. If that is over meanwhile, what it was given goes back at once.
fn tell_link(
    state: &Arc<RelayState>,
    reader: lanyard_hub::broker::LinkReader,
    want: u64,
    event: LinkEvent,
) {
    let events = state.link_readers.get(&reader).map(|events| events.clone());
    let unheard = match events {
        // A link has two wants at a time and few events a want: a full channel means that its task
        // is gone.
        Some(events) => match events.try_send((want, event)) {
            Ok(()) => return,
            Err(error) => error.into_inner().1,
        },
        None => event,
    };
    if let LinkEvent::Ready { slot, slice, .. } = unheard {
        state.send_detached(Input::Reader(ReaderInput::Left {
            slot: slot.id,
            reader: slice,
            delivered: 0,
        }));
    }
    state.send_detached(Input::Link(LinkInput::Left { reader, up_to: u64::MAX }));
}

fn open_hashes(
    state: &Arc<RelayState>,
    id: lanyard_hub::broker::SlotId,
    file: lanyard_protocol::FileRef,
) {
    if let Some(list) = state.hashes.list(&file) {
        state.slots.insert(id, Arc::new(SlotBuffer::full(id, list.into())));
        return;
    }
    // The list went while the broker counted on it. Its askers ask again, and then the broker
    // knows.
    let slot = SlotBuffer::new(id, BodyKind::Hashes, Vec::new(), 0);
    slot.fail(FailureCode::Busy);
    state.slots.insert(id, Arc::new(slot));
    state.send_detached(Input::Slot(SlotInput::HashesLost { file }));
    state.send_detached(Input::Slot(SlotInput::PutFailed {
        slot: id,
        code: FailureCode::Busy,
        culprit: None,
    }));
}
