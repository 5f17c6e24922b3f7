//! What people do with a hub, one story a test. Each ends at rest, where the model looks for
//! anything left behind.

use lanyard_hub::authority::Verdict;
use lanyard_hub::peer::{EndReason, MembershipPhase};
use lanyard_protocol::message::RemoveFile;
use lanyard_protocol::{DeviceToRelay, FailureCode, FileId, FileRef};
use lanyard_tests::sim::actors::device::DeviceIndex;
use lanyard_tests::sim::actors::links::LinkReadingState;
use lanyard_tests::sim::{Simulation, SimulationConfig};

const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000;

// ── The door
// ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_device_shows_digits_and_is_let_in_by_them() {
    let mut world = Simulation::seeded(1);
    let alice = world.knocks(0, "Alice");
    assert_eq!(world.device(alice).code().map(str::len), Some(6));
    world.approve(world.device(alice).public_id, "no digits");
    let wrong = if world.device(alice).code() == Some("123456") { "654321" } else { "123456" };
    world.approve(world.device(alice).public_id, wrong);
    world.run_for(SECOND);
    assert_eq!((world.verdict(alice), world.seen("wrong code")), (None, 1));
    world.let_in(alice);
    assert_eq!(world.verdict(alice), Some(Verdict::Approved));
    world.settle();
}

#[test]
fn three_wrong_codes_make_new_digits() {
    let mut world = Simulation::seeded(2);
    let alice = world.knocks(0, "Alice");
    let shown = world.device(alice).code().unwrap().to_owned();
    let wrong = if shown == "123456" { "654321" } else { "123456" };
    for _ in 0..3 {
        world.approve(world.device(alice).public_id, wrong);
        world.run_for(SECOND);
    }
    assert_eq!(world.seen("knock restarted"), 1);
    assert_ne!(world.device(alice).code(), Some(shown.as_str()));
    world.approve(world.device(alice).public_id, &shown);
    world.run_for(SECOND);
    assert_eq!(world.verdict(alice), None, "old digits open nothing");
    world.let_in(alice);
    world.settle();
}

#[test]
fn nothing_of_the_hub_is_visible_at_the_door() {
    let mut world = Simulation::seeded(3);
    let alice = world.joins(0, "Alice");
    let film = world.shares(alice, "film.mkv", MIB);
    let mallory = world.knocks(1, "Mallory");
    let file_ids = vec![film.file_id];
    world.say_raw(mallory, DeviceToRelay::RemoveFile(RemoveFile { file_ids, keep: false }), true);
    world.run_for(SECOND);
    let catalogue = world.device(mallory).peer.as_ref().unwrap().catalogue();
    assert!(
        catalogue.clients.is_empty() && catalogue.files.is_empty() && catalogue.online.is_empty()
    );
    assert!(world.sees(alice, film).is_some());
    world.settle();
}

#[test]
fn a_refusal_is_final_across_restarts_until_it_is_forgotten() {
    let mut world = Simulation::seeded(4);
    let (alice, bob) = (world.joins(0, "Alice"), world.joins(1, "Bob"));
    let notes = world.shares(bob, "notes.txt", 100);
    let bob_id = world.device(bob).public_id;
    world.refuse(bob_id);
    assert_eq!(world.device(bob).ended(), Some(EndReason::Refused));
    assert!(world.sees(alice, notes).is_none(), "what he shared went with him");
    world.kill_relay();
    world.kill_master();
    world.start_relay();
    world.start_master();
    world.kill_device(bob);
    world.start_device(bob);
    world.run_for(20 * SECOND);
    assert_eq!(world.device(bob).ended(), Some(EndReason::Refused));
    world.forget(bob_id);
    world.kill_device(bob);
    world.start_device(bob);
    world.run_for(5 * SECOND);
    assert!(
        matches!(world.device(bob).phase, MembershipPhase::Waiting { code: Some(_) }),
        "he may ask again, no more"
    );
    world.settle();
}

#[test]
fn an_approval_that_is_not_on_disk_never_was() {
    // Wherever the master dies between the digits and the disk, the device is in or at the door,
    // never between.
    for delay in 0..60 {
        let mut world = Simulation::new(
            delay,
            SimulationConfig { latency_ms: 10, ..SimulationConfig::default() },
        );
        world.run_for(500);
        let alice = world.knocks(0, "Alice");
        let code = world.device(alice).code().unwrap().to_owned();
        world.approve(world.device(alice).public_id, &code);
        world.run_for(delay);
        world.kill_master();
        world.run_for(SECOND);
        world.start_master();
        world.run_for(20 * SECOND);
        let device = world.device(alice);
        match world.verdict(alice) {
            Some(Verdict::Approved) => {
                assert!(device.is_approved(), "after {delay} ms: {:?}", device.phase)
            }
            _ => assert!(device.code().is_some(), "after {delay} ms: {:?}", device.phase),
        }
        world.settle();
    }
}

#[test]
fn all_tabs_of_a_device_come_in_together() {
    let mut world = Simulation::seeded(5);
    let (tab, other) = (world.knocks(0, "Alice"), world.knocks(0, "Alice"));
    world.let_in(tab);
    assert!(world.device(other).is_approved());
    world.settle();
}

// ── The list
// ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn everybody_sees_what_is_added_and_removed_at_once() {
    let mut world = Simulation::seeded(10);
    let (alice, bob) = (world.joins(0, "Alice"), world.joins(1, "Bob"));
    let film = world.shares(alice, "film.mkv", 10 * MIB);
    assert_eq!(world.sees(bob, film).map(|entry| entry.size), Some(10 * MIB));
    assert_eq!(
        world.sees(bob, film),
        world.sees(alice, film),
        "the owner sees it as the others do"
    );
    world.unshare(alice, film.file_id);
    world.run_for(SECOND);
    assert!(world.sees(bob, film).is_none());
    world.settle();
}

#[test]
fn a_bad_path_fails_alone() {
    let mut world = Simulation::seeded(11);
    let alice = world.joins(0, "Alice");
    let bad = world.share(alice, "../../etc/passwd", 10, false);
    let good = world.share(alice, "etc/passwd", 10, false);
    world.run_for(5 * SECOND);
    let owner = world.device(alice).public_id;
    assert!(world.sees(alice, FileRef { public_id: owner, file_id: bad }).is_none());
    assert!(world.sees(alice, FileRef { public_id: owner, file_id: good }).is_some());
    world.settle();
}

#[test]
fn away_is_withdrawn_after_the_grace_and_listed_again_on_return() {
    let mut world = Simulation::seeded(12);
    let (alice, bob) = (world.joins(0, "Alice"), world.joins(1, "Bob"));
    let film = world.shares(alice, "film.mkv", MIB);
    world.unplug(alice, 0);
    world.run_for(30 * SECOND);
    assert!(world.sees(bob, film).is_some(), "within the grace");
    world.run_for(60 * SECOND);
    assert!(world.sees(bob, film).is_none(), "after it");
    assert!(world.disk.files.contains_key(&film), "withdrawn, not removed");
    world.plug_in(alice);
    world.run_for(30 * SECOND);
    assert!(world.sees(bob, film).is_some(), "back");
    world.settle();
}

#[test]
fn a_device_that_slept_through_many_changes_catches_up() {
    let mut world = Simulation::seeded(13);
    let (alice, bob) = (world.joins(0, "Alice"), world.joins(1, "Bob"));
    world.stall(bob);
    for n in 0..200 {
        world.share(alice, &format!("{n}.txt"), n, false);
        world.run_for(20);
    }
    world.unstall_device(bob);
    world.run_for(10 * SECOND);
    assert!(world.seen("feed dirty") > 0, "his changes did not fit the outbox");
    assert_eq!(world.device(bob).peer.as_ref().unwrap().catalogue().files.len(), 200);
    world.settle();
}

/// R23: twenty devices add and take away at once, ten thousand times, and all see the same list in
/// the end.
#[test]
fn twenty_devices_that_add_and_remove_at_once_see_one_list() {
    let mut world = Simulation::seeded(15);
    let devices: Vec<DeviceIndex> =
        (0..20).map(|n| world.joins(n, &format!("device {n}"))).collect();
    let mut offered: Vec<Vec<FileId>> = vec![Vec::new(); devices.len()];
    for change in 0..10_000usize {
        // Who, and what, in an order without a pattern that matters.
        let who = change * 7 % devices.len();
        let own = &mut offered[who];
        if change * 31 % 10 < 4 && !own.is_empty() {
            let file_id = own.swap_remove(change * 13 % own.len());
            world.unshare(devices[who], file_id);
        } else {
            own.push(world.share(devices[who], &format!("{who}/{change}.txt"), 10, false));
        }
        world.run_for(3);
    }
    world.run_for(5 * SECOND);
    let mut expected: Vec<FileId> = offered.concat();
    expected.sort();
    for index in &devices {
        let listed = &world.device(*index).peer.as_ref().unwrap().catalogue().files;
        let mut seen: Vec<FileId> = listed.keys().map(|file| file.file_id).collect();
        seen.sort();
        assert!(seen == expected, "{} of {} files", seen.len(), expected.len());
    }
    world.settle();
}

#[test]
fn a_restart_of_the_master_changes_nothing_that_was_listed() {
    let mut world = Simulation::seeded(14);
    let (alice, bob) = (world.joins(0, "Alice"), world.joins(1, "Bob"));
    let film = world.shares(alice, "film.mkv", MIB);
    let before = (world.disk.epoch, world.sees(bob, film).cloned());
    world.kill_master();
    world.run_for(5 * SECOND);
    assert!(matches!(world.device(bob).phase, MembershipPhase::Approved { host_away: true }));
    world.start_master();
    world.run_for(5 * SECOND);
    assert_eq!((world.disk.epoch, world.sees(bob, film).cloned()), before);
    world.settle();
}

// ── Bytes
// ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Two who are in, and a file of one of them.
fn pair(seed: u64, size: u64) -> (Simulation, DeviceIndex, DeviceIndex, FileRef) {
    let mut world = Simulation::seeded(seed);
    let (alice, bob) = (world.joins(0, "Alice"), world.joins(1, "Bob"));
    let film = world.shares(alice, "film.mkv", size);
    (world, alice, bob, film)
}

#[test]
fn a_download_completes_and_its_root_becomes_known() {
    let (mut world, _, bob, film) = pair(20, 3 * MIB + 5);
    let transfer = world.fetches(bob, film);
    world.run_for(5 * SECOND);
    assert!(world.has(bob, transfer, film.file_id));
    let root = world.model.truth[&film].0.root();
    assert_eq!(world.sees(bob, film).unwrap().root, Some(root));
    world.settle();
}

#[test]
fn one_upload_serves_all_who_wait() {
    let (mut world, _, bob, film) = pair(21, 20 * MIB);
    let others: Vec<DeviceIndex> = (2..6).map(|key| world.joins(key, "Another")).collect();
    let mut transfers = vec![(bob, world.fetches(bob, film))];
    for other in others {
        transfers.push((other, world.fetches(other, film)));
        world.run_for(20);
    }
    world.run_for(60 * SECOND);
    for (who, transfer) in transfers {
        assert!(world.has(who, transfer, film.file_id));
    }
    let uploaded = world.model.uploaded_bytes as f64 / (20 * MIB) as f64;
    assert!(uploaded < 1.02, "uploaded {uploaded} times");
    world.settle();
}

#[test]
fn a_download_survives_an_owner_who_was_cut_off() {
    let (mut world, alice, bob, film) = pair(22, 10 * MIB);
    world.device_mut(alice).put_ms = 200;
    let transfer = world.fetches(bob, film);
    world.run_for(600);
    world.unplug(alice, 200);
    world.run_for(5 * SECOND);
    assert!(!world.has(bob, transfer, film.file_id));
    world.plug_in(alice);
    world.run_for(60 * SECOND);
    assert!(world.has(bob, transfer, film.file_id));
    assert!(world.model.uploaded_bytes < 13 * MIB, "what was received is not asked for again");
    world.settle();
}

#[test]
fn a_download_waits_for_an_owner_overnight() {
    let (mut world, alice, bob, film) = pair(23, 10 * MIB);
    world.device_mut(alice).put_ms = 40;
    let transfer = world.fetches(bob, film);
    world.run_for(500);
    world.kill_device(alice);
    world.run_for(8 * 3_600 * SECOND);
    assert!(world.sees(bob, film).is_none(), "withdrawn long ago");
    world.start_device(alice);
    world.run_for(60 * SECOND);
    assert!(world.has(bob, transfer, film.file_id));
    world.settle();
}

#[test]
fn a_download_survives_relay_and_master() {
    let (mut world, alice, bob, film) = pair(24, 20 * MIB);
    world.device_mut(alice).put_ms = 40;
    let transfer = world.fetches(bob, film);
    world.run_for(500);
    world.kill_master();
    world.run_for(500);
    assert!(world.seen("chunk ready") > 0);
    let before = world.model.uploaded_bytes;
    world.run_for(500);
    assert!(world.model.uploaded_bytes > before, "what was granted goes on without the master");
    world.start_master();
    world.run_for(200);
    world.kill_relay();
    world.run_for(2 * SECOND);
    world.start_relay();
    world.run_for(90 * SECOND);
    assert!(world.has(bob, transfer, film.file_id));
    assert_eq!(world.disk.members.len(), 2, "no second approval");
    world.settle();
}

#[test]
fn wrong_bytes_are_thrown_away_and_asked_for_again() {
    let (mut world, alice, bob, film) = pair(25, 3 * MIB);
    let first = world.fetches(bob, film);
    world.run_for(10 * SECOND);
    assert!(world.has(bob, first, film.file_id));
    world.run_for(120 * SECOND); // out of the cache, so that it is uploaded anew
    world.device_mut(alice).corrupt = 1;
    let carol = world.joins(2, "Carol");
    let second = world.fetches(carol, film);
    world.run_for(60 * SECOND);
    assert_eq!(world.seen("wrong bytes sent"), 1);
    assert!(world.has(carol, second, film.file_id), "the second try is right");
    let stored: Vec<_> =
        world.device(carol).stored[&(second, film.file_id)].values.values().copied().collect();
    assert_eq!(stored, world.model.truth[&film].0.values());
    world.settle();
}

#[test]
fn a_file_that_changed_ends_its_downloads_and_comes_back_as_another() {
    let (mut world, alice, bob, film) = pair(26, 5 * MIB);
    world.change_file(alice, film.file_id);
    let transfer = world.fetches(bob, film);
    world.run_for(20 * SECOND);
    let download = &world.device(bob).downloads[&transfer];
    let ends = [FailureCode::FileChanged, FailureCode::FileGone];
    assert!(
        download.failed.get(&film.file_id).is_some_and(|code| ends.contains(code)),
        "{download:?}"
    );
    assert!(world.sees(bob, film).is_none());
    assert_eq!(world.seen("file replaced"), 1);
    world.settle();
}

#[test]
fn a_removed_file_ends_its_downloads() {
    let (mut world, alice, bob, film) = pair(27, 10 * MIB);
    world.device_mut(alice).put_ms = 100;
    let transfer = world.fetches(bob, film);
    world.run_for(300);
    world.unshare(alice, film.file_id);
    world.run_for(2 * SECOND);
    assert_eq!(
        world.device(bob).downloads[&transfer].failed.get(&film.file_id),
        Some(&FailureCode::FileGone)
    );
    world.settle();
}

#[test]
fn a_frozen_tab_counts_as_away_until_it_speaks() {
    let (mut world, alice, bob, film) = pair(28, 3 * MIB);
    world.freeze(alice);
    let transfer = world.fetches(bob, film);
    world.run_for(40 * SECOND);
    assert_eq!(world.seen("fell asleep"), 1, "its PUTs lapse though its socket answers");
    world.thaw(alice);
    world.run_for(60 * SECOND);
    assert!(world.has(bob, transfer, film.file_id));
    world.settle();
}

#[test]
fn a_reader_that_stands_still_does_not_hold_up_the_others() {
    let mut world = Simulation::new(
        29,
        SimulationConfig { budget_bytes: 4 * MIB, ..SimulationConfig::default() },
    );
    world.run_for(500);
    let (alice, bob, carol) =
        (world.joins(0, "Alice"), world.joins(1, "Bob"), world.joins(2, "Carol"));
    let film = world.shares(alice, "film.mkv", 20 * MIB);
    world.device_mut(bob).holds_gets = true;
    let stuck = world.fetches(bob, film);
    world.run_for(SECOND);
    let running = world.fetches(carol, film);
    world.run_for(120 * SECOND);
    assert!(world.has(carol, running, film.file_id));
    world.device_mut(bob).holds_gets = false;
    world.run_for(120 * SECOND);
    assert!(world.has(bob, stuck, film.file_id));
    world.settle();
}

#[test]
fn an_asker_that_is_gone_leaves_nothing_behind() {
    let (mut world, alice, bob, film) = pair(30, 20 * MIB);
    world.device_mut(alice).put_ms = 50;
    world.fetches(bob, film);
    world.run_for(500);
    world.kill_device(bob);
    world.run_for(10 * SECOND);
    let uploaded = world.model.uploaded_bytes;
    world.run_for(30 * SECOND);
    assert_eq!(world.model.uploaded_bytes, uploaded, "nobody waits, nobody uploads");
    world.settle();
}

// ── Links
// ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_link_waits_for_its_owner_and_goes_on() {
    let (mut world, alice, bob, film) = pair(40, 10 * MIB);
    let link = world.make_link(bob, vec![film]).unwrap();
    world.run_for(SECOND);
    world.device_mut(alice).put_ms = 40;
    world.open_link(link);
    world.run_for(500);
    world.kill_device(alice);
    world.run_for(3_600 * SECOND);
    assert_eq!(
        world.links[link].state,
        LinkReadingState::Reading,
        "the response stays open and silent"
    );
    world.start_device(alice);
    world.run_for(60 * SECOND);
    assert_eq!(world.links[link].state, LinkReadingState::Done);
    world.settle();
}

#[test]
fn a_link_across_owners_reads_each_in_turn() {
    let (mut world, _, bob, film) = pair(41, 2 * MIB);
    let notes = world.shares(bob, "notes.txt", 600_000);
    let link = world.make_link(bob, vec![film, notes]).unwrap();
    world.run_for(SECOND);
    world.open_link(link);
    world.run_for(30 * SECOND);
    assert_eq!(world.links[link].state, LinkReadingState::Done);
    world.settle();
}

#[test]
fn a_dropped_link_cuts_its_readers_wherever_they_wait() {
    for delay in [0, 3, 6, 10, 50, 300] {
        let (mut world, alice, bob, film) = pair(42, 10 * MIB);
        let link = world.make_link(bob, vec![film]).unwrap();
        world.run_for(SECOND);
        world.device_mut(alice).put_ms = 100;
        world.open_link(link);
        world.run_for(delay);
        world.drop_link(link);
        world.run_for(5 * SECOND);
        assert!(
            matches!(world.links[link].state, LinkReadingState::Failed(_)),
            "{delay}: {:?}",
            world.links[link].state
        );
        world.settle();
    }
}

#[test]
fn an_ended_links_address_opens_nothing_for_whoever_registers_its_hash() {
    let (mut world, _, bob, film) = pair(46, MIB);
    let carol = world.joins(2, "Carol");
    let own = world.shares(carol, "other.bin", MIB);
    let link = world.make_link(bob, vec![film]).unwrap();
    world.run_for(SECOND);
    let early = world.squat_link(carol, link, vec![own]).unwrap();
    world.run_for(SECOND);
    assert_eq!(
        world.links[early].state,
        LinkReadingState::NotMade(FailureCode::NotFound),
        "the link lives"
    );
    world.open_link(link);
    world.run_for(30 * SECOND);
    assert_eq!(world.links[link].state, LinkReadingState::Done);
    world.drop_link(link);
    world.run_for(SECOND);
    let squatted = world.squat_link(carol, link, vec![own]).unwrap();
    world.run_for(SECOND);
    assert_eq!(world.links[squatted].state, LinkReadingState::Made);
    for lost in [false, true] {
        if lost {
            world.kill_relay();
            world.run_for(SECOND);
            world.start_relay();
            world.run_for(20 * SECOND);
        }
        world.open_link(link);
        world.run_for(20 * SECOND);
        assert_eq!(
            world.links[link].state,
            LinkReadingState::Failed(FailureCode::NotFound),
            "relay lost: {lost}"
        );
    }
    assert_eq!(world.seen("link use begun"), 0);
    world.settle();
}

#[test]
fn a_link_survives_the_relay() {
    let (mut world, alice, bob, film) = pair(43, 10 * MIB);
    let link = world.make_link(bob, vec![film]).unwrap();
    world.run_for(SECOND);
    world.device_mut(alice).put_ms = 40;
    world.open_link(link);
    world.run_for(500);
    world.kill_relay();
    world.run_for(SECOND);
    world.start_relay();
    world.run_for(60 * SECOND);
    assert_eq!(world.links[link].state, LinkReadingState::Done, "the master knows it");
    world.settle();
}

#[test]
fn a_link_that_holds_what_it_cannot_read_yet_gives_way() {
    // Its first file's owner is away; its second file is there and fills the whole budget.
    let mut world =
        Simulation::new(44, SimulationConfig { budget_bytes: MIB, ..SimulationConfig::default() });
    world.run_for(500);
    let (alice, bob, carol) =
        (world.joins(0, "Alice"), world.joins(1, "Bob"), world.joins(2, "Carol"));
    let (first, second) = (world.shares(alice, "a", MIB), world.shares(bob, "b", MIB));
    let third = world.shares(bob, "c", MIB);
    let link = world.make_link(carol, vec![first, second]).unwrap();
    world.run_for(SECOND);
    world.kill_device(alice);
    world.open_link(link);
    world.run_for(10 * SECOND);
    let transfer = world.fetches(carol, third);
    world.run_for(120 * SECOND);
    assert!(world.has(carol, transfer, third.file_id));
    world.start_device(alice);
    world.run_for(120 * SECOND);
    assert_eq!(world.links[link].state, LinkReadingState::Done);
    world.settle();
}

#[test]
fn the_same_instance_twice_leaves_the_newer_one() {
    let mut world = Simulation::seeded(50);
    let tab = world.joins(0, "Alice");
    let copy = world.add_device(0, "Alice");
    world.device_mut(copy).instance = world.device(tab).instance;
    world.start_device(copy);
    world.run_for(10 * SECOND);
    assert_eq!(world.device(tab).ended(), Some(EndReason::Superseded));
    assert!(world.device(copy).is_approved(), "the late goodbye of the older evicts nobody");
    world.settle();
}
