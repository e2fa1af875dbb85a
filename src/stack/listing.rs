//! A layer's listing (`image::unpack::listing`), as entries.
//!
//! Takes the text of a listing; gives one entry a line. Trusts that `ces` wrote it, but not the names in it: they are the
//! image's. Refuses lines that no listing has.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

use super::facts::path_text;

/// Longer than a path and a link's target can be, every byte of them written as four.
const LINE_MAX: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A directory that hides what the layers below have in it.
    Opaque,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A name of the layers below, hidden.
    Whiteout,
    /// Anything else: a pipe, a socket.
    Other,
}

/// An entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path without leading slash, as `path_text` writes it; the root's is empty.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// The digest of a file's content, or where a link leads; as the listing has it.
    pub content: String,
}

/// Gives each entry of a listing to `each`; another name of a file that was listed before comes with what that one has.
///
/// # Errors
/// When the text cannot be read or is no listing; and `each`'s.
pub fn read(mut from: impl BufRead, each: &mut dyn FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
    let mut several: HashMap<String, Entry> = HashMap::new();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        from.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes)?;
        match bytes.pop() {
            None => return Ok(()),
            Some(b'\n') => {}
            Some(_) => return Err(wrong()),
        }
        let line = std::str::from_utf8(&bytes).map_err(|_| wrong())?;
        let (entry, links, other) = parse(line).ok_or_else(wrong)?;
        let entry = match other {
            Some(first) => {
                let first = several.get(&first).ok_or_else(wrong)?;
                Entry { path: entry.path, ..first.clone() }
            }
            None => entry,
        };
        if links > 1 && entry.kind == Kind::File {
            several.insert(entry.path.clone(), entry.clone());
        }
        each(entry)?;
    }
}

/// `TYPE MODE USER GROUP LINKS SIZE TIME CONTENT ATTRIBUTES PATH`: the entry, how many names it has, and the first of them.
fn parse(line: &str) -> Option<(Entry, u64, Option<String>)> {
    let mut fields = line.split(' ');
    let kind = fields.next()?;
    let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
    let (_user, _group) = (fields.next()?, fields.next()?);
    let links = fields.next()?.parse().ok()?;
    let size = fields.next()?.parse().ok()?;
    let _time = fields.next()?;
    let content = fields.next()?;
    let attributes = fields.next()?;
    let path = fields.next()?;
    if fields.next().is_some() {
        return None;
    }
    let path = if path == "." { String::new() } else { path_text(&plain_bytes(path)) };
    let opaque = || attributes.split(',').any(|one| one.starts_with("user.overlay.opaque="));
    let other = (kind == "h").then(|| path_text(&plain_bytes(content)));
    let kind = match kind {
        "d" if opaque() => Kind::Opaque,
        "d" => Kind::Directory,
        "f" | "h" => Kind::File,
        "l" => Kind::Link,
        "c" if content == "0" => Kind::Whiteout,
        "c" | "b" | "p" | "s" => Kind::Other,
        _ => return None,
    };
    let content = if kind == Kind::Link { path_text(&plain_bytes(content)) } else { content.to_owned() };
    Some((Entry { path, kind, mode, size, content }, links, other))
}

/// The bytes that a field of a listing stands for.
fn plain_bytes(field: &str) -> Vec<u8> {
    if !field.contains('\\') {
        return field.as_bytes().to_vec();
    }
    super::facts::path_bytes(field)
}

fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no listing of a layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> io::Result<Vec<Entry>> {
        let mut all = Vec::new();
        read(text.as_bytes(), &mut |entry| {
            all.push(entry);
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn a_listing_becomes_entries() {
        let text = "d 755 0 0 0 0 0.0 - - .\n\
            d 755 0 0 0 0 0.0 - user.overlay.opaque\\x3dy,user.overlay.opaque=y etc\n\
            f 755 0 0 2 5 1.0 abcd - bin/a\\x20b\n\
            h 0 - - 0 0 0.0 bin/a\\x20b - bin/c\n\
            l 777 0 0 1 0 0.0 usr/bin\\x0a - lib\n\
            c 0 0 0 1 0 0.0 0 - gone\n\
            f 644 0 0 1 5 1.0 - - a\\x5cx41\n";
        let all = entries(text).unwrap();
        let kinds: Vec<Kind> = all.iter().map(|entry| entry.kind).collect();
        use Kind::{Directory, File, Link, Opaque, Whiteout};
        assert_eq!(kinds, [Directory, Opaque, File, File, Link, Whiteout, File]);
        assert_eq!((all[3].path.as_str(), all[3].mode, all[3].content.as_str()), ("bin/c", 0o755, "abcd"));
        assert_eq!(all[4].content, "usr/bin\n");
        assert_eq!(super::super::facts::path_bytes(&all[6].path), b"a\\x41");
        assert!(entries("nonsense\n").is_err() && entries("d 755").is_err());
        assert!(entries("h 0 - - 0 0 0.0 a - b\n").is_err());
    }
}
