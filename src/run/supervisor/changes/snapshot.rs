//! What is in a tree at one moment: a line an entry, in a file without a name.
//!
//! Takes an open directory; gives lines in the order of exact names; trusts statx(2) and no name: a link is never followed, and
//! nothing but a directory is opened; refuses to go on beyond its bounds, and says so.
//!
//! A line is the name, a NUL, and numbers in hexadecimal digits. No name holds a NUL, which is less than any other byte: lines are in
//! the order of names when they are in that of bytes. A line break in a name would end the line, and is written as two bytes that
//! keep the order: 0x0A as 0x0B 0x01, and 0x0B as 0x0B 0x02.

use std::ffi::CStr;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use crate::host::same_mount;
use crate::run::supervisor::outputs::hash::{Ask, Stop};
use crate::run::supervisor::outputs::tree::{self, At, Visitor};
use crate::run::supervisor::outputs::{Few, LISTED, order};
use crate::text;

/// No snapshot is longer, in bytes: some four million entries.
const LARGEST: u64 = 512 << 20;
/// Directories that could not be read are remembered by their names, together of so many bytes.
const UNREAD: usize = 64 << 10;
/// How many entries are looked at between two looks whether to stop.
const BETWEEN: u64 = 128;

/// The name of the directory itself: no entry has it.
const TOP: &[u8] = b".";
/// What is asked of each entry.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// An entry as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name below the top.
    pub path: Vec<u8>,
    /// Type and permissions.
    pub mode: u32,
    /// Which file it is: device, inode, and when it was made (0: the file system does not tell).
    pub inode: (u64, u64, i128),
    /// Its owner and group.
    pub owner: (u32, u32),
    /// Its bytes.
    pub size: u64,
    /// How many names it has.
    pub links: u32,
    /// When what it holds was changed, in nanoseconds since 1970.
    pub mtime: i128,
    /// When anything of it was changed.
    pub ctime: i128,
}

impl Entry {
    fn of(path: &[u8], found: &Statx) -> Self {
        let time = |at: &rustix::fs::StatxTimestamp| i128::from(at.tv_sec) * 1_000_000_000 + i128::from(at.tv_nsec);
        let born = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        let device = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
        Self {
            path: path.to_vec(),
            mode: u32::from(found.stx_mode),
            inode: (device, found.stx_ino, if born { time(&found.stx_btime) } else { 0 }),
            owner: (found.stx_uid, found.stx_gid),
            size: found.stx_size,
            links: found.stx_nlink,
            mtime: time(&found.stx_mtime),
            ctime: time(&found.stx_ctime),
        }
    }

    /// Its type, as in `st_mode`.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Its line.
    fn line(&self) -> Vec<u8> {
        let mut line = encoded(&self.path);
        let (device, number, born) = self.inode;
        let Self { mode, owner: (uid, gid), size, links, mtime, ctime, .. } = self;
        let facts =
            format!("\0{device:x} {number:x} {born} {mode:x} {uid:x} {gid:x} {size:x} {links:x} {mtime} {ctime}\n");
        line.extend_from_slice(facts.as_bytes());
        line
    }

    /// What a line says; none: it makes no sense.
    fn read(line: &[u8]) -> Option<Self> {
        let (name, facts) = line.split_at_checked(line.iter().position(|byte| *byte == 0)?)?;
        let facts = std::str::from_utf8(facts.get(1..)?).ok()?;
        let mut words = facts.split_whitespace();
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let (device, inode) = (number()?, number()?);
        let born = words.next()?.parse().ok()?;
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let mut small = || number().and_then(|n| u32::try_from(n).ok());
        let (mode, uid, gid) = (small()?, small()?, small()?);
        let (size, links) = (number()?, number()?);
        Some(Self {
            path: decoded(name),
            mode,
            inode: (device, inode, born),
            owner: (uid, gid),
            size,
            links: u32::try_from(links).ok()?,
            mtime: words.next()?.parse().ok()?,
            ctime: words.next()?.parse().ok()?,
        })
    }
}

fn encoded(path: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(path.len().saturating_add(128));
    for byte in path {
        match byte {
            0x0A => line.extend_from_slice(&[0x0B, 1]),
            0x0B => line.extend_from_slice(&[0x0B, 2]),
            byte => line.push(*byte),
        }
    }
    line
}

fn decoded(name: &[u8]) -> Vec<u8> {
    let mut bytes = name.iter().copied();
    let mut path = Vec::with_capacity(name.len());
    while let Some(byte) = bytes.next() {
        let second = if byte == 0x0B { bytes.next() } else { None };
        path.push(if second == Some(1) { 0x0A } else { byte });
    }
    path
}

/// What lines are in the order of.
fn name(line: &[u8]) -> Option<Vec<u8>> {
    line.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
}

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Until then.
    pub until: Instant,
    /// A tree of no more entries than this, all on the file system of its top; one that is larger is none.
    pub small: Option<u64>,
}

/// What is known of a snapshot, beside its lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// How many entries it has.
    pub entries: u64,
    /// Why it is not whole, if it is not.
    pub cut: Option<String>,
    /// What could not be looked at; the first few.
    pub failed: Few,
    /// What could not be looked at, and directories whose entries are not, or not all, in it.
    unread: Vec<Vec<u8>>,
}

impl Told {
    /// Of a look that came to nothing, and why.
    pub fn nothing(why: String) -> Self {
        Self { cut: Some(why), ..Self::default() }
    }

    /// Whether what is called `path` may be there without being in it: it could not be looked at, or lies
    /// in a directory that was not read to its end.
    pub fn may_lack(&self, path: &[u8]) -> bool {
        let lies_in = |above: &Vec<u8>| {
            above.is_empty()
                || above == path
                || path.strip_prefix(above.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        self.cut.is_some() || self.unread.iter().any(lies_in)
    }
}

/// Looks at everything below `top`, with the rights of this thread, and writes it to `file`, which is emptied. None: the tree is not
/// as small as it was to be.
///
/// # Errors
/// When the directory itself cannot be read, or the file not be written.
pub fn take(top: impl AsFd, file: &File, bounds: Bounds, ask: Ask<'_>) -> std::io::Result<Option<Told>> {
    file.set_len(0)?;
    let mut out = file.try_clone()?;
    out.seek(SeekFrom::Start(0))?;
    let top = opened(top.as_fd(), c".")?;
    let itself = statx(&top, c"", AtFlags::EMPTY_PATH, WANTED)?;
    let itself = Entry::of(TOP, &itself);
    let mut looking = Looking {
        out: BufWriter::with_capacity(64 << 10, out),
        bounds,
        ask,
        device: itself.inode.0,
        bytes: 0,
        large: false,
        told: Told::default(),
    };
    looking.keep(&itself);
    tree::walk(top, &mut looking);
    let Looking { mut out, large, mut told, .. } = looking;
    if let Err(e) = out.flush() {
        told.cut.get_or_insert_with(|| no_room(&e));
    }
    Ok((!large).then_some(told))
}

/// The entries of a snapshot in the order of their names.
///
/// # Errors
/// When they cannot be read, or there is no room to put them in order.
pub fn in_order(mut file: &File) -> std::io::Result<Entries> {
    if !order::sort_by(file, name)? {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    file.seek(SeekFrom::Start(0))?;
    Entries::new(BufReader::with_capacity(64 << 10, file.try_clone()?))
}

fn no_room(e: &std::io::Error) -> String {
    format!("it could not be written on: {e}")
}

/// The entries of a snapshot, one after the other.
#[derive(Debug)]
pub struct Entries {
    lines: BufReader<File>,
    /// The next one.
    pub next: Option<Entry>,
}

impl Entries {
    fn new(lines: BufReader<File>) -> std::io::Result<Self> {
        let mut entries = Self { lines, next: None };
        entries.advance()?;
        Ok(entries)
    }

    /// Goes on to the next one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn advance(&mut self) -> std::io::Result<()> {
        self.next = None;
        let mut line = Vec::new();
        // A last line that was not finished is none.
        while self.next.is_none() && self.lines.read_until(b'\n', &mut line)? > 0 {
            self.next = line.strip_suffix(b"\n").and_then(Entry::read);
            line.clear();
        }
        Ok(())
    }

    /// The next one, if it is called `path`.
    ///
    /// # Errors
    /// When the one after it cannot be read.
    pub fn of(&mut self, path: &[u8]) -> std::io::Result<Option<Entry>> {
        if self.next.as_ref().is_none_or(|next| next.path != path) {
            return Ok(None);
        }
        let taken = self.next.take();
        self.advance()?;
        // A name that came twice, of a directory that changed while it was read, is one entry.
        while self.next.as_ref().is_some_and(|next| next.path == path) {
            self.advance()?;
        }
        Ok(taken)
    }
}

struct Looking<'a> {
    out: BufWriter<File>,
    bounds: Bounds,
    ask: Ask<'a>,
    device: u64,
    bytes: u64,
    large: bool,
    told: Told,
}

impl Looking<'_> {
    fn keep(&mut self, entry: &Entry) {
        let line = entry.line();
        if let Err(e) = self.out.write_all(&line) {
            self.cut(no_room(&e));
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(line.len()).unwrap_or(0));
    }

    fn cut(&mut self, why: String) {
        self.told.cut.get_or_insert(why);
    }

    fn unread(&mut self, path: &[u8], why: &str) {
        self.told.failed.add(&format!("{}: {why}", text::neutral_bytes(path)));
        if self.told.unread.iter().map(Vec::len).sum::<usize>().saturating_add(path.len()) < UNREAD {
            self.told.unread.push(path.to_vec());
        } else {
            self.cut("too many directories could not be read".to_owned());
        }
    }

    fn bounded(&mut self) {
        self.large |= self.bounds.small.is_some_and(|most| self.told.entries > most);
        if !self.told.entries.is_multiple_of(BETWEEN) {
            return;
        }
        if let Some(Stop::Hashing(why) | Stop::All(why)) = (self.ask)() {
            self.cut(why);
        } else if Instant::now() >= self.bounds.until {
            self.cut("its time was over".to_owned());
        } else if self.bytes > LARGEST {
            self.cut(format!("it would be longer than {} MiB", LARGEST >> 20));
        }
    }
}

impl Visitor for Looking<'_> {
    fn entry(&mut self, dir: &OwnedFd, name: &CStr, at: At<'_>) -> nix::Result<Option<OwnedFd>> {
        if at.depth >= LISTED {
            return Ok(None);
        }
        self.bounded();
        // What an automounter has is not mounted by being held.
        let held = same_mount::open(dir, name, OFlag::O_PATH)?;
        let found = statx(&held, c"", AtFlags::EMPTY_PATH, WANTED).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        let entry = Entry::of(at.path, &found);
        self.keep(&entry);
        self.told.entries += 1;
        if entry.kind() != libc::S_IFDIR {
            return Ok(None);
        }
        self.large |= self.bounds.small.is_some() && entry.inode.0 != self.device;
        if at.depth + 1 >= LISTED {
            self.unread(at.path, &format!("what is deeper than {LISTED} levels is not looked at"));
            return Ok(None);
        }
        if self.large || found.stx_attributes.contains(StatxAttributes::AUTOMOUNT) {
            return Ok(None);
        }
        opened(dir.as_fd(), name).map(Some)
    }

    fn failed(&mut self, at: At<'_>, error: Errno) {
        // Gone meanwhile: then it is not there.
        if error != Errno::ENOENT {
            self.unread(at.path, same_mount::why(error));
        }
    }

    fn is_over(&self) -> bool {
        self.large || self.told.cut.is_some()
    }
}

/// Opens a directory for reading; that it was read is not to be seen of it, where that is for this caller (open(2), `O_NOATIME`).
fn opened(dir: std::os::fd::BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    match same_mount::open(dir, name, flags | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => same_mount::open(dir, name, flags),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_name_comes_back_and_lines_are_in_the_order_of_names(
            one in proptest::collection::vec(prop_oneof![9_u8..13, 1_u8..=255], 0..12),
            other in proptest::collection::vec(prop_oneof![9_u8..13, 1_u8..=255], 0..12),
        ) {
            let entry = |path: &[u8]| Entry {
                path: path.to_vec(), mode: 0o100_640, inode: (1, 2, -3), owner: (4, 5), size: 6, links: 7, mtime: -8, ctime: 9,
            };
            let (first, second) = (entry(&one), entry(&other));
            let (line, next) = (first.line(), second.line());
            prop_assert_eq!(Entry::read(line.strip_suffix(b"\n").unwrap()).unwrap(), first);
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(name(&line).cmp(&name(&next)), one.cmp(&other));
        }
    }
}
