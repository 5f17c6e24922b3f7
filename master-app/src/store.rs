//! The master's memory on disk: roster, refusals, catalogue, links, in one SQLite file with one
//! writer.
//!
//! Everything of one [`Store::apply`] is there after it returns, or nothing is (WAL,
//! `synchronous=FULL`). Approvals and refusals are kept a second time ([`roster_backup`]). A
//! damaged file is made anew from that copy ([`recovery`]).

#![expect(clippy::disallowed_methods, reason = "the database, in the program's own folder")]

pub(crate) mod audit_log;
#[cfg(test)]
mod damage;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod power;
mod recovery;
mod roster_backup;
mod rows;
mod schema;

use std::path::{Path, PathBuf};

use lanyard_hub::authority::{SavedState, StoreWrite};
use lanyard_system::clock::now_ms;
use lanyard_system::private_file::PrivateFileError;
use rusqlite::{Connection, TransactionBehavior};

pub(crate) use error::{StoreError, TransientStoreError};

use crate::problems::{self, ActiveProblem, ProblemList};
use error::{corrupt, is_broken_file, is_strange_content};
use recovery::RescuedFiles;
use roster_backup::{BackupFound, Copy, RosterBackup};
use rows::{apply_one, read_all, read_number, run};
use schema::{
    APPLICATION_ID, SCHEMA_VERSION, StoreOpening, begin, connect, copy_whole, make_private,
};

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

/// The open file.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    path: PathBuf,
    /// State that was read while opening.
    loaded: Option<SavedState>,
    copy: Copy,
    problems: ProblemList,
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

#[cfg(test)]
mod tests;
