//! While the container runs: signals, the deadline, the terminal, the exit status.
//!
//! Takes a `Created` container whose protections were checked; gives an `Outcome`; trusts PID 1's report and the
//! kernel's; refuses to outlive a deadline by more than the grace period.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::pipe2;

use super::init;
use super::quota::Watch;
use super::wire::{FromStage, ToStage, Wire};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys;
use crate::text::TerminalFilter;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How the payload ended.
    pub ending: Ending,
    /// Wall time from start to end.
    pub elapsed: Duration,
    /// The bound on scratch or outputs for which ces ended it, in words.
    pub exceeded: Option<String>,
    /// Published ports were no longer served, before the end.
    pub relay_lost: bool,
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

    /// Whether a signal that asks to end has come before the start.
    ///
    /// # Errors
    /// The kernel's.
    pub fn interrupted(&mut self) -> Result<bool> {
        Ok(self
            .next()?
            .is_some_and(|s| matches!(s, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT)))
    }

    fn next(&mut self) -> Result<Option<Signal>> {
        let info = self.0.read_signal().map_err(|e| fail("read a signal", e))?;
        Ok(info.and_then(|info| i32::try_from(info.ssi_signo).ok()).and_then(|n| Signal::try_from(n).ok()))
    }
}

/// The payload's output streams on their way to a terminal: through a filter that takes escape sequences their power.
#[derive(Debug)]
pub struct TerminalPipe {
    from: OwnedFd,
    filter: TerminalFilter,
    to_stderr: bool,
}

impl TerminalPipe {
    /// A pipe whose write end takes the place of standard output or error, if that is a terminal.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_terminal(to_stderr: bool) -> Result<Option<(Self, OwnedFd)>> {
        let terminal =
            if to_stderr { nix::unistd::isatty(std::io::stderr()) } else { nix::unistd::isatty(std::io::stdout()) };
        if !terminal.unwrap_or(false) {
            return Ok(None);
        }
        let (from, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("make a pipe", e))?;
        Ok(Some((Self { from, filter: TerminalFilter::default(), to_stderr }, write)))
    }

    /// Passes on what is there; false at the end.
    fn pump(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = match nix::unistd::read(&self.from, &mut buffer) {
            Err(Errno::EINTR) => return true,
            Ok(n) if n > 0 => n,
            _ => return false,
        };
        let safe = self.filter.pass(buffer.get(..read).unwrap_or_default());
        // A terminal that is gone is no reason to end the run.
        if self.to_stderr {
            std::io::stderr().write_all(&safe).is_ok()
        } else {
            std::io::stdout().write_all(&safe).is_ok() && std::io::stdout().flush().is_ok()
        }
    }
}

/// What takes the place of standard input when that is a terminal: a descriptor of a terminal is one to write to as well,
/// past every filter. With `-i` it is opened again for reading alone; without, there is nothing to read (as with podman).
///
/// # Errors
/// When the terminal cannot be opened again.
pub fn input_beside_terminal(interactive: bool) -> Result<Option<OwnedFd>> {
    if !nix::unistd::isatty(std::io::stdin()).unwrap_or(false) {
        return Ok(None);
    }
    let path = if interactive { "/proc/self/fd/0" } else { "/dev/null" };
    let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty());
    opened.map(Some).map_err(|e| fail("open the terminal for reading alone", e))
}

/// A created container under supervision.
#[derive(Debug)]
pub struct Supervised<'a> {
    /// The conversation with the stage process.
    pub wire: &'a Wire,
    /// Where PID 1 tells how the payload ended.
    pub payload_status: OwnedFd,
    /// The container's PID 1.
    pub init: OwnedFd,
    /// How long it may run.
    pub limit: Option<Duration>,
    /// Output on its way to a terminal.
    pub pipes: Vec<TerminalPipe>,
    /// Bounds on scratch and outputs.
    pub watch: Watch,
}

/// Starts the payload and stays until the container is gone.
///
/// # Errors
/// When the stage process fails.
pub fn start_and_wait(mut run: Supervised<'_>, signals: &mut Signals) -> Result<Outcome> {
    run.wire.send(&ToStage::Start)?;
    let began = Instant::now();
    let mut exceeded = None;
    let mut relay_lost = false;
    let mut deadline = Deadline { at: run.limit.map(|limit| began + limit), passed: false };
    loop {
        let mut fds =
            vec![PollFd::new(signals.0.as_fd(), PollFlags::POLLIN), PollFd::new(run.wire.as_fd(), PollFlags::POLLIN)];
        fds.extend(run.pipes.iter().map(|pipe| PollFd::new(pipe.from.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, deadline.timeout(run.watch.next())) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(fail("wait for the container", e)),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        let mut index = 1;
        run.pipes.retain_mut(|pipe| {
            index += 1;
            !ready.get(index).copied().unwrap_or(false) || pipe.pump()
        });
        while let Some(signal) = signals.next()? {
            // ESRCH: the container has just ended.
            sys::pidfd_kill(run.init.as_fd(), signal as i32).ok();
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
                Some(FromStage::Finished) => break,
                Some(FromStage::RelayLost) => relay_lost = true,
                Some(FromStage::Failed(failure)) => return Err(failure.into()),
                Some(other) => {
                    return Err(Error::new(Stage::Run, Kind::Failed, format!("the stage process said {other:?}")));
                }
                // Killed, for want of memory or from outside; the container dies with it.
                None => break,
            }
        }
    }
    // What the payload wrote last is still in the pipes; their write ends are closed with the container.
    for pipe in &mut run.pipes {
        while pipe.pump() {}
    }
    let ending = if deadline.passed { Ending::TimedOut } else { read_ending(run.payload_status) };
    Ok(Outcome { ending, elapsed: began.elapsed(), exceeded, relay_lost })
}

/// The deadline: SIGTERM when it passes, SIGKILL a grace period later.
struct Deadline {
    at: Option<Instant>,
    passed: bool,
}

impl Deadline {
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
        let signal = if self.passed { Signal::SIGKILL } else { Signal::SIGTERM };
        // ESRCH: it has just ended.
        sys::pidfd_kill(init.as_fd(), signal as i32).ok();
        self.at = if self.passed { None } else { Some(Instant::now() + GRACE) };
        self.passed = true;
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
        (_, status) if libc::WIFSIGNALED(status) => Ending::Signalled(libc::WTERMSIG(status)),
        (_, status) => Ending::Exited(libc::WEXITSTATUS(status)),
    }
}

impl Ending {
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
