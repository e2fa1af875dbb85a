//! What a crash left: found by the next command of the same installation, and cleaned up.
//!
//! Takes the journals of jobs; gives nothing; trusts the lock (held: alive); refuses to touch a job that is alive, or
//! another machine's.

use std::fs;
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bundle::identity::{HostIds, acting_as};
use crate::error::Result;
use crate::host::caller::Caller;
use crate::host::cgroup;
use crate::host::dirs::Dirs;
use crate::host::idmap::IdMap;
use crate::host::sys;
use crate::run::supervisor::collect;
use crate::run::supervisor::job;
use crate::run::supervisor::journal::{self, Journal, Life};
use crate::run::supervisor::outputs;
use crate::run::supervisor::record::{Record, State, now};

/// Cleans up after every job whose ces is gone; gives what could not be cleaned up, in words.
///
/// # Errors
/// When the journals cannot be read.
pub fn sweep(dirs: &Dirs, caller: &Caller) -> Result<Vec<String>> {
    journal::forget_half_made(dirs)?;
    let mut left = Vec::new();
    for (journal, life) in settled(dirs)? {
        // The lock is kept until the journal is gone, so that two sweeps do not meet.
        if let Life::Dead(lock) = life
            && let Err(error) = clean(dirs, caller, &journal).and_then(|()| journal::forget(dirs, &journal.id, lock))
        {
            left.push(format!("run {}: {error}", journal.id));
        }
    }
    Ok(left)
}

/// The journals, once no lock is held for a ces that is dead: what it forked a moment before it was killed holds a copy of
/// its lock until it dies too. Another sweep at work holds locks as well; it is waited for just so.
fn settled(dirs: &Dirs) -> Result<Vec<(Journal, Life)>> {
    for _ in 0..SETTLE_LOOKS {
        let jobs = journal::list(dirs)?;
        let dying = |(journal, life): &(Journal, Life)| matches!(life, Life::Alive) && is_gone(journal.pid);
        if !jobs.iter().any(dying) {
            return Ok(jobs);
        }
        // The locks just taken are given back first: they would be in this process's own way.
        drop(jobs);
        std::thread::sleep(SETTLE_PAUSE);
    }
    journal::list(dirs)
}

/// How often, and how long in between, to look for the end of what a killed ces forked: two seconds in all.
const SETTLE_LOOKS: u32 = 200;
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

fn is_gone(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

fn clean(dirs: &Dirs, caller: &Caller, journal: &Journal) -> Result<()> {
    let privileged = caller.is_privileged();
    end_survivors(&journal.outputs);
    // First: it kills what is still running in it.
    match cgroup::remove_stale(journal.id.as_str()) {
        // A user without control groups has none to remove.
        Err(_) if !privileged => {}
        removed => removed?,
    }
    let map = IdMap::on_disk(caller)?;
    let outputs = hand_over(journal, &map, privileged);
    job::discard(journal, &map, privileged)?;
    if let Ok(mut record) = Record::load(&dirs.log, &journal.id)
        && record.state == State::Begun
    {
        record.state = State::Interrupted;
        record.finished = Some(now());
        record.ended = Some("ces was killed, or the host went down; the time is that of the clean-up".to_owned());
        match outputs {
            Ok(outputs) => record.outputs = outputs,
            Err(error) => record.warnings.push(error.to_string()),
        }
        record.save(&dirs.log)?;
    }
    Ok(())
}

/// Ends what was left of a container that the engine was making when both its ces and its stage process were killed, within
/// microseconds of each other: it waits for a start that nobody will give, and where there is no control group nothing else
/// ends it. It is known by the name of its program and by the run's outputs among its mounts.
fn end_survivors(outputs: &str) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw);
        // Held before it is looked at, so that it is this process and no later one of the same number that is ended.
        let Some(held) = pid.and_then(|pid| sys::pidfd_open(pid).ok()) else { continue };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let is_stage = read("cmdline") == b"ces\0__stage\0";
        if is_stage && String::from_utf8_lossy(&read("mountinfo")).contains(&format!("/{outputs} ")) {
            // ESRCH: it has just ended.
            sys::pidfd_kill(held.as_fd(), Signal::SIGKILL as i32).ok();
        }
    }
}

/// Gives what an interrupted run left in its outputs to the researcher.
fn hand_over(journal: &Journal, map: &IdMap, privileged: bool) -> Result<Option<outputs::Outputs>> {
    let owner = HostIds { uid: journal.uid, gid: journal.gid, groups: Vec::new() };
    let path = journal.home.join(&journal.outputs);
    // With the researcher's rights: a home may shut root out.
    if acting_as(&owner, privileged, || Ok(path.symlink_metadata().is_err()))? {
        return Ok(None);
    }
    collect::hand_over(|| job::reopen_outputs(journal, privileged), &path, &owner, map, privileged, &journal.quotas)
        .map(Some)
}
