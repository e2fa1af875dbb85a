//! The payload's terminal, joined to the caller's while the payload runs.
//!
//! Takes the master side of the container's own pseudo-terminal; gives relays both ways; trusts neither side's bytes;
//! refuses to leave the caller's terminal as it is not wont to be: it is restored however `ces` ends, but by SIGKILL.
//!
//! The payload never holds the caller's terminal, so whatever it types into its own (TIOCSTI) reaches itself alone. What the
//! caller's terminal answers to it (the cursor's position, colours) is thrown away at the end, before a shell could read it.

use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{FlushArg, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcflush, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, isatty, tcgetpgrp};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys;
use crate::run::terminal::relay::{self, Relay};
use crate::run::terminal::signals::Signals;

/// Undoes what a program that was killed may have left switched on: reports of the mouse and of focus, bracketed paste, a
/// hidden cursor, colours (xterm's control sequences, DECSET).
const CALM: &[u8] = b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?25h\x1b[0m";

/// A session at a terminal.
#[derive(Debug)]
pub struct Session {
    master: OwnedFd,
    raw: Option<Raw>,
}

impl Session {
    /// Joins the terminals: output always, input (and raw mode, if standard input is a terminal) when `interactive`;
    /// a log takes no more than `largest` bytes, and `unfiltered` output reaches a terminal as it is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin(
        master: OwnedFd,
        interactive: bool,
        largest: Option<u64>,
        unfiltered: bool,
        signals: &mut Signals,
    ) -> Result<(Self, Vec<Relay>)> {
        relay::unblock(&master)?;
        let mut relays = vec![Relay::from_terminal(master.as_fd(), largest, unfiltered)?];
        if interactive {
            let modes = tcgetattr(&master).map_err(|e| fail("read the modes of the container's terminal", e))?;
            let end_of_file = SpecialCharacterIndices::VEOF as usize;
            relays
                .push(Relay::to_terminal(master.as_fd(), modes.control_chars.get(end_of_file).copied().unwrap_or(4))?);
        }
        let mut session = Self { master, raw: None };
        session.resize();
        if interactive && isatty(std::io::stdin()).unwrap_or(false) {
            wait_for_the_foreground(signals)?;
            session.raw = Some(Raw::enter()?);
        }
        Ok((session, relays))
    }

    /// The payload's terminal gets the size of the caller's.
    pub fn resize(&self) {
        let stdin = sys::terminal::size(std::io::stdin().as_fd());
        if let Some(size) = stdin.or_else(|| sys::terminal::size(std::io::stdout().as_fd())) {
            // EIO: the container has just ended.
            sys::terminal::set_size(self.master.as_fd(), &size).ok();
        }
    }

    /// After a stop: the caller's shell has set its own modes meanwhile.
    pub fn resume(&self) {
        // In the background the terminal is another's (SIGTTOU, which would say so, is held back).
        let ours = tcgetpgrp(std::io::stdin()).is_ok_and(|foreground| foreground == getpgrp());
        if let Some(raw) = self.raw.as_ref().filter(|_| ours) {
            // A terminal that is gone is noticed when it is read.
            raw.set().ok();
        }
        self.resize();
    }

    /// Gives the caller's terminal back.
    pub fn end(self, relays: &[Relay]) {
        if relays.iter().any(Relay::has_drawn) {
            // A terminal that is gone needs no calming.
            std::io::stdout().write_all(CALM).and_then(|()| std::io::stdout().flush()).ok();
        }
    }
}

/// Throws away what was typed, or answered by the terminal, and not read; a late answer comes after [`Session::end`].
pub fn forget_input() {
    // ENOTTY: it is no terminal, and then nothing is to be thrown away.
    tcflush(std::io::stdin(), FlushArg::TCIFLUSH).ok();
}

/// The caller's terminal, with every key passed on as it is; its own modes come back when this is dropped.
#[derive(Debug)]
struct Raw {
    before: Termios,
}

/// Waits while the caller's terminal is another's. Whoever can be stopped is, as soon as they touch it (SIGTTOU), and waits for `fg` that
/// way.
fn wait_for_the_foreground(signals: &mut Signals) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(100);
    let is_held_back = SigSet::thread_get_mask().is_ok_and(|mask| mask.contains(Signal::SIGTTOU));
    while is_held_back && tcgetpgrp(std::io::stdin()).is_ok_and(|foreground| foreground != getpgrp()) {
        if signals.interrupted()? {
            return Err(Error::new(
                Stage::Run,
                Kind::Failed,
                "interrupted while it waited for its turn at the terminal",
            ));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(std::io::stdin()).map_err(|e| fail("read the terminal's modes", e))?;
        let raw = Self { before };
        raw.set()?;
        Ok(raw)
    }

    fn set(&self) -> Result<()> {
        let mut modes = self.before.clone();
        cfmakeraw(&mut modes);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &modes).map_err(|e| fail("change the terminal's modes", e))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        forget_input();
        // At once: TCSADRAIN would wait for a terminal that shows nothing. One that is gone has no modes.
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before).ok();
    }
}

fn fail(what: &str, e: nix::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e.desc())
}
