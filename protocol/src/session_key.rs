//! The key of one session: agreed at registration with X25519 and never sent (PROTOCOL.md 2.2).

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::EphemeralKey;

/// One side's secret half of one agreement. It is wiped from memory when it goes.
pub struct EphemeralSecret(StaticSecret);

impl EphemeralSecret {
    /// `random` must be fresh for each connection.
    pub fn new(random: [u8; 32]) -> Self {
        Self(StaticSecret::from(random))
    }

    pub fn public(&self) -> EphemeralKey {
        EphemeralKey(PublicKey::from(&self.0).to_bytes())
    }

    /// The key that both sides compute over the text that the device signed. `None` for a key of small order, with which
    /// everybody would know the secret.
    pub fn agree(self, other: &EphemeralKey, device_text: &str) -> Option<SessionKey> {
        let shared = self.0.diffie_hellman(&PublicKey::from(other.0));
        if !shared.was_contributory() {
            return None;
        }
        let mut hasher = blake3::Hasher::new_derive_key("lanyard/2 session");
        hasher.update(shared.as_bytes());
        hasher.update(blake3::hash(device_text.as_bytes()).as_bytes());
        let key = SessionKey(*hasher.finalize().as_bytes());
        hasher.zeroize();
        Some(key)
    }
}

impl std::fmt::Debug for EphemeralSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "EphemeralSecret({:?}, …)", self.public())
    }
}

/// Proves that a request belongs to a session. It is wiped from memory when it goes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey([u8; 32]);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("SessionKey(…)")
    }
}
