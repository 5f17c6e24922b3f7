//! Links: which files a `/d/` address opens, who made it, when it ends and how often it may be
//! used. Only its hash is known here.

mod archives;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::device::is_valid_name;
use lanyard_protocol::limits::{
    LINK_UNUSED_MS, LINK_USED_INTERVAL_MS, MAX_FILES_A_MESSAGE, MAX_LINK_FILES, MAX_LINK_PARTS,
    MAX_LINK_USES, MAX_LINK_VALID_MS,
};
use lanyard_protocol::message::{
    LinkDrop, LinkDropped, LinkFolder, LinkGrant, LinkListed, LinkLookup, LinkMade, LinkRequest,
    LinkUsed, LinksPage, LinksPull,
};
use lanyard_protocol::{
    DeviceId, FailureCode, FileRef, LinkBinding, LinkHash, MasterToConsole, MasterToRelay, Ref,
    SessionAddress, path,
};

use super::catalogue_feed::{Budget, text_cost};
use super::quota::Ledger;
use super::{Authority, ChangeOrigin, RequestToken, StoreWrite};
pub(super) use archives::Archives;

/// A link beside its name and its files: its record, its places in three indexes, and what an
/// allocator adds.
const LINK_OVERHEAD: u64 = 512;
/// One file of a link.
const LINKED_FILE_BYTES: u64 = 32;
/// Bytes of a link on the wire beside its texts.
const LISTED_COST: usize = 420;

/// The contents of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTarget {
    /// These versions, in the order they were asked for, none twice.
    Files(Vec<FileRef>),
    /// All that the owner shares there when somebody reads it.
    Folder(LinkFolder),
}

/// One link as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRecord {
    /// Names the link; its key is known to nobody here.
    pub hash: LinkHash,
    /// Binds its key to its maker.
    pub binding: LinkBinding,
    /// The device that made the link and holds its key.
    pub maker: DeviceId,
    /// The name of its download.
    pub name: String,
    /// Files or the folder that the link opens.
    pub linked: LinkTarget,
    /// Milliseconds since 1970 of its making.
    pub made_ms: u64,
    /// Milliseconds since 1970 of its last use.
    pub used_ms: u64,
    /// The end that its maker chose.
    pub ends_ms: Option<u64>,
    /// Uses that remain; `None` when they are not counted.
    pub uses_left: Option<u32>,
}

impl LinkRecord {
    fn expires_ms(&self) -> u64 {
        self.ends_ms.unwrap_or_else(|| self.used_ms.saturating_add(LINK_UNUSED_MS))
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> u64 {
        let named = match &self.linked {
            LinkTarget::Files(files) => LINKED_FILE_BYTES * files.len() as u64,
            LinkTarget::Folder(folder) => folder.path.len() as u64,
        };
        LINK_OVERHEAD + self.name.len() as u64 + named
    }

    /// The only file that it names.
    fn one_file(&self) -> Option<FileRef> {
        match &self.linked {
            LinkTarget::Files(files) if files.len() == 1 => files.first().copied(),
            LinkTarget::Files(_) | LinkTarget::Folder(_) => None,
        }
    }

    fn is_one_file(&self) -> bool {
        self.one_file().is_some()
    }

    fn listed(&self) -> LinkListed {
        let (files, folder) = match &self.linked {
            LinkTarget::Files(files) => (files.len() as u32, None),
            LinkTarget::Folder(folder) => (0, Some(folder.clone())),
        };
        LinkListed {
            link_hash: self.hash,
            public_id: self.maker,
            name: self.name.clone(),
            files,
            folder,
            made_ms: self.made_ms,
            expires_ms: self.expires_ms(),
            ends: self.ends_ms.is_some(),
            uses_left: self.uses_left,
        }
    }
}

/// Where a link stands in the lists: by the time it was made.
type LinkPlace = (u64, LinkHash);

#[derive(Debug, Default)]
pub(super) struct LinkRegistry {
    links: BTreeMap<LinkHash, LinkRecord>,
    by_maker: BTreeMap<DeviceId, BTreeSet<LinkPlace>>,
    by_age: BTreeSet<LinkPlace>,
    by_end: BTreeSet<(u64, LinkHash)>,
    bytes: Ledger,
    /// Requests that added to each link, since this master began.
    parts: BTreeMap<LinkHash, u32>,
}

impl LinkRegistry {
    pub(super) fn get(&self, hash: &LinkHash) -> Option<&LinkRecord> {
        self.links.get(hash)
    }

    pub(super) fn bytes(&self) -> &Ledger {
        &self.bytes
    }

    #[cfg(test)]
    pub(super) fn records(&self) -> impl Iterator<Item = &LinkRecord> {
        self.links.values()
    }

    pub(super) fn put(&mut self, link: LinkRecord) {
        self.take(&link.hash);
        let place = (link.made_ms, link.hash);
        self.by_maker.entry(link.maker).or_default().insert(place);
        self.by_age.insert(place);
        self.by_end.insert((link.expires_ms(), link.hash));
        self.bytes.add(link.maker, link.bytes());
        self.links.insert(link.hash, link);
    }

    pub(super) fn remove(&mut self, hash: &LinkHash) -> Option<LinkRecord> {
        self.parts.remove(hash);
        self.take(hash)
    }

    /// Takes a link out of all indexes, to be put back changed.
    fn take(&mut self, hash: &LinkHash) -> Option<LinkRecord> {
        let link = self.links.remove(hash)?;
        let place = (link.made_ms, *hash);
        self.by_age.remove(&place);
        self.by_end.remove(&(link.expires_ms(), *hash));
        if let Some(places) = self.by_maker.get_mut(&link.maker) {
            places.remove(&place);
            if places.is_empty() {
                self.by_maker.remove(&link.maker);
            }
        }
        self.bytes.subtract(link.maker, link.bytes());
        Some(link)
    }

    fn remove_of(&mut self, maker: DeviceId) -> Vec<LinkHash> {
        let hashes: Vec<LinkHash> =
            self.by_maker.get(&maker).into_iter().flatten().map(|(_, hash)| *hash).collect();
        hashes.iter().for_each(|hash| drop(self.remove(hash)));
        hashes
    }

    /// Changes what use changes.
    fn set(&mut self, hash: &LinkHash, used_ms: u64, uses_left: Option<u32>) {
        if let Some(link) = self.take(hash) {
            self.put(LinkRecord { used_ms, uses_left, ..link });
        }
    }

    fn expired(&self, wall_ms: u64) -> Vec<LinkHash> {
        self.by_end.iter().take_while(|(end, _)| *end <= wall_ms).map(|(_, hash)| *hash).collect()
    }

    pub(super) fn next_end(&self) -> Option<u64> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// Links before this place, the newest first.
    fn before(
        &self,
        maker: Option<DeviceId>,
        place: Option<LinkPlace>,
    ) -> impl Iterator<Item = &LinkRecord> {
        let places = match maker {
            Some(maker) => self.by_maker.get(&maker),
            None => Some(&self.by_age),
        };
        let end = place.unwrap_or((u64::MAX, LinkHash([0xff; 32])));
        places
            .into_iter()
            .flat_map(move |places| places.range(..end).rev())
            .filter_map(|(_, hash)| self.links.get(hash))
    }
}

/// Where the next page of a list of links begins.
fn place_of(cursor: &str) -> Option<LinkPlace> {
    let (made, hash) = cursor.split_once('.')?;
    Some((made.parse().ok()?, hash.parse().ok()?))
}

impl Authority {
    /// Makes a link, or adds files to the maker's link of that hash: a long list comes in several
    /// requests.
    pub(super) fn link_requested(
        &mut self,
        from: SessionAddress,
        request: LinkRequest,
        reference: Option<Ref>,
    ) {
        let link = match self.link_of(from.public_id, request) {
            Ok(link) => link,
            Err(FailureCode::Quota) => {
                return self.fail_full(from, self.words_when_full(from.public_id), None, reference);
            }
            Err(code) => return self.fail_device(from, code, None, reference),
        };
        let hash = link.hash;
        let listed = link.listed();
        let known = self.links.get(&hash);
        // A link asked for again is told again, and costs nothing else.
        if known != Some(&link) {
            if known.is_some() {
                *self.links.parts.entry(hash).or_default() += 1;
            }
            self.save(StoreWrite::LinkPut(link.clone()));
            self.links.put(link);
            self.archives.forget(&hash);
            self.keep_sweeping();
        }
        self.tell_link_made(LinkMade { link: listed }, ChangeOrigin::device(from, reference));
    }

    fn tell_link_made(&mut self, made: LinkMade, asker: ChangeOrigin) {
        self.broadcast(MasterToRelay::LinkMade(made), asker);
    }

    /// The link that a request makes, or what it makes of the one that is there.
    fn link_of(&self, maker: DeviceId, request: LinkRequest) -> Result<LinkRecord, FailureCode> {
        let LinkRequest { link_hash, binding, files, folder, name, valid_ms, uses } = request;
        if files.len() > MAX_FILES_A_MESSAGE || files.is_empty() == folder.is_none() {
            return Err(FailureCode::BadMessage);
        }
        if name.as_deref().is_some_and(|name| !is_file_name(name)) {
            return Err(FailureCode::BadMessage);
        }
        let is_length = valid_ms.is_none_or(|valid| (1..=MAX_LINK_VALID_MS).contains(&valid));
        if !is_length || uses.is_some_and(|uses| !(1..=MAX_LINK_USES).contains(&uses)) {
            return Err(FailureCode::BadMessage);
        }
        // An ended link may not be swept yet: until then its hash serves nobody.
        let known = self.links.get(&link_hash);
        if known.is_some_and(|link| link.maker != maker || self.wall_ms >= link.expires_ms()) {
            return Err(FailureCode::NotFound);
        }
        let linked = match (folder, known.map(|link| &link.linked)) {
            (Some(folder), None) => self.linked_folder(folder)?,
            // Asked for again.
            (Some(folder), Some(LinkTarget::Folder(known))) if *known == folder => {
                LinkTarget::Folder(folder)
            }
            (None, None) => self.linked_files(&[], files)?,
            (None, Some(LinkTarget::Files(known))) => {
                let linked = self.linked_files(known, files)?;
                let parts = self.links.parts.get(&link_hash).copied().unwrap_or_default();
                let is_longer =
                    matches!(&linked, LinkTarget::Files(files) if files.len() > known.len());
                if is_longer && parts >= MAX_LINK_PARTS {
                    return Err(FailureCode::TooLarge);
                }
                linked
            }
            (Some(_), Some(_)) | (None, Some(LinkTarget::Folder(_))) => {
                return Err(FailureCode::BadMessage);
            }
        };
        let ends_ms = valid_ms.map(|valid| self.wall_ms.saturating_add(valid));
        let link = match known {
            // A file of its own became an archive.
            Some(known) if known.is_one_file() => {
                LinkRecord { name: self.download_name(&linked, name), linked, ..known.clone() }
            }
            Some(known) => LinkRecord { linked, ..known.clone() },
            None => {
                let name = self.download_name(&linked, name);
                let made_ms = self.wall_ms;
                let used_ms = self.wall_ms;
                LinkRecord {
                    hash: link_hash,
                    binding,
                    maker,
                    name,
                    linked,
                    made_ms,
                    used_ms,
                    ends_ms,
                    uses_left: uses,
                }
            }
        };
        if link.bytes().saturating_sub(known.map_or(0, LinkRecord::bytes)) > self.room_for(maker) {
            return Err(FailureCode::Quota);
        }
        Ok(link)
    }

    fn linked_folder(&self, folder: LinkFolder) -> Result<LinkTarget, FailureCode> {
        if !folder.path.is_empty() && path::validate(&folder.path).is_err() {
            return Err(FailureCode::BadMessage);
        }
        // Its contents are found when it is read: an owner may share there later.
        if self.roster.is_approved(folder.public_id) {
            Ok(LinkTarget::Folder(folder))
        } else {
            Err(FailureCode::NotFound)
        }
    }

    fn linked_files(
        &self,
        before: &[FileRef],
        more: Vec<FileRef>,
    ) -> Result<LinkTarget, FailureCode> {
        if !more.iter().all(|file| self.catalogue.is_listed(file)) {
            return Err(FailureCode::NotFound);
        }
        // A message brings few, and many may be there: those are walked over, and not sorted.
        let mut news: BTreeSet<FileRef> = more.iter().copied().collect();
        for file in before {
            news.remove(file);
        }
        let mut files = before.to_vec();
        files.extend(more.into_iter().filter(|file| news.remove(file)));
        if files.len() > MAX_LINK_FILES {
            Err(FailureCode::BadMessage)
        } else {
            Ok(LinkTarget::Files(files))
        }
    }

    /// Names the file that a browser downloads.
    pub(super) fn download_name(&self, linked: &LinkTarget, given: Option<String>) -> String {
        let entry_of = |file: &FileRef| self.catalogue.get(file).map(|listing| &listing.entry);
        if let LinkTarget::Files(files) = linked
            && let [file] = files[..]
            && let Some(entry) = entry_of(&file).filter(|entry| entry.kind.is_file())
        {
            return path::file_name(&entry.path).to_owned();
        }
        let own = || match linked {
            LinkTarget::Folder(folder) if folder.path.is_empty() => self
                .roster
                .get(folder.public_id)
                .map(|member| crate::naming::safe_name(&member.client.name)),
            LinkTarget::Folder(folder) => Some(path::file_name(&folder.path).to_owned()),
            LinkTarget::Files(files) => {
                let top = |file: &FileRef| Some(entry_of(file)?.path.split_once('/')?.0);
                let first = files.first().and_then(top)?;
                files.iter().all(|file| top(file) == Some(first)).then(|| first.to_owned())
            }
        };
        let name = given.or_else(own).unwrap_or_else(|| "files".into());
        if name.to_lowercase().ends_with(".zip") { name } else { format!("{name}.zip") }
    }

    fn live_link(&self, hash: &LinkHash) -> Option<&LinkRecord> {
        self.links.get(hash).filter(|link| self.wall_ms < link.expires_ms())
    }

    pub(super) fn link_looked_up(&mut self, lookup: LinkLookup, reference: Option<Ref>) {
        let Some(link) = self.live_link(&lookup.link_hash) else {
            return self.fail_relay(FailureCode::NotFound, reference);
        };
        let hash = link.hash;
        let one_file = link.one_file();
        if lookup.begins && !self.take_a_use(&hash) {
            return self.fail_relay(FailureCode::LinkUsedUp, reference);
        }
        self.note_link_use(&hash);
        match one_file {
            Some(file) => self.grant_file(&hash, &file, reference),
            None => self.grant_archive(hash, reference),
        }
    }

    fn grant_file(&mut self, hash: &LinkHash, file: &FileRef, reference: Option<Ref>) {
        let Some(blank) = self.blank_grant(hash) else { return };
        let file = self.catalogue.grantable(file, self.wall_ms).cloned();
        // A link of one folder that is empty is an archive of nothing but that.
        if file.as_ref().is_some_and(|entry| !entry.kind.is_file()) {
            return self.grant_archive(*hash, reference);
        }
        self.answer_relay(MasterToRelay::LinkGrant(LinkGrant { file, ..blank }), reference);
    }

    /// A grant that says that all is gone.
    fn blank_grant(&self, hash: &LinkHash) -> Option<LinkGrant> {
        let link = self.links.get(hash)?;
        Some(LinkGrant {
            link_hash: link.hash,
            public_id: link.maker,
            binding: link.binding,
            lives_ms: link.expires_ms().saturating_sub(self.wall_ms),
            limited: link.uses_left.is_some(),
            file: None,
            archive: None,
        })
    }

    /// Counts one use down. False: there is none left.
    fn take_a_use(&mut self, hash: &LinkHash) -> bool {
        let Some(link) = self.links.get(hash) else { return false };
        let Some(left) = link.uses_left else { return true };
        let Some(left) = left.checked_sub(1) else { return false };
        self.set_link_use(*hash, Some(left));
        if let Some(link) = self.links.get(hash) {
            let made = LinkMade { link: link.listed() };
            self.tell_link_made(made, ChangeOrigin::default());
        }
        true
    }

    fn set_link_use(&mut self, hash: LinkHash, uses_left: Option<u32>) {
        let used_ms = self.wall_ms;
        self.save(StoreWrite::LinkUsed { hash, used_ms, uses_left });
        self.links.set(&hash, used_ms, uses_left);
    }

    /// Use is noted by the hour.
    fn note_link_use(&mut self, hash: &LinkHash) {
        let Some(link) = self.live_link(hash) else { return };
        let uses_left = link.uses_left;
        if self.wall_ms.saturating_sub(link.used_ms) >= LINK_USED_INTERVAL_MS {
            self.set_link_use(*hash, uses_left);
        }
    }

    pub(super) fn link_used(&mut self, used: LinkUsed) {
        self.note_link_use(&used.link_hash);
    }

    /// LINK_DROP of a device: its own links only.
    pub(super) fn link_dropped_by(
        &mut self,
        from: SessionAddress,
        drop: LinkDrop,
        reference: Option<Ref>,
    ) {
        if self.live_link(&drop.link_hash).is_none_or(|link| link.maker != from.public_id) {
            return self.fail_device(from, FailureCode::NotFound, None, reference);
        }
        self.end_link(drop.link_hash, ChangeOrigin::device(from, reference));
    }

    /// The host drops anybody's.
    pub(super) fn link_dropped_by_host(&mut self, ask: RequestToken, hash: LinkHash) {
        if self.live_link(&hash).is_none() {
            return self.refuse_ask(ask, FailureCode::NotFound);
        }
        self.end_link(hash, ChangeOrigin::operator(Some(ask)));
    }

    fn end_link(&mut self, hash: LinkHash, asker: ChangeOrigin) {
        let Some(link) = self.links.remove(&hash) else { return };
        self.archives.forget(&hash);
        self.save(StoreWrite::LinkGone(hash));
        let dropped = LinkDropped { link_hash: hash, public_id: link.maker };
        self.broadcast(MasterToRelay::LinkDropped(dropped), asker);
    }

    /// All links of a device that was turned away; the relay hears of that, and ends them by
    /// itself.
    pub(super) fn drop_links_of(&mut self, maker: DeviceId) {
        for hash in self.links.remove_of(maker) {
            self.archives.forget(&hash);
        }
    }

    pub(super) fn drop_expired_links(&mut self) {
        self.archives.forget_unused();
        for hash in self.links.expired(self.wall_ms) {
            self.end_link(hash, ChangeOrigin::default());
        }
    }

    pub(super) fn links_pulled(
        &mut self,
        from: SessionAddress,
        pull: LinksPull,
        reference: Option<Ref>,
    ) {
        match self.links_page(Some(from.public_id), &pull) {
            Ok(page) => self.answer_device(from, MasterToRelay::LinksPage(page), reference),
            Err(code) => self.fail_device(from, code, None, reference),
        }
    }

    pub(super) fn links_pulled_by_host(&mut self, ask: RequestToken, pull: &LinksPull) {
        match self.links_page(None, pull) {
            Ok(page) => self.answer(ask, MasterToConsole::LinksPage(page)),
            Err(code) => self.refuse_ask(ask, code),
        }
    }

    fn links_page(
        &self,
        maker: Option<DeviceId>,
        pull: &LinksPull,
    ) -> Result<LinksPage, FailureCode> {
        let place = match &pull.cursor {
            Some(cursor) => Some(place_of(cursor).ok_or(FailureCode::BadMessage)?),
            None => None,
        };
        let mut budget = Budget::default();
        let mut page = LinksPage { links: Vec::new(), cursor: None, last: true };
        for link in self.links.before(maker, place).filter(|link| self.wall_ms < link.expires_ms())
        {
            let listed = link.listed();
            let path = listed.folder.as_ref().map_or(0, |folder| text_cost(&folder.path));
            if !budget.takes(LISTED_COST + text_cost(&listed.name) + path) {
                page.last = false;
                page.cursor =
                    page.links.last().map(|last| format!("{}.{}", last.made_ms, last.link_hash));
                break;
            }
            page.links.push(listed);
        }
        Ok(page)
    }
}

/// One segment of a path.
fn is_file_name(name: &str) -> bool {
    path::validate(name).is_ok() && !name.contains('/') && is_valid_name(name)
}
