//! The relay as the asker behind a `/d/` response: pulls the groups it needs in order, two runs ahead, and reads only what has
//! passed verification. An absent owner is waited for; a reader that stands still gives its slots back and keeps its place.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lanyard_hub::broker::{Input, LinkPart, LinkReader, ReaderId, WantedPiece};
use lanyard_protocol::group::Groups;
use lanyard_protocol::limits::{LINK_UNUSED_MS, MAX_PIECES, MIN_BODY_WINDOW_MS, STANDING_STILL_MS};
use lanyard_protocol::{FailureCode, FileEntry, FileRef, GroupRange, LinkHash};
use tokio::sync::{mpsc, watch};

use crate::edge::{Edge, LinkEvent};
use crate::slot::{Mark, Meter, Read, Slot};

/// First run of a response. A run doubles after each that its reader took quickly, up to the largest, and halves after each
/// that it took slowly: what a slow reader was promised and did not take yet is room that others lack.
const FIRST_RUN: u64 = 1 << 20;
const LARGEST_RUN: u64 = 4 << 20;
/// Two runs of each of four responses fit the budget.
const RUNS_IN_BUDGET: u64 = 8;
const SMALLEST_RUN: u64 = 256 << 10;
const QUICK: Duration = Duration::from_millis(250);
const SLOW: Duration = Duration::from_millis(500);
/// Runs asked for at once.
const AHEAD: usize = 2;
/// Events that may wait for a response: two wants with a few parts each.
const EVENTS: usize = 64;

/// Bytes of one file that a response needs.
#[derive(Debug, Clone)]
pub struct Stretch {
    pub file: FileRef,
    pub groups: Groups,
    pub bytes: Range<u64>,
}

impl Stretch {
    pub fn new(entry: &FileEntry, bytes: Range<u64>) -> Self {
        Self { file: entry.file_ref(), groups: Groups::new(entry.size, entry.group_log), bytes }
    }
}

/// What a response is told while it pulls.
#[derive(Debug)]
pub enum Pulled {
    Bytes(Bytes),
    /// It goes on by itself, once its owner, the master or room is there.
    Waiting,
    /// For good.
    Failed(FailureCode),
    /// All stretches are through.
    End,
}

/// A reader that takes this long for one frame gets the next in small pieces: 256 KiB in 50 ms are 5 MiB/s, at which a copy
/// costs nothing that could be measured.
const SLOW_TO_TAKE: Duration = Duration::from_millis(50);
/// Length of such a piece: two of them are what a body that stands still keeps.
const SLOW_PIECE: usize = 32 << 10;

/// Groups of a file that lie in a slot.
struct Part {
    slot: Arc<Slot>,
    slice: ReaderId,
    groups: GroupRange,
    range: Range<u64>,
}

/// A slice of a slot that is still needed by so many parts.
struct Slice {
    slot: Arc<Slot>,
    meter: Arc<Meter>,
    parts: usize,
}

/// Pulls stretches one after the other.
pub struct Puller {
    edge: Arc<Edge>,
    reader: LinkReader,
    hash: LinkHash,
    events: mpsc::Receiver<(u64, LinkEvent)>,
    /// What is still to be delivered; the first one's start moves.
    stretches: VecDeque<Stretch>,
    /// How far wants reach: stretches before this index, and groups of that one.
    wanted_to: (usize, u32),
    /// Bytes wanted so far, by want, oldest first: at most [`AHEAD`].
    wants: VecDeque<(u64, u64)>,
    parts: BTreeMap<(FileRef, u32), Part>,
    slices: BTreeMap<ReaderId, Slice>,
    run: u64,
    next_want: u64,
    /// When the reader was given bytes last, and how long it has taken for those of the oldest want.
    handed: Option<Instant>,
    taking: Duration,
}

impl Puller {
    pub fn new(edge: Arc<Edge>, hash: LinkHash, stretches: Vec<Stretch>) -> Self {
        let reader = LinkReader(edge.number());
        let (sender, events) = mpsc::channel(EVENTS);
        edge.link_readers.insert(reader, sender);
        let stretches = stretches.into_iter().filter(|s| s.bytes.start < s.bytes.end).collect();
        let mut puller = Self {
            edge,
            reader,
            hash,
            events,
            stretches,
            wanted_to: (0, 0),
            wants: VecDeque::new(),
            parts: BTreeMap::new(),
            slices: BTreeMap::new(),
            run: FIRST_RUN,
            next_want: 0,
            handed: None,
            taking: Duration::ZERO,
        };
        puller.rewind();
        puller
    }

    pub fn reader(&self) -> LinkReader {
        self.reader
    }

    /// Adds what comes after all that was asked for until now.
    pub fn extend(&mut self, stretches: impl IntoIterator<Item = Stretch>) {
        self.stretches.extend(stretches.into_iter().filter(|stretch| !stretch.bytes.is_empty()));
    }

    /// The next bytes in order, or what there is to say instead. Loses nothing when dropped before it ends.
    pub async fn next(&mut self) -> Pulled {
        if let Some(handed) = self.handed.take() {
            self.taking += handed.elapsed();
        }
        loop {
            let Some(stretch) = self.stretches.front().cloned() else { return Pulled::End };
            self.want_more();
            let group = stretch.groups.at(stretch.bytes.start);
            let Some(part) = self.part_of(stretch.file, group) else {
                match self.hear().await {
                    Some(said) => return said,
                    None => continue,
                }
            };
            let offset = stretch.bytes.start - stretch.groups.offset(part.groups.first);
            let from = part.range.start + offset;
            let to = part.range.end.min(from + (stretch.bytes.end - stretch.bytes.start));
            let (slot, slice) = (part.slot.clone(), part.slice);
            let meter = self.slices.get(&slice).map(|slice| slice.meter.clone()).unwrap_or_default();
            meter.held.store(false, Ordering::Relaxed);
            let mut changes = slot.changes();
            match slot.read(from..to, Mark::Passed, &meter) {
                Read::Bytes(bytes) => {
                    meter.starved.store(true, Ordering::Relaxed); // this task's own pace is watched elsewhere
                    meter.delivered.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    self.advance(bytes.len() as u64);
                    self.handed = Some(Instant::now());
                    self.edge.carried.to_links.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    return Pulled::Bytes(bytes);
                }
                Read::Failed(code) if code.may_retry() || code == FailureCode::Cancelled && !self.is_cut(&meter) => {
                    self.rewind();
                }
                Read::Failed(code) => return Pulled::Failed(code),
                Read::Wait => {
                    meter.starved.store(true, Ordering::Relaxed);
                    if let Some(said) = self.wait(&mut changes).await {
                        return said;
                    }
                }
            }
        }
    }

    /// Whether the reader itself was cut (a dropped link) and not only its slot.
    fn is_cut(&self, meter: &Meter) -> bool {
        meter.is_cut()
    }

    async fn wait(&mut self, changes: &mut watch::Receiver<u64>) -> Option<Pulled> {
        tokio::select! {
            _ = changes.changed() => None,
            event = self.events.recv() => self.heard(event),
        }
    }

    async fn hear(&mut self) -> Option<Pulled> {
        let event = self.events.recv().await;
        self.heard(event)
    }

    fn heard(&mut self, event: Option<(u64, LinkEvent)>) -> Option<Pulled> {
        let Some((want, event)) = event else { return Some(Pulled::Failed(FailureCode::Busy)) };
        if !self.wants.iter().any(|(known, _)| *known == want) {
            // Of a want that was given up: its slice goes back.
            if let LinkEvent::Ready { slot, slice, .. } = event {
                self.give_back(&slot, slice, &Meter::default());
            }
            return None;
        }
        match event {
            LinkEvent::Ready { slot, slice, parts } => {
                self.take(slot, slice, parts);
                None
            }
            LinkEvent::Waits => Some(Pulled::Waiting),
            LinkEvent::Failed { code } => Some(Pulled::Failed(code)),
        }
    }

    fn take(&mut self, slot: Arc<Slot>, slice: ReaderId, parts: Vec<LinkPart>) {
        let meter = slot.add_reader(slice);
        meter.starved.store(true, Ordering::Relaxed);
        meter.held.store(true, Ordering::Relaxed);
        self.slices.insert(slice, Slice { slot: slot.clone(), meter, parts: parts.len() });
        for (file, groups, range) in parts {
            self.parts.insert((file, groups.first), Part { slot: slot.clone(), slice, groups, range });
        }
    }

    fn part_of(&self, file: FileRef, group: u32) -> Option<&Part> {
        let (key, part) = self.parts.range(..=(file, group)).next_back()?;
        (key.0 == file && part.groups.contains(group)).then_some(part)
    }

    /// The delivered bytes are behind us: parts and slices that are through go back.
    fn advance(&mut self, count: u64) {
        let Some(stretch) = self.stretches.front_mut() else { return };
        stretch.bytes.start += count;
        let done = stretch.bytes.start >= stretch.bytes.end;
        let file = stretch.file;
        let reached = if done { u32::MAX } else { stretch.groups.at(stretch.bytes.start) };
        let behind: Vec<(FileRef, u32)> = self
            .parts
            .range((file, 0)..=(file, u32::MAX))
            .filter(|(_, part)| part.groups.end() <= reached)
            .map(|(key, _)| *key)
            .collect();
        for key in behind {
            if let Some(part) = self.parts.remove(&key) {
                self.part_done(part.slice);
            }
        }
        if done {
            self.stretches.pop_front();
            self.wanted_to.0 = self.wanted_to.0.saturating_sub(1);
        }
        self.settle_wants(count);
    }

    /// Wants are counted in bytes delivered: the oldest is over when all of it is through.
    fn settle_wants(&mut self, mut count: u64) {
        while let Some((_, left)) = self.wants.front_mut() {
            let now = count.min(*left);
            *left -= now;
            count -= now;
            if *left > 0 {
                return;
            }
            self.wants.pop_front();
            self.adapt();
        }
    }

    /// The next run's length follows from how long the reader took for the last.
    fn adapt(&mut self) {
        let largest = LARGEST_RUN.min(self.edge.config.budget_bytes / RUNS_IN_BUDGET).max(SMALLEST_RUN);
        let taking = std::mem::take(&mut self.taking);
        if taking <= QUICK {
            self.run = (self.run * 2).min(largest);
        } else if taking > SLOW {
            self.run = (self.run / 2).max(SMALLEST_RUN);
        }
    }

    fn part_done(&mut self, id: ReaderId) {
        let Some(slice) = self.slices.get_mut(&id) else { return };
        slice.parts -= 1;
        if slice.parts == 0 {
            let slot = slice.slot.clone();
            let meter = slice.meter.clone();
            self.slices.remove(&id);
            self.give_back(&slot, id, &meter);
        }
    }

    fn give_back(&self, slot: &Slot, reader: ReaderId, meter: &Meter) {
        slot.remove_reader(reader);
        let delivered = meter.delivered.load(Ordering::Relaxed);
        self.edge.tell_soon(Input::ReaderLeft { slot: slot.id, reader, delivered });
    }

    /// Its reader takes nothing: what it holds may be taken from it when room is short.
    fn gives_way(&self) {
        self.slices.values().for_each(|slice| slice.meter.held.store(true, Ordering::Relaxed));
    }

    /// Gives everything back and begins anew at the place reached.
    pub fn rewind(&mut self) {
        self.parts.clear();
        for (id, slice) in std::mem::take(&mut self.slices) {
            self.give_back(&slice.slot, id, &slice.meter);
        }
        if !self.wants.is_empty() {
            self.wants.clear();
            self.edge.tell_soon(Input::LinkLeft { reader: self.reader, up_to: self.next_want });
        }
        self.run = self.run.min(FIRST_RUN);
        let at = self.stretches.front().map_or(0, |stretch| stretch.groups.at(stretch.bytes.start));
        self.wanted_to = (0, at);
    }

    /// Keeps [`AHEAD`] runs wanted. Does not wait, so that [`Puller::next`] may be dropped at any point and called again.
    fn want_more(&mut self) {
        while self.wants.len() < AHEAD {
            let (pieces, bytes) = self.next_run();
            if pieces.is_empty() {
                return;
            }
            self.next_want += 1;
            let want = self.next_want;
            self.wants.push_back((want, bytes));
            let input = Input::LinkWanted { reader: self.reader, hash: self.hash, want, pieces };
            self.edge.tell_soon(input);
        }
    }

    /// The next groups in order, of one owner, as many as fit a run; and the bytes of them that will be delivered.
    fn next_run(&mut self) -> (Vec<WantedPiece>, u64) {
        let mut pieces: Vec<WantedPiece> = Vec::new();
        let (mut length, mut bytes) = (0u64, 0u64);
        while let Some(stretch) = self.stretches.get(self.wanted_to.0) {
            let (index, first) = self.wanted_to;
            let last = stretch.groups.at(stretch.bytes.end - 1);
            let same_owner = pieces.first().is_none_or(|(file, _)| file.public_id == stretch.file.public_id);
            if !same_owner || pieces.len() >= MAX_PIECES || length >= self.run {
                break;
            }
            let room = (self.run - length).div_ceil(1 << stretch.groups.group_log).max(1);
            let mut count = u64::from(last - first + 1).min(room) as u32;
            while count > 1 && length + stretch.groups.span(first, count) > self.run {
                count -= 1;
            }
            let span = stretch.groups.span(first, count);
            if !pieces.is_empty() && length + span > self.run {
                break;
            }
            pieces.push((stretch.file, GroupRange::new(first, count)));
            length += span;
            let from = stretch.bytes.start.max(stretch.groups.offset(first));
            let to = stretch.bytes.end.min(stretch.groups.offset(first) + span);
            bytes += to - from;
            self.wanted_to = if first + count > last {
                let next = self.stretches.get(index + 1);
                (index + 1, next.map_or(0, |next| next.groups.at(next.bytes.start)))
            } else {
                (index, first + count)
            };
        }
        (pieces, bytes)
    }
}

impl Drop for Puller {
    fn drop(&mut self) {
        self.edge.link_readers.remove(&self.reader);
        self.rewind();
        self.edge.tell_soon(Input::LinkLeft { reader: self.reader, up_to: u64::MAX });
    }
}

type Body = mpsc::Sender<Result<Bytes, std::io::Error>>;
type Permit<'a> = mpsc::Permit<'a, Result<Bytes, std::io::Error>>;

/// Hands bytes to a response's body. A slow reader gets them in small copies, so that a body that stands still keeps no
/// buffer of the pool from others. While the reader stands still for two seconds its slots give way to whoever needs the
/// room. False when the reader is gone.
pub async fn hand_over(body: &Body, mut bytes: Bytes, puller: &mut Puller, mut paused: impl FnMut()) -> bool {
    while !bytes.is_empty() {
        let asked = Instant::now();
        let Some(permit) = permit_of(body, puller, &mut paused).await else { return false };
        permit.send(Ok(next_piece(&mut bytes, asked.elapsed())));
    }
    true
}

/// Takes the next frame off: all of it for a quick reader, a small copy for one that took so long for the last.
fn next_piece(bytes: &mut Bytes, waited: Duration) -> Bytes {
    if waited < SLOW_TO_TAKE {
        return std::mem::take(bytes);
    }
    let first = bytes.split_to(bytes.len().min(SLOW_PIECE));
    Bytes::copy_from_slice(&first)
}

/// Waits for a place in the body's channel; `None` when the reader is gone.
async fn permit_of<'a>(body: &'a Body, puller: &mut Puller, paused: &mut impl FnMut()) -> Option<Permit<'a>> {
    let still = Duration::from_millis(STANDING_STILL_MS);
    if let Ok(permit) = tokio::time::timeout(still, body.reserve()).await {
        return permit.ok();
    }
    puller.gives_way();
    paused();
    standing(body, puller).await
}

/// Waits for a reader that stands still. A slow one stands still for seconds while it takes what lies in its sockets: what it
/// was given would be uploaded twice if it went back at once. After a while it goes back, and its place is a number.
async fn standing<'a>(body: &'a Body, puller: &mut Puller) -> Option<Permit<'a>> {
    let patience = Duration::from_millis(MIN_BODY_WINDOW_MS);
    if let Ok(permit) = tokio::time::timeout(patience, body.reserve()).await {
        return permit.ok();
    }
    puller.rewind();
    let longest = Duration::from_millis(LINK_UNUSED_MS);
    tokio::time::timeout(longest, body.reserve()).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that stands still keeps only such copies: the pool's buffer is free as soon as its last byte is handed over.
    #[test]
    fn a_slow_reader_is_given_copies_and_keeps_no_buffer_of_the_pool() {
        let pooled = Bytes::from(vec![7; 256 << 10]);
        let mut left = pooled.clone();
        let whole = next_piece(&mut left, SLOW_TO_TAKE - Duration::from_millis(1));
        assert!(left.is_empty() && whole.as_ptr() == pooled.as_ptr(), "a quick one gets it as it is");

        let mut left = pooled.clone();
        let mut taken = Vec::new();
        while !left.is_empty() {
            let piece = next_piece(&mut left, SLOW_TO_TAKE);
            assert!(piece.len() <= SLOW_PIECE && !pooled.as_ptr_range().contains(&piece.as_ptr()));
            taken.extend_from_slice(&piece);
        }
        assert_eq!(taken, pooled);
    }
}
