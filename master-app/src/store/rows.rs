//! Rows of the database, read and written.

use lanyard_hub::authority::{
    LinkRecord, LinkTarget, ListedFile, Member, SavedState, StoreWrite, Verdict,
};
use lanyard_protocol::message::LinkFolder;
use lanyard_protocol::{
    Client, DeviceId, DeviceKind, EntryKind, FileEntry, FileId, FileRef, Instance, LinkBinding,
    LinkHash, PublicKey, Root,
};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, Row, Transaction, params};
use uuid::Uuid;

pub(super) fn read_number(connection: &Connection, name: &str) -> Result<u64, rusqlite::Error> {
    connection.query_row("SELECT value FROM numbers WHERE name = ?1", [name], |row| row.get(0))
}

pub(super) fn read_all(connection: &Connection) -> Result<SavedState, rusqlite::Error> {
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

pub(super) fn apply_one(db: &Transaction, change: &StoreWrite) -> Result<(), rusqlite::Error> {
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

pub(super) fn run(
    db: &Transaction,
    sql: &str,
    values: impl rusqlite::Params,
) -> Result<(), rusqlite::Error> {
    db.prepare_cached(sql)?.execute(values).map(drop)
}

pub(super) fn put_member(db: &Transaction, member: &Member) -> Result<(), rusqlite::Error> {
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

pub(super) fn put_file(
    db: &Transaction,
    entry: &FileEntry,
    revision: u64,
) -> Result<(), rusqlite::Error> {
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

pub(super) fn put_link(db: &Transaction, link: &LinkRecord) -> Result<(), rusqlite::Error> {
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

pub(super) fn blob(id: &DeviceId) -> &[u8; 16] {
    id.0.as_bytes()
}

pub(super) fn kind_number(kind: DeviceKind) -> i64 {
    match kind {
        DeviceKind::Browser => 0,
        DeviceKind::Native => 1,
        DeviceKind::Master => 2,
    }
}

pub(super) struct StoredKind(DeviceKind);

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

pub(super) fn device(row: &Row, column: &str) -> Result<DeviceId, rusqlite::Error> {
    Ok(DeviceId(Uuid::from_bytes(row.get(column)?)))
}

pub(super) fn member_of(row: &Row) -> Result<Member, rusqlite::Error> {
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

pub(super) fn listing_of(row: &Row) -> Result<ListedFile, rusqlite::Error> {
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

pub(super) fn link_of(row: &Row) -> Result<LinkRecord, rusqlite::Error> {
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
