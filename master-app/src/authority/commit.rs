//! Commits effects: what was decided is on disk before anything leaves, and waits while the disk
//! hinders. The caller sends what comes back; nothing here calls the driver.

use std::time::{Duration, Instant};

use lanyard_hub::authority::{AuditEvent, Authority, AuthorityConfig, Effect, StoreWrite};
use lanyard_protocol::codec::encode_master;
use lanyard_protocol::{MasterFrame, MasterToRelay};
use lanyard_system::clock::now_ms;

use crate::problems::{self, ActiveProblem, ProblemList};
use crate::store::audit_log::Audit;
use crate::store::{Store, StoreError, TransientStoreError};

/// Waits this long after the first failed commit, and twice as long after each further one …
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// … up to this.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Effects that wait for the disk, and bytes of the messages among them; beyond, senders wait.
pub(super) const MAX_HELD: usize = 1_024;
pub(super) const MAX_HELD_BYTES: usize = 16 << 20;

/// An effect beside its texts.
const SEND_OVERHEAD: usize = 512;
/// A list that is sent is also in a change for the disk and in a message to the screens.
const COPIES: usize = 3;

/// The time before which no commit is tried.
#[derive(Debug, Clone, Copy)]
struct RetryAfter {
    until: Instant,
    pause: Duration,
    /// The last revision that is on disk.
    told: u64,
}

impl RetryAfter {
    fn after(before: Option<Self>, told: u64) -> Self {
        let pause = before.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(MAX_PAUSE));
        Self { until: Instant::now() + pause, pause, told }
    }
}

/// The result of one commit.
pub(super) enum CommitOutcome {
    /// These effects leave now. `resumed` is true if the disk hindered before.
    Released { effects: Vec<Effect>, resumed: bool },
    /// The disk hinders: decisions after revision `told` wait.
    Held { told: u64 },
    /// The disk still hinders: only these answers leave.
    Answers(Vec<Effect>),
    /// The disk refused for good: memory must follow the disk.
    Refused(StoreError),
}

/// Owns the store, the audit log, and the effects that are not committed yet.
pub(super) struct Committer {
    /// Away only while it commits.
    store: Option<Store>,
    /// None in tests; away only while it writes.
    audit: Option<Audit>,
    problems: ProblemList,
    /// Effects of this batch, and all since the disk began to hinder.
    effects: Vec<Effect>,
    retry: Option<RetryAfter>,
    held_bytes: usize,
    /// The most bytes that ever waited for the disk.
    #[cfg(test)]
    pub max_held: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Committer {
    pub(super) fn new(store: Store, audit: Option<Audit>) -> Self {
        let problems = store.problems().clone();
        Self {
            store: Some(store),
            audit,
            problems,
            effects: Vec::new(),
            retry: None,
            held_bytes: 0,
            #[cfg(test)]
            max_held: Default::default(),
        }
    }

    pub(super) fn problems(&self) -> &ProblemList {
        &self.problems
    }

    /// Starts an authority on what is on disk.
    pub(super) fn load(&mut self, config: &AuthorityConfig) -> Result<Authority, StoreError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let store = self.store.as_mut().expect("the store is back before the next use");
        Ok(Authority::new(config.clone(), store.load()?, seed))
    }

    /// Appends decisions that an earlier run committed but did not record.
    pub(super) fn catch_up(&mut self, authority: &Authority) {
        let caught_up =
            self.audit.as_mut().map(|audit| audit.catch_up(now_ms(), authority.members()));
        if let Some(Err(error)) = caught_up {
            self.problems.raise(not_recorded(&error));
        }
    }

    /// Takes an effect for the next commit.
    pub(super) fn push(&mut self, effect: Effect) {
        if self.retry.is_some() {
            self.held_bytes += bytes_of(&effect);
        }
        self.effects.push(effect);
        #[cfg(test)]
        self.max_held.fetch_max(self.held_bytes, std::sync::atomic::Ordering::Relaxed);
    }

    /// Drops frames for the relay: they were meant for a connection that ended.
    pub(super) fn drop_frames(&mut self) {
        self.effects.retain(|effect| !matches!(effect, Effect::Send(_)));
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.retry.is_some()
    }

    /// Returns the time of the next try while the disk hinders.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry.map(|retry| retry.until)
    }

    pub(super) fn has_room(&self) -> bool {
        self.effects.len() < MAX_HELD && self.held_bytes < MAX_HELD_BYTES
    }

    /// Commits the saves among the effects, and returns the others in their order. `revision` is
    /// the authority's.
    pub(super) async fn commit(&mut self, revision: u64) -> CommitOutcome {
        if self.retry.is_some_and(|retry| Instant::now() < retry.until) {
            return CommitOutcome::Answers(self.take_answers());
        }
        let mut changes = Vec::<StoreWrite>::new();
        let mut events = Vec::<AuditEvent>::new();
        let mut released = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Save(change) => changes.push(change),
                Effect::Note(event) => events.push(event),
                other @ (Effect::Send(_)
                | Effect::Publish { .. }
                | Effect::Answer { .. }
                | Effect::Event(_)) => released.push(other),
            }
        }
        let mut resumed = false;
        if !changes.is_empty() {
            let apply = move |store: &mut Store| (store.apply(&changes), changes);
            let (applied, changes) = self.with_store(apply).await;
            if let Err(error) = applied {
                let saves = changes.into_iter().map(Effect::Save);
                let held = saves.chain(events.into_iter().map(Effect::Note)).chain(released);
                return self.hold_back(held.collect(), revision, error);
            }
            resumed = self.resume();
        }
        if !events.is_empty() {
            self.record(events).await;
        }
        CommitOutcome::Released { effects: released, resumed }
    }

    /// Keeps `held` for the next try if the error passes by itself.
    fn hold_back(&mut self, held: Vec<Effect>, revision: u64, error: StoreError) -> CommitOutcome {
        let Some(transient) = error.transient() else { return CommitOutcome::Refused(error) };
        let first = held.iter().find_map(|effect| {
            if let Effect::Save(StoreWrite::Revision(revision)) = effect {
                Some(*revision)
            } else {
                None
            }
        });
        let told = first.map_or(revision, |first| first - 1);
        if self.retry.is_none() {
            self.held_bytes = held.iter().map(bytes_of).sum();
        }
        self.effects = held;
        self.retry = Some(RetryAfter::after(self.retry, told));
        tracing::debug!(%error, "decisions wait for the disk");
        self.problems.raise(problem_of_transient(transient));
        CommitOutcome::Held { told }
    }

    /// Ends the wait: the disk takes what it is given. Returns true if there was a wait.
    fn resume(&mut self) -> bool {
        self.held_bytes = 0;
        self.problems.clear(problems::DATABASE_LOCKED);
        self.problems.clear(problems::DATABASE_FULL);
        self.retry.take().is_some()
    }

    /// Takes the answers that may leave while the disk hinders: look-ups for transfers, and pages
    /// of the list as it is on disk. Members can then still connect, see and fetch, and no answer
    /// tells of a decision. Takes none while files are to leave, since "gone" would be told before
    /// it is true.
    fn take_answers(&mut self) -> Vec<Effect> {
        let Some(RetryAfter { told, .. }) = self.retry else { return Vec::new() };
        let takes_away = |effect: &Effect| {
            matches!(
                effect,
                Effect::Save(StoreWrite::FilesGone { .. } | StoreWrite::BelongingsGone(_))
            )
        };
        if self.effects.iter().any(takes_away) {
            return Vec::new();
        }
        let is_answer = |effect: &Effect| match effect {
            Effect::Send(MasterFrame { message, .. }) => match message {
                MasterToRelay::FileGrant(_) | MasterToRelay::LinkMembers(_) => true,
                MasterToRelay::FeedPage(page) => page.revision <= told,
                MasterToRelay::MasterAppRegister(_)
                | MasterToRelay::MasterRoster(_)
                | MasterToRelay::ApprovalChallenge(_)
                | MasterToRelay::ApprovalOpen(_)
                | MasterToRelay::ApprovalRestart(_)
                | MasterToRelay::ApprovalClosed(_)
                | MasterToRelay::ApproveClient(_)
                | MasterToRelay::ClientApproved(_)
                | MasterToRelay::DisApproveClient(_)
                | MasterToRelay::ForgetClient(_)
                | MasterToRelay::ClientUpdated(_)
                | MasterToRelay::FilesAdded(_)
                | MasterToRelay::FilesUpdated(_)
                | MasterToRelay::FileRemoved(_)
                | MasterToRelay::FilesWithdrawn(_)
                | MasterToRelay::AddFilesAck(_)
                | MasterToRelay::RemoveFileAck(_)
                | MasterToRelay::UpdateNameAck(_)
                | MasterToRelay::LinkMade(_)
                | MasterToRelay::LinkDropped(_)
                | MasterToRelay::LinksPage(_)
                | MasterToRelay::LinkGrant(_)
                | MasterToRelay::RequestFailed(_)
                | MasterToRelay::Ping(_) => false,
            },
            Effect::Save(_)
            | Effect::Publish { .. }
            | Effect::Answer { .. }
            | Effect::Event(_)
            | Effect::Note(_) => false,
        };
        let effects = std::mem::take(&mut self.effects);
        let (answers, held): (Vec<_>, Vec<_>) = effects.into_iter().partition(is_answer);
        self.effects = held;
        answers
    }

    /// Appends events to the audit log. A decision stands also where it cannot be recorded: a full
    /// disk must not keep a device in.
    async fn record(&mut self, events: Vec<AuditEvent>) {
        let Some(mut audit) = self.audit.take() else { return };
        let work = move || {
            let result = audit.write(now_ms(), &events);
            (audit, result)
        };
        let (audit, result) =
            tokio::task::spawn_blocking(work).await.expect("the audit log does not panic");
        match result {
            Ok(()) => self.problems.clear(problems::RECORD),
            Err(error) => self.problems.raise(not_recorded(&error)),
        }
        self.audit = Some(audit);
    }

    /// Writes the repeated lines that are only counted in memory, before the end.
    pub(super) async fn finish(&mut self) {
        let Some(mut audit) = self.audit.take() else { return };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || audit.finish()).await {
            tracing::warn!(%error, "repeated events could not be recorded");
        }
    }

    /// Returns a term that is on disk, and whether this ended a wait.
    pub(super) async fn next_term(&mut self, at_least: u64) -> (Result<u64, StoreError>, bool) {
        let term = self.with_store(move |store| store.next_term(at_least)).await;
        let resumed = term.is_ok() && self.resume();
        if let Some(transient) = term.as_ref().err().and_then(StoreError::transient) {
            self.problems.raise(problem_of_transient(transient));
        }
        (term, resumed)
    }

    async fn with_store<T: Send + 'static>(
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

    /// Starts over from what is on disk, after the disk refused. Returns whether this ended a wait.
    pub(super) async fn restart(
        &mut self,
        config: &AuthorityConfig,
        why: &StoreError,
    ) -> Result<(Authority, bool), StoreError> {
        if why.is_damage() {
            let store = self.store.take().expect("the store is back before the next use");
            let reopen = tokio::task::spawn_blocking(move || store.reopen()).await;
            self.store = Some(reopen.expect("the store does not panic")?);
        }
        let authority = self.load(config)?;
        Ok((authority, self.resume()))
    }
}

/// About the memory that an effect takes while it waits. What is sent stands for the change and the
/// words to the screens that go with it.
fn bytes_of(effect: &Effect) -> usize {
    match effect {
        Effect::Send(frame) => SEND_OVERHEAD + COPIES * encode_master(frame).len(),
        Effect::Save(_)
        | Effect::Publish { .. }
        | Effect::Answer { .. }
        | Effect::Event(_)
        | Effect::Note(_) => SEND_OVERHEAD,
    }
}

/// Returns the problem to show for a transient error.
pub(crate) fn problem_of_transient(transient: TransientStoreError) -> ActiveProblem {
    let (code, what, advice) = match transient {
        TransientStoreError::Locked => (
            problems::DATABASE_LOCKED,
            "Another program holds the database.",
            "Decisions are queued until the database is free. \
             Close the program that uses the data directory.",
        ),
        TransientStoreError::Full => (
            problems::DATABASE_FULL,
            "The disk has no room for the database.",
            "Decisions are queued until there is space. \
             Free some on the disk that holds the data directory.",
        ),
    };
    ActiveProblem { code, what: what.into(), advice: advice.into(), since_ms: now_ms() }
}

fn not_recorded(error: &std::io::Error) -> ActiveProblem {
    ActiveProblem {
        code: problems::RECORD,
        what: format!("A decision could not be written into the record: {error}."),
        advice: "The decision holds, and is recorded at the next start. Check the disk space."
            .into(),
        since_ms: now_ms(),
    }
}
