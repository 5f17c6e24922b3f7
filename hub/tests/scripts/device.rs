//! A native device as a script sees it: a peer, and the least of a driver around it.

use std::collections::BTreeMap;

use lanyard_hub::peer::{
    CloseReason, Effect, EndReason, FetchId, FetchOutcome, GroupSet, Input, MembershipPhase, Peer,
    PeerConfig, Reveals, ShareState, TransferOrder, WantedFile,
};
use lanyard_hub::{IdSource, Moment};
use lanyard_protocol::{
    DeviceKind, DeviceToRelay, EphemeralKey, FileEntry, FileId, GroupSpan, Instance, NewFile,
    Nonce, PublicKey, Ref, RelayToDevice, Reveal, Signature, Ticket, TransferId, approval, codec,
};
use serde_json::{Value, json};

use crate::pattern::Names;

const DEVICE_KEY: PublicKey = PublicKey([7; 32]);
const HUB_KEY: PublicKey = PublicKey([3; 32]);
const INSTANCE: Instance = Instance([0x11; 16]);
const MASTER_NONCE: Nonce = Nonce([0x0c; 32]);

/// A GET that the peer wants.
struct Get {
    fetch: FetchId,
    transfer_id: TransferId,
    pieces: Vec<GroupSpan>,
    ticket: Ticket,
}

/// One download of one file, as a person sees it.
struct Download {
    path: String,
    transfer_id: TransferId,
    state: &'static str,
}

pub(crate) struct ScriptedDevice {
    peer: Peer,
    now: Moment,
    line: &'static str,
    sent: Vec<Value>,
    names: Names,
    /// As it registered.
    name: String,
    /// Of the last challenge or restart; the knock is bound to it.
    relay_nonce: Option<Nonce>,
    files: BTreeMap<String, FileId>,
    downloads: Vec<Download>,
    gets: Vec<Get>,
    uploads: Vec<Ticket>,
}

impl ScriptedDevice {
    pub(crate) fn new() -> Self {
        let config = PeerConfig {
            public_key: DEVICE_KEY,
            instance: INSTANCE,
            name: "Laptop".into(),
            kind: DeviceKind::Native,
            platform: String::new(),
            invitation: None,
            reveals: Reveals::default(),
        };
        let peer = Peer::new(config, IdSource::new([1; 32]));
        let names = Names::from([
            ("me".to_owned(), json!(peer.public_id())),
            ("instance".to_owned(), json!(INSTANCE)),
            ("hub_key".to_owned(), json!(HUB_KEY)),
            // The driver checks signatures, and the peer hears only what was found right.
            ("hub_signature".to_owned(), json!(Signature([0; 64]))),
            ("master_nonce".to_owned(), json!(MASTER_NONCE)),
        ]);
        Self {
            peer,
            now: Moment(1_000_000),
            line: "down",
            sent: Vec::new(),
            names,
            name: String::new(),
            relay_nonce: None,
            files: BTreeMap::new(),
            downloads: Vec::new(),
            gets: Vec::new(),
            uploads: Vec::new(),
        }
    }

    /// What the script may name from here on.
    pub(crate) fn names(&self) -> Names {
        self.names.clone()
    }

    pub(crate) fn sent(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.sent)
    }

    // ── What happens to it ──────────────────────────────────────────────────────────────────────

    pub(crate) fn hear(&mut self, frame: &Value) {
        let frame =
            codec::decode::<RelayToDevice>(&frame.to_string()).expect("a message of the wire");
        match &frame.message {
            RelayToDevice::Challenge(challenge) => self.relay_nonce = Some(challenge.nonce),
            RelayToDevice::ApprovalRestart(restart) => self.relay_nonce = Some(restart.nonce),
            _ => {}
        }
        self.tell(Input::Received { frame });
    }

    pub(crate) fn line(&mut self, line: &Value) -> Result<(), String> {
        match line {
            Value::String(opens) if opens == "opens" => {
                if self.line != "opening" {
                    return Err(format!("it does not try to connect, its line is {}", self.line));
                }
                self.line = "open";
                self.tell(Input::LinkOpened);
            }
            closes => {
                let code = closes["closes"].as_u64().expect("a close code");
                self.line = "down";
                self.tell(Input::LinkClosed { code: u16::try_from(code).ok() });
            }
        }
        Ok(())
    }

    pub(crate) fn wait(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while let Some(at) = self.peer.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.peer.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// How a body ended that the peer asked for.
    pub(crate) fn body(&mut self, body: &Value) {
        let ticket: Ticket = serde_json::from_value(body["ticket"].clone()).unwrap();
        let at = self.gets.iter().position(|get| get.ticket == ticket).expect("it fetches that");
        let Get { fetch, transfer_id, pieces, .. } = self.gets.remove(at);
        let outcome = match body["ends"].as_str() {
            Some("complete") => {
                self.tell(Input::Stored { transfer_id, pieces });
                FetchOutcome::Complete
            }
            Some("cut") => FetchOutcome::Cut,
            other => panic!("a body does not end {other:?}"),
        };
        self.tell(Input::FetchEnded { fetch, outcome });
    }

    pub(crate) fn person(&mut self, action: &Value) {
        let (verb, with) = action.as_object().and_then(|o| o.iter().next()).expect("a verb");
        match verb.as_str() {
            "start" => self.tell(Input::Start),
            "share" => {
                let files =
                    with.as_array().unwrap().iter().map(|file| self.new_file(file)).collect();
                self.tell(Input::Share { files });
            }
            "unshare" => {
                let paths = with.as_array().unwrap().iter();
                let file_ids = paths.map(|path| self.files[path.as_str().unwrap()]).collect();
                self.tell(Input::Unshare { file_ids });
            }
            "rename" => self.tell(Input::Rename { name: with.as_str().unwrap().into() }),
            "download" => self.download(with.as_str().unwrap()),
            "cancel" => {
                let path = with.as_str().unwrap();
                let download = self.downloads.iter_mut().find(|one| one.path == path).unwrap();
                download.state = "cancelled";
                let transfer_id = download.transfer_id;
                self.tell(Input::Cancel { transfer_id });
            }
            other => panic!("a person does not {other}"),
        }
    }

    fn new_file(&mut self, file: &Value) -> NewFile {
        let number = self.files.len() + 1;
        let file_id: FileId = format!("0000000f-0000-8000-8000-{number:012x}").parse().unwrap();
        let path = file["path"].as_str().unwrap().to_owned();
        let file_id = *self.files.entry(path).or_insert(file_id);
        let mut whole = file.clone();
        whole["file_id"] = json!(file_id);
        whole["media_type"] = json!("");
        serde_json::from_value(whole).unwrap()
    }

    fn download(&mut self, path: &str) {
        let files = &self.peer.catalogue().files;
        let entry: FileEntry =
            files.values().find(|file| file.path == path).expect("a listed file").clone();
        let number = self.downloads.len() + 1;
        let transfer_id: TransferId =
            format!("0000000d-0000-8000-8000-{number:012x}").parse().unwrap();
        self.downloads.push(Download { path: path.into(), transfer_id, state: "running" });
        let wanted = WantedFile {
            file_id: entry.file_id,
            size: entry.size,
            group_log: entry.group_log,
            root: entry.root,
            have: GroupSet::default(),
        };
        let order = TransferOrder {
            transfer_id,
            owner: entry.public_id,
            files: vec![wanted],
            lookahead_bytes: None,
        };
        self.tell(Input::StartTransfer { order });
    }

    // ── What it does ────────────────────────────────────────────────────────────────────────────

    fn tell(&mut self, input: Input) {
        self.peer.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.peer.poll_effect() {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::OpenLink => self.line = "opening",
            Effect::CloseLink { .. } => self.line = "down",
            Effect::Register { registration } => {
                let message = registration.message(EphemeralKey([9; 32]), Signature([0; 64]));
                self.send(&DeviceToRelay::ClientRegister(message), None);
            }
            Effect::Send { message, reference } => self.send(&message, reference.as_ref()),
            Effect::Upload { ticket, .. } => self.uploads.push(ticket),
            Effect::CancelUpload { ticket, .. } => self.uploads.retain(|one| *one != ticket),
            Effect::EndBodies => {
                self.uploads.clear();
                self.gets.clear();
            }
            Effect::Fetch { fetch, transfer_id, pieces, ticket, .. } => {
                self.gets.push(Get { fetch, transfer_id, pieces, ticket });
            }
            Effect::CancelFetch { fetch } => self.gets.retain(|get| get.fetch != fetch),
            // The driver looks at the file, and finds that it changed.
            Effect::FileDisputed { file_id } => {
                self.tell(Input::Replaced { old: file_id, new: None });
            }
            Effect::CloseFile { transfer_id, file_id, .. } => {
                self.tell(Input::FileClosed { transfer_id, file_id, outcome: CloseReason::Done });
            }
            Effect::FileDone { transfer_id, .. } => self.download_is(transfer_id, "done"),
            Effect::FileFailed { transfer_id, .. } => self.download_is(transfer_id, "failed"),
            Effect::TransferChanged { transfer_id, waits_for, .. } => {
                let state = if waits_for.is_some() { "waiting" } else { "running" };
                self.download_is(transfer_id, state);
            }
            Effect::Revealing
            | Effect::Opened
            | Effect::PhaseChanged { .. }
            | Effect::CatalogueChanged
            | Effect::SharesChanged { .. }
            | Effect::Renamed { .. }
            | Effect::Answered { .. }
            | Effect::RenameFailed { .. }
            | Effect::DiscardFile { .. }
            | Effect::TransferEnded { .. }
            | Effect::Progress { .. } => {}
        }
    }

    fn download_is(&mut self, transfer_id: TransferId, state: &'static str) {
        let over = ["done", "failed", "cancelled"];
        let mut downloads = self.downloads.iter_mut();
        if let Some(one) =
            downloads.find(|one| one.transfer_id == transfer_id && !over.contains(&one.state))
        {
            one.state = state;
        }
    }

    fn send(&mut self, message: &DeviceToRelay, reference: Option<&Ref>) {
        let frame: Value = serde_json::from_str(&codec::encode(message, reference)).unwrap();
        match message {
            DeviceToRelay::ClientRegister(register) => {
                self.name = register.name.clone();
                self.knocks(register.commit);
            }
            DeviceToRelay::ApprovalCommit(again) => self.knocks(again.commit),
            DeviceToRelay::ApprovalReveal(said) => self.reveals(said.reveal),
            _ => {}
        }
        self.sent.push(frame);
    }

    /// Computes what the hub knows of a knock.
    fn knocks(&mut self, commit: lanyard_protocol::Commit) {
        let Some(nonce) = self.relay_nonce else { return };
        let request = approval::request_id(&DEVICE_KEY, &commit, &nonce, &self.name);
        let promise = approval::master_commit(&HUB_KEY, &request, &MASTER_NONCE);
        self.names.insert("request".into(), json!(request));
        self.names.insert("master_commit".into(), json!(promise));
    }

    fn reveals(&mut self, reveal: Reveal) {
        let request = serde_json::from_value(self.names["request"].clone()).unwrap();
        let code = approval::code(&HUB_KEY, &DEVICE_KEY, &request, &reveal, &MASTER_NONCE);
        self.names.insert("code".into(), json!(code));
    }

    // ── What it shows ───────────────────────────────────────────────────────────────────────────

    pub(crate) fn shows(&self, what: &str) -> Value {
        match what {
            "place" => json!(self.place()),
            "line" => json!(self.line),
            "code" => match self.peer.phase() {
                MembershipPhase::Waiting { code } => json!(code),
                _ => Value::Null,
            },
            "devices" => {
                json!(sorted(self.peer.catalogue().clients.values().map(|c| c.name.clone())))
            }
            "online" => {
                let catalogue = self.peer.catalogue();
                let named = catalogue.online.iter().filter_map(|id| catalogue.clients.get(id));
                json!(sorted(named.map(|client| client.name.clone())))
            }
            "files" => json!(sorted(self.peer.catalogue().files.values().map(|f| f.path.clone()))),
            "mine" => self.mine(),
            "transfers" => {
                let states = self.downloads.iter().map(|one| (one.path.clone(), json!(one.state)));
                Value::Object(states.collect())
            }
            "uploads" => json!(self.uploads.len()),
            other => panic!("nothing shows {other}"),
        }
    }

    fn mine(&self) -> Value {
        let states: BTreeMap<FileId, ShareState> = self.peer.shares().collect();
        let shown = self.files.iter().filter_map(|(path, file_id)| {
            let state = match states.get(file_id)? {
                ShareState::Syncing => "syncing",
                ShareState::Shared => "shared",
                ShareState::Failed { .. } => "failed",
                ShareState::Removed => return None,
            };
            Some((path.clone(), json!(state)))
        });
        Value::Object(shown.collect())
    }

    fn place(&self) -> &'static str {
        match self.peer.phase() {
            MembershipPhase::Connecting => "offline",
            MembershipPhase::HostAway | MembershipPhase::Approved { host_away: true } => {
                "host away"
            }
            MembershipPhase::Waiting { code: None } => "knocking",
            MembershipPhase::Waiting { code: Some(_) } => "digits",
            MembershipPhase::Closed => "closed",
            MembershipPhase::Entering => "entering",
            MembershipPhase::Approved { host_away: false } => "inside",
            MembershipPhase::Ended { reason } => match reason {
                EndReason::Refused => "refused",
                EndReason::Superseded => "superseded",
                EndReason::Version => "another version",
                EndReason::Rejected => "rejected",
                EndReason::UntrustedHub => "another hub",
                EndReason::NotOpened => "not opened",
                EndReason::Stopped => "stopped",
            },
        }
    }
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = texts.collect();
    all.sort();
    all
}
