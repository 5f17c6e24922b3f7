//! `POST /links` and `DELETE /links/{link}`: making and dropping the key to a `/d/` address.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use lanyard_hub::broker::{CallId, Input};
use lanyard_protocol::http::{LinkMade, LinkOrder};
use lanyard_protocol::limits::{MAX_LINK_FILES, MAX_LINK_REQUEST_BYTES, MIN_BODY_WINDOW_MS};
use lanyard_protocol::{FailureCode, Link, LinkHash, path};
use tokio::sync::oneshot;

use crate::edge::{CallAnswer, Caller, Edge};
use crate::error::ApiError;

/// A whole order has to be here by then.
const WHOLE_ORDER: Duration = Duration::from_millis(MIN_BODY_WINDOW_MS);

/// Asks the broker and waits; if the request goes away meanwhile the broker hears that too.
pub async fn ask(edge: &Arc<Edge>, input: impl FnOnce(CallId) -> Input) -> Option<CallAnswer> {
    let call = CallId(edge.number());
    let (answer, waiting) = oneshot::channel();
    edge.calls.insert(call, answer);
    let left = LeftCall { edge: edge.clone(), call };
    edge.tell(input(call)).await;
    let answered = waiting.await.ok();
    std::mem::drop(left);
    answered
}

struct LeftCall {
    edge: Arc<Edge>,
    call: CallId,
}

impl Drop for LeftCall {
    fn drop(&mut self) {
        if self.edge.calls.remove(&self.call).is_some() {
            self.edge.tell_soon(Input::CallLeft { call: self.call });
        }
    }
}

/// A link to files that anybody with it may read.
pub async fn make(
    State(edge): State<Arc<Edge>>,
    caller: Caller,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Result<(StatusCode, Json<LinkMade>), ApiError> {
    let session = caller.session;
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(FailureCode::UnsupportedEncoding.into());
    }
    let body = Limited::new(body, MAX_LINK_REQUEST_BYTES).collect();
    let body = tokio::time::timeout(WHOLE_ORDER, body).await.map_err(|_| FailureCode::TimedOut)?;
    let body = body.map_err(|_| FailureCode::TooLarge)?;
    let body = body.to_bytes();
    caller.sent(&body)?;
    let order: LinkOrder = serde_json::from_slice(&body).map_err(|_| FailureCode::BadMessage)?;
    let fits = (1..=MAX_LINK_FILES).contains(&order.files.len());
    let named = order.name.as_deref().is_none_or(|name| path::validate(name).is_ok() && !name.contains('/'));
    if !fits || !named {
        return Err(FailureCode::BadMessage.into());
    }
    let link = new_link()?;
    let hash = LinkHash::of(&link);
    let LinkOrder { files, name } = order;
    let answer = ask(&edge, |call| Input::LinkOrdered { call, session, hash, files, name }).await;
    let Some(CallAnswer::Made(made)) = answer else { return Err(FailureCode::ServerNotReady.into()) };
    let expires_ms = made?;
    let answer = ask(&edge, |call| Input::LinkOpened { call, hash }).await;
    let Some(CallAnswer::Found(info)) = answer else { return Err(FailureCode::ServerNotReady.into()) };
    let url = format!("/d/{}/{}", link.to_hex(), super::download::url_name(&*info?));
    Ok((StatusCode::CREATED, Json(LinkMade { link, url, expires_ms })))
}

fn new_link() -> Result<Link, FailureCode> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| FailureCode::Internal)?;
    Ok(Link(bytes))
}

/// Its maker takes it back; whoever reads is cut.
pub async fn drop(
    State(edge): State<Arc<Edge>>,
    caller: Caller,
    Path(link): Path<String>,
) -> Result<StatusCode, ApiError> {
    let session = caller.session;
    let link: Link = link.parse().map_err(|_| FailureCode::NotFound)?;
    let hash = LinkHash::of(&link);
    match ask(&edge, |call| Input::LinkDropped { call, session, hash }).await {
        Some(CallAnswer::Gone(Ok(()))) => Ok(StatusCode::NO_CONTENT),
        Some(CallAnswer::Gone(Err(code))) => Err(code.into()),
        _ => Err(FailureCode::ServerNotReady.into()),
    }
}
