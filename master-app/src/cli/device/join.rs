//! `lanyard join`: knock, show the digits, wait for the host.

use lanyard_device::connection::GivenUrl;
use lanyard_device::{DeviceEvent, MembershipPhase, RateLimits, RevealBook};
use lanyard_system::clock::now_ms;
use serde_json::json;
use tokio::time::timeout_at;

use super::args::JoinArgs;
use super::connection::{AtTheDoor, DeviceConnection, interrupted};
use super::output::Output;
use crate::cli::global::Global;
use crate::output::exit::{Exit, Failure, Outcome};
use crate::output::text;

/// Returns when the host has decided.
pub(super) async fn join(global: &Global, args: JoinArgs) -> Outcome {
    let output = Output::new(global);
    let GivenUrl { url, invitation } = args.url;
    // Whoever types the command asks to try again.
    let reveals = RevealBook::in_folder(&global.data_dir);
    reveals.begin_anew()?;
    let at_the_door = AtTheDoor { invitation, reveals };
    let mut connection = DeviceConnection::open_with(
        global,
        Some(url),
        args.name,
        RateLimits::default(),
        at_the_door,
    )?;
    wait_for_decision(&mut connection, output).await?;
    connection.remember(now_ms())?;
    let (public_id, hub) = (connection.handle.public_id(), connection.hub_name());
    output.event(&json!({ "event": "approved", "public_id": public_id, "hub": hub }));
    output.note(&format!(
        "{} is in at {} ({})",
        text::visible(&connection.name),
        text::visible(hub),
        connection.url
    ));
    connection.handle.shutdown().await;
    Ok(())
}

async fn wait_for_decision(connection: &mut DeviceConnection, output: Output) -> Outcome {
    let mut asked = Asked::default();
    let deadline = connection.hub_deadline();
    let interrupt = interrupted();
    tokio::pin!(interrupt);
    loop {
        let event = if let Some(failure) = connection.never_answered() {
            match timeout_at(deadline, connection.event()).await {
                Ok(event) => event,
                Err(_) => return Err(failure),
            }
        } else {
            tokio::select! {
                event = connection.event() => event,
                () = &mut interrupt => {
                    connection.handle.shutdown().await;
                    return Err(Failure::new(Exit::Failed, "stopped before the host decided"));
                }
            }
        };
        match event {
            DeviceEvent::Phase(MembershipPhase::Waiting { code }) => asked.say(output, code),
            DeviceEvent::Phase(MembershipPhase::Closed) => {
                output.note("the host lets nobody new in at the moment; waiting")
            }
            DeviceEvent::Phase(MembershipPhase::HostAway) => {
                output.note("the host is away; waiting")
            }
            DeviceEvent::Phase(MembershipPhase::Approved { .. }) => return Ok(()),
            DeviceEvent::Phase(MembershipPhase::Ended { reason }) => {
                let failure = connection.ended(reason);
                if failure.exit == Exit::NotApproved {
                    output.event(
                        &json!({ "event": "refused", "public_id": connection.handle.public_id() }),
                    );
                }
                return Err(failure);
            }
            DeviceEvent::Phase(_)
            | DeviceEvent::Unreachable { .. }
            | DeviceEvent::Hub { .. }
            | DeviceEvent::CatalogueChanged
            | DeviceEvent::SharesChanged { .. }
            | DeviceEvent::Renamed { .. }
            | DeviceEvent::RenameFailed { .. }
            | DeviceEvent::Transfer { .. }
            | DeviceEvent::Progress { .. }
            | DeviceEvent::FileDone { .. }
            | DeviceEvent::FileFailed { .. }
            | DeviceEvent::TransferEnded { .. }
            | DeviceEvent::RelayProgress(_) => {}
        }
    }
}

/// What was said of the knock.
#[derive(Debug, Default)]
struct Asked {
    knocked: bool,
    code: Option<String>,
}

impl Asked {
    fn say(&mut self, output: Output, code: Option<String>) {
        if !std::mem::replace(&mut self.knocked, true) {
            output.event(&json!({ "event": "pending" }));
        }
        if let Some(new) = code.as_ref().filter(|code| self.code.as_ref() != Some(code)) {
            output.event(&json!({ "event": "code", "code": new }));
            output.note(&format!("the host is asked for these digits: {new}"));
        }
        self.code = code;
    }
}
