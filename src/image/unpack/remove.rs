//! Removing trees.
//!
//! Takes a directory and a name in it; gives nothing.
//! Trusts that nobody else works in the tree.
//! Refuses to follow links: they are removed themselves.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::protocol::Fault;
use super::tree;

/// Removes `name` in `parent` and everything below it; links are removed, never followed.
///
/// # Errors
/// When the file system refuses.
pub fn remove_tree(parent: impl AsFd, name: &OsStr) -> Result<(), Fault> {
    let fail = |e| Fault::host("remove a directory", e);
    match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(e) => return Err(fail(e)),
    }
    let fd = tree::open_dir(&parent, name).map_err(fail)?;
    remove_content(fd)?;
    unlinkat(&parent, name, UnlinkatFlags::RemoveDir).map_err(fail)
}

/// Removes everything in `directory`.
///
/// # Errors
/// When the file system refuses.
pub fn remove_content(directory: impl AsFd) -> Result<(), Fault> {
    names(&directory)?.iter().try_for_each(|name| remove_tree(&directory, OsStr::from_bytes(name)))
}

/// The names in `directory`.
///
/// # Errors
/// When it cannot be listed.
pub fn names(directory: impl AsFd) -> Result<Vec<Vec<u8>>, Fault> {
    let fail = |e| Fault::host("list a directory", e);
    let again = tree::open_dir(&directory, OsStr::new(".")).map_err(fail)?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again).map_err(fail)?.iter() {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
