//! Pipes of ces's own making, which stand in the container for the caller's streams.
//!
//! Takes what the kernel says of a descriptor; gives pipes, the null device, and how a stream of the caller's can be written
//! to without waiting; trusts no descriptor of the caller's; refuses standard input that is more than bytes to read.
//!
//! A descriptor is more than what it was opened for: through `/proc/self/fd/1` a payload opens the caller's log for reading
//! and truncates it, from a directory it walks the host (openat(2)), over a socket it talks back. So none of the caller's
//! descriptors enters the container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, makedev};
use nix::unistd::{Gid, Uid, fchown, isatty, pipe2};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;
use crate::host::privilege::Root;

/// What a pipe holds, in bytes, where the kernel allows it (pipe(7), `/proc/sys/fs/pipe-user-pages-soft`): more than the
/// usual 64 KiB, so that writer, `ces` and reader wait for each other less often. As much as the kernel gives everyone
/// (`/proc/sys/fs/pipe-max-size`): on busy processors a quarter of it moves half as many bytes (`scripts/bench streams`).
const ROOM: i32 = 1024 * 1024;

/// How bytes are written to a stream without waiting for whoever reads it. The caller's descriptors are shared with the
/// caller's other programs, so `O_NONBLOCK` is never set on them (fcntl(2), "File status flags").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// A pipe, or a file that has a position: splice(2) takes its own flag for not waiting, and copies nothing to or from here.
    Splice,
    /// A file that is appended to, or a pipe of ces's own that does not wait.
    Plain,
    /// A socket: send(2) takes a flag for not waiting.
    Socket,
    /// A terminal or another device: a little at a time, once poll(2) says that there is room.
    Careful,
}

impl Sink {
    /// That of `fd`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self> {
        let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|e| fail("look at a stream", e))?;
        let appends = OFlag::from_bits_retain(flags).contains(OFlag::O_APPEND);
        Ok(match kind(&found(fd)?) {
            SFlag::S_IFIFO => Self::Splice,
            // To a file that is appended to there is no splice (splice(2), EINVAL).
            SFlag::S_IFREG if appends => Self::Plain,
            SFlag::S_IFREG => Self::Splice,
            SFlag::S_IFSOCK => Self::Socket,
            _ => Self::Careful,
        })
    }

    /// What serves where the file system knows no splice.
    pub fn without_splice(to: BorrowedFd<'_>) -> Self {
        if found(to).is_ok_and(|found| kind(&found) == SFlag::S_IFREG) { Self::Plain } else { Self::Careful }
    }
}

/// A pipe: where is read, where is written.
///
/// Anyone in the container may open it by name (`/dev/stdout`), whoever they have become since (gosu(1), su(1)): a pipe is
/// made with mode 0600, and opening it again asks for the inode's owner and mode. Nobody else comes that far, because the
/// name leads through a process that holds the pipe (proc(5), `/proc/PID/fd`).
///
/// # Errors
/// The kernel's.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("make a pipe", e))?;
    // EPERM: this user's pipes hold as much as they may; then it is a smaller one.
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(ROOM)).ok();
    fchmod(&write, Mode::from_bits_truncate(0o666)).map_err(|e| fail("open a pipe to the container", e))?;
    Ok((read, write))
}

/// Gives a pipe to `owner`, so that programs which look at the owner of their output find themselves; the null device stays
/// whose it is.
///
/// # Errors
/// The kernel's.
pub fn give(_: &Root, pipe: BorrowedFd<'_>, owner: &HostIds) -> Result<()> {
    give_here(pipe, Uid::from_raw(owner.uid), Gid::from_raw(owner.gid))
}

/// The same with ids as this process's user namespace numbers them, and with the power that it has there.
///
/// # Errors
/// The kernel's.
pub fn give_here(pipe: BorrowedFd<'_>, uid: Uid, gid: Gid) -> Result<()> {
    if !is_pipe(pipe) {
        return Ok(());
    }
    fchown(pipe, Some(uid), Some(gid)).map_err(|e| fail("give a pipe to the container's user", e))
}

/// Refuses standard input of which a payload could get more than the bytes it reads.
///
/// # Errors
/// For a directory, a block device, a socket and what has no name.
pub fn check_input(stdin: BorrowedFd<'_>) -> Result<()> {
    let what = match kind(&found(stdin)?) {
        SFlag::S_IFREG | SFlag::S_IFIFO | SFlag::S_IFCHR => return Ok(()),
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFBLK => "a block device",
        SFlag::S_IFSOCK => "a socket",
        _ => "no file, pipe or terminal",
    };
    let error = Error::new(Stage::Run, Kind::Usage, format!("standard input is {what}"));
    Err(error
        .because("standard input may be a file, a pipe or a terminal, and nothing else of the host")
        .hint("leave -i out, or pass the bytes on: cat FILE | ces run -i …"))
}

/// Whether something that came for a stream may be one: a pipe, or the null device.
///
/// # Errors
/// When it is anything else.
pub fn check_stream(stream: BorrowedFd<'_>) -> Result<()> {
    let stat = found(stream)?;
    if kind(&stat) == SFlag::S_IFIFO || is_null(&stat) {
        return Ok(());
    }
    Err(Error::new(Stage::Run, Kind::Hostile, "a stream is neither a pipe nor the null device")
        .hint("call ces exec, which makes pipes"))
}

/// Whether `fd` is the null device.
pub fn leads_nowhere(fd: BorrowedFd<'_>) -> bool {
    found(fd).is_ok_and(|stat| is_null(&stat))
}

/// Whether `fd` is a pipe, with a name or without.
pub fn is_pipe(fd: BorrowedFd<'_>) -> bool {
    found(fd).is_ok_and(|stat| kind(&stat) == SFlag::S_IFIFO)
}

/// Whether both are one file, opened alike (`2>&1`): then they share a pipe, and what is written comes in the order in which
/// it was.
pub fn are_one(stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> bool {
    let look = |fd: BorrowedFd<'_>| {
        let stat = found(fd).ok()?;
        Some((stat.st_dev, stat.st_ino, fcntl(fd, FcntlArg::F_GETFL).ok()?))
    };
    look(stdout).is_some_and(|one| look(stderr) == Some(one)) && !isatty(stdout).unwrap_or(false)
}

fn is_null(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFCHR && stat.st_rdev == makedev(1, 3)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn found(fd: BorrowedFd<'_>) -> Result<FileStat> {
    fstat(fd.as_fd()).map_err(|e| fail("look at a stream", e))
}

fn fail(what: &str, e: Errno) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e.desc())
}
