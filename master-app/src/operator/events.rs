//! `--json`: what happens at the hub, one event a line, on standard output, and nothing else there.

use std::io::Write;

use lanyard_hub::authority::OperatorEvent;
use lanyard_protocol::MasterToConsole;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::authority::driver::{DriverHandle, Screen, ScreenUpdate};
use crate::problems::{ActiveProblem, ProblemList};

/// Events that wait for whoever reads; beyond, the next line says that some are missing.
pub(crate) const BEHIND: usize = 4_096;
/// Lines that wait for the pipe; beyond, the task that makes them waits.
const LINES: usize = 64;

/// Prints the `ready` line, then every event, until `stop`.
pub(crate) async fn run(
    driver: DriverHandle,
    screen: Screen,
    ready: Value,
    stop: CancellationToken,
) {
    let (lines, mut waiting) = mpsc::channel::<Value>(LINES);
    // A pipe that nobody reads blocks its writer: that is this thread, nobody else.
    let printer = std::thread::spawn(move || {
        while let Some(line) = waiting.blocking_recv() {
            let mut out = std::io::stdout().lock();
            if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    });
    tokio::select! {
        () = pass_on(driver, screen, ready, lines) => {}
        () = stop.cancelled() => {}
    }
    // What is on its way already gets out, unless nobody reads it.
    let _ = tokio::time::timeout(
        std::time::Duration::from_secs(1),
        tokio::task::spawn_blocking(|| printer.join()),
    )
    .await;
}

/// Problems as they come and go.
struct Watched {
    changes: watch::Receiver<Vec<ActiveProblem>>,
    told: Vec<ActiveProblem>,
}

impl Watched {
    fn new(problems: &ProblemList) -> Self {
        let mut changes = problems.watch();
        // Those that are there already are told first.
        changes.mark_changed();
        Self { changes, told: Vec::new() }
    }

    /// Lines for what changed; waits until something does.
    async fn next(&mut self) -> Vec<Value> {
        if self.changes.changed().await.is_err() {
            return std::future::pending().await;
        }
        let all = self.changes.borrow_and_update().clone();
        let over =
            self.told.iter().filter(|told| all.iter().all(|problem| problem.code != told.code));
        let over = over.map(|told| json!({ "event": "problem_over", "code": told.code }));
        let new = all.iter().filter(|problem| !self.told.contains(problem)).map(|problem| {
            let ActiveProblem { code, what, advice, since_ms } = problem;
            json!({ "event": "problem", "code": code, "what": what, "advice": advice, "since_ms": since_ms })
        });
        let lines = over.chain(new).collect();
        self.told = all;
        lines
    }
}

async fn pass_on(
    driver: DriverHandle,
    mut screen: Screen,
    ready: Value,
    lines: mpsc::Sender<Value>,
) {
    if lines.send(ready).await.is_err() {
        return;
    }
    let mut problems = Watched::new(driver.problems());
    // The `ready` line has said it already.
    let mut relay_is_ready = true;
    loop {
        loop {
            let shown = tokio::select! {
                shown = screen.shown.recv() => shown,
                changed = problems.next() => {
                    for line in changed {
                        if lines.send(line).await.is_err() {
                            return;
                        }
                    }
                    continue;
                }
            };
            let Some(shown) = shown else { break };
            if let ScreenUpdate::Message { message, .. } = &shown
                && let MasterToConsole::RelayState(state) = &**message
                && std::mem::replace(&mut relay_is_ready, state.ready) == state.ready
            {
                continue;
            }
            if let Some(line) = line(&shown)
                && lines.send(line).await.is_err()
            {
                return;
            }
        }
        let Ok(next) = driver.subscribe(BEHIND).await else { return };
        screen = next;
        if lines.send(json!({ "event": "events_lost" })).await.is_err() {
            return;
        }
    }
}

/// The line for what was shown, if it is an event.
pub(crate) fn line(shown: &ScreenUpdate) -> Option<Value> {
    match shown {
        ScreenUpdate::Event(event) => Some(event_line(event)),
        ScreenUpdate::Message { message, .. } => message_line(message),
    }
}

fn event_line(event: &OperatorEvent) -> Value {
    let (name, client, address) = match event {
        OperatorEvent::DevicePending { client, address, .. } => ("device_pending", client, address),
        OperatorEvent::DeviceLeft { client, address } => ("device_left", client, address),
    };
    json!({
        "event": name,
        "public_id": client.public_id,
        "name": client.name,
        "kind": client.kind,
        "address": address,
    })
}

fn message_line(message: &MasterToConsole) -> Option<Value> {
    Some(match message {
        MasterToConsole::ClientApproved(m) => json!({
            "event": "device_approved",
            "public_id": m.client.public_id,
            "name": m.client.name,
            "kind": m.client.kind,
        }),
        MasterToConsole::ClientDisApproved(m) => {
            json!({ "event": "device_refused", "public_id": m.public_id })
        }
        MasterToConsole::ClientUpdated(m) => json!({
            "event": "device_renamed",
            "public_id": m.client.public_id,
            "name": m.client.name,
        }),
        MasterToConsole::ClientReconnected(m) => {
            json!({ "event": "device_online", "public_id": m.public_id })
        }
        MasterToConsole::ClientDisconnected(m) => {
            json!({ "event": "device_away", "public_id": m.public_id })
        }
        MasterToConsole::FilesAdded(m) => {
            let file = |f: &lanyard_protocol::FileEntry| json!({ "file_id": f.file_id, "path": f.path, "size": f.size });
            let files: Vec<Value> = m.files.iter().map(file).collect();
            json!({ "event": "files_added", "public_id": m.public_id, "files": files })
        }
        MasterToConsole::FilesUpdated(m) => {
            json!({ "event": "files_updated", "public_id": m.public_id, "files": m.files })
        }
        MasterToConsole::FileRemoved(m) => {
            json!({ "event": "file_removed", "public_id": m.public_id, "file_ids": m.file_ids })
        }
        MasterToConsole::FilesWithdrawn(m) => json!({
            "event": "files_withdrawn",
            "public_id": m.public_id,
            "file_ids": m.file_ids,
            "instance": m.instance,
        }),
        MasterToConsole::RelayState(m) => {
            json!({ "event": if m.ready { "relay_ready" } else { "relay_away" } })
        }
        MasterToConsole::ConsoleRegisterAck(_)
        | MasterToConsole::Knocks(_)
        | MasterToConsole::Refused(_)
        | MasterToConsole::Door(_)
        | MasterToConsole::Problems(_)
        | MasterToConsole::Invitation(_)
        | MasterToConsole::FeedPage(_)
        | MasterToConsole::FeedDirty(_)
        | MasterToConsole::Presence(_)
        | MasterToConsole::UpdateNameAck(_)
        | MasterToConsole::ForgetClientAck(_)
        | MasterToConsole::LinkMade(_)
        | MasterToConsole::LinkDropped(_)
        | MasterToConsole::LinksPage(_)
        | MasterToConsole::RequestFailed(_)
        | MasterToConsole::Pong(_) => return None,
    })
}

/// The same as a log line, where no terminal watches. Names of files stay out of logs.
pub(crate) fn log(shown: &ScreenUpdate) {
    let Some(line) = line(shown) else { return };
    let field =
        |name: &str| line[name].as_str().map(crate::output::text::visible).unwrap_or_default();
    let (event, device) = (field("event").replace('_', " "), field("public_id"));
    match event.as_str() {
        "device pending" | "device left" => {
            tracing::info!(device, name = field("name"), address = field("address"), "{event}")
        }
        "device approved" | "device renamed" => {
            tracing::info!(device, name = field("name"), "{event}")
        }
        "relay ready" | "relay away" => tracing::info!("{event}"),
        _ => tracing::info!(device, "{event}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::driver::tests::DriverFixture;

    #[tokio::test]
    async fn events_are_told_in_order() {
        let mut bench = DriverFixture::new().await;
        let mut screen = bench.driver.subscribe(64).await.unwrap();
        let session = bench.member(7, "Ana").await;
        bench.add(session, 2).await;
        let public_id = session.public_id;
        let refusal = lanyard_hub::authority::OperatorCommand::Refuse { public_id };
        bench.driver.execute(refusal).await.unwrap();
        let mut told = Vec::new();
        while let Ok(shown) = screen.shown.try_recv() {
            told.extend(line(&shown));
        }
        let names: Vec<&str> = told.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            ["device_pending", "device_online", "device_approved", "files_added", "device_refused"]
        );
        assert_eq!(told[0]["name"], "Ana");
        assert_eq!(told[0]["address"], "192.168.1.5");
        assert_eq!(told[3]["files"][1]["path"], "folder/1.txt");
    }

    #[tokio::test]
    async fn problems_are_told_as_they_come_and_go() {
        let problem = |code| ActiveProblem {
            code,
            what: "It is full.".into(),
            advice: "Make room.".into(),
            since_ms: 5,
        };
        let problems = ProblemList::default();
        problems.raise(problem("before"));
        let mut watched = Watched::new(&problems);
        let expected = json!([{ "event": "problem", "code": "before", "what": "It is full.", "advice": "Make room.", "since_ms": 5 }]);
        assert_eq!(json!(watched.next().await), expected);
        problems.clear("before");
        problems.raise(problem("after"));
        let lines = watched.next().await;
        assert_eq!(lines[0], json!({ "event": "problem_over", "code": "before" }));
        assert_eq!((lines.len(), &lines[1]["code"]), (2, &json!("after")));
    }
}
