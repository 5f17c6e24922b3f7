//! Asks the running devices of a data directory, each over its own socket.

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::client::exchange;
use super::device::{SteeringRequest, name_of, processes};
use super::transport;
use crate::output::exit::{Exit, Failure};

/// `None`: the process is gone, and what it left is taken away.
pub(crate) async fn ask<T: DeserializeOwned>(
    dir: &Path,
    process: u32,
    request: &SteeringRequest,
) -> Result<Option<T>, Failure> {
    match transport::connect(dir, &name_of(process)).await {
        Ok(stream) => match exchange(stream, request).await {
            // It ended meanwhile.
            Err(failure) if failure.exit == Exit::NotReachable => Ok(None),
            answer => answer.map(Some),
        },
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                let _ = transport::remove(dir, &name_of(process));
            }
            Ok(None)
        }
        Err(error) => {
            Err(Failure::new(Exit::Failed, format!("process {process} cannot be asked: {error}")))
        }
    }
}

/// Returns the answers of all processes.
pub(crate) async fn ask_all<T: DeserializeOwned>(
    dir: &Path,
    request: &SteeringRequest,
) -> Result<Vec<(u32, T)>, Failure> {
    let mut answers = Vec::new();
    for process in processes(dir)? {
        if let Some(answer) = ask(dir, process, request).await? {
            answers.push((process, answer));
        }
    }
    Ok(answers)
}
