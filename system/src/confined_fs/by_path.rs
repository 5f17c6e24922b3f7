//! Everywhere else: by paths, with a look at each step that no link stands there.

#![allow(
    clippy::disallowed_methods,
    reason = "the one place where a system knows no calls beneath an open folder"
)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::{FileInfo, anchor_by_path::found, check};

/// A folder, by its path.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_string())
}

impl Folder {
    /// Opens the folder that a person named, and makes it if it is not there. Links on the way to
    /// it are that person's own.
    pub fn open_root(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: fs::canonicalize(path)? })
    }

    /// Opens the same folder once more.
    pub fn another(&self) -> io::Result<Self> {
        Ok(Self { path: self.path.clone() })
    }

    /// Returns the path of the folder, for showing.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns `None`: the bytes that may still be written here are unknown.
    pub fn room(&self) -> Option<u64> {
        None
    }

    /// Returns `None`: how long bytes without a sync can be read back is unknown.
    pub fn life(&self) -> Option<[u8; 32]> {
        None
    }

    /// Opens the folder `name` in this one, and makes it if it is not there.
    pub fn enter(&self, name: &str) -> io::Result<Self> {
        match fs::create_dir(self.path.join(check(name)?)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.existing(name)?.ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    /// Opens the folder `name` in this one, if there is one.
    pub fn existing(&self, name: &str) -> io::Result<Option<Self>> {
        let path = self.path.join(check(name)?);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => Ok(Some(Self { path })),
            Ok(_) => Err(refused("something else than a folder is there")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the file `name` for reading and writing; it is made if it is not there.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        if self.look(name)?.is_some_and(|found| !found.is_file()) {
            return Err(refused("something else than a file is there"));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path.join(name))?;
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 1 {
            return Err(refused("something else than a file of its own is there"));
        }
        Ok(file)
    }

    /// Opens the file `name` for reading, if there is one.
    pub fn read_file(&self, name: &str) -> io::Result<Option<File>> {
        match self.look(name)? {
            Some(found) if found.is_file() => File::open(self.path.join(name)).map(Some),
            Some(_) => Err(refused("something else than a file is there")),
            None => Ok(None),
        }
    }

    /// Describes what stands under `name`.
    pub fn look(&self, name: &str) -> io::Result<Option<FileInfo>> {
        match fs::symlink_metadata(self.path.join(check(name)?)) {
            Ok(metadata) => Ok(Some(found(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns true if anything stands under `name`: by a path, no open file is told from another.
    pub fn is_named(&self, _: &File, name: &str) -> io::Result<bool> {
        Ok(self.look(name)?.is_some())
    }

    /// Removes the file `name` from this folder.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(check(name)?))
    }

    /// Gives a file its name; `AlreadyExists` if something has it.
    pub fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path.join(check(from)?), self.path.join(check(to)?));
        match fs::hard_link(&from, &to) {
            Ok(()) => return fs::remove_file(&from),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
        OpenOptions::new().write(true).create_new(true).open(&to)?;
        fs::rename(from, to)
    }

    /// Does nothing: a folder cannot be synced here.
    pub fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// Does nothing, as `sync`.
    pub fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
}
