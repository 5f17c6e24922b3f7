//! The data plane: bytes arrive whole and right, once from their owner; wrong ones never; tickets
//! serve once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use lanyard_protocol::message::*;
use lanyard_protocol::*;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use lanyard_tests::harness::*;

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_run_travels_from_its_owner_to_two_askers_with_one_upload() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana, mut ben) =
        (hub.approved(1).await, hub.approved(2).await, hub.approved(3).await);
    let entry = owner.offers("film.mkv", 3 * MIB + 5).await;
    ana.request(&entry, 1, 0, 13).await;
    let upload = owner.asked().await;
    assert_eq!(upload.length, 3 * MIB + 5);
    ben.request(&entry, 2, 12, 1).await;
    let put = tokio::spawn(owner.put(&upload.ticket, owner.body_of(&upload)).send());
    let (whole, tail) = (ana.ready().await, ben.ready().await);
    let (a, b) = tokio::join!(ana.get(&whole.ticket).send(), ben.get(&tail.ticket).send());
    assert_eq!(a.unwrap().bytes().await.unwrap(), content(3 * MIB + 5));
    assert_eq!(b.unwrap().bytes().await.unwrap(), content(3 * MIB + 5)[3 * MIB as usize..]);
    assert_eq!(put.await.unwrap().unwrap().status(), 204);
    let told = ana.until(|m| matches!(m, RelayToDevice::FilesUpdated(_))).await;
    let RelayToDevice::FilesUpdated(updated) = told else { unreachable!() };
    assert_eq!(
        updated.files[0].root.0,
        *blake3::hash(&content(3 * MIB + 5)).as_bytes(),
        "the root is what b3sum prints"
    );
}

#[tokio::test]
async fn a_device_reads_as_bytes_arrive_but_a_groups_last_byte_only_once_it_passed() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("film.mkv", 2 * 262_144).await;
    ana.request(&entry, 1, 0, 2).await;
    let upload = owner.asked().await;
    let body = owner.body_of(&upload);
    let (feed, source) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let source = futures_util::stream::unfold(source, |mut s| async move {
        s.recv().await.map(|item| (item, s))
    });
    let request = owner
        .put(&upload.ticket, reqwest::Body::wrap_stream(source))
        .header("content-length", upload.length);
    let put = tokio::spawn(request.send());
    feed.send(Ok(Bytes::copy_from_slice(&body[..262_143]))).await.unwrap();
    let ready = ana.ready().await;
    let answer = ana.get(&ready.ticket).send().await.unwrap();
    assert_eq!(answer.content_length(), Some(2 * 262_144));
    let mut stream = answer.bytes_stream();
    let mut got = Vec::new();
    while got.len() < 262_143 {
        got.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    assert_eq!(got.len(), 262_143, "all but the last byte of the group, before the group is whole");
    feed.send(Ok(Bytes::copy_from_slice(&body[262_143..]))).await.unwrap();
    while let Some(part) = stream.next().await {
        got.extend_from_slice(&part.unwrap());
    }
    assert_eq!(got, body);
    assert_eq!(put.await.unwrap().unwrap().status(), 204);
}

#[tokio::test]
async fn wrong_bytes_are_refused_by_name_and_never_complete_a_group() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("film.mkv", 262_144 + 10).await;
    // The first pass pins what is right.
    ana.request(&entry, 1, 0, 2).await;
    let upload = owner.asked().await;
    let put = tokio::spawn(owner.put(&upload.ticket, owner.body_of(&upload)).send());
    let ready = ana.ready().await;
    ana.get(&ready.ticket).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(put.await.unwrap().unwrap().status(), 204);
    // 60 s of cache are too long for a test: another asker of a file too large for what is cached
    // would push it out, but a removed and re-added file is a new one; so the second upload is of a
    // second file with a root that is known.
    let root = Root(*blake3::hash(&content(300_000)).as_bytes());
    let file_id: FileId = "00000000-0000-4000-8000-0000000000aa".parse().unwrap();
    let file = NewFile {
        file_id,
        path: "b.bin".into(),
        size: 300_000,
        modified_ms: 1,
        media_type: String::new(),
        kind: EntryKind::File,
        root: Some(root),
    };
    let mut wrong = content(300_000);
    wrong[299_999] ^= 1;
    owner.files.insert(file_id, Arc::new(wrong));
    let reference = owner.say(DeviceToRelay::AddFiles(AddFiles { files: vec![file] })).await;
    let RelayToDevice::FilesAdded(added) = owner.answer(&reference).await else {
        panic!("not added")
    };
    ana.request(&added.files[0], 2, 0, 2).await;
    let upload = owner.asked().await;
    let put = tokio::spawn(owner.put(&upload.ticket, owner.body_of(&upload)).send());
    let ready = ana.ready().await;
    let answer = ana.get(&ready.ticket).send().await.unwrap();
    let is_refused = answer.status() == 412;
    assert!(
        is_refused || answer.bytes().await.is_err(),
        "a body that does not verify is refused or cut, never complete"
    );
    assert_eq!(
        put.await.unwrap().unwrap().status(),
        412,
        "all groups are there and are not the file"
    );
    let told = owner.until(|m| matches!(m, RelayToDevice::FileChanged(_))).await;
    assert!(matches!(told, RelayToDevice::FileChanged(changed) if changed.file_id == file_id));
}

#[tokio::test]
async fn tickets_serve_their_own_session_once_and_all_other_tries_look_alike() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana, ben) =
        (hub.approved(1).await, hub.approved(2).await, hub.approved(3).await);
    let entry = owner.offers("a.bin", 1_000).await;
    ana.request(&entry, 1, 0, 1).await;
    let upload = owner.asked().await;
    let status =
        async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    assert_eq!(status(ben.put(&upload.ticket, vec![0; 1_000])).await, 403, "another session's");
    assert_eq!(status(owner.get(&upload.ticket)).await, 403, "the wrong verb");
    assert_eq!(
        status(owner.put(&Ticket([7; 16]), vec![0; 1_000])).await,
        403,
        "one that never was"
    );
    let nobody = owner.http.put(owner.chunk_url(&upload.ticket)).body(vec![0; 1_000]);
    assert_eq!(status(nobody).await, 401, "no proof");
    let put = owner.put(&upload.ticket, owner.body_of(&upload)).send().await.unwrap();
    assert_eq!(put.status(), 204, "none of that used it up");
    assert_eq!(status(owner.put(&upload.ticket, vec![0; 1_000])).await, 409);
    let ready = ana.ready().await;
    assert_eq!(status(ben.get(&ready.ticket)).await, 403);
    assert_eq!(ana.get(&ready.ticket).send().await.unwrap().bytes().await.unwrap(), content(1_000));
    assert_eq!(status(ana.get(&ready.ticket)).await, 409);
}

#[tokio::test]
async fn an_upload_of_the_wrong_form_is_refused_and_its_askers_may_ask_again() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("a.bin", 1_000).await;
    let chunked = || {
        reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(content(
            1_000,
        ))]))
    };
    for (expected, form) in [(400, 0), (415, 1), (411, 2)] {
        ana.request(&entry, 1, 0, 1).await;
        let upload = owner.asked().await;
        let request = match form {
            0 => owner.put(&upload.ticket, vec![0; 999]),
            1 => owner.put(&upload.ticket, content(1_000)).header("content-encoding", "gzip"),
            _ => owner.put(&upload.ticket, chunked()),
        };
        assert_eq!(request.send().await.unwrap().status(), expected);
        let failed = ana.failed().await;
        assert_eq!((failed.code, failed.retry), (FailureCode::Busy, true));
    }
}

type Feed = mpsc::Sender<Result<Bytes, std::io::Error>>;
type Put = JoinHandle<reqwest::Result<reqwest::Response>>;

/// A PUT whose body comes as it is fed.
fn fed(owner: &TestDevice, upload: &UploadChunkRequest) -> (Feed, Put) {
    let (feed, source) = mpsc::channel(1);
    let source = futures_util::stream::unfold(source, |mut s| async move {
        s.recv().await.map(|item| (item, s))
    });
    let request = owner
        .put(&upload.ticket, reqwest::Body::wrap_stream(source))
        .header("content-length", upload.length);
    (feed, tokio::spawn(request.send()))
}

/// A relay that is told to stop: nobody comes in, nothing new is asked for, what is on its way
/// ends, then everybody hears why.
#[tokio::test]
async fn a_relay_that_stops_lets_bodies_end_and_says_goodbye() {
    // The test decides when it is over.
    let hub = TestHub::with(|config| config.drain_timeout = NEVER).await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("film.mkv", 4 * 262_144).await;
    ana.request(&entry, 1, 0, 2).await;
    let upload = owner.asked().await;
    let body = owner.body_of(&upload);
    let (feed, put) = fed(&owner, &upload);
    feed.send(Ok(Bytes::copy_from_slice(&body[..300_000]))).await.unwrap();
    let ready = ana.ready().await;
    let get = ana.get(&ready.ticket).send().await.unwrap();

    let address = hub.address;
    hub.stop();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ana.request(&entry, 2, 2, 2).await;
    // Sessions stay as long: a body ends with words about it.
    let ping = ana.say(DeviceToRelay::Ping(Empty {})).await;
    assert!(matches!(ana.answer(&ping).await, RelayToDevice::Pong(_)));
    feed.send(Ok(Bytes::copy_from_slice(&body[300_000..]))).await.unwrap();
    drop(feed);
    assert_eq!(put.await.unwrap().unwrap().status(), 204);
    assert!(get.bytes().await.unwrap() == body, "what was on its way is whole");
    for device in [&mut ana, &mut owner] {
        let (code, asked) = device.goodbye().await;
        assert_eq!((code, asked), (Some(4503), 0), "nothing more is asked of anybody");
    }
}

/// What does not end is cut off, and nobody hears of it later than of the rest.
#[tokio::test]
async fn a_relay_that_stops_does_not_wait_for_ever() {
    let hub = TestHub::with(|config| config.drain_timeout = Duration::ZERO).await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("film.mkv", 2 * 262_144).await;
    ana.request(&entry, 1, 0, 2).await;
    let upload = owner.asked().await;
    let (_feed, _put) = fed(&owner, &upload);
    hub.stop();
    for device in [&mut ana, &mut owner] {
        assert_eq!(device.goodbye().await.0, Some(4503));
    }
}

#[tokio::test]
async fn an_owner_that_leaves_in_mid_body_cuts_the_reader_and_keeps_whole_groups_good() {
    let hub = TestHub::start().await;
    let (mut owner, mut ana) = (hub.approved(1).await, hub.approved(2).await);
    let entry = owner.offers("film.mkv", 2 * 262_144).await;
    ana.request(&entry, 1, 0, 2).await;
    let upload = owner.asked().await;
    let body = owner.body_of(&upload);
    let (feed, _put) = fed(&owner, &upload);
    feed.send(Ok(Bytes::copy_from_slice(&body[..300_000]))).await.unwrap();
    let ready = ana.ready().await;
    let mut stream = ana.get(&ready.ticket).send().await.unwrap().bytes_stream();
    let mut got = Vec::new();
    while got.len() < 300_000 {
        got.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    drop(owner);
    let rest = stream.next().await;
    assert!(matches!(rest, Some(Err(_))), "cut, not complete: {rest:?}");
    ana.request(&entry, 1, 1, 1).await;
    assert_eq!(ana.failed().await.code, FailureCode::OwnerAway);
}
