//! Counts this device's reveals since a person last asked it to try, in its data directory: a new
//! process goes on counting.

use std::path::{Path, PathBuf};

use lanyard_hub::peer::Reveals;
use lanyard_protocol::limits::{MAX_REVEALS, MAX_UNOPENED_REVEALS};
use lanyard_system::private_file::{self, PrivateFileError};
use serde::{Deserialize, Serialize};

const NAME: &str = "reveals.json";
/// Nothing is revealed any more until a person asks.
const SPENT: Reveals = Reveals { unopened: MAX_UNOPENED_REVEALS, given: MAX_REVEALS };

#[derive(Serialize, Deserialize)]
struct RevealPage {
    unopened: u32,
    given: u32,
}

/// Where a device counts its reveals.
#[derive(Debug, Clone, Default)]
pub struct RevealBook(RevealState);

#[derive(Debug, Clone, Default)]
enum RevealState {
    /// For one run of a device that needs no digits, or of a test.
    #[default]
    InMemory,
    Never,
    InFile(PathBuf),
}

impl RevealBook {
    pub fn in_folder(dir: &Path) -> Self {
        Self(RevealState::InFile(dir.join(NAME)))
    }

    /// For who is inside already and must not ask to come in.
    pub fn never() -> Self {
        Self(RevealState::Never)
    }

    /// Reads what counts so far. A book that cannot be understood is a full one.
    pub fn read(&self) -> Result<Reveals, PrivateFileError> {
        let path = match &self.0 {
            RevealState::InMemory => return Ok(Reveals::default()),
            RevealState::Never => return Ok(SPENT),
            RevealState::InFile(path) => path,
        };
        let Some(bytes) = private_file::read(path)? else { return Ok(Reveals::default()) };
        let page = serde_json::from_slice::<RevealPage>(&bytes);
        Ok(page.map_or(SPENT, |RevealPage { unopened, given }| Reveals { unopened, given }))
    }

    /// Changes what counts; on disk when it returns.
    pub fn note(&self, change: impl FnOnce(&mut Reveals)) -> Result<(), PrivateFileError> {
        let mut reveals = self.read()?;
        change(&mut reveals);
        let RevealState::InFile(path) = &self.0 else { return Ok(()) };
        let Reveals { unopened, given } = reveals;
        let text = serde_json::to_vec(&RevealPage { unopened, given }).expect("two numbers");
        private_file::write(path, &text)
    }

    /// A person asks to try again.
    pub fn begin_anew(&self) -> Result<(), PrivateFileError> {
        if self.read()? == Reveals::default() {
            Ok(())
        } else {
            self.note(|reveals| *reveals = Reveals::default())
        }
    }
}

#[cfg(test)]
mod tests {
    //! Promise: who ends a process and starts another one does not get more reveals by it.

    use super::*;

    #[test]
    fn a_new_process_goes_on_counting_and_a_person_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        for n in 1..=3 {
            RevealBook::in_folder(dir.path()).note(Reveals::give).unwrap();
            assert_eq!(
                RevealBook::in_folder(dir.path()).read().unwrap(),
                Reveals { unopened: n, given: n }
            );
        }
        let book = RevealBook::in_folder(dir.path());
        assert!(book.read().unwrap().is_spent());
        book.begin_anew().unwrap();
        assert_eq!(book.read().unwrap(), Reveals::default());
    }

    #[test]
    fn a_damaged_book_is_a_full_one() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{}", "{\"unopened\":-1,\"given\":0}", "nonsense"] {
            private_file::write(&dir.path().join(NAME), text.as_bytes()).unwrap();
            assert!(RevealBook::in_folder(dir.path()).read().unwrap().is_spent(), "{text:?}");
        }
        assert!(RevealBook::never().read().unwrap().is_spent());
    }
}
