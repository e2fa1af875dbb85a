//! Layers as one tree, as overlayfs shows them; for reading.
//!
//! Takes layers, base first; gives what a path is in all of them together.
//! Trusts that they were unpacked by the same rules: whiteouts and opaque directories are overlayfs's.
//! Refuses chains of links that do not end.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{FileStat, SFlag};

use super::plan::Parts;
use super::protocol::Fault;
use super::tree::{self, Below, open_plain};
use super::xattrs;

/// As many links as the kernel follows (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// The layers below one.
#[derive(Debug)]
pub struct Merged<'a>(&'a [OwnedFd]);

/// The same, with descriptors of its own.
#[derive(Debug)]
pub struct LayersBelow(Vec<OwnedFd>);

impl LayersBelow {
    /// The layers `lower`, base first.
    pub fn new(lower: Vec<OwnedFd>) -> Self {
        Self(lower)
    }
}

impl Below for LayersBelow {
    fn link(&self, path: &[Vec<u8>]) -> Result<Option<Vec<u8>>, Fault> {
        match Merged::new(&self.0).look(path)? {
            Found::Link(target) => Ok(Some(target)),
            Found::Directory(_) | Found::Other(..) | Found::Nothing => Ok(None),
        }
    }
}

/// What a path is.
#[derive(Debug)]
pub enum Found {
    /// A directory; the uppermost one, whose metadata count.
    Directory(OwnedFd),
    /// A symbolic link, with its text.
    Link(Vec<u8>),
    /// Something else: the directory that holds it, and what it is.
    Other(OwnedFd, FileStat),
    /// There is none.
    Nothing,
}

impl<'a> Merged<'a> {
    /// The layers `lower`, base first.
    pub fn new(lower: &'a [OwnedFd]) -> Self {
        Self(lower)
    }

    /// What `path` is; its directories must be real (no links on the way).
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn look(&self, path: &[Vec<u8>]) -> Result<Found, Fault> {
        let fail = |e| Fault::host("look at a layer below", e);
        let Some((name, parent)) = path.split_last() else {
            return match self.0.last() {
                Some(top) => Ok(Found::Directory(open_plain(top, b"").map_err(fail)?)),
                None => Ok(Found::Nothing),
            };
        };
        for layer in self.0.iter().rev() {
            if let Ok(directory) = open_plain(layer, &tree::join(parent))
                && let Some(stat) = tree::look(&directory, name)?
            {
                return match tree::kind(&stat) {
                    _ if tree::is_whiteout(&stat) => Ok(Found::Nothing),
                    SFlag::S_IFDIR => {
                        Ok(Found::Directory(tree::open_dir(&directory, OsStr::from_bytes(name)).map_err(fail)?))
                    }
                    SFlag::S_IFLNK => {
                        let text = readlinkat(&directory, OsStr::from_bytes(name)).map_err(fail)?;
                        Ok(Found::Link(text.as_bytes().to_vec()))
                    }
                    _ => Ok(Found::Other(directory, stat)),
                };
            }
            if Self::hides(layer, parent)? {
                break;
            }
        }
        Ok(Found::Nothing)
    }

    /// Whether a layer hides all that lies below it at `path`: it has something else there, or an opaque directory.
    fn hides(layer: &OwnedFd, path: &[Vec<u8>]) -> Result<bool, Fault> {
        for length in 1..=path.len() {
            let prefix = path.get(..length).unwrap_or_default();
            match open_plain(layer, &tree::join(prefix)) {
                Ok(fd) => {
                    if xattrs::is_opaque(&fd).map_err(|e| Fault::host("read an extended attribute", e))? {
                        return Ok(true);
                    }
                }
                Err(Errno::ENOENT) => return Ok(false),
                Err(Errno::ENOTDIR | Errno::ELOOP) => return Ok(true),
                Err(e) => return Err(Fault::host("look at a layer below", e)),
            }
        }
        Ok(false)
    }

    /// The real path of the directory that `path` leads to; where a part does not exist, it is taken as it stands.
    ///
    /// # Errors
    /// When links do not end.
    pub fn resolve(&self, path: &[Vec<u8>]) -> Result<Option<Parts>, Fault> {
        let mut todo: Parts = path.iter().rev().cloned().collect();
        let mut at = Parts::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(part),
            }
            match self.look(&at)? {
                Found::Directory(_) | Found::Nothing => {}
                Found::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Fault::refused("symbolic links that lead in a circle"));
                    }
                    at.pop();
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    todo.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
                }
                Found::Other(..) => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// As [`Self::resolve`], but the last part is not followed.
    ///
    /// # Errors
    /// When links do not end.
    pub fn resolve_parent(&self, path: &[Vec<u8>]) -> Result<Option<Parts>, Fault> {
        let Some((name, parent)) = path.split_last() else { return Ok(None) };
        let Some(mut real) = self.resolve(parent)? else { return Ok(None) };
        real.push(name.clone());
        Ok(Some(real))
    }
}
