//! The relay as the asker behind a `/d/` response: pulls the groups it needs in order, two runs
//! ahead, and reads only what has passed verification. An absent owner is waited for; a reader that
//! stands still gives its slots back and keeps its place.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lanyard_hub::broker::{
    Input, LinkInput, LinkPart, LinkReader, ReaderId, ReaderInput, WantedSpan,
};
use lanyard_protocol::group::Groups;
use lanyard_protocol::limits::{LINK_UNUSED_MS, MAX_PIECES, MIN_BODY_WINDOW_MS, STANDING_STILL_MS};
use lanyard_protocol::{FailureCode, FileEntry, FileRef, GroupRange, LinkHash};
use tokio::sync::{mpsc, watch};

use crate::chunks::frames::{Frames, NextFrame};
use crate::chunks::slot::ReadMark;
use crate::chunks::slot::ReaderMeter;
use crate::chunks::slot::SlotBuffer;
use crate::chunks::slot::SlotRead;
use crate::state::{LinkEvent, RelayState};

/// First run of a response. A run doubles after each that its reader took quickly, up to the
/// largest, and halves after each that it took slowly: what a slow reader was promised and did not
/// take yet is room that others lack.
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
pub(crate) struct FileRange {
    pub file: FileRef,
    pub groups: Groups,
    pub bytes: Range<u64>,
}

impl FileRange {
    pub(crate) fn new(entry: &FileEntry, bytes: Range<u64>) -> Self {
        Self { file: entry.file_ref(), groups: Groups::new(entry.size, entry.group_log), bytes }
    }
}

/// Events of a response while it fetches.
#[derive(Debug)]
pub(crate) enum FetchedBytes {
    Bytes(Bytes),
    /// It goes on by itself, once its owner, the master or room is there.
    Waiting,
    /// For good.
    Failed(FailureCode),
    /// All ranges are through.
    End,
}

/// Groups of a file that lie in a slot.
struct SlotPart {
    slot: Arc<SlotBuffer>,
    slice: ReaderId,
    groups: GroupRange,
    range: Range<u64>,
}

/// A slice of a slot that is still needed by so many parts.
struct SlotSlice {
    slot: Arc<SlotBuffer>,
    meter: Arc<ReaderMeter>,
    parts: usize,
}

/// Fetches ranges one after the other.
pub(crate) struct RangeFetcher {
    state: Arc<RelayState>,
    reader: LinkReader,
    hash: LinkHash,
    events: mpsc::Receiver<(u64, LinkEvent)>,
    /// Ranges still to be delivered; the first one's start moves.
    ranges: VecDeque<FileRange>,
    /// How far wants reach: ranges before this index, and groups of that one.
    wanted_to: (usize, u32),
    /// Bytes wanted so far, by want, oldest first: at most [`AHEAD`].
    wants: VecDeque<(u64, u64)>,
    parts: BTreeMap<(FileRef, u32), SlotPart>,
    slices: BTreeMap<ReaderId, SlotSlice>,
    run: u64,
    next_want: u64,
    /// When the reader was given bytes last, and how long it has taken for those of the oldest
    /// want.
    handed: Option<Instant>,
    taking: Duration,
}

impl RangeFetcher {
    pub(crate) fn new(state: Arc<RelayState>, hash: LinkHash, ranges: Vec<FileRange>) -> Self {
        let reader = LinkReader(state.number());
        let (sender, events) = mpsc::channel(EVENTS);
        state.link_readers.insert(reader, sender);
        let ranges = ranges.into_iter().filter(|s| s.bytes.start < s.bytes.end).collect();
        let mut fetcher = Self {
            state,
            reader,
            hash,
            events,
            ranges,
            wanted_to: (0, 0),
            wants: VecDeque::new(),
            parts: BTreeMap::new(),
            slices: BTreeMap::new(),
            run: FIRST_RUN,
            next_want: 0,
            handed: None,
            taking: Duration::ZERO,
        };
        fetcher.rewind();
        fetcher
    }

    pub(crate) fn reader(&self) -> LinkReader {
        self.reader
    }

    /// Adds what comes after all that was asked for until now.
    pub(crate) fn extend(&mut self, ranges: impl IntoIterator<Item = FileRange>) {
        self.ranges.extend(ranges.into_iter().filter(|range| !range.bytes.is_empty()));
    }

    /// Returns true once all ranges were delivered.
    pub(crate) fn is_through(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the next bytes in order, as many as the frame may have, or what there is to say
    /// instead. Loses nothing when dropped before it ends.
    pub(crate) async fn next(&mut self, frame: &mut NextFrame) -> FetchedBytes {
        if let Some(handed) = self.handed.take() {
            self.taking += handed.elapsed();
        }
        loop {
            let Some(range) = self.ranges.front().cloned() else { return FetchedBytes::End };
            self.want_more();
            let group = range.groups.at(range.bytes.start);
            let Some(part) = self.part_of(range.file, group) else {
                frame.waits();
                match self.hear().await {
                    Some(said) => return said,
                    None => continue,
                }
            };
            let offset = range.bytes.start - range.groups.offset(part.groups.first);
            let from = part.range.start + offset;
            let most = frame.most().min(range.bytes.end - range.bytes.start);
            let to = part.range.end.min(from + most);
            let (slot, slice) = (part.slot.clone(), part.slice);
            let meter =
                self.slices.get(&slice).map(|slice| slice.meter.clone()).unwrap_or_default();
            meter.held.store(false, Ordering::Relaxed);
            let mut changes = slot.changes();
            match slot.read(from..to, ReadMark::Passed, &meter) {
                SlotRead::Bytes(bytes) => {
                    meter.starved.store(true, Ordering::Relaxed); // this task's own pace is watched elsewhere
                    meter.delivered.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    self.advance(bytes.len() as u64);
                    self.handed = Some(Instant::now());
                    self.state.carried.to_links.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    return FetchedBytes::Bytes(bytes);
                }
                SlotRead::Failed(code)
                    if code.may_retry()
                        || code == FailureCode::Cancelled && !self.is_cut(&meter) =>
                {
                    self.rewind();
                }
                SlotRead::Failed(code) => return FetchedBytes::Failed(code),
                SlotRead::Wait => {
                    frame.waits();
                    meter.starved.store(true, Ordering::Relaxed);
                    if let Some(said) = self.wait(&mut changes).await {
                        return said;
                    }
                }
            }
        }
    }

    /// Whether the reader itself was cut (a dropped link) and not only its slot.
    fn is_cut(&self, meter: &ReaderMeter) -> bool {
        meter.is_cut()
    }

    async fn wait(&mut self, changes: &mut watch::Receiver<u64>) -> Option<FetchedBytes> {
        tokio::select! {
            _ = changes.changed() => None,
            event = self.events.recv() => self.heard(event),
        }
    }

    async fn hear(&mut self) -> Option<FetchedBytes> {
        let event = self.events.recv().await;
        self.heard(event)
    }

    fn heard(&mut self, event: Option<(u64, LinkEvent)>) -> Option<FetchedBytes> {
        let Some((want, event)) = event else {
            return Some(FetchedBytes::Failed(FailureCode::Busy));
        };
        if !self.wants.iter().any(|(known, _)| *known == want) {
            // Returns the slice of a want that was given up.
            if let LinkEvent::Ready { slot, slice, .. } = event {
                self.give_back(&slot, slice, &ReaderMeter::default());
            }
            return None;
        }
        match event {
            LinkEvent::Ready { slot, slice, parts } => {
                self.take(slot, slice, parts);
                None
            }
            LinkEvent::Waits => Some(FetchedBytes::Waiting),
            LinkEvent::Failed { code } => Some(FetchedBytes::Failed(code)),
        }
    }

    fn take(&mut self, slot: Arc<SlotBuffer>, slice: ReaderId, parts: Vec<LinkPart>) {
        let meter = slot.add_reader(slice);
        meter.starved.store(true, Ordering::Relaxed);
        meter.held.store(true, Ordering::Relaxed);
        self.slices.insert(slice, SlotSlice { slot: slot.clone(), meter, parts: parts.len() });
        for (file, groups, range) in parts {
            self.parts.insert(
                (file, groups.first),
                SlotPart { slot: slot.clone(), slice, groups, range },
            );
        }
    }

    fn part_of(&self, file: FileRef, group: u32) -> Option<&SlotPart> {
        let (key, part) = self.parts.range(..=(file, group)).next_back()?;
        (key.0 == file && part.groups.contains(group)).then_some(part)
    }

    /// The delivered bytes are behind us: parts and slices that are through go back.
    fn advance(&mut self, count: u64) {
        let Some(range) = self.ranges.front_mut() else { return };
        range.bytes.start += count;
        let done = range.bytes.start >= range.bytes.end;
        let file = range.file;
        let reached = if done { u32::MAX } else { range.groups.at(range.bytes.start) };
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
            self.ranges.pop_front();
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
        let largest =
            LARGEST_RUN.min(self.state.config.budget_bytes / RUNS_IN_BUDGET).max(SMALLEST_RUN);
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

    fn give_back(&self, slot: &SlotBuffer, reader: ReaderId, meter: &ReaderMeter) {
        slot.remove_reader(reader);
        let delivered = meter.delivered.load(Ordering::Relaxed);
        self.state.send_detached(Input::Reader(ReaderInput::Left {
            slot: slot.id,
            reader,
            delivered,
        }));
    }

    /// Its reader takes nothing: what it holds may be taken from it when room is short.
    fn gives_way(&self) {
        self.slices.values().for_each(|slice| slice.meter.held.store(true, Ordering::Relaxed));
    }

    /// Gives everything back and begins anew at the place reached.
    pub(crate) fn rewind(&mut self) {
        self.parts.clear();
        for (id, slice) in std::mem::take(&mut self.slices) {
            self.give_back(&slice.slot, id, &slice.meter);
        }
        if !self.wants.is_empty() {
            self.wants.clear();
            self.state.send_detached(Input::Link(LinkInput::Left {
                reader: self.reader,
                up_to: self.next_want,
            }));
        }
        self.run = self.run.min(FIRST_RUN);
        let at = self.ranges.front().map_or(0, |range| range.groups.at(range.bytes.start));
        self.wanted_to = (0, at);
    }

    /// Keeps [`AHEAD`] runs wanted. Does not wait, so that [`RangeFetcher::next`] may be dropped at
    /// any point and called again.
    fn want_more(&mut self) {
        while self.wants.len() < AHEAD {
            let (pieces, bytes) = self.next_run();
            if pieces.is_empty() {
                return;
            }
            self.next_want += 1;
            let want = self.next_want;
            self.wants.push_back((want, bytes));
            let input = Input::Link(LinkInput::Wanted {
                reader: self.reader,
                hash: self.hash,
                want,
                pieces,
            });
            self.state.send_detached(input);
        }
    }

    /// The next groups in order, of one owner, as many as fit a run; and the bytes of them that
    /// will be delivered.
    fn next_run(&mut self) -> (Vec<WantedSpan>, u64) {
        let mut pieces: Vec<WantedSpan> = Vec::new();
        let (mut length, mut bytes) = (0u64, 0u64);
        while let Some(range) = self.ranges.get(self.wanted_to.0) {
            let (index, first) = self.wanted_to;
            let last = range.groups.at(range.bytes.end - 1);
            let same_owner =
                pieces.first().is_none_or(|(file, _)| file.public_id == range.file.public_id);
            if !same_owner || pieces.len() >= MAX_PIECES || length >= self.run {
                break;
            }
            let room = (self.run - length).div_ceil(1 << range.groups.group_log).max(1);
            let mut count = u64::from(last - first + 1).min(room) as u32;
            while count > 1 && length + range.groups.span(first, count) > self.run {
                count -= 1;
            }
            let span = range.groups.span(first, count);
            if !pieces.is_empty() && length + span > self.run {
                break;
            }
            pieces.push((range.file, GroupRange::new(first, count)));
            length += span;
            let from = range.bytes.start.max(range.groups.offset(first));
            let to = range.bytes.end.min(range.groups.offset(first) + span);
            bytes += to - from;
            self.wanted_to = if first + count > last {
                let next = self.ranges.get(index + 1);
                (index + 1, next.map_or(0, |next| next.groups.at(next.bytes.start)))
            } else {
                (index, first + count)
            };
        }
        (pieces, bytes)
    }
}

impl Drop for RangeFetcher {
    fn drop(&mut self) {
        self.state.link_readers.remove(&self.reader);
        self.rewind();
        self.state
            .send_detached(Input::Link(LinkInput::Left { reader: self.reader, up_to: u64::MAX }));
    }
}

/// The body of a response, as the task that fills it sees it.
pub(crate) struct Outlet {
    body: mpsc::Sender<Result<Bytes, std::io::Error>>,
    frames: Frames,
}

impl Outlet {
    pub(crate) fn new(body: mpsc::Sender<Result<Bytes, std::io::Error>>, frames: Frames) -> Self {
        Self { body, frames }
    }

    /// Waits until the reader is gone.
    pub(crate) async fn closed(&self) {
        self.body.closed().await;
    }

    /// Waits until the reader has taken the last frame; `None` when it is gone. So nothing is read
    /// for a reader that takes nothing. While it stands still for two seconds its slots give way to
    /// whoever needs the room.
    pub(crate) async fn next_frame(
        &mut self,
        fetcher: &mut RangeFetcher,
        mut paused: impl FnMut(),
    ) -> Option<NextFrame> {
        let still = Duration::from_millis(STANDING_STILL_MS);
        if let Ok(frame) = tokio::time::timeout(still, self.taken()).await {
            return frame;
        }
        fetcher.gives_way();
        paused();
        self.standing(fetcher).await
    }

    async fn taken(&mut self) -> Option<NextFrame> {
        tokio::select! {
            biased;
            () = self.body.closed() => None,
            frame = self.frames.next() => Some(frame),
        }
    }

    /// Waits for a reader that stands still. A slow one stands still for seconds while it takes
    /// what lies in its sockets: what it was given would be uploaded twice if it went back at once.
    /// After a while it goes back, and its place is a number.
    async fn standing(&mut self, fetcher: &mut RangeFetcher) -> Option<NextFrame> {
        let patience = Duration::from_millis(MIN_BODY_WINDOW_MS);
        if let Ok(frame) = tokio::time::timeout(patience, self.taken()).await {
            return frame;
        }
        fetcher.rewind();
        let longest = Duration::from_millis(LINK_UNUSED_MS);
        tokio::time::timeout(longest, self.taken()).await.ok()?
    }

    /// Gives bytes to the body. False when the reader is gone.
    pub(crate) async fn give(&mut self, frame: NextFrame, bytes: Bytes) -> bool {
        let bytes = self.frames.give(frame, bytes);
        self.body.send(Ok(bytes)).await.is_ok()
    }

    /// Ends a body short: the connection is closed, and nobody takes the part for the whole.
    pub(crate) async fn cut(&self, code: FailureCode) {
        let _ = self.body.send(Err(std::io::Error::other(code.as_str()))).await;
    }
}
