//! SQLite's file format (<https://www.sqlite.org/fileformat2.html>), as far as one table is read from beginning to end:
//! `Packages (hnum INTEGER PRIMARY KEY, blob BLOB)`.

use std::collections::HashSet;
use std::io;

use super::super::{Source, bad};
use super::HEADER_MAX;

const MAGIC: &[u8] = b"SQLite format 3\0";
/// Inner and leaf pages of a table.
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;
/// Trees are not deeper in any database that fits a disk.
const DEPTH_MAX: usize = 32;

struct Database<'a, S: Source + ?Sized> {
    source: &'a S,
    page: usize,
    usable: usize,
    seen: HashSet<u32>,
}

fn wrong() -> io::Error {
    bad("a SQLite database that is not as the format has it")
}

fn be(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    Some(field.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
}

/// A number of 1 to 9 bytes, and how many they are.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        if at == 8 {
            return Some(((value << 8) | u64::from(*byte), 9));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

/// Gives each package's header to `each`.
///
/// # Errors
/// When it is no such database, or is damaged; and `each`'s.
pub fn blobs(source: &(impl Source + ?Sized), each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let head = source.bytes(0, 100, 100)?;
    if !head.starts_with(MAGIC) {
        return Err(bad("not a SQLite database"));
    }
    let page = match be(&head, 16, 2).ok_or_else(wrong)? {
        1 => 65_536,
        size if size >= 512 && size.is_power_of_two() => usize::try_from(size).map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    let reserved = usize::from(head.get(20).copied().ok_or_else(wrong)?);
    let usable = page.checked_sub(reserved).filter(|usable| *usable >= 480).ok_or_else(wrong)?;
    let mut database = Database { source, page, usable, seen: HashSet::new() };
    let mut root = None;
    database.table(1, 0, &mut |payload| {
        // type, name, tbl_name, rootpage, sql
        let columns = columns(payload).ok_or_else(wrong)?;
        let is = |at: usize, text: &[u8]| columns.get(at).is_some_and(|(_, bytes)| *bytes == text);
        if is(0, b"table") && is(1, b"Packages") {
            root = columns.get(3).and_then(|(_, bytes)| be(bytes, 0, bytes.len())).and_then(|n| u32::try_from(n).ok());
        }
        Ok(())
    })?;
    let root = root.ok_or_else(|| bad("a SQLite database without the table Packages"))?;
    database.seen.clear();
    database.table(root, 0, &mut |payload| {
        let columns = columns(payload).ok_or_else(wrong)?;
        match columns.get(1) {
            Some((kind, blob)) if *kind >= 12 => each(blob),
            _ => Ok(()),
        }
    })
}

/// The serial type and the bytes of each column of a record.
fn columns(payload: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let (head, mut at) = varint(payload)?;
    let head = usize::try_from(head).ok()?;
    let mut body = payload.get(head..)?;
    let mut columns = Vec::new();
    while at < head {
        let (kind, length) = varint(payload.get(at..head)?)?;
        at += length;
        let size = match kind {
            0 | 8..=11 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            _ => (kind - 12) / 2,
        };
        let size = usize::try_from(size).ok()?;
        columns.push((kind, body.get(..size)?));
        body = body.get(size..)?;
        if columns.len() > 100 {
            return None;
        }
    }
    Some(columns)
}

impl<S: Source + ?Sized> Database<'_, S> {
    fn read(&mut self, number: u32) -> io::Result<Vec<u8>> {
        // No page belongs to two places: one that comes again leads in a circle.
        if number == 0 || !self.seen.insert(number) {
            return Err(wrong());
        }
        self.source.bytes((u64::from(number) - 1) * self.page as u64, self.page as u64, self.page)
    }

    /// Gives the records of the table whose tree begins at page `number` to `each`.
    fn table(&mut self, number: u32, depth: usize, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(wrong());
        }
        let page = self.read(number)?;
        // The first page begins with the head of the file.
        let start = if number == 1 { 100 } else { 0 };
        let kind = page.get(start).copied().ok_or_else(wrong)?;
        let cells = be(&page, start + 3, 2).and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)?;
        let head = if kind == INTERIOR { 12 } else { 8 };
        for cell in 0..cells {
            let at = be(&page, start + head + cell * 2, 2).and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)?;
            match kind {
                INTERIOR => {
                    let child = be(&page, at, 4).and_then(|n| u32::try_from(n).ok()).ok_or_else(wrong)?;
                    self.table(child, depth + 1, each)?;
                }
                LEAF => {
                    let payload = self.payload(page.get(at..self.usable).ok_or_else(wrong)?)?;
                    each(&payload)?;
                }
                _ => return Err(wrong()),
            }
        }
        if kind == INTERIOR {
            let last = be(&page, start + 8, 4).and_then(|n| u32::try_from(n).ok()).ok_or_else(wrong)?;
            self.table(last, depth + 1, each)?;
        }
        Ok(())
    }

    /// The record of a cell: what does not fit its page is on a chain of others.
    fn payload(&mut self, cell: &[u8]) -> io::Result<Vec<u8>> {
        let (length, first) = varint(cell).ok_or_else(wrong)?;
        let length = usize::try_from(length).ok().filter(|n| *n <= HEADER_MAX + 64).ok_or_else(wrong)?;
        let (_, second) = varint(cell.get(first..).ok_or_else(wrong)?).ok_or_else(wrong)?;
        let body = cell.get(first + second..).ok_or_else(wrong)?;
        let most = self.usable - 35;
        if length <= most {
            return body.get(..length).map(<[u8]>::to_vec).ok_or_else(wrong);
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let local = least + (length - least) % (self.usable - 4);
        let local = if local <= most { local } else { least };
        let mut bytes = body.get(..local).ok_or_else(wrong)?.to_vec();
        let mut next = be(body, local, 4).ok_or_else(wrong)?;
        while bytes.len() < length {
            let page = self.read(u32::try_from(next).map_err(|_| wrong())?)?;
            next = be(&page, 0, 4).ok_or_else(wrong)?;
            let wanted = (length - bytes.len()).min(self.usable - 4);
            bytes.extend_from_slice(page.get(4..4 + wanted).ok_or_else(wrong)?);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Form, read};

    /// A database that rpm 4.18 wrote, less the tables that are not read.
    const DATABASE: &[u8] = include_bytes!("../../../../fuzz/seeds/database/sqlite");

    #[test]
    fn packages_are_read_over_pages_that_their_headers_do_not_fit() {
        let found = read(DATABASE, Form::Sqlite, "var/lib/rpm/rpmdb.sqlite");
        assert!(found.unread.is_empty(), "{found:?}");
        let package = &found.packages[0];
        assert_eq!((found.packages.len(), package.name.as_str()), (1, "ces-sample"));
        assert_eq!((package.version.as_str(), package.licence.as_deref()), ("4:1.2-3", Some("MIT")));
        let files: Vec<&str> = found.claims[0].paths.lines().collect();
        assert_eq!(files.len(), 202, "{files:?}");
        assert!(files.contains(&"usr/bin/ces-sample"));
    }

    #[test]
    fn no_damage_is_a_panic_or_a_circle() {
        for at in (0..DATABASE.len()).step_by(149) {
            for value in [0, 1, 0xff] {
                let mut changed = DATABASE.to_vec();
                changed[at] = value;
                drop(read(changed.as_slice(), Form::Sqlite, "db"));
            }
        }
    }
}
