//! Attacks on a hub, each by its number: what a hostile page, device, master, hub or program on the
//! network tries, and what must hold. README.md has the table of all of them; `matrix.txt` says who
//! may do what.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests plant what they like")]

mod bodies;
mod connections;
mod content;
mod frames;
mod guesses;
mod knocks;
mod links;
mod logs;
mod masters;
mod matrix;
mod names;
mod origins;
mod paused;
mod planted;
mod proxies;
mod replays;
mod requests;
mod revoked;
mod slow_clients;
mod sources;
mod tls;
