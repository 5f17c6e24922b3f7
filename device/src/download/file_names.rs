//! From a path on the wire to a path below a folder of this disk: pure, the same on every platform,
//! so that what one device saved another can open. Nothing that comes out has a meaning beyond
//! being a name (PROTOCOL.md 5 says what may come in; this module trusts none of it).

use std::collections::{HashMap, HashSet};

use unicode_normalization::UnicodeNormalization;

/// Longest name that is made; what is put behind it (` (99)`, the suffixes of an unfinished file)
/// still fits 255 bytes.
const MAX_NAME_BYTES: usize = 220;
/// How unfinished files end. A shared file with such a name is escaped, so that the two never meet.
pub const PART_SUFFIX: &str = ".lanyard-part";
pub const HAVE_SUFFIX: &str = ".lanyard-have";

/// One name of the wire as a name that no platform gives another meaning. What must not stand there
/// becomes `%XX`.
pub fn to_disk(segment: &str) -> String {
    let mut name = String::with_capacity(segment.len());
    for (at, c) in segment.char_indices() {
        if is_unsafe(c) || (c == '%' && looks_escaped(&segment[at + 1..])) {
            escape(c, &mut name);
        } else {
            name.push(c);
        }
    }
    escape_end(&mut name);
    // A name may be both.
    if is_ours(&name) {
        let suffix = name.len() - PART_SUFFIX.len();
        escape_letter(&mut name, suffix);
    }
    if is_reserved(&name) {
        escape_letter(&mut name, 0);
    }
    if name.is_empty() { "%".into() } else { shorten(name) }
}

fn escape(c: char, out: &mut String) {
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        out.push_str(&format!("%{byte:02X}"));
    }
}

/// One escaped letter is enough to make it an ordinary name.
fn escape_letter(name: &mut String, at: usize) {
    let letter = name.remove(at);
    let mut escaped = String::new();
    escape(letter, &mut escaped);
    name.insert_str(at, &escaped);
}

/// Whether what follows a `%` would make it read as an escape.
fn looks_escaped(rest: &str) -> bool {
    rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit())
}

/// Separators, characters that Windows forbids, controls, and those that change how a name reads or
/// hide in it.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '/' | '\\' | '<' | '>' | ':' | '"' | '|' | '?' | '*')
        || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{ad}' | '\u{180e}')
}

/// Windows drops dots and spaces at the end of a name; `.` and `..` are made of nothing else.
fn escape_end(name: &mut String) {
    let kept = name.trim_end_matches(['.', ' ']).len();
    let ending = name.split_off(kept);
    ending.chars().for_each(|c| escape(c, name));
}

/// Names that are devices on Windows, with any ending: `CON`, `nul.txt`, `COM¹`; of ports any digit
/// counts, whatever its script.
fn is_reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" | "CLOCK$") {
        return true;
    }
    let number = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    number.is_some_and(|n| n.chars().count() == 1 && n.chars().all(char::is_numeric))
}

fn is_ours(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(PART_SUFFIX) || lower.ends_with(HAVE_SUFFIX)
}

/// A name that is too long keeps its beginning and its ending, and a mark made of the whole.
fn shorten(name: String) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let mark = format!("~{}", &blake3::hash(name.as_bytes()).to_hex()[..8]);
    let ending = match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= 16 => &name[at..],
        _ => "",
    };
    let mut keep = MAX_NAME_BYTES - mark.len() - ending.len();
    while !name.is_char_boundary(keep) {
        keep -= 1;
    }
    format!("{}{mark}{ending}", name[..keep].trim_end_matches(['.', ' ']))
}

/// `name (n).ext`, for a name that is taken.
pub fn numbered(name: &str, n: u32) -> String {
    match name.rfind('.') {
        Some(at) if at > 0 => format!("{} ({n}){}", &name[..at], &name[at..]),
        _ => format!("{name} ({n})"),
    }
}

/// As a disk sees a name that ignores case and composition.
fn folded(name: &str) -> String {
    let upper: String = name.nfkc().collect::<String>().to_uppercase();
    upper.to_lowercase().nfkc().collect()
}

/// Names that are taken, by what makes two of them one. Each name that is wanted goes on counting
/// where it stopped: as many equal names cost as many steps, and not their square.
#[derive(Debug, Default)]
pub(crate) struct TakenNames {
    taken: HashSet<String>,
    /// The number to try first, by each name that was wanted before.
    next: HashMap<String, u32>,
    #[cfg(test)]
    looks: usize,
}

impl TakenNames {
    /// Takes `wanted`, or with a number behind it the first that is free. `key` says what two names
    /// have in common that are one.
    pub(crate) fn take(&mut self, wanted: String, key: impl Fn(&str) -> String) -> String {
        let wanted_key = key(&wanted);
        if !self.next.contains_key(&wanted_key) {
            self.next.insert(wanted_key.clone(), 1);
            if self.is_new(wanted_key.clone()) {
                return wanted;
            }
        }
        let mut number = self.next.get(&wanted_key).copied().unwrap_or(1);
        let name = loop {
            let name = numbered(&wanted, number);
            number = number.saturating_add(1);
            if self.is_new(key(&name)) {
                break name;
            }
        };
        self.next.insert(wanted_key, number);
        name
    }

    fn is_new(&mut self, key: String) -> bool {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        self.taken.insert(key)
    }
}

/// Gives each file of one download its place; no two get the same on any platform.
#[derive(Debug)]
pub struct NameAllocator {
    /// The first is the root; the others are named by their place in here.
    folders: Vec<FolderNames>,
}

#[derive(Debug, Default)]
struct FolderNames {
    /// Folders of the wire that have a name here.
    subfolders: HashMap<String, (String, usize)>,
    names: TakenNames,
}

impl Default for NameAllocator {
    fn default() -> Self {
        Self { folders: vec![FolderNames::default()] }
    }
}

impl NameAllocator {
    /// Where the file with this path goes: names of folders, then its own.
    pub fn place(&mut self, wire: &str) -> Vec<String> {
        let mut segments: Vec<&str> =
            wire.split('/').filter(|segment| !segment.is_empty()).collect();
        let own = segments.pop().unwrap_or_default();
        let (mut path, folder) = self.folder_of(&segments);
        path.push(self.folders[folder].names.take(to_disk(own), folded));
        path
    }

    /// Where this folder goes; the same one each time.
    pub fn place_folder(&mut self, wire: &str) -> Vec<String> {
        let segments: Vec<&str> = wire.split('/').filter(|segment| !segment.is_empty()).collect();
        self.folder_of(&segments).0
    }

    fn folder_of(&mut self, segments: &[&str]) -> (Vec<String>, usize) {
        let mut path = Vec::with_capacity(segments.len() + 1);
        let mut at = 0;
        for segment in segments {
            let (name, below) = match self.folders[at].subfolders.get(*segment) {
                Some(known) => known.clone(),
                None => self.make_folder(at, segment),
            };
            path.push(name);
            at = below;
        }
        (path, at)
    }

    fn make_folder(&mut self, above: usize, segment: &str) -> (String, usize) {
        let below = self.folders.len();
        let folder = &mut self.folders[above];
        let made = (folder.names.take(to_disk(segment), folded), below);
        folder.subfolders.insert(segment.into(), made.clone());
        self.folders.push(FolderNames::default());
        made
    }
}

#[cfg(test)]
mod tests {
    //! Whatever comes over the wire, what comes out is a plain name on every platform, and two
    //! never meet.
    use super::*;

    #[test]
    fn ordinary_names_stay() {
        for name in [
            "a.txt",
            "Küche é 📁.bin",
            ".bashrc",
            "100%.md",
            "50% off",
            "a b (1).c",
            "日本語",
            "COMMON",
            "console.log",
        ] {
            assert_eq!(to_disk(name), name);
        }
    }

    #[test]
    fn dangerous_names_become_ordinary_ones() {
        for (wire, disk) in [
            ("CON", "%43ON"),
            ("nul.txt", "%6Eul.txt"),
            ("COM¹", "%43OM¹"),
            ("lpt9 .x", "%6Cpt9 .x"),
            ("com\u{6f7}.x", "%63om\u{6f7}.x"),
            ("NUL.x.lanyard-part", "%4EUL.x%2Elanyard-part"),
            ("a:b", "a%3Ab"),
            ("x::$DATA", "x%3A%3A$DATA"),
            ("name.", "name%2E"),
            ("name. .", "name%2E%20%2E"),
            ("..", "%2E%2E"),
            ("a\u{202e}gpj.exe", "a%E2%80%AEgpj.exe"),
            ("a\nb", "a%0Ab"),
            ("C:\\x", "C%3A%5Cx"),
            ("a%41", "a%2541"),
            ("film.lanyard-part", "film%2Elanyard-part"),
            ("", "%"),
        ] {
            assert_eq!(to_disk(wire), disk, "{wire:?}");
        }
    }

    #[test]
    fn every_output_is_safe_whatever_the_input() {
        let symbols = ['.', '/', '\\', ':', '%', '2', 'e', '~', '\0', ' ', 'ﬀ', '\u{202e}'];
        let mut names = vec![String::new()];
        for _ in 0..4 {
            let longer: Vec<String> = names
                .iter()
                .flat_map(|name| symbols.iter().map(move |c| format!("{name}{c}")))
                .collect();
            for wire in &longer {
                let disk = to_disk(wire);
                assert!(!disk.is_empty() && disk != "." && disk != "..", "{wire:?}");
                assert!(
                    !disk.ends_with(['.', ' ']) && !disk.chars().any(is_unsafe),
                    "{wire:?} → {disk:?}"
                );
            }
            let distinct: HashSet<String> = longer.iter().map(|wire| to_disk(wire)).collect();
            assert_eq!(distinct.len(), longer.len(), "no two names become one");
            names = longer;
        }
    }

    #[test]
    fn long_names_keep_their_ending_and_stay_apart() {
        let long = |c: char| format!("{}{c}.jpeg", "é".repeat(120));
        let (a, b) = (to_disk(&long('a')), to_disk(&long('b')));
        assert!(a.len() <= MAX_NAME_BYTES && a.ends_with(".jpeg") && a != b);
        let escaped = to_disk(&":".repeat(255));
        assert!(escaped.len() <= MAX_NAME_BYTES);
    }

    #[test]
    fn names_that_some_disks_take_for_one_are_kept_apart() {
        let mut names = NameAllocator::default();
        let placed: Vec<String> =
            ["A.txt", "a.TXT", "stra\u{df}e", "STRASSE", "e\u{301}", "é", "A.txt"]
                .iter()
                .map(|wire| names.place(wire).join("/"))
                .collect();
        assert_eq!(
            placed,
            ["A.txt", "a (1).TXT", "straße", "STRASSE (1)", "e\u{301}", "é (1)", "A (2).txt"]
        );
    }

    #[test]
    fn a_folder_of_the_wire_is_one_folder_here() {
        let mut names = NameAllocator::default();
        let placed: Vec<String> = ["Pics/a", "pics/a", "Pics/b", "pics/b", "Pics", "NUL/x"]
            .iter()
            .map(|wire| names.place(wire).join("/"))
            .collect();
        assert_eq!(placed, ["Pics/a", "pics (1)/a", "Pics/b", "pics (1)/b", "Pics (2)", "%4EUL/x"]);
    }

    fn looks(names: &NameAllocator) -> usize {
        names.folders.iter().map(|folder| folder.names.looks).sum()
    }

    /// F11. What others call their files decides how many looks it takes to name them: a constant
    /// for each.
    #[test]
    fn equal_names_cost_as_many_looks_as_there_are_names() {
        const MANY: usize = 4_000;
        let equal = |_: usize| "notes.txt".to_string();
        // Equal on some disks only.
        let folding = |n: usize| {
            if n.is_multiple_of(2) { "Notes.txt".to_string() } else { "NOTES.TXT".into() }
        };
        // Half of them are the very names that the other half would get.
        let in_the_way = |n: usize| match n < MANY / 2 {
            true => format!("notes ({}).txt", n + 1),
            false => "notes.txt".into(),
        };
        let folders = |n: usize| format!("{}/x", if n.is_multiple_of(2) { "a" } else { "A" });
        let kinds: [&dyn Fn(usize) -> String; 4] = [&equal, &folding, &in_the_way, &folders];
        for (kind, wire) in kinds.iter().enumerate() {
            let mut names = NameAllocator::default();
            let placed: HashSet<String> =
                (0..MANY).map(|n| folded(&names.place(&wire(n)).join("/"))).collect();
            assert_eq!(placed.len(), MANY, "no two meet");
            assert!(looks(&names) <= 3 * MANY, "{kind}: {} looks for {MANY} names", looks(&names));
        }
    }
}
