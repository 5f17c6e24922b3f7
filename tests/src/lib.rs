//! What the test suites share: the simulation ([`sim`]), the harness of the suites over real
//! sockets, and the decoders that are fuzzed.

#![allow(clippy::unwrap_used)]

#[cfg(feature = "wire")]
pub mod decoders;
#[cfg(feature = "wire")]
pub mod harness;
pub mod sim;

/// Returns true if the long forms of the tests are wanted, as in `tests/run --full`.
pub fn full() -> bool {
    std::env::var_os("LANYARD_FULL").is_some_and(|value| value == "1")
}
