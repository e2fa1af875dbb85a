//! How a payload, or a command of `ces exec`, ended.

use nix::errno::Errno;

/// How the payload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this code.
    Exited(i32),
    /// A signal killed it.
    Signalled(i32),
    /// Its deadline passed.
    TimedOut,
    /// It could not be executed.
    NotExecuted(Errno),
    /// The whole container was killed before PID 1 could tell.
    Killed,
}

impl Ending {
    /// From a wait status (wait(2)).
    pub fn of(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signalled(libc::WTERMSIG(status))
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }

    /// The exit status of `ces run`: the payload's own, or 124, 126, 127, 128+n, 137.
    pub fn exit_status(self) -> u8 {
        let low = |n: i32| u8::try_from(n & 0xff).unwrap_or(u8::MAX);
        match self {
            Self::Exited(code) => low(code),
            Self::Signalled(signal) => low(128 + signal),
            Self::TimedOut => 124,
            Self::NotExecuted(Errno::ENOENT | Errno::ENOTDIR) => 127,
            Self::NotExecuted(_) => 126,
            Self::Killed => 137,
        }
    }
}
