//! A run that outlives the terminal that started it: a supervisor of its own, and a log in the place of a terminal.
//!
//! Takes the work of a supervisor; gives word of its start, or of what went wrong before it; trusts nothing that the
//! payload writes into its log; refuses to let a log grow beyond `LARGEST_LOG`.
//!
//! ```text
//! LOG/runs/<id>.log   what payload and supervisor said, as it came; readable by root alone, or by the ordinary user whose it is
//! ```

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{pipe2, setsid};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::{Root, as_root};
use crate::host::site_dir::SiteDir;
use crate::host::{sys, unstoppable};
use crate::run::job_id::JobId;
use crate::run::process;
use crate::run::protocol::Failure;
use crate::run::terminal::streams;

/// What is kept of a run's output, in bytes; the rest is dropped, and the log and the record say so.
pub const LARGEST_LOG: u64 = 64 << 20;

/// Where the log of `id` is.
pub fn log_path(log: &SiteDir, id: &JobId) -> PathBuf {
    log.join("runs").join(format!("{id}.log"))
}

/// What the supervisor tells who started it.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Started,
    Failed(Failure),
}

/// Where a supervisor tells, once, what became of the start.
#[derive(Debug)]
pub struct Report(OwnedFd);

impl Report {
    /// The payload is started.
    pub fn started(self) {
        self.tell(&Word::Started);
    }

    /// The same report once more; the first word counts.
    ///
    /// # Errors
    /// When the kernel gives no second descriptor.
    pub fn again(&self) -> Result<Self> {
        self.0.try_clone().map(Self).map_err(|e| fail("copy a descriptor", &e))
    }

    fn tell(self, word: &Word) {
        // Who started it may be gone: then there is no one to tell.
        if let Ok(text) = serde_json::to_vec(word) {
            File::from(self.0).write_all(&[text, b"\n".to_vec()].concat()).ok();
        }
    }
}

/// Does `work` in a process that belongs to no terminal and no session of the caller, its output in the new file `log`;
/// returns when the payload is started.
///
/// # Errors
/// What `work` failed with before it had started the payload; then nothing ran and there is no log.
pub fn detach(log: &Path, work: impl FnOnce(Report) -> Result<()>) -> Result<()> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| fail("make a pipe", &e.into()))?;
    let report = Report(write);
    let child = sys::fork(move || {
        // A session of its own, of which the supervisor is not the leader: no terminal ever becomes its (credentials(7)).
        let forked =
            setsid().map_err(std::io::Error::from).and_then(|_| sys::fork(move || supervise(log, report, work)));
        i32::from(forked.is_err())
    })
    .map_err(|e| fail("start a supervisor", &e))?;
    process::wait(child);
    let mut said = Vec::new();
    // One word: what goes wrong later is in the log and in the record.
    BufReader::new(File::from(read)).read_until(b'\n', &mut said).map_err(|e| fail("hear of the start", &e))?;
    match serde_json::from_slice(&said) {
        Ok(Word::Started) => Ok(()),
        Ok(Word::Failed(failure)) => Err(failure.into()),
        Err(_) => Err(Error::new(Stage::Run, Kind::Failed, "the supervisor ended before the payload was started")),
    }
}

/// The supervisor's `main`.
fn supervise(log: &Path, report: Report, work: impl FnOnce(Report) -> Result<()>) -> i32 {
    let begin = || unstoppable::begin_anew().and_then(|()| as_root(|root| connect(root, log)));
    let done = report.again().and_then(|first| begin().and_then(|()| work(first)));
    let Err(error) = done else { return 0 };
    // In the log it stands if the payload has run; else it is shown by who started this.
    std::io::stderr().write_all(error.report().as_bytes()).ok();
    report.tell(&Word::Failed(Failure::of(&error)));
    1
}

/// The log takes the place of the caller's terminal.
fn connect(_: &Root, log: &Path) -> Result<()> {
    let what = format!("make the log {}", log.display());
    let dir = log.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| fail(&what, &e))?;
    let mut options = fs::OpenOptions::new();
    let file = options.append(true).create_new(true).mode(0o600).open(log).map_err(|e| fail(&what, &e))?;
    let file = OwnedFd::from(file);
    sys::replace_streams([Some(&streams::nothing()?), Some(&file), Some(&file)]).map_err(|e| fail(&what, &e))
}

fn fail(what: &str, e: &std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e)
}
