//! One transfer's hands: the sinks of its files, or one reader that takes the bytes in order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use lanyard_hub::peer::{GroupSet, TransferOrder, WantedFile};
use lanyard_protocol::group::{GroupHash, Groups};
use lanyard_protocol::{DeviceId, EntryKind, FileEntry, FileId, GroupRange, Root, TransferId};
use lanyard_system::confined_fs::Folder;
use tokio::sync::watch;

use crate::download::bytes_thread::BytesThread;
use crate::download::content_index::{self, ContentIndex, IndexedContent};
use crate::download::file_names::NameAllocator;
use crate::download::file_sink::{FileSink, FinishError, FinishedFile, OpenPart};
use crate::error::DeviceError;

/// How far ahead of a reader in order groups are fetched: this much waits in memory at most.
const LOOKAHEAD_BYTES: u64 = 6 << 20;

/// A file to fetch, and the path it shall have below the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedDownload {
    pub entry: FileEntry,
    /// `/`-separated; made safe for this disk before it is used.
    pub as_path: String,
}

/// A file that was there already, or is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedFile {
    pub owner: DeviceId,
    pub file_id: FileId,
    /// As listed.
    pub path: String,
    /// Where it lies; nothing when its bytes went to a reader.
    pub saved_as: Option<PathBuf>,
    pub size: u64,
    pub root: Option<Root>,
    /// It was copied from another file on this machine.
    pub copied: bool,
}

/// Where the files of a transfer go.
pub(crate) enum Destination {
    Files { root: Folder, sinks: HashMap<FileId, FileSink> },
    Reader(Ordered),
}

/// When a transfer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DownloadStage {
    Now,
    /// Its files seem to lie on this machine: they are copied first.
    Copy,
    /// Its files are the same as others of this plan: they are copied once those are here.
    Later,
}

/// The hands of one transfer.
pub(crate) struct DownloadTask {
    pub owner: DeviceId,
    pub destination: Destination,
    /// Bytes of all its files, and those that are here.
    pub total: u64,
    pub received: AtomicU64,
    /// Started with the first byte.
    bytes: OnceLock<BytesThread>,
    pub files: usize,
    pub stage: DownloadStage,
    /// What happens to its bytes is logged in here.
    pub span: tracing::Span,
}

/// What a plan comes to: a transfer for each owner, and what needs none.
pub(crate) struct DownloadPlan {
    pub downloads: Vec<(TransferOrder, DownloadTask)>,
    pub already: Vec<SavedFile>,
    pub total: u64,
}

/// A random transfer id.
pub(crate) fn new_transfer_id() -> io::Result<TransferId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    Ok(TransferId(uuid::Builder::from_random_bytes(bytes).into_uuid()))
}

impl DownloadPlan {
    /// Finds a place for each file below `target`, and what of it is there from an earlier run.
    /// Blocks.
    pub(crate) fn below(target: &Path, wanted: Vec<WantedDownload>) -> io::Result<Self> {
        Self::with_copies(target, wanted, None)
    }

    /// The same; files whose roots are `here` already, and of several with one root all but the
    /// first, are to be copied.
    pub(crate) fn with_copies(
        target: &Path,
        mut wanted: Vec<WantedDownload>,
        here: Option<&HashSet<Root>>,
    ) -> io::Result<Self> {
        let mut stages = Stages { here, seen: HashSet::new() };
        let root = Folder::open_root(target)?;
        let mut names = NameAllocator::default();
        wanted.sort_by(|a, b| {
            (&a.as_path, a.entry.file_ref()).cmp(&(&b.as_path, b.entry.file_ref()))
        });
        let mut by_owner: BTreeMap<(DownloadStage, DeviceId), Sinks> = BTreeMap::new();
        let (mut already, mut total, last) = (Vec::new(), 0, Arc::default());
        for WantedDownload { entry, as_path } in wanted {
            total += entry.size;
            if entry.kind == EntryKind::Folder {
                already.push(make_folder(&root, names.place_folder(&as_path), entry)?);
                continue;
            }
            let sink = FileSink::new(entry, names.place(&as_path)).beside(&last);
            match sink.is_there(&root)? {
                Some(path) => already.push(saved(sink.entry(), Some(path), sink.entry().root)),
                None => {
                    let file = wanted_file(sink.entry(), sink.load(&root)?);
                    let (files, sinks) = by_owner
                        .entry((stages.of(sink.entry()), sink.entry().public_id))
                        .or_default();
                    files.push(file);
                    sinks.insert(sink.entry().file_id, sink);
                }
            }
        }
        check_room(&root, by_owner.values().flat_map(|(files, _)| files))?;
        let mut downloads = Vec::new();
        for ((stage, owner), (files, sinks)) in by_owner {
            let destination = Destination::Files { root: root.another()?, sinks };
            let (order, download) = DownloadTask::new(owner, files, destination, None)?;
            downloads.push((order, DownloadTask { stage, ..download }));
        }
        Ok(Self { downloads, already, total })
    }

    /// One file for a reader that takes its bytes in order.
    pub(crate) fn in_order(
        entry: FileEntry,
        output: SyncSender<(u32, Vec<Bytes>)>,
    ) -> io::Result<Self> {
        let (owner, total) = (entry.public_id, entry.size);
        let file = wanted_file(&entry, GroupSet::default());
        let reader = Destination::Reader(Ordered::new(entry, output));
        let download = DownloadTask::new(owner, vec![file], reader, Some(LOOKAHEAD_BYTES))?;
        Ok(Self { downloads: vec![download], already: Vec::new(), total })
    }
}

/// Files of one transfer, and where they go.
type Sinks = (Vec<WantedFile>, HashMap<FileId, FileSink>);

/// Which files of a plan are worth copying.
struct Stages<'a> {
    here: Option<&'a HashSet<Root>>,
    /// On their way in this plan.
    seen: HashSet<Root>,
}

impl Stages<'_> {
    fn of(&mut self, entry: &FileEntry) -> DownloadStage {
        let (Some(here), Some(root)) = (self.here, content_index::root_worth(entry)) else {
            return DownloadStage::Now;
        };
        match (here.contains(&root), self.seen.insert(root)) {
            (true, _) => DownloadStage::Copy,
            (false, true) => DownloadStage::Now,
            (false, false) => DownloadStage::Later,
        }
    }
}

/// Better said before the first byte than after the last that fits.
fn check_room<'a>(root: &Folder, files: impl Iterator<Item = &'a WantedFile>) -> io::Result<()> {
    let needed: u64 = files.map(|file| file.size - have_bytes(file)).sum();
    match root.room() {
        Some(room) if room < needed => {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let why = format!(
                "there is no room left on this disk: {:.1} MiB are to come, and {:.1} MiB are free; nothing was fetched",
                mib(needed),
                mib(room)
            );
            Err(io::Error::new(io::ErrorKind::StorageFull, why))
        }
        _ => Ok(()),
    }
}

/// Bytes of it that are here from an earlier run.
fn have_bytes(file: &WantedFile) -> u64 {
    let groups = Groups::new(file.size, file.group_log);
    file.have.runs().map(|run| groups.span(run.first, run.count)).sum()
}

fn wanted_file(entry: &FileEntry, have: GroupSet) -> WantedFile {
    WantedFile {
        file_id: entry.file_id,
        size: entry.size,
        group_log: entry.group_log,
        root: entry.root,
        have,
    }
}

fn saved(entry: &FileEntry, saved_as: Option<PathBuf>, root: Option<Root>) -> SavedFile {
    let path = entry.path.clone();
    SavedFile {
        owner: entry.public_id,
        file_id: entry.file_id,
        path,
        saved_as,
        size: entry.size,
        root,
        copied: false,
    }
}

fn make_folder(root: &Folder, place: Vec<String>, entry: FileEntry) -> io::Result<SavedFile> {
    let mut folder: Option<Folder> = None;
    for name in &place {
        folder = Some(folder.as_ref().unwrap_or(root).enter(name)?);
    }
    let path = folder.as_ref().unwrap_or(root).path().to_path_buf();
    Ok(saved(&entry, Some(path), None))
}

impl DownloadTask {
    fn new(
        owner: DeviceId,
        files: Vec<WantedFile>,
        destination: Destination,
        lookahead_bytes: Option<u64>,
    ) -> io::Result<(TransferOrder, Self)> {
        let transfer_id = new_transfer_id()?;
        let received = AtomicU64::new(files.iter().map(have_bytes).sum());
        let total = files.iter().map(|file| file.size).sum();
        let (count, bytes) = (files.len(), OnceLock::new());
        let span = tracing::debug_span!("transfer", id = %transfer_id.0, %owner);
        let download = Self {
            owner,
            destination,
            total,
            received,
            bytes,
            files: count,
            stage: DownloadStage::Now,
            span,
        };
        Ok((TransferOrder { transfer_id, owner, files, lookahead_bytes }, download))
    }

    /// Where its bytes are received and written.
    pub(crate) fn bytes_thread(&self) -> Result<&BytesThread, DeviceError> {
        if let Some(thread) = self.bytes.get() {
            return Ok(thread);
        }
        let thread = BytesThread::start()?;
        Ok(self.bytes.get_or_init(|| thread))
    }

    /// The groups of one of its files.
    pub(crate) fn groups_of(&self, file_id: FileId) -> Option<Groups> {
        match &self.destination {
            Destination::Files { sinks, .. } => sinks.get(&file_id).map(FileSink::groups),
            Destination::Reader(ordered) if ordered.entry.file_id == file_id => {
                Some(ordered.groups)
            }
            Destination::Reader(_) => None,
        }
    }

    /// Opens a file for the groups that come.
    pub(crate) fn open(&self, file_id: FileId) -> io::Result<Option<Arc<OpenPart>>> {
        match &self.destination {
            Destination::Files { root, sinks } => match sinks.get(&file_id) {
                Some(sink) => sink.open(root).map(Some),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Destination::Reader(_) => Ok(None),
        }
    }

    /// Checks and names a file whose groups are all here. Blocks; for a reader, until it took all.
    pub(crate) fn finish(
        &self,
        file_id: FileId,
        root: Option<Root>,
    ) -> Result<SavedFile, FinishError> {
        match &self.destination {
            Destination::Files { root: folder, sinks } => {
                let sink = sinks.get(&file_id).ok_or(io::Error::from(io::ErrorKind::NotFound))?;
                let FinishedFile { path, root, copied } = sink.finish(folder, root)?;
                Ok(SavedFile { copied, ..saved(sink.entry(), Some(path), Some(root)) })
            }
            Destination::Reader(ordered) => {
                let root = ordered.finish(root)?;
                Ok(saved(&ordered.entry, None, Some(root)))
            }
        }
    }

    /// Fills its files from others on this machine, and notes in `order` what is here then. What
    /// cannot be had so is fetched. Blocks.
    pub(crate) fn copy(&self, order: &mut TransferOrder, index: &ContentIndex, stop: &AtomicBool) {
        let Destination::Files { root: folder, sinks } = &self.destination else { return };
        let found = index.find(&order.files.iter().filter_map(|file| file.root).collect());
        for file in &mut order.files {
            let (Some(sink), Some(root)) = (sinks.get(&file.file_id), file.root) else { continue };
            let sources = found.get(&root).into_iter().flatten().filter_map(IndexedContent::open);
            for source in sources.take_while(|_| !stop.load(Ordering::Relaxed)) {
                match sink.fill(folder, &source, &self.received, stop) {
                    Ok(true) => {
                        file.have = GroupSet::full(sink.groups().count());
                        break;
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a file could not be copied; it is fetched")
                    }
                }
            }
        }
    }

    /// Whether naming a file costs no more than that: nothing is synced.
    pub(crate) fn is_quick_to_finish(&self, file_id: FileId) -> bool {
        match &self.destination {
            Destination::Files { sinks, .. } => sinks.get(&file_id).is_some_and(FileSink::is_small),
            Destination::Reader(_) => false,
        }
    }

    /// Nothing of a file is good.
    pub(crate) fn discard(&self, file_id: FileId) -> io::Result<()> {
        let Destination::Files { sinks, .. } = &self.destination else { return Ok(()) };
        let Some(sink) = sinks.get(&file_id) else { return Ok(()) };
        self.received.fetch_sub(
            sink.entry().size.min(self.received.load(Ordering::Relaxed)),
            Ordering::Relaxed,
        );
        sink.discard()
    }

    /// What of a file differs from the list of its values.
    pub(crate) fn compare(
        &self,
        file_id: FileId,
        list: &[u8],
    ) -> io::Result<Option<Vec<GroupRange>>> {
        let Destination::Files { sinks, .. } = &self.destination else { return Ok(None) };
        let Some(sink) = sinks.get(&file_id) else { return Ok(None) };
        let wrong = sink.compare(list)?;
        let bytes =
            wrong.iter().flatten().map(|range| sink.groups().span(range.first, range.count)).sum();
        self.received.fetch_sub(bytes, Ordering::Relaxed);
        Ok(wrong)
    }

    /// Notes what is good for a later run, and makes what is finished survive a power cut. Blocks.
    pub(crate) fn put_aside(&self) -> io::Result<()> {
        let Destination::Files { root, sinks } = &self.destination else { return Ok(()) };
        for sink in sinks.values() {
            sink.put_aside()?;
        }
        root.sync_all()
    }
}

/// Groups come in any order and go out in theirs.
pub(crate) struct Ordered {
    entry: FileEntry,
    groups: Groups,
    state: Mutex<OrderedState>,
    /// Towards the reader; bounded by how far ahead is asked.
    output: SyncSender<(u32, Vec<Bytes>)>,
}

#[derive(Default)]
struct OrderedState {
    values: Vec<Option<GroupHash>>,
    /// Groups behind a gap.
    waiting: BTreeMap<u32, Vec<Bytes>>,
    /// The next group to go out.
    next: u32,
}

impl Ordered {
    fn new(entry: FileEntry, output: SyncSender<(u32, Vec<Bytes>)>) -> Self {
        let groups = Groups::new(entry.size, entry.group_log);
        let values = vec![None; groups.count() as usize];
        Self {
            entry,
            groups,
            state: Mutex::new(OrderedState { values, ..OrderedState::default() }),
            output,
        }
    }

    fn state(&self) -> MutexGuard<'_, OrderedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole group. Blocks while the reader is behind. `false`: it was there before.
    pub(crate) fn push(&self, group: u32, value: GroupHash, bytes: Vec<Bytes>) -> io::Result<bool> {
        let mut state = self.state();
        if state.values[group as usize].replace(value).is_some() {
            return Ok(false);
        }
        state.waiting.insert(group, bytes);
        while let Some((group, bytes)) =
            state.waiting.first_key_value().map(|(group, _)| *group).and_then(|first| {
                if first == state.next { state.waiting.pop_first() } else { None }
            })
        {
            state.next = group + 1;
            self.output
                .send((group, bytes))
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(true)
    }

    fn finish(&self, listed: Option<Root>) -> Result<Root, FinishError> {
        let values: Option<Vec<GroupHash>> = self.state().values.iter().copied().collect();
        let root =
            values.and_then(|values| self.groups.root(&values)).ok_or(FinishError::Mismatch)?;
        if listed.is_some_and(|listed| listed != root) {
            let why = "the bytes that went out are not those that are listed";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why).into());
        }
        Ok(root)
    }
}

/// Writes groups as they come; tells how many are written. Blocks; ends when the sender is gone or
/// the writer fails.
pub(crate) fn write_in_order(
    mut writer: impl Write,
    groups: Receiver<(u32, Vec<Bytes>)>,
    written: &watch::Sender<u32>,
) -> io::Result<()> {
    while let Ok((group, parts)) = groups.recv() {
        for part in parts {
            writer.write_all(&part)?;
        }
        writer.flush()?;
        written.send_replace(group + 1);
    }
    writer.flush()
}
