//! Where a hub is: `http://host[:port]` or `https://host[:port]`. One port speaks both.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use lanyard_protocol::{InvitationId, InvitationSecret};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The address of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubUrl {
    secure: bool,
    /// Lower case; an IPv6 address stands in brackets.
    host: String,
    port: u16,
}

/// Why a text is no address of a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error("an address of a hub starts with http:// or https://")]
    Scheme,
    #[error("an address of a hub has a host and perhaps a port, and nothing behind it")]
    Form,
    #[error("`{0}` is no port")]
    Port(String),
    #[error("the invitation in this address is not whole")]
    Invitation,
}

impl HubUrl {
    /// What goes into `Host` and into the proofs: lower case, the scheme's own port left out, IPv6
    /// in brackets.
    pub fn authority(&self) -> String {
        if self.port == default_port(self.secure) {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// `http://host[:port]`, without a slash at the end.
    pub fn http_base(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }

    /// The WebSocket address of `path` (which starts with `/`).
    pub fn ws(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.secure { "wss" } else { "ws" }, self.authority())
    }

    /// What to resolve and connect to.
    pub fn host_and_port(&self) -> (&str, u16) {
        let host =
            self.host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&self.host);
        (host, self.port)
    }

    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether it is this very machine, by an address that needs no resolving. Plain http stays on
    /// the machine then; who answers there proves itself as anywhere.
    pub fn is_loopback(&self) -> bool {
        let (host, _) = self.host_and_port();
        host == "localhost"
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// The same port by https.
    pub fn secured(&self) -> Self {
        Self { secure: true, ..self.clone() }
    }

    /// Whether both mean the same hub, however it is spoken to.
    pub fn is_same_place(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

fn parse_port(text: &str) -> Result<u16, BadUrl> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| BadUrl::Port(text.into()))
}

fn parse_host(host: &str) -> Result<String, BadUrl> {
    if let Some(inner) = host.strip_prefix('[') {
        let address: Ipv6Addr =
            inner.strip_suffix(']').and_then(|a| a.parse().ok()).ok_or(BadUrl::Form)?;
        return Ok(format!("[{address}]"));
    }
    let fits =
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if fits { Ok(host.to_ascii_lowercase()) } else { Err(BadUrl::Form) }
}

impl FromStr for HubUrl {
    type Err = BadUrl;

    /// A single slash at the end and a fragment (the hub's key in a QR code) are allowed and left
    /// out.
    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Scheme)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(BadUrl::Scheme),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let colon = match rest.rfind(']') {
            Some(bracket) => rest[bracket..].find(':').map(|at| bracket + at),
            None => rest.rfind(':'),
        };
        let (host, port) = match colon {
            Some(at) => (parse_host(&rest[..at])?, parse_port(&rest[at + 1..])?),
            None => (parse_host(rest)?, default_port(secure)),
        };
        Ok(Self { secure, host, port })
    }
}

/// An address as a hub gives it to somebody: perhaps with an invitation behind it (`#i=`, beside
/// the hub's key).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUrl {
    pub url: HubUrl,
    pub invitation: Option<(InvitationId, InvitationSecret)>,
}

impl FromStr for GivenUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let parts = text.split_once('#').map_or("", |(_, fragment)| fragment).split('&');
        let invitation = match parts.filter_map(|part| part.trim().strip_prefix("i=")).next() {
            Some(words) => {
                Some(words.split_at_checked(16).and_then(parsed).ok_or(BadUrl::Invitation)?)
            }
            None => None,
        };
        Ok(Self { url: text.parse()?, invitation })
    }
}

fn parsed((id, secret): (&str, &str)) -> Option<(InvitationId, InvitationSecret)> {
    Some((id.parse().ok()?, secret.parse().ok()?))
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.http_base())
    }
}

impl Serialize for HubUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.http_base())
    }
}

impl<'de> Deserialize<'de> for HubUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> HubUrl {
        text.parse().unwrap()
    }

    #[test]
    fn an_authority_is_what_a_client_sends_as_host() {
        for (text, authority) in [
            ("http://Hub.Local", "hub.local"),
            ("http://hub.local:80/", "hub.local"),
            ("HTTP://192.168.1.20:7070", "192.168.1.20:7070"),
            ("http://[FE80::1]:7070/#k=abc", "[fe80::1]:7070"),
            ("http://[::1]", "[::1]"),
            ("https://hub.local:443", "hub.local"),
            ("https://hub.local:80", "hub.local:80"),
        ] {
            assert_eq!(url(text).authority(), authority, "{text}");
        }
        assert_eq!(url("http://[::1]:7070").host_and_port(), ("::1", 7070));
        assert_eq!(url("http://a:81").ws("/ws/device"), "ws://a:81/ws/device");
        assert_eq!(url("https://a").ws("/ws/device"), "wss://a/ws/device");
        assert_eq!(url("http://a").host_and_port(), ("a", 80));
    }

    #[test]
    fn the_secured_address_is_the_same_port() {
        assert_eq!(url("http://a:7070").secured().to_string(), "https://a:7070");
        assert_eq!(url("http://a").secured().to_string(), "https://a:80");
        assert!(url("http://a").is_same_place(&url("https://a:80")));
        assert!(!url("http://a").is_same_place(&url("https://a")));
    }

    #[test]
    fn this_machine_is_known_by_its_addresses() {
        for text in [
            "http://localhost:1",
            "http://127.9.9.9:1",
            "http://[::1]:1",
            "http://[::ffff:127.0.0.1]:1",
        ] {
            assert!(url(text).is_loopback(), "{text}");
        }
        for text in ["http://localhost.evil:1", "http://192.168.0.1:1", "http://127.0.0.1.evil:1"] {
            assert!(!url(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn an_invitation_stands_behind_the_address() {
        let given: GivenUrl =
            format!("http://a:1/#k=00&i={}{}", "ab".repeat(8), "cd".repeat(16)).parse().unwrap();
        assert_eq!(given.url, url("http://a:1"));
        assert_eq!(given.invitation, Some((InvitationId([0xab; 8]), InvitationSecret([0xcd; 16]))));
        assert_eq!("http://a:1/#k=00".parse::<GivenUrl>().unwrap().invitation, None);
        for broken in ["http://a/#i=", "http://a/#i=abcd", "http://a/#i=zz"] {
            assert_eq!(broken.parse::<GivenUrl>(), Err(BadUrl::Invitation), "{broken}");
        }
    }

    #[test]
    fn an_address_that_names_no_hub_is_rejected_with_the_reason() {
        for text in [
            "hub.local",
            "ftp://a",
            "http://",
            "http://a/b",
            "http://a:0",
            "http://a:99999",
            "http://u@a",
            "http://[::1",
        ] {
            assert!(text.parse::<HubUrl>().is_err(), "{text}");
        }
    }
}
