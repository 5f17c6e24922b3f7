//! Every message of every direction has a golden sample that all implementations read alike. Text
//! from a socket, however wrong, is only refused in the way that PROTOCOL.md 1 says.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use lanyard_protocol::codec::{MasterMessage, decode, decode_master, encode, encode_master};
use lanyard_protocol::identity::{Transcript, public_id};
use lanyard_protocol::limits::{
    MAX_FRAME_BYTES, MAX_JSON_DEPTH, MAX_MASTER_FRAME_BYTES, MAX_SAFE_INTEGER,
};
use lanyard_protocol::link_key::DrawnLink;
use lanyard_protocol::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Messages whose unknown fields close the socket.
const STRICT: [&str; 19] = [
    "CHALLENGE",
    "CLIENT_REGISTER",
    "CLIENT_REGISTER_ACK",
    "MASTER_CHALLENGE",
    "MASTER_APP_REGISTER",
    "MASTER_APP_REGISTER_ACK",
    "CONSOLE_REGISTER",
    "CONSOLE_REGISTER_ACK",
    "NEW_CLIENT_REGISTERED",
    "APPROVAL_CHALLENGE",
    "APPROVAL_REVEAL",
    "APPROVAL_OPEN",
    "APPROVAL_COMMIT",
    "APPROVAL_RESTART",
    "APPROVAL_CLOSED",
    "APPROVE_CLIENT",
    "DIS_APPROVE_CLIENT",
    "CLIENT_APPROVED",
    "CLIENT_DIS_APPROVED",
];

/// `{direction}.{OPCODE}` → the sample's text.
fn samples() -> BTreeMap<(String, String), String> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/messages");
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .strip_suffix(".json")
                .expect("samples end in .json");
            let (direction, opcode) = name.split_once('.').expect("{direction}.{OPCODE}.json");
            ((direction.to_owned(), opcode.to_owned()), fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn sample(direction: &str, opcode: &str) -> Value {
    let text = &samples()[&(direction.to_owned(), opcode.to_owned())];
    serde_json::from_str(text).unwrap()
}

/// One direction: reads a text into a message and writes that again.
struct MessageDirection {
    name: &'static str,
    on_master_socket: bool,
    opcodes: BTreeSet<String>,
    again: fn(&str) -> Result<String, DecodeError>,
}

fn directions() -> Vec<MessageDirection> {
    fn socket<M: Serialize + DeserializeOwned + Debug>(name: &'static str) -> MessageDirection {
        let again = |text: &str| {
            decode::<M>(text).map(|frame| encode(&frame.message, frame.reference.as_ref()))
        };
        MessageDirection { name, on_master_socket: false, opcodes: opcodes::<M>(), again }
    }
    fn master<M: MasterMessage>(name: &'static str, opcodes: BTreeSet<String>) -> MessageDirection {
        let again = |text: &str| decode_master::<M>(text).map(|frame| encode_master(&frame));
        MessageDirection { name, on_master_socket: true, opcodes, again }
    }
    let mut from_relay = opcodes::<RelayMessage>();
    from_relay.extend(opcodes::<DeviceRequest>());
    vec![
        socket::<DeviceToRelay>("device-to-relay"),
        socket::<RelayToDevice>("relay-to-device"),
        master::<MasterToRelay>("master-to-relay", opcodes::<MasterToRelay>()),
        master::<RelayToMaster>("relay-to-master", from_relay),
        socket::<ConsoleToMaster>("console-to-master"),
        socket::<MasterToConsole>("master-to-console"),
    ]
}

/// All opcodes of a direction as the type itself tells them, in its complaint about one that it
/// does not know.
fn opcodes<M: DeserializeOwned + Debug>() -> BTreeSet<String> {
    let complaint = serde_json::from_str::<M>(r#"{"opcode":"","data":{}}"#)
        .expect_err("no message")
        .to_string();
    let names = complaint.split('`').skip(1).step_by(2).filter(|name| !name.is_empty());
    let opcodes: BTreeSet<String> = names.map(str::to_owned).collect();
    assert!(opcodes.len() > 5, "{complaint}");
    opcodes
}

/// All names of a plain enum, as it tells them itself.
fn names<T: DeserializeOwned + Debug>() -> Vec<String> {
    let complaint = serde_json::from_str::<T>("\"\"").expect_err("no name").to_string();
    complaint
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_text_names_every_message_and_every_code() {
    let text = include_str!("../../PROTOCOL.md");
    let table =
        text.split("\n## ").find(|part| part.starts_with("11. All messages")).expect("section 11");
    for direction in directions() {
        for opcode in &direction.opcodes {
            assert!(table.contains(&format!("`{opcode}")), "section 11 does not name {opcode}");
        }
    }
    let codes = text.split("\n## ").find(|part| part.starts_with("9. Codes")).expect("section 9");
    for name in names::<FailureCode>() {
        let code: FailureCode = serde_json::from_value(json!(name)).unwrap();
        let row = format!("| `{name}` | {} |", code.http_status());
        assert!(codes.contains(&row), "section 9 has no row {row}");
        assert_eq!(code.as_str(), name);
    }
    for code in CloseCode::ALL {
        let row = format!("| {} | `{}` |", code.number(), code.reason());
        assert!(codes.contains(&row), "section 9 has no row {row}");
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_message_has_a_sample_and_every_sample_a_message() {
    let known: BTreeSet<(String, String)> = directions()
        .iter()
        .flat_map(|direction| {
            direction.opcodes.iter().map(|opcode| (direction.name.to_owned(), opcode.clone()))
        })
        .collect();
    let sampled: BTreeSet<(String, String)> = samples().into_keys().collect();
    assert_eq!(
        known.difference(&sampled).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "without a sample"
    );
    assert_eq!(
        sampled.difference(&known).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "without a message"
    );
}

#[test]
fn samples_are_read_and_written_alike() {
    for direction in directions() {
        for opcode in &direction.opcodes {
            let sample = sample(direction.name, opcode);
            assert_eq!(sample["opcode"], json!(opcode), "{}.{opcode}", direction.name);
            let again = (direction.again)(&sample.to_string()).unwrap();
            assert_eq!(json(&again), sample, "{}.{opcode}", direction.name);
        }
    }
}

#[test]
fn the_order_of_fields_means_nothing() {
    for direction in directions() {
        for opcode in &direction.opcodes {
            let sample = sample(direction.name, opcode);
            let mut reversed: Vec<String> = sample
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| format!("{}:{}", json!(key), reverse_fields(value)))
                .collect();
            reversed.reverse();
            let again = (direction.again)(&format!("{{{}}}", reversed.join(","))).unwrap();
            assert_eq!(json(&again), sample, "{}.{opcode}", direction.name);
        }
    }
}

fn reverse_fields(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{}:{}", json!(key), reverse_fields(value)))
                .collect();
            fields.reverse();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(reverse_fields).collect::<Vec<_>>().join(" ,"))
        }
        scalar => scalar.to_string(),
    }
}

#[test]
fn the_samples_of_the_door_are_one_true_story() {
    let data = |direction: &str, opcode: &str| sample(direction, opcode)["data"].clone();
    fn of<T: DeserializeOwned>(value: &Value) -> T {
        serde_json::from_value(value.clone()).unwrap()
    }
    let challenge = data("relay-to-device", "CHALLENGE");
    let register = data("device-to-relay", "CLIENT_REGISTER");
    let ack = data("relay-to-device", "CLIENT_REGISTER_ACK");
    let transcript = Transcript {
        boot_id: of(&challenge["boot_id"]),
        relay_nonce: of(&challenge["nonce"]),
        device_nonce: of(&register["nonce"]),
        hub_key: of(&challenge["hub"]["public_key"]),
        device_key: of(&register["public_key"]),
        authority: "192.168.1.10:7777".into(),
        channel: Channel::PLAIN,
        relay_ephemeral: of(&challenge["ephemeral_key"]),
        device_ephemeral: of(&register["ephemeral_key"]),
    };
    let device: DeviceId = of(&ack["public_id"]);
    assert_eq!(device, public_id(&transcript.device_key));
    assert!(transcript.device_signed(&of(&register["signature"])));
    assert!(transcript.hub_signed(device, &of(&ack["signature"])));

    let knock = data("relay-to-master", "NEW_CLIENT_REGISTERED");
    let promised = data("master-to-relay", "APPROVAL_CHALLENGE");
    let opened = data("relay-to-device", "APPROVAL_OPEN");
    let revealed = data("device-to-relay", "APPROVAL_REVEAL");
    let (commit, reveal): (Commit, Reveal) = (of(&register["commit"]), of(&revealed["reveal"]));
    assert_eq!(approval::commit(&transcript.device_key, &reveal), commit);
    let name = register["name"].as_str().unwrap();
    let request =
        approval::request_id(&transcript.device_key, &commit, &transcript.relay_nonce, name);
    assert_eq!(request, of(&knock["request_id"]));
    let nonce: Nonce = of(&opened["nonce"]);
    let master_commit = approval::master_commit(&transcript.hub_key, &request, &nonce);
    assert_eq!(json!(master_commit), promised["commit"]);
    let code =
        approval::code(&transcript.hub_key, &transcript.device_key, &request, &reveal, &nonce);
    assert_eq!(json!(code), data("console-to-master", "APPROVE_CLIENT")["code"]);

    // The key itself stands in no message.
    let drawn = DrawnLink::new(&LinkSeed([4; 32]), device);
    let requested = data("device-to-relay", "LINK_REQUEST");
    let granted = data("master-to-relay", "LINK_GRANT");
    assert_eq!(
        (drawn.hash, drawn.binding),
        (of(&requested["link_hash"]), of(&requested["binding"]))
    );
    assert_eq!(drawn.hash, of(&data("relay-to-device", "TRANSFER_PROGRESS")["link_hash"]));
    let binding: LinkBinding = of(&granted["binding"]);
    assert!(binding.binds(&drawn.link, of(&granted["public_id"])));
}

fn object_paths(value: &Value, here: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.push(here.to_owned());
            map.iter()
                .for_each(|(key, value)| object_paths(value, &format!("{here}/{key}"), found));
        }
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(i, value)| object_paths(value, &format!("{here}/{i}"), found));
        }
        _ => {}
    }
}

/// The sample with one unknown field, at each place where a field can stand.
fn with_a_strange_field(sample: &Value) -> Vec<Value> {
    let mut places = vec![];
    object_paths(sample, "", &mut places);
    let ours = |place: &String| place.is_empty() || place.starts_with("/data");
    places
        .into_iter()
        .filter(ours)
        .map(|place| {
            let mut strange = sample.clone();
            strange.pointer_mut(&place).unwrap()["from_a_later_version"] = json!({"x": [1, "y"]});
            strange
        })
        .collect()
}

#[test]
fn unknown_fields_are_ignored_except_where_trust_is_decided() {
    for direction in directions() {
        for opcode in &direction.opcodes {
            let sample = sample(direction.name, opcode);
            for strange in with_a_strange_field(&sample) {
                let read = (direction.again)(&strange.to_string());
                if STRICT.contains(&opcode.as_str()) {
                    assert!(
                        matches!(read, Err(DecodeError::Malformed(_))),
                        "{}: {strange}: {read:?}",
                        direction.name
                    );
                } else {
                    assert_eq!(json(&read.unwrap()), sample, "{}: {strange}", direction.name);
                }
            }
        }
    }
}

#[test]
fn a_missing_field_is_answered_and_closes_only_where_trust_is_decided() {
    for direction in directions() {
        for opcode in &direction.opcodes {
            let sample = sample(direction.name, opcode);
            let mut cases = vec![
                json!({"opcode": opcode, "ref": "r1"}),
                json!({"opcode": opcode, "ref": "r1", "data": 7}),
            ];
            cases.push(json!({"opcode": opcode, "ref": "r1", "data": []}));
            for key in sample["data"].as_object().unwrap().keys() {
                let mut data = sample["data"].clone();
                data[key] = json!({"neither": "text nor number nor list"});
                cases.push(json!({"opcode": opcode, "ref": "r1", "data": data}));
            }
            for case in cases {
                match (direction.again)(&case.to_string()) {
                    Err(DecodeError::Malformed(_)) if STRICT.contains(&opcode.as_str()) => {}
                    Err(DecodeError::BadMessage { opcode: named, reference, .. }) => {
                        assert!(!STRICT.contains(&opcode.as_str()), "{case}");
                        assert_eq!((named, reference), (opcode.clone(), Ref::new("r1")));
                    }
                    other => panic!("{}: {case}: {other:?}", direction.name),
                }
            }
        }
    }
}

#[test]
fn an_unknown_opcode_is_answered_with_its_ref() {
    for direction in directions() {
        for case in [
            json!({"opcode": "TREE_PULL", "ref": "a-_9", "data": {"x": 1}}),
            json!({"opcode": "TREE_PULL", "ref": "a-_9"}),
        ] {
            let read = (direction.again)(&case.to_string());
            let Err(DecodeError::BadMessage { opcode, reference, .. }) = read else {
                panic!("{case}: {read:?}")
            };
            assert_eq!((opcode.as_str(), reference), ("TREE_PULL", Ref::new("a-_9")));
        }
    }
}

#[test]
fn only_the_masters_socket_carries_addresses() {
    let somebody = json!({"public_id": "83561adb-398f-887f-8e7e-d8331bff2fcb", "instance": "7d0f5e1c9b3a48629c1de4f0a2b57318"});
    for direction in directions() {
        for field in ["from", "to", "ref_to"] {
            for value in [somebody.clone(), json!("anybody"), json!({})] {
                let frame = json!({"opcode": direction.opcodes.first(), "data": {}, field: value});
                let read = (direction.again)(&frame.to_string());
                if !direction.on_master_socket || value != somebody {
                    assert!(
                        matches!(read, Err(DecodeError::Malformed(_))),
                        "{}: {frame}: {read:?}",
                        direction.name
                    );
                }
            }
        }
    }
    let to_a_device =
        json!({"opcode": "PING", "data": {}, "to": {"public_id": somebody["public_id"]}});
    let frame = decode_master::<MasterToRelay>(&to_a_device.to_string()).unwrap();
    assert_eq!(frame.to.map(|to| to.instance), Some(None), "all sessions of that device");
    assert_eq!(json(&encode_master(&frame)), to_a_device);
}

fn malformed(text: &str) -> bool {
    directions()
        .iter()
        .all(|direction| matches!((direction.again)(text), Err(DecodeError::Malformed(_))))
}

#[test]
fn a_malformed_frame_closes_the_connection() {
    for text in [
        "",
        " ",
        "null",
        "7",
        "\"PING\"",
        "[]",
        "{}",
        "[{\"opcode\":\"PING\",\"data\":{}}]",
        "{\"data\":{}}",
        "{\"opcode\":7,\"data\":{}}",
        "{\"opcode\":null,\"data\":{}}",
        "{\"opcode\":\"PING\",\"data\":{}} x",
        "{\"opcode\":\"PING\",\"data\":{}}{}",
        "{\"opcode\":\"PING\",\"data\":{},}",
        "{\"opcode\":\"PING\",\"data\":{}",
        "{'opcode':'PING','data':{}}",
        "\u{feff}{\"opcode\":\"PING\",\"data\":{}}",
        "{\"opcode\":\"\\ud800\",\"data\":{}}",
        "{\"opcode\":\"PING\",\"data\":{\"x\":NaN}}",
        "{\"opcode\":\"PING\",\"data\":{\"x\":1e999}}",
    ] {
        assert!(malformed(text), "{text}");
    }
}

#[test]
fn a_ref_has_one_form() {
    for good in ["a", "0", "A-z_9", &"x".repeat(64)] {
        let frame = decode::<DeviceToRelay>(
            &json!({"opcode": "PING", "data": {}, "ref": good}).to_string(),
        )
        .unwrap();
        assert_eq!(frame.reference, Ref::new(good));
    }
    for bad in [
        json!(""),
        json!("x".repeat(65)),
        json!("a b"),
        json!("é"),
        json!("a\n"),
        json!(7),
        json!({}),
        json!(["a"]),
    ] {
        assert!(malformed(&json!({"opcode": "PING", "data": {}, "ref": bad}).to_string()), "{bad}");
    }
}

#[test]
fn a_key_stands_once() {
    for text in [
        r#"{"opcode":"PING","opcode":"PING","data":{}}"#,
        r#"{"opcode":"PING","data":{},"data":{}}"#,
        r#"{"opcode":"PING","\u006fpcode":"PONG","data":{}}"#,
        r#"{"opcode":"PING","data":{"x":{"y":1,"y":2}}}"#,
        r#"{"opcode":"PING","data":{"x":[{"y":1,"y":1}]}}"#,
        r#"{"opcode":"PING","data":{},"x":1,"x":1}"#,
    ] {
        assert!(malformed(text), "{text}");
    }
}

#[test]
fn integers_stay_within_what_javascript_can_hold() {
    let frame =
        |number: &str| format!(r#"{{"opcode":"FEED_PULL","data":{{"epoch":{number},"since":0}}}}"#);
    let largest = decode::<DeviceToRelay>(&frame(&MAX_SAFE_INTEGER.to_string())).unwrap();
    let DeviceToRelay::FeedPull(pull) = largest.message else { panic!() };
    assert_eq!(pull.epoch, MAX_SAFE_INTEGER);
    for number in [
        "9007199254740992",
        "18446744073709551615",
        "18446744073709551616",
        "-9007199254740992",
        "1e300",
    ] {
        assert!(malformed(&frame(number)), "{number}");
        assert!(
            malformed(&format!(r#"{{"opcode":"PING","data":{{"unknown":[{number}]}}}}"#)),
            "{number}"
        );
    }
    for number in ["-1", "1.5", "1.0", "\"1\"", "true"] {
        let read = decode::<DeviceToRelay>(&frame(number));
        assert!(matches!(read, Err(DecodeError::BadMessage { .. })), "{number}: {read:?}");
    }
}

#[test]
fn nesting_has_a_bound() {
    // The frame is 1, `data` 2, the first list 3.
    let nested = |lists: usize| {
        format!(r#"{{"opcode":"PING","data":{{"x":{}{}}}}}"#, "[".repeat(lists), "]".repeat(lists))
    };
    assert!(decode::<DeviceToRelay>(&nested(MAX_JSON_DEPTH - 2)).is_ok());
    assert!(malformed(&nested(MAX_JSON_DEPTH - 1)));
    assert!(malformed(&nested(100_000)));
}

#[test]
fn a_frame_has_a_bound_in_bytes_not_characters() {
    let of_size = |size: usize, fill: &str| {
        let around = r#"{"opcode":"PING","data":{"x":""}}"#.len();
        format!(
            r#"{{"opcode":"PING","data":{{"x":"{}"}}}}"#,
            fill.repeat((size - around) / fill.len())
        )
    };
    for direction in directions() {
        // A link of 10,000 files is one request on the master's socket.
        let most =
            if direction.on_master_socket { MAX_MASTER_FRAME_BYTES } else { MAX_FRAME_BYTES };
        assert_ne!((direction.again)(&of_size(most, "x")), Err(DecodeError::TooLarge));
        for text in [of_size(most + 1, "x"), of_size(most + 40, "é"), "x".repeat(most + 1)] {
            assert_eq!((direction.again)(&text), Err(DecodeError::TooLarge));
        }
    }
}

#[test]
fn ids_have_one_spelling() {
    let register = sample("device-to-relay", "CLIENT_REGISTER");
    for (field, bad) in [
        ("public_key", json!(register["data"]["public_key"].as_str().unwrap().to_uppercase())),
        ("public_key", json!(&register["data"]["public_key"].as_str().unwrap()[1..])),
        ("instance", json!("7d0f5e1c9b3a48629c1de4f0a2b5731g")),
        ("nonce", json!(format!("{}00", register["data"]["nonce"].as_str().unwrap()))),
        ("kind", json!("Browser")),
        ("protocol", json!(-1)),
        ("resume", json!({"epoch": 1})),
    ] {
        let mut frame = register.clone();
        frame["data"][field] = bad;
        let read = decode::<DeviceToRelay>(&frame.to_string());
        assert!(matches!(read, Err(DecodeError::Malformed(_))), "{frame}: {read:?}");
    }
    let file_id = "0b7a3c52-6a0e-4c6e-9d0a-3a8f4b1f2c01";
    for bad in [
        file_id.to_uppercase(),
        file_id.replace('-', ""),
        format!("{{{file_id}}}"),
        format!("urn:uuid:{file_id}"),
        format!(" {file_id}"),
        file_id[1..].into(),
    ] {
        let frame = json!({"opcode": "REMOVE_FILE", "ref": "1", "data": {"file_ids": [bad]}});
        let read = decode::<DeviceToRelay>(&frame.to_string());
        assert!(matches!(read, Err(DecodeError::BadMessage { .. })), "{frame}: {read:?}");
    }
}

/// The entries that are read of this message, whose list is at `list`, when its first entry has
/// another `field`, and a second one is as it was.
fn entries_read<M: Serialize>(
    message: &Value,
    decoded: impl Fn(&str) -> Result<M, codec::DecodeError>,
    field: &str,
    value: Value,
) -> usize {
    let mut message = message.clone();
    let sound = message["data"]["files"][0].clone();
    message["data"]["files"] = json!([sound.clone(), sound]);
    message["data"]["files"][0][field] = value;
    let read = decoded(&message.to_string()).expect("the message itself is one");
    serde_json::to_value(&read).unwrap()["data"]["files"].as_array().unwrap().len()
}

/// In each message that carries entries. Groups are counted and tables are made by size and
/// `group_log`: a hub must not be able to name a file of 2^32 groups. And one entry that cannot be
/// does not hide the others.
#[test]
fn an_entry_that_cannot_be_is_read_as_no_entry_and_takes_no_other_along() {
    let deep = vec!["a"; 65].join("/");
    let long = "a/".repeat(5_000);
    let size = 1_048_579u64;
    let mut bad: Vec<(&str, Value)> = ["", "../a", "/a", "a\\b", "a\0", &deep, &long]
        .iter()
        .map(|path| ("path", json!(path)))
        .collect();
    bad.extend([0, 17, 19, 64, 255].map(|log| ("group_log", json!(log))));
    bad.push(("size", json!((1u64 << 40) + 1)));
    let good = [
        ("path", json!(vec!["a"; 64].join("/"))),
        ("path", json!("a/b.txt")),
        ("group_log", json!(18)),
    ];
    for (from, opcode) in [
        ("relay-to-device", "FILES_ADDED"),
        ("relay-to-device", "FEED_PAGE"),
        ("master-to-relay", "FILE_GRANT"),
    ] {
        let mut message = sample(from, opcode);
        message["data"]["files"] =
            json!([sample("relay-to-device", "FILES_ADDED")["data"]["files"][0]]);
        message["data"]["files"][0]["size"] = json!(size);
        let read = |field: &str, value: &Value| match from {
            "relay-to-device" => {
                let decoded = |text: &str| decode::<RelayToDevice>(text).map(|frame| frame.message);
                entries_read(&message, decoded, field, value.clone())
            }
            _ => {
                let decoded =
                    |text: &str| decode_master::<MasterToRelay>(text).map(|frame| frame.message);
                entries_read(&message, decoded, field, value.clone())
            }
        };
        good.iter().for_each(|(field, value)| {
            assert_eq!(read(field, value), 2, "{opcode}: {field} {value:.40}")
        });
        bad.iter().for_each(|(field, value)| {
            assert_eq!(read(field, value), 1, "{opcode}: {field} {value:.40}")
        });
    }
    let read = |field: &str, value: &Value| {
        let mut message = sample("master-to-relay", "LINK_MEMBERS");
        message["data"]["members"][0]["file"][field] = value.clone();
        let MasterToRelay::LinkMembers(page) = decode_master(&message.to_string()).unwrap().message
        else {
            panic!()
        };
        assert_eq!(page.members.len(), 2, "its neighbour is not affected");
        page.members[0].file.is_some()
    };
    assert!(read("path", &json!("a/b.txt")));
    bad.iter().for_each(|(field, value)| {
        assert!(!read(field, value), "LINK_MEMBERS: {field} {value:.40}")
    });
}

#[test]
fn defaults_stand_for_what_is_left_out() {
    let transfer_id = "f6f3a1d0-5c2b-4f57-8a3e-91c2d4b6e804";
    let owner = "9c380d6e-fec2-8c39-b21d-87d0424fea83";
    let frame = json!({"opcode": "REQUEST_CHUNK", "data": {"transfer_id": transfer_id, "public_id": owner, "pieces": []}});
    let DeviceToRelay::RequestChunk(request) = decode(&frame.to_string()).unwrap().message else {
        panic!()
    };
    assert_eq!((request.what, request.have), (chunk::BodyKind::Bytes, None));

    let frame = json!({"opcode": "REMOVE_FILE", "data": {"file_ids": [transfer_id]}});
    let DeviceToRelay::RemoveFile(remove) = decode(&frame.to_string()).unwrap().message else {
        panic!()
    };
    assert!(!remove.keep);

    let file =
        json!({"file_id": transfer_id, "path": "a", "size": 0, "modified_ms": 0, "media_type": ""});
    let frame = json!({"opcode": "ADD_FILES", "data": {"files": [file]}});
    let DeviceToRelay::AddFiles(add) = decode(&frame.to_string()).unwrap().message else {
        panic!()
    };
    assert_eq!((add.files[0].kind, add.files[0].root), (EntryKind::File, None));
    assert_eq!(json(&encode(&DeviceToRelay::AddFiles(add), None)), frame);
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let console = sample("console-to-master", "CONSOLE_REGISTER");
    let reveal = sample("device-to-relay", "APPROVAL_REVEAL");
    let ready = sample("relay-to-device", "CHUNK_READY");
    let shown = [
        format!("{:?}", decode::<ConsoleToMaster>(&console.to_string()).unwrap()),
        format!("{:?}", decode::<DeviceToRelay>(&reveal.to_string()).unwrap()),
        format!("{:?}", decode::<RelayToDevice>(&ready.to_string()).unwrap()),
    ]
    .concat();
    for secret in [&console["data"]["token"], &reveal["data"]["reveal"], &ready["data"]["ticket"]] {
        assert!(!shown.contains(&secret.as_str().unwrap()[..6]), "{shown}");
    }
}

/// xorshift64*: enough for fuzzing, and the same everywhere.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Reads the text as every direction; what is read must be written and read to the same again.
fn survive(text: &str) -> bool {
    let mut read = false;
    for direction in directions_once() {
        if let Ok(again) = (direction.again)(text) {
            read = true;
            let third = (direction.again)(&again)
                .unwrap_or_else(|error| panic!("{text} → {again}: {error}"));
            assert_eq!(json(&third), json(&again), "{text}");
        }
    }
    read
}

fn directions_once() -> &'static [MessageDirection] {
    static ONCE: std::sync::OnceLock<Vec<MessageDirection>> = std::sync::OnceLock::new();
    ONCE.get_or_init(directions)
}

#[test]
fn random_bytes_never_panic() {
    let mut random = XorShift(0x1a2b_3c4d_5e6f_7788);
    let alphabet: Vec<char> =
        "{}[]\",:\\u0d8etrufalsn-+.1 9e\n\u{0}é💡opcdPINGref".chars().collect();
    for _ in 0..20_000 {
        let length = random.below(120);
        let text: String = (0..length).map(|_| *random.pick(&alphabet)).collect();
        survive(&text);
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        survive(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn mutated_samples_never_panic() {
    let texts: Vec<String> = samples().into_values().map(|text| json(&text).to_string()).collect();
    let mut random = XorShift(0x0dd0_c0de_0dd0_c0de);
    let full = std::env::var_os("LANYARD_FULL").is_some_and(|value| value == "1");
    let rounds = if full { 40_000 } else { 8_000 };
    let mut read = 0;
    for round in 0..rounds {
        let mut text = random.pick(&texts).clone();
        for _ in 0..=random.below(3) {
            text = if round % 2 == 0 {
                mutate_text(&text, &mut random)
            } else {
                mutate_value(&text, &texts, &mut random)
            };
        }
        read += usize::from(survive(&text));
    }
    // Mutations that no message survives would test only the first brace.
    assert!(read > rounds / 50 && read < rounds, "{read} of {rounds} mutants were messages");
}

fn mutate_text(text: &str, random: &mut XorShift) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let at = random.below(bytes.len());
    match random.below(5) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..(at + random.below(9)).min(bytes.len()))),
        3 => bytes.insert(at, *random.pick(b"{}[]\",:0e-\\")),
        _ => {
            let part = bytes[at..(at + random.below(40)).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
    }
    if bytes.is_empty() {
        bytes.push(b'{');
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Puts a hostile value, or a part of another message, in the place of some value.
fn mutate_value(text: &str, others: &[String], random: &mut XorShift) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    let mut places = vec![];
    value_paths(&value, String::new(), &mut places);
    let place = random.pick(&places).clone();
    let stranger = json(random.pick(others).as_str());
    let mut parts = vec![];
    value_paths(&stranger, String::new(), &mut parts);
    let hostile = match random.below(12) {
        0 => Value::Null,
        1 => json!(0),
        2 => json!(MAX_SAFE_INTEGER),
        3 => json!(u64::MAX),
        4 => json!(-1),
        5 => json!(0.5),
        6 => json!(""),
        7 => json!("../..\u{0}\u{202e}".repeat(random.below(300))),
        8 => json!([]),
        9 => json!({}),
        10 => json!(true),
        _ => stranger.pointer(random.pick(&parts).as_str()).unwrap().clone(),
    };
    *value.pointer_mut(&place).unwrap() = hostile;
    value.to_string()
}

fn value_paths(value: &Value, here: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| value_paths(value, format!("{here}/{key}"), found))
        }
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(i, value)| value_paths(value, format!("{here}/{i}"), found));
        }
        _ => {}
    }
    found.push(here);
}
