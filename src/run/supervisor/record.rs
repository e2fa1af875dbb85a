//! The record: what was run, under which rules, what the kernel said, and what came out.
//!
//! Takes facts from every stage; gives `runs/<id>.json` (begun before the start, finished after) and a line in
//! `audit.jsonl`; trusts the clock; refuses to let a run start whose record cannot be written.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Mode;
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;
use crate::run::job_id::JobId;
use crate::run::supervisor::outputs::Outputs;
use crate::run::supervisor::ports::Published;

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Begun; `ces` is at work.
    Begun,
    /// The payload ran and ended.
    Finished,
    /// Nothing of the payload ran.
    Refused,
    /// `ces` was killed, or the host went down.
    Interrupted,
}

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
    append(
        root,
        log,
        &serde_json::json!({"time": started, "id": id, "state": "exec", "command": command, "by": by, "tty": tty}),
    )
}

/// Where the record of `id` is.
pub fn path(log: &SiteDir, id: &JobId) -> PathBuf {
    log.join("runs").join(format!("{id}.json"))
}

impl Record {
    /// Writes the file: aside, then renamed over the old one, so that it is always whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, root: &Root, log: &SiteDir) -> Result<()> {
        let path = path(log, &self.id);
        let write = || -> std::io::Result<()> {
            let dir = log.join("runs");
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let aside = dir.join(format!(".{}.new", self.id));
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            file.write_all(&text)?;
            fs::rename(&aside, &path)
        };
        write().map_err(|e| {
            Error::new(Stage::Record, Kind::Failed, format!("cannot write the record {}", path.display()))
                .because(e)
                .hint("no run starts without a record; free space there, or name another place with --root")
        })?;
        self.audit(root, log)
    }

    /// Appends one line to the audit log; O_APPEND keeps lines of parallel runs whole.
    fn audit(&self, root: &Root, log: &SiteDir) -> Result<()> {
        let line = serde_json::json!({
            "time": self.finished.as_ref().unwrap_or(&self.started),
            "id": self.id,
            "state": self.state,
            "mode": self.mode,
            "researcher": self.researcher,
            "project": self.project,
            "image": self.image,
            "digest": self.digest,
            "exit": self.exit,
        });
        append(root, log, &line)
    }

    /// Reads the record of `id`.
    ///
    /// # Errors
    /// When there is none or it makes no sense.
    pub fn load(_: &Root, log: &SiteDir, id: &JobId) -> Result<Self> {
        let path = path(log, id);
        let text = fs::read(&path).map_err(|e| {
            Error::new(Stage::Record, Kind::Missing, format!("there is no record of run {id}"))
                .because(e)
                .hint("ces runs lists them")
        })?;
        serde_json::from_slice(&text).map_err(|e| {
            Error::new(Stage::Record, Kind::Failed, format!("the record {} makes no sense", path.display())).because(e)
        })
    }

    /// All records, oldest first; files that make no sense are left out.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all(_: &Root, log: &SiteDir) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(log.join("runs")) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::new(Stage::Record, Kind::Failed, "cannot read the records").because(e)),
        };
        let mut records: Vec<Self> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
            .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok())
            .collect();
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }
}

/// One line; O_APPEND keeps lines of parallel runs whole.
fn append(_: &Root, log: &SiteDir, line: &Value) -> Result<()> {
    let path = log.join("audit.jsonl");
    let append = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        file.write_all(format!("{line}\n").as_bytes())
    };
    append().map_err(|e| Error::new(Stage::Record, Kind::Failed, format!("cannot write {}", path.display())).because(e))
}

/// The time now, UTC, RFC 3339, whole milliseconds.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
