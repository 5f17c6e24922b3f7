//! The origin of a connection, as far as bounds are concerned: an address, and the network in which
//! it can choose others.

use std::net::{IpAddr, Ipv6Addr};

/// An address that counts as one: IPv4, or a single IPv6 address. An IPv4 address that is written
/// as IPv6 is the IPv4 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceAddress(IpAddr);

/// A set of addresses of which one machine can take any: a /64 of IPv6 (that of all link-local
/// addresses, too), or one IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceNetwork(IpAddr);

impl SourceAddress {
    /// Reads an address as the relay writes it, with or without a zone. What is none shares one
    /// place, so that nobody gains by writing it in many ways.
    pub fn of(text: &str) -> Self {
        let bare = text.split('%').next().unwrap_or_default();
        Self::from(bare.parse::<IpAddr>().unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)))
    }

    /// Returns the network that bounds are counted for: a /64, or the IPv4 address itself.
    pub fn network(self) -> SourceNetwork {
        SourceNetwork(match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        })
    }
}

impl From<IpAddr> for SourceAddress {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    //! Promise: who writes his address in another way, or takes another of his own network, stays
    //! whom he was.

    use super::*;

    #[test]
    fn spellings_of_an_address_are_one_source() {
        for (a, b) in [
            ("::ffff:192.168.1.5", "192.168.1.5"),
            ("::ffff:c0a8:105", "192.168.1.5"),
            ("fe80::1%eth0", "fe80::1"),
            ("FE80:0:0:0:0:0:0:1", "fe80::1"),
            ("nonsense", "other nonsense"),
        ] {
            assert_eq!(SourceAddress::of(a), SourceAddress::of(b), "{a} {b}");
        }
        assert_ne!(SourceAddress::of("2001:db8::1"), SourceAddress::of("2001:db8::2"));
    }

    #[test]
    fn a_network_is_a_64_or_one_address() {
        let network = |text| SourceAddress::of(text).network();
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_eq!(network("fe80::1%eth0"), network("fe80::2%wlan0"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("192.168.1.5"), network("192.168.1.6"));
        assert_eq!(network("::ffff:192.168.1.5"), network("192.168.1.5"));
    }
}
