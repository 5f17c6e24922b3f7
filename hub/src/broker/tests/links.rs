//! Promises of links in the relay: what it knows, asks and holds is bounded; links that do not
//! exist are not asked for twice; going on with a download is no new use.

use std::sync::LazyLock;

use lanyard_protocol::limits::{
    LINK_UNUSED_MS, MAX_KNOWN_LINK_BYTES, MAX_LINK_LOOKUPS, MAX_MISSING_LINKS,
    MAX_UNKNOWN_LINK_CALLS, MISSING_LINK_MS,
};
use lanyard_protocol::link_key::DrawnLink;
use lanyard_protocol::{Link, LinkBinding, LinkSeed};

use super::*;

static MAKER: LazyLock<DeviceId> = LazyLock::new(|| device(2));

/// A link of the second device.
fn drawn(n: u32) -> DrawnLink {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    DrawnLink::new(&LinkSeed(seed), *MAKER)
}

fn hash(n: u32) -> LinkHash {
    drawn(n).hash
}

fn link(n: u32) -> Link {
    drawn(n).link
}

/// Takes what the master was asked about links since the last look, with its reference.
fn asked(hub: &mut BrokerFixture) -> Vec<(RelayToMaster, Ref)> {
    let of_links = |message: &RelayToMaster| {
        matches!(
            message,
            RelayToMaster::Relay(RelayMessage::LinkLookup(_))
                | RelayToMaster::Relay(RelayMessage::LinkPage(_))
        )
    };
    let frames = hub.take().into_iter().filter_map(|effect| {
        let Effect::Master(MasterEffect::Send { frame, .. }) = effect else { return None };
        of_links(&frame.message).then_some(())?;
        Some((frame.message, frame.reference?))
    });
    frames.collect()
}

fn answers(hub: &mut BrokerFixture, message: MasterToRelay, reference: Ref) {
    let frame = MasterFrame { reference: Some(reference), ..MasterFrame::plain(message) };
    hub.give(Input::Master(MasterInput::MessageReceived {
        session: MASTER,
        frame: Box::new(frame),
    }));
}

fn grant(
    n: u32,
    limited: bool,
    file: Option<FileEntry>,
    archive: Option<LinkArchive>,
) -> MasterToRelay {
    let DrawnLink { hash, binding, .. } = drawn(n);
    MasterToRelay::LinkGrant(LinkGrant {
        link_hash: hash,
        public_id: *MAKER,
        binding,
        lives_ms: LINK_UNUSED_MS,
        limited,
        file,
        archive,
    })
}

fn failed(code: FailureCode) -> MasterToRelay {
    MasterToRelay::RequestFailed(RequestFailed {
        code,
        message: String::new(),
        retry_after_ms: None,
        file_id: None,
    })
}

/// Somebody opens a link that the master knows.
fn opens_link(hub: &mut BrokerFixture, n: u32, limited: bool, file: &FileEntry) {
    hub.take();
    hub.give(Input::Call(CallInput::LinkOpened { call: CallId(n.into()), link: link(n) }));
    for (_, reference) in asked(hub) {
        answers(hub, grant(n, limited, Some(file.clone()), None), reference);
    }
}

/// Opens a link; returns the answer, if there is one at once.
fn opens(hub: &mut BrokerFixture, call: u64, n: u32) -> Option<Result<(), FailureCode>> {
    hub.give(Input::Call(CallInput::LinkOpened { call: CallId(call), link: link(n) }));
    hub.effects.iter().rev().find_map(|effect| {
        let Effect::Call(CallEffect::Found { call: answered, result }) = effect else {
            return None;
        };
        (*answered == CallId(call)).then(|| result.as_ref().map(drop).map_err(|code| *code))
    })
}

fn not_found(hub: &mut BrokerFixture, asked: Vec<(RelayToMaster, Ref)>) {
    for (_, reference) in asked {
        answers(hub, failed(FailureCode::NotFound), reference);
    }
}

/// Answers look-ups until there are none; returns how many there were. No more than allowed are on
/// their way at once.
fn answers_all(hub: &mut BrokerFixture) -> usize {
    let mut total = 0;
    loop {
        let round = asked(hub);
        assert!(round.len() <= MAX_LINK_LOOKUPS, "{} at once", round.len());
        total += round.len();
        if round.is_empty() {
            return total;
        }
        not_found(hub, round);
    }
}

#[test]
fn look_ups_of_unknown_links_are_bounded_and_delay_no_link_that_is_known() {
    let mut hub = BrokerFixture::ready(MIB);
    hub.opens(1);
    let file = hub.lists(1, MIB);
    let entry = hub.files[&file].clone();
    let (of_file, of_archive) = (900_000, 900_001);
    opens_link(&mut hub, of_file, false, &entry);
    opens(&mut hub, 900_001, of_archive);
    let archive =
        LinkArchive { layout: LayoutId([1; 16]), name: "a.zip".into(), members: 10, length: 1 };
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(of_archive, false, None, Some(archive.clone())), reference);
    }
    hub.take();
    // Ten of the same link share one look-up.
    let flood = (0..10).map(|call| (call, 0)).chain((10..3_000).map(|call| (call, call as u32)));
    let answers_now: Vec<_> = flood.filter_map(|(call, n)| opens(&mut hub, call, n)).collect();
    assert!(answers_now.iter().all(|answer| *answer == Err(FailureCode::Busy)));
    assert_eq!(answers_now.len(), 3_000 - MAX_UNKNOWN_LINK_CALLS);
    let on_their_way = asked(&mut hub);
    assert_eq!(on_their_way.len(), MAX_LINK_LOOKUPS);
    assert_eq!(
        opens(&mut hub, 1_000_000, of_file),
        Some(Ok(())),
        "a known file is served from memory"
    );
    assert_eq!(opens(&mut hub, 1_000_001, of_archive), None);
    let [(RelayToMaster::Relay(RelayMessage::LinkLookup(lookup)), reference)] =
        &asked(&mut hub)[..]
    else {
        panic!("no look-up at once")
    };
    assert_eq!(
        lookup.link_hash,
        hash(of_archive),
        "a known archive does not wait behind the flood"
    );
    answers(&mut hub, grant(of_archive, false, None, Some(archive)), reference.clone());
    assert!(
        hub.take()
            .iter()
            .any(|e| matches!(e, Effect::Call(CallEffect::Found { call, result: Ok(_) }) if call.0 == 1_000_001))
    );
    not_found(&mut hub, on_their_way);
    let rest = answers_all(&mut hub);
    assert_eq!(
        MAX_LINK_LOOKUPS + rest,
        MAX_UNKNOWN_LINK_CALLS - 9,
        "each that had room had its turn"
    );
    assert_eq!(hub.broker.counts().calls, 0);
    assert_eq!(opens(&mut hub, 1_000_002, of_file), Some(Ok(())), "the flood evicted no link");
}

#[test]
fn requests_that_leave_give_their_turn_away_and_a_new_master_is_asked_no_faster() {
    let mut hub = BrokerFixture::ready(MIB);
    for n in 0..1_000 {
        opens(&mut hub, n, n as u32);
    }
    for n in 0..900 {
        hub.give(Input::Call(CallInput::Left { call: CallId(n) }));
    }
    assert_eq!(hub.broker.links.calls.waiting_count(), 100);
    let old = asked(&mut hub);
    assert_eq!(old.len(), MAX_LINK_LOOKUPS);
    hub.give(Input::Master(MasterInput::Closed { session: MASTER }));
    hub.master_comes();
    assert_eq!(answers_all(&mut hub), 100, "those who still wait");
    assert_eq!(hub.broker.counts().calls, 0);
}

#[test]
fn a_link_that_does_not_exist_is_looked_up_once_until_it_is_made() {
    let mut hub = BrokerFixture::ready(MIB);
    let absent = Some(Err(FailureCode::NotFound));
    let is_looked_up = |hub: &mut BrokerFixture, n: u32| {
        hub.take();
        let answer = opens(hub, 1, n);
        let round = asked(hub);
        let (looked_up, is_one) = (!round.is_empty(), round.len() < 2);
        not_found(hub, round);
        assert!(is_one && looked_up == (answer != absent), "{answer:?}");
        looked_up
    };
    assert!(is_looked_up(&mut hub, 0));
    assert!(!is_looked_up(&mut hub, 0), "its absence is remembered");
    hub.master(MasterToRelay::LinkMade(LinkMade { link: listed(0) }));
    assert!(is_looked_up(&mut hub, 0), "a link that was made is never hidden");
    hub.passes(MISSING_LINK_MS);
    assert!(is_looked_up(&mut hub, 0), "ten seconds passed");

    // The link is made while the "no" to an older question is on its way.
    hub.take();
    opens(&mut hub, 2, 7);
    let round = asked(&mut hub);
    hub.master(MasterToRelay::LinkMade(LinkMade { link: listed(7) }));
    not_found(&mut hub, round);
    assert!(is_looked_up(&mut hub, 7), "a \"no\" from before does not count after");

    // A use of an archive is granted after the link was found missing.
    let archive =
        LinkArchive { layout: LayoutId([1; 16]), name: "a.zip".into(), members: 10, length: 1 };
    opens(&mut hub, 3, 8);
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(8, true, None, Some(archive.clone())), reference);
    }
    hub.take();
    hub.give(Input::Call(CallInput::UseBegun {
        call: CallId(4),
        link: link(8),
        whole: true,
        bytes: 1,
    }));
    let begun = asked(&mut hub);
    hub.master(MasterToRelay::LinkDropped(LinkDropped {
        public_id: device(2),
        link_hash: hash(8),
    }));
    assert!(is_looked_up(&mut hub, 8) && !is_looked_up(&mut hub, 8));
    for (_, reference) in begun {
        answers(&mut hub, grant(8, true, None, Some(archive.clone())), reference);
    }
    assert!(is_looked_up(&mut hub, 8), "what the master grants exists");
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
    let mut hub = BrokerFixture::ready(MIB);
    hub.opens(1);
    let file = hub.lists(1, MIB);
    let mut entry = hub.files[&file].clone();
    entry.path = "p".repeat(3_000);
    opens_link(&mut hub, 0, false, &entry);
    let reader = LinkReader(1);
    hub.give(Input::Link(LinkInput::Wanted {
        reader,
        hash: hash(0),
        want: 1,
        pieces: vec![(file, GroupRange::new(0, 1))],
    }));
    for n in 1..6_000 {
        opens_link(&mut hub, n, false, &entry);
        let held = hub.broker.links.known.bytes();
        assert!(held <= MAX_KNOWN_LINK_BYTES, "{held} bytes after {n}");
    }
    for n in 10_000..30_000 {
        hub.take();
        hub.give(Input::Call(CallInput::LinkOpened { call: CallId(n.into()), link: link(n) }));
        for (_, reference) in asked(&mut hub) {
            answers(&mut hub, failed(FailureCode::NotFound), reference);
        }
    }
    assert!(hub.broker.links.calls.missing_count() <= MAX_MISSING_LINKS);
    // Its reader stands still overnight.
    hub.passes(LINK_UNUSED_MS);
    hub.take();
    hub.give(Input::Link(LinkInput::Wanted {
        reader,
        hash: hash(0),
        want: 2,
        pieces: vec![(file, GroupRange::new(1, 1))],
    }));
    let cut = |e: &Effect| matches!(e, Effect::Link(LinkEffect::Failed { .. }));
    assert!(!hub.take().iter().any(cut), "a paused download goes on");
    hub.give(Input::Link(LinkInput::Left { reader, up_to: u64::MAX }));
    hub.passes(2 * LINK_UNUSED_MS);
    assert!(hub.broker.links.is_empty(), "nothing is left of links that nobody uses");
}

#[test]
fn a_file_that_is_gone_takes_its_links_along_and_touches_no_other() {
    let mut hub = BrokerFixture::ready(MIB);
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
    let removed = FileRemoved {
        public_id: gone.public_id,
        file_ids,
        epoch: 5,
        revision: 8,
        audience: Audience::All,
    };
    hub.master(MasterToRelay::FileRemoved(removed));
    hub.take();
    for n in [0, 5_000] {
        hub.give(Input::Call(CallInput::LinkOpened { call: CallId(1), link: link(n) }));
        assert_eq!(asked(&mut hub).len(), usize::from(n == 5_000), "{n}");
    }
}

#[test]
fn a_use_pays_for_one_download_and_for_going_on_with_it() {
    const SIZE: u64 = 1_000;
    let mut hub = BrokerFixture::ready(MIB);
    hub.opens(1);
    let file = hub.lists(1, SIZE);
    let entry = hub.files[&file].clone();
    opens_link(&mut hub, 1, true, &entry);
    let mut uses = 0;
    let mut begins = |hub: &mut BrokerFixture, whole: bool, bytes: u64| {
        hub.take();
        hub.give(Input::Call(CallInput::UseBegun { call: CallId(9), link: link(1), whole, bytes }));
        for (message, reference) in asked(hub) {
            assert!(
                matches!(message, RelayToMaster::Relay(RelayMessage::LinkLookup(lookup)) if lookup.begins)
            );
            uses += 1;
            let answer = if uses > 2 {
                failed(FailureCode::LinkUsedUp)
            } else {
                grant(1, true, Some(entry.clone()), None)
            };
            answers(hub, answer, reference);
        }
        let begun = hub.take().into_iter().find_map(|e| {
            if let Effect::Call(CallEffect::Begun { result, .. }) = e { Some(result) } else { None }
        });
        (begun.unwrap_or(Ok(())), uses)
    };
    assert_eq!(begins(&mut hub, true, SIZE), (Ok(()), 1));
    assert_eq!(begins(&mut hub, false, 600), (Ok(()), 1), "it goes on after a cut");
    hub.give(Input::Link(LinkInput::Unread { hash: hash(1), bytes: 300 }));
    assert_eq!(begins(&mut hub, false, 700), (Ok(()), 1), "and again: 300 of these were not sent");
    assert_eq!(
        begins(&mut hub, false, 1),
        (Ok(()), 2),
        "beyond the file's length it is another download"
    );
    assert_eq!(begins(&mut hub, true, SIZE), (Ok(()), 2), "whose first byte may come later");
    assert_eq!(begins(&mut hub, true, SIZE), (Err(FailureCode::LinkUsedUp), 3));
}

#[test]
fn a_response_holds_two_pages_of_an_archive_whatever_its_length() {
    let mut hub = BrokerFixture::ready(MIB);
    hub.opens(1);
    let file = hub.lists(1, MIB);
    let entry = |n: u32| FileEntry {
        file_id: format!("00000000-0000-4000-8000-{n:012x}").parse().unwrap(),
        ..hub_entry(&hub, &file)
    };
    let entries: Vec<FileEntry> = (0..10_000).map(entry).collect();
    let layout = LayoutId([1; 16]);
    let archive = LinkArchive { layout, name: "a.zip".into(), members: 10_000, length: 1 };
    hub.give(Input::Call(CallInput::LinkOpened { call: CallId(1), link: link(1) }));
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(1, false, None, Some(archive.clone())), reference);
    }
    let reader = LinkReader(1);
    for (n, page) in entries.chunks(250).enumerate() {
        let ask = LinkPage { link_hash: hash(1), layout, first: n as u32 * 250, bare: false };
        hub.take();
        hub.give(Input::Call(CallInput::PageWanted {
            call: CallId(100 + n as u64),
            reader,
            page: ask,
        }));
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
    hub.give(Input::Link(LinkInput::Left { reader, up_to: u64::MAX }));
    assert_eq!(hub.broker.counts().grants, 0, "and none when it is over");
}

fn hub_entry(hub: &BrokerFixture, file: &FileRef) -> FileEntry {
    hub.files[file].clone()
}

#[test]
fn while_the_master_is_away_pages_wait_and_are_asked_again() {
    let mut hub = BrokerFixture::ready(MIB);
    let layout = LayoutId([1; 16]);
    let archive = LinkArchive { layout, name: "a.zip".into(), members: 10, length: 1 };
    hub.give(Input::Call(CallInput::LinkOpened { call: CallId(1), link: link(1) }));
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(1, false, None, Some(archive.clone())), reference);
    }
    hub.give(Input::Master(MasterInput::Closed { session: MASTER }));
    let page = LinkPage { link_hash: hash(1), layout, first: 0, bare: false };
    hub.give(Input::Call(CallInput::PageWanted { call: CallId(2), reader: LinkReader(1), page }));
    assert!(asked(&mut hub).is_empty());
    hub.passes(3_600_000);
    hub.master_comes();
    let again = asked(&mut hub);
    assert!(
        matches!(&again[..], [(RelayToMaster::Relay(RelayMessage::LinkPage(page)), _)] if page.layout == layout),
        "{again:?}"
    );
    hub.give(Input::Call(CallInput::Left { call: CallId(2) }));
    assert_eq!(hub.broker.counts().calls, 0);
}

#[test]
fn a_page_that_is_asked_for_after_its_reader_left_keeps_no_link() {
    let mut hub = BrokerFixture::ready(MIB);
    let layout = LayoutId([1; 16]);
    let archive = LinkArchive { layout, name: "a.zip".into(), members: 10, length: 1 };
    hub.give(Input::Call(CallInput::LinkOpened { call: CallId(1), link: link(1) }));
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(1, false, None, Some(archive.clone())), reference);
    }
    let reader = LinkReader(1);
    hub.give(Input::Link(LinkInput::Left { reader, up_to: u64::MAX }));
    let page = LinkPage { link_hash: hash(1), layout, first: 0, bare: false };
    hub.give(Input::Call(CallInput::PageWanted { call: CallId(2), reader, page }));
    hub.give(Input::Call(CallInput::Left { call: CallId(2) }));
    assert_eq!(hub.broker.links.known.reader_count(), 0);
}

#[test]
fn a_list_that_the_relay_had_to_drop_is_asked_for_again_although_it_lies_full_in_a_slot() {
    let mut hub = BrokerFixture::ready(32 * MIB);
    let asker = (hub.opens(1), hub.opens(2)).1;
    let file = hub.lists(1, MIB);
    hub.files.get_mut(&file).unwrap().root = Some(Root([7; 32]));
    hub.asks(asker, 1, 0, 1);
    hub.give(Input::Slot(SlotInput::HashesKnown { file }));
    hub.take();
    let (transfer_id, public_id) = (transfer(2), device(1));
    let pieces = vec![GroupSpan::new(file_id(1), 0, 4)];
    let list = RequestChunk { transfer_id, public_id, pieces, what: BodyKind::Hashes, have: None };
    hub.says(asker, DeviceToRelay::RequestChunk(list));
    assert!(
        hub.take()
            .iter()
            .any(|effect| matches!(effect, Effect::Slot(SlotEffect::OpenHashes { .. }))),
        "it lies full in a slot"
    );
    hub.give(Input::Slot(SlotInput::HashesLost { file }));
    hub.give(Input::Call(CallInput::LinkOpened { call: CallId(1), link: link(1) }));
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, grant(1, false, None, None), reference);
    }
    hub.take();
    let pieces = vec![(file, GroupRange::new(1, 1))];
    hub.give(Input::Link(LinkInput::Wanted {
        reader: LinkReader(1),
        hash: hash(1),
        want: 1,
        pieces,
    }));
    let opened = hub.opened();
    let [slot] = &opened[..] else { panic!("{opened:?}") };
    assert_eq!(
        (slot.what, slot.holder),
        (BodyKind::Hashes, SessionId(1)),
        "its owner is asked for it"
    );
    hub.completes(slot.slot);
    assert_eq!(
        hub.opened().first().map(|slot| slot.what),
        Some(BodyKind::Bytes),
        "and the link reads on"
    );
}

/// The grant of a link that `maker` registered under the hash of the second device's link.
fn squatted(
    n: u32,
    binding: LinkBinding,
    maker: DeviceId,
    limited: bool,
    file: &FileEntry,
) -> MasterToRelay {
    let MasterToRelay::LinkGrant(grant) = grant(n, limited, Some(file.clone()), None) else {
        unreachable!()
    };
    MasterToRelay::LinkGrant(LinkGrant { public_id: maker, binding, ..grant })
}

#[test]
fn a_hash_that_somebody_else_registered_is_answered_as_one_that_is_not_there() {
    let mut hub = BrokerFixture::ready(MIB);
    hub.opens(1);
    let file = hub.lists(1, MIB);
    let entry = hub.files[&file].clone();
    let squatter = device(1);
    let of_its_own = DrawnLink::new(&LinkSeed([9; 32]), squatter).binding;
    for (n, binding) in [(1, drawn(1).binding), (2, of_its_own), (3, LinkBinding([0; 32]))] {
        for call in [1, 2] {
            hub.take();
            hub.give(Input::Call(CallInput::LinkOpened { call: CallId(call), link: link(n) }));
            let lookups = asked(&mut hub);
            assert_eq!(
                lookups.len(),
                usize::from(call == 1),
                "what is not there is not asked for again soon"
            );
            for (_, reference) in lookups {
                answers(&mut hub, squatted(n, binding, squatter, true, &entry), reference);
                let found = Effect::Call(CallEffect::Found {
                    call: CallId(call),
                    result: Err(FailureCode::NotFound),
                });
                assert!(hub.take().contains(&found));
            }
        }
        assert!(hub.broker.links.known.get(&hash(n)).is_none(), "it is not kept");
    }
    assert_eq!((hub.broker.counts().calls, hub.broker.counts().grants), (0, 0));
    // Its own maker's binding opens it.
    opens_link(&mut hub, 4, true, &entry);
    assert!(
        hub.take()
            .iter()
            .any(|effect| matches!(effect, Effect::Call(CallEffect::Found { result: Ok(_), .. })))
    );
}

#[test]
fn a_link_that_ended_between_its_opening_and_its_use_is_not_paid_for_by_anothers() {
    let mut hub = BrokerFixture::ready(MIB);
    hub.opens(1);
    let file = hub.lists(1, MIB);
    let entry = hub.files[&file].clone();
    opens_link(&mut hub, 1, true, &entry);
    hub.take();
    hub.give(Input::Call(CallInput::UseBegun {
        call: CallId(9),
        link: link(1),
        whole: true,
        bytes: MIB,
    }));
    for (_, reference) in asked(&mut hub) {
        answers(&mut hub, squatted(1, drawn(1).binding, device(1), true, &entry), reference);
    }
    assert!(hub.take().contains(&Effect::Call(CallEffect::Begun {
        call: CallId(9),
        result: Err(FailureCode::NotFound)
    })));
    let maker = hub.broker.links.maker(&hash(1));
    assert_eq!(maker, Some(*MAKER), "what the relay knows is its maker's");
    hub.give(Input::Call(CallInput::UseBegun {
        call: CallId(10),
        link: link(1),
        whole: true,
        bytes: MIB,
    }));
    assert_eq!(asked(&mut hub).len(), 1, "nothing was credited");
}
