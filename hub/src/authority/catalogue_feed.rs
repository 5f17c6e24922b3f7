//! The catalogue as a feed: members and files are its keys, and pages hold them whole.

use std::fmt;
use std::str::FromStr;

use lanyard_protocol::limits::{MAX_FILES_A_MESSAGE, MAX_LIST_BYTES};
use lanyard_protocol::message::FeedPull;
use lanyard_protocol::{
    Client, DeviceId, FailureCode, FeedMode, FeedPage, FileEntry, FileId, FileRef, Gone, Resume,
};

use super::Authority;
use crate::feed::{KeyState, PullCursor};

/// What an entry of the catalogue is about. The order is that of pages within one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Client(DeviceId),
    File(FileRef),
}

/// Writes the key as it stands in a cursor.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Key::Client(id) => write!(f, "{id}"),
            Key::File(file) => write!(f, "{}.{}", file.public_id, file.file_id),
        }
    }
}

impl FromStr for Key {
    type Err = lanyard_protocol::BadId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('.') {
            None => Ok(Key::Client(text.parse()?)),
            Some((owner, file)) => Ok(Key::File(FileRef {
                public_id: owner.parse()?,
                file_id: file.parse::<FileId>()?,
            })),
        }
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
    /// Lists a member. Files of a member that was gone went with it under that one word: a delta
    /// from before would name the member as present and keep them alive.
    pub(super) fn list_client(&mut self, device: DeviceId, revision: u64) {
        if let Some(at) = self.feed.list(Key::Client(device), revision) {
            self.feed.raise_floor(at);
        }
    }

    /// The page that answers a pull, or why there is none.
    pub(super) fn answer_pull(&self, pull: &FeedPull) -> Result<FeedPage, FailureCode> {
        if !pull.feed.is_catalogue() {
            return Err(FailureCode::NotFound);
        }
        let Some(cursor) = &pull.cursor else {
            return Ok(self.first_page(Resume { epoch: pull.epoch, revision: pull.since }));
        };
        let (epoch, known) = PullCursor::parse(cursor).ok_or(FailureCode::BadMessage)?;
        if !self.feed.can_continue(epoch, &known) {
            return Err(FailureCode::StaleRequest);
        }
        Ok(self.page(known))
    }

    /// The first page for who stands at `held`.
    pub(super) fn first_page(&self, held: Resume) -> FeedPage {
        match self.feed.pull(held) {
            Some(pull) => self.page(pull),
            None => self.empty_page(FeedMode::UpToDate),
        }
    }

    fn empty_page(&self, mode: FeedMode) -> FeedPage {
        FeedPage {
            feed: Default::default(),
            mode,
            epoch: self.feed.epoch(),
            revision: self.feed.told(),
            since: None,
            clients: Vec::new(),
            files: Vec::new(),
            gone: Vec::new(),
            cursor: None,
            last: true,
        }
    }

    fn page(&self, pull: PullCursor<Key>) -> FeedPage {
        let mut page = FeedPage { since: pull.since(), ..self.empty_page(pull.mode()) };
        let mut budget = Budget::default();
        let mut reached = None;
        for (revision, key, standing) in self.feed.rest(&pull, page.revision) {
            if !self.append(&mut page, &mut budget, key, standing) {
                page.last = false;
                page.cursor = reached.map(|at| pull.cursor(self.feed.epoch(), at));
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
            for letter in ["d", "s"] {
                let text = format!("{letter}.3.7.9.{key}");
                let (epoch, pull) = PullCursor::<Key>::parse(&text).unwrap();
                assert_eq!((epoch, pull.cursor(3, (9, key))), (3, text));
                assert_eq!(pull.since(), (letter == "d").then_some(7));
            }
        }
        for bad in [
            "",
            "d",
            "x.3.1.2.3",
            "d.3.1.2.nobody",
            "d.3.1.2",
            "d.3.-1.2.00000000-0000-8000-8000-000000000000",
            "d.3.1.2.00000000-0000-8000-8000-000000000000.",
            "d.3.1.2.00000000-0000-8000-8000-000000000000.x.y",
        ] {
            assert_eq!(PullCursor::<Key>::parse(bad), None, "{bad}");
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
            feed: Default::default(),
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
}
