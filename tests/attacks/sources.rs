//! What no test at run time could prove absent is looked for where it would have to be written.

use std::fs;
use std::path::{Path, PathBuf};

/// All sources of the product, with what is only compiled for tests cut off.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["protocol/src", "hub/src", "relay/src", "device/src", "master-app/src", "client-web/rust"]
            .map(|folder| root.join(folder))
            .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 80, "{}", files.len());
    files
}

/// A58. No program is started with anything of the network's: the one that is, is given nothing at all.
#[test]
fn a58_no_name_reaches_a_shell() {
    let mut started = Vec::new();
    for (path, text) in sources() {
        for call in text.split("Command::new(").skip(1) {
            // The library of command lines has a type of that name.
            if !text.contains("std::process::Command") && !text.contains("tokio::process::Command") {
                continue;
            }
            started.push((path.file_name().unwrap().to_owned(), call.lines().next().unwrap().to_owned()));
        }
        for shell in ["\"sh\"", "\"bash\"", "\"cmd\"", "\"cmd.exe\"", "\"powershell\"", "/bin/sh"] {
            assert!(!text.contains(shell), "{shell} in {}", path.display());
        }
    }
    assert_eq!(started, [("serve.rs".into(), "\"hostname\").output().ok()?;".to_owned())]);
}

/// A58. SQL is never made of text: what is put together by `format!` holds no statement.
#[test]
fn a58_sql_is_never_put_together() {
    for (path, text) in sources() {
        for call in text.split("format!(").skip(1) {
            let call = call.split(';').next().unwrap().to_uppercase();
            for statement in ["SELECT ", "INSERT ", "DELETE FROM", "UPDATE ", "PRAGMA "] {
                let is_sql =
                    call.starts_with(&format!("\"{statement}")) || call.starts_with(&format!("\n\"{statement}"));
                assert!(!is_sql, "{statement} in {}", path.display());
            }
        }
    }
}

/// A07. No source knows a header that would open the hub to other sites, nor a cookie that would be sent along.
#[test]
fn a07_no_source_knows_a_header_that_opens_the_hub() {
    for (path, text) in sources() {
        let text = text.to_lowercase();
        for header in ["access-control-", "access_control_", "set-cookie", "set_cookie", "strict-transport-security"] {
            assert!(!text.contains(header), "{header} in {}", path.display());
        }
    }
}
