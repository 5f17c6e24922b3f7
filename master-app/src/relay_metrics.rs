//! What the relay says of itself (`/metrics`), for `lanyard status`: how near its limits it is, and what it refused.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use lanyard_device::link::{HubUrl, connection};
use lanyard_protocol::master_proof::metrics_token;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// It is on this machine, and answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);
const MOST_BYTES: u64 = 256 << 10;

/// How the relay stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStanding {
    pub pending: u64,
    pub pending_limit: u64,
    pub slot_bytes: u64,
    pub slot_budget_bytes: u64,
    pub waiting_asks: u64,
    /// By code.
    pub refused: BTreeMap<String, u64>,
    /// Sockets that the relay closed, by reason.
    pub closed: BTreeMap<String, u64>,
}

impl RelayStanding {
    /// What is at its limit, in words.
    pub fn at_limit(&self) -> Vec<&'static str> {
        let mut full = Vec::new();
        if self.is_door_full() {
            full.push("as many wait at the door as may");
        }
        if self.waiting_asks > 0 && self.slot_bytes * 10 >= self.slot_budget_bytes * 9 {
            full.push("as much is on its way as the budget allows");
        }
        full
    }

    pub fn is_door_full(&self) -> bool {
        self.pending_limit > 0 && self.pending >= self.pending_limit
    }
}

/// Where the relay is asked, and what it wants to see.
#[derive(Clone)]
pub struct RelayMetrics {
    url: HubUrl,
    token: String,
}

impl RelayMetrics {
    /// `secret` is that of master and relay, of which the token is made.
    pub fn of(url: &HubUrl, secret: &[u8; 32]) -> Self {
        Self { url: url.clone(), token: metrics_token(secret) }
    }

    /// Asks the relay; `None` where it is away, or on another machine, where the token would have to travel.
    pub async fn ask(&self) -> Option<RelayStanding> {
        if !self.url.is_loopback() {
            return None;
        }
        let page = tokio::time::timeout(PATIENCE, fetch(&self.url, &self.token)).await.ok()?;
        page.ok().map(|text| parse(&text))
    }
}

async fn fetch(url: &HubUrl, token: &str) -> io::Result<String> {
    let mut stream = connection(url).await.map_err(io::Error::other)?;
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n",
        url.authority()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer).await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn parse(text: &str) -> RelayStanding {
    let mut standing = RelayStanding::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("lanyard_")) {
        let Some((name, Ok(value))) = line.rsplit_once(' ').map(|(name, value)| (name, value.parse::<u64>())) else {
            continue;
        };
        let label = || name.split('"').nth(1).unwrap_or_default().to_owned();
        match name.split('{').next().unwrap_or_default() {
            "sessions_pending" => standing.pending = value,
            "pending_limit" => standing.pending_limit = value,
            "slot_bytes" => standing.slot_bytes = value,
            "slot_budget_bytes" => standing.slot_budget_bytes = value,
            "waiting_asks" => standing.waiting_asks = value,
            "refused_total" => drop(standing.refused.insert(label(), value)),
            "closed_total" => drop(standing.closed.insert(label(), value)),
            _ => {}
        }
    }
    standing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relays_page_is_understood_and_what_is_full_is_said() {
        let text = "# HELP lanyard_slots x\nlanyard_sessions_pending 64\nlanyard_pending_limit 64\nlanyard_slot_bytes 33\n\
                    lanyard_slot_budget_bytes 100\nlanyard_refused_total{code=\"HOST_DENIED\"} 3\nlanyard_new_thing 9\nrubbish\n";
        let standing = parse(text);
        assert_eq!(standing.refused, BTreeMap::from([("HOST_DENIED".to_owned(), 3)]));
        assert_eq!(standing.at_limit(), ["as many wait at the door as may"]);
        assert!(RelayStanding::default().at_limit().is_empty());
    }
}
