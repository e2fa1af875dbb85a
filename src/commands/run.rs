//! `ces run`: the pipeline, read aloud.

use std::cell::RefCell;
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;

use super::bounds;
use super::prepare::{self, Prepared};
use super::print;
use super::run_plan;
use super::run_record::{self, Ended, Leftovers};
use super::run_report::Report;
use crate::bundle::accounts::Accounts;
use crate::bundle::process;
use crate::bundle::rootfs::ROOTFS;
use crate::bundle::spec::{self, HostPaths};
use crate::cli::{Global, RunArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::cgroup::Usage;
use crate::host::idmap::IdMap;
use crate::host::privilege::{self, Power, as_root};
use crate::policy::grant::Rehearsed;
use crate::policy::{Access, Rehearsing};
use crate::run::job_id::JobId;
use crate::run::observations::Running;
use crate::run::pipes;
use crate::run::protocol::Rehearsal;
use crate::run::supervisor::changes::Account;
use crate::run::supervisor::collect::{self, Whose};
use crate::run::supervisor::detach::{self, detach, log_path};
use crate::run::supervisor::exec_server;
use crate::run::supervisor::job::Job;
use crate::run::supervisor::launch::{Checked, Launch, launch};
use crate::run::supervisor::outputs::reading::Reading;
use crate::run::supervisor::places::Places;
use crate::run::supervisor::ports::Ports;
use crate::run::supervisor::record::{self, Record};
use crate::run::supervisor::spawn::{self, Idle, Started};
use crate::run::terminal::session;

/// The process in which the container will be made, before it is known that there will be one: it gets ready while the
/// arguments are read. None if it could not be started; why not is told when it is needed.
pub fn start_stage() -> Option<Started> {
    as_root(|root| spawn::start(root, !matches!(privilege::power(), Power::User))).ok()
}

/// Runs an image, in the process that was started if there is one; the exit status is the payload's.
///
/// # Errors
/// When nothing of the payload ran, or its end cannot be told.
pub fn run(global: &Global, args: &RunArgs, started: Option<Started>) -> Result<u8> {
    let caller = prepare::caller()?;
    // Its ids are mapped while everything is decided. A supervisor starts its own.
    let started = started.filter(|_| args.options.detach != Some(true));
    let idle = started.map(|started| started.with_ids(&IdMap::on_disk(&caller)?)).transpose()?;
    let mut prepared = prepare::prepare(global, args, caller)?;
    prepare::check_platform(&prepared.image)?;
    let (id, report) = (JobId::new()?, Report { quiet: global.quiet });
    settle_interaction(&mut prepared);
    match (&prepared.rehearsed, prepared.policy.images().rehearsed.value) {
        (Rehearsed::Never, Rehearsing::Advice) => {
            report.say("note: the image has not been rehearsed here; ces rehearse IMAGE tells what it would lack");
        }
        (Rehearsed::Never, _) => {}
        (rehearsed, _) => report.say(&format!("ces: {rehearsed}")),
    }
    if prepared.grant.interactive {
        pipes::check_input(std::io::stdin().as_fd())?;
    }
    if prepared.request.detach {
        drop(idle);
        return run_detached(prepared, &id, &report);
    }
    let idle = idle.map_or_else(|| new_stage(&prepared.identity.caller), Ok)?;
    run_recorded(idle, prepared, &id, (None, None), &report).map(|(status, ..)| status)
}

/// What `-i` means without anybody who types.
pub(super) fn settle_interaction(prepared: &mut Prepared) {
    if prepared.request.detach && prepared.grant.interactive {
        prepared.grant.interactive = false;
        prepared.warnings.push("-i has no effect with -d: nobody types".to_owned());
    } else if prepared.grant.tty && prepared.grant.interactive && !std::io::stdin().is_terminal() {
        prepared
            .warnings
            .push("standard input is not a terminal; what it holds is typed into the payload's".to_owned());
    }
}

/// The same under a supervisor of its own; prints the run's id as soon as the payload runs.
fn run_detached(mut prepared: Prepared, id: &JobId, report: &Report) -> Result<u8> {
    prepared.warnings.drain(..).for_each(|warning| report.say(&format!("warning: {warning}")));
    let logs = prepared.dirs.log.clone();
    let log = log_path(&logs, id);
    let started = detach(&log, |to_caller| {
        let idle = new_stage(&prepared.identity.caller)?;
        run_recorded(idle, prepared, id, (Some(to_caller), None), report).map(drop)
    });
    if started.is_err() {
        // Nothing ran; what the supervisor had to say is in the error. It may not have made one.
        as_root(|_| std::fs::remove_file(&log)).ok();
    }
    started?;
    // The supervisor has said it to its log.
    report.ports(&as_root(|root| Record::load(root, &logs, id))?.ports);
    print::line(id.as_str())?;
    Ok(0)
}

/// The process in which the container will be made.
pub(super) fn new_stage(caller: &Caller) -> Result<Idle> {
    as_root(|root| spawn::start(root, caller.is_privileged()))?.with_ids(&IdMap::on_disk(caller)?)
}

/// What is asked of a rehearsal, and the file in memory that gets what is seen.
pub(super) type ToBeSeen = (Rehearsal, OwnedFd);

/// What a run used, and what still ran at its end.
pub(super) type Used = (Usage, Option<Running>);

/// The run from its first directory to its record; `detached` is for who started it, if it is detached.
pub(super) fn run_recorded(
    mut idle: Idle,
    mut prepared: Prepared,
    id: &JobId,
    (detached, rehearsal): (Option<detach::Report>, Option<ToBeSeen>),
    report: &Report,
) -> Result<(u8, Record, Used)> {
    let places = Places::new(&prepared.dirs, id, &prepared.identity.caller.home);
    let mut journal = run_record::journal(&prepared, id, &places)?;
    let paths = run_plan::host_paths(&prepared, &places);
    let (spec, notes) = prepared.spec(id.as_str(), &paths, Path::new(ROOTFS), false)?;
    prepared.warnings.extend(notes);
    prepared.warnings.iter().for_each(|warning| report.say(&format!("warning: {warning}")));

    let ports = Ports::open(&run_plan::port_requests(&prepared, id)?, &prepared.identity)?;
    journal.sockets = ports.files().to_vec();
    if Job::changes_hands(&prepared.identity) {
        // That takes the ids; all else that comes first does not wait for them.
        idle.ready()?;
    }
    let job = Job::begin(&prepared.dirs, &prepared.identity, journal, places)?;
    let mut record = run_record::begin_record(&prepared, &job, &spec);
    record.ports = ports.published().to_vec();
    if rehearsal.is_none() && detached.is_none() {
        report.beginning(&prepared, id, &job.outputs());
    }
    report.ports(&record.ports);
    let done = execute(&prepared, &job, &spec, &paths, (idle, ports, detached, rehearsal), &mut record, report);
    let used = done.as_ref().map(|(outcome, usage, _)| (*usage, outcome.running.clone())).unwrap_or_default();
    let finished = run_record::finish(&prepared, job, record, done, report);
    if prepared.grant.tty && prepared.grant.interactive {
        session::forget_input();
    }
    let (status, record) = finished?;
    if let Some(path) = &prepared.request.json_summary {
        run_record::write_summary(path, &record)?;
    }
    Ok((status, record, used))
}

/// From begun record to the end of the payload.
fn execute(
    prepared: &Prepared,
    job: &Job,
    spec: &Spec,
    paths: &HostPaths,
    (idle, ports, detached, rehearsal): (Idle, Ports, Option<detach::Report>, Option<ToBeSeen>),
    record: &mut Record,
    report: &Report,
) -> Result<Ended> {
    let limits = &prepared.grant.limits;
    let listen = || as_root(|root| exec_server::listen_in(root, job.directory_of_its_own()));
    let exec = prepared.grant.exec.then(listen).transpose()?;
    let start = Launch {
        id: job.id(),
        identity: &prepared.identity,
        spec,
        engine_spec: spec::engine_spec(spec, prepared.identity.nested.is_some()),
        plan: run_plan::plan(prepared, job, spec, paths)?,
        accounts: Accounts::of(&prepared.user, spec),
        volumes: run_plan::volumes(prepared),
        limits_required: limits.required,
        time: limits.time,
        stop_signal: process::stop_signal(prepared.image.config()).0,
        interactive: prepared.grant.interactive,
        tty: prepared.grant.tty,
        exec: exec.map(|listener| (listener, prepared.dirs.log.clone())),
        detached,
        raw: prepared.request.raw,
        bounds: bounds::watched(prepared, job)?,
        ports,
        rehearsal,
    };
    let logs = &prepared.dirs.log;
    let written = as_root(|root| record.tell_begin(root, logs))?;
    let meanwhile = || written.wait().map(drop);
    // What cannot be kept of the data is no reason not to work on it, but one to say so.
    let unnamed = || {
        as_root(|_| job.places.unnamed_file()).map_err(|e| {
            Error::new(Stage::Run, Kind::Failed, "cannot keep what is in the data")
                .because(e.desc())
                .hint("is the file system of the store full?")
        })
    };
    let account = account(prepared, job, &unnamed).unwrap_or_else(|error| {
        record.warnings.push(format!("what the run changes in its data is not listed: {error}"));
        None
    });
    let account = RefCell::new(account);
    let mut before_start = |checked: &Checked, reading: &mut Reading<'_>| {
        checked.warnings.iter().for_each(|warning| report.say(&format!("warning: {warning}")));
        record.warnings.extend(checked.warnings.iter().cloned());
        record.enforced = serde_json::to_value(&checked.enforced).ok();
        if let Some(account) = account.borrow_mut().as_mut() {
            account.look(reading)?;
        }
        // No record, no run; and it says what is in force before anything runs.
        as_root(|root| record.begin(root, logs))
    };
    let at_end = |reading: &mut Reading<'_>| {
        let used_up = job.used_up();
        let whose = Whose {
            researcher: prepared.identity.researcher(),
            map: prepared.identity.container.clone(),
            privileged: prepared.identity.caller.is_privileged(),
        };
        let list = as_root(|root| record::make_list(root, &prepared.dirs.log, job.id()));
        let (list, no_list) = list.map_or_else(|error| (None, Some(error)), |list| (Some(list), None));
        let outputs = job
            .outputs_directory()
            .and_then(|dir| collect::hand_over(&dir, &job.outputs(), &whose, &job.journal.quotas, list, reading));
        let changes = account.take().map(|account| {
            let list = as_root(|root| record::make_changes(root, &prepared.dirs.log, job.id()));
            account.end(reading, list.ok())
        });
        job.empty_scratch();
        Leftovers { used_up, outputs, no_list, changes }
    };
    launch(idle, start, (meanwhile, &mut before_start, at_end))
}

/// What the run changes in its data, where it may and the policy has it listed.
fn account<'a>(prepared: &Prepared, job: &Job, unnamed: &'a dyn Fn() -> Result<File>) -> Result<Option<Account<'a>>> {
    let listed = prepared.grant.data == Access::Rw && prepared.policy.records().changes.value;
    let Some(place) = prepared.data.place.as_ref().filter(|_| listed) else { return Ok(None) };
    Account::new(place, job.id().as_str(), unnamed).map(Some)
}
