//! The native device's peer does what `protocol/vectors/scripts/*.json` says, and so does the page
//! (`client-web/src/scripts.test.ts` plays the same files). `protocol/vectors/README.md` tells how
//! to read and write them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod device;
mod pattern;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use device::ScriptedDevice;
use pattern::{Names, matches, resolved};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    #[serde(rename = "promise")]
    _promise: String,
    #[serde(rename = "rules")]
    _rules: String,
    /// The script whose steps come first.
    after: Option<String>,
    /// Only a page remembers where it stood.
    #[serde(rename = "remembers")]
    _remembers: Option<String>,
    /// Values that the steps name.
    #[serde(default)]
    names: Names,
    steps: Vec<Step>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(rename = "why")]
    _why: Option<String>,
    only: Option<Side>,
    hub: Option<Value>,
    person: Option<Value>,
    clock: Option<u64>,
    line: Option<Value>,
    body: Option<Value>,
    #[serde(default)]
    sends: Vec<Value>,
    #[serde(default)]
    shows: BTreeMap<String, Value>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Side {
    Page,
    Native,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/vectors/scripts")
}

fn read(name: &str) -> Script {
    let text = fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the named values and the steps of a script, behind those of the one that it goes on
/// from.
fn whole(name: &str, device: &ScriptedDevice) -> Result<(Names, Vec<Step>), String> {
    let script = read(name);
    let (mut names, mut steps) = match &script.after {
        Some(earlier) => whole(earlier, device)?,
        None => (device.names(), Vec::new()),
    };
    for (name, value) in script.names {
        let value = resolved(&value, &device.names())?;
        names.insert(name, value);
    }
    steps.extend(script.steps);
    Ok((names, steps))
}

/// Plays one script, and returns what went otherwise at which step.
fn play(name: &str) -> Result<(), String> {
    let mut device = ScriptedDevice::new();
    let (mut names, steps) = whole(name, &device)?;
    for (at, step) in steps.into_iter().enumerate() {
        if step.only == Some(Side::Page) {
            continue;
        }
        let played = play_step(&mut device, &mut names, &step);
        played.map_err(|what| format!("{name}, step {at}: {what}"))?;
    }
    Ok(())
}

fn play_step(device: &mut ScriptedDevice, names: &mut Names, step: &Step) -> Result<(), String> {
    names.extend(device.names());
    if let Some(frame) = &step.hub {
        device.hear(&resolved(frame, names)?);
    } else if let Some(action) = &step.person {
        device.person(&resolved(action, names)?);
    } else if let Some(ms) = step.clock {
        device.wait(ms);
    } else if let Some(line) = &step.line {
        device.line(line)?;
    } else if let Some(body) = &step.body {
        device.body(&resolved(body, names)?);
    }
    let sent = device.sent();
    if sent.len() != step.sends.len() {
        return Err(format!("{} frames expected, sent were {sent:#?}", step.sends.len()));
    }
    for (pattern, frame) in step.sends.iter().zip(&sent) {
        matches(pattern, frame, names).map_err(|why| format!("{why}\nin {frame:#}"))?;
    }
    names.extend(device.names());
    for (what, expected) in &step.shows {
        let expected = resolved(expected, names)?;
        let shown = device.shows(what);
        if shown != expected {
            return Err(format!("shows {what}: {shown}, not {expected}"));
        }
    }
    Ok(())
}

#[test]
fn the_native_device_follows_every_script() {
    let entries = fs::read_dir(folder()).unwrap();
    let names = entries
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert!(names.len() >= 10, "too few scripts: {names:?}");
    let failures: Vec<String> = names.iter().filter_map(|name| play(name).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// A runner that believes everything would make all scripts green.
#[test]
fn a_pattern_says_exactly_what_may_come() {
    let frame =
        serde_json::json!({"opcode": "A", "ref": "1", "data": {"n": 1, "list": ["x", "y"]}});
    let check = |pattern: Value, names: &mut Names| matches(&pattern, &frame, names).is_ok();
    let mut names = Names::from([("one".into(), "1".into())]);
    let good =
        serde_json::json!({"opcode": "A", "ref": "$one", "data": {"n": "*", "list": ["$x", "y"]}});
    assert!(check(good, &mut names));
    assert_eq!(names.get("x"), Some(&Value::from("x")));
    for bad in [
        serde_json::json!({"opcode": "A", "data": "*"}),
        serde_json::json!({"opcode": "A", "ref": "$x", "data": "*"}),
        serde_json::json!({"opcode": "A", "ref": "1", "data": {"n": 1, "list": ["x"]}}),
        serde_json::json!({"opcode": "A", "ref": "1", "data": {"n": 1, "list": ["x", "y"], "m": 1}}),
        serde_json::json!({"opcode": "A", "ref": {"not": "$one"}, "data": "*"}),
    ] {
        assert!(!check(bad.clone(), &mut names), "{bad}");
    }
}
