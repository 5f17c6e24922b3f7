//! Who may open the console: links that work once, and the tokens of the tabs that used one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lanyard_protocol::SessionToken;

/// A link is opened within this, or made anew.
const LINK_LIFETIME: Duration = Duration::from_secs(60);
/// Links that wait to be opened, and tabs that stay known over a reload; the oldest is forgotten.
const MAX_LINKS: usize = 16;
const MAX_TABS: usize = 64;

/// Kept as hashes, whose comparison takes the same time for all.
#[derive(Debug, Default)]
struct KnownTokens {
    links: VecDeque<(blake3::Hash, Instant)>,
    tabs: VecDeque<blake3::Hash>,
}

#[derive(Debug, Clone)]
pub(crate) struct LoginLinks {
    address: SocketAddr,
    known: Arc<Mutex<KnownTokens>>,
}

impl LoginLinks {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, known: Arc::default() }
    }

    /// The port the console listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A fresh link. What follows `#` never leaves the browser but in the body of one request.
    pub(crate) fn link(&self) -> Result<String, getrandom::Error> {
        let secret = random()?;
        let mut known = self.lock();
        if known.links.len() == MAX_LINKS {
            known.links.pop_front();
        }
        known.links.push_back((hash(&secret), Instant::now() + LINK_LIFETIME));
        Ok(format!("http://{}/#s={secret}", self.address))
    }

    /// A token for the secret of a link that was not opened yet.
    pub(crate) fn open(&self, secret: &str) -> Option<SessionToken> {
        let hash = hash(secret);
        let mut known = self.lock();
        known.links.retain(|(_, until)| *until > Instant::now());
        let at = known.links.iter().position(|(known, _)| *known == hash)?;
        known.links.remove(at);
        let token: SessionToken = random().ok()?.parse().ok()?;
        if known.tabs.len() == MAX_TABS {
            known.tabs.pop_front();
        }
        known.tabs.push_back(self::hash(&token.to_hex()));
        Some(token)
    }

    pub(crate) fn knows(&self, token: &SessionToken) -> bool {
        let hash = hash(&token.to_hex());
        self.lock().tabs.contains(&hash)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, KnownTokens> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn age_links(&self) {
        self.lock().links.iter_mut().for_each(|(_, until)| *until = Instant::now());
    }
}

fn hash(text: &str) -> blake3::Hash {
    blake3::hash(text.as_bytes())
}

/// 32 random bytes, in hex.
fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}
