//! Directories of the new layer: found, made, remembered.
//!
//! Takes clean paths; gives descriptors of the directories that hold their last parts.
//! Trusts the kernel's `openat2` with `RESOLVE_IN_ROOT`, and that nobody else writes below the root.
//! Refuses chains of links that do not end, and trees deeper than the limit.
//!
//! A path is resolved as the container would see it: a symbolic link leads within the root, `/` being the root itself.
//! The last part is never followed. The *real path* of a directory (no links in it) is its identity in all bookkeeping.

use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use super::plan::Parts;
use super::protocol::Fault;
use super::xattrs;

/// As many links as the kernel follows (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;
/// How many directories stay open.
const CACHE_MAX: usize = 64;

/// A directory: where it really is, and open for reading.
///
/// Working in a directory changes its modification time; it is given back when the directory is closed.
#[derive(Debug)]
pub struct Dir {
    /// Its path without links.
    pub real: Parts,
    /// The open directory.
    pub fd: OwnedFd,
    /// Whether files made in it inherit its group, and directories this habit (`S_ISGID`).
    pub inherits: bool,
    mtime: Cell<TimeSpec>,
}

impl Dir {
    fn new(real: Parts, fd: OwnedFd) -> Result<Self, Fault> {
        let stat = fstat(&fd).map_err(|e| Fault::host("look at a directory", e))?;
        let mtime = Cell::new(TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec));
        Ok(Self { real, fd, inherits: stat.st_mode & 0o2000 != 0, mtime })
    }

    fn give_back_time(&self) -> Result<(), Fault> {
        let mtime = self.mtime.get();
        futimens(&self.fd, &mtime, &mtime).map_err(|e| Fault::host("set a directory's times", e))
    }
}

/// What lies below the new layer.
pub trait Below: std::fmt::Debug {
    /// The text of the symbolic link at `path`, whose directories are real (no links on the way); none if there is no link.
    ///
    /// # Errors
    /// When a layer cannot be read.
    fn link(&self, path: &[Vec<u8>]) -> Result<Option<Vec<u8>>, Fault>;
}

/// The new layer's directories.
#[derive(Debug)]
pub struct Tree {
    root: Rc<Dir>,
    /// Layers whose links are followed, where they are known already.
    below: Option<Box<dyn Below>>,
    cache: HashMap<Parts, Rc<Dir>>,
    last: Option<(Parts, Rc<Dir>)>,
    depth: usize,
    /// Directories that were made because something lies in them.
    made: Vec<(Parts, Made)>,
}

/// How a directory came to be made on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// The layer is silent about the name: a layer below may have it.
    Implied,
    /// The layer has removed or replaced what was there: it is new.
    Fresh,
}

impl Tree {
    /// The tree below `root`, at most `depth` directories deep.
    ///
    /// # Errors
    /// When the root cannot be looked at.
    pub fn new(root: OwnedFd, depth: usize) -> Result<Self, Fault> {
        let root = Dir::new(Vec::new(), root)?;
        root.mtime.set(TimeSpec::new(0, 0));
        Ok(Self { root: Rc::new(root), below: None, cache: HashMap::new(), last: None, depth, made: Vec::new() })
    }

    /// The same, on top of layers whose links are followed where the new layer has nothing of the name.
    #[must_use]
    pub fn above(self, below: Box<dyn Below>) -> Self {
        Self { below: Some(below), ..self }
    }

    /// The text of the link that a path has in the layers below, unless this layer hides them there.
    fn link_below(&self, at: &[(Vec<u8>, OwnedFd)], name: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let Some(below) = &self.below else { return Ok(None) };
        for fd in at.iter().map(|(_, fd)| fd.as_fd()).chain([self.root()]) {
            if xattrs::is_opaque(fd).map_err(|e| Fault::host("read an extended attribute", e))? {
                return Ok(None);
            }
        }
        let path: Parts = at.iter().map(|(part, _)| part.clone()).chain([name.to_vec()]).collect();
        below.link(&path)
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.fd.as_fd()
    }

    /// The directories made on the way since the last call.
    pub fn take_made(&mut self) -> Vec<(Parts, Made)> {
        std::mem::take(&mut self.made)
    }

    /// Closes all directories: something that a path led through was removed, or the work is done.
    ///
    /// # Errors
    /// When a directory cannot have its time back.
    pub fn close(&mut self) -> Result<(), Fault> {
        self.last = None;
        self.cache.drain().try_for_each(|(_, dir)| dir.give_back_time())?;
        self.root.give_back_time()
    }

    /// Closes all directories but one, which is about to be worked in.
    ///
    /// # Errors
    /// As [`Tree::close`].
    pub fn close_others(&mut self, dir: &Rc<Dir>) -> Result<(), Fault> {
        self.close()?;
        if !dir.real.is_empty() {
            self.cache.insert(dir.real.clone(), Rc::clone(dir));
        }
        Ok(())
    }

    /// Tells that the directory at `real` now has this time.
    pub fn has_time(&self, real: &[Vec<u8>], mtime: TimeSpec) {
        for dir in self.cache.values().chain([&self.root]).filter(|dir| dir.real == real) {
            dir.mtime.set(mtime);
        }
    }

    /// The directory at `path`, made with its parents where it does not exist.
    ///
    /// # Errors
    /// When the tree gets too deep, links do not end, or the file system fails.
    pub fn directory(&mut self, path: &[Vec<u8>]) -> Result<Rc<Dir>, Fault> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((known, dir)) = &self.last
            && known == path
        {
            return Ok(Rc::clone(dir));
        }
        let dir = match self.cache.get(path) {
            Some(dir) => Rc::clone(dir),
            None => {
                let dir = self.open_or_make(path)?;
                // By another name, perhaps: then that one knows the time it had.
                let known = self.cache.values().chain([&self.root]).find(|known| known.real == dir.real);
                let dir = known.map(Rc::clone).unwrap_or_else(|| Rc::new(dir));
                if self.cache.len() >= CACHE_MAX {
                    self.close()?;
                }
                self.cache.insert(path.to_vec(), Rc::clone(&dir));
                dir
            }
        };
        self.last = Some((path.to_vec(), Rc::clone(&dir)));
        Ok(dir)
    }

    fn open_or_make(&mut self, path: &[Vec<u8>]) -> Result<Dir, Fault> {
        // Without links the name is the real path, and one call is enough.
        match open_plain(self.root(), &join(path)) {
            Ok(fd) => return Dir::new(path.to_vec(), fd),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(e) => return Err(Fault::host("open a directory", e)),
        }
        self.walk(path, true)?.ok_or_else(|| Fault::host("make a directory", Errno::ENOENT))
    }

    /// The directory at `path`, if it exists; nothing is made.
    ///
    /// # Errors
    /// When links do not end, or the file system fails.
    pub fn existing(&mut self, path: &[Vec<u8>]) -> Result<Option<Dir>, Fault> {
        match open_plain(self.root(), &join(path)) {
            Ok(fd) => Dir::new(path.to_vec(), fd).map(Some),
            Err(Errno::ENOENT) if self.below.is_some() => self.walk(path, false),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(Errno::ELOOP) => self.walk(path, false),
            Err(e) => Err(Fault::host("open a directory", e)),
        }
    }

    /// Part by part, as the kernel would, but within the root and with every missing directory made.
    fn walk(&mut self, path: &[Vec<u8>], make: bool) -> Result<Option<Dir>, Fault> {
        let mut todo: Vec<Vec<u8>> = path.iter().rev().cloned().collect();
        let mut at: Vec<(Vec<u8>, OwnedFd)> = Vec::new();
        let mut made = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            if at.len() >= self.depth {
                return Err(Fault::refused(format!("directories nested more than {} deep", self.depth)));
            }
            let here = at.last().map_or(self.root(), |(_, fd)| fd.as_fd());
            let name = std::ffi::OsStr::from_bytes(&part);
            let found = match open_dir(here, name) {
                Ok(fd) => Some(fd),
                Err(Errno::ENOENT) => match self.link_below(&at, &part)? {
                    Some(target) => {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(Fault::refused("symbolic links that lead in a circle"));
                        }
                        follow(&target, &mut at, &mut todo);
                        continue;
                    }
                    None if !make => return Ok(None),
                    None => None,
                },
                Err(Errno::ENOTDIR | Errno::ELOOP) => match readlinkat(here, name) {
                    Ok(target) => {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(Fault::refused("symbolic links that lead in a circle"));
                        }
                        follow(target.as_bytes(), &mut at, &mut todo);
                        continue;
                    }
                    Err(_) if !make => return Ok(None),
                    Err(_) => {
                        // What is no directory gives way to one, as when the layers are applied in turn.
                        let fail = |e| Fault::host("replace a file", e);
                        let before = fstat(here).map_err(fail)?;
                        unlinkat(here, name, UnlinkatFlags::NoRemoveDir).map_err(fail)?;
                        let mtime = TimeSpec::new(before.st_mtime, before.st_mtime_nsec);
                        futimens(here, &mtime, &mtime).map_err(fail)?;
                        let fd = make_dir(here, name)?;
                        let mut real: Parts = at.iter().map(|(name, _)| name.clone()).collect();
                        real.push(part.clone());
                        made.push((real, Made::Fresh));
                        Some(fd)
                    }
                },
                Err(e) => return Err(Fault::host("open a directory", e)),
            };
            let fd = match found {
                Some(fd) => fd,
                None => {
                    let fd = make_dir(here, name)?;
                    let mut real: Parts = at.iter().map(|(name, _)| name.clone()).collect();
                    real.push(part.clone());
                    made.push((real, Made::Implied));
                    fd
                }
            };
            at.push((part, fd));
        }
        self.made.append(&mut made);
        let real: Parts = at.iter().map(|(name, _)| name.clone()).collect();
        match at.pop() {
            Some((_, fd)) => Dir::new(real, fd).map(Some),
            None => {
                let fd = self.root.fd.try_clone().map_err(|_| Fault::host("open the root", Errno::EMFILE))?;
                Dir::new(real, fd).map(Some)
            }
        }
    }
}

/// Goes on where the link with this text leads, within the root.
fn follow(target: &[u8], at: &mut Vec<(Vec<u8>, OwnedFd)>, todo: &mut Vec<Vec<u8>>) {
    if target.starts_with(b"/") {
        at.clear();
    }
    todo.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
}

/// A directory below `root` whose path has no links in it.
///
/// # Errors
/// `ELOOP` when there is a link in the path; otherwise as `openat2`.
pub fn open_plain(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        return open_dir(root, std::ffi::OsStr::new("."));
    }
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// The directory `name` in `parent`, not through a link.
///
/// # Errors
/// As `openat`.
pub fn open_dir(parent: impl AsFd, name: &std::ffi::OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Makes a directory that the layer does not list: root's, 0755, 1970; the parent's time stays.
fn make_dir(parent: BorrowedFd<'_>, name: &std::ffi::OsStr) -> Result<OwnedFd, Fault> {
    let fail = |e| Fault::host("make a directory", e);
    let before = fstat(parent).map_err(fail)?;
    mkdirat(parent, name, Mode::from_bits_truncate(0o755)).map_err(fail)?;
    let fd = open_dir(parent, name).map_err(fail)?;
    if before.st_mode & 0o2000 != 0 {
        fchown(&fd, Some(Uid::from_raw(0)), Some(Gid::from_raw(0))).map_err(fail)?;
        fchmod(&fd, Mode::from_bits_truncate(0o755)).map_err(fail)?;
    }
    let epoch = TimeSpec::new(0, 0);
    futimens(&fd, &epoch, &epoch).map_err(fail)?;
    let mtime = TimeSpec::new(before.st_mtime, before.st_mtime_nsec);
    futimens(parent, &mtime, &mtime).map_err(fail)?;
    Ok(fd)
}

/// What `name` in `parent` is, if it exists; a link is not followed.
///
/// # Errors
/// When the file system fails.
pub fn look(parent: impl AsFd, name: &[u8]) -> Result<Option<FileStat>, Fault> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(e) => Err(Fault::host("look at a file", e)),
    }
}

/// The file type in a `stat`.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Whether this is a whiteout: the character device 0:0. Only `ces` itself makes such files.
pub fn is_whiteout(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFCHR && stat.st_rdev == libc::makedev(0, 0)
}

/// A path of parts as the kernel takes it.
pub fn join(path: &[Vec<u8>]) -> Vec<u8> {
    path.join(&b'/')
}
