//! Every "no" of the wire has a stable code: in a message, as an HTTP status, or as the reason a
//! socket closed.

use serde::{Deserialize, Serialize};

/// Why a request or a body failed. Stable: programs may match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum FailureCode {
    /// The asker does not belong, or not yet.
    NotApproved,
    /// The other side was turned away.
    PeerRevoked,
    /// Removed, or never there.
    FileGone,
    /// The owner's file is no longer the version that was listed.
    FileChanged,
    /// The holder has no list of group hashes.
    NoHashes,
    /// The asker said so.
    Cancelled,
    /// The master is away.
    ServerNotReady,
    /// The owner is away.
    OwnerAway,
    /// The relay has no room or the body died: ask again.
    Busy,
    /// A body did not come, or too slowly.
    TimedOut,
    /// The bytes are not the ones that belong there.
    BadBytes,
    /// A message of a shape that this version does not know.
    BadMessage,
    /// The other side speaks another version of the wire.
    UnsupportedVersion,
    /// The same file id with other fields.
    IdTaken,
    /// A path that not every system could hold.
    PathRejected,
    /// A frame, a file or a list is beyond its bound in [`crate::limits`].
    TooLarge,
    /// More than the hub remembers for one device, or for all.
    Quota,
    /// No such file, link, device or address; also said in place of what the asker may not know.
    NotFound,
    /// A link was used as often as it may be.
    LinkUsedUp,
    /// The knock on the screen is no longer this one.
    StaleRequest,
    /// Not the digits that the device shows.
    WrongCode,
    /// The ticket is unknown, expired, or another device's.
    TicketRefused,
    /// The ticket opened its one body already.
    TicketUsed,
    /// The session that proves the request is over, or the proof is wrong.
    Unauthenticated,
    /// A body came without `Content-Length`.
    LengthRequired,
    /// A body came with `Content-Encoding`.
    UnsupportedEncoding,
    /// The request's `Host` is no name of this hub.
    HostDenied,
    /// The request comes from a page of another site.
    OriginDenied,
    /// This hub takes https only.
    TlsRequired,
    /// A bug or a broken disk of ours; the log says more.
    Internal,
}

impl FailureCode {
    /// The code as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        use FailureCode::*;
        match self {
            NotApproved => "NOT_APPROVED",
            PeerRevoked => "PEER_REVOKED",
            FileGone => "FILE_GONE",
            FileChanged => "FILE_CHANGED",
            NoHashes => "NO_HASHES",
            Cancelled => "CANCELLED",
            ServerNotReady => "SERVER_NOT_READY",
            OwnerAway => "OWNER_AWAY",
            Busy => "BUSY",
            TimedOut => "TIMED_OUT",
            BadBytes => "BAD_BYTES",
            BadMessage => "BAD_MESSAGE",
            UnsupportedVersion => "UNSUPPORTED_VERSION",
            IdTaken => "ID_TAKEN",
            PathRejected => "PATH_REJECTED",
            TooLarge => "TOO_LARGE",
            Quota => "QUOTA",
            NotFound => "NOT_FOUND",
            LinkUsedUp => "LINK_USED_UP",
            StaleRequest => "STALE_REQUEST",
            WrongCode => "WRONG_CODE",
            TicketRefused => "TICKET_REFUSED",
            TicketUsed => "TICKET_USED",
            Unauthenticated => "UNAUTHENTICATED",
            LengthRequired => "LENGTH_REQUIRED",
            UnsupportedEncoding => "UNSUPPORTED_ENCODING",
            HostDenied => "HOST_DENIED",
            OriginDenied => "ORIGIN_DENIED",
            TlsRequired => "TLS_REQUIRED",
            Internal => "INTERNAL",
        }
    }

    /// Whether asking again can help (PROTOCOL.md 6, Codes).
    pub fn may_retry(self) -> bool {
        use FailureCode::*;
        matches!(self, ServerNotReady | OwnerAway | Busy | TimedOut | BadBytes)
    }

    /// The HTTP status that carries this code.
    pub fn http_status(self) -> u16 {
        use FailureCode::*;
        match self {
            NotApproved | TicketRefused | OriginDenied => 403,
            PeerRevoked | FileGone | LinkUsedUp => 410,
            FileChanged => 412,
            BadBytes => 422,
            Cancelled | TicketUsed | StaleRequest | IdTaken => 409,
            ServerNotReady | OwnerAway | Busy | TimedOut | NoHashes => 503,
            BadMessage | PathRejected | WrongCode | UnsupportedVersion => 400,
            NotFound => 404,
            TooLarge => 413,
            Quota => 429,
            Unauthenticated => 401,
            LengthRequired => 411,
            UnsupportedEncoding => 415,
            HostDenied => 421,
            TlsRequired => 426,
            Internal => 500,
        }
    }

    /// One sentence for the person who meets this code without a better one at hand.
    pub fn sentence(self) -> &'static str {
        use FailureCode::*;
        match self {
            NotApproved => "this device has not been let in",
            PeerRevoked => "the other device was turned away",
            FileGone => "its owner no longer shares this file",
            FileChanged => "the file changed at its owner",
            NoHashes => "the owner has no list of group hashes",
            Cancelled => "cancelled",
            ServerNotReady => "the host is away; trying again helps",
            OwnerAway => "the owner is away; it continues when the owner is back",
            Busy => "the hub is passing on as much as it can; trying again helps",
            TimedOut => "the bytes did not come in time; trying again helps",
            BadBytes => "the bytes that came are not the right ones; they were thrown away",
            BadMessage => "the message has a shape this hub does not know",
            UnsupportedVersion => {
                "this hub speaks another version of the protocol: load the page again, or update Lanyard on this device"
            }
            IdTaken => "this file id already names another version",
            PathRejected => "the path has a form that not every device could keep",
            TooLarge => "too large",
            Quota => "the hub keeps no more files and links for this device",
            NotFound => "there is no such thing here",
            LinkUsedUp => "this link was used as often as it may be; ask for another",
            StaleRequest => "the device knocked anew; look again",
            WrongCode => "that is not the code on their screen",
            TicketRefused => "this ticket is not valid here",
            TicketUsed => "this ticket was used",
            Unauthenticated => "the session is over; connect again",
            LengthRequired => "the body needs a Content-Length",
            UnsupportedEncoding => "bodies must not be encoded",
            HostDenied => "this hub does not answer to that name",
            OriginDenied => "this page may not speak to the hub",
            TlsRequired => "this hub takes https only",
            Internal => "something broke in the hub; its log says more",
        }
    }
}

/// Why a WebSocket was closed (PROTOCOL.md 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub enum CloseCode {
    /// A frame that is no message, or a security message of another shape.
    BadMessage,
    /// The proof is wrong, or did not come in time.
    Unauthenticated,
    /// Turned away; a device does not come back by itself.
    Revoked,
    /// Nothing could be written for 10 s.
    TooSlow,
    /// A newer session of the same instance took over.
    Superseded,
    /// A frame beyond its bound.
    TooLarge,
    /// More messages than a device may send, for too long.
    RateLimited,
    /// Shutting down.
    ServerNotReady,
}

impl CloseCode {
    /// Every code, in the order of its number.
    pub const ALL: [CloseCode; 8] = [
        Self::BadMessage,
        Self::Unauthenticated,
        Self::Revoked,
        Self::TooSlow,
        Self::Superseded,
        Self::TooLarge,
        Self::RateLimited,
        Self::ServerNotReady,
    ];

    /// Returns the number on the wire, 4400 to 4503.
    pub fn number(self) -> u16 {
        match self {
            Self::BadMessage => 4400,
            Self::Unauthenticated => 4401,
            Self::Revoked => 4403,
            Self::TooSlow => 4408,
            Self::Superseded => 4409,
            Self::TooLarge => 4413,
            Self::RateLimited => 4429,
            Self::ServerNotReady => 4503,
        }
    }

    /// Returns the code of a number on the wire, if it has one.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// The reason text that goes with the number.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadMessage => "BAD_MESSAGE",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Revoked => "REVOKED",
            Self::TooSlow => "TOO_SLOW",
            Self::Superseded => "SUPERSEDED",
            Self::TooLarge => "TOO_LARGE",
            Self::RateLimited => "RATE_LIMITED",
            Self::ServerNotReady => "SERVER_NOT_READY",
        }
    }

    /// Whether a device comes back by itself after this (PROTOCOL.md 1): never after a refusal or
    /// an error of its own.
    pub fn may_reconnect(self) -> bool {
        !matches!(self, Self::BadMessage | Self::Unauthenticated | Self::Revoked | Self::Superseded)
    }
}
