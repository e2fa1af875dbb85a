//! Text from outside (labels, file names, registry errors), made harmless before a terminal sees it.
//!
//! A terminal obeys escape sequences: OSC 52 writes the clipboard, DECRQSS answers as if typed. So every character that
//! is not printable is shown as `\x1b`, `\u{202e}` and the like. Bidirectional controls are escaped too: they make a
//! name look like another.

use std::fmt::Write as _;

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
    neutral(input).replace('\n', "\\n")
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

fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
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
    fn bytes_that_are_not_utf8_are_kept_readable() {
        assert_eq!(neutral_bytes(b"caf\xe9\n"), "caf\\xe9\\n");
    }
}
