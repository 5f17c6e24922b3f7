//! Links that the relay knows, bounded in bytes: the longest unused goes first, and none that
//! somebody reads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lanyard_protocol::limits::{LINK_USED_INTERVAL_MS, MAX_KNOWN_LINK_BYTES};
use lanyard_protocol::{DeviceId, FileRef, LinkHash};

use super::super::{LinkContent, LinkInfo, LinkReader, Moment};

/// A link beside the texts of what it opens: its record and its places in four indexes.
const KNOWN_OVERHEAD: usize = 768;
/// Pages of an archive whose files a response may still read.
const PAGES_HELD: usize = 2;

/// Downloads that the master counted for a link, and that were not read yet.
#[derive(Debug, Clone, Copy, Default)]
struct PaidUse {
    /// Downloads from the first byte to the last.
    wholes: u32,
    /// Bytes of others: a download that goes on, a player that jumps.
    bytes: u64,
}

#[derive(Debug)]
pub(crate) struct KnownLink {
    pub info: Arc<LinkInfo>,
    used: Moment,
    until: Moment,
    pub told_used: Option<Moment>,
    readers: BTreeSet<LinkReader>,
    credit: PaidUse,
    /// The master has to be asked before it is opened again.
    is_outdated: bool,
}

impl KnownLink {
    fn bytes(&self) -> usize {
        KNOWN_OVERHEAD + self.info.text_bytes()
    }

    fn file(&self) -> Option<FileRef> {
        match &self.info.what {
            LinkContent::File(entry) => Some(entry.file_ref()),
            LinkContent::Archive(_) | LinkContent::Nothing => None,
        }
    }
}

/// One response and the pages of members that it holds.
#[derive(Debug)]
struct LinkResponse {
    hash: LinkHash,
    pages: VecDeque<Vec<FileRef>>,
}

#[derive(Debug, Default)]
pub(crate) struct KnownLinks {
    links: BTreeMap<LinkHash, KnownLink>,
    by_file: BTreeMap<FileRef, BTreeSet<LinkHash>>,
    by_maker: BTreeMap<DeviceId, BTreeSet<LinkHash>>,
    /// Those that nobody reads, the longest unused first.
    idle: BTreeSet<(Moment, LinkHash)>,
    readers: BTreeMap<LinkReader, LinkResponse>,
    bytes: usize,
}

impl KnownLinks {
    pub(crate) fn get(&self, hash: &LinkHash) -> Option<&KnownLink> {
        self.links.get(hash)
    }

    pub(crate) fn get_mut(&mut self, hash: &LinkHash) -> Option<&mut KnownLink> {
        self.links.get_mut(hash)
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Opens a link without asking the master, if that may be. An archive is asked for each time:
    /// it may have changed.
    pub(crate) fn open(&mut self, now: Moment, hash: &LinkHash) -> Option<Arc<LinkInfo>> {
        let known = self.links.get(hash)?;
        let is_file = known.file().is_some();
        if !is_file || known.is_outdated || known.until <= now {
            return None;
        }
        let info = known.info.clone();
        self.touch(now, hash);
        Some(info)
    }

    /// Learns what the master granted; keeps who reads it and what they are owed.
    pub(crate) fn put(&mut self, now: Moment, until: Moment, info: Arc<LinkInfo>) {
        let hash = info.hash;
        let old = self.take(&hash);
        let (readers, credit, told_used) =
            old.map(|old| (old.readers, old.credit, old.told_used)).unwrap_or_default();
        let known =
            KnownLink { info, used: now, until, told_used, readers, credit, is_outdated: false };
        if let Some(file) = known.file() {
            self.by_file.entry(file).or_default().insert(hash);
        }
        self.by_maker.entry(known.info.maker).or_default().insert(hash);
        if known.readers.is_empty() {
            self.idle.insert((now, hash));
        }
        self.bytes += known.bytes();
        self.links.insert(hash, known);
        while self.bytes > MAX_KNOWN_LINK_BYTES {
            let Some((_, oldest)) = self.idle.first().copied() else { return };
            self.remove(&oldest);
        }
    }

    fn take(&mut self, hash: &LinkHash) -> Option<KnownLink> {
        let known = self.links.remove(hash)?;
        self.bytes -= known.bytes();
        self.idle.remove(&(known.used, *hash));
        if let Some(file) = known.file() {
            remove_from(&mut self.by_file, &file, hash);
        }
        remove_from(&mut self.by_maker, &known.info.maker, hash);
        Some(known)
    }

    /// Forgets the link. True when somebody reads it.
    pub(crate) fn remove(&mut self, hash: &LinkHash) -> bool {
        self.take(hash).is_some_and(|known| !known.readers.is_empty())
    }

    pub(crate) fn outdate(&mut self, hash: &LinkHash) {
        if let Some(known) = self.links.get_mut(hash) {
            known.is_outdated = true;
        }
    }

    pub(crate) fn forget_file(&mut self, file: &FileRef) {
        for hash in self.by_file.get(file).cloned().unwrap_or_default() {
            self.remove(&hash);
        }
    }

    pub(crate) fn of_maker(&self, maker: DeviceId) -> Vec<LinkHash> {
        self.by_maker.get(&maker).into_iter().flatten().copied().collect()
    }

    pub(crate) fn sweep(&mut self, now: Moment) {
        while let Some((_, hash)) =
            self.idle.first().copied().filter(|(used, _)| now.since(*used) >= LINK_USED_INTERVAL_MS)
        {
            self.remove(&hash);
        }
    }

    #[cfg(test)]
    pub(crate) fn reader_count(&self) -> usize {
        self.readers.len()
    }

    fn touch(&mut self, now: Moment, hash: &LinkHash) {
        let Some(known) = self.links.get_mut(hash) else { return };
        if self.idle.remove(&(known.used, *hash)) {
            self.idle.insert((now, *hash));
        }
        known.used = now;
    }

    /// Notes that a response reads this link. False: the link is not known, or is over.
    pub(crate) fn read_by(&mut self, now: Moment, hash: &LinkHash, reader: LinkReader) -> bool {
        self.touch(now, hash);
        let Some(known) = self.links.get_mut(hash) else { return false };
        known.readers.insert(reader);
        self.idle.remove(&(known.used, *hash));
        self.readers
            .entry(reader)
            .or_insert_with(|| LinkResponse { hash: *hash, pages: VecDeque::new() });
        true
    }

    /// Notes the files of a page that a response got; gives those of the page before the last,
    /// which it has read.
    pub(crate) fn page_held(&mut self, reader: LinkReader, files: Vec<FileRef>) -> Vec<FileRef> {
        let Some(reading) = self.readers.get_mut(&reader) else { return files };
        reading.pages.push_back(files);
        if reading.pages.len() > PAGES_HELD {
            reading.pages.pop_front().unwrap_or_default()
        } else {
            Vec::new()
        }
    }

    /// A response is over; gives the files that it held.
    pub(crate) fn reader_left(&mut self, reader: LinkReader) -> Vec<FileRef> {
        let Some(LinkResponse { hash, pages }) = self.readers.remove(&reader) else {
            return Vec::new();
        };
        if let Some(known) = self.links.get_mut(&hash) {
            known.readers.remove(&reader);
            if known.readers.is_empty() {
                self.idle.insert((known.used, hash));
            }
        }
        pages.into_iter().flatten().collect()
    }

    /// Pays for a request out of what was asked of the master before. True when it need not be
    /// asked.
    pub(crate) fn pay(&mut self, hash: &LinkHash, whole: bool, bytes: u64) -> bool {
        let Some(known) = self.links.get_mut(hash) else { return false };
        if !known.info.limited {
            return true;
        }
        let PaidUse { wholes, bytes: left } = &mut known.credit;
        match whole {
            true if *wholes > 0 => *wholes -= 1,
            false if *left >= bytes => *left -= bytes,
            true | false => return false,
        }
        true
    }

    /// The master counted a use: it is worth one download, and as many bytes again for going on
    /// after a cut.
    pub(crate) fn credit(&mut self, hash: &LinkHash) {
        let Some(known) = self.links.get_mut(hash) else { return };
        if let LinkContent::File(entry) = &known.info.what {
            known.credit.bytes = known.credit.bytes.saturating_add(entry.size);
        }
        known.credit.wholes += 1;
    }

    /// Bytes that were paid for and did not go out.
    pub(crate) fn refund(&mut self, hash: &LinkHash, bytes: u64) {
        if let Some(known) = self.links.get_mut(hash) {
            known.credit.bytes = known.credit.bytes.saturating_add(bytes);
        }
    }
}

fn remove_from<K: Ord + Copy>(map: &mut BTreeMap<K, BTreeSet<LinkHash>>, key: &K, hash: &LinkHash) {
    if let Some(set) = map.get_mut(key) {
        set.remove(hash);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
