//! Archives behind links: layouts are built step by step when somebody asks for one, kept while
//! there is room, and handed out in pages. A layout that was pushed out is built anew; when it is
//! another one by then, its readers are told so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lanyard_protocol::limits::{
    MAX_LAYOUT_BYTES, MAX_LAYOUTS_A_MAKER, MAX_LINK_PAGE, MAX_LINK_PAGE_BYTES,
};
use lanyard_protocol::message::{
    LinkArchive, LinkFolder, LinkGrant, LinkMember, LinkMembers, LinkPage,
};
use lanyard_protocol::{
    DeviceId, FailureCode, FileId, FileRef, LayoutId, LinkHash, MasterToRelay, Ref,
};

use super::super::catalogue_feed::{file_cost, text_cost};
use super::super::{Authority, Timer};
use super::LinkTarget;
use crate::layout::{Builder, Layout, PlacedMember};

/// Work of one step: a few milliseconds.
const STEP: u64 = 2_000;
/// Between two steps others are heard.
const STEP_MS: u64 = 1;
/// Answers that wait for layouts; the relay has fewer look-ups, and a page for each response.
const MAX_WAITING: usize = 4_096;
const MEMBER_COST: usize = 80;

/// The state of an owner's files when a layout was made of them.
type Version = (DeviceId, u64);

#[derive(Debug)]
struct CachedLayout {
    layout: Layout,
    /// The newest is the largest.
    used: u64,
}

/// The present state of a link's archive.
#[derive(Debug)]
struct Current {
    layout: LayoutId,
    versions: Vec<Version>,
}

/// A request that waits for a layout.
#[derive(Debug)]
enum LayoutWaiter {
    Grant(Option<Ref>),
    Page(LinkPage, Option<Ref>),
}

/// Where members come from, and how far that was read.
#[derive(Debug)]
enum MemberSource {
    Files { files: Vec<FileRef>, next: usize },
    Folder { folder: LinkFolder, after: Option<FileId>, is_away: bool },
}

/// A layout that is being built.
#[derive(Debug)]
struct Build {
    hash: LinkHash,
    builder: Builder,
    source: MemberSource,
    versions: Vec<Version>,
}

#[derive(Debug, Default)]
pub(in super::super) struct Archives {
    kept: BTreeMap<LayoutId, CachedLayout>,
    bytes: usize,
    uses: u64,
    /// The last of these before the sweep at hand.
    swept: u64,
    current: BTreeMap<LinkHash, Current>,
    /// Links whose layouts are wanted, with their makers; the first of them is being built.
    queue: VecDeque<(LinkHash, DeviceId)>,
    /// Layouts that were built, and the last of each maker who waits for more.
    built: u64,
    turns: BTreeMap<DeviceId, u64>,
    waiting: BTreeMap<LinkHash, Vec<LayoutWaiter>>,
    waiting_count: usize,
    build: Option<Build>,
    /// Entries looked at and names tried, by the last input or timer.
    #[cfg(test)]
    pub work: u64,
}

impl Archives {
    /// The link is over, or another one: who waits is answered by what comes next.
    pub(crate) fn forget(&mut self, hash: &LinkHash) {
        self.current.remove(hash);
        if self.current.is_empty() {
            // Nobody has an archive to read any more.
            self.kept.clear();
            self.bytes = 0;
        }
        if self.build.as_ref().is_some_and(|build| build.hash == *hash) {
            self.build = None;
        }
    }

    /// Layouts that nobody asked for since the last time; a reader that stood still makes them
    /// anew.
    pub(crate) fn forget_unused(&mut self) {
        let kept = &mut self.kept;
        let swept = self.swept;
        kept.retain(|_, kept| kept.used > swept);
        let kept = &*kept;
        self.current.retain(|_, current| kept.contains_key(&current.layout));
        self.bytes = self.kept.values().map(|kept| kept.layout.bytes).sum();
        self.swept = self.uses;
    }

    /// Bytes of layouts and links with one.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        assert_eq!(self.bytes, self.kept.values().map(|kept| kept.layout.bytes).sum::<usize>());
        self.bytes + self.current.len()
    }

    /// Nobody waits any more.
    pub(crate) fn relay_lost(&mut self) {
        self.queue.clear();
        self.turns.clear();
        self.waiting.clear();
        self.waiting_count = 0;
        self.build = None;
    }

    fn get(&mut self, id: &LayoutId) -> Option<&Layout> {
        self.uses += 1;
        let kept = self.kept.get_mut(id)?;
        kept.used = self.uses;
        Some(&kept.layout)
    }

    fn keep(&mut self, layout: Layout) {
        self.uses += 1;
        self.bytes += layout.bytes;
        if let Some(old) = self.kept.insert(layout.id, CachedLayout { layout, used: self.uses }) {
            self.bytes -= old.layout.bytes;
        }
        // The layout just kept is the newest, and smaller than the bound.
        while self.bytes > MAX_LAYOUT_BYTES {
            // Few are kept: each is an archive that somebody reads.
            let Some(oldest) =
                self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(id, _)| *id)
            else {
                return;
            };
            if let Some(old) = self.kept.remove(&oldest) {
                self.bytes -= old.layout.bytes;
            }
        }
    }

    fn wait(&mut self, hash: LinkHash, maker: DeviceId, waiting: LayoutWaiter) {
        self.waiting_count += 1;
        if !self.waiting.contains_key(&hash) {
            self.queue.push_back((hash, maker));
        }
        self.waiting.entry(hash).or_default().push(waiting);
    }

    /// Whether this maker's archives that wait are as many as may be. Whoever is in the midst of
    /// one waits all the same.
    fn is_crowded(&self, hash: &LinkHash, maker: DeviceId, waiting: &LayoutWaiter) -> bool {
        let of_maker = || self.queue.iter().filter(|(_, other)| *other == maker).count();
        match waiting {
            LayoutWaiter::Grant(_) => {
                !self.waiting.contains_key(hash) && of_maker() >= MAX_LAYOUTS_A_MAKER
            }
            LayoutWaiter::Page(..) => false,
        }
    }

    /// The layout at hand is done: the next is of the maker whose turn was longest ago.
    fn end_turn(&mut self) {
        let Some((_, maker)) = self.queue.pop_front() else { return };
        self.built += 1;
        self.turns.insert(maker, self.built);
        let waiting: BTreeSet<DeviceId> = self.queue.iter().map(|(_, maker)| *maker).collect();
        self.turns.retain(|maker, _| waiting.contains(maker));
        let turn =
            |(_, maker): &(LinkHash, DeviceId)| self.turns.get(maker).copied().unwrap_or_default();
        let next = self.queue.iter().enumerate().min_by_key(|(_, one)| turn(one)).map(|(at, _)| at);
        if let Some(next) = next.and_then(|at| self.queue.remove(at)) {
            self.queue.push_front(next);
        }
    }
}

impl Authority {
    pub(in super::super) fn grant_archive(&mut self, hash: LinkHash, reference: Option<Ref>) {
        match self.current_layout(&hash) {
            Some(id) => self.grant_layout(&hash, id, reference),
            None => self.want_layout(hash, LayoutWaiter::Grant(reference)),
        }
    }

    /// The layout of this link, if it is known and nothing changed since.
    fn current_layout(&mut self, hash: &LinkHash) -> Option<LayoutId> {
        let current = self.archives.current.get(hash)?;
        let is_same =
            current.versions.iter().all(|(owner, version)| self.version_of(*owner) == *version);
        let id = current.layout;
        (is_same && self.archives.get(&id).is_some()).then_some(id)
    }

    /// Changes with everything that an archive of this owner's files depends on.
    fn version_of(&self, owner: DeviceId) -> u64 {
        self.catalogue.version(owner) * 2 + u64::from(self.online.contains_key(&owner))
    }

    fn want_layout(&mut self, hash: LinkHash, waiting: LayoutWaiter) {
        let (LayoutWaiter::Grant(reference) | LayoutWaiter::Page(_, reference)) = &waiting;
        let Some(maker) = self.links.get(&hash).map(|link| link.maker) else {
            return self.fail_relay(FailureCode::NotFound, reference.clone());
        };
        if self.archives.waiting_count >= MAX_WAITING
            || self.archives.is_crowded(&hash, maker, &waiting)
        {
            return self.fail_relay(FailureCode::Busy, reference.clone());
        }
        self.archives.wait(hash, maker, waiting);
        if self.deadlines.get(&Timer::Layout).is_none() {
            self.build_some();
        }
    }

    /// One step of the layout that is being built, or of the next.
    pub(in super::super) fn build_some(&mut self) {
        self.deadlines.clear(&Timer::Layout);
        let Some((hash, _)) = self.archives.queue.front().copied() else { return };
        let build = self.archives.build.take().or_else(|| self.begin_build(hash));
        let Some(mut build) = build else {
            self.end_build(hash, Err(FailureCode::NotFound));
            return self.build_more();
        };
        match self.step(&mut build) {
            Ok(false) => self.archives.build = Some(build),
            Ok(true) => {
                let Build { builder, versions, .. } = build;
                let layout = builder.finish();
                let id = layout.id;
                self.archives.keep(layout);
                self.archives.current.insert(hash, Current { layout: id, versions });
                self.end_build(hash, Ok(id));
            }
            Err(code) => self.end_build(hash, Err(code)),
        }
        self.build_more();
    }

    fn build_more(&mut self) {
        if !self.archives.queue.is_empty() {
            self.deadlines.set(Timer::Layout, self.now.plus(STEP_MS));
        }
    }

    fn begin_build(&self, hash: LinkHash) -> Option<Build> {
        let link = self.live_link(&hash)?;
        let mut builder = Builder::default();
        let mut versions = Vec::new();
        let source = match &link.linked {
            LinkTarget::Files(files) => {
                let mut owners: Vec<DeviceId> = files.iter().map(|file| file.public_id).collect();
                owners.sort_unstable();
                owners.dedup();
                for owner in owners {
                    versions.push((owner, self.version_of(owner)));
                    if let Some(member) = self.roster.get(owner) {
                        builder.owner(owner, &member.client.name);
                    }
                }
                MemberSource::Files { files: files.clone(), next: 0 }
            }
            LinkTarget::Folder(folder) => {
                versions.push((folder.public_id, self.version_of(folder.public_id)));
                let is_away = !self.online.contains_key(&folder.public_id);
                MemberSource::Folder { folder: folder.clone(), after: None, is_away }
            }
        };
        Some(Build { hash, builder, source, versions })
    }

    /// True once everything is added and named.
    fn step(&mut self, build: &mut Build) -> Result<bool, FailureCode> {
        let before = build.builder.work();
        let mut looked_at = 0;
        let added = loop {
            if looked_at == STEP {
                break false;
            }
            looked_at += 1;
            match self.add_next(build)? {
                true => {}
                false => break true,
            }
        };
        let done = added && build.builder.name_some(STEP - looked_at.min(STEP - 1));
        let work = build.builder.work() - before + looked_at;
        tracing::trace!(work, done, "a step of a layout");
        #[cfg(test)]
        {
            self.archives.work = work;
        }
        Ok(done)
    }

    /// Adds the next file of the source. False: there is none.
    fn add_next(&self, build: &mut Build) -> Result<bool, FailureCode> {
        let entry = match &mut build.source {
            MemberSource::Files { files, next } => {
                let Some(file) = files.get(*next) else { return Ok(false) };
                *next += 1;
                let entry = self.catalogue.grantable(file, self.wall_ms);
                // A file that the link names is gone.
                Some(entry.ok_or(FailureCode::FileGone)?)
            }
            MemberSource::Folder { folder, after, is_away } => {
                let Some(listing) = self.catalogue.next_of(folder.public_id, *after) else {
                    return Ok(false);
                };
                let file = listing.entry.file_ref();
                *after = Some(file.file_id);
                // A file withdrawn by an owner that is here is an older version, or no longer meant
                // to be read.
                let counts = if *is_away {
                    self.catalogue.grantable(&file, self.wall_ms).is_some()
                } else {
                    listing.withdrawn_ms.is_none()
                };
                (counts && lies_in(&listing.entry.path, &folder.path)).then_some(&listing.entry)
            }
        };
        if let Some(entry) = entry {
            build.builder.add(entry).map_err(|_| FailureCode::TooLarge)?;
        }
        Ok(true)
    }

    /// Answers all who waited for this link's layout.
    fn end_build(&mut self, hash: LinkHash, result: Result<LayoutId, FailureCode>) {
        self.archives.end_turn();
        let waiting = self.archives.waiting.remove(&hash).unwrap_or_default();
        self.archives.waiting_count -= waiting.len();
        for one in waiting {
            match (one, result) {
                (LayoutWaiter::Grant(reference), Ok(id)) => self.grant_layout(&hash, id, reference),
                (LayoutWaiter::Grant(reference), Err(FailureCode::FileGone)) => {
                    self.grant_nothing(&hash, reference)
                }
                (LayoutWaiter::Page(page, reference), Ok(id)) if id == page.layout => {
                    self.give_page(&page, reference)
                }
                (LayoutWaiter::Page(_, reference), Ok(_)) => {
                    self.fail_relay(FailureCode::StaleRequest, reference)
                }
                (LayoutWaiter::Grant(reference) | LayoutWaiter::Page(_, reference), Err(code)) => {
                    self.fail_relay(code, reference);
                }
            }
        }
    }

    fn grant_nothing(&mut self, hash: &LinkHash, reference: Option<Ref>) {
        match self.blank_grant(hash) {
            Some(blank) => self.answer_relay(MasterToRelay::LinkGrant(blank), reference),
            None => self.fail_relay(FailureCode::NotFound, reference),
        }
    }

    fn grant_layout(&mut self, hash: &LinkHash, id: LayoutId, reference: Option<Ref>) {
        let name = self.links.get(hash).map(|link| link.name.clone());
        let layout =
            self.archives.get(&id).map(|layout| (layout.members.len() as u32, layout.length));
        let (Some(blank), Some(name), Some((members, length))) =
            (self.blank_grant(hash), name, layout)
        else {
            return self.fail_relay(FailureCode::NotFound, reference);
        };
        // A folder in which nothing is shared is gone.
        let archive = (members > 0).then_some(LinkArchive { layout: id, name, members, length });
        self.answer_relay(MasterToRelay::LinkGrant(LinkGrant { archive, ..blank }), reference);
    }

    /// LINK_PAGE.
    pub(in super::super) fn link_page_asked(&mut self, page: LinkPage, reference: Option<Ref>) {
        if self.live_link(&page.link_hash).is_none() {
            return self.fail_relay(FailureCode::NotFound, reference);
        }
        if self.archives.get(&page.layout).is_some() {
            return self.give_page(&page, reference);
        }
        self.want_layout(page.link_hash, LayoutWaiter::Page(page, reference));
    }

    fn give_page(&mut self, page: &LinkPage, reference: Option<Ref>) {
        let Some(layout) = self.archives.get(&page.layout) else {
            return self.fail_relay(FailureCode::StaleRequest, reference);
        };
        let first = page.first as usize;
        let rest = layout.members.get(first..).unwrap_or_default();
        let placed: Vec<PlacedMember> = rest.iter().take(MAX_LINK_PAGE).cloned().collect();
        let mut members = Vec::new();
        let mut bytes = 0;
        for placed in placed {
            let file = if page.bare {
                None
            } else {
                self.catalogue.grantable(&placed.file, self.wall_ms).cloned()
            };
            bytes += MEMBER_COST + text_cost(&placed.name) + file.as_ref().map_or(0, file_cost);
            if bytes > MAX_LINK_PAGE_BYTES && !members.is_empty() {
                break;
            }
            let PlacedMember { name, size, modified_ms, kind, .. } = placed;
            members.push(LinkMember { name, size, modified_ms, kind, file });
        }
        if members.is_empty() {
            return self.fail_relay(FailureCode::BadMessage, reference);
        }
        self.answer_relay(MasterToRelay::LinkMembers(LinkMembers { members }), reference);
    }
}

/// Whether a path is in a folder, or is it.
fn lies_in(path: &str, folder: &str) -> bool {
    let below =
        || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    folder.is_empty() || below()
}
