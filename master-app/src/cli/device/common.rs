//! Helpers that several commands of a device share.

use lanyard_device::connection::HubUrl;
use lanyard_device::{CatalogueView, DeviceError};
use lanyard_protocol::{FailureCode, FileEntry};

use crate::output::exit::{Exit, Failure};

/// Takes the hub's address out of the words of a command; at least one other must be left.
pub(super) fn split_words(words: Vec<String>) -> Result<(Option<HubUrl>, Vec<String>), Failure> {
    let (urls, rest): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| word.contains("://"));
    if urls.len() > 1 {
        return Err(Failure::usage("one hub at a time: there are two addresses"));
    }
    if rest.is_empty() {
        return Err(Failure::usage("say what: a path or an id is missing"));
    }
    let url = urls.first().map(|url| url.parse::<HubUrl>()).transpose();
    Ok((url.map_err(|error| Failure::usage(format!("{}: {error}", urls[0])))?, rest))
}

/// Returns the failure of a command, with the exit code for `error`.
pub(super) fn failure_of(error: DeviceError) -> Failure {
    let code = if let DeviceError::Refused { code, .. } = &error { Some(*code) } else { None };
    let exit = if matches!(code, Some(FailureCode::NotFound | FailureCode::FileGone)) {
        Exit::NotFound
    } else if code == Some(FailureCode::NotApproved) {
        Exit::NotApproved
    } else if code == Some(FailureCode::ServerNotReady)
        || matches!(error, DeviceError::NotConnected)
    {
        Exit::NotReachable
    } else {
        Exit::Failed
    };
    Failure { exit, error: error.into() }
}

pub(super) fn owner_name(catalogue: &CatalogueView, entry: &FileEntry) -> String {
    catalogue
        .clients
        .get(&entry.public_id)
        .map_or_else(|| entry.public_id.to_string(), |client| client.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn the_word_with_a_scheme_is_the_hub() {
        let (url, rest) = split_words(words("a/b http://hub:7070 c")).unwrap();
        assert_eq!((url.unwrap().authority(), rest), ("hub:7070".into(), words("a/b c")));
        assert!(split_words(words("a")).unwrap().0.is_none());
        for line in ["http://hub", "http://a http://b c", "ftp://a b"] {
            assert_eq!(split_words(words(line)).unwrap_err().exit, Exit::Usage, "{line}");
        }
    }
}
