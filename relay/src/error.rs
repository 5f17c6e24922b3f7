//! Every error of plain HTTP is JSON `{code, message}` with the right status.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use lanyard_protocol::FailureCode;
use lanyard_protocol::http::HttpError;

use crate::stats::RejectionCode;

/// A "no" over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ApiError(pub FailureCode);

impl From<FailureCode> for ApiError {
    fn from(code: FailureCode) -> Self {
        Self(code)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.into_response_saying(self.0.sentence())
    }
}

impl ApiError {
    /// The same "no" in words that fit better.
    pub(crate) fn into_response_saying(self, message: &str) -> Response {
        let Self(code) = self;
        let body = HttpError { code, message: message.into() };
        let status =
            StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
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
        response.extensions_mut().insert(RejectionCode(code));
        response
    }
}

/// Makes JSON of a "no" that the framework said in its own words, or without any. Its headers stay:
/// a 405 says what is allowed.
pub(crate) async fn as_json(response: Response) -> Response {
    let status = response.status();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !(status.is_client_error() || status.is_server_error()) || is_json {
        return response;
    }
    let (code, message) = meaning(status);
    let (mut parts, _) = response.into_parts();
    let (ours, body) = ApiError(code).into_response_saying(message).into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(ours.headers);
    parts.extensions.insert(RejectionCode(code));
    Response::from_parts(parts, body)
}

/// The code of a bare status, and its sentence.
fn meaning(status: StatusCode) -> (FailureCode, &'static str) {
    let code = match status.as_u16() {
        401 => FailureCode::Unauthenticated,
        403 => FailureCode::OriginDenied,
        404 => FailureCode::NotFound,
        405 => {
            return (
                FailureCode::BadMessage,
                "this address does not take that method; Allow says which it takes",
            );
        }
        408 => FailureCode::TimedOut,
        411 => FailureCode::LengthRequired,
        413 => FailureCode::TooLarge,
        414 => return (FailureCode::TooLarge, "the address is too long"),
        415 => FailureCode::UnsupportedEncoding,
        421 => FailureCode::HostDenied,
        426 => return (FailureCode::BadMessage, "this address takes WebSockets only"),
        431 => return (FailureCode::TooLarge, "the head of the request is too long"),
        503 => FailureCode::Busy,
        400..=499 => {
            return (FailureCode::BadMessage, "the request has a form that this hub does not know");
        }
        _ => FailureCode::Internal,
    };
    (code, code.sentence())
}
