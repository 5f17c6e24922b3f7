//! Links: the relay as the asker behind a `/d/` address. What a link holds is the master's; here it is a copy that may be
//! asked for again. A link's want waits for an absent owner or master as long as its reader stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lanyard_protocol::chunk::What;
use lanyard_protocol::limits::{LINK_LOOKUP_WAIT_MS, LINK_USED_INTERVAL_MS};
use lanyard_protocol::message::{LinkDrop, LinkGrant, LinkLookup, LinkRequest, LinkUsed};
use lanyard_protocol::{DeviceId, FailureCode, FileRef, LinkHash, Piece, Ref, RelayToMaster};

use super::asks::{Ask, Asker, Parked};
use super::*;

/// What an HTTP request about a link waits for.
#[derive(Debug, Clone)]
enum Call {
    Make { reference: Ref },
    Find { hash: LinkHash, reference: Option<Ref> },
    Drop { hash: LinkHash, reference: Ref },
}

impl Call {
    fn reference(&self) -> Option<&Ref> {
        match self {
            Call::Make { reference, .. } | Call::Drop { reference, .. } => Some(reference),
            Call::Find { reference, .. } => reference.as_ref(),
        }
    }
}

#[derive(Debug)]
struct Known {
    info: Arc<LinkInfo>,
    used: Moment,
    told_used: Option<Moment>,
}

#[derive(Debug, Default)]
pub(super) struct Links {
    known: BTreeMap<LinkHash, Known>,
    /// Pages of grants that are still arriving, by reference.
    arriving: BTreeMap<Ref, LinkInfo>,
    calls: BTreeMap<CallId, Call>,
}

impl Links {
    pub fn info(&self, hash: &LinkHash) -> Option<&Arc<LinkInfo>> {
        self.known.get(hash).map(|known| &known.info)
    }

    pub fn call_count(&self) -> usize {
        self.calls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub fn sweep(&mut self, now: Moment) {
        self.known.retain(|_, known| now.since(known.used) < LINK_USED_INTERVAL_MS);
    }

    /// Files behind links were removed: who opens them from now on finds them gone.
    pub fn files_gone(&mut self, files: &BTreeSet<FileRef>) {
        for known in self.known.values_mut() {
            if known.info.files.iter().any(|entry| files.contains(&entry.file_ref())) {
                Arc::make_mut(&mut known.info).files.retain(|entry| !files.contains(&entry.file_ref()));
            }
        }
    }
}

impl Broker {
    /// POST /links of an approved session.
    pub(super) fn link_ordered(
        &mut self,
        call: CallId,
        session: SessionId,
        hash: LinkHash,
        files: Vec<FileRef>,
        name: Option<String>,
    ) {
        let maker = self.sessions.get(session).filter(|s| s.is_approved()).map(|s| s.identity.public_id);
        let Some(public_id) = maker else {
            return self.effects.push(Effect::LinkMade { call, result: Err(FailureCode::NotApproved) });
        };
        if !self.hub_ready() {
            return self.effects.push(Effect::LinkMade { call, result: Err(FailureCode::ServerNotReady) });
        }
        let reference = Ref::number(self.number());
        self.links.calls.insert(call, Call::Make { reference: reference.clone() });
        let message = RelayToMaster::LinkRequest(LinkRequest { link_hash: hash, public_id, files, name });
        self.tell_master_from(message, None, Some(reference));
    }

    /// Somebody opened a `/d/` address.
    pub(super) fn link_opened(&mut self, now: Moment, call: CallId, hash: LinkHash) {
        if let Some(known) = self.links.known.get_mut(&hash) {
            known.used = now;
            let info = known.info.clone();
            self.note_link_use(now, hash);
            return self.effects.push(Effect::LinkFound { call, result: Ok(info) });
        }
        self.links.calls.insert(call, Call::Find { hash, reference: None });
        self.deadlines.set(Timer::Call(call), now.plus(LINK_LOOKUP_WAIT_MS));
        if self.hub_ready() {
            self.look_link_up(call, hash);
        }
    }

    fn look_link_up(&mut self, call: CallId, hash: LinkHash) {
        let reference = Ref::number(self.number());
        self.links.calls.insert(call, Call::Find { hash, reference: Some(reference.clone()) });
        self.tell_master_from(RelayToMaster::LinkLookup(LinkLookup { link_hash: hash }), None, Some(reference));
    }

    /// DELETE /links/{link}; the master knows whether it is the maker who asks.
    pub(super) fn link_dropped(&mut self, now: Moment, call: CallId, session: SessionId, hash: LinkHash) {
        let maker = self.sessions.get(session).filter(|s| s.is_approved()).map(|s| s.identity.public_id);
        let Some(public_id) = maker else {
            return self.effects.push(Effect::LinkGone { call, result: Err(FailureCode::NotApproved) });
        };
        if !self.hub_ready() {
            return self.effects.push(Effect::LinkGone { call, result: Err(FailureCode::ServerNotReady) });
        }
        let reference = Ref::number(self.number());
        self.links.calls.insert(call, Call::Drop { hash, reference: reference.clone() });
        self.deadlines.set(Timer::Call(call), now.plus(LINK_LOOKUP_WAIT_MS));
        let message = RelayToMaster::LinkDrop(LinkDrop { link_hash: hash, public_id });
        self.tell_master_from(message, None, Some(reference));
    }

    pub(super) fn call_left(&mut self, call: CallId) {
        self.deadlines.clear(&Timer::Call(call));
        self.links.calls.remove(&call);
    }

    /// The master did not come back in time.
    pub(super) fn call_waited(&mut self, now: Moment, call: CallId) {
        self.end_call(now, call, Err(FailureCode::ServerNotReady));
    }

    /// One page of a link's grant; the call goes on after the last.
    pub(super) fn link_granted(&mut self, now: Moment, grant: LinkGrant, reference: Option<Ref>) {
        let Some(reference) = reference else { return };
        let info = self.links.arriving.entry(reference.clone()).or_insert_with(|| LinkInfo {
            hash: grant.link_hash,
            maker: grant.public_id,
            expires_ms: grant.expires_ms,
            name: grant.name.clone(),
            made_of: grant.made_of,
            files: Vec::new(),
            owners: Vec::new(),
        });
        info.files.extend(grant.files.iter().cloned());
        for owner in grant.owners {
            if !info.owners.iter().any(|known| known.public_id == owner.public_id) {
                info.owners.push(owner);
            }
        }
        for entry in grant.files {
            self.grants.insert(now, entry);
        }
        if !grant.last {
            return;
        }
        self.keep_sweeping(now);
        let Some(info) = self.links.arriving.remove(&reference) else { return };
        let info = Arc::new(info);
        self.links.known.insert(info.hash, Known { info: info.clone(), used: now, told_used: None });
        for call in self.calls_of(&reference) {
            self.end_call(now, call, Ok(Some(info.clone())));
        }
    }

    fn calls_of(&self, reference: &Ref) -> Vec<CallId> {
        self.links.calls.iter().filter(|(_, call)| call.reference() == Some(reference)).map(|(id, _)| *id).collect()
    }

    pub(super) fn link_call_failed(&mut self, now: Moment, code: FailureCode, reference: Option<&Ref>) {
        let Some(reference) = reference else { return };
        self.links.arriving.remove(reference);
        for call in self.calls_of(reference) {
            self.end_call(now, call, Err(code));
        }
    }

    pub(super) fn link_drop_acked(&mut self, now: Moment, reference: Option<Ref>) {
        for call in reference.map(|reference| self.calls_of(&reference)).unwrap_or_default() {
            self.end_call(now, call, Ok(None));
        }
    }

    fn end_call(&mut self, now: Moment, id: CallId, result: Result<Option<Arc<LinkInfo>>, FailureCode>) {
        self.deadlines.clear(&Timer::Call(id));
        let Some(call) = self.links.calls.remove(&id) else { return };
        let effect = match (call, result) {
            (Call::Make { .. }, Ok(Some(info))) => Effect::LinkMade { call: id, result: Ok(info.expires_ms) },
            (Call::Make { .. }, Ok(None)) => Effect::LinkMade { call: id, result: Err(FailureCode::Internal) },
            (Call::Make { .. }, Err(code)) => Effect::LinkMade { call: id, result: Err(code) },
            (Call::Find { hash, .. }, Ok(Some(info))) => {
                self.note_link_use(now, hash);
                Effect::LinkFound { call: id, result: Ok(info) }
            }
            (Call::Find { .. }, Ok(None)) => Effect::LinkFound { call: id, result: Err(FailureCode::Internal) },
            (Call::Find { .. }, Err(code)) => Effect::LinkFound { call: id, result: Err(code) },
            (Call::Drop { hash, .. }, Ok(_)) => {
                self.links.known.remove(&hash);
                self.end_link(now, hash, FailureCode::Cancelled);
                Effect::LinkGone { call: id, result: Ok(()) }
            }
            (Call::Drop { .. }, Err(code)) => Effect::LinkGone { call: id, result: Err(code) },
        };
        self.effects.push(effect);
    }

    /// The master counts the use of links by the hour.
    fn note_link_use(&mut self, now: Moment, hash: LinkHash) {
        let ready = self.hub_ready();
        let Some(known) = self.links.known.get_mut(&hash) else { return };
        let due = known.told_used.is_none_or(|told| now.since(told) >= LINK_USED_INTERVAL_MS);
        if due && ready {
            known.told_used = Some(now);
            self.tell_master(RelayToMaster::LinkUsed(LinkUsed { link_hash: hash }));
        }
    }

    /// The master went away: look-ups wait for it, what would change something fails.
    pub(super) fn calls_lost(&mut self, now: Moment) {
        self.links.arriving.clear();
        let calls: Vec<(CallId, Call)> = self.links.calls.iter().map(|(id, call)| (*id, call.clone())).collect();
        for (id, call) in calls {
            match call {
                Call::Find { hash, .. } => {
                    self.links.calls.insert(id, Call::Find { hash, reference: None });
                }
                Call::Make { .. } | Call::Drop { .. } => self.end_call(now, id, Err(FailureCode::ServerNotReady)),
            }
        }
    }

    /// The master is back: what waited for it is asked.
    pub(super) fn calls_again(&mut self) {
        let waiting: Vec<(CallId, LinkHash)> = self
            .links
            .calls
            .iter()
            .filter_map(|(id, call)| match call {
                Call::Find { hash, reference: None } => Some((*id, *hash)),
                _ => None,
            })
            .collect();
        for (id, hash) in waiting {
            self.look_link_up(id, hash);
        }
    }

    /// A link's response wants groups; all pieces are of one owner.
    pub(super) fn link_wanted(
        &mut self,
        now: Moment,
        reader: LinkReader,
        hash: LinkHash,
        want: u64,
        pieces: Vec<WantedPiece>,
    ) {
        let Some(owner) = pieces.first().map(|(file, _)| file.public_id) else { return };
        let asker = Asker::Link { reader, want, hash };
        let same_owner = pieces.iter().all(|(file, _)| file.public_id == owner);
        let pieces: Vec<Piece> =
            pieces.into_iter().map(|(file, groups)| Piece { file_id: file.file_id, groups }).collect();
        debug_assert!(same_owner, "a run has one owner");
        match self.links.known.get_mut(&hash) {
            Some(known) => {
                known.used = now;
                self.note_link_use(now, hash);
                self.ask(now, asker, owner, What::Bytes, pieces, None);
            }
            None => {
                let file = FileRef { public_id: owner, file_id: pieces[0].file_id };
                self.effects.push(Effect::LinkFailed { reader, want, code: FailureCode::FileGone, file });
            }
        }
    }

    pub(super) fn link_left(&mut self, now: Moment, reader: LinkReader, up_to: u64) {
        self.speeds.forget_link(reader);
        let ours =
            |asker: &Asker| matches!(asker, Asker::Link { reader: r, want, .. } if *r == reader && *want <= up_to);
        self.end_asks_where(now, ours, FailureCode::Cancelled);
    }

    /// A link's ask cannot go on: for good it is cut, else it waits for what it lacks.
    pub(super) fn link_ask_failed(&mut self, now: Moment, mut ask: Ask, code: FailureCode) {
        let Asker::Link { reader, want, .. } = ask.asker else { return };
        if !code.may_retry() {
            return self.tell_link_failed(&ask, code);
        }
        self.effects.push(Effect::LinkWaits { reader, want, code });
        ask.tries += 1;
        ask.parked = match code {
            FailureCode::OwnerAway => Parked::Owner,
            FailureCode::ServerNotReady => Parked::Hub,
            _ => {
                let longest = 200u64.saturating_mul(1 << ask.tries.min(10)).min(15_000);
                let wait = self.ids.below(longest) + 1;
                self.deadlines.set(Timer::AskRetry(ask.id), now.plus(wait));
                Parked::Retry
            }
        };
        self.asks.insert(ask.id, ask);
    }

    pub(super) fn tell_link_failed(&mut self, ask: &Ask, code: FailureCode) {
        let (Asker::Link { reader, want, .. }, Some(piece)) = (ask.asker, ask.pieces.first()) else { return };
        let file = ask.file(piece);
        self.effects.push(Effect::LinkFailed { reader, want, code, file });
    }

    /// A link is dropped, or its maker turned away: its responses are cut.
    fn end_link(&mut self, now: Moment, hash: LinkHash, code: FailureCode) {
        let ours = |asker: &Asker| matches!(asker, Asker::Link { hash: h, .. } if *h == hash);
        let wanting: Vec<Ask> = self.asks.values().filter(|ask| ours(&ask.asker)).cloned().collect();
        for ask in wanting.iter().chain(&self.queue.take_where(|ask| ours(&ask.asker))) {
            self.tell_link_failed(ask, code);
        }
        // Who waits in a slot that is not filling yet would hear nothing of its end.
        for (reader, want, file) in self.slots.links_untold(ours) {
            self.effects.push(Effect::LinkFailed { reader, want, code, file });
        }
        self.end_asks_where(now, ours, code);
    }

    pub(super) fn end_links_of(&mut self, now: Moment, maker: DeviceId) {
        let hashes: Vec<LinkHash> =
            self.links.known.iter().filter(|(_, known)| known.info.maker == maker).map(|(hash, _)| *hash).collect();
        for hash in hashes {
            self.links.known.remove(&hash);
            self.end_link(now, hash, FailureCode::NotApproved);
        }
    }
}
