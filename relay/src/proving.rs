//! What hostile input meets first, for tests that want it without a hub around it: tests/deep feeds the pure functions and
//! runs an echo behind the very accept loop and sockets of the relay. Nothing here is reachable over the network.

use std::time::Duration;

use axum::Router;
use http::HeaderMap;
use lanyard_hub::broker::LinkInfo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use crate::websocket::{Sink, Socket, send_text, upgrade};

use crate::http::{download, zip};
use crate::{accept, connections, hosts};

/// The `Content-Disposition` of a file of this name.
pub fn disposition(name: &str) -> http::HeaderValue {
    download::disposition(name)
}

/// The name that a request was sent to and its canonical authority; `None` if it is refused.
pub fn authority(headers: &HeaderMap, target: Option<&str>, default_port: u16) -> Option<(String, String)> {
    let (name, authority) = hosts::authority(headers, target, default_port).ok()?;
    Some((name, authority.0))
}

/// The promised length of an archive of these files.
pub fn archive_length(info: &LinkInfo) -> u64 {
    zip::Archive::new(info).length()
}

/// The archive itself; the members hold zeros.
pub fn archive(info: &LinkInfo) -> Vec<u8> {
    let mut writer = zip::Writer::new(zip::Archive::new(info));
    let mut out = Vec::new();
    while let Some(step) = writer.next() {
        match step {
            zip::Step::Write(bytes) => out.extend_from_slice(&bytes),
            zip::Step::NeedBytes(file) => {
                let size = info.files.iter().find(|entry| entry.file_ref() == file).map_or(0, |entry| entry.size);
                let zeros = vec![0; size as usize];
                writer.member_bytes(&zeros);
                out.extend_from_slice(&zeros);
            }
        }
    }
    out
}

/// Serves `router` as the relay serves its own: deadlines, limits and buffers are the same.
pub async fn serve(listener: TcpListener, router: Router) {
    accept::run(
        listener,
        accept::Doors { tls: None, most_connections: connections::most_connections(), last_words: Duration::ZERO },
        router,
        CancellationToken::new(),
    )
    .await;
}
