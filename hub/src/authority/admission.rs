//! The only place where it is decided who comes in, and by which word of the person at the host.

use lanyard_protocol::DeviceId;
use lanyard_protocol::limits::CODE_TRIES;

use super::knocks::Knock;
use super::roster::{Roster, Verdict};

/// Whether the person at the host is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Admission {
    #[default]
    Ask,
    /// Everybody who knocks and was not turned away before is let in.
    Everyone,
}

/// What becomes of a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// It was turned away: never a prompt.
    TurnAway,
    /// It belongs already; its knock crossed the approval.
    Welcome,
    /// The host's own key, proven like every other: nobody to ask.
    LetIn,
    Challenge,
}

pub(super) fn course(roster: &Roster, host: Option<DeviceId>, device: DeviceId) -> Course {
    match roster.verdict(device) {
        Some(Verdict::Refused) => Course::TurnAway,
        Some(Verdict::Approved) => Course::Welcome,
        None if host == Some(device) => Course::LetIn,
        None => Course::Challenge,
    }
}

/// What the person at the host says with an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The digits as typed.
    Typed(String),
    /// None: the owner-only socket named the device, or "tap to approve" is set.
    Named,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    Right,
    Wrong,
    /// No six digits: that is no try.
    NotDigits,
    /// The device does not show its digits yet.
    TooEarly,
}

pub(super) fn judge(knock: &Knock, word: &Word) -> Judgement {
    let Some(code) = &knock.code else { return Judgement::TooEarly };
    let Word::Typed(typed) = word else { return Judgement::Right };
    let digits: String = typed.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
    if digits.len() != 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        Judgement::NotDigits
    } else if digits == *code {
        Judgement::Right
    } else {
        Judgement::Wrong
    }
}

pub(super) const TRIES: u32 = CODE_TRIES;
