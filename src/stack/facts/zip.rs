//! ZIP archives (APPNOTE.TXT 6.3.10): the central directory, and single members of known small size, stored or deflated.
//!
//! Nothing is believed of a size but what it bounds: a member is inflated up to a limit, whatever it says of itself.

use std::io::{self, Read};

use flate2::read::DeflateDecoder;

use super::{Source, bad};

/// The most members of an archive that are looked at.
const MEMBERS_MAX: usize = 200_000;
/// The largest central directory that is read.
const DIRECTORY_MAX: usize = 48 << 20;
/// The end record, and the longest comment after it.
const END: u64 = 22;
const COMMENT_MAX: u64 = 65_535;

/// A member of an archive.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name, as written.
    pub name: String,
    method: u16,
    packed: u64,
    header: u64,
}

/// An archive's directory.
#[derive(Debug)]
pub struct Archive {
    /// Members, in their order.
    pub members: Vec<Member>,
    /// Bytes before the archive itself: a program that unpacks it, perhaps.
    shift: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

impl Archive {
    /// Reads the directory of the archive in `source`.
    ///
    /// # Errors
    /// When it is none, or is larger than any that is looked at.
    pub fn open(source: &(impl Source + ?Sized)) -> io::Result<Self> {
        let size = source.size();
        let tail_length = size.min(END + COMMENT_MAX);
        let tail = source.bytes(size - tail_length, tail_length, 1 << 17)?;
        let at = (0..=tail.len().saturating_sub(22)).rev().find(|&at| tail.get(at..at + 4) == Some(&b"PK\x05\x06"[..]));
        let at = at.ok_or_else(|| bad("not a ZIP archive"))?;
        let short = || bad("a ZIP archive whose end is cut off");
        let mut length = u64::from(u32_at(&tail, at + 12).ok_or_else(short)?);
        let mut start = u64::from(u32_at(&tail, at + 16).ok_or_else(short)?);
        let end_at = size - tail_length + at as u64;
        // With sizes beyond 32 bits there is another end record, and a locator right before the old one.
        let mut directory_end = end_at;
        if let Some(place) = at.checked_sub(20)
            && tail.get(place..place + 4) == Some(&b"PK\x06\x07"[..])
        {
            let offset = u64_at(&tail, place + 8).ok_or_else(short)?;
            let end = source.bytes(offset, 56, 56)?;
            length = u64_at(&end, 40).ok_or_else(short)?;
            start = u64_at(&end, 48).ok_or_else(short)?;
            directory_end = offset;
        }
        // What stands before the archive shifts every offset in it.
        let shift = directory_end.checked_sub(length).and_then(|real| real.checked_sub(start)).unwrap_or(0);
        let directory = source.bytes(start.saturating_add(shift), length, DIRECTORY_MAX)?;
        let mut members = Vec::new();
        let mut rest = directory.as_slice();
        while rest.starts_with(b"PK\x01\x02") {
            if members.len() >= MEMBERS_MAX {
                return Err(bad("a ZIP archive of more than 200000 members"));
            }
            let (member, length) = member(rest).ok_or_else(short)?;
            members.push(member);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(Self { members, shift })
    }

    /// What a member holds; refuses more than `most` bytes.
    ///
    /// # Errors
    /// When it is damaged, packed in another way, or too large.
    pub fn read(&self, source: &(impl Source + ?Sized), member: &Member, most: usize) -> io::Result<Vec<u8>> {
        let at = member.header.saturating_add(self.shift);
        let header = source.bytes(at, 30, 30)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(bad("a member that is not where the directory says"));
        }
        let skip = |at| u16_at(&header, at).map(u64::from).unwrap_or_default();
        let begin = at.saturating_add(30 + skip(26) + skip(28));
        let packed = source.bytes(begin, member.packed, most)?;
        match member.method {
            0 => Ok(packed),
            8 => {
                let mut bytes = Vec::new();
                DeflateDecoder::new(packed.as_slice()).take(most as u64 + 1).read_to_end(&mut bytes)?;
                if bytes.len() > most { Err(bad("a member that is too large")) } else { Ok(bytes) }
            }
            _ => Err(bad("a member that is packed in another way than deflate")),
        }
    }

    /// The member of that name.
    pub fn find(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

/// The first member of a directory, and how many bytes it takes there.
fn member(bytes: &[u8]) -> Option<(Member, usize)> {
    let name_length = usize::from(u16_at(bytes, 28)?);
    let extra_length = usize::from(u16_at(bytes, 30)?);
    let comment = usize::from(u16_at(bytes, 32)?);
    let name = bytes.get(46..46 + name_length)?;
    let mut packed = u64::from(u32_at(bytes, 20)?);
    let mut header = u64::from(u32_at(bytes, 42)?);
    let unpacked = u32_at(bytes, 24)?;
    let mut extra = bytes.get(46 + name_length..46 + name_length + extra_length)?;
    while let (Some(id), Some(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let end = 4 + usize::from(length);
        if id == 1 {
            // Only what does not fit 32 bits is here, in this order.
            let mut at = 4;
            if unpacked == u32::MAX {
                at += 8;
            }
            if packed == u64::from(u32::MAX) {
                packed = u64_at(extra, at)?;
                at += 8;
            }
            if header == u64::from(u32::MAX) {
                header = u64_at(extra, at)?;
            }
        }
        extra = extra.get(end..).unwrap_or_default();
    }
    let name = String::from_utf8_lossy(name).into_owned();
    Some((Member { name, method: u16_at(bytes, 10)?, packed, header }, 46 + name_length + extra_length + comment))
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

    #[test]
    fn members_are_found_and_bounded() {
        let bytes = stored(&[("a", b"one"), ("dir/b", &[7; 100])]);
        for prefix in [&b""[..], b"#!/bin/sh\nexec java\n"] {
            let bytes = [prefix, &bytes].concat();
            let archive = Archive::open(bytes.as_slice()).unwrap();
            assert_eq!(archive.members.len(), 2);
            let member = archive.find("dir/b").unwrap();
            assert_eq!(archive.read(bytes.as_slice(), member, 100).unwrap(), [7; 100]);
            assert!(archive.read(bytes.as_slice(), member, 99).is_err());
        }
    }

    #[test]
    fn no_damage_is_a_panic() {
        let bytes = stored(&[("a", b"one"), ("dir/b", &[7; 100])]);
        for at in 0..bytes.len() {
            for value in [0, 0xff, 0x7f] {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok(archive) = Archive::open(changed.as_slice()) {
                    archive.members.iter().for_each(|member| drop(archive.read(changed.as_slice(), member, 1000)));
                }
            }
            drop(Archive::open(&bytes[..at]));
        }
    }
}
