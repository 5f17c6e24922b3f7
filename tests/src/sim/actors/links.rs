//! Somebody behind a `/d/` address: opens it, reads its files in order and only what has passed,
//! waits for an absent owner, and comes back when the relay was gone.

use std::collections::VecDeque;
use std::sync::Arc;

use lanyard_hub::broker::{
    CallEffect, CallId, CallInput, Input, LinkContent, LinkEffect, LinkInfo, LinkInput, LinkReader,
    ReaderId, ReaderInput, SlotId, WantedSpan,
};
use lanyard_hub::peer::Input as PeerInput;
use lanyard_protocol::group::{GroupHash, Groups};
use lanyard_protocol::link_key::DrawnLink;
use lanyard_protocol::message::{
    LinkArchive, LinkDrop, LinkFolder, LinkMember, LinkPage, LinkRequest, LinksPull, RequestFailed,
};
use lanyard_protocol::{
    DeviceId, DeviceToRelay, FailureCode, FileEntry, FileRef, GroupRange, LinkSeed, RelayToDevice,
};

use super::device::DeviceIndex;
use super::sim_slots::{ReadBy, SimBody, Unit};
use crate::sim::simulation::{SimEvent, Simulation};

/// Groups of one want, and wants at once.
const RUN_GROUPS: usize = 3;
const AHEAD: usize = 2;
/// A reader that stands still longer gives its slots back.
const STILL_MS: u64 = 2_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkReadingState {
    /// LINK_REQUEST is on its way.
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
    /// None of a folder.
    pub files: Vec<FileRef>,
    /// Its key, and what the maker told the hub of it.
    drawn: DrawnLink,
    /// Whoever drew the key: nobody else's files are read at its address.
    drawn_by: DeviceId,
    pub state: LinkReadingState,
    /// Its files as they come, in order.
    pub read: Vec<FileRef>,
    /// Asks of its maker's device: to make it, to drop it.
    asks: Vec<u64>,
    archive: Option<Archive>,
    units: Vec<(FileRef, u32)>,
    pub values: Vec<GroupHash>,
    /// Units delivered.
    position: usize,
    reader: LinkReader,
    wanted_to: usize,
    wants: VecDeque<(u64, usize)>,
    next_want: u64,
    slices: Vec<SimSlice>,
    busy: bool,
    pub paused: bool,
    standing_since: Option<u64>,
    pub pace_ms: u64,
    generation: u64,
    call: Option<CallId>,
}

/// Where a response stands in the pages of its archive.
#[derive(Debug)]
struct Archive {
    layout: LinkArchive,
    /// The first member that was not asked for.
    next: u32,
    /// Where the units of each page end.
    ends: Vec<usize>,
    /// The names at the end are asked for again.
    directory: bool,
    call: Option<CallId>,
}

/// Units of a slot that this response reads.
#[derive(Debug)]
struct SimSlice {
    slot: SlotId,
    reader: ReaderId,
    units: Vec<usize>,
    /// It was last read from, or came, at this time.
    moved_at: u64,
    still: bool,
}

impl LinkReading {
    /// All bytes are read, and of an archive the names at its end too.
    fn is_through(&self) -> bool {
        let has_all =
            |archive: &Archive| archive.directory && archive.next == archive.layout.members;
        self.position == self.units.len() && self.archive.as_ref().is_none_or(has_all)
    }

    /// Its relay is gone: an archive has no ranges.
    fn start_archive_again(&mut self) {
        if self.archive.take().is_some() {
            (self.position, self.values, self.units) = (0, Vec::new(), Vec::new());
        }
    }
}

fn units_of(entry: &FileEntry) -> Vec<(FileRef, u32)> {
    let count = Groups::new(entry.size, entry.group_log).count();
    (0..count).map(|group| (entry.file_ref(), group)).collect()
}

impl Simulation {
    /// LINK_REQUEST of a member, for files.
    pub fn make_link(&mut self, maker: DeviceIndex, files: Vec<FileRef>) -> Option<usize> {
        self.request_link(maker, files, None, None, None)
    }

    /// LINK_REQUEST of a member, for files or for a folder.
    pub fn request_link(
        &mut self,
        maker: DeviceIndex,
        files: Vec<FileRef>,
        folder: Option<LinkFolder>,
        valid_ms: Option<u64>,
        uses: Option<u32>,
    ) -> Option<usize> {
        self.device(maker).peer.as_ref()?;
        let drawn_by = self.device(maker).public_id;
        let drawn = DrawnLink::new(&LinkSeed(self.random.bytes()), drawn_by);
        let request = LinkRequest {
            link_hash: drawn.hash,
            binding: drawn.binding,
            files,
            folder,
            name: None,
            valid_ms,
            uses,
        };
        Some(self.order_link(maker, drawn, drawn_by, request))
    }

    /// A member that heard how another's link was made registers its hash and its binding for files
    /// of its own choice.
    pub fn squat_link(
        &mut self,
        squatter: DeviceIndex,
        heard: usize,
        files: Vec<FileRef>,
    ) -> Option<usize> {
        self.device(squatter).peer.as_ref()?;
        let LinkReading { drawn, drawn_by, .. } = &self.links[heard];
        let DrawnLink { hash, binding, .. } = *drawn;
        let request = LinkRequest {
            link_hash: hash,
            binding,
            files,
            folder: None,
            name: None,
            valid_ms: None,
            uses: None,
        };
        Some(self.order_link(squatter, *drawn, *drawn_by, request))
    }

    fn order_link(
        &mut self,
        maker: DeviceIndex,
        drawn: DrawnLink,
        drawn_by: DeviceId,
        request: LinkRequest,
    ) -> usize {
        self.model.calls += 1;
        let ask = self.model.calls;
        self.links.push(LinkReading {
            maker,
            files: request.files.clone(),
            drawn,
            drawn_by,
            state: LinkReadingState::Ordered,
            read: Vec::new(),
            asks: vec![ask],
            archive: None,
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
            call: None,
        });
        self.model.count("link ordered");
        let link = self.links.len() - 1;
        self.tell_peer(
            maker,
            PeerInput::Ask { ask, message: Box::new(DeviceToRelay::LinkRequest(request)) },
        );
        link
    }

    /// Takes the answer to a maker's ask.
    pub(crate) fn link_answered(
        &mut self,
        ask: u64,
        answer: Result<Box<RelayToDevice>, RequestFailed>,
    ) {
        let Some(link) = self.links.iter().position(|reading| reading.asks.contains(&ask)) else {
            return;
        };
        let reading = &mut self.links[link];
        match answer.map(|answer| *answer) {
            Ok(RelayToDevice::LinkMade(made)) => {
                assert_eq!(made.link.link_hash, reading.drawn.hash);
                reading.state = LinkReadingState::Made;
                self.model.count("link made");
            }
            Ok(RelayToDevice::LinkDropped(dropped)) => {
                assert_eq!(dropped.link_hash, reading.drawn.hash);
                self.model.count("link deleted");
            }
            Ok(RelayToDevice::LinksPage(_)) => self.model.count("links seen"),
            Ok(other) => panic!("no answer to a link's request: {other:?}"),
            Err(no) if reading.state == LinkReadingState::Ordered => {
                reading.state = LinkReadingState::NotMade(no.code);
                self.model.count("link not made");
            }
            Err(_) => self.model.count("link not dropped"),
        }
    }

    /// LINKS_PULL of a link's maker.
    pub fn list_links(&mut self, link: usize) {
        self.ask_of_link(link, DeviceToRelay::LinksPull(LinksPull { cursor: None }));
    }

    fn ask_of_link(&mut self, link: usize, message: DeviceToRelay) {
        self.model.calls += 1;
        let ask = self.model.calls;
        let maker = self.links[link].maker;
        self.links[link].asks.push(ask);
        self.tell_peer(maker, PeerInput::Ask { ask, message: Box::new(message) });
    }

    fn next_call(&mut self) -> CallId {
        self.model.calls += 1;
        CallId(self.model.calls)
    }

    /// GET /d/{link}: from the beginning, or from where it was cut.
    pub fn open_link(&mut self, link: usize) {
        let call = self.next_call();
        let reading = &mut self.links[link];
        reading.state = LinkReadingState::Opening;
        reading.generation += 1;
        if self.relay.is_none() {
            return self.open_again(link);
        }
        self.links[link].call = Some(call);
        let link = self.links[link].drawn.link;
        self.tell_broker(Input::Call(CallInput::LinkOpened { call, link }));
    }

    fn open_again(&mut self, link: usize) {
        let generation = self.links[link].generation;
        let wait = self.random.between(200, 1_000);
        self.after(wait, SimEvent::Link(link, generation));
    }

    /// LINK_DROP of its maker.
    pub fn drop_link(&mut self, link: usize) {
        let link_hash = self.links[link].drawn.hash;
        self.ask_of_link(link, DeviceToRelay::LinkDrop(LinkDrop { link_hash }));
    }

    /// The reader closes its browser.
    pub fn leave_link(&mut self, link: usize) {
        let state = self.links[link].state.clone();
        match state {
            LinkReadingState::Reading => {
                self.model.count("link left");
                self.end_link(link, LinkReadingState::Left);
            }
            LinkReadingState::Opening => {
                self.links[link].state = LinkReadingState::Left;
                self.links[link].generation += 1;
                if let Some(call) = self.links[link].call.take() {
                    self.tell_broker(Input::Call(CallInput::Left { call }));
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
            reading.start_archive_again();
            match reading.state {
                LinkReadingState::Reading | LinkReadingState::Opening => {
                    reading.state = LinkReadingState::Opening;
                    reading.generation += 1;
                    self.model.count("link comes back");
                    self.open_again(link);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn call_effect(&mut self, effect: CallEffect) {
        match effect {
            CallEffect::Found { call, result } => {
                let Some(link) = self.link_of_call(call) else { return };
                self.links[link].call = None;
                match result {
                    Ok(info) if info.limited => self.begin_use(link, &info),
                    Ok(info) => self.begin_reading(link, &info),
                    Err(code) => self.not_opened(link, code),
                }
            }
            CallEffect::Begun { call, result } => {
                let Some(link) = self.link_of_call(call) else { return };
                self.links[link].call = None;
                let Some(info) = self.begun.remove(&call) else { return };
                match result {
                    Ok(()) => self.begin_reading(link, &info),
                    Err(code) => self.not_opened(link, code),
                }
            }
            CallEffect::Members { call, result } => {
                let of_call = |reading: &LinkReading| {
                    reading.archive.as_ref().is_some_and(|a| a.call == Some(call))
                };
                let Some(link) = self.links.iter().position(of_call) else { return };
                match result {
                    Ok(members) => self.link_page(link, members),
                    Err(code) => {
                        self.model.count("link cut");
                        self.end_link(link, LinkReadingState::Failed(code));
                    }
                }
            }
        }
    }

    pub(crate) fn link_effect(&mut self, effect: LinkEffect) {
        match effect {
            LinkEffect::Ready { reader, want, slot, slice, parts } => {
                let Some(link) = self.link_of_reader(reader, want) else {
                    // Of a want that was given up.
                    return self.give_back(slot, slice);
                };
                let ranges: Vec<_> = parts.iter().map(|(_, _, range)| range.clone()).collect();
                let mut units = Vec::new();
                for (file, groups, _) in &parts {
                    for group in groups.iter() {
                        let at =
                            self.links[link].units.iter().position(|unit| *unit == (*file, group));
                        units.push(at.expect("a link is given what it wants"));
                    }
                }
                let moved_at = self.now;
                self.links[link].slices.push(SimSlice {
                    slot,
                    reader: slice,
                    units,
                    moved_at,
                    still: false,
                });
                self.add_reader(slot, slice, ReadBy::Link(link), None, &ranges);
                let generation = self.links[link].generation;
                self.after(STILL_MS, SimEvent::LinkWatch(link, generation));
            }
            LinkEffect::Failed { reader, want, code, .. } => {
                if let Some(link) = self.link_of_reader(reader, want) {
                    self.model.count("link cut");
                    self.end_link(link, LinkReadingState::Failed(code));
                }
            }
            LinkEffect::Waits { .. } => self.model.count("link waits"),
        }
    }

    fn link_of_call(&self, call: CallId) -> Option<usize> {
        self.links.iter().position(|reading| reading.call == Some(call))
    }

    fn link_of_reader(&self, reader: LinkReader, want: u64) -> Option<usize> {
        let has = |reading: &LinkReading| reading.wants.iter().any(|(known, _)| *known == want);
        let found = |reading: &LinkReading| {
            reading.state == LinkReadingState::Reading && reading.reader == reader
        };
        self.links.iter().position(|reading| found(reading) && has(reading))
    }

    fn not_opened(&mut self, link: usize, code: FailureCode) {
        // A reader of a hub that is not ready tries again (503 with Retry-After).
        if matches!(code, FailureCode::ServerNotReady | FailureCode::Busy) {
            return self.open_again(link);
        }
        self.model.count("link not found");
        self.links[link].state = LinkReadingState::Failed(code);
    }

    /// Its uses are counted: this may be one more.
    fn begin_use(&mut self, link: usize, info: &Arc<LinkInfo>) {
        let call = self.next_call();
        self.links[link].call = Some(call);
        self.begun.insert(call, info.clone());
        let key = self.links[link].drawn.link;
        let position = self.links[link].position as u64;
        let bytes = match &info.what {
            LinkContent::File(entry) => entry.size.saturating_sub(position << entry.group_log),
            LinkContent::Archive(archive) => archive.length,
            LinkContent::Nothing => 0,
        };
        self.model.count("link use begun");
        self.tell_later(Input::Call(CallInput::UseBegun {
            call,
            link: key,
            whole: position == 0,
            bytes,
        }));
    }

    fn begin_reading(&mut self, link: usize, info: &LinkInfo) {
        self.model.calls += 1;
        let number = self.model.calls;
        let reading = &mut self.links[link];
        assert_eq!(
            info.maker, reading.drawn_by,
            "an address opens what its maker named, or nothing"
        );
        reading.reader = LinkReader(number);
        match &info.what {
            LinkContent::Nothing => {
                // 410 before the body: what it was made of is no longer whole.
                self.model.count("link incomplete");
                reading.state = LinkReadingState::Failed(FailureCode::FileGone);
                return;
            }
            LinkContent::File(entry) => {
                reading.read = vec![entry.file_ref()];
                reading.units = units_of(entry);
            }
            LinkContent::Archive(layout) => {
                // A body without ranges begins anew.
                (reading.position, reading.values, reading.read) = (0, Vec::new(), Vec::new());
                reading.units = Vec::new();
                let layout = layout.clone();
                let ends = Vec::new();
                reading.archive =
                    Some(Archive { layout, next: 0, ends, directory: false, call: None });
                self.model.count("archive opened");
            }
        }
        let reading = &mut self.links[link];
        reading.state = LinkReadingState::Reading;
        reading.wanted_to = reading.position;
        self.model.count("link opened");
        self.want_more(link);
    }

    /// Asks for the next page, when the one before the last is through.
    fn want_page(&mut self, link: usize) {
        let call = self.next_call();
        let reading = &mut self.links[link];
        let Some(archive) = &mut reading.archive else { return };
        if archive.call.is_some() {
            return;
        }
        if archive.next == archive.layout.members {
            if archive.directory || reading.position < reading.units.len() {
                return;
            }
            (archive.directory, archive.next) = (true, 0);
        }
        let before_last = archive.ends.len().checked_sub(2).map_or(0, |at| archive.ends[at]);
        if !archive.directory && reading.position < before_last {
            return;
        }
        archive.call = Some(call);
        let page = LinkPage {
            link_hash: reading.drawn.hash,
            layout: archive.layout.layout,
            first: archive.next,
            bare: archive.directory,
        };
        let reader = reading.reader;
        self.tell_later(Input::Call(CallInput::PageWanted { call, reader, page }));
    }

    fn link_page(&mut self, link: usize, members: Vec<LinkMember>) {
        let reading = &mut self.links[link];
        let Some(archive) = &mut reading.archive else { return };
        archive.call = None;
        archive.next += members.len() as u32;
        assert!(
            !members.is_empty() && archive.next <= archive.layout.members,
            "a page is of the layout"
        );
        if archive.directory {
            self.model.count("archive directory");
        } else {
            for member in members {
                if member.size == 0 {
                    continue;
                }
                let Some(entry) = member.file else {
                    self.model.count("link cut");
                    return self.end_link(link, LinkReadingState::Failed(FailureCode::FileGone));
                };
                reading.read.push(entry.file_ref());
                reading.units.extend(units_of(&entry));
            }
            let Some(archive) = &mut reading.archive else { return };
            archive.ends.push(reading.units.len());
            self.model.count("archive page");
        }
        self.want_more(link);
        self.pull_link(link);
    }

    fn want_more(&mut self, link: usize) {
        loop {
            self.want_page(link);
            let reading = &mut self.links[link];
            if reading.is_through() {
                self.model.count("link done");
                return self.end_link(link, LinkReadingState::Done);
            }
            if reading.wants.len() >= AHEAD || reading.wanted_to == reading.units.len() {
                return;
            }
            let from = reading.wanted_to;
            let owner = reading.units[from].0.public_id;
            let run = reading.units[from..]
                .iter()
                .take(RUN_GROUPS)
                .take_while(|(file, _)| file.public_id == owner);
            let mut pieces: Vec<WantedSpan> = Vec::new();
            for (file, group) in run {
                match pieces.last_mut() {
                    Some((last, groups)) if last == file && groups.end() == *group => {
                        groups.count += 1
                    }
                    _ => pieces.push((*file, GroupRange::new(*group, 1))),
                }
            }
            let count: usize = pieces.iter().map(|(_, groups)| groups.count as usize).sum();
            reading.wanted_to += count;
            reading.next_want += 1;
            let want = reading.next_want;
            reading.wants.push_back((want, reading.wanted_to));
            let (reader, hash) = (reading.reader, reading.drawn.hash);
            self.tell_later(Input::Link(LinkInput::Wanted { reader, hash, want, pieces }));
        }
    }

    /// Takes its next unit, if that has passed.
    pub(crate) fn pull_link(&mut self, link: usize) {
        let reading = &self.links[link];
        if reading.busy
            || reading.state != LinkReadingState::Reading
            || self.next_unit(link).is_none()
        {
            return;
        }
        let (pace, generation) = (reading.pace_ms, reading.generation);
        self.links[link].busy = true;
        self.after(pace, SimEvent::Link(link, generation));
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
            LinkReadingState::Opening => self.open_link(link),
            LinkReadingState::Reading => self.link_step(link),
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
            return self.after(500, SimEvent::Link(link, generation));
        }
        reading.standing_since = None;
        reading.busy = false;
        if let Some((slice, unit)) = self.next_unit(link) {
            self.deliver_to_link(link, slice, unit);
        }
        self.want_more(link);
        self.pull_link(link);
    }

    /// What it holds and does not take, for it waits for something before that, may be taken from
    /// it.
    pub(crate) fn watch_link(&mut self, link: usize, generation: u64) {
        let now = self.now;
        let reading = &mut self.links[link];
        if reading.generation != generation || reading.slices.is_empty() {
            return;
        }
        let mut stands = Vec::new();
        for slice in reading
            .slices
            .iter_mut()
            .filter(|slice| !slice.still && now - slice.moved_at >= STILL_MS)
        {
            slice.still = true;
            stands.push((slice.slot, slice.reader));
        }
        for (slot, reader) in stands {
            self.model.count("link holds and waits");
            self.tell_later(Input::Reader(ReaderInput::Still { slot, reader, still: true }));
        }
        self.after(STILL_MS, SimEvent::LinkWatch(link, generation));
    }

    fn deliver_to_link(&mut self, link: usize, slice: usize, unit: Unit) {
        let now = self.now;
        let held = &mut self.links[link].slices[slice];
        held.moved_at = now;
        let slot = held.slot;
        let reader = held.reader;
        self.link_took(slot, reader, unit.length);
        let held = &mut self.links[link].slices[slice];
        if std::mem::take(&mut held.still) {
            let (slot, reader) = (held.slot, held.reader);
            self.tell_later(Input::Reader(ReaderInput::Still { slot, reader, still: false }));
        }
        let reading = &mut self.links[link];
        let Some(SimBody::Group(value)) = unit.body else { panic!("a link reads what has passed") };
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
        self.tell_later(Input::Reader(ReaderInput::Left { slot, reader, delivered }));
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
            self.tell_later(Input::Link(LinkInput::Left { reader, up_to }));
        }
    }

    /// A slot that it reads is over.
    pub(crate) fn link_slice_cut(&mut self, link: usize, slot: SlotId, code: FailureCode) {
        if self.links[link].state != LinkReadingState::Reading {
            return;
        }
        self.links[link].slices.retain(|slice| slice.slot != slot);
        if code.may_retry() || code == FailureCode::Cancelled {
            self.model.count("link asks again");
            self.rewind_link(link);
            self.links[link].busy = true;
            let (generation, wait) = (self.links[link].generation, self.random.between(1, 50));
            return self.after(wait, SimEvent::Link(link, generation));
        }
        self.model.count("link cut");
        self.end_link(link, LinkReadingState::Failed(code));
    }

    fn end_link(&mut self, link: usize, state: LinkReadingState) {
        self.rewind_link(link);
        if let Some(call) = self.links[link].archive.take().and_then(|archive| archive.call) {
            self.tell_later(Input::Call(CallInput::Left { call }));
        }
        let reading = &mut self.links[link];
        reading.state = state;
        reading.generation += 1;
        let reader = reading.reader;
        self.tell_later(Input::Link(LinkInput::Left { reader, up_to: u64::MAX }));
    }
}
