//! The state machines of the relay (`broker`), the master (`authority`) and a device (`peer`).
//!
//! Each machine has the same four methods. `handle(now, input)` performs one mutation.
//! `poll_effect()` is drained until it is empty before the next mutation. `poll_timeout()` returns
//! when to wake the machine, and `handle_timeout(now)` is a mutation, too. Exactly one driver owns
//! a machine. This crate has no socket, file, clock, async runtime or random source: time arrives
//! as [`Moment`], randomness as a seed. The bytes of files never pass through a machine.

#![warn(missing_docs)]

pub mod authority;
pub mod broker;
mod feed;
pub mod idsource;
pub mod layout;
pub mod machine;
pub mod naming;
pub mod peer;
pub mod source_address;

pub use idsource::IdSource;
pub use machine::{Deadlines, EffectQueue, Moment};
