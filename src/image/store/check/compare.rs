//! Two listings of a tree, compared line by line.
//!
//! Takes what was recorded and what is found; gives where they differ.
//! Trusts the record, whose digest was checked; what is found is text from outside.
//! Refuses lines that no listing has.

use std::cmp::Ordering;
use std::io::{self, BufRead, Read};

use serde::Serialize;

/// Longer than a path and a link's target can be, every byte of them written as four.
const LINE_MAX: u64 = 1 << 20;

/// A path at which a tree is not what was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Below the layer's root; bytes that are not plain are written `\xNN`.
    pub path: String,
    /// What is different.
    pub what: String,
}

/// A line of a listing, in its fields; the last is the path.
type Fields<'a> = Vec<&'a str>;

const NAMES: [&str; 9] = ["type", "mode", "user", "group", "links", "size", "time", "content", "extended attributes"];
const CONTENT: usize = 7;

/// The first differences, at most `most` of them.
///
/// # Errors
/// When a listing cannot be read, or is none.
pub fn differences(recorded: impl BufRead, found: impl BufRead, most: usize) -> io::Result<Vec<Difference>> {
    let (mut recorded, mut found) = (recorded, found);
    let mut all = Vec::new();
    let (mut old, mut new) = (line(&mut recorded)?, line(&mut found)?);
    while all.len() < most {
        let say = |path: &str, what: &str| Difference { path: path.to_owned(), what: what.to_owned() };
        let order = match (&old, &new) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) if old == new => Ordering::Equal,
            (Some(old), Some(new)) => {
                let (old, new) = (fields(old)?, fields(new)?);
                let order = path_order(path(&old), path(&new));
                if order == Ordering::Equal {
                    all.push(say(path(&old), &changes(&old, &new)));
                }
                order
            }
        };
        if let (Ordering::Less, Some(old)) = (order, &old) {
            all.push(say(path(&fields(old)?), "is missing"));
        }
        if let (Ordering::Greater, Some(new)) = (order, &new) {
            all.push(say(path(&fields(new)?), "was added"));
        }
        if order.is_le() {
            old = line(&mut recorded)?;
        }
        if order.is_ge() {
            new = line(&mut found)?;
        }
    }
    Ok(all)
}

/// The number of entries of a listing.
///
/// # Errors
/// When it cannot be read.
pub fn count(listing: impl BufRead) -> io::Result<u64> {
    let (mut listing, mut lines) = (listing, 0);
    while line(&mut listing)?.is_some() {
        lines += 1;
    }
    Ok(lines)
}

fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    from.take(LINE_MAX).read_until(b'\n', &mut bytes)?;
    match bytes.pop() {
        None => Ok(None),
        Some(b'\n') => String::from_utf8(bytes).map(Some).map_err(|_| malformed()),
        Some(_) => Err(malformed()),
    }
}

fn fields(line: &str) -> io::Result<Fields<'_>> {
    let fields: Fields<'_> = line.split(' ').collect();
    if fields.len() == NAMES.len() + 1 { Ok(fields) } else { Err(malformed()) }
}

fn path<'a>(fields: &Fields<'a>) -> &'a str {
    fields.last().copied().unwrap_or_default()
}

/// In words, what changed between two lines of the same path.
fn changes(old: &Fields<'_>, new: &Fields<'_>) -> String {
    let mut said = Vec::new();
    for (at, name) in NAMES.iter().enumerate() {
        let (Some(old), Some(new)) = (old.get(at), new.get(at)) else { continue };
        if old == new {
            continue;
        }
        if at == 0 {
            return format!("is of type {new}, was {old}");
        }
        let digests = at == CONTENT && old.len() == 64 && new.len() == 64;
        said.push(if digests { format!("{name} changed") } else { format!("{name} is {new}, was {old}") });
    }
    said.join("; ")
}

/// A directory before what is in it, names by their bytes: the order in which a tree is listed.
fn path_order(left: &str, right: &str) -> Ordering {
    let parts =
        |path: &str| -> Vec<Vec<u8>> { if path == "." { Vec::new() } else { path.split('/').map(bytes).collect() } };
    parts(left).cmp(&parts(right))
}

/// The bytes that a field stands for; an escape that is none stands for itself.
fn bytes(field: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find("\\x") {
        let (before, after) = rest.split_at(at);
        bytes.extend_from_slice(before.as_bytes());
        match after.get(2..4).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(4..).unwrap_or_default();
            }
            None => {
                bytes.push(b'\\');
                rest = after.get(1..).unwrap_or_default();
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no listing of a tree")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(recorded: &str, found: &str) -> Vec<(String, String)> {
        let all = differences(recorded.as_bytes(), found.as_bytes(), 10).unwrap();
        all.into_iter().map(|d| (d.path, d.what)).collect()
    }

    fn pair(path: &str, what: &str) -> (String, String) {
        (path.to_owned(), what.to_owned())
    }

    const ROOT: &str = "d 755 0 0 0 0 0.0 - - .\n";

    #[test]
    fn what_is_missing_and_what_was_added_is_told_apart() {
        let a = "f 644 0 0 1 1 0.0 aa - a\n";
        let below = "f 644 0 0 1 1 0.0 aa - a/b\n";
        let z = "f 644 0 0 1 1 0.0 aa - a\\x20z\n";
        assert!(compare(&format!("{ROOT}{a}{z}"), &format!("{ROOT}{a}{z}")).is_empty());
        assert_eq!(compare(&format!("{ROOT}{a}{z}"), &format!("{ROOT}{z}")), [pair("a", "is missing")]);
        // By their bytes `a/…` comes before `a z`, though as text it does not.
        let found = format!("{ROOT}{a}{below}{z}");
        assert_eq!(compare(&format!("{ROOT}{a}{z}"), &found), [pair("a/b", "was added")]);
        assert_eq!(compare(ROOT, ""), [pair(".", "is missing")]);
    }

    #[test]
    fn what_changed_is_named() {
        let line = |mode: &str, content: &str| format!("f {mode} 0 0 1 1 0.0 {content} - a\n");
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let said = compare(&line("644", &one), &line("600", &two));
        assert_eq!(said, [pair("a", "mode is 600, was 644; content changed")]);
        let link = "l 777 0 0 1 1 0.0 there - a\n";
        assert_eq!(compare(&line("644", &one), link), [pair("a", "is of type l, was f")]);
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        assert!(differences(&b"nonsense\n"[..], &b"else\n"[..], 10).is_err());
        assert!(count(&b"d"[..]).is_err());
        assert_eq!(count(ROOT.as_bytes()).unwrap(), 1);
    }
}
