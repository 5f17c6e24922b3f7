//! `GET /healthz`: that this is a relay, and whether its master is there. Says nothing of who is in
//! the hub.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use lanyard_protocol::PROTOCOL_VERSION;
use serde::Serialize;

use crate::state::RelayState;

#[derive(Serialize)]
pub(crate) struct Health {
    role: &'static str,
    version: &'static str,
    protocol: u32,
    hub_ready: bool,
}

pub(crate) async fn get(State(state): State<Arc<RelayState>>) -> Json<Health> {
    Json(Health {
        role: "relay",
        version: env!("CARGO_PKG_VERSION"),
        protocol: PROTOCOL_VERSION,
        hub_ready: state.hub_ready.load(Ordering::Relaxed),
    })
}
