//! Names and types of files as header values: nothing in them can end a header or script a page.

use http::HeaderValue;
use lanyard_protocol::FileEntry;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// RFC 5987 `attr-char` and what is safe in a path segment alike.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// RFC 6266: an ASCII fallback without anything that could end it, and the name itself
/// percent-encoded.
pub(crate) fn disposition(name: &str) -> HeaderValue {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || " .-_()".contains(c) { c } else { '_' })
        .collect();
    let value = format!(
        "attachment; filename=\"{plain}\"; filename*=UTF-8''{}",
        utf8_percent_encode(name, PLAIN)
    );
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"))
}

/// The file's own type where nothing can script in our origin, else bytes. A list of types is read
/// by browsers as its last one, and whatever ends in xml as a document.
pub(crate) fn content_type(entry: &FileEntry) -> HeaderValue {
    let own = entry.media_type.to_lowercase();
    let essence = own.split(';').next().unwrap_or("").trim();
    let (kind, form) = essence.split_once('/').unwrap_or_default();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
    let is_one = !form.is_empty() && form.chars().all(is_token);
    let can_script = form.contains("svg") || form.contains("xml");
    let harmless =
        matches!(kind, "image" | "audio" | "video") && !can_script || essence == "application/pdf";
    let value = if is_one && harmless { HeaderValue::from_str(essence).ok() } else { None };
    value.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_header() {
        for name in ["a\"b.txt", "a\r\nX: y", "Küche.pdf", "📁", "a;b", "%41"] {
            let value = disposition(name);
            let text = value.to_str().unwrap();
            let (_, encoded) = text.split_once("filename*=UTF-8''").unwrap();
            let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8().unwrap();
            assert_eq!(decoded, name);
            assert_eq!(text.matches('"').count(), 2, "{text}");
        }
    }
}
