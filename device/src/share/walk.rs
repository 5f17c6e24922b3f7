//! From paths that a person named to the files below them, with the paths they have on the wire.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use lanyard_protocol::EntryKind;
use lanyard_protocol::limits::MAX_FILE_BYTES;
use lanyard_system::confined_fs::{Anchor, FileInfo, FileKind, FolderEntry};

use crate::download::file_names::{HAVE_SUFFIX, PART_SUFFIX, TakenNames};
use crate::share::shared_root::{
    DataDir, SharedRoot, SharedRoots, is_data_dir, leads_through_data_dir,
};

/// A file, or an empty folder, as it stands on this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundFile {
    /// The folder that a person named, or that of a file that was named.
    pub root: Arc<SharedRoot>,
    /// The way from there.
    pub below: PathBuf,
    /// On the wire: the name of what was given, and the way from there.
    pub wire: String,
    pub size: u64,
    pub modified: SystemTime,
    pub kind: EntryKind,
    /// The file system that it lies on.
    pub volume: u64,
}

/// Something that cannot be shared, and why. The rest can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    pub why: String,
}

/// A path that was given cannot be shared, and so nothing is.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// It is not there, or cannot be looked at.
    #[error("cannot share {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot share {}: it lies in a data directory of Lanyard, which holds keys and is never shared", path.display())]
    DataDirectory { path: PathBuf },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    pub files: Vec<FoundFile>,
    pub skipped: Vec<Skipped>,
}

/// Lists all files below `paths`, in the order of their names. Links are followed where a person
/// named them, once, and not below.
pub(crate) fn walk(paths: &[PathBuf], roots: &SharedRoots) -> Result<Walked, WalkError> {
    let mut names = TakenNames::default();
    let mut seen = HashSet::new();
    let mut checked = HashMap::new();
    let mut walk = Walk { walked: Walked::default(), in_use: roots.in_use() };
    for path in paths {
        let unreadable = |source| WalkError::Unreadable { path: path.clone(), source };
        let absolute = fs::canonicalize(path).map_err(unreadable)?;
        if !seen.insert(absolute.clone()) {
            continue;
        }
        let named = NamedPath::resolve(absolute, roots).map_err(unreadable)?;
        if *checked
            .entry(named.folder().to_path_buf())
            .or_insert_with(|| walk.is_private(named.folder()))
        {
            return Err(WalkError::DataDirectory { path: path.clone() });
        }
        let Some(name) = root_name(path, &named.absolute) else {
            walk.skip(&named.absolute, "its name is not UTF-8");
            continue;
        };
        // Two things with one name are shared under two.
        walk.visit(named, names.take(name, str::to_owned));
    }
    Ok(walk.walked)
}

/// A path that a person named, resolved.
struct NamedPath {
    absolute: PathBuf,
    root: Arc<SharedRoot>,
    below: PathBuf,
    found: FileInfo,
}

impl NamedPath {
    /// The root of a folder is the folder, of a file the folder that holds it.
    fn resolve(absolute: PathBuf, roots: &SharedRoots) -> io::Result<Self> {
        if fs::symlink_metadata(&absolute)?.is_dir() {
            let root = roots.at(&absolute)?;
            let found = root.look(Path::new(""))?;
            return Ok(Self { absolute, root, below: PathBuf::new(), found });
        }
        let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let root = roots.at(folder)?;
        let below = PathBuf::from(name);
        let found = root.look(&below)?;
        Ok(Self { absolute, root, below, found })
    }

    fn folder(&self) -> &Path {
        self.root.path()
    }
}

/// The name that was given (`.` and `..` have none of their own), else that of what it leads to.
fn root_name(given: &Path, absolute: &Path) -> Option<String> {
    let name = given.file_name().or_else(|| absolute.file_name());
    name.map_or(Some("files"), |name| name.to_str()).map(String::from)
}

/// One walk, and what it has found.
struct Walk {
    walked: Walked,
    in_use: Option<DataDir>,
}

/// Something that was found below a root.
struct FoundPath<'r> {
    root: &'r Arc<SharedRoot>,
    below: PathBuf,
    wire: String,
    found: FileInfo,
}

impl FoundPath<'_> {
    fn path(&self) -> PathBuf {
        self.root.path().join(&self.below)
    }
}

impl Walk {
    /// Whether a folder that a person named is a data directory, or lies in one.
    fn is_private(&self, folder: &Path) -> bool {
        let top = folder.ancestors().last().unwrap_or(folder);
        let (Ok(anchor), Ok(below)) = (Anchor::open(top), folder.strip_prefix(top)) else {
            return false;
        };
        leads_through_data_dir(self.in_use.as_ref(), top, below, |below| anchor.look(below))
    }

    fn skip(&mut self, path: &Path, why: impl Into<String>) {
        self.walked.skipped.push(Skipped { path: path.into(), why: why.into() });
    }

    fn visit(&mut self, named: NamedPath, wire: String) {
        let mut folders = Vec::new();
        let NamedPath { root, below, found, .. } = named;
        self.take(FoundPath { root: &root, below, wire, found }, &mut folders);
        while let Some(place) = folders.pop() {
            match root.list(&place.below) {
                Ok(entries) if entries.is_empty() => self.keep(place, EntryKind::Folder),
                Ok(entries)
                    if is_data_dir(self.in_use.as_ref(), &place.path(), &place.found, &entries) =>
                {
                    self.skip(&place.path(), "it is a data directory of Lanyard, which holds keys");
                }
                Ok(entries) => self.entries(&place, entries, &mut folders),
                Err(error) => self.skip(&place.path(), error.to_string()),
            }
        }
        self.walked.files.sort_by(|a, b| a.wire.cmp(&b.wire));
    }

    fn entries<'r>(
        &mut self,
        folder: &FoundPath<'r>,
        entries: Vec<FolderEntry>,
        folders: &mut Vec<FoundPath<'r>>,
    ) {
        for FolderEntry { name, found } in entries {
            let below = folder.below.join(&name);
            let Some(name) = name.to_str() else {
                self.skip(&folder.root.path().join(below), "its name is not UTF-8");
                continue;
            };
            if name.ends_with(PART_SUFFIX) || name.ends_with(HAVE_SUFFIX) {
                continue;
            }
            let wire = format!("{}/{name}", folder.wire);
            match found {
                Ok(found) => {
                    self.take(FoundPath { root: folder.root, below, wire, found }, folders)
                }
                Err(error) => self.skip(&folder.root.path().join(below), error.to_string()),
            }
        }
    }

    fn take<'r>(&mut self, place: FoundPath<'r>, folders: &mut Vec<FoundPath<'r>>) {
        match place.found.kind {
            FileKind::Folder => folders.push(place),
            FileKind::File => self.keep(place, EntryKind::File),
            FileKind::Link => self.skip(&place.path(), "it is a link, and links are not followed"),
            FileKind::Other => self.skip(&place.path(), "it is neither a file nor a folder"),
        }
    }

    fn keep(&mut self, place: FoundPath, kind: EntryKind) {
        if let Err(error) = lanyard_protocol::path::validate(&place.wire) {
            return self.skip(&place.path(), error.to_string());
        }
        let FoundPath { root, below, wire, found } = place;
        let size = if kind == EntryKind::File { found.size } else { 0 };
        let modified = found.modified.unwrap_or(SystemTime::UNIX_EPOCH);
        if size > MAX_FILE_BYTES {
            return self.skip(&root.path().join(below), "it is larger than 1 TiB");
        }
        let root = root.clone();
        self.walked.files.push(FoundFile {
            root,
            below,
            wire,
            size,
            modified,
            kind,
            volume: found.volume,
        });
    }
}

/// A media type by the ending of a name, for what browsers show by themselves; else nothing.
pub(crate) fn media_type(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    match ending.as_deref().unwrap_or_default() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "heic" => "image/heic",
        "svg" => "image/svg+xml",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "mp4" | "m4v" => "video/mp4",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "avi" => "video/x-msvideo",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "flac" => "audio/flac",
        "ogg" | "oga" => "audio/ogg",
        "opus" => "audio/opus",
        "wav" => "audio/wav",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "json" => "application/json",
        "txt" | "log" | "md" => "text/plain",
        "csv" => "text/csv",
        "html" | "htm" => "text/html",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(paths: &[PathBuf]) -> Result<Walked, WalkError> {
        walk(paths, &SharedRoots::default())
    }

    fn wires(walked: &Walked) -> Vec<&str> {
        walked.files.iter().map(|file| file.wire.as_str()).collect()
    }

    #[test]
    fn a_folder_is_its_files_and_an_empty_one_is_itself() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("album");
        fs::create_dir_all(root.join("b/empty")).unwrap();
        fs::write(root.join("b/2.jpg"), b"22").unwrap();
        fs::write(root.join("1.jpg"), b"1").unwrap();
        fs::write(root.join("x.12345678.lanyard-part"), b"1").unwrap();
        let walked = walked(std::slice::from_ref(&root)).unwrap();
        assert_eq!(wires(&walked), ["album/1.jpg", "album/b/2.jpg", "album/b/empty"]);
        assert_eq!((walked.files[1].size, walked.files[2].kind), (2, EntryKind::Folder));
        assert_eq!(walked.skipped, []);
    }

    #[test]
    fn a_path_named_twice_is_shared_once_and_two_folders_of_one_name_get_two_names() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["x", "y"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("a.txt"), folder).unwrap();
        }
        let paths = ["x/a.txt", "y/a.txt", "x/../x/a.txt"].map(|path| dir.path().join(path));
        let mut walked = walked(&paths).unwrap();
        walked.files.sort_by_key(|file| file.root.path().join(&file.below));
        assert_eq!(wires(&walked), ["a.txt", "a (1).txt"]);
    }

    #[test]
    fn a_missing_path_is_an_error_and_nothing_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        assert!(walked(&[dir.path().to_path_buf(), dir.path().join("nothing")]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_where_named_and_not_below() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("real"), b"123").unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        symlink("../real", dir.path().join("folder/inside")).unwrap();
        symlink("folder", dir.path().join("folder/loop")).unwrap();
        symlink("real", dir.path().join("named")).unwrap();
        let walked = walked(&[dir.path().join("named"), dir.path().join("folder")]).unwrap();
        assert_eq!(wires(&walked), ["named"]);
        assert_eq!(walked.skipped.len(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_cannot_be_sent_is_reported_and_the_rest_is_shared() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("r");
        fs::create_dir(&root).unwrap();
        for name in [&b"ok"[..], b"not-utf8-\xff", b"back\\slash", b"new\nline"] {
            fs::write(root.join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
        }
        let walked = walked(&[root]).unwrap();
        assert_eq!(wires(&walked), ["r/ok"]);
        assert_eq!(walked.skipped.len(), 3);
    }
}
