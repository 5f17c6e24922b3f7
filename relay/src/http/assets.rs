//! The web client, from the binary.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{Method, header};
use lanyard_protocol::FailureCode;

use crate::error::ApiError;

/// Any path that is no route of ours; what the client does not have is 404.
pub async fn get(request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return ApiError(FailureCode::NotFound).into_response();
    }
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let response = lanyard_web::respond(request.uri().path(), known);
    if response.status() == http::StatusCode::NOT_FOUND {
        return ApiError(FailureCode::NotFound).into_response();
    }
    response.map(Body::from)
}
