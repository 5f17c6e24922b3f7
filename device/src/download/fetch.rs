//! One GET: bytes as they come, hashed and written in blocks, each group noted when it is whole. It
//! blocks while it writes, so it runs on the thread of its transfer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use lanyard_hub::peer::FetchOutcome;
use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::group::{GroupHasher, Groups};
use lanyard_protocol::http::HttpError;
use lanyard_protocol::limits::MAX_RUN_BYTES;
use lanyard_protocol::{FailureCode, FileId, GroupRange, GroupSpan, Ticket};
use reqwest::header::RETRY_AFTER;
use tokio::sync::mpsc;

use crate::connection::http;
use crate::download::file_sink::OpenPart;
use crate::download::task::{Destination, DownloadTask};
use crate::error::local_failure;
use crate::rate_limit::paced;
use crate::share::upload::Bodies;

/// The driver hears of what is stored after so many bytes, or so much time.
const REPORT_BYTES: usize = 1 << 20;
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes that are hashed and written at once.
const BLOCK_BYTES: usize = 256 << 10;

/// Events of a fetch on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fetched {
    Stored { pieces: Vec<GroupSpan> },
    Rejected { file_id: FileId, groups: Vec<GroupRange> },
}

/// Tells of what a fetch did: in order, and waiting while too much is untold.
pub(crate) struct FetchReporter<M> {
    pub to: mpsc::Sender<M>,
    pub wrap: Box<dyn Fn(Fetched) -> M + Send + Sync>,
}

impl<M> FetchReporter<M> {
    async fn tell(&self, fetched: Fetched) {
        // Nobody hears when the device has ended.
        let _ = self.to.send((self.wrap)(fetched)).await;
    }
}

/// One body to get.
#[derive(Debug, Clone)]
pub(crate) struct FetchJob {
    pub ticket: Ticket,
    pub pieces: Vec<GroupSpan>,
    pub what: BodyKind,
    pub length: u64,
}

/// Gets a body into its sinks; `teller` tells of all groups that are good.
pub(crate) async fn get<M>(
    bodies: Bodies,
    download: Arc<DownloadTask>,
    job: FetchJob,
    teller: &FetchReporter<M>,
) -> FetchOutcome {
    let response = match bodies.chunk(reqwest::Method::GET, &job.ticket).send().await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%error, "a GET broke");
            return FetchOutcome::Cut;
        }
    };
    if !response.status().is_success() {
        return refused(response).await;
    }
    let done = match job.what {
        BodyKind::Bytes => {
            receive(paced(response.bytes_stream(), bodies.buckets.down), download, job, teller)
                .await
        }
        BodyKind::Hashes => compare(response, download, job, teller).await,
    };
    done.unwrap_or_else(|error| FetchOutcome::LocalFailure { message: local_failure(&error) })
}

async fn refused(response: reqwest::Response) -> FetchOutcome {
    let seconds = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let retry_after_ms = seconds.map(|seconds| seconds.saturating_mul(1_000));
    let code =
        http::answer::<HttpError>(response).await.map_or(FailureCode::Busy, |error| error.code);
    FetchOutcome::Refused { code, retry_after_ms }
}

/// The list of a file's group hashes.
async fn compare<M>(
    response: reqwest::Response,
    download: Arc<DownloadTask>,
    job: FetchJob,
    teller: &FetchReporter<M>,
) -> io::Result<FetchOutcome> {
    let Some(file_id) =
        job.pieces.first().map(|piece| piece.file_id).filter(|_| job.length <= MAX_RUN_BYTES)
    else {
        return Ok(FetchOutcome::Cut);
    };
    let Some(list) = http::whole(response, job.length).await else { return Ok(FetchOutcome::Cut) };
    match download.compare(file_id, &list)? {
        Some(groups) => {
            teller.tell(Fetched::Rejected { file_id, groups }).await;
            Ok(FetchOutcome::Complete)
        }
        None => Ok(FetchOutcome::Cut),
    }
}

async fn receive<M>(
    mut stream: BoxStream<'static, reqwest::Result<Bytes>>,
    download: Arc<DownloadTask>,
    job: FetchJob,
    teller: &FetchReporter<M>,
) -> io::Result<FetchOutcome> {
    let mut cursor = BodyCursor::new(&download, job.pieces);
    let (mut writer, mut block, mut news) =
        (Writer::new(download), WriteBlock::default(), StoredGroups::new(teller));
    loop {
        let next = stream.next().await;
        // Behind what was asked for nothing is read.
        let ended = !matches!(next, Some(Ok(_))) || cursor.is_done();
        let mut bytes = next.and_then(Result::ok).unwrap_or_default();
        while !(bytes.is_empty() || cursor.is_done()) || (ended && !block.is_empty()) {
            cursor.fill(&mut bytes, &mut block);
            if !ended && !block.is_full() {
                break;
            }
            // This blocks, as it may on a thread of its own; what comes meanwhile waits in the
            // socket.
            let written = writer.write(&block);
            news.add(&block, written?);
            block.clear();
            if news.is_due() {
                let stored = news.take();
                teller.tell(stored).await;
            }
        }
        if ended {
            break;
        }
    }
    news.end().await;
    Ok(if cursor.is_done() { FetchOutcome::Complete } else { FetchOutcome::Cut })
}

/// Groups that are stored and not told: to tell of each costs more than to write it.
struct StoredGroups<'t, M> {
    teller: &'t FetchReporter<M>,
    pieces: Vec<GroupSpan>,
    bytes: usize,
    since: Instant,
}

impl<'t, M> StoredGroups<'t, M> {
    fn new(teller: &'t FetchReporter<M>) -> Self {
        Self { teller, pieces: Vec::new(), bytes: 0, since: Instant::now() }
    }

    fn add(&mut self, block: &WriteBlock, stored: Vec<(FileId, u32)>) {
        self.bytes += block.data.len();
        for (file_id, group) in stored {
            match self.pieces.last_mut() {
                Some(last) if last.file_id == file_id && last.groups.end() == group => {
                    last.groups.count += 1
                }
                _ => self.pieces.push(GroupSpan::new(file_id, group, 1)),
            }
        }
    }

    fn is_due(&self) -> bool {
        !self.pieces.is_empty()
            && (self.bytes >= REPORT_BYTES || self.since.elapsed() >= REPORT_INTERVAL)
    }

    fn take(&mut self) -> Fetched {
        (self.bytes, self.since) = (0, Instant::now());
        Fetched::Stored { pieces: std::mem::take(&mut self.pieces) }
    }

    /// The last ones.
    async fn end(mut self) {
        if !self.pieces.is_empty() {
            let stored = self.take();
            self.teller.tell(stored).await;
        }
    }
}

impl<M> Drop for StoredGroups<'_, M> {
    /// A fetch that is called off (a pause) has stored what it has stored. In a queue that is full
    /// these travel again.
    fn drop(&mut self) {
        if !self.pieces.is_empty() {
            let stored = self.take();
            let _ = self.teller.to.try_send((self.teller.wrap)(stored));
        }
    }
}

/// Where in the body the next byte belongs.
struct BodyCursor {
    /// The next one last, with how its file divides.
    pieces: Vec<(GroupSpan, Groups)>,
    /// Bytes taken of the first group of the last piece.
    taken: u64,
}

impl BodyCursor {
    fn new(download: &DownloadTask, pieces: Vec<GroupSpan>) -> Self {
        let known =
            |piece: GroupSpan| download.groups_of(piece.file_id).map(|groups| (piece, groups));
        let mut pieces: Vec<_> = pieces.into_iter().filter_map(known).collect();
        pieces.reverse();
        Self { pieces, taken: 0 }
    }

    fn is_done(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Moves bytes into the block until one of them is at its end.
    fn fill(&mut self, bytes: &mut Bytes, block: &mut WriteBlock) {
        while let Some((piece, groups)) = self.pieces.last_mut() {
            let group = piece.groups.first;
            let count =
                (groups.len(group) - self.taken).min(bytes.len() as u64).min(block.room() as u64);
            if count == 0 {
                return;
            }
            let offset = groups.offset(group) + self.taken;
            self.taken += count;
            let last = self.taken == groups.len(group);
            block.push(
                bytes.split_to(count as usize),
                GroupSlice { file_id: piece.file_id, group, offset, count: 0, last },
            );
            if last {
                self.taken = 0;
                piece.groups = GroupRange::new(group + 1, piece.groups.count - 1);
                if piece.groups.count == 0 {
                    self.pieces.pop();
                }
            }
        }
    }
}

/// Consecutive bytes of one group.
struct GroupSlice {
    file_id: FileId,
    group: u32,
    offset: u64,
    count: usize,
    /// Ends the group.
    last: bool,
}

/// Bytes on their way to the disk.
struct WriteBlock {
    data: BytesMut,
    cuts: Vec<GroupSlice>,
}

impl Default for WriteBlock {
    fn default() -> Self {
        Self { data: BytesMut::with_capacity(BLOCK_BYTES), cuts: Vec::new() }
    }
}

impl WriteBlock {
    fn room(&self) -> usize {
        BLOCK_BYTES - self.data.len().min(BLOCK_BYTES)
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    fn clear(&mut self) {
        self.data.clear();
        self.cuts.clear();
    }

    fn push(&mut self, bytes: Bytes, cut: GroupSlice) {
        self.data.extend_from_slice(&bytes);
        match self.cuts.last_mut() {
            Some(before)
                if (before.file_id, before.group) == (cut.file_id, cut.group) && !before.last =>
            {
                before.count += bytes.len();
                before.last = cut.last;
            }
            _ => self.cuts.push(GroupSlice { count: bytes.len(), ..cut }),
        }
    }
}

/// Hashes and writes; knows the group it is in.
struct Writer {
    download: Arc<DownloadTask>,
    group: Option<OpenGroup>,
    /// The file that is open; small ones come many to a body.
    file: Option<(FileId, Option<Arc<OpenPart>>)>,
}

struct OpenGroup {
    at: (FileId, u32),
    hasher: GroupHasher,
    /// Bytes of it so far; they do not count when the group stays a part.
    count: u64,
    /// For a reader in order, the bytes themselves.
    kept: Vec<Bytes>,
}

impl Writer {
    fn new(download: Arc<DownloadTask>) -> Self {
        Self { download, group: None, file: None }
    }

    /// The groups that are whole now.
    fn write(&mut self, block: &WriteBlock) -> io::Result<Vec<(FileId, u32)>> {
        let (mut stored, mut start) = (Vec::new(), 0);
        for cut in &block.cuts {
            let bytes = &block.data[start..start + cut.count];
            start += cut.count;
            if self.write_cut(cut, bytes)? {
                stored.push((cut.file_id, cut.group));
            }
        }
        Ok(stored)
    }

    /// Whether the group is whole now.
    fn write_cut(&mut self, cut: &GroupSlice, bytes: &[u8]) -> io::Result<bool> {
        let open = self.open(cut.file_id)?;
        if self.group.as_ref().is_none_or(|group| group.at != (cut.file_id, cut.group)) {
            let groups = self.download.groups_of(cut.file_id).ok_or(io::ErrorKind::NotFound)?;
            let hasher = groups.hasher(cut.group);
            self.group = Some(OpenGroup {
                at: (cut.file_id, cut.group),
                hasher,
                count: 0,
                kept: Vec::new(),
            });
        }
        let Some(group) = &mut self.group else { return Ok(false) };
        match &open {
            Some(open) => open.write(bytes, cut.offset)?,
            None => group.kept.push(Bytes::copy_from_slice(bytes)),
        }
        group.hasher.update(bytes);
        group.count += bytes.len() as u64;
        self.download.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if !cut.last {
            return Ok(false);
        }
        self.close_group(open.as_deref())?;
        Ok(true)
    }

    fn close_group(&mut self, open: Option<&OpenPart>) -> io::Result<()> {
        let Some(OpenGroup { at: (file_id, group), hasher, kept, count }) = self.group.take()
        else {
            return Ok(());
        };
        let value = hasher.finish();
        let new = match (&self.download.destination, open) {
            (Destination::Files { sinks, .. }, Some(open)) => {
                let sink = sinks.get(&file_id).ok_or(io::ErrorKind::NotFound)?;
                sink.mark(open, group, value)?
            }
            (Destination::Reader(ordered), _) => ordered.push(group, value, kept)?,
            (Destination::Files { .. }, None) => false,
        };
        if !new {
            self.download.received.fetch_sub(count, Ordering::Relaxed);
        }
        Ok(())
    }

    fn open(&mut self, file_id: FileId) -> io::Result<Option<Arc<OpenPart>>> {
        if let Some((_, open)) = self.file.as_ref().filter(|(id, _)| *id == file_id) {
            return Ok(open.clone());
        }
        let open = self.download.open(file_id)?;
        self.file = Some((file_id, open.clone()));
        Ok(open)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            self.download.received.fetch_sub(group.count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::task::{DownloadPlan, WantedDownload};
    use lanyard_protocol::{EntryKind, FileEntry, Instance};

    fn entry(n: u8, size: u64) -> FileEntry {
        FileEntry {
            public_id: "00000001-0000-8000-8000-000000000001".parse().unwrap(),
            instance: Instance([1; 16]),
            file_id: format!("00000002-0000-8000-8000-0000000000{n:02x}").parse().unwrap(),
            path: format!("f{n}"),
            size,
            modified_ms: 1,
            media_type: String::new(),
            kind: EntryKind::File,
            group_log: lanyard_protocol::group::group_log(size),
            root: None,
        }
    }

    /// R10: said before a byte is asked for, and in words.
    #[test]
    fn more_than_the_disk_has_room_for_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let most = lanyard_protocol::limits::MAX_FILE_BYTES;
        let entries = (0..200).map(|n| entry(n, most));
        let wanted =
            entries.map(|entry| WantedDownload { as_path: entry.path.clone(), entry }).collect();
        let plan = DownloadPlan::below(dir.path(), wanted);
        if cfg!(unix) {
            let said = local_failure(&plan.err().expect("200 TiB fit nowhere"));
            assert!(said.contains("no room left") && said.contains("209715200.0 MiB"), "{said}");
        }
    }

    #[test]
    fn bytes_find_their_groups_however_they_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let entries = [entry(1, 5), entry(2, 600_000), entry(3, 1)];
        let wanted = entries
            .iter()
            .map(|e| WantedDownload { entry: e.clone(), as_path: e.path.clone() })
            .collect();
        let (_, download) = DownloadPlan::below(dir.path(), wanted).unwrap().downloads.remove(0);
        let download = Arc::new(download);
        let big: Vec<u8> = (0..600_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let pieces = vec![
            GroupSpan::new(entries[0].file_id, 0, 1),
            GroupSpan::new(entries[1].file_id, 1, 2),
            GroupSpan::new(entries[2].file_id, 0, 1),
        ];
        let body = [b"hello", &big[1 << 18..], b"x"].concat();
        let mut cursor = BodyCursor::new(&download, pieces);
        let (mut writer, mut block, mut stored) =
            (Writer::new(download.clone()), WriteBlock::default(), Vec::new());
        for part in body.chunks(100_003) {
            let mut bytes = Bytes::copy_from_slice(part);
            while !bytes.is_empty() {
                cursor.fill(&mut bytes, &mut block);
                stored.extend(writer.write(&block).unwrap());
                block.clear();
            }
        }
        assert!(cursor.is_done());
        let ids: Vec<(FileId, u32)> = stored;
        let [one, two, three] = entries.map(|e| e.file_id);
        assert_eq!(ids, [(one, 0), (two, 1), (two, 2), (three, 0)]);
        assert_eq!(download.received.load(Ordering::Relaxed), body.len() as u64);
        let saved = download.finish(one, None).unwrap();
        assert_eq!(std::fs::read(saved.saved_as.unwrap()).unwrap(), b"hello");
        assert!(download.finish(two, None).is_err(), "a group is missing");
    }
}
