//! How far transfers are, for the screens of asker and owner: the relay sees all bytes. At most
//! four reports a second each.

use std::collections::BTreeMap;

use lanyard_protocol::limits::{MAX_TRANSFERS_A_SESSION, PROGRESS_INTERVAL_MS};
use lanyard_protocol::message::{TransferProgress, TransferState};
use lanyard_protocol::{FileRef, RelayToDevice, TransferId};

use super::*;

#[derive(Debug)]
struct TransferRecord {
    /// What the asker said it holds, and what it got since.
    have: u64,
    delivered: u64,
    file: Option<(FileRef, u64)>,
    reported: Moment,
    /// When it was last heard of, by a count of all that was heard.
    touched: u64,
    /// Bytes since the last report.
    since_report: u64,
    rate: u64,
}

#[derive(Debug, Default)]
pub(super) struct ProgressTracker {
    courses: BTreeMap<SessionId, BTreeMap<TransferId, TransferRecord>>,
    heard: u64,
}

impl ProgressTracker {
    /// The course of a transfer, new if need be. Transfer ids are the asker's to invent: a session
    /// that names more than it may loses the one that was not heard of for longest, which costs its
    /// screen a few reports.
    fn course(&mut self, (session, transfer): (SessionId, TransferId)) -> &mut TransferRecord {
        self.heard += 1;
        let touched = self.heard;
        let own = self.courses.entry(session).or_default();
        if own.len() >= MAX_TRANSFERS_A_SESSION && !own.contains_key(&transfer) {
            let oldest =
                own.iter().min_by_key(|(_, course)| course.touched).map(|(transfer, _)| *transfer);
            oldest.map(|oldest| own.remove(&oldest));
        }
        let course = own.entry(transfer).or_insert(TransferRecord {
            have: 0,
            delivered: 0,
            file: None,
            reported: Moment(0),
            touched,
            since_report: 0,
            rate: 0,
        });
        course.touched = touched;
        course
    }

    fn remove(&mut self, (session, transfer): (SessionId, TransferId)) -> Option<TransferRecord> {
        let own = self.courses.get_mut(&session)?;
        let course = own.remove(&transfer);
        if own.is_empty() {
            self.courses.remove(&session);
        }
        course
    }

    pub(super) fn note_have(&mut self, session: SessionId, transfer: TransferId, have: u64) {
        let course = self.course((session, transfer));
        course.have = have;
        course.delivered = 0;
    }

    #[allow(clippy::too_many_arguments)] // the parts of one report; a struct would be built and taken apart at one place
    pub(super) fn delivered(
        &mut self,
        now: Moment,
        effects: &mut EffectQueue<Effect>,
        sessions: &Sessions,
        key: (SessionId, TransferId),
        file: FileRef,
        size: u64,
        bytes: u64,
    ) {
        let course = self.course(key);
        course.delivered += bytes;
        course.since_report += bytes;
        if course.file.is_some_and(|(old, _)| old != file) {
            (course.have, course.delivered) = (0, bytes);
        }
        course.file = Some((file, size));
        let done = (course.have + course.delivered).min(size);
        let elapsed = now.since(course.reported);
        if elapsed < PROGRESS_INTERVAL_MS && done < size {
            return;
        }
        if elapsed >= PROGRESS_INTERVAL_MS {
            let rate = course.since_report * 1_000 / elapsed.max(1);
            course.rate = if course.rate == 0 { rate } else { (course.rate * 3 + rate) / 4 };
            (course.reported, course.since_report) = (now, 0);
        }
        let rate = course.rate;
        let state = if done >= size { TransferState::Done } else { TransferState::Running };
        if done >= size {
            self.remove(key);
        }
        report(effects, sessions, key, file, (done, size, rate), state);
    }

    pub(super) fn cancelled(
        &mut self,
        effects: &mut EffectQueue<Effect>,
        sessions: &Sessions,
        session: SessionId,
        transfer: TransferId,
    ) {
        let Some(course) = self.remove((session, transfer)) else { return };
        let Some((file, size)) = course.file else { return };
        let done = (course.have + course.delivered).min(size);
        report(
            effects,
            sessions,
            (session, transfer),
            file,
            (done, size, 0),
            TransferState::Cancelled,
        );
    }

    pub(super) fn forget_session(&mut self, session: SessionId) {
        self.courses.remove(&session);
    }

    /// How many transfers are remembered.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.courses.values().map(BTreeMap::len).sum()
    }
}

fn report(
    effects: &mut EffectQueue<Effect>,
    sessions: &Sessions,
    (session, transfer): (SessionId, TransferId),
    file: FileRef,
    (done, total, rate): (u64, u64, u64),
    state: TransferState,
) {
    let Some(asker) = sessions.get(session).map(|s| s.identity.public_id) else { return };
    let FileRef { public_id, file_id } = file;
    let progress = TransferProgress {
        link_hash: None,
        transfer_id: Some(transfer),
        asker,
        public_id,
        file_id,
        done,
        total,
        rate,
        state,
    };
    let owners = sessions.approved_of(public_id);
    for id in std::iter::once(session).chain(owners.into_iter().filter(|id| *id != session)) {
        let message = RelayToDevice::TransferProgress(progress.clone());
        effects.push(Effect::Session(SessionEffect::Send {
            session: id,
            message,
            reference: None,
        }));
    }
}
