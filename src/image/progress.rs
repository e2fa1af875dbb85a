//! What is shown while it lasts.
//!
//! Takes the layers' sizes and the bytes that arrive; gives bars on standard error.
//! Trusts nothing: names shown are digests.
//! Refuses nothing; shows nothing where standard error is no terminal, or when told to be quiet.

use std::io::{IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::text;

/// The bars of one pull, and what is said beside them.
#[derive(Debug, Clone)]
pub struct Progress {
    bars: Option<MultiProgress>,
    quiet: bool,
}

impl Progress {
    /// Bars if standard error is a terminal and `quiet` is not asked for.
    pub fn new(quiet: bool) -> Self {
        Self { bars: (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new), quiet }
    }

    /// A bar for a layer, of which `there` bytes came before.
    pub fn layer(&self, short_digest: &str, size: u64, there: u64) -> ProgressBar {
        if there > 0 {
            self.note(&format!("layer {short_digest}: resumed at {there} of {size} bytes"));
        }
        let Some(all) = &self.bars else { return ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {bytes:>10}/{total_bytes:10} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = all.add(ProgressBar::new(size).with_style(style.progress_chars("=> ")));
        bar.set_prefix(short_digest.to_owned());
        bar
    }

    /// Says something above the bars, in a line of its own on standard error.
    pub fn note(&self, what: &str) {
        self.say("note", what);
    }

    /// A line beside it about what will not do, unless all is to be quiet.
    pub fn warn(&self, what: &str) {
        self.say("warning", what);
    }

    fn say(&self, word: &str, what: &str) {
        if self.quiet {
            return;
        }
        let line = format!("{word}: {}", text::neutral_line(what));
        match &self.bars {
            Some(all) => all.println(line).ok(),
            // Nobody who reads it: no reason to stop.
            None => writeln!(std::io::stderr(), "{line}").ok(),
        };
    }
}
