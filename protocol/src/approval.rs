//! Letting a device in: commit, reveal, six digits on the device's screen (PROTOCOL.md 3).

use crate::ids::{Commit, Nonce, PublicKey, RequestId, Reveal};

fn hash_lines(lines: &[&str]) -> blake3::Hash {
    blake3::hash(lines.join("\n").as_bytes())
}

/// The device's promise of `reveal`, made when it knocks.
pub fn commit(device_key: &PublicKey, reveal: &Reveal) -> Commit {
    Commit(*hash_lines(&["lanyard/1 commit", &device_key.to_hex(), &reveal.to_hex()]).as_bytes())
}

/// Names one knock: key, promise, the relay's nonce and the name on the screen.
pub fn request_id(device_key: &PublicKey, commit: &Commit, relay_nonce: &Nonce, name: &str) -> RequestId {
    let hash = hash_lines(&["lanyard/1 request", &device_key.to_hex(), &commit.to_hex(), &relay_nonce.to_hex(), name]);
    let mut id = [0u8; 16];
    id.copy_from_slice(&hash.as_bytes()[..16]);
    RequestId(id)
}

/// Six digits that device and master compute alike; the person at the host types what the device shows.
pub fn code(
    hub_key: &PublicKey,
    device_key: &PublicKey,
    request_id: &RequestId,
    reveal: &Reveal,
    master_nonce: &Nonce,
) -> String {
    let hash = hash_lines(&[
        "lanyard/1 code",
        &hub_key.to_hex(),
        &device_key.to_hex(),
        &request_id.to_hex(),
        &reveal.to_hex(),
        &master_nonce.to_hex(),
    ]);
    let mut first = [0u8; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    format!("{:06}", u64::from_be_bytes(first) % 1_000_000)
}
