//! The record of who was let in, by whom, and who was not: `audit.log` in the data directory, one JSON object a line, only
//! ever appended to, for its owner only. Each line holds the BLAKE3 of the one before, so that nothing can be taken out or
//! changed in the middle unnoticed (its last lines can be cut off; nothing kept on the same disk could prevent that). It holds
//! no secret, no code, and no name of a file.

#![expect(clippy::disallowed_methods, reason = "the record, in the program's own folder")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use lanyard_hub::authority::{Admitted, Member, Note, Verdict};
use lanyard_protocol::DeviceId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

const NAME: &str = "audit.log";
/// A full file gets a number; so many are kept beside the one in use.
const MOST_BYTES: u64 = 8 << 20;
const KEPT: u32 = 4;
/// What stands in the first line of all in place of a hash.
const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The file, open for appending.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    file: File,
    bytes: u64,
    last: String,
}

impl Audit {
    /// Opens the record in `dir`, or begins it. A last line that was cut off by a power cut is closed, and stays.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(NAME);
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path)?;
        let text = fs::read(&path)?;
        if !text.is_empty() && !text.ends_with(b"\n") {
            file.write_all(b"\n")?;
        }
        let last = match text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next() {
            Some(line) if !line.is_empty() => hash(line),
            // A new file goes on from the one before.
            _ => last_line(&numbered(&path, 1))?.map_or_else(|| BEGINNING.to_owned(), |line| hash(&line)),
        };
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, last })
    }

    /// Appends notes and has them on disk: all of them or none.
    pub fn write(&mut self, at_ms: u64, notes: &[Note]) -> io::Result<()> {
        self.append(at_ms, notes.iter().map(entry))
    }

    /// Appends what is decided and was not recorded: the hub was killed between the one and the other, or the disk was full.
    /// `members` are all that are on disk. How many lines that took.
    pub fn catch_up<'a>(&mut self, at_ms: u64, members: impl Iterator<Item = &'a Member>) -> io::Result<usize> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let mut told = last_words(&read(dir)?);
        let mut missing = Vec::new();
        for member in members {
            let word = match member.verdict {
                Verdict::Approved => "approved",
                Verdict::Refused => "refused",
            };
            if told.remove(&member.client.public_id).as_deref() != Some(word) {
                let (id, name, until) = (member.client.public_id, &member.client.name, member.until_ms);
                missing
                    .push(json!({ "event": word, "public_id": id, "name": name, "how": "found", "until_ms": until }));
            }
        }
        // Whoever is refused and not on disk was forgotten.
        let forgotten = told.into_iter().filter(|(_, word)| word == "refused");
        missing.extend(forgotten.map(|(id, _)| json!({ "event": "forgotten", "public_id": id, "how": "found" })));
        if !missing.is_empty() {
            self.append(at_ms, missing.iter().map(map_of))?;
        }
        Ok(missing.len())
    }

    fn append(&mut self, at_ms: u64, lines: impl Iterator<Item = Map<String, Value>>) -> io::Result<()> {
        let (mut text, mut last) = (String::new(), self.last.clone());
        for mut line in lines {
            line.insert("at_ms".into(), at_ms.into());
            line.insert("prev".into(), last.into());
            let line = Value::Object(line).to_string();
            last = hash(line.as_bytes());
            text.push_str(&line);
            text.push('\n');
        }
        if let Err(error) = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()) {
            // What got there of it would stand in the chain as a line that nobody can read.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.last = last;
        self.bytes += text.len() as u64;
        if self.bytes >= MOST_BYTES { self.rotate() } else { Ok(()) }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            match fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(&self.path, 1))?;
        let dir = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        *self = Self::open(&dir)?;
        Ok(())
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    path.with_file_name(format!("{NAME}.{number}"))
}

fn hash(line: &[u8]) -> String {
    blake3::hash(line).to_hex().to_string()
}

fn last_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(text) => Ok(text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().map(<[u8]>::to_vec)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a note says, by stable names.
fn entry(note: &Note) -> Map<String, Value> {
    let value = match note {
        Note::Knocked { client, address, request_id } => json!({
            "event": "knocked", "public_id": client.public_id, "name": client.name, "kind": client.kind,
            "platform": client.platform, "address": address, "request_id": request_id,
        }),
        Note::WrongCode { public_id, request_id, tries_left } => json!({
            "event": "wrong_code", "public_id": public_id, "request_id": request_id, "tries_left": tries_left,
        }),
        Note::Approved { client, request_id, how, until_ms } => json!({
            "event": "approved", "public_id": client.public_id, "name": client.name, "request_id": request_id,
            "how": how_word(*how), "until_ms": until_ms,
        }),
        Note::Refused { client, time_over } => json!({
            "event": "refused", "public_id": client.public_id, "name": client.name,
            "how": if *time_over { "time_over" } else { "host" },
        }),
        Note::Forgotten { public_id } => json!({ "event": "forgotten", "public_id": public_id }),
        Note::Renamed { public_id, name } => json!({ "event": "renamed", "public_id": public_id, "name": name }),
        Note::Invited { id, expires_ms } => json!({ "event": "invited", "invitation": id, "expires_ms": expires_ms }),
        Note::BadInvitation { id, public_id, burnt } => json!({
            "event": "bad_invitation", "invitation": id, "public_id": public_id, "burnt": burnt,
        }),
        Note::Door { admission } => json!({ "event": "door", "admission": admission }),
        Note::RelayReady => json!({ "event": "relay_ready" }),
        Note::RelayLost => json!({ "event": "relay_lost" }),
    };
    map_of(&value)
}

fn map_of(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn how_word(how: Admitted) -> &'static str {
    match how {
        Admitted::ByHost => "host",
        Admitted::ByInvitation => "invitation",
        Admitted::ByOpenDoor => "open_door",
        Admitted::AsHost => "own",
    }
}

/// One line as it was read, and whether it follows from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub line: Value,
    pub follows: bool,
}

/// All that is kept, oldest first.
pub fn read(dir: &Path) -> io::Result<Vec<Read>> {
    let path = dir.join(NAME);
    let files = (1..=KEPT).rev().map(|number| numbered(&path, number)).chain([path.clone()]);
    let (mut all, mut expected) = (Vec::new(), None::<String>);
    for file in files {
        let file = match File::open(&file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            let parsed: Value = serde_json::from_slice(&line).unwrap_or(Value::Null);
            // What came before the oldest file that is kept is not known.
            let follows = parsed["prev"].as_str().is_some_and(|prev| expected.as_deref().is_none_or(|e| e == prev));
            expected = Some(hash(&line));
            all.push(Read { line: parsed, follows });
        }
    }
    Ok(all)
}

/// The last of "approved", "refused" and "forgotten" on each device.
fn last_words(lines: &[Read]) -> BTreeMap<DeviceId, String> {
    let decided = |read: &Read| {
        let word = read.line["event"].as_str().filter(|word| matches!(*word, "approved" | "refused" | "forgotten"))?;
        Some((DeviceId::deserialize(&read.line["public_id"]).ok()?, word.to_owned()))
    };
    lines.iter().filter_map(decided).collect()
}

/// A refusal that the record knows of and nothing after it has lifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub public_id: DeviceId,
    pub name: String,
    pub at_ms: u64,
}

/// Who is refused by the last word of the record on them.
pub fn refusals(dir: &Path) -> io::Result<Vec<Refusal>> {
    let mut refused = BTreeMap::new();
    for Read { line, .. } in read(dir)? {
        let Ok(public_id) = DeviceId::deserialize(&line["public_id"]) else { continue };
        match line["event"].as_str() {
            Some("refused") => {
                let name = line["name"].as_str().unwrap_or_default().to_owned();
                let at_ms = line["at_ms"].as_u64().unwrap_or_default();
                refused.insert(public_id, Refusal { public_id, name, at_ms });
            }
            Some("approved" | "forgotten") => drop(refused.remove(&public_id)),
            _ => {}
        }
    }
    Ok(refused.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(count: u8) -> Vec<Note> {
        let note = |n: u8| Note::Forgotten { public_id: lanyard_protocol::DeviceId(uuid::Uuid::from_bytes([n; 16])) };
        (0..count).map(note).collect()
    }

    #[test]
    fn a_record_goes_on_over_restarts_and_shows_what_was_changed() {
        let dir = tempfile::tempdir().unwrap();
        Audit::open(dir.path()).unwrap().write(1, &notes(3)).unwrap();
        Audit::open(dir.path()).unwrap().write(2, &notes(2)).unwrap();
        let lines = read(dir.path()).unwrap();
        assert_eq!(lines.len(), 5);
        assert!(lines.iter().all(|read| read.follows));

        let path = dir.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        let without: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != 2).map(|(_, line)| line).collect();
        fs::write(&path, without.join("\n") + "\n").unwrap();
        let follows: Vec<bool> = read(dir.path()).unwrap().iter().map(|read| read.follows).collect();
        assert_eq!(follows, [true, true, false, true], "what followed the missing line tells");

        fs::write(&path, text.replacen("\"at_ms\":1", "\"at_ms\":9", 1)).unwrap();
        assert!(read(dir.path()).unwrap().iter().any(|read| !read.follows));
    }

    #[test]
    fn a_line_cut_off_by_a_power_cut_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        Audit::open(dir.path()).unwrap().write(1, &notes(2)).unwrap();
        let path = dir.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 10]).unwrap();
        Audit::open(dir.path()).unwrap().write(2, &notes(1)).unwrap();
        let lines = read(dir.path()).unwrap();
        assert_eq!(lines.iter().map(|read| read.line.is_null()).collect::<Vec<_>>(), [false, true, false]);
        assert!(lines[2].follows, "the chain goes on over the torn line");
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_chain_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut audit = Audit::open(dir.path()).unwrap();
        audit.write(1, &notes(2)).unwrap();
        audit.bytes = MOST_BYTES;
        audit.write(2, &notes(1)).unwrap();
        audit.write(3, &notes(1)).unwrap();
        assert!(numbered(&dir.path().join(NAME), 1).exists());
        let lines = read(dir.path()).unwrap();
        assert_eq!((lines.len(), lines.iter().all(|read| read.follows)), (4, true));
    }

    /// A56, A58: one event is one line of JSON, whatever a name holds.
    #[test]
    fn a56_a_name_cannot_forge_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let name = "x\"}\n{\"event\":\"approved\"}\r\u{1b}[2J\u{2028}".to_owned();
        let public_id = lanyard_protocol::DeviceId(uuid::Uuid::from_bytes([1; 16]));
        Audit::open(dir.path()).unwrap().write(1, &[Note::Renamed { public_id, name: name.clone() }]).unwrap();
        let lines = read(dir.path()).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].line["name"], name);
        assert!(!fs::read_to_string(dir.path().join(NAME)).unwrap().contains('\u{1b}'));
    }

    #[test]
    fn the_last_word_on_a_device_tells_whether_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let id = |n: u8| DeviceId(uuid::Uuid::from_bytes([n; 16]));
        let kind = lanyard_protocol::DeviceKind::Browser;
        let client =
            |n: u8| lanyard_protocol::Client { public_id: id(n), name: "Ana".into(), kind, platform: "".into() };
        let refused = |n: u8| Note::Refused { client: client(n), time_over: false };
        let request_id = lanyard_protocol::RequestId([1; 16]);
        let how = Admitted::ByHost;
        let approved = |n: u8| Note::Approved { client: client(n), request_id, how, until_ms: None };
        let notes = [
            refused(1),
            refused(2),
            refused(3),
            Note::Forgotten { public_id: id(2) },
            Note::Forgotten { public_id: id(3) },
            approved(3),
            approved(4),
            refused(4),
        ];
        Audit::open(dir.path()).unwrap().write(5, &notes).unwrap();
        let refusal = |n: u8| Refusal { public_id: id(n), name: "Ana".into(), at_ms: 5 };
        assert_eq!(refusals(dir.path()).unwrap(), [refusal(1), refusal(4)]);
    }

    #[cfg(unix)]
    #[test]
    fn it_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Audit::open(dir.path()).unwrap();
        assert_eq!(fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
