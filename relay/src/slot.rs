//! The bytes of one slot: what was received, what has passed verification, and who reads. Filled by one PUT, read by any
//! number of GETs and links; the broker decides when it begins and ends.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use lanyard_hub::broker::{ReaderId, SlotId, SlotPiece};
use lanyard_protocol::chunk::What;
use lanyard_protocol::group::{GroupHasher, Groups};
use lanyard_protocol::{FailureCode, FileRef, Ticket};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::edge::Edge;
use crate::pins::Verdict;
use crate::pool::Buffer;

/// How far a reader may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A device: what is received; a group's last byte is published only once the group has passed.
    Received,
    /// A link: what has passed; nobody checks behind a browser's own download.
    Passed,
}

/// What a look at the slot gives.
#[derive(Debug)]
pub enum Read {
    Bytes(Bytes),
    /// Nothing yet: wait for the slot to change.
    Wait,
    Failed(FailureCode),
}

/// How one reader's body does.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes handed to the transport.
    pub delivered: AtomicU64,
    /// The transport would take bytes that are not there: the reader is not to blame.
    pub starved: AtomicBool,
    /// A link's slice behind the bytes that its response waits for: it is not slow, but it gives way when room is short.
    pub held: AtomicBool,
    /// Why the broker ended the body; the first reason stays.
    cut: OnceLock<FailureCode>,
}

impl Meter {
    fn cut(&self) -> Option<FailureCode> {
        self.cut.get().copied()
    }

    pub fn is_cut(&self) -> bool {
        self.cut().is_some()
    }

    fn set_cut(&self, code: FailureCode) {
        self.cut.get_or_init(|| code);
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Start of each segment in the body, and its bytes; together they are `0..received`.
    segments: Vec<(u64, Bytes)>,
    received: u64,
    passed: u64,
    failed: Option<FailureCode>,
    readers: HashMap<ReaderId, Arc<Meter>>,
}

#[derive(Debug)]
pub struct Slot {
    pub id: SlotId,
    pub what: What,
    pub pieces: Vec<SlotPiece>,
    pub length: u64,
    /// What its one PUT comes with.
    pub put_ticket: Option<Ticket>,
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

impl Slot {
    pub fn new(id: SlotId, what: What, pieces: Vec<SlotPiece>, length: u64) -> Self {
        Self { id, what, pieces, length, put_ticket: None, inner: Mutex::default(), version: watch::Sender::new(0) }
    }

    pub fn filled_by(self, ticket: Ticket) -> Self {
        Self { put_ticket: Some(ticket), ..self }
    }

    /// One that is full at once.
    pub fn full(id: SlotId, bytes: Bytes) -> Self {
        let slot = Self::new(id, What::Values, Vec::new(), bytes.len() as u64);
        slot.publish(bytes, slot.length);
        slot
    }

    /// Tells when there is more to read, or the slot ended.
    pub fn changes(&self) -> watch::Receiver<u64> {
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
    pub fn fail(&self, code: FailureCode) {
        let mut inner = self.inner.lock();
        inner.failed.get_or_insert(code);
        inner.segments = Vec::new();
        drop(inner);
        self.changed();
    }

    pub fn failed(&self) -> Option<FailureCode> {
        self.inner.lock().failed
    }

    /// Returns why a reader has nothing more to expect.
    pub fn ended_for(&self, meter: &Meter) -> Option<FailureCode> {
        meter.cut().or_else(|| self.failed())
    }

    pub fn add_reader(&self, reader: ReaderId) -> Arc<Meter> {
        self.inner.lock().readers.entry(reader).or_default().clone()
    }

    pub fn remove_reader(&self, reader: ReaderId) {
        self.inner.lock().readers.remove(&reader);
    }

    pub fn cut_reader(&self, reader: ReaderId, code: FailureCode) {
        self.add_reader(reader).set_cut(code);
        self.changed();
    }

    pub fn readers(&self) -> Vec<(ReaderId, Arc<Meter>)> {
        self.inner.lock().readers.iter().map(|(id, meter)| (*id, meter.clone())).collect()
    }

    /// The next bytes of `range`, at most one segment.
    pub fn read(&self, range: Range<u64>, mark: Mark, meter: &Meter) -> Read {
        if let Some(code) = meter.cut() {
            return Read::Failed(code);
        }
        let inner = self.inner.lock();
        if let Some(code) = inner.failed {
            return Read::Failed(code);
        }
        let limit = match mark {
            Mark::Received => inner.received,
            Mark::Passed => inner.passed,
        };
        if range.start >= limit {
            return Read::Wait;
        }
        let at = inner.segments.partition_point(|(start, _)| *start <= range.start);
        let Some((start, bytes)) = at.checked_sub(1).and_then(|at| inner.segments.get(at)) else {
            return Read::Failed(FailureCode::Busy);
        };
        let from = (range.start - start) as usize;
        let to = (range.end.min(limit) - start).min(bytes.len() as u64) as usize;
        Read::Bytes(bytes.slice(from..to))
    }
}

/// Why a PUT's bytes were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub code: FailureCode,
    pub culprit: Option<FileRef>,
}

/// Takes the bytes of one PUT in order: collects, verifies, publishes.
pub struct Filler {
    slot: Arc<Slot>,
    buffer: Option<Buffer>,
    /// Bytes published and in the buffer.
    taken: u64,
    published: u64,
    cursor: Option<Cursor>,
}

/// The group that the next byte belongs to.
struct Cursor {
    piece: usize,
    group: u32,
    /// Bytes of the group still to come.
    missing: u64,
    hasher: GroupHasher,
}

impl Filler {
    pub fn new(slot: Arc<Slot>) -> Self {
        let cursor = Cursor::at(&slot, 0, None);
        Self { slot, buffer: None, taken: 0, published: 0, cursor }
    }

    /// Bytes still to come.
    pub fn missing(&self) -> u64 {
        self.slot.length - self.taken
    }

    pub fn has_unpublished(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.len() > 0)
    }

    /// Takes bytes; whole segments are verified and published on the way. The last one waits for [`Filler::finish`].
    pub fn push(&mut self, edge: &Edge, mut bytes: &[u8]) -> Result<(), Refused> {
        if bytes.len() as u64 > self.missing() {
            return Err(Refused { code: FailureCode::BadMessage, culprit: None });
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
    pub fn flush(&mut self, edge: &Edge) -> Result<(), Refused> {
        let segment = self.collected();
        if segment.is_empty() {
            return Ok(());
        }
        let passed = self.verify(edge, &segment)?;
        self.published += segment.len() as u64;
        self.slot.publish(segment, passed);
        Ok(())
    }

    /// Verifies the last segment without publishing it; [`Filler::publish_last`] does that once the broker knows.
    pub fn finish(&mut self, edge: &Edge) -> Result<LastSegment, Refused> {
        let segment = self.collected();
        if self.slot.what == What::Values {
            return self.finish_values(edge, segment);
        }
        let passed = self.verify(edge, &segment)?;
        Ok(LastSegment { slot: self.slot.clone(), segment, passed })
    }

    fn collected(&mut self) -> Bytes {
        self.buffer.take().map(Buffer::freeze).unwrap_or_default()
    }

    /// A list of values is checked as a whole; it is small enough to be one segment or a few.
    fn finish_values(&mut self, edge: &Edge, segment: Bytes) -> Result<LastSegment, Refused> {
        let Some(piece) = self.slot.pieces.first() else {
            return Err(Refused { code: FailureCode::Busy, culprit: None });
        };
        let mut list = Vec::with_capacity(self.slot.length as usize);
        for (_, bytes) in &self.slot.inner.lock().segments {
            list.extend_from_slice(bytes);
        }
        list.extend_from_slice(&segment);
        let (is_right, lost) = edge.hashes.accept_list(piece, &list);
        edge.lists_lost(lost);
        if !is_right {
            return Err(Refused { code: FailureCode::BadBytes, culprit: Some(piece.file) });
        }
        Ok(LastSegment { slot: self.slot.clone(), segment, passed: self.slot.length })
    }

    /// Hashes a segment group by group; gives the end of the last group that passed.
    fn verify(&mut self, edge: &Edge, segment: &[u8]) -> Result<u64, Refused> {
        if self.slot.what == What::Values {
            return Ok(0);
        }
        let mut rest = segment;
        let mut position = self.published;
        let mut passed = 0;
        while !rest.is_empty() {
            let Some(cursor) = &mut self.cursor else {
                return Err(Refused { code: FailureCode::BadMessage, culprit: None });
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

    fn group_done(&mut self, edge: &Edge) -> Result<(), Refused> {
        let Some(done) = self.cursor.take() else { return Ok(()) };
        let piece = &self.slot.pieces[done.piece];
        let value = done.hasher.finish();
        let (verdict, lost) = edge.hashes.check(piece, done.group, value);
        edge.lists_lost(lost);
        self.cursor = Cursor::at(&self.slot, done.piece, Some(done.group + 1));
        match verdict {
            Verdict::Good => Ok(()),
            Verdict::Complete(root) => {
                edge.root_known(piece.file, root);
                Ok(())
            }
            Verdict::Differs => Err(Refused { code: FailureCode::BadBytes, culprit: Some(piece.file) }),
            Verdict::WrongRoot => Err(Refused { code: FailureCode::FileChanged, culprit: Some(piece.file) }),
        }
    }
}

impl Cursor {
    /// At group `group` of piece `piece`, or at the first group of the next piece.
    fn at(slot: &Slot, piece: usize, group: Option<u32>) -> Option<Self> {
        if slot.what == What::Values {
            return None;
        }
        let layout = slot.pieces.get(piece)?;
        let group = group.unwrap_or(layout.groups.first);
        if group >= layout.groups.end() {
            return Cursor::at(slot, piece + 1, None);
        }
        let groups = Groups::new(layout.size, layout.group_log);
        Some(Self { piece, group, missing: groups.len(group), hasher: groups.hasher(group) })
    }
}

/// The last verified bytes of a PUT, not yet readable.
pub struct LastSegment {
    slot: Arc<Slot>,
    segment: Bytes,
    passed: u64,
}

impl LastSegment {
    pub fn publish(self) {
        self.slot.publish(self.segment, self.passed);
    }
}
