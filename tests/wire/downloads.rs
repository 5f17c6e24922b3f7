//! `/d/`: a file in somebody's tab is an ordinary resource of the web.

use std::time::Duration;

use futures_util::StreamExt;
use lanyard_protocol::*;

use lanyard_tests::harness::*;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 40 * MIB;

#[tokio::test]
async fn ranges_are_answered_as_the_vectors_say() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let text = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../protocol/vectors/vectors.json"
    ))
    .unwrap();
    let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
    for vector in vectors["link_ranges"].as_array().unwrap() {
        let size = vector["size"].as_u64().unwrap();
        let entry = owner.offers(&format!("{}.mp4", owner.files.len()), size).await;
        let link = owner.link(&[&entry]).await;
        let mut request = owner.http.get(hub.http(&link.url));
        if let Some(range) = vector["range"].as_str() {
            request = request.header("range", range);
        }
        let (answer, _) = while_serving(&mut owner, async {
            let answer = request.send().await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            (status, headers, answer.bytes().await.unwrap())
        })
        .await;
        let (status, headers, body) = answer;
        assert_eq!(u64::from(status), vector["status"].as_u64().unwrap(), "{vector}");
        let said = headers.get("content-range").map(|value| value.to_str().unwrap());
        assert_eq!(said, vector["content_range"].as_str(), "{vector}");
        if let Some(length) = vector["length"].as_u64() {
            assert_eq!(headers["content-length"].to_str().unwrap(), length.to_string(), "{vector}");
            let from = said.map_or(0, |s| s[6..].split('-').next().unwrap().parse().unwrap());
            assert_eq!(body, content(size)[from..from + length as usize], "{vector}");
        }
        assert_eq!(headers["accept-ranges"], "bytes");
    }
}

#[tokio::test]
async fn a_resource_can_be_resumed_and_asked_about() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let entry = owner.offers("Küche \"1\".mp4", 1_000).await;
    let link = owner.link(&[&entry]).await;
    let url = hub.http(&link.url);
    let head = owner.http.head(&url).send().await.unwrap();
    assert_eq!(head.status(), 200);
    let headers = head.headers().clone();
    assert_eq!(headers["content-length"], "1000");
    assert_eq!(
        headers["etag"].to_str().unwrap(),
        format!("\"{}.{}\"", entry.public_id, entry.file_id)
    );
    assert_eq!(headers["content-type"], "video/mp4");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert!(headers["content-disposition"].to_str().unwrap().starts_with("attachment;"));
    assert!(headers["content-security-policy"].to_str().unwrap().contains("sandbox"));
    let ask = |pairs: &[(&str, &str)]| {
        let mut request = owner.http.get(&url);
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        request
    };
    let etag = headers["etag"].to_str().unwrap();
    assert_eq!(ask(&[("if-none-match", etag)]).send().await.unwrap().status(), 304);
    let modified = headers["last-modified"].to_str().unwrap();
    let requests = [
        (ask(&[("range", "bytes=10-"), ("if-range", etag)]), 206),
        (ask(&[("range", "bytes=10-"), ("if-range", modified)]), 206),
        (ask(&[("range", "bytes=10-"), ("if-range", "\"another\"")]), 200),
    ];
    for (request, status) in requests {
        let (answer, _) =
            while_serving(&mut owner, async { request.send().await.unwrap().status() }).await;
        assert_eq!(answer, status);
    }
    let unknown =
        owner.http.get(hub.http(&format!("/d/{}/x", "0".repeat(32)))).send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    let told: lanyard_protocol::http::HttpError = unknown.json().await.unwrap();
    assert_eq!(
        told.message, "this link no longer works; ask for a new one",
        "a person reads it in a browser"
    );
}

#[tokio::test]
async fn a_download_waits_for_its_owner_and_goes_on_with_the_bytes_it_lacks() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let mut ana = hub.approved(2).await;
    // More than the sockets between relay and reader hold: the reader sees the owner go.
    let entry = owner.offers("film.mkv", SIZE).await;
    let link = ana.link(&[&entry]).await;
    let answer = ana.http.get(hub.http(&link.url)).send();
    let (answer, _) = while_serving(&mut owner, async { answer.await.unwrap() }).await;
    let mut stream = answer.bytes_stream();
    let mut got = Vec::new();
    let (_, asked) = while_serving(&mut owner, async {
        while got.len() < MIB as usize {
            got.extend_from_slice(&stream.next().await.unwrap().unwrap());
        }
    })
    .await;
    let files = owner.files.clone();
    drop(owner);
    // Whatever was on its way still arrives; then the body is silent, and open.
    while let Ok(part) = tokio::time::timeout(Duration::from_millis(700), stream.next()).await {
        got.extend_from_slice(&part.expect("the body did not end").expect("the body was not cut"));
    }
    assert!(got.len() < SIZE as usize);
    let mut owner = TestDevice::connect(&hub, 1, 1).await;
    owner.files = files;
    let (_, more) = while_serving(&mut owner, async {
        while let Some(part) = stream.next().await {
            got.extend_from_slice(&part.unwrap());
        }
    })
    .await;
    assert!(got == content(SIZE), "the same bytes");
    assert!(
        asked + more <= SIZE + 8 * MIB,
        "what had passed was not asked for again: {asked} + {more}"
    );
}

#[tokio::test]
async fn several_files_are_one_archive_of_the_promised_length() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let mut entries = Vec::new();
    for (path, size) in
        [("t/a.txt", 5), ("t/empty", 0), ("t/b/c.bin", 700_000), ("t/d.bin", 2 * MIB + 1)]
    {
        entries.push(owner.offers(path, size).await);
    }
    let link = owner.link(&entries.iter().collect::<Vec<_>>()).await;
    assert!(link.url.ends_with("/t.zip"), "{}", link.url);
    let request = owner.http.get(hub.http(&link.url));
    let (body, _) = while_serving(&mut owner, async {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/zip");
        let promised = answer.content_length().unwrap();
        let body = answer.bytes().await.unwrap();
        assert_eq!(body.len() as u64, promised);
        body
    })
    .await;
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(body)).unwrap();
    assert_eq!(archive.len(), 4);
    for entry in &entries {
        let mut member = archive.by_name(&entry.path).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut member, &mut bytes).unwrap();
        assert_eq!(bytes, content(entry.size), "{}", entry.path);
    }
}

#[tokio::test]
async fn a_dropped_link_is_gone_and_only_its_maker_can_drop_it() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let mut ana = hub.approved(2).await;
    let entry = owner.offers("a.bin", 10).await;
    let link = owner.link(&[&entry]).await;
    let link_hash = LinkHash::of(&link.link);
    let dropping = || DeviceToRelay::LinkDrop(message::LinkDrop { link_hash });
    let refused = ana.say(dropping()).await;
    let answer = ana.answer(&refused).await;
    let is_unknown =
        matches!(&answer, RelayToDevice::RequestFailed(no) if no.code == FailureCode::NotFound);
    assert!(is_unknown, "unknown and forbidden look alike: {answer:?}");
    assert_eq!(ana.http.head(hub.http(&link.url)).send().await.unwrap().status(), 200);
    let dropped = owner.say(dropping()).await;
    assert!(matches!(owner.answer(&dropped).await, RelayToDevice::LinkDropped(_)));
    assert_eq!(ana.http.head(hub.http(&link.url)).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_removed_file_is_410_behind_its_link() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let entry = owner.offers("a.bin", 10).await;
    let link = owner.link(&[&entry]).await;
    let remove = message::RemoveFile { file_ids: vec![entry.file_id], keep: false };
    let reference = owner.say(DeviceToRelay::RemoveFile(remove)).await;
    assert!(matches!(owner.answer(&reference).await, RelayToDevice::FileRemoved(_)));
    let status = owner.http.get(hub.http(&link.url)).send().await.unwrap().status().as_u16();
    assert!(status == 410 || status == 404, "{status}");
}

/// R05: without the master nobody new is served, and says so at once; who was granted reads on.
#[tokio::test]
async fn while_the_master_is_away_what_was_granted_is_read_and_nothing_else() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let entry = owner.offers("a.bin", MIB).await;
    let link = owner.link(&[&entry]).await;
    // From here on the relay knows it.
    assert_eq!(owner.http.head(hub.http(&link.url)).send().await.unwrap().status(), 200);
    let back = hub.without_master().await;
    owner.until(|m| matches!(m, RelayToDevice::ServerNotReady(_))).await;

    let request =
        message::LinkRequest { files: vec![entry.file_ref()], ..link_request(&owner.new_link()) };
    let asked = owner.say(DeviceToRelay::LinkRequest(request)).await;
    let answer = owner.answer(&asked).await;
    let waits = matches!(&answer, RelayToDevice::RequestFailed(no)
        if no.code == FailureCode::ServerNotReady && no.retry_after_ms.is_some());
    assert!(waits, "{answer:?}");

    let read = owner.http.get(hub.http(&link.url)).send();
    let (body, _) =
        while_serving(&mut owner, async { read.await.unwrap().bytes().await.unwrap() }).await;
    assert_eq!(body, content(MIB));

    drop(back);
    owner.until(|m| matches!(m, RelayToDevice::HubReady(_))).await;
    owner.link(&[&entry]).await;
}
