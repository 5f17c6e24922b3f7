//! The only owner of the Authority and of the store: inputs in, one commit for all of a batch, then its effects out.
//!
//! Nothing leaves before what it depends on is on disk. While another program holds the database, or the disk is full,
//! what was decided waits untold and is tried again; what only answers a look-up for a transfer still goes out. If the
//! disk refuses for good, everything since is unsaid: the authority starts anew from what is on disk, and the relay and
//! the screens connect again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lanyard_device::store::now_ms;
use lanyard_hub::Moment;
use lanyard_hub::authority::{Ask, Authority, AuthorityConfig, Change, Command, Effect, Event, Input, Note};
use lanyard_protocol::message::{DoorState, RequestFailed};
use lanyard_protocol::{FailureCode, HubInfo, MasterFrame, MasterToConsole, MasterToRelay, Ref, RelayToMaster};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::audit::Audit;
use crate::problems::{self, Problem, Problems};
use crate::store::{Hindrance, Store, StoreError};

/// Inputs that wait for the driver; beyond, who speaks waits.
const INPUTS: usize = 256;
/// Inputs that share one commit.
const BATCH: usize = 256;
/// Frames that wait for the relay; beyond, the driver waits, and after [`RELAY_STUCK`] gives the connection up.
const FRAMES: usize = 256;
const RELAY_STUCK: Duration = Duration::from_secs(10);
/// A database that is held by another program, or has no room, is tried again after this, then after twice as long …
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Effects, or questions, that wait for the disk; beyond, who speaks waits.
const MOST_HELD: usize = 1_024;

/// One life of the connection to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection(pub u64);

/// One screen at the host: a console tab, the terminal, the event lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScreenId(u64);

/// What a screen is shown.
#[derive(Debug, Clone)]
pub enum Shown {
    Message { message: Arc<MasterToConsole>, reference: Option<Ref> },
    Event(Arc<Event>),
}

/// A screen's end of the driver. Dropping it ends the subscription; when it yields `None` the screen was too slow, or
/// the driver began anew.
pub struct Screen {
    pub id: ScreenId,
    pub shown: mpsc::Receiver<Shown>,
}

type Look = Box<dyn FnOnce(&Authority, Option<&HubInfo>) + Send>;

enum ToDriver {
    NextTerm { at_least: u64, reply: oneshot::Sender<Result<u64, StoreError>> },
    RelayReady { connection: Connection, hub: HubInfo, frames: oneshot::Sender<mpsc::Receiver<Frame>> },
    RelaySaid { connection: Connection, frame: Box<MasterFrame<RelayToMaster>> },
    RelayLost { connection: Connection },
    Asked { command: Command, reply: Reply },
    Subscribe { capacity: usize, reply: oneshot::Sender<Screen> },
    Look(Look),
}

type Frame = MasterFrame<MasterToRelay>;

enum Reply {
    Once(oneshot::Sender<MasterToConsole>),
    Screen(ScreenId, Option<Ref>),
}

/// The driver is over.
#[derive(Debug, thiserror::Error)]
#[error("the hub is shutting down")]
pub struct Over;

/// Speaks to the driver; clones speak to the same one.
#[derive(Clone)]
pub struct DriverHandle {
    inputs: mpsc::Sender<ToDriver>,
    problems: Problems,
}

impl DriverHandle {
    async fn put(&self, input: ToDriver) -> Result<(), Over> {
        self.inputs.send(input).await.map_err(|_| Over)
    }

    /// What is wrong with the hub. Known also while the driver waits for its disk.
    pub fn problems(&self) -> &Problems {
        &self.problems
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> ToDriver) -> Result<T, Over> {
        let (reply, answer) = oneshot::channel();
        self.put(make(reply)).await?;
        answer.await.map_err(|_| Over)
    }

    /// A term to register with, on disk already.
    pub async fn next_term(&self, at_least: u64) -> Result<Result<u64, StoreError>, Over> {
        self.ask(|reply| ToDriver::NextTerm { at_least, reply }).await
    }

    /// Registered: what comes out of the receiver goes to the relay. It ends when the connection is to be given up.
    pub async fn relay_ready(&self, connection: Connection, hub: HubInfo) -> Result<mpsc::Receiver<Frame>, Over> {
        self.ask(|frames| ToDriver::RelayReady { connection, hub, frames }).await
    }

    pub async fn relay_said(&self, connection: Connection, frame: MasterFrame<RelayToMaster>) -> Result<(), Over> {
        self.put(ToDriver::RelaySaid { connection, frame: Box::new(frame) }).await
    }

    pub async fn relay_lost(&self, connection: Connection) -> Result<(), Over> {
        self.put(ToDriver::RelayLost { connection }).await
    }

    /// A wish of the person at the host, and what came of it.
    pub async fn wish(&self, command: Command) -> Result<MasterToConsole, Over> {
        self.ask(|reply| ToDriver::Asked { command, reply: Reply::Once(reply) }).await
    }

    /// The same, answered on a screen, with its `ref`.
    pub async fn wish_on(&self, screen: ScreenId, reference: Option<Ref>, command: Command) -> Result<(), Over> {
        self.put(ToDriver::Asked { command, reply: Reply::Screen(screen, reference) }).await
    }

    /// From here on the screen is shown everything; first how things stand. More than `capacity` that it has not looked
    /// at yet end it.
    pub async fn subscribe(&self, capacity: usize) -> Result<Screen, Over> {
        self.ask(|reply| ToDriver::Subscribe { capacity, reply }).await
    }

    /// A look at how things stand, all of it on disk.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Authority, Option<&HubInfo>) -> T + Send + 'static,
    ) -> Result<T, Over> {
        let look = |reply: oneshot::Sender<T>| {
            ToDriver::Look(Box::new(move |authority: &Authority, hub: Option<&HubInfo>| {
                // Who asked may be gone by now.
                let _ = reply.send(look(authority, hub));
            }))
        };
        self.ask(look).await
    }
}

/// Starts the driver on what is in `store`. It ends when all handles are gone, or when disk and memory cannot be brought
/// together any more.
pub fn start(
    config: AuthorityConfig,
    mut store: Store,
    mut audit: Option<Audit>,
) -> Result<(DriverHandle, JoinHandle<Result<(), StoreError>>), StoreError> {
    let authority = begin(&config, &mut store)?;
    let (sender, inputs) = mpsc::channel(INPUTS);
    let problems = store.problems().clone();
    let handle = DriverHandle { inputs: sender, problems: problems.clone() };
    if let Some(Err(error)) = audit.as_mut().map(|audit| audit.catch_up(now_ms(), authority.members())) {
        problems.raise(not_recorded(&error));
    }
    let driver = Driver {
        config,
        authority,
        store: Some(store),
        audit,
        problems,
        started: Instant::now(),
        inputs,
        effects: Vec::new(),
        waiting: None,
        questions: Vec::new(),
        relay: None,
        hub: None,
        screens: BTreeMap::new(),
        asks: BTreeMap::new(),
        next_number: 1,
    };
    Ok((handle, tokio::spawn(driver.run())))
}

fn begin(config: &AuthorityConfig, store: &mut Store) -> Result<Authority, StoreError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(Authority::new(config.clone(), store.load()?, seed))
}

struct Driver {
    config: AuthorityConfig,
    authority: Authority,
    /// Away only while it commits.
    store: Option<Store>,
    /// None in tests; away only while it writes.
    audit: Option<Audit>,
    problems: Problems,
    started: Instant,
    inputs: mpsc::Receiver<ToDriver>,
    /// Of this batch, not yet let out; and all since the disk began to hinder.
    effects: Vec<Effect>,
    /// The disk hinders.
    waiting: Option<Waiting>,
    /// They are answered from what is on disk: when it is.
    questions: Vec<ToDriver>,
    relay: Option<(Connection, mpsc::Sender<Frame>)>,
    /// Of the relay that was there last.
    hub: Option<HubInfo>,
    screens: BTreeMap<ScreenId, mpsc::Sender<Shown>>,
    asks: BTreeMap<Ask, Reply>,
    next_number: u64,
}

/// Until when nothing is tried.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    until: Instant,
    pause: Duration,
}

impl Waiting {
    fn after(before: Option<Self>) -> Self {
        let pause = before.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        Self { until: Instant::now() + pause, pause }
    }
}

impl Driver {
    async fn run(mut self) -> Result<(), StoreError> {
        let mut inputs = Vec::with_capacity(BATCH);
        loop {
            let wake = self.authority.poll_timeout().map(|at| self.started + Duration::from_millis(at.0));
            let again = self.waiting.map(|waiting| waiting.until);
            let has_room = self.effects.len() < MOST_HELD && self.questions.len() < MOST_HELD;
            tokio::select! {
                count = self.inputs.recv_many(&mut inputs, BATCH), if has_room => match count {
                    0 => return Ok(()),
                    _ => self.batch(inputs.drain(..)).await?,
                },
                () = sleep_until(wake) => {}
                () = sleep_until(again) => {}
            }
            // Also after a batch: who speaks all the time must not stop the clock.
            self.authority.handle_timeout(self.now(), now_ms());
            self.drain();
            self.let_out().await?;
            self.answer_questions().await?;
        }
    }

    fn now(&self) -> Moment {
        Moment(self.started.elapsed().as_millis() as u64)
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Everything that waited, in one commit; what only looks sees what was committed.
    async fn batch(&mut self, inputs: impl Iterator<Item = ToDriver>) -> Result<(), StoreError> {
        for input in inputs {
            if let Some(other) = self.decide(input) {
                self.let_out().await?;
                self.serve(other).await?;
            }
        }
        self.let_out().await
    }

    /// Feeds the authority; hands back what is not for it.
    fn decide(&mut self, input: ToDriver) -> Option<ToDriver> {
        let input = match input {
            ToDriver::RelaySaid { connection, frame } => {
                if self.relay.as_ref().is_none_or(|(live, _)| *live != connection) {
                    return None; // words of a connection that was given up
                }
                Input::Frame(frame)
            }
            ToDriver::RelayLost { connection } => {
                if self.relay.as_ref().is_none_or(|(live, _)| *live != connection) {
                    return None;
                }
                self.drop_relay();
                Input::RelayLost
            }
            ToDriver::Asked { command, reply } => {
                let ask = Ask(self.number());
                self.asks.insert(ask, reply);
                Input::Operator { ask, command }
            }
            other => return Some(other),
        };
        self.authority.handle(self.now(), now_ms(), input);
        self.drain();
        None
    }

    fn drain(&mut self) {
        while let Some(effect) = self.authority.poll_effect() {
            self.effects.push(effect);
        }
    }

    /// Looks are at what is on disk: they wait for what waits.
    async fn answer_questions(&mut self) -> Result<(), StoreError> {
        while self.waiting.is_none() && !self.questions.is_empty() {
            for question in std::mem::take(&mut self.questions) {
                self.serve(question).await?;
            }
        }
        Ok(())
    }

    /// What was meant for it does not go to the next.
    fn drop_relay(&mut self) {
        self.relay = None;
        self.effects.retain(|effect| !matches!(effect, Effect::Send(_)));
    }

    async fn serve(&mut self, input: ToDriver) -> Result<(), StoreError> {
        match input {
            ToDriver::Look(_) | ToDriver::Subscribe { .. } if self.waiting.is_some() => self.questions.push(input),
            ToDriver::NextTerm { at_least, reply } => {
                let term = self.with_store(move |store| store.next_term(at_least)).await;
                match &term {
                    Ok(_) => self.go_on(),
                    Err(error) => {
                        error.hindrance().into_iter().for_each(|h| self.problems.raise(hindrance_told(h)));
                    }
                }
                // The connection that asked may be gone.
                let _ = reply.send(term);
            }
            ToDriver::RelayReady { connection, hub, frames } => {
                let (sender, receiver) = mpsc::channel(FRAMES);
                self.drop_relay();
                self.relay = Some((connection, sender));
                let hub_key = hub.public_key;
                self.hub = Some(hub);
                if frames.send(receiver).is_ok() {
                    self.authority.handle(self.now(), now_ms(), Input::RelayReady { hub_key });
                    self.drain();
                    self.let_out().await?;
                }
            }
            ToDriver::Subscribe { capacity, reply } => self.subscribe(capacity, reply),
            ToDriver::Look(look) => look(&self.authority, self.hub.as_ref()),
            ToDriver::RelaySaid { .. } | ToDriver::RelayLost { .. } | ToDriver::Asked { .. } => {}
        }
        Ok(())
    }

    fn subscribe(&mut self, capacity: usize, reply: oneshot::Sender<Screen>) {
        let (sender, shown) = mpsc::channel(capacity.max(8));
        let id = ScreenId(self.number());
        let standing = [
            MasterToConsole::Knocks(self.authority.knocks(self.config.tap_to_approve)),
            MasterToConsole::Refused(self.authority.refused()),
            MasterToConsole::Presence(self.authority.presence()),
            MasterToConsole::Door(DoorState { admission: self.authority.admission() }),
        ];
        for message in standing {
            let shown = Shown::Message { message: Arc::new(message), reference: None };
            sender.try_send(shown).expect("a new channel has room for these");
        }
        if reply.send(Screen { id, shown }).is_ok() {
            self.screens.insert(id, sender);
        }
    }

    /// Commits the saves among the effects, then lets the others out in their order.
    async fn let_out(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_some_and(|waiting| Instant::now() < waiting.until) {
            self.let_answers_out().await;
            return Ok(());
        }
        if self.effects.is_empty() {
            return Ok(());
        }
        let (mut changes, mut notes, mut words) = (Vec::<Change>::new(), Vec::<Note>::new(), Vec::new());
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
                let held = changes.into_iter().map(Effect::Save).chain(notes.into_iter().map(Effect::Note));
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
        self.effects = held;
        self.waiting = Some(Waiting::after(self.waiting));
        tracing::debug!(%error, "what was decided waits for the disk");
        self.problems.raise(hindrance_told(hindrance));
        Ok(())
    }

    /// The disk takes what it is given.
    fn go_on(&mut self) {
        self.waiting = None;
        self.problems.clear(problems::DATABASE_LOCKED);
        self.problems.clear(problems::DATABASE_FULL);
    }

    /// While the disk hinders, look-ups for transfers are still answered, so that transfers go on: such an answer tells
    /// nobody about a decision. Not if files are to leave: "gone" would be told before it is true.
    async fn let_answers_out(&mut self) {
        let takes_away =
            |effect: &Effect| matches!(effect, Effect::Save(Change::FilesGone { .. } | Change::BelongingsGone(_)));
        if self.effects.iter().any(takes_away) {
            return;
        }
        let is_answer =
            |effect: &Effect| matches!(effect, Effect::Send(MasterFrame { message: MasterToRelay::FileGrant(_), .. }));
        let (answers, held) = std::mem::take(&mut self.effects).into_iter().partition(is_answer);
        self.effects = held;
        let answers: Vec<Effect> = answers;
        for answer in answers {
            self.say(answer).await;
        }
    }

    /// What was decided stands, also where it cannot be recorded: a full disk must not keep a device in.
    async fn record(&mut self, notes: Vec<Note>) {
        let Some(mut audit) = self.audit.take() else { return };
        let work = move || {
            let result = audit.write(now_ms(), &notes);
            (audit, result)
        };
        let (audit, result) = tokio::task::spawn_blocking(work).await.expect("the record does not panic");
        match result {
            Ok(()) => self.problems.clear(problems::RECORD),
            Err(error) => self.problems.raise(not_recorded(&error)),
        }
        self.audit = Some(audit);
    }

    async fn with_store<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Store) -> T + Send + 'static) -> T {
        let mut store = self.store.take().expect("the store is back before the next use");
        let work = move || {
            let result = work(&mut store);
            (store, result)
        };
        let (store, result) = tokio::task::spawn_blocking(work).await.expect("the store does not panic");
        self.store = Some(store);
        result
    }

    /// The disk did not keep what memory decided: memory follows the disk. The relay registers us again, screens reload.
    async fn begin_anew(&mut self, why: &StoreError) -> Result<(), StoreError> {
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

    async fn say(&mut self, effect: Effect) {
        match effect {
            Effect::Save(_) | Effect::Note(_) => {}
            Effect::Send(frame) => self.send(frame).await,
            Effect::Publish { message, ask } => self.publish(message, ask),
            Effect::Answer { ask, message } => self.answer(ask, message),
            Effect::Event(event) => {
                let event = Arc::new(event);
                self.show_all(|_| Shown::Event(event.clone()));
            }
        }
    }

    async fn send(&mut self, frame: Frame) {
        let Some((_, relay)) = &self.relay else { return };
        if relay.send_timeout(frame, RELAY_STUCK).await.is_err() {
            tracing::warn!("the relay takes nothing; the connection is given up");
            self.relay = None;
            self.authority.handle(self.now(), now_ms(), Input::RelayLost);
            self.drain();
            // These are words for the screens only, and the next batch lets them out.
        }
    }

    fn publish(&mut self, message: MasterToConsole, ask: Option<Ask>) {
        let message = Arc::new(message);
        let reply = ask.and_then(|ask| self.asks.remove(&ask));
        let (screen, mut reference) = match reply {
            Some(Reply::Once(reply)) => {
                let _ = reply.send((*message).clone());
                (None, None)
            }
            Some(Reply::Screen(screen, reference)) => (Some(screen), reference),
            None => (None, None),
        };
        self.show_all(|id| {
            let reference = if Some(id) == screen { reference.take() } else { None };
            Shown::Message { message: message.clone(), reference }
        });
    }

    fn answer(&mut self, ask: Ask, message: MasterToConsole) {
        match self.asks.remove(&ask) {
            Some(Reply::Once(reply)) => drop(reply.send(message)),
            Some(Reply::Screen(screen, reference)) => {
                let shown = Shown::Message { message: Arc::new(message), reference };
                if self.screens.get(&screen).is_some_and(|sender| sender.try_send(shown).is_err()) {
                    self.screens.remove(&screen);
                }
            }
            None => {}
        }
    }

    /// A screen that is full or gone is let go; it never holds anybody up.
    fn show_all(&mut self, mut make: impl FnMut(ScreenId) -> Shown) {
        self.screens.retain(|id, sender| sender.try_send(make(*id)).is_ok());
    }
}

/// A hindrance in words.
pub fn hindrance_told(hindrance: Hindrance) -> Problem {
    let (code, what, advice) = match hindrance {
        Hindrance::Locked => (
            problems::DATABASE_LOCKED,
            "Another program holds the database.",
            "Decisions wait until it lets go, and hold then. Close what looks into the data directory.",
        ),
        Hindrance::Full => (
            problems::DATABASE_FULL,
            "The disk has no room for the database.",
            "Decisions wait until there is room, and hold then. Make some on the disk of the data directory.",
        ),
    };
    Problem { code, what: what.into(), advice: advice.into(), since_ms: now_ms() }
}

fn not_recorded(error: &std::io::Error) -> Problem {
    Problem {
        code: problems::RECORD,
        what: format!("A decision could not be written into the record: {error}."),
        advice: "It holds all the same, and is recorded when the hub starts anew. Check that the disk has room.".into(),
        since_ms: now_ms(),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
pub mod tests {
    //! Promises: nothing is said before it is on disk; a full screen holds nobody up; an answer finds who asked.

    use lanyard_protocol::message::*;
    use lanyard_protocol::{
        Client, DeviceKind, Instance, NewFile, Nonce, PublicKey, Reveal, SessionAddress, approval, identity,
    };

    use super::*;
    use crate::problems::Problem;

    pub const HUB: PublicKey = PublicKey([1; 32]);

    pub fn hub() -> HubInfo {
        HubInfo { name: "Studio PC".into(), public_key: HUB }
    }

    pub struct Bench {
        pub driver: DriverHandle,
        pub frames: mpsc::Receiver<Frame>,
        pub dir: tempfile::TempDir,
        connection: Connection,
    }

    impl Bench {
        pub async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("lanyard.db")).unwrap();
            let (driver, _task) = start(AuthorityConfig::default(), store, None).unwrap();
            let connection = Connection(1);
            let frames = driver.relay_ready(connection, hub()).await.unwrap();
            let mut bench = Self { driver, frames, dir, connection };
            bench.next(|m| matches!(m, MasterToRelay::Ping(_)).then_some(())).await;
            bench.said(RelayToMaster::Pong(Empty {})).await;
            bench
        }

        pub async fn said(&self, message: RelayToMaster) {
            self.driver.relay_said(self.connection, MasterFrame::plain(message)).await.unwrap();
        }

        /// The next frame to the relay that `wanted` takes.
        pub async fn next<T>(&mut self, wanted: impl Fn(&MasterToRelay) -> Option<T>) -> T {
            loop {
                let frame = self.frames.recv().await.expect("the relay is there");
                if let Some(found) = wanted(&frame.message) {
                    return found;
                }
            }
        }

        /// A device knocks and reveals; returns its knock and digits.
        pub async fn knock(&mut self, n: u8, name: &str) -> (NewClientRegistered, String) {
            let (public_key, reveal, relay_nonce) = (PublicKey([n; 32]), Reveal([n; 32]), Nonce([n; 32]));
            let commit = approval::commit(&public_key, &reveal);
            let public_id = identity::public_id(&public_key);
            let request = NewClientRegistered {
                client: Client { public_id, name: name.into(), kind: DeviceKind::Browser, platform: "Test".into() },
                address: "192.168.1.5".into(),
                instance: Instance([n; 16]),
                public_key,
                commit,
                relay_nonce,
                request_id: approval::request_id(&public_key, &commit, &relay_nonce, name),
            };
            self.said(RelayToMaster::NewClientRegistered(request.clone())).await;
            let nonce =
                self.next(|m| if let MasterToRelay::ApprovalChallenge(c) = m { Some(c.nonce) } else { None }).await;
            let request_id = request.request_id;
            self.said(RelayToMaster::ApprovalReveal(ApprovalReveal { request_id, reveal, invitation: None })).await;
            (request, approval::code(&HUB, &public_key, &request_id, &reveal, &nonce))
        }

        /// Answers the next APPROVE_CLIENT as a relay does.
        pub async fn ack_approval(&mut self) {
            let ApproveClient { public_id, request_id } =
                self.next(|m| if let MasterToRelay::ApproveClient(a) = m { Some(a.clone()) } else { None }).await;
            self.said(RelayToMaster::ApproveClientAck(ApproveClientAck { public_id, request_id })).await;
        }

        /// Knocks and is let in.
        pub async fn member(&mut self, n: u8, name: &str) -> SessionAddress {
            let (request, code) = self.knock(n, name).await;
            let public_id = request.client.public_id;
            let word = lanyard_hub::authority::Word::Typed(code);
            let driver = self.driver.clone();
            let wish = tokio::spawn(async move {
                driver.wish(Command::Approve { public_id, request_id: None, word, for_ms: None }).await
            });
            self.ack_approval().await;
            assert!(matches!(wish.await.unwrap().unwrap(), MasterToConsole::ClientApproved(_)));
            SessionAddress { public_id, instance: request.instance }
        }

        pub async fn add(&self, from: SessionAddress, count: u8) {
            let new = |n: u8| NewFile {
                file_id: lanyard_protocol::FileId(uuid::Uuid::from_bytes([n; 16])),
                path: format!("folder/{n}.txt"),
                size: 10,
                modified_ms: 1,
                media_type: String::new(),
                kind: Default::default(),
                root: None,
            };
            let message = RelayToMaster::AddFiles(AddFiles { files: (0..count).map(new).collect() });
            let frame = MasterFrame { from: Some(from), ..MasterFrame::plain(message) };
            self.driver.relay_said(self.connection, frame).await.unwrap();
        }
    }

    pub async fn shown<T>(screen: &mut Screen, wanted: impl Fn(&MasterToConsole) -> Option<T>) -> T {
        loop {
            match screen.shown.recv().await.expect("the screen is live") {
                Shown::Message { message, .. } => {
                    if let Some(found) = wanted(&message) {
                        return found;
                    }
                }
                Shown::Event(_) => {}
            }
        }
    }

    #[tokio::test]
    async fn what_the_relay_hears_is_on_disk() {
        let mut bench = Bench::new().await;
        let (request, code) = bench.knock(7, "Ana").await;
        let public_id = request.client.public_id;
        let word = lanyard_hub::authority::Word::Typed(code);
        let driver = bench.driver.clone();
        let wish = tokio::spawn(async move {
            driver.wish(Command::Approve { public_id, request_id: None, word, for_ms: None }).await
        });
        bench.ack_approval().await;
        bench.next(|m| matches!(m, MasterToRelay::ClientApproved(_)).then_some(())).await;
        // A second reader of the file, at the moment of the word: as after a kill.
        let saved = Store::open(&bench.dir.path().join("lanyard.db")).unwrap().load().unwrap();
        assert_eq!((saved.members.len(), saved.revision), (1, 1));
        wish.await.unwrap().unwrap();

        let session = SessionAddress { public_id, instance: request.instance };
        bench.add(session, 3).await;
        bench.next(|m| matches!(m, MasterToRelay::FilesAdded(_)).then_some(())).await;
        let saved = Store::open(&bench.dir.path().join("lanyard.db")).unwrap().load().unwrap();
        assert_eq!((saved.files.len(), saved.revision), (3, 2));
    }

    #[tokio::test]
    async fn a_screen_that_does_not_look_is_let_go_and_holds_nobody_up() {
        let mut bench = Bench::new().await;
        let mut blind = bench.driver.subscribe(8).await.unwrap();
        let mut watching = bench.driver.subscribe(64).await.unwrap();
        for n in 10..20 {
            bench.knock(n, "Somebody").await;
            shown(&mut watching, |m| matches!(m, MasterToConsole::Knocks(_)).then_some(())).await;
        }
        let mut seen = 0;
        while blind.shown.recv().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen, 8, "what fits, then the end");
    }

    #[tokio::test]
    async fn an_answer_with_its_ref_goes_to_the_screen_that_asked() {
        let mut bench = Bench::new().await;
        let session = bench.member(7, "Ana").await;
        let mut asking = bench.driver.subscribe(64).await.unwrap();
        let mut other = bench.driver.subscribe(64).await.unwrap();
        let command = Command::Rename { public_id: session.public_id, name: "Ben".into() };
        bench.driver.wish_on(asking.id, Ref::new("r1"), command).await.unwrap();
        let reference = |screen: &mut Screen| {
            let mut found = None;
            while let Ok(next) = screen.shown.try_recv() {
                if let Shown::Message { message, reference } = next
                    && matches!(*message, MasterToConsole::ClientUpdated(_))
                {
                    found = Some(reference);
                }
            }
            found
        };
        // A look is answered after everything before it was let out.
        bench.driver.look(|_, _| ()).await.unwrap();
        assert_eq!(reference(&mut asking), Some(Ref::new("r1")));
        assert_eq!(reference(&mut other), Some(None));
    }

    /// Another look at the file, as another program takes it.
    fn other(dir: &tempfile::TempDir) -> rusqlite::Connection {
        rusqlite::Connection::open(dir.path().join("lanyard.db")).unwrap()
    }

    async fn until_problems(driver: &DriverHandle, wanted: impl Fn(&[Problem]) -> bool) -> Vec<Problem> {
        driver.problems().watch().wait_for(|all| wanted(all)).await.unwrap().clone()
    }

    fn wish(driver: &DriverHandle, command: Command) -> JoinHandle<MasterToConsole> {
        let driver = driver.clone();
        tokio::spawn(async move { driver.wish(command).await.unwrap() })
    }

    #[tokio::test]
    async fn a_refusing_disk_takes_everything_back() {
        let mut bench = Bench::new().await;
        let session = bench.member(7, "Ana").await;
        let no = "CREATE TRIGGER no BEFORE INSERT ON members BEGIN SELECT RAISE(ABORT, 'no'); END";
        other(&bench.dir).execute_batch(no).unwrap();
        let command = Command::Rename { public_id: session.public_id, name: "Ben".into() };
        let answer = bench.driver.wish(command).await.unwrap();
        assert!(matches!(answer, MasterToConsole::RequestFailed(RequestFailed { code: FailureCode::Internal, .. })));
        while bench.frames.recv().await.is_some() {}
        let name = bench
            .driver
            .look(move |authority, _| authority.member(session.public_id).map(|m| m.client.name.clone()))
            .await
            .unwrap();
        assert_eq!(name, Some("Ana".into()));
    }

    /// R33: SQLite is locked by another process.
    #[tokio::test]
    async fn a_decision_waits_untold_while_the_database_is_locked_and_then_holds() {
        let mut bench = Bench::new().await;
        let session = bench.member(7, "Ana").await;
        let blocker = other(&bench.dir);
        blocker.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let waiting = wish(&bench.driver, Command::Refuse { public_id: session.public_id });
        let told = until_problems(&bench.driver, |all| !all.is_empty()).await;
        assert_eq!(told[0].code, problems::DATABASE_LOCKED);
        while let Ok(frame) = bench.frames.try_recv() {
            assert!(!matches!(frame.message, MasterToRelay::DisApproveClient(_)), "told before it is on disk");
        }
        assert!(!waiting.is_finished());
        // Who looks now is answered from what is on disk, when it is.
        let driver = bench.driver.clone();
        let look = tokio::spawn(async move { driver.look(|authority, _| authority.refused().clients.len()).await });
        blocker.execute_batch("COMMIT").unwrap();
        bench.next(|m| matches!(m, MasterToRelay::DisApproveClient(_)).then_some(())).await;
        let saved = Store::open(&bench.dir.path().join("lanyard.db")).unwrap().load().unwrap();
        assert_eq!(saved.members[0].verdict, lanyard_hub::authority::Verdict::Refused);
        assert!(matches!(waiting.await.unwrap(), MasterToConsole::ClientDisApproved(_)));
        assert_eq!(look.await.unwrap().unwrap(), 1);
        assert!(bench.driver.problems().all().is_empty());
    }

    #[tokio::test]
    async fn transfers_go_on_while_a_decision_waits() {
        let mut bench = Bench::new().await;
        let session = bench.member(7, "Ana").await;
        bench.add(session, 1).await;
        bench.next(|m| matches!(m, MasterToRelay::FilesAdded(_)).then_some(())).await;
        let blocker = other(&bench.dir);
        blocker.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let waiting = wish(&bench.driver, Command::Rename { public_id: session.public_id, name: "Ben".into() });
        until_problems(&bench.driver, |all| !all.is_empty()).await;
        let file_id = lanyard_protocol::FileId(uuid::Uuid::from_bytes([0; 16]));
        let files = vec![lanyard_protocol::FileRef { public_id: session.public_id, file_id }];
        bench.said(RelayToMaster::FileLookup(FileLookup { files })).await;
        let granted =
            bench.next(|m| if let MasterToRelay::FileGrant(g) = m { Some(g.files.len()) } else { None }).await;
        assert_eq!((granted, waiting.is_finished()), (1, false));
        blocker.execute_batch("COMMIT").unwrap();
        assert!(matches!(waiting.await.unwrap(), MasterToConsole::ClientUpdated(_)));
    }

    #[tokio::test]
    async fn a_file_is_not_called_gone_before_the_refusal_of_its_owner_is_on_disk() {
        let mut bench = Bench::new().await;
        let session = bench.member(7, "Ana").await;
        bench.add(session, 1).await;
        bench.next(|m| matches!(m, MasterToRelay::FilesAdded(_)).then_some(())).await;
        let blocker = other(&bench.dir);
        blocker.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let waiting = wish(&bench.driver, Command::Refuse { public_id: session.public_id });
        until_problems(&bench.driver, |all| !all.is_empty()).await;
        let file_id = lanyard_protocol::FileId(uuid::Uuid::from_bytes([0; 16]));
        let files = vec![lanyard_protocol::FileRef { public_id: session.public_id, file_id }];
        bench.said(RelayToMaster::FileLookup(FileLookup { files })).await;
        // The driver has taken the look-up when it takes what comes after it.
        let taken = bench.driver.next_term(0).await.unwrap();
        assert!(taken.is_err(), "the database is locked");
        assert!(bench.frames.try_recv().is_err(), "told before it is on disk");
        blocker.execute_batch("COMMIT").unwrap();
        let word = |m: &MasterToRelay| match m {
            MasterToRelay::DisApproveClient(_) => Some("refused"),
            MasterToRelay::FileGrant(_) => Some("gone"),
            _ => None,
        };
        assert_eq!((bench.next(word).await, bench.next(word).await), ("refused", "gone"));
        assert!(matches!(waiting.await.unwrap(), MasterToConsole::ClientDisApproved(_)));
    }

    /// What was meant for a relay that is gone is not said to the next one, which hears the roster first.
    #[tokio::test]
    async fn a_relay_that_comes_while_a_decision_waits_hears_it_with_the_roster() {
        let mut bench = Bench::new().await;
        let session = bench.member(7, "Ana").await;
        let blocker = other(&bench.dir);
        blocker.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let waiting = wish(&bench.driver, Command::Refuse { public_id: session.public_id });
        until_problems(&bench.driver, |all| !all.is_empty()).await;
        bench.driver.relay_lost(bench.connection).await.unwrap();
        let mut frames = bench.driver.relay_ready(Connection(2), hub()).await.unwrap();
        blocker.execute_batch("COMMIT").unwrap();
        let MasterToRelay::MasterRoster(page) = frames.recv().await.unwrap().message else {
            panic!("the roster first")
        };
        assert_eq!((page.refused, page.approved), (vec![session.public_id], vec![]));
        assert!(matches!(waiting.await.unwrap(), MasterToConsole::ClientDisApproved(_)));
    }

    /// R11: the disk is full for the database.
    #[tokio::test]
    async fn a_decision_waits_while_the_disk_is_full_and_holds_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lanyard.db");
        let store = Store::open(&path).unwrap();
        // Room that can be given back later.
        let ballast = other(&dir);
        let fill = "CREATE TABLE ballast (b BLOB); INSERT INTO ballast VALUES (zeroblob(1000000))";
        ballast.execute_batch(fill).unwrap();
        store.allow_no_growth();
        let (driver, _task) = start(AuthorityConfig::default(), store, None).unwrap();
        let connection = Connection(1);
        let frames = driver.relay_ready(connection, hub()).await.unwrap();
        let mut bench = Bench { driver, frames, dir, connection };
        bench.next(|m| matches!(m, MasterToRelay::Ping(_)).then_some(())).await;
        bench.said(RelayToMaster::Pong(Empty {})).await;
        let session = bench.member(7, "Ana").await;
        bench.add(session, 200).await;
        let told = until_problems(&bench.driver, |all| !all.is_empty()).await;
        assert_eq!(told[0].code, problems::DATABASE_FULL);
        while let Ok(frame) = bench.frames.try_recv() {
            assert!(!matches!(frame.message, MasterToRelay::FilesAdded(_)), "told before it is on disk");
        }
        ballast.execute_batch("DROP TABLE ballast").unwrap();
        bench.next(|m| matches!(m, MasterToRelay::FilesAdded(_)).then_some(())).await;
        assert!(bench.driver.problems().all().is_empty());
        drop(ballast);
        let mut store = Store::open(&path).unwrap();
        assert_eq!((store.load().unwrap().files.len(), store.problems().all()), (200, Vec::new()));
    }

    #[tokio::test]
    async fn a_database_that_breaks_while_it_is_used_is_made_anew() {
        let mut bench = Bench::new().await;
        let session = bench.member(7, "Ana").await;
        let epoch = bench.driver.look(|authority, _| authority.head().epoch).await.unwrap();
        let breaking = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'rubbish' WHERE name = 'links';
                        PRAGMA schema_version = 99";
        other(&bench.dir).execute_batch(breaking).unwrap();
        let command = Command::Rename { public_id: session.public_id, name: "Ben".into() };
        let answer = bench.driver.wish(command).await.unwrap();
        assert!(matches!(answer, MasterToConsole::RequestFailed(RequestFailed { code: FailureCode::Internal, .. })));
        let look = move |authority: &Authority, _: Option<&HubInfo>| {
            (authority.member(session.public_id).map(|m| m.client.name.clone()), authority.head().epoch)
        };
        let (name, new_epoch) = bench.driver.look(look).await.unwrap();
        assert_eq!(name, Some("Ana".into()));
        assert_ne!(new_epoch, epoch);
        assert_eq!(bench.driver.problems().all()[0].code, problems::DATABASE_REBUILT);
    }
}
