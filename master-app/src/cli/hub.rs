//! The host's commands: ask the running hub, print for people or for programs.

use std::io::{self, IsTerminal};

use lanyard_protocol::message::Admission;

use super::global::Global;
use crate::operator::actions::{self, DeviceRow, FileRow, LinkRow, ListUsage};
use crate::operator::control::client::ask;
use crate::operator::control::{ControlRequest, InvitationOutput, RelayFigures, StatusOutput};
use crate::output::exit::Outcome;
use crate::output::tables::{devices_table, dropped_words, files_table, links_table};
use crate::output::text::{self, visible};

/// Devices that `status` names with what they take of the list, and from how many bytes on.
const LARGEST_SHOWN: usize = 5;

const WORTH_SHOWING: u64 = 1_000_000;

pub(crate) async fn devices(global: &Global) -> Outcome {
    let rows: Vec<DeviceRow> = ask(&global.data_dir, ControlRequest::Devices).await?;
    if global.json {
        println!("{}", serde_json::to_string(&rows)?);
    } else {
        print!("{}", devices_table(&rows));
    }
    Ok(())
}

pub(crate) async fn files(global: &Global) -> Outcome {
    let rows: Vec<FileRow> = ask(&global.data_dir, ControlRequest::Files).await?;
    if global.json {
        println!("{}", serde_json::to_string(&rows)?);
    } else {
        print!("{}", files_table(&rows));
    }
    Ok(())
}

/// `lanyard links --everybody`
pub(crate) async fn links(global: &Global) -> Outcome {
    let rows: Vec<LinkRow> = ask(&global.data_dir, ControlRequest::Links).await?;
    if global.json {
        println!("{}", serde_json::to_string(&rows)?);
    } else {
        print!(
            "{}",
            links_table(rows.iter().map(|row| (&row.link, Some(row.maker_name.as_str()))))
        );
    }
    Ok(())
}

/// `lanyard links --everybody drop`
pub(crate) async fn drop_links(global: &Global, ids: Vec<String>) -> Outcome {
    let count: usize = ask(&global.data_dir, ControlRequest::DropLinks { ids }).await?;
    println!("{}", dropped_words(count, global.json));
    Ok(())
}

pub(crate) async fn status(global: &Global) -> Outcome {
    let status: StatusOutput = ask(&global.data_dir, ControlRequest::Status).await?;
    if global.json {
        println!("{}", serde_json::to_string(&status)?);
        return Ok(());
    }
    println!("{}", visible(&status.name));
    status.urls.iter().for_each(|url| println!("  {url}"));
    let state = match status.problems.len() {
        0 => "well".to_owned(),
        1 => "a problem".to_owned(),
        many => format!("{many} problems"),
    };
    println!("state     {state}");
    println!("relay     {}", if status.relay_ready { "ready" } else { "away" });
    println!(
        "devices   {} let in, {} here, {} waiting",
        status.approved, status.online, status.waiting
    );
    println!("door      {}", actions::door_words(status.admission));
    println!("files     {}", status.files);
    print!("{}", usage_lines(&status.list));
    for problem in &status.problems {
        println!("PROBLEM   {}\n          {}", visible(&problem.what), visible(&problem.advice));
    }
    if let Some(relay) = &status.relay {
        print!("{}", relay_lines(relay));
    }
    println!("console   {} (opens with the link of `lanyard console`)", status.console);
    if !status.fingerprint.is_empty() {
        println!("hub key   {}", status.fingerprint);
    }
    Ok(())
}

/// Returns the relay's figures, a line each: what is under way, which limits are reached, what was
/// refused.
fn relay_lines(relay: &RelayFigures) -> String {
    let bytes = text::size(relay.slot_bytes);
    let budget = text::size(relay.slot_budget_bytes);
    let mut lines = format!(
        "under way {bytes} of {budget}, {} of {} at the door\n",
        relay.pending, relay.pending_limit
    );
    for full in relay.at_limit() {
        lines.push_str(&format!("FULL      {full}\n"));
    }
    let counts: Vec<String> = relay
        .refused
        .iter()
        .chain(&relay.closed)
        .map(|(why, n)| format!("{} {n}", visible(why)))
        .collect();
    if !counts.is_empty() {
        lines.push_str(&format!("refused   {}\n", counts.join(", ")));
    }
    lines
}

/// Prints what the list takes, and the devices that take most of it.
fn usage_lines(list: &ListUsage) -> String {
    let mut lines =
        format!("list      {} of {}\n", text::size(list.bytes), text::size(list.limit_bytes));
    let limit = text::size(list.device_limit_bytes);
    for row in list.devices.iter().take(LARGEST_SHOWN).filter(|row| row.bytes >= WORTH_SHOWING) {
        lines.push_str(&format!(
            "          by {}: {} of {limit}\n",
            visible(&row.name),
            text::size(row.bytes)
        ));
    }
    lines
}

pub(crate) async fn console(global: &Global) -> Outcome {
    let link: String = ask(&global.data_dir, ControlRequest::Console).await?;
    if global.json {
        println!("{}", serde_json::json!({ "url": link }));
    } else {
        println!("{link}");
        eprintln!("it opens once, within a minute, in a browser on this machine");
    }
    Ok(())
}

pub(crate) async fn approve(
    global: &Global,
    id: String,
    code: Option<String>,
    for_ms: Option<u64>,
) -> Outcome {
    acted(global, ControlRequest::Approve { id, code, for_ms }, "let in").await
}

/// Prints an address that lets one device in; as a QR code, too, on a terminal.
pub(crate) async fn invite(global: &Global, valid_ms: u64, for_ms: Option<u64>) -> Outcome {
    let invited: InvitationOutput =
        ask(&global.data_dir, ControlRequest::Invite { valid_ms, for_ms }).await?;
    if global.json {
        println!("{}", serde_json::to_string(&invited)?);
        return Ok(());
    }
    if io::stdout().is_terminal()
        && let Some(code) = text::qr(&invited.url)
    {
        println!("{code}");
    }
    println!("{}", invited.url);
    eprintln!(
        "lets one device in, once, for {}; whoever has it first comes in",
        text::duration(valid_ms)
    );
    Ok(())
}

/// Shows or sets whom the hub lets in.
pub(crate) async fn door(global: &Global, admission: Option<Admission>) -> Outcome {
    let admission: Admission = ask(&global.data_dir, ControlRequest::Door { admission }).await?;
    if global.json {
        println!("{}", serde_json::json!({ "admission": admission }));
    } else {
        println!("{}", actions::door_words(admission));
    }
    Ok(())
}

/// Lets the hub ask about more devices than usual, for ten minutes.
pub(crate) async fn allow_more(global: &Global) -> Outcome {
    acted(global, ControlRequest::AllowMore, actions::MORE_ALLOWED).await
}

pub(crate) async fn refuse(global: &Global, id: String) -> Outcome {
    acted(global, ControlRequest::Refuse { id }, "turned away").await
}

pub(crate) async fn forget(global: &Global, id: String) -> Outcome {
    acted(global, ControlRequest::Forget { id }, "forgotten; it may knock again").await
}

async fn acted(global: &Global, request: ControlRequest, done: &str) -> Outcome {
    ask::<serde_json::Value>(&global.data_dir, request).await?;
    if global.json {
        println!("{}", serde_json::json!({ "ok": true }));
    } else {
        println!("{done}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lanyard_protocol::message::{ClosedCount, RefusedCount, RelayStatus};
    use lanyard_protocol::{CloseCode, FailureCode};

    use super::*;
    use crate::operator::actions::DeviceUsage;

    /// A limit that is reached is said, and only then; refusals are counted by their codes.
    #[test]
    fn status_names_full_limits_and_counts_refusals() {
        let status = RelayStatus {
            pending: 64,
            pending_limit: 64,
            slot_bytes: 33,
            slot_budget_bytes: 100,
            refused: vec![RefusedCount { code: FailureCode::HostDenied, count: 3 }],
            closed: vec![ClosedCount { reason: CloseCode::TooSlow, count: 1 }],
            ..RelayStatus::default()
        };
        let full = RelayFigures::from(&status);
        let door = "FULL      the limit of pending join requests is reached\n";
        let expected = format!(
            "under way 33 B of 100 B, 64 of 64 at the door\n{door}refused   HOST_DENIED 3, TOO_SLOW 1\n"
        );
        assert_eq!(relay_lines(&full), expected);
        let busy = RelayFigures { pending: 3, slot_bytes: 90, waiting_asks: 1, ..full.clone() };
        assert!(relay_lines(&busy).contains("FULL      the memory for transfers is used up\n"));
        assert!(!relay_lines(&busy).contains(door));
        let idle = RelayFigures { waiting_asks: 0, ..busy };
        assert!(!relay_lines(&idle).contains("FULL"), "nobody waits for the budget");
        assert!(!relay_lines(&RelayFigures::default()).contains("FULL"));
    }

    /// Devices that fill the list are named beside how much that is; a name cannot forge a line.
    #[test]
    fn status_names_those_who_take_most_of_the_list() {
        let row = |n: u8, name: &str, bytes| DeviceUsage {
            public_id: lanyard_protocol::DeviceId(uuid::Uuid::from_bytes([n; 16])),
            name: name.into(),
            bytes,
        };
        let list = ListUsage {
            bytes: 12_100_000,
            limit_bytes: 256 << 20,
            device_limit_bytes: 64 << 20,
            devices: vec![row(1, "Ana\n", 12_000_000), row(2, "Ben", 100_000)],
        };
        assert_eq!(
            usage_lines(&list),
            "list      12.1 MB of 268 MB\n          by Ana\\u{a}: 12.0 MB of 67.1 MB\n"
        );
    }
}
