//! A68, A69: links tell no key to who listens, open what their maker named or nothing, and cost
//! little however they are asked for.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use lanyard_protocol::limits::{MAX_ARCHIVE_WINDOW_BYTES, MAX_FILES_A_MESSAGE};
use lanyard_protocol::link_key::DrawnLink;
use lanyard_protocol::message::*;
use lanyard_protocol::*;

use lanyard_tests::harness::*;

async fn status_of(device: &TestDevice, hub: &TestHub, url: &str, range: Option<&str>) -> u16 {
    let request = device.http.get(hub.http(url));
    let request = match range {
        Some(range) => request.header("range", range),
        None => request,
    };
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let _ = answer.bytes().await;
    status
}

/// A68. No frame of the maker, its other tab or the owner holds the key of a link, from its making
/// to its end; its other tab hears of it, and ends it.
#[tokio::test]
async fn a68_a_key_is_on_no_socket_and_another_tab_of_the_maker_ends_the_link() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let mut ana = hub.approved(2).await;
    let mut tab = TestDevice::connect(&hub, 2, 22).await;
    let entry = owner.offers("a.bin", 300_000).await;
    let made = ana.link(&[&entry]).await;
    let key = made.link.to_hex();
    let link_hash = LinkHash::of(&made.link);
    let heard = tab.until(|m| matches!(m, RelayToDevice::LinkMade(_))).await;
    assert!(
        matches!(&heard, RelayToDevice::LinkMade(m) if m.link.link_hash == link_hash && m.link.name == "a.bin")
    );
    let reads = ana.http.get(hub.http(&made.url)).send();
    let (body, _) =
        while_serving(&mut owner, async { reads.await.unwrap().bytes().await.unwrap() }).await;
    assert_eq!(body.len(), 300_000);

    let pull = tab.say(DeviceToRelay::LinksPull(LinksPull { cursor: None })).await;
    let RelayToDevice::LinksPage(page) = tab.answer(&pull).await else { panic!("no list") };
    assert_eq!(page.links.iter().map(|link| link.link_hash).collect::<Vec<_>>(), [link_hash]);
    let drop = tab.say(DeviceToRelay::LinkDrop(LinkDrop { link_hash })).await;
    assert!(matches!(tab.answer(&drop).await, RelayToDevice::LinkDropped(_)));
    // Everything that the maker's first tab heard until it hears of the end.
    loop {
        let frame = ana.next().await;
        let text = codec::encode(&frame.message, None);
        assert!(!text.contains(&key), "{text}");
        if matches!(&frame.message, RelayToDevice::TransferProgress(progress) if progress.link_hash.is_some())
        {
            assert!(text.contains(&link_hash.to_hex()));
        }
        if matches!(frame.message, RelayToDevice::LinkDropped(_)) {
            break;
        }
    }
    assert_eq!(status_of(&ana, &hub, &made.url, None).await, 404);
}

/// What an address answers, whole: status, headers but the date, and body.
async fn answer_of(
    device: &TestDevice,
    hub: &TestHub,
    method: reqwest::Method,
    url: &str,
) -> String {
    let answer = device.http.request(method, hub.http(url)).send().await.unwrap();
    let mut headers: Vec<String> =
        answer.headers().iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    headers.retain(|header| !header.starts_with("date:"));
    let status = answer.status();
    format!("{status} {headers:?} {}", answer.text().await.unwrap())
}

/// The listener registers what it heard of a link that has ended, for its own file or folder.
async fn squats(eve: &mut TestDevice, heard: &DrawnLink, own: &FileEntry, as_folder: bool) {
    let request = LinkRequest { uses: Some(1), ..link_request(heard) };
    let request = if as_folder {
        LinkRequest {
            folder: Some(LinkFolder { public_id: eve.id, path: String::new() }),
            ..request
        }
    } else {
        LinkRequest { files: vec![own.file_ref()], ..request }
    };
    let reference = eve.say(DeviceToRelay::LinkRequest(request)).await;
    let answer = eve.answer(&reference).await;
    assert!(matches!(answer, RelayToDevice::LinkMade(_)), "the hash is free: {answer:?}");
}

/// A68. A member hears the hash of a link, waits for its end and registers the hash for what it
/// shares itself: with the binding that it heard too, or with one of its own. The old address
/// answers what an address that never was answers, no use of the squatter's link is counted, and
/// the same holds after the master came back.
#[tokio::test]
async fn a68_the_address_of_an_ended_link_opens_nothing_whoever_registers_its_hash() {
    for (copies_binding, as_folder) in [(true, false), (false, false), (true, true), (false, true)]
    {
        // A hub for each: one counts addresses that open nothing.
        ended_and_squatted(copies_binding, as_folder).await;
    }
}

async fn ended_and_squatted(copies_binding: bool, as_folder: bool) {
    let case = format!("binding copied: {copies_binding}, folder: {as_folder}");
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let mut ana = hub.approved(2).await;
    let mut eve = hub.approved(66).await;
    let entry = owner.offers("a.bin", 0).await;
    let own = eve.offers("a.bin", 0).await;
    let drawn = ana.new_link();
    let made = ana
        .link_drawn(drawn, LinkRequest { files: vec![entry.file_ref()], ..link_request(&drawn) })
        .await;
    assert_eq!(status_of(&owner, &hub, &made.url, None).await, 200, "{case}");
    let drop = ana.say(DeviceToRelay::LinkDrop(LinkDrop { link_hash: drawn.hash })).await;
    assert!(matches!(ana.answer(&drop).await, RelayToDevice::LinkDropped(_)));
    let binding = if copies_binding { drawn.binding } else { eve.new_link().binding };
    squats(&mut eve, &DrawnLink { binding, ..drawn }, &own, as_folder).await;
    for life in ["before", "after"] {
        for method in [reqwest::Method::GET, reqwest::Method::HEAD] {
            let unknown = http::link_path(&owner.new_link().link, "a.bin");
            let unknown = answer_of(&owner, &hub, method.clone(), &unknown).await;
            assert!(unknown.starts_with("404"), "{unknown}");
            let answer = answer_of(&owner, &hub, method, &made.url).await;
            assert_eq!(answer, unknown, "{case}, {life} the master came back");
        }
        hub.restart_master().await;
        for device in [&mut ana, &mut eve] {
            device.until(|m| matches!(m, RelayToDevice::HubReady(_))).await;
        }
    }
    let pull = eve.say(DeviceToRelay::LinksPull(LinksPull { cursor: None })).await;
    let RelayToDevice::LinksPage(page) = eve.answer(&pull).await else { panic!("no list") };
    let squatted = page.links.iter().find(|link| link.link_hash == drawn.hash);
    assert_eq!(squatted.and_then(|link| link.uses_left), Some(1), "{case}: no use was counted");
    // Its maker never needs that hash again.
    assert_eq!(status_of(&owner, &hub, &ana.link(&[&entry]).await.url, None).await, 200);
}

/// A68. Who listens registers a hash while its link lives: nothing changes for the maker, the link
/// or its readers.
#[tokio::test]
async fn a68_a_living_link_cannot_be_registered_by_another() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(2).await;
    let mut eve = hub.approved(66).await;
    let entry = ana.offers("a.bin", 0).await;
    let own = eve.offers("b.bin", 0).await;
    let drawn = ana.new_link();
    let request = LinkRequest { files: vec![entry.file_ref()], ..link_request(&drawn) };
    let made = ana.link_drawn(drawn, request.clone()).await;
    for binding in [drawn.binding, eve.new_link().binding] {
        let theft = LinkRequest { files: vec![own.file_ref()], binding, ..link_request(&drawn) };
        let reference = eve.say(DeviceToRelay::LinkRequest(theft)).await;
        let answer = eve.answer(&reference).await;
        assert!(
            matches!(&answer, RelayToDevice::RequestFailed(no) if no.code == FailureCode::NotFound),
            "{answer:?}"
        );
    }
    assert_eq!(status_of(&eve, &hub, &made.url, None).await, 200);
    let again = ana.link_drawn(drawn, request).await;
    assert_eq!(again.listed, made.listed, "asked for again it is the same");
}

/// A68. A link of one use is read once, and can be gone on with.
#[tokio::test]
async fn a68_uses_are_counted_and_going_on_is_none() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let reader = hub.approved(2).await;
    let entry = owner.offers("a.bin", 300_000).await;
    let files = vec![entry.file_ref()];
    let made =
        owner.link_of(|drawn| LinkRequest { files, uses: Some(1), ..link_request(drawn) }).await;
    assert_eq!(
        reader.http.head(hub.http(&made.url)).send().await.unwrap().status(),
        200,
        "a look is no use"
    );
    let (statuses, _) = while_serving(&mut owner, async {
        let mut statuses = Vec::new();
        for range in
            [None, Some("bytes=200000-"), Some("bytes=100000-299999"), Some("bytes=1-"), None]
        {
            statuses.push(status_of(&reader, &hub, &made.url, range).await);
        }
        statuses
    })
    .await;
    assert_eq!(statuses, [200, 206, 206, 410, 410]);
    assert_eq!(reader.http.head(hub.http(&made.url)).send().await.unwrap().status(), 200);
}

/// A68. A link is over with its maker's membership, and by the host's hand.
#[tokio::test]
async fn a68_the_host_ends_a_link_and_a_refusal_ends_all() {
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let mut ana = hub.approved(2).await;
    let entry = owner.offers("a.bin", 0).await;
    let first = ana.link(&[&entry]).await;
    let second = ana.link(&[&entry]).await;
    hub.operator(lanyard_hub::authority::OperatorCommand::DropLink(LinkHash::of(&first.link)))
        .await;
    ana.until(
        |m| matches!(m, RelayToDevice::LinkDropped(d) if d.link_hash == LinkHash::of(&first.link)),
    )
    .await;
    assert_eq!(status_of(&owner, &hub, &first.url, None).await, 404);
    assert_eq!(status_of(&owner, &hub, &second.url, None).await, 200);
    hub.operator(lanyard_hub::authority::OperatorCommand::Refuse { public_id: ana.id }).await;
    ana.closed().await;
    assert_eq!(status_of(&owner, &hub, &second.url, None).await, 404);
}

/// A69. A folder of 20,000 files is one archive of the promised length and the right bytes, of
/// which a response never holds more than its bound.
#[tokio::test]
async fn a69_a_folder_of_twenty_thousand_files_is_an_archive_that_costs_a_mebibyte() {
    const FILES: usize = 20_000;
    let hub = TestHub::start().await;
    let mut owner = hub.approved(1).await;
    let mut ana = hub.approved(2).await;
    let path = |n: usize| {
        format!(
            "Photos/{:03}/{}",
            n % 200,
            if n % 10 == 1 { "TWIN".into() } else { format!("{n}.txt") }
        )
    };
    let new = |n: usize| NewFile {
        file_id: format!("00000000-0000-4000-8000-{n:012x}").parse().unwrap(),
        path: path(n),
        size: (n % 50) as u64,
        modified_ms: 1_700_000_000_000,
        media_type: "text/plain".into(),
        kind: EntryKind::File,
        root: None,
    };
    let bytes = |n: usize| -> Vec<u8> { n.to_string().bytes().cycle().take(n % 50).collect() };
    for start in (0..FILES).step_by(MAX_FILES_A_MESSAGE) {
        let numbers = start..(start + MAX_FILES_A_MESSAGE).min(FILES);
        let files: Vec<NewFile> = numbers.clone().map(new).collect();
        numbers
            .for_each(|n| drop(owner.files.insert(files[n - start].file_id, Arc::new(bytes(n)))));
        let reference = owner.say(DeviceToRelay::AddFiles(AddFiles { files })).await;
        assert!(matches!(owner.answer(&reference).await, RelayToDevice::FilesAdded(_)));
    }
    let folder = Some(LinkFolder { public_id: owner.id, path: "Photos".into() });
    let made = ana.link_of(|drawn| LinkRequest { folder, ..link_request(drawn) }).await;
    assert!(made.url.ends_with("/Photos.zip"), "{}", made.url);
    let request = ana.http.get(hub.http(&made.url));
    let ((promised, body), _) = while_serving(&mut owner, async {
        let answer = request.send().await.unwrap();
        (answer.content_length().unwrap(), answer.bytes().await.unwrap())
    })
    .await;
    assert_eq!(body.len() as u64, promised);
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(body)).unwrap();
    assert_eq!(archive.len(), FILES);
    let mut right: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    (0..FILES).for_each(|n| *right.entry(bytes(n)).or_default() += 1);
    for index in 0..FILES {
        let mut member = archive.by_index(index).unwrap();
        let mut content = Vec::new();
        member.read_to_end(&mut content).unwrap();
        let name = member.name().to_owned();
        if let Some(number) =
            name.strip_suffix(".txt").and_then(|name| name.rsplit('/').next()?.parse().ok())
        {
            assert_eq!((path(number), bytes(number)), (name, content.clone()));
        } else {
            assert!(name.contains("/TWIN"), "{name}");
        }
        let left = right.get_mut(&content).unwrap();
        *left = left.checked_sub(1).expect("no content stands in it more often than it is shared");
    }
    let metrics = hub.metrics().await;
    let held = metrics
        .lines()
        .find_map(|line| line.strip_prefix("lanyard_archive_window_bytes "))
        .unwrap();
    let held: usize = held.parse().unwrap();
    assert!((80_000..=MAX_ARCHIVE_WINDOW_BYTES).contains(&held), "{held} bytes");
}
