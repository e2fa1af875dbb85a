//! What the kernel says of a created container, read from `/proc`.
//!
//! Takes a process; gives an `Enforced`; trusts the kernel's files alone; refuses to guess: what cannot be read does not
//! count as in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{fstatat, major, minor};
use nix::unistd::Pid;

use super::terminal;
use super::unseen::unseen;
use super::{Enforced, NAMESPACES, Rlimit};
use crate::error::Result;
use crate::host::idmap::Extent;
use crate::host::kernel_files;

/// What a container must not have in common with the host: what this very process has.
#[derive(Debug, Clone)]
pub struct Host {
    namespaces: Vec<(&'static str, PathBuf)>,
    /// `major:minor` of every file system that is mounted.
    file_systems: BTreeSet<String>,
    /// Seccomp filters: those that ces inherits, the container inherits too; a kernel before 5.9 does not say.
    pub seccomp_filters: Option<u32>,
}

impl Host {
    /// Looks at this process. Nothing of it changes until the container is made, so there is time for it before.
    ///
    /// # Errors
    /// When a file of the kernel's cannot be read.
    pub fn observe() -> Result<Self> {
        let namespaces = NAMESPACES.map(|name| namespace("self", name).map(|link| (name, link)));
        let status = kernel_files::read("/proc/self/status").map_err(|e| unseen("status", &e.to_string()))?;
        Ok(Self {
            namespaces: namespaces.into_iter().collect::<Result<_>>()?,
            file_systems: mounts_of("self")?.into_iter().map(|mount| mount.device).collect(),
            seccomp_filters: seccomp_filters(&status),
        })
    }
}

/// Reads what the kernel says of `pid`, beside the `host`.
///
/// # Errors
/// When a file cannot be read or understood: a protection that cannot be seen does not count.
pub fn observe(pid: Pid, host: &Host) -> Result<Enforced> {
    let read = |name: &str| kernel_files::read(format!("/proc/{pid}/{name}")).map_err(|e| unseen(name, &e.to_string()));
    let status = read("status")?;
    let field = |name: &str| field(&status, name).ok_or_else(|| unseen("status", name));
    let ids = |name: &str| -> Result<Vec<u32>> {
        field(name)?.split_whitespace().map(|id| id.parse().map_err(|_| unseen("status", name))).collect()
    };
    let number = |name: &str| -> Result<u32> { field(name)?.parse().map_err(|_| unseen("status", name)) };
    let mut capabilities = BTreeMap::new();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let mask = u64::from_str_radix(field(set)?, 16).map_err(|_| unseen("status", set))?;
        capabilities.insert(set.to_owned(), mask);
    }
    let mounted = mounted(&read("mountinfo")?);
    let mut facts = Enforced {
        uids: ids("Uid")?,
        gids: ids("Gid")?,
        groups: ids("Groups")?,
        capabilities,
        no_new_privs: number("NoNewPrivs")? == 1,
        seccomp_mode: number("Seccomp")?,
        seccomp_filters: seccomp_filters(&status),
        uid_map: extents(&read("uid_map")?)?,
        gid_map: extents(&read("gid_map")?)?,
        own_namespaces: own_namespaces(pid, host)?,
        interfaces: interfaces(&read("net/dev")?),
        routes: routes(&read("net/route")?),
        descriptors: descriptors(pid)?,
        streams: [0, 1, 2].map(|number| terminal::stream(pid, number)),
        of_the_caller: [0, 1, 2].into_iter().filter_map(|number| terminal::of_the_caller(pid, number)).collect(),
        terminal: terminal::controlling(&read("stat")?)?,
        devices: devices(pid)?,
        rlimits: rlimits(&read("limits")?),
        cgroups: read("cgroup")?.lines().map(str::to_owned).collect(),
        ..Enforced::default()
    };
    // The last mount at a point is the one that is seen.
    for mount in mounted {
        let (at, at_again) = (mount.at.clone(), mount.at.clone());
        if host.file_systems.contains(&mount.device) {
            facts.of_the_host.insert(at)
        } else {
            facts.of_the_host.remove(&at)
        };
        if mount.peers.is_empty() {
            facts.peers.remove(&at_again)
        } else {
            facts.peers.insert(at_again, mount.peers)
        };
        facts.mounts.insert(mount.at, mount.options);
    }
    Ok(facts)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Since 5.9.
fn seccomp_filters(status: &str) -> Option<u32> {
    field(status, "Seccomp_filters")?.parse().ok()
}

fn own_namespaces(pid: Pid, host: &Host) -> Result<BTreeSet<String>> {
    let mut own = BTreeSet::new();
    for (name, hosts) in &host.namespaces {
        if namespace(&pid.to_string(), name)? != *hosts {
            own.insert((*name).to_owned());
        }
    }
    Ok(own)
}

fn namespace(process: &str, name: &str) -> Result<PathBuf> {
    let link = fs::read_link(format!("/proc/{process}/ns/{name}"));
    link.map_err(|e| unseen(&format!("ns/{name}"), &e.to_string()))
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
struct Mounted {
    at: PathBuf,
    device: String,
    options: Vec<String>,
    /// `shared:N`, `master:N`; empty for a private mount.
    peers: String,
}

fn mounts_of(process: &str) -> Result<Vec<Mounted>> {
    let text = kernel_files::read(format!("/proc/{process}/mountinfo"));
    text.map(|text| mounted(&text)).map_err(|e| unseen("mountinfo", &e.to_string()))
}

fn mounted(mountinfo: &str) -> Vec<Mounted> {
    let line = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let (device, _, at, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let peers: Vec<&str> = fields.take_while(|field| *field != "-").filter(|f| *f != "unbindable").collect();
        Some(Mounted {
            at: PathBuf::from(unescape(at)),
            device: device.to_owned(),
            options: options.split(',').map(str::to_owned).collect(),
            peers: peers.join(" "),
        })
    };
    mountinfo.lines().filter_map(line).collect()
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |s, (from, to)| s.replace(from, to))
}

/// Names of `/proc/PID/net/dev`, below two lines of heading.
fn interfaces(dev: &str) -> Vec<String> {
    dev.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Lines of `/proc/PID/net/route`, below one line of heading.
fn routes(route: &str) -> Vec<String> {
    route.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// What the descriptors above standard error lead to; one that the payload would inherit says so.
fn descriptors(pid: Pid) -> Result<Vec<String>> {
    let dir = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|e| unseen("fd", &e.to_string()))?;
    let mut found = Vec::new();
    for entry in dir.flatten() {
        let number = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok());
        if number.is_some_and(|n| n <= 2) {
            continue;
        }
        let info = PathBuf::from(format!("/proc/{pid}/fdinfo/{}", number.unwrap_or(0)));
        found.extend(descriptor(&entry.path(), &info));
    }
    Ok(found)
}

/// What one descriptor leads to, and whether it is kept open on exec. One that is closed meanwhile (the engine drops its
/// channels while it waits for the start) leaves no link, or no more than that; what has a link and never tells, counts as
/// kept open.
pub(super) fn descriptor(link: &Path, info: &Path) -> Option<String> {
    for _ in 0..3 {
        let target = fs::read_link(link).ok()?.to_string_lossy().into_owned();
        if let Ok(info) = kernel_files::read(info) {
            return Some(if closes_on_exec(&info) { target } else { target + " kept open" });
        }
    }
    fs::read_link(link).ok().map(|target| format!("{} kept open", target.display()))
}

/// `flags:` of fdinfo is octal (proc_pid_fdinfo(5)).
fn closes_on_exec(fdinfo: &str) -> bool {
    let flags = field(fdinfo, "flags").and_then(|flags| i32::from_str_radix(flags, 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
}

/// Devices directly in `/dev` by name: kind and numbers, such as `c 1:3`.
fn devices(pid: Pid) -> Result<BTreeMap<String, String>> {
    let fail = |e: nix::Error| unseen("root/dev", e.desc());
    // The link is the kernel's; below it nothing is followed.
    let root = nix::fcntl::open(
        Path::new(&format!("/proc/{pid}/root")),
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(fail)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
    let dev = openat2(root.as_fd(), "dev", how).map_err(fail)?;
    let again = dev.try_clone().map_err(|e| unseen("root/dev", &e.to_string()))?;
    let mut found = BTreeMap::new();
    for entry in nix::dir::Dir::from_fd(dev).map_err(fail)?.iter() {
        let entry = entry.map_err(fail)?;
        let stat = fstatat(&again, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(fail)?;
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFCHR => 'c',
            libc::S_IFBLK => 'b',
            _ => continue,
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        found.insert(name, format!("{kind} {}:{}", major(stat.st_rdev), minor(stat.st_rdev)));
    }
    Ok(found)
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

/// How `/proc/PID/limits` calls the limits of setrlimit(2).
const RLIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "cpu"),
    ("Max file size", "fsize"),
    ("Max data size", "data"),
    ("Max stack size", "stack"),
    ("Max core file size", "core"),
    ("Max resident set", "rss"),
    ("Max processes", "nproc"),
    ("Max open files", "nofile"),
    ("Max locked memory", "memlock"),
    ("Max address space", "as"),
    ("Max file locks", "locks"),
    ("Max pending signals", "sigpending"),
    ("Max msgqueue size", "msgqueue"),
    ("Max nice priority", "nice"),
    ("Max realtime priority", "rtprio"),
    ("Max realtime timeout", "rttime"),
];

fn rlimits(text: &str) -> BTreeMap<String, Rlimit> {
    let value = |field: Option<&str>| field.and_then(|f| f.parse().ok());
    let of = |(heading, name): &(&str, &str)| {
        let mut fields = text.lines().find_map(|line| line.strip_prefix(heading))?.split_whitespace();
        Some(((*name).to_owned(), Rlimit { soft: value(fields.next()), hard: value(fields.next()) }))
    };
    RLIMITS.iter().filter_map(of).collect()
}
