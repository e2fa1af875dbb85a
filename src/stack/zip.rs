//! ZIP archives (APPNOTE.TXT 6.3.10, with its ZIP64 extensions): the central directory, and single members, stored or deflated.
//!
//! Takes bytes at their places (`facts::Source`); gives members one after the other and what they hold; trusts nothing: whoever asks says
//! how much of a directory and of a member is read at most, whatever the archive says of itself. A directory that is damaged
//! anywhere is an error.

use std::cell::RefCell;
use std::io;

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::facts::{Source, bad};

/// The end of the directory: its own bytes, and the longest comment after them.
const END: u64 = 22;
const COMMENT_MAX: u64 = 65_535;
/// What stands for a number that ZIP64's extra field has.
const LONG: u64 = 0xffff_ffff;

/// A member, as the directory has it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name, as written.
    pub name: String,
    /// When it was packed, RFC 3339.
    pub packed: String,
    /// Its bytes, unpacked, as it says.
    pub size: u64,
    method: u16,
    checksum: u32,
    packed_size: u64,
    header: u64,
}

/// An archive, open.
#[derive(Debug)]
pub struct Archive<'s, S: ?Sized> {
    source: &'s S,
    directory: Vec<u8>,
    at: usize,
    /// Bytes before the archive itself: a program that unpacks it, perhaps.
    shift: u64,
    /// Made once: archives of vulnerability data have ten thousand small members.
    inflate: RefCell<Decompress>,
}

impl<'s, S: Source + ?Sized> Archive<'s, S> {
    /// Reads the directory of the archive in `source`, of at most `most` bytes.
    ///
    /// # Errors
    /// When there is none, or it is longer.
    pub fn open(source: &'s S, most: usize) -> io::Result<Self> {
        let size = source.size();
        let tail_length = size.min(END + COMMENT_MAX);
        let tail = source.bytes(size - tail_length, tail_length, 1 << 17)?;
        // The comment after it may hold anything, but ends where the file ends.
        let is_end = |at: &usize| {
            let fields = Fields(tail.get(*at..).unwrap_or_default());
            fields.0.starts_with(b"PK\x05\x06")
                && fields.short(20).is_ok_and(|comment| at + 22 + usize::from(comment) == tail.len())
        };
        let at = (0..=tail.len().saturating_sub(22)).rev().find(is_end);
        let at = at.ok_or_else(|| bad("not a ZIP archive, or its end is cut off"))?;
        let fields = Fields(tail.get(at..).unwrap_or_default());
        let (mut length, mut start) = (fields.long(12)?, fields.long(16)?);
        let mut directory_end = size - tail_length + at as u64;
        // With sizes beyond 32 bits there is another end record, and a locator right before the old one.
        let locator = at.checked_sub(20).and_then(|from| tail.get(from..at));
        if let Some(locator) = locator.filter(|bytes| bytes.starts_with(b"PK\x06\x07")) {
            let offset = Fields(locator).longest(8)?;
            let end = source.bytes(offset, 56, 56)?;
            if !end.starts_with(b"PK\x06\x06") {
                return Err(bad("a ZIP archive that ends in two ways"));
            }
            (length, start) = (Fields(&end).longest(40)?, Fields(&end).longest(48)?);
            directory_end = offset;
        }
        // What stands before the archive shifts every offset in it.
        let shift = directory_end.checked_sub(length).and_then(|real| real.checked_sub(start)).unwrap_or(0);
        let directory = source.bytes(start.saturating_add(shift), length, most)?;
        Ok(Self { source, directory, at: 0, shift, inflate: RefCell::new(Decompress::new(false)) })
    }

    /// The next member; none after the last.
    ///
    /// # Errors
    /// When the directory is damaged.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        let rest = self.directory.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let fields = Fields(rest);
        if !rest.starts_with(b"PK\x01\x02") {
            return Err(bad("a ZIP archive whose directory is damaged"));
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| fields.short(at).map(usize::from));
        let (name, extra, comment) = (name?, extra?, comment?);
        // An encrypted member is packed in no way that is known here.
        let method = if fields.short(8)? & 1 == 0 { fields.short(10)? } else { u16::MAX };
        let extra_field = rest.get(46 + name..46 + name + extra).ok_or_else(cut_off)?;
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
            method,
            checksum: u32::from_le_bytes(fields.bytes(16)?),
            packed_size,
            header,
        }))
    }

    /// All members that are left; refuses more than `most`.
    ///
    /// # Errors
    /// When the directory is damaged, or has more.
    pub fn members(&mut self, most: usize) -> io::Result<Vec<Member>> {
        let mut all = Vec::new();
        while let Some(member) = self.next_member()? {
            if all.len() >= most {
                return Err(bad(&format!("a ZIP archive of more than {most} members")));
            }
            all.push(member);
        }
        Ok(all)
    }

    /// What a member holds, whatever the directory says of it; refuses more than `most` bytes.
    ///
    /// # Errors
    /// When it is damaged, packed in another way, or too large.
    pub fn read(&self, member: &Member, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.unpack(member, most, most, &mut bytes)?;
        Ok(bytes)
    }

    /// Unpacks a member of at most `most` bytes into `bytes`: as many, with the checksum, as the directory says.
    ///
    /// # Errors
    /// When it is not what the directory says.
    pub fn verified(&self, member: &Member, most: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        let size = usize::try_from(member.size).ok().filter(|size| *size <= most);
        let size = size.ok_or_else(|| bad("a member that is too large"))?;
        // Deflate makes nothing much longer than it was.
        self.unpack(member, size, size + size / 8 + 1024, bytes)?;
        let mut checksum = Crc::new();
        checksum.update(bytes);
        match bytes.len() == size && checksum.sum() == member.checksum {
            true => Ok(()),
            false => Err(bad("a member has another size or checksum than the directory says")),
        }
    }

    fn unpack(&self, member: &Member, most: usize, packed_most: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        let at = member.header.saturating_add(self.shift);
        let header = self.source.bytes(at, 30, 30)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(bad("a member that is not where the directory says"));
        }
        let fields = Fields(&header);
        let begin = at.saturating_add(30 + u64::from(fields.short(26)?) + u64::from(fields.short(28)?));
        let packed = self.source.bytes(begin, member.packed_size, packed_most)?;
        bytes.clear();
        match member.method {
            0 => bytes.extend(packed),
            8 => self.inflate(&packed, usize::try_from(member.size).unwrap_or(most).min(most), most, bytes)?,
            _ => return Err(bad("a member that is encrypted, or packed in another way than deflate")),
        }
        if bytes.len() > most { Err(bad("a member that is too large")) } else { Ok(()) }
    }
}

impl<S: ?Sized> Archive<'_, S> {
    /// Inflates (RFC 1951) into `bytes`, which are empty: perhaps `said` of them, and one more than `most` at most.
    fn inflate(&self, packed: &[u8], said: usize, most: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut inflate = self.inflate.borrow_mut();
        inflate.reset(false);
        // One byte more than is said: so it is seen that there is more.
        bytes.reserve(said + 1);
        loop {
            let read = usize::try_from(inflate.total_in()).unwrap_or(usize::MAX);
            let rest = packed.get(read..).unwrap_or_default();
            let before = (inflate.total_in(), bytes.len());
            match inflate.decompress_vec(rest, bytes, FlushDecompress::None).map_err(io::Error::other)? {
                Status::StreamEnd => return Ok(()),
                _ if bytes.len() > most => return Ok(()),
                _ if bytes.len() == bytes.capacity() => bytes.reserve(bytes.len().min(most) + 1),
                _ if before == (inflate.total_in(), bytes.len()) => return Err(bad("a member that is cut off")),
                _ => {}
            }
        }
    }
}

/// The numbers of ZIP64's extra field, in their order: those alone that do not fit 32 bits.
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
        self.0.get(at..).and_then(|bytes| bytes.first_chunk::<N>()).copied().ok_or_else(cut_off)
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

fn cut_off() -> io::Error {
    bad("a ZIP archive whose directory is cut off")
}

/// An archive of stored members, for tests.
#[cfg(test)]
pub fn stored(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    let word = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
    for (name, bytes) in members {
        let name_length = u16::try_from(name.len()).unwrap().to_le_bytes();
        let at = word(out.len());
        out.extend(b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0");
        out.extend([word(bytes.len()), word(bytes.len())].concat());
        out.extend([&name_length[..], b"\0\0", name.as_bytes(), bytes].concat());
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend([word(bytes.len()), word(bytes.len())].concat());
        directory.extend([&name_length[..], &[0; 12], &at, name.as_bytes()].concat());
    }
    let (start, length) = (word(out.len()), word(directory.len()));
    let count = u16::try_from(members.len()).unwrap().to_le_bytes();
    out.extend(&directory);
    out.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &length, &start, b"\0\0"].concat());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes: &[u8]) -> io::Result<(Archive<'_, [u8]>, Vec<Member>)> {
        let mut archive = Archive::open(bytes, 1 << 20)?;
        let members = archive.members(100)?;
        Ok((archive, members))
    }

    #[test]
    fn members_are_found_and_bounded() {
        let bytes = stored(&[("a", b"one"), ("dir/b", &[7; 100])]);
        // A comment may look like another end.
        let mut commented = bytes.clone();
        let at = commented.len() - 2;
        commented[at..].copy_from_slice(&30_u16.to_le_bytes());
        commented.extend([&b"PK\x05\x06"[..], &[0; 26]].concat());
        for bytes in [bytes.clone(), [b"#!/bin/sh\nexec java\n", bytes.as_slice()].concat(), commented] {
            let (archive, members) = open(&bytes).unwrap();
            assert_eq!(members.len(), 2);
            assert_eq!(archive.read(&members[1], 100).unwrap(), [7; 100]);
            assert!(archive.read(&members[1], 99).is_err());
            // It has no checksum.
            assert!(archive.verified(&members[1], 100, &mut Vec::new()).is_err());
        }
        assert!(Archive::open(bytes.as_slice(), 60).is_err());
        assert!(Archive::open(bytes.as_slice(), 1000).unwrap().members(1).is_err());
        assert!(open(&[bytes, vec![0]].concat()).is_err());
    }

    #[test]
    fn no_damage_is_a_panic() {
        let bytes = stored(&[("a", b"one"), ("dir/b", &[7; 100])]);
        for at in 0..bytes.len() {
            for value in [0, 0xff, 0x7f] {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok((archive, members)) = open(&changed) {
                    members.iter().for_each(|member| drop(archive.read(member, 1000)));
                }
            }
            drop(open(&bytes[..at]));
        }
    }
}
