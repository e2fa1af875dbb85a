//! Text from outside (labels, file names, registry errors), made harmless before a terminal sees it.
//!
//! A terminal obeys escape sequences: OSC 52 writes the clipboard, DECRQSS answers as if typed. So every character that
//! is not printable is shown as `\x1b`, `\u{202e}` and the like. Bidirectional controls are escaped too: they make a
//! name look like another.

use std::borrow::Cow;
use std::fmt::Write as _;

/// A terminal's own stream, less what reaches beyond the screen.
mod session;

pub use session::SessionFilter;

/// `input` with every control and bidirectional character escaped; a line break stays a line break.
pub fn neutral(input: &str) -> String {
    let mut out = String::with_capacity(input.len());
    for c in input.chars() {
        match c {
            '\n' => out.push('\n'),
            '\t' => out.push(' '),
            c if is_unsafe(c) => push_escaped(&mut out, c),
            c => out.push(c),
        }
    }
    out
}

/// Like [`neutral`], for one line: line breaks are escaped as well.
pub fn neutral_line(input: &str) -> String {
    neutral_cell(input).into_owned()
}

/// Like [`neutral_line`]; what is harmless already, as most texts are a hundred thousand times in a list of runs, is not copied.
pub fn neutral_cell<'a>(input: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
    let input = input.into();
    if input.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return input;
    }
    Cow::Owned(neutral(&input).replace('\n', "\\n"))
}

/// A path or any other bytes as one safe line; bytes that are not UTF-8 are shown as `\xNN`.
pub fn neutral_bytes(input: &[u8]) -> String {
    let mut out = String::with_capacity(input.len());
    for chunk in input.utf8_chunks() {
        out.push_str(&neutral_line(chunk.valid()));
        for byte in chunk.invalid() {
            push_hex(&mut out, u32::from(*byte));
        }
    }
    out
}

/// JSON, in which every character that is unsafe for a terminal is written as JSON's own escape: the document stays the
/// same. JSON itself escapes only the control characters below 0x20; 0x9b, for one, begins a sequence as ESC `[` does.
pub fn json(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for c in document.chars() {
        if c == '\n' || !is_unsafe(c) {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

/// Control characters, marks of direction, line breaks that are not `\n`, and the invisible characters of "tags".
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

fn push_escaped(out: &mut String, c: char) {
    match u32::from(c) {
        code if code < 0x100 => push_hex(out, code),
        code => out.push_str(&format!("\\u{{{code:x}}}")),
    }
}

fn push_hex(out: &mut String, code: u32) {
    // Writing to a String cannot fail.
    if write!(out, "\\x{code:02x}").is_err() {
        out.push('?');
    }
}

/// A payload's output on its way to a terminal: printable text, line breaks, tabs, returns and backspaces pass, and so
/// do colours and "erase line"; the rest is shown escaped. Keeps an unfinished sequence for the next call.
#[derive(Debug, Default)]
pub struct TerminalFilter {
    unfinished: Vec<u8>,
}

/// An escape sequence longer than this is not a colour.
const LONGEST_COLOUR: usize = 32;

/// The length of a harmless sequence (`ESC [ digits ; … m` or `K`) at the start of `text`; `None` if it is another one,
/// `Some(0)` if it may still become one.
fn harmless_sequence(text: &str) -> Option<usize> {
    for (at, byte) in text.bytes().enumerate().take(LONGEST_COLOUR) {
        match (at, byte) {
            (0, 0x1b) | (1, b'[') => {}
            (0 | 1, _) => return None,
            (_, b'm' | b'K') => return Some(at + 1),
            (_, b'0'..=b'9' | b';') => {}
            _ => return None,
        }
    }
    (text.len() < LONGEST_COLOUR).then_some(0)
}

impl TerminalFilter {
    /// `bytes`, made harmless.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.unfinished.extend_from_slice(bytes);
        let mut keep = 0;
        if let Err(error) = std::str::from_utf8(&self.unfinished)
            && error.error_len().is_none()
        {
            keep = self.unfinished.len() - error.valid_up_to();
        }
        let rest = self.unfinished.split_off(self.unfinished.len() - keep);
        let mut out = String::with_capacity(self.unfinished.len());
        let mut unfinished_sequence = Vec::new();
        for chunk in self.unfinished.utf8_chunks() {
            let mut text = chunk.valid();
            while let Some(c) = text.chars().next() {
                let mut taken = c.len_utf8();
                match c {
                    '\n' | '\t' | '\r' | '\x08' => out.push(c),
                    '\x1b' => match harmless_sequence(text) {
                        Some(0) => {
                            unfinished_sequence.extend_from_slice(text.as_bytes());
                            taken = text.len();
                        }
                        Some(length) => {
                            out.push_str(text.get(..length).unwrap_or_default());
                            taken = length;
                        }
                        None => push_escaped(&mut out, c),
                    },
                    c if is_unsafe(c) => push_escaped(&mut out, c),
                    c => out.push(c),
                }
                text = text.get(taken..).unwrap_or_default();
            }
            for byte in chunk.invalid() {
                push_hex(&mut out, u32::from(*byte));
            }
        }
        unfinished_sequence.extend_from_slice(&rest);
        self.unfinished = unfinished_sequence;
        out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_lose_their_power() {
        assert_eq!(neutral("a\x1b]52;c;aGk=\x07b"), "a\\x1b]52;c;aGk=\\x07b");
        assert_eq!(neutral_line("x\ny"), "x\\ny");
        assert_eq!(neutral("\u{202e}gpj.exe"), "\\u{202e}gpj.exe");
        assert_eq!(neutral("\u{9b}31m"), "\\x9b31m");
    }

    #[test]
    fn a_payload_cannot_steer_the_terminal_and_split_characters_survive() {
        let mut filter = TerminalFilter::default();
        assert_eq!(filter.pass(b"ok\r\n\x1b]0;title\x07"), b"ok\r\n\\x1b]0;title\\x07");
        assert_eq!(filter.pass(b"\x1b[1;31mred\x1b["), b"\x1b[1;31mred");
        assert_eq!(filter.pass(b"0m\x1b[2J"), b"\x1b[0m\\x1b[2J");
        assert_eq!(filter.pass(b"caf\xc3"), b"caf");
        assert_eq!(filter.pass(b"\xa9 \xff"), "\u{e9} \\xff".as_bytes());
    }

    #[test]
    fn a_document_stays_the_same_and_steers_no_terminal() {
        let label = "\u{9b}31m \u{7f} \u{202e}gpj \u{e0041} \x1b]52;c;aGk=\x07 \u{2028} \u{f6} \u{1f600}";
        let document = serde_json::json!({ label: [label] });
        let safe = json(&serde_json::to_string_pretty(&document).unwrap());
        assert!(safe.chars().all(|c| c == '\n' || !is_unsafe(c)), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), document);
        assert!(safe.contains('\u{f6}') && safe.contains("\\udb40\\udc41"), "{safe}");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept_readable() {
        assert_eq!(neutral_bytes(b"caf\xe9\n"), "caf\\xe9\\n");
    }
}
