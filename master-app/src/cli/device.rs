//! `lanyard` as a device: join a hub, list, share, get, link.

pub(crate) mod args;
mod choose;
mod commands;
mod common;
mod connection;
mod get;
mod join;
mod output;
mod share;

use crate::cli::global::Global;
use crate::output::exit::Outcome;
use args::DeviceCommand;

/// Does what is asked; the process ends with the number in the outcome.
pub(crate) async fn run(command: DeviceCommand, global: &Global) -> Outcome {
    match command {
        DeviceCommand::Join(args) => join::join(global, args).await,
        DeviceCommand::Ls(args) => commands::ls(global, args).await,
        DeviceCommand::Share(args) => share::share(global, args).await,
        DeviceCommand::Get(args) => get::get(global, args).await,
        DeviceCommand::Link(args) => commands::link(global, args).await,
        DeviceCommand::Links(args) => commands::links(global, args).await,
    }
}
