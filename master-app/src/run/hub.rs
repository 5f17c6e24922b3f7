//! Starts and stops a hub: the whole hub in one process, or one of its halves.

use std::io::IsTerminal;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use lanyard_device::connection::HubUrl;
use lanyard_device::store::DeviceStore;
use lanyard_hub::authority::{AuthorityConfig, OperatorCommand};
use lanyard_protocol::DeviceId;
use lanyard_relay::Relay;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::banner::banner;
use super::health_monitor::HealthMonitor;
use super::setup::{
    MasterSetup, check_paths, machine_name, open_store, port_trouble, relay_config,
};
use super::signals::{say_stopping, stop_signal};
use super::{host_device, runtime};
use crate::authority::driver::{self, DriverHandle, Screen, ScreenUpdate};
use crate::authority::relay_connection;
use crate::cli::args::{MasterArgs, RelayArgs, ServeArgs};
use crate::cli::global::Global;
use crate::data_dir::{self, Half};
use crate::net::addresses;
use crate::operator::console::{Console, ConsoleInfo, LoginLinks};
use crate::operator::control::{Control, HUB, Listener};
use crate::operator::{events, terminal};
use crate::output::exit::Outcome;
use crate::store::audit_log::Audit;

/// Time that the parts of the hub get to end.
const DRAIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// `lanyard serve`: everything in one process. The halves speak over a socket here too.
pub(crate) async fn serve(global: &Global, args: ServeArgs) -> Outcome {
    let paths = check_paths(&args.operator.paths)?;
    let dir = &global.data_dir;
    data_dir::create(dir, global.insecure_data)?;
    let _locks = (data_dir::lock(dir, Half::Relay)?, data_dir::lock(dir, Half::Master)?);
    let name = args.operator.name.clone().unwrap_or_else(machine_name);
    let secret = data_dir::master_secret(&data_dir::secret_path(dir, None))?;
    let key = lanyard_device::store::load_key(&data_dir::hub_key_path(dir))?;
    let stop = CancellationToken::new();
    let (config, authority) = relay_config(dir, &args.listen, name.clone(), key, secret, &stop)?;
    let relay = runtime::start_relay(config).await?.map_err(port_trouble)?;
    let listen = relay.listen;
    let own = HubUrl::from_str(&format!("http://{}", addresses::own(listen)))
        .context("the relay's own address")?;
    // A relay takes plain http from a master that means its own machine, unless it takes https
    // only.
    let url = if own.is_loopback() && !args.listen.require_tls { own } else { own.secured() };
    let urls = addresses::urls(listen, &args.listen.hosts);
    let ready = json!({ "event": "ready", "listen": listen.to_string(), "urls": &urls });

    let (operator, authority) = (args.operator, Some(authority));
    let hub = MasterSetup {
        url,
        secret,
        name,
        urls,
        ready,
        paths,
        operator,
        authority,
        listen: Some(listen),
    };
    let outcome = run_master(global, hub).await;
    stop.cancel();
    // The master goes first: its goodbye still passes the relay.
    if tokio::time::timeout(DRAIN_TIMEOUT, relay.stop()).await.is_err() {
        tracing::debug!("the relay did not end in time");
    }
    outcome
}

/// `lanyard relay`: the relay alone.
pub(crate) async fn relay(global: &Global, args: RelayArgs) -> Outcome {
    let dir = &global.data_dir;
    data_dir::create(dir, global.insecure_data)?;
    let _lock = data_dir::lock(dir, Half::Relay)?;
    let secret_path = data_dir::secret_path(dir, args.secret.as_ref());
    let secret = data_dir::master_secret(&secret_path)?;
    let key = lanyard_device::store::load_key(&data_dir::hub_key_path(dir))?;
    let name = args.name.clone().unwrap_or_else(machine_name);
    let stop = CancellationToken::new();
    let (config, authority) = relay_config(dir, &args.listen, name, key, secret, &stop)?;
    let relay = Relay::bind(config).await.map_err(port_trouble)?;
    let listen = relay.local_addr();
    let urls = addresses::urls(listen, &args.listen.hosts);
    if global.json {
        println!("{}", json!({ "event": "ready", "listen": listen.to_string(), "urls": urls }));
    } else {
        println!("relay on {listen}");
        urls.iter().for_each(|url| println!("  {url}"));
        println!("https on the same port; certificate authority, SHA-256:\n  {authority}");
        println!("its master proves itself with {}", secret_path.display());
    }
    let json = global.json;
    relay
        .run(async move {
            stop_signal().await;
            say_stopping(json);
        })
        .await;
    stop.cancel();
    Ok(())
}

/// `lanyard master`: the master alone, against a relay elsewhere.
pub(crate) async fn master(global: &Global, args: MasterArgs) -> Outcome {
    let paths = check_paths(&args.operator.paths)?;
    let dir = &global.data_dir;
    data_dir::create(dir, global.insecure_data)?;
    let _lock = data_dir::lock(dir, Half::Master)?;
    let secret = data_dir::master_secret(&data_dir::secret_path(dir, args.secret.as_ref()))?;
    let relay = global.spoken(&args.relay);
    let urls = vec![args.relay.http_base()];
    let ready = json!({ "event": "ready", "listen": args.relay.authority(), "urls": &urls });
    let name = args.operator.name.clone().unwrap_or_else(machine_name);
    let (operator, authority, listen) = (args.operator, None, None);
    let hub =
        MasterSetup { url: relay, secret, name, urls, ready, paths, operator, authority, listen };
    run_master(global, hub).await
}

type Parts = JoinSet<anyhow::Result<()>>;

/// Runs a master until it is told to stop or cannot go on.
async fn run_master(global: &Global, hub: MasterSetup) -> Outcome {
    let dir = &global.data_dir;
    let stop = CancellationToken::new();
    let device = DeviceStore::open(dir)?;
    let host = device.keypair().public_id();
    let config = AuthorityConfig {
        host: Some(host),
        admission: hub.operator.admit.into(),
        tap_to_approve: hub.operator.tap_to_approve,
    };
    let audit =
        Audit::open(dir).with_context(|| format!("open the record in {}", dir.display()))?;
    let (driver, driver_task) = driver::start(config, open_store(dir).await?, Some(audit))?;
    let screen = driver.subscribe(events::BEHIND).await?;
    if let Some(name) = hub.operator.name.clone() {
        // A hub that was named anew; before its first run there is nobody to rename yet.
        driver.execute(OperatorCommand::Rename { public_id: host, name }).await?;
    }
    let mut parts = Parts::new();
    parts
        .spawn(async move { Ok(driver_task.await.context("the master's state machine failed")??) });
    let door = open_console(dir, &hub, host, &driver, &stop, &mut parts).await?;
    let (url, secret, to_relay, until) =
        (hub.url.clone(), hub.secret, driver.clone(), stop.clone());
    parts.spawn(async move { Ok(relay_connection::run(url, secret, to_relay, until).await?) });
    let listen = hub.listen;
    let data_dir = dir.to_path_buf();
    let monitor = HealthMonitor { driver: driver.clone(), listen, data_dir };
    let until = stop.clone();
    parts.spawn(async move {
        monitor.run(until).await;
        Ok(())
    });
    let limits = hub.operator.limits.into();
    let at = dir.to_path_buf();
    let name = hub.name.clone();
    let paths = hub.paths.clone();
    parts.spawn(host_device::run(
        at,
        (hub.url.clone(), hub.secret),
        device,
        name,
        paths,
        limits,
        stop.clone(),
    ));

    let result = tokio::select! {
        () = stop_signal() => {
            say_stopping(global.json);
            Ok(())
        }
        error = first_failure(&mut parts) => Err(error),
        result = face(global, &hub, &driver, &door, screen, &stop) => result,
    };
    stop.cancel();
    drop(driver);
    let all_end = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, all_end).await.is_err() {
        tracing::debug!("not everything ended in time");
    }
    Ok(result?)
}

/// Opens what the host's browser and commands speak to.
async fn open_console(
    dir: &Path,
    hub: &MasterSetup,
    host: DeviceId,
    driver: &DriverHandle,
    stop: &CancellationToken,
    parts: &mut Parts,
) -> anyhow::Result<LoginLinks> {
    let info = ConsoleInfo {
        host,
        hub_name: hub.name.clone(),
        urls: hub.urls.clone(),
        tap_to_approve: hub.operator.tap_to_approve,
        record: dir.to_owned(),
    };
    let console = Console::bind(driver.clone(), info, stop.clone())
        .await
        .context("open a port for the console")?;
    let door = console.door();
    parts.spawn(async move { console.run().await.context("serve the console") });
    let listener = Listener::open(dir, HUB)
        .await
        .with_context(|| format!("open the control socket in {}", dir.display()))?;
    let name = hub.name.clone();
    let urls = hub.urls.clone();
    let control = Control { driver: driver.clone(), door: door.clone(), name, urls };
    let until = stop.clone();
    parts.spawn(async move {
        control.run(listener, until).await;
        Ok(())
    });
    Ok(door)
}

/// Why the hub cannot go on, once one of its parts says so.
async fn first_failure(parts: &mut Parts) -> anyhow::Error {
    loop {
        match parts.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return error,
            Some(Err(error)) => {
                return anyhow::Error::new(error).context("a part of the hub broke");
            }
            None => std::future::pending().await,
        }
    }
}

/// What the person or the program that started us sees. Ends when the person quits.
async fn face(
    global: &Global,
    hub: &MasterSetup,
    driver: &DriverHandle,
    door: &LoginLinks,
    mut screen: Screen,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    wait_for_relay(driver, &mut screen).await?;
    if global.json {
        events::run(driver.clone(), screen, hub.ready.clone(), stop.clone()).await;
        // Nobody reads any more; the hub goes on without.
        return std::future::pending().await;
    }
    let prompt = std::io::stdout().is_terminal() && !hub.operator.headless;
    print!("{}", banner(hub, driver, door, prompt).await?);
    if prompt {
        terminal::run(driver.clone(), door.clone(), driver.subscribe(terminal::BEHIND).await?)
            .await;
        return Ok(());
    }
    loop {
        while let Some(shown) = screen.shown.recv().await {
            events::log(&shown);
        }
        screen = driver.subscribe(events::BEHIND).await?;
    }
}

/// Until the relay has taken this master: what is printed as ready is ready.
async fn wait_for_relay(driver: &DriverHandle, screen: &mut Screen) -> anyhow::Result<()> {
    while !driver.query(|authority, _| authority.is_relay_ready()).await? {
        match screen.shown.recv().await {
            Some(ScreenUpdate::Message { .. } | ScreenUpdate::Event(_)) => {}
            None => *screen = driver.subscribe(events::BEHIND).await?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lanyard_device::{Device, DeviceConfig, DeviceEvent, EndReason, MembershipPhase};
    use lanyard_protocol::identity::Keypair;
    use lanyard_protocol::message::RefusedCount;
    use lanyard_protocol::{DeviceKind, FailureCode, MasterToConsole};
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::operator::actions;
    use crate::store::Store;
    use lanyard_relay::RelayConfig;

    /// A relay and a master that speak over a socket, as in one process.
    async fn hub(dir: &Path, stop: &CancellationToken) -> (HubUrl, DriverHandle) {
        let key = Keypair::from_seed(&[5; 32]);
        let listen = "127.0.0.1:0".parse().unwrap();
        let relay =
            Relay::bind(RelayConfig::new(listen, "Studio PC".into(), key, [7; 32])).await.unwrap();
        let url: HubUrl = format!("http://{}", relay.local_addr()).parse().unwrap();
        tokio::spawn(relay.run(stop.clone().cancelled_owned()));
        let store = Store::open(&data_dir::store_path(dir)).unwrap();
        let (driver, _task) = driver::start(AuthorityConfig::default(), store, None).unwrap();
        tokio::spawn(relay_connection::run(url.clone(), [7; 32], driver.clone(), stop.clone()));
        (url, driver)
    }

    async fn until<T>(
        events: &mut tokio::sync::mpsc::Receiver<DeviceEvent>,
        wanted: impl Fn(&DeviceEvent) -> Option<T>,
    ) -> T {
        loop {
            if let Some(found) = wanted(&events.recv().await.expect("the device lives")) {
                return found;
            }
        }
    }

    #[tokio::test]
    async fn a_device_is_let_in_by_the_digits_it_shows_and_what_it_shares_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let (hub, driver) = hub(dir.path(), &stop).await;
        let config = DeviceConfig {
            hub,
            keypair: Keypair::from_seed(&[6; 32]),
            name: "Laptop".into(),
            kind: DeviceKind::Native,
            host_secret: None,
            platform: "Test".into(),
            instance: lanyard_device::new_instance().unwrap(),
            pinned_hub: None,
            invitation: None,
            reveals: Default::default(),
            limits: Default::default(),
            content_dir: None,
        };
        let (device, mut events) = Device::start(config).unwrap();
        let code = until(&mut events, |event| match event {
            DeviceEvent::Phase(MembershipPhase::Waiting { code: Some(code) }) => Some(code.clone()),
            _ => None,
        });
        let code = code.await;
        let id = actions::resolve_live(&driver, "laptop").await.unwrap();
        assert_eq!(id, device.public_id());
        actions::approve(&driver, id, None, Some(code), None).await.unwrap();
        let approved = |event: &DeviceEvent| {
            matches!(event, DeviceEvent::Phase(MembershipPhase::Approved { .. })).then_some(())
        };
        until(&mut events, approved).await;

        let mut screen = driver.subscribe(64).await.unwrap();
        let shared = tempfile::tempdir().unwrap();
        std::fs::write(shared.path().join("a.txt"), "hello").unwrap();
        device.share(vec![shared.path().join("a.txt")]).await.unwrap();
        let added = driver::tests::shown(&mut screen, |message| match message {
            MasterToConsole::FilesAdded(added) => Some(added.files[0].path.clone()),
            _ => None,
        });
        assert_eq!(added.await, "a.txt");
        actions::refuse(&driver, id).await.unwrap();
        let ended = |event: &DeviceEvent| match event {
            DeviceEvent::Phase(MembershipPhase::Ended { reason }) => Some(*reason),
            _ => None,
        };
        assert_eq!(until(&mut events, ended).await, EndReason::Refused);
        assert_eq!(driver.query(|authority, _| authority.file_count()).await.unwrap(), 0);
    }

    /// The relay's figures come over the master's socket, from wherever the relay runs.
    #[tokio::test]
    async fn the_master_learns_what_its_relay_refused() {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let (hub, driver) = hub(dir.path(), &stop).await;
        let refused = || async {
            let status =
                driver.query(|authority, _| authority.relay_status().cloned()).await.unwrap();
            let count =
                |row: &RefusedCount| if row.code == FailureCode::NotFound { row.count } else { 0 };
            status.map(|status| status.refused.iter().map(count).sum::<u64>())
        };
        while refused().await != Some(0) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let mut stream = lanyard_device::connection::connection(&hub).await.unwrap();
        let request = format!(
            "GET /nothing HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            hub.authority()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        while refused().await != Some(1) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
