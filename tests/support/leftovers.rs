//! What is left on a test's host after runs: mounts, control groups, processes, directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, children, wait_until};

impl Host {
    /// Asserts that nothing is left but outputs and records: no process, mount, control group, scratch, journal.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        // The kernel reaps a killed container's processes in its own time.
        wait_until(&format!("no process of the test is left: {:?}", self.processes()), || self.processes().is_empty());
        assert_eq!(self.mounts(), self.mounts_before, "mounts of the host");
        let own = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!own.contains(self.token()), "mounts beside the test's host: {own}");
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new(), "control groups");
        assert_eq!(self.named("scratch_"), Vec::<PathBuf>::new(), "scratch directories");
        assert_eq!(self.work(), Vec::<PathBuf>::new(), "throw-away directories in the store");
        let journals = children(&self.root().join("run"));
        assert!(journals.iter().all(|path| !path.is_dir()), "directories of running jobs: {journals:?}");
    }

    /// Asserts that nothing ran: nothing is left, and there are no outputs either.
    #[track_caller]
    pub fn nothing_ran(&self) {
        self.nothing_is_left();
        assert_eq!(self.named("outputs_"), Vec::<PathBuf>::new(), "outputs of a run that did not start");
    }

    /// What a test has mounted itself is no leftover.
    pub fn remember_mounts(&mut self) {
        self.mounts_before = self.mounts();
    }

    /// The mounts of the test's host.
    pub fn mounts(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).expect("mountinfo");
        text.lines().map(str::to_owned).collect()
    }

    /// The throw-away directories of runs.
    pub fn work(&self) -> Vec<PathBuf> {
        children(&self.root().join("store/work"))
    }

    /// Control groups named after a run of this test.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let ids = self.ids();
        let mut found = Vec::new();
        let mut look = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(dir) = look.pop() {
            // A group may vanish while we look: then it is not left.
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if ids.iter().any(|id| name.contains(id.as_str())) {
                        found.push(entry.path());
                    }
                    look.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    /// Ends what a failed test left running, and removes its control groups; what resists is for a person to see.
    pub fn clear(&self) {
        for process in self.processes() {
            let number = process.split(' ').next().and_then(|n| n.parse().ok());
            number.map(|n| kill(Pid::from_raw(n), Signal::SIGKILL).ok());
        }
        for _ in 0..50 {
            let groups = self.cgroups();
            // The innermost first, and again while the killed are still ending.
            if groups.iter().rev().map(fs::remove_dir).filter(Result::is_err).count() == 0 {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The ids of all runs that left any trace on this host.
    fn ids(&self) -> Vec<String> {
        let root = self.root();
        let homes = [self.named("outputs_"), self.named("scratch_")].concat();
        let traces = [homes, children(&root.join("log/runs")), children(&root.join("run")), self.work()].concat();
        let mut ids: Vec<String> = traces
            .iter()
            .filter_map(|path| path.file_name()?.to_str())
            .map(|name| name.trim_end_matches(".json").rsplit('_').next().unwrap_or(name).to_owned())
            .filter(|id| id.len() > 15 && id.starts_with("20"))
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Processes of this test besides its holder: by environment, arguments or mounts.
    pub fn processes(&self) -> Vec<String> {
        let ours = [std::process::id(), self.holder.id()];
        let holder_mounts = fs::read_link(format!("/proc/{}/ns/mnt", self.holder.id())).expect("a namespace");
        let mut found = Vec::new();
        for path in children(Path::new("/proc")) {
            let Some(pid) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            if ours.contains(&pid) || is_zombie(&path) || continues_nothing(&path) {
                continue;
            }
            let holds = |file: &str| {
                let bytes = fs::read(path.join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).contains(self.token())
            };
            // Another test may wait for a process it started in this test's namespace only if it is this test.
            let inside = fs::read_link(path.join("ns/mnt")).is_ok_and(|ns| ns == holder_mounts);
            if inside || holds("environ") || holds("cmdline") || holds("mountinfo") {
                let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
                found.push(format!("{pid} {}", name.trim_end()));
            }
        }
        found
    }
}

/// A process that has ended and waits for its parent: it holds nothing.
fn is_zombie(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    status.is_empty() || status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

/// The process that continues `ces` through sudo, when that has ended: it is on its way out (a pidfd: proc_pid_fdinfo(5)).
fn continues_nothing(process: &Path) -> bool {
    let is_named = fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "ces-continues");
    is_named
        && !children(&process.join("fdinfo")).iter().any(|fd| {
            let text = fs::read_to_string(fd).unwrap_or_default();
            text.lines().any(|line| line.strip_prefix("Pid:").is_some_and(|pid| pid.trim() != "-1"))
        })
}
