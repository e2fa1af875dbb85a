//! The stream of an interactive program on its way to the caller's terminal: everything that draws passes, whatever is
//! addressed to something beyond the screen does not.
//!
//! Colours, cursor movements and screens are control sequences (ECMA-48, 5.4). What writes the clipboard (OSC 52), sets
//! titles and links, draws from files or asks for answers that a payload can choose (DECRQSS) are control *strings*
//! (ECMA-48, 5.6: OSC, DCS, APC, PM, SOS): these are dropped, from their beginning to their end. The stream is UTF-8, as every
//! terminal's is today.

/// Where in the stream we are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// Text and sequences that pass.
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After the first byte of a control character in UTF-8.
    Control,
    /// In an operating system command, before its first byte.
    Command,
    /// In the palette command of Linux' console, which has a length and no end.
    Palette(u8),
    /// In a control string.
    String,
    /// After ESC in a control string.
    StringEscape,
    /// After the first byte of a control character in a control string.
    StringControl,
}

const ESC: u8 = 0x1b;
/// The first byte of U+0080 to U+00BF.
const CONTROL: u8 = 0xc2;

/// Takes control strings out of a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct SessionFilter {
    at: At,
    drew: bool,
}

impl SessionFilter {
    /// `bytes`, less the control strings.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.at = self.next(*byte, &mut out);
        }
        out
    }

    /// Whether any sequence has passed that may have changed the terminal's state.
    pub fn has_drawn(&self) -> bool {
        self.drew
    }

    fn next(&mut self, byte: u8, out: &mut Vec<u8>) -> At {
        match (self.at, byte) {
            (At::Text | At::Escape, ESC) | (At::StringEscape, ESC) => At::Escape,
            (At::Text, CONTROL) => At::Control,
            (At::Escape | At::StringEscape, b']') => At::Command,
            (At::Escape | At::StringEscape, b'P' | b'X' | b'^' | b'_') => At::String,
            (At::StringEscape, b'\\') => At::Text,
            // ESC ends a string whatever follows, and begins something of its own.
            (At::Escape | At::StringEscape, _) => {
                self.drew = true;
                out.extend([ESC, byte]);
                At::Text
            }
            (At::Control, 0x9d) => At::Command,
            (At::Control, 0x90 | 0x98 | 0x9e | 0x9f) => At::String,
            (At::Control, _) => {
                self.drew |= (0x80..0xa0).contains(&byte);
                out.extend([CONTROL, byte]);
                At::Text
            }
            (At::Command, b'R') | (At::Palette(0), _) => At::Text,
            (At::Command, b'P') => At::Palette(6),
            (At::Palette(left), _) if byte.is_ascii_hexdigit() => At::Palette(left - 1),
            // BEL, CAN and SUB end a string; so do ESC \ and U+009C.
            (At::Command | At::Palette(_) | At::String | At::StringControl, 0x07 | 0x18 | 0x1a) => At::Text,
            (At::Command | At::Palette(_) | At::String | At::StringControl, ESC) => At::StringEscape,
            (At::StringControl, 0x9c) => At::Text,
            (At::Command | At::Palette(_) | At::String | At::StringControl, CONTROL) => At::StringControl,
            (At::Command | At::Palette(_) | At::String | At::StringControl, _) => At::String,
            (At::Text, _) => {
                out.push(byte);
                At::Text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        String::from_utf8(SessionFilter::default().pass(text.as_bytes())).unwrap()
    }

    #[test]
    fn what_draws_passes_and_what_reaches_beyond_the_screen_does_not() {
        let drawn = "\x1b[1;31mred\x1b[0m\r\n\x1b[2J\x1b[?1049h\x1b7\x1b(0q\x08\tna\u{ef}ve \u{201d} \u{a9}\x07";
        assert_eq!(shown(drawn), drawn);
        for string in [
            "\x1b]52;c;aGk=\x07",
            "\x1b]0;title\x1b\\",
            "\x1bP$qm\x1b\\",
            "\x1b_Gf=100;x\u{9c}",
            "\u{9d}52;c;aGk=\u{9c}",
            "\u{90}x\x18",
            "\x1b^x\x1a",
            "\x1b]R",
            "\x1b]P0ffffff",
        ] {
            assert_eq!(shown(&format!("a{string}b")), "ab", "{string:?}");
        }
        // Something else begins in the middle of a string: the string has ended.
        assert_eq!(shown("\x1b]52;c;\x1b[1mb"), "\x1b[1mb");
        assert_eq!(shown("\x1b]52;c;\x1b]52;c;aGk=\x07b"), "b");
    }

    #[test]
    fn pieces_are_as_good_as_the_whole() {
        let text = "a\x1b]52;c;x\x1b\\b\u{9d}y\u{9c}c\u{ef}\x1b[1m";
        let mut filter = SessionFilter::default();
        let out: Vec<u8> = text.bytes().flat_map(|byte| filter.pass(&[byte])).collect();
        assert_eq!(String::from_utf8(out).unwrap(), "abc\u{ef}\x1b[1m");
        assert!(filter.has_drawn() && !SessionFilter::default().has_drawn());
    }
}
