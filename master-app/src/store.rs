//! The master's memory on disk: roster, refusals, catalogue, links, in one SQLite file with one writer.
//!
//! Everything of one [`Store::apply`] is there after it returns, or nothing is (WAL, `synchronous=FULL`).

#![expect(clippy::disallowed_methods, reason = "the database, in the program's own folder")]

use std::path::{Path, PathBuf};

use lanyard_hub::authority::{Change, LinkRecord, Listing, Member, Saved, Verdict};
use lanyard_protocol::{
    Client, DeviceId, DeviceKind, EntryKind, FileEntry, FileId, FileRef, Instance, LinkHash, PublicKey, Root,
};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, ErrorCode, Row, Transaction, params};
use uuid::Uuid;

/// "LANY": says whose file this is.
const APPLICATION_ID: i64 = 0x4c41_4e59;
const SCHEMA_VERSION: i64 = 2;
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
CREATE TABLE links (
    hash BLOB PRIMARY KEY, maker BLOB NOT NULL, name TEXT, used_ms INTEGER NOT NULL, files BLOB NOT NULL
) WITHOUT ROWID, STRICT;
";

/// Why the master's memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot make {}: {source}; check that the folder belongs to you and has room", path.display())]
    Make { path: PathBuf, source: std::io::Error },
    #[error("cannot open {}: {source}; check that the folder belongs to you and has room", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error(
        "{} is damaged ({why}); restore it from a backup, or move it away to begin with nobody approved and nothing listed",
        path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error("{} was written by a newer Lanyard (schema {found}); start that one", path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error("this build holds SQLite {found}; 3.51.3 or newer is needed to keep what is promised")]
    OldSqlite { found: &'static str },
    #[error("cannot write {}: {source}; check that the disk has room", path.display())]
    Write { path: PathBuf, source: rusqlite::Error },
    #[error("get randomness from the system: {0}")]
    Randomness(#[from] getrandom::Error),
}

/// The open file.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens or makes the file at `path`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            return Err(StoreError::OldSqlite { found: rusqlite::version() });
        }
        make_private(path).map_err(|source| StoreError::Make { path: path.into(), source })?;
        let connection = Connection::open(path).map_err(|source| StoreError::Open { path: path.into(), source })?;
        let mut store = Self { connection, path: path.into() };
        store.prepare().map_err(|error| store.opening_failed(error))?;
        store.check_version()?;
        let mut random = [0u8; 8];
        getrandom::fill(&mut random)?;
        // Never 0: that says "I hold nothing".
        let epoch = (u64::from_le_bytes(random) >> 12).max(1);
        store.begin(epoch).map_err(|source| store.writing_failed(source))?;
        Ok(store)
    }

    fn prepare(&self) -> Result<(), rusqlite::Error> {
        // There is one writer; whoever else looks in is soon done.
        self.connection.busy_timeout(std::time::Duration::from_secs(1))?;
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.pragma_update(None, "foreign_keys", "ON")?;
        let verdict: String = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict == "ok" { Ok(()) } else { Err(corrupt(verdict)) }
    }

    fn check_version(&self) -> Result<(), StoreError> {
        let number = |name: &str| {
            self.connection
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                .map_err(|error| self.opening_failed(error))
        };
        let (application, version) = (number("application_id")?, number("user_version")?);
        if version > SCHEMA_VERSION {
            return Err(StoreError::Newer { path: self.path.clone(), found: version });
        }
        if version != 0 && application != APPLICATION_ID {
            return Err(StoreError::Damaged { path: self.path.clone(), why: "it is another program's".into() });
        }
        Ok(())
    }

    /// Makes the tables in a new file, and brings those of an older one up to date.
    fn begin(&mut self, epoch: u64) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.transaction()?;
        let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction.execute("INSERT INTO numbers VALUES ('epoch', ?1), ('revision', 0), ('term', 0)", [epoch])?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        if version == 1 {
            transaction.execute_batch("ALTER TABLE members ADD COLUMN until_ms INTEGER")?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        transaction.commit()
    }

    /// All that is on disk.
    pub fn load(&self) -> Result<Saved, StoreError> {
        self.read_all().map_err(|error| self.opening_failed(error))
    }

    fn read_all(&self) -> Result<Saved, rusqlite::Error> {
        let c = &self.connection;
        let number =
            |name: &str| c.query_row("SELECT value FROM numbers WHERE name = ?1", [name], |row| row.get::<_, u64>(0));
        let rows = |sql: &str| c.prepare(sql);
        Ok(Saved {
            epoch: number("epoch")?,
            revision: number("revision")?,
            members: rows("SELECT * FROM members")?.query_map([], member_of)?.collect::<Result<_, _>>()?,
            files: rows("SELECT * FROM files")?.query_map([], listing_of)?.collect::<Result<_, _>>()?,
            links: rows("SELECT * FROM links")?.query_map([], link_of)?.collect::<Result<_, _>>()?,
        })
    }

    /// Everything or nothing, and on the disk when this returns.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut write = || {
            let transaction = self.connection.transaction()?;
            for change in changes {
                apply_one(&transaction, change)?;
            }
            transaction.commit()
        };
        write().map_err(|source| StoreError::Write { path: self.path.clone(), source })
    }

    /// A term higher than any before, on disk when this returns. `at_least` jumps ahead when a relay has seen higher
    /// ones: the file was restored from a backup.
    pub fn next_term(&mut self, at_least: u64) -> Result<u64, StoreError> {
        self.connection
            .query_row(
                "UPDATE numbers SET value = max(value + 1, ?1) WHERE name = 'term' RETURNING value",
                [at_least],
                |row| row.get(0),
            )
            .map_err(|source| self.writing_failed(source))
    }

    fn writing_failed(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Write { path: self.path.clone(), source }
    }

    fn opening_failed(&self, error: rusqlite::Error) -> StoreError {
        let path = self.path.clone();
        let is_damage = match &error {
            rusqlite::Error::SqliteFailure(failure, _) => {
                matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            }
            // A row of a shape that this program does not write.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::QueryReturnedNoRows => true,
            _ => false,
        };
        if is_damage {
            StoreError::Damaged { path, why: error.to_string() }
        } else {
            StoreError::Open { path, source: error }
        }
    }
}

/// Makes the file before SQLite does, for its owner alone; what SQLite puts beside it follows its mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn corrupt(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(why))
}

fn apply_one(db: &Transaction, change: &Change) -> Result<(), rusqlite::Error> {
    match change {
        Change::Revision(revision) => run(db, "UPDATE numbers SET value = ?1 WHERE name = 'revision'", [*revision]),
        Change::MemberPut(member) => put_member(db, member),
        Change::MemberGone(id) => run(db, "DELETE FROM members WHERE public_id = ?1", [blob(id)]),
        Change::FilesPut { files, revision } => files.iter().try_for_each(|entry| put_file(db, entry, *revision)),
        Change::FilesWithdrawn { public_id, file_ids, revision, at_ms } => file_ids.iter().try_for_each(|file_id| {
            let sql = "UPDATE files SET withdrawn_ms = ?3, revision = ?4 WHERE public_id = ?1 AND file_id = ?2";
            run(db, sql, params![blob(public_id), file_id.0.as_bytes(), at_ms, revision])
        }),
        Change::SessionWithdrawn { session, revision, at_ms } => {
            let sql = "UPDATE files SET withdrawn_ms = ?3, revision = ?4
                       WHERE public_id = ?1 AND instance = ?2 AND withdrawn_ms IS NULL";
            run(db, sql, params![blob(&session.public_id), session.instance.0, at_ms, revision])
        }
        Change::FilesGone { public_id, file_ids } => file_ids.iter().try_for_each(|file_id| {
            let sql = "DELETE FROM files WHERE public_id = ?1 AND file_id = ?2";
            run(db, sql, params![blob(public_id), file_id.0.as_bytes()])
        }),
        Change::BelongingsGone(id) => {
            run(db, "DELETE FROM files WHERE public_id = ?1", [blob(id)])?;
            run(db, "DELETE FROM links WHERE maker = ?1", [blob(id)])
        }
        Change::RootKnown { file, root, revision } => {
            let sql = "UPDATE files SET root = ?3, revision = ?4 WHERE public_id = ?1 AND file_id = ?2";
            run(db, sql, params![blob(&file.public_id), file.file_id.0.as_bytes(), root.0, revision])
        }
        Change::LinkPut(link) => put_link(db, link),
        Change::LinkUsed { hash, used_ms } => {
            run(db, "UPDATE links SET used_ms = ?2 WHERE hash = ?1", params![hash.0, used_ms])
        }
        Change::LinkGone(hash) => run(db, "DELETE FROM links WHERE hash = ?1", [hash.0]),
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
    let files: Vec<u8> =
        link.files.iter().flat_map(|f| [*f.public_id.0.as_bytes(), *f.file_id.0.as_bytes()].concat()).collect();
    run(
        db,
        "INSERT OR REPLACE INTO links VALUES (?1, ?2, ?3, ?4, ?5)",
        params![link.hash.0, blob(&link.maker), link.name, link.used_ms, files],
    )
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

struct Kind(DeviceKind);

impl FromSql for Kind {
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
        kind: row.get::<_, Kind>("kind")?.0,
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

fn listing_of(row: &Row) -> Result<Listing, rusqlite::Error> {
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
    Ok(Listing { entry, revision: row.get("revision")?, withdrawn_ms: row.get("withdrawn_ms")? })
}

fn link_of(row: &Row) -> Result<LinkRecord, rusqlite::Error> {
    let bytes: Vec<u8> = row.get("files")?;
    let id = |bytes: &[u8]| Uuid::from_slice(bytes).unwrap_or_default();
    let files = bytes
        .chunks_exact(32)
        .map(|pair| FileRef { public_id: DeviceId(id(&pair[..16])), file_id: FileId(id(&pair[16..])) })
        .collect();
    Ok(LinkRecord {
        hash: LinkHash(row.get("hash")?),
        maker: device(row, "maker")?,
        name: row.get("name")?,
        files,
        used_ms: row.get("used_ms")?,
    })
}

#[cfg(test)]
mod tests {
    //! Promise: what was applied is there after any end of the process, whole; what is broken is said, never replaced.

    use lanyard_protocol::SessionAddress;

    use super::*;

    fn id(n: u8) -> DeviceId {
        DeviceId(Uuid::from_bytes([n; 16]))
    }

    fn file_id(n: u8) -> FileId {
        FileId(Uuid::from_bytes([n; 16]))
    }

    fn member(n: u8, verdict: Verdict) -> Member {
        let client =
            Client { public_id: id(n), name: "Ana’s 📱".into(), kind: DeviceKind::Browser, platform: "".into() };
        Member {
            client,
            public_key: PublicKey([n; 32]),
            verdict,
            revision: 3,
            since_ms: 1_700_000_000_000,
            until_ms: Some(1_800_000_000_000),
        }
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

    fn all_changes() -> Vec<Change> {
        let session = SessionAddress { public_id: id(1), instance: Instance([1; 16]) };
        let file = FileRef { public_id: id(1), file_id: file_id(1) };
        let link = |n: u8| LinkRecord {
            hash: LinkHash([n; 32]),
            maker: id(1),
            name: Some("a.zip".into()),
            files: vec![file, FileRef { public_id: id(2), file_id: file_id(7) }],
            used_ms: 9,
        };
        vec![
            Change::Revision(8),
            Change::MemberPut(member(1, Verdict::Approved)),
            Change::MemberPut(member(2, Verdict::Refused)),
            Change::MemberPut(member(3, Verdict::Refused)),
            Change::MemberGone(id(3)),
            Change::FilesPut { files: (1..=4).map(entry).collect(), revision: 4 },
            Change::FilesGone { public_id: id(1), file_ids: vec![file_id(2)] },
            Change::FilesWithdrawn { public_id: id(1), file_ids: vec![file_id(3)], revision: 6, at_ms: 10 },
            Change::SessionWithdrawn { session, revision: 7, at_ms: 11 },
            Change::RootKnown { file, root: Root([5; 32]), revision: 8 },
            Change::FilesPut { files: vec![entry(4)], revision: 8 },
            Change::LinkPut(link(1)),
            Change::LinkPut(link(2)),
            Change::LinkUsed { hash: LinkHash([1; 32]), used_ms: 20 },
            Change::LinkGone(LinkHash([2; 32])),
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
        assert_eq!(saved.members, vec![member(1, Verdict::Approved), member(2, Verdict::Refused)]);
        let rooted = FileEntry { root: Some(Root([5; 32])), ..entry(1) };
        assert_eq!(
            saved.files,
            vec![
                Listing { entry: rooted, revision: 8, withdrawn_ms: Some(11) },
                Listing { entry: entry(3), revision: 6, withdrawn_ms: Some(10) },
                Listing { entry: entry(4), revision: 8, withdrawn_ms: None },
            ]
        );
        assert_eq!((saved.links.len(), saved.links[0].used_ms, saved.links[0].files.len()), (1, 20, 2));
    }

    #[test]
    fn a_device_that_was_turned_away_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("lanyard.db")).unwrap();
        store.apply(&all_changes()).unwrap();
        store.apply(&[Change::BelongingsGone(id(1))]).unwrap();
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
    fn a_damaged_or_newer_file_is_said_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lanyard.db");
        let rubbish = vec![b'x'; 8_192];
        std::fs::write(&path, &rubbish).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Damaged { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), rubbish);
        std::fs::remove_file(&path).unwrap();
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 99, .. })));
    }
}
