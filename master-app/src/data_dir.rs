//! The data directory: who may write in it, its lock, its keys, and what lies where in it.

#![expect(clippy::disallowed_methods, reason = "the program's own folder")]

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lanyard_system::private_file;

/// Holds the directory for one process; released with the process, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held, not read")] File);

/// Which half of a hub holds the directory; both may run on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Relay,
    Master,
}

/// Makes the directory if it is not there, for its owner alone, and refuses one in which another
/// user could put keys and lists of his own. With `is_insecure_accepted` that is only said.
pub(crate) fn create(dir: &Path, is_insecure_accepted: bool) -> anyhow::Result<()> {
    make(dir)?;
    match danger(dir).with_context(|| format!("look at the data directory {}", dir.display()))? {
        Some(danger) if is_insecure_accepted => tracing::warn!("{danger}"),
        Some(danger) => bail!("{danger}; or go on all the same with --insecure-data"),
        None => {}
    }
    Ok(())
}

fn make(dir: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).with_context(|| {
        format!(
            "the data directory {} cannot be made; choose another one with --data",
            dir.display()
        )
    })
}

/// Elsewhere a directory's list of rights says who may do what, and those of a home are its
/// owner's.
#[cfg(not(unix))]
fn danger(_dir: &Path) -> io::Result<Option<String>> {
    Ok(None)
}

/// Why another user could put something into `dir`, or another directory in its place, and what
/// helps against it.
#[cfg(unix)]
fn danger(dir: &Path) -> io::Result<Option<String>> {
    // A link in the path is the person's own, as long as nobody else can change where it leads:
    // that is what is looked at.
    let full = fs::canonicalize(dir)?;
    let user = rustix::process::geteuid().as_raw();
    if let Some(danger) = danger_of_directory(&full, Rights::of(&full)?, user) {
        return Ok(Some(danger));
    }
    for parent in full.ancestors().skip(1) {
        if let Some(danger) = danger_of_parent(&full, parent, Rights::of(parent)?) {
            return Ok(Some(danger));
        }
    }
    Ok(None)
}

/// The owner of a directory, and who may write in it.
#[cfg(unix)]
#[derive(Debug, Clone, Copy)]
struct Rights {
    owner: u32,
    group: u32,
    mode: u32,
}

#[cfg(unix)]
impl Rights {
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let about = fs::metadata(path)?;
        Ok(Self { owner: about.uid(), group: about.gid(), mode: about.mode() & 0o7777 })
    }
}

/// The directory itself: this user's (root may use anybody's), and written by nobody else.
#[cfg(unix)]
fn danger_of_directory(dir: &Path, rights: Rights, user: u32) -> Option<String> {
    let Rights { owner, mode, .. } = rights;
    let shown = dir.display();
    if owner != user && user != 0 {
        return Some(format!(
            "the data directory {shown} belongs to user {owner}, and this is user {user}: choose another one with --data"
        ));
    }
    (mode & 0o022 != 0).then(|| {
        format!(
            "other users may write in the data directory {shown} (mode {mode:o}), and put keys and lists of theirs there: \
             `chmod go-w {}` takes that away",
            quoted(dir)
        )
    })
}

/// A directory on the way: whoever may write in it can put another one in the place of ours, but
/// for those with the sticky bit. A group that has the number of the owner is the owner's own (most
/// systems make one for each user).
#[cfg(unix)]
fn danger_of_parent(dir: &Path, parent: &Path, rights: Rights) -> Option<String> {
    let Rights { owner, group, mode } = rights;
    let is_sticky = mode & 0o1000 != 0;
    let by_group = mode & 0o020 != 0 && group != owner;
    let by_others = mode & 0o002 != 0;
    (!is_sticky && (by_group || by_others)).then(|| {
        format!(
            "other users may write in {} (mode {mode:o}), and put another directory in the place of {}: \
             `chmod go-w {}` takes that away, or choose another one with --data",
            parent.display(),
            dir.display(),
            quoted(parent)
        )
    })
}

/// A path as a shell takes it.
#[cfg(unix)]
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@%".contains(&byte));
    if is_plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Takes the directory for this half of a hub, or says that another one has it.
pub(crate) fn lock(dir: &Path, half: Half) -> anyhow::Result<Lock> {
    let name = match half {
        Half::Relay => "relay.lock",
        Half::Master => "master.lock",
    };
    let path = dir.join(name);
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    let file = private_file::open(&path, &mut options).with_context(|| {
        format!(
            "the data directory {} cannot be written; choose another one with --data",
            dir.display()
        )
    })?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "a hub runs on {} already; stop it, or start this one with another --data",
                dir.display()
            )
        }
        // Some network disks know no locks.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(dir = %dir.display(), "this disk knows no locks: two hubs on one data directory are not noticed");
            Ok(Lock(file))
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}

/// The secret that relay and master share: 32 raw bytes, made at first run.
pub(crate) fn master_secret(path: &Path) -> anyhow::Result<[u8; 32]> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).context("get randomness from the system")?;
    let bytes = private_file::read_or_create(path, || secret.to_vec())?;
    let Ok(secret) = <[u8; 32]>::try_from(bytes.as_slice()) else {
        bail!("{} is no secret: it holds {} bytes and should hold 32", path.display(), bytes.len());
    };
    Ok(secret)
}

/// The secret's file. One that a person names may be a link, as systems that hand out secrets make
/// them.
pub(crate) fn secret_path(dir: &Path, named: Option<&PathBuf>) -> PathBuf {
    match named {
        Some(named) => fs::canonicalize(named).unwrap_or_else(|_| named.clone()),
        None => dir.join("master.secret"),
    }
}

/// Writes the token of `GET /metrics`, for programs of the hub's owner, in a file that only that
/// account reads.
pub(crate) fn write_metrics_token(dir: &Path, secret: &[u8; 32]) -> anyhow::Result<()> {
    let token = lanyard_protocol::master_proof::metrics_token(secret);
    Ok(private_file::write(&dir.join("metrics.token"), token.as_bytes())?)
}

pub(crate) fn hub_key_path(dir: &Path) -> PathBuf {
    dir.join("hub.key")
}

pub(crate) fn store_path(dir: &Path) -> PathBuf {
    dir.join("lanyard.db")
}

/// Whether a hub keeps its state in the directory.
pub(crate) fn is_of_hub(dir: &Path) -> bool {
    fs::symlink_metadata(store_path(dir)).is_ok()
}

/// Where this platform keeps a program's data.
pub(crate) fn default_dir() -> Option<PathBuf> {
    Some(directories::ProjectDirs::from("", "", "lanyard")?.data_local_dir().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_has_one_hub() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        create(&dir, false).unwrap();
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
        create(&dir, false).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    /// A73. Whoever may write in it can put a key of his own there, or take a file's place.
    #[cfg(unix)]
    #[test]
    fn a73_a_directory_that_others_may_write_is_refused_with_the_way_out() {
        use std::os::unix::fs::PermissionsExt;
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("new's");
        create(&dir, false).unwrap();
        let allow = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
        };
        for mode in [0o777, 0o1777, 0o770, 0o720, 0o702] {
            allow(&dir, mode);
            let said = create(&dir, false).unwrap_err().to_string();
            assert!(
                said.contains("chmod go-w '/") && said.contains(r"new'\''s'"),
                "{mode:o}: {said}"
            );
            assert!(said.contains("--insecure-data"), "{said}");
            create(&dir, true).unwrap();
        }
        for mode in [0o700, 0o750, 0o755] {
            allow(&dir, mode);
            create(&dir, false).unwrap();
        }
        allow(outer.path(), 0o777);
        let said = create(&dir, false).unwrap_err().to_string();
        assert!(said.contains("put another directory in the place of"), "{said}");
        allow(outer.path(), 0o1777);
        create(&dir, false).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn another_users_directory_is_for_root_only_and_a_private_group_is_the_owner() {
        let dir = Path::new("/data/hub");
        let rights = |owner, group, mode| Rights { owner, group, mode };
        assert!(
            danger_of_directory(dir, rights(1000, 1000, 0o700), 1001)
                .is_some_and(|said| said.contains("user 1000"))
        );
        assert!(danger_of_directory(dir, rights(0, 0, 0o700), 1001).is_some());
        assert_eq!(danger_of_directory(dir, rights(1000, 1000, 0o700), 0), None);
        assert!(danger_of_directory(dir, rights(1000, 1000, 0o702), 0).is_some());
        let parent = Path::new("/data");
        assert_eq!(danger_of_parent(dir, parent, rights(1000, 1000, 0o775)), None);
        assert!(danger_of_parent(dir, parent, rights(1000, 100, 0o775)).is_some());
        assert!(danger_of_parent(dir, parent, rights(1000, 1000, 0o777)).is_some());
    }

    /// A73. The lock is a file like the others: one that is a link would be made elsewhere.
    #[cfg(unix)]
    #[test]
    fn a73_a_linked_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path().join("made"), dir.path().join("master.lock"))
            .unwrap();
        assert!(lock(dir.path(), Half::Master).is_err());
        assert!(!outside.path().join("made").exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_that_a_person_names_may_be_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("..data");
        let named = dir.path().join("named");
        private_file::write(&secret, &[7; 32]).unwrap();
        std::os::unix::fs::symlink(&secret, &named).unwrap();
        assert_eq!(master_secret(&secret_path(dir.path(), Some(&named))).unwrap(), [7; 32]);
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
