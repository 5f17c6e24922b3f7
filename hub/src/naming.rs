//! Names of an archive's members, so that whoever unpacks it on Windows, macOS or Linux gets every
//! file. Paths come from many owners, and each owner chooses his own.
//!
//! Windows and macOS take names that differ in case, in Unicode normalisation or in dots and spaces
//! at the end of a segment for one name. So do we: such members are numbered apart, or lie in a
//! folder of their owner's name. A file whose name others need for a folder is numbered, too. Work
//! is linear in what was added: [`Naming::work`] counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use lanyard_protocol::limits::MAX_SEGMENT_BYTES;
use lanyard_protocol::{DeviceId, FileId, FileRef};
use unicode_normalization::UnicodeNormalization;

/// Bytes that a number may take: a space, two brackets and a `u32`.
const NUMBER_BYTES: usize = 13;
/// A longer end of a name is no extension.
const LONGEST_EXTENSION: usize = 32;
/// Returns a key under which two paths are equal when some system would unpack them to one place.
pub fn folded(path: &str) -> String {
    let mut key = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            key.push('/');
        }
        let segment = segment.trim_end_matches(['.', ' ']);
        if segment.is_ascii() {
            key.push_str(&segment.to_ascii_lowercase());
        } else {
            // Upper case first: `ß` and `SS`, and the two small sigmas, are equal only that way.
            let folded = segment.nfd().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
            key.extend(folded.nfc());
        }
    }
    key
}

/// A member and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedMember {
    /// The file and its owner.
    pub file: FileRef,
    /// Without the slash that ends a folder's.
    pub name: String,
    /// True for an empty folder.
    pub is_folder: bool,
}

#[derive(Debug)]
struct AddedMember {
    path: String,
    is_folder: bool,
}

/// Members that fold to one key.
#[derive(Debug)]
struct FoldedNames {
    key: String,
    /// They have several owners, so all lie in folders of their owners.
    by_owner: bool,
    /// The plain name is taken.
    is_taken: bool,
}

/// Names members in the order of their folded paths. Everything is added before the first is named.
#[derive(Debug, Default)]
pub struct Naming {
    added: BTreeMap<(String, FileRef), AddedMember>,
    owners: BTreeMap<DeviceId, String>,
    /// Folders of owners, once they are needed.
    folders: BTreeMap<DeviceId, String>,
    /// Keys of names that are no member's own path.
    invented: BTreeSet<String>,
    /// The last number given to a stem and extension.
    numbers: BTreeMap<String, u32>,
    reached: Option<(String, FileRef)>,
    group: Option<FoldedNames>,
    work: u64,
}

impl Naming {
    /// Tells the name of an owner, for its folder.
    pub fn owner(&mut self, id: DeviceId, name: &str) {
        self.owners.entry(id).or_insert_with(|| name.to_owned());
    }

    /// Adds a path; names are given when all paths are known.
    pub fn add(&mut self, file: FileRef, path: &str, is_folder: bool) {
        self.work += 1;
        let path = without_drive(path);
        self.added.insert((folded(&path), file), AddedMember { path, is_folder });
    }

    /// Returns how many paths were added.
    pub fn len(&self) -> usize {
        self.added.len()
    }

    /// Returns true if no path was added.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
    }

    /// Counts members added and names looked at.
    pub fn work(&self) -> u64 {
        self.work
    }

    /// Names the next member; `None` after the last. A search of more than `most` steps is put off:
    /// it gives `Some(None)` and goes on at the next call.
    pub fn next(&mut self, most: u64) -> Option<Option<NamedMember>> {
        let from = match &self.reached {
            Some(reached) => Bound::Excluded(reached.clone()),
            None => Bound::Unbounded,
        };
        let ((key, file), added) = self.added.range((from, Bound::Unbounded)).next()?;
        let key = key.clone();
        let file = *file;
        let path = added.path.clone();
        let is_folder = added.is_folder;
        self.enter(&key, file, is_folder);
        let Some(name) = self.name_of(file, path, most) else { return Some(None) };
        self.reached = Some((key, file));
        Some(Some(NamedMember { file, name, is_folder }))
    }

    /// Looks once at all members of one key.
    fn enter(&mut self, key: &str, first: FileRef, is_folder: bool) {
        if self.group.as_ref().is_some_and(|group| group.key == key) {
            return;
        }
        self.work += 1;
        let last = self
            .added
            .range(..first_of(format!("{key}\0")))
            .next_back()
            .map(|((_, file), _)| *file);
        let by_owner = last.is_some_and(|last| last.public_id != first.public_id);
        let is_taken = !is_folder && self.is_folder_of_others(key) || self.invented.contains(key);
        self.group = Some(FoldedNames { key: key.to_owned(), by_owner, is_taken });
    }

    fn name_of(&mut self, file: FileRef, path: String, most: u64) -> Option<String> {
        let group = self.group.as_ref().map(|group| (group.by_owner, group.is_taken));
        let (by_owner, is_taken) = group.unwrap_or_default();
        let plain =
            if by_owner { format!("{}/{path}", self.folder_of(file.public_id)) } else { path };
        if !is_taken {
            if !by_owner {
                // The others of this key are numbered.
                self.group.iter_mut().for_each(|group| group.is_taken = true);
                return Some(plain);
            }
            let key = folded(&plain);
            if self.is_free(&key) {
                self.invented.insert(key);
                return Some(plain);
            }
        }
        self.numbered(&plain, most)
    }

    /// The folder for members of this owner, a name that nothing else has.
    fn folder_of(&mut self, owner: DeviceId) -> String {
        if let Some(folder) = self.folders.get(&owner) {
            return folder.clone();
        }
        let name =
            self.owners.get(&owner).map_or_else(|| owner.to_string(), |name| safe_name(name));
        let key = folded(&name);
        let folder = if self.is_free(&key) && !self.is_folder_of_others(&key) {
            self.invented.insert(key);
            name
        } else {
            // Owners are few beside the members, and each has one folder.
            self.numbered(&name, u64::MAX).unwrap_or(name)
        };
        self.folders.insert(owner, folder.clone());
        folder
    }

    /// The first free number before the extension.
    fn numbered(&mut self, plain: &str, most: u64) -> Option<String> {
        let (stem, extension) = parts(plain);
        let counter = folded(&format!("{stem}/{extension}"));
        let mut number = self.numbers.get(&counter).copied().unwrap_or(0);
        for _ in 0..most {
            number = number.checked_add(1)?;
            let name = format!("{stem} ({number}){extension}");
            let key = folded(&name);
            let is_free = self.is_free(&key);
            if is_free {
                self.invented.insert(key);
                self.numbers.insert(counter, number);
                return Some(name);
            }
        }
        self.numbers.insert(counter, number);
        None
    }

    /// Whether no member has this name and none needs it for a folder.
    fn is_free(&mut self, key: &str) -> bool {
        self.work += 1;
        let own = self.added.range(first_of(key.to_owned())..).next();
        let is_own = own.is_some_and(|((own, _), _)| own == key);
        !is_own && !self.invented.contains(key) && !self.is_folder_of_others(key)
    }

    fn is_folder_of_others(&self, key: &str) -> bool {
        let inside = format!("{key}/");
        let own = self.added.range(first_of(inside.clone())..).next();
        let invented = self.invented.range(inside.clone()..).next();
        own.is_some_and(|((own, _), _)| own.starts_with(&inside))
            || invented.is_some_and(|invented| invented.starts_with(&inside))
    }
}

/// The first place at which a member of this key can stand.
fn first_of(key: String) -> (String, FileRef) {
    (key, FileRef { public_id: DeviceId(Default::default()), file_id: FileId(Default::default()) })
}

/// Replaces the colon behind a first letter: to who unpacks it on Windows it would be a drive.
fn without_drive(path: &str) -> String {
    match path.as_bytes() {
        [letter, b':', ..] if letter.is_ascii_alphabetic() => path.replacen(':', "_", 1),
        _ => path.to_owned(),
    }
}

/// Replaces what is no part of a name on some system.
pub fn safe_name(name: &str) -> String {
    let is_bad = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    let name: String = name.chars().map(|c| if is_bad(c) { '_' } else { c }).collect();
    let name = name.trim().trim_matches('.').trim();
    if name.is_empty() { "device".into() } else { name.to_owned() }
}

/// Divides a path where a number goes: before the extension, in a last segment that is short enough
/// for one.
fn parts(path: &str) -> (&str, &str) {
    let start = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = path.rfind('.').filter(|dot| *dot > start && path.len() - dot <= LONGEST_EXTENSION);
    let (stem, extension) = path.split_at(dot.unwrap_or(path.len()));
    let longest = start + MAX_SEGMENT_BYTES - NUMBER_BYTES - extension.len();
    (&stem[..stem.floor_char_boundary(longest)], extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(owner: u8, n: u32) -> FileRef {
        let id = |n: u32| format!("00000000-0000-4000-8000-{n:012x}");
        FileRef {
            public_id: format!("{owner:08x}-0000-8000-8000-000000000000").parse().unwrap(),
            file_id: id(n).parse().unwrap(),
        }
    }

    fn names_of(mut naming: Naming) -> Vec<String> {
        std::iter::from_fn(|| naming.next(u64::MAX)).flatten().map(|named| named.name).collect()
    }

    fn names(paths: &[(u8, &str)]) -> Vec<String> {
        let mut naming = Naming::default();
        for (n, (owner, path)) in (1..).zip(paths) {
            naming.add(file(*owner, n), path.trim_end_matches('/'), path.ends_with('/'));
            naming.owner(file(*owner, n).public_id, &format!("Owner {owner}"));
        }
        names_of(naming)
    }

    #[test]
    fn names_that_some_system_unpacks_to_one_place_are_numbered() {
        assert_eq!(names(&[(1, "d/A.txt"), (1, "d/a.TXT")]), ["d/A.txt", "d/a (1).TXT"]);
        assert_eq!(
            names(&[(1, "Ku\u{308}che"), (1, "K\u{fc}che")]),
            ["Ku\u{308}che", "K\u{fc}che (1)"]
        );
        assert_eq!(names(&[(1, "Straße"), (1, "STRASSE")]), ["Straße", "STRASSE (1)"]);
        assert_eq!(names(&[(1, "x"), (1, "x. "), (1, "x (1)")]), ["x", "x (2). ", "x (1)"]);
        assert_eq!(names(&[(1, "C:/x"), (1, "C_/x")]), ["C_/x", "C_/x (1)"]);
        assert_eq!(names(&[(1, ".rc"), (1, ".RC"), (1, "d.d/x"), (1, "d.d/X")])[1], ".RC (1)");
    }

    #[test]
    fn equal_paths_of_several_owners_lie_in_folders_of_their_names() {
        let found = names(&[(1, "a.txt"), (2, "A.txt"), (2, "a.txt"), (1, "b")]);
        assert_eq!(found, ["Owner 1/a.txt", "Owner 2/A.txt", "Owner 2/a (1).txt", "b"]);
        let found = names(&[(1, "a"), (2, "a"), (1, "owner 1"), (1, "owner 2/z")]);
        assert_eq!(found, ["Owner 1 (1)/a", "Owner 2 (1)/a", "owner 1", "owner 2/z"]);
    }

    #[test]
    fn a_file_does_not_stand_where_others_need_a_folder() {
        assert_eq!(names(&[(1, "a"), (1, "A/b"), (1, "a (1)/c")]), ["a (2)", "a (1)/c", "A/b"]);
        assert_eq!(
            names(&[(1, "a/"), (1, "a/b")]),
            ["a", "a/b"],
            "an empty folder's own entry may"
        );
    }

    #[test]
    fn a_numbered_name_still_fits_a_segment() {
        let long = format!("{}.txt", "ü".repeat(125));
        let found = names(&[(1, &long), (1, &long.to_uppercase())]);
        assert!(found.iter().all(|name| name.len() <= MAX_SEGMENT_BYTES), "{found:?}");
        assert!(found[1].ends_with(" (1).TXT"), "{found:?}");
    }

    /// Every probe of a name either gives it away or meets a name that is there, and no name is met
    /// twice by one counter.
    #[test]
    fn work_is_linear_whatever_the_names_are() {
        const FILES: u32 = 10_000;
        let equal = format!("{}/{}.txt", vec!["s".repeat(255); 15].join("/"), "n".repeat(200));
        let shapes: [(&str, &dyn Fn(u32) -> String); 5] = [
            ("equal names of 4 KiB", &|_| equal.clone()),
            ("pairs that are shortened to one stem", &|n| format!("{}{}", "x".repeat(245), n / 2)),
            ("numbers that are taken", &|n| {
                if n < FILES / 2 { "a".into() } else { format!("a ({})", n - FILES / 2) }
            }),
            ("numbers of numbers", &|n| "a (1)".to_owned() + &" (1)".repeat(n as usize % 50)),
            ("folders in the way", &|n| if n % 2 == 0 { "a".into() } else { format!("a ({n})/b") }),
        ];
        for (what, path) in shapes {
            let mut naming = Naming::default();
            (0..FILES).for_each(|n| naming.add(file((n % 3) as u8, n), &path(n), false));
            let mut seen = BTreeSet::new();
            let mut named = 0;
            while let Some(next) = naming.next(100) {
                let Some(next) = next else { continue };
                assert!(seen.insert(folded(&next.name)), "{what}: {} twice", next.name);
                named += 1;
            }
            assert_eq!(named, FILES, "{what}");
            assert!(
                naming.work() <= 4 * u64::from(FILES),
                "{what}: {} steps for {FILES} files",
                naming.work()
            );
        }
    }
}
