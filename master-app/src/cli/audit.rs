//! `lanyard audit`: the record for people, or as it is for programs.

use std::collections::HashMap;
use std::io::{self, Write};

use serde_json::Value;

use crate::cli::global::Global;
use crate::output::exit::{Exit, Failure, Outcome};
use crate::output::text::{self, visible};
use crate::store::audit_log;

/// Works beside a running hub, and without one.
pub(crate) fn print(global: &Global) -> Outcome {
    let lines = audit_log::read(&global.data_dir)?;
    let mut out = io::stdout().lock();
    let mut names = DeviceNames::default();
    for line in &lines {
        // Whoever reads may stop reading.
        let written = if global.json {
            writeln!(out, "{line}")
        } else {
            writeln!(out, "{}", sentence(&names.complete(line)))
        };
        if written.is_err() {
            return Ok(());
        }
    }
    let unread: Vec<String> = (1..)
        .zip(&lines)
        .filter(|(_, line)| !line.is_object())
        .map(|(n, _): (usize, _)| n.to_string())
        .collect();
    if unread.is_empty() {
        return Ok(());
    }
    let which = unread.join(", ");
    Err(Failure::new(
        Exit::Failed,
        format!("these lines of the record are damaged and cannot be read: {which}"),
    ))
}

/// The names of devices, as earlier lines give them.
#[derive(Default)]
struct DeviceNames(HashMap<String, Value>);

impl DeviceNames {
    /// The line with the last known name, where it says only which device.
    fn complete(&mut self, line: &Value) -> Value {
        let mut line = line.clone();
        let Some(id) = line["public_id"].as_str().map(str::to_owned) else { return line };
        if line["name"].is_string() {
            self.0.insert(id, line["name"].clone());
        } else if let Some(name) = self.0.get(&id) {
            line["name"] = name.clone();
        }
        line
    }
}

/// One line for a person.
fn sentence(line: &Value) -> String {
    let field = |name: &str| line[name].as_str().map(visible).unwrap_or_default();
    let who = || match field("name") {
        name if name.is_empty() => field("public_id"),
        name => format!("{name} ({})", field("public_id").chars().take(8).collect::<String>()),
    };
    let when = text::date(line["at_ms"].as_u64().unwrap_or(0));
    let what = match line["event"].as_str().unwrap_or_default() {
        "knocked" => format!("{} knocked, from {}", who(), field("address")),
        "wrong_code" => {
            format!("a wrong code was entered for {}; tries left: {}", who(), line["tries_left"])
        }
        "left" => format!("{} left before anybody answered", who()),
        "more_allowed" => "more new devices than usual were allowed to ask, for ten minutes".into(),
        "approved" => format!("{} was let in ({}){}", who(), by(&field("how")), until(line)),
        "refused" if line["how"] == "time_over" => format!("the time of {} was over", who()),
        "refused" if line["how"] == "found" => {
            format!("{} was turned away (found decided when the hub started)", who())
        }
        "refused" => format!("{} was turned away", who()),
        "forgotten" => format!("{} may knock again", who()),
        "renamed" => format!("{} has that name now", who()),
        "invited" => format!(
            "invitation {} was made, good until {}",
            field("invitation"),
            date_of(line, "expires_ms")
        ),
        "bad_invitation" => format!(
            "{} used invitation {}, which does not work any more",
            who(),
            field("invitation")
        ),
        "door" => match line["admission"].as_str().unwrap_or_default() {
            "everyone" => "the door was opened to everybody".into(),
            "closed" => "the door was closed to new devices".into(),
            _ => "each new device is asked about again".into(),
        },
        "relay_ready" => "the relay is there".into(),
        "relay_lost" => "the relay is away".into(),
        _ => "a line that cannot be read".into(),
    };
    format!("{when}  {what}{}", repeated(line))
}

/// How often that came, and since when.
fn repeated(line: &Value) -> String {
    match line["count"].as_u64() {
        Some(count) => format!("; {count} times since {}", date_of(line, "first_ms")),
        None => String::new(),
    }
}

fn by(how: &str) -> &'static str {
    match how {
        "invitation" => "by an invitation",
        "open_door" => "the door stood open",
        "own" => "the host itself",
        "found" => "found decided when the hub started",
        _ => "by the host",
    }
}

fn until(line: &Value) -> String {
    if line["until_ms"].is_u64() {
        format!(" until {}", date_of(line, "until_ms"))
    } else {
        String::new()
    }
}

fn date_of(line: &Value, name: &str) -> String {
    text::date(line[name].as_u64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A person knows a device by its name, also in lines that carry only its id.
    #[test]
    fn a_line_without_a_name_is_said_with_the_last_known_one() {
        let id = "7826cf13-8edf-83eb-abd6-285b5ff87b7e";
        let mut names = DeviceNames::default();
        let mut said = |line: Value| {
            sentence(&names.complete(&line)).split_off("1970-01-01 00:00:00Z  ".len())
        };
        assert_eq!(
            said(json!({ "event": "forgotten", "public_id": id })),
            format!("{id} may knock again")
        );
        said(
            json!({ "event": "knocked", "public_id": id, "name": "Workshop PC", "address": "::1" }),
        );
        assert_eq!(
            said(json!({ "event": "wrong_code", "public_id": id, "tries_left": 2 })),
            "a wrong code was entered for Workshop PC (7826cf13); tries left: 2"
        );
        assert_eq!(
            said(json!({ "event": "left", "public_id": id })),
            "Workshop PC (7826cf13) left before anybody answered"
        );
        assert_eq!(
            said(json!({ "event": "door", "admission": "closed" })),
            "the door was closed to new devices"
        );
    }
}
