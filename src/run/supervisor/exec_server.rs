//! `ces exec` at the supervisor: who may come in, and what is checked before anything is executed.
//!
//! Takes commands over a socket in the job's own directory; gives them to PID 1; trusts the kernel for who calls
//! (`SO_PEERCRED`) and which process will execute (`SCM_CREDENTIALS`); refuses whatever does not stand the enforced check.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, setsockopt, socket,
    sockopt,
};
use nix::unistd::{Pid, getuid};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::redact::{self, Redacted};
use crate::host::ids::HostIds;
use crate::host::log_dir::LogDir;
use crate::host::privilege::{Root, as_root};
use crate::host::sys;
use crate::run::channel::Channel;
use crate::run::container::exec::{CommandState, Ended, Execute, Go};
use crate::run::ending::Ending;
use crate::run::job_id::JobId;
use crate::run::pipes;
use crate::run::protocol::Failure;
use crate::run::supervisor::enforced::{Device, Enforced};
use crate::run::supervisor::record::{self, Executed};

/// More commands at once are refused.
const MOST: usize = 32;
/// How many commands a run's record tells of, and how long they are together, in bytes, without what is withheld.
const MOST_EXECUTED: usize = 1000;
const LONGEST_EXECUTED: usize = 128 << 10;

/// What `ces exec` says.
#[derive(Debug, Serialize, Deserialize)]
pub enum ExecRequest {
    /// First, and with the three streams unless `tty`.
    Execute(Command),
    /// ForkedTask: a signal for the command.
    Signal(i32),
}

/// A command, as it is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Command {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Variables over those of the run.
    pub env: Vec<(String, String)>,
    /// Where it starts; none: where the payload did.
    pub cwd: Option<String>,
    /// It gets a terminal of its own.
    pub tty: bool,
    /// Whom of the container's users it becomes; none: whoever the container's first process is.
    pub user: Option<String>,
    /// Who asks.
    pub by: String,
}

/// What `ces exec` is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum ExecReply {
    /// It is about to execute; the master side of its terminal comes along.
    Started,
    /// It has ended with this wait status.
    Ended(i32),
    /// It could not be executed: `errno`, and a reason in words where more is to be said.
    NotExecuted(i32, Option<String>),
    /// It was refused.
    Failed(Failure),
}

/// Asks the kernel about a process that waits to execute, on its own terminal and as another user, if it is to be.
pub type Check<'a> = Box<dyn Fn(Pid, Option<Device>, Option<(u32, u32)>) -> Result<Enforced> + 'a>;

/// What a command has that says nothing else.
#[derive(Debug, Clone)]
pub struct Base {
    /// Whose the streams become, if it takes root's power to give them.
    pub owner: Option<HostIds>,
    /// The payload's environment.
    pub env: Vec<String>,
    /// Where the payload started.
    pub cwd: String,
}

/// The server.
#[allow(missing_debug_implementations, reason = "a closure says nothing")]
pub struct ExecServer<'a> {
    listener: OwnedFd,
    init: Channel,
    base: Base,
    check: Check<'a>,
    run: (LogDir, JobId),
    sessions: Vec<Session>,
    executed: Vec<Executed>,
}

struct Session {
    client: Option<Channel>,
    /// Its place among the executed, once it has asked.
    number: Option<usize>,
    sync: Option<Channel>,
    process: Option<OwnedFd>,
    tty: bool,
    master: Option<OwnedFd>,
}

/// What can be ready.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// Somebody comes.
    Listener,
    /// PID 1 tells of an end.
    Init,
    /// A client says something.
    Client(usize),
    /// A process speaks on its sync channel.
    Sync(usize),
}

/// Listens in the job's directory, for root and the run's own user alone.
///
/// # Errors
/// The kernel's.
pub fn listen_in(_: &Root, job: &Path) -> Result<OwnedFd> {
    let make = || -> std::io::Result<OwnedFd> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let (_dir, address) = address(job)?;
        bind(socket.as_raw_fd(), &address)?;
        std::fs::set_permissions(job.join(NAME), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        listen(&socket, Backlog::new(8)?)?;
        Ok(socket)
    };
    make().map_err(|e| fail("listen for ces exec", e))
}

/// Connects to the socket of a job.
///
/// # Errors
/// When it has none: the policy did not allow it when the run began.
pub fn connect_to(_: &Root, job: &Path) -> Result<Channel> {
    let reach = || -> std::io::Result<OwnedFd> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let (_dir, address) = address(job)?;
        connect(socket.as_raw_fd(), &address)?;
        Ok(socket)
    };
    reach().map(Channel::from_fd).map_err(|e| {
        fail("reach the run", e)
            .hint("the policy (interactive.exec) must allow it when the run begins, and the run be alive")
    })
}

const NAME: &str = "exec.sock";

/// An address by descriptor: a path may be longer than an address.
fn address(job: &Path) -> std::io::Result<(std::fs::File, UnixAddr)> {
    let dir = std::fs::File::open(job)?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()).as_str())?;
    Ok((dir, address))
}

impl<'a> ExecServer<'a> {
    /// Opens the way from `listener` to `init`, past `check`; what is executed is written to the audit log of `run` first.
    pub fn new(listener: OwnedFd, init: Channel, base: Base, run: (LogDir, JobId), check: Check<'a>) -> Self {
        Self { listener, init, base, check, run, sessions: Vec::new(), executed: Vec::new() }
    }

    /// What to wait for.
    pub fn polled(&self) -> Vec<(Source, BorrowedFd<'_>)> {
        let mut all = vec![(Source::Listener, self.listener.as_fd()), (Source::Init, self.init.as_fd())];
        for (at, session) in self.sessions.iter().enumerate() {
            all.extend(session.client.iter().map(|client| (Source::Client(at), client.as_fd())));
            all.extend(session.sync.iter().map(|sync| (Source::Sync(at), sync.as_fd())));
        }
        all
    }

    /// Answers what is ready. Nothing of a client's is an error of the run.
    pub fn answer(&mut self, ready: &[Source]) {
        // The sync channels first: what is said there is said before PID 1 tells of the end.
        let (syncs, others): (Vec<Source>, Vec<Source>) =
            ready.iter().partition(|source| matches!(source, Source::Sync(_)));
        for source in syncs.into_iter().chain(others) {
            match source {
                Source::Listener => self.listener(),
                Source::Init => self.ended(),
                Source::Client(at) => self.client(at),
                Source::Sync(at) => self.sync(at),
            }
        }
    }

    /// What was executed.
    pub fn into_executed(self) -> Vec<Executed> {
        self.executed
    }

    fn listener(&mut self) {
        let Ok(client) = sys::passed::accept(self.listener.as_fd()) else { return };
        let known = getsockopt(&client, sockopt::PeerCredentials)
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == getuid().as_raw());
        // Sessions keep their places, which are their names while they are polled.
        let alive = self.sessions.iter().filter(|session| session.client.is_some() || session.sync.is_some()).count();
        if known && alive < MOST {
            let client = Some(Channel::from_fd(client));
            self.sessions.push(Session { client, number: None, sync: None, process: None, tty: false, master: None });
        }
    }

    fn client(&mut self, at: usize) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        let said = session.client.as_ref().and_then(|client| client.receive_with::<ExecRequest>().ok().flatten());
        match said {
            Some((ExecRequest::Execute(command), streams)) if session.number.is_none() => {
                if let Err(error) = self.execute(at, command, &streams) {
                    self.refuse(at, &error);
                }
            }
            Some((ExecRequest::Signal(signal), _)) => self.signal(at, signal),
            // It is gone, or makes no sense: its command is hung up.
            _ => {
                session.client = None;
                self.signal(at, Signal::SIGHUP as i32);
            }
        }
    }

    fn execute(&mut self, at: usize, command: Command, streams: &[OwnedFd]) -> Result<()> {
        for stream in streams {
            pipes::check_stream(stream.as_fd())?;
            self.base.owner.iter().try_for_each(|owner| as_root(|root| pipes::give(root, stream.as_fd(), owner)))?;
        }
        let (ours, theirs) = Channel::pair()?;
        setsockopt(&ours.as_fd(), sockopt::PassCred, &true).map_err(|e| fail("know who executes", e.into()))?;
        let mut env = self.base.env.clone();
        for (name, value) in &command.env {
            env.retain(|known| known.split_once('=').is_none_or(|(known, _)| known != name));
            env.push(format!("{name}={value}"));
        }
        let number = self.executed.len();
        let kept = Redacted::of(&command.args);
        let length: usize =
            self.executed.iter().flat_map(|one| one.command.iter()).chain(kept.iter()).map(String::len).sum();
        if number >= MOST_EXECUTED || length > LONGEST_EXECUTED {
            return Err(Error::new(Stage::Run, Kind::Usage, "the run's record holds no more commands")
                .because(format!(
                    "{MOST_EXECUTED} are kept, of together {LONGEST_EXECUTED} bytes with names of options"
                ))
                .hint("start another run, or one shell in which the commands are given (ces exec -it)"));
        }
        let request = Execute {
            number: u32::try_from(number).unwrap_or(u32::MAX),
            args: command.args.clone(),
            env,
            cwd: command.cwd.clone().unwrap_or_else(|| self.base.cwd.clone()),
            tty: command.tty,
            user: command.user.clone(),
            home_is_set: command.env.iter().any(|(name, _)| name == "HOME"),
        };
        let passed: Vec<BorrowedFd<'_>> = [theirs.as_fd()].into_iter().chain(streams.iter().map(AsFd::as_fd)).collect();
        self.init.send_with(&request, &passed)?;
        let at_work = Executed {
            started: record::now(),
            command: kept,
            environment: redact::variables(&command.env, &[]),
            by: command.by,
            tty: command.tty,
            user: command.user,
            enforced: None,
            exit: None,
        };
        self.executed.push(at_work);
        if let Some(session) = self.sessions.get_mut(at) {
            (session.number, session.sync, session.tty) = (Some(number), Some(ours), command.tty);
        }
        Ok(())
    }

    fn sync(&mut self, at: usize) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        match session.sync.as_ref().map(Channel::receive_from) {
            Some(Ok(Some((CommandState::Terminal, mut passed, _)))) => session.master = passed.pop(),
            Some(Ok(Some((CommandState::Ready(user), _, Some(sender))))) if session.process.is_none() => {
                if let Err(error) = self.ready(at, sender, user) {
                    self.signal(at, Signal::SIGKILL as i32);
                    self.refuse(at, &error);
                }
            }
            Some(Ok(Some((CommandState::NotUser(why), ..)))) => {
                let user = session.number.and_then(|number| self.executed.get(number)).and_then(|one| one.user.clone());
                let what = format!("cannot become user {} of the container", user.unwrap_or_default());
                self.refuse(
                    at,
                    &Error::new(Stage::Run, Kind::Missing, what)
                        .because(why)
                        .hint("only root of a run with --profile service may; or start the run with --user"),
                );
                self.drop_sync(at);
            }
            Some(Ok(Some((CommandState::NotExecuted(errno, why), ..)))) => {
                let ending = Ending::NotExecuted(nix::Error::from_raw(errno));
                self.settle(at, ending, &ExecReply::NotExecuted(errno, why));
                self.drop_sync(at);
            }
            // Closed: it is executed, or gone; then PID 1 tells.
            _ => self.drop_sync(at),
        }
    }

    fn drop_sync(&mut self, at: usize) {
        if let Some(session) = self.sessions.get_mut(at) {
            session.sync = None;
            if session.process.is_none() {
                let error = Error::new(Stage::Run, Kind::Failed, "the command's process could not be made");
                self.refuse(at, &error.hint("the run may have reached its limit of processes (--pids-limit)"));
            }
        }
    }

    /// A process waits: the kernel is asked, the audit log written, and then it may.
    fn ready(&mut self, at: usize, pid: Pid, user: Option<(u32, u32)>) -> Result<()> {
        let Some(session) = self.sessions.get_mut(at) else { return Ok(()) };
        let master = session.master.take();
        let process = sys::pidfd_open(pid).map_err(|e| fail("follow the command", e))?;
        session.process = Some(process);
        if session.tty != master.is_some() {
            return Err(Error::new(Stage::Run, Kind::Failed, "the command's terminal did not come"));
        }
        let terminal = master.as_ref().map(|master| Device::peer_of(master.as_fd())).transpose()?;
        let enforced = (self.check)(pid, terminal, user)?;
        let Some(executed) = session.number.and_then(|number| self.executed.get_mut(number)) else { return Ok(()) };
        executed.enforced = serde_json::to_value(&enforced).ok();
        as_root(|root| record::audit_executed(root, &self.run.0, &self.run.1, executed))?;
        let passed: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
        if let Some(client) = &session.client {
            client.send_with(&ExecReply::Started, &passed)?;
        }
        match &session.sync {
            Some(sync) => sync.send(&Go),
            None => Ok(()),
        }
    }

    fn ended(&mut self) {
        let Ok(Some(Ended { number, status })) = self.init.receive::<Ended>() else { return };
        let number = usize::try_from(number).ok();
        if let Some(at) = self.sessions.iter().position(|session| session.number == number && number.is_some()) {
            self.settle(at, Ending::of(status), &ExecReply::Ended(status));
        }
    }

    fn settle(&mut self, at: usize, ending: Ending, word: &ExecReply) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        if let Some(executed) = session.number.and_then(|number| self.executed.get_mut(number)) {
            executed.exit.get_or_insert(ending.exit_status());
        }
        if let Some(client) = session.client.take() {
            // It may be gone: then there is no one to tell.
            client.send(word).ok();
        }
        session.process = None;
    }

    fn refuse(&mut self, at: usize, error: &Error) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        if let Some(client) = session.client.take() {
            client.send(&ExecReply::Failed(Failure::of(error))).ok();
        }
    }

    fn signal(&self, at: usize, signal: i32) {
        if let Some(process) = self.sessions.get(at).and_then(|session| session.process.as_ref()) {
            // ESRCH: it has just ended.
            as_root(|_| sys::pidfd_kill(process.as_fd(), signal)).ok();
        }
    }
}

/// To wait for input on `fd`.
pub fn input(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

fn fail(what: &str, e: std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e)
}
