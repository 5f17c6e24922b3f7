//! Promises: what a device makes the hub remember is bounded in bytes, also after a restart, and
//! the last room is for those who hold little; a pull costs what it returns.

use lanyard_protocol::limits::{
    GRACE_MS, MAX_REMEMBERED_BYTES, MAX_REMEMBERED_BYTES_A_DEVICE, RESERVED_FOR_SMALL_DEVICES,
    SMALL_DEVICE_BYTES,
};
use lanyard_protocol::message::*;
use lanyard_protocol::{DeviceRequest, FeedMode, LinkHash, NewFile, RelayMessage, RelayToMaster};

use super::fixture::*;
use super::*;

/// Paths about as long as they may be.
fn long_files(range: std::ops::Range<u32>) -> Vec<NewFile> {
    let path = |n: u32| {
        let folders = format!("{}/", "f".repeat(254)).repeat(15);
        format!("{folders}{n:0>250}")
    };
    range.map(|n| new_file(n, &path(n))).collect()
}

fn failure_in(effects: &[Effect]) -> Option<RequestFailed> {
    sent(effects).into_iter().find_map(|m| {
        if let MasterToRelay::RequestFailed(no) = m { Some(no.clone()) } else { None }
    })
}

/// Lists files of 4 KiB of path until something is refused.
fn fill(fixture: &mut AuthorityFixture, n: u32) -> RequestFailed {
    for start in (0..).step_by(50) {
        let effects = fixture.add(session(n, 1), long_files(start..start + 50));
        if let Some(failed) = failure_in(&effects) {
            return failed;
        }
        fixture.saves.clear();
    }
    unreachable!("the numbers go on")
}

/// The changes that a restart finds on disk.
fn on_disk(fixture: &AuthorityFixture, members: u32) -> SavedState {
    SavedState {
        epoch: EPOCH,
        revision: fixture.head(),
        members: (1..=members).map(|n| member(n, Verdict::Approved)).collect(),
        files: fixture.authority.catalogue.listings().cloned().collect(),
        links: fixture.authority.links.records().cloned().collect(),
    }
}

#[test]
fn one_device_is_remembered_up_to_its_bytes_also_after_a_restart() {
    let mut fixture = AuthorityFixture::with_members(2);
    let refused = fill(&mut fixture, 1);
    assert_eq!((refused.code, refused.file_id.is_some()), (FailureCode::Quota, true));
    assert!(
        refused.message.contains("64 MiB that the hub keeps for one device"),
        "{}",
        refused.message
    );
    let held = fixture.authority.remembered().devices[&device(1)];
    let a_message = 50 * 5_000;
    assert!(
        (MAX_REMEMBERED_BYTES_A_DEVICE - a_message..=MAX_REMEMBERED_BYTES_A_DEVICE).contains(&held),
        "{held}"
    );
    let revision = fixture.head();
    fill(&mut fixture, 1);
    assert_eq!(fixture.head(), revision, "all or nothing of a message is listed");

    let mut link = |start: u32| {
        let files = (start..start + 512)
            .map(|n| FileRef { public_id: device(1), file_id: file_id(n) })
            .collect();
        let link_hash = LinkHash([1; 32]);
        let request = LinkRequest { files, ..link_request(link_hash) };
        fixture.device(session(1, 1), RelayToMaster::Device(DeviceRequest::LinkRequest(request)))
    };
    let effects = (0..18)
        .map(|n| link(n * 512))
        .find(|effects| refusal_of(effects).is_some())
        .unwrap_or_default();
    assert_eq!(refusal_of(&effects), Some(FailureCode::Quota), "links take of the same room");
    assert_eq!(
        refusal_of(&fixture.add(session(2, 1), files(0..500))),
        None,
        "others are not affected"
    );

    let mut again = AuthorityFixture::ready(AuthorityConfig::default(), on_disk(&fixture, 2));
    again.came(session(1, 1));
    assert_eq!(again.authority.remembered(), fixture.authority.remembered());
    let more = again.add(session(1, 1), long_files(50_000..50_050));
    assert_eq!(refusal_of(&more), Some(FailureCode::Quota));
    let all: Vec<FileId> = again.authority.files().map(|entry| entry.file_id).take(512).collect();
    again.device(
        session(1, 1),
        RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile { file_ids: all, keep: false })),
    );
    assert_eq!(
        refusal_of(&again.add(session(1, 1), long_files(50_000..50_050))),
        None,
        "what is gone makes room"
    );
}

#[test]
fn all_together_are_bounded_and_the_last_room_is_for_those_who_hold_little() {
    // Three fill what they may, before a restart: 14,000 files of 4 KiB and more each.
    let listing = |n: u32, file: NewFile| {
        let public_id = device(n);
        let entry = FileEntry { public_id, file_id: file.file_id, path: file.path, ..entry(1, "") };
        ListedFile { entry, revision: 1, withdrawn_ms: None }
    };
    let files_of = |n: u32| long_files(0..14_500).into_iter().map(move |file| listing(n, file));
    let members = (1..=7).map(|n| member(n, Verdict::Approved)).collect();
    let listed = (1..=3).flat_map(files_of).collect();
    let mut fixture = AuthorityFixture::ready(
        AuthorityConfig::default(),
        SavedState { revision: 1, members, files: listed, ..SavedState::default() },
    );
    (1..=7).for_each(|n| drop(fixture.came(session(n, 1))));
    let held = fixture.authority.remembered().devices[&device(3)];
    assert!(
        (MAX_REMEMBERED_BYTES_A_DEVICE / 100 * 95..MAX_REMEMBERED_BYTES_A_DEVICE).contains(&held),
        "{held}"
    );
    fill(&mut fixture, 4);
    let refused = fill(&mut fixture, 5);
    assert_eq!(refused.code, FailureCode::Quota);
    assert!(refused.message.contains("256 MiB for all devices together"), "{}", refused.message);
    let total = fixture.authority.remembered().bytes;
    let a_message = 50 * 5_000;
    let open_to_large = MAX_REMEMBERED_BYTES - RESERVED_FOR_SMALL_DEVICES;
    assert!(total <= open_to_large + SMALL_DEVICE_BYTES + a_message, "{total}");
    assert_eq!(refusal_of(&fixture.add(session(6, 1), files(0..500))), None);
    assert_eq!(fill(&mut fixture, 7).code, FailureCode::Quota);
    let held = fixture.authority.remembered().devices[&device(7)];
    assert!((SMALL_DEVICE_BYTES / 2..SMALL_DEVICE_BYTES + a_message).contains(&held), "{held}");
    assert!(fixture.authority.remembered().bytes <= MAX_REMEMBERED_BYTES);
}

#[test]
fn longest_withdrawn_files_make_way_for_new_ones_of_their_owner() {
    let mut fixture = AuthorityFixture::with_members(1);
    fill(&mut fixture, 1);
    fixture.left(session(1, 1));
    fixture.pass(GRACE_MS);
    let before = fixture.authority.remembered().bytes;
    assert!(
        fixture.authority.file_count() == 0 && before > MAX_REMEMBERED_BYTES_A_DEVICE / 2,
        "withdrawn ones count"
    );
    fixture.came(session(1, 2));
    let effects = fixture.add(session(1, 2), long_files(60_000..60_050));
    assert_eq!(refusal_of(&effects), None);
    let removed: usize =
        sent(&effects)
            .iter()
            .map(|m| {
                if let MasterToRelay::FileRemoved(removed) = m { removed.file_ids.len() } else { 0 }
            })
            .sum();
    assert!((1..=51).contains(&removed), "no more than is needed: {removed}");
}

/// F10. Before, a pull walked over every removal since the hub started.
#[test]
fn a_pull_visits_what_it_returns_however_much_is_gone() {
    let mut fixture = AuthorityFixture::with_members(1);
    for start in (0..20_000).step_by(500) {
        fixture.add(session(1, 1), files(start..start + 500));
        let file_ids = (start..start + 500).map(file_id).collect();
        fixture.device(
            session(1, 1),
            RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile { file_ids, keep: false })),
        );
    }
    fixture.add(session(1, 1), files(60_000..60_200));
    fixture.add(session(1, 1), files(50_000..50_500));
    let head = fixture.head();
    let mut visits = |since| {
        fixture.authority.feed.visited.set(0);
        let pages = fixture.pull(since);
        let returned: usize =
            pages.iter().map(|page| page.clients.len() + page.files.len() + page.gone.len()).sum();
        let visited = fixture.authority.feed.visited.get();
        assert!(
            visited <= returned + pages.len(),
            "visited {visited} for {returned} in {} pages",
            pages.len()
        );
        (pages[0].mode, returned)
    };
    assert_eq!(visits(head + 5), (FeedMode::Snapshot, 701));
    assert_eq!(visits(head - 1), (FeedMode::Delta, 500));
    assert_eq!(visits(head - 3), (FeedMode::Delta, 1_200));
}

#[test]
fn a_device_that_missed_more_removals_than_are_remembered_gets_a_snapshot() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.authority.feed.remember_at_most(4);
    fixture.add(session(1, 1), files(0..10));
    let since = fixture.head();
    for n in 0..5 {
        let file_ids = vec![file_id(n)];
        fixture.device(
            session(1, 1),
            RelayToMaster::Device(DeviceRequest::RemoveFile(RemoveFile { file_ids, keep: false })),
        );
    }
    assert_eq!(fixture.pull(since).remove(0).mode, FeedMode::Snapshot);
    let page = fixture.pull(since + 1).remove(0);
    assert_eq!((page.mode, page.gone.len()), (FeedMode::Delta, 4));
}

/// The database has no index by session, and looked at all files of the device for each session
/// that ended.
#[test]
fn the_end_of_a_session_writes_its_own_files_alone() {
    let mut fixture = AuthorityFixture::with_members(1);
    fixture.add(session(1, 1), files(0..500));
    fixture.add(session(1, 2), files(500..502));
    fixture.left(session(1, 2));
    fixture.pass(GRACE_MS);
    let named = fixture.saves.iter().filter_map(|change| match change {
        StoreWrite::FilesWithdrawn { file_ids, .. } => Some(file_ids.clone()),
        _ => None,
    });
    assert_eq!(named.collect::<Vec<_>>(), [vec![file_id(500), file_id(501)]]);
}

/// F16. Before, 1,000 were accepted, and an end in 285,000 years.
#[test]
fn invitations_are_bounded_in_number_and_time() {
    use lanyard_protocol::limits::{MAX_INVITATION_MS, MAX_INVITATIONS, MAX_STAY_MS};
    let mut fixture = AuthorityFixture::with_members(1);
    let refused = |effects: &[Effect]| match effects {
        [Effect::Answer { message: MasterToConsole::RequestFailed(no), .. }] => {
            Some((no.code, no.message.clone()))
        }
        _ => None,
    };
    for (valid_ms, for_ms, words) in [
        (MAX_INVITATION_MS + 1, None, "30 days at most"),
        (0, None, "30 days at most"),
        (1 << 53, None, "30 days at most"),
        (1_000, Some(MAX_STAY_MS + 1), "366 days at most"),
        (1_000, Some(0), "366 days at most"),
    ] {
        let (code, said) = refused(&fixture.operator(OperatorCommand::Invite { valid_ms, for_ms }))
            .expect("refused");
        assert!(
            code == FailureCode::BadMessage && said.contains(words),
            "{valid_ms} {for_ms:?}: {said}"
        );
    }
    for _ in 0..MAX_INVITATIONS {
        assert_eq!(
            refused(
                &fixture.operator(OperatorCommand::Invite {
                    valid_ms: 60_000,
                    for_ms: Some(MAX_STAY_MS)
                })
            ),
            None
        );
    }
    let one_more = OperatorCommand::Invite { valid_ms: MAX_INVITATION_MS, for_ms: None };
    let (code, said) =
        refused(&fixture.operator(one_more.clone())).expect("no more are out at once");
    assert!(code == FailureCode::Quota && said.contains("256 invitations are out"), "{said}");
    fixture.pass(60_001);
    assert_eq!(refused(&fixture.operator(one_more)), None, "old ones make room");
    let word = Approval::Named;
    let approve = OperatorCommand::Approve {
        public_id: device(9),
        request_id: None,
        word,
        for_ms: Some(1 << 53),
    };
    assert_eq!(refused(&fixture.operator(approve)).expect("refused").0, FailureCode::BadMessage);
}

/// Before, an open door let in as many keys as somebody cared to make, each of them for ever.
#[test]
fn an_open_door_asks_again_when_very_many_are_in() {
    use lanyard_protocol::limits::MAX_MEMBERS_UNASKED;
    let almost = MAX_MEMBERS_UNASKED as u32 - 1;
    let members: Vec<Member> = (1..=almost).map(|n| member(n, Verdict::Approved)).collect();
    let config = AuthorityConfig { admission: Admission::Everyone, ..AuthorityConfig::default() };
    let mut fixture = AuthorityFixture::ready(
        config,
        SavedState { revision: 1, members, ..SavedState::default() },
    );
    assert_eq!(fixture.authority.admission(), Admission::Everyone);
    let mut come =
        |n: u32| {
            let request = knock(n, 1);
            let request_id = request.request_id;
            fixture.relay(RelayToMaster::Relay(RelayMessage::NewClientRegistered(request)));
            let effects = fixture.relay(RelayToMaster::Relay(RelayMessage::ApproveClientAck(
                ApproveClientAck { public_id: device(n), request_id },
            )));
            let said = effects.iter().any(|effect| {
                matches!(effect, Effect::Publish { message: MasterToConsole::Door(_), .. })
            });
            (fixture.authority.roster.is_approved(device(n)), said)
        };
    assert_eq!(come(almost + 1), (true, true), "the last one, and the host is told");
    assert_eq!(come(almost + 2), (false, false));
    assert_eq!(fixture.authority.admission(), Admission::Ask);
    assert!(
        fixture
            .notes
            .iter()
            .any(|note| matches!(note, AuditEvent::Door { admission: Admission::Ask }))
    );
}
