//! The end of a record before it is where records are: it waits in the journal of its job.
//!
//! Takes a finished record and the job's own directory; gives it to the next command; trusts the journal's directory, which root
//! alone writes; refuses another run's.
//!
//! It is kept twice: while what the run left is removed, so that a `ces` that is killed meanwhile loses nothing of the end; and when
//! the record could not be written.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::dirs::Dirs;
use crate::host::privilege::Root;
use crate::run::job_id::JobId;
use crate::run::supervisor::record::Record;

/// Why the end of a record waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// What the run left is being removed; the record may have been written since.
    ForDeletion,
    /// The record could not be written.
    ForRoom,
}

impl Wait {
    fn name(self) -> &'static str {
        match self {
            Self::ForDeletion => "ending.json",
            Self::ForRoom => "ended.json",
        }
    }
}

/// No longer one is read.
const LARGEST: u64 = 16 << 20;

/// Keeps the record in the job's directory.
///
/// # Errors
/// When it cannot be written.
pub fn keep(_: &Root, job: &Path, record: &Record, wait: Wait) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let aside = job.join(".ended.json");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&aside, job.join(wait.name()))
    };
    write().map_err(|e| {
        Error::new(Stage::Record, Kind::Failed, format!("cannot keep the end of run {} for later", record.id))
            .because(e)
    })
}

/// The record that waits for that in the journal of `id`; none where there is none.
///
/// # Errors
/// When others could have written it.
pub fn load(_: &Root, dirs: &Dirs, id: &JobId, wait: Wait) -> Result<Option<Record>> {
    let Some(dir) = dirs.running.below(OsStr::new(id.as_str()))? else { return Ok(None) };
    let Some(file) = dir.document(OsStr::new(wait.name()))? else { return Ok(None) };
    let mut text = Vec::new();
    let read = file.take(LARGEST).read_to_end(&mut text).is_ok();
    let record: Option<Record> = serde_json::from_slice(&text).ok().filter(|_| read);
    Ok(record.filter(|record| record.id == *id))
}
