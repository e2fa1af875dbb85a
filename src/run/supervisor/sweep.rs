//! What a crash left: found by the next command of the same installation, and cleaned up.
//!
//! Takes the journals of jobs; gives nothing; trusts the lock (held: alive); refuses to touch a job that is alive, or
//! another machine's.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::Result;
use crate::evidence::line::{Entry, Event};
use crate::evidence::log as audit;
use crate::host::caller::Caller;
use crate::host::cgroup;
use crate::host::dirs::Dirs;
use crate::host::idmap::IdMap;
use crate::host::privilege::{Root, as_root};
use crate::host::sys;
use crate::run::job_id::JobId;
use crate::run::protocol::STAGE;
use crate::run::removal::Tally;
use crate::run::supervisor::collect::{self, Whose};
use crate::run::supervisor::deletion::Deletion;
use crate::run::supervisor::job;
use crate::run::supervisor::journal::{self, Journal, Life, Made};
use crate::run::supervisor::outputs::Outputs;
use crate::run::supervisor::outputs::reading::Reading;
use crate::run::supervisor::record::beside::{self, Document};
use crate::run::supervisor::record::pending::{self, Wait};
use crate::run::supervisor::record::{self, Record, State, now};

/// Cleans up after the jobs whose ces is gone: after the caller's own all that is left, after others' what costs little; gives
/// what could not be cleaned up, in words.
///
/// # Errors
/// When the journals cannot be read.
pub fn sweep(dirs: &Dirs, caller: &Caller) -> Result<Vec<String>> {
    let (jobs, odd) = as_root(|root| {
        journal::forget_half_made(root, dirs)?;
        settled(root, dirs)
    })?;
    // Whose that is nobody knows, so it is told to who may know of everything.
    let mut problems = if caller.sees_everyone() { odd } else { Vec::new() };
    let mut reading = Reading::Swept(Instant::now() + HASHING);
    for (journal, life) in jobs {
        let Life::Dead(lock) = life else { continue };
        // The lock is kept until the journal is gone, so that two sweeps do not meet.
        let own = caller.sees_everyone() || journal.uid == caller.uid.as_raw();
        let cleaned = match own {
            true => clean(dirs, caller, &journal, &mut reading)
                .and_then(|()| as_root(|root| journal::forget(root, dirs, &journal.id, lock))),
            // What it left of files is for a command of its own researcher: nobody waits for another's.
            false => stop(dirs, caller, &journal),
        };
        match cleaned {
            Err(error) if own => problems.push(format!("run {}: {error}", journal.id)),
            _ => {}
        }
    }
    Ok(problems)
}

/// The journals, once no lock is held for a ces that is dead: what it forked a moment before it was killed holds a copy of
/// its lock until it dies too. Another sweep at work holds locks as well; it is waited for just so.
fn settled(root: &Root, dirs: &Dirs) -> Result<journal::Listed> {
    for _ in 0..SETTLE_LOOKS {
        let (jobs, odd) = journal::list_all(root, dirs)?;
        let dying = |(journal, life): &(Journal, Life)| matches!(life, Life::Alive) && is_gone(journal.pid);
        if !jobs.iter().any(dying) {
            return Ok((jobs, odd));
        }
        // The locks just taken are given back first: they would be in this process's own way.
        drop(jobs);
        std::thread::sleep(SETTLE_PAUSE);
    }
    journal::list_all(root, dirs)
}

/// How often, and how long in between, to look for the end of what a killed ces forked: two seconds in all.
const SETTLE_LOOKS: u32 = 200;
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

fn is_gone(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

/// Ends what still runs of a job.
fn stop(dirs: &Dirs, caller: &Caller, journal: &Journal) -> Result<()> {
    let places = journal.places(dirs, caller)?;
    as_root(|root| {
        end_survivors(&places.outputs);
        // It kills what is still running in it.
        match cgroup::remove_stale(root, journal.id.as_str()) {
            // A user without control groups has none to remove.
            Err(_) if !caller.is_privileged() => Ok(()),
            removed => removed,
        }
    })
}

/// How long all outputs of dead runs together are hashed: who waits wanted something else.
const HASHING: Duration = Duration::from_secs(3);

fn clean(dirs: &Dirs, caller: &Caller, journal: &Journal, reading: &mut Reading<'_>) -> Result<()> {
    stop(dirs, caller, journal)?;
    let places = journal.places(dirs, caller)?;
    let researcher = job::researcher(journal, caller);
    let made = as_root(|root| Made::load(root, dirs, &journal.id))?;
    let map = IdMap::on_disk(caller)?;
    // On the host all ids are as they are, whoever calls.
    let ids = job::ids_of(&map, true, researcher.uid);
    let reopen = |path: &Path, made| job::reopen(path, made, &researcher, &ids);
    let told = as_root(|root| Told::of(root, dirs, &journal.id))?;
    let collected = told.waiting.as_ref().is_some_and(|record| record.outputs.is_some());
    let found = if collected { Ok(None) } else { reopen(&places.outputs(), made.outputs) };
    let outputs = found.and_then(|dir| {
        let Some(dir) = dir else { return Ok(None) };
        // Without a list there are still counts.
        let list = as_root(|root| record::make_list(root, &dirs.log, &journal.id)).ok();
        let whose = Whose { researcher: researcher.clone(), map: map.clone(), privileged: caller.is_privileged() };
        collect::hand_over(&dir, &places.outputs(), &whose, &journal.quotas, list, reading).map(Some)
    });
    let scratch = reopen(&places.scratch(), made.scratch)?;
    let (emptied, mut deletion) = (Tally::default(), Deletion::of(&journal.id));
    let from = job::From { journal, places: &places, emptied: &emptied };
    job::discard(&from, scratch.as_ref(), caller, &map, &mut deletion)?;
    as_root(|root| told.close(root, dirs, caller, outputs, deletion))
}

/// What is known of a run whose ces is gone.
struct Told {
    /// Its record is closed, or there is none.
    closed: bool,
    /// How it ended, where that waits to be written.
    waiting: Option<Record>,
    /// Its record, as it began.
    begun: Option<Record>,
}

impl Told {
    fn of(root: &Root, dirs: &Dirs, id: &JobId) -> Result<Self> {
        let begun = Record::load(root, &dirs.log, id).ok();
        let closed = begun.as_ref().is_some_and(|record| record.state != State::Begun);
        // What could not be written may be there without its line in the audit log.
        let waiting = match pending::load(root, dirs, id, Wait::ForRoom)? {
            None if !closed => pending::load(root, dirs, id, Wait::ForDeletion)?,
            waiting => waiting,
        };
        Ok(Self { closed: closed && waiting.is_none(), waiting, begun })
    }

    fn close(
        self,
        root: &Root,
        dirs: &Dirs,
        caller: &Caller,
        outputs: Result<Option<Outputs>>,
        deletion: Deletion,
    ) -> Result<()> {
        let Some(begun) = self.waiting.as_ref().or(self.begun.as_ref()) else { return Ok(()) };
        if self.closed {
            return tell_deletion(root, dirs, caller, begun, deletion);
        }
        let mut record = begun.clone();
        if self.waiting.is_none() {
            record.state = State::Interrupted;
            record.finished = Some(now());
            if record.data_access == "rw" && record.changes.is_none() {
                record.warnings.push("what it changed in its data is not known: nobody looked at its end".to_owned());
            }
            record.ended = Some("ces was killed, or the host went down; the time is that of the clean-up".to_owned());
        }
        match outputs {
            Ok(outputs) if record.outputs.is_none() => record.outputs = outputs,
            Ok(_) => {}
            Err(error) => record.warnings.push(error.to_string()),
        }
        if record.deletion.is_none() || deletion.entries() > 0 {
            // Where nothing was left to remove, what the killed one had counted is what counts.
            let counted =
                beside::unnamed(root, &dirs.log, &record.id, Document::Deletion).filter(|_| deletion.entries() == 0);
            record.keep(root, &dirs.log, Document::Deletion, counted.unwrap_or_else(|| deletion.document()));
        }
        record.save(root, &dirs.log)
    }
}

/// What was still there when the record was closed is in the audit log alone.
fn tell_deletion(root: &Root, dirs: &Dirs, caller: &Caller, record: &Record, deletion: Deletion) -> Result<()> {
    if deletion.entries() == 0 {
        return Ok(());
    }
    let entry = Entry {
        event: Event::Deletion,
        mode: caller.mode,
        uid: record.uid,
        name: record.researcher.clone(),
        project: record.project.clone(),
        rule: None,
        run: Some(record.id.to_string()),
        about: deletion.document(),
    };
    audit::append(root, &dirs.log, &entry).map(drop)
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
        let is_stage = read("cmdline") == STAGE.to_bytes_with_nul();
        if is_stage && String::from_utf8_lossy(&read("mountinfo")).contains(&format!("/{outputs} ")) {
            // ESRCH: it has just ended.
            sys::pidfd_kill(held.as_fd(), Signal::SIGKILL as i32).ok();
        }
    }
}
