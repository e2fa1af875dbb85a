//! A user namespace inside the container's, in which the payload has the number that its image gave it.
//!
//! Takes two ids; gives a process that has them; trusts the kernel; refuses to go on with a capability left.
//!
//! An ordinary user's container has their own id as its root: the one id that a user may always map, and the one that
//! their files have. An image's other `USER` is that same id under another number (user_namespaces(7): a process may map
//! its own id by itself), so that it reads and writes on the host as the researcher. Ids of the image beside it have no
//! number here and are seen as the overflow id.

use std::fs;
use std::io;

use caps::CapSet;
use nix::sched::{CloneFlags, unshare};

/// Makes this process, the container's root, the user `uid`:`gid` of a namespace of its own, without capabilities.
///
/// # Errors
/// The kernel's.
pub fn enter(uid: u32, gid: u32) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // The files of a process that is not dumpable belong to the host's root (PR_SET_DUMPABLE(2const)). Nobody else is in
    // the container yet.
    nix::sys::prctl::set_dumpable(true)?;
    let mapped = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/gid_map", format!("{gid} 0 1")))
        .and_then(|()| fs::write("/proc/self/uid_map", format!("{uid} 0 1")));
    nix::sys::prctl::set_dumpable(false)?;
    mapped?;
    // A new namespace begins with all of them, in the bounding set too.
    for set in [CapSet::Ambient, CapSet::Bounding, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::clear(None, set).map_err(|e| io::Error::other(e.to_string()))?;
    }
    Ok(())
}
