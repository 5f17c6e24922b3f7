//! Finds comments, and checks how they begin.

use crate::tree::{Kind, Source, sources};
use crate::{Offence, ratchet};

/// Consecutive lines of comment of one kind: the number of the first, and the texts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// Replaces all but the content of `<script>` and `<!-- -->` by empty lines.
pub(crate) fn scripts_of(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        let opens = line.trim_start().starts_with("<script");
        inside = (inside || opens) && !line.contains("</script>");
        if inside && !opens {
            kept.push_str(line);
        }
        kept.push('\n');
    }
    kept
}

/// A line's comment: its marker with the indentation, and its text.
fn comment_of(line: &str, kind: Kind) -> Option<(String, &str)> {
    let trimmed = line.trim_start();
    let indent = &line[..line.len() - trimmed.len()];
    let markers: &[&str] = match kind {
        Kind::Hash => &["#"],
        Kind::Rust | Kind::Script | Kind::Svelte => &["//!", "///", "//"],
        Kind::Markdown => &[],
    };
    for marker in markers {
        let Some(text) = trimmed.strip_prefix(marker) else { continue };
        // Shebangs, colours, `#[…]` in scripts and pragmas are not prose.
        let prose = text.is_empty() || text.starts_with(' ');
        return prose.then(|| (format!("{indent}{marker}"), text));
    }
    trailing(line, markers.last()?).map(|text| ("trailing".to_owned(), text))
}

/// The text of a comment behind code, unless its marker stands in a string.
fn trailing<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    let at = line.rfind(&format!(" {marker} "))?;
    let before = line[..at].replace("\\\"", "");
    let quotes = |quote: char| before.matches(quote).count();
    let in_string = quotes('"') % 2 == 1 || quotes('`') % 2 == 1 || quotes('\'') % 2 == 1;
    (!in_string).then(|| &line[at + marker.len() + 1..])
}

/// Joins consecutive comments of one kind; every trailing comment is a block of its own.
fn line_blocks(text: &str, kind: Kind) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut last = String::new();
    for (index, line) in text.lines().enumerate() {
        match comment_of(line, kind) {
            Some((marker, text)) if marker == last && marker != "trailing" => {
                let block = blocks.last_mut().expect("a marker has a block");
                block.text.push('\n');
                block.text.push_str(text);
            }
            Some((marker, text)) => {
                blocks.push(Block { line: index + 1, text: text.to_owned() });
                last = marker;
            }
            None => last.clear(),
        }
    }
    blocks
}

/// Comments between `open` and `close` that begin a line, without the stars in front of lines.
fn spanned_blocks(text: &str, open: &str, close: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let mut rest = line.trim();
        if !inside {
            let Some(after) = rest.strip_prefix(open) else { continue };
            rest = after;
            inside = true;
            blocks.push(Block { line: index + 1, text: String::new() });
        }
        if let Some((before, _)) = rest.split_once(close) {
            rest = before;
            inside = false;
        }
        let rest = rest.trim_start_matches('*').trim_end();
        let block = blocks.last_mut().expect("a block is open");
        if !block.text.is_empty() {
            block.text.push('\n');
        }
        block.text.push_str(rest);
    }
    blocks
}

/// Returns all comments of a source; a document is one block.
pub(crate) fn blocks_of(source: &Source) -> Vec<Block> {
    let kind = source.kind();
    let mut blocks = match kind {
        Kind::Markdown => return vec![Block { line: 1, text: source.text.clone() }],
        Kind::Rust => line_blocks(&source.text, kind),
        Kind::Hash => {
            let mut blocks = line_blocks(&source.text, kind);
            blocks.extend(spanned_blocks(&source.text, "\"\"\"", "\"\"\""));
            blocks
        }
        Kind::Script => line_blocks(&source.text, kind),
        Kind::Svelte => {
            let mut blocks = line_blocks(&scripts_of(&source.text), kind);
            blocks.extend(spanned_blocks(&source.text, "<!--", "-->"));
            blocks
        }
    };
    if matches!(kind, Kind::Script | Kind::Svelte) {
        blocks.extend(spanned_blocks(&source.text, "/*", "*/"));
    }
    blocks.sort_by_key(|block| block.line);
    blocks
}

/// Openers that turn a description into a riddle.
const RIDDLES: [&str; 5] = ["Who", "What", "Whom", "Of", "Whose"];

fn riddles(source: &Source) -> Vec<Offence> {
    if source.kind() == Kind::Markdown {
        return Vec::new();
    }
    let begins_so = |block: &Block| {
        let text = block.text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
        RIDDLES.contains(&&text[..end])
    };
    let blocks = blocks_of(source).into_iter().filter(begins_so);
    blocks
        .map(|Block { line, text }| {
            let text = text.trim_start().lines().next().unwrap_or_default().to_owned();
            Offence { path: source.path.clone(), line, text }
        })
        .collect()
}

#[test]
fn comments_begin_with_a_verb_or_the_name_of_a_thing() {
    let offences: Vec<_> = sources().iter().flat_map(riddles).collect();
    ratchet::hold("openers", &offences);
}

#[test]
fn a_riddle_is_found_in_every_kind_of_comment() {
    let lines = |path: &str, text: &str| -> Vec<usize> {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        riddles(&source).iter().map(|offence| offence.line).collect()
    };
    let rust = "//! What it is.\n\n/// Who asks.\n/// Whom.\n/// Returns.\nlet a = 1; // Of it.\n";
    assert_eq!(lines("a.rs", rust), [1, 3, 6]);
    assert_eq!(lines("a.rs", "/// Whoever asks.\nlet a = \"x // Who\";\n"), []);
    let script = "/** What it is. */\n/*\n * Whose.\n */\nf(); // Who\n";
    assert_eq!(lines("a.ts", script), [1, 2, 5]);
    let svelte = "<script>\n// Who\n</script>\n<!-- What -->\n<p>// Who</p>\n";
    assert_eq!(lines("a.svelte", svelte), [2, 4]);
    assert_eq!(lines("a.py", "#!/bin/py\n\"\"\"What it does.\"\"\"\nx = 1  # Of it\n"), [2, 3]);
    assert_eq!(lines("Cargo.toml", "# Who\n[x]\n"), [1]);
}
