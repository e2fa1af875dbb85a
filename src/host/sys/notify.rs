//! System calls of a container, told to another process before the kernel takes them (seccomp_unotify(2)).
//!
//! A *listener* is the descriptor that a filter with `SECCOMP_RET_USER_NOTIF` is installed with. Who holds it is told of each such
//! call, and answers it: with an error number, or with "the kernel takes it". When nobody holds it any more, the kernel answers
//! with `ENOSYS`.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::unistd::Pid;
use seccompiler::sock_filter;

use super::{check, own};

/// What `ioctl` is asked (linux/seccomp.h): `SECCOMP_IOCTL_NOTIF_RECV`, `_SEND`, `_ID_VALID` and `_SET_FLAGS`.
const RECEIVE: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const IS_VALID: u32 = 0x4008_2102;
const SET_FLAGS: u32 = 0x4008_2104;

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notified {
    /// Under which number the kernel has it.
    pub id: u64,
    /// The thread that calls, as this process numbers it; 0 if it cannot see it.
    pub pid: Pid,
    /// The call's number.
    pub number: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Its arguments.
    pub args: [u64; 6],
}

/// How a call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The kernel takes it.
    Continue,
    /// It fails with this error number.
    Errno(u32),
}

/// Installs a filter for this thread and what it starts, and gives its listener. A signal that kills still reaches a thread that
/// waits for an answer; others wait with it, where the kernel knows that (5.19).
///
/// # Errors
/// The kernel's; `EBUSY` where a filter above has a listener already.
pub fn install(program: &[sock_filter]) -> io::Result<OwnedFd> {
    const NEW_LISTENER: libc::c_ulong = 1 << 3;
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let whole = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs()?;
    let set = |flags: libc::c_ulong| {
        // SAFETY: the program and its instructions live over the call, which copies them; a new descriptor is returned.
        check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const whole) })
    };
    let listener = match set(NEW_LISTENER | WAIT_KILLABLE_RECV) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => set(NEW_LISTENER),
        other => other,
    };
    own(listener?)
}

/// Tells the scheduler that a caller and who answers it never work at the same time: the one is woken where the other leaves off, and not
/// on another processor (`SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, linux/seccomp.h).
///
/// # Errors
/// The kernel's; `EINVAL` before 6.6.
pub fn take_turns(listener: BorrowedFd<'_>) -> io::Result<()> {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: takes a number.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS as _, SYNC_WAKE_UP) }.into()).map(drop)
}

/// Takes the next call that waits at a listener.
///
/// # Errors
/// The kernel's; `ENOENT` when the caller is gone meanwhile, `EINTR` for a signal.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Notified> {
    // SAFETY: plain numbers; the kernel wants them zero.
    let mut told: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif`, whose size is a part of the request's number.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, &raw mut told) }.into())?;
    Ok(Notified {
        id: told.id,
        pid: Pid::from_raw(i32::try_from(told.pid).unwrap_or(0)),
        number: told.data.nr.cast_unsigned(),
        arch: told.data.arch,
        args: told.data.args,
    })
}

/// Answers a call.
///
/// # Errors
/// The kernel's; `ENOENT` when the caller is gone meanwhile.
pub fn send(listener: BorrowedFd<'_>, id: u64, reply: Reply) -> io::Result<()> {
    const CONTINUE: u32 = 1;
    let (error, flags) = match reply {
        Reply::Continue => (0, CONTINUE),
        // No error number is beyond MAX_ERRNO (4,095).
        Reply::Errno(errno) => (-i32::try_from(errno.clamp(1, 4095)).unwrap_or(libc::ENOSYS), 0),
    };
    let mut answer = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the kernel reads one `seccomp_notif_resp`, whose size is a part of the request's number.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), SEND as _, &raw mut answer) }.into()).map(drop)
}

/// Whether the call still waits: only then is what was read of its process that process's.
pub fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads eight bytes.
    unsafe { libc::ioctl(listener.as_raw_fd(), IS_VALID as _, &raw const id) == 0 }
}

/// Sets the ids with which this thread reaches files (setfsuid(2)): those of the kernel's user namespace for it.
pub fn reach_files_as(uid: u32, gid: u32) {
    // SAFETY: both take a number, and return the one before; there is no error to see.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}

/// Sets the supplementary groups with which this thread reaches files; without CAP_SETGID, or where the user namespace forbids it
/// (user_namespaces(7)), they stay.
pub fn reach_files_in(groups: &[u32]) {
    // SAFETY: the kernel reads as many numbers as there are; an error changes nothing.
    unsafe {
        libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
    }
}

/// Whether this thread may do `mode` (`R_OK` and so on) to what `path` is, with its effective and file system ids (faccessat2(2)).
///
/// # Errors
/// The kernel's: why not.
pub fn may(file: BorrowedFd<'_>, mode: i32) -> io::Result<()> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: with an empty path the descriptor itself is asked about.
    check(unsafe { libc::syscall(libc::SYS_faccessat2, file.as_raw_fd(), c"".as_ptr(), mode, flags) }).map(drop)
}
