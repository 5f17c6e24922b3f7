//! The master's driver around an Authority: a disk that takes its time, and a crash that loses what
//! was not on it.

use std::collections::{BTreeMap, VecDeque};

use lanyard_hub::authority::{
    Admission, Approval, Authority, AuthorityConfig, Effect, Input, LinkRecord, ListedFile, Member,
    OperatorCommand, OperatorEvent as AuthorityEvent, RequestToken, SavedState, StoreWrite,
    Verdict,
};
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::{
    DeviceId, FileRef, LinkHash, MasterFrame, MasterToConsole, MasterToRelay, PublicKey,
    RelayToMaster, message,
};

use crate::sim::simulation::{ConnId, Endpoint, Packet, SimEvent, Simulation};

/// The hub's key, which the relay holds.
pub fn hub_key() -> PublicKey {
    static KEY: std::sync::OnceLock<PublicKey> = std::sync::OnceLock::new();
    *KEY.get_or_init(|| Keypair::from_seed(&[200; 32]).public())
}

/// One life of the master app.
pub struct SimMaster {
    life: u64,
    pub authority: Authority,
    conn: Option<ConnId>,
    registered: bool,
    /// Effects that wait for the saves before them.
    out: VecDeque<Effect>,
    committing: bool,
    asks: u64,
    /// What the person at the host asked and was not answered.
    pub unanswered: BTreeMap<u64, &'static str>,
}

/// What survives everything.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    pub epoch: u64,
    pub revision: u64,
    pub term: u64,
    pub members: BTreeMap<DeviceId, Member>,
    pub files: BTreeMap<FileRef, ListedFile>,
    pub links: BTreeMap<LinkHash, LinkRecord>,
}

impl SimDisk {
    pub fn saved(&self) -> SavedState {
        SavedState {
            epoch: self.epoch,
            revision: self.revision,
            members: self.members.values().cloned().collect(),
            files: self.files.values().cloned().collect(),
            links: self.links.values().cloned().collect(),
        }
    }

    pub fn verdict(&self, device: DeviceId) -> Option<Verdict> {
        self.members.get(&device).map(|member| member.verdict)
    }

    fn apply(&mut self, change: StoreWrite) {
        match change {
            StoreWrite::Revision(revision) => self.revision = revision,
            StoreWrite::MemberPut(member) => {
                drop(self.members.insert(member.client.public_id, member))
            }
            StoreWrite::MemberGone(device) => drop(self.members.remove(&device)),
            StoreWrite::FilesPut { files, revision } => {
                for entry in files {
                    self.files.insert(
                        entry.file_ref(),
                        ListedFile { entry, revision, withdrawn_ms: None },
                    );
                }
            }
            StoreWrite::FilesWithdrawn { public_id, file_ids, revision, at_ms } => {
                for file_id in file_ids {
                    if let Some(listing) = self.files.get_mut(&FileRef { public_id, file_id }) {
                        (listing.revision, listing.withdrawn_ms) = (revision, Some(at_ms));
                    }
                }
            }
            StoreWrite::FilesGone { public_id, file_ids } => {
                for file_id in file_ids {
                    self.files.remove(&FileRef { public_id, file_id });
                }
            }
            StoreWrite::BelongingsGone(device) => {
                self.files.retain(|file, _| file.public_id != device);
                self.links.retain(|_, link| link.maker != device);
            }
            StoreWrite::RootKnown { file, root, revision } => {
                if let Some(listing) = self.files.get_mut(&file) {
                    listing.entry.root = Some(root);
                    listing.revision = revision;
                }
            }
            StoreWrite::LinkPut(link) => drop(self.links.insert(link.hash, link)),
            StoreWrite::LinkUsed { hash, used_ms, uses_left } => {
                if let Some(link) = self.links.get_mut(&hash) {
                    (link.used_ms, link.uses_left) = (used_ms, uses_left);
                }
            }
            StoreWrite::LinkGone(hash) => drop(self.links.remove(&hash)),
        }
    }
}

impl Simulation {
    pub fn start_master(&mut self) {
        if self.master.is_some() {
            return;
        }
        if self.disk.epoch == 0 {
            self.disk.epoch = self.random.between(1, 1 << 50);
        }
        let config = AuthorityConfig {
            host: None,
            admission: if self.config.admit_everyone {
                Admission::Everyone
            } else {
                Admission::Ask
            },
            tap_to_approve: self.config.tap_to_approve,
        };
        self.master_lives += 1;
        let authority = Authority::new(config, self.disk.saved(), self.random.seed());
        self.master = Some(SimMaster {
            life: self.master_lives,
            authority,
            conn: None,
            registered: false,
            out: VecDeque::new(),
            committing: false,
            asks: 0,
            unanswered: BTreeMap::new(),
        });
        self.trace(|| "master starts".into());
        self.after(0, SimEvent::MasterConnect(self.master_lives));
    }

    /// Killed: what is not on disk never was.
    pub fn kill_master(&mut self) {
        let Some(master) = self.master.take() else { return };
        self.model.count("master killed");
        if master.out.iter().any(|effect| matches!(effect, Effect::Save(_))) {
            self.model.count("master killed before its disk");
        }
        self.trace(|| format!("master killed, lost {:?}", master.out));
        if let Some(conn) = master.conn {
            let notices = self.random.below(10);
            self.cut(conn, notices, 0);
        }
    }

    /// The link between master and relay breaks; both live.
    pub fn cut_master(&mut self) {
        let Some(conn) = self.master.as_ref().and_then(|master| master.conn) else { return };
        self.model.count("master cut off");
        let (relay, master) = (self.random.below(3_000), self.random.below(3_000));
        self.cut(conn, relay, master);
    }

    pub(crate) fn master_connects(&mut self, life: u64) {
        let Some(master) =
            self.master.as_ref().filter(|master| master.life == life && master.conn.is_none())
        else {
            return;
        };
        let life = master.life;
        let Some(conn) = self.open_conn(Endpoint::Master) else {
            let wait = self.random.between(100, 1_000);
            return self.after(wait, SimEvent::MasterConnect(life));
        };
        // On disk before it is said.
        self.disk.term += 1;
        let term = self.disk.term;
        self.master.as_mut().unwrap().conn = Some(conn);
        self.send_to_relay(conn, Packet::MasterRegister { term });
    }

    pub(crate) fn master_registered(&mut self, conn: ConnId) {
        let Some(master) = self.master.as_mut().filter(|master| master.conn == Some(conn)) else {
            return;
        };
        master.registered = true;
        self.tell_authority(Input::RelayReady { hub_key: hub_key() });
    }

    pub(crate) fn master_hears(&mut self, conn: ConnId, frame: MasterFrame<RelayToMaster>) {
        if self.master.as_ref().is_some_and(|master| master.conn == Some(conn)) {
            self.tell_authority(Input::Frame(Box::new(frame)));
        }
    }

    pub(crate) fn master_lost_conn(&mut self, conn: ConnId) {
        let Some(master) = self.master.as_mut().filter(|master| master.conn == Some(conn)) else {
            return;
        };
        master.conn = None;
        let life = master.life;
        let was_registered = std::mem::take(&mut master.registered);
        if was_registered {
            self.tell_authority(Input::RelayLost);
        }
        let wait = self.random.between(100, 1_500);
        self.after(wait, SimEvent::MasterConnect(life));
    }

    /// The person at the host.
    pub fn operator(&mut self, command: OperatorCommand, name: &'static str) {
        let Some(master) = &mut self.master else { return };
        master.asks += 1;
        let ask = master.asks;
        master.unanswered.insert(ask, name);
        self.tell_authority(Input::Operator { ask: RequestToken(ask), command });
    }

    /// Types the digits that the device shows (or other ones).
    pub fn approve(&mut self, public_id: DeviceId, code: &str) {
        let word = Approval::Typed(code.to_owned());
        self.operator(
            OperatorCommand::Approve { public_id, request_id: None, word, for_ms: None },
            "approve",
        );
    }

    fn tell_authority(&mut self, input: Input) {
        let (now, wall) = (self.moment(), self.wall_ms());
        self.trace(|| format!("  authority {input:?}"));
        self.master.as_mut().unwrap().authority.handle(now, wall, input);
        self.drain_authority();
    }

    pub(crate) fn master_timeout(&mut self) {
        let (now, wall) = (self.moment(), self.wall_ms());
        self.master.as_mut().unwrap().authority.handle_timeout(now, wall);
        self.drain_authority();
    }

    fn drain_authority(&mut self) {
        let master = self.master.as_mut().unwrap();
        while let Some(effect) = master.authority.poll_effect() {
            master.out.push_back(effect);
        }
        self.put_out();
    }

    /// What needs no disk goes at once; a save, and all behind it, with the next commit.
    fn put_out(&mut self) {
        loop {
            let master = self.master.as_mut().unwrap();
            if master.committing {
                return;
            }
            match master.out.front() {
                None => return,
                Some(Effect::Save(_)) => {
                    master.committing = true;
                    let (life, items) = (master.life, master.out.len());
                    let disk_ms = self.random.below(6);
                    return self.after(disk_ms, SimEvent::Committed { life, items });
                }
                Some(_) => {
                    let effect = master.out.pop_front().unwrap();
                    self.master_does(effect);
                }
            }
        }
    }

    pub(crate) fn master_committed(&mut self, life: u64, items: usize) {
        let Some(master) = self.master.as_mut().filter(|master| master.life == life) else {
            return;
        };
        master.committing = false;
        let batch: Vec<Effect> = master.out.drain(..items).collect();
        // In order: what was said before a later save of the batch may be said before it is on
        // disk.
        for effect in batch {
            self.master_does(effect);
        }
        self.put_out();
    }

    fn master_does(&mut self, effect: Effect) {
        self.trace(|| format!("    does {effect:?}"));
        match effect {
            Effect::Save(change) => {
                self.disk.apply(change);
                self.model.saved(&self.disk);
            }
            Effect::Send(frame) => {
                self.assert_saved(&frame.message);
                self.note_said(&frame.message);
                if let Some(conn) = self.master.as_ref().and_then(|master| master.conn) {
                    self.send_to_relay(conn, Packet::FromMaster(Box::new(frame)));
                }
            }
            Effect::Publish { message, ask } => self.answered(ask, &message),
            Effect::Answer { ask, message } => self.answered(Some(ask), &message),
            Effect::Note(_) => {}
            Effect::Event(AuthorityEvent::DevicePending { .. }) => {
                self.model.count("the host is asked")
            }
            Effect::Event(AuthorityEvent::DeviceLeft { .. }) => {
                self.model.count("a prompt is left")
            }
        }
    }

    fn answered(&mut self, ask: Option<RequestToken>, message: &MasterToConsole) {
        let Some(RequestToken(ask)) = ask else { return };
        let Some(master) = &mut self.master else { return };
        let asked = master.unanswered.remove(&ask);
        assert!(asked.is_some(), "the person at the host is answered twice: {message:?}");
        if let MasterToConsole::RequestFailed(no) = message {
            self.model.count(match no.code {
                lanyard_protocol::FailureCode::WrongCode => "wrong code",
                lanyard_protocol::FailureCode::StaleRequest => "stale request",
                _ => "host's wish refused",
            });
        }
    }

    /// On disk before it is said.
    fn assert_saved(&self, message: &MasterToRelay) {
        let (verdict, revision) = match message {
            MasterToRelay::ClientApproved(m) => {
                (Some((m.client.public_id, Verdict::Approved)), m.revision)
            }
            MasterToRelay::DisApproveClient(m) => {
                (Some((m.public_id, Verdict::Refused)), m.revision)
            }
            MasterToRelay::ClientUpdated(m) => (None, m.revision),
            MasterToRelay::FilesAdded(m) => (None, m.revision),
            MasterToRelay::FilesUpdated(m) => (None, m.revision),
            MasterToRelay::FileRemoved(m) => (None, m.revision),
            MasterToRelay::FilesWithdrawn(m) => (None, m.revision),
            MasterToRelay::FeedPage(m) => (None, m.revision),
            MasterToRelay::MasterRoster(m) => (None, m.revision),
            _ => return,
        };
        assert!(
            revision <= self.disk.revision,
            "{message:?} is said, revision {} is on disk",
            self.disk.revision
        );
        if let Some((device, verdict)) = verdict {
            assert_eq!(
                self.disk.verdict(device),
                Some(verdict),
                "{message:?} is said before it is on disk"
            );
        }
    }

    fn note_said(&mut self, message: &MasterToRelay) {
        let name = match message {
            MasterToRelay::ApprovalRestart(_) => "knock restarted",
            MasterToRelay::ApprovalOpen(opening) => {
                // Whoever leaves now was seen.
                let knocks =
                    self.master.as_ref().map(|master| master.authority.knocks(false).knocks);
                let is_shown =
                    |knock: &message::JoinRequestInfo| knock.request_id == opening.request_id;
                assert!(
                    knocks.is_some_and(|knocks| knocks.iter().any(is_shown)),
                    "opened before it was shown"
                );
                "knock opened"
            }
            MasterToRelay::ClientApproved(_) => "approved",
            MasterToRelay::DisApproveClient(_) => "refused",
            MasterToRelay::ForgetClient(_) => "forgotten",
            MasterToRelay::ClientUpdated(_) => "renamed",
            MasterToRelay::FilesAdded(_) => "files added",
            MasterToRelay::FilesUpdated(_) => "roots told",
            MasterToRelay::FileRemoved(_) => "files removed",
            MasterToRelay::FilesWithdrawn(_) => "files withdrawn",
            MasterToRelay::FileGrant(_) => "files granted",
            MasterToRelay::LinkGrant(_) => "link granted",
            MasterToRelay::LinkMembers(_) => "link page",
            MasterToRelay::LinksPage(_) => "links listed",
            MasterToRelay::LinkMade(_) => "link told",
            MasterToRelay::LinkDropped(_) => "link dropped",
            MasterToRelay::FeedPage(page) => match page.mode {
                lanyard_protocol::FeedMode::UpToDate => "feed up to date",
                lanyard_protocol::FeedMode::Delta => "feed delta",
                lanyard_protocol::FeedMode::Snapshot => "feed snapshot",
            },
            _ => return,
        };
        self.model.count(name);
    }
}
