//! Below one folder and nowhere else: every name is opened from the folder above it, and no link is
//! followed on the way.
//!
//! On Unix by handles, so that nothing can be swapped between a look and a deed; elsewhere by
//! paths, with a look at each step, which is weaker against somebody who changes the folder at the
//! same moment.

#[cfg(unix)]
mod anchor;
#[cfg(any(not(unix), test))]
#[cfg_attr(unix, allow(dead_code, unreachable_pub))]
mod anchor_by_path;
#[cfg(unix)]
mod by_handle;
#[cfg(any(not(unix), test))]
#[cfg_attr(unix, allow(dead_code, unreachable_pub))]
mod by_path;

#[cfg(unix)]
pub use anchor::Anchor;
#[cfg(not(unix))]
pub use anchor_by_path::Anchor;
#[cfg(unix)]
pub use by_handle::Folder;
#[cfg(not(unix))]
pub use by_path::Folder;

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// The kinds of things that a name can stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// An ordinary file.
    File,
    /// A directory.
    Folder,
    /// A symbolic link.
    Link,
    /// A pipe, a socket, a device.
    Other,
}

/// A description of what stands under a name; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileInfo {
    /// A file, a folder or something else.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// When its content changed last, as programs may set it; `None` where the system does not
    /// tell.
    pub modified: Option<SystemTime>,
    /// When anything about it changed last, in nanoseconds since 1970: no program can set this.
    /// `None` where the system does not tell.
    pub touched: Option<i128>,
    /// The file system that it lies on, and its number there; 0 where the platform has none.
    pub volume: u64,
    /// See `volume`.
    pub inode: u64,
}

impl FileInfo {
    /// Returns true for an ordinary file.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }
}

/// An entry of a folder.
#[derive(Debug)]
pub struct FolderEntry {
    /// Its name in the folder.
    pub name: OsString,
    /// Its description, or why it cannot be described.
    pub found: io::Result<FileInfo>,
}

/// An error: something else than a file or a folder stands there or on the way there, such as a
/// link, a pipe or a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a link, or something else than a file, stands in its place")]
pub struct NotBeneath;

impl NotBeneath {
    /// Returns true if this is what `error` says.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

impl From<NotBeneath> for io::Error {
    fn from(error: NotBeneath) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Opens a file by an absolute path for reading, if no link stands anywhere on the way, and
/// describes it.
pub fn read_unlinked(path: &Path) -> io::Result<(File, FileInfo)> {
    let top = path.ancestors().last().unwrap_or(path);
    let below = path.strip_prefix(top).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Anchor::open(top)?.read(below)
}

/// Describes what stands at an absolute path, if no link stands anywhere on the way.
pub fn look_unlinked(path: &Path) -> io::Result<FileInfo> {
    let top = path.ancestors().last().unwrap_or(path);
    let below = path.strip_prefix(top).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Anchor::open(top)?.look(below)
}

/// A moment as Unix systems count it, also before 1970.
#[cfg(unix)]
fn since_1970(seconds: i64, nanoseconds: u32) -> Option<SystemTime> {
    use std::time::Duration;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let start = match seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(whole)?,
        false => SystemTime::UNIX_EPOCH.checked_add(whole)?,
    };
    start.checked_add(Duration::from_nanos(nanoseconds.into()))
}

/// Locks the file, and returns true if this process is the only one that works on it. The lock goes
/// with the handle.
pub fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        // A file system without locks: as good as alone.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Rejects a name that is more than one step.
fn check(name: &str) -> io::Result<&str> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    if plain && (cfg!(unix) || !name.contains(['\\', ':'])) {
        Ok(name)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain name"))
    }
}

#[cfg(test)]
mod tests {
    //! Both ways keep the same promises.
    macro_rules! promises {
        ($module:ident, $folder:ty) => {
            mod $module {
                use std::fs;
                use std::io::{ErrorKind, Write};

                type Folder = $folder;

                #[test]
                fn files_are_made_below_the_root() {
                    let dir = tempfile::tempdir().unwrap();
                    let root = Folder::open_root(&dir.path().join("new/root")).unwrap();
                    let deep = root.enter("a").unwrap().enter("b").unwrap();
                    deep.open_file("x").unwrap().write_all(b"1").unwrap();
                    assert_eq!(fs::read(dir.path().join("new/root/a/b/x")).unwrap(), b"1");
                    assert_eq!(root.look("x").unwrap(), None);
                    assert!(deep.look("x").unwrap().unwrap().is_file());
                    assert!(
                        root.existing("a").unwrap().is_some()
                            && root.existing("c").unwrap().is_none()
                    );
                    let file = deep.open_file("x").unwrap();
                    assert!(
                        deep.is_named(&file, "x").unwrap() && !deep.is_named(&file, "y").unwrap()
                    );
                }

                #[test]
                fn nothing_is_replaced() {
                    let dir = tempfile::tempdir().unwrap();
                    let root = Folder::open_root(dir.path()).unwrap();
                    root.open_file("part").unwrap().write_all(b"new").unwrap();
                    fs::write(dir.path().join("there"), b"old").unwrap();
                    assert_eq!(
                        root.rename_new("part", "there").unwrap_err().kind(),
                        ErrorKind::AlreadyExists
                    );
                    assert_eq!(fs::read(dir.path().join("there")).unwrap(), b"old");
                    root.rename_new("part", "free").unwrap();
                    assert_eq!(fs::read(dir.path().join("free")).unwrap(), b"new");
                    assert!(!dir.path().join("part").exists());
                }

                #[test]
                fn names_that_are_paths_are_refused() {
                    let dir = tempfile::tempdir().unwrap();
                    let root = Folder::open_root(dir.path()).unwrap();
                    for name in ["", ".", "..", "a/b", "/etc", "a\0b"] {
                        assert!(
                            root.enter(name).is_err() && root.open_file(name).is_err(),
                            "{name:?}"
                        );
                    }
                }

                #[cfg(unix)]
                #[test]
                fn planted_links_are_not_followed() {
                    let (dir, outside) =
                        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                    let root = Folder::open_root(dir.path()).unwrap();
                    std::os::unix::fs::symlink(outside.path(), dir.path().join("folder")).unwrap();
                    std::os::unix::fs::symlink(outside.path().join("f"), dir.path().join("file"))
                        .unwrap();
                    assert!(root.enter("folder").is_err());
                    assert!(root.open_file("file").is_err());
                    root.open_file("part").unwrap().write_all(b"x").unwrap();
                    assert!(root.rename_new("part", "file").is_err());
                    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
                }

                #[cfg(unix)]
                #[test]
                fn a_planted_hard_link_is_not_written_through() {
                    let (dir, outside) =
                        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                    fs::write(outside.path().join("precious"), b"1").unwrap();
                    let linked =
                        fs::hard_link(outside.path().join("precious"), dir.path().join("x"));
                    if linked.is_ok() {
                        assert!(Folder::open_root(dir.path()).unwrap().open_file("x").is_err());
                    }
                }
            }
        };
    }
    #[cfg(unix)]
    promises!(handles, crate::confined_fs::by_handle::Folder);
    promises!(paths, crate::confined_fs::by_path::Folder);

    /// Reads of a shared folder stay beneath it, in each of the ways that there are.
    macro_rules! reads {
        ($module:ident, $open:path) => {
            mod $module {
                use std::fs;
                use std::path::Path;

                use crate::confined_fs::{FileKind, NotBeneath};

                /// A folder `root` with `a/b/file` in it, and `outside` with another file.
                fn ground() -> tempfile::TempDir {
                    let dir = tempfile::tempdir().unwrap();
                    fs::create_dir_all(dir.path().join("root/a/b")).unwrap();
                    fs::create_dir_all(dir.path().join("outside/b")).unwrap();
                    fs::write(dir.path().join("root/a/b/file"), b"inside").unwrap();
                    fs::write(dir.path().join("outside/b/file"), b"canary").unwrap();
                    dir
                }

                fn root(dir: &tempfile::TempDir) -> std::path::PathBuf {
                    fs::canonicalize(dir.path()).unwrap().join("root")
                }

                #[test]
                fn entries_beneath_the_root_are_read_inspected_and_listed() {
                    let dir = ground();
                    let anchor = $open(&root(&dir)).unwrap();
                    let (file, found) = anchor.read(Path::new("a/b/file")).unwrap();
                    assert_eq!(std::io::read_to_string(file).unwrap(), "inside");
                    assert_eq!((found.kind, found.size), (FileKind::File, 6));
                    assert_eq!(anchor.look(Path::new("a/b/file")).unwrap(), found);
                    assert_eq!(anchor.look(Path::new("")).unwrap(), anchor.itself().unwrap());
                    let listed = anchor.list(Path::new("a")).unwrap();
                    let names: Vec<_> =
                        listed.iter().map(|entry| entry.name.to_str().unwrap()).collect();
                    assert_eq!(names, ["b"]);
                    let error = anchor.read(Path::new("a/none")).unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
                    assert!(anchor.list(Path::new("a/b/file")).is_err());
                    assert!(
                        NotBeneath::is(&anchor.read(Path::new("a/b")).unwrap_err()),
                        "a folder is no file"
                    );
                }

                #[test]
                fn no_path_leads_out() {
                    let dir = ground();
                    let anchor = $open(&root(&dir)).unwrap();
                    for path in [
                        "..",
                        "../outside/b/file",
                        "a/../../outside/b/file",
                        "/etc/passwd",
                        "a/b/../b/file/..",
                    ] {
                        assert!(anchor.read(Path::new(path)).is_err(), "{path}");
                        assert!(anchor.list(Path::new(path)).is_err(), "{path}");
                        assert!(anchor.look(Path::new(path)).is_err(), "{path}");
                    }
                }

                #[cfg(unix)]
                #[test]
                fn no_link_is_followed_in_any_component() {
                    use std::os::unix::fs::symlink;
                    let dir = ground();
                    let root = root(&dir);
                    let outside = fs::canonicalize(dir.path()).unwrap().join("outside");
                    let anchor = $open(&root).unwrap();
                    symlink(&outside, root.join("first")).unwrap();
                    symlink("../../outside/b", root.join("a/middle")).unwrap();
                    symlink(outside.join("b/file"), root.join("a/b/last")).unwrap();
                    // Not even one that stays beneath.
                    symlink("file", root.join("a/b/here")).unwrap();
                    for path in ["first/b/file", "a/middle/file", "a/b/last", "a/b/here"] {
                        assert!(anchor.read(Path::new(path)).is_err(), "{path}");
                        let looked = anchor.look(Path::new(path));
                        assert!(
                            looked.is_err()
                                || looked.is_ok_and(|found| found.kind == FileKind::Link),
                            "{path}"
                        );
                    }
                    assert!(NotBeneath::is(&anchor.read(Path::new("a/b/last")).unwrap_err()));
                    for path in ["first", "a/middle"] {
                        assert!(anchor.list(Path::new(path)).is_err(), "{path}");
                    }
                    symlink(&root, outside.join("to-root")).unwrap();
                    assert!(
                        $open(&outside.join("to-root/a")).is_err(),
                        "nor on the way to the root"
                    );
                }

                #[cfg(unix)]
                #[test]
                fn a_pipe_or_socket_is_not_waited_for() {
                    let dir = ground();
                    let (root, pipe) = (root(&dir), root(&dir).join("pipe"));
                    assert!(
                        std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success()
                    );
                    let _socket =
                        std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
                    let anchor = $open(&root).unwrap();
                    for name in ["pipe", "socket"] {
                        assert!(
                            NotBeneath::is(&anchor.read(Path::new(name)).unwrap_err()),
                            "{name}"
                        );
                        assert!(
                            anchor
                                .look(Path::new(name))
                                .is_ok_and(|found| found.kind == FileKind::Other),
                            "{name}"
                        );
                    }
                }
            }
        };
    }
    #[cfg(unix)]
    reads!(one_call, crate::confined_fs::anchor::Anchor::open);
    #[cfg(unix)]
    reads!(steps, crate::confined_fs::anchor::Anchor::open_stepwise);
    reads!(looks, crate::confined_fs::anchor_by_path::Anchor::open);
}
