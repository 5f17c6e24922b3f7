//! One tab of the console: registers with its token, is shown everything, says what the host
//! wishes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use lanyard_hub::authority::{Approval, OperatorCommand};
use lanyard_protocol::codec::{self, DecodeError};
use lanyard_protocol::limits::REGISTER_TIMEOUT_MS;
use lanyard_protocol::message::{ConsoleRegisterAck, Problems, RequestFailed};
use lanyard_protocol::{
    CloseCode, ConsoleToMaster, FailureCode, Frame, HubInfo, MasterToConsole, PublicKey, Ref,
    SUBPROTOCOL,
};
use lanyard_relay::{ConnectionPermit, KnownReason};
use tokio::time::timeout;

use super::ConsoleState;
use crate::authority::driver::{DriverStopped, Screen, ScreenUpdate};
use crate::problems::ActiveProblem;

/// Messages that a tab has not taken yet; a tab further behind is closed and begins anew.
const BEHIND: usize = 512;
/// A tab that takes nothing for this long is closed.
const STUCK: Duration = Duration::from_secs(10);

/// Why a tab's connection ends.
enum TabEnd {
    Code(CloseCode),
    Gone,
}

impl From<DriverStopped> for TabEnd {
    fn from(_: DriverStopped) -> Self {
        Self::Code(CloseCode::ServerNotReady)
    }
}

pub(super) async fn serve(
    shared: Arc<ConsoleState>,
    permit: &ConnectionPermit,
    mut socket: WebSocket,
) {
    // A page of another version loads itself again when it hears this.
    if socket.protocol().is_none_or(|protocol| protocol != SUBPROTOCOL) {
        return close(&mut socket, CloseCode::BadMessage).await;
    }
    let stop = shared.stop.clone();
    let end = tokio::select! {
        end = live(&shared, permit, &mut socket) => end,
        () = permit.evicted() => TabEnd::Code(CloseCode::RateLimited),
        () = stop.cancelled() => TabEnd::Code(CloseCode::ServerNotReady),
    };
    if let TabEnd::Code(code) = end {
        close(&mut socket, code).await;
    }
}

async fn close(socket: &mut WebSocket, code: CloseCode) {
    let frame = CloseFrame { code: code.number(), reason: code.reason().into() };
    // Whoever is gone needs no goodbye.
    let _ = timeout(STUCK, socket.send(Message::Close(Some(frame)))).await;
}

async fn live(shared: &ConsoleState, permit: &ConnectionPermit, socket: &mut WebSocket) -> TabEnd {
    match register(shared, socket).await {
        Ok(screen) => {
            permit.claim(KnownReason::Device(shared.info.host));
            converse(shared, socket, screen).await
        }
        Err(end) => end,
    }
}

async fn register(shared: &ConsoleState, socket: &mut WebSocket) -> Result<Screen, TabEnd> {
    let first = timeout(Duration::from_millis(REGISTER_TIMEOUT_MS), socket.recv());
    let Ok(Some(Ok(Message::Text(text)))) = first.await else {
        return Err(TabEnd::Code(CloseCode::Unauthenticated));
    };
    let Ok(Frame { message: ConsoleToMaster::ConsoleRegister(said), reference }) =
        codec::decode(&text)
    else {
        return Err(TabEnd::Code(CloseCode::BadMessage));
    };
    if !shared.door.knows(&said.token) {
        return Err(TabEnd::Code(CloseCode::Unauthenticated));
    }
    let (relay_ready, hub) =
        shared.driver.query(|authority, hub| (authority.is_relay_ready(), hub.cloned())).await?;
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

async fn converse(shared: &ConsoleState, socket: &mut WebSocket, mut screen: Screen) -> TabEnd {
    let mut problems = shared.driver.problems().watch();
    problems.mark_changed();
    loop {
        let step = tokio::select! {
            Ok(()) = problems.changed() => {
                let problems = problems.borrow_and_update().iter().cloned().map(ActiveProblem::into).collect();
                send(socket, &MasterToConsole::Problems(Problems { problems }), None).await
            }
            shown = screen.shown.recv() => match shown {
                Some(ScreenUpdate::Message { message, reference }) => send(socket, &message, reference.as_ref()).await,
                Some(ScreenUpdate::Event(_)) => Ok(()),
                None => Err(TabEnd::Code(CloseCode::TooSlow)),
            },
            incoming = socket.recv() => match incoming {
                Some(Ok(Message::Text(text))) => heard(shared, socket, &screen, &text).await,
                Some(Ok(Message::Binary(_))) => Err(TabEnd::Code(CloseCode::BadMessage)),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => Err(TabEnd::Gone),
            },
        };
        if let Err(end) = step {
            return end;
        }
    }
}

async fn send(
    socket: &mut WebSocket,
    message: &MasterToConsole,
    reference: Option<&Ref>,
) -> Result<(), TabEnd> {
    let text = codec::encode(message, reference);
    match timeout(STUCK, socket.send(Message::text(text))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(TabEnd::Gone),
        Err(_) => Err(TabEnd::Code(CloseCode::TooSlow)),
    }
}

async fn heard(
    shared: &ConsoleState,
    socket: &mut WebSocket,
    screen: &Screen,
    text: &str,
) -> Result<(), TabEnd> {
    let Frame { message, reference } = match codec::decode::<ConsoleToMaster>(text) {
        Ok(frame) => frame,
        Err(DecodeError::BadMessage { reference, .. }) => {
            let code = FailureCode::BadMessage;
            let failed = RequestFailed {
                code,
                message: code.sentence().into(),
                retry_after_ms: None,
                file_id: None,
            };
            return send(socket, &MasterToConsole::RequestFailed(failed), reference.as_ref()).await;
        }
        Err(DecodeError::TooLarge) => return Err(TabEnd::Code(CloseCode::TooLarge)),
        Err(DecodeError::Malformed(_)) => return Err(TabEnd::Code(CloseCode::BadMessage)),
    };
    let command = match message {
        ConsoleToMaster::Ping(empty) => {
            return send(socket, &MasterToConsole::Pong(empty), reference.as_ref()).await;
        }
        ConsoleToMaster::ConsoleRegister(_) => return Err(TabEnd::Code(CloseCode::BadMessage)),
        ConsoleToMaster::FeedPull(pull) => OperatorCommand::Pull(pull),
        ConsoleToMaster::ApproveClient(said) => OperatorCommand::Approve {
            public_id: said.public_id,
            request_id: Some(said.request_id),
            word: said.code.map_or(Approval::Named, Approval::Typed),
            for_ms: said.for_ms,
        },
        ConsoleToMaster::Invite(said) => {
            OperatorCommand::Invite { valid_ms: said.valid_ms, for_ms: said.for_ms }
        }
        ConsoleToMaster::SetDoor(said) => OperatorCommand::SetDoor(said.admission),
        ConsoleToMaster::AllowMore(_) => OperatorCommand::AllowMore,
        ConsoleToMaster::DisApproveClient(said) => {
            OperatorCommand::Refuse { public_id: said.public_id }
        }
        ConsoleToMaster::ForgetClient(said) => {
            OperatorCommand::Forget { public_id: said.public_id }
        }
        ConsoleToMaster::LinksPull(pull) => OperatorCommand::PullLinks(pull),
        ConsoleToMaster::LinkDrop(said) => OperatorCommand::DropLink(said.link_hash),
        ConsoleToMaster::UpdateName(said) => {
            OperatorCommand::Rename { public_id: said.public_id, name: said.name }
        }
    };
    Ok(shared.driver.execute_on(screen.id, reference, command).await?)
}
