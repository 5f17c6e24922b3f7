//! How many threads there are: one for a command, and one more for the relay of a hub in one
//! process.
//!
//! A relay's work is system calls and hashing, and one core of them carries about ten gigabits. A
//! second worker adds wake-ups across threads, and a heap of its own that grew with the file. What
//! blocks (disks, SQLite) has threads of its own in any case.

use std::net::SocketAddr;

use lanyard_relay::{Relay, RelayConfig, RelayError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Files that are read, written or closed at the same moment; more waits its turn.
const BLOCKING_THREADS: usize = 16;

/// A runtime of one thread.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()
}

/// A relay on its own thread.
pub(crate) struct RelayThread {
    /// Where it listens, with the port that it really got.
    pub listen: SocketAddr,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl RelayThread {
    /// Lets it say goodbye, and waits for that.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let _ = self.ended.await;
    }
}

/// Starts a relay. The outer error is this machine's (no thread to be had), the inner one the
/// relay's.
pub(crate) async fn start_relay(
    config: RelayConfig,
) -> anyhow::Result<Result<RelayThread, RelayError>> {
    let stop = CancellationToken::new();
    let (bound, listens) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let until = stop.clone();
    let runtime = runtime()?;
    std::thread::Builder::new().name("relay".into()).spawn(move || {
        runtime.block_on(async move {
            let relay = match Relay::bind(config).await {
                Ok(relay) => relay,
                Err(error) => return drop(bound.send(Err(error))),
            };
            let _ = bound.send(Ok(relay.local_addr()));
            relay.run(until.cancelled_owned()).await;
        });
        let _ = end.send(());
    })?;
    Ok(listens.await?.map(|listen| RelayThread { listen, stop, ended }))
}
