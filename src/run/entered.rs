//! `ces exec` inside: PID 1 forks the command, so that it has nothing that the payload's own parent had not.
//!
//! Takes commands from ces over a socket that PID 1 was born with; gives the wait status of each; trusts ces; refuses to
//! execute before ces has asked the kernel about the new process and said so.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, chdir, setsid};
use serde::{Deserialize, Serialize};

use super::init;
use super::wire::Wire;
use crate::host::sys;

/// What PID 1 is told. With it come the gate, and, without a terminal, the three streams.
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
}

/// What PID 1 tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    /// The command's number.
    pub number: u32,
    /// Its wait status.
    pub status: i32,
}

/// What a command's process says at the gate.
#[derive(Debug, Serialize, Deserialize)]
pub enum AtGate {
    /// The master side of its terminal, which it keeps no longer.
    Terminal,
    /// It waits to execute; the kernel says which process that is.
    Ready,
    /// It cannot be executed: `errno`.
    NotExecuted(i32),
}

/// What it is told: it may.
#[derive(Debug, Serialize, Deserialize)]
pub struct Go;

/// Takes one command from `door`; gives its process and number, or nothing if the door is closed.
pub fn admit(door: &Wire) -> Option<Option<(Pid, u32)>> {
    let Ok(Some((request, mut passed))) = door.receive_with::<Execute>() else { return None };
    let number = request.number;
    let gate = if passed.is_empty() { return Some(None) } else { passed.remove(0) };
    let child = sys::fork(|| command(&request, gate, &passed));
    // Without a process its gate closes, and ces knows.
    Some(child.ok().map(|pid| (pid, number)))
}

/// In the child.
fn command(request: &Execute, gate: OwnedFd, streams: &[OwnedFd]) -> i32 {
    // Closed below with all the others, not by its owner.
    let gate = ManuallyDrop::new(gate);
    let Ok(gate) = alone_with(&gate, streams, request.tty) else { return 125 };
    let ready = || -> Result<(), Errno> {
        if request.tty {
            let master = own_terminal()?;
            gate.send_with(&AtGate::Terminal, &[master.as_fd()]).map_err(|_| Errno::EPIPE)?;
        }
        gate.send(&AtGate::Ready).map_err(|_| Errno::EPIPE)?;
        gate.receive::<Go>().ok().flatten().map(|_| ()).ok_or(Errno::EPERM)?;
        chdir(request.cwd.as_str())
    };
    let error = ready().err().unwrap_or_else(|| init::execute(&request.args, &request.env));
    gate.send(&AtGate::NotExecuted(error as i32)).map_or(125, |()| 127)
}

/// A session, signals and descriptors of its own: the three streams and the gate, which closes when something is executed.
fn alone_with(gate: &OwnedFd, streams: &[OwnedFd], tty: bool) -> std::io::Result<Wire> {
    init::default_signals()?;
    setsid()?;
    if !tty {
        let [stdin, stdout, stderr] = streams else { return Err(std::io::ErrorKind::InvalidInput.into()) };
        sys::replace_streams([Some(stdin), Some(stdout), Some(stderr)])?;
    }
    sys::place_fds(&[gate.as_fd()], GATE)?;
    sys::close_from(GATE.unsigned_abs() + 1)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(Wire::from_fd(sys::inherited_fd(GATE)?))
}

/// The gate's number.
const GATE: i32 = 3;

/// A new terminal of the container's devpts takes the place of the three streams; gives its master side.
fn own_terminal() -> Result<OwnedFd, Errno> {
    let errno = |e: std::io::Error| Errno::try_from(e).unwrap_or(Errno::EIO);
    // Not /dev/ptmx: /dev is the container's to change, devpts is the kernel's.
    let master = open("/dev/pts/ptmx", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::terminal::unlock(master.as_fd()).map_err(errno)?;
    let peer = sys::terminal::peer(master.as_fd()).map_err(errno)?;
    sys::terminal::set_controlling(peer.as_fd()).map_err(errno)?;
    sys::replace_streams([Some(&peer), Some(&peer), Some(&peer)]).map_err(errno)?;
    Ok(master)
}
