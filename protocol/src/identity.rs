//! Identity is a key: the public id made of it, and the proofs both sides show at every connect
//! (PROTOCOL.md 2).

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use uuid::Uuid;

use crate::ids::{BootId, Channel, DeviceId, EphemeralKey, Nonce, PublicKey, Signature};

/// The public id of the device that holds the key behind `key`: the first 16 bytes of its BLAKE3 as
/// a version 8 UUID.
pub fn public_id(key: &PublicKey) -> DeviceId {
    let hash = blake3::hash(&key.0);
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    DeviceId(Uuid::from_bytes(bytes))
}

/// The hub's fingerprint as its screen and QR code carry it: the first 16 bytes of BLAKE3 of its
/// key, in hex.
pub fn fingerprint(key: &PublicKey) -> String {
    hex::encode(&blake3::hash(&key.0).as_bytes()[..16])
}

/// The data that both proofs of one connection cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// From the relay's CHALLENGE.
    pub boot_id: BootId,
    /// From the relay's CHALLENGE.
    pub relay_nonce: Nonce,
    /// From the device's CLIENT_REGISTER.
    pub device_nonce: Nonce,
    /// The key that the hub claims.
    pub hub_key: PublicKey,
    /// The key that the device claims.
    pub device_key: PublicKey,
    /// The client's `Host`: lower case, default port left out, IPv6 in brackets.
    pub authority: String,
    /// The TLS connection that the messages travel on, or the constant for plain HTTP.
    pub channel: Channel,
    /// Made by each side for this connection alone; the session key is agreed with them.
    pub relay_ephemeral: EphemeralKey,
    /// The device's half of the session key.
    pub device_ephemeral: EphemeralKey,
}

impl Transcript {
    fn lines(&self, role: &str) -> String {
        [
            role,
            &self.boot_id.to_hex(),
            &self.relay_nonce.to_hex(),
            &self.device_nonce.to_hex(),
            &self.hub_key.to_hex(),
            &self.device_key.to_hex(),
            &self.authority,
            &self.channel.to_hex(),
            &self.relay_ephemeral.to_hex(),
            &self.device_ephemeral.to_hex(),
        ]
        .join("\n")
    }

    /// Returns the text that the device signs.
    pub fn device_text(&self) -> String {
        self.lines("lanyard/2 device")
    }

    /// Returns the text that the hub signs in answer.
    pub fn hub_text(&self, public_id: DeviceId) -> String {
        format!("{}\n{}", self.lines("lanyard/2 hub"), public_id)
    }

    /// Signs the device's text.
    pub fn sign_as_device(&self, key: &Keypair) -> Signature {
        key.sign(self.device_text().as_bytes())
    }

    /// Signs the hub's text, which names the device.
    pub fn sign_as_hub(&self, key: &Keypair, public_id: DeviceId) -> Signature {
        key.sign(self.hub_text(public_id).as_bytes())
    }

    /// Returns true if the device's key made `signature` over this exchange.
    pub fn device_signed(&self, signature: &Signature) -> bool {
        verify(&self.device_key, self.device_text().as_bytes(), signature)
    }

    /// Returns true if the hub's key made `signature` over this exchange.
    pub fn hub_signed(&self, public_id: DeviceId, signature: &Signature) -> bool {
        verify(&self.hub_key, self.hub_text(public_id).as_bytes(), signature)
    }
}

/// An Ed25519 key pair; its secret half never shows.
#[derive(Clone)]
pub struct Keypair(SigningKey);

impl std::fmt::Debug for Keypair {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Keypair({:?}, …)", self.public())
    }
}

impl Keypair {
    /// From the 32 secret bytes as they lie in the key file.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Returns the 32 secret bytes, for writing to a private file.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Returns the key that others check signatures with.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Returns the id that follows from the public key.
    pub fn public_id(&self) -> DeviceId {
        public_id(&self.public())
    }

    /// Signs exactly these bytes; every text of the protocol begins with its purpose.
    pub fn sign(&self, text: &[u8]) -> Signature {
        Signature(self.0.sign(text).to_bytes())
    }
}

/// Strict check (RFC 8032; small-order keys refused).
pub fn verify(key: &PublicKey, text: &[u8], signature: &Signature) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&key.0) else { return false };
    key.verify_strict(text, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
}
