//! The enforced check: between create and start, ask the kernel whether every protection is in force.
//!
//! Takes the created container's first process and what the policy promises; gives an `Enforced`, the kernel's own
//! words for the record; trusts `/proc` and the cgroup files alone; refuses the start on the first difference.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde::Serialize;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::cgroup::Observed;
use crate::host::idmap::{Extent, IdMap};
use crate::host::ids::HostIds;
use crate::host::privilege::Root;

/// A check that cannot look.
mod unseen;
/// Read from `/proc`.
mod observe;
/// The container's own terminal.
mod terminal;

pub use observe::{Host, observe};
pub use terminal::Device;

/// The namespaces that a container never shares with the host.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// What is bound into `/dev`, one device a mount: the seven less `ptmx`, which devpts has; the console is the container's own.
const DEVICES: [&str; 7] = ["console", "full", "null", "random", "tty", "urandom", "zero"];

/// What those seven are; a console is a terminal of the container's own devpts.
const NUMBERS: [(&str, &str); 7] = [
    ("console", "c 136:"),
    ("full", "c 1:7"),
    ("null", "c 1:3"),
    ("random", "c 1:8"),
    ("tty", "c 5:0"),
    ("urandom", "c 1:9"),
    ("zero", "c 1:5"),
];

/// Loopback, and the ends of tunnels that a kernel puts into every network namespace; they are down, and nothing in the
/// container can bring them up (kernel docs: sysctl net, `fb_tunnels_only_for_init_net`).
const INTERFACES: [&str; 10] =
    ["lo", "erspan0", "gre0", "gretap0", "ip6_vti0", "ip6gre0", "ip6tnl0", "ip_vti0", "sit0", "tunl0"];

/// A limit of setrlimit(2); `None`: unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// In force.
    pub soft: Option<u64>,
    /// The most that the process may set.
    pub hard: Option<u64>,
}

/// What must be true of the container's first process.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Host ids of the payload.
    pub payload: HostIds,
    /// Supplementary groups it may have: the project's; an ordinary user's own, which cannot be dropped.
    pub groups: Vec<u32>,
    /// The user namespace's maps.
    pub map: IdMap,
    /// Capabilities of the profile, as a bit mask; 0 for `batch`.
    pub capabilities: u64,
    /// Mount points and the flags each must carry.
    pub mounts: BTreeMap<PathBuf, Vec<&'static str>>,
    /// Mount points whose file systems are the container's own, shared with no one: `/proc`, `/dev`, …
    pub own: BTreeSet<PathBuf>,
    /// Masked paths that the kernel has: each must be covered.
    pub masked: BTreeSet<PathBuf>,
    /// How many seccomp filters at least: the profile's, and those that ces itself runs under.
    pub seccomp_filters: Option<u32>,
    /// Limits of the process, by podman's names.
    pub rlimits: BTreeMap<String, Rlimit>,
    /// The limits; none where the host cannot set them and the policy does not require it.
    pub limits: Option<Observed>,
    /// The name of the job's cgroup, if it has one.
    pub cgroup: Option<String>,
    /// The container's own terminal, which is then its three streams; else these are pipes or the null device.
    pub terminal: Option<Device>,
}

impl Expected {
    /// The same for an image whose symbolic links lead mount points elsewhere: each as asked, as it is.
    #[must_use]
    pub fn led_elsewhere(mut self, moved: &[(PathBuf, PathBuf)]) -> Self {
        if !moved.is_empty() {
            let place = |at: PathBuf| moved.iter().find(|(asked, _)| *asked == at).map_or(at, |(_, is)| is.clone());
            self.mounts = self.mounts.into_iter().map(|(at, flags)| (place(at), flags)).collect();
            self.own = self.own.into_iter().map(place).collect();
        }
        self
    }

    /// The same for a command of `ces exec` that becomes another user, as the container numbers it.
    ///
    /// # Errors
    /// When the container has no such user.
    pub fn becomes(&mut self, uid: u32, gid: u32) -> Result<()> {
        let outside = self.map.uid_outside(uid).zip(self.map.gid_outside(gid));
        (self.payload.uid, self.payload.gid) = outside.ok_or_else(|| {
            Error::new(Stage::Run, Kind::Missing, format!("the container has no user {uid} with group {gid}"))
        })?;
        Ok(())
    }
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
    /// How many seccomp filters; a kernel before 5.9 does not say.
    pub seccomp_filters: Option<u32>,
    /// `uid_map`.
    pub uid_map: Vec<Extent>,
    /// `gid_map`.
    pub gid_map: Vec<Extent>,
    /// Namespaces that are not the host's.
    pub own_namespaces: BTreeSet<String>,
    /// Mount point → options.
    pub mounts: BTreeMap<PathBuf, Vec<String>>,
    /// Mount points at which a file system of the host's is seen.
    pub of_the_host: BTreeSet<PathBuf>,
    /// Mount points that pass mounts on to others, or take them from others.
    pub peers: BTreeMap<PathBuf, String>,
    /// Network interfaces.
    pub interfaces: Vec<String>,
    /// IPv4 routes.
    pub routes: Vec<String>,
    /// What the descriptors above standard error are.
    pub descriptors: Vec<String>,
    /// Standard input, output and error, as far as they are devices.
    pub streams: [Option<Device>; 3],
    /// Those of them that are neither a device nor a pipe, by what they lead to: the caller's own.
    pub of_the_caller: Vec<String>,
    /// The controlling terminal, as proc_pid_stat(5) numbers it; 0: none.
    pub terminal: u64,
    /// Devices in `/dev`, by name.
    pub devices: BTreeMap<String, String>,
    /// Limits of the process.
    pub rlimits: BTreeMap<String, Rlimit>,
    /// The control groups the process is in.
    pub cgroups: Vec<String>,
    /// The limits, read back.
    pub limits: Option<Observed>,
}

/// Asks the kernel about `pid`, beside the `host`, and compares.
///
/// # Errors
/// Every difference, named; or a file of `/proc` that cannot be read.
pub fn check(_: &Root, pid: Pid, host: &Host, expected: &Expected, limits: Option<Observed>) -> Result<Enforced> {
    let mut facts = observe(pid, host)?;
    facts.limits = limits;
    let differences = compare(expected, &facts);
    if differences.is_empty() {
        return Ok(facts);
    }
    let error = Error::new(Stage::Run, Kind::Host, "a protection is not in force; the payload was not started");
    Err(differences.iter().fold(error, Error::because).hint("please report this, with the output of ces doctor"))
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
    if facts.groups.iter().any(|group| !expected.groups.contains(group)) {
        differs("the list of supplementary groups", &facts.groups, &expected.groups);
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
    if expected.seccomp_filters.is_some_and(|must| facts.seccomp_filters.is_none_or(|is| is < must)) {
        differs("the number of seccomp filters", &facts.seccomp_filters, &expected.seccomp_filters);
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
    for interface in facts.interfaces.iter().filter(|name| !INTERFACES.contains(&name.as_str())) {
        differs("a network interface", interface, &"absent");
    }
    for route in &facts.routes {
        differs("a network route", route, &"absent");
    }
    for descriptor in facts.descriptors.iter().filter(|d| !is_plumbing(d)) {
        differs("an open descriptor", descriptor, &"closed");
    }
    terminal::compare(expected, facts, &mut differs);
    for (name, is) in &facts.devices {
        let must = NUMBERS.iter().find(|(known, _)| known == name).map_or("absent", |(_, number)| number);
        if is != must && !(name == "console" && is.starts_with(must)) {
            differs(&format!("the device /dev/{name}"), is, &must);
        }
    }
    compare_rlimits(expected, facts, &mut differs);
    if let Some(cgroup) = &expected.cgroup {
        let io = expected.limits.as_ref().is_some_and(|limits| !limits.io.is_empty());
        for line in outside(cgroup, io, &facts.cgroups) {
            differs("the control group", &line, cgroup);
        }
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
        for (disk, must) in &limits.io {
            if is.io.get(disk).is_none_or(|is| is > must) {
                differs(&format!("the limit of traffic with the disk {disk}"), &is.io.get(disk), must);
            }
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
        let above = at.ancestors().skip(1).filter(|tree| *tree != Path::new("/"));
        match above.filter_map(|tree| expected.mounts.get_key_value(tree)).next() {
            Some((tree, _)) if tree == Path::new("/dev") && DEVICES.iter().any(|name| *at == tree.join(name)) => {}
            Some((tree, flags)) if tree != Path::new("/dev") => {
                for flag in flags.iter().filter(|f| **f != "noexec" && !options.iter().any(|o| o == *f)) {
                    differs(&format!("the mount {}", at.display()), options, flag);
                }
            }
            _ => differs("an unexpected mount", at, &"absent"),
        }
    }
    for at in expected.own.intersection(&facts.of_the_host) {
        differs(&format!("the mount {}", at.display()), &"the host's", &"the container's own");
    }
    for (at, peers) in &facts.peers {
        differs(&format!("the mount {}", at.display()), peers, &"private");
    }
    for masked in expected.masked.iter().filter(|masked| !facts.mounts.contains_key(*masked)) {
        differs("a masked path", masked, &"covered");
    }
}

fn compare_rlimits(
    expected: &Expected,
    facts: &Enforced,
    differs: &mut dyn FnMut(&str, &dyn std::fmt::Debug, &dyn std::fmt::Debug),
) {
    let within = |is: Option<u64>, must: Option<u64>| must.is_none_or(|must| is.is_some_and(|is| is <= must));
    // Whatever the spec says: a core dump would leave the container.
    let core = ("core".to_owned(), Rlimit { soft: Some(0), hard: Some(0) });
    for (name, must) in expected.rlimits.iter().chain([(&core.0, &core.1)]) {
        let is = facts.rlimits.get(name);
        if !is.is_some_and(|is| within(is.soft, must.soft) && within(is.hard, must.hard)) {
            differs(&format!("the process limit {name}"), &is, must);
        }
    }
}

/// The lines of `/proc/PID/cgroup` by which a process is not in the group: a hierarchy of version 1 whose limits are set,
/// or version 2 where none of those is there (cgroups(7)). `io`: traffic with disks has a limit.
fn outside<'a>(cgroup: &str, io: bool, lines: &'a [String]) -> Vec<&'a str> {
    let inside = |line: &str| line.ends_with(&format!("/{cgroup}"));
    let limited = |line: &&str| {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        controllers.split(',').any(|c| matches!(c, "memory" | "cpu" | "pids") || io && c == "blkio")
    };
    let lines = || lines.iter().map(String::as_str);
    if lines().any(|line| limited(&line)) {
        return lines().filter(limited).filter(|line| !inside(line)).collect();
    }
    if lines().any(inside) { Vec::new() } else { vec!["none of this host's"] }
}

/// Sockets and pipes of ces itself, closed on exec: the start signal and the payload's status.
fn is_plumbing(descriptor: &str) -> bool {
    (descriptor.starts_with("socket:") || descriptor.starts_with("pipe:")) && !descriptor.ends_with(" kept open")
}

#[cfg(test)]
mod tests;
