//! Unix: an open folder, and everything beneath it by one relative path. Where the kernel can
//! (`openat2`), it keeps the way beneath the folder and free of links in one call; elsewhere each
//! step is an `openat` with `O_NOFOLLOW`.

#![allow(
    clippy::unnecessary_cast,
    reason = "the numbers of a stat have other types on other systems"
)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{FileInfo, FileKind, FolderEntry, NotBeneath, since_1970};

/// Opens a folder only to go on from it: `O_PATH` asks for no permission to list it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const PASS: OFlags = OFlags::PATH;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const PASS: OFlags = OFlags::RDONLY;
/// A pipe or a device that stands in the way of a file does not hold the reader up.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const COMMON: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);

/// An open folder.
#[derive(Debug)]
pub struct Anchor {
    handle: OwnedFd,
    /// Goes step by step although the kernel could do better.
    #[cfg(test)]
    stepwise: bool,
}

impl Anchor {
    /// Opens the folder at an absolute path that has no link in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let top =
            Self::of(rustix::fs::open("/", PASS | OFlags::DIRECTORY | COMMON, Mode::empty())?);
        let below =
            path.strip_prefix("/").map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        if below.as_os_str().is_empty() {
            return Ok(top);
        }
        Ok(Self::of(top.open_beneath(below, PASS | OFlags::DIRECTORY)?))
    }

    fn of(handle: OwnedFd) -> Self {
        Self {
            handle,
            #[cfg(test)]
            stepwise: false,
        }
    }

    #[cfg(test)]
    pub(super) fn open_stepwise(path: &Path) -> io::Result<Self> {
        Ok(Self { stepwise: true, ..Self::open(path)? })
    }

    /// Describes the folder itself.
    pub fn itself(&self) -> io::Result<FileInfo> {
        Ok(found(&rustix::fs::fstat(&self.handle)?))
    }

    /// Opens the file at `below` for reading, and describes it.
    pub fn read(&self, below: &Path) -> io::Result<(File, FileInfo)> {
        let opened = self.open_beneath(below, READ).and_then(|handle| {
            let file = File::from(handle);
            let found = FileInfo::of(&file)?;
            Ok((file, found))
        });
        match opened {
            Ok((file, found)) if found.is_file() => Ok((file, found)),
            Ok(_) => Err(NotBeneath.into()),
            // Some systems say of a socket that no such device is there, others that it cannot be
            // opened.
            Err(_) if self.look(below).is_ok_and(|found| !found.is_file()) => {
                Err(NotBeneath.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Describes what stands at `below`, if no link stands on the way there.
    pub fn look(&self, below: &Path) -> io::Result<FileInfo> {
        if below.as_os_str().is_empty() {
            return self.itself();
        }
        let (Some(name), Some(folder)) = (below.file_name(), below.parent()) else {
            return Err(NotBeneath.into());
        };
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.goes_in_one_call() {
            return Ok(found(&rustix::fs::fstat(self.open_beneath(below, PASS)?)?));
        }
        let folder = self.open_beneath(folder, PASS | OFlags::DIRECTORY)?;
        Ok(found(&rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn goes_in_one_call(&self) -> bool {
        #[cfg(test)]
        return !self.stepwise;
        #[cfg(not(test))]
        true
    }

    /// Lists the folder at `below`, in the order of names.
    pub fn list(&self, below: &Path) -> io::Result<Vec<FolderEntry>> {
        let mut folder = Dir::new(self.open_beneath(below, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
        let mut entries = Vec::new();
        while let Some(entry) = folder.read() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                let stat = rustix::fs::statat(folder.fd()?, name, AtFlags::SYMLINK_NOFOLLOW);
                let found = stat.map(|stat| found(&stat)).map_err(io::Error::from);
                entries.push(FolderEntry {
                    name: OsString::from(OsStr::from_bytes(name.to_bytes())),
                    found,
                });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open_beneath(&self, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        if let Some(opened) = self.in_one_call(below, flags | COMMON) {
            return opened.map_err(no_link);
        }
        self.in_steps(below, flags | COMMON).map_err(no_link)
    }

    /// `None`: this kernel, or what guards it, does not know the call.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn in_one_call(&self, below: &Path, flags: OFlags) -> Option<rustix::io::Result<OwnedFd>> {
        use rustix::fs::ResolveFlags;
        if !self.goes_in_one_call() {
            return None;
        }
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.handle, below, flags, Mode::empty(), resolve) {
            // Containers that do not know the call refuse it with EPERM. EAGAIN: something was
            // renamed meanwhile.
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => None,
            opened => Some(opened),
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn in_one_call(&self, _: &Path, _: OFlags) -> Option<rustix::io::Result<OwnedFd>> {
        None
    }

    fn in_steps(&self, below: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut steps = below.components().peekable();
        let mut folder: Option<OwnedFd> = None;
        while let Some(step) = steps.next() {
            let name = match step {
                Component::Normal(name) => name,
                Component::CurDir => OsStr::new("."),
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(Errno::XDEV);
                }
            };
            let flags =
                if steps.peek().is_none() { flags } else { PASS | OFlags::DIRECTORY | COMMON };
            let from = folder.as_ref().unwrap_or(&self.handle);
            folder = Some(rustix::fs::openat(from, name, flags, Mode::empty())?);
        }
        folder.ok_or(Errno::INVAL)
    }
}

/// A link, and a way that leads out, are one and the same to whoever reads.
fn no_link(error: Errno) -> io::Error {
    match error {
        // EMLINK: a link on FreeBSD.
        Errno::LOOP | Errno::MLINK | Errno::XDEV => NotBeneath.into(),
        error => error.into(),
    }
}

impl FileInfo {
    /// Describes an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(found(&rustix::fs::fstat(file)?))
    }
}

pub(super) fn found(stat: &Stat) -> FileInfo {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Folder,
        FileType::Symlink => FileKind::Link,
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => FileKind::Other,
    };
    FileInfo {
        kind,
        size: stat.st_size as u64,
        modified: since_1970(stat.st_mtime as i64, stat.st_mtime_nsec as u32),
        touched: Some(
            i128::from(stat.st_ctime as i64) * 1_000_000_000 + stat.st_ctime_nsec as i128,
        ),
        volume: stat.st_dev as u64,
        inode: stat.st_ino as u64,
    }
}
