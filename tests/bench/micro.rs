//! What one step costs, apart from sockets and disks: `cargo bench -p lanyard-tests`. Hashing a
//! group, one message in and out, and a run's life in the broker.

#![allow(clippy::unwrap_used)]

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use lanyard_hub::Moment;
use lanyard_hub::broker::{
    Broker, BrokerConfig, Effect, Identity, Input, MasterEffect, MasterInput, ReaderInput,
    SessionId, SessionInput, SlotEffect, SlotInput,
};
use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::group::Groups;
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::message::*;
use lanyard_protocol::*;

fn main() {
    divan::main();
}

const GROUP: usize = 256 << 10;
const MASTER: SessionId = SessionId(1_000_000);

// ── Hashing
// ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A group of 256 KiB, fed in pieces of this size.
#[divan::bench(args = [4 << 10, 16 << 10, 128 << 10, GROUP])]
fn group_value(bencher: Bencher, piece: usize) {
    let (bytes, groups) = (vec![7u8; GROUP], Groups::of(64 << 20));
    bencher.counter(BytesCount::new(GROUP)).bench(|| {
        let mut hasher = groups.hasher(3);
        bytes.chunks(piece).for_each(|part| hasher.update(part));
        hasher.finish()
    });
}

/// The values of a file of 1 GiB to its root.
#[divan::bench]
fn merge_to_root(bencher: Bencher) {
    let groups = Groups::of(1 << 30);
    let values = vec![groups.value(0, &vec![7u8; GROUP]); groups.count() as usize];
    bencher.counter(ItemsCount::new(values.len())).bench(|| groups.root(black_box(&values)));
}

// ── Codec
// ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn file_id(n: u32) -> FileId {
    format!("00000000-0000-4000-8000-{n:012x}").parse().unwrap()
}

fn owner() -> Keypair {
    Keypair::from_seed(&[1; 32])
}

fn entry(n: u32, size: u64) -> FileEntry {
    FileEntry {
        public_id: owner().public_id(),
        instance: Instance([1; 16]),
        file_id: file_id(n),
        path: format!("album/2026/IMG_{n:05}.jpg"),
        size,
        modified_ms: 1_700_000_000_000,
        media_type: "image/jpeg".into(),
        kind: EntryKind::File,
        group_log: group::group_log(size),
        root: None,
    }
}

fn request(transfer: u32, first: u32) -> DeviceToRelay {
    DeviceToRelay::RequestChunk(RequestChunk {
        transfer_id: file_id(transfer).to_string().parse().unwrap(),
        public_id: owner().public_id(),
        pieces: vec![GroupSpan::new(file_id(1), first, 4)],
        what: BodyKind::Bytes,
        have: None,
    })
}

#[divan::bench]
fn decode_a_request(bencher: Bencher) {
    let text = codec::encode(&request(1, 8), Some(&Ref::number(17)));
    bencher
        .counter(BytesCount::new(text.len()))
        .bench(|| codec::decode::<DeviceToRelay>(black_box(&text)).unwrap());
}

fn announcement() -> RelayToDevice {
    let (public_id, files) = (owner().public_id(), (0..500).map(|n| entry(n, 3_000_000)).collect());
    RelayToDevice::FilesAdded(FilesAdded {
        public_id,
        files,
        epoch: 7,
        revision: 9,
        audience: Audience::All,
    })
}

#[divan::bench]
fn encode_500_files(bencher: Bencher) {
    let message = announcement();
    bencher.counter(ItemsCount::new(500usize)).bench(|| codec::encode(black_box(&message), None));
}

#[divan::bench]
fn decode_500_files(bencher: Bencher) {
    let text = codec::encode(&announcement(), None);
    bencher
        .counter(ItemsCount::new(500usize))
        .bench(|| codec::decode::<RelayToDevice>(black_box(&text)).unwrap());
}

// ── The broker
// ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A broker with a master, an owner of one file of 1 GiB, and askers; it plays relay and data
/// plane.
struct BenchHub {
    broker: Broker,
    now: Moment,
    next: u32,
}

impl BenchHub {
    fn with_askers(count: u64) -> Self {
        let mut hub =
            Self { broker: Broker::new(BrokerConfig::default(), [9; 32]), now: Moment(1), next: 0 };
        let key = |n: u64| Keypair::from_seed(&std::array::from_fn(|i| n.to_le_bytes()[i % 8]));
        let keys: Vec<Keypair> =
            std::iter::once(owner()).chain((1..=count).map(|n| key(1_000 + n))).collect();
        hub.tell(Input::Master(MasterInput::Opened { session: MASTER }));
        let approved = keys.iter().map(Keypair::public_id).collect();
        hub.master(MasterToRelay::MasterRoster(MasterRoster {
            page: 0,
            last: true,
            approved,
            refused: Vec::new(),
            epoch: 5,
            revision: 7,
        }));
        for (n, key) in keys.iter().enumerate() {
            let identity = Identity {
                public_id: key.public_id(),
                public_key: key.public(),
                name: format!("device {n}"),
                kind: DeviceKind::Native,
                platform: String::new(),
                instance: Instance([1; 16]),
                commit: approval::commit(&key.public(), &Reveal([1; 32])),
                relay_nonce: Nonce([1; 32]),
                invitation: None,
                address: "10.0.0.1".into(),
                resume: None,
            };
            hub.tell(Input::Session(SessionInput::Opened {
                session: SessionId(n as u64),
                identity: Box::new(identity),
            }));
        }
        hub
    }

    fn master(&mut self, message: MasterToRelay) {
        self.tell(Input::Master(MasterInput::MessageReceived {
            session: MASTER,
            frame: Box::new(MasterFrame::plain(message)),
        }));
    }

    /// One input and all that follows from it: look-ups are granted, uploads come whole, askers
    /// read.
    fn tell(&mut self, input: Input) {
        self.broker.handle(self.now, input);
        let mut inputs = Vec::new();
        loop {
            while let Some(effect) = self.broker.poll_effect() {
                follow(effect, &mut inputs);
            }
            match inputs.pop() {
                Some(input) => self.broker.handle(self.now, input),
                None => return,
            }
        }
    }

    /// Each of these sessions asks for the next run.
    fn next_run(&mut self, askers: std::ops::RangeInclusive<u64>) {
        self.now = self.now.plus(1);
        let first = self.next * 4 % 4_000;
        self.next += 1;
        for session in askers {
            let message = request(session as u32, first);
            self.tell(Input::Session(SessionInput::MessageReceived {
                session: SessionId(session),
                message,
                reference: None,
            }));
        }
    }
}

fn follow(effect: Effect, inputs: &mut Vec<Input>) {
    match effect {
        Effect::Master(MasterEffect::Send { frame, .. }) => {
            if let RelayToMaster::Relay(RelayMessage::FileLookup(lookup)) = &frame.message {
                let files = lookup.files.iter().map(|_| entry(1, 1 << 30)).collect();
                let message = MasterToRelay::FileGrant(FileGrant { files });
                let frame = MasterFrame {
                    reference: frame.reference.clone(),
                    ..MasterFrame::plain(message)
                };
                inputs.push(Input::Master(MasterInput::MessageReceived {
                    session: MASTER,
                    frame: Box::new(frame),
                }));
            }
        }
        Effect::Slot(SlotEffect::Open(slot)) => {
            inputs.push(Input::Slot(SlotInput::PutFinished { slot: slot.slot }));
            inputs.push(Input::Slot(SlotInput::PutStarted { slot: slot.slot }));
        }
        Effect::Slot(SlotEffect::GrantRead { slot, reader, .. }) => {
            inputs.insert(0, Input::Reader(ReaderInput::Left { slot, reader, delivered: 1 << 20 }));
        }
        Effect::Session(_)
        | Effect::Master(_)
        | Effect::Slot(_)
        | Effect::Link(_)
        | Effect::Call(_) => {}
    }
}

/// From REQUEST_CHUNK to the last reader's leaving, for so many askers of the same run.
#[divan::bench(args = [1, 8])]
fn a_runs_life(bencher: Bencher, askers: u64) {
    let mut hub = BenchHub::with_askers(askers);
    bencher.counter(ItemsCount::new(askers)).bench_local(|| hub.next_run(1..=askers));
}

/// The same beside a thousand others who are only there.
#[divan::bench]
fn a_runs_life_among_a_thousand(bencher: Bencher) {
    let mut hub = BenchHub::with_askers(1_000);
    bencher.bench_local(|| hub.next_run(1..=1));
}
