//! Everywhere else: by paths. Each step is looked at before and after a file is opened, and a link
//! anywhere is refused.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::{FileInfo, FileKind, FolderEntry, NotBeneath};

/// A folder, by its path.
#[derive(Debug)]
pub struct Anchor {
    path: PathBuf,
}

impl Anchor {
    /// Opens the folder at an absolute path that has no link in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !fs::symlink_metadata(path)?.is_dir() || fs::canonicalize(path)? != path {
            return Err(NotBeneath.into());
        }
        Ok(Self { path: path.into() })
    }

    /// Describes the folder itself.
    pub fn itself(&self) -> io::Result<FileInfo> {
        Ok(found(&fs::symlink_metadata(&self.path)?))
    }

    /// The way to `below`, which has no link in it at this moment.
    fn way(&self, below: &Path) -> io::Result<PathBuf> {
        let mut path = self.path.clone();
        let mut steps = below.components().peekable();
        while let Some(step) = steps.next() {
            let Component::Normal(name) = step else { return Err(NotBeneath.into()) };
            path.push(name);
            if steps.peek().is_some() && !fs::symlink_metadata(&path)?.is_dir() {
                return Err(NotBeneath.into());
            }
        }
        Ok(path)
    }

    /// Opens the file at `below` for reading, and describes it.
    pub fn read(&self, below: &Path) -> io::Result<(File, FileInfo)> {
        let before = self.look(below)?;
        if before.kind != FileKind::File {
            return Err(NotBeneath.into());
        }
        let file = File::open(self.way(below)?)?;
        let opened = FileInfo::of(&file)?;
        let after = self.look(below)?;
        if opened == before && after == before {
            Ok((file, opened))
        } else {
            Err(NotBeneath.into())
        }
    }

    /// Describes what stands at `below`.
    pub fn look(&self, below: &Path) -> io::Result<FileInfo> {
        Ok(found(&fs::symlink_metadata(self.way(below)?)?))
    }

    /// Lists the folder at `below`, in the order of names.
    pub fn list(&self, below: &Path) -> io::Result<Vec<FolderEntry>> {
        let path = self.way(below)?;
        if !fs::symlink_metadata(&path)?.is_dir() {
            return Err(NotBeneath.into());
        }
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok(FolderEntry {
                name: entry.file_name(),
                found: entry.metadata().map(|metadata| found(&metadata)),
            })
        };
        let mut entries = fs::read_dir(&path)?.map(entry).collect::<io::Result<Vec<_>>>()?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

#[cfg(not(unix))]
impl FileInfo {
    /// Describes an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(found(&file.metadata()?))
    }
}

pub(super) fn found(metadata: &Metadata) -> FileInfo {
    let kind = match metadata.file_type() {
        kind if kind.is_symlink() => FileKind::Link,
        kind if kind.is_dir() => FileKind::Folder,
        kind if kind.is_file() => FileKind::File,
        _ => FileKind::Other,
    };
    #[cfg(unix)]
    let (volume, inode, touched) = {
        use std::os::unix::fs::MetadataExt;
        let touched =
            i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
        (metadata.dev(), metadata.ino(), Some(touched))
    };
    #[cfg(not(unix))]
    let (volume, inode, touched) = (0, 0, None);
    FileInfo {
        kind,
        size: metadata.len(),
        modified: metadata.modified().ok(),
        touched,
        volume,
        inode,
    }
}
