//! From a hub's address to a device that is inside, or to a sentence why it is not.

use std::path::Path;
use std::time::Duration;

use lanyard_device::connection::HubUrl;
use lanyard_device::store::{DeviceStore, KnownHub};
use lanyard_device::{
    Device, DeviceConfig, DeviceEvent, DeviceHandle, EndReason, MembershipPhase, RateLimits,
    RevealBook,
};
use lanyard_protocol::device::HubInfo;
use lanyard_protocol::{DeviceKind, InvitationId, InvitationSecret};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::cli::global::Global;
use crate::data_dir;
use crate::output::exit::{Exit, Failure};
use crate::run::setup::machine_name;

/// A hub that is there answers within this; then the command gives up.
const HUB_TIMEOUT: Duration = Duration::from_secs(5);
/// Why a device shows no more digits until a person asks it to.
const NOT_OPENED: &str = "the hub asked for new digits too often; somebody may be in between. \
Compare the hub's key with the one on the host's screen, then try again:";
/// The relay is there, but the host is not: it may be restarting.
const HOST_TIMEOUT: Duration = Duration::from_secs(15);

/// An invitation and reveals that a device may show at the door.
#[derive(Debug)]
pub(super) struct AtTheDoor {
    pub invitation: Option<(InvitationId, InvitationSecret)>,
    pub reveals: RevealBook,
}

/// A device on its way into a hub, or inside.
#[derive(Debug)]
pub(super) struct DeviceConnection {
    pub url: HubUrl,
    pub handle: DeviceHandle,
    pub events: mpsc::Receiver<DeviceEvent>,
    pub name: String,
    /// As it proved itself.
    hub: Option<HubInfo>,
    store: DeviceStore,
    /// Why the last try to connect failed.
    unreachable: Option<String>,
}

impl DeviceConnection {
    /// Starts the device of this data directory towards `url`, or the hub joined last.
    pub(super) fn open(
        global: &Global,
        url: Option<HubUrl>,
        name: Option<String>,
        limits: RateLimits,
    ) -> Result<Self, Failure> {
        // Whoever is not inside is told how to join, and shows no digits meanwhile.
        Self::open_with(
            global,
            url,
            name,
            limits,
            AtTheDoor { invitation: None, reveals: RevealBook::never() },
        )
    }

    /// The same, for a device that may ask to come in.
    pub(super) fn open_with(
        global: &Global,
        url: Option<HubUrl>,
        name: Option<String>,
        limits: RateLimits,
        AtTheDoor { invitation, reveals }: AtTheDoor,
    ) -> Result<Self, Failure> {
        data_dir::create(&global.data_dir, global.insecure_data)?;
        let store = DeviceStore::open(&global.data_dir)?;
        let url = match (url, store.default_hub()) {
            (Some(url), _) => url,
            (None, Some(known)) => known.url.clone(),
            (None, None) => {
                return Err(Failure::new(Exit::NotApproved, joined_no_hub(&global.data_dir)));
            }
        };
        let known = store.hub(&url);
        let name = name
            .or_else(|| known.map(|known| known.device_name.clone()))
            .unwrap_or_else(machine_name);
        let config = DeviceConfig {
            hub: global.spoken(&url),
            keypair: store.keypair().clone(),
            name: name.clone(),
            kind: DeviceKind::Native,
            host_secret: None,
            platform: platform(),
            instance: lanyard_device::new_instance()?,
            pinned_hub: known.map(|known| known.public_key),
            invitation,
            reveals,
            limits,
            content_dir: Some(global.data_dir.clone()),
        };
        let (handle, events) = Device::start(config)?;
        Ok(Self { url, handle, events, name, hub: None, store, unreachable: None })
    }

    /// The next event; the device never ends without one that says why.
    pub(super) async fn event(&mut self) -> DeviceEvent {
        let event = self.events.recv().await;
        let event = event
            .unwrap_or(DeviceEvent::Phase(MembershipPhase::Ended { reason: EndReason::Stopped }));
        match &event {
            DeviceEvent::Hub { hub } => self.hub = Some(hub.clone()),
            DeviceEvent::Unreachable { message } => self.unreachable = Some(message.clone()),
            DeviceEvent::Phase(_)
            | DeviceEvent::CatalogueChanged
            | DeviceEvent::SharesChanged { .. }
            | DeviceEvent::Renamed { .. }
            | DeviceEvent::RenameFailed { .. }
            | DeviceEvent::Transfer { .. }
            | DeviceEvent::Progress { .. }
            | DeviceEvent::FileDone { .. }
            | DeviceEvent::FileFailed { .. }
            | DeviceEvent::TransferEnded { .. }
            | DeviceEvent::RelayProgress(_) => {}
        }
        event
    }

    /// Waits until this device is inside and knows the list. Who is not let in yet hears how to
    /// join.
    pub(super) async fn enter(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        let mut deadline = start + HUB_TIMEOUT;
        loop {
            let Ok(event) = timeout_at(deadline, self.event()).await else {
                return Err(self.gave_up());
            };
            match event {
                DeviceEvent::Hub { .. } => deadline = start + HOST_TIMEOUT,
                DeviceEvent::Phase(MembershipPhase::Approved { .. }) => return self.remember(0),
                DeviceEvent::Phase(MembershipPhase::Waiting { .. } | MembershipPhase::Closed) => {
                    let how = format!("this device has not been let in: lanyard join {}", self.url);
                    return Err(Failure::new(Exit::NotApproved, how));
                }
                DeviceEvent::Phase(MembershipPhase::Ended { reason }) => {
                    return Err(self.ended(reason));
                }
                DeviceEvent::Phase(_)
                | DeviceEvent::Unreachable { .. }
                | DeviceEvent::CatalogueChanged
                | DeviceEvent::SharesChanged { .. }
                | DeviceEvent::Renamed { .. }
                | DeviceEvent::RenameFailed { .. }
                | DeviceEvent::Transfer { .. }
                | DeviceEvent::Progress { .. }
                | DeviceEvent::FileDone { .. }
                | DeviceEvent::FileFailed { .. }
                | DeviceEvent::TransferEnded { .. }
                | DeviceEvent::RelayProgress(_) => {}
            }
        }
    }

    fn gave_up(&self) -> Failure {
        let why = match (&self.hub, &self.unreachable) {
            (Some(_), _) => {
                format!("the hub at {} answers, but its host is away; try again later", self.url)
            }
            (None, Some(why)) => why.clone(),
            (None, None) => format!("no hub answers at {}", self.url),
        };
        Failure::new(Exit::NotReachable, why)
    }

    /// No hub was found so far.
    pub(super) fn never_answered(&self) -> Option<Failure> {
        self.hub.is_none().then(|| self.gave_up())
    }

    /// How long a hub has to answer at all.
    pub(super) fn hub_deadline(&self) -> Instant {
        Instant::now() + HUB_TIMEOUT
    }

    /// Returns the failure for the end of the device.
    pub(super) fn ended(&self, reason: EndReason) -> Failure {
        let (exit, why) = match reason {
            EndReason::Refused => (Exit::NotApproved, "this device was turned away by the host".to_string()),
            EndReason::UntrustedHub => {
                let why = "is not the hub that this device joined: its key is another one, or it cannot prove it";
                (Exit::Failed, format!("what answers at {} {why}", self.url))
            }
            EndReason::Version => (
                Exit::Failed,
                "the hub speaks another version of the protocol: update Lanyard on this device and at the hub".into(),
            ),
            EndReason::Superseded => (Exit::Failed, "another session took the place of this one".into()),
            EndReason::Rejected => (Exit::Failed, "the hub did not take this device's words for right ones".into()),
            EndReason::NotOpened => (Exit::Failed, format!("{NOT_OPENED} lanyard join {}", self.url)),
            EndReason::Stopped => (Exit::Failed, "the device has ended".into()),
        };
        Failure::new(exit, why)
    }

    pub(super) fn hub_name(&self) -> &str {
        self.hub.as_ref().map_or("", |hub| &hub.name)
    }

    /// Keeps the hub's key; with a time it becomes the default hub.
    pub(super) fn remember(&mut self, joined_ms: u64) -> Result<(), Failure> {
        let Some(hub) = &self.hub else { return Ok(()) };
        let known = self.store.hub(&self.url);
        if known.is_some_and(|known| known.public_key == hub.public_key) && joined_ms == 0 {
            return Ok(());
        }
        let (hub_name, device_name) = (hub.name.clone(), self.name.clone());
        let public_key = hub.public_key;
        Ok(self.store.joined(KnownHub {
            url: self.url.clone(),
            public_key,
            hub_name,
            device_name,
            joined_ms,
        })?)
    }
}

/// As others see what this runs on.
fn platform() -> String {
    match std::env::consts::OS {
        "linux" => "Linux",
        "macos" => "macOS",
        "windows" => "Windows",
        "freebsd" => "FreeBSD",
        other => other,
    }
    .into()
}

/// Ends when the person or the system asks the process to end.
pub(super) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// Helps a person who named no hub: whoever runs one here may also be a device of it, by its
/// address.
fn joined_no_hub(data_dir: &Path) -> &'static str {
    if data_dir::is_of_hub(data_dir) {
        "this computer runs a hub and has joined none; name its address, such as http://127.0.0.1:7070"
    } else {
        "this device has joined no hub yet: lanyard join URL"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever types a device's command at the hub learns what to add, and is not sent to knock at
    /// its own door.
    #[test]
    fn the_machine_of_a_hub_is_told_to_name_the_address() {
        let dir = tempfile::tempdir().unwrap();
        assert!(joined_no_hub(dir.path()).ends_with("lanyard join URL"));
        std::fs::write(data_dir::store_path(dir.path()), b"").unwrap();
        assert!(joined_no_hub(dir.path()).contains("name its address"));
    }
}
