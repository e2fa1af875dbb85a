//! While the container runs: signals, the deadline, the terminal, the exit status.
//!
//! Takes a `Created` container whose protections were checked; gives an `Outcome`; trusts PID 1's report and the
//! kernel's; refuses to outlive a deadline by more than the grace period.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::host::{sys, unstoppable};
use crate::run::channel::Channel;
use crate::run::ending::Ending;
use crate::run::observations::Running;
use crate::run::protocol::{FromStage, NOT_EXECUTED, REASON, RUNNING, ToStage};
use crate::run::supervisor::detach::Report;
use crate::run::supervisor::exec_server::{self, ExecServer, Source};
use crate::run::supervisor::record::Executed;
use crate::run::supervisor::watch::Watch;
use crate::run::terminal::relay::Relay;
use crate::run::terminal::session::Session;
use crate::run::terminal::signals::{self, Interrupts, Pressed, Signals};
use crate::run::terminal::streams::{drain, move_on};
use crate::text;

/// How long a payload has between its stop signal and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How the payload ended.
    pub ending: Ending,
    /// Why it could not be executed, in words.
    pub not_executed: Option<String>,
    /// What went wrong with ces itself while the payload ran, for which it ended it, in words.
    pub failed: Option<String>,
    /// Wall time from start to end.
    pub elapsed: Duration,
    /// The bound on scratch or outputs for which ces ended it, in words.
    pub exceeded: Option<String>,
    /// The bound that was found exceeded when it had ended by itself, in words.
    pub exceeded_at_end: Option<String>,
    /// Published ports were no longer served, before the end.
    pub relay_lost: bool,
    /// Something of the output was dropped, because the log was full.
    pub log_cut: bool,
    /// Why something did not arrive at the payload, or at the caller, in words.
    pub lost: Vec<String>,
    /// What was executed besides the payload.
    pub executed: Vec<Executed>,
    /// What of the payload still ran when it had ended, if that was looked for (a rehearsal).
    pub running: Option<Running>,
}

impl Outcome {
    fn killed(elapsed: Duration) -> Self {
        Self {
            ending: Ending::Killed,
            not_executed: None,
            failed: None,
            elapsed,
            exceeded: None,
            exceeded_at_end: None,
            relay_lost: false,
            log_cut: false,
            lost: Vec::new(),
            executed: Vec::new(),
            running: None,
        }
    }
}

/// A created container under supervision.
#[allow(missing_debug_implementations, reason = "a closure says nothing")]
pub struct Supervised<'a> {
    /// The conversation with the stage process.
    pub channel: &'a Channel,
    /// Where PID 1 tells how the payload ended.
    pub payload_status: OwnedFd,
    /// The container's PID 1.
    pub init: OwnedFd,
    /// How long it may run.
    pub limit: Option<Duration>,
    /// The signal that asks the payload to end: the image's, in the place of SIGTERM.
    pub stop_signal: i32,
    /// The streams of a payload that has no terminal.
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
    pub exec: Option<ExecServer<'a>>,
    /// Bounds on scratch and outputs.
    pub watch: Watch,
}

/// Starts the payload and stays until the container is gone.
///
/// # Errors
/// When it could not be started: nothing of the payload ran.
pub fn start_and_wait(mut run: Supervised<'_>, signals: &mut Signals) -> Result<Outcome> {
    let mut relays = std::mem::take(&mut run.pipes);
    let mut session = None;
    if let Some(master) = run.terminal.take() {
        let largest = run.detached.as_ref().map(|(_, largest)| *largest);
        let (begun, joined) = Session::begin(master, run.interactive, largest, run.raw, signals)?;
        session = Some(begun);
        relays.extend(joined);
    }
    // A supervisor that is stopped, and not the payload, would keep no deadline. A terminal that is the payload's own stops the payload;
    // without one, Ctrl-Z does nothing.
    unstoppable::ignore_job_control()?;
    let latest = run.limit.map(|limit| Instant::now() + limit);
    // Before: once it is sent, others may run first.
    let began = Instant::now();
    run.channel.send(&ToStage::Start)?;
    if let Some((report, _)) = run.detached.take() {
        report.started();
    }
    // From here on the payload runs: no error says any more that nothing did.
    let ended = until_gone(&mut run, signals, session.as_ref(), &mut relays, began);
    // What the payload wrote last is still on its way. Who reads has as long as the payload had, and the time of grace.
    let latest = latest.map(|latest| latest.max(Instant::now()) + GRACE);
    let drained = drain(&mut relays, signals, latest);
    if let Some(session) = session {
        session.end(&relays);
    }
    let failed = ended.as_ref().err().or(drained.as_ref().err()).map(ToString::to_string);
    let outcome = ended.unwrap_or_else(|_| {
        // ESRCH and the like: then nothing of it is there any more.
        wait_gone(&run.init).ok();
        Outcome::killed(began.elapsed())
    });
    let (mut ending, not_executed, running) = read_ending(run.payload_status);
    let not_executed = not_executed.filter(|_| outcome.ending != Ending::TimedOut);
    if outcome.ending == Ending::TimedOut {
        ending = Ending::TimedOut;
    }
    let executed = run.exec.map(ExecServer::into_executed).unwrap_or_default();
    let lost = relays.iter().filter_map(Relay::lost).map(str::to_owned).collect();
    let log_cut = relays.iter().any(Relay::was_cut);
    Ok(Outcome { failed, ending, not_executed, log_cut, lost, executed, running, ..outcome })
}

/// From the start to the end of the container; the ending is what ces knows of it, before PID 1's word is read.
fn until_gone(
    run: &mut Supervised<'_>,
    signals: &mut Signals,
    session: Option<&Session>,
    relays: &mut [Relay],
    began: Instant,
) -> Result<Outcome> {
    let mut exceeded = None;
    let mut relay_lost = false;
    let mut keys = Interrupts::of_this_terminal();
    let mut deadline = Deadline::new(run.limit.map(|limit| began + limit), run.stop_signal);
    loop {
        let mut fds =
            vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(run.channel.as_fd(), PollFlags::POLLIN)];
        fds.extend(relays.iter().filter_map(Relay::poll_fd));
        let others = fds.len();
        let sources = run.exec.as_ref().map(ExecServer::polled).unwrap_or_default();
        fds.extend(sources.iter().map(|(_, fd)| exec_server::input(*fd)));
        let sources: Vec<Source> = sources.into_iter().map(|(source, _)| source).collect();
        match poll(&mut fds, deadline.timeout(run.watch.next())) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(fail("wait for the container", e)),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        let ready_sources = sources.into_iter().zip(ready.iter().skip(others)).filter(|(_, ready)| **ready);
        let ready_sources: Vec<Source> = ready_sources.map(|(source, _)| source).collect();
        if let Some(exec) = &mut run.exec {
            exec.answer(&ready_sources);
        }
        let hung_up = move_on(relays, ready.get(2..others).unwrap_or_default());
        if hung_up && session.is_some() {
            deadline.hang_up(&run.init);
        }
        while let Some(signal) = signals.take()? {
            let pressed = if signal == Signal::SIGINT { keys.pressed(Instant::now()) } else { Pressed::Once };
            match (signal, session) {
                (Signal::SIGINT, None) if pressed == Pressed::Thrice => {
                    drop(signal_init(&run.init, Signal::SIGKILL as i32));
                }
                (Signal::SIGWINCH, Some(session)) => session.resize(),
                (Signal::SIGCONT, Some(session)) => session.resume(),
                (Signal::SIGHUP, _) => deadline.hang_up(&run.init),
                (Signal::SIGTERM, _) => drop(signal_init(&run.init, run.stop_signal)),
                // ESRCH: the container has just ended.
                _ => drop(signal_init(&run.init, signal as i32)),
            }
            if pressed == Pressed::Twice && session.is_none() {
                signals::tell_how_to_kill();
            }
        }
        deadline.act(&run.init);
        if exceeded.is_none()
            && let Some(bound) = run.watch.exceeded()
        {
            // At once: a time of grace would be time to write more.
            signal_init(&run.init, Signal::SIGKILL as i32).ok();
            exceeded = Some(bound);
        }
        if ready.get(1).copied().unwrap_or(false) {
            match run.channel.receive::<FromStage>()? {
                Some(FromStage::RelayLost) => relay_lost = true,
                // None: killed, for want of memory or from outside; the container dies with it.
                Some(FromStage::Finished) | None => {
                    wait_gone(&run.init)?;
                    let ending = if deadline.passed { Ending::TimedOut } else { Ending::Killed };
                    let elapsed = began.elapsed();
                    // What was written since the last look.
                    let exceeded_at_end = if exceeded.is_none() { run.watch.at_end() } else { None };
                    return Ok(Outcome { ending, exceeded, exceeded_at_end, relay_lost, ..Outcome::killed(elapsed) });
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
    signal_init(init, Signal::SIGKILL as i32).ok();
    loop {
        match poll(&mut [PollFd::new(init.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(fail("wait for the container's end", e)),
        }
    }
}

/// The deadline: the image's stop signal when it passes, SIGKILL a grace period later; when the caller's terminal is gone, SIGHUP at once and
/// SIGKILL a grace period later.
struct Deadline {
    at: Option<Instant>,
    passed: bool,
    ending: bool,
    stop_signal: i32,
}

impl Deadline {
    fn new(at: Option<Instant>, stop_signal: i32) -> Self {
        Self { at, passed: false, ending: false, stop_signal }
    }

    fn hang_up(&mut self, init: &OwnedFd) {
        // ESRCH: it has just ended.
        signal_init(init, Signal::SIGHUP as i32).ok();
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
        let signal = if self.ending { Signal::SIGKILL as i32 } else { self.stop_signal };
        // ESRCH: it has just ended.
        signal_init(init, signal).ok();
        self.passed |= !self.ending;
        self.at = if self.ending { None } else { Some(Instant::now() + GRACE) };
        self.ending = true;
    }
}

/// PID 1's word, the reason of what was not executed, and what still ran.
fn read_ending(status: OwnedFd) -> (Ending, Option<String>, Option<Running>) {
    let (mut message, mut status) = ([0; 8], File::from(status));
    let mut running = None;
    loop {
        if status.read_exact(&mut message).is_err() {
            return (Ending::Killed, None, running);
        }
        let (what, value) = message.split_at(4);
        let number = |bytes: &[u8]| bytes.try_into().map(i32::from_ne_bytes).unwrap_or(0);
        match (number(what), number(value)) {
            // Once: a payload has no descriptor of this pipe, and who says more makes no sense.
            (RUNNING, count) if running.is_none() => {
                let names = text::neutral_line(&read_reason(&mut status).unwrap_or_default());
                running = Some(Running { count: count.unsigned_abs(), names });
            }
            (NOT_EXECUTED, errno) => {
                return (Ending::NotExecuted(Errno::from_raw(errno)), read_reason(&mut status), running);
            }
            (_, status) => return (Ending::of(status), None, running),
        }
    }
}

fn read_reason(status: &mut File) -> Option<String> {
    let mut length = [0; 4];
    status.read_exact(&mut length).ok()?;
    let length = usize::try_from(i32::from_ne_bytes(length)).ok().filter(|length| (1..=REASON).contains(length))?;
    let mut reason = vec![0; length];
    status.read_exact(&mut reason).ok()?;
    Some(String::from_utf8_lossy(&reason).into_owned())
}

/// The container's first process has ids of its own: to signal it takes root's power.
fn signal_init(init: &OwnedFd, signal: i32) -> std::io::Result<()> {
    as_root(|_| sys::pidfd_kill(init.as_fd(), signal))
}

fn fail(what: &str, e: nix::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e.desc())
}
