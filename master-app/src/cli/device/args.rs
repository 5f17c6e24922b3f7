//! Arguments of the commands of a device.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lanyard_device::connection::{GivenUrl, HubUrl};
use lanyard_protocol::limits::MAX_LINK_USES;

use crate::cli::args::LimitArgs;
use crate::cli::values;

/// Commands of this machine as a device of a hub.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Ask a hub to let this device in, and wait for the decision
    Join(JoinArgs),
    /// List the files that all devices share
    Ls(HubArgs),
    /// Share files and folders until Ctrl-C
    Share(ShareArgs),
    /// Download files or whole folders; resumes where it stopped
    Get(GetArgs),
    /// Print a link with which any browser or player can download a file or folder
    Link(LinkArgs),
    /// List this device's links, or end some: `lanyard links drop ID`
    Links(LinksArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct JoinArgs {
    /// The hub's address, as the hub shows it. An address with an invitation (`lanyard invite`)
    /// lets this device in at once
    pub url: GivenUrl,
    /// The name shown for this device [default: the machine's name]
    #[arg(long, value_parser = values::name)]
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
    /// End the link after this time: 30m, 8h, 2d, 1w [default: after a day without use]
    #[arg(long = "for", value_name = "TIME", value_parser = values::link_duration)]
    pub valid: Option<u64>,
    /// How often the link can be used; resuming a download does not count again
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
