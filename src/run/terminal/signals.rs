//! Signals of the caller, held back and passed on.
//!
//! Takes the signals that reach this process; gives them one by one; trusts the kernel; refuses to be stopped while it
//! supervises.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Kind, Result, Stage};

/// Signals that are passed on to the payload.
const FORWARDED: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// Signals that would stop ces and not the payload, which would then run without a deadline: those of a terminal's keys and
/// of job control. A terminal that is the payload's own stops the payload; without one, Ctrl-Z does nothing.
const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// Signals, held back from the moment of [`Signals::hold`] on, so that none is lost and none ends ces halfway.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Holds the forwarded signals back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hold() -> Result<Self> {
        let set: SigSet = FORWARDED.into_iter().collect();
        let held = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)
            .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
        held.map(Self).map_err(|e| fail("hold signals back", e))
    }

    /// From now on nothing but SIGSTOP stops this process: whoever supervises does not pause while the payload runs. To be
    /// called once the caller's terminal is set up, so that a session begun in the background waits for its turn.
    ///
    /// # Errors
    /// The kernel's.
    pub fn never_stop() -> Result<()> {
        let set: SigSet = STOPPING.into_iter().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(|e| fail("hold signals back", e))
    }

    /// Whether a signal that asks to end has come before the start.
    ///
    /// # Errors
    /// The kernel's.
    pub fn interrupted(&mut self) -> Result<bool> {
        Ok(self
            .take()?
            .is_some_and(|s| matches!(s, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT)))
    }

    /// The next one that has come, if any.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&mut self) -> Result<Option<Signal>> {
        let info = self.0.read_signal().map_err(|e| fail("read a signal", e))?;
        Ok(info.and_then(|info| i32::try_from(info.ssi_signo).ok()).and_then(|n| Signal::try_from(n).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn fail(what: &str, e: nix::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e.desc())
}
