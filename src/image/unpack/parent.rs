//! The parent's side of unpacking.
//!
//! Takes a job and something that writes the blob; gives the child's report, or its fault with the reason.
//! Trusts nothing the child says beyond its report's numbers: paths in it are text from outside.
//! Refuses to take the silence of a child that died for success.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Pid, pipe2};

use super::limits::Limits;
use super::protocol::{Fault, FaultKind, Job, Report, Said, Work, receive, send};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::idmap::IdMap;
use crate::host::privilege::{Root, as_root};
use crate::host::scheduling;
use crate::image::document::Compression;

/// The name under which the child is executed, and by which it is known: no file has it, and no word of a command line leads
/// there.
pub const NAME: &str = "ces: unpack";
/// Bytes of the blob that may wait in the pipe.
const PIPE_SIZE: i32 = 1 << 20;
/// Bytes that the process may hold that reads what a layer says of packages.
const FACTS_MEMORY: u64 = 768 << 20;
/// Bytes that the process may hold that reads vulnerability data.
const IMPORT_MEMORY: u64 = 3 << 30;

/// Starts children that unpack.
#[derive(Debug, Clone)]
pub struct Unpacker {
    exe: PathBuf,
    privileged: bool,
    ids: IdMap,
    limits: Limits,
}

/// The blob's way to the child; a write fails with `BrokenPipe` when the child has stopped.
#[derive(Debug)]
pub struct BlobPipe(io::PipeWriter);

impl Write for BlobPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How the child ended; the inner error is its own.
pub type Ended<T> = std::result::Result<T, Fault>;

impl Unpacker {
    /// Children are `ces` itself, as it runs now.
    ///
    /// # Errors
    /// When the caller's subordinate ids cannot be read.
    pub fn new(caller: &Caller, limits: &Limits) -> Result<Self> {
        Self::with_exe(caller, limits, Path::new("/proc/self/exe"))
    }

    /// Children are the program `exe`, which must be `ces`.
    ///
    /// # Errors
    /// When the caller's subordinate ids cannot be read.
    pub fn with_exe(caller: &Caller, limits: &Limits, exe: &Path) -> Result<Self> {
        let ids = IdMap::on_disk(caller)?;
        Ok(Self { exe: exe.to_owned(), privileged: caller.is_privileged(), ids, limits: limits.clone() })
    }

    /// The id map of what it writes.
    pub fn ids(&self) -> &IdMap {
        &self.ids
    }

    /// The limits that hold.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Unpacks what `feed` writes into `directory`; lists the tree in the new file `listing`, if it is whole then.
    ///
    /// # Errors
    /// When no child can be started, or `feed` fails for another reason than the child's end.
    pub fn unpack(
        &self,
        directory: &Path,
        listing: &Path,
        work: Work,
        feed: impl FnOnce(&mut BlobPipe) -> Result<()>,
    ) -> Result<Ended<Report>> {
        match self.feed(self.job(directory, work, Some(listing)), feed)? {
            Ok(Some(report)) => Ok(Ok(*report)),
            Ok(None) => Err(Error::new(Stage::Unpack, Kind::Failed, "the unpacking process sent no report")),
            Err(fault) => Ok(Err(fault)),
        }
    }

    /// Decompresses what `feed` writes, of `size` bytes, to the file `archive` in `directory`; it may become as large as an
    /// image.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    pub fn expand(
        &self,
        directory: &Path,
        compression: Compression,
        size: u64,
        feed: impl FnOnce(&mut BlobPipe) -> Result<()>,
    ) -> Result<Ended<()>> {
        let mut job = self.job(directory, Work::Expand { compression, size }, None);
        job.limits.layer_bytes = job.limits.image_bytes;
        Ok(self.feed(job, feed)?.map(drop))
    }

    /// Runs a child on what `feed` writes.
    fn feed(&self, job: Job, feed: impl FnOnce(&mut BlobPipe) -> Result<()>) -> Result<Ended<Option<Box<Report>>>> {
        let (blob, to_child) = pipe2(OFlag::O_CLOEXEC).map_err(|e| host("cannot make a pipe", e))?;
        // A larger pipe is only faster; a user may have used up the allowance.
        fcntl(&to_child, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE)).ok();
        let running = self.start(job, Stdio::from(blob))?;
        let mut pipe = BlobPipe(to_child.into());
        let fed = feed(&mut pipe);
        drop(pipe);
        // The child's word is waited for even if feeding failed: nobody writes to the directory after this.
        let ended = running.finish();
        fed?;
        ended
    }

    /// Adapts the layer in `directory` to those below it, and lists it in the file `listing`, which so far tells what is
    /// known of its files.
    ///
    /// # Errors
    /// When no child can be started, or the file there is cannot be replaced.
    pub fn settle(&self, directory: &Path, listing: &Path, work: Work) -> Result<Ended<()>> {
        let fail = |e| host("cannot replace the layer's listing", e);
        let known = listing.with_extension("known");
        as_root(|_| std::fs::rename(listing, &known)).map_err(fail)?;
        let mut job = self.job(directory, work, Some(listing));
        job.known = Some(known.clone());
        let ended = self.start(job, Stdio::null())?.finish()?.map(drop);
        as_root(|_| std::fs::remove_file(&known)).map_err(fail)?;
        Ok(ended)
    }

    /// Lists the tree in `directory`, whoever its files belong to, in the new file `listing`.
    ///
    /// # Errors
    /// When no child can be started.
    pub fn list(&self, directory: &Path, listing: &Path) -> Result<Ended<()>> {
        let mut job = self.job(directory, Work::List, Some(listing));
        if self.privileged {
            job.ids = IdMap::everyone();
        }
        Ok(self.start(job, Stdio::null())?.finish()?.map(drop))
    }

    /// Reads what the tree in `directory` says of packages, whose listing is `listing` and has the digest `tree`, into the
    /// new file `facts`.
    ///
    /// # Errors
    /// When no child can be started, or it died.
    pub fn facts(&self, directory: &Path, listing: &Path, tree: &str, facts: &Path) -> Result<Ended<()>> {
        let mut job = self.job(directory, Work::Facts { tree: tree.to_owned() }, Some(facts));
        job.known = Some(listing.to_owned());
        job.limits.memory = job.limits.memory.min(FACTS_MEMORY);
        Ok(self.start(job, Stdio::null())?.finish()?.map(drop))
    }

    /// Reads vulnerability data from the file `from`, in the empty `directory`, and writes what is kept of it to the new file
    /// `to`; `time` is the time of day, RFC 3339.
    ///
    /// # Errors
    /// When no child can be started, or it died.
    pub fn import(&self, directory: &Path, from: File, to: &Path, time: &str) -> Result<Ended<()>> {
        let mut job = self.job(directory, Work::Import { time: time.to_owned() }, Some(to));
        job.limits.memory = IMPORT_MEMORY;
        Ok(self.start(job, Stdio::from(from))?.finish()?.map(drop))
    }

    /// Removes everything in `directory`.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self, directory: &Path) -> Result<()> {
        match self.start(self.job(directory, Work::Remove, None), Stdio::null())?.finish()? {
            Ok(_) => Ok(()),
            Err(fault) => Err(Error::new(Stage::Store, Kind::Host, format!("cannot remove {}", directory.display()))
                .because(fault.text)),
        }
    }

    fn job(&self, directory: &Path, work: Work, listing: Option<&Path>) -> Job {
        Job {
            directory: directory.to_owned(),
            work,
            listing: listing.map(Path::to_owned),
            known: None,
            ids: self.ids.clone(),
            limits: self.limits.clone(),
        }
    }

    fn start(&self, job: Job, blob: Stdio) -> Result<Running> {
        let fail = |e: io::Error| host("cannot start the unpacking process", e);
        let (control, theirs) = UnixStream::pair().map_err(fail)?;
        as_root(|root| self.start_child(root, job, blob, control, theirs))
    }

    fn start_child(
        &self,
        root: &Root,
        job: Job,
        blob: Stdio,
        control: UnixStream,
        theirs: UnixStream,
    ) -> Result<Running> {
        let fail = |e: io::Error| host("cannot start the unpacking process", e);
        let child = Command::new(&self.exe)
            .arg0(NAME)
            .env_clear()
            .current_dir("/")
            .stdin(blob)
            .stdout(OwnedFd::from(theirs))
            // What it says in dying may be of what it read: nothing of that is the terminal's.
            .stderr(Stdio::null())
            // Else the terminal's keys would stop it, and whoever waits for it with it.
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        scheduling::give_back(root, Pid::from_raw(child.id().cast_signed())).map_err(fail)?;
        let from_child = BufReader::new(control.try_clone().map_err(fail)?);
        let mut running = Running { child, control, from_child, memory: job.limits.memory };
        match running.introduce(&job, self.privileged) {
            Ok(()) => Ok(running),
            Err(error) => {
                running.end();
                Err(error)
            }
        }
    }
}

#[derive(Debug)]
struct Running {
    child: Child,
    control: UnixStream,
    from_child: BufReader<UnixStream>,
    /// Bytes it may hold.
    memory: u64,
}

impl Running {
    /// Sends the job, writes the maps when the child has unshared, lets it go on.
    fn introduce(&mut self, job: &Job, privileged: bool) -> Result<()> {
        let fail = |e: io::Error| host("the unpacking process does not answer", e);
        send(&self.control, job).map_err(fail)?;
        match receive::<Said>(&mut self.from_child).map_err(fail)? {
            Said::Unshared => {}
            Said::Failed(fault) => return Err(plain(fault)),
            Said::Done(_) => return Err(host("the unpacking process is not ces", "it did not wait")),
        }
        let pid = i32::try_from(self.child.id()).map_err(|e| host("the unpacking process has no id", e))?;
        job.ids.write(Pid::from_raw(pid), privileged)?;
        send(&self.control, &"go").map_err(fail)
    }

    fn finish(mut self) -> Result<Ended<Option<Box<Report>>>> {
        let said = receive::<Said>(&mut self.from_child);
        let status = self.child.wait().map_err(|e| host("cannot wait for the unpacking process", e))?;
        match said {
            Ok(Said::Done(report)) => Ok(Ok(report)),
            Ok(Said::Failed(fault)) => Ok(Err(fault)),
            Ok(Said::Unshared) | Err(_) => {
                Err(host("the unpacking process died", status).hint(format!(
                    "signal 6: the layer needs more memory than images.limits.memory allows ({} MiB); signal 9: the host's memory ran out",
                    self.memory >> 20
                )))
            }
        }
    }

    fn end(&mut self) {
        // Either it is dead already, or it dies now; there is nothing else to do about a failure here.
        as_root(|_| self.child.kill()).ok();
        self.child.wait().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

fn host(what: &str, cause: impl std::fmt::Display) -> Error {
    Error::new(Stage::Unpack, Kind::Host, what).because(cause)
}

/// A fault that has to do with no entry.
fn plain(fault: Fault) -> Error {
    let kind = if fault.kind == FaultKind::Host { Kind::Host } else { Kind::Failed };
    let error = Error::new(Stage::Unpack, kind, "cannot unpack").because(fault.text);
    match fault.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
