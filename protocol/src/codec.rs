//! Text frame ↔ message. Size, depth, duplicate keys and number range are checked before anything
//! else looks at a frame.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ids::{Recipient, Ref, SessionAddress};
use crate::limits::{MAX_FRAME_BYTES, MAX_JSON_DEPTH, MAX_MASTER_FRAME_BYTES, MAX_SAFE_INTEGER};

/// A message and the reference beside it, as devices, the relay and the console speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<M> {
    /// The opcode and its data.
    pub message: M,
    /// The `ref`; an answer carries that of its request.
    pub reference: Option<Ref>,
}

/// A message on the master's socket, with who spoke and for whom it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterFrame<M> {
    /// The opcode and its data.
    pub message: M,
    /// The `ref`; an answer carries that of its request.
    pub reference: Option<Ref>,
    /// Relay → master: the session that spoke.
    pub from: Option<SessionAddress>,
    /// Master → relay: for this device alone.
    pub to: Option<Recipient>,
    /// Master → relay, in a broadcast: who gets the `ref`.
    pub ref_to: Option<SessionAddress>,
}

/// The answer to a frame that is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Close with 4413.
    #[error("the frame is too large")]
    TooLarge,
    /// Close with 4400: no such JSON object, or a security message with a strange shape.
    #[error("the frame is no message: {0}")]
    Malformed(String),
    /// Answer REQUEST_FAILED {BAD_MESSAGE} with this ref.
    #[error("{opcode}: {why}")]
    BadMessage {
        /// The opcode as it was sent.
        opcode: String,
        /// The `ref` that the answer carries.
        reference: Option<Ref>,
        /// The part that does not fit, for the log and the answer.
        why: String,
    },
}

/// Messages whose unknown fields close the socket (PROTOCOL.md 1).
fn is_security_message(opcode: &str) -> bool {
    opcode.ends_with("REGISTER")
        || opcode.ends_with("REGISTER_ACK")
        || opcode.starts_with("APPROVAL_")
        || matches!(
            opcode,
            "CHALLENGE" | "MASTER_CHALLENGE" | "APPROVE_CLIENT" | "DIS_APPROVE_CLIENT"
        )
        || matches!(opcode, "CLIENT_APPROVED" | "CLIENT_DIS_APPROVED" | "NEW_CLIENT_REGISTERED")
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    opcode: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default, rename = "ref")]
    reference: Option<Ref>,
    #[serde(borrow, default)]
    from: Option<&'a RawValue>,
    #[serde(borrow, default)]
    to: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ref_to: Option<&'a RawValue>,
}

/// A message of the master's socket, whose family follows from its opcode.
pub trait MasterMessage: Serialize + Sized {
    /// Reads the message of a frame with this opcode.
    fn parse(opcode: &str, text: &str) -> serde_json::Result<Self>;
}

fn decode_message<M: Serialize>(
    text: &str,
    envelope: &Envelope,
    parse: impl FnOnce() -> serde_json::Result<M>,
) -> Result<M, DecodeError> {
    let parsed = match envelope.data {
        // Serde would read a list as a struct, too.
        Some(data) if !data.get().starts_with('{') => Err(de::Error::custom("`data` is no object")),
        Some(_) => parse(),
        None => Err(de::Error::custom("`data` is missing")),
    };
    let parsed = match parsed {
        Ok(message) if is_security_message(&envelope.opcode) && says_more(text, &message) => {
            Err(de::Error::custom("an unknown field"))
        }
        parsed => parsed,
    };
    parsed.map_err(|error| {
        if is_security_message(&envelope.opcode) {
            DecodeError::Malformed(format!("{}: {error}", envelope.opcode))
        } else {
            DecodeError::BadMessage {
                opcode: envelope.opcode.to_string(),
                reference: envelope.reference.clone(),
                why: error.to_string(),
            }
        }
    })
}

/// Whether `text` holds a field, at any depth, that `message` has no place for.
fn says_more<M: Serialize>(text: &str, message: &M) -> bool {
    fn strange(said: &Value, known: &Value) -> bool {
        match (said, known) {
            (Value::Object(said), Value::Object(known)) => said
                .iter()
                .any(|(key, value)| known.get(key).is_none_or(|known| strange(value, known))),
            (Value::Array(said), Value::Array(known)) => {
                said.len() != known.len()
                    || said.iter().zip(known).any(|(said, known)| strange(said, known))
            }
            (Value::Object(_) | Value::Array(_), _) => true,
            _ => false,
        }
    }
    let (Ok(mut said), Ok(known)) =
        (serde_json::from_str::<Value>(text), serde_json::to_value(message))
    else {
        return true;
    };
    if let Value::Object(fields) = &mut said {
        ["ref", "from", "to", "ref_to"].iter().for_each(|beside| drop(fields.remove(*beside)));
    }
    strange(&said, &known)
}

fn open(text: &str, max_bytes: usize) -> Result<Envelope<'_>, DecodeError> {
    if text.len() > max_bytes {
        return Err(DecodeError::TooLarge);
    }
    let malformed = |error: serde_json::Error| DecodeError::Malformed(error.to_string());
    check_json(text).map_err(malformed)?;
    serde_json::from_str(text).map_err(malformed)
}

/// Reads a frame of a device's or the console's socket. `from`, `to` and `ref_to` do not belong
/// there.
pub fn decode<M: DeserializeOwned + Serialize>(text: &str) -> Result<Frame<M>, DecodeError> {
    let envelope = open(text, MAX_FRAME_BYTES)?;
    if envelope.from.is_some() || envelope.to.is_some() || envelope.ref_to.is_some() {
        return Err(DecodeError::Malformed("a field of the master's socket".into()));
    }
    let message = decode_message(text, &envelope, || serde_json::from_str(text))?;
    Ok(Frame { message, reference: envelope.reference })
}

/// Reads a frame of the master's socket.
pub fn decode_master<M: MasterMessage>(text: &str) -> Result<MasterFrame<M>, DecodeError> {
    let envelope = open(text, MAX_MASTER_FRAME_BYTES)?;
    fn address<T: DeserializeOwned>(raw: Option<&RawValue>) -> Result<Option<T>, DecodeError> {
        raw.map(|raw| {
            serde_json::from_str(raw.get())
                .map_err(|error| DecodeError::Malformed(error.to_string()))
        })
        .transpose()
    }
    let (from, to, ref_to) =
        (address(envelope.from)?, address(envelope.to)?, address(envelope.ref_to)?);
    let message = decode_message(text, &envelope, || M::parse(&envelope.opcode, text))?;
    Ok(MasterFrame { message, reference: envelope.reference, from, to, ref_to })
}

#[derive(Serialize)]
struct Outgoing<'a, M> {
    #[serde(flatten)]
    message: &'a M,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<SessionAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Recipient>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ref_to: Option<SessionAddress>,
}

/// A frame's text.
pub fn encode<M: Serialize>(message: &M, reference: Option<&Ref>) -> String {
    let frame = Outgoing { message, reference, from: None, to: None, ref_to: None };
    serde_json::to_string(&frame).expect("messages have string keys and no failing serializers")
}

/// A frame's text for the master's socket.
pub fn encode_master<M: Serialize>(frame: &MasterFrame<M>) -> String {
    let outgoing = Outgoing {
        message: &frame.message,
        reference: frame.reference.as_ref(),
        from: frame.from,
        to: frame.to,
        ref_to: frame.ref_to,
    };
    serde_json::to_string(&outgoing).expect("messages have string keys and no failing serializers")
}

impl<M> Frame<M> {
    /// Puts a message and its reference together.
    pub fn new(message: M, reference: Option<Ref>) -> Self {
        Self { message, reference }
    }
}

impl<M> MasterFrame<M> {
    /// Without addresses.
    pub fn plain(message: M) -> Self {
        Self { message, reference: None, from: None, to: None, ref_to: None }
    }
}

/// Walks a JSON text once: depth, duplicate keys, integers beyond 2^53 - 1, and that the frame is
/// an object.
fn check_json(text: &str) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    JsonCursor { depth: 1, object_only: true }.deserialize(&mut deserializer)?;
    deserializer.end()
}

struct JsonCursor {
    depth: usize,
    object_only: bool,
}

impl JsonCursor {
    /// A walker for what lies inside this object or array.
    fn inside<E: de::Error>(&self) -> Result<impl Fn() -> JsonCursor + use<E>, E> {
        if self.depth > MAX_JSON_DEPTH {
            return Err(E::custom("nested too deeply"));
        }
        let depth = self.depth + 1;
        Ok(move || JsonCursor { depth, object_only: false })
    }

    fn scalar<E: de::Error>(&self) -> Result<(), E> {
        if self.object_only { Err(E::custom("the frame is no object")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for JsonCursor {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonCursor {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON within the limits of the wire")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inside = self.inside()?;
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if !keys.insert(key.into_owned()) {
                return Err(de::Error::custom("a key stands twice"));
            }
            map.next_value_seed(inside())?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.scalar()?;
        let inside = self.inside()?;
        while seq.next_element_seed(inside())?.is_some() {}
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        if number > MAX_SAFE_INTEGER {
            return Err(E::custom("an integer beyond 2^53 - 1"));
        }
        self.scalar()
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_u64(number.unsigned_abs())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        // Integers that u64 cannot hold arrive here.
        if number.abs() > MAX_SAFE_INTEGER as f64 {
            return Err(E::custom("a number beyond 2^53 - 1"));
        }
        self.scalar()
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.scalar()
    }
}
