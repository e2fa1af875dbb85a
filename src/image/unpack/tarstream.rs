//! The tar format (POSIX ustar and pax, GNU, old v7), read in bounded memory.
//!
//! Takes the uncompressed stream; gives one `Entry` after another, and the data of each in pieces.
//! Trusts nothing: the only memory whose size the archive chooses are its extended headers, up to a limit.
//! Refuses wrong checksums, malformed or oversized extended headers, numbers that are negative or too large, sparse
//! files, unknown types, and an archive that ends within a header or within data.
//!
//! Where programs differ in what they read, this reads what Go's `archive/tar` reads (image builders are written with
//! it): links and directories have no data whatever their size field says; global pax headers are ignored.

use tar::{EntryType, Header};

use super::limits::Limits;
use super::protocol::Fault;

const BLOCK: usize = 512;
/// Zero bytes to compare a block with.
const ZERO: [u8; BLOCK] = [0; BLOCK];

/// Uncompressed bytes, as they come.
pub trait Bytes {
    /// The next bytes, at least one unless the stream has ended, at most `limit`; they count as read.
    ///
    /// # Errors
    /// When decompression fails or a limit is met.
    fn next(&mut self, limit: usize) -> Result<&[u8], Fault>;
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// Another name of a file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device,
}

/// One entry's metadata, extended headers already applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, as it stands in the archive.
    pub path: Vec<u8>,
    /// The target of a link, as it stands in the archive.
    pub target: Vec<u8>,
    /// What it is.
    pub kind: Type,
    /// Bytes of data that follow.
    pub size: u64,
    /// Permission bits, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What pax and GNU headers say about the next entry.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    xattr_bytes: usize,
}

/// Reads an archive.
#[derive(Debug)]
pub struct TarStream<B> {
    bytes: B,
    /// Data of the current entry not read yet.
    left: u64,
    /// Bytes that fill up the current entry's last block.
    padding: usize,
}

impl<B: Bytes> TarStream<B> {
    /// An archive in `bytes`.
    pub fn new(bytes: B) -> Self {
        Self { bytes, left: 0, padding: 0 }
    }

    /// The next entry, or `None` at the end of the archive; what is left of the one before is skipped.
    ///
    /// # Errors
    /// When the archive is malformed.
    pub fn entry(&mut self, limits: &Limits) -> Result<Option<Entry>, Fault> {
        let mut extended = Extended::default();
        let mut announced = false;
        loop {
            while !self.data()?.is_empty() {}
            let Some(header) = self.header()? else {
                if announced {
                    return Err(Fault::malformed("the archive ends after an extended header"));
                }
                return Ok(None);
            };
            let size = number(&header.as_old().size, "size")?;
            match header.entry_type() {
                EntryType::XGlobalHeader => {
                    self.body(size, limits)?;
                }
                EntryType::XHeader => {
                    let body = self.body(size, limits)?;
                    extended.read_pax(&body, limits)?;
                    announced = true;
                }
                EntryType::GNULongName => {
                    extended.path = Some(until_nul(&self.body(size, limits)?).to_vec());
                    announced = true;
                }
                EntryType::GNULongLink => {
                    extended.target = Some(until_nul(&self.body(size, limits)?).to_vec());
                    announced = true;
                }
                kind => {
                    let entry = extended.apply(&header, kind, size)?;
                    self.left = entry.size;
                    self.padding = padding(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The next piece of the current entry's data; empty when there is no more.
    ///
    /// # Errors
    /// When the archive ends within the data.
    pub fn data(&mut self) -> Result<&[u8], Fault> {
        if self.left == 0 {
            let mut skip = std::mem::take(&mut self.padding);
            while skip > 0 {
                let piece = self.bytes.next(skip)?;
                if piece.is_empty() {
                    // All data is there. Some writers leave out what would fill up the last block, and Go's reader, hence
                    // podman and umoci, takes that for the archive's end.
                    break;
                }
                skip -= piece.len();
            }
            return Ok(&[]);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = self.bytes.next(most)?;
        if piece.is_empty() {
            return Err(truncated());
        }
        self.left -= piece.len() as u64;
        Ok(piece)
    }

    /// Reads whatever follows the end of the archive: it belongs to the digest and counts towards the limits.
    ///
    /// # Errors
    /// When decompression fails or a limit is met.
    pub fn drain(&mut self) -> Result<(), Fault> {
        while !self.bytes.next(usize::MAX)?.is_empty() {}
        Ok(())
    }

    /// A header block; `None` at the end of the archive (two blocks of zeros, or the stream's end between entries).
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let mut header = Header::new_old();
        if !self.fill(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes() == &ZERO {
            if self.fill(header.as_mut_bytes())? && header.as_bytes() != &ZERO {
                return Err(Fault::malformed("a single block of zeros stands between entries"));
            }
            return Ok(None);
        }
        check_sum(&header)?;
        Ok(Some(header))
    }

    /// Fills a block; false if the stream has ended before its first byte.
    fn fill(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Fault> {
        let mut rest = block.as_mut_slice();
        while !rest.is_empty() {
            let first = rest.len() == BLOCK;
            let piece = self.bytes.next(rest.len())?;
            if piece.is_empty() {
                return if first { Ok(false) } else { Err(truncated()) };
            }
            let (head, tail) = rest.split_at_mut(piece.len());
            head.copy_from_slice(piece);
            rest = tail;
        }
        Ok(true)
    }

    /// The body of an extended header.
    fn body(&mut self, size: u64, limits: &Limits) -> Result<Vec<u8>, Fault> {
        if size > limits.header_bytes {
            return Err(Fault::refused(format!(
                "an extended header of {size} bytes; at most {} are read",
                limits.header_bytes
            )));
        }
        self.left = size;
        self.padding = padding(size);
        let mut body = Vec::new();
        loop {
            let piece = self.data()?;
            if piece.is_empty() {
                return Ok(body);
            }
            body.extend_from_slice(piece);
        }
    }
}

impl Extended {
    /// Reads the records of a pax header: `"%d %s=%s\n"`, the number being the record's length.
    fn read_pax(&mut self, mut rest: &[u8], limits: &Limits) -> Result<(), Fault> {
        let bad = |what: &str| Fault::malformed(format!("a pax header is malformed: {what}"));
        while !rest.is_empty() {
            let space = rest.iter().position(|&b| b == b' ').ok_or_else(|| bad("no length"))?;
            let (digits, _) = rest.split_at(space);
            let length =
                decimal(digits).and_then(|n| usize::try_from(n).ok()).ok_or_else(|| bad("the length is no number"))?;
            if length <= space + 1 || length > rest.len() {
                return Err(bad("the length is wrong"));
            }
            let (record, after) = rest.split_at(length);
            rest = after;
            let record =
                record.get(space + 1..).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(|| bad("no line end"))?;
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(|| bad("no = sign"))?;
            let (key, value) = record.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            if key.is_empty() {
                return Err(bad("no key"));
            }
            self.record(key, value, limits)?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), Fault> {
        let name = String::from_utf8_lossy(key);
        let bad = || Fault::malformed(format!("a pax header is malformed: the value of {name}"));
        let text = |value: &[u8]| if value.contains(&0) { Err(bad()) } else { Ok(value.to_vec()) };
        // An empty value takes an earlier one back (POSIX pax, "extended header keyword precedence").
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| text(value)).transpose()?,
            b"linkpath" => self.target = given.then(|| text(value)).transpose()?,
            b"size" => self.size = given.then(|| decimal(value).ok_or_else(bad)).transpose()?,
            b"uid" => self.uid = given.then(|| decimal(value).ok_or_else(bad)).transpose()?,
            b"gid" => self.gid = given.then(|| decimal(value).ok_or_else(bad)).transpose()?,
            b"mtime" => self.mtime = given.then(|| seconds(value).ok_or_else(bad)).transpose()?,
            _ if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr_bytes = self.xattr_bytes.saturating_add(name.len() + value.len());
                    if self.xattr_bytes > limits.xattr_bytes {
                        return Err(Fault::refused(format!(
                            "extended attributes of more than {} bytes",
                            limits.xattr_bytes
                        )));
                    }
                    if name.is_empty() || name.contains(&0) {
                        return Err(bad());
                    }
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn apply(self, header: &Header, kind: EntryType, size: u64) -> Result<Entry, Fault> {
        let old = header.as_old();
        let path = self.path.unwrap_or_else(|| name(header));
        let target = self.target.unwrap_or_else(|| until_nul(&old.linkname).to_vec());
        let size = self.size.unwrap_or(size);
        let kind = match kind {
            // Before ustar, a directory was a file whose name ends in a slash.
            EntryType::Regular if header.as_bytes().get(156) == Some(&0) && path.ends_with(b"/") => Type::Directory,
            EntryType::Regular | EntryType::Continuous => Type::File,
            EntryType::Link => Type::HardLink,
            EntryType::Symlink => Type::Symlink,
            EntryType::Directory => Type::Directory,
            EntryType::Fifo => Type::Fifo,
            EntryType::Char | EntryType::Block => {
                device_numbers(header).map_err(|fault| fault.at(&path))?;
                Type::Device
            }
            EntryType::GNUSparse => return Err(sparse().at(&path)),
            other => {
                return Err(Fault::refused(format!("an entry of unknown type 0x{:02x}", other.as_byte())).at(&path));
            }
        };
        let at = |fault: Fault| fault.at(&path);
        let mode = number(&old.mode, "mode").map_err(at)? & 0o7777;
        Ok(Entry {
            kind,
            size: if kind == Type::File { size } else { 0 },
            mode: u32::try_from(mode).unwrap_or(0),
            uid: self.uid.map_or_else(|| number(&old.uid, "uid"), Ok).map_err(at)?,
            gid: self.gid.map_or_else(|| number(&old.gid, "gid"), Ok).map_err(at)?,
            mtime: match self.mtime {
                Some(mtime) => mtime,
                None => (signed(&old.mtime, "mtime").map_err(at)?, 0),
            },
            xattrs: self.xattrs,
            path,
            target,
        })
    }
}

/// The name in a header: where the magic is POSIX's, its prefix is the part before it.
///
/// POSIX says "00" for the version (pax, "ustar Interchange Format"), but Java's and others' writers leave NULs or blanks
/// there, and neither Go's reader nor GNU tar asks. In GNU's own format (`ustar  \0`) and in the old one, these bytes are
/// something else. `star` marks its headers at the end, and has times in the last 24 bytes of the field.
fn name(header: &Header) -> Vec<u8> {
    let bytes = header.as_bytes();
    let field = |from: usize, to: usize| bytes.get(from..to).unwrap_or_default();
    let name = until_nul(field(0, 100));
    let prefix = match (field(257, 263), field(508, 512)) {
        (b"ustar\0", b"tar\0") => until_nul(field(345, 476)),
        (b"ustar\0", _) => until_nul(field(345, 500)),
        _ => b"",
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn device_numbers(header: &Header) -> Result<(), Fault> {
    let Some(ustar) = header.as_ustar() else { return Ok(()) };
    for (field, name) in [(&ustar.dev_major, "major"), (&ustar.dev_minor, "minor")] {
        if number(field, name)? > u64::from(u32::MAX) {
            return Err(Fault::malformed("a device number is too large"));
        }
    }
    Ok(())
}

/// The sum of all bytes of the header, its own field taken as spaces; old programs added signed bytes.
fn check_sum(header: &Header) -> Result<(), Fault> {
    let stored = number(&header.as_old().cksum, "checksum")?;
    let (mut unsigned, mut signed) = (0_u64, 0_i64);
    for (at, &byte) in header.as_bytes().iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if stored == unsigned || i64::try_from(stored) == Ok(signed) {
        return Ok(());
    }
    Err(Fault::malformed("a header's checksum is wrong"))
}

/// A number of a header: octal digits, or big-endian binary marked by the first bit (GNU).
fn number(field: &[u8], name: &str) -> Result<u64, Fault> {
    u64::try_from(signed(field, name)?).map_err(|_| Fault::malformed(format!("the {name} is negative")))
}

fn signed(field: &[u8], name: &str) -> Result<i64, Fault> {
    let bad = || Fault::malformed(format!("the {name} is no number or too large"));
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            // Two's complement over the remaining seven bits of the first byte and all others.
            let start = i128::from(first & 0x7f) - if first & 0x40 != 0 { 0x80 } else { 0 };
            let value = rest
                .iter()
                .try_fold(start, |value, &byte| value.checked_mul(256).map(|value| value + i128::from(byte)));
            value.and_then(|value| i64::try_from(value).ok()).ok_or_else(bad)
        }
        _ => {
            // Some writers fill up with blanks or NULs in front; Go's reader and GNU tar pass over both.
            let start = field.iter().position(|&b| b != b' ' && b != 0).unwrap_or(field.len());
            let digits = until_nul(field.get(start..).unwrap_or_default()).trim_ascii();
            let mut value = 0_i64;
            for &digit in digits {
                if !(b'0'..=b'7').contains(&digit) {
                    return Err(bad());
                }
                value = value.checked_mul(8).and_then(|v| v.checked_add(i64::from(digit - b'0'))).ok_or_else(bad)?;
            }
            Ok(value)
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A pax time: `-?[0-9]+(\.[0-9]*)?`; digits beyond nanoseconds are cut off.
fn seconds(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if digits.is_empty() || ![digits, fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    // What does not fit is as far outside the allowed range as can be.
    let whole = whole.parse().unwrap_or(i64::MIN);
    let nanoseconds = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some((whole, nanoseconds))
}

fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

fn truncated() -> Fault {
    Fault::malformed("the archive ends in the middle of an entry")
}

fn sparse() -> Fault {
    Fault::refused("a sparse file, which layers do not contain")
        .hint("build the image with a tool that writes plain files")
}
