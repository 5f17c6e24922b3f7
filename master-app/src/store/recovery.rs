//! Replaces a damaged database: the old files are moved aside, never changed and never written
//! over. Who was let in and who was refused comes from the second copy ([`super::roster_backup`]),
//! which was good before anybody was told of a decision. Refusals that the record tells and that
//! are newer than the copy's word are added, so that a refusal is not forgotten where the copy is
//! torn or could not be written. Files are listed again by their owners; links go on where their
//! rows can be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use lanyard_hub::authority::{LinkRecord, Member, Verdict};
use lanyard_protocol::{Client, DeviceKind, PublicKey};
use lanyard_system::clock::now_ms;
use time::OffsetDateTime;

use super::roster_backup::{BackupFound, RosterBackup};
use super::rows::link_of;
use super::schema::connect;
use crate::problems::{self, ActiveProblem};
use crate::store::audit_log::{self, StandingRefusal};

/// Files that SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// A shorter log never held anything.
const WAL_HEAD: u64 = 32;
/// Stands for the key of a device of which only the record tells. It is refused by its id.
const NO_KEY: PublicKey = PublicKey([0; 32]);

/// What lies there before anything opens it: SQLite clears a log away that has no database.
#[derive(Debug)]
pub(super) struct RescuedFiles {
    path: PathBuf,
    bytes: Option<u64>,
    pub has_wal: bool,
}

impl RescuedFiles {
    pub(super) fn at(path: &Path) -> Self {
        let bytes = |path: &Path| fs::metadata(path).ok().map(|about| about.len());
        let has_wal = bytes(&beside(path, "-wal")).is_some_and(|bytes| bytes >= WAL_HEAD);
        Self { path: path.into(), bytes: bytes(path), has_wal }
    }

    /// Why this cannot be a first start, if there is nothing.
    pub(super) fn loss_before_opening(&self, copy: &BackupFound) -> Option<String> {
        match self.bytes {
            None if self.has_wal || *copy != BackupFound::Nothing => Some("it is gone".into()),
            Some(0) if self.has_wal || !self.is_first_start(copy) => Some("it is empty".into()),
            _ => None,
        }
    }

    /// Whether a database that is there and holds nothing is just being made: nothing was decided
    /// yet.
    pub(super) fn is_first_start(&self, copy: &BackupFound) -> bool {
        *copy == BackupFound::Nothing && recorded(&self.path).is_empty()
    }
}

/// What is left.
#[derive(Debug)]
pub(super) struct Rescued {
    pub roster: RosterBackup,
    pub links: Vec<LinkRecord>,
    had_copy: bool,
}

/// Takes the decisions from the copy and the record, and the links from the database at `path`, as
/// far as it can be read.
pub(super) fn rescue(path: &Path, copy: BackupFound) -> Rescued {
    let (had_copy, copy) = match copy {
        BackupFound::Whole(roster) => (true, roster),
        BackupFound::Torn | BackupFound::Nothing => (false, RosterBackup::default()),
    };
    let roster = decided(copy, recorded(path), now_ms());
    let is_in = |link: &LinkRecord| {
        roster.members.get(&link.maker).is_some_and(|m| m.verdict == Verdict::Approved)
    };
    let links = readable_links(path).into_iter().filter(is_in).collect();
    Rescued { roster, links, had_copy }
}

impl Rescued {
    /// Returns the problem for the person at the host.
    pub(super) fn problem(&self, why: &str, aside: Option<&Path>) -> ActiveProblem {
        let count = |verdict| {
            self.roster.members.values().filter(|member| member.verdict == verdict).count()
        };
        let (approved, refused) = (count(Verdict::Approved), count(Verdict::Refused));
        let what = format!(
            "The database was damaged ({why}) and was made anew with {}, {} and {}; files are listed again as their owners connect.",
            counted(approved, "device"),
            counted(refused, "refusal"),
            counted(self.links.len(), "link"),
        );
        let lies = aside.map_or_else(
            || "Nothing was left of the old one.".to_owned(),
            |aside| {
                format!(
                    "The old one lies in {}; remove it when nothing is missing.",
                    aside.display()
                )
            },
        );
        let missing = if self.had_copy {
            ""
        } else {
            " Its second copy was not there: who is missing has to knock again."
        };
        ActiveProblem {
            code: problems::DATABASE_REBUILT,
            what,
            advice: lies + missing,
            since_ms: now_ms(),
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Moves the database at `path` and what belongs to it to names that are free. Its new place, if it
/// was there.
pub(super) fn move_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let now = OffsetDateTime::now_utc();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    let stamp = format!("{year:04}{:02}{day:02}-{hour:02}{minute:02}{second:02}", u8::from(month));
    let name = |n: u32| {
        beside(
            path,
            &format!(".damaged-{stamp}{}", if n == 0 { String::new() } else { format!("-{n}") }),
        )
    };
    let is_free = |place: &PathBuf| {
        !place.exists() && BESIDE.iter().all(|suffix| !beside(place, suffix).exists())
    };
    let aside = (0..).map(name).find(is_free).expect("numbers go on");
    let moved = rename(path, &aside)?;
    for suffix in BESIDE {
        rename(&beside(path, suffix), &beside(&aside, suffix))?;
    }
    if cfg!(unix)
        && let Some(folder) = path.parent()
    {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(moved.then_some(aside))
}

/// Whether there was something to rename.
fn rename(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

fn recorded(database: &Path) -> Vec<StandingRefusal> {
    audit_log::refusals(database.parent().unwrap_or(Path::new("."))).unwrap_or_else(|error| {
        tracing::warn!(%error, "the record of decisions cannot be read");
        Vec::new()
    })
}

/// Returns every link that can be read, from both ends of the table up to where it is broken. A
/// link may be there twice.
fn readable_links(path: &Path) -> Vec<LinkRecord> {
    // SQLite clears away the log of an empty database.
    if fs::metadata(path).map_or(0, |about| about.len()) == 0 {
        return Vec::new();
    }
    let Ok(connection) = connect(path) else { return Vec::new() };
    let mut found = Vec::new();
    for order in ["SELECT * FROM links ORDER BY hash ASC", "SELECT * FROM links ORDER BY hash DESC"]
    {
        let Ok(mut statement) = connection.prepare(order) else { continue };
        let Ok(mut rows) = statement.query([]) else { continue };
        let is_whole = loop {
            match rows.next() {
                Ok(Some(row)) => found.extend(link_of(row)),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if is_whole {
            break;
        }
    }
    found
}

/// Returns the roster that the new database begins with. Its history begins anew with its epoch, so
/// revisions may, too.
fn decided(copy: RosterBackup, recorded: Vec<StandingRefusal>, now_ms: u64) -> RosterBackup {
    let mut members = copy.members;
    refuse_recorded(&mut members, recorded);
    RosterBackup {
        decisions: copy.decisions + 1,
        revision: copy.revision,
        // Terms count connections; seconds are higher than any count, if the copy is torn.
        term: copy.term.max(now_ms / 1_000),
        members,
    }
}

/// Refuses whom the record refuses, unless the copy knows a later approval.
fn refuse_recorded(
    members: &mut BTreeMap<lanyard_protocol::DeviceId, Member>,
    recorded: Vec<StandingRefusal>,
) {
    for StandingRefusal { public_id, name, at_ms } in recorded {
        match members.get_mut(&public_id) {
            Some(member) if member.verdict == Verdict::Approved && member.since_ms <= at_ms => {
                (member.verdict, member.since_ms, member.until_ms) =
                    (Verdict::Refused, at_ms, None);
            }
            Some(_) => {}
            None => {
                let client =
                    Client { public_id, name, kind: DeviceKind::Browser, platform: String::new() };
                let (verdict, revision) = (Verdict::Refused, 0);
                let public_key = NO_KEY;
                let member = Member {
                    client,
                    public_key,
                    verdict,
                    revision,
                    since_ms: at_ms,
                    until_ms: None,
                };
                members.insert(public_id, member);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Promise: what was decided holds by the copy; a refusal also by the record.

    use super::*;
    use crate::store::fixture::{id, member};

    fn verdict(roster: &RosterBackup, n: u8) -> Option<Verdict> {
        roster.members.get(&id(n)).map(|member| member.verdict)
    }

    fn refusal(n: u8, at_ms: u64) -> StandingRefusal {
        StandingRefusal { public_id: id(n), name: "Ana".into(), at_ms }
    }

    fn copy() -> RosterBackup {
        let members = [
            member(1, Verdict::Approved),
            member(2, Verdict::Refused),
            member(3, Verdict::Approved),
        ];
        let members = members.into_iter().map(|member| (member.client.public_id, member)).collect();
        RosterBackup { decisions: 9, revision: 5, term: 3, members }
    }

    #[test]
    fn a_whole_copy_is_taken_over_under_a_higher_term() {
        let roster = decided(copy(), Vec::new(), 8_000);
        assert_eq!(roster.members, copy().members);
        assert_eq!((roster.decisions, roster.revision, roster.term), (10, 5, 8));
        assert_eq!(decided(RosterBackup { term: 30, ..copy() }, Vec::new(), 8_000).term, 30);
    }

    /// The copy could not be written when the host refused: the record has it.
    #[test]
    fn a_refusal_that_is_newer_than_the_copy_holds_and_one_that_was_lifted_does_not() {
        let since = member(1, Verdict::Approved).since_ms;
        let roster =
            decided(copy(), vec![refusal(1, since + 1), refusal(3, since - 1), refusal(4, 5)], 0);
        let verdicts = [1, 2, 3, 4].map(|n| verdict(&roster, n).unwrap());
        assert_eq!(
            verdicts,
            [Verdict::Refused, Verdict::Refused, Verdict::Approved, Verdict::Refused]
        );
        let refused = &roster.members[&id(1)];
        assert_eq!((refused.since_ms, refused.until_ms), (since + 1, None));
    }

    /// Whoever was let in knocks again; who was refused stays refused.
    #[test]
    fn without_a_copy_the_refusals_of_the_record_hold() {
        let roster = decided(RosterBackup::default(), vec![refusal(1, 5)], 8_000);
        assert_eq!((verdict(&roster, 1), roster.members.len()), (Some(Verdict::Refused), 1));
        assert_eq!((roster.decisions, roster.revision, roster.term), (1, 0, 8));
    }

    #[test]
    fn nothing_is_ever_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lanyard.db");
        let mut places = std::collections::BTreeSet::new();
        for n in 0..5u8 {
            fs::write(&path, [n]).unwrap();
            fs::write(beside(&path, "-wal"), [n]).unwrap();
            let aside = move_aside(&path).unwrap().unwrap();
            assert_eq!(
                (fs::read(&aside).unwrap(), fs::read(beside(&aside, "-wal")).unwrap()),
                (vec![n], vec![n])
            );
            places.insert(aside);
        }
        assert_eq!(places.len(), 5);
        assert_eq!(move_aside(&path).unwrap(), None);
    }
}
