//! Where this hub can be reached: every address of the machine, the likeliest for a phone in the
//! same room first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Interfaces that lead to containers, machines inside this one, or other networks.
const VIRTUAL: [&str; 22] = [
    "docker",
    "br-",
    "veth",
    "virbr",
    "vmnet",
    "vboxnet",
    "vnet",
    "cni",
    "flannel",
    "cali",
    "podman",
    "lxc",
    "lxd",
    "tun",
    "tap",
    "wg",
    "zt",
    "tailscale",
    "utun",
    "ppp",
    "bridge",
    "ipsec",
];

/// One address of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    ip: IpAddr,
    interface: String,
    /// What a packet to far away would come from.
    is_default_source: bool,
}

impl Address {
    /// Smaller is better. IPv4 first: it can be read aloud and typed.
    fn rank(&self) -> impl Ord + use<> {
        let name = self.interface.to_lowercase();
        let is_virtual =
            VIRTUAL.iter().any(|prefix| name.starts_with(prefix)) || name.contains("vethernet");
        (
            self.ip.is_loopback(),
            is_virtual,
            self.ip.is_ipv6(),
            !is_private(self.ip),
            !self.is_default_source,
            self.ip,
        )
    }
}

/// Addresses of the hub that listens on `listen`, the best first; `names` are those that the host
/// vouches for.
pub(crate) fn urls(listen: SocketAddr, names: &[String]) -> Vec<String> {
    let mut found = if listen.ip().is_unspecified() { machine() } else { vec![plain(listen.ip())] };
    if listen.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        found.retain(|address| address.ip.is_ipv4());
    }
    found.sort_by_key(Address::rank);
    found.dedup_by_key(|address| address.ip);
    let by_ip =
        found.iter().map(|address| url(&SocketAddr::new(address.ip, listen.port()).to_string()));
    let by_name = names.iter().map(|name| url(&format!("{name}:{}", listen.port())));
    let mut urls: Vec<String> = by_ip.collect();
    // After what leads into this network, before what does not leave the machine.
    let at = found.iter().position(|address| address.ip.is_loopback()).unwrap_or(found.len());
    urls.splice(at..at, by_name);
    urls
}

/// Whether there is anybody whom a hub that listens on `listen` is to reach, and a network to do
/// so. One that is bound to an address is where its host wants it.
pub(crate) fn reaches_others(listen: SocketAddr) -> bool {
    !listen.ip().is_unspecified() || machine().iter().any(|address| !address.ip.is_loopback())
}

/// How the machine itself reaches the hub that listens on `listen`.
pub(crate) fn own(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.port())
    } else {
        listen
    }
}

/// All addresses by which a browser may reach this machine.
pub(crate) fn all() -> Vec<IpAddr> {
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    let mut all: Vec<IpAddr> =
        found.into_iter().map(|interface| interface.ip()).filter(|ip| is_usable(*ip)).collect();
    all.extend([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]);
    all.sort();
    all.dedup();
    all
}

fn url(authority: &str) -> String {
    format!("http://{}", authority.strip_suffix(":80").unwrap_or(authority))
}

fn plain(ip: IpAddr) -> Address {
    Address { ip, interface: String::new(), is_default_source: false }
}

fn machine() -> Vec<Address> {
    let sources =
        [default_source("0.0.0.0:0", "192.0.2.1:9"), default_source("[::]:0", "[2001:db8::1]:9")];
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "the machine's addresses cannot be listed");
        Vec::new()
    });
    let mut found: Vec<Address> = interfaces
        .into_iter()
        .map(|interface| Address {
            ip: interface.ip(),
            is_default_source: sources.contains(&Some(interface.ip())),
            interface: interface.name,
        })
        .filter(|address| is_usable(address.ip))
        .collect();
    if found.is_empty() {
        found.push(plain(Ipv4Addr::LOCALHOST.into()));
    }
    found
}

/// The source address of the default route. Nothing is sent.
fn default_source(from: &str, towards: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(towards).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// Link-local addresses need a zone, which no browser takes.
fn is_usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !is_link_local(ip) && !ip.is_unspecified() && ip != Ipv6Addr::LOCALHOST,
    }
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xfe00 == 0xfc00,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str, interface: &str, is_default_source: bool) -> Address {
        Address { ip: ip.parse().unwrap(), interface: interface.into(), is_default_source }
    }

    #[test]
    fn the_address_in_the_room_comes_first() {
        let mut found = [
            at("127.0.0.1", "lo", false),
            at("172.17.0.1", "docker0", false),
            at("10.8.0.2", "tun0", true),
            at("2001:db8::5", "eth0", false),
            at("fd00::5", "eth0", true),
            at("203.0.113.5", "eth1", false),
            at("10.0.0.9", "eth2", false),
            at("192.168.1.20", "wlan0", true),
        ];
        found.sort_by_key(Address::rank);
        let order: Vec<String> = found.iter().map(|address| address.ip.to_string()).collect();
        assert_eq!(
            order,
            [
                "192.168.1.20",
                "10.0.0.9",
                "203.0.113.5",
                "fd00::5",
                "2001:db8::5",
                "10.8.0.2",
                "172.17.0.1",
                "127.0.0.1"
            ]
        );
    }

    #[test]
    fn a_fixed_address_is_the_only_one_and_names_come_with_the_port() {
        let listen = "192.168.1.20:7070".parse().unwrap();
        assert_eq!(
            urls(listen, &["hub.lan".into()]),
            ["http://192.168.1.20:7070", "http://hub.lan:7070"]
        );
        assert_eq!(urls("[::1]:80".parse().unwrap(), &[]), ["http://[::1]"]);
        let listen = "127.0.0.1:7070".parse().unwrap();
        assert_eq!(
            urls(listen, &["hub.lan".into()]),
            ["http://hub.lan:7070", "http://127.0.0.1:7070"]
        );
        assert_eq!(own("[::]:7070".parse().unwrap()), "127.0.0.1:7070".parse().unwrap());
    }
}
