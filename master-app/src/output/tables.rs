//! Tables of devices, files and links.

use lanyard_protocol::message::LinkListed;
use lanyard_protocol::{DeviceKind, Membership};
use lanyard_system::clock::now_ms;

use super::text::{self, visible};
use crate::operator::actions::{DeviceRow, FileRow, PresenceWord};

pub(crate) fn devices_table(rows: &[DeviceRow]) -> String {
    let cells = |row: &DeviceRow| {
        let state = match (row.membership, row.presence, &row.code) {
            (Membership::Pending, _, Some(code)) => {
                format!("waits, shows {} {}", &code[..3], &code[3..])
            }
            (Membership::Pending, PresenceWord::Away, _) => "left before anybody answered".into(),
            (Membership::Pending, ..) => "waits".into(),
            (Membership::Disapproved, ..) => "turned away".into(),
            (_, PresenceWord::Online, _) => "here".to_owned(),
            (_, PresenceWord::Away, _) => "away".to_owned(),
        };
        let state = match row.until_ms {
            Some(until) => {
                format!("{state}, {} left", text::duration(until.saturating_sub(now_ms())))
            }
            None => state,
        };
        vec![row.public_id.to_string(), visible(&row.name), kind(row.kind).to_owned(), state]
    };
    text::table(&["ID", "NAME", "KIND", "STATE"], &rows.iter().map(cells).collect::<Vec<_>>())
}

pub(crate) fn kind(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Browser => "browser",
        DeviceKind::Native => "native",
        DeviceKind::Master => "this host",
    }
}

pub(crate) fn files_table(rows: &[FileRow]) -> String {
    let cells =
        |row: &FileRow| vec![text::size(row.size), visible(&row.owner_name), visible(&row.path)];
    text::table(&["SIZE", "OWNER", "PATH"], &rows.iter().map(cells).collect::<Vec<_>>())
}

pub(crate) fn dropped_words(count: usize, as_json: bool) -> String {
    match count {
        _ if as_json => serde_json::json!({ "dropped": count }).to_string(),
        0 => "there was no link to end".into(),
        1 => "1 link ended".into(),
        many => format!("{many} links ended"),
    }
}

/// Links as rows; with the names of their makers, where they may have several.
pub(crate) fn links_table<'a>(
    links: impl Iterator<Item = (&'a LinkListed, Option<&'a str>)>,
) -> String {
    let cells = |(link, maker): (&LinkListed, Option<&str>)| {
        let end = text::duration(link.expires_ms.saturating_sub(now_ms()));
        let end = if link.ends { format!("in {end}") } else { format!("unused {end}") };
        let uses = link.uses_left.map_or_else(|| "any".to_owned(), |left| left.to_string());
        let holds = match link.files {
            0 => "folder".to_owned(),
            1 => "1 file".to_owned(),
            many => format!("{many} files"),
        };
        let mut cells =
            vec![link.link_hash.to_hex()[..8].to_owned(), end, uses, holds, visible(&link.name)];
        cells.extend(maker.map(visible));
        cells
    };
    let mut head = vec!["ID", "ENDS", "USES LEFT", "HOLDS", "NAME"];
    let mut rows = Vec::new();
    for link in links {
        if link.1.is_some() && head.len() == 5 {
            head.push("MADE BY");
        }
        rows.push(cells(link));
    }
    if rows.is_empty() {
        "there are no links at the moment\n".into()
    } else {
        text::table(&head, &rows)
    }
}
