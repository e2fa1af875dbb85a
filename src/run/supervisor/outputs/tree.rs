//! A tree of any depth, entry by entry.
//!
//! Takes the descriptor of a directory and a visitor; gives it each entry once; trusts no name: a directory that was closed for
//! want of descriptors is opened again from the one below it, and only if it is the same inode; refuses nothing: what fails is
//! that entry's, and the walk goes on.
//!
//! Visitors open and look at entries through `crate::host::same_mount` alone: what was mounted in the tree is not asked anything.
//!
//! Memory and descriptors are bounded: names are read some hundreds at a time, one at a time where many directories lie one in
//! the other; of a chain of directories the first few and the last few are open; of each, a few words are held.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use rustix::fs::{FileType, RawDir, SeekFrom};

use crate::host::same_mount;
use crate::run::supervisor::outputs::LISTED;

/// Names that are read at once, and how many may be held of all directories together.
const AT_ONCE: usize = 512;
const HELD: usize = 8192;
/// Bytes that the kernel may fill with names in one call: many, or at least one.
const BUFFER: usize = 32 << 10;
const SMALL_BUFFER: usize = 512;
/// Directories that stay open: the first, so that there is always a way back, and the last.
const OPEN_FIRST: usize = 16;
const OPEN_LAST: usize = 48;

/// Where an entry is.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// Its path below the top, exactly; of what is deeper than [`LISTED`], the path of the directory at that depth.
    pub path: &'a [u8],
    /// How many directories lie above it.
    pub depth: usize,
    /// The directory says that it is a regular file (readdir(3), `d_type`); it may be another by now.
    pub listed_as_file: bool,
}

impl<'a> At<'a> {
    /// A directory, or what of it could not be read.
    fn directory(path: &'a [u8], depth: usize) -> Self {
        Self { path, depth, listed_as_file: false }
    }
}

/// Who is shown the entries.
pub trait Visitor {
    /// The entry `name` of `dir`; gives the directory, open for reading, if it is one to be entered.
    ///
    /// # Errors
    /// The entry's own: it is told to [`failed`](Self::failed), and the walk goes on.
    fn entry(&mut self, dir: &OwnedFd, name: &CStr, at: At<'_>) -> nix::Result<Option<OwnedFd>>;

    /// What became of an entry, or of the rest of a directory, that could not be looked at.
    fn failed(&mut self, at: At<'_>, error: Errno);

    /// Whether to end before the end.
    fn is_over(&self) -> bool {
        false
    }
}

/// A name in a directory, and whether it is listed as a file's.
type Name = (CString, bool);

struct Frame {
    dir: Option<OwnedFd>,
    inode: (u64, u64),
    /// Where to read on.
    position: u64,
    names: Vec<Name>,
    read: bool,
    /// How long the path is without the names of this directory.
    path: u32,
}

impl Frame {
    fn of(dir: OwnedFd, path: usize) -> nix::Result<Self> {
        let inode = inode(&dir)?;
        let path = u32::try_from(path).unwrap_or(u32::MAX);
        Ok(Self { dir: Some(dir), inode, position: 0, names: Vec::new(), read: false, path })
    }
}

fn inode(dir: &OwnedFd) -> nix::Result<(u64, u64)> {
    fstat(dir).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Shows `visitor` everything below `top`.
pub fn walk(top: OwnedFd, visitor: &mut dyn Visitor) {
    let mut path: Vec<u8> = Vec::new();
    let mut held = 0_usize;
    let mut frames = match Frame::of(top, 0) {
        Ok(frame) => vec![frame],
        Err(e) => return visitor.failed(At::directory(&[], 0), e),
    };
    while !visitor.is_over() {
        let depth = frames.len().saturating_sub(1);
        let Some(frame) = frames.last_mut() else { return };
        path.truncate(usize::try_from(frame.path).unwrap_or(0));
        let Some(dir) = &frame.dir else { return };
        let Some((name, listed_as_file)) = frame.names.pop() else {
            if frame.read {
                leave(&mut frames, &path, visitor);
                continue;
            }
            let count = if held < HELD { AT_ONCE } else { 1 };
            match some_names(dir, &mut frame.position, count) {
                Ok(names) => {
                    frame.read = names.is_empty();
                    frame.names = names;
                    held = held.saturating_add(frame.names.len());
                }
                Err(e) => {
                    frame.read = true;
                    visitor.failed(At::directory(&path, depth), e);
                }
            }
            continue;
        };
        held = held.saturating_sub(1);
        if depth < LISTED {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
        }
        let at = At { path: &path, depth, listed_as_file };
        let entered =
            visitor.entry(dir, &name, at).and_then(|below| below.map(|below| Frame::of(below, path.len())).transpose());
        match entered {
            Ok(None) => {}
            Ok(Some(below)) => {
                frames.push(below);
                let closed = frames.len().checked_sub(OPEN_LAST + 1).filter(|at| *at >= OPEN_FIRST);
                if let Some(frame) = closed.and_then(|at| frames.get_mut(at)) {
                    frame.dir = None;
                }
            }
            Err(e) => visitor.failed(At { path: &path, depth, listed_as_file }, e),
        }
    }
}

/// Goes back to the directory above, which may have to be opened again.
fn leave(frames: &mut Vec<Frame>, path: &[u8], visitor: &mut dyn Visitor) {
    let Some(below) = frames.pop() else { return };
    let depth = frames.len();
    let Some(above) = frames.last_mut() else { return };
    if above.dir.is_some() {
        return;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let opened = below.dir.as_ref().ok_or(Errno::EBADF).and_then(|dir| same_mount::open(dir, c"..", flags));
    match opened.and_then(|dir| inode(&dir).map(|is| (dir, is))) {
        Ok((dir, is)) if is == above.inode => above.dir = Some(dir),
        // It was moved elsewhere meanwhile; what is left of those in between has no way to it any more.
        other => {
            visitor.failed(At::directory(path, depth), other.err().unwrap_or(Errno::ESTALE));
            while frames.last().is_some_and(|frame| frame.dir.is_none()) {
                frames.pop();
            }
        }
    }
}

/// The next names of a directory, the first one last; `position` moves on.
fn some_names(dir: &OwnedFd, position: &mut u64, count: usize) -> nix::Result<Vec<Name>> {
    let told = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
    rustix::fs::seek(dir, SeekFrom::Start(*position)).map_err(told)?;
    let mut names = Vec::new();
    let mut buffer = Vec::with_capacity(if count == 1 { SMALL_BUFFER } else { BUFFER });
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while names.len() < count {
        let Some(entry) = entries.next() else { break };
        let entry = entry.map_err(told)?;
        *position = entry.next_entry_cookie();
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type() == FileType::RegularFile));
        }
    }
    names.sort_by(|(a, _), (b, _)| b.cmp(a));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::openat;
    use nix::sys::stat::Mode;
    use std::collections::BTreeSet;
    use std::fs;

    #[derive(Default)]
    struct Seen(BTreeSet<Vec<u8>>, u64, usize, Vec<Errno>);

    impl Visitor for Seen {
        fn entry(&mut self, dir: &OwnedFd, name: &CStr, at: At<'_>) -> nix::Result<Option<OwnedFd>> {
            self.0.insert(at.path.to_vec());
            self.1 += 1;
            self.2 = self.2.max(at.depth);
            match openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()) {
                Ok(below) => Ok(Some(below)),
                Err(Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
                Err(e) => Err(e),
            }
        }

        fn failed(&mut self, _: At<'_>, error: Errno) {
            self.3.push(error);
        }
    }

    #[test]
    fn what_is_deep_or_wide_is_seen_once_with_few_descriptors() {
        let base = tempfile::tempdir().unwrap();
        let mut dir = OwnedFd::from(fs::File::open(base.path()).unwrap());
        for _ in 0..5000 {
            nix::sys::stat::mkdirat(&dir, c"d", Mode::S_IRWXU).unwrap();
            let file = OFlag::O_CREAT | OFlag::O_WRONLY;
            openat(&dir, c"a", file, Mode::S_IRWXU).unwrap();
            openat(&dir, c"z", file, Mode::S_IRWXU).unwrap();
            dir = openat(&dir, c"d", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        for n in 0..3000 {
            fs::create_dir(base.path().join(format!("w{n}"))).unwrap();
        }
        let mut seen = Seen::default();
        walk(fs::File::open(base.path()).unwrap().into(), &mut seen);
        assert_eq!((seen.1, seen.2, seen.3), (3 * 5000 + 3000, 4999, vec![]));
        assert!(seen.0.contains(b"d/d/d/z".as_slice()) && seen.0.contains(b"w2999".as_slice()));
        let top = OwnedFd::from(fs::File::open(base.path()).unwrap());
        crate::run::removal::content(&top, crate::run::removal::ALL).unwrap();
    }
}
