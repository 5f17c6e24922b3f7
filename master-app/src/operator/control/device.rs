//! What commands may ask of a running device (`share`, `get`, the host's own): its transfers and
//! its limits. Each process has a socket of its own, named after it: several may run from one data
//! directory.

use std::io;
use std::path::{Path, PathBuf};

use lanyard_device::{DeviceHandle, Rate};
use lanyard_protocol::TransferId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Listener, json as to_json, server, transport};
use crate::operator::actions::OperatorError;
use crate::output::exit::Exit;

/// The names of devices begin so; the process id follows.
const START: &str = "device-";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum SteeringRequest {
    Transfers,
    Pause {
        transfer_id: TransferId,
    },
    Resume {
        transfer_id: TransferId,
    },
    Cancel {
        transfer_id: TransferId,
    },
    /// Without either it only asks.
    Limit {
        up: Option<Rate>,
        down: Option<Rate>,
    },
}

/// A socket that is offered; dropped, it is taken away.
#[derive(Debug)]
pub(crate) struct CommandSocket {
    stop: CancellationToken,
    dir: PathBuf,
    name: String,
}

impl Drop for CommandSocket {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Err(error) = transport::remove(&self.dir, &self.name) {
            tracing::debug!(%error, "the control socket stays behind");
        }
    }
}

/// Lets commands reach this process's device. A device that cannot be reached so is still a device.
pub(crate) async fn offer(dir: &Path, handle: DeviceHandle) -> Option<CommandSocket> {
    offer_as(dir, std::process::id(), handle)
        .await
        .inspect_err(|error| {
            tracing::warn!(%error, dir = %dir.display(), "`lanyard transfers` and its like cannot reach this process");
        })
        .ok()
}

async fn offer_as(dir: &Path, process: u32, handle: DeviceHandle) -> io::Result<CommandSocket> {
    let name = name_of(process);
    let listener = Listener::open(dir, &name).await?;
    let stop = CancellationToken::new();
    let answer = move |request| {
        let handle = handle.clone();
        async move { answer(&handle, request).await }
    };
    tokio::spawn(server::serve(listener, stop.clone(), answer));
    Ok(CommandSocket { stop, dir: dir.to_owned(), name })
}

async fn answer(handle: &DeviceHandle, request: SteeringRequest) -> Result<Value, OperatorError> {
    let done = match request {
        SteeringRequest::Transfers => handle.transfers().await.map(to_json),
        SteeringRequest::Pause { transfer_id } => {
            handle.pause(transfer_id).await.map(|()| Value::Null)
        }
        SteeringRequest::Resume { transfer_id } => {
            handle.resume(transfer_id).await.map(|()| Value::Null)
        }
        SteeringRequest::Cancel { transfer_id } => {
            handle.cancel(transfer_id).await.map(|()| Value::Null)
        }
        SteeringRequest::Limit { up, down } => {
            handle.limit(up, down).await.map(|limits| json!(limits))
        }
    };
    done.map_err(|error| OperatorError::new(Exit::NotReachable, error.to_string()))
}

pub(super) fn name_of(process: u32) -> String {
    format!("{START}{process}")
}

/// The processes that offered a socket on `dir`; some may be gone.
pub(crate) fn processes(dir: &Path) -> io::Result<Vec<u32>> {
    let names = match transport::names(dir, START) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    Ok(names.iter().filter_map(|name| name.strip_prefix(START)?.parse().ok()).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// As another process would offer its device.
    pub(crate) async fn offered(dir: &Path, process: u32, handle: DeviceHandle) -> CommandSocket {
        offer_as(dir, process, handle).await.unwrap()
    }
}
