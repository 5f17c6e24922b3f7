//! One GET: bytes as they come, hashed and written in blocks beside the network, each group noted when it is whole.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use lanyard_hub::peer::FetchOutcome;
use lanyard_protocol::chunk::What;
use lanyard_protocol::group::{GroupHasher, Groups};
use lanyard_protocol::http::HttpError;
use lanyard_protocol::limits::MAX_RUN_BYTES;
use lanyard_protocol::{FailureCode, FileId, GroupRange, Piece, Ticket};
use reqwest::header::{AUTHORIZATION, RETRY_AFTER};
use tokio::sync::oneshot;

use crate::download::{Destination, Download};
use crate::limit::paced;
use crate::sink::OpenPart;
use crate::upload::Bodies;
use crate::writing::WriterThread;

/// Bytes that are hashed and written at once. Two such blocks a GET: one is filled while the other is written.
const BLOCK_BYTES: usize = 256 << 10;

/// What a fetch tells on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    Stored { file_id: FileId, groups: GroupRange },
    Rejected { file_id: FileId, groups: Vec<GroupRange> },
}

/// One body to get.
#[derive(Debug, Clone)]
pub struct FetchJob {
    pub ticket: Ticket,
    pub pieces: Vec<Piece>,
    pub what: What,
    pub length: u64,
}

/// Gets a body into its sinks; `told` hears of each group that is good.
pub async fn get<F, T>(bodies: Bodies, download: Arc<Download>, job: FetchJob, told: F) -> FetchOutcome
where
    F: Fn(Fetched) -> T,
    T: Future<Output = ()>,
{
    let request = bodies.http.get(bodies.chunk_url(&job.ticket)).header(AUTHORIZATION, bodies.authorization());
    let response = match request.send().await {
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
        What::Bytes => receive(paced(response.bytes_stream(), bodies.buckets.down), download, job, told).await,
        What::Values => compare(response, download, job, told).await,
    };
    done.unwrap_or_else(|error| FetchOutcome::LocalFailure { message: local_failure(&error) })
}

/// A sentence that a person can act on.
pub fn local_failure(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "there is no room left on this disk; what came is kept, and the same command goes on from there".into()
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("this folder cannot be written to ({error})")
        }
        io::ErrorKind::BrokenPipe => "whoever read the bytes stopped reading".into(),
        _ => error.to_string(),
    }
}

async fn refused(response: reqwest::Response) -> FetchOutcome {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let retry_after_ms = seconds.map(|seconds| seconds.saturating_mul(1_000));
    let code = match response.json::<HttpError>().await {
        Ok(error) => error.code,
        Err(_) => FailureCode::Busy,
    };
    FetchOutcome::Refused { code, retry_after_ms }
}

/// The list of a file's group values.
async fn compare<F, T>(
    response: reqwest::Response,
    download: Arc<Download>,
    job: FetchJob,
    told: F,
) -> io::Result<FetchOutcome>
where
    F: Fn(Fetched) -> T,
    T: Future<Output = ()>,
{
    let Some(file_id) = job.pieces.first().map(|piece| piece.file_id).filter(|_| job.length <= MAX_RUN_BYTES) else {
        return Ok(FetchOutcome::Cut);
    };
    let Ok(list) = response.bytes().await else { return Ok(FetchOutcome::Cut) };
    let compared = tokio::task::spawn_blocking(move || download.compare(file_id, &list)).await;
    match compared.map_err(io::Error::other)?? {
        Some(groups) => {
            told(Fetched::Rejected { file_id, groups }).await;
            Ok(FetchOutcome::Complete)
        }
        None => Ok(FetchOutcome::Cut),
    }
}

type Written = (Writer, Block, io::Result<Vec<(FileId, u32)>>);

async fn receive<F, T>(
    mut stream: BoxStream<'static, reqwest::Result<Bytes>>,
    download: Arc<Download>,
    job: FetchJob,
    told: F,
) -> io::Result<FetchOutcome>
where
    F: Fn(Fetched) -> T,
    T: Future<Output = ()>,
{
    let mut cursor = Cursor::new(&download, job.pieces);
    let transfer = download.clone();
    let thread = transfer.writer.get_or_init(WriterThread::start);
    let (mut block, mut spare) = (Block::default(), Some((Writer::new(download), Block::default())));
    let mut writing: Option<oneshot::Receiver<Written>> = None;
    loop {
        let next = stream.next().await;
        let ended = !matches!(next, Some(Ok(_)));
        let mut bytes = next.and_then(Result::ok).unwrap_or_default();
        while !bytes.is_empty() || (ended && !block.is_empty()) {
            cursor.fill(&mut bytes, &mut block);
            if !ended && !block.is_full() {
                break;
            }
            if let Some(task) = writing.take() {
                spare = Some(settle(task, &told).await?);
            }
            let Some((writer, empty)) = spare.take() else { break };
            let full = std::mem::replace(&mut block, empty);
            writing = Some(thread.run(move || writer.write(full)).await);
        }
        if ended {
            break;
        }
    }
    if let Some(task) = writing {
        settle(task, &told).await?;
    }
    Ok(if cursor.is_done() { FetchOutcome::Complete } else { FetchOutcome::Cut })
}

/// Waits for a block to be written and tells of its groups.
async fn settle<F, T>(task: oneshot::Receiver<Written>, told: &F) -> io::Result<(Writer, Block)>
where
    F: Fn(Fetched) -> T,
    T: Future<Output = ()>,
{
    let (writer, block, stored) = task.await.map_err(io::Error::other)?;
    for (file_id, group) in stored? {
        told(Fetched::Stored { file_id, groups: GroupRange::new(group, 1) }).await;
    }
    Ok((writer, block))
}

/// Where in the body the next byte belongs.
struct Cursor {
    /// The next one last, with how its file divides.
    pieces: Vec<(Piece, Groups)>,
    /// Bytes taken of the first group of the last piece.
    taken: u64,
}

impl Cursor {
    fn new(download: &Download, pieces: Vec<Piece>) -> Self {
        let known = |piece: Piece| download.groups_of(piece.file_id).map(|groups| (piece, groups));
        let mut pieces: Vec<_> = pieces.into_iter().filter_map(known).collect();
        pieces.reverse();
        Self { pieces, taken: 0 }
    }

    fn is_done(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Moves bytes into the block until one of them is at its end.
    fn fill(&mut self, bytes: &mut Bytes, block: &mut Block) {
        while let Some((piece, groups)) = self.pieces.last_mut() {
            let group = piece.groups.first;
            let count = (groups.len(group) - self.taken).min(bytes.len() as u64).min(block.room() as u64);
            if count == 0 {
                return;
            }
            let offset = groups.offset(group) + self.taken;
            self.taken += count;
            let last = self.taken == groups.len(group);
            block.push(bytes.split_to(count as usize), Cut { file_id: piece.file_id, group, offset, count: 0, last });
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
struct Cut {
    file_id: FileId,
    group: u32,
    offset: u64,
    count: usize,
    /// Ends the group.
    last: bool,
}

/// Bytes on their way to the disk.
struct Block {
    data: BytesMut,
    cuts: Vec<Cut>,
}

impl Default for Block {
    fn default() -> Self {
        Self { data: BytesMut::with_capacity(BLOCK_BYTES), cuts: Vec::new() }
    }
}

impl Block {
    fn room(&self) -> usize {
        BLOCK_BYTES - self.data.len().min(BLOCK_BYTES)
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    fn push(&mut self, bytes: Bytes, cut: Cut) {
        self.data.extend_from_slice(&bytes);
        match self.cuts.last_mut() {
            Some(before) if (before.file_id, before.group) == (cut.file_id, cut.group) && !before.last => {
                before.count += bytes.len();
                before.last = cut.last;
            }
            _ => self.cuts.push(Cut { count: bytes.len(), ..cut }),
        }
    }
}

/// Hashes and writes; knows the group it is in.
struct Writer {
    download: Arc<Download>,
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
    fn new(download: Arc<Download>) -> Self {
        Self { download, group: None, file: None }
    }

    fn write(mut self, mut block: Block) -> Written {
        let stored = self.write_cuts(&block);
        block.data.clear();
        block.cuts.clear();
        (self, block, stored)
    }

    fn write_cuts(&mut self, block: &Block) -> io::Result<Vec<(FileId, u32)>> {
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
    fn write_cut(&mut self, cut: &Cut, bytes: &[u8]) -> io::Result<bool> {
        let open = self.open(cut.file_id)?;
        if self.group.as_ref().is_none_or(|group| group.at != (cut.file_id, cut.group)) {
            let groups = self.download.groups_of(cut.file_id).ok_or(io::ErrorKind::NotFound)?;
            let hasher = groups.hasher(cut.group);
            self.group = Some(OpenGroup { at: (cut.file_id, cut.group), hasher, count: 0, kept: Vec::new() });
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
        let Some(OpenGroup { at: (file_id, group), hasher, kept, count }) = self.group.take() else { return Ok(()) };
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
    use crate::download::{Plan, Wanted};
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

    #[test]
    fn bytes_find_their_groups_however_they_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let entries = [entry(1, 5), entry(2, 600_000), entry(3, 1)];
        let wanted = entries.iter().map(|e| Wanted { entry: e.clone(), as_path: e.path.clone() }).collect();
        let (_, download) = Plan::below(dir.path(), wanted).unwrap().downloads.remove(0);
        let download = Arc::new(download);
        let big: Vec<u8> = (0..600_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let pieces = vec![
            Piece::new(entries[0].file_id, 0, 1),
            Piece::new(entries[1].file_id, 1, 2),
            Piece::new(entries[2].file_id, 0, 1),
        ];
        let body = [b"hello", &big[1 << 18..], b"x"].concat();
        let mut cursor = Cursor::new(&download, pieces);
        let (mut writer, mut block, mut stored) = (Writer::new(download.clone()), Block::default(), Vec::new());
        for part in body.chunks(100_003) {
            let mut bytes = Bytes::copy_from_slice(part);
            while !bytes.is_empty() {
                cursor.fill(&mut bytes, &mut block);
                let (again, empty, groups) = writer.write(block);
                (writer, block) = (again, empty);
                stored.extend(groups.unwrap());
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
