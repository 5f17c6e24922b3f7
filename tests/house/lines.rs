//! No line is longer than 100 columns.

use crate::comments::scripts_of;
use crate::tree::{Kind, Source, sources};
use crate::{Offence, ratchet};

const MAX_COLUMNS: usize = 100;

fn long_lines(source: &Source) -> Vec<Offence> {
    let text = match source.kind() {
        Kind::Svelte => scripts_of(&source.text),
        Kind::Rust | Kind::Script | Kind::Markdown | Kind::Hash => source.text.clone(),
    };
    let mut fence = false;
    let mut offences = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fence = !fence;
        }
        let table = source.kind() == Kind::Markdown && !fence && line.trim_start().starts_with('|');
        // An address cannot be broken.
        let address = line.contains("https://") || line.contains("http://");
        if line.chars().count() > MAX_COLUMNS && !table && !address {
            let (path, text) = (source.path.clone(), line.trim().to_owned());
            offences.push(Offence { path, line: index + 1, text });
        }
    }
    offences
}

#[test]
fn no_line_is_longer_than_100_columns() {
    let offences: Vec<_> = sources().iter().flat_map(long_lines).collect();
    ratchet::hold("lines", &offences);
}

#[test]
fn a_long_line_is_found_and_tables_addresses_and_markup_are_left_out() {
    let long = "x ".repeat(51);
    let found =
        |path: &str, text: String| long_lines(&Source { path: path.to_owned(), text }).len();
    assert_eq!(found("a.rs", "é".repeat(100)), 0);
    assert_eq!(found("a.rs", "é".repeat(101)), 1);
    assert_eq!(found("a.md", format!("{long}\n| {long} |\n```\n| {long} |\n```\n")), 2);
    assert_eq!(found("a.md", format!("{long} https://example.org\n")), 0);
    assert_eq!(found("a.svelte", format!("<script>\n// {long}\n</script>\n<p>{long}</p>\n")), 1);
}
