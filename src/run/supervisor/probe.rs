//! Limits, and the look at what a run writes, tried: for `ces doctor`, which says what was seen and not what should be.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxResources;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::cgroup::Cgroup;
use crate::host::idmap::IdMap;
use crate::host::ids::HostIds;
use crate::host::privilege::{Root, acting_as, over_files};
use crate::run::directory::open_directory;
use crate::run::job_id::JobId;
use crate::run::process;
use crate::run::supervisor::job;
use crate::run::supervisor::places::Places;
use crate::run::supervisor::quota::{self, Ceiling, Which};
use crate::run::supervisor::watch::{Bound, Watch};
use crate::run::{removal, user_namespace};

/// Makes a control group for a process that does nothing, with the limits in `resources` if any, and removes both; gives the
/// limits that it does not have.
///
/// # Errors
/// When there is none to be had.
pub fn limits(root: &Root, resources: &LinuxResources) -> Result<Vec<&'static str>> {
    let job = format!("doctor-{}", JobId::new()?);
    let cgroup = match Cgroup::prepare(root, &job, resources)? {
        // Whoever may make one may enter it.
        Some(cgroup) => cgroup,
        None => {
            let child = process::fork(|| {
                nix::unistd::pause();
                0
            })
            .map_err(|e| Error::new(Stage::Run, Kind::Host, "cannot start a process to try limits on").because(e))?;
            let made = Cgroup::create(root, &job, child, resources);
            process::end(child);
            made?
        }
    };
    let seen = cgroup.observed(root).map(|_| cgroup.missing().to_vec());
    cgroup.remove(root).and(seen)
}

/// Whether the file system of `place` keeps a bound on what is made there: a directory with room for one file takes no second
/// one. For root; `place` is opened with the rights of `owner`.
///
/// # Errors
/// When it should, and does not: then no run could be.
pub fn quota(root: &Root, place: &Path, owner: &HostIds) -> Result<bool> {
    // Nobody's: root, and a process with root's resources, would not be held to a limit.
    const NOBODY: HostIds = HostIds { uid: 65_534, gid: 65_534, groups: Vec::new() };
    let dir = place.join(format!(".ces-doctor-{}", JobId::new()?));
    let ceiling = Ceiling { what: "a directory", dirs: vec![(Which::Work, dir.clone())], bytes: None, files: Some(1) };
    let Some(kept) = quota::choose(root, &[ceiling], owner).pop() else { return Ok(false) };
    let fail = |e: &dyn std::fmt::Display| {
        Error::new(Stage::Run, Kind::Host, format!("cannot try the project quotas of {}", place.display())).because(e)
    };
    let made = acting_as(owner, || {
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|e| fail(&e))?;
        open_directory(&dir, true)
    })?;
    let write = |name: &str| {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        acting_as(&NOBODY, || Ok(openat(&made, name, flags, Mode::S_IRWXU).map(drop)))
    };
    let tried = kept.begin(root, &[&made]).and_then(|()| {
        std::os::unix::fs::fchown(&made, Some(NOBODY.uid), Some(NOBODY.gid)).map_err(|e| fail(&e))?;
        write("first")?.map_err(|e| fail(&e.desc()))?;
        match write("second")? {
            // XFS says the other.
            Err(Errno::EDQUOT | Errno::ENOSPC) => Ok(true),
            Err(e) => Err(fail(&e.desc())),
            Ok(()) => Err(fail(&"a second file was made where there was room for one")),
        }
    });
    let emptied = removal::content(&made, removal::ALL).map_err(|e| fail(&e.desc()));
    emptied.and_then(|()| acting_as(owner, || fs::remove_dir(&dir).map_err(|e| fail(&e))))?;
    let places = Places { home: place.to_owned(), scratch: String::new(), outputs: String::new(), work: dir.clone() };
    kept.end(root, &places, owner)?;
    tried
}

/// What a look at a run's files finds in the researcher's home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// All of it.
    All,
    /// What is not in a directory that the payload has closed: a file server gives nobody rights that its owner lacks.
    Open,
}

/// Makes a directory in the researcher's home as a run makes its scratch, looks at what is in it as a run does, also once a
/// directory is closed, and removes it.
///
/// # Errors
/// The outer: when it cannot be made, or not removed: then no run could be. The inner: when nothing can be counted.
pub fn watch(caller: &Caller) -> Result<Result<Seen>> {
    let privileged = caller.is_privileged();
    let researcher = caller.ids();
    let dir = caller.home.join(format!(".ces-doctor-{}", JobId::new()?));
    let below = dir.join("below");
    let fail = |e: std::io::Error| {
        Error::new(Stage::Run, Kind::Host, format!("cannot make a directory in {}", caller.home.display()))
            .because(e)
            .hint("outputs and scratch are made in your home directory: is it there, writable and not full?")
    };
    let made = acting_as(&researcher, || {
        let make = || -> std::io::Result<()> {
            fs::DirBuilder::new().mode(0o700).create(&dir)?;
            fs::create_dir(&below)?;
            fs::write(below.join("file"), "x")
        };
        make().map_err(fail)?;
        open_directory(&dir, true)
    });
    let map = IdMap::on_disk(caller)?;
    let seen = made.and_then(|made| {
        let one = Bound { what: "test", dirs: vec![made], bytes: None, files: Some(1), kept: false };
        let mut watch = Watch::new(vec![one], map.clone(), researcher.clone(), privileged);
        let mut look = || {
            watch.look(false).and_then(|seen| match seen.as_deref() {
                Some("test limit: 2 files are more than 1") => Ok(()),
                other => Err(Error::new(Stage::Run, Kind::Host, "a run's files cannot be counted")
                    .because(other.unwrap_or("what is there was not found"))),
            })
        };
        if let Err(error) = look() {
            return Ok(Err(error));
        }
        let close = || fs::set_permissions(&below, fs::Permissions::from_mode(0o0)).map_err(fail);
        acting_as(&researcher, close)?;
        Ok(Ok(if look().is_ok() { Seen::All } else { Seen::Open }))
    });
    let removed = remove(caller, &dir, &map);
    let seen = seen?;
    removed?;
    Ok(seen)
}

/// Removes the directory again, whatever was made in it.
fn remove(caller: &Caller, dir: &Path, map: &IdMap) -> Result<()> {
    let fail = |e: nix::Error| {
        Error::new(Stage::Run, Kind::Host, format!("cannot remove {}", dir.display())).because(e.desc())
    };
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(()) };
    let parent = open_directory(parent, false)?;
    let ids = job::ids_of(map, caller.is_privileged(), caller.uid.as_raw());
    let work = || removal::tree(&parent, Path::new(name), &ids).map(|()| Vec::new()).map_err(fail);
    over_files(&caller.ids(), |root| user_namespace::with_ids(root, map, caller.is_privileged(), work)).map(drop)
}
