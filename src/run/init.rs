//! PID 1 of the container: the payload's parent and reaper (as `podman run --init`).
//!
//! Takes the payload's arguments and environment; gives its wait status to the descriptor that ces reads; trusts
//! nothing the payload does; refuses no signal: what reaches PID 1 is passed on to the payload.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{Pid, execve, write};

use crate::host::sys;

/// What PID 1 tells: `[ENDED, wait status]` or `[NOT_EXECUTED, errno]`, two native integers.
pub const ENDED: i32 = 0;
/// See [`ENDED`].
pub const NOT_EXECUTED: i32 = 1;

/// Runs the payload as a child, waits for it and for every orphan, and exits when the payload has ended.
pub fn run(args: &[String], env: &[String], status: BorrowedFd<'_>) -> ! {
    let code = supervise(args, env, status);
    std::process::exit(code)
}

fn supervise(args: &[String], env: &[String], status: BorrowedFd<'_>) -> i32 {
    // Blocked before the fork, so that none is lost: PID 1 has no default actions (pid_namespaces(7)).
    if sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).is_err() {
        return 125;
    }
    let payload = match sys::fork(|| payload(args, env, status)) {
        Ok(pid) => pid,
        Err(e) => return tell(status, NOT_EXECUTED, e.raw_os_error().unwrap_or(0)),
    };
    loop {
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) => {
                while let Ok(Some(ended)) = sys::wait_child(None, false) {
                    if ended.pid == payload {
                        return tell(status, ENDED, ended.status);
                    }
                }
            }
            // ESRCH: it has just ended, and SIGCHLD is on its way.
            Ok(signal) => drop(kill(payload, signal)),
            Err(_) => {}
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
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
            sys::set_signal_action(signal, &default)?;
        }
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

/// Executes `args` with `env` and nothing more; a name without a slash is looked for in `env`'s `PATH`.
fn execute(args: &[String], env: &[String]) -> Errno {
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
