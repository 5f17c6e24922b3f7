//! What a device reads from its own disk, as pure functions: tests/deep feeds them with what no
//! device would write.

use lanyard_hub::peer::GroupSet;
use lanyard_protocol::FileEntry;

use crate::download::content_index::IndexedContent;
use crate::download::file_sink::FileSink;

/// A record of `content.index`, written again; `None` for what is none.
pub fn content_record(line: &[u8]) -> Option<String> {
    IndexedContent::parse(line)?.line().ok()
}

/// The groups that the table of an unfinished file vouches for. `records` stand behind a right
/// header.
pub fn have_table(entry: &FileEntry, records: &[u8]) -> GroupSet {
    let (sink, mut have) = (FileSink::new(entry.clone(), vec!["file".into()]), GroupSet::default());
    let table = [&sink.header()[..], records].concat();
    sink.load_table(&table, Some([7; 32]), &mut have);
    sink.load_table(records, None, &mut have);
    have
}
