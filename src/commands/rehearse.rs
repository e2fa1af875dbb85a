//! `ces rehearse`: a run whose payload is watched, and what it will not get inside.
//!
//! In this order: a local archive is pulled → everything is decided as for a run, on synthetic data → the run → the report.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use super::prepare::{self, Prepared};
use super::run::{Used, new_stage, run_recorded, settle_interaction};
use super::run_report::Report as Said;
use super::{Context, facts, pull, ticket};
use crate::bundle::safe_data::SafeData;
use crate::cli::{Global, RehearseArgs, RunArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::host::named_file;
use crate::host::place::Place;
use crate::host::privilege::as_root;
use crate::image::reference::Source;
use crate::policy::grant::Rehearsed;
use crate::policy::{Access, Policy};
use crate::rehearsal::advice::Advice;
use crate::rehearsal::difference::between;
use crate::rehearsal::report::{self, Conditions, Peaks, Report};
use crate::rehearsal::ticket::{Ticket, ago, rules};
use crate::rehearsal::{findings, options, show};
use crate::run::forked_task::ForkedTask;
use crate::run::job_id::JobId;
use crate::run::observations::{LostFiles, Observations, Size};
use crate::run::protocol::Rehearsal;
use crate::run::supervisor::record::Record;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Nothing can be said of the image.
const COULD_NOT: u8 = 125;
/// No report of the witness is longer: some thousand paths.
const LARGEST: u64 = 16 << 20;

/// Rehearses an image; the exit status is the verdict.
///
/// # Errors
/// A call that makes no sense, and a refusal of the policy. Everything else is said here: its status would look like a verdict.
pub fn rehearse(global: &Global, args: &RehearseArgs) -> Result<u8> {
    match attempt(global, args) {
        Err(error) if !matches!(error.kind(), Kind::Usage | Kind::Policy | Kind::Interrupted(_)) => {
            Said { quiet: false }.always(&error.report());
            Ok(COULD_NOT)
        }
        other => other,
    }
}

fn attempt(global: &Global, args: &RehearseArgs) -> Result<u8> {
    let mut global = global.clone();
    let caller = prepare::caller()?;
    if caller.by_sudo && args.rules.is_some() {
        return Err(Error::new(Stage::Policy, Kind::Policy, "--rules is not accepted through sudo")
            .because("under sudo the rules are the site's alone")
            .hint("leave it out; or rehearse without sudo, where rules bind nobody but you"));
    }
    global.policy = args.rules.clone().or(global.policy);
    if args.options.detach == Some(true) {
        return Err(Error::new(Stage::Cli, Kind::Usage, "a rehearsal cannot be detached")
            .because("a rehearsal ends with its report")
            .hint("leave -d out; a shell can run it in the background"));
    }
    let mut run = RunArgs { options: args.options.clone(), words: args.words.clone() };
    if let Some(local) = pull_local(&global, run.image())?
        && let Some(image) = run.words.first_mut()
    {
        *image = local;
    }
    let data = args.data.as_deref();
    let find = |caller: &Caller, policy: &Policy, _: Option<&str>| synthetic(data, caller, policy);
    let mut prepared = prepare::prepare_on(&global, &run, caller, (Some(Rehearsed::Now), find))?;
    settle_interaction(&mut prepared);
    let (id, said) = (JobId::new()?, Said { quiet: global.quiet });
    let conditions = conditions(&prepared, args.light)?;
    let (image, digest) = (prepared.image.reference().to_owned(), prepared.image.manifest_digest().to_string());
    let file = File::from(memfd_create(c"ces-rehearsal", MFdFlags::MFD_CLOEXEC).map_err(|e| fail(&e))?);
    let report = file.try_clone().map_err(|e| fail(&e))?;
    let idle = new_stage(&prepared.identity.caller)?;
    let asked = (Rehearsal { paths: !args.light }, report.into());
    let (dirs, uid) = (prepared.dirs.clone(), prepared.identity.caller.uid.as_raw());
    let done = run_recorded(idle, prepared, &id, (None, Some(asked)), &said)?;
    let seen = read(file).map_err(|error| match &done.1.ended {
        Some(ended) => error.because(format!("it ended otherwise than by itself: {ended}")),
        None => error,
    })?;
    let mut report = judge(seen, done, conditions, (image, digest), args)?;
    // As it was asked for: a record withholds arguments.
    report.command = args.options.entrypoint.iter().cloned().chain(args.words.iter().skip(1).cloned()).collect();
    let kept = keep(&dirs, uid, &mut report);
    said.always(&format!("\n{}", show::plain(&report)));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| fail(&e))?;
        write(path, &(crate::text::json(&text) + "\n"))?;
    }
    if let Some(path) = &args.markdown {
        write(path, &show::markdown(&report))?;
    }
    if let Some(path) = &args.options_file {
        write(path, &options::text(&report))?;
    }
    kept?;
    Ok(u8::from(!report.ready))
}

/// Pulls what is no reference but a file or directory of this host; gives the name it has in the store.
fn pull_local(global: &Global, word: &str) -> Result<Option<String>> {
    let local = ["oci:", "oci-archive:", "docker-archive:"].iter().any(|kind| word.starts_with(kind));
    if !local {
        return Ok(None);
    }
    let source: Source = word.parse()?;
    // By the file's name: what is in it is not known before it is pulled.
    let name = source.default_reference(None)?.to_string();
    // In a process of its own: what unpacks has threads, and what runs a container forks.
    let pulling = ForkedTask::new(|word| {
        let (source, name) = (word.to_owned(), Some(name.clone()));
        let asked = pull::PullArgs { source, name, quiet: global.quiet, ..pull::PullArgs::default() };
        pull::fetch(&Context::new(global)?, &asked).map(drop)
    })?;
    pulling.run(word)?;
    Ok(Some(name))
}

/// The directory that takes the place of the project's data, which is never mounted in a rehearsal: its payload is not yet approved.
/// Opened once; what is judged here is bound, or nothing is. Through sudo the site's rules for `-v` hold for it.
fn synthetic(named: Option<&Path>, caller: &Caller, policy: &Policy) -> Result<SafeData> {
    let Some(named) = named else { return Ok(SafeData::nothing()) };
    let place = Place::open(named).ok().filter(Place::is_directory).ok_or_else(|| {
        Error::new(Stage::Cli, Kind::Usage, format!("{} is no directory", named.display()))
            .hint("name a directory of synthetic data with --data")
    })?;
    let option = format!("--data {}", named.display());
    let not_for_it = |e: Error| e.hint("rehearse on synthetic data, laid out as the project's");
    policy.may_be_bound(place.path(), &option).map_err(not_for_it)?;
    prepare::refuse_projects(policy, &place, &option).map_err(not_for_it)?;
    let home = facts::resolve(&caller.home).unwrap_or_else(|| caller.home.clone());
    let access = if caller.by_sudo { policy.opens(place.path(), &home, &option)?.0 } else { Access::Rw };
    // To real root's payload no directory of root's is given away; through sudo, none that is another's. A researcher may move what
    // the file system lets them move, also out of a project and back: what they do not own, they could not have made writable.
    let others = caller.by_sudo && place.found().st_uid != caller.uid.as_raw();
    let read_only = access == Access::Ro || caller.uid.is_root() || others;
    Ok(SafeData { project: None, path: place.path().to_owned(), group: None, place: Some(place), read_only })
}

/// Under which conditions it will be: the report holds for these.
fn conditions(prepared: &Prepared, light: bool) -> Result<Conditions> {
    let identity = &prepared.identity;
    let mut not_as_inside = Vec::new();
    if !identity.caller.is_privileged() && identity.nested.is_some() {
        let why = if identity.container.is_single() {
            "you have no subordinate ids: files of the image are yours here, which inside belong to others (see ces doctor)"
        } else {
            "you are an ordinary user: files of the image's root are yours here, which inside are not; rehearse through sudo or as root"
        };
        not_as_inside.push(why.to_owned());
    }
    let limits = &prepared.grant.limits;
    Ok(Conditions {
        ces: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        filter: facts::filter_hash()?,
        policy: prepared.policy.file().to_owned(),
        rules: rules(&prepared.policy),
        profile: prepared.grant.profile.name.clone(),
        memory: limits.memory_bytes,
        cpus: limits.cpus,
        pids: limits.pids,
        time: limits.time.map(|time| time.as_secs()),
        light,
        not_as_inside,
    })
}

/// What the witness wrote, then what the stage process wrote.
fn read(mut file: File) -> Result<(Observations, LostFiles)> {
    let wrong = |e: &dyn std::fmt::Display| {
        Error::new(Stage::Run, Kind::Failed, "the rehearsal has no report")
            .because(e)
            .hint("rehearse again; with more memory (--memory), if that was used up")
    };
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.take(LARGEST).read_to_end(&mut text)).map_err(|e| wrong(&e))?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let seen = serde_json::from_slice(next()).map_err(|e| wrong(&e))?;
    let lost = serde_json::from_slice(next()).map_err(|e| wrong(&e))?;
    Ok((seen, lost))
}

/// From all that is known to the report, but for what has changed.
fn judge(
    (seen, lost): (Observations, LostFiles),
    (status, record, (usage, running)): (u8, Record, Used),
    conditions: Conditions,
    (image, digest): (String, String),
    args: &RehearseArgs,
) -> Result<Report> {
    let mut found = findings::from(&Advice::load()?, &seen, &lost, status != 0);
    found.extend(running.as_ref().map(findings::of_running));
    let mut not_seen = Vec::new();
    if seen.forgotten > 0 {
        not_seen.push(format!("{} things more than are held", seen.forgotten));
    }
    if lost.uncounted {
        not_seen.push(
            "all of the files that are gone with the container: there are too many, or some are closed".to_owned(),
        );
    }
    if args.light {
        not_seen.push("files that are not there, or closed to reading (--light)".to_owned());
    }
    let outputs = record.outputs.as_ref().map(|outputs| Size { files: outputs.files.count(), bytes: outputs.bytes });
    Ok(Report {
        version: 1,
        rehearsal: record.id.to_string(),
        image,
        digest,
        command: record.command.into(),
        conditions,
        exit: status,
        ended: record.ended.unwrap_or_default(),
        seconds: record.seconds.unwrap_or_default(),
        peak_memory: record.peak_memory,
        peaks: Peaks {
            cpu_seconds: usage.cpu.map(|used| Duration::from_micros(used).as_secs_f64()),
            pids: usage.peak_pids,
            outputs,
            scratch: lost.scratch,
            over_the_image: lost.over_the_image,
        },
        ready: report::ready(status, &found, args.strict),
        counts: report::count(&found),
        findings: found,
        closed: seen.missed.into_iter().filter(|seen| !findings::is_absent(&seen.what)).collect(),
        not_seen,
        since_last: None,
    })
}

/// Tells what has changed since the last rehearsal, and keeps this one in its place, for runs to refer to.
fn keep(dirs: &Dirs, uid: u32, report: &mut Report) -> Result<()> {
    let now = facts::now();
    as_root(|root| {
        if let Some(last) = ticket::last_of(root, &dirs.log, uid, &report.image, &report.command) {
            let ago = ago(now.saturating_sub(last.ticket.when));
            report.since_last = Some(between(&last.findings, &report.findings, ago, last.ticket.digest));
        }
        ticket::keep(root, &dirs.log, uid, &Ticket::of(report, now), report)
    })
}

/// Writes a document, with the caller's rights.
fn write(path: &Path, text: &str) -> Result<()> {
    named_file::to_write(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot write {}", path.display()))
            .because(e)
            .hint("name a file in a directory that you can write to")
    })
}

fn fail(e: &dyn std::fmt::Display) -> Error {
    Error::new(Stage::Run, Kind::Failed, "cannot prepare the rehearsal").because(e)
}
