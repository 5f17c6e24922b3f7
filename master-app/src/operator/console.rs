//! The host's web console, on a loopback port of its own: the page, its one-time door, its sockets.
//!
//! A link is good for one opening within a minute; a tab then holds a token. Host and Origin must
//! be exactly this port's, so that no page from elsewhere can speak here in the host's browser.

mod login;
mod tab;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::{HeaderMap, StatusCode, header};
use lanyard_protocol::http::HttpError;
use lanyard_protocol::limits::MAX_FRAME_BYTES;
use lanyard_protocol::{DeviceId, FailureCode, chosen_subprotocol};
use lanyard_relay::ConnectionPermit;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use login::LoginLinks;

use crate::authority::driver::DriverHandle;
use crate::operator::actions;
use crate::store::audit_log;

/// Connections that the console may have: a few tabs of the host's browser. They come out of the
/// descriptors that the relay leaves for the hub's own needs, and any program on this machine may
/// open some.
const CONNECTIONS: usize = 48;
/// Time that responses under way get to end when the hub stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a long record the page shows the end; `lanyard audit` shows all.
const DECISIONS_SHOWN: usize = 500;
const OCCASIONS_SHOWN: usize = 250;

/// Facts for a tab that registers, beside those of the driver.
#[derive(Debug, Clone)]
pub(crate) struct ConsoleInfo {
    pub host: DeviceId,
    pub hub_name: String,
    pub urls: Vec<String>,
    pub tap_to_approve: bool,
    /// Where the record of decisions lies.
    pub record: PathBuf,
}

struct ConsoleState {
    address: SocketAddr,
    door: LoginLinks,
    driver: DriverHandle,
    info: ConsoleInfo,
    stop: CancellationToken,
}

/// A console that listens; [`Console::run`] serves.
pub(crate) struct Console {
    listener: TcpListener,
    shared: Arc<ConsoleState>,
}

impl Console {
    /// Takes a free loopback port.
    pub(crate) async fn bind(
        driver: DriverHandle,
        info: ConsoleInfo,
        stop: CancellationToken,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let door = LoginLinks::new(address);
        Ok(Self { listener, shared: Arc::new(ConsoleState { address, door, driver, info, stop }) })
    }

    /// Makes links that open this console.
    pub(crate) fn door(&self) -> LoginLinks {
        self.shared.door.clone()
    }

    /// Serves until told to stop.
    pub(crate) async fn run(self) -> std::io::Result<()> {
        let stop = self.shared.stop.clone();
        let router = Router::new()
            .route("/console/session", post(open_session))
            .route("/console/record", get(record))
            .route("/console/usage", get(usage))
            .route("/ws/console", get(open_socket))
            .fallback(get(page))
            .layer(DefaultBodyLimit::max(4_096))
            .layer(middleware::from_fn_with_state(self.shared.clone(), only_here))
            .with_state(self.shared);
        lanyard_relay::serve_beside(self.listener, router, CONNECTIONS, DRAIN_TIMEOUT, stop).await;
        Ok(())
    }
}

fn no(code: FailureCode) -> Response {
    let status =
        StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = Json(HttpError { code, message: code.sentence().into() });
    (status, [(header::CACHE_CONTROL, "no-store")], body).into_response()
}

fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let one = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(one)
}

/// Exactly one Host, this port's; an Origin, where there is one, of the same.
async fn only_here(
    State(shared): State<Arc<ConsoleState>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let port = shared.address.port();
    let host = only(headers, header::HOST).unwrap_or_default();
    if host != format!("127.0.0.1:{port}") && host != format!("localhost:{port}") {
        return no(FailureCode::HostDenied);
    }
    let origin = only(headers, header::ORIGIN);
    let has_origin = headers.contains_key(header::ORIGIN);
    let must_have = request.method() != http::Method::GET || request.uri().path() == "/ws/console";
    if (has_origin || must_have) && origin != Some(&format!("http://{host}")) {
        return no(FailureCode::OriginDenied);
    }
    next.run(request).await
}

async fn page(request: Request) -> Response {
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    lanyard_web::respond_console(request.uri().path(), known).map(Body::from)
}

#[derive(Deserialize)]
struct Opening {
    secret: String,
}

#[derive(Serialize)]
struct Opened {
    token: lanyard_protocol::SessionToken,
}

/// Trades the secret of a link for a token, once.
async fn open_session(State(shared): State<Arc<ConsoleState>>, body: Bytes) -> Response {
    let Ok(Opening { secret }) = serde_json::from_slice(&body) else {
        return no(FailureCode::BadMessage);
    };
    match shared.door.open(&secret) {
        Some(token) => {
            ([(header::CACHE_CONTROL, "no-store")], Json(Opened { token })).into_response()
        }
        None => no(FailureCode::Unauthenticated),
    }
}

/// Whether a tab that was let in asks.
fn is_a_tab(shared: &ConsoleState, headers: &HeaderMap) -> bool {
    let token = only(headers, header::AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Bearer ")?.parse().ok());
    token.is_some_and(|token| shared.door.knows(&token))
}

/// How full the list is, and by whom; for who holds a token.
async fn usage(State(shared): State<Arc<ConsoleState>>, headers: HeaderMap) -> Response {
    if !is_a_tab(&shared, &headers) {
        return no(FailureCode::Unauthenticated);
    }
    match shared.driver.query(|authority, _| actions::usage(authority)).await {
        Ok(usage) => ([(header::CACHE_CONTROL, "no-store")], Json(usage)).into_response(),
        Err(_) => no(FailureCode::ServerNotReady),
    }
}

/// What was decided, the latest last; for who holds a token.
async fn record(State(shared): State<Arc<ConsoleState>>, headers: HeaderMap) -> Response {
    if !is_a_tab(&shared, &headers) {
        return no(FailureCode::Unauthenticated);
    }
    let dir = shared.info.record.clone();
    match tokio::task::spawn_blocking(move || {
        audit_log::recent(&dir, DECISIONS_SHOWN, OCCASIONS_SHOWN)
    })
    .await
    {
        Ok(Ok((lines, whole))) => (
            [(header::CACHE_CONTROL, "no-store")],
            Json(serde_json::json!({ "whole": whole, "lines": lines })),
        )
            .into_response(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the record cannot be read");
            no(FailureCode::Internal)
        }
        Err(_) => no(FailureCode::Internal),
    }
}

async fn open_socket(
    State(shared): State<Arc<ConsoleState>>,
    Extension(permit): Extension<Arc<ConnectionPermit>>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let offered = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let Some(chosen) = chosen_subprotocol(offered).map(str::to_owned) else {
        return no(FailureCode::BadMessage);
    };
    permit.upgraded();
    upgrade
        .protocols([chosen])
        .read_buffer_size(4 * 1024)
        .max_message_size(MAX_FRAME_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .on_upgrade(move |socket| async move { tab::serve(shared, &permit, socket).await })
}

#[cfg(test)]
mod tests;
