//! Links: the relay as the asker behind a `/d/` address. What a link holds is the master's; here it
//! is a copy that may be asked for again. A link's want waits for an absent owner or master as long
//! as its reader stays.

mod calls;
mod known;

use std::collections::BTreeSet;

use lanyard_protocol::limits::LINK_USED_INTERVAL_MS;
use lanyard_protocol::message::{LinkUsed, TransferProgress};
use lanyard_protocol::{
    DeviceId, FailureCode, FileRef, GroupSpan, LinkHash, RelayMessage, RelayToDevice,
};

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
        let same_owner = pieces.iter().all(|(file, _)| file.public_id == owner);
        let pieces: Vec<GroupSpan> = pieces
            .into_iter()
            .map(|(file, groups)| GroupSpan { file_id: file.file_id, groups })
            .collect();
        debug_assert!(same_owner, "a run has one owner");
        if self.links.known.read_by(now, &hash, reader) {
            self.note_link_use(now, hash);
            let input = LinkTransferInput::Wanted { reader, hash, want, owner, pieces };
            self.transfer(now, TransferInput::Link(input));
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
        self.transfer(now, TransferInput::Link(LinkTransferInput::Left { reader, up_to }));
        if up_to == u64::MAX {
            let files = self.links.known.reader_left(reader);
            self.transfer(now, TransferInput::Files(FilesInput::PageRead(files)));
        }
    }

    pub(super) fn link_unread(&mut self, hash: &LinkHash, bytes: u64) {
        self.links.known.refund(hash, bytes);
    }

    /// A link is over, for anybody's reasons: its responses are cut.
    pub(super) fn link_over(&mut self, now: Moment, hash: LinkHash, code: FailureCode) {
        if !self.links.known.remove(&hash) {
            return; // nobody reads it, so nothing that waits is its
        }
        self.transfer(now, TransferInput::Link(LinkTransferInput::Over { hash, code }));
    }

    pub(super) fn end_links_of(&mut self, now: Moment, maker: DeviceId) {
        for hash in self.links.known.of_maker(maker) {
            self.link_over(now, hash, FailureCode::NotApproved);
        }
    }

    /// Where a link's response stands: its maker hears it with the link's hash, the owner without.
    pub(super) fn link_moved(&mut self, hash: lanyard_protocol::LinkHash, moved: LinkProgress) {
        let Some(maker) = self.links.maker(&hash) else { return };
        let FileRef { public_id, file_id } = moved.file;
        let progress = TransferProgress {
            link_hash: Some(hash),
            transfer_id: None,
            asker: maker,
            public_id,
            file_id,
            done: moved.done,
            total: moved.total,
            rate: moved.rate,
            state: moved.state,
        };
        for id in self.sessions.approved_of(maker) {
            self.send(id, RelayToDevice::TransferProgress(progress.clone()), None);
        }
        if public_id != maker {
            let unnamed = TransferProgress { link_hash: None, ..progress };
            for id in self.sessions.approved_of(public_id) {
                self.send(id, RelayToDevice::TransferProgress(unnamed.clone()), None);
            }
        }
    }
}
