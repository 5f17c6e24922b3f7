//! Binds the key of a link to its maker (PROTOCOL.md 7.1). The hash of a link is heard by others
//! and is free again once the link has ended; an address must then lead to nothing, whoever
//! registers its hash.

use crate::approval::hash_lines;
use crate::ids::{DeviceId, Link, LinkBinding, LinkHash, LinkSeed};

/// A key that a maker drew, with the two values that the hub learns of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrawnLink {
    /// The key, which stands in the address.
    pub link: Link,
    /// Names the link on sockets.
    pub hash: LinkHash,
    /// Binds the key to its maker.
    pub binding: LinkBinding,
}

impl DrawnLink {
    /// Derives a link of `maker` from 32 random bytes.
    pub fn new(seed: &LinkSeed, maker: DeviceId) -> Self {
        let link = key(seed, maker);
        Self { link, hash: LinkHash::of(&link), binding: LinkBinding(xor(&seed.0, &mask(&link))) }
    }
}

impl LinkBinding {
    /// Returns true if `maker` made `link`. Somebody else would need a seed whose hash is this key,
    /// even with the key known.
    pub fn binds(&self, link: &Link, maker: DeviceId) -> bool {
        let seed = LinkSeed(xor(&self.0, &mask(link)));
        key(&seed, maker) == *link
    }
}

fn key(seed: &LinkSeed, maker: DeviceId) -> Link {
    let hash = hash_lines(&["lanyard/2 link key", &seed.to_hex(), &maker.to_string()]);
    let mut key = [0; 16];
    key.copy_from_slice(&hash.as_bytes()[..16]);
    Link(key)
}

/// Hides the seed from everybody who does not know the key.
fn mask(link: &Link) -> [u8; 32] {
    *hash_lines(&["lanyard/2 link binding", &link.to_hex()]).as_bytes()
}

fn xor(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| a[i] ^ b[i])
}
