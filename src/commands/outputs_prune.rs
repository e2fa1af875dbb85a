//! `ces outputs prune`: the caller's own outputs of old runs.
//!
//! Takes how old they are to be; deletes `~/outputs_ID` of each run of the caller's that ended before; trusts the records for when it
//! ended, and derives the directory from the id: no path is read from a document. Everything is done with the researcher's own rights,
//! and each deletion is a line in the audit log, written before. Records stay.

use std::path::Path;

use serde_json::json;

use super::{Site, events, print, records};
use crate::cli::{Global, OutputsArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::Event;
use crate::host::privilege::as_root;
use crate::policy::units::{self, show_size};
use crate::run::directory::open_directory;
use crate::run::job_id::JobId;
use crate::run::removal::{self, Tally};
use crate::run::supervisor::places::Places;
use crate::run::supervisor::record::index::{self, State};
use crate::run::supervisor::record::{self, Record};

/// Outputs that are old enough.
struct Old {
    id: JobId,
    ended: String,
    places: Places,
    bytes: u64,
}

/// Deletes them, or prints which it would delete; 1 where one could not be.
///
/// # Errors
/// When no age is given, or a deletion cannot be told to the audit log: then it is not done.
pub fn prune(global: &Global, args: &OutputsArgs) -> Result<u8> {
    let asked = args.older.as_deref().ok_or_else(|| {
        Error::new(Stage::Cli, Kind::Usage, "ces outputs prune needs --older TIME")
            .hint("ces outputs prune --older 30d --dry-run prints what would be deleted")
    })?;
    let wrong = || {
        Error::new(Stage::Cli, Kind::Usage, format!("--older {asked} is not a length of time")).hint(format!(
            "write {}, or {}",
            units::PERIOD_FORMS,
            units::DURATION_FORMS
        ))
    };
    let older = units::period(asked).or_else(|| units::duration(asked)).ok_or_else(wrong)?;
    let before = record::ago(older).ok_or_else(wrong)?;
    let site = Site::swept(global)?;
    let (mut gone, mut failed) = (Vec::new(), Vec::new());
    for old in old(&site, &before)? {
        if args.dry_run {
            gone.push((old.bytes, old));
            continue;
        }
        let about = json!({"what": "outputs", "path": old.places.outputs(), "bytes": old.bytes});
        events::tell(&site.dirs.log, &site.caller, Event::Deletion, Some(old.id.as_str()), about)?;
        let tally = Tally::default();
        match delete(&site, &old.places, &tally) {
            Ok(()) => gone.push((tally.so_far().1, old)),
            Err(error) => failed.push(error),
        }
    }
    let total = gone.iter().map(|(bytes, _)| *bytes).sum::<u64>();
    if args.json {
        let each = |(bytes, old): &(u64, Old)| json!({"id": old.id, "ended": old.ended, "path": old.places.outputs(), "bytes": bytes});
        let all: Vec<_> = gone.iter().map(each).collect();
        print::json(&json!({"dry_run": args.dry_run, "before": before, "outputs": all, "failed": failed.len()}))?;
    } else {
        let did = if args.dry_run { "would delete" } else { "deleted" };
        for (bytes, old) in &gone {
            let (path, ended) = (old.places.outputs(), &old.ended);
            print::line(&format!("{did} {} ({}; the run ended {ended})", path.display(), show_size(*bytes)))?;
        }
        let count = gone.len();
        let what = if count == 1 { "directory" } else { "directories" };
        print::line(&format!("{did} {count} {what}, {}", show_size(total)))?;
    }
    failed.iter().try_for_each(|error| print::note(&error.report().trim_end().replace('\n', "; ")))?;
    Ok(u8::from(!failed.is_empty()))
}

/// The caller's own, for root too: other people's outputs are theirs.
fn old(site: &Site, before: &str) -> Result<Vec<Old>> {
    let text = records::index(site)?;
    let mut found = Vec::new();
    for entry in index::of(&text, Some(site.caller.uid.as_raw())) {
        let is_alive = site.dirs.running.join(entry.id.as_str()).exists();
        let places = Places::new(&site.dirs, &entry.id, &site.caller.home);
        // Looked at with the researcher's own rights; a link of that name is nothing of a run's.
        let is_there = places.outputs().symlink_metadata().is_ok_and(|found| found.is_dir());
        if entry.state == State::Begun || is_alive || *entry.started >= *before || !is_there {
            continue;
        }
        let Ok(record) = as_root(|root| Record::load(root, &site.dirs.log, &entry.id)) else { continue };
        let ended = record.finished.unwrap_or(record.started);
        if *ended < *before {
            let bytes = record.outputs.map_or(0, |outputs| outputs.bytes);
            found.push(Old { id: entry.id, ended, places, bytes });
        }
    }
    Ok(found)
}

/// What in it belongs to somebody else stays, and is an error.
fn delete(site: &Site, places: &Places, tally: &Tally) -> Result<()> {
    let own = site.caller.uid.as_raw();
    let home = open_directory(&places.home, false)?;
    removal::tree_counted(&home, Path::new(&places.outputs), &|uid| uid == own, tally).map_err(|e| {
        Error::new(Stage::Outputs, Kind::Failed, format!("cannot delete {}", places.outputs().display()))
            .because(e.desc())
    })
}
