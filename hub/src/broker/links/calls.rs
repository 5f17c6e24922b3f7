//! HTTP requests about links that wait for the master: to open a link, to count a use, to get a
//! page of an archive. All are bounded. A link that the master does not know is not looked up again
//! soon. Links that the relay knows never wait behind links that it does not know. An address opens
//! what its own maker named: a grant under a hash that somebody else registered is treated as no
//! link (PROTOCOL.md 7.1).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lanyard_protocol::limits::{
    LINK_LOOKUP_WAIT_MS, MAX_LINK_CALLS, MAX_LINK_LOOKUPS, MAX_MISSING_LINKS,
    MAX_UNKNOWN_LINK_CALLS, MISSING_LINK_MS,
};
use lanyard_protocol::message::{LinkGrant, LinkLookup, LinkMembers, LinkPage};
use lanyard_protocol::{FailureCode, FileEntry, Link, LinkHash, Ref, RelayMessage, RelayToMaster};

use super::super::*;

/// An HTTP request about a link that waits for the master.
#[derive(Debug, Clone)]
enum LinkCall {
    /// Shares one look-up with all who want the same.
    Find(Link),
    /// A use of a link whose uses are counted.
    Begin {
        link: Link,
        whole: bool,
        bytes: u64,
        reference: Option<Ref>,
    },
    Page {
        reader: LinkReader,
        page: LinkPage,
        reference: Option<Ref>,
    },
}

/// The subject of an answer of the master's.
#[derive(Debug, Clone, Copy)]
enum AwaitedAnswer {
    Find(Link),
    Call(CallId),
}

/// A look-up of a link, and the calls that wait for it.
#[derive(Debug)]
struct LinkFinding {
    link: Link,
    reference: Option<Ref>,
    calls: Vec<CallId>,
    /// The relay knew the link when it was opened, and has to ask again.
    is_known: bool,
    /// The link was made while its look-up was on its way.
    was_made: bool,
}

/// Look-ups of one kind: those on their way, and the links whose turn is yet to come.
#[derive(Debug, Default)]
struct LookupQueue {
    in_flight: usize,
    waiting: VecDeque<Link>,
}

#[derive(Debug, Default)]
pub(crate) struct LinkCalls {
    calls: BTreeMap<CallId, LinkCall>,
    finding: BTreeMap<LinkHash, LinkFinding>,
    known_lookups: LookupQueue,
    unknown_lookups: LookupQueue,
    awaited: BTreeMap<Ref, AwaitedAnswer>,
    missing: BTreeMap<LinkHash, Moment>,
    /// The same, the oldest first.
    missed: VecDeque<(Moment, LinkHash)>,
}

impl LinkCalls {
    pub(crate) fn count(&self) -> usize {
        self.calls.len()
    }

    #[cfg(test)]
    pub(crate) fn waiting_count(&self) -> usize {
        self.known_lookups.waiting.len() + self.unknown_lookups.waiting.len()
    }

    #[cfg(test)]
    pub(crate) fn missing_count(&self) -> usize {
        self.missed.len()
    }

    /// The master has this link: its absence is forgotten, and a "no" that is on its way is not
    /// kept.
    pub(crate) fn exists(&mut self, hash: &LinkHash) {
        self.missing.remove(hash);
        if let Some(finding) = self.finding.get_mut(hash) {
            finding.was_made = true;
        }
    }

    fn queue(&mut self, is_known: bool) -> &mut LookupQueue {
        if is_known { &mut self.known_lookups } else { &mut self.unknown_lookups }
    }

    /// Takes a look-up that was answered; its place is free.
    fn answered(&mut self, hash: &LinkHash) -> Option<LinkFinding> {
        let finding = self.finding.remove(hash)?;
        self.queue(finding.is_known).in_flight -= 1;
        Some(finding)
    }

    /// Returns the link whose turn it is, if a place is free.
    fn next_lookup(&mut self, is_known: bool) -> Option<Link> {
        let queue = self.queue(is_known);
        if queue.in_flight >= MAX_LINK_LOOKUPS {
            return None;
        }
        let link = queue.waiting.pop_front()?;
        queue.in_flight += 1;
        Some(link)
    }

    fn is_missing(&self, now: Moment, hash: &LinkHash) -> bool {
        self.missing.get(hash).is_some_and(|since| now.since(*since) < MISSING_LINK_MS)
    }

    fn miss(&mut self, now: Moment, hash: LinkHash) {
        self.missing.insert(hash, now);
        self.missed.push_back((now, hash));
        self.forget_missing(now);
    }

    pub(crate) fn forget_missing(&mut self, now: Moment) {
        let is_over = |since: Moment, count: usize| {
            count > MAX_MISSING_LINKS || now.since(since) >= MISSING_LINK_MS
        };
        while let Some((since, hash)) =
            self.missed.front().copied().filter(|(since, _)| is_over(*since, self.missed.len()))
        {
            self.missed.pop_front();
            if self.missing.get(&hash) == Some(&since) {
                self.missing.remove(&hash);
            }
        }
    }
}

impl Broker {
    /// Somebody opened a `/d/` address.
    pub(in super::super) fn link_opened(&mut self, now: Moment, call: CallId, link: Link) {
        let hash = LinkHash::of(&link);
        if let Some(info) = self.links.known.open(now, &hash) {
            self.note_link_use(now, hash);
            return self.effects.push(Effect::Call(CallEffect::Found { call, result: Ok(info) }));
        }
        let is_known = self.links.known.get(&hash).is_some();
        let calls = &mut self.links.calls;
        let room = if is_known { MAX_LINK_CALLS } else { MAX_UNKNOWN_LINK_CALLS };
        if calls.is_missing(now, &hash) {
            return self.effects.push(Effect::Call(CallEffect::Found {
                call,
                result: Err(FailureCode::NotFound),
            }));
        }
        if calls.count() >= room {
            return self
                .effects
                .push(Effect::Call(CallEffect::Found { call, result: Err(FailureCode::Busy) }));
        }
        calls.calls.insert(call, LinkCall::Find(link));
        self.deadlines.set(Timer::Call(call), now.plus(LINK_LOOKUP_WAIT_MS));
        if let Some(finding) = calls.finding.get_mut(&hash) {
            return finding.calls.push(call);
        }
        let finding =
            LinkFinding { link, reference: None, calls: vec![call], is_known, was_made: false };
        calls.finding.insert(hash, finding);
        calls.queue(is_known).waiting.push_back(link);
        self.look_links_up();
    }

    /// Sends the look-ups whose turn it is.
    fn look_links_up(&mut self) {
        if !self.hub_ready() {
            return;
        }
        for is_known in [true, false] {
            while let Some(link) = self.links.calls.next_lookup(is_known) {
                self.look_link_up(link);
            }
        }
    }

    fn look_link_up(&mut self, link: Link) {
        let reference = Ref::number(self.number());
        let calls = &mut self.links.calls;
        let link_hash = LinkHash::of(&link);
        let Some(finding) = calls.finding.get_mut(&link_hash) else { return };
        finding.reference = Some(reference.clone());
        calls.awaited.insert(reference.clone(), AwaitedAnswer::Find(link));
        let lookup = LinkLookup { link_hash, begins: false };
        self.tell_master_from(
            RelayToMaster::Relay(RelayMessage::LinkLookup(lookup)),
            None,
            Some(reference),
        );
    }

    /// A link whose uses are counted is about to be read: `bytes` of it, or all from its first byte
    /// on.
    pub(in super::super) fn link_begun(
        &mut self,
        now: Moment,
        call: CallId,
        link: Link,
        whole: bool,
        bytes: u64,
    ) {
        if self.links.known.pay(&LinkHash::of(&link), whole, bytes) {
            return self.effects.push(Effect::Call(CallEffect::Begun { call, result: Ok(()) }));
        }
        if self.links.calls.count() >= MAX_LINK_CALLS {
            return self
                .effects
                .push(Effect::Call(CallEffect::Begun { call, result: Err(FailureCode::Busy) }));
        }
        self.links
            .calls
            .calls
            .insert(call, LinkCall::Begin { link, whole, bytes, reference: None });
        self.deadlines.set(Timer::Call(call), now.plus(LINK_LOOKUP_WAIT_MS));
        if self.hub_ready() {
            self.send_call(call);
        }
    }

    /// A response wants the next members of its archive; while the master is away it waits as long
    /// as its reader stays.
    pub(in super::super) fn link_page_wanted(
        &mut self,
        now: Moment,
        call: CallId,
        reader: LinkReader,
        page: LinkPage,
    ) {
        if self.links.calls.count() >= MAX_LINK_CALLS {
            return self
                .effects
                .push(Effect::Call(CallEffect::Members { call, result: Err(FailureCode::Busy) }));
        }
        if !self.links.known.read_by(now, &page.link_hash, reader) {
            return self.effects.push(Effect::Call(CallEffect::Members {
                call,
                result: Err(FailureCode::FileGone),
            }));
        }
        self.links.calls.calls.insert(call, LinkCall::Page { reader, page, reference: None });
        if self.hub_ready() {
            self.send_call(call);
        }
    }

    /// Asks the master for what this call waits for.
    fn send_call(&mut self, call: CallId) {
        let number = Ref::number(self.number());
        let message = match self.links.calls.calls.get_mut(&call) {
            Some(LinkCall::Begin { link, reference, .. }) => {
                *reference = Some(number.clone());
                RelayToMaster::Relay(RelayMessage::LinkLookup(LinkLookup {
                    link_hash: LinkHash::of(link),
                    begins: true,
                }))
            }
            Some(LinkCall::Page { page, reference, .. }) => {
                *reference = Some(number.clone());
                RelayToMaster::Relay(RelayMessage::LinkPage(page.clone()))
            }
            Some(LinkCall::Find(_)) | None => return,
        };
        self.links.calls.awaited.insert(number.clone(), AwaitedAnswer::Call(call));
        self.tell_master_from(message, None, Some(number));
    }

    /// Takes a call out of all lists.
    fn take_call(&mut self, id: CallId) -> Option<LinkCall> {
        self.deadlines.clear(&Timer::Call(id));
        let calls = &mut self.links.calls;
        let call = calls.calls.remove(&id)?;
        match &call {
            LinkCall::Find(link) => {
                let hash = LinkHash::of(link);
                if let Some(finding) = calls.finding.get_mut(&hash) {
                    finding.calls.retain(|other| *other != id);
                    if finding.calls.is_empty() && finding.reference.is_none() {
                        let is_known = finding.is_known;
                        calls.finding.remove(&hash);
                        calls.queue(is_known).waiting.retain(|other| other != link);
                    }
                }
            }
            LinkCall::Begin { reference, .. } | LinkCall::Page { reference, .. } => {
                if let Some(reference) = reference {
                    calls.awaited.remove(reference);
                }
            }
        }
        Some(call)
    }

    /// Nobody waits for the answer any more. Whoever wanted a page of an archive is gone: its words
    /// may have come after those of its end, and would keep its link for good.
    pub(in super::super) fn call_left(&mut self, now: Moment, call: CallId) {
        if let Some(LinkCall::Page { reader, .. }) = self.take_call(call) {
            self.link_left(now, reader, u64::MAX);
        }
    }

    /// The master did not come back in time.
    pub(in super::super) fn call_waited(&mut self, call: CallId) {
        self.fail_call(call, FailureCode::ServerNotReady);
    }

    fn fail_call(&mut self, id: CallId, code: FailureCode) {
        let effect = match self.take_call(id) {
            Some(LinkCall::Find(_)) => {
                Effect::Call(CallEffect::Found { call: id, result: Err(code) })
            }
            Some(LinkCall::Begin { .. }) => {
                Effect::Call(CallEffect::Begun { call: id, result: Err(code) })
            }
            Some(LinkCall::Page { .. }) => {
                Effect::Call(CallEffect::Members { call: id, result: Err(code) })
            }
            None => return,
        };
        self.effects.push(effect);
    }

    /// Takes the contents of a link, or that a use of it was counted.
    pub(in super::super) fn link_granted(
        &mut self,
        now: Moment,
        grant: LinkGrant,
        reference: Option<Ref>,
    ) {
        let awaited = reference.and_then(|reference| self.links.calls.awaited.remove(&reference));
        let Some(awaited) = awaited else { return };
        let Some(link) = self.key_awaited(awaited) else { return };
        // Somebody else registered the hash. Checked before the grant is kept: what is known is
        // bound.
        if !grant.binding.binds(&link, grant.public_id) {
            return self.awaited_failed(now, awaited, FailureCode::NotFound);
        }
        let hash = LinkHash::of(&link);
        let until = now.plus(grant.lives_ms);
        let info = Arc::new(LinkInfo::of(grant));
        if let LinkContent::File(entry) = &info.what {
            self.transfer(now, TransferInput::Files(FilesInput::Linked(entry)));
        }
        self.links.calls.exists(&info.hash);
        self.links.known.put(now, until, info.clone());
        self.keep_sweeping(now);
        match awaited {
            AwaitedAnswer::Find(_) => {
                let waiting = self
                    .links
                    .calls
                    .answered(&hash)
                    .map(|finding| finding.calls)
                    .unwrap_or_default();
                for call in waiting {
                    self.take_call(call);
                    self.effects
                        .push(Effect::Call(CallEffect::Found { call, result: Ok(info.clone()) }));
                }
                self.look_links_up();
            }
            AwaitedAnswer::Call(call) => {
                let Some(LinkCall::Begin { whole, bytes, .. }) = self.take_call(call) else {
                    return;
                };
                self.links.known.credit(&hash);
                // One use is enough for whatever lies within the file.
                self.links.known.pay(&hash, whole, bytes);
                self.effects.push(Effect::Call(CallEffect::Begun { call, result: Ok(()) }));
            }
        }
    }

    pub(in super::super) fn link_members(
        &mut self,
        now: Moment,
        members: LinkMembers,
        reference: Option<Ref>,
    ) {
        let awaited = reference.and_then(|reference| self.links.calls.awaited.remove(&reference));
        let Some(AwaitedAnswer::Call(call)) = awaited else { return };
        let Some(LinkCall::Page { reader, .. }) = self.take_call(call) else { return };
        let with_bytes = members
            .members
            .iter()
            .filter_map(|member| member.file.as_ref())
            .filter(|file| file.size > 0);
        let entries: Vec<FileEntry> = with_bytes.cloned().collect();
        let files = entries.iter().map(FileEntry::file_ref).collect();
        self.transfer(now, TransferInput::Files(FilesInput::PageHeld(entries)));
        let read = self.links.known.page_held(reader, files);
        self.transfer(now, TransferInput::Files(FilesInput::PageRead(read)));
        self.keep_sweeping(now);
        self.effects.push(Effect::Call(CallEffect::Members { call, result: Ok(members.members) }));
    }

    pub(in super::super) fn link_call_failed(
        &mut self,
        now: Moment,
        code: FailureCode,
        reference: Option<&Ref>,
    ) {
        if let Some(awaited) =
            reference.and_then(|reference| self.links.calls.awaited.remove(reference))
        {
            self.awaited_failed(now, awaited, code);
        }
    }

    fn awaited_failed(&mut self, now: Moment, awaited: AwaitedAnswer, code: FailureCode) {
        match awaited {
            AwaitedAnswer::Find(link) => {
                let hash = LinkHash::of(&link);
                let Some(finding) = self.links.calls.answered(&hash) else { return };
                if code == FailureCode::NotFound && !finding.was_made {
                    self.links.calls.miss(now, hash);
                    self.keep_sweeping(now);
                }
                for call in finding.calls {
                    self.fail_call(call, code);
                }
                self.look_links_up();
            }
            AwaitedAnswer::Call(call) => self.fail_call(call, code),
        }
    }

    /// Returns the key of the address that the answer is about.
    fn key_awaited(&self, awaited: AwaitedAnswer) -> Option<Link> {
        let call = match awaited {
            AwaitedAnswer::Find(link) => return Some(link),
            AwaitedAnswer::Call(call) => call,
        };
        match self.links.calls.calls.get(&call)? {
            LinkCall::Find(link) | LinkCall::Begin { link, .. } => Some(*link),
            LinkCall::Page { .. } => None,
        }
    }

    /// The master went away: all wait for the next one.
    pub(in super::super) fn calls_lost(&mut self) {
        let calls = &mut self.links.calls;
        calls.awaited.clear();
        calls.finding.values_mut().for_each(|finding| finding.reference = None);
        calls.finding.retain(|_, finding| !finding.calls.is_empty());
        for is_known in [true, false] {
            let again = calls.finding.iter().filter(|(_, finding)| finding.is_known == is_known);
            let waiting = again.map(|(_, finding)| finding.link).collect();
            *calls.queue(is_known) = LookupQueue { in_flight: 0, waiting };
        }
        for call in calls.calls.values_mut() {
            match call {
                LinkCall::Begin { reference, .. } | LinkCall::Page { reference, .. } => {
                    *reference = None
                }
                LinkCall::Find(_) => {}
            }
        }
    }

    /// The master is back: what waited for it is asked.
    pub(in super::super) fn calls_again(&mut self) {
        self.links.calls.missing.clear();
        self.links.calls.missed.clear();
        self.look_links_up();
        let calls: Vec<CallId> = self.links.calls.calls.keys().copied().collect();
        calls.into_iter().for_each(|call| self.send_call(call));
    }
}
