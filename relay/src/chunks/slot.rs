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
use lanyard_protocol::{FailureCode, FileRef, Ticket};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::chunks::buffer_pool::PoolBuffer;
use crate::chunks::group_hashes::GroupVerdict;
use crate::state::RelayState;

/// How far a reader may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadMark {
    /// A device: what is received; a group's last byte is published only once the group has passed.
    Received,
    /// A link: what has passed; nobody checks behind a browser's own download.
    Passed,
}

/// What a look at the slot gives.
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
    /// What its one PUT comes with.
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

/// Takes the bytes of one PUT in order: collects, verifies, publishes.
pub(crate) struct SlotFiller {
    slot: Arc<SlotBuffer>,
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

impl SlotFiller {
    pub(crate) fn new(slot: Arc<SlotBuffer>) -> Self {
        let cursor = GroupCursor::at(&slot, 0, None);
        Self { slot, buffer: None, taken: 0, published: 0, cursor }
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
    pub(crate) fn push(&mut self, edge: &RelayState, mut bytes: &[u8]) -> Result<(), SlotError> {
        if bytes.len() as u64 > self.missing() {
            return Err(SlotError { code: FailureCode::BadMessage, culprit: None });
        }
        while !bytes.is_empty() {
            let missing = self.slot.length - self.taken;
            let buffer = self.buffer.get_or_insert_with(|| edge.pool.take(missing));
            let count = buffer.fill(bytes);
            let is_full = buffer.is_full();
            self.taken += count as u64;
            bytes = &bytes[count..];
            if is_full && self.missing() > 0 {
                self.flush(edge)?;
            }
        }
        Ok(())
    }

    /// Verifies and publishes what is collected so far: more may be long in coming.
    pub(crate) fn flush(&mut self, edge: &RelayState) -> Result<(), SlotError> {
        let segment = self.collected();
        if segment.is_empty() {
            return Ok(());
        }
        let passed = self.verify(edge, &segment)?;
        self.published += segment.len() as u64;
        self.slot.publish(segment, passed);
        Ok(())
    }

    /// Verifies the last segment without publishing it; [`SlotFiller::publish_last`] does that once
    /// the broker knows.
    pub(crate) fn finish(&mut self, edge: &RelayState) -> Result<LastSegment, SlotError> {
        let segment = self.collected();
        if self.slot.what == BodyKind::Hashes {
            return self.finish_hashes(edge, segment);
        }
        let passed = self.verify(edge, &segment)?;
        Ok(LastSegment { slot: self.slot.clone(), segment, passed })
    }

    fn collected(&mut self) -> Bytes {
        self.buffer.take().map(PoolBuffer::freeze).unwrap_or_default()
    }

    /// A list of values is checked as a whole; it is small enough to be one segment or a few.
    fn finish_hashes(
        &mut self,
        edge: &RelayState,
        segment: Bytes,
    ) -> Result<LastSegment, SlotError> {
        let Some(piece) = self.slot.pieces.first() else {
            return Err(SlotError { code: FailureCode::Busy, culprit: None });
        };
        let mut list = Vec::with_capacity(self.slot.length as usize);
        for (_, bytes) in &self.slot.inner.lock().segments {
            list.extend_from_slice(bytes);
        }
        list.extend_from_slice(&segment);
        let (is_right, lost) = edge.hashes.accept_list(piece, &list);
        edge.lists_lost(lost);
        if !is_right {
            return Err(SlotError { code: FailureCode::BadBytes, culprit: Some(piece.file) });
        }
        Ok(LastSegment { slot: self.slot.clone(), segment, passed: self.slot.length })
    }

    /// Hashes a segment group by group; gives the end of the last group that passed.
    fn verify(&mut self, edge: &RelayState, segment: &[u8]) -> Result<u64, SlotError> {
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
                self.group_done(edge)?;
                passed = position;
            }
        }
        Ok(passed)
    }

    fn group_done(&mut self, edge: &RelayState) -> Result<(), SlotError> {
        let Some(done) = self.cursor.take() else { return Ok(()) };
        let piece = &self.slot.pieces[done.piece];
        let value = done.hasher.finish();
        let (verdict, lost) = edge.hashes.check(piece, done.group, value);
        edge.lists_lost(lost);
        self.cursor = GroupCursor::at(&self.slot, done.piece, Some(done.group + 1));
        match verdict {
            GroupVerdict::Good => Ok(()),
            GroupVerdict::Complete(root) => {
                edge.root_known(piece.file, root);
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
