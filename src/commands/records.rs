//! `ces runs`, `ces record`, `ces verify`: what was run, and whether its outputs are still what the record says.

use serde_json::json;

use super::{Site, print};
use crate::cli::{Global, ListArgs, RecordArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::privilege::as_root;
use crate::run::job_id::JobId;
use crate::run::supervisor::outputs;
use crate::run::supervisor::record::{Record, State};

/// Lists past runs of the caller; real root sees everyone's.
///
/// # Errors
/// When the records cannot be read.
pub fn runs(global: &Global, args: &ListArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let all = as_root(|root| Record::all(root, &site.dirs.log))?;
    let records: Vec<Record> = all.into_iter().filter(|record| may_see(&site.caller, record)).collect();
    if args.json {
        print::json(&records)?;
        return Ok(0);
    }
    let mut rows = vec![["ID", "IMAGE", "PROJECT", "TIME", "ENDED"].map(str::to_owned)];
    rows.extend(records.iter().map(|r| {
        let ended = match r.state {
            State::Begun => "running".to_owned(),
            State::Refused => "refused".to_owned(),
            State::Interrupted => "interrupted".to_owned(),
            State::Finished => r.ended.clone().unwrap_or_default(),
        };
        let time = r.seconds.map_or_else(|| "-".to_owned(), |s| format!("{s:.1} s"));
        [r.id.to_string(), r.image.clone(), r.project.clone().unwrap_or_else(|| "-".to_owned()), time, ended]
    }));
    print::table(&rows)?;
    Ok(0)
}

/// Prints one record.
///
/// # Errors
/// When there is none that the caller may see.
pub fn record(global: &Global, args: &RecordArgs) -> Result<u8> {
    print::json(&find(&Site::swept(global)?, &args.id)?)?;
    Ok(0)
}

/// Compares the outputs with the record: 0 the same, 1 changed.
///
/// # Errors
/// When there is no record, or it tells of no outputs.
pub fn verify(global: &Global, args: &RecordArgs) -> Result<u8> {
    let record = find(&Site::swept(global)?, &args.id)?;
    let told = record.outputs.ok_or_else(|| {
        Error::new(Stage::Record, Kind::Failed, format!("the record of run {} tells of no outputs", record.id))
            .hint("the run did not finish")
    })?;
    let found = outputs::survey(&told.path)?;
    let mut changes = Vec::new();
    for file in &told.files {
        match found.files.iter().find(|f| f.path == file.path) {
            None => changes.push(format!("missing: {}", file.path)),
            Some(now) if now != file => changes.push(format!("changed: {}", file.path)),
            Some(_) => {}
        }
    }
    changes.extend(
        found.files.iter().filter(|f| told.files.iter().all(|t| t.path != f.path)).map(|f| format!("new: {}", f.path)),
    );
    if args.json {
        print::json(&json!({"id": record.id, "unchanged": changes.is_empty(), "changes": changes}))?;
    } else if changes.is_empty() {
        let files = told.files.len();
        print::line(&format!("{}: {files} {}, unchanged", record.id, if files == 1 { "file" } else { "files" }))?;
    } else {
        changes.iter().try_for_each(|change| print::line(change))?;
    }
    Ok(u8::from(!changes.is_empty()))
}

/// The record of a run of the caller's, by id, or the last one of that name.
///
/// # Errors
/// When there is none that the caller may see.
pub fn of(site: &Site, id: &str) -> Result<Record> {
    let named = |record: &Record| record.name.as_deref() == Some(id) && may_see(&site.caller, record);
    match as_root(|root| Record::all(root, &site.dirs.log))?.into_iter().rfind(named) {
        Some(record) => Ok(record),
        None => find(site, id),
    }
}

fn may_see(caller: &Caller, record: &Record) -> bool {
    record.uid == caller.uid.as_raw() || caller.sees_everyone()
}

fn find(site: &Site, id: &str) -> Result<Record> {
    let id = JobId::parse(id)?;
    let record = as_root(|root| Record::load(root, &site.dirs.log, &id))?;
    if may_see(&site.caller, &record) {
        return Ok(record);
    }
    // The same answer as for a run that never was.
    Err(Error::new(Stage::Record, Kind::Missing, format!("there is no record of run {id}")).hint("ces runs lists them"))
}
