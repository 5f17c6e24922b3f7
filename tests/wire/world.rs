//! A relay on a free port, a master in memory behind a real `/ws/master`, and devices that speak by
//! the book.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lanyard_device::connection::{
    FrameReceiver, FrameSender, HubUrl, ReceivedFrame, RelayConnection,
};
use lanyard_hub::Moment;
use lanyard_hub::authority::{
    Approval, Authority, AuthorityConfig, Effect, Input, OperatorCommand, RequestToken, SavedState,
};
use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::identity::{self, Keypair, Transcript};
use lanyard_protocol::link_key::DrawnLink;
use lanyard_protocol::master_proof::MasterTranscript;
use lanyard_protocol::message::*;
use lanyard_protocol::session_key::{EphemeralSecret, SessionKey, Signer};
use lanyard_protocol::{Link as LinkKey, *};
use lanyard_relay::{Relay, RelayConfig, TlsIdentity};
use tokio::sync::{mpsc, oneshot, watch};

/// A condition that does not come by then never comes: the test fails.
pub(crate) const NEVER: Duration = Duration::from_secs(20);
pub(crate) const SECRET: [u8; 32] = [3; 32];

/// Byte i of every test file (protocol/vectors, content_rule).
pub(crate) fn content(size: u64) -> Vec<u8> {
    (0..size).map(|i| ((i * 31 + i / 251) % 256) as u8).collect()
}

/// Shared by relay and master of one hub.
pub(crate) struct TestHub {
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
    pub(crate) async fn start() -> Self {
        Self::with_budget(32 << 20).await
    }

    pub(crate) async fn with_budget(budget_bytes: u64) -> Self {
        Self::with(|config| config.budget_bytes = budget_bytes).await
    }

    /// One that speaks https too, with a certificate of its own.
    pub(crate) async fn with_tls() -> Self {
        let (_, identity) = watch::channel(certificate());
        Self::with(|config| config.tls = Some(identity)).await
    }

    /// One that takes https only. Its master speaks it, too.
    #[allow(dead_code)]
    pub(crate) async fn with_tls_only() -> Self {
        let (_, identity) = watch::channel(certificate());
        Self::with(|config| (config.tls, config.require_tls) = (Some(identity), true)).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut RelayConfig)) -> Self {
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
        let (operator, desk) = mpsc::channel(16);
        tokio::spawn(master(url.clone(), desk));
        Self { address, url, operator, _stop: stop }
    }

    /// A hub that runs elsewhere (tests/deep/floods.rs); its host cannot be asked for anything.
    #[allow(dead_code)]
    pub(crate) fn elsewhere(address: SocketAddr) -> Self {
        let (operator, _) = mpsc::channel(1);
        let (stop, _) = oneshot::channel();
        Self { address, url: format!("http://{address}").parse().unwrap(), operator, _stop: stop }
    }

    /// The relay is told to stop. The master does not know.
    #[allow(dead_code)]
    pub(crate) fn stop(self) {
        drop(self._stop);
    }

    pub(crate) async fn operator(&self, command: OperatorCommand) {
        assert!(self.operator.send(HubCommand::Operator(command)).await.is_ok());
    }

    pub(crate) async fn restart_master(&self) {
        assert!(self.operator.send(HubCommand::Restart).await.is_ok());
    }

    /// The master goes; it comes back when what is returned is dropped.
    #[allow(dead_code)]
    pub(crate) async fn without_master(&self) -> oneshot::Sender<()> {
        let (back, away) = oneshot::channel();
        assert!(self.operator.send(HubCommand::Leave(away)).await.is_ok());
        back
    }

    /// The digits that the host would compare.
    pub(crate) async fn code_of(&self, device: DeviceId) -> String {
        let (answer, code) = oneshot::channel();
        assert!(self.operator.send(HubCommand::Code(device, answer)).await.is_ok());
        tokio::time::timeout(NEVER, code).await.expect("the device revealed").unwrap()
    }

    /// A device that knocked and was let in.
    pub(crate) async fn approved(&self, seed: u8) -> TestDevice {
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
    #[allow(dead_code)]
    pub(crate) async fn metrics(&self) -> String {
        let token = lanyard_protocol::master_proof::metrics_token(&SECRET);
        let answer =
            http_client().get(self.http("/metrics")).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    }

    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A new certificate that nobody vouches for.
pub(crate) fn certificate() -> TlsIdentity {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let (leaf, public_key) =
        (cert.der().to_vec(), rcgen::PublicKeyData::subject_public_key_info(&signing_key));
    TlsIdentity::new(leaf.clone(), signing_key.serialize_der(), &public_key, leaf).unwrap()
}

/// The master app without disk and screens.
async fn master(url: HubUrl, mut desk: mpsc::Receiver<HubCommand>) {
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
                said = desk.recv() => match said {
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
pub(crate) async fn register(url: &HubUrl, term: u64) -> (FrameSender, FrameReceiver, PublicKey) {
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
pub(crate) fn http_client() -> reqwest::Client {
    static PROVIDER: std::sync::Once = std::sync::Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build().unwrap()
}

/// Runs `work` while `owner` answers uploads; gives its result and the bytes asked of the owner.
#[allow(dead_code)]
pub(crate) async fn while_serving<T>(
    owner: &mut TestDevice,
    work: impl Future<Output = T>,
) -> (T, u64) {
    let (done, finished) = oneshot::channel::<()>();
    let work = async {
        let result = work.await;
        let _ = done.send(());
        result
    };
    let serve = owner.serve_until(async { drop(finished.await) });
    // Long enough for a large archive on a busy machine.
    tokio::time::timeout(6 * NEVER, async { tokio::join!(work, serve) }).await.expect("it ends")
}

/// A device that does nothing by itself.
pub(crate) struct TestDevice {
    pub id: DeviceId,
    pub key: Keypair,
    pub membership: Membership,
    /// Proves its HTTP requests; of a device that was turned away, with a key that nobody knows.
    pub signer: Signer,
    /// The same key, for tests that look for it.
    pub session_key: SessionKey,
    pub code: Option<String>,
    hub_key: PublicKey,
    reveal: Reveal,
    relay_nonce: Nonce,
    name: String,
    sender: FrameSender,
    receiver: FrameReceiver,
    pub http: reqwest::Client,
    base: String,
    refs: u64,
    pub files: HashMap<FileId, Arc<Vec<u8>>>,
}

impl TestDevice {
    /// Connects with the key made of `seed`, as the instance made of `tab`, and proves it.
    pub(crate) async fn connect(hub: &TestHub, seed: u8, tab: u8) -> Self {
        Self::connect_to(&hub.url, seed, tab).await
    }

    pub(crate) async fn connect_to(url: &HubUrl, seed: u8, tab: u8) -> Self {
        let mut link = RelayConnection::open(url, "/ws/device", None).await.unwrap();
        let ReceivedFrame::Text(text) = link.receive().await.unwrap() else {
            panic!("no challenge")
        };
        let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
        let RelayToDevice::Challenge(challenge) = frame.message else {
            panic!("no challenge: {text}")
        };
        let key = Keypair::from_seed(&[seed; 32]);
        let reveal = Reveal([seed; 32]);
        let (register, transcript) =
            registration(&url.authority(), &challenge, &key, reveal, Instance([tab; 16]));
        let name = register.name.clone();
        link.send(codec::encode(&DeviceToRelay::ClientRegister(register), None)).await.unwrap();
        let ReceivedFrame::Text(text) = link.receive().await.unwrap() else { panic!("no ack") };
        let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
        let RelayToDevice::ClientRegisterAck(ack) = frame.message else { panic!("no ack: {text}") };
        assert!(transcript.hub_signed(ack.public_id, &ack.signature), "the hub proves its key");
        assert_eq!(ack.public_id, identity::public_id(&key.public()));
        let agreed = ephemeral().agree(&challenge.ephemeral_key, &transcript.device_text());
        let session_key = agreed.expect("the hub's key is no weak one");
        let (sender, receiver) = link.split();
        Self {
            id: ack.public_id,
            key,
            membership: ack.membership,
            signer: Signer::new(ack.session_id.unwrap_or(KeyId([0; 16])), session_key.clone()),
            session_key,
            code: None,
            hub_key: challenge.hub.public_key,
            reveal,
            relay_nonce: challenge.nonce,
            name,
            sender,
            receiver,
            http: http_client(),
            base: format!("http://{}", url.authority()),
            refs: 0,
            files: HashMap::new(),
        }
    }

    /// Comes into a hub that lets everybody in, as a member with a key.
    #[allow(dead_code)]
    pub(crate) async fn enters(hub: &TestHub, seed: u8, tab: u8) -> Self {
        let mut device = Self::connect(hub, seed, tab).await;
        if device.membership == Membership::Approved {
            return device;
        }
        // Nobody is asked, so there are no digits.
        loop {
            match device.next().await.message {
                RelayToDevice::ClientApproved(said) if said.client.public_id == device.id => break,
                RelayToDevice::ApprovalRestart(restart) => {
                    device.promises_anew(restart.nonce).await
                }
                _ => {}
            }
        }
        // The key comes with a new session.
        Self::connect(hub, seed, tab).await
    }

    /// Sends a message; gives the reference it went with.
    pub(crate) async fn say(&mut self, message: DeviceToRelay) -> Ref {
        self.refs += 1;
        let reference = Ref::number(self.refs);
        self.say_text(codec::encode(&message, Some(&reference))).await;
        reference
    }

    pub(crate) async fn say_text(&mut self, text: String) {
        self.sender.send(text).await.unwrap();
    }

    /// The next message; panics if the socket ended.
    pub(crate) async fn next(&mut self) -> Frame<RelayToDevice> {
        match tokio::time::timeout(NEVER, self.receiver.receive()).await {
            Ok(Ok(ReceivedFrame::Text(text))) => codec::decode(&text).unwrap(),
            other => panic!("no message: {other:?}"),
        }
    }

    /// Reads until a message fits, and gives it.
    pub(crate) async fn until(&mut self, fits: impl Fn(&RelayToDevice) -> bool) -> RelayToDevice {
        loop {
            let frame = self.next().await;
            if fits(&frame.message) {
                return frame.message;
            }
        }
    }

    /// The answer to a request.
    pub(crate) async fn answer(&mut self, reference: &Ref) -> RelayToDevice {
        loop {
            let frame = self.next().await;
            if frame.reference.as_ref() == Some(reference) {
                return frame.message;
            }
        }
    }

    /// Reads until the socket is closed, and gives the code.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        loop {
            match tokio::time::timeout(NEVER, self.receiver.receive()).await.expect("it closes") {
                Ok(ReceivedFrame::Text(_)) => {}
                Ok(ReceivedFrame::Closed(code)) => return code,
                Err(_) => return None,
            }
        }
    }

    /// Reads until the socket is closed: the code, and how many uploads were asked for on the way.
    #[allow(dead_code)]
    pub(crate) async fn goodbye(&mut self) -> (Option<u16>, usize) {
        let mut asked = 0;
        loop {
            match tokio::time::timeout(NEVER, self.receiver.receive()).await.expect("it closes") {
                Ok(ReceivedFrame::Text(text)) => {
                    asked += usize::from(text.contains("UPLOAD_CHUNK_REQUEST"))
                }
                Ok(ReceivedFrame::Closed(code)) => return (code, asked),
                Err(_) => return (None, asked),
            }
        }
    }

    /// Answers the master's challenge, and shows the digits once it has opened them. A knock that
    /// is older than the master begins anew.
    pub(crate) async fn knock_through(&mut self) {
        let public = self.key.public();
        let challenge = loop {
            match self.next().await.message {
                RelayToDevice::ApprovalChallenge(challenge) => break challenge,
                RelayToDevice::ApprovalRestart(restart) => self.promises_anew(restart.nonce).await,
                _ => {}
            }
        };
        let commit = approval::commit(&public, &self.reveal);
        assert_eq!(
            challenge.request_id,
            approval::request_id(&public, &commit, &self.relay_nonce, &self.name)
        );
        let request_id = challenge.request_id;
        self.say(DeviceToRelay::ApprovalReveal(ApprovalReveal { request_id, reveal: self.reveal }))
            .await;
        let nonce = loop {
            match self.next().await.message {
                RelayToDevice::ApprovalOpen(opening) if opening.request_id == request_id => {
                    break opening.nonce;
                }
                _ => {}
            }
        };
        assert_eq!(
            approval::master_commit(&self.hub_key, &request_id, &nonce),
            challenge.commit,
            "as promised"
        );
        self.code = Some(approval::code(&self.hub_key, &public, &request_id, &self.reveal, &nonce));
    }

    async fn promises_anew(&mut self, relay_nonce: Nonce) {
        self.relay_nonce = relay_nonce;
        self.reveal = Reveal([self.reveal.0[0] ^ 0x80; 32]);
        let commit = approval::commit(&self.key.public(), &self.reveal);
        self.say(DeviceToRelay::ApprovalCommit(ApprovalCommit { commit, invitation: None })).await;
    }

    /// Lists a file of `size` bytes and waits for its announcement.
    pub(crate) async fn offers(&mut self, path: &str, size: u64) -> FileEntry {
        self.offers_bytes(path, Arc::new(content(size))).await
    }

    pub(crate) async fn offers_bytes(&mut self, path: &str, bytes: Arc<Vec<u8>>) -> FileEntry {
        let file_id: FileId =
            format!("00000000-0000-4000-8000-{:012x}", self.files.len() + 1).parse().unwrap();
        let file = NewFile {
            file_id,
            path: path.into(),
            size: bytes.len() as u64,
            modified_ms: 1_700_000_000_000,
            media_type: "video/mp4".into(),
            kind: EntryKind::File,
            root: None,
        };
        self.files.insert(file_id, bytes);
        let reference = self.say(DeviceToRelay::AddFiles(AddFiles { files: vec![file] })).await;
        let RelayToDevice::FilesAdded(mut added) = self.answer(&reference).await else {
            panic!("not added")
        };
        added.files.remove(0)
    }

    pub(crate) async fn request(
        &mut self,
        entry: &FileEntry,
        transfer: u8,
        first: u32,
        count: u32,
    ) {
        let request = RequestChunk {
            transfer_id: format!("00000000-0000-4000-8000-0000000000{transfer:02x}")
                .parse()
                .unwrap(),
            public_id: entry.public_id,
            pieces: vec![GroupSpan::new(entry.file_id, first, count)],
            what: BodyKind::Bytes,
            have: None,
        };
        self.say(DeviceToRelay::RequestChunk(request)).await;
    }

    pub(crate) async fn asked(&mut self) -> UploadChunkRequest {
        let message = self.until(|m| matches!(m, RelayToDevice::UploadChunkRequest(_))).await;
        let RelayToDevice::UploadChunkRequest(request) = message else { unreachable!() };
        request
    }

    pub(crate) async fn ready(&mut self) -> ChunkReady {
        let message = self.until(|m| matches!(m, RelayToDevice::ChunkReady(_))).await;
        let RelayToDevice::ChunkReady(ready) = message else { unreachable!() };
        ready
    }

    pub(crate) async fn failed(&mut self) -> ChunkFailed {
        let message = self.until(|m| matches!(m, RelayToDevice::ChunkFailed(_))).await;
        let RelayToDevice::ChunkFailed(failed) = message else { unreachable!() };
        failed
    }

    /// The bytes that a request for an upload asks for.
    pub(crate) fn body_of(&self, request: &UploadChunkRequest) -> Vec<u8> {
        let mut body = Vec::new();
        for piece in &request.pieces {
            let bytes = &self.files[&piece.file_id];
            let groups = group::Groups::of(bytes.len() as u64);
            let from = groups.offset(piece.groups.first) as usize;
            body.extend_from_slice(
                &bytes[from..from + groups.span(piece.groups.first, piece.groups.count) as usize],
            );
        }
        body
    }

    pub(crate) fn put(
        &self,
        ticket: &Ticket,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::RequestBuilder {
        self.ask(reqwest::Method::PUT, &self.chunk_url(ticket)).body(body)
    }

    pub(crate) fn get(&self, ticket: &Ticket) -> reqwest::RequestBuilder {
        self.ask(reqwest::Method::GET, &self.chunk_url(ticket))
    }

    /// A request that this session proves, to be sent once.
    pub(crate) fn ask(&self, method: reqwest::Method, url: &str) -> reqwest::RequestBuilder {
        let proof = self.signer.authorize(method.as_str(), &target_of(url)).to_string();
        self.http.request(method, url).header("authorization", proof)
    }

    /// The line that proves a request written by hand.
    #[allow(dead_code)]
    pub(crate) fn proof(&self, method: &str, target: &str) -> String {
        format!("Authorization: {}", self.signer.authorize(method, target))
    }

    pub(crate) fn chunk_url(&self, ticket: &Ticket) -> String {
        format!("{}/chunks/{}", self.base, ticket.to_hex())
    }

    /// Answers uploads until `done` ends; counts the bytes that were asked of it.
    pub(crate) async fn serve_until(&mut self, done: impl Future<Output = ()>) -> u64 {
        tokio::pin!(done);
        let mut asked = 0;
        loop {
            tokio::select! {
                () = &mut done => return asked,
                frame = self.receiver.receive() => {
                    let Ok(ReceivedFrame::Text(text)) = frame else { panic!("the owner's socket ended: {frame:?}") };
                    let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
                    if let RelayToDevice::UploadChunkRequest(request) = frame.message {
                        asked += request.length;
                        tokio::spawn(self.put(&request.ticket, self.body_of(&request)).send());
                    }
                }
            }
        }
    }

    /// Draws a link of its own, as a maker does.
    pub(crate) fn new_link(&mut self) -> DrawnLink {
        self.refs += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.refs.to_be_bytes());
        DrawnLink::new(&LinkSeed(seed), self.id)
    }

    pub(crate) async fn link(&mut self, files: &[&FileEntry]) -> TestLink {
        let files = files.iter().map(|entry| entry.file_ref()).collect();
        self.link_of(|drawn| LinkRequest { files, ..link_request(drawn) }).await
    }

    /// Makes a link and draws its key.
    pub(crate) async fn link_of(
        &mut self,
        request: impl FnOnce(&DrawnLink) -> LinkRequest,
    ) -> TestLink {
        let drawn = self.new_link();
        let request = request(&drawn);
        self.link_drawn(drawn, request).await
    }

    /// Sends the request for a link that was drawn before.
    pub(crate) async fn link_drawn(&mut self, drawn: DrawnLink, request: LinkRequest) -> TestLink {
        let link = drawn.link;
        let reference = self.say(DeviceToRelay::LinkRequest(request)).await;
        let RelayToDevice::LinkMade(made) = self.answer(&reference).await else {
            panic!("no link")
        };
        TestLink { link, url: http::link_path(&link, &made.link.name), listed: made.link }
    }
}

/// A link that was made, with its key.
pub(crate) struct TestLink {
    pub link: LinkKey,
    pub url: String,
    #[allow(dead_code)]
    pub listed: LinkListed,
}

/// A request for a link of nothing.
pub(crate) fn link_request(drawn: &DrawnLink) -> LinkRequest {
    LinkRequest {
        link_hash: drawn.hash,
        binding: drawn.binding,
        files: Vec::new(),
        folder: None,
        name: None,
        valid_ms: None,
        uses: None,
    }
}

/// Path and query of an address, as they stand in the request line.
fn target_of(url: &str) -> String {
    let url = reqwest::Url::parse(url).unwrap();
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}

/// The ephemeral secret of all devices of the tests: each hub has a new key for each.
pub(crate) fn ephemeral() -> EphemeralSecret {
    EphemeralSecret::new([6; 32])
}

/// A right CLIENT_REGISTER and what it signs.
pub(crate) fn registration(
    authority: &str,
    challenge: &Challenge,
    key: &Keypair,
    reveal: Reveal,
    instance: Instance,
) -> (ClientRegister, Transcript) {
    let transcript = Transcript {
        boot_id: challenge.boot_id,
        relay_nonce: challenge.nonce,
        device_nonce: Nonce([5; 32]),
        hub_key: challenge.hub.public_key,
        device_key: key.public(),
        authority: authority.into(),
        channel: Channel::PLAIN,
        relay_ephemeral: challenge.ephemeral_key,
        device_ephemeral: ephemeral().public(),
    };
    let register = ClientRegister {
        protocol: PROTOCOL_VERSION,
        name: format!("device {}", &key.public().to_hex()[..6]),
        kind: DeviceKind::Native,
        platform: "tests".into(),
        instance,
        public_key: key.public(),
        nonce: transcript.device_nonce,
        ephemeral_key: transcript.device_ephemeral,
        signature: transcript.sign_as_device(key),
        commit: approval::commit(&key.public(), &reveal),
        invitation: None,
        host_proof: None,
        resume: None,
    };
    (register, transcript)
}
