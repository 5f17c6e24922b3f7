//! A71. Readers that stop in the middle of a body: the hub keeps a place and a small frame for
//! each, whatever they took before. Memory is measured in a process of its own, where nothing else
//! runs.

use std::net::SocketAddr;
use std::time::Duration;

use lanyard_protocol::limits::MAX_LARGE_FRAMES_A_NET;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// As many as one address may have, less a few.
const READERS: usize = 120;
/// A body whose reader stops costs less than this, besides the budget and the pool of large frames.
const EACH: usize = 64 * KIB;
/// All readers are of one network.
const LARGE_FRAMES: usize = MAX_LARGE_FRAMES_A_NET * 256 * KIB;

fn alone(test: &str) {
    let program = std::env::current_exe().unwrap();
    let run = std::process::Command::new(program)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn a71_readers_of_links_that_stop_cost_less_than_64_kib_each() {
    alone("paused::readers_of_links");
}

#[test]
#[cfg(target_os = "linux")]
fn a71_readers_of_tickets_that_stop_cost_less_than_64_kib_each() {
    alone("paused::readers_of_tickets");
}

/// Memory of this process that is in use.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * KIB
}

/// Sends a request and reads so many bytes of the answer.
async fn reads(address: SocketAddr, request: String, bytes: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * KIB as u32).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    // Small, because the memory of all readers is looked at.
    let mut buffer = vec![0; 4 * KIB];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(buffer.len());
        let count = stream.read(&mut buffer[..most]).await.unwrap();
        assert!(count > 0, "the body ended, {left} bytes before the reader stopped");
        left -= count;
    }
    stream
}

/// Waits until the sockets are full and no body moves any more.
async fn nothing_moves(hub: &TestHub) {
    let moved = async || {
        let metrics = hub.metrics().await;
        let lines = metrics
            .lines()
            .filter(|line| line.contains("to=\"link\"") || line.contains("to=\"device\""));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut before = moved().await;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = moved().await;
        if now == before {
            return;
        }
        before = now;
    }
}

#[tokio::test]
#[ignore = "measures in a process of its own, which a71_readers_of_links_that_stop starts"]
async fn readers_of_links() {
    const BUDGET: usize = 8 * MIB;
    let hub = TestHub::with_budget(BUDGET as u64).await;
    let mut owner = hub.approved(1).await;
    let entry = owner.offers("film.mkv", 16 * MIB as u64).await;
    let link = owner.link(&[&entry]).await;
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", link.url, hub.address);
    let whole = reads(hub.address, request.clone(), 16 * MIB);
    drop(while_serving(&mut owner, whole).await); // the budget was used once, and whatever is kept of it is kept
    let before = resident();
    let (paused, _) = while_serving(&mut owner, async {
        let all = (0..READERS).map(|_| reads(hub.address, request.clone(), MIB));
        let paused = futures_util::future::join_all(all).await;
        nothing_moves(&hub).await;
        paused
    })
    .await;
    let held = resident().saturating_sub(before);
    assert_eq!(paused.len(), READERS);
    assert!(
        held <= READERS * EACH + LARGE_FRAMES + BUDGET,
        "{} KiB for {READERS} readers",
        held / KIB
    );
    eprintln!("links: {} KiB for {READERS} readers", held / KIB);
}

#[tokio::test]
#[ignore = "measures in a process of its own, which a71_readers_of_tickets_that_stop starts"]
async fn readers_of_tickets() {
    /// One run, larger than what sockets hold.
    const RUN: usize = 8 * MIB;
    let hub = TestHub::with_budget(8 * RUN as u64).await;
    let mut owner = hub.approved(1).await;
    let entry = owner.offers("film.mkv", RUN as u64).await;
    let mut askers = [hub.approved(2).await, hub.approved(3).await];
    let mut requests = Vec::new();
    let mut uploads = Vec::new();
    for transfer in 0..READERS / 2 {
        for asker in &mut askers {
            asker.request(&entry, transfer as u8 + 1, 0, (RUN / (256 * KIB)) as u32).await;
            if uploads.is_empty() {
                let upload = owner.asked().await;
                uploads
                    .push(tokio::spawn(owner.put(&upload.ticket, owner.body_of(&upload)).send()));
            }
            let target = format!("/chunks/{}", asker.ready().await.ticket.to_hex());
            let proof = asker.proof("GET", &target);
            requests
                .push(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{proof}\r\n\r\n", hub.address));
        }
    }
    let upload = within(uploads.remove(0)).await.unwrap().unwrap();
    assert_eq!(upload.status(), 204);
    let before = resident();
    let paused = within(async {
        let all = requests.into_iter().map(|request| reads(hub.address, request, MIB));
        let paused = futures_util::future::join_all(all).await;
        nothing_moves(&hub).await;
        paused
    })
    .await;
    let held = resident().saturating_sub(before);
    assert_eq!(paused.len(), READERS);
    assert!(held <= READERS * EACH + LARGE_FRAMES, "{} KiB for {READERS} readers", held / KIB);
    eprintln!("tickets: {} KiB for {READERS} readers", held / KIB);
}
