//! The only place where it is decided who comes in, and by which word of the person at the host.

use std::collections::BTreeMap;

use lanyard_protocol::limits::CODE_TRIES;
pub use lanyard_protocol::message::Admission;
use lanyard_protocol::message::InvitationProof;
use lanyard_protocol::{
    DeviceId, InvitationId, InvitationSecret, RequestId, approval, master_proof,
};

use super::join_requests::JoinRequest;
use super::roster::{Roster, Verdict};

/// The decision about a join request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinDecision {
    /// It was turned away: never a prompt.
    TurnAway,
    /// It belongs already; its knock crossed the approval.
    Welcome,
    /// The host's own key, proven like every other: nobody to ask.
    LetIn,
    Challenge,
}

pub(super) fn decide(roster: &Roster, host: Option<DeviceId>, device: DeviceId) -> JoinDecision {
    match roster.verdict(device) {
        Some(Verdict::Refused) => JoinDecision::TurnAway,
        Some(Verdict::Approved) => JoinDecision::Welcome,
        None if host == Some(device) => JoinDecision::LetIn,
        None => JoinDecision::Challenge,
    }
}

/// The digits, or their absence, with an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Approval {
    /// The digits as typed.
    Typed(String),
    /// None: the owner-only socket named the device, or "tap to approve" is set.
    Named,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CodeCheck {
    Right,
    Wrong,
    /// No six digits: that is no try.
    NotDigits,
    /// The device does not show its digits yet.
    TooEarly,
}

pub(super) fn check_code(knock: &JoinRequest, word: &Approval) -> CodeCheck {
    let Some(code) = knock.code() else { return CodeCheck::TooEarly };
    let Approval::Typed(typed) = word else { return CodeCheck::Right };
    let digits: String = typed.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
    if digits.len() != 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        CodeCheck::NotDigits
    } else if digits == *code {
        CodeCheck::Right
    } else {
        CodeCheck::Wrong
    }
}

pub(super) const TRIES: u32 = CODE_TRIES;

/// An invitation that was given out: one device, once.
#[derive(Debug, Clone)]
struct IssuedInvitation {
    secret: InvitationSecret,
    until_ms: u64,
    for_ms: Option<u64>,
    /// The knock that showed it; another one must wait whether that comes through.
    shown_by: Option<RequestId>,
}

/// The result of checking an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InvitationCheck {
    /// How long its bearer may stay.
    Good { for_ms: Option<u64> },
    /// The secret behind it is another one.
    Wrong,
    /// Not given out, used, or too old.
    Unknown,
}

/// Invitations that are given out; a restart of the master ends them.
#[derive(Debug, Default)]
pub(super) struct Invitations(BTreeMap<InvitationId, IssuedInvitation>);

impl Invitations {
    pub(super) fn give(
        &mut self,
        id: InvitationId,
        secret: InvitationSecret,
        until_ms: u64,
        for_ms: Option<u64>,
    ) {
        self.0.insert(id, IssuedInvitation { secret, until_ms, for_ms, shown_by: None });
    }

    pub(super) fn forget_old(&mut self, wall_ms: u64) {
        self.0.retain(|_, invited| invited.until_ms > wall_ms);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Judges the invitation that `request` brings. A wrong proof does not end it: its id can be
    /// read on plain http.
    pub(super) fn show(
        &mut self,
        brought: &InvitationProof,
        request: RequestId,
        wall_ms: u64,
        is_pending: impl Fn(&RequestId) -> bool,
    ) -> InvitationCheck {
        let Some(invited) =
            self.0.get_mut(&brought.id).filter(|invited| invited.until_ms > wall_ms)
        else {
            return InvitationCheck::Unknown;
        };
        if !master_proof::same_mac(
            &brought.proof,
            &approval::invitation_proof(&invited.secret, &request),
        ) {
            return InvitationCheck::Wrong;
        }
        if invited.shown_by.is_some_and(|other| other != request && is_pending(&other)) {
            return InvitationCheck::Unknown;
        }
        invited.shown_by = Some(request);
        InvitationCheck::Good { for_ms: invited.for_ms }
    }

    /// The knock that showed it came through.
    pub(super) fn used_by(&mut self, request: RequestId) {
        self.0.retain(|_, invited| invited.shown_by != Some(request));
    }
}
