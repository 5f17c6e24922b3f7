//! Options that hold for every command.

use std::path::PathBuf;

use clap::ValueEnum;
use lanyard_device::connection::HubUrl;

/// The form of a line of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    /// One JSON object a line, with the spans that it happened in: a session, a transfer.
    Json,
}

/// Options that hold for every command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Global {
    pub data_dir: PathBuf,
    /// Others may write in it.
    pub insecure_data: bool,
    pub json: bool,
    /// Other machines may be spoken to without TLS.
    pub plain: bool,
    pub log_format: LogFormat,
}

impl Global {
    /// How a hub is really spoken to: by https, which every hub speaks on the same port, unless it
    /// is on this machine. That saves work and grants nothing: the hub proves its key in both
    /// cases, and one that takes https only is then spoken to so.
    pub(crate) fn spoken(&self, url: &HubUrl) -> HubUrl {
        if self.plain || url.is_loopback() { url.clone() } else { url.secured() }
    }
}
