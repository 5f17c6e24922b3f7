//! The configuration of a device.

use std::path::PathBuf;

use lanyard_protocol::identity::Keypair;
use lanyard_protocol::{DeviceKind, Instance, InvitationId, InvitationSecret, PublicKey};

use crate::connection::HubUrl;
use crate::error::DeviceError;
use crate::rate_limit::RateLimits;
use crate::store::reveals::RevealBook;

/// The identity of a device, its hub, and what it keeps.
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
    /// Rates that all its transfers together may send and take at first;
    /// [`crate::DeviceHandle::limit`] changes it.
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

/// Draws a name for this process among those of the device.
pub fn new_instance() -> Result<Instance, DeviceError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| DeviceError::Setup(error.to_string()))?;
    Ok(Instance(bytes))
}
