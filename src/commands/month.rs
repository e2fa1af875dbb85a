//! `ces report --month`: one page of what was done in a month, for whoever answers for a project.
//!
//! Takes a month and perhaps a project; gives the page; trusts records and the audit log; refuses nothing: a caller who does not see
//! everyone has a page of their own runs, and it says so.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde_json::{Value, json};

use super::{Site, events, facts, records};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::{Event, Line};
use crate::evidence::log;
use crate::host::privilege::as_root;
use crate::policy::approved::SOON;
use crate::report::month::{Ending, Month, Run, Told, page};
use crate::run::supervisor::record::index::{self, Entry, State};
use crate::run::supervisor::record::{Record, now};

/// Records of so many runs are read; of others the index tells.
const RECORDS: usize = 20_000;
/// Lines of so many events of a kind are held.
const LINES: usize = 20_000;

/// The page, and a line in the audit log if it tells of others than the caller.
///
/// # Errors
/// When the month is none, or records and audit log cannot be read.
pub(super) fn of_month(site: &Site, asked: &str, project: Option<&str>) -> Result<String> {
    let first = first_day(asked)?;
    let everyone = site.caller.sees_everyone();
    let mut month = Month {
        month: asked.to_owned(),
        project: project.map(str::to_owned),
        site: site.policy.identity().name.as_ref().map(|rule| rule.value.clone()),
        whose: if everyone {
            "These are the runs of everybody on this host.".to_owned()
        } else {
            format!("These are the runs of {} alone; root makes the page of everybody.", site.caller.name)
        },
        made: format!("ces {}, {}. Times are UTC.", env!("CARGO_PKG_VERSION"), now()),
        ..Month::default()
    };
    let of_runs = runs(site, asked, project, &mut month)?;
    lines(site, (asked, project), &of_runs, &mut month)?;
    month.ending = if everyone { ending(site, first, project)? } else { None };
    if everyone {
        let about = json!({"month": asked, "project": project, "runs": month.runs.len()});
        events::tell(&site.dirs.log, &site.caller, Event::RecordRead, None, about)?;
    }
    Ok(page(&month))
}

fn first_day(asked: &str) -> Result<Date> {
    let day = format!("{asked}-01").parse::<Date>().ok().filter(|_| asked.len() == 7);
    day.ok_or_else(|| {
        Error::new(Stage::Cli, Kind::Usage, format!("--month {asked} is not a month"))
            .hint("write a year and a month: --month 2026-11")
    })
}

/// The runs that were found: their ids, and whose they are.
type Found = (BTreeSet<String>, BTreeSet<u32>);

fn runs(site: &Site, asked: &str, project: Option<&str>, month: &mut Month) -> Result<Found> {
    let index = records::index(site)?;
    let (mut ids, mut uids) = (BTreeSet::new(), BTreeSet::new());
    let wanted =
        |run: &Entry<'_>| run.started.starts_with(asked) && (project.is_none() || run.project.as_deref() == project);
    for entry in index::of(&index, records::own(site)).iter().filter(|run| wanted(run)) {
        ids.insert(entry.id.to_string());
        uids.insert(entry.uid);
        let record = (month.runs.len() < RECORDS)
            .then(|| as_root(|root| Record::load(root, &site.dirs.log, &entry.id)).ok())
            .flatten();
        month.runs.push(run(entry, record.as_ref()));
    }
    if month.runs.len() > RECORDS {
        let more = month.runs.len() - RECORDS;
        month.lacks.push(format!("image digests, data access, memory and outputs of {more} runs, which are too many"));
    }
    Ok((ids, uids))
}

fn run(entry: &Entry<'_>, record: Option<&Record>) -> Run {
    let state = record.map_or(entry.state, |record| record.state);
    let exit = record.map_or(entry.exit, |record| record.exit);
    let ended = match state {
        State::Begun => "has only begun, or was killed with its host".to_owned(),
        State::Refused => "refused".to_owned(),
        State::Interrupted => "interrupted".to_owned(),
        State::Finished => entry.ended.as_deref().unwrap_or_default().to_owned(),
    };
    Run {
        id: entry.id.to_string(),
        researcher: entry.researcher.to_string(),
        project: entry.project.as_deref().unwrap_or("none").to_owned(),
        image: entry.image.to_string(),
        digest: record.map(|record| record.digest.clone()).unwrap_or_default(),
        access: record.map(|record| record.data_access.clone()).unwrap_or_default(),
        started: entry.started.to_string(),
        ended,
        failed: state == State::Interrupted || (state == State::Finished && exit != Some(0)),
        refused: state == State::Refused,
        seconds: entry.seconds.unwrap_or_default(),
        memory: record.and_then(|record| record.peak_memory).unwrap_or_default(),
        left: record.and_then(|record| record.outputs.as_ref()).map(|told| told.bytes).unwrap_or_default(),
        warnings: record.map(|record| record.warnings.len()).unwrap_or_default(),
    }
}

/// What the audit log tells of the month.
fn lines(site: &Site, (asked, project): (&str, Option<&str>), of: &Found, month: &mut Month) -> Result<()> {
    let Some(dir) = as_root(|root| log::directory(root, &site.dirs.log))? else { return Ok(()) };
    let own = records::own(site);
    let fail = |e: std::io::Error| Error::new(Stage::Record, Kind::Failed, "cannot read the audit log").because(e);
    let mut more = 0_u64;
    for host in as_root(|root| log::hosts(root, &dir)).map_err(fail)? {
        let mut each = |_: &[u8], line: Option<Line>| {
            let Some(line) = line.filter(|line| line.time.starts_with(asked)) else { return Ok(()) };
            if own.is_some_and(|uid| line.uid != uid) || !is_of(&line, project, of) {
                return Ok(());
            }
            let (into, what) = match line.event {
                Event::Refused => (&mut month.refusals, refusal(&line)),
                Event::Request | Event::Approve => (&mut month.decisions, decision(&line)),
                Event::Export => (&mut month.exports, exported(&line)),
                _ => return Ok(()),
            };
            if into.len() < LINES {
                let project = line.project.clone().or_else(|| text(&line.about, "project")).unwrap_or_default();
                into.push(Told { time: line.time.clone(), who: line.name.clone(), project, what });
            } else {
                more += 1;
            }
            Ok(())
        };
        as_root(|root| log::read(root, &dir, &host, &mut each))?;
    }
    if more > 0 {
        month.lacks.push(format!("{more} more lines of the audit log"));
    }
    if project.is_some() {
        let what = "refusals that name no project, of people who ran nothing for it in this month";
        month.lacks.push(what.to_owned());
    }
    Ok(())
}

/// Whether a line is of the project: it says so, or is of one of its runs; a refusal that names none, if it is of who ran for it.
fn is_of(line: &Line, project: Option<&str>, (ids, uids): &Found) -> bool {
    let Some(project) = project else { return true };
    if let Some(named) = &line.project {
        return named == project;
    }
    if let Some(run) = &line.run {
        return ids.contains(run);
    }
    let listed = line.about.get("projects").and_then(Value::as_array);
    match (text(&line.about, "project"), listed) {
        (Some(named), _) => named == project,
        (None, Some(listed)) => listed.iter().any(|name| name == project || name == "*"),
        (None, None) => line.event == Event::Refused && uids.contains(&line.uid),
    }
}

fn text(about: &Value, key: &str) -> Option<String> {
    about.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn refusal(line: &Line) -> String {
    let said = |key: &str| text(&line.about, key);
    let what = said("what").or_else(|| said("ended")).unwrap_or_default();
    let image = said("image").map_or_else(String::new, |image| format!(" {image}"));
    let verb = said("verb").unwrap_or_else(|| "run".to_owned());
    let because = match line.about.get("because") {
        Some(Value::Array(causes)) => causes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "),
        Some(Value::String(cause)) => cause.clone(),
        _ => String::new(),
    };
    let because = if because.is_empty() { String::new() } else { format!(": {because}") };
    format!("{verb}{image}: {what}{because}")
}

fn decision(line: &Line) -> String {
    let said = |key: &str| text(&line.about, key);
    let action = said("action").unwrap_or_else(|| "asked for".to_owned());
    let image = said("image").or_else(|| said("digest")).unwrap_or_default();
    let until = said("until").map_or_else(String::new, |day| format!(" until {day}"));
    let note = said("note").or_else(|| said("reason")).map_or_else(String::new, |note| format!(": {note}"));
    format!("{action} {image}{until}{note}")
}

fn exported(line: &Line) -> String {
    let number = |key: &str| line.about.get(key).and_then(Value::as_u64).unwrap_or_default();
    let form = text(&line.about, "export").unwrap_or_default();
    let run = line.run.as_deref().unwrap_or_default();
    format!("run {run} as {form}: {} files, {} bytes", number("files"), number("bytes"))
}

/// Approvals whose last day is in the month or soon after it.
fn ending(site: &Site, first: Date, project: Option<&str>) -> Result<Option<Vec<Ending>>> {
    let Some(list) = as_root(|root| site.policy.approved(root))? else { return Ok(None) };
    let last = first.last_of_month().saturating_add(jiff::Span::new().days(SOON));
    let ends = list.all().iter().filter_map(|approval| {
        let day = approval.expires.filter(|day| *day >= first && *day <= last)?;
        (project.is_none() || approval.is_for(project)).then(|| Ending {
            last: if day < facts::today() { format!("{day} (ended)") } else { day.to_string() },
            projects: approval.projects.join(", "),
            image: approval.name.clone().unwrap_or_default(),
            digest: approval.digest.clone(),
            approver: approval.approver.clone(),
        })
    });
    let mut ends: Vec<Ending> = ends.collect();
    ends.sort_by(|one, other| one.last.cmp(&other.last));
    Ok(Some(ends))
}
