//! How master and relay prove their shared secret to each other (PROTOCOL.md 2). Role labels stop a reflected proof.

use crate::ids::{BootId, Channel, Mac, Nonce};

/// What both proofs of one registration are made over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterTranscript {
    pub boot_id: BootId,
    pub relay_nonce: Nonce,
    pub master_nonce: Nonce,
    /// Grows with every registration of the master; fences an old one.
    pub term: u64,
    /// Of the TLS connection; plain, which a relay takes from its own machine only, adds nothing.
    pub channel: Channel,
}

impl MasterTranscript {
    fn mac(&self, role: &str, secret: &[u8; 32]) -> Mac {
        let mut text = [
            role,
            &self.boot_id.to_hex(),
            &self.relay_nonce.to_hex(),
            &self.master_nonce.to_hex(),
            &self.term.to_string(),
        ]
        .join("\n");
        if self.channel != Channel::PLAIN {
            text = format!("{text}\n{}", self.channel.to_hex());
        }
        Mac(*blake3::keyed_hash(secret, text.as_bytes()).as_bytes())
    }

    pub fn master_mac(&self, secret: &[u8; 32]) -> Mac {
        self.mac("lanyard/2 master", secret)
    }

    pub fn relay_mac(&self, secret: &[u8; 32]) -> Mac {
        self.mac("lanyard/2 relay", secret)
    }
}

/// Compares in constant time.
pub fn same_mac(a: &Mac, b: &Mac) -> bool {
    // `blake3::Hash` compares in constant time (its documentation says so).
    blake3::Hash::from_bytes(a.0) == blake3::Hash::from_bytes(b.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_over_one_certificate_is_none_over_another() {
        let (boot_id, relay_nonce, master_nonce) = (BootId([1; 16]), Nonce([2; 32]), Nonce([3; 32]));
        let plain = MasterTranscript { boot_id, relay_nonce, master_nonce, term: 4, channel: Channel::PLAIN };
        let over = |byte| MasterTranscript { channel: Channel([byte; 32]), ..plain.clone() };
        for (a, b) in [(plain.clone(), over(5)), (over(5), over(6))] {
            assert!(!same_mac(&a.master_mac(&[9; 32]), &b.master_mac(&[9; 32])));
            assert!(!same_mac(&a.relay_mac(&[9; 32]), &b.relay_mac(&[9; 32])));
        }
    }
}
