//! Everything computed on the wire is computed as the golden vectors say, so that two
//! implementations that were never in one room agree byte for byte.

#![allow(clippy::unwrap_used)]

use std::str::FromStr;

use lanyard_protocol::group::{GroupHash, Groups};
use lanyard_protocol::identity::{Keypair, Transcript, fingerprint, public_id, verify};
use lanyard_protocol::link_key::DrawnLink;
use lanyard_protocol::master_proof::{MasterTranscript, host_proof, metrics_token, same_mac};
use lanyard_protocol::range::{RangeRequest, wanted};
use lanyard_protocol::session_key::{Authorization, EphemeralSecret, ProvedRequest};
use lanyard_protocol::*;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../vectors/vectors.json")).unwrap()
}

fn cases(name: &str) -> Vec<Value> {
    let cases = vectors()[name].as_array().unwrap_or_else(|| panic!("no vectors {name}")).clone();
    assert!(!cases.is_empty(), "no case in {name}");
    cases
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("{key} in {case}"))
}

fn number(case: &Value, key: &str) -> u64 {
    case[key].as_u64().unwrap_or_else(|| panic!("{key} in {case}"))
}

fn id<T: FromStr<Err: std::fmt::Debug>>(case: &Value, key: &str) -> T {
    text(case, key).parse().unwrap()
}

fn seed(case: &Value, key: &str) -> [u8; 32] {
    hex::decode(text(case, key)).unwrap().try_into().unwrap()
}

/// The vectors' own content: byte i is (i*31 + floor(i/251)) mod 256.
fn content(size: u64) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn hashes_of(groups: Groups, bytes: &[u8]) -> Vec<GroupHash> {
    (0..groups.count())
        .map(|index| {
            let start = groups.offset(index) as usize;
            groups.value(index, &bytes[start..start + groups.len(index) as usize])
        })
        .collect()
}

#[test]
fn public_ids_are_made_of_keys() {
    for case in cases("public_id") {
        let pair = Keypair::from_seed(&seed(&case, "seed"));
        assert_eq!(pair.public().to_hex(), text(&case, "public_key"));
        assert_eq!(pair.seed(), seed(&case, "seed"));
        assert_eq!(blake3::hash(&pair.public().0).to_hex().as_str(), text(&case, "blake3"));
        assert_eq!(pair.public_id(), id(&case, "public_id"));
        assert_eq!(public_id(&id(&case, "public_key")), id(&case, "public_id"));
        assert_eq!(fingerprint(&pair.public()), text(&case, "blake3")[..32]);
    }
}

fn transcript(case: &Value) -> Transcript {
    Transcript {
        boot_id: id(case, "boot_id"),
        relay_nonce: id(case, "relay_nonce"),
        device_nonce: id(case, "device_nonce"),
        hub_key: id(case, "hub_public_key"),
        device_key: id(case, "device_public_key"),
        authority: text(case, "authority").into(),
        channel: id(case, "channel"),
        relay_ephemeral: id(case, "relay_ephemeral_key"),
        device_ephemeral: id(case, "device_ephemeral_key"),
    }
}

#[test]
fn both_sides_prove_their_keys_over_one_transcript() {
    for case in cases("register") {
        let transcript = transcript(&case);
        let device = Keypair::from_seed(&seed(&case, "device_seed"));
        let hub = Keypair::from_seed(&seed(&case, "hub_seed"));
        assert_eq!((device.public(), hub.public()), (transcript.device_key, transcript.hub_key));
        let (by_device, by_hub): (Signature, Signature) =
            (id(&case, "device_signature"), id(&case, "hub_signature"));

        assert_eq!(transcript.device_text(), text(&case, "device_text"));
        assert_eq!(transcript.hub_text(device.public_id()), text(&case, "hub_text"));
        assert_eq!(transcript.sign_as_device(&device), by_device);
        assert_eq!(transcript.sign_as_hub(&hub, device.public_id()), by_hub);
        let secret = seed(&case, "master_secret");
        assert_eq!(host_proof(&secret, &transcript), id(&case, "host_proof"));
        assert!(transcript.device_signed(&by_device));
        assert!(transcript.hub_signed(device.public_id(), &by_hub));

        assert!(!transcript.device_signed(&by_hub), "a proof of the other role");
        assert!(!transcript.hub_signed(hub.public_id(), &by_hub), "a proof for another device");
        for other in one_part_differs(&transcript) {
            assert!(!other.device_signed(&by_device), "{other:?}");
            assert!(!other.hub_signed(device.public_id(), &by_hub), "{other:?}");
        }
    }
}

#[test]
fn both_sides_agree_on_a_session_key_and_prove_requests_with_it() {
    for case in cases("session") {
        let secret = |key| EphemeralSecret::new(seed(&case, key));
        let relay = secret("relay_ephemeral_secret");
        let device = secret("device_ephemeral_secret");
        let relay_key = id(&case, "relay_ephemeral_key");
        let device_key = id(&case, "device_ephemeral_key");
        assert_eq!((relay.public(), device.public()), (relay_key, device_key));
        let device_text = text(&case, "device_text");
        let key = relay.agree(&device_key, device_text).unwrap();
        assert_eq!(*key.bytes(), seed(&case, "session_key"));
        assert_eq!(
            *device.agree(&relay_key, device_text).unwrap().bytes(),
            seed(&case, "session_key")
        );
        for request in case["requests"].as_array().unwrap() {
            let proved =
                ProvedRequest { method: text(request, "method"), target: text(request, "target") };
            assert_eq!(key.mac(&proved, number(request, "counter")), id(request, "mac"));
            let authorization: Authorization = text(request, "authorization").parse().unwrap();
            assert_eq!(authorization.to_string(), text(request, "authorization"));
            assert_eq!(authorization.session_id, id(&case, "session_id"));
            assert!(key.proves(&proved, &authorization));
        }
    }
    for weak in cases("weak_ephemeral_keys") {
        let weak = weak.as_str().unwrap().parse().unwrap();
        assert!(EphemeralSecret::new([9; 32]).agree(&weak, "text").is_none(), "{weak}");
    }
}

/// The transcript with each of its parts changed in turn.
fn one_part_differs(of: &Transcript) -> Vec<Transcript> {
    let other_key = Keypair::from_seed(&[9; 32]).public();
    vec![
        Transcript { boot_id: BootId([7; 16]), ..of.clone() },
        Transcript { relay_nonce: Nonce([7; 32]), ..of.clone() },
        Transcript { device_nonce: Nonce([7; 32]), ..of.clone() },
        Transcript { hub_key: other_key, ..of.clone() },
        Transcript { device_key: other_key, ..of.clone() },
        Transcript { authority: "evil.example".into(), ..of.clone() },
        Transcript { channel: Channel([7; 32]), ..of.clone() },
        Transcript { relay_ephemeral: EphemeralKey([7; 32]), ..of.clone() },
        Transcript { device_ephemeral: EphemeralKey([7; 32]), ..of.clone() },
    ]
}

#[test]
fn a_small_order_key_proves_nothing() {
    // The identity point as a key accepts (R = identity, s = 0) for every text in a lax check.
    let mut point = [0u8; 32];
    point[0] = 1;
    let mut signature = [0u8; 64];
    signature[0] = 1;
    assert!(!verify(&PublicKey(point), b"anything", &Signature(signature)));
    assert!(!verify(&PublicKey([0xff; 32]), b"anything", &Signature(signature)), "no point at all");
}

#[test]
fn master_and_relay_prove_one_secret() {
    for case in cases("master") {
        let transcript = MasterTranscript {
            channel: lanyard_protocol::Channel::PLAIN,
            authority: text(&case, "authority").into(),
            boot_id: id(&case, "boot_id"),
            relay_nonce: id(&case, "relay_nonce"),
            master_nonce: id(&case, "master_nonce"),
            term: number(&case, "term"),
        };
        let secret = seed(&case, "secret");
        for (role, mac, expected) in [
            ("master_text", transcript.master_mac(&secret), id::<Mac>(&case, "master_mac")),
            ("relay_text", transcript.relay_mac(&secret), id::<Mac>(&case, "relay_mac")),
        ] {
            assert_eq!(mac, expected);
            assert_eq!(
                Mac(*blake3::keyed_hash(&secret, text(&case, role).as_bytes()).as_bytes()),
                expected
            );
            assert!(same_mac(&mac, &expected));
        }
        assert!(
            !same_mac(&transcript.master_mac(&secret), &transcript.relay_mac(&secret)),
            "a reflected proof"
        );
        let later = MasterTranscript { term: transcript.term - 1, ..transcript.clone() };
        assert!(!same_mac(&transcript.master_mac(&secret), &later.master_mac(&secret)));
        assert_eq!(metrics_token(&secret), text(&case, "metrics_token"));
    }
}

#[test]
fn device_and_master_compute_the_same_digits() {
    for case in cases("approval") {
        let device_key: PublicKey = id(&case, "device_public_key");
        let reveal: Reveal = id(&case, "reveal");
        let commit = approval::commit(&device_key, &reveal);
        assert_eq!(commit, id(&case, "commit"));
        let request = approval::request_id(
            &device_key,
            &commit,
            &id(&case, "relay_nonce"),
            text(&case, "name"),
        );
        assert_eq!(request, id(&case, "request_id"));
        let hub_key = id(&case, "hub_public_key");
        let master_nonce = id(&case, "master_nonce");
        let master_commit = approval::master_commit(&hub_key, &request, &master_nonce);
        assert_eq!(master_commit, id(&case, "master_commit"));
        let code = approval::code(&hub_key, &device_key, &request, &reveal, &master_nonce);
        assert_eq!(code, text(&case, "code"));

        let hash = blake3::hash(text(&case, "code_text").as_bytes());
        let first = u64::from_be_bytes(hash.as_bytes()[..8].try_into().unwrap());
        assert_eq!(format!("{:06}", first % 1_000_000), code);
    }
}

#[test]
fn a_links_key_is_bound_to_its_maker_and_to_nobody_else() {
    let makers: Vec<DeviceId> =
        cases("link_keys").iter().map(|case| id(case, "public_id")).collect();
    for case in cases("link_keys") {
        let (seed, maker): (LinkSeed, DeviceId) = (id(&case, "seed"), id(&case, "public_id"));
        let DrawnLink { link, hash, binding } = DrawnLink::new(&seed, maker);
        assert_eq!(
            (link, hash, binding),
            (id(&case, "link"), id(&case, "link_hash"), id(&case, "binding"))
        );
        assert_eq!(LinkHash::of(&link), hash);
        for other in &makers {
            assert_eq!(binding.binds(&link, *other), *other == maker, "{case}");
            // From the same seed another maker makes another key, and with a key of its own it
            // binds no other.
            let theirs = DrawnLink::new(&seed, *other);
            assert_eq!(theirs.binding.binds(&link, *other), *other == maker, "{case}");
        }
        for byte in 0..32 {
            let mut near = binding;
            near.0[byte] ^= 1;
            assert!(!near.binds(&link, maker), "{case}");
        }
        let mut near = link;
        near.0[15] ^= 1;
        assert!(!binding.binds(&near, maker), "{case}");
    }
}

#[test]
fn files_divide_into_groups_by_their_size_alone() {
    for case in cases("group_log") {
        let groups = Groups::of(number(&case, "size"));
        assert_eq!(u64::from(groups.group_log), number(&case, "group_log"), "{case}");
        assert_eq!(u64::from(groups.count()), number(&case, "groups"), "{case}");
        assert_eq!(
            groups.len(groups.count().saturating_sub(1)),
            number(&case, "last_group"),
            "{case}"
        );
        assert_eq!(groups.span(0, groups.count()), groups.size, "{case}");
        assert!(u64::from(groups.count()) <= group::MAX_GROUPS, "{case}");
    }
}

#[test]
fn group_values_merge_to_the_root() {
    for case in cases("content") {
        let size = number(&case, "size");
        let bytes = content(size);
        let ends = bytes.len().min(8);
        assert_eq!(hex::encode(&bytes[..ends]), text(&case, "first_bytes"), "size {size}");
        assert_eq!(
            hex::encode(&bytes[bytes.len() - ends..]),
            text(&case, "last_bytes"),
            "size {size}"
        );

        let groups = Groups::new(size, number(&case, "group_log") as u8);
        let values = hashes_of(groups, &bytes);
        let expected: Vec<&str> =
            case["hashes"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        assert_eq!(
            values.iter().map(|v| hex::encode(v.0)).collect::<Vec<_>>(),
            expected,
            "size {size}"
        );
        assert_eq!(groups.root(&values), Some(id(&case, "root")), "size {size}");
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            text(&case, "root"),
            "the root is plain BLAKE3"
        );

        let mut short = values.clone();
        if short.pop().is_some() {
            assert_eq!(groups.root(&short), None, "a list of the wrong length merges to nothing");
        }
        for step in [1000, 4096, 131_072] {
            assert_eq!(
                in_pieces(groups, &bytes, step),
                values,
                "size {size} hashed {step} bytes at a time"
            );
        }
    }
}

/// Group hashes of bytes that arrive in pieces of `step` bytes.
fn in_pieces(groups: Groups, bytes: &[u8], step: usize) -> Vec<GroupHash> {
    (0..groups.count())
        .map(|index| {
            let start = groups.offset(index) as usize;
            let group = &bytes[start..start + groups.len(index) as usize];
            let mut hasher = groups.hasher(index);
            group.chunks(step).for_each(|part| hasher.update(part));
            hasher.finish()
        })
        .collect()
}

#[test]
fn a_group_value_depends_on_where_the_group_lies() {
    for case in cases("group_at_offset") {
        assert_eq!(text(&case, "bytes"), "content_rule, size 1025");
        let groups = Groups::new(MAX_SIZE_AT_18, number(&case, "group_log") as u8);
        let value = groups.value(number(&case, "index") as u32, &content(1025));
        assert_eq!(hex::encode(value.0), text(&case, "value"));
    }
}

/// The largest file whose groups are still 2^18 bytes.
const MAX_SIZE_AT_18: u64 = 1 << 34;

#[test]
fn one_flipped_bit_shows_in_its_group_and_in_the_root() {
    let case = &vectors()["one_bit_flipped"];
    assert_eq!(text(case, "flipped"), "bit 0 of byte 1048576");
    let groups = Groups::of(number(case, "size"));
    let mut bytes = content(groups.size);
    let right = hashes_of(groups, &bytes);
    bytes[1_048_576] ^= 1;
    let wrong = hashes_of(groups, &bytes);
    let group = number(case, "group") as usize;
    assert_eq!(groups.at(1_048_576) as usize, group);
    assert_eq!(hex::encode(wrong[group].0), text(case, "value"));
    assert_eq!(groups.root(&wrong), Some(id(case, "root")));
    let differing: Vec<usize> = (0..right.len()).filter(|&i| right[i] != wrong[i]).collect();
    assert_eq!(differing, [group]);
}

#[test]
fn ranges_are_read_as_browsers_and_curl_mean_them() {
    for case in cases("link_ranges") {
        let size = number(&case, "size");
        let (status, content_range, part) = match wanted(case["range"].as_str(), size) {
            RangeRequest::Whole => (200, None, (size > 0).then(|| (0, size - 1))),
            RangeRequest::Part { first, last } => {
                (206, Some(format!("bytes {first}-{last}/{size}")), Some((first, last)))
            }
            RangeRequest::Unsatisfiable => (416, Some(format!("bytes */{size}")), None),
        };
        assert_eq!(status, number(&case, "status"), "{case}");
        assert_eq!(content_range.as_deref(), case["content_range"].as_str(), "{case}");
        let length = if status == 416 {
            None
        } else {
            Some(part.map_or(0, |(first, last)| last - first + 1))
        };
        assert_eq!(length, case["length"].as_u64(), "{case}");

        let groups = Groups::of(size);
        let covering: Vec<u64> =
            part.map_or(vec![], |(a, b)| vec![groups.at(a).into(), groups.at(b).into()]);
        let expected: Vec<u64> = case["groups"]
            .as_array()
            .map_or(vec![], |list| list.iter().map(|group| group.as_u64().unwrap()).collect());
        assert_eq!(covering, expected, "{case}");
    }
}

#[test]
fn no_kind_of_vector_is_left_unread() {
    let read = [
        "public_id",
        "register",
        "session",
        "weak_ephemeral_keys",
        "master",
        "approval",
        "group_log",
        "content",
        "group_at_offset",
        "one_bit_flipped",
        "link_keys",
        "link_ranges",
    ];
    let words = ["about", "content_rule", "merge"];
    for key in vectors().as_object().unwrap().keys() {
        assert!(
            read.contains(&key.as_str()) || words.contains(&key.as_str()),
            "nobody checks {key}"
        );
    }
}
