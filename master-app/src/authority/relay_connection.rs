//! The master's connection to its relay: proof of the shared secret both ways, then frames;
//! reconnects by itself.

use std::time::Duration;

use lanyard_device::connection::{
    Backoff, ConnectionError, FrameReceiver, FrameSender, HubUrl, ReceivedFrame, RelayConnection,
};
use lanyard_protocol::codec::{self, DecodeError};
use lanyard_protocol::limits::REGISTER_TIMEOUT_MS;
use lanyard_protocol::master_proof::{MasterTranscript, same_mac};
use lanyard_protocol::message::{
    MasterAppRegister, MasterAppRegisterAck, MasterChallenge, RequestFailed,
};
use lanyard_protocol::{
    CloseCode, FailureCode, HubInfo, MasterFrame, MasterToRelay, Nonce, PROTOCOL_VERSION, Ref,
    RelayMessage, RelayToMaster,
};
use lanyard_system::clock::now_ms;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::authority::driver::{ConnectionNumber, DriverHandle, DriverStopped};
use crate::store::StoreError;

/// Each step of the handshake.
const HANDSHAKE_STEP: Duration = Duration::from_millis(2 * REGISTER_TIMEOUT_MS);

/// A relay says the same to a wrong proof and to one that came late, as after a sleep: once is no
/// verdict.
const NOT_PROVEN_TRIES: u32 = 3;

/// Why the master cannot serve this relay, however often it tries.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayConnectionError {
    #[error("the relay at {0} does not share this master's secret; give both the same secret file")]
    WrongSecret(HubUrl),
    #[error(
        "the relay at {0} speaks another version of the protocol; run the same Lanyard on both sides"
    )]
    WrongVersion(HubUrl),
    #[error("another master has taken over the relay at {0}")]
    Superseded(HubUrl),
    #[error(transparent)]
    Over(#[from] DriverStopped),
}

/// How one connection ended, if another is worth trying.
enum Ended {
    Link(ConnectionError),
    /// The relay closed, with its code.
    Closed(Option<u16>),
    /// The answer was not part of our handshake.
    Strange(String),
    TermTooLow,
    /// The relay did not take our proof, or it came too late for it.
    NotProven,
    Store(StoreError),
    /// The driver gave the connection up.
    GivenUp,
}

enum Trouble {
    Again(Ended),
    Final(RelayConnectionError),
}

impl From<ConnectionError> for Trouble {
    fn from(error: ConnectionError) -> Self {
        Self::Again(Ended::Link(error))
    }
}

impl From<RelayConnectionError> for Trouble {
    fn from(error: RelayConnectionError) -> Self {
        Self::Final(error)
    }
}

/// A full disk may have room again.
impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Again(Ended::Store(error))
    }
}

impl From<DriverStopped> for Trouble {
    fn from(over: DriverStopped) -> Self {
        Self::Final(over.into())
    }
}

/// Serves the relay at `url` until `stop`, or until it makes no sense any more.
pub(crate) async fn run(
    mut url: HubUrl,
    secret: [u8; 32],
    driver: DriverHandle,
    stop: CancellationToken,
) -> Result<(), RelayConnectionError> {
    let mut backoff = Backoff::new();
    let mut at_least = 0;
    let mut said = false;
    let mut not_proven = 0;
    for number in 1.. {
        let connection = ConnectionNumber(number);
        let life = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            life = live(&url, &secret, &driver, connection, at_least, || { backoff.reset(); said = false; }) => life,
        };
        driver.relay_lost(connection).await?;
        match life {
            Trouble::Final(error) => return Err(error),
            // A relay that has seen higher terms: this master's file was restored from a backup.
            // Seconds are higher.
            Trouble::Again(Ended::TermTooLow) => at_least = now_ms() / 1_000,
            Trouble::Again(Ended::NotProven) if not_proven + 1 >= NOT_PROVEN_TRIES => {
                return Err(RelayConnectionError::WrongSecret(url));
            }
            Trouble::Again(Ended::Link(ConnectionError::TlsRequired { .. }))
                if !url.is_secure() =>
            {
                url = url.secured()
            }
            Trouble::Again(ended) => {
                not_proven = if matches!(ended, Ended::NotProven) { not_proven + 1 } else { 0 };
                log_once(&url, &ended, &mut said);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep(backoff.wait()) => {}
        }
    }
    Ok(())
}

/// The first failure in a row is told as one, the others are for who looks closely.
fn log_once(url: &HubUrl, ended: &Ended, said: &mut bool) {
    let why = match ended {
        Ended::Link(error) => error.to_string(),
        Ended::Closed(code) => {
            let code = code.and_then(CloseCode::from_number);
            format!(
                "it closed the connection ({})",
                code.map_or("no reason given", CloseCode::reason)
            )
        }
        Ended::Strange(why) => why.clone(),
        Ended::NotProven => "it did not take this master's proof".into(),
        Ended::Store(error) => error.to_string(),
        Ended::TermTooLow | Ended::GivenUp => "the connection was given up".into(),
    };
    if std::mem::replace(said, true) {
        tracing::debug!(relay = %url, why, "the relay is still not there");
    } else {
        tracing::warn!(relay = %url, why, "the relay is not there; trying again until it is");
    }
}

/// One connection, from open to end.
async fn live(
    url: &HubUrl,
    secret: &[u8; 32],
    driver: &DriverHandle,
    connection: ConnectionNumber,
    at_least: u64,
    registered: impl FnOnce(),
) -> Trouble {
    let (link, hub) = match register(url, secret, driver, at_least).await {
        Ok(registered) => registered,
        Err(trouble) => return trouble,
    };
    registered();
    tracing::info!(relay = %url, "registered with the relay");
    let frames = match driver.relay_ready(connection, hub).await {
        Ok(frames) => frames,
        Err(over) => return over.into(),
    };
    let (sender, mut receiver) = link.split();
    tokio::select! {
        ended = speak(sender.clone(), frames) => Trouble::Again(ended),
        trouble = listen(url, &mut receiver, &sender, driver, connection) => trouble,
    }
}

async fn register(
    url: &HubUrl,
    secret: &[u8; 32],
    driver: &DriverHandle,
    at_least: u64,
) -> Result<(RelayConnection, HubInfo), Trouble> {
    let mut link = RelayConnection::open(url, "/ws/master", None).await?;
    let RelayToMaster::Relay(RelayMessage::MasterChallenge(challenge)) =
        next(url, &mut link).await?
    else {
        return Err(Trouble::Again(Ended::Strange(
            "it began with another word than a challenge".into(),
        )));
    };
    let MasterChallenge { protocol, boot_id, nonce } = challenge;
    if protocol != PROTOCOL_VERSION {
        return Err(RelayConnectionError::WrongVersion(url.clone()).into());
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(StoreError::Randomness)?;
    let term = driver.next_term(at_least).await??;
    let channel = link.channel;
    let master_nonce = Nonce(random);
    let authority = url.authority();
    let transcript =
        MasterTranscript { boot_id, relay_nonce: nonce, master_nonce, term, authority, channel };
    let register = MasterAppRegister {
        protocol: PROTOCOL_VERSION,
        nonce: transcript.master_nonce,
        term,
        mac: transcript.master_mac(secret),
    };
    link.send(codec::encode_master(&MasterFrame::plain(MasterToRelay::MasterAppRegister(
        register,
    ))))
    .await?;
    let RelayToMaster::Relay(RelayMessage::MasterAppRegisterAck(MasterAppRegisterAck {
        hub,
        mac,
        ..
    })) = next(url, &mut link).await?
    else {
        return Err(Trouble::Again(Ended::Strange(
            "it answered the registration with another word".into(),
        )));
    };
    if !same_mac(&mac, &transcript.relay_mac(secret)) {
        return Err(RelayConnectionError::WrongSecret(url.clone()).into());
    }
    Ok((link, hub))
}

/// The next word of the handshake.
async fn next(url: &HubUrl, link: &mut RelayConnection) -> Result<RelayToMaster, Trouble> {
    let Ok(incoming) = timeout(HANDSHAKE_STEP, link.receive()).await else {
        return Err(ConnectionError::Silent.into());
    };
    match incoming? {
        ReceivedFrame::Text(text) => match codec::decode_master::<RelayToMaster>(&text) {
            Ok(frame) => Ok(frame.message),
            Err(error) => Err(Trouble::Again(Ended::Strange(error.to_string()))),
        },
        ReceivedFrame::Closed(code) => Err(match code.and_then(CloseCode::from_number) {
            Some(CloseCode::Unauthenticated) => Trouble::Again(Ended::NotProven),
            Some(CloseCode::BadMessage) => RelayConnectionError::WrongVersion(url.clone()).into(),
            Some(CloseCode::Superseded) => Trouble::Again(Ended::TermTooLow),
            _ => Trouble::Again(Ended::Closed(code)),
        }),
    }
}

async fn speak(
    sender: FrameSender,
    mut frames: mpsc::Receiver<MasterFrame<MasterToRelay>>,
) -> Ended {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = sender.send(codec::encode_master(&frame)).await {
            return Ended::Link(error);
        }
    }
    // The driver's side may be gone because the program ends: say goodbye either way.
    let _ = sender.close(None).await;
    Ended::GivenUp
}

async fn listen(
    url: &HubUrl,
    receiver: &mut FrameReceiver,
    sender: &FrameSender,
    driver: &DriverHandle,
    connection: ConnectionNumber,
) -> Trouble {
    loop {
        let text = match receiver.receive().await {
            Ok(ReceivedFrame::Text(text)) => text,
            Ok(ReceivedFrame::Closed(code)) => {
                return match code.and_then(CloseCode::from_number) {
                    Some(CloseCode::Superseded) => {
                        RelayConnectionError::Superseded(url.clone()).into()
                    }
                    _ => Trouble::Again(Ended::Closed(code)),
                };
            }
            Err(error) => return error.into(),
        };
        match codec::decode_master::<RelayToMaster>(&text) {
            Ok(frame) => {
                if let Err(over) = driver.relay_said(connection, frame).await {
                    return over.into();
                }
            }
            // Of the same version, so a bug of ours: one word is lost, not the connection.
            Err(DecodeError::BadMessage { opcode, reference, why }) => {
                tracing::error!(
                    opcode,
                    why,
                    "the relay said something that the master does not know"
                );
                if let Err(error) = sender.send(not_known(reference)).await {
                    return error.into();
                }
            }
            Err(error) => return Trouble::Again(Ended::Strange(error.to_string())),
        }
    }
}

fn not_known(reference: Option<Ref>) -> String {
    let code = FailureCode::BadMessage;
    let failed = RequestFailed {
        code,
        message: code.sentence().into(),
        retry_after_ms: None,
        file_id: None,
    };
    let message = MasterToRelay::RequestFailed(failed);
    codec::encode_master(&MasterFrame { reference, ..MasterFrame::plain(message) })
}

#[cfg(test)]
mod tests {
    //! Promises: both sides prove the secret before anything is said; what cannot get better ends,
    //! all else is retried.

    use axum::Router;
    use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
    use axum::routing::get;
    use lanyard_hub::authority::AuthorityConfig;
    use lanyard_protocol::{BootId, PublicKey};

    use super::*;
    use crate::authority::driver;
    use crate::store::Store;

    const SECRET: [u8; 32] = [3; 32];

    /// A relay that registers masters who know `secret` with a term above `floor`, tells their
    /// terms, and hangs up.
    async fn relay(
        secret: [u8; 32],
        floor: u64,
        closing: Option<u16>,
    ) -> (HubUrl, mpsc::Receiver<u64>) {
        let (terms, heard) = mpsc::channel(16);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let url = format!("http://{authority}").parse().unwrap();
        let serve = move |upgrade: WebSocketUpgrade| async move {
            upgrade.protocols([lanyard_protocol::SUBPROTOCOL]).on_upgrade(
                move |socket| async move {
                    serve_master(socket, (secret, authority), floor, closing, terms).await;
                },
            )
        };
        tokio::spawn(async move {
            axum::serve(listener, Router::new().route("/ws/master", get(serve))).await
        });
        (url, heard)
    }

    async fn serve_master(
        mut socket: WebSocket,
        (secret, authority): ([u8; 32], String),
        floor: u64,
        closing: Option<u16>,
        terms: mpsc::Sender<u64>,
    ) {
        let (boot_id, nonce) = (BootId([1; 16]), Nonce([2; 32]));
        let challenge = MasterChallenge { protocol: PROTOCOL_VERSION, boot_id, nonce };
        let text = |message| codec::encode_master(&MasterFrame::plain(message));
        socket
            .send(Message::text(text(RelayToMaster::Relay(RelayMessage::MasterChallenge(
                challenge,
            )))))
            .await
            .unwrap();
        let Some(Ok(Message::Text(said))) = socket.recv().await else { return };
        let MasterToRelay::MasterAppRegister(said) = codec::decode_master(&said).unwrap().message
        else {
            return;
        };
        let transcript = MasterTranscript {
            boot_id,
            relay_nonce: nonce,
            master_nonce: said.nonce,
            term: said.term,
            authority,
            channel: lanyard_protocol::Channel::PLAIN,
        };
        let close = |code| Message::Close(Some(CloseFrame { code, reason: "".into() }));
        if !same_mac(&said.mac, &transcript.master_mac(&secret)) {
            let _ = socket.send(close(4401)).await;
            return;
        }
        terms.send(said.term).await.unwrap();
        if said.term <= floor {
            let _ = socket.send(close(4409)).await;
            return;
        }
        let hub = HubInfo { name: "Hub".into(), public_key: PublicKey([9; 32]) };
        let ack = MasterAppRegisterAck { boot_id, hub, mac: transcript.relay_mac(&secret) };
        socket
            .send(Message::text(text(RelayToMaster::Relay(RelayMessage::MasterAppRegisterAck(
                ack,
            )))))
            .await
            .unwrap();
        if let Some(Ok(Message::Text(roster))) = socket.recv().await {
            assert!(roster.contains("MASTER_ROSTER"));
        }
        if let Some(code) = closing {
            let _ = socket.send(close(code)).await;
        }
    }

    fn fixture() -> (DriverHandle, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("lanyard.db")).unwrap();
        (driver::start(AuthorityConfig::default(), store, None).unwrap().0, dir)
    }

    #[tokio::test]
    async fn each_registration_has_a_higher_term() {
        let (url, mut terms) = relay(SECRET, 0, Some(4503)).await;
        let (driver, _dir) = fixture();
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(url, SECRET, driver, stop.clone()));
        assert_eq!((terms.recv().await, terms.recv().await), (Some(1), Some(2)));
        stop.cancel();
        assert!(task.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_relay_that_saw_higher_terms_is_caught_up_with() {
        let (url, mut terms) = relay(SECRET, 1_000_000, None).await;
        let (driver, _dir) = fixture();
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(url, SECRET, driver.clone(), stop.clone()));
        assert_eq!(terms.recv().await, Some(1));
        assert!(terms.recv().await.unwrap() > 1_000_000);
        stop.cancel();
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn another_secret_or_another_master_ends_it() {
        let (url, _terms) = relay([4; 32], 0, None).await;
        let (driver, _dir) = fixture();
        let ended = run(url, SECRET, driver.clone(), CancellationToken::new()).await;
        assert!(matches!(ended, Err(RelayConnectionError::WrongSecret(_))));
        let (url, _terms) = relay(SECRET, 0, Some(4409)).await;
        let ended = run(url, SECRET, driver, CancellationToken::new()).await;
        assert!(matches!(ended, Err(RelayConnectionError::Superseded(_))));
    }
}
