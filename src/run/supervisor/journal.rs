//! The journals of jobs: what a sweep needs to know when the `ces` of a run is gone.
//!
//! Takes the directory of running jobs; gives each journal with what became of its `ces`; trusts a file lock to tell a live
//! job from a dead one, on its own machine alone; refuses to judge a job of another machine that shares the directory, and
//! documents that somebody else than the owner of that directory could have written. What a journal says is never a path
//! that is followed: where a job's directories are is derived from its id and from whose it is (`Journal::places`).
//!
//! ```text
//! RUNNING/.names           held while a job takes a name
//! RUNNING/.new-<host>:<machine>:<boot>:<pid>:<id>/   being made, renamed when it is whole; or being removed
//! RUNNING/<id>/lock        held by the supervising ces as long as it lives; in it, which directories were made for the job, by their
//!                          inodes (versions before had them in made.json)
//! RUNNING/<id>/job.json    the journal
//! RUNNING/<id>/ending.json the end of its record, while what it left is removed (`super::record::pending`)
//! ```
//!
//! A lock says nothing on another machine: file systems that are shared may keep locks to each client (nfs(5), `local_lock`;
//! Lustre, `localflock`; BeeGFS unless `tuneUseGlobalFileLocks`).

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::host::machine::Machine;
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;
use crate::host::sudoer::{lookup, unknown};
use crate::run::job_id::JobId;
use crate::run::supervisor::places::Places;
use crate::run::supervisor::ports::SocketFile;
use crate::run::supervisor::quota::Kept;

/// How the name of a journal begins while it is being made or removed; then it says by which process of which machine.
const ASIDE: &str = ".new-";
/// Held while a job takes a name. A file: NFS locks nothing that is not open for writing, and no directory is.
const NAMES: &str = ".names";
/// How often to look for the end of what a file system keeps of a closed file: two seconds in all.
const LATE_LOOKS: u32 = 200;

/// What a sweep needs to know of a job whose ces is gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Journal {
    /// The job.
    pub id: JobId,
    /// Where it runs; none in journals of versions that did not share directories.
    #[serde(default)]
    pub machine: Option<Machine>,
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
    /// The home of an ordinary user, who may have named another than the passwd database does.
    #[serde(default)]
    pub home: PathBuf,
    /// Sockets of published ports.
    #[serde(default)]
    pub sockets: Vec<SocketFile>,
    /// Bounds that file systems keep.
    #[serde(default)]
    pub quotas: Vec<Kept>,
}

impl Journal {
    /// Where its directories are: derived, not read.
    ///
    /// # Errors
    /// When its researcher is nobody any more.
    pub fn places(&self, dirs: &Dirs, caller: &Caller) -> Result<Places> {
        let home = if !caller.is_privileged() {
            self.home.clone()
        } else if self.uid == caller.uid.as_raw() {
            caller.home.clone()
        } else {
            lookup(Uid::from_raw(self.uid))?.ok_or_else(|| unknown(self.uid))?.dir
        };
        Ok(Places::new(dirs, &self.id, &home))
    }
}

/// An inode: its file system and its number.
pub type Inode = (u64, u64);

/// The directories that were made for a job: the content of its lock, for a file less to be made in every run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Scratch.
    pub scratch: Option<Inode>,
    /// Outputs.
    pub outputs: Option<Inode>,
}

impl Made {
    /// Notes them, once they are there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, _: &Root, dir: &Path, lock: &File) -> Result<()> {
        let write = |mut lock: &File| -> std::io::Result<()> { lock.write_all(&serde_json::to_vec(self)?) };
        write(lock).map_err(|e| fail_path("write into", dir, &e))
    }

    /// What was noted; nothing, where `ces` was killed before.
    ///
    /// # Errors
    /// When it could have been written by others.
    pub fn load(_: &Root, dirs: &Dirs, id: &JobId) -> Result<Self> {
        let Some(dir) = dirs.running.below(OsStr::new(id.as_str()))? else { return Ok(Self::default()) };
        let noted = document(&dir, LOCK)?.map_or_else(|| document(&dir, "made.json"), |made| Ok(Some(made)))?;
        Ok(noted.unwrap_or_default())
    }
}

const LOCK: &str = "lock";
/// No journal is longer.
const LARGEST: u64 = 1 << 20;

/// A document of a job; none where there is none, or it makes no sense.
fn document<T: DeserializeOwned>(dir: &SiteDir, name: &str) -> Result<Option<T>> {
    let Some(file) = dir.document(OsStr::new(name))? else { return Ok(None) };
    let mut text = Vec::new();
    // What cannot be read whole makes no sense either.
    let read = file.take(LARGEST).read_to_end(&mut text);
    Ok(read.ok().and_then(|_| serde_json::from_slice(&text).ok()))
}

/// What has become of a job's `ces`.
#[derive(Debug)]
pub enum Life {
    /// It holds its lock.
    Alive,
    /// It is gone; the lock, taken.
    Dead(Flock<File>),
    /// It is another machine's, which alone can tell.
    Elsewhere(Machine),
}

/// Writes a journal, and gives its directory and lock: whatever is made later is known to a sweep.
///
/// # Errors
/// When it cannot be written or locked, or its name is taken; nothing is left then.
pub fn begin(root: &Root, dirs: &Dirs, journal: &Journal) -> Result<(PathBuf, Flock<File>)> {
    let private = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    let dir = dirs.running.join(journal.id.as_str());
    let new = aside(dirs, &journal.id)?;
    // Held until the journal is there, so that of two runs with one name the second sees the first.
    let _names = journal.name.as_deref().map(|name| claim(root, dirs, name, journal.uid)).transpose()?;
    let create = |name: &str| OpenOptions::new().write(true).create_new(true).mode(0o600).open(new.join(name));
    let lock = || -> std::io::Result<Flock<File>> {
        private(&new)?;
        let lock = Flock::lock(create(LOCK)?, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        create("job.json")?.write_all(&serde_json::to_vec_pretty(journal)?)?;
        fs::rename(&new, &dir)?;
        Ok(lock)
    };
    let lock = lock().map_err(|e| {
        // Best effort: the error is what matters.
        fs::remove_dir_all(&new).ok();
        let error = fail_path("make", &dir, &e);
        match e.raw_os_error() {
            Some(libc::ENOSYS | libc::ENOLCK | libc::EOPNOTSUPP) => error
                .because("its file system keeps no locks")
                .hint("name a directory on a local file system with --root DIR or CES_ROOT"),
            _ => error,
        }
    })?;
    Ok((dir, lock))
}

/// What the journals tell: each run with what it is doing, and a warning for each journal that is not one.
pub type Listed = (Vec<(Journal, Life)>, Vec<String>);

/// The journals of jobs, each with what has become of its ces; and what is there that is no journal of a job, in words.
///
/// # Errors
/// When the directory cannot be read.
pub fn list_all(_: &Root, dirs: &Dirs) -> Result<Listed> {
    let running = dirs.running.path();
    let entries = match fs::read_dir(running) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        Err(e) => return Err(fail_path("read", running, &e)),
    };
    let here = Machine::this()?;
    let (mut jobs, mut odd) = (Vec::new(), Vec::new());
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match one(dirs, &here, &name) {
            Ok(Some(job)) => jobs.push(job),
            // A job that ends in this moment takes its journal with it.
            Ok(None) => {}
            Err(error) => odd.push(error.to_string()),
        }
    }
    jobs.sort_by(|a: &(Journal, _), b| a.0.id.cmp(&b.0.id));
    Ok((jobs, odd))
}

/// The same without what is no journal.
///
/// # Errors
/// As [`list_all`].
pub fn list(root: &Root, dirs: &Dirs) -> Result<Vec<(Journal, Life)>> {
    list_all(root, dirs).map(|(jobs, _)| jobs)
}

/// The journal of the name `name`.
fn one(dirs: &Dirs, here: &Machine, name: &OsStr) -> Result<Option<(Journal, Life)>> {
    let id = name.to_str().map(JobId::parse).transpose()?;
    let (Some(id), Some(dir)) = (id, dirs.running.below(name)?) else { return Ok(None) };
    // Looked at before it is opened to be written, which NFS asks of what is to be locked.
    let Some(looked_at) = dir.document(OsStr::new(LOCK))? else { return Ok(None) };
    let Ok(lock) = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(dir.join(LOCK)) else {
        return Ok(None);
    };
    drop(looked_at);
    let Some(journal) = document::<Journal>(&dir, "job.json")? else { return Ok(None) };
    if journal.id != id {
        return Err(Error::new(
            Stage::Run,
            Kind::Failed,
            format!("{} is not the journal of run {id}", dir.path().display()),
        ));
    }
    let life = match &journal.machine {
        Some(machine) if !here.is(machine) => Life::Elsewhere(machine.clone()),
        _ => Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_or(Life::Alive, Life::Dead),
    };
    Ok(Some((journal, life)))
}

/// Makes sure that no run of this researcher that is alive on this machine has this name, and that none takes it while the
/// answer is held.
fn claim(root: &Root, dirs: &Dirs, name: &str, uid: u32) -> Result<Flock<File>> {
    let what = |e: &std::io::Error| fail_path("lock", &dirs.running.join(NAMES), e);
    let names = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dirs.running.join(NAMES));
    let held = Flock::lock(names.map_err(|e| what(&e))?, FlockArg::LockExclusive).map_err(|(_, e)| what(&e.into()))?;
    let taken = |(journal, life): &(Journal, Life)| {
        matches!(life, Life::Alive) && journal.uid == uid && journal.name.as_deref() == Some(name)
    };
    match list(root, dirs)?.into_iter().find(taken) {
        None => Ok(held),
        Some((other, _)) => Err(Error::new(Stage::Run, Kind::Failed, format!("the name {name} is taken"))
            .because(format!("your run {} has it, and is running", other.id))
            .hint("choose another name, or end that run with ces stop")),
    }
}

/// Where a journal is that is not whole.
fn aside(dirs: &Dirs, id: &JobId) -> Result<PathBuf> {
    let Machine { host, id: machine, boot } = Machine::this()?;
    // The kernel takes any bytes for a name.
    let host = host.replace(['/', ':'], "_");
    Ok(dirs.running.join(format!("{ASIDE}{host}:{machine}:{boot}:{}:{id}", std::process::id())))
}

/// Machine and process, from the name of a journal aside.
fn maker(name: &str) -> Option<(Machine, i32)> {
    let parts: Vec<&str> = name.strip_prefix(ASIDE)?.split(':').collect();
    let [host, id, boot, pid, _] = parts.try_into().ok()?;
    Some((Machine { host: host.to_owned(), id: id.to_owned(), boot: boot.to_owned() }, pid.parse().ok()?))
}

/// Removes journals that were being made or removed on this machine when their ces was killed: nothing else of those jobs
/// exists.
///
/// # Errors
/// When one cannot be removed.
pub fn forget_half_made(_: &Root, dirs: &Dirs) -> Result<()> {
    let here = Machine::this()?;
    for entry in fs::read_dir(dirs.running.path()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((machine, pid)) = name.to_str().and_then(maker) else { continue };
        // Signal 0 asks whether there is such a process (kill(2)).
        let dead = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::Error::ESRCH);
        if !here.is(&machine) || (machine.boot == here.boot && !dead()) {
            continue;
        }
        match fs::remove_dir_all(entry.path()) {
            // Another sweep was quicker.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(fail_path("remove", &entry.path(), &e)),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the journal of a job, as the last step of its end or of a sweep.
///
/// # Errors
/// When it cannot be removed.
pub fn forget(_: &Root, dirs: &Dirs, id: &JobId, lock: Flock<File>) -> Result<()> {
    let dir = dirs.running.join(id.as_str());
    let aside = aside(dirs, id)?;
    match fs::rename(&dir, &aside) {
        // Meanwhile another command found it without its lock.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(|e| fail_path("remove", &dir, &e))?,
    }
    // Under this name it is this process's as long as it lives. NFS and FUSE keep an open file under another name until it is
    // closed, and a moment longer.
    drop(lock);
    // The end of its record, which is where records are by now.
    fs::remove_file(aside.join("ending.json")).ok();
    // What else may be there is the socket of `ces exec`.
    let known = ["job.json", LOCK].iter().try_for_each(|name| fs::remove_file(aside.join(name)));
    let mut removed = known.and_then(|()| fs::remove_dir(&aside)).or_else(|_| fs::remove_dir_all(&aside));
    for _ in 0..LATE_LOOKS {
        match removed.as_ref().map_err(std::io::Error::kind) {
            Err(ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy) => {
                std::thread::sleep(Duration::from_millis(10));
                removed = fs::remove_dir_all(&aside);
            }
            _ => break,
        }
    }
    removed.map_err(|e| fail_path("remove", &aside, &e))
}

fn fail(what: &str, e: &std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e)
}

fn fail_path(what: &str, path: &Path, e: &std::io::Error) -> Error {
    fail(&format!("{what} {}", path.display()), e)
}
