//! One stream of bytes on its way between the payload and the caller, without ever waiting for either.
//!
//! Takes two descriptors; gives what can be polled and moved a step further; trusts nothing that a payload writes to a
//! terminal; refuses to hold more than one piece of what nobody reads: then the pipe fills, and the writer waits.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{isatty, read, write};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::policy::units::show_size;
use crate::run::pipes::{self, Sink};
use crate::text::{SessionFilter, TerminalFilter};

/// What is read at once of what goes through a filter or into a log.
const PIECE: usize = 16 * 1024;

/// What is read at once of what stays as it is.
const LARGE_PIECE: usize = 256 * 1024;

/// What is written at once: little enough that a terminal which says it takes something takes it without waiting.
const CHUNK: usize = 1024;

/// What is moved within the kernel at once: as much as any pipe holds.
const SPLICED: usize = 1 << 20;

/// How often bytes are moved in one step: the other stream, signals and the deadline have their turn too.
const TURNS: usize = 8;

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
    /// The input has ended, and the payload's pipe is closed.
    Input,
    /// The input has ended; the payload's terminal is told by this character.
    Typed(u8),
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
    /// Which stream it is, in words.
    name: &'static str,
    /// Closed at the end, so that a payload whose output nobody reads is told so (SIGPIPE).
    ends: Option<(OwnedFd, OwnedFd)>,
    filter: Filter,
    end: End,
    sink: Sink,
    /// Bytes come out of a pipe, and not out of a terminal.
    piped: bool,
    /// They go to a terminal.
    on_screen: bool,
    /// Read, of which `sent` bytes are written.
    held: Vec<u8>,
    sent: usize,
    /// There was something to move and no room for it.
    full: bool,
    /// The last byte of the last line that was read.
    last: u8,
    ended: bool,
    /// The largest size of the file that it writes to, in bytes.
    largest: Option<u64>,
    /// Something was dropped.
    cut: bool,
    /// Why not everything arrived, if that is not the reader's own decision.
    lost: Option<String>,
}

impl Relay {
    fn new(name: &'static str, (from, to): (OwnedFd, OwnedFd), filter: Filter, end: End, sink: Sink) -> Self {
        Self {
            name,
            ends: Some((from, to)),
            filter,
            end,
            sink,
            piped: false,
            on_screen: false,
            held: Vec::new(),
            sent: 0,
            full: false,
            last: b'\n',
            ended: false,
            largest: None,
            cut: false,
            lost: None,
        }
    }

    /// From a pipe of the container's to standard output or error: as it is, or to a terminal through a filter unless
    /// `unfiltered`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn from_pipe(from: OwnedFd, to_stderr: bool, unfiltered: bool) -> Result<Self> {
        unblock(&from)?;
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let (name, fd) =
            if to_stderr { ("standard error", stderr.as_fd()) } else { ("standard output", stdout.as_fd()) };
        let Some(screen) = screen(fd)? else {
            let relay = Self::new(name, (from, copy(fd)?), Filter::Plain, End::Output, Sink::of(fd)?);
            return Ok(Self { piped: true, ..relay });
        };
        let filter = if unfiltered { Filter::Plain } else { Filter::Pipe(TerminalFilter::default()) };
        let relay = Self::new(name, (from, screen), filter, End::Output, Sink::Careful);
        Ok(Self { piped: true, on_screen: true, ..relay })
    }

    /// From a pipe of the container's into the log, which standard output is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn into_log(from: OwnedFd, largest: u64) -> Result<Self> {
        unblock(&from)?;
        let log = copy(std::io::stdout().as_fd())?;
        let relay = Self::new("the log", (from, log), Filter::Plain, End::Output, Sink::Plain);
        Ok(Self { largest: Some(largest), piped: true, ..relay })
    }

    /// From standard input to a pipe of the container's.
    ///
    /// What is read is copied and not spliced: a page of the caller's file would else be in a pipe that the payload can write
    /// to, which once was a way to write to the file (CVE-2022-0847).
    ///
    /// # Errors
    /// The kernel's.
    pub fn into_pipe(to: OwnedFd) -> Result<Self> {
        unblock(&to)?;
        Ok(Self::new("standard input", (input()?, to), Filter::Plain, End::Input, Sink::Plain))
    }

    /// From the payload's terminal to standard output, whatever that is; a log does not grow beyond `largest` bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn from_terminal(master: BorrowedFd<'_>, largest: Option<u64>, unfiltered: bool) -> Result<Self> {
        let stdout = std::io::stdout();
        let screen = screen(stdout.as_fd())?;
        let on_screen = screen.is_some();
        let filter = if on_screen && !unfiltered { Filter::Session(SessionFilter::default()) } else { Filter::Plain };
        let to = screen.map_or_else(|| copy(stdout.as_fd()), Ok)?;
        let relay = Self::new("standard output", (copy(master)?, to), filter, End::Output, Sink::Careful);
        Ok(Self { largest, on_screen, ..relay })
    }

    /// From standard input to the payload's terminal; where it is a file or a pipe, its end becomes `end_of_file`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn to_terminal(master: BorrowedFd<'_>, end_of_file: u8) -> Result<Self> {
        let end = if isatty(std::io::stdin()).unwrap_or(false) { End::Terminal } else { End::Typed(end_of_file) };
        Ok(Self::new("standard input", (input()?, copy(master)?), Filter::Plain, end, Sink::Careful))
    }

    /// What to wait for: something to read, or room for what was read; none at the end.
    pub fn poll_fd(&self) -> Option<PollFd<'_>> {
        let (from, to) = self.ends.as_ref()?;
        Some(if self.waits_for_room() {
            PollFd::new(to.as_fd(), PollFlags::POLLOUT)
        } else {
            PollFd::new(from.as_fd(), PollFlags::POLLIN)
        })
    }

    /// Goes one step on, when [`Relay::poll_fd`] is ready.
    pub fn step(&mut self) -> Step {
        let Some((from, to)) = self.ends.take() else { return Step::On };
        let readable = if self.sink == Sink::Splice { self.splice(&from, &to) } else { self.copy(&from, &to) };
        if !readable {
            return Step::Gone;
        }
        if !self.ended || self.waits_for_room() {
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

    /// Why not everything arrived, in words, unless nobody wanted to read it.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Ends it.
    pub fn close(&mut self) {
        self.ends = None;
    }

    /// Ends it if all that was written has arrived: for pipes whose writers have ended. One that lives on somewhere, and
    /// holds such a pipe, is not waited for. A terminal tells by itself.
    pub fn close_if_empty(&mut self) {
        let Some((from, _)) = self.ends.as_ref().filter(|_| self.piped && !self.waits_for_room()) else { return };
        if poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0) {
            self.close();
        }
    }

    /// Ends it though not everything has arrived, because of `why`.
    pub fn abandon(&mut self, why: &str) {
        if self.ends.take().is_some() {
            self.lost = Some(format!("{}: {why}", self.name));
        }
    }

    fn waits_for_room(&self) -> bool {
        self.full || self.sent < self.held.len()
    }

    /// Moves bytes from pipe to pipe or file within the kernel; false if nobody will ever read them.
    fn splice(&mut self, from: &OwnedFd, to: &OwnedFd) -> bool {
        for turn in 0..TURNS {
            match splice(from, None, to, None, SPLICED, SpliceFFlags::SPLICE_F_NONBLOCK) {
                Ok(0) => {
                    (self.ended, self.full) = (true, false);
                    return true;
                }
                Ok(_) => self.full = false,
                // At first: what was waited for is there, so that it is the other side that lacks something.
                Err(Errno::EAGAIN) => {
                    self.full = turn == 0 && !self.full;
                    return true;
                }
                Err(Errno::EINTR) => return true,
                Err(Errno::EINVAL) => {
                    (self.sink, self.full) = (Sink::without_splice(to.as_fd()), false);
                    return true;
                }
                Err(error) => return self.cannot_write(error),
            }
        }
        true
    }

    /// Reads if nothing is held, and writes what is; false if nobody will ever read it.
    fn copy(&mut self, from: &OwnedFd, to: &OwnedFd) -> bool {
        if !self.waits_for_room() {
            self.fill(from);
        }
        !self.waits_for_room() || self.drain(to)
    }

    fn fill(&mut self, from: &OwnedFd) {
        let plain = matches!(self.filter, Filter::Plain);
        let mut buffer = std::mem::take(&mut self.held);
        (self.sent, self.full) = (0, false);
        buffer.resize(if plain && self.largest.is_none() { LARGE_PIECE } else { PIECE }, 0);
        match read(from, &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => {
                (self.sent, self.held) = (buffer.len(), buffer);
                return;
            }
            Ok(n) if n > 0 => buffer.truncate(n),
            failed => {
                self.ended = true;
                match (self.end, failed) {
                    // In the middle of a line the first one only ends the line (termios(3), VEOF).
                    (End::Typed(end_of_file), _) => {
                        self.held = vec![end_of_file; if self.last == b'\n' { 1 } else { 2 }]
                    }
                    // EIO of a terminal: it is gone, or another's (tty_ioctl(4), background reads).
                    (End::Input, Err(error)) if !isatty(from).unwrap_or(false) => {
                        self.lost = Some(format!("{}: {}", self.name, error.desc()));
                    }
                    _ => {}
                }
                return;
            }
        }
        self.last = buffer.last().copied().unwrap_or(self.last);
        self.held = match &mut self.filter {
            Filter::Plain => buffer,
            Filter::Pipe(filter) => filter.pass(&buffer),
            Filter::Session(filter) => filter.pass(&buffer),
        };
    }

    /// Writes some of what is held; false if nobody will ever read it.
    fn drain(&mut self, to: &OwnedFd) -> bool {
        if let Some(largest) = self.largest {
            self.log(to, largest);
            return true;
        }
        let rest = self.held.get(self.sent..).unwrap_or_default();
        let written = match self.sink {
            Sink::Careful => write(to, rest.get(..CHUNK).unwrap_or(rest)),
            Sink::Socket => send(to.as_raw_fd(), rest, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
            Sink::Plain | Sink::Splice => write(to, rest),
        };
        match written {
            Ok(written) => {
                // What is written stays, so that its memory is not filled with zeros for the next piece.
                self.sent += written;
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => true,
            Err(error) => self.cannot_write(error),
        }
    }

    /// Who reads no further has decided so, and a terminal that is gone takes its reader with it; all else is a loss.
    fn cannot_write(&mut self, error: Errno) -> bool {
        let decided = matches!(error, Errno::EPIPE | Errno::ECONNRESET) || self.on_screen || self.is_input();
        if !decided {
            self.lost = Some(format!("{}: {}", self.name, error.desc()));
        }
        false
    }

    /// Appends what is held to the log, or drops it: whoever writes is neither held up nor ended for want of room.
    fn log(&mut self, to: &OwnedFd, largest: u64) {
        let held = std::mem::take(&mut self.held);
        self.sent = 0;
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

/// Standard input, to read from without waiting where that is possible: a file is always ready.
fn input() -> Result<OwnedFd> {
    let stdin = std::io::stdin();
    // A file once more would have a position of its own, and what follows this run would read it from the beginning.
    let may_wait = isatty(&stdin).unwrap_or(false) || pipes::is_pipe(stdin.as_fd());
    let again = if may_wait { reopen(stdin.as_fd(), OFlag::O_RDONLY) } else { None };
    again.map_or_else(|| copy(stdin.as_fd()), Ok)
}

/// The terminal on `fd`, to write to without waiting; none if it is no terminal.
fn screen(fd: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    if !isatty(fd).unwrap_or(false) {
        return Ok(None);
    }
    reopen(fd, OFlag::O_WRONLY).map_or_else(|| copy(fd), Ok).map(Some)
}

/// What is on `fd` once more, with flags of its own: those of `fd` are shared with the caller's shell. Not everyone may
/// open a terminal that they were given (su(1)).
fn reopen(fd: BorrowedFd<'_>, access: OFlag) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let open = || nix::fcntl::open(path.as_str(), flags, Mode::empty());
    match open() {
        // The terminal that sudo makes for its command (sudoers(5), `use_pty`) is root's by name, though the caller types
        // into it.
        Err(Errno::EACCES | Errno::EPERM) if isatty(fd).unwrap_or(false) && allows(fd, access) => {
            as_root(|_| open()).ok()
        }
        opened => opened.ok(),
    }
}

/// Whether what is on `fd` was opened for that already: nobody gets more of a terminal than they hold.
fn allows(fd: BorrowedFd<'_>, access: OFlag) -> bool {
    let held = fcntl(fd, FcntlArg::F_GETFL).map(|flags| OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE);
    held.is_ok_and(|held| held == OFlag::O_RDWR || held == access & OFlag::O_ACCMODE)
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
