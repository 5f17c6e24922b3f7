//! Asks the running hub, over its control socket.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::transport::ControlStream;
use super::{ControlRequest, ControlResponse, HUB, transport};
use crate::operator::actions;
use crate::output::exit::{Exit, Failure};

/// Asks the hub that runs on `dir`.
pub(crate) async fn ask<T: DeserializeOwned>(
    dir: &Path,
    request: ControlRequest,
) -> Result<T, Failure> {
    let stream = transport::connect(dir, HUB).await.map_err(|error| unreachable(dir, &error))?;
    exchange(stream, &request).await
}

/// Returns the failure of a command that cannot reach the hub on `dir`.
fn unreachable(dir: &Path, error: &io::Error) -> Failure {
    let kind = error.kind();
    let dir = dir.display();
    if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        Failure::new(Exit::NotReachable, format!("no hub runs on {dir}"))
    } else if kind == io::ErrorKind::PermissionDenied {
        Failure::new(Exit::Failed, format!("the hub on {dir} is another user's"))
    } else {
        Failure::new(Exit::Failed, format!("cannot reach the hub on {dir}: {error}"))
    }
}

/// Says a request and hears the answer.
pub(super) async fn exchange<T: DeserializeOwned>(
    stream: ControlStream,
    request: &impl Serialize,
) -> Result<T, Failure> {
    let lost = |error: io::Error| {
        Failure::new(Exit::NotReachable, format!("who was asked went away: {error}"))
    };
    let mut stream = BufReader::new(stream);
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await.map_err(lost)?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await.map_err(lost)?;
    if answer.is_empty() {
        return Err(lost(io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&answer)? {
        ControlResponse::Ok(value) => Ok(serde_json::from_value(value)?),
        ControlResponse::Failed(refusal) => Err(failure(refusal)),
    }
}

/// The end of a command whose wish was refused.
pub(crate) fn failure(refusal: actions::OperatorError) -> Failure {
    Failure::new(exit_of(refusal.exit), refusal)
}

fn exit_of(number: u8) -> Exit {
    match number {
        2 => Exit::Usage,
        3 => Exit::NotApproved,
        4 => Exit::NotReachable,
        5 => Exit::NotFound,
        _ => Exit::Failed,
    }
}
