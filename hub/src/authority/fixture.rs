//! What the authority's tests share: devices by number, and an authority whose effects are taken as
//! one list.

use lanyard_protocol::message::*;
use lanyard_protocol::{
    Client, DeviceKind, DeviceRequest, FileEntry, FileId, Instance, LinkBinding, LinkHash, NewFile,
    Nonce, PublicKey, RelayMessage, RelayToMaster, Reveal, SessionAddress, approval, identity,
};

use super::*;

pub(super) const HUB: PublicKey = PublicKey([0xaa; 32]);
pub(super) const EPOCH: u64 = 77;
pub(super) const NOON: u64 = 1_700_000_000_000;

pub(super) fn key(n: u32) -> PublicKey {
    let mut bytes = [0x11; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    PublicKey(bytes)
}

pub(super) fn device(n: u32) -> DeviceId {
    identity::public_id(&key(n))
}

pub(super) fn session(n: u32, instance: u8) -> SessionAddress {
    SessionAddress { public_id: device(n), instance: Instance([instance; 16]) }
}

pub(super) fn client(n: u32) -> Client {
    Client {
        public_id: device(n),
        name: format!("Device {n}"),
        kind: DeviceKind::Browser,
        platform: "Chrome on Linux".into(),
    }
}

pub(super) fn member(n: u32, verdict: Verdict) -> Member {
    Member {
        client: client(n),
        public_key: key(n),
        verdict,
        revision: 1,
        since_ms: NOON,
        until_ms: None,
    }
}

pub(super) fn file_id(n: u32) -> FileId {
    format!("00000000-0000-4000-8000-{n:012x}").parse().unwrap()
}

/// A request for a link of nothing. The authority stores a binding and does not judge it.
pub(super) fn link_request(link_hash: LinkHash) -> LinkRequest {
    let binding = LinkBinding(link_hash.0);
    LinkRequest {
        link_hash,
        binding,
        files: Vec::new(),
        folder: None,
        name: None,
        valid_ms: None,
        uses: None,
    }
}

/// A file of device 1.
pub(super) fn entry(n: u8, path: &str) -> FileEntry {
    FileEntry {
        public_id: device(1),
        instance: Instance([1; 16]),
        file_id: file_id(n.into()),
        path: path.into(),
        size: 5,
        modified_ms: 3,
        media_type: String::new(),
        kind: Default::default(),
        group_log: 18,
        root: None,
    }
}

pub(super) fn new_file(n: u32, path: &str) -> NewFile {
    NewFile {
        file_id: file_id(n),
        path: path.into(),
        size: 5,
        modified_ms: 3,
        media_type: String::new(),
        kind: Default::default(),
        root: None,
    }
}

pub(super) fn files(range: std::ops::Range<u32>) -> Vec<NewFile> {
    range.map(|n| new_file(n, &format!("folder/{n}.txt"))).collect()
}

pub(super) fn reveal(n: u32) -> Reveal {
    Reveal([n as u8; 32])
}

/// A knock of device `n`; `relay_nonce` tells knocks apart.
pub(super) fn knock(n: u32, relay_nonce: u8) -> NewClientRegistered {
    let commit = approval::commit(&key(n), &reveal(n));
    let relay_nonce = Nonce([relay_nonce; 32]);
    NewClientRegistered {
        client: client(n),
        address: "192.168.1.5".into(),
        instance: Instance([1; 16]),
        public_key: key(n),
        commit,
        relay_nonce,
        request_id: approval::request_id(&key(n), &commit, &relay_nonce, &client(n).name),
        invitation: None,
    }
}

pub(super) struct AuthorityFixture {
    pub authority: Authority,
    pub now: Moment,
    pub wall_ms: u64,
    /// Everything that was saved, in order.
    pub saves: Vec<StoreWrite>,
    /// Everything for the record.
    pub notes: Vec<AuditEvent>,
}

impl AuthorityFixture {
    pub(super) fn new(config: AuthorityConfig, saved: SavedState) -> Self {
        let saved = SavedState { epoch: EPOCH, ..saved };
        Self {
            authority: Authority::new(config, saved, [9; 32]),
            now: Moment(0),
            wall_ms: NOON,
            saves: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// With a relay that has told of nobody.
    pub(super) fn ready(config: AuthorityConfig, saved: SavedState) -> Self {
        let mut fixture = Self::new(config, saved);
        fixture.put(Input::RelayReady { hub_key: HUB });
        fixture.relay(RelayToMaster::Relay(RelayMessage::Pong(Empty {})));
        fixture
    }

    /// With devices 1 to `count` approved and present.
    pub(super) fn with_members(count: u32) -> Self {
        let members = (1..=count).map(|n| member(n, Verdict::Approved)).collect();
        let mut fixture = Self::ready(
            AuthorityConfig::default(),
            SavedState { revision: 1, members, ..SavedState::default() },
        );
        for n in 1..=count {
            fixture.came(session(n, 1));
        }
        fixture
    }

    pub(super) fn put(&mut self, input: Input) -> Vec<Effect> {
        self.authority.handle(self.now, self.wall_ms, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some(effect) = self.authority.poll_effect() {
            if let Effect::Save(change) = &effect {
                self.saves.push(change.clone());
            }
            match effect {
                Effect::Note(note) => self.notes.push(note),
                other => effects.push(other),
            }
        }
        effects
    }

    pub(super) fn relay(&mut self, message: RelayToMaster) -> Vec<Effect> {
        self.put(Input::Frame(Box::new(MasterFrame::plain(message))))
    }

    pub(super) fn relay_asks(&mut self, message: RelayToMaster) -> Vec<Effect> {
        self.put(Input::Frame(Box::new(MasterFrame {
            reference: Some(Ref::number(5)),
            ..MasterFrame::plain(message)
        })))
    }

    pub(super) fn device(&mut self, from: SessionAddress, message: RelayToMaster) -> Vec<Effect> {
        let frame = MasterFrame {
            reference: Some(Ref::number(7)),
            from: Some(from),
            ..MasterFrame::plain(message)
        };
        self.put(Input::Frame(Box::new(frame)))
    }

    pub(super) fn operator(&mut self, command: OperatorCommand) -> Vec<Effect> {
        self.put(Input::Operator { ask: RequestToken(1), command })
    }

    /// Knocks; gives back what the master promised, if it challenged.
    pub(super) fn knocks(
        &mut self,
        request: &NewClientRegistered,
    ) -> Option<lanyard_protocol::Commit> {
        let effects =
            self.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(request.clone())));
        challenge_of(&effects, request.request_id)
    }

    /// Keeps the promise of device `n`; gives back what happens and the digits, if the master
    /// opened what it had promised.
    pub(super) fn reveals(
        &mut self,
        n: u32,
        request_id: RequestId,
    ) -> (Vec<Effect>, Option<String>) {
        let said = ApprovalReveal { request_id, reveal: reveal(n) };
        let effects = self.relay(RelayToMaster::Relay(RelayMessage::ApprovalReveal(said)));
        let opened = sent(&effects).into_iter().find_map(|message| match message {
            MasterToRelay::ApprovalOpen(opening) if opening.request_id == request_id => {
                Some(opening.nonce)
            }
            _ => None,
        });
        let code =
            opened.map(|nonce| approval::code(&HUB, &key(n), &request_id, &reveal(n), &nonce));
        (effects, code)
    }

    /// The session behind a knock ends.
    pub(super) fn leaves(&mut self, request: &NewClientRegistered) -> Vec<Effect> {
        self.relay(RelayToMaster::Relay(RelayMessage::ClientDisconnected(PresenceChange {
            public_id: request.client.public_id,
            instance: Some(request.instance),
            resume: None,
            request_id: Some(request.request_id),
        })))
    }

    pub(super) fn came(&mut self, at: SessionAddress) -> Vec<Effect> {
        let SessionAddress { public_id, instance } = at;
        let change =
            PresenceChange { public_id, instance: Some(instance), resume: None, request_id: None };
        self.relay(RelayToMaster::Relay(RelayMessage::ClientReconnected(change)))
    }

    pub(super) fn left(&mut self, at: SessionAddress) -> Vec<Effect> {
        let SessionAddress { public_id, instance } = at;
        let change =
            PresenceChange { public_id, instance: Some(instance), resume: None, request_id: None };
        self.relay(RelayToMaster::Relay(RelayMessage::ClientDisconnected(change)))
    }

    /// Lets time pass, every timer at its moment.
    pub(super) fn pass(&mut self, ms: u64) -> Vec<Effect> {
        let end = self.now.plus(ms);
        let mut effects = Vec::new();
        while let Some(at) = self.authority.poll_timeout().filter(|at| *at <= end) {
            self.wall_ms += at.since(self.now);
            self.now = self.now.max(at);
            self.authority.handle_timeout(self.now, self.wall_ms);
            effects.extend(self.drain());
        }
        self.wall_ms += end.since(self.now);
        self.now = end;
        effects
    }

    pub(super) fn add(&mut self, from: SessionAddress, files: Vec<NewFile>) -> Vec<Effect> {
        self.device(from, RelayToMaster::Device(DeviceRequest::AddFiles(AddFiles { files })))
    }

    pub(super) fn head(&self) -> u64 {
        self.authority.head().revision
    }

    /// Pulls all pages as a device that stands at `since`.
    pub(super) fn pull(&mut self, since: u64) -> Vec<lanyard_protocol::FeedPage> {
        let mut pages = Vec::new();
        let mut cursor = None;
        loop {
            let pull = FeedPull { feed: Default::default(), epoch: EPOCH, since, cursor };
            let effects =
                self.device(session(1, 1), RelayToMaster::Device(DeviceRequest::FeedPull(pull)));
            let [Effect::Send(MasterFrame { message: MasterToRelay::FeedPage(page), .. })] =
                &effects[..]
            else {
                panic!("no page: {effects:?}")
            };
            pages.push(page.clone());
            cursor = page.cursor.clone();
            if page.last {
                return pages;
            }
        }
    }
}

/// The master's promise for that knock.
pub(super) fn challenge_of(
    effects: &[Effect],
    request: RequestId,
) -> Option<lanyard_protocol::Commit> {
    sent(effects).into_iter().find_map(|message| match message {
        MasterToRelay::ApprovalChallenge(challenge) if challenge.request_id == request => {
            Some(challenge.commit)
        }
        _ => None,
    })
}

/// The frames among the effects.
pub(super) fn sent(effects: &[Effect]) -> Vec<&MasterToRelay> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Send(frame) = e { Some(&frame.message) } else { None })
        .collect()
}

pub(super) fn refusal_of(effects: &[Effect]) -> Option<FailureCode> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer { message: MasterToConsole::RequestFailed(no), .. } => Some(no.code),
        Effect::Send(MasterFrame { message: MasterToRelay::RequestFailed(no), .. }) => {
            Some(no.code)
        }
        _ => None,
    })
}
