//! How a process of `ces` that reads hostile bytes shuts itself in: namespaces of its own, no network, no privileges on the host, one
//! directory, and what else the kernel takes away for good.
//!
//! Takes an id map that the parent writes, and directories that were opened before; gives nothing, for a process that came
//! through every step has nothing left; trusts the kernel; refuses to go on where a step fails. In this order:
//!
//! ```text
//! leave        user, mount, network and IPC namespaces of its own; waits for its id maps
//! become_root  the root of that user namespace, which outside is whom the map says; dies with its parent
//! shut_in      the directory is its root directory; no capability but those named; Landlock: nothing outside
//! ```
//!
//! Used by the process that unpacks layers (`image::unpack::child`) and by the one that looks at outputs (`precheck::child`).

use std::os::fd::OwnedFd;

use caps::{CapSet, Capability};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chroot, fchdir, setgroups, setresgid, setresuid};

use super::idmap::IdMap;

/// A step that failed: the process is not shut in and must not go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {why}")]
pub struct Unconfined {
    /// What was to be done.
    pub step: &'static str,
    /// What the kernel said.
    pub why: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
}

impl Unconfined {
    fn kernel(step: &'static str, errno: Errno) -> Self {
        Self { step, why: errno.desc().to_owned(), hint: None }
    }
}

/// Leaves the parent's namespaces; the parent writes the id maps then.
///
/// # Errors
/// The kernel's (unshare(2)).
pub fn leave() -> Result<(), Unconfined> {
    let namespaces =
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
    unshare(namespaces).map_err(|e| Unconfined {
        hint: Some("user namespaces must be allowed on this host (sysctl user.max_user_namespaces; on some, kernel.unprivileged_userns_clone or an AppArmor restriction)"),
        ..Unconfined::kernel("make a user namespace", e)
    })
}

/// Becomes root of the user namespace whose map is `ids`; from now on this process dies with its parent, gains nothing by executing
/// a program, and leaves no core file.
///
/// # Errors
/// The kernel's.
pub fn become_root(ids: &IdMap) -> Result<(), Unconfined> {
    let fail = |e| Unconfined::kernel("become root of the user namespace", e);
    match setgroups(&[]) {
        Ok(()) => {}
        // One's own id alone may be mapped only where groups cannot be dropped (user_namespaces(7)).
        Err(Errno::EPERM) if ids.is_single() => {}
        Err(e) => return Err(fail(e)),
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).map_err(fail)?;
    setresuid(uid, uid, uid).map_err(fail)?;
    // After the change of ids, which clears it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(fail)?;
    prctl::set_no_new_privs().map_err(fail)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(fail)?;
    umask(Mode::empty());
    Ok(())
}

/// Makes `directory` the root directory, gives up all capabilities but those over files, and asks Landlock to allow
/// nothing outside `directory` and reading alone in `lower`, or in `directory` too where nothing is to change.
///
/// # Errors
/// The kernel's.
pub fn shut_in(directory: &OwnedFd, lower: &[OwnedFd], read_only: bool) -> Result<(), Unconfined> {
    let fail = |e| Unconfined::kernel("shut this process in", e);
    fchdir(directory).map_err(fail)?;
    chroot(".").map_err(fail)?;
    let change = [Capability::CAP_CHOWN, Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER, Capability::CAP_FSETID];
    let change = change.into_iter().filter(|_| !read_only);
    let keep = change.chain([Capability::CAP_DAC_READ_SEARCH]).collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &keep).map_err(|e| Unconfined {
            step: "drop capabilities",
            why: e.to_string(),
            hint: None,
        })?;
    }
    restrict(directory, lower, read_only).map_err(|e| Unconfined {
        step: "restrict this process (Landlock)",
        why: e.to_string(),
        hint: None,
    })
}

/// Landlock is required wherever the kernel has it, from the version on that can allow hard links between directories
/// (Linux 5.19); what later versions add is taken where it is there.
fn restrict(directory: &OwnedFd, lower: &[OwnedFd], read_only: bool) -> Result<(), landlock::RulesetError> {
    let needed = AccessFs::from_all(ABI::V2);
    let Ok(ruleset) = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(needed) else {
        return Ok(());
    };
    let all = AccessFs::from_all(ABI::V5);
    let mut ruleset = ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .create()?
        .add_rule(PathBeneath::new(directory, if read_only { AccessFs::from_read(ABI::V5) } else { all }))?;
    for layer in lower {
        ruleset = ruleset.add_rule(PathBeneath::new(layer, AccessFs::from_read(ABI::V5)))?;
    }
    ruleset.restrict_self().map(drop)
}
