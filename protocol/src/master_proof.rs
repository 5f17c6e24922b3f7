//! Proofs by the secret that master and relay share (PROTOCOL.md 2.3): both to each other, the
//! host's own device, and who may read the metrics. Role labels stop a reflected proof. Nothing is
//! proved by an address.

use std::net::IpAddr;

use crate::identity::Transcript;
use crate::ids::{BootId, Channel, Mac, Nonce};

/// The data that both proofs of one registration cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterTranscript {
    /// From the relay's MASTER_CHALLENGE.
    pub boot_id: BootId,
    /// From the relay's MASTER_CHALLENGE.
    pub relay_nonce: Nonce,
    /// From the master's registration.
    pub master_nonce: Nonce,
    /// Grows with every registration of the master; fences an old one.
    pub term: u64,
    /// The `Host` that the master sends. By plain http it must mean the master's own machine:
    /// whoever passes the connection on from elsewhere would have to change it.
    pub authority: String,
    /// The channel of the TLS connection; plain adds nothing.
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
            &self.authority,
        ]
        .join("\n");
        if self.channel != Channel::PLAIN {
            text = format!("{text}\n{}", self.channel.to_hex());
        }
        Mac(*blake3::keyed_hash(secret, text.as_bytes()).as_bytes())
    }

    /// Proves the secret in the master's direction.
    pub fn master_mac(&self, secret: &[u8; 32]) -> Mac {
        self.mac("lanyard/2 master", secret)
    }

    /// Proves the secret in the relay's direction, so that neither proof can be sent back.
    pub fn relay_mac(&self, secret: &[u8; 32]) -> Mac {
        self.mac("lanyard/2 relay", secret)
    }
}

/// Whether an authority means the machine of whoever sends it, by a name that needs no resolving.
pub fn means_own_machine(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// The `host_proof` of a registration of kind `"master"`: that it is the host's own device, which
/// knows the secret.
pub fn host_proof(secret: &[u8; 32], transcript: &Transcript) -> Mac {
    let text = format!("lanyard/2 host\n{}", transcript.device_text());
    Mac(*blake3::keyed_hash(secret, text.as_bytes()).as_bytes())
}

/// The token that `GET /metrics` wants, in hex; the hub keeps it in a file of its own, for its
/// owner's programs.
pub fn metrics_token(secret: &[u8; 32]) -> String {
    hex::encode(blake3::derive_key("lanyard/2 metrics", secret))
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
    fn own_machine_is_a_loopback_that_needs_no_resolving() {
        for authority in [
            "127.0.0.1:7070",
            "127.9.9.9",
            "localhost",
            "localhost:1",
            "[::1]:7070",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(means_own_machine(authority), "{authority}");
        }
        for authority in [
            "",
            "hub.local",
            "192.168.1.2:7070",
            "localhost.evil:1",
            "127.0.0.1.evil",
            "[fe80::1]:1",
        ] {
            assert!(!means_own_machine(authority), "{authority}");
        }
    }

    #[test]
    fn a_proof_over_one_certificate_is_none_over_another() {
        let (boot_id, relay_nonce, master_nonce) =
            (BootId([1; 16]), Nonce([2; 32]), Nonce([3; 32]));
        let plain = MasterTranscript {
            boot_id,
            relay_nonce,
            master_nonce,
            term: 4,
            authority: "hub.local".into(),
            channel: Channel::PLAIN,
        };
        let over = |byte| MasterTranscript { channel: Channel([byte; 32]), ..plain.clone() };
        let elsewhere = MasterTranscript { authority: "127.0.0.1:7070".into(), ..plain.clone() };
        for (a, b) in [(plain.clone(), over(5)), (over(5), over(6)), (plain.clone(), elsewhere)] {
            assert!(!same_mac(&a.master_mac(&[9; 32]), &b.master_mac(&[9; 32])));
            assert!(!same_mac(&a.relay_mac(&[9; 32]), &b.relay_mac(&[9; 32])));
        }
    }
}
