//! A09. Everything that can be asked of the relay, by everybody: each route with each method, each
//! message of each direction. What comes of it stands in `matrix.txt`; a new route or message
//! without a row fails, and so does any other outcome.
//!
//! `LANYARD_BLESS=1 cargo test -p lanyard-tests --test attacks a09` writes the table anew: read
//! what changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use lanyard_device::connection::{HubUrl, ReceivedFrame, RelayConnection};
use lanyard_hub::authority::OperatorCommand;
use lanyard_protocol::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"];
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/attacks/matrix.txt");

/// Who asks. The impostor is on the master's socket without a proof.
const ACTORS: [&str; 6] = ["nobody", "unapproved", "refused", "another", "impostor", "master"];

/// One line of the table.
fn row(what: &str, outcomes: &[String]) -> String {
    format!("{what:<44} | {}", outcomes.join(" | "))
}

/// Each section: what nobody, an unapproved device and so on get.
#[tokio::test]
async fn a09_permissions_are_those_of_the_table() {
    let mut lines = vec![
        "# Who may do what: every route and every message of the relay, and what comes of it. See matrix.rs.".into(),
        "# another: a device that is approved, about what belongs to others. impostor: on the master's socket, unproven.".into(),
        format!("# {:<42} | {}", "route", ["nobody", "unapproved", "refused", "another", "master"].join(" | ")),
    ];
    lines.extend(routes_by_everybody().await);
    lines.push(format!("# {:<42} | {}", "message", ACTORS.join(" | ")));
    lines.extend(messages_by_everybody().await);
    let now = lines.join("\n") + "\n";
    if std::env::var_os("LANYARD_BLESS").is_some() {
        fs::write(TABLE, &now).unwrap();
    }
    let table = fs::read_to_string(TABLE).unwrap();
    for (is, was) in now.lines().zip(table.lines()) {
        assert_eq!(is, was, "another outcome, or a row that is missing");
    }
    assert_eq!(now.lines().count(), table.lines().count());
}

/// Everything that routes need, and all who ask.
async fn routes_by_everybody() -> Vec<String> {
    let hub = TestHub::with_tls().await;
    let (mut owner, mut asker, other) =
        (hub.approved(1).await, hub.approved(2).await, hub.approved(3).await);
    let mut refused = hub.approved(5).await;
    hub.operator(OperatorCommand::Refuse { public_id: refused.id }).await;
    refused.closed().await;
    let unapproved = TestDevice::connect(&hub, 4, 4).await;
    let (empty, file) = (owner.offers("empty", 0).await, owner.offers("file", 1_000).await);
    let link = asker.link(&[&empty]).await.link.to_hex();
    asker.request(&file, 1, 0, 1).await;
    let ticket = owner.asked().await.ticket.to_hex();
    let order = format!(
        r#"{{"files":[{{"public_id":"{}","file_id":"{}"}}]}}"#,
        file.public_id, file.file_id
    );
    // The master proves itself on its socket, and has no session: its secret is no key of one.
    let master =
        || Some(format!("Authorization: Lanyard {}.1.{}\r\n", "03".repeat(16), "03".repeat(32)));
    let by = |device: &TestDevice, method: &str, target: &str| {
        Some(device.proof(method, target) + "\r\n")
    };
    let mut all = routes();
    all.extend(["/", "/no/such/thing"].map(|path| (path.to_owned(), vec!["get"])));
    let mut rows = Vec::new();
    for (path, methods) in all {
        let target =
            path.replace("{ticket}", &ticket).replace("{link}", &link).replace("{*name}", "x");
        for method in METHODS {
            let known = methods.contains(&method.to_lowercase().as_str())
                || (method == "HEAD" && methods.contains(&"get"));
            let mut outcomes = Vec::new();
            let proofs = [
                None,
                by(&unapproved, method, &target),
                by(&refused, method, &target),
                by(&other, method, &target),
                master(),
            ];
            for proof in proofs {
                let line = proof.unwrap_or_default();
                let request = if method == "GET" && path.starts_with("/ws/") {
                    upgrade(&target, &hub.address.to_string(), &line)
                } else {
                    format!(
                        "{method} {target} HTTP/1.1\r\nHost: {}\r\n{line}Connection: close\r\nContent-Length: {}\r\n\r\n{order}",
                        hub.address,
                        order.len()
                    )
                };
                outcomes.push(status(&head(hub.address, &request).await.1).to_string());
            }
            let only_refused =
                outcomes.iter().all(|outcome| ["404", "405"].contains(&outcome.as_str()));
            assert!(known || only_refused, "{method} {path}: {outcomes:?}");
            if known {
                rows.push(row(&format!("{method} {path}"), &outcomes));
            }
        }
    }
    rows
}

/// All opcodes of a direction, as the type itself tells them in its complaint about one that it
/// does not know.
fn opcodes<M: DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
    let complaint = serde_json::from_str::<M>(r#"{"opcode":"","data":{}}"#)
        .expect_err("no message")
        .to_string();
    let names = complaint.split('`').skip(1).step_by(2).filter(|name| !name.is_empty());
    let mut opcodes: Vec<String> = names.map(str::to_owned).collect();
    assert!(opcodes.len() > 5, "{complaint}");
    opcodes.sort();
    opcodes
}

/// The sample of a message, as somebody says it who wants an answer.
fn sample(direction: &str, opcode: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../protocol/vectors/messages/{direction}.{opcode}.json"));
    let sample: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    json!({ "opcode": opcode, "data": sample["data"], "ref": "asked" }).to_string()
}

async fn messages_by_everybody() -> Vec<String> {
    let mut from_relay = opcodes::<RelayMessage>();
    from_relay.extend(opcodes::<DeviceRequest>());
    from_relay.sort();
    let directions: BTreeMap<&str, Vec<String>> = [
        ("device-to-relay", opcodes::<DeviceToRelay>()),
        ("relay-to-device", opcodes::<RelayToDevice>()),
        ("master-to-relay", opcodes::<MasterToRelay>()),
        ("relay-to-master", from_relay),
        ("console-to-master", opcodes::<ConsoleToMaster>()),
    ]
    .into();
    let hub = TestHub::start().await;
    hub.approved(33).await;
    let mut refused = hub.approved(5).await;
    hub.operator(OperatorCommand::Refuse { public_id: refused.id }).await;
    refused.closed().await;
    let bare = TestRelay::start().await;
    let mut actors = [
        MatrixActor::new(&hub.url, MatrixPart::Nobody),
        MatrixActor::new(&hub.url, MatrixPart::TestDevice(4)),
        MatrixActor::new(&hub.url, MatrixPart::TestDevice(5)),
        MatrixActor::new(&hub.url, MatrixPart::TestDevice(33)),
        MatrixActor::new(&bare.url, MatrixPart::Impostor),
        MatrixActor::new(&bare.url, MatrixPart::Master),
    ];
    let mut rows = Vec::new();
    for (direction, opcodes) in directions {
        for opcode in opcodes {
            let said = sample(direction, &opcode);
            let mut outcomes = Vec::new();
            for actor in &mut actors {
                outcomes.push(actor.tries(&said).await);
            }
            rows.push(row(&format!("{direction} {opcode}"), &outcomes));
        }
    }
    rows
}

#[derive(Debug, Clone, Copy)]
enum MatrixPart {
    Nobody,
    TestDevice(u8),
    Impostor,
    Master,
}

/// Somebody who says what he has no business to say, and connects again when he is thrown out.
struct MatrixActor {
    url: HubUrl,
    part: MatrixPart,
    link: Option<RelayConnection>,
    lives: u8,
}

impl MatrixActor {
    fn new(url: &HubUrl, part: MatrixPart) -> Self {
        Self { url: url.clone(), part, link: None, lives: 0 }
    }

    async fn connect(&mut self) -> RelayConnection {
        self.lives += 1;
        match self.part {
            MatrixPart::Nobody => challenged(&self.url).await.0,
            // Always the same tab: an older session gives way.
            MatrixPart::TestDevice(seed) => registers(&self.url, seed, |_, _| {}).await.0,
            MatrixPart::Impostor => {
                let mut link = RelayConnection::open(&self.url, "/ws/master", None).await.unwrap();
                within(link.receive()).await.unwrap();
                link
            }
            MatrixPart::Master => master_link(&self.url, u64::from(self.lives)).await,
        }
    }

    /// Says it, then something that is always answered, after it. What came of it in between.
    async fn tries(&mut self, said: &str) -> String {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect().await,
        };
        let last = match self.part {
            MatrixPart::Master | MatrixPart::Impostor => {
                r#"{"opcode":"PING","data":{},"ref":"last"}"#
            }
            // By way of the master, so that whatever it answers came before.
            _ => r#"{"opcode":"FEED_PULL","data":{"epoch":0,"since":0},"ref":"last"}"#,
        };
        // Who was thrown out hears why.
        let _ = link.send(said.to_owned()).await;
        let _ = link.send(last.to_owned()).await;
        let mut outcome = "nothing".to_owned();
        // The one request whose outcome is no answer, and may come later.
        let comes_later =
            said.contains("\"REQUEST_CHUNK\"") && matches!(self.part, MatrixPart::TestDevice(33));
        let mut is_last = false;
        loop {
            let text = match within(link.receive()).await {
                Ok(ReceivedFrame::Text(text)) => text,
                Ok(ReceivedFrame::Closed(code)) => {
                    return code.map_or("cut".into(), |code| code.to_string());
                }
                Err(_) => return "cut".into(),
            };
            let frame: Value = serde_json::from_str(&text).unwrap();
            is_last |= frame["ref"] == "last";
            if frame["ref"] == "asked" || frame["opcode"] == "CHUNK_FAILED" {
                let code = frame["data"]["code"].as_str();
                outcome = code.or(frame["opcode"].as_str()).unwrap().to_owned();
            }
            if is_last && (!comes_later || outcome != "nothing") {
                self.link = Some(link);
                return outcome;
            }
        }
    }
}

/// A registered master's socket.
async fn master_link(url: &HubUrl, term: u64) -> RelayConnection {
    let mut link = RelayConnection::open(url, "/ws/master", None).await.unwrap();
    let ReceivedFrame::Text(text) = within(link.receive()).await.unwrap() else {
        panic!("no challenge")
    };
    let frame: MasterFrame<RelayToMaster> = codec::decode_master(&text).unwrap();
    let RelayToMaster::Relay(RelayMessage::MasterChallenge(challenge)) = frame.message else {
        panic!("{text}")
    };
    let nonce = Nonce([4; 32]);
    let (boot_id, relay_nonce, channel) = (challenge.boot_id, challenge.nonce, link.channel);
    let transcript = master_proof::MasterTranscript {
        boot_id,
        relay_nonce,
        master_nonce: nonce,
        term,
        authority: url.authority(),
        channel,
    };
    let mac = transcript.master_mac(&SECRET);
    let register = MasterToRelay::MasterAppRegister(message::MasterAppRegister {
        protocol: PROTOCOL_VERSION,
        nonce,
        term,
        mac,
    });
    link.send(codec::encode_master(&MasterFrame::plain(register))).await.unwrap();
    assert!(matches!(within(link.receive()).await.unwrap(), ReceivedFrame::Text(_)));
    let roster = message::MasterRoster {
        page: 0,
        last: true,
        approved: vec![],
        refused: vec![],
        epoch: 1,
        revision: 0,
    };
    let roster = codec::encode_master(&MasterFrame::plain(MasterToRelay::MasterRoster(roster)));
    link.send(roster).await.unwrap();
    link
}
