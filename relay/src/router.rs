//! Every route on one page.

use std::sync::Arc;

use axum::routing::{get, put};
use axum::{Router, middleware};

use crate::edge::Edge;
use crate::hosts::{self, Hosts};
use crate::http::{assets, chunks, download, health, metrics, secure};
use crate::{connections, error, guesses, master_session, refusals, session};

pub fn router(edge: Arc<Edge>) -> Router {
    let hosts = Hosts::new(&edge.config.hosts);
    Router::new()
        .route("/ws/device", get(session::upgrade))
        .route("/ws/master", get(master_session::upgrade))
        .route("/chunks/{ticket}", put(chunks::put).get(chunks::get))
        .route("/d/{link}/{*name}", get(download::get))
        .route("/d/{link}", get(download::get_unnamed))
        .route("/healthz", get(health::get))
        .route("/metrics", get(metrics::get))
        .route("/ca.crt", get(secure::certificate))
        .route("/secure", get(secure::redirect))
        .fallback(assets::get)
        .layer(middleware::from_fn(connections::note_links))
        .layer(middleware::from_fn_with_state(edge.clone(), guesses::limit))
        .layer(middleware::from_fn_with_state(edge.clone(), secure::gate))
        .layer(middleware::from_fn_with_state(hosts, hosts::guard))
        .layer(middleware::map_response(error::as_json))
        .layer(middleware::from_fn_with_state(edge.clone(), refusals::count))
        .with_state(edge)
}
