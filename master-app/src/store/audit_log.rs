//! The record of who was let in, by whom, and who was not: JSON lines in the data directory, for
//! its owner only. It holds no secret, no code, and no name of a file. Nothing in it proves that it
//! was not edited: whoever can write the host's disk could make any such proof again.
//!
//! `audit.log` has the decisions. What others cause as often as they like (knocks, names, wrong
//! digits) lies in `activity.log`, so that it pushes no decision out; what repeats is counted.
//! Until 0.1 `audit.log` had both.

mod log;
mod repeats;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use lanyard_hub::authority::{AdmittedBy, AuditEvent, Member, Verdict};
use lanyard_protocol::DeviceId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use log::{LogFile, LogKind, at_ms};
use repeats::Repeats;

/// Some 200,000 decisions.
const DECISIONS: LogKind = LogKind { name: "audit.log", max_bytes: 8 << 20, kept: 4 };
/// Some 30,000 occasions.
const ACTIVITY: LogKind = LogKind { name: "activity.log", max_bytes: 2 << 20, kept: 2 };

/// The record, open for appending.
#[derive(Debug)]
pub(crate) struct Audit {
    dir: PathBuf,
    decisions: LogFile,
    activity: LogFile,
    repeats: Repeats,
}

impl Audit {
    /// Opens the record in `dir`, or begins it.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let decisions = LogFile::open(dir, &DECISIONS)?;
        let activity = LogFile::open(dir, &ACTIVITY)?;
        Ok(Self { dir: dir.into(), decisions, activity, repeats: Repeats::default() })
    }

    /// Has notes on disk: all decisions among them or none, then the occasions.
    pub(crate) fn write(&mut self, at_ms: u64, notes: &[AuditEvent]) -> io::Result<()> {
        let (decisions, occasions): (Vec<&AuditEvent>, Vec<&AuditEvent>) =
            notes.iter().partition(|note| is_decision(note));
        self.decide(at_ms, decisions.into_iter().map(entry))?;
        let repeats = &mut self.repeats;
        self.activity
            .append(occasions.into_iter().flat_map(|note| repeats.take(at_ms, entry(note))))
    }

    /// Writes what is counted and not told yet.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.activity.append(self.repeats.finish().into_iter())
    }

    /// Appends what is decided and was not recorded: the hub was killed between the one and the
    /// other, or the disk was full. `members` are all that are on disk. How many lines that took.
    pub(crate) fn catch_up<'a>(
        &mut self,
        at_ms: u64,
        members: impl Iterator<Item = &'a Member>,
    ) -> io::Result<usize> {
        let mut told = latest_names(&log::read(&self.dir, &DECISIONS)?);
        let mut missing = Vec::new();
        for member in members {
            let word = match member.verdict {
                Verdict::Approved => "approved",
                Verdict::Refused => "refused",
            };
            if told.remove(&member.client.public_id).as_deref() != Some(word) {
                let (id, name, until) =
                    (member.client.public_id, &member.client.name, member.until_ms);
                missing
                    .push(json!({ "event": word, "public_id": id, "name": name, "how": "found", "until_ms": until }));
            }
        }
        // Whoever is refused and not on disk was forgotten.
        let forgotten = told.into_iter().filter(|(_, word)| word == "refused");
        missing.extend(
            forgotten
                .map(|(id, _)| json!({ "event": "forgotten", "public_id": id, "how": "found" })),
        );
        if !missing.is_empty() {
            self.decide(at_ms, missing.iter().map(map_of))?;
        }
        Ok(missing.len())
    }

    fn decide(
        &mut self,
        at_ms: u64,
        lines: impl Iterator<Item = Map<String, Value>>,
    ) -> io::Result<()> {
        self.decisions.append(lines.map(|mut line| {
            line.insert("at_ms".into(), at_ms.into());
            line
        }))
    }
}

/// Whether it is the host's word, or what became of one, and must not be lost among what others
/// cause.
fn is_decision(note: &AuditEvent) -> bool {
    match note {
        AuditEvent::Approved { .. }
        | AuditEvent::Refused { .. }
        | AuditEvent::Forgotten { .. }
        | AuditEvent::Invited { .. }
        | AuditEvent::MoreAllowed
        | AuditEvent::Door { .. } => true,
        AuditEvent::Knocked { .. }
        | AuditEvent::Left { .. }
        | AuditEvent::WrongCode { .. }
        | AuditEvent::Renamed { .. }
        | AuditEvent::BadInvitation { .. }
        | AuditEvent::RelayReady
        | AuditEvent::RelayLost => false,
    }
}

/// What a note says, by stable names.
fn entry(note: &AuditEvent) -> Map<String, Value> {
    let value = match note {
        AuditEvent::Knocked { client, address, request_id } => json!({
            "event": "knocked", "public_id": client.public_id, "name": client.name, "kind": client.kind,
            "platform": client.platform, "address": address, "request_id": request_id,
        }),
        AuditEvent::WrongCode { public_id, request_id, tries_left } => json!({
            "event": "wrong_code", "public_id": public_id, "request_id": request_id, "tries_left": tries_left,
        }),
        AuditEvent::Approved { client, request_id, how, until_ms } => json!({
            "event": "approved", "public_id": client.public_id, "name": client.name, "request_id": request_id,
            "how": how_word(*how), "until_ms": until_ms,
        }),
        AuditEvent::Refused { client, time_over } => json!({
            "event": "refused", "public_id": client.public_id, "name": client.name,
            "how": if *time_over { "time_over" } else { "host" },
        }),
        AuditEvent::Forgotten { public_id } => {
            json!({ "event": "forgotten", "public_id": public_id })
        }
        AuditEvent::Renamed { public_id, name } => {
            json!({ "event": "renamed", "public_id": public_id, "name": name })
        }
        AuditEvent::Invited { id, expires_ms } => {
            json!({ "event": "invited", "invitation": id, "expires_ms": expires_ms })
        }
        AuditEvent::Left { public_id, request_id } => json!({
            "event": "left", "public_id": public_id, "request_id": request_id,
        }),
        AuditEvent::BadInvitation { id, public_id } => json!({
            "event": "bad_invitation", "invitation": id, "public_id": public_id,
        }),
        AuditEvent::MoreAllowed => json!({ "event": "more_allowed" }),
        AuditEvent::Door { admission } => json!({ "event": "door", "admission": admission }),
        AuditEvent::RelayReady => json!({ "event": "relay_ready" }),
        AuditEvent::RelayLost => json!({ "event": "relay_lost" }),
    };
    map_of(&value)
}

fn map_of(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn how_word(how: AdmittedBy) -> &'static str {
    match how {
        AdmittedBy::ByHost => "host",
        AdmittedBy::ByInvitation => "invitation",
        AdmittedBy::ByOpenDoor => "open_door",
        AdmittedBy::AsHost => "own",
    }
}

/// All that is kept, oldest first. Of occasions that repeat: the first, and the last with their
/// number.
pub(crate) fn read(dir: &Path) -> io::Result<Vec<Value>> {
    Ok(merge(log::read(dir, &DECISIONS)?, latest_counts(log::read(dir, &ACTIVITY)?)))
}

/// The end of a long record, so much of either kind, and whether all of it can be read. Occasions
/// push no decision out here either.
pub(crate) fn recent(
    dir: &Path,
    decisions: usize,
    occasions: usize,
) -> io::Result<(Vec<Value>, bool)> {
    let mut decided = log::read(dir, &DECISIONS)?;
    let mut happened = latest_counts(log::read(dir, &ACTIVITY)?);
    let is_whole = decided.iter().chain(&happened).all(Value::is_object);
    decided.drain(..decided.len().saturating_sub(decisions));
    happened.drain(..happened.len().saturating_sub(occasions));
    Ok((merge(decided, happened), is_whole))
}

/// Puts both in the order of time. Each stays in its own order, also where a clock jumped.
fn merge(decisions: Vec<Value>, activity: Vec<Value>) -> Vec<Value> {
    let mut all = Vec::with_capacity(decisions.len() + activity.len());
    let mut decisions = decisions.into_iter().peekable();
    let mut activity = activity.into_iter().peekable();
    loop {
        let is_activity = match (decisions.peek(), activity.peek()) {
            (Some(decision), Some(occasion)) => at_ms(occasion) <= at_ms(decision),
            (decision, _) => decision.is_none(),
        };
        match if is_activity { activity.next() } else { decisions.next() } {
            Some(line) => all.push(line),
            None => return all,
        }
    }
}

/// Leaves out lines that a later one of the same series counts in.
fn latest_counts(mut lines: Vec<Value>) -> Vec<Value> {
    let series = |line: &Value| {
        let first_ms = line["first_ms"].as_u64()?;
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        Some((text("event"), text("public_id"), text("address"), first_ms))
    };
    let last: BTreeMap<_, usize> =
        lines.iter().enumerate().filter_map(|(at, line)| Some((series(line)?, at))).collect();
    let mut at = 0..;
    lines.retain(|line| {
        let at = at.next();
        series(line).is_none_or(|series| last.get(&series).copied() == at)
    });
    lines
}

/// The last of "approved", "refused" and "forgotten" on each device.
fn latest_names(lines: &[Value]) -> BTreeMap<DeviceId, String> {
    let decided = |line: &Value| {
        let word = line["event"]
            .as_str()
            .filter(|word| matches!(*word, "approved" | "refused" | "forgotten"))?;
        Some((DeviceId::deserialize(&line["public_id"]).ok()?, word.to_owned()))
    };
    lines.iter().filter_map(decided).collect()
}

/// A refusal that the record knows of and nothing after it has lifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StandingRefusal {
    pub public_id: DeviceId,
    pub name: String,
    pub at_ms: u64,
}

/// Who is refused by the last word of the record on them.
pub(crate) fn refusals(dir: &Path) -> io::Result<Vec<StandingRefusal>> {
    let mut refused = BTreeMap::new();
    for line in log::read(dir, &DECISIONS)? {
        let Ok(public_id) = DeviceId::deserialize(&line["public_id"]) else { continue };
        match line["event"].as_str() {
            Some("refused") => {
                let name = line["name"].as_str().unwrap_or_default().to_owned();
                let at_ms = line["at_ms"].as_u64().unwrap_or_default();
                refused.insert(public_id, StandingRefusal { public_id, name, at_ms });
            }
            Some("approved" | "forgotten") => drop(refused.remove(&public_id)),
            _ => {}
        }
    }
    Ok(refused.into_values().collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn notes(count: u8) -> Vec<AuditEvent> {
        let note = |n: u8| AuditEvent::Forgotten {
            public_id: lanyard_protocol::DeviceId(uuid::Uuid::from_bytes([n; 16])),
        };
        (0..count).map(note).collect()
    }

    #[test]
    fn a_record_goes_on_over_restarts_in_order() {
        let dir = tempfile::tempdir().unwrap();
        Audit::open(dir.path()).unwrap().write(1, &notes(3)).unwrap();
        Audit::open(dir.path()).unwrap().write(2, &notes(2)).unwrap();
        let lines = read(dir.path()).unwrap();
        let told: Vec<(u64, &Value)> =
            lines.iter().map(|line| (at_ms(line), &line["public_id"])).collect();
        let ids: Vec<Value> =
            (0..3).map(|n| json!(DeviceId(uuid::Uuid::from_bytes([n; 16])))).collect();
        assert_eq!(told, [(1, &ids[0]), (1, &ids[1]), (1, &ids[2]), (2, &ids[0]), (2, &ids[1])]);
    }

    #[test]
    fn a_line_cut_off_by_a_power_cut_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        Audit::open(dir.path()).unwrap().write(1, &notes(2)).unwrap();
        let path = dir.path().join(DECISIONS.name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 10]).unwrap();
        Audit::open(dir.path()).unwrap().write(2, &notes(1)).unwrap();
        let lines = read(dir.path()).unwrap();
        assert_eq!(lines.iter().map(Value::is_null).collect::<Vec<_>>(), [false, true, false]);
        assert!(!recent(dir.path(), 10, 10).unwrap().1, "the torn line is told");
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_record_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut audit = Audit::open(dir.path()).unwrap();
        audit.write(1, &notes(2)).unwrap();
        audit.decisions.bytes = DECISIONS.max_bytes;
        audit.write(2, &notes(1)).unwrap();
        audit.write(3, &notes(1)).unwrap();
        assert!(log::numbered(&dir.path().join(DECISIONS.name), 1).exists());
        let times: Vec<u64> = read(dir.path()).unwrap().iter().map(at_ms).collect();
        assert_eq!(times, [1, 1, 2, 3]);
    }

    /// A56, A58: one event is one line of JSON, whatever a name holds.
    #[test]
    fn a56_a_name_cannot_forge_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let name = "x\"}\n{\"event\":\"approved\"}\r\u{1b}[2J\u{2028}".to_owned();
        let public_id = lanyard_protocol::DeviceId(uuid::Uuid::from_bytes([1; 16]));
        Audit::open(dir.path())
            .unwrap()
            .write(1, &[AuditEvent::Renamed { public_id, name: name.clone() }])
            .unwrap();
        let lines = read(dir.path()).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["name"], name);
        assert!(!fs::read_to_string(dir.path().join(ACTIVITY.name)).unwrap().contains('\u{1b}'));
    }

    #[test]
    fn the_last_word_on_a_device_tells_whether_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let id = |n: u8| DeviceId(uuid::Uuid::from_bytes([n; 16]));
        let kind = lanyard_protocol::DeviceKind::Browser;
        let client = |n: u8| lanyard_protocol::Client {
            public_id: id(n),
            name: "Ana".into(),
            kind,
            platform: "".into(),
        };
        let refused = |n: u8| AuditEvent::Refused { client: client(n), time_over: false };
        let request_id = lanyard_protocol::RequestId([1; 16]);
        let how = AdmittedBy::ByHost;
        let approved =
            |n: u8| AuditEvent::Approved { client: client(n), request_id, how, until_ms: None };
        let notes = [
            refused(1),
            refused(2),
            refused(3),
            AuditEvent::Forgotten { public_id: id(2) },
            AuditEvent::Forgotten { public_id: id(3) },
            approved(3),
            approved(4),
            refused(4),
        ];
        Audit::open(dir.path()).unwrap().write(5, &notes).unwrap();
        let refusal = |n: u8| StandingRefusal { public_id: id(n), name: "Ana".into(), at_ms: 5 };
        assert_eq!(refusals(dir.path()).unwrap(), [refusal(1), refusal(4)]);
    }

    /// A73, F7. Whatever others cause, and however often, what the host decided stays to be read.
    #[test]
    fn a73_fifty_thousand_knocks_and_renames_push_no_decision_out() {
        let dir = tempfile::tempdir().unwrap();
        let id = |n: u32| DeviceId(uuid::Uuid::from_u128(u128::from(n)));
        // As long in JSON as a name can be.
        let name = || "\"".repeat(255);
        let client = |n: u32| lanyard_protocol::Client {
            public_id: id(n),
            name: name(),
            kind: lanyard_protocol::DeviceKind::Browser,
            platform: name(),
        };
        let request_id = lanyard_protocol::RequestId([1; 16]);
        let approved = AuditEvent::Approved {
            client: client(1),
            request_id,
            how: AdmittedBy::ByHost,
            until_ms: None,
        };
        let mut audit = Audit::open(dir.path()).unwrap();
        audit.write(1, &[approved]).unwrap();
        for at in 2..=100u64 {
            let notes = (0..512u32).map(|n| match n % 2 {
                0 => AuditEvent::Renamed { public_id: id(1), name: name() },
                _ => AuditEvent::Knocked {
                    client: client(at as u32 * 512 + n),
                    address: "fe80::1".into(),
                    request_id,
                },
            });
            audit.write(at, &notes.collect::<Vec<_>>()).unwrap();
        }
        audit.finish().unwrap();
        let lines = read(dir.path()).unwrap();
        let oldest_knock = lines.iter().find(|line| line["event"] == "knocked").unwrap();
        assert!(at_ms(oldest_knock) > 2, "more came than is kept of it");
        assert!(
            lines.iter().any(|line| line["event"] == "approved"),
            "the approval was pushed out"
        );
        let (shown, is_whole) = recent(dir.path(), 10, 20).unwrap();
        assert_eq!((shown.len(), &shown[0]["event"], is_whole), (21, &json!("approved"), true));
        let renamed: Vec<&Value> = lines.iter().filter(|line| line["event"] == "renamed").collect();
        assert_eq!(renamed.last().unwrap()["count"], 99 * 256);
        let bytes = |entry: io::Result<fs::DirEntry>| entry.unwrap().metadata().unwrap().len();
        let total: u64 = fs::read_dir(dir.path()).unwrap().map(bytes).sum();
        assert!(total < u64::from(ACTIVITY.kept + 1) * (ACTIVITY.max_bytes + (1 << 20)), "{total}");
        assert!(lines.iter().all(Value::is_object));
    }

    #[test]
    fn both_files_are_told_in_the_order_of_time_and_repeats_once() {
        let dir = tempfile::tempdir().unwrap();
        let id = lanyard_protocol::DeviceId(uuid::Uuid::from_bytes([1; 16]));
        let renamed = |name: &str| AuditEvent::Renamed { public_id: id, name: name.into() };
        let mut audit = Audit::open(dir.path()).unwrap();
        audit.write(1, &[AuditEvent::RelayReady]).unwrap();
        audit.write(2, &notes(1)).unwrap();
        (3..20).for_each(|at| audit.write(at, &[renamed(&at.to_string())]).unwrap());
        audit.write(20, &notes(1)).unwrap();
        drop(audit);
        let lines = read(dir.path()).unwrap();
        let told: Vec<(&str, u64)> =
            lines.iter().map(|line| (line["event"].as_str().unwrap(), at_ms(line))).collect();
        let counted = ("renamed", 18);
        assert_eq!(
            told,
            [("relay_ready", 1), ("forgotten", 2), ("renamed", 3), counted, ("forgotten", 20)]
        );
        assert_eq!((&lines[3]["count"], &lines[3]["first_ms"]), (&json!(16), &json!(3)));
    }

    /// Until 0.1 one file had both, and each line a hash of the line before. Such a record is read,
    /// shown and continued, also where its hashes do not fit: nothing is proved by them.
    #[test]
    fn an_older_record_with_hashes_is_read_shown_and_continued() {
        let dir = tempfile::tempdir().unwrap();
        let id = "7826cf13-8edf-83eb-abd6-285b5ff87b7e";
        let zeros = "0".repeat(64);
        let old = [
            json!({ "event": "knocked", "at_ms": 1, "public_id": id, "name": "Ana", "prev": zeros }),
            json!({ "event": "renamed", "at_ms": 1, "public_id": id, "name": "Ana", "prev": "c1".repeat(32) }),
            json!({ "event": "refused", "at_ms": 1, "public_id": id, "name": "Ana", "prev": zeros }),
        ];
        let text: String = old.iter().map(|line| format!("{line}\n")).collect();
        fs::write(dir.path().join(DECISIONS.name), &text).unwrap();
        let ana = DeviceId::deserialize(&json!(id)).unwrap();
        assert_eq!(
            refusals(dir.path()).unwrap(),
            [StandingRefusal { public_id: ana, name: "Ana".into(), at_ms: 1 }]
        );
        Audit::open(dir.path())
            .unwrap()
            .write(2, &[AuditEvent::Forgotten { public_id: ana }])
            .unwrap();
        let (shown, is_whole) = recent(dir.path(), 10, 10).unwrap();
        assert_eq!((shown.len(), &shown[..3], is_whole), (4, &old[..], true));
        assert_eq!((&shown[3]["event"], shown[3].get("prev")), (&json!("forgotten"), None));
        assert!(
            fs::read_to_string(dir.path().join(DECISIONS.name)).unwrap().starts_with(&text),
            "appended only"
        );
        assert_eq!(refusals(dir.path()).unwrap(), []);
    }

    /// A73. A link in the place of the record is not followed: neither is a foreign file appended
    /// to, nor read.
    #[cfg(unix)]
    #[test]
    fn a73_a_linked_record_is_refused() {
        for kind in [&DECISIONS, &ACTIVITY] {
            let dir = tempfile::tempdir().unwrap();
            let outside = tempfile::tempdir().unwrap();
            let target = outside.path().join("theirs");
            fs::write(&target, b"secret\n").unwrap();
            std::os::unix::fs::symlink(&target, dir.path().join(kind.name)).unwrap();
            assert!(Audit::open(dir.path()).is_err() && read(dir.path()).is_err(), "{}", kind.name);
            assert_eq!(fs::read(&target).unwrap(), b"secret\n");
        }
    }

    #[cfg(unix)]
    #[test]
    fn it_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Audit::open(dir.path()).unwrap();
        for kind in [&DECISIONS, &ACTIVITY] {
            assert_eq!(
                fs::metadata(dir.path().join(kind.name)).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
}
