//! How commands reach the hub or a device: a Unix socket that only its owner may use; elsewhere
//! loopback TCP and a private token. Either has a name below the data directory.

#![expect(clippy::disallowed_methods, reason = "sockets in the program's own folder")]

use std::io;
use std::path::Path;

use lanyard_system::private_file;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One command's connection, its owner checked.
pub(super) type ControlStream = Box<dyn Duplex>;

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// The file that holds the port and the token of who listens on TCP: `PORT TOKEN`.
const TOKEN_END: &str = ".token";
const MAX_TOKEN_LINE: u64 = 128;
/// Who connects says the token at once.
const TOKEN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Where a running hub or device takes commands. Only one process has its name, so what lies there
/// already is a dead one's.
pub(crate) enum Listener {
    #[cfg(unix)]
    Unix(unix::Listener),
    #[cfg_attr(
        unix,
        allow(
            dead_code,
            reason = "the way of systems without Unix sockets; its test runs everywhere"
        )
    )]
    Tcp { listener: TcpListener, token: blake3::Hash },
}

impl Listener {
    pub(crate) async fn open(dir: &Path, name: &str) -> io::Result<Self> {
        #[cfg(unix)]
        return unix::Listener::open(dir, name).map(Self::Unix);
        #[cfg(not(unix))]
        return Self::open_tcp(dir, name).await;
    }

    #[cfg_attr(
        unix,
        allow(
            dead_code,
            reason = "the way of systems without Unix sockets; its test runs everywhere"
        )
    )]
    pub(crate) async fn open_tcp(dir: &Path, name: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut random = [0u8; 32];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let token = hex::encode(random);
        let line = format!("{} {token}\n", listener.local_addr()?.port());
        private_file::write(&dir.join(format!("{name}{TOKEN_END}")), line.as_bytes())
            .map_err(io::Error::other)?;
        Ok(Self::Tcp { listener, token: blake3::hash(token.as_bytes()) })
    }

    /// The next command of the owner's; those of others are turned away.
    pub(crate) async fn accept(&mut self) -> io::Result<ControlStream> {
        loop {
            match self {
                #[cfg(unix)]
                Self::Unix(listener) => {
                    if let Some(stream) = listener.accept().await? {
                        return Ok(Box::new(stream));
                    }
                }
                Self::Tcp { listener, token } => {
                    let (stream, _) = listener.accept().await?;
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    let mut start = (&mut stream).take(MAX_TOKEN_LINE);
                    let said =
                        tokio::time::timeout(TOKEN_TIMEOUT, start.read_line(&mut line)).await;
                    // Hashes compare in constant time.
                    if matches!(said, Ok(Ok(_)))
                        && blake3::hash(line.trim_end().as_bytes()) == *token
                    {
                        return Ok(Box::new(stream));
                    }
                }
            }
        }
    }
}

/// Reaches who has `name` on `dir`. `NotFound` and `ConnectionRefused` mean that nobody has.
pub(super) async fn connect(dir: &Path, name: &str) -> io::Result<ControlStream> {
    #[cfg(unix)]
    return Ok(Box::new(unix::connect(dir, name).await?));
    #[cfg(not(unix))]
    return connect_tcp(dir, name).await;
}

/// The names on `dir` that begin so. Some may be dead ones'.
pub(super) fn names(dir: &Path, start: &str) -> io::Result<Vec<String>> {
    #[cfg(unix)]
    let (folder, end) = (unix::folder(dir)?, unix::SOCKET_END);
    #[cfg(not(unix))]
    let (folder, end) = (dir.to_path_buf(), TOKEN_END);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(
            name.strip_suffix(end).filter(|name| name.starts_with(start)).map(String::from),
        );
    }
    names.sort();
    Ok(names)
}

/// Takes away what a process left that is gone.
pub(super) fn remove(dir: &Path, name: &str) -> io::Result<()> {
    #[cfg(unix)]
    return unix::remove(dir, name);
    #[cfg(not(unix))]
    return std::fs::remove_file(dir.join(format!("{name}{TOKEN_END}")));
}

#[cfg_attr(
    unix,
    allow(dead_code, reason = "the way of systems without Unix sockets; its test runs everywhere")
)]
pub(super) async fn connect_tcp(dir: &Path, name: &str) -> io::Result<ControlStream> {
    let bytes =
        private_file::read(&dir.join(format!("{name}{TOKEN_END}"))).map_err(io::Error::other)?;
    let text =
        String::from_utf8(bytes.ok_or(io::ErrorKind::NotFound)?).map_err(io::Error::other)?;
    let (port, token) = text.trim().split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("{token}\n").as_bytes()).await?;
    Ok(Box::new(stream))
}

#[cfg(unix)]
mod unix {
    use std::fs::{self, File};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};

    use tokio::net::{UnixListener, UnixStream};

    pub(super) const SOCKET_END: &str = ".sock";
    /// The system's own limit is 108 bytes, on some 104.
    const MAX_SOCKET_PATH: usize = 100;
    /// Of a name below the directory, with what is around it: all names lie in one place.
    const MAX_NAME_BYTES: usize = 32;

    pub(crate) struct Listener {
        listener: UnixListener,
        /// Who owns the socket, and alone may use it.
        owner: u32,
    }

    /// A path for the socket that the system takes, and what must stay open for it to mean
    /// anything.
    struct SocketPath {
        path: PathBuf,
        _dir: Option<File>,
    }

    fn place(dir: &Path, name: &str) -> io::Result<SocketPath> {
        let file = format!("{name}{SOCKET_END}");
        let path = dir.join(&file);
        if dir.as_os_str().len() + MAX_NAME_BYTES <= MAX_SOCKET_PATH {
            return Ok(SocketPath { path, _dir: None });
        }
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            // A short name of the same folder.
            let dir = File::open(dir)?;
            let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(file);
            Ok(SocketPath { path, _dir: Some(dir) })
        }
        #[cfg(not(target_os = "linux"))]
        Ok(SocketPath { path: private_folder(dir)?.join(file), _dir: None })
    }

    /// Where the sockets of this data directory lie.
    pub(super) fn folder(dir: &Path) -> io::Result<PathBuf> {
        if cfg!(target_os = "linux") || dir.as_os_str().len() + MAX_NAME_BYTES <= MAX_SOCKET_PATH {
            return Ok(dir.to_path_buf());
        }
        private_folder(dir)
    }

    /// A folder of our own among the temporary ones, named after `dir`.
    #[cfg_attr(target_os = "linux", allow(dead_code, reason = "the way of systems without /proc"))]
    fn private_folder(dir: &Path) -> io::Result<PathBuf> {
        let full = fs::canonicalize(dir)?;
        let name = blake3::hash(full.as_os_str().as_encoded_bytes()).to_hex();
        let folder = std::env::temp_dir().join(format!("lanyard-{}", &name.as_str()[..16]));
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(&folder)?;
        let is_ours = found.is_dir()
            && found.uid() == fs::metadata(&full)?.uid()
            && found.mode() & 0o077 == 0;
        if !is_ours {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "somebody else holds the control folder",
            ));
        }
        Ok(folder)
    }

    impl Listener {
        /// What has the name takes commands: it is bound under another one first.
        pub(crate) fn open(dir: &Path, name: &str) -> io::Result<Self> {
            let (place, unready) = (place(dir, name)?, place(dir, &format!("{name}-new"))?);
            match fs::remove_file(&unready.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&unready.path)?;
            fs::set_permissions(&unready.path, fs::Permissions::from_mode(0o600))?;
            let owner = fs::metadata(&unready.path)?.uid();
            fs::rename(&unready.path, &place.path)?;
            Ok(Self { listener, owner })
        }

        /// `None`: it was another user.
        pub(crate) async fn accept(&self) -> io::Result<Option<UnixStream>> {
            let (stream, _) = self.listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            Ok(may_use(uid, self.owner).then_some(stream))
        }
    }

    /// Its owner may, and who may do everything on this machine.
    fn may_use(user: u32, owner: u32) -> bool {
        user == owner || user == 0
    }

    pub(super) async fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
        let place = place(dir, name)?;
        UnixStream::connect(&place.path).await
    }

    pub(super) fn remove(dir: &Path, name: &str) -> io::Result<()> {
        fs::remove_file(place(dir, name)?.path)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// A59. Another user is turned away even where nothing keeps him from connecting.
        #[test]
        fn a59_only_its_owner_may_use_a_socket() {
            assert!(may_use(1000, 1000) && may_use(0, 1000) && !may_use(1001, 1000));
        }

        #[test]
        fn a_private_place_is_ours_alone() {
            let dir = tempfile::tempdir().unwrap();
            let folder = private_folder(dir.path()).unwrap();
            assert!(folder.as_os_str().len() + MAX_NAME_BYTES <= MAX_SOCKET_PATH);
            assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
            assert!(private_folder(dir.path()).is_err());
            fs::remove_dir(&folder).unwrap();
        }
    }
}
