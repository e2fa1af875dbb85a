//! Terminals (ioctl_tty(2), pty(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, own};

/// The major number of the first 256 pseudo-terminals of a devpts; the next ones follow it (Linux' list of devices).
const PTY_MAJOR: u64 = 136;
const MINORS: u64 = 256;

/// Makes the terminal on `fd` this session's controlling terminal.
///
/// # Errors
/// The kernel's.
pub fn set_controlling(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// The size of the terminal on `fd`, if it is one.
pub fn size(fd: BorrowedFd<'_>) -> Option<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills the struct.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }.into()).ok().map(|_| size)
}

/// Sets the size of the terminal on `fd`; the kernel tells its foreground processes (SIGWINCH).
///
/// # Errors
/// The kernel's.
pub fn set_size(fd: BorrowedFd<'_>, size: &libc::winsize) -> io::Result<()> {
    // SAFETY: TIOCSWINSZ reads the struct.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(size)) }.into()).map(drop)
}

/// The other end of the pseudo-terminal whose master is `master`, by no name that could lead elsewhere (TIOCGPTPEER).
///
/// # Errors
/// The kernel's.
pub fn peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags and returns a new descriptor.
    own(check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())?)
}

/// Lets the other end of `master` be opened (unlockpt(3)).
///
/// # Errors
/// The kernel's.
pub fn unlock(master: BorrowedFd<'_>) -> io::Result<()> {
    let off: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads the number.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const off) }.into()).map(drop)
}

/// Which device the other end of `master` is, as stat(2) would number it.
///
/// # Errors
/// The kernel's: `ENOTTY` when it is no master.
pub fn peer_device(master: BorrowedFd<'_>) -> io::Result<u64> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN fills the number.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) }.into())?;
    let number = u64::from(number);
    Ok(nix::sys::stat::makedev(PTY_MAJOR + number / MINORS, number % MINORS))
}

/// Makes this process group the foreground one of its controlling terminal, where it has one.
pub fn take_foreground() {
    let stdin = io::stdin();
    if nix::unistd::isatty(&stdin).unwrap_or(false) {
        // ENOTTY: a terminal, but not this session's; then there is no foreground to take.
        nix::unistd::tcsetpgrp(&stdin, nix::unistd::getpgrp()).ok();
    }
}
