//! One device that was let in and does all the harm that it may: `hostile PORT`, until it is
//! killed. Three tabs pour pulls of the list into their sockets and read no answer; a fourth asks
//! for all of the largest file in one transfer after the other, and fetches nothing of it. Says
//! `ready` when it has begun. The hub lets everybody in.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use lanyard_protocol::*;
use lanyard_tests::harness::{TestDevice, TestHub};

const SEED: u8 = 66;
const POURING: u8 = 3;
/// As many groups as a request may have in bytes.
const GROUPS: u32 = 16;

async fn pours(mut device: TestDevice) {
    loop {
        let pull = message::FeedPull { feed: Default::default(), epoch: 0, since: 0, cursor: None };
        device.say(DeviceToRelay::FeedPull(pull)).await;
    }
}

async fn asks(mut device: TestDevice, largest: FileEntry) {
    let groups = (largest.size >> largest.group_log) as u32;
    let mut transfer = 0u8;
    loop {
        transfer = transfer.wrapping_add(1);
        for first in (0..groups).step_by(GROUPS as usize) {
            device.request(&largest, transfer, first, GROUPS.min(groups - first)).await;
            // It hears, so that it is not taken for somebody who does not, and lets everything lie.
            while tokio::time::timeout(Duration::from_millis(1), device.next()).await.is_ok() {}
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let hub = TestHub::elsewhere(SocketAddr::from(([127, 0, 0, 1], port)));
    let mut asking = TestDevice::enters(&hub, SEED, POURING).await;
    let has_files =
        |m: &RelayToDevice| matches!(m, RelayToDevice::FeedPage(page) if !page.files.is_empty());
    let RelayToDevice::FeedPage(page) = asking.until(has_files).await else { unreachable!() };
    let largest = page.files.into_iter().max_by_key(|file| file.size).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..POURING {
        tasks.spawn(pours(TestDevice::enters(&hub, SEED, number).await));
    }
    tasks.spawn(asks(asking, largest));
    println!("ready");
    tasks.join_next().await;
}
