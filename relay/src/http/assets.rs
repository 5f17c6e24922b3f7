//! The web client, from the binary.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode, header};
use tower::ServiceExt;

/// Returns a file of the web client, or else what `added` answers. The client's own files come
/// first, so that no added route can replace a script of the page.
pub(crate) async fn get_or(request: Request, added: Router) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        let known =
            request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let response = lanyard_web::respond(request.uri().path(), known);
        if response.status() != StatusCode::NOT_FOUND {
            return response.map(Body::from);
        }
    }
    let Ok(response) = added.oneshot(request).await;
    response
}
