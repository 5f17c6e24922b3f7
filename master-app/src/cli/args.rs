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
    /// Folder for the keys and the state of this hub or this device [default: the platform's data
    /// directory]
    #[arg(long = "data", value_name = "DIR", env = "LANYARD_DATA", global = true)]
    pub data: Option<PathBuf>,
    /// Use the data directory even if other users of this machine can write to it, or own it
    #[arg(long, env = "LANYARD_INSECURE_DATA", global = true)]
    pub insecure_data: bool,
    /// Print JSON on standard output, and nothing else
    #[arg(long, global = true)]
    pub json: bool,
    /// Use plain http to a hub on another machine. Anyone on the network can then read and change
    /// the data
    #[arg(long, env = "LANYARD_PLAIN", global = true)]
    pub plain: bool,
    /// Format of the log on standard error; LANYARD_LOG sets the level (error, warn, info, debug,
    /// trace)
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

/// The rule for new devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Admit {
    /// Ask for the digits of each new device
    Ask,
    /// Admit every device that was not turned away before
    Everyone,
    /// Only admit devices with an invitation
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

/// Speed limits of one process, for all its transfers together.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LimitArgs {
    /// Limit for sending, in bytes a second: 500K, 5M (powers of 1024), none; `lanyard limit`
    /// changes it
    #[arg(long, value_name = "RATE", default_value_t = Rate::UNLIMITED)]
    pub limit_up: Rate,
    /// Limit for receiving, in bytes a second
    #[arg(long, value_name = "RATE", default_value_t = Rate::UNLIMITED)]
    pub limit_down: Rate,
}

impl From<LimitArgs> for RateLimits {
    fn from(args: LimitArgs) -> Self {
        Self { up: args.limit_up, down: args.limit_down }
    }
}

/// Options of the operator console, in one process with the relay or alone.
#[derive(Debug, Clone, Args)]
pub(crate) struct OperatorArgs {
    /// Files and folders to share from this machine
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The rule for new devices
    #[arg(long, value_enum, default_value_t = Admit::Ask)]
    pub admit: Admit,
    /// Approve with a tap: the console shows the digits, and nobody types them
    #[arg(long)]
    pub tap_to_approve: bool,
    /// No prompt and no codes on the screen; implied when standard output is no terminal
    #[arg(long)]
    pub headless: bool,
    /// The name shown for this hub and this machine [default: the machine's name]
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
    /// A host name of this hub, in addition to its addresses; can be repeated
    #[arg(long = "host", value_name = "NAME", value_parser = values::host_name)]
    pub hosts: Vec<String>,
    /// Accept https only; over plain http the hub only points to its https address
    #[arg(long)]
    pub require_tls: bool,
    /// Memory for transfers, such as 8M; less is slower with many devices [default: 32M]
    #[arg(long, value_name = "BYTES", value_parser = values::budget)]
    pub budget: Option<u64>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub operator: OperatorArgs,
    #[command(flatten)]
    pub listen: ListenArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    /// The name shown for this hub [default: the machine's name]
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
    pub operator: OperatorArgs,
    /// The relay's address, such as http://127.0.0.1:7070
    #[arg(long, value_name = "URL")]
    pub relay: HubUrl,
    /// The secret it shares with its relay, made if it is not there [default: master.secret in the
    /// data directory]
    #[arg(long, value_name = "FILE")]
    pub secret: Option<PathBuf>,
}
