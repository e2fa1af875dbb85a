//! `ces runs`: a list of past runs.

use std::borrow::Cow;

use super::{Site, print, records};
use crate::cli::{Format, Global, RunState, RunsArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::parallel;
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
    let own = records::own(&site);
    let runs: Vec<_> = match args.last {
        Some(last) => {
            let newest = index::newest_first(&index, own).map(|run| looked_up(&site, run)).filter(is_asked_for);
            let mut runs: Vec<_> = newest.take(last).map(|run| Listed::Entry(Box::new(run))).collect();
            runs.reverse();
            runs
        }
        None => all(&site, &index, own, is_asked_for),
    };
    let form = args.table.form();
    if global.quiet && form == Format::Table {
        let ids: Vec<_> = runs.iter().map(|run| [run.id()]).collect();
        return print::table(&ids).map(|()| 0);
    }
    let document = || Ok(runs.iter().filter_map(Listed::entry).collect::<Vec<_>>());
    let everyones = site.caller.sees_everyone();
    // A spreadsheet gets every column. In a table the caller's own name is no news; in a narrow one neither are the time of the start,
    // with which the id begins, and the exit status, which is told with the end.
    let narrow = form == Format::Table && print::width().is_some_and(|columns| columns < WIDE);
    match (form == Format::Csv || everyones, narrow) {
        (true, false) => print::list(form, &rows(&runs, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), document),
        (false, false) => print::list(form, &rows(&runs, &[0, 1, 2, 4, 5, 6, 7, 8, 9]), document),
        (true, true) => print::list(form, &rows(&runs, &[0, 2, 3, 4, 5, 6, 8, 9]), document),
        (false, true) => print::list(form, &rows(&runs, &[0, 2, 4, 5, 6, 8, 9]), document),
    }
    .map(|()| 0)
}

/// A run of the list.
enum Listed<'a> {
    /// As its line in the index has it, which is read each time that it is asked for: no entry is held of it.
    Line(&'a str),
    /// As it was found to be now.
    Entry(Box<Entry<'a>>),
}

impl<'a> Listed<'a> {
    fn id(&self) -> &str {
        match self {
            Self::Line(line) => index::id_of(line).unwrap_or_default(),
            Self::Entry(run) => run.id.as_str(),
        }
    }

    fn entry(&self) -> Option<Entry<'a>> {
        match self {
            Self::Line(line) => index::entry_in(line, None),
            Self::Entry(run) => Some((**run).clone()),
        }
    }
}

/// All runs that are asked for. Whether what has only begun still runs is asked in this thread, which may have root's power.
fn all<'a>(
    site: &Site,
    index: &'a str,
    own: Option<u32>,
    is_asked_for: impl Fn(&Entry<'_>) -> bool + Sync,
) -> Vec<Listed<'a>> {
    let lines = index::lines(index, own);
    let wanted = |lines: &[&'a str]| {
        let mut runs = Vec::with_capacity(lines.len());
        runs.extend(lines.iter().filter_map(|line| {
            let run = index::entry_in(line, own)?;
            match run.state {
                State::Begun => Some(Listed::Entry(Box::new(run))),
                _ => is_asked_for(&run).then_some(Listed::Line(line)),
            }
        }));
        runs
    };
    let found = parallel::parts(&lines, wanted).into_iter().flatten().filter_map(|run| match run {
        Listed::Entry(begun) => {
            Some(looked_up(site, *begun)).filter(&is_asked_for).map(|run| Listed::Entry(Box::new(run)))
        }
        line => Some(line),
    });
    found.collect()
}

/// A terminal with fewer columns is narrow.
const WIDE: usize = 120;

const HEAD: [&str; 10] =
    ["ID", "STARTED", "NAME", "RESEARCHER", "PROJECT", "IMAGE", "TIME", "EXIT", "OUTPUTS", "ENDED"];

/// A run, or the head of the list, of which columns of [`HEAD`] are shown.
struct Row<'a, const N: usize> {
    run: Option<&'a Listed<'a>>,
    columns: &'static [usize; N],
}

impl<const N: usize> print::Row<N> for Row<'_, N> {
    fn cells(&self) -> [Cow<'_, str>; N] {
        let mut all = match self.run {
            None => HEAD.map(Cow::Borrowed),
            Some(run) => run.entry().map(row).unwrap_or_default(),
        };
        self.columns.map(|column| all.get_mut(column).map(std::mem::take).unwrap_or_default())
    }
}

fn rows<'a, const N: usize>(runs: &'a [Listed<'a>], columns: &'static [usize; N]) -> Vec<Row<'a, N>> {
    std::iter::once(None).chain(runs.iter().map(Some)).map(|run| Row { run, columns }).collect()
}

/// Id, beginning, name, researcher, project, image, wall time, exit status, number of files in the outputs, and how it ended.
fn row(run: Entry<'_>) -> [Cow<'_, str>; 10] {
    let or_none = |text: Option<_>| text.unwrap_or(Cow::Borrowed("-"));
    let number = |number: Option<String>| number.map_or(Cow::Borrowed("-"), Cow::Owned);
    let ended = match run.state {
        State::Begun => Cow::Borrowed("running"),
        State::Refused => Cow::Borrowed("refused"),
        State::Interrupted => Cow::Borrowed("interrupted"),
        State::Finished => run.ended.unwrap_or_default(),
    };
    let time = number(run.seconds.map(units::show_seconds));
    let exit = number(run.exit.map(|exit| exit.to_string()));
    let outputs = number(run.outputs.map(|files| files.to_string()));
    let id = Cow::Owned(run.id.into_string());
    let started = Cow::Owned(to_the_minute(&run.started));
    let (name, project) = (or_none(run.name), or_none(run.project));
    [id, started, name, run.researcher, project, run.image, time, exit, outputs, ended]
}

/// `2026-11-30 06:20` of `2026-11-30T06:20:25.123Z` (UTC).
fn to_the_minute(time: &str) -> String {
    let Some((day, minute)) = time.get(..10).zip(time.get(11..16)) else { return time.to_owned() };
    let mut text = String::with_capacity(16);
    for part in [day, " ", minute] {
        text.push_str(part);
    }
    text
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
fn looked_up<'a>(site: &Site, entry: Entry<'a>) -> Entry<'a> {
    if entry.state != State::Begun {
        return entry;
    }
    as_root(|root| {
        // Asked first: what ends meanwhile writes its record before its journal goes.
        let is_there = site.dirs.running.join(entry.id.as_str()).exists();
        let mut now = index::from_record(root, &site.dirs.log, &entry.id).unwrap_or(entry);
        if now.state == State::Begun && !is_there {
            now.state = State::Interrupted;
        }
        now
    })
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
