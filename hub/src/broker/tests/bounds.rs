//! Bounds the cost of one message: the broker visits a number of entries that its length bounds,
//! whatever it names.

use super::*;
use lanyard_protocol::limits::MAX_RUN_BYTES;

/// The number of pieces that a message of a device may have.
const PIECES: u64 = lanyard_protocol::limits::MAX_PIECES as u64;
const RUNS: u64 = lanyard_protocol::limits::MAX_WAITING_RUNS as u64;

fn numbered(n: u32) -> FileId {
    format!("00000000-0000-4000-8000-{n:012x}").parse().unwrap()
}

impl BrokerFixture {
    /// Device 1 lists files `numbers` of one size.
    fn lists_many(&mut self, numbers: std::ops::Range<u32>, size: u64) {
        let like = self.lists(200, size);
        let like = self.files[&like].clone();
        for n in numbers {
            let entry = FileEntry { file_id: numbered(n), ..like.clone() };
            self.files.insert(entry.file_ref(), entry);
        }
    }

    /// Asks for pieces or lists, and gives how many entries were visited for it.
    fn visits(&mut self, session: SessionId, what: BodyKind, pieces: Vec<GroupSpan>) -> u64 {
        self.broker.transfers.take_work();
        let request = RequestChunk {
            transfer_id: transfer(1),
            public_id: device(1),
            pieces,
            what,
            have: None,
        };
        self.says(session, DeviceToRelay::RequestChunk(request));
        self.broker.transfers.take_work()
    }

    /// Fills the asker's queue: as many runs of as many small files as may wait.
    fn fills_the_queue(&mut self, asker: SessionId) {
        self.lists_many(0..(RUNS * PIECES) as u32, 1);
        for run in 0..RUNS as u32 {
            let first = run * PIECES as u32;
            let pieces =
                (first..first + PIECES as u32).map(|n| GroupSpan::new(numbered(n), 0, 1)).collect();
            self.visits(asker, BodyKind::Bytes, pieces);
        }
        assert!(
            self.broker.transfers.queued_count() as u64 >= RUNS - 4,
            "the holder is asked for four"
        );
    }
}

fn whole_lists(files: u32) -> Vec<GroupSpan> {
    (0..files).map(|n| GroupSpan::new(numbered(n), 0, 65_536)).collect()
}

fn is_refused(effects: &[Effect], to: SessionId) -> bool {
    matches!(&BrokerFixture::told(effects, to)[..], [RelayToDevice::RequestFailed(no)] if no.code == FailureCode::BadMessage)
}

#[test]
fn a_request_for_lists_of_values_visits_its_pieces_and_not_their_groups() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    hub.lists_many(0..256, 1 << 34);
    hub.take();
    let visited = hub.visits(asker, BodyKind::Hashes, whole_lists(256));
    assert!(visited <= 4 * PIECES, "{visited} entries");
    assert!(is_refused(&hub.take(), asker), "512 MiB of lists are more than a run may have");
    let visited = hub.visits(asker, BodyKind::Hashes, whole_lists(4));
    assert!(visited <= 16, "{visited} entries");
    let told = BrokerFixture::failures(&hub.take(), asker);
    assert!(
        told.len() == 4 && told.iter().all(|(_, code)| *code == FailureCode::NoHashes),
        "{told:?}"
    );
    let twice = vec![GroupSpan::new(numbered(1), 0, 65_536); 2];
    assert!(hub.visits(asker, BodyKind::Hashes, twice) <= 16);
    assert!(is_refused(&hub.take(), asker), "no file twice");
}

#[test]
fn lists_that_are_there_are_entries_of_one_and_stay_within_the_budget() {
    let mut hub = BrokerFixture::ready(8 * MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    hub.lists_many(0..8, 1 << 34);
    hub.visits(asker, BodyKind::Hashes, whole_lists(4));
    hub.visits(asker, BodyKind::Hashes, whole_lists(8).split_off(4));
    for n in 0..8 {
        hub.give(Input::Slot(SlotInput::HashesKnown {
            file: FileRef { public_id: device(1), file_id: numbered(n) },
        }));
    }
    hub.take();
    let visited = hub.visits(asker, BodyKind::Hashes, whole_lists(4));
    assert!(visited <= 16, "{visited} entries");
    assert_eq!(BrokerFixture::readies(&hub.take(), asker).len(), 4);
    assert_eq!(hub.broker.reserved_bytes(), 8 * MIB);
    hub.visits(asker, BodyKind::Hashes, whole_lists(8).split_off(4));
    let told = BrokerFixture::failures(&hub.take(), asker);
    assert!(told.len() == 4 && told.iter().all(|(_, code)| *code == FailureCode::Busy), "{told:?}");
    assert_eq!(hub.broker.reserved_bytes(), 8 * MIB);
}

#[test]
fn a_look_up_that_finds_nothing_walks_once_over_what_waits() {
    let mut hub = BrokerFixture::ready(MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    hub.fills_the_queue(asker);
    let other = hub.opens(3);
    let unknown =
        (0..PIECES as u32).map(|n| GroupSpan::new(numbered(1_000_000 + n), 0, 1)).collect();
    let visited = hub.visits(other, BodyKind::Bytes, unknown);
    assert!(visited <= (RUNS + 4) * PIECES, "{visited} entries");
}

#[test]
fn a_removal_of_many_files_walks_once_over_what_waits() {
    let mut hub = BrokerFixture::ready(MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    hub.fills_the_queue(asker);
    hub.broker.transfers.take_work();
    let removed = FileRemoved {
        public_id: device(1),
        file_ids: (2_000_000..2_000_512).map(numbered).collect(),
        epoch: 5,
        revision: 8,
        audience: Audience::All,
    };
    hub.master(MasterToRelay::FileRemoved(removed));
    let visited = hub.broker.transfers.take_work();
    assert!(visited <= (RUNS + 4) * PIECES, "{visited} entries");
}

#[test]
fn a_cancel_looks_its_pieces_up_and_names_no_more_than_a_run() {
    let mut hub = BrokerFixture::ready(MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    hub.fills_the_queue(asker);
    let waiting = hub.broker.transfers.queued_count();
    let cancel = |hub: &mut BrokerFixture, pieces: Vec<GroupSpan>| {
        hub.take();
        hub.broker.transfers.take_work();
        let cancel = CancelChunk { transfer_id: transfer(1), pieces: Some(pieces) };
        hub.says(asker, DeviceToRelay::CancelChunk(cancel));
        hub.broker.transfers.take_work()
    };
    let last = ((RUNS - 1) * PIECES) as u32;
    let run: Vec<GroupSpan> =
        (last..last + PIECES as u32).rev().map(|n| GroupSpan::new(numbered(n), 0, 1)).collect();
    let visited = cancel(&mut hub, run);
    assert!(visited <= (RUNS + 4) * PIECES, "{visited} entries");
    assert_eq!(hub.broker.transfers.queued_count(), waiting - 1, "exactly that run is called off");
    let visited = cancel(&mut hub, vec![GroupSpan::new(numbered(1), 0, 1); 4_000]);
    assert!(visited == 0 && is_refused(&hub.take(), asker), "{visited} entries");
}

#[test]
fn an_answer_of_the_master_visits_those_who_wait_for_it_and_they_are_not_many() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    hub.lists_many(0..2_000, 1);
    hub.take();
    let mut lookups = Vec::new();
    for n in 0..2_000 {
        let pieces = vec![GroupSpan::new(numbered(n), 0, 1)];
        let message = BrokerFixture::request(asker, pieces);
        let reference = Ref::new(format!("a{n}"));
        hub.broker.handle(
            hub.now,
            Input::Session(SessionInput::MessageReceived { session: asker, message, reference }),
        );
        while let Some(effect) = hub.broker.poll_effect() {
            if let Effect::Master(MasterEffect::Send { frame, .. }) = effect {
                lookups.push(*frame);
            } else {
                hub.effects.push(effect);
            }
        }
    }
    let limit = lanyard_protocol::limits::MAX_LOOKUPS_AN_ASKER;
    assert_eq!(lookups.len(), limit, "the others hear that it is busy");
    let busy = BrokerFixture::failures(&hub.take(), asker);
    assert!(busy.len() == 2_000 - limit && busy.iter().all(|(_, code)| *code == FailureCode::Busy));
    hub.broker.transfers.take_work();
    for frame in lookups {
        let RelayToMaster::Relay(RelayMessage::FileLookup(lookup)) = &frame.message else {
            panic!("{frame:?}")
        };
        let files = lookup.files.iter().map(|file| hub.files[file].clone()).collect();
        let answer = MasterFrame {
            reference: frame.reference.clone(),
            ..MasterFrame::plain(MasterToRelay::FileGrant(FileGrant { files }))
        };
        hub.give(Input::Master(MasterInput::MessageReceived {
            session: MASTER,
            frame: Box::new(answer),
        }));
    }
    let visited = hub.broker.transfers.take_work();
    assert!(visited <= 8 * limit as u64, "{visited} entries for {limit} answers");
    hub.asks_for(asker, vec![GroupSpan::new(numbered(1_999), 0, 1)]);
    assert_eq!(
        BrokerFixture::failures(&hub.take(), asker).first().map(|(_, code)| *code),
        Some(FailureCode::Busy),
        "runs wait"
    );
    assert!(
        hub.broker
            .transfers
            .granted(&FileRef { public_id: device(1), file_id: numbered(1_999) })
            .is_some()
    );
}

#[test]
fn invented_transfers_are_remembered_by_the_dozen_and_no_more() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    hub.lists(1, MIB);
    for n in 0..10_000 {
        let request = RequestChunk {
            transfer_id: numbered(n).to_string().parse().unwrap(),
            public_id: device(1),
            pieces: vec![GroupSpan::new(file_id(1), 0, 1)],
            what: BodyKind::Bytes,
            have: Some(5),
        };
        hub.says(asker, DeviceToRelay::RequestChunk(request));
    }
    assert!(
        hub.broker.transfers.progress_count() <= lanyard_protocol::limits::MAX_TRANSFERS_A_SESSION
    );
    hub.give(Input::Session(SessionInput::Closed { session: asker }));
    assert_eq!(hub.broker.transfers.progress_count(), 0);
}

/// A change that the broker makes known is remembered, but not without end.
#[test]
fn files_that_changed_are_remembered_by_the_thousand_and_no_more() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let owner = hub.opens(1);
    let asker = hub.opens(2);
    let limit = lanyard_protocol::limits::MAX_CHANGED_FILES as u32;
    hub.lists_many(0..limit + 10, 1);
    for n in 0..limit + 10 {
        hub.take();
        hub.asks_for(asker, vec![GroupSpan::new(numbered(n), 0, 1)]);
        let ticket = hub.opened().remove(0).ticket;
        let no =
            ChunkUnavailable { ticket, code: FailureCode::FileChanged, file_id: Some(numbered(n)) };
        hub.says(owner, DeviceToRelay::ChunkUnavailable(no));
    }
    assert_eq!(hub.broker.transfers.changed_count(), limit as usize);
}

/// A device invents transfers and begins ever more large files: what is remembered of its readers
/// has a bound.
#[test]
fn a_session_is_on_its_way_through_a_bounded_number_of_files() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    hub.lists_many(0..1_000, 64 * MIB);
    for n in 0..1_000 {
        hub.visits(asker, BodyKind::Bytes, vec![GroupSpan::new(numbered(n), 0, 1)]);
        hub.says(
            asker,
            DeviceToRelay::CancelChunk(CancelChunk { transfer_id: transfer(9), pieces: None }),
        );
    }
    let many = (0..200).map(|n| GroupSpan::new(numbered(n), 1, 1)).collect();
    hub.visits(asker, BodyKind::Bytes, many);
    assert!(hub.broker.transfers.measured_reader_count() <= limits::MAX_READ_AT_ONCE);
    hub.give(Input::Session(SessionInput::Closed { session: asker }));
    assert_eq!(hub.broker.transfers.measured_reader_count(), 0);
}

/// ARCHITECTURE.md: no file name in the relay. A grant is as small with the longest path as with
/// none.
#[test]
fn a_grant_keeps_no_names() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    let file = hub.lists(1, MIB);
    let long = FileEntry {
        path: "x/".repeat(2_000),
        media_type: "y".repeat(255),
        ..hub.files[&file].clone()
    };
    hub.files.insert(file, long.clone());
    hub.asks(asker, 1, 0, 4);
    let names = |hub: &BrokerFixture| {
        hub.broker.transfers.granted(&file).map(|entry| entry.path.len() + entry.media_type.len())
    };
    assert_eq!(names(&hub), Some(0));
    let epoch = 5;
    let revision = 8;
    let audience = Audience::All;
    let added = FilesAdded { public_id: device(1), files: vec![long], epoch, revision, audience };
    hub.master(MasterToRelay::FilesAdded(added));
    assert_eq!(names(&hub), Some(0));
}

/// Each place of a large file is a reason to look for a group of speed, which walks over all who
/// read the file: a message that names as many places as it can walks a few times all the same.
#[test]
fn a_request_for_places_far_apart_walks_a_few_times_over_those_who_read() {
    const READERS: u8 = 100;
    let mut hub = BrokerFixture::new(8 * MIB);
    hub.master_comes_with(1..=READERS + 2);
    hub.opens(1);
    let file = hub.lists(1, 1 << 34);
    let log = hub.files[&file].group_log;
    for reader in 0..READERS {
        let asker = hub.opens(reader + 2);
        hub.asks(asker, 1, u32::from(reader) * 200, 1);
    }
    let asker = SessionId(2);
    let places = (MAX_RUN_BYTES >> log) as u32;
    assert!(places >= 16, "{places} places");
    let far = (0..places).map(|n| GroupSpan::new(file.file_id, 20_000 + n * 400, 1)).collect();
    let visited = hub.visits(asker, BodyKind::Bytes, far);
    assert!(visited <= 16 * u64::from(READERS) + PIECES, "{visited} entries for {places} places");
}
