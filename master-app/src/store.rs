//! The master's memory on disk: roster, refusals, catalogue, links, in one SQLite file with one
//! writer.
//!
//! Everything of one [`Store::apply`] is there after it returns, or nothing is (WAL,
//! `synchronous=FULL`). Who was let in and who was refused is kept a second time ([`copy`]); from
//! that a damaged file is made anew ([`rescue`]).

#![expect(clippy::disallowed_methods, reason = "the database, in the program's own folder")]

pub(crate) mod audit_log;
#[cfg(test)]
mod damage;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod power;
mod recovery;
mod roster_backup;

use std::path::{Path, PathBuf};

use lanyard_hub::authority::{
    LinkRecord, LinkTarget, ListedFile, Member, SavedState, StoreWrite, Verdict,
};
use lanyard_protocol::message::LinkFolder;
use lanyard_protocol::{
    Client, DeviceId, DeviceKind, EntryKind, FileEntry, FileId, FileRef, Instance, LinkBinding,
    LinkHash, PublicKey, Root,
};
use lanyard_system::clock::now_ms;
use lanyard_system::private_file::{self, PrivateFileError};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use crate::problems::{self, ActiveProblem, ProblemList};
use recovery::RescuedFiles;
use roster_backup::{BackupFound, Copy, RosterBackup};

/// "LANY": says whose file this is.
const APPLICATION_ID: i64 = 0x4c41_4e59;
const SCHEMA_VERSION: i64 = 5;
/// From this one on the `-wal` file stays when the database is closed, so that a missing one tells
/// of a loss.
const KEEPS_WAL: i64 = 3;
/// A database of which more than half is free, and more than this, is made small when it is opened.
const FREE_BYTES_KEPT: u64 = 8 << 20;
/// The size that the -wal file is cut to when all of it is in the database: a large commit does not
/// keep its size for ever.
const WAL_BYTES_KEPT: u64 = 16 << 20;
/// Older ones can lose a commit in WAL mode under rare interleavings of checkpoints.
const OLDEST_SQLITE: i32 = 3_051_003;

const SCHEMA: &str = "
CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE members (
    public_id BLOB PRIMARY KEY, public_key BLOB NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,
    platform TEXT NOT NULL, refused INTEGER NOT NULL, revision INTEGER NOT NULL, since_ms INTEGER NOT NULL,
    until_ms INTEGER
) WITHOUT ROWID, STRICT;
CREATE TABLE files (
    public_id BLOB NOT NULL, file_id BLOB NOT NULL, instance BLOB NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL, media_type TEXT NOT NULL, folder INTEGER NOT NULL, group_log INTEGER NOT NULL,
    root BLOB, revision INTEGER NOT NULL, withdrawn_ms INTEGER, PRIMARY KEY (public_id, file_id)
) WITHOUT ROWID, STRICT;
";

const LINKS_SCHEMA: &str = "
CREATE TABLE links (
    hash BLOB PRIMARY KEY, maker BLOB NOT NULL, name TEXT, used_ms INTEGER NOT NULL, files BLOB NOT NULL,
    made_ms INTEGER NOT NULL DEFAULT 0, folder_owner BLOB, folder_path TEXT, ends_ms INTEGER, uses_left INTEGER,
    binding BLOB NOT NULL
) WITHOUT ROWID, STRICT;
";

/// Why the master's memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot make {}: {source}; check that the folder belongs to you and has room", path.display())]
    Make { path: PathBuf, source: std::io::Error },
    #[error("cannot open {}: {source}; check that the folder belongs to you and has room", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("{} is damaged ({why})", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} is damaged and cannot be moved aside: {source}; check that the folder belongs to you", path.display())]
    Aside { path: PathBuf, source: std::io::Error },
    #[error("{} is another program's database; move it away, or choose another folder with --data", path.display())]
    Foreign { path: PathBuf },
    #[error("{} was written by a newer Lanyard (schema {found}); start that one", path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error("this build holds SQLite {found}; 3.51.3 or newer is needed to keep what is promised")]
    OldSqlite { found: &'static str },
    #[error("cannot write {}: {source}; check that the disk has room", path.display())]
    Write { path: PathBuf, source: rusqlite::Error },
    #[error(transparent)]
    Copy(#[from] PrivateFileError),
    #[error("get randomness from the system: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// What passes by itself, or when the person at the host does something about it: worth waiting
/// for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransientStoreError {
    /// Another program holds the file.
    Locked,
    /// There is no room.
    Full,
}

impl StoreError {
    pub(crate) fn hindrance(&self) -> Option<TransientStoreError> {
        let (Self::Open { source, .. } | Self::Write { source, .. }) = self else { return None };
        let rusqlite::Error::SqliteFailure(failure, _) = source else { return None };
        match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                Some(TransientStoreError::Locked)
            }
            ErrorCode::DiskFull => Some(TransientStoreError::Full),
            // The index of the log could not grow.
            _ if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => {
                Some(TransientStoreError::Full)
            }
            _ => None,
        }
    }

    /// The file itself is broken: trying again does not help.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Write { source, .. } => is_broken_file(source),
            _ => false,
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    path: PathBuf,
    /// What opening has read already.
    loaded: Option<SavedState>,
    copy: Copy,
    problems: ProblemList,
}

/// What a new database begins with.
#[derive(Debug, Default)]
struct StoreOpening {
    roster: RosterBackup,
    links: Vec<LinkRecord>,
}

impl Store {
    /// Opens or makes the file at `path`.
    #[cfg(test)]
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_telling(path, ProblemList::default())
    }

    /// Opens or makes the file at `path`. A damaged one is moved aside, made anew, and told as a
    /// problem.
    pub(crate) fn open_telling(path: &Path, problems: ProblemList) -> Result<Self, StoreError> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            return Err(StoreError::OldSqlite { found: rusqlite::version() });
        }
        let copy = roster_backup::read(path);
        let opened = match Self::open_whole(path, &copy, &problems) {
            Err(StoreError::Damaged { why, .. }) => Self::rebuild(path, &why, copy, &problems),
            other => other,
        };
        let mut store = opened?;
        if roster_backup::read(path) != BackupFound::Whole(store.copy.roster.clone()) {
            let written = store.copy.write();
            store.tell_copy(written);
        }
        Ok(store)
    }

    /// Closes the file and opens it again: it was found damaged while it was in use.
    pub(crate) fn reopen(self) -> Result<Self, StoreError> {
        let Self { connection, path, problems, .. } = self;
        drop(connection);
        Self::open_telling(&path, problems)
    }

    pub(crate) fn problems(&self) -> &ProblemList {
        &self.problems
    }

    /// From here on the file is as large as it may be: a full disk.
    #[cfg(test)]
    pub(crate) fn allow_no_growth(&self) {
        let pages: i64 =
            self.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        self.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    }

    /// Opens the file if all of it is sound, and as new as its copy.
    fn open_whole(
        path: &Path,
        copy: &BackupFound,
        problems: &ProblemList,
    ) -> Result<Self, StoreError> {
        let files = RescuedFiles::at(path);
        if let Some(why) = files.loss_before_opening(copy) {
            return Err(StoreError::Damaged { path: path.into(), why });
        }
        let mut store = Self::connect(path, problems)?;
        let version = store.check_owner(|| files.is_first_start(copy))?;
        // A copy that was put back has none, and says so.
        if version >= KEEPS_WAL && !files.has_wal && store.is_logged()? {
            let why = "its newest part, the -wal file, is gone".into();
            return Err(StoreError::Damaged { path: path.into(), why });
        }
        store.prepare().map_err(|error| store.opening_failed(error))?;
        if (1..SCHEMA_VERSION).contains(&version) {
            store.keep_as_it_was(version)?;
        }
        store.begin(&StoreOpening::default())?;
        store.check_against(copy)?;
        if let Err(error) = store.shrink() {
            // It needs room beside it; what is kept is whole all the same.
            tracing::debug!(%error, "the database stays as large as it is");
        }
        Ok(store)
    }

    /// Gives free space back to the disk if it is most of the file. What devices list is bounded,
    /// so the file is, too; but it stays as large as it ever was.
    fn shrink(&self) -> Result<(), rusqlite::Error> {
        let number =
            |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        let pages = number("page_count")?;
        let free = number("freelist_count")?;
        let page_bytes = number("page_size")?;
        if free * page_bytes > FREE_BYTES_KEPT && free * 2 > pages {
            // Not TRUNCATE: a -wal file that holds nothing tells of a loss.
            self.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(RESTART)")?;
            tracing::info!(
                before = pages * page_bytes,
                freed = free * page_bytes,
                "the database was made small"
            );
        }
        Ok(())
    }

    /// Makes a new file of the copy, the refusals of the record and the links that can be read. The
    /// copy is made good first: from then on a power cut costs no decision.
    fn rebuild(
        path: &Path,
        why: &str,
        copy: BackupFound,
        problems: &ProblemList,
    ) -> Result<Self, StoreError> {
        let rescued = recovery::rescue(path, copy);
        Copy::of(path, rescued.roster.clone()).write()?;
        let aside = recovery::move_aside(path)
            .map_err(|source| StoreError::Aside { path: path.into(), source })?;
        let mut store = Self::connect(path, problems)?;
        store.prepare().map_err(|error| store.opening_failed(error))?;
        let problem = rescued.problem(why, aside.as_deref());
        store.begin(&StoreOpening { roster: rescued.roster, links: rescued.links })?;
        store.check_against(&BackupFound::Nothing)?;
        problems.raise(problem);
        Ok(store)
    }

    fn connect(path: &Path, problems: &ProblemList) -> Result<Self, StoreError> {
        make_private(path).map_err(|source| StoreError::Make { path: path.into(), source })?;
        let connection =
            connect(path).map_err(|source| StoreError::Open { path: path.into(), source })?;
        let copy = Copy::of(path, RosterBackup::default());
        Ok(Self { connection, path: path.into(), loaded: None, copy, problems: problems.clone() })
    }

    fn prepare(&self) -> Result<(), rusqlite::Error> {
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.pragma_update(None, "foreign_keys", "ON")?;
        self.connection.pragma_update_and_check(
            None,
            "journal_size_limit",
            WAL_BYTES_KEPT,
            |_| Ok(()),
        )?;
        let verdict: String =
            self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict == "ok" { Ok(()) } else { Err(corrupt(verdict)) }
    }

    /// Whether a `-wal` file belongs to it.
    fn is_logged(&self) -> Result<bool, StoreError> {
        let mode =
            self.connection.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
        Ok(mode.map_err(|error| self.opening_failed(error))? == "wal")
    }

    /// Whose file it is, before anything is changed in it; its schema version if it is ours, 0 if
    /// it is nobody's yet.
    fn check_owner(&self, is_first_start: impl FnOnce() -> bool) -> Result<i64, StoreError> {
        let c = &self.connection;
        let read = || -> Result<(i64, i64, i64, i64), rusqlite::Error> {
            let number = |name: &str| c.pragma_query_value(None, name, |row| row.get(0));
            let tables = "SELECT count(*), count(*) FILTER (WHERE name IN ('members', 'numbers')) FROM sqlite_schema";
            let (all, ours) = c.query_row(tables, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok((number("application_id")?, number("user_version")?, all, ours))
        };
        let (application, version, tables, ours) =
            read().map_err(|error| self.opening_failed(error))?;
        let (path, is_ours) = (self.path.clone(), application == APPLICATION_ID);
        let damaged =
            |why: &str| Err(StoreError::Damaged { path: self.path.clone(), why: why.into() });
        match (is_ours, version, tables) {
            (true, version, _) if version > SCHEMA_VERSION => {
                Err(StoreError::Newer { path, found: version })
            }
            (true, 1.., 1..) => Ok(version),
            (false, 0, 0) if is_first_start() => Ok(0),
            (false, 0, 0) | (true, ..) => damaged("everything in it is gone"),
            (false, ..) if ours == 2 => damaged("its head was changed"),
            (false, ..) => Err(StoreError::Foreign { path }),
        }
    }

    /// Before an older Lanyard's file is brought up to date: a whole copy of it beside, for who
    /// wants to go back to that one.
    fn keep_as_it_was(&self, version: i64) -> Result<(), StoreError> {
        let beside = |suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".v{version}{suffix}"));
            PathBuf::from(name)
        };
        let (kept, unfinished) = (beside(""), beside(".unfinished"));
        let make = |source| StoreError::Make { path: kept.clone(), source };
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(make(error)),
            _ => make_private(&unfinished).map_err(make)?,
        }
        let write = |source| StoreError::Write { path: unfinished.clone(), source };
        copy_whole(&self.connection, &unfinished).map_err(write)?;
        std::fs::rename(&unfinished, &kept).map_err(make)?;
        tracing::info!(kept = %kept.display(), "the database of an older Lanyard is taken over; a copy is kept");
        Ok(())
    }

    /// Makes the tables in a new file, and brings those of an older one up to date.
    fn begin(&mut self, beginning: &StoreOpening) -> Result<(), StoreError> {
        let mut random = [0u8; 8];
        getrandom::fill(&mut random)?;
        // Never 0: that says "I hold nothing".
        let epoch = (u64::from_le_bytes(random) >> 12).max(1);
        let path = &self.path;
        begin(&mut self.connection, epoch, beginning)
            .map_err(|source| StoreError::Write { path: path.clone(), source })
    }

    /// Reads all, and finds what a sound file cannot tell: that it is older than its copy, or not
    /// what was decided.
    fn check_against(&mut self, copy: &BackupFound) -> Result<(), StoreError> {
        let saved = self.load()?;
        let number =
            |name| read_number(&self.connection, name).map_err(|error| self.opening_failed(error));
        let (decisions, term) = (number("decisions")?, number("term")?);
        let members =
            saved.members.iter().map(|member| (member.client.public_id, member.clone())).collect();
        let roster = RosterBackup { decisions, revision: saved.revision, term, members };
        if let BackupFound::Whole(copy) = copy {
            let damaged =
                |why: &str| Err(StoreError::Damaged { path: self.path.clone(), why: why.into() });
            if copy.decisions > decisions || copy.revision > saved.revision {
                return damaged("its newest decisions are gone");
            }
            if copy.decisions == decisions && copy.members != roster.members {
                return damaged("it says something else than was decided");
            }
        }
        self.copy.roster = RosterBackup { term: roster.term.max(copy.term()), ..roster };
        self.loaded = Some(saved);
        Ok(())
    }

    /// All that is on disk.
    pub(crate) fn load(&mut self) -> Result<SavedState, StoreError> {
        match self.loaded.take() {
            Some(saved) => Ok(saved),
            None => read_all(&self.connection).map_err(|error| self.opening_failed(error)),
        }
    }

    /// Everything or nothing, and on the disk when this returns.
    pub(crate) fn apply(&mut self, changes: &[StoreWrite]) -> Result<(), StoreError> {
        self.loaded = None;
        let decides = changes
            .iter()
            .any(|change| matches!(change, StoreWrite::MemberPut(_) | StoreWrite::MemberGone(_)));
        let mut write = || {
            let transaction =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for change in changes {
                apply_one(&transaction, change)?;
            }
            if decides {
                run(
                    &transaction,
                    "UPDATE numbers SET value = value + 1 WHERE name = 'decisions'",
                    [],
                )?;
            }
            transaction.commit()
        };
        write().map_err(|source| self.writing_failed(source))?;
        let decisions = self.copy.roster.decisions + u64::from(decides);
        let written = self.copy.follow(changes, decisions);
        self.tell_copy(written);
        Ok(())
    }

    /// A term higher than any before, on disk when this returns. `at_least` jumps ahead when a
    /// relay has seen higher ones: the file was restored from a backup.
    pub(crate) fn next_term(&mut self, at_least: u64) -> Result<u64, StoreError> {
        let at_least = at_least.max(self.copy.roster.term + 1);
        let term = self
            .connection
            .query_row(
                "UPDATE numbers SET value = max(value + 1, ?1) WHERE name = 'term' RETURNING value",
                [at_least],
                |row| row.get(0),
            )
            .map_err(|source| self.writing_failed(source))?;
        self.copy.roster.term = term;
        let written = self.copy.write();
        self.tell_copy(written);
        Ok(term)
    }

    /// A decision is kept where the database has it; that its copy is behind is worth knowing.
    fn tell_copy(&self, written: Result<(), PrivateFileError>) {
        let Err(error) = written else { return self.problems.clear(problems::ROSTER_COPY) };
        self.problems.raise(ActiveProblem {
            code: problems::ROSTER_COPY,
            what: format!(
                "The second copy of who was let in and who was refused is not up to date: {error}."
            ),
            advice:
                "Decisions are kept in the database; the copy is tried again with the next change."
                    .into(),
            since_ms: now_ms(),
        });
    }

    fn writing_failed(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Write { path: self.path.clone(), source }
    }

    fn opening_failed(&self, error: rusqlite::Error) -> StoreError {
        let path = self.path.clone();
        if is_broken_file(&error) || is_strange_content(&error) {
            StoreError::Damaged { path, why: error.to_string() }
        } else {
            StoreError::Open { path, source: error }
        }
    }
}

fn is_broken_file(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return false };
    matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
}

/// A table or a row of a shape that this program does not write.
fn is_strange_content(error: &rusqlite::Error) -> bool {
    match error {
        // "no such table": what is asked here never changes.
        rusqlite::Error::SqliteFailure(failure, _) => {
            failure.extended_code == rusqlite::ffi::SQLITE_ERROR
        }
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::InvalidColumnName(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::QueryReturnedNoRows => true,
        _ => false,
    }
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(
        resolved(path),
        OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW,
    )?;
    // There is one writer; whoever else looks in is soon done.
    connection.busy_timeout(std::time::Duration::from_secs(1))?;
    // The -wal file stays: one that is missing was lost. It also keeps a damaged file as it was
    // found.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// The path with the links on the way to its folder resolved: SQLite refuses a link anywhere, and
/// those are the person's own.
fn resolved(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder
        .zip(path.file_name())
        .map_or_else(|| path.to_path_buf(), |(folder, name)| folder.join(name))
}

/// All of an open database as one file at `path`, without a log beside it.
fn copy_whole(from: &Connection, path: &Path) -> Result<(), rusqlite::Error> {
    let mut to = Connection::open_with_flags(
        resolved(path),
        OpenFlags::default() | OpenFlags::SQLITE_OPEN_NOFOLLOW,
    )?;
    if Backup::new(from, &mut to)?.step(-1)? != StepResult::Done {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            None,
        ));
    }
    to.pragma_update(None, "journal_mode", "DELETE")?;
    to.close().map_err(|(_, error)| error)
}

fn begin(
    connection: &mut Connection,
    epoch: u64,
    beginning: &StoreOpening,
) -> Result<(), rusqlite::Error> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if version == 0 {
        let RosterBackup { decisions, revision, term, members } = &beginning.roster;
        transaction.execute_batch(SCHEMA)?;
        transaction.execute_batch(LINKS_SCHEMA)?;
        let sql = "INSERT INTO numbers VALUES ('epoch', ?1), ('revision', ?2), ('term', ?3), ('decisions', ?4)";
        transaction.execute(sql, params![epoch, revision, term, decisions])?;
        members.values().try_for_each(|member| put_member(&transaction, member))?;
        beginning.links.iter().try_for_each(|link| put_link(&transaction, link))?;
    }
    if version == 1 {
        transaction.execute_batch("ALTER TABLE members ADD COLUMN until_ms INTEGER")?;
    }
    if matches!(version, 1..=4) {
        // Nothing binds an older link to its maker, so the hub cannot tell a link from a hash that
        // was registered again.
        let ended = transaction.execute("DELETE FROM links", [])?;
        transaction.execute_batch("DROP TABLE links")?;
        transaction.execute_batch(LINKS_SCHEMA)?;
        if ended > 0 {
            tracing::warn!(
                ended,
                "links of the version before have ended: nothing bound them to their makers"
            );
        }
    }
    if matches!(version, 1 | 2) {
        transaction.execute("INSERT INTO numbers VALUES ('decisions', 0)", [])?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

fn read_number(connection: &Connection, name: &str) -> Result<u64, rusqlite::Error> {
    connection.query_row("SELECT value FROM numbers WHERE name = ?1", [name], |row| row.get(0))
}

fn read_all(connection: &Connection) -> Result<SavedState, rusqlite::Error> {
    let rows = |sql: &str| connection.prepare(sql);
    Ok(SavedState {
        epoch: read_number(connection, "epoch")?,
        revision: read_number(connection, "revision")?,
        members: rows("SELECT * FROM members")?
            .query_map([], member_of)?
            .collect::<Result<_, _>>()?,
        files: rows("SELECT * FROM files")?.query_map([], listing_of)?.collect::<Result<_, _>>()?,
        links: rows("SELECT * FROM links")?.query_map([], link_of)?.collect::<Result<_, _>>()?,
    })
}

/// Makes the file before SQLite does, for its owner alone; what SQLite puts beside it follows its
/// mode. Links in their places are refused, and what others may read is narrowed.
fn make_private(path: &Path) -> std::io::Result<()> {
    private_file::open(path, std::fs::File::options().create(true).append(true))?;
    for beside in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_os_string();
        name.push(beside);
        match private_file::open(Path::new(&name), std::fs::File::options().read(true)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn corrupt(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(why),
    )
}

fn apply_one(db: &Transaction, change: &StoreWrite) -> Result<(), rusqlite::Error> {
    match change {
        StoreWrite::Revision(revision) => run(db, "UPDATE numbers SET value = ?1 WHERE name = 'revision'", [*revision]),
        StoreWrite::MemberPut(member) => put_member(db, member),
        StoreWrite::MemberGone(id) => run(db, "DELETE FROM members WHERE public_id = ?1", [blob(id)]),
        StoreWrite::FilesPut { files, revision } => files.iter().try_for_each(|entry| put_file(db, entry, *revision)),
        StoreWrite::FilesWithdrawn { public_id, file_ids, revision, at_ms } => file_ids.iter().try_for_each(|file_id| {
            let sql = "UPDATE files SET withdrawn_ms = ?3, revision = ?4 WHERE public_id = ?1 AND file_id = ?2";
            run(db, sql, params![blob(public_id), file_id.0.as_bytes(), at_ms, revision])
        }),
        StoreWrite::FilesGone { public_id, file_ids } => file_ids.iter().try_for_each(|file_id| {
            let sql = "DELETE FROM files WHERE public_id = ?1 AND file_id = ?2";
            run(db, sql, params![blob(public_id), file_id.0.as_bytes()])
        }),
        StoreWrite::BelongingsGone(id) => {
            run(db, "DELETE FROM files WHERE public_id = ?1", [blob(id)])?;
            run(db, "DELETE FROM links WHERE maker = ?1", [blob(id)])
        }
        StoreWrite::RootKnown { file, root, revision } => {
            let sql = "UPDATE files SET root = ?3, revision = ?4 WHERE public_id = ?1 AND file_id = ?2";
            run(db, sql, params![blob(&file.public_id), file.file_id.0.as_bytes(), root.0, revision])
        }
        StoreWrite::LinkPut(link) => put_link(db, link),
        StoreWrite::LinkUsed { hash, used_ms, uses_left } => {
            let sql = "UPDATE links SET used_ms = ?2, uses_left = ?3 WHERE hash = ?1";
            run(db, sql, params![hash.0, used_ms, uses_left])
        }
        StoreWrite::LinkGone(hash) => run(db, "DELETE FROM links WHERE hash = ?1", [hash.0]),
    }
}

fn run(db: &Transaction, sql: &str, values: impl rusqlite::Params) -> Result<(), rusqlite::Error> {
    db.prepare_cached(sql)?.execute(values).map(drop)
}

fn put_member(db: &Transaction, member: &Member) -> Result<(), rusqlite::Error> {
    let Member { client, public_key, verdict, revision, since_ms, until_ms } = member;
    run(
        db,
        "INSERT OR REPLACE INTO members VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            blob(&client.public_id),
            public_key.0,
            client.name,
            kind_number(client.kind),
            client.platform,
            *verdict == Verdict::Refused,
            revision,
            since_ms,
            until_ms
        ],
    )
}

fn put_file(db: &Transaction, entry: &FileEntry, revision: u64) -> Result<(), rusqlite::Error> {
    run(
        db,
        "INSERT OR REPLACE INTO files VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, NULL)",
        params![
            blob(&entry.public_id),
            entry.file_id.0.as_bytes(),
            entry.instance.0,
            entry.path,
            entry.size,
            entry.modified_ms,
            entry.media_type,
            entry.kind == EntryKind::Folder,
            entry.group_log,
            entry.root.map(|root| root.0),
            revision
        ],
    )
}

fn put_link(db: &Transaction, link: &LinkRecord) -> Result<(), rusqlite::Error> {
    let (files, folder) = match &link.linked {
        LinkTarget::Files(files) => (files.as_slice(), None),
        LinkTarget::Folder(folder) => (&[][..], Some(folder)),
    };
    let files: Vec<u8> = files
        .iter()
        .flat_map(|f| [*f.public_id.0.as_bytes(), *f.file_id.0.as_bytes()].concat())
        .collect();
    let sql = "INSERT OR REPLACE INTO links
        (hash, maker, name, used_ms, files, made_ms, folder_owner, folder_path, ends_ms, uses_left, binding)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let owner = folder.map(|f| blob(&f.public_id));
    let path = folder.map(|f| &f.path);
    let LinkRecord { hash, binding, maker, name, used_ms, made_ms, ends_ms, uses_left, .. } = link;
    let values = params![
        hash.0,
        blob(maker),
        name,
        used_ms,
        files,
        made_ms,
        owner,
        path,
        ends_ms,
        uses_left,
        binding.0
    ];
    run(db, sql, values)
}

fn blob(id: &DeviceId) -> &[u8; 16] {
    id.0.as_bytes()
}

fn kind_number(kind: DeviceKind) -> i64 {
    match kind {
        DeviceKind::Browser => 0,
        DeviceKind::Native => 1,
        DeviceKind::Master => 2,
    }
}

struct StoredKind(DeviceKind);

impl FromSql for StoredKind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_i64()? {
            0 => Ok(Self(DeviceKind::Browser)),
            1 => Ok(Self(DeviceKind::Native)),
            2 => Ok(Self(DeviceKind::Master)),
            other => Err(FromSqlError::OutOfRange(other)),
        }
    }
}

fn device(row: &Row, column: &str) -> Result<DeviceId, rusqlite::Error> {
    Ok(DeviceId(Uuid::from_bytes(row.get(column)?)))
}

fn member_of(row: &Row) -> Result<Member, rusqlite::Error> {
    let client = Client {
        public_id: device(row, "public_id")?,
        name: row.get("name")?,
        kind: row.get::<_, StoredKind>("kind")?.0,
        platform: row.get("platform")?,
    };
    let verdict = if row.get("refused")? { Verdict::Refused } else { Verdict::Approved };
    Ok(Member {
        client,
        public_key: PublicKey(row.get("public_key")?),
        verdict,
        revision: row.get("revision")?,
        since_ms: row.get("since_ms")?,
        until_ms: row.get("until_ms")?,
    })
}

fn listing_of(row: &Row) -> Result<ListedFile, rusqlite::Error> {
    let entry = FileEntry {
        public_id: device(row, "public_id")?,
        instance: Instance(row.get("instance")?),
        file_id: FileId(Uuid::from_bytes(row.get("file_id")?)),
        path: row.get("path")?,
        size: row.get("size")?,
        modified_ms: row.get("modified_ms")?,
        media_type: row.get("media_type")?,
        kind: if row.get("folder")? { EntryKind::Folder } else { EntryKind::File },
        group_log: row.get("group_log")?,
        root: row.get::<_, Option<[u8; 32]>>("root")?.map(Root),
    };
    Ok(ListedFile { entry, revision: row.get("revision")?, withdrawn_ms: row.get("withdrawn_ms")? })
}

fn link_of(row: &Row) -> Result<LinkRecord, rusqlite::Error> {
    let bytes: Vec<u8> = row.get("files")?;
    let id = |bytes: &[u8]| Uuid::from_slice(bytes).unwrap_or_default();
    let files = bytes
        .chunks_exact(32)
        .map(|pair| FileRef {
            public_id: DeviceId(id(&pair[..16])),
            file_id: FileId(id(&pair[16..])),
        })
        .collect();
    let owner: Option<[u8; 16]> = row.get("folder_owner")?;
    let linked = match owner {
        Some(owner) => {
            let path = row.get::<_, Option<String>>("folder_path")?.unwrap_or_default();
            LinkTarget::Folder(LinkFolder { public_id: DeviceId(Uuid::from_bytes(owner)), path })
        }
        None => LinkTarget::Files(files),
    };
    Ok(LinkRecord {
        hash: LinkHash(row.get("hash")?),
        binding: LinkBinding(row.get("binding")?),
        maker: device(row, "maker")?,
        // One that an older version made without a name is given one when it is loaded.
        name: row.get::<_, Option<String>>("name")?.unwrap_or_default(),
        linked,
        made_ms: row.get("made_ms")?,
        used_ms: row.get("used_ms")?,
        ends_ms: row.get("ends_ms")?,
        uses_left: row.get("uses_left")?,
    })
}

#[cfg(test)]
mod tests {
    //! Promise: what was applied is there after any end of the process, whole; what is broken is
    //! said, never replaced.

    use super::fixture::{id, member};
    use super::*;

    fn file_id(n: u8) -> FileId {
        FileId(Uuid::from_bytes([n; 16]))
    }

    fn entry(n: u8) -> FileEntry {
        FileEntry {
            public_id: id(1),
            instance: Instance([1; 16]),
            file_id: file_id(n),
            path: "Küche/é.txt".into(),
            size: 1 << 40,
            modified_ms: 5,
            media_type: "text/plain".into(),
            kind: EntryKind::File,
            group_log: 24,
            root: None,
        }
    }

    /// R35: who was let in or refused stands also after a cut of power, which is what these two are
    /// for (SQLite, "PRAGMA synchronous").
    #[test]
    fn a_commit_is_on_the_disk_itself_before_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("lanyard.db")).unwrap();
        let pragma = |name| -> String {
            let read = |row: &rusqlite::Row| row.get::<_, rusqlite::types::Value>(0);
            match store.connection.pragma_query_value(None, name, read).unwrap() {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((pragma("synchronous"), pragma("journal_mode")), ("2".into(), "wal".into()));
    }

    fn all_changes() -> Vec<StoreWrite> {
        let file = FileRef { public_id: id(1), file_id: file_id(1) };
        let link = |n: u8| LinkRecord {
            hash: LinkHash([n; 32]),
            binding: LinkBinding([n + 100; 32]),
            maker: id(1),
            name: "a.zip".into(),
            linked: LinkTarget::Files(vec![
                file,
                FileRef { public_id: id(2), file_id: file_id(7) },
            ]),
            made_ms: 8,
            used_ms: 9,
            ends_ms: Some(99),
            uses_left: Some(3),
        };
        vec![
            StoreWrite::Revision(8),
            StoreWrite::MemberPut(member(1, Verdict::Approved)),
            StoreWrite::MemberPut(member(2, Verdict::Refused)),
            StoreWrite::MemberPut(member(3, Verdict::Refused)),
            StoreWrite::MemberGone(id(3)),
            StoreWrite::FilesPut { files: (1..=4).map(entry).collect(), revision: 4 },
            StoreWrite::FilesGone { public_id: id(1), file_ids: vec![file_id(2)] },
            StoreWrite::FilesWithdrawn {
                public_id: id(1),
                file_ids: vec![file_id(3)],
                revision: 6,
                at_ms: 10,
            },
            StoreWrite::FilesWithdrawn {
                public_id: id(1),
                file_ids: vec![file_id(1), file_id(4)],
                revision: 7,
                at_ms: 11,
            },
            StoreWrite::RootKnown { file, root: Root([5; 32]), revision: 8 },
            StoreWrite::FilesPut { files: vec![entry(4)], revision: 8 },
            StoreWrite::LinkPut(link(1)),
            StoreWrite::LinkPut(link(2)),
            StoreWrite::LinkUsed { hash: LinkHash([1; 32]), used_ms: 20, uses_left: Some(2) },
            StoreWrite::LinkGone(LinkHash([2; 32])),
        ]
    }

    #[test]
    fn what_was_applied_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lanyard.db");
        let mut store = Store::open(&path).unwrap();
        let epoch = store.load().unwrap().epoch;
        store.apply(&all_changes()).unwrap();
        // No farewell: as after a kill.
        std::mem::forget(store);
        let saved = Store::open(&path).unwrap().load().unwrap();
        assert_eq!((saved.epoch, saved.revision), (epoch, 8));
        assert_eq!(saved.members.len(), 2);
        let members = saved.members;
        assert!(
            members.contains(&member(1, Verdict::Approved))
                && members.contains(&member(2, Verdict::Refused))
        );
        let rooted = FileEntry { root: Some(Root([5; 32])), ..entry(1) };
        assert_eq!(
            saved.files,
            vec![
                ListedFile { entry: rooted, revision: 8, withdrawn_ms: Some(11) },
                ListedFile { entry: entry(3), revision: 6, withdrawn_ms: Some(10) },
                ListedFile { entry: entry(4), revision: 8, withdrawn_ms: None },
            ]
        );
        let [link] = &saved.links[..] else { panic!("{:?}", saved.links) };
        assert_eq!(
            (link.used_ms, link.made_ms, link.ends_ms, link.uses_left),
            (20, 8, Some(99), Some(2))
        );
        assert_eq!(
            (link.hash, link.binding, link.maker),
            (LinkHash([1; 32]), LinkBinding([101; 32]), id(1))
        );
        assert!(matches!(&link.linked, LinkTarget::Files(files) if files.len() == 2));
    }

    #[test]
    fn a_device_that_was_turned_away_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("lanyard.db")).unwrap();
        store.apply(&all_changes()).unwrap();
        store.apply(&[StoreWrite::BelongingsGone(id(1))]).unwrap();
        let saved = store.load().unwrap();
        assert!(saved.files.is_empty() && saved.links.is_empty());
    }

    #[test]
    fn terms_only_grow_and_can_jump() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lanyard.db");
        let mut store = Store::open(&path).unwrap();
        assert_eq!((store.next_term(0).unwrap(), store.next_term(0).unwrap()), (1, 2));
        drop(store);
        let mut store = Store::open(&path).unwrap();
        assert_eq!((store.next_term(100).unwrap(), store.next_term(5).unwrap()), (100, 101));
    }

    #[test]
    fn a_newer_file_and_another_programs_are_said_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lanyard.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 99, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);

        for version in [0, 3, 99] {
            let path = dir.path().join("other.db");
            let other = Connection::open(&path).unwrap();
            other
                .execute_batch("CREATE TABLE songs (name TEXT); INSERT INTO songs VALUES ('a')")
                .unwrap();
            other.pragma_update(None, "user_version", version).unwrap();
            drop(other);
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                matches!(Store::open(&path), Err(StoreError::Foreign { .. })),
                "version {version}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            std::fs::remove_file(&path).unwrap();
        }
    }

    /// A73. What a device listed once does not stay on the host's disk for ever.
    #[test]
    fn a_database_that_held_much_is_small_again_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lanyard.db");
        let mut store = Store::open(&path).unwrap();
        let file = |n: u32| FileEntry {
            file_id: FileId(Uuid::from_u128(n.into())),
            path: "f".repeat(4_000),
            ..entry(1)
        };
        let files: Vec<FileEntry> = (0..5_000).map(file).collect();
        let file_ids: Vec<FileId> = files.iter().map(|entry| entry.file_id).collect();
        store.apply(&all_changes()).unwrap();
        store.apply(&[StoreWrite::FilesPut { files, revision: 9 }]).unwrap();
        store
            .apply(&[StoreWrite::FilesGone { public_id: id(1), file_ids }, StoreWrite::Revision(9)])
            .unwrap();
        let saved = store.load().unwrap();
        drop(store);
        let bytes =
            |name: &str| std::fs::metadata(dir.path().join(name)).map_or(0, |about| about.len());
        let before = bytes("lanyard.db") + bytes("lanyard.db-wal");
        assert!(before > 20_000_000, "{before}");
        let mut store = Store::open(&path).unwrap();
        assert_eq!((store.load().unwrap(), store.problems().all()), (saved.clone(), Vec::new()));
        assert!(bytes("lanyard.db") < 1_000_000, "{}", bytes("lanyard.db"));
        drop(store);
        let mut store = Store::open(&path).unwrap();
        assert_eq!(
            (store.load().unwrap(), store.problems().all()),
            (saved.clone(), Vec::new()),
            "nothing was written since"
        );
        store.apply(&[StoreWrite::Revision(9)]).unwrap();
        assert!(bytes("lanyard.db-wal") <= WAL_BYTES_KEPT, "{}", bytes("lanyard.db-wal"));
        drop(store);
        let mut store = Store::open(&path).unwrap();
        assert_eq!((store.load().unwrap(), store.problems().all()), (saved, Vec::new()));
    }

    /// Schema 3 as the first release candidate wrote it, in its own words: what this program writes
    /// today must not stand in for it.
    const SCHEMA_3: &str = "
        CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT;
        CREATE TABLE members (
            public_id BLOB PRIMARY KEY, public_key BLOB NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,
            platform TEXT NOT NULL, refused INTEGER NOT NULL, revision INTEGER NOT NULL, since_ms INTEGER NOT NULL,
            until_ms INTEGER
        ) WITHOUT ROWID, STRICT;
        CREATE TABLE files (
            public_id BLOB NOT NULL, file_id BLOB NOT NULL, instance BLOB NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL,
            modified_ms INTEGER NOT NULL, media_type TEXT NOT NULL, folder INTEGER NOT NULL, group_log INTEGER NOT NULL,
            root BLOB, revision INTEGER NOT NULL, withdrawn_ms INTEGER, PRIMARY KEY (public_id, file_id)
        ) WITHOUT ROWID, STRICT;
        CREATE TABLE links (
            hash BLOB PRIMARY KEY, maker BLOB NOT NULL, name TEXT, used_ms INTEGER NOT NULL, files BLOB NOT NULL
        ) WITHOUT ROWID, STRICT;
        INSERT INTO numbers VALUES ('epoch', 77), ('revision', 9), ('term', 4), ('decisions', 2);
    ";

    /// A data directory of schema 3: one device that belongs and one that was refused, a listed and
    /// a withdrawn file, a link.
    fn directory_of_schema_3(dir: &Path) {
        let old = Connection::open(dir.join("lanyard.db")).unwrap();
        old.pragma_update(None, "journal_mode", "WAL").unwrap();
        old.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        old.execute_batch(SCHEMA_3).unwrap();
        old.pragma_update(None, "application_id", 0x4c41_4e59).unwrap();
        old.pragma_update(None, "user_version", 3).unwrap();
        let members = "INSERT INTO members VALUES (?1, ?2, ?3, 0, '', ?4, 3, 1700000000000, ?5)";
        for (n, refused, until_ms) in [(1u8, false, Some(1_800_000_000_000u64)), (2, true, None)] {
            old.execute(members, params![blob(&id(n)), [n; 32], "Ana’s 📱", refused, until_ms])
                .unwrap();
        }
        let files = "INSERT INTO files VALUES (?1, ?2, ?3, 'Küche/é.txt', 1099511627776, 5, 'text/plain', 0, 24, NULL, 4, ?4)";
        for (n, withdrawn_ms) in [(1u8, None), (2, Some(10u64))] {
            old.execute(files, params![blob(&id(1)), [n; 16], [1u8; 16], withdrawn_ms]).unwrap();
        }
        let linked = [*id(1).0.as_bytes(), [1u8; 16]].concat();
        let links = "INSERT INTO links VALUES (?1, ?2, 'a.zip', 9, ?3)";
        old.execute(links, params![[8u8; 32], blob(&id(1)), linked]).unwrap();
    }

    /// Whoever updates keeps everybody who was let in, and everybody who was not.
    #[test]
    fn a_data_directory_of_the_version_before_opens_and_its_members_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lanyard.db");
        directory_of_schema_3(dir.path());
        let refused = Member { until_ms: None, ..member(2, Verdict::Refused) };
        for start in 1..=2 {
            let mut store = Store::open(&path).unwrap();
            let saved = store.load().unwrap();
            assert_eq!(store.problems().all(), Vec::new(), "start {start}");
            assert_eq!((saved.epoch, saved.revision, store.copy.roster.decisions), (77, 9, 2));
            assert_eq!(saved.members.len(), 2);
            assert!(
                saved.members.contains(&member(1, Verdict::Approved))
                    && saved.members.contains(&refused)
            );
            let listed = ListedFile { entry: entry(1), revision: 4, withdrawn_ms: None };
            let withdrawn = ListedFile { entry: entry(2), revision: 4, withdrawn_ms: Some(10) };
            assert_eq!(saved.files, [listed, withdrawn]);
            assert!(
                saved.links.is_empty(),
                "nothing binds its links to their makers: they have ended"
            );
            assert!(
                matches!(roster_backup::read(&path), BackupFound::Whole(copy) if copy.members.len() == 2)
            );
        }
    }

    /// A73. Neither the database nor what lies beside it is another program's file, however it came
    /// there.
    #[cfg(unix)]
    #[test]
    fn a73_a_linked_database_is_refused_and_its_target_left_alone() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("theirs.db");
        drop(Store::open(&target).unwrap());
        for name in ["lanyard.db", "lanyard.db-wal", "roster.json"] {
            let dir = tempfile::tempdir().unwrap();
            let before = std::fs::read(&target).unwrap();
            drop(Store::open(&dir.path().join("lanyard.db")).unwrap());
            std::fs::remove_file(dir.path().join(name)).unwrap();
            std::os::unix::fs::symlink(&target, dir.path().join(name)).unwrap();
            let opened = Store::open(&dir.path().join("lanyard.db"));
            let is_refused =
                matches!(opened, Err(StoreError::Make { .. } | StoreError::Open { .. }));
            // A copy that cannot be read is as good as torn: it is replaced, and the link with it.
            assert!(is_refused || name == "roster.json", "{name}: {opened:?}");
            assert_eq!(std::fs::read(&target).unwrap(), before, "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_database_in_a_folder_behind_a_link_opens_and_is_narrowed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("named")).unwrap();
        let path = dir.path().join("named/lanyard.db");
        drop(Store::open(&path).unwrap());
        let files = ["lanyard.db", "lanyard.db-wal", "roster.json"]
            .map(|name| dir.path().join("real").join(name));
        files.iter().for_each(|file| {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap()
        });
        drop(Store::open(&path).unwrap());
        for file in files {
            assert_eq!(
                std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
                0o600,
                "{}",
                file.display()
            );
        }
    }

    #[test]
    fn a_file_of_an_older_lanyard_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lanyard.db");
        let mut store = Store::open(&path).unwrap();
        store.apply(&all_changes()).unwrap();
        let saved = store.load().unwrap();
        drop(store);
        std::fs::remove_file(roster_backup::path(&path)).unwrap();
        let old = Connection::open(&path).unwrap();
        // Columns and tables that came with the fifth shape, the fourth and the third.
        let without = ["binding", "made_ms", "folder_owner", "folder_path", "ends_ms", "uses_left"]
            .map(|column| format!("ALTER TABLE links DROP COLUMN {column};"));
        let without = without.concat()
            + "DELETE FROM numbers WHERE name = 'decisions'; PRAGMA user_version = 2";
        old.execute_batch(&without).unwrap();
        // It clears its log away.
        drop(old);
        let mut store = Store::open(&path).unwrap();
        // Its links have ended: nothing binds them to their makers.
        let mut expected = SavedState { links: Vec::new(), ..saved };
        assert_eq!((store.load().unwrap(), store.problems().all()), (expected.clone(), Vec::new()));
        // A link that is made now stays.
        let link = fixture::link(1);
        store.apply(&[StoreWrite::LinkPut(link.clone())]).unwrap();
        expected.links.push(link);
        drop(store);
        let mut store = Store::open(&path).unwrap();
        assert_eq!((store.load().unwrap(), store.problems().all()), (expected, Vec::new()));
        assert!(
            matches!(roster_backup::read(&path), BackupFound::Whole(copy) if copy.members.len() == 2)
        );

        let kept = Connection::open(dir.path().join("lanyard.db.v2")).unwrap();
        let number = |sql: &str| kept.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let (version, members) =
            (number("PRAGMA user_version"), number("SELECT count(*) FROM members"));
        assert_eq!((version, members), (2, 2), "for who wants to go back");
        drop(store);
        drop(Store::open(&path).unwrap());
        assert!(!dir.path().join("lanyard.db.v5").exists(), "only when something is taken over");

        // Such a copy has no log, and misses none when it is put back.
        let back = dir.path().join("back.db");
        copy_whole(&Connection::open(&path).unwrap(), &back).unwrap();
        let mut store = Store::open(&back).unwrap();
        assert_eq!((store.load().unwrap().members.len(), store.problems().all()), (2, Vec::new()));
    }
}
