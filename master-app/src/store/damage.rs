//! Promise: whatever happens to the database's bytes, the hub starts; who was refused stays
//! refused; who was let in stays let in where the second copy is whole; the damaged file is kept,
//! and the person is told.

use std::collections::BTreeMap;

use lanyard_hub::authority::{AuditEvent, Member, SavedState, Verdict};
use lanyard_protocol::DeviceId;

use super::fixture::*;
use super::*;
use crate::store::audit_log::Audit;

const PAGE: usize = 4_096;

/// A hub with a history: what it holds, and its disk.
struct History {
    saved: SavedState,
    disk: DiskImage,
    term: u64,
}

fn verdict(n: u8) -> Verdict {
    if n.is_multiple_of(3) { Verdict::Refused } else { Verdict::Approved }
}

/// Most of it is in the database itself, the last decision in the log beside it.
fn history() -> History {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let members = |range: std::ops::RangeInclusive<u8>| {
        range.map(|n| StoreWrite::MemberPut(member(n, verdict(n))))
    };
    let mut changes: Vec<StoreWrite> = members(1..=60).collect();
    for owner in [1, 2, 4] {
        changes.push(StoreWrite::FilesPut { files: files(owner, 60), revision: 3 });
        changes.push(StoreWrite::LinkPut(link(owner)));
    }
    changes.push(StoreWrite::Revision(3));
    store.apply(&changes).unwrap();
    store.apply(&[StoreWrite::MemberGone(id(60))]).unwrap();
    store.next_term(0).unwrap();
    let other = connect(&dir.path().join(DB)).unwrap();
    other.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    store.apply(&members(61..=63).collect::<Vec<_>>()).unwrap();
    let term = store.next_term(0).unwrap();
    let refused = (1..=63).filter(|n| verdict(*n) == Verdict::Refused).map(|n| {
        AuditEvent::Refused { client: member(n, Verdict::Refused).client, time_over: false }
    });
    let mut notes: Vec<AuditEvent> = refused.collect();
    notes.push(AuditEvent::Forgotten { public_id: id(60) });
    Audit::open(dir.path())
        .unwrap()
        .write(store.load().unwrap().members[0].since_ms, &notes)
        .unwrap();
    History { saved: store.load().unwrap(), disk: DiskImage::of(dir.path()), term }
}

impl History {
    /// Opens a disk that was damaged, and looks at all that was promised. Returns whether it was
    /// made anew.
    fn survives(&self, what: &str, damaged: &DiskImage) -> bool {
        let dir = damaged.lay_out();
        let mut store =
            Store::open(&dir.path().join(DB)).unwrap_or_else(|error| panic!("{what}: {error}"));
        let saved = store.load().unwrap();
        let (before, after) = (roster(&self.saved), roster(&saved));
        for (id, member) in &before {
            let now = after.get(id).map(|member| member.verdict);
            match member.verdict {
                Verdict::Refused => {
                    assert_eq!(now, Some(Verdict::Refused), "{what}: a refusal was forgotten")
                }
                Verdict::Approved => assert_ne!(now, Some(Verdict::Refused), "{what}"),
            }
        }
        assert!(after.keys().all(|id| before.contains_key(id)), "{what}: somebody came in");
        if damaged.0.get(COPY) == self.disk.0.get(COPY) {
            assert!(after == before, "{what}: the copy was whole");
        }
        assert!(store.next_term(0).unwrap() > self.term, "{what}");
        let problems = store.problems().all();
        match problems.iter().find(|problem| problem.code == problems::DATABASE_REBUILT) {
            Some(problem) => self.was_made_anew(what, damaged, &saved, problem, dir.path()),
            None => assert!(
                saved.epoch == self.saved.epoch && after == before,
                "{what}: nothing was told"
            ),
        }
        drop(store);
        let again = Store::open(&dir.path().join(DB)).unwrap();
        assert!(again.problems().all().is_empty(), "{what}: it is sound from now on");
        !problems.is_empty()
    }

    fn was_made_anew(
        &self,
        what: &str,
        damaged: &DiskImage,
        saved: &SavedState,
        problem: &ActiveProblem,
        dir: &Path,
    ) {
        assert_ne!(saved.epoch, self.saved.epoch, "{what}: cursors must not go on");
        assert!(saved.files.is_empty(), "{what}");
        assert!(saved.members.iter().all(|member| member.revision <= saved.revision), "{what}");
        let aside = DiskImage::of(dir).0;
        let aside: BTreeMap<_, _> =
            aside.iter().filter(|(name, _)| name.contains(".damaged-")).collect();
        if let Some(bytes) = damaged.0.get(DB) {
            let (name, _) = aside
                .iter()
                .find(|(_, kept)| **kept == bytes)
                .expect("the old file is kept as it was");
            assert!(problem.advice.contains(name.as_str()), "{what}: {}", problem.advice);
        }
    }

    /// The damages, with a whole copy and without one.
    fn survives_with_and_without_copy(&self, what: &str, damaged: &DiskImage) -> bool {
        let mut torn = self.disk.file(COPY).to_vec();
        torn.truncate(torn.len() / 2);
        let alone = [damaged.with(COPY, torn), damaged.without(COPY)];
        for disk in &alone {
            self.survives(&format!("{what}, no copy"), disk);
        }
        self.survives(what, damaged)
    }
}

/// Bytes that look like chance and are the same each time.
fn noise(seed: usize, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_page_of_noise_anywhere_costs_no_decision() {
    let history = history();
    let bytes = history.disk.file(DB);
    let pages = bytes.len() / PAGE;
    assert!(pages > 10, "{pages}");
    let anew = (0..pages).filter(|page| {
        let mut damaged = bytes.to_vec();
        damaged[page * PAGE..][..PAGE].copy_from_slice(&noise(*page, PAGE));
        history.survives_with_and_without_copy(
            &format!("page {page}"),
            &history.disk.with(DB, damaged),
        )
    });
    // Pages that the log holds anew are read from there.
    assert!(anew.count() > pages / 2);
}

#[test]
fn a_few_bytes_of_noise_anywhere_cost_no_decision() {
    let history = history();
    let bytes = history.disk.file(DB);
    for place in (100..bytes.len() - 16).step_by(1_777) {
        let mut damaged = bytes.to_vec();
        damaged[place..place + 16].copy_from_slice(&noise(place, 16));
        // What a row says may be changed without a sign; whom it is about and how that was decided
        // may not.
        let dir = history.disk.with(DB, damaged).lay_out();
        let mut store = open(dir.path());
        assert!(roster(&store.load().unwrap()) == roster(&history.saved), "at {place}");
    }
}

#[test]
fn a_log_that_is_changed_cut_off_or_gone_costs_no_decision() {
    let history = history();
    let wal = history.disk.file(WAL);
    for place in (0..wal.len()).step_by(997) {
        let cut = history.disk.with(WAL, wal[..place].to_vec());
        history.survives(&format!("the log cut off at {place}"), &cut);
        let mut changed = wal.to_vec();
        changed[place] ^= 0x55;
        history.survives(&format!("the log changed at {place}"), &history.disk.with(WAL, changed));
    }
    assert!(history.survives_with_and_without_copy("no log", &history.disk.without(WAL)));
}

#[test]
fn a_database_that_is_cut_off_empty_rubbish_or_gone_costs_no_decision() {
    let history = history();
    let bytes = history.disk.file(DB);
    for length in
        [0, 1, 99, 512, PAGE, PAGE + 1, bytes.len() / 2, bytes.len() - PAGE, bytes.len() - 1]
    {
        let cut = history.disk.with(DB, bytes[..length].to_vec());
        history.survives_with_and_without_copy(&format!("cut off at {length}"), &cut);
        history.survives_with_and_without_copy(
            &format!("cut off at {length}, no log"),
            &cut.without(WAL),
        );
    }
    let rubbish = history.disk.with(DB, b"this is a letter to my aunt\n".repeat(500));
    assert!(history.survives_with_and_without_copy("a letter", &rubbish));
    assert!(history.survives("gone", &history.disk.without(DB)));
    assert!(history.survives("gone with its log", &history.disk.without(DB).without(WAL)));
}

#[test]
fn a_sound_file_that_says_something_else_is_not_believed() {
    let history = history();
    let changes = [
        ("a refusal turned over", "UPDATE members SET refused = 0 WHERE refused = 1"),
        ("a refusal taken out", "DELETE FROM members WHERE refused = 1"),
        ("an end taken away", "UPDATE members SET until_ms = NULL"),
        ("an id of another length", "UPDATE files SET instance = x'00'"),
        ("a kind that there is not", "UPDATE members SET kind = 9"),
        ("a number gone", "DELETE FROM numbers WHERE name = 'epoch'"),
        ("a table gone", "DROP TABLE links"),
        (
            "all tables gone",
            "DROP TABLE links; DROP TABLE files; DROP TABLE members; DROP TABLE numbers",
        ),
        ("another mark", "PRAGMA application_id = 5"),
        ("no mark", "PRAGMA application_id = 0; PRAGMA user_version = 0"),
    ];
    for (what, sql) in changes {
        let dir = history.disk.lay_out();
        connect(&dir.path().join(DB)).unwrap().execute_batch(sql).unwrap();
        assert!(history.survives(what, &DiskImage::of(dir.path())), "{what}");
    }
}

/// Told while the copy could not be written, and damaged before it was: the record has the refusal.
#[test]
fn a_refusal_that_the_copy_missed_holds_by_the_record() {
    let history = history();
    let dir = history.disk.lay_out();
    let refused =
        AuditEvent::Refused { client: member(1, Verdict::Approved).client, time_over: false };
    Audit::open(dir.path()).unwrap().write(now_ms(), &[refused]).unwrap();
    std::fs::write(dir.path().join(DB), noise(5, 3 * PAGE)).unwrap();
    let after = roster(&open(dir.path()).load().unwrap());
    assert_eq!(after[&id(1)].verdict, Verdict::Refused);
    let others = |members: &BTreeMap<DeviceId, Member>| {
        members.values().filter(|&m| m.client.public_id != id(1)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(others(&after), others(&roster(&history.saved)), "nobody else is touched");
}

#[test]
fn links_that_can_be_read_go_on_and_those_of_the_refused_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let members =
        [member(1, Verdict::Approved), member(2, Verdict::Refused)].map(StoreWrite::MemberPut);
    store.apply(&members).unwrap();
    store.apply(&[StoreWrite::LinkPut(link(1)), StoreWrite::LinkPut(link(2))]).unwrap();
    store.connection.execute_batch("DROP TABLE files").unwrap();
    drop(store);
    let mut store = open(dir.path());
    assert_eq!(store.load().unwrap().links, [link(1)]);
    let told = &store.problems().all()[0];
    assert!(told.what.contains("1 device, 1 refusal and 1 link"), "{}", told.what);
}

#[test]
fn a_torn_copy_beside_a_sound_database_is_written_anew() {
    let history = history();
    for bytes in [Vec::new(), b"{}".to_vec(), noise(1, 300)] {
        let dir = history.disk.with(COPY, bytes).lay_out();
        let mut store = open(dir.path());
        assert_eq!(
            (store.load().unwrap(), store.problems().all()),
            (history.saved.clone(), Vec::new())
        );
        assert!(
            matches!(roster_backup::read(&dir.path().join(DB)), BackupFound::Whole(copy) if copy.members == roster(&history.saved))
        );
    }
}

#[test]
fn a_copy_that_cannot_be_written_holds_no_decision_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let copy = dir.path().join(COPY);
    std::fs::remove_file(&copy).unwrap();
    std::fs::create_dir(&copy).unwrap();
    store.apply(&[StoreWrite::MemberPut(member(1, Verdict::Refused))]).unwrap();
    assert_eq!(store.problems().all()[0].code, problems::ROSTER_COPY);
    std::fs::remove_dir(&copy).unwrap();
    store.apply(&[StoreWrite::Revision(1)]).unwrap();
    assert!(store.problems().all().is_empty());
    assert!(
        matches!(roster_backup::read(&dir.path().join(DB)), BackupFound::Whole(copy) if copy.members.len() == 1)
    );
}

#[test]
fn a_damaged_database_stays_in_its_place_until_the_copy_is_good() {
    let dir = history().disk.without(COPY).with(DB, noise(3, 3 * PAGE)).lay_out();
    std::fs::create_dir(dir.path().join(COPY)).unwrap();
    assert!(matches!(Store::open(&dir.path().join(DB)), Err(StoreError::Copy(_))));
    std::fs::remove_dir(dir.path().join(COPY)).unwrap();
    assert_eq!(DiskImage::of(dir.path()).file(DB), noise(3, 3 * PAGE));
}

/// The copy is good before anything is moved, so each step can be the last.
#[test]
fn a_power_cut_while_it_is_made_anew_costs_no_decision() {
    let history = history();
    let mut damaged = history.disk.file(DB).to_vec();
    damaged[..PAGE].copy_from_slice(&noise(7, PAGE));
    let damaged = history.disk.with(DB, damaged);
    let dir = damaged.lay_out();
    let rescued = recovery::rescue(&dir.path().join(DB), roster_backup::read(&dir.path().join(DB)));
    Copy::of(&dir.path().join(DB), rescued.roster.clone()).write().unwrap();
    let copied = DiskImage::of(dir.path());
    let moved = copied.without(DB);
    // Each step of the new file's first transaction, from nothing to a log that is nearly whole.
    let fresh = moved.without(WAL).lay_out();
    drop(open(fresh.path()));
    let fresh = DiskImage::of(fresh.path());
    let mut steps = vec![copied.clone(), copied.without(WAL), moved.clone(), moved.without(WAL)];
    steps.push(moved.without(WAL).with(DB, Vec::new()));
    let wal = fresh.file(WAL);
    for length in (0..wal.len()).step_by(2_000) {
        steps.push(copied.with(DB, fresh.file(DB).to_vec()).with(WAL, wal[..length].to_vec()));
    }
    for (n, step) in steps.iter().enumerate() {
        let dir = step.lay_out();
        let saved = open(dir.path()).load().unwrap();
        assert!(roster(&saved) == roster(&history.saved), "step {n}");
        assert_ne!(saved.epoch, history.saved.epoch);
    }
}
