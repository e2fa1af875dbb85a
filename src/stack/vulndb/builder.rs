//! Records on their way into a file.
//!
//! Takes records by ecosystem and package; gives a file of them that `index` reads; trusts nothing: what is kept in memory is
//! bounded. The same records give the same bytes, in whatever order they came.
//!
//! ```text
//! magic │ blocks: a Zstandard frame with a list of records for each key │ table of keys (Zstandard) │ source (JSON) │ footer
//! footer = offsets and lengths of table and source, six numbers of 8 bytes, little-endian, and the magic once more
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::record::Record;

/// What a file begins and ends with.
pub const MAGIC: &[u8; 8] = b"cesvdb\x01\n";
/// Bytes of records that are kept in memory at most.
const MOST: usize = 1 << 30;
/// How hard blocks are compressed: they are small, and a higher level takes longer than reading the records.
const LEVEL: i32 = 1;

/// What a file is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Version of this document.
    pub version: u32,
    /// Its name: `osv-PyPI`, `debian-tracker`, `alpine-v3.20-main`.
    pub name: String,
    /// What sort of file it was read from.
    pub format: String,
    /// SHA-256 of that file.
    pub digest: String,
    /// When the newest of what it says was said, or when it was packed, RFC 3339: its age counts from here.
    pub dated: String,
    /// When it was imported, RFC 3339.
    pub imported: String,
    /// All ecosystems it tells of; after a slash stands which part of one it tells, where it is not the whole: of Alpine's the repository.
    pub ecosystems: Vec<String>,
    /// Records that are kept.
    pub records: u64,
    /// Packages that they are about.
    pub packages: u64,
    /// Records that were withdrawn, and are left out.
    pub withdrawn: u64,
    /// Records that could not be read, and are left out.
    pub unreadable: u64,
    /// The first of those, and why.
    pub examples: Vec<String>,
    /// Packages of ecosystems that no image can have packages of, and records that name no package.
    pub foreign: u64,
}

impl Source {
    /// What stands for the part of an ecosystem that records of another's source tell of, or a single one.
    pub const PART: &str = "one record";
    /// What stands for a source of the whole ecosystem of which records could not be read.
    pub const UNREAD: &str = "not all could be read";

    /// Whether it tells of any ecosystem as a whole.
    pub fn is_whole(&self) -> bool {
        self.ecosystems.iter().any(|told| {
            let part = told.split_once('/').map(|(_, part)| part);
            part.is_none_or(|part| part != Self::PART && part != Self::UNREAD)
        })
    }
}

/// Collects records.
#[derive(Debug, Default)]
pub struct Builder {
    records: Vec<u8>,
    keys: BTreeMap<String, BTreeMap<String, Vec<(usize, usize)>>>,
}

/// A key of the table: where a package's block is.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) ecosystem: usize,
    pub(super) name: String,
    pub(super) length: u32,
}

impl Builder {
    /// Adds what a record says of a package.
    ///
    /// # Errors
    /// When there is too much.
    pub fn add(&mut self, ecosystem: &str, name: &str, record: &Record) -> io::Result<()> {
        let start = self.records.len();
        serde_json::to_writer(&mut self.records, record)?;
        if self.records.len() > MOST {
            return Err(io::Error::other(format!("the records are more than {MOST} bytes")));
        }
        let place = (start, self.records.len());
        // Names are copied the first time alone.
        if !self.keys.contains_key(ecosystem) {
            self.keys.insert(ecosystem.to_owned(), BTreeMap::new());
        }
        let Some(names) = self.keys.get_mut(ecosystem) else { return Ok(()) };
        match names.get_mut(name) {
            Some(places) => places.push(place),
            None => drop(names.insert(name.to_owned(), vec![place])),
        }
        Ok(())
    }

    /// The ecosystems so far.
    pub fn ecosystems(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// How many entries are of each ecosystem.
    pub fn weights(&self) -> Vec<(String, usize)> {
        self.keys.iter().map(|(name, packages)| (name.clone(), packages.values().map(Vec::len).sum())).collect()
    }

    /// Writes the file; `source` is told how many packages there are.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(self, mut source: Source, to: impl Write) -> io::Result<Source> {
        let mut out = Counted { to: io::BufWriter::with_capacity(1 << 20, to), at: 0 };
        out.write_all(MAGIC)?;
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        // Used again for each package.
        let (mut plain, mut block) = (Vec::new(), Vec::new());
        let mut table = Vec::new();
        source.packages = 0;
        let ecosystems: Vec<&String> = self.keys.keys().collect();
        serde_json::to_writer(&mut table, &ecosystems)?;
        table.push(b'\n');
        for (number, names) in self.keys.values().enumerate() {
            for (name, places) in names {
                let mut records: Vec<&[u8]> =
                    places.iter().filter_map(|(from, to)| self.records.get(*from..*to)).collect();
                records.sort_unstable();
                records.dedup();
                plain.clear();
                plain.push(b'[');
                for (at, record) in records.iter().enumerate() {
                    if at > 0 {
                        plain.push(b',');
                    }
                    plain.extend_from_slice(record);
                }
                plain.push(b']');
                block.clear();
                block.reserve(zstd::zstd_safe::compress_bound(plain.len()));
                compressor.compress_to_buffer(&plain, &mut block)?;
                out.write_all(&block)?;
                let length = u32::try_from(block.len()).map_err(io::Error::other)?;
                push_key(&mut table, number, name, length)?;
                source.packages += 1;
            }
        }
        let start = out.at;
        let compressed = compressor.compress(&table)?;
        out.write_all(&compressed)?;
        let end = out.at;
        serde_json::to_writer(&mut out, &source)?;
        let numbers = [start, end - start, table.len() as u64, end, out.at - end, 0];
        for number in numbers {
            out.write_all(&number.to_le_bytes())?;
        }
        out.write_all(MAGIC)?;
        out.flush()?;
        Ok(source)
    }
}

fn push_key(table: &mut Vec<u8>, ecosystem: usize, name: &str, length: u32) -> io::Result<()> {
    let [ecosystem, size] = [ecosystem, name.len()].map(u16::try_from);
    table.extend(ecosystem.map_err(io::Error::other)?.to_le_bytes());
    table.extend(size.map_err(io::Error::other)?.to_le_bytes());
    table.extend(length.to_le_bytes());
    table.extend(name.as_bytes());
    Ok(())
}

/// Reads what [`push_key`] wrote, from the front of `table`.
pub(super) fn take_key(table: &mut &[u8]) -> Option<Key> {
    let (ecosystem, rest) = table.split_first_chunk::<2>()?;
    let (size, rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*size)))?;
    *table = rest;
    Some(Key {
        ecosystem: usize::from(u16::from_le_bytes(*ecosystem)),
        name: std::str::from_utf8(name).ok()?.to_owned(),
        length: u32::from_le_bytes(*length),
    })
}

/// Knows how much was written.
struct Counted<W> {
    to: W,
    at: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
