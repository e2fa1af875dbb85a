//! Child processes: started, ended, waited for.
//!
//! Takes work for a child; gives its process id; trusts the kernel; refuses to fork with a second thread.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::privilege::as_root;
use crate::host::sys;

/// Forks a process that lives no longer than this one, from its first moment on.
///
/// # Errors
/// The kernel's; `EBUSY` when there is a second thread.
pub fn fork(child: impl FnOnce() -> i32) -> std::io::Result<Pid> {
    let parent = Pid::this();
    sys::fork(move || {
        let follows = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok();
        // The parent may have ended before it was followed.
        if follows && nix::unistd::getppid() == parent { child() } else { 125 }
    })
}

/// How long is waited for what was killed, which on a busy host may have much memory to give back: a file system may hold it without an
/// end, and nobody would ever hear of anything.
const DYING: Duration = Duration::from_secs(10);
/// How long orphans are ended.
const ORPHANS: Duration = Duration::from_secs(10);

/// Ends a stage process that is of no more use, and all that it started. One that does not die is left alone: it can do nothing more.
pub fn end(pid: Pid) {
    // ESRCH: it has ended by itself; ECHILD: it has been waited for.
    if as_root(|_| kill(pid, Signal::SIGKILL)).is_err() {
        return;
    }
    let until = Instant::now() + DYING;
    while Instant::now() < until {
        match sys::wait_child(Some(pid), false) {
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

/// Waits for the end of a child.
pub fn wait(pid: Pid) {
    while matches!(sys::wait_child(Some(pid), true), Err(e) if e.kind() == std::io::ErrorKind::Interrupted) {}
}

/// Ends what a stage process left that was killed while the engine made the container: it became this process's own
/// (`PR_SET_CHILD_SUBREAPER`). Where there is a cgroup, its removal would do the same.
pub fn end_orphans() {
    let list = format!("/proc/self/task/{}/children", Pid::this());
    let until = Instant::now() + ORPHANS;
    // Each round ends those it sees; what they leave is there in the next.
    while Instant::now() < until
        && let Ok(children) = fs::read_to_string(&list)
    {
        let children: Vec<Pid> =
            children.split_whitespace().filter_map(|n| n.parse().ok()).map(Pid::from_raw).collect();
        if children.is_empty() {
            return;
        }
        children.into_iter().for_each(end);
    }
}
