//! What to do with a damaged database: read what can still be read, unite it with the second copy of the decisions and with
//! the record, and move the old files aside. They are never changed, and nothing is ever written over.
//!
//! A refusal must not be forgotten by this. Where two sources disagree, the newer one counts if it is known which that is;
//! else the refusal does. Files are not rescued: their owners offer them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use lanyard_device::store::now_ms;
use lanyard_hub::authority::{LinkRecord, Member, Verdict};
use lanyard_protocol::{Client, DeviceKind, PublicKey, identity};
use rusqlite::{Connection, Row};
use time::OffsetDateTime;

use super::copy::{Found, Roster};
use super::{connect, link_of, member_of, read_number};
use crate::audit::{self, Refusal};
use crate::problems::{self, Problem};

/// What SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// A shorter log never held anything.
const WAL_HEAD: u64 = 32;
/// Numbers beyond this are rubbish: they count what happened here, or seconds.
const PLAUSIBLE: u64 = 1 << 53;
/// Stands for the key of a device of which only the record tells. It is refused by its id.
const NO_KEY: PublicKey = PublicKey([0; 32]);

/// What lies there before anything opens it: SQLite clears a log away that has no database.
#[derive(Debug)]
pub struct Files {
    path: PathBuf,
    bytes: Option<u64>,
    pub has_wal: bool,
}

impl Files {
    pub fn at(path: &Path) -> Self {
        let bytes = |path: &Path| fs::metadata(path).ok().map(|about| about.len());
        let has_wal = bytes(&beside(path, "-wal")).is_some_and(|bytes| bytes >= WAL_HEAD);
        Self { path: path.into(), bytes: bytes(path), has_wal }
    }

    /// Why this cannot be a first start, if there is nothing.
    pub fn loss_before_opening(&self, copy: &Found) -> Option<String> {
        match self.bytes {
            None if self.has_wal || *copy != Found::Nothing => Some("it is gone".into()),
            Some(0) if self.has_wal || !self.is_first_start(copy) => Some("it is empty".into()),
            _ => None,
        }
    }

    /// Whether a database that is there and holds nothing is just being made: nothing was decided yet.
    pub fn is_first_start(&self, copy: &Found) -> bool {
        *copy == Found::Nothing && recorded(&self.path).is_empty()
    }
}

/// What is left.
#[derive(Debug)]
pub struct Rescued {
    pub roster: Roster,
    pub links: Vec<LinkRecord>,
    had_copy: bool,
}

/// Reads what is left of the database at `path`, and unites it with its copy and the record.
pub fn rescue(path: &Path, copy: Found) -> Rescued {
    let salvage = salvage(path);
    let copy = match copy {
        Found::Whole(roster) => Some(roster),
        Found::Torn | Found::Nothing => None,
    };
    let had_copy = copy.is_some();
    let links = salvage.links.clone();
    let roster = unite(copy, salvage, recorded(path), now_ms());
    let is_in = |link: &LinkRecord| roster.members.get(&link.maker).is_some_and(|m| m.verdict == Verdict::Approved);
    let links = links.into_iter().filter(is_in).collect();
    Rescued { roster, links, had_copy }
}

impl Rescued {
    /// What the person at the host is told.
    pub fn problem(&self, why: &str, aside: Option<&Path>) -> Problem {
        let count = |verdict| self.roster.members.values().filter(|member| member.verdict == verdict).count();
        let (approved, refused) = (count(Verdict::Approved), count(Verdict::Refused));
        let what = format!(
            "The database was damaged ({why}) and was made anew with {}, {} and {}; files are listed again as their owners connect.",
            counted(approved, "device"),
            counted(refused, "refusal"),
            counted(self.links.len(), "link"),
        );
        let lies = aside.map_or_else(
            || "Nothing was left of the old one.".to_owned(),
            |aside| format!("The old one lies in {}; remove it when nothing is missing.", aside.display()),
        );
        let missing =
            if self.had_copy { "" } else { " Its second copy was not there: who is missing has to knock again." };
        Problem { code: problems::DATABASE_REBUILT, what, advice: lies + missing, since_ms: now_ms() }
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Moves the database at `path` and what belongs to it to names that are free. Its new place, if it was there.
pub fn move_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let now = OffsetDateTime::now_utc();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    let stamp = format!("{year:04}{:02}{day:02}-{hour:02}{minute:02}{second:02}", u8::from(month));
    let name =
        |n: u32| beside(path, &format!(".damaged-{stamp}{}", if n == 0 { String::new() } else { format!("-{n}") }));
    let is_free = |place: &PathBuf| !place.exists() && BESIDE.iter().all(|suffix| !beside(place, suffix).exists());
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

fn recorded(database: &Path) -> Vec<Refusal> {
    audit::refusals(database.parent().unwrap_or(Path::new("."))).unwrap_or_else(|error| {
        tracing::warn!(%error, "the record of decisions cannot be read");
        Vec::new()
    })
}

/// What a damaged database still says.
#[derive(Debug, Default)]
struct Salvage {
    decisions: Option<u64>,
    revision: Option<u64>,
    term: Option<u64>,
    members: Vec<Member>,
    links: Vec<LinkRecord>,
}

fn salvage(path: &Path) -> Salvage {
    // SQLite clears away the log of an empty one.
    if fs::metadata(path).map_or(0, |about| about.len()) == 0 {
        return Salvage::default();
    }
    let Ok(connection) = connect(path) else { return Salvage::default() };
    let number = |name| read_number(&connection, name).ok().filter(|number| *number < PLAUSIBLE);
    let is_itself = |member: &Member| {
        member.public_key == NO_KEY || identity::public_id(&member.public_key) == member.client.public_id
    };
    let is_sound = |member: &Member| is_itself(member) && member.revision < PLAUSIBLE;
    Salvage {
        decisions: number("decisions"),
        revision: number("revision"),
        term: number("term"),
        members: rows(&connection, MEMBERS, member_of).into_iter().filter(is_sound).collect(),
        links: rows(&connection, LINKS, link_of),
    }
}

const MEMBERS: [&str; 2] =
    ["SELECT * FROM members ORDER BY public_id ASC", "SELECT * FROM members ORDER BY public_id DESC"];
const LINKS: [&str; 2] = ["SELECT * FROM links ORDER BY hash ASC", "SELECT * FROM links ORDER BY hash DESC"];

/// Every row that can be read, from both ends up to where the table is broken. A row may be there twice.
fn rows<T>(connection: &Connection, orders: [&str; 2], read: fn(&Row) -> Result<T, rusqlite::Error>) -> Vec<T> {
    let mut found = Vec::new();
    for order in orders {
        let Ok(mut statement) = connection.prepare(order) else { continue };
        let Ok(mut rows) = statement.query([]) else { continue };
        let is_whole = loop {
            match rows.next() {
                Ok(Some(row)) => found.extend(read(row)),
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

/// What the sources say together.
fn unite(copy: Option<Roster>, salvage: Salvage, recorded: Vec<Refusal>, now_ms: u64) -> Roster {
    let is_latest = |copy: &Roster| salvage.decisions.is_some_and(|decisions| decisions <= copy.decisions);
    let mut members = copy.as_ref().map(|copy| copy.members.clone()).unwrap_or_default();
    // A copy that knows as many decisions knows the same ones, and those that were lifted since an old row.
    if !copy.as_ref().is_some_and(is_latest) {
        let judge = Judge {
            since: copy.as_ref().map(|copy| copy.revision),
            is_newer: copy.as_ref().zip(salvage.decisions).is_some_and(|(copy, decisions)| decisions > copy.decisions),
        };
        for row in salvage.members {
            if judge.takes(members.get(&row.client.public_id), &row) {
                members.insert(row.client.public_id, row);
            }
        }
    }
    refuse_recorded(&mut members, recorded);
    let copy = copy.unwrap_or_default();
    let newest = members.values().map(|member| member.revision).max().unwrap_or(0);
    Roster {
        decisions: copy.decisions.max(salvage.decisions.unwrap_or(0)) + 1,
        revision: newest.max(copy.revision).max(salvage.revision.unwrap_or(0)),
        // Terms count connections; seconds are higher than any count, if the old one cannot be read.
        term: copy.term.max(salvage.term.unwrap_or(0)).max(now_ms / 1_000),
        members,
    }
}

/// Which of two words on a device counts.
struct Judge {
    /// The revision that the copy knows; none without a copy.
    since: Option<u64>,
    /// The damaged database is known to hold decisions that the copy does not.
    is_newer: bool,
}

impl Judge {
    /// Whether a row of the damaged database replaces what the copy says.
    fn takes(&self, known: Option<&Member>, row: &Member) -> bool {
        match known.map(|known| (known.verdict, known.revision)) {
            None if row.verdict == Verdict::Refused => true,
            // Not in a good copy and older than it: refused, and forgotten since.
            None => self.is_newer || self.since.is_none_or(|since| row.revision > since),
            Some((Verdict::Approved, revision)) if row.verdict == Verdict::Refused => row.revision >= revision,
            Some((Verdict::Refused, revision)) if row.verdict == Verdict::Approved => {
                (self.is_newer || self.since.is_none()) && row.revision > revision
            }
            Some((_, revision)) => row.revision > revision,
        }
    }
}

/// A refusal of the record counts unless the approval is known to be later.
fn refuse_recorded(members: &mut BTreeMap<lanyard_protocol::DeviceId, Member>, recorded: Vec<Refusal>) {
    for Refusal { public_id, name, at_ms } in recorded {
        match members.get_mut(&public_id) {
            Some(member) if member.verdict == Verdict::Approved && member.since_ms <= at_ms => {
                (member.verdict, member.since_ms, member.until_ms) = (Verdict::Refused, at_ms, None);
            }
            Some(_) => {}
            None => {
                let client = Client { public_id, name, kind: DeviceKind::Browser, platform: String::new() };
                let (verdict, revision) = (Verdict::Refused, 0);
                let public_key = NO_KEY;
                let member = Member { client, public_key, verdict, revision, since_ms: at_ms, until_ms: None };
                members.insert(public_id, member);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Promise: the newer word counts where it is known, else the refusal.

    use super::*;
    use crate::store::fixture::{id, member};

    fn at(n: u8, verdict: Verdict, revision: u64) -> Member {
        Member { revision, ..member(n, verdict) }
    }

    fn copy(decisions: u64, revision: u64, members: Vec<Member>) -> Option<Roster> {
        let members = members.into_iter().map(|member| (member.client.public_id, member)).collect();
        Some(Roster { decisions, revision, term: 3, members })
    }

    fn salvaged(decisions: Option<u64>, members: Vec<Member>) -> Salvage {
        Salvage { decisions, members, ..Salvage::default() }
    }

    fn verdict(roster: &Roster, n: u8) -> Option<Verdict> {
        roster.members.get(&id(n)).map(|member| member.verdict)
    }

    #[test]
    fn a_copy_that_knows_all_decisions_is_believed_alone() {
        let old = vec![at(1, Verdict::Approved, 1), at(2, Verdict::Refused, 2)];
        let copy = copy(9, 5, vec![at(1, Verdict::Refused, 5)]);
        let roster = unite(copy, salvaged(Some(8), old), Vec::new(), 0);
        assert_eq!((verdict(&roster, 1), verdict(&roster, 2)), (Some(Verdict::Refused), None));
        assert_eq!((roster.decisions, roster.revision, roster.term), (10, 5, 3));
    }

    #[test]
    fn a_database_that_knows_more_decisions_adds_them() {
        let rows = vec![at(1, Verdict::Refused, 7), at(2, Verdict::Approved, 8), at(3, Verdict::Approved, 9)];
        let known = vec![at(1, Verdict::Approved, 5), at(3, Verdict::Refused, 4), at(4, Verdict::Refused, 3)];
        let roster = unite(copy(9, 5, known), salvaged(Some(12), rows), Vec::new(), 0);
        let verdicts = [1, 2, 3, 4].map(|n| verdict(&roster, n).unwrap());
        assert_eq!(verdicts, [Verdict::Refused, Verdict::Approved, Verdict::Approved, Verdict::Refused]);
        assert_eq!((roster.decisions, roster.revision), (13, 9));
    }

    #[test]
    fn a_refusal_wins_where_nobody_knows_what_came_last() {
        let rows = vec![at(1, Verdict::Approved, 99), at(2, Verdict::Refused, 5), at(3, Verdict::Refused, 2)];
        let known = vec![at(1, Verdict::Refused, 4), at(2, Verdict::Approved, 5)];
        let roster = unite(copy(9, 5, known), salvaged(None, rows), Vec::new(), 0);
        assert_eq!([1, 2, 3].map(|n| verdict(&roster, n).unwrap()), [Verdict::Refused; 3]);
    }

    #[test]
    fn what_only_the_record_knows_of_stays_refused() {
        let refusal = |n: u8, at_ms| Refusal { public_id: id(n), name: "Ana".into(), at_ms };
        let since = member(1, Verdict::Approved).since_ms;
        let rows = vec![at(1, Verdict::Approved, 1), at(2, Verdict::Approved, 2)];
        let recorded = vec![refusal(1, since + 1), refusal(2, since - 1), refusal(3, 5)];
        let roster = unite(None, salvaged(None, rows), recorded, 8_000);
        let verdicts = [1, 2, 3].map(|n| verdict(&roster, n).unwrap());
        assert_eq!(verdicts, [Verdict::Refused, Verdict::Approved, Verdict::Refused]);
        assert_eq!((roster.members[&id(1)].until_ms, roster.term), (None, 8));
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
            assert_eq!((fs::read(&aside).unwrap(), fs::read(beside(&aside, "-wal")).unwrap()), (vec![n], vec![n]));
            places.insert(aside);
        }
        assert_eq!(places.len(), 5);
        assert_eq!(move_aside(&path).unwrap(), None);
    }
}
