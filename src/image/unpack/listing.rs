//! A tree as text: what a layer is on disk, one line an entry.
//!
//! Takes a tree, and the digests of file contents as far as they are known from writing them; gives a listing.
//! Trusts nothing in the tree: it may have been tampered with.
//! Refuses trees deeper than any layer can be.
//!
//! ```text
//! TYPE MODE USER GROUP LINKS SIZE SECONDS.NANOSECONDS CONTENT ATTRIBUTES PATH
//! f 644 2147352576 2147352576 1 5 1000000000.0 2cf24dba…9824 - d/hello
//! l 777 2147352576 2147352576 1 0 1000000000.0 ../hello - d/link
//! h 0 - - 0 0 0.0 d/hello - d/other        the same file as one that was listed before
//! ```
//!
//! Contents are told by BLAKE3: it takes a third of the time of SHA-256, which already has to be computed over the whole
//! archive, and pulling must not take longer for being checked.
//!
//! Directories come before what is in them, names in the order of their bytes, so that two listings can be compared
//! while they are read. Ids are those on disk. What depends on the file system is left out: sizes and link counts of
//! directories. Every field is free of blanks; what is not plain in it is written `\xNN`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use blake3::Hash;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use rustix::fs::{fgetxattr, flistxattr};

use super::protocol::Fault;
use super::{remove, tree};
use crate::host::idmap::IdMap;
use crate::image::reference::Digest;

/// Deeper than any layer is; each level keeps a directory open.
const DEPTH_MAX: usize = 500;
/// Fast enough to cost nothing beside hashing; most of a listing is digests anyway.
const COMPRESSION: i32 = 1;

/// Files that were just written, by inode.
pub type Contents = HashMap<u64, Content>;

/// What is known of a file without reading it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Its digest (BLAKE3).
    pub digest: Hash,
    /// Whether it has no extended attributes but the host's labels.
    pub bare: bool,
}

/// Bytes of a [`Content`] in [`save`]: inode, digest, bare or not.
const SAVED: usize = 8 + blake3::OUT_LEN + 1;

/// Notes what is known for the process that lists the tree later.
///
/// # Errors
/// When the file cannot be written.
pub fn save(contents: &Contents, file: File) -> Result<(), Fault> {
    let mut file = io::BufWriter::new(file);
    let mut all = contents.iter();
    all.try_for_each(|(inode, content)| {
        file.write_all(&inode.to_le_bytes())?;
        file.write_all(content.digest.as_bytes())?;
        file.write_all(&[u8::from(content.bare)])
    })
    .and_then(|()| file.flush())
    .map_err(unwritable)
}

/// What [`save`] has noted.
///
/// # Errors
/// When the file cannot be read, or is cut off.
pub fn load(file: File) -> Result<Contents, Fault> {
    let unreadable = |e: io::Error| {
        Fault::host("read what is known of a layer's files", e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    };
    let length = file.metadata().map_err(unreadable)?.len();
    let mut file = io::BufReader::new(file);
    let mut contents = Contents::new();
    for _ in 0..length / SAVED as u64 {
        let (mut inode, mut digest, mut bare) = ([0; 8], [0; blake3::OUT_LEN], [0]);
        file.read_exact(&mut inode)
            .and_then(|()| file.read_exact(&mut digest))
            .and_then(|()| file.read_exact(&mut bare))
            .map_err(unreadable)?;
        contents.insert(u64::from_le_bytes(inode), Content { digest: Hash::from_bytes(digest), bare: bare == [1] });
    }
    Ok(contents)
}

/// Where a listing goes, packed.
pub type Sink = zstd::stream::write::Encoder<'static, io::BufWriter<File>>;

/// Lists the tree below `root` into `file`; contents that are not known yet are read.
///
/// # Errors
/// When something in the tree cannot be read, naming it, or the listing cannot be written.
pub fn write(root: &OwnedFd, file: File, contents: &Contents, ids: &IdMap) -> Result<(), Fault> {
    let sink = zstd::stream::write::Encoder::new(io::BufWriter::new(file), COMPRESSION).map_err(unwritable)?;
    let mut lister = Lister { sink, contents, ids, seen: HashMap::new(), path: Vec::new(), buffer: vec![0; 256 << 10] };
    let stat = fstat(root).map_err(|e| Fault::host("look at the tree", e))?;
    lister.directory(root, &stat, 0)?;
    lister.sink.finish().and_then(|mut rest| rest.flush()).map_err(unwritable)
}

struct Lister<'a> {
    sink: Sink,
    contents: &'a Contents,
    ids: &'a IdMap,
    /// The first path of each file with several.
    seen: HashMap<(u64, u64), Vec<u8>>,
    path: Vec<u8>,
    buffer: Vec<u8>,
}

impl Lister<'_> {
    fn directory(&mut self, fd: &OwnedFd, stat: &FileStat, depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::refused("directories nested deeper than any layer has them").at(&self.path));
        }
        let attributes = attributes(fd).map_err(|e| self.unreadable(e))?;
        self.line("d", stat, b"-", &attributes)?;
        let mut names = remove::names(fd).map_err(|fault| fault.at(&self.path))?;
        names.sort();
        for name in names {
            let length = self.path.len();
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            self.entry(fd, OsStr::from_bytes(&name), depth)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, parent: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), Fault> {
        let Some(stat) = tree::look(parent, name.as_bytes()).map_err(|fault| fault.at(&self.path))? else {
            return Err(Fault::refused("vanished while it was looked at").at(&self.path));
        };
        let kind = tree::kind(&stat);
        if kind == SFlag::S_IFDIR {
            let fd = tree::open_dir(parent, name).map_err(|e| self.unreadable(e))?;
            return self.directory(&fd, &stat, depth + 1);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.seen.get(&(stat.st_dev, stat.st_ino)) {
                let line = format!("h 0 - - 0 0 0.0 {} - {}\n", plain(first), plain(&self.path));
                return self.sink.write_all(line.as_bytes()).map_err(unwritable);
            }
            self.seen.insert((stat.st_dev, stat.st_ino), self.path.clone());
        }
        match kind {
            SFlag::S_IFREG => {
                let known = self.contents.get(&stat.st_ino).copied();
                if let Some(Content { digest, bare: true }) = known {
                    return self.line("f", &stat, digest.to_hex().as_bytes(), "-");
                }
                // Should a pipe take the file's place meanwhile, opening must not wait for it.
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(parent, name, flags, Mode::empty()).map_err(|e| self.unreadable(e))?);
                let content = match known {
                    Some(known) => known.digest,
                    None => self.hash(&mut file)?,
                };
                let attributes = attributes(&file).map_err(|e| self.unreadable(e))?;
                self.line("f", &stat, content.to_hex().as_bytes(), &attributes)
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(parent, name).map_err(|e| self.unreadable(e))?;
                self.line("l", &stat, plain(target.as_bytes()).as_bytes(), "-")
            }
            SFlag::S_IFIFO => self.line("p", &stat, b"-", "-"),
            SFlag::S_IFSOCK => self.line("s", &stat, b"-", "-"),
            SFlag::S_IFBLK => self.line("b", &stat, stat.st_rdev.to_string().as_bytes(), "-"),
            _ => self.line("c", &stat, stat.st_rdev.to_string().as_bytes(), "-"),
        }
    }

    fn hash(&mut self, file: &mut File) -> Result<Hash, Fault> {
        let mut hasher = blake3::Hasher::new();
        loop {
            match file.read(&mut self.buffer) {
                Ok(0) => return Ok(hasher.finalize()),
                Ok(n) => {
                    hasher.update(self.buffer.get(..n).unwrap_or_default());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.unreadable(e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))),
            }
        }
    }

    fn line(&mut self, kind: &str, stat: &FileStat, content: &[u8], attributes: &str) -> Result<(), Fault> {
        let (links, size) = if kind == "d" { (0, 0) } else { (stat.st_nlink, stat.st_size) };
        let id = |outside: Option<u32>, inside: u32| match outside {
            Some(id) => id.to_string(),
            None => format!("unmapped-{inside}"),
        };
        let user = id(self.ids.uid_outside(stat.st_uid), stat.st_uid);
        let group = id(self.ids.gid_outside(stat.st_gid), stat.st_gid);
        let (mode, seconds, nanoseconds) = (stat.st_mode & 0o7777, stat.st_mtime, stat.st_mtime_nsec);
        let sink = &mut self.sink;
        let head = format!("{kind} {mode:o} {user} {group} {links} {size} {seconds}.{nanoseconds} ");
        let path = if self.path.is_empty() { ".".to_owned() } else { plain(&self.path) };
        sink.write_all(head.as_bytes())
            .and_then(|()| sink.write_all(content))
            .and_then(|()| sink.write_all(format!(" {attributes} {path}\n").as_bytes()))
            .map_err(unwritable)
    }

    fn unreadable(&self, e: Errno) -> Fault {
        Fault::new(super::protocol::FaultKind::Host, format!("cannot be read: {}", e.desc())).at(&self.path)
    }
}

/// The extended attributes: the user's own with their values; of others the names, since values of file capabilities
/// and access lists look different from another user namespace. Labels are the host's and change with its policy.
///
/// # Errors
/// When they cannot be read.
pub fn attributes(file: impl AsFd) -> Result<String, Errno> {
    let raw = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
    // Most files have none: a small buffer first.
    let mut names = vec![0_u8; 256];
    let length = match flistxattr(&file, names.as_mut_slice()) {
        Err(rustix::io::Errno::RANGE) => {
            names.resize(64 << 10, 0);
            flistxattr(&file, names.as_mut_slice())
        }
        other => other,
    };
    let length = match length {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok("-".to_owned()),
        Ok(length) => length,
        Err(e) => return Err(raw(e)),
    };
    let mut shown = Vec::new();
    for name in names.get(..length).unwrap_or_default().split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"user.") {
            let mut value = vec![0_u8; 64 << 10];
            let length = fgetxattr(&file, OsStr::from_bytes(name), value.as_mut_slice()).map_err(raw)?;
            let value = value.get(..length).unwrap_or_default();
            let value = if length > 64 { Digest::of(value).to_string() } else { plain(value) };
            shown.push(format!("{}={value}", plain(name)));
        } else if !name.starts_with(b"security.") || name == b"security.capability" {
            shown.push(plain(name));
        }
    }
    shown.sort();
    Ok(if shown.is_empty() { "-".to_owned() } else { shown.join(",") })
}

/// Bytes without blanks, commas, equals signs and backslashes: these, and what is not plain ASCII, as `\xNN`.
fn plain(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\\' | b',' | b'=' => {}
            b'!'..=b'~' => {
                text.push(char::from(byte));
                continue;
            }
            _ => {}
        }
        // Writing to a string cannot fail.
        write!(text, "\\x{byte:02x}").ok();
    }
    text
}

fn unwritable(e: io::Error) -> Fault {
    Fault::host("write the layer's listing", e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}
