//! `GET /d/{link}/{name}`: a shared file as an ordinary resource of the web. Ranges, resume,
//! conditional requests; several files as one archive. The head is sent at once; the body waits for
//! an absent owner as long as its reader stays.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use lanyard_hub::broker::{Input, LinkContent, LinkInfo, LinkProgress};
use lanyard_protocol::limits::PROGRESS_INTERVAL_MS;
use lanyard_protocol::message::TransferState;
use lanyard_protocol::range::{RangeRequest, wanted};
use lanyard_protocol::{FailureCode, FileEntry, FileRef, Link, LinkHash, path};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::range_fetcher::{FetchedBytes, FileRange, Outlet, RangeFetcher};
use super::{archive, call};
use crate::chunks::frames::{Frames, NextFrame};
use crate::error::ApiError;
use crate::limits::connections::ConnectionPermit;
use crate::state::{CallAnswer, RelayState};

/// Frames between the pulling task and the transport, which has none while there is one.
const BODY_FRAMES: usize = 1;
/// How long the head waits for news of the first bytes: a file that is gone or changed becomes a
/// status.
const HEAD_WAIT: Duration = Duration::from_millis(250);
/// RFC 5987 `attr-char` and what is safe in a path segment alike.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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
    State(edge): State<Arc<RelayState>>,
    Path((link, _decoration)): Path<(String, String)>,
    permit: Option<Extension<Arc<ConnectionPermit>>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let frames = Frames::new(edge.large_frames.clone(), permit.map(|permit| permit.network()));
    serve(edge, link, frames, method, headers).await.unwrap_or_else(refused)
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
    edge: Arc<RelayState>,
    link: String,
    frames: Frames,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let link: Link = link.parse().map_err(|_| FailureCode::NotFound)?;
    let answer = call::call(&edge, |call| Input::LinkOpened { call, link }).await;
    let Some(CallAnswer::Found(info)) = answer else {
        return Err(FailureCode::ServerNotReady.into());
    };
    let info = info?;
    let is_head = method == Method::HEAD;
    match &info.what {
        LinkContent::Nothing => Err(FailureCode::FileGone.into()),
        LinkContent::File(entry) => {
            let plan = FilePlan::new(entry, &headers);
            serve_file(edge, link, &info, entry, plan, frames, is_head).await
        }
        LinkContent::Archive(archive) => {
            if !is_head {
                begin(&edge, link, &info, true, archive.length).await?;
            }
            archive::serve(edge, info.hash, archive, frames, is_head).await
        }
    }
}

/// Counts a use of a link whose uses are counted: `bytes` of it, or all from the first byte on.
async fn begin(
    edge: &Arc<RelayState>,
    link: Link,
    info: &LinkInfo,
    whole: bool,
    bytes: u64,
) -> Result<(), FailureCode> {
    if !info.limited {
        return Ok(());
    }
    match call::call(edge, |call| Input::LinkBegun { call, link, whole, bytes }).await {
        Some(CallAnswer::Begun(result)) => result,
        _ => Err(FailureCode::ServerNotReady),
    }
}

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

/// RFC 6266: an ASCII fallback without anything that could end it, and the name itself
/// percent-encoded.
pub(crate) fn disposition(name: &str) -> HeaderValue {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || " .-_()".contains(c) { c } else { '_' })
        .collect();
    let value = format!(
        "attachment; filename=\"{plain}\"; filename*=UTF-8''{}",
        utf8_percent_encode(name, PLAIN)
    );
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"))
}

/// The file's own type where nothing can script in our origin, else bytes. A list of types is read
/// by browsers as its last one, and whatever ends in xml as a document.
fn content_type(entry: &FileEntry) -> HeaderValue {
    let own = entry.media_type.to_lowercase();
    let essence = own.split(';').next().unwrap_or("").trim();
    let (kind, form) = essence.split_once('/').unwrap_or_default();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
    let is_one = !form.is_empty() && form.chars().all(is_token);
    let can_script = form.contains("svg") || form.contains("xml");
    let harmless =
        matches!(kind, "image" | "audio" | "video") && !can_script || essence == "application/pdf";
    let value = if is_one && harmless { HeaderValue::from_str(essence).ok() } else { None };
    value.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// An id is one version of a file: a strong validator that stays when the root becomes known in
/// mid-download.
fn etag(entry: &FileEntry) -> String {
    format!("\"{}.{}\"", entry.public_id, entry.file_id)
}

/// What a request for one file gets.
enum FilePlan {
    NotModified,
    Unsatisfiable,
    Whole,
    Part { first: u64, last: u64 },
}

impl FilePlan {
    fn new(entry: &FileEntry, headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let etag = etag(entry);
        let modified = httpdate::fmt_http_date(modified(entry));
        if let Some(known) = text(header::IF_NONE_MATCH) {
            let matches = known
                .split(',')
                .map(str::trim)
                .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag);
            if matches {
                return Self::NotModified;
            }
        }
        let still_ours = text(header::IF_RANGE).is_none_or(|said| said == etag || said == modified);
        match wanted(text(header::RANGE).filter(|_| still_ours), entry.size) {
            RangeRequest::Whole => Self::Whole,
            RangeRequest::Part { first, last } => Self::Part { first, last },
            RangeRequest::Unsatisfiable => Self::Unsatisfiable,
        }
    }
}

fn modified(entry: &FileEntry) -> SystemTime {
    // Dates that HTTP cannot say (before 1970, after 9999) become its ends.
    SystemTime::UNIX_EPOCH + Duration::from_millis(entry.modified_ms.min(253_402_300_799_000))
}

async fn serve_file(
    edge: Arc<RelayState>,
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
        begin(&edge, link, info, is_whole, range.end - range.start).await?;
    }
    let hash = info.hash;
    let body = if !has_body || range.is_empty() {
        if has_body {
            // An empty file is there at once; its maker's page waits for the word.
            ProgressReport::new(edge, hash, entry.file_ref(), 0, 0).end(TransferState::Done);
        }
        Body::empty()
    } else {
        let (bytes, file) = (range.clone(), entry.file_ref());
        let mut puller = RangeFetcher::new(edge.clone(), hash, vec![FileRange::new(entry, bytes)]);
        let mut report = ProgressReport::new(edge, hash, file, entry.size, range.start);
        if info.limited && !is_whole {
            report.unread = range.end - range.start;
        }
        let mut frame = frames.next().await;
        let first = first_news(&mut puller, &mut frame).await?;
        match first {
            // All of it is there: head and body leave in one write.
            Some(FetchedBytes::Bytes(bytes)) if bytes.len() as u64 == range.end - range.start => {
                report.moved(bytes.len() as u64);
                report.end(TransferState::Done);
                Body::from(frames.give(frame, bytes))
            }
            first => stream_body(&hash, frames, move |out| file_body(puller, first, report, out)),
        }
    };
    let mut response =
        Response::builder().status(status).body(body).map_err(|_| FailureCode::Internal)?;
    let headers = response.headers_mut();
    version_headers(headers, entry);
    describe(headers, status, entry, &range);
    Ok(response)
}

/// Sets what is the same for every answer about this version of a file.
fn version_headers(headers: &mut HeaderMap, entry: &FileEntry) {
    common_headers(headers, path::file_name(&entry.path));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(etag) = HeaderValue::from_str(&etag(entry)) {
        headers.insert(header::ETAG, etag);
    }
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(modified(entry))) {
        headers.insert(header::LAST_MODIFIED, date);
    }
}

fn describe(headers: &mut HeaderMap, status: StatusCode, entry: &FileEntry, range: &Range<u64>) {
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

/// The first thing a puller has to say, if it says it soon: a final failure becomes a status.
pub(crate) async fn first_news(
    puller: &mut RangeFetcher,
    frame: &mut NextFrame,
) -> Result<Option<FetchedBytes>, ApiError> {
    match tokio::time::timeout(HEAD_WAIT, puller.next(frame)).await {
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

async fn file_body(
    puller: RangeFetcher,
    first: Option<FetchedBytes>,
    mut report: ProgressReport,
    mut out: Outlet,
) {
    match send_file(puller, first, &mut report, &mut out).await {
        Ok(()) => report.end(TransferState::Done),
        Err(Cut::Left) => report.end(TransferState::Cancelled),
        Err(Cut::Failed(code)) => {
            out.cut(code).await;
            report.end(TransferState::Failed);
        }
    }
}

async fn send_file(
    mut puller: RangeFetcher,
    mut first: Option<FetchedBytes>,
    report: &mut ProgressReport,
    out: &mut Outlet,
) -> Result<(), Cut> {
    // The library drops a body with its last byte: whoever looked for the reader then would find it
    // gone.
    while first.is_some() || !puller.is_through() {
        let paused = || report.say(TransferState::Paused);
        let mut frame = out.next_frame(&mut puller, paused).await.ok_or(Cut::Left)?;
        let Some(bytes) = next_bytes(&mut puller, &mut frame, first.take(), (out, report)).await?
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
    puller: &mut RangeFetcher,
    frame: &mut NextFrame,
    mut first: Option<FetchedBytes>,
    (out, report): (&Outlet, &mut ProgressReport),
) -> Result<Option<Bytes>, Cut> {
    loop {
        let pulled = match first.take() {
            Some(pulled) => pulled,
            None => pull(puller, frame, out, report).await.ok_or(Cut::Left)?,
        };
        match pulled {
            FetchedBytes::Bytes(bytes) => return Ok(Some(bytes)),
            FetchedBytes::Waiting => report.say(TransferState::Waiting),
            FetchedBytes::Failed(code) => return Err(Cut::Failed(code)),
            FetchedBytes::End => return Ok(None),
        }
    }
}

/// The puller's next word; `None` when the reader left meanwhile (a reader may leave while its
/// owner is away).
async fn pull(
    puller: &mut RangeFetcher,
    frame: &mut NextFrame,
    out: &Outlet,
    report: &ProgressReport,
) -> Option<FetchedBytes> {
    tokio::select! {
        pulled = puller.next(frame) => Some(pulled),
        () = out.closed() => None,
        () = report.quiet_too_long() => Some(FetchedBytes::Waiting),
    }
}

/// Progress of one response, at most four times a second.
pub(crate) struct ProgressReport {
    edge: Arc<RelayState>,
    hash: LinkHash,
    pub file: FileRef,
    total: u64,
    done: u64,
    said: Option<Instant>,
    moved_at: Instant,
    since: u64,
    rate: f64,
    state: TransferState,
    /// Bytes that a link's counted use paid for and that did not go out yet.
    unread: u64,
}

impl ProgressReport {
    pub(crate) fn new(
        edge: Arc<RelayState>,
        hash: LinkHash,
        file: FileRef,
        total: u64,
        done: u64,
    ) -> Self {
        let state = TransferState::Waiting;
        let moved_at = Instant::now();
        Self {
            edge,
            hash,
            file,
            total,
            done,
            said: None,
            moved_at,
            since: 0,
            rate: 0.0,
            state,
            unread: 0,
        }
    }

    pub(crate) fn moved(&mut self, count: u64) {
        self.done += count;
        self.unread = self.unread.saturating_sub(count);
        self.since += count;
        let elapsed = self.moved_at.elapsed();
        if elapsed >= Duration::from_millis(PROGRESS_INTERVAL_MS) {
            let now = self.since as f64 / elapsed.as_secs_f64();
            // A moving average over about five seconds.
            let weight = (elapsed.as_secs_f64() / 5.0).min(1.0);
            self.rate = if self.rate == 0.0 { now } else { self.rate + (now - self.rate) * weight };
            (self.moved_at, self.since) = (Instant::now(), 0);
            self.say(TransferState::Running);
        }
    }

    /// Ends when nothing has moved for a second and a half: the maker should hear that it waits.
    async fn quiet_too_long(&self) {
        if self.state == TransferState::Waiting && self.said.is_some() {
            return std::future::pending().await;
        }
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }

    pub(crate) fn say(&mut self, state: TransferState) {
        let interval = Duration::from_millis(PROGRESS_INTERVAL_MS);
        let recently = self.said.is_some_and(|said| said.elapsed() < interval);
        if recently && state == self.state {
            return;
        }
        (self.state, self.said) = (state, Some(Instant::now()));
        let progress = LinkProgress {
            file: self.file,
            done: self.done,
            total: self.total,
            rate: if state == TransferState::Running { self.rate as u64 } else { 0 },
            state,
        };
        self.edge.send_detached(Input::LinkMoved { hash: self.hash, progress });
    }

    pub(crate) fn end(mut self, state: TransferState) {
        self.said = None;
        self.say(state);
    }
}

impl Drop for ProgressReport {
    fn drop(&mut self) {
        if self.unread > 0 {
            self.edge.send_detached(Input::LinkUnread { hash: self.hash, bytes: self.unread });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_header() {
        for name in ["a\"b.txt", "a\r\nX: y", "Küche.pdf", "📁", "a;b", "%41"] {
            let value = disposition(name);
            let text = value.to_str().unwrap();
            let (_, encoded) = text.split_once("filename*=UTF-8''").unwrap();
            let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8().unwrap();
            assert_eq!(decoded, name);
            assert_eq!(text.matches('"').count(), 2, "{text}");
        }
    }
}
