//! Documents out of archives: zip files, and tar files that are plain or compressed with gzip or Zstandard.
//!
//! Takes an open file; gives one document after another; trusts nothing: a document, their number, and all bytes together are
//! bounded, and an archive that is damaged anywhere is an error. Only regular files are looked at, and names are for messages alone.

use std::fs::File;
use std::io::{self, BufReader, Read};

use tar::{EntryType, Header};

use crate::stack::facts::OpenFile;
use crate::stack::zip::Archive;

/// The longest document.
pub const RECORD: usize = 64 << 20;
/// How many an archive may have.
const RECORDS: u64 = 4_000_000;
/// Bytes of all together.
const TOTAL: u64 = 64 << 30;
/// Bytes of a zip file's directory.
const DIRECTORY: usize = 1 << 30;
/// A tar file's blocks.
const BLOCK: usize = 512;

/// What holds the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A zip file.
    Zip,
    /// A tar file.
    Tar,
    /// A tar file, compressed with gzip (RFC 1952).
    TarGzip,
    /// A tar file, compressed with Zstandard (RFC 8878).
    TarZstd,
}

impl Container {
    /// By the first bytes.
    pub fn of(start: &[u8]) -> Option<Self> {
        Some(match start {
            [b'P', b'K', 3, 4, ..] => Self::Zip,
            [0x1f, 0x8b, ..] => Self::TarGzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::TarZstd,
            _ if start.get(257..262) == Some(b"ustar") => Self::Tar,
            _ => return None,
        })
    }
}

/// A document of an archive.
#[derive(Debug)]
pub struct Document<'b> {
    /// What the archive calls it.
    pub name: &'b str,
    /// When it was packed, where the archive tells that of all (zip): RFC 3339.
    pub packed: &'b str,
    /// What it holds.
    pub bytes: &'b [u8],
}

/// Gives every document of the archive to `take`.
///
/// # Errors
/// When the archive is damaged or too large; and those of `take`.
pub fn each(
    from: &File,
    container: Container,
    take: &mut dyn FnMut(Document<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let plain = |from: &File| from.try_clone().map(|file| BufReader::with_capacity(1 << 20, file));
    let plain = plain(from).map_err(|e| e.to_string())?;
    match container {
        Container::Zip => of_zip(from, take),
        Container::Tar => of_tar(plain, take),
        Container::TarGzip => of_tar(flate2::bufread::MultiGzDecoder::new(plain), take),
        Container::TarZstd => {
            of_tar(zstd::stream::read::Decoder::with_buffer(plain).map_err(|e| damaged("archive", &e))?, take)
        }
    }
}

fn damaged(what: &str, e: &io::Error) -> String {
    format!("the {what} is damaged or hostile: {e}")
}

/// How much of an archive was read.
#[derive(Default)]
struct Counted {
    documents: u64,
    bytes: u64,
}

impl Counted {
    fn more(&mut self, name: &str, size: u64) -> Result<(), String> {
        self.documents += 1;
        self.bytes = self.bytes.saturating_add(size);
        if size <= RECORD as u64 && self.bytes <= TOTAL && self.documents <= RECORDS {
            return Ok(());
        }
        let most = format!("{RECORDS} records, {RECORD} bytes each, {TOTAL} bytes in all");
        Err(format!("the archive is too large at {name:?}; at most {most}"))
    }
}

fn of_zip(from: &File, take: &mut dyn FnMut(Document<'_>) -> Result<(), String>) -> Result<(), String> {
    let damaged = |e: io::Error| damaged("zip file", &e);
    let file = from.try_clone().and_then(OpenFile::new).map_err(damaged)?;
    let mut archive = Archive::open(&file, DIRECTORY).map_err(damaged)?;
    let (mut counted, mut bytes) = (Counted::default(), Vec::new());
    while let Some(member) = archive.next_member().map_err(damaged)? {
        if member.name.ends_with('/') {
            continue;
        }
        counted.more(&member.name, member.size)?;
        archive.verified(&member, RECORD, &mut bytes).map_err(damaged)?;
        take(Document { name: &member.name, packed: &member.packed, bytes: &bytes })?;
    }
    Ok(())
}

fn of_tar(mut from: impl Read, take: &mut dyn FnMut(Document<'_>) -> Result<(), String>) -> Result<(), String> {
    let damaged = |e: io::Error| damaged("tar file", &e);
    let cut_off = || damaged(io::Error::other("it is cut off, or no tar file"));
    let (mut counted, mut bytes, mut block) = (Counted::default(), Vec::new(), [0; BLOCK]);
    loop {
        from.read_exact(&mut block).map_err(damaged)?;
        if block == [0; BLOCK] {
            return Ok(());
        }
        let header = Header::from_byte_slice(&block);
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        if header.cksum().map_err(damaged)? != sum {
            return Err(cut_off());
        }
        let size = header.entry_size().map_err(damaged)?;
        let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        counted.more(&name, if header.entry_type() == EntryType::Directory { 0 } else { size })?;
        let padded = size.div_ceil(BLOCK as u64) * BLOCK as u64;
        bytes.clear();
        // Links and directories have no data, whatever they say; extended headers have, and are no documents.
        let is_document = matches!(header.entry_type(), EntryType::Regular | EntryType::Continuous);
        let has_data = is_document
            || matches!(
                header.entry_type(),
                EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink
            );
        if !has_data && !matches!(header.entry_type(), EntryType::Directory | EntryType::Link | EntryType::Symlink) {
            return Err(damaged(io::Error::other(format!("{name:?} is neither a file nor a directory"))));
        }
        if has_data {
            let read = (&mut from).take(padded).read_to_end(&mut bytes).map_err(damaged)?;
            if read as u64 != padded {
                return Err(cut_off());
            }
            bytes.truncate(usize::try_from(size).map_err(|e| e.to_string())?);
        }
        if is_document {
            take(Document { name: &name, packed: "", bytes: &bytes })?;
        }
    }
}
