//! The web client's types are generated from these, never restated: this fails when they drifted apart.
//! `LANYARD_BLESS=1 cargo test -p lanyard-protocol --test typescript` writes them anew.

#![allow(clippy::disallowed_methods, reason = "tests plant what they like")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lanyard_protocol::*;
use ts_rs::{Config, TS};

fn generated(dir: &Path) {
    let config = Config::new().with_large_int("number").with_out_dir(dir);
    DeviceToRelay::export_all(&config).unwrap();
    RelayToDevice::export_all(&config).unwrap();
    ConsoleToMaster::export_all(&config).unwrap();
    MasterToConsole::export_all(&config).unwrap();
    FileRef::export_all(&config).unwrap();
    Ref::export_all(&config).unwrap();
    http::HttpError::export_all(&config).unwrap();
}

fn read(dir: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

#[test]
fn the_web_client_has_the_types_of_today() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = manifest.join("../client-web/src/protocol/generated");
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("typescript");
    let _ = fs::remove_dir_all(&fresh);
    generated(&fresh);
    if std::env::var_os("LANYARD_BLESS").is_some() {
        let _ = fs::remove_dir_all(&committed);
        generated(&committed);
    }
    let (fresh, committed) = (read(&fresh), read(&committed));
    assert!(!fresh.is_empty());
    for (name, text) in &fresh {
        assert_eq!(committed.get(name), Some(text), "{name} drifted; see the head of this test");
    }
    assert_eq!(fresh.len(), committed.len(), "types that are no longer generated lie about");
}
