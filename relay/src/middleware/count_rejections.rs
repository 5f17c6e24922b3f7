//! Counts what the relay refused and closed, by code, for `/metrics` and for the master
//! (`RELAY_STATUS`).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use lanyard_hub::broker::Rejections;
use lanyard_protocol::{CloseCode, FailureCode};
use parking_lot::Mutex;

use crate::state::RelayState;

/// Counts that only grow. There are few kinds, so the maps stay small.
#[derive(Debug, Default)]
pub(crate) struct RejectionCounters {
    counts: Mutex<Rejections>,
}

/// The code of an answer that was a no; put there by [`crate::error::ApiError`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct RejectionCode(pub FailureCode);

impl RejectionCounters {
    /// A socket was closed by us.
    pub(crate) fn closed(&self, code: CloseCode) {
        *self.counts.lock().closed.entry(code).or_default() += 1;
    }

    /// Returns the counts of this moment.
    pub(crate) fn counts(&self) -> Rejections {
        self.counts.lock().clone()
    }
}

/// The layer around all routes.
pub(crate) async fn count(
    State(edge): State<Arc<RelayState>>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    if let Some(RejectionCode(code)) = response.extensions().get::<RejectionCode>() {
        *edge.rejections.counts.lock().refused.entry(*code).or_default() += 1;
    }
    response
}
