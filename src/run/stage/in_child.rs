//! Work in a child process that sees a plan mounted and nothing else of the host: for bundles, and for layers of a user's own.
//!
//! Takes a `Plan` and the work; gives what came of it; trusts its own child; refuses to fork with a second thread.

use std::os::fd::AsFd;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};

use crate::bundle::rootfs::{self, Plan};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::idmap::IdMap;
use crate::host::privilege::Root;
use crate::run::channel::Channel;
use crate::run::process::{end, fork};
use crate::run::protocol::{Failure, FromStage, ToStage};
use crate::run::user_namespace;

/// Does `work` in a child process that sees `plan` mounted, and nothing of the host's files.
///
/// # Errors
/// The mounts', and `work`'s own.
pub fn in_stage(
    root: &Root,
    plan: &Plan,
    layer_map: Option<&IdMap>,
    map: &IdMap,
    privileged: bool,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let layer_ns = layer_map.map(|map| user_namespace::holding(root, map, privileged)).transpose()?;
    let (ours, theirs) = Channel::pair()?;
    let child = fork(|| {
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        let done = own_mounts(&theirs, privileged)
            .and_then(|()| rootfs::assemble(plan, layer_ns.as_ref().map(AsFd::as_fd), privileged))
            .and_then(|()| work())
            .and_then(|()| theirs.send(&FromStage::Finished));
        match done {
            Ok(()) => 0,
            Err(error) => theirs.send(&FromStage::Failed(Failure::of(&error))).map_or(1, |()| 1),
        }
    })
    .map_err(|e| fail("start a process with mounts of its own", e))?;
    drop(theirs);
    let done = loop {
        match ours.receive() {
            Ok(Some(FromStage::NeedsMaps)) => {
                if let Err(error) = map.write(child, privileged).and_then(|()| ours.send(&ToStage::MapsWritten)) {
                    break Err(error);
                }
            }
            Ok(Some(FromStage::Finished)) => break Ok(()),
            Ok(Some(FromStage::Failed(failure))) => break Err(failure.into()),
            Ok(_) => break Err(Error::new(Stage::Run, Kind::Failed, "a process with mounts of its own is gone")),
            Err(error) => break Err(error),
        }
    };
    end(child);
    done
}

/// A mount namespace whose mounts are this process's own.
fn own_mounts(channel: &Channel, privileged: bool) -> Result<()> {
    if !privileged {
        user_namespace::enter_user_namespace(channel, CloneFlags::CLONE_NEWNS)?;
    }
    private_mounts(privileged)
}

/// The same, for an ordinary user's process that has a mount namespace already. Until now that took over what was mounted
/// on the host: a home or a project's data may be mounted by being looked at (autofs).
///
/// # Errors
/// The kernel's.
pub fn private_mounts(privileged: bool) -> Result<()> {
    if privileged {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|e| fail("make a mount namespace", e.into()).hint(INSIDE_ANOTHER))?;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(|e| fail("make the mounts private", e.into()))
}

/// Why root may not mount.
pub const INSIDE_ANOTHER: &str =
    "root lacks the capability CAP_SYS_ADMIN here (inside another container?); run ces on the host itself";

fn fail(what: &str, e: std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Host, format!("cannot {what}")).because(e)
}
