//! Control groups: one a job, made before anything runs, its limits read back from the kernel.
//!
//! Takes a job id, a process and the limits; gives a `Cgroup`; trusts the kernel's files alone; refuses to call a
//! limit set that it cannot read back. cgroup v1, hybrid and v2 (kernel docs: admin-guide/cgroup-v1, cgroup-v2).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libcgroups::common::{
    AnyCgroupManager, CgroupConfig, CgroupManager, CgroupSetup, ControllerOpt, create_cgroup_manager, get_cgroup_setup,
};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;

use crate::error::{Error, Kind, Result, Stage};

/// Every cgroup of ours carries this prefix, so that a sweep knows its own.
pub const PREFIX: &str = "ces-";

/// Calls to the service manager.
mod dbus;
/// Scopes of systemd.
mod systemd;
/// Version 2.
mod v2;

/// The cgroup of one job.
#[allow(missing_debug_implementations, reason = "libcgroups' manager has none")]
pub struct Cgroup(Version);

#[allow(missing_debug_implementations, reason = "libcgroups' manager has none")]
enum Version {
    One { manager: AnyCgroupManager, files: Files },
    Two(v2::Group),
}

/// The limits in force, as the kernel's files say; `None` where the kernel says "no limit".
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Observed {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Memory and swap together, in bytes.
    pub memory_and_swap: Option<u64>,
    /// Processors.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Observed {
    /// The same, less what the controllers in `missing` would limit.
    #[must_use]
    pub fn without(self, missing: &[&str]) -> Self {
        let has = |name: &str| !missing.contains(&name);
        Self {
            memory: self.memory.filter(|_| has("memory")),
            memory_and_swap: self.memory_and_swap.filter(|_| has("memory")),
            cpus: self.cpus.filter(|_| has("cpu")),
            pids: self.pids.filter(|_| has("pids")),
        }
    }
}

/// What the job used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// The highest memory use, in bytes.
    pub peak_memory: Option<u64>,
    /// Processes that the kernel killed because the memory limit was reached.
    pub oom_kills: u64,
}

impl Cgroup {
    /// Makes the cgroup `ces-<job>`, puts `pid` into it and sets the limits.
    ///
    /// # Errors
    /// When the host has no usable cgroup set-up, or the kernel refuses a limit.
    pub fn create(job: &str, pid: Pid, resources: &LinuxResources) -> Result<Self> {
        if matches!(setup()?, CgroupSetup::Unified) {
            return v2::Group::create(job, pid, resources).map(|group| Self(Version::Two(group))).map_err(|e| {
                fail("no control group can be had here")
                    .because(e)
                    .hint("as an ordinary user, log in so that systemd runs a manager for you; else use sudo")
            });
        }
        let name = format!("{PREFIX}{job}");
        let manager = v1_manager(&name)?;
        let cgroup = Self(Version::One { manager, files: Files(v1_directories(&name)?) });
        let made = cgroup.fill(pid, resources);
        if made.is_err() {
            // Best effort: what is left is empty or dies with the job; the next sweep removes it.
            cgroup.remove().ok();
        }
        made.map(|()| cgroup)
    }

    fn fill(&self, pid: Pid, resources: &LinuxResources) -> Result<()> {
        let Version::One { manager, .. } = &self.0 else { return Ok(()) };
        let pid = nix_of_libcgroups::unistd::Pid::from_raw(pid.as_raw());
        manager.add_task(pid).map_err(|e| fail("cannot put the job into its control group").caused_by(&e))?;
        let options = ControllerOpt { resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
        manager.apply(&options).map_err(|e| fail("the kernel refused a resource limit").caused_by(&e))
    }

    /// Limits that cannot be had here: `memory`, `cpu`, `pids`.
    pub fn missing(&self) -> &[&'static str] {
        match &self.0 {
            Version::One { .. } => &[],
            Version::Two(group) => group.missing(),
        }
    }

    /// The limits in force.
    ///
    /// # Errors
    /// When a file that must exist cannot be read or understood.
    pub fn observed(&self) -> Result<Observed> {
        let observed = match &self.0 {
            Version::One { files, .. } => files.observed(),
            Version::Two(group) => group.observed(),
        };
        observed.map_err(|e| fail("cannot read the limits back").because(e))
    }

    /// What the job used so far.
    pub fn usage(&self) -> Usage {
        match &self.0 {
            Version::One { files, .. } => files.usage(),
            Version::Two(group) => group.usage(),
        }
    }

    /// Kills what is left in the cgroup and removes it.
    ///
    /// # Errors
    /// When a process does not die or the kernel keeps the directory.
    pub fn remove(&self) -> Result<()> {
        let what = "cannot remove the job's control group";
        match &self.0 {
            Version::One { manager, .. } => manager.remove().map_err(|e| fail(what).caused_by(&e)),
            Version::Two(group) => group.remove().map_err(|e| fail(what).because(e)),
        }
    }
}

fn v1_manager(name: &str) -> Result<AnyCgroupManager> {
    create_cgroup_manager(CgroupConfig {
        cgroup_path: Path::new("/").join(name),
        systemd_cgroup: false,
        container_name: name.to_owned(),
    })
    .map_err(|e| fail("cannot use control groups").caused_by(&e))
}

/// Removes the cgroup of a job whose supervisor is gone.
///
/// # Errors
/// As [`Cgroup::remove`].
pub fn remove_stale(job: &str) -> Result<()> {
    let what = "cannot remove a stale control group";
    if matches!(setup()?, CgroupSetup::Unified) {
        return v2::remove_stale(job).map_err(|e| fail(what).because(e));
    }
    v1_manager(&format!("{PREFIX}{job}"))?.remove().map_err(|e| fail(what).caused_by(&e))
}

/// Which cgroup set-up the host has.
///
/// # Errors
/// When `/sys/fs/cgroup` is neither.
pub fn setup() -> Result<CgroupSetup> {
    get_cgroup_setup().map_err(|e| {
        fail("this host has no control groups at /sys/fs/cgroup")
            .caused_by(&e)
            .hint("mount cgroup2 there, or ask the administrator")
    })
}

fn fail(what: &str) -> Error {
    Error::new(Stage::Host, Kind::Host, what)
}

/// Where the kernel's files of one cgroup are, by controller.
struct Files(BTreeMap<&'static str, PathBuf>);

impl Files {
    fn observed(&self) -> io::Result<Observed> {
        let dirs = &self.0;
        let bytes = |file: &str| dirs.get("memory").map(|d| v1_bytes(&d.join(file))).transpose().map(Option::flatten);
        let cpus = match dirs.get("cpu") {
            None => None,
            Some(dir) => {
                let quota: i64 = number(&dir.join("cpu.cfs_quota_us"))?;
                let period: u32 = number(&dir.join("cpu.cfs_period_us"))?;
                u32::try_from(quota).ok().map(|quota| f64::from(quota) / f64::from(period.max(1)))
            }
        };
        Ok(Observed {
            memory: bytes("memory.limit_in_bytes")?,
            memory_and_swap: bytes("memory.memsw.limit_in_bytes")?,
            cpus,
            pids: dirs.get("pids").map(|d| or_max(&d.join("pids.max"))).transpose()?.flatten(),
        })
    }

    fn usage(&self) -> Usage {
        let Some(dir) = self.0.get("memory") else { return Usage::default() };
        Usage {
            peak_memory: number(&dir.join("memory.max_usage_in_bytes")).ok(),
            oom_kills: field(&dir.join("memory.oom_control"), "oom_kill"),
        }
    }
}

/// The directories of cgroup `name` in the hierarchies whose limits are read back.
fn v1_directories(name: &str) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| fail("cannot read the mounts").because(e))?;
    Ok(["memory", "cpu", "pids"]
        .into_iter()
        .filter_map(|controller| Some((controller, v1_mount(&mounts, controller)?.join(name))))
        .collect())
}

/// The mount point of a v1 controller (proc_pid_mountinfo(5): the super options name the controllers).
fn v1_mount(mountinfo: &str, controller: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, super_block) = line.split_once(" - ")?;
        let mut super_block = super_block.split(' ');
        (super_block.next()? == "cgroup").then_some(())?;
        let options = super_block.nth(1)?;
        options.split(',').any(|o| o == controller).then_some(())?;
        Some(PathBuf::from(mount.split(' ').nth(4)?))
    })
}

fn number<T: std::str::FromStr>(path: &Path) -> io::Result<T> {
    fs::read_to_string(path)?
        .trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a number", path.display())))
}

fn or_max(path: &Path) -> io::Result<Option<u64>> {
    match fs::read_to_string(path)?.trim() {
        "max" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a number", path.display()))),
    }
}

/// v1 writes "no limit" as the largest multiple of the page size.
fn v1_bytes(path: &Path) -> io::Result<Option<u64>> {
    const NO_LIMIT: u64 = 1 << 62;
    number(path).map(|bytes| Some(bytes).filter(|bytes| *bytes < NO_LIMIT))
}

fn field(path: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v1_controller_is_found_by_its_super_options() {
        let info = "30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cpu rw,cpu\n\
                    31 25 0:27 / /sys/fs/cgroup/mem rw - cgroup memory rw,memory\n";
        assert_eq!(v1_mount(info, "memory"), Some(PathBuf::from("/sys/fs/cgroup/mem")));
        assert_eq!(v1_mount(info, "pids"), None);
    }
}
