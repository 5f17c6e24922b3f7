//! The native client: a reconnecting connection, the files it shares, the files it fetches.
//!
//! [`Device::start`] returns a [`DeviceHandle`] for commands and a channel of [`DeviceEvent`]s.
//! [`lanyard_hub::peer`] makes the decisions; this crate does the IO: sockets, bodies, files. No
//! file is ever held whole in memory.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant what they like"))]

pub mod connection;
mod download;
mod driver;
mod handle;
mod rate_limit;
mod share;
pub mod store;
pub mod testing;
mod transfers;

use std::path::PathBuf;
use std::sync::Arc;

use lanyard_protocol::identity::Keypair;
use lanyard_protocol::{DeviceKind, Instance, InvitationId, InvitationSecret, PublicKey};
use tokio::sync::{mpsc, watch};

pub use download::file_names;
pub use download::task::{SavedFile, WantedDownload};
pub use handle::shared_links::{LinkContents, LinkOptions, MadeLink};
pub use handle::{
    DeviceError, DeviceEvent, DeviceHandle, ShareOutcome, SharedFile, StartedTransfers,
};
pub use lanyard_hub::peer::{CatalogueView, EndReason, MembershipPhase, ShareState};
pub use rate_limit::{Rate, RateError, RateLimits, bytes_of};
pub use share::walk::{Skipped, WalkError};
pub use store::reveals::RevealBook;
pub use transfers::{TransferDirection, TransferInfo, TransferStatus};

use connection::HubUrl;
use download::content_index::ContentIndex;
use driver::{DeviceDriver, Ends};
use share::shared_root::SharedRoots;

/// News that wait for a reader outside of the driver's own backlog.
const EVENT_CAPACITY: usize = 256;
/// Commands and reports that wait for the driver; who has more waits.
const COMMAND_CAPACITY: usize = 64;
const REPORT_CAPACITY: usize = 256;

/// Who a device is and where its hub is.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    pub hub: HubUrl,
    pub keypair: Keypair,
    pub name: String,
    pub kind: DeviceKind,
    /// The secret of master and relay, which proves the kind `Master`; other kinds have none.
    pub host_secret: Option<HostSecret>,
    /// Free text such as "Linux"; may be empty.
    pub platform: String,
    /// Of this process: [`new_instance`].
    pub instance: Instance,
    /// The hub's key as it was when this device joined; another one is refused.
    pub pinned_hub: Option<PublicKey>,
    /// What it was given to show at the door: who brings one need not be asked about.
    pub invitation: Option<(InvitationId, InvitationSecret)>,
    /// Where it counts what it reveals at doors.
    pub reveals: RevealBook,
    /// What all its transfers together may send and take at first; [`DeviceHandle::limit`] changes
    /// it.
    pub limits: RateLimits,
    /// The data directory of this process, which is never shared. In it the device notes which
    /// content lies where, so as to copy what it would fetch again.
    pub content_dir: Option<PathBuf>,
}

impl DeviceConfig {
    /// Describes a native device that keeps nothing between runs: no known hub, no count of
    /// reveals, no list of contents, no limits. Set `pinned_hub`, `reveals` and `content_dir` for a
    /// device that has a data directory.
    ///
    /// Fails when the system has no randomness.
    pub fn new(hub: HubUrl, keypair: Keypair, name: &str) -> Result<Self, DeviceError> {
        Ok(Self {
            hub,
            keypair,
            name: name.into(),
            kind: DeviceKind::Native,
            host_secret: None,
            platform: std::env::consts::OS.into(),
            instance: new_instance()?,
            pinned_hub: None,
            invitation: None,
            reveals: RevealBook::default(),
            limits: RateLimits::default(),
            content_dir: None,
        })
    }
}

/// The secret that master and relay share, as the host's own device proves it. It never shows.
#[derive(Clone)]
pub struct HostSecret(pub [u8; 32]);

impl std::fmt::Debug for HostSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("HostSecret(…)")
    }
}

/// A running device.
#[derive(Debug)]
pub struct Device;

impl Device {
    /// Starts a device on the present tokio runtime. It connects and comes back by itself until it
    /// is shut down, its last handle is dropped, or the hub turns it away.
    pub fn start(
        config: DeviceConfig,
    ) -> Result<(DeviceHandle, mpsc::Receiver<DeviceEvent>), DeviceError> {
        let public_id = config.keypair.public_id();
        let content = config.content_dir.as_deref().map(ContentIndex::new).map(Arc::new);
        let (reports, reported) = mpsc::channel(REPORT_CAPACITY);
        let roots = Arc::new(SharedRoots::new(config.content_dir.clone()));
        let driver = DeviceDriver::new(config, content.clone(), roots.clone(), reports)?;
        let (commands, commanded) = mpsc::channel(COMMAND_CAPACITY);
        let (events, news) = mpsc::channel(EVENT_CAPACITY);
        let (living, alive) = watch::channel(());
        tokio::spawn(driver.run(Ends { commands: commanded, events, alive: living }, reported));
        Ok((DeviceHandle { commands, public_id, alive, content, roots }, news))
    }
}

/// A name for this process among those of the device.
pub fn new_instance() -> Result<Instance, DeviceError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| DeviceError::Setup(error.to_string()))?;
    Ok(Instance(bytes))
}
