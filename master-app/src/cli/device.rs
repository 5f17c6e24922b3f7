//! `lanyard` as a device: join a hub, list, share, get, link.

mod choose;
mod connection;
mod get;
mod join;
mod output;
mod share;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lanyard_device::link::{GivenUrl, HubUrl};
use lanyard_device::{CatalogueView, DeviceError, LinkContents, LinkOptions, RateLimits};
use lanyard_protocol::device::is_valid_name;
use lanyard_protocol::limits::MAX_LINK_USES;
use lanyard_protocol::message::LinkFolder;
use lanyard_protocol::{EntryKind, FailureCode, FileEntry};
use serde_json::json;

use crate::cli::{Global, LimitArgs};
use crate::operator::actions;
use crate::operator::control;
use crate::output::exit::Exit;
use crate::output::exit::Failure;
use crate::output::exit::Outcome;
use crate::output::text;
use connection::DeviceConnection;
use output::Output;

/// What this machine can do as a device of a hub.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Ask a hub to let this device in; waits until somebody there decides
    Join(JoinArgs),
    /// List what everybody shares
    Ls(HubArgs),
    /// Share files and folders until Ctrl-C
    Share(ShareArgs),
    /// Fetch files or whole folders; goes on where it stopped
    Get(GetArgs),
    /// Print an address under which any browser or player can fetch a file or folder
    Link(LinkArgs),
    /// List this device's links, or end some: `lanyard links drop ID`
    Links(LinksArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct JoinArgs {
    /// The hub's address, as it shows it; one with an invitation (`lanyard invite`) lets this
    /// device in at once
    pub url: GivenUrl,
    /// What others see this device called [default: the machine's name]
    #[arg(long, value_parser = device_name)]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct HubArgs {
    /// The hub's address [default: the hub joined last]
    pub url: Option<HubUrl>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ShareArgs {
    /// Files and folders; a word with `://` is the hub's address
    #[arg(required = true, value_name = "[URL] PATH")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub limits: LimitArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct GetArgs {
    /// Paths or ids of files, paths of folders, or OWNER/PATH; a word with `://` is the hub's
    /// address
    #[arg(required = true, value_name = "[URL] PATH|ID")]
    pub words: Vec<String>,
    /// The folder to save to; `-` writes one file to standard output
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,
    #[command(flatten)]
    pub limits: LimitArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LinkArgs {
    /// The path or id of a file, the path of a folder, or OWNER/PATH; a word with `://` is the
    /// hub's address
    #[arg(required = true, value_name = "[URL] PATH|ID")]
    pub words: Vec<String>,
    /// End it after so long, used or not: 30m, 8h, 2d, 1w [default: when nobody used it for a day]
    #[arg(long = "for", value_name = "TIME", value_parser = crate::cli::link_duration)]
    pub valid: Option<u64>,
    /// How often it may be used; going on with a download counts once
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LINK_USES)))]
    pub uses: Option<u32>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LinksArgs {
    /// Leave it out to list them; `drop` ends the links whose ids (or their beginnings) follow, or
    /// `all`; a word with `://` is the hub's address
    #[arg(value_name = "[URL] [drop ID]")]
    pub words: Vec<String>,
    /// List or end everybody's links, at the hub that runs on this machine
    #[arg(long)]
    pub everybody: bool,
}

fn device_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if is_valid_name(name) {
        Ok(name.into())
    } else {
        Err("a name has 1 to 255 bytes and no control characters".into())
    }
}

/// Does what is asked; the process ends with the number in the outcome.
pub(crate) async fn run(command: DeviceCommand, global: &Global) -> Outcome {
    match command {
        DeviceCommand::Join(args) => join::join(global, args).await,
        DeviceCommand::Ls(args) => ls(global, args).await,
        DeviceCommand::Share(args) => share::share(global, args).await,
        DeviceCommand::Get(args) => get::get(global, args).await,
        DeviceCommand::Link(args) => link(global, args).await,
        DeviceCommand::Links(args) => links(global, args).await,
    }
}

/// Takes the hub's address out of the words of a command; at least one other must be left.
fn split_words(words: Vec<String>) -> Result<(Option<HubUrl>, Vec<String>), Failure> {
    let (urls, rest): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| word.contains("://"));
    if urls.len() > 1 {
        return Err(Failure::usage("one hub at a time: there are two addresses"));
    }
    if rest.is_empty() {
        return Err(Failure::usage("say what: a path or an id is missing"));
    }
    let url = urls.first().map(|url| url.parse::<HubUrl>()).transpose();
    Ok((url.map_err(|error| Failure::usage(format!("{}: {error}", urls[0])))?, rest))
}

/// What the hub's or this device's no means for the number at the end.
fn failure_of(error: DeviceError) -> Failure {
    let exit = match &error {
        DeviceError::Refused { code: FailureCode::NotFound | FailureCode::FileGone, .. } => {
            Exit::NotFound
        }
        DeviceError::Refused { code: FailureCode::NotApproved, .. } => Exit::NotApproved,
        DeviceError::Refused { code: FailureCode::ServerNotReady, .. }
        | DeviceError::NotConnected => Exit::NotReachable,
        _ => Exit::Failed,
    };
    Failure { exit, error: error.into() }
}

fn owner_name(catalogue: &CatalogueView, entry: &FileEntry) -> String {
    catalogue
        .clients
        .get(&entry.public_id)
        .map_or_else(|| entry.public_id.to_string(), |client| client.name.clone())
}

async fn ls(global: &Global, args: HubArgs) -> Outcome {
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

async fn link(global: &Global, args: LinkArgs) -> Outcome {
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

async fn links(global: &Global, args: LinksArgs) -> Outcome {
    let (url, wish) = links_wish(args.words)?;
    if args.everybody {
        if url.is_some() {
            return Err(Failure::usage(
                "--everybody asks the hub on this machine; it takes no address",
            ));
        }
        return match wish {
            LinksAction::List => control::links(global).await,
            LinksAction::Drop(ids) => control::drop_links(global, ids).await,
        };
    }
    let mut connection = DeviceConnection::open(global, url, None, RateLimits::default())?;
    connection.enter().await?;
    let links = connection.handle.links().await.map_err(failure_of)?;
    let output = Output::new(global);
    match wish {
        LinksAction::List if global.json => output.value(&json!(links)),
        LinksAction::List => {
            output.print(&control::links_table(links.iter().map(|link| (link, None))))
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
            output.print(&format!("{}\n", control::dropped_words(hashes.len(), global.json)));
        }
    }
    connection.handle.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn the_word_with_a_scheme_is_the_hub() {
        let (url, rest) = split_words(words("a/b http://hub:7070 c")).unwrap();
        assert_eq!((url.unwrap().authority(), rest), ("hub:7070".into(), words("a/b c")));
        assert!(split_words(words("a")).unwrap().0.is_none());
        for line in ["http://hub", "http://a http://b c", "ftp://a b"] {
            assert_eq!(split_words(words(line)).unwrap_err().exit, Exit::Usage, "{line}");
        }
    }
}
