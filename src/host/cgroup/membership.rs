//! Which group of version 2 a process is in (proc_pid_cgroup(5)).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Pid, geteuid};

use crate::host::kernel_files;

/// The group of a process, as `/proc/<pid>/cgroup` names it.
pub(super) fn group_of(pid: Pid) -> io::Result<String> {
    let text = kernel_files::read(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "in no group of version 2"))
}

/// Where the tree of version 2 is, alone or beside version 1.
const TREES: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Takes this process of root's out of a group that somebody else may change, into the root of the tree: whoever owns a group may
/// freeze and kill what is in it, and move it (admin-guide/cgroup-v2, "Model of Delegation"). What the group was marked with, or
/// named, decides nothing then.
pub(super) fn leave_groups_of_others() -> io::Result<()> {
    let Ok(own) = group_of(Pid::this()) else { return Ok(()) };
    let mut trees = TREES.iter().map(Path::new);
    let Some(tree) = trees.find(|tree| tree.join("cgroup.controllers").exists()) else { return Ok(()) };
    if !geteuid().is_root() || is_roots(tree, &own) {
        return Ok(());
    }
    fs::write(tree.join("cgroup.procs"), "0")
}

/// Whether the group and all above it are root's, to enter and to change.
fn is_roots(tree: &Path, group: &str) -> bool {
    let owned = |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() == 0);
    Path::new(group.trim_start_matches('/')).ancestors().all(|group| {
        let dir = tree.join(group);
        owned(&dir) && owned(&dir.join("cgroup.procs"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_below_one_of_somebody_elses_is_not_roots() {
        if !geteuid().is_root() {
            println!("NOT RUN: only root gives files away");
            return;
        }
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("a/b/c")).unwrap();
        for group in ["", "a", "a/b", "a/b/c"] {
            fs::write(tree.path().join(group).join("cgroup.procs"), "").unwrap();
        }
        let is = || ["/", "/a", "/a/b/c"].map(|group| is_roots(tree.path(), group));
        assert_eq!(is(), [true, true, true]);
        std::os::unix::fs::chown(tree.path().join("a/b"), Some(61_001), None).unwrap();
        assert_eq!(is(), [true, true, false]);
        std::os::unix::fs::chown(tree.path().join("a/b"), Some(0), None).unwrap();
        std::os::unix::fs::chown(tree.path().join("a/cgroup.procs"), Some(61_001), None).unwrap();
        assert_eq!(is(), [true, false, false]);
        assert!(!is_roots(tree.path(), "/gone"));
    }
}
