//! Signals of the caller, held back and passed on.
//!
//! Takes the signals that reach this process; gives them one by one; trusts the kernel; refuses to be stopped while it
//! supervises.

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

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

/// How often Ctrl-C was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressed {
    /// The payload is asked to end, as it is by every SIGINT.
    Once,
    /// It is asked again, and the caller is told what a third time does.
    Twice,
    /// It is killed.
    Thrice,
}

/// Counts Ctrl-C of a person at a terminal, who wants a payload to end that does not: SIGINT of a program is passed on, however often.
#[derive(Debug)]
pub struct Interrupts {
    is_person: bool,
    count: u32,
    last: Option<Instant>,
}

impl Interrupts {
    /// Two that are farther apart are not the same wish.
    const APART: Duration = Duration::from_secs(5);

    /// Of the terminal from which ces is called, if it is one.
    pub fn of_this_terminal() -> Self {
        let is_person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        Self { is_person, count: 0, last: None }
    }

    /// One more.
    pub fn pressed(&mut self, now: Instant) -> Pressed {
        if !self.is_person {
            return Pressed::Once;
        }
        let is_same_wish = self.last.is_some_and(|last| now.duration_since(last) < Self::APART);
        self.count = if is_same_wish { self.count.saturating_add(1) } else { 1 };
        self.last = Some(now);
        match self.count {
            1 => Pressed::Once,
            2 => Pressed::Twice,
            _ => Pressed::Thrice,
        }
    }
}

/// Tells the caller what a third Ctrl-C does.
pub fn tell_how_to_kill() {
    // With standard error closed there is nobody to tell.
    std::io::stderr().write_all(b"\nces: the program was asked to end twice; press Ctrl-C once more to kill it\n").ok();
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn fail(what: &str, e: nix::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e.desc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_interrupt_of_a_person_within_moments_kills_and_no_other_does() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let pressed = |is_person, times: &[u64]| {
            let mut keys = Interrupts { is_person, count: 0, last: None };
            times.iter().map(|seconds| keys.pressed(after(*seconds))).collect::<Vec<_>>()
        };
        use Pressed::{Once, Thrice, Twice};
        assert_eq!(pressed(true, &[0, 1, 2]), [Once, Twice, Thrice]);
        assert_eq!(pressed(true, &[0, 10, 20, 21, 40]), [Once, Once, Once, Twice, Once]);
        assert_eq!(pressed(false, &[0, 0, 0, 0]), [Once, Once, Once, Once]);
    }
}
