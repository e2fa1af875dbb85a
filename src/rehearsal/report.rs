//! All that is said of a rehearsal, as one document.
//!
//! Takes findings and the conditions of the run; gives a `Report`, which is the JSON document of `--json`; trusts both.

use serde::Serialize;

use super::difference::Difference;
use super::{Finding, Verdict};
use crate::run::observations::{Missed, Seen, Size};

/// Under which conditions it was: what it says holds for these.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Conditions {
    /// The version of ces.
    pub ces: String,
    /// The kernel's release.
    pub kernel: String,
    /// SHA-256 of the seccomp program that decided.
    pub filter: String,
    /// The policy, by its file, or `built-in`.
    pub policy: String,
    /// SHA-256 of the rules that the policy states.
    pub rules: String,
    /// The profile.
    pub profile: String,
    /// Bytes of memory at most.
    pub memory: u64,
    /// Processors at most.
    pub cpus: f64,
    /// Processes and threads at most.
    pub pids: u64,
    /// Seconds at most, if there is a limit.
    pub time: Option<u64>,
    /// Paths were not watched (`--light`).
    pub light: bool,
    /// What is laxer here than inside, in words; empty is good.
    pub not_as_inside: Vec<String>,
}

/// What it used, as far as that is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Peaks {
    /// Time of processors, in seconds.
    pub cpu_seconds: Option<f64>,
    /// The most processes and threads at once.
    pub pids: Option<u64>,
    /// What it left in `/safe_outputs`.
    pub outputs: Option<Size>,
    /// What was in `/scratch` at its end.
    pub scratch: Size,
    /// What it wrote over the image, and in memory, and did not remove.
    pub over_the_image: Size,
}

/// How many findings of each verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Will fail.
    pub fails: usize,
    /// Will be lost.
    pub lost: usize,
    /// Wanted, and went on without.
    pub missed: usize,
    /// Harmless.
    pub harmless: usize,
}

/// A rehearsal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Of this document.
    pub version: u32,
    /// The run's id.
    pub rehearsal: String,
    /// The image.
    pub image: String,
    /// Its manifest's digest.
    pub digest: String,
    /// Arguments and all.
    pub command: Vec<String>,
    /// Under which conditions.
    pub conditions: Conditions,
    /// The payload's exit status.
    pub exit: u8,
    /// How it ended, in words.
    pub ended: String,
    /// How long it ran.
    pub seconds: f64,
    /// Its highest use of memory in bytes.
    pub peak_memory: Option<u64>,
    /// What else it used.
    pub peaks: Peaks,
    /// Nothing stands in the way.
    pub ready: bool,
    /// Numbers.
    pub counts: Counts,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// Every path that was closed, of which findings name a few.
    pub closed: Vec<Seen<Missed>>,
    /// What could not be looked at, in words; empty is good.
    pub not_seen: Vec<String>,
    /// What has changed since the last rehearsal of an image by this name with this command, if there was one.
    pub since_last: Option<Difference>,
}

/// Whether nothing stands in the way: the payload succeeded, and nothing will fail or be lost; `strict`: nothing was missed either.
pub fn ready(exit: u8, findings: &[Finding], strict: bool) -> bool {
    let stands = |finding: &Finding| match finding.verdict {
        Verdict::Fails | Verdict::Lost => true,
        Verdict::Missed => strict,
        Verdict::Harmless => false,
    };
    exit == 0 && !findings.iter().any(stands)
}

/// How many of each.
pub fn count(findings: &[Finding]) -> Counts {
    let of = |verdict: Verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    Counts {
        fails: of(Verdict::Fails),
        lost: of(Verdict::Lost),
        missed: of(Verdict::Missed),
        harmless: of(Verdict::Harmless),
    }
}
