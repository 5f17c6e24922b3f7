//! The driver and its disk: what is committed before anything leaves, what waits while the disk
//! hinders, and the way back to what is on disk where it refuses.

use std::time::{Duration, Instant};

use lanyard_hub::authority::{AuditEvent, Authority, AuthorityConfig, Effect, Input, StoreWrite};
use lanyard_protocol::codec::encode_master;
use lanyard_protocol::message::RequestFailed;
use lanyard_protocol::{FailureCode, MasterFrame, MasterToConsole, MasterToRelay};
use lanyard_system::clock::now_ms;

use super::{AuthorityDriver, Reply};
use crate::problems::{self, ActiveProblem};
use crate::store::{Store, StoreError, TransientStoreError};

/// A database that is held by another program, or has no room, is tried again after this, then
/// after twice as long …
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An effect beside its texts.
const SEND_OVERHEAD: usize = 512;
/// A list that is sent is also in a change for the disk and in a message to the screens.
const COPIES: usize = 3;

/// Until when nothing is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetryAfter {
    pub(super) until: Instant,
    pause: Duration,
    /// The last revision that is on disk.
    told: u64,
}

impl RetryAfter {
    fn after(before: Option<Self>, told: u64) -> Self {
        let pause = before.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        Self { until: Instant::now() + pause, pause, told }
    }
}

pub(super) fn begin(config: &AuthorityConfig, store: &mut Store) -> Result<Authority, StoreError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(Authority::new(config.clone(), store.load()?, seed))
}

impl AuthorityDriver {
    /// Commits the saves among the effects, then lets the others out in their order.
    pub(super) async fn let_out(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_some_and(|waiting| Instant::now() < waiting.until) {
            self.let_answers_out().await;
            return Ok(());
        }
        if self.effects.is_empty() {
            return Ok(());
        }
        let (mut changes, mut notes, mut words) =
            (Vec::<StoreWrite>::new(), Vec::<AuditEvent>::new(), Vec::new());
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Save(change) => changes.push(change),
                Effect::Note(note) => notes.push(note),
                other => words.push(other),
            }
        }
        if !changes.is_empty() {
            let apply = move |store: &mut Store| (store.apply(&changes), changes);
            let (applied, changes) = self.with_store(apply).await;
            if let Err(error) = applied {
                let held = changes
                    .into_iter()
                    .map(Effect::Save)
                    .chain(notes.into_iter().map(Effect::Note));
                return self.not_kept(held.chain(words).collect(), error).await;
            }
            self.go_on();
        }
        if !notes.is_empty() {
            self.record(notes).await;
        }
        for effect in words {
            self.say(effect).await;
        }
        Ok(())
    }

    /// What passes is waited for, with all that was decided, untold. Else it is unsaid.
    async fn not_kept(&mut self, held: Vec<Effect>, error: StoreError) -> Result<(), StoreError> {
        let Some(hindrance) = error.hindrance() else {
            tracing::error!(%error, "what was decided could not be kept; starting over from what is on disk");
            return self.begin_anew(&error).await;
        };
        let first = held.iter().find_map(|e| {
            if let Effect::Save(StoreWrite::Revision(r)) = e { Some(*r) } else { None }
        });
        let told = first.map_or(self.authority.head().revision, |first| first - 1);
        if self.waiting.is_none() {
            self.held_bytes = held.iter().map(bytes_of).sum();
        }
        self.effects = held;
        self.waiting = Some(RetryAfter::after(self.waiting, told));
        self.hold(Some(told));
        tracing::debug!(%error, "what was decided waits for the disk");
        self.problems.raise(hindrance_told(hindrance));
        Ok(())
    }

    /// The disk takes what it is given.
    pub(super) fn go_on(&mut self) {
        if self.waiting.take().is_some() {
            self.held_bytes = 0;
            self.hold(None);
        }
        self.problems.clear(problems::DATABASE_LOCKED);
        self.problems.clear(problems::DATABASE_FULL);
    }

    fn hold(&mut self, at: Option<u64>) {
        self.authority.handle(self.now(), now_ms(), Input::Held { at });
        self.drain();
    }

    /// While the disk hinders, look-ups for transfers are still answered, and pages of the list as
    /// it is on disk, so that who is in can come, see and fetch: such an answer tells nobody about
    /// a decision. Not if files are to leave: "gone" would be told before it is true.
    async fn let_answers_out(&mut self) {
        let Some(RetryAfter { told, .. }) = self.waiting else { return };
        let takes_away = |effect: &Effect| {
            matches!(
                effect,
                Effect::Save(StoreWrite::FilesGone { .. } | StoreWrite::BelongingsGone(_))
            )
        };
        if self.effects.iter().any(takes_away) {
            return;
        }
        let is_answer = |effect: &Effect| match effect {
            Effect::Send(MasterFrame {
                message: MasterToRelay::FileGrant(_) | MasterToRelay::LinkMembers(_),
                ..
            }) => true,
            Effect::Send(MasterFrame { message: MasterToRelay::FeedPage(page), .. }) => {
                page.revision <= told
            }
            _ => false,
        };
        let (answers, held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.effects).into_iter().partition(is_answer);
        self.effects = held;
        for answer in answers {
            self.say(answer).await;
        }
    }

    /// What was decided stands, also where it cannot be recorded: a full disk must not keep a
    /// device in.
    async fn record(&mut self, notes: Vec<AuditEvent>) {
        let Some(mut audit) = self.audit.take() else { return };
        let work = move || {
            let result = audit.write(now_ms(), &notes);
            (audit, result)
        };
        let (audit, result) =
            tokio::task::spawn_blocking(work).await.expect("the record does not panic");
        match result {
            Ok(()) => self.problems.clear(problems::RECORD),
            Err(error) => self.problems.raise(not_recorded(&error)),
        }
        self.audit = Some(audit);
    }

    /// Repeated lines are counted in memory: told before the end.
    pub(super) async fn finish_record(&mut self) {
        let Some(mut audit) = self.audit.take() else { return };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || audit.finish()).await {
            tracing::warn!(%error, "how often something repeated could not be recorded");
        }
    }

    pub(super) async fn with_store<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> T {
        let mut store = self.store.take().expect("the store is back before the next use");
        let work = move || {
            let result = work(&mut store);
            (store, result)
        };
        let (store, result) =
            tokio::task::spawn_blocking(work).await.expect("the store does not panic");
        self.store = Some(store);
        result
    }

    /// The disk did not keep what memory decided: memory follows the disk. The relay registers us
    /// again, screens reload.
    pub(super) async fn begin_anew(&mut self, why: &StoreError) -> Result<(), StoreError> {
        if why.is_damage() {
            let store = self.store.take().expect("the store is back");
            let reopen = tokio::task::spawn_blocking(move || store.reopen()).await;
            self.store = Some(reopen.expect("the store does not panic")?);
        }
        let store = self.store.as_mut().expect("the store is back");
        self.authority = begin(&self.config, store)?;
        self.go_on();
        self.relay = None;
        self.screens.clear();
        let failed = RequestFailed {
            code: FailureCode::Internal,
            message: FailureCode::Internal.sentence().into(),
            retry_after_ms: None,
            file_id: None,
        };
        for (_, reply) in std::mem::take(&mut self.asks) {
            if let Reply::Once(reply) = reply {
                let _ = reply.send(MasterToConsole::RequestFailed(failed.clone()));
            }
        }
        Ok(())
    }
}

/// About the memory that an effect takes while it waits. What is sent stands for the change and the
/// words to the screens that go with it.
pub(super) fn bytes_of(effect: &Effect) -> usize {
    match effect {
        Effect::Send(frame) => SEND_OVERHEAD + COPIES * encode_master(frame).len(),
        Effect::Save(_)
        | Effect::Publish { .. }
        | Effect::Answer { .. }
        | Effect::Event(_)
        | Effect::Note(_) => SEND_OVERHEAD,
    }
}

/// A hindrance in words.
pub(crate) fn hindrance_told(hindrance: TransientStoreError) -> ActiveProblem {
    let (code, what, advice) = match hindrance {
        TransientStoreError::Locked => (
            problems::DATABASE_LOCKED,
            "Another program holds the database.",
            "Decisions wait until it lets go, and hold then. Close what looks into the data directory.",
        ),
        TransientStoreError::Full => (
            problems::DATABASE_FULL,
            "The disk has no room for the database.",
            "Decisions wait until there is room, and hold then. Make some on the disk of the data directory.",
        ),
    };
    ActiveProblem { code, what: what.into(), advice: advice.into(), since_ms: now_ms() }
}

pub(super) fn not_recorded(error: &std::io::Error) -> ActiveProblem {
    ActiveProblem {
        code: problems::RECORD,
        what: format!("A decision could not be written into the record: {error}."),
        advice: "It holds all the same, and is recorded when the hub starts anew. Check that the disk has room.".into(),
        since_ms: now_ms(),
    }
}
