//! No circle of modules within a crate: each part can be read before what is built from it.
//!
//! Modules use each other by paths from `crate::` and `super::`. A parent and what is below it
//! belong together, so paths between them do not count. A name that a module passes on with
//! `pub use` leads to where the name is defined.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Kind, Source, sources};
use crate::{Offence, ratchet};

type Path = Vec<String>;

#[derive(Default)]
struct Crate {
    /// Each module with its file and the paths that it names.
    modules: BTreeMap<Path, Module>,
}

#[derive(Default)]
struct Module {
    file: String,
    paths: BTreeSet<Path>,
    /// Names that the module passes on, with where they lead.
    passed_on: BTreeMap<String, Path>,
}

/// The module that a file below `src/` is, or none for the files of tests.
fn module_of(below_src: &str) -> Option<Path> {
    let mut path: Path = below_src.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    if path.iter().any(|part| part == "tests") || path.first().is_some_and(|part| part == "bin") {
        return None;
    }
    if path.last().is_some_and(|last| last == "mod")
        || (path.len() == 1 && matches!(&*path[0], "lib" | "main"))
    {
        path.pop();
    }
    Some(path)
}

/// Takes out comments and what stands behind the first `#[cfg(test)]` at the file's own level.
fn product_code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]").next().unwrap_or(text);
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// Splits code into identifiers and the signs of paths.
fn tokens(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            let mut word = String::from(c);
            while let Some(next) = chars.next_if(|next| next.is_alphanumeric() || *next == '_') {
                word.push(next);
            }
            found.push(word);
        } else if c == ':' && chars.next_if_eq(&':').is_some() {
            found.push("::".to_owned());
        } else if !c.is_whitespace() {
            found.push(c.to_string());
        }
    }
    found
}

/// Reads one path or tree of paths behind `prefix`, and returns where the reading ended.
fn read_path(tokens: &[String], mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    let next = read_path(tokens, at, &path, found);
                    at = next.max(at + 1);
                    if tokens.get(at).is_some_and(|token| token == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some("self") => {}
            Some("super") => drop(path.pop()),
            Some(word) if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(word.to_owned());
            }
            _ => {
                found.push(path);
                return at;
            }
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            if tokens.get(at).is_some_and(|token| token == "as") {
                at += 2;
            }
            found.push(path);
            return at;
        }
        at += 1;
    }
}

/// Returns every path from `crate::`, `super::` or `self::`, as seen from the crate's root.
fn read_module(file: &str, own: &[String], code: &str) -> Module {
    let tokens = tokens(code);
    let mut module = Module { file: file.to_owned(), ..Module::default() };
    let mut passing = false;
    let mut at = 0;
    while at < tokens.len() {
        let begins = tokens.get(at + 1).is_some_and(|next| next == "::")
            && (at == 0 || tokens[at - 1] != "::");
        let word = tokens[at].as_str();
        if word == "use" {
            passing = at > 0 && matches!(&*tokens[at - 1], "pub" | ")");
        } else if word == ";" {
            passing = false;
        }
        let child = passing && tokens[at - 1] == "use" && word != "crate";
        if !begins || !matches!(word, "crate" | "super" | "self") && !child {
            at += 1;
            continue;
        }
        let start = if word == "crate" { at + 2 } else { at };
        let prefix = if word == "crate" { &[] } else { own };
        let mut found = Vec::new();
        at = read_path(&tokens, start, prefix, &mut found);
        for path in found {
            if let (true, Some(name)) = (passing, path.last()) {
                module.passed_on.insert(name.clone(), path.clone());
            }
            module.paths.insert(path);
        }
    }
    module
}

impl Crate {
    /// The module that defines what `path` names: the longest that fits, behind names passed on.
    fn resolve(&self, path: &[String], depth: usize) -> Path {
        let mut end = path.len();
        while !self.modules.contains_key(&path[..end]) {
            if end == 0 {
                return Path::new();
            }
            end -= 1;
        }
        let here = path[..end].to_vec();
        let passed_on = path.get(end).and_then(|name| self.modules[&here].passed_on.get(name));
        match passed_on {
            Some(target) if depth < 8 && target.as_slice() != path => {
                let mut target = target.clone();
                target.extend_from_slice(&path[end + 1..]);
                self.resolve(&target, depth + 1)
            }
            _ => here,
        }
    }

    fn edges(&self) -> BTreeMap<&Path, BTreeSet<Path>> {
        let kin = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
        let edges = self.modules.iter().map(|(own, module)| {
            let targets = module.paths.iter().map(|path| self.resolve(path, 0));
            (own, targets.filter(|target| !kin(own, target)).collect())
        });
        edges.collect()
    }

    /// Returns each module that reaches itself, with those of its circle.
    fn in_circles(&self) -> Vec<Offence> {
        let edges = self.edges();
        let reach: BTreeMap<&Path, BTreeSet<Path>> =
            edges.keys().map(|own| (*own, reachable(&edges, own))).collect();
        let mut offences = Vec::new();
        for (own, reached) in &reach {
            if !reached.contains(*own) {
                continue;
            }
            let circle = reached.iter().filter(|other| reach[other].contains(*own));
            let names: Vec<_> = circle.map(|other| other.join("::")).collect();
            let path = self.modules[*own].file.clone();
            let text = format!("is in a circle: {}", names.join(", "));
            offences.push(Offence { path, line: 1, text });
        }
        offences
    }
}

fn reachable(edges: &BTreeMap<&Path, BTreeSet<Path>>, from: &Path) -> BTreeSet<Path> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(own) = open.pop() {
        for next in &edges[own] {
            if reached.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    reached
}

fn circles(sources: &[Source]) -> Vec<Offence> {
    let mut crates: BTreeMap<&str, Crate> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.kind() == Kind::Rust) {
        let Some((name, below)) = source.path.split_once("/src/") else { continue };
        let Some(own) = module_of(below) else { continue };
        let module = read_module(&source.path, &own, &product_code(&source.text));
        crates.entry(name).or_default().modules.insert(own, module);
    }
    crates.values().flat_map(Crate::in_circles).collect()
}

#[test]
fn no_modules_of_a_crate_use_each_other_in_a_circle() {
    ratchet::hold("circles", &circles(&sources()));
}

#[cfg(test)]
fn files(files: &[(&str, &str)]) -> Vec<String> {
    let source =
        |(path, text): &(&str, &str)| Source { path: (*path).to_owned(), text: (*text).to_owned() };
    let sources: Vec<_> = files.iter().map(source).collect();
    circles(&sources).into_iter().map(|offence| offence.path).collect()
}

#[test]
fn a_circle_of_three_modules_is_found_through_trees_of_paths() {
    let chain = [
        ("x/src/lib.rs", "mod a;\nmod b;\nmod c;\n"),
        ("x/src/a.rs", "use crate::{b::{B, more::M}, c};\n"),
        ("x/src/b.rs", "fn f() { crate::c::g() }\n"),
        ("x/src/c.rs", "// use crate::a::A;\nfn g() {}\n#[cfg(test)]\nmod t { use crate::a; }\n"),
    ];
    assert!(files(&chain).is_empty());
    let mut circle = chain;
    circle[3].1 = "use super::a::A;\n";
    assert_eq!(files(&circle), ["x/src/a.rs", "x/src/b.rs", "x/src/c.rs"]);
}

#[test]
fn a_circle_through_a_name_that_the_root_passes_on_is_found() {
    let circle = [
        ("x/src/lib.rs", "mod a;\nmod b;\npub use a::A;\npub(crate) use crate::b::B as C;\n"),
        ("x/src/a.rs", "use crate::b::B;\npub struct A;\n"),
        ("x/src/b.rs", "fn f(a: crate::A) {}\n"),
    ];
    assert_eq!(files(&circle), ["x/src/a.rs", "x/src/b.rs"]);
}

#[test]
fn a_parent_and_its_children_may_use_each_other() {
    let family = [
        ("x/src/lib.rs", "mod a;\n"),
        ("x/src/a.rs", "mod b;\nuse crate::a::b::B;\n"),
        ("x/src/a/b.rs", "use super::A;\nuse crate::a::A2;\n"),
    ];
    assert!(files(&family).is_empty());
}
