//! What a device keeps between runs: its key, and the hubs it knows with the key it saw there
//! first.

pub(crate) mod reveals;

use std::path::{Path, PathBuf};

use lanyard_protocol::PublicKey;
use lanyard_protocol::identity::Keypair;
use lanyard_system::private_file::{self, PrivateFileError};
use serde::{Deserialize, Serialize};

use crate::connection::HubUrl;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceStoreError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error("{} is not a device key: it holds {found} bytes and should hold 32; restore it, or move it away to become a new device", path.display())]
    BadKey { path: PathBuf, found: usize },
    #[error("{} cannot be understood ({why}); move it away and join your hubs again", path.display())]
    BadHubs { path: PathBuf, why: String },
    #[error("the hub at {url} shows another key than when this device joined it; if its owner set it up anew, remove its entry from {} and join again", path.display())]
    OtherHub { url: HubUrl, path: PathBuf },
}

/// One hub this device has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHub {
    pub url: HubUrl,
    /// The hub's key as it was at the first approval; another one later is refused.
    pub public_key: PublicKey,
    /// The hub's own name, for showing.
    #[serde(default)]
    pub hub_name: String,
    /// The name this device has there.
    pub device_name: String,
    pub joined_ms: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct HubsFile {
    hubs: Vec<KnownHub>,
}

/// `device.key` and `hubs.json` in one folder.
#[derive(Debug)]
pub struct DeviceStore {
    dir: PathBuf,
    keypair: Keypair,
    hubs: Vec<KnownHub>,
}

/// Reads the key file at `path`, or makes it with a new random key.
pub fn load_key(path: &Path) -> Result<Keypair, DeviceStoreError> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|error| PrivateFileError::Write {
        path: path.into(),
        source: std::io::Error::other(error),
    })?;
    let bytes = private_file::read_or_create(path, || seed.to_vec())?;
    let seed: [u8; 32] = bytes
        .as_slice()
        .try_into()
        .map_err(|_| DeviceStoreError::BadKey { path: path.into(), found: bytes.len() })?;
    Ok(Keypair::from_seed(&seed))
}

impl DeviceStore {
    /// Opens the store in `dir`, and makes the device's key at first use.
    pub fn open(dir: &Path) -> Result<Self, DeviceStoreError> {
        let keypair = load_key(&dir.join("device.key"))?;
        let path = dir.join("hubs.json");
        let hubs = match private_file::read(&path)? {
            None => Vec::new(),
            Some(bytes) => {
                let file: HubsFile = serde_json::from_slice(&bytes).map_err(|error| {
                    DeviceStoreError::BadHubs { path: path.clone(), why: error.to_string() }
                })?;
                file.hubs
            }
        };
        Ok(Self { dir: dir.into(), keypair, hubs })
    }

    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// The hub joined last: what a command without an address means.
    pub fn default_hub(&self) -> Option<&KnownHub> {
        self.hubs.iter().max_by_key(|hub| hub.joined_ms)
    }

    /// By either scheme: one port speaks both, and the key is the hub's.
    pub fn hub(&self, url: &HubUrl) -> Option<&KnownHub> {
        self.hubs.iter().find(|hub| hub.url.is_same_place(url))
    }

    /// Notes a hub that let this device in; it becomes the default. A key other than the pinned one
    /// is an error.
    pub fn joined(&mut self, hub: KnownHub) -> Result<(), DeviceStoreError> {
        if self.hub(&hub.url).is_some_and(|known| known.public_key != hub.public_key) {
            return Err(DeviceStoreError::OtherHub {
                url: hub.url,
                path: self.dir.join("hubs.json"),
            });
        }
        self.hubs.retain(|known| !known.url.is_same_place(&hub.url));
        self.hubs.push(hub);
        let text = serde_json::to_vec_pretty(&HubsFile { hubs: self.hubs.clone() })
            .expect("known hubs have string keys and no failing serializers");
        Ok(private_file::write(&self.dir.join("hubs.json"), &text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(url: &str, key: u8, joined_ms: u64) -> KnownHub {
        KnownHub {
            url: url.parse().unwrap(),
            public_key: PublicKey([key; 32]),
            hub_name: "Kitchen".into(),
            device_name: "laptop".into(),
            joined_ms,
        }
    }

    #[test]
    fn a_device_stays_itself_and_remembers_its_hubs() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DeviceStore::open(dir.path()).unwrap();
        store.joined(hub("http://a", 1, 10)).unwrap();
        store.joined(hub("http://b:7070", 2, 20)).unwrap();
        let again = DeviceStore::open(dir.path()).unwrap();
        assert_eq!(again.keypair().public(), store.keypair().public());
        assert_eq!(again.default_hub().unwrap().url.to_string(), "http://b:7070");
        assert_eq!(
            again.hub(&"http://a/".parse().unwrap()).unwrap().public_key,
            PublicKey([1; 32])
        );
    }

    #[test]
    fn a_hub_with_another_key_is_not_taken_for_the_known_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DeviceStore::open(dir.path()).unwrap();
        store.joined(hub("http://a", 1, 10)).unwrap();
        assert!(matches!(
            store.joined(hub("http://a", 9, 11)),
            Err(DeviceStoreError::OtherHub { .. })
        ));
        assert_eq!(store.hub(&"http://a".parse().unwrap()).unwrap().public_key, PublicKey([1; 32]));
    }

    #[test]
    fn a_broken_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("device.key"), b"short").unwrap();
        assert!(matches!(
            DeviceStore::open(dir.path()),
            Err(DeviceStoreError::BadKey { found: 5, .. })
        ));
        assert_eq!(std::fs::read(dir.path().join("device.key")).unwrap(), b"short");
    }
}
