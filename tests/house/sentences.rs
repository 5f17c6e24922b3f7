//! Sentences of comments and documents are short.

use crate::comments::blocks_of;
use crate::tree::{Source, sources};
use crate::{Offence, ratchet};

const MAX_WORDS: usize = 30;
const MAX_SEMICOLONS: usize = 1;

/// Stands for a code span, which counts as one word.
const CODE: char = '\u{1}';

/// A paragraph, list item or heading: the number of its first line, and its text.
struct Paragraph {
    line: usize,
    text: String,
}

/// Splits a text into its paragraphs and leaves out code, tables and markup.
fn paragraphs(first: usize, text: &str) -> Vec<Paragraph> {
    let mut found: Vec<Paragraph> = Vec::new();
    let mut fence = false;
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let words = line.trim_start().trim_start_matches("> ");
        if words.starts_with("```") || words.starts_with("---") {
            fence ^= words.starts_with("```");
            open = false;
            continue;
        }
        let code = line.starts_with("     ") && !open;
        // Columns of a listing.
        let listing = words.trim_end().contains("  ");
        if fence || code || listing || words.is_empty() || words.starts_with(['|', '<']) {
            open = false;
            continue;
        }
        let item = item_of(words);
        if let (true, None, Some(paragraph)) = (open, item, found.last_mut()) {
            paragraph.text.push(' ');
            paragraph.text.push_str(words);
        } else {
            let text = item.unwrap_or(words).to_owned();
            found.push(Paragraph { line: first + index, text });
        }
        open = !words.starts_with('#');
    }
    found
}

/// The text of a list item or heading.
fn item_of(words: &str) -> Option<&str> {
    let heading = words.trim_start_matches('#');
    if heading.len() < words.len() && heading.starts_with(' ') {
        return Some(heading);
    }
    if let Some(item) = words.strip_prefix("- ").or_else(|| words.strip_prefix("* ")) {
        return Some(item);
    }
    let (number, item) = words.split_once(". ")?;
    number.chars().all(|c| c.is_ascii_digit()).then_some(item)
}

/// Replaces code spans by one mark each.
fn without_code(text: &str) -> String {
    let mut parts = text.split('`');
    let mut kept = parts.next().unwrap_or_default().to_owned();
    while let Some(_span) = parts.next() {
        kept.push(CODE);
        kept.push_str(parts.next().unwrap_or_default());
    }
    kept
}

/// Splits a paragraph into sentences: after a full stop comes a capital, a digit or code.
fn sentences(text: &str) -> Vec<Vec<String>> {
    let text = without_code(text);
    let mut found = vec![Vec::new()];
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let sentence = found.last_mut().expect("there is always one");
        sentence.push(word.to_owned());
        let bare = word.trim_end_matches(['"', '\'', ')', '*', '_', '”', '’']);
        let ends = bare.ends_with(['.', '!', '?', '…']) && !matches!(bare, "e.g." | "i.e.");
        let begins = words.peek().is_some_and(|next| {
            let next = next.trim_start_matches(['"', '\'', '(', '*', '_', '[', '“', '‘']);
            next.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit() || c == CODE)
        });
        if ends && begins {
            found.push(Vec::new());
        }
    }
    found
}

/// Says what is wrong with a sentence.
fn judge(sentence: &[String]) -> Option<String> {
    let words: Vec<_> = sentence
        .iter()
        .filter(|word| word.contains(|c: char| c.is_alphanumeric() || c == CODE))
        .collect();
    let names = words.iter().filter(|word| word.contains(CODE)).count();
    let semicolons = sentence.iter().filter(|word| word.contains(';')).count();
    let versions = sentence.starts_with(&["Versions".to_owned(), "and".to_owned()]);
    // Half of it is code, or a program wrote it: a list of names.
    if names * 2 >= words.len() || versions {
        return None;
    }
    let text = sentence.join(" ").replace(CODE, "`…`");
    if words.len() > MAX_WORDS {
        Some(format!("{} words: {text}", words.len()))
    } else if semicolons > MAX_SEMICOLONS {
        Some(format!("{semicolons} semicolons: {text}"))
    } else {
        None
    }
}

fn long_sentences(source: &Source) -> Vec<Offence> {
    let blocks = blocks_of(source);
    let paragraphs = blocks.iter().flat_map(|block| paragraphs(block.line, &block.text));
    let found = paragraphs.flat_map(|paragraph| {
        let sentences = sentences(&paragraph.text);
        let wrong = sentences.iter().filter_map(|sentence| judge(sentence));
        wrong.map(|text| (paragraph.line, text)).collect::<Vec<_>>()
    });
    found.map(|(line, text)| Offence { path: source.path.clone(), line, text }).collect()
}

#[test]
fn a_sentence_has_at_most_30_words_and_one_semicolon() {
    let offences: Vec<_> = sources().iter().flat_map(long_sentences).collect();
    ratchet::hold("sentences", &offences);
}

#[test]
fn a_long_sentence_is_found_across_the_lines_of_a_comment() {
    let source = |path: &str, text: String| Source { path: path.to_owned(), text };
    let fifteen = ["Word"; 15].join(" ");
    let rust = |tail: &str| {
        long_sentences(&source("a.rs", format!("/// One. {fifteen}\n/// {fifteen}{tail}\n"))).len()
    };
    assert_eq!(rust("."), 0);
    assert_eq!(rust(" more."), 1);
    assert_eq!(rust(". More words here."), 0);
}

#[test]
fn a_second_semicolon_is_found_and_code_tables_and_names_are_left_out() {
    let found = |text: &str| {
        long_sentences(&Source { path: "a.md".to_owned(), text: text.to_owned() }).len()
    };
    assert_eq!(found("One thing; another thing.\n"), 0);
    assert_eq!(found("One thing; another thing; a third thing.\n"), 1);
    assert_eq!(found("One thing; another thing\n- a third; a fourth thing.\n"), 0);
    assert_eq!(found("See `a; b; c` for this; or that.\n"), 0);
    assert_eq!(found("| a; b; c |\n```\na b; c; d\n```\n"), 0);
    let names = "`a`, `b`, ".repeat(20);
    assert_eq!(found(&format!("There are {names}and `c`.\n")), 0);
}
