//! Heads and bodies of `/d/` responses: what a file and an archive have in common.

use std::ops::Range;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use lanyard_protocol::message::TransferState;
use lanyard_protocol::{FailureCode, FileEntry, LinkHash, path};
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::chunks::frames::{Frames, NextFrame};
use crate::error::ApiError;
use crate::links::conditional::{etag, modified};
use crate::links::names::{content_type, disposition};
use crate::links::progress::ProgressReport;
use crate::links::range_fetcher::{FetchedBytes, Outlet, RangeFetcher};

/// Frames between the pulling task and the transport, which has none while there is one.
const BODY_FRAMES: usize = 1;
/// How long the head waits for news of the first bytes: a file that is gone or changed becomes a
/// status.
const HEAD_WAIT: Duration = Duration::from_millis(250);
/// Headers that every `/d/` answer has: saved, never run, never kept by a cache in between.
pub(crate) fn common_headers(headers: &mut HeaderMap, name: &str) {
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "private, no-cache"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert(header::CONTENT_DISPOSITION, disposition(name));
}

/// Sets what is the same for every answer about this version of a file.
pub(crate) fn version_headers(headers: &mut HeaderMap, entry: &FileEntry) {
    common_headers(headers, path::file_name(&entry.path));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(etag) = HeaderValue::from_str(&etag(entry)) {
        headers.insert(header::ETAG, etag);
    }
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(modified(entry))) {
        headers.insert(header::LAST_MODIFIED, date);
    }
}

pub(crate) fn describe(
    headers: &mut HeaderMap,
    status: StatusCode,
    entry: &FileEntry,
    range: &Range<u64>,
) {
    let content_range = match status {
        StatusCode::RANGE_NOT_SATISFIABLE => Some(format!("bytes */{}", entry.size)),
        StatusCode::PARTIAL_CONTENT => {
            Some(format!("bytes {}-{}/{}", range.start, range.end - 1, entry.size))
        }
        _ => None,
    };
    if let Some(value) = content_range.and_then(|value| HeaderValue::from_str(&value).ok()) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        headers.insert(header::CONTENT_TYPE, content_type(entry));
        headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    }
}

/// The first thing a fetcher has to say, if it says it soon: a final failure becomes a status.
pub(crate) async fn first_news(
    fetcher: &mut RangeFetcher,
    frame: &mut NextFrame,
) -> Result<Option<FetchedBytes>, ApiError> {
    match tokio::time::timeout(HEAD_WAIT, fetcher.next(frame)).await {
        Ok(FetchedBytes::Failed(code)) => Err(code.into()),
        Ok(news) => Ok(Some(news)),
        Err(_) => Ok(None),
    }
}

/// A body that a task fills through a bounded channel; the task ends when its reader is gone.
pub(crate) fn stream_body<F>(
    hash: &LinkHash,
    frames: Frames,
    fill: impl FnOnce(Outlet) -> F,
) -> Body
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BODY_FRAMES);
    let span = tracing::debug_span!("transfer", link = %hash);
    tokio::spawn(fill(Outlet::new(sender, frames)).instrument(span));
    Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    }))
}

/// Why a body ends before its last byte.
pub(crate) enum Cut {
    Failed(FailureCode),
    /// The reader is gone.
    Left,
}

impl From<FailureCode> for Cut {
    fn from(code: FailureCode) -> Self {
        Self::Failed(code)
    }
}

pub(crate) async fn file_body(
    fetcher: RangeFetcher,
    first: Option<FetchedBytes>,
    mut report: ProgressReport,
    mut out: Outlet,
) {
    match send_file(fetcher, first, &mut report, &mut out).await {
        Ok(()) => report.end(TransferState::Done),
        Err(Cut::Left) => report.end(TransferState::Cancelled),
        Err(Cut::Failed(code)) => {
            out.cut(code).await;
            report.end(TransferState::Failed);
        }
    }
}

async fn send_file(
    mut fetcher: RangeFetcher,
    mut first: Option<FetchedBytes>,
    report: &mut ProgressReport,
    out: &mut Outlet,
) -> Result<(), Cut> {
    // The library drops a body with its last byte: whoever looked for the reader then would find it
    // gone.
    while first.is_some() || !fetcher.is_through() {
        let paused = || report.say(TransferState::Paused);
        let mut frame = out.next_frame(&mut fetcher, paused).await.ok_or(Cut::Left)?;
        let Some(bytes) = next_bytes(&mut fetcher, &mut frame, first.take(), (out, report)).await?
        else {
            break;
        };
        let count = bytes.len() as u64;
        if !out.give(frame, bytes).await {
            return Err(Cut::Left);
        }
        report.moved(count);
    }
    Ok(())
}

/// Pulls the next bytes, as many as the frame may have; `None` at the end. Reports when there is
/// nothing to read yet.
pub(crate) async fn next_bytes(
    fetcher: &mut RangeFetcher,
    frame: &mut NextFrame,
    mut first: Option<FetchedBytes>,
    (out, report): (&Outlet, &mut ProgressReport),
) -> Result<Option<Bytes>, Cut> {
    loop {
        let pulled = match first.take() {
            Some(pulled) => pulled,
            None => pull(fetcher, frame, out, report).await.ok_or(Cut::Left)?,
        };
        match pulled {
            FetchedBytes::Bytes(bytes) => return Ok(Some(bytes)),
            FetchedBytes::Waiting => report.say(TransferState::Waiting),
            FetchedBytes::Failed(code) => return Err(Cut::Failed(code)),
            FetchedBytes::End => return Ok(None),
        }
    }
}

/// The fetcher's next word; `None` when the reader left meanwhile (a reader may leave while its
/// owner is away).
async fn pull(
    fetcher: &mut RangeFetcher,
    frame: &mut NextFrame,
    out: &Outlet,
    report: &ProgressReport,
) -> Option<FetchedBytes> {
    tokio::select! {
        pulled = fetcher.next(frame) => Some(pulled),
        () = out.closed() => None,
        () = report.quiet_too_long() => Some(FetchedBytes::Waiting),
    }
}
