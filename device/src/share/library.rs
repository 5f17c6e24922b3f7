//! What this device offers: from a file's id to its place on this disk, and whether that is still
//! the version it was.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lanyard_protocol::{EntryKind, FailureCode, FileId, NewFile};
use lanyard_system::confined_fs::{FileInfo, NotBeneath};

use crate::share::shared_root::{SharedRoot, SharedRoots, leads_through_data_dir};
use crate::share::walk::{FoundFile, media_type};

/// One version of one file on this disk. Its path never leaves the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LibraryFile {
    pub root: Arc<SharedRoot>,
    /// The way from the root.
    pub below: PathBuf,
    pub wire: String,
    pub size: u64,
    pub modified: SystemTime,
    pub kind: EntryKind,
    /// The file system that it lay on when it was found.
    volume: u64,
    first_pass: FirstPass,
}

/// Until the hub has a file's root, nobody can tell whether the bytes of two runs belong together.
/// So the owner also looks whether the file was touched meanwhile in a way that kept its size and
/// modification time, as far as its system says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum FirstPass {
    #[default]
    NotBegun,
    /// When its inode had changed last as the first byte was read; nanoseconds since 1970.
    Begun(i128),
    /// The root is known: other bytes would be noticed by whoever gets them, and a changed mode, a
    /// new link or a note in an extended attribute end no transfer.
    Over,
}

impl LibraryFile {
    /// For showing.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().join(&self.below)
    }

    /// Whether what is on the disk is this version, as far as size and modification time tell.
    fn is_still(&self, found: &FileInfo) -> bool {
        found.is_file() && found.size == self.size && found.modified == Some(self.modified)
    }

    /// What it means that the disk refuses. A file whose volume was pulled is not gone: it is there
    /// again with the volume.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "std adds kinds, and most mean the same here"
    )]
    fn trouble(&self, error: io::Error) -> ReadError {
        use io::ErrorKind::{
            NotADirectory, NotFound, OutOfMemory, StaleNetworkFileHandle, TimedOut,
        };
        let number = error.raw_os_error().unwrap_or_default();
        match error.kind() {
            _ if NotBeneath::is(&error) => ReadError::Gone(error),
            NotFound | NotADirectory if self.is_volume_there() => ReadError::Gone(error),
            NotFound | NotADirectory | OutOfMemory | StaleNetworkFileHandle | TimedOut => {
                ReadError::Away(error)
            }
            _ if NO_DESCRIPTORS.contains(&number) => ReadError::Away(error),
            _ if BROKEN_DISK.contains(&number) && self.root.mounted_again() => {
                ReadError::Away(error)
            }
            _ => ReadError::Broken(error),
        }
    }

    /// Whether its volume is still mounted where it was: what is left of the way there lies on it.
    fn is_volume_there(&self) -> bool {
        let nearest = self.below.ancestors().skip(1).find_map(|folder| self.root.look(folder).ok());
        nearest.is_some_and(|folder| folder.volume == self.volume)
    }
}

/// How often a person is told of one file that cannot be read.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// ENFILE and EMFILE of Unix; that other platforms call other things so does no harm.
const NO_DESCRIPTORS: [i32; 2] = [23, 24];
/// EIO, ENXIO and ENODEV of Unix: what a disk gives that was pulled.
const BROKEN_DISK: [i32; 3] = [5, 6, 19];

/// Why a file cannot be read as the version that was listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the file changed")]
    Changed,
    #[error("the file is gone: {0}")]
    Gone(io::Error),
    /// Its volume is not there, or the system has no room to open it: it may be read later.
    #[error("the file cannot be reached: {0}")]
    Away(io::Error),
    /// It is there, and cannot be read.
    #[error("the file cannot be read: {0}")]
    Broken(io::Error),
}

impl ReadError {
    /// What the relay is told. Who may come again is told to try again.
    pub(crate) fn code(&self) -> FailureCode {
        match self {
            Self::Changed => FailureCode::FileChanged,
            Self::Gone(_) | Self::Broken(_) => FailureCode::FileGone,
            Self::Away(_) => FailureCode::Busy,
        }
    }
}

/// The files offered by this device. Shared between the driver and the tasks that read.
#[derive(Debug)]
pub(crate) struct Library {
    /// Makes ids that nobody else can guess or choose.
    id_key: [u8; 32],
    roots: Arc<SharedRoots>,
    files: Mutex<HashMap<FileId, LibraryFile>>,
    /// Files that could not be read and were told of, the oldest first.
    told: Mutex<RecentNotices>,
}

/// Files that a person was told of in the last minute.
#[derive(Debug, Default)]
struct RecentNotices {
    files: HashSet<FileId>,
    order: VecDeque<(Instant, FileId)>,
}

fn since_1970(time: SystemTime) -> std::time::Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl Library {
    /// `seed` is the device's secret: the same device gives the same version of the same file the
    /// same id, also after a restart, so that transfers and links of it go on.
    pub(crate) fn new(seed: &[u8; 32], roots: Arc<SharedRoots>) -> Self {
        let id_key = blake3::derive_key("lanyard/1 file ids", seed);
        Self { id_key, roots, files: Mutex::default(), told: Mutex::default() }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<FileId, LibraryFile>> {
        // A panic elsewhere leaves the map whole: each change is one insert or remove.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id_of(&self, file: &LibraryFile, salt: &[u8]) -> FileId {
        let mut hasher = blake3::Hasher::new_keyed(&self.id_key);
        let modified = since_1970(file.modified).as_nanos().to_le_bytes();
        let path = file.path();
        for part in [
            path.as_os_str().as_encoded_bytes(),
            file.wire.as_bytes(),
            &file.size.to_le_bytes(),
            &modified,
            salt,
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        FileId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    fn insert(&self, mut file: LibraryFile, salt: &[u8]) -> NewFile {
        let file_id = self.id_of(&file, salt);
        let new = NewFile {
            file_id,
            path: file.wire.clone(),
            size: file.size,
            modified_ms: since_1970(file.modified).as_millis() as u64,
            media_type: media_type(&file.wire).into(),
            kind: file.kind,
            root: None,
        };
        let mut files = self.files();
        if let Some(known) = files.get(&file_id) {
            // Offered once more: what was read of this version belongs to it as before.
            file.first_pass = known.first_pass;
        }
        files.insert(file_id, file);
        new
    }

    /// Takes a file in; what is to be announced of it.
    pub(crate) fn add(&self, found: FoundFile) -> NewFile {
        let FoundFile { root, below, wire, size, modified, kind, volume } = found;
        let first_pass = FirstPass::NotBegun;
        self.insert(
            LibraryFile { root, below, wire, size, modified, kind, volume, first_pass },
            &[],
        )
    }

    pub(crate) fn remove(&self, file_id: FileId) -> Option<LibraryFile> {
        self.files().remove(&file_id)
    }

    /// Whether the person is to be told that this file cannot be read: not each time that somebody
    /// asks for it.
    pub(crate) fn is_news(&self, file_id: FileId, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // Others ask for files as often as they like: each of them is looked at twice, not once for
        // each of the others.
        while let Some((at, old)) = told.order.front().copied() {
            if now.saturating_duration_since(at) < TOLD_AGAIN {
                break;
            }
            told.files.remove(&old);
            told.order.pop_front();
        }
        let is_news = told.files.insert(file_id);
        if is_news {
            told.order.push_back((now, file_id));
        }
        is_news
    }

    pub(crate) fn get(&self, file_id: FileId) -> Option<LibraryFile> {
        self.files().get(&file_id).cloned()
    }

    /// All that is offered, by path on the wire.
    pub(crate) fn list(&self) -> Vec<(FileId, LibraryFile)> {
        let mut all: Vec<_> = self.files().iter().map(|(id, file)| (*id, file.clone())).collect();
        all.sort_by(|a, b| a.1.wire.cmp(&b.1.wire));
        all
    }

    /// The hub knows the root of this version now.
    pub(crate) fn root_known(&self, file_id: FileId) {
        if let Some(file) = self.files().get_mut(&file_id) {
            file.first_pass = FirstPass::Over;
        }
    }

    /// Whether what is there now belongs to what was read of this version before.
    fn is_one_pass(&self, file_id: FileId, found: &FileInfo) -> bool {
        let Some(now) = found.touched else { return true };
        let mut files = self.files();
        let Some(file) = files.get_mut(&file_id) else { return true };
        if file.first_pass == FirstPass::NotBegun {
            file.first_pass = FirstPass::Begun(now);
        }
        matches!(file.first_pass, FirstPass::Over) || file.first_pass == FirstPass::Begun(now)
    }

    /// Opens the listed version of a file for reading.
    pub(crate) fn open(&self, file_id: FileId, file: &LibraryFile) -> Result<File, ReadError> {
        let (handle, found) = file.root.read(&file.below).map_err(|error| file.trouble(error))?;
        let is_still = file.is_still(&found) && self.is_one_pass(file_id, &found);
        if is_still { Ok(handle) } else { Err(ReadError::Changed) }
    }

    /// Whether the file is still the listed version, where it lies and by the open handle.
    pub(crate) fn check(
        &self,
        file_id: FileId,
        file: &LibraryFile,
        handle: &File,
    ) -> Result<(), ReadError> {
        let trouble = |error| file.trouble(error);
        let there = file.root.look(&file.below).map_err(trouble)?;
        if !there.is_file() {
            return Err(ReadError::Gone(NotBeneath.into()));
        }
        let read = FileInfo::of(handle).map_err(trouble)?;
        let is_still =
            file.is_still(&there) && file.is_still(&read) && self.is_one_pass(file_id, &read);
        if is_still { Ok(()) } else { Err(ReadError::Changed) }
    }

    /// Finds what may be listed in the place of a file: a file, and none of a data directory that
    /// came there since.
    fn present(&self, file: &LibraryFile) -> Option<FileInfo> {
        let found = file.root.look(&file.below).ok().filter(FileInfo::is_file)?;
        let in_use = self.roots.in_use();
        let folder = file.below.parent().unwrap_or(Path::new(""));
        let look = |below: &Path| file.root.look(below);
        let is_private = leads_through_data_dir(in_use.as_ref(), file.root.path(), folder, look);
        (!is_private).then_some(found)
    }

    /// Takes a version out that is no longer what lies there, and the present one in under a new
    /// id, if there is one. `None`: somebody did so already.
    pub(crate) fn replace(&self, old: FileId) -> Option<Option<NewFile>> {
        let file = self.remove(old)?;
        Some(self.present(&file).map(|found| {
            let modified = found.modified.unwrap_or(SystemTime::UNIX_EPOCH);
            let unchanged = file.is_still(&found);
            let file =
                LibraryFile { size: found.size, modified, first_pass: FirstPass::NotBegun, ..file };
            // The same size and time, and yet the hub saw other bytes: a new id all the same.
            let salt = if unchanged { old.0.as_bytes().to_vec() } else { Vec::new() };
            self.insert(file, &salt)
        }))
    }
}

/// Fills `buffer` from `offset`. A file that ends early has changed.
#[expect(clippy::wildcard_enum_match_arm, reason = "std adds kinds, and most mean the same here")]
pub(crate) fn read_exact_at(
    file: &LibraryFile,
    handle: &File,
    buffer: &mut [u8],
    offset: u64,
) -> Result<(), ReadError> {
    read_at(handle, buffer, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Changed,
        _ => file.trouble(error),
    })
}

#[cfg(unix)]
fn read_at(handle: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(handle, buffer, offset)
}

#[cfg(windows)]
fn read_at(handle: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(handle, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::walk::{Walked, walk};
    use std::fs;

    fn walked(path: PathBuf) -> Walked {
        walk(&[path], &SharedRoots::default()).unwrap()
    }

    fn library(seed: u8) -> Library {
        Library::new(&[seed; 32], Arc::default())
    }

    fn one(dir: &Path) -> (Library, NewFile) {
        fs::write(dir.join("a.txt"), b"hello").unwrap();
        let library = library(1);
        let found = walked(dir.join("a.txt")).files.remove(0);
        let new = library.add(found);
        (library, new)
    }

    #[test]
    fn the_same_version_has_the_same_id_on_this_device_only() {
        let dir = tempfile::tempdir().unwrap();
        let (_, new) = one(dir.path());
        let found = walked(dir.path().join("a.txt")).files.remove(0);
        assert_eq!(library(1).add(found.clone()).file_id, new.file_id);
        assert_ne!(library(2).add(found).file_id, new.file_id);
        assert_eq!((new.size, new.media_type.as_str()), (5, "text/plain"));
    }

    #[test]
    fn a_changed_file_is_noticed_and_offered_under_a_new_id() {
        let dir = tempfile::tempdir().unwrap();
        let (library, new) = one(dir.path());
        let file = library.get(new.file_id).unwrap();
        let handle = library.open(new.file_id, &file).unwrap();
        assert!(library.check(new.file_id, &file, &handle).is_ok());
        fs::write(dir.path().join("a.txt"), b"longer than before").unwrap();
        assert!(matches!(library.check(new.file_id, &file, &handle), Err(ReadError::Changed)));
        assert!(matches!(library.open(new.file_id, &file), Err(ReadError::Changed)));
        let replaced = library.replace(new.file_id).unwrap().unwrap();
        assert!(replaced.file_id != new.file_id && replaced.size == 18);
        assert_eq!(library.replace(new.file_id), None, "only once");
    }

    /// Writes other bytes into the file and puts its time back, until its inode shows it: how fine
    /// that is, the system decides.
    #[cfg(unix)]
    fn rewrite_in_place(path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let before = fs::metadata(path).unwrap();
        while fs::metadata(path).unwrap().ctime_nsec() == before.ctime_nsec() {
            fs::write(path, b"world").unwrap();
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(before.modified().unwrap())
                .unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn other_bytes_of_the_same_size_and_time_are_noticed_until_the_root_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let (library, new) = one(dir.path());
        let (id, file, path) =
            (new.file_id, library.get(new.file_id).unwrap(), dir.path().join("a.txt"));
        rewrite_in_place(&path);
        let handle = library.open(id, &file).expect("nothing was read of what was there before");
        rewrite_in_place(&path);
        assert!(
            matches!(library.check(id, &file, &handle), Err(ReadError::Changed)),
            "while it is read"
        );
        assert!(matches!(library.open(id, &file), Err(ReadError::Changed)), "between two runs");
        library.root_known(id);
        assert!(library.check(id, &file, &handle).is_ok() && library.open(id, &file).is_ok());

        let replaced = library.replace(id).unwrap().unwrap();
        let (id, file) = (replaced.file_id, library.get(replaced.file_id).unwrap());
        assert!(
            replaced.file_id != new.file_id && library.open(id, &file).is_ok(),
            "a new version has its own first pass"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_place_of_a_file_or_of_its_folder_is_gone_and_never_a_new_version() {
        use std::os::unix::fs::symlink;
        for is_same in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let shared = dir.path().join("d");
            let outside = dir.path().join("outside");
            for folder in [shared.join("e"), outside.clone()] {
                fs::create_dir_all(folder).unwrap();
            }
            for path in [shared.join("x"), shared.join("e/y")] {
                fs::write(path, b"first").unwrap();
            }
            let modified = fs::metadata(shared.join("x")).unwrap().modified().unwrap();
            for name in ["x", "y"] {
                fs::write(outside.join(name), if is_same { "other" } else { "longer than it" })
                    .unwrap();
                let canary = File::options().write(true).open(outside.join(name)).unwrap();
                canary
                    .set_modified(if is_same { modified } else { SystemTime::UNIX_EPOCH })
                    .unwrap();
            }
            let library = library(1);
            let ids: Vec<FileId> =
                walked(shared.clone()).files.into_iter().map(|f| library.add(f).file_id).collect();
            let files: Vec<LibraryFile> = ids.iter().map(|id| library.get(*id).unwrap()).collect();
            let handles: Vec<File> =
                ids.iter().zip(&files).map(|(id, file)| library.open(*id, file).unwrap()).collect();
            fs::rename(shared.join("e"), dir.path().join("aside")).unwrap();
            symlink(&outside, shared.join("e")).unwrap();
            fs::remove_file(shared.join("x")).unwrap();
            symlink(outside.join("x"), shared.join("x")).unwrap();
            for ((id, file), handle) in ids.iter().zip(&files).zip(&handles) {
                assert_eq!(
                    library.open(*id, file).unwrap_err().code(),
                    FailureCode::FileGone,
                    "{}",
                    file.wire
                );
                assert_eq!(
                    library.check(*id, file, handle).unwrap_err().code(),
                    FailureCode::FileGone
                );
                assert_eq!(library.replace(*id), Some(None), "{}", file.wire);
            }
            assert!(library.list().is_empty());
        }
    }

    /// A60: no opening in the midst of a race leads to a file outside of the share. The root is
    /// known, so neither size nor time nor inode tells the two files apart.
    #[cfg(unix)]
    #[test]
    fn a_file_swapped_for_a_link_is_never_opened_through_it() {
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
        const SWAPS: usize = 300;
        const OPENED: usize = 300;
        let dir = tempfile::tempdir().unwrap();
        let [shared, outside, aside] = ["d", "outside", "aside"].map(|name| dir.path().join(name));
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("x"), b"shared").unwrap();
        fs::write(&outside, b"CANARY").unwrap();
        let modified = fs::metadata(shared.join("x")).unwrap().modified().unwrap();
        File::options().write(true).open(&outside).unwrap().set_modified(modified).unwrap();
        let library = library(1);
        let id = library.add(walked(shared.clone()).files.remove(0)).file_id;
        library.root_known(id);
        let file = library.get(id).unwrap();
        let swaps = AtomicUsize::new(0);
        let is_over = AtomicBool::new(false);
        let swap = || {
            let place = shared.join("x");
            while !is_over.load(Ordering::Relaxed) {
                fs::rename(&place, &aside).unwrap();
                std::os::unix::fs::symlink(&outside, &place).unwrap();
                std::thread::yield_now();
                fs::remove_file(&place).unwrap();
                fs::rename(&aside, &place).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        };
        let mut read = Vec::new();
        std::thread::scope(|scope| {
            let swapper = scope.spawn(swap);
            while read.len() < OPENED || swaps.load(Ordering::Relaxed) < SWAPS {
                assert!(!swapper.is_finished(), "the swapping thread failed");
                let Ok(handle) = library.open(id, &file) else { continue };
                let mut bytes = [0; 6];
                // A failure here must not leave the swapping thread without an end.
                let said = read_exact_at(&file, &handle, &mut bytes, 0);
                read.push(said.map(|()| bytes));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let wrong = read.iter().filter(|bytes| !matches!(bytes, Ok(b) if b == b"shared")).count();
        assert_eq!(wrong, 0, "of {} openings so many read something else", read.len());
    }

    #[test]
    fn a_data_directory_that_came_into_the_way_is_not_listed_as_a_new_version() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("d");
        fs::create_dir_all(shared.join("e")).unwrap();
        fs::write(shared.join("e/tls.json"), b"mine").unwrap();
        let library = library(1);
        let id = library.add(walked(shared.clone()).files.remove(0)).file_id;
        fs::create_dir(shared.join("data")).unwrap();
        fs::write(shared.join("data/hub.key"), [1; 32]).unwrap();
        fs::write(shared.join("data/tls.json"), b"a key").unwrap();
        fs::rename(shared.join("e"), shared.join("aside")).unwrap();
        fs::rename(shared.join("data"), shared.join("e")).unwrap();
        assert!(matches!(library.open(id, &library.get(id).unwrap()), Err(ReadError::Changed)));
        assert_eq!(library.replace(id), Some(None));
    }

    #[test]
    fn a_file_whose_volume_was_pulled_is_away_and_one_that_was_removed_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("folder/below")).unwrap();
        let path = dir.path().join("folder/below/a.txt");
        fs::write(&path, b"first").unwrap();
        let library = library(1);
        let found = walked(dir.path().join("folder")).files.remove(0);
        let new = library.add(found.clone());
        // What is left of the way to it is another file system, as where a volume was mounted.
        let pulled = LibraryFile { volume: u64::MAX, ..library.get(new.file_id).unwrap() };
        let here = library.get(new.file_id).unwrap();
        fs::remove_dir_all(dir.path().join("folder")).unwrap();
        assert_eq!(library.open(new.file_id, &here).unwrap_err().code(), FailureCode::FileGone);
        if cfg!(unix) {
            assert!(matches!(library.open(new.file_id, &pulled), Err(ReadError::Away(_))));
            assert_eq!(library.open(new.file_id, &pulled).unwrap_err().code(), FailureCode::Busy);
        }
    }

    #[test]
    fn a_file_that_the_disk_does_not_give_is_broken_and_one_without_a_descriptor_away() {
        let dir = tempfile::tempdir().unwrap();
        let (library, new) = one(dir.path());
        let file = library.get(new.file_id).unwrap();
        let errno = |number| file.trouble(io::Error::from_raw_os_error(number));
        assert!(matches!(errno(5), ReadError::Broken(_)), "EIO");
        assert!(matches!(errno(13), ReadError::Broken(_)), "EACCES");
        assert!(matches!(errno(24), ReadError::Away(_)), "EMFILE");
        let now = Instant::now();
        assert!(
            library.is_news(new.file_id, now)
                && !library.is_news(new.file_id, now + TOLD_AGAIN / 2)
        );
        assert!(
            library.is_news(new.file_id, now + TOLD_AGAIN),
            "once a minute, however often it is asked for"
        );
    }

    #[test]
    fn a_disputed_file_gets_a_new_id_and_a_vanished_one_none() {
        let dir = tempfile::tempdir().unwrap();
        let (library, new) = one(dir.path());
        let disputed = library.replace(new.file_id).unwrap().unwrap();
        assert_ne!(disputed.file_id, new.file_id);
        fs::remove_file(dir.path().join("a.txt")).unwrap();
        assert_eq!(library.replace(disputed.file_id), Some(None));
        assert!(library.list().is_empty());
    }
}
