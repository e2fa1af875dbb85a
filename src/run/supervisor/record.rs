//! The record: what was run, under which rules, what the kernel said, and what came out.
//!
//! Takes facts from every stage; gives `runs/<id>.json` (begun before the start, finished after), a line in the audit log and one
//! in the index; trusts the clock; refuses to let a run start whose record cannot be written. A record does not grow with what a
//! payload leaves, and room for its end is taken before the start: a file system that fills up meanwhile loses nothing of it.
//!
//! ```text
//! LOG/runs/<id>.json            the record
//! LOG/runs/<id>.enforced.json   what the kernel said between create and start
//! LOG/runs/<id>.executed.json   what `ces exec` executed in it
//! LOG/runs/<id>.outputs.jsonl   the list of its outputs
//! LOG/runs/<id>.deletion.json   what was deleted when it ended
//! LOG/runs/<id>.changes.jsonl   what it changed in data that it may write
//! LOG/runs/<id>.command.json    its command, where the policy has it kept whole
//! LOG/runs/.<id>.end            room for the end of the record and the lines that tell of it, while the run lasts
//! LOG/runs.idx                  the index (`crate::run::supervisor::record::index`)
//! LOG/audit/                    the audit log (`crate::evidence`): a line for each begin, end and `ces exec`
//! ```

/// What was asked for.
pub mod asked;
/// Documents beside a record.
pub mod beside;
/// Records, a line each.
pub mod index;
/// The end of a record that has to wait.
pub mod pending;
/// Removing the record of a run.
pub mod retention;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::beside::{Beside, Document, WholeCommand};
use self::index::Entry;
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::{self, Event};
use crate::evidence::log as audit;
use crate::evidence::redact::{Redacted, Variable};
use crate::host::caller::{Caller, Mode};
use crate::host::log_dir::LogDir;
use crate::host::privilege::Root;
use crate::run::job_id::JobId;
use crate::run::supervisor::changes::Changes;
use crate::run::supervisor::outputs::Outputs;
use crate::run::supervisor::ports::Published;
pub use crate::run::supervisor::record::asked::Asked;
pub use crate::run::supervisor::record::beside::{make_changes, make_list, open_changes, open_list};
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
    /// Program and names of options, as executed; in records of version 1 all of it.
    pub command: Redacted,
    /// How many of its words are withheld.
    #[serde(default)]
    pub withheld: u64,
    /// Variables that were set for it, beyond the image's own.
    #[serde(default)]
    pub environment: Vec<Variable>,
    /// How many more there were.
    #[serde(default)]
    pub environment_more: u64,
    /// What was asked for, without command and variables; none in records of older versions, and where it is long.
    #[serde(default)]
    pub asked: Option<Asked>,
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
    /// What the kernel said between create and start; on disk a document of its own.
    pub enforced: Option<Value>,
    /// What was deleted when it ended; on disk a document of its own.
    #[serde(default)]
    pub deletion: Option<Value>,
    /// Documents beside the record.
    #[serde(default)]
    pub documents: BTreeMap<Document, Beside>,
    /// What is wrong with those documents, in words: seen when the record is read.
    #[serde(skip)]
    pub damaged: Vec<String>,
    /// The command, where the policy has it kept whole.
    #[serde(skip)]
    pub whole_command: Option<WholeCommand>,
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
    /// What it changed in data that it may write; none: it may not, or nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
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
    /// Program and names of options; in records of version 1 all of it.
    pub command: Redacted,
    /// Variables that were set for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<Variable>,
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
pub fn audit_executed(root: &Root, log: &LogDir, id: &JobId, executed: &Executed) -> Result<()> {
    let Executed { started, command, by, tty, .. } = executed;
    let caller = Caller::find()?;
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
pub fn path(log: &LogDir, id: &JobId) -> PathBuf {
    log.join("runs").join(format!("{id}.json"))
}

/// Room for the end of a record, and for its lines in the audit log and the index.
const ROOM: u64 = 72 << 10;
/// No record is longer, in memory; those of older versions grew with the outputs.
const LARGEST: u64 = 512 << 20;

fn room(dir: &Path, id: &JobId) -> PathBuf {
    dir.join(format!(".{id}.end"))
}

impl Record {
    /// Writes the line of the run's begin in the audit log, which is on its way to the disk while the container is made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn tell_begin(&self, root: &Root, log: &LogDir) -> Result<audit::Written> {
        audit::write_line(root, log, &self.line(None))
    }

    /// Takes room for the end of the record, and writes it as begun.
    ///
    /// # Errors
    /// When there is no room, or it cannot be written.
    pub fn begin(&mut self, root: &Root, log: &LogDir) -> Result<()> {
        let dir = log.join("runs");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|e| fail(&path(log, &self.id), e))?;
        if let Some(value) = self.enforced.take() {
            self.keep(root, log, Document::Enforced, value);
        }
        let kept = self.whole_command.as_ref().map(|command| beside::keep_command(root, &dir, &self.id, command));
        let take = || -> std::io::Result<()> {
            kept.transpose()?;
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
            beside::forget(root, &dir, &self.id);
            self.documents.clear();
        }
        begun
    }

    /// Keeps a document of the run beside the record; where there is no room, in it.
    pub fn keep(&mut self, root: &Root, log: &LogDir, document: Document, value: Value) {
        if let Ok(beside) = beside::write(root, &log.join("runs"), &self.id, document, &value) {
            self.documents.insert(document, beside);
        }
        self.put_in(document, value);
    }

    fn put_in(&mut self, document: Document, value: Value) {
        match document {
            Document::Enforced => self.enforced = Some(value),
            Document::Deletion => self.deletion = Some(value),
            Document::Executed => match serde_json::from_value(value) {
                Ok(executed) => self.executed = executed,
                Err(e) => self.damaged.push(format!("what was executed besides makes no sense: {e}")),
            },
        }
    }

    /// Whether there is a record of `id`, begun or ended.
    pub fn exists(_: &Root, log: &LogDir, id: &JobId) -> bool {
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
    pub fn save(&self, root: &Root, log: &LogDir) -> Result<()> {
        let text = self.text(log)?;
        // What ends is recorded in any case.
        let line = self.line(Some(&text));
        let written = audit::write_line(root, log, &line);
        let put = self.put(root, log, &text);
        let told = written.and_then(|written| written.wait().map(drop));
        put?;
        // There is more room now.
        told.or_else(|_| audit::append(root, log, &line).map(drop))
    }

    /// As it is on disk: what is beside it is not in it.
    fn text(&self, log: &LogDir) -> Result<Vec<u8>> {
        let beside = |document: Document| self.documents.contains_key(&document);
        let mut on_disk = self.clone();
        on_disk.enforced = on_disk.enforced.filter(|_| !beside(Document::Enforced));
        on_disk.deletion = on_disk.deletion.filter(|_| !beside(Document::Deletion));
        on_disk.executed.retain(|_| !beside(Document::Executed));
        let mut text = serde_json::to_vec_pretty(&on_disk).map_err(|e| fail(&path(log, &self.id), e.into()))?;
        text.push(b'\n');
        Ok(text)
    }

    fn put(&self, root: &Root, log: &LogDir, text: &[u8]) -> Result<()> {
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
            outputs: self.outputs.as_ref().map(|outputs| outputs.files.count()),
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
                "image": self.image, "digest": self.digest, "command": *self.command,
                "data_access": self.data_access, "exit": self.exit, "ended": self.ended,
                "record": text.map(|text| line::hex(&line::hash(text))),
            }),
        }
    }

    /// Reads the record of `id`.
    ///
    /// # Errors
    /// When there is none or it makes no sense.
    pub fn load(root: &Root, log: &LogDir, id: &JobId) -> Result<Self> {
        let path = path(log, id);
        let none = |e: &dyn std::fmt::Display| {
            Error::new(Stage::Record, Kind::Missing, format!("there is no record of run {id}"))
                .because(e)
                .hint("ces runs lists them")
        };
        let mut text = Vec::new();
        let file = File::open(&path).map_err(|e| none(&e))?;
        file.take(LARGEST).read_to_end(&mut text).map_err(|e| none(&e))?;
        let mut record: Self = serde_json::from_slice(&text).map_err(|e| {
            Error::new(Stage::Record, Kind::Failed, format!("the record {} is malformed", path.display())).because(e)
        })?;
        for (document, told) in record.documents.clone() {
            match beside::read(root, log, id, document, &told) {
                Ok(value) => record.put_in(document, value),
                Err(why) => record.damaged.push(format!("{}: {why}", document.file(id))),
            }
        }
        Ok(record)
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
