//! What a relay is told once.

use std::net::SocketAddr;
use std::time::Duration;

use lanyard_protocol::identity::Keypair;
use lanyard_protocol::limits::DEFAULT_BUDGET_BYTES;

use crate::net::tls::TlsIdentities;

/// Everything a relay needs; nothing is read from the environment later.
#[derive(Clone)]
pub struct RelayConfig {
    pub listen: SocketAddr,
    /// Name that people see: "Marta's home".
    pub name: String,
    /// The hub's key.
    pub key: Keypair,
    /// Shared with the master.
    pub master_secret: [u8; 32],
    /// Names besides IP literals, `localhost` and the machine's own that a request may be addressed
    /// to.
    pub hosts: Vec<String>,
    /// Bytes that all slots together may hold.
    pub budget_bytes: u64,
    /// The certificate for https on the same port; without, https is not spoken.
    pub tls: Option<TlsIdentities>,
    /// Nothing is served by plain http but the way to https.
    pub require_tls: bool,
    /// Connections that there may be at once; without, what the bound on descriptors leaves room
    /// for.
    pub max_connections: Option<usize>,
    /// Time for bodies on their way to end when the relay stops.
    pub drain_timeout: Duration,
}

/// A run of 4 MiB over a Wi-Fi that makes 20 Mbit/s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

impl RelayConfig {
    pub fn new(listen: SocketAddr, name: String, key: Keypair, master_secret: [u8; 32]) -> Self {
        let (budget_bytes, tls, require_tls) = (DEFAULT_BUDGET_BYTES, None, false);
        let drain_timeout = DRAIN_TIMEOUT;
        Self {
            listen,
            name,
            key,
            master_secret,
            hosts: Vec::new(),
            budget_bytes,
            tls,
            require_tls,
            max_connections: None,
            drain_timeout,
        }
    }
}
