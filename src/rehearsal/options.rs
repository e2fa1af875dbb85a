//! Options for runs, from what a rehearsal used: a file for `ces run --opt-file`.
//!
//! Takes a `Report`; gives text that `policy::request::files` reads; trusts the figures of the kernel; refuses nothing: what was not
//! measured is left out, and said.
//!
//! Synthetic data is smaller than the project's: each figure has a margin, and none is above what the rehearsal had.

use std::time::Duration;

use super::Report;
use crate::policy::units::show_duration;
use crate::text;

/// Half as much again, and at least this: an interpreter alone takes as much.
const LEAST_MEMORY: u64 = 64 << 20;
/// Twice as many, and at least this.
const LEAST_PIDS: u64 = 32;
/// Ten times as long, and at least this: a batch system's clock begins before the work does.
const LEAST_TIME: u64 = 600;

/// The text of the file.
pub fn text(report: &Report) -> String {
    let line = |what: &str| format!("# {}\n", text::neutral_line(what));
    let conditions = &report.conditions;
    let mut out = line(&format!("measured by ces rehearse ({}), for ces run --opt-file", report.rehearsal));
    out.push_str(&line(&format!("image {}@{}", report.image, report.digest)));
    out.push_str(&line("with synthetic data: raise what the project's data needs more of"));
    match report.peak_memory {
        Some(peak) => {
            let mebibytes = peak.saturating_add(peak / 2).max(LEAST_MEMORY).min(conditions.memory).div_ceil(1 << 20);
            // Rounded up it could be above what was granted.
            let mebibytes = mebibytes.min((conditions.memory >> 20).max(1));
            out.push_str(&format!("--memory {mebibytes}m\n"));
        }
        None => out.push_str(&line("--memory: not measured, there was no control group")),
    }
    match report.peaks.pids {
        Some(peak) => {
            let pids = peak.saturating_mul(2).max(LEAST_PIDS).min(conditions.pids);
            out.push_str(&format!("--pids-limit {pids}\n"));
        }
        None => out.push_str(&line("--pids-limit: not measured, the kernel counts no peak (Linux 6.1 does)")),
    }
    // In whole minutes; a run of more than a century is none.
    let ran = Duration::try_from_secs_f64(report.seconds).unwrap_or_default().as_secs().saturating_add(1);
    let seconds = ran.saturating_mul(10).max(LEAST_TIME).div_ceil(60).saturating_mul(60);
    let seconds = conditions.time.map_or(seconds, |most| seconds.min(most));
    out.push_str(&format!("--timeout {}\n", show_duration(Duration::from_secs(seconds))));
    out
}
