//! How many connections there may be, and who gives way when there are too many: who has not yet asked for anything. An
//! honest client says what it wants within milliseconds, so that a crowd of silent ones only drives out its own.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Connections of one address that have not yet sent a whole head; beyond, those give way that had this long to say
/// something.
const WAITING_AN_ADDRESS: usize = 64;
const PATIENCE: Duration = Duration::from_millis(250);
/// Of the descriptors that this process may have; the rest is for files.
const SHARE: f64 = 0.8;

/// Raises the bound on descriptors as far as it goes, and gives how many of them connections may take.
#[cfg(unix)]
pub fn most_connections() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let now = limit.current;
    limit.current = limit.maximum;
    let granted = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current,
        Err(_) => now,
    };
    granted.map_or(usize::MAX, |descriptors| (descriptors as f64 * SHARE) as usize)
}

/// Sockets are no descriptors there: a bound of our own.
#[cfg(not(unix))]
pub fn most_connections() -> usize {
    (16_384.0 * SHARE) as usize
}

/// All connections, and those that have not yet asked for anything, the oldest first.
#[derive(Debug)]
pub struct Lobby {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    next: u64,
    waiting: HashMap<IpAddr, VecDeque<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    since: Instant,
    leave: CancellationToken,
}

/// One connection, as long as it lasts.
#[derive(Debug)]
pub struct Guest {
    lobby: Arc<Lobby>,
    address: IpAddr,
    number: u64,
    has_asked: AtomicBool,
    leave: CancellationToken,
}

impl State {
    /// Sends away who waits longest of this address.
    fn turn_away(&mut self, address: IpAddr) {
        if let Some(longest) = self.waiting.get_mut(&address).and_then(VecDeque::pop_front) {
            longest.leave.cancel();
        }
    }

    /// Whether an address has a crowd here whose first had time enough.
    fn is_crowded(&self, address: IpAddr, now: Instant) -> bool {
        let crowd = self.waiting.get(&address).filter(|waiting| waiting.len() >= WAITING_AN_ADDRESS);
        crowd.and_then(VecDeque::front).is_some_and(|first| now.duration_since(first.since) >= PATIENCE)
    }

    fn forget(&mut self, address: IpAddr, number: u64) {
        let Some(waiting) = self.waiting.get_mut(&address) else { return };
        waiting.retain(|other| other.number != number);
        if waiting.is_empty() {
            self.waiting.remove(&address);
        }
    }
}

impl Lobby {
    /// For at most `most` connections.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// A new connection, for which another one may have to leave; `None` if nobody can.
    pub fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Guest> {
        let mut state = self.state.lock();
        if state.connections >= self.most {
            let crowd = state.waiting.iter().max_by_key(|(_, waiting)| waiting.len()).map(|(address, _)| *address)?;
            state.turn_away(crowd);
        }
        while state.is_crowded(address, now) {
            state.turn_away(address);
        }
        state.connections += 1;
        state.next += 1;
        let (number, leave) = (state.next, CancellationToken::new());
        state.waiting.entry(address).or_default().push_back(Waiting { number, since: now, leave: leave.clone() });
        Some(Guest { lobby: self.clone(), address, number, has_asked: AtomicBool::new(false), leave })
    }
}

impl Guest {
    /// It sent a whole head: from here on it is not sent away.
    pub fn asked(&self) {
        if !self.has_asked.swap(true, Ordering::Relaxed) {
            self.lobby.state.lock().forget(self.address, self.number);
        }
    }

    /// Ends when the guest has to leave.
    pub async fn turned_away(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut state = self.lobby.state.lock();
        state.connections -= 1;
        state.forget(self.address, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn has_to_leave(guest: &Guest) -> bool {
        guest.leave.is_cancelled()
    }

    #[test]
    fn of_one_address_the_longest_silent_one_gives_way() {
        let (lobby, start) = (Lobby::new(1_000), Instant::now());
        let crowd: Vec<Guest> = (0..WAITING_AN_ADDRESS + 1).filter_map(|_| lobby.enter(A, start)).collect();
        crowd[0].asked();
        let later = start + PATIENCE;
        assert!(lobby.enter(B, later).is_some());
        assert!(!crowd.iter().any(has_to_leave), "all came at once, and may have something to say");
        let more: Vec<Guest> = (0..2).filter_map(|_| lobby.enter(A, later)).collect();
        let gone: Vec<usize> = (0..crowd.len()).filter(|at| has_to_leave(&crowd[*at])).collect();
        assert_eq!(gone, [1, 2], "one had asked, and left its place");
        assert!(!more.iter().any(has_to_leave));
    }

    #[test]
    fn a_full_house_lets_in_for_a_silent_one_and_else_not() {
        let lobby = Lobby::new(3);
        let enter = |address| lobby.enter(address, Instant::now());
        let (silent, first, second) = (enter(A).unwrap(), enter(B).unwrap(), enter(B).unwrap());
        first.asked();
        second.asked();
        let third = enter(B).unwrap();
        assert!(has_to_leave(&silent));
        drop(silent);
        third.asked();
        assert!(enter(A).is_none(), "nobody is silent");
        drop(second);
        assert!(enter(A).is_some());
    }

    #[test]
    fn nothing_is_left_of_who_left() {
        let lobby = Lobby::new(3);
        for _ in 0..10 {
            drop(lobby.enter(A, Instant::now()));
        }
        let state = lobby.state.lock();
        assert!(state.waiting.is_empty() && state.connections == 0);
    }
}
