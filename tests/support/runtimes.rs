//! The other runtimes, crun and runc: the same bundle under each of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::probe::PROBE;
use super::{Host, Ran, have};

/// The runtimes that a bundle is tried with.
pub const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// Nothing if one of them is not installed.
pub fn both_are_here() -> Option<()> {
    RUNTIMES.into_iter().map(have).collect()
}

impl Host {
    /// Makes a bundle of the image with this command, named so in the researcher's home.
    pub fn bundle(&self, name: &str, options: &[&str], image: &str, command: &[&str]) -> PathBuf {
        let bundle = self.researcher().dir.join(name);
        let entrypoint = Value::from(command).to_string();
        let mut ces = self.ces();
        ces.arg("bundle").args(options).args(["--entrypoint", &entrypoint, image]).arg(&bundle);
        Ran::from(ces.output()).exits(0);
        bundle
    }

    /// Runs a bundle under another runtime, to its end.
    pub fn run_bundle(&self, runtime: &str, bundle: &Path) -> Ran {
        Ran::from(self.bundle_command(runtime, bundle).output())
    }

    /// The command for that.
    pub fn bundle_command(&self, runtime: &str, bundle: &Path) -> Command {
        let state = self.tmp().join(runtime);
        // These two refuse or misread a host with both versions of control groups: show them the first alone.
        let inner = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let mut command = self.command("unshare");
        command.args(["--mount", "sh", "-c", inner, "sh", runtime, "--root"]).arg(&state);
        command.args(["run", "-b"]).arg(bundle).arg(format!("{}.{runtime}", self.token()));
        // One of them gives its streams to the container's user: a pipe, not the host's null device.
        command.stdin(Stdio::piped());
        command
    }

    /// What the probe reports under another runtime.
    pub fn probe_bundle(&self, runtime: &str, bundle: &Path) -> Value {
        let ran = self.run_bundle(runtime, bundle);
        serde_json::from_str(ran.exits(0)).unwrap_or_else(|e| panic!("{runtime}: not JSON ({e}): {ran:?}"))
    }

    /// A bundle whose command is the probe.
    pub fn probe_bundle_of(&self, name: &str, options: &[&str], image: &str, words: &[&str]) -> PathBuf {
        self.bundle(name, options, image, &[&[PROBE], words].concat())
    }
}
