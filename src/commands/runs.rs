//! `ces runs`: a list of past runs.

use std::borrow::Cow;

use super::{Site, print, records};
use crate::cli::{Format, Global, RunState, RunsArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::policy::units;
use crate::run::supervisor::record;
use crate::run::supervisor::record::index::{self, Entry, State};

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
    let index = records::index(&site)?;
    let mut runs = index::of(&index, records::own(&site));
    runs.iter_mut().for_each(|run| look_up(&site, run));
    runs.retain(is_asked_for);
    let skipped = runs.len().saturating_sub(args.last.unwrap_or(usize::MAX));
    runs.drain(..skipped);
    let form = args.table.form();
    if global.quiet && form == Format::Table {
        return runs.iter().try_for_each(|run| print::line(run.id.as_str())).map(|()| 0);
    }
    let document = || serde_json::to_value(&runs).map_err(|e| Error::new(Stage::Cli, Kind::Failed, e.to_string()));
    let everyones = site.caller.sees_everyone();
    // A spreadsheet gets every column. In a table the caller's own name is no news; in a narrow one neither are the time of the start,
    // with which the id begins, and the exit status, which is told with the end.
    let narrow = form == Format::Table && print::width().is_some_and(|columns| columns < WIDE);
    match (form == Format::Csv || everyones, narrow) {
        (true, false) => print::list(
            form,
            &rows(&runs, |[id, started, name, who, project, image, time, exit, files, ended]| {
                [id, started, name, who, project, image, time, exit, files, ended]
            }),
            document,
        ),
        (false, false) => print::list(
            form,
            &rows(&runs, |[id, started, name, _, project, image, time, exit, files, ended]| {
                [id, started, name, project, image, time, exit, files, ended]
            }),
            document,
        ),
        (true, true) => print::list(
            form,
            &rows(&runs, |[id, _, name, who, project, image, time, _, files, ended]| {
                [id, name, who, project, image, time, files, ended]
            }),
            document,
        ),
        (false, true) => print::list(
            form,
            &rows(&runs, |[id, _, name, _, project, image, time, _, files, ended]| {
                [id, name, project, image, time, files, ended]
            }),
            document,
        ),
    }
    .map(|()| 0)
}

/// A terminal with fewer columns is narrow.
const WIDE: usize = 120;

const HEAD: [&str; 10] =
    ["ID", "STARTED", "NAME", "RESEARCHER", "PROJECT", "IMAGE", "TIME", "EXIT", "OUTPUTS", "ENDED"];

/// The head and a row for each run, with the columns that are chosen.
fn rows<'a, const N: usize>(
    runs: &'a [Entry<'_>],
    choose: impl Fn([Cow<'a, str>; 10]) -> [Cow<'a, str>; N],
) -> Vec<[Cow<'a, str>; N]> {
    std::iter::once(HEAD.map(Cow::Borrowed)).chain(runs.iter().map(row)).map(choose).collect()
}

/// Id, beginning, name, researcher, project, image, wall time, exit status, number of files in the outputs, and how it ended.
fn row<'a>(run: &'a Entry<'_>) -> [Cow<'a, str>; 10] {
    let or_none = |text: &'a Option<Cow<'_, str>>| Cow::Borrowed(text.as_deref().unwrap_or("-"));
    let number = |number: Option<String>| number.map_or(Cow::Borrowed("-"), Cow::Owned);
    let ended = match run.state {
        State::Begun => "running",
        State::Refused => "refused",
        State::Interrupted => "interrupted",
        State::Finished => run.ended.as_deref().unwrap_or_default(),
    };
    let time = number(run.seconds.map(|seconds| format!("{seconds:.1} s")));
    let exit = number(run.exit.map(|exit| exit.to_string()));
    let outputs = number(run.outputs.map(|files| files.to_string()));
    let (id, image) = (Cow::Borrowed(run.id.as_str()), Cow::Borrowed(&*run.image));
    let started = Cow::Owned(to_the_minute(&run.started));
    let (name, project, who) = (or_none(&run.name), or_none(&run.project), Cow::Borrowed(&*run.researcher));
    [id, started, name, who, project, image, time, exit, outputs, Cow::Borrowed(ended)]
}

/// `2026-11-30 06:20` of `2026-11-30T06:20:25.123Z` (UTC).
fn to_the_minute(time: &str) -> String {
    time.get(..16).unwrap_or(time).replacen('T', " ", 1)
}

/// The first moment that is asked for, as records write it: a day, or so long ago.
fn beginning(text: &str) -> Result<String> {
    let wrong = || {
        Error::new(Stage::Cli, Kind::Usage, format!("--since {text} is neither a date nor a length of time"))
            .hint(format!("write a date, --since 2026-11-30, or {}", units::DURATION_FORMS))
    };
    if let Ok(day) = text.parse::<jiff::civil::Date>() {
        return Ok(day.to_string());
    }
    let ago = units::duration(text).ok_or_else(wrong)?;
    record::ago(ago).ok_or_else(wrong)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_to_the_minute() {
        assert_eq!(to_the_minute("2026-11-30T06:20:25.123Z"), "2026-11-30 06:20");
        assert_eq!(to_the_minute("ä"), "ä");
    }
}
