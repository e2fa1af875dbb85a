//! A file of records, to look up.
//!
//! Takes a file that `builder` wrote; gives the records of a package; trusts that root wrote it, and nothing about its bytes: a
//! damaged file is an error, never an answer of "nothing known" (each block has a checksum).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::builder::{MAGIC, Source, take_key};
use super::record::Record;

/// The longest table, source document and block, uncompressed.
const LONGEST: usize = 256 << 20;

/// One source, open.
#[derive(Debug)]
pub struct Index {
    file: File,
    source: Source,
    ecosystems: Vec<String>,
    /// Ecosystem, name, where its block is; in that order.
    keys: Vec<(usize, String, u64, usize)>,
}

impl Index {
    /// Reads what it needs to look something up.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn open(file: File) -> io::Result<Self> {
        const FOOTER: usize = 6 * 8 + MAGIC.len();
        let size = file.metadata()?.len();
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, size.checked_sub(FOOTER as u64).ok_or_else(damaged)?)?;
        let (numbers, magic) = footer.split_at_checked(6 * 8).ok_or_else(damaged)?;
        if magic != MAGIC {
            return Err(damaged());
        }
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let mut next = || numbers.next().ok_or_else(damaged);
        let (table_at, table_size, table_length) = (next()?, next()?, next()?);
        let (source_at, source_size) = (next()?, next()?);
        let source: Source = serde_json::from_slice(&read(&file, source_at, source_size)?)?;
        if source.version != 1 {
            return Err(io::Error::other("it was written by another version of ces; import it again"));
        }
        let table = decompress(&read(&file, table_at, table_size)?, table_length)?;
        let end = table.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
        let (list, mut rest) = table.split_at_checked(end).ok_or_else(damaged)?;
        let ecosystems: Vec<String> = serde_json::from_slice(list)?;
        rest = rest.strip_prefix(b"\n").ok_or_else(damaged)?;
        let (mut keys, mut at) = (Vec::new(), MAGIC.len() as u64);
        while !rest.is_empty() {
            let key = take_key(&mut rest).ok_or_else(damaged)?;
            keys.push((key.ecosystem, key.name, at, key.length as usize));
            at += u64::from(key.length);
        }
        let sorted = keys.is_sorted_by(|a, b| (a.0, &a.1) < (b.0, &b.1));
        if !sorted || at != table_at {
            return Err(damaged());
        }
        Ok(Self { file, source, ecosystems, keys })
    }

    /// What it was made from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The ecosystems that have records.
    pub fn ecosystems(&self) -> &[String] {
        &self.ecosystems
    }

    /// All records of a package; none where it has none.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn records(&self, ecosystem: usize, name: &str) -> io::Result<Vec<Record>> {
        let found = self.keys.binary_search_by(|key| (key.0, key.1.as_str()).cmp(&(ecosystem, name)));
        let Some((_, _, at, length)) = found.ok().and_then(|place| self.keys.get(place)) else { return Ok(Vec::new()) };
        let mut block = vec![0; *length];
        self.file.read_exact_at(&mut block, *at)?;
        let length = zstd::zstd_safe::get_frame_content_size(&block).ok().flatten().ok_or_else(damaged)?;
        Ok(serde_json::from_slice(&decompress(&block, length)?)?)
    }
}

fn read(file: &File, at: u64, size: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(size).ok().filter(|size| *size <= LONGEST).ok_or_else(damaged)?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn decompress(bytes: &[u8], length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or_else(damaged)?;
    zstd::bulk::decompress(bytes, length)
}

fn damaged() -> io::Error {
    io::Error::other("it is damaged; import it again")
}
