//! How often the relay said no, by kind: what a limit or a guard turned away shows in `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use lanyard_protocol::{CloseCode, FailureCode};
use parking_lot::Mutex;

use crate::edge::Edge;

/// Counts that only grow. There are few kinds, so the maps stay small.
#[derive(Debug, Default)]
pub struct Refusals {
    answers: Mutex<BTreeMap<&'static str, u64>>,
    closed: Mutex<BTreeMap<&'static str, u64>>,
}

/// How often, by name.
pub type Counts = Vec<(&'static str, u64)>;

/// The code of an answer that was a no; put there by [`crate::error::ApiError`].
#[derive(Debug, Clone, Copy)]
pub struct Refused(pub FailureCode);

impl Refusals {
    /// A socket was closed by us.
    pub fn closed(&self, code: CloseCode) {
        *self.closed.lock().entry(code.reason()).or_default() += 1;
    }

    /// Answers by code, and closed sockets by reason.
    pub fn counts(&self) -> (Counts, Counts) {
        let list = |counts: &Mutex<BTreeMap<&'static str, u64>>| counts.lock().iter().map(|(k, v)| (*k, *v)).collect();
        (list(&self.answers), list(&self.closed))
    }
}

/// The layer around all routes.
pub async fn count(State(edge): State<Arc<Edge>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if let Some(Refused(code)) = response.extensions().get::<Refused>() {
        *edge.refusals.answers.lock().entry(code.as_str()).or_default() += 1;
    }
    response
}
