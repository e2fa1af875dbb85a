//! `ces precheck`: what a program can see of outputs before a person looks.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Uid;
use serde::Deserialize;
use serde_json::json;

use super::{Site, events, listed, print, records};
use crate::cli::Global;
use crate::cli::precheck::PrecheckArgs;
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::{Event, hash, hex};
use crate::evidence::replace::replace;
use crate::host::ids::HostIds;
use crate::host::privilege::{acting_as, as_root};
use crate::host::sudoer::lookup;
use crate::policy;
use crate::precheck::look::Looked;
use crate::precheck::manifest::Manifest;
use crate::precheck::parent::{self, Walked, Whose};
use crate::precheck::report::{Report, Summary};
use crate::precheck::rules::{self, Level, Rules};
use crate::run::directory::open_directory;
use crate::run::supervisor::outputs::Outputs;
use crate::run::supervisor::record::{Record, now};
use crate::text;

/// The exit status where a person has to look.
const REVIEW: u8 = 10;
/// The exit status where a person has to decide.
const BLOCK: u8 = 11;
/// Who has no rights but those of everybody.
const NOBODY: u32 = 65_534;

/// Looks at the outputs of a run, or at a directory; the exit status is the worst that was found.
///
/// # Errors
/// When there is no such run or directory, or the process that looks cannot shut itself in.
pub fn precheck(global: &Global, args: &PrecheckArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let report = match directory(&args.what) {
        Some(path) => of_directory(&site, &path)?,
        None => {
            let record = records::read(&site, &args.what)?;
            let mut report = of_run(&site, &record)?;
            report.asked = Some(format!("{} (uid {})", site.caller.name, site.caller.uid));
            keep(&site, &record, &report)?;
            report
        }
    };
    if args.json {
        print::json(&report)?;
    } else {
        show(&report, global.quiet)?;
    }
    Ok(match report.summary.worst() {
        Some(Level::Block) => BLOCK,
        Some(Level::Review) => REVIEW,
        // What was not looked at is nothing that was found to be well.
        _ if report.more > 0 => REVIEW,
        Some(Level::Note) | None => 0,
    })
}

/// What is meant as a directory: what has a slash in it, or is one of the two names that need none.
fn directory(words: &str) -> Option<PathBuf> {
    (words.contains('/') || words == "." || words == "..").then(|| PathBuf::from(words))
}

/// The name of the last pre-check of a run, beside its record.
pub(super) fn kept_precheck(run: &str) -> String {
    format!("{run}.precheck.json")
}

/// Keeps a report beside the record, in the place of the one before, and tells the audit log its SHA-256.
fn keep(site: &Site, record: &Record, report: &Report) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| {
        Error::new(Stage::Record, Kind::Failed, format!("cannot keep the pre-check of run {}", record.id))
            .because(e)
            .hint("make room on the file system of the log; ces precheck DIR keeps nothing")
    };
    let mut text = serde_json::to_vec_pretty(report).map_err(|e| fail(&e))?;
    text.push(b'\n');
    as_root(|_| {
        let runs = site.dirs.log.below(OsStr::new("runs"))?.ok_or_else(|| fail(&"there are no records"))?;
        replace(&runs, &kept_precheck(record.id.as_str()), &text).map_err(|e| fail(&e))
    })?;
    let about = json!({"sha256": hex(&hash(&text)), "summary": report.summary, "rules": report.rules.sha256});
    let whose = (record.project.clone(), Some(record.id.as_str()));
    events::tell_of(&site.dirs.log, &site.caller, Event::Precheck, whose, about)
}

/// What the last pre-check of a run said, in a line; none: there was none, or it cannot be read.
pub(super) fn kept(site: &Site, run: &str) -> Option<String> {
    let file = as_root(|_| {
        let runs = site.dirs.log.below(OsStr::new("runs")).ok().flatten()?;
        runs.document(OsStr::new(&kept_precheck(run))).ok().flatten()
    })?;
    let kept: Kept = serde_json::from_reader(BufReader::new(file.take(LARGEST))).ok()?;
    let asked = kept.asked.map(|who| format!(", asked for by {}", text::neutral_line(&who))).unwrap_or_default();
    let Summary { block, review, note, nothing, .. } = kept.summary;
    Some(format!(
        "{block} block, {review} review, {note} note, {nothing} nothing found, by {} at {}{asked}",
        kept.by, kept.at
    ))
}

/// What is read of a report that was kept.
#[derive(Debug, Deserialize)]
struct Kept {
    at: String,
    by: String,
    #[serde(default)]
    asked: Option<String>,
    summary: Summary,
}

/// No report is longer.
const LARGEST: u64 = 64 << 20;

/// What the run left, with the rights of whose it is: what else is there by now is only counted.
///
/// # Errors
/// When it cannot be opened or looked at, or the run has no list of outputs.
pub(super) fn of_run(site: &Site, record: &Record) -> Result<Report> {
    let mut left = Manifest::default();
    let told = listed::each(site, record, &mut |line| {
        left.add(&line);
        Ok(())
    })
    .map_err(|e| e.hint("ces precheck DIR looks at a directory as it is now"))?;
    let opened = outputs_of(site, record)?;
    let owner = owner(site, record)?;
    let (mut report, rules) = begun(site, Some(record.id.to_string()), &record.outputs_path)?;
    report.list = Some(told.sha256.clone());
    let walked = match opened {
        Some(opened) => look(site, opened, (owner.uid, owner.gid), &rules, &mut |looked| {
            if let Some(looked) = left.judged(looked, &rules) {
                report.add(looked);
            }
        })?,
        None => Walked::default(),
    };
    let others = left.end(&rules, &mut |looked| report.add(looked));
    report.end(walked);
    if others > 0 {
        let (entries, are) = if others == 1 { ("entry", "is") } else { ("entries", "are") };
        report.not_looked_at.push(format!("{others} {entries} that {are} not of this run"));
    }
    if let Some(cut) = &told.cut {
        report.not_looked_at.push(format!("what is not in the list of outputs, which is not whole: {cut}"));
        report.more = report.more.saturating_add(others.max(1));
    }
    Ok(report)
}

/// The directory with a run's outputs, if it is still one of whose they are; none of a run that left nothing, for which none is kept.
///
/// # Errors
/// When it is not there, or another's, or a link.
pub(super) fn outputs_of(site: &Site, record: &Record) -> Result<Option<OwnedFd>> {
    let path = &record.outputs_path;
    let owner = owner(site, record)?;
    let gone = || acting_as(&owner, || Ok(path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound)));
    if record.outputs.as_ref().is_some_and(Outputs::is_empty) && gone()? {
        return Ok(None);
    }
    let opened = acting_as(&owner, || {
        open_directory(path, true).map_err(|e| {
            Error::new(Stage::Outputs, Kind::Missing, format!("cannot open {}", path.display()))
                .because(e)
                .hint("the outputs of a run are looked at where the run left them; a link is not followed")
        })
    })?;
    let found = nix::sys::stat::fstat(&opened).map_err(|e| unexamined(path, &e.desc()))?;
    if found.st_uid == record.uid {
        return Ok(Some(opened));
    }
    Err(Error::new(Stage::Outputs, Kind::Failed, format!("{} is not what the run left", path.display()))
        .because(format!("it belongs to uid {}, and the outputs of the run to uid {}", found.st_uid, record.uid))
        .hint("put the outputs back where the run left them"))
}

fn unexamined(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::new(Stage::Outputs, Kind::Failed, format!("cannot examine {}", path.display())).because(why)
}

/// Whose outputs they are, with the rights to look at them.
///
/// # Errors
/// When the passwd database cannot be asked.
pub(super) fn owner(site: &Site, record: &Record) -> Result<HostIds> {
    let own = site.caller.ids();
    if record.uid == own.uid {
        return Ok(own);
    }
    let gid = lookup(Uid::from_raw(record.uid))?.map_or(NOBODY, |user| user.gid.as_raw());
    Ok(HostIds { uid: record.uid, gid, groups: Vec::new() })
}

fn of_directory(site: &Site, path: &Path) -> Result<Report> {
    let file = File::from(opened(path)?);
    let found = file.metadata().map_err(|e| unexamined(path, &e))?;
    let (mut report, rules) = begun(site, None, path)?;
    let walked = look(site, file.into(), (found.uid(), found.gid()), &rules, &mut |looked| report.add(looked))?;
    report.end(walked);
    Ok(report)
}

fn opened(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|e| {
        Error::new(Stage::Outputs, Kind::Missing, format!("cannot open {}", path.display()))
            .because(e.desc())
            .hint("ces precheck RUN looks at the outputs of a run, ces precheck DIR at a directory that you can read")
    })
}

/// An empty report by the rules in force, and they.
fn begun(site: &Site, run: Option<String>, path: &Path) -> Result<(Report, Rules)> {
    let stated = stated(&site.policy);
    let rules = Rules::of(&stated)?;
    Ok((Report::new(run, path.display().to_string(), &rules, stated, now()), rules))
}

/// Looks at a directory as who asks, or for root as whose it is.
fn look(
    site: &Site,
    directory: OwnedFd,
    owner: (u32, u32),
    rules: &Rules,
    each: &mut dyn FnMut(Looked),
) -> Result<Walked> {
    let ((uid, gid), reads) = match (site.caller.uid.as_raw(), owner) {
        // What reads hostile files is never root of the host: it reads what is root's, and is nobody.
        (0, owner @ (0, _)) => ((NOBODY, NOBODY), Some(owner)),
        (0, owner) => (owner, None),
        (own, _) => ((own, site.caller.gid.as_raw()), None),
    };
    let gid = if gid == 0 { NOBODY } else { gid };
    let whose = Whose { uid, gid, reads, privileged: site.caller.is_privileged() };
    parent::look(&directory, whose, rules, &mut |looked| {
        each(looked);
        Ok(())
    })
}

/// What the policy sets of the rules.
fn stated(policy: &policy::Policy) -> rules::Site {
    let set = policy.precheck();
    let value = |rule: &Option<policy::reader::Rule<u64>>| rule.as_ref().map(|rule| rule.value);
    rules::Site {
        size: value(&set.size),
        rows: value(&set.rows),
        threshold: value(&set.threshold),
        zero: set.zero.as_ref().map(|rule| rule.value),
        row_level: value(&set.row_level),
        types: set.types.as_ref().map(|rule| rule.value.clone()),
    }
}

fn show(report: &Report, quiet: bool) -> Result<()> {
    let mut rows = Vec::new();
    for file in report.worst_first() {
        let mut first = Some((file.verdict.to_owned(), file.looked.name.shown()));
        for finding in &file.looked.findings {
            let (verdict, name) = first.take().unwrap_or_default();
            let rule = serde_json::to_value(finding.rule).ok().and_then(|rule| rule.as_str().map(str::to_owned));
            rows.push([verdict, name, rule.unwrap_or_default(), finding.because.clone()]);
        }
        if let Some((verdict, name)) = first {
            rows.push([verdict, name, String::new(), String::new()]);
        }
    }
    if !rows.is_empty() {
        print::table(&rows)?;
    }
    if report.more > 0 {
        print::line(&format!("and {} more entries; --json has the numbers", report.more))?;
    }
    let summary = report.summary;
    print::line(&format!(
        "{} files: {} block, {} review, {} note, {} nothing found",
        summary.files, summary.block, summary.review, summary.note, summary.nothing
    ))?;
    if quiet {
        return Ok(());
    }
    print::line("not looked at:")?;
    report.not_looked_at.iter().try_for_each(|what| print::line(&format!("  {what}")))?;
    print::line(&format!("rules {}, sha256 {}", report.rules.version, report.rules.sha256))
}
