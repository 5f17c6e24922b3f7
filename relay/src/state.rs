//! State that all tasks of the relay share: sessions and their keys, tickets, slots, group hashes, and
//! the requests that wait for an answer of the broker. Secrets are checked here; the broker is told
//! facts. DashMap guards never live to an await.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::extract::FromRequestParts;
use dashmap::DashMap;
use lanyard_hub::broker::{
    CallId, Input, LinkInfo, LinkPart, LinkReader, ReaderId, SessionId, SlotId, SlotInput,
};
use lanyard_protocol::message::LinkMember;
use lanyard_protocol::session_key::{Authorization, EphemeralSecret, ProvedRequest, SessionKey};
use lanyard_protocol::{BootId, CloseCode, FailureCode, KeyId, Nonce, Ref, Signature};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::chunks::buffer_pool::BufferPool;
use crate::chunks::frames::LargeFrames;
use crate::chunks::group_hashes::{GroupHashes, LostLists};
use crate::chunks::slot::{Learnt, SlotBuffer};
use crate::chunks::tickets::Tickets;
use crate::config::RelayConfig;
use crate::error::ApiError;
use crate::limits::connections::{ConnectionPermit, KnownReason};
use crate::limits::message_rate::MessageRateLimiter;
use crate::limits::outbox::Outbox;
use crate::stats::{BrokerStats, CarriedBytes, RejectionCounters};
use crate::ws::replay_window::CounterWindow;

/// Inputs that may wait for the driver; a full channel makes its senders wait.
const INPUTS: usize = 4_096;

/// One live session as the relay sees it.
pub(crate) struct SessionHandle {
    pub outbox: Outbox,
    /// The hub's proof for this session, sent with its ACK.
    pub signature: Signature,
    pub public_id: lanyard_protocol::DeviceId,
    key: SessionKey,
    /// Which counters its HTTP requests have used.
    window: Mutex<CounterWindow>,
    /// Names the key, once the session was acknowledged.
    key_id: Mutex<Option<KeyId>>,
    /// The `ref` of its CLIENT_REGISTER, for its ACK.
    pub reference: Option<Ref>,
    /// Its place among all connections.
    pub permit: Option<Arc<ConnectionPermit>>,
    /// Bytes of its PUTs that came: bodies that share one slow line are slow together, and are
    /// judged together.
    pub received: AtomicU64,
    /// Messages that it has good since it last sent one: a ticket that was used gives one back.
    pub earned: AtomicU64,
}

impl SessionHandle {
    pub(crate) fn new(
        outbox: Outbox,
        proven: (Signature, SessionKey),
        public_id: lanyard_protocol::DeviceId,
    ) -> Self {
        let (signature, key) = proven;
        Self {
            outbox,
            signature,
            public_id,
            key,
            window: Mutex::default(),
            key_id: Mutex::new(None),
            reference: None,
            permit: None,
            received: AtomicU64::new(0),
            earned: AtomicU64::new(0),
        }
    }
}

impl SessionHandle {
    /// The session counts as its device's from here on, no longer as one of its address.
    pub(crate) fn is_counted(&self) {
        if let Some(permit) = &self.permit {
            permit.claim(KnownReason::Device(self.public_id));
        }
    }

    /// Ends when its connection has to give way; one that is counted never has to.
    pub(crate) async fn evicted(&self) {
        match &self.permit {
            Some(permit) => permit.evicted().await,
            None => std::future::pending().await,
        }
    }
}

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

/// What a link's response hears of its wants.
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

/// What the broker's driver hears.
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
    pub sessions: DashMap<SessionId, Arc<SessionHandle>>,
    pub masters: DashMap<SessionId, Arc<Outbox>>,
    keys: DashMap<KeyId, SessionId>,
    pub tickets: Tickets,
    pub slots: DashMap<SlotId, Arc<SlotBuffer>>,
    pub hashes: GroupHashes,
    pub link_readers: DashMap<LinkReader, mpsc::Sender<(u64, LinkEvent)>>,
    pub calls: DashMap<CallId, oneshot::Sender<CallAnswer>>,
    /// The highest term of a master in this boot.
    pub highest_term: Mutex<u64>,
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
            sessions: DashMap::new(),
            masters: DashMap::new(),
            keys: DashMap::new(),
            tickets: Tickets::default(),
            slots: DashMap::new(),
            hashes,
            link_readers: DashMap::new(),
            calls: DashMap::new(),
            highest_term: Mutex::new(0),
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

    /// Names the key of a session that was acknowledged: from now on its requests are taken.
    pub(crate) fn name_key(&self, session: SessionId, handle: &SessionHandle) -> KeyId {
        let key_id = KeyId(random());
        *handle.key_id.lock() = Some(key_id);
        self.keys.insert(key_id, session);
        key_id
    }

    /// Finds the live session that proves this request with its key, and uses the request's counter
    /// up. Looks at nothing but the head, so that nobody else's body is ever read.
    pub(crate) fn caller(&self, head: &http::request::Parts) -> Result<Caller, FailureCode> {
        let no = FailureCode::Unauthenticated;
        let authorization: Authorization = only(&head.headers, http::header::AUTHORIZATION)
            .and_then(|value| value.parse().ok())
            .ok_or(no)?;
        let session = self.keys.get(&authorization.session_id).map(|session| *session).ok_or(no)?;
        let handle = self.sessions.get(&session).map(|handle| handle.clone()).ok_or(no)?;
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let proved = ProvedRequest { method: head.method.as_str(), target };
        let is_good = handle.key.proves(&proved, &authorization)
            && handle.window.lock().use_once(authorization.counter);
        if is_good { Ok(Caller { session }) } else { Err(no) }
    }

    /// Ends what the relay holds of a session: its key first, so that nothing more can begin.
    pub(crate) fn forget_session(&self, session: SessionId) -> Option<Arc<SessionHandle>> {
        let (_, handle) = self.sessions.remove(&session)?;
        if let Some(key_id) = handle.key_id.lock().take() {
            self.keys.remove(&key_id);
        }
        Some(handle)
    }

    pub(crate) fn close_session(&self, session: SessionId, code: CloseCode) {
        if let Some(handle) = self.forget_session(session) {
            handle.outbox.close(code);
        }
    }

    pub(crate) fn close_all(&self) {
        for session in self.sessions.iter().map(|entry| *entry.key()).collect::<Vec<_>>() {
            self.close_session(session, CloseCode::ServerNotReady);
        }
        for master in &self.masters {
            master.value().close(CloseCode::ServerNotReady);
        }
    }
}

/// Random bytes; a system without randomness was refused at start.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system had randomness when the relay started");
    bytes
}
