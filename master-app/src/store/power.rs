//! Promise: after a power cut at any moment of a decision, all of it is there or nothing of it, and
//! nothing was damaged.

use lanyard_hub::authority::{Member, SavedState, Verdict};

use super::fixture::*;
use super::*;

const FRAME: usize = 4_096 + 24;

/// The disk and what it says before each decision and after the last: approve, refuse with all that
/// one had, forget.
fn decisions() -> Vec<(DiskImage, SavedState)> {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let approved =
        |n, revision| StoreWrite::MemberPut(Member { revision, ..member(n, Verdict::Approved) });
    let refused = StoreWrite::MemberPut(Member {
        revision: 4,
        until_ms: None,
        ..member(1, Verdict::Refused)
    });
    store.apply(&[StoreWrite::Revision(1), approved(2, 1)]).unwrap();
    let steps = [
        vec![StoreWrite::Revision(2), approved(1, 2)],
        vec![
            StoreWrite::Revision(3),
            StoreWrite::FilesPut { files: files(1, 90), revision: 3 },
            StoreWrite::LinkPut(link(1)),
        ],
        vec![StoreWrite::Revision(4), refused, StoreWrite::BelongingsGone(id(1))],
        vec![StoreWrite::MemberGone(id(1))],
        vec![StoreWrite::Revision(5), approved(1, 5)],
    ];
    let mut states = vec![(DiskImage::of(dir.path()), store.load().unwrap())];
    for step in steps {
        store.apply(&step).unwrap();
        states.push((DiskImage::of(dir.path()), store.load().unwrap()));
    }
    states
}

/// Opens it as after a power cut: nothing is damaged then, so nothing is told.
fn after_cut(what: &str, disk: &DiskImage) -> SavedState {
    let dir = disk.lay_out();
    let mut store = open(dir.path());
    assert_eq!(store.problems().all(), [], "{what}");
    let saved = store.load().unwrap();
    let BackupFound::Whole(copy) = roster_backup::read(&dir.path().join(DB)) else {
        panic!("{what}: the copy is whole")
    };
    assert_eq!(copy.members, roster(&saved), "{what}: the copy follows");
    saved
}

#[test]
fn a_power_cut_at_any_byte_of_the_log_leaves_the_state_before_or_after() {
    for (n, pair) in decisions().windows(2).enumerate() {
        let [(disk, before), (next, after)] = pair else { unreachable!("windows of two") };
        let (start, wal) = (disk.file(WAL).len(), next.file(WAL));
        assert!(wal.starts_with(disk.file(WAL)) && wal.len() > start, "the log grows");
        let around = |frame: usize| {
            [start + frame * FRAME, start + frame * FRAME + 24, start + frame * FRAME + 2_000]
        };
        let mut cuts: Vec<usize> = (0..(wal.len() - start) / FRAME).flat_map(around).collect();
        cuts.push(wal.len() - 1);
        for cut in cuts {
            // What was not synced may also be there as noise.
            let torn = disk.with(WAL, wal[..cut].to_vec());
            let noisy = disk.with(WAL, [&wal[..cut], &vec![0xa5; wal.len() - cut]].concat());
            for disk in [torn, noisy] {
                let what = format!("step {n}, cut at {cut}");
                assert!(after_cut(&what, &disk) == *before, "{what}");
            }
        }
        assert!(
            after_cut("whole", &disk.with(WAL, wal.to_vec())) == *after,
            "step {n}: committed, not copied"
        );
    }
}

#[test]
fn a_power_cut_while_the_copy_is_written_leaves_the_decision() {
    for pair in decisions().windows(2) {
        let [(disk, _), (next, after)] = pair else { unreachable!("windows of two") };
        let committed = disk.with(WAL, next.file(WAL).to_vec());
        for cut in [0, 1, next.file(COPY).len() / 2, next.file(COPY).len()] {
            let temporary =
                committed.with("roster.json.0123456789abcdef.tmp", next.file(COPY)[..cut].to_vec());
            assert!(
                after_cut("a temporary file", &temporary) == *after,
                "a temporary file of {cut} bytes"
            );
        }
        assert!(after_cut("copied", next) == *after, "copied");
    }
}

#[test]
fn a_power_cut_while_the_log_is_taken_over_leaves_the_decision() {
    // A page of SQLite has 4 KiB: the cuts of both forms lie between pages and within them.
    let full = std::env::var_os("LANYARD_FULL").is_some_and(|value| value == "1");
    let step = if full { 1_024 } else { 16_384 - 1_024 };
    for (disk, saved) in decisions() {
        let dir = disk.lay_out();
        let other = connect(&dir.path().join(DB)).unwrap();
        other.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).unwrap();
        let taken = std::fs::read(dir.path().join(DB)).unwrap();
        let old = disk.file(DB);
        for cut in (0..=taken.len()).step_by(step) {
            // The first bytes are written, the others are not yet.
            let written = [&taken[..cut], old.get(cut..).unwrap_or_default()].concat();
            let what = format!("taken over up to {cut}");
            assert!(after_cut(&what, &disk.with(DB, written)) == saved, "{what}");
        }
    }
}
