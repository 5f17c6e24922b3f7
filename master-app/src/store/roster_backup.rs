//! `roster.json`: a second copy of the decisions beside the database, for the day when the database
//! is damaged.
//!
//! A list of files can be offered anew by its owners; a refusal cannot be asked for again. So who
//! was let in and who was refused is kept twice, with the numbers that may never go back. The copy
//! is replaced whole (a temporary file, synced, renamed, the folder synced) after each commit that
//! decides about somebody, before the decision is told. It carries a checksum, so that a torn or
//! changed one is noticed, and the number of decisions it knows of, so that a database that knows
//! fewer of them is noticed. The database is the truth; the copy may be a step behind it, never
//! ahead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lanyard_hub::authority::{Member, StoreWrite, Verdict};
use lanyard_protocol::{Client, DeviceId, PublicKey};
use lanyard_system::private_file::{self, PrivateFileError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const NAME: &str = "roster.json";
const VERSION: u32 = 1;

/// Contents of the copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RosterBackup {
    /// Commits that decided about somebody; only ever more.
    pub decisions: u64,
    pub revision: u64,
    /// The highest that a relay was shown.
    pub term: u64,
    pub members: BTreeMap<DeviceId, Member>,
}

impl BackupFound {
    pub(super) fn term(&self) -> u64 {
        if let Self::Whole(roster) = self { roster.term } else { 0 }
    }
}

/// The file found in place of the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BackupFound {
    Nothing,
    /// Cut off, changed, or not to be read.
    Torn,
    Whole(RosterBackup),
}

#[derive(Serialize, Deserialize)]
struct SealedBackup<T> {
    /// BLAKE3 of the text of `roster`.
    blake3: String,
    roster: T,
}

#[derive(Serialize, Deserialize)]
struct BackupFile {
    version: u32,
    decisions: u64,
    revision: u64,
    term: u64,
    members: Vec<BackupRow>,
}

#[derive(Serialize, Deserialize)]
struct BackupRow {
    #[serde(flatten)]
    client: Client,
    public_key: PublicKey,
    verdict: BackupVerdict,
    revision: u64,
    since_ms: u64,
    until_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BackupVerdict {
    Approved,
    Refused,
}

/// The copy that goes with an open database.
#[derive(Debug)]
pub(super) struct Copy {
    path: PathBuf,
    pub roster: RosterBackup,
    /// It could not be written: tried again with the next commit of any kind.
    is_due: bool,
}

impl Copy {
    /// The copy beside `database`, for what that holds.
    pub(super) fn of(database: &Path, roster: RosterBackup) -> Self {
        Self { path: path(database), roster, is_due: false }
    }

    /// Takes over what was committed, and writes it if it decides about somebody. A new name alone
    /// waits for the next occasion: devices may change theirs as often as they like.
    pub(super) fn follow(
        &mut self,
        changes: &[StoreWrite],
        decisions: u64,
    ) -> Result<(), PrivateFileError> {
        for change in changes {
            match change {
                StoreWrite::Revision(revision) => self.roster.revision = *revision,
                StoreWrite::MemberPut(member) => {
                    let before =
                        self.roster.members.insert(member.client.public_id, member.clone());
                    self.is_due |=
                        before.is_none_or(|before| decision(&before) != decision(member));
                }
                StoreWrite::MemberGone(id) => {
                    self.is_due |= self.roster.members.remove(id).is_some()
                }
                StoreWrite::FilesPut { .. }
                | StoreWrite::FilesWithdrawn { .. }
                | StoreWrite::FilesGone { .. }
                | StoreWrite::BelongingsGone(_)
                | StoreWrite::RootKnown { .. }
                | StoreWrite::LinkPut(_)
                | StoreWrite::LinkUsed { .. }
                | StoreWrite::LinkGone(_) => {}
            }
        }
        self.roster.decisions = decisions;
        if self.is_due { self.write() } else { Ok(()) }
    }

    /// Replaces the copy; it is on disk when this returns.
    pub(super) fn write(&mut self) -> Result<(), PrivateFileError> {
        self.is_due = true;
        private_file::write(&self.path, &seal(&self.roster))?;
        self.is_due = false;
        Ok(())
    }
}

fn decision(member: &Member) -> (Verdict, Option<u64>, PublicKey) {
    (member.verdict, member.until_ms, member.public_key)
}

pub(super) fn path(database: &Path) -> PathBuf {
    database.with_file_name(NAME)
}

fn seal(roster: &RosterBackup) -> Vec<u8> {
    let row = |member: &Member| BackupRow {
        client: member.client.clone(),
        public_key: member.public_key,
        verdict: if member.verdict == Verdict::Refused {
            BackupVerdict::Refused
        } else {
            BackupVerdict::Approved
        },
        revision: member.revision,
        since_ms: member.since_ms,
        until_ms: member.until_ms,
    };
    let RosterBackup { decisions, revision, term, ref members } = *roster;
    let members = members.values().map(row).collect();
    let text = serde_json::to_string_pretty(&BackupFile {
        version: VERSION,
        decisions,
        revision,
        term,
        members,
    })
    .expect("a roster has string keys and no failing serializers");
    let blake3 = blake3::hash(text.as_bytes()).to_hex().to_string();
    let roster = RawValue::from_string(text).expect("it was made as JSON");
    serde_json::to_vec(&SealedBackup { blake3, roster }).expect("made of JSON")
}

/// The copy beside `database`. One that cannot be read is as good as torn.
pub(super) fn read(database: &Path) -> BackupFound {
    match private_file::read(&path(database)) {
        Ok(None) => BackupFound::Nothing,
        Ok(Some(bytes)) => unseal(&bytes).map_or(BackupFound::Torn, BackupFound::Whole),
        Err(error) => {
            tracing::warn!(%error, "the second copy of the decisions cannot be read");
            BackupFound::Torn
        }
    }
}

fn unseal(bytes: &[u8]) -> Option<RosterBackup> {
    let sealed: SealedBackup<&RawValue> = serde_json::from_slice(bytes).ok()?;
    let text = sealed.roster.get();
    if blake3::hash(text.as_bytes()).to_hex().as_str() != sealed.blake3 {
        return None;
    }
    let written: BackupFile = serde_json::from_str(text).ok()?;
    let member = |row: BackupRow| {
        let verdict = match row.verdict {
            BackupVerdict::Approved => Verdict::Approved,
            BackupVerdict::Refused => Verdict::Refused,
        };
        let BackupRow { client, public_key, revision, since_ms, until_ms, .. } = row;
        (client.public_id, Member { client, public_key, verdict, revision, since_ms, until_ms })
    };
    let BackupFile { version, decisions, revision, term, members } = written;
    let members = members.into_iter().map(member).collect();
    (version == VERSION).then_some(RosterBackup { decisions, revision, term, members })
}

#[cfg(test)]
mod tests {
    //! Promise: a copy is whole or known not to be.

    use super::*;
    use crate::store::fixture::member;

    fn roster() -> RosterBackup {
        let members = [member(1, Verdict::Approved), member(2, Verdict::Refused)];
        let members = members.into_iter().map(|member| (member.client.public_id, member)).collect();
        RosterBackup { decisions: 4, revision: 9, term: 7, members }
    }

    #[test]
    fn a_written_roster_reads_back_and_every_changed_byte_is_noticed() {
        let bytes = seal(&roster());
        assert_eq!(unseal(&bytes), Some(roster()));
        for place in 0..bytes.len() {
            assert_eq!(unseal(&bytes[..place]), None, "cut off at {place}");
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(unseal(&changed), None, "changed at {place}");
        }
    }

    #[test]
    fn a_decision_is_written_at_once_and_a_name_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("lanyard.db");
        let mut copy = Copy::of(&database, RosterBackup::default());
        copy.follow(&[StoreWrite::MemberPut(member(1, Verdict::Approved))], 2).unwrap();
        let BackupFound::Whole(first) = read(&database) else { panic!("it is there") };
        assert_eq!(first, copy.roster);
        let mut renamed = member(1, Verdict::Approved);
        renamed.client.name = "Ben".into();
        copy.follow(&[StoreWrite::MemberPut(renamed)], 3).unwrap();
        assert_eq!(read(&database), BackupFound::Whole(first));
        copy.follow(&[StoreWrite::MemberPut(member(2, Verdict::Refused))], 4).unwrap();
        assert_eq!(read(&database), BackupFound::Whole(copy.roster.clone()));
        assert_eq!(copy.roster.members.values().next().unwrap().client.name, "Ben");
    }

    #[cfg(unix)]
    #[test]
    fn it_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("lanyard.db");
        Copy::of(&database, roster()).write().unwrap();
        assert_eq!(std::fs::metadata(path(&database)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
