//! The only way to standard output: data, not talk.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write};
use std::os::fd::AsFd as _;

use serde::Serialize;

use crate::cli::Format;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys::terminal;
use crate::parallel;
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

/// A row of a list, its cells made when they are printed.
pub trait Row<const N: usize> {
    /// What stands in its columns.
    fn cells(&self) -> [Cow<'_, str>; N];
}

impl<T: AsRef<str>, const N: usize> Row<N> for [T; N] {
    fn cells(&self) -> [Cow<'_, str>; N] {
        self.each_ref().map(|cell| Cow::Borrowed(cell.as_ref()))
    }
}

/// Prints a list in the form that was asked for: `rows`, of which the first is the head, or `document`.
///
/// # Errors
/// When standard output is closed; and the document's.
pub fn list<const N: usize, D: Serialize>(
    form: Format,
    rows: &[impl Row<N> + Sync],
    document: impl FnOnce() -> Result<D>,
) -> Result<()> {
    match form {
        Format::Table => table(rows),
        Format::Json => json(&document()?),
        Format::Csv => out(&csv(rows)),
    }
}

/// Rows as comma-separated values (RFC 4180), the head in lower case.
fn csv<const N: usize>(rows: &[impl Row<N> + Sync]) -> String {
    let lines = rows.iter().enumerate().map(|(at, row)| {
        let cells = row.cells().map(|cell| csv_cell(&if at == 0 { cell.to_lowercase().into() } else { cell }));
        cells.join(",")
    });
    lines.collect::<Vec<_>>().join("\r\n") + "\r"
}

/// What makes a formula of a cell that begins with it, in one spreadsheet or another (OWASP, "CSV Injection"): four characters, their
/// full-width forms, and a tab or an end of line, after which some go on reading.
const FORMULA: [char; 11] = ['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\t', '\r', '\n'];

/// One value. An apostrophe before what would be a formula makes it text. A `-` alone says that there is nothing.
fn csv_cell(cell: &str) -> String {
    let raw = if cell == "-" { "" } else { cell };
    let cell = text::neutral_line(raw);
    // As it came: made harmless, a tab is a blank. Blanks before it are passed over by some programs too.
    let formula = raw.trim_start_matches(' ').starts_with(FORMULA);
    let cell = if formula { format!("'{cell}") } else { cell };
    if cell.contains([',', '"', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

/// Prints rows in columns; the first row is the head. In one piece: a list may have a hundred thousand of them. On a terminal that is
/// too narrow the widest columns are cut, the first one never: it names what the row is about.
///
/// # Errors
/// When standard output is closed.
pub fn table<const N: usize>(rows: &[impl Row<N> + Sync]) -> Result<()> {
    print_columns(rows, &Fit::Cut)
}

/// The same with nothing cut: what is too wide goes on in the next line, below its column.
///
/// # Errors
/// When standard output is closed.
pub fn page<const N: usize>(rows: &[impl Row<N> + Sync]) -> Result<()> {
    print_columns(rows, &Fit::Wrap)
}

fn print_columns<const N: usize>(rows: &[impl Row<N> + Sync], fit: &Fit) -> Result<()> {
    in_parts(rows, width(), fit).iter().try_for_each(|text| out(text))
}

/// How many columns the terminal has, if standard output is one.
pub fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| terminal::size(stdout.as_fd())).flatten()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// What becomes of text that does not fit.
enum Fit {
    /// It ends in `…`.
    Cut,
    /// It goes on in the next line.
    Wrap,
}

/// No column is made narrower.
const NARROWEST: usize = 6;

/// The table as a text, as wide as it is, without a line break at its end.
pub(super) fn columns<const N: usize>(rows: &[impl Row<N> + Sync]) -> String {
    laid_out(rows, None, &Fit::Cut)
}

fn laid_out<const N: usize>(rows: &[impl Row<N> + Sync], room: Option<usize>, fit: &Fit) -> String {
    in_parts(rows, room, fit).join("\n")
}

/// The same as several texts, between which a line ends. Rows are looked at twice and not copied: memory costs a long list more than
/// the processor's work.
fn in_parts<const N: usize>(rows: &[impl Row<N> + Sync], room: Option<usize>, fit: &Fit) -> Vec<String> {
    let widest = |mut widths: [usize; N], more: [usize; N]| {
        widths.iter_mut().zip(more).for_each(|(width, more)| *width = (*width).max(more));
        widths
    };
    let of_row = |row: &_| Row::cells(row).map(|cell| length(&text::neutral_cell(cell)));
    let of_part = |rows: &[_]| rows.iter().map(of_row).fold([0; N], widest);
    let mut widths = parallel::parts(rows, of_part).into_iter().fold([0; N], widest);
    if let Some(room) = room {
        narrow(&mut widths, room);
    }
    parallel::parts(rows, |rows| lines(rows, &widths, fit))
}

fn lines<const N: usize>(rows: &[impl Row<N> + Sync], widths: &[usize; N], fit: &Fit) -> String {
    let line = widths.iter().map(|width| width.saturating_add(2)).sum::<usize>();
    let blanks = " ".repeat(line);
    let mut text = String::with_capacity(line.saturating_mul(rows.len()));
    let mut put = |cells: [&str; N], ends_in: [&str; N]| {
        for ((cell, end), width) in cells.iter().zip(ends_in).zip(widths) {
            text.push_str(cell);
            text.push_str(end);
            let own = length(cell).saturating_add(length(end));
            text.push_str(blanks.get(..width.saturating_sub(own).saturating_add(2)).unwrap_or_default());
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    };
    for row in rows {
        let row = row.cells().map(text::neutral_cell);
        let mut rest: [&str; N] = row.each_ref().map(|cell| &**cell);
        if rest.iter().zip(widths).all(|(cell, width)| length(cell) <= *width) {
            put(rest, [""; N]);
            continue;
        }
        match fit {
            Fit::Cut => {
                let ends = std::array::from_fn(|at| if too_long(&rest, widths, at) { "…" } else { "" });
                let cut = std::array::from_fn(|at| {
                    let (cell, width) =
                        (rest.get(at).copied().unwrap_or_default(), widths.get(at).copied().unwrap_or(0));
                    if too_long(&rest, widths, at) { split(cell, width.saturating_sub(1)).0 } else { cell }
                });
                put(cut, ends);
            }
            Fit::Wrap => {
                while rest.iter().any(|cell| !cell.is_empty()) {
                    let mut line = [""; N];
                    for ((cell, line), width) in rest.iter_mut().zip(&mut line).zip(widths) {
                        (*line, *cell) = at_a_word(cell, *width);
                    }
                    put(line, [""; N]);
                }
            }
        }
    }
    text.pop();
    text
}

fn too_long<const N: usize>(cells: &[&str; N], widths: &[usize; N], at: usize) -> bool {
    cells.get(at).zip(widths.get(at)).is_some_and(|(cell, width)| length(cell) > *width)
}

fn length(cell: &str) -> usize {
    if cell.is_ascii() { cell.len() } else { cell.chars().count() }
}

/// Makes the widest columns narrower until all of them have room, if they can.
fn narrow<const N: usize>(widths: &mut [usize; N], room: usize) {
    loop {
        let line = widths.iter().map(|width| width.saturating_add(2)).sum::<usize>().saturating_sub(2);
        let widest = widths.iter_mut().skip(1).max();
        match widest {
            Some(width) if line > room && *width > NARROWEST => *width -= 1,
            _ => return,
        }
    }
}

/// The first `characters` of a text, and the rest.
fn split(text: &str, characters: usize) -> (&str, &str) {
    text.char_indices().nth(characters).map_or((text, ""), |(at, _)| text.split_at(at))
}

/// As much of a text as has room, up to a blank if there is one, and what is to follow.
fn at_a_word(text: &str, room: usize) -> (&str, &str) {
    let (first, rest) = split(text, room.max(1));
    if rest.is_empty() || rest.starts_with(' ') {
        return (first, rest.trim_start_matches(' '));
    }
    match first.rfind(' ').filter(|at| *at > 0) {
        Some(at) => {
            let (first, rest) = text.split_at(at);
            (first, rest.trim_start_matches(' '))
        }
        None => (first, rest),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [[&str; 3]; 3] = [
        ["ID", "IMAGE", "ENDED"],
        ["1", "registry.example/some/long/name:1", "exit 0"],
        ["2", "short", "killed by signal SIGKILL"],
    ];

    #[test]
    fn a_table_fits_the_terminal_and_its_first_column_is_never_cut() {
        let whole = laid_out(&ROWS, None, &Fit::Cut);
        assert!(whole.contains("name:1  exit 0\n") && whole.lines().all(|line| line.len() <= 63), "{whole}");
        assert_eq!(laid_out(&ROWS, Some(63), &Fit::Cut), whole);
        let cut = laid_out(&ROWS, Some(40), &Fit::Cut);
        assert_eq!(cut.lines().map(length).max(), Some(40), "{cut}");
        assert!(cut.contains("registry.example…") && cut.contains("killed by signal…"), "{cut}");
        let ids = [["20261130T062025-fa960a", "x"]];
        assert!(laid_out(&ids, Some(5), &Fit::Cut).starts_with("20261130T062025-fa960a"));
    }

    #[test]
    fn a_page_goes_on_below_its_column_and_loses_no_word() {
        let page = laid_out(&ROWS, Some(30), &Fit::Wrap);
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(page.lines().all(|line| length(line) <= 30), "{page}");
        for word in ["killed", "by", "signal", "SIGKILL"] {
            assert!(words(&page).iter().any(|found| found == word), "{page}");
        }
        assert_eq!(laid_out(&[["a", ""], ["", "b"]], Some(3), &Fit::Wrap), "a\n   b");
        assert_eq!(at_a_word("one two", 4), ("one", "two"));
        assert_eq!(at_a_word("one two", 3), ("one", "two"));
        assert_eq!(at_a_word("äöüß", 2), ("äö", "üß"));
        assert_eq!(at_a_word("", 2), ("", ""));
    }

    #[test]
    fn a_value_is_quoted_where_it_must_be_and_is_never_a_formula() {
        let rows = [["ID", "ENDED"], ["-", "=1+1"], ["a,b", "say \"x\"\n"]];
        assert_eq!(csv(&rows), "id,ended\r\n,'=1+1\r\n\"a,b\",\"say \"\"x\"\"\\n\"\r");
        for first in ["=", "+", "-", "@", "\u{ff1d}", "\u{ff0b}", "\u{ff0d}", "\u{ff20}", "\t", "\r", "\n", "  ="] {
            assert!(csv_cell(&format!("{first}1+1")).starts_with('\''), "{first:?}");
        }
        assert_eq!([csv_cell("-"), csv_cell("1=1"), csv_cell(" a"), csv_cell("\"=1")].concat(), "1=1 a\"\"\"=1\"");
    }
}
