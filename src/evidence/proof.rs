//! What shows that the lines of one run are in a log, without a line of any other run.
//!
//! Takes a log and a signed checkpoint of it; gives the run's lines, each with the hashes that lead from it to the root that is
//! signed (RFC 6962, section 2.1.1). These hashes tell nothing of the lines that they are of: each has sixteen random bytes.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::checkpoint::{Checkpoint, Signed, unhex};
use crate::evidence::line::{Line, hex};
use crate::evidence::log;
use crate::evidence::tree::{self, Hash};
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;

/// No more lines of one run are shown.
const MOST: usize = 10_000;

/// The proof of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The run.
    pub run: String,
    /// The state of the log.
    pub signed: Signed,
    /// Its lines.
    pub lines: Vec<Proven>,
}

/// A line that is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    /// Which one of the log, from 0.
    pub leaf: u64,
    /// Its text.
    pub line: String,
    /// The hashes from it to the root, in hexadecimal.
    pub path: Vec<String>,
}

/// The proof of `run` in the log of a host, under its last checkpoint.
///
/// # Errors
/// When the log cannot be read, is not that of the checkpoint, or has no line of the run up to it.
pub fn prove(root: &Root, dir: &SiteDir, (signed, at): (Signed, Checkpoint), run: &str) -> Result<Proof> {
    let (mut leaves, mut found): (Vec<Hash>, Vec<(usize, String)>) = (Vec::new(), Vec::new());
    log::read(root, dir, &at.host, &mut |text, line| {
        if u64::try_from(leaves.len()).is_ok_and(|count| count < at.size) {
            let is = line.is_some_and(|line| line.run.as_deref() == Some(run));
            if let (true, true, Ok(text)) = (is, found.len() < MOST, std::str::from_utf8(text)) {
                found.push((leaves.len(), text.to_owned()));
            }
            leaves.push(tree::leaf(text));
        }
        Ok(())
    })?;
    if tree::root(&leaves) != at.root {
        return Err(Error::new(Stage::Record, Kind::Hostile, "the audit log is not what it was at its checkpoint")
            .hint("ces audit verify tells more"));
    }
    if found.is_empty() {
        return Err(Error::new(
            Stage::Record,
            Kind::Missing,
            format!("there is no line of run {run} in the audit log"),
        )
        .because(format!("its last checkpoint is of {}", at.time))
        .hint("ces audit checkpoint makes a new one"));
    }
    let proven = found.into_iter().map(|(at, line)| {
        let path = tree::inclusion(at, &leaves).unwrap_or_default();
        let leaf = u64::try_from(at).unwrap_or(u64::MAX);
        Proven { leaf, line, path: path.iter().map(|hash| hex(hash)).collect() }
    });
    Ok(Proof { run: run.to_owned(), signed, lines: proven.collect() })
}

impl Proof {
    /// The checkpoint and the lines, if the proof holds.
    ///
    /// # Errors
    /// When the signature does not hold, or a line is not in the log, or is of another run.
    pub fn verified(&self) -> Result<(Checkpoint, Vec<Line>)> {
        let checkpoint = self.signed.verified()?;
        let refused = |number: u64, why: &str| {
            Error::new(Stage::Record, Kind::Hostile, format!("the proof of run {} does not hold", self.run))
                .because(format!("line {}: {why}", number.saturating_add(1)))
        };
        let mut lines = Vec::new();
        for proven in &self.lines {
            let no = |why| refused(proven.leaf, why);
            let path: Option<Vec<Hash>> = proven.path.iter().map(|digits| unhex(digits)).collect();
            let path = path.ok_or_else(|| no("its hashes make no sense"))?;
            let leaf = tree::leaf(proven.line.as_bytes());
            if !tree::includes(&checkpoint.root, checkpoint.size, proven.leaf, &leaf, &path) {
                return Err(no("it is not in the log that was signed"));
            }
            let line = log::whole(proven.line.as_bytes()).ok_or_else(|| no("it makes no sense"))?;
            if line.run.as_deref() != Some(self.run.as_str()) {
                return Err(no("it is of another run"));
            }
            lines.push(line);
        }
        if lines.is_empty() {
            return Err(refused(0, "there is none"));
        }
        Ok((checkpoint, lines))
    }
}
