//! Who belongs and who was turned away. A refusal is final until it is forgotten by the person at the host.

use std::collections::BTreeMap;

use lanyard_protocol::limits::MAX_ROSTER_IDS;
use lanyard_protocol::message::{LikeRefused, MasterRoster, Refused, RefusedClient};
use lanyard_protocol::{Client, DeviceId, PublicKey};
use unicode_normalization::UnicodeNormalization;

/// How a device stands with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Approved,
    Refused,
}

/// One device that was decided about, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub client: Client,
    pub public_key: PublicKey,
    pub verdict: Verdict,
    /// Of its last change in the feed.
    pub revision: u64,
    /// When it was let in or turned away.
    pub since_ms: u64,
    /// When it is turned away by itself; milliseconds since 1970.
    pub until_ms: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<DeviceId, Member>,
}

impl Roster {
    pub fn put(&mut self, member: Member) {
        self.members.insert(member.client.public_id, member);
    }

    pub fn get(&self, id: DeviceId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub fn remove(&mut self, id: DeviceId) -> Option<Member> {
        self.members.remove(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn verdict(&self, id: DeviceId) -> Option<Verdict> {
        self.members.get(&id).map(|member| member.verdict)
    }

    pub fn is_approved(&self, id: DeviceId) -> bool {
        self.verdict(id) == Some(Verdict::Approved)
    }

    fn ids(&self, verdict: Verdict) -> impl Iterator<Item = DeviceId> {
        self.members.values().filter(move |m| m.verdict == verdict).map(|m| m.client.public_id)
    }

    /// What the relay must know, in pages; at least one.
    pub fn pages(&self, epoch: u64, revision: u64) -> Vec<MasterRoster> {
        let approved = self.ids(Verdict::Approved).map(|id| (true, id));
        let all: Vec<(bool, DeviceId)> = approved.chain(self.ids(Verdict::Refused).map(|id| (false, id))).collect();
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
    pub fn refused(&self) -> Refused {
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
        Refused { clients }
    }

    /// Approved devices whose time is over.
    pub fn overdue(&self, wall_ms: u64) -> Vec<DeviceId> {
        let over = |m: &&Member| m.verdict == Verdict::Approved && m.until_ms.is_some_and(|until| until <= wall_ms);
        self.members.values().filter(over).map(|m| m.client.public_id).collect()
    }

    /// When the next approval ends.
    pub fn next_end(&self) -> Option<u64> {
        self.members.values().filter(|m| m.verdict == Verdict::Approved).filter_map(|m| m.until_ms).min()
    }

    /// Another device that was turned away and that a person could take `client` for; of several, the last.
    pub fn like_refused(&self, client: &Client) -> Option<LikeRefused> {
        let skeleton = skeleton(&client.name);
        self.members
            .values()
            .filter(|m| m.verdict == Verdict::Refused && m.client.public_id != client.public_id)
            .filter(|m| !skeleton.is_empty() && self::skeleton(&m.client.name) == skeleton)
            .max_by_key(|m| m.since_ms)
            .map(|m| LikeRefused { name: m.client.name.clone(), refused_ms: m.since_ms })
    }

    /// The name of another approved device that a person could take `client` for.
    pub fn looks_like(&self, client: &Client) -> Option<String> {
        let skeleton = skeleton(&client.name);
        self.members
            .values()
            .filter(|m| m.verdict == Verdict::Approved && m.client.public_id != client.public_id)
            .find(|m| !skeleton.is_empty() && self::skeleton(&m.client.name) == skeleton)
            .map(|m| m.client.name.clone())
    }
}

/// What remains of a name when looks alone count: forms folded together (NFKC), no case, no marks, no spaces, nothing that
/// is not seen, and letters of all scripts that look alike made one (UTS 39, 4).
fn skeleton(name: &str) -> String {
    let folded: String = name.nfkc().flat_map(char::to_lowercase).collect();
    // Some doubles are alike only in lower case, so both orders: case, doubles, case.
    let alike = unicode_security::skeleton(&folded).flat_map(char::to_lowercase).collect::<String>();
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
        assert_eq!((pages[0].page, pages[0].last, pages[0].approved.len()), (0, false, MAX_ROSTER_IDS));
        assert_eq!((pages[1].page, pages[1].last, pages[1].refused.len()), (1, true, 1));
        assert_eq!(Roster::default().pages(5, 9).len(), 1);
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
            assert_eq!(roster.looks_like(&other).is_some(), alike, "{name}");
        }
    }
}
