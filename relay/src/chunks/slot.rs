//! The bytes of one slot: what was received, what has passed verification, and who reads. Filled by
//! one PUT, read by any number of GETs and links; the broker decides when it begins and ends.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use lanyard_hub::broker::{ReaderId, SlotId, SlotSpan};
use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::group::{GroupHasher, Groups};
use lanyard_protocol::{FailureCode, FileRef, Root, Ticket};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::chunks::buffer_pool::{BufferPool, PoolBuffer};
use crate::chunks::group_hashes::{GroupHashes, GroupVerdict, LostLists};

/// How far a reader may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadMark {
    /// A device: what is received; a group's last byte is published only once the group has passed.
    Received,
    /// A link: what has passed; nobody checks behind a browser's own download.
    Passed,
}

/// The result of reading from a slot.
#[derive(Debug)]
pub(crate) enum SlotRead {
    Bytes(Bytes),
    /// Nothing yet: wait for the slot to change.
    Wait,
    Failed(FailureCode),
}

/// How one reader's body does.
#[derive(Debug, Default)]
pub(crate) struct ReaderMeter {
    /// Bytes handed to the transport.
    pub delivered: AtomicU64,
    /// The transport would take bytes that are not there: the reader is not to blame.
    pub starved: AtomicBool,
    /// A link's slice behind the bytes that its response waits for: it is not slow, but it gives
    /// way when room is short.
    pub held: AtomicBool,
    /// Why the broker ended the body; the first reason stays.
    cut: OnceLock<FailureCode>,
}

impl ReaderMeter {
    fn cut(&self) -> Option<FailureCode> {
        self.cut.get().copied()
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut().is_some()
    }

    fn set_cut(&self, code: FailureCode) {
        self.cut.get_or_init(|| code);
    }
}

#[derive(Debug, Default)]
struct SlotState {
    /// Start of each segment in the body, and its bytes; together they are `0..received`.
    segments: Vec<(u64, Bytes)>,
    received: u64,
    passed: u64,
    failed: Option<FailureCode>,
    readers: HashMap<ReaderId, Arc<ReaderMeter>>,
}

#[derive(Debug)]
pub(crate) struct SlotBuffer {
    pub id: SlotId,
    pub what: BodyKind,
    pub pieces: Vec<SlotSpan>,
    pub length: u64,
    /// The ticket of its only PUT.
    pub put_ticket: Option<Ticket>,
    inner: Mutex<SlotState>,
    version: watch::Sender<u64>,
}

impl SlotBuffer {
    pub(crate) fn new(id: SlotId, what: BodyKind, pieces: Vec<SlotSpan>, length: u64) -> Self {
        Self {
            id,
            what,
            pieces,
            length,
            put_ticket: None,
            inner: Mutex::default(),
            version: watch::Sender::new(0),
        }
    }

    pub(crate) fn filled_by(self, ticket: Ticket) -> Self {
        Self { put_ticket: Some(ticket), ..self }
    }

    /// One that is full at once.
    pub(crate) fn full(id: SlotId, bytes: Bytes) -> Self {
        let slot = Self::new(id, BodyKind::Hashes, Vec::new(), bytes.len() as u64);
        slot.publish(bytes, slot.length);
        slot
    }

    /// Tells when there is more to read, or the slot ended.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn publish(&self, segment: Bytes, passed: u64) {
        let mut inner = self.inner.lock();
        let start = inner.received;
        inner.received += segment.len() as u64;
        inner.passed = inner.passed.max(passed);
        if inner.failed.is_none() && !segment.is_empty() {
            inner.segments.push((start, segment));
        }
        drop(inner);
        self.changed();
    }

    /// Ends it: bytes go at once, readers see `code` at their next look.
    pub(crate) fn fail(&self, code: FailureCode) {
        let mut inner = self.inner.lock();
        inner.failed.get_or_insert(code);
        inner.segments = Vec::new();
        drop(inner);
        self.changed();
    }

    pub(crate) fn failed(&self) -> Option<FailureCode> {
        self.inner.lock().failed
    }

    /// Returns why a reader has nothing more to expect.
    pub(crate) fn ended_for(&self, meter: &ReaderMeter) -> Option<FailureCode> {
        meter.cut().or_else(|| self.failed())
    }

    pub(crate) fn add_reader(&self, reader: ReaderId) -> Arc<ReaderMeter> {
        self.inner.lock().readers.entry(reader).or_default().clone()
    }

    pub(crate) fn remove_reader(&self, reader: ReaderId) {
        self.inner.lock().readers.remove(&reader);
    }

    pub(crate) fn cut_reader(&self, reader: ReaderId, code: FailureCode) {
        self.add_reader(reader).set_cut(code);
        self.changed();
    }

    pub(crate) fn readers(&self) -> Vec<(ReaderId, Arc<ReaderMeter>)> {
        self.inner.lock().readers.iter().map(|(id, meter)| (*id, meter.clone())).collect()
    }

    /// The next bytes of `range`, at most one segment.
    pub(crate) fn read(&self, range: Range<u64>, mark: ReadMark, meter: &ReaderMeter) -> SlotRead {
        if let Some(code) = meter.cut() {
            return SlotRead::Failed(code);
        }
        let inner = self.inner.lock();
        if let Some(code) = inner.failed {
            return SlotRead::Failed(code);
        }
        let limit = match mark {
            ReadMark::Received => inner.received,
            ReadMark::Passed => inner.passed,
        };
        if range.start >= limit {
            return SlotRead::Wait;
        }
        let at = inner.segments.partition_point(|(start, _)| *start <= range.start);
        let Some((start, bytes)) = at.checked_sub(1).and_then(|at| inner.segments.get(at)) else {
            return SlotRead::Failed(FailureCode::Busy);
        };
        let from = (range.start - start) as usize;
        let to = (range.end.min(limit) - start).min(bytes.len() as u64) as usize;
        SlotRead::Bytes(bytes.slice(from..to))
    }
}

/// Why a PUT's bytes were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotError {
    pub code: FailureCode,
    pub culprit: Option<FileRef>,
}

/// Facts about files that the groups of one PUT showed, for the broker.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Learnt {
    /// Roots of files whose last missing group passed.
    pub roots: Vec<(FileRef, Root)>,
    /// Files whose list of hashes gave way to newer tables.
    pub lost: LostLists,
}

/// Takes the bytes of one PUT in order: collects, verifies, publishes.
pub(crate) struct SlotFiller<'a> {
    slot: Arc<SlotBuffer>,
    hashes: &'a GroupHashes,
    pool: &'a Arc<BufferPool>,
    learnt: Learnt,
    buffer: Option<PoolBuffer>,
    /// Bytes published and in the buffer.
    taken: u64,
    published: u64,
    cursor: Option<GroupCursor>,
}

/// The group that the next byte belongs to.
struct GroupCursor {
    piece: usize,
    group: u32,
    /// Bytes of the group still to come.
    missing: u64,
    hasher: GroupHasher,
}

impl<'a> SlotFiller<'a> {
    pub(crate) fn new(
        slot: Arc<SlotBuffer>,
        hashes: &'a GroupHashes,
        pool: &'a Arc<BufferPool>,
    ) -> Self {
        let cursor = GroupCursor::at(&slot, 0, None);
        let learnt = Learnt::default();
        Self { slot, hashes, pool, learnt, buffer: None, taken: 0, published: 0, cursor }
    }

    /// Returns what the bytes taken since the last call showed. A failed step shows facts too.
    pub(crate) fn take_learnt(&mut self) -> Learnt {
        std::mem::take(&mut self.learnt)
    }

    /// Bytes still to come.
    pub(crate) fn missing(&self) -> u64 {
        self.slot.length - self.taken
    }

    pub(crate) fn has_unpublished(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.len() > 0)
    }

    /// Takes bytes; whole segments are verified and published on the way. The last one waits for
    /// [`SlotFiller::finish`].
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), SlotError> {
        if bytes.len() as u64 > self.missing() {
            return Err(SlotError { code: FailureCode::BadMessage, culprit: None });
        }
        while !bytes.is_empty() {
            let missing = self.slot.length - self.taken;
            let buffer = self.buffer.get_or_insert_with(|| self.pool.take(missing));
            let count = buffer.fill(bytes);
            let is_full = buffer.is_full();
            self.taken += count as u64;
            bytes = &bytes[count..];
            if is_full && self.missing() > 0 {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Verifies and publishes what is collected so far: more may be long in coming.
    pub(crate) fn flush(&mut self) -> Result<(), SlotError> {
        let segment = self.collected();
        if segment.is_empty() {
            return Ok(());
        }
        let passed = self.verify(&segment)?;
        self.published += segment.len() as u64;
        self.slot.publish(segment, passed);
        Ok(())
    }

    /// Verifies the last segment without publishing it; [`SlotFiller::publish_last`] does that once
    /// the broker knows.
    pub(crate) fn finish(&mut self) -> Result<LastSegment, SlotError> {
        let segment = self.collected();
        if self.slot.what == BodyKind::Hashes {
            return self.finish_hashes(segment);
        }
        let passed = self.verify(&segment)?;
        Ok(LastSegment { slot: self.slot.clone(), segment, passed })
    }

    fn collected(&mut self) -> Bytes {
        self.buffer.take().map(PoolBuffer::freeze).unwrap_or_default()
    }

    /// A list of values is checked as a whole; it is small enough to be one segment or a few.
    fn finish_hashes(&mut self, segment: Bytes) -> Result<LastSegment, SlotError> {
        let Some(piece) = self.slot.pieces.first() else {
            return Err(SlotError { code: FailureCode::Busy, culprit: None });
        };
        let mut list = Vec::with_capacity(self.slot.length as usize);
        for (_, bytes) in &self.slot.inner.lock().segments {
            list.extend_from_slice(bytes);
        }
        list.extend_from_slice(&segment);
        let (is_right, lost) = self.hashes.accept_list(piece, &list);
        self.learnt.lost.extend(lost);
        if !is_right {
            return Err(SlotError { code: FailureCode::BadBytes, culprit: Some(piece.file) });
        }
        Ok(LastSegment { slot: self.slot.clone(), segment, passed: self.slot.length })
    }

    /// Hashes a segment group by group; gives the end of the last group that passed.
    fn verify(&mut self, segment: &[u8]) -> Result<u64, SlotError> {
        if self.slot.what == BodyKind::Hashes {
            return Ok(0);
        }
        let mut rest = segment;
        let mut position = self.published;
        let mut passed = 0;
        while !rest.is_empty() {
            let Some(cursor) = &mut self.cursor else {
                return Err(SlotError { code: FailureCode::BadMessage, culprit: None });
            };
            let now = cursor.missing.min(rest.len() as u64) as usize;
            cursor.hasher.update(&rest[..now]);
            cursor.missing -= now as u64;
            rest = &rest[now..];
            position += now as u64;
            if cursor.missing == 0 {
                self.group_done()?;
                passed = position;
            }
        }
        Ok(passed)
    }

    fn group_done(&mut self) -> Result<(), SlotError> {
        let Some(done) = self.cursor.take() else { return Ok(()) };
        let piece = &self.slot.pieces[done.piece];
        let value = done.hasher.finish();
        let (verdict, lost) = self.hashes.check(piece, done.group, value);
        self.learnt.lost.extend(lost);
        self.cursor = GroupCursor::at(&self.slot, done.piece, Some(done.group + 1));
        match verdict {
            GroupVerdict::Good => Ok(()),
            GroupVerdict::Complete(root) => {
                self.learnt.roots.push((piece.file, root));
                Ok(())
            }
            GroupVerdict::Differs => {
                Err(SlotError { code: FailureCode::BadBytes, culprit: Some(piece.file) })
            }
            GroupVerdict::WrongRoot => {
                Err(SlotError { code: FailureCode::FileChanged, culprit: Some(piece.file) })
            }
        }
    }
}

impl GroupCursor {
    /// At group `group` of piece `piece`, or at the first group of the next piece.
    fn at(slot: &SlotBuffer, piece: usize, group: Option<u32>) -> Option<Self> {
        if slot.what == BodyKind::Hashes {
            return None;
        }
        let layout = slot.pieces.get(piece)?;
        let group = group.unwrap_or(layout.groups.first);
        if group >= layout.groups.end() {
            return GroupCursor::at(slot, piece + 1, None);
        }
        let groups = Groups::new(layout.size, layout.group_log);
        Some(Self { piece, group, missing: groups.len(group), hasher: groups.hasher(group) })
    }
}

/// The last verified bytes of a PUT, not yet readable.
pub(crate) struct LastSegment {
    slot: Arc<SlotBuffer>,
    segment: Bytes,
    passed: u64,
}

impl LastSegment {
    pub(crate) fn publish(self) {
        self.slot.publish(self.segment, self.passed);
    }
}

#[cfg(test)]
mod tests {
    use lanyard_protocol::GroupRange;
    use lanyard_protocol::group::GroupHash;
    use lanyard_protocol::identity::Keypair;

    use super::*;

    const SIZE: u64 = 600_000;

    fn bytes() -> Vec<u8> {
        (0..SIZE).map(|i| ((i * 31 + i / 251) % 256) as u8).collect()
    }

    fn span(file: u32) -> SlotSpan {
        let groups = Groups::of(SIZE);
        let file_id = format!("00000000-0000-4000-8000-{file:012x}").parse().unwrap();
        SlotSpan {
            file: FileRef { public_id: Keypair::from_seed(&[1; 32]).public_id(), file_id },
            size: SIZE,
            group_log: groups.group_log,
            groups: GroupRange::new(0, groups.count()),
            offset: 0,
            root: None,
        }
    }

    fn slot(file: u32) -> Arc<SlotBuffer> {
        Arc::new(SlotBuffer::new(SlotId(1), BodyKind::Bytes, vec![span(file)], SIZE))
    }

    fn fill(filler: &mut SlotFiller<'_>, bytes: &[u8]) -> Result<LastSegment, SlotError> {
        for part in bytes.chunks(10_007) {
            filler.push(part)?;
        }
        filler.finish()
    }

    #[test]
    fn the_root_is_learnt_once_and_before_the_last_byte_can_be_read() {
        let (hashes, pool) = (GroupHashes::new(usize::MAX), Arc::default());
        let slot = slot(1);
        let mut filler = SlotFiller::new(slot.clone(), &hashes, &pool);
        let last = fill(&mut filler, &bytes()).unwrap();
        let groups = Groups::of(SIZE);
        let all: Vec<GroupHash> = (0..groups.count())
            .map(|g| {
                groups.value(g, &bytes()[groups.offset(g) as usize..][..groups.len(g) as usize])
            })
            .collect();
        let root = groups.root(&all).unwrap();
        let learnt = Learnt { roots: vec![(span(1).file, root)], lost: vec![] };
        assert_eq!(filler.take_learnt(), learnt);
        assert_eq!(filler.take_learnt(), Learnt::default());
        let meter = ReaderMeter::default();
        let read = |at| slot.read(at..SIZE, ReadMark::Received, &meter);
        assert!(matches!(read(SIZE - 1), SlotRead::Wait));
        last.publish();
        assert!(
            matches!(read(SIZE - 1), SlotRead::Bytes(last) if last[..] == bytes()[bytes().len() - 1..])
        );
    }

    /// Else the broker would count on a list that is gone.
    #[test]
    fn a_body_that_fails_still_reports_the_lists_that_it_displaced() {
        // One table fits, two do not.
        let (hashes, pool) = (GroupHashes::new(2_000), Arc::default());
        let mut first = SlotFiller::new(slot(1), &hashes, &pool);
        fill(&mut first, &bytes()).unwrap().publish();
        assert_eq!(first.take_learnt().lost, []);
        // The whole of another file, and its first group again with a wrong byte.
        let first_group = Groups::of(SIZE).len(0);
        let repeated = SlotSpan { groups: GroupRange::new(0, 1), ..span(2) };
        let spans = vec![span(2), repeated];
        let slot = SlotBuffer::new(SlotId(2), BodyKind::Bytes, spans, SIZE + first_group);
        let mut body = bytes();
        body.extend_from_slice(&bytes()[..first_group as usize]);
        body[SIZE as usize] ^= 1;
        let mut second = SlotFiller::new(Arc::new(slot), &hashes, &pool);
        let error = fill(&mut second, &body).err();
        let culprit = Some(span(2).file);
        assert_eq!(error, Some(SlotError { code: FailureCode::BadBytes, culprit }));
        assert_eq!(second.take_learnt().lost, [span(1).file]);
    }
}
