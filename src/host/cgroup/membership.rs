//! Which group of version 2 a process is in (proc_pid_cgroup(5)).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

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

/// The hierarchies that this process is in: where each is mounted, and the group in it, as a path below that.
fn hierarchies() -> io::Result<Vec<(PathBuf, String)>> {
    let mounts = kernel_files::read("/proc/self/mountinfo")?;
    let groups = kernel_files::read("/proc/self/cgroup")?;
    let mut found = Vec::new();
    for line in groups.lines() {
        // hierarchy-ID:controller-list:cgroup-path
        let Some((_, (controllers, group))) =
            line.split_once(':').and_then(|(id, rest)| Some((id, rest.split_once(':')?)))
        else {
            continue;
        };
        let mut trees = TREES.iter().map(PathBuf::from);
        let place = match controllers.split(',').next().filter(|name| !name.is_empty()) {
            None => trees.find(|tree| tree.join("cgroup.controllers").exists()).map(|tree| (tree, String::from("/"))),
            Some(controller) => super::v1::mount_of(&mounts, controller),
        };
        // One that is mounted nowhere is out of reach.
        let Some((tree, root)) = place else { continue };
        let below = Path::new(group).strip_prefix(&root).map_or(group, |below| below.to_str().unwrap_or(group));
        found.push((tree, below.trim_start_matches('/').to_owned()));
    }
    Ok(found)
}

/// Takes this process of root's out of groups that somebody else may change, into the root of the tree: whoever owns a group may
/// freeze and kill what is in it, slow it down, and move it (admin-guide/cgroup-v2, "Model of Delegation"). What the group was marked
/// with, or named, decides nothing then.
pub(super) fn leave_groups_of_others() -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    hierarchies()?.iter().filter(|(tree, own)| !is_roots(tree, own)).try_for_each(|(tree, _)| leave(tree))
}

/// Takes this process of root's out of every group, into the roots of the trees.
pub(super) fn leave_every_group() -> io::Result<()> {
    hierarchies()?.iter().filter(|(_, own)| !own.is_empty()).try_for_each(|(tree, _)| leave(tree))
}

fn leave(tree: &Path) -> io::Result<()> {
    fs::write(tree.join("cgroup.procs"), "0")
}

/// Whether Slurm made the group: `/slurm/…` of version 1 set-ups carried over, `slurmstepd.scope`, or with a node's name before that
/// where one host plays several nodes.
pub(super) fn is_slurms(own: &str) -> bool {
    own.split('/').any(|part| part.starts_with("slurm") || part.ends_with("_slurmstepd.scope"))
}

/// Whether the group and all above it are root's, to enter and to change. Slurm gives the directory of a task to the job's user and
/// none of the files in it, which decide over the group (seen with 22.05): that one is root's, too, for nothing is made in it.
fn is_roots(tree: &Path, group: &str) -> bool {
    let of_root = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.uid() == 0);
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let own = tree.join(group.trim_start_matches('/'));
    let files_are = || {
        fs::read_dir(&own).is_ok_and(|mut entries| {
            entries.all(|entry| entry.is_ok_and(|entry| is_dir(&entry) || of_root(&entry.path())))
        })
    };
    own.ancestors().take_while(|dir| dir.starts_with(tree)).all(|dir| {
        let is_task = *dir == *own && is_slurms(group);
        (of_root(dir) || is_task && files_are()) && of_root(&dir.join("cgroup.procs"))
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

    #[test]
    fn of_a_task_of_slurms_the_directory_alone_may_be_the_users() {
        if !geteuid().is_root() {
            println!("NOT RUN: only root gives files away");
            return;
        }
        let tree = tempfile::tempdir().unwrap();
        let (step, task) =
            ("node_slurmstepd.scope/job_1/step_0/user", "node_slurmstepd.scope/job_1/step_0/user/task_0");
        fs::create_dir_all(tree.path().join(task)).unwrap();
        for group in Path::new(task).ancestors() {
            fs::write(tree.path().join(group).join("cgroup.procs"), "").unwrap();
        }
        fs::write(tree.path().join(task).join("cgroup.kill"), "").unwrap();
        let give = |what: &str, uid| std::os::unix::fs::chown(tree.path().join(what), Some(uid), None).unwrap();
        let is = || is_roots(tree.path(), task);
        give(task, 61_001);
        fs::create_dir(tree.path().join(task).join("made-by-the-user")).unwrap();
        give(&format!("{task}/made-by-the-user"), 61_001);
        assert!(is());
        for what in [format!("{task}/cgroup.kill"), step.to_owned()] {
            give(&what, 61_001);
            assert!(!is(), "{what}");
            give(&what, 0);
            assert!(is());
        }
        // Of anybody else's the directory counts.
        fs::rename(tree.path().join("node_slurmstepd.scope"), tree.path().join("other.scope")).unwrap();
        assert!(!is_roots(tree.path(), &task.replace("node_slurmstepd", "other")));
    }
}
