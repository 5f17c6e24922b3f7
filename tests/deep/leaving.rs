//! How soon others know that somebody has gone: `leaving PORT PID`, PID the hub's process. Two
//! hundred times an owner is gone while its bytes travel, and as often an asker while it waits for
//! them: R01, R02 and R46 of `tests/faults.md`. Prints Markdown; panics if more than one in a
//! hundred takes longer than 50 ms, or if anything of them is left in the hub.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lanyard_protocol::message::UploadChunkRequest;
use lanyard_protocol::*;
use lanyard_tests::harness::{TestDevice, TestHub};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const ROUNDS: u8 = 200;
const BOUND: Duration = Duration::from_millis(50);
const OWNER: u8 = 1;
const ASKER: u8 = 2;
const WATCHER: u8 = 3;
const SIZE: u64 = 1 << 20;

/// A PUT whose first half is on its way, and no more comes.
fn half_a_put(
    owner: &TestDevice,
    request: &UploadChunkRequest,
) -> (JoinHandle<()>, mpsc::Sender<Bytes>) {
    let body = owner.body_of(request);
    let (pieces, rest) = mpsc::channel::<Bytes>(1);
    let stream = futures_util::stream::unfold(
        (rest, Some(Bytes::from(body[..body.len() / 2].to_vec()))),
        next_piece,
    );
    let put = owner
        .put(&request.ticket, reqwest::Body::wrap_stream(stream))
        .header("content-length", body.len());
    (tokio::spawn(async move { drop(put.send().await) }), pieces)
}

type Pieces = (mpsc::Receiver<Bytes>, Option<Bytes>);

async fn next_piece((mut rest, first): Pieces) -> Option<(std::io::Result<Bytes>, Pieces)> {
    let piece = match first {
        Some(piece) => piece,
        None => rest.recv().await?,
    };
    Some((Ok(piece), (rest, None)))
}

/// A GET that has had this half, and waits for more.
async fn half_a_body(asker: &mut TestDevice, length: u64) -> reqwest::Response {
    let ready = asker.ready().await;
    let mut body = asker.get(&ready.ticket).send().await.unwrap();
    let mut had = 0;
    while had < length / 2 {
        had += body.chunk().await.unwrap().expect("half of it comes").len() as u64;
    }
    body
}

/// The value of one line of `/metrics`.
async fn metric(hub: &TestHub, name: &str) -> u64 {
    let token = std::fs::read_to_string(std::env::args().nth(3).unwrap()).unwrap();
    let asked = reqwest::Client::new().get(hub.http("/metrics")).bearer_auth(token);
    let page = asked.send().await.unwrap().text().await.unwrap();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .expect("the metric is there");
    line.parse().unwrap()
}

async fn until(hub: &TestHub, name: &str, is: impl Fn(u64) -> bool) -> Duration {
    let started = Instant::now();
    while !is(metric(hub, name).await) {
        assert!(started.elapsed() < Duration::from_secs(60), "{name} stays as it is");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    started.elapsed()
}

/// Threads and descriptors of a process, where the system tells.
fn standing(pid: &str) -> Option<(usize, usize)> {
    let count = |what| Some(std::fs::read_dir(format!("/proc/{pid}/{what}")).ok()?.count());
    Some((count("task")?, count("fd")?))
}

/// The owner is gone in mid-body: until its asker hears so, and until everybody does.
async fn owner_leaves(hub: &TestHub, watcher: &mut TestDevice, tab: u8) -> [Duration; 2] {
    let mut owner = TestDevice::enters(hub, OWNER, tab).await;
    let entry = owner.offers("film.mkv", SIZE).await;
    let mut asker = TestDevice::enters(hub, ASKER, tab).await;
    let (owner_id, asker_id) = (owner.id, asker.id);
    watcher
        .until(|m| matches!(m, RelayToDevice::ClientReconnected(c) if c.public_id == asker_id))
        .await;
    asker.request(&entry, tab, 0, 4).await;
    let request = owner.asked().await;
    let (put, _pieces) = half_a_put(&owner, &request);
    let mut body = half_a_body(&mut asker, request.length).await;

    put.abort();
    let started = Instant::now();
    drop(owner);
    let told = async {
        assert!(body.chunk().await.is_err(), "half a body is no whole one");
        started.elapsed()
    };
    let seen = async {
        watcher
            .until(|m| matches!(m, RelayToDevice::ClientDisconnected(c) if c.public_id == owner_id))
            .await;
        started.elapsed()
    };
    let (told, seen) = tokio::join!(told, seen);
    drop(asker);
    watcher
        .until(|m| matches!(m, RelayToDevice::ClientDisconnected(c) if c.public_id == asker_id))
        .await;
    [told, seen]
}

/// The asker is gone while the owner sends: until the owner is told to stop, and until nothing of
/// it is reserved.
async fn asker_leaves(
    hub: &TestHub,
    owner: &mut TestDevice,
    entry: &FileEntry,
    tab: u8,
) -> [Duration; 2] {
    let mut asker = TestDevice::enters(hub, ASKER, tab).await;
    asker.request(entry, tab, 0, 4).await;
    let request = owner.asked().await;
    let (put, _pieces) = half_a_put(owner, &request);
    let body = half_a_body(&mut asker, request.length).await;
    let started = Instant::now();
    drop((asker, body));
    owner
        .until(|m| matches!(m, RelayToDevice::UploadCancelled(c) if c.ticket == request.ticket))
        .await;
    let told = started.elapsed();
    until(hub, "lanyard_slot_bytes", |bytes| bytes == 0).await;
    let freed = started.elapsed();
    put.abort();
    [told, freed]
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, pid, _token] = words.as_slice() else { panic!("leaving PORT PID TOKEN_FILE") };
    let hub = TestHub::elsewhere(SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())));
    for seed in [OWNER, ASKER] {
        drop(TestDevice::enters(&hub, seed, 0).await);
    }
    let mut watcher = TestDevice::enters(&hub, WATCHER, 0).await;
    until(&hub, "lanyard_sessions", |sessions| sessions == 2).await;
    let before = standing(pid);

    let mut times: [Vec<Duration>; 4] = Default::default();
    for tab in 1..=ROUNDS {
        let took = owner_leaves(&hub, &mut watcher, tab).await;
        times[..2].iter_mut().zip(took).for_each(|(all, one)| all.push(one));
    }
    let mut owner = TestDevice::enters(&hub, OWNER, 0).await;
    let entry = owner.offers("film.mkv", SIZE).await;
    for tab in 1..=ROUNDS {
        let took = asker_leaves(&hub, &mut owner, &entry, tab).await;
        times[2..].iter_mut().zip(took).for_each(|(all, one)| all.push(one));
    }
    drop(owner);
    until(&hub, "lanyard_sessions", |sessions| sessions == 2).await;
    let left = [
        ("lanyard_slots", 0),
        ("lanyard_slot_bytes", 0),
        ("lanyard_readers", 0),
        ("lanyard_waiting_asks", 0),
    ];
    for (name, none) in left {
        until(&hub, name, |value| value == none).await;
    }
    print(&mut times, before, standing(pid));
}

fn print(
    times: &mut [Vec<Duration>; 4],
    before: Option<(usize, usize)>,
    after: Option<(usize, usize)>,
) {
    println!("| {ROUNDS} times, until | p50 | p99 | longest |\n|---|---|---|---|");
    let names = [
        "the owner is gone: its asker's body breaks off",
        "… and everybody sees it away",
        "the asker is gone: the owner is told to stop",
        "… and nothing of it is reserved, by `/metrics`",
    ];
    for (name, all) in names.iter().zip(times.iter_mut()) {
        all.sort();
        let ms = |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!("| {name} | {:.1} ms | {:.1} ms | {:.1} ms |", ms(0.5), ms(0.99), ms(1.0));
    }
    if let Some(((threads, files), (threads_then, files_then))) = before.zip(after) {
        println!(
            "\nThe hub's threads before and after: {threads}, {threads_then}; its descriptors: {files}, {files_then}."
        );
        // Connections of the HTTP client that looks at the metrics stay open for a while.
        assert!(threads_then <= threads && files_then <= files + 8, "something is left");
    }
    let p99 = |all: &[Duration]| all[(all.len() - 1) * 99 / 100];
    assert!(
        times.iter().all(|all| p99(all) <= BOUND),
        "who is gone is noticed later than after {BOUND:?}"
    );
}
