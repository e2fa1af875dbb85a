//! Extended attributes that are kept.
//!
//! Takes the attributes of an entry; gives those of them that are the user's own, on the open file.
//! Trusts nothing: an attribute can grant capabilities, label files for another host, or steer overlayfs.
//! Refuses by leaving out: everything but `user.*`, and of those what a program gives a meaning.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;

/// The attribute by which overlayfs, mounted with `userxattr`, knows an opaque directory.
pub const OPAQUE: &str = "user.overlay.opaque";

/// Name spaces below `user.` that steer overlayfs or a container tool.
const STEERING: [&[u8]; 4] =
    [b"user.overlay.", b"user.containers.", b"user.rootlesscontainers", b"user.fuseoverlayfs."];

/// Whether an attribute of an image is kept.
pub fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") && name.len() <= 255 && !STEERING.iter().any(|prefix| name.starts_with(prefix))
}

/// Sets an attribute; false where the file system has none, which is no reason to refuse an image.
///
/// # Errors
/// When the file system is full or fails.
pub fn set(file: impl AsFd, name: &[u8], value: &[u8]) -> Result<bool, nix::errno::Errno> {
    match fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP | Errno::PERM | Errno::TOOBIG | Errno::RANGE) => Ok(false),
        Err(e) => Err(nix::errno::Errno::from_raw(e.raw_os_error())),
    }
}

/// Copies the kept attributes of `from` to `to`.
///
/// # Errors
/// When one cannot be read or set.
pub fn copy(from: impl AsFd, to: impl AsFd) -> Result<(), nix::errno::Errno> {
    let raw = |e: Errno| nix::errno::Errno::from_raw(e.raw_os_error());
    let mut names = vec![0_u8; 64 << 10];
    let length = match flistxattr(&from, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(raw(e)),
    };
    names.truncate(length);
    let mut value = vec![0_u8; 64 << 10];
    for name in names.split(|&b| b == 0).filter(|name| is_kept(name)) {
        let length = fgetxattr(&from, OsStr::from_bytes(name), value.as_mut_slice()).map_err(raw)?;
        set(&to, name, value.get(..length).unwrap_or_default())?;
    }
    Ok(())
}

/// Whether overlayfs hides what lies below this directory.
///
/// # Errors
/// When the attribute cannot be read.
pub fn is_opaque(directory: impl AsFd) -> Result<bool, nix::errno::Errno> {
    let mut value = [0_u8; 8];
    match fgetxattr(directory, OPAQUE, value.as_mut_slice()) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(e) => Err(nix::errno::Errno::from_raw(e.raw_os_error())),
    }
}
