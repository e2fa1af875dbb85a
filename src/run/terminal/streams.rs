//! The payload's three streams: pipes of ces's own, and what moves their bytes from and to the caller's.
//!
//! Takes the caller's streams; gives what takes their place in the container, and relays; trusts the kernel for what each is;
//! refuses to wait for one of them, or to give one of them away.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use super::relay::{Relay, Step};
use super::signals::Signals;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::process_limits;
use crate::run::pipes;

/// What takes the place of standard input, output and error in the container.
pub type Inside = [OwnedFd; 3];

/// Pipes for a payload without a terminal, joined to the caller's streams; without `interactive` there is nothing to read (as
/// with podman), and a terminal gets the output as it is when it is to be `unfiltered`.
///
/// # Errors
/// The kernel's.
pub fn connect(interactive: bool, unfiltered: bool) -> Result<(Vec<Relay>, Inside)> {
    // An ordinary user's limit holds for who writes the file, which now is ces.
    process_limits::outlive_full_files()?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut relays = Vec::new();
    let input = if interactive && !pipes::leads_nowhere(stdin.as_fd()) {
        let (read, write) = pipes::pipe()?;
        relays.push(Relay::into_pipe(write)?);
        read
    } else {
        nothing()?
    };
    let mut output = |to_stderr: bool, nowhere: bool| {
        if nowhere {
            return nothing();
        }
        let (read, write) = pipes::pipe()?;
        relays.push(Relay::from_pipe(read, to_stderr, unfiltered)?);
        Ok(write)
    };
    let out = output(false, pipes::leads_nowhere(stdout.as_fd()))?;
    let err = if pipes::are_one(stdout.as_fd(), stderr.as_fd()) {
        out.try_clone().map_err(|e| fail("copy a descriptor", Errno::try_from(e).unwrap_or(Errno::EIO)))?
    } else {
        output(true, pipes::leads_nowhere(stderr.as_fd()))?
    };
    Ok((relays, [input, out, err]))
}

/// The same for a payload whose output goes into the log, which standard output is, of at most `largest` bytes.
///
/// # Errors
/// The kernel's.
pub fn connect_log(largest: u64) -> Result<(Vec<Relay>, Inside)> {
    let (out, stdout) = pipes::pipe()?;
    let (err, stderr) = pipes::pipe()?;
    let relays = vec![Relay::into_log(out, largest)?, Relay::into_log(err, largest)?];
    Ok((relays, [nothing()?, stdout, stderr]))
}

/// The same for a payload that gets a terminal of its own.
///
/// # Errors
/// The kernel's.
pub fn connect_nothing() -> Result<Inside> {
    Ok([nothing()?, nothing()?, nothing()?])
}

/// The null device, for reading and writing.
///
/// # Errors
/// The kernel's.
pub fn nothing() -> Result<OwnedFd> {
    nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| fail("open the null device", e))
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

/// Passes on what is left of the output of those who have ended, as long as somebody reads it, no signal says that it is
/// enough, and not beyond `until`.
///
/// # Errors
/// The kernel's.
pub fn drain(relays: &mut [Relay], signals: &mut Signals, until: Option<Instant>) -> Result<()> {
    relays.iter_mut().filter(|relay| relay.is_input()).for_each(Relay::close);
    loop {
        relays.iter_mut().for_each(Relay::close_if_empty);
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(relays.iter().filter_map(Relay::poll_fd));
        if fds.len() == 1 {
            return Ok(());
        }
        let remaining = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = remaining.map_or(PollTimeout::NONE, |remaining| {
            PollTimeout::try_from(remaining + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(fail("wait for the last output", e)),
        }
        let ready: Vec<bool> = fds.iter().skip(1).map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        move_on(relays, &ready);
        if signals.interrupted()? {
            return Ok(());
        }
        if remaining == Some(Duration::ZERO) && !ready.contains(&true) {
            relays.iter_mut().for_each(|relay| relay.abandon("the rest was not read in time"));
        }
    }
}

/// What did not arrive whole, as an error that says so, if there is any: an answer that looks complete and is not would be
/// worse.
pub fn not_whole(lost: &[String]) -> Option<Error> {
    let what = "not everything was passed on between the payload and the caller";
    let hint = "is there room where the output goes? What the payload wrote to /safe_outputs is not concerned";
    let error = lost.iter().fold(Error::new(Stage::Run, Kind::Failed, what), Error::because).hint(hint);
    (!lost.is_empty()).then_some(error)
}

fn fail(what: &str, e: Errno) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e.desc())
}
