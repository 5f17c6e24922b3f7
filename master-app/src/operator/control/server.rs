//! Answers commands, one JSON line each way, a few at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lanyard_protocol::limits::MAX_FRAME_BYTES;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::ControlResponse;
use super::transport::{ControlStream, Listener};
use crate::operator::actions::OperatorError;
use crate::output::exit::Exit;

/// A request is a short line.
const MAX_REQUEST: u64 = MAX_FRAME_BYTES as u64;
/// Commands served at once; the next ones wait.
const AT_ONCE: usize = 16;
/// A command writes its request at once and reads the answer at once. One that does not, as after
/// Ctrl-Z, holds one of the places above no longer than this.
const LINE_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });

/// Serves commands until `stop`; each is answered by `answer`.
pub(super) async fn serve<R, A, T>(mut listener: Listener, stop: CancellationToken, answer: A)
where
    R: DeserializeOwned + Send,
    A: Fn(R) -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<serde_json::Value, OperatorError>> + Send,
{
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let answer = answer.clone();
        match stream {
            Ok(stream) => drop(tokio::spawn(async move {
                if let Err(error) = one(stream, answer).await {
                    tracing::debug!(%error, "a command went away before its answer");
                }
                drop(place);
            })),
            Err(error) => {
                tracing::warn!(%error, "the control socket took no connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn one<R, A, T>(stream: ControlStream, answer: A) -> io::Result<()>
where
    R: DeserializeOwned,
    A: Fn(R) -> T,
    T: Future<Output = Result<serde_json::Value, OperatorError>>,
{
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    timeout(LINE_TIMEOUT, (&mut stream).take(MAX_REQUEST).read_line(&mut line)).await??;
    let response = match serde_json::from_str(&line) {
        Ok(request) => {
            answer(request).await.map_or_else(ControlResponse::Failed, ControlResponse::Ok)
        }
        Err(error) => ControlResponse::Failed(OperatorError::new(
            Exit::Usage,
            format!("unknown command: {error}"),
        )),
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    let write = async {
        stream.write_all(&text).await?;
        stream.shutdown().await
    };
    timeout(LINE_TIMEOUT, write).await?
}
