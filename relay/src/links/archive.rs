//! Several files as one archive, streamed while the master lays it out page after page. What a
//! response holds is two pages of members and four bytes for each that went out; the names of the
//! directory at the end are asked for again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use lanyard_hub::broker::{CallInput, Input, LinkReader};
use lanyard_protocol::archive::Extent;
use lanyard_protocol::limits::{LINK_LOOKUP_WAIT_MS, MAX_ARCHIVE_WINDOW_BYTES, SMALL_FRAME_BYTES};
use lanyard_protocol::message::{LinkArchive, LinkMember, LinkPage, TransferState};
use lanyard_protocol::{DeviceId, FailureCode, FileId, FileRef, LayoutId, LinkHash};
use tokio_util::task::AbortOnDropHandle;

use crate::chunks::frames::{Frames, NextFrame};
use crate::error::ApiError;
use crate::links::call::call;
use crate::links::progress::ProgressReport;
use crate::links::range_fetcher::{FetchedBytes, FileRange, Outlet, RangeFetcher};
use crate::links::response::{Cut, common_headers, first_news, next_bytes, stream_body};
use crate::links::zip;
use crate::state::{CallAnswer, RelayState};

/// Pieces in which the directory goes out.
const DIRECTORY_PIECE: usize = 16 * 1024;

type MemberPage = Result<Vec<LinkMember>, FailureCode>;

/// The members of an archive in order, page by page: one that is read and one ahead of it.
struct Members {
    state: Arc<RelayState>,
    reader: LinkReader,
    hash: LinkHash,
    layout: LayoutId,
    total: u32,
    bare: bool,
    /// The number of the first member that was not asked for.
    next: u32,
    here: VecDeque<LinkMember>,
    ahead: Option<Vec<LinkMember>>,
    asking: Option<AbortOnDropHandle<MemberPage>>,
}

impl Members {
    fn new(
        state: &Arc<RelayState>,
        reader: LinkReader,
        hash: LinkHash,
        archive: &LinkArchive,
        bare: bool,
    ) -> Self {
        Self {
            state: state.clone(),
            reader,
            hash,
            layout: archive.layout,
            total: archive.members,
            bare,
            next: 0,
            here: VecDeque::new(),
            ahead: None,
            asking: None,
        }
    }

    /// Asks for the page after all that are here.
    fn ask(&mut self) {
        if self.asking.is_some() || self.ahead.is_some() || self.next >= self.total {
            return;
        }
        let page = LinkPage {
            link_hash: self.hash,
            layout: self.layout,
            first: self.next,
            bare: self.bare,
        };
        let state = self.state.clone();
        let reader = self.reader;
        let asked = tokio::spawn(async move {
            match call(&state, |call| Input::Call(CallInput::PageWanted { call, reader, page }))
                .await
            {
                Some(CallAnswer::Members(page)) => page,
                _ => Err(FailureCode::ServerNotReady),
            }
        });
        self.asking = Some(AbortOnDropHandle::new(asked));
    }

    /// Takes the page that was asked for, once it is here.
    async fn arrived(&mut self) -> Result<(), FailureCode> {
        let Some(asking) = &mut self.asking else { return Ok(()) };
        let page = asking.await.map_err(|_| FailureCode::Internal)?;
        self.asking = None;
        let page = page?;
        let left = (self.total - self.next) as usize;
        if page.is_empty() || page.len() > left {
            return Err(FailureCode::Internal);
        }
        self.next += page.len() as u32;
        self.ahead = Some(page);
        Ok(())
    }

    /// A page came that was not looked at yet: gives its members, to want their bytes.
    async fn news(&mut self) -> Result<Option<&[LinkMember]>, FailureCode> {
        if !self.asking.as_ref().is_some_and(AbortOnDropHandle::is_finished) {
            return Ok(None);
        }
        self.arrived().await?;
        Ok(self.ahead.as_deref())
    }

    /// Begins the page ahead when the one here is through; waits for it if need be. Gives what is
    /// new of it.
    async fn turn(&mut self) -> Result<Option<&[LinkMember]>, FailureCode> {
        if !self.here.is_empty() {
            return Ok(None);
        }
        let is_new = self.ahead.is_none();
        if is_new {
            self.ask();
            self.arrived().await?;
        }
        self.here = self.ahead.take().unwrap_or_default().into();
        self.ask();
        Ok(is_new.then_some(self.here.make_contiguous()))
    }

    /// Memory of the members that are here.
    fn bytes(&self) -> usize {
        let text = |member: &LinkMember| {
            let file = member
                .file
                .as_ref()
                .map_or(0, |entry| entry.path.capacity() + entry.media_type.capacity());
            size_of::<LinkMember>() + member.name.capacity() + file
        };
        self.here.iter().chain(self.ahead.iter().flatten()).map(text).sum()
    }
}

fn ranges(page: &[LinkMember]) -> Vec<FileRange> {
    let files = page.iter().filter_map(|member| member.file.as_ref());
    files.map(|entry| FileRange::new(entry, 0..entry.size)).collect()
}

/// An archive on its way out.
struct ArchiveSender {
    archive: LinkArchive,
    members: Members,
    fetcher: RangeFetcher,
    extent: Extent,
    crcs: Vec<u32>,
    report: ProgressReport,
    out: Outlet,
}

pub(crate) async fn serve(
    state: Arc<RelayState>,
    hash: LinkHash,
    archive: &LinkArchive,
    frames: Frames,
    is_head: bool,
) -> Result<Response, ApiError> {
    let body = if is_head { Body::empty() } else { stream(state, hash, archive, frames).await? };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    common_headers(headers, &archive.name);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    headers.insert(header::CONTENT_LENGTH, archive.length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("none"));
    Ok(response)
}

async fn stream(
    state: Arc<RelayState>,
    hash: LinkHash,
    archive: &LinkArchive,
    mut frames: Frames,
) -> Result<Body, ApiError> {
    let mut fetcher = RangeFetcher::new(state.clone(), hash, Vec::new());
    let mut members = Members::new(&state, fetcher.reader(), hash, archive, false);
    let longest = Duration::from_millis(LINK_LOOKUP_WAIT_MS);
    let page = tokio::time::timeout(longest, members.turn())
        .await
        .map_err(|_| FailureCode::ServerNotReady)??;
    fetcher.extend(page.map(ranges).unwrap_or_default());
    let is_read = |member: &LinkMember| member.size > 0;
    // Where the archive begins with bytes of a file, a failure of it becomes a status.
    let begins_with_bytes = members.here.iter().any(is_read);
    let first = if begins_with_bytes {
        first_news(&mut fetcher, &mut frames.next().await).await?
    } else {
        None
    };
    let nobody =
        FileRef { public_id: DeviceId(Default::default()), file_id: FileId(Default::default()) };
    let file = members
        .here
        .iter()
        .find_map(|member| Some(member.file.as_ref()?.file_ref()))
        .unwrap_or(nobody);
    let report = ProgressReport::new(state, hash, file, archive.length, 0);
    let archive = archive.clone();
    Ok(stream_body(&hash, frames, move |out| async move {
        let extent = Extent::default();
        let crcs = Vec::new();
        ArchiveSender { archive, members, fetcher, extent, crcs, report, out }.run(first).await;
    }))
}

impl ArchiveSender {
    async fn run(mut self, first: Option<FetchedBytes>) {
        let sent = match self.send_members(first).await {
            Ok(()) => self.send_directory().await,
            Err(cut) => Err(cut),
        };
        match sent {
            Ok(()) => self.report.end(TransferState::Done),
            Err(Cut::Left) => self.report.end(TransferState::Cancelled),
            Err(Cut::Failed(code)) => {
                tracing::debug!(code = code.as_str(), "an archive is cut");
                self.out.cut(code).await;
                self.report.end(TransferState::Failed);
            }
        }
    }

    async fn send_members(&mut self, mut first: Option<FetchedBytes>) -> Result<(), Cut> {
        while let Some(member) = self.next_member().await? {
            let offset = self.extent.add(&zip::shape(&member));
            self.write(zip::local_header(&member, offset)).await?;
            let crc = if member.size > 0 { self.send_bytes(&member, &mut first).await? } else { 0 };
            self.crcs.push(crc);
            self.write(zip::descriptor(&member, crc)).await?;
            self.note_window();
        }
        Ok(())
    }

    /// The next member; its bytes and those of the page ahead are wanted by now.
    async fn next_member(&mut self) -> Result<Option<LinkMember>, Cut> {
        if let Some(page) = self.members.news().await? {
            self.fetcher.extend(ranges(page));
        }
        let page = tokio::select! {
            page = self.members.turn() => page?,
            () = self.out.closed() => return Err(Cut::Left),
        };
        if let Some(page) = page {
            self.fetcher.extend(ranges(page));
        }
        Ok(self.members.here.pop_front())
    }

    /// The member's bytes, in order; gives their checksum.
    async fn send_bytes(
        &mut self,
        member: &LinkMember,
        first: &mut Option<FetchedBytes>,
    ) -> Result<u32, Cut> {
        let Some(entry) = &member.file else { return Err(Cut::Failed(FailureCode::FileGone)) };
        self.report.file = entry.file_ref();
        let mut crc = crc32fast::Hasher::new();
        let mut left = member.size;
        while left > 0 {
            let mut frame = self.next_frame().await?;
            let at = (&self.out, &mut self.report);
            let bytes = next_bytes(&mut self.fetcher, &mut frame, first.take(), at).await?;
            let bytes = bytes.ok_or(FailureCode::Internal)?;
            crc.update(&bytes);
            left = left.checked_sub(bytes.len() as u64).ok_or(FailureCode::Internal)?;
            self.give(frame, bytes).await?;
        }
        Ok(crc.finalize())
    }

    async fn send_directory(&mut self) -> Result<(), Cut> {
        let state = self.members.state.clone();
        self.members =
            Members::new(&state, self.fetcher.reader(), self.members.hash, &self.archive, true);
        let mut again = Extent::default();
        let mut out = BytesMut::new();
        let mut number = 0;
        while let Some(member) = self.next_member().await? {
            let offset = again.add(&zip::shape(&member));
            let crc = self.crcs.get(number).copied().ok_or(FailureCode::Internal)?;
            zip::central_header(&mut out, &member, offset, crc);
            number += 1;
            if out.len() >= DIRECTORY_PIECE {
                self.write(out.split().freeze()).await?;
                self.note_window();
            }
        }
        if again != self.extent || again.length() != self.archive.length {
            return Err(Cut::Failed(FailureCode::StaleRequest));
        }
        out.extend_from_slice(&zip::end(&again));
        self.write(out.freeze()).await
    }

    /// Writes what does not come from a file.
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), Cut> {
        while !bytes.is_empty() {
            let frame = self.next_frame().await?;
            let part = bytes.split_to(bytes.len().min(SMALL_FRAME_BYTES));
            self.give(frame, part).await?;
        }
        Ok(())
    }

    async fn next_frame(&mut self) -> Result<NextFrame, Cut> {
        let report = &mut self.report;
        let paused = || report.say(TransferState::Paused);
        self.out.next_frame(&mut self.fetcher, paused).await.ok_or(Cut::Left)
    }

    async fn give(&mut self, frame: NextFrame, bytes: Bytes) -> Result<(), Cut> {
        let count = bytes.len() as u64;
        if !self.out.give(frame, bytes).await {
            return Err(Cut::Left);
        }
        self.report.moved(count);
        Ok(())
    }

    fn note_window(&self) {
        let held = self.members.bytes() + self.crcs.capacity() * size_of::<u32>();
        debug_assert!(held <= MAX_ARCHIVE_WINDOW_BYTES, "{held} bytes of an archive are held");
        self.members.state.carried.archive_window.fetch_max(held as u64, Ordering::Relaxed);
    }
}
