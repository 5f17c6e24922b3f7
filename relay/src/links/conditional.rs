//! Conditional requests and ranges (RFC 9110, sections 13 and 14): which bytes of a file a request
//! gets, if any.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, header};
use lanyard_protocol::FileEntry;
use lanyard_protocol::range::{RangeRequest, wanted};

/// An id is one version of a file: a strong validator that stays when the root becomes known in
/// mid-download.
pub(crate) fn etag(entry: &FileEntry) -> String {
    format!("\"{}.{}\"", entry.public_id, entry.file_id)
}

/// The answer to a request for one file.
pub(crate) enum FilePlan {
    NotModified,
    Unsatisfiable,
    Whole,
    Part { first: u64, last: u64 },
}

impl FilePlan {
    pub(crate) fn new(entry: &FileEntry, headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let etag = etag(entry);
        let modified = httpdate::fmt_http_date(modified(entry));
        if let Some(known) = text(header::IF_NONE_MATCH) {
            let matches = known
                .split(',')
                .map(str::trim)
                .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag);
            if matches {
                return Self::NotModified;
            }
        }
        let still_ours = text(header::IF_RANGE).is_none_or(|said| said == etag || said == modified);
        match wanted(text(header::RANGE).filter(|_| still_ours), entry.size) {
            RangeRequest::Whole => Self::Whole,
            RangeRequest::Part { first, last } => Self::Part { first, last },
            RangeRequest::Unsatisfiable => Self::Unsatisfiable,
        }
    }
}

pub(crate) fn modified(entry: &FileEntry) -> SystemTime {
    // Dates that HTTP cannot say (before 1970, after 9999) become its ends.
    SystemTime::UNIX_EPOCH + Duration::from_millis(entry.modified_ms.min(253_402_300_799_000))
}
