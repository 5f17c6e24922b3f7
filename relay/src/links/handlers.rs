//! `GET /d/{link}/{name}`: a shared file as an ordinary resource of the web. Ranges, resume,
//! conditional requests; several files as one archive. The head is sent at once; the body waits for
//! an absent owner as long as its reader stays.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode};
use lanyard_hub::broker::{CallInput, Input, LinkContent, LinkInfo};
use lanyard_protocol::message::TransferState;
use lanyard_protocol::{FailureCode, FileEntry, Link};

use crate::chunks::frames::Frames;
use crate::error::ApiError;
use crate::limits::connections::ConnectionPermit;
use crate::links::archive;
use crate::links::call::call;
use crate::links::conditional::FilePlan;
use crate::links::progress::ProgressReport;
use crate::links::range_fetcher::{FetchedBytes, FileRange, RangeFetcher};
use crate::links::response::{describe, file_body, first_news, stream_body, version_headers};
use crate::state::{CallAnswer, RelayState};

pub(crate) async fn get_unnamed(
    state: State<Arc<RelayState>>,
    Path(link): Path<String>,
    permit: Option<Extension<Arc<ConnectionPermit>>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    get(state, Path((link, String::new())), permit, method, headers).await
}

pub(crate) async fn get(
    State(state): State<Arc<RelayState>>,
    Path((link, _decoration)): Path<(String, String)>,
    permit: Option<Extension<Arc<ConnectionPermit>>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let frames = Frames::new(state.large_frames.clone(), permit.map(|permit| permit.network()));
    serve(state, link, frames, method, headers).await.unwrap_or_else(refused)
}

/// People read this in their browser; one that ended, was dropped or never was is told alike.
fn refused(error: ApiError) -> Response {
    match error {
        ApiError(FailureCode::NotFound) => {
            error.into_response_saying("this link no longer works; ask for a new one")
        }
        error => error.into_response(),
    }
}

async fn serve(
    state: Arc<RelayState>,
    link: String,
    frames: Frames,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let link: Link = link.parse().map_err(|_| FailureCode::NotFound)?;
    let answer = call(&state, |call| Input::Call(CallInput::LinkOpened { call, link })).await;
    let Some(CallAnswer::Found(info)) = answer else {
        return Err(FailureCode::ServerNotReady.into());
    };
    let info = info?;
    let is_head = method == Method::HEAD;
    match &info.what {
        LinkContent::Nothing => Err(FailureCode::FileGone.into()),
        LinkContent::File(entry) => {
            let plan = FilePlan::new(entry, &headers);
            serve_file(state, link, &info, entry, plan, frames, is_head).await
        }
        LinkContent::Archive(archive) => {
            if !is_head {
                begin(&state, link, &info, true, archive.length).await?;
            }
            archive::serve(state, info.hash, archive, frames, is_head).await
        }
    }
}

/// Counts a use of a link whose uses are counted: `bytes` of it, or all from the first byte on.
async fn begin(
    state: &Arc<RelayState>,
    link: Link,
    info: &LinkInfo,
    whole: bool,
    bytes: u64,
) -> Result<(), FailureCode> {
    if !info.limited {
        return Ok(());
    }
    match call(state, |call| Input::Call(CallInput::UseBegun { call, link, whole, bytes })).await {
        Some(CallAnswer::Begun(result)) => result,
        _ => Err(FailureCode::ServerNotReady),
    }
}

async fn serve_file(
    state: Arc<RelayState>,
    link: Link,
    info: &LinkInfo,
    entry: &FileEntry,
    plan: FilePlan,
    mut frames: Frames,
    is_head: bool,
) -> Result<Response, ApiError> {
    let (status, range) = match plan {
        FilePlan::NotModified => (StatusCode::NOT_MODIFIED, 0..0),
        FilePlan::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
        FilePlan::Whole => (StatusCode::OK, 0..entry.size),
        FilePlan::Part { first, last } => (StatusCode::PARTIAL_CONTENT, first..last + 1),
    };
    let has_body = !is_head && matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    let is_whole = range == (0..entry.size);
    if has_body {
        begin(&state, link, info, is_whole, range.end - range.start).await?;
    }
    let hash = info.hash;
    let body = if !has_body || range.is_empty() {
        if has_body {
            // An empty file is there at once; its maker's page waits for the word.
            ProgressReport::new(state, hash, entry.file_ref(), 0, 0).end(TransferState::Done);
        }
        Body::empty()
    } else {
        let (bytes, file) = (range.clone(), entry.file_ref());
        let mut fetcher =
            RangeFetcher::new(state.clone(), hash, vec![FileRange::new(entry, bytes)]);
        let mut report = ProgressReport::new(state, hash, file, entry.size, range.start);
        if info.limited && !is_whole {
            report.unread = range.end - range.start;
        }
        let mut frame = frames.next().await;
        let first = first_news(&mut fetcher, &mut frame).await?;
        match first {
            // All of it is there: head and body leave in one write.
            Some(FetchedBytes::Bytes(bytes)) if bytes.len() as u64 == range.end - range.start => {
                report.moved(bytes.len() as u64);
                report.end(TransferState::Done);
                Body::from(frames.give(frame, bytes))
            }
            first => stream_body(&hash, frames, move |out| file_body(fetcher, first, report, out)),
        }
    };
    let mut response =
        Response::builder().status(status).body(body).map_err(|_| FailureCode::Internal)?;
    let headers = response.headers_mut();
    version_headers(headers, entry);
    describe(headers, status, entry, &range);
    Ok(response)
}
