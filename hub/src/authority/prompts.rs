//! How often the person at the host is asked, and who is asked about next. A prompt is one guess of
//! six digits for whoever is behind it, so their number is bounded: by address, by network and in
//! all. Those beyond wait, and take turns.

use std::collections::{BTreeMap, VecDeque};

use lanyard_protocol::limits::{
    ALLOW_MORE_FACTOR, ALLOW_MORE_MS, CHALLENGES_AN_ADDRESS, CHALLENGES_AT_ONCE, PROMPT_TURN_MS,
    PROMPTS, PROMPTS_A_NETWORK, PROMPTS_AN_ADDRESS, PROMPTS_WINDOW_MS, WRONG_PROOFS,
    WRONG_PROOFS_A_KEY, WRONG_PROOFS_AN_ADDRESS,
};
use lanyard_protocol::{DeviceId, RequestId};

use crate::machine::Moment;
use crate::source_address::{SourceAddress, SourceNetwork};

/// Challenges whose addresses are remembered for turns: more than may wait.
const TURNS_KEPT: usize = 256;

/// Events of the window, counted by address, network and key. Whoever adds to it asks for a bound
/// first: that keeps it small, and nothing is forgotten before its time.
#[derive(Debug, Default)]
struct PromptCounters {
    events: VecDeque<(Moment, SourceAddress, DeviceId)>,
    by_source: BTreeMap<SourceAddress, usize>,
    by_network: BTreeMap<SourceNetwork, usize>,
    by_key: BTreeMap<DeviceId, usize>,
}

impl PromptCounters {
    fn add(&mut self, now: Moment, source: SourceAddress, key: DeviceId) {
        self.events.push_back((now, source, key));
        *self.by_source.entry(source).or_default() += 1;
        *self.by_network.entry(source.network()).or_default() += 1;
        *self.by_key.entry(key).or_default() += 1;
    }

    fn expire(&mut self, now: Moment) {
        while self.events.front().is_some_and(|(at, ..)| now.since(*at) >= PROMPTS_WINDOW_MS) {
            let Some((_, source, key)) = self.events.pop_front() else { return };
            one_less(&mut self.by_source, source);
            one_less(&mut self.by_network, source.network());
            one_less(&mut self.by_key, key);
        }
    }

    fn of(&self, source: SourceAddress) -> usize {
        self.by_source.get(&source).copied().unwrap_or_default()
    }

    fn of_network(&self, source: SourceAddress) -> usize {
        self.by_network.get(&source.network()).copied().unwrap_or_default()
    }

    fn of_key(&self, key: DeviceId) -> usize {
        self.by_key.get(&key).copied().unwrap_or_default()
    }

    fn next_end(&self) -> Option<Moment> {
        self.events.front().map(|(at, ..)| at.plus(PROMPTS_WINDOW_MS))
    }
}

fn one_less<K: Ord + Copy>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Why a device may be challenged now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PromptReason {
    /// In place of a prompt that stood until now.
    Restart,
    /// The same key had a prompt lately.
    Again,
    /// There is room.
    New,
    /// There is none, but it is its turn.
    Turn,
}

/// A challenge whose reveal has not come.
#[derive(Debug, Clone, Copy)]
struct PendingChallenge {
    source: SourceAddress,
    key: DeviceId,
    way: PromptReason,
}

/// One device that waits for its challenge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub request: RequestId,
    pub source: SourceAddress,
    pub key: DeviceId,
    /// Its place among those who came.
    pub order: u64,
    /// It is asked anew in place of a prompt that stood.
    pub restarts: bool,
}

#[derive(Debug, Default)]
pub(super) struct Prompts {
    shown: PromptCounters,
    /// The same keys again. They take nothing from the others' share, and are bounded alike.
    again: PromptCounters,
    /// Challenges that nobody answered: a device that is silent keeps others waiting.
    lapsed: PromptCounters,
    wrong_proofs: PromptCounters,
    underway: BTreeMap<RequestId, PendingChallenge>,
    /// The addresses that the last challenges went to: the longest ago is next, and first whoever
    /// is not among them.
    turns: VecDeque<SourceAddress>,
    last_turn: Option<Moment>,
    more_until: Option<Moment>,
}

impl Prompts {
    /// Forgets what is older than the window.
    pub(super) fn expire(&mut self, now: Moment) {
        for tally in [&mut self.shown, &mut self.again, &mut self.lapsed, &mut self.wrong_proofs] {
            tally.expire(now);
        }
        self.more_until = self.more_until.filter(|until| *until > now);
    }

    /// Raises all bounds for a while.
    pub(super) fn allow_more(&mut self, now: Moment) {
        self.more_until = Some(now.plus(ALLOW_MORE_MS));
    }

    /// How long more is allowed.
    pub(super) fn more_for(&self, now: Moment) -> Option<u64> {
        self.more_until.map(|until| until.since(now)).filter(|ms| *ms > 0)
    }

    /// The next to challenge, if anybody may be now. Turns go round networks, in them round
    /// addresses, and then by age.
    pub(super) fn next(
        &self,
        now: Moment,
        waiting: impl Iterator<Item = Candidate>,
    ) -> Option<RequestId> {
        if self.underway.len() >= CHALLENGES_AT_ONCE {
            return None;
        }
        let may: Vec<Candidate> =
            waiting.filter(|candidate| self.way(now, candidate).is_some()).collect();
        if may.len() < 2 {
            return may.first().map(|candidate| candidate.request);
        }
        let mut of_source = BTreeMap::new();
        let mut of_network = BTreeMap::new();
        for (turn, source) in self.turns.iter().enumerate() {
            of_source.insert(*source, turn + 1);
            of_network.insert(source.network(), turn + 1);
        }
        let last = |candidate: &Candidate| {
            let network = of_network.get(&candidate.source.network()).copied().unwrap_or_default();
            let source = of_source.get(&candidate.source).copied().unwrap_or_default();
            (network, source, candidate.order)
        };
        may.iter().min_by_key(|candidate| last(candidate)).map(|candidate| candidate.request)
    }

    fn way(&self, now: Moment, candidate: &Candidate) -> Option<PromptReason> {
        let Candidate { source, key, .. } = *candidate;
        let from_there = |wanted: fn(PromptReason) -> bool| {
            self.underway.values().filter(|one| one.source == source && wanted(one.way)).count()
        };
        if from_there(|_| true) >= CHALLENGES_AN_ADDRESS {
            return None;
        }
        if candidate.restarts {
            return Some(PromptReason::Restart);
        }
        let factor = if self.more_until.is_some() { ALLOW_MORE_FACTOR } else { 1 };
        let in_network = |wanted: fn(PromptReason) -> bool| {
            let of_it = |one: &&PendingChallenge| {
                one.source.network() == source.network() && wanted(one.way)
            };
            self.underway.values().filter(of_it).count()
        };
        let in_all = |wanted: fn(PromptReason) -> bool| {
            self.underway.values().filter(|one| wanted(one.way)).count()
        };
        let is_again = |way| way == PromptReason::Again;
        let is_new = |way| matches!(way, PromptReason::New | PromptReason::Turn);
        let of_key = self.shown.of_key(key) + self.again.of_key(key);
        let of_key = of_key + self.underway.values().filter(|one| one.key == key).count();
        if of_key > 0 {
            let has_room = of_key < PROMPTS_AN_ADDRESS
                && self.again.of(source) + self.lapsed.of(source) + from_there(is_again)
                    < PROMPTS_AN_ADDRESS * factor
                && self.again.of_network(source) + in_network(is_again)
                    < PROMPTS_A_NETWORK * factor
                && self.again.events.len() + in_all(is_again) < PROMPTS * factor;
            return has_room.then_some(PromptReason::Again);
        }
        if self.shown.of(source) + self.lapsed.of(source) + from_there(is_new)
            >= PROMPTS_AN_ADDRESS * factor
        {
            return None;
        }
        let has_room = self.shown.of_network(source) + in_network(is_new)
            < PROMPTS_A_NETWORK * factor
            && self.shown.events.len() + in_all(is_new) < PROMPTS * factor;
        let is_its_turn = self.last_turn.is_none_or(|at| now.since(at) >= PROMPT_TURN_MS);
        match (has_room, is_its_turn) {
            (true, _) => Some(PromptReason::New),
            (false, true) => Some(PromptReason::Turn),
            (false, false) => None,
        }
    }

    /// Notes that `candidate` is challenged.
    pub(super) fn challenged(&mut self, now: Moment, candidate: &Candidate) {
        let Some(way) = self.way(now, candidate) else { return };
        if way == PromptReason::Turn {
            self.last_turn = Some(now);
        }
        if self.turns.len() >= TURNS_KEPT {
            self.turns.pop_front();
        }
        self.turns.push_back(candidate.source);
        let Candidate { request, source, key, .. } = *candidate;
        self.underway.insert(request, PendingChallenge { source, key, way });
    }

    /// The device revealed: from here on it is a prompt, and counts.
    pub(super) fn revealed(&mut self, now: Moment, request: RequestId) {
        let Some(PendingChallenge { source, key, way }) = self.underway.remove(&request) else {
            return;
        };
        match way {
            PromptReason::Restart => {}
            PromptReason::Again => self.again.add(now, source, key),
            PromptReason::New | PromptReason::Turn => self.shown.add(now, source, key),
        }
    }

    /// The device said nothing. Its address pays for the time that others waited.
    pub(super) fn lapsed(&mut self, now: Moment, request: RequestId) {
        if let Some(PendingChallenge { source, key, .. }) = self.underway.remove(&request) {
            self.lapsed.add(now, source, key);
        }
    }

    /// Its knock is over before anybody knew digits.
    pub(super) fn dropped(&mut self, request: RequestId) {
        self.underway.remove(&request);
    }

    pub(super) fn drop_all(&mut self) {
        self.underway.clear();
    }

    /// When somebody who waits now may be challenged, at the latest.
    pub(super) fn next_chance(&self, now: Moment) -> Moment {
        let turn = self.last_turn.map(|at| at.plus(PROMPT_TURN_MS)).filter(|at| *at > now);
        let ends = [self.shown.next_end(), self.again.next_end(), self.lapsed.next_end(), turn];
        ends.into_iter().flatten().min().unwrap_or(now.plus(PROMPT_TURN_MS)).max(now.plus(1))
    }

    /// A wrong proof of an invitation. Whether it is worth a line in the record, and whether its
    /// sender has gone too far.
    pub(super) fn proved_wrongly(
        &mut self,
        now: Moment,
        source: SourceAddress,
        key: DeviceId,
    ) -> Wrong {
        let tally = &mut self.wrong_proofs;
        if tally.of(source) >= WRONG_PROOFS_AN_ADDRESS || tally.of_key(key) >= WRONG_PROOFS_A_KEY {
            return Wrong::TooOften;
        }
        if tally.events.len() >= WRONG_PROOFS {
            return Wrong::Unnoted;
        }
        tally.add(now, source, key);
        Wrong::Noted
    }
}

/// The consequence of a wrong proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    Noted,
    /// The record has enough of them.
    Unnoted,
    /// Its sender is not listened to for a while.
    TooOften,
}
