//! Unix: every step is an `openat` of one plain name with `O_NOFOLLOW`, which cannot leave the
//! folder that it starts from.

#![expect(clippy::disallowed_methods, reason = "this is the one place: beneath an open folder")]

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::anchor::found;
use super::{FileInfo, check};

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
    /// For showing only.
    path: PathBuf,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Folder {
    /// Opens the folder that a person named, and makes it if it is not there. Links on the way to
    /// it are that person's own.
    pub fn open_root(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let handle = rustix::fs::open(path, FOLDER, Mode::empty())?;
        Ok(Self { handle, path: path.into() })
    }

    /// Opens the same folder once more, by a handle of its own.
    pub fn another(&self) -> io::Result<Self> {
        Ok(Self { handle: self.handle.try_clone()?, path: self.path.clone() })
    }

    /// Returns the path of the folder, for showing.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the bytes that this account may still write here, where the system tells.
    pub fn room(&self) -> Option<u64> {
        // Some file systems have no size at all.
        let stat = rustix::fs::fstatvfs(&self.handle).ok().filter(|stat| stat.f_blocks > 0)?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    /// Opens the folder `name` in this one, and makes it if it is not there.
    pub fn enter(&self, name: &str) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.handle, check(name)?, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.existing(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Opens the folder `name` in this one, if there is one.
    pub fn existing(&self, name: &str) -> io::Result<Option<Self>> {
        match rustix::fs::openat(
            &self.handle,
            check(name)?,
            FOLDER.union(OFlags::NOFOLLOW),
            Mode::empty(),
        ) {
            Ok(handle) => Ok(Some(Self { handle, path: self.path.join(name) })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the file `name` for reading and writing; it is made if it is not there.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file =
            rustix::fs::openat(&self.handle, check(name)?, flags, Mode::from_raw_mode(0o666))?;
        let stat = rustix::fs::fstat(&file)?;
        if !found(&stat).is_file() || stat.st_nlink > 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "something else than a file of its own is there",
            ));
        }
        Ok(File::from(file))
    }

    /// Opens the file `name` for reading, if there is one.
    pub fn read_file(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(&self.handle, check(name)?, flags, Mode::empty()) {
            Ok(file) if found(&rustix::fs::fstat(&file)?).is_file() => Ok(Some(File::from(file))),
            Ok(_) => Err(super::NotBeneath.into()),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Describes what stands under `name`.
    pub fn look(&self, name: &str) -> io::Result<Option<FileInfo>> {
        match rustix::fs::statat(&self.handle, check(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(found(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns true if this open file is what stands under `name`.
    pub fn is_named(&self, file: &File, name: &str) -> io::Result<bool> {
        let open = rustix::fs::fstat(file)?;
        match rustix::fs::statat(&self.handle, check(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the file `name` from this folder.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.handle, check(name)?, AtFlags::empty())?)
    }

    /// Gives a file its name; `AlreadyExists` if something has it.
    pub fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (check(from)?, check(to)?);
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        match rustix::fs::renameat_with(
            &self.handle,
            from,
            &self.handle,
            to,
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return Ok(done?),
        }
        self.link_new(from, to)
    }

    /// For file systems that cannot rename so: a second name, then the first one goes; or a
    /// placeholder to rename over.
    fn link_new(&self, from: &str, to: &str) -> io::Result<()> {
        match rustix::fs::linkat(&self.handle, from, &self.handle, to, AtFlags::empty()) {
            Ok(()) => return self.remove_file(from),
            Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
            Err(_) => {}
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.handle, to, flags, Mode::from_raw_mode(0o666))?;
        Ok(rustix::fs::renameat(&self.handle, from, &self.handle, to)?)
    }

    /// Makes the names in this folder survive a power cut.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.handle)?)
    }

    /// Makes everything on the disk of this folder survive a power cut: cheaper than file by file
    /// when there are many.
    pub fn sync_all(&self) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        return Ok(rustix::fs::syncfs(&self.handle)?);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            rustix::fs::sync();
            Ok(())
        }
    }
}

impl Folder {
    /// Returns a name for as long as what was written here without a sync can be read back: this
    /// run of the system, and this mounting of the disk. Returns `None` where the system does not
    /// tell.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn life(&self) -> Option<[u8; 32]> {
        use rustix::fs::StatxFlags;
        let boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        let stat =
            rustix::fs::statx(&self.handle, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
        if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&boot).update(&stat.stx_mnt_id.to_le_bytes());
        hasher.update(&stat.stx_dev_major.to_le_bytes()).update(&stat.stx_dev_minor.to_le_bytes());
        Some(*hasher.finalize().as_bytes())
    }

    /// Returns `None`: the system does not tell.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub fn life(&self) -> Option<[u8; 32]> {
        None
    }
}
