//! A line of the list: one entry, as JSON.
//!
//! Takes and gives entries; a name is written exactly: as text where it is plain, else as the hexadecimal digits of its bytes,
//! under another key. So two names that look alike are two lines, and each line gives back the name that it was made of.

use serde::{Deserialize, Serialize};

use crate::evidence::sniff::Content;
use crate::text;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Something that was removed, left alone or could not be read.
    Refused,
}

/// How the reason ends of what was removed.
pub const REMOVED: &str = ", removed";
/// The reason of what is neither file, directory nor link.
pub const ANOTHER_KIND: &str = "not a regular file";

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// Size of a file in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Permissions of a file or directory, in octal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// When it was last written: seconds since 1970 (UTC), with nine digits of nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<String>,
    /// SHA-256 of what a file holds, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_hashed: Option<String>,
    /// What sort of thing a file seems to be, by its first bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The media type that it seems to have, by the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
    /// It is not the researcher's; only in lists that `ces verify` makes to compare.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub others: bool,
    /// Why it was refused; of a directory, why what is in it is not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Line {
    /// An entry of that name, of which nothing else is known yet.
    pub fn new(path: &[u8], kind: Kind) -> Self {
        let (path, path_hex) = exact(path);
        let none = || None;
        Self {
            path,
            path_hex,
            kind,
            size: None,
            mode: none(),
            mtime: none(),
            sha256: none(),
            not_hashed: none(),
            content: None,
            media: none(),
            target: none(),
            target_hex: none(),
            others: false,
            why: none(),
        }
    }

    /// A link, and where it leads.
    pub fn link(path: &[u8], target: &[u8]) -> Self {
        let (target, target_hex) = exact(target);
        Self { target, target_hex, ..Self::new(path, Kind::Link) }
    }

    /// Something that was refused.
    pub fn refused(path: &[u8], why: &str) -> Self {
        Self { why: Some(why.to_owned()), ..Self::new(path, Kind::Refused) }
    }

    /// The same, told to be another's or not.
    #[must_use]
    pub fn of_others(mut self, others: bool) -> Self {
        self.others = others;
        self
    }

    /// Whether it was refused, and is gone with that (`give`).
    pub fn was_removed(&self) -> bool {
        self.kind == Kind::Refused && self.why.as_ref().is_some_and(|why| why.ends_with(REMOVED))
    }

    /// Whether it is refused for being neither file, directory nor link.
    pub fn is_another_kind(&self) -> bool {
        self.kind == Kind::Refused && self.why.as_deref() == Some(ANOTHER_KIND)
    }

    /// The name.
    pub fn path(&self) -> Option<Vec<u8>> {
        bytes(self.path.as_ref(), self.path_hex.as_ref())
    }

    /// Where a link leads.
    pub fn target(&self) -> Option<Vec<u8>> {
        bytes(self.target.as_ref(), self.target_hex.as_ref())
    }
}

/// A name as text, if it is plain, or in hexadecimal digits.
pub fn exact(name: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(name) {
        Ok(text) if text::neutral_line(text) == text => (Some(text.to_owned()), None),
        _ => (None, Some(hex(name))),
    }
}

fn bytes(text: Option<&String>, digits: Option<&String>) -> Option<Vec<u8>> {
    match (text, digits) {
        (Some(text), None) => Some(text.clone().into_bytes()),
        (None, Some(digits)) => unhex(digits),
        _ => None,
    }
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        // A string takes all that is written to it.
        write!(out, "{byte:02x}").ok();
    }
    out
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_names_that_look_alike_are_two_lines() {
        // One with a composed, one with a combining accent; a Latin and a Cyrillic a; text and what it is escaped as.
        let alike = ["é", "e\u{301}", "a", "а", "a\u{202e}b", "a\\u{202e}b", "x\n", "x\\n", "61", "a\tb", "a b"];
        let lines: std::collections::BTreeSet<String> = alike
            .iter()
            .map(|name| serde_json::to_string(&Line::new(name.as_bytes(), Kind::File)).unwrap())
            .chain([serde_json::to_string(&Line::new(b"\xff", Kind::File)).unwrap()])
            .collect();
        assert_eq!(lines.len(), alike.len() + 1);
    }

    proptest! {
        #[test]
        fn every_name_comes_back_from_its_one_line(name in any::<Vec<u8>>(), target in any::<Vec<u8>>(), text in ".*") {
            for name in [name.as_slice(), text.as_bytes()] {
                let line = Line::link(name, &target);
                let written = serde_json::to_string(&line).unwrap();
                prop_assert!(!written.contains('\n'));
                let read: Line = serde_json::from_str(&written).unwrap();
                prop_assert_eq!(read.path().unwrap(), name);
                prop_assert_eq!(read.target().unwrap(), target.clone());
            }
        }
    }
}
