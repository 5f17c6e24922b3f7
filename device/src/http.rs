//! The HTTP clients for bodies: HTTP/1.1 straight to the relay, by TLS to the certificate of the session's proof only.

use std::time::Duration;

use lanyard_protocol::Channel;

use crate::DeviceError;
use crate::tls;

/// The relay ends what stands still after 20 s, and lets nobody wait longer than 30 s for room.
pub const SILENCE: Duration = Duration::from_secs(60);

/// The clients of one session.
#[derive(Debug, Clone)]
pub struct Clients {
    pub channel: Channel,
    pub gets: reqwest::Client,
    /// Nothing comes back before the whole body is sent, which may take long; the relay sees to it that it goes on.
    pub puts: reqwest::Client,
}

impl Clients {
    pub fn new(channel: Channel) -> Result<Self, DeviceError> {
        Ok(Self { channel, gets: client(Some(SILENCE), channel)?, puts: client(None, channel)? })
    }
}

/// No proxy sees the bodies, no redirect leads elsewhere. An answer that is silent for longer than `silence` is given up.
pub fn client(silence: Option<Duration>, channel: Channel) -> Result<reqwest::Client, DeviceError> {
    let client = reqwest::Client::builder()
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(10));
    let client = match silence {
        Some(silence) => client.read_timeout(silence),
        None => client,
    };
    let failed = |error: tokio_rustls::rustls::Error| DeviceError::Setup(error.to_string());
    // Over plain http the client is never asked for TLS, and whoever redirected it there would meet a pin of zeros.
    let client = client.tls_backend_preconfigured(tls::client_config(Some(channel)).map_err(failed)?);
    client.build().map_err(|error| DeviceError::Setup(error.to_string()))
}
