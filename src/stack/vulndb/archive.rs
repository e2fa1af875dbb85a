//! Zip files of records (APPNOTE.TXT 6.3.10, with its ZIP64 extensions), as far as OSV writes them: stored or deflated members.
//!
//! Takes a file; gives its members one after the other; trusts nothing: what the directory says is bounded, each member has the size and
//! the checksum that are said, or the file is damaged.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

/// Bytes of the directory that are read at most.
const DIRECTORY: u64 = 1 << 30;
/// The end of the directory: its own bytes, and the longest comment after them.
const END: u64 = 22 + 65_535;
/// What stands for a number that ZIP64's extra field has.
const LONG: u64 = 0xffff_ffff;

/// A zip file, open.
#[derive(Debug)]
pub struct Archive<'f> {
    file: &'f File,
    directory: Vec<u8>,
    at: usize,
}

/// A member, as the directory has it.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// When it was packed, RFC 3339 without a zone's difference.
    pub packed: String,
    /// Its bytes, unpacked.
    pub size: u64,
    deflated: bool,
    checksum: u32,
    packed_size: u64,
    header: u64,
}

impl<'f> Archive<'f> {
    /// Reads the directory.
    ///
    /// # Errors
    /// When there is none, or it is too large.
    pub fn open(file: &'f File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let start = length.saturating_sub(END);
        let tail = read(file, start, length - start)?;
        let end =
            tail.windows(4).rposition(|bytes| bytes == b"PK\x05\x06").ok_or_else(|| bad("it has no directory"))?;
        let fields = Fields(tail.get(end..).unwrap_or_default());
        if end + 22 + usize::from(fields.short(20)?) != tail.len() {
            return Err(bad("its end is cut off, or not its end"));
        }
        let (mut size, mut offset) = (fields.long(12)?, fields.long(16)?);
        // The end of ZIP64 is found by a locator right before the other end.
        let locator =
            end.checked_sub(20).and_then(|at| tail.get(at..end)).filter(|bytes| bytes.starts_with(b"PK\x06\x07"));
        if let Some(locator) = locator {
            let end = read(file, Fields(locator).longest(8)?, 56)?;
            if !end.starts_with(b"PK\x06\x06") {
                return Err(bad("its directory ends in two ways"));
            }
            (size, offset) = (Fields(&end).longest(40)?, Fields(&end).longest(48)?);
        }
        if size > DIRECTORY {
            return Err(bad("its directory is too long"));
        }
        Ok(Self { file, directory: read(file, offset, size)?, at: 0 })
    }

    /// The next member; none after the last.
    ///
    /// # Errors
    /// When the directory is damaged, or a member is packed or encrypted in another way.
    pub fn next(&mut self) -> io::Result<Option<Member>> {
        let rest = self.directory.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let fields = Fields(rest);
        if !rest.starts_with(b"PK\x01\x02") {
            return Err(bad("its directory is damaged"));
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| fields.short(at).map(usize::from));
        let (name, extra, comment) = (name?, extra?, comment?);
        let method = fields.short(10)?;
        if fields.short(8)? & 1 != 0 || !matches!(method, 0 | 8) {
            return Err(bad("a member is encrypted, or packed in another way than by deflate"));
        }
        let extra_field = rest.get(46 + name..46 + name + extra).ok_or_else(|| bad("its directory is cut off"))?;
        let mut long = zip64(extra_field);
        let mut number = |at| match fields.long(at)? {
            LONG => long.next().ok_or_else(|| bad("a number of a member is missing")),
            number => Ok(number),
        };
        let (size, packed_size, header) = (number(24)?, number(20)?, number(42)?);
        self.at += 46 + name + extra + comment;
        Ok(Some(Member {
            name: String::from_utf8_lossy(rest.get(46..46 + name).unwrap_or_default()).into_owned(),
            packed: time(fields.short(14)?, fields.short(12)?),
            size,
            deflated: method == 8,
            checksum: u32::try_from(fields.long(16)?).map_err(io::Error::other)?,
            packed_size,
            header,
        }))
    }

    /// Unpacks a member into `bytes`; whoever calls has looked at its size.
    ///
    /// # Errors
    /// When it is not what the directory says.
    pub fn unpack(&self, member: &Member, bytes: &mut Vec<u8>) -> io::Result<()> {
        let header = read(self.file, member.header, 30)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(bad("a member is not where the directory says"));
        }
        let fields = Fields(&header);
        let start = member.header + 30 + u64::from(fields.short(26)?) + u64::from(fields.short(28)?);
        // Deflate makes nothing much longer than it was.
        if member.packed_size > member.size + member.size / 8 + 1024 {
            return Err(bad("a member is longer packed than unpacked"));
        }
        let packed = read(self.file, start, member.packed_size)?;
        bytes.clear();
        if member.deflated {
            DeflateDecoder::new(packed.as_slice()).take(member.size + 1).read_to_end(bytes)?;
        } else {
            bytes.extend(packed);
        }
        let mut checksum = Crc::new();
        checksum.update(bytes);
        match bytes.len() as u64 == member.size && checksum.sum() == member.checksum {
            true => Ok(()),
            false => Err(bad("a member has another size or checksum than the directory says")),
        }
    }
}

/// The numbers of ZIP64's extra field, in their order.
fn zip64(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut found: &[u8] = &[];
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let [a, b, c, d] = *head;
        let size = usize::from(u16::from_le_bytes([c, d]));
        let Some((field, rest)) = rest.split_at_checked(size) else { break };
        if u16::from_le_bytes([a, b]) == 1 {
            found = field;
            break;
        }
        extra = rest;
    }
    found.as_chunks::<8>().0.to_vec().into_iter().map(u64::from_le_bytes)
}

/// MS-DOS date and time.
fn time(date: u16, time: u16) -> String {
    let (year, month, day) = (1980 + (date >> 9), date >> 5 & 15, date & 31);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time >> 11, time >> 5 & 63, 2 * (time & 31))
}

/// Little-endian numbers at their places.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> io::Result<[u8; N]> {
        let found = self.0.get(at..).and_then(|bytes| bytes.first_chunk::<N>());
        found.copied().ok_or_else(|| bad("its directory is cut off"))
    }

    fn short(&self, at: usize) -> io::Result<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn long(&self, at: usize) -> io::Result<u64> {
        self.bytes(at).map(|bytes| u64::from(u32::from_le_bytes(bytes)))
    }

    fn longest(&self, at: usize) -> io::Result<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}

fn read(file: &File, at: u64, size: u64) -> io::Result<Vec<u8>> {
    // What the file does not have is not made room for.
    let there = file.metadata()?.len();
    if at.checked_add(size).is_none_or(|end| end > there) {
        return Err(bad("it is cut off"));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
