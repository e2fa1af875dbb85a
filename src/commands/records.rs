//! `ces runs`, `ces record`: what was run.

use serde_json::json;

use super::{Site, events, print};
use crate::cli::{Global, ListArgs, RecordArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::Event;
use crate::host::caller::Caller;
use crate::host::privilege::as_root;
use crate::run::job_id::JobId;
use crate::run::supervisor::record::Record;
use crate::run::supervisor::record::index::{self, Entry, State};

/// Lists past runs of the caller; real root sees everyone's.
///
/// # Errors
/// When the records cannot be read.
pub fn runs(global: &Global, args: &ListArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let records = all(&site)?;
    if args.json {
        print::json(&records)?;
        return Ok(0);
    }
    let mut rows = vec![["ID", "IMAGE", "PROJECT", "TIME", "ENDED"].map(str::to_owned)];
    rows.extend(records.into_iter().map(|r| {
        let ended = match r.state {
            State::Begun => "running".to_owned(),
            State::Refused => "refused".to_owned(),
            State::Interrupted => "interrupted".to_owned(),
            State::Finished => r.ended.unwrap_or_default(),
        };
        let time = r.seconds.map_or_else(|| "-".to_owned(), |s| format!("{s:.1} s"));
        [r.id.to_string(), r.image, r.project.unwrap_or_else(|| "-".to_owned()), time, ended]
    }));
    print::table(&rows)?;
    Ok(0)
}

/// Prints one record.
///
/// # Errors
/// When there is none that the caller may see.
pub fn record(global: &Global, args: &RecordArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let record = find(&site, &args.id)?;
    if record.uid != site.caller.uid.as_raw() {
        let about = json!({"of": record.uid});
        events::tell(&site.dirs.log, &site.caller, Event::RecordRead, Some(record.id.as_str()), about)?;
    }
    print::json(&record)?;
    Ok(0)
}

/// What the index has of the caller's runs, or everyone's. What has only begun is looked up: its record, and whether there is
/// still a job.
fn all(site: &Site) -> Result<Vec<Entry>> {
    let uid = (!site.caller.sees_everyone()).then(|| site.caller.uid.as_raw());
    as_root(|root| {
        let mut entries = index::of(root, &site.dirs.log, uid)?;
        for entry in entries.iter_mut().filter(|entry| entry.state == State::Begun) {
            // Asked first: what ends meanwhile writes its record before its journal goes.
            let is_there = site.dirs.running.join(entry.id.as_str()).exists();
            if let Some(now) = index::from_record(root, &site.dirs.log, &entry.id) {
                *entry = now;
            }
            if entry.state == State::Begun && !is_there {
                entry.state = State::Interrupted;
            }
        }
        Ok(entries)
    })
}

/// The record of a run of the caller's, by id, or the last one of that name.
///
/// # Errors
/// When there is none that the caller may see.
pub fn of(site: &Site, id: &str) -> Result<Record> {
    let uid = (!site.caller.sees_everyone()).then(|| site.caller.uid.as_raw());
    let entries = as_root(|root| index::of(root, &site.dirs.log, uid))?;
    match entries.iter().rfind(|entry| entry.name.as_deref() == Some(id)) {
        Some(entry) => find(site, entry.id.as_str()),
        None => find(site, id),
    }
}

fn may_see(caller: &Caller, record: &Record) -> bool {
    record.uid == caller.uid.as_raw() || caller.sees_everyone()
}

/// The record of a run of the caller's, by id.
///
/// # Errors
/// When there is none that the caller may see.
pub(super) fn find(site: &Site, id: &str) -> Result<Record> {
    let id = JobId::parse(id)?;
    match as_root(|root| Record::load(root, &site.dirs.log, &id)) {
        Ok(record) if may_see(&site.caller, &record) => return Ok(record),
        Err(error) if error.kind() != Kind::Missing => return Err(error),
        // One answer for a run of somebody else's and for one that never was.
        Ok(_) | Err(_) => {}
    }
    Err(Error::new(Stage::Record, Kind::Missing, format!("there is no record of run {id}")).hint("ces runs lists them"))
}
