//! `lanyard audit`: the record for people, or as it is for programs.

use std::io::{self, Write};

use serde_json::Value;

use crate::audit;
use crate::cli::Global;
use crate::exit::{Exit, Failure, Outcome};
use crate::text::{self, visible};

/// Works beside a running hub, and without one.
pub fn print(global: &Global) -> Outcome {
    let lines = audit::read(&global.data_dir)?;
    let mut out = io::stdout().lock();
    for read in &lines {
        // Whoever reads may stop reading.
        let written =
            if global.json { writeln!(out, "{}", read.line) } else { writeln!(out, "{}", sentence(&read.line)) };
        if written.is_err() {
            return Ok(());
        }
    }
    let broken: Vec<usize> = lines.iter().enumerate().filter(|(_, read)| !read.follows).map(|(n, _)| n + 1).collect();
    if broken.is_empty() {
        return Ok(());
    }
    let at = broken.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    Err(Failure::new(Exit::Failed, format!("the record was changed, or lines were lost, before line {at}")))
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
        "wrong_code" => format!("digits were typed that {} does not show; {} tries left", who(), line["tries_left"]),
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
        "invited" => format!("invitation {} was made, good until {}", field("invitation"), date_of(line, "expires_ms")),
        "bad_invitation" => format!("{} showed invitation {}, which is not good", who(), field("invitation")),
        "door" => format!("the door: {}", field("admission")),
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
    if line["until_ms"].is_u64() { format!(" until {}", date_of(line, "until_ms")) } else { String::new() }
}

fn date_of(line: &Value, name: &str) -> String {
    text::date(line[name].as_u64().unwrap_or(0))
}
