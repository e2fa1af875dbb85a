//! A run's journal and record: begun before anything runs, finished whatever happened.
//!
//! Takes a prepared run and what came of it; gives the documents; trusts the stages for their facts; refuses nothing.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::json;

use super::advice;
use super::bounds;
use super::others;
use super::prepare::Prepared;
use super::run_report::{Report, describe};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::redact::{self, Redacted};
use crate::host::cgroup::Usage;
use crate::host::machine::Machine;
use crate::host::named_file;
use crate::host::privilege::as_root;
use crate::policy::grant::Bind;
use crate::policy::request::RunRequest;
use crate::run::ending::Ending;
use crate::run::job_id::JobId;
use crate::run::supervisor::changes::Changes;
use crate::run::supervisor::deletion::Deletion;
use crate::run::supervisor::detach::log_path;
use crate::run::supervisor::job::Job;
use crate::run::supervisor::journal::Journal;
use crate::run::supervisor::outputs::Outputs;
use crate::run::supervisor::places::Places;
use crate::run::supervisor::record::beside::{self, Document, WholeCommand};
use crate::run::supervisor::record::pending::{self, Wait};
use crate::run::supervisor::record::{Asked, Record, State, now};
use crate::run::supervisor::supervise::Outcome;
use crate::run::terminal::streams;

/// What came of a run: of its payload, what it used, and what it left.
pub(super) type Ended = (Outcome, Usage, Leftovers);

/// What a run left behind.
pub(super) struct Leftovers {
    /// Bounds that file systems kept and that were reached, in words.
    pub used_up: Vec<String>,
    /// What is in the outputs.
    pub outputs: Result<Outputs>,
    /// Why there is no list of them.
    pub no_list: Option<Error>,
    /// What was changed in the data, where it may be.
    pub changes: Option<Changes>,
}

/// What a sweep needs to know of the run.
///
/// # Errors
/// When this machine cannot be told from others.
pub(super) fn journal(prepared: &Prepared, id: &JobId, places: &Places) -> Result<Journal> {
    let caller = &prepared.identity.caller;
    Ok(Journal {
        id: id.clone(),
        machine: Some(Machine::this()?),
        pid: std::process::id(),
        name: prepared.grant.name.clone(),
        project: prepared.data.project.clone(),
        detached: prepared.request.detach,
        image: prepared.image.reference().to_owned(),
        researcher: caller.name.clone(),
        uid: caller.uid.as_raw(),
        gid: caller.gid.as_raw(),
        started: now(),
        home: caller.home.clone(),
        sockets: Vec::new(),
        quotas: bounds::kept(prepared, places),
    })
}

/// The record as it begins.
pub(super) fn begin_record(prepared: &Prepared, job: &Job, spec: &Spec) -> Record {
    let caller = &prepared.identity.caller;
    let records = prepared.policy.records();
    let command = spec.process().as_ref().and_then(|p| p.args().clone()).unwrap_or_default();
    let kept = Redacted::of(&command);
    let environment = redact::variables(&prepared.grant.env, &records.values.value);
    let whole_command = records.whole_commands.value.then(|| WholeCommand {
        entrypoint: prepared.request.entrypoint.clone(),
        args: prepared.request.args.clone(),
        command: command.clone(),
    });
    Record {
        version: 2,
        id: job.id().clone(),
        state: State::Begun,
        mode: caller.mode,
        ces: env!("CARGO_PKG_VERSION").to_owned(),
        host: nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default(),
        researcher: caller.name.clone(),
        uid: caller.uid.as_raw(),
        project: prepared.data.project.clone(),
        image: prepared.image.reference().to_owned(),
        digest: prepared.image.manifest_digest().to_string(),
        withheld: kept.withheld(&command),
        environment_more: u64::try_from(prepared.grant.env.len().saturating_sub(environment.len())).unwrap_or(u64::MAX),
        environment,
        asked: Asked::of(&asked(prepared), kept.withheld(&command) > 0),
        command: kept,
        data: prepared.data.path.clone(),
        data_access: prepared.grant.data.name().to_owned(),
        policy: prepared.policy.file().to_owned(),
        ports: Vec::new(),
        decisions: json!(prepared.grant.decisions),
        bounds: bounds::in_words(&prepared.grant.limits, &job.journal.quotas),
        warnings: prepared.warnings.clone(),
        enforced: None,
        deletion: None,
        documents: BTreeMap::new(),
        damaged: Vec::new(),
        whole_command,
        started: job.journal.started.clone(),
        finished: None,
        exit: None,
        ended: None,
        seconds: None,
        peak_memory: None,
        name: prepared.grant.name.clone(),
        log: prepared.request.detach.then(|| log_path(&prepared.dirs.log, job.id())),
        executed: Vec::new(),
        changes: None,
        outputs: None,
        outputs_path: job.outputs(),
    }
}

/// What was asked for, with the paths that it led to: a later command is called elsewhere.
fn asked(prepared: &Prepared) -> RunRequest {
    let mut request = prepared.request.clone();
    for asked in &mut request.binds {
        let same = |bind: &&Bind| Path::new(&bind.destination) == Path::new(&asked.destination);
        if let Some(granted) = prepared.grant.binds.iter().find(same) {
            asked.source = granted.source.display().to_string();
        }
    }
    request.project = prepared.data.project.clone();
    request
}

/// Whatever happened: scratch away, record closed, in words what came of it.
///
/// # Errors
/// What went wrong before the payload, and what could not be kept of it.
pub(super) fn finish(
    prepared: &Prepared,
    job: Job,
    mut record: Record,
    done: Result<Ended>,
    report: &Report,
) -> Result<(u8, Record)> {
    record.finished = Some(now());
    let (outcome, usage, leftovers) = match done {
        Ok(done) => done,
        Err(error) => {
            record.state = State::Refused;
            record.ended = Some(error.to_string());
            job.forget_empty_outputs();
            close(prepared, job, &mut record)?;
            return Err(error);
        }
    };
    let ended_as = describe(&outcome, &usage, &leftovers.used_up, &record, prepared.grant.limits.memory_bytes);
    let status = if ended_as.over_limit { 137 } else { outcome.ending.exit_status() };
    record.state = State::Finished;
    record.exit = Some(status);
    record.ended = Some(ended_as.text.clone());
    record.seconds = Some(outcome.elapsed.as_secs_f64());
    record.peak_memory = usage.peak_memory;
    record.executed = outcome.executed.clone();
    record.warnings.extend(outcome.failed.iter().map(|why| format!("ces lost the container and ended it: {why}")));
    if outcome.log_cut {
        record.warnings.push("the log was full: some of the output was dropped".to_owned());
    }
    record.warnings.extend(outcome.lost.iter().map(|lost| format!("not passed on whole: {lost}")));
    match &leftovers.outputs {
        Ok(outputs) => record.outputs = Some(outputs.clone()),
        Err(error) => record.warnings.push(error.to_string()),
    }
    record.warnings.extend(leftovers.no_list.iter().map(|error| format!("the outputs are not listed: {error}")));
    record.warnings.extend(leftovers.changes.iter().flat_map(Changes::warnings));
    record.changes = leftovers.changes.clone();
    if outcome.relay_lost {
        let lost = "the relay of the published ports was killed before the run ended; they were closed from then on";
        report.say(&format!("warning: {lost}"));
        record.warnings.push(lost.to_owned());
    }
    if leftovers.outputs.as_ref().is_ok_and(Outputs::is_empty) {
        job.forget_empty_outputs();
    }
    let outside = job.outside();
    record.warnings.extend(outside.warning());
    let others = others::notes(prepared);
    record.warnings.extend(others.iter().cloned());
    let closed = close(prepared, job, &mut record);
    report.summary(prepared, &record, &ended_as, usage);
    outside.note().iter().for_each(|note| report.say(note));
    others.iter().for_each(|note| report.say(&format!("note: {note}")));
    if advice::may_want_service(prepared, &outcome) {
        report.say(advice::SERVICE);
    }
    leftovers.outputs?;
    closed?;
    if let Some(why) = &outcome.failed {
        let error = Error::new(Stage::Run, Kind::Failed, "ces lost the container and ended it");
        report.always(&error.because(why).hint("what it had written is kept, and the record says so").report());
    }
    if let Some(error) = streams::not_whole(&outcome.lost) {
        report.always(&error.report());
    }
    if matches!(outcome.ending, Ending::NotExecuted(_)) {
        let error =
            Error::new(Stage::Run, Kind::Missing, ended_as.text).hint("check the command, or the image's ENTRYPOINT");
        report.always(&error.report());
    }
    // The payload's own success is none if nobody got what it said.
    let whole = outcome.lost.is_empty() && outcome.failed.is_none();
    Ok((if whole { status } else { status.max(1) }, record))
}

/// Takes away what the run left, closes the record, and takes away the job. The end of the record waits in the journal meanwhile,
/// where there is something to take away. A record that cannot be written stays there, and so does the journal: the next command
/// of the researcher's finishes it.
///
/// # Errors
/// When one of the three cannot be done.
fn close(prepared: &Prepared, job: Job, record: &mut Record) -> Result<()> {
    let log = &prepared.dirs.log;
    if !record.executed.is_empty() {
        let executed = json!(record.executed);
        as_root(|root| record.keep(root, log, Document::Executed, executed));
    }
    let wait = |record: &Record, wait| as_root(|root| pending::keep(root, job.directory_of_its_own(), record, wait));
    // Empty directories are gone before the end would have been kept. Where it cannot be written, a run whose ces is killed now is
    // closed as interrupted.
    if job.leaves_something() {
        wait(record, Wait::ForDeletion).ok();
    }
    let mut deletion = Deletion::of(job.id());
    let discarded = job.discard(&prepared.identity, &mut deletion);
    as_root(|root| record.keep(root, log, Document::Deletion, deletion.document()));
    match as_root(|root| record.save(root, log)) {
        Ok(()) => discarded.and_then(|()| job.forget()),
        // It was never begun: nothing says that it runs.
        Err(error) if !as_root(|root| Record::exists(root, log, &record.id)) => {
            as_root(|root| beside::forget(root, &log.join("runs"), &record.id));
            discarded.and_then(|()| job.forget())?;
            Err(error)
        }
        Err(error) => {
            // As above.
            wait(record, Wait::ForRoom).ok();
            discarded?;
            Err(error)
        }
    }
}

/// `--json-summary`: the record, written with the researcher's rights.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_summary(path: &Path, record: &Record) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot write {}", path.display())).because(e)
    };
    let text = serde_json::to_vec_pretty(record).map_err(|e| fail(&e))?;
    named_file::to_write(path).and_then(|mut file| file.write_all(&text)).map_err(|e| fail(&e))
}
