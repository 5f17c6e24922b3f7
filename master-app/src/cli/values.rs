//! Parsers of single values on the command line.

use lanyard_protocol::device::is_valid_name;
use lanyard_protocol::limits::MAX_LINK_VALID_MS;

pub(super) fn name(text: &str) -> Result<String, String> {
    let text = text.trim();
    if is_valid_name(text) {
        Ok(text.into())
    } else {
        Err("a name has 1 to 255 bytes and no control characters".into())
    }
}

/// `90s`, `30m`, `8h`, `2d`, `1w`, in milliseconds.
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        Some('w') => 604_800,
        _ => 0,
    };
    let count =
        text.get(..text.len().saturating_sub(1)).and_then(|digits| digits.parse::<u64>().ok());
    let seconds =
        count.filter(|count| *count > 0 && unit > 0).and_then(|count| count.checked_mul(unit));
    // A year is more than anybody means by "for a while".
    let fits = seconds.filter(|seconds| *seconds <= 366 * 86_400);
    fits.map(|seconds| seconds * 1_000).ok_or_else(|| "a time such as 30m, 8h, 2d or 1w".into())
}

/// How long a link may last, in milliseconds.
pub(crate) fn link_duration(text: &str) -> Result<u64, String> {
    let days = MAX_LINK_VALID_MS / 86_400_000;
    let valid = duration(text)?;
    if valid <= MAX_LINK_VALID_MS {
        Ok(valid)
    } else {
        Err(format!("a link ends after {days} days at most"))
    }
}

/// At least two groups of a small file, at most what no hub has any use for.
pub(super) fn budget(text: &str) -> Result<u64, String> {
    let bytes = lanyard_device::bytes_of(text.trim()).map(|bytes| bytes as u64);
    bytes
        .filter(|bytes| (1 << 20..=1 << 40).contains(bytes))
        .ok_or_else(|| "bytes such as 8M, at least 1M".into())
}

pub(super) fn host_name(text: &str) -> Result<String, String> {
    let fits = (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        && !text.starts_with(['-', '.']);
    if fits {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a host name such as hub.local, without scheme and port".into())
    }
}
