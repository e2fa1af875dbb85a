//! Starts the stage process.
//!
//! Takes a `StageRequest`; gives a running `StageProcess`; trusts the kernel; refuses to fork with a second
//! thread.
//!
//! The process is started before its work is decided: it executes this program anew while its parent reads policy and
//! image, and gets the request, with every descriptor that belongs to it, over the channel.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, pipe2};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::cgroup::Cgroup;
use crate::host::idmap::{IdMap, Writing};
use crate::host::privilege::Root;
use crate::host::scheduling;
use crate::host::sys::{self, MountChange};
use crate::run::channel::Channel;
use crate::run::process::{end, fork};
use crate::run::protocol::{CHANNEL_FD, Failure, FromStage, Passed, STAGE, StageRequest, ToStage, WRITTEN_FD};
use crate::run::stage::in_child::INSIDE_ANOTHER;
use crate::run::user_namespace;

/// A stage process that has been started, and of which nothing is known yet. It ends with this value, and with this process.
#[derive(Debug)]
pub struct Started {
    process: Process,
    channel: Channel,
    /// Of an ordinary user's process: closed everywhere, it says that the ids are mapped.
    held: Option<OwnedFd>,
}

/// A stage process that waits for its work. It ends with this value, and with this process.
#[derive(Debug)]
pub struct Idle {
    process: Process,
    channel: Channel,
    privileged: bool,
    /// Of an ordinary user's process: a map, the user namespace that gets it, and who writes it.
    mapping: Option<(IdMap, OwnedFd, Writing)>,
}

/// The stage process at work, as its parent sees it. It ends with this value, and with this process.
#[derive(Debug)]
pub struct StageProcess {
    process: Process,
    /// The conversation with it.
    pub channel: Channel,
    /// The payload's wait status comes here from PID 1 (four bytes), then end of file.
    pub payload_status: OwnedFd,
    /// Where PID 1 takes commands.
    pub exec: Channel,
}

/// A child of this process, and a descriptor that says whether it has ended.
#[derive(Debug)]
struct Process {
    pid: Pid,
    ended: OwnedFd,
}

impl Drop for Process {
    fn drop(&mut self) {
        end(self.pid);
    }
}

impl StageProcess {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid
    }

    /// Waits for one message and what comes with it; none when the process has ended, even if something that it started
    /// still holds its end of the conversation.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub fn receive(&self) -> Result<Option<(FromStage, Vec<OwnedFd>)>> {
        receive(&self.channel, &self.process)
    }
}

fn receive(channel: &Channel, process: &Process) -> Result<Option<(FromStage, Vec<OwnedFd>)>> {
    let said = PollFd::new(channel.as_fd(), PollFlags::POLLIN);
    let ended = PollFd::new(process.ended.as_fd(), PollFlags::POLLIN);
    poll_all(&mut [said.clone(), ended], PollTimeout::NONE)?;
    // What it said last was sent before its end: it is there by now.
    if poll_all(&mut [said], PollTimeout::ZERO)? { channel.receive_with() } else { Ok(None) }
}

fn poll_all(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<bool> {
    loop {
        match poll(fds, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(fail("wait for the stage process", e.into())),
        }
    }
}

/// Starts a stage process, which needs nothing to begin with: it is ready to work by the time its work is decided.
///
/// # Errors
/// The kernel's.
pub fn start(root: &Root, privileged: bool) -> Result<Started> {
    let (ours, theirs) = Channel::pair()?;
    let (written, held) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("make a pipe", e.into()))?;
    let (mut written, mut held) = (Some(written).filter(|_| !privileged), Some(held));
    let pid = fork(|| {
        // It is needed to the last.
        let Ok(channel) = sys::above(theirs.as_fd(), WRITTEN_FD).map(Channel::from_fd) else { return 1 };
        match become_stage((written.take(), held.take()), &channel) {
            Ok(never) => match never {},
            // The parent shows it; if the parent is gone there is no one to tell.
            Err(error) => channel.send(&FromStage::Failed(Failure::of(&error))).map_or(1, |()| 1),
        }
    })
    .map_err(|e| fail("start the stage process", e))?;
    drop(theirs);
    let ended = scheduling::give_back(root, pid).and_then(|()| sys::pidfd_open(pid)).map_err(|e| {
        end(pid);
        fail("follow the stage process", e)
    })?;
    drop(written);
    Ok(Started { process: Process { pid, ended }, channel: ours, held: held.filter(|_| !privileged) })
}

impl Started {
    /// Begins to give it its ids, if it is an ordinary user's; `map` is that of their containers.
    ///
    /// # Errors
    /// When it has no user namespace; what a helper refuses is told by [`Idle::ready`].
    pub fn with_ids(self, map: &IdMap) -> Result<Idle> {
        let Self { process, channel, held } = self;
        let privileged = held.is_none();
        let mut idle = Idle { process, channel, privileged, mapping: None };
        if !privileged {
            match receive(&idle.channel, &idle.process)? {
                Some((FromStage::NeedsMaps, _)) => {
                    let pid = idle.process.pid;
                    idle.mapping =
                        Some((map.clone(), user_namespace::of(pid)?, map.begin_write(pid, privileged, held)?));
                }
                Some((FromStage::Failed(failure), _)) => return Err(failure.into()),
                _ => return Err(Error::new(Stage::Run, Kind::Failed, "the stage process ended before it had work")),
            }
        }
        Ok(idle)
    }
}

impl Idle {
    /// Makes sure that an ordinary user's process has its ids: they take longer to map than policy and image to read.
    ///
    /// # Errors
    /// When they cannot be mapped.
    pub fn ready(&mut self) -> Result<()> {
        if let Some((map, namespace, writing)) = self.mapping.take() {
            writing.settle()?;
            user_namespace::keep(&map, namespace);
        }
        Ok(())
    }

    /// Gives it its work; `layer_map` is the map of the idmapped layers, if ids differ; `streams` take the place of the
    /// standard ones; `listeners` are those of the request's ports; a prepared `cgroup` is entered first of all; a rehearsal's
    /// `report` gets what is seen.
    ///
    /// # Errors
    /// The kernel's; the process is ended.
    pub fn begin(
        mut self,
        root: &Root,
        request: &StageRequest,
        layer_map: Option<&IdMap>,
        streams: &[OwnedFd; 3],
        listeners: &[BorrowedFd<'_>],
        (cgroup, report): (Option<&Cgroup>, Option<BorrowedFd<'_>>),
    ) -> Result<StageProcess> {
        let document = sealed_request(request)?;
        let (payload_status, status_write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("make a pipe", e.into()))?;
        let (exec, exec_inside) = Channel::pair()?;
        let groups = cgroup.map(|cgroup| cgroup.entrances(root)).transpose()?.unwrap_or_default();
        let layer_ns = layer_map.map(|map| user_namespace::holding(root, map, self.privileged)).transpose()?;
        let passed = Passed {
            groups: groups.len(),
            listeners: listeners.len(),
            layer_ns: layer_ns.is_some(),
            report: report.is_some(),
        };
        let descriptors: Vec<BorrowedFd<'_>> = [document.as_fd(), status_write.as_fd(), exec_inside.as_fd()]
            .into_iter()
            .chain(streams.iter().map(AsFd::as_fd))
            .chain(groups.iter().map(AsFd::as_fd))
            .chain(listeners.iter().copied())
            .chain(layer_ns.as_ref().map(AsFd::as_fd))
            .chain(report)
            .collect();
        let sent = self.channel.send_with(&ToStage::Begin(passed), &descriptors);
        // It begins when it has its ids, and not before; the helpers are heard after it has begun, but before what it says.
        self.ready()?;
        let Self { process, channel, .. } = self;
        sent.map_err(|error| {
            // It has ended, and perhaps it has said why.
            match receive(&channel, &process) {
                Ok(Some((FromStage::Failed(failure), _))) => failure.into(),
                _ => error,
            }
        })?;
        Ok(StageProcess { process, channel, payload_status, exec })
    }
}

fn sealed_request(request: &StageRequest) -> Result<OwnedFd> {
    let text = serde_json::to_vec(request)
        .map_err(|e| Error::new(Stage::Run, Kind::Failed, "cannot write the stage's request").because(e))?;
    let mut file = File::from(
        memfd_create(c"ces-request", MFdFlags::MFD_CLOEXEC).map_err(|e| fail("make a memory file", e.into()))?,
    );
    file.write_all(&text).and_then(|()| file.rewind()).map_err(|e| fail("write the stage's request", e))?;
    Ok(file.into())
}

/// What the child does between fork and exec; an ordinary user's knows by the end of `written` that it has its ids, when
/// nobody has `held` any more, and meanwhile executes the program.
fn become_stage(
    (written, held): (Option<OwnedFd>, Option<OwnedFd>),
    channel: &Channel,
) -> Result<std::convert::Infallible> {
    drop(held);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|e| fail("reset the signal mask", e.into()))?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| fail("follow ces into death", e.into()))?;
    // What it makes is for the container's users to pass through.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    // The caller's terminal, session and keys stay behind.
    nix::unistd::setsid().map_err(|e| fail("start a session", e.into()))?;
    sys::join_new_session_keyring().map_err(|e| fail("start a keyring", e))?;
    if written.is_some() {
        user_namespace::enter_unmapped(channel)?;
    }
    let program = sys::above(read_only_self()?.as_fd(), WRITTEN_FD).map_err(|e| fail("seal the ces program", e))?;
    let passed: Vec<BorrowedFd<'_>> = [channel.as_fd()].into_iter().chain(written.as_ref().map(AsFd::as_fd)).collect();
    sys::place_fds(&passed, CHANNEL_FD).map_err(|e| fail("pass descriptors on", e))?;
    let beyond = if written.is_some() { WRITTEN_FD } else { CHANNEL_FD }.unsigned_abs() + 1;
    sys::cloexec_from(beyond).map_err(|e| fail("close descriptors", e))?;
    // No argument and no variable of the caller: the container can read its PID 1's command line.
    let argv = [CString::from(STAGE)];
    Err(fail("execute the stage process", sys::exec_fd(program.as_fd(), &argv, &[])))
}

/// This program, through a read-only mount of its own: a payload that gets hold of `/proc/<pid>/exe` cannot overwrite it
/// (CVE-2019-5736). Where its path now names another file, a copy in memory serves.
fn read_only_self() -> Result<OwnedFd> {
    let what = "seal the ces program";
    let running = fs::metadata("/proc/self/exe").map_err(|e| fail(what, e))?;
    let path = fs::read_link("/proc/self/exe").map_err(|e| fail(what, e))?;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    if let Ok(fd) = openat2(AT_FDCWD, &path, how) {
        let found = nix::sys::stat::fstat(&fd).map_err(|e| fail(what, e.into()))?;
        if (found.st_dev, found.st_ino) == (running.dev(), running.ino()) {
            // An ordinary user's process is root of its own user namespace by now, and may: only root may lack the right.
            let tree = sys::clone_mount(fd.as_fd(), c"", true).map_err(|e| fail(what, e).hint(INSIDE_ANOTHER))?;
            let change =
                MountChange { set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID, idmap: None, recursive: true };
            sys::change_mount(tree.as_fd(), &change).map_err(|e| fail(what, e))?;
            return Ok(tree);
        }
    }
    let mut copy = File::from(
        memfd_create(c"ces", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).map_err(|e| fail(what, e.into()))?,
    );
    let mut running = File::open("/proc/self/exe").map_err(|e| fail(what, e))?;
    std::io::copy(&mut running, &mut copy).map_err(|e| fail(what, e))?;
    let seals = nix::fcntl::SealFlag::F_SEAL_SEAL
        | nix::fcntl::SealFlag::F_SEAL_SHRINK
        | nix::fcntl::SealFlag::F_SEAL_GROW
        | nix::fcntl::SealFlag::F_SEAL_WRITE;
    nix::fcntl::fcntl(&copy, nix::fcntl::FcntlArg::F_ADD_SEALS(seals)).map_err(|e| fail(what, e.into()))?;
    Ok(copy.into())
}

fn fail(what: &str, e: std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Host, format!("cannot {what}")).because(e)
}
