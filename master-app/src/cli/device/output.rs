//! Output of a command: values and events on standard output, progress for people on standard
//! error.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::global::Global;
use crate::output::text;

/// Between two lines of progress where no terminal shows a bar.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Standard output and standard error of one command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(global: &Global) -> Self {
        Self { json: global.json }
    }

    /// For people. Who stops reading early (`| head`) has read enough.
    pub(super) fn print(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// One line of JSON.
    pub(super) fn value(&self, value: &Value) {
        self.print(&format!("{value}\n"));
    }

    /// An event for programs; nothing for people.
    pub(super) fn event(&self, value: &Value) {
        if self.json {
            self.value(value);
        }
    }

    /// A sentence for people, on standard error.
    pub(super) fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// How far a command is: a bar on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub(super) struct ProgressLine {
    bar: Option<ProgressBar>,
    said: Instant,
    quiet: bool,
}

impl ProgressLine {
    pub(super) fn new(global: &Global, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal() && !global.json;
        let bar = terminal.then(|| {
            let style = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}  {wide_msg}";
            let style = ProgressStyle::with_template(style)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style)
        });
        Self { bar, said: Instant::now(), quiet: global.json }
    }

    pub(super) fn at(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if !self.quiet && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
            self.line(&format!("{percent} % of {}", text::size(total)));
        }
    }

    /// What happens beside the numbers.
    pub(super) fn message(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_string()),
            None if !text.is_empty() && !self.quiet => self.line(text),
            None => {}
        }
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
