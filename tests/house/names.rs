//! A type's name means one thing in the whole workspace.

use std::collections::BTreeMap;

use crate::tree::{Kind, Source, sources};
use crate::{Offence, ratchet};

/// Names that more than one module may define.
const SHARED: [(&str, &str); 8] = [
    ("Input", "what a state machine takes"),
    ("Effect", "what a state machine asks of its driver"),
    ("Timer", "what a state machine waits for"),
    ("Error", "the error of a module"),
    ("State", "the state of a module"),
    ("Anchor", "one per platform: by handle, by path"),
    ("Folder", "one per platform: by handle, by path"),
    ("Listener", "one per platform: Unix sockets, named pipes"),
];

/// The name that a line defines as a type.
fn defined(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if let Some(after) = rest.strip_prefix("pub") {
        rest = match after.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1,
            None => after,
        }
        .trim_start();
    }
    let (keyword, rest) = rest.split_once(' ')?;
    if !matches!(keyword, "struct" | "enum" | "trait") {
        return None;
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let name = &rest[..end];
    name.starts_with(|c: char| c.is_ascii_uppercase()).then_some(name)
}

/// Returns every definition of a name after its first.
fn repeated(sources: &[Source]) -> Vec<Offence> {
    let mut first: BTreeMap<&str, String> = BTreeMap::new();
    let mut offences = Vec::new();
    for source in sources.iter().filter(|source| source.kind() == Kind::Rust) {
        for (index, line) in source.text.lines().enumerate() {
            let Some(name) = defined(line) else { continue };
            if SHARED.iter().any(|(shared, _)| *shared == name) {
                continue;
            }
            let here = format!("{}:{}", source.path, index + 1);
            match first.get(name) {
                None => drop(first.insert(name, here)),
                Some(there) => offences.push(Offence {
                    path: source.path.clone(),
                    line: index + 1,
                    text: format!("`{name}` is defined at {there}, too"),
                }),
            }
        }
    }
    offences
}

#[test]
fn each_type_name_is_defined_once_in_the_workspace() {
    ratchet::hold("names", &repeated(&sources()));
}

#[test]
fn a_second_definition_is_found_whatever_its_visibility_and_kind() {
    let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let twice = [
        source("hub/a.rs", "pub struct Slot {\n}\npub enum Input {}\n"),
        source("relay/b.rs", "mod x {\n    pub(super) enum Slot<T> {}\n}\nenum Input {}\n"),
        source("relay/c.rs", "trait Slot {}\nlet struct_Slot = 1;\n"),
    ];
    let found = repeated(&twice);
    let places: Vec<_> = found.iter().map(|offence| (&*offence.path, offence.line)).collect();
    assert_eq!(places, [("relay/b.rs", 2), ("relay/c.rs", 1)]);
}
