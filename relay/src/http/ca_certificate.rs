//! The way to https: the hub's certificate authority, and the redirect to the same hub by https.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use lanyard_protocol::FailureCode;

use crate::error::ApiError;
use crate::middleware::host_guard::HostHeader;
use crate::state::RelayState;

/// `GET /ca.crt`: the certificate that a browser or a system can be told to trust.
pub(crate) async fn get(State(state): State<Arc<RelayState>>) -> Response {
    let Some(tls) = &state.config.tls else {
        return ApiError(FailureCode::NotFound).into_response();
    };
    let der = tls.borrow().authority.to_vec();
    let headers = [
        (header::CONTENT_TYPE, "application/x-x509-ca-cert"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"lanyard-ca.crt\""),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, der).into_response()
}

/// `GET /secure`: the same hub by https.
pub(crate) async fn redirect(
    State(state): State<Arc<RelayState>>,
    Extension(HostHeader(authority)): Extension<HostHeader>,
) -> Response {
    if state.config.tls.is_none() {
        return ApiError(FailureCode::NotFound).into_response();
    }
    // A host without a port is port 80 in plain http, and the same port speaks https.
    let has_port =
        authority.rsplit(':').next().is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
            && (authority.contains("]:") || authority.matches(':').count() == 1);
    let to =
        if has_port { format!("https://{authority}/") } else { format!("https://{authority}:80/") };
    match HeaderValue::from_str(&to) {
        Ok(to) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response(),
        Err(_) => ApiError(FailureCode::BadMessage).into_response(),
    }
}
