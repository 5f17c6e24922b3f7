//! Files that this device shares: syncing → shared → removed. A file is offered again whenever the
//! hub does not list it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lanyard_protocol::chunk::BodyKind;
use lanyard_protocol::group::Groups;
use lanyard_protocol::limits::{MAX_FILES_A_MESSAGE, MAX_LIST_BYTES};
use lanyard_protocol::message::{
    AddFiles, ChunkUnavailable, RemoveFile, RequestFailed, UploadChunkRequest,
};
use lanyard_protocol::{
    DeviceId, DeviceToRelay, FailureCode, FileEntry, FileId, GroupSpan, Instance, NewFile, Ticket,
};

use super::mirror::CatalogueView;
use super::{Effect, Peer, Pending, ShareState, Timer};
use crate::machine::Moment;

/// ADD_FILES on their way at once: 10,000 files go without waiting, 100,000 do not fill the outbox.
const MOST_REQUESTS: usize = 32;
/// Bytes of one entry beside its texts, at most.
const ENTRY_BYTES: usize = 320;

#[derive(Debug, Clone)]
struct Share {
    new: NewFile,
    state: ShareState,
    /// In a request or in the queue to one.
    under_way: bool,
}

/// This device's files, by id.
#[derive(Debug, Default)]
pub(super) struct Shares {
    files: BTreeMap<FileId, Share>,
    /// To be offered, in the order in which they came.
    queue: VecDeque<FileId>,
    /// Taken back here, but perhaps listed still.
    removing: BTreeSet<FileId>,
    /// Those of `removing` that a request must name.
    unsaid: VecDeque<FileId>,
    /// ADD_FILES without an answer.
    requests: usize,
    /// The hub rejected the last request; retry when `Timer::Shares` fires.
    resting: bool,
}

/// About how many bytes a file takes in a message.
fn weight(file: &NewFile) -> usize {
    let escaped =
        |text: &str| text.len() + text.bytes().filter(|b| *b == b'"' || *b == b'\\').count();
    ENTRY_BYTES + escaped(&file.path) + escaped(&file.media_type)
}

impl Shares {
    pub(super) fn states(&self) -> impl Iterator<Item = (FileId, ShareState)> + '_ {
        self.files.iter().map(|(id, share)| (*id, share.state))
    }

    /// Nothing waits to be taken back.
    pub(super) fn is_quiet(&self) -> bool {
        self.removing.is_empty()
    }

    fn enqueue(&mut self, file_id: FileId) {
        if let Some(share) = self.files.get_mut(&file_id).filter(|share| !share.under_way) {
            share.under_way = true;
            share.state = ShareState::Syncing;
            self.queue.push_back(file_id);
        }
    }

    /// Compares with the list, after a pull or a change that took files of this device. Offers
    /// missing files again, and takes back listed files that are no longer shared. Returns the
    /// files that are newly known to be listed.
    fn reconcile(
        &mut self,
        me: DeviceId,
        instance: Instance,
        catalogue: &CatalogueView,
    ) -> Vec<FileId> {
        let listed: BTreeMap<FileId, Instance> =
            catalogue.files_of(me).map(|entry| (entry.file_id, entry.instance)).collect();
        let (mut missing, mut news) = (Vec::new(), Vec::new());
        for (file_id, share) in &mut self.files {
            if listed.contains_key(file_id) {
                if share.state != ShareState::Shared {
                    share.state = ShareState::Shared;
                    news.push(*file_id);
                }
            } else if !matches!(share.state, ShareState::Failed { code } if code != FailureCode::TimedOut)
            {
                missing.push(*file_id);
            }
        }
        for file_id in missing {
            self.enqueue(file_id);
        }
        let orphans =
            listed.iter().filter(|(id, of)| **of == instance && !self.files.contains_key(id));
        self.removing.extend(orphans.map(|(id, _)| *id));
        self.unsaid = self.removing.iter().copied().collect();
        news
    }

    /// Requests died with their session.
    pub(super) fn session_over(&mut self) {
        self.requests = 0;
        self.resting = false;
        self.queue.clear();
        self.unsaid.clear();
        for share in self.files.values_mut() {
            share.under_way = false;
        }
    }

    /// The answer to this took too long.
    pub(super) fn late(&mut self, file_ids: &[FileId]) {
        self.requests = self.requests.saturating_sub(1);
        for file_id in file_ids {
            if let Some(share) = self.files.get_mut(file_id) {
                share.state = ShareState::Failed { code: FailureCode::TimedOut };
                share.under_way = false;
            }
        }
    }

    pub(super) fn removed(&mut self, file_ids: &[FileId]) {
        for file_id in file_ids {
            self.removing.remove(file_id);
        }
    }

    /// The next files to offer: as many as fit one message.
    fn next_batch(&mut self) -> Vec<NewFile> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(file_id) = self.queue.front() {
            if let Some(share) = self.files.get(file_id) {
                bytes += weight(&share.new);
                if batch.len() == MAX_FILES_A_MESSAGE
                    || (bytes > MAX_LIST_BYTES && !batch.is_empty())
                {
                    break;
                }
                batch.push(share.new.clone());
            }
            self.queue.pop_front();
        }
        batch
    }

    fn next_removals(&mut self) -> Vec<FileId> {
        let count = self.unsaid.len().min(MAX_FILES_A_MESSAGE);
        self.unsaid.drain(..count).collect()
    }

    /// Sets the state of these files, and returns those whose state changed.
    fn set_state(&mut self, file_ids: &[FileId], state: ShareState) -> Vec<FileId> {
        let mut changed = Vec::new();
        for file_id in file_ids {
            if let Some(share) = self.files.get_mut(file_id) {
                share.under_way = false;
                if share.state != state {
                    share.state = state;
                    changed.push(*file_id);
                }
            }
        }
        changed
    }
}

impl Peer {
    pub(super) fn share(&mut self, files: Vec<NewFile>) {
        for new in files {
            let file_id = new.file_id;
            self.shares.removing.remove(&file_id);
            self.shares
                .files
                .insert(file_id, Share { new, state: ShareState::Syncing, under_way: false });
            self.shares.enqueue(file_id);
        }
    }

    pub(super) fn unshare(&mut self, now: Moment, file_ids: Vec<FileId>) {
        let mut gone = Vec::new();
        for file_id in file_ids {
            if self.shares.files.remove(&file_id).is_some() {
                self.shares.removing.insert(file_id);
                // Without the hub, what is listed then is told after the next pull.
                if self.session.hub_here() {
                    self.shares.unsaid.push_back(file_id);
                }
                gone.push(file_id);
            }
        }
        self.tell_shares(gone, ShareState::Removed);
        self.take_back(now);
    }

    pub(super) fn replaced(&mut self, now: Moment, old: FileId, new: Option<NewFile>) {
        self.unshare(now, vec![old]);
        self.share(new.into_iter().collect());
    }

    /// Says what is to be removed and added, as far as the hub can hear it.
    pub(super) fn offer(&mut self, now: Moment) {
        self.take_back(now);
        let able = self.session.hub_here() && self.mirror.is_settled() && !self.session.stopping();
        while able && !self.shares.resting && self.shares.requests < MOST_REQUESTS {
            let files = self.shares.next_batch();
            if files.is_empty() {
                break;
            }
            self.shares.requests += 1;
            let pending = Pending::Add(files.iter().map(|file| file.file_id).collect());
            self.request(now, DeviceToRelay::AddFiles(AddFiles { files }), pending);
        }
    }

    fn take_back(&mut self, now: Moment) {
        while self.session.hub_here() {
            let file_ids = self.shares.next_removals();
            if file_ids.is_empty() {
                break;
            }
            let pending = Pending::Remove(file_ids.clone());
            self.request(
                now,
                DeviceToRelay::RemoveFile(RemoveFile { file_ids, keep: false }),
                pending,
            );
        }
    }

    /// See [`Shares::reconcile`]; while a pull is running it tells nothing yet.
    pub(super) fn reconcile_shares(&mut self) {
        if self.mirror.is_settled() {
            let news = self.shares.reconcile(
                self.public_id,
                self.config.instance,
                self.mirror.catalogue(),
            );
            self.tell_shares(news, ShareState::Shared);
        }
    }

    fn tell_shares(&mut self, file_ids: Vec<FileId>, state: ShareState) {
        if !file_ids.is_empty() {
            self.effects.push(Effect::SharesChanged { file_ids, state });
        }
    }

    /// The hub lists all of them.
    pub(super) fn added(&mut self, file_ids: Vec<FileId>) {
        self.shares.requests = self.shares.requests.saturating_sub(1);
        let changed = self.shares.set_state(&file_ids, ShareState::Shared);
        self.tell_shares(changed, ShareState::Shared);
    }

    /// All or nothing was added: the culprit fails, the others are offered again.
    pub(super) fn add_failed(&mut self, now: Moment, file_ids: Vec<FileId>, failed: RequestFailed) {
        use FailureCode::{Busy, ServerNotReady, TimedOut};
        self.shares.requests = self.shares.requests.saturating_sub(1);
        if matches!(failed.code, ServerNotReady | Busy | TimedOut) {
            self.requeue(&file_ids);
            self.shares.resting = true;
            return self
                .timers
                .set(Timer::Shares, now.plus(failed.retry_after_ms.unwrap_or(1_000).max(200)));
        }
        let culprit = failed.file_id.and_then(|id| file_ids.iter().position(|one| *one == id));
        let (bad, good) = match culprit {
            Some(at) if failed.code == FailureCode::Quota => {
                (file_ids[at..].to_vec(), file_ids[..at].to_vec())
            }
            Some(at) => (vec![file_ids[at]], [&file_ids[..at], &file_ids[at + 1..]].concat()),
            None => (file_ids, Vec::new()),
        };
        let state = ShareState::Failed { code: failed.code };
        let bad = self.shares.set_state(&bad, state);
        self.tell_shares(bad, state);
        self.requeue(&good);
    }

    fn requeue(&mut self, file_ids: &[FileId]) {
        for file_id in file_ids {
            if let Some(share) = self.shares.files.get_mut(file_id) {
                share.under_way = false;
            }
            self.shares.enqueue(*file_id);
        }
    }

    /// After a rest: also removals that found no ear.
    pub(super) fn offer_again(&mut self) {
        self.shares.resting = false;
        self.shares.unsaid = self.shares.removing.iter().copied().collect();
    }

    /// A list message names files of a device.
    pub(super) fn files_listed(&mut self, owner: DeviceId, files: &[FileEntry]) {
        if owner == self.public_id {
            let ids: Vec<FileId> = files.iter().map(|file| file.file_id).collect();
            let changed = self.shares.set_state(&ids, ShareState::Shared);
            self.tell_shares(changed, ShareState::Shared);
        } else {
            self.scheduler.owner_back(owner);
        }
    }

    /// Files are gone for good.
    pub(super) fn files_removed(&mut self, owner: DeviceId, file_ids: &[FileId]) {
        if owner == self.public_id {
            self.shares.removed(file_ids);
        }
        self.fail_files(owner, file_ids, FailureCode::FileGone);
    }

    // ── Uploads
    // ─────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn upload_asked(&mut self, request: UploadChunkRequest) {
        if request.what == BodyKind::Hashes {
            return self.upload_refused(request.ticket, FailureCode::NoHashes, None);
        }
        let mut length = 0;
        for piece in &request.pieces {
            match self.bytes_of(piece) {
                Ok(bytes) => length += bytes,
                Err(code) => return self.upload_refused(request.ticket, code, Some(piece.file_id)),
            }
        }
        if length != request.length {
            let culprit = request.pieces.first().map(|piece| piece.file_id);
            return self.upload_refused(request.ticket, FailureCode::FileChanged, culprit);
        }
        self.effects.push(Effect::Upload {
            ticket: request.ticket,
            pieces: request.pieces,
            length,
        });
    }

    fn bytes_of(&self, piece: &GroupSpan) -> Result<u64, FailureCode> {
        let share = self.shares.files.get(&piece.file_id).ok_or(FailureCode::FileGone)?;
        let groups = Groups::of(share.new.size);
        let inside = piece.groups.count > 0 && piece.groups.end() <= groups.count();
        if inside {
            Ok(groups.span(piece.groups.first, piece.groups.count))
        } else {
            Err(FailureCode::FileChanged)
        }
    }

    pub(super) fn upload_refused(
        &mut self,
        ticket: Ticket,
        code: FailureCode,
        file_id: Option<FileId>,
    ) {
        self.send(
            DeviceToRelay::ChunkUnavailable(ChunkUnavailable { ticket, code, file_id }),
            None,
        );
    }
}
