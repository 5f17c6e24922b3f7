//! The HTTP client for bodies: HTTP/1.1 straight to the relay.

use std::time::Duration;

use crate::DeviceError;

/// The relay ends what stands still after 20 s, and lets nobody wait longer than 30 s for room.
pub const SILENCE: Duration = Duration::from_secs(60);

/// No proxy sees the bodies, no redirect leads elsewhere. An answer that is silent for longer than `silence` is given up.
pub fn client(silence: Option<Duration>) -> Result<reqwest::Client, DeviceError> {
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
    client.build().map_err(|error| DeviceError::Setup(error.to_string()))
}
