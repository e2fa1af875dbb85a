//! User namespaces: made, mapped, kept.
//!
//! Takes id maps; gives namespaces that have them, and does work in them; trusts nothing that comes back before the maps are
//! written; refuses to fork with a second thread.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use caps::CapSet;
use caps::errors::CapsError;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, pipe2, setresgid, setresuid};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::idmap::IdMap;
use crate::host::privilege::Root;
use crate::run::channel::Channel;
use crate::run::process::{end, fork};
use crate::run::protocol::{Failure, FromStage, ToStage};

/// A user namespace with `map`, kept alive by the descriptor alone.
pub fn holding(_: &Root, map: &IdMap, privileged: bool) -> Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    let holder = fork(|| {
        let made = unshare(CloneFlags::CLONE_NEWUSER).is_ok() && theirs.send(&FromStage::NeedsMaps).is_ok();
        // Lives until the parent has opened the namespace and ends it.
        if made && theirs.receive::<ToStage>().is_ok() { 0 } else { 1 }
    })
    .map_err(|e| fail("start a process for the layers' user namespace", e))?;
    drop(theirs);
    let namespace = match ours.receive()? {
        Some(FromStage::NeedsMaps) => map.write(holder, privileged).and_then(|()| of(holder)),
        _ => Err(Error::new(Stage::Run, Kind::Host, "cannot make a user namespace for the layers")
            .hint("see ces doctor: user.max_user_namespaces may be 0")),
    };
    end(holder);
    namespace
}

/// An ordinary user's first user namespace, and its map. What is done later with the same ids is done there: making another
/// asks two helpers again, which takes as long as all else together.
static KEPT: OnceLock<(IdMap, OwnedFd)> = OnceLock::new();

/// Keeps a user namespace that has `map`, unless there is one already.
pub fn keep(map: &IdMap, namespace: OwnedFd) {
    KEPT.get_or_init(|| (map.clone(), namespace));
}

/// The user namespace of a process.
pub fn of(pid: Pid) -> Result<OwnedFd> {
    let opened = File::open(format!("/proc/{pid}/ns/user"));
    opened.map(OwnedFd::from).map_err(|e| fail("open a user namespace", e))
}

fn kept(map: &IdMap) -> Option<BorrowedFd<'static>> {
    KEPT.get().filter(|(kept, _)| kept == map).map(|(_, namespace)| namespace.as_fd())
}

/// Does `work` with power over every id of `map`: directly when privileged, for then that power is lent already, else in a child that is root of a user
/// namespace with that map.
///
/// # Errors
/// `work`'s own, and the kernel's.
pub fn with_ids(_: &Root, map: &IdMap, privileged: bool, work: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    if privileged {
        return work();
    }
    let (ours, theirs) = Channel::pair()?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("make a pipe", e.into()))?;
    let mut write = Some(write);
    let child = fork(|| {
        let entered = match kept(map) {
            Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWUSER)
                .map_err(|e| fail("enter a user namespace", e.into()))
                .and_then(|()| become_root()),
            None => enter_user_namespace(&theirs, CloneFlags::empty()),
        };
        let done = entered.and_then(|()| work()).and_then(|answer| {
            write.take().map_or(Ok(()), |write| File::from(write).write_all(&answer)).map_err(|e| fail("answer", e))
        });
        match done {
            Ok(()) => 0,
            Err(error) => theirs.send(&FromStage::Failed(Failure::of(&error))).map_or(1, |()| 1),
        }
    })
    .map_err(|e| fail("start a process with your subordinate ids", e))?;
    drop((theirs, write));
    let answer = (|| {
        if kept(map).is_none() {
            let Some(FromStage::NeedsMaps) = ours.receive()? else {
                return Err(Error::new(Stage::Run, Kind::Host, "cannot make a user namespace").hint("see ces doctor"));
            };
            map.write(child, privileged)?;
            keep(map, of(child)?);
            ours.send(&ToStage::MapsWritten)?;
        }
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut File::from(read), &mut answer).map_err(|e| fail("read an answer", e))?;
        match ours.receive()? {
            Some(FromStage::Failed(failure)) => Err(failure.into()),
            _ => Ok(answer),
        }
    })();
    end(child);
    answer
}

/// Makes a user namespace (with `more`), has its maps written by the other side, and becomes root in it.
///
/// # Errors
/// The kernel's.
pub fn enter_user_namespace(channel: &Channel, more: CloneFlags) -> Result<()> {
    unshare_user(more)?;
    channel.send(&FromStage::NeedsMaps)?;
    channel.expect(&ToStage::MapsWritten)?;
    become_root()
}

/// Makes a user and a mount namespace and asks for the maps, but does not wait for them: the power over both survives the
/// execution of another program, which a user who is nobody yet would lose (capabilities(7), "Ambient").
pub fn enter_unmapped(channel: &Channel) -> Result<()> {
    unshare_user(CloneFlags::CLONE_NEWNS)?;
    channel.send(&FromStage::NeedsMaps)?;
    let keep = || -> Result<(), CapsError> {
        let all = caps::read(None, CapSet::Permitted)?;
        caps::set(None, CapSet::Inheritable, &all)?;
        caps::set(None, CapSet::Ambient, &all)
    };
    keep().map_err(|e| fail("keep the power over a user namespace", std::io::Error::other(e)))
}

/// The other half, in the program that was executed: root, once `written` is at its end.
pub fn become_root_once_mapped(written: OwnedFd) -> Result<()> {
    std::io::Read::read_to_end(&mut File::from(written), &mut Vec::new())
        .map_err(|e| fail("wait for the id maps", e))?;
    become_root()?;
    // Root needs none of these to have its power.
    let drop = || caps::clear(None, CapSet::Ambient).and_then(|()| caps::clear(None, CapSet::Inheritable));
    drop().map_err(|e| fail("drop what was kept", std::io::Error::other(e)))
}

fn unshare_user(more: CloneFlags) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER | more).map_err(|e| {
        fail("make a user namespace", e.into())
            .hint("see ces doctor: user namespaces may be switched off for you on this host")
    })
}

/// Root of the user namespace that this process is in by now.
fn become_root() -> Result<()> {
    let (root, root_group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(root_group, root_group, root_group).map_err(|e| fail("become root of the user namespace", e.into()))?;
    setresuid(root, root, root).map_err(|e| fail("become root of the user namespace", e.into()))?;
    // A change of ids clears it (PR_SET_PDEATHSIG(2const)).
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| fail("follow ces into death", e.into()))
}

fn fail(what: &str, e: std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Host, format!("cannot {what}")).because(e)
}
