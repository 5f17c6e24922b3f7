//! From what a person typed to the files that are meant: a path, a folder, an id, or `OWNER/PATH`.

use std::collections::BTreeMap;

use lanyard_device::{CatalogueView, WantedDownload};
use lanyard_protocol::path::file_name;
use lanyard_protocol::{DeviceId, FileEntry, FileId};

use crate::output::exit::{Exit, Failure};
use crate::output::text;

/// So many meanings of a word are printed: others decide how many files have one name.
const MAX_CANDIDATES: usize = 20;

/// The chosen files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Each with the path it has below the folder it is saved to.
    pub files: Vec<WantedDownload>,
    /// The owner of the file or folder.
    pub name: String,
    /// The owner and the path, of a folder.
    pub folder: Option<(DeviceId, String)>,
}

/// Finds what `word` means, or says that nothing or too much fits.
pub(super) fn choose(catalogue: &CatalogueView, word: &str) -> Result<Chosen, Failure> {
    if let Ok(file_id) = word.parse::<FileId>() {
        let entries: Vec<&FileEntry> =
            catalogue.files.values().filter(|entry| entry.file_id == file_id).collect();
        return one_of(catalogue, word, entries.into_iter().map(Match::file).collect());
    }
    let path = word.trim_end_matches('/');
    let mut matches = matches_of(catalogue, None, path);
    for (owner, client) in &catalogue.clients {
        for name in [client.name.as_str(), &owner.to_string()] {
            if let Some(rest) = path.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')) {
                matches.extend(matches_of(catalogue, Some(*owner), rest));
            }
        }
    }
    one_of(catalogue, word, matches)
}

/// One thing that a word may mean: a file, or a folder of one owner.
#[derive(Debug)]
struct Match<'a> {
    owner: DeviceId,
    path: String,
    entries: Vec<&'a FileEntry>,
    is_folder: bool,
}

impl<'a> Match<'a> {
    fn file(entry: &'a FileEntry) -> Self {
        Self {
            owner: entry.public_id,
            path: entry.path.clone(),
            entries: vec![entry],
            is_folder: false,
        }
    }

    /// As a person can write it to mean nothing else.
    fn candidate(&self, catalogue: &CatalogueView, same_place: bool) -> String {
        if same_place && !self.is_folder {
            return format!("{}  ({})", self.entries[0].file_id, text::visible(&self.path));
        }
        let name = catalogue.clients.get(&self.owner).map(|client| client.name.as_str());
        let unique = |name: &&str| {
            catalogue.clients.values().filter(|client| client.name == *name).count() == 1
        };
        let owner = name.filter(unique).map_or_else(|| self.owner.to_string(), text::visible);
        format!("{owner}/{}", text::visible(&self.path))
    }
}

fn matches_of<'a>(
    catalogue: &'a CatalogueView,
    owner: Option<DeviceId>,
    path: &str,
) -> Vec<Match<'a>> {
    let (mut matches, mut folders) = (Vec::new(), BTreeMap::<DeviceId, Vec<&FileEntry>>::new());
    if path.is_empty() {
        return matches;
    }
    // Many may have the name that was meant: of each only the files of that one are looked at.
    let entries: Box<dyn Iterator<Item = &FileEntry>> = match owner {
        Some(owner) => Box::new(catalogue.files_of(owner)),
        None => Box::new(catalogue.files.values()),
    };
    for entry in entries {
        if entry.path == path {
            matches.push(Match::file(entry));
        } else if entry.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')) {
            folders.entry(entry.public_id).or_default().push(entry);
        }
    }
    let folder = |(owner, entries)| Match { owner, path: path.into(), entries, is_folder: true };
    matches.extend(folders.into_iter().map(folder));
    matches
}

fn one_of(
    catalogue: &CatalogueView,
    word: &str,
    mut matches: Vec<Match>,
) -> Result<Chosen, Failure> {
    // The same files may be meant in two ways.
    matches.dedup_by(|a, b| a.entries == b.entries);
    let Some(first) = matches.first() else {
        let why =
            format!("nobody shares “{}”; `lanyard ls` shows what there is", text::visible(word));
        return Err(Failure::new(Exit::NotFound, why));
    };
    if matches.len() > 1 {
        let twice = |one: &Match| {
            matches.iter().filter(|m| (m.owner, &m.path) == (one.owner, &one.path)).count() > 1
        };
        let mut lines: Vec<String> = matches
            .iter()
            .take(MAX_CANDIDATES)
            .map(|one| format!("  {}", one.candidate(catalogue, twice(one))))
            .collect();
        if matches.len() > MAX_CANDIDATES {
            lines.push(format!("  and {} more", matches.len() - MAX_CANDIDATES));
        }
        let why = format!("{} may mean any of these:\n{}", text::visible(word), lines.join("\n"));
        return Err(Failure::usage(why));
    }
    let name = file_name(&first.path).to_string();
    let parent = first.path.len() - name.len();
    let wanted = |entry: &&FileEntry| WantedDownload {
        entry: (*entry).clone(),
        as_path: entry.path[parent..].into(),
    };
    let folder = first.is_folder.then(|| (first.owner, first.path.clone()));
    Ok(Chosen { files: first.entries.iter().map(wanted).collect(), name, folder })
}

#[cfg(test)]
mod tests {
    //! A word means one thing, or the person hears what it may mean.
    use super::*;
    use lanyard_protocol::{Client, DeviceKind, EntryKind, Instance};

    fn device(n: u8) -> DeviceId {
        format!("00000001-0000-8000-8000-0000000000{n:02x}").parse().unwrap()
    }

    fn file_id(n: u8) -> String {
        format!("00000002-0000-8000-8000-0000000000{n:02x}")
    }

    fn catalogue(files: &[(u8, u8, &str)]) -> CatalogueView {
        let mut catalogue = CatalogueView::default();
        for (n, name) in [(1, "Ana"), (2, "Bo")] {
            let client = Client {
                public_id: device(n),
                name: name.into(),
                kind: DeviceKind::Native,
                platform: String::new(),
            };
            catalogue.clients.insert(device(n), client);
        }
        for (owner, n, path) in files {
            let entry = FileEntry {
                public_id: device(*owner),
                instance: Instance([0; 16]),
                file_id: file_id(*n).parse().unwrap(),
                path: (*path).into(),
                size: 1,
                modified_ms: 1,
                media_type: String::new(),
                kind: EntryKind::File,
                group_log: 18,
                root: None,
            };
            catalogue.files.insert(entry.file_ref(), entry);
        }
        catalogue
    }

    fn chosen(catalogue: &CatalogueView, word: &str) -> Vec<String> {
        choose(catalogue, word).unwrap().files.into_iter().map(|wanted| wanted.as_path).collect()
    }

    #[test]
    fn a_file_goes_by_its_name_and_a_folder_with_its_own() {
        let catalogue = catalogue(&[
            (1, 1, "album/2024/a.jpg"),
            (1, 2, "album/2024/b.jpg"),
            (1, 3, "albumen.txt"),
        ]);
        assert_eq!(chosen(&catalogue, "album/2024/a.jpg"), ["a.jpg"]);
        assert_eq!(chosen(&catalogue, "album/2024/"), ["2024/a.jpg", "2024/b.jpg"]);
        assert_eq!(chosen(&catalogue, "album"), ["album/2024/a.jpg", "album/2024/b.jpg"]);
        assert_eq!(chosen(&catalogue, &file_id(3)), ["albumen.txt"]);
        assert_eq!(choose(&catalogue, "albu").unwrap_err().exit, Exit::NotFound);
        assert_eq!(choose(&catalogue, &file_id(9)).unwrap_err().exit, Exit::NotFound);
        assert_eq!(choose(&catalogue, "/").unwrap_err().exit, Exit::NotFound);
    }

    #[test]
    fn a_name_that_two_devices_offer_needs_its_owner() {
        let catalogue = catalogue(&[(1, 1, "a.txt"), (2, 2, "a.txt")]);
        let failure = choose(&catalogue, "a.txt").unwrap_err();
        let said = failure.error.to_string();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(said.contains("Ana/a.txt") && said.contains("Bo/a.txt"), "{said}");
        assert_eq!(choose(&catalogue, "Bo/a.txt").unwrap().files[0].entry.public_id, device(2));
        let by_id = format!("{}/a.txt", device(1));
        assert_eq!(choose(&catalogue, &by_id).unwrap().files[0].entry.public_id, device(1));
    }

    #[test]
    fn a_name_that_one_device_offers_twice_needs_its_id() {
        let catalogue = catalogue(&[(1, 1, "a.txt"), (1, 2, "a.txt")]);
        let said = choose(&catalogue, "a.txt").unwrap_err().error.to_string();
        assert!(said.contains(&file_id(1)) && said.contains(&file_id(2)), "{said}");
    }

    #[test]
    fn thousands_of_one_name_are_listed_by_a_few() {
        let files: Vec<(u8, u8, &str)> = (0..200).map(|n| (1, n, "a.txt")).collect();
        let said = choose(&catalogue(&files), "a.txt").unwrap_err().error.to_string();
        assert_eq!(said.lines().count(), 1 + MAX_CANDIDATES + 1, "{said}");
        assert!(said.ends_with("  and 180 more"), "{said}");
    }
}
