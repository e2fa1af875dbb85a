//! `ces run`: the pipeline, read aloud.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use oci_spec::runtime::Spec;
use serde_json::json;

use super::advice;
use super::bounds;
use super::facts;
use super::others;
use super::prepare::{self, Prepared};
use super::print;
use super::talk::{Talk, describe};
use crate::bundle::identity::HostIds;
use crate::bundle::rootfs::{Bind, Plan};
use crate::bundle::spec::{self, HostPaths};
use crate::cli::{Global, RunArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::cgroup::Usage;
use crate::host::idmap::IdMap;
use crate::host::machine::Machine;
use crate::policy::request::{Listen, PortRequest};
use crate::run::ending::Ending;
use crate::run::job_id::JobId;
use crate::run::reown;
use crate::run::supervisor::collect;
use crate::run::supervisor::detach::{Report, detach, log_path};
use crate::run::supervisor::job::{Job, Journal};
use crate::run::supervisor::launch::{Checked, Launch, launch};
use crate::run::supervisor::outputs::Outputs;
use crate::run::supervisor::ports::Ports;
use crate::run::supervisor::record::{Record, State, now};
use crate::run::supervisor::spawn::{self, Idle, Started};
use crate::run::supervisor::supervise::Outcome;
use crate::run::terminal::session;

/// The process in which the container will be made, before it is known that there will be one: it gets ready while the words
/// are read. None if it could not be started; why not is told when it is needed.
pub fn ahead() -> Option<Started> {
    spawn::start(geteuid().is_root()).ok()
}

/// Runs an image, in the process that was started `ahead` if there is one; the exit status is the payload's.
///
/// # Errors
/// When nothing of the payload ran, or its end cannot be told.
pub fn run(global: &Global, args: &RunArgs, ahead: Option<Started>) -> Result<u8> {
    let caller = prepare::caller()?;
    // Its ids are mapped while everything is decided. A supervisor starts its own.
    let ahead = ahead.filter(|_| args.options.detach != Some(true));
    let idle = ahead.map(|started| started.with_ids(&IdMap::on_disk(&caller)?)).transpose()?;
    let mut prepared = prepare::prepare(global, args, caller)?;
    let id = JobId::new()?;
    let talk = Talk { quiet: global.quiet };
    let interactive = prepared.grant.interactive;
    if prepared.request.detach && interactive {
        prepared.grant.interactive = false;
        prepared.warnings.push("-i has no effect with -d: nobody types".to_owned());
    } else if prepared.grant.tty && interactive && !std::io::stdin().is_terminal() {
        prepared
            .warnings
            .push("standard input is not a terminal; what it holds is typed into the payload's".to_owned());
    }
    if !prepared.request.detach {
        let idle = idle.map_or_else(|| start_stage(&prepared.identity.caller), Ok)?;
        return carry_out(idle, prepared, &id, None, &talk);
    }
    drop(idle);
    prepared.warnings.drain(..).for_each(|warning| talk.say(&format!("warning: {warning}")));
    let logs = prepared.dirs.log.clone();
    let log = log_path(&logs, &id);
    let started = detach(&log, |report| {
        let idle = start_stage(&prepared.identity.caller)?;
        carry_out(idle, prepared, &id, Some(report), &talk).map(drop)
    });
    if started.is_err() {
        // Nothing ran; what the supervisor had to say is in the error. It may not have made one.
        std::fs::remove_file(&log).ok();
    }
    started?;
    // The supervisor has said it to its log.
    talk.ports(&Record::load(&logs, &id)?.ports);
    print::line(id.as_str())?;
    Ok(0)
}

/// The process in which the container will be made.
fn start_stage(caller: &Caller) -> Result<Idle> {
    spawn::start(caller.is_privileged())?.with_ids(&IdMap::on_disk(caller)?)
}

/// The run from its first directory to its record; `report` is for who started it, if it is detached.
fn carry_out(mut idle: Idle, mut prepared: Prepared, id: &JobId, report: Option<Report>, talk: &Talk) -> Result<u8> {
    let mut journal = journal(&prepared, id)?;
    let paths = host_paths(&prepared, &journal);
    let (spec, notes) = prepared.spec(id.as_str(), &paths, Path::new(crate::bundle::rootfs::ROOTFS), false)?;
    prepared.warnings.extend(notes);
    prepared.warnings.iter().for_each(|warning| talk.say(&format!("warning: {warning}")));

    let ports = Ports::open(&port_requests(&prepared, id)?, &prepared.identity)?;
    journal.sockets = ports.files().to_vec();
    if Job::changes_hands(&prepared.identity) {
        // That takes the ids; all else that comes first does not wait for them.
        idle.ready()?;
    }
    let job = Job::begin(&prepared.dirs, &prepared.identity, journal)?;
    let mut record = begin_record(&prepared, &job, &spec);
    record.ports = ports.published().to_vec();
    talk.ports(&record.ports);
    let done = execute(&prepared, &job, &spec, &paths, (idle, ports, report), &mut record, talk);
    let finished = finish(&prepared, job, record, done, talk);
    if prepared.grant.tty && prepared.grant.interactive {
        session::forget_input();
    }
    let (status, record) = finished?;
    if let Some(path) = &prepared.request.json_summary {
        write_summary(&prepared, path, &record)?;
    }
    Ok(status)
}

/// From begun record to the end of the payload.
fn execute(
    prepared: &Prepared,
    job: &Job,
    spec: &Spec,
    paths: &HostPaths,
    (idle, ports, detached): (Idle, Ports, Option<Report>),
    record: &mut Record,
    talk: &Talk,
) -> Result<Ended> {
    let limits = &prepared.grant.limits;
    let root = prepared.image.root();
    let plan = Plan {
        root_mode: root.mode,
        root_owner: prepared.identity.for_mounting(root.uid, root.gid)?,
        layers: layers(prepared)?,
        work: job.journal.work.clone(),
        binds: binds(prepared, job.id(), spec, paths),
        root_ids: prepared.identity.root(),
        cover: job.journal.work.clone(),
    };
    let door = prepared.grant.exec.then(|| job.open_door()).transpose()?;
    let door = door.map(|listener| (listener, prepared.dirs.log.clone()));
    let start = Launch {
        id: job.id(),
        identity: &prepared.identity,
        spec,
        engine_spec: spec::engine_spec(spec, prepared.identity.nested.is_some()),
        plan,
        volumes: volumes(prepared),
        limits_required: limits.required,
        time: limits.time,
        interactive: prepared.grant.interactive,
        tty: prepared.grant.tty,
        door,
        detached,
        raw: prepared.request.raw,
        bounds: bounds::watched(prepared, job)?,
        ports,
    };
    let before_start = |checked: &Checked| {
        checked.warnings.iter().for_each(|warning| talk.say(&format!("warning: {warning}")));
        record.warnings.extend(checked.warnings.iter().cloned());
        record.enforced = serde_json::to_value(&checked.enforced).ok();
        // No record, no run; and it says what is in force before anything runs.
        record.save(&prepared.dirs.log)
    };
    let identity = &prepared.identity;
    let (map, privileged) = (&identity.container, identity.caller.is_privileged());
    let at_end = || {
        let open = || job.outputs_directory();
        let (used_up, quotas) = (job.used_up(), &job.journal.quotas);
        let outputs = collect::hand_over(open, &job.outputs(), &identity.researcher(), map, privileged, quotas);
        job.empty_scratch(identity);
        Left { used_up, outputs }
    };
    launch(idle, start, before_start, at_end)
}

/// What came of a run: of its payload, what it used, and what it left.
type Ended = (Outcome, Usage, Left);

/// What a run left behind.
struct Left {
    /// Bounds that file systems kept and that were reached, in words.
    used_up: Vec<String>,
    outputs: Result<Outputs>,
}

/// Whatever happened: scratch away, record closed, in words what came of it.
fn finish(prepared: &Prepared, job: Job, mut record: Record, done: Result<Ended>, talk: &Talk) -> Result<(u8, Record)> {
    record.finished = Some(now());
    let (outcome, usage, left) = match done {
        Ok(done) => done,
        Err(error) => {
            record.state = State::Refused;
            record.ended = Some(error.to_string());
            job.forget_empty_outputs(&prepared.identity);
            let saved = record.save(&prepared.dirs.log);
            job.end(&prepared.identity)?;
            saved?;
            return Err(error);
        }
    };
    let words = describe(&outcome, &usage, &left.used_up, &record, prepared.grant.limits.memory_bytes);
    let status = if words.over_limit { 137 } else { outcome.ending.exit_status() };
    record.state = State::Finished;
    record.exit = Some(status);
    record.ended = Some(words.text.clone());
    record.seconds = Some(outcome.elapsed.as_secs_f64());
    record.peak_memory = usage.peak_memory;
    record.executed = outcome.executed.clone();
    if outcome.log_cut {
        record.warnings.push("the log was full: some of the output was dropped".to_owned());
    }
    match &left.outputs {
        Ok(outputs) => record.outputs = Some(outputs.clone()),
        Err(error) => record.warnings.push(error.to_string()),
    }
    if outcome.relay_lost {
        let lost = "the relay of the published ports was killed before the run ended; they were closed from then on";
        talk.say(&format!("warning: {lost}"));
        record.warnings.push(lost.to_owned());
    }
    let others = others::notes(prepared);
    record.warnings.extend(others.iter().cloned());
    let saved = record.save(&prepared.dirs.log);
    let ended = job.end(&prepared.identity);
    talk.summary(prepared, &record, &words, usage);
    others.iter().for_each(|note| talk.say(&format!("note: {note}")));
    if advice::may_want_service(prepared, &outcome) {
        talk.say(advice::SERVICE);
    }
    left.outputs?;
    saved?;
    ended?;
    if matches!(outcome.ending, Ending::NotExecuted(_)) {
        let error =
            Error::new(Stage::Run, Kind::Missing, words.text).hint("check the command, or the image's ENTRYPOINT");
        talk.always(&error.report());
    }
    Ok((status, record))
}

fn journal(prepared: &Prepared, id: &JobId) -> Result<Journal> {
    let caller = &prepared.identity.caller;
    let mut journal = Journal {
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
        work: prepared.dirs.store.join("work").join(id.as_str()),
        home: caller.home.clone(),
        scratch: format!("scratch_{id}"),
        outputs: format!("outputs_{id}"),
        sockets: Vec::new(),
        quotas: Vec::new(),
    };
    journal.quotas = bounds::kept(prepared, &journal);
    Ok(journal)
}

/// What the root file system is made of, base first.
fn layers(prepared: &Prepared) -> Result<Vec<PathBuf>> {
    let own = reown::layers(&prepared.dirs, &prepared.image, &prepared.identity)?;
    Ok(prepared.image.mount_points().into_iter().chain(own).collect())
}

fn volumes(prepared: &Prepared) -> Vec<PathBuf> {
    let config = prepared.image.config().config().as_ref();
    config.and_then(|config| config.volumes().as_ref()).into_iter().flatten().map(PathBuf::from).collect()
}

/// The granted ports, with every socket's path: beside the outputs where none was given.
fn port_requests(prepared: &Prepared, id: &JobId) -> Result<Vec<PortRequest>> {
    let home = &prepared.identity.caller.home;
    let cwd = std::env::current_dir().map_err(|e| {
        Error::new(Stage::Cli, Kind::Host, "the current directory cannot be found").because(e).hint("change to another")
    })?;
    let with_path = |port: &PortRequest| {
        let listen = match &port.listen {
            Listen::Socket(None) => Listen::Socket(Some(home.join(format!("port_{id}_{}.sock", port.container)))),
            Listen::Socket(Some(path)) => Listen::Socket(Some(facts::locate(&path.to_string_lossy(), &cwd, home))),
            Listen::Loopback(port) => Listen::Loopback(*port),
        };
        PortRequest { listen, container: port.container }
    };
    Ok(prepared.grant.ports.iter().map(with_path).collect())
}

fn host_paths(prepared: &Prepared, journal: &Journal) -> HostPaths {
    HostPaths {
        data: Some(prepared.data.path.clone()),
        outputs: journal.home.join(&journal.outputs),
        scratch: journal.home.join(&journal.scratch),
        hosts: journal.work.join("hosts"),
        hostname: journal.work.join("hostname"),
        resolv_conf: journal.work.join("resolv.conf"),
    }
}

/// What the spec binds, with whose rights each is opened.
fn binds(prepared: &Prepared, job: &JobId, spec: &Spec, paths: &HostPaths) -> Vec<Bind> {
    let identity = &prepared.identity;
    let texts = prepare::etc(prepared.hostname(job.as_str())).map(|(_, text)| text);
    // Their paths are names alone: nothing of them is on a disk.
    let etc: Vec<_> = [&paths.hosts, &paths.hostname, &paths.resolv_conf].into_iter().zip(texts).collect();
    let ces = HostIds { uid: 0, gid: 0, groups: Vec::new() };
    spec.mounts()
        .iter()
        .flatten()
        .filter_map(|mount| {
            let options = mount.options().as_ref()?;
            let has = |name: &str| options.iter().any(|o| o == name);
            (has("bind") || has("rbind")).then_some(())?;
            let source = mount.source().clone()?;
            let text = etc.iter().find(|(path, _)| **path == source).map(|(_, text)| text.clone());
            let (opened_as, follow) = if text.is_some() {
                (ces.clone(), false)
            } else if Some(&source) == paths.data.as_ref() {
                (identity.payload(), true)
            } else {
                // A home may be reached through a link of the site's; the grant's sources are resolved already.
                (identity.researcher(), source == paths.outputs || source == paths.scratch)
            };
            Some(Bind {
                source,
                text,
                destination: mount.destination().clone(),
                read_only: has("ro") || has("rro"),
                no_exec: has("noexec"),
                opened_as,
                follow,
            })
        })
        .collect()
}

fn begin_record(prepared: &Prepared, job: &Job, spec: &Spec) -> Record {
    let caller = &prepared.identity.caller;
    Record {
        version: 1,
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
        command: spec.process().as_ref().and_then(|p| p.args().clone()).unwrap_or_default(),
        data: prepared.data.path.clone(),
        data_access: prepared.grant.data.name().to_owned(),
        policy: prepared.policy.file().to_owned(),
        ports: Vec::new(),
        decisions: json!(prepared.grant.decisions),
        bounds: bounds::in_words(&prepared.grant.limits, &job.journal.quotas),
        warnings: prepared.warnings.clone(),
        enforced: None,
        started: job.journal.started.clone(),
        finished: None,
        exit: None,
        ended: None,
        seconds: None,
        peak_memory: None,
        name: prepared.grant.name.clone(),
        log: prepared.request.detach.then(|| log_path(&prepared.dirs.log, job.id())),
        executed: Vec::new(),
        outputs: None,
        outputs_path: job.outputs(),
    }
}

/// `--json-summary`: the record, written with the researcher's rights.
fn write_summary(prepared: &Prepared, path: &Path, record: &Record) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot write {}", path.display())).because(e)
    };
    let text = serde_json::to_vec_pretty(record).map_err(|e| fail(&e))?;
    let identity = &prepared.identity;
    crate::bundle::identity::acting_as(&identity.researcher(), identity.caller.is_privileged(), || {
        std::fs::write(path, text).map_err(|e| fail(&e))
    })
}
