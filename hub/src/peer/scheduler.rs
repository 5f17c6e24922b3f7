//! All downloads of this device: whose turn it is, what was asked, what is being fetched, what
//! becomes of failures.

use std::collections::BTreeMap;

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::message::{
    CancelChunk, ChunkFailed, ChunkReady, RequestChunk, RequestFailed,
};
use lanyard_protocol::{
    DeviceId, DeviceToRelay, FailureCode, FileId, GroupRange, GroupSpan, Ticket, TransferId,
};

use super::mirror::CatalogueView;
use super::transfer::{JobState, Transfer};
use super::window::InFlightLimit;
use super::{CloseReason, Effect, FetchId, FetchOutcome, Peer, Timer, TransferOrder};
use crate::machine::Moment;

/// Longer than the relay lets a request wait for room and for its owner: nobody speaks of it any
/// more.
const ASK_LAPSES_MS: u64 = 60_000;
/// Groups that differ from the list so often in a row are not the listed ones at all: the relay
/// decides over the whole.
const MOST_BAD_TRIES: u32 = 4;
/// A file that failed is asked for again after random(0 … min(cap, base · 2^n)).
const RETRY_BASE_MS: u64 = 200;
const RETRY_CAP_MS: u64 = 15_000;
/// A relay that has seen all groups of a file tells the root at once, by way of the master. One
/// that began in the middle does not; then what is here is what came.
const ROOT_WAIT_MS: u64 = 2_000;
/// A transfer that waits for its owner also retries by itself, in case the message was missed.
const LOOK_AGAIN_MS: u64 = 15_000;

/// A request on its way to the relay's answer.
#[derive(Debug, Clone)]
struct PendingRequest {
    transfer_id: TransferId,
    what: BodyKind,
    /// Pieces that neither CHUNK_READY nor CHUNK_FAILED has named.
    pieces: Vec<GroupSpan>,
    since: Moment,
}

/// A GET on its way.
#[derive(Debug, Clone)]
struct ActiveFetch {
    transfer_id: TransferId,
    what: BodyKind,
    pieces: Vec<GroupSpan>,
    ticket: Ticket,
    since: Moment,
}

#[derive(Debug, Default)]
pub(super) struct Scheduler {
    transfers: BTreeMap<TransferId, Transfer>,
    /// By the reference of their request.
    asks: BTreeMap<u64, PendingRequest>,
    fetches: BTreeMap<FetchId, ActiveFetch>,
    last_fetch: u64,
    pace: InFlightLimit,
    /// The transfer that had the last turn.
    turn: Option<TransferId>,
}

/// Takes groups out of `pieces`; gives back those that were there.
fn take(pieces: &mut Vec<GroupSpan>, taken: &GroupSpan) -> Vec<GroupSpan> {
    let mut found = Vec::new();
    let mut rest = Vec::new();
    pieces.retain(|piece| {
        let first = piece.groups.first.max(taken.groups.first);
        let end = piece.groups.end().min(taken.groups.end());
        if piece.file_id != taken.file_id || first >= end {
            return true;
        }
        found.push(GroupSpan::new(piece.file_id, first, end - first));
        for (from, to) in [(piece.groups.first, first), (end, piece.groups.end())] {
            if from < to {
                rest.push(GroupSpan::new(piece.file_id, from, to - from));
            }
        }
        false
    });
    pieces.extend(rest);
    found
}

impl Scheduler {
    pub(super) fn get(
        &mut self,
        transfer_id: TransferId,
        file_id: FileId,
    ) -> Option<&mut super::transfer::FileJob> {
        self.transfers.get_mut(&transfer_id)?.jobs.get_mut(&file_id)
    }

    fn of_owner(&self, owner: DeviceId) -> Vec<TransferId> {
        self.transfers
            .iter()
            .filter(|(_, transfer)| transfer.owner == owner)
            .map(|(id, _)| *id)
            .collect()
    }

    fn wanting_roots(&self) -> Vec<(TransferId, FileId)> {
        let wanting = |(id, transfer): (&TransferId, &Transfer)| {
            let jobs = transfer.jobs.iter().filter(|(_, job)| job.state == JobState::WantsRoot);
            jobs.map(|(file_id, _)| (*id, *file_id)).collect::<Vec<_>>()
        };
        self.transfers.iter().flat_map(wanting).collect()
    }

    fn under_way(&self, transfer_id: TransferId) -> usize {
        let asked = self.asks.values().filter(|ask| ask.transfer_id == transfer_id).count();
        asked + self.fetches.values().filter(|fetch| fetch.transfer_id == transfer_id).count()
    }

    /// The next request, one transfer after the other.
    fn next(&mut self) -> Option<(TransferId, BodyKind, Vec<GroupSpan>)> {
        if self.asks.len() + self.fetches.len() >= self.pace.runs {
            return None;
        }
        let mut order: Vec<TransferId> = self.transfers.keys().copied().collect();
        let after = order.iter().position(|id| Some(*id) > self.turn).unwrap_or(0);
        order.rotate_left(after);
        for transfer_id in order {
            let under_way = self.under_way(transfer_id);
            let Some(transfer) = self.transfers.get_mut(&transfer_id) else { continue };
            if transfer.paused || under_way >= transfer.window.runs() {
                continue;
            }
            if let Some((what, pieces)) = transfer.next_run(self.pace.run_bytes) {
                self.turn = Some(transfer_id);
                return Some((transfer_id, what, pieces));
            }
        }
        None
    }

    /// Takes groups out of the transfer's asks. If one of them was not asked for, the others are
    /// given back: what is said of them belongs to an older ask, and they must be asked for again.
    /// Else what was asked, and when.
    fn answered(
        &mut self,
        transfer_id: TransferId,
        pieces: &[GroupSpan],
    ) -> Result<(BodyKind, Moment), Vec<GroupSpan>> {
        // Nearly always an answer is to one ask, in full: a bundle of 256 pieces is not searched
        // piece by piece.
        let whole =
            |ask: &&mut PendingRequest| ask.transfer_id == transfer_id && ask.pieces == pieces;
        if let Some(ask) = self.asks.values_mut().find(whole) {
            ask.pieces.clear();
            return Ok((ask.what, ask.since));
        }
        let (mut asked, mut all, mut taken) = (None, true, Vec::new());
        for piece in pieces {
            let mut left = piece.groups.count;
            for ask in self.asks.values_mut().filter(|ask| ask.transfer_id == transfer_id) {
                let found = take(&mut ask.pieces, piece);
                if !found.is_empty() {
                    asked = Some((ask.what, ask.since));
                    left = left.saturating_sub(found.iter().map(|part| part.groups.count).sum());
                    taken.extend(found);
                }
            }
            all &= left == 0;
        }
        asked.filter(|_| all).ok_or(taken)
    }

    /// Asks that are answered in full.
    fn drop_answered(&mut self) -> Vec<Timer> {
        let done: Vec<u64> =
            self.asks.iter().filter(|(_, ask)| ask.pieces.is_empty()).map(|(r, _)| *r).collect();
        done.into_iter()
            .inspect(|reference| drop(self.asks.remove(reference)))
            .map(Timer::Asked)
            .collect()
    }

    /// Everything on its way died with the session. Returns the deadlines that died too.
    pub(super) fn session_over(&mut self) -> Vec<Timer> {
        let mut timers: Vec<Timer> =
            std::mem::take(&mut self.asks).into_keys().map(Timer::Asked).collect();
        self.fetches.clear();
        for (transfer_id, transfer) in &mut self.transfers {
            let waiting = transfer.jobs.iter().filter(|(_, job)| job.waiting.is_some());
            timers.extend(waiting.map(|(file_id, _)| Timer::Retry(*transfer_id, *file_id)));
            transfer.nothing_under_way();
        }
        timers
    }

    /// The wait of one file is over.
    pub(super) fn retry(&mut self, transfer_id: TransferId, file_id: FileId) {
        let Some(transfer) = self.transfers.get_mut(&transfer_id) else { return };
        if let Some(job) = transfer.jobs.get_mut(&file_id) {
            job.waiting = None;
        }
        transfer.enqueue(file_id);
    }

    fn wake(&mut self, code: FailureCode, owner: Option<DeviceId>) {
        for transfer in self
            .transfers
            .values_mut()
            .filter(|transfer| owner.is_none_or(|id| transfer.owner == id))
        {
            transfer.wake(code);
        }
    }

    /// The owner is there again, or lists something.
    pub(super) fn owner_back(&mut self, owner: DeviceId) {
        self.wake(FailureCode::OwnerAway, Some(owner));
    }

    /// The master is there again.
    pub(super) fn hub_back(&mut self) {
        self.wake(FailureCode::ServerNotReady, None);
    }

    /// After a pull: owners that are online are worth a try.
    pub(super) fn owners_listed(&mut self, catalogue: &CatalogueView) {
        for owner in &catalogue.online {
            self.owner_back(*owner);
        }
    }

    pub(super) fn consumed(&mut self, transfer_id: TransferId, file_id: FileId, groups: u32) {
        if let Some(job) = self.get(transfer_id, file_id) {
            job.consumed = job.consumed.max(groups);
        }
    }

    /// Others read this file from here on: who goes on here shares their uploads, and what is left
    /// comes afterwards.
    pub(super) fn join_at(&mut self, transfer_id: TransferId, file_id: FileId, group: u32) {
        if let Some(job) = self.get(transfer_id, file_id) {
            job.from = group;
        }
    }

    /// All together take no more than this a second.
    pub(super) fn limit(&mut self, bytes_a_second: Option<u64>) {
        self.pace = InFlightLimit::of(bytes_a_second);
    }

    pub(super) fn resume(&mut self, transfer_id: TransferId) {
        if let Some(transfer) = self.transfers.get_mut(&transfer_id) {
            transfer.paused = false;
        }
    }
}

impl Peer {
    pub(super) fn start_transfer(&mut self, now: Moment, order: TransferOrder) {
        let transfer_id = order.transfer_id;
        if self.scheduler.transfers.contains_key(&transfer_id) {
            return;
        }
        self.scheduler.transfers.insert(transfer_id, Transfer::new(&order));
        for file in &order.files {
            self.close_if_whole(now, transfer_id, file.file_id);
        }
        self.end_if_over(transfer_id);
    }

    /// Asks as long as there is something to ask and room for it, then tells what changed.
    pub(super) fn pump(&mut self, now: Moment) {
        while self.session.approved() && !self.session.stopping() {
            let Some((transfer_id, what, pieces)) = self.scheduler.next() else { break };
            self.ask(now, transfer_id, what, pieces);
        }
        let ids: Vec<TransferId> = self.scheduler.transfers.keys().copied().collect();
        ids.into_iter().for_each(|transfer_id| self.tell_transfer(transfer_id));
    }

    fn ask(
        &mut self,
        now: Moment,
        transfer_id: TransferId,
        what: BodyKind,
        pieces: Vec<GroupSpan>,
    ) {
        let Some(transfer) = self.scheduler.transfers.get(&transfer_id) else { return };
        let one = pieces
            .first()
            .filter(|first| pieces.iter().all(|piece| piece.file_id == first.file_id));
        let have =
            one.and_then(|piece| transfer.jobs.get(&piece.file_id)).map(|job| job.have_bytes());
        let request = RequestChunk {
            transfer_id,
            public_id: transfer.owner,
            pieces: pieces.clone(),
            what,
            have,
        };
        let reference = self.next_reference();
        self.scheduler
            .asks
            .insert(reference, PendingRequest { transfer_id, what, pieces, since: now });
        self.timers.set(Timer::Asked(reference), now.plus(ASK_LAPSES_MS));
        self.send(DeviceToRelay::RequestChunk(request), Some(reference));
    }

    fn tell_transfer(&mut self, transfer_id: TransferId) {
        let idle = self.scheduler.under_way(transfer_id) == 0;
        let (approved, hub) = (self.session.approved(), FailureCode::ServerNotReady);
        let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) else { return };
        let waits_for = match idle {
            false => None,
            true if !approved => Some(hub),
            true if transfer.has_queue() => None,
            true => transfer.waits_for(),
        };
        let paused = transfer.paused;
        if transfer.told.replace((waits_for, paused)) != Some((waits_for, paused)) {
            self.effects.push(Effect::TransferChanged { transfer_id, waits_for, paused });
        }
    }

    // ── Answers
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn chunk_ready(&mut self, now: Moment, ready: ChunkReady) {
        let ChunkReady { transfer_id, pieces, ticket, length } = ready;
        if self.scheduler.fetches.values().any(|fetch| fetch.ticket == ticket) {
            return; // said twice
        }
        let answered = self.scheduler.answered(transfer_id, &pieces);
        self.drop_answered_asks();
        let (what, owner) = match (answered, self.scheduler.transfers.get_mut(&transfer_id)) {
            (Ok((what, since)), Some(transfer)) => {
                transfer.window.ready(now.since(since));
                (what, transfer.owner)
            }
            (answered, _) => {
                // Asked for no longer; without a word the relay would keep the bytes for us. The
                // cancel ends newer asks of these groups, too.
                let cancel = CancelChunk { transfer_id, pieces: Some(pieces) };
                self.send(DeviceToRelay::CancelChunk(cancel), None);
                let again = answered.err().unwrap_or_default();
                return self.pieces_failed(now, transfer_id, &again, FailureCode::Busy, None);
            }
        };
        self.scheduler.last_fetch += 1;
        let fetch = FetchId(self.scheduler.last_fetch);
        self.scheduler.fetches.insert(
            fetch,
            ActiveFetch { transfer_id, what, pieces: pieces.clone(), ticket, since: now },
        );
        self.effects.push(Effect::Fetch {
            fetch,
            transfer_id,
            owner,
            pieces,
            what,
            ticket,
            length,
        });
    }

    pub(super) fn chunk_failed(&mut self, now: Moment, failed: ChunkFailed) {
        let answered = self.scheduler.answered(failed.transfer_id, &failed.pieces);
        self.drop_answered_asks();
        if let Err(again) = answered {
            return self.pieces_failed(now, failed.transfer_id, &again, FailureCode::Busy, None);
        }
        let code = match failed.code {
            // Said final by a relay that knows more codes than this device.
            code if !failed.retry && !is_final(code) && code != FailureCode::NoHashes => {
                FailureCode::FileGone
            }
            code => code,
        };
        if matches!(code, FailureCode::Busy | FailureCode::TimedOut | FailureCode::BadBytes) {
            self.slow_down(failed.transfer_id, failed.pieces.first().copied());
        }
        self.pieces_failed(now, failed.transfer_id, &failed.pieces, code, failed.retry_after_ms);
    }

    /// REQUEST_FAILED to a REQUEST_CHUNK.
    pub(super) fn ask_refused(&mut self, now: Moment, reference: u64, failed: RequestFailed) {
        let Some(ask) = self.scheduler.asks.remove(&reference) else { return };
        self.timers.clear(&Timer::Asked(reference));
        self.pieces_failed(now, ask.transfer_id, &ask.pieces, failed.code, failed.retry_after_ms);
    }

    pub(super) fn ask_lapsed(&mut self, now: Moment, reference: u64) {
        let Some(ask) = self.scheduler.asks.remove(&reference) else { return };
        let cancel = CancelChunk { transfer_id: ask.transfer_id, pieces: Some(ask.pieces.clone()) };
        self.send(DeviceToRelay::CancelChunk(cancel), None);
        self.pieces_failed(now, ask.transfer_id, &ask.pieces, FailureCode::TimedOut, None);
    }

    fn drop_answered_asks(&mut self) {
        for timer in self.scheduler.drop_answered() {
            self.timers.clear(&timer);
        }
    }

    fn slow_down(&mut self, transfer_id: TransferId, piece: Option<GroupSpan>) {
        let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) else { return };
        let job = piece.and_then(|piece| transfer.jobs.get(&piece.file_id));
        transfer.window.bad(
            1 << job.map_or(lanyard_protocol::group::MIN_GROUP_LOG, |job| job.groups.group_log),
        );
    }

    // ── Bytes
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn stored(&mut self, now: Moment, transfer_id: TransferId, pieces: &[GroupSpan]) {
        for GroupSpan { file_id, groups } in pieces {
            let job = self.scheduler.get(transfer_id, *file_id);
            let Some(job) = job.filter(|job| !job.is_over()) else { continue };
            job.have.insert(*groups);
            job.missing.remove(*groups);
            job.tries = 0;
            if job.is_whole() {
                self.close_if_whole(now, transfer_id, *file_id);
            }
        }
    }

    /// Stored groups that are not what the list says.
    pub(super) fn rejected(
        &mut self,
        transfer_id: TransferId,
        file_id: FileId,
        groups: &[GroupRange],
    ) {
        let Some(job) = self.scheduler.get(transfer_id, file_id) else { return };
        for range in groups {
            job.have.remove(*range);
            job.missing.insert(*range);
        }
    }

    pub(super) fn fetch_ended(&mut self, now: Moment, fetch: FetchId, outcome: FetchOutcome) {
        let Some(ActiveFetch { transfer_id, what, pieces, since, .. }) =
            self.scheduler.fetches.remove(&fetch)
        else {
            return;
        };
        if what == BodyKind::Hashes {
            return self.hashes_ended(transfer_id, &pieces, outcome == FetchOutcome::Complete);
        }
        match outcome {
            FetchOutcome::Complete => {
                self.speed_up(transfer_id, &pieces, now.since(since));
                self.pieces_failed(now, transfer_id, &pieces, FailureCode::BadBytes, None);
            }
            FetchOutcome::Cut => {
                self.slow_down(transfer_id, pieces.first().copied());
                self.pieces_failed(now, transfer_id, &pieces, FailureCode::Busy, None);
            }
            FetchOutcome::Refused { code, retry_after_ms } => {
                // The status of a bundle does not say whose fault it is; asked again, the relay's
                // message will.
                let bundle = pieces.windows(2).any(|pair| pair[0].file_id != pair[1].file_id);
                let code = if bundle && is_final(code) { FailureCode::Busy } else { code };
                self.pieces_failed(now, transfer_id, &pieces, code, retry_after_ms);
            }
            FetchOutcome::LocalFailure { message } => self.fail_transfer(transfer_id, &message),
        }
    }

    fn speed_up(&mut self, transfer_id: TransferId, pieces: &[GroupSpan], took_ms: u64) {
        let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) else { return };
        let job = pieces.first().and_then(|piece| transfer.jobs.get(&piece.file_id));
        if let Some(job) = job {
            transfer.window.good(took_ms, 1 << job.groups.group_log);
        }
    }

    /// Pieces that are no longer on their way: what of them is not stored has failed with `code`.
    fn pieces_failed(
        &mut self,
        now: Moment,
        id: TransferId,
        pieces: &[GroupSpan],
        code: FailureCode,
        after_ms: Option<u64>,
    ) {
        let mut files: Vec<FileId> = Vec::new();
        for piece in pieces {
            let Some(job) = self.scheduler.get(id, piece.file_id) else { continue };
            if job.is_over() {
                continue;
            }
            job.give_back(piece.groups);
            let unfinished =
                !job.have.gaps(piece.groups).is_empty() || job.state == JobState::AskedHashes;
            if unfinished && files.last() != Some(&piece.file_id) {
                files.push(piece.file_id);
            }
        }
        for file_id in files {
            self.file_setback(now, id, file_id, code, after_ms);
        }
    }

    fn file_setback(
        &mut self,
        now: Moment,
        id: TransferId,
        file_id: FileId,
        code: FailureCode,
        after_ms: Option<u64>,
    ) {
        let Some(job) = self.scheduler.get(id, file_id) else { return };
        if job.state == JobState::AskedHashes {
            return self.refetch(id, file_id);
        }
        if is_final(code) {
            return self.fail_file(id, file_id, code, None);
        }
        let tries = job.tries;
        if code == FailureCode::BadBytes && tries >= MOST_BAD_TRIES {
            return self.refetch(id, file_id);
        }
        job.tries = tries.saturating_add(1);
        if let Some(transfer) = self.scheduler.transfers.get_mut(&id) {
            transfer.waits(file_id, code);
        }
        let comes_back = matches!(code, FailureCode::OwnerAway | FailureCode::ServerNotReady);
        let wait = if comes_back {
            LOOK_AGAIN_MS + self.ids.below(LOOK_AGAIN_MS)
        } else {
            self.ids.below((RETRY_BASE_MS << tries.min(10)).min(RETRY_CAP_MS) + 1)
        };
        self.timers.set(Timer::Retry(id, file_id), now.plus(wait.max(after_ms.unwrap_or(0))));
    }

    // ── Closing files
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Checks a file whose groups are all here against its root. Waits a moment for an unknown
    /// root, because only the root shows damage that came after the relay's own check.
    fn close_if_whole(&mut self, now: Moment, transfer_id: TransferId, file_id: FileId) {
        let owner = self.scheduler.transfers.get(&transfer_id).map(|transfer| transfer.owner);
        let entry = owner.and_then(|public_id| {
            let file = lanyard_protocol::FileRef { public_id, file_id };
            self.mirror.catalogue().files.get(&file)
        });
        let (is_listed, root) = (entry.is_some(), entry.and_then(|entry| entry.root));
        let may_come = is_listed && self.session.hub_here();
        let Some(job) = self.scheduler.get(transfer_id, file_id).filter(|job| job.is_whole())
        else {
            return;
        };
        job.root = root.or(job.root);
        match (job.state, job.root) {
            (JobState::Fetching, None) if may_come && job.groups.count() > 0 => {
                job.state = JobState::WantsRoot;
                self.timers.set(Timer::Root(transfer_id, file_id), now.plus(ROOT_WAIT_MS));
            }
            (JobState::Fetching, _) | (JobState::WantsRoot, Some(_)) => {
                self.close(transfer_id, file_id)
            }
            _ => {}
        }
    }

    fn close(&mut self, transfer_id: TransferId, file_id: FileId) {
        self.timers.clear(&Timer::Root(transfer_id, file_id));
        let Some(job) = self.scheduler.get(transfer_id, file_id) else { return };
        job.state = JobState::Closing;
        let root = job.root;
        self.effects.push(Effect::CloseFile { transfer_id, file_id, root });
    }

    /// Roots of an owner's files became known.
    pub(super) fn roots_known(&mut self, now: Moment, owner: DeviceId, files: &[FileId]) {
        for transfer_id in self.scheduler.of_owner(owner) {
            files.iter().for_each(|file_id| self.close_if_whole(now, transfer_id, *file_id));
        }
    }

    /// After a pull anything may be known.
    pub(super) fn any_root_known(&mut self, now: Moment) {
        for (transfer_id, file_id) in self.scheduler.wanting_roots() {
            self.close_if_whole(now, transfer_id, file_id);
        }
    }

    /// No root came.
    pub(super) fn root_waited(&mut self, transfer_id: TransferId, file_id: FileId) {
        let job = self.scheduler.get(transfer_id, file_id);
        if job.is_some_and(|job| job.state == JobState::WantsRoot) {
            self.close(transfer_id, file_id);
        }
    }

    pub(super) fn file_closed(
        &mut self,
        transfer_id: TransferId,
        file_id: FileId,
        outcome: CloseReason,
    ) {
        let Some(job) =
            self.scheduler.get(transfer_id, file_id).filter(|job| job.state == JobState::Closing)
        else {
            return;
        };
        match outcome {
            CloseReason::Done => {
                job.state = JobState::Done;
                self.effects.push(Effect::FileDone { transfer_id, file_id });
                if let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) {
                    transfer.done += 1;
                }
                self.end_if_over(transfer_id);
            }
            CloseReason::Mismatch if job.mismatches == 0 && job.groups.count() > 1 => {
                job.mismatches = 1;
                job.state = JobState::WantsHashes;
                if let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) {
                    transfer.enqueue(file_id);
                }
            }
            CloseReason::Mismatch => self.refetch(transfer_id, file_id),
            CloseReason::LocalFailure { message } => {
                self.fail_file(transfer_id, file_id, FailureCode::Internal, Some(message));
            }
        }
    }

    /// The list of values came (the driver compared it before), or did not.
    fn hashes_ended(&mut self, transfer_id: TransferId, pieces: &[GroupSpan], complete: bool) {
        let Some(file_id) = pieces.first().map(|piece| piece.file_id) else { return };
        let Some(job) = self.scheduler.get(transfer_id, file_id) else { return };
        if job.state != JobState::AskedHashes {
            return;
        }
        if !complete || job.is_whole() {
            return self.refetch(transfer_id, file_id);
        }
        job.state = JobState::Fetching;
        if let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) {
            transfer.enqueue(file_id);
        }
    }

    /// Nobody can tell which groups are wrong: all of them again, once.
    fn refetch(&mut self, transfer_id: TransferId, file_id: FileId) {
        let Some(job) = self.scheduler.get(transfer_id, file_id) else { return };
        if job.mismatches >= 2 {
            return self.fail_file(transfer_id, file_id, FailureCode::FileChanged, None);
        }
        job.mismatches = 2;
        job.start_over();
        self.effects.push(Effect::DiscardFile { transfer_id, file_id });
        if let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) {
            transfer.enqueue(file_id);
        }
    }

    // ── Ends
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn fail_files(&mut self, owner: DeviceId, file_ids: &[FileId], code: FailureCode) {
        let of_owner =
            self.scheduler.transfers.iter().filter(|(_, transfer)| transfer.owner == owner);
        for transfer_id in of_owner.map(|(id, _)| *id).collect::<Vec<_>>() {
            for file_id in file_ids {
                self.fail_file(transfer_id, *file_id, code, None);
            }
        }
    }

    pub(super) fn owner_revoked(&mut self, owner: DeviceId) {
        for transfer_id in self.scheduler.of_owner(owner) {
            let Some(transfer) = self.scheduler.transfers.get(&transfer_id) else { continue };
            for file_id in transfer.jobs.keys().copied().collect::<Vec<_>>() {
                self.fail_file(transfer_id, file_id, FailureCode::PeerRevoked, None);
            }
        }
    }

    fn fail_transfer(&mut self, transfer_id: TransferId, message: &str) {
        let Some(transfer) = self.scheduler.transfers.get(&transfer_id) else { return };
        let files: Vec<FileId> = transfer.jobs.keys().copied().collect();
        self.stop_asking(transfer_id);
        for file_id in files {
            self.fail_file(transfer_id, file_id, FailureCode::Internal, Some(message.into()));
        }
    }

    fn fail_file(
        &mut self,
        transfer_id: TransferId,
        file_id: FileId,
        code: FailureCode,
        message: Option<String>,
    ) {
        let Some(job) = self.scheduler.get(transfer_id, file_id).filter(|job| !job.is_over())
        else {
            return;
        };
        job.state = JobState::Failed;
        job.waiting = None;
        self.timers.clear(&Timer::Retry(transfer_id, file_id));
        self.timers.clear(&Timer::Root(transfer_id, file_id));
        self.effects.push(Effect::FileFailed { transfer_id, file_id, code, message });
        if let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) {
            transfer.failed += 1;
        }
        self.drop_useless_fetches(transfer_id);
        self.end_if_over(transfer_id);
    }

    /// GETs that carry nothing but failed files.
    fn drop_useless_fetches(&mut self, transfer_id: TransferId) {
        let Some(transfer) = self.scheduler.transfers.get(&transfer_id) else { return };
        let over = |piece: &GroupSpan| {
            transfer.jobs.get(&piece.file_id).is_none_or(|job| job.state == JobState::Failed)
        };
        let fetches = self.scheduler.fetches.iter();
        let useless = fetches
            .filter(|(_, fetch)| fetch.transfer_id == transfer_id && fetch.pieces.iter().all(over));
        for fetch in useless.map(|(fetch, _)| *fetch).collect::<Vec<_>>() {
            self.scheduler.fetches.remove(&fetch);
            self.effects.push(Effect::CancelFetch { fetch });
        }
    }

    fn end_if_over(&mut self, transfer_id: TransferId) {
        if self.scheduler.transfers.get(&transfer_id).is_some_and(Transfer::is_over) {
            self.stop_asking(transfer_id);
            if let Some(transfer) = self.scheduler.transfers.remove(&transfer_id) {
                let (done, failed) = (transfer.done, transfer.failed);
                self.effects.push(Effect::TransferEnded { transfer_id, done, failed });
            }
        }
    }

    /// Takes back all that is on its way; it is missing again.
    fn stop_asking(&mut self, transfer_id: TransferId) {
        if self.scheduler.under_way(transfer_id) > 0 && self.session.approved() {
            self.send(DeviceToRelay::CancelChunk(CancelChunk { transfer_id, pieces: None }), None);
        }
        let asks = self.scheduler.asks.iter().filter(|(_, ask)| ask.transfer_id == transfer_id);
        for reference in asks.map(|(reference, _)| *reference).collect::<Vec<_>>() {
            self.scheduler.asks.remove(&reference);
            self.timers.clear(&Timer::Asked(reference));
        }
        let fetches =
            self.scheduler.fetches.iter().filter(|(_, fetch)| fetch.transfer_id == transfer_id);
        for fetch in fetches.map(|(fetch, _)| *fetch).collect::<Vec<_>>() {
            self.scheduler.fetches.remove(&fetch);
            self.effects.push(Effect::CancelFetch { fetch });
        }
        let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) else { return };
        for file_id in transfer.jobs.keys() {
            // A root that is waited for is not asked for: who pauses now still gets what is here.
            self.timers.clear(&Timer::Retry(transfer_id, *file_id));
        }
        transfer.nothing_under_way();
    }

    pub(super) fn pause(&mut self, transfer_id: TransferId) {
        self.stop_asking(transfer_id);
        if let Some(transfer) = self.scheduler.transfers.get_mut(&transfer_id) {
            transfer.paused = true;
        }
    }

    pub(super) fn cancel(&mut self, transfer_id: TransferId) {
        self.stop_asking(transfer_id);
        if let Some(transfer) = self.scheduler.transfers.remove(&transfer_id) {
            for file_id in transfer.jobs.keys() {
                self.timers.clear(&Timer::Root(transfer_id, *file_id));
            }
            let (done, failed) = (transfer.done, transfer.failed);
            self.effects.push(Effect::TransferEnded { transfer_id, done, failed });
        }
    }
}

/// Codes after which asking again is useless (PROTOCOL.md 6).
fn is_final(code: FailureCode) -> bool {
    use FailureCode::{BadMessage, FileChanged, FileGone, NotApproved, NotFound, PeerRevoked};
    matches!(code, FileGone | FileChanged | PeerRevoked | NotApproved | NotFound | BadMessage)
}
