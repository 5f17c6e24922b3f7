//! A device that speaks by the book and does nothing by itself.

use std::collections::HashMap;
use std::sync::Arc;

use lanyard_device::connection::{
    FrameReceiver, FrameSender, HubUrl, ReceivedFrame, RelayConnection,
};
use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::identity::{self, Keypair, Transcript};
use lanyard_protocol::link_key::DrawnLink;
use lanyard_protocol::message::*;
use lanyard_protocol::session_key::{EphemeralSecret, SessionKey, Signer};
use lanyard_protocol::{Link as LinkKey, *};
use tokio::sync::oneshot;

use super::{NEVER, TestHub, content, http_client};

/// Runs `work` while `owner` answers uploads; gives its result and the bytes asked of the owner.
pub async fn while_serving<T>(owner: &mut TestDevice, work: impl Future<Output = T>) -> (T, u64) {
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
pub struct TestDevice {
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
    pub async fn connect(hub: &TestHub, seed: u8, tab: u8) -> Self {
        Self::connect_to(&hub.url, seed, tab).await
    }

    pub async fn connect_to(url: &HubUrl, seed: u8, tab: u8) -> Self {
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
    pub async fn enters(hub: &TestHub, seed: u8, tab: u8) -> Self {
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
    pub async fn say(&mut self, message: DeviceToRelay) -> Ref {
        self.refs += 1;
        let reference = Ref::number(self.refs);
        self.say_text(codec::encode(&message, Some(&reference))).await;
        reference
    }

    pub async fn say_text(&mut self, text: String) {
        self.sender.send(text).await.unwrap();
    }

    /// The next message; panics if the socket ended.
    pub async fn next(&mut self) -> Frame<RelayToDevice> {
        match tokio::time::timeout(NEVER, self.receiver.receive()).await {
            Ok(Ok(ReceivedFrame::Text(text))) => codec::decode(&text).unwrap(),
            other => panic!("no message: {other:?}"),
        }
    }

    /// Reads until a message fits, and gives it.
    pub async fn until(&mut self, fits: impl Fn(&RelayToDevice) -> bool) -> RelayToDevice {
        loop {
            let frame = self.next().await;
            if fits(&frame.message) {
                return frame.message;
            }
        }
    }

    /// The answer to a request.
    pub async fn answer(&mut self, reference: &Ref) -> RelayToDevice {
        loop {
            let frame = self.next().await;
            if frame.reference.as_ref() == Some(reference) {
                return frame.message;
            }
        }
    }

    /// Reads until the socket is closed, and gives the code.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            match tokio::time::timeout(NEVER, self.receiver.receive()).await.expect("it closes") {
                Ok(ReceivedFrame::Text(_)) => {}
                Ok(ReceivedFrame::Closed(code)) => return code,
                Err(_) => return None,
            }
        }
    }

    /// Reads until the socket is closed: the code, and how many uploads were asked for on the way.
    pub async fn goodbye(&mut self) -> (Option<u16>, usize) {
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
    pub async fn knock_through(&mut self) {
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
    pub async fn offers(&mut self, path: &str, size: u64) -> FileEntry {
        self.offers_bytes(path, Arc::new(content(size))).await
    }

    pub async fn offers_bytes(&mut self, path: &str, bytes: Arc<Vec<u8>>) -> FileEntry {
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

    pub async fn request(&mut self, entry: &FileEntry, transfer: u8, first: u32, count: u32) {
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

    pub async fn asked(&mut self) -> UploadChunkRequest {
        let message = self.until(|m| matches!(m, RelayToDevice::UploadChunkRequest(_))).await;
        let RelayToDevice::UploadChunkRequest(request) = message else { unreachable!() };
        request
    }

    pub async fn ready(&mut self) -> ChunkReady {
        let message = self.until(|m| matches!(m, RelayToDevice::ChunkReady(_))).await;
        let RelayToDevice::ChunkReady(ready) = message else { unreachable!() };
        ready
    }

    pub async fn failed(&mut self) -> ChunkFailed {
        let message = self.until(|m| matches!(m, RelayToDevice::ChunkFailed(_))).await;
        let RelayToDevice::ChunkFailed(failed) = message else { unreachable!() };
        failed
    }

    /// The bytes that a request for an upload asks for.
    pub fn body_of(&self, request: &UploadChunkRequest) -> Vec<u8> {
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

    pub fn put(&self, ticket: &Ticket, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.ask(reqwest::Method::PUT, &self.chunk_url(ticket)).body(body)
    }

    pub fn get(&self, ticket: &Ticket) -> reqwest::RequestBuilder {
        self.ask(reqwest::Method::GET, &self.chunk_url(ticket))
    }

    /// A request that this session proves, to be sent once.
    pub fn ask(&self, method: reqwest::Method, url: &str) -> reqwest::RequestBuilder {
        let proof = self.signer.authorize(method.as_str(), &target_of(url)).to_string();
        self.http.request(method, url).header("authorization", proof)
    }

    /// The line that proves a request written by hand.
    pub fn proof(&self, method: &str, target: &str) -> String {
        format!("Authorization: {}", self.signer.authorize(method, target))
    }

    pub fn chunk_url(&self, ticket: &Ticket) -> String {
        format!("{}/chunks/{}", self.base, ticket.to_hex())
    }

    /// Answers uploads until `done` ends; counts the bytes that were asked of it.
    pub async fn serve_until(&mut self, done: impl Future<Output = ()>) -> u64 {
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
    pub fn new_link(&mut self) -> DrawnLink {
        self.refs += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.refs.to_be_bytes());
        DrawnLink::new(&LinkSeed(seed), self.id)
    }

    pub async fn link(&mut self, files: &[&FileEntry]) -> TestLink {
        let files = files.iter().map(|entry| entry.file_ref()).collect();
        self.link_of(|drawn| LinkRequest { files, ..link_request(drawn) }).await
    }

    /// Makes a link and draws its key.
    pub async fn link_of(&mut self, request: impl FnOnce(&DrawnLink) -> LinkRequest) -> TestLink {
        let drawn = self.new_link();
        let request = request(&drawn);
        self.link_drawn(drawn, request).await
    }

    /// Sends the request for a link that was drawn before.
    pub async fn link_drawn(&mut self, drawn: DrawnLink, request: LinkRequest) -> TestLink {
        let link = drawn.link;
        let reference = self.say(DeviceToRelay::LinkRequest(request)).await;
        let RelayToDevice::LinkMade(made) = self.answer(&reference).await else {
            panic!("no link")
        };
        TestLink { link, url: http::link_path(&link, &made.link.name), listed: made.link }
    }
}

/// A link that was made, with its key.
pub struct TestLink {
    pub link: LinkKey,
    pub url: String,
    pub listed: LinkListed,
}

/// A request for a link of nothing.
pub fn link_request(drawn: &DrawnLink) -> LinkRequest {
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
pub fn ephemeral() -> EphemeralSecret {
    EphemeralSecret::new([6; 32])
}

/// A right CLIENT_REGISTER and what it signs.
pub fn registration(
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
