//! What guessing costs. A link is 128 random bits and the master's secret 256, so nobody gets in by luck: the bounds keep
//! guessing from costing the relay, and make it show in `/metrics` (trust.md A11, A25). Neither locks anybody out: who shares
//! an address with a guesser still gets what he has the key to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lanyard_protocol::FailureCode;
use lanyard_protocol::limits::{ID_MISSES, ID_MISSES_WINDOW_MS};
use parking_lot::Mutex;

use crate::edge::Edge;
use crate::error::ApiError;

/// Addresses that are remembered; when there are more the oldest is forgotten.
const ADDRESSES: usize = 1_024;
/// What the first wrong secret of an address waits for its answer; each next one twice as long, to at most [`LONGEST`].
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(10);
/// After this long without a wrong secret an address begins anew.
const FORGIVEN: Duration = Duration::from_secs(60);

/// What an address did, and since when.
#[derive(Debug, Clone, Copy)]
struct Tries {
    since: Instant,
    count: u32,
}

/// Tries by address.
#[derive(Debug, Default)]
struct Book(Mutex<HashMap<IpAddr, Tries>>);

impl Book {
    /// Notes one more try, in a new row if `is_over` says so of the one that is there; gives how many it holds now.
    fn note(&self, address: IpAddr, now: Instant, is_over: impl Fn(&Tries) -> bool) -> u32 {
        let mut rows = self.0.lock();
        if rows.len() >= ADDRESSES && !rows.contains_key(&address) {
            let oldest = rows.iter().min_by_key(|(_, tries)| tries.since).map(|(address, _)| *address);
            oldest.map(|oldest| rows.remove(&oldest));
        }
        let new = Tries { since: now, count: 0 };
        let row = rows
            .entry(address)
            .and_modify(|row| {
                if is_over(row) {
                    *row = new
                }
            })
            .or_insert(new);
        row.count = row.count.saturating_add(1);
        row.count
    }
}

/// Links that were asked for and that there are not.
#[derive(Debug, Default)]
pub struct Misses(Book);

impl Misses {
    /// One more; whether that is too many for this address.
    fn is_too_many(&self, address: IpAddr, now: Instant) -> bool {
        let window = Duration::from_millis(ID_MISSES_WINDOW_MS);
        self.0.note(address, now, |row| now.duration_since(row.since) >= window) > ID_MISSES
    }
}

/// Wrong proofs of the master's secret.
#[derive(Debug, Default)]
pub struct WrongSecrets(Book);

impl WrongSecrets {
    /// One more; how long its answer has to wait. A right one never waits.
    pub fn wait(&self, address: IpAddr, now: Instant) -> Duration {
        let count = self.0.note(address, now, |row| now.duration_since(row.since) >= FORGIVEN);
        FIRST_WAIT.saturating_mul(1 << (count - 1).min(16)).min(LONGEST)
    }
}

/// The layer around all routes: of an address that misses too often, what is not there is answered 429.
pub async fn limit(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let is_link = request.uri().path().starts_with("/d/");
    let response = next.run(request).await;
    if is_link
        && response.status() == StatusCode::NOT_FOUND
        && edge.misses.is_too_many(peer.ip().to_canonical(), Instant::now())
    {
        return ApiError(FailureCode::RateLimited).into_response();
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn twenty_misses_are_free_then_none_until_ten_seconds_are_over() {
        let (misses, start) = (Misses::default(), Instant::now());
        assert!((0..20).all(|_| !misses.is_too_many(HERE, start)));
        assert!(misses.is_too_many(HERE, start + Duration::from_millis(9_999)));
        assert!(!misses.is_too_many(THERE, start), "another address pays for nothing");
        assert!(!misses.is_too_many(HERE, start + Duration::from_secs(10)));
    }

    #[test]
    fn each_wrong_secret_waits_twice_as_long_as_the_last() {
        let (wrong, start) = (WrongSecrets::default(), Instant::now());
        let waits: Vec<_> = (0..12).map(|_| wrong.wait(HERE, start).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120, 10_000, 10_000]);
        assert_eq!(wrong.wait(THERE, start), FIRST_WAIT, "another address has its own");
        assert_eq!(wrong.wait(HERE, start + FORGIVEN), FIRST_WAIT, "and after a minute it begins anew");
    }

    #[test]
    fn a_crowd_of_addresses_costs_no_more_than_the_book_is_long() {
        let (misses, start) = (Misses::default(), Instant::now());
        for number in 0..5_000u32 {
            misses.is_too_many(IpAddr::V4(number.into()), start + Duration::from_micros(number.into()));
        }
        assert_eq!(misses.0.0.lock().len(), ADDRESSES);
    }
}
