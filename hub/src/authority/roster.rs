//! Who belongs and who was turned away. A refusal is final until it is forgotten by the person at
//! the host.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::limits::MAX_ROSTER_IDS;
use lanyard_protocol::message::{LikeRefused, MasterRoster, RefusedClient, RefusedList};
use lanyard_protocol::{Client, DeviceId, PublicKey};
use unicode_normalization::UnicodeNormalization;

/// How a device stands with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let in.
    Approved,
    /// Refused, until a person forgets that.
    Refused,
}

/// One device that was decided about, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The device as others see it.
    pub client: Client,
    /// Ed25519 key of the device.
    pub public_key: PublicKey,
    /// The decision that holds.
    pub verdict: Verdict,
    /// Revision of its last change in the feed.
    pub revision: u64,
    /// When it was let in or turned away.
    pub since_ms: u64,
    /// When it is turned away by itself; milliseconds since 1970.
    pub until_ms: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<DeviceId, Member>,
    /// Devices by the look of their names: found at every knock, whatever the length of the list.
    approved_looks: BTreeMap<String, BTreeSet<DeviceId>>,
    /// The same of those who were turned away, the last of them last.
    refused_looks: BTreeMap<String, BTreeSet<(u64, DeviceId)>>,
    /// When approvals end, the next first: looked at whenever one is added.
    ends: BTreeSet<(u64, DeviceId)>,
}

impl Roster {
    pub(super) fn put(&mut self, member: Member) {
        let id = member.client.public_id;
        self.remove(id);
        let look = skeleton(&member.client.name);
        if let (Verdict::Approved, Some(until_ms)) = (member.verdict, member.until_ms) {
            self.ends.insert((until_ms, id));
        }
        match member.verdict {
            Verdict::Approved => self.approved_looks.entry(look).or_default().insert(id),
            Verdict::Refused => {
                self.refused_looks.entry(look).or_default().insert((member.since_ms, id))
            }
        };
        self.members.insert(id, member);
    }

    pub(super) fn get(&self, id: DeviceId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(super) fn remove(&mut self, id: DeviceId) -> Option<Member> {
        let member = self.members.remove(&id)?;
        if let Some(until_ms) = member.until_ms {
            self.ends.remove(&(until_ms, id));
        }
        let look = skeleton(&member.client.name);
        match member.verdict {
            Verdict::Approved => take_out(&mut self.approved_looks, &look, &id),
            Verdict::Refused => take_out(&mut self.refused_looks, &look, &(member.since_ms, id)),
        }
        Some(member)
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(super) fn verdict(&self, id: DeviceId) -> Option<Verdict> {
        self.members.get(&id).map(|member| member.verdict)
    }

    pub(super) fn is_approved(&self, id: DeviceId) -> bool {
        self.verdict(id) == Some(Verdict::Approved)
    }

    fn ids(&self, verdict: Verdict) -> impl Iterator<Item = DeviceId> {
        self.members.values().filter(move |m| m.verdict == verdict).map(|m| m.client.public_id)
    }

    /// Returns the pages that the relay must know; at least one.
    pub(super) fn pages(&self, epoch: u64, revision: u64) -> Vec<MasterRoster> {
        let approved = self.ids(Verdict::Approved).map(|id| (true, id));
        let all: Vec<(bool, DeviceId)> =
            approved.chain(self.ids(Verdict::Refused).map(|id| (false, id))).collect();
        let mut chunks: Vec<&[(bool, DeviceId)]> = all.chunks(MAX_ROSTER_IDS).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let count = chunks.len();
        let side = |chunk: &[(bool, DeviceId)], wanted: bool| {
            chunk.iter().filter(|(approved, _)| *approved == wanted).map(|(_, id)| *id).collect()
        };
        let page = |(n, chunk): (usize, &&[(bool, DeviceId)])| MasterRoster {
            page: n as u32,
            last: n + 1 == count,
            approved: side(chunk, true),
            refused: side(chunk, false),
            epoch,
            revision,
        };
        chunks.iter().enumerate().map(page).collect()
    }

    /// All who were turned away, the latest first.
    pub(super) fn refused(&self) -> RefusedList {
        let mut clients: Vec<RefusedClient> = self
            .members
            .values()
            .filter(|m| m.verdict == Verdict::Refused)
            .map(|m| RefusedClient {
                public_id: m.client.public_id,
                name: m.client.name.clone(),
                kind: m.client.kind,
                platform: m.client.platform.clone(),
                refused_ms: m.since_ms,
            })
            .collect();
        clients.sort_by_key(|client| (std::cmp::Reverse(client.refused_ms), client.public_id));
        RefusedList { clients }
    }

    /// Approved devices whose time is over.
    pub(super) fn overdue(&self, wall_ms: u64) -> Vec<DeviceId> {
        self.ends.iter().take_while(|(until, _)| *until <= wall_ms).map(|(_, id)| *id).collect()
    }

    /// When the next approval ends.
    pub(super) fn next_end(&self) -> Option<u64> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Another device that was turned away and that a person could take this one for; of several,
    /// the last.
    pub(super) fn like_refused(&self, device: DeviceId, look: &str) -> Option<LikeRefused> {
        let alike = self.refused_looks.get(look).filter(|_| !look.is_empty())?;
        let (_, id) = alike.iter().rev().find(|(_, id)| *id != device)?;
        let member = self.members.get(id)?;
        Some(LikeRefused { name: member.client.name.clone(), refused_ms: member.since_ms })
    }

    /// The name of another approved device that a person could take this one for.
    pub(super) fn looks_like(&self, device: DeviceId, look: &str) -> Option<String> {
        let alike = self.approved_looks.get(look).filter(|_| !look.is_empty())?;
        let id = alike.iter().find(|id| **id != device)?;
        self.members.get(id).map(|member| member.client.name.clone())
    }
}

fn take_out<T: Ord>(looks: &mut BTreeMap<String, BTreeSet<T>>, look: &str, one: &T) {
    if let Some(alike) = looks.get_mut(look) {
        alike.remove(one);
        if alike.is_empty() {
            looks.remove(look);
        }
    }
}

/// What remains of a name when looks alone count: forms folded together (NFKC), no case, no marks,
/// no spaces, nothing that is not seen, and letters of all scripts that look alike made one (UTS
/// 39, 4).
pub(super) fn skeleton(name: &str) -> String {
    let folded: String = name.nfkc().flat_map(char::to_lowercase).collect();
    // Some doubles are alike only in lower case, so both orders: case, doubles, case.
    let alike =
        unicode_security::skeleton(&folded).flat_map(char::to_lowercase).collect::<String>();
    alike
        .nfkd()
        .filter(|c| c.is_alphanumeric())
        .map(|c| match c {
            // Alike on a screen, though not to UTS 39.
            '0' => 'o',
            '1' | 'l' | '|' => 'i',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::fixture::member;

    #[test]
    fn ids_beyond_a_page_go_to_the_next_and_the_last_says_so() {
        let mut roster = Roster::default();
        for n in 0..=MAX_ROSTER_IDS as u32 {
            roster.put(member(n, if n == 0 { Verdict::Refused } else { Verdict::Approved }));
        }
        let pages = roster.pages(5, 9);
        assert_eq!(pages.len(), 2);
        assert_eq!(
            (pages[0].page, pages[0].last, pages[0].approved.len()),
            (0, false, MAX_ROSTER_IDS)
        );
        assert_eq!((pages[1].page, pages[1].last, pages[1].refused.len()), (1, true, 1));
        assert_eq!(Roster::default().pages(5, 9).len(), 1);
    }

    /// Look-ups of every knock and approval visit as many entries as there are answers.
    #[test]
    fn a_long_list_is_not_walked_for_one_name_or_one_end() {
        let mut roster = Roster::default();
        for n in 0..5_000 {
            let verdict = if n % 2 == 0 { Verdict::Approved } else { Verdict::Refused };
            roster.put(Member {
                until_ms: Some(u64::from(n)),
                since_ms: u64::from(n),
                ..member(n, verdict)
            });
        }
        assert_eq!((roster.ends.len(), roster.next_end()), (2_500, Some(0)));
        assert_eq!(
            roster.overdue(4),
            [
                member(0, Verdict::Approved),
                member(2, Verdict::Approved),
                member(4, Verdict::Approved)
            ]
            .map(|m| m.client.public_id)
        );
        let other = member(9_999, Verdict::Approved).client.public_id;
        let look = skeleton("Device 77");
        assert_eq!(roster.refused_looks[&look].len(), 1);
        assert_eq!(roster.like_refused(other, &look).map(|like| like.refused_ms), Some(77));
        // Whoever goes, or is decided about anew, leaves nothing behind.
        roster.put(member(77, Verdict::Approved));
        assert_eq!(
            (roster.like_refused(other, &look), roster.looks_like(other, &look).is_some()),
            (None, true)
        );
        for n in 0..5_000 {
            roster.remove(member(n, Verdict::Approved).client.public_id);
        }
        let left = (roster.approved_looks.len(), roster.refused_looks.len(), roster.ends.len());
        assert_eq!(left, (0, 0, 0));
    }

    #[test]
    fn lookalikes_are_named() {
        let mut roster = Roster::default();
        let mut known = member(1, Verdict::Approved);
        known.client.name = "Ana's iPhone".into();
        roster.put(known);
        let mut other = member(2, Verdict::Approved).client;
        for (name, alike) in [
            ("Ana's iPhone", true),
            ("ANAS lPh0ne", true),
            ("Аna's iPhone", true),
            ("Ana\u{200b}'s i\u{2060}Phone", true),
            ("Ａｎａ＇ｓ ｉＰｈｏｎｅ", true),
            ("A\u{0301}na's iPhone", true),
            ("𝐀𝐧𝐚'𝐬 𝐢𝐏𝐡𝐨𝐧𝐞", true),
            ("Ana's iPh\u{043e}ne", true),
            ("Ana's iPhone 2", false),
            ("Bob", false),
            ("…", false),
        ] {
            other.name = name.into();
            assert_eq!(
                roster.looks_like(other.public_id, &skeleton(&other.name)).is_some(),
                alike,
                "{name}"
            );
        }
    }
}
