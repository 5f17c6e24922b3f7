//! The data directory: its lock, its keys, and what lies where in it.

#![expect(clippy::disallowed_methods, reason = "the program's own folder")]

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lanyard_device::private_file;

/// Holds the directory for one process; released with the process, however it ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held, not read")] File);

/// Which half of a hub holds the directory; both may run on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    Relay,
    Master,
}

/// Makes the directory if it is not there, for its owner alone.
pub fn create(dir: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(dir)
        .with_context(|| format!("the data directory {} cannot be made; choose another one with --data", dir.display()))
}

/// Takes the directory for this half of a hub, or says that another one has it.
pub fn lock(dir: &Path, half: Half) -> anyhow::Result<Lock> {
    let name = match half {
        Half::Relay => "relay.lock",
        Half::Master => "master.lock",
    };
    let path = dir.join(name);
    let file = File::options().create(true).truncate(false).write(true).open(&path).with_context(|| {
        format!("the data directory {} cannot be written; choose another one with --data", dir.display())
    })?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => {
            bail!("a hub runs on {} already; stop it, or start this one with another --data", dir.display())
        }
        // Some network disks know no locks.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(dir = %dir.display(), "this disk knows no locks: two hubs on one data directory are not noticed");
            Ok(Lock(file))
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// The secret that relay and master share: 32 raw bytes, made at first run.
pub fn master_secret(path: &Path) -> anyhow::Result<[u8; 32]> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).context("get randomness from the system")?;
    let bytes = private_file::read_or_create(path, || secret.to_vec())?;
    let Ok(secret) = <[u8; 32]>::try_from(bytes.as_slice()) else {
        bail!("{} is no secret: it holds {} bytes and should hold 32", path.display(), bytes.len());
    };
    Ok(secret)
}

/// The secret's file when none is named.
pub fn secret_path(dir: &Path, named: Option<&PathBuf>) -> PathBuf {
    named.cloned().unwrap_or_else(|| dir.join("master.secret"))
}

pub fn hub_key_path(dir: &Path) -> PathBuf {
    dir.join("hub.key")
}

pub fn store_path(dir: &Path) -> PathBuf {
    dir.join("lanyard.db")
}

/// Where this platform keeps a program's data.
pub fn default_dir() -> Option<PathBuf> {
    Some(directories::ProjectDirs::from("", "", "lanyard")?.data_local_dir().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_has_one_hub() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        create(&dir).unwrap();
        let held = lock(&dir, Half::Master).unwrap();
        let error = lock(&dir, Half::Master).unwrap_err().to_string();
        assert!(error.contains("a hub runs on"), "{error}");
        let _other_half = lock(&dir, Half::Relay).unwrap();
        drop(held);
        lock(&dir, Half::Master).unwrap();
    }

    /// A59. No other user of this machine reaches what lies in it: keys, lists, control sockets.
    #[cfg(unix)]
    #[test]
    fn a59_the_directory_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        create(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_secret_is_made_once_and_a_broken_one_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = secret_path(dir.path(), None);
        let secret = master_secret(&path).unwrap();
        assert_eq!(master_secret(&path).unwrap(), secret);
        assert_ne!(secret, [0; 32]);
        fs::write(&path, b"short").unwrap();
        assert!(master_secret(&path).unwrap_err().to_string().contains("5 bytes"));
    }
}
