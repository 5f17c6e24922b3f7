//! Which relative paths may travel. Making a travelled path fit a disk is the receiver's job, not
//! this module's.

use crate::limits::{MAX_PATH_BYTES, MAX_SEGMENT_BYTES, MAX_SEGMENTS};

/// Why a path may not travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Empty, or beyond [`MAX_PATH_BYTES`].
    #[error("the path is empty or longer than 4096 bytes")]
    Length,
    /// More than [`MAX_SEGMENTS`] segments.
    #[error("the path has more than 64 segments")]
    Depth,
    /// A segment is empty or beyond [`MAX_SEGMENT_BYTES`].
    #[error("a segment is empty or longer than 255 bytes")]
    SegmentLength,
    /// A segment would leave the folder, or say nothing.
    #[error("a segment is `.` or `..`")]
    Dots,
    /// A character that some system reads as a separator or an order.
    #[error("the path holds a backslash or a control character")]
    Character,
}

/// Checks a path of the wire: relative, `/`-separated, ≤ 4,096 bytes, ≤ 64 segments of 1 to 255
/// bytes, none `.` or `..`, no `\`, NUL or control character (PROTOCOL.md 5).
pub fn validate(path: &str) -> Result<(), PathError> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return Err(PathError::Length);
    }
    if path.chars().any(|c| c == '\\' || c.is_control()) {
        return Err(PathError::Character);
    }
    let mut segments = 0;
    for segment in path.split('/') {
        segments += 1;
        if segment.is_empty() || segment.len() > MAX_SEGMENT_BYTES {
            return Err(PathError::SegmentLength);
        }
        if segment == "." || segment == ".." {
            return Err(PathError::Dots);
        }
    }
    if segments > MAX_SEGMENTS { Err(PathError::Depth) } else { Ok(()) }
}

/// The last segment.
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_paths_travel() {
        for path in ["a", "a/b.txt", "Küche/é 📁.bin", "CON", "a.", " b", &"x".repeat(255)] {
            assert_eq!(validate(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn paths_that_could_escape_or_confuse_are_rejected() {
        for path in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a\\b",
            "a\0b",
            "a\nb",
            "a\u{85}b",
            &"x".repeat(256),
        ] {
            assert!(validate(path).is_err(), "{path:?}");
        }
        assert_eq!(validate(&vec!["a"; 65].join("/")), Err(PathError::Depth));
        assert_eq!(validate(&vec!["a"; 64].join("/")), Ok(()));
        assert_eq!(validate(&vec!["x".repeat(200); 21].join("/")), Err(PathError::Length));
    }
}
