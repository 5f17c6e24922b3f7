//! What people do with a hub, one story a test.

use lanyard_hub::authority::Verdict;
use lanyard_tests::World;

const MIB: u64 = 1 << 20;

#[test]
fn a_device_is_let_in_and_sees_who_is_there() {
    let mut world = World::seeded(1);
    let alice = world.joins(0, "Alice");
    let bob = world.joins(1, "Bob");
    assert_eq!(world.verdict(alice), Some(Verdict::Approved));
    assert_eq!(world.device(bob).peer.as_ref().unwrap().catalogue().clients.len(), 2);
    world.settle();
}

#[test]
fn a_file_reaches_who_asks_for_it() {
    let mut world = World::seeded(2);
    let (alice, bob) = (world.joins(0, "Alice"), world.joins(1, "Bob"));
    let film = world.shares(alice, "film.mkv", 3 * MIB + 5);
    let transfer = world.fetches(bob, film);
    world.run_for(5_000);
    assert!(world.has(bob, transfer, film.file_id));
    world.settle();
}
