//! What a researcher could hold a process of root's up with, taken away.
//!
//! Takes the process as sudo started it; gives one that goes on; trusts the kernel; refuses to work where it cannot be had: it holds
//! locks that everybody on the host waits for, and keeps the deadlines of runs.
//!
//! | what would hold it up | against it |
//! | --- | --- |
//! | the keys of a terminal, reading and writing in the background: SIGTSTP, SIGTTIN, SIGTTOU (signal(7)) | they are blocked |
//! | a control group of the researcher's, which can be frozen or throttled | it is left |
//! | `chrt --idle`, `nice`, `ionice --class idle`, and programs that take all the time there is | the defaults, for `ces` alone |
//! | SIGSTOP that another process of root's sends for the researcher, as batch systems do for whoever owns a job | a process of root's, outside of the job, continues it |
//!
//! The payload is none of this: it gets the researcher's own scheduling back (`scheduling::give_back`), and no signal is blocked in it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, setsid};

use super::cgroup::Cgroup;
use super::privilege::{Root, as_root, is_lent};
use super::scheduling;
use super::{kernel_files, sys};
use crate::error::{Error, Kind, Result, Stage};

/// Signals that stop whoever does not handle them, and that the keys of a terminal and job control send.
pub const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// How often is looked whether the process was stopped, in milliseconds: ordinarily, and for some looks after it was.
const LOOK: u16 = 1000;
const LOOK_SOON: u16 = 20;
const SOON: u32 = 500;

/// Takes it all away, through sudo. To be called when arguments have not been read yet, with no other thread.
///
/// # Errors
/// When the kernel refuses: then nothing may be done.
pub fn begin() -> Result<()> {
    if !is_lent() {
        return Ok(());
    }
    ignore_job_control()?;
    as_root(|root| {
        scheduling::reset(root).map_err(|e| fail("cannot take the default scheduling", &e))?;
        Cgroup::leave_groups_of_others(root)?;
        continue_if_stopped(root)
    })
}

/// The same for a process that lives longer than who started it, and has inherited the rest.
///
/// # Errors
/// When the kernel refuses.
pub fn begin_anew() -> Result<()> {
    if is_lent() { as_root(continue_if_stopped) } else { Ok(()) }
}

/// From now on nothing but SIGSTOP stops this thread, and those that it starts.
///
/// # Errors
/// The kernel's.
pub fn ignore_job_control() -> Result<()> {
    let set: SigSet = STOPPING.into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(|e| fail("cannot hold signals back", &e.into()))
}

/// Starts a process that continues this one when it was stopped, for as long as this one lives. It is nobody's child: what this one
/// waits for are its own.
fn continue_if_stopped(root: &Root) -> Result<()> {
    let start = || {
        let pid = Pid::this();
        let handle = sys::pidfd_open(pid)?;
        let between = sys::fork(|| {
            let ready = prepare(root, &handle);
            let started = ready.and_then(|handle| sys::fork(|| i32::from(watch(pid, &handle).is_err())));
            started.map_or_else(|e| e.raw_os_error().unwrap_or(Errno::EIO as i32), |_| 0)
        })?;
        loop {
            match sys::wait_child(Some(between), true) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(ended) => match ended.and_then(|ended| ExitStatus::from_raw(ended.status).code()) {
                    Some(0) => return Ok(()),
                    Some(errno) => return Err(std::io::Error::from_raw_os_error(errno)),
                    None => return Err(std::io::Error::other("it was ended")),
                },
            }
        }
    };
    start().map_err(|e| {
        fail("cannot start the process that continues this one outside of the caller's job", &e)
            .hint("through sudo, ces needs to leave control groups: is /sys/fs/cgroup mounted read-only here?")
    })
}

/// In the process between, before there is one that goes by it: outside of the caller's job, session and streams. All that may fail is
/// here, for who has started it waits for its end; gives the handle in its place.
fn prepare(root: &Root, handle: &OwnedFd) -> std::io::Result<OwnedFd> {
    const FIRST: i32 = 3;
    nix::sys::prctl::set_name(c"ces-continues")?;
    Cgroup::leave_every_group(root)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    setsid()?;
    nix::unistd::chdir("/")?;
    let null = OwnedFd::from(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?);
    sys::replace_streams([Some(&null), Some(&null), Some(&null)])?;
    sys::place_fds(&[handle.as_fd()], FIRST)?;
    std::mem::forget(null);
    sys::close_from(FIRST.unsigned_abs() + 1)?;
    sys::inherited_fd(FIRST)
}

/// Continues it, until it has ended.
fn watch(pid: Pid, handle: &OwnedFd) -> std::io::Result<()> {
    let mut soon = 0_u32;
    loop {
        let wait = if soon > 0 { LOOK_SOON } else { LOOK };
        match poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], PollTimeout::from(wait)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        soon = soon.saturating_sub(1);
        // What it waits for are its children.
        for stopped in [pid].into_iter().chain(children(pid)).filter(|pid| is_stopped(*pid)) {
            soon = SOON;
            // It may have ended meanwhile; and whoever has its number then is not stopped.
            let found = sys::pidfd_open(stopped);
            if let Some(found) = found.ok().filter(|_| is_stopped(stopped)) {
                sys::pidfd_kill(found.as_fd(), Signal::SIGCONT as i32).ok();
            }
        }
    }
}

/// The children of all threads of a process (proc_pid_task_children, proc(5)).
fn children(pid: Pid) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_thread = |thread: std::fs::DirEntry| kernel_files::read(thread.path().join("children")).ok();
    let numbers =
        |text: String| text.split(' ').filter_map(|word| word.parse().ok()).map(Pid::from_raw).collect::<Vec<_>>();
    threads.filter_map(of_thread).flat_map(numbers).collect()
}

/// Whether a process is stopped by a signal (proc_pid_stat(5), the third field).
fn is_stopped(pid: Pid) -> bool {
    let stat = kernel_files::read_bytes(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    let after = stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at + 2));
    after == Some(&b'T')
}

fn fail(what: &str, e: &std::io::Error) -> Error {
    Error::new(Stage::Host, Kind::Host, what).because(e)
}
