//! Promises of links: they end when they should, count their uses, belong to their makers and to
//! the host; an archive of any size costs one step at a time.

use lanyard_protocol::codec::encode_master;
use lanyard_protocol::limits::{
    LINK_UNUSED_MS, MAX_FRAME_BYTES, MAX_LAYOUTS_A_MAKER, MAX_LINK_PAGE, MAX_LINK_PAGE_BYTES,
    MAX_LINK_PARTS,
};
use lanyard_protocol::message::*;
use lanyard_protocol::{
    DeviceRequest, FileId, LayoutId, MasterFrame, NewFile, RelayMessage, RelayToMaster,
};

use super::super::fixture::*;
use super::super::{AuthorityConfig, Effect, Input, ListedFile, OperatorCommand, SavedState};
use super::*;

const HASH: LinkHash = LinkHash([3; 32]);

fn request(ids: &[u32]) -> LinkRequest {
    let files =
        ids.iter().map(|n| FileRef { public_id: device(1), file_id: file_id(*n) }).collect();
    LinkRequest { files, ..link_request(HASH) }
}

fn folder_request(path: &str) -> LinkRequest {
    LinkRequest {
        folder: Some(LinkFolder { public_id: device(1), path: path.into() }),
        ..request(&[])
    }
}

fn asks(fixture: &mut AuthorityFixture, maker: u32, request: LinkRequest) -> Vec<Effect> {
    fixture.device(session(maker, 1), RelayToMaster::Device(DeviceRequest::LinkRequest(request)))
}

fn listed(effects: &[Effect]) -> LinkListed {
    let made = sent(effects)
        .into_iter()
        .find_map(|m| if let MasterToRelay::LinkMade(m) = m { Some(m) } else { None });
    made.unwrap_or_else(|| panic!("no link: {effects:?}")).link.clone()
}

fn looks_up(fixture: &mut AuthorityFixture, begins: bool) -> Vec<Effect> {
    let mut effects =
        fixture.relay_asks(RelayToMaster::Relay(RelayMessage::LinkLookup(LinkLookup {
            link_hash: HASH,
            begins,
        })));
    effects.extend(fixture.pass(2_000));
    effects
}

fn granted(effects: &[Effect]) -> LinkGrant {
    let grant = sent(effects)
        .into_iter()
        .find_map(|m| if let MasterToRelay::LinkGrant(g) = m { Some(g) } else { None });
    grant.unwrap_or_else(|| panic!("no grant: {effects:?}")).clone()
}

fn page(
    fixture: &mut AuthorityFixture,
    layout: LayoutId,
    first: u32,
    bare: bool,
) -> Result<Vec<LinkMember>, FailureCode> {
    let page = LinkPage { link_hash: HASH, layout, first, bare };
    let mut effects = fixture.relay_asks(RelayToMaster::Relay(RelayMessage::LinkPage(page)));
    effects.extend(fixture.pass(2_000));
    let members = sent(&effects)
        .into_iter()
        .find_map(|m| if let MasterToRelay::LinkMembers(m) = m { Some(m) } else { None });
    members.map(|members| members.members.clone()).ok_or_else(|| refusal_of(&effects).unwrap())
}

/// All members of an archive, page by page.
fn members(fixture: &mut AuthorityFixture, archive: &LinkArchive, bare: bool) -> Vec<LinkMember> {
    let mut all = Vec::new();
    while all.len() < archive.members as usize {
        all.extend(page(fixture, archive.layout, all.len() as u32, bare).unwrap());
    }
    assert_eq!(all.len(), archive.members as usize);
    all
}

#[test]
fn a_link_is_told_to_its_maker_and_ends_unused_or_dropped() {
    let mut fixture = AuthorityFixture::with_members(2);
    fixture.add(session(1, 1), files(0..3));
    let effects = asks(&mut fixture, 2, request(&[0]));
    assert!(
        matches!(&effects[0], Effect::Save(StoreWrite::LinkPut(link)) if link.maker == device(2))
    );
    let link = listed(&effects);
    assert_eq!((link.name.as_str(), link.files, link.public_id), ("0.txt", 1, device(2)));
    assert_eq!((link.expires_ms, link.ends, link.uses_left), (NOON + LINK_UNUSED_MS, false, None));
    assert_eq!(granted(&looks_up(&mut fixture, false)).file.unwrap().file_id, file_id(0));

    fixture.pass(LINK_UNUSED_MS - 10_000);
    fixture.relay(RelayToMaster::Relay(RelayMessage::LinkUsed(LinkUsed { link_hash: HASH })));
    fixture.pass(LINK_UNUSED_MS - 10_000);
    assert_eq!(refusal_of(&looks_up(&mut fixture, false)), None, "use moved its end");
    let ended = fixture.pass(LINK_UNUSED_MS);
    assert!(fixture.saves.contains(&StoreWrite::LinkGone(HASH)));
    let told = MasterToRelay::LinkDropped(LinkDropped { link_hash: HASH, public_id: device(2) });
    assert!(sent(&ended).contains(&&told), "its maker is told that it ended");
    assert_eq!(refusal_of(&looks_up(&mut fixture, false)), Some(FailureCode::NotFound));
}

#[test]
fn only_its_maker_and_the_host_drop_a_link() {
    let mut fixture = AuthorityFixture::with_members(3);
    fixture.add(session(1, 1), files(0..1));
    asks(&mut fixture, 2, request(&[0]));
    let drop = || RelayToMaster::Device(DeviceRequest::LinkDrop(LinkDrop { link_hash: HASH }));
    assert_eq!(refusal_of(&fixture.device(session(3, 1), drop())), Some(FailureCode::NotFound));
    let effects = fixture.device(session(2, 1), drop());
    assert!(matches!(sent(&effects)[..], [MasterToRelay::LinkDropped(_)]), "{effects:?}");
    assert_eq!(refusal_of(&looks_up(&mut fixture, false)), Some(FailureCode::NotFound));

    asks(&mut fixture, 2, LinkRequest { link_hash: LinkHash([4; 32]), ..request(&[0]) });
    let effects = fixture.operator(OperatorCommand::DropLink(LinkHash([4; 32])));
    assert!(
        sent(&effects)
            .iter()
            .any(|m| matches!(m, MasterToRelay::LinkDropped(d) if d.public_id == device(2)))
    );
    assert_eq!(
        refusal_of(&fixture.operator(OperatorCommand::DropLink(HASH))),
        Some(FailureCode::NotFound)
    );
}

#[test]
fn a_device_lists_its_own_links_and_the_host_everybodys_newest_first() {
    let mut fixture = AuthorityFixture::with_members(3);
    fixture.add(session(1, 1), files(0..1));
    for n in 0..1_200u32 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        asks(&mut fixture, 2 + n % 2, LinkRequest { link_hash: LinkHash(hash), ..request(&[0]) });
        fixture.pass(1);
    }
    let mut of_two = Vec::new();
    let mut cursor = None;
    loop {
        let effects = fixture.device(
            session(2, 1),
            RelayToMaster::Device(DeviceRequest::LinksPull(LinksPull { cursor })),
        );
        let [MasterToRelay::LinksPage(page)] = sent(&effects)[..] else { panic!("{effects:?}") };
        of_two.extend(page.links.clone());
        cursor = page.cursor.clone();
        if page.last {
            break;
        }
    }
    assert_eq!(of_two.len(), 600);
    assert!(of_two.iter().all(|link| link.public_id == device(2)));
    assert!(of_two.is_sorted_by_key(|link| std::cmp::Reverse(link.made_ms)));
    let mut all = 0;
    let mut cursor = None;
    loop {
        let effects = fixture.operator(OperatorCommand::PullLinks(LinksPull { cursor }));
        let [Effect::Answer { message: MasterToConsole::LinksPage(page), .. }] = &effects[..]
        else {
            panic!("{effects:?}")
        };
        all += page.links.len();
        cursor = page.cursor.clone();
        if page.last {
            break;
        }
    }
    assert_eq!(all, 1_200);
    let strange = LinksPull { cursor: Some("x".into()) };
    assert_eq!(
        refusal_of(
            &fixture
                .device(session(2, 1), RelayToMaster::Device(DeviceRequest::LinksPull(strange)))
        ),
        Some(FailureCode::BadMessage)
    );
}

#[test]
fn a_link_with_an_end_ends_then_used_or_not() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), files(0..1));
    let link =
        listed(&asks(&mut fixture, 1, LinkRequest { valid_ms: Some(60_000), ..request(&[0]) }));
    assert_eq!((link.expires_ms, link.ends), (NOON + 60_000, true));
    fixture.pass(50_000);
    assert_eq!(granted(&looks_up(&mut fixture, false)).lives_ms, 10_000);
    let ended = fixture.pass(9_000);
    let is_cut =
        |m: &&MasterToRelay| matches!(m, MasterToRelay::LinkDropped(d) if d.link_hash == HASH);
    assert!(
        sent(&ended).iter().any(is_cut),
        "who reads at its end is cut then, not at the next sweep: {ended:?}"
    );
    for wrong in [Some(0), Some(u64::MAX)] {
        let refused = asks(&mut fixture, 1, LinkRequest { valid_ms: wrong, ..request(&[0]) });
        assert_eq!(refusal_of(&refused), Some(FailureCode::BadMessage));
    }
}

#[test]
fn uses_are_counted_on_disk_and_none_is_given_beyond() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), files(0..1));
    asks(&mut fixture, 1, LinkRequest { uses: Some(2), ..request(&[0]) });
    assert!(granted(&looks_up(&mut fixture, false)).limited);
    for left in [1, 0] {
        let effects = looks_up(&mut fixture, true);
        assert!(
            matches!(&effects[0], Effect::Save(StoreWrite::LinkUsed { uses_left, .. }) if *uses_left == Some(left))
        );
        assert_eq!(listed(&effects).uses_left, Some(left), "its maker sees the count");
        granted(&effects);
    }
    assert_eq!(refusal_of(&looks_up(&mut fixture, true)), Some(FailureCode::LinkUsedUp));
    assert_eq!(refusal_of(&looks_up(&mut fixture, false)), None, "who began may go on");
}

#[test]
fn a_link_takes_only_what_is_listed_and_grows_by_parts() {
    let mut fixture = AuthorityFixture::with_members(2);
    fixture.add(session(1, 1), files(0..3));
    assert_eq!(refusal_of(&asks(&mut fixture, 2, request(&[0, 9]))), Some(FailureCode::NotFound));
    assert_eq!(refusal_of(&asks(&mut fixture, 9, request(&[0]))), Some(FailureCode::NotApproved));
    for wrong in [request(&[]), LinkRequest { folder: folder_request("").folder, ..request(&[0]) }]
    {
        assert_eq!(refusal_of(&asks(&mut fixture, 2, wrong)), Some(FailureCode::BadMessage));
    }
    asks(&mut fixture, 2, request(&[0, 1]));
    let link = listed(&asks(&mut fixture, 2, request(&[1, 2])));
    assert_eq!((link.files, link.name.as_str()), (3, "folder.zip"));
    assert_eq!(
        refusal_of(&asks(&mut fixture, 1, request(&[0]))),
        Some(FailureCode::NotFound),
        "another's link"
    );
    assert_eq!(
        refusal_of(&asks(&mut fixture, 2, folder_request(""))),
        Some(FailureCode::BadMessage),
        "no folder now"
    );
}

/// A long link is written whole: whoever sends its files one by one, or the same ones again and
/// again, makes the hub write no more than a few times what was sent.
#[test]
fn a_link_request_writes_at_most_a_few_times_the_bytes_it_sent() {
    let mut fixture = AuthorityFixture::with_members(2);
    for start in (0..5_120).step_by(256) {
        fixture.add(session(1, 1), files(start..start + 256));
    }
    let all: Vec<u32> = (0..5_120).collect();
    all[..5_000].chunks(500).for_each(|part| drop(asks(&mut fixture, 2, request(part))));
    let written = |fixture: &AuthorityFixture| -> u64 {
        let of = |change: &StoreWrite| {
            if let StoreWrite::LinkPut(link) = change { link.bytes() } else { 0 }
        };
        fixture.saves.iter().map(of).sum()
    };
    let before = written(&fixture);
    for _ in 0..100 {
        assert_eq!(
            listed(&asks(&mut fixture, 2, request(&[7]))).files,
            5_000,
            "asked again, and told again"
        );
    }
    assert_eq!(written(&fixture), before, "nothing changed, and nothing is written");
    let refusals: Vec<_> =
        (5_000..5_120).filter_map(|n| refusal_of(&asks(&mut fixture, 2, request(&[n])))).collect();
    assert!(
        !refusals.is_empty() && refusals.iter().all(|code| *code == FailureCode::TooLarge),
        "{refusals:?}"
    );
    let grown = written(&fixture) - before;
    assert!(grown < MAX_LINK_PARTS as u64 * 200_000, "{grown} bytes were written for 120 files");
    assert_eq!(
        refusal_of(&asks(
            &mut fixture,
            2,
            LinkRequest { link_hash: LinkHash([4; 32]), ..request(&[0]) }
        )),
        None
    );
}

#[test]
fn links_are_bounded_in_bytes_a_device_and_a_refusal_says_so() {
    let mut fixture = AuthorityFixture::with_members(2);
    for start in (0..512).step_by(256) {
        fixture.add(session(1, 1), files(start..start + 256));
    }
    let ids: Vec<u32> = (0..512).collect();
    let mut refused = None;
    for n in 0..20_000u32 {
        let mut hash = [9; 32];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        let effects =
            asks(&mut fixture, 2, LinkRequest { link_hash: LinkHash(hash), ..request(&ids) });
        refused = sent(&effects).into_iter().find_map(|m| match m {
            MasterToRelay::RequestFailed(no) => Some(no.clone()),
            _ => None,
        });
        if refused.is_some() {
            break;
        }
    }
    let no = refused.expect("there is a bound");
    assert_eq!(no.code, FailureCode::Quota);
    assert!(no.message.contains("MiB"), "{}", no.message);
    let held: u64 = fixture.authority.links.records().map(LinkRecord::bytes).sum();
    assert_eq!(
        held,
        fixture.authority.links.bytes().of(device(2)),
        "what is counted is what is there"
    );
    assert!(held <= lanyard_protocol::limits::MAX_REMEMBERED_BYTES_A_DEVICE);
    let small = listed(&asks(&mut fixture, 1, folder_request("")));
    assert_eq!(small.name, "Device 1.zip", "another device has room");
}

#[test]
fn a_folder_is_what_its_owner_shares_there_now() {
    let mut fixture = AuthorityFixture::with_members(2);
    let paths = ["a/x", "a/B/y", "ab/z", "a", "A/q"];
    fixture.add(session(1, 1), (1..).zip(paths).map(|(n, path)| new_file(n, path)).collect());
    assert_eq!(listed(&asks(&mut fixture, 2, folder_request("a"))).name, "a.zip");
    let names = |fixture: &mut AuthorityFixture| -> Vec<String> {
        let archive = granted(&looks_up(fixture, false)).archive.unwrap();
        members(fixture, &archive, false).into_iter().map(|member| member.name).collect()
    };
    assert_eq!(names(&mut fixture), ["a (1)", "a/B/y", "a/x"]);
    fixture.add(session(1, 1), vec![new_file(9, "a/new")]);
    assert_eq!(names(&mut fixture), ["a (1)", "a/B/y", "a/new", "a/x"]);
    fixture.device(
        session(1, 1),
        RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile {
            file_ids: vec![file_id(4)],
            keep: false,
        })),
    );
    assert_eq!(names(&mut fixture), ["a/B/y", "a/new", "a/x"]);
    // Its owner is away: what it shared last.
    fixture.left(session(1, 1));
    fixture.pass(lanyard_protocol::limits::GRACE_MS);
    assert_eq!(names(&mut fixture).len(), 3);
    let gone: Vec<FileId> = [1, 2, 9].map(file_id).to_vec();
    fixture.came(session(1, 1));
    fixture.device(
        session(1, 1),
        RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile {
            file_ids: gone,
            keep: false,
        })),
    );
    assert_eq!(granted(&looks_up(&mut fixture, false)).archive, None, "an empty folder is gone");
}

#[test]
fn an_archive_of_versions_is_gone_with_one_of_them_but_its_readers_have_their_directory() {
    let mut fixture = AuthorityFixture::with_members(2);
    fixture.add(session(1, 1), files(0..3));
    asks(&mut fixture, 2, request(&[0, 1, 2]));
    let archive = granted(&looks_up(&mut fixture, false)).archive.unwrap();
    let before = members(&mut fixture, &archive, true);
    fixture.relay(RelayToMaster::Relay(RelayMessage::FileChanged(FileChanged {
        public_id: device(1),
        file_id: file_id(1),
    })));
    let now = granted(&looks_up(&mut fixture, false));
    assert_eq!((now.archive, now.file), (None, None), "who opens it now finds it gone");
    let rest = members(&mut fixture, &archive, false);
    assert_eq!(
        rest.iter().filter(|member| member.file.is_none()).count(),
        1,
        "that member is no more"
    );
    assert_eq!(
        members(&mut fixture, &archive, true),
        before,
        "the names at the archive's end stay"
    );
}

/// A folder of 100,000 files: each step of its layout, and each page, costs what it gives.
#[test]
fn a_hundred_thousand_files_are_laid_out_in_small_steps_and_pages() {
    const FILES: u32 = 100_000;
    let entry = |n: u32| lanyard_protocol::FileEntry {
        file_id: file_id(n),
        // Every tenth has a twin by case.
        path: format!(
            "Photos/{}/{}.jpg",
            n % 300,
            if n % 10 == 1 { (n - 1).to_string() } else { n.to_string() }
        ),
        ..entry(1, "x")
    };
    let files = (0..FILES)
        .map(|n| ListedFile { entry: entry(n), revision: 1, withdrawn_ms: None })
        .collect();
    let members_of_hub = vec![member(1, super::super::Verdict::Approved)];
    let saved = SavedState { revision: 1, members: members_of_hub, files, ..SavedState::default() };
    let mut fixture = AuthorityFixture::ready(AuthorityConfig::default(), saved);
    fixture.came(session(1, 1));
    listed(&asks(&mut fixture, 1, folder_request("Photos")));

    let lookup = RelayToMaster::Relay(RelayMessage::LinkLookup(LinkLookup {
        link_hash: HASH,
        begins: false,
    }));
    let mut effects = fixture.relay_asks(lookup);
    let mut steps = 0;
    while sent(&effects).is_empty() {
        effects = fixture.pass(1);
        steps += 1;
        let work = fixture.authority.archives.work;
        assert!(work <= 5_000, "a step looked at {work} entries and names");
        // Others are heard between two steps.
        assert_eq!(
            refusal_of(&asks(&mut fixture, 1, request(&[0]))),
            Some(FailureCode::BadMessage)
        );
    }
    assert!((50..200).contains(&steps), "{steps} steps");
    let archive = granted(&effects).archive.unwrap();
    assert_eq!(archive.members, FILES);
    assert_eq!(
        granted(&looks_up(&mut fixture, false)).archive,
        Some(archive.clone()),
        "laid out once"
    );

    let mut extent = lanyard_protocol::archive::Extent::default();
    let mut names = BTreeSet::new();
    let mut next = 0;
    while next < FILES {
        let ask = LinkPage { link_hash: HASH, layout: archive.layout, first: next, bare: false };
        let effects = fixture.relay_asks(RelayToMaster::Relay(RelayMessage::LinkPage(ask)));
        let [Effect::Send(frame @ MasterFrame { message: MasterToRelay::LinkMembers(page), .. })] =
            &effects[..]
        else {
            panic!("{effects:?}")
        };
        assert!(page.members.len() <= MAX_LINK_PAGE);
        assert!(
            encode_master(frame).len() <= MAX_LINK_PAGE_BYTES + 200,
            "{}",
            encode_master(frame).len()
        );
        for member in &page.members {
            extent.add(&lanyard_protocol::archive::Shape::new(
                &member.name,
                member.size,
                member.kind,
            ));
            assert!(names.insert(crate::naming::folded(&member.name)), "{} twice", member.name);
        }
        next += page.members.len() as u32;
    }
    assert_eq!(extent.length(), archive.length, "the promised length");
}

/// Whoever makes many links of many files lets nobody else's archive wait for more than the one
/// that is being laid out, and leaves room for others among what may be asked for at once.
#[test]
fn the_archives_of_one_maker_do_not_keep_anothers_waiting() {
    const FILES: u32 = 20_000;
    let entry = |n: u32| lanyard_protocol::FileEntry {
        file_id: file_id(n),
        path: format!("Photos/{n}.jpg"),
        ..entry(1, "x")
    };
    let files = (0..FILES)
        .map(|n| ListedFile { entry: entry(n), revision: 1, withdrawn_ms: None })
        .collect();
    let members = (1..=2).map(|n| member(n, super::super::Verdict::Approved)).collect();
    let mut fixture = AuthorityFixture::ready(
        AuthorityConfig::default(),
        SavedState { revision: 1, members, files, ..SavedState::default() },
    );
    fixture.came(session(1, 1));
    let hash = |n: u8| LinkHash([n; 32]);
    let look = |fixture: &mut AuthorityFixture, n| {
        fixture.relay_asks(RelayToMaster::Relay(RelayMessage::LinkLookup(LinkLookup {
            link_hash: hash(n),
            begins: false,
        })))
    };
    (0..70).for_each(|n| {
        drop(asks(&mut fixture, 1, LinkRequest { link_hash: hash(n), ..folder_request("Photos") }))
    });
    asks(&mut fixture, 2, LinkRequest { link_hash: hash(200), ..request(&[1, 2]) });
    let refused = (0..70).filter_map(|n| refusal_of(&look(&mut fixture, n))).collect::<Vec<_>>();
    let mut effects = look(&mut fixture, 200);
    let mut steps = 0;
    while !sent(&effects)
        .iter()
        .any(|m| matches!(m, MasterToRelay::LinkGrant(g) if g.link_hash == hash(200)))
    {
        effects = fixture.pass(1);
        steps += 1;
    }
    assert!(steps <= 60, "another's two files waited for {steps} steps");
    assert_eq!(refused, vec![FailureCode::Busy; 70 - MAX_LAYOUTS_A_MAKER]);
}

#[test]
fn a_page_goes_on_after_a_restart_only_while_the_layout_is_the_same() {
    let mut before = AuthorityFixture::with_members(1);
    before.add(session(1, 1), files(0..300));
    asks(&mut before, 1, folder_request(""));
    let archive = granted(&looks_up(&mut before, false)).archive.unwrap();
    let whole = members(&mut before, &archive, true);
    let saved = || SavedState {
        revision: before.head(),
        members: before.authority.members().cloned().collect(),
        files: before
            .authority
            .files()
            .map(|entry| ListedFile { entry: entry.clone(), revision: 2, withdrawn_ms: None })
            .collect(),
        links: before.authority.links.records().cloned().collect(),
        ..SavedState::default()
    };
    let mut same = AuthorityFixture::ready(AuthorityConfig::default(), saved());
    same.came(session(1, 1));
    assert_eq!(members(&mut same, &archive, true), whole);
    let mut other = AuthorityFixture::ready(AuthorityConfig::default(), saved());
    other.came(session(1, 1));
    other.device(
        session(1, 1),
        RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile {
            file_ids: vec![file_id(7)],
            keep: false,
        })),
    );
    assert_eq!(page(&mut other, archive.layout, 100, false), Err(FailureCode::StaleRequest));
    assert_eq!(
        page(&mut same, archive.layout, 300, false),
        Err(FailureCode::BadMessage),
        "beyond the last"
    );
}

#[test]
fn a_relay_that_left_is_owed_no_layout_and_the_next_asks_anew() {
    let mut fixture = AuthorityFixture::with_members(1);
    for start in (0..5_000).step_by(500) {
        fixture.add(session(1, 1), files(start..start + 500));
    }
    asks(&mut fixture, 1, folder_request(""));
    fixture.relay_asks(RelayToMaster::Relay(RelayMessage::LinkLookup(LinkLookup {
        link_hash: HASH,
        begins: false,
    })));
    fixture.put(Input::RelayLost);
    assert!(sent(&fixture.pass(1_000)).is_empty());
    fixture.put(Input::RelayReady { hub_key: HUB });
    fixture.relay(RelayToMaster::Relay(RelayMessage::Pong(Empty {})));
    assert_eq!(granted(&looks_up(&mut fixture, false)).archive.unwrap().members, 5_000);
}

#[test]
fn frames_of_links_fit() {
    let mut fixture = AuthorityFixture::with_members(1);
    let path = format!("{}/x", vec!["p".repeat(200); 16].join("/"));
    fixture.add(
        session(1, 1),
        (0..60).map(|n| NewFile { ..new_file(n, &format!("{path}{n}")) }).collect(),
    );
    for n in 0..60 {
        let hash = LinkHash([n; 32]);
        asks(
            &mut fixture,
            1,
            LinkRequest { link_hash: hash, ..folder_request(&path[..path.len() - 2]) },
        );
    }
    let effects = fixture.device(
        session(1, 1),
        RelayToMaster::Device(DeviceRequest::LinksPull(LinksPull { cursor: None })),
    );
    let [Effect::Send(frame)] = &effects[..] else { panic!("{effects:?}") };
    let length = encode_master(frame).len();
    assert!(length <= MAX_FRAME_BYTES && length > 100_000, "{length}");
}

#[test]
fn nothing_is_kept_of_archives_whose_links_are_over() {
    let mut fixture = AuthorityFixture::with_members(2);
    fixture.add(session(1, 1), files(0..10));
    asks(&mut fixture, 2, folder_request(""));
    let archive = granted(&looks_up(&mut fixture, false)).archive.unwrap();
    assert!(fixture.authority.archives.held() > 0);
    // Unused for two sweeps it goes, and is made anew when its reader goes on.
    fixture.pass(3 * super::super::SWEEP_MS);
    assert_eq!(fixture.authority.archives.held(), 0);
    assert_eq!(members(&mut fixture, &archive, true).len(), 10);
    fixture.operator(OperatorCommand::Refuse { public_id: device(2) });
    assert_eq!(fixture.authority.archives.held(), 0, "a maker's layouts end with its membership");
}

#[test]
fn a_binding_is_granted_with_its_maker_and_never_replaced_while_the_link_lives() {
    let mut fixture = AuthorityFixture::with_members(2);
    fixture.add(session(1, 1), files(0..2));
    let first = request(&[0]);
    asks(&mut fixture, 1, first.clone());
    let other = LinkBinding([9; 32]);
    // The maker adds a file, and somebody else wants the hash.
    asks(&mut fixture, 1, LinkRequest { binding: other, ..request(&[1]) });
    let theft = asks(&mut fixture, 2, LinkRequest { binding: other, ..request(&[0]) });
    assert_eq!(refusal_of(&theft), Some(FailureCode::NotFound));
    let grant = granted(&looks_up(&mut fixture, false));
    assert_eq!((grant.public_id, grant.binding), (device(1), first.binding));
    fixture.device(
        session(1, 1),
        RelayToMaster::Device(DeviceRequest::LinkDrop(LinkDrop { link_hash: HASH })),
    );
    asks(&mut fixture, 2, LinkRequest { binding: other, ..request(&[0]) });
    let grant = granted(&looks_up(&mut fixture, false));
    assert_eq!(
        (grant.public_id, grant.binding),
        (device(2), other),
        "the relay finds out whose it is"
    );
}
