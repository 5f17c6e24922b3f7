//! `Range` of one representation: a single byte range, or none (PROTOCOL.md 7, RFC 9110 section
//! 14).

/// The part of a file that a `Range` header requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeRequest {
    /// No header, a malformed one, or several ranges: 200 with the whole.
    Whole,
    /// 206 with the bytes `first..=last`.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, which is part of the range.
        last: u64,
    },
    /// 416 with `bytes */size`.
    Unsatisfiable,
}

/// Reads a `Range` header value against a file of `size` bytes.
pub fn wanted(header: Option<&str>, size: u64) -> RangeRequest {
    let Some(spec) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return RangeRequest::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return RangeRequest::Whole };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Some(0) => RangeRequest::Unsatisfiable,
            Some(_) if size == 0 => RangeRequest::Unsatisfiable,
            Some(count) => RangeRequest::Part { first: size.saturating_sub(count), last: size - 1 },
            None => RangeRequest::Whole,
        },
        (first, last) => {
            let Some(first) = number(first) else { return RangeRequest::Whole };
            let last = if last.is_empty() { Some(u64::MAX) } else { number(last) };
            match last {
                Some(last) if last < first => RangeRequest::Whole,
                Some(_) if first >= size => RangeRequest::Unsatisfiable,
                Some(last) => RangeRequest::Part { first, last: last.min(size - 1) },
                None => RangeRequest::Whole,
            }
        }
    }
}
