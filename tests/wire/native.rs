//! The native device over a real relay: what one shares another has, whole, verified, never over
//! something else.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lanyard_device::{DeviceConfig, DeviceEvent, EndReason, MembershipPhase};
use lanyard_hub::authority::OperatorCommand;
use lanyard_protocol::{FailureCode, FileRef, PublicKey, Root};

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::{TestHub, content};

#[tokio::test]
async fn a_folder_arrives_whole_and_a_second_time_it_is_there() {
    let hub = TestHub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let album = from.path().join("album");
    std::fs::create_dir_all(album.join("empty")).unwrap();
    for (name, size) in
        [("film.mkv", 9_000_000u64), ("note.txt", 5), ("nothing", 0), ("two groups", 300_000)]
    {
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
    assert_eq!(
        (started.transfers.len(), started.already.len()),
        (0, 5),
        "nothing is fetched twice"
    );
}

#[tokio::test]
async fn a_stopped_transfer_is_finished_by_another() {
    let hub = TestHub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let size = 96 << 20;
    std::fs::write(from.path().join("big"), content(size)).unwrap();
    ana.shares(&from.path().join("big")).await;
    let wanted = bo.sees(1).await;
    let started = bo.handle.start_transfer(wanted.clone(), to.path().into()).await.unwrap();
    bo.until(|event| {
        matches!(event, DeviceEvent::Progress { done, .. } if done > 1 << 20).then_some(())
    })
    .await;
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
    let hub = TestHub::start().await;
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

/// What a person does to a file that somebody is reading.
fn cut_off(path: &Path) {
    File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap();
}

/// Other bytes of the same length, and the time put back. Again until the inode shows it, however
/// coarse its clock is.
#[cfg(unix)]
fn rewrite_in_place(path: &Path) {
    use std::os::unix::fs::MetadataExt;
    let before = std::fs::metadata(path).unwrap();
    let touched = |metadata: &std::fs::Metadata| (metadata.ctime(), metadata.ctime_nsec());
    while touched(&std::fs::metadata(path).unwrap()) == touched(&before) {
        let mut file = File::options().write(true).open(path).unwrap();
        file.write_all(&vec![b'!'; before.len() as usize]).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }
}

/// R26 and R27: whatever happens to a file while its link is read for the first time, the body
/// breaks off: nobody takes for whole what is made of two versions, and who asks again is told.
#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_changed_while_its_link_is_read_breaks_the_body_off() {
    for (name, change) in [("cut off", cut_off as fn(&Path)), ("rewritten", rewrite_in_place)] {
        let hub = TestHub::start().await;
        let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
        let from = tempfile::tempdir().unwrap();
        let path = from.path().join(name);
        // More than fits between the owner and a reader who pauses.
        let size = 96 << 20;
        std::fs::write(&path, content(size)).unwrap();
        ana.shares(&path).await;
        let wanted = bo.sees(1).await.remove(0);
        let link = bo
            .handle
            .link(lanyard_device::LinkOptions::files(vec![wanted.entry.file_ref()]))
            .await
            .unwrap();
        let mut reading = reqwest::get(hub.http(&link.url)).await.unwrap();
        assert!(reading.chunk().await.unwrap().is_some(), "{name}");
        change(&path);
        let is_whole = loop {
            match reading.chunk().await {
                Ok(Some(_)) => {}
                ended => break ended.is_ok(),
            }
        };
        assert!(!is_whole, "{name}");
        let again = reqwest::get(hub.http(&link.url)).await.unwrap().status().as_u16();
        assert!(matches!(again, 404 | 410 | 412), "{name}: {again}");
    }
}

/// A writer that keeps what it is given.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for LogBuffer {
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
    let hub = TestHub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let from = tempfile::tempdir().unwrap();
    std::fs::write(from.path().join("a"), content(20_000_000)).unwrap();
    ana.shares(&from.path().join("a")).await;
    let wanted = bo.sees(1).await.remove(0);
    let kept = LogBuffer::default();
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
    let link = bo
        .handle
        .link(lanyard_device::LinkOptions::files(vec![wanted.entry.file_ref()]))
        .await
        .unwrap();
    let body = reqwest::get(hub.http(&link.url)).await.unwrap().bytes().await.unwrap();
    assert!(body == content(20_000_000));
}

#[tokio::test]
async fn a_device_that_stops_takes_back_its_shared_files() {
    let hub = TestHub::start().await;
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
    let hub = TestHub::start().await;
    let mut native =
        Native::start(DeviceConfig { pinned_hub: Some(PublicKey([9; 32])), ..config(&hub, 1) });
    let untrusted = DeviceEvent::Phase(MembershipPhase::Ended { reason: EndReason::UntrustedHub });
    native.until(|event| (event == untrusted).then_some(())).await;
}

#[tokio::test]
async fn a_second_session_of_a_device_needs_no_second_approval() {
    let hub = TestHub::start().await;
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

/// R23, over real sockets: what each sees at the end is what all offer, and it was told, not asked
/// for by hand.
#[tokio::test]
async fn twenty_devices_that_add_and_remove_at_once_see_one_list() {
    const DEVICES: u8 = 20;
    const ROUNDS: usize = 20;
    let hub = TestHub::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut devices = Vec::new();
    // More than one address may ask about in ten minutes otherwise.
    hub.operator(OperatorCommand::AllowMore).await;
    for seed in 1..=DEVICES {
        devices.push(Native::inside(&hub, seed).await);
    }
    let changes = devices.iter().enumerate().map(|(number, device)| {
        let (handle, folder) = (device.handle.clone(), folder.path().join(number.to_string()));
        async move {
            std::fs::create_dir(&folder).unwrap();
            let mut kept = Vec::new();
            for round in 0..ROUNDS {
                let path = folder.join(format!("{round}.txt"));
                std::fs::write(&path, content(1 + round as u64)).unwrap();
                let offered = handle.share(vec![path]).await.unwrap();
                let ids: Vec<_> = offered.files.iter().map(|file| file.file_id).collect();
                match round % 2 {
                    0 => kept.extend(ids),
                    _ => handle.unshare(ids).await.unwrap(),
                }
            }
            (handle.public_id(), kept)
        }
    });
    let mut wanted: Vec<FileRef> = Vec::new();
    for (public_id, kept) in futures_util::future::join_all(changes).await {
        wanted.extend(kept.into_iter().map(|file_id| FileRef { public_id, file_id }));
    }
    wanted.sort();
    assert_eq!(wanted.len(), usize::from(DEVICES) * ROUNDS / 2);
    for device in &mut devices {
        loop {
            let catalogue = device.handle.catalogue().await.unwrap();
            if catalogue.files.keys().copied().eq(wanted.iter().copied()) {
                break;
            }
            device.until(|event| (event == DeviceEvent::CatalogueChanged).then_some(())).await;
        }
    }
}
