//! A shared root: what a person named, resolved once. From then on everything below it goes through
//! one open handle.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lanyard_system::confined_fs::{Anchor, FileInfo, FileKind, FolderEntry, NotBeneath};

/// Roots whose handle stays open: each is a descriptor of this process, of which systems give 256
/// at the least. What is shared beyond is opened for each use, and must be the same folder then.
const MAX_HELD_ROOTS: usize = 64;

/// A folder that is shared, or that holds a file that is shared by itself.
#[derive(Debug)]
pub(crate) struct SharedRoot {
    /// Absolute, without a link in it.
    path: PathBuf,
    state: Mutex<RootState>,
    held: Option<HeldPlace>,
}

#[derive(Debug)]
struct RootState {
    /// Volume and inode of the folder.
    identity: (u64, u64),
    /// Kept open for as long as the root lives, if there is a place for it.
    anchor: Option<Arc<Anchor>>,
}

/// One of the [`MAX_HELD_ROOTS`] places.
#[derive(Debug)]
struct HeldPlace(Arc<AtomicUsize>);

impl HeldPlace {
    fn take(held: &Arc<AtomicUsize>) -> Option<Self> {
        let below = |count: usize| (count < MAX_HELD_ROOTS).then_some(count + 1);
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
            .ok()
            .map(|_| Self(held.clone()))
    }
}

impl Drop for HeldPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PartialEq for SharedRoot {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.identity() == other.identity()
    }
}

impl Eq for SharedRoot {}

impl SharedRoot {
    fn new(path: &Path, anchor: Anchor, held: Option<HeldPlace>) -> io::Result<Self> {
        let found = anchor.itself()?;
        let anchor = held.is_some().then(|| Arc::new(anchor));
        let state = RootState { identity: (found.volume, found.inode), anchor };
        Ok(Self { path: path.into(), state: Mutex::new(state), held })
    }

    fn state(&self) -> MutexGuard<'_, RootState> {
        // Each change of the state is whole before the lock goes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For showing, and for names of files that outlive this run.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn identity(&self) -> (u64, u64) {
        self.state().identity
    }

    fn anchor(&self) -> io::Result<Arc<Anchor>> {
        let (identity, anchor) = {
            let state = self.state();
            (state.identity, state.anchor.clone())
        };
        if let Some(anchor) = anchor {
            return Ok(anchor);
        }
        let anchor = Anchor::open(&self.path)?;
        let found = anchor.itself()?;
        if (found.volume, found.inode) == identity {
            Ok(Arc::new(anchor))
        } else {
            Err(NotBeneath.into())
        }
    }

    /// Opens the file at `below` for reading, and describes it.
    pub(crate) fn read(&self, below: &Path) -> io::Result<(File, FileInfo)> {
        self.anchor()?.read(below)
    }

    /// Describes what stands at `below`.
    pub(crate) fn look(&self, below: &Path) -> io::Result<FileInfo> {
        self.anchor()?.look(below)
    }

    /// Lists the folder at `below`.
    pub(crate) fn list(&self, below: &Path) -> io::Result<Vec<FolderEntry>> {
        self.anchor()?.list(below)
    }

    /// After an error of the disk: a stick that was pulled and is mounted again is another volume
    /// at the old place, and the handle of before leads nowhere. `true`: the new one is used from
    /// now on. A folder of the same volume never takes the place of the one that was named.
    pub(crate) fn mounted_again(&self) -> bool {
        let Ok(anchor) = Anchor::open(&self.path) else { return false };
        let Ok(found) = anchor.itself() else { return false };
        let mut state = self.state();
        if found.volume == state.identity.0 {
            return false;
        }
        state.identity = (found.volume, found.inode);
        state.anchor = self.held.as_ref().map(|_| Arc::new(anchor));
        true
    }
}

/// All roots of one device: what is shared twice has one handle.
#[derive(Debug, Default)]
pub(crate) struct SharedRoots {
    known: Mutex<KnownRoots>,
    held: Arc<AtomicUsize>,
    /// The data directory that this process uses.
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct KnownRoots {
    by_path: HashMap<PathBuf, Weak<SharedRoot>>,
    /// Entries at which those are dropped that nobody uses any more.
    prune_at: usize,
}

impl KnownRoots {
    fn insert(&mut self, root: &Arc<SharedRoot>) {
        if self.by_path.len() >= self.prune_at {
            self.by_path.retain(|_, root| root.strong_count() > 0);
            self.prune_at = (2 * self.by_path.len()).max(MAX_HELD_ROOTS);
        }
        self.by_path.insert(root.path.clone(), Arc::downgrade(root));
    }
}

/// Files by which a data directory of this program is known: keys have this length.
const KEYS: [&str; 3] = ["hub.key", "device.key", "master.secret"];
const KEY_BYTES: u64 = 32;
const DATABASE: &str = "lanyard.db";

fn is_mark(name: &std::ffi::OsStr, found: &FileInfo) -> bool {
    let is_key = KEYS.iter().any(|key| name == *key) && found.size == KEY_BYTES;
    found.kind == FileKind::File && (is_key || name == DATABASE)
}

impl SharedRoots {
    /// For a process with this data directory, which need not be there yet.
    pub(crate) fn new(data_dir: Option<PathBuf>) -> Self {
        Self { data_dir, ..Self::default() }
    }

    /// The root at an absolute path that has no link in it.
    pub(crate) fn at(&self, path: &Path) -> io::Result<Arc<SharedRoot>> {
        let anchor = Anchor::open(path)?;
        let found = anchor.itself()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // The folder of that name may be another one by now.
        let same = |root: &Arc<SharedRoot>| root.identity() == (found.volume, found.inode);
        if let Some(root) = known.by_path.get(path).and_then(Weak::upgrade).filter(same) {
            return Ok(root);
        }
        let root = Arc::new(SharedRoot::new(path, anchor, HeldPlace::take(&self.held))?);
        known.insert(&root);
        Ok(root)
    }

    /// The data directory in use: by its path, and as the system numbers it.
    pub(crate) fn in_use(&self) -> Option<DataDir> {
        let path = std::fs::canonicalize(self.data_dir.as_ref()?).ok()?;
        let found = Anchor::open(&path).and_then(|anchor| anchor.itself()).ok();
        Some(DataDir {
            identity: found.map(|found| (found.volume, found.inode)).filter(|id| *id != (0, 0)),
            path,
        })
    }
}

/// A data directory of this program.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl DataDir {
    fn is(&self, path: &Path, found: &FileInfo) -> bool {
        self.path == path || self.identity == Some((found.volume, found.inode))
    }
}

/// Whether a folder with these entries is a data directory: the one in use, or any that is known by
/// what it holds.
pub(crate) fn is_data_dir(
    in_use: Option<&DataDir>,
    path: &Path,
    found: &FileInfo,
    entries: &[FolderEntry],
) -> bool {
    let marked =
        |entry: &FolderEntry| entry.found.as_ref().is_ok_and(|found| is_mark(&entry.name, found));
    in_use.is_some_and(|data_dir| data_dir.is(path, found)) || entries.iter().any(marked)
}

/// Whether a data directory stands on the way from the folder at `root` to `below`, both ends
/// included. `look` describes what stands below that folder.
pub(crate) fn leads_through_data_dir(
    in_use: Option<&DataDir>,
    root: &Path,
    below: &Path,
    look: impl Fn(&Path) -> io::Result<FileInfo>,
) -> bool {
    below.ancestors().any(|folder| {
        let marked =
            |name: &str| look(&folder.join(name)).is_ok_and(|found| is_mark(name.as_ref(), &found));
        let is_used = |data_dir: &DataDir| {
            look(folder).is_ok_and(|found| data_dir.is(&root.join(folder), &found))
        };
        in_use.is_some_and(is_used) || KEYS.iter().any(|name| marked(name)) || marked(DATABASE)
    })
}

#[cfg(test)]
mod tests {
    //! A root is the folder that was named, and no other that comes to have its name; it costs one
    //! descriptor at most.
    use super::*;
    use std::fs;

    fn folders(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(dir.path()).unwrap();
        let paths: Vec<PathBuf> = (0..count).map(|n| top.join(n.to_string())).collect();
        for path in &paths {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), path.to_str().unwrap()).unwrap();
        }
        (dir, paths)
    }

    fn text(root: &SharedRoot) -> io::Result<String> {
        io::read_to_string(root.read(Path::new("file"))?.0)
    }

    #[test]
    fn descriptors_are_bounded_however_much_is_shared() {
        let (_dir, paths) = folders(9 * MAX_HELD_ROOTS);
        let roots = SharedRoots::default();
        let shared: Vec<_> =
            paths[..3 * MAX_HELD_ROOTS].iter().map(|path| roots.at(path).unwrap()).collect();
        assert_eq!(roots.held.load(Ordering::Relaxed), MAX_HELD_ROOTS);
        for (root, path) in shared.iter().zip(&paths) {
            assert_eq!(
                text(root).unwrap(),
                path.to_str().unwrap(),
                "also of what is not held open"
            );
        }
        assert!(
            Arc::ptr_eq(&shared[0], &roots.at(&paths[0]).unwrap()),
            "shared twice, it is one root"
        );
        drop(shared);
        assert_eq!(roots.held.load(Ordering::Relaxed), 0);
        for path in &paths {
            roots.at(path).unwrap();
        }
        assert!(
            roots.known.lock().unwrap().by_path.len() <= 4 * MAX_HELD_ROOTS,
            "what is gone is forgotten"
        );
    }

    #[cfg(unix)]
    #[test]
    fn another_folder_of_that_name_is_not_the_root() {
        let (_dir, paths) = folders(2);
        let roots = SharedRoots::default();
        let held = roots.at(&paths[0]).unwrap();
        let unheld = SharedRoot::new(&paths[0], Anchor::open(&paths[0]).unwrap(), None).unwrap();
        fs::rename(&paths[0], paths[0].with_extension("aside")).unwrap();
        fs::rename(&paths[1], &paths[0]).unwrap();
        assert_eq!(
            text(&held).unwrap(),
            paths[0].to_str().unwrap(),
            "the handle stays with the folder"
        );
        assert!(NotBeneath::is(&text(&unheld).unwrap_err()));
        assert!(!held.mounted_again(), "of the same volume it is not taken for it");
        let named_anew = roots.at(&paths[0]).unwrap();
        assert_eq!(
            text(&named_anew).unwrap(),
            paths[1].to_str().unwrap(),
            "a person named it once more"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_volume_that_is_mounted_again_is_taken() {
        let (_dir, paths) = folders(1);
        let held = SharedRoots::default().at(&paths[0]).unwrap();
        let identity = held.identity();
        held.state().identity = (u64::MAX, identity.1);
        assert!(held.mounted_again());
        assert_eq!(held.identity(), identity);
    }
}
