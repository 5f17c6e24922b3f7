//! The data plane without bytes: slots that fill group by group, values that are pinned and
//! compared, readers that follow. What it tells the broker travels a moment, as it does between the
//! tasks of a real relay.

use std::collections::BTreeMap;
use std::ops::Range;

use lanyard_hub::broker::{
    Input, NewSlot, ReaderId, ReaderInput, SessionId, SlotEffect, SlotId, SlotInput, SpeedGroup,
};
use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::group::{GroupHash, Groups};
use lanyard_protocol::{FailureCode, FileRef, Root, Ticket};

use super::device::{BytesEvent, DeviceIndex};
use crate::sim::simulation::{ConnId, SimEvent, Simulation};
use lanyard_hub::peer::FetchId;

/// A body that stands still longer than this ends; shorter pauses of a reader are only noted.
const SLOW_MS: u64 = 20_000;
const STILL_MS: u64 = 2_000;
/// A reader that cannot go on looks again after this.
const LOOK_AGAIN_MS: u64 = 500;
/// How often the broker hears how far bodies have come.
const REPORT_MS: u64 = 500;

#[derive(Debug, Default)]
pub struct Plane {
    pub slots: BTreeMap<SlotId, SimSlot>,
    pub grants: BTreeMap<Ticket, GetGrant>,
    values: BTreeMap<FileRef, SimHashes>,
    /// Units that were compared so far.
    compared: u64,
    /// The next report is on its way.
    reports: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotBodyPhase {
    Asked,
    Filling,
    Full,
}

/// What passes as a whole: a group of bytes, or a file's list of values.
#[derive(Debug, Clone)]
pub struct Unit {
    pub file: FileRef,
    pub group: u32,
    offset: u64,
    pub length: u64,
    size: u64,
    group_log: u8,
    root: Option<Root>,
    pub body: Option<SimBody>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimBody {
    Group(GroupHash),
    List(Vec<GroupHash>),
}

#[derive(Debug)]
pub struct SimSlot {
    pub what: BodyKind,
    /// The group of speed that shares it.
    pub group: SpeedGroup,
    pub length: u64,
    /// None when the bytes are the relay's own.
    pub holder: Option<SessionId>,
    ticket: Option<Ticket>,
    phase: SlotBodyPhase,
    pub units: Vec<Unit>,
    passed: usize,
    pub readers: BTreeMap<ReaderId, SimReader>,
    moved_at: u64,
}

impl SimSlot {
    /// Whether this session still owes its bytes.
    pub fn waits_for(&self, session: SessionId) -> bool {
        self.holder == Some(session) && self.phase != SlotBodyPhase::Full
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBy {
    Device { device: DeviceIndex, life: u64, fetch: FetchId },
    Link(usize),
}

#[derive(Debug)]
pub struct SimReader {
    pub by: ReadBy,
    ticket: Option<Ticket>,
    units: Vec<usize>,
    next: usize,
    delivered: u64,
    moved_at: u64,
    still: bool,
    /// A step is on its way.
    busy: bool,
}

/// A ticket for a GET.
#[derive(Debug)]
pub struct GetGrant {
    session: SessionId,
    slot: SlotId,
    reader: ReaderId,
    ranges: Vec<Range<u64>>,
    /// The slot failed before anybody came: the GET's status.
    failed: Option<(FailureCode, u64)>,
}

/// Group hashes of a file: seen, or from a list.
#[derive(Debug)]
struct SimHashes {
    groups: Groups,
    pins: BTreeMap<u32, GroupHash>,
    told: bool,
}

#[derive(Debug)]
pub enum PlaneEvent {
    Tell(Box<Input>),
    PutHead { conn: ConnId, ticket: Ticket },
    PutUnit { ticket: Ticket, index: usize, body: SimBody },
    PutBroken { ticket: Ticket },
    PutWatch { slot: SlotId },
    GetHead { conn: ConnId, ticket: Ticket, by: ReadBy },
    GetBroken { fetch: FetchId, device: DeviceIndex },
    ReaderStep { slot: SlotId, reader: ReaderId },
    Report,
}

impl SimSlot {
    fn of(new: NewSlot, now: u64) -> Self {
        let mut units = Vec::new();
        for piece in &new.pieces {
            let groups = Groups::new(piece.size, piece.group_log);
            let unit = |group: u32, offset: u64, length: u64| Unit {
                file: piece.file,
                group,
                offset,
                length,
                size: piece.size,
                group_log: piece.group_log,
                root: piece.root,
                body: None,
            };
            match new.what {
                BodyKind::Hashes => {
                    units.push(unit(0, piece.offset, 32 * u64::from(piece.groups.count)))
                }
                BodyKind::Bytes => {
                    let mut offset = piece.offset;
                    for group in piece.groups.iter() {
                        units.push(unit(group, offset, groups.len(group)));
                        offset += groups.len(group);
                    }
                }
            }
        }
        let length: u64 = units.iter().map(|unit| unit.length).sum();
        assert_eq!(length, new.length, "a slot's length is that of its pieces: {new:?}");
        Self {
            what: new.what,
            group: new.group,
            length,
            holder: Some(new.holder),
            ticket: Some(new.ticket),
            phase: SlotBodyPhase::Asked,
            units,
            passed: 0,
            readers: BTreeMap::new(),
            moved_at: now,
        }
    }

    pub fn is_full(&self) -> bool {
        self.phase == SlotBodyPhase::Full
    }

    /// The units that byte ranges of the body cover, whole.
    fn units_in(&self, ranges: &[Range<u64>]) -> Vec<usize> {
        let covered = |unit: &Unit| {
            ranges.iter().any(|r| r.start <= unit.offset && unit.offset + unit.length <= r.end)
        };
        let found: Vec<usize> =
            (0..self.units.len()).filter(|n| covered(&self.units[*n])).collect();
        let bytes: u64 = found.iter().map(|n| self.units[*n].length).sum();
        let asked: u64 = ranges.iter().map(|r| r.end - r.start).sum();
        assert_eq!(bytes, asked, "a slice is made of whole groups");
        found
    }
}

impl Plane {
    /// The unit of a slot that has passed.
    pub fn passed(&self, slot: SlotId, wanted: impl Fn(&Unit) -> bool) -> Option<&Unit> {
        let slot = self.slots.get(&slot)?;
        slot.units[..slot.passed].iter().find(|unit| wanted(unit))
    }
}

impl SimHashes {
    fn list(&self) -> Option<Vec<GroupHash>> {
        let count = self.groups.count() as usize;
        (self.pins.len() == count).then(|| self.pins.values().copied().collect())
    }
}

/// What the plane makes of a unit that arrived.
enum Passed {
    Good,
    Complete(Root),
    Wrong(FailureCode),
}

impl Simulation {
    fn plane(&mut self) -> &mut Plane {
        &mut self.relay.as_mut().expect("the plane lives in the relay").plane
    }

    /// Tells the broker, a moment later.
    pub(crate) fn tell_later(&mut self, input: Input) {
        let boot = self.relay.as_ref().unwrap().boot;
        self.after(0, SimEvent::Plane(boot, PlaneEvent::Tell(Box::new(input))));
    }

    fn plane_later(&mut self, delay_ms: u64, event: PlaneEvent) {
        let boot = self.relay.as_ref().unwrap().boot;
        self.after(delay_ms, SimEvent::Plane(boot, event));
    }

    pub(crate) fn plane_happens(&mut self, boot: u64, event: PlaneEvent) {
        if self.relay.as_ref().is_none_or(|relay| relay.boot != boot) {
            return;
        }
        match event {
            PlaneEvent::Tell(input) => self.tell_broker(*input),
            PlaneEvent::PutHead { conn, ticket } => self.put_head(conn, ticket),
            PlaneEvent::PutUnit { ticket, index, body } => self.put_unit(ticket, index, body),
            PlaneEvent::PutBroken { ticket } => {
                if let Some(slot) = self.slot_filled_by(ticket) {
                    self.put_failed(slot, FailureCode::Busy, None);
                }
            }
            PlaneEvent::PutWatch { slot } => self.watch_put(slot),
            PlaneEvent::GetHead { conn, ticket, by } => self.get_head(conn, ticket, by),
            PlaneEvent::GetBroken { fetch, device } => self.get_broken(device, fetch),
            PlaneEvent::ReaderStep { slot, reader } => self.reader_steps(slot, reader),
            PlaneEvent::Report => self.report_readers(),
        }
    }

    // ── What the broker wants
    // ───────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn plane_does(&mut self, effect: SlotEffect) {
        let now = self.now;
        match effect {
            SlotEffect::Open(new) => {
                self.model.count("slot opened");
                let (id, slot) = (new.slot, SimSlot::of(*new, now));
                self.model.slot_opens(&slot, &self.relay.as_ref().unwrap().plane);
                self.plane().slots.insert(id, slot);
            }
            SlotEffect::OpenHashes { slot, file, length } => self.open_hashes(slot, file, length),
            SlotEffect::GrantRead { ticket, session, slot, reader, ranges } => {
                assert!(self.plane().slots.contains_key(&slot), "a grant for a slot that is over");
                let grant = GetGrant { session, slot, reader, ranges, failed: None };
                self.plane().grants.insert(ticket, grant);
            }
            SlotEffect::RevokeTicket { ticket } => self.revoke(ticket),
            SlotEffect::Fail { slot, code } => self.fail_slot(slot, code),
            SlotEffect::Drop { slot } => {
                let slot = self.plane().slots.remove(&slot).expect("a slot is dropped once");
                assert!(slot.readers.is_empty(), "a slot is dropped under its readers");
            }
            SlotEffect::CutReader { slot, reader, code } => self.cut_reader(slot, reader, code),
            SlotEffect::ForgetHashes { file } => {
                self.plane().values.remove(&file);
            }
        }
    }

    fn open_hashes(&mut self, id: SlotId, file: FileRef, length: u64) {
        let now = self.now;
        let may_be_gone = self.config.tables_drop;
        let Some(values) = self.plane().values.get(&file).filter(|values| values.list().is_some())
        else {
            assert!(may_be_gone, "the plane said that it has the list");
            return self.open_nothing(id, length);
        };
        let list = values.list().expect("it was looked at");
        assert_eq!(32 * list.len() as u64, length);
        let unit = Unit {
            file,
            group: 0,
            offset: 0,
            length,
            size: values.groups.size,
            group_log: values.groups.group_log,
            root: None,
            body: Some(SimBody::List(list)),
        };
        let slot = SimSlot {
            what: BodyKind::Hashes,
            group: SpeedGroup::ALL,
            length,
            holder: None,
            ticket: None,
            phase: SlotBodyPhase::Full,
            units: vec![unit],
            passed: 1,
            readers: BTreeMap::new(),
            moved_at: now,
        };
        self.model.count("values from memory");
        self.plane().slots.insert(id, slot);
    }

    /// The list went while the broker counted on it: its askers ask again.
    fn open_nothing(&mut self, id: SlotId, length: u64) {
        let moved_at = self.now;
        let slot = SimSlot {
            what: BodyKind::Hashes,
            group: SpeedGroup::ALL,
            length,
            holder: None,
            ticket: None,
            phase: SlotBodyPhase::Full,
            units: Vec::new(),
            passed: 0,
            readers: BTreeMap::new(),
            moved_at,
        };
        self.plane().slots.insert(id, slot);
        self.tell_later(Input::Slot(SlotInput::PutFailed {
            slot: id,
            code: FailureCode::Busy,
            culprit: None,
        }));
    }

    fn fail_slot(&mut self, id: SlotId, code: FailureCode) {
        let now = self.now;
        let slot = self.plane().slots.remove(&id).expect("a slot fails once");
        for (_, reader) in slot.readers {
            self.end_reader(id, reader, code);
        }
        for grant in self.plane().grants.values_mut().filter(|grant| grant.slot == id) {
            grant.failed = Some((code, now));
        }
    }

    fn cut_reader(&mut self, id: SlotId, reader: ReaderId, code: FailureCode) {
        // It may have left, with the word of that still on its way.
        let Some(slot) = self.plane().slots.get_mut(&id) else { return };
        if let Some(reader) = slot.readers.remove(&reader) {
            self.end_reader(id, reader, code);
        }
    }

    /// The ticket may have been redeemed, with the word of that still on its way: then its body
    /// ends.
    fn revoke(&mut self, ticket: Ticket) {
        if self.plane().grants.remove(&ticket).is_some() {
            return;
        }
        let of_ticket = |reader: &SimReader| reader.ticket == Some(ticket);
        let found = self.plane().slots.iter().find_map(|(id, slot)| {
            slot.readers
                .iter()
                .find(|(_, reader)| of_ticket(reader))
                .map(|(reader, _)| (*id, *reader))
        });
        if let Some((slot, reader)) = found {
            self.cut_reader(slot, reader, FailureCode::Cancelled);
        }
    }

    /// A reader's body ends early: a status before its first byte, a cut after.
    fn end_reader(&mut self, slot: SlotId, reader: SimReader, code: FailureCode) {
        match reader.by {
            ReadBy::Device { device, life, fetch } => {
                let event = match reader.delivered {
                    0 => BytesEvent::Refused { fetch, code },
                    _ => BytesEvent::Cut { fetch },
                };
                let latency = self.config.latency_ms;
                self.after(latency, SimEvent::DeviceBytes(device, life, event));
            }
            ReadBy::Link(link) => self.link_slice_cut(link, slot, code),
        }
    }

    // ── PUT
    // ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn slot_of_ticket(&self, ticket: Ticket) -> Option<SlotId> {
        let plane = &self.relay.as_ref()?.plane;
        plane.slots.iter().find(|(_, slot)| slot.ticket == Some(ticket)).map(|(id, _)| *id)
    }

    fn slot_filled_by(&self, ticket: Ticket) -> Option<SlotId> {
        let id = self.slot_of_ticket(ticket)?;
        (self.relay.as_ref()?.plane.slots[&id].phase == SlotBodyPhase::Filling).then_some(id)
    }

    fn put_head(&mut self, conn: ConnId, ticket: Ticket) {
        let session = self.relay.as_ref().unwrap().session_of.get(&conn).copied();
        let Some(id) = self.slot_of_ticket(ticket) else { return };
        let now = self.now;
        let slot = self.plane().slots.get_mut(&id).unwrap();
        if slot.phase != SlotBodyPhase::Asked || session.is_none() || slot.holder != session {
            return; // 403: the holder hears UPLOAD_CANCELLED
        }
        slot.phase = SlotBodyPhase::Filling;
        slot.moved_at = now;
        self.plane_later(SLOW_MS, PlaneEvent::PutWatch { slot: id });
        self.tell_later(Input::Slot(SlotInput::PutStarted { slot: id }));
    }

    fn put_unit(&mut self, ticket: Ticket, index: usize, body: SimBody) {
        let Some(id) = self.slot_filled_by(ticket) else { return };
        let now = self.now;
        let slot = self.plane().slots.get_mut(&id).unwrap();
        slot.moved_at = now;
        if index != slot.passed {
            return; // of a body that was broken and began anew
        }
        let unit = slot.units[index].clone();
        self.model.uploaded_bytes += unit.length;
        match self.check(&unit, &body) {
            Passed::Wrong(code) => return self.put_failed(id, code, Some(unit.file)),
            Passed::Complete(root) => {
                self.model.count("root known");
                self.tell_later(Input::Slot(SlotInput::RootKnown { file: unit.file, root }));
            }
            Passed::Good => {}
        }
        self.drop_a_table();
        let slot = self.plane().slots.get_mut(&id).unwrap();
        slot.units[index].body = Some(body);
        slot.passed += 1;
        let full = slot.passed == slot.units.len();
        if full {
            slot.phase = SlotBodyPhase::Full;
            self.tell_later(Input::Slot(SlotInput::PutFinished { slot: id }));
        }
        let readers: Vec<ReaderId> = self.plane().slots[&id].readers.keys().copied().collect();
        readers.into_iter().for_each(|reader| self.push_reader(id, reader));
    }

    /// As if there were no more room for it, now and then some file's table of group hashes goes,
    /// in use or not.
    fn drop_a_table(&mut self) {
        let is_tight = self.config.tables_drop;
        let plane = self.plane();
        plane.compared += 1;
        if !is_tight || !plane.compared.is_multiple_of(5) {
            return;
        }
        let at = plane.compared as usize % plane.values.len().max(1);
        let Some(file) = plane.values.keys().nth(at).copied() else { return };
        if plane.values.remove(&file).is_some_and(|values| values.list().is_some()) {
            self.model.count("values lost");
            self.tell_later(Input::Slot(SlotInput::HashesLost { file }));
        }
    }

    fn check(&mut self, unit: &Unit, body: &SimBody) -> Passed {
        let groups = Groups::new(unit.size, unit.group_log);
        let values = self.plane().values.entry(unit.file).or_insert_with(|| SimHashes {
            groups,
            pins: BTreeMap::new(),
            told: false,
        });
        match body {
            SimBody::List(list) => {
                if unit.root.is_none() || groups.root(list) != unit.root {
                    return Passed::Wrong(FailureCode::BadBytes);
                }
                values.pins =
                    list.iter().enumerate().map(|(n, value)| (n as u32, *value)).collect();
                values.told = true;
                Passed::Good
            }
            SimBody::Group(value) => {
                let single = unit.root.filter(|_| groups.count() == 1);
                if single.is_some_and(|root| root.0 != value.0) {
                    return Passed::Wrong(FailureCode::BadBytes);
                }
                if *values.pins.entry(unit.group).or_insert(*value) != *value {
                    return Passed::Wrong(FailureCode::BadBytes);
                }
                let Some(list) = values.list().filter(|_| !values.told) else {
                    return Passed::Good;
                };
                values.told = true;
                let root = groups.root(&list).unwrap();
                match unit.root {
                    Some(known) if known != root => Passed::Wrong(FailureCode::FileChanged),
                    _ => Passed::Complete(root),
                }
            }
        }
    }

    fn put_failed(&mut self, id: SlotId, code: FailureCode, culprit: Option<FileRef>) {
        // The slot waits for the broker's word; nothing more passes.
        let slot = self.plane().slots.get_mut(&id).unwrap();
        slot.ticket = None;
        self.tell_later(Input::Slot(SlotInput::PutFailed { slot: id, code, culprit }));
    }

    fn watch_put(&mut self, id: SlotId) {
        let now = self.now;
        let Some(slot) =
            self.plane().slots.get(&id).filter(|slot| slot.phase == SlotBodyPhase::Filling)
        else {
            return;
        };
        if slot.ticket.is_none() {
            return;
        }
        let ends = slot.moved_at + SLOW_MS;
        if ends <= now {
            self.model.count("slow put");
            self.put_failed(id, FailureCode::TimedOut, None);
        } else {
            self.plane_later(ends - now, PlaneEvent::PutWatch { slot: id });
        }
    }

    // ── GET
    // ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn get_head(&mut self, conn: ConnId, ticket: Ticket, by: ReadBy) {
        let session = self.relay.as_ref().unwrap().session_of.get(&conn).copied();
        let ReadBy::Device { device, life, fetch } = by else {
            unreachable!("links have no ticket")
        };
        let latency = self.config.latency_ms;
        let refuse = |world: &mut Self, code| {
            world.after(
                latency,
                SimEvent::DeviceBytes(device, life, BytesEvent::Refused { fetch, code }),
            );
        };
        let Some(grant) =
            self.plane().grants.get(&ticket).filter(|grant| session == Some(grant.session))
        else {
            return refuse(self, FailureCode::TicketRefused);
        };
        if let Some((code, _)) = grant.failed {
            self.plane().grants.remove(&ticket);
            return refuse(self, code);
        }
        let GetGrant { slot: id, reader, ranges, .. } =
            self.plane().grants.remove(&ticket).unwrap();
        self.add_reader(id, reader, by, Some(ticket), &ranges);
        self.tell_later(Input::Reader(ReaderInput::Started { slot: id, reader }));
    }

    pub(crate) fn add_reader(
        &mut self,
        id: SlotId,
        reader: ReaderId,
        by: ReadBy,
        ticket: Option<Ticket>,
        ranges: &[Range<u64>],
    ) {
        let now = self.now;
        let slot = self.plane().slots.get_mut(&id).expect("a reader joins a live slot");
        let units = slot.units_in(ranges);
        let state = SimReader {
            by,
            ticket,
            units,
            next: 0,
            delivered: 0,
            moved_at: now,
            still: false,
            busy: false,
        };
        slot.readers.insert(reader, state);
        if !std::mem::replace(&mut self.plane().reports, true) {
            self.plane_later(REPORT_MS, PlaneEvent::Report);
        }
        self.push_reader(id, reader);
    }

    /// Sends the next unit on its way, if it has passed.
    fn push_reader(&mut self, id: SlotId, reader: ReaderId) {
        let Some(slot) = self.plane().slots.get_mut(&id) else { return };
        let passed = slot.passed;
        if let Some(SimReader { by: ReadBy::Link(link), .. }) = slot.readers.get(&reader) {
            let link = *link;
            return self.pull_link(link);
        }
        let Some(state) = slot.readers.get_mut(&reader).filter(|state| !state.busy) else { return };
        if state.units.get(state.next).is_none_or(|unit| *unit >= passed) {
            return;
        }
        state.busy = true;
        let ReadBy::Device { device, .. } = state.by else { return };
        let pace = self.devices[device.0].get_ms;
        self.plane_later(pace, PlaneEvent::ReaderStep { slot: id, reader });
    }

    fn reader_steps(&mut self, id: SlotId, reader: ReaderId) {
        let now = self.now;
        let Some(state) = self.plane().slots.get(&id).and_then(|slot| slot.readers.get(&reader))
        else {
            return;
        };
        let (still, stood) = (state.still, now - state.moved_at);
        let ReadBy::Device { device, life, fetch } = state.by else { return };
        if !self.devices[device.0].takes_bytes() {
            return self.reader_stands(id, reader, still, stood);
        }
        if still {
            self.tell_later(Input::Reader(ReaderInput::Still { slot: id, reader, still: false }));
        }
        let slot = self.plane().slots.get_mut(&id).unwrap();
        let state = slot.readers.get_mut(&reader).unwrap();
        let unit = slot.units[state.units[state.next]].clone();
        state.next += 1;
        state.delivered += unit.length;
        state.moved_at = now;
        state.still = false;
        state.busy = false;
        let (done, delivered) = (state.next == state.units.len(), state.delivered);
        let latency = self.config.latency_ms;
        self.after(
            latency,
            SimEvent::DeviceBytes(device, life, BytesEvent::Got { fetch, unit: Box::new(unit) }),
        );
        if done {
            self.after(
                latency,
                SimEvent::DeviceBytes(device, life, BytesEvent::Complete { fetch }),
            );
            self.plane().slots.get_mut(&id).unwrap().readers.remove(&reader);
            self.tell_later(Input::Reader(ReaderInput::Left { slot: id, reader, delivered }));
        } else {
            self.push_reader(id, reader);
        }
    }

    fn reader_stands(&mut self, id: SlotId, reader: ReaderId, still: bool, stood: u64) {
        if stood >= SLOW_MS {
            self.model.count("slow get");
            let slot = self.plane().slots.get_mut(&id).unwrap();
            let state = slot.readers.remove(&reader).unwrap();
            self.tell_later(Input::Reader(ReaderInput::Left {
                slot: id,
                reader,
                delivered: state.delivered,
            }));
            return self.end_reader(id, state, FailureCode::TimedOut);
        }
        if stood >= STILL_MS && !still {
            self.model.count("reader stands still");
            let slot = self.plane().slots.get_mut(&id).unwrap();
            slot.readers.get_mut(&reader).unwrap().still = true;
            self.tell_later(Input::Reader(ReaderInput::Still { slot: id, reader, still: true }));
        }
        self.plane_later(LOOK_AGAIN_MS, PlaneEvent::ReaderStep { slot: id, reader });
    }

    /// The device's side of a GET is gone.
    fn get_broken(&mut self, device: DeviceIndex, fetch: FetchId) {
        let ours = |by: &ReadBy| matches!(by, ReadBy::Device { device: d, fetch: f, .. } if *d == device && *f == fetch);
        let found = self.plane().slots.iter().find_map(|(id, slot)| {
            slot.readers
                .iter()
                .find(|(_, reader)| ours(&reader.by))
                .map(|(reader, _)| (*id, *reader))
        });
        let Some((slot, reader)) = found else { return };
        let state = self.plane().slots.get_mut(&slot).unwrap().readers.remove(&reader).unwrap();
        self.tell_later(Input::Reader(ReaderInput::Left {
            slot,
            reader,
            delivered: state.delivered,
        }));
    }

    /// A link's response needs the slice no more; gives what it took of it.
    pub(crate) fn remove_reader(&mut self, slot: SlotId, reader: ReaderId) -> u64 {
        let slot = self.relay.as_mut().and_then(|relay| relay.plane.slots.get_mut(&slot));
        slot.and_then(|slot| slot.readers.remove(&reader)).map_or(0, |reader| reader.delivered)
    }

    /// A link's response took a unit of a slice.
    pub(crate) fn link_took(&mut self, slot: SlotId, reader: ReaderId, bytes: u64) {
        let slot = self.relay.as_mut().and_then(|relay| relay.plane.slots.get_mut(&slot));
        if let Some(reader) = slot.and_then(|slot| slot.readers.get_mut(&reader)) {
            reader.delivered += bytes;
        }
    }

    /// How far all bodies have come; said again while there are any.
    fn report_readers(&mut self) {
        let slots = self.plane().slots.iter();
        let of_slot = |(id, slot): (&SlotId, &SimSlot)| -> Vec<(SlotId, ReaderId, u64)> {
            slot.readers.iter().map(|(reader, state)| (*id, *reader, state.delivered)).collect()
        };
        let moved: Vec<(SlotId, ReaderId, u64)> = slots.flat_map(of_slot).collect();
        self.plane().reports = !moved.is_empty();
        if !moved.is_empty() {
            self.tell_broker(Input::Reader(ReaderInput::Moved { moved }));
            self.plane_later(REPORT_MS, PlaneEvent::Report);
        }
    }

    /// Tickets whose status nobody fetched within a minute are forgotten.
    pub(crate) fn sweep_tickets(&mut self) {
        let now = self.now;
        if let Some(relay) = &mut self.relay {
            relay
                .plane
                .grants
                .retain(|_, grant| grant.failed.is_none_or(|(_, at)| now - at < 60_000));
        }
    }
}
