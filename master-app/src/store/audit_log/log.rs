//! One file of the record: JSON lines, only ever appended to. A full file gets a number, and so
//! many are kept beside it.

#![expect(clippy::disallowed_methods, reason = "the record, in the program's own folder")]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use lanyard_system::private_file;
use serde_json::{Map, Value};

/// How a file is called, and how much of it is kept.
#[derive(Debug)]
pub(super) struct LogKind {
    pub name: &'static str,
    /// A file of this length gets a number.
    pub max_bytes: u64,
    /// Numbered files beside the one in use.
    pub kept: u32,
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct LogFile {
    kind: &'static LogKind,
    path: PathBuf,
    file: File,
    pub bytes: u64,
}

impl LogFile {
    /// Opens the file in `dir`, or begins it. A last line that was cut off by a power cut is
    /// closed, and stays.
    pub(super) fn open(dir: &Path, kind: &'static LogKind) -> io::Result<Self> {
        let path = dir.join(kind.name);
        let mut file =
            private_file::open(&path, File::options().create(true).append(true).read(true))?;
        if !ends_in_newline(&mut file)? {
            file.write_all(b"\n")?;
        }
        let bytes = file.metadata()?.len();
        Ok(Self { kind, path, file, bytes })
    }

    /// Appends lines and has them on disk: all of them or none.
    pub(super) fn append(
        &mut self,
        lines: impl Iterator<Item = Map<String, Value>>,
    ) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&Value::Object(line).to_string());
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        if let Err(error) =
            self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data())
        {
            // Nobody could read a half line, nor one that is appended to it.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += text.len() as u64;
        if self.bytes >= self.kind.max_bytes { self.rotate() } else { Ok(()) }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.kind.kept).rev() {
            match fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(&self.path, 1))?;
        let dir = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        *self = Self::open(&dir, self.kind)?;
        Ok(())
    }
}

pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{number}"));
    path.with_file_name(name)
}

/// Returns true if the file is empty or its last line is whole.
fn ends_in_newline(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

fn open_to_read(path: &Path) -> io::Result<Option<File>> {
    match private_file::open(path, File::options().read(true)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the time of a line, 0 if the line cannot be read.
pub(super) fn at_ms(line: &Value) -> u64 {
    line["at_ms"].as_u64().unwrap_or(0)
}

/// Returns all lines of a kind that are kept, oldest first. A line that cannot be read is `null`.
/// Fields that are not known are kept: before 0.1 a line held a hash of the line before, `prev`.
pub(super) fn read(dir: &Path, kind: &LogKind) -> io::Result<Vec<Value>> {
    let path = dir.join(kind.name);
    let files = (1..=kind.kept).rev().map(|number| numbered(&path, number)).chain([path.clone()]);
    let mut all = Vec::new();
    for file in files {
        let Some(file) = open_to_read(&file)? else { continue };
        for line in BufReader::new(file).split(b'\n') {
            all.push(serde_json::from_slice(&line?).unwrap_or(Value::Null));
        }
    }
    Ok(all)
}
