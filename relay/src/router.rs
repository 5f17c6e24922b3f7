//! Every route on one page.

use std::sync::Arc;

use axum::routing::{get, put};
use axum::{Router, middleware};

use crate::http::{assets, ca_certificate, chunks, health, metrics};
use crate::limits::connections;
use crate::middleware::host_guard::HostGuard;
use crate::middleware::{count_rejections, host_guard, require_tls};
use crate::state::RelayState;
use crate::{error, links, ws};

/// Builds the relay's routes. `added` answers what neither they nor the web client's files do,
/// behind the same layers.
pub(crate) fn router(state: Arc<RelayState>, added: Router) -> Router {
    let hosts = HostGuard::new(&state.config.hosts);
    Router::new()
        .route("/ws/device", get(ws::device::upgrade))
        .route("/ws/master", get(ws::master::upgrade))
        .route("/chunks/{ticket}", put(chunks::put).get(chunks::get))
        .route("/d/{link}/{*name}", get(links::handlers::get))
        .route("/d/{link}", get(links::handlers::get_unnamed))
        .route("/healthz", get(health::get))
        .route("/metrics", get(metrics::get))
        .route("/ca.crt", get(ca_certificate::get))
        .route("/secure", get(ca_certificate::redirect))
        .fallback(move |request| assets::get_or(request, added))
        .layer(middleware::from_fn(connections::note_links))
        .layer(middleware::from_fn_with_state(state.clone(), require_tls::gate))
        .layer(middleware::from_fn_with_state(hosts, host_guard::guard))
        .layer(middleware::map_response(error::as_json))
        .layer(middleware::from_fn_with_state(state.clone(), count_rejections::count))
        .with_state(state)
}

#[cfg(test)]
mod tests {
    //! Promise: a route that another crate adds stands behind the guards of the relay's own, and
    //! replaces none of them.

    use std::net::SocketAddr;

    use axum::body::Body;
    use axum::extract::{ConnectInfo, Request};
    use axum::routing::any;
    use http::StatusCode;
    use http_body_util::BodyExt;
    use lanyard_protocol::identity::Keypair;
    use tower::ServiceExt;

    use super::*;
    use crate::config::RelayConfig;

    const ADDED: &str = "from the added route";

    /// Sends one request from another machine to a relay with `added`, and returns the status and
    /// the body.
    async fn answer(
        added: Router,
        require_tls: bool,
        request: (&str, &str),
        headers: &[(&str, &str)],
    ) -> (StatusCode, String) {
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let usual = RelayConfig::new(listen, "hub".into(), Keypair::from_seed(&[1; 32]), [2; 32]);
        let (state, mut inputs) = RelayState::new(RelayConfig { require_tls, ..usual }, [3; 32]);
        tokio::spawn(async move { while inputs.recv().await.is_some() {} });
        let mut asked = Request::builder().method(request.0).uri(request.1);
        for (name, value) in headers {
            asked = asked.header(*name, *value);
        }
        asked
            .extensions_mut()
            .unwrap()
            .insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 2], 5000))));
        let response =
            router(state, added).oneshot(asked.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    fn dav() -> Router {
        Router::new().route("/dav/{*path}", any(|| async { ADDED }))
    }

    /// A router that would answer every path, if it were asked.
    fn greedy() -> Router {
        Router::new().route("/", any(|| async { ADDED })).route("/{*path}", any(|| async { ADDED }))
    }

    const HOST: (&str, &str) = ("host", "10.0.0.1:7070");

    #[tokio::test]
    async fn an_added_route_is_served_by_any_method() {
        for method in ["GET", "PUT", "PROPFIND"] {
            let (status, body) = answer(dav(), false, (method, "/dav/film.mkv"), &[HOST]).await;
            assert_eq!((status, body.as_str()), (StatusCode::OK, ADDED), "{method}");
        }
        let (status, body) = answer(dav(), false, ("GET", "/elsewhere"), &[HOST]).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(body.contains("NOT_FOUND"), "{body}");
    }

    #[tokio::test]
    async fn an_added_route_is_behind_the_host_guard_and_the_tls_rule() {
        let asked = ("GET", "/dav/film.mkv");
        let name = answer(dav(), false, asked, &[("host", "evil.example")]).await;
        assert_eq!(name.0, StatusCode::MISDIRECTED_REQUEST, "another host name");
        let origin = answer(dav(), false, asked, &[HOST, ("origin", "http://evil.example")]).await;
        assert_eq!(origin.0, StatusCode::FORBIDDEN, "a foreign page");
        let followed = [HOST, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(
            answer(dav(), false, asked, &followed).await.0,
            StatusCode::FORBIDDEN,
            "a link of a foreign page"
        );
        let plain = answer(dav(), true, asked, &[HOST]).await;
        assert_eq!(
            plain.0,
            StatusCode::UPGRADE_REQUIRED,
            "plain http to a hub that takes https only"
        );
        for (_, body) in [name, origin, plain] {
            assert!(!body.contains(ADDED), "{body}");
        }
    }

    #[tokio::test]
    async fn an_added_route_replaces_none_of_the_relays_own() {
        let link = "/d/AAAAAAAAAAAAAAAAAAAAAA";
        let chunk = "/chunks/00000000-0000-4000-8000-000000000000";
        let own = [
            ("GET", "/"),
            ("GET", "/index.html"),
            ("GET", "/healthz"),
            ("POST", "/healthz"),
            ("GET", "/metrics"),
            ("GET", "/ca.crt"),
            ("GET", "/secure"),
            ("GET", "/ws/device"),
            ("GET", "/ws/master"),
            ("DELETE", chunk),
            ("POST", link),
        ];
        for request in own {
            let without = answer(Router::new(), false, request, &[HOST]).await;
            let with = answer(greedy(), false, request, &[HOST]).await;
            assert_eq!(with, without, "{request:?}");
            assert!(!with.1.contains(ADDED), "{request:?}");
        }
        let (_, body) = answer(greedy(), false, ("GET", "/elsewhere"), &[HOST]).await;
        assert_eq!(body, ADDED, "what is nobody's is the added router's");
    }
}
