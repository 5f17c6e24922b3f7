//! What no test at run time could prove absent is looked for where it would have to be written.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

const PRODUCT: [&str; 7] = [
    "protocol/src",
    "hub/src",
    "system/src",
    "relay/src",
    "device/src",
    "master-app/src",
    "client-web/rust",
];

/// All Rust files below these folders of the repository.
fn rust_below(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files
}

/// All sources of the product, without what is only compiled for tests.
fn sources() -> Vec<(PathBuf, String)> {
    let without_tests =
        |text: String| text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
    let files: Vec<_> =
        rust_below(&PRODUCT).into_iter().map(|(path, text)| (path, without_tests(text))).collect();
    assert!(files.len() > 80, "{}", files.len());
    files
}

/// A58. The product starts no program, so nothing of the network's reaches one.
#[test]
fn a58_no_name_reaches_a_shell() {
    let mut started = Vec::new();
    for (path, text) in sources() {
        for call in text.split("Command::new(").skip(1) {
            // The library of command lines has a type of that name.
            if !text.contains("std::process::Command") && !text.contains("tokio::process::Command")
            {
                continue;
            }
            started.push((
                path.file_name().unwrap().to_owned(),
                call.lines().next().unwrap().to_owned(),
            ));
        }
        for shell in ["\"sh\"", "\"bash\"", "\"cmd\"", "\"cmd.exe\"", "\"powershell\"", "/bin/sh"] {
            assert!(!text.contains(shell), "{shell} in {}", path.display());
        }
    }
    assert_eq!(started, Vec::<(OsString, String)>::new());
}

/// A58. SQL is never made of text: what is put together by `format!` holds no statement.
#[test]
fn a58_sql_is_never_put_together() {
    for (path, text) in sources() {
        for call in text.split("format!(").skip(1) {
            let call = call.split(';').next().unwrap().to_uppercase();
            for statement in ["SELECT ", "INSERT ", "DELETE FROM", "UPDATE ", "PRAGMA "] {
                let is_sql = call.starts_with(&format!("\"{statement}"))
                    || call.starts_with(&format!("\n\"{statement}"));
                assert!(!is_sql, "{statement} in {}", path.display());
            }
        }
    }
}

/// A07. No source knows a header that would open the hub to other sites, nor a cookie that would be
/// sent along.
#[test]
fn a07_no_source_knows_a_header_that_opens_the_hub() {
    for (path, text) in sources() {
        let text = text.to_lowercase();
        for header in [
            "access-control-",
            "access_control_",
            "set-cookie",
            "set_cookie",
            "strict-transport-security",
        ] {
            assert!(!text.contains(header), "{header} in {}", path.display());
        }
    }
}

/// The tests that README.md names for a defence exist: a renamed or deleted test would leave its
/// defence unwatched.
#[test]
fn each_defence_names_tests_that_exist() {
    let written = [&PRODUCT[..], &["tests/attacks"]].concat();
    let tests: String = rust_below(&written).into_iter().map(|(_, text)| text).collect();
    let (_, table) = include_str!("README.md").split_once("## What each defence is for").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= 75, "{}", rows.len());
    for row in rows {
        let names: Vec<&str> = row
            .rsplit_once("| `")
            .unwrap()
            .1
            .split('`')
            .filter(|word| word.contains('_'))
            .collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            assert!(tests.contains(&format!("fn {name}(")), "no test {name}");
        }
    }
}
