//! The three state machines over a simulated network: stories, random schedules, and the invariants
//! that hold in all of them.

#![allow(clippy::unwrap_used)]

mod decisions;
mod random;
mod stories;
