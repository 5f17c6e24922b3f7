//! Asks: who wants which groups, from the request to its one outcome per group. A device's ask that
//! cannot go on is answered with a code and asked again by the device; a link's ask is kept and
//! tried again here, because nobody stands behind a browser's download to ask again.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::group::Groups;
use lanyard_protocol::limits::{MAX_PIECES, MAX_RUN_BYTES, WAITING_TIMEOUT_MS};
use lanyard_protocol::message::{CancelChunk, ChunkFailed, ChunkUnavailable, RequestChunk};
use lanyard_protocol::{
    DeviceId, FailureCode, FileRef, GroupSpan, LinkHash, Ref, RelayToDevice, TransferId,
};

use super::slots::SlotPhase;
use super::speed::{Lane, SpeedGroup};
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::broker) struct ChunkRequestId(pub(super) u64);

/// The device or link that requested a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Requester {
    Device {
        session: SessionId,
        transfer: TransferId,
    },
    Link {
        reader: LinkReader,
        want: u64,
        hash: LinkHash,
    },
    /// The relay itself, for a file's list of group hashes.
    Relay,
}

/// The reason for which a request outside the queue waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WaitReason {
    Grants,
    Owner,
    Hub,
    Values(FileRef),
    Retry,
}

#[derive(Debug, Clone)]
pub(super) struct ChunkRequest {
    pub id: ChunkRequestId,
    pub asker: Requester,
    pub owner: DeviceId,
    pub what: BodyKind,
    pub pieces: Vec<GroupSpan>,
    pub reference: Option<Ref>,
    pub tries: u32,
    pub parked: WaitReason,
    /// The group of speed whose upload it joins or causes.
    pub group: SpeedGroup,
}

impl ChunkRequest {
    pub(super) fn file(&self, piece: &GroupSpan) -> FileRef {
        FileRef { public_id: self.owner, file_id: piece.file_id }
    }

    pub(super) fn files(&self) -> BTreeSet<FileRef> {
        self.pieces.iter().map(|piece| self.file(piece)).collect()
    }
}

/// The groups that a CANCEL_CHUNK names, in order: each asked piece is looked up instead of
/// compared with all of them.
struct Cover {
    sorted: Vec<GroupSpan>,
}

impl Cover {
    /// Neighbours and overlaps become one piece.
    fn new(mut pieces: Vec<GroupSpan>) -> Self {
        pieces.sort_unstable();
        let mut sorted: Vec<GroupSpan> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match sorted.last_mut() {
                Some(last)
                    if last.file_id == piece.file_id && piece.groups.first <= last.groups.end() =>
                {
                    let end = last.groups.end().max(piece.groups.end());
                    last.groups.count = end - last.groups.first;
                }
                _ => sorted.push(piece),
            }
        }
        Self { sorted }
    }

    fn holds(&self, piece: &GroupSpan) -> bool {
        let behind = self.sorted.partition_point(|p| {
            (p.file_id, p.groups.first) <= (piece.file_id, piece.groups.first)
        });
        behind
            .checked_sub(1)
            .and_then(|at| self.sorted.get(at))
            .is_some_and(|p| p.file_id == piece.file_id && piece.groups.end() <= p.groups.end())
    }
}

/// Adds a group to pieces, lengthening the last one if it fits.
fn push_group(pieces: &mut Vec<GroupSpan>, file_id: lanyard_protocol::FileId, group: u32) {
    match pieces.last_mut() {
        Some(last) if last.file_id == file_id && last.groups.end() == group => {
            last.groups.count += 1
        }
        _ => pieces.push(GroupSpan::new(file_id, group, 1)),
    }
}

impl Transfers {
    /// REQUEST_CHUNK of an approved session.
    pub(super) fn chunk_requested(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        request: RequestChunk,
        reference: Option<Ref>,
    ) {
        let RequestChunk { transfer_id, public_id, pieces, what, have } = request;
        if let Some(have) = have {
            self.progress.note_have(session, transfer_id, have);
        }
        let asker = Requester::Device { session, transfer: transfer_id };
        self.ask(cx, asker, public_id, what, pieces, reference);
    }

    pub(super) fn ask(
        &mut self,
        cx: &mut Cx<'_>,
        asker: Requester,
        owner: DeviceId,
        what: BodyKind,
        pieces: Vec<GroupSpan>,
        reference: Option<Ref>,
    ) {
        let id = ChunkRequestId(cx.number());
        let ask = ChunkRequest {
            id,
            asker,
            owner,
            what,
            pieces,
            reference,
            tries: 0,
            parked: WaitReason::Retry,
            group: SpeedGroup::ALL,
        };
        self.consider(cx, ask);
    }

    /// Goes through everything an ask needs, from grants to a place in the queue.
    pub(super) fn consider(&mut self, cx: &mut Cx<'_>, mut ask: ChunkRequest) {
        if ask.pieces.is_empty() || ask.pieces.len() > MAX_PIECES {
            return self.ask_misshapen(cx, ask);
        }
        if cx.master.is_refused(ask.owner) {
            return self.ask_failed(cx, ask, FailureCode::PeerRevoked);
        }
        if !matches!(ask.asker, Requester::Link { .. }) {
            self.grants.note_wanted(&ask.files());
        }
        let unknown = self.grants.unknown(cx.now, ask.files());
        if !unknown.is_empty() {
            if !cx.hub_ready() {
                return self.ask_failed(cx, ask, FailureCode::ServerNotReady);
            }
            if !self.look_up(cx, &ask, unknown) {
                return self.ask_failed(cx, ask, FailureCode::Busy);
            }
            ask.parked = WaitReason::Grants;
            self.requests.insert(ask.id, ask);
            return;
        }
        if !self.has_shape(&ask) {
            return self.ask_misshapen(cx, ask);
        }
        let Some(ask) = self.without_changed(cx, ask) else { return };
        match (ask.what, ask.asker) {
            (BodyKind::Hashes, _) => self.consider_hashes(cx, ask),
            (BodyKind::Bytes, Requester::Link { .. }) => self.consider_link(cx, ask),
            (BodyKind::Bytes, _) => self.place(cx, ask),
        }
    }

    /// Within its files, no group twice, and no longer than a run may be. Visits pieces only: a
    /// piece of a list of values may stand for 65,536 groups.
    fn has_shape(&self, ask: &ChunkRequest) -> bool {
        let mut length = 0u64;
        let mut count = 0u64;
        for piece in &ask.pieces {
            self.work.visit(1);
            let file = ask.file(piece);
            let Some(groups) = self.grants.groups(&file) else { return false };
            let fits = piece.groups.count > 0
                && u64::from(piece.groups.first) + u64::from(piece.groups.count)
                    <= u64::from(groups.count());
            // A list of values is of a whole file.
            if !fits || ask.what == BodyKind::Hashes && piece.groups.count != groups.count() {
                return false;
            }
            length += self.piece_length(&file, piece, ask.what);
            count += u64::from(piece.groups.count);
            if length > MAX_RUN_BYTES && count > 1 {
                return false;
            }
        }
        let mut spans: Vec<&GroupSpan> = ask.pieces.iter().collect();
        spans.sort_unstable();
        spans.windows(2).all(|two| {
            two[0].file_id != two[1].file_id || two[0].groups.end() <= two[1].groups.first
        })
    }

    /// Fails the pieces of files that changed, and gives back what is left.
    fn without_changed(&mut self, cx: &mut Cx<'_>, mut ask: ChunkRequest) -> Option<ChunkRequest> {
        let owner = ask.owner;
        let changed = |piece: &GroupSpan, blame: &CorruptionLog| {
            blame.is_changed(&FileRef { public_id: owner, file_id: piece.file_id })
        };
        let gone: Vec<GroupSpan> =
            ask.pieces.iter().filter(|p| changed(p, &self.corruption)).copied().collect();
        if !gone.is_empty() {
            ask.pieces.retain(|p| !changed(p, &self.corruption));
            let part =
                ChunkRequest { id: ChunkRequestId(cx.number()), pieces: gone, ..ask.clone() };
            self.ask_failed(cx, part, FailureCode::FileChanged);
        }
        (!ask.pieces.is_empty()).then_some(ask)
    }

    /// A list of values comes from the relay's memory, else from the holder if the root is known to
    /// check it by.
    fn consider_hashes(&mut self, cx: &mut Cx<'_>, ask: ChunkRequest) {
        let [piece] = ask.pieces.as_slice() else {
            // Each file's list is a body of its own.
            for piece in &ask.pieces {
                let part = ChunkRequest {
                    id: ChunkRequestId(cx.number()),
                    pieces: vec![*piece],
                    ..ask.clone()
                };
                self.consider_hashes(cx, part);
            }
            return;
        };
        let file = ask.file(piece);
        if self.grants.has_hashes(&file) {
            self.open_hashes(cx, ask, file);
        } else if self.grants.root(&file).is_none() || self.grants.hashes_refused(&file) {
            self.ask_failed(cx, ask, FailureCode::NoHashes);
        } else {
            if ask.asker == Requester::Relay {
                self.end_full_list(cx, &file);
            }
            self.place(cx, ask);
        }
    }

    /// Ends a list that lies full in a slot although the relay had to drop what it learnt from it.
    /// The relay learns from an upload only: as one reader more of a full slot it would wait for
    /// good.
    fn end_full_list(&mut self, cx: &mut Cx<'_>, file: &FileRef) {
        let slot = self.slots.holding(file, BodyKind::Hashes, SpeedGroup::ALL, 0);
        if let Some(slot) =
            slot.filter(|slot| self.slots.get(*slot).is_some_and(|s| s.phase == SlotPhase::Full))
        {
            self.fail_slot(cx, slot, FailureCode::Busy, None, true);
        }
    }

    /// Before a link reads a file whose root is known, the relay asks the holder once for the
    /// values to check by.
    fn consider_link(&mut self, cx: &mut Cx<'_>, mut ask: ChunkRequest) {
        let needing = ask.files().into_iter().find(|file| {
            let several = self.grants.groups(file).is_some_and(|g| g.count() > 1);
            let known = self.grants.root(file).is_some();
            several && known && !self.grants.has_hashes(file) && !self.grants.hashes_refused(file)
        });
        let Some(file) = needing else { return self.place(cx, ask) };
        let count = self.grants.groups(&file).map_or(0, |g| g.count());
        ask.parked = WaitReason::Values(file);
        let first = !self.requests.values().any(|other| other.parked == WaitReason::Values(file));
        self.requests.insert(ask.id, ask);
        if first {
            self.ask(
                cx,
                Requester::Relay,
                file.public_id,
                BodyKind::Hashes,
                vec![GroupSpan::new(file.file_id, 0, count)],
                None,
            );
        }
    }

    /// Joins what is live of the asker's groups of speed; what is absent goes into the queue, a run
    /// per holder. Joining and queueing are one step, and the queue opens slots in the same
    /// mutation: no group of bytes is ever in two live slots of one group of speed.
    pub(super) fn place(&mut self, cx: &mut Cx<'_>, ask: ChunkRequest) {
        for (group, pieces) in self.by_speed(cx, &ask) {
            let part =
                ChunkRequest { id: ChunkRequestId(cx.number()), pieces, group, ..ask.clone() };
            self.place_part(cx, part);
        }
    }

    fn place_part(&mut self, cx: &mut Cx<'_>, ask: ChunkRequest) {
        let absent = self.join_live(cx, &ask);
        let mut by_holder: BTreeMap<SessionId, Vec<GroupSpan>> = BTreeMap::new();
        let mut away = Vec::new();
        for piece in absent {
            match self.holder_of(cx, &ask.file(&piece)) {
                Some(holder) => by_holder.entry(holder).or_default().push(piece),
                None => away.push(piece),
            }
        }
        if !away.is_empty() {
            let part =
                ChunkRequest { id: ChunkRequestId(cx.number()), pieces: away, ..ask.clone() };
            self.ask_failed(cx, part, FailureCode::OwnerAway);
        }
        for pieces in by_holder.into_values() {
            let part = ChunkRequest { id: ChunkRequestId(cx.number()), pieces, ..ask.clone() };
            self.enqueue(cx, part);
        }
    }

    fn enqueue(&mut self, cx: &mut Cx<'_>, ask: ChunkRequest) {
        let length = self.length_of(&ask);
        let key = self.asker_key(cx, &ask.asker);
        if !self.queue.has_room(key, length) {
            return self.ask_failed(cx, ask, FailureCode::Busy);
        }
        cx.deadlines.set(
            Timer::Transfer(TransferTimer::AskWaited(ask.id)),
            cx.now.plus(WAITING_TIMEOUT_MS),
        );
        self.queue.push(key, ask, length);
    }

    /// Joins the ask to live slots; gives back the pieces that are in none.
    pub(super) fn join_live(&mut self, cx: &mut Cx<'_>, ask: &ChunkRequest) -> Vec<GroupSpan> {
        let mut live: BTreeMap<SlotId, Vec<GroupSpan>> = BTreeMap::new();
        let mut absent = Vec::new();
        for piece in &ask.pieces {
            let file = ask.file(piece);
            if ask.what == BodyKind::Hashes {
                // A list is there as a whole or not at all.
                self.work.visit(1);
                let pieces =
                    match self.slots.holding(&file, ask.what, ask.group, piece.groups.first) {
                        Some(slot) => live.entry(slot).or_default(),
                        None => &mut absent,
                    };
                pieces.push(*piece);
                continue;
            }
            self.work.visit(piece.groups.count as usize);
            for group in piece.groups.iter() {
                match self.slots.holding(&file, ask.what, ask.group, group) {
                    Some(slot) => push_group(live.entry(slot).or_default(), piece.file_id, group),
                    None => push_group(&mut absent, piece.file_id, group),
                }
            }
        }
        for (slot, pieces) in live {
            self.join(cx, slot, ask.asker, &pieces);
        }
        absent
    }

    pub(super) fn holder_of(&self, cx: &Cx<'_>, file: &FileRef) -> Option<SessionId> {
        let entry = self.grants.entry(file)?;
        cx.sessions.holder(entry.public_id, entry.instance)
    }

    /// Bytes of the body that answers an ask.
    pub(super) fn length_of(&self, ask: &ChunkRequest) -> u64 {
        ask.pieces.iter().map(|piece| self.piece_length(&ask.file(piece), piece, ask.what)).sum()
    }

    pub(super) fn piece_length(&self, file: &FileRef, piece: &GroupSpan, what: BodyKind) -> u64 {
        let groups = self.grants.groups(file).unwrap_or(Groups::of(0));
        match what {
            BodyKind::Bytes => groups.span(piece.groups.first, piece.groups.count),
            BodyKind::Hashes => 32 * u64::from(piece.groups.count),
        }
    }

    fn ask_misshapen(&mut self, cx: &mut Cx<'_>, ask: ChunkRequest) {
        match ask.asker {
            Requester::Device { session, .. } => {
                cx.fail(session, FailureCode::BadMessage, ask.reference)
            }
            Requester::Link { .. } => self.tell_link_failed(cx, &ask, FailureCode::BadMessage),
            Requester::Relay => {}
        }
    }

    /// The one "no" of an ask. A device hears it; a link's ask waits for what it lacks.
    pub(super) fn ask_failed(&mut self, cx: &mut Cx<'_>, ask: ChunkRequest, code: FailureCode) {
        match ask.asker {
            Requester::Device { session, transfer } => {
                self.tell_chunk_failed(cx, session, transfer, ask.pieces, code);
            }
            Requester::Link { .. } => self.link_ask_failed(cx, ask, code),
            Requester::Relay => self.hashes_failed(cx, ask, code),
        }
    }

    pub(super) fn tell_chunk_failed(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        transfer_id: TransferId,
        pieces: Vec<GroupSpan>,
        code: FailureCode,
    ) {
        let retry = code.may_retry();
        let message = ChunkFailed { transfer_id, pieces, code, retry, retry_after_ms: None };
        cx.send(session, RelayToDevice::ChunkFailed(message), None);
    }

    /// The holder gave no list: what waits for it goes on with pins, or waits for the owner.
    fn hashes_failed(&mut self, cx: &mut Cx<'_>, ask: ChunkRequest, code: FailureCode) {
        let Some(piece) = ask.pieces.first() else { return };
        let file = ask.file(piece);
        if code == FailureCode::NoHashes || code == FailureCode::BadBytes {
            self.grants.refuse_hashes(&file);
            return self.retry_parked(cx);
        }
        for waiting in self.take_parked(cx, |parked| *parked == WaitReason::Values(file)) {
            self.ask_failed(cx, waiting, code);
        }
    }

    pub(super) fn take_parked(
        &mut self,
        cx: &mut Cx<'_>,
        matches: impl Fn(&WaitReason) -> bool,
    ) -> Vec<ChunkRequest> {
        let ids: Vec<ChunkRequestId> = self
            .requests
            .iter()
            .filter(|(_, ask)| matches(&ask.parked))
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter()
            .filter_map(|id| {
                cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskRetry(id)));
                self.requests.remove(&id)
            })
            .collect()
    }

    /// Something changed that parked asks may have waited for: an owner, the master, a list.
    pub(super) fn retry_parked(&mut self, cx: &mut Cx<'_>) {
        for ask in self
            .take_parked(cx, |parked| *parked != WaitReason::Grants && *parked != WaitReason::Retry)
        {
            let still_waits = match &ask.parked {
                WaitReason::Values(file) => {
                    !self.grants.has_hashes(file) && !self.grants.hashes_refused(file)
                }
                WaitReason::Owner => ask.files().iter().all(|file| {
                    self.grants.entry(file).is_some() && self.holder_of(cx, file).is_none()
                }),
                WaitReason::Hub => !cx.hub_ready(),
                WaitReason::Grants | WaitReason::Retry => false,
            };
            if still_waits {
                self.requests.insert(ask.id, ask);
            } else {
                self.consider(cx, ask);
            }
        }
    }

    pub(super) fn ask_retried(&mut self, cx: &mut Cx<'_>, id: ChunkRequestId) {
        if let Some(ask) = self.requests.remove(&id) {
            self.consider(cx, ask);
        }
    }

    /// The queue had no room for it for 30 s. A member of a slower group that still has something
    /// to read waits for itself: its group's cap lets it have no more at once.
    pub(super) fn ask_waited(&mut self, cx: &mut Cx<'_>, id: ChunkRequestId) {
        let Some(ask) = self.queue.take(id) else { return };
        let reads = Lane::of(&ask.asker).is_some_and(|lane| self.slots.unread(lane) > 0);
        if reads && self.speeds.cap(ask.group).is_some() {
            let key = self.asker_key(cx, &ask.asker);
            let length = self.length_of(&ask);
            cx.deadlines.set(
                Timer::Transfer(TransferTimer::AskWaited(id)),
                cx.now.plus(WAITING_TIMEOUT_MS),
            );
            return self.queue.push(key, ask, length);
        }
        self.ask_failed(cx, ask, FailureCode::TimedOut);
    }

    /// Ends everything of a session that asks: its tickets, bodies and asks.
    pub(super) fn end_asker(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let ours = |asker: &Requester| matches!(asker, Requester::Device { session: s, .. } if *s == session);
        self.end_asks_where(cx, ours, FailureCode::Cancelled);
    }

    /// CANCEL_CHUNK: of a transfer, all or some groups; running bodies end too.
    pub(super) fn chunk_cancelled(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        cancel: CancelChunk,
        reference: Option<Ref>,
    ) {
        let asker = Requester::Device { session, transfer: cancel.transfer_id };
        match cancel.pieces {
            None => {
                self.speeds.forget_transfer(session, cancel.transfer_id);
                self.progress.cancelled(cx.effects, cx.sessions, session, cancel.transfer_id);
                self.end_asks_where(cx, |other| *other == asker, FailureCode::Cancelled);
            }
            Some(pieces) if pieces.len() > MAX_PIECES => {
                cx.fail(session, FailureCode::BadMessage, reference)
            }
            Some(pieces) => {
                let cover = Cover::new(pieces);
                self.end_asks_covered(cx, asker, |asked| {
                    asked.iter().all(|piece| cover.holds(piece))
                });
            }
        }
    }

    fn end_asks_covered(
        &mut self,
        cx: &mut Cx<'_>,
        asker: Requester,
        covered: impl Fn(&[GroupSpan]) -> bool,
    ) {
        let work = &self.work;
        let covered = |pieces: &[GroupSpan]| {
            work.visit(pieces.len());
            covered(pieces)
        };
        for ask in self.queue.take_where(|ask| ask.asker == asker && covered(&ask.pieces)) {
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskWaited(ask.id)));
        }
        self.requests.retain(|_, ask| !(ask.asker == asker && covered(&ask.pieces)));
        for (slot, reader) in
            self.slots.readers_where(|waiter| waiter.asker == asker && covered(&waiter.pieces))
        {
            self.dismiss(cx, slot, reader, FailureCode::Cancelled);
        }
    }

    /// Ends asks and readers without telling them: they said so themselves, or are gone.
    pub(super) fn end_asks_where(
        &mut self,
        cx: &mut Cx<'_>,
        matches: impl Fn(&Requester) -> bool,
        code: FailureCode,
    ) {
        for ask in self.queue.take_where(|ask| matches(&ask.asker)) {
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskWaited(ask.id)));
        }
        for ask in self.requests.values().filter(|ask| matches(&ask.asker)) {
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskRetry(ask.id)));
        }
        self.requests.retain(|_, ask| !matches(&ask.asker));
        for (slot, reader) in self.slots.readers_where(|waiter| matches(&waiter.asker)) {
            self.dismiss(cx, slot, reader, code);
        }
    }

    /// Fails what is asked of these files but not yet in a slot. Each ask is visited once, however
    /// many files there are.
    pub(super) fn fail_asks_of(
        &mut self,
        cx: &mut Cx<'_>,
        files: &BTreeSet<FileRef>,
        code: FailureCode,
    ) {
        if files.is_empty() {
            return;
        }
        let work = &self.work;
        let about = |ask: &ChunkRequest| {
            work.visit(ask.pieces.len());
            ask.pieces.iter().any(|piece| files.contains(&ask.file(piece)))
        };
        let mut asks = self.queue.take_where(about);
        for ask in &asks {
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskWaited(ask.id)));
        }
        let parked: Vec<ChunkRequestId> =
            self.requests.values().filter(|ask| about(ask)).map(|ask| ask.id).collect();
        for id in parked {
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskRetry(id)));
            asks.extend(self.requests.remove(&id));
        }
        for ask in asks {
            let (gone, rest): (Vec<GroupSpan>, Vec<GroupSpan>) =
                ask.pieces.iter().partition(|piece| files.contains(&ask.file(piece)));
            let part =
                ChunkRequest { id: ChunkRequestId(cx.number()), pieces: gone, ..ask.clone() };
            self.ask_failed(cx, part, code);
            if !rest.is_empty() {
                let part = ChunkRequest { id: ChunkRequestId(cx.number()), pieces: rest, ..ask };
                self.consider(cx, part);
            }
        }
    }

    /// Fails what is asked of a device.
    pub(super) fn fail_asks_to(&mut self, cx: &mut Cx<'_>, device: DeviceId, code: FailureCode) {
        let mut asks = self.queue.take_where(|ask| ask.owner == device);
        let parked: Vec<ChunkRequestId> =
            self.requests.values().filter(|ask| ask.owner == device).map(|ask| ask.id).collect();
        asks.extend(parked.into_iter().filter_map(|id| self.requests.remove(&id)));
        for ask in asks {
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskWaited(ask.id)));
            cx.deadlines.clear(&Timer::Transfer(TransferTimer::AskRetry(ask.id)));
            self.ask_failed(cx, ask, code);
        }
    }

    /// The holder's no, instead of or during its PUT.
    pub(super) fn chunk_unavailable(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        no: ChunkUnavailable,
    ) {
        let Some(slot) = self.slots.by_ticket(&no.ticket) else { return };
        if self.slots.get(slot).is_none_or(|s| s.holder != session) {
            return;
        }
        let owner = cx.sessions.get(session).map(|s| s.identity.public_id);
        let culprit =
            no.file_id.zip(owner).map(|(file_id, public_id)| FileRef { public_id, file_id });
        let culprit = culprit.filter(|file| self.slots.get(slot).is_some_and(|s| s.has_file(file)));
        let culprit = culprit.or_else(|| self.slots.get(slot).and_then(|s| s.only_file()));
        let is_final = matches!(
            no.code,
            FailureCode::FileGone | FailureCode::FileChanged | FailureCode::NoHashes
        );
        // Any other reason is the holder's own affair: its askers try again.
        let code = if is_final { no.code } else { FailureCode::Busy };
        self.fail_slot(cx, slot, code, culprit, false);
        if let (FailureCode::FileChanged, Some(file)) = (code, culprit) {
            self.file_changed(cx, file);
        }
    }

    /// A link's ask cannot go on: for good it is cut, else it waits for what it lacks.
    pub(super) fn link_ask_failed(
        &mut self,
        cx: &mut Cx<'_>,
        mut ask: ChunkRequest,
        code: FailureCode,
    ) {
        let Requester::Link { reader, want, .. } = ask.asker else { return };
        if !code.may_retry() {
            return self.tell_link_failed(cx, &ask, code);
        }
        cx.effects.push(Effect::Link(LinkEffect::Waits { reader, want, code }));
        ask.tries += 1;
        // Owner and master are told of when they come; anything else is tried again after a while
        // that doubles, so that the askers of a busy holder do not come back all at once.
        ask.parked = if code == FailureCode::OwnerAway {
            WaitReason::Owner
        } else if code == FailureCode::ServerNotReady {
            WaitReason::Hub
        } else {
            let longest = 200u64.saturating_mul(1 << ask.tries.min(10)).min(15_000);
            let wait = cx.ids.below(longest) + 1;
            cx.deadlines.set(Timer::Transfer(TransferTimer::AskRetry(ask.id)), cx.now.plus(wait));
            WaitReason::Retry
        };
        self.requests.insert(ask.id, ask);
    }

    pub(super) fn tell_link_failed(
        &mut self,
        cx: &mut Cx<'_>,
        ask: &ChunkRequest,
        code: FailureCode,
    ) {
        let (Requester::Link { reader, want, .. }, Some(piece)) = (ask.asker, ask.pieces.first())
        else {
            return;
        };
        let file = ask.file(piece);
        cx.effects.push(Effect::Link(LinkEffect::Failed { reader, want, code, file }));
    }
}
