//! The tables of the database, and how an older file is brought up to date.

use std::path::{Path, PathBuf};

use lanyard_hub::authority::LinkRecord;
use lanyard_system::private_file;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use super::roster_backup::RosterBackup;
use super::rows::{put_link, put_member};

/// "LANY": says whose file this is.
pub(super) const APPLICATION_ID: i64 = 0x4c41_4e59;

pub(super) const SCHEMA_VERSION: i64 = 5;

pub(super) const SCHEMA: &str = "
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

pub(super) const LINKS_SCHEMA: &str = "
CREATE TABLE links (
    hash BLOB PRIMARY KEY, maker BLOB NOT NULL, name TEXT, used_ms INTEGER NOT NULL, files BLOB NOT NULL,
    made_ms INTEGER NOT NULL DEFAULT 0, folder_owner BLOB, folder_path TEXT, ends_ms INTEGER, uses_left INTEGER,
    binding BLOB NOT NULL
) WITHOUT ROWID, STRICT;
";

/// Contents of a new database.
#[derive(Debug, Default)]
pub(super) struct StoreOpening {
    pub roster: RosterBackup,
    pub links: Vec<LinkRecord>,
}

pub(super) fn begin(
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

pub(super) fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
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
pub(super) fn resolved(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder
        .zip(path.file_name())
        .map_or_else(|| path.to_path_buf(), |(folder, name)| folder.join(name))
}

/// All of an open database as one file at `path`, without a log beside it.
pub(super) fn copy_whole(from: &Connection, path: &Path) -> Result<(), rusqlite::Error> {
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

/// Makes the file before SQLite does, for its owner alone; what SQLite puts beside it follows its
/// mode. Links in their places are refused, and what others may read is narrowed.
pub(super) fn make_private(path: &Path) -> std::io::Result<()> {
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
