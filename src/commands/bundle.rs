//! `ces spec`, `ces bundle`: what a run would get, for eyes and for other runtimes.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

use super::prepare::{self, Prepared};
use super::print;
use crate::bundle::flatten;
use crate::bundle::rootfs::{Plan, ROOTFS};
use crate::bundle::spec::{self, HostPaths};
use crate::cli::{BundleArgs, Global, SpecArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::{Root, as_root, over_files};
use crate::run::job_id::JobId;
use crate::run::stage::in_child;
use crate::run::supervisor::job;
use crate::run::{removal, user_namespace};

/// Prints the `config.json` that a run would get; nothing runs.
///
/// # Errors
/// As `ces run`, before anything is made.
pub fn spec(global: &Global, args: &SpecArgs) -> Result<u8> {
    let prepared = prepare::prepare(global, &args.run, prepare::caller()?)?;
    let home = &prepared.identity.caller.home;
    let paths = HostPaths {
        data: Some(prepared.data.path.clone()),
        outputs: home.join("outputs_ID"),
        scratch: home.join("scratch_ID"),
        hosts: "hosts".into(),
        hostname: "hostname".into(),
        resolv_conf: "resolv.conf".into(),
    };
    let (spec, _) = prepared.spec("ID", &paths, Path::new("rootfs"), true)?;
    let text = spec::to_json(&spec)?;
    print::json_text(&text)?;
    Ok(0)
}

/// Makes a complete, portable OCI bundle in a new directory.
///
/// # Errors
/// As `ces run`; and when the directory is not new.
pub fn bundle(global: &Global, args: &BundleArgs) -> Result<u8> {
    let mut prepared = prepare::prepare(global, &args.run(), prepare::caller()?)?;
    prepared.identity = prepared.identity.portable()?;
    let dir = std::path::absolute(&args.dir)
        .map_err(|e| Error::new(Stage::Cli, Kind::Usage, format!("cannot use {}", args.dir.display())).because(e))?;
    let (made, rootfs) = make_directories(&prepared, &dir)?;
    let filled = fill(&prepared, &dir, &rootfs);
    if filled.is_err() {
        // The first error is the one to show.
        discard(&prepared, &dir, &made).ok();
    }
    filled?;
    print::line(&dir.display().to_string())?;
    Ok(0)
}

/// Makes the directory and those in it, with the researcher's rights; gives the directory and its rootfs as they were made.
fn make_directories(prepared: &Prepared, dir: &Path) -> Result<(OwnedFd, OwnedFd)> {
    let identity = &prepared.identity;
    let fail = |path: &Path, e: nix::Error| {
        Error::new(Stage::Bundle, Kind::Failed, format!("cannot make {}", path.display()))
            .because(e.desc())
            .hint("name a directory that does not exist yet, in one that is yours")
    };
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Err(fail(dir, nix::Error::EEXIST)) };
    let open = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let parent = nix::fcntl::open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| fail(dir, e))?;
    let make = |at: &OwnedFd, name: &OsStr, mode: u32| {
        mkdirat(at, name, Mode::from_bits_truncate(mode))?;
        let made = openat(at, name, open, Mode::empty())?;
        // Whatever the umask.
        fchmod(&made, Mode::from_bits_truncate(mode)).map(|()| made)
    };
    // Others may pass through, as the container's users must, but not look.
    let make = |at: &OwnedFd, name: &OsStr, mode: u32| {
        let made = make(at, name, mode)?;
        // Another directory may have taken the name before it was opened: then it is not empty, or somebody else's.
        let is_ours = fstat(&made)?.st_uid == identity.caller.uid.as_raw() && is_empty(&made)?;
        is_ours.then_some(made).ok_or(nix::Error::EEXIST)
    };
    let made = make(&parent, name, 0o711).map_err(|e| fail(dir, e))?;
    let rootfs = make(&made, OsStr::new("rootfs"), 0o700).map_err(|e| fail(&dir.join("rootfs"), e))?;
    let payload = identity.payload();
    for name in ["safe_outputs", "scratch"] {
        let below = make(&made, OsStr::new(name), 0o700).map_err(|e| fail(&dir.join(name), e))?;
        if identity.caller.is_privileged() {
            let (uid, gid) = (Uid::from_raw(payload.uid), Gid::from_raw(payload.gid));
            // What was opened, whatever its name leads to by now: a directory that is the researcher's, and empty.
            as_root(|_| fchown(&below, Some(uid), Some(gid))).map_err(|e| fail(&dir.join(name), e))?;
        }
    }
    Ok((made, rootfs))
}

fn is_empty(dir: &OwnedFd) -> nix::Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    for entry in Dir::openat(dir, ".", flags, Mode::empty())? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes a bundle that could not be made whole: what is in the directory that was made, and then its name.
fn discard(prepared: &Prepared, dir: &Path, made: &OwnedFd) -> Result<()> {
    let (identity, researcher) = (&prepared.identity, prepared.identity.researcher());
    let privileged = identity.caller.is_privileged();
    let ids = job::ids_of(&identity.container, privileged, researcher.uid);
    let foreign = job::ids_of(&identity.on_disk, privileged, researcher.uid);
    let empty = || {
        removal::content(made, &|uid| ids(uid) || foreign(uid))
            .map(|()| Vec::new())
            .map_err(|e| Error::new(Stage::Bundle, Kind::Failed, "cannot remove the bundle").because(e.desc()))
    };
    over_files(&researcher, |root| user_namespace::with_ids(root, &identity.container, privileged, empty))?;
    fs::remove_dir(dir).map_err(|e| Error::new(Stage::Bundle, Kind::Failed, "cannot remove the bundle").because(e))
}

fn fill(prepared: &Prepared, dir: &Path, target: &OwnedFd) -> Result<()> {
    let id = JobId::new()?;
    let hostname = prepared.hostname("ces").to_owned();
    let [hosts, hostname, resolv_conf] = prepare::write_etc(dir, &hostname)?;
    let paths = HostPaths {
        data: Some(prepared.data.path.clone()),
        outputs: dir.join("safe_outputs"),
        scratch: dir.join("scratch"),
        hosts,
        hostname,
        resolv_conf,
    };
    let (spec, notes) = prepared.spec("ces", &paths, Path::new("rootfs"), true)?;
    notes.iter().try_for_each(|note| print::note(note))?;
    let config = dir.join("config.json");
    fs::write(&config, spec::to_json(&spec)?).map_err(|e| {
        Error::new(Stage::Bundle, Kind::Failed, format!("cannot write {}", config.display())).because(e)
    })?;
    let fail =
        |e: nix::Error| Error::new(Stage::Bundle, Kind::Failed, "cannot use the bundle's rootfs").because(e.desc());
    let work = prepared.dirs.store.join("work").join(format!("bundle-{id}"));
    let identity = &prepared.identity;
    if !identity.caller.is_privileged() {
        return as_root(|root| copy_rootfs(root, prepared, target, &work));
    }
    as_root(|root| {
        // Until it is whole nobody but root enters it: what is made in it is what was made.
        let own = |uid: Uid, gid: Gid| fchown(target, Some(uid), Some(gid)).map_err(fail);
        own(Uid::from_raw(0), Gid::from_raw(0))?;
        let copied = copy_rootfs(root, prepared, target, &work);
        if copied.is_err() {
            own(identity.caller.uid, identity.caller.gid)?;
        }
        copied
    })
}

/// Copies the image's merged tree, in a process that sees that tree and the target alone.
fn copy_rootfs(root: &Root, prepared: &Prepared, target: &OwnedFd, work: &Path) -> Result<()> {
    let identity = &prepared.identity;
    let privileged = identity.caller.is_privileged();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(work)
        .map_err(|e| Error::new(Stage::Bundle, Kind::Failed, format!("cannot make {}", work.display())).because(e))?;
    let top = prepared.image.root();
    let plan = Plan {
        root_mode: top.mode,
        root_owner: identity.for_mounting(top.uid, top.gid)?,
        layers: prepared.image.layers().iter().map(|layer| layer.path().to_path_buf()).collect(),
        work: work.to_path_buf(),
        binds: Vec::new(),
        root_ids: identity.root(),
        cover: work.to_path_buf(),
    };
    let fail = |e: nix::Error| Error::new(Stage::Bundle, Kind::Failed, "cannot open the merged tree").because(e.desc());
    let read = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let copied =
        in_child::in_stage(root, &plan, identity.layer_map().as_ref(), &identity.container, privileged, || {
            let from = nix::fcntl::open(ROOTFS, read, Mode::empty()).map_err(fail)?;
            flatten::copy(from, openat(target, ".", read, Mode::empty()).map_err(fail)?)
        });
    let removed =
        user_namespace::with_ids(root, &identity.container, privileged, || job::remove_work(work).map(|()| Vec::new()));
    copied?;
    removed.map(drop)
}
