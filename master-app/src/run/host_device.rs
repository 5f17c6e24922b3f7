//! The host's own files: an ordinary device, embedded, with the key that the authority lets in by
//! itself.

use std::path::PathBuf;

use anyhow::{Context, bail};
use lanyard_device::connection::HubUrl;
use lanyard_device::store::DeviceStore;
use lanyard_device::{
    Device, DeviceConfig, DeviceEvent, DeviceHandle, EndReason, HostSecret, MembershipPhase,
    RateLimits, RevealBook,
};
use lanyard_protocol::{DeviceKind, Instance, PublicKey};
use tokio_util::sync::CancellationToken;

use crate::operator::control;
use crate::output::text::visible;

/// Offers `paths` to the hub until `stop`; commands reach the device on `dir`.
pub(crate) async fn run(
    dir: PathBuf,
    (url, secret): (HubUrl, [u8; 32]),
    store: DeviceStore,
    name: String,
    paths: Vec<PathBuf>,
    limits: RateLimits,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let keypair = store.keypair().clone();
    let config = DeviceConfig {
        kind: DeviceKind::Master,
        host_secret: Some(HostSecret(secret)),
        hub: url,
        name,
        platform: platform().into(),
        instance: instance(&keypair.public()),
        keypair,
        pinned_hub: None,
        invitation: None,
        // The authority lets it in by its key: no digits.
        reveals: RevealBook::never(),
        limits,
        content_dir: Some(dir.clone()),
    };
    let (device, mut events) = Device::start(config)?;
    let _commands = control::device::offer(&dir, device.clone()).await;
    offer(&device, paths).await?;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = stop.cancelled() => {
                leave_unsaid(device);
                return Ok(());
            }
        };
        match event {
            Some(DeviceEvent::Phase(MembershipPhase::Ended { reason })) => {
                bail!("this host's own files can no longer be offered: {}", why(reason))
            }
            Some(_) => {}
            None => bail!("this host's own files can no longer be offered"),
        }
    }
}

/// A device that ends takes back what it shared. The host's is shared again after a restart, and
/// links to it go on: so it ends with the process, as if the power had gone.
fn leave_unsaid(device: DeviceHandle) {
    tokio::spawn(async move {
        std::future::pending::<()>().await;
        drop(device);
    });
}

async fn offer(device: &DeviceHandle, paths: Vec<PathBuf>) -> anyhow::Result<()> {
    // Also without any: then what an earlier run offered is taken back.
    let offered = device.share(paths).await.context("share this host's files")?;
    for skipped in &offered.skipped {
        tracing::warn!(
            why = skipped.why,
            "not shared: {}",
            visible(&skipped.path.to_string_lossy())
        );
    }
    Ok(())
}

/// The same after every restart, so that what an earlier run listed is ours to keep or to take
/// back. There is one hub to a data directory, so nobody else uses it.
fn instance(key: &PublicKey) -> Instance {
    let hash = blake3::hash(format!("lanyard host instance {key}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    Instance(bytes)
}

fn platform() -> &'static str {
    match std::env::consts::OS {
        "linux" => "Linux",
        "macos" => "macOS",
        "windows" => "Windows",
        other => other,
    }
}

fn why(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Refused => "this host's device was turned away",
        EndReason::Superseded => "another process with this data directory took its place",
        EndReason::Version => {
            "the relay speaks another version of the protocol: update Lanyard on both"
        }
        EndReason::Rejected => "the relay did not take this host's proof",
        EndReason::UntrustedHub => "the relay is another one than before",
        EndReason::NotOpened => "the hub wants to be asked for it, as if it were another device",
        EndReason::Stopped => "it was stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_outlives_the_process() {
        assert_eq!(instance(&PublicKey([1; 32])), instance(&PublicKey([1; 32])));
        assert_ne!(instance(&PublicKey([1; 32])), instance(&PublicKey([2; 32])));
    }
}
