//! Three processes that copy: file, socket, socket, file. No protocol, no HTTP: what a relay on
//! this machine cannot beat. With `verified` the relay and the receiver hash every group before
//! they pass it on, as Lanyard's do: what it can come near to.
//!
//! ```text
//! pipe {bare|verified} relay PORT | owner PORT FILE | receiver PORT FILE
//! ```

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;

use lanyard_protocol::group::Groups;

/// One group: the unit of hashing, small enough for a core's cache.
const BLOCK: usize = 256 << 10;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [how, role, port, file @ ..] = words.as_slice() else {
        return Err(Error::new(ErrorKind::InvalidInput, "pipe {bare|verified} ROLE PORT [FILE]"));
    };
    let check: fn(u64, &[u8]) = if how == "verified" { hash } else { |_, _| () };
    let port: u16 =
        port.parse().map_err(|_| Error::new(ErrorKind::InvalidInput, "a port is a number"))?;
    match (role.as_str(), file) {
        ("relay", []) => relay(port, check),
        ("owner", [path]) => owner(port, path),
        ("receiver", [path]) => receiver(port, path, check),
        _ => {
            Err(Error::new(ErrorKind::InvalidInput, "a role is relay, owner FILE or receiver FILE"))
        }
    }
}

/// The receiver must be there before the owner.
fn relay(port: u16, check: fn(u64, &[u8])) -> Result<()> {
    let server = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening");
    let (mut to, _) = server.accept()?;
    let (mut from, _) = server.accept()?;
    to.set_nodelay(true)?;
    each_block(&mut from, |at, bytes| {
        check(at, bytes);
        to.write_all(bytes)
    })
}

fn owner(port: u16, path: &str) -> Result<()> {
    let mut line = TcpStream::connect(("127.0.0.1", port))?;
    line.set_nodelay(true)?;
    each_block(&mut File::open(path)?, |_, bytes| line.write_all(bytes))
}

#[expect(clippy::disallowed_methods, reason = "a file of the benchmark's own")]
fn receiver(port: u16, path: &str, check: fn(u64, &[u8])) -> Result<()> {
    let mut line = TcpStream::connect(("127.0.0.1", port))?;
    println!("connected");
    let file = File::create(path)?;
    each_block(&mut line, |at, bytes| {
        check(at, bytes);
        file.write_all_at(bytes, at)
    })
}

/// Reads whole blocks (only the last may be short) and hands each over with where it starts.
fn each_block(from: &mut impl Read, mut take: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let (mut block, mut at) = (vec![0; BLOCK], 0);
    loop {
        let mut full = 0;
        while full < BLOCK {
            match from.read(&mut block[full..])? {
                0 => break,
                count => full += count,
            }
        }
        if full == 0 {
            return Ok(());
        }
        take(at, &block[..full])?;
        at += full as u64;
    }
}

fn hash(at: u64, bytes: &[u8]) {
    std::hint::black_box(Groups::new(u64::MAX, 18).value((at >> 18) as u32, bytes));
}
