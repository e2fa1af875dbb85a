//! `ces exec` at the caller's side: streams or a terminal, signals, and the command's end.
//!
//! Takes a job's directory and a command; gives how it ended; trusts the supervisor of the run; refuses to leave the caller's
//! terminal other than it was.

use std::os::fd::AsFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::run::ending::Ending;
use crate::run::pipes;
use crate::run::supervisor::exec_server::{self, Command, ExecReply, ExecRequest};
use crate::run::terminal::relay::Relay;
use crate::run::terminal::session::Session;
use crate::run::terminal::signals::Signals;
use crate::run::terminal::streams::{self, Inside};

/// What came of a command.
#[derive(Debug)]
pub struct Executed {
    /// How it ended.
    pub ending: Ending,
    /// Why it could not be executed, in words: text from the container.
    pub not_executed: Option<String>,
    /// What of its streams was lost on the way, in words.
    pub lost: Vec<String>,
}

/// Has `command` executed in the run whose directory is `job`, and waits for its end.
///
/// # Errors
/// When it was refused, with the reason; nothing was executed then.
pub fn exec(job: &Path, command: Command, interactive: bool) -> Result<Executed> {
    if interactive {
        pipes::check_input(std::io::stdin().as_fd())?;
    }
    let mut signals = Signals::hold()?;
    let tty = command.tty;
    let channel = as_root(|root| exec_server::connect_to(root, job))?;
    let (mut relays, inside) = if tty { (Vec::new(), None) } else { join(interactive)? };
    let passed: Vec<_> = inside.iter().flatten().map(|stream| stream.as_fd()).collect();
    channel.send_with(&ExecRequest::Execute(command), &passed)?;
    drop(passed);
    drop(inside);
    let (mut session, mut not_executed) = (None, None);
    let ended = loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN), exec_server::input(channel.as_fd())];
        fds.extend(relays.iter().filter_map(Relay::poll_fd));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => break Err(Error::new(Stage::Run, Kind::Failed, "cannot wait for the command").because(e.desc())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        if streams::move_on(&mut relays, ready.get(2..).unwrap_or_default()) && session.is_some() {
            // Whoever ran this is gone: the other side hangs the command up.
            break Ok(Ending::Signalled(Signal::SIGHUP as i32));
        }
        while let Some(signal) = signals.take()? {
            match (signal, &session) {
                (Signal::SIGWINCH, Some(session)) => Session::resize(session),
                (Signal::SIGCONT, Some(session)) => Session::resume(session),
                _ => channel.send(&ExecRequest::Signal(signal as i32))?,
            }
        }
        if !ready.get(1).copied().unwrap_or(false) {
            continue;
        }
        match channel.receive_with::<ExecReply>() {
            Ok(Some((ExecReply::Started, mut passed))) if tty => {
                let master = passed.pop().ok_or_else(|| fail("the command's terminal did not come"))?;
                let (begun, joined) = Session::begin(master, interactive, None, false, &mut signals)?;
                session = Some(begun);
                relays.extend(joined);
            }
            Ok(Some((ExecReply::Started, _))) => {}
            Ok(Some((ExecReply::Ended(status), _))) => break Ok(Ending::of(status)),
            Ok(Some((ExecReply::NotExecuted(errno, why), _))) => {
                not_executed = why;
                break Ok(Ending::NotExecuted(Errno::from_raw(errno)));
            }
            Ok(Some((ExecReply::Failed(failure), _))) => break Err(failure.into()),
            // The run has ended, and the command with it.
            Ok(None) => break Ok(Ending::Killed),
            Err(error) => break Err(error),
        }
    };
    // Of the command: what it left running in the background may hold its pipes as long as the run lasts.
    streams::drain(&mut relays, &mut signals, None)?;
    if let Some(session) = session {
        session.end(&relays);
    }
    let lost = relays.iter().filter_map(Relay::lost).map(str::to_owned).collect();
    ended.map(|ending| Executed { ending, not_executed, lost })
}

/// The three streams, as for a run without a terminal.
fn join(interactive: bool) -> Result<(Vec<Relay>, Option<Inside>)> {
    streams::connect(interactive, false).map(|(relays, inside)| (relays, Some(inside)))
}

fn fail(what: &str) -> Error {
    Error::new(Stage::Run, Kind::Failed, what)
}
