//! Setup before a hub starts: its database, its certificates, its name.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lanyard_device::connection::HubUrl;
use lanyard_protocol::device::is_valid_name;
use lanyard_protocol::identity;
use lanyard_relay::{RelayConfig, RelayError};
use lanyard_system::hostname::short_hostname;
use tokio_util::sync::CancellationToken;

use crate::authority::commit;
use crate::cli::args::{ListenArgs, OperatorArgs};
use crate::data_dir;
use crate::net::certificates::Certificates;
use crate::output::exit::Failure;
use crate::output::text::visible;
use crate::problems::{self, ProblemList};
use crate::store::{Store, TransientStoreError};

/// With the SHA-256 of the authority behind its certificate, which is kept up to date until `stop`.
pub(super) fn relay_config(
    dir: &Path,
    args: &ListenArgs,
    name: String,
    key: identity::Keypair,
    secret: [u8; 32],
    stop: &CancellationToken,
) -> anyhow::Result<(RelayConfig, String)> {
    data_dir::write_metrics_token(dir, &secret)?;
    let names = lanyard_relay::own_names(&args.hosts);
    let mut certificates = Certificates::open(dir, identity::fingerprint(&key.public()), names)?;
    certificates.identity().context("make a certificate for https")?;
    let authority = certificates.authority_sha256();
    let tls = Some(certificates.keep(stop.clone())?);
    let usual = RelayConfig::new(args.listen, name, key, secret);
    let (hosts, budget_bytes) = (args.hosts.clone(), args.budget.unwrap_or(usual.budget_bytes));
    Ok((
        RelayConfig { hosts, budget_bytes, tls, require_tls: args.require_tls, ..usual },
        authority,
    ))
}

/// Opens the database, once nobody else holds it.
pub(super) async fn open_store(dir: &Path) -> anyhow::Result<Store> {
    let (path, problems) = (data_dir::store_path(dir), ProblemList::default());
    loop {
        let (at, told) = (path.clone(), problems.clone());
        let opened = tokio::task::spawn_blocking(move || Store::open_telling(&at, told)).await;
        match opened.context("the store broke")? {
            Err(error) if error.transient() == Some(TransientStoreError::Locked) => {
                problems.raise(commit::problem_of_transient(TransientStoreError::Locked));
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            opened => {
                problems.clear(problems::DATABASE_LOCKED);
                return Ok(opened?);
            }
        }
    }
}

/// All of the paths, whole, or what is wrong with one before anything starts.
pub(super) fn check_paths(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let check = |path: &PathBuf| {
        std::fs::metadata(path).and_then(|_| std::path::absolute(path)).map_err(|error| {
            Failure::usage(format!("{}: {error}", visible(&path.to_string_lossy())))
        })
    };
    paths.iter().map(check).collect()
}

/// A taken port in words that help.
pub(super) fn port_trouble(error: RelayError) -> anyhow::Error {
    match &error {
        RelayError::Listen { address, source } if source.kind() == ErrorKind::AddrInUse => {
            anyhow::anyhow!(
                "{address} is taken, perhaps by a hub that runs already; choose another one with --listen, or port 0 for any"
            )
        }
        RelayError::Listen { address, source } if source.kind() == ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!(
                "{address} is no address of this machine; choose another one with --listen"
            )
        }
        RelayError::Listen { address, source } if source.kind() == ErrorKind::PermissionDenied => {
            anyhow::anyhow!(
                "{address} needs more rights than this account has; choose a port above 1023 with --listen"
            )
        }
        RelayError::Listen { .. } | RelayError::Randomness(_) => {
            anyhow::Error::new(error).context("start the relay")
        }
    }
}

/// Returns the name of this machine, or "Lanyard" where it has none that a device may carry.
pub(crate) fn machine_name() -> String {
    let name = short_hostname().filter(|name| is_valid_name(name));
    name.unwrap_or_else(|| "Lanyard".to_owned())
}

/// At the start, a database that another program holds is tried again after this.
pub(super) const LOCKED_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Settings of a master, the same for both ways of running one.
pub(super) struct MasterSetup {
    pub url: HubUrl,
    pub secret: [u8; 32],
    pub name: String,
    pub urls: Vec<String>,
    /// The first line of `--json`.
    pub ready: serde_json::Value,
    pub paths: Vec<PathBuf>,
    pub operator: OperatorArgs,
    /// SHA-256 of the relay's certificate authority, where the relay is ours.
    pub authority: Option<String>,
    /// Where the relay listens, where it is ours.
    pub listen: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::exit::Exit;

    #[test]
    fn a_missing_path_is_a_mistake_on_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().to_owned();
        assert_eq!(check_paths(std::slice::from_ref(&there)).unwrap(), vec![there.clone()]);
        let failure = check_paths(&[there.clone(), there.join("missing")]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.error.to_string().contains("missing"));
    }

    #[test]
    fn the_machine_has_a_name() {
        assert!(is_valid_name(&machine_name()));
    }
}
