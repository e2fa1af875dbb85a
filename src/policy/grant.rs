//! What the run gets: a request, narrowed or refused.
//!
//! Takes a `RunRequest` and facts of this run and host; gives a `Grant` in which every decision carries its reason;
//! trusts the policy alone; refuses what is above a ceiling, with the figure, the line and the person to ask.
//!
//! A request can only narrow: nothing asked for is silently made smaller, and nothing not asked for is made larger.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::Date;

use super::approved::Approved;
use super::profile::Profile;
use super::reader::{Origin, Rule};
use super::request::{PortRequest, RunRequest, Ulimit, is_hostname, run_name, usage};
use super::{Access, Limit, Policy, podman, units};
use crate::error::{Error, Kind, Result, Stage};

/// Decisions with their reasons.
mod decisions;
/// Which places of the host and the container a run may join.
pub mod mounts;
/// What rehearsals of an image are worth.
mod rehearsed;

pub use decisions::Decision;
use decisions::Log;
pub use mounts::{Bind, Tmpfs};
pub use rehearsed::Rehearsed;

/// Open files a run may have that asks for nothing: podman's figure, or the host's own where that is lower.
pub const NOFILE: u64 = 1_048_576;
/// The engine itself needs some memory to start a payload.
const LEAST_MEMORY: u64 = 8 << 20;

/// What the decisions depend on beside policy and request; plain data, found out before.
#[derive(Debug, Clone, Default)]
pub struct GrantFacts {
    /// The project whose data the run sees.
    pub project: Option<String>,
    /// The directory of its data, resolved, where it is known.
    pub data: Option<PathBuf>,
    /// The caller's home, resolved: what `~` means.
    pub home: PathBuf,
    /// The registry's host in the image's full name.
    pub registry: String,
    /// The digest of the image's manifest.
    pub digest: String,
    /// Whether the user named the image by digest.
    pub named_by_digest: bool,
    /// Entries of the image whose ids are not mapped here.
    pub unmapped_ids: u64,
    /// The site's list, when the policy names one.
    pub approved: Option<Approved>,
    /// What is known of rehearsals of it.
    pub rehearsed: Rehearsed,
    /// Today, for approvals that end.
    pub today: Date,
    /// What each `-v` source is after resolution: opened as the researcher, then read back from the descriptor.
    pub sources: BTreeMap<String, PathBuf>,
    /// Whether only one id is mapped, so that the payload cannot change to another user.
    pub single_id: bool,
    /// Hard limits of this process by podman's names (`nofile`, …); a name left out is unlimited.
    pub hard_limits: BTreeMap<String, u64>,
    /// Soft and hard limits of the caller's shell that `ces` itself does not work under; they are the payload's.
    pub payload_limits: BTreeMap<String, (u64, u64)>,
}

/// Limits of the run.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Granted {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of swap: none.
    pub swap_bytes: u64,
    /// CPUs, in parts of one.
    pub cpus: f64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes a second to, and from, each disk of the run.
    pub io_bytes_per_second: Option<u64>,
    /// Wall-clock time.
    pub time: Option<Duration>,
    /// Bytes in `/scratch` and in the layer over the image.
    pub scratch_bytes: Option<u64>,
    /// Files in the same.
    pub scratch_files: Option<u64>,
    /// Bytes in `/safe_outputs`.
    pub outputs_bytes: Option<u64>,
    /// Files in `/safe_outputs`.
    pub outputs_files: Option<u64>,
    /// Whether a host that cannot enforce these must refuse.
    pub required: bool,
}

/// What the run gets.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Grant {
    /// What the payload may do in its user namespace.
    pub profile: Profile,
    /// Its limits.
    pub limits: Granted,
    /// How `/safe_data` is mounted.
    pub data: Access,
    /// The user's own variables.
    pub env: Vec<(String, String)>,
    /// Arguments of the command.
    pub args: Vec<String>,
    /// Instead of the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Instead of the image's working directory.
    pub workdir: Option<String>,
    /// Instead of the image's user.
    pub user: Option<String>,
    /// Directories of the host.
    pub binds: Vec<Bind>,
    /// Empty file systems in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Published ports.
    pub ports: Vec<PortRequest>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// The host name; `None`: the run's id.
    pub hostname: Option<String>,
    /// The run's name.
    pub name: Option<String>,
    /// Bytes of `/dev/shm`.
    pub shm_bytes: u64,
    /// Limits of the process; `core` and `nofile` are always there.
    pub ulimits: Vec<Ulimit>,
    /// Whether the payload has a terminal.
    pub tty: bool,
    /// Whether stdin reaches the payload.
    pub interactive: bool,
    /// Whether commands may come in later (`ces exec`).
    pub exec: bool,
    /// Every decision with its reason.
    pub decisions: Vec<Decision>,
}

impl Policy {
    /// Decides what a request gets.
    ///
    /// # Errors
    /// [`Kind::Policy`] when it asks for more than a rule allows, [`Kind::Usage`] when it makes no sense.
    pub fn grant(&self, request: &RunRequest, facts: &GrantFacts) -> Result<Grant> {
        let mut log = Log::default();
        for (name, value) in &request.podman {
            podman::judge(name, value.as_deref(), &self.whom_to_ask())?;
        }
        if request.gpu {
            return Err(Error::new(Stage::Cli, Kind::Usage, "--gpu is not supported yet")
                .hint("run without it on the CPUs; GPUs will come with a later version"));
        }
        self.image(facts, &mut log)?;
        self.rehearsal(facts, &mut log)?;
        let profile = self.profile(request, facts, &mut log)?;
        let data = self.data_access(request, facts, &mut log);
        let limits = self.granted(request, &mut log)?;
        let (shm_bytes, ulimits) = self.process_limits(request, facts, limits.memory_bytes, &mut log)?;
        self.interaction(request, &mut log)?;
        let binds = mounts::binds(self, request, facts, data, &mut log)?;
        let tmpfs = mounts::tmpfs(request, limits.memory_bytes, &binds, &mut log)?;
        Ok(Grant {
            profile,
            limits,
            data,
            env: environment(request)?,
            args: request.args.clone(),
            entrypoint: request.entrypoint.clone(),
            workdir: request.workdir.clone(),
            user: request.user.clone(),
            binds,
            tmpfs,
            ports: request.ports.clone(),
            read_only: request.read_only,
            hostname: request.hostname.clone(),
            name: request.name.clone(),
            shm_bytes,
            ulimits,
            tty: request.tty,
            interactive: request.interactive,
            exec: self.exec.value,
            decisions: log.0,
        })
    }

    /// Whether an image with this name and digest may run, named by its digest, for the project of `facts`; nothing else is looked at.
    ///
    /// # Errors
    /// Why not, as a run would say it.
    pub fn image_may_run(&self, facts: &GrantFacts) -> Result<()> {
        self.image(facts, &mut Log::default())
    }

    fn image(&self, facts: &GrantFacts, log: &mut Log) -> Result<()> {
        if let Some(rule) = &self.registries.allow {
            if !rule.value.contains(&facts.registry) {
                let allowed = rule.value.join(", ");
                return Err(self.refuse(
                    format!("images of {} may not run", facts.registry),
                    rule,
                    &format!("allows {allowed}"),
                ));
            }
            log.note("registry", &facts.registry, &rule.origin);
        }
        let digest = &self.images.require_digest;
        if digest.value && !facts.named_by_digest {
            let hint = format!("name it as …@{}", facts.digest);
            return Err(self.refuse("the image must be named by its digest", digest, "requires it").hint(hint));
        }
        if let Some(rule) = &self.images.approved {
            let Some(list) = &facts.approved else {
                return Err(self.refuse("the list of approved images was not read", rule, "names it"));
            };
            let approval = list
                .check(&facts.digest, facts.project.as_deref(), facts.today)
                .map_err(|error| error.hint(self.how_to_request(&facts.digest, facts.project.as_deref())))?;
            log.note("image", format!("approved by {}", approval.approver), &approval.origin);
        }
        self.unmapped_may_be(facts.unmapped_ids)?;
        if facts.unmapped_ids > 0 {
            let value = format!("{} entries, which belong to nobody (65534)", facts.unmapped_ids);
            log.note("ids beyond those mapped", value, &self.images.unmapped_ids.origin);
        }
        Ok(())
    }

    /// Whether an image may be kept and run of which so many entries belong to ids that are not mapped here.
    ///
    /// # Errors
    /// When there are any, and the policy refuses such images.
    pub fn unmapped_may_be(&self, entries: u64) -> Result<()> {
        let rule = &self.images.unmapped_ids;
        if entries == 0 || rule.value {
            return Ok(());
        }
        let what = format!("{entries} entries of the image belong to users or groups beyond the ids mapped here");
        Err(self
            .refuse(what, rule, "allows no such image")
            .hint("have the image built with owners from 0 to 65535 (COPY --chown, chown)"))
    }

    /// The profiles that this project's runs may have.
    fn profiles_of(&self, project: Option<&str>) -> &Rule<Vec<String>> {
        let project = project.and_then(|name| self.projects.get(name));
        project.and_then(|project| project.profiles.as_ref()).unwrap_or(&self.profiles.allow)
    }

    /// Whether this project's runs may have the profile.
    pub fn allows_profile(&self, name: &str, project: Option<&str>) -> bool {
        self.profiles_of(project).value.iter().any(|allowed| allowed == name)
    }

    fn profile(&self, request: &RunRequest, facts: &GrantFacts, log: &mut Log) -> Result<Profile> {
        let allowed = self.profiles_of(facts.project.as_deref());
        let (name, because) = match &request.profile {
            Some(name) => {
                let profile = Profile::named(name)?;
                (profile.name, format!("--profile {name}, within {}", allowed.origin))
            }
            None if allowed.value.contains(&self.profiles.default.value) => {
                (self.profiles.default.value.clone(), self.profiles.default.origin.to_string())
            }
            // A project without the default profile: its first.
            None => (allowed.value.first().cloned().unwrap_or_default(), allowed.origin.to_string()),
        };
        if !allowed.value.contains(&name) {
            let says = format!("allows {}", allowed.value.join(", "));
            return Err(self.refuse(format!("profile {name} is refused"), allowed, &says));
        }
        let profile = Profile::named(&name)?;
        if facts.single_id && profile.capabilities.iter().any(|name| name == "SETUID") {
            return Err(Error::new(Stage::Host, Kind::Host, format!("profile {name} needs more than one user id"))
                .because("this host gives the caller no subordinate ids (/etc/subuid, /etc/subgid)")
                .hint("use --profile batch, or ask for subordinate ids, or run through sudo"));
        }
        log.note("profile", &name, because);
        Ok(profile)
    }

    fn data_access(&self, request: &RunRequest, facts: &GrantFacts, log: &mut Log) -> Access {
        let project = facts.project.as_ref().and_then(|name| self.projects.get(name));
        let mut rule = &self.data.access;
        if let Some(lower) = project.and_then(|p| p.access.as_ref()).filter(|lower| lower.value < rule.value) {
            rule = lower;
        }
        if request.data_ro && rule.value == Access::Rw {
            log.note("safe data", "ro", "--data-ro");
            return Access::Ro;
        }
        log.note("safe data", rule.value.name(), &rule.origin);
        rule.value
    }

    fn granted(&self, request: &RunRequest, log: &mut Log) -> Result<Granted> {
        let limits = &self.limits;
        if let Some(asked) = request.memory.filter(|asked| *asked < LEAST_MEMORY) {
            let least = units::show_size(LEAST_MEMORY);
            return Err(usage(
                format!("--memory {} is too little to start", units::show_size(asked)),
                &format!("ask for at least {least}"),
            ));
        }
        let asked_pids = request.pids.map(|asked| match &limits.pids.max {
            // podman's "no limit" is as many as the site gives.
            Some(max) if asked == u64::MAX => max.value,
            _ => asked,
        });
        let size = |bytes: &u64| units::show_size(*bytes);
        let time = |time: &Duration| units::show_duration(*time);
        let memory = self.within("memory", "--memory", request.memory, &limits.memory, size, log)?;
        let cpus = self.within("cpus", "--cpus", request.cpus, &limits.cpus, ToString::to_string, log)?;
        let pids = self.within("pids", "--pids-limit", asked_pids, &limits.pids, ToString::to_string, log)?;
        let io = self.within("io a second", "", None, &limits.io, size, log)?;
        let time = self.within("time", "--timeout", request.timeout, &limits.time, time, log)?;
        let scratch = self.within("scratch", "", None, &limits.scratch, size, log)?;
        let scratch_files = self.within("scratch files", "", None, &limits.scratch_files, ToString::to_string, log)?;
        let outputs = self.within("outputs", "", None, &limits.outputs, size, log)?;
        let files = self.within("output files", "", None, &limits.output_files, ToString::to_string, log)?;
        let unset =
            |what: &str| Error::new(Stage::Policy, Kind::Policy, format!("the policy sets no limit for {what}"));
        log.note("limits required", limits.required.value.to_string(), &limits.required.origin);
        Ok(Granted {
            memory_bytes: memory.ok_or_else(|| unset("memory"))?,
            swap_bytes: 0,
            cpus: cpus.ok_or_else(|| unset("cpus"))?,
            pids: pids.ok_or_else(|| unset("pids"))?,
            io_bytes_per_second: io,
            time,
            scratch_bytes: scratch,
            scratch_files,
            outputs_bytes: outputs,
            outputs_files: files,
            required: limits.required.value,
        })
    }

    /// What was asked for if it is within the ceiling, else a refusal; the default where nothing was asked.
    fn within<T: PartialOrd + Clone>(
        &self,
        what: &str,
        option: &str,
        asked: Option<T>,
        limit: &Limit<T>,
        show: impl Fn(&T) -> String,
        log: &mut Log,
    ) -> Result<Option<T>> {
        if let Some(asked) = asked {
            if let Some(max) = limit.max.as_ref().filter(|max| asked > max.value) {
                let says = format!("allows {} at most", show(&max.value));
                return Err(self.refuse(format!("{option} {} is refused", show(&asked)), max, &says));
            }
            let ceiling = limit.max.as_ref().map_or_else(|| "no ceiling".to_owned(), |max| max.origin.to_string());
            log.note(what, show(&asked), format!("{option}, within {ceiling}"));
            return Ok(Some(asked));
        }
        match limit.default.as_ref().or(limit.max.as_ref()) {
            Some(rule) => {
                log.note(what, show(&rule.value), &rule.origin);
                Ok(Some(rule.value.clone()))
            }
            None => Ok(None),
        }
    }

    fn process_limits(
        &self,
        request: &RunRequest,
        facts: &GrantFacts,
        memory: u64,
        log: &mut Log,
    ) -> Result<(u64, Vec<Ulimit>)> {
        // Pages of /dev/shm count as the run's memory: half of it is useful, more than all of it cannot be had.
        let shm = match request.shm_size {
            Some(asked) if asked > memory => {
                let shown = units::show_size(asked);
                let rule =
                    Rule { value: (), origin: Origin { file: "this run".into(), line: None, key: "memory".into() } };
                let says = format!("is {}, and /dev/shm counts as memory", units::show_size(memory));
                return Err(self.refuse(format!("--shm-size {shown} is refused"), &rule, &says));
            }
            Some(asked) => {
                log.note("shm size", units::show_size(asked), "--shm-size, within this run's memory");
                asked
            }
            None => {
                log.note("shm size", units::show_size(memory / 2), "built-in: half of this run's memory");
                memory / 2
            }
        };
        let host = |name: &str| facts.hard_limits.get(name).copied().unwrap_or(u64::MAX);
        let nofile = NOFILE.min(host("nofile"));
        let mut ulimits = vec![
            Ulimit { name: "core".to_owned(), soft: 0, hard: 0 },
            Ulimit { name: "nofile".to_owned(), soft: nofile, hard: nofile },
        ];
        let shells = facts.payload_limits.iter();
        ulimits.extend(shells.map(|(name, (soft, hard))| Ulimit { name: name.clone(), soft: *soft, hard: *hard }));
        for asked in &request.ulimits {
            let option = format!("--ulimit {}={}:{}", asked.name, number(asked.soft), number(asked.hard));
            if asked.name == "core" && asked.hard > 0 {
                let rule = Rule::builtin("isolation.core", ());
                let says = "keeps memory with safe data out of core dumps";
                return Err(self.refuse(format!("{option} is refused"), &rule, says));
            }
            let hard = host(&asked.name);
            if asked.hard > hard {
                return Err(usage(
                    format!("{option} is above this host's hard limit of {}", number(hard)),
                    "ask for less; `ulimit -H -a` shows the hard limits",
                ));
            }
            log.note("ulimit", format!("{}={}:{}", asked.name, number(asked.soft), number(asked.hard)), "--ulimit");
            ulimits.retain(|known| known.name != asked.name);
            ulimits.push(asked.clone());
        }
        Ok((shm, ulimits))
    }

    /// Whether `ces exec` is allowed.
    ///
    /// # Errors
    /// When it is not, with the line that says so.
    pub fn may_exec(&self) -> Result<()> {
        if self.exec.value { Ok(()) } else { Err(self.refuse("ces exec is refused", &self.exec, "is false")) }
    }

    fn interaction(&self, request: &RunRequest, log: &mut Log) -> Result<()> {
        if (request.tty || request.interactive) && !self.interactive.value {
            return Err(self.refuse("interactive runs (-i, -t) are refused", &self.interactive, "is false"));
        }
        if !request.ports.is_empty() {
            if !self.ports.value {
                return Err(self.refuse("published ports (-p) are refused", &self.ports, "is false"));
            }
            log.note("ports", format!("{}, inwards only", request.ports.len()), &self.ports.origin);
        }
        for (at, port) in request.ports.iter().enumerate() {
            let fixed =
                !matches!(port.listen, super::request::Listen::Loopback(0) | super::request::Listen::Socket(None));
            if fixed && request.ports.iter().skip(at + 1).any(|other| other.listen == port.listen) {
                return Err(usage("two -p listen in the same place", "publish each host port once"));
            }
        }
        if let Some(name) = request.hostname.as_deref().filter(|name| !is_hostname(name)) {
            return Err(usage(
                format!("--hostname {name} is not a host name"),
                "letters, digits, `-` and `.`, at most 63",
            ));
        }
        request.name.as_deref().map_or(Ok(()), run_name)?;
        if request.read_only {
            log.note("root", "read-only", "--read-only");
        }
        Ok(())
    }
}

/// Variables that tell a program which descriptors it inherited: a run has stdin, stdout and stderr alone.
pub const NEVER_SET: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"];

fn environment(request: &RunRequest) -> Result<Vec<(String, String)>> {
    for (name, value) in &request.env {
        if NEVER_SET.contains(&name.as_str()) {
            return Err(usage(format!("-e {name} cannot be set"), "it names inherited descriptors; a run has none"));
        }
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(usage(format!("-e {name} is not an environment variable"), "write NAME=value"));
        }
    }
    Ok(request.env.clone())
}

fn number(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}
