//! The only owner of the Authority and of the store: inputs in, one commit for all of a batch, then
//! its effects out.
//!
//! Nothing leaves before what it depends on is on disk. While another program holds the database,
//! or the disk is full, what was decided waits untold and is tried again; what only answers a
//! look-up for a transfer still goes out. If the disk refuses for good, everything since is unsaid:
//! the authority starts anew from what is on disk, and the relay and the screens connect again.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lanyard_hub::Moment;
use lanyard_hub::authority::{
    Authority, AuthorityConfig, Effect, Input, OperatorCommand, OperatorEvent, RequestToken,
};
use lanyard_protocol::message::{DoorState, RequestFailed};
use lanyard_protocol::{
    FailureCode, HubInfo, MasterFrame, MasterToConsole, MasterToRelay, Ref, RelayToMaster,
};
use lanyard_system::clock::now_ms;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::commit::{CommitOutcome, Committer, MAX_HELD};
use crate::problems::ProblemList;
use crate::store::audit_log::Audit;
use crate::store::{Store, StoreError};

/// Inputs that wait for the driver; beyond, who speaks waits.
const INPUTS: usize = 256;
/// Inputs that share one commit.
const BATCH: usize = 256;
/// Frames that wait for the relay; beyond, the driver waits, and after [`RELAY_STUCK`] gives the
/// connection up.
const FRAMES: usize = 256;
const RELAY_STUCK: Duration = Duration::from_secs(10);
/// Inputs that are taken at once while something waits: each may be as long as a frame.
const BATCH_WHILE_HELD: usize = 8;

/// One life of the connection to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionNumber(pub u64);

/// One screen at the host: a console tab, the terminal, the event lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ScreenId(u64);

/// An update for a screen.
#[derive(Debug, Clone)]
pub(crate) enum ScreenUpdate {
    Message { message: Arc<MasterToConsole>, reference: Option<Ref> },
    Event(Arc<OperatorEvent>),
}

/// A screen's end of the driver. Dropping it ends the subscription; when it yields `None` the
/// screen was too slow, or the driver began anew.
pub(crate) struct Screen {
    pub id: ScreenId,
    pub shown: mpsc::Receiver<ScreenUpdate>,
}

type Query = Box<dyn FnOnce(&Authority, Option<&HubInfo>) + Send>;

enum AuthorityDriverMessage {
    NextTerm {
        at_least: u64,
        reply: oneshot::Sender<Result<u64, StoreError>>,
    },
    RelayReady {
        connection: ConnectionNumber,
        hub: HubInfo,
        frames: oneshot::Sender<mpsc::Receiver<Frame>>,
    },
    RelaySaid {
        connection: ConnectionNumber,
        frame: Box<MasterFrame<RelayToMaster>>,
    },
    RelayLost {
        connection: ConnectionNumber,
    },
    Asked {
        command: OperatorCommand,
        reply: Reply,
    },
    Subscribe {
        capacity: usize,
        reply: oneshot::Sender<Screen>,
    },
    Look(Query),
}

type Frame = MasterFrame<MasterToRelay>;

enum Reply {
    Once(oneshot::Sender<MasterToConsole>),
    Screen(ScreenId, Option<Ref>),
}

/// The driver is over.
#[derive(Debug, thiserror::Error)]
#[error("the hub is shutting down")]
pub(crate) struct DriverStopped;

/// Speaks to the driver; clones speak to the same one.
#[derive(Clone)]
pub(crate) struct DriverHandle {
    inputs: mpsc::Sender<AuthorityDriverMessage>,
    problems: ProblemList,
    /// The most bytes that ever waited for the disk.
    #[cfg(test)]
    max_held: Arc<std::sync::atomic::AtomicUsize>,
}

impl DriverHandle {
    async fn put(&self, input: AuthorityDriverMessage) -> Result<(), DriverStopped> {
        self.inputs.send(input).await.map_err(|_| DriverStopped)
    }

    /// Returns the problems of the hub, also while the driver waits for its disk.
    pub(crate) fn problems(&self) -> &ProblemList {
        &self.problems
    }

    async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> AuthorityDriverMessage,
    ) -> Result<T, DriverStopped> {
        let (reply, answer) = oneshot::channel();
        self.put(make(reply)).await?;
        answer.await.map_err(|_| DriverStopped)
    }

    /// A term to register with, on disk already.
    pub(crate) async fn next_term(
        &self,
        at_least: u64,
    ) -> Result<Result<u64, StoreError>, DriverStopped> {
        self.ask(|reply| AuthorityDriverMessage::NextTerm { at_least, reply }).await
    }

    /// Registered: what comes out of the receiver goes to the relay. It ends when the connection is
    /// to be given up.
    pub(crate) async fn relay_ready(
        &self,
        connection: ConnectionNumber,
        hub: HubInfo,
    ) -> Result<mpsc::Receiver<Frame>, DriverStopped> {
        self.ask(|frames| AuthorityDriverMessage::RelayReady { connection, hub, frames }).await
    }

    pub(crate) async fn relay_said(
        &self,
        connection: ConnectionNumber,
        frame: MasterFrame<RelayToMaster>,
    ) -> Result<(), DriverStopped> {
        self.put(AuthorityDriverMessage::RelaySaid { connection, frame: Box::new(frame) }).await
    }

    pub(crate) async fn relay_lost(
        &self,
        connection: ConnectionNumber,
    ) -> Result<(), DriverStopped> {
        self.put(AuthorityDriverMessage::RelayLost { connection }).await
    }

    /// A wish of the person at the host, and what came of it.
    pub(crate) async fn execute(
        &self,
        command: OperatorCommand,
    ) -> Result<MasterToConsole, DriverStopped> {
        self.ask(|reply| AuthorityDriverMessage::Asked { command, reply: Reply::Once(reply) }).await
    }

    /// The same, answered on a screen, with its `ref`.
    pub(crate) async fn execute_on(
        &self,
        screen: ScreenId,
        reference: Option<Ref>,
        command: OperatorCommand,
    ) -> Result<(), DriverStopped> {
        self.put(AuthorityDriverMessage::Asked { command, reply: Reply::Screen(screen, reference) })
            .await
    }

    /// From here on the screen is shown everything; first how things stand. More than `capacity`
    /// that it has not looked at yet end it.
    pub(crate) async fn subscribe(&self, capacity: usize) -> Result<Screen, DriverStopped> {
        self.ask(|reply| AuthorityDriverMessage::Subscribe { capacity, reply }).await
    }

    /// A look at how things stand, all of it on disk.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Authority, Option<&HubInfo>) -> T + Send + 'static,
    ) -> Result<T, DriverStopped> {
        let look = |reply: oneshot::Sender<T>| {
            AuthorityDriverMessage::Look(Box::new(
                move |authority: &Authority, hub: Option<&HubInfo>| {
                    // Who asked may be gone by now.
                    let _ = reply.send(look(authority, hub));
                },
            ))
        };
        self.ask(look).await
    }
}

/// Starts the driver on what is in `store`. It ends when all handles are gone, or when disk and
/// memory cannot be brought together any more.
pub(crate) fn start(
    config: AuthorityConfig,
    store: Store,
    audit: Option<Audit>,
) -> Result<(DriverHandle, JoinHandle<Result<(), StoreError>>), StoreError> {
    let mut committer = Committer::new(store, audit);
    let authority = committer.load(&config)?;
    committer.catch_up(&authority);
    let (sender, inputs) = mpsc::channel(INPUTS);
    let handle = DriverHandle {
        inputs: sender,
        problems: committer.problems().clone(),
        #[cfg(test)]
        max_held: committer.max_held.clone(),
    };
    let driver = AuthorityDriver {
        config,
        authority,
        committer,
        started: Instant::now(),
        inputs,
        questions: Vec::new(),
        relay: None,
        hub: None,
        screens: BTreeMap::new(),
        asks: BTreeMap::new(),
        next_number: 1,
    };
    Ok((handle, tokio::spawn(driver.run())))
}

struct AuthorityDriver {
    config: AuthorityConfig,
    authority: Authority,
    committer: Committer,
    started: Instant,
    inputs: mpsc::Receiver<AuthorityDriverMessage>,
    /// They are answered from what is on disk: when it is.
    questions: Vec<AuthorityDriverMessage>,
    relay: Option<(ConnectionNumber, mpsc::Sender<Frame>)>,
    /// The relay that was there last.
    hub: Option<HubInfo>,
    screens: BTreeMap<ScreenId, mpsc::Sender<ScreenUpdate>>,
    asks: BTreeMap<RequestToken, Reply>,
    next_number: u64,
}

impl AuthorityDriver {
    async fn run(mut self) -> Result<(), StoreError> {
        let ended = self.serve_inputs().await;
        self.committer.finish().await;
        ended
    }

    async fn serve_inputs(&mut self) -> Result<(), StoreError> {
        let mut inputs = Vec::with_capacity(BATCH);
        loop {
            let wake =
                self.authority.poll_timeout().map(|at| self.started + Duration::from_millis(at.0));
            let again = self.committer.retry_at();
            let has_room = self.committer.has_room() && self.questions.len() < MAX_HELD;
            let at_once = if self.committer.is_waiting() { BATCH_WHILE_HELD } else { BATCH };
            tokio::select! {
                count = self.inputs.recv_many(&mut inputs, at_once), if has_room => match count {
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
    async fn batch(
        &mut self,
        inputs: impl Iterator<Item = AuthorityDriverMessage>,
    ) -> Result<(), StoreError> {
        for input in inputs {
            if let Some(other) = self.decide(input) {
                self.let_out().await?;
                self.serve(other).await?;
            }
        }
        self.let_out().await
    }

    /// Feeds the authority; hands back what is not for it.
    fn decide(&mut self, input: AuthorityDriverMessage) -> Option<AuthorityDriverMessage> {
        let input = match input {
            AuthorityDriverMessage::RelaySaid { connection, frame } => {
                if self.relay.as_ref().is_none_or(|(live, _)| *live != connection) {
                    return None; // words of a connection that was given up
                }
                Input::Frame(frame)
            }
            AuthorityDriverMessage::RelayLost { connection } => {
                if self.relay.as_ref().is_none_or(|(live, _)| *live != connection) {
                    return None;
                }
                self.drop_relay();
                Input::RelayLost
            }
            AuthorityDriverMessage::Asked { command, reply } => {
                let ask = RequestToken(self.number());
                self.asks.insert(ask, reply);
                Input::Operator { ask, command }
            }
            other @ (AuthorityDriverMessage::NextTerm { .. }
            | AuthorityDriverMessage::RelayReady { .. }
            | AuthorityDriverMessage::Subscribe { .. }
            | AuthorityDriverMessage::Look(_)) => return Some(other),
        };
        self.authority.handle(self.now(), now_ms(), input);
        self.drain();
        None
    }

    fn drain(&mut self) {
        while let Some(effect) = self.authority.poll_effect() {
            self.committer.push(effect);
        }
    }

    /// Commits what was decided, then sends what that released.
    async fn let_out(&mut self) -> Result<(), StoreError> {
        match self.committer.commit(self.authority.head().revision).await {
            CommitOutcome::Released { effects, resumed } => {
                if resumed {
                    self.hold(None);
                }
                self.send_all(effects).await;
            }
            CommitOutcome::Answers(answers) => self.send_all(answers).await,
            CommitOutcome::Held { told } => self.hold(Some(told)),
            CommitOutcome::Refused(error) => {
                tracing::error!(%error, "a decision was not kept; starting over from the disk");
                self.begin_anew(&error).await?;
            }
        }
        Ok(())
    }

    async fn send_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.say(effect).await;
        }
    }

    /// Tells the authority from which revision on nothing is on disk, or that all is.
    fn hold(&mut self, at: Option<u64>) {
        self.authority.handle(self.now(), now_ms(), Input::Held { at });
        self.drain();
    }

    /// The disk did not keep what memory decided: memory follows the disk. The relay registers us
    /// again, screens reload.
    async fn begin_anew(&mut self, why: &StoreError) -> Result<(), StoreError> {
        let (authority, resumed) = self.committer.restart(&self.config, why).await?;
        self.authority = authority;
        if resumed {
            self.hold(None);
        }
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

    /// Looks are at what is on disk: they wait for what waits.
    async fn answer_questions(&mut self) -> Result<(), StoreError> {
        while !self.committer.is_waiting() && !self.questions.is_empty() {
            for question in std::mem::take(&mut self.questions) {
                self.serve(question).await?;
            }
        }
        Ok(())
    }

    /// Drops the frames for this relay: they do not go to the next one.
    fn drop_relay(&mut self) {
        self.relay = None;
        self.committer.drop_frames();
    }

    async fn serve(&mut self, input: AuthorityDriverMessage) -> Result<(), StoreError> {
        match input {
            AuthorityDriverMessage::Look(_) | AuthorityDriverMessage::Subscribe { .. }
                if self.committer.is_waiting() =>
            {
                self.questions.push(input)
            }
            AuthorityDriverMessage::NextTerm { at_least, reply } => {
                let (term, resumed) = self.committer.next_term(at_least).await;
                if resumed {
                    self.hold(None);
                }
                // The connection that asked may be gone.
                let _ = reply.send(term);
            }
            AuthorityDriverMessage::RelayReady { connection, hub, frames } => {
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
            AuthorityDriverMessage::Subscribe { capacity, reply } => {
                self.subscribe(capacity, reply)
            }
            AuthorityDriverMessage::Look(look) => look(&self.authority, self.hub.as_ref()),
            AuthorityDriverMessage::RelaySaid { .. }
            | AuthorityDriverMessage::RelayLost { .. }
            | AuthorityDriverMessage::Asked { .. } => {}
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
            let shown = ScreenUpdate::Message { message: Arc::new(message), reference: None };
            sender.try_send(shown).expect("a new channel has room for these");
        }
        if reply.send(Screen { id, shown }).is_ok() {
            self.screens.insert(id, sender);
        }
    }

    async fn say(&mut self, effect: Effect) {
        match effect {
            Effect::Save(_) | Effect::Note(_) => {}
            Effect::Send(frame) => self.send(frame).await,
            Effect::Publish { message, ask } => self.publish(message, ask),
            Effect::Answer { ask, message } => self.answer(ask, message),
            Effect::Event(event) => {
                let event = Arc::new(event);
                self.show_all(|_| ScreenUpdate::Event(event.clone()));
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

    fn publish(&mut self, message: MasterToConsole, ask: Option<RequestToken>) {
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
            ScreenUpdate::Message { message: message.clone(), reference }
        });
    }

    fn answer(&mut self, ask: RequestToken, message: MasterToConsole) {
        match self.asks.remove(&ask) {
            Some(Reply::Once(reply)) => drop(reply.send(message)),
            Some(Reply::Screen(screen, reference)) => {
                let shown = ScreenUpdate::Message { message: Arc::new(message), reference };
                if self.screens.get(&screen).is_some_and(|sender| sender.try_send(shown).is_err()) {
                    self.screens.remove(&screen);
                }
            }
            None => {}
        }
    }

    /// A screen that is full or gone is let go; it never holds anybody up.
    fn show_all(&mut self, mut make: impl FnMut(ScreenId) -> ScreenUpdate) {
        self.screens.retain(|id, sender| sender.try_send(make(*id)).is_ok());
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
