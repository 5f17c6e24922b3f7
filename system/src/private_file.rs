//! Files of the program's own folder, which only their owner may read. A link in the place of one
//! is refused, and one that others may read is narrowed to its owner. Small ones are replaced whole
//! or not at all: keys, secrets, the list of known hubs.

#![expect(
    clippy::disallowed_methods,
    reason = "keys and lists in the program's own folder, by names of its own"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A private file that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// It could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    #[allow(missing_docs, reason = "named by the message")]
    Read { path: PathBuf, source: io::Error },
    /// It could not be made or replaced.
    #[error("cannot write {}: {source}; check that the folder exists, belongs to you and has room", path.display())]
    #[allow(missing_docs, reason = "named by the message")]
    Write { path: PathBuf, source: io::Error },
}

/// Opens a file as `options` say. A link in its place, or anything else that is no file, is an
/// error. A new file is for its owner only; a file that others may read is narrowed to its owner,
/// and a warning is logged.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Without NONBLOCK a planted pipe would hold the program until somebody writes into it.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits() as i32);
    }
    #[cfg(not(unix))]
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        return Err(no_file("a symbolic link"));
    }
    let file = options.open(path).map_err(refused_link)?;
    if !file.metadata()?.is_file() {
        return Err(no_file("something else"));
    }
    #[cfg(unix)]
    narrow(&file, path)?;
    Ok(file)
}

fn no_file(found: &str) -> io::Error {
    let said =
        format!("{found} stands where a file of this program should; look at it, and move it away");
    io::Error::new(io::ErrorKind::InvalidInput, said)
}

fn refused_link(error: io::Error) -> io::Error {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return no_file("a symbolic link");
    }
    error
}

/// Takes away what others may do with it. Some disks know no owners, and some files are another
/// user's: that is only said.
#[cfg(unix)]
fn narrow(file: &File, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let about = file.metadata()?;
    let mode = about.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    match file.set_permissions(fs::Permissions::from_mode(mode & !0o077)) {
        // An empty one told nobody anything: locks of older versions are such.
        Ok(()) if about.len() == 0 => {}
        Ok(()) => tracing::warn!(
            "{} was open to other users of this machine (mode {mode:o}); it is its owner's alone from now on",
            path.display()
        ),
        Err(error) => {
            tracing::warn!(
                "{} is open to other users of this machine (mode {mode:o}): {error}",
                path.display()
            );
        }
    }
    Ok(())
}

/// Returns the file's bytes; if there is no file yet, makes it of what `make` returns. Two
/// processes that race get the same bytes.
pub fn read_or_create(
    path: &Path,
    make: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, PrivateFileError> {
    if let Some(bytes) = read(path)? {
        return Ok(bytes);
    }
    let failed = |source| PrivateFileError::Write { path: path.into(), source };
    let folder = create_folder(path).map_err(failed)?;
    let temporary = write_temporary(path, &make()).map_err(failed)?;
    // A hard link fails where the name is taken: who comes second reads what the first one wrote.
    let linked = match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => {
            fs::rename(&temporary, path)
        }
        _ => Ok(()),
    };
    let _ = fs::remove_file(&temporary);
    linked.and_then(|()| sync_folder(&folder)).map_err(failed)?;
    read(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// Returns the file's bytes, or `None` if there is no file.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, PrivateFileError> {
    let mut bytes = Vec::new();
    match open(path, File::options().read(true)).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PrivateFileError::Read { path: path.into(), source }),
    }
}

/// Replaces the file's bytes; after a crash it holds the old ones or the new ones.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let replace = || {
        let folder = create_folder(path)?;
        let temporary = write_temporary(path, bytes)?;
        fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        sync_folder(&folder)
    };
    replace().map_err(|source| PrivateFileError::Write { path: path.into(), source })
}

/// Makes the folder, for its owner alone, if it is not there.
fn create_folder(path: &Path) -> io::Result<PathBuf> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&folder)?;
    Ok(folder)
}

fn write_temporary(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{:016x}.tmp", u64::from_le_bytes(random)));
    let temporary = path.with_file_name(name);
    let mut file = open(&temporary, File::options().write(true).create_new(true))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    Ok(temporary)
}

/// Makes a rename survive a power cut, where the system lets a folder be synced.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_then_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/device.key");
        assert_eq!(read_or_create(&path, || b"first".to_vec()).unwrap(), b"first");
        assert_eq!(read_or_create(&path, || b"second".to_vec()).unwrap(), b"first");
        write(&path, b"third").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"third");
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "no temporary file stays: {left:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_private_file_is_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/device.key");
        read_or_create(&path, || vec![1]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        write(&path, &[2]).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    /// A73. A link is another's word on where our bytes go, and where they come from.
    #[cfg(unix)]
    #[test]
    fn a73_a_planted_link_is_neither_read_nor_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let path = dir.path().join("hub.key");
        let target = outside.path().join("precious");
        fs::write(&target, b"theirs").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let said = read(&path).unwrap_err().to_string();
        assert!(
            said.contains("a symbolic link stands where a file of this program should"),
            "{said}"
        );
        assert!(read_or_create(&path, || b"new".to_vec()).is_err());
        assert!(open(&path, File::options().create(true).append(true)).is_err());
        write(&path, b"ours").unwrap();
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink(), "the link itself is replaced");
        assert_eq!(fs::read(&target).unwrap(), b"theirs");

        let dangling = dir.path().join("audit.log");
        std::os::unix::fs::symlink(outside.path().join("made"), &dangling).unwrap();
        assert!(open(&dangling, File::options().create(true).append(true)).is_err());
        assert!(!outside.path().join("made").exists());
        assert!(open(dir.path(), File::options().read(true)).is_err(), "nor is a folder a file");
    }

    /// A73. Whoever could read it before may have done so; from now on nobody else can.
    #[cfg(unix)]
    #[test]
    fn a73_a_file_that_others_may_read_is_narrowed_to_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hub.key");
        write(&path, &[7; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), [7; 32]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn racing_makers_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let all: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8u8)
                .map(|n| {
                    scope.spawn({
                        let path = &path;
                        move || read_or_create(path, || vec![n; 32]).unwrap()
                    })
                })
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
