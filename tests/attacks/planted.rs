//! Somebody who may write in a shared folder, and may not read what the owner may: he plants links,
//! swaps folders for links while they are read, puts pipes in the way of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lanyard_device::{DeviceConfig, DeviceError, WantedDownload};
use lanyard_protocol::FileId;

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::*;

/// The secret that nobody may ever get.
const CANARY: &[u8] = b"CANARY: this lies outside of the shared folder";
const SIZE: u64 = 3_000;

/// A folder that is shared, and one that is not.
struct Ground {
    shared: tempfile::TempDir,
    outside: tempfile::TempDir,
    to: tempfile::TempDir,
    /// What each shared file holds.
    content: Vec<u8>,
    rounds: usize,
    /// How often each path came.
    came: BTreeMap<String, usize>,
}

impl Ground {
    fn new() -> Self {
        Self::with_files_of(SIZE)
    }

    fn with_files_of(size: u64) -> Self {
        let [shared, outside, to] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        Self { shared, outside, to, content: content(size), rounds: 0, came: BTreeMap::new() }
    }

    fn root(&self) -> PathBuf {
        self.shared.path().join("d")
    }

    fn writes(&self, name: &str) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &self.content).unwrap();
    }

    /// A file outside: with the size and the time of `like`, or with others.
    fn canary(&self, name: &str, like: Option<&Path>) -> PathBuf {
        let path = self.outside.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = CANARY.to_vec();
        bytes.resize(
            like.map_or(CANARY.len(), |like| fs::metadata(like).unwrap().len() as usize),
            b'!',
        );
        fs::write(&path, bytes).unwrap();
        if let Some(like) = like {
            let modified = fs::metadata(like).unwrap().modified().unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        }
        path
    }

    /// Fetches into a folder of its own; what came, and what failed.
    async fn fetched(&mut self, by: &mut Native, wanted: Vec<WantedDownload>) -> (usize, usize) {
        self.rounds += 1;
        let to = self.to.path().join(self.rounds.to_string());
        let (saved, failed) = by.fetches(wanted, &to).await;
        for file in &saved {
            let bytes = fs::read(file.saved_as.as_ref().unwrap()).unwrap();
            assert!(!bytes.starts_with(b"CANARY"), "{} brought what lies outside", file.path);
            assert!(bytes == self.content, "{} is what was shared", file.path);
            *self.came.entry(file.path.clone()).or_default() += 1;
        }
        (saved.len(), failed.len())
    }
}

async fn listed(by: &Native) -> Vec<WantedDownload> {
    let catalogue = by.handle.catalogue().await.unwrap();
    catalogue
        .files
        .values()
        .map(|entry| WantedDownload { entry: entry.clone(), as_path: entry.path.clone() })
        .collect()
}

fn ids(wanted: &[WantedDownload]) -> BTreeSet<FileId> {
    wanted.iter().map(|file| file.entry.file_id).collect()
}

/// A60. After `share` a file is replaced by a link, and a folder on the way to a file: to files of
/// the same size and time, and of others. Nothing of what they lead to is sent, and none of it
/// comes onto the list as a new version.
#[tokio::test]
async fn a60_a_link_in_place_of_a_shared_file_or_of_its_folder_is_gone() {
    let hub = TestHub::start().await;
    let mut ana = Native::inside(&hub, 1).await;
    let mut bo = Native::inside(&hub, 2).await;
    let mut ground = Ground::new();
    for name in ["same/x", "same/e/y", "other/x", "other/e/y", "stays"] {
        ground.writes(name);
    }
    ana.shares(&ground.root()).await;
    let before = bo.sees(5).await;
    for (kind, is_same) in [("same", true), ("other", false)] {
        let x = ground.root().join(kind).join("x");
        let y = ground.root().join(kind).join("e/y");
        let file = ground.canary(&format!("{kind}/file"), is_same.then_some(&x));
        ground.canary(&format!("{kind}/folder/y"), is_same.then_some(&y));
        fs::remove_file(&x).unwrap();
        symlink(file, x).unwrap();
        fs::rename(y.parent().unwrap(), ground.outside.path().join(format!("{kind}-aside")))
            .unwrap();
        symlink(ground.outside.path().join(kind).join("folder"), y.parent().unwrap()).unwrap();
    }
    for _ in 0..3 {
        // The files listed at first, and those listed by now.
        let (came, failed) = ground.fetched(&mut bo, before.clone()).await;
        assert_eq!((came, failed), (1, 4), "what is no link comes, what is one is gone");
        let now = listed(&bo).await;
        ground.fetched(&mut bo, now).await;
    }
    // Changes of the list come in order: behind this one nothing of before is on its way.
    fs::write(ground.shared.path().join("last"), content(SIZE)).unwrap();
    ana.shares(&ground.shared.path().join("last")).await;
    let after = bo.sees(2).await;
    assert_eq!(ids(&after).difference(&ids(&before)).count(), 1, "only the last file is new");
}

/// Somebody who swaps a file or a folder for a link and back, until he is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapper {
    fn start(at: PathBuf, aside: PathBuf, targets: Vec<PathBuf>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let swaps = Arc::new(AtomicUsize::new(0));
        let stopped = stop.clone();
        let counted = swaps.clone();
        let thread = std::thread::spawn(move || {
            for target in targets.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                fs::rename(&at, &aside).unwrap();
                symlink(target, &at).unwrap();
                // Each stands long enough for somebody to look at the one and to open the other.
                std::thread::sleep(STANDS);
                fs::remove_file(&at).unwrap();
                fs::rename(&aside, &at).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(STANDS);
            }
        });
        Self { stop, swaps, thread: Some(thread) }
    }

    fn swaps(&self) -> usize {
        self.swaps.load(Ordering::Relaxed)
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

const STANDS: Duration = Duration::from_micros(300);

/// A file that takes about as long to read as a link stands.
const RACED_SIZE: u64 = 400 << 10;

/// Bounds that a race must reach before it proves anything.
const MOST_ROUNDS: usize = 4_000;
const SWAPS: usize = 1_000;
const FETCHED: usize = 300;
const FETCHED_RACED: usize = 40;

/// The raced file and what looks like it, both of the same size and time. In each round they are a
/// version of their own: of one that came before, the hub and the receiver know the root, and would
/// refuse other bytes of which the owner sent some.
struct Lookalikes([File; 2]);

impl Lookalikes {
    fn open(paths: [&Path; 2]) -> Self {
        Self(paths.map(|path| File::options().write(true).open(path).unwrap()))
    }

    /// Makes both a version of this round, wherever they lie, and gives its time in milliseconds.
    fn renew(&self, round: usize) -> u64 {
        let since = Duration::from_secs(1_000_000_000 + round as u64);
        self.0.iter().for_each(|file| file.set_modified(SystemTime::UNIX_EPOCH + since).unwrap());
        since.as_millis() as u64
    }
}

/// Shares and fetches again and again while somebody swaps.
async fn races(at: &str, below: &str) {
    let hub = TestHub::start().await;
    let mut ana = Native::inside(&hub, 1).await;
    let mut bo = Native::inside(&hub, 2).await;
    let mut ground = Ground::with_files_of(RACED_SIZE);
    ["x", "e/y", "stays"].iter().for_each(|name| ground.writes(name));
    ana.shares(&ground.root()).await;
    let before = bo.sees(3).await;
    let mut known: BTreeSet<_> =
        before.iter().map(|file| (file.entry.size, file.entry.modified_ms)).collect();
    let raced = PathBuf::from([at, below].join("/").trim_end_matches('/'));
    let original = ground.root().join(&raced);
    let [same, _] = [("same", Some(original.as_path())), ("other", None)]
        .map(|(kind, like)| ground.canary([kind, below].join("/").trim_end_matches('/'), like));
    let lookalikes = Lookalikes::open([&original, &same]);
    let raced = format!("d/{}", raced.display());
    let targets = ["same", "other"].map(|kind| ground.outside.path().join(kind)).to_vec();
    let swapper =
        Swapper::start(ground.root().join(at), ground.outside.path().join("aside"), targets);
    let mut fetched = 0;
    let came = |ground: &Ground| ground.came.get(&raced).copied().unwrap_or_default();
    while fetched < FETCHED || came(&ground) < FETCHED_RACED || swapper.swaps() < SWAPS {
        let swaps = swapper.swaps();
        assert!(
            ground.rounds < MOST_ROUNDS,
            "{fetched} fetched, {} of them raced, {swaps} swaps",
            came(&ground)
        );
        known.insert((RACED_SIZE, lookalikes.renew(ground.rounds)));
        // A file that is gone at this moment is not offered.
        ana.handle.share(vec![ground.root()]).await.unwrap();
        let now = listed(&bo).await;
        for WantedDownload { entry, .. } in &now {
            assert!(
                known.contains(&(entry.size, entry.modified_ms)),
                "{} is another file",
                entry.path
            );
        }
        fetched += ground.fetched(&mut bo, now).await.0;
    }
}

/// A60. The same while it is raced: a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a60_a_file_swapped_for_a_link_while_it_is_read_leads_nowhere() {
    races("x", "").await;
}

/// A60. And a folder on the way to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a60_a_folder_swapped_for_a_link_while_it_is_read_leads_nowhere() {
    races("e", "y").await;
}

/// A61. A pipe or a socket in place of a file holds nobody up: the file is gone, the others come.
#[tokio::test]
async fn a61_a_pipe_in_place_of_a_file_holds_nobody_up() {
    let hub = TestHub::start().await;
    let mut ana = Native::inside(&hub, 1).await;
    let mut bo = Native::inside(&hub, 2).await;
    let mut ground = Ground::new();
    ["pipe", "socket", "stays"].iter().for_each(|name| ground.writes(name));
    ana.shares(&ground.root()).await;
    let before = bo.sees(3).await;
    for name in ["pipe", "socket"] {
        fs::remove_file(ground.root().join(name)).unwrap();
    }
    let made =
        std::process::Command::new("mkfifo").arg(ground.root().join("pipe")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(ground.root().join("socket")).unwrap();
    assert_eq!(ground.fetched(&mut bo, before).await, (1, 2));
    assert_eq!(bo.sees(1).await[0].as_path, "d/stays");
}

/// A62. Keys of this program lie in no list: a data directory below what is shared is left out,
/// wherever it is and whosever it is, and named directly it is refused. The one in use is known by
/// itself, whatever it holds.
#[tokio::test]
async fn a62_no_data_directory_is_ever_shared() {
    let hub = TestHub::start().await;
    let ground = Ground::new();
    ground.writes("plain");
    let [in_use, others, hubs, relays] =
        ["deep/in-use", "others", "hub", "relay"].map(|name| ground.root().join(name));
    for folder in [&in_use, &others, &hubs, &relays] {
        fs::create_dir_all(folder.join("more")).unwrap();
        fs::write(folder.join("hubs.json"), CANARY).unwrap();
        fs::write(folder.join("more/file"), CANARY).unwrap();
    }
    fs::write(others.join("device.key"), [7; 32]).unwrap();
    fs::write(hubs.join("lanyard.db"), CANARY).unwrap();
    fs::write(relays.join("master.secret"), [7; 32]).unwrap();
    let config = DeviceConfig { content_dir: Some(in_use.clone()), ..config(&hub, 1) };
    let ana = Native::inside_as(&hub, config).await;
    let mut bo = Native::inside(&hub, 2).await;
    let offered = ana.handle.share(vec![ground.root()]).await.unwrap();
    let paths: Vec<&str> = offered.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["d/plain"]);
    assert_eq!(offered.skipped.len(), 4);
    assert!(
        offered.skipped.iter().all(|skipped| skipped.why.contains("data directory")),
        "{:?}",
        offered.skipped
    );
    for folder in [&in_use, &others, &hubs, &relays] {
        for named in [folder.clone(), folder.join("hubs.json"), folder.join("more")] {
            let refused = ana.handle.share(vec![named.clone()]).await;
            let Err(DeviceError::Walk(why)) = refused else {
                panic!("{} was shared", named.display())
            };
            assert!(why.to_string().contains("data directory"), "{why}");
        }
    }
    assert_eq!(bo.sees(1).await[0].as_path, "d/plain");
}
