//! State that all tasks of the relay share: sessions and their keys, tickets, slots, group hashes,
//! and the requests that wait for an answer of the broker. Secrets are checked here; the broker is
//! told facts. DashMap guards never live to an await.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::extract::FromRequestParts;
use dashmap::DashMap;
use lanyard_hub::broker::{
    CallId, Input, LinkInfo, LinkPart, LinkReader, ReaderId, SessionId, SlotId, SlotInput,
};
use lanyard_protocol::message::LinkMember;
use lanyard_protocol::session_key::{Authorization, EphemeralSecret, ProvedRequest};
use lanyard_protocol::{BootId, FailureCode, KeyId, Nonce};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::chunks::buffer_pool::BufferPool;
use crate::chunks::frames::LargeFrames;
use crate::chunks::group_hashes::{GroupHashes, LostLists};
use crate::chunks::slot::{Learnt, SlotBuffer};
use crate::chunks::tickets::Tickets;
use crate::config::RelayConfig;
use crate::error::ApiError;
use crate::limits::message_rate::MessageRateLimiter;
use crate::stats::{BrokerStats, CarriedBytes, RejectionCounters};
use crate::ws::sessions::OpenSessions;

/// Inputs that may wait for the driver; a full channel makes its senders wait.
const INPUTS: usize = 4_096;

/// The live session that proved the head of an HTTP request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub session: SessionId,
}

impl FromRequestParts<Arc<RelayState>> for Caller {
    type Rejection = ApiError;

    /// Vouches for no connection: whoever waits at the door proves requests too, and keys are free.
    /// A ticket does.
    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &Arc<RelayState>,
    ) -> Result<Self, ApiError> {
        Ok(state.caller(parts)?)
    }
}

/// Returns a header that stands exactly once.
fn only(headers: &http::HeaderMap, name: impl http::header::AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    value.to_str().ok()
}

/// Events that a link's response receives about its wants.
pub(crate) enum LinkEvent {
    Ready { slot: Arc<SlotBuffer>, slice: ReaderId, parts: Vec<LinkPart> },
    Failed { code: FailureCode },
    Waits,
}

/// The broker's answer to an HTTP call about a link.
pub(crate) enum CallAnswer {
    Found(Result<Arc<LinkInfo>, FailureCode>),
    Begun(Result<(), FailureCode>),
    Members(Result<Vec<LinkMember>, FailureCode>),
}

/// Messages to the broker's driver.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of it is inputs: a box for each would cost more than it saves"
)]
pub(crate) enum DriverMessage {
    Input(Input),
    /// Somebody wants to know how it stands.
    Stats(oneshot::Sender<BrokerStats>),
}

/// Shared by all tasks of one relay.
pub(crate) struct RelayState {
    pub config: RelayConfig,
    pub boot_id: BootId,
    pub seed: [u8; 32],
    inputs: mpsc::Sender<DriverMessage>,
    pub sessions: OpenSessions,
    pub tickets: Tickets,
    pub slots: DashMap<SlotId, Arc<SlotBuffer>>,
    pub hashes: GroupHashes,
    pub link_readers: DashMap<LinkReader, mpsc::Sender<(u64, LinkEvent)>>,
    pub calls: DashMap<CallId, oneshot::Sender<CallAnswer>>,
    next: AtomicU64,
    pub hub_ready: AtomicBool,
    /// The relay is about to end: nothing new is asked for.
    pub closing: AtomicBool,
    /// The tasks of all sockets.
    pub sockets: TaskTracker,
    pub pool: Arc<BufferPool>,
    pub large_frames: Arc<LargeFrames>,
    pub carried: CarriedBytes,
    pub rejections: RejectionCounters,
    pub message_rate: MessageRateLimiter,
}

impl RelayState {
    pub(crate) fn new(
        config: RelayConfig,
        seed: [u8; 32],
    ) -> (Arc<Self>, mpsc::Receiver<DriverMessage>) {
        let (inputs, receiver) = mpsc::channel(INPUTS);
        let hashes =
            GroupHashes::new(usize::try_from(config.budget_bytes / 4).unwrap_or(usize::MAX));
        let state = Self {
            config,
            boot_id: BootId(random()),
            seed,
            inputs,
            sessions: OpenSessions::default(),
            tickets: Tickets::default(),
            slots: DashMap::new(),
            hashes,
            link_readers: DashMap::new(),
            calls: DashMap::new(),
            next: AtomicU64::new(1),
            hub_ready: false.into(),
            closing: false.into(),
            sockets: TaskTracker::new(),
            pool: Arc::default(),
            large_frames: Arc::default(),
            carried: CarriedBytes::default(),
            rejections: RejectionCounters::default(),
            message_rate: MessageRateLimiter::default(),
        };
        (Arc::new(state), receiver)
    }

    /// A number that is used once in this life of the relay.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn nonce(&self) -> Nonce {
        Nonce(random())
    }

    /// Draws this side's half of one session's key.
    pub(crate) fn ephemeral(&self) -> EphemeralSecret {
        EphemeralSecret::new(random())
    }

    /// Tells the broker; waits while its channel is full. After the driver ended there is nobody to
    /// tell.
    pub(crate) async fn send(&self, input: Input) {
        let _ = self.inputs.send(DriverMessage::Input(input)).await;
    }

    /// Tells the broker from a place that cannot wait (a `Drop`).
    pub(crate) fn send_detached(&self, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(told)) =
            self.inputs.try_send(DriverMessage::Input(input))
        {
            let inputs = self.inputs.clone();
            tokio::spawn(async move { inputs.send(told).await });
        }
    }

    /// Sends the broker what the bytes of a PUT showed. A root may come late, never wrong.
    pub(crate) fn learn(&self, learnt: Learnt) {
        self.lists_lost(learnt.lost);
        for (file, root) in learnt.roots {
            self.send_detached(Input::Slot(SlotInput::RootKnown { file, root }));
        }
    }

    /// Tells the broker of lists that it can no longer count on.
    pub(crate) fn lists_lost(&self, files: LostLists) {
        for file in files {
            self.send_detached(Input::Slot(SlotInput::HashesLost { file }));
        }
    }

    /// How the broker stands; `None` after it ended.
    pub(crate) async fn broker_stats(&self) -> Option<BrokerStats> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(DriverMessage::Stats(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Names the key of a session that was acknowledged; `None` if the session has ended.
    pub(crate) fn name_key(&self, session: SessionId) -> Option<KeyId> {
        self.sessions.name_key(session, KeyId(random()))
    }

    /// Finds the live session that proves this request with its key, and uses the request's counter
    /// up. Looks at nothing but the head, so that nobody else's body is ever read.
    pub(crate) fn caller(&self, head: &http::request::Parts) -> Result<Caller, FailureCode> {
        let no = FailureCode::Unauthenticated;
        let authorization: Authorization = only(&head.headers, http::header::AUTHORIZATION)
            .and_then(|value| value.parse().ok())
            .ok_or(no)?;
        let (session, handle) = self.sessions.of_key(authorization.session_id).ok_or(no)?;
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let proved = ProvedRequest { method: head.method.as_str(), target };
        let is_good = handle.key.proves(&proved, &authorization)
            && handle.window.lock().use_once(authorization.counter);
        if is_good { Ok(Caller { session }) } else { Err(no) }
    }
}

/// Random bytes; a system without randomness was refused at start.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system had randomness when the relay started");
    bytes
}
