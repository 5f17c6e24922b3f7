//! The native device over a real relay: what one shares another has, whole, verified, never over something else.

use std::path::Path;
use std::sync::{Arc, Mutex};

use lanyard_device::{
    Device, DeviceConfig, DeviceEvent, DeviceHandle, EndReason, Phase, RateLimits, SavedFile, ShareState, Wanted,
    new_instance,
};
use lanyard_hub::authority::{Command, Word};
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::{DeviceKind, FailureCode, PublicKey, Root};
use tokio::sync::mpsc;

use crate::world::{Hub, NEVER, content};

/// A native device and what it told.
pub struct Native {
    pub handle: DeviceHandle,
    events: mpsc::Receiver<DeviceEvent>,
}

pub fn config(hub: &Hub, seed: u8) -> DeviceConfig {
    DeviceConfig {
        hub: hub.url.clone(),
        keypair: Keypair::from_seed(&[seed; 32]),
        name: format!("native {seed}"),
        kind: DeviceKind::Native,
        platform: "test".into(),
        instance: new_instance().unwrap(),
        pinned_hub: None,
        invitation: None,
        limits: RateLimits::default(),
        content_dir: None,
    }
}

impl Native {
    pub fn start(config: DeviceConfig) -> Self {
        let (handle, events) = Device::start(config).unwrap();
        Self { handle, events }
    }

    /// Knocks, is let in by the digits it shows, and knows the list.
    pub async fn inside(hub: &Hub, seed: u8) -> Self {
        Self::inside_as(hub, config(hub, seed)).await
    }

    pub async fn inside_as(hub: &Hub, config: DeviceConfig) -> Self {
        let mut native = Self::start(config);
        let code = native
            .until(|event| match event {
                DeviceEvent::Phase(Phase::Waiting { code }) => code,
                _ => None,
            })
            .await;
        let public_id = native.handle.public_id();
        assert_eq!(hub.code_of(public_id).await, code, "both screens show the same digits");
        hub.operator(Command::Approve { public_id, request_id: None, word: Word::Typed(code), for_ms: None }).await;
        native.approved().await;
        native
    }

    async fn approved(&mut self) {
        self.until(|event| matches!(event, DeviceEvent::Phase(Phase::Approved { .. })).then_some(())).await;
    }

    pub async fn until<T>(&mut self, wanted: impl Fn(DeviceEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let event = self.events.recv().await.expect("the device lives");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(NEVER, waiting).await.expect("it comes")
    }

    /// Shares, and waits until all is listed.
    pub async fn shares(&mut self, path: &Path) -> usize {
        let offered = self.handle.share(vec![path.into()]).await.unwrap();
        assert_eq!(offered.skipped, []);
        let mut left = offered.files.len();
        while left > 0 {
            left -= self
                .until(|event| match event {
                    DeviceEvent::SharesChanged { file_ids, state: ShareState::Shared } => Some(file_ids.len()),
                    _ => None,
                })
                .await;
        }
        offered.files.len()
    }

    /// Waits until so many files are listed, and gives them.
    pub async fn sees(&mut self, count: usize) -> Vec<Wanted> {
        loop {
            let catalogue = self.handle.catalogue().await.unwrap();
            if catalogue.files.len() == count {
                let wanted =
                    |entry: &lanyard_protocol::FileEntry| Wanted { entry: entry.clone(), as_path: entry.path.clone() };
                return catalogue.files.values().map(wanted).collect();
            }
            self.until(|event| (event == DeviceEvent::CatalogueChanged).then_some(())).await;
        }
    }

    /// Fetches and waits for the end: what was saved, and what failed.
    pub async fn fetches(&mut self, wanted: Vec<Wanted>, to: &Path) -> (Vec<SavedFile>, Vec<FailureCode>) {
        let started = self.handle.start_transfer(wanted, to.into()).await.unwrap();
        let (mut saved, mut failed) = (started.already, Vec::new());
        let mut running = started.transfers.len();
        while running > 0 {
            match self.until(Some).await {
                DeviceEvent::FileDone { file, .. } => saved.push(file),
                DeviceEvent::FileFailed { code, .. } => failed.push(code),
                DeviceEvent::TransferEnded { .. } => running -= 1,
                _ => {}
            }
        }
        (saved, failed)
    }
}

#[tokio::test]
async fn a_folder_arrives_whole_and_a_second_time_it_is_there() {
    let hub = Hub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let album = from.path().join("album");
    std::fs::create_dir_all(album.join("empty")).unwrap();
    for (name, size) in [("film.mkv", 9_000_000u64), ("note.txt", 5), ("nothing", 0), ("two groups", 300_000)] {
        std::fs::write(album.join(name), content(size)).unwrap();
    }
    assert_eq!(ana.shares(&album).await, 5);
    let wanted = bo.sees(5).await;
    let (saved, failed) = bo.fetches(wanted.clone(), to.path()).await;
    assert_eq!((saved.len(), failed), (5, vec![]));
    for file in saved.iter().filter(|file| file.root.is_some()) {
        let bytes = std::fs::read(file.saved_as.as_ref().unwrap()).unwrap();
        assert_eq!(bytes, std::fs::read(from.path().join(&file.path)).unwrap());
        assert_eq!(file.root, Some(Root(*blake3::hash(&bytes).as_bytes())));
    }
    assert!(to.path().join("album/empty").is_dir());
    let started = bo.handle.start_transfer(wanted, to.path().into()).await.unwrap();
    assert_eq!((started.transfers.len(), started.already.len()), (0, 5), "nothing is fetched twice");
}

#[tokio::test]
async fn a_stopped_transfer_is_finished_by_another() {
    let hub = Hub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let size = 96 << 20;
    std::fs::write(from.path().join("big"), content(size)).unwrap();
    ana.shares(&from.path().join("big")).await;
    let wanted = bo.sees(1).await;
    let started = bo.handle.start_transfer(wanted.clone(), to.path().into()).await.unwrap();
    bo.until(|event| matches!(event, DeviceEvent::Progress { done, .. } if done > 1 << 20).then_some(())).await;
    bo.handle.cancel(started.transfers[0]).await.unwrap();
    let done = bo
        .until(|event| match event {
            DeviceEvent::TransferEnded { done, .. } => Some(done),
            _ => None,
        })
        .await;
    let (saved, failed) = bo.fetches(wanted, to.path()).await;
    // A machine fast enough to be done before the stop has nothing left to prove here.
    assert_eq!((saved.len(), failed), (1, vec![]), "done before the stop: {done}");
    assert_eq!(std::fs::read(to.path().join("big")).unwrap(), content(size));
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 1, "no unfinished file is left");
}

#[tokio::test]
async fn a_file_that_changed_is_never_delivered_and_is_listed_anew() {
    let hub = Hub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("a");
    std::fs::write(&path, content(1_000_000)).unwrap();
    ana.shares(&path).await;
    let old = bo.sees(1).await;
    std::fs::write(&path, content(1_000_001)).unwrap();
    let (saved, failed) = bo.fetches(old.clone(), to.path()).await;
    assert_eq!(saved, []);
    assert!(matches!(failed[..], [FailureCode::FileChanged | FailureCode::FileGone]), "{failed:?}");
    let new = loop {
        let listed = bo.sees(1).await;
        if listed[0].entry.file_id != old[0].entry.file_id {
            break listed;
        }
        bo.until(|event| (event == DeviceEvent::CatalogueChanged).then_some(())).await;
    };
    let (saved, _) = bo.fetches(new, to.path()).await;
    assert_eq!(std::fs::read(saved[0].saved_as.as_ref().unwrap()).unwrap(), content(1_000_001));
}

/// A writer that keeps what it is given.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_in_order_and_a_link_get_the_same_bytes() {
    let hub = Hub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let from = tempfile::tempdir().unwrap();
    std::fs::write(from.path().join("a"), content(20_000_000)).unwrap();
    ana.shares(&from.path().join("a")).await;
    let wanted = bo.sees(1).await.remove(0);
    let kept = Kept::default();
    let started = bo.handle.start_stream(wanted.entry.clone(), kept.clone()).await.unwrap();
    let ended = bo
        .until(|event| match event {
            DeviceEvent::TransferEnded { done, failed, .. } => Some((done, failed)),
            _ => None,
        })
        .await;
    assert_eq!(ended, (1, 0));
    started.writer.unwrap().await.unwrap().unwrap();
    assert!(*kept.0.lock().unwrap() == content(20_000_000));
    let link = bo.handle.link(vec![wanted.entry.file_ref()], None).await.unwrap();
    let body = reqwest::get(hub.http(&link.url)).await.unwrap().bytes().await.unwrap();
    assert!(body == content(20_000_000));
}

#[tokio::test]
async fn who_stops_takes_back_what_it_shared() {
    let hub = Hub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let from = tempfile::tempdir().unwrap();
    std::fs::write(from.path().join("a"), b"x").unwrap();
    ana.shares(&from.path().join("a")).await;
    bo.sees(1).await;
    ana.handle.shutdown().await;
    bo.sees(0).await;
}

#[tokio::test]
async fn another_hub_than_the_known_one_is_refused() {
    let hub = Hub::start().await;
    let mut native = Native::start(DeviceConfig { pinned_hub: Some(PublicKey([9; 32])), ..config(&hub, 1) });
    let untrusted = DeviceEvent::Phase(Phase::Ended { reason: EndReason::UntrustedHub });
    native.until(|event| (event == untrusted).then_some(())).await;
}

#[tokio::test]
async fn a_second_session_of_a_device_needs_no_second_approval() {
    let hub = Hub::start().await;
    let mut first = Native::inside(&hub, 1).await;
    let from = tempfile::tempdir().unwrap();
    std::fs::write(from.path().join("a"), b"x").unwrap();
    first.shares(&from.path().join("a")).await;
    let mut second = Native::start(config(&hub, 1));
    second.approved().await;
    second.sees(1).await;
    second.handle.shutdown().await;
    first.sees(1).await;
}
