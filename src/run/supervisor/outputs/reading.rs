//! Reading what a run left: as part of the run, within its time and its control group, or by a later command, shortly.
//!
//! Takes work that asks whether to go on; gives its answer; trusts a child of its own; refuses to be held up: a signal or the end
//! of the run's time stops the hashing, a second one or ten seconds more everything.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, pipe2};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::cgroup::Cgroup;
use crate::host::privilege::as_root;
use crate::run::process;
use crate::run::supervisor::outputs::hash::{Ask, Stop};
use crate::run::terminal::signals::Signals;

/// How long is waited for the work once it is asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// How long the work goes on before it looks again whether to stop: there may be a million small files.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Why reading ends when somebody asks for it.
pub const INTERRUPTED: &str = "interrupted";
const DEADLINE: &str = "deadline";
const SWEPT: &str = "the run was interrupted";

/// The work: told whom to ask, it gives its answer.
pub type Work<'a> = &'a dyn Fn(Ask<'_>) -> Vec<u8>;

/// Who reads, and how long.
#[derive(Debug)]
pub enum Reading<'a> {
    /// The run itself.
    Run(AtEnd<'a>),
    /// A later command, until then.
    Swept(Instant),
}

/// What a run still has when its container is gone.
#[derive(Debug)]
pub struct AtEnd<'a> {
    /// Its control group.
    pub cgroup: Option<&'a Cgroup>,
    /// The end of its time.
    pub until: Option<Instant>,
    /// Signals for it.
    pub signals: &'a mut Signals,
}

impl Reading<'_> {
    /// Lets what is read from now on take no longer than that; gives when it is over.
    pub fn bounded(&mut self, most: Duration) -> Instant {
        let latest = Instant::now() + most;
        match self {
            Self::Swept(until) => latest.min(*until),
            Self::Run(end) => {
                // Who is killed at the end of the run's time has as long again as is waited for (`read`).
                end.until = Some(end.until.map_or(latest, |until| until.max(Instant::now() + GRACE).min(latest)));
                latest
            }
        }
    }

    /// Does the work: here if it is `small`, else in a child in the run's control group.
    ///
    /// # Errors
    /// When it was ended before it gave an answer; why is all that the error says.
    pub fn read(&mut self, small: bool, work: Work<'_>) -> Result<Vec<u8>> {
        match self {
            Self::Swept(until) => {
                let ask = || stop_after(*until, SWEPT);
                Ok(work(&ask))
            }
            // What was killed at its time's end may still say what it left.
            Self::Run(end) => {
                let until = end.until.map(|until| until.max(Instant::now() + GRACE));
                if small {
                    return Ok(end.here(until, work));
                }
                match Child::start(end.cgroup, work) {
                    Ok(child) => child.wait(end.signals, until),
                    Err(_) => Ok(end.here(until, work)),
                }
            }
        }
    }
}

fn stop_after(until: Instant, why: &str) -> Option<Stop> {
    let late = Instant::now().checked_duration_since(until)?;
    Some(if late < GRACE { Stop::Hashing(why.to_owned()) } else { Stop::All(why.to_owned()) })
}

fn asks_to_end(signals: &mut Signals) -> bool {
    let ends = |s| matches!(s, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT);
    let mut asked = false;
    while let Ok(Some(signal)) = signals.take() {
        asked |= ends(signal);
    }
    asked
}

impl AtEnd<'_> {
    fn here(&mut self, until: Option<Instant>, work: Work<'_>) -> Vec<u8> {
        let signals = RefCell::new(&mut *self.signals);
        let interrupted: Cell<Option<Instant>> = Cell::new(None);
        let ask = || {
            if signals.try_borrow_mut().is_ok_and(|mut signals| asks_to_end(&mut signals)) {
                match interrupted.get() {
                    None => interrupted.set(Some(Instant::now())),
                    Some(_) => return Some(Stop::All(INTERRUPTED.to_owned())),
                }
            }
            let at = interrupted.get().and_then(|at| stop_after(at, INTERRUPTED));
            at.or_else(|| until.and_then(|until| stop_after(until, DEADLINE)))
        };
        work(&ask)
    }
}

struct Child {
    pid: Pid,
    orders: File,
    answer: File,
}

impl Child {
    fn start(cgroup: Option<&Cgroup>, work: Work<'_>) -> Result<Self> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("make a pipe", e.into()));
        let ((orders_read, orders), (answer, answer_write)) = (pipe()?, pipe()?);
        let (mut ours, mut theirs) = (Some((orders, answer)), Some((orders_read, answer_write)));
        let pid = process::fork(|| {
            // Else it would never see the end of its parent.
            ours.take();
            let Some((orders, answer)) = theirs.take() else { return 1 };
            serve(orders, answer, work).map_or(1, |()| 0)
        })
        .map_err(|e| fail("start a process for the outputs", e))?;
        drop(theirs);
        let Some((orders, answer)) = ours else { return Err(fail("start", std::io::ErrorKind::BrokenPipe.into())) };
        if let Some(cgroup) = cgroup {
            // A scope of systemd's may be gone with the last process of the run; then it is as without one.
            as_root(|root| cgroup.take_in(root, pid)).ok();
        }
        let mut child = Self { pid, orders: orders.into(), answer: answer.into() };
        child.order(b'g');
        Ok(child)
    }

    fn order(&mut self, order: u8) {
        // EPIPE: it has ended.
        self.orders.write_all(&[order]).ok();
    }

    fn wait(mut self, signals: &mut Signals, until: Option<Instant>) -> Result<Vec<u8>> {
        let (mut stop, mut end_at) = (until, None);
        let mut given = Vec::new();
        let mut why = DEADLINE;
        let ended = loop {
            let next = stop.into_iter().chain(end_at).min();
            let timeout = next.map_or(PollTimeout::NONE, |at| {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            let mut fds =
                [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(self.answer.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout).ok();
            let [signalled, answered] = fds.map(|fd| fd.any().unwrap_or(false));
            if answered {
                let mut piece = [0; 4096];
                match self.answer.read(&mut piece) {
                    Ok(0) => break true,
                    Ok(read) => given.extend_from_slice(piece.get(..read).unwrap_or_default()),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break true,
                }
            }
            if signalled && asks_to_end(signals) {
                if end_at.is_some() {
                    break false;
                }
                why = INTERRUPTED;
                self.order(b'i');
                (stop, end_at) = (None, Some(Instant::now() + GRACE));
            }
            let now = Instant::now();
            if stop.is_some_and(|at| at <= now) {
                self.order(b'd');
                (stop, end_at) = (None, Some(now + GRACE));
            }
            if end_at.is_some_and(|at| at <= now) {
                break false;
            }
        };
        process::end(self.pid);
        match given.is_empty() {
            false if ended => Ok(given),
            _ if ended => {
                Err(Error::new(Stage::Outputs, Kind::Failed, "the process that listed the outputs was killed"))
            }
            _ => Err(Error::new(Stage::Outputs, Kind::Failed, why)),
        }
    }
}

fn serve(orders: OwnedFd, answer: OwnedFd, work: Work<'_>) -> std::io::Result<()> {
    let mut orders = File::from(orders);
    orders.read_exact(&mut [0])?;
    fcntl(&orders, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let stopped: RefCell<Option<Stop>> = RefCell::new(None);
    let asked = Cell::new(Instant::now());
    let ask = || {
        let mut order = [0];
        let now = Instant::now();
        if now.duration_since(asked.get()) < BETWEEN_LOOKS {
            return stopped.borrow().clone();
        }
        asked.set(now);
        if stopped.borrow().is_none() && matches!((&orders).read(&mut order), Ok(1)) {
            let why = if order == [b'i'] { INTERRUPTED } else { DEADLINE };
            stopped.replace(Some(Stop::Hashing(why.to_owned())));
        }
        stopped.borrow().clone()
    };
    File::from(answer).write_all(&work(&ask))
}

fn fail(what: &str, e: std::io::Error) -> Error {
    Error::new(Stage::Outputs, Kind::Failed, format!("cannot {what}")).because(e)
}
