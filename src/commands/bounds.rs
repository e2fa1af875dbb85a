//! How a run's scratch, outputs and writable root are bounded: by their file system if it can, else watched by ces.
//!
//! Takes the granted limits and the run's directories; gives what each side has to do; trusts `run::quota` to tell what a file
//! system keeps; refuses nothing: one of the two is always there.

use std::collections::BTreeMap;

use super::prepare::Prepared;
use crate::error::Result;
use crate::host::privilege::as_root;
use crate::policy::grant::Granted;
use crate::run::supervisor::job::Job;
use crate::run::supervisor::places::Places;
use crate::run::supervisor::quota::{self, Ceiling, Kept, Which};
use crate::run::supervisor::watch::Bound;

const SCRATCH: &str = "scratch";
const OUTPUTS: &str = "outputs";

/// The bounds that file systems keep. Only root can ask for that (quotactl(2)).
pub(super) fn kept(prepared: &Prepared, places: &Places) -> Vec<Kept> {
    let (identity, limits) = (&prepared.identity, &prepared.grant.limits);
    if !identity.caller.is_privileged() {
        return Vec::new();
    }
    let scratch = Ceiling {
        what: SCRATCH,
        dirs: vec![(Which::Scratch, places.scratch()), (Which::Work, places.work.clone())],
        bytes: limits.scratch_bytes,
        files: limits.scratch_files,
    };
    let outputs = Ceiling {
        what: OUTPUTS,
        dirs: vec![(Which::Outputs, places.outputs())],
        bytes: limits.outputs_bytes,
        files: limits.outputs_files,
    };
    as_root(|root| quota::choose(root, &[scratch, outputs], &identity.researcher()))
}

/// The bounds that ces watches: all that no file system keeps, and the sum of what two of them keep; at the end also what files
/// claim to hold, which none keeps.
pub(super) fn watched(prepared: &Prepared, job: &Job) -> Result<Vec<Bound>> {
    let limits = &prepared.grant.limits;
    let scratch = Bound {
        what: SCRATCH,
        dirs: vec![job.scratch_directory()?, job.work_directory()?],
        bytes: limits.scratch_bytes,
        files: limits.scratch_files,
        kept: projects(&job.journal.quotas, SCRATCH) == 1,
    };
    let outputs = Bound {
        what: OUTPUTS,
        dirs: vec![job.outputs_directory()?],
        bytes: limits.outputs_bytes,
        files: limits.outputs_files,
        kept: projects(&job.journal.quotas, OUTPUTS) == 1,
    };
    Ok(vec![scratch, outputs])
}

/// The same in words, for the record.
pub(super) fn in_words(limits: &Granted, quotas: &[Kept]) -> BTreeMap<String, String> {
    let of = |what: &str, bounded: bool| {
        let word = match projects(quotas, what) {
            0 if bounded => "watched",
            0 => "none",
            1 => "quota",
            _ => "quota, sum watched",
        };
        (what.to_owned(), word.to_owned())
    };
    BTreeMap::from([
        of(SCRATCH, limits.scratch_bytes.is_some() || limits.scratch_files.is_some()),
        of(OUTPUTS, limits.outputs_bytes.is_some() || limits.outputs_files.is_some()),
    ])
}

fn projects(quotas: &[Kept], what: &str) -> usize {
    quotas.iter().filter(|kept| kept.what == what).count()
}
