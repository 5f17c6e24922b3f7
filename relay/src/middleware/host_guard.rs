//! The outermost layer: exactly one Host that is ours, and no foreign Origin. A page of another
//! site can neither reach the hub by a name of its own (DNS rebinding needs a name) nor speak to it
//! across sites.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, header};
use lanyard_protocol::FailureCode;
use lanyard_system::hostname::hostname;

use crate::error::ApiError;
use crate::net::tls::Transport;

/// Names that requests may be addressed to, lower case.
#[derive(Debug, Clone)]
pub(crate) struct HostGuard(Arc<[String]>);

impl HostGuard {
    pub(crate) fn new(more: &[String]) -> Self {
        Self(own_names(more).into())
    }

    fn allows(&self, host: &str) -> bool {
        let literal =
            host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        literal.parse::<IpAddr>().is_ok() || self.0.iter().any(|name| name == host)
    }
}

/// `localhost`, this machine's name with and without `.local`, and `more`: all lower case.
pub fn own_names(more: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    if let Some(machine) = hostname().map(|name| name.to_lowercase()) {
        let short = machine.split('.').next().unwrap_or(&machine).to_owned();
        names.extend([format!("{short}.local"), short, machine]);
    }
    names.extend(more.iter().map(|name| name.to_lowercase()));
    names
}

/// The authority a request was sent to, as both sides sign it: lower case, the default port left
/// out, IPv6 in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostHeader(pub String);

/// Splits `host[:port]`; `None` for what is neither.
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rfind(':') {
        Some(at) if !authority[at..].contains(']') => {
            (&authority[..at], Some(&authority[at + 1..]))
        }
        _ => (authority, None),
    };
    let bracketed = host.starts_with('[') == host.ends_with(']');
    let well_formed =
        !host.is_empty() && bracketed && (host.starts_with('[') || !host.contains(':'));
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
        None => None,
    };
    well_formed.then_some((host, port))
}

/// Reads the one Host header of a request and brings it to its canonical form.
pub(crate) fn authority(
    headers: &HeaderMap,
    target: Option<&str>,
    default_port: u16,
) -> Result<(String, HostHeader), FailureCode> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(FailureCode::BadMessage);
    };
    let host = host.to_str().map_err(|_| FailureCode::BadMessage)?.to_lowercase();
    if target.is_some_and(|target| target.to_lowercase() != host) {
        return Err(FailureCode::BadMessage);
    }
    let (name, port) = split(&host).ok_or(FailureCode::BadMessage)?;
    let canonical = match port {
        Some(port) if port != default_port => format!("{name}:{port}"),
        _ => name.to_owned(),
    };
    Ok((name.to_owned(), HostHeader(canonical)))
}

/// Whether a request's Origin and fetch metadata are those of our own page, of no page at all, or
/// of a person who followed a link.
fn comes_from_us(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    authority: &HostHeader,
    (scheme, default_port): (&str, u16),
) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => {}
        (Some(origin), None) => {
            let own = origin
                .to_str()
                .ok()
                .and_then(|text| text.strip_prefix(scheme)?.strip_prefix("://"))
                .is_some_and(|rest| {
                    rest.strip_suffix(&format!(":{default_port}")).unwrap_or(rest) == authority.0
                });
            if !own {
                return false;
            }
        }
        (Some(_), Some(_)) => return false,
    }
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let foreign = matches!(said("sec-fetch-site"), Some("cross-site" | "same-site"));
    let followed_a_link = said("sec-fetch-mode") == Some("navigate")
        && matches!(*method, Method::GET | Method::HEAD)
        && (path == "/" || path.starts_with("/d/"));
    !foreign || followed_a_link
}

/// For the person who typed the name, too.
const NAME_DENIED: &str =
    "this hub does not answer to that name; its host can allow it: lanyard --host NAME";

/// The layer.
pub(crate) async fn guard(
    State(hosts): State<HostGuard>,
    mut request: Request,
    next: Next,
) -> Response {
    let target = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let scheme =
        request.extensions().get::<Transport>().copied().unwrap_or(Transport::Plain).scheme();
    let (name, authority) = match authority(request.headers(), target.as_deref(), scheme.1) {
        Ok(found) => found,
        Err(code) => {
            return ApiError(code).into_response_saying("a request needs exactly one Host header");
        }
    };
    if !hosts.allows(&name) {
        return ApiError(FailureCode::HostDenied).into_response_saying(NAME_DENIED);
    }
    if !comes_from_us(request.method(), request.uri().path(), request.headers(), &authority, scheme)
    {
        return ApiError(FailureCode::OriginDenied).into_response();
    }
    request.extensions_mut().insert(authority);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn names_that_are_not_ours_are_denied_and_addresses_are_not() {
        let hosts = HostGuard::new(&["files.example".into()]);
        for host in ["192.168.1.9", "[fe80::1]", "localhost", "files.example"] {
            assert!(hosts.allows(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "files.example.", ""] {
            assert!(!hosts.allows(host), "{host}");
        }
    }

    #[test]
    fn the_authority_is_canonical() {
        let of = |host: &str| authority(&headers(&[("host", host)]), None, 80).map(|(_, a)| a.0);
        assert_eq!(of("Hub.Local:80").as_deref(), Ok("hub.local"));
        assert_eq!(of("192.168.1.10:7070").as_deref(), Ok("192.168.1.10:7070"));
        assert_eq!(of("[FE80::1]:7070").as_deref(), Ok("[fe80::1]:7070"));
        for bad in ["a:b", "a:", ":80", "[::1", "::1"] {
            // An empty port is what `a:` says; RFC 9110 allows it, browsers never send it.
            if bad != "a:" {
                assert!(of(bad).is_err(), "{bad}");
            }
        }
        assert!(authority(&headers(&[("host", "a"), ("host", "b")]), None, 80).is_err());
        assert!(authority(&HeaderMap::new(), None, 80).is_err());
        assert!(authority(&headers(&[("host", "a")]), Some("b"), 80).is_err());
    }

    #[test]
    fn a_foreign_page_is_refused_and_our_own_is_not() {
        let own = HostHeader("10.0.0.1:7070".into());
        let came = |scheme, pairs: &[(&'static str, &str)]| {
            comes_from_us(&Method::PUT, "/chunks/1", &headers(pairs), &own, scheme)
        };
        let from = |pairs: &[(&'static str, &str)]| came(("http", 80), pairs);
        let secure = |origin| came(("https", 443), &[("origin", origin)]);
        assert!(secure("https://10.0.0.1:7070"));
        assert!(!secure("http://10.0.0.1:7070"), "a page that anybody may have changed");
        assert!(from(&[]));
        assert!(from(&[("origin", "http://10.0.0.1:7070")]));
        for origin in [
            "null",
            "http://10.0.0.1",
            "https://10.0.0.1:7070",
            "http://10.0.0.1:7070.evil",
            "http://evil",
        ] {
            assert!(!from(&[("origin", origin)]), "{origin}");
        }
        assert!(!from(&[("sec-fetch-site", "cross-site")]));
        let followed = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert!(comes_from_us(&Method::GET, "/", &headers(&followed), &own, ("http", 80)));
        assert!(!comes_from_us(
            &Method::GET,
            "/ws/device",
            &headers(&followed),
            &own,
            ("http", 80)
        ));
    }
}
