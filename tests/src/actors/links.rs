//! Somebody behind a `/d/` address: opens it, reads its files in order and only what has passed, waits for an absent owner, and
//! comes back when the relay was gone.

use std::collections::VecDeque;

use lanyard_hub::broker::{CallId, Effect, Input, LinkReader, ReaderId, SlotId, WantedPiece};
use lanyard_protocol::group::{GroupValue, Groups};
use lanyard_protocol::{FailureCode, FileRef, GroupRange, Link, LinkHash};

use super::device::DeviceIndex;
use super::plane::{Body, ReadBy, Unit};
use crate::world::{Event, World};

/// Groups of one want, and wants at once.
const RUN_GROUPS: usize = 3;
const AHEAD: usize = 2;
/// A reader that stands still longer gives its slots back.
const STILL_MS: u64 = 2_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// POST /links is on its way.
    Ordered,
    Made,
    NotMade(FailureCode),
    /// GET /d/ waits for the relay to know it.
    Opening,
    Reading,
    Done,
    Failed(FailureCode),
    /// Its reader went away.
    Left,
    Dropped,
}

/// One link and one response behind it.
#[derive(Debug)]
pub struct LinkReading {
    pub maker: DeviceIndex,
    pub files: Vec<FileRef>,
    pub hash: LinkHash,
    pub state: LinkState,
    /// How many files were gone when it was opened.
    pub missing: usize,
    units: Vec<(FileRef, u32)>,
    pub values: Vec<GroupValue>,
    /// Units delivered.
    position: usize,
    reader: LinkReader,
    wanted_to: usize,
    wants: VecDeque<(u64, usize)>,
    next_want: u64,
    slices: Vec<Slice>,
    busy: bool,
    pub paused: bool,
    standing_since: Option<u64>,
    pub pace_ms: u64,
    generation: u64,
    call: Option<CallId>,
}

/// Units of a slot that this response reads.
#[derive(Debug)]
struct Slice {
    slot: SlotId,
    reader: ReaderId,
    units: Vec<usize>,
    /// It was last read from, or came, at this time.
    moved_at: u64,
    still: bool,
}

impl World {
    /// POST /links with the token of a session.
    pub fn make_link(&mut self, maker: DeviceIndex, files: Vec<FileRef>) -> Option<usize> {
        let conn = self.device(maker).conn?;
        let session = *self.relay.as_ref()?.session_of.get(&conn)?;
        let hash = LinkHash::of(&Link(self.random.bytes()));
        let call = self.next_call();
        self.links.push(LinkReading {
            maker,
            files: files.clone(),
            hash,
            state: LinkState::Ordered,
            missing: 0,
            units: Vec::new(),
            values: Vec::new(),
            position: 0,
            reader: LinkReader(0),
            wanted_to: 0,
            wants: VecDeque::new(),
            next_want: 0,
            slices: Vec::new(),
            busy: false,
            paused: false,
            standing_since: None,
            pace_ms: 2,
            generation: 0,
            call: Some(call),
        });
        self.model.count("link ordered");
        self.tell_broker(Input::LinkOrdered { call, session, hash, files, name: None });
        Some(self.links.len() - 1)
    }

    fn next_call(&mut self) -> CallId {
        self.model.calls += 1;
        CallId(self.model.calls)
    }

    /// GET /d/{link}: from the beginning, or from where it was cut.
    pub fn open_link(&mut self, link: usize) {
        let call = self.next_call();
        let reading = &mut self.links[link];
        reading.state = LinkState::Opening;
        reading.generation += 1;
        if self.relay.is_none() {
            return self.open_again(link);
        }
        self.links[link].call = Some(call);
        let hash = self.links[link].hash;
        self.tell_broker(Input::LinkOpened { call, hash });
    }

    fn open_again(&mut self, link: usize) {
        let generation = self.links[link].generation;
        let wait = self.random.between(200, 1_000);
        self.after(wait, Event::Link(link, generation));
    }

    /// DELETE /links/{link}.
    pub fn drop_link(&mut self, link: usize) {
        let maker = self.links[link].maker;
        let Some(conn) = self.device(maker).conn else { return };
        let Some(session) = self.relay.as_ref().and_then(|relay| relay.session_of.get(&conn).copied()) else { return };
        let (call, hash) = (self.next_call(), self.links[link].hash);
        self.tell_broker(Input::LinkDropped { call, session, hash });
    }

    /// The reader closes its browser.
    pub fn leave_link(&mut self, link: usize) {
        let state = self.links[link].state.clone();
        match state {
            LinkState::Reading => {
                self.model.count("link left");
                self.end_link(link, LinkState::Left);
            }
            LinkState::Opening => {
                self.links[link].state = LinkState::Left;
                self.links[link].generation += 1;
                if let Some(call) = self.links[link].call.take() {
                    self.tell_broker(Input::CallLeft { call });
                }
            }
            _ => {}
        }
    }

    /// The relay was killed: who reads comes back by itself, as `curl -C -` in a loop does.
    pub(crate) fn links_lost_relay(&mut self) {
        for link in 0..self.links.len() {
            let reading = &mut self.links[link];
            reading.slices.clear();
            reading.wants.clear();
            reading.busy = false;
            reading.call = None;
            match reading.state {
                LinkState::Ordered => reading.state = LinkState::NotMade(FailureCode::ServerNotReady),
                LinkState::Reading | LinkState::Opening => {
                    reading.state = LinkState::Opening;
                    reading.generation += 1;
                    self.model.count("link comes back");
                    self.open_again(link);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn link_effect(&mut self, effect: Effect) {
        match effect {
            Effect::LinkMade { call, result } => {
                let Some(link) = self.link_of_call(call) else { return };
                self.links[link].call = None;
                self.links[link].state = match result {
                    Ok(_) => LinkState::Made,
                    Err(code) => LinkState::NotMade(code),
                };
                self.model.count(if result.is_ok() { "link made" } else { "link not made" });
            }
            Effect::LinkFound { call, result } => {
                let Some(link) = self.link_of_call(call) else { return };
                self.links[link].call = None;
                match result {
                    Ok(info) => self.begin_reading(link, &info),
                    // A reader of a hub that is not ready tries again (503 with Retry-After).
                    Err(FailureCode::ServerNotReady) => self.open_again(link),
                    Err(code) => {
                        self.model.count("link not found");
                        self.links[link].state = LinkState::Failed(code);
                    }
                }
            }
            Effect::LinkGone { .. } => self.model.count("link deleted"),
            Effect::LinkReady { reader, want, slot, slice, parts } => {
                let Some(link) = self.link_of_reader(reader, want) else {
                    // Of a want that was given up.
                    return self.give_back(slot, slice);
                };
                let ranges: Vec<_> = parts.iter().map(|(_, _, range)| range.clone()).collect();
                let mut units = Vec::new();
                for (file, groups, _) in &parts {
                    for group in groups.iter() {
                        let at = self.links[link].units.iter().position(|unit| *unit == (*file, group));
                        units.push(at.expect("a link is given what it wants"));
                    }
                }
                let moved_at = self.now;
                self.links[link].slices.push(Slice { slot, reader: slice, units, moved_at, still: false });
                self.add_reader(slot, slice, ReadBy::Link(link), None, &ranges);
                let generation = self.links[link].generation;
                self.after(STILL_MS, Event::LinkWatch(link, generation));
            }
            Effect::LinkFailed { reader, want, code, .. } => {
                if let Some(link) = self.link_of_reader(reader, want) {
                    self.model.count("link cut");
                    self.end_link(link, LinkState::Failed(code));
                }
            }
            Effect::LinkWaits { .. } => self.model.count("link waits"),
            other => unreachable!("{other:?}"),
        }
    }

    fn link_of_call(&self, call: CallId) -> Option<usize> {
        self.links.iter().position(|reading| reading.call == Some(call))
    }

    fn link_of_reader(&self, reader: LinkReader, want: u64) -> Option<usize> {
        let has = |reading: &LinkReading| reading.wants.iter().any(|(known, _)| *known == want);
        let found = |reading: &LinkReading| reading.state == LinkState::Reading && reading.reader == reader;
        self.links.iter().position(|reading| found(reading) && has(reading))
    }

    fn begin_reading(&mut self, link: usize, info: &lanyard_hub::broker::LinkInfo) {
        self.model.calls += 1;
        let number = self.model.calls;
        let reading = &mut self.links[link];
        reading.missing = info.made_of as usize - info.files.len();
        if reading.missing > 0 {
            // 410 before the body: what it was made of is no longer whole.
            self.model.count("link incomplete");
            reading.state = LinkState::Failed(FailureCode::FileGone);
            return;
        }
        reading.units = info
            .files
            .iter()
            .filter(|entry| entry.kind.is_file())
            .flat_map(|entry| {
                let count = Groups::new(entry.size, entry.group_log).count();
                (0..count).map(move |group| (entry.file_ref(), group))
            })
            .collect();
        reading.reader = LinkReader(number);
        reading.state = LinkState::Reading;
        reading.wanted_to = reading.position;
        self.model.count("link opened");
        self.want_more(link);
    }

    fn want_more(&mut self, link: usize) {
        loop {
            let reading = &mut self.links[link];
            if reading.position == reading.units.len() {
                self.model.count("link done");
                return self.end_link(link, LinkState::Done);
            }
            if reading.wants.len() >= AHEAD || reading.wanted_to == reading.units.len() {
                return;
            }
            let from = reading.wanted_to;
            let owner = reading.units[from].0.public_id;
            let run = reading.units[from..].iter().take(RUN_GROUPS).take_while(|(file, _)| file.public_id == owner);
            let mut pieces: Vec<WantedPiece> = Vec::new();
            for (file, group) in run {
                match pieces.last_mut() {
                    Some((last, groups)) if last == file && groups.end() == *group => groups.count += 1,
                    _ => pieces.push((*file, GroupRange::new(*group, 1))),
                }
            }
            let count: usize = pieces.iter().map(|(_, groups)| groups.count as usize).sum();
            reading.wanted_to += count;
            reading.next_want += 1;
            let want = reading.next_want;
            reading.wants.push_back((want, reading.wanted_to));
            let (reader, hash) = (reading.reader, reading.hash);
            self.tell_later(Input::LinkWanted { reader, hash, want, pieces });
        }
    }

    /// Takes its next unit, if that has passed.
    pub(crate) fn pull_link(&mut self, link: usize) {
        let reading = &self.links[link];
        if reading.busy || reading.state != LinkState::Reading || self.next_unit(link).is_none() {
            return;
        }
        let (pace, generation) = (reading.pace_ms, reading.generation);
        self.links[link].busy = true;
        self.after(pace, Event::Link(link, generation));
    }

    fn next_unit(&self, link: usize) -> Option<(usize, Unit)> {
        let reading = &self.links[link];
        let plane = &self.relay.as_ref()?.plane;
        reading.slices.iter().enumerate().find_map(|(n, slice)| {
            slice.units.contains(&reading.position).then_some(())?;
            let wanted = reading.units[reading.position];
            let unit = plane.passed(slice.slot, |unit| (unit.file, unit.group) == wanted)?;
            Some((n, unit.clone()))
        })
    }

    /// A step of a reader, or another try to open.
    pub(crate) fn link_goes_on(&mut self, link: usize, generation: u64) {
        if self.links[link].generation != generation {
            return;
        }
        match self.links[link].state {
            LinkState::Opening => self.open_link(link),
            LinkState::Reading => self.link_step(link),
            _ => {}
        }
    }

    fn link_step(&mut self, link: usize) {
        let now = self.now;
        let reading = &mut self.links[link];
        let generation = reading.generation;
        if reading.paused {
            let since = *reading.standing_since.get_or_insert(now);
            if now - since >= STILL_MS && !reading.slices.is_empty() {
                self.model.count("link stands still");
                self.rewind_link(link);
            }
            return self.after(500, Event::Link(link, generation));
        }
        reading.standing_since = None;
        reading.busy = false;
        if let Some((slice, unit)) = self.next_unit(link) {
            self.deliver_to_link(link, slice, unit);
        }
        self.want_more(link);
        self.pull_link(link);
    }

    /// What it holds and does not take, for it waits for something before that, may be taken from it.
    pub(crate) fn watch_link(&mut self, link: usize, generation: u64) {
        let now = self.now;
        let reading = &mut self.links[link];
        if reading.generation != generation || reading.slices.is_empty() {
            return;
        }
        let mut stands = Vec::new();
        for slice in reading.slices.iter_mut().filter(|slice| !slice.still && now - slice.moved_at >= STILL_MS) {
            slice.still = true;
            stands.push((slice.slot, slice.reader));
        }
        for (slot, reader) in stands {
            self.model.count("link holds and waits");
            self.tell_later(Input::ReaderStill { slot, reader, still: true });
        }
        self.after(STILL_MS, Event::LinkWatch(link, generation));
    }

    fn deliver_to_link(&mut self, link: usize, slice: usize, unit: Unit) {
        let now = self.now;
        let held = &mut self.links[link].slices[slice];
        held.moved_at = now;
        let (slot, reader) = (held.slot, held.reader);
        self.link_took(slot, reader, unit.length);
        let held = &mut self.links[link].slices[slice];
        if std::mem::take(&mut held.still) {
            let (slot, reader) = (held.slot, held.reader);
            self.tell_later(Input::ReaderStill { slot, reader, still: false });
        }
        let reading = &mut self.links[link];
        let Some(Body::Group(value)) = unit.body else { panic!("a link reads what has passed") };
        reading.values.push(value);
        reading.position += 1;
        let position = reading.position;
        while reading.wants.front().is_some_and(|(_, end)| *end <= position) {
            reading.wants.pop_front();
        }
        if reading.slices[slice].units.iter().all(|unit| *unit < position) {
            let slice = reading.slices.remove(slice);
            self.give_back(slice.slot, slice.reader);
        }
    }

    fn give_back(&mut self, slot: SlotId, reader: ReaderId) {
        let delivered = self.remove_reader(slot, reader);
        self.tell_later(Input::ReaderLeft { slot, reader, delivered });
    }

    /// Gives everything back and wants it anew from the place reached.
    fn rewind_link(&mut self, link: usize) {
        let slices = std::mem::take(&mut self.links[link].slices);
        for slice in slices {
            self.give_back(slice.slot, slice.reader);
        }
        let reading = &mut self.links[link];
        reading.wanted_to = reading.position;
        if !reading.wants.is_empty() {
            reading.wants.clear();
            let (reader, up_to) = (reading.reader, reading.next_want);
            self.tell_later(Input::LinkLeft { reader, up_to });
        }
    }

    /// A slot that it reads is over.
    pub(crate) fn link_slice_cut(&mut self, link: usize, slot: SlotId, code: FailureCode) {
        if self.links[link].state != LinkState::Reading {
            return;
        }
        self.links[link].slices.retain(|slice| slice.slot != slot);
        if code.may_retry() || code == FailureCode::Cancelled {
            self.model.count("link asks again");
            self.rewind_link(link);
            self.links[link].busy = true;
            let (generation, wait) = (self.links[link].generation, self.random.between(1, 50));
            return self.after(wait, Event::Link(link, generation));
        }
        self.model.count("link cut");
        self.end_link(link, LinkState::Failed(code));
    }

    fn end_link(&mut self, link: usize, state: LinkState) {
        self.rewind_link(link);
        let reading = &mut self.links[link];
        reading.state = state;
        reading.generation += 1;
        let reader = reading.reader;
        self.tell_later(Input::LinkLeft { reader, up_to: u64::MAX });
    }
}
