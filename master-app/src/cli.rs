//! The command line. `lanyard` alone, or with paths, is `lanyard serve`.

pub(crate) mod args;
pub(crate) mod audit;
pub(crate) mod device;
pub(crate) mod global;
pub(crate) mod hub;
pub(crate) mod transfers;
mod values;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};
use lanyard_device::Rate;

use crate::data_dir;
use crate::output::exit;
use args::{Admit, GlobalArgs, MasterArgs, RelayArgs, ServeArgs};
use device::args::DeviceCommand;
use global::Global;

/// Share files with the devices on your network, straight from where they are.
///
/// `lanyard` alone starts a hub on this machine; `lanyard PATH…` shares these files and folders
/// from it as well.
#[derive(Debug, Parser)]
#[command(name = "lanyard", version, propagate_version = true, after_help = exit::HELP)]
#[command(subcommand_required = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a hub: relay, master and this machine's own files (the default command)
    #[command(after_help = exit::HELP)]
    Serve(ServeArgs),
    /// Run the relay half alone
    Relay(RelayArgs),
    /// Run the master half alone, against a relay that shares its secret
    Master(MasterArgs),
    /// List devices: approved, waiting (with their digits), and turned away
    Devices,
    /// Let a device in
    Approve {
        /// The device's name, its id, or the beginning of the id
        id: String,
        /// The six digits shown on the device. If omitted, the device is approved by name alone
        #[arg(long, value_name = "DIGITS")]
        code: Option<String>,
        /// Revoke the device automatically after this time: 30m, 8h, 2d, 1w
        #[arg(long = "for", value_name = "TIME", value_parser = values::duration)]
        stay: Option<u64>,
    },
    /// Print an address that lets one device in without a code, once
    Invite {
        /// How long the invitation can be used
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = values::duration)]
        valid: u64,
        /// Revoke the device automatically after this time: 30m, 8h, 2d, 1w
        #[arg(long = "for", value_name = "TIME", value_parser = values::duration)]
        stay: Option<u64>,
    },
    /// Show or set which new devices the hub lets in, until the hub is restarted
    Door {
        /// Omit to show the current setting
        admission: Option<Admit>,
    },
    /// Allow more join requests than usual for ten minutes, for example from a class behind one
    /// address
    AllowMore,
    /// Turn a device away, for good
    Refuse {
        /// The device's name, its id, or the beginning of the id
        id: String,
    },
    /// Let a device that was turned away knock again
    Forget {
        /// The device's name, its id, or the beginning of the id
        id: String,
    },
    /// Print a new link that opens the host's console in a browser, once
    Console,
    /// List the shared files
    Files,
    /// Show the hub's status: problems, devices, files, limits
    Status,
    /// Print the audit log: which devices were approved or turned away, and how. Exits with 1 if a
    /// line cannot be read
    Audit,
    /// List the downloads and uploads of this device
    Transfers,
    /// Pause a download of this device
    Pause {
        /// The transfer's id, the beginning of the id, or `all`
        id: String,
    },
    /// Resume a paused download
    Resume {
        /// The transfer's id, the beginning of the id, or `all`
        id: String,
    },
    /// Cancel a download. The received part is kept, and the same `get` resumes from there
    Cancel {
        /// The transfer's id, the beginning of the id, or `all`
        id: String,
    },
    /// Show or change the speed limits of the running processes of this device
    Limit {
        /// Limit for sending, in bytes a second: 500K, 5M (powers of 1024), none
        #[arg(long, value_name = "RATE")]
        up: Option<Rate>,
        /// Limit for receiving, in bytes a second
        #[arg(long, value_name = "RATE")]
        down: Option<Rate>,
    },
    #[command(flatten)]
    Device(DeviceCommand),
}

/// Reads the command line. Help, version and mistakes end the process, mistakes with 2.
pub(crate) fn parse() -> (Global, Command) {
    try_parse(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

fn try_parse(args: impl IntoIterator<Item = OsString>) -> Result<(Global, Command), clap::Error> {
    let Cli { global, command } = Cli::try_parse_from(with_default(args.into_iter().collect()))?;
    let data_dir = global.data.or_else(data_dir::default_dir).ok_or_else(|| {
        Cli::command().error(
            clap::error::ErrorKind::MissingRequiredArgument,
            "this account has no home directory; choose a data directory with --data",
        )
    })?;
    let GlobalArgs { insecure_data, json, plain, log_format, .. } = global;
    Ok((Global { data_dir, insecure_data, json, plain, log_format }, command))
}

/// Puts `serve` where no command stands: the first word that is no option decides.
fn with_default(mut args: Vec<OsString>) -> Vec<OsString> {
    let cli = Cli::command();
    let is_command = |word: &str| cli.find_subcommand(word).is_some();
    let mut at = 1;
    while let Some(word) = args.get(at).map(|word| word.to_string_lossy().into_owned()) {
        match word.as_str() {
            "--data" | "--log-format" => at += 2,
            "--json" | "--plain" | "--insecure-data" => at += 1,
            word if word.starts_with("--data=") || word.starts_with("--log-format=") => at += 1,
            "-h" | "--help" | "-V" | "--version" => return args,
            word if is_command(word) => return args,
            _ => break,
        }
    }
    args.insert(at.min(args.len()), "serve".into());
    args
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::args::DEFAULT_LISTEN;
    use super::global::LogFormat;
    use super::*;

    fn parsed(line: &str) -> Result<(Global, Command), clap::Error> {
        try_parse(std::iter::once("lanyard").chain(line.split_whitespace()).map(OsString::from))
    }

    fn serve(line: &str) -> ServeArgs {
        match parsed(line) {
            Ok((_, Command::Serve(args))) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        assert_eq!(serve("").listen.listen, DEFAULT_LISTEN.parse().unwrap());
        assert_eq!(
            serve("film.mkv Pictures").operator.paths,
            [PathBuf::from("film.mkv"), "Pictures".into()]
        );
        assert_eq!(serve("./ls").operator.paths, [PathBuf::from("./ls")]);
        assert_eq!(serve("-- ls").operator.paths, [PathBuf::from("ls")]);
        assert_eq!(serve("film.mkv ls").operator.paths, [PathBuf::from("film.mkv"), "ls".into()]);
        let args = serve(
            "--listen 127.0.0.1:0 --name Studio --host a.local --host B --admit everyone --headless x",
        );
        assert_eq!(args.listen.hosts, ["a.local", "b"]);
        assert_eq!((args.listen.budget, serve("--budget 8M").listen.budget), (None, Some(8 << 20)));
        assert_eq!(
            (args.operator.admit, args.operator.headless, args.operator.paths.len()),
            (Admit::Everyone, true, 1)
        );
        assert_eq!(args.operator.name.as_deref(), Some("Studio"));
        assert_eq!(serve("serve x --json").operator.paths, [PathBuf::from("x")]);
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in
            ["--data /d --json devices", "devices --json --data /d", "--data=/d devices --json"]
        {
            let (global, command) = parsed(line).unwrap();
            assert_eq!(
                global,
                Global {
                    data_dir: "/d".into(),
                    insecure_data: false,
                    json: true,
                    plain: false,
                    log_format: LogFormat::Text
                },
                "{line}"
            );
            assert!(matches!(command, Command::Devices), "{line}");
        }
        let (global, _) = parsed("--data /d --json").unwrap();
        assert_eq!(global.data_dir, PathBuf::from("/d"));
    }

    #[test]
    fn commands_for_the_host_take_what_they_say() {
        let (_, approve) = parsed("approve abcd --code 123456").unwrap();
        assert!(
            matches!(approve, Command::Approve { id, code: Some(code), stay: None } if id == "abcd" && code == "123456")
        );
        assert!(matches!(parsed("refuse abcd").unwrap().1, Command::Refuse { .. }));
        for (line, wanted) in [("console", "Console"), ("files", "Files"), ("status", "Status")] {
            assert_eq!(format!("{:?}", parsed(line).unwrap().1), wanted);
        }
        let (_, master) = parsed("master --relay http://127.0.0.1:7070 --secret /s").unwrap();
        assert!(matches!(master, Command::Master(MasterArgs { secret: Some(_), .. })));
        assert!(matches!(parsed("relay --listen 127.0.0.1:0").unwrap().1, Command::Relay(_)));
    }

    #[test]
    fn transfers_are_steered_by_id_and_limits_by_rate() {
        assert!(matches!(parsed("pause all").unwrap().1, Command::Pause { id } if id == "all"));
        let (_, limit) = parsed("limit --up 5M").unwrap();
        assert!(
            matches!(limit, Command::Limit { up: Some(up), down: None } if up.get() == Some(5 << 20))
        );
        assert_eq!(serve("--limit-up 500K x").operator.limits.limit_up.get(), Some(500 << 10));
        assert_eq!(serve("x").operator.limits.limit_down, Rate::UNLIMITED);
    }

    #[test]
    fn mistakes_end_with_two() {
        for line in [
            "--listen nonsense",
            "--listen 7070",
            "--admit nobody",
            "--host http://a",
            "--budget 100K",
            "relay --budget much",
            "approve",
            "master",
            "master --relay nonsense",
            "--nonsense",
            "--limit-up 1K",
            "share x --limit-down fast",
            "pause",
            "limit 5M",
            "link --for 181d film.mkv",
        ] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line}");
        }
        let control = ["lanyard", "--name", "a\nb"].map(OsString::from);
        assert_eq!(try_parse(control).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn help_names_the_exit_codes() {
        let error = parsed("--help").unwrap_err();
        assert_eq!(error.exit_code(), 0);
        for code in ["0  done", "3  this device is not approved", "5  no such"] {
            assert!(error.to_string().contains(code), "{code}");
        }
    }
}
