//! The live sessions, the names of their keys, and the masters: one table behind one lock, so that
//! a session and its key come and go together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lanyard_hub::broker::SessionId;
use lanyard_protocol::session_key::SessionKey;
use lanyard_protocol::{CloseCode, DeviceId, KeyId, Ref, Signature};
use parking_lot::Mutex;

use crate::limits::connections::{ConnectionPermit, KnownReason};
use crate::limits::outbox::Outbox;
use crate::ws::replay_window::CounterWindow;

/// One live session of a device.
pub(crate) struct SessionHandle {
    pub outbox: Outbox,
    /// The hub's proof for this session, sent with its ACK.
    pub signature: Signature,
    pub public_id: DeviceId,
    pub key: SessionKey,
    /// Counters that its HTTP requests have used.
    pub window: Mutex<CounterWindow>,
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
        public_id: DeviceId,
    ) -> Self {
        let (signature, key) = proven;
        Self {
            outbox,
            signature,
            public_id,
            key,
            window: Mutex::default(),
            reference: None,
            permit: None,
            received: AtomicU64::new(0),
            earned: AtomicU64::new(0),
        }
    }

    /// Counts the session as its device's from here on, no longer as one of its address.
    pub(crate) fn is_counted(&self) {
        if let Some(permit) = &self.permit {
            permit.claim(KnownReason::Device(self.public_id));
        }
    }

    /// Ends when its connection has to give way; a counted one never has to.
    pub(crate) async fn evicted(&self) {
        match &self.permit {
            Some(permit) => permit.evicted().await,
            None => std::future::pending().await,
        }
    }
}

struct OpenSession {
    handle: Arc<SessionHandle>,
    /// Names the key, once the session was acknowledged.
    key_id: Option<KeyId>,
}

#[derive(Default)]
struct Table {
    open: HashMap<SessionId, OpenSession>,
    by_key: HashMap<KeyId, SessionId>,
    masters: HashMap<SessionId, Arc<Outbox>>,
    /// The highest term of a master in this boot.
    highest_term: u64,
}

/// All sessions of a relay. Their number is bounded by that of the connections.
#[derive(Default)]
pub(crate) struct OpenSessions(Mutex<Table>);

impl OpenSessions {
    pub(crate) fn open(&self, session: SessionId, handle: Arc<SessionHandle>) {
        self.0.lock().open.insert(session, OpenSession { handle, key_id: None });
    }

    pub(crate) fn get(&self, session: SessionId) -> Option<Arc<SessionHandle>> {
        self.0.lock().open.get(&session).map(|open| open.handle.clone())
    }

    /// Names the key of a session that was acknowledged: from now on its requests are taken.
    /// Returns `None` for a session that has ended meanwhile.
    pub(crate) fn name_key(&self, session: SessionId, key_id: KeyId) -> Option<KeyId> {
        let mut table = self.0.lock();
        let before = table.open.get_mut(&session)?.key_id.replace(key_id);
        if let Some(before) = before {
            table.by_key.remove(&before);
        }
        table.by_key.insert(key_id, session);
        Some(key_id)
    }

    /// Finds the session whose key has this name.
    pub(crate) fn of_key(&self, key_id: KeyId) -> Option<(SessionId, Arc<SessionHandle>)> {
        let table = self.0.lock();
        let session = *table.by_key.get(&key_id)?;
        Some((session, table.open.get(&session)?.handle.clone()))
    }

    /// Forgets a session and its key in one step.
    pub(crate) fn remove(&self, session: SessionId) -> Option<Arc<SessionHandle>> {
        let mut table = self.0.lock();
        let OpenSession { handle, key_id } = table.open.remove(&session)?;
        if let Some(key_id) = key_id {
            table.by_key.remove(&key_id);
        }
        Some(handle)
    }

    /// Forgets a session and closes its socket.
    pub(crate) fn close(&self, session: SessionId, code: CloseCode) {
        if let Some(handle) = self.remove(session) {
            handle.outbox.close(code);
        }
    }

    /// Returns the devices that have a session.
    pub(crate) fn devices(&self) -> HashSet<DeviceId> {
        self.0.lock().open.values().map(|open| open.handle.public_id).collect()
    }

    /// Accepts the term of a master if it is higher than every one before.
    pub(crate) fn claim_term(&self, term: u64) -> bool {
        let mut table = self.0.lock();
        let is_higher = term > table.highest_term;
        if is_higher {
            table.highest_term = term;
        }
        is_higher
    }

    pub(crate) fn open_master(&self, session: SessionId, outbox: Arc<Outbox>) {
        self.0.lock().masters.insert(session, outbox);
    }

    pub(crate) fn master(&self, session: SessionId) -> Option<Arc<Outbox>> {
        self.0.lock().masters.get(&session).cloned()
    }

    pub(crate) fn remove_master(&self, session: SessionId) -> Option<Arc<Outbox>> {
        self.0.lock().masters.remove(&session)
    }

    /// Closes every socket, of devices and masters, and forgets the sessions.
    pub(crate) fn close_all(&self, code: CloseCode) {
        let mut table = self.0.lock();
        table.by_key.clear();
        for (_, open) in table.open.drain() {
            open.handle.outbox.close(code);
        }
        for (_, master) in table.masters.drain() {
            master.close(code);
        }
    }
}

#[cfg(test)]
mod tests {
    use lanyard_protocol::session_key::EphemeralSecret;

    use super::*;
    use crate::limits::outbox::WriterStep;

    const SESSION: SessionId = SessionId(1);

    fn handle() -> Arc<SessionHandle> {
        let other = EphemeralSecret::new([2; 32]).public();
        let key = EphemeralSecret::new([1; 32]).agree(&other, "text").unwrap();
        let proven = (Signature([0; 64]), key);
        Arc::new(SessionHandle::new(Outbox::for_device(), proven, DeviceId(Default::default())))
    }

    fn is_empty(sessions: &OpenSessions) -> bool {
        let table = sessions.0.lock();
        table.open.is_empty() && table.by_key.is_empty() && table.masters.is_empty()
    }

    /// The driver acknowledges a session while its socket ends: a key named after the end would
    /// never be forgotten.
    #[test]
    fn a_key_is_named_only_while_its_session_is_open() {
        let sessions = OpenSessions::default();
        let first = KeyId([1; 16]);
        sessions.open(SESSION, handle());
        assert_eq!(sessions.name_key(SESSION, first), Some(first));
        assert_eq!(sessions.of_key(first).unwrap().0, SESSION);
        sessions.remove(SESSION).unwrap();
        assert!(sessions.of_key(first).is_none());
        assert_eq!(sessions.name_key(SESSION, KeyId([2; 16])), None);
        assert!(is_empty(&sessions));
    }

    #[test]
    fn a_session_has_one_key_name_at_a_time() {
        let sessions = OpenSessions::default();
        let (first, second) = (KeyId([1; 16]), KeyId([2; 16]));
        sessions.open(SESSION, handle());
        sessions.name_key(SESSION, first);
        sessions.name_key(SESSION, second);
        assert!(sessions.of_key(first).is_none());
        assert!(sessions.of_key(second).is_some());
    }

    #[test]
    fn only_a_higher_term_makes_a_master() {
        let sessions = OpenSessions::default();
        let claims = [5, 5, 4, 6].map(|term| sessions.claim_term(term));
        assert_eq!(claims, [true, false, false, true]);
    }

    #[test]
    fn closing_all_closes_every_socket_and_leaves_no_key() {
        let sessions = OpenSessions::default();
        let device = handle();
        let master = Arc::new(Outbox::for_master());
        sessions.open(SESSION, device.clone());
        sessions.name_key(SESSION, KeyId([1; 16]));
        sessions.open_master(SessionId(2), master.clone());
        sessions.close_all(CloseCode::ServerNotReady);
        for outbox in [&device.outbox, &*master] {
            assert!(matches!(outbox.next(), WriterStep::Close(CloseCode::ServerNotReady)));
        }
        assert!(is_empty(&sessions));
    }
}
