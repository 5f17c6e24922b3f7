//! Requires https on a hub that takes nothing else: a page that leads there answers plain http in
//! place of every other route.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, header};
use lanyard_protocol::FailureCode;

use crate::error::ApiError;
use crate::net::tls::Transport;
use crate::state::RelayState;

/// Says what to expect; holds nothing of the request.
const PAGE: &str = include_str!("require_tls.html");
const PAGE_POLICY: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The layer of a hub that takes https only, from wherever a request comes: a proxy or a tunnel
/// which ends on this machine looks like the machine itself. The hub's own halves and devices speak
/// https too.
pub(crate) async fn gate(
    State(state): State<Arc<RelayState>>,
    request: Request,
    next: Next,
) -> Response {
    let is_secure =
        request.extensions().get::<Transport>().is_some_and(|transport| transport.is_secure());
    if !state.config.require_tls || is_secure {
        return next.run(request).await;
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/ca.crt" | "/secure") => next.run(request).await,
        (&Method::GET | &Method::HEAD, "/") => {
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
                (header::CACHE_CONTROL, "no-store"),
                (header::REFERRER_POLICY, "no-referrer"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, PAGE).into_response()
        }
        _ => ApiError(FailureCode::TlsRequired).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::Body;
    use axum::extract::ConnectInfo;
    use lanyard_protocol::Channel;
    use lanyard_protocol::identity::Keypair;
    use tower::ServiceExt;

    use super::*;
    use crate::config::RelayConfig;

    const ELSEWHERE: [u8; 4] = [10, 0, 0, 2];
    const HERE: [u8; 4] = [127, 0, 0, 1];
    const SECURE: Transport = Transport::Tls { channel: Channel([7; 32]) };

    async fn status(
        require_tls: bool,
        from: [u8; 4],
        transport: Transport,
        request: (&str, &str),
    ) -> u16 {
        status_at("10.0.0.1:7070", require_tls, from, transport, request).await
    }

    async fn status_at(
        host: &str,
        require_tls: bool,
        from: [u8; 4],
        transport: Transport,
        request: (&str, &str),
    ) -> u16 {
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let usual = RelayConfig::new(listen, "hub".into(), Keypair::from_seed(&[1; 32]), [2; 32]);
        let (state, mut inputs) = RelayState::new(RelayConfig { require_tls, ..usual }, [3; 32]);
        tokio::spawn(async move { while inputs.recv().await.is_some() {} });
        let mut asked = Request::builder().method(request.0).uri(request.1).header("host", host);
        let extensions = asked.extensions_mut().unwrap();
        extensions.insert(ConnectInfo(SocketAddr::from((from, 5000))));
        extensions.insert(transport);
        let asked = asked.body(Body::empty()).unwrap();
        crate::router::router(state, axum::Router::new())
            .oneshot(asked)
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    /// A54: there is no way around, neither for pages nor for programs.
    #[tokio::test]
    async fn a54_a_hub_that_takes_https_only_serves_plain_http_nothing_but_the_way_there() {
        let everything = [
            ("GET", "/index.html"),
            ("GET", "/ws/device"),
            ("GET", "/ws/master"),
            ("GET", "/healthz"),
            ("GET", "/metrics"),
            ("GET", "/d/00000000000000000000000000000000/x"),
            ("PUT", "/chunks/00000000000000000000000000000000"),
            ("GET", "/chunks/00000000000000000000000000000000"),
            ("DELETE", "/d/00000000000000000000000000000000/x"),
            ("POST", "/"),
        ];
        for request in everything {
            for from in [ELSEWHERE, HERE] {
                assert_eq!(status(true, from, Transport::Plain, request).await, 426, "{request:?}");
                let host = "127.0.0.1:7070";
                assert_eq!(
                    status_at(host, true, from, Transport::Plain, request).await,
                    426,
                    "{request:?}"
                );
            }
        }
        assert_eq!(status(true, ELSEWHERE, Transport::Plain, ("GET", "/")).await, 200);
        assert_eq!(status(true, ELSEWHERE, SECURE, ("GET", "/healthz")).await, 200);
        assert_eq!(status(false, ELSEWHERE, Transport::Plain, ("GET", "/healthz")).await, 200);
    }

    /// A25: everything that a hub knows goes over the master's socket.
    #[tokio::test]
    async fn a25_a_master_on_another_machine_needs_tls() {
        assert_eq!(status(false, ELSEWHERE, Transport::Plain, ("GET", "/ws/master")).await, 426);
        // No upgrade was asked for, but it got that far.
        assert_eq!(status(false, ELSEWHERE, SECURE, ("GET", "/ws/master")).await, 400);
        assert_eq!(
            status(false, HERE, Transport::Plain, ("GET", "/ws/master")).await,
            426,
            "whatever it comes from"
        );
        let own =
            status_at("127.0.0.1:7070", false, HERE, Transport::Plain, ("GET", "/ws/master")).await;
        assert_eq!(own, 400, "it means its own machine, and will have to prove that");
    }
}
