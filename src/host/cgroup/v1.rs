//! Version 1, and the hybrid set-up: a group in each hierarchy that limits something (admin-guide/cgroup-v1).
//!
//! Takes a job and the limits; gives the job's `Group`, which a process enters by itself; trusts the kernel's files;
//! refuses where a controller is missing.
//!
//! A process that is moved by another one waits until every processor has passed a quiet point, for milliseconds; a
//! thread that moves itself does not (`cgroup_procs_write_start` in the kernel's kernel/cgroup/cgroup.c). So the stage
//! process enters its groups itself, as its first act, while it has one thread.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;

use crate::host::kernel_files;

use super::{Observed, PREFIX, Usage, field, io_limits, named, number, or_max};

/// How long killed processes may take to leave their group.
const PATIENCE: Duration = Duration::from_secs(5);

/// The job's groups.
#[derive(Debug)]
pub(super) struct Group {
    memory: PathBuf,
    cpu: PathBuf,
    pids: PathBuf,
    /// Where traffic with disks has a limit.
    blkio: Option<PathBuf>,
}

/// Limits of traffic with disks, in bytes a second (admin-guide/cgroup-v1/blkio-controller, "Throttling/Upper Limit
/// policy"). Version 1 counts what is written later for others, by the kernel itself, as the kernel's own.
const THROTTLES: [&str; 2] = ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"];

impl Group {
    /// Makes the groups and sets the limits; nobody is in them yet.
    pub(super) fn create(job: &str, resources: &LinuxResources) -> io::Result<Self> {
        let group = Self::of(job, !io_limits(resources).is_empty())?;
        let made = group.fill(resources);
        if made.is_err() {
            // Best effort: what is left is empty; the next sweep removes it.
            group.remove().ok();
        }
        made.map(|()| group)
    }

    /// `io`: with the group for traffic with disks.
    fn of(job: &str, io: bool) -> io::Result<Self> {
        let mounts = kernel_files::read("/proc/self/mountinfo")?;
        let place = |controller: &str| {
            let (mount, _) = mount_of(&mounts, controller).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("the controller {controller} is not mounted"))
            })?;
            Ok::<_, io::Error>(mount.join(format!("{PREFIX}{job}")))
        };
        Ok(Self {
            memory: place("memory")?,
            cpu: place("cpu")?,
            pids: place("pids")?,
            blkio: io.then(|| place("blkio")).transpose()?,
        })
    }

    /// Each directory once: controllers may share a hierarchy.
    fn directories(&self) -> impl Iterator<Item = &Path> {
        let all = [Some(&self.memory), Some(&self.cpu), Some(&self.pids), self.blkio.as_ref()]
            .map(|dir| dir.map(PathBuf::as_path));
        let first = move |n: usize| {
            all.get(n).copied().flatten().filter(|dir| !all.iter().take(n).any(|seen| *seen == Some(*dir)))
        };
        (0..4).filter_map(first)
    }

    fn fill(&self, resources: &LinuxResources) -> io::Result<()> {
        for dir in self.directories() {
            fs::create_dir(dir).map_err(|e| named(dir, &e))?;
        }
        let put = |dir: &Path, file: &str, value: i64| {
            let file = dir.join(file);
            fs::write(&file, value.to_string()).map_err(|e| named(&file, &e))
        };
        if let Some(memory) = resources.memory() {
            // In this order: the second may not be below the first.
            if let Some(limit) = memory.limit() {
                put(&self.memory, "memory.limit_in_bytes", limit)?;
            }
            if let Some(both) = memory.swap() {
                put(&self.memory, "memory.memsw.limit_in_bytes", both)?;
            }
        }
        if let Some(cpu) = resources.cpu() {
            if let Some(period) = cpu.period() {
                put(&self.cpu, "cpu.cfs_period_us", i64::try_from(period).unwrap_or(i64::MAX))?;
            }
            if let Some(quota) = cpu.quota() {
                put(&self.cpu, "cpu.cfs_quota_us", quota)?;
            }
        }
        if let Some(dir) = &self.blkio {
            for (file, (disk, rate)) in
                THROTTLES.iter().flat_map(|file| io_limits(resources).into_iter().map(move |limit| (file, limit)))
            {
                let file = dir.join(file);
                fs::write(&file, format!("{disk} {rate}")).map_err(|e| named(&file, &e))?;
            }
        }
        resources.pids().as_ref().map_or(Ok(()), |pids| put(&self.pids, "pids.max", pids.limit()))
    }

    /// The file of each group by which a thread enters it.
    pub(super) fn entrances(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |dir: &Path| {
            let file = dir.join("tasks");
            fs::OpenOptions::new().write(true).open(&file).map(OwnedFd::from).map_err(|e| named(&file, &e))
        };
        self.directories().map(open).collect()
    }

    pub(super) fn take_in(&self, pid: Pid) -> io::Result<()> {
        let enter = |dir: &Path| fs::write(dir.join("tasks"), pid.to_string()).map_err(|e| named(dir, &e));
        self.directories().try_for_each(enter)
    }

    pub(super) fn observed(&self) -> io::Result<Observed> {
        let quota: i64 = number(&self.cpu.join("cpu.cfs_quota_us"))?;
        let period: u32 = number(&self.cpu.join("cpu.cfs_period_us"))?;
        Ok(Observed {
            memory: bytes(&self.memory.join("memory.limit_in_bytes"))?,
            memory_and_swap: bytes(&self.memory.join("memory.memsw.limit_in_bytes"))?,
            // -1 is no limit.
            cpus: u32::try_from(quota).ok().map(|quota| f64::from(quota) / f64::from(period.max(1))),
            pids: or_max(&self.pids.join("pids.max"))?,
            io: self.blkio.as_deref().map_or_else(|| Ok(BTreeMap::new()), traffic)?,
        })
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            peak_memory: number(&self.memory.join("memory.max_usage_in_bytes")).ok(),
            oom_kills: field(&self.memory.join("memory.oom_control"), "oom_kill"),
            peak_pids: number(&self.pids.join("pids.peak")).ok(),
            // Where the two controllers share a hierarchy, as they nearly always do; in nanoseconds.
            cpu: number::<u64>(&self.cpu.join("cpuacct.usage")).ok().map(|nanoseconds| nanoseconds / 1000),
        }
    }

    /// Kills what is left in the groups and removes them.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.directories().try_for_each(clear)
    }
}

/// Removes the groups of a job whose supervisor is gone.
pub(super) fn remove_stale(job: &str) -> io::Result<()> {
    Group::of(job, false)?.remove()?;
    // It may have had this one, too; where the host has no such controller it had not.
    Group::of(job, true).map_or(Ok(()), |group| group.remove())
}

fn clear(dir: &Path) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match fs::remove_dir(dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && began.elapsed() < PATIENCE => {
                // Whoever is seen here is the job's: nobody else is ever put into its group.
                let processes = kernel_files::read(dir.join("cgroup.procs")).unwrap_or_default();
                for pid in processes.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0) {
                    // ESRCH: it has ended meanwhile.
                    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named(dir, &e)),
            _ => return Ok(()),
        }
    }
}

/// The mount point of a controller, and which group is there (proc_pid_mountinfo(5): the super options name the controllers).
pub(super) fn mount_of(mountinfo: &str, controller: &str) -> Option<(PathBuf, String)> {
    mountinfo.lines().find_map(|line| {
        let (mount, super_block) = line.split_once(" - ")?;
        let mut super_block = super_block.split(' ');
        (super_block.next()? == "cgroup").then_some(())?;
        let options = super_block.nth(1)?;
        options.split(',').any(|o| o == controller).then_some(())?;
        let mut mount = mount.split(' ').skip(3);
        let root = mount.next()?.to_owned();
        Some((PathBuf::from(mount.next()?), root))
    })
}

/// Disks with a limit for both ways: the larger of the two.
fn traffic(dir: &Path) -> io::Result<BTreeMap<String, u64>> {
    let [read, write] = THROTTLES.map(|file| {
        let text = kernel_files::read(dir.join(file)).map_err(|e| named(&dir.join(file), &e))?;
        let line = |line: &str| {
            line.split_once(' ').and_then(|(disk, rate)| Some((disk.to_owned(), rate.trim().parse().ok()?)))
        };
        Ok::<BTreeMap<String, u64>, io::Error>(text.lines().filter_map(line).collect())
    });
    let (read, write) = (read?, write?);
    Ok(read.into_iter().filter_map(|(disk, rate)| write.get(&disk).map(|other| (disk, rate.max(*other)))).collect())
}

/// "No limit" is written as the largest multiple of the page size.
fn bytes(path: &Path) -> io::Result<Option<u64>> {
    const NO_LIMIT: u64 = 1 << 62;
    number(path).map(|bytes| Some(bytes).filter(|bytes| *bytes < NO_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_found_by_its_super_options() {
        let info = "30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cpu rw,cpu\n\
                    31 25 0:27 / /sys/fs/cgroup/mem rw - cgroup memory rw,memory\n";
        assert_eq!(mount_of(info, "memory"), Some((PathBuf::from("/sys/fs/cgroup/mem"), "/".into())));
        assert_eq!(mount_of(info, "pids"), None);
    }

    #[test]
    fn controllers_that_share_a_hierarchy_are_one_directory() {
        let group = Group { memory: "/m".into(), cpu: "/c".into(), pids: "/m".into(), blkio: None };
        assert_eq!(group.directories().collect::<Vec<_>>(), [Path::new("/m"), Path::new("/c")]);
        let group = Group { blkio: Some("/b".into()), ..group };
        assert_eq!(group.directories().last(), Some(Path::new("/b")));
    }
}
