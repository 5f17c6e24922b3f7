//! Letting a device in: two commits, a reveal, an opening, six digits on the device's screen
//! (PROTOCOL.md 3).

use crate::ids::{Commit, InvitationSecret, Mac, Nonce, PublicKey, RequestId, Reveal};

pub(crate) fn hash_lines(lines: &[&str]) -> blake3::Hash {
    blake3::hash(lines.join("\n").as_bytes())
}

/// The device's promise of `reveal`, made when it knocks.
pub fn commit(device_key: &PublicKey, reveal: &Reveal) -> Commit {
    Commit(*hash_lines(&["lanyard/2 commit", &device_key.to_hex(), &reveal.to_hex()]).as_bytes())
}

/// Names one knock: key, promise, the relay's nonce and the name on the screen.
pub fn request_id(
    device_key: &PublicKey,
    commit: &Commit,
    relay_nonce: &Nonce,
    name: &str,
) -> RequestId {
    let hash = hash_lines(&[
        "lanyard/2 request",
        &device_key.to_hex(),
        &commit.to_hex(),
        &relay_nonce.to_hex(),
        name,
    ]);
    let mut id = [0u8; 16];
    id.copy_from_slice(&hash.as_bytes()[..16]);
    RequestId(id)
}

/// The master's promise of `nonce`, made before the device reveals.
pub fn master_commit(hub_key: &PublicKey, request_id: &RequestId, nonce: &Nonce) -> Commit {
    let lines =
        ["lanyard/2 master commit", &hub_key.to_hex(), &request_id.to_hex(), &nonce.to_hex()];
    Commit(*hash_lines(&lines).as_bytes())
}

/// Six digits that device and master compute alike; the person at the host types what the device
/// shows.
pub fn code(
    hub_key: &PublicKey,
    device_key: &PublicKey,
    request_id: &RequestId,
    reveal: &Reveal,
    master_nonce: &Nonce,
) -> String {
    let hash = hash_lines(&[
        "lanyard/2 code",
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

/// That who knocks holds the secret of an invitation: good for this knock only, whoever hears it.
pub fn invitation_proof(secret: &InvitationSecret, request_id: &RequestId) -> Mac {
    let key = blake3::derive_key("lanyard/2 invitation", &secret.0);
    Mac(*blake3::keyed_hash(&key, request_id.to_hex().as_bytes()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The web client's tests hold the same value.
    #[test]
    fn an_invitations_proof_is_the_same_everywhere() {
        let proof = invitation_proof(&InvitationSecret([0xb2; 16]), &RequestId([0x5a; 16]));
        assert_eq!(
            proof.to_hex(),
            "16435bd4f5f1e1f0f07098619858ab0e2690647e2e978d68a58de54d5fc8d987"
        );
    }
}
