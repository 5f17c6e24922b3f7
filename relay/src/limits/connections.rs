//! How many connections there may be, and which one gives way when there are too many.
//!
//! A connection is *known* while its last request used a ticket or an existing link, or while it is
//! the socket of a session that is counted. A proof with a session's key is not enough: keys are
//! free. Known ones are bounded by what they are known for: a device, or links. All others are
//! bounded by address, by network and in all, whether they have asked for something or not, so that
//! whoever opens thousands of sockets only drives out its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use lanyard_hub::source_address::{SourceAddress, SourceNetwork};
use lanyard_protocol::DeviceId;
use lanyard_protocol::limits::{
    MAX_CONNECTIONS_A_DEVICE, MAX_HEAD_BYTES, MAX_LINK_CONNECTIONS, MAX_LINK_CONNECTIONS_A_NET,
    MAX_LINK_CONNECTIONS_AN_ADDRESS, MAX_UNKNOWN_A_NET, MAX_UNKNOWN_AN_ADDRESS, UNREAD_ANSWER_MS,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Descriptors that stay for the hub itself: database, log, files that the host shares, the
/// master's socket, the console.
const LEAST_RESERVE: u64 = 96;
/// Within the limits of an address a new connection has this long to say something before it can be
/// closed for another.
const PATIENCE: Duration = Duration::from_millis(250);

/// Raises the bound on descriptors as far as it goes, and gives how many of them connections may
/// take.
#[cfg(unix)]
pub(crate) fn most_connections() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let now = limit.current;
    limit.current = limit.maximum;
    let granted = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current,
        Err(_) => now,
    };
    granted.map_or(usize::MAX, most_of)
}

/// Sockets are no descriptors there: a bound of our own.
#[cfg(not(unix))]
pub fn most_connections() -> usize {
    most_of(16_384)
}

/// The descriptors that a process of so many may use for connections: a fifth, at least 96, is for
/// the hub's own needs.
fn most_of(descriptors: u64) -> usize {
    let reserve = (descriptors / 5).max(LEAST_RESERVE);
    usize::try_from(descriptors.saturating_sub(reserve)).unwrap_or(usize::MAX).max(8)
}

/// The reason why a connection is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownReason {
    /// Nothing: it has not asked yet, or what it asked for anybody may have.
    Unknown,
    /// It is a socket of this device, or its last request used a ticket of it.
    Device(DeviceId),
    /// Its last request was for an existing link.
    Link,
}

/// Takes one from a count, and forgets what counts none.
fn one_less<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// State that the limiter and the connection's own task share.
#[derive(Debug)]
struct PermitShared {
    number: u64,
    address: SourceAddress,
    since: Instant,
    /// Milliseconds after `since` of the last byte, in or out.
    moved: AtomicU64,
    close: CancellationToken,
}

impl PermitShared {
    fn moved(&self) {
        let at = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(at, Ordering::Relaxed);
    }

    fn moved_at(&self) -> Instant {
        self.since + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }
}

/// Unknown connections of one network, by address.
#[derive(Debug, Default)]
struct AddressNet {
    count: usize,
    by_address: HashMap<SourceAddress, Vec<Arc<PermitShared>>>,
}

impl AddressNet {
    /// Finds the longest unmoved connection of the address that has most.
    fn longest_unmoved(&self) -> Option<&Arc<PermitShared>> {
        let crowd = self.by_address.values().max_by_key(|connections| connections.len())?;
        crowd.iter().min_by_key(|shared| shared.moved_at())
    }
}

#[derive(Debug, Default)]
struct LimiterState {
    connections: usize,
    next: u64,
    unknown: usize,
    nets: HashMap<SourceNetwork, AddressNet>,
    /// The same by size, the largest last.
    sizes: BTreeSet<(usize, SourceNetwork)>,
    devices: HashMap<DeviceId, usize>,
    links: usize,
    link_addresses: HashMap<SourceAddress, usize>,
    link_networks: HashMap<SourceNetwork, usize>,
}

/// All connections of one listener.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    most: usize,
    state: Mutex<LimiterState>,
}

impl LimiterState {
    fn resize(&mut self, net: SourceNetwork, change: impl FnOnce(&mut AddressNet)) {
        let entry = self.nets.entry(net).or_default();
        let before = entry.count;
        change(entry);
        entry.count = entry.by_address.values().map(Vec::len).sum();
        let after = entry.count;
        self.unknown = self.unknown + after - before;
        self.sizes.remove(&(before, net));
        if after == 0 {
            self.nets.remove(&net);
        } else {
            self.sizes.insert((after, net));
        }
    }

    fn add_unknown(&mut self, shared: Arc<PermitShared>) {
        let address = shared.address;
        self.resize(address.network(), |net| {
            net.by_address.entry(address).or_default().push(shared)
        });
    }

    fn remove_unknown(&mut self, address: SourceAddress, number: u64) {
        self.resize(address.network(), |net| {
            let Some(connections) = net.by_address.get_mut(&address) else { return };
            connections.retain(|shared| shared.number != number);
            if connections.is_empty() {
                net.by_address.remove(&address);
            }
        });
    }

    /// Closes a connection: it stops to count at once, and ends soon.
    fn evict(&mut self, victim: &PermitShared) {
        self.remove_unknown(victim.address, victim.number);
        victim.close.cancel();
    }

    /// Closes the longest unmoved one of the largest network; false if all are known.
    fn evict_of_largest(&mut self) -> bool {
        let largest = self.sizes.last().and_then(|(_, net)| self.nets.get(net));
        let Some(victim) = largest.and_then(AddressNet::longest_unmoved).cloned() else {
            return false;
        };
        self.evict(&victim);
        true
    }

    /// Makes room in an address and its network, if somebody there had time enough to say
    /// something.
    fn thin_out(&mut self, address: SourceAddress, now: Instant) {
        loop {
            let Some(net) = self.nets.get(&address.network()) else { return };
            let of_address = net.by_address.get(&address);
            let is_crowded =
                of_address.is_some_and(|of_address| of_address.len() >= MAX_UNKNOWN_AN_ADDRESS);
            let victim = match is_crowded {
                true => {
                    of_address.and_then(|crowd| crowd.iter().min_by_key(|shared| shared.moved_at()))
                }
                false if net.count >= MAX_UNKNOWN_A_NET => net.longest_unmoved(),
                false => return,
            };
            let victim = victim
                .filter(|shared| now.saturating_duration_since(shared.since) >= PATIENCE)
                .cloned();
            let Some(victim) = victim else { return };
            self.evict(&victim);
        }
    }
}

impl ConnectionLimiter {
    /// For at most `most` connections.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// Admits a new connection, for which another one may have to leave; `None` if none can.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: SourceAddress,
        now: Instant,
    ) -> Option<Arc<ConnectionPermit>> {
        let mut state = self.state.lock();
        // Half of the places are for those who are known.
        let is_full = state.connections >= self.most || state.unknown >= (self.most / 2).max(1);
        if is_full && !state.evict_of_largest() {
            return None;
        }
        state.thin_out(address, now);
        state.connections += 1;
        state.next += 1;
        let close = CancellationToken::new();
        let shared = Arc::new(PermitShared {
            number: state.next,
            address,
            since: now,
            moved: AtomicU64::new(0),
            close,
        });
        state.add_unknown(shared.clone());
        Some(Arc::new(ConnectionPermit {
            limiter: self.clone(),
            shared,
            standing: Mutex::new(KnownReason::Unknown),
            claimed: AtomicBool::new(false),
            has_long_body: AtomicBool::new(false),
            may_read: AtomicUsize::new(MAX_HEAD_BYTES),
            blocked_since: AtomicU64::new(0),
            blocked: Notify::new(),
            is_registered: AtomicBool::new(false),
        }))
    }
}

/// One connection, as long as it lasts.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    shared: Arc<PermitShared>,
    standing: Mutex<KnownReason>,
    /// The request that is being answered has said what it is known for.
    claimed: AtomicBool,
    /// The answer is a body of a link or a ticket, which may pause.
    has_long_body: AtomicBool,
    /// Bytes that may still be read before a request's head has to be whole.
    may_read: AtomicUsize,
    /// Milliseconds after the beginning, plus one, since which the peer takes nothing; 0 while it
    /// takes.
    blocked_since: AtomicU64,
    blocked: Notify,
    is_registered: AtomicBool,
}

impl ConnectionPermit {
    /// A request's head is here; its body may follow, and then the next head.
    pub fn request_begins(&self, body_bytes: usize) {
        self.claimed.store(false, Ordering::Relaxed);
        self.has_long_body.store(false, Ordering::Relaxed);
        self.may_read.store(body_bytes.saturating_add(MAX_HEAD_BYTES), Ordering::Relaxed);
    }

    /// The answer's head is made. What nobody vouched for is unknown from here on.
    pub fn request_answered(&self) {
        if !self.claimed.load(Ordering::Relaxed) {
            self.stand(KnownReason::Unknown);
        }
    }

    /// Notes what a connection is known for, from here on. It stays unknown where there are as many
    /// as may be.
    pub fn claim(&self, standing: KnownReason) {
        self.claimed.store(true, Ordering::Relaxed);
        self.stand(standing);
    }

    /// As [`Self::claim`], for an answer whose reader may pause.
    pub fn claim_body(&self, standing: KnownReason) {
        self.claim(standing);
        let is_known = *self.standing.lock() != KnownReason::Unknown;
        self.has_long_body.store(is_known, Ordering::Relaxed);
    }

    fn stand(&self, wanted: KnownReason) {
        let mut standing = self.standing.lock();
        if *standing == wanted || self.shared.close.is_cancelled() {
            return;
        }
        let mut state = self.limiter.state.lock();
        self.leave(&mut state, *standing);
        *standing = self.enter(&mut state, wanted);
    }

    /// Counts it for what it is known for, if there is room, else for its address.
    fn enter(&self, state: &mut LimiterState, wanted: KnownReason) -> KnownReason {
        let address = self.shared.address;
        match wanted {
            KnownReason::Device(device) => {
                let count = state.devices.entry(device).or_default();
                if *count < MAX_CONNECTIONS_A_DEVICE {
                    *count += 1;
                    return wanted;
                }
            }
            KnownReason::Link => {
                let most = MAX_LINK_CONNECTIONS.min(self.limiter.most / 4);
                let of_address = state.link_addresses.get(&address).copied().unwrap_or(0);
                let of_net = state.link_networks.get(&address.network()).copied().unwrap_or(0);
                let has_room = of_address < MAX_LINK_CONNECTIONS_AN_ADDRESS
                    && of_net < MAX_LINK_CONNECTIONS_A_NET.min(most / 2);
                if state.links < most && has_room {
                    state.links += 1;
                    state.link_addresses.insert(address, of_address + 1);
                    state.link_networks.insert(address.network(), of_net + 1);
                    return wanted;
                }
            }
            KnownReason::Unknown => {}
        }
        state.add_unknown(self.shared.clone());
        KnownReason::Unknown
    }

    fn leave(&self, state: &mut LimiterState, standing: KnownReason) {
        let address = self.shared.address;
        match standing {
            KnownReason::Unknown => state.remove_unknown(address, self.shared.number),
            KnownReason::Device(device) => one_less(&mut state.devices, device),
            KnownReason::Link => {
                state.links -= 1;
                one_less(&mut state.link_addresses, address);
                one_less(&mut state.link_networks, address.network());
            }
        }
    }

    /// The network that the connection comes from.
    pub fn network(&self) -> SourceNetwork {
        self.shared.address.network()
    }

    /// Ends when the connection has to give way.
    pub async fn evicted(&self) {
        self.shared.close.cancelled().await;
    }

    /// Bytes that may be read now.
    pub fn may_read(&self) -> usize {
        self.may_read.load(Ordering::Relaxed)
    }

    pub fn has_read(&self, bytes: usize) {
        self.shared.moved();
        let _ = self.may_read.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(bytes))
        });
    }

    /// A socket has proven who it is: whoever evicts it lets it say so.
    pub fn registered(&self) {
        self.is_registered.store(true, Ordering::Relaxed);
    }

    pub fn is_registered(&self) -> bool {
        self.is_registered.load(Ordering::Relaxed)
    }

    /// From here on it is no longer HTTP: what may come has other bounds.
    pub fn upgraded(&self) {
        self.may_read.store(usize::MAX, Ordering::Relaxed);
    }

    pub fn has_written(&self) {
        self.shared.moved();
        self.blocked_since.store(0, Ordering::Relaxed);
    }

    /// The peer takes nothing at the moment.
    pub fn is_blocked(&self) {
        let at = u64::try_from(self.shared.since.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        if self.blocked_since.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.blocked.notify_one();
        }
    }

    /// Ends when an answer that may not pause was not taken for too long.
    pub async fn unread(&self) {
        let limit = Duration::from_millis(UNREAD_ANSWER_MS);
        loop {
            self.blocked.notified().await;
            while let Some(blocked) = self.blocked_for() {
                if blocked < limit || self.has_long_body.load(Ordering::Relaxed) {
                    tokio::time::sleep(limit.saturating_sub(blocked).max(Duration::from_secs(1)))
                        .await;
                } else {
                    return;
                }
            }
        }
    }

    fn blocked_for(&self) -> Option<Duration> {
        let since = self.blocked_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.shared.since.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}

/// The layer that knows a connection by the link that it read. Its bodies may pause.
pub(crate) async fn note_links(request: Request, next: Next) -> Response {
    let is_link = request.uri().path().starts_with("/d/");
    let permit = request.extensions().get::<Arc<ConnectionPermit>>().cloned();
    let response = next.run(request).await;
    let exists = matches!(response.status().as_u16(), 200 | 206 | 304 | 410 | 412 | 416);
    if let Some(permit) = permit.filter(|_| is_link && exists) {
        permit.claim_body(KnownReason::Link);
    }
    response
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let standing = *self.standing.get_mut();
        let mut state = self.limiter.state.lock();
        state.connections -= 1;
        self.leave(&mut state, standing);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn is_evicted(permit: &ConnectionPermit) -> bool {
        permit.shared.close.is_cancelled()
    }

    fn device(n: u8) -> DeviceId {
        format!("00000000-0000-8000-8000-0000000000{n:02x}").parse().unwrap()
    }

    /// Asks for something that anybody may have, and is answered.
    fn asks(permit: &ConnectionPermit) {
        permit.request_begins(0);
        permit.request_answered();
    }

    /// A71: having asked once is no reason to stay.
    #[test]
    fn a71_one_address_holds_so_many_whether_they_asked_or_not() {
        let limiter = ConnectionLimiter::new(10_000);
        let start = Instant::now();
        let crowd: Vec<_> =
            (0..MAX_UNKNOWN_AN_ADDRESS).filter_map(|_| limiter.enter(A.into(), start)).collect();
        crowd.iter().for_each(|permit| asks(permit));
        let other = limiter.enter(B.into(), start).unwrap();
        assert!(
            !crowd.iter().any(|permit| is_evicted(permit)),
            "all came at once, and may have something to say"
        );
        let later = start + PATIENCE;
        let more: Vec<_> = (0..2_000).filter_map(|_| limiter.enter(A.into(), later)).collect();
        assert_eq!(crowd.iter().filter(|permit| is_evicted(permit)).count(), crowd.len());
        assert!(!is_evicted(&other));
        let later = later + PATIENCE;
        let last = limiter.enter(A.into(), later).unwrap();
        assert!(!is_evicted(&last));
        let left = more.iter().filter(|permit| !is_evicted(permit)).count();
        assert_eq!(left, MAX_UNKNOWN_AN_ADDRESS - 1);
    }

    #[test]
    fn a71_a_full_house_takes_from_the_largest_and_the_known_stay() {
        let limiter = ConnectionLimiter::new(40);
        let enter = |address: IpAddr| limiter.enter(address.into(), Instant::now());
        let known: Vec<_> = (0..8).map(|_| enter(A).unwrap()).collect();
        known.iter().for_each(|permit| permit.claim(KnownReason::Device(device(1))));
        let link = enter(A).unwrap();
        link.claim_body(KnownReason::Link);
        let other = enter(B).unwrap();
        let crowd: Vec<_> = (0..500).map(|_| enter(A).unwrap()).collect();
        assert!(
            !is_evicted(&other)
                && !is_evicted(&link)
                && !known.iter().any(|permit| is_evicted(permit))
        );
        assert_eq!(
            crowd.iter().filter(|permit| !is_evicted(permit)).count(),
            19,
            "half, and one is another's"
        );
        assert!(!is_evicted(&enter(B).unwrap()));
    }

    #[test]
    fn a71_the_connection_that_moved_last_stays_longest() {
        let limiter = ConnectionLimiter::new(6);
        let (first, second) = (
            limiter.enter(A.into(), Instant::now()).unwrap(),
            limiter.enter(A.into(), Instant::now()).unwrap(),
        );
        let third = limiter.enter(A.into(), Instant::now()).unwrap();
        std::thread::sleep(Duration::from_millis(5)); // the clock of bytes has a grain of a millisecond
        first.has_read(1);
        third.has_written();
        let _new = limiter.enter(B.into(), Instant::now()).unwrap();
        assert!(is_evicted(&second) && !is_evicted(&first) && !is_evicted(&third));
    }

    #[test]
    fn a71_a_whole_64_is_one_crowd_and_each_address_in_it_is_bounded() {
        let limiter = ConnectionLimiter::new(100_000);
        let start = Instant::now();
        let of = |net: u16, host: u128| {
            SourceAddress::from(IpAddr::from(((u128::from(net) << 64) | host).to_be_bytes()))
        };
        let enter = |at: u128, now| limiter.enter(of(7, at), now).unwrap();
        let crowd: Vec<_> = (0..5_000).map(|n| enter(n, start + PATIENCE * n as u32)).collect();
        assert_eq!(crowd.iter().filter(|permit| !is_evicted(permit)).count(), MAX_UNKNOWN_A_NET);
        let neighbour = limiter.enter(of(8, 1), start).unwrap();
        assert!(!is_evicted(&neighbour));
    }

    /// A71: a link's body may pause for a day, and its reader may take any address of its network.
    #[test]
    fn a71_a_whole_64_does_not_take_all_places_for_links() {
        let limiter = ConnectionLimiter::new(800);
        let enter = |net: u128, host: u128| {
            let address = SourceAddress::from(IpAddr::from(((net << 64) | host).to_be_bytes()));
            let permit = limiter.enter(address, Instant::now()).unwrap();
            permit.claim_body(KnownReason::Link);
            permit
        };
        let may_pause = |permit: &ConnectionPermit| permit.has_long_body.load(Ordering::Relaxed);
        let crowd: Vec<_> = (0..400).map(|host| enter(7, host)).collect();
        let paused = crowd.iter().filter(|permit| may_pause(permit)).count();
        assert!(may_pause(&enter(8, 1)), "{paused} of one network leave no place for another");
        assert_eq!(paused, 100, "half of a quarter");
    }

    #[test]
    fn known_connections_are_bounded_by_what_they_are_known_for() {
        let limiter = ConnectionLimiter::new(4_000);
        let permits: Vec<_> =
            (0..500).map(|_| limiter.enter(A.into(), Instant::now()).unwrap()).collect();
        permits.iter().for_each(|permit| permit.claim(KnownReason::Device(device(1))));
        assert_eq!(limiter.state.lock().devices[&device(1)], MAX_CONNECTIONS_A_DEVICE);
        permits.iter().for_each(|permit| permit.claim_body(KnownReason::Link));
        let paused =
            permits.iter().filter(|permit| permit.has_long_body.load(Ordering::Relaxed)).count();
        assert_eq!(paused, MAX_LINK_CONNECTIONS_AN_ADDRESS, "no more may pause");
        assert!(limiter.state.lock().devices.is_empty());
        // A request that anybody may make ends it.
        permits.iter().for_each(|permit| asks(permit));
        let state = limiter.state.lock();
        assert_eq!((state.links, state.unknown), (0, 500));
    }

    #[test]
    fn readers_of_links_are_bounded_from_all_addresses_together() {
        let limiter = ConnectionLimiter::new(100_000);
        let of = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        let readers = 2 * MAX_LINK_CONNECTIONS as u32;
        let permits: Vec<_> =
            (0..readers).map(|n| limiter.enter(of(n).into(), Instant::now()).unwrap()).collect();
        permits.iter().for_each(|permit| permit.claim_body(KnownReason::Link));
        let paused =
            permits.iter().filter(|permit| permit.has_long_body.load(Ordering::Relaxed)).count();
        assert_eq!(paused, MAX_LINK_CONNECTIONS);
    }

    #[test]
    fn nothing_is_left_of_who_left() {
        let limiter = ConnectionLimiter::new(3);
        for standing in [KnownReason::Unknown, KnownReason::Device(device(1)), KnownReason::Link] {
            for _ in 0..10 {
                let permit = limiter.enter(A.into(), Instant::now()).unwrap();
                permit.claim(standing);
            }
        }
        let state = limiter.state.lock();
        assert!(state.nets.is_empty() && state.sizes.is_empty() && state.devices.is_empty());
        assert!(state.link_addresses.is_empty() && state.link_networks.is_empty());
        assert_eq!((state.connections, state.unknown, state.links), (0, 0, 0));
    }

    #[test]
    fn the_hub_keeps_descriptors_for_itself() {
        assert_eq!(most_of(1_024), 1_024 - 204);
        assert_eq!(most_of(256), 160);
        assert_eq!(most_of(0), 8);
    }

    /// A71: an answer that is not taken ends after half a minute; a paused download does not.
    #[tokio::test]
    async fn a71_an_unread_answer_ends_and_a_paused_body_of_a_link_stays() {
        let limiter = ConnectionLimiter::new(100);
        for (standing, ends) in [(KnownReason::Unknown, true), (KnownReason::Link, false)] {
            let permit = limiter
                .enter(A.into(), Instant::now() - Duration::from_millis(UNREAD_ANSWER_MS + 2))
                .unwrap();
            permit.request_begins(0);
            permit.claim_body(standing);
            assert!(
                futures_util::FutureExt::now_or_never(permit.unread()).is_none(),
                "it takes what there is"
            );
            permit.blocked_since.store(1, Ordering::Relaxed);
            permit.blocked.notify_one();
            let ended = futures_util::FutureExt::now_or_never(permit.unread());
            assert_eq!(ended.is_some(), ends, "{standing:?}");
        }
    }
}
