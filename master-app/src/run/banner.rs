//! The text that a person reads first when a hub starts.

use lanyard_protocol::identity;
use lanyard_protocol::message::Admission;

use super::setup::MasterSetup;
use crate::authority::driver::DriverHandle;
use crate::operator::actions;
use crate::operator::console::LoginLinks;
use crate::output::text::{self, visible};

/// Returns the text for a person: name, addresses, shared files, waiting devices, problems.
pub(super) async fn banner(
    hub: &MasterSetup,
    driver: &DriverHandle,
    door: &LoginLinks,
    prompt: bool,
) -> anyhow::Result<String> {
    let (files, waiting) = driver
        .query(|authority, _| (authority.file_count(), authority.knocks(false).knocks.len()))
        .await?;
    let mut text = format!("\n{}\n", visible(&hub.name));
    let key = driver
        .query(|_, hub| hub.map(|hub| identity::fingerprint(&hub.public_key)))
        .await?
        .unwrap_or_default();
    // A phone's camera takes the address and, behind it, which hub is meant.
    if prompt
        && let Some(code) = hub.urls.first().and_then(|best| text::qr(&format!("{best}/#k={key}")))
    {
        text.push_str(&code);
    }
    hub.urls.iter().enumerate().for_each(|(n, url)| {
        text.push_str(&format!(
            "  {url}{}\n",
            if n == 0 { "   (open this on a phone or laptop)" } else { "" }
        ));
    });
    let another = if prompt { "console" } else { "lanyard console" };
    text.push_str(&format!("console: {}\n", door.link()?));
    text.push_str(&format!(
        "         (opens once, within a minute; `{another}` makes another)\nhub key: {key}\n"
    ));
    if let Some(authority) = &hub.authority {
        let (first, second) = authority.split_at(authority.len().div_ceil(2));
        text.push_str(&format!(
            "https:   the same addresses with https:// are encrypted; certificate authority, SHA-256\n         {first}\n         {second}\n"
        ));
    }
    let named: Vec<String> =
        hub.paths.iter().map(|path| visible(&path.to_string_lossy())).collect();
    match (named.is_empty(), files) {
        (true, 0) => text.push_str("shared:  nothing yet\n"),
        (true, files) => text.push_str(&format!("shared:  {files} files of this hub's devices\n")),
        (false, _) => text.push_str(&format!("shared:  {}\n", named.join(", "))),
    }
    let admission = driver.query(|authority, _| authority.admission()).await?;
    if admission != Admission::Ask {
        text.push_str(&format!("door:    {}\n", actions::door_words(admission)));
    }
    match waiting {
        0 => text.push_str("waiting: nobody\n"),
        waiting => text.push_str(&format!("waiting: {waiting}\n")),
    }
    for problem in driver.problems().all() {
        text.push_str(&format!(
            "PROBLEM: {}\n         {}\n",
            visible(&problem.what),
            visible(&problem.advice)
        ));
    }
    text.push_str(if prompt {
        "`help` lists what can be typed here\n"
    } else {
        "let devices in with `lanyard devices` and `lanyard approve ID`\n"
    });
    Ok(text)
}
