//! What the host sees and does, in the words of people: shared by the terminal, the control socket
//! and its commands.

use std::collections::BTreeMap;
use std::time::Duration;

use lanyard_hub::authority::{Approval, Authority, OperatorCommand, Verdict};
use lanyard_protocol::limits::CODE_TRIES;
use lanyard_protocol::message::{Admission, JoinRequestInfo, LinkListed, LinksPull};
use lanyard_protocol::{
    Client, DeviceId, DeviceKind, FailureCode, FileId, LinkHash, MasterToConsole, Membership,
    RequestId, Root,
};
use serde::{Deserialize, Serialize};

use crate::authority::driver::{DriverHandle, DriverStopped};
use crate::output::exit::Exit;

/// A device that knocks shows its digits within this, or `approve` says that it does not.
const REVEAL_TIMEOUT: Duration = Duration::from_secs(5);
const REVEAL_POLL: Duration = Duration::from_millis(50);

/// One device as `lanyard devices` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceRow {
    pub public_id: DeviceId,
    pub name: String,
    pub kind: DeviceKind,
    pub membership: Membership,
    pub presence: PresenceWord,
    /// The six digits, once the device shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Where a knock comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it is turned away by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PresenceWord {
    Online,
    Away,
}

/// One listed file as `lanyard files` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRow {
    pub owner: DeviceId,
    pub owner_name: String,
    pub file_id: FileId,
    pub path: String,
    pub size: u64,
    pub modified_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
}

/// Bytes that the hub remembers for its devices, and how many it may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListUsage {
    pub bytes: u64,
    pub limit_bytes: u64,
    pub device_limit_bytes: u64,
    /// Those with the most first.
    pub devices: Vec<DeviceUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceUsage {
    pub public_id: DeviceId,
    pub name: String,
    pub bytes: u64,
}

/// One link of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkRow {
    #[serde(flatten)]
    pub link: LinkListed,
    pub maker_name: String,
}

/// Why a wish of the host came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct OperatorError {
    pub exit: u8,
    pub message: String,
}

impl OperatorError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit: exit as u8, message: message.into() }
    }

    fn of(code: FailureCode, message: String) -> Self {
        let exit = if code == FailureCode::NotFound {
            Exit::NotFound
        } else if code == FailureCode::BadMessage {
            Exit::Usage
        } else {
            Exit::Failed
        };
        Self::new(exit, message)
    }
}

impl From<DriverStopped> for OperatorError {
    fn from(over: DriverStopped) -> Self {
        Self::new(Exit::NotReachable, over.to_string())
    }
}

/// Everybody the hub knows of, those who wait first.
pub(crate) fn devices(authority: &Authority) -> Vec<DeviceRow> {
    let pending = |client: Client, presence, code, address| DeviceRow {
        public_id: client.public_id,
        name: client.name,
        kind: client.kind,
        membership: Membership::Pending,
        presence,
        code,
        address: Some(address),
        until_ms: None,
    };
    let knocks = authority.knocks(true).knocks.into_iter().map(|knock| {
        let JoinRequestInfo { public_id, name, kind, platform, .. } = knock;
        let presence = if knock.left { PresenceWord::Away } else { PresenceWord::Online };
        pending(Client { public_id, name, kind, platform }, presence, knock.code, knock.address)
    });
    let in_line = authority.waiting().into_iter();
    let in_line = in_line
        .map(|one| pending(one.client.clone(), PresenceWord::Online, None, one.address.clone()));
    let mut members: Vec<DeviceRow> = authority
        .members()
        .map(|member| {
            let id = member.client.public_id;
            let approved = member.verdict == Verdict::Approved;
            DeviceRow {
                public_id: id,
                name: member.client.name.clone(),
                kind: member.client.kind,
                membership: if approved { Membership::Approved } else { Membership::Disapproved },
                presence: if authority.is_online(id) {
                    PresenceWord::Online
                } else {
                    PresenceWord::Away
                },
                code: None,
                address: None,
                until_ms: member.until_ms,
            }
        })
        .collect();
    members.sort_by_key(|row| {
        (row.membership == Membership::Disapproved, row.name.to_lowercase(), row.public_id)
    });
    knocks.chain(in_line).chain(members).collect()
}

/// How many devices are at the door.
pub(crate) fn waiting(authority: &Authority) -> usize {
    authority.knocks(false).knocks.iter().filter(|knock| !knock.left).count()
        + authority.waiting().len()
}

/// Every listed file, by owner and path.
pub(crate) fn files(authority: &Authority) -> Vec<FileRow> {
    let name =
        |id| authority.member(id).map_or_else(String::new, |member| member.client.name.clone());
    let mut rows: Vec<FileRow> = authority
        .files()
        .map(|entry| FileRow {
            owner: entry.public_id,
            owner_name: name(entry.public_id),
            file_id: entry.file_id,
            path: entry.path.clone(),
            size: entry.size,
            modified_ms: entry.modified_ms,
            root: entry.root,
        })
        .collect();
    rows.sort_by(|a, b| (&a.owner_name, a.owner, &a.path).cmp(&(&b.owner_name, b.owner, &b.path)));
    rows
}

/// How full the list is, and by whom.
pub(crate) fn usage(authority: &Authority) -> ListUsage {
    let remembered = authority.remembered();
    let name =
        |id| authority.member(id).map_or_else(String::new, |member| member.client.name.clone());
    let row = |(public_id, bytes)| DeviceUsage { public_id, name: name(public_id), bytes };
    let mut devices: Vec<DeviceUsage> = remembered.devices.into_iter().map(row).collect();
    devices.sort_by_key(|row| (std::cmp::Reverse(row.bytes), row.public_id));
    ListUsage {
        bytes: remembered.bytes,
        limit_bytes: remembered.limit,
        device_limit_bytes: remembered.device_limit,
        devices,
    }
}

/// The device that a person means by a name or an id, or the beginning of an id that only one has.
pub(crate) fn resolve(rows: &[DeviceRow], meant: &str) -> Result<DeviceId, OperatorError> {
    let mut found: Vec<&DeviceRow> = Vec::new();
    let lower = meant.to_lowercase();
    let tests: [&dyn Fn(&DeviceRow) -> bool; 4] = [
        &|row| row.public_id.to_string() == lower,
        &|row| row.name == meant,
        &|row| row.name.to_lowercase() == lower,
        &|row| lower.len() >= 4 && row.public_id.to_string().starts_with(&lower),
    ];
    for test in tests {
        found.extend(rows.iter().filter(|row| test(row)));
        if !found.is_empty() {
            break;
        }
    }
    // One device may knock from two tabs.
    found.dedup_by_key(|row| row.public_id);
    match found[..] {
        [] => Err(OperatorError::new(
            Exit::NotFound,
            format!("no device is called `{}`", crate::output::text::visible(meant)),
        )),
        [one] => Ok(one.public_id),
        _ => {
            let ids: Vec<String> = found.iter().map(|row| format!("  {}", row.public_id)).collect();
            let meant = crate::output::text::visible(meant);
            Err(OperatorError::new(
                Exit::Usage,
                format!("`{meant}` may be any of these:\n{}", ids.join("\n")),
            ))
        }
    }
}

pub(crate) async fn resolve_live(
    driver: &DriverHandle,
    meant: &str,
) -> Result<DeviceId, OperatorError> {
    resolve(&driver.query(|authority, _| devices(authority)).await?, meant)
}

/// Lets a device in. Without digits it is enough that it was named, here where only the owner can
/// speak.
pub(crate) async fn approve(
    driver: &DriverHandle,
    public_id: DeviceId,
    request_id: Option<RequestId>,
    code: Option<String>,
    for_ms: Option<u64>,
) -> Result<(), OperatorError> {
    let word = code.map_or(Approval::Named, Approval::Typed);
    let deadline = tokio::time::Instant::now() + REVEAL_TIMEOUT;
    loop {
        let command =
            OperatorCommand::Approve { public_id, request_id, word: word.clone(), for_ms };
        let answer = driver.execute(command).await?;
        let is_early =
            matches!(&answer, MasterToConsole::RequestFailed(no) if no.code == FailureCode::Busy);
        if !is_early || tokio::time::Instant::now() > deadline {
            return told(driver, public_id, answer).await;
        }
        // It has knocked and not yet revealed: a round trip away.
        tokio::time::sleep(REVEAL_POLL).await;
    }
}

async fn told(
    driver: &DriverHandle,
    public_id: DeviceId,
    answer: MasterToConsole,
) -> Result<(), OperatorError> {
    let MasterToConsole::RequestFailed(no) = answer else { return Ok(()) };
    let verdict =
        driver.query(move |authority, _| authority.member(public_id).map(|m| m.verdict)).await?;
    Err(match no.code {
        FailureCode::NotFound if verdict == Some(Verdict::Refused) => OperatorError::new(
            Exit::NotFound,
            "that device was turned away; `lanyard forget` lets it knock again",
        ),
        FailureCode::NotFound => {
            OperatorError::new(Exit::NotFound, "that device does not knock at the moment")
        }
        FailureCode::Busy => {
            OperatorError::new(Exit::Failed, "that device does not show its digits yet; try again")
        }
        FailureCode::BadMessage => OperatorError::new(Exit::Usage, "the code is six digits"),
        FailureCode::ServerNotReady => {
            OperatorError::new(Exit::Failed, "the relay is away; try again when it is back")
        }
        FailureCode::WrongCode => {
            let left = driver.query(move |authority, _| tries_left(authority, public_id)).await?;
            OperatorError::new(Exit::Failed, format!("{}; {}", no.message, tries_words(left)))
        }
        code @ (FailureCode::NotApproved
        | FailureCode::PeerRevoked
        | FailureCode::FileGone
        | FailureCode::FileChanged
        | FailureCode::NoHashes
        | FailureCode::Cancelled
        | FailureCode::OwnerAway
        | FailureCode::TimedOut
        | FailureCode::BadBytes
        | FailureCode::UnsupportedVersion
        | FailureCode::IdTaken
        | FailureCode::PathRejected
        | FailureCode::TooLarge
        | FailureCode::Quota
        | FailureCode::LinkUsedUp
        | FailureCode::StaleRequest
        | FailureCode::TicketRefused
        | FailureCode::TicketUsed
        | FailureCode::Unauthenticated
        | FailureCode::LengthRequired
        | FailureCode::UnsupportedEncoding
        | FailureCode::HostDenied
        | FailureCode::OriginDenied
        | FailureCode::TlsRequired
        | FailureCode::Internal) => OperatorError::of(code, no.message),
    })
}

/// How often digits may still be typed for a device that waits.
fn tries_left(authority: &Authority, public_id: DeviceId) -> Option<u32> {
    authority
        .knocks(false)
        .knocks
        .iter()
        .find(|knock| knock.public_id == public_id)
        .map(|knock| knock.tries_left)
}

/// After the last try a device knocks anew, with all of them.
fn tries_words(left: Option<u32>) -> String {
    match left {
        Some(1) => "one try is left".into(),
        Some(left @ 2..CODE_TRIES) => format!("{left} tries are left"),
        _ => "the device gets new digits".into(),
    }
}

/// Makes an invitation: what stands behind `i=` in its address, and until when it is good.
pub(crate) async fn invite(
    driver: &DriverHandle,
    valid_ms: u64,
    for_ms: Option<u64>,
) -> Result<(String, u64), OperatorError> {
    let answer = driver.execute(OperatorCommand::Invite { valid_ms, for_ms }).await?;
    let MasterToConsole::Invitation(made) = answer else {
        return Err(unexpected(answer, "the hub did not make an invitation"));
    };
    Ok((format!("{}{}", made.id.to_hex(), made.secret.to_hex()), made.expires_ms))
}

/// Returns the reason of a failed request, or `otherwise` for an answer to something else.
fn unexpected(answer: MasterToConsole, otherwise: &str) -> OperatorError {
    if let MasterToConsole::RequestFailed(failed) = answer {
        OperatorError::of(failed.code, failed.message)
    } else {
        OperatorError::new(Exit::Failed, otherwise)
    }
}

/// Whom to let in from now on.
pub(crate) async fn set_door(
    driver: &DriverHandle,
    admission: Admission,
) -> Result<(), OperatorError> {
    driver.execute(OperatorCommand::SetDoor(admission)).await.map(drop).map_err(OperatorError::from)
}

/// Tells the host what it means to be asked about more devices than usual.
pub(crate) const MORE_ALLOWED: &str = "more devices may ask now, for ten minutes";

/// Lets more devices ask than usual, for ten minutes.
pub(crate) async fn allow_more(driver: &DriverHandle) -> Result<(), OperatorError> {
    driver.execute(OperatorCommand::AllowMore).await.map(drop).map_err(OperatorError::from)
}

/// What the host is told of whom it lets in.
pub(crate) fn door_words(admission: Admission) -> &'static str {
    match admission {
        Admission::Ask => "each new device is asked about",
        Admission::Everyone => "EVERYBODY on this network is let in without a question",
        Admission::Closed => "nobody new is let in without an invitation",
    }
}

/// Turns a device away, for good.
pub(crate) async fn refuse(
    driver: &DriverHandle,
    public_id: DeviceId,
) -> Result<(), OperatorError> {
    let answer = driver.execute(OperatorCommand::Refuse { public_id }).await?;
    let MasterToConsole::RequestFailed(failed) = answer else { return Ok(()) };
    if failed.code == FailureCode::BadMessage {
        return Err(OperatorError::new(Exit::Usage, "the host itself cannot be turned away"));
    }
    Err(OperatorError::of(failed.code, failed.message))
}

/// Lifts a refusal: that key may knock again.
pub(crate) async fn forget(
    driver: &DriverHandle,
    public_id: DeviceId,
) -> Result<(), OperatorError> {
    let answer = driver.execute(OperatorCommand::Forget { public_id }).await?;
    if matches!(answer, MasterToConsole::RequestFailed(_)) {
        return Err(OperatorError::new(Exit::NotFound, "that device was not turned away"));
    }
    Ok(())
}

/// Everybody's links, the newest first.
pub(crate) async fn links(driver: &DriverHandle) -> Result<Vec<LinkRow>, OperatorError> {
    let mut links = Vec::new();
    let mut cursor = None;
    loop {
        let answer = driver.execute(OperatorCommand::PullLinks(LinksPull { cursor })).await?;
        let MasterToConsole::LinksPage(page) = answer else {
            return Err(unexpected(answer, "the hub did not list its links"));
        };
        links.extend(page.links);
        cursor = page.cursor;
        if page.last || cursor.is_none() {
            break;
        }
    }
    let names = driver.query(|authority, _| {
        authority
            .members()
            .map(|member| (member.client.public_id, member.client.name.clone()))
            .collect()
    });
    let names: BTreeMap<DeviceId, String> = names.await?;
    let row = |link: LinkListed| LinkRow {
        maker_name: names.get(&link.public_id).cloned().unwrap_or_default(),
        link,
    };
    Ok(links.into_iter().map(row).collect())
}

/// Ends links of anybody; gives how many.
pub(crate) async fn drop_links(
    driver: &DriverHandle,
    ids: &[String],
) -> Result<usize, OperatorError> {
    let rows = links(driver).await?;
    let hashes = meant_links(rows.iter().map(|row| &row.link), ids)?;
    for hash in &hashes {
        let answer = driver.execute(OperatorCommand::DropLink(*hash)).await?;
        let MasterToConsole::RequestFailed(failed) = answer else { continue };
        // A link that ended by itself meanwhile is not there: nothing is left to do.
        if failed.code != FailureCode::NotFound {
            return Err(OperatorError::of(failed.code, failed.message));
        }
    }
    Ok(hashes.len())
}

/// Which links are meant by the beginnings of ids, or by `all`.
pub(crate) fn meant_links<'a>(
    links: impl Iterator<Item = &'a LinkListed> + Clone,
    ids: &[String],
) -> Result<Vec<LinkHash>, OperatorError> {
    let mut meant = Vec::new();
    for id in ids {
        let found: Vec<LinkHash> = links
            .clone()
            .map(|link| link.link_hash)
            .filter(|hash| id == "all" || hash.to_hex().starts_with(id.as_str()))
            .collect();
        let shown = crate::output::text::visible(id);
        match found.len() {
            0 if id == "all" => {}
            0 => {
                return Err(OperatorError::new(
                    Exit::NotFound,
                    format!("no link begins with `{shown}`"),
                ));
            }
            1 => meant.extend(found),
            _ if id == "all" => meant.extend(found),
            _ => {
                return Err(OperatorError::new(
                    Exit::Usage,
                    format!("several links begin with `{shown}`"),
                ));
            }
        }
    }
    meant.sort_unstable();
    meant.dedup();
    Ok(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_code_says_what_is_left() {
        for (left, words) in [
            (Some(2), "2 tries are left"),
            (Some(1), "one try is left"),
            (Some(CODE_TRIES), "the device gets new digits"),
            (None, "the device gets new digits"),
        ] {
            assert_eq!(tries_words(left), words);
        }
    }

    fn row(id: &str, name: &str) -> DeviceRow {
        DeviceRow {
            public_id: id.parse().unwrap(),
            name: name.into(),
            kind: DeviceKind::Browser,
            membership: Membership::Approved,
            presence: PresenceWord::Away,
            code: None,
            address: None,
            until_ms: None,
        }
    }

    #[test]
    fn a_device_is_meant_by_name_id_or_the_beginning_of_an_id() {
        let one = "aaaa1111-0000-8000-8000-000000000001";
        let two = "aaaa2222-0000-8000-8000-000000000002";
        let rows = [row(one, "Ana"), row(two, "Ben"), row(two, "Ben")];
        for (meant, id) in
            [(one, one), ("Ana", one), ("ben", two), ("aaaa2", two), ("AAAA1111", one)]
        {
            assert_eq!(resolve(&rows, meant).unwrap().to_string(), id, "{meant}");
        }
        assert_eq!(resolve(&rows, "aaaa").unwrap_err().exit, Exit::Usage as u8);
        for meant in ["", "aaa", "Carl"] {
            assert_eq!(resolve(&rows, meant).unwrap_err().exit, Exit::NotFound as u8, "{meant}");
        }
        let twins = [row(one, "Ana"), row(two, "Ana")];
        assert_eq!(resolve(&twins, "Ana").unwrap_err().exit, Exit::Usage as u8);
    }
}
