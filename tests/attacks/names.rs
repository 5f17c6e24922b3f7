//! Names and paths as weapons: out of the folder, over another file, through a planted link, into
//! an archive.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use lanyard_device::WantedDownload;
use lanyard_device::file_names::{NameAllocator, to_disk};
use lanyard_protocol::message::*;
use lanyard_protocol::*;

use lanyard_tests::harness::native_device::Native;
use lanyard_tests::harness::*;

/// What paths are attacked with.
const SYMBOLS: [&str; 16] = [
    ".", "/", "\\", ":", "%", "%2e", "%2f", "%5c", "\0", "~", "a", "CON", "nul", "COM¹",
    "\u{ff0f}", "\u{202e}",
];

/// All strings of up to four symbols.
fn strings() -> Vec<String> {
    let mut all = vec![String::new()];
    let mut last = all.clone();
    for _ in 0..4 {
        last = last
            .iter()
            .flat_map(|start| SYMBOLS.iter().map(move |symbol| format!("{start}{symbol}")))
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// Whether a name is a name and nothing else on every system.
fn is_plain(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_uppercase();
    let is_device = ["CON", "PRN", "AUX", "NUL"].contains(&stem.as_str())
        || ["COM", "LPT"].iter().any(|kind| {
            stem.strip_prefix(kind).is_some_and(|n| n.chars().count() == 1 && n != "¹x")
        });
    let is_one_step = Path::new(name).components().eq([Component::Normal(name.as_ref())]);
    let odd = |c: char| {
        c.is_control() || "/\\:*?\"<>|".contains(c) || ('\u{202a}'..='\u{202e}').contains(&c)
    };
    is_one_step
        && !is_device
        && !name.ends_with(['.', ' '])
        && !name.contains(odd)
        && name.len() <= 255
}

/// A28, A30. Every string of up to four hostile symbols: what may travel has no step upwards, no
/// root, no second separator; and whatever comes, even what may not travel, is a place below the
/// receiver's folder.
#[test]
fn a28_a30_no_path_leads_out_of_the_receivers_folder() {
    let strings = strings();
    assert!(strings.len() > 69_000, "{}", strings.len());
    for wire in &strings {
        if path::validate(wire).is_ok() {
            let steps_only =
                Path::new(wire).components().all(|step| matches!(step, Component::Normal(_)));
            assert!(
                steps_only && !wire.contains(['\\', '\0']) && !wire.starts_with('/'),
                "{wire:?} may travel"
            );
            assert!(wire.split('/').all(|segment| !segment.is_empty()), "{wire:?}");
        }
        let place = NameAllocator::default().place(wire);
        assert!(
            !place.is_empty() && place.iter().all(|name| is_plain(name)),
            "{wire:?} → {place:?}"
        );
    }
}

/// A28. A hub that says what no hub may: paths that lead upwards, to the root, to a drive. The
/// device of ours saves below the folder that it was told, and nowhere else.
#[tokio::test]
async fn a28_a_hostile_list_cannot_make_a_device_write_elsewhere() {
    let hub = TestHub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, around) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("a"), content(5_000)).unwrap();
    ana.shares(&from.path().join("a")).await;
    let entry = bo.sees(1).await.remove(0).entry;
    let folder = around.path().join("folder");
    let absolute = around.path().join("absolute").to_str().unwrap().to_owned();
    for hostile in [
        "../up",
        "..",
        "../../../../tmp/lanyard-canary",
        "a/../../b",
        &absolute,
        "C:\\x",
        "\\\\srv\\x",
        "./.",
        "a\0b",
        "/",
        "~/x",
        "folder/../../up",
        "%2e%2e/up",
        ".ssh/authorized_keys",
        "autorun.inf",
        "x.desktop",
    ] {
        let wanted = WantedDownload {
            entry: FileEntry { path: hostile.into(), ..entry.clone() },
            as_path: hostile.into(),
        };
        let (saved, failed) = bo.fetches(vec![wanted], &folder).await;
        assert_eq!((saved.len(), failed), (1, vec![]), "{hostile:?}");
        let at = saved[0].saved_as.as_ref().unwrap();
        assert!(
            at.starts_with(&folder) && !at.to_str().unwrap().contains(".."),
            "{hostile:?} → {}",
            at.display()
        );
        assert_eq!(fs::read(at).unwrap(), content(5_000));
    }
    let beside: Vec<_> =
        fs::read_dir(around.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside, ["folder"], "nothing beside it");
    assert!(!Path::new("/tmp/lanyard-canary").exists());
}

/// A28. Such paths do not get onto the list either.
#[tokio::test]
async fn a28_the_list_takes_no_path_that_leads_elsewhere() {
    let hub = TestHub::start().await;
    let mut eve = hub.approved(1).await;
    let deep = vec!["a"; 65].join("/");
    let long = "x".repeat(256);
    let hostile = [
        "..",
        ".",
        "../x",
        "a/../x",
        "/etc/passwd",
        "//srv/x",
        "a//b",
        "a/",
        "C:\\x",
        "\\\\srv\\x",
        "a\0b",
        "a\nb",
        "a\u{7f}b",
        "a\u{85}b",
        "",
        &deep,
        &long,
    ];
    for (n, path) in hostile.iter().enumerate() {
        let file = NewFile {
            file_id: format!("10000000-0000-4000-8000-{n:012x}").parse().unwrap(),
            path: (*path).into(),
            size: 1,
            modified_ms: 1,
            media_type: String::new(),
            kind: EntryKind::File,
            root: None,
        };
        let reference = eve.say(DeviceToRelay::AddFiles(AddFiles { files: vec![file] })).await;
        let answer = eve.answer(&reference).await;
        let no = matches!(&answer, RelayToDevice::RequestFailed(no) if no.code == FailureCode::PathRejected);
        assert!(no, "{path:?}: {answer:?}");
    }
}

/// A29. Names that are devices, streams or short names on Windows are ordinary names after they
/// were saved, on every system.
#[test]
fn a29_names_with_a_meaning_on_windows_lose_it() {
    for stem in [
        "CON", "con", "PRN", "AUX", "NUL", "COM1", "COM¹", "com²", "LPT9", "lpt³", "CONIN$",
        "CLOCK$",
    ] {
        for ending in ["", ".txt", " .txt", ".", " ", ":", ".tar.gz"] {
            let (wire, disk) = (format!("{stem}{ending}"), to_disk(&format!("{stem}{ending}")));
            assert!(is_plain(&disk) && disk != wire, "{wire:?} → {disk:?}");
        }
    }
    for wire in [
        "a:b",
        "x::$DATA",
        "name.",
        "name ",
        "\\\\srv\\x",
        "C:x",
        "\\\\?\\C:\\x",
        "a|b",
        "a\"b",
        "a<b>",
        "a*b?",
    ] {
        let disk = to_disk(wire);
        assert!(is_plain(&disk) && disk != wire, "{wire:?} → {disk:?}");
    }
}

/// A31. Links planted where a file, its folder, its folder's folder should be: nothing is written,
/// read or removed through them.
#[tokio::test]
async fn a31_nothing_is_written_through_a_planted_link() {
    let hub = TestHub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to, outside) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let album = from.path().join("album");
    fs::create_dir_all(album.join("deep/er")).unwrap();
    for name in ["one", "deep/two", "deep/er/three"] {
        fs::write(album.join(name), content(3_000)).unwrap();
    }
    ana.shares(&album).await;
    let wanted = bo.sees(3).await;
    fs::write(outside.path().join("canary"), "untouched").unwrap();
    let plant = |at: &str, to_what: &Path| {
        let at = to.path().join(at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(to_what, at).unwrap();
    };
    plant("album/deep/er", outside.path());
    let whole = bo.handle.start_transfer(wanted.clone(), to.path().into()).await;
    assert!(whole.is_err(), "a folder that is a link is none of ours");
    fs::remove_file(to.path().join("album/deep/er")).unwrap();
    plant("album/one", &outside.path().join("canary"));
    plant("album/deep/two", &outside.path().join("does not exist"));
    let (saved, failed) = bo.fetches(wanted, to.path()).await;
    assert_eq!(fs::read_to_string(outside.path().join("canary")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "nothing new is there");
    assert_eq!((saved.len(), failed), (3, vec![]), "beside the links, and not through one");
    for link in ["album/one", "album/deep/two"] {
        assert!(
            fs::symlink_metadata(to.path().join(link)).unwrap().is_symlink(),
            "{link} is as it was"
        );
    }
    for file in saved {
        let at = file.saved_as.unwrap();
        assert!(
            !fs::symlink_metadata(&at).unwrap().is_symlink()
                && fs::read(&at).unwrap() == content(3_000)
        );
    }
}

/// A31. A folder that is swapped for a link and back, as fast as it goes, while files are saved
/// into it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a31_a_folder_swapped_for_a_link_while_it_is_used_leads_nowhere() {
    let hub = TestHub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to, outside) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("album")).unwrap();
    for n in 0..40 {
        fs::write(from.path().join(format!("album/{n}")), content(2_000)).unwrap();
    }
    ana.shares(&from.path().join("album")).await;
    let wanted = bo.sees(40).await;
    let (album, aside, target) =
        (to.path().join("album"), to.path().join("aside"), outside.path().to_owned());
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let swapping = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut swaps = 0;
            while !stop.load(Ordering::Relaxed) {
                if fs::rename(&album, &aside).is_ok() && symlink(&target, &album).is_ok() {
                    swaps += 1;
                    let _ = fs::remove_file(&album);
                }
                let _ = fs::rename(&aside, &album);
            }
            swaps
        }
    });
    for _ in 0..10 {
        // What fails because its folder was away is none of this test's business.
        if let Ok(started) = bo.handle.start_transfer(wanted.clone(), to.path().into()).await {
            for _ in started.transfers {
                let ended = |event| {
                    matches!(event, lanyard_device::DeviceEvent::TransferEnded { .. }).then_some(())
                };
                bo.until(ended).await;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert!(swapping.join().unwrap() > 0);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "nothing got out");
}

/// A32, A35. Names that some disks take for one, and names that are there already: the second gets
/// a number, nothing is ever overwritten.
#[tokio::test]
async fn a32_a35_nothing_is_ever_overwritten() {
    let hub = TestHub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let names = [
        "A.txt",
        "a.txt",
        "stra\u{df}e",
        "STRASSE",
        "e\u{301}",
        "\u{e9}",
        "\u{fb00}",
        "ff",
        "mine",
        "folder",
    ];
    for (n, name) in names.iter().enumerate() {
        fs::write(from.path().join(name), content(100 + n as u64)).unwrap();
        ana.shares(&from.path().join(name)).await;
    }
    fs::write(to.path().join("mine"), "mine").unwrap();
    fs::create_dir(to.path().join("folder")).unwrap();
    let wanted = bo.sees(names.len()).await;
    let (saved, failed) = bo.fetches(wanted, to.path()).await;
    assert_eq!((saved.len(), failed), (names.len(), vec![]));
    assert_eq!(fs::read_to_string(to.path().join("mine")).unwrap(), "mine");
    assert!(to.path().join("folder").is_dir());
    let folded = |name: &str| name.to_lowercase();
    let mut places: Vec<String> = fs::read_dir(to.path())
        .unwrap()
        .map(|e| folded(e.unwrap().file_name().to_str().unwrap()))
        .collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), names.len() + 2, "two of one name nowhere: {places:?}");
}

/// A33. A folder whose name begins like a shared one's is not shared.
#[tokio::test]
async fn a33_a_folder_whose_name_only_begins_like_a_shared_one_is_not_shared() {
    let hub = TestHub::start().await;
    let (ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let from = tempfile::tempdir().unwrap();
    for folder in ["share", "share-private"] {
        fs::create_dir(from.path().join(folder)).unwrap();
        fs::write(from.path().join(folder).join("x"), folder).unwrap();
    }
    symlink(from.path().join("share-private"), from.path().join("share/way")).unwrap();
    symlink(from.path().join("share-private/x"), from.path().join("share/y")).unwrap();
    let offered = ana.handle.share(vec![from.path().join("share")]).await.unwrap();
    assert_eq!(
        offered.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        ["share/x"]
    );
    assert_eq!(bo.sees(1).await[0].as_path, "share/x");
}

/// A34. An archive of files whose names, and whose owner's name, are as bad as may travel: no
/// member leads upwards, to a root or to another system's separator.
#[tokio::test]
async fn a34_members_of_an_archive_stay_below_it() {
    let hub = TestHub::start().await;
    let (mut ana, mut eve) = (hub.approved(1).await, hub.approved(2).await);
    for name in ["../../../etc", "..", "C:\\Windows", "/", "...", "a/../.."] {
        let reference = eve.say(DeviceToRelay::UpdateName(UpdateName { name: name.into() })).await;
        assert!(
            matches!(eve.answer(&reference).await, RelayToDevice::ClientUpdated(_)),
            "{name:?}"
        );
        let twin = format!("{}.txt", eve.files.len());
        let entries = [
            ana.offers(&twin, 0).await,
            eve.offers(&twin, 0).await,
            eve.offers(&format!("~/{twin}"), 0).await,
            eve.offers(&format!("C:/{twin}"), 0).await,
            eve.offers(&format!(".../{twin}"), 0).await,
        ];
        let made = ana.link(&entries.each_ref()).await;
        let bytes = ana.http.get(hub.http(&made.url)).send().await.unwrap().bytes().await.unwrap();
        let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
        assert_eq!(archive.len(), entries.len());
        for index in 0..archive.len() {
            let member = archive.by_index(index).unwrap();
            let enclosed =
                member.enclosed_name().is_some_and(|path| path == Path::new(member.name()));
            let plain = path::validate(member.name()).is_ok();
            assert!(enclosed && plain, "{name:?}: {:?}", member.name());
        }
    }
}

/// A36. What is received can be run by nobody, whatever it was where it came from, and dot files
/// lie where they were put.
#[tokio::test]
async fn a36_a_received_file_is_not_executable() {
    let hub = TestHub::start().await;
    let (mut ana, mut bo) = (Native::inside(&hub, 1).await, Native::inside(&hub, 2).await);
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, size) in [("run.sh", 100u64), ("big.desktop", 2_000_000), (".bashrc", 0)] {
        fs::write(from.path().join(name), content(size)).unwrap();
        fs::set_permissions(from.path().join(name), fs::Permissions::from_mode(0o4777)).unwrap();
        ana.shares(&from.path().join(name)).await;
    }
    let wanted = bo.sees(3).await;
    let (saved, failed) = bo.fetches(wanted, to.path()).await;
    assert_eq!((saved.len(), failed), (3, vec![]));
    for file in saved {
        let mode = fs::metadata(file.saved_as.unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7111, 0, "{} has {mode:o}", file.path);
    }
}
