//! Our own accept loop: a first byte within 5 s, a whole head within 10 s (`axum::serve` has
//! neither), TCP_NODELAY on every socket (else small writes wait for delayed acknowledgements), and
//! TLS beside plain HTTP on one port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::ConnectInfo;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lanyard_protocol::limits::TLS_BUFFER_BYTES;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::connections::ConnectionLimiter;
use crate::limits::connections::ConnectionPermit;
use crate::net::metered::Answers;
use crate::net::metered::Metered;
use crate::net::tls;
use crate::net::tls::TlsIdentities;
use crate::net::tls::Transport;

const FIRST_BYTE: Duration = Duration::from_secs(5);
const WHOLE_HEAD: Duration = Duration::from_secs(10);
/// hyper's read buffer of one connection: large enough for fast bodies. Heads are bounded before it
/// (`metered.rs`), so that only a connection that uploads makes use of it.
const READ_BUFFER: usize = 256 * 1024;

/// Listens; `[::]` takes IPv4 too, and falls back to it where there is no IPv6.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    match open(address) {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() && !has_ipv6() => {
            open(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        other => other,
    }
}

fn has_ipv6() -> bool {
    socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).is_ok()
}

fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A port in TIME_WAIT must not stop a restart; on Windows the option would let two hubs share a
    // port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// How connections may come in.
#[derive(Clone)]
pub(crate) struct ListenerConfig {
    pub tls: Option<TlsIdentities>,
    /// Connections that there may be at once.
    pub most_connections: usize,
    /// Time for open requests to end once no new ones are accepted.
    pub drain_timeout: Duration,
}

/// Accepts until `stop`, then lets open requests end for a moment.
pub(crate) async fn run(
    listener: TcpListener,
    doors: ListenerConfig,
    router: Router,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let limiter = ConnectionLimiter::new(doors.most_connections);
    let drain_timeout = doors.drain_timeout;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(permit) = limiter.enter(peer.ip().into(), Instant::now()) else {
                    continue;
                };
                let served = accept_connection(
                    stream,
                    peer,
                    permit.clone(),
                    doors.clone(),
                    router.clone(),
                    stop.clone(),
                );
                connections.spawn(async move {
                    tokio::select! {
                        () = served => {}
                        () = permit.evicted() => tracing::trace!("a connection gave way to a new one"),
                        () = permit.unread() => tracing::trace!("an answer was not taken in time"),
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would only spin.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain_timeout, connections.wait()).await.is_err() {
        tracing::info!(
            connections = connections.len(),
            "bodies that were on their way are cut off; they can be resumed"
        );
    }
}

/// Waits for the first byte, which says whether a connection is TLS, and serves it.
async fn accept_connection(
    stream: TcpStream,
    peer: SocketAddr,
    permit: Arc<ConnectionPermit>,
    doors: ListenerConfig,
    router: Router,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    let mut first = [0u8];
    let heard = tokio::time::timeout(FIRST_BYTE, stream.peek(&mut first)).await;
    if !matches!(heard, Ok(Ok(1..))) {
        return;
    }
    let identity =
        doors.tls.filter(|_| first[0] == tls::FIRST_BYTE).map(|tls| tls.borrow().clone());
    let Some(identity) = identity else {
        return serve(
            stream,
            ConnectionInfo { peer, transport: Transport::Plain },
            permit,
            router,
            stop,
        )
        .await;
    };
    let transport = Transport::Tls { channel: identity.channel };
    let shaken =
        tokio::time::timeout(WHOLE_HEAD, TlsAcceptor::from(identity.config).accept(stream)).await;
    match shaken {
        Ok(Ok(mut stream)) => {
            stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
            serve(stream, ConnectionInfo { peer, transport }, permit, router, stop).await;
        }
        Ok(Err(error)) => tracing::trace!(%error, "a TLS handshake failed"),
        Err(_) => tracing::trace!("a TLS handshake took too long"),
    }
}

/// Where a connection is from, and how it came.
#[derive(Clone, Copy)]
struct ConnectionInfo {
    peer: SocketAddr,
    transport: Transport,
}

async fn serve<S>(
    stream: S,
    came: ConnectionInfo,
    permit: Arc<ConnectionPermit>,
    router: Router,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answers = Arc::new(Answers::default());
    let stream = Metered::new(stream, permit.clone(), answers.clone());
    let service = tower::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let body_bytes =
            request.body().size_hint().upper().map_or(usize::MAX, |bytes| bytes as usize);
        permit.request_begins(body_bytes);
        let open = answers.begin();
        request.extensions_mut().insert(permit.clone());
        request.extensions_mut().insert(ConnectInfo(came.peer));
        request.extensions_mut().insert(came.transport);
        let answer = tower::ServiceExt::oneshot(router.clone(), request);
        let permit = permit.clone();
        async move {
            let response = answer.await?;
            permit.request_answered();
            // The guard goes with the body, when that is through or broken off.
            Ok::<_, Infallible>(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _in_hand = &open;
                    frame
                }))
            }))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(WHOLE_HEAD)
        .max_buf_size(READ_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "connection ended");
    }
}
