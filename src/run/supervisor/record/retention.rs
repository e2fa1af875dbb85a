//! Removing the record of a run, with all that is beside it.
//!
//! Takes a run's id; removes its files, the record last, so that what is interrupted is done again; trusts who asks to have told the
//! audit log before; refuses nothing. The audit log keeps its lines, and with them the SHA-256 of the record.

use std::fs;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::log_dir::LogDir;
use crate::host::privilege::Root;
use crate::run::job_id::JobId;

/// Removes the record of `id` and every file of the run beside it: `ID.json`, `ID.outputs.jsonl`, `ID.changes.jsonl`, `ID.log` and the others.
///
/// # Errors
/// When one of them cannot be removed; the record is there then.
pub fn remove(_: &Root, log: &LogDir, id: &JobId) -> Result<()> {
    let runs = log.join("runs");
    let record = format!("{id}.json");
    let fail = |e: std::io::Error| {
        Error::new(Stage::Record, Kind::Failed, format!("cannot remove the record of run {id}")).because(e)
    };
    let (of_the_run, hidden) = (format!("{id}."), format!(".{id}."));
    for entry in fs::read_dir(&runs).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if (name.starts_with(&of_the_run) || name.starts_with(&hidden)) && name != record {
            fs::remove_file(entry.path()).map_err(fail)?;
        }
    }
    match fs::remove_file(runs.join(record)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(fail(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::privilege::as_root;
    use crate::host::site_dir::SiteDir;

    #[test]
    fn all_files_of_a_run_go_and_none_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogDir::from(SiteDir::of_the_caller(&dir.path().join("log")).unwrap());
        let runs = log.join("runs");
        fs::create_dir(&runs).unwrap();
        let id = JobId::parse("20261127T100000-00000a").unwrap();
        for name in [".json", ".enforced.json", ".outputs.jsonl", ".changes.jsonl", ".log", ".command.json"] {
            fs::write(runs.join(format!("{id}{name}")), "x").unwrap();
            fs::write(runs.join(format!("{id}b{name}")), "x").unwrap();
        }
        as_root(|root| remove(root, &log, &id)).unwrap();
        as_root(|root| remove(root, &log, &id)).unwrap();
        let left: Vec<String> =
            fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.len() == 6 && left.iter().all(|name| name.starts_with(&format!("{id}b."))), "{left:?}");
    }
}
