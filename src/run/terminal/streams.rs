//! The payload's output and input on their way from and to the caller, without ever waiting for either.
//!
//! Takes descriptors; gives what can be polled and moved a step further; trusts nothing that a payload writes to a
//! terminal; refuses to hold more than one piece of what nobody reads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{isatty, pipe2, read, write};

use super::signals::Signals;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::policy::units::show_size;
use crate::text::{SessionFilter, TerminalFilter};

/// What is read at once.
const PIECE: usize = 16 * 1024;

/// What is written at once: little enough that a terminal which says it takes something takes it without waiting.
const CHUNK: usize = 1024;

/// What becomes of bytes on their way.
#[derive(Debug)]
enum Filter {
    /// Nothing.
    Plain,
    /// Escape sequences lose their power: programs that have no terminal.
    Pipe(TerminalFilter),
    /// Control strings are dropped: programs that have one.
    Session(SessionFilter),
}

/// What it means that nothing more can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The payload has closed its output.
    Output,
    /// The input has ended; the payload's terminal is told by this character.
    Input(u8),
    /// The caller's terminal is gone.
    Terminal,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One step on, or to the end.
    On,
    /// Who was to read, or to write, at the caller's side is gone.
    Gone,
}

/// Bytes from one descriptor to another.
#[derive(Debug)]
pub struct Relay {
    /// Closed at the end, so that a payload whose output nobody reads is told so (SIGPIPE).
    ends: Option<(OwnedFd, OwnedFd)>,
    filter: Filter,
    end: End,
    /// Read and not yet written.
    held: Vec<u8>,
    /// The last byte of the last line that was read.
    last: u8,
    ended: bool,
    /// The largest size of the file that it writes to, in bytes.
    largest: Option<u64>,
    /// Something was dropped.
    cut: bool,
}

impl Relay {
    fn new(from: OwnedFd, to: OwnedFd, filter: Filter, end: End) -> Self {
        Self {
            ends: Some((from, to)),
            filter,
            end,
            held: Vec::new(),
            last: b'\n',
            ended: false,
            largest: None,
            cut: false,
        }
    }

    /// A relay for standard output or error, through a filter unless `unfiltered`, and the end of a pipe to take its place;
    /// none if it is no terminal.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_output(to_stderr: bool, unfiltered: bool) -> Result<Option<(Self, OwnedFd)>> {
        let screen = if to_stderr { screen(std::io::stderr().as_fd()) } else { screen(std::io::stdout().as_fd()) };
        let Some(screen) = screen? else { return Ok(None) };
        let (from, end) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("make a pipe", e))?;
        unblock(&from)?;
        let filter = if unfiltered { Filter::Plain } else { Filter::Pipe(TerminalFilter::default()) };
        Ok(Some((Self::new(from, screen, filter, End::Output), end)))
    }

    /// A relay for standard output or error into the log, which standard output is, and the end of a pipe to take its place.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_log(largest: u64) -> Result<(Self, OwnedFd)> {
        let (from, end) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("make a pipe", e))?;
        unblock(&from)?;
        let relay = Self::new(from, copy(std::io::stdout().as_fd())?, Filter::Plain, End::Output);
        Ok((Self { largest: Some(largest), ..relay }, end))
    }

    /// From the payload's terminal to standard output, whatever that is; a log does not grow beyond `largest` bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn from_terminal(master: BorrowedFd<'_>, largest: Option<u64>, unfiltered: bool) -> Result<Self> {
        let stdout = std::io::stdout();
        let (filter, to) = match screen(stdout.as_fd())? {
            Some(screen) if unfiltered => (Filter::Plain, screen),
            Some(screen) => (Filter::Session(SessionFilter::default()), screen),
            None => (Filter::Plain, copy(stdout.as_fd())?),
        };
        Ok(Self { largest, ..Self::new(copy(master)?, to, filter, End::Output) })
    }

    /// From standard input to the payload's terminal; where it is a file or a pipe, its end becomes `end_of_file`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn to_terminal(master: BorrowedFd<'_>, end_of_file: u8) -> Result<Self> {
        let stdin = std::io::stdin();
        let is_terminal = isatty(&stdin).unwrap_or(false);
        let again = if is_terminal { reopen(stdin.as_fd(), OFlag::O_RDONLY) } else { None };
        let from = again.map_or_else(|| copy(stdin.as_fd()), Ok)?;
        let end = if is_terminal { End::Terminal } else { End::Input(end_of_file) };
        Ok(Self::new(from, copy(master)?, Filter::Plain, end))
    }

    /// What to wait for: something to read, or room for what was read; none at the end.
    pub fn poll_fd(&self) -> Option<PollFd<'_>> {
        let (from, to) = self.ends.as_ref()?;
        Some(if self.held.is_empty() {
            PollFd::new(from.as_fd(), PollFlags::POLLIN)
        } else {
            PollFd::new(to.as_fd(), PollFlags::POLLOUT)
        })
    }

    /// Goes one step on, when [`Relay::poll_fd`] is ready.
    pub fn step(&mut self) -> Step {
        let Some((from, to)) = self.ends.take() else { return Step::On };
        if self.held.is_empty() {
            self.fill(&from);
        }
        if !self.held.is_empty() && !self.drain(&to) {
            return Step::Gone;
        }
        if !self.ended || !self.held.is_empty() {
            self.ends = Some((from, to));
        } else if self.end == End::Terminal {
            return Step::Gone;
        }
        Step::On
    }

    /// Whether it leads to the payload.
    pub fn is_input(&self) -> bool {
        self.end != End::Output
    }

    /// Whether anything was shown that may have changed the terminal's state.
    pub fn has_drawn(&self) -> bool {
        matches!(&self.filter, Filter::Session(filter) if filter.has_drawn())
    }

    /// Whether something was dropped for want of room.
    pub fn was_cut(&self) -> bool {
        self.cut
    }

    /// Ends it.
    pub fn close(&mut self) {
        self.ends = None;
    }

    fn fill(&mut self, from: &OwnedFd) {
        let mut buffer = [0; PIECE];
        let bytes = match read(from, &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => return,
            Ok(n) if n > 0 => buffer.get(..n).unwrap_or_default(),
            // EIO: the other end of a terminal is closed.
            _ => {
                self.ended = true;
                if let End::Input(end_of_file) = self.end {
                    // In the middle of a line the first one only ends the line (termios(3), VEOF).
                    self.held = vec![end_of_file; if self.last == b'\n' { 1 } else { 2 }];
                }
                return;
            }
        };
        self.last = bytes.last().copied().unwrap_or(self.last);
        self.held = match &mut self.filter {
            Filter::Plain => bytes.to_vec(),
            Filter::Pipe(filter) => filter.pass(bytes),
            Filter::Session(filter) => filter.pass(bytes),
        };
    }

    /// Writes some of what is held; false if nobody will ever read it.
    fn drain(&mut self, to: &OwnedFd) -> bool {
        if let Some(largest) = self.largest {
            self.log(to, largest);
            return true;
        }
        let chunk = self.held.get(..CHUNK.min(self.held.len())).unwrap_or_default();
        match write(to, chunk) {
            Ok(written) => {
                self.held.drain(..written);
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => true,
            Err(_) => false,
        }
    }
}

impl Relay {
    /// Appends what is held to the log, or drops it: whoever writes is neither held up nor ended for want of room.
    fn log(&mut self, to: &OwnedFd, largest: u64) {
        let held = std::mem::take(&mut self.held);
        // Both streams are in one file, so its size is what counts.
        let size = fstat(to).map_or(u64::MAX, |found| u64::try_from(found.st_size).unwrap_or(u64::MAX));
        let room = usize::try_from(largest.saturating_sub(size)).unwrap_or(usize::MAX).min(held.len());
        let (kept, dropped) = held.split_at(room);
        // A file is written in one go but for a full disk.
        let written = if kept.is_empty() { Ok(0) } else { write(to, kept) };
        self.cut |= !dropped.is_empty() || written != Ok(kept.len());
        // Once, by the stream that fills the log; a disk that is full takes no words either.
        if !dropped.is_empty() && size <= largest {
            let words = format!("\nces: the log is full ({}); the rest of the output is dropped\n", show_size(largest));
            write(to, words.as_bytes()).ok();
        }
    }
}

/// Moves what is ready one step on; true if who was to read or write at the caller's side is gone.
pub fn move_on(relays: &mut [Relay], ready: &[bool]) -> bool {
    let mut gone = false;
    let polled = relays.iter_mut().filter(|relay| relay.poll_fd().is_some());
    for (relay, _) in polled.zip(ready).filter(|(_, ready)| **ready) {
        gone |= relay.step() == Step::Gone;
    }
    gone
}

/// Passes on what is left of the output, as long as somebody reads it and no signal says that it is enough.
///
/// # Errors
/// The kernel\'s.
pub fn drain(relays: &mut [Relay], signals: &mut Signals) -> Result<()> {
    relays.iter_mut().filter(|relay| relay.is_input()).for_each(Relay::close);
    while relays.iter().any(|relay| relay.poll_fd().is_some()) {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
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

/// What takes the place of standard input when that is a terminal: a descriptor of a terminal is one to write to as well,
/// past every filter. With `-i` it is opened again for reading alone; without, there is nothing to read (as with podman).
///
/// # Errors
/// When the terminal cannot be opened again.
pub fn input_beside_terminal(interactive: bool) -> Result<Option<OwnedFd>> {
    if !isatty(std::io::stdin()).unwrap_or(false) {
        return Ok(None);
    }
    let path = if interactive { "/proc/self/fd/0" } else { "/dev/null" };
    let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open_terminal(path, flags).map(Some).map_err(|e| fail("open the terminal for reading alone", e))
}

/// The null device, for reading and writing.
///
/// # Errors
/// The kernel's.
pub fn nothing() -> Result<OwnedFd> {
    nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| fail("open the null device", e))
}

/// The terminal on `fd`, to write to without waiting; none if it is no terminal.
fn screen(fd: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    if !isatty(fd).unwrap_or(false) {
        return Ok(None);
    }
    reopen(fd, OFlag::O_WRONLY).map_or_else(|| copy(fd), Ok).map(Some)
}

/// The terminal on `fd` once more, with flags of its own: those of `fd` are shared with the caller's shell. Not everyone may
/// open a terminal that they were given (su(1)).
fn reopen(fd: BorrowedFd<'_>, access: OFlag) -> Option<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open_terminal(&path, flags).ok()
}

/// Opens a terminal that this process holds already. One that sudo made for its command (sudoers(5), `use_pty`) is root's by
/// name, though the caller types into it.
fn open_terminal(own: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    let open = || nix::fcntl::open(own, flags, Mode::empty());
    match open() {
        Err(Errno::EACCES | Errno::EPERM) => as_root(|_| open()),
        opened => opened,
    }
}

fn copy(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|e| fail("copy a descriptor", Errno::try_from(e).unwrap_or(Errno::EIO)))
}

/// No read or write on `fd` shall wait. For descriptors that nobody else has.
///
/// # Errors
/// The kernel's.
pub fn unblock(fd: &OwnedFd) -> Result<()> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|e| fail("prepare a descriptor", e))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop).map_err(|e| fail("prepare a descriptor", e))
}

fn fail(what: &str, e: Errno) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e.desc())
}
