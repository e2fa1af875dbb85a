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
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::new(Stage::Cli, Kind::Failed, e.to_string()))?;
    out(&text::json(&text))
}

/// Prints a document in one line.
///
/// # Errors
/// When standard output is closed.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::new(Stage::Cli, Kind::Failed, e.to_string()))?;
    out(&text::json(&text))
}

/// Prints a document that is JSON already, and ends with a line break.
///
/// # Errors
/// When standard output is closed.
pub fn json_text(document: &[u8]) -> Result<()> {
    out(text::json(&String::from_utf8_lossy(document)).trim_end_matches('\n'))
}

/// Prints bytes as they are: those of a payload, which are filtered already where they go to a terminal.
///
/// # Errors
/// When standard output is closed.
pub fn bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|e| Error::new(Stage::Cli, Kind::Failed, "cannot write to standard output").because(e))
}

/// Says something beside the data, on standard error.
///
/// # Errors
/// When standard error is closed.
pub fn note(text: &str) -> Result<()> {
    writeln!(std::io::stderr(), "note: {}", text::neutral_line(text))
        .map_err(|e| Error::new(Stage::Cli, Kind::Failed, "cannot write to standard error").because(e))
}

fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|e| Error::new(Stage::Cli, Kind::Failed, "cannot write to standard output").because(e))
}

/// Prints rows in columns; the first row is the head.
///
/// # Errors
/// When standard output is closed.
pub fn table<const N: usize>(rows: &[[String; N]]) -> Result<()> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| text::neutral_line(cell)).collect()).collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    rows.iter().try_for_each(|row| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out(cells.join("  ").trim_end())
    })
}

/// Bytes for people: `123 MB`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 10_000 {
            return format!("{value} {unit}");
        }
        value = value.saturating_add(500) / 1000;
    }
    format!("{value} TB")
}
