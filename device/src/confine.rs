//! Below one folder and nowhere else: every name is opened from the folder above it, and no link is followed on the way.
//!
//! On Unix by handles, so that nothing can be swapped between a look and a deed; elsewhere by paths, with a look at each
//! step, which is weaker against somebody who changes the folder at the same moment.

#[cfg(unix)]
mod by_handle;
#[cfg(any(not(unix), test))]
#[cfg_attr(unix, allow(dead_code))]
mod by_path;

#[cfg(unix)]
pub use by_handle::Folder;
#[cfg(not(unix))]
pub use by_path::Folder;

use std::fs::{File, TryLockError};
use std::io;
use std::time::SystemTime;

/// What stands under a name; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub is_file: bool,
    pub size: u64,
    pub modified: Option<SystemTime>,
}

/// Whether this process is the only one that works on the file. The lock goes with the handle.
pub fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        // A file system without locks: as good as alone.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A name that is one step and no more.
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
                    assert!(deep.look("x").unwrap().unwrap().is_file);
                    assert!(root.existing("a").unwrap().is_some() && root.existing("c").unwrap().is_none());
                    let file = deep.open_file("x").unwrap();
                    assert!(deep.is_named(&file, "x").unwrap() && !deep.is_named(&file, "y").unwrap());
                }

                #[test]
                fn nothing_is_replaced() {
                    let dir = tempfile::tempdir().unwrap();
                    let root = Folder::open_root(dir.path()).unwrap();
                    root.open_file("part").unwrap().write_all(b"new").unwrap();
                    fs::write(dir.path().join("there"), b"old").unwrap();
                    assert_eq!(root.rename_new("part", "there").unwrap_err().kind(), ErrorKind::AlreadyExists);
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
                        assert!(root.enter(name).is_err() && root.open_file(name).is_err(), "{name:?}");
                    }
                }

                #[cfg(unix)]
                #[test]
                fn planted_links_are_not_followed() {
                    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                    let root = Folder::open_root(dir.path()).unwrap();
                    std::os::unix::fs::symlink(outside.path(), dir.path().join("folder")).unwrap();
                    std::os::unix::fs::symlink(outside.path().join("f"), dir.path().join("file")).unwrap();
                    assert!(root.enter("folder").is_err());
                    assert!(root.open_file("file").is_err());
                    root.open_file("part").unwrap().write_all(b"x").unwrap();
                    assert!(root.rename_new("part", "file").is_err());
                    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
                }

                #[cfg(unix)]
                #[test]
                fn a_planted_hard_link_is_not_written_through() {
                    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                    fs::write(outside.path().join("precious"), b"1").unwrap();
                    let linked = fs::hard_link(outside.path().join("precious"), dir.path().join("x"));
                    if linked.is_ok() {
                        assert!(Folder::open_root(dir.path()).unwrap().open_file("x").is_err());
                    }
                }
            }
        };
    }
    #[cfg(unix)]
    promises!(handles, crate::confine::by_handle::Folder);
    promises!(paths, crate::confine::by_path::Folder);
}
