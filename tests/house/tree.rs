//! The texts of the source tree.

use std::fs;
use std::path::{Path, PathBuf};

/// Build products and downloads (the first three), fuzzing inputs, and what a program writes.
const SKIPPED_FOLDERS: [&str; 9] = [
    "target",
    "node_modules",
    ".git",
    "dist",
    "out",
    "generated",
    "corpus",
    "reports",
    "__pycache__",
];

/// A text file, by its path from the workspace's root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn kind(&self) -> Kind {
        kind_of(&self.path, &self.text).expect("only texts of known kinds are read")
    }
}

/// The first folder of `path`; documents at the root count as `docs`, other files there as `root`.
pub(crate) fn area_of(path: &str) -> &str {
    match path.split_once('/') {
        Some((folder, _)) => folder,
        None if path.ends_with(".md") => "docs",
        None => "root",
    }
}

/// The kind of a text, which decides how its comments look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Rust,
    Script,
    Svelte,
    Markdown,
    /// Shell, Python, TOML, YAML and the like: comments begin with `#`.
    Hash,
}

fn kind_of(path: &str, text: &str) -> Option<Kind> {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "rs" => Some(Kind::Rust),
        "ts" | "mjs" | "js" | "c" => Some(Kind::Script),
        "svelte" => Some(Kind::Svelte),
        "md" => Some(Kind::Markdown),
        "sh" | "py" | "toml" | "yml" | "service" => Some(Kind::Hash),
        _ if matches!(name, "justfile" | "Dockerfile") || text.starts_with("#!") => {
            Some(Kind::Hash)
        }
        _ => None,
    }
}

/// Returns every path of the workspace but build products and downloads, in order.
pub(crate) fn paths() -> Vec<String> {
    walk(&SKIPPED_FOLDERS[..3])
}

/// Reads every text of the workspace, in the order of paths.
pub(crate) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: String| {
        let text = fs::read_to_string(root.join(&path)).ok()?;
        kind_of(&path, &text)?;
        Some(Source { path, text })
    };
    let found: Vec<_> = walk(&SKIPPED_FOLDERS).into_iter().filter_map(read).collect();
    assert!(found.len() > 100, "the walk found only {} texts", found.len());
    found
}

fn walk(skipped: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            if !entry.file_type().unwrap().is_dir() {
                found.push(path.to_str().unwrap().replace('\\', "/"));
            } else if !skipped.contains(&name.as_str()) {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}
