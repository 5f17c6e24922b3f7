//! Links: which files a `/d/` address opens, who made it, and when it was used last. Only its hash is known here.

use std::collections::{BTreeMap, BTreeSet};

use lanyard_protocol::device::is_valid_name;
use lanyard_protocol::limits::{LINK_UNUSED_MS, MAX_LINK_FILES};
use lanyard_protocol::message::{LinkDrop, LinkDropAck, LinkGrant, LinkLookup, LinkRequest, LinkUsed};
use lanyard_protocol::{Client, DeviceId, FailureCode, FileRef, LinkHash, MasterToRelay, Ref};

use super::feed::{Budget, client_cost, file_cost};
use super::quota::Ledger;
use super::{Authority, Change};

/// A link beside its name and its files: its record, its places in three indexes, and what an allocator adds.
const LINK_OVERHEAD: u64 = 384;
/// One file of a link.
const LINKED_FILE_BYTES: u64 = 32;

/// One link as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRecord {
    pub hash: LinkHash,
    pub maker: DeviceId,
    pub name: Option<String>,
    /// In the order they were asked for, none twice.
    pub files: Vec<FileRef>,
    pub used_ms: u64,
}

impl LinkRecord {
    fn expires_ms(&self) -> u64 {
        self.used_ms.saturating_add(LINK_UNUSED_MS)
    }

    /// Memory that it takes.
    fn bytes(&self) -> u64 {
        let name = self.name.as_ref().map_or(0, String::len) as u64;
        LINK_OVERHEAD + name + LINKED_FILE_BYTES * self.files.len() as u64
    }
}

#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<LinkHash, LinkRecord>,
    by_maker: BTreeMap<DeviceId, BTreeSet<LinkHash>>,
    by_use: BTreeSet<(u64, LinkHash)>,
    bytes: Ledger,
}

impl Links {
    pub fn get(&self, hash: &LinkHash) -> Option<&LinkRecord> {
        self.links.get(hash)
    }

    pub fn bytes(&self) -> &Ledger {
        &self.bytes
    }

    #[cfg(test)]
    pub fn records(&self) -> impl Iterator<Item = &LinkRecord> {
        self.links.values()
    }

    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub fn put(&mut self, link: LinkRecord) {
        self.remove(&link.hash);
        self.by_maker.entry(link.maker).or_default().insert(link.hash);
        self.by_use.insert((link.used_ms, link.hash));
        self.bytes.add(link.maker, link.bytes());
        self.links.insert(link.hash, link);
    }

    pub fn remove(&mut self, hash: &LinkHash) -> Option<LinkRecord> {
        let link = self.links.remove(hash)?;
        self.by_use.remove(&(link.used_ms, *hash));
        if let Some(hashes) = self.by_maker.get_mut(&link.maker) {
            hashes.remove(hash);
            if hashes.is_empty() {
                self.by_maker.remove(&link.maker);
            }
        }
        self.bytes.subtract(link.maker, link.bytes());
        Some(link)
    }

    pub fn remove_of(&mut self, maker: DeviceId) {
        for hash in self.by_maker.get(&maker).cloned().unwrap_or_default() {
            self.remove(&hash);
        }
    }

    fn used(&mut self, hash: &LinkHash, at_ms: u64) {
        if let Some(link) = self.remove(hash) {
            self.put(LinkRecord { used_ms: at_ms, ..link });
        }
    }

    pub fn expired(&self, wall_ms: u64) -> Vec<LinkHash> {
        let is_expired = |used: u64| used.saturating_add(LINK_UNUSED_MS) <= wall_ms;
        self.by_use.iter().take_while(|(used, _)| is_expired(*used)).map(|(_, hash)| *hash).collect()
    }
}

impl Authority {
    /// Makes a link, or adds files to the maker's link of that hash: a long order may come in several requests.
    pub(super) fn link_requested(&mut self, request: LinkRequest, reference: Option<Ref>) {
        match self.extended_link(&request) {
            Err(code) => self.fail_relay(code, reference),
            Ok(link) => {
                self.save(Change::LinkPut(link.clone()));
                self.links.put(link);
                self.keep_sweeping();
                self.grant_link(&request.link_hash, &request.files, reference);
            }
        }
    }

    fn extended_link(&self, request: &LinkRequest) -> Result<LinkRecord, FailureCode> {
        if !self.roster.is_approved(request.public_id) {
            return Err(FailureCode::NotApproved);
        }
        let bad_name = request.name.as_ref().is_some_and(|name| !is_valid_name(name));
        if request.files.is_empty() || request.files.len() > MAX_LINK_FILES || bad_name {
            return Err(FailureCode::BadMessage);
        }
        if !request.files.iter().all(|file| self.catalogue.is_listed(file)) {
            return Err(FailureCode::NotFound);
        }
        let known = self.live_link(&request.link_hash);
        if known.is_some_and(|link| link.maker != request.public_id) {
            return Err(FailureCode::NotFound);
        }
        let before = known.map_or(&[][..], |link| &link.files);
        let mut seen: BTreeSet<FileRef> = before.iter().copied().collect();
        let mut files = before.to_vec();
        files.extend(request.files.iter().copied().filter(|file| seen.insert(*file)));
        if files.len() > MAX_LINK_FILES {
            return Err(FailureCode::BadMessage);
        }
        let name = request.name.clone().or_else(|| known.and_then(|link| link.name.clone()));
        let link = LinkRecord { hash: request.link_hash, maker: request.public_id, name, files, used_ms: self.wall_ms };
        if link.bytes().saturating_sub(known.map_or(0, LinkRecord::bytes)) > self.room_for(request.public_id) {
            return Err(FailureCode::Quota);
        }
        Ok(link)
    }

    fn live_link(&self, hash: &LinkHash) -> Option<&LinkRecord> {
        self.links.get(hash).filter(|link| self.wall_ms < link.expires_ms())
    }

    pub(super) fn link_looked_up(&mut self, lookup: LinkLookup, reference: Option<Ref>) {
        let Some(link) = self.live_link(&lookup.link_hash) else {
            return self.fail_relay(FailureCode::NotFound, reference);
        };
        let files = link.files.clone();
        self.grant_link(&lookup.link_hash, &files, reference);
    }

    /// Grants what is left of `files` in as many pages as it takes.
    fn grant_link(&mut self, hash: &LinkHash, files: &[FileRef], reference: Option<Ref>) {
        let Some(link) = self.links.get(hash) else { return };
        let blank = LinkGrant {
            link_hash: *hash,
            public_id: link.maker,
            expires_ms: link.expires_ms(),
            name: link.name.clone(),
            made_of: link.files.len() as u32,
            files: Vec::new(),
            owners: Vec::new(),
            last: false,
        };
        let mut seen = BTreeSet::new();
        let mut pages = vec![blank.clone()];
        let mut budget = Budget::default();
        for entry in files.iter().filter_map(|file| self.catalogue.grantable(file, self.wall_ms)) {
            if !seen.insert(entry.file_ref()) {
                continue;
            }
            let owner = &self.roster.get(entry.public_id).expect("a file's owner is approved").client;
            // An owner is counted with each of its files: simpler than exact, and only by a little too much.
            if !budget.takes(file_cost(entry) + client_cost(owner)) {
                budget = Budget::default();
                budget.takes(file_cost(entry) + client_cost(owner));
                pages.push(blank.clone());
            }
            let page = pages.last_mut().expect("there is one from the start");
            name_owner(&mut page.owners, owner);
            page.files.push(entry.clone());
        }
        pages.last_mut().expect("there is one from the start").last = true;
        for page in pages {
            self.answer_relay(MasterToRelay::LinkGrant(page), reference.clone());
        }
    }

    pub(super) fn link_used(&mut self, used: LinkUsed) {
        if self.live_link(&used.link_hash).is_some() {
            self.save(Change::LinkUsed { hash: used.link_hash, used_ms: self.wall_ms });
            self.links.used(&used.link_hash, self.wall_ms);
        }
    }

    pub(super) fn link_dropped(&mut self, drop: LinkDrop, reference: Option<Ref>) {
        if self.live_link(&drop.link_hash).is_none_or(|link| link.maker != drop.public_id) {
            return self.fail_relay(FailureCode::NotFound, reference);
        }
        self.save(Change::LinkGone(drop.link_hash));
        self.links.remove(&drop.link_hash);
        self.answer_relay(MasterToRelay::LinkDropAck(LinkDropAck { link_hash: drop.link_hash }), reference);
    }

    pub(super) fn drop_expired_links(&mut self) {
        for hash in self.links.expired(self.wall_ms) {
            self.save(Change::LinkGone(hash));
            self.links.remove(&hash);
        }
    }
}

fn name_owner(owners: &mut Vec<Client>, owner: &Client) {
    if !owners.iter().any(|known| known.public_id == owner.public_id) {
        owners.push(owner.clone());
    }
}
