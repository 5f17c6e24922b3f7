//! The relay: carries messages and bytes between devices and the master, and serves the web client.
//!
//! `driver` owns the Broker; `state` is shared by all tasks. `net` accepts connections, `limits`
//! bounds them, `middleware` guards the routes of `router`. `ws` is one task per WebSocket,
//! `chunks` holds bytes and their hashes, `links` serves `/d/`, `http` the other routes. The relay
//! keeps no catalogue, and all its state may be lost: devices and master connect again and go on.

#![warn(clippy::wildcard_enum_match_arm)]

mod chunks;
mod config;
mod driver;
mod error;
mod http;
mod limits;
mod links;
mod middleware;
mod net;
mod router;
mod stall_monitor;
mod state;
mod stats;
#[cfg(feature = "testing")]
pub mod testing;
mod ws;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::RelayConfig;
pub use limits::connections::{ConnectionPermit, KnownReason};
pub use middleware::host_guard::own_names;
pub use net::tls::{TlsIdentities, TlsIdentity, channel_of};

use limits::connections;
use net::listener;

/// Time for close frames to be written and answered.
const CLOSING_SOCKETS: Duration = Duration::from_secs(2);

/// Why a relay could not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Another program (a second hub, perhaps) has the port, or the address is not this machine's.
    #[error("listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("get randomness from the system: {0}")]
    Randomness(getrandom::Error),
}

/// Serves another port of the same process as the relay serves its own, until `stop`: its
/// deadlines, its limits, and refusals that are JSON. The descriptors for its connections come out
/// of what the relay leaves for the hub itself.
pub async fn serve_beside(
    listener: TcpListener,
    router: axum::Router,
    most_connections: usize,
    drain_timeout: Duration,
    stop: CancellationToken,
) {
    let doors = listener::ListenerConfig { tls: None, most_connections, drain_timeout };
    let router = router.layer(axum::middleware::map_response(error::as_json));
    listener::run(listener, doors, router, stop).await;
}

/// A relay that listens; [`Relay::run`] serves.
pub struct Relay {
    listener: TcpListener,
    address: SocketAddr,
    config: RelayConfig,
    seed: [u8; 32],
    added: axum::Router,
}

impl Relay {
    /// Takes the port. Must be called within a tokio runtime.
    pub async fn bind(config: RelayConfig) -> Result<Self, RelayError> {
        let failed = |source| RelayError::Listen { address: config.listen, source };
        let listener = listener::listen(config.listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(RelayError::Randomness)?;
        Ok(Self { listener, address, config, seed, added: axum::Router::new() })
    }

    /// Serves `routes` beside the relay's own, such as a WebDAV service of the master.
    ///
    /// They are asked only for what neither a route of the relay nor a file of the web client
    /// answers, so they replace none of these. The same rules hold before a request reaches them:
    /// the bound on connections, one Host that is the hub's, no foreign Origin, and https where the
    /// hub takes nothing else. A "no" without a JSON body gets the relay's. Authentication, and
    /// bounds on bodies and time, are up to the routes; the request carries
    /// `ConnectInfo<SocketAddr>`. What they return is of the hub's own origin in a browser. A
    /// second call replaces the routes of the first.
    #[must_use]
    pub fn with_routes(mut self, routes: axum::Router) -> Self {
        self.added = routes;
        self
    }

    /// Where it listens, with the port that it really got.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` ends. Then nobody new comes in and nothing new is asked for, bodies
    /// on their way get a moment to end, and every session hears that the relay goes (4503).
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let doors = listener::ListenerConfig {
            tls: self.config.tls.clone(),
            most_connections: self
                .config
                .max_connections
                .unwrap_or_else(connections::most_connections),
            drain_timeout: self.config.drain_timeout,
        };
        let (state, inputs) = state::RelayState::new(self.config, self.seed);
        let driver = tokio::spawn(driver::run(state.clone(), inputs, stop.clone()));
        let watch = tokio::spawn(stall_monitor::run(state.clone(), stop.clone()));
        let router = router::router(state.clone(), self.added);
        let accept = tokio::spawn(listener::run(self.listener, doors, router, closing.clone()));
        let ended = |task: Result<(), tokio::task::JoinError>| {
            if let Err(error) = task {
                tracing::error!(%error, "a task of the relay ended badly");
            }
        };
        shutdown.await;
        state.closing.store(true, Ordering::Relaxed);
        closing.cancel();
        ended(accept.await);
        state.sessions.close_all(lanyard_protocol::CloseCode::ServerNotReady);
        state.sockets.close();
        let _ = tokio::time::timeout(CLOSING_SOCKETS, state.sockets.wait()).await;
        stop.cancel();
        ended(driver.await);
        ended(watch.await);
    }
}
