//! `ces ps`, `ces stop`: runs that are alive.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::print;
use crate::cli::{Global, ListArgs, StopArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::run::job::{self, Journal};
use crate::run::supervise::GRACE;
use crate::run::sweep;

/// Lists the caller's running jobs; real root sees everyone's.
///
/// # Errors
/// When the running jobs cannot be read.
pub fn ps(global: &Global, args: &ListArgs) -> Result<u8> {
    let running = running(global)?;
    if args.json {
        let list: Vec<_> = running.iter().map(|j| json!({"id": j.id, "name": j.name, "image": j.image, "researcher": j.researcher, "pid": j.pid, "started": j.started})).collect();
        print::json(&list)?;
        return Ok(0);
    }
    let mut rows = vec![["ID", "NAME", "IMAGE", "RESEARCHER", "STARTED"].map(str::to_owned)];
    rows.extend(running.iter().map(|j| {
        [
            j.id.to_string(),
            j.name.clone().unwrap_or_else(|| "-".to_owned()),
            j.image.clone(),
            j.researcher.clone(),
            j.started.clone(),
        ]
    }));
    print::table(&rows)?;
    Ok(0)
}

/// Ends a run: SIGTERM, the grace period, SIGKILL.
///
/// # Errors
/// When there is no such run, or it does not end.
pub fn stop(global: &Global, args: &StopArgs) -> Result<u8> {
    let found = running(global)?.into_iter().find(|j| j.id.as_str() == args.id || j.name.as_deref() == Some(&args.id));
    let journal = found.ok_or_else(|| {
        Error::new(Stage::Run, Kind::Missing, format!("no run {} is running", args.id))
            .hint("ces ps lists the running ones")
    })?;
    let pid = i32::try_from(journal.pid)
        .map(Pid::from_raw)
        .map_err(|_| Error::new(Stage::Run, Kind::Failed, "the journal holds no process id"))?;
    let fail = |e: nix::Error| {
        Error::new(Stage::Run, Kind::Failed, format!("cannot stop run {}", journal.id)).because(e.desc())
    };
    kill(pid, Signal::SIGTERM).map_err(fail)?;
    let mut stopped = gone(global, &journal, GRACE)?;
    if !stopped {
        // The container dies with its supervisor; what that leaves is swept up.
        kill(pid, Signal::SIGKILL).map_err(fail)?;
        stopped = gone(global, &journal, GRACE)?;
    }
    let caller = Caller::find()?;
    sweep::sweep(&Dirs::new(&caller, global.root.as_deref()), &caller)?;
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

fn gone(global: &Global, journal: &Journal, within: Duration) -> Result<bool> {
    let until = Instant::now() + within;
    while Instant::now() < until {
        if !running(global)?.iter().any(|other| other.id == journal.id) {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

fn running(global: &Global) -> Result<Vec<Journal>> {
    let caller = Caller::find()?;
    let all = job::list(&Dirs::new(&caller, global.root.as_deref()))?;
    let everyone = caller.is_privileged() && !caller.by_sudo;
    Ok(all
        .into_iter()
        .filter(|(journal, lock)| lock.is_none() && (everyone || journal.uid == caller.uid.as_raw()))
        .map(|(journal, _)| journal)
        .collect())
}
