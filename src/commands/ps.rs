//! `ces ps`, `ces stop`: runs that are alive.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::records::LAST;
use super::{Site, print};
use crate::cli::{Format, Global, StopArgs, TableArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::privilege::as_root;
use crate::host::sys;
use crate::run::supervisor::journal::{self, Journal, Life};
use crate::run::supervisor::record::{Record, State};
use crate::run::supervisor::supervise::GRACE;

/// Lists the caller's running jobs, once what the killed ones left is cleaned up; real root sees everyone's.
///
/// # Errors
/// When the running jobs cannot be read.
pub fn ps(global: &Global, args: &TableArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let tell = |(journal, life): (Journal, Life)| {
        let state = match life {
            Life::Elsewhere(machine) => format!("on {}", machine.host),
            _ => state(&site, &journal).to_owned(),
        };
        (journal, state)
    };
    let jobs: Vec<(Journal, String)> = visible(&site)?.into_iter().map(tell).collect();
    if global.quiet && args.form() == Format::Table {
        return jobs.iter().try_for_each(|(journal, _)| print::line(journal.id.as_str())).map(|()| 0);
    }
    let document = || {
        let all = jobs.iter().map(|(j, state)| {
            json!({"id": j.id, "name": j.name, "image": j.image, "project": j.project, "researcher": j.researcher,
                "pid": j.pid, "started": j.started, "state": state, "detached": j.detached})
        });
        Ok(Value::Array(all.collect()))
    };
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut rows = vec![["ID", "NAME", "IMAGE", "PROJECT", "RESEARCHER", "STARTED", "STATE"].map(str::to_owned)];
    rows.extend(jobs.iter().map(|(j, state)| {
        let state = if j.detached { format!("{state}, detached") } else { state.clone() };
        let who = j.researcher.clone();
        [j.id.to_string(), or_none(&j.name), j.image.clone(), or_none(&j.project), who, j.started.clone(), state]
    }));
    print::list(args.form(), &rows, document)?;
    Ok(0)
}

/// How far a job has come that is alive.
fn state(site: &Site, journal: &Journal) -> &'static str {
    match as_root(|root| Record::load(root, &site.dirs.log, &journal.id)) {
        Ok(record) if record.state != State::Begun => "ending",
        // Written when everything is in force, a moment before the payload starts.
        Ok(record) if record.enforced.is_some() => "running",
        _ => "starting",
    }
}

/// Ends a run: SIGTERM to its supervisor, which passes on the image's stop signal; the time of grace; SIGKILL.
///
/// # Errors
/// When there is no such run, or it does not end.
pub fn stop(global: &Global, args: &StopArgs) -> Result<u8> {
    let site = Site::of(global, Caller::find()?)?;
    let journal = find(&site, &args.id)?;
    let supervisor = supervisor(&site, &journal)?;
    signal(&supervisor, &journal, Signal::SIGTERM)?;
    let mut stopped = gone(&site, &journal, Duration::from_secs(args.time))?;
    if !stopped {
        // The container dies with its stage process, and its supervisor closes the run as ever.
        for stage in stages(&journal) {
            // ESRCH: it has just ended.
            as_root(|_| kill(stage, Signal::SIGKILL)).ok();
        }
        stopped = gone(&site, &journal, GRACE)?;
    }
    if !stopped {
        // What that leaves is swept up.
        signal(&supervisor, &journal, Signal::SIGKILL)?;
        stopped = gone(&site, &journal, GRACE)?;
    }
    site.sweep()?;
    if !stopped {
        return Err(Error::new(Stage::Run, Kind::Failed, format!("run {} does not end", journal.id)));
    }
    if args.json {
        print::json(&json!({"id": journal.id, "stopped": true}))?
    } else {
        print::line(journal.id.as_str())?
    }
    Ok(0)
}

/// The caller's running job with that id or name.
///
/// # Errors
/// When there is none.
pub fn find(site: &Site, id: &str) -> Result<Journal> {
    let (mut here, mut elsewhere) = (None, None);
    let mut whose = BTreeSet::new();
    for (journal, life) in visible(site)? {
        let by_name = journal.name.as_deref() == Some(id);
        let asked_for = journal.id.as_str() == id || by_name || id == LAST;
        if by_name && !matches!(life, Life::Elsewhere(_)) {
            whose.insert(journal.researcher.clone());
        }
        match life {
            _ if !asked_for => {}
            Life::Elsewhere(machine) => elsewhere = Some(machine.host),
            // Of several, `last` is the one that began last: ids begin with the time.
            _ if here.as_ref().is_some_and(|other: &Journal| other.id > journal.id) => {}
            _ => here = Some(journal),
        }
    }
    // Root sees everyone's: of two people's jobs none is stopped by a guess.
    if whose.len() > 1 {
        let whose = whose.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Error::new(
            Stage::Run,
            Kind::Usage,
            format!("{id} is a running job of several researchers: {whose}"),
        )
        .hint("name the id; ces ps lists them"));
    }
    here.ok_or_else(|| {
        let error = Error::new(Stage::Run, Kind::Missing, format!("no run {id} is running here"));
        match elsewhere {
            Some(host) => error.because(format!("it was started on {host}")).hint(format!("log in to {host}")),
            None => error.hint("ces ps lists the running ones"),
        }
    })
}

/// The supervising ces, and no other process that may get its number.
fn supervisor(site: &Site, journal: &Journal) -> Result<OwnedFd> {
    let gone =
        || Error::new(Stage::Run, Kind::Missing, format!("run {} has just ended", journal.id)).hint("see ces runs");
    let pid = i32::try_from(journal.pid).map_err(|_| gone())?;
    let handle = sys::pidfd_open(Pid::from_raw(pid)).map_err(|_| gone())?;
    // Its lock is held still, so the handle is its own.
    if running(site)?.iter().any(|other| other.id == journal.id) { Ok(handle) } else { Err(gone()) }
}

fn signal(supervisor: &OwnedFd, journal: &Journal, signal: Signal) -> Result<()> {
    match as_root(|_| sys::pidfd_kill(supervisor.as_fd(), signal as i32)) {
        Err(e) if e.raw_os_error() != Some(nix::libc::ESRCH) => {
            Err(Error::new(Stage::Run, Kind::Failed, format!("cannot stop run {}", journal.id)).because(e))
        }
        _ => Ok(()),
    }
}

fn stages(journal: &Journal) -> Vec<Pid> {
    let list = format!("/proc/{0}/task/{0}/children", journal.pid);
    // Gone with its supervisor: nothing is left to kill.
    let children = fs::read_to_string(list).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

fn gone(site: &Site, journal: &Journal, within: Duration) -> Result<bool> {
    let until = Instant::now() + within;
    loop {
        if !running(site)?.iter().any(|other| other.id == journal.id) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The caller's jobs that run on this machine; everyone's for real root.
///
/// # Errors
/// When the running jobs cannot be read.
pub fn running(site: &Site) -> Result<Vec<Journal>> {
    let here = |(journal, life)| matches!(life, Life::Alive).then_some(journal);
    Ok(visible(site)?.into_iter().filter_map(here).collect())
}

/// The caller's jobs (everyone's for real root) that are not known to be dead.
fn visible(site: &Site) -> Result<Vec<(Journal, Life)>> {
    let mut jobs = as_root(|root| journal::list(root, &site.dirs))?;
    let caller = &site.caller;
    jobs.retain(|(journal, life)| {
        !matches!(life, Life::Dead(_)) && (caller.sees_everyone() || journal.uid == caller.uid.as_raw())
    });
    Ok(jobs)
}
