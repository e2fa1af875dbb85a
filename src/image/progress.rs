//! What is shown while it lasts.
//!
//! Takes the layers' sizes and the bytes that arrive; gives bars on standard error.
//! Trusts nothing: names shown are digests.
//! Refuses nothing; shows nothing where standard error is no terminal, or when told to be quiet.

use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The bars of one pull.
#[derive(Debug, Clone)]
pub struct Progress(Option<MultiProgress>);

impl Progress {
    /// Bars if standard error is a terminal and `quiet` is not asked for.
    pub fn new(quiet: bool) -> Self {
        Self((!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new))
    }

    /// A bar for a layer.
    pub fn layer(&self, short_digest: &str, size: u64) -> ProgressBar {
        let Some(all) = &self.0 else { return ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {bytes:>10}/{total_bytes:10} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = all.add(ProgressBar::new(size).with_style(style.progress_chars("=> ")));
        bar.set_prefix(short_digest.to_owned());
        bar
    }
}
