//! The enforced check: between create and start, ask the kernel whether every protection is in force.
//!
//! Takes the created container's first process and what the policy promises; gives an `Enforced`, the kernel's own
//! words for the record; trusts `/proc` and the cgroup files alone; refuses the start on the first difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde::Serialize;

use crate::bundle::identity::HostIds;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::cgroup::Observed;
use crate::host::idmap::{Extent, IdMap};

/// The namespaces that a container never shares with the host.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// What is bound into `/dev`, one device a mount: the seven less `ptmx`, which devpts has; the console is the container's own.
const DEVICES: [&str; 7] = ["console", "full", "null", "random", "tty", "urandom", "zero"];

/// What must be true of the container's first process.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Host ids of the payload.
    pub payload: HostIds,
    /// Groups are the researcher's own (a user cannot drop them).
    pub any_groups: bool,
    /// The user namespace's maps.
    pub map: IdMap,
    /// Capabilities of the profile, as a bit mask; 0 for `batch`.
    pub capabilities: u64,
    /// Mount points and the flags each must carry.
    pub mounts: BTreeMap<PathBuf, Vec<&'static str>>,
    /// Masked paths: each, if the kernel has it, must be covered.
    pub masked: Vec<PathBuf>,
    /// The limits; none where the host cannot set them and the policy does not require it.
    pub limits: Option<Observed>,
    /// The name of the job's cgroup, if it has one.
    pub cgroup: Option<String>,
}

/// What the kernel says, between create and start. This goes into the record.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Enforced {
    /// Real, effective, saved and file system user, as the host numbers them.
    pub uids: Vec<u32>,
    /// The same for the group.
    pub gids: Vec<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The five capability sets: inheritable, permitted, effective, bounding, ambient.
    pub capabilities: BTreeMap<String, u64>,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Seccomp mode (2: filter).
    pub seccomp_mode: u32,
    /// How many seccomp filters.
    pub seccomp_filters: u32,
    /// `uid_map`.
    pub uid_map: Vec<Extent>,
    /// `gid_map`.
    pub gid_map: Vec<Extent>,
    /// Namespaces that are not the host's.
    pub own_namespaces: BTreeSet<String>,
    /// Mount point → options.
    pub mounts: BTreeMap<PathBuf, Vec<String>>,
    /// What the descriptors above standard error are.
    pub descriptors: Vec<String>,
    /// The largest core dump, in bytes.
    pub core_limit: Option<u64>,
    /// The control groups the process is in.
    pub cgroups: Vec<String>,
    /// The limits, read back.
    pub limits: Option<Observed>,
}

/// Asks the kernel about `pid` and compares.
///
/// # Errors
/// Every difference, named; or a file of `/proc` that cannot be read.
pub fn check(pid: Pid, expected: &Expected, limits: Option<Observed>) -> Result<Enforced> {
    let mut facts = observe(pid)?;
    facts.limits = limits;
    let differences = compare(expected, &facts);
    if differences.is_empty() {
        return Ok(facts);
    }
    let error = Error::new(Stage::Run, Kind::Host, "a protection is not in force; the payload was not started");
    Err(differences.iter().fold(error, Error::because).hint("please report this, with the output of ces doctor"))
}

/// Reads what the kernel says of `pid`.
///
/// # Errors
/// When a file cannot be read or understood: a protection that cannot be seen does not count.
pub fn observe(pid: Pid) -> Result<Enforced> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).map_err(|e| unseen(name, &e.to_string()));
    let status = read("status")?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .ok_or_else(|| unseen("status", name))
    };
    let ids = |name: &str| -> Result<Vec<u32>> {
        field(name)?.split_whitespace().map(|id| id.parse().map_err(|_| unseen("status", name))).collect()
    };
    let number = |name: &str| -> Result<u32> { field(name)?.parse().map_err(|_| unseen("status", name)) };
    let mut capabilities = BTreeMap::new();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let mask = u64::from_str_radix(field(set)?, 16).map_err(|_| unseen("status", set))?;
        capabilities.insert(set.to_owned(), mask);
    }
    Ok(Enforced {
        uids: ids("Uid")?,
        gids: ids("Gid")?,
        groups: ids("Groups")?,
        capabilities,
        no_new_privs: number("NoNewPrivs")? == 1,
        seccomp_mode: number("Seccomp")?,
        // Since 5.9.
        seccomp_filters: number("Seccomp_filters").unwrap_or(0),
        uid_map: extents(&read("uid_map")?)?,
        gid_map: extents(&read("gid_map")?)?,
        own_namespaces: own_namespaces(pid)?,
        mounts: mounts(&read("mountinfo")?),
        descriptors: descriptors(pid)?,
        core_limit: core_limit(&read("limits")?)?,
        cgroups: read("cgroup")?.lines().map(str::to_owned).collect(),
        limits: None,
    })
}

/// Every difference between what must be and what is, in words. Pure.
pub fn compare(expected: &Expected, facts: &Enforced) -> Vec<String> {
    let mut found = Vec::new();
    let mut differs = |what: &str, is: &dyn std::fmt::Debug, must: &dyn std::fmt::Debug| {
        found.push(format!("{what} is {is:?}, must be {must:?}"));
    };
    let payload = &expected.payload;
    if facts.uids != [payload.uid; 4] {
        differs("the user", &facts.uids, &[payload.uid; 4]);
    }
    if facts.gids != [payload.gid; 4] {
        differs("the group", &facts.gids, &[payload.gid; 4]);
    }
    if !expected.any_groups && facts.groups != payload.groups {
        differs("the list of supplementary groups", &facts.groups, &payload.groups);
    }
    for (set, mask) in &facts.capabilities {
        let allowed = if matches!(set.as_str(), "CapInh" | "CapAmb") { 0 } else { expected.capabilities };
        // Effective and permitted may hold less (a user other than root starts with none).
        if mask & !allowed != 0 {
            differs(&format!("the capability set {set}"), &format!("{mask:#x}"), &format!("{allowed:#x}"));
        }
    }
    if facts.capabilities.len() != 5 {
        differs("the number of capability sets", &facts.capabilities.len(), &5);
    }
    if !facts.no_new_privs {
        differs("no_new_privs", &false, &true);
    }
    if facts.seccomp_mode != 2 {
        differs("the seccomp mode", &facts.seccomp_mode, &2);
    }
    // Two filters make the profile; a kernel before 5.9 does not count them.
    if facts.seccomp_filters == 1 {
        differs("the number of seccomp filters", &facts.seccomp_filters, &2);
    }
    if facts.uid_map != expected.map.uids {
        differs("the uid map", &facts.uid_map, &expected.map.uids);
    }
    if facts.gid_map != expected.map.gids {
        differs("the gid map", &facts.gid_map, &expected.map.gids);
    }
    for name in NAMESPACES.into_iter().filter(|name| !facts.own_namespaces.contains(*name)) {
        differs(&format!("the {name} namespace"), &"the host's", &"the container's own");
    }
    compare_mounts(expected, facts, &mut differs);
    for descriptor in facts.descriptors.iter().filter(|d| !is_plumbing(d)) {
        differs("an open descriptor", descriptor, &"closed");
    }
    if facts.core_limit != Some(0) {
        differs("the core dump limit", &facts.core_limit, &0);
    }
    if let Some(cgroup) = &expected.cgroup
        && !facts.cgroups.iter().any(|line| line.ends_with(&format!("/{cgroup}")))
    {
        differs("the control group", &facts.cgroups, cgroup);
    }
    if let Some(limits) = &expected.limits {
        let is = facts.limits.clone().unwrap_or_default();
        let within = |is: Option<u64>, must: Option<u64>| must.is_none_or(|must| is.is_some_and(|is| is <= must));
        if !within(is.memory, limits.memory)
            || !within(is.memory_and_swap, limits.memory_and_swap)
            || !within(is.pids, limits.pids)
        {
            differs("a limit", &is, limits);
        }
        if limits.cpus.is_some_and(|must| is.cpus.is_none_or(|is| is > must + 0.01)) {
            differs("the processor limit", &is.cpus, &limits.cpus);
        }
    }
    found
}

fn compare_mounts(
    expected: &Expected,
    facts: &Enforced,
    differs: &mut dyn FnMut(&str, &dyn std::fmt::Debug, &dyn std::fmt::Debug),
) {
    for (point, flags) in &expected.mounts {
        let Some(options) = facts.mounts.get(point) else {
            differs(&format!("the mount {}", point.display()), &"missing", flags);
            continue;
        };
        for flag in flags.iter().filter(|flag| !options.iter().any(|o| o == *flag)) {
            differs(&format!("the mount {}", point.display()), options, flag);
        }
    }
    for (at, options) in &facts.mounts {
        if expected.mounts.contains_key(at) || expected.masked.contains(at) {
            continue;
        }
        // It may only be part of a tree that was asked for, and then it carries that tree's flags.
        let trees = expected.mounts.iter().filter(|(tree, _)| *tree != Path::new("/") && at.starts_with(tree));
        match trees.max_by_key(|(tree, _)| tree.components().count()) {
            Some((tree, _)) if tree == Path::new("/dev") && DEVICES.iter().any(|name| *at == tree.join(name)) => {}
            Some((tree, flags)) if tree != Path::new("/dev") => {
                for flag in flags.iter().filter(|f| **f != "noexec" && !options.iter().any(|o| o == *f)) {
                    differs(&format!("the mount {}", at.display()), options, flag);
                }
            }
            _ => differs("an unexpected mount", at, &"absent"),
        }
    }
    for masked in &expected.masked {
        let exists = Path::new("/").join(masked.strip_prefix("/").unwrap_or(masked)).exists();
        if exists && !facts.mounts.contains_key(masked) {
            differs("a masked path", masked, &"covered");
        }
    }
}

/// Sockets and pipes of ces itself, closed on exec: the start signal and the payload's status.
fn is_plumbing(descriptor: &str) -> bool {
    descriptor.starts_with("socket:") || descriptor.starts_with("pipe:")
}

fn own_namespaces(pid: Pid) -> Result<BTreeSet<String>> {
    let mut own = BTreeSet::new();
    for name in NAMESPACES {
        let link = |of: &str| {
            fs::read_link(format!("/proc/{of}/ns/{name}")).map_err(|e| unseen(&format!("ns/{name}"), &e.to_string()))
        };
        if link(&pid.to_string())? != link("self")? {
            own.insert(name.to_owned());
        }
    }
    Ok(own)
}

/// Mount point → options, of a mountinfo (proc_pid_mountinfo(5)); the last mount at a point counts.
fn mounts(mountinfo: &str) -> BTreeMap<PathBuf, Vec<String>> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(4);
            let (point, options) = (fields.next()?, fields.next()?);
            Some((PathBuf::from(unescape(point)), options.split(',').map(str::to_owned).collect()))
        })
        .collect()
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |s, (from, to)| s.replace(from, to))
}

fn descriptors(pid: Pid) -> Result<Vec<String>> {
    let dir = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|e| unseen("fd", &e.to_string()))?;
    Ok(dir
        .flatten()
        .filter(|entry| entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()).is_none_or(|n| n > 2))
        // A descriptor closed meanwhile leaves no link.
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect())
}

fn extents(text: &str) -> Result<Vec<Extent>> {
    text.lines()
        .map(|line| {
            let fields: Vec<u32> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
            match fields.as_slice() {
                [inside, outside, count] => Ok(Extent { inside: *inside, outside: *outside, count: *count }),
                _ => Err(unseen("uid_map", line)),
            }
        })
        .collect()
}

fn core_limit(limits: &str) -> Result<Option<u64>> {
    let line =
        limits.lines().find_map(|l| l.strip_prefix("Max core file size")).ok_or_else(|| unseen("limits", "core"))?;
    Ok(line.split_whitespace().nth(1).and_then(|hard| hard.parse().ok()))
}

fn unseen(what: &str, why: &str) -> Error {
    Error::new(Stage::Run, Kind::Host, format!("cannot see whether the protections are in force ({what})")).because(why)
}

#[cfg(test)]
mod tests;
