//! The key of one session, agreed at registration with X25519 and never sent (PROTOCOL.md 2.2), and
//! the proof that an HTTP request is of that session (2.4).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{EphemeralKey, KeyId, Mac};
use crate::limits::MAX_SAFE_INTEGER;

const SCHEME: &str = "Lanyard ";

/// One side's half of one agreement. Its secret is wiped from memory when it goes.
pub struct EphemeralSecret {
    secret: StaticSecret,
    public: EphemeralKey,
}

impl EphemeralSecret {
    /// `random` must be fresh for each connection.
    pub fn new(random: [u8; 32]) -> Self {
        let secret = StaticSecret::from(random);
        let public = EphemeralKey(PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    /// Returns the half that is sent to the other side.
    pub fn public(&self) -> EphemeralKey {
        self.public
    }

    /// The key that both sides compute over the text that the device signed. `None` for a key of
    /// small order, with which everybody would know the secret.
    pub fn agree(self, other: &EphemeralKey, device_text: &str) -> Option<SessionKey> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(other.0));
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

impl fmt::Debug for EphemeralSecret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "EphemeralSecret({:?}, …)", self.public())
    }
}

/// Proves that a request belongs to a session. It is wiped from memory when it goes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey([u8; 32]);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

impl SessionKey {
    /// The key itself, for those who look whether it shows anywhere.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Proves one request: its method, its path with the query, and a counter that is used once.
    pub fn mac(&self, request: &ProvedRequest, counter: u64) -> Mac {
        let counter = counter.to_string();
        let text = ["lanyard/2 http", request.method, request.target, &counter].join("\n");
        Mac(*blake3::keyed_hash(&self.0, text.as_bytes()).as_bytes())
    }

    /// Compares in constant time.
    pub fn proves(&self, request: &ProvedRequest, authorization: &Authorization) -> bool {
        crate::master_proof::same_mac(&self.mac(request, authorization.counter), &authorization.mac)
    }
}

/// The part of a request that is proved. The bytes of a chunk have their own check, and a ticket
/// that is used once.
#[derive(Debug, Clone, Copy)]
pub struct ProvedRequest<'a> {
    /// Upper case, such as `GET`.
    pub method: &'a str,
    /// Path and query, as they stand in the request line.
    pub target: &'a str,
}

/// The value of an `Authorization` header: `Lanyard {session_id}.{counter}.{mac}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authorization {
    /// Names the session whose key made the proof.
    pub session_id: KeyId,
    /// Grows with each request of the session and is used once; from 1 to 2^53 - 1.
    pub counter: u64,
    /// Made with the session's key over the request and the counter.
    pub mac: Mac,
}

impl fmt::Display for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{SCHEME}{}.{}.{}", self.session_id.to_hex(), self.counter, self.mac.to_hex())
    }
}

/// The text is no `Authorization` of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not of the form `Lanyard session.counter.mac`")]
pub struct BadAuthorization;

impl FromStr for Authorization {
    type Err = BadAuthorization;

    fn from_str(text: &str) -> Result<Self, BadAuthorization> {
        let mut parts = text.strip_prefix(SCHEME).ok_or(BadAuthorization)?.split('.');
        let (Some(session_id), Some(counter), Some(mac), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadAuthorization);
        };
        let number: u64 = counter.parse().map_err(|_| BadAuthorization)?;
        // One spelling: else one counter could be used under several.
        if number == 0 || number > MAX_SAFE_INTEGER || number.to_string() != counter {
            return Err(BadAuthorization);
        }
        let session_id = session_id.parse().map_err(|_| BadAuthorization)?;
        Ok(Self { session_id, counter: number, mac: mac.parse().map_err(|_| BadAuthorization)? })
    }
}

/// Proves the requests of one session, each with a counter of its own.
#[derive(Debug)]
pub struct Signer {
    session_id: KeyId,
    key: SessionKey,
    last: AtomicU64,
}

impl Signer {
    /// Begins to count at 1; a session has one signer.
    pub fn new(session_id: KeyId, key: SessionKey) -> Self {
        Self { session_id, key, last: AtomicU64::new(0) }
    }

    /// The header for one request, which is sent once.
    pub fn authorize(&self, method: &str, target: &str) -> Authorization {
        let counter = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mac = self.key.mac(&ProvedRequest { method, target }, counter);
        Authorization { session_id: self.session_id, counter, mac }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (EphemeralSecret, EphemeralSecret) {
        (EphemeralSecret::new([1; 32]), EphemeralSecret::new([2; 32]))
    }

    #[test]
    fn both_sides_agree_and_nobody_else_does() {
        let (relay, device) = pair();
        let relay_public = relay.public();
        let device_public = device.public();
        let request = ProvedRequest { method: "GET", target: "/chunks/x" };
        let mac = |key: Option<SessionKey>| key.unwrap().mac(&request, 1);
        let agreed = mac(relay.agree(&device_public, "text"));
        assert_eq!(mac(device.agree(&relay_public, "text")), agreed);
        let (relay, _) = pair();
        assert_ne!(
            mac(relay.agree(&device_public, "another text")),
            agreed,
            "the key is bound to what was signed"
        );
        let third = EphemeralSecret::new([3; 32]);
        assert_ne!(mac(third.agree(&device_public, "text")), agreed);
    }

    #[test]
    fn a_key_of_small_order_agrees_on_nothing() {
        let mut one = [0; 32];
        one[0] = 1;
        for weak in [[0; 32], one] {
            assert!(pair().0.agree(&EphemeralKey(weak), "text").is_none(), "{weak:?}");
        }
    }

    #[test]
    fn a_mac_holds_for_one_request_alone() {
        let (relay, device) = pair();
        let key = relay.agree(&device.public(), "text").unwrap();
        let put = ProvedRequest { method: "PUT", target: "/chunks/x" };
        let right = Authorization { session_id: KeyId([7; 16]), counter: 5, mac: key.mac(&put, 5) };
        assert!(key.proves(&put, &right));
        for other in
            [ProvedRequest { method: "GET", ..put }, ProvedRequest { target: "/chunks/x?y", ..put }]
        {
            assert!(!key.proves(&other, &right), "{other:?}");
        }
        assert!(!key.proves(&put, &Authorization { counter: 6, ..right }));
        let mut wrong = right;
        wrong.mac.0[31] ^= 1;
        assert!(!key.proves(&put, &wrong));
    }

    #[test]
    fn an_authorization_has_one_spelling() {
        let right =
            Authorization { session_id: KeyId([0xab; 16]), counter: 17, mac: Mac([0xcd; 32]) };
        let text = right.to_string();
        assert_eq!(text.parse(), Ok(right));
        for wrong in [
            text.replace("Lanyard ", "Bearer "),
            text.replace("Lanyard ", "lanyard "),
            text.replace(".17.", ".017."),
            text.replace(".17.", ".+17."),
            text.replace(".17.", ".0."),
            text.replace(".17.", ".9007199254740992."),
            text.replace(".17.", ".."),
            text.replace("ab", "AB"),
            format!("{text}.x"),
            text[..text.len() - 2].into(),
            String::new(),
        ] {
            assert_eq!(wrong.parse::<Authorization>(), Err(BadAuthorization), "{wrong}");
        }
    }

    #[test]
    fn a_signer_uses_no_counter_twice() {
        let (relay, device) = pair();
        let signer = Signer::new(KeyId([1; 16]), relay.agree(&device.public(), "text").unwrap());
        let counters: Vec<u64> =
            (0..3).map(|_| signer.authorize("GET", "/chunks/x").counter).collect();
        assert_eq!(counters, [1, 2, 3]);
        assert!(
            !format!("{signer:?}").contains(&hex::encode(signer.key.0)),
            "its key does not show"
        );
    }
}
