//! Counts what the relay refused and closed, by code, for `/metrics` and for the master
//! (`RELAY_STATUS`).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::state::RelayState;
use crate::stats::RejectionCode;

/// The layer around all routes.
pub(crate) async fn count(
    State(state): State<Arc<RelayState>>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    if let Some(RejectionCode(code)) = response.extensions().get::<RejectionCode>() {
        state.rejections.refused(*code);
    }
    response
}
