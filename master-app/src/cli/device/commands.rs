//! Lists files, makes links, lists and ends links.

use lanyard_device::connection::HubUrl;
use lanyard_device::{DeviceError, LinkContents, LinkOptions, RateLimits};
use lanyard_protocol::message::LinkFolder;
use lanyard_protocol::{EntryKind, FailureCode, FileEntry};
use serde_json::json;

use super::args::{HubArgs, LinkArgs, LinksArgs};
use super::choose;
use super::common::{failure_of, owner_name, split_words};
use super::connection::DeviceConnection;
use super::output::Output;
use crate::cli::global::Global;
use crate::cli::hub;
use crate::operator::{actions, control};
use crate::output::exit::{Failure, Outcome};
use crate::output::{tables, text};

pub(super) async fn ls(global: &Global, args: HubArgs) -> Outcome {
    let mut connection = DeviceConnection::open(global, args.url, None, RateLimits::default())?;
    connection.enter().await?;
    let catalogue = connection.handle.catalogue().await.map_err(failure_of)?;
    let mut entries: Vec<(String, &FileEntry)> =
        catalogue.files.values().map(|entry| (owner_name(&catalogue, entry), entry)).collect();
    entries.sort_by(|a, b| (&a.0, &a.1.path, a.1.file_id).cmp(&(&b.0, &b.1.path, b.1.file_id)));
    let output = Output::new(global);
    if global.json {
        output
            .value(&entries.iter().map(|(owner_name, entry)| listed(owner_name, entry)).collect());
    } else {
        output.print(&table(&entries));
    }
    connection.handle.shutdown().await;
    Ok(())
}

fn listed(owner_name: &str, entry: &FileEntry) -> serde_json::Value {
    let mut value = json!({
        "owner": entry.public_id,
        "owner_name": owner_name,
        "file_id": entry.file_id,
        "path": entry.path,
        "size": entry.size,
        "modified_ms": entry.modified_ms,
    });
    if let Some(root) = entry.root {
        value["root"] = json!(root);
    }
    if entry.kind == EntryKind::Folder {
        value["kind"] = json!(entry.kind);
    }
    value
}

fn table(entries: &[(String, &FileEntry)]) -> String {
    if entries.is_empty() {
        return "nobody shares anything at the moment\n".into();
    }
    let row = |(owner, entry): &(String, &FileEntry)| {
        let folder = if entry.kind == EntryKind::Folder { "/" } else { "" };
        vec![
            text::visible(owner),
            text::size(entry.size),
            format!("{}{folder}", text::visible(&entry.path)),
        ]
    };
    text::table(&["OWNER", "SIZE", "PATH"], &entries.iter().map(row).collect::<Vec<_>>())
}

pub(super) async fn link(global: &Global, args: LinkArgs) -> Outcome {
    let (url, words) = split_words(args.words)?;
    if words.len() > 1 {
        return Err(Failure::usage("one file or one folder at a time"));
    }
    let mut connection = DeviceConnection::open(global, url, None, RateLimits::default())?;
    connection.enter().await?;
    let catalogue = connection.handle.catalogue().await.map_err(failure_of)?;
    let chosen = choose::choose(&catalogue, &words[0])?;
    let linked = match chosen.folder {
        Some((public_id, path)) => LinkContents::Folder(LinkFolder { public_id, path }),
        None => {
            LinkContents::Files(chosen.files.iter().map(|wanted| wanted.entry.file_ref()).collect())
        }
    };
    let wish = LinkOptions { linked, name: None, valid_ms: args.valid, uses: args.uses };
    let made = connection.handle.link(wish).await.map_err(failure_of)?;
    let address = format!("{}{}", connection.url.http_base(), made.url);
    let output = Output::new(global);
    if global.json {
        output.value(
            &json!({ "url": address, "expires_ms": made.listed.expires_ms, "link_hash": made.listed.link_hash }),
        );
    } else {
        output.print(&format!("{address}\n"));
    }
    connection.handle.shutdown().await;
    Ok(())
}

/// The meaning of the words after `links`.
#[derive(Debug, PartialEq, Eq)]
enum LinksAction {
    List,
    Drop(Vec<String>),
}

fn links_wish(mut words: Vec<String>) -> Result<(Option<HubUrl>, LinksAction), Failure> {
    let url = words.iter().position(|word| word.contains("://")).map(|at| words.remove(at));
    let parsed = url.as_ref().map(|url| url.parse::<HubUrl>()).transpose();
    let url =
        parsed.map_err(|error| Failure::usage(format!("{}: {error}", url.unwrap_or_default())))?;
    match words.split_first() {
        None => Ok((url, LinksAction::List)),
        Some((first, ids)) if first == "drop" && !ids.is_empty() => {
            Ok((url, LinksAction::Drop(ids.to_vec())))
        }
        Some((first, _)) if first == "drop" => Err(Failure::usage(
            "say which: the beginning of a link's id, or `all`; `lanyard links` shows them",
        )),
        Some(_) => {
            Err(Failure::usage("`lanyard links` lists them, `lanyard links drop ID` ends one"))
        }
    }
}

pub(super) async fn links(global: &Global, args: LinksArgs) -> Outcome {
    let (url, wish) = links_wish(args.words)?;
    if args.everybody {
        if url.is_some() {
            return Err(Failure::usage(
                "--everybody asks the hub on this machine; it takes no address",
            ));
        }
        return match wish {
            LinksAction::List => hub::links(global).await,
            LinksAction::Drop(ids) => hub::drop_links(global, ids).await,
        };
    }
    let mut connection = DeviceConnection::open(global, url, None, RateLimits::default())?;
    connection.enter().await?;
    let links = connection.handle.links().await.map_err(failure_of)?;
    let output = Output::new(global);
    match wish {
        LinksAction::List if global.json => output.value(&json!(links)),
        LinksAction::List => {
            output.print(&tables::links_table(links.iter().map(|link| (link, None))))
        }
        LinksAction::Drop(ids) => {
            let hashes = actions::meant_links(links.iter(), &ids).map_err(control::failure)?;
            for hash in &hashes {
                match connection.handle.drop_link(*hash).await {
                    // It ended by itself meanwhile.
                    Ok(()) | Err(DeviceError::Refused { code: FailureCode::NotFound, .. }) => {}
                    Err(error) => return Err(failure_of(error)),
                }
            }
            output.print(&format!("{}\n", tables::dropped_words(hashes.len(), global.json)));
        }
    }
    connection.handle.shutdown().await;
    Ok(())
}
