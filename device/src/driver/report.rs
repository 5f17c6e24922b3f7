//! Reports of the tasks of a device to its driver.

use std::io;

use lanyard_hub::peer::{FetchId, FetchOutcome, TransferOrder};
use lanyard_protocol::{Channel, FailureCode, FileId, NewFile, Ticket, TransferId};

use crate::connection::ConnectionError;
use crate::download::fetch::Fetched;
use crate::download::file_sink::FinishError;
use crate::download::task::SavedFile;
use crate::share::upload::Uploaded;

/// What the tasks of a device tell its driver. Bounded: a driver that is behind makes them wait.
pub(crate) enum TaskReport {
    ConnectionOpened { link: u64, channel: Channel },
    Text { link: u64, text: String },
    ConnectionClosed { link: u64, code: Option<u16>, error: Option<ConnectionError> },
    Uploaded { ticket: Ticket, outcome: Uploaded },
    Unreadable { ticket: Ticket, file_id: FileId, code: FailureCode, replaced: Option<Replaced> },
    Disputed(Replaced),
    Fetched { transfer_id: TransferId, fetched: Fetched },
    FetchEnded { fetch: FetchId, outcome: FetchOutcome },
    Consumed { transfer_id: TransferId, file_id: FileId, groups: u32 },
    FilesClosed { transfer_id: TransferId, closed: Vec<(FileId, Result<SavedFile, FinishError>)> },
    Copied { order: TransferOrder },
    PutAside { transfer_id: TransferId, done: usize, failed: usize, result: io::Result<()> },
}

/// A shared file that is no longer what was listed.
pub(crate) struct Replaced {
    pub old: FileId,
    pub new: Option<NewFile>,
}
