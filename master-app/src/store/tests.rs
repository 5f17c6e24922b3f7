//! Promise: what was applied is there after any end of the process, whole; what is broken is
//! said, never replaced.

use lanyard_hub::authority::{LinkRecord, LinkTarget, ListedFile, Member, Verdict};
use lanyard_protocol::{
    EntryKind, FileEntry, FileId, FileRef, Instance, LinkBinding, LinkHash, Root,
};
use rusqlite::config::DbConfig;
use rusqlite::params;
use uuid::Uuid;

use super::fixture::{id, member};
use super::rows::*;
use super::schema::*;
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
        linked: LinkTarget::Files(vec![file, FileRef { public_id: id(2), file_id: file_id(7) }]),
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
fn applied_writes_are_there_after_opening_again() {
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
        assert!(matches!(Store::open(&path), Err(StoreError::Foreign { .. })), "version {version}");
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
        assert!(saved.links.is_empty(), "nothing binds its links to their makers: they have ended");
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
        let is_refused = matches!(opened, Err(StoreError::Make { .. } | StoreError::Open { .. }));
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
    let without =
        without.concat() + "DELETE FROM numbers WHERE name = 'decisions'; PRAGMA user_version = 2";
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
