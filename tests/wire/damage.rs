//! Bytes that are flipped, lost, repeated or swapped somewhere on their way: nobody keeps a wrong
//! file, what can be fetched again is, and the right one is blamed. `LANYARD_DAMAGES` says how many
//! transfers, `LANYARD_SEED` which.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lanyard_device::connection::HubUrl;
use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::group::Groups;
use lanyard_protocol::message::*;
use lanyard_protocol::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::JoinSet;

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::*;

/// In every run of the tests.
const USUAL: u64 = 40;
/// With `LANYARD_FULL=1`; `LANYARD_DAMAGES` asks for any other number.
const FULL: u64 = 1_000;
/// A wrong file cannot be had by trying longer than this.
const TRIES: usize = 40;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len() as u64) as usize]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Flip,
    Missing,
    Repeat,
    Swap,
}

impl Damage {
    const ALL: [Self; 4] = [Self::Flip, Self::Missing, Self::Repeat, Self::Swap];

    /// Damages up to 64 bytes around `at`; the length stays, and something differs in any case.
    fn strike(self, bytes: &mut [u8], at: usize) {
        let before = bytes.to_vec();
        let at = at.min(bytes.len() - 1);
        let span = 32.min((bytes.len() - at) / 2);
        match self {
            Self::Flip => bytes[at] ^= 0x10,
            Self::Missing => bytes[at..].rotate_left(span),
            Self::Repeat => bytes.copy_within(at..at + span, at + span),
            Self::Swap => bytes[at..at + 2 * span].rotate_left(span),
        }
        if bytes == before {
            bytes[at] ^= 0x10;
        }
    }
}

/// Where the damage is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DamagePlace {
    /// In one upload of the owner.
    OwnerOnce,
    /// In all its uploads.
    OwnerAlways,
    /// Between the relay and the asker: its memory, or the wire.
    Way,
}

/// What is known of the file before the damaged transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PriorKnowledge {
    /// Somebody read it before: the relay has the value of each group.
    Pinned,
    /// Its root is listed, and its owner has the values.
    Listed,
    /// Its root is listed, and nobody has the values.
    Root,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DamageReader {
    Native,
    /// Drops its connection now and then, and resumes with Range.
    Link,
}

#[derive(Debug, Clone, Copy)]
struct Round {
    damage: Damage,
    place: DamagePlace,
    known: PriorKnowledge,
    reader: DamageReader,
    size: u64,
    at: u64,
}

impl Round {
    fn new(dice: &mut Dice) -> Self {
        let size = (1 << 19) + 1 + dice.roll(700_000);
        let (place, known, reader) = match dice.roll(10) {
            0..=2 => (
                DamagePlace::Way,
                dice.pick(&[PriorKnowledge::Pinned, PriorKnowledge::Root, PriorKnowledge::Nothing]),
                DamageReader::Native,
            ),
            3..=5 => (
                DamagePlace::OwnerOnce,
                PriorKnowledge::Pinned,
                dice.pick(&[DamageReader::Native, DamageReader::Link]),
            ),
            6 => (DamagePlace::OwnerOnce, PriorKnowledge::Listed, DamageReader::Link),
            7 => (
                DamagePlace::OwnerAlways,
                PriorKnowledge::Pinned,
                dice.pick(&[DamageReader::Native, DamageReader::Link]),
            ),
            _ => (
                DamagePlace::OwnerOnce,
                PriorKnowledge::Root,
                dice.pick(&[DamageReader::Native, DamageReader::Link]),
            ),
        };
        // Behind the first group: the relay may still have that one from the pass before.
        let at = (1 << 18) + dice.roll(size - (1 << 18));
        Self { damage: dice.pick(&Damage::ALL), place, known, reader, size, at }
    }

    /// Whether the file can be had whole: by asking again, or from another place.
    fn can_be_had(&self) -> bool {
        match self.place {
            DamagePlace::Way => true,
            DamagePlace::OwnerOnce => self.known != PriorKnowledge::Root,
            DamagePlace::OwnerAlways => false,
        }
    }
}

/// What became of the owner's uploads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Blamed {
    bad_bytes: usize,
    changed: bool,
}

/// An owner that sends wrong bytes when it is told to.
struct Owner {
    device: TestDevice,
    has_hashes: bool,
    /// How many more uploads that hold the place are damaged.
    strikes: usize,
    damage: Damage,
    at: u64,
}

impl Owner {
    fn body(&mut self, request: &UploadChunkRequest) -> Vec<u8> {
        let mut body = self.device.body_of(request);
        let piece = request.pieces[0];
        let groups = Groups::of(self.device.files[&piece.file_id].len() as u64);
        let start = groups.offset(piece.groups.first);
        if self.strikes > 0 && (start..start + body.len() as u64).contains(&self.at) {
            self.strikes -= 1;
            self.damage.strike(&mut body, (self.at - start) as usize);
        }
        body
    }

    fn values(&self, file: FileId) -> Vec<u8> {
        let bytes = &self.device.files[&file];
        let groups = Groups::of(bytes.len() as u64);
        let value = |group: u32| {
            let from = groups.offset(group) as usize;
            groups.value(group, &bytes[from..from + groups.len(group) as usize]).0
        };
        (0..groups.count()).flat_map(value).collect()
    }

    /// Answers uploads while `work` runs; gives its result and who was blamed meanwhile.
    async fn serve<T>(&mut self, work: impl Future<Output = T>) -> (T, Blamed) {
        tokio::pin!(work);
        let (mut blamed, mut puts) = (Blamed::default(), JoinSet::new());
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                frame = self.device.next() => self.heard(frame.message, &mut blamed, &mut puts).await,
            }
        };
        // What the relay said before it answers this has been heard then.
        let last = self.device.say(DeviceToRelay::Ping(Empty {})).await;
        loop {
            let frame = self.device.next().await;
            if frame.reference.as_ref() == Some(&last) {
                break;
            }
            self.heard(frame.message, &mut blamed, &mut puts).await;
        }
        while let Some(answer) = puts.join_next().await {
            // A connection that broke in mid-body lost the answer; UPLOAD_CANCELLED said the same.
            let _: Option<u16> = answer.unwrap();
        }
        (result, blamed)
    }

    async fn heard(
        &mut self,
        message: RelayToDevice,
        blamed: &mut Blamed,
        puts: &mut JoinSet<Option<u16>>,
    ) {
        match message {
            RelayToDevice::UploadChunkRequest(request)
                if request.what == BodyKind::Hashes && !self.has_hashes =>
            {
                let no = ChunkUnavailable {
                    ticket: request.ticket,
                    code: FailureCode::NoHashes,
                    file_id: None,
                };
                self.device.say(DeviceToRelay::ChunkUnavailable(no)).await;
            }
            RelayToDevice::UploadChunkRequest(request) => {
                let body = match request.what {
                    BodyKind::Hashes => self.values(request.pieces[0].file_id),
                    BodyKind::Bytes => self.body(&request),
                };
                let put = self.device.put(&request.ticket, body).send();
                puts.spawn(async { Some(put.await.ok()?.status().as_u16()) });
            }
            RelayToDevice::UploadCancelled(cancelled)
                if cancelled.code == FailureCode::BadBytes =>
            {
                blamed.bad_bytes += 1;
            }
            RelayToDevice::FileChanged(_) => blamed.changed = true,
            _ => {}
        }
    }
}

/// A way to the relay on which one body of a GET may be damaged.
struct DamagedProxy {
    url: HubUrl,
    strike: watch::Sender<Option<(Damage, usize)>>,
    struck: Arc<AtomicBool>,
}

impl DamagedProxy {
    async fn to(hub: &TestHub) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (strike, orders) = watch::channel(None);
        let struck = Arc::new(AtomicBool::new(true));
        let (address, done) = (hub.address, struck.clone());
        tokio::spawn(async move {
            while let Ok((asker, _)) = listener.accept().await {
                let (relay, orders, done) =
                    (TcpStream::connect(address).await.unwrap(), orders.clone(), done.clone());
                let ((up, down), (from, to)) = (asker.into_split(), relay.into_split());
                let is_body = Arc::new(AtomicBool::new(false));
                tokio::spawn(upwards(up, to, is_body.clone()));
                tokio::spawn(downwards(from, down, is_body, orders, done));
            }
        });
        Self { url, strike, struck }
    }

    fn arm(&self, damage: Damage, at: usize) {
        self.strike.send_replace(Some((damage, at)));
        self.struck.store(false, Ordering::SeqCst);
    }

    /// Nothing more is damaged; whether something was.
    fn disarm(&self) -> bool {
        self.struck.swap(true, Ordering::SeqCst)
    }
}

async fn upwards(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    is_body: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        is_body.store(buffer.starts_with(b"GET /chunks/"), Ordering::SeqCst);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn downwards(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    is_body: Arc<AtomicBool>,
    orders: watch::Receiver<Option<(Damage, usize)>>,
    struck: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // A head comes with the first read of an answer; what follows in later reads is body alone.
        let is_head = buffer.starts_with(b"HTTP/1.1");
        if is_body.load(Ordering::SeqCst) && !is_head && !struck.swap(true, Ordering::SeqCst) {
            let order = *orders.borrow();
            if let Some((damage, at)) = order {
                damage.strike(&mut buffer[..count], at % count);
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Reads a link to its end, dropping the connection now and then. `None`: the relay said that it
/// cannot be had.
async fn by_link(http: reqwest::Client, url: String, size: u64, mut dice: Dice) -> Option<Vec<u8>> {
    let mut got: Vec<u8> = Vec::new();
    for _ in 0..TRIES {
        let mut request = http.get(&url);
        if !got.is_empty() {
            request = request.header("range", format!("bytes={}-", got.len()));
        }
        let Ok(answer) = request.send().await else { continue };
        match answer.status().as_u16() {
            200 => got.clear(),
            206 => {}
            404 | 410 | 412 => return None,
            _ => continue,
        }
        let patience = dice.roll(size);
        let (mut body, start) = (answer.bytes_stream(), got.len() as u64);
        while let Some(Ok(part)) = body.next().await {
            got.extend_from_slice(&part);
            if got.len() as u64 - start > patience {
                break;
            }
        }
        if got.len() as u64 == size {
            return Some(got);
        }
    }
    None
}

/// One damaged transfer.
struct DamageRun {
    hub: TestHub,
    owner: Owner,
    native: Native,
    way: DamagedProxy,
    to: tempfile::TempDir,
    offered: usize,
}

impl DamageRun {
    async fn new() -> Self {
        // So little room that a second pass is a second upload.
        let hub = TestHub::with_budget(1 << 20).await;
        let device = hub.approved(1).await;
        let way = DamagedProxy::to(&hub).await;
        let native = Native::inside_as(
            &hub,
            lanyard_device::DeviceConfig { hub: way.url.clone(), ..config(&hub, 2) },
        );
        let (native, to) = (native.await, tempfile::tempdir().unwrap());
        let owner = Owner { device, has_hashes: false, strikes: 0, damage: Damage::Flip, at: 0 };
        Self { hub, owner, native, way, to, offered: 0 }
    }

    async fn offers(&mut self, round: &Round, bytes: Arc<Vec<u8>>) -> FileEntry {
        self.offered += 1;
        let file_id: FileId =
            format!("00000000-0000-4000-8000-{:012x}", self.offered).parse().unwrap();
        let listed = matches!(round.known, PriorKnowledge::Listed | PriorKnowledge::Root);
        let file = NewFile {
            file_id,
            path: format!("{}.bin", self.offered),
            size: round.size,
            modified_ms: 1,
            media_type: String::new(),
            kind: EntryKind::File,
            root: listed.then(|| Root(*blake3::hash(&bytes).as_bytes())),
        };
        self.owner.device.files.insert(file_id, bytes);
        let reference =
            self.owner.device.say(DeviceToRelay::AddFiles(AddFiles { files: vec![file] })).await;
        let RelayToDevice::FilesAdded(mut added) = self.owner.device.answer(&reference).await
        else {
            panic!("no")
        };
        added.files.remove(0)
    }

    async fn link(&mut self, entry: &FileEntry) -> String {
        let url = self.owner.device.link(&[entry]).await.url;
        self.hub.http(&url)
    }

    /// The damaged transfer: what its reader kept, and who was blamed.
    async fn transfer(
        &mut self,
        round: &Round,
        entry: &FileEntry,
        dice: Dice,
    ) -> (Option<Vec<u8>>, Blamed) {
        let url = self.link(entry).await;
        let http = self.owner.device.http.clone();
        if round.reader == DamageReader::Link {
            return self.owner.serve(by_link(http, url, round.size, dice)).await;
        }
        let (native, to) = (&mut self.native, self.to.path());
        let fetching = async {
            let wanted = loop {
                let catalogue = native.handle.catalogue().await.unwrap();
                if let Some(entry) = catalogue.files.get(&entry.file_ref()) {
                    break lanyard_device::WantedDownload {
                        entry: entry.clone(),
                        as_path: entry.path.clone(),
                    };
                }
                let changed =
                    |event| (event == lanyard_device::DeviceEvent::CatalogueChanged).then_some(());
                native.until(changed).await;
            };
            let (saved, _) = native.fetches(vec![wanted], to).await;
            saved.into_iter().next().map(|file| std::fs::read(file.saved_as.unwrap()).unwrap())
        };
        self.owner.serve(fetching).await
    }

    async fn play(&mut self, round: Round, mut dice: Dice) -> Result<(), String> {
        let bytes: Arc<Vec<u8>> = Arc::new(
            (0..round.size / 8 + 1).flat_map(|_| dice.roll(u64::MAX).to_le_bytes()).collect(),
        );
        let bytes = Arc::new(bytes[..round.size as usize].to_vec());
        self.owner.has_hashes = round.known == PriorKnowledge::Listed;
        let entry = self.offers(&round, bytes.clone()).await;
        if round.known == PriorKnowledge::Pinned {
            let (http, url) = (self.owner.device.http.clone(), self.link(&entry).await);
            let (first, _) = self.owner.serve(by_link(http, url, round.size, Dice(1))).await;
            assert!(first.as_ref() == Some(&*bytes), "the first pass was sound");
        }
        (self.owner.damage, self.owner.at) = (round.damage, round.at);
        match round.place {
            DamagePlace::OwnerOnce => self.owner.strikes = 1,
            DamagePlace::OwnerAlways => self.owner.strikes = usize::MAX,
            DamagePlace::Way => self.way.arm(round.damage, round.at as usize),
        }
        let (kept, blamed) = self.transfer(&round, &entry, dice).await;
        // The place may still lie in the relay's memory from the pass before; then there was no
        // upload to damage.
        let struck = match round.place {
            DamagePlace::OwnerOnce => self.owner.strikes == 0,
            DamagePlace::OwnerAlways => self.owner.strikes < usize::MAX,
            DamagePlace::Way => self.way.disarm(),
        };
        self.owner.strikes = 0;
        let verdict = judge(&round, struck, &bytes, kept.as_deref(), &blamed);
        self.forget(&entry).await;
        verdict.map_err(|why| format!("{why}: {round:?}, {blamed:?}"))
    }

    async fn forget(&mut self, entry: &FileEntry) {
        let remove = RemoveFile { file_ids: vec![entry.file_id], keep: false };
        self.owner.device.say(DeviceToRelay::RemoveFile(remove)).await;
        self.owner.device.files.insert(entry.file_id, Arc::default());
        for file in std::fs::read_dir(self.to.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
}

/// What has to hold after any damage. A reader that leaves in the middle may call the damaged
/// upload off before a group of it is whole: then nobody is to blame, and the next upload is right.
fn judge(
    round: &Round,
    struck: bool,
    right: &[u8],
    kept: Option<&[u8]>,
    blamed: &Blamed,
) -> Result<(), &'static str> {
    let owner_did = struck && round.place != DamagePlace::Way;
    let may_be_called_off =
        round.reader == DamageReader::Link && round.place == DamagePlace::OwnerOnce;
    match kept {
        Some(kept) if kept != right => Err("somebody keeps a wrong file"),
        None if round.can_be_had() || !struck => Err("a file that can be had did not come"),
        Some(_) if owner_did && !round.can_be_had() && !may_be_called_off => {
            Err("a file came that cannot be right")
        }
        _ if !owner_did && *blamed != Blamed::default() => {
            Err("the owner is blamed for what it did not do")
        }
        None if !blamed.changed => Err("the owner is not told that its file is another"),
        Some(_) if blamed.changed => {
            Err("the owner is told that a file is another that came whole")
        }
        Some(_) if owner_did && blamed.bad_bytes != 1 && !may_be_called_off => {
            Err("one wrong body is one blame")
        }
        Some(_) if blamed.bad_bytes > 1 => Err("one wrong body is blamed more than once"),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_the_way_leaves_no_wrong_file_and_is_blamed_on_its_origin() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
    };
    let usual = if lanyard_tests::full() { FULL } else { USUAL };
    let rounds = number("LANYARD_DAMAGES", usual);
    let seed = number("LANYARD_SEED", 1);
    let mut stage = DamageRun::new().await;
    let mut seen = std::collections::BTreeMap::<String, u64>::new();
    for n in 0..rounds {
        let mut dice = Dice(seed.wrapping_add(n));
        let round = Round::new(&mut dice);
        *seen
            .entry(format!("{:?} {:?} {:?}", round.place, round.known, round.reader))
            .or_default() += 1;
        let playing = tokio::time::timeout(Duration::from_secs(60), stage.play(round, dice));
        let played =
            playing.await.unwrap_or_else(|_| Err(format!("nothing comes of it: {round:?}")));
        assert_eq!(played, Ok(()), "LANYARD_SEED={} LANYARD_DAMAGES=1", seed.wrapping_add(n));
    }
    seen.iter().for_each(|(kind, count)| println!("{count:>9}  {kind}"));
    assert!(seen.len() >= 10 || rounds < USUAL, "each kind of damage is played: {seen:?}");
}
