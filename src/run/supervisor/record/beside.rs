//! Documents beside a record, which it names with their SHA-256: the list of outputs, what the kernel said, what was executed
//! besides, what was deleted, what was changed in the data.
//!
//! Takes documents; gives their names and hashes, and what is there now of a document that was named; trusts SHA-256; refuses what
//! others than root could have written. A document for which there is no room stays in the record itself, which has room of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::{hash, hex};
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;
use crate::run::job_id::JobId;

/// No such document is longer.
const LARGEST: u64 = 16 << 20;

/// A document that a record keeps beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Document {
    /// What the kernel said between create and start.
    Enforced,
    /// Commands of `ces exec`.
    Executed,
    /// What was deleted, and how.
    Deletion,
}

impl Document {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Enforced, Self::Executed, Self::Deletion];
}

impl Document {
    /// The name of the file for the run `id`.
    pub fn file(self, id: &JobId) -> String {
        match self {
            Self::Enforced => format!("{id}.enforced.json"),
            Self::Executed => format!("{id}.executed.json"),
            Self::Deletion => format!("{id}.deletion.json"),
        }
    }
}

/// What a record says of a file beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Its name.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
}

/// Writes a document; what the record says of it.
///
/// # Errors
/// When there is no room: then nothing of it is there.
pub fn write(_: &Root, runs: &Path, id: &JobId, document: Document, value: &Value) -> std::io::Result<Beside> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let file = document.file(id);
    let path = runs.join(&file);
    write_new(&path, &text).inspect_err(|_| {
        // Half of it would be none.
        fs::remove_file(&path).ok();
    })?;
    Ok(Beside { file, bytes: u64::try_from(text.len()).unwrap_or(u64::MAX), sha256: hex(&hash(&text)) })
}

fn write_new(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)?.write_all(text)
}

/// Removes what was written for a run that has no record.
pub fn forget(_: &Root, runs: &Path, id: &JobId) {
    // Mostly there is none.
    for document in Document::ALL {
        fs::remove_file(runs.join(document.file(id))).ok();
    }
    fs::remove_file(runs.join(command_file(id))).ok();
    fs::remove_file(runs.join(changes_file(id))).ok();
}

/// The document that a record says is beside it, as it is now; or what is wrong with it, in words.
pub fn read(_: &Root, log: &SiteDir, id: &JobId, document: Document, told: &Beside) -> Result<Value, String> {
    let text = text(log, &document.file(id)).map_err(|e| e.to_string())?.ok_or("it is gone")?;
    if hex(&hash(&text)) != told.sha256 {
        return Err("it is not what it was when the run ended".to_owned());
    }
    serde_json::from_slice(&text).map_err(|e| e.to_string())
}

/// A document that a killed `ces` has written, and no record names yet.
pub fn unnamed(_: &Root, log: &SiteDir, id: &JobId, document: Document) -> Option<Value> {
    // Half of one is none.
    text(log, &document.file(id)).ok().flatten().and_then(|text| serde_json::from_slice(&text).ok())
}

fn text(log: &SiteDir, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(runs) = log.below(OsStr::new("runs"))? else { return Ok(None) };
    let Some(file) = runs.document(OsStr::new(name))? else { return Ok(None) };
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(|e| {
        Error::new(Stage::Record, Kind::Failed, format!("cannot read {}", runs.join(name).display())).because(e)
    })?;
    Ok(Some(text))
}

/// A command as it was given, where the policy has it kept whole (`records.command`). It is in a file of its own that is named by
/// nobody: no record, no audit line and no export has it, nor a hash of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeCommand {
    /// Instead of the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments, as they stood after the image.
    pub args: Vec<String>,
    /// What was executed.
    pub command: Vec<String>,
}

fn command_file(id: &JobId) -> String {
    format!("{id}.command.json")
}

/// Keeps a command whole (0600).
///
/// # Errors
/// When there is no room.
pub fn keep_command(_: &Root, runs: &Path, id: &JobId, command: &WholeCommand) -> std::io::Result<()> {
    write_new(&runs.join(command_file(id)), &serde_json::to_vec(command)?)
}

/// The command of a run, where it was kept whole.
///
/// # Errors
/// When others could have written it.
pub fn whole_command(_: &Root, log: &SiteDir, id: &JobId) -> Result<Option<WholeCommand>> {
    let text = text(log, &command_file(id))?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Makes the list of the outputs of `id`, empty; gives its name, too.
///
/// # Errors
/// When it cannot be made.
pub fn make_list(_: &Root, log: &SiteDir, id: &JobId) -> Result<(File, String)> {
    make(log, list_file(id), "outputs")
}

/// Makes the list of what the run `id` changed in its data, empty; gives its name, too.
///
/// # Errors
/// When it cannot be made.
pub fn make_changes(_: &Root, log: &SiteDir, id: &JobId) -> Result<(File, String)> {
    make(log, changes_file(id), "changes")
}

fn make(log: &SiteDir, name: String, of: &str) -> Result<(File, String)> {
    let path = log.join("runs").join(&name);
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let list = options.open(&path).map_err(|e| {
        Error::new(Stage::Record, Kind::Failed, format!("cannot write the list of {of} {}", path.display()))
            .because(e)
            .hint("make room on the file system of the log")
    })?;
    Ok((list, name))
}

/// Opens the list of the outputs of `id`; none where there is none.
///
/// # Errors
/// When it could have been written by others.
pub fn open_list(_: &Root, log: &SiteDir, id: &JobId) -> Result<Option<File>> {
    open(log, &list_file(id))
}

/// Opens the list of what the run `id` changed; none where there is none.
///
/// # Errors
/// When it could have been written by others.
pub fn open_changes(_: &Root, log: &SiteDir, id: &JobId) -> Result<Option<File>> {
    open(log, &changes_file(id))
}

fn open(log: &SiteDir, name: &str) -> Result<Option<File>> {
    let Some(runs) = log.below(OsStr::new("runs"))? else { return Ok(None) };
    runs.document(OsStr::new(name))
}

fn changes_file(id: &JobId) -> String {
    format!("{id}.changes.jsonl")
}

fn list_file(id: &JobId) -> String {
    format!("{id}.outputs.jsonl")
}
