//! How soon a refusal is complete: `refusals PORT LANYARD DATA`. A device that reads a link, over a
//! socket that is open, is turned away by `lanyard refuse`; from the start of that command, so with
//! a process to start, a decision to write to the disk and a message from master to relay, until
//! its socket and its body are closed. Two hundred times, with a reader beside it that must notice
//! nothing. Prints Markdown; panics if more than one in a hundred takes longer than 100 ms.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lanyard_protocol::*;
use lanyard_tests::harness::{TestDevice, TestHub};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ROUNDS: u8 = 200;
const BOUND: Duration = Duration::from_millis(100);
/// Keys of those who are turned away: 2 and on; 1 is the owner's, 255 that of the reader who stays.
const FIRST: u8 = 2;

async fn member(hub: &TestHub, seed: u8) -> TestDevice {
    TestDevice::enters(hub, seed, 0).await
}

/// A body of a link that has begun to come.
async fn body(hub: &TestHub, url: &str) -> TcpStream {
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    let head = format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", hub.address);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut some = [0; 16_384];
    while !some.starts_with(b"HTTP/1.1 200") {
        assert!(stream.read(&mut some).await.unwrap() > 0, "no body came");
    }
    stream
}

/// Reads to the end, however it comes.
async fn ended(mut stream: TcpStream) {
    let mut bytes = vec![0; 1 << 16];
    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
}

/// From the start of the command to the end of the command, of the socket, of the body.
async fn round(
    hub: &TestHub,
    seed: u8,
    entry: &FileEntry,
    lanyard: &str,
    data: &str,
) -> [Duration; 3] {
    let mut eve = member(hub, seed).await;
    let made = eve.link(&[entry]).await;
    let reading = body(hub, &made.url).await;
    let started = Instant::now();
    let mut command = tokio::process::Command::new(lanyard);
    command.args(["--data", data, "refuse", &eve.id.to_string()]).stdout(Stdio::null());
    let said = async {
        assert!(command.status().await.unwrap().success());
        started.elapsed()
    };
    let closed = async {
        assert_eq!(eve.closed().await, Some(4403));
        started.elapsed()
    };
    let cut = async {
        ended(reading).await;
        started.elapsed()
    };
    let (said, closed, cut) = tokio::join!(said, closed, cut);
    [said, closed, cut]
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, lanyard, data] = words.as_slice() else { panic!("refusals PORT LANYARD DATA") };
    let hub = TestHub::elsewhere(SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())));
    let mut owner = member(&hub, 1).await;
    let entry = owner.offers("film.mkv", 512 << 20).await;
    let mut stays = member(&hub, 255).await;
    let kept = body(&hub, &stays.link(&[&entry]).await.url).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving =
        tokio::spawn(async move { owner.serve_until(async { drop(stopped.await) }).await });

    let mut times: [Vec<Duration>; 3] = Default::default();
    for number in 0..ROUNDS {
        let took = round(&hub, FIRST + number, &entry, lanyard, data).await;
        times.iter_mut().zip(took).for_each(|(all, one)| all.push(one));
    }
    drop(stop);
    serving.await.unwrap();
    assert!(kept.try_read(&mut [0; 1]).is_ok_and(|count| count == 1), "who stays still reads");
    println!("| {ROUNDS} refusals, until | p50 | p99 | longest |\n|---|---|---|---|");
    let names = ["the command has ended", "the socket is closed (4403)", "the body has ended"];
    for (name, all) in names.iter().zip(&mut times) {
        all.sort();
        let ms = |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!("| {name} | {:.1} ms | {:.1} ms | {:.1} ms |", ms(0.5), ms(0.99), ms(1.0));
    }
    let p99 = |all: &[Duration]| all[(all.len() - 1) * 99 / 100];
    assert!(
        times[1..].iter().all(|all| p99(all) <= BOUND),
        "a refusal takes longer than {BOUND:?}"
    );
}
