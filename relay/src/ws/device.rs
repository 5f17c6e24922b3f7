//! One task per device socket: challenge, key proof, then messages in and out until either side
//! ends it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Extension;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use futures_util::StreamExt;
use lanyard_hub::broker::{Identity, Input, SessionId, SessionInput};
use lanyard_protocol::device::{is_valid_label, is_valid_name};
use lanyard_protocol::identity::{self, Transcript};
use lanyard_protocol::limits::*;
use lanyard_protocol::master_proof::{host_proof, same_mac};
use lanyard_protocol::message::{Challenge, ClientRegister, RequestFailed};
use lanyard_protocol::session_key::{EphemeralSecret, SessionKey};
use lanyard_protocol::{
    Channel, CloseCode, DecodeError, DeviceKind, DeviceToRelay, EphemeralKey, FailureCode, Frame,
    HubInfo, Nonce, PROTOCOL_VERSION, Ref, RelayToDevice, TransportMode, codec,
};

use tracing::Instrument;

use crate::limits::outbox::Outbox;
use crate::limits::outbox::QueuedFrame;
use crate::middleware::host_guard::HostHeader;
use crate::net::tls::Transport;
use crate::state::RelayState;
use crate::ws::connection;
use crate::ws::connection::Activity;
use crate::ws::connection::Incoming;
use crate::ws::sessions::SessionHandle;
use crate::ws::upgrade;
use crate::ws::upgrade::Sink;
use crate::ws::upgrade::Socket;
use crate::ws::upgrade::Stream;

/// `GET /ws/device`.
pub(crate) async fn upgrade(
    State(state): State<Arc<RelayState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(authority): Extension<HostHeader>,
    Extension(transport): Extension<Transport>,
    request: Request,
) -> Response {
    let caller = SocketOrigin { peer, authority, transport };
    let is_old = upgrade::is_of_another_version(request.headers());
    upgrade::upgrade(request, MAX_FIRST_FRAME_BYTES, move |socket| {
        let sockets = state.sockets.clone();
        sockets.track_future(async move {
            match is_old {
                true => send_home(&state, caller, socket).await,
                false => serve(state, caller, socket).await,
            }
        })
    })
}

/// Where a socket comes from, and where it was sent to.
struct SocketOrigin {
    peer: SocketAddr,
    authority: HostHeader,
    transport: Transport,
}

async fn serve(state: Arc<RelayState>, caller: SocketOrigin, socket: Socket) {
    let permit = socket.get_ref().permit();
    let (mut sink, mut stream) = socket.split();
    let last = Activity::new();
    let deadline = Duration::from_millis(REGISTER_TIMEOUT_MS);
    let registered =
        tokio::time::timeout(deadline, register(&state, caller, &mut sink, &mut stream, &last));
    let (identity, proof, reference) = match registered.await {
        Ok(Ok(proven)) => proven,
        Ok(Err(code)) => return connection::close_with_code(&state, sink, stream, code).await,
        Err(_silent) => {
            return connection::close_with_code(&state, sink, stream, CloseCode::Unauthenticated)
                .await;
        }
    };
    let Some((sink, stream)) = upgrade::admitted(sink, stream, MAX_FRAME_BYTES).await else {
        return;
    };
    let session = SessionId(state.number());
    let mut handle = SessionHandle::new(Outbox::for_device(), proof, identity.public_id);
    handle.reference = reference;
    handle.permit = permit;
    let handle = Arc::new(handle);
    state.sessions.open(session, handle.clone());
    let span = tracing::info_span!("session", session = session.0, device = %identity.public_id);
    state
        .send(Input::Session(SessionInput::Opened { session, identity: Box::new(identity) }))
        .await;
    live(state, session, handle, (sink, stream, last)).instrument(span).await;
}

/// A session that is proven, until either side ends it.
async fn live(
    state: Arc<RelayState>,
    session: SessionId,
    handle: Arc<SessionHandle>,
    (mut sink, mut stream, last): (Sink, Stream, Activity),
) {
    tracing::debug!("opened");
    let code = tokio::select! {
        code = connection::write(&mut sink, &handle.outbox, &last) => Some(code),
        code = listen(&state, session, &handle, &mut stream, &last) => code,
        () = handle.evicted() => Some(CloseCode::RateLimited),
    };
    state.sessions.remove(session);
    state.send(Input::Session(SessionInput::Closed { session })).await;
    tracing::debug!(?code, "closed");
    if let Some(code) = code {
        connection::close_with_code(&state, sink, stream, code).await;
    }
}

/// Tells a client of another version to update. It is told in the words of version 1, which each
/// version understands: a CHALLENGE without `ephemeral_key`, whose `protocol` makes a page offer to
/// load itself again.
async fn send_home(state: &RelayState, caller: SocketOrigin, socket: Socket) {
    let (mut sink, stream) = socket.split();
    let challenge = challenge_of(state, caller.transport, state.nonce(), EphemeralKey([0; 32]));
    let mut first = serde_json::json!(RelayToDevice::Challenge(challenge));
    if let Some(data) = first["data"].as_object_mut() {
        data.remove("ephemeral_key");
    }
    let said = async {
        upgrade::send_text(&mut sink, first.to_string().into())
            .await
            .map_err(|_| CloseCode::TooSlow)?;
        write_message(&mut sink, &unsupported_version(), None).await
    };
    let deadline = Duration::from_millis(REGISTER_TIMEOUT_MS);
    let code = match tokio::time::timeout(deadline, said).await {
        Ok(Ok(())) => CloseCode::BadMessage,
        Ok(Err(code)) => code,
        Err(_slow) => CloseCode::TooSlow,
    };
    connection::close_with_code(state, sink, stream, code).await;
}

fn challenge_of(
    state: &RelayState,
    transport: Transport,
    nonce: Nonce,
    ephemeral_key: EphemeralKey,
) -> Challenge {
    Challenge {
        protocol: PROTOCOL_VERSION,
        boot_id: state.boot_id,
        nonce,
        ephemeral_key,
        hub: HubInfo { name: state.config.name.clone(), public_key: state.config.key.public() },
        mode: if transport.is_secure() { TransportMode::Encrypted } else { TransportMode::Open },
    }
}

fn unsupported_version() -> RelayToDevice {
    let code = FailureCode::UnsupportedVersion;
    let message = code.sentence().into();
    RelayToDevice::RequestFailed(RequestFailed {
        code,
        message,
        retry_after_ms: None,
        file_id: None,
    })
}

/// The device's identity, the hub's own proof, and the key that both sides agreed on.
type Proven = (Identity, (lanyard_protocol::Signature, SessionKey), Option<Ref>);

/// Challenge and proof; an error is the code to close with.
async fn register(
    state: &RelayState,
    caller: SocketOrigin,
    sink: &mut Sink,
    stream: &mut Stream,
    last: &Activity,
) -> Result<Proven, CloseCode> {
    let relay_nonce = state.nonce();
    let ephemeral = state.ephemeral();
    let challenge = challenge_of(state, caller.transport, relay_nonce, ephemeral.public());
    write_message(sink, &RelayToDevice::Challenge(challenge), None).await?;
    let text = match connection::receive(stream, last).await {
        Incoming::Text(text) => text,
        Incoming::TooLarge => return Err(CloseCode::TooLarge),
        Incoming::Binary => return Err(CloseCode::BadMessage),
        Incoming::Gone => return Err(CloseCode::Unauthenticated),
    };
    let (frame, reference) = match codec::decode::<DeviceToRelay>(&text) {
        Ok(Frame { message: DeviceToRelay::ClientRegister(register), reference }) => {
            (register, reference)
        }
        Ok(_) => return Err(CloseCode::Unauthenticated),
        Err(DecodeError::TooLarge) => return Err(CloseCode::TooLarge),
        Err(_) => return Err(CloseCode::BadMessage),
    };
    if frame.protocol != PROTOCOL_VERSION {
        write_message(sink, &unsupported_version(), reference.as_ref()).await?;
        return Err(CloseCode::BadMessage);
    }
    let (identity, proof) = prove(state, caller, relay_nonce, ephemeral, frame)?;
    Ok((identity, proof, reference))
}

async fn write_message(
    sink: &mut Sink,
    message: &RelayToDevice,
    reference: Option<&Ref>,
) -> Result<(), CloseCode> {
    let text = codec::encode(message, reference);
    upgrade::send_text(sink, text.into()).await.map_err(|_| CloseCode::TooSlow)
}

/// Checks what a device says of itself, and its signature over all of it.
fn prove(
    state: &RelayState,
    SocketOrigin { peer, authority: HostHeader(authority), transport }: SocketOrigin,
    relay_nonce: Nonce,
    ephemeral: EphemeralSecret,
    register: ClientRegister,
) -> Result<(Identity, (lanyard_protocol::Signature, SessionKey)), CloseCode> {
    let well_formed = is_valid_name(&register.name) && is_valid_label(&register.platform);
    if !well_formed {
        return Err(CloseCode::BadMessage);
    }
    let transcript = Transcript {
        boot_id: state.boot_id,
        relay_nonce,
        device_nonce: register.nonce,
        hub_key: state.config.key.public(),
        device_key: register.public_key,
        authority,
        channel: channel_of(transport, register.kind),
        relay_ephemeral: ephemeral.public(),
        device_ephemeral: register.ephemeral_key,
    };
    if !transcript.device_signed(&register.signature)
        || !is_of_its_kind(state, &register, &transcript)
    {
        return Err(CloseCode::Unauthenticated);
    }
    let agreed = ephemeral.agree(&register.ephemeral_key, &transcript.device_text());
    let key = agreed.ok_or(CloseCode::Unauthenticated)?;
    let public_id = identity::public_id(&register.public_key);
    let signature = transcript.sign_as_hub(&state.config.key, public_id);
    let identity = Identity {
        public_id,
        public_key: register.public_key,
        name: register.name,
        kind: register.kind,
        platform: register.platform,
        instance: register.instance,
        commit: register.commit,
        invitation: register.invitation,
        relay_nonce,
        address: peer.ip().to_canonical().to_string(),
        resume: register.resume,
    };
    Ok((identity, (signature, key)))
}

/// The host's own device proves that it knows the secret of master and relay; nobody else says that
/// it does.
fn is_of_its_kind(state: &RelayState, register: &ClientRegister, transcript: &Transcript) -> bool {
    match (register.kind, &register.host_proof) {
        (DeviceKind::Master, Some(proof)) => {
            same_mac(proof, &host_proof(&state.config.master_secret, transcript))
        }
        (DeviceKind::Browser | DeviceKind::Native, None) => true,
        (DeviceKind::Master, None) | (DeviceKind::Browser | DeviceKind::Native, Some(_)) => false,
    }
}

/// A page cannot see its certificate; everybody else signs the one that it saw.
fn channel_of(transport: Transport, kind: DeviceKind) -> Channel {
    match kind {
        DeviceKind::Browser => Channel::PLAIN,
        DeviceKind::Native | DeviceKind::Master => transport.channel(),
    }
}

/// Messages of the device until its socket ends; `Some` when it is we who end it.
async fn listen(
    state: &Arc<RelayState>,
    session: SessionId,
    handle: &SessionHandle,
    stream: &mut Stream,
    last: &Activity,
) -> Option<CloseCode> {
    let pace = state.message_rate.of(handle.public_id);
    loop {
        let text = match connection::receive(stream, last).await {
            Incoming::Text(text) => text,
            Incoming::Binary => return Some(CloseCode::BadMessage),
            Incoming::TooLarge => return Some(CloseCode::TooLarge),
            Incoming::Gone => return None,
        };
        pace.wait(handle.earned.swap(0, Ordering::Relaxed)).await;
        while handle.outbox.is_crowded() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        match codec::decode::<DeviceToRelay>(&text) {
            // It is asked for again where the relay is next.
            Ok(Frame { message: DeviceToRelay::RequestChunk(_), .. })
                if state.closing.load(Ordering::Relaxed) => {}
            Ok(Frame { message, reference }) => {
                state
                    .send(Input::Session(SessionInput::MessageReceived {
                        session,
                        message,
                        reference,
                    }))
                    .await;
            }
            Err(DecodeError::BadMessage { opcode, reference, why }) => {
                tracing::debug!(?session, opcode, why, "a message of a strange shape");
                handle.outbox.push(bad_message(&why, reference));
            }
            Err(DecodeError::TooLarge) => return Some(CloseCode::TooLarge),
            Err(DecodeError::Malformed(_)) => return Some(CloseCode::BadMessage),
        }
    }
}

fn bad_message(why: &str, reference: Option<Ref>) -> QueuedFrame {
    let code = FailureCode::BadMessage;
    let message = format!("{}: {why}", code.sentence());
    let no = RequestFailed { code, message, retry_after_ms: None, file_id: None };
    let text = codec::encode(&RelayToDevice::RequestFailed(no), reference.as_ref());
    QueuedFrame { text: text.into(), is_change: false }
}
