//! How commands reach the hub: a Unix socket that only its owner may use; elsewhere loopback TCP and a private token.

use std::io;
use std::path::Path;

use lanyard_device::private_file;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One command's connection, its owner checked.
pub type Stream = Box<dyn Duplex>;

pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Holds the port and the token of a hub that listens on TCP: `PORT TOKEN`.
const TOKEN_FILE: &str = "control.token";
const MAX_TOKEN_LINE: u64 = 128;
/// Who connects says the token at once.
const TOKEN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Where a running hub takes commands. The data directory's lock is held, so what lies there already is a dead one's.
pub enum Listener {
    #[cfg(unix)]
    Unix(unix::Listener),
    #[cfg_attr(unix, allow(dead_code, reason = "the way of systems without Unix sockets; its test runs everywhere"))]
    Tcp { listener: TcpListener, token: blake3::Hash },
}

impl Listener {
    pub async fn open(dir: &Path) -> io::Result<Self> {
        #[cfg(unix)]
        return unix::Listener::open(dir).map(Self::Unix);
        #[cfg(not(unix))]
        return Self::open_tcp(dir).await;
    }

    #[cfg_attr(unix, allow(dead_code, reason = "the way of systems without Unix sockets; its test runs everywhere"))]
    pub async fn open_tcp(dir: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut random = [0u8; 32];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let token = hex::encode(random);
        let line = format!("{} {token}\n", listener.local_addr()?.port());
        private_file::write(&dir.join(TOKEN_FILE), line.as_bytes()).map_err(io::Error::other)?;
        Ok(Self::Tcp { listener, token: blake3::hash(token.as_bytes()) })
    }

    /// The next command of the owner's; those of others are turned away.
    pub async fn accept(&mut self) -> io::Result<Stream> {
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
                    let said = tokio::time::timeout(TOKEN_TIMEOUT, start.read_line(&mut line)).await;
                    // Hashes compare in constant time.
                    if matches!(said, Ok(Ok(_))) && blake3::hash(line.trim_end().as_bytes()) == *token {
                        return Ok(Box::new(stream));
                    }
                }
            }
        }
    }
}

/// Reaches the hub that runs on `dir`. `NotFound` and `ConnectionRefused` mean that none does.
pub async fn connect(dir: &Path) -> io::Result<Stream> {
    #[cfg(unix)]
    return Ok(Box::new(unix::connect(dir).await?));
    #[cfg(not(unix))]
    return connect_tcp(dir).await;
}

#[cfg_attr(unix, allow(dead_code, reason = "the way of systems without Unix sockets; its test runs everywhere"))]
pub async fn connect_tcp(dir: &Path) -> io::Result<Stream> {
    let bytes = private_file::read(&dir.join(TOKEN_FILE)).map_err(io::Error::other)?;
    let text = String::from_utf8(bytes.ok_or(io::ErrorKind::NotFound)?).map_err(io::Error::other)?;
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

    const SOCKET: &str = "control.sock";
    /// The system's own limit is 108 bytes, on some 104.
    const MAX_SOCKET_PATH: usize = 100;

    pub struct Listener {
        listener: UnixListener,
        /// Who owns the socket, and alone may use it.
        owner: u32,
    }

    /// A path for the socket that the system takes, and what must stay open for it to mean anything.
    struct Place {
        path: PathBuf,
        _dir: Option<File>,
    }

    fn place(dir: &Path) -> io::Result<Place> {
        let path = dir.join(SOCKET);
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(Place { path, _dir: None });
        }
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            // A short name of the same folder.
            let dir = File::open(dir)?;
            let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(SOCKET);
            Ok(Place { path, _dir: Some(dir) })
        }
        #[cfg(not(target_os = "linux"))]
        private_place(dir)
    }

    /// A folder of our own among the temporary ones, named after `dir`.
    #[cfg_attr(target_os = "linux", allow(dead_code, reason = "the way of systems without /proc"))]
    fn private_place(dir: &Path) -> io::Result<Place> {
        let full = fs::canonicalize(dir)?;
        let name = blake3::hash(full.as_os_str().as_encoded_bytes()).to_hex();
        let folder = std::env::temp_dir().join(format!("lanyard-{}", &name.as_str()[..16]));
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(&folder)?;
        let is_ours = found.is_dir() && found.uid() == fs::metadata(&full)?.uid() && found.mode() & 0o077 == 0;
        if !is_ours {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody else holds the control folder"));
        }
        Ok(Place { path: folder.join(SOCKET), _dir: None })
    }

    impl Listener {
        pub fn open(dir: &Path) -> io::Result<Self> {
            let place = place(dir)?;
            match fs::remove_file(&place.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&place.path)?;
            fs::set_permissions(&place.path, fs::Permissions::from_mode(0o600))?;
            let owner = fs::metadata(&place.path)?.uid();
            Ok(Self { listener, owner })
        }

        /// `None`: it was another user.
        pub async fn accept(&self) -> io::Result<Option<UnixStream>> {
            let (stream, _) = self.listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            Ok((uid == self.owner || uid == 0).then_some(stream))
        }
    }

    pub async fn connect(dir: &Path) -> io::Result<UnixStream> {
        let place = place(dir)?;
        UnixStream::connect(&place.path).await
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_private_place_is_ours_alone() {
            let dir = tempfile::tempdir().unwrap();
            let place = private_place(dir.path()).unwrap();
            assert!(place.path.as_os_str().len() <= MAX_SOCKET_PATH);
            let folder = place.path.parent().unwrap();
            assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700);
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
            assert!(private_place(dir.path()).is_err());
            fs::remove_dir(folder).unwrap();
        }
    }
}
