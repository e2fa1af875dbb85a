//! While the container runs: signals, the deadline, the terminal, the exit status.
//!
//! Takes a `Created` container whose protections were checked; gives an `Outcome`; trusts PID 1's report and the
//! kernel's; refuses to outlive a deadline by more than the grace period.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::detach::Report;
use super::door::{self, Door, Knock};
use super::init;
use super::record::Executed;
use super::session::Session;
use super::streams::{Relay, Step};
use super::watch::Watch;
use super::wire::{FromStage, ToStage, Wire};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys;

/// How long a payload has between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);

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

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How the payload ended.
    pub ending: Ending,
    /// Wall time from start to end.
    pub elapsed: Duration,
    /// The bound on scratch or outputs for which ces ended it, in words.
    pub exceeded: Option<String>,
    /// Published ports were no longer served, before the end.
    pub relay_lost: bool,
    /// Something of the output was dropped, because the log was full.
    pub log_cut: bool,
    /// What was executed besides the payload.
    pub executed: Vec<Executed>,
}

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

/// A created container under supervision.
#[allow(missing_debug_implementations, reason = "a closure says nothing")]
pub struct Supervised<'a> {
    /// The conversation with the stage process.
    pub wire: &'a Wire,
    /// Where PID 1 tells how the payload ended.
    pub payload_status: OwnedFd,
    /// The container's PID 1.
    pub init: OwnedFd,
    /// How long it may run.
    pub limit: Option<Duration>,
    /// Output on its way to a terminal, of a payload that has none.
    pub pipes: Vec<Relay>,
    /// The master side of the payload's own terminal.
    pub terminal: Option<OwnedFd>,
    /// Who waits for the start, and the bound on the log, if the run is detached.
    pub detached: Option<(Report, u64)>,
    /// Standard input is passed on to that terminal.
    pub interactive: bool,
    /// A terminal gets the output as it is.
    pub raw: bool,
    /// The way in for `ces exec`, where the policy has one.
    pub door: Option<Door<'a>>,
    /// Bounds on scratch and outputs.
    pub watch: Watch,
}

/// Starts the payload and stays until the container is gone.
///
/// # Errors
/// When the stage process fails.
pub fn start_and_wait(mut run: Supervised<'_>, signals: &mut Signals) -> Result<Outcome> {
    let mut relays = std::mem::take(&mut run.pipes);
    let mut session = None;
    if let Some(master) = run.terminal.take() {
        let largest = run.detached.as_ref().map(|(_, largest)| *largest);
        let (begun, joined) = Session::begin(master, run.interactive, largest, run.raw)?;
        session = Some(begun);
        relays.extend(joined);
    }
    Signals::never_stop()?;
    let ended = until_gone(&mut run, signals, session.as_ref(), &mut relays);
    // What the payload wrote last is still on its way; the other ends are closed with the container.
    drain(&mut relays, signals)?;
    if let Some(session) = session {
        session.end(&relays);
    }
    let outcome = ended?;
    let ending = if outcome.ending == Ending::TimedOut { Ending::TimedOut } else { read_ending(run.payload_status) };
    let executed = run.door.map(Door::into_executed).unwrap_or_default();
    Ok(Outcome { ending, log_cut: relays.iter().any(Relay::was_cut), executed, ..outcome })
}

/// From the start to the end of the container; the ending is what ces knows of it, before PID 1's word is read.
fn until_gone(
    run: &mut Supervised<'_>,
    signals: &mut Signals,
    session: Option<&Session>,
    relays: &mut [Relay],
) -> Result<Outcome> {
    // Before: once it is sent, others may run first.
    let began = Instant::now();
    run.wire.send(&ToStage::Start)?;
    if let Some((report, _)) = run.detached.take() {
        report.started();
    }
    let mut exceeded = None;
    let mut relay_lost = false;
    let mut deadline = Deadline::new(run.limit.map(|limit| began + limit));
    loop {
        let mut fds =
            vec![PollFd::new(signals.0.as_fd(), PollFlags::POLLIN), PollFd::new(run.wire.as_fd(), PollFlags::POLLIN)];
        fds.extend(relays.iter().filter_map(Relay::poll_fd));
        let others = fds.len();
        let knocks = run.door.as_ref().map(Door::polled).unwrap_or_default();
        fds.extend(knocks.iter().map(|(_, fd)| door::input(*fd)));
        let knocks: Vec<Knock> = knocks.into_iter().map(|(knock, _)| knock).collect();
        match poll(&mut fds, deadline.timeout(run.watch.next())) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(fail("wait for the container", e)),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        let knocked = knocks.into_iter().zip(ready.iter().skip(others)).filter(|(_, ready)| **ready);
        let knocked: Vec<Knock> = knocked.map(|(knock, _)| knock).collect();
        if let Some(door) = &mut run.door {
            door.answer(&knocked);
        }
        let hung_up = move_on(relays, ready.get(2..others).unwrap_or_default());
        if hung_up && session.is_some() {
            deadline.hang_up(&run.init);
        }
        while let Some(signal) = signals.take()? {
            match (signal, session) {
                (Signal::SIGWINCH, Some(session)) => session.resize(),
                (Signal::SIGCONT, Some(session)) => session.resume(),
                (Signal::SIGHUP, _) => deadline.hang_up(&run.init),
                // ESRCH: the container has just ended.
                _ => drop(sys::pidfd_kill(run.init.as_fd(), signal as i32)),
            }
        }
        deadline.act(&run.init);
        if exceeded.is_none()
            && let Some(bound) = run.watch.exceeded()
        {
            // At once: a time of grace would be time to write more.
            sys::pidfd_kill(run.init.as_fd(), Signal::SIGKILL as i32).ok();
            exceeded = Some(bound);
        }
        if ready.get(1).copied().unwrap_or(false) {
            match run.wire.receive::<FromStage>()? {
                Some(FromStage::RelayLost) => relay_lost = true,
                // None: killed, for want of memory or from outside; the container dies with it.
                Some(FromStage::Finished) | None => {
                    wait_gone(&run.init)?;
                    let ending = if deadline.passed { Ending::TimedOut } else { Ending::Killed };
                    return Ok(Outcome {
                        ending,
                        elapsed: began.elapsed(),
                        exceeded,
                        relay_lost,
                        log_cut: false,
                        executed: Vec::new(),
                    });
                }
                Some(FromStage::Failed(failure)) => return Err(failure.into()),
                Some(other) => {
                    return Err(Error::new(Stage::Run, Kind::Failed, format!("the stage process said {other:?}")));
                }
            }
        }
    }
}

/// Waits for the end of PID 1, which is told only when nothing is left in its namespace (pid_namespaces(7)).
fn wait_gone(init: &OwnedFd) -> Result<()> {
    // ESRCH: it has ended, as it nearly always has by now.
    sys::pidfd_kill(init.as_fd(), Signal::SIGKILL as i32).ok();
    loop {
        match poll(&mut [PollFd::new(init.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(fail("wait for the container's end", e)),
        }
    }
}

/// Moves what is ready one step on; true if who was to read or write at the caller's side is gone.
pub(super) fn move_on(relays: &mut [Relay], ready: &[bool]) -> bool {
    let mut gone = false;
    let polled = relays.iter_mut().filter(|relay| relay.poll_fd().is_some());
    for (relay, _) in polled.zip(ready).filter(|(_, ready)| **ready) {
        gone |= relay.step() == Step::Gone;
    }
    gone
}

/// Passes on what is left of the output, as long as somebody reads it and no signal says that it is enough.
pub(super) fn drain(relays: &mut [Relay], signals: &mut Signals) -> Result<()> {
    relays.iter_mut().filter(|relay| relay.is_input()).for_each(Relay::close);
    while relays.iter().any(|relay| relay.poll_fd().is_some()) {
        let mut fds = vec![PollFd::new(signals.0.as_fd(), PollFlags::POLLIN)];
        fds.extend(relays.iter().filter_map(Relay::poll_fd));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(fail("wait for the last output", e)),
        }
        let ready: Vec<bool> = fds.iter().skip(1).map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        move_on(relays, &ready);
        if signals.interrupted()? {
            return Ok(());
        }
    }
    Ok(())
}

/// The deadline: SIGTERM when it passes, SIGKILL a grace period later; when the caller's terminal is gone, SIGHUP at once and
/// SIGKILL a grace period later.
struct Deadline {
    at: Option<Instant>,
    passed: bool,
    ending: bool,
}

impl Deadline {
    fn new(at: Option<Instant>) -> Self {
        Self { at, passed: false, ending: false }
    }

    fn hang_up(&mut self, init: &OwnedFd) {
        // ESRCH: it has just ended.
        sys::pidfd_kill(init.as_fd(), Signal::SIGHUP as i32).ok();
        if !self.ending {
            let kill = Instant::now() + GRACE;
            self.at = Some(self.at.map_or(kill, |at| at.min(kill)));
            self.ending = true;
        }
    }

    /// How long to wait at most: until the deadline, or until the next look at the bounds.
    fn timeout(&self, look: Option<Instant>) -> PollTimeout {
        match self.at.into_iter().chain(look).min() {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        }
    }

    fn act(&mut self, init: &OwnedFd) {
        if self.at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        let signal = if self.ending { Signal::SIGKILL } else { Signal::SIGTERM };
        // ESRCH: it has just ended.
        sys::pidfd_kill(init.as_fd(), signal as i32).ok();
        self.passed |= !self.ending;
        self.at = if self.ending { None } else { Some(Instant::now() + GRACE) };
        self.ending = true;
    }
}

fn read_ending(status: OwnedFd) -> Ending {
    let mut message = [0; 8];
    if File::from(status).read_exact(&mut message).is_err() {
        return Ending::Killed;
    }
    let (what, value) = message.split_at(4);
    let number = |bytes: &[u8]| bytes.try_into().map(i32::from_ne_bytes).unwrap_or(0);
    match (number(what), number(value)) {
        (init::NOT_EXECUTED, errno) => Ending::NotExecuted(Errno::from_raw(errno)),
        (_, status) => Ending::of(status),
    }
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

fn fail(what: &str, e: nix::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e.desc())
}
