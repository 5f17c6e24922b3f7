//! The devices that wait at the door, and which gives way when there is no more room: always one of
//! the network with most, there of the address with most. So nobody keeps others out by coming
//! often, or by having many addresses.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::limits::{MAX_PENDING, MAX_PENDING_AN_ADDRESS};

use super::SessionId;
use crate::source_address::{SourceAddress, SourceNetwork};

type Addresses = BTreeMap<SourceAddress, BTreeSet<SessionId>>;

#[derive(Debug, Default)]
pub(super) struct PendingSessions {
    by_network: BTreeMap<SourceNetwork, Addresses>,
    count: usize,
}

/// Whether one more may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PendingRoom {
    Free,
    /// Once this one has gone.
    InPlaceOf(SessionId),
    None,
}

impl PendingSessions {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn add(&mut self, source: SourceAddress, id: SessionId) {
        let addresses = self.by_network.entry(source.network()).or_default();
        self.count += usize::from(addresses.entry(source).or_default().insert(id));
    }

    pub(super) fn remove(&mut self, source: SourceAddress, id: SessionId) {
        let Some(addresses) = self.by_network.get_mut(&source.network()) else { return };
        let Some(sessions) = addresses.get_mut(&source) else { return };
        self.count -= usize::from(sessions.remove(&id));
        if sessions.is_empty() {
            addresses.remove(&source);
        }
        if addresses.is_empty() {
            self.by_network.remove(&source.network());
        }
    }

    /// Looks at no more entries than may wait. Whoever is `kept` gives way to nobody.
    pub(super) fn room_for(
        &self,
        source: SourceAddress,
        kept: impl Fn(SessionId) -> bool,
    ) -> PendingRoom {
        let own = self.by_network.get(&source.network());
        let of_address = own.and_then(|addresses| addresses.get(&source)).map_or(0, BTreeSet::len);
        if of_address >= MAX_PENDING_AN_ADDRESS {
            return PendingRoom::None;
        }
        if self.count < MAX_PENDING {
            return PendingRoom::Free;
        }
        let Some((network, crowd)) =
            self.by_network.iter().max_by_key(|(_, addresses)| total(addresses))
        else {
            return PendingRoom::None;
        };
        let Some(most) = crowd.values().max_by_key(|sessions| sessions.len()) else {
            return PendingRoom::None;
        };
        let gives_way = if *network == source.network() {
            most.len() > of_address + 1
        } else {
            total(crowd) > own.map_or(0, total) + 1
        };
        // The last to come goes first.
        let last = most.iter().rev().find(|id| !kept(**id)).filter(|_| gives_way);
        last.map_or(PendingRoom::None, |id| PendingRoom::InPlaceOf(*id))
    }
}

fn total(addresses: &Addresses) -> usize {
    addresses.values().map(BTreeSet::len).sum()
}

#[cfg(test)]
mod tests {
    //! Promise: whatever one network does, another gets its place at the door; and so does another
    //! address of the same network, as long as nobody has an address for every place.

    use super::*;

    fn crowd(addresses: impl IntoIterator<Item = String>) -> PendingSessions {
        let mut waiting = PendingSessions::default();
        for (n, address) in addresses.into_iter().enumerate() {
            let source = SourceAddress::of(&address);
            match waiting.room_for(source, |_| false) {
                PendingRoom::Free => {}
                PendingRoom::InPlaceOf(last) => panic!("{last:?} gave way"),
                PendingRoom::None => continue,
            }
            waiting.add(source, SessionId(n as u64));
        }
        waiting
    }

    #[test]
    fn a_network_of_5000_addresses_keeps_no_other_out() {
        let waiting = crowd((0..5_000).map(|n| format!("2001:db8::{n:x}")));
        assert_eq!(waiting.count(), MAX_PENDING);
        for other in ["192.168.1.9", "2001:db8:0:1::1", "fe80::1%eth0"] {
            let last = SessionId(MAX_PENDING as u64 - 1);
            assert!(
                matches!(
                    waiting.room_for(SourceAddress::of(other), |_| false),
                    PendingRoom::InPlaceOf(_)
                ),
                "{other}"
            );
            assert_ne!(
                waiting.room_for(SourceAddress::of(other), |id| id == last),
                PendingRoom::InPlaceOf(last),
                "{other}"
            );
        }
        assert_eq!(
            waiting.room_for(SourceAddress::of("2001:db8::ffff:1"), |_| false),
            PendingRoom::None,
            "one for one is no gain"
        );
    }

    #[test]
    fn four_addresses_of_a_network_leave_room_for_their_neighbour() {
        let waiting = crowd((0..200).map(|n| format!("fe80::{:x}", n % 4)));
        assert_eq!(waiting.count(), MAX_PENDING);
        assert!(matches!(
            waiting.room_for(SourceAddress::of("fe80::9"), |_| false),
            PendingRoom::InPlaceOf(_)
        ));
    }

    #[test]
    fn one_address_in_many_spellings_has_one_share() {
        let spelling = |n: usize| ["10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1"][n % 3].to_owned();
        assert_eq!(crowd((0..100).map(spelling)).count(), MAX_PENDING_AN_ADDRESS);
    }

    #[test]
    fn a_session_that_ends_leaves_nothing_behind() {
        let mut waiting = crowd((0..64).map(|n| format!("10.0.0.{n}")));
        for n in 0..64 {
            waiting.remove(SourceAddress::of(&format!("10.0.0.{n}")), SessionId(n));
            waiting.remove(SourceAddress::of(&format!("10.0.0.{n}")), SessionId(n));
        }
        assert_eq!((waiting.count(), waiting.by_network.len()), (0, 0));
    }
}
