//! One job: its id, its directories, and what a crash left of others.
//!
//! Takes the installation's directories and the identity; gives a `Job`; trusts a file lock to tell a live job from a
//! dead one; refuses to reuse any directory.
//!
//! ```text
//! RUNNING/<id>/lock       held by the supervising ces as long as it lives
//! RUNNING/<id>/job.json   what a sweep needs: work, scratch, record
//! STORE/work/<id>/         throw-away upper directory, files bound into the container
//! ~/scratch_<id>/           the container's /scratch, removed
//! ~/outputs_<id>/           the container's /safe_outputs, kept
//! ~/port_<id>_<port>.sock   a published port's socket, where no path was given, removed
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat2};
use serde::{Deserialize, Serialize};

use super::ports::SocketFile;
use super::remove;
use crate::bundle::identity::{HostIds, Identity, acting_as};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::dirs::Dirs;
use crate::host::idmap::IdMap;

/// A job's id: `20261122T143015-7f3a9c`, sortable and unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(String);

impl JobId {
    /// A new id: the time (UTC), and six random hexadecimal digits.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn new() -> Result<Self> {
        let mut random = [0; 3];
        File::open("/dev/urandom")
            .and_then(|mut f| f.read_exact(&mut random))
            .map_err(|e| fail("draw a job id", &e))?;
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S");
        Ok(Self(format!("{now}-{:02x}{:02x}{:02x}", random[0], random[1], random[2])))
    }

    /// An id given by a person or a file name.
    ///
    /// # Errors
    /// When it does not look like one.
    pub fn parse(text: &str) -> Result<Self> {
        let well_formed =
            !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if well_formed {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(Stage::Cli, Kind::Usage, format!("\"{text}\" is not a run's id")).hint("ces runs lists them"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the name of a journal begins while it is being made; it ends with the number of the process that makes it.
const HALF_MADE: &str = ".new-";

/// How often to look for the end of what a file system keeps of a closed file: two seconds in all.
const LATE_LOOKS: u32 = 200;

/// What a sweep needs to know of a job whose ces is gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Journal {
    /// The job.
    pub id: JobId,
    /// The supervising ces.
    pub pid: u32,
    /// The container's name, if it was given one.
    pub name: Option<String>,
    /// Its project, for `ces ps`.
    #[serde(default)]
    pub project: Option<String>,
    /// It outlives the terminal that started it.
    #[serde(default)]
    pub detached: bool,
    /// The image, for `ces ps`.
    pub image: String,
    /// Who runs it.
    pub researcher: String,
    /// The researcher's uid.
    pub uid: u32,
    /// The researcher's group.
    pub gid: u32,
    /// When it began.
    pub started: String,
    /// The throw-away directory in the store.
    pub work: PathBuf,
    /// The home in which scratch and outputs are.
    pub home: PathBuf,
    /// Name of the scratch directory in the home.
    pub scratch: String,
    /// Name of the outputs directory in the home.
    pub outputs: String,
    /// Sockets of published ports.
    #[serde(default)]
    pub sockets: Vec<SocketFile>,
}

/// A job of this process: its directories exist, its lock is held.
#[derive(Debug)]
pub struct Job {
    /// What a sweep would need.
    pub journal: Journal,
    dir: PathBuf,
    outputs: Option<OwnedFd>,
    scratch: Option<OwnedFd>,
    _lock: Flock<File>,
}

impl Job {
    /// Makes the job's directories: journal first, so that whatever exists later is known to a sweep.
    ///
    /// # Errors
    /// When a directory cannot be made; nothing is left then.
    pub fn begin(dirs: &Dirs, identity: &Identity, journal: Journal) -> Result<Self> {
        let private = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        private(&dirs.running).map_err(|e| fail_path("make", &dirs.running, &e))?;
        let dir = dirs.running.join(journal.id.as_str());
        let new = dirs.running.join(format!("{HALF_MADE}{}.{}", journal.id, journal.pid));
        // Held until the journal is there, so that of two runs with one name the second sees the first.
        let _names = journal.name.as_deref().map(|name| claim(dirs, name)).transpose()?;
        let lock = || -> std::io::Result<Flock<File>> {
            private(&new)?;
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(new.join("lock"))?;
            let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| std::io::Error::from(e))?;
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(new.join("job.json"))?;
            file.write_all(&serde_json::to_vec_pretty(&journal)?)?;
            fs::rename(&new, &dir)?;
            Ok(lock)
        };
        let lock = lock().map_err(|e| {
            // Best effort: the error is what matters.
            fs::remove_dir_all(&new).ok();
            fail_path("make", &dir, &e)
        })?;
        let mut job = Self { journal, dir, outputs: None, scratch: None, _lock: lock };
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
        self.give_to_payload(identity)
    }

    /// Scratch and outputs are the payload's while it runs: where that is another id than the researcher's (real root
    /// names no researcher; a user's image may have a user of its own) they change hands, and back after the run.
    fn give_to_payload(&self, identity: &Identity) -> Result<()> {
        let privileged = identity.caller.is_privileged();
        let payload = identity.payload();
        if payload.uid == identity.caller.uid.as_raw() && payload.gid == identity.caller.gid.as_raw() {
            return Ok(());
        }
        let (uid, gid) = if privileged { (payload.uid, payload.gid) } else { (identity.uid, identity.gid) };
        super::spawn::with_ids(&identity.container, privileged, || {
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
        super::door::open(&self.dir)
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

    /// Removes all that is not to be kept: scratch, the throw-away directory, the journal (last).
    ///
    /// # Errors
    /// When something cannot be removed; the journal then stays, and the next sweep tries again.
    pub fn end(self, identity: &Identity) -> Result<()> {
        discard(&self.journal, &identity.container, identity.caller.is_privileged())?;
        let Self { dir, _lock: lock, .. } = self;
        let mut removed = fs::remove_dir_all(&dir);
        // NFS and FUSE keep an open file under another name until it is closed, and a moment longer.
        drop(lock);
        for _ in 0..LATE_LOOKS {
            match &removed {
                Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                    std::thread::sleep(Duration::from_millis(10));
                    removed = fs::remove_dir_all(&dir);
                }
                _ => break,
            }
        }
        match removed {
            // Meanwhile another command found it without its lock.
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(fail_path("remove", &dir, &e)),
            _ => Ok(()),
        }
    }

    /// Removes the outputs directory if it is empty: for runs in which nothing ran.
    pub fn forget_empty_outputs(&self) {
        // ENOTEMPTY keeps it, and that is meant.
        fs::remove_dir(self.outputs()).ok();
    }
}

/// Removes scratch and the throw-away directory of a job, running or dead.
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
    // A user's container may have written as subordinate ids: only root of the same namespace can remove that.
    super::spawn::with_ids(map, privileged, remove).map(drop)
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
        (Some(parent), Some(name)) if parent.is_dir() => remove_tree(&open_directory(parent, false)?, Path::new(name)),
        _ => Ok(()),
    }
}

fn open_directory(path: &Path, to_read: bool) -> Result<OwnedFd> {
    let access = if to_read { OFlag::O_RDONLY | OFlag::O_NOFOLLOW } else { OFlag::O_PATH };
    let how = OpenHow::new()
        .flags(access | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(AT_FDCWD, path, how).map_err(|e| fail_path("open", path, &e.into()))
}

fn remove_tree(parent: &OwnedFd, name: &Path) -> Result<()> {
    remove::tree(parent, name).map_err(|e| fail_path("remove", name, &e.into()))
}

/// The journals of jobs, each with its lock if its ces is dead.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(dirs: &Dirs) -> Result<Vec<(Journal, Option<Flock<File>>)>> {
    let entries = match fs::read_dir(&dirs.running) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail_path("read", &dirs.running, &e)),
    };
    let mut jobs = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join("lock")) else { continue };
        // A job that ends in this moment takes its journal with it.
        let Some(journal) =
            fs::read(entry.path().join("job.json")).ok().and_then(|text| serde_json::from_slice(&text).ok())
        else {
            continue;
        };
        jobs.push((journal, Flock::lock(lock, FlockArg::LockExclusiveNonblock).ok()));
    }
    jobs.sort_by(|a: &(Journal, _), b| a.0.id.cmp(&b.0.id));
    Ok(jobs)
}

/// Makes sure that no run that is alive has this name, and that none takes it while the answer is held.
fn claim(dirs: &Dirs, name: &str) -> Result<Flock<File>> {
    let what = |e: &std::io::Error| fail_path("lock", &dirs.running, e);
    let dir = File::open(&dirs.running).map_err(|e| what(&e))?;
    let held = Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, e)| what(&e.into()))?;
    let taken =
        |(journal, lock): &(Journal, Option<Flock<File>>)| lock.is_none() && journal.name.as_deref() == Some(name);
    match list(dirs)?.into_iter().find(taken) {
        None => Ok(held),
        Some((other, _)) => Err(Error::new(Stage::Run, Kind::Failed, format!("the name {name} is taken"))
            .because(format!("run {} has it, and is running", other.id))
            .hint("choose another name, or end that run with ces stop")),
    }
}

/// Removes journals that were being made when their ces was killed: nothing else of those jobs exists.
///
/// # Errors
/// When one cannot be removed.
pub fn forget_half_made(dirs: &Dirs) -> Result<()> {
    for entry in fs::read_dir(&dirs.running).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(HALF_MADE)?.rsplit_once('.')?.1.parse().ok());
        // Signal 0 asks whether there is such a process (kill(2)).
        if let Some(pid) = maker
            && nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::Error::ESRCH)
        {
            match fs::remove_dir_all(entry.path()) {
                // Another sweep was quicker.
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(fail_path("remove", &entry.path(), &e));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes the journal of a dead job, as the last step of a sweep.
///
/// # Errors
/// When it cannot be removed.
pub fn forget(dirs: &Dirs, id: &JobId) -> Result<()> {
    let dir = dirs.running.join(id.as_str());
    fs::remove_dir_all(&dir).map_err(|e| fail_path("remove", &dir, &e))
}

fn fail(what: &str, e: &std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e)
}

fn fail_path(what: &str, path: &Path, e: &std::io::Error) -> Error {
    fail(&format!("{what} {}", path.display()), e)
}
