//! The minds of Lanyard, pure: what the relay decides (`broker`), what the host decides
//! (`authority`), what a device decides (`peer`).
//!
//! Each machine has the same four verbs: `handle(now, input)` is one mutation; `poll_effect()` is
//! drained to empty before the next one; `poll_timeout()` says when to wake; `handle_timeout(now)`
//! is a mutation too. Exactly one driver owns a machine. Here is no socket, file, clock, async
//! runtime or random source: time arrives as [`Moment`], randomness as a seed. Bytes of files never
//! pass through a machine.

#![warn(missing_docs)]

pub mod authority;
pub mod broker;
pub mod idsource;
pub mod layout;
pub mod machine;
pub mod naming;
pub mod peer;
pub mod source_address;

pub use idsource::IdSource;
pub use machine::{Deadlines, EffectQueue, Moment};
