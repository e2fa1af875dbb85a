//! The parent's side: starts the process that looks, and does without it where a file has ended it.
//!
//! Takes an open directory, whose it is, and rules; gives what was found, entry by entry; trusts nothing that the child says to be
//! more than text; refuses to take the silence of a child for "nothing found": the entry that it was at for too long is one that was
//! not looked at, and another child goes on behind it. Whose outputs they are may end the child, too: what a signal ended has found
//! nothing, and there is no report.

use std::io::{self, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::finding::Finding;
use super::look::{Looked, Name};
use super::protocol::{Job, Said, receive, send};
use super::rules::{Level, RuleName, Rules};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::idmap::{Extent, IdMap};
use crate::host::privilege::as_root;
use crate::host::scheduling;

/// The name under which the child is executed, and by which it is known: no file has it, and no word of a command line leads
/// there.
pub const NAME: &str = "ces: precheck";
/// Bytes of memory that it may hold: a file is held twice, and what it makes of it.
const MEMORY: u64 = 512 << 20;
/// How long one entry may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long is waited for a child that was killed.
const DYING: Duration = Duration::from_secs(1);
/// After how long a silence it is looked whether somebody has stopped it.
const SILENCE: Duration = Duration::from_millis(250);
/// How long all of it may take.
const ALL: Duration = Duration::from_secs(1800);
/// How many entries may end a child.
const ENDED: u32 = 20;

/// Whose rights the child has: one user and one group of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Ids whose files it may read besides, as which it cannot act: they are in its map, and it keeps the one capability to read what is
    /// theirs (`CAP_DAC_READ_SEARCH`, which counts for mapped ids alone: user_namespaces(7)), and none to become another.
    pub reads: Option<(u32, u32)>,
    /// Whether root's power is there to write its id map.
    pub privileged: bool,
}

/// What there was beside entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    /// Directories.
    pub directories: u64,
    /// What was not looked at, in words.
    pub left_out: Vec<String>,
}

/// Looks at all that is in `directory`; `each` gets what was found.
///
/// # Errors
/// When no child can be started, or it cannot shut itself in; and `each`'s.
pub fn look(
    directory: &OwnedFd,
    whose: Whose,
    rules: &Rules,
    each: &mut dyn FnMut(Looked) -> Result<()>,
) -> Result<Walked> {
    let until = Instant::now() + ALL;
    let map = |id, reads: Option<u32>| {
        let second = reads.filter(|reads| *reads != id).map(|reads| Extent { inside: 1, outside: reads, count: 1 });
        [Extent { inside: 0, outside: id, count: 1 }].into_iter().chain(second).collect()
    };
    let ids = IdMap {
        uids: map(whose.uid, whose.reads.map(|(uid, _)| uid)),
        gids: map(whose.gid, whose.reads.map(|(_, gid)| gid)),
    };
    let mut job = Job { rules: rules.clone(), ids, skip: 0, memory: MEMORY };
    let (mut ended, mut left_out) = (0, Vec::new());
    loop {
        let mut running = Running::start(directory, &job, whose.privileged)?;
        let (looked, end) = running.listen(until, each)?;
        job.skip = job.skip.saturating_add(looked);
        let why = match end {
            End::Done { directories, more } => {
                if more {
                    left_out.push(format!("more than {} entries", super::walk::ENTRIES));
                }
                return Ok(Walked { directories, left_out });
            }
            End::Died(None, why) => return Err(host("the process that looks died").because(why)),
            End::Died(Some(name), why) => {
                each(unseen(name, &why))?;
                why
            }
        };
        job.skip = job.skip.saturating_add(1);
        ended += 1;
        if ended >= ENDED || Instant::now() >= until {
            left_out.push(format!("what comes after the first {} entries: {why}, {ended} times", job.skip));
            return Ok(Walked { directories: 0, left_out });
        }
    }
}

/// An entry that ended who looked at it.
fn unseen(name: Name, why: &str) -> Looked {
    let because = format!("looking at it ended the process that looks: {why}");
    let rule = RuleName::NotLookedAt;
    // Whose outputs they are can make it wait: not less than what could have been found.
    let findings = vec![Finding { rule, level: Level::Block, because }];
    Looked { name, kind: "unknown".to_owned(), size: None, sha256: None, table: None, findings }
}

/// How a child came to its end.
enum End {
    Done {
        directories: u64,
        more: bool,
    },
    /// At which entry, if at any, and why.
    Died(Option<Name>, String),
}

struct Running {
    child: Child,
    control: UnixStream,
    from_child: BufReader<Patient>,
}

impl Running {
    fn start(directory: &OwnedFd, job: &Job, privileged: bool) -> Result<Self> {
        let fail = |e: io::Error| host("cannot start the process that looks").because(e);
        let (control, theirs) = UnixStream::pair().map_err(fail)?;
        let directory = directory.try_clone().map_err(fail)?;
        as_root(|root| {
            let child = Command::new("/proc/self/exe")
                .arg0(NAME)
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::from(directory))
                .stdout(OwnedFd::from(theirs))
                .stderr(Stdio::null())
                // Else it would be stopped and interrupted with this process, by the terminal.
                .process_group(0)
                .spawn()
                .map_err(fail)?;
            scheduling::give_back(root, Pid::from_raw(child.id().cast_signed())).map_err(fail)?;
            let from = control.try_clone().map_err(fail)?;
            let from_child = BufReader::new(Patient { from, child: Pid::from_raw(child.id().cast_signed()) });
            let mut running = Self { child, control, from_child };
            running.introduce(job, privileged)?;
            Ok(running)
        })
    }

    /// Sends the job, writes the map when the child has unshared, lets it go on.
    fn introduce(&mut self, job: &Job, privileged: bool) -> Result<()> {
        let fail = |e: io::Error| host("the process that looks does not answer").because(e);
        send(&self.control, job).map_err(fail)?;
        match receive::<Said>(&mut self.from_child).map_err(fail)? {
            Said::Unshared => {}
            Said::Failed { why, hint } => return Err(unconfined(&why, hint)),
            _ => return Err(host("the process that looks is not ces").because("it did not wait")),
        }
        let pid = i32::try_from(self.child.id()).map_err(|e| host("the process that looks has no id").because(e))?;
        job.ids.write(Pid::from_raw(pid), privileged)?;
        send(&self.control, &"go").map_err(fail)
    }

    /// Hears it out; gives how many entries it looked at.
    fn listen(&mut self, until: Instant, each: &mut dyn FnMut(Looked) -> Result<()>) -> Result<(u64, End)> {
        let (mut looked, mut at) = (0, None);
        loop {
            if Instant::now() >= until {
                self.end();
                return Ok((looked, End::Died(at, "there was no time left".to_owned())));
            }
            match receive::<Said>(&mut self.from_child) {
                Ok(Said::At(name)) => at = Some(name),
                Ok(Said::Looked(found)) => {
                    // Of the entry that it said: what it has read may speak by now, and only of that.
                    let found = *found;
                    if at.take().as_ref() != Some(&found.name) {
                        self.end();
                        return Ok((looked, End::Died(Some(found.name), "it told of another entry".to_owned())));
                    }
                    looked += 1;
                    each(found)?;
                }
                Ok(Said::Done { directories, more }) => return Ok((looked, End::Done { directories, more })),
                Ok(Said::Failed { why, hint }) => return Err(unconfined(&why, hint)),
                Ok(Said::Unshared) => return Err(host("the process that looks is not ces").because("it began anew")),
                Err(e) => {
                    let timed_out = matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                    if e.get_ref().is_some_and(|e| e.is::<Stopped>()) {
                        self.end();
                        return Err(stopped(at.as_ref()));
                    }
                    let status = self.end();
                    if let Some(signal) = status.and_then(|status| status.signal()) {
                        return Err(ended(signal, at.as_ref()));
                    }
                    let why = if timed_out {
                        format!("it took longer than {} seconds", PATIENCE.as_secs())
                    } else {
                        status.map_or_else(|| e.to_string(), |status| status.to_string())
                    };
                    return Ok((looked, End::Died(at, why)));
                }
            }
        }
    }

    /// Ends it; gives how it had ended before.
    fn end(&mut self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        // A child that dies has closed its socket a little before.
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        as_root(|_| self.child.kill()).ok();
        // Who waits for a file system that does not answer does not die: it is left alone, and ends with its wait.
        let until = Instant::now() + DYING;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the child says, unless it is silent for too long, or was stopped.
struct Patient {
    from: UnixStream,
    child: Pid,
}

/// It was stopped by a signal.
#[derive(Debug, thiserror::Error)]
#[error("it was stopped by a signal")]
struct Stopped;

impl io::Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let until = Instant::now() + PATIENCE;
        let silence = PollTimeout::try_from(SILENCE).unwrap_or(PollTimeout::ZERO);
        loop {
            match poll(&mut [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)], silence) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return self.from.read(buffer),
                Err(e) => return Err(e.into()),
            }
            // It is in a process group of its own: no terminal stops it, and nothing of ces does. Also if it goes on by now.
            let told = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            match waitid(Id::Pid(self.child), told) {
                Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(_)) => return Err(io::Error::other(Stopped)),
                _ if Instant::now() >= until => return Err(io::ErrorKind::TimedOut.into()),
                _ => {}
            }
        }
    }
}

/// At once: who stops it again and again, each time for less than an entry may take, would have the time of all of them.
fn stopped(at: Option<&Name>) -> Error {
    let at = at.map(|name| format!(" while it looked at {}", name.shown())).unwrap_or_default();
    host("the process that looks was stopped, and there is no report")
        .because(format!("a signal stopped it{at} (SIGSTOP or the like), and it was ended"))
        .hint("whose outputs they are can stop it: look again, as soon as nothing of theirs runs")
}

/// Nothing that it said before counts: who could end it could choose when.
fn ended(signal: i32, at: Option<&Name>) -> Error {
    let at = at.map(|name| format!(" while it looked at {}", name.shown())).unwrap_or_default();
    host("the process that looks was ended, and there is no report").because(format!("signal {signal}{at}")).hint(
        "whose outputs they are can end it, and so can a lack of memory: look again, as soon as nothing of theirs runs",
    )
}

fn host(what: &str) -> Error {
    Error::new(Stage::Outputs, Kind::Host, what)
}

fn unconfined(why: &str, hint: Option<String>) -> Error {
    let error = host("the process that looks cannot do so").because(why);
    error.hint(hint.unwrap_or_else(|| "nothing was looked at; ces doctor tells what this host lacks".to_owned()))
}
