//! The relay of published ports: the only way between the host's loopback and the container's, and inwards alone.
//!
//! Takes sockets that `ces` listens on, on the host; gives connections to the container's own loopback; trusts nothing
//! that comes through; refuses to hold more of a connection than one pipe a direction: who does not read stops who writes.
//!
//! A child of the stage process, in the container's network namespace and control group but outside its process and mount
//! namespaces: the payload cannot see it, and never gets a descriptor of it. A socket stays in the network namespace in
//! which it was made (network_namespaces(7)), so the relay accepts on the host and connects in the container, and the
//! bytes go from socket to pipe to socket inside the kernel (splice(2)). It holds no capability and no path, and a seccomp filter
//! of its own (`bundles/seccomp/relay.toml`) leaves it no call that opens, executes or starts anything.

/// One connection: two sockets, and what flows between them.
mod link;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use self::link::{Link, Next, Pipe, Settled, TURNS};
use crate::bundle::seccomp;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys;
use crate::run::process;

/// A socket that listens on the host, and the port of the container that it leads to.
pub type Listener<'a> = (BorrowedFd<'a>, u16);

/// How long what the payload sent last may take to reach a slow reader, once the container is gone.
const DRAIN: Duration = Duration::from_secs(5);

/// Descriptors of a connection: two sockets, two pipes.
const DESCRIPTORS: u64 = 6;

/// How many events are taken from the kernel at once.
const BATCH: usize = 256;

/// The relay, as its parent sees it.
#[derive(Debug)]
pub struct Relay(Pid);

impl Relay {
    /// Forks it. To be called in the container's network namespace, before the engine forks, and with no other thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(listeners: &[Listener<'_>]) -> Result<Self> {
        let child = || match become_relay(listeners).and_then(Switchboard::run) {
            Ok(()) => 0,
            // There is nobody to tell: the parent sees that the relay is gone.
            Err(_) => 1,
        };
        process::fork(child)
            .map(Self)
            .map_err(|e| Error::new(Stage::Run, Kind::Host, "cannot start the relay of the published ports").because(e))
    }

    /// Its process number.
    pub fn pid(&self) -> Pid {
        self.0
    }

    /// Has it pass on what the container sent before its end, and waits for its own.
    pub fn finish(self) {
        // ESRCH, ECHILD: it has ended by itself.
        if kill(self.0, Signal::SIGTERM).is_ok() {
            while matches!(sys::wait_child(Some(self.0), true), Err(e) if e.kind() == std::io::ErrorKind::Interrupted) {
            }
        }
    }
}

/// In the child: gives up everything but the listeners.
fn become_relay(listeners: &[Listener<'_>]) -> nix::Result<Switchboard> {
    const FIRST: RawFd = 3;
    let io = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
    // A write to a connection that is gone is an error here, not the end.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let null = OwnedFd::from(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(io)?);
    sys::replace_streams([Some(&null), Some(&null), Some(&null)]).map_err(io)?;
    let sockets: Vec<BorrowedFd<'_>> = listeners.iter().map(|(socket, _)| *socket).collect();
    sys::place_fds(&sockets, FIRST).map_err(io)?;
    let beyond = FIRST.unsigned_abs().saturating_add(u32::try_from(sockets.len()).unwrap_or(u32::MAX));
    // The stage's conversation and the payload's status among them: whoever waits for their end waits for no relay.
    std::mem::forget(null);
    sys::close_from(beyond).map_err(io)?;
    let own: Vec<(OwnedFd, u16)> = (FIRST..)
        .zip(listeners)
        .map(|(number, (_, port))| sys::inherited_fd(number).map(|fd| (fd, *port)))
        .collect::<std::io::Result<_>>()
        .map_err(io)?;
    for set in [caps::CapSet::Bounding, caps::CapSet::Ambient, caps::CapSet::Inheritable] {
        caps::clear(None, set).map_err(|_| Errno::EPERM)?;
    }
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted] {
        caps::clear(None, set).map_err(|_| Errno::EPERM)?;
    }
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    // Compiled and installed last, when all is there that it needs: sockets, pipes and memory are what is left to ask for.
    let filter = seccomp::compile_relay().map_err(|_| Errno::EINVAL)?;
    let board = Switchboard::new(own)?;
    seccompiler::apply_filter(&filter).map_err(|_| Errno::EPERM)?;
    Ok(board)
}

/// What an event is about: the number in the kernel's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    End,
    Listener(usize),
    /// Either socket of the link in this place.
    Link(usize),
}

impl Subject {
    fn number(self) -> u64 {
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX >> 1);
        match self {
            Self::End => 0,
            Self::Listener(at) => number(at) * 2 + 1,
            Self::Link(at) => number(at) * 2 + 2,
        }
    }

    fn of(number: u64) -> Self {
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        match number {
            0 => Self::End,
            odd if odd % 2 == 1 => Self::Listener(place(odd / 2)),
            even => Self::Link(place(even / 2 - 1)),
        }
    }
}

/// Everything that the relay looks after.
struct Switchboard {
    epoll: Epoll,
    end: SignalFd,
    listeners: Vec<(OwnedFd, u16)>,
    /// Links in places that keep their number; `None` is free.
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    most: usize,
    /// No descriptors left: new connections wait in the kernel until one ends.
    full: bool,
    /// Links that have more to do than their turns allowed.
    again: VecDeque<usize>,
    pipes: Vec<Pipe>,
    /// When draining ends; set once the container is gone.
    until: Option<Instant>,
}

impl Switchboard {
    fn new(listeners: Vec<(OwnedFd, u16)>) -> nix::Result<Self> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        let taken = u64::try_from(listeners.len()).unwrap_or(u64::MAX).saturating_add(16);
        let most = usize::try_from(hard.saturating_sub(taken) / DESCRIPTORS).unwrap_or(usize::MAX).max(1);
        let mut only_term = SigSet::empty();
        only_term.add(Signal::SIGTERM);
        let end = SignalFd::with_flags(&only_term, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&end, EpollEvent::new(EpollFlags::EPOLLIN, Subject::End.number()))?;
        let board = Self {
            epoll,
            end,
            listeners,
            links: Vec::new(),
            free: Vec::new(),
            most,
            full: false,
            again: VecDeque::new(),
            pipes: Vec::new(),
            until: None,
        };
        board.listen()?;
        Ok(board)
    }

    fn listen(&self) -> nix::Result<()> {
        for (at, (listener, _)) in self.listeners.iter().enumerate() {
            fcntl(listener, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            self.epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, Subject::Listener(at).number()))?;
        }
        Ok(())
    }

    /// Until the container is gone and what it sent has been passed on.
    fn run(mut self) -> nix::Result<()> {
        loop {
            let timeout = match self.until {
                Some(until) if until <= Instant::now() || self.open() == 0 => return Ok(()),
                _ if !self.again.is_empty() => EpollTimeout::ZERO,
                Some(until) => EpollTimeout::try_from(until.saturating_duration_since(Instant::now()))
                    .unwrap_or(EpollTimeout::ZERO),
                None => EpollTimeout::NONE,
            };
            let mut events = [EpollEvent::empty(); BATCH];
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(e) => return Err(e),
            };
            for event in events.iter().take(ready) {
                match Subject::of(event.data()) {
                    Subject::End => self.begin_to_end()?,
                    Subject::Listener(at) => self.accept(at)?,
                    Subject::Link(at) => self.serve(at)?,
                }
            }
            for _ in 0..self.again.len() {
                if let Some(at) = self.again.pop_front() {
                    self.serve(at)?;
                }
            }
        }
    }

    fn open(&self) -> usize {
        self.links.len() - self.free.len()
    }

    /// The container is gone: nothing new, and nothing more to bring in.
    fn begin_to_end(&mut self) -> nix::Result<()> {
        self.end.read_signal()?;
        if self.until.is_none() {
            self.until = Some(Instant::now() + DRAIN);
            self.listeners.clear();
            for at in 0..self.links.len() {
                self.serve(at)?;
            }
        }
        Ok(())
    }

    fn accept(&mut self, at: usize) -> nix::Result<()> {
        let Some((listener, port)) = self.listeners.get(at) else { return Ok(()) };
        let port = *port;
        let mut waiting = Vec::new();
        // A few at a time: those that are open want their turn too.
        while waiting.len() < TURNS {
            if self.open() + waiting.len() >= self.most {
                self.pause()?;
                break;
            }
            match sys::accept(listener.as_fd()).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0))) {
                Ok(outer) => waiting.push(outer),
                Err(Errno::EAGAIN) => break,
                // Gone again, or an error of the network that came with it (accept(2)).
                Err(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO | Errno::ENETDOWN | Errno::EHOSTUNREACH) => {}
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) if self.open() > 0 => {
                    self.pause()?;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        for outer in waiting {
            // Nothing listens in the container: the connection is closed at once.
            let Ok(link) = Link::begin(outer, port) else { continue };
            let at = self.free.pop().unwrap_or_else(|| {
                self.links.push(None);
                self.links.len() - 1
            });
            watch(&self.epoll, &link.outer, at)?;
            watch(&self.epoll, &link.inner, at)?;
            if let Some(place) = self.links.get_mut(at) {
                *place = Some(link);
            }
            self.serve(at)?;
        }
        Ok(())
    }

    fn pause(&mut self) -> nix::Result<()> {
        if !std::mem::replace(&mut self.full, true) {
            for (listener, _) in &self.listeners {
                self.epoll.delete(listener)?;
            }
        }
        Ok(())
    }

    /// Does for the link in place `at` what can be done now.
    fn serve(&mut self, at: usize) -> nix::Result<()> {
        let Some(link) = self.links.get_mut(at).and_then(Option::as_mut) else { return Ok(()) };
        let draining = self.until.is_some();
        let next = match link.settle() {
            Settled::Connecting if !draining => Next::Wait,
            Settled::Elsewhere if !draining => {
                watch(&self.epoll, &link.inner, at)?;
                Next::Again
            }
            Settled::Connected => link.pump(&mut self.pipes, draining),
            _ => Next::Close,
        };
        match next {
            Next::Wait => {}
            Next::Again => self.again.push_back(at),
            Next::Reset | Next::Close => {
                if next == Next::Reset {
                    link.reset();
                }
                if let Some(place) = self.links.get_mut(at) {
                    *place = None;
                    self.free.push(at);
                }
                if std::mem::take(&mut self.full) {
                    self.listen()?;
                }
            }
        }
        Ok(())
    }
}

/// Every change of a socket of the link in place `at`, once (epoll(7), edge-triggered).
fn watch(epoll: &Epoll, socket: &OwnedFd, at: usize) -> nix::Result<()> {
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    epoll.add(socket, EpollEvent::new(flags, Subject::Link(at).number()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_what_it_is_about() {
        for subject in [Subject::End, Subject::Listener(0), Subject::Listener(7), Subject::Link(0), Subject::Link(4095)]
        {
            assert_eq!(Subject::of(subject.number()), subject);
        }
    }
}
