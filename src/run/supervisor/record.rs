//! The record: what was run, under which rules, what the kernel said, and what came out.
//!
//! Takes facts from every stage; gives `runs/<id>.json` (begun before the start, finished after), a line in the audit log and one
//! in the index; trusts the clock; refuses to let a run start whose record cannot be written. A record does not grow with what a
//! payload leaves, and room for its end is taken before the start: a file system that fills up meanwhile loses nothing of it.
//!
//! ```text
//! LOG/runs/<id>.json            the record
//! LOG/runs/<id>.outputs.jsonl   the list of its outputs
//! LOG/runs/.<id>.end            room for the end of the record and the lines that tell of it, while the run lasts
//! LOG/runs.idx                  the index (`crate::run::supervisor::record::index`)
//! LOG/audit/                    the audit log (`crate::evidence`): a line for each begin, end and `ces exec`
//! ```

/// Records, a line each.
pub mod index;
/// The end of a record that has to wait.
pub mod pending;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::index::Entry;
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::{self, Event};
use crate::evidence::log as audit;
use crate::host::caller::{Caller, Mode};
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;
use crate::run::job_id::JobId;
use crate::run::supervisor::outputs::Outputs;
use crate::run::supervisor::ports::Published;
pub use crate::run::supervisor::record::index::State;

/// One run, as the file holds it. Times are UTC (RFC 3339), sizes bytes, durations seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format.
    pub version: u32,
    /// The run.
    pub id: JobId,
    /// How far it came.
    pub state: State,
    /// Whether the policy binds the caller.
    pub mode: Mode,
    /// The version of ces.
    pub ces: String,
    /// The host's name.
    pub host: String,
    /// Login name of the researcher.
    pub researcher: String,
    /// Uid of the researcher.
    pub uid: u32,
    /// The project.
    pub project: Option<String>,
    /// The image's reference.
    pub image: String,
    /// Digest of the image's manifest.
    pub digest: String,
    /// Entry point and arguments, as executed.
    pub command: Vec<String>,
    /// The data directory.
    pub data: PathBuf,
    /// `ro` or `rw`.
    pub data_access: String,
    /// The policy file, or `built-in`.
    pub policy: String,
    /// Published ports: where they listened, and for which port of the container.
    #[serde(default)]
    pub ports: Vec<Published>,
    /// Every decision, and the rule it comes from.
    pub decisions: Value,
    /// How scratch and outputs are bounded: `quota` (of a project, kept by the file system), `watched` (by ces), `quota, sum
    /// watched` (two file systems, each with the whole bound) or `none`.
    #[serde(default)]
    pub bounds: BTreeMap<String, String>,
    /// What could not be enforced although the policy allowed to run without; empty is good.
    pub warnings: Vec<String>,
    /// What the kernel said between create and start.
    pub enforced: Option<Value>,
    /// When it began.
    pub started: String,
    /// When it ended.
    pub finished: Option<String>,
    /// Exit status of `ces run`.
    pub exit: Option<u8>,
    /// How it ended, in words.
    pub ended: Option<String>,
    /// Wall time.
    pub seconds: Option<f64>,
    /// Highest memory use.
    pub peak_memory: Option<u64>,
    /// The name it was given.
    #[serde(default)]
    pub name: Option<String>,
    /// Where its output is, if it was detached.
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// What was executed in it besides (`ces exec`).
    #[serde(default)]
    pub executed: Vec<Executed>,
    /// What is in the outputs.
    pub outputs: Option<Outputs>,
    /// The outputs directory.
    pub outputs_path: PathBuf,
}

/// A command of `ces exec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Executed {
    /// When it was asked for.
    pub started: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Who asked for it.
    pub by: String,
    /// It had a terminal.
    pub tty: bool,
    /// Whom of the container's users it was to become, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What the kernel said before it was executed; none: it was refused.
    pub enforced: Option<Value>,
    /// Its exit status; none: the run ended first, or it was refused.
    pub exit: Option<u8>,
}

/// Appends a line to the audit log, before a command is executed in the run `id`.
///
/// # Errors
/// When it cannot be written: then nothing is executed.
pub fn audit_executed(root: &Root, log: &SiteDir, id: &JobId, executed: &Executed) -> Result<()> {
    let Executed { started, command, by, tty, .. } = executed;
    let caller = Caller::find()?;
    let command = line::redacted(command);
    let entry = line::Entry {
        event: Event::Exec,
        mode: caller.mode,
        uid: caller.uid.as_raw(),
        name: caller.name,
        project: None,
        rule: None,
        run: Some(id.to_string()),
        about: serde_json::json!({"started": started, "command": command, "by": by, "tty": tty}),
    };
    audit::append(root, log, &entry).map(drop)
}

/// Where the record of `id` is.
pub fn path(log: &SiteDir, id: &JobId) -> PathBuf {
    log.join("runs").join(format!("{id}.json"))
}

/// Room for the end of a record, and for its lines in the audit log and the index.
const ROOM: u64 = 72 << 10;
/// No record is longer, in memory; those of older versions grew with the outputs.
const LARGEST: u64 = 512 << 20;

fn room(dir: &Path, id: &JobId) -> PathBuf {
    dir.join(format!(".{id}.end"))
}

/// Makes the list of the outputs of `id`, empty; gives its name, too.
///
/// # Errors
/// When it cannot be made.
pub fn make_list(_: &Root, log: &SiteDir, id: &JobId) -> Result<(File, String)> {
    let name = format!("{id}.outputs.jsonl");
    let path = log.join("runs").join(&name);
    let options = || {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options
    };
    let list = options().open(&path).map_err(|e| fail(&path, e))?;
    Ok((list, name))
}

/// Opens the list of the outputs of `id`; none where there is none.
///
/// # Errors
/// When it could have been written by others.
pub fn open_list(_: &Root, log: &SiteDir, id: &JobId) -> Result<Option<File>> {
    let Some(runs) = log.below(OsStr::new("runs"))? else { return Ok(None) };
    runs.document(OsStr::new(&format!("{id}.outputs.jsonl")))
}

impl Record {
    /// Writes the line of the run's begin in the audit log, which is on its way to the disk while the container is made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn tell_begin(&self, root: &Root, log: &SiteDir) -> Result<audit::Written> {
        audit::write_line(root, log, &self.line(None))
    }

    /// Takes room for the end of the record, and writes it as begun.
    ///
    /// # Errors
    /// When there is no room, or it cannot be written.
    pub fn begin(&self, root: &Root, log: &SiteDir) -> Result<()> {
        let dir = log.join("runs");
        let take = || -> std::io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let begun = u64::try_from(serde_json::to_vec_pretty(self)?.len()).unwrap_or(u64::MAX);
            let room = room(&dir, &self.id);
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(room)?;
            allocate(&file, ROOM.max(begun.saturating_add(ROOM / 2)))
        };
        // Before the record: its line in the index is to be the last change, for that tells that nothing is lacking.
        let begun = take().map_err(|e| fail(&path(log, &self.id), e)).and_then(|()| {
            let text = self.text(log)?;
            self.put(root, log, &text)
        });
        if begun.is_err() && !Self::exists(root, log, &self.id) {
            self.give_room_back(&dir);
        }
        begun
    }

    /// Whether there is a record of `id`, begun or ended.
    pub fn exists(_: &Root, log: &SiteDir, id: &JobId) -> bool {
        path(log, id).exists()
    }

    fn give_room_back(&self, dir: &Path) {
        // Never taken, or used: then there is nothing to give back.
        fs::remove_file(room(dir, &self.id)).ok();
    }

    /// Closes the record: writes the file aside and renames it over the old one, so that it is always whole; its line in the
    /// audit log is written before and waited for at last, that in the index comes after. Where there is no room left for the end, it is written into the room that was taken.
    /// That is second, because the blocks that a file lets go cost ten times what it takes to write another (`ftruncate(2)` on
    /// ext4, 0.5 ms).
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, root: &Root, log: &SiteDir) -> Result<()> {
        let text = self.text(log)?;
        // What ends is recorded in any case.
        let line = self.line(Some(&text));
        let written = audit::write_line(root, log, &line);
        let told = std::thread::scope(|scope| -> Result<Result<()>> {
            let waiting = written.map(|written| scope.spawn(|| written.wait().map(drop)));
            self.put(root, log, &text)?;
            Ok(waiting.and_then(|waiting| waiting.join().unwrap_or_else(|_| Err(lost_line()))))
        })?;
        // There is more room now.
        told.or_else(|_| audit::append(root, log, &line).map(drop))
    }

    fn text(&self, log: &SiteDir) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| fail(&path(log, &self.id), e.into()))?;
        text.push(b'\n');
        Ok(text)
    }

    fn put(&self, root: &Root, log: &SiteDir, text: &[u8]) -> Result<()> {
        let path = path(log, &self.id);
        let dir = log.join("runs");
        let write = || -> std::io::Result<()> {
            let new = dir.join(format!(".{}.new", self.id));
            let begins = self.state == State::Begun;
            let written = write_anew(&new, text, !begins).and_then(|()| fs::rename(&new, &path));
            if written.is_ok() || begins {
                return written;
            }
            fs::remove_file(&new).ok();
            let taken = room(&dir, &self.id);
            let second = match write_into(&taken, text) {
                // Refused before room was taken, or a room that is gone; where blocks cannot be had before, there are none to wait for.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    write_anew(&new, text, false).and_then(|()| fs::rename(&new, &path))
                }
                written => written.and_then(|()| fs::rename(&taken, &path)),
            };
            // The first error is what somebody has to do something about.
            second.or(written)
        };
        write().map_err(|e| fail(&path, e))?;
        if self.state != State::Begun {
            self.give_room_back(&dir);
        }
        // The record is there: what the index lacks is found out by who reads it.
        index::add(root, log, &self.entry()).ok();
        Ok(())
    }

    /// The record in one line.
    pub fn entry(&self) -> Entry<'_> {
        Entry {
            id: self.id.clone(),
            uid: self.uid,
            researcher: Cow::Borrowed(&self.researcher),
            project: self.project.as_deref().map(Cow::Borrowed),
            image: Cow::Borrowed(&self.image),
            state: self.state,
            started: Cow::Borrowed(&self.started),
            seconds: self.seconds,
            exit: self.exit,
            ended: self.ended.as_deref().map(Cow::Borrowed),
            name: self.name.as_deref().map(Cow::Borrowed),
        }
        .bounded()
    }

    /// Its line in the audit log; of an end, with the SHA-256 of the record's text.
    fn line(&self, text: Option<&[u8]>) -> line::Entry {
        let event = match self.state {
            State::Begun => Event::RunBegun,
            State::Finished => Event::RunFinished,
            State::Refused => Event::Refused,
            State::Interrupted => Event::RunInterrupted,
        };
        line::Entry {
            event,
            mode: self.mode,
            uid: self.uid,
            name: self.researcher.clone(),
            project: self.project.clone(),
            rule: Some(self.policy.clone()),
            run: Some(self.id.to_string()),
            about: serde_json::json!({
                "image": self.image, "digest": self.digest, "command": line::redacted(&self.command),
                "data_access": self.data_access, "exit": self.exit, "ended": self.ended,
                "record": text.map(|text| line::hex(&line::hash(text))),
            }),
        }
    }

    /// Reads the record of `id`.
    ///
    /// # Errors
    /// When there is none or it makes no sense.
    pub fn load(_: &Root, log: &SiteDir, id: &JobId) -> Result<Self> {
        let path = path(log, id);
        let none = |e: &dyn std::fmt::Display| {
            Error::new(Stage::Record, Kind::Missing, format!("there is no record of run {id}"))
                .because(e)
                .hint("ces runs lists them")
        };
        let mut text = Vec::new();
        let file = File::open(&path).map_err(|e| none(&e))?;
        file.take(LARGEST).read_to_end(&mut text).map_err(|e| none(&e))?;
        serde_json::from_slice(&text).map_err(|e| {
            Error::new(Stage::Record, Kind::Failed, format!("the record {} makes no sense", path.display())).because(e)
        })
    }
}

/// A file that has nothing but `text` in it. With `reserved` it has its blocks before a byte is written: a file system that
/// tells of a full disk only when a file is closed (NFS) cannot do that, and it is an error.
fn write_anew(path: &Path, text: &[u8], reserved: bool) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(path))?;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if reserved {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    }
    file.write_all(text)
}

/// The same where a file is that has blocks already; those that are not needed are free afterwards.
fn write_into(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    file.write_all(text)?;
    file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))
}

/// Gives a file that much room on disk. Where the file system cannot, zeros are written.
fn allocate(mut file: &File, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            file.write_all(&vec![0; usize::try_from(bytes).unwrap_or(0)])
        }
        done => done.map_err(Into::into),
    }
}

fn lost_line() -> Error {
    Error::new(Stage::Record, Kind::Failed, "cannot tell whether a line is in the audit log")
}

fn fail(path: &Path, e: std::io::Error) -> Error {
    Error::new(Stage::Record, Kind::Failed, format!("cannot write the record {}", path.display()))
        .because(e)
        .hint("no run starts without a record; make room on the file system of the log")
}

/// The time now, UTC, RFC 3339, whole milliseconds.
pub fn now() -> String {
    written(jiff::Timestamp::now())
}

/// The same of a moment in the past; none if it is before all times.
pub fn ago(duration: std::time::Duration) -> Option<String> {
    jiff::Timestamp::now().checked_sub(duration).ok().map(written)
}

fn written(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
