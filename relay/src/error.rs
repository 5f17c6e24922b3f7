//! Every error of plain HTTP is JSON `{code, message}` with the right status.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use lanyard_protocol::FailureCode;
use lanyard_protocol::http::HttpError;

use crate::refusals::Refused;

/// A "no" over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiError(pub FailureCode);

impl From<FailureCode> for ApiError {
    fn from(code: FailureCode) -> Self {
        Self(code)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self(code) = self;
        let body = HttpError { code, message: code.sentence().into() };
        let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let retry_after_s = match status {
            StatusCode::SERVICE_UNAVAILABLE => Some("2"),
            StatusCode::TOO_MANY_REQUESTS => Some("10"),
            _ => None,
        };
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response.extensions_mut().insert(Refused(code));
        response
    }
}
