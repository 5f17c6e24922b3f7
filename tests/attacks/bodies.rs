//! Bodies that are not what they should be: wrong bytes, wrong places, wrong lengths, coded,
//! redirected, of a file that is gone.

use std::sync::Arc;

use lanyard_device::DeviceEvent;
use lanyard_device::connection::HubUrl;
use lanyard_protocol::message::*;
use lanyard_protocol::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

const SIZE: usize = 2 * 262_144 + 77;

/// Bytes of which no two groups are alike.
fn unlike() -> Arc<Vec<u8>> {
    let mut bytes = vec![0; SIZE];
    blake3::Hasher::new().update(b"unlike").finalize_xof().fill(&mut bytes);
    Arc::new(bytes)
}

/// Lists `bytes` with their root under an id of its own.
async fn offers(owner: &mut TestDevice, n: u8, bytes: Arc<Vec<u8>>) -> FileEntry {
    let file_id: FileId = format!("30000000-0000-4000-8000-0000000000{n:02x}").parse().unwrap();
    let root = Some(Root(*blake3::hash(&bytes).as_bytes()));
    let (path, size) = (format!("{n}.bin"), bytes.len() as u64);
    let (modified_ms, media_type, kind) = (1, String::new(), EntryKind::File);
    let file = NewFile { file_id, path, size, modified_ms, media_type, kind, root };
    owner.files.insert(file_id, bytes);
    let reference = owner.say(DeviceToRelay::AddFiles(AddFiles { files: vec![file] })).await;
    let RelayToDevice::FilesAdded(mut added) = owner.answer(&reference).await else {
        panic!("not added")
    };
    added.files.remove(0)
}

/// The owner sends these bytes for the whole of the file. Gives the status of its upload, and what
/// the asker has whole.
async fn sent(
    owner: &mut TestDevice,
    asker: &mut TestDevice,
    n: u8,
    entry: &FileEntry,
    wrong: Vec<u8>,
) -> (u16, Option<Vec<u8>>) {
    asker.request(entry, n, 0, 3).await;
    let upload = owner.asked().await;
    let put = tokio::spawn(owner.put(&upload.ticket, wrong).send());
    let ready = asker.ready().await;
    let answer = within(asker.get(&ready.ticket).send()).await.unwrap();
    let got = match answer.status().is_success() {
        true => answer.bytes().await.ok().map(|bytes| bytes.to_vec()),
        false => None,
    };
    (within(put).await.unwrap().map_or(0, |answer| answer.status().as_u16()), got)
}

/// A41, A42. The owner flips a bit anywhere, or sends the right groups at the wrong places: the
/// relay refuses the upload and nobody has a whole body of it. `tests/wire/damage.rs` does the same
/// by the hundred, to native devices and links.
#[tokio::test]
async fn a41_a42_poisoned_bytes_reach_nobody_whole() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let right = unlike();
    let flip = |at: usize| {
        let mut bytes = right.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let swapped = [&right[262_144..524_288], &right[..262_144], &right[524_288..]].concat();
    let repeated = [&right[..262_144], &right[..262_144], &right[524_288..]].concat();
    let poisons = [
        flip(0),
        flip(262_143),
        flip(262_144),
        flip(400_000),
        flip(SIZE - 1),
        swapped,
        repeated,
        vec![0; SIZE],
    ];
    for (n, poison) in (1..).zip(poisons) {
        let entry = offers(&mut owner, n, right.clone()).await;
        let (status, got) = sent(&mut owner, &mut ana, n, &entry, poison).await;
        assert!(matches!(status, 412 | 422 | 0), "poison {n}: {status}");
        assert_eq!(got, None, "poison {n}");
    }
    let entry = offers(&mut owner, 99, right.clone()).await;
    let (status, got) = sent(&mut owner, &mut ana, 99, &entry, right.to_vec()).await;
    assert_eq!((status, got.as_ref()), (204, Some(&*right)), "what is right is let through");
}

/// A43. The owner says another root, size or path for an id that is listed: that is refused, and
/// the list is as it was. Two devices cannot be told two things.
#[tokio::test]
async fn a43_the_entry_listed_under_an_id_never_changes() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = offers(&mut owner, 1, unlike()).await;
    let listed = NewFile {
        file_id: entry.file_id,
        path: entry.path.clone(),
        size: entry.size,
        modified_ms: entry.modified_ms,
        media_type: entry.media_type.clone(),
        kind: entry.kind,
        root: entry.root,
    };
    let lies = [
        NewFile { root: Some(Root([9; 32])), ..listed.clone() },
        NewFile { size: entry.size + 1, ..listed.clone() },
        NewFile { path: "other".into(), ..listed.clone() },
        NewFile { modified_ms: 2, ..listed.clone() },
    ];
    for lie in lies {
        let reference = owner.say(DeviceToRelay::AddFiles(AddFiles { files: vec![lie] })).await;
        let answer = owner.answer(&reference).await;
        assert!(
            matches!(&answer, RelayToDevice::RequestFailed(no) if no.code == FailureCode::IdTaken),
            "{answer:?}"
        );
    }
    let reference = ana
        .say(DeviceToRelay::FeedPull(FeedPull {
            feed: Default::default(),
            epoch: 0,
            since: 0,
            cursor: None,
        }))
        .await;
    let RelayToDevice::FeedPage(page) = ana.answer(&reference).await else { panic!("no page") };
    assert_eq!(page.files, [entry]);
}

/// A45, A46. Uploads without a proof or a ticket, longer and shorter than was asked, without a
/// length, coded, cut in the middle: each has its status, the asker may ask again, and what the
/// relay holds never grows.
#[tokio::test]
async fn a45_a46_only_the_bytes_that_were_asked_for_are_taken() {
    let hub = TestHub::with_budget(1 << 20).await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("a.bin", 1_000).await;
    let nobody = owner.http.put(owner.chunk_url(&Ticket([1; 16]))).body(vec![0; 10_000_000]);
    let unasked = owner.put(&Ticket([1; 16]), vec![0; 10_000_000]);
    for (request, expected) in [(nobody, 401), (unasked, 403)] {
        // The answer may be lost with the connection: nobody reads ten megabytes to say no.
        let status = request.send().await.map_or(expected, |answer| answer.status().as_u16());
        assert_eq!(status, expected);
    }
    let at = hub.address;
    let bomb = vec![b'A'; 1_000];
    let forms: [(&str, &[u8], u16); 7] = [
        ("Content-Length: 1001", &[b'A'; 1_001], 400),
        ("Content-Length: 999", &[b'A'; 999], 400),
        ("Content-Length: 0", b"", 400),
        ("Transfer-Encoding: chunked", b"3e8\r\n", 411),
        ("Content-Length: 1000\r\nContent-Encoding: gzip", &bomb, 415),
        ("Content-Length: 1000\r\nContent-Encoding: br", &bomb, 415),
        ("Content-Length: 1000\r\nContent-Encoding: identity", &bomb, 415),
    ];
    for (form, body, expected) in forms {
        ana.request(&entry, 1, 0, 1).await;
        let upload = owner.asked().await;
        let target = format!("/chunks/{}", upload.ticket.to_hex());
        let mut request = format!(
            "PUT {target} HTTP/1.1\r\nHost: {at}\r\n{}\r\nConnection: close\r\n{form}\r\n\r\n",
            owner.proof("PUT", &target)
        )
        .into_bytes();
        request.extend_from_slice(body);
        assert_eq!(status(&raw(at, &request).await), expected, "{form}");
        let failed = ana.failed().await;
        assert!(failed.retry, "{form}: {failed:?}");
    }
    // A length that is a lie: the body ends before it.
    ana.request(&entry, 2, 0, 1).await;
    let upload = owner.asked().await;
    let target = format!("/chunks/{}", upload.ticket.to_hex());
    let head = format!(
        "PUT {target} HTTP/1.1\r\nHost: {at}\r\n{}\r\nContent-Length: 1000\r\n\r\n",
        owner.proof("PUT", &target)
    );
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'A'; 500]).await.unwrap();
    let ready = ana.ready().await;
    drop(stream);
    let cut = ana.get(&ready.ticket).send().await.unwrap();
    assert!(
        !cut.status().is_success() || cut.bytes().await.is_err(),
        "half a body is never a whole one"
    );
    ana.request(&entry, 3, 0, 1).await;
    let upload = owner.asked().await;
    assert_eq!(
        owner.put(&upload.ticket, owner.body_of(&upload)).send().await.unwrap().status(),
        204
    );
    let ready = ana.ready().await;
    assert_eq!(ana.get(&ready.ticket).send().await.unwrap().bytes().await.unwrap(), content(1_000));
    let metrics = hub.metrics().await;
    assert!(metrics.contains("received_bytes_total"), "{metrics}");
}

/// A55. A file is taken back between a request and its upload: the upload is refused, the asker
/// hears that the file is gone, and so does everybody with a link, who does not even hear its name
/// and size any more.
#[tokio::test]
async fn a55_a_file_that_was_taken_back_is_not_sent_any_more() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("a.bin", 300_000).await;
    let made = ana.link(&[&entry]).await;
    ana.request(&entry, 1, 0, 2).await;
    let upload = owner.asked().await;
    let remove = RemoveFile { file_ids: vec![entry.file_id], keep: false };
    owner.say(DeviceToRelay::RemoveFile(remove)).await;
    assert_eq!(ana.failed().await.code, FailureCode::FileGone);
    let put = owner.put(&upload.ticket, owner.body_of(&upload)).send().await;
    assert!(put.map_or(true, |answer| answer.status() == 403), "its ticket is none any more");
    ana.request(&entry, 2, 0, 1).await;
    assert_eq!(ana.failed().await.code, FailureCode::FileGone);
    let link = hub.http(&made.url);
    for request in [ana.http.get(&link), ana.http.head(&link)] {
        let status = request.send().await.unwrap().status().as_u16();
        assert!(matches!(status, 404 | 410), "{status}");
    }
}

/// A55. The file behind an id is replaced by another of the same name and size: its bytes are never
/// sent under the old id.
#[tokio::test]
async fn a55_another_file_under_the_same_name_is_not_sent_for_the_old_one() {
    let hub = TestHub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("a");
    std::fs::write(&path, content(300_000)).unwrap();
    ana.shares(&path).await;
    let old = bo.sees(1).await;
    std::fs::write(from.path().join("b"), vec![7; 300_000]).unwrap();
    // Same size, another time: a change that keeps both is the limit that the wire names.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    std::fs::File::options()
        .write(true)
        .open(from.path().join("b"))
        .unwrap()
        .set_modified(later)
        .unwrap();
    std::fs::rename(from.path().join("b"), &path).unwrap();
    let (saved, failed) = bo.fetches(old, to.path()).await;
    assert_eq!(saved, []);
    assert!(matches!(failed[..], [FailureCode::FileChanged | FailureCode::FileGone]), "{failed:?}");
    assert_eq!(
        std::fs::read_dir(to.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name() == "a")
            .count(),
        0
    );
}

/// Somebody between device and relay who answers every GET of a body by sending it elsewhere. Each
/// time is told.
async fn redirecting(hub: &TestHub, elsewhere: String) -> (HubUrl, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (told, redirected) = mpsc::channel(64);
    let address = hub.address;
    tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            let (told, elsewhere) = (told.clone(), elsewhere.clone());
            tokio::spawn(async move {
                let mut first = [0; 12];
                here.peek(&mut first).await?;
                if first.starts_with(b"GET /chunks/") {
                    let mut request = [0; 4096];
                    let _ = here.read(&mut request).await?;
                    let answer = format!(
                        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    );
                    here.write_all(answer.as_bytes()).await?;
                    here.shutdown().await?;
                    let _ = told.send(()).await;
                    return Ok(());
                }
                let mut there = TcpStream::connect(address).await?;
                copy_bidirectional(&mut here, &mut there).await.map(drop)
            });
        }
    });
    (url, redirected)
}

/// A52. A hub, or who poses as one, sends a device's request for bytes to another host: the device
/// follows nowhere, so that no token of it leaves for there.
#[tokio::test]
async fn a52_our_device_follows_no_redirect() {
    let hub = TestHub::start().await;
    let canary = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = format!("http://{}/steal", canary.local_addr().unwrap());
    let (url, mut redirected) = redirecting(&hub, elsewhere).await;
    let mut ana = Native::inside(&hub, 1).await;
    let mut bo =
        Native::inside_as(&hub, lanyard_device::DeviceConfig { hub: url, ..config(&hub, 2) }).await;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(from.path().join("a"), content(300_000)).unwrap();
    ana.shares(&from.path().join("a")).await;
    let wanted = bo.sees(1).await;
    let started = bo.handle.start_transfer(wanted, to.path().into()).await.unwrap();
    // When it asks again, the redirect before is behind it.
    for _ in 0..3 {
        within(redirected.recv()).await.unwrap();
    }
    bo.handle.cancel(started.transfers[0]).await.unwrap();
    bo.until(|event| matches!(event, DeviceEvent::TransferEnded { .. }).then_some(())).await;
    let come = std::future::poll_fn(|context| {
        std::task::Poll::Ready(canary.poll_accept(context).is_ready())
    });
    assert!(!come.await, "somebody came to where the redirect led");
}
