//! Floods a running hub and watches what it takes: `floods PORT PROCESS`. The hub lets everybody in
//! and has its usual budget. Prints Markdown; panics if a promise is broken.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream;
use lanyard_protocol::limits::DEFAULT_BUDGET_BYTES;
use lanyard_protocol::*;
use lanyard_tests::harness::{TestDevice, TestHub};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LASTS: Duration = Duration::from_secs(12);
/// More than the budget, with what it costs to hold it.
const ALLOWED: u64 = DEFAULT_BUDGET_BYTES + DEFAULT_BUDGET_BYTES / 10;

/// A reader that stands still has a few frames on their way to it, which are beside the budget.
const READERS: u64 = 48;
const A_READER: u64 = 256 << 10;

fn resident(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Runs a flood, looks ten times a second, and gives its row and whether the memory stayed within
/// `allowed`.
async fn watch(
    process: &str,
    name: &str,
    allowed: u64,
    flood: impl Future<Output = String>,
) -> bool {
    let idle = resident(process);
    let (mut most, started) = (idle, Instant::now());
    tokio::pin!(flood);
    let what = loop {
        tokio::select! {
            what = &mut flood => break what,
            () = tokio::time::sleep(Duration::from_millis(100)) => most = most.max(resident(process)),
        }
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let more = most - idle;
    let verdict = if more <= allowed { "yes" } else { "NO" };
    println!(
        "| {name} | {what} | {:.0} s | {:.1} MiB | {:.1} MiB | {:.1} MiB: {verdict} |",
        started.elapsed().as_secs_f64(),
        mib(idle),
        mib(more),
        mib(allowed)
    );
    more <= allowed
}

/// Approved sessions that say as much as they can and read nothing.
async fn messages(hub: &TestHub) -> String {
    let sent = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for tab in 0..32u8 {
        let mut device = TestDevice::enters(hub, 10 + tab / 4, tab).await;
        let sent = sent.clone();
        tasks.spawn(async move {
            let until = Instant::now() + LASTS;
            while Instant::now() < until {
                let pull = message::FeedPull {
                    feed: Default::default(),
                    epoch: 0,
                    since: 0,
                    cursor: None,
                };
                let says = async { device.say(DeviceToRelay::FeedPull(pull)).await };
                if tokio::time::timeout(until - Instant::now(), says).await.is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    tasks.join_all().await;
    format!(
        "32 sessions, {} messages poured into the sockets, no answer read",
        sent.load(Ordering::Relaxed)
    )
}

/// Sockets that nobody knows, each a hundred thousand pings without reading one pong.
async fn pings(hub: &TestHub) -> String {
    let sent = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..48 {
        let (address, sent) = (hub.address, sent.clone());
        tasks.spawn(tokio::time::timeout(LASTS, async move {
            let Ok(mut stream) = TcpStream::connect(address).await else { return };
            let head = format!(
                "GET /ws/device HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
            );
            if stream.write_all(head.as_bytes()).await.is_err() {
                return;
            }
            // 125 bytes, masked with zeros.
            let ping = [&[0x89u8, 0x80 | 125, 0, 0, 0, 0][..], &[b'x'; 125]].concat();
            let many = ping.repeat(100);
            for _ in 0..1_000 {
                if stream.write_all(&many).await.is_err() {
                    return;
                }
                sent.fetch_add(100, Ordering::Relaxed);
            }
        }));
    }
    tasks.join_all().await;
    format!("48 unknown sockets, {} pings poured in, no pong read", sent.load(Ordering::Relaxed))
}

/// Bodies that nobody asked for, without an end.
async fn strange_bodies(hub: &TestHub) -> String {
    let (sent, statuses) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..32 {
        let (address, sent, statuses) = (hub.address, sent.clone(), statuses.clone());
        tasks.spawn(tokio::time::timeout(LASTS, async move {
            let until = Instant::now() + LASTS;
            while Instant::now() < until {
                let Ok(mut stream) = TcpStream::connect(address).await else { continue };
                let path = if number % 2 == 0 { "/chunks/00000000000000000000000000000000" } else { "/d/" };
                let method = if number % 2 == 0 { "PUT" } else { "POST" };
                let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n");
                let chunk = [b"10000\r\n".as_slice(), &vec![7; 0x10000], b"\r\n"].concat();
                let (mut reader, mut writer) = stream.split();
                let writes = async {
                    let _ = writer.write_all(head.as_bytes()).await; // it may be refused before it is whole
                    while writer.write_all(&chunk).await.is_ok() {
                        sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    }
                };
                let reads = async {
                    let mut head = [0; 12];
                    if reader.read_exact(&mut head).await.is_ok() && &head[9..12] == b"401" {
                        statuses.fetch_add(1, Ordering::Relaxed);
                    }
                };
                tokio::join!(writes, reads);
            }
        }));
    }
    tasks.join_all().await;
    let mib = sent.load(Ordering::Relaxed) >> 20;
    format!(
        "32 sockets, {} times 401, {mib} MiB pushed into them",
        statuses.load(Ordering::Relaxed)
    )
}

/// A large file that many fetch over a link, and read nothing of; its owner sends as fast as it is
/// let.
async fn stalled_readers(hub: &TestHub) -> String {
    let mut owner = TestDevice::enters(hub, 2, 0).await;
    let entry = owner.offers("film.mkv", 256 << 20).await;
    let made = owner.link(&[&entry]).await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let from = readers.len() * (5 << 20);
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nRange: bytes={from}-\r\n\r\n",
            made.url, hub.address
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        readers.push(stream);
    }
    let sent = owner.serve_until(tokio::time::sleep(LASTS)).await;
    format!("48 readers of a link that read nothing, {} MiB sent by the owner", sent >> 20)
}

/// Uploads of an approved owner whose bodies say more than they were asked for.
async fn bodies_that_are_too_long(hub: &TestHub) -> String {
    let mut owner = TestDevice::enters(hub, 3, 0).await;
    let mut asker = TestDevice::enters(hub, 4, 0).await;
    let entry = owner.offers("lies.bin", 64 << 20).await;
    asker.until(|m| matches!(m, RelayToDevice::FilesAdded(_))).await;
    let (mut refused, mut pushed) = (0, 0u64);
    let until = Instant::now() + LASTS;
    for first in (0..64).step_by(4) {
        if Instant::now() > until {
            break;
        }
        asker.request(&entry, 1, first, 4).await;
        let asked = tokio::time::timeout(Duration::from_secs(3), owner.asked()).await;
        let Ok(request) = asked else { break };
        let endless = stream::iter(
            (0..512).map(|_| Ok::<_, std::io::Error>(bytes::Bytes::from(vec![9u8; 1 << 20]))),
        );
        let answer = owner.put(&request.ticket, reqwest::Body::wrap_stream(endless)).send().await;
        refused += u32::from(answer.map_or(true, |answer| !answer.status().is_success()));
        pushed += 512;
    }
    format!(
        "{refused} bodies without an end of an approved owner, {pushed} MiB offered, all refused"
    )
}

#[tokio::main]
async fn main() {
    let mut words = std::env::args().skip(1);
    let port: u16 = words.next().unwrap().parse().unwrap();
    let process = words.next().unwrap();
    let hub = TestHub::elsewhere(SocketAddr::from(([127, 0, 0, 1], port)));
    println!(
        "| Flood | What was poured in | Lasted | Idle | More than idle | Within |\n|---|---|---|---|---|---|"
    );
    let good = [
        watch(&process, "Messages", ALLOWED, messages(&hub)).await,
        watch(&process, "Pings", ALLOWED, pings(&hub)).await,
        watch(&process, "Bodies of strangers", ALLOWED, strange_bodies(&hub)).await,
        watch(&process, "Bodies that are too long", ALLOWED, bodies_that_are_too_long(&hub)).await,
        watch(
            &process,
            "Readers that stand still",
            ALLOWED + READERS * A_READER,
            stalled_readers(&hub),
        )
        .await,
    ];
    let health = reqwest::get(hub.http("/healthz")).await;
    assert!(health.is_ok_and(|answer| answer.status().is_success()), "the hub still answers");
    assert!(good.iter().all(|good| *good), "memory beyond what is allowed");
}
