//! A relay on a free port, with a master in memory behind a real `/ws/master`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lanyard_device::connection::{
    FrameReceiver, FrameSender, HubUrl, ReceivedFrame, RelayConnection,
};
use lanyard_hub::Moment;
use lanyard_hub::authority::{
    Approval, Authority, AuthorityConfig, Effect, Input, OperatorCommand, RequestToken, SavedState,
};
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::master_proof::MasterTranscript;
use lanyard_protocol::message::*;
use lanyard_protocol::*;
use lanyard_relay::{Relay, RelayConfig, TlsIdentity};
use tokio::sync::{mpsc, oneshot, watch};

use super::{NEVER, SECRET, TestDevice};

/// Shared by relay and master of one hub.
pub struct TestHub {
    pub address: SocketAddr,
    pub url: HubUrl,
    operator: mpsc::Sender<HubCommand>,
    _stop: oneshot::Sender<()>,
}

enum HubCommand {
    Operator(OperatorCommand),
    /// Waits until the master knows the code of this knock, and gives it.
    Code(DeviceId, oneshot::Sender<String>),
    Restart,
    /// Leaves, until the other end is used or dropped.
    Leave(oneshot::Receiver<()>),
}

impl TestHub {
    pub async fn start() -> Self {
        Self::with_budget(32 << 20).await
    }

    pub async fn with_budget(budget_bytes: u64) -> Self {
        Self::with(|config| config.budget_bytes = budget_bytes).await
    }

    /// One that speaks https too, with a certificate of its own.
    pub async fn with_tls() -> Self {
        let (_, identity) = watch::channel(certificate());
        Self::with(|config| config.tls = Some(identity)).await
    }

    /// One that takes https only. Its master speaks it, too.
    pub async fn with_tls_only() -> Self {
        let (_, identity) = watch::channel(certificate());
        Self::with(|config| (config.tls, config.require_tls) = (Some(identity), true)).await
    }

    pub async fn with(change: impl FnOnce(&mut RelayConfig)) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut config =
            RelayConfig::new(listen, "test hub".into(), Keypair::from_seed(&[200; 32]), SECRET);
        change(&mut config);
        let require_tls = config.require_tls;
        let relay = Relay::bind(config).await.unwrap();
        let address = relay.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(relay.run(async { drop(stopped.await) }));
        let plain: HubUrl = format!("http://{address}").parse().unwrap();
        let url = if require_tls { plain.secured() } else { plain };
        let (operator, commands) = mpsc::channel(16);
        tokio::spawn(master(url.clone(), commands));
        Self { address, url, operator, _stop: stop }
    }

    /// A hub that runs elsewhere (tests/deep/floods.rs); its host cannot be asked for anything.
    pub fn elsewhere(address: SocketAddr) -> Self {
        let (operator, _) = mpsc::channel(1);
        let (stop, _) = oneshot::channel();
        Self { address, url: format!("http://{address}").parse().unwrap(), operator, _stop: stop }
    }

    /// The relay is told to stop. The master does not know.
    pub fn stop(self) {
        drop(self._stop);
    }

    pub async fn operator(&self, command: OperatorCommand) {
        assert!(self.operator.send(HubCommand::Operator(command)).await.is_ok());
    }

    pub async fn restart_master(&self) {
        assert!(self.operator.send(HubCommand::Restart).await.is_ok());
    }

    /// The master goes; it comes back when what is returned is dropped.
    pub async fn without_master(&self) -> oneshot::Sender<()> {
        let (back, away) = oneshot::channel();
        assert!(self.operator.send(HubCommand::Leave(away)).await.is_ok());
        back
    }

    /// The digits that the host would compare.
    pub async fn code_of(&self, device: DeviceId) -> String {
        let (answer, code) = oneshot::channel();
        assert!(self.operator.send(HubCommand::Code(device, answer)).await.is_ok());
        tokio::time::timeout(NEVER, code).await.expect("the device revealed").unwrap()
    }

    /// A device that knocked and was let in.
    pub async fn approved(&self, seed: u8) -> TestDevice {
        let mut device = TestDevice::connect(self, seed, seed).await;
        device.knock_through().await;
        let code = self.code_of(device.id).await;
        assert_eq!(
            device.code.as_deref(),
            Some(code.as_str()),
            "both screens show the same digits"
        );
        self.operator(OperatorCommand::Approve {
            public_id: device.id,
            request_id: None,
            word: Approval::Typed(code),
            for_ms: None,
        })
        .await;
        let id = device.id;
        device
            .until(|m| matches!(m, RelayToDevice::ClientApproved(a) if a.client.public_id == id))
            .await;
        device
    }

    /// Fetches the metrics, with the host's token.
    pub async fn metrics(&self) -> String {
        let token = lanyard_protocol::master_proof::metrics_token(&SECRET);
        let answer =
            http_client().get(self.http("/metrics")).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    }

    pub fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A new certificate that nobody vouches for.
pub fn certificate() -> TlsIdentity {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let (leaf, public_key) =
        (cert.der().to_vec(), rcgen::PublicKeyData::subject_public_key_info(&signing_key));
    TlsIdentity::new(leaf.clone(), signing_key.serialize_der(), &public_key, leaf).unwrap()
}

/// The master app without disk and screens.
async fn master(url: HubUrl, mut commands: mpsc::Receiver<HubCommand>) {
    let saved = SavedState { epoch: 77, ..SavedState::default() };
    let mut authority = Authority::new(AuthorityConfig::default(), saved, [8; 32]);
    let started = Instant::now();
    let now = || Moment(started.elapsed().as_millis() as u64);
    let mut term = 0;
    let mut asks = 0;
    let mut waiting: Vec<(DeviceId, oneshot::Sender<String>)> = Vec::new();
    'registered: loop {
        term += 1;
        let (sender, mut receiver, hub_key) = register(&url, term).await;
        authority.handle(now(), 1, Input::RelayReady { hub_key });
        loop {
            while let Some(effect) = authority.poll_effect() {
                if let Effect::Send(frame) = effect {
                    let _ = sender.send(codec::encode_master(&frame)).await; // the receiver notices a dead link
                }
            }
            waiting = waiting
                .into_iter()
                .filter_map(|(id, answer)| answer_code(&authority, id, answer))
                .collect();
            let wake = authority.poll_timeout().map_or(Duration::from_secs(3600), |at| {
                Duration::from_millis(at.0.saturating_sub(now().0))
            });
            tokio::select! {
                incoming = receiver.receive() => match incoming {
                    Ok(ReceivedFrame::Text(text)) => {
                        let frame = codec::decode_master(&text).unwrap();
                        authority.handle(now(), 1, Input::Frame(Box::new(frame)));
                    }
                    _ => {
                        authority.handle(now(), 1, Input::RelayLost);
                        continue 'registered;
                    }
                },
                said = commands.recv() => match said {
                    Some(HubCommand::Operator(command)) => {
                        asks += 1;
                        authority.handle(now(), 1, Input::Operator { ask: RequestToken(asks), command });
                    }
                    Some(HubCommand::Code(id, answer)) => waiting.push((id, answer)),
                    Some(HubCommand::Restart) => {
                        authority.handle(now(), 1, Input::RelayLost);
                        continue 'registered;
                    }
                    Some(HubCommand::Leave(away)) => {
                        authority.handle(now(), 1, Input::RelayLost);
                        drop((sender, receiver));
                        let _ = away.await;
                        continue 'registered;
                    }
                    None => return,
                },
                () = tokio::time::sleep(wake) => authority.handle_timeout(now(), 1),
            }
        }
    }
}

type Waiting = (DeviceId, oneshot::Sender<String>);

/// Gives the code to who waits for it, or the wait back.
fn answer_code(
    authority: &Authority,
    id: DeviceId,
    answer: oneshot::Sender<String>,
) -> Option<Waiting> {
    let mut knocks = authority.knocks(true).knocks.into_iter();
    match knocks.find(|knock| knock.public_id == id && !knock.left).and_then(|knock| knock.code) {
        Some(code) => {
            let _ = answer.send(code);
            None
        }
        None => Some((id, answer)),
    }
}

/// Registers as the master; what the relay said is checked.
pub async fn register(url: &HubUrl, term: u64) -> (FrameSender, FrameReceiver, PublicKey) {
    let mut link = RelayConnection::open(url, "/ws/master", None).await.unwrap();
    let ReceivedFrame::Text(text) = link.receive().await.unwrap() else { panic!("no challenge") };
    let frame: MasterFrame<RelayToMaster> = codec::decode_master(&text).unwrap();
    let RelayToMaster::Relay(RelayMessage::MasterChallenge(challenge)) = frame.message else {
        panic!("no challenge: {text}")
    };
    let transcript = MasterTranscript {
        channel: link.channel,
        authority: url.authority(),
        boot_id: challenge.boot_id,
        relay_nonce: challenge.nonce,
        master_nonce: Nonce([4; 32]),
        term,
    };
    let register = MasterAppRegister {
        protocol: PROTOCOL_VERSION,
        nonce: transcript.master_nonce,
        term,
        mac: transcript.master_mac(&SECRET),
    };
    link.send(codec::encode_master(&MasterFrame::plain(MasterToRelay::MasterAppRegister(
        register,
    ))))
    .await
    .unwrap();
    let ReceivedFrame::Text(text) = link.receive().await.unwrap() else { panic!("no ack") };
    let frame: MasterFrame<RelayToMaster> = codec::decode_master(&text).unwrap();
    let RelayToMaster::Relay(RelayMessage::MasterAppRegisterAck(ack)) = frame.message else {
        panic!("no ack: {text}")
    };
    assert_eq!(ack.mac, transcript.relay_mac(&SECRET));
    let (sender, receiver) = link.split();
    (sender, receiver, ack.hub.public_key)
}

/// A client that takes any certificate, as one may that has nothing to lose.
pub fn http_client() -> reqwest::Client {
    static PROVIDER: std::sync::Once = std::sync::Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build().unwrap()
}
