//! Text on a terminal: names that cannot lie, sizes, tables, a code for the phone's camera.

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use unicode_normalization::char::is_combining_mark;

/// Marks on one letter that are printed: Vietnamese, Hebrew and Tibetan need three; hundreds paint
/// over other lines.
const MAX_MARKS: usize = 4;

/// A name as the terminal may print it: control, bidi and invisible characters show as escapes, a
/// letter keeps its first few marks, and text that runs from right to left is kept from rearranging
/// what stands around it.
pub(crate) fn visible(name: &str) -> String {
    let mut shown = String::with_capacity(name.len());
    let mut marks = 0;
    for c in name.chars() {
        let is_mark = is_combining_mark(c);
        marks = if is_mark { marks + 1 } else { 0 };
        if is_deceiving(c) {
            shown.push_str(&format!("\\u{{{:x}}}", c as u32));
        } else if !is_mark || marks <= MAX_MARKS {
            shown.push(c);
        }
    }
    if shown.chars().any(runs_leftwards) { format!("\u{2068}{shown}\u{2069}") } else { shown }
}

/// Characters that move, hide or end what is printed.
fn is_deceiving(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

fn runs_leftwards(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefe}'
        | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
}

/// Decimal units, three figures at most.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A moment in UTC: `2026-11-20 18:05:00Z`.
pub(crate) fn date(ms: u64) -> String {
    let moment = i64::try_from(ms / 1_000)
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    moment.map_or_else(String::new, |at| {
        let (date, time) = (at.date(), at.time());
        format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second()
        )
    })
}

/// How long, in the largest unit that says it well: `50 min`, `8 h`, `2 days`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds.div_ceil(60)),
        7_200..172_800 => format!("{} h", seconds.div_ceil(3_600)),
        _ => format!("{} days", seconds.div_ceil(86_400)),
    }
}

/// Columns padded to their widest cell; the last one is left as it is.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..head.len())
        .map(|n| rows.iter().map(|row| width(&row[n])).chain([width(head[n])]).max().unwrap_or(0))
        .collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (n, cell) in cells.iter().enumerate() {
            line.push_str(cell);
            if n + 1 < cells.len() {
                line.push_str(&" ".repeat(widths[n] - width(cell) + 2));
            }
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut table = line(head.to_vec());
    rows.iter().for_each(|row| table.push_str(&line(row.iter().map(String::as_str).collect())));
    table
}

/// A QR code in half blocks, black on white whatever the terminal's own colours are. `None` if it
/// does not fit one.
pub(crate) fn qr(content: &str) -> Option<String> {
    let code = QrCode::new(content).ok()?;
    let picture =
        code.render::<Dense1x2>().dark_color(Dense1x2::Dark).light_color(Dense1x2::Light).build();
    // Dark modules are drawn as blocks, in the foreground colour.
    Some(picture.lines().map(|line| format!("\x1b[38;5;16;48;5;231m{line}\x1b[0m\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lie() {
        for (name, shown) in [
            ("Ana’s iPhone 📱", "Ana’s iPhone 📱"),
            ("a\u{202e}gnp.exe", "a\\u{202e}gnp.exe"),
            ("\u{1b}[2Jx\r\n", "\\u{1b}[2Jx\\u{d}\\u{a}"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("שלום", "\u{2068}שלום\u{2069}"),
        ] {
            assert_eq!(visible(name), shown, "{name:?}");
        }
    }

    /// A20. What somebody stacks on a letter stays on its line.
    #[test]
    fn a20_a_letter_keeps_its_first_marks_and_no_tower_of_them() {
        for mark in ['\u{301}', '\u{489}', '\u{34f}', '\u{5b8}', '\u{e37}'] {
            for name in [format!("Z{}", mark.to_string().repeat(120)), mark.to_string().repeat(120)]
            {
                let shown = visible(&format!("{name}, and more"));
                assert_eq!(shown.chars().filter(|c| *c == mark).count(), MAX_MARKS, "{mark:?}");
                assert!(shown.contains(", and more"), "{shown:?}");
            }
        }
        for whole in ["Việt Nam", "e\u{323}\u{302}", "ཀྵྨྱ", "👩‍🚀".trim_end_matches('\u{200d}')]
        {
            let plain = whole.replace('\u{200d}', "\\u{200d}");
            assert_eq!(visible(whole), plain, "what languages need stays");
        }
    }

    /// A19, A20. Whatever character stands in a name, what is printed moves no cursor, starts no
    /// line and turns no text around.
    #[test]
    fn a19_a20_no_character_moves_the_cursor_or_turns_the_text() {
        for c in '\0'..=char::MAX {
            let shown = visible(&format!("a{c}b"));
            let deceives = |c: char| {
                c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || c == '\u{200b}'
            };
            assert!(!shown.contains(deceives), "{:x}: {shown:?}", c as u32);
            let isolates = shown.chars().filter(|c| ('\u{2066}'..='\u{2069}').contains(c)).count();
            assert!(
                isolates == 0
                    || (isolates == 2
                        && shown.starts_with('\u{2068}')
                        && shown.ends_with('\u{2069}'))
            );
        }
    }

    #[test]
    fn sizes_have_three_figures_at_most() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (12_345, "12.3 kB"),
            (999_999, "1.0 MB"),
            (4 << 30, "4.3 GB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn a_table_lines_up() {
        let rows = vec![vec!["Ana".into(), "x".into()], vec!["B".into(), "long".into()]];
        assert_eq!(table(&["NAME", "WHAT"], &rows), "NAME  WHAT\nAna   x\nB     long\n");
    }

    #[test]
    fn an_address_fits_a_code() {
        let code = qr("http://192.168.1.20:7070").unwrap();
        assert!(code.lines().count() > 10 && code.lines().all(|line| line.ends_with("\x1b[0m")));
    }
}
