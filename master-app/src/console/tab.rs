//! One tab of the console: registers with its token, is shown everything, says what the host wishes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use lanyard_hub::authority::{Command, Word};
use lanyard_protocol::codec::{self, DecodeError};
use lanyard_protocol::limits::REGISTER_TIMEOUT_MS;
use lanyard_protocol::message::{ConsoleRegisterAck, Problems, RequestFailed};
use lanyard_protocol::{
    CloseCode, ConsoleToMaster, FailureCode, Frame, HubInfo, MasterToConsole, PublicKey, Ref, SUBPROTOCOL,
};
use lanyard_relay::connections::{ConnectionPermit, Standing};
use tokio::time::timeout;

use super::Shared;
use crate::driver::{Over, Screen, Shown};
use crate::problems::Problem;

/// Messages that a tab has not taken yet; a tab further behind is closed and begins anew.
const BEHIND: usize = 512;
/// A tab that takes nothing for this long is closed.
const STUCK: Duration = Duration::from_secs(10);

/// Why a tab's connection ends.
enum End {
    Code(CloseCode),
    Gone,
}

impl From<Over> for End {
    fn from(_: Over) -> Self {
        Self::Code(CloseCode::ServerNotReady)
    }
}

pub(super) async fn serve(shared: Arc<Shared>, permit: &ConnectionPermit, mut socket: WebSocket) {
    // A page of another version loads itself again when it hears this.
    if socket.protocol().is_none_or(|protocol| protocol != SUBPROTOCOL) {
        return close(&mut socket, CloseCode::BadMessage).await;
    }
    let stop = shared.stop.clone();
    let end = tokio::select! {
        end = live(&shared, permit, &mut socket) => end,
        () = permit.evicted() => End::Code(CloseCode::RateLimited),
        () = stop.cancelled() => End::Code(CloseCode::ServerNotReady),
    };
    if let End::Code(code) = end {
        close(&mut socket, code).await;
    }
}

async fn close(socket: &mut WebSocket, code: CloseCode) {
    let frame = CloseFrame { code: code.number(), reason: code.reason().into() };
    // Whoever is gone needs no goodbye.
    let _ = timeout(STUCK, socket.send(Message::Close(Some(frame)))).await;
}

async fn live(shared: &Shared, permit: &ConnectionPermit, socket: &mut WebSocket) -> End {
    match register(shared, socket).await {
        Ok(screen) => {
            permit.claim(Standing::Device(shared.info.host));
            converse(shared, socket, screen).await
        }
        Err(end) => end,
    }
}

async fn register(shared: &Shared, socket: &mut WebSocket) -> Result<Screen, End> {
    let first = timeout(Duration::from_millis(REGISTER_TIMEOUT_MS), socket.recv());
    let Ok(Some(Ok(Message::Text(text)))) = first.await else { return Err(End::Code(CloseCode::Unauthenticated)) };
    let Ok(Frame { message: ConsoleToMaster::ConsoleRegister(said), reference }) = codec::decode(&text) else {
        return Err(End::Code(CloseCode::BadMessage));
    };
    if !shared.door.knows(&said.token) {
        return Err(End::Code(CloseCode::Unauthenticated));
    }
    let (relay_ready, hub) = shared.driver.look(|authority, hub| (authority.is_relay_ready(), hub.cloned())).await?;
    // Before the relay was there for the first time its key is not known here.
    let unknown = HubInfo { name: shared.info.hub_name.clone(), public_key: PublicKey([0; 32]) };
    let ack = ConsoleRegisterAck {
        public_id: shared.info.host,
        hub: hub.unwrap_or(unknown),
        urls: shared.info.urls.clone(),
        relay_ready,
        tap_to_approve: shared.info.tap_to_approve,
    };
    send(socket, &MasterToConsole::ConsoleRegisterAck(ack), reference.as_ref()).await?;
    Ok(shared.driver.subscribe(BEHIND).await?)
}

async fn converse(shared: &Shared, socket: &mut WebSocket, mut screen: Screen) -> End {
    let mut problems = shared.driver.problems().watch();
    problems.mark_changed();
    loop {
        let step = tokio::select! {
            Ok(()) = problems.changed() => {
                let problems = problems.borrow_and_update().iter().cloned().map(Problem::into).collect();
                send(socket, &MasterToConsole::Problems(Problems { problems }), None).await
            }
            shown = screen.shown.recv() => match shown {
                Some(Shown::Message { message, reference }) => send(socket, &message, reference.as_ref()).await,
                Some(Shown::Event(_)) => Ok(()),
                None => Err(End::Code(CloseCode::TooSlow)),
            },
            incoming = socket.recv() => match incoming {
                Some(Ok(Message::Text(text))) => heard(shared, socket, &screen, &text).await,
                Some(Ok(Message::Binary(_))) => Err(End::Code(CloseCode::BadMessage)),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
            },
        };
        if let Err(end) = step {
            return end;
        }
    }
}

async fn send(socket: &mut WebSocket, message: &MasterToConsole, reference: Option<&Ref>) -> Result<(), End> {
    let text = codec::encode(message, reference);
    match timeout(STUCK, socket.send(Message::text(text))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(End::Code(CloseCode::TooSlow)),
    }
}

async fn heard(shared: &Shared, socket: &mut WebSocket, screen: &Screen, text: &str) -> Result<(), End> {
    let Frame { message, reference } = match codec::decode::<ConsoleToMaster>(text) {
        Ok(frame) => frame,
        Err(DecodeError::BadMessage { reference, .. }) => {
            let code = FailureCode::BadMessage;
            let failed = RequestFailed { code, message: code.sentence().into(), retry_after_ms: None, file_id: None };
            return send(socket, &MasterToConsole::RequestFailed(failed), reference.as_ref()).await;
        }
        Err(DecodeError::TooLarge) => return Err(End::Code(CloseCode::TooLarge)),
        Err(DecodeError::Malformed(_)) => return Err(End::Code(CloseCode::BadMessage)),
    };
    let command = match message {
        ConsoleToMaster::Ping(empty) => {
            return send(socket, &MasterToConsole::Pong(empty), reference.as_ref()).await;
        }
        ConsoleToMaster::ConsoleRegister(_) => return Err(End::Code(CloseCode::BadMessage)),
        ConsoleToMaster::FeedPull(pull) => Command::Pull(pull),
        ConsoleToMaster::ApproveClient(said) => Command::Approve {
            public_id: said.public_id,
            request_id: Some(said.request_id),
            word: said.code.map_or(Word::Named, Word::Typed),
            for_ms: said.for_ms,
        },
        ConsoleToMaster::Invite(said) => Command::Invite { valid_ms: said.valid_ms, for_ms: said.for_ms },
        ConsoleToMaster::SetDoor(said) => Command::SetDoor(said.admission),
        ConsoleToMaster::AllowMore(_) => Command::AllowMore,
        ConsoleToMaster::DisApproveClient(said) => Command::Refuse { public_id: said.public_id },
        ConsoleToMaster::ForgetClient(said) => Command::Forget { public_id: said.public_id },
        ConsoleToMaster::LinksPull(pull) => Command::PullLinks(pull),
        ConsoleToMaster::LinkDrop(said) => Command::DropLink(said.link_hash),
        ConsoleToMaster::UpdateName(said) => Command::Rename { public_id: said.public_id, name: said.name },
    };
    Ok(shared.driver.wish_on(screen.id, reference, command).await?)
}
