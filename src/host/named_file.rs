//! Files that a caller names on a command line, opened with the rights that this process has now.
//!
//! Takes paths; gives files to read from and to write to; trusts the kernel for what was opened; refuses what would keep it waiting
//! before a byte has moved, and what is more than bytes (a named pipe that nobody opens, a device, a directory).

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, SFlag, fstat};

/// The file system of pipes without a name (statfs(2), `PIPEFS_MAGIC`), which a shell gives as `<(command)`.
const PIPEFS: u64 = 0x5049_5045;

/// Opens a regular file for reading, or a pipe of the caller's shell, which has a writer already.
///
/// # Errors
/// The kernel's, and when it is anything else.
pub fn to_read(path: &Path) -> Result<File> {
    let file = waits(open(path, OFlag::O_RDONLY | IMMEDIATELY, Mode::empty())?.into())?;
    match SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Ok(file),
        SFlag::S_IFIFO if rustix::fs::fstatfs(file.as_fd())?.f_type.cast_unsigned() == PIPEFS => Ok(file),
        _ => Err(Error::other("it is not a regular file")),
    }
}

/// Opens a file for writing, new or emptied, or what somebody reads already: a pipe, a terminal.
///
/// # Errors
/// The kernel's: ENXIO for a named pipe that nobody reads (fifo(7)).
pub fn to_write(path: &Path) -> Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | IMMEDIATELY;
    waits(open(path, flags, Mode::from_bits_truncate(0o666))?.into())
}

/// Without waiting for the other end of a pipe, and without a terminal becoming this process's own (open(2)).
const IMMEDIATELY: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// Reads and writes wait again. The open file is this process's alone.
fn waits(file: File) -> Result<File> {
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}
