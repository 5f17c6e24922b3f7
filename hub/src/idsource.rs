//! Unguessable ids and tickets from a seed handed in: the system's randomness live, a fixed number
//! in tests.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A CSPRNG (ChaCha20) as a source of ids.
#[derive(Debug, Clone)]
pub struct IdSource(ChaCha20Rng);

impl IdSource {
    /// Starts a sequence that this seed determines.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A random number below `bound` (0 if that is 0).
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.next_u64() % bound }
    }
}
