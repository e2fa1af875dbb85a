//! How the payload, and a command of `ces exec`, is executed: default signals, the given environment and nothing more.

use std::ffi::CString;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::execve;

use crate::host::sys;
use crate::run::container::not_executed;

/// Every signal does again what it does by default; none is unblocked.
pub fn default_signals() -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    Signal::iterator()
        .filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP))
        .try_for_each(|signal| sys::set_signal_action(signal, &default))
}

/// Executes `args` with `env` and nothing more; a name without a slash is looked for in `env`'s `PATH`. Gives the error, and the
/// reason where more is to be said.
pub fn execute(args: &[String], env: &[String]) -> (Errno, Option<String>) {
    let c_strings =
        |strings: &[String]| strings.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(envp), Some(name)) = (c_strings(args), c_strings(env), args.first()) else {
        return (Errno::EINVAL, None);
    };
    let attempt = |path: &Path| match CString::new(path.as_os_str().as_encoded_bytes()) {
        Ok(path) => execve(&path, &argv, &envp).err().unwrap_or(Errno::ENOENT),
        Err(_) => Errno::EINVAL,
    };
    if name.contains('/') {
        let error = attempt(Path::new(name));
        return (error, not_executed::why(Path::new(name), error));
    }
    let search = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let mut worst = (Errno::ENOENT, None);
    for dir in search.split(':').filter(|dir| !dir.is_empty()) {
        let path = Path::new(dir).join(name);
        match attempt(&path) {
            // Keep looking, as execvp(3) does, but remember that something was there.
            error @ (Errno::EACCES | Errno::ENOENT) => {
                let why = not_executed::why(&path, error);
                if error == Errno::EACCES || why.is_some() {
                    worst = (error, why);
                }
            }
            Errno::ENOTDIR => {}
            other => return (other, not_executed::why(&path, other)),
        }
    }
    worst
}
