//! The only way to standard output: data, not talk.

use std::io::Write;

use serde::Serialize;

use crate::error::{Error, Kind, Result, Stage};
use crate::text;

/// Prints a line, harmless to a terminal.
///
/// # Errors
/// When standard output is closed.
pub fn line(text: &str) -> Result<()> {
    out(&text::neutral_line(text))
}

/// Prints a document.
///
/// # Errors
/// When standard output is closed.
pub fn json(value: &impl Serialize) -> Result<()> {
    // Control characters are escaped by JSON; the others by no program that reads it.
    out(&serde_json::to_string_pretty(value).map_err(|e| Error::new(Stage::Cli, Kind::Failed, e.to_string()))?)
}

fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|e| Error::new(Stage::Cli, Kind::Failed, "cannot write to standard output").because(e))
}
