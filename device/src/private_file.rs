//! Small files that only their owner may read, replaced whole or not at all: keys, secrets, the list of known hubs.

#![expect(clippy::disallowed_methods, reason = "keys and lists in the program's own folder, by names of its own")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What went wrong, with the file it is about.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}; check that the folder exists, belongs to you and has room", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The file's bytes; if there is no file yet, it is made of what `make` returns. Two processes that race get the same bytes.
pub fn read_or_create(path: &Path, make: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, PrivateFileError> {
    if let Some(bytes) = read(path)? {
        return Ok(bytes);
    }
    let failed = |source| PrivateFileError::Write { path: path.into(), source };
    let folder = create_folder(path).map_err(failed)?;
    let temporary = write_temporary(path, &make()).map_err(failed)?;
    // A hard link fails where the name is taken: who comes second reads what the first one wrote.
    let linked = match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => fs::rename(&temporary, path),
        _ => Ok(()),
    };
    let _ = fs::remove_file(&temporary);
    linked.and_then(|()| sync_folder(&folder)).map_err(failed)?;
    read(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// The file's bytes, or `None` if there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, PrivateFileError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
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
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
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
    fn nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/device.key");
        read_or_create(&path, || vec![1]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        write(&path, &[2]).unwrap();
        assert_eq!(mode(&path), 0o600);
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
