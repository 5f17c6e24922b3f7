//! Links: the relay as the asker behind a `/d/` address. What a link holds is the master's; here it
//! is a copy that may be asked for again. A link's want waits for an absent owner or master as long
//! as its reader stays.

mod calls;
mod known;

use std::collections::BTreeSet;

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::limits::LINK_USED_INTERVAL_MS;
use lanyard_protocol::message::LinkUsed;
use lanyard_protocol::{DeviceId, FailureCode, FileRef, GroupSpan, LinkHash, RelayMessage};

use super::requests::{ChunkRequest, Requester, WaitReason};
use super::*;
use calls::LinkCalls;
use known::KnownLinks;

#[derive(Debug, Default)]
pub(super) struct Links {
    pub known: KnownLinks,
    pub calls: LinkCalls,
}

impl Links {
    pub(super) fn maker(&self, hash: &LinkHash) -> Option<DeviceId> {
        self.known.get(hash).map(|known| known.info.maker)
    }

    pub(super) fn call_count(&self) -> usize {
        self.calls.count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn sweep(&mut self, now: Moment) {
        self.known.sweep(now);
        self.calls.forget_missing(now);
    }

    /// Files behind links were removed: who opens them from now on finds them gone.
    pub(super) fn files_gone(&mut self, files: &BTreeSet<FileRef>) {
        files.iter().for_each(|file| self.known.forget_file(file));
    }

    /// The master says that this link is another one than before.
    pub(super) fn link_made(&mut self, hash: &LinkHash) {
        self.known.outdate(hash);
        self.calls.exists(hash);
    }
}

impl Broker {
    /// The master counts the use of links by the hour.
    fn note_link_use(&mut self, now: Moment, hash: LinkHash) {
        let ready = self.hub_ready();
        let Some(known) = self.links.known.get_mut(&hash) else { return };
        let due = known.told_used.is_none_or(|told| now.since(told) >= LINK_USED_INTERVAL_MS);
        if due && ready {
            known.told_used = Some(now);
            self.tell_master(RelayMessage::LinkUsed(LinkUsed { link_hash: hash }));
        }
    }

    /// A link's response wants groups; all pieces are of one owner.
    pub(super) fn link_wanted(
        &mut self,
        now: Moment,
        reader: LinkReader,
        hash: LinkHash,
        want: u64,
        pieces: Vec<WantedSpan>,
    ) {
        let Some(owner) = pieces.first().map(|(file, _)| file.public_id) else { return };
        let asker = Requester::Link { reader, want, hash };
        let same_owner = pieces.iter().all(|(file, _)| file.public_id == owner);
        let pieces: Vec<GroupSpan> = pieces
            .into_iter()
            .map(|(file, groups)| GroupSpan { file_id: file.file_id, groups })
            .collect();
        debug_assert!(same_owner, "a run has one owner");
        if self.links.known.read_by(now, &hash, reader) {
            self.note_link_use(now, hash);
            self.ask(now, asker, owner, BodyKind::Bytes, pieces, None);
        } else {
            let file = FileRef { public_id: owner, file_id: pieces[0].file_id };
            self.effects.push(Effect::Link(LinkEffect::Failed {
                reader,
                want,
                code: FailureCode::FileGone,
                file,
            }));
        }
    }

    pub(super) fn link_left(&mut self, now: Moment, reader: LinkReader, up_to: u64) {
        self.speeds.forget_link(reader);
        let ours = |asker: &Requester| matches!(asker, Requester::Link { reader: r, want, .. } if *r == reader && *want <= up_to);
        self.end_asks_where(now, ours, FailureCode::Cancelled);
        if up_to == u64::MAX {
            for file in self.links.known.reader_left(reader) {
                self.grants.release(&file);
            }
        }
    }

    pub(super) fn link_unread(&mut self, hash: &LinkHash, bytes: u64) {
        self.links.known.refund(hash, bytes);
    }

    /// A link's ask cannot go on: for good it is cut, else it waits for what it lacks.
    pub(super) fn link_ask_failed(
        &mut self,
        now: Moment,
        mut ask: ChunkRequest,
        code: FailureCode,
    ) {
        let Requester::Link { reader, want, .. } = ask.asker else { return };
        if !code.may_retry() {
            return self.tell_link_failed(&ask, code);
        }
        self.effects.push(Effect::Link(LinkEffect::Waits { reader, want, code }));
        ask.tries += 1;
        // Owner and master are told of when they come; anything else is tried again after a while
        // that doubles, so that the askers of a busy holder do not come back all at once.
        ask.parked = if code == FailureCode::OwnerAway {
            WaitReason::Owner
        } else if code == FailureCode::ServerNotReady {
            WaitReason::Hub
        } else {
            let longest = 200u64.saturating_mul(1 << ask.tries.min(10)).min(15_000);
            let wait = self.ids.below(longest) + 1;
            self.deadlines.set(Timer::AskRetry(ask.id), now.plus(wait));
            WaitReason::Retry
        };
        self.asks.insert(ask.id, ask);
    }

    pub(super) fn tell_link_failed(&mut self, ask: &ChunkRequest, code: FailureCode) {
        let (Requester::Link { reader, want, .. }, Some(piece)) = (ask.asker, ask.pieces.first())
        else {
            return;
        };
        let file = ask.file(piece);
        self.effects.push(Effect::Link(LinkEffect::Failed { reader, want, code, file }));
    }

    /// A link is over, for anybody's reasons: its responses are cut.
    pub(super) fn link_over(&mut self, now: Moment, hash: LinkHash, code: FailureCode) {
        if !self.links.known.remove(&hash) {
            return; // nobody reads it, so nothing that waits is its
        }
        let ours =
            |asker: &Requester| matches!(asker, Requester::Link { hash: h, .. } if *h == hash);
        let wanting: Vec<ChunkRequest> =
            self.asks.values().filter(|ask| ours(&ask.asker)).cloned().collect();
        for ask in wanting.iter().chain(&self.queue.take_where(|ask| ours(&ask.asker))) {
            self.tell_link_failed(ask, code);
        }
        // Who waits in a slot that is not filling yet would hear nothing of its end.
        for (reader, want, file) in self.slots.links_untold(ours) {
            self.effects.push(Effect::Link(LinkEffect::Failed { reader, want, code, file }));
        }
        self.end_asks_where(now, ours, code);
    }

    pub(super) fn end_links_of(&mut self, now: Moment, maker: DeviceId) {
        for hash in self.links.known.of_maker(maker) {
            self.link_over(now, hash, FailureCode::NotApproved);
        }
    }
}
