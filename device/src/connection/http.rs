//! The HTTP clients for bodies: HTTP/1.1 straight to the relay, by TLS to the certificate of the
//! session's proof only.

use std::time::Duration;

use lanyard_protocol::Channel;
use reqwest::Response;
use serde::de::DeserializeOwned;

use crate::connection::tls;
use crate::error::DeviceError;

/// The relay ends what stands still after 20 s, and lets nobody wait longer than 30 s for room.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// Longest answer that is no body of a file: a failure, a link.
pub(crate) const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Reads an answer of at most so many bytes. `None`: it is longer, or broke.
pub(crate) async fn whole(mut response: Response, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.ok()? {
        if (bytes.len() + part.len()) as u64 > most {
            return None;
        }
        bytes.extend_from_slice(&part);
    }
    Some(bytes)
}

/// Reads a short answer in JSON.
pub(crate) async fn answer<T: DeserializeOwned>(response: Response) -> Option<T> {
    serde_json::from_slice(&whole(response, MAX_ANSWER_BYTES).await?).ok()
}

/// The clients of one session.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    pub channel: Channel,
    pub gets: reqwest::Client,
    /// Nothing comes back before the whole body is sent, which may take long; the relay sees to it
    /// that it goes on.
    pub puts: reqwest::Client,
}

impl Clients {
    pub(crate) fn new(channel: Channel) -> Result<Self, DeviceError> {
        Ok(Self { channel, gets: client(Some(SILENCE), channel)?, puts: client(None, channel)? })
    }
}

/// No proxy sees the bodies, no redirect leads elsewhere. An answer that is silent for longer than
/// `silence` is given up.
pub(crate) fn client(
    silence: Option<Duration>,
    channel: Channel,
) -> Result<reqwest::Client, DeviceError> {
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
    // Over plain http the client is never asked for TLS, and whoever redirected it there would meet
    // a pin of zeros.
    let client =
        client.tls_backend_preconfigured(tls::client_config(Some(channel)).map_err(failed)?);
    client.build().map_err(|error| DeviceError::Setup(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A hub may send what it likes; what is kept of it was decided before.
    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let hub = tokio::spawn(async move {
            for lengths in ["", "content-length: 5\r\n"] {
                let (mut socket, _) = listener.accept().await.unwrap();
                let _ = socket.read(&mut [0; 4_096]).await;
                socket
                    .write_all(format!("HTTP/1.1 200 OK\r\n{lengths}\r\n").as_bytes())
                    .await
                    .unwrap();
                while socket.write_all(&[b'1'; 10_000]).await.is_ok() {}
            }
        });
        let http = client(None, Channel::PLAIN).unwrap();
        assert_eq!(whole(http.get(&url).send().await.unwrap(), MAX_ANSWER_BYTES).await, None);
        assert_eq!(whole(http.get(&url).send().await.unwrap(), 5).await, Some(b"11111".to_vec()));
        hub.await.unwrap();
    }
}
