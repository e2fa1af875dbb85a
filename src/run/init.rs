//! PID 1 of the container: the payload's parent and reaper (as `podman run --init`).
//!
//! Takes the payload's arguments and environment; gives its wait status to the descriptor that ces reads; trusts
//! nothing the payload does; refuses no signal: what reaches PID 1 is passed on to the payload.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, execve, write};

use super::entered::{self, Ended};
use super::wire::Wire;
use crate::host::sys;

/// What PID 1 tells: `[ENDED, wait status]` or `[NOT_EXECUTED, errno]`, two native integers.
pub const ENDED: i32 = 0;
/// See [`ENDED`].
pub const NOT_EXECUTED: i32 = 1;

/// Runs the payload as a child, waits for it and for every orphan, and exits when the payload has ended; commands that come
/// through `door` become children too.
pub fn run(args: &[String], env: &[String], status: BorrowedFd<'_>, door: Option<&Wire>) -> ! {
    let code = supervise(args, env, status, door);
    std::process::exit(code)
}

fn supervise(args: &[String], env: &[String], status: BorrowedFd<'_>, mut door: Option<&Wire>) -> i32 {
    // Blocked before the fork, so that none is lost: PID 1 has no default actions (pid_namespaces(7)).
    if sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).is_err() {
        return 125;
    }
    let Ok(signals) = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) else {
        return 125;
    };
    let payload = match sys::fork(|| payload(args, env, status)) {
        Ok(pid) => pid,
        Err(e) => return tell(status, NOT_EXECUTED, e.raw_os_error().unwrap_or(0)),
    };
    let mut commands: Vec<(Pid, u32)> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(door.map(|door| PollFd::new(door.as_fd(), PollFlags::POLLIN)));
        // EINTR is the only failure, and then we look again.
        poll(&mut fds, PollTimeout::NONE).ok();
        let knocked = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false));
        if knocked && let Some(open) = door {
            match entered::admit(open) {
                Some(command) => commands.extend(command),
                // ces is gone, and so is this process in a moment.
                None => door = None,
            }
        }
        while let Ok(Some(info)) = signals.read_signal() {
            match i32::try_from(info.ssi_signo).map(Signal::try_from) {
                Ok(Ok(Signal::SIGCHLD)) => {
                    while let Ok(Some(ended)) = sys::wait_child(None, false) {
                        if ended.pid == payload {
                            return tell(status, ENDED, ended.status);
                        }
                        if let Some(at) = commands.iter().position(|(pid, _)| *pid == ended.pid) {
                            let (_, number) = commands.swap_remove(at);
                            // If ces is gone, so is this process in a moment.
                            door.map(|door| door.send(&Ended { number, status: ended.status }));
                        }
                    }
                }
                // ESRCH: it has just ended, and SIGCHLD is on its way.
                Ok(Ok(signal)) => drop(kill(payload, signal).ok()),
                _ => {}
            }
        }
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
    let error = match reset() {
        Err(e) => e,
        Ok(()) => execute(args, env),
    };
    tell(status, NOT_EXECUTED, error as i32);
    127
}

/// Every signal does again what it does by default; none is unblocked.
pub(super) fn default_signals() -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    Signal::iterator()
        .filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP))
        .try_for_each(|signal| sys::set_signal_action(signal, &default))
}

/// Executes `args` with `env` and nothing more; a name without a slash is looked for in `env`'s `PATH`.
pub(super) fn execute(args: &[String], env: &[String]) -> Errno {
    let c_strings =
        |strings: &[String]| strings.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(envp), Some(name)) = (c_strings(args), c_strings(env), args.first()) else {
        return Errno::EINVAL;
    };
    let attempt = |path: &Path| match CString::new(path.as_os_str().as_encoded_bytes()) {
        Ok(path) => execve(&path, &argv, &envp).err().unwrap_or(Errno::ENOENT),
        Err(_) => Errno::EINVAL,
    };
    if name.contains('/') {
        return attempt(Path::new(name));
    }
    let search = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let mut worst = Errno::ENOENT;
    for dir in search.split(':').filter(|dir| !dir.is_empty()) {
        match attempt(&Path::new(dir).join(name)) {
            // Keep looking, as execvp(3) does, but remember that something was there.
            Errno::EACCES => worst = Errno::EACCES,
            Errno::ENOENT | Errno::ENOTDIR => {}
            other => return other,
        }
    }
    worst
}
