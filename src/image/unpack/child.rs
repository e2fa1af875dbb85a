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

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;

use super::apply::{Applied, Applier};
use super::flush::Flush;
use super::listing::{self, Contents};
use super::merged::LayersBelow;
use super::protocol::{
    EXPANDED, Fault, FaultKind, Job, NAMES_MAX, NOTES_MAX, OmittedName, OmittedSort, RawPath, Report, Said, Work,
    receive, send,
};
use super::stream::{Hashing, Uncompressed};
use super::tarstream::{Entry, TarStream, Type};
use super::tree::Tree;
use super::{plan, remove, settle, stream};
use crate::host::confine::{self, Unconfined};
use crate::host::idmap::IdMap;
use crate::host::parent;

/// Bytes of file contents after which what was written so far is sent on its way to disk.
const FLUSH_EVERY: u64 = 256 << 20;

/// Seconds of a processor that reading a layer's facts may take, and bytes that it may write.
const FACTS_SECONDS: u64 = 300;
const FACTS_BYTES: u64 = 256 << 20;
/// Seconds of a processor that reading vulnerability data may take, and bytes that may be kept of it.
const IMPORT_SECONDS: u64 = 1800;
const IMPORT_BYTES: u64 = 4 << 30;

/// What a later stage reads in this process: the process is confined here, the formats are known there.
#[derive(Debug, Clone, Copy)]
pub struct Readers {
    /// Reads what a tree says of packages: the tree, its listing, where to write, the listing's digest.
    pub facts: fn(&OwnedFd, File, File, &str) -> io::Result<()>,
    /// Reads vulnerability data from one file, writes what is kept of it to another, at this time of day; its error is in words.
    pub import: fn(&mut File, File, &str) -> Result<(), String>,
}

/// What the child process does; to be called before any thread exists.
pub fn child_main(readers: Readers) -> ExitCode {
    let Ok((control, blob)) = descriptors() else { return ExitCode::FAILURE };
    if parent::verify(&control).is_err() {
        // Not started by ces: whoever did is told nothing.
        return ExitCode::FAILURE;
    }
    let mut from_parent = BufReader::new(&control);
    let said = match work(&mut from_parent, &control, blob, readers) {
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
    readers: Readers,
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
        Work::Settle { lower, .. } | Work::Unpack { lower, .. } => {
            lower.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?
        }
        _ => Vec::new(),
    };
    confine::leave()?;
    send(control, &Said::Unshared).map_err(lost)?;
    receive::<String>(from_parent).map(drop).map_err(lost)?;
    confine::become_root(&job.ids)?;
    confine::shut_in(&directory, &lower, matches!(job.work, Work::List | Work::Facts { .. } | Work::Import { .. }))?;
    match &job.work {
        Work::Unpack { compression, blob_size, has_base, .. } => {
            let bytes = stream::start(blob, *compression, *blob_size, job.limits.clone())?;
            unpack(directory, bytes, (*has_base, lower), listing, &job).map(Some)
        }
        Work::Expand { compression, size } => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let out = openat(&directory, EXPANDED, flags, Mode::S_IRUSR | Mode::S_IWUSR)
                .map_err(|e| Fault::host("make a file", e))?;
            stream::expand(blob, *compression, *size, &job.limits, &File::from(out)).map(|()| None)
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
        Work::Facts { tree } => {
            let limit = |resource, most| setrlimit(resource, most, most).map_err(|e| Fault::host("set a limit", e));
            limit(Resource::RLIMIT_CPU, FACTS_SECONDS)?;
            limit(Resource::RLIMIT_FSIZE, FACTS_BYTES)?;
            let missing = || Fault::new(FaultKind::Host, "no listing, or nowhere to write");
            let (known, out) = (known.ok_or_else(missing)?, listing.ok_or_else(missing)?);
            let read = (readers.facts)(&directory, known, out, tree);
            read.map(|()| None).map_err(|e| Fault::new(FaultKind::Host, format!("cannot read the layer's facts: {e}")))
        }
        Work::Import { time } => {
            let limit = |resource, most| setrlimit(resource, most, most).map_err(|e| Fault::host("set a limit", e));
            limit(Resource::RLIMIT_CPU, IMPORT_SECONDS)?;
            limit(Resource::RLIMIT_FSIZE, IMPORT_BYTES)?;
            let to = listing.ok_or_else(|| Fault::new(FaultKind::Host, "there is nowhere to write"))?;
            (readers.import)(&mut blob, to, time).map(|()| None).map_err(Fault::malformed)
        }
        Work::Remove => remove::remove_content(&directory).map(|()| None),
    }
}

impl From<Unconfined> for Fault {
    fn from(failed: Unconfined) -> Self {
        let fault = Self::new(FaultKind::Host, failed.to_string());
        failed.hint.map_or(fault.clone(), |hint| fault.hint(hint))
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

fn unpack(
    directory: OwnedFd,
    (mut bytes, hashing): (Uncompressed, Hashing),
    (has_base, lower): (bool, Vec<OwnedFd>),
    listing: Option<File>,
    job: &Job,
) -> Result<Report, Fault> {
    let (ids, limits) = (&job.ids, &job.limits);
    let flush = Flush::start(&directory)?;
    let mut flushed = 0;
    let root = directory.try_clone().map_err(|_| Fault::host("open the layer's directory", Errno::EMFILE))?;
    let mut tree = Tree::new(root, limits.depth)?;
    if !lower.is_empty() {
        tree = tree.above(Box::new(LayersBelow::new(lower)));
    }
    let mut applier = Applier::new(tree, has_base);
    let mut archive = TarStream::new(&mut bytes);
    let (mut entries, mut unmapped) = (0_u64, None);
    let mut left_out = LeftOut::default();
    while let Some(entry) = archive.entry(limits)? {
        entries += 1;
        if entries > limits.entries {
            return Err(Fault::refused(format!("the layer has more than {} entries", limits.entries)));
        }
        let name = entry.path.clone();
        left_out.note(&entry);
        let decision = plan::decide(entry, ids, limits)?;
        if let Some(id) = decision.unmapped {
            unmapped.get_or_insert_with(|| (RawPath(name.clone()), id));
        }
        applier.apply(decision, &mut archive).map_err(|fault| fault.at(&name))?;
        if applier.written() - flushed >= FLUSH_EVERY {
            flushed = applier.written();
            flush.soon();
        }
    }
    flush.soon();
    archive.drain()?;
    let (Applied { mut omitted, open, root, file_bytes }, contents) = applier.finish()?;
    omitted.names = left_out.names;
    let total = bytes.total();
    drop(bytes);
    let diff_id = hashing.finish()?;
    match listing {
        // What the layers below have a say in is listed when they had it.
        Some(file) if !open.is_empty() => listing::save(&contents, file)?,
        listing => list(&directory, listing, &contents, ids)?,
    }
    flush.finish()?;
    Ok(Report { diff_id, bytes: total, file_bytes, entries, omitted, open, root, unmapped })
}

/// The names of what is left out of a layer by rule.
#[derive(Default)]
struct LeftOut {
    names: Vec<OmittedName>,
    bytes: usize,
}

impl LeftOut {
    /// Keeps the entry's name for each thing of it that is left out.
    fn note(&mut self, entry: &Entry) {
        let is_file = entry.kind == Type::File;
        let has_capabilities = || entry.xattrs.iter().any(|(name, _)| name == b"security.capability");
        for (is_left_out, what) in [
            (is_file && entry.mode & 0o4000 != 0, OmittedSort::SetUserId),
            (is_file && entry.mode & 0o2000 != 0, OmittedSort::SetGroupId),
            (is_file && has_capabilities(), OmittedSort::Capabilities),
            (entry.kind == Type::Device, OmittedSort::Device),
        ] {
            let bytes = self.bytes.saturating_add(entry.path.len());
            if is_left_out && self.names.len() < NOTES_MAX && bytes <= NAMES_MAX {
                self.bytes = bytes;
                let parts = entry.path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".");
                self.names.push(OmittedName { what, path: RawPath(parts.collect::<Vec<_>>().join(&b'/')) });
            }
        }
    }
}
