//! Promises: nothing is said before it is on disk; a full screen holds nobody up; an answer finds
//! who asked.

use lanyard_protocol::message::*;
use lanyard_protocol::{
    Client, DeviceKind, FailureCode, Instance, NewFile, Nonce, PublicKey, Reveal, SessionAddress,
    approval, identity,
};

use super::*;
use crate::authority::commit::MAX_HELD_BYTES;
use crate::problems::{self, ActiveProblem};

pub(crate) const HUB: PublicKey = PublicKey([1; 32]);

pub(crate) fn hub() -> HubInfo {
    HubInfo { name: "Studio PC".into(), public_key: HUB }
}

pub(crate) struct DriverFixture {
    pub driver: DriverHandle,
    pub frames: mpsc::Receiver<Frame>,
    pub dir: tempfile::TempDir,
    connection: ConnectionNumber,
}

impl DriverFixture {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("lanyard.db")).unwrap();
        let (driver, _task) = start(AuthorityConfig::default(), store, None).unwrap();
        let connection = ConnectionNumber(1);
        let frames = driver.relay_ready(connection, hub()).await.unwrap();
        let mut bench = Self { driver, frames, dir, connection };
        bench.next(|m| matches!(m, MasterToRelay::Ping(_)).then_some(())).await;
        bench.said(RelayToMaster::Relay(RelayMessage::Pong(Empty {}))).await;
        bench
    }

    pub(crate) async fn said(&self, message: RelayToMaster) {
        self.driver.relay_said(self.connection, MasterFrame::plain(message)).await.unwrap();
    }

    /// The next frame to the relay that `wanted` takes.
    pub(crate) async fn next<T>(&mut self, wanted: impl Fn(&MasterToRelay) -> Option<T>) -> T {
        loop {
            let frame = self.frames.recv().await.expect("the relay is there");
            if let Some(found) = wanted(&frame.message) {
                return found;
            }
        }
    }

    /// A device knocks and reveals; returns its knock and digits.
    pub(crate) async fn knock(&mut self, n: u8, name: &str) -> (NewClientRegistered, String) {
        let (public_key, reveal, relay_nonce) =
            (PublicKey([n; 32]), Reveal([n; 32]), Nonce([n; 32]));
        let commit = approval::commit(&public_key, &reveal);
        let public_id = identity::public_id(&public_key);
        let request = NewClientRegistered {
            client: Client {
                public_id,
                name: name.into(),
                kind: DeviceKind::Browser,
                platform: "Test".into(),
            },
            address: "192.168.1.5".into(),
            instance: Instance([n; 16]),
            public_key,
            commit,
            relay_nonce,
            request_id: approval::request_id(&public_key, &commit, &relay_nonce, name),
            invitation: None,
        };
        self.said(RelayToMaster::Relay(RelayMessage::NewClientRegistered(request.clone()))).await;
        self.next(
            |m| if let MasterToRelay::ApprovalChallenge(c) = m { Some(c.commit) } else { None },
        )
        .await;
        let request_id = request.request_id;
        self.said(RelayToMaster::Relay(RelayMessage::ApprovalReveal(ApprovalReveal {
            request_id,
            reveal,
        })))
        .await;
        let nonce = self
            .next(|m| if let MasterToRelay::ApprovalOpen(o) = m { Some(o.nonce) } else { None })
            .await;
        (request, approval::code(&HUB, &public_key, &request_id, &reveal, &nonce))
    }

    /// Answers the next APPROVE_CLIENT as a relay does.
    pub(crate) async fn ack_approval(&mut self) {
        let ApproveClient { public_id, request_id } = self
            .next(|m| if let MasterToRelay::ApproveClient(a) = m { Some(a.clone()) } else { None })
            .await;
        self.said(RelayToMaster::Relay(RelayMessage::ApproveClientAck(ApproveClientAck {
            public_id,
            request_id,
        })))
        .await;
    }

    /// Knocks and is let in.
    pub(crate) async fn member(&mut self, n: u8, name: &str) -> SessionAddress {
        let (request, code) = self.knock(n, name).await;
        let public_id = request.client.public_id;
        let word = lanyard_hub::authority::Approval::Typed(code);
        let driver = self.driver.clone();
        let wish = tokio::spawn(async move {
            driver
                .execute(OperatorCommand::Approve {
                    public_id,
                    request_id: None,
                    word,
                    for_ms: None,
                })
                .await
        });
        self.ack_approval().await;
        assert!(matches!(wish.await.unwrap().unwrap(), MasterToConsole::ClientApproved(_)));
        SessionAddress { public_id, instance: request.instance }
    }

    pub(crate) async fn add(&self, from: SessionAddress, count: u8) {
        let new = |n: u8| NewFile {
            file_id: lanyard_protocol::FileId(uuid::Uuid::from_bytes([n; 16])),
            path: format!("folder/{n}.txt"),
            size: 10,
            modified_ms: 1,
            media_type: String::new(),
            kind: Default::default(),
            root: None,
        };
        let message = RelayToMaster::Device(DeviceRequest::AddFiles(AddFiles {
            files: (0..count).map(new).collect(),
        }));
        let frame = MasterFrame { from: Some(from), ..MasterFrame::plain(message) };
        self.driver.relay_said(self.connection, frame).await.unwrap();
    }
}

pub(crate) async fn shown<T>(
    screen: &mut Screen,
    wanted: impl Fn(&MasterToConsole) -> Option<T>,
) -> T {
    loop {
        match screen.shown.recv().await.expect("the screen is live") {
            ScreenUpdate::Message { message, .. } => {
                if let Some(found) = wanted(&message) {
                    return found;
                }
            }
            ScreenUpdate::Event(_) => {}
        }
    }
}

#[tokio::test]
async fn every_message_to_the_relay_is_on_disk_first() {
    let mut bench = DriverFixture::new().await;
    let (request, code) = bench.knock(7, "Ana").await;
    let public_id = request.client.public_id;
    let word = lanyard_hub::authority::Approval::Typed(code);
    let driver = bench.driver.clone();
    let wish = tokio::spawn(async move {
        driver
            .execute(OperatorCommand::Approve { public_id, request_id: None, word, for_ms: None })
            .await
    });
    bench.ack_approval().await;
    bench.next(|m| matches!(m, MasterToRelay::ClientApproved(_)).then_some(())).await;
    // A second reader of the file, at the moment of the word: as after a kill.
    let saved = Store::open(&bench.dir.path().join("lanyard.db")).unwrap().load().unwrap();
    assert_eq!((saved.members.len(), saved.revision), (1, 1));
    wish.await.unwrap().unwrap();

    let session = SessionAddress { public_id, instance: request.instance };
    bench.add(session, 3).await;
    bench.next(|m| matches!(m, MasterToRelay::FilesAdded(_)).then_some(())).await;
    let saved = Store::open(&bench.dir.path().join("lanyard.db")).unwrap().load().unwrap();
    assert_eq!((saved.files.len(), saved.revision), (3, 2));
}

#[tokio::test]
async fn a_screen_that_does_not_look_is_let_go_and_holds_nobody_up() {
    let mut bench = DriverFixture::new().await;
    let mut blind = bench.driver.subscribe(8).await.unwrap();
    let mut watching = bench.driver.subscribe(64).await.unwrap();
    for n in 10..20 {
        bench.knock(n, "Somebody").await;
        shown(&mut watching, |m| matches!(m, MasterToConsole::Knocks(_)).then_some(())).await;
    }
    let mut seen = 0;
    while blind.shown.recv().await.is_some() {
        seen += 1;
    }
    assert_eq!(seen, 8, "what fits, then the end");
}

#[tokio::test]
async fn an_answer_with_its_ref_goes_to_the_screen_that_asked() {
    let mut bench = DriverFixture::new().await;
    let session = bench.member(7, "Ana").await;
    let mut asking = bench.driver.subscribe(64).await.unwrap();
    let mut other = bench.driver.subscribe(64).await.unwrap();
    let command = OperatorCommand::Rename { public_id: session.public_id, name: "Ben".into() };
    bench.driver.execute_on(asking.id, Ref::new("r1"), command).await.unwrap();
    let reference = |screen: &mut Screen| {
        let mut found = None;
        while let Ok(next) = screen.shown.try_recv() {
            if let ScreenUpdate::Message { message, reference } = next
                && matches!(*message, MasterToConsole::ClientUpdated(_))
            {
                found = Some(reference);
            }
        }
        found
    };
    // A look is answered after everything before it was let out.
    bench.driver.query(|_, _| ()).await.unwrap();
    assert_eq!(reference(&mut asking), Some(Ref::new("r1")));
    assert_eq!(reference(&mut other), Some(None));
}

/// Another look at the file, as another program takes it.
fn other(dir: &tempfile::TempDir) -> rusqlite::Connection {
    rusqlite::Connection::open(dir.path().join("lanyard.db")).unwrap()
}

async fn until_problems(
    driver: &DriverHandle,
    wanted: impl Fn(&[ActiveProblem]) -> bool,
) -> Vec<ActiveProblem> {
    driver.problems().watch().wait_for(|all| wanted(all)).await.unwrap().clone()
}

fn wish(driver: &DriverHandle, command: OperatorCommand) -> JoinHandle<MasterToConsole> {
    let driver = driver.clone();
    tokio::spawn(async move { driver.execute(command).await.unwrap() })
}

/// Somebody else holds the database, and this wish waits for it.
async fn held_up(
    bench: &DriverFixture,
    command: OperatorCommand,
) -> (rusqlite::Connection, JoinHandle<MasterToConsole>) {
    let blocker = other(&bench.dir);
    blocker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let waiting = wish(&bench.driver, command);
    let told = until_problems(&bench.driver, |all| !all.is_empty()).await;
    assert_eq!(told[0].code, problems::DATABASE_LOCKED);
    (blocker, waiting)
}

#[tokio::test]
async fn a_refusing_disk_takes_everything_back() {
    let mut bench = DriverFixture::new().await;
    let session = bench.member(7, "Ana").await;
    let no = "CREATE TRIGGER no BEFORE INSERT ON members BEGIN SELECT RAISE(ABORT, 'no'); END";
    other(&bench.dir).execute_batch(no).unwrap();
    let command = OperatorCommand::Rename { public_id: session.public_id, name: "Ben".into() };
    let answer = bench.driver.execute(command).await.unwrap();
    assert!(matches!(
        answer,
        MasterToConsole::RequestFailed(RequestFailed { code: FailureCode::Internal, .. })
    ));
    while bench.frames.recv().await.is_some() {}
    let name = bench
        .driver
        .query(move |authority, _| {
            authority.member(session.public_id).map(|m| m.client.name.clone())
        })
        .await
        .unwrap();
    assert_eq!(name, Some("Ana".into()));
}

/// R33: SQLite is locked by another process.
#[tokio::test]
async fn a_decision_waits_untold_while_the_database_is_locked_and_then_holds() {
    let mut bench = DriverFixture::new().await;
    let session = bench.member(7, "Ana").await;
    let (blocker, waiting) =
        held_up(&bench, OperatorCommand::Refuse { public_id: session.public_id }).await;
    while let Ok(frame) = bench.frames.try_recv() {
        assert!(
            !matches!(frame.message, MasterToRelay::DisApproveClient(_)),
            "told before it is on disk"
        );
    }
    assert!(!waiting.is_finished());
    // Who looks now is answered from what is on disk, when it is.
    let driver = bench.driver.clone();
    let look = tokio::spawn(async move {
        driver.query(|authority, _| authority.refused().clients.len()).await
    });
    blocker.execute_batch("COMMIT").unwrap();
    bench.next(|m| matches!(m, MasterToRelay::DisApproveClient(_)).then_some(())).await;
    let saved = Store::open(&bench.dir.path().join("lanyard.db")).unwrap().load().unwrap();
    assert_eq!(saved.members[0].verdict, lanyard_hub::authority::Verdict::Refused);
    assert!(matches!(waiting.await.unwrap(), MasterToConsole::ClientDisApproved(_)));
    assert_eq!(look.await.unwrap().unwrap(), 1);
    assert!(bench.driver.problems().all().is_empty());
}

#[tokio::test]
async fn transfers_go_on_while_a_decision_waits() {
    let mut bench = DriverFixture::new().await;
    let session = bench.member(7, "Ana").await;
    bench.add(session, 1).await;
    bench.next(|m| matches!(m, MasterToRelay::FilesAdded(_)).then_some(())).await;
    let (blocker, waiting) = held_up(
        &bench,
        OperatorCommand::Rename { public_id: session.public_id, name: "Ben".into() },
    )
    .await;
    let file_id = lanyard_protocol::FileId(uuid::Uuid::from_bytes([0; 16]));
    let files = vec![lanyard_protocol::FileRef { public_id: session.public_id, file_id }];
    bench.said(RelayToMaster::Relay(RelayMessage::FileLookup(FileLookup { files }))).await;
    let granted = bench
        .next(|m| if let MasterToRelay::FileGrant(g) = m { Some(g.files.len()) } else { None })
        .await;
    assert_eq!((granted, waiting.is_finished()), (1, false));
    blocker.execute_batch("COMMIT").unwrap();
    assert!(matches!(waiting.await.unwrap(), MasterToConsole::ClientUpdated(_)));
}

#[tokio::test]
async fn a_file_is_not_called_gone_before_the_refusal_of_its_owner_is_on_disk() {
    let mut bench = DriverFixture::new().await;
    let session = bench.member(7, "Ana").await;
    bench.add(session, 1).await;
    bench.next(|m| matches!(m, MasterToRelay::FilesAdded(_)).then_some(())).await;
    let (blocker, waiting) =
        held_up(&bench, OperatorCommand::Refuse { public_id: session.public_id }).await;
    let file_id = lanyard_protocol::FileId(uuid::Uuid::from_bytes([0; 16]));
    let files = vec![lanyard_protocol::FileRef { public_id: session.public_id, file_id }];
    bench.said(RelayToMaster::Relay(RelayMessage::FileLookup(FileLookup { files }))).await;
    // The driver has taken the look-up when it takes what comes after it.
    let taken = bench.driver.next_term(0).await.unwrap();
    assert!(taken.is_err(), "the database is locked");
    assert!(bench.frames.try_recv().is_err(), "told before it is on disk");
    blocker.execute_batch("COMMIT").unwrap();
    let word = |m: &MasterToRelay| match m {
        MasterToRelay::DisApproveClient(_) => Some("refused"),
        MasterToRelay::FileGrant(_) => Some("gone"),
        _ => None,
    };
    assert_eq!((bench.next(word).await, bench.next(word).await), ("refused", "gone"));
    assert!(matches!(waiting.await.unwrap(), MasterToConsole::ClientDisApproved(_)));
}

/// Who is in comes, sees and fetches while an approval waits for the disk, and hears of it when it
/// is there.
#[tokio::test]
async fn a_device_that_comes_while_a_decision_waits_sees_the_list_as_it_is_on_disk() {
    let mut bench = DriverFixture::new().await;
    let session = bench.member(7, "Ana").await;
    bench.add(session, 1).await;
    bench.next(|m| matches!(m, MasterToRelay::FilesAdded(_)).then_some(())).await;
    let (request, code) = bench.knock(8, "Ben").await;
    let blocker = other(&bench.dir);
    blocker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let public_id = request.client.public_id;
    let word = lanyard_hub::authority::Approval::Typed(code);
    let waiting = wish(
        &bench.driver,
        OperatorCommand::Approve { public_id, request_id: None, word, for_ms: None },
    );
    bench.ack_approval().await;
    until_problems(&bench.driver, |all| !all.is_empty()).await;

    let SessionAddress { public_id, instance } = session;
    let change =
        PresenceChange { public_id, instance: Some(instance), resume: None, request_id: None };
    bench.said(RelayToMaster::Relay(RelayMessage::ClientReconnected(change))).await;
    let page = bench
        .next(|m| if let MasterToRelay::FeedPage(page) = m { Some(page.clone()) } else { None })
        .await;
    assert_eq!((page.clients.len(), page.files.len(), page.revision, page.last), (1, 1, 2, true));
    assert!(!waiting.is_finished());
    blocker.execute_batch("COMMIT").unwrap();
    let approved = bench
        .next(|m| if let MasterToRelay::ClientApproved(a) = m { Some(a.revision) } else { None })
        .await;
    assert_eq!(approved, page.revision + 1, "what comes next follows the page");
    assert!(matches!(waiting.await.unwrap(), MasterToConsole::ClientApproved(_)));
}

/// What was meant for a relay that is gone is not said to the next one, which hears the roster
/// first.
#[tokio::test]
async fn a_relay_that_comes_while_a_decision_waits_hears_it_with_the_roster() {
    let mut bench = DriverFixture::new().await;
    let session = bench.member(7, "Ana").await;
    let (blocker, waiting) =
        held_up(&bench, OperatorCommand::Refuse { public_id: session.public_id }).await;
    bench.driver.relay_lost(bench.connection).await.unwrap();
    let mut frames = bench.driver.relay_ready(ConnectionNumber(2), hub()).await.unwrap();
    blocker.execute_batch("COMMIT").unwrap();
    let MasterToRelay::MasterRoster(page) = frames.recv().await.unwrap().message else {
        panic!("the roster first")
    };
    assert_eq!((page.refused, page.approved), (vec![session.public_id], vec![]));
    assert!(matches!(waiting.await.unwrap(), MasterToConsole::ClientDisApproved(_)));
}

/// R11: the disk is full for the database.
#[tokio::test]
async fn a_decision_waits_while_the_disk_is_full_and_holds_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lanyard.db");
    let store = Store::open(&path).unwrap();
    // Room that can be given back later.
    let ballast = other(&dir);
    let fill = "CREATE TABLE ballast (b BLOB); INSERT INTO ballast VALUES (zeroblob(1000000))";
    ballast.execute_batch(fill).unwrap();
    store.allow_no_growth();
    let (driver, _task) = start(AuthorityConfig::default(), store, None).unwrap();
    let connection = ConnectionNumber(1);
    let frames = driver.relay_ready(connection, hub()).await.unwrap();
    let mut bench = DriverFixture { driver, frames, dir, connection };
    bench.next(|m| matches!(m, MasterToRelay::Ping(_)).then_some(())).await;
    bench.said(RelayToMaster::Relay(RelayMessage::Pong(Empty {}))).await;
    let session = bench.member(7, "Ana").await;
    bench.add(session, 200).await;
    let told = until_problems(&bench.driver, |all| !all.is_empty()).await;
    assert_eq!(told[0].code, problems::DATABASE_FULL);
    while let Ok(frame) = bench.frames.try_recv() {
        assert!(
            !matches!(frame.message, MasterToRelay::FilesAdded(_)),
            "told before it is on disk"
        );
    }
    ballast.execute_batch("DROP TABLE ballast").unwrap();
    bench.next(|m| matches!(m, MasterToRelay::FilesAdded(_)).then_some(())).await;
    assert!(bench.driver.problems().all().is_empty());
    drop(ballast);
    let mut store = Store::open(&path).unwrap();
    assert_eq!((store.load().unwrap().files.len(), store.problems().all()), (200, Vec::new()));
}

#[tokio::test]
async fn a_database_that_breaks_while_it_is_used_is_made_anew() {
    let mut bench = DriverFixture::new().await;
    let session = bench.member(7, "Ana").await;
    let epoch = bench.driver.query(|authority, _| authority.head().epoch).await.unwrap();
    let breaking = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'rubbish' WHERE name = 'links';
                    PRAGMA schema_version = 99";
    other(&bench.dir).execute_batch(breaking).unwrap();
    let command = OperatorCommand::Rename { public_id: session.public_id, name: "Ben".into() };
    let answer = bench.driver.execute(command).await.unwrap();
    assert!(matches!(
        answer,
        MasterToConsole::RequestFailed(RequestFailed { code: FailureCode::Internal, .. })
    ));
    let look = move |authority: &Authority, _: Option<&HubInfo>| {
        (authority.member(session.public_id).map(|m| m.client.name.clone()), authority.head().epoch)
    };
    let (name, new_epoch) = bench.driver.query(look).await.unwrap();
    assert_eq!(name, Some("Ana".into()));
    assert_ne!(new_epoch, epoch);
    assert_eq!(bench.driver.problems().all()[0].code, problems::DATABASE_REBUILT);
}

/// A73. What devices list while the disk is full waits in memory: so much of it, then they wait.
#[tokio::test]
async fn a73_writes_that_wait_for_a_full_disk_are_bounded_in_bytes_and_none_is_lost() {
    let mut bench = DriverFixture::new().await;
    let session = bench.member(7, "Ana").await;
    let command = OperatorCommand::Rename { public_id: session.public_id, name: "Ben".into() };
    let (blocker, waiting) = held_up(&bench, command).await;
    let new = |n: u128| NewFile {
        file_id: lanyard_protocol::FileId(uuid::Uuid::from_u128(n)),
        path: format!("{}/{n}", "f".repeat(250)),
        size: 10,
        modified_ms: 1,
        media_type: String::new(),
        kind: Default::default(),
        root: None,
    };
    const MESSAGES: u128 = 200;
    let driver = bench.driver.clone();
    let connection = bench.connection;
    let sending = tokio::spawn(async move {
        for message in 0..MESSAGES {
            let files = (0..300).map(|n| new(message * 300 + n)).collect();
            let frame = MasterFrame {
                from: Some(session),
                ..MasterFrame::plain(RelayToMaster::Device(DeviceRequest::AddFiles(AddFiles {
                    files,
                })))
            };
            driver.relay_said(connection, frame).await.unwrap();
        }
    });
    // It stops taking when enough waits, and else when it has taken all.
    let driver = bench.driver.clone();
    let most = || driver.max_held.load(std::sync::atomic::Ordering::Relaxed);
    while most() < MAX_HELD_BYTES && !(sending.is_finished() && driver.inputs.capacity() == INPUTS)
    {
        tokio::task::yield_now().await;
    }
    blocker.execute_batch("COMMIT").unwrap();
    let mut listed = 0;
    while listed < MESSAGES * 300 {
        listed += bench
            .next(|m| {
                if let MasterToRelay::FilesAdded(added) = m {
                    Some(added.files.len() as u128)
                } else {
                    None
                }
            })
            .await;
    }
    sending.await.unwrap();
    waiting.await.unwrap();
    let a_message = 3 * 300 * 600;
    assert!(most() <= MAX_HELD_BYTES + BATCH_WHILE_HELD * a_message, "{} bytes waited", most());
}
