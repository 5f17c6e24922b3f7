//! What lies on a device already is copied: not a byte comes from its owner, and nothing is
//! believed unseen.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use lanyard_device::{DeviceConfig, DeviceEvent, WantedDownload};

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::{TestHub, content};

const SIZE: u64 = 3_000_000;

struct CopiesStage {
    hub: TestHub,
    home: tempfile::TempDir,
}

impl CopiesStage {
    async fn set() -> Self {
        Self { hub: TestHub::start().await, home: tempfile::tempdir().unwrap() }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.home.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A device with a data directory.
    async fn native(&self, seed: u8) -> Native {
        let content_dir = Some(self.dir(&format!("data {seed}")));
        Native::inside_as(&self.hub, DeviceConfig { content_dir, ..config(&self.hub, seed) }).await
    }

    /// The same bytes every time, under this name.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.dir("from").join(name);
        fs::write(&path, content(SIZE)).unwrap();
        path
    }
}

/// Waits until so many files are listed, each with its root.
async fn listed(native: &mut Native, count: usize) -> Vec<WantedDownload> {
    loop {
        let wanted = native.sees(count).await;
        if wanted.iter().all(|file| file.entry.root.is_some()) {
            return wanted;
        }
        native.until(|event| (event == DeviceEvent::CatalogueChanged).then_some(())).await;
    }
}

/// Fetches and tells of each file, by name, whether it was copied.
async fn copied(
    native: &mut Native,
    wanted: Vec<WantedDownload>,
    to: &Path,
) -> Vec<(String, bool)> {
    let (saved, failed) = native.fetches(wanted, to).await;
    assert_eq!(failed, []);
    for file in &saved {
        assert!(fs::read(file.saved_as.as_ref().unwrap()).unwrap() == content(SIZE));
    }
    let mut files: Vec<(String, bool)> =
        saved.into_iter().map(|file| (file.path, file.copied)).collect();
    files.sort();
    files
}

#[tokio::test]
async fn bytes_fetched_before_are_copied_without_their_owner() {
    let stage = CopiesStage::set().await;
    let (mut ana, mut bo) = (stage.native(1).await, stage.native(2).await);
    let film = stage.file("film");
    ana.shares(&film).await;
    let wanted = bo.sees(1).await;
    assert_eq!(copied(&mut bo, wanted, &stage.dir("one")).await, [("film".into(), false)]);
    let wanted = listed(&mut bo, 1).await;
    // Whoever asked the owner for a byte would hear that the file is gone.
    fs::remove_file(film).unwrap();
    assert_eq!(copied(&mut bo, wanted, &stage.dir("two")).await, [("film".into(), true)]);
}

#[tokio::test]
async fn a_source_that_changed_behind_its_time_is_found_out_and_the_file_is_fetched() {
    let stage = CopiesStage::set().await;
    let (mut ana, mut bo) = (stage.native(1).await, stage.native(2).await);
    ana.shares(&stage.file("film")).await;
    let wanted = bo.sees(1).await;
    copied(&mut bo, wanted, &stage.dir("one")).await;
    let wanted = listed(&mut bo, 1).await;
    let source = stage.dir("one").join("film");
    let modified = fs::metadata(&source).unwrap().modified().unwrap();
    let mut other = content(SIZE);
    other[SIZE as usize / 2] ^= 1;
    fs::write(&source, other).unwrap();
    File::options().write(true).open(&source).unwrap().set_modified(modified).unwrap();
    assert_eq!(copied(&mut bo, wanted, &stage.dir("two")).await, [("film".into(), false)]);
}

#[tokio::test]
async fn one_of_several_equal_files_is_fetched_and_the_others_are_copied() {
    let stage = CopiesStage::set().await;
    let (mut ana, mut bo) = (stage.native(1).await, stage.native(2).await);
    for name in ["a", "b", "c"] {
        ana.shares(&stage.file(name)).await;
    }
    // Somebody else fetched them before, so their roots are known.
    let mut carl = Native::inside(&stage.hub, 3).await;
    let wanted = carl.sees(3).await;
    copied(&mut carl, wanted, &stage.dir("carl")).await;
    let wanted = listed(&mut bo, 3).await;
    let expected = [("a".into(), false), ("b".into(), true), ("c".into(), true)];
    assert_eq!(copied(&mut bo, wanted, &stage.dir("bo")).await, expected);
}

#[tokio::test]
async fn a_file_that_the_device_shares_itself_is_copied() {
    let stage = CopiesStage::set().await;
    let (mut ana, mut bo, mut carl) =
        (stage.native(1).await, stage.native(2).await, Native::inside(&stage.hub, 3).await);
    ana.shares(&stage.file("mine")).await;
    let theirs = stage.file("theirs");
    bo.shares(&theirs).await;
    let wanted = carl.sees(2).await;
    copied(&mut carl, wanted, &stage.dir("carl")).await;
    let wanted: Vec<WantedDownload> = listed(&mut ana, 2).await;
    let wanted: Vec<WantedDownload> =
        wanted.into_iter().filter(|file| file.as_path == "theirs").collect();
    // What the hub said of its own file is noted beside all else; it is there before long.
    while fs::metadata(stage.dir("data 1").join("content.index")).map_or(0, |index| index.len())
        == 0
    {
        tokio::task::yield_now().await;
    }
    fs::remove_file(theirs).unwrap();
    assert_eq!(copied(&mut ana, wanted, &stage.dir("ana")).await, [("theirs".into(), true)]);
}

#[tokio::test]
async fn a_cancelled_copy_ends_its_transfer() {
    let stage = CopiesStage::set().await;
    let (mut ana, mut bo) = (stage.native(1).await, stage.native(2).await);
    ana.shares(&stage.file("film")).await;
    let wanted = bo.sees(1).await;
    copied(&mut bo, wanted, &stage.dir("one")).await;
    let wanted = listed(&mut bo, 1).await;
    let started = bo.handle.start_transfer(wanted, stage.dir("two")).await.unwrap();
    bo.handle.cancel(started.transfers[0]).await.unwrap();
    let ended = bo.until(|event| match event {
        DeviceEvent::TransferEnded { done, cancelled, .. } => Some((done, cancelled)),
        _ => None,
    });
    let (done, cancelled) = ended.await;
    assert_eq!(done + cancelled, 1, "a machine fast enough may be done before");
    assert_eq!(stage.dir("two").join("film").exists(), done == 1);
}
