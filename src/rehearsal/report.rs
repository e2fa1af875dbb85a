//! All that is said of a rehearsal, as one document.
//!
//! Takes findings and the conditions of the run; gives a `Report`, which is the JSON document of `--json`; trusts both.

use serde::Serialize;

use super::{Finding, Verdict};

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
    /// The profile.
    pub profile: String,
    /// Bytes of memory at most.
    pub memory: u64,
    /// Paths were not watched (`--light`).
    pub light: bool,
    /// What is laxer here than inside, in words; empty is good.
    pub not_as_inside: Vec<String>,
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
    /// Nothing stands in the way.
    pub ready: bool,
    /// Numbers.
    pub counts: Counts,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at, in words; empty is good.
    pub not_seen: Vec<String>,
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
