//! One PUT: the groups that a ticket names, read in blocks as the relay takes them, never more than
//! two in memory.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::Stream;
use lanyard_protocol::group::Groups;
use lanyard_protocol::session_key::Signer;
use lanyard_protocol::{FileId, GroupSpan, Ticket};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH};
use reqwest::{Method, RequestBuilder};

use crate::rate_limit::{Buckets, paced};
use crate::share::block_pool::{BlockPool, PooledBlock};
use crate::share::library::{self, Library, LibraryFile, ReadError};

/// Where bodies go and come from.
#[derive(Debug, Clone)]
pub(crate) struct Bodies {
    pub http: reqwest::Client,
    /// `http://host:port`.
    pub base: String,
    /// Proves each request with the session's key.
    pub signer: Arc<Signer>,
    pub buckets: Buckets,
    pub blocks: Arc<BlockPool>,
}

impl Bodies {
    /// A request for the body of a ticket, proven.
    pub(crate) fn chunk(&self, method: Method, ticket: &Ticket) -> RequestBuilder {
        let target = format!("/chunks/{}", ticket.to_hex());
        let authorization = self.signer.authorize(method.as_str(), &target);
        self.http
            .request(method, self.base.clone() + &target)
            .header(AUTHORIZATION, authorization.to_string())
    }
}

/// How a PUT ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// The relay has it, or said no; it knows.
    Answered,
    /// The connection broke.
    Broken,
    /// A file is not what was listed, or cannot be read; this was told.
    Unreadable,
}

/// Hears that a file cannot be read as listed, and why; `None`: it is offered no longer. Called at
/// once: the relay cancels a broken PUT, and whoever waits for its end with it.
pub(crate) type Unreadable = Box<dyn Fn(FileId, Option<&ReadError>) + Send>;

/// Sends the groups of `pieces` to the relay.
pub(crate) async fn put(
    bodies: Bodies,
    library: Arc<Library>,
    ticket: Ticket,
    (pieces, length): (Vec<GroupSpan>, u64),
    unreadable: Unreadable,
) -> Uploaded {
    let mut spans = Vec::new();
    for piece in pieces {
        let Some(file) = library.get(piece.file_id) else {
            unreadable(piece.file_id, None);
            return Uploaded::Unreadable;
        };
        spans.push(FileSpan::new(piece, file));
    }
    spans.reverse();
    let stopped = Arc::new(AtomicBool::new(false));
    let (blocks, stopping) = (bodies.blocks.clone(), stopped.clone());
    let reader = SpanReader { library, spans, open: None, blocks, stopped: stopping, unreadable };
    let request = bodies
        .chunk(Method::PUT, &ticket)
        .header(CONTENT_LENGTH, length)
        .body(reqwest::Body::wrap_stream(paced(reader.blocks(), bodies.buckets.up)));
    let answer = request.send().await;
    match answer {
        _ if stopped.load(Ordering::Relaxed) => Uploaded::Unreadable,
        Ok(_) => Uploaded::Answered,
        Err(error) => {
            tracing::debug!(%error, "a PUT broke");
            Uploaded::Broken
        }
    }
}

/// Consecutive bytes of one file.
#[derive(Debug)]
struct FileSpan {
    file_id: FileId,
    file: LibraryFile,
    offset: u64,
    end: u64,
}

impl FileSpan {
    fn new(piece: GroupSpan, file: LibraryFile) -> Self {
        let groups = Groups::of(file.size);
        let offset = groups.offset(piece.groups.first);
        let end = offset + groups.span(piece.groups.first, piece.groups.count);
        Self { file_id: piece.file_id, file, offset, end }
    }
}

/// Reads spans one after the other.
struct SpanReader {
    library: Arc<Library>,
    /// The next one last.
    spans: Vec<FileSpan>,
    /// The file of the present span.
    open: Option<File>,
    blocks: Arc<BlockPool>,
    /// It ended early by itself.
    stopped: Arc<AtomicBool>,
    unreadable: Unreadable,
}

impl SpanReader {
    fn blocks(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures_util::stream::try_unfold(self, |mut reader| async move {
            if reader.spans.is_empty() {
                return Ok(None);
            }
            let (reader, block) = tokio::task::spawn_blocking(move || {
                let block = reader.block();
                (reader, block)
            })
            .await
            .map_err(io::Error::other)?;
            Ok(Some((block?, reader)))
        })
    }

    /// The next block; it may reach over several small files.
    fn block(&mut self) -> io::Result<Bytes> {
        let mut block = self.blocks.take();
        while block.room() > 0 {
            let Some(span) = self.spans.last() else { break };
            let file_id = span.file_id;
            if let Err(error) = self.read_into(&mut block) {
                self.stopped.store(true, Ordering::Relaxed);
                (self.unreadable)(file_id, Some(&error));
                return Err(io::Error::other(error));
            }
        }
        Ok(Bytes::from_owner(block))
    }

    /// Reads on in the present span. Its last byte is handed out only when the file is still the
    /// listed version.
    fn read_into(&mut self, block: &mut PooledBlock) -> Result<(), ReadError> {
        let Some(span) = self.spans.last_mut() else { return Ok(()) };
        let handle = match self.open.take() {
            Some(handle) => handle,
            None => self.library.open(span.file_id, &span.file)?,
        };
        let count = (span.end - span.offset).min(block.room() as u64);
        library::read_exact_at(&span.file, &handle, block.next(count as usize), span.offset)?;
        span.offset += count;
        if span.offset == span.end {
            self.library.check(span.file_id, &span.file, &handle)?;
            self.spans.pop();
        } else {
            self.open = Some(handle);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::block_pool::BLOCK_BYTES;
    use crate::share::shared_root::SharedRoots;
    use crate::share::walk::walk;
    use futures_util::TryStreamExt;
    use lanyard_protocol::FailureCode;

    use std::sync::Mutex;

    type Told = Arc<Mutex<Option<(FileId, FailureCode)>>>;

    fn reader(library: &Arc<Library>, pieces: &[(FileId, u32, u32)]) -> (SpanReader, Told) {
        let span = |(id, first, count): &(FileId, u32, u32)| {
            FileSpan::new(GroupSpan::new(*id, *first, *count), library.get(*id).unwrap())
        };
        let mut spans: Vec<FileSpan> = pieces.iter().map(span).collect();
        spans.reverse();
        let told = Arc::new(Mutex::new(None));
        let unreadable: Unreadable = {
            let told = told.clone();
            Box::new(move |file_id, error| {
                *told.lock().unwrap() = error.map(|error| (file_id, error.code()))
            })
        };
        let (library, blocks, stopped) = (library.clone(), Arc::default(), Arc::default());
        (SpanReader { library, spans, open: None, blocks, stopped, unreadable }, told)
    }

    fn shared(dir: &std::path::Path, files: &[(&str, Vec<u8>)]) -> (Arc<Library>, Vec<FileId>) {
        let library = Arc::new(Library::new(&[1; 32], Arc::default()));
        let add = |(name, bytes): &(&str, Vec<u8>)| {
            std::fs::write(dir.join(name), bytes).unwrap();
            library
                .add(walk(&[dir.join(name)], &SharedRoots::default()).unwrap().files.remove(0))
                .file_id
        };
        let ids = files.iter().map(add).collect();
        (library, ids)
    }

    #[tokio::test]
    async fn a_body_is_the_named_groups_in_that_order() {
        let dir = tempfile::tempdir().unwrap();
        let big: Vec<u8> =
            (0..1_500_000u32).flat_map(|n| n.to_le_bytes()).take(1_500_000).collect();
        let (library, ids) =
            shared(dir.path(), &[("big", big.clone()), ("small", b"hello".to_vec())]);
        let (reader, told) = reader(&library, &[(ids[1], 0, 1), (ids[0], 2, 3), (ids[0], 0, 1)]);
        let blocks: Vec<Bytes> = reader.blocks().try_collect().await.unwrap();
        let group = 1 << 18;
        let expected = [&b"hello"[..], &big[2 * group..5 * group], &big[..group]].concat();
        assert_eq!(blocks.concat(), expected);
        assert!(blocks.iter().all(|block| block.len() <= BLOCK_BYTES));
        assert_eq!(*told.lock().unwrap(), None);
    }

    #[tokio::test]
    async fn the_last_byte_of_a_changed_file_is_never_sent() {
        let dir = tempfile::tempdir().unwrap();
        let (library, ids) = shared(dir.path(), &[("a", vec![1; 1_200_000])]);
        let (reader, told) = reader(&library, &[(ids[0], 0, 5)]);
        let mut blocks = Box::pin(reader.blocks());
        let first = blocks.try_next().await.unwrap().unwrap();
        assert_eq!(first.len(), BLOCK_BYTES);
        std::fs::write(dir.path().join("a"), vec![2; 1_200_001]).unwrap();
        assert!(blocks.try_next().await.is_err());
        assert_eq!(*told.lock().unwrap(), Some((ids[0], FailureCode::FileChanged)));
    }
}
