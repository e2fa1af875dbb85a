//! From a bundle to an outcome: the stage process is started, checked, supervised.
//!
//! Takes a `Launch`; gives what came of it; trusts the kernel's answers alone; refuses the start when a protection or
//! a required limit is missing. On every way out nothing of the container is left running.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use oci_spec::runtime::{Capability, LinuxResources, Mount, Spec};

use crate::bundle::accounts::Accounts;
use crate::bundle::identity::Identity;
use crate::bundle::rootfs::Plan;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::cgroup::{self, Cgroup, Observed, PREFIX, Usage};
use crate::host::log_dir::LogDir;
use crate::host::privilege::{Root, as_root};
use crate::host::sys;
use crate::run::job_id::JobId;
use crate::run::pipes;
use crate::run::process;
use crate::run::protocol::{FromStage, Rehearsal, StageRequest, ToStage};
use crate::run::supervisor::detach::{LARGEST_LOG, Report};
use crate::run::supervisor::enforced::{self, Device, Enforced, Expected, Host, Rlimit};
use crate::run::supervisor::exec_server::{Base, ExecServer};
use crate::run::supervisor::outputs::reading::{AtEnd, Reading};
use crate::run::supervisor::ports::Ports;
use crate::run::supervisor::spawn::{Idle, StageProcess};
use crate::run::supervisor::supervise::{self, Outcome, Supervised};
use crate::run::supervisor::watch::{Bound, Watch};
use crate::run::terminal::relay::Relay;
use crate::run::terminal::signals::Signals;
use crate::run::terminal::streams::{self, Inside};

/// Everything a run needs.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The job.
    pub id: &'a JobId,
    /// Who is who.
    pub identity: &'a Identity,
    /// The complete spec, as in `config.json`.
    pub spec: &'a Spec,
    /// The spec for the engine.
    pub engine_spec: Spec,
    /// What to mount.
    pub plan: Plan,
    /// Entries of users and groups that the image lacks.
    pub accounts: Accounts,
    /// Volumes of the image, to be made where it lacks them.
    pub volumes: Vec<PathBuf>,
    /// Refuse where limits cannot be set.
    pub limits_required: bool,
    /// How long it may run.
    pub time: Option<Duration>,
    /// The signal that asks the payload to end.
    pub stop_signal: i32,
    /// Standard input reaches the payload (`-i`).
    pub interactive: bool,
    /// The payload has a terminal of its own (`-t`).
    pub tty: bool,
    /// Where `ces exec` asks, where the policy allows it, and the directory of the audit log.
    pub exec: Option<(OwnedFd, LogDir)>,
    /// The output goes into a log, and who is told of the start (`-d`).
    pub detached: Option<Report>,
    /// A terminal gets the output as it is (`--raw`).
    pub raw: bool,
    /// Bounds on scratch and outputs.
    pub bounds: Vec<Bound>,
    /// Published ports; this process's own copies of their listeners are closed once the stage process has them.
    pub ports: Ports,
    /// It is a rehearsal, and this file in memory gets what is seen.
    pub rehearsal: Option<(Rehearsal, OwnedFd)>,
}

/// What the stage process is told when the cgroup is what failed.
const NO_CGROUP: &str = "the stage process has no control group";

/// What is known once the container is created and before its payload starts.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What the kernel said.
    pub enforced: Enforced,
    /// What could not be had, where the policy allows to run without.
    pub warnings: Vec<String>,
}

/// What is done when everything is in force, in the run's control group where that takes long.
pub type BeforeStart<'a> = &'a mut dyn FnMut(&Checked, &mut Reading<'_>) -> Result<()>;

/// Runs the container to its end, in the process `idle`; `meanwhile` is called while the container is made, by a process that
/// would only wait, and must succeed before anything starts; `before_start` is called when everything is in force and nothing of the payload has
/// run, and may still refuse; `at_end` when nothing of the container runs any more, while the kernel takes its namespaces
/// apart.
///
/// # Errors
/// When nothing of the payload ran, or the engine failed under it.
pub fn launch<T>(
    idle: Idle,
    mut launch: Launch<'_>,
    hooks: (impl FnOnce() -> Result<()>, BeforeStart<'_>, impl FnOnce(&mut Reading<'_>) -> T),
) -> Result<(Outcome, Usage, T)> {
    let mut signals = Signals::hold()?;
    let identity = launch.identity;
    let bounds = std::mem::take(&mut launch.bounds);
    let privileged = identity.caller.is_privileged();
    let watch = Watch::new(bounds, identity.container.clone(), identity.researcher(), privileged);
    let killed_before = cgroup::kills_around();
    let (pipes, ends) = connect(&launch)?;
    // What a killed stage process leaves becomes this process's own, to end.
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| Error::new(Stage::Run, Kind::Host, "cannot take over orphans").because(e.desc()))?;
    // Not one of the limits that a policy may do without: it would be the deadline that somebody else may stop.
    as_root(Cgroup::leave_groups_of_others)?;
    let prepared = as_root(|root| prepare(root, &launch))?;
    let request = StageRequest {
        placed: matches!(prepared, Some((_, Ok(_)))),
        job: launch.id.to_string(),
        privileged: identity.caller.is_privileged(),
        groups: identity.payload().groups,
        nested: identity.nested,
        plan: launch.plan.clone(),
        spec: launch.engine_spec.clone(),
        accounts: launch.accounts.clone(),
        volumes: launch.volumes.clone(),
        ports: launch.ports.containers(),
        exec: launch.exec.is_some(),
        rehearsal: launch.rehearsal.as_ref().map(|(what, _)| *what),
    };
    let cgroup = prepared.as_ref().and_then(|(cgroup, _)| cgroup.as_ref());
    let report = launch.rehearsal.as_ref().map(|(_, report)| report.as_fd());
    let stage = as_root(|root| {
        idle.begin(root, &request, identity.layer_map().as_ref(), &ends, &launch.ports.listeners(), (cgroup, report))
    });
    let stage = match stage {
        Ok(stage) => stage,
        Err(error) => {
            // What is left is empty, and the next sweep's; the error is the one to show.
            as_root(|root| cgroup.map_or(Ok(()), |cgroup| cgroup.remove(root))).ok();
            return Err(error);
        }
    };
    drop(ends);
    launch.ports.close_listeners();
    let detached = launch.detached.take().map(|report| (report, LARGEST_LOG));
    let done = converse(&launch, stage, prepared, hooks, &mut signals, (pipes, watch, detached));
    process::end_orphans();
    let (ended, cgroup) = done;
    let (usage, ended) = ended.map_or_else(|e| (None, Err(e)), |(outcome, usage, last)| (usage, Ok((outcome, last))));
    let usage = match usage {
        Some(usage) => usage,
        None => {
            let killed = cgroup::kills_around().zip(killed_before).map(|(after, before)| after.saturating_sub(before));
            Usage { oom_kills: killed.unwrap_or_default(), ..Usage::default() }
        }
    };
    let removed = as_root(|root| cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.remove(root)));
    ended.and_then(|(outcome, last)| removed.map(|()| (outcome, usage, last)))
}

/// What takes the place of the three streams in the container, and what joins it to the caller's.
fn connect(launch: &Launch<'_>) -> Result<(Vec<Relay>, Inside)> {
    let (relays, inside) = if launch.tty {
        (Vec::new(), streams::connect_nothing()?)
    } else if launch.detached.is_some() {
        streams::connect_log(LARGEST_LOG)?
    } else {
        streams::connect(launch.interactive, launch.raw)?
    };
    if launch.identity.caller.is_privileged() {
        // For an ordinary user the stage process does it, which has their subordinate ids.
        let owner = launch.identity.payload();
        as_root(|root| inside.iter().try_for_each(|stream| pipes::give(root, stream.as_fd(), &owner)))?;
    }
    Ok((relays, inside))
}

/// A cgroup, and what it lacks in words, or the refusal where the policy requires that: the cgroup is there in any case,
/// for a process that is killed with it would say something else first.
type Placed = (Option<Cgroup>, Result<Vec<String>>);

/// A cgroup that the stage process enters by itself; none yet where it has to be moved.
fn prepare(root: &Root, launch: &Launch<'_>) -> Result<Option<Placed>> {
    let resources = resources(launch.spec).cloned().unwrap_or_default();
    let prepared = Cgroup::prepare(root, launch.id.as_str(), &resources).transpose();
    prepared.map(|made| as_required(launch, made)).transpose()
}

/// Puts the stage process into a cgroup of the job's own, or says why not.
fn place(root: &Root, launch: &Launch<'_>, pid: Pid) -> Result<Placed> {
    let resources = resources(launch.spec).cloned().unwrap_or_default();
    as_required(launch, Cgroup::create(root, launch.id.as_str(), pid, &resources))
}

/// Refuses what the policy does not allow to be missing.
fn as_required(launch: &Launch<'_>, made: Result<Cgroup>) -> Result<Placed> {
    let hint = "the policy requires limits (limits.required); without them nothing runs";
    match made {
        Ok(cgroup) if cgroup.missing().is_empty() => Ok((Some(cgroup), Ok(Vec::new()))),
        Ok(cgroup) if launch.limits_required => {
            let error = Error::new(Stage::Run, Kind::Host, format!("no limit of {}", cgroup.missing().join(", ")))
                .because("the control group in which ces was called does not have it to give");
            Ok((Some(cgroup), Err(error.hint(hint))))
        }
        Ok(cgroup) => {
            let warning = format!("no limit of {}: the host gives you none", cgroup.missing().join(", "));
            Ok((Some(cgroup), Ok(vec![warning])))
        }
        Err(error) if launch.limits_required => Err(error.hint(hint)),
        Err(error) => Ok((None, Ok(vec![format!("no resource limits: {error}")]))),
    }
}

/// What came of the payload, what it used where that is known, and what came of the hook at the end.
type Conversed<T> = Result<(Outcome, Option<Usage>, T)>;

/// The conversation with the stage process, from its id maps to the end; gives the cgroup in every case.
fn converse<T>(
    launch: &Launch<'_>,
    stage: StageProcess,
    prepared: Option<Placed>,
    hooks: (impl FnOnce() -> Result<()>, BeforeStart<'_>, impl FnOnce(&mut Reading<'_>) -> T),
    signals: &mut Signals,
    (pipes, mut watch, detached): (Vec<Relay>, Watch, Option<(Report, u64)>),
) -> (Conversed<T>, Option<Cgroup>) {
    let (pid, (meanwhile, before_start, at_end)) = (stage.pid(), hooks);
    // While the stage works: once the container is there, it waits for nothing that could be known before.
    let (promised, host) = match Host::observe().and_then(|host| Ok((promised(launch, &host)?, host))) {
        Ok(known) => known,
        Err(error) => return (Err(error), prepared.and_then(|(cgroup, _)| cgroup)),
    };
    // Being moved into a cgroup waits for the kernel (an RCU grace period, milliseconds): meanwhile the stage mounts. The
    // thread has ended before this process forks again.
    let (created, placed) = std::thread::scope(|scope| {
        let mut placed = prepared.map(Ok);
        let mut placing = placed.is_none().then(|| scope.spawn(|| as_root(|root| place(root, launch, pid))));
        let in_cgroup = || {
            if let Some(thread) = placing.take() {
                placed = thread.join().ok();
            }
            matches!(placed, Some(Ok((_, Ok(_)))))
        };
        let created = until_created(launch, &stage, in_cgroup, meanwhile);
        // An early end: the thread is joined all the same.
        if let Some(thread) = placing.take() {
            placed = thread.join().ok();
        }
        (created, placed)
    });
    let (cgroup, warnings) = match placed {
        Some(Ok((cgroup, Ok(warnings)))) => (cgroup, warnings),
        Some(Ok((cgroup, Err(refusal)))) => return (Err(refusal), cgroup),
        Some(Err(error)) => {
            // A stage process that failed first cannot be put anywhere: its own error is the one to show.
            let first = created.err().filter(|first| first.what() != NO_CGROUP);
            return (Err(first.unwrap_or(error)), None);
        }
        None => return (Err(Error::new(Stage::Run, Kind::Failed, "the cgroup was not made")), None),
    };
    let outcome = created.and_then(|Waiting { init, moved, terminal }| {
        let handle = sys::pidfd_open(init)
            .map_err(|e| Error::new(Stage::Run, Kind::Failed, "the container's first process is gone").because(e))?;
        let observed = as_root(|root| cgroup.as_ref().map(|cgroup| cgroup.observed(root)).transpose())?;
        let has = |cgroup: &Cgroup| resources(launch.spec).map(limits).unwrap_or_default().without(cgroup.missing());
        let expected = Expected {
            terminal: terminal.as_ref().map(|master| Device::peer_of(master.as_fd())).transpose()?,
            limits: cgroup.as_ref().map(has),
            cgroup: cgroup.as_ref().map(|_| format!("{PREFIX}{}", launch.id)),
            ..promised.led_elsewhere(&moved)
        };
        let enforced = as_root(|root| enforced::check(root, init, &host, &expected, observed))?;
        let mut reading = Reading::Run(AtEnd { cgroup: cgroup.as_ref(), until: None, signals });
        before_start(&Checked { enforced, warnings }, &mut reading)?;
        if signals.interrupted()? {
            return Err(Error::new(Stage::Run, Kind::Failed, "interrupted before the start; nothing was run"));
        }
        as_root(|root| watch.container(root, init));
        let exec = launch.exec.as_ref().map(|(listener, log)| -> Result<ExecServer<'_>> {
            let copied = listener.try_clone();
            let copied =
                copied.map_err(|e| Error::new(Stage::Run, Kind::Failed, "cannot copy a descriptor").because(e));
            let (listener, cgroup) = (copied?, cgroup.as_ref());
            let check = move |pid: Pid, terminal: Option<Device>, user: Option<(u32, u32)>| {
                let limits = as_root(|root| cgroup.map(|cgroup| cgroup.observed(root)).transpose())?;
                let mut expected = Expected { terminal, ..expected.clone() };
                if let Some((uid, gid)) = user {
                    expected.becomes(uid, gid)?;
                }
                as_root(|root| enforced::check(root, pid, &host, &expected, limits))
            };
            let base = base(launch);
            Ok(ExecServer::new(listener, stage.exec, base, (log.clone(), launch.id.clone()), Box::new(check)))
        });
        let run = Supervised {
            channel: &stage.channel,
            payload_status: stage.payload_status,
            init: handle,
            limit: launch.time,
            stop_signal: launch.stop_signal,
            pipes,
            terminal,
            detached,
            exec: exec.transpose()?,
            interactive: launch.interactive,
            raw: launch.raw,
            watch,
        };
        let until = launch.time.map(|time| Instant::now() + time);
        let outcome = supervise::start_and_wait(run, signals)?;
        // What the payload used, without what is read of its outputs afterwards.
        let usage = cgroup.as_ref().map(|cgroup| as_root(|root| cgroup.usage(root)));
        let last = at_end(&mut Reading::Run(AtEnd { cgroup: cgroup.as_ref(), until, signals }));
        Ok((outcome, usage, last))
    });
    (outcome, cgroup)
}

/// A created container that waits for its start.
struct Waiting {
    init: Pid,
    /// Mount points that the image leads elsewhere.
    moved: Vec<(PathBuf, PathBuf)>,
    /// The master side of its terminal, if it is to have one.
    terminal: Option<OwnedFd>,
}

/// Answers the stage process until the container is created; `in_cgroup` waits until it is in its cgroup, and tells
/// whether that went well. `meanwhile` is called once, as soon as the stage has its ids and makes the container: it asks for
/// little then, and is not done sooner than what is written to a disk.
fn until_created(
    launch: &Launch<'_>,
    stage: &StageProcess,
    mut in_cgroup: impl FnMut() -> bool,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Waiting> {
    let identity = launch.identity;
    let mut meanwhile = Some(meanwhile);
    let mut do_meanwhile = || meanwhile.take().map_or(Ok(()), |meanwhile| meanwhile());
    if !identity.caller.is_privileged() {
        // A user's stage has had its ids for long.
        do_meanwhile()?;
    }
    loop {
        let (message, mut passed) = stage.receive()?.unzip();
        match message {
            Some(FromStage::NeedsMaps) => {
                as_root(|_| identity.container.write(stage.pid(), identity.caller.is_privileged()))?;
                stage.channel.send(&ToStage::MapsWritten)?;
                do_meanwhile()?;
            }
            Some(FromStage::NeedsCgroup) => {
                if !in_cgroup() {
                    // The cgroup's own error is the one to show.
                    return Err(Error::new(Stage::Run, Kind::Host, NO_CGROUP));
                }
                stage.channel.send(&ToStage::CgroupReady)?;
            }
            Some(FromStage::Created { init, moved }) => {
                let terminal = passed.as_mut().and_then(Vec::pop);
                if terminal.is_some() != launch.tty {
                    return Err(Error::new(Stage::Run, Kind::Failed, "the container's terminal did not come"));
                }
                do_meanwhile()?;
                return Ok(Waiting { init: Pid::from_raw(init), moved, terminal });
            }
            Some(FromStage::Failed(failure)) => return Err(failure.into()),
            Some(FromStage::Finished | FromStage::RelayLost) | None => {
                let ended = "the stage process ended before the container was created";
                return Err(Error::new(Stage::Run, Kind::Failed, ended));
            }
        }
    }
}

/// What a command of `ces exec` has that says nothing else: what the payload had.
fn base(launch: &Launch<'_>) -> Base {
    let process = launch.spec.process().as_ref();
    let identity = launch.identity;
    Base {
        owner: identity.caller.is_privileged().then(|| identity.payload()),
        env: process.and_then(|process| process.env().clone()).unwrap_or_default(),
        cwd: process.map_or_else(|| "/".to_owned(), |process| process.cwd().display().to_string()),
    }
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref()?.resources().as_ref()
}

/// What the spec promises, in the kernel's terms: all but what only the control group and the terminal can tell.
fn promised(launch: &Launch<'_>, host: &Host) -> Result<Expected> {
    let spec = launch.spec;
    let linux = spec.linux().as_ref();
    let paths = |paths: Option<&Vec<String>>| paths.into_iter().flatten().map(PathBuf::from).collect::<Vec<_>>();
    let mut mounts = BTreeMap::new();
    let root_flags = if spec.root().as_ref().is_some_and(|r| r.readonly() == Some(true)) {
        vec!["nosuid", "nodev", "ro"]
    } else {
        vec!["nosuid", "nodev"]
    };
    mounts.insert(PathBuf::from("/"), root_flags);
    for mount in spec.mounts().iter().flatten() {
        let options = mount.options().clone().unwrap_or_default();
        let flag =
            |name: &'static str| options.iter().any(|o| o == name || o.strip_prefix('r') == Some(name)).then_some(name);
        mounts.insert(
            mount.destination().clone(),
            ["ro", "nosuid", "nodev", "noexec"].into_iter().filter_map(flag).collect(),
        );
    }
    for path in paths(linux.and_then(|l| l.readonly_paths().as_ref())).into_iter().filter(|p| p.exists()) {
        mounts.insert(path, vec!["ro"]);
    }
    let capabilities = spec.process().as_ref().and_then(|p| p.capabilities().as_ref()?.bounding().clone());
    Ok(Expected {
        payload: launch.identity.payload(),
        groups: if launch.identity.caller.is_privileged() { launch.identity.payload().groups } else { own_groups()? },
        map: launch.identity.payload_map(),
        capabilities: capabilities.into_iter().flatten().map(bit).fold(0, |a, b| a | b),
        mounts,
        own: own_file_systems(spec),
        rlimits: rlimits(spec),
        seccomp_filters: host.seccomp_filters.map(|own| own + 1),
        masked: paths(linux.and_then(|l| l.masked_paths().as_ref())).into_iter().filter(|p| p.exists()).collect(),
        limits: None,
        cgroup: None,
        terminal: None,
    })
}

/// An ordinary user cannot drop their groups: the container keeps those, and no others.
fn own_groups() -> Result<Vec<u32>> {
    let groups = nix::unistd::getgroups()
        .map_err(|e| Error::new(Stage::Run, Kind::Host, "cannot ask for your groups").because(e.desc()))?;
    Ok(groups.into_iter().map(|group| group.as_raw()).collect())
}

/// What the kernel makes for the container alone: all mounts but binds, and the root.
fn own_file_systems(spec: &Spec) -> BTreeSet<PathBuf> {
    let is_bind = |mount: &&Mount| mount.typ().as_deref() == Some("bind");
    let own = spec.mounts().iter().flatten().filter(|mount| !is_bind(mount));
    own.map(|mount| mount.destination().clone()).chain([PathBuf::from("/")]).collect()
}

fn rlimits(spec: &Spec) -> BTreeMap<String, Rlimit> {
    let limits = spec.process().as_ref().and_then(|p| p.rlimits().as_ref());
    let limited = |value: u64| Some(value).filter(|value| *value != u64::MAX);
    limits
        .into_iter()
        .flatten()
        .map(|limit| {
            let name = limit.typ().to_string().to_ascii_lowercase();
            let name = name.trim_start_matches("rlimit_").to_owned();
            (name, Rlimit { soft: limited(limit.soft()), hard: limited(limit.hard()) })
        })
        .collect()
}

/// A capability's bit in `/proc/PID/status` (capabilities(7)); one without a number in the kernel is never expected.
fn bit(capability: Capability) -> u64 {
    // The spec's types are in alphabetical order, the kernel's numbers are not.
    format!("CAP_{}", capability.to_string().trim_start_matches("CAP_"))
        .parse::<caps::Capability>()
        .map_or(0, |known| known.bitmask())
}

fn limits(resources: &LinuxResources) -> Observed {
    let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
    let memory = resources.memory().as_ref();
    let cpu = resources.cpu().as_ref();
    let ratio = |quota: i64, period: u64| {
        Some(f64::from(u32::try_from(quota).ok()?) / f64::from(u32::try_from(period.max(1)).ok()?))
    };
    Observed {
        memory: memory.and_then(|m| bytes(m.limit())),
        memory_and_swap: memory.and_then(|m| bytes(m.swap())),
        cpus: cpu.and_then(|c| ratio(c.quota()?, c.period()?)),
        pids: resources.pids().as_ref().and_then(|p| bytes(Some(p.limit()))),
        io: cgroup::io_limits(resources),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_has_the_kernels_number() {
        assert_eq!(bit(Capability::Chown), 1);
        assert_eq!(bit(Capability::Kill), 1 << 5);
        assert_eq!(bit(Capability::Setuid), 1 << 7);
        assert_eq!(bit(Capability::SysAdmin), 1 << 21);
        assert_eq!(bit(Capability::CheckpointRestore), 1 << 40);
    }
}
