//! Which group of version 2 a process is in (proc_pid_cgroup(5)).

use std::io;

use nix::unistd::Pid;

use crate::host::kernel_files;

/// The group of a process, as `/proc/<pid>/cgroup` names it.
pub(super) fn group_of(pid: Pid) -> io::Result<String> {
    let text = kernel_files::read(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "in no group of version 2"))
}
