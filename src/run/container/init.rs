//! PID 1 of the container: the payload's parent and reaper (as `podman run --init`).
//!
//! Takes the payload's arguments and environment; gives its wait status to the descriptor that ces reads; trusts
//! nothing the payload does; refuses no signal: what reaches PID 1 is passed on to the payload.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::libc::SIGCHLD;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, write};

use crate::host::sys;
use crate::run::channel::Channel;
use crate::run::container::exec::{self, Ended};
use crate::run::container::execute::{default_signals, execute};
use crate::run::protocol::{ENDED, NOT_EXECUTED, REASON, RUNNING};

/// Runs the payload as a child, waits for it and for every orphan, and exits when the payload has ended; commands that come
/// through `requests` become children too. In a rehearsal it tells what still runs then.
pub fn run(
    args: &[String],
    env: &[String],
    status: BorrowedFd<'_>,
    requests: Option<&Channel>,
    is_rehearsal: bool,
) -> ! {
    let code = supervise(args, env, status, requests, is_rehearsal);
    std::process::exit(code)
}

fn supervise(
    args: &[String],
    env: &[String],
    status: BorrowedFd<'_>,
    mut requests: Option<&Channel>,
    is_rehearsal: bool,
) -> i32 {
    // Blocked before the fork, so that none is lost: PID 1 has no default actions (pid_namespaces(7)).
    if sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).is_err() {
        return 125;
    }
    let Ok(signals) = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) else {
        return 125;
    };
    let payload = match sys::fork(|| payload(args, env, status)) {
        Ok(pid) => pid,
        Err(e) => {
            tell_why(status, nix::Error::from_raw(e.raw_os_error().unwrap_or(0)), "");
            return 0;
        }
    };
    let mut commands: Vec<(Pid, u32)> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(requests.map(|requests| PollFd::new(requests.as_fd(), PollFlags::POLLIN)));
        // EINTR is the only failure, and then we look again.
        poll(&mut fds, PollTimeout::NONE).ok();
        let asked = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false));
        if asked && let Some(open) = requests {
            match exec::admit(open) {
                Some(command) => commands.extend(command),
                // ces is gone, and so is this process in a moment.
                None => requests = None,
            }
        }
        while let Ok(Some(info)) = signals.read_signal() {
            match i32::try_from(info.ssi_signo) {
                Ok(SIGCHLD) => {
                    while let Ok(Some(ended)) = sys::wait_child(None, false) {
                        if ended.pid == payload {
                            if is_rehearsal {
                                tell_running(status);
                            }
                            return tell(status, ENDED, ended.status);
                        }
                        if let Some(at) = commands.iter().position(|(pid, _)| *pid == ended.pid) {
                            let (_, number) = commands.swap_remove(at);
                            // If ces is gone, so is this process in a moment.
                            requests.map(|requests| requests.send(&Ended { number, status: ended.status }));
                        }
                    }
                }
                // ESRCH: it has just ended, and SIGCHLD is on its way.
                Ok(signal) => drop(sys::kill(payload, signal)),
                Err(_) => {}
            }
        }
    }
}

/// The same for what was not executed, with the reason in words; in one piece (PIPE_BUF).
fn tell_why(status: BorrowedFd<'_>, error: nix::Error, why: &str) {
    let why: String = why.chars().take(REASON / 4).collect();
    let length = i32::try_from(why.len()).unwrap_or(0);
    let numbers = [NOT_EXECUTED, error as i32, length].map(i32::to_ne_bytes).concat();
    // If ces is gone, so is this process in a moment.
    write(status, &[&numbers, why.as_bytes()].concat()).ok();
}

/// What still runs in the container beside this process, and ends with it; in one piece (PIPE_BUF).
fn tell_running(status: BorrowedFd<'_>) {
    let mut names = BTreeSet::new();
    let mut count = 0_i32;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()).filter(|pid| *pid > 1);
        let Some(stat) = pid.and_then(|pid| std::fs::read(format!("/proc/{pid}/stat")).ok()) else { continue };
        // `pid (name) state …`; a name may hold anything.
        let stat = String::from_utf8_lossy(&stat);
        let Some((begin, end)) = stat.split_once(" (").and_then(|(_, rest)| rest.rsplit_once(") ")) else { continue };
        if !end.starts_with(['Z', 'X']) {
            count = count.saturating_add(1);
            names.insert(begin.to_owned());
        }
    }
    if count > 0 {
        let names: String = names.into_iter().take(8).collect::<Vec<_>>().join(", ").chars().take(REASON / 4).collect();
        let length = i32::try_from(names.len()).unwrap_or(0);
        let numbers = [RUNNING, count, length].map(i32::to_ne_bytes).concat();
        // If ces is gone, so is this process in a moment.
        write(status, &[&numbers, names.as_bytes()].concat()).ok();
    }
}

fn tell(status: BorrowedFd<'_>, what: i32, value: i32) -> i32 {
    let message = [what.to_ne_bytes(), value.to_ne_bytes()].concat();
    // Eight bytes into an empty pipe are written whole; if ces is gone, so is this process in a moment.
    write(status, &message).map_or(125, |_| 0)
}

/// In the child: becomes the payload, or tells why it cannot.
fn payload(args: &[String], env: &[String], status: BorrowedFd<'_>) -> i32 {
    let reset = || -> nix::Result<()> {
        default_signals()?;
        nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        sys::terminal::take_foreground();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
    };
    let (error, why) = match reset() {
        Err(e) => (e, None),
        Ok(()) => execute(args, env),
    };
    tell_why(status, error, &why.unwrap_or_default());
    127
}
