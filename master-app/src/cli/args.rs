//! Arguments of the commands that run a hub.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lanyard_device::connection::HubUrl;
use lanyard_device::{Rate, RateLimits};
use lanyard_hub::authority::Admission;

use super::global::LogFormat;
use super::values;

pub(crate) const DEFAULT_LISTEN: &str = "[::]:7070";

#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Where this hub or this device keeps its keys and its state [default: the platform's data
    /// directory]
    #[arg(long = "data", value_name = "DIR", env = "LANYARD_DATA", global = true)]
    pub data: Option<PathBuf>,
    /// Use the data directory although other users of this machine can write in it, or it belongs
    /// to another user
    #[arg(long, env = "LANYARD_INSECURE_DATA", global = true)]
    pub insecure_data: bool,
    /// Machine-readable output on standard output, and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// Speak plain http to a hub on another machine: anybody on the network can then read and
    /// change what is sent
    #[arg(long, env = "LANYARD_PLAIN", global = true)]
    pub plain: bool,
    /// How the log on standard error is written; LANYARD_LOG says how much of it (error, warn,
    /// info, debug, trace)
    #[arg(
        long,
        value_name = "FORM",
        env = "LANYARD_LOG_FORMAT",
        global = true,
        value_enum,
        default_value_t
    )]
    pub log_format: LogFormat,
}

/// Whether the person at the host is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Admit {
    /// Ask for the digits of each new device
    Ask,
    /// Let everybody in who was not turned away before
    Everyone,
    /// Let nobody new in without an invitation
    Closed,
}

impl From<Admit> for Admission {
    fn from(admit: Admit) -> Self {
        match admit {
            Admit::Ask => Admission::Ask,
            Admit::Everyone => Admission::Everyone,
            Admit::Closed => Admission::Closed,
        }
    }
}

/// What one process may send and take, all its transfers together.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LimitArgs {
    /// Send at most so many bytes a second: 500K, 5M (powers of 1024), none; `lanyard limit`
    /// changes it
    #[arg(long, value_name = "RATE", default_value_t = Rate::UNLIMITED)]
    pub limit_up: Rate,
    /// Take at most so many bytes a second
    #[arg(long, value_name = "RATE", default_value_t = Rate::UNLIMITED)]
    pub limit_down: Rate,
}

impl From<LimitArgs> for RateLimits {
    fn from(args: LimitArgs) -> Self {
        Self { up: args.limit_up, down: args.limit_down }
    }
}

/// How the host's desk behaves, in one process or alone.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeskArgs {
    /// Files and folders to share from this machine
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Who is let in
    #[arg(long, value_enum, default_value_t = Admit::Ask)]
    pub admit: Admit,
    /// The console shows the digits and asks for a tap, in place of having them typed
    #[arg(long)]
    pub tap_to_approve: bool,
    /// No prompt and no codes on the screen; implied when standard output is no terminal
    #[arg(long)]
    pub headless: bool,
    /// What people see this hub and this machine called [default: the machine's name]
    #[arg(long, value_parser = values::name)]
    pub name: Option<String>,
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Where people reach the hub, and what it may take for itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListenArgs {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// A name by which people may address this hub, beside its addresses; may be given again
    #[arg(long = "host", value_name = "NAME", value_parser = values::host_name)]
    pub hosts: Vec<String>,
    /// Take https only: plain http shows the way there, and nothing else
    #[arg(long)]
    pub require_tls: bool,
    /// Memory for bytes on their way, such as 8M: less is slower for many at once [default: 32M]
    #[arg(long, value_name = "BYTES", value_parser = values::budget)]
    pub budget: Option<u64>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub desk: DeskArgs,
    #[command(flatten)]
    pub listen: ListenArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    /// What people see this hub called [default: the machine's name]
    #[arg(long, value_parser = values::name)]
    pub name: Option<String>,
    /// The secret it shares with its master, made if it is not there [default: master.secret in the
    /// data directory]
    #[arg(long, value_name = "FILE")]
    pub secret: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MasterArgs {
    #[command(flatten)]
    pub desk: DeskArgs,
    /// The relay's address, such as http://127.0.0.1:7070
    #[arg(long, value_name = "URL")]
    pub relay: HubUrl,
    /// The secret it shares with its relay, made if it is not there [default: master.secret in the
    /// data directory]
    #[arg(long, value_name = "FILE")]
    pub secret: Option<PathBuf>,
}
