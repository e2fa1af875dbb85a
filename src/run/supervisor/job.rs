//! One job: its directories, from their making to their end.
//!
//! Takes the installation's directories and the identity; gives a `Job`; trusts its journal's lock; refuses to reuse any
//! directory.
//!
//! ```text
//! RUNNING/<id>/            the journal (`crate::run::supervisor::journal`), and the socket of `ces exec`
//! STORE/work/<id>/         throw-away upper directory
//! ~/scratch_<id>/           the container's /scratch, removed
//! ~/outputs_<id>/           the container's /safe_outputs, kept
//! ~/port_<id>_<port>.sock   a published port's socket, where no path was given, removed
//! ```

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use crate::bundle::identity::{HostIds, Identity, acting_as, acting_with_power};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::dirs::Dirs;
use crate::host::idmap::IdMap;
use crate::run::directory::open_directory;
use crate::run::job_id::JobId;
use crate::run::removal;
use crate::run::supervisor::journal;
pub use crate::run::supervisor::journal::Journal;
use crate::run::supervisor::quota::Kept;

/// A job of this process: its directories exist, its lock is held.
#[derive(Debug)]
pub struct Job {
    /// What a sweep would need.
    pub journal: Journal,
    dirs: Dirs,
    dir: PathBuf,
    outputs: Option<OwnedFd>,
    scratch: Option<OwnedFd>,
    lock: Flock<File>,
}

/// What the directories, mount points and files of `/etc` of a run take before its payload writes anything: some twenty
/// inodes and as many blocks, and room for what a policy and an image's volumes add.
const BEGIN_BYTES: u64 = 1 << 20;
const BEGIN_INODES: u64 = 64;

impl Job {
    /// Makes the job's directories: journal first, so that whatever exists later is known to a sweep.
    ///
    /// # Errors
    /// When a directory cannot be made; nothing is left then.
    pub fn begin(dirs: &Dirs, identity: &Identity, journal: Journal) -> Result<Self> {
        let (dir, lock) = journal::begin(dirs, &journal)?;
        let mut job = Self { journal, dirs: dirs.clone(), dir, outputs: None, scratch: None, lock };
        if let Err(error) = job.make_directories(identity) {
            // The first error is the one to show; what cannot be removed now, the next sweep removes.
            job.end(identity).ok();
            return Err(error);
        }
        Ok(job)
    }

    fn make_directories(&mut self, identity: &Identity) -> Result<()> {
        let work = &self.journal.work;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(work).map_err(|e| {
            fail_path("make", work, &e).hint("is the file system of the store full, or mounted read-only?")
        })?;
        room_to_begin(work)?;
        let privileged = identity.caller.is_privileged();
        acting_as(&identity.researcher(), privileged, || {
            for dir in [self.scratch(), self.outputs()] {
                fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|e| {
                    fail_path("make", &dir, &e).hint(
                        "outputs and scratch are made in your home directory: is it there, writable and not full?",
                    )
                })?;
            }
            // From here on the directory is known by this descriptor: whatever its name leads to later, only what is
            // in this directory is ever given away.
            self.outputs = Some(open_directory(&self.outputs(), true)?);
            self.scratch = Some(open_directory(&self.scratch(), true)?);
            Ok(())
        })?;
        self.bound()?;
        self.give_to_payload(identity)
    }

    /// Sets the limits that file systems keep; root alone has such.
    fn bound(&self) -> Result<()> {
        let (scratch, outputs) = (self.scratch(), self.outputs());
        self.journal.quotas.iter().try_for_each(|kept| {
            let dirs = kept.dirs.iter().map(|dir| match dir {
                dir if *dir == scratch => self.scratch_directory(),
                dir if *dir == outputs => self.outputs_directory(),
                _ => self.work_directory(),
            });
            let dirs = dirs.collect::<Result<Vec<_>>>()?;
            kept.begin(&dirs.iter().collect::<Vec<_>>())
        })
    }

    /// The bounds that file systems keep and that were used up, in words.
    pub fn used_up(&self) -> Vec<String> {
        let of = |kept: &Kept| kept.dirs.first().and_then(|dir| kept.used_up(open_directory(dir, true).ok()?));
        self.journal.quotas.iter().filter_map(of).collect()
    }

    /// Whether scratch and outputs become another's than the researcher's while the payload runs: real root names no
    /// researcher; a user's image may have a user of its own.
    pub fn changes_hands(identity: &Identity) -> bool {
        let payload = identity.payload();
        payload.uid != identity.caller.uid.as_raw() || payload.gid != identity.caller.gid.as_raw()
    }

    /// Scratch and outputs are the payload's while it runs: they change hands where they must, and back after the run.
    fn give_to_payload(&self, identity: &Identity) -> Result<()> {
        if !Self::changes_hands(identity) {
            return Ok(());
        }
        let privileged = identity.caller.is_privileged();
        let payload = identity.payload();
        let (uid, gid) = if privileged { (payload.uid, payload.gid) } else { (identity.uid, identity.gid) };
        crate::run::user_namespace::with_ids(&identity.container, privileged, || {
            for dir in [self.scratch(), self.outputs()] {
                std::os::unix::fs::lchown(&dir, Some(uid), Some(gid)).map_err(|e| fail_path("give away", &dir, &e))?;
            }
            Ok(Vec::new())
        })
        .map(drop)
    }

    /// Where `ces exec` knocks.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_door(&self) -> Result<OwnedFd> {
        crate::run::supervisor::exec_server::open(&self.dir)
    }

    /// The job's id.
    pub fn id(&self) -> &JobId {
        &self.journal.id
    }

    /// `~/scratch_<id>`.
    pub fn scratch(&self) -> PathBuf {
        self.journal.home.join(&self.journal.scratch)
    }

    /// `~/outputs_<id>`.
    pub fn outputs(&self) -> PathBuf {
        self.journal.home.join(&self.journal.outputs)
    }

    /// The outputs directory itself, as it was made.
    ///
    /// # Errors
    /// When the kernel gives no second descriptor.
    pub fn outputs_directory(&self) -> Result<OwnedFd> {
        let made = self
            .outputs
            .as_ref()
            .ok_or_else(|| Error::new(Stage::Run, Kind::Failed, "the outputs directory was not made"))?;
        made.try_clone().map_err(|e| fail("open the outputs", &e))
    }

    /// The scratch directory itself, as it was made.
    ///
    /// # Errors
    /// When the kernel gives no second descriptor.
    pub fn scratch_directory(&self) -> Result<OwnedFd> {
        let made = self
            .scratch
            .as_ref()
            .ok_or_else(|| Error::new(Stage::Run, Kind::Failed, "the scratch directory was not made"))?;
        made.try_clone().map_err(|e| fail("open scratch", &e))
    }

    /// The throw-away directory in the store, in which the layer over the image grows.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn work_directory(&self) -> Result<OwnedFd> {
        open_directory(&self.journal.work, true)
    }

    /// Removes scratch as far as the researcher can; the rest is for [`Job::end`].
    pub fn empty_scratch(&self, identity: &Identity) {
        acting_as(&identity.researcher(), identity.caller.is_privileged(), || {
            remove_tree(&open_directory(&self.journal.home, false)?, Path::new(&self.journal.scratch))
        })
        .ok();
    }

    /// Removes all that is not to be kept: scratch, the throw-away directory, the journal (last).
    ///
    /// # Errors
    /// When something cannot be removed; the journal then stays, and the next sweep tries again.
    pub fn end(self, identity: &Identity) -> Result<()> {
        discard(&self.journal, &identity.container, identity.caller.is_privileged())?;
        journal::forget(&self.dirs, &self.journal.id, self.lock)
    }

    /// Removes the outputs directory if it is empty: for runs in which nothing ran.
    pub fn forget_empty_outputs(&self, identity: &Identity) {
        // ENOTEMPTY keeps it, and that is meant.
        acting_as(&identity.researcher(), identity.caller.is_privileged(), || Ok(fs::remove_dir(self.outputs()))).ok();
    }
}

/// Removes scratch and the throw-away directory of a job, running or dead, and what bounded them.
///
/// # Errors
/// When something cannot be removed.
pub fn discard(journal: &Journal, map: &IdMap, privileged: bool) -> Result<()> {
    let researcher = HostIds { uid: journal.uid, gid: journal.gid, groups: Vec::new() };
    journal.sockets.iter().try_for_each(|socket| socket.remove(&researcher, privileged))?;
    let home = acting_as(&researcher, privileged, || open_directory(&journal.home, false))?;
    let remove = || -> Result<Vec<u8>> {
        remove_tree(&home, Path::new(&journal.scratch))?;
        remove_work(&journal.work)?;
        Ok(Vec::new())
    };
    // A user's container may have written as subordinate ids: only root of the same namespace can remove that. Most have not,
    // and then there is no need of one.
    if privileged || remove().is_err() {
        in_home(map, &researcher, privileged, remove)?;
    }
    journal.quotas.iter().try_for_each(|kept| kept.end(&researcher))
}

/// Does `work` with power over every id of a run, in a home that may know the researcher alone.
fn in_home(map: &IdMap, researcher: &HostIds, privileged: bool, work: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
    acting_with_power(researcher, privileged, || crate::run::user_namespace::with_ids(map, privileged, work)).map(drop)
}

/// Removes a directory of the researcher's home, whatever was made in it; nothing if it is not there.
pub(super) fn remove_from_home(
    home: &Path,
    dir: &Path,
    researcher: &HostIds,
    map: &IdMap,
    privileged: bool,
) -> Result<()> {
    let Some(name) = dir.file_name() else { return Ok(()) };
    let home = acting_as(researcher, privileged, || open_directory(home, false))?;
    in_home(map, researcher, privileged, || remove_tree(&home, Path::new(name)).map(|()| Vec::new()))
}

/// The outputs directory of a dead job, opened with the researcher's rights when privileged (else with those that this
/// process has: its own, or root's in a user namespace).
///
/// # Errors
/// When it cannot be opened.
pub fn reopen_outputs(journal: &Journal, privileged: bool) -> Result<OwnedFd> {
    let path = journal.home.join(&journal.outputs);
    let researcher = HostIds { uid: journal.uid, gid: journal.gid, groups: Vec::new() };
    // Real root's own outputs may belong to an id of the foreign range for now: root opens them as root.
    acting_as(&researcher, privileged, || open_directory(&path, true))
}

/// Removes a throw-away directory of the store. For a process with power over every id in it.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_work(work: &Path) -> Result<()> {
    match (work.parent(), work.file_name()) {
        (Some(parent), Some(name)) if parent.is_dir() => {
            let parent = open_directory(parent, false)?;
            // Not as expected, or not there: then it is a tree like others.
            open_directory(work, false).ok().and_then(|dir| removal::overlay_work(&dir).ok());
            remove_tree(&parent, Path::new(name))
        }
        _ => Ok(()),
    }
}

/// Refuses a file system that is so full that a run could not even begin. An overlay without room for its own work
/// directory would be mounted read-only, and whatever comes next would fail for that reason (kernel docs: overlayfs).
fn room_to_begin(work: &Path) -> Result<()> {
    let Ok(found) = nix::sys::statvfs::statvfs(work) else { return Ok(()) };
    let bytes = found.blocks_available().saturating_mul(found.fragment_size());
    // File systems that make inodes as they are needed tell of none at all.
    let inodes = (found.files() > 0).then(|| found.files_available());
    if bytes >= BEGIN_BYTES && inodes.is_none_or(|free| free >= BEGIN_INODES) {
        return Ok(());
    }
    let inodes = inodes.map_or_else(String::new, |free| format!(" and {free} inodes"));
    Err(Error::new(Stage::Run, Kind::Host, "no space left in the store for a run")
        .because(format!(
            "{} has {bytes} bytes{inodes} free; a run begins with {BEGIN_BYTES} bytes and {BEGIN_INODES} inodes",
            work.parent().unwrap_or(work).display()
        ))
        .hint("make room (ces prune deletes what nothing uses), or put the store elsewhere with --root"))
}

fn remove_tree(parent: &OwnedFd, name: &Path) -> Result<()> {
    removal::tree(parent, name).map_err(|e| fail_path("remove", name, &e.into()))
}

fn fail(what: &str, e: &std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e)
}

fn fail_path(what: &str, path: &Path, e: &std::io::Error) -> Error {
    fail(&format!("{what} {}", path.display()), e)
}
