//! Files of a transfer come in the order of their folders; each way down costs system calls, so the
//! last one is kept.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lanyard_system::confined_fs::Folder;

/// The folder that was used last.
#[derive(Debug, Default)]
pub(crate) struct LastFolder(Mutex<Option<(Vec<String>, Arc<Folder>)>>);

impl LastFolder {
    fn inner(&self) -> MutexGuard<'_, Option<(Vec<String>, Arc<Folder>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder at `way` below `root`; it is made if it is not there.
    pub(super) fn make(&self, root: &Folder, way: &[String]) -> io::Result<Arc<Folder>> {
        if let Some((_, folder)) = self.inner().as_ref().filter(|(at, _)| at == way) {
            return Ok(folder.clone());
        }
        let mut folder: Option<Folder> = None;
        for name in way {
            folder = Some(folder.as_ref().unwrap_or(root).enter(name)?);
        }
        let folder = Arc::new(folder.map_or_else(|| root.another(), Ok)?);
        *self.inner() = Some((way.to_vec(), folder.clone()));
        Ok(folder)
    }

    /// It may have been removed by somebody.
    pub(super) fn forget(&self) {
        *self.inner() = None;
    }
}
