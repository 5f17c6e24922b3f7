//! The feed's order: which entry changed at which revision, what is gone, and where a page ends.
//!
//! Knows keys and revisions only; what an entry looks like is the roster's and the catalogue's
//! business.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use lanyard_protocol::limits::{
    MAX_CURSOR_CHARS, MAX_FILES_A_MESSAGE, MAX_LIST_BYTES, MAX_REMOVALS,
};
use lanyard_protocol::message::FeedPull;
use lanyard_protocol::{
    Client, DeviceId, FailureCode, FeedMode, FeedPage, FileEntry, FileId, FileRef, Gone, Resume,
};

use super::Authority;

/// What an entry of the feed is about. The order is that of pages: by revision first, then by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Client(DeviceId),
    File(FileRef),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyState {
    Listed,
    Gone,
}

/// Every key stands once: at the revision of its last change. Removals have an order of their own,
/// so that a page never walks over those that it does not tell.
#[derive(Debug)]
pub(super) struct Feed {
    last: BTreeMap<Key, u64>,
    listed: BTreeSet<(u64, Key)>,
    gone: BTreeSet<(u64, Key)>,
    /// Removals up to this revision are forgotten: a delta can start here, not before.
    floor: u64,
    /// The last revision that took the place of something told before it.
    replaced: u64,
    max_gone: usize,
    /// Entries that pages looked at.
    #[cfg(test)]
    pub visited: std::cell::Cell<usize>,
}

impl Feed {
    /// Removals before `floor` are not known.
    pub(super) fn starting_at(floor: u64) -> Self {
        Self {
            last: BTreeMap::new(),
            listed: BTreeSet::new(),
            gone: BTreeSet::new(),
            floor,
            replaced: 0,
            max_gone: MAX_REMOVALS,
            #[cfg(test)]
            visited: Default::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn remember_at_most(&mut self, max_gone: usize) {
        self.max_gone = max_gone;
    }

    pub(super) fn list(&mut self, key: Key, revision: u64) {
        let was_gone = self.replace(&key, revision);
        if let (Key::Client(_), Some(at)) = (key, was_gone) {
            // Its old files went with it under this one word; a delta that named it as present
            // would keep them alive.
            self.floor = self.floor.max(at);
        }
        self.last.insert(key, revision);
        self.listed.insert((revision, key));
    }

    pub(super) fn remove(&mut self, key: Key, revision: u64) {
        self.replace(&key, revision);
        self.last.insert(key, revision);
        self.gone.insert((revision, key));
        while self.gone.len() > self.max_gone {
            if let Some(oldest) = self.gone.pop_first() {
                self.last.remove(&oldest.1);
                self.floor = self.floor.max(oldest.0);
            }
        }
    }

    /// Drops the key without a trace: something else says that it is gone.
    pub(super) fn forget(&mut self, key: Key) {
        self.clear(&key);
    }

    /// The same as [`Feed::clear`], by this revision.
    fn replace(&mut self, key: &Key, revision: u64) -> Option<u64> {
        if self.last.contains_key(key) {
            self.replaced = self.replaced.max(revision);
        }
        self.clear(key)
    }

    /// Where the key was gone, if it was.
    fn clear(&mut self, key: &Key) -> Option<u64> {
        let at = self.last.remove(key)?;
        self.listed.remove(&(at, *key));
        self.gone.remove(&(at, *key)).then_some(at)
    }

    fn reaches_back_to(&self, revision: u64) -> bool {
        revision >= self.floor
    }

    /// Whether the list as it was at this revision can still be told: since then it has only grown.
    fn can_tell(&self, revision: u64) -> bool {
        self.replaced <= revision
    }

    /// What a pull has still to say, in order, up to this revision.
    fn rest<'a>(
        &'a self,
        pull: &PullCursor,
        up_to: u64,
    ) -> impl Iterator<Item = (u64, Key, KeyState)> + 'a {
        let after_low = Bound::Included((pull.low + 1, Key::Client(DeviceId(Default::default()))));
        let from = match pull.after {
            Some(position) => Bound::Excluded(position),
            None if pull.mode == FeedMode::Delta => after_low,
            None => Bound::Unbounded,
        };
        let removals_from = match pull.after {
            Some(position) if position.0 > pull.low => Bound::Excluded(position),
            _ => after_low,
        };
        let mut listed = self.listed.range((from, Bound::Unbounded)).copied().peekable();
        let mut gone = self.gone.range((removals_from, Bound::Unbounded)).copied().peekable();
        let next = move || {
            let is_removal = match (listed.peek(), gone.peek()) {
                (Some(entry), Some(removal)) => removal < entry,
                (entry, removal) => entry.is_none() && removal.is_some(),
            };
            #[cfg(test)]
            self.visited.set(self.visited.get() + 1);
            if is_removal {
                gone.next().map(|(revision, key)| (revision, key, KeyState::Gone))
            } else {
                listed.next().map(|(revision, key)| (revision, key, KeyState::Listed))
            }
        };
        std::iter::from_fn(next).take_while(move |(revision, ..)| *revision <= up_to)
    }
}

/// One pull, as its cursor remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PullCursor {
    mode: FeedMode,
    /// Removals after this revision are told: the asker's own in a delta; in a snapshot the head
    /// when it began, so that what goes between two pages is not kept by who met it on the first.
    low: u64,
    after: Option<(u64, Key)>,
}

impl PullCursor {
    /// The feed's epoch goes into it: the pull that it continues may have started with none.
    fn cursor(&self, epoch: u64, after: (u64, Key)) -> String {
        let mode = if self.mode == FeedMode::Delta { 'd' } else { 's' };
        let key = match after.1 {
            Key::Client(id) => format!("{id}"),
            Key::File(file) => format!("{}.{}", file.public_id, file.file_id),
        };
        let cursor = format!("{mode}.{epoch}.{}.{}.{key}", self.low, after.0);
        debug_assert!(cursor.len() <= MAX_CURSOR_CHARS);
        cursor
    }

    fn parse(cursor: &str) -> Option<(u64, Self)> {
        let mut parts = cursor.split('.');
        let mode = match parts.next()? {
            "d" => FeedMode::Delta,
            "s" => FeedMode::Snapshot,
            _ => return None,
        };
        let epoch = parts.next()?.parse().ok()?;
        let low = parts.next()?.parse().ok()?;
        let revision = parts.next()?.parse().ok()?;
        let public_id: DeviceId = parts.next()?.parse().ok()?;
        let key = match parts.next() {
            None => Key::Client(public_id),
            Some(file) => Key::File(FileRef { public_id, file_id: file.parse::<FileId>().ok()? }),
        };
        parts.next().is_none().then_some((epoch, Self { mode, low, after: Some((revision, key)) }))
    }
}

/// Collects what fits one page: at most 512 entries and 192 KiB.
#[derive(Debug, Default)]
pub(super) struct Budget {
    entries: usize,
    bytes: usize,
}

impl Budget {
    pub(super) fn takes(&mut self, cost: usize) -> bool {
        if self.entries == MAX_FILES_A_MESSAGE
            || (self.entries > 0 && self.bytes + cost > MAX_LIST_BYTES)
        {
            return false;
        }
        self.entries += 1;
        self.bytes += cost;
        true
    }
}

/// Bytes of a text in JSON. Control characters do not travel, so only these two are escaped.
pub(super) fn text_cost(text: &str) -> usize {
    text.len() + text.bytes().filter(|b| matches!(b, b'"' | b'\\')).count()
}

/// At least the bytes of the entry on the wire, with the comma.
pub(super) fn file_cost(entry: &FileEntry) -> usize {
    331 + text_cost(&entry.path) + text_cost(&entry.media_type)
}

pub(super) fn client_cost(client: &Client) -> usize {
    110 + text_cost(&client.name) + text_cost(&client.platform)
}

const GONE_COST: usize = 104;

impl Authority {
    /// The revision that pages tell of: the newest, or while changes wait for the disk the last
    /// before them.
    fn told(&self) -> u64 {
        self.held_at.filter(|at| self.feed.can_tell(*at)).unwrap_or(self.revision)
    }

    /// The page that answers a pull, or why there is none.
    pub(super) fn answer_pull(&self, pull: &FeedPull) -> Result<FeedPage, FailureCode> {
        let Some(cursor) = &pull.cursor else {
            return Ok(self.first_page(Resume { epoch: pull.epoch, revision: pull.since }));
        };
        let (epoch, known) = PullCursor::parse(cursor).ok_or(FailureCode::BadMessage)?;
        if epoch != self.epoch || !self.feed.reaches_back_to(known.low) || known.low > self.told() {
            return Err(FailureCode::StaleRequest);
        }
        Ok(self.page(known))
    }

    /// The first page for who stands at `held`.
    pub(super) fn first_page(&self, held: Resume) -> FeedPage {
        let told = self.told();
        let same_epoch = held.epoch == self.epoch && held.revision <= told;
        if same_epoch && held.revision == told {
            return self.empty_page(FeedMode::UpToDate);
        }
        if same_epoch && self.feed.reaches_back_to(held.revision) {
            return self.page(PullCursor {
                mode: FeedMode::Delta,
                low: held.revision,
                after: None,
            });
        }
        self.page(PullCursor { mode: FeedMode::Snapshot, low: told, after: None })
    }

    fn empty_page(&self, mode: FeedMode) -> FeedPage {
        FeedPage {
            mode,
            epoch: self.epoch,
            revision: self.told(),
            since: None,
            clients: Vec::new(),
            files: Vec::new(),
            gone: Vec::new(),
            cursor: None,
            last: true,
        }
    }

    fn page(&self, pull: PullCursor) -> FeedPage {
        let since = (pull.mode == FeedMode::Delta).then_some(pull.low);
        let mut page = FeedPage { since, ..self.empty_page(pull.mode) };
        let mut budget = Budget::default();
        let mut reached = None;
        for (revision, key, standing) in self.feed.rest(&pull, page.revision) {
            if !self.append(&mut page, &mut budget, key, standing) {
                page.last = false;
                page.cursor = reached.map(|at| pull.cursor(self.epoch, at));
                break;
            }
            reached = Some((revision, key));
        }
        page
    }

    /// Whether the entry found room.
    fn append(
        &self,
        page: &mut FeedPage,
        budget: &mut Budget,
        key: Key,
        standing: KeyState,
    ) -> bool {
        match (standing, key) {
            (KeyState::Gone, key) => {
                let gone = match key {
                    Key::Client(public_id) => Gone { public_id, file_id: None },
                    Key::File(FileRef { public_id, file_id }) => {
                        Gone { public_id, file_id: Some(file_id) }
                    }
                };
                budget.takes(GONE_COST) && {
                    page.gone.push(gone);
                    true
                }
            }
            (KeyState::Listed, Key::Client(id)) => {
                let client = &self.roster.get(id).expect("who is listed is in the roster").client;
                budget.takes(client_cost(client)) && {
                    page.clients.push(client.clone());
                    true
                }
            }
            (KeyState::Listed, Key::File(file)) => {
                let entry =
                    &self.catalogue.get(&file).expect("what is listed is in the catalogue").entry;
                budget.takes(file_cost(entry)) && {
                    page.files.push(entry.clone());
                    true
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lanyard_protocol::MasterToRelay;
    use lanyard_protocol::codec::encode;

    use super::*;
    use crate::authority::fixture::{entry, file_id};

    #[test]
    fn a_cursor_comes_back_as_the_pull_it_was() {
        let file = entry(1, "a").file_ref();
        for key in [Key::Client(file.public_id), Key::File(file)] {
            for mode in [FeedMode::Delta, FeedMode::Snapshot] {
                let pull = PullCursor { mode, low: 7, after: Some((9, key)) };
                assert_eq!(PullCursor::parse(&pull.cursor(3, (9, key))), Some((3, pull)));
            }
        }
        for bad in [
            "",
            "d",
            "x.3.1.2.3",
            "d.3.1.2.nobody",
            "d.3.1.2",
            "d.3.-1.2.00000000-0000-8000-8000-000000000000",
        ] {
            assert_eq!(PullCursor::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_cost_of_an_entry_is_never_less_than_its_bytes() {
        let mut file = entry(1, "x\"y/Küche");
        file.size = 1 << 40;
        file.modified_ms = (1 << 53) - 1;
        file.media_type = "a\\b\"c".into();
        file.kind = lanyard_protocol::EntryKind::Folder;
        file.root = Some(lanyard_protocol::Root([7; 32]));
        let client = Client {
            public_id: file.public_id,
            name: "\"Ana\\".into(),
            kind: lanyard_protocol::DeviceKind::Browser,
            platform: "x".into(),
        };
        let mut page = FeedPage {
            mode: FeedMode::Snapshot,
            epoch: 1,
            revision: 1,
            since: None,
            clients: vec![],
            files: vec![],
            gone: vec![],
            cursor: None,
            last: true,
        };
        let bytes = |page: &FeedPage| encode(&MasterToRelay::FeedPage(page.clone()), None).len();
        let bare = bytes(&page);
        page.files = vec![file.clone(); 2];
        let files = bytes(&page) - bare;
        assert!(files <= 2 * file_cost(&file) && files + 20 > 2 * file_cost(&file), "{files}");
        page.files.clear();
        page.clients = vec![client.clone(); 2];
        assert!(bytes(&page) - bare <= 2 * client_cost(&client));
        page.clients.clear();
        page.gone = vec![Gone { public_id: file.public_id, file_id: Some(file_id(1)) }; 2];
        assert!(bytes(&page) - bare <= 2 * GONE_COST);
    }

    #[test]
    fn forgotten_removals_move_the_floor() {
        let mut feed = Feed::starting_at(0);
        feed.remember_at_most(2);
        for n in 1..=3 {
            feed.remove(Key::File(entry(n as u8, "a").file_ref()), n);
        }
        assert!(!feed.reaches_back_to(0));
        assert!(feed.reaches_back_to(1));
        assert_eq!(feed.gone.len(), 2);
        assert_eq!(feed.last.len(), 2);
    }
}
