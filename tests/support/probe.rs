//! The probe: a static payload that reports facts as JSON and judges nothing (`tests/probe/probe.c`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Host, Ran, fixtures, have};

/// Where a payload finds the probe.
pub const PROBE: &str = "/safe_data/probe";

/// The probe, built if it is not there or older than its source; `scripts/test` builds it before.
pub fn built() -> PathBuf {
    let made = fixtures().join("probe");
    let sources = super::children(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe"));
    let changed = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    if sources.iter().any(|source| changed(&made) < changed(source)) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/probe");
        let status = Command::new(script).arg(&made).status().expect("scripts/probe");
        assert!(status.success(), "scripts/probe failed");
    }
    made
}

/// What holds for a researcher who calls `ces` by sudo (enforced) and for one who calls it as themselves (advisory). The
/// container is as closed in both; what differs is who could go round `ces`, and which groups and limits there are.
pub fn each_host(judge: impl Fn(&Host)) {
    for host in [Host::with_probe(), Host::of_an_ordinary_user_with_probe()].into_iter().flatten() {
        judge(&host);
    }
}

impl Host {
    /// A host with the demonstration images `demo` and `root`, and the probe in the safe data; none where there is no
    /// compiler.
    pub fn with_probe() -> Option<Self> {
        have("cc")?;
        Self::new().map(Self::and_probe)
    }

    /// The same on an ordinary user's host.
    pub fn of_an_ordinary_user_with_probe() -> Option<Self> {
        have("cc")?;
        Self::of_an_ordinary_user().map(Self::and_probe)
    }

    fn and_probe(self) -> Self {
        self.pull_demo("demo");
        self.pull_demo("root");
        fs::copy(built(), self.home().join("safe_data/probe")).expect("the probe in the safe data");
        self
    }

    /// `ces run` of the probe, to its end.
    pub fn probe_run(&self, options: &[&str], image: &str, words: &[&str]) -> Ran {
        self.run(&[options, &[image, PROBE], words].concat())
    }

    /// What the probe reports.
    pub fn probe(&self, options: &[&str], image: &str, words: &[&str]) -> Value {
        let ran = self.probe_run(options, image, words);
        serde_json::from_str(ran.exits(0)).unwrap_or_else(|e| panic!("the probe's report is not JSON ({e}): {ran:?}"))
    }

    /// The spec that a run would have.
    pub fn spec(&self, options: &[&str], image: &str) -> Value {
        let ran = Ran::from(self.ces().arg("spec").args(options).args([image, PROBE]).output());
        serde_json::from_str(ran.exits(0)).expect("a spec")
    }
}

/// The strings of a list.
pub fn strings(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|one| one.as_str().expect("a string")).collect()
}

/// A field of `/proc/PID/status`.
pub fn field<'a>(status: &'a Value, name: &str) -> &'a str {
    let lines = status.as_str().expect("a status").lines();
    let mut found = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.next().unwrap_or_else(|| panic!("{name} is in the status")).trim()
}

/// One line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub at: String,
    /// With which flags.
    pub flags: Vec<String>,
    /// The kind of file system.
    pub kind: String,
    /// Which peers it has: none, if it is private.
    pub peers: String,
}

/// All lines of a mountinfo.
pub fn mounts(mountinfo: &Value) -> Vec<Mounted> {
    let text = mountinfo.as_str().expect("a mountinfo");
    let line = |line: &str| {
        let (mount, system) = line.split_once(" - ").expect("two halves");
        let fields: Vec<&str> = mount.split(' ').collect();
        Mounted {
            at: fields[4].to_owned(),
            flags: fields[5].split(',').map(str::to_owned).collect(),
            kind: system.split(' ').next().unwrap_or_default().to_owned(),
            peers: fields[6..].join(" "),
        }
    };
    text.lines().map(line).collect()
}
