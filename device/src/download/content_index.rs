//! Which content lies where on this device: a list of files that once had a known root, so that
//! fetching one of them again is a copy. Only a cache: what cannot be read of it is as good as not
//! there, and no file is believed without being hashed.
//!
//! `content.index` has one record a line, `CHECK JSON`; several processes append to it at once. It
//! is bounded by its bytes.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lanyard_protocol::{FileEntry, Root};
use lanyard_system::confined_fs::{FileInfo, look_unlinked, read_unlinked};
use lanyard_system::private_file;
use serde::{Deserialize, Serialize};

const NAME: &str = "content.index";
/// Smaller files come many to a body: looking for them costs as much as fetching them. One group.
pub(crate) const MIN_BYTES: u64 = 256 << 10;
/// Beyond, the older half is forgotten: room for about 100,000 files.
const MAX_INDEX_BYTES: u64 = 24 << 20;
/// Places of one content that are looked at.
const MAX_PLACES: usize = 8;
/// A record longer than the longest path is none.
const MAX_LINE_BYTES: u64 = 64 << 10;
const CHECK_CHARS: usize = 16;

/// The list in one data directory.
#[derive(Debug, Clone)]
pub(crate) struct ContentIndex {
    path: PathBuf,
}

/// Where some content lay, and how the file looked then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexedContent {
    root: Root,
    /// Without links in it.
    path: PathBuf,
    size: u64,
    modified_ns: u64,
    /// 0 where there is no such thing.
    inode: u64,
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

impl IndexedContent {
    /// How the file at `path` looks now; `None` if it is no file, or its name cannot be written
    /// down.
    fn look(root: Root, path: PathBuf) -> io::Result<Option<Self>> {
        let found = look_unlinked(&path)?;
        let modified_ns = found.modified.map_or(0, nanoseconds);
        let is_sound = found.is_file() && path.to_str().is_some();
        Ok(is_sound.then_some(Self {
            root,
            path,
            size: found.size,
            modified_ns,
            inode: found.inode,
        }))
    }

    fn is_still(&self, found: &FileInfo) -> bool {
        let modified_ns = found.modified.map_or(0, nanoseconds);
        found.is_file()
            && (found.size, modified_ns, found.inode) == (self.size, self.modified_ns, self.inode)
    }

    /// Whether it looks as it did, at the very place: nothing on the way became a link since.
    fn seems_there(&self) -> bool {
        look_unlinked(&self.path).is_ok_and(|found| self.is_still(&found))
    }

    /// Opens it if it looks as it did. What it holds is another question.
    pub(crate) fn open(&self) -> Option<File> {
        let (file, found) = read_unlinked(&self.path).ok()?;
        self.is_still(&found).then_some(file)
    }

    pub(crate) fn line(&self) -> io::Result<String> {
        let json = serde_json::to_string(self)?;
        // A torn record before this one does not take it along.
        Ok(format!("\n{} {json}\n", check(json.as_bytes())))
    }

    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let (said, json) = line.split_at_checked(CHECK_CHARS)?;
        let json = json.strip_prefix(b" ")?;
        (check(json).as_bytes() == said).then(|| serde_json::from_slice(json).ok())?
    }
}

fn check(json: &[u8]) -> String {
    blake3::hash(json).to_hex()[..CHECK_CHARS].to_string()
}

/// The root of a file that is worth a look.
pub(crate) fn root_worth(entry: &FileEntry) -> Option<Root> {
    entry.root.filter(|_| entry.size >= MIN_BYTES)
}

impl ContentIndex {
    /// The list in the data directory `dir`, which need not be there yet.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: dir.join(NAME) }
    }

    /// Notes that the file at `path` has this root. `size` and `modified`, if known, are those of
    /// the version it was.
    pub(crate) fn note(
        &self,
        root: Root,
        path: &Path,
        version: Option<(u64, SystemTime)>,
    ) -> io::Result<()> {
        if version.is_some_and(|(size, _)| size < MIN_BYTES) {
            // Not even looked at: of small files there are many.
            return Ok(());
        }
        let path = match (version, path.parent(), path.file_name()) {
            // A received file: its folder is one that a person named, perhaps by a link.
            (None, Some(folder), Some(name)) => fs::canonicalize(folder)?.join(name),
            _ => path.to_path_buf(),
        };
        let Some(held) = IndexedContent::look(root, path)? else { return Ok(()) };
        let is_it = version
            .is_none_or(|(size, at)| (held.size, held.modified_ns) == (size, nanoseconds(at)));
        if !is_it || held.size < MIN_BYTES {
            return Ok(());
        }
        let mut file = private_file::open(&self.path, File::options().append(true).create(true))?;
        file.write_all(held.line()?.as_bytes())?;
        if file.metadata()?.len() > MAX_INDEX_BYTES { self.compact() } else { Ok(()) }
    }

    /// What seems to be there of these contents, the youngest first.
    pub(crate) fn find(&self, roots: &HashSet<Root>) -> HashMap<Root, Vec<IndexedContent>> {
        let mut found = self.places(roots);
        found.values_mut().for_each(|places| places.retain(IndexedContent::seems_there));
        found.retain(|_, places| !places.is_empty());
        found
    }

    /// Where these contents were noted last, the youngest first.
    fn places(&self, roots: &HashSet<Root>) -> HashMap<Root, Vec<IndexedContent>> {
        let mut found: HashMap<Root, Vec<IndexedContent>> = HashMap::new();
        if roots.is_empty() {
            return found;
        }
        let read = self.each(|held| {
            if roots.contains(&held.root) {
                let places = found.entry(held.root).or_default();
                places.retain(|place| place.path != held.path);
                places.insert(0, held);
                // One content may lie in as many files as others made of it: the youngest are
                // enough.
                places.truncate(MAX_PLACES);
            }
        });
        if let Err(error) = read {
            tracing::debug!(%error, "the index of contents is of no use");
        }
        found
    }

    fn each(&self, mut told: impl FnMut(IndexedContent)) -> io::Result<()> {
        let file = match private_file::open(&self.path, File::options().read(true)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let (mut reader, mut line) = (BufReader::new(file), Vec::new());
        loop {
            line.clear();
            if io::Read::take(&mut reader, MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if let Some(held) = IndexedContent::parse(line.strip_suffix(b"\n").unwrap_or(&line)) {
                told(held);
            }
        }
    }

    /// Keeps the youngest half. What others append meanwhile may be lost with the old one.
    fn compact(&self) -> io::Result<()> {
        let (mut lines, mut order) = (HashMap::new(), 0u64);
        self.each(|held| {
            order += 1;
            lines.insert((held.root, held.path.clone()), (order, held));
        })?;
        let mut youngest: Vec<(u64, IndexedContent)> = lines.into_values().collect();
        youngest.sort_by_key(|(order, _)| std::cmp::Reverse(*order));
        let (mut kept, mut bytes) = (Vec::new(), 0);
        for (_, held) in youngest {
            let line = held.line()?;
            bytes += line.len() as u64;
            if bytes > MAX_INDEX_BYTES / 2 {
                break;
            }
            kept.push(line);
        }
        kept.reverse();
        private_file::write(&self.path, kept.concat().as_bytes()).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    //! What is found was noted, looks as it did and lies where it did; damage costs what was
    //! damaged.
    use super::*;

    struct IndexFixture {
        dir: tempfile::TempDir,
        index: ContentIndex,
    }

    impl IndexFixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { index: ContentIndex::new(dir.path()), dir }
        }

        fn file(&self, name: &str, n: u8) -> PathBuf {
            let path = fs::canonicalize(self.dir.path()).unwrap().join(name);
            fs::write(&path, vec![n; MIN_BYTES as usize]).unwrap();
            path
        }

        fn noted(&self, name: &str, n: u8) -> PathBuf {
            let path = self.file(name, n);
            self.index.note(Root([n; 32]), &path, None).unwrap();
            path
        }

        fn paths(&self, n: u8) -> Vec<PathBuf> {
            let root = Root([n; 32]);
            let found = self.index.find(&HashSet::from([root]));
            found.get(&root).into_iter().flatten().map(|held| held.path.clone()).collect()
        }
    }

    #[test]
    fn content_is_found_where_it_lies_the_youngest_first() {
        let bench = IndexFixture::new();
        assert_eq!(bench.paths(1), [] as [PathBuf; 0]);
        let (a, b, _) = (bench.noted("a", 1), bench.noted("b", 1), bench.noted("c", 2));
        bench.index.note(Root([1; 32]), &a, None).unwrap();
        assert_eq!(bench.paths(1), [a.clone(), b.clone()]);
        fs::write(&a, vec![9; MIN_BYTES as usize + 1]).unwrap();
        assert_eq!(bench.paths(1), [b]);
    }

    #[test]
    fn many_files_of_one_content_cause_few_look_ups() {
        let bench = IndexFixture::new();
        let path = bench.noted("a", 1);
        let held = IndexedContent::look(Root([1; 32]), path).unwrap().unwrap();
        let gone: String = (0..3_000)
            .map(|n| {
                IndexedContent { path: format!("/gone/{n}").into(), ..held.clone() }.line().unwrap()
            })
            .collect();
        fs::write(&bench.index.path, gone + &held.line().unwrap()).unwrap();
        assert_eq!(
            bench.index.places(&HashSet::from([Root([1; 32])]))[&Root([1; 32])].len(),
            MAX_PLACES
        );
        assert_eq!(bench.paths(1).len(), 1, "and the youngest is among them");
    }

    #[test]
    fn another_version_and_a_small_file_are_not_noted() {
        let bench = IndexFixture::new();
        let path = bench.file("a", 1);
        let version = (MIN_BYTES, SystemTime::UNIX_EPOCH);
        bench.index.note(Root([1; 32]), &path, Some(version)).unwrap();
        fs::write(&path, b"small").unwrap();
        bench.index.note(Root([1; 32]), &path, None).unwrap();
        let unseen = bench.dir.path().join("not there");
        bench
            .index
            .note(Root([1; 32]), &unseen, Some((MIN_BYTES - 1, SystemTime::UNIX_EPOCH)))
            .unwrap();
        assert!(
            bench.index.note(Root([1; 32]), &unseen, Some(version)).is_err(),
            "a large one is looked at"
        );
        assert!(!bench.index.path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_was_put_in_the_way_is_not_followed() {
        let bench = IndexFixture::new();
        let home = fs::canonicalize(bench.dir.path()).unwrap();
        fs::create_dir(home.join("folder")).unwrap();
        let path = bench.noted("folder/a", 1);
        let held = bench
            .index
            .find(&HashSet::from([Root([1; 32])]))
            .remove(&Root([1; 32]))
            .unwrap()
            .remove(0);
        assert!(held.open().is_some());
        fs::rename(home.join("folder"), home.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(home.join("elsewhere"), home.join("folder")).unwrap();
        let at = fs::canonicalize(&path).unwrap();
        assert!(held.is_still(&look_unlinked(&at).unwrap()), "only the way there is another");
        assert!(held.open().is_none() && bench.paths(1).is_empty());
    }

    #[test]
    fn a_torn_or_damaged_record_takes_no_other_along() {
        let bench = IndexFixture::new();
        let a = bench.noted("a", 1);
        let torn = fs::read(&bench.index.path).unwrap();
        let append = |bytes: &[u8]| {
            File::options().append(true).open(&bench.index.path).unwrap().write_all(bytes).unwrap()
        };
        append(&torn[..torn.len() / 2]);
        let b = bench.noted("b", 2);
        append(&[0xff; 200_000]);
        let c = bench.noted("c", 3);
        assert_eq!((bench.paths(1), bench.paths(2), bench.paths(3)), (vec![a], vec![b], vec![c]));
        let mut bytes = fs::read(&bench.index.path).unwrap();
        let at = bytes.windows(2).position(|pair| pair == b"01").unwrap();
        bytes[at] = b'1';
        fs::write(&bench.index.path, bytes).unwrap();
        assert_eq!(bench.paths(1), [] as [PathBuf; 0], "a changed record is none");
        fs::remove_file(&bench.index.path).unwrap();
        fs::create_dir(&bench.index.path).unwrap();
        assert_eq!(bench.paths(2), [] as [PathBuf; 0]);
    }

    #[test]
    fn it_stays_small_and_keeps_the_youngest() {
        let bench = IndexFixture::new();
        let path = bench.noted("a", 1);
        let held = IndexedContent::look(Root([2; 32]), path).unwrap().unwrap();
        // Long paths: as many bytes with fewer lines to sign.
        let many: String = (0..26_000u32)
            .map(|n| {
                IndexedContent { path: format!("/gone/{n:01000}").into(), ..held.clone() }
                    .line()
                    .unwrap()
            })
            .collect();
        assert!(many.len() as u64 > MAX_INDEX_BYTES);
        fs::write(&bench.index.path, many).unwrap();
        bench.noted("b", 3);
        assert!(fs::metadata(&bench.index.path).unwrap().len() <= MAX_INDEX_BYTES / 2);
        assert_eq!(bench.paths(3).len(), 1);
    }
}
