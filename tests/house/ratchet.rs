//! Allowances: how many of each offence each area may still have.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::Offence;
use crate::tree::area_of;

type Counts = BTreeMap<(String, String), usize>;

/// The checks run in parallel and share one file.
static FILE: Mutex<()> = Mutex::new(());

const HEAD: &str = "# Offences against the house style that an area may still have: check, area, \
                    count.\n# No number here may rise. An area that is not listed may have none.\n";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("house/allowed.txt")
}

fn parse(text: &str) -> Counts {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [check, area, count] = words[..] else { panic!("not `check area count`: {line}") };
            ((check.to_owned(), area.to_owned()), count.parse().unwrap())
        })
        .collect()
}

fn count(check: &str, offences: &[Offence]) -> Counts {
    let mut counts = Counts::new();
    for offence in offences {
        *counts.entry((check.to_owned(), area_of(&offence.path).to_owned())).or_default() += 1;
    }
    counts
}

/// Returns a line for each area that has more than it may.
fn above(allowed: &Counts, counts: &Counts) -> Vec<String> {
    let mut above = Vec::new();
    for ((check, area), count) in counts {
        let allowed = allowed.get(&(check.clone(), area.clone())).copied().unwrap_or(0);
        if *count > allowed {
            above.push(format!("{check}: {area} has {count}, allowed are {allowed}"));
        }
    }
    above
}

/// Returns the allowances of `check` lowered to `counts`; those of other checks stay.
fn lowered(mut allowed: Counts, check: &str, counts: &Counts) -> Counts {
    for (key, value) in &mut allowed {
        if key.0 == check {
            *value = (*value).min(counts.get(key).copied().unwrap_or(0));
        }
    }
    allowed.retain(|_, count| *count > 0);
    allowed
}

/// Panics when an area has more `offences` of this check than it may.
pub(crate) fn hold(check: &str, offences: &[Offence]) {
    let _alone = FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut allowed = parse(&fs::read_to_string(path()).unwrap());
    let counts = count(check, offences);
    if std::env::var_os("LANYARD_BLESS").is_some() {
        allowed = lowered(allowed, check, &counts);
        let mut text = HEAD.to_owned();
        for ((check, area), count) in &allowed {
            writeln!(text, "{check} {area} {count}").unwrap();
        }
        #[expect(clippy::disallowed_methods, reason = "a file of our own source tree")]
        fs::write(path(), text).unwrap();
    }
    for offence in offences {
        println!("{check}: {offence}");
    }
    let above = above(&allowed, &counts);
    assert!(above.is_empty(), "{}", above.join("\n"));
}

#[test]
fn an_area_may_not_have_more_than_it_is_allowed() {
    let allowed = parse("# head\nlines hub 1\n");
    let offence = |path: &str| Offence { path: path.to_owned(), line: 1, text: "long".to_owned() };
    let one = [offence("hub/src/a.rs")];
    assert!(above(&allowed, &count("lines", &one)).is_empty());
    let two = [offence("hub/src/a.rs"), offence("hub/src/b.rs")];
    assert_eq!(above(&allowed, &count("lines", &two)), ["lines: hub has 2, allowed are 1"]);
    let elsewhere = [offence("relay/src/a.rs")];
    assert_eq!(above(&allowed, &count("lines", &elsewhere)), ["lines: relay has 1, allowed are 0"]);
}

#[test]
fn blessing_lowers_an_allowance_and_never_raises_one() {
    let allowed = parse("lines hub 3\nlines relay 3\nlines docs 3\nnames hub 1\n");
    let counts = parse("lines hub 2\nlines relay 9\n");
    assert_eq!(
        lowered(allowed, "lines", &counts),
        parse("lines hub 2\nlines relay 3\nnames hub 1\n"),
    );
}
