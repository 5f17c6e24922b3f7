//! The wall clock. It may jump in either direction, so durations are measured with
//! [`std::time::Instant`].

use std::time::SystemTime;

/// Returns the milliseconds since 1970, for showing; 0 for a clock that stands before that.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
