//! Control sockets: how commands speak to the running hub, and to running devices. One JSON line
//! each way.

pub(crate) mod client;
pub(crate) mod device;
pub(crate) mod device_client;
mod server;
mod transport;

use std::collections::BTreeMap;

use lanyard_protocol::identity;
use lanyard_protocol::message::{Admission, Problem, RelayStatus};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub(crate) use client::failure;
pub(crate) use transport::Listener;

use crate::authority::driver::DriverHandle;
use crate::operator::actions::{self, ListUsage, OperatorError};
use crate::operator::console::LoginLinks;
use crate::output::exit::Exit;
use crate::problems;

/// A command that waits longer for the disk is told so.
const DISK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

/// The name of the hub's own socket.
pub(crate) const HUB: &str = "control";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum ControlRequest {
    Devices,
    Files,
    Status,
    Console,
    Approve {
        id: String,
        code: Option<String>,
        for_ms: Option<u64>,
    },
    Invite {
        valid_ms: u64,
        for_ms: Option<u64>,
    },
    /// Without a word: how it is.
    Door {
        admission: Option<Admission>,
    },
    /// To be asked about more devices than usual, for a while.
    AllowMore,
    Refuse {
        id: String,
    },
    Forget {
        id: String,
    },
    /// Everybody's links.
    Links,
    /// Ends links by the beginning of their ids, or all.
    DropLinks {
        ids: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ControlResponse {
    Ok(serde_json::Value),
    Failed(OperatorError),
}

/// How the hub stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusOutput {
    pub name: String,
    /// Fingerprint of the hub's key, as on the QR code. Empty until the relay was there.
    pub fingerprint: String,
    pub urls: Vec<String>,
    pub relay_ready: bool,
    pub epoch: u64,
    pub revision: u64,
    pub approved: usize,
    pub online: usize,
    pub waiting: usize,
    pub files: usize,
    /// How full the list is.
    #[serde(default)]
    pub list: ListUsage,
    pub console: String,
    pub admission: Admission,
    /// Active problems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// The relay's figures, while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayFigures>,
}

/// The relay's figures as a program reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RelayFigures {
    pub pending: u64,
    pub pending_limit: u64,
    pub slot_bytes: u64,
    pub slot_budget_bytes: u64,
    pub waiting_asks: u64,
    /// By code.
    pub refused: BTreeMap<String, u64>,
    /// By reason.
    pub closed: BTreeMap<String, u64>,
}

impl From<&RelayStatus> for RelayFigures {
    fn from(status: &RelayStatus) -> Self {
        let refused = status.refused.iter().map(|row| (row.code.as_str().to_owned(), row.count));
        let closed = status.closed.iter().map(|row| (row.reason.reason().to_owned(), row.count));
        Self {
            pending: status.pending,
            pending_limit: status.pending_limit,
            slot_bytes: status.slot_bytes,
            slot_budget_bytes: status.slot_budget_bytes,
            waiting_asks: status.waiting_asks,
            refused: refused.collect(),
            closed: closed.collect(),
        }
    }
}

impl RelayFigures {
    /// Names the limits that are reached.
    pub(crate) fn at_limit(&self) -> Vec<&'static str> {
        let mut full = Vec::new();
        if self.pending_limit > 0 && self.pending >= self.pending_limit {
            full.push("the limit of pending join requests is reached");
        }
        if self.waiting_asks > 0 && self.slot_bytes * 10 >= self.slot_budget_bytes * 9 {
            full.push("the memory for transfers is used up");
        }
        full
    }
}

/// An invitation as its maker passes it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InvitationOutput {
    pub url: String,
    pub expires_ms: u64,
}

/// The parts of the hub that commands reach.
#[derive(Clone)]
pub(crate) struct Control {
    pub driver: DriverHandle,
    pub door: LoginLinks,
    pub name: String,
    pub urls: Vec<String>,
}

impl Control {
    /// Serves commands until `stop`.
    pub(crate) async fn run(self, listener: Listener, stop: CancellationToken) {
        let answer = move |request| {
            let control = self.clone();
            async move { control.answer(request).await }
        };
        server::serve(listener, stop, answer).await;
    }

    /// What waits for the hub's disk is said after a moment; it is done all the same, as soon as
    /// the disk takes it.
    async fn answer(&self, request: ControlRequest) -> Result<serde_json::Value, OperatorError> {
        tokio::select! {
            biased;
            answered = self.carry_out(request) => answered,
            hindered = self.hindered() => Err(hindered),
        }
    }

    async fn hindered(&self) -> OperatorError {
        let of_the_disk = |all: &Vec<problems::ActiveProblem>| {
            let codes = [problems::DATABASE_LOCKED, problems::DATABASE_FULL];
            all.iter().find(|problem| codes.contains(&problem.code)).cloned()
        };
        let mut watch = self.driver.problems().watch();
        loop {
            if watch.wait_for(|all| of_the_disk(all).is_some()).await.is_err() {
                return std::future::pending().await;
            }
            tokio::time::sleep(DISK_TIMEOUT).await;
            if let Some(problem) = of_the_disk(&watch.borrow()) {
                let said = format!("{} {} The decision is queued.", problem.what, problem.advice);
                return OperatorError::new(Exit::Failed, said);
            }
        }
    }

    async fn carry_out(&self, request: ControlRequest) -> Result<serde_json::Value, OperatorError> {
        let driver = &self.driver;
        let done = serde_json::Value::Null;
        match request {
            ControlRequest::Devices => {
                Ok(json(driver.query(|authority, _| actions::devices(authority)).await?))
            }
            ControlRequest::Files => {
                Ok(json(driver.query(|authority, _| actions::files(authority)).await?))
            }
            ControlRequest::Status => Ok(json(self.status().await?)),
            ControlRequest::Console => {
                let link = self
                    .door
                    .link()
                    .map_err(|error| OperatorError::new(Exit::Failed, error.to_string()))?;
                Ok(json(link))
            }
            ControlRequest::Invite { valid_ms, for_ms } => {
                let (words, expires_ms) = actions::invite(driver, valid_ms, for_ms).await?;
                let best = self.urls.first().cloned().unwrap_or_default();
                let key = driver
                    .query(|_, hub| hub.map(|hub| identity::fingerprint(&hub.public_key)))
                    .await?;
                let url = format!("{best}/#k={}&i={words}", key.unwrap_or_default());
                Ok(json(InvitationOutput { url, expires_ms }))
            }
            ControlRequest::Door { admission } => {
                if let Some(admission) = admission {
                    actions::set_door(driver, admission).await?;
                }
                Ok(json(driver.query(|authority, _| authority.admission()).await?))
            }
            ControlRequest::Approve { id, code, for_ms } => {
                let id = actions::resolve_live(driver, &id).await?;
                actions::approve(driver, id, None, code, for_ms).await.map(|()| done)
            }
            ControlRequest::AllowMore => actions::allow_more(driver).await.map(|()| done),
            ControlRequest::Links => Ok(json(actions::links(driver).await?)),
            ControlRequest::DropLinks { ids } => Ok(json(actions::drop_links(driver, &ids).await?)),
            ControlRequest::Refuse { id } => {
                actions::refuse(driver, actions::resolve_live(driver, &id).await?)
                    .await
                    .map(|()| done)
            }
            ControlRequest::Forget { id } => {
                actions::forget(driver, actions::resolve_live(driver, &id).await?)
                    .await
                    .map(|()| done)
            }
        }
    }

    async fn status(&self) -> Result<StatusOutput, OperatorError> {
        let (name, urls, console) =
            (self.name.clone(), self.urls.clone(), format!("http://{}", self.door.address()));
        let look = move |authority: &lanyard_hub::authority::Authority,
                         hub: Option<&lanyard_protocol::HubInfo>| {
            let approved = |m: &&lanyard_hub::authority::Member| {
                m.verdict == lanyard_hub::authority::Verdict::Approved
            };
            StatusOutput {
                name: hub.map_or(name, |hub| hub.name.clone()),
                fingerprint: hub.map_or_else(String::new, |h| {
                    lanyard_protocol::identity::fingerprint(&h.public_key)
                }),
                urls,
                relay_ready: authority.is_relay_ready(),
                epoch: authority.head().epoch,
                revision: authority.head().revision,
                approved: authority.members().filter(approved).count(),
                online: authority.presence().online.len(),
                waiting: actions::waiting(authority),
                files: authority.file_count(),
                list: actions::usage(authority),
                console,
                admission: authority.admission(),
                problems: Vec::new(),
                relay: authority.relay_status().map(RelayFigures::from),
            }
        };
        let status = self.driver.query(look).await?;
        let problems: Vec<Problem> =
            self.driver.problems().all().into_iter().map(Into::into).collect();
        Ok(StatusOutput { problems, ..status })
    }
}

fn json(value: impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("rows have string keys and no failing serializers")
}

#[cfg(test)]
mod tests;
