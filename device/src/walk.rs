//! From paths that a person named to the files below them, with the paths they have on the wire.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lanyard_protocol::EntryKind;
use lanyard_protocol::limits::MAX_FILE_BYTES;

use crate::names::{HAVE_SUFFIX, PART_SUFFIX, numbered};

/// A file, or an empty folder, as it stands on this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    pub path: PathBuf,
    /// On the wire: the name of what was given, and the way from there.
    pub wire: String,
    pub size: u64,
    pub modified: SystemTime,
    pub kind: EntryKind,
    pub volume: Volume,
}

/// The file system that something lies on; where the platform has no number for it, all are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Volume(u64);

impl Volume {
    pub fn of(metadata: &Metadata) -> Self {
        Self(device(metadata))
    }

    /// Whether it is still mounted where `path` was: what is left of the way there lies on it.
    pub fn holds(self, path: &Path) -> bool {
        let nearest = path.ancestors().skip(1).find_map(|folder| fs::metadata(folder).ok());
        nearest.is_some_and(|folder| Self::of(&folder) == self)
    }
}

#[cfg(unix)]
fn device(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::dev(metadata)
}

#[cfg(not(unix))]
fn device(_metadata: &Metadata) -> u64 {
    0
}

/// Something that cannot be shared, and why. The rest can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    pub why: String,
}

/// A path that was given is not there, or cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot share {}: {source}", path.display())]
pub struct WalkError {
    pub path: PathBuf,
    pub source: io::Error,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    pub files: Vec<FoundFile>,
    pub skipped: Vec<Skipped>,
}

/// All files below `paths`, in the order of their names. Links are followed where a person named them, not below.
pub fn walk(paths: &[PathBuf]) -> Result<Walked, WalkError> {
    let (mut walked, mut names, mut seen) = (Walked::default(), HashSet::new(), HashSet::new());
    for path in paths {
        let absolute = fs::canonicalize(path).map_err(|source| WalkError { path: path.clone(), source })?;
        let metadata = fs::metadata(&absolute).map_err(|source| WalkError { path: path.clone(), source })?;
        if !seen.insert(absolute.clone()) {
            continue;
        }
        let Some(name) = root_name(path, &absolute) else {
            walked.skip(&absolute, "its name is not UTF-8");
            continue;
        };
        let name = free_name(name, &mut names);
        walked.visit(absolute, name, metadata);
    }
    Ok(walked)
}

/// The name that was given (`.` and `..` have none of their own), else that of what it leads to.
fn root_name(given: &Path, absolute: &Path) -> Option<String> {
    let name = given.file_name().or_else(|| absolute.file_name());
    name.map_or(Some("files"), |name| name.to_str()).map(String::from)
}

/// Two things with one name are shared under two.
fn free_name(wanted: String, taken: &mut HashSet<String>) -> String {
    let mut name = wanted.clone();
    for n in 1.. {
        if taken.insert(name.clone()) {
            break;
        }
        name = numbered(&wanted, n);
    }
    name
}

impl Walked {
    fn skip(&mut self, path: &Path, why: impl Into<String>) {
        self.skipped.push(Skipped { path: path.into(), why: why.into() });
    }

    fn visit(&mut self, path: PathBuf, wire: String, metadata: Metadata) {
        let mut folders = Vec::new();
        self.take(path, wire, metadata, &mut folders);
        while let Some((path, wire, metadata)) = folders.pop() {
            match entries(&path) {
                Ok(entries) if entries.is_empty() => self.keep(path, wire, EntryKind::Folder, &metadata),
                Ok(entries) => self.entries(&path, &wire, entries, &mut folders),
                Err(error) => self.skip(&path, error.to_string()),
            }
        }
        self.files.sort_by(|a, b| a.wire.cmp(&b.wire));
    }

    fn entries(&mut self, folder: &Path, wire: &str, entries: Vec<fs::DirEntry>, folders: &mut Vec<FolderToDo>) {
        for entry in entries {
            let path = folder.join(entry.file_name());
            let Some(name) = entry.file_name().to_str().map(String::from) else {
                self.skip(&path, "its name is not UTF-8");
                continue;
            };
            if name.ends_with(PART_SUFFIX) || name.ends_with(HAVE_SUFFIX) {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) => self.take(path, format!("{wire}/{name}"), metadata, folders),
                Err(error) => self.skip(&path, error.to_string()),
            }
        }
    }

    fn take(&mut self, path: PathBuf, wire: String, metadata: Metadata, folders: &mut Vec<FolderToDo>) {
        if metadata.is_dir() {
            folders.push((path, wire, metadata));
        } else if metadata.is_file() {
            self.keep(path, wire, EntryKind::File, &metadata);
        } else if metadata.is_symlink() {
            self.skip(&path, "it is a link, and links are not followed");
        } else {
            self.skip(&path, "it is neither a file nor a folder");
        }
    }

    fn keep(&mut self, path: PathBuf, wire: String, kind: EntryKind, metadata: &Metadata) {
        let size = if kind == EntryKind::File { metadata.len() } else { 0 };
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if let Err(error) = lanyard_protocol::path::validate(&wire) {
            return self.skip(&path, error.to_string());
        }
        if size > MAX_FILE_BYTES {
            return self.skip(&path, "it is larger than 1 TiB");
        }
        self.files.push(FoundFile { path, wire, size, modified, kind, volume: Volume::of(metadata) });
    }
}

type FolderToDo = (PathBuf, String, Metadata);

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

/// A media type by the ending of a name, for what browsers show by themselves; else nothing.
pub fn media_type(name: &str) -> &'static str {
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
        let walked = walk(std::slice::from_ref(&root)).unwrap();
        assert_eq!(wires(&walked), ["album/1.jpg", "album/b/2.jpg", "album/b/empty"]);
        assert_eq!((walked.files[1].size, walked.files[2].kind), (2, EntryKind::Folder));
        assert_eq!(walked.skipped, []);
    }

    #[test]
    fn what_is_named_twice_is_shared_once_and_what_has_one_name_under_two() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["x", "y"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("a.txt"), folder).unwrap();
        }
        let paths = ["x/a.txt", "y/a.txt", "x/../x/a.txt"].map(|path| dir.path().join(path));
        let mut walked = walk(&paths).unwrap();
        walked.files.sort_by_key(|file| file.path.clone());
        assert_eq!(wires(&walked), ["a.txt", "a (1).txt"]);
    }

    #[test]
    fn a_missing_path_is_an_error_and_nothing_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        assert!(walk(&[dir.path().to_path_buf(), dir.path().join("nothing")]).is_err());
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
        let walked = walk(&[dir.path().join("named"), dir.path().join("folder")]).unwrap();
        assert_eq!(wires(&walked), ["named"]);
        assert_eq!(walked.skipped.len(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_travel_is_reported_and_the_rest_goes() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("r");
        fs::create_dir(&root).unwrap();
        for name in [&b"ok"[..], b"not-utf8-\xff", b"back\\slash", b"new\nline"] {
            fs::write(root.join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
        }
        let walked = walk(&[root]).unwrap();
        assert_eq!(wires(&walked), ["r/ok"]);
        assert_eq!(walked.skipped.len(), 3);
    }
}
