//! `ces runs`, `ces record`: what was run.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::Read as _;

use serde_json::json;

use super::{Site, events, print};
use crate::cli::{Global, RecordArgs, RunState, RunsArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::{self, Event};
use crate::host::caller::Caller;
use crate::host::privilege::as_root;
use crate::policy::units;
use crate::run::job_id::JobId;
use crate::run::supervisor::record::index::{self, Entry, State};
use crate::run::supervisor::record::{self, Record};

/// No record is longer.
const LARGEST: u64 = 64 << 20;

/// Lists past runs of the caller; real root sees everyone's.
///
/// # Errors
/// When the records cannot be read, or no run began when it is asked for.
pub fn runs(global: &Global, args: &RunsArgs) -> Result<u8> {
    let since = args.since.as_deref().map(beginning).transpose()?;
    let site = Site::swept(global)?;
    let is_asked_for = |run: &Entry<'_>| {
        let same = |asked: &Option<String>, is: Option<&str>| asked.is_none() || asked.as_deref() == is;
        let state = match args.state {
            Some(RunState::Running) => run.state == State::Begun,
            Some(RunState::Finished) => run.state == State::Finished,
            Some(RunState::Refused) => run.state == State::Refused,
            Some(RunState::Interrupted) => run.state == State::Interrupted,
            None => true,
        };
        let late = since.as_ref().is_none_or(|since| *run.started >= **since);
        state && late && same(&args.project, run.project.as_deref()) && same(&args.user, Some(&run.researcher))
    };
    let index = index(&site)?;
    let mut runs = index::of(&index, own(&site));
    runs.iter_mut().for_each(|run| look_up(&site, run));
    runs.retain(is_asked_for);
    let skipped = runs.len().saturating_sub(args.last.unwrap_or(usize::MAX));
    runs.drain(..skipped);
    if args.json {
        print::json(&runs)?;
    } else if global.quiet {
        runs.iter().try_for_each(|run| print::line(run.id.as_str()))?;
    } else if site.caller.sees_everyone() {
        let mut rows = vec![["ID", "NAME", "RESEARCHER", "PROJECT", "IMAGE", "TIME", "ENDED"].map(Cow::Borrowed)];
        rows.extend(runs.iter().map(|run| {
            let [id, name, project, image, time, ended] = row(run);
            [id, name, Cow::Borrowed(&*run.researcher), project, image, time, ended]
        }));
        print::table(&rows)?;
    } else {
        let mut rows = vec![["ID", "NAME", "PROJECT", "IMAGE", "TIME", "ENDED"].map(Cow::Borrowed)];
        rows.extend(runs.iter().map(row));
        print::table(&rows)?;
    }
    Ok(0)
}

/// Id, name, project, image, wall time and end of a run.
fn row<'a>(run: &'a Entry<'_>) -> [Cow<'a, str>; 6] {
    let or_none = |text: &'a Option<Cow<'_, str>>| Cow::Borrowed(text.as_deref().unwrap_or("-"));
    let ended = match run.state {
        State::Begun => "running",
        State::Refused => "refused",
        State::Interrupted => "interrupted",
        State::Finished => run.ended.as_deref().unwrap_or_default(),
    };
    let time = run.seconds.map_or(Cow::Borrowed("-"), |seconds| Cow::Owned(format!("{seconds:.1} s")));
    let (id, image) = (Cow::Borrowed(run.id.as_str()), Cow::Borrowed(&*run.image));
    [id, or_none(&run.name), or_none(&run.project), image, time, Cow::Borrowed(ended)]
}

/// The first moment that is asked for, as records write it: a day, or so long ago.
fn beginning(text: &str) -> Result<String> {
    let wrong = || {
        Error::new(Stage::Cli, Kind::Usage, format!("--since {text} is no day and no length of time"))
            .hint(format!("write a day, --since 2026-11-30, or {}", units::DURATION_FORMS))
    };
    if let Ok(day) = text.parse::<jiff::civil::Date>() {
        return Ok(day.to_string());
    }
    let ago = units::duration(text).ok_or_else(wrong)?;
    record::ago(ago).ok_or_else(wrong)
}

/// Prints one record with the documents beside it: 1 where one of them is not what it was.
///
/// # Errors
/// When there is none that the caller may see.
pub fn record(global: &Global, args: &RecordArgs) -> Result<u8> {
    let record = read(&Site::swept(global)?, &args.id)?;
    record.damaged.iter().try_for_each(|what| print::note(&format!("the record is not whole: {what}")))?;
    print::json(&record)?;
    Ok(u8::from(!record.damaged.is_empty()))
}

/// The text of the index of runs.
///
/// # Errors
/// When it cannot be read or made.
pub fn index(site: &Site) -> Result<String> {
    as_root(|root| index::text(root, &site.dirs.log))
}

/// Whose runs the caller sees: the caller's own, or everyone's.
pub fn own(site: &Site) -> Option<u32> {
    (!site.caller.sees_everyone()).then(|| site.caller.uid.as_raw())
}

/// What has only begun is looked up: its record, and whether there is still a job.
fn look_up(site: &Site, entry: &mut Entry<'_>) {
    if entry.state != State::Begun {
        return;
    }
    as_root(|root| {
        // Asked first: what ends meanwhile writes its record before its journal goes.
        let is_there = site.dirs.running.join(entry.id.as_str()).exists();
        if let Some(now) = index::from_record(root, &site.dirs.log, &entry.id) {
            *entry = now;
        }
        if entry.state == State::Begun && !is_there {
            entry.state = State::Interrupted;
        }
    });
}

/// The record of a run, by id, name or [`LAST`]. That somebody reads another's, as root may, is a line in the audit log.
///
/// # Errors
/// When there is none that the caller may see, or the line cannot be written.
pub fn read(site: &Site, id: &str) -> Result<Record> {
    let record = of(site, id)?;
    if record.uid != site.caller.uid.as_raw() {
        let about = json!({"of": record.uid});
        events::tell(&site.dirs.log, &site.caller, Event::RecordRead, Some(record.id.as_str()), about)?;
    }
    Ok(record)
}

/// The word for the run that began last.
pub const LAST: &str = "last";

/// The record of a run of the caller's: by id, the last one of that name, or the last one of all.
///
/// # Errors
/// When there is none that the caller may see.
fn of(site: &Site, id: &str) -> Result<Record> {
    // An id is looked up at once; names are in the index.
    match find(site, id) {
        Err(error) if id == LAST || matches!(error.kind(), Kind::Missing | Kind::Usage) => {}
        found => return found,
    }
    let index = index(site)?;
    let entries = index::of(&index, own(site));
    let found = match id {
        LAST => entries.last(),
        name => entries.iter().rfind(|entry| entry.name.as_deref() == Some(name)),
    };
    match found {
        Some(entry) => find(site, entry.id.as_str()),
        None if id == LAST => Err(Error::new(Stage::Record, Kind::Missing, "there is no run yet")
            .hint("ces run IMAGE starts one; ces doctor tells whether this host is ready")),
        None => Err(Error::new(Stage::Record, Kind::Missing, format!("there is no record of run {id}"))
            .hint("ces runs lists them; `last` is the one that began last")),
    }
}

/// SHA-256 of a record's file, as the audit log has it of a run that has ended.
///
/// # Errors
/// When it cannot be read.
pub(super) fn sha256(site: &Site, id: &JobId) -> Result<String> {
    let fail =
        |why: &str| Error::new(Stage::Record, Kind::Failed, format!("cannot read the record of run {id}")).because(why);
    let mut text = Vec::new();
    let runs = as_root(|_| site.dirs.log.below(OsStr::new("runs")))?.ok_or_else(|| fail("it is gone"))?;
    let file = as_root(|_| runs.document(OsStr::new(&format!("{id}.json"))))?.ok_or_else(|| fail("it is gone"))?;
    file.take(LARGEST).read_to_end(&mut text).map_err(|e| fail(&e.to_string()))?;
    Ok(line::hex(&line::hash(&text)))
}

fn may_see(caller: &Caller, record: &Record) -> bool {
    record.uid == caller.uid.as_raw() || caller.sees_everyone()
}

/// The record of a run of the caller's, by id.
///
/// # Errors
/// When there is none that the caller may see.
fn find(site: &Site, id: &str) -> Result<Record> {
    let id = JobId::parse(id)?;
    match as_root(|root| Record::load(root, &site.dirs.log, &id)) {
        Ok(record) if may_see(&site.caller, &record) => return Ok(record),
        Err(error) if error.kind() != Kind::Missing => return Err(error),
        // One answer for a run of somebody else's and for one that never was.
        Ok(_) | Err(_) => {}
    }
    Err(Error::new(Stage::Record, Kind::Missing, format!("there is no record of run {id}")).hint("ces runs lists them"))
}
