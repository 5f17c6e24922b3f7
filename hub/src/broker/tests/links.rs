//! Promises of links in the relay: what it knows, asks and holds is bounded; guesses are not asked twice; going on with a
//! download is no new use.

use lanyard_protocol::limits::{
    LINK_UNUSED_MS, MAX_KNOWN_LINK_BYTES, MAX_LINK_LOOKUPS, MAX_MISSING_LINKS, MISSING_LINK_MS,
};

use super::*;

fn hash(n: u32) -> LinkHash {
    let mut hash = [7; 32];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    LinkHash(hash)
}

/// Takes what the master was asked about links since the last look, with its reference.
fn asked(hub: &mut Hub) -> Vec<(RelayToMaster, Ref)> {
    let of_links =
        |message: &RelayToMaster| matches!(message, RelayToMaster::LinkLookup(_) | RelayToMaster::LinkPage(_));
    let frames = hub.take().into_iter().filter_map(|effect| match effect {
        Effect::SendMaster { frame, .. } if of_links(&frame.message) => Some((frame.message, frame.reference?)),
        _ => None,
    });
    frames.collect()
}

fn answers(hub: &mut Hub, message: MasterToRelay, reference: Ref) {
    let frame = MasterFrame { reference: Some(reference), ..MasterFrame::plain(message) };
    hub.give(Input::MasterMessage { session: MASTER, frame: Box::new(frame) });
}

fn grant(n: u32, limited: bool, file: Option<FileEntry>, archive: Option<LinkArchive>) -> MasterToRelay {
    MasterToRelay::LinkGrant(LinkGrant {
        link_hash: hash(n),
        public_id: device(2),
        lives_ms: LINK_UNUSED_MS,
        limited,
        file,
        archive,
    })
}

fn failed(code: FailureCode) -> MasterToRelay {
    MasterToRelay::RequestFailed(RequestFailed { code, message: String::new(), retry_after_ms: None, file_id: None })
}

/// Somebody opens a link that the master knows.
fn opens_link(hub: &mut Hub, n: u32, limited: bool, file: &FileEntry) {
    hub.take();
    hub.give(Input::LinkOpened { call: CallId(n.into()), hash: hash(n) });
    for (_, reference) in asked(hub) {
        answers(hub, grant(n, limited, Some(file.clone()), None), reference);
    }
}

#[test]
fn guesses_are_bounded_in_flight_and_asked_once() {
    let mut hub = Hub::ready(MIB);
    for n in 0..1_000 {
        hub.give(Input::LinkOpened { call: CallId(n), hash: hash(n as u32) });
    }
    // Ten more who want the same as the first: they share its look-up.
    for n in 1_000..1_010 {
        hub.give(Input::LinkOpened { call: CallId(n), hash: hash(0) });
    }
    let effects = hub.take();
    let busy = |e: &&Effect| matches!(e, Effect::LinkFound { result: Err(FailureCode::Busy), .. });
    assert_eq!(effects.iter().filter(busy).count(), 1_000 - MAX_LINK_LOOKUPS);
    let references: Vec<Ref> = effects
        .into_iter()
        .filter_map(|e| match e {
            Effect::SendMaster { frame, .. } => frame.reference,
            _ => None,
        })
        .collect();
    assert_eq!(references.len(), MAX_LINK_LOOKUPS);
    for reference in references {
        answers(&mut hub, failed(FailureCode::NotFound), reference);
    }
    assert_eq!(hub.broker.counts().calls, 0);
    hub.take();
    hub.give(Input::LinkOpened { call: CallId(5_000), hash: hash(0) });
    assert!(asked(&mut hub).is_empty(), "what is not there is not asked again");
    hub.master(MasterToRelay::LinkMade(LinkMade { link: listed(0) }));
    hub.give(Input::LinkOpened { call: CallId(5_001), hash: hash(0) });
    assert_eq!(asked(&mut hub).len(), 1, "until it is made");
    hub.passes(MISSING_LINK_MS);
    hub.give(Input::LinkOpened { call: CallId(5_002), hash: hash(1) });
    assert_eq!(asked(&mut hub).len(), 1, "or ten seconds passed");
}

fn listed(n: u32) -> LinkListed {
    LinkListed {
        link_hash: hash(n),
        public_id: device(2),
        name: "a".into(),
        files: 1,
        folder: None,
        made_ms: 0,
        expires_ms: 0,
        ends: false,
        uses_left: None,
    }
}

#[test]
fn links_that_are_known_or_missing_are_bounded_and_one_that_is_read_stays() {
    let mut hub = Hub::ready(MIB);
    hub.opens(1);
    let file = hub.lists(1, MIB);
    let mut entry = hub.files[&file].clone();
    entry.path = "p".repeat(3_000);
    opens_link(&mut hub, 0, false, &entry);
    let reader = LinkReader(1);
    hub.give(Input::LinkWanted { reader, hash: hash(0), want: 1, pieces: vec![(file, GroupRange::new(0, 1))] });
    for n in 1..6_000 {
        opens_link(&mut hub, n, false, &entry);
        let held = hub.broker.links.known.bytes();
        assert!(held <= MAX_KNOWN_LINK_BYTES, "{held} bytes after {n}");
    }
    for n in 10_000..30_000 {
        hub.take();
        hub.give(Input::LinkOpened { call: CallId(n.into()), hash: hash(n) });
        for (_, reference) in asked(&mut hub) {
            answers(&mut hub, failed(FailureCode::NotFound), reference);
        }
    }
    assert!(hub.broker.links.calls.missing_count() <= MAX_MISSING_LINKS);
    // Its reader stands still overnight.
    hub.passes(LINK_UNUSED_MS);
    hub.take();
    hub.give(Input::LinkWanted { reader, hash: hash(0), want: 2, pieces: vec![(file, GroupRange::new(1, 1))] });
    let cut = |e: &Effect| matches!(e, Effect::LinkFailed { .. });
    assert!(!hub.take().iter().any(cut), "a paused download goes on");
    hub.give(Input::LinkLeft { reader, up_to: u64::MAX });
    hub.passes(2 * LINK_UNUSED_MS);
    assert!(hub.broker.links.is_empty(), "nothing is left of links that nobody uses");
}

#[test]
fn a_file_that_is_gone_takes_its_links_along_and_touches_no_other() {
    let mut hub = Hub::ready(MIB);
    hub.opens(1);
    let gone = hub.lists(1, MIB);
    let stays = hub.lists(2, MIB);
    for n in 0..1_000 {
        let entry = hub.files[&stays].clone();
        opens_link(&mut hub, n, false, &entry);
    }
    let entry = hub.files[&gone].clone();
    opens_link(&mut hub, 5_000, false, &entry);
    let file_ids = vec![gone.file_id];
    let removed = FileRemoved { public_id: gone.public_id, file_ids, epoch: 5, revision: 8, audience: Audience::All };
    hub.master(MasterToRelay::FileRemoved(removed));
    hub.take();
    for n in [0, 5_000] {
        hub.give(Input::LinkOpened { call: CallId(1), hash: hash(n) });
        assert_eq!(asked(&mut hub).len(), usize::from(n == 5_000), "{n}");
    }
}

#[test]
fn a_use_pays_for_one_download_and_for_going_on_with_it() {
    const SIZE: u64 = 1_000;
    let mut hub = Hub::ready(MIB);
    hub.opens(1);
    let file = hub.lists(1, SIZE);
    let entry = hub.files[&file].clone();
    opens_link(&mut hub, 1, true, &entry);
    let mut uses = 0;
    let mut begins = |hub: &mut Hub, whole: bool, bytes: u64| {
        hub.take();
        hub.give(Input::LinkBegun { call: CallId(9), hash: hash(1), whole, bytes });
        for (message, reference) in asked(hub) {
            assert!(matches!(message, RelayToMaster::LinkLookup(lookup) if lookup.begins));
            uses += 1;
            let answer =
                if uses > 2 { failed(FailureCode::LinkUsedUp) } else { grant(1, true, Some(entry.clone()), None) };
            answers(hub, answer, reference);
        }
        let begun = hub.take().into_iter().find_map(|e| match e {
            Effect::LinkBegun { result, .. } => Some(result),
            _ => None,
        });
        (begun.unwrap_or(Ok(())), uses)
    };
    assert_eq!(begins(&mut hub, true, SIZE), (Ok(()), 1));
    assert_eq!(begins(&mut hub, false, 600), (Ok(()), 1), "it goes on after a cut");
    hub.give(Input::LinkUnread { hash: hash(1), bytes: 300 });
    assert_eq!(begins(&mut hub, false, 700), (Ok(()), 1), "and again: 300 of these were not sent");
    assert_eq!(begins(&mut hub, false, 1), (Ok(()), 2), "beyond the file's length it is another download");
    assert_eq!(begins(&mut hub, true, SIZE), (Ok(()), 2), "whose first byte may come later");
    assert_eq!(begins(&mut hub, true, SIZE), (Err(FailureCode::LinkUsedUp), 3));
}

#[test]
fn a_response_holds_two_pages_of_an_archive_whatever_its_length() {
    let mut hub = Hub::ready(MIB);
    hub.opens(1);
    let file = hub.lists(1, MIB);
    let entry = |n: u32| FileEntry {
        file_id: format!("00000000-0000-4000-8000-{n:012x}").parse().unwrap(),
        ..hub_entry(&hub, &file)
    };
    let entries: Vec<FileEntry> = (0..10_000).map(entry).collect();
    let layout = LayoutId([1; 16]);
    let archive = LinkArchive { layout, name: "a.zip".into(), members: 10_000, length: 1 };
    hub.give(Input::LinkOpened { call: CallId(1), hash: hash(1) });
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(1, false, None, Some(archive.clone())), reference);
    }
    let reader = LinkReader(1);
    for (n, page) in entries.chunks(250).enumerate() {
        let ask = LinkPage { link_hash: hash(1), layout, first: n as u32 * 250, bare: false };
        hub.take();
        hub.give(Input::LinkPageWanted { call: CallId(100 + n as u64), reader, page: ask });
        let [(_, reference)] = &asked(&mut hub)[..] else { panic!("page {n} was not asked for") };
        let member = |entry: &FileEntry| LinkMember {
            name: "x".into(),
            size: entry.size,
            modified_ms: 0,
            kind: Default::default(),
            file: Some(entry.clone()),
        };
        let members = LinkMembers { members: page.iter().map(member).collect() };
        answers(&mut hub, MasterToRelay::LinkMembers(members), reference.clone());
        let held = hub.broker.counts().grants;
        assert!(held <= 2 * 250, "{held} entries are held at page {n}");
    }
    hub.give(Input::LinkLeft { reader, up_to: u64::MAX });
    assert_eq!(hub.broker.counts().grants, 0, "and none when it is over");
}

fn hub_entry(hub: &Hub, file: &FileRef) -> FileEntry {
    hub.files[file].clone()
}

#[test]
fn while_the_master_is_away_pages_wait_and_are_asked_again() {
    let mut hub = Hub::ready(MIB);
    let layout = LayoutId([1; 16]);
    let archive = LinkArchive { layout, name: "a.zip".into(), members: 10, length: 1 };
    hub.give(Input::LinkOpened { call: CallId(1), hash: hash(1) });
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(1, false, None, Some(archive.clone())), reference);
    }
    hub.give(Input::MasterClosed { session: MASTER });
    let page = LinkPage { link_hash: hash(1), layout, first: 0, bare: false };
    hub.give(Input::LinkPageWanted { call: CallId(2), reader: LinkReader(1), page });
    assert!(asked(&mut hub).is_empty());
    hub.passes(3_600_000);
    hub.master_comes();
    let again = asked(&mut hub);
    assert!(matches!(&again[..], [(RelayToMaster::LinkPage(page), _)] if page.layout == layout), "{again:?}");
    hub.give(Input::CallLeft { call: CallId(2) });
    assert_eq!(hub.broker.counts().calls, 0);
}

#[test]
fn a_page_that_is_asked_for_after_its_reader_left_keeps_no_link() {
    let mut hub = Hub::ready(MIB);
    let layout = LayoutId([1; 16]);
    let archive = LinkArchive { layout, name: "a.zip".into(), members: 10, length: 1 };
    hub.give(Input::LinkOpened { call: CallId(1), hash: hash(1) });
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(1, false, None, Some(archive.clone())), reference);
    }
    let reader = LinkReader(1);
    hub.give(Input::LinkLeft { reader, up_to: u64::MAX });
    let page = LinkPage { link_hash: hash(1), layout, first: 0, bare: false };
    hub.give(Input::LinkPageWanted { call: CallId(2), reader, page });
    hub.give(Input::CallLeft { call: CallId(2) });
    assert_eq!(hub.broker.links.known.reader_count(), 0);
}

#[test]
fn a_list_that_the_relay_had_to_drop_is_asked_for_again_although_it_lies_full_in_a_slot() {
    let mut hub = Hub::ready(32 * MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    let file = hub.lists(1, MIB);
    hub.files.get_mut(&file).unwrap().root = Some(Root([7; 32]));
    hub.asks(asker, 1, 0, 1);
    hub.give(Input::ValuesKnown { file });
    hub.take();
    let (transfer_id, public_id) = (transfer(2), device(1));
    let pieces = vec![Piece::new(file_id(1), 0, 4)];
    let list = RequestChunk { transfer_id, public_id, pieces, what: What::Values, have: None };
    hub.says(asker, DeviceToRelay::RequestChunk(list));
    assert!(hub.take().iter().any(|effect| matches!(effect, Effect::OpenValues { .. })), "it lies full in a slot");
    hub.give(Input::ValuesLost { file });
    hub.give(Input::LinkOpened { call: CallId(1), hash: hash(1) });
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(1, false, None, None), reference);
    }
    hub.take();
    let pieces = vec![(file, GroupRange::new(1, 1))];
    hub.give(Input::LinkWanted { reader: LinkReader(1), hash: hash(1), want: 1, pieces });
    let opened = hub.opened();
    let [slot] = &opened[..] else { panic!("{opened:?}") };
    assert_eq!((slot.what, slot.holder), (What::Values, SessionId(1)), "its owner is asked for it");
    hub.completes(slot.slot);
    assert_eq!(hub.opened().first().map(|slot| slot.what), Some(What::Bytes), "and the link reads on");
}
