//! Names of things on the wire. Binary ones are lower-case hex, UUIDs lower-case with hyphens;
//! secrets never show in `Debug`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// Why a text is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of {expected} lower-case hex characters")]
pub struct BadId {
    /// Number of hex characters that a right one has.
    pub expected: usize,
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], BadId> {
    let mut bytes = [0u8; N];
    let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    if text.len() != 2 * N || !lower || hex::decode_to_slice(text, &mut bytes).is_err() {
        return Err(BadId { expected: 2 * N });
    }
    Ok(bytes)
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Lower-case hex, as on the wire.
            pub fn to_hex(&self) -> String {
                hex::encode(self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                parse_hex::<$bytes>(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.to_hex())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Hex;
                impl de::Visitor<'_> for Hex {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                        write!(f, "{} lower-case hex characters", 2 * $bytes)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Hex)
            }
        }
    };
}

macro_rules! shown {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.to_hex()[..8.min(self.0.len() * 2)])
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }
    };
}

macro_rules! secret {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{}(…)", stringify!($name))
            }
        }
    };
}

hex_id!(
    /// One life of a relay process: random at each start, so that old proofs and tickets are stale.
    BootId, 16);
shown!(BootId);
hex_id!(
    /// 32 random bytes that make a proof or a code fresh.
    Nonce, 32);
shown!(Nonce);
hex_id!(
    /// An Ed25519 public key.
    PublicKey, 32);
shown!(PublicKey);
hex_id!(
    /// An X25519 public key that was made for one connection.
    EphemeralKey, 32);
shown!(EphemeralKey);
hex_id!(
    /// An Ed25519 signature.
    Signature, 64);
shown!(Signature);
hex_id!(
    /// Binds a proof to a TLS leaf (PROTOCOL.md 2); zeros for pages and plain http.
    Channel, 32);
shown!(Channel);
hex_id!(
    /// One process or tab of a device; kept over a reload.
    Instance, 16);
shown!(Instance);
hex_id!(
    /// One knock: binds the host's click to what was on the screen.
    RequestId, 16);
shown!(RequestId);
hex_id!(
    /// A device's promise of its reveal, made before it knows the master's nonce.
    Commit, 32);
shown!(Commit);
hex_id!(
    /// The secret behind a commit; serves once.
    Reveal, 32);
secret!(Reveal);
hex_id!(
    /// BLAKE3 keyed with the secret that master and relay share.
    Mac, 32);
shown!(Mac);
hex_id!(
    /// A BLAKE3 root: the name of a content, what `b3sum` prints.
    Root, 32);
shown!(Root);
hex_id!(
    /// Names the key of one live session on HTTP. Everybody may hear it: it proves nothing.
    KeyId, 16);
shown!(KeyId);
hex_id!(
    /// The token of a tab of the host's console, for the master app on the loopback; never logged.
    SessionToken, 32);
secret!(SessionToken);
hex_id!(
    /// Single-use right to one body: a PUT of a run, or a GET of a slice of it.
    Ticket, 16);
secret!(Ticket);
hex_id!(
    /// The key in a `/d/` address. Who knows it may read the files behind it.
    Link, 16);
secret!(Link);
hex_id!(
    /// Names one invitation.
    InvitationId, 8);
shown!(InvitationId);
hex_id!(
    /// The secret that the bearer of an invitation proves to hold; it never crosses the wire.
    InvitationSecret, 16);
secret!(InvitationSecret);
hex_id!(
    /// BLAKE3 of a link's text: what the master keeps of a link.
    LinkHash, 32);
shown!(LinkHash);
hex_id!(
    /// The secret that a link's maker draws; it never crosses the wire.
    LinkSeed, 32);
secret!(LinkSeed);
hex_id!(
    /// The seed of a link, hidden behind its key: shows who knows the key that its maker made it.
    LinkBinding, 32);
shown!(LinkBinding);
hex_id!(
    /// Names one layout of an archive: its members, their order and their names.
    LayoutId, 16);
shown!(LayoutId);

impl Channel {
    /// The channel of pages and of plain http.
    pub const PLAIN: Channel = Channel([0; 32]);
}

impl LinkHash {
    /// The hash under which the master knows `link`.
    pub fn of(link: &Link) -> Self {
        Self(*blake3::hash(link.to_hex().as_bytes()).as_bytes())
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
        pub struct $name(pub Uuid);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            /// Lower-case with hyphens, nothing else.
            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = BadId { expected: 36 };
                let uuid = Uuid::try_parse(text).map_err(|_| bad.clone())?;
                if uuid.hyphenated().to_string() == text { Ok(Self(uuid)) } else { Err(bad) }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.0.to_string()[..8])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
    };
}

uuid_id!(
    /// The notes' *public id*: names a device everywhere; made of its public key (PROTOCOL.md 2).
    DeviceId);
uuid_id!(
    /// One version of one file, named by its owner.
    FileId);
uuid_id!(
    /// One download on one device; made by the asker.
    TransferId);

/// A session as it is named on the master's socket: a device and which of its processes or tabs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionAddress {
    /// The device.
    pub public_id: DeviceId,
    /// The process or tab.
    pub instance: Instance,
}

/// The master's addressee: one session, or without `instance` all sessions of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The device.
    pub public_id: DeviceId,
    /// The process or tab; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
}

/// Names a feed: 1 to 64 characters of `a-z0-9_-`. Absent on the wire, the catalogue is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
pub struct FeedId(std::borrow::Cow<'static, str>);

impl FeedId {
    /// The hub's members and shared files.
    pub const CATALOGUE: FeedId = FeedId(std::borrow::Cow::Borrowed("catalogue"));

    /// Returns `None` when `text` has another form.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(plain);
        fits.then_some(Self(text.into()))
    }

    /// Returns true for the feed of members and shared files.
    pub fn is_catalogue(&self) -> bool {
        *self == Self::CATALOGUE
    }
}

impl Default for FeedId {
    fn default() -> Self {
        Self::CATALOGUE
    }
}

impl<'de> Deserialize<'de> for FeedId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        FeedId::new(String::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("a feed's name of another form"))
    }
}

/// Identifies a request, so that its sender recognises the answer: 1 to 64 characters of
/// `A-Za-z0-9_-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
pub struct Ref(String);

impl Ref {
    /// `None` when `text` has another form.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        fits.then_some(Self(text))
    }

    /// A running number as a reference.
    pub fn number(n: u64) -> Self {
        Self(n.to_string())
    }

    /// Returns the text as it stands in the frame.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Ref {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ref::new(String::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("a ref of another form"))
    }
}
