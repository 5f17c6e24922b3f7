//! How master and relay prove their shared secret to each other (PROTOCOL.md 2). Role labels stop a reflected proof.

use crate::ids::{BootId, Mac, Nonce};

/// What both proofs of one registration are made over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterTranscript {
    pub boot_id: BootId,
    pub relay_nonce: Nonce,
    pub master_nonce: Nonce,
    /// Grows with every registration of the master; fences an old one.
    pub term: u64,
}

impl MasterTranscript {
    fn mac(&self, role: &str, secret: &[u8; 32]) -> Mac {
        let text = [
            role,
            &self.boot_id.to_hex(),
            &self.relay_nonce.to_hex(),
            &self.master_nonce.to_hex(),
            &self.term.to_string(),
        ]
        .join("\n");
        Mac(*blake3::keyed_hash(secret, text.as_bytes()).as_bytes())
    }

    pub fn master_mac(&self, secret: &[u8; 32]) -> Mac {
        self.mac("lanyard/1 master", secret)
    }

    pub fn relay_mac(&self, secret: &[u8; 32]) -> Mac {
        self.mac("lanyard/1 relay", secret)
    }
}

/// Compares in constant time.
pub fn same_mac(a: &Mac, b: &Mac) -> bool {
    // `blake3::Hash` compares in constant time (its documentation says so).
    blake3::Hash::from_bytes(a.0) == blake3::Hash::from_bytes(b.0)
}
