//! Directories by descriptor.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use crate::error::{Error, Kind, Result, Stage};

/// Opens a directory: `to_read` it, without following a link at its end; else as a place in which names are looked up.
///
/// # Errors
/// The kernel's, naming the path.
pub fn open_directory(path: &Path, to_read: bool) -> Result<OwnedFd> {
    let access = if to_read { OFlag::O_RDONLY | OFlag::O_NOFOLLOW } else { OFlag::O_PATH };
    let how = OpenHow::new()
        .flags(access | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(AT_FDCWD, path, how)
        .map_err(|e| Error::new(Stage::Run, Kind::Failed, format!("cannot open {}", path.display())).because(e.desc()))
}
