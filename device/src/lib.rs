//! The native client: a reconnecting connection, the files it shares, the files it fetches.
//!
//! [`Device::start`] returns a [`DeviceHandle`] for commands and a channel of [`DeviceEvent`]s.
//! [`lanyard_hub::peer`] makes the decisions; this crate does the IO: sockets, bodies, files. No
//! file is ever held whole in memory.

#![warn(clippy::wildcard_enum_match_arm)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant what they like"))]

mod config;
pub mod connection;
mod download;
mod driver;
mod error;
mod handle;
mod rate_limit;
mod share;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod transfers;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub use config::{DeviceConfig, HostSecret, new_instance};
pub use download::file_names;
pub use download::task::{SavedFile, WantedDownload};
pub use error::DeviceError;
pub use handle::shared_links::{LinkContents, LinkOptions, MadeLink};
pub use handle::{DeviceEvent, DeviceHandle, ShareOutcome, SharedFile, StartedTransfers};
pub use lanyard_hub::peer::{CatalogueView, EndReason, MembershipPhase, ShareState};
pub use rate_limit::{Rate, RateError, RateLimits, bytes_of};
pub use share::walk::{Skipped, WalkError};
pub use store::reveals::RevealBook;
pub use transfers::{TransferDirection, TransferInfo, TransferStatus};

use download::content_index::ContentIndex;
use driver::{DeviceDriver, Ends};
use share::shared_root::SharedRoots;

/// News that wait for a reader outside of the driver's own backlog.
const EVENT_CAPACITY: usize = 256;
/// Commands and reports that wait for the driver; who has more waits.
const COMMAND_CAPACITY: usize = 64;
const REPORT_CAPACITY: usize = 256;

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
