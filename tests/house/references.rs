//! Documents and comments name only files that a clone holds.

use crate::comments::blocks_of;
use crate::tree::{Kind, Source, paths, sources};
use crate::{Offence, ratchet};

/// Names that end so are files of the tree when they stand in a document.
const EXTENSIONS: [&str; 10] =
    [".rs", ".ts", ".mjs", ".md", ".py", ".svelte", ".json", ".txt", ".html", ".toml"];

/// Returns the paths that a line of a document names in backticks.
fn quoted(line: &str) -> Vec<&str> {
    let spans = line.split('`').skip(1).step_by(2);
    let names = spans.map(|span| span.split("::").next().unwrap_or(span));
    let is_path = |name: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        name.contains('/')
            && !name.starts_with(['/', '.', '-'])
            && name.chars().all(plain)
            && EXTENSIONS.iter().any(|extension| name.ends_with(extension))
    };
    names.filter(is_path).collect()
}

/// Returns the targets of a line's links, without fragments; addresses are left out.
fn linked(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    files.map(|target| target.split('#').next().unwrap_or(target)).collect()
}

/// Joins a link's target to the folder of its document.
fn resolved(document: &str, target: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn missing(source: &Source, paths: &[String]) -> Vec<Offence> {
    let named =
        |name: &str| paths.iter().any(|path| path == name || path.ends_with(&format!("/{name}")));
    let mut offences = Vec::new();
    let mut miss = |line: usize, name: &str| {
        let text = format!("there is no {name}");
        offences.push(Offence { path: source.path.clone(), line, text });
    };
    if source.kind() == Kind::Markdown {
        for (index, line) in source.text.lines().enumerate() {
            let names = quoted(line).into_iter().filter(|name| !named(name));
            names.for_each(|name| miss(index + 1, name));
            let targets = linked(line).into_iter().map(|target| resolved(&source.path, target));
            let inside = |target: &str| format!("{target}/");
            targets
                .filter(|target| {
                    !paths.iter().any(|path| path == target || path.starts_with(&inside(target)))
                })
                .for_each(|target| miss(index + 1, &target));
        }
        return offences;
    }
    for block in blocks_of(source) {
        let words = block.text.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
        let documents = words.map(|word| word.trim_end_matches('.'));
        let documents = documents.filter(|word| word.ends_with(".md") && *word != ".md");
        documents.filter(|word| !named(word)).for_each(|word| miss(block.line, word));
    }
    offences
}

#[test]
fn documents_and_comments_name_only_files_that_are_there() {
    let paths = paths();
    let offences: Vec<_> = sources().iter().flat_map(|source| missing(source, &paths)).collect();
    ratchet::hold("references", &offences);
}

#[test]
fn a_file_that_is_not_there_is_found_in_quotes_links_and_comments() {
    let paths: Vec<String> =
        ["hub/src/a.rs", "docs/b.md", "tests/deep/run"].map(str::to_owned).into();
    let found = |path: &str, text: &str| -> Vec<String> {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        missing(&source, &paths).into_iter().map(|offence| offence.text).collect()
    };
    let good = "`src/a.rs::a_test`, [b](docs/b.md#part), [deep](tests/deep), `a/*.rs`, [x](#x)\n";
    assert!(found("README.md", good).is_empty());
    assert_eq!(found("README.md", "`src/c.rs`\n"), ["there is no src/c.rs"]);
    assert_eq!(found("docs/b.md", "[a](../docs/c.md)\n"), ["there is no docs/c.md"]);
    assert!(found("hub/src/a.rs", "// See docs/b.md.\n").is_empty());
    assert_eq!(found("hub/src/a.rs", "// See plans.md.\n"), ["there is no plans.md"]);
}
