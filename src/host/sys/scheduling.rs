//! How the kernel schedules a process: policy, nice value, I/O priority.

use std::io;

use nix::unistd::Pid;

use super::check;

/// `IOPRIO_WHO_PROCESS` (linux/ioprio.h).
const ONE_PROCESS: libc::c_int = 1;

/// The scheduling policy of a process, without flags (sched(7)); 0: of the calling thread.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn policy(pid: Pid) -> io::Result<i32> {
    // SAFETY: takes and returns numbers.
    let policy = check(unsafe { libc::sched_getscheduler(pid.as_raw()) }.into())?;
    i32::try_from(policy)
        .map(|policy| policy & !libc::SCHED_RESET_ON_FORK)
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Sets a policy that has no priority: `SCHED_OTHER`, `SCHED_BATCH`, `SCHED_IDLE`.
///
/// # Errors
/// The kernel's.
pub fn set_policy(pid: Pid, policy: i32) -> io::Result<()> {
    // SAFETY: plain numbers; all-zero is the only priority that these policies have.
    let none: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the parameter lives over the call.
    check(unsafe { libc::sched_setscheduler(pid.as_raw(), policy, &raw const none) }.into()).map(drop)
}

/// Class and level of its I/O, as one number; 0: by its nice value (ioprio_set(2)).
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn io_priority(pid: Pid) -> io::Result<i32> {
    // SAFETY: takes and returns numbers.
    let priority = check(unsafe { libc::syscall(libc::SYS_ioprio_get, ONE_PROCESS, pid.as_raw()) })?;
    i32::try_from(priority).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Sets it.
///
/// # Errors
/// The kernel's.
pub fn set_io_priority(pid: Pid, priority: i32) -> io::Result<()> {
    // SAFETY: takes numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, ONE_PROCESS, pid.as_raw(), priority) }).map(drop)
}
