//! Version 2: a part of the tree that is ours to divide, and the job's group in it (admin-guide/cgroup-v2).
//!
//! Takes a job, its process and the limits; gives the job's `Group`; trusts the kernel's files; refuses where no part
//! of the tree is ours.
//!
//! ```text
//! below/              a scope that systemd made for this run, or the group in which ces was called
//!   ces-rest/         whoever was in `below`: a group that divides memory holds no process ("No Internal Process")
//!   ces-<job>/        the job, with its limits
//! ```
//!
//! Where `below` is decided in this order: inside what another manager has delegated (a container, a scope of the caller's)
//! below the group of the caller, so that the manager's own limits and its accounting hold; in a Slurm job beside the group
//! of its task, for Slurm signals and waits for the processes in that group itself and in none below it, so that nobody may
//! be moved out of it (seen with 22.05); with systemd in a scope; else below the caller's group, or as root below the root of
//! the tree.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, geteuid};
use oci_spec::runtime::LinuxResources;

use crate::host::kernel_files;

use super::lock::lock;
use super::membership::{group_of, is_slurms};
use super::{Observed, PREFIX, Usage, field, io_limits, named, number, or_max, systemd};

const ROOT: &str = "/sys/fs/cgroup";
/// The group of those who make room.
const REST: &str = "ces-rest";
/// What a job's limits need.
const NEEDED: [&str; 3] = ["memory", "cpu", "pids"];
/// What a limit of traffic with disks needs besides.
const IO: &str = "io";
/// How long killed processes may take to leave their group.
const PATIENCE: Duration = Duration::from_secs(5);

/// The job's group.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    below: Below,
    missing: Vec<&'static str>,
}

/// The directory whose part is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Below {
    /// Made for this run; it goes with this process.
    Scope(PathBuf),
    /// It was there before.
    Existing(PathBuf),
}

/// What decides where a job's group is made.
#[derive(Debug, Clone, Copy)]
struct Facts<'a> {
    /// The caller's group.
    own: &'a str,
    /// A manager other than the user's own systemd has given a group above, or the caller's own, away.
    delegated: bool,
    /// That manager is Slurm.
    slurm: bool,
    /// A service manager can be asked.
    systemd: bool,
    /// As the host's root.
    privileged: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Scope,
    Below(PathBuf),
}

/// Pure; see the module's introduction.
fn choose(facts: &Facts<'_>) -> Choice {
    let mut own = Path::new(facts.own.trim_start_matches('/'));
    // Whoever made room for an earlier job.
    while own.file_name().is_some_and(|name| name == REST) {
        own = own.parent().unwrap_or(Path::new(""));
    }
    if !facts.delegated && facts.systemd {
        return Choice::Scope;
    }
    let root = Path::new(ROOT);
    if facts.slurm && facts.privileged {
        return Choice::Below(root.join(own.parent().unwrap_or(own)));
    }
    Choice::Below(if facts.delegated || !facts.privileged { root.join(own) } else { root.to_path_buf() })
}

/// Whether a manager has given this group, or one above it, away: systemd marks those (`Delegate=`), but the manager of a
/// user's own services is no other manager. Slurm on a systemd that does not mark yet is known by name.
fn is_delegated(own: &str) -> bool {
    let marked = |dir: &Path| {
        let mut value = [0; 8];
        ["user.delegate", "trusted.delegate"]
            .iter()
            .any(|name| matches!(rustix::fs::getxattr(dir, *name, &mut value[..]), Ok(1) if value[0] == b'1'))
    };
    is_slurms(own)
        || Path::new(own)
            .ancestors()
            .take_while(|group| !is_user_manager(group))
            .any(|group| marked(&Path::new(ROOT).join(group.strip_prefix("/").unwrap_or(group))))
}

/// Scopes and services of the user's own manager in which `own` is.
fn units_of_user(own: &str) -> impl Iterator<Item = &str> {
    let parts = own.split('/').skip_while(|part| !is_user_manager(Path::new(part))).skip(1);
    parts.filter(|part| part.ends_with(".scope") || part.ends_with(".service"))
}

fn is_user_manager(group: &Path) -> bool {
    group.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with("user@") && name.ends_with(".service")
    })
}

/// What to do where no group can be made.
pub(super) fn remedy() -> &'static str {
    if group_of(Pid::this()).is_ok_and(|own| is_delegated(&own)) {
        "the manager of the group in which ces was called (a batch system, another container) gives none of it to you, and its \
         own limits hold; for limits of the run's own use sudo, if the site allows it"
    } else {
        "as an ordinary user, log in so that systemd runs a manager for you; else use sudo"
    }
}

/// How many processes were killed for want of memory in the group of this process and those below it.
pub(super) fn kills_around() -> Option<u64> {
    let own = group_of(Pid::this()).ok()?;
    let events = Path::new(ROOT).join(own.trim_start_matches('/')).join("memory.events");
    events.exists().then(|| field(&events, "oom_kill"))
}

impl Group {
    /// Makes the group, puts `pid` into it and sets the limits.
    pub(super) fn create(job: &str, pid: Pid, resources: &LinuxResources) -> io::Result<Self> {
        let own = group_of(Pid::this())?;
        let privileged = geteuid().is_root();
        let sockets = systemd::sockets(privileged);
        let delegated = is_delegated(&own)
            || units_of_user(&own).any(|unit| !privileged && systemd::has_given_away(&sockets, unit));
        let slurm = is_slurms(&own);
        let facts = Facts { own: &own, delegated, slurm, systemd: !sockets.is_empty(), privileged };
        let name = format!("{PREFIX}{job}");
        let below = match choose(&facts) {
            Choice::Scope => Below::Scope(systemd::scope(&sockets, Path::new(ROOT), &name, pid)?),
            Choice::Below(dir) => Below::Existing(dir),
        };
        let mut group = Self { dir: below.dir().join(&name), below, missing: Vec::new() };
        let made = group.fill(pid, resources);
        if made.is_err() {
            // Best effort: what is left is empty or dies with the job; the next sweep removes it.
            group.remove().ok();
        }
        made.map(|()| group)
    }

    fn fill(&mut self, pid: Pid, resources: &LinuxResources) -> io::Result<()> {
        let below = self.below.dir();
        let _held = lock(below)?;
        let wanted: Vec<&'static str> =
            NEEDED.into_iter().chain((!io_limits(resources).is_empty()).then_some(IO)).collect();
        if geteuid().is_root() {
            hand_down(below, &wanted);
        }
        fs::create_dir(&self.dir).map_err(|e| named(&self.dir, &e))?;
        join(&self.dir, pid)?;
        divide(below, &wanted)?;
        let there = names_in(&self.dir.join("cgroup.controllers"))?;
        self.missing = wanted.iter().copied().filter(|name| !there.iter().any(|c| c == name)).collect();
        if self.missing.len() == wanted.len() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} divides nothing", below.display())));
        }
        self.limit(resources)
    }

    pub(super) fn take_in(&self, pid: Pid) -> io::Result<()> {
        join(&self.dir, pid)
    }

    fn limit(&self, resources: &LinuxResources) -> io::Result<()> {
        let put =
            |file: &str, text: String| fs::write(self.dir.join(file), text).map_err(|e| named(Path::new(file), &e));
        let has = |controller: &str| !self.missing.contains(&controller);
        if let Some(memory) = resources.memory().as_ref().filter(|_| has("memory")) {
            if let Some(limit) = memory.limit() {
                put("memory.max", limit.max(0).to_string())?;
                let swap = memory.swap().map_or(0, |both| both.saturating_sub(limit).max(0));
                match put("memory.swap.max", swap.to_string()) {
                    // A kernel without swap has nothing to limit.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            // One process of the job out of memory: all of it is.
            put("memory.oom.group", "1".to_owned())?;
        }
        if let Some(quota) = resources.cpu().as_ref().filter(|_| has("cpu")).and_then(|cpu| cpu.quota()) {
            let period = resources.cpu().as_ref().and_then(|cpu| cpu.period()).unwrap_or(100_000);
            put("cpu.max", format!("{quota} {period}"))?;
        }
        if let Some(pids) = resources.pids().as_ref().filter(|_| has("pids")) {
            put("pids.max", pids.limit().max(0).to_string())?;
        }
        for (disk, rate) in io_limits(resources).iter().filter(|_| has(IO)) {
            put("io.max", format!("{disk} rbps={rate} wbps={rate}"))?;
        }
        Ok(())
    }

    /// Limits that cannot be had here, by the kernel's names.
    pub(super) fn missing(&self) -> &[&'static str] {
        &self.missing
    }

    /// The limits in force: the tightest of this group's own and of those above it.
    pub(super) fn observed(&self) -> io::Result<Observed> {
        let has = |controller: &str| !self.missing.contains(&controller);
        let mut is = Observed::default();
        if has("memory") {
            is.memory = self.tightest("memory.max", or_max)?;
            let swap = match self.tightest("memory.swap.max", or_max) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Some(0),
                other => other?,
            };
            is.memory_and_swap = is.memory.zip(swap).map(|(memory, swap)| memory.saturating_add(swap));
        }
        if has("cpu") {
            is.cpus = self.tightest("cpu.max", processors)?;
        }
        if has("pids") {
            is.pids = self.tightest("pids.max", or_max)?;
        }
        match kernel_files::read(self.dir.join("io.max")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            text => is.io = traffic(&text?),
        }
        Ok(is)
    }

    /// The smallest number in the files of that name, here and above; the group's own must be there.
    fn tightest<T: PartialOrd>(
        &self,
        file: &str,
        read: impl Fn(&Path) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let mut least = read(&self.dir.join(file))?;
        for above in self.dir.ancestors().skip(1).take_while(|above| *above != Path::new(ROOT)) {
            match read(&above.join(file)) {
                // Not divided that far up: then there is no limit either.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
                Ok(None) => {}
                Ok(Some(limit)) if least.as_ref().is_some_and(|least| *least <= limit) => {}
                Ok(tighter) => least = tighter,
            }
        }
        Ok(least)
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            peak_memory: number(&self.dir.join("memory.peak")).ok(),
            oom_kills: field(&self.dir.join("memory.events"), "oom_kill"),
            peak_pids: number(&self.dir.join("pids.peak")).ok(),
            cpu: Some(field(&self.dir.join("cpu.stat"), "usage_usec")).filter(|used| *used > 0),
        }
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        clear(&self.dir)?;
        match &self.below {
            Below::Scope(_) => Ok(()),
            Below::Existing(dir) => put_back(dir),
        }
    }
}

impl Below {
    fn dir(&self) -> &Path {
        match self {
            Self::Scope(dir) | Self::Existing(dir) => dir,
        }
    }
}

fn join(dir: &Path, pid: Pid) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), pid.to_string()).map_err(|e| named(dir, &e))
}

/// Turns on, in Slurm's groups above `dir`, what a job needs and they have: Slurm divides memory and processors alone, and a
/// job without a limit of processes would be refused. It changes no limit, and goes with those groups. Best effort: what
/// is missing afterwards is found out by who looks.
fn hand_down(dir: &Path, wanted: &[&str]) {
    let mut above: Vec<&Path> =
        dir.ancestors().skip(1).take_while(|above| is_slurms(&above.to_string_lossy())).collect();
    above.reverse();
    for group in above {
        for name in wanted {
            fs::write(group.join("cgroup.subtree_control"), format!("+{name}")).ok();
        }
    }
}

/// Lets the groups below `dir` have limits; whoever is in it makes room where the kernel asks for that.
fn divide(dir: &Path, wanted: &[&str]) -> io::Result<()> {
    let control = dir.join("cgroup.subtree_control");
    let (there, on) = (names_in(&dir.join("cgroup.controllers"))?, names_in(&control)?);
    let has = |list: &[String], name: &str| list.iter().any(|c| c == name);
    for name in wanted.iter().filter(|name| has(&there, name) && !has(&on, name)) {
        let mut tried = 0;
        while let Err(e) = fs::write(&control, format!("+{name}")) {
            // Someone may fork between a look and the next.
            if e.raw_os_error() != Some(libc::EBUSY) || tried == 10 {
                return Err(named(&control, &e));
            }
            tried += 1;
            let rest = dir.join(REST);
            match fs::create_dir(&rest) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(named(&rest, &e)),
                _ => move_all(dir, &rest)?,
            }
        }
    }
    Ok(())
}

fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    for pid in names_in(&from.join("cgroup.procs"))?.iter().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw) {
        match join(to, pid) {
            // It has ended meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

/// With the last job gone, those who made room go back.
fn put_back(dir: &Path) -> io::Result<()> {
    let rest = dir.join(REST);
    if !rest.is_dir() {
        return Ok(());
    }
    let _held = lock(dir)?;
    let jobs = fs::read_dir(dir)?.flatten().filter(|entry| {
        let name = entry.file_name();
        name != REST && name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
    });
    if jobs.count() > 0 {
        return Ok(());
    }
    let off: Vec<String> =
        names_in(&dir.join("cgroup.subtree_control"))?.iter().map(|name| format!("-{name}")).collect();
    fs::write(dir.join("cgroup.subtree_control"), off.join(" ")).map_err(|e| named(dir, &e))?;
    move_all(&rest, dir)?;
    match fs::remove_dir(&rest) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(named(&rest, &e)),
        _ => Ok(()),
    }
}

/// Kills what is in a group and removes it.
fn clear(dir: &Path) -> io::Result<()> {
    match fs::write(dir.join("cgroup.kill"), "1") {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named(dir, &e)),
        _ => {}
    }
    let began = Instant::now();
    loop {
        match fs::remove_dir(dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named(dir, &e)),
            _ => return Ok(()),
        }
    }
}

/// Removes the group of a job whose supervisor is gone, wherever it is; scopes have gone by themselves.
pub(super) fn remove_stale(job: &str) -> io::Result<()> {
    let name = format!("{PREFIX}{job}");
    let mut look = vec![PathBuf::from(ROOT)];
    while let Some(dir) = look.pop() {
        // A group may vanish meanwhile.
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let ours = entry.file_name().to_str() == Some(&name)
                && entry.metadata().is_ok_and(|found| found.uid() == geteuid().as_raw());
            if ours {
                clear(&entry.path())?;
                put_back(&dir)?;
            } else {
                look.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Disks with a limit for both ways, from `io.max` (`8:0 rbps=1000 wbps=max riops=max wiops=max`): the larger of the two.
fn traffic(text: &str) -> BTreeMap<String, u64> {
    let disk = |line: &str| {
        let (disk, limits) = line.split_once(' ')?;
        let limit = |key: &str| limits.split(' ').find_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
        Some((disk.to_owned(), limit("rbps=")?.max(limit("wbps=")?)))
    };
    text.lines().filter_map(disk).collect()
}

/// Processors, from `cpu.max`: a quota and its period, in microseconds.
fn processors(path: &Path) -> io::Result<Option<f64>> {
    let text = kernel_files::read(path)?;
    let mut fields = text.split_whitespace().map(str::parse::<u32>);
    Ok(match (fields.next(), fields.next()) {
        (Some(Ok(quota)), Some(Ok(period))) => Some(f64::from(quota) / f64::from(period.max(1))),
        _ => None,
    })
}

fn names_in(path: &Path) -> io::Result<Vec<String>> {
    let text = kernel_files::read(path).map_err(|e| named(path, &e))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_put_where_its_limits_hold_and_its_manager_sees_it() {
        let session = "/user.slice/user-1000.slice/session-3.scope";
        let slurm = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0";
        let below = |path: &str| Choice::Below(PathBuf::from(path));
        let cases = [
            (session, false, true, false, Choice::Scope),
            (session, false, true, true, Choice::Scope),
            // Never out of what a batch system gave, not even as root.
            (slurm, true, true, false, below("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/user/task_0")),
            (slurm, true, true, true, below("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/user")),
            ("/system.slice/x.scope", true, true, true, below("/sys/fs/cgroup/system.slice/x.scope")),
            // Without systemd.
            ("/", false, false, true, below("/sys/fs/cgroup")),
            ("/sshd", false, false, true, below("/sys/fs/cgroup")),
            ("/mine", false, false, false, below("/sys/fs/cgroup/mine")),
            // A second job, while the first has made its caller move.
            ("/mine/ces-rest", false, false, false, below("/sys/fs/cgroup/mine")),
        ];
        for (own, delegated, systemd, privileged, expected) in cases {
            let facts = Facts { own, delegated, slurm: own == slurm, systemd, privileged };
            assert_eq!(choose(&facts), expected, "{own} {delegated} {systemd}");
        }
    }

    #[test]
    fn a_disk_without_a_limit_one_way_has_none() {
        let text = "8:16 rbps=2097152 wbps=1048576 riops=max wiops=120\n8:0 rbps=1000 wbps=max riops=max wiops=max\n";
        assert_eq!(traffic(text), BTreeMap::from([("8:16".to_owned(), 2 << 20)]));
        assert_eq!(traffic(""), BTreeMap::new());
    }

    #[test]
    fn slurm_is_known_by_name_and_a_users_own_manager_is_no_other() {
        assert!(is_delegated("/system.slice/slurmstepd.scope/job_7/step_0"));
        assert!(is_delegated("/system.slice/node1_slurmstepd.scope/job_7/step_0/user/task_0"));
        assert!(!is_slurms("/user.slice/user-1000.slice/session-3.scope") && !is_slurms("/my-slurm/x"));
        assert!(is_user_manager(Path::new("/user.slice/user-1000.slice/user@1000.service")));
        assert!(!is_user_manager(Path::new("/user.slice/user@x/job")));
        let own = "/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1f.scope/ces-rest";
        assert_eq!(units_of_user(own).collect::<Vec<_>>(), ["run-r1f.scope"]);
        assert_eq!(units_of_user("/user.slice/user-1000.slice/session-3.scope").count(), 0);
    }
}
