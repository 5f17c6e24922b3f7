//! Tickets: who may send or fetch which bytes, once. An open one holds its slot; of a used one only
//! so much is remembered as tells a second use from a guess.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use lanyard_hub::broker::{ReaderId, SessionId};
use lanyard_protocol::limits::USED_TICKET_MS;
use lanyard_protocol::{FailureCode, Ticket};
use parking_lot::Mutex;

use crate::chunks::slot::SlotBuffer;

/// Used tickets that are remembered at most: a second of the fastest transfer is 2,000 of them, and
/// they are only for telling.
const MOST_USED: usize = 16_384;

/// The purpose of a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TicketKind {
    Put,
    Get { reader: ReaderId, ranges: Vec<Range<u64>> },
}

struct Open {
    session: SessionId,
    kind: TicketKind,
    slot: Arc<SlotBuffer>,
}

#[derive(Default)]
struct Used {
    oldest_first: VecDeque<(Instant, Ticket)>,
    by: HashMap<Ticket, (SessionId, bool)>,
}

impl Used {
    fn note(&mut self, ticket: Ticket, session: SessionId, is_put: bool) {
        self.by.insert(ticket, (session, is_put));
        self.oldest_first.push_back((Instant::now(), ticket));
        if self.oldest_first.len() > MOST_USED {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, ticket)) = self.oldest_first.pop_front() {
            self.by.remove(&ticket);
        }
    }
}

/// All tickets of this relay's life.
#[derive(Default)]
pub(crate) struct Tickets {
    open: DashMap<Ticket, Open>,
    used: Mutex<Used>,
}

impl Tickets {
    pub(crate) fn issue(
        &self,
        ticket: Ticket,
        session: SessionId,
        kind: TicketKind,
        slot: Arc<SlotBuffer>,
    ) {
        self.open.insert(ticket, Open { session, kind, slot });
    }

    /// Takes a ticket back that was not used.
    pub(crate) fn revoke(&self, ticket: &Ticket) {
        self.open.remove(ticket);
    }

    /// Uses a ticket up: once, by its own session, with its own verb. Unknown, foreign, expired and
    /// wrong verb are refused alike and leave it as it was.
    pub(crate) fn redeem(
        &self,
        ticket: &Ticket,
        session: SessionId,
        is_put: bool,
    ) -> Result<(Arc<SlotBuffer>, TicketKind), FailureCode> {
        let fits = |_: &Ticket, open: &Open| {
            open.session == session && matches!(open.kind, TicketKind::Put) == is_put
        };
        let mut used = self.used.lock();
        if let Some((_, Open { slot, kind, .. })) = self.open.remove_if(ticket, fits) {
            used.note(*ticket, session, is_put);
            return Ok((slot, kind));
        }
        match used.by.get(ticket) {
            Some(before) if *before == (session, is_put) => Err(FailureCode::TicketUsed),
            _ => Err(FailureCode::TicketRefused),
        }
    }

    /// Forgets what was used long ago.
    pub(crate) fn sweep(&self, now: Instant) {
        let remembered = Duration::from_millis(USED_TICKET_MS);
        let mut used = self.used.lock();
        while used.oldest_first.front().is_some_and(|(at, _)| now.duration_since(*at) >= remembered)
        {
            used.forget_oldest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lanyard_hub::broker::SlotId;
    use lanyard_protocol::chunk::BodyKind;

    fn slot() -> Arc<SlotBuffer> {
        Arc::new(SlotBuffer::new(SlotId(1), BodyKind::Bytes, Vec::new(), 1))
    }

    #[test]
    fn a_ticket_is_good_once_for_its_session_and_verb() {
        let (tickets, ticket, own, other) =
            (Tickets::default(), Ticket([1; 16]), SessionId(1), SessionId(2));
        tickets.issue(ticket, own, TicketKind::Put, slot());
        assert_eq!(tickets.redeem(&ticket, other, true).unwrap_err(), FailureCode::TicketRefused);
        assert_eq!(tickets.redeem(&ticket, own, false).unwrap_err(), FailureCode::TicketRefused);
        assert_eq!(tickets.redeem(&ticket, own, true).unwrap().1, TicketKind::Put);
        assert_eq!(tickets.redeem(&ticket, own, true).unwrap_err(), FailureCode::TicketUsed);
        assert_eq!(tickets.redeem(&ticket, other, true).unwrap_err(), FailureCode::TicketRefused);
        assert_eq!(
            tickets.redeem(&Ticket([2; 16]), own, true).unwrap_err(),
            FailureCode::TicketRefused
        );
    }

    #[test]
    fn a_used_ticket_holds_no_bytes_and_is_forgotten_in_time() {
        let (tickets, slot) = (Tickets::default(), slot());
        for n in 0..=MOST_USED {
            let ticket = Ticket((n as u128).to_le_bytes());
            tickets.issue(ticket, SessionId(1), TicketKind::Put, slot.clone());
            drop(tickets.redeem(&ticket, SessionId(1), true).unwrap());
        }
        assert_eq!(Arc::strong_count(&slot), 1);
        assert_eq!(tickets.used.lock().by.len(), MOST_USED);
        tickets.sweep(Instant::now() + Duration::from_millis(USED_TICKET_MS));
        let used = tickets.used.lock();
        assert_eq!((used.by.len(), used.oldest_first.len()), (0, 0));
    }
}
