//! One task per master socket: both sides prove the shared secret, the higher term wins, then
//! messages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use lanyard_hub::broker::{Input, MasterInput, SessionId};
use lanyard_protocol::limits::{
    MAX_FIRST_FRAME_BYTES, MAX_MASTER_FRAME_BYTES, REGISTER_TIMEOUT_MS, WRONG_SECRET_DELAY_MS,
};
use lanyard_protocol::master_proof::{MasterTranscript, means_own_machine, same_mac};
use lanyard_protocol::message::{MasterAppRegisterAck, MasterChallenge};
use lanyard_protocol::{
    CloseCode, FailureCode, HubInfo, MasterFrame, MasterToRelay, PROTOCOL_VERSION, RelayMessage,
    RelayToMaster, codec,
};

use crate::error::ApiError;
use crate::limits::outbox::Outbox;
use crate::limits::outbox::QueuedFrame;
use crate::middleware::host_guard::HostHeader;
use crate::net::tls::Transport;
use crate::state::RelayState;
use crate::ws::connection;
use crate::ws::connection::Activity;
use crate::ws::connection::Incoming;
use crate::ws::upgrade;
use crate::ws::upgrade::Sink;
use crate::ws::upgrade::Socket;
use crate::ws::upgrade::Stream;

/// `GET /ws/master`. No page has business here.
pub(crate) async fn upgrade(
    State(state): State<Arc<RelayState>>,
    Extension(HostHeader(authority)): Extension<HostHeader>,
    Extension(transport): Extension<Transport>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    // Everything that the hub knows goes over this socket. A plain one is for a master that means
    // its own machine; it proves that it does, so that a proxy or a tunnel which ends on this
    // machine opens nothing.
    if !transport.is_secure() && !means_own_machine(&authority) {
        return ApiError(FailureCode::TlsRequired).into_response();
    }
    if request.headers().contains_key(http::header::ORIGIN) {
        return ApiError(FailureCode::OriginDenied).into_response();
    }
    upgrade::upgrade(request, MAX_FIRST_FRAME_BYTES, move |socket| {
        state.sockets.clone().track_future(serve(state, peer, (transport, authority), socket))
    })
}

async fn serve(state: Arc<RelayState>, peer: SocketAddr, way: (Transport, String), socket: Socket) {
    let (mut sink, mut stream) = socket.split();
    let last = Activity::new();
    let deadline = Duration::from_millis(REGISTER_TIMEOUT_MS);
    match tokio::time::timeout(deadline, register(&state, way, &mut sink, &mut stream, &last)).await
    {
        Ok(Ok(())) => {}
        Ok(Err(CloseCode::Unauthenticated)) => {
            tracing::warn!(from = %peer.ip(), "master authentication failed: wrong secret");
            tokio::time::sleep(Duration::from_millis(WRONG_SECRET_DELAY_MS)).await;
            return connection::close_with_code(&state, sink, stream, CloseCode::Unauthenticated)
                .await;
        }
        Ok(Err(code)) => return connection::close_with_code(&state, sink, stream, code).await,
        Err(_silent) => {
            return connection::close_with_code(&state, sink, stream, CloseCode::Unauthenticated)
                .await;
        }
    }
    let Some((mut sink, mut stream)) =
        upgrade::admitted(sink, stream, MAX_MASTER_FRAME_BYTES).await
    else {
        return;
    };
    let session = SessionId(state.number());
    let outbox = Arc::new(Outbox::for_master());
    state.sessions.open_master(session, outbox.clone());
    state.send(Input::Master(MasterInput::Opened { session })).await;
    let code = tokio::select! {
        code = connection::write(&mut sink, &outbox, &last) => Some(code),
        code = listen(&state, session, &outbox, &mut stream, &last) => code,
    };
    state.sessions.remove_master(session);
    state.send(Input::Master(MasterInput::Closed { session })).await;
    if let Some(code) = code {
        connection::close_with_code(&state, sink, stream, code).await;
    }
}

/// Challenge and proofs; an error is the code to close with.
async fn register(
    state: &RelayState,
    (transport, authority): (Transport, String),
    sink: &mut Sink,
    stream: &mut Stream,
    last: &Activity,
) -> Result<(), CloseCode> {
    let nonce = state.nonce();
    let challenge = MasterChallenge { protocol: PROTOCOL_VERSION, boot_id: state.boot_id, nonce };
    write_message(sink, RelayToMaster::Relay(RelayMessage::MasterChallenge(challenge))).await?;
    let Incoming::Text(text) = connection::receive(stream, last).await else {
        return Err(CloseCode::Unauthenticated);
    };
    let (register, reference) = match codec::decode_master::<MasterToRelay>(&text) {
        Ok(MasterFrame {
            message: MasterToRelay::MasterAppRegister(register),
            reference,
            from: None,
            ..
        }) => (register, reference),
        Ok(_) => return Err(CloseCode::Unauthenticated),
        Err(_) => return Err(CloseCode::BadMessage),
    };
    let transcript = MasterTranscript {
        boot_id: state.boot_id,
        relay_nonce: nonce,
        master_nonce: register.nonce,
        term: register.term,
        authority,
        channel: transport.channel(),
    };
    let secret = &state.config.master_secret;
    if register.protocol != PROTOCOL_VERSION
        || !same_mac(&register.mac, &transcript.master_mac(secret))
    {
        return Err(CloseCode::Unauthenticated);
    }
    if !state.sessions.claim_term(register.term) {
        return Err(CloseCode::Superseded);
    }
    let hub = HubInfo { name: state.config.name.clone(), public_key: state.config.key.public() };
    let ack =
        MasterAppRegisterAck { boot_id: state.boot_id, hub, mac: transcript.relay_mac(secret) };
    let ack = MasterFrame {
        reference,
        ..MasterFrame::plain(RelayToMaster::Relay(RelayMessage::MasterAppRegisterAck(ack)))
    };
    send(sink, ack).await
}

async fn write_message(sink: &mut Sink, message: RelayToMaster) -> Result<(), CloseCode> {
    send(sink, MasterFrame::plain(message)).await
}

async fn send(sink: &mut Sink, frame: MasterFrame<RelayToMaster>) -> Result<(), CloseCode> {
    let text = codec::encode_master(&frame);
    upgrade::send_text(sink, text.into()).await.map_err(|_| CloseCode::TooSlow)
}

async fn listen(
    state: &RelayState,
    session: SessionId,
    outbox: &Outbox,
    stream: &mut Stream,
    last: &Activity,
) -> Option<CloseCode> {
    loop {
        let text = match connection::receive(stream, last).await {
            Incoming::Text(text) => text,
            Incoming::Binary => return Some(CloseCode::BadMessage),
            Incoming::TooLarge => return Some(CloseCode::TooLarge),
            Incoming::Gone => return None,
        };
        match codec::decode_master::<MasterToRelay>(&text) {
            Ok(frame) => {
                state
                    .send(Input::Master(MasterInput::MessageReceived {
                        session,
                        frame: Box::new(frame),
                    }))
                    .await
            }
            Err(error) => {
                tracing::warn!(?error, "the master said something this relay does not know");
                let lanyard_protocol::DecodeError::BadMessage { reference, .. } = error else {
                    return Some(CloseCode::BadMessage);
                };
                let code = FailureCode::BadMessage;
                let no = lanyard_protocol::message::RequestFailed {
                    code,
                    message: code.sentence().into(),
                    retry_after_ms: None,
                    file_id: None,
                };
                let frame = MasterFrame {
                    reference,
                    ..MasterFrame::plain(RelayToMaster::Relay(RelayMessage::RequestFailed(no)))
                };
                outbox.push(QueuedFrame {
                    text: codec::encode_master(&frame).into(),
                    is_change: false,
                });
            }
        }
    }
}
