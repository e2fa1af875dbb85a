//! The child process: root only inside a user namespace, with no network, shut into one directory.
//!
//! Takes a job on its control socket (standard output) and the blob on standard input; gives a report or a fault.
//! Trusts its parent's job; nothing that is read afterwards.
//! Refuses to start work where it could not shut itself in.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use caps::{CapSet, Capability};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chroot, fchdir, setgroups, setresgid, setresuid};

use super::apply::{Applied, Applier};
use super::flush::Flush;
use super::listing::{self, Contents};
use super::protocol::{Fault, FaultKind, Job, Report, Said, Work, receive, send};
use super::stream::{Hashing, Uncompressed};
use super::tarstream::TarStream;
use super::tree::Tree;
use super::{plan, remove, settle, stream};
use crate::host::idmap::IdMap;
use crate::host::parent;

/// Bytes of file contents after which what was written so far is sent on its way to disk.
const FLUSH_EVERY: u64 = 256 << 20;

/// Seconds of a processor that reading vulnerability data may take, and bytes that may be kept of it.
const IMPORT_SECONDS: u64 = 1800;
const IMPORT_BYTES: u64 = 4 << 30;

/// Reads vulnerability data from one file, writes what is kept of it to another, at this time of day; its error is in words.
pub type Importer = fn(&mut File, File, &str) -> Result<(), String>;

/// What the child process does; to be called before any thread exists. `import` reads vulnerability data, which is a later
/// stage's affair.
pub fn child_main(import: Importer) -> ExitCode {
    let Ok((control, blob)) = descriptors() else { return ExitCode::FAILURE };
    if parent::verify(&control).is_err() {
        // Not started by ces: whoever did is told nothing.
        return ExitCode::FAILURE;
    }
    let mut from_parent = BufReader::new(&control);
    let said = match work(&mut from_parent, &control, blob, import) {
        Ok(report) => Said::Done(report.map(Box::new)),
        Err(fault) => Said::Failed(fault),
    };
    match send(&control, &said) {
        Ok(()) if matches!(said, Said::Done(_)) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn descriptors() -> io::Result<(UnixStream, File)> {
    let control = io::stdout().as_fd().try_clone_to_owned()?;
    let blob = io::stdin().as_fd().try_clone_to_owned()?;
    Ok((UnixStream::from(control), File::from(blob)))
}

fn work(
    from_parent: &mut BufReader<&UnixStream>,
    control: &UnixStream,
    mut blob: File,
    import: Importer,
) -> Result<Option<Report>, Fault> {
    let lost = |e: io::Error| Fault::new(FaultKind::Host, format!("lost the parent process: {e}"));
    let job: Job = receive(from_parent).map_err(lost)?;
    // Whatever a layer makes this process remember, the host keeps its memory: an allocation beyond is this process's end.
    setrlimit(Resource::RLIMIT_DATA, job.limits.memory, job.limits.memory)
        .map_err(|e| Fault::host("limit the memory of the unpacking process", e))?;
    let directory = open(&job.directory)?;
    let listing = job.listing.as_deref().map(create).transpose()?;
    let known = job.known.as_deref().map(open_file).transpose()?;
    let lower = match &job.work {
        Work::Settle { lower, .. } => lower.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?,
        _ => Vec::new(),
    };
    leave(|| {
        send(control, &Said::Unshared).map_err(lost)?;
        receive::<String>(from_parent).map(drop).map_err(lost)
    })?;
    become_root(&job.ids)?;
    shut_in(&directory, &lower, matches!(job.work, Work::List | Work::Import { .. }))?;
    match &job.work {
        Work::Unpack { compression, blob_size, has_base } => {
            let bytes = stream::start(blob, *compression, *blob_size, job.limits.clone())?;
            unpack(directory, bytes, *has_base, listing, &job).map(Some)
        }
        Work::Settle { open, .. } => {
            let mut contents = known.map(listing::load).transpose()?.unwrap_or_default();
            for made in settle::settle(&directory, &lower, open)? {
                // Perhaps the number of a file that is gone.
                contents.remove(&made);
            }
            let flush = Flush::start(&directory)?;
            flush.soon();
            list(&directory, listing, &contents, &job.ids)?;
            flush.finish().map(|()| None)
        }
        Work::List => list(&directory, listing, &Contents::default(), &job.ids).map(|()| None),
        Work::Import { time } => {
            let limit = |resource, most| setrlimit(resource, most, most).map_err(|e| Fault::host("set a limit", e));
            limit(Resource::RLIMIT_CPU, IMPORT_SECONDS)?;
            limit(Resource::RLIMIT_FSIZE, IMPORT_BYTES)?;
            let to = listing.ok_or_else(|| Fault::new(FaultKind::Host, "there is nowhere to write"))?;
            import(&mut blob, to, time).map(|()| None).map_err(Fault::malformed)
        }
        Work::Remove => remove::remove_content(&directory).map(|()| None),
    }
}

fn open(path: &Path) -> Result<OwnedFd, Fault> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, path, flags, Mode::empty()).map_err(|e| Fault::host(&format!("open {}", path.display()), e))
}

/// A file of the parent's, to read.
fn open_file(path: &Path) -> Result<File, Fault> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(AT_FDCWD, path, flags, Mode::empty());
    file.map(File::from).map_err(|e| Fault::host(&format!("open {}", path.display()), e))
}

/// A new file; opened before the process shuts itself in, and all that it can write to outside its directory.
fn create(path: &Path) -> Result<File, Fault> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(AT_FDCWD, path, flags, Mode::S_IRUSR | Mode::S_IWUSR);
    file.map(File::from).map_err(|e| Fault::host(&format!("make {}", path.display()), e))
}

fn list(directory: &OwnedFd, listing: Option<File>, contents: &Contents, ids: &IdMap) -> Result<(), Fault> {
    listing.map_or(Ok(()), |file| listing::write(directory, file, contents, ids))
}

/// Leaves the parent's namespaces; `mapped` returns when the parent has written the id maps.
fn leave(mapped: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    let namespaces =
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
    unshare(namespaces).map_err(|e| {
        Fault::host("make a user namespace", e)
            .hint("user namespaces must be allowed on this host (sysctl user.max_user_namespaces; on some, kernel.unprivileged_userns_clone or an AppArmor restriction)")
    })?;
    mapped()
}

fn become_root(ids: &IdMap) -> Result<(), Fault> {
    let fail = |e| Fault::host("become root of the user namespace", e);
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
fn shut_in(directory: &OwnedFd, lower: &[OwnedFd], read_only: bool) -> Result<(), Fault> {
    let fail = |e| Fault::host("shut the unpacking process in", e);
    fchdir(directory).map_err(fail)?;
    chroot(".").map_err(fail)?;
    let change = [Capability::CAP_CHOWN, Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER, Capability::CAP_FSETID];
    let change = change.into_iter().filter(|_| !read_only);
    let keep = change.chain([Capability::CAP_DAC_READ_SEARCH]).collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &keep)
            .map_err(|e| Fault::new(FaultKind::Host, format!("cannot drop capabilities: {e}")))?;
    }
    restrict(directory, lower, read_only)
        .map_err(|e| Fault::new(FaultKind::Host, format!("cannot restrict the unpacking process (Landlock): {e}")))
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

fn unpack(
    directory: OwnedFd,
    (mut bytes, hashing): (Uncompressed, Hashing),
    has_base: bool,
    listing: Option<File>,
    job: &Job,
) -> Result<Report, Fault> {
    let (ids, limits) = (&job.ids, &job.limits);
    let flush = Flush::start(&directory)?;
    let mut flushed = 0;
    let root = directory.try_clone().map_err(|_| Fault::host("open the layer's directory", Errno::EMFILE))?;
    let mut applier = Applier::new(Tree::new(root, limits.depth)?, has_base);
    let mut archive = TarStream::new(&mut bytes);
    let mut entries = 0_u64;
    while let Some(entry) = archive.entry(limits)? {
        entries += 1;
        if entries > limits.entries {
            return Err(Fault::refused(format!("the layer has more than {} entries", limits.entries)));
        }
        let name = entry.path.clone();
        let decision = plan::decide(entry, ids, limits)?;
        applier.apply(decision, &mut archive).map_err(|fault| fault.at(&name))?;
        if applier.written() - flushed >= FLUSH_EVERY {
            flushed = applier.written();
            flush.soon();
        }
    }
    flush.soon();
    archive.drain()?;
    let (Applied { omitted, open, root, file_bytes }, contents) = applier.finish()?;
    let total = bytes.total();
    drop(bytes);
    let diff_id = hashing.finish()?;
    match listing {
        // What the layers below have a say in is listed when they had it.
        Some(file) if !open.is_empty() => listing::save(&contents, file)?,
        listing => list(&directory, listing, &contents, ids)?,
    }
    flush.finish()?;
    Ok(Report { diff_id, bytes: total, file_bytes, entries, omitted, open, root })
}
