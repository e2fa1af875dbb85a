//! Control groups: one a job, made before anything runs, its limits read back from the kernel.
//!
//! Takes a job id, a process and the limits; gives a `Cgroup`; trusts the kernel's files alone; refuses to call a
//! limit set that it cannot read back. cgroup v1, hybrid and v2 (kernel docs: admin-guide/cgroup-v1, cgroup-v2).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::kernel_files;
use crate::host::privilege::Root;

/// Every cgroup of ours carries this prefix, so that a sweep knows its own.
pub const PREFIX: &str = "ces-";

/// Which group a process is in.
mod membership;
/// One command at a time.
mod lock;
/// Calls to the service manager.
mod dbus;
/// Scopes of systemd.
mod systemd;
/// Version 1, and the hybrid set-up.
mod v1;
/// Version 2.
mod v2;

/// The cgroup of one job.
#[derive(Debug)]
pub struct Cgroup(Version);

#[derive(Debug)]
enum Version {
    One(v1::Group),
    Two(v2::Group),
}

/// Which control groups the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// A tree for each controller, perhaps with a version 2 tree beside them.
    One,
    /// One tree.
    Two,
}

impl std::fmt::Display for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::One => "version 1",
            Self::Two => "version 2",
        })
    }
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
    /// Bytes a second to or from each disk with a limit for both, the larger of the two.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub io: BTreeMap<String, u64>,
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
            io: if has("io") { self.io } else { BTreeMap::new() },
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
    /// The most processes and threads at once, where the kernel counts that (6.1).
    pub peak_pids: Option<u64>,
    /// Time of processors, in microseconds.
    pub cpu: Option<u64>,
}

impl Cgroup {
    /// Takes this process of root's out of a group that somebody else may change: they could freeze it.
    ///
    /// # Errors
    /// When the kernel refuses: then nothing should run.
    pub fn leave_groups_of_others(_: &Root) -> Result<()> {
        membership::leave_groups_of_others().map_err(|e| {
            fail("cannot leave the control group in which ces was called, which is not root's")
                .because(e)
                .hint("call ces from a login shell, outside of a scope or service of your own")
        })
    }

    /// Takes this process of root's out of every group: of a batch job, too.
    ///
    /// # Errors
    /// The kernel's.
    pub fn leave_every_group(_: &Root) -> std::io::Result<()> {
        membership::leave_every_group()
    }

    /// Makes the cgroup `ces-<job>` and sets the limits, where a process can enter it by itself, through its [`entrances`](Self::entrances):
    /// version 1; `None` elsewhere, where [`create`](Self::create) moves it.
    ///
    /// # Errors
    /// When the host has no control groups, or the kernel refuses a limit.
    pub fn prepare(_: &Root, job: &str, resources: &LinuxResources) -> Result<Option<Self>> {
        match setup()? {
            Setup::Two => Ok(None),
            Setup::One => v1::Group::create(job, resources)
                .map(|group| Some(Self(Version::One(group))))
                .map_err(|e| fail("no control group can be made here").because(e)),
        }
    }

    /// Files of a prepared cgroup: a process of one thread that writes `0` into each is in it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn entrances(&self, _: &Root) -> Result<Vec<OwnedFd>> {
        match &self.0 {
            Version::One(group) => group.entrances().map_err(|e| fail("cannot enter the control group").because(e)),
            Version::Two(_) => Ok(Vec::new()),
        }
    }

    /// Makes the cgroup `ces-<job>` of version 2, puts `pid` into it and sets the limits.
    ///
    /// # Errors
    /// When the host has no usable cgroup set-up, or the kernel refuses a limit.
    pub fn create(_: &Root, job: &str, pid: Pid, resources: &LinuxResources) -> Result<Self> {
        v2::Group::create(job, pid, resources)
            .map(|group| Self(Version::Two(group)))
            .map_err(|e| fail("no control group can be made here").because(e).hint(v2::remedy()))
    }

    /// Limits that cannot be had here: `memory`, `cpu`, `pids`, and `io` where one was asked for.
    pub fn missing(&self) -> &[&'static str] {
        match &self.0 {
            Version::One(_) => &[],
            Version::Two(group) => group.missing(),
        }
    }

    /// The limits in force.
    ///
    /// # Errors
    /// When a file that must exist cannot be read or understood.
    pub fn observed(&self, _: &Root) -> Result<Observed> {
        let observed = match &self.0 {
            Version::One(group) => group.observed(),
            Version::Two(group) => group.observed(),
        };
        observed.map_err(|e| fail("cannot read the limits back").because(e))
    }

    /// Puts another process of one thread into the group.
    ///
    /// # Errors
    /// When the kernel refuses, or the group is gone.
    pub fn take_in(&self, _: &Root, pid: Pid) -> Result<()> {
        let taken = match &self.0 {
            Version::One(group) => group.take_in(pid),
            Version::Two(group) => group.take_in(pid),
        };
        taken.map_err(|e| fail("cannot put a process into the control group").because(e))
    }

    /// What the job used so far.
    pub fn usage(&self, _: &Root) -> Usage {
        match &self.0 {
            Version::One(group) => group.usage(),
            Version::Two(group) => group.usage(),
        }
    }

    /// Kills what is left in the cgroup and removes it.
    ///
    /// # Errors
    /// When a process does not die or the kernel keeps the directory.
    pub fn remove(&self, _: &Root) -> Result<()> {
        let removed = match &self.0 {
            Version::One(group) => group.remove(),
            Version::Two(group) => group.remove(),
        };
        removed.map_err(|e| fail("cannot remove the job's control group").because(e))
    }
}

/// How many processes the kernel killed for want of memory around this process: of a job without a group of its own, that
/// is what can be known. None where nothing counts them (version 1, or no limit of memory).
pub fn kills_around() -> Option<u64> {
    matches!(setup(), Ok(Setup::Two)).then(v2::kills_around).flatten()
}

/// Removes the cgroup of a job whose supervisor is gone.
///
/// # Errors
/// As [`Cgroup::remove`].
pub fn remove_stale(_: &Root, job: &str) -> Result<()> {
    let removed = match setup()? {
        Setup::One => v1::remove_stale(job),
        Setup::Two => v2::remove_stale(job),
    };
    removed.map_err(|e| fail("cannot remove a stale control group").because(e))
}

/// Which cgroup set-up the host has.
///
/// # Errors
/// When there is nothing at `/sys/fs/cgroup`.
pub fn setup() -> Result<Setup> {
    let nothing = |e: &dyn std::fmt::Display| {
        fail("this host has no control groups at /sys/fs/cgroup")
            .because(e.to_string())
            .hint("mount cgroup2 there, or ask the administrator")
    };
    match statfs("/sys/fs/cgroup").map_err(|e| nothing(&e.desc()))?.filesystem_type() {
        CGROUP2_SUPER_MAGIC => Ok(Setup::Two),
        _ if Path::new("/sys/fs/cgroup/memory/tasks").exists() => Ok(Setup::One),
        _ => Err(nothing(&"neither version 2 nor the controllers of version 1")),
    }
}

/// Bytes a second that `resources` allow to and from each disk: the specs of ces have the same limit both ways.
pub fn io_limits(resources: &LinuxResources) -> BTreeMap<String, u64> {
    let devices = resources.block_io().as_ref().and_then(|io| io.throttle_read_bps_device().as_ref());
    let disk = |device: &LinuxThrottleDevice| (format!("{}:{}", device.major(), device.minor()), device.rate());
    devices.into_iter().flatten().map(disk).collect()
}

fn fail(what: &str) -> Error {
    Error::new(Stage::Host, Kind::Host, what)
}

fn number<T: std::str::FromStr>(path: &Path) -> io::Result<T> {
    kernel_files::read(path)?
        .trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a number", path.display())))
}

fn or_max(path: &Path) -> io::Result<Option<u64>> {
    match kernel_files::read(path)?.trim() {
        "max" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a number", path.display()))),
    }
}

fn field(path: &Path, name: &str) -> u64 {
    let text = kernel_files::read(path).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

/// The kernel's error with the file's name, and its number where it has one.
fn named(path: &Path, e: &io::Error) -> io::Error {
    match e.raw_os_error().map(Errno::from_raw) {
        // These decide what happens next.
        Some(Errno::EBUSY | Errno::ESRCH) => io::Error::from_raw_os_error(e.raw_os_error().unwrap_or_default()),
        _ => io::Error::new(e.kind(), format!("{}: {e}", path.display())),
    }
}
