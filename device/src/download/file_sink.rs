//! Where one fetched file lands: an unfinished file beside its final name, a table of which groups
//! are good, and at the end a name of its own.
//!
//! The table (`NAME.….lanyard-have`) has one record a group: its value and a check. A record that
//! was torn by a power cut is no record, so data is synced first, then records are written, and
//! nothing else is needed. A sync for each group would be dear; until the next one a record's check
//! is made for this run of the system only: a killed program loses nothing, and a power cut makes
//! no record good whose data it took. Files up to 1 MiB have no table: they are written, closed,
//! and named when whole.

mod last_folder;
mod local_copy;
mod stored_hashes;

use std::fs::{File, FileTimes};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use lanyard_hub::peer::GroupSet;
use lanyard_protocol::group::{GroupHash, Groups};
use lanyard_protocol::{FileEntry, GroupRange, Root};
use lanyard_system::confined_fs::{Folder, lock};

use crate::download::file_names::{HAVE_SUFFIX, PART_SUFFIX, numbered};
pub(crate) use last_folder::LastFolder;
use stored_hashes::StoredHashes;

/// Files up to this are not resumed in the middle.
const SMALL_BYTES: u64 = 1 << 20;
/// Groups are noted in the table when this much is new, or this long after the last time: a sync is
/// not free.
const SAVE_AFTER_BYTES: u64 = 64 << 20;
const SAVE_INTERVAL: Duration = Duration::from_secs(2);

/// How long another program is waited for that works on the same file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

const MAGIC: &[u8; 16] = b"lanyard have 1\n\0";
const HEADER_BYTES: usize = 16 + 32;
const RECORD_BYTES: usize = 32 + 8;

/// The outcome of a whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FinishedFile {
    /// Its name, which may have a number where another file was in the way.
    pub path: PathBuf,
    pub root: Root,
    /// It came from another file on this machine.
    pub copied: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FinishError {
    #[error("the bytes are not those that are listed")]
    Mismatch,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One file on its way to this disk.
#[derive(Debug)]
pub(crate) struct FileSink {
    entry: FileEntry,
    groups: Groups,
    /// Names of folders, then of the file, below the root.
    place: Vec<String>,
    last: Arc<LastFolder>,
    /// Of this version of this file: what the table is about.
    key: [u8; 32],
    state: Mutex<SinkState>,
}

#[derive(Debug)]
struct SinkState {
    values: StoredHashes,
    /// Good groups that the table does not know.
    unsaved: Vec<u32>,
    saved_at: Option<Instant>,
    open: Option<Arc<OpenPart>>,
    /// The same while anybody writes, also of a small file.
    lent: Weak<OpenPart>,
    /// The missing groups came from another file on this machine.
    copied: bool,
}

/// The unfinished file and its table, open.
#[derive(Debug)]
pub(crate) struct OpenPart {
    folder: Arc<Folder>,
    part: File,
    table: Option<File>,
    /// The worth of unsynced records.
    life: Option<[u8; 32]>,
}

fn key_of(entry: &FileEntry) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(entry.public_id.0.as_bytes()).update(entry.file_id.0.as_bytes());
    hasher
        .update(&entry.size.to_le_bytes())
        .update(&entry.modified_ms.to_le_bytes())
        .update(&[entry.group_log]);
    *hasher.finalize().as_bytes()
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}

/// A program that was killed holds its lock until the system has cleared up behind it.
fn lock_soon(part: &File) -> io::Result<bool> {
    let start = Instant::now();
    while !lock(part)? {
        if start.elapsed() >= LOCK_TIMEOUT {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(true)
}

impl OpenPart {
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(&self.part, bytes, offset)
    }
}

impl FileSink {
    /// A sink for `entry` at `place` (names from
    /// [`NameAllocator`](crate::download::file_names::NameAllocator)) below some root.
    pub(crate) fn new(entry: FileEntry, place: Vec<String>) -> Self {
        let groups = Groups::new(entry.size, entry.group_log);
        let values = StoredHashes::new(groups.count());
        let (unsaved, saved_at, open, lent) = Default::default();
        let state = Mutex::new(SinkState { values, unsaved, saved_at, open, lent, copied: false });
        Self { key: key_of(&entry), groups, entry, place, last: Arc::default(), state }
    }

    /// Together with others of one transfer.
    pub(crate) fn beside(self, last: &Arc<LastFolder>) -> Self {
        Self { last: last.clone(), ..self }
    }

    pub(crate) fn entry(&self) -> &FileEntry {
        &self.entry
    }

    pub(crate) fn groups(&self) -> Groups {
        self.groups
    }

    fn state(&self) -> MutexGuard<'_, SinkState> {
        // Each change of the state is whole before the lock goes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> &str {
        self.place.last().map_or("file", String::as_str)
    }

    /// Two versions, or two files that want the same name, have unfinished files of their own.
    fn part_name(&self, suffix: &str) -> String {
        format!(
            "{}.{:08x}{suffix}",
            self.name(),
            u32::from_be_bytes([self.key[0], self.key[1], self.key[2], self.key[3]])
        )
    }

    pub(crate) fn is_small(&self) -> bool {
        self.entry.size <= SMALL_BYTES
    }

    fn folder(&self, root: &Folder) -> io::Result<Option<Folder>> {
        let mut folder: Option<Folder> = None;
        for name in &self.place[..self.place.len().saturating_sub(1)] {
            match folder.as_ref().unwrap_or(root).existing(name)? {
                Some(next) => folder = Some(next),
                None => return Ok(None),
            }
        }
        match folder {
            Some(folder) => Ok(Some(folder)),
            None => Ok(Some(root.another()?)),
        }
    }

    fn make_folder(&self, root: &Folder) -> io::Result<Arc<Folder>> {
        self.last.make(root, &self.place[..self.place.len().saturating_sub(1)])
    }

    // ── What is there already
    // ───────────────────────────────────────────────────────────────────────────────────────

    /// Whether this very version lies there under its final name: same size, same time, and the
    /// same root if it is known.
    pub(crate) fn is_there(&self, root: &Folder) -> io::Result<Option<PathBuf>> {
        let Some(folder) = self.folder(root)? else { return Ok(None) };
        let same = folder.look(self.name())?.is_some_and(|found| {
            let modified =
                found.modified.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            let same_time =
                modified.is_some_and(|at| at.as_millis() as u64 == self.entry.modified_ms);
            found.is_file() && found.size == self.entry.size && same_time
        });
        if !same || !self.has_root(&folder)? {
            return Ok(None);
        }
        Ok(Some(folder.path().join(self.name())))
    }

    fn has_root(&self, folder: &Folder) -> io::Result<bool> {
        let Some(root) = self.entry.root else { return Ok(true) };
        let Some(file) = folder.read_file(self.name())? else { return Ok(false) };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        Ok(hasher.finalize().as_bytes() == &root.0)
    }

    /// Groups that an earlier run stored and noted.
    pub(crate) fn load(&self, root: &Folder) -> io::Result<GroupSet> {
        let mut have = GroupSet::default();
        if self.is_small() {
            return Ok(have);
        }
        let Some(folder) = self.folder(root)? else { return Ok(have) };
        let whole = folder
            .look(&self.part_name(PART_SUFFIX))?
            .is_some_and(|part| part.size == self.entry.size);
        let Some(table) = folder.read_file(&self.part_name(HAVE_SUFFIX))?.filter(|_| whole) else {
            return Ok(have);
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(table, self.table_bytes()), &mut bytes)?;
        self.load_table(&bytes, folder.life(), &mut have);
        Ok(have)
    }

    /// Takes from the bytes of a table what is good in them.
    pub(crate) fn load_table(&self, bytes: &[u8], life: Option<[u8; 32]>, have: &mut GroupSet) {
        let Some(records) = bytes.strip_prefix(&self.header()[..]) else { return };
        let mut state = self.state();
        for (index, record) in records.chunks_exact(RECORD_BYTES).enumerate() {
            let synced = self.read_record(index as u32, record, None);
            let unsynced =
                || life.and_then(|life| self.read_record(index as u32, record, Some(&life)));
            if let Some(value) = synced.or_else(unsynced) {
                if synced.is_none() {
                    state.unsaved.push(index as u32);
                }
                state.values.set(index as u32, Some(value));
                have.insert(GroupRange::new(index as u32, 1));
            }
        }
    }

    pub(crate) fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..16].copy_from_slice(MAGIC);
        header[16..].copy_from_slice(&self.key);
        header
    }

    fn table_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.groups.count()) * RECORD_BYTES as u64
    }

    /// A record; with `life`, one that is good only as long as that lasts.
    fn record(&self, index: u32, value: &GroupHash, life: Option<&[u8; 32]>) -> [u8; RECORD_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher
            .update(&index.to_le_bytes())
            .update(&value.0)
            .update(life.map_or(&[], |life| &life[..]));
        let mut record = [0; RECORD_BYTES];
        record[..32].copy_from_slice(&value.0);
        record[32..].copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        record
    }

    fn read_record(&self, index: u32, record: &[u8], life: Option<&[u8; 32]>) -> Option<GroupHash> {
        let value = GroupHash(record[..32].try_into().ok()?);
        (index < self.groups.count() && self.record(index, &value, life) == record).then_some(value)
    }

    fn place_of_record(index: u32) -> u64 {
        HEADER_BYTES as u64 + u64::from(index) * RECORD_BYTES as u64
    }

    // ── Writing
    // ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The unfinished file, open; a large one stays open until it is finished.
    pub(crate) fn open(&self, root: &Folder) -> io::Result<Arc<OpenPart>> {
        let mut state = self.state();
        // Two bodies may bring parts of one file at once: the second must not wait for the lock of
        // the first.
        if let Some(open) = state.open.clone().or_else(|| state.lent.upgrade()) {
            return Ok(open);
        }
        let part_name = self.part_name(PART_SUFFIX);
        let mut folder = self.make_folder(root)?;
        let part = match folder.open_file(&part_name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.last.forget();
                folder = self.make_folder(root)?;
                folder.open_file(&part_name)?
            }
            opened => opened?,
        };
        // Who held the lock before may have finished: then this is no longer the unfinished file,
        // but the finished one.
        if !lock_soon(&part)? || !folder.is_named(&part, &part_name)? {
            let why = format!(
                "{} is being fetched by another program",
                folder.path().join(self.name()).display()
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        if part.metadata()?.len() != self.entry.size {
            part.set_len(self.entry.size)?;
        }
        let table = if self.is_small() { None } else { Some(self.open_table(&folder)?) };
        let life = if self.is_small() { None } else { folder.life() };
        let open = Arc::new(OpenPart { folder, part, table, life });
        state.lent = Arc::downgrade(&open);
        if !self.is_small() {
            state.saved_at = Some(Instant::now());
            state.open = Some(open.clone());
        }
        Ok(open)
    }

    fn open_table(&self, folder: &Folder) -> io::Result<File> {
        let table = folder.open_file(&self.part_name(HAVE_SUFFIX))?;
        let mut header = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(&table, HEADER_BYTES as u64), &mut header)?;
        if header != self.header() {
            table.set_len(0)?;
            write_all_at(&table, &self.header(), 0)?;
        }
        Ok(table)
    }

    /// A group is written whole and this is its value. `false`: it was good before.
    pub(crate) fn mark(&self, open: &OpenPart, group: u32, value: GroupHash) -> io::Result<bool> {
        let (known, due) = {
            let mut state = self.state();
            let known = state.values.set(group, Some(value)).is_some();
            state.unsaved.push(group);
            let bytes = (state.unsaved.len() as u64) << self.groups.group_log;
            (
                known,
                bytes >= SAVE_AFTER_BYTES
                    || state.saved_at.is_some_and(|at| at.elapsed() >= SAVE_INTERVAL),
            )
        };
        if due {
            self.save(open)?;
        } else if let (Some(table), Some(life), false) = (&open.table, &open.life, known) {
            write_all_at(
                table,
                &self.record(group, &value, Some(life)),
                Self::place_of_record(group),
            )?;
        }
        if self.is_small() && self.state().values.is_whole() {
            self.set_time(open);
        }
        Ok(!known)
    }

    /// Syncs the data, then notes the groups in the table.
    fn save(&self, open: &OpenPart) -> io::Result<()> {
        let Some(table) = &open.table else { return Ok(()) };
        let unsaved: Vec<(u32, Option<GroupHash>)> = {
            let mut state = self.state();
            state.saved_at = Some(Instant::now());
            let mut groups = std::mem::take(&mut state.unsaved);
            groups.sort_unstable();
            groups.dedup();
            groups.into_iter().map(|group| (group, state.values.get(group))).collect()
        };
        if unsaved.is_empty() {
            return Ok(());
        }
        open.part.sync_data()?;
        for run in unsaved.chunk_by(|(before, _), (group, _)| before + 1 == *group) {
            let record = |(group, value): &(u32, Option<GroupHash>)| {
                value.map_or([0; RECORD_BYTES], |value| self.record(*group, &value, None))
            };
            let records: Vec<u8> = run.iter().flat_map(record).collect();
            write_all_at(table, &records, Self::place_of_record(run[0].0))?;
        }
        Ok(())
    }

    /// Notes what is good, for a later run, and closes.
    pub(crate) fn put_aside(&self) -> io::Result<()> {
        let open = self.state().open.take();
        open.map_or(Ok(()), |open| self.save(&open))
    }

    /// Compares with the list of values; what differs is no longer good. `None`: it is no list of
    /// this file.
    pub(crate) fn compare(&self, list: &[u8]) -> io::Result<Option<Vec<GroupRange>>> {
        let mut state = self.state();
        if list.len() != 32 * state.values.count() {
            return Ok(None);
        }
        let differs =
            |(group, value): &(u32, GroupHash)| value.0 != list[32 * *group as usize..][..32];
        let differing: Vec<u32> =
            state.values.stored().filter(differs).map(|(group, _)| group).collect();
        let mut wrong = GroupSet::default();
        for group in differing {
            state.values.set(group, None);
            wrong.insert(GroupRange::new(group, 1));
        }
        let ranges: Vec<GroupRange> = wrong.runs().collect();
        state.copied &= ranges.is_empty();
        state.unsaved.extend(ranges.iter().flat_map(GroupRange::iter));
        let open = state.open.clone();
        drop(state);
        open.map_or(Ok(()), |open| self.save(&open))?;
        Ok(Some(ranges))
    }

    /// Nothing of it is good.
    pub(crate) fn discard(&self) -> io::Result<()> {
        let mut state = self.state();
        state.values.clear();
        state.unsaved.clear();
        state.copied = false;
        let Some(table) = state.open.as_ref().and_then(|open| open.table.as_ref()) else {
            return Ok(());
        };
        table.set_len(HEADER_BYTES as u64)
    }

    // ── The end
    // ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// All groups are there: checks them against the root if one is listed, and gives the file its
    /// name.
    pub(crate) fn finish(
        &self,
        root_folder: &Folder,
        listed: Option<Root>,
    ) -> Result<FinishedFile, FinishError> {
        let values = self.state().values.whole();
        let root =
            values.and_then(|values| self.groups.root(&values)).ok_or(FinishError::Mismatch)?;
        if listed.is_some_and(|listed| listed != root) {
            return Err(FinishError::Mismatch);
        }
        if self.is_small() && self.groups.count() > 0 {
            // It got its time with its last group. Another program that fetched the same may have
            // named it meanwhile.
            let path = match self.name_it(&*self.make_folder(root_folder)?) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.is_there(root_folder)?.ok_or(error)?
                }
                named => named?,
            };
            return Ok(FinishedFile { path, root, copied: self.state().copied });
        }
        let open = self.open(root_folder)?;
        self.set_time(&open);
        if !self.is_small() {
            open.part.sync_all()?;
        }
        let path = self.name_it(&open.folder)?;
        if open.table.is_some() {
            let _ = open.folder.remove_file(&self.part_name(HAVE_SUFFIX));
        }
        if !self.is_small() {
            open.folder.sync()?;
        }
        let mut state = self.state();
        state.open = None;
        Ok(FinishedFile { path, root, copied: state.copied })
    }

    fn set_time(&self, open: &OpenPart) {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(self.entry.modified_ms);
        // A time that this disk cannot keep is no reason to fail.
        let _ = open.part.set_times(FileTimes::new().set_modified(modified));
    }

    /// Never over something that is there.
    fn name_it(&self, folder: &Folder) -> io::Result<PathBuf> {
        let part = self.part_name(PART_SUFFIX);
        let mut name = self.name().to_string();
        for n in 1.. {
            match folder.rename_new(&part, &name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    name = numbered(self.name(), n)
                }
                done => return done.map(|()| folder.path().join(&name)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

#[cfg(test)]
mod tests {
    //! What is noted as good is good, whatever happens; nothing that is there is ever replaced.
    use super::*;
    use lanyard_protocol::{EntryKind, Instance};
    use std::fs;

    pub(super) fn bytes(count: usize) -> Vec<u8> {
        (0..count as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    pub(super) fn entry(size: u64) -> FileEntry {
        FileEntry {
            public_id: "00000001-0000-8000-8000-000000000001".parse().unwrap(),
            instance: Instance([1; 16]),
            file_id: "00000002-0000-8000-8000-000000000001".parse().unwrap(),
            path: "a/film.mkv".into(),
            size,
            modified_ms: 1_700_000_000_123,
            media_type: String::new(),
            kind: EntryKind::File,
            group_log: lanyard_protocol::group::group_log(size),
            root: None,
        }
    }

    fn sink(size: u64) -> FileSink {
        FileSink::new(entry(size), vec!["a".into(), "film.mkv".into()])
    }

    fn store(sink: &FileSink, root: &Folder, content: &[u8], groups: std::ops::Range<u32>) {
        let open = sink.open(root).unwrap();
        for group in groups {
            let (from, to) =
                (sink.groups.offset(group), sink.groups.offset(group) + sink.groups.len(group));
            let part = &content[from as usize..to as usize];
            open.write(part, from).unwrap();
            sink.mark(&open, group, sink.groups.value(group, part)).unwrap();
        }
    }

    fn names(dir: &std::path::Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_whole_file_gets_its_name_its_time_and_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let content = bytes(3_000_000);
        let sink = sink(3_000_000);
        store(&sink, &root, &content, 0..sink.groups.count());
        let expected = Root(*blake3::hash(&content).as_bytes());
        let finished = sink.finish(&root, Some(expected)).unwrap();
        assert_eq!(
            (finished.root, names(&dir.path().join("a"))),
            (expected, vec!["film.mkv".to_string()])
        );
        assert_eq!(fs::read(&finished.path).unwrap(), content);
        let again = FileSink::new(
            FileEntry { root: Some(expected), ..entry(3_000_000) },
            sink.place.clone(),
        );
        assert_eq!(again.is_there(&root).unwrap(), Some(finished.path.clone()));
        let other = FileSink::new(
            FileEntry { root: Some(Root([1; 32])), ..entry(3_000_000) },
            sink.place.clone(),
        );
        assert_eq!(other.is_there(&root).unwrap(), None);
    }

    #[test]
    fn a_name_that_is_taken_is_not_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/film.mkv"), b"mine").unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let sink = sink(10);
        store(&sink, &root, &bytes(10), 0..1);
        assert_eq!(sink.finish(&root, None).unwrap().path, dir.path().join("a/film (1).mkv"));
        assert_eq!(fs::read(dir.path().join("a/film.mkv")).unwrap(), b"mine");
    }

    #[test]
    fn a_later_run_knows_what_is_good_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let content = bytes(3_000_000);
        let first = sink(3_000_000);
        store(&first, &root, &content, 2..5);
        first.put_aside().unwrap();
        let table = dir.path().join("a").join(first.part_name(HAVE_SUFFIX));
        let mut noted = fs::read(&table).unwrap();
        noted[HEADER_BYTES + 3 * RECORD_BYTES] ^= 1;
        fs::write(&table, noted).unwrap();

        let second = sink(3_000_000);
        let have: Vec<GroupRange> = second.load(&root).unwrap().runs().collect();
        assert_eq!(
            have,
            [GroupRange::new(2, 1), GroupRange::new(4, 1)],
            "a torn record is no record"
        );
        store(&second, &root, &content, 0..2);
        store(&second, &root, &content, 3..4);
        store(&second, &root, &content, 5..12);
        assert_eq!(second.finish(&root, None).unwrap().root.0, *blake3::hash(&content).as_bytes());
    }

    /// A small file of several groups whose bytes come in two bodies at once: they write side by
    /// side, and it becomes whole.
    #[test]
    fn two_bodies_write_a_small_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let content = bytes(700_000);
        let file = sink(700_000);
        let (one, other) = (file.open(&root).unwrap(), file.open(&root).unwrap());
        assert!(Arc::ptr_eq(&one, &other), "one lock for both");
        drop((one, other));
        let again = file.open(&root).unwrap();
        store(&file, &root, &content, 0..3);
        drop(again);
        assert_eq!(file.finish(&root, None).unwrap().root.0, *blake3::hash(&content).as_bytes());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_killed_program_loses_no_group_and_a_power_cut_brings_none_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let content = bytes(3_000_000);
        let first = sink(3_000_000);
        store(&first, &root, &content, 2..5);
        // Killed: nothing was synced, nothing put aside.
        first.state().open = None;
        let second = sink(3_000_000);
        assert_eq!(second.load(&root).unwrap().len(), 3);
        // After a power cut the same records are of another life.
        let table = dir.path().join("a").join(first.part_name(HAVE_SUFFIX));
        let mut noted = fs::read(&table).unwrap();
        for group in 2..5 {
            let from = FileSink::place_of_record(group) as usize;
            let value = GroupHash(noted[from..from + 32].try_into().unwrap());
            noted[from..from + RECORD_BYTES].copy_from_slice(&first.record(
                group,
                &value,
                Some(&[9; 32]),
            ));
        }
        fs::write(&table, noted).unwrap();
        assert!(sink(3_000_000).load(&root).unwrap().is_empty());
        // Put aside, what was taken over is synced with the rest.
        second.open(&root).unwrap();
        second.put_aside().unwrap();
        let noted = fs::read(&table).unwrap();
        let from = FileSink::place_of_record(3) as usize;
        assert!(second.read_record(3, &noted[from..from + RECORD_BYTES], None).is_some());
    }

    #[test]
    fn another_version_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let first = sink(3_000_000);
        store(&first, &root, &bytes(3_000_000), 0..5);
        first.put_aside().unwrap();
        let changed = FileEntry { modified_ms: 5, ..entry(3_000_000) };
        assert!(FileSink::new(changed, first.place.clone()).load(&root).unwrap().is_empty());
    }

    #[test]
    fn groups_that_differ_from_the_list_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let content = bytes(2_000_000);
        let sink = sink(2_000_000);
        let list: Vec<u8> = (0..8)
            .flat_map(|g| {
                sink.groups
                    .value(
                        g,
                        &content[(g as usize) << 18..content.len().min((g as usize + 1) << 18)],
                    )
                    .0
            })
            .collect();
        let mut wrong = content.clone();
        wrong[600_000] ^= 1;
        store(&sink, &root, &wrong, 0..8);
        let right = Root(*blake3::hash(&content).as_bytes());
        assert!(matches!(sink.finish(&root, Some(right)), Err(FinishError::Mismatch)));
        assert_eq!(sink.compare(&list).unwrap(), Some(vec![GroupRange::new(2, 1)]));
        assert_eq!(sink.compare(&list[..32]).unwrap(), None);
        store(&sink, &root, &content, 2..3);
        assert!(sink.finish(&root, Some(right)).is_ok());
    }

    #[test]
    fn a_small_file_that_two_programs_fetch_is_there_once_for_both() {
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let content = bytes(100_000);
        let (first, second) = (sink(100_000), sink(100_000));
        store(&first, &root, &content, 0..1);
        store(&second, &root, &content, 0..1);
        let path = first.finish(&root, None).unwrap().path;
        assert_eq!(second.finish(&root, None).unwrap().path, path);
        assert_eq!((fs::read(path).unwrap(), names(&dir.path().join("a")).len()), (content, 1));
    }

    #[test]
    fn a_second_program_does_not_write_into_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let (first, second) = (sink(3_000_000), sink(3_000_000));
        first.open(&root).unwrap();
        assert_eq!(second.open(&root).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    }
}
