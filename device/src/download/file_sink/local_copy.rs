//! A file that is filled from another one on this machine: copied by the system, which shares
//! blocks where the disk can, and then read back and hashed. What does not come to the listed root
//! is forgotten.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lanyard_system::confined_fs::Folder;

use super::{FileSink, OpenPart};

/// Copied before it is hashed: large enough for the system to be quick, small enough to be still in
/// its memory.
const COPY_BYTES: u64 = 16 << 20;
const READ_BYTES: usize = 256 << 10;

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}

impl FileSink {
    /// Fills what is missing from `source`. `false`: the source is not (or no longer) this content,
    /// or `stop` was set, and nothing of it was kept. `received` counts the bytes that are here.
    /// Blocks.
    pub(crate) fn fill(
        &self,
        root: &Folder,
        source: &File,
        received: &AtomicU64,
        stop: &AtomicBool,
    ) -> io::Result<bool> {
        let open = self.open(root)?;
        let missing: Vec<u32> = self.state().values.missing().collect();
        let mut filled = Vec::new();
        let copied = self.fill_groups(&open, source, &missing, &mut filled, (received, stop));
        let good = matches!(copied, Ok(true)) && self.has_listed_root();
        self.state().copied = good;
        if !good {
            let bytes: u64 = filled.iter().map(|group| self.groups.len(*group)).sum();
            received.fetch_sub(bytes, Ordering::Relaxed);
            self.forget(&open, &filled)?;
        }
        copied.map(|_| good)
    }

    fn fill_groups(
        &self,
        open: &OpenPart,
        source: &File,
        missing: &[u32],
        filled: &mut Vec<u32>,
        (received, stop): (&AtomicU64, &AtomicBool),
    ) -> io::Result<bool> {
        let at_once = (COPY_BYTES >> self.groups.group_log).max(1) as usize;
        let mut buffer = vec![0; READ_BYTES];
        let neighbours = missing.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(at_once));
        for run in neighbours {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let (from, bytes) =
                (self.groups.offset(run[0]), self.groups.span(run[0], run.len() as u32));
            if !copy_range(source, &open.part, from, bytes)? {
                return Ok(false);
            }
            for group in run {
                self.hash_group(open, *group, &mut buffer)?;
                filled.push(*group);
                received.fetch_add(self.groups.len(*group), Ordering::Relaxed);
            }
        }
        Ok(true)
    }

    /// As it lies on the disk now.
    fn hash_group(&self, open: &OpenPart, group: u32, buffer: &mut [u8]) -> io::Result<()> {
        let (mut hasher, mut offset) = (self.groups.hasher(group), self.groups.offset(group));
        let end = offset + self.groups.len(group);
        while offset < end {
            let count = (end - offset).min(buffer.len() as u64) as usize;
            read_exact_at(&open.part, &mut buffer[..count], offset)?;
            hasher.update(&buffer[..count]);
            offset += count as u64;
        }
        self.mark(open, group, hasher.finish())?;
        Ok(())
    }

    fn has_listed_root(&self) -> bool {
        let values = self.state().values.whole();
        let root = values.and_then(|values| self.groups.root(&values));
        root.is_some() && root == self.entry.root
    }

    fn forget(&self, open: &OpenPart, groups: &[u32]) -> io::Result<()> {
        let mut state = self.state();
        for group in groups {
            state.values.set(*group, None);
        }
        state.unsaved.extend(groups);
        drop(state);
        self.save(open)
    }
}

/// The same bytes at the same place. `false`: the source ends before.
fn copy_range(mut source: &File, mut part: &File, from: u64, bytes: u64) -> io::Result<bool> {
    source.seek(SeekFrom::Start(from))?;
    part.seek(SeekFrom::Start(from))?;
    Ok(io::copy(&mut source.take(bytes), &mut part)? == bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bytes, entry};
    use super::*;
    use lanyard_protocol::{FileEntry, Root};

    struct CopyFixture {
        dir: tempfile::TempDir,
        root: Folder,
        sink: FileSink,
        source: std::path::PathBuf,
        received: AtomicU64,
        stop: AtomicBool,
    }

    const SIZE: usize = 3_000_000;

    impl CopyFixture {
        fn new() -> Self {
            let (dir, content) = (tempfile::tempdir().unwrap(), bytes(SIZE));
            let source = dir.path().join("source");
            std::fs::write(&source, &content).unwrap();
            let listed = Some(Root(*blake3::hash(&content).as_bytes()));
            let sink = FileSink::new(
                FileEntry { root: listed, ..entry(SIZE as u64) },
                vec!["copy".into()],
            );
            let root = Folder::open_root(dir.path()).unwrap();
            Self {
                dir,
                root,
                sink,
                source,
                received: AtomicU64::new(0),
                stop: AtomicBool::new(false),
            }
        }

        fn fill(&self) -> bool {
            let source = File::open(&self.source).unwrap();
            self.sink.fill(&self.root, &source, &self.received, &self.stop).unwrap()
        }
    }

    #[test]
    fn a_copy_is_verified_and_finished_like_what_was_fetched() {
        let bench = CopyFixture::new();
        assert!(bench.fill());
        assert_eq!(bench.received.load(Ordering::Relaxed), SIZE as u64);
        let finished = bench.sink.finish(&bench.root, bench.sink.entry.root).unwrap();
        assert!(finished.copied);
        assert_eq!(std::fs::read(bench.dir.path().join("copy")).unwrap(), bytes(SIZE));
    }

    #[test]
    fn a_lying_source_leaves_only_the_bytes_that_were_there_before() {
        let bench = CopyFixture::new();
        let first = bytes(SIZE)[..bench.sink.groups.len(0) as usize].to_vec();
        let open = bench.sink.open(&bench.root).unwrap();
        open.write(&first, 0).unwrap();
        bench.sink.mark(&open, 0, bench.sink.groups.value(0, &first)).unwrap();
        let mut wrong = bytes(SIZE);
        wrong[SIZE - 1] ^= 1;
        std::fs::write(&bench.source, wrong).unwrap();
        assert!(!bench.fill());
        std::fs::write(&bench.source, &bytes(SIZE)[..SIZE - 1]).unwrap();
        assert!(!bench.fill(), "one that is shorter");
        assert_eq!(bench.received.load(Ordering::Relaxed), 0);
        bench.sink.put_aside().unwrap();
        let again = FileSink::new(bench.sink.entry.clone(), vec!["copy".into()]);
        assert_eq!(again.load(&bench.root).unwrap().runs().map(|run| run.count).sum::<u32>(), 1);
    }

    #[test]
    fn it_stops_when_told() {
        let bench = CopyFixture::new();
        bench.stop.store(true, Ordering::Relaxed);
        assert!(!bench.fill());
    }
}
