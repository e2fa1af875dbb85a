//! System calls that need `unsafe`; the only file that may contain it, with those in the directory of its name.
//!
//! Every function here is safe to call: what its caller must promise is part of its type. Errors are the kernel's.
#![allow(unsafe_code, reason = "this file is the fence around every unsafe block")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;

use std::os::unix::ffi::OsStrExt;

/// Descriptors that arrive over a socket.
pub mod passed;
/// Calls of a container that another process answers.
pub mod notify;
/// What arrives in a network namespace.
pub mod loopback;
/// Projects and their quotas.
pub mod quota;
/// How the kernel schedules a process.
pub mod scheduling;
/// Terminals.
pub mod terminal;

/// Turns the kernel's `-1` into the error it left in `errno`.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Takes ownership of a descriptor that the kernel has just returned.
fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let raw = RawFd::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel returned this number a moment ago as a new descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

// --- processes ---

/// Forks; the child runs `child` and exits with what that returns, never coming back here.
///
/// Refused when this process has a second thread: a lock that it holds would stay locked in the child for ever.
///
/// # Errors
/// The kernel's, and `EBUSY` for a second thread.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: this process has one thread (checked above), so the child's memory is in a consistent state; the child
    // leaves through `_exit` and runs no destructor that belongs to the parent.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            let code = child();
            // SAFETY: `_exit` ends the process without touching its memory.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Executes the program behind `program` with `argv` and an environment that holds only `env`; returns on failure.
pub fn exec_fd(program: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer and point to C strings that live until the call returns (on
    // failure) or the process image is gone (on success).
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// The kernel's (`ENOSYS` before 5.9).
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: called before this process owns any descriptor above standard error (start of `main`), or in a child
    // that executes or ends without using its copies.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// The kernel's (`EINVAL` before 5.11).
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: sets a flag; no descriptor is closed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// A copy of `fd` with a number above `last`, closed on exec: out of the way of those that [`place_fds`] puts there.
///
/// # Errors
/// The kernel's.
pub fn above(fd: BorrowedFd<'_>, last: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `fd` is open; F_DUPFD_CLOEXEC returns a new descriptor at or above the given number.
    own(check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, last + 1) }.into())?)
}

/// Puts copies of `fds` at the numbers `first`, `first + 1`, …, kept open over exec. For a child about to execute.
///
/// # Errors
/// The kernel's.
pub fn place_fds(fds: &[BorrowedFd<'_>], first: RawFd) -> io::Result<()> {
    let count = RawFd::try_from(fds.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Out of the way first, so that no target is a source still needed.
    let mut parked = Vec::with_capacity(fds.len());
    for fd in fds {
        // SAFETY: `fd` is open; F_DUPFD returns a new descriptor at or above the given number.
        let copy = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first + count) }.into())?;
        parked.push(copy);
    }
    for (target, copy) in (first..).zip(parked) {
        let copy = RawFd::try_from(copy).map_err(|_| io::ErrorKind::InvalidData)?;
        // SAFETY: the targets lie below every parked copy; what was open there belonged to the parent's image, which
        // this child is about to leave.
        check(unsafe { libc::dup2(copy, target) }.into())?;
    }
    Ok(())
}

/// Closes every descriptor above standard error that leads to a file or directory; sockets and pipes stay. For the
/// container's first process, in which the engine leaves directories open (CVE-2024-21626).
///
/// # Errors
/// When the descriptors cannot be listed.
pub fn close_paths() -> io::Result<()> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|n| n.parse::<RawFd>().ok());
        let leads_to_path = std::fs::read_link(entry.path()).is_ok_and(|target| target.is_absolute());
        if let Some(number) = number.filter(|n| *n > libc::STDERR_FILENO && leads_to_path) {
            paths.push(number);
        }
    }
    for number in paths {
        // SAFETY: this process only waits, forks and ends from here on; what owns these descriptors is never used or
        // dropped again. The listing's own descriptor is closed by now (EBADF).
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Puts `streams` in the place of standard input, output and error, where given. For a child about to execute.
///
/// # Errors
/// The kernel's.
pub fn replace_streams(streams: [Option<&OwnedFd>; 3]) -> io::Result<()> {
    for (stream, number) in streams.into_iter().zip([libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO]) {
        if let Some(stream) = stream {
            // SAFETY: the standard streams are never owned as descriptors; replacing them closes nothing of ours.
            check(unsafe { libc::dup2(stream.as_raw_fd(), number) }.into())?;
        }
    }
    Ok(())
}

/// Takes over descriptor `number`, which the parent left open for this program (see [`place_fds`]).
///
/// # Errors
/// `EBADF` when it is not open.
pub fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD only sets a flag; it fails on a closed descriptor.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: open (checked above); by contract with the parent it is this program's, and each is taken once, at start.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor that stands for a process: readable when it has ended, and never another process (pidfd_open(2)).
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, returns a new descriptor.
    own(check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?)
}

/// Sends `signal` to the process that `pidfd` stands for.
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn pidfd_kill(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo means "as kill(2)".
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    })
    .map(drop)
}

/// Sends `signal`, which may be one without a name (signal(7), real-time signals), to a process.
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers.
    check(unsafe { libc::kill(pid.as_raw(), signal).into() }).map(drop)
}

/// How a child ended, and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The child.
    pub pid: Pid,
    /// The raw wait status (wait(2)).
    pub status: i32,
    /// Processor time in user mode, of the child and the children it waited for.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
}

/// Waits for a child (`None`: any); gives nothing when `block` is false and none has ended.
///
/// # Errors
/// `ECHILD` when there is none, `EINTR` when a signal came first.
pub fn wait_child(pid: Option<Pid>, block: bool) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers; all-zero is a valid value.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    let target = pid.map_or(-1, Pid::as_raw);
    let flags = if block { 0 } else { libc::WNOHANG };
    // SAFETY: both pointers are to live local variables.
    let ended = check(unsafe { libc::wait4(target, &raw mut status, flags, &raw mut usage) }.into())?;
    let Ok(ended) = libc::pid_t::try_from(ended) else { return Err(io::ErrorKind::InvalidData.into()) };
    let time = |t: libc::timeval| {
        Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or(0))
    };
    Ok((ended != 0).then(|| Ended {
        pid: Pid::from_raw(ended),
        status,
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
    }))
}

/// Gives this process a new, empty session keyring (keyctl(2)): the caller's keys are out of reach.
///
/// # Errors
/// The kernel's; `ENOSYS` where it has no keyrings, then there is nothing to protect.
pub fn join_new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for a new anonymous keyring.
    let joined = check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    });
    match joined {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(drop),
    }
}

/// The version of Landlock that the kernel offers; none where it has it not, or switched off (landlock(7)).
pub fn landlock_version() -> Option<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag, a null pointer and size zero ask for the version; nothing is created.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok()
}

// --- mounts (open_tree(2), mount_setattr(2), move_mount(2)) ---

/// What [`change_mount`] sets on a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountChange<'a> {
    /// `MOUNT_ATTR_*` flags to set.
    pub set: u64,
    /// The user namespace whose map the mount shall apply (idmapped mount).
    pub idmap: Option<BorrowedFd<'a>>,
    /// All mounts below as well.
    pub recursive: bool,
}

/// A detached copy of the mount at `path` below `dir`; an empty path means `dir` itself.
///
/// # Errors
/// The kernel's.
pub fn clone_mount(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | unsigned(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW);
    if recursive {
        flags |= unsigned(libc::AT_RECURSIVE);
    }
    // SAFETY: takes a descriptor, a C string and flags; returns a new descriptor.
    own(check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })?)
}

/// Changes the mount behind `mount`.
///
/// # Errors
/// The kernel's (`EINVAL` where idmapped mounts are not supported).
pub fn change_mount(mount: BorrowedFd<'_>, change: &MountChange<'_>) -> io::Result<()> {
    let mut attr = libc::mount_attr { attr_set: change.set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    if change.set & libc::MOUNT_ATTR__ATIME != 0 {
        // The access time settings are one field: the old value is cleared with the new one set (mount_setattr(2)).
        attr.attr_clr |= libc::MOUNT_ATTR__ATIME;
    }
    if let Some(idmap) = change.idmap {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = u64::try_from(idmap.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    }
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the struct lives over the call and its size is passed with it.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attr,
            mem::size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Attaches the detached `mount` at `target`, without following a symbolic link there.
///
/// # Errors
/// The kernel's.
pub fn attach_mount(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    move_mount(mount, libc::AT_FDCWD, &c_path(target)?)
}

/// Attaches `mount` on top of what `target` is, whatever its name.
///
/// # Errors
/// The kernel's.
pub fn attach_mount_onto(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    move_mount(mount, target.as_raw_fd(), c"")
}

fn move_mount(mount: BorrowedFd<'_>, dir: RawFd, target: &CStr) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x0000_0004;
    const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x0000_0040;
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: takes descriptors, C strings and flags.
    check(unsafe { libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), dir, target.as_ptr(), flags) })
        .map(drop)
}

fn unsigned(flags: libc::c_int) -> libc::c_uint {
    // The kernel's flags are non-negative; their C type differs between calls.
    libc::c_uint::try_from(flags).unwrap_or(0)
}

// --- network ---

/// Takes one connection that waits at `listener`; it does not block, and is closed on exec.
///
/// # Errors
/// The kernel's (accept(2)); `EAGAIN` when none waits and the listener does not block.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: with null pointers the peer's address is not asked for; a new descriptor is returned.
    own(check(
        unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) }.into(),
    )?)
}

/// Brings the loopback interface of this network namespace up.
///
/// # Errors
/// The kernel's.
pub fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data; all-zero is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = libc::c_char::try_from(from).map_err(|_| io::ErrorKind::InvalidData)?;
    }
    let up = libc::c_short::try_from(libc::IFF_UP).map_err(|_| io::ErrorKind::InvalidData)?;
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: SIOCSIFFLAGS reads the request, which lives over the call.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

// --- signals ---

/// Sets what `signal` does; only actions without a handler of our own are used.
///
/// # Errors
/// The kernel's.
pub fn set_signal_action(signal: nix::sys::signal::Signal, action: &nix::sys::signal::SigAction) -> nix::Result<()> {
    use nix::sys::signal::SigHandler;
    if !matches!(action.handler(), SigHandler::SigDfl | SigHandler::SigIgn) {
        return Err(nix::Error::EINVAL);
    }
    // SAFETY: default and ignore run no code of this program (checked above).
    unsafe { nix::sys::signal::sigaction(signal, action) }.map(drop)
}

/// Whether `signal` is ignored.
///
/// # Errors
/// The kernel's.
pub fn is_ignored(signal: nix::sys::signal::Signal) -> io::Result<bool> {
    // SAFETY: all zeros are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set; what is there is written to `action`, which lives over the call.
    check(unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut action) }.into())?;
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

// --- image ---

/// Lets the kernel begin to write a file's data to disk; returns at once, and promises nothing (sync_file_range(2)).
pub fn start_writeback(file: impl AsFd) {
    // SAFETY: the call takes a descriptor and numbers; the descriptor is open over the call. Its failure is of no
    // consequence: syncfs follows.
    unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}
