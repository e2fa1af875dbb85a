//! The only way to standard output: data, not talk.

use std::borrow::Cow;
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
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(fail)
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
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(fail)
}

/// A reader that has seen enough, `ces runs | head`, is no failure: the program ends as SIGPIPE would end it, and says nothing.
fn fail(e: std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::BrokenPipe => Kind::Interrupted(nix::libc::SIGPIPE),
        _ => Kind::Failed,
    };
    Error::new(Stage::Cli, kind, "cannot write to standard output").because(e)
}

/// Prints rows in columns; the first row is the head. In one piece: a list may have a hundred thousand of them.
///
/// # Errors
/// When standard output is closed.
pub fn table<const N: usize>(rows: &[[impl AsRef<str>; N]]) -> Result<()> {
    if rows.is_empty() { Ok(()) } else { out(&columns(rows)) }
}

/// The same as a text, without a line break at its end.
pub(super) fn columns<const N: usize>(rows: &[[impl AsRef<str>; N]]) -> String {
    let mut widths = [0; N];
    let rows: Vec<[(Cow<'_, str>, usize); N]> = rows
        .iter()
        .map(|row| {
            let row = row.each_ref().map(|cell| {
                let cell = text::neutral_cell(cell.as_ref());
                let width = if cell.is_ascii() { cell.len() } else { cell.chars().count() };
                (cell, width)
            });
            widths.iter_mut().zip(&row).for_each(|(width, (_, own))| *width = (*width).max(*own));
            row
        })
        .collect();
    let line = widths.iter().map(|width| width.saturating_add(2)).sum::<usize>();
    let blanks = " ".repeat(line);
    let mut text = String::with_capacity(line.saturating_mul(rows.len()));
    for row in &rows {
        if !text.is_empty() {
            text.push('\n');
        }
        let start = text.len();
        for ((cell, own), width) in row.iter().zip(widths) {
            text.push_str(cell);
            text.push_str(blanks.get(..width.saturating_sub(*own).saturating_add(2)).unwrap_or_default());
        }
        text.truncate(start.max(text.trim_end_matches(' ').len()));
    }
    text
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
