//! One file of the record: JSON lines, only ever appended to. A full file gets a number, and so many are kept beside it.

#![expect(clippy::disallowed_methods, reason = "the record, in the program's own folder")]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};

use lanyard_device::private_file;
use serde_json::{Map, Value};

/// Stands in the first line of all in place of a hash.
const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How a file is called, and how much of it is kept.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// A file of this length gets a number.
    pub most_bytes: u64,
    /// Numbered files beside the one in use.
    pub kept: u32,
}

/// The file, open for appending.
#[derive(Debug)]
pub struct Log {
    kind: &'static Kind,
    path: PathBuf,
    file: File,
    pub bytes: u64,
    last: String,
}

impl Log {
    /// Opens the file in `dir`, or begins it. A last line that was cut off by a power cut is closed, and stays.
    pub fn open(dir: &Path, kind: &'static Kind) -> io::Result<Self> {
        let path = dir.join(kind.name);
        let mut file = private_file::open(&path, File::options().create(true).append(true).read(true))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        if !text.is_empty() && !text.ends_with(b"\n") {
            file.write_all(b"\n")?;
        }
        let last = match text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next() {
            Some(line) if !line.is_empty() => hash(line),
            // A new file goes on from the one before.
            _ => last_line(&numbered(&path, 1))?.map_or_else(|| BEGINNING.to_owned(), |line| hash(&line)),
        };
        let bytes = file.metadata()?.len();
        Ok(Self { kind, path, file, bytes, last })
    }

    /// Appends lines and has them on disk: all of them or none.
    pub fn append(&mut self, lines: impl Iterator<Item = Map<String, Value>>) -> io::Result<()> {
        let mut text = String::new();
        let mut last = self.last.clone();
        for mut line in lines {
            line.insert("prev".into(), last.into());
            let line = Value::Object(line).to_string();
            last = hash(line.as_bytes());
            text.push_str(&line);
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()) {
            // A half line would stand in the chain, and nobody could read it.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.last = last;
        self.bytes += text.len() as u64;
        if self.bytes >= self.kind.most_bytes { self.rotate() } else { Ok(()) }
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

pub fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{number}"));
    path.with_file_name(name)
}

fn hash(line: &[u8]) -> String {
    blake3::hash(line).to_hex().to_string()
}

fn open_to_read(path: &Path) -> io::Result<Option<File>> {
    match private_file::open(path, File::options().read(true)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn last_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(mut file) = open_to_read(path)? else { return Ok(None) };
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().map(<[u8]>::to_vec))
}

/// One line as it was read, and whether it follows from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub line: Value,
    pub follows: bool,
}

impl Read {
    pub fn at_ms(&self) -> u64 {
        self.line["at_ms"].as_u64().unwrap_or(0)
    }
}

/// All lines of a kind that are kept, oldest first.
pub fn read(dir: &Path, kind: &Kind) -> io::Result<Vec<Read>> {
    let path = dir.join(kind.name);
    let files = (1..=kind.kept).rev().map(|number| numbered(&path, number)).chain([path.clone()]);
    let mut all = Vec::new();
    let mut expected = None::<String>;
    for file in files {
        let Some(file) = open_to_read(&file)? else { continue };
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            let parsed: Value = serde_json::from_slice(&line).unwrap_or(Value::Null);
            // Nobody knows what came before the oldest file that is kept.
            let follows = parsed["prev"].as_str().is_some_and(|prev| expected.as_deref().is_none_or(|e| e == prev));
            expected = Some(hash(&line));
            all.push(Read { line: parsed, follows });
        }
    }
    Ok(all)
}
