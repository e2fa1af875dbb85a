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
//!
//! What is in the home is made, opened and taken away with the researcher's rights. What those do not reach (files of the
//! container's other ids) is reached through descriptors of directories that were made for the job, and only where they
//! belong to an id of the run.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{Flock, OFlag, openat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use crate::bundle::identity::Identity;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::host::idmap::IdMap;
use crate::host::ids::HostIds;
use crate::host::privilege::{Root, acting_as, as_root, over_files};
use crate::run::directory::open_directory;
use crate::run::job_id::JobId;
use crate::run::removal::{self, Tally};
use crate::run::supervisor::deletion::{Deletion, Item};
use crate::run::supervisor::journal::{self, Inode, Journal, Made};
use crate::run::supervisor::outputs::outside::Outside;
use crate::run::supervisor::places::Places;
use crate::run::supervisor::quota::{Kept, Which};
use crate::run::user_namespace;

/// A job of this process: its directories exist, its lock is held.
#[derive(Debug)]
pub struct Job {
    /// What a sweep would need.
    pub journal: Journal,
    /// Where its directories are.
    pub places: Places,
    dirs: Dirs,
    dir: PathBuf,
    outputs: Option<OwnedFd>,
    scratch: Option<OwnedFd>,
    emptied: Tally,
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
    pub fn begin(dirs: &Dirs, identity: &Identity, journal: Journal, places: Places) -> Result<Self> {
        let (dir, lock) = as_root(|root| journal::begin(root, dirs, &journal))?;
        let mut job = Self {
            journal,
            places,
            dirs: dirs.clone(),
            dir,
            outputs: None,
            scratch: None,
            emptied: Tally::default(),
            lock,
        };
        if let Err(error) = job.make_directories(identity) {
            // The first error is the one to show; what cannot be removed now, the next sweep removes.
            job.end(identity).ok();
            return Err(error);
        }
        Ok(job)
    }

    fn make_directories(&mut self, identity: &Identity) -> Result<()> {
        as_root(|root| make_work(root, &self.places.work))?;
        let home = open_directory(&self.places.home, false)?;
        let made = |name: &str, path: &Path| {
            let make = || {
                mkdirat(&home, name, Mode::S_IRWXU)?;
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                openat(&home, name, flags, Mode::empty())
            };
            make().map_err(|e: nix::Error| {
                fail_path("make", path, &e.into())
                    .hint("outputs and scratch are made in your home directory: is it there, writable and not full?")
            })
        };
        // From here on the directory is known by this descriptor: whatever its name leads to later, only what is in this
        // directory is ever given away.
        self.scratch = Some(made(&self.places.scratch, &self.places.scratch())?);
        self.outputs = Some(made(&self.places.outputs, &self.places.outputs())?);
        let inode = |dir: &Option<OwnedFd>| dir.as_ref().and_then(inode_of);
        let noted = Made { scratch: inode(&self.scratch), outputs: inode(&self.outputs) };
        as_root(|root| {
            noted.save(root, &self.dir, &self.lock)?;
            self.bound(root)
        })?;
        self.give_to_payload(identity)
    }

    /// Sets the limits that file systems keep; root alone has such.
    fn bound(&self, root: &Root) -> Result<()> {
        self.journal.quotas.iter().try_for_each(|kept| {
            let dirs = kept.on.iter().map(|which| self.directory(*which)).collect::<Result<Vec<_>>>()?;
            kept.begin(root, &dirs.iter().collect::<Vec<_>>())
        })
    }

    fn directory(&self, which: Which) -> Result<OwnedFd> {
        match which {
            Which::Scratch => self.scratch_directory(),
            Which::Outputs => self.outputs_directory(),
            Which::Work => self.work_directory(),
        }
    }

    /// The bounds that file systems keep and that were used up, in words.
    pub fn used_up(&self) -> Vec<String> {
        let of = |root: &Root, kept: &Kept| {
            kept.on.first().and_then(|which| kept.used_up(root, self.directory(*which).ok()?))
        };
        as_root(|root| self.journal.quotas.iter().filter_map(|kept| of(root, kept)).collect())
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
        let payload = identity.payload();
        let privileged = identity.caller.is_privileged();
        let (uid, gid) = if privileged { (payload.uid, payload.gid) } else { (identity.uid, identity.gid) };
        let dirs =
            [(self.scratch_directory()?, self.places.scratch()), (self.outputs_directory()?, self.places.outputs())];
        let give = || {
            for (dir, path) in &dirs {
                fchown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                    .map_err(|e| fail_path("give away", path, &e.into()))?;
            }
            Ok(Vec::new())
        };
        as_root(|root| user_namespace::with_ids(root, &identity.container, privileged, give)).map(drop)
    }

    /// The job's own directory, in which `ces exec` asks.
    pub fn directory_of_its_own(&self) -> &Path {
        &self.dir
    }

    /// The job's id.
    pub fn id(&self) -> &JobId {
        &self.journal.id
    }

    /// `~/outputs_<id>`.
    pub fn outputs(&self) -> PathBuf {
        self.places.outputs()
    }

    /// The outputs directory itself, as it was made.
    ///
    /// # Errors
    /// When the kernel gives no second descriptor.
    pub fn outputs_directory(&self) -> Result<OwnedFd> {
        copy(self.outputs.as_ref(), "outputs")
    }

    /// The scratch directory itself, as it was made.
    ///
    /// # Errors
    /// When the kernel gives no second descriptor.
    pub fn scratch_directory(&self) -> Result<OwnedFd> {
        copy(self.scratch.as_ref(), "scratch")
    }

    /// The throw-away directory in the store, in which the layer over the image grows.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn work_directory(&self) -> Result<OwnedFd> {
        as_root(|_| open_directory(&self.places.work, true))
    }

    /// Removes what is in scratch as far as the researcher can; the rest is for the end of the job.
    pub fn empty_scratch(&self) {
        if let Some(scratch) = &self.scratch {
            let own = self.journal.uid;
            // What is left is tried again, with more power.
            removal::content_counted(scratch, &|uid| uid == own, &self.emptied).ok();
        }
    }

    /// Whether there is something to remove: in scratch, or over the image. Where that cannot be seen, there may be.
    pub fn leaves_something(&self) -> bool {
        let none = |dir: nix::Result<Dir>| {
            // Two entries are the directory's own names.
            dir.is_ok_and(|mut dir| dir.iter().take(3).filter(Result::is_ok).count() == 2)
        };
        let listed = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let scratch = self.scratch.as_ref().map(|scratch| Dir::openat(scratch, ".", listed, Mode::empty()));
        let upper = as_root(|_| Dir::open(&self.places.work.join("upper"), listed, Mode::empty()));
        !(scratch.is_none_or(none) && none(upper))
    }

    /// Removes all that is not to be kept: scratch and the throw-away directory; what went, is in `deletion`.
    ///
    /// # Errors
    /// When something cannot be removed; the journal is to stay then, for the next sweep to try again.
    pub fn discard(&self, identity: &Identity, deletion: &mut Deletion) -> Result<()> {
        let from = From { journal: &self.journal, places: &self.places, emptied: &self.emptied };
        discard(&from, self.scratch.as_ref(), &identity.caller, &identity.container, deletion)
    }

    /// Removes the journal, as the last step.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(self) -> Result<()> {
        as_root(|root| journal::forget(root, &self.dirs, &self.journal.id, self.lock))
    }

    /// Both, of a job of which nothing has run.
    ///
    /// # Errors
    /// When something cannot be removed; the journal then stays, and the next sweep tries again.
    fn end(self, identity: &Identity) -> Result<()> {
        self.discard(identity, &mut Deletion::of(&self.journal.id))?;
        self.forget()
    }

    /// What was written outside the outputs, as far as the caller's rights or root's show it.
    pub fn outside(&self) -> Outside {
        // A note less is no loss.
        as_root(|_| open_directory(&self.places.work, true).map(|work| Outside::of(&work)).unwrap_or_default())
    }

    /// Removes the outputs directory if it is empty: of runs that left nothing.
    pub fn forget_empty_outputs(&self) {
        // ENOTEMPTY keeps it, and that is meant.
        fs::remove_dir(self.outputs()).ok();
    }
}

fn copy(made: Option<&OwnedFd>, what: &str) -> Result<OwnedFd> {
    let made = made.ok_or_else(|| Error::new(Stage::Run, Kind::Failed, format!("{what} was not made")))?;
    made.try_clone().map_err(|e| fail(&format!("open {what}"), &e))
}

fn make_work(_: &Root, work: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(work).map_err(|e| {
        fail_path("make", work, &e).hint("check whether the file system of the store is full, or mounted read-only")
    })?;
    room_to_begin(work)
}

/// Which inode a directory is.
pub fn inode_of(dir: &OwnedFd) -> Option<Inode> {
    fstat(dir).ok().map(|found| (found.st_dev, found.st_ino))
}

/// A job, where its directories are, and what was removed of its scratch before.
#[derive(Debug)]
pub struct From<'a> {
    /// What a sweep needs to know.
    pub journal: &'a Journal,
    /// Where its directories are.
    pub places: &'a Places,
    /// What went of scratch before.
    pub emptied: &'a Tally,
}

/// Removes scratch and the throw-away directory of a job, running or dead, and what bounded them; `scratch` is the directory
/// that was made for it, and none where it is gone or never was. What went is in `deletion`.
///
/// # Errors
/// When something cannot be removed; `deletion` says that, too.
pub fn discard(
    from: &From<'_>,
    scratch: Option<&OwnedFd>,
    caller: &Caller,
    map: &IdMap,
    deletion: &mut Deletion,
) -> Result<()> {
    let removed = discard_each(from, scratch, (caller, map), deletion);
    removed.inspect_err(|error| deletion.failed(error.to_string()))
}

fn discard_each(
    from: &From<'_>,
    scratch: Option<&OwnedFd>,
    (caller, map): (&Caller, &IdMap),
    deletion: &mut Deletion,
) -> Result<()> {
    let From { journal, places, emptied } = from;
    let researcher = researcher(journal, caller);
    let privileged = caller.is_privileged();
    journal.sockets.iter().try_for_each(|socket| socket.remove(&researcher))?;
    let item = Item::new("scratch", &places.scratch(), scratch);
    if let Some(scratch) = scratch {
        let own = |uid: u32| uid == researcher.uid;
        // A user's container may have written as subordinate ids: only root of the same namespace can remove that. Most have
        // not, and then there is no need of one.
        if acting_as(&researcher, || Ok(removal::content_counted(scratch, &own, emptied)))?.is_err() {
            let ids = ids_of(map, privileged, researcher.uid);
            let empty = |tally: &Tally| {
                removal::content_counted(scratch, &ids, tally)
                    .map_err(|e| fail_path("empty", &places.scratch(), &e.into()))
            };
            over_files(&researcher, |root| counted(root, map, privileged, emptied, empty))?;
        }
    }
    let name_away = acting_as(&researcher, || {
        let home = open_directory(&places.home, false)?;
        match unlinkat(&home, places.scratch.as_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) => emptied.add(1, 0),
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
            Err(e) => return Err(fail_path("remove", &places.scratch(), &e.into())),
        }
        Ok(item.verified(emptied, &home, Path::new(&places.scratch)))
    });
    // Where none was made there is mostly none to remove, and no home to remove it from.
    match (name_away, scratch) {
        (Ok(item), _) => deletion.add(item),
        (Err(error), Some(_)) => return Err(error),
        (Err(_), None) => {}
    }
    as_root(|root| {
        let tally = Tally::default();
        let parent = places.work.parent().and_then(|parent| open_directory(parent, false).ok());
        let item = Item::new("what was written over the image", &places.work, parent.as_ref());
        if remove_work_counted(&places.work, &tally).is_err() {
            counted(root, map, privileged, &tally, |tally| remove_work_counted(&places.work, tally))?;
        }
        if let (Some(parent), Some(name)) = (&parent, places.work.file_name()) {
            deletion.add(item.verified(&tally, parent, Path::new(name)));
        }
        journal.quotas.iter().try_for_each(|kept| kept.end(root, places, &researcher))
    })
}

/// Does `work`, which counts, with power over every id of `map`: in a process of its own where this one has not that power.
fn counted(
    root: &Root,
    map: &IdMap,
    privileged: bool,
    tally: &Tally,
    work: impl Fn(&Tally) -> Result<()>,
) -> Result<()> {
    let told = |e: serde_json::Error| fail("tell what was removed", &e.into());
    let answer = user_namespace::with_ids(root, map, privileged, || {
        let own = Tally::default();
        work(&own)?;
        serde_json::to_vec(&own.so_far()).map_err(told)
    })?;
    let (entries, bytes) = serde_json::from_slice(&answer).map_err(told)?;
    tally.add(entries, bytes);
    Ok(())
}

/// Whose job it is: all of a caller's own ids, and of another's what the journal says.
pub fn researcher(journal: &Journal, caller: &Caller) -> HostIds {
    if journal.uid == caller.uid.as_raw() {
        return caller.ids();
    }
    HostIds { uid: journal.uid, gid: journal.gid, groups: Vec::new() }
}

/// The ids of a run, as the process numbers them that has power over them: the host's, or those of its user namespace, where
/// every other is the overflow id (user_namespaces(7)).
pub fn ids_of(map: &IdMap, privileged: bool, researcher: u32) -> impl Fn(u32) -> bool + use<> {
    let ranges: Vec<(u32, u32)> = map.uids.iter().map(|extent| (extent.outside, extent.count)).collect();
    let nobody = overflow_id();
    move |uid| {
        if privileged {
            uid == researcher || ranges.iter().any(|(first, count)| uid >= *first && uid - first < *count)
        } else {
            uid != nobody
        }
    }
}

fn overflow_id() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    text.trim().parse().unwrap_or(65_534)
}

/// A directory of a dead job, opened with the researcher's rights, if it is the one that was made for it; none if it is gone.
/// It belongs to one of the run's `ids`, as the host numbers them: the number of an inode that is gone may be another's by now.
///
/// # Errors
/// When something else is there, which is left alone, or it cannot be opened.
pub fn reopen(
    path: &Path,
    made: Option<Inode>,
    researcher: &HostIds,
    ids: &dyn Fn(u32) -> bool,
) -> Result<Option<OwnedFd>> {
    let opened = acting_as(researcher, || {
        if path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            return Ok(None);
        }
        open_directory(path, true).map(Some)
    });
    let opened = match opened {
        // Real root's own may belong to an id of the foreign range for now: root opens it as root.
        Err(_) if researcher.uid == 0 => as_root(|_| open_directory(path, true)).map(Some)?,
        opened => opened?,
    };
    let Some(dir) = opened else { return Ok(None) };
    let of_the_run = fstat(&dir).is_ok_and(|found| ids(found.st_uid));
    match (inode_of(&dir), made) {
        (Some(is), Some(must)) if is == must && of_the_run => Ok(Some(dir)),
        // Killed before it was noted: then nothing has run, and nothing is in it.
        (_, None) => Ok(None),
        _ => Err(Error::new(Stage::Run, Kind::Failed, format!("{} is left alone", path.display()))
            .because("it is not the directory that was made for the run")),
    }
}

/// Removes a throw-away directory of the store. For a process with power over every id in it.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_work(work: &Path) -> Result<()> {
    remove_work_counted(work, &Tally::default())
}

/// The same, counted; what the kernel leaves there of an overlay is not.
fn remove_work_counted(work: &Path, tally: &Tally) -> Result<()> {
    match (work.parent(), work.file_name()) {
        (Some(parent), Some(name)) if parent.is_dir() => {
            let parent = open_directory(parent, false)?;
            // Not as expected, or not there: then it is a tree like others.
            open_directory(work, false).ok().and_then(|dir| removal::overlay_work(&dir).ok());
            removal::tree_counted(&parent, Path::new(name), removal::ALL, tally)
                .map_err(|e| fail_path("remove", work, &e.into()))
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
        .hint("make room (ces prune deletes what nothing uses), or put the store elsewhere: --root, through sudo [site] in the policy"))
}

fn fail(what: &str, e: &std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e)
}

fn fail_path(what: &str, path: &Path, e: &std::io::Error) -> Error {
    fail(&format!("{what} {}", path.display()), e)
}
