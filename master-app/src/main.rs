//! The binary `lanyard`: the whole hub, its two halves, the operator console and the native client,
//! by subcommand.

#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests plant what they like"))]

mod authority;
mod cli;
mod data_dir;
mod net;
mod operator;
mod output;
mod problems;
mod run;
mod store;

use std::io::IsTerminal;
use std::process::ExitCode;

use cli::global::{Global, LogFormat};
use cli::{Command, audit, device, transfers};
use output::exit::{Exit, Outcome};
use run::{hub, log, runtime};

fn main() -> ExitCode {
    let (global, command) = cli::parse();
    // Logs go to standard error: standard output is for what was asked for.
    // A person at a terminal is told the rest by what is printed.
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(log::filter(colours))
        .with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Text => log.with_ansi(colours).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    let runtime = match runtime::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("lanyard: cannot start: {error}");
            return Exit::Failed.into();
        }
    };
    // As a task: what a runtime of one thread waits for itself costs a system call at each wake-up.
    let outcome = runtime
        .block_on(async move { tokio::spawn(async move { run(&global, command).await }).await });
    // A thread that waits for a pipe nobody reads must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(Ok(())) => Exit::Done.into(),
        Err(broken) => {
            eprintln!("lanyard: {broken}");
            Exit::Failed.into()
        }
        Ok(Err(failure)) => {
            eprintln!("lanyard: {failure}");
            failure.exit.into()
        }
    }
}

async fn run(global: &Global, command: Command) -> Outcome {
    match command {
        Command::Serve(args) => hub::serve(global, args).await,
        Command::Relay(args) => hub::relay(global, args).await,
        Command::Master(args) => hub::master(global, args).await,
        Command::Devices => cli::hub::devices(global).await,
        Command::Approve { id, code, stay } => cli::hub::approve(global, id, code, stay).await,
        Command::Invite { valid, stay } => cli::hub::invite(global, valid, stay).await,
        Command::AllowMore => cli::hub::allow_more(global).await,
        Command::Door { admission } => cli::hub::door(global, admission.map(Into::into)).await,
        Command::Refuse { id } => cli::hub::refuse(global, id).await,
        Command::Forget { id } => cli::hub::forget(global, id).await,
        Command::Console => cli::hub::console(global).await,
        Command::Files => cli::hub::files(global).await,
        Command::Status => cli::hub::status(global).await,
        Command::Audit => audit::print(global),
        Command::Transfers => transfers::transfers(global).await,
        Command::Pause { id } => transfers::pause(global, id).await,
        Command::Resume { id } => transfers::resume(global, id).await,
        Command::Cancel { id } => transfers::cancel(global, id).await,
        Command::Limit { up, down } => transfers::limit(global, up, down).await,
        Command::Device(command) => device::run(command, global).await,
    }
}
