//! `ces exec` inside: PID 1 forks the command, so that it has nothing that the payload's own parent had not.
//!
//! Takes commands from ces over a socket that PID 1 was born with; gives the wait status of each; trusts ces; refuses to
//! execute before ces has asked the kernel about the new process and said so.

use std::fs::File;
use std::io::Read as _;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, Uid, chdir, fchown, getegid, geteuid, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};

use crate::bundle::image_user::{self, ResolvedUser};
use crate::host::sys;
use crate::run::channel::Channel;
use crate::run::container::execute;
use crate::run::pipes;
use crate::run::protocol::REASON;

/// What PID 1 is told. With it come a sync channel, and, without a terminal, the three streams.
#[derive(Debug, Serialize, Deserialize)]
pub struct Execute {
    /// The command's number, by which its end is told.
    pub number: u32,
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<String>,
    /// Where it starts.
    pub cwd: String,
    /// It gets a terminal of its own.
    pub tty: bool,
    /// Whom it becomes first, as the container's own files name users; none: whoever PID 1 is.
    pub user: Option<String>,
    /// `HOME` was asked for, and is not that user's.
    pub home_is_set: bool,
}

/// What PID 1 tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    /// The command's number.
    pub number: u32,
    /// Its wait status.
    pub status: i32,
}

/// What a command's process says on its sync channel.
#[derive(Debug, Serialize, Deserialize)]
pub enum CommandState {
    /// The master side of its terminal, which it keeps no longer.
    Terminal,
    /// It waits to execute, as the user (and group) whom it was to become; the kernel says which process that is.
    Ready(Option<(u32, u32)>),
    /// It cannot become that user, and why.
    NotUser(String),
    /// It cannot be executed: `errno`, and a reason in words where more is to be said; text from the container.
    NotExecuted(i32, Option<String>),
}

/// What it is told: it may.
#[derive(Debug, Serialize, Deserialize)]
pub struct Go;

/// Takes one command from `requests`; gives its process and number, or nothing if the requests is closed.
pub fn admit(requests: &Channel) -> Option<Option<(Pid, u32)>> {
    let Ok(Some((request, mut passed))) = requests.receive_with::<Execute>() else { return None };
    let number = request.number;
    let sync = if passed.is_empty() { return Some(None) } else { passed.remove(0) };
    let child = sys::fork(|| command(&request, sync, &passed));
    // Without a process its sync channel closes, and ces knows.
    Some(child.ok().map(|pid| (pid, number)))
}

/// In the child.
fn command(request: &Execute, sync: OwnedFd, streams: &[OwnedFd]) -> i32 {
    // Closed below with all the others, not by its owner.
    let sync = ManuallyDrop::new(sync);
    let Ok(sync) = alone_with(&sync, streams, request.tty) else { return 125 };
    let user = match request.user.as_deref().map(user).transpose() {
        Ok(user) => user,
        Err(why) => return sync.send(&CommandState::NotUser(why)).map_or(125, |()| 126),
    };
    let mut env = request.env.clone();
    if let Some(home) = user.as_ref().and_then(|user| user.home.as_ref()).filter(|_| !request.home_is_set) {
        env.retain(|variable| !variable.starts_with("HOME="));
        env.push(format!("HOME={home}"));
    }
    let ids = user.map(|user| (user.uid, user.gid));
    let ready = || -> Result<(), Errno> {
        if request.tty {
            let master = own_terminal(ids.map(|(uid, _)| Uid::from_raw(uid)))?;
            sync.send_with(&CommandState::Terminal, &[master.as_fd()]).map_err(|_| Errno::EPIPE)?;
        }
        if let Some((uid, gid)) = ids.filter(|_| !request.tty) {
            give_streams(Uid::from_raw(uid), Gid::from_raw(gid));
        }
        if let Some(Err(error)) = ids.map(|(uid, gid)| become_user(uid, gid)) {
            let why = format!("the container's first process may not change its user ({})", error.desc());
            sync.send(&CommandState::NotUser(why)).map_err(|_| Errno::EPIPE)?;
            return Err(error);
        }
        sync.send(&CommandState::Ready(ids)).map_err(|_| Errno::EPIPE)?;
        sync.receive::<Go>().ok().flatten().map(|_| ()).ok_or(Errno::EPERM)?;
        chdir(request.cwd.as_str())
    };
    let (error, why) = ready().map_or_else(|error| (error, None), |()| execute::execute(&request.args, &env));
    let why = why.map(|why| why.chars().take(REASON / 4).collect());
    sync.send(&CommandState::NotExecuted(error as i32, why)).map_or(125, |()| 127)
}

/// Who `name` is in the container.
fn user(name: &str) -> Result<ResolvedUser, String> {
    let (passwd, group) = (small_file("/etc/passwd")?, small_file("/etc/group")?);
    image_user::resolve(Some(name), passwd.as_deref(), group.as_deref())
        .map_err(|e| e.causes().first().cloned().unwrap_or_else(|| e.what().to_owned()))
}

/// A file of the container's own root, which the payload may have changed: none if there is none.
fn small_file(path: &str) -> Result<Option<Vec<u8>>, String> {
    const CAP: u64 = 4 << 20;
    let fail = |e: Errno| format!("cannot read {path} of the container: {}", e.desc());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        other => File::from(other.map_err(fail)?),
    };
    if !file.metadata().is_ok_and(|found| found.is_file() && found.len() <= CAP) {
        return Err(format!("{path} of the container is no file of at most {CAP} bytes"));
    }
    let mut bytes = Vec::new();
    file.take(CAP).read_to_end(&mut bytes).map_err(|e| fail(Errno::try_from(e).unwrap_or(Errno::EIO)))?;
    Ok(Some(bytes))
}

/// With the capabilities of the run's profile, if it has them; its supplementary groups stay, and no capability does.
fn become_user(uid: u32, gid: u32) -> Result<(), Errno> {
    if (uid, gid) == (geteuid().as_raw(), getegid().as_raw()) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// A session, signals and descriptors of its own: the three streams and the sync channel, which closes when something is executed.
fn alone_with(sync: &OwnedFd, streams: &[OwnedFd], tty: bool) -> std::io::Result<Channel> {
    execute::default_signals()?;
    setsid()?;
    if !tty {
        let [stdin, stdout, stderr] = streams else { return Err(std::io::ErrorKind::InvalidInput.into()) };
        sys::replace_streams([Some(stdin), Some(stdout), Some(stderr)])?;
    }
    sys::place_fds(&[sync.as_fd()], SYNC_FD)?;
    sys::close_from(SYNC_FD.unsigned_abs() + 1)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(Channel::from_fd(sys::inherited_fd(SYNC_FD)?))
}

/// The pipes to the caller become that user's.
fn give_streams(uid: Uid, gid: Gid) {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        // EPERM: then it cannot become that user either, and says so; else they are open to it all the same.
        pipes::give_here(stream, uid, gid).ok();
    }
}

/// The sync channel's descriptor.
const SYNC_FD: i32 = 3;

/// A new terminal of the container's devpts, `owner`'s, takes the place of the three streams; gives its master side.
fn own_terminal(owner: Option<Uid>) -> Result<OwnedFd, Errno> {
    let errno = |e: std::io::Error| Errno::try_from(e).unwrap_or(Errno::EIO);
    // Not /dev/ptmx: /dev is the container's to change, devpts is the kernel's.
    let master = open("/dev/pts/ptmx", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::terminal::unlock(master.as_fd()).map_err(errno)?;
    let peer = sys::terminal::peer(master.as_fd()).map_err(errno)?;
    // EPERM: then it cannot become that user either, and says so.
    owner.map(|owner| fchown(&peer, Some(owner), None).ok());
    sys::terminal::set_controlling(peer.as_fd()).map_err(errno)?;
    sys::replace_streams([Some(&peer), Some(&peer), Some(&peer)]).map_err(errno)?;
    Ok(master)
}
