//! Every short path over the characters that path attacks are made of: what travels, and whatever
//! does not, has a plain place below the folder of a download. Four symbols in each run, six by
//! `tests/deep/run paths`.

use std::path::{Component, Path};

use lanyard_device::file_names::NameAllocator;
use lanyard_protocol::path::validate;
use lanyard_tests::decoders::is_plain;

/// Among them the letters of a device of Windows.
const SYMBOLS: [&str; 12] = [".", "/", "\\", ":", "%", "~", "\0", " ", "a", "C", "ON", "1"];

/// All strings of up to `longest` symbols, one after the other in the same buffer.
fn each(longest: usize, text: &mut String, told: &mut impl FnMut(&str)) {
    if longest == 0 {
        return;
    }
    for symbol in SYMBOLS {
        let length = text.len();
        text.push_str(symbol);
        told(text);
        each(longest - 1, text, told);
        text.truncate(length);
    }
}

/// Below `root`, in as many steps as there are names, whoever reads the path: this system, or one
/// to which `\` and `:` mean something.
fn stays_below(place: &[String], wire: &str) {
    let path: std::path::PathBuf =
        std::iter::once("root").chain(place.iter().map(String::as_str)).collect();
    assert!(path.starts_with("root"), "{wire:?} → {path:?}");
    let mut steps = Path::new(&path).components();
    assert!(steps.all(|step| matches!(step, Component::Normal(_))), "{wire:?} → {path:?}");
    assert_eq!(Path::new(&path).components().count(), place.len() + 1, "{wire:?} → {path:?}");
    assert!(place.iter().all(|name| is_plain(name)), "{wire:?} → {place:?}");
}

fn enumerate(longest: usize) -> (u64, u64) {
    let (mut all, mut travelled) = (0, 0);
    each(longest, &mut String::new(), &mut |wire| {
        all += 1;
        let place = NameAllocator::default().place(wire);
        stays_below(&place, wire);
        stays_below(&NameAllocator::default().place_folder(wire), wire);
        if validate(wire).is_ok() {
            travelled += 1;
            assert!(
                !wire.contains(['\\', '\0']) && !wire.starts_with('/') && !wire.ends_with('/'),
                "{wire:?}"
            );
            assert!(!wire.split('/').any(|name| matches!(name, "" | "." | "..")), "{wire:?}");
            assert_eq!(place.len(), wire.split('/').count(), "{wire:?} → {place:?}");
        }
    });
    (all, travelled)
}

#[test]
fn no_short_path_escapes() {
    let (all, travelled) = enumerate(4);
    assert_eq!(all, 12 + 12 * 12 + 12u64.pow(3) + 12u64.pow(4));
    assert!(travelled > all / 10 && travelled < all);
}

#[test]
#[ignore = "a minute: tests/deep/run paths"]
fn no_path_of_six_symbols_escapes() {
    let (all, travelled) = enumerate(6);
    println!("{all} paths, of which {travelled} may travel");
    let expected: u64 = (1..=6).map(|length| 12u64.pow(length)).sum();
    assert_eq!(all, expected);
}

/// The same through the real sockets and onto a real disk would take hours; a few that stand for
/// all do it here.
#[tokio::test]
async fn a_path_that_may_not_be_sent_is_refused_by_name() {
    use lanyard_protocol::message::{AddFiles, RequestFailed};
    use lanyard_protocol::*;
    use lanyard_tests::harness::*;

    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    for (number, path) in
        ["../a", "a/../b", "/a", "a\\b", "a\0", ".", "a//b", ""].into_iter().enumerate()
    {
        let file = NewFile {
            file_id: format!("00000000-0000-4000-8000-{number:012x}").parse().unwrap(),
            path: path.into(),
            size: 1,
            modified_ms: 0,
            media_type: String::new(),
            kind: EntryKind::File,
            root: None,
        };
        let reference = ana.say(DeviceToRelay::AddFiles(AddFiles { files: vec![file] })).await;
        let answer = ana.answer(&reference).await;
        let refused = matches!(
            &answer,
            RelayToDevice::RequestFailed(RequestFailed { code: FailureCode::PathRejected, .. })
        );
        assert!(refused, "{path:?}: {answer:?}");
    }
}
