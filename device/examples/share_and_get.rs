//! A device that joins a hub, shares one file and fetches another.
//!
//! ```sh
//! mkdir state
//! cargo run -p lanyard-device --example share_and_get -- state http://192.168.1.10:7070 notes.txt film.mkv
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};

use lanyard_device::store::{DeviceStore, KnownHub};
use lanyard_device::{
    Device, DeviceConfig, DeviceEvent, DeviceHandle, MembershipPhase, RevealBook, WantedDownload,
};
use lanyard_system::clock::now_ms;
use tokio::sync::mpsc::Receiver;

type Events = Receiver<DeviceEvent>;

const NAME: &str = "example";
const STOPPED: &str = "the device stopped";

/// Waits until the host lets this device in. Until then the host compares the digits that this
/// prints.
async fn join(
    mut store: DeviceStore,
    config: &DeviceConfig,
    events: &mut Events,
) -> Result<(), Box<dyn Error>> {
    let mut known = None;
    loop {
        let event = events.recv().await.ok_or(STOPPED)?;
        if let DeviceEvent::Hub { hub } = event {
            known = Some(hub);
        } else if let DeviceEvent::Unreachable { message } = event {
            eprintln!("{message}");
        } else if let DeviceEvent::Phase(MembershipPhase::Waiting { code: Some(code) }) = event {
            println!("the host compares {code}");
        } else if let DeviceEvent::Phase(MembershipPhase::Ended { reason }) = event {
            return Err(format!("not let in: {reason:?}").into());
        } else if matches!(event, DeviceEvent::Phase(MembershipPhase::Approved { .. })) {
            break;
        }
    }
    let hub = known.ok_or("a hub proves its key before it lets anybody in")?;
    // From now on a hub with another key at this address is refused.
    Ok(store.joined(KnownHub {
        url: config.hub.clone(),
        public_key: hub.public_key,
        hub_name: hub.name,
        device_name: NAME.into(),
        joined_ms: now_ms(),
    })?)
}

/// Fetches `path` into the current directory, as soon as somebody shares a file of that name.
async fn get(device: &DeviceHandle, path: &str, events: &mut Events) -> Result<(), Box<dyn Error>> {
    let entry = loop {
        let catalogue = device.catalogue().await?;
        if let Some(entry) = catalogue.files.values().find(|entry| entry.path == path) {
            break entry.clone();
        }
        events.recv().await.ok_or(STOPPED)?;
    };
    let wanted = WantedDownload { entry, as_path: path.into() };
    let started = device.start_transfer(vec![wanted], PathBuf::from(".")).await?;
    let mut is_over = started.transfers.is_empty();
    while !is_over {
        let event = events.recv().await.ok_or(STOPPED)?;
        is_over = matches!(event, DeviceEvent::TransferEnded { .. });
        if let DeviceEvent::FileFailed { message, .. } = event {
            return Err(message.into());
        }
    }
    println!("{path} is here, and is what was shared");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, hub, shared, wanted] = args.as_slice() else {
        return Err("usage: share_and_get DIR HUB SHARED WANTED".into());
    };
    let store = DeviceStore::open(Path::new(dir))?;
    let mut config = DeviceConfig::new(hub.parse()?, store.keypair().clone(), NAME)?;
    config.pinned_hub = store.hub(&config.hub).map(|known| known.public_key);
    config.reveals = RevealBook::in_folder(Path::new(dir));

    let (device, mut events) = Device::start(config.clone())?;
    join(store, &config, &mut events).await?;
    let offered = device.share(vec![PathBuf::from(shared)]).await?;
    println!("sharing {} file", offered.files.len());
    let outcome = get(&device, wanted, &mut events).await;
    device.shutdown().await;
    outcome
}
