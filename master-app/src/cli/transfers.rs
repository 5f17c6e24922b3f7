//! The commands that look at transfers and steer them: ask every device process of the data
//! directory, print for people or for programs.

use std::path::Path;

use lanyard_device::{Rate, RateLimits, TransferDirection, TransferInfo, TransferStatus};
use lanyard_protocol::TransferId;
use serde::Serialize;
use serde_json::json;

use super::global::Global;
use crate::operator::control::device::SteeringRequest;
use crate::operator::control::device_client::{ask, ask_all};
use crate::output::exit::{Exit, Failure, Outcome};
use crate::output::text::{self, visible};

/// A transfer and the process that has it.
#[derive(Debug, Clone, Serialize)]
struct TransferRow {
    process: u32,
    #[serde(flatten)]
    info: TransferInfo,
}

/// The limits of one process.
#[derive(Debug, Clone, Copy)]
struct LimitRow {
    process: u32,
    limits: RateLimits,
}

async fn all_transfers(dir: &Path) -> Result<Vec<TransferRow>, Failure> {
    let answers: Vec<(u32, Vec<TransferInfo>)> = ask_all(dir, &SteeringRequest::Transfers).await?;
    Ok(answers
        .into_iter()
        .flat_map(|(process, list)| list.into_iter().map(move |info| TransferRow { process, info }))
        .collect())
}

pub(crate) async fn transfers(global: &Global) -> Outcome {
    let rows = all_transfers(&global.data_dir).await?;
    if global.json {
        println!("{}", serde_json::to_string(&rows)?);
    } else if rows.is_empty() {
        println!("nothing is on its way");
    } else {
        print!("{}", table(&rows));
    }
    Ok(())
}

fn table(rows: &[TransferRow]) -> String {
    let cells = |TransferRow { process, info }: &TransferRow| {
        let (way, who) = match info.direction {
            TransferDirection::Down => ("from", &info.owner_name),
            TransferDirection::Up => ("to", &info.asker_name),
        };
        let percent = info.done.saturating_mul(100).checked_div(info.total).unwrap_or(100);
        vec![
            info.transfer_id.map_or_else(|| "(a link)".into(), |id| id.to_string()),
            process.to_string(),
            format!("{way} {}", visible(who)),
            info.files.to_string(),
            format!("{percent} % of {}", text::size(info.total)),
            format!("{}/s", text::size(info.rate)),
            state(info),
        ]
    };
    let head = ["ID", "PROCESS", "WITH", "FILES", "DONE", "RATE", "STATE"];
    text::table(&head, &rows.iter().map(cells).collect::<Vec<_>>())
}

fn state(info: &TransferInfo) -> String {
    match (info.state, info.waits_for) {
        (TransferStatus::Running, _) => "running".into(),
        (TransferStatus::Paused, _) => "paused".into(),
        (TransferStatus::Waiting, Some(code)) => format!("waiting: {}", code.sentence()),
        (TransferStatus::Waiting, None) => "waiting".into(),
    }
}

pub(crate) async fn pause(global: &Global, id: String) -> Outcome {
    steer(global, &id, "paused", |transfer_id| SteeringRequest::Pause { transfer_id }).await
}

pub(crate) async fn resume(global: &Global, id: String) -> Outcome {
    steer(global, &id, "resumed", |transfer_id| SteeringRequest::Resume { transfer_id }).await
}

pub(crate) async fn cancel(global: &Global, id: String) -> Outcome {
    steer(global, &id, "cancelled", |transfer_id| SteeringRequest::Cancel { transfer_id }).await
}

async fn steer(
    global: &Global,
    id: &str,
    done: &str,
    request: impl Fn(TransferId) -> SteeringRequest,
) -> Outcome {
    let rows = all_transfers(&global.data_dir).await?;
    let chosen = choose(&rows, id)?;
    for (process, transfer_id) in &chosen {
        // One that ended meanwhile needs nothing any more.
        let _: Option<serde_json::Value> =
            ask(&global.data_dir, *process, &request(*transfer_id)).await?;
    }
    if global.json {
        let ids: Vec<TransferId> = chosen.iter().map(|(_, id)| *id).collect();
        println!("{}", json!({ "ok": true, "transfers": ids }));
    } else {
        chosen.iter().for_each(|(_, id)| println!("{done} {id}"));
    }
    Ok(())
}

/// The downloads that are meant by an id, the beginning of one, or `all`.
fn choose(rows: &[TransferRow], id: &str) -> Result<Vec<(u32, TransferId)>, Failure> {
    let id = id.to_ascii_lowercase();
    let is_meant = |row: &&TransferRow| {
        id == "all" || row.info.transfer_id.is_some_and(|t| t.to_string().starts_with(&id))
    };
    let meant: Vec<&TransferRow> = rows.iter().filter(is_meant).collect();
    let mine = meant.iter().filter(|row| row.info.direction == TransferDirection::Down);
    let mine: Vec<(u32, TransferId)> =
        mine.filter_map(|row| Some((row.process, row.info.transfer_id?))).collect();
    match mine.as_slice() {
        [] if !meant.is_empty() => {
            let why =
                "that is an upload, which whoever fetches steers; to end it, stop sharing the file";
            Err(Failure::new(Exit::Failed, why))
        }
        [] if id == "all" => Err(Failure::new(Exit::NotFound, "nothing is being fetched")),
        [] => Err(Failure::new(
            Exit::NotFound,
            "no such transfer; `lanyard transfers` shows what there is",
        )),
        [_, _, ..] if id != "all" => {
            Err(Failure::usage("more than one transfer begins so; say more of its id"))
        }
        _ => Ok(mine),
    }
}

/// Changes the limits of every device process of the data directory, or shows them.
pub(crate) async fn limit(global: &Global, up: Option<Rate>, down: Option<Rate>) -> Outcome {
    let dir = &global.data_dir;
    let answers: Vec<(u32, RateLimits)> =
        ask_all(dir, &SteeringRequest::Limit { up, down }).await?;
    if answers.is_empty() {
        let why = format!("nothing shares or fetches from {} at the moment", dir.display());
        return Err(Failure::new(Exit::NotReachable, why));
    }
    let rows: Vec<LimitRow> =
        answers.into_iter().map(|(process, limits)| LimitRow { process, limits }).collect();
    if global.json {
        let value = |row: &LimitRow| json!({ "process": row.process, "up": row.limits.up.get(), "down": row.limits.down.get() });
        println!("{}", rows.iter().map(value).collect::<serde_json::Value>());
    } else {
        let cells = |row: &LimitRow| {
            vec![row.process.to_string(), row.limits.up.to_string(), row.limits.down.to_string()]
        };
        print!(
            "{}",
            text::table(&["PROCESS", "UP", "DOWN"], &rows.iter().map(cells).collect::<Vec<_>>())
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Commands reach every process of the directory, mean one transfer, and are in nobody's way
    //! when a process is gone.
    use super::*;
    use crate::operator::control::device::processes;
    use crate::operator::control::device::tests::offered;
    use lanyard_device::{Device, DeviceConfig, DeviceHandle};
    use lanyard_protocol::identity::Keypair;

    fn row(n: u8, direction: TransferDirection) -> TransferRow {
        let id = |kind: u8| format!("{kind:02x}{n:02x}0000-0000-8000-8000-000000000001");
        let info = TransferInfo {
            transfer_id: Some(TransferId(id(0xa0).parse().unwrap())),
            owner: id(1).parse().unwrap(),
            owner_name: "Ana".into(),
            asker: id(2).parse().unwrap(),
            asker_name: "Bo".into(),
            direction,
            files: 1,
            done: 50,
            total: 100,
            rate: 10,
            state: TransferStatus::Waiting,
            waits_for: Some(lanyard_protocol::FailureCode::OwnerAway),
        };
        TransferRow { process: u32::from(n), info }
    }

    #[test]
    fn an_id_its_beginning_or_all_mean_downloads_and_nothing_else() {
        let rows = [
            row(1, TransferDirection::Down),
            row(2, TransferDirection::Down),
            row(3, TransferDirection::Up),
        ];
        let meant = |id: &str| {
            choose(&rows, id).map(|chosen| chosen.iter().map(|(p, _)| *p).collect::<Vec<_>>())
        };
        assert_eq!(meant("a001").unwrap(), [1]);
        assert_eq!(meant("A002").unwrap(), [2]);
        assert_eq!(meant("all").unwrap(), [1, 2]);
        let exit = |id: &str| meant(id).unwrap_err().exit;
        assert_eq!(
            (exit("a0"), exit("a003"), exit("ffff")),
            (Exit::Usage, Exit::Failed, Exit::NotFound)
        );
        assert_eq!(choose(&rows[2..], "all").unwrap_err().exit, Exit::Failed);
        assert_eq!(choose(&[], "all").unwrap_err().exit, Exit::NotFound);
        assert!(table(&rows).contains("50 % of 100 B"), "{}", table(&rows));
    }

    fn device(seed: u8) -> DeviceHandle {
        let config = DeviceConfig {
            hub: "http://127.0.0.1:9".parse().unwrap(),
            keypair: Keypair::from_seed(&[seed; 32]),
            name: "x".into(),
            kind: lanyard_protocol::DeviceKind::Native,
            host_secret: None,
            platform: String::new(),
            instance: lanyard_device::new_instance().unwrap(),
            pinned_hub: None,
            invitation: None,
            reveals: Default::default(),
            limits: RateLimits::default(),
            content_dir: None,
        };
        Device::start(config).unwrap().0
    }

    #[tokio::test]
    async fn a_limit_reaches_every_process_and_a_dead_ones_socket_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let global = Global {
            data_dir: dir.path().to_owned(),
            insecure_data: false,
            json: true,
            plain: false,
            log_format: crate::cli::global::LogFormat::Text,
        };
        assert_eq!(limit(&global, None, None).await.unwrap_err().exit, Exit::NotReachable);
        transfers(&global).await.unwrap();
        let (one, two) = (device(1), device(2));
        let first = offered(dir.path(), 101, one.clone()).await;
        let _second = offered(dir.path(), 102, two.clone()).await;
        limit(&global, Some("5M".parse().unwrap()), None).await.unwrap();
        for device in [&one, &two] {
            let limits = device.limit(None, None).await.unwrap();
            assert_eq!((limits.up.get(), limits.down.get()), (Some(5 << 20), None));
        }
        drop(first);
        assert_eq!(processes(dir.path()).unwrap(), [102], "who ends takes its socket away");
        #[cfg(unix)]
        {
            drop(
                std::os::unix::net::UnixListener::bind(dir.path().join("device-103.sock")).unwrap(),
            );
            assert_eq!(processes(dir.path()).unwrap(), [102, 103]);
            transfers(&global).await.unwrap();
            assert_eq!(processes(dir.path()).unwrap(), [102]);
        }
        assert_eq!(pause(&global, "all".into()).await.unwrap_err().exit, Exit::NotFound);
    }
}
