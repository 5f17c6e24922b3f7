//! A relay that serves a route of its own beside a hub's.
//!
//! Run `lanyard` once, so that its data directory holds a key and a secret, and stop it. Then:
//! ```sh
//! cargo run -p lanyard-relay --example added_route -- DATA_DIR 127.0.0.1:7070
//! lanyard --data DATA_DIR master --relay http://127.0.0.1:7070
//! curl http://127.0.0.1:7070/hello
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use lanyard_protocol::identity::Keypair;
use lanyard_relay::{Relay, RelayConfig};

/// Reads a key or a secret: 32 random bytes.
fn secret(path: &Path) -> Result<[u8; 32], Box<dyn Error>> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    bytes.try_into().map_err(|_| format!("{} does not hold 32 bytes", path.display()).into())
}

async fn hello(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    format!("hello, {}\n", peer.ip())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(listen)) = (args.next(), args.next()) else {
        return Err("usage: added_route DATA_DIR ADDR:PORT".into());
    };
    let dir = PathBuf::from(dir);
    let key = Keypair::from_seed(&secret(&dir.join("hub.key"))?);
    let config = RelayConfig::new(
        listen.parse()?,
        "Example".into(),
        key,
        secret(&dir.join("master.secret"))?,
    );

    let relay = Relay::bind(config).await?.with_routes(Router::new().route("/hello", get(hello)));
    println!("http://{}/hello", relay.local_addr());
    relay.run(async { drop(tokio::signal::ctrl_c().await) }).await;
    Ok(())
}
