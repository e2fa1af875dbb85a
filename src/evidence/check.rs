//! The lines of a host against what they say of each other, and against checkpoints.
//!
//! Takes a log; gives how many lines it has, the root of the tree over them, and what is wrong, each with the number of its
//! line; trusts SHA-256; refuses nothing. Who can write the log can write all of it anew, from some line to its end: that is
//! seen by a checkpoint alone, which is why they are to be carried elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::error::Result;
use crate::evidence::checkpoint::{Checkpoint, unhex};
use crate::evidence::line::{Event, Line, hash, hex};
use crate::evidence::log;
use crate::evidence::tree::{Growing, Hash, leaf};
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;

/// No more are told; the rest is counted.
const MOST: usize = 1000;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: String,
}

/// What a log is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Checked {
    /// Whose, as its files are called.
    pub host: String,
    /// How many lines.
    pub lines: u64,
    /// The root of the tree over them, in hexadecimal.
    pub root: String,
    /// Lines that were not finished, kept and told by the next one.
    pub torn: u64,
    /// Lines that have no copy, where the policy wanted one.
    pub uncopied: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// How much more.
    pub more: u64,
    /// The SHA-256 that the log has of each record, in hexadecimal.
    #[serde(skip)]
    pub records: BTreeMap<String, String>,
    /// Runs whose records were removed because the policy keeps them no longer.
    #[serde(skip)]
    pub removed: BTreeSet<String>,
    /// The same of the last pre-check of each run.
    #[serde(skip)]
    pub prechecks: BTreeMap<String, String>,
}

impl Checked {
    fn tell(&mut self, line: u64, what: impl Into<String>) {
        if self.problems.len() < MOST {
            self.problems.push(Problem { line, what: what.into() });
        } else {
            self.more += 1;
        }
    }

    /// Whether nothing is wrong.
    pub fn holds(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Checks the log of a host against itself and `marks`, in any order.
///
/// # Errors
/// When it cannot be read.
pub fn check(root: &Root, log: &SiteDir, dir: &SiteDir, host: &str, marks: &[Checkpoint]) -> Result<Checked> {
    let mut state = State {
        checked: Checked { host: host.to_owned(), ..Checked::default() },
        tree: Growing::default(),
        prev: [0; 32],
        next: 0,
        torn: 0,
        marks: marks.to_vec(),
        old: log::old_log_hash(log).ok().flatten(),
    };
    log::read(root, dir, host, &mut |text, line| {
        state.line(text, line);
        Ok(())
    })?;
    Ok(state.end())
}

struct State {
    checked: Checked,
    tree: Growing,
    prev: Hash,
    next: u64,
    torn: u64,
    marks: Vec<Checkpoint>,
    old: Option<(String, u64)>,
}

impl State {
    fn line(&mut self, text: &[u8], line: Option<Line>) {
        self.tree.add(leaf(text));
        let number = self.tree.size();
        match line {
            Some(line) => self.whole(number, &line),
            None => self.torn += 1,
        }
        self.next += 1;
        self.prev = hash(text);
        let (size, root) = (self.tree.size(), self.tree.root_if_marked(&self.marks));
        for mark in self.marks.iter().filter(|mark| mark.size == size) {
            if root.is_some_and(|root| root != mark.root) {
                let what = format!("up to here the log is not what it was at the checkpoint of {}", mark.time);
                self.checked.tell(number, what);
            }
        }
    }

    fn whole(&mut self, number: u64, line: &Line) {
        let torn = std::mem::take(&mut self.torn);
        let told = line.after_torn.unwrap_or(0);
        if torn != told {
            self.checked
                .tell(number.saturating_sub(1), format!("{torn} lines make no sense, and this host told of {told}"));
        } else {
            self.checked.torn += torn;
        }
        if line.seq != self.next {
            let (is, expected) = (line.seq + 1, self.next + 1);
            let what = if line.seq > self.next {
                format!("lines {expected} to {} are missing before it", line.seq)
            } else {
                format!("it is line {is}, out of its order or there twice")
            };
            self.checked.tell(number, what);
            self.next = line.seq;
        } else if unhex(&line.prev) != Some(self.prev) {
            let what = "it was changed after it was written: the next line has another hash of it";
            self.checked.tell(number.saturating_sub(1), what);
        }
        self.checked.uncopied += u64::from(line.not_copied.is_some() || line.event == Event::CopyFailed);
        if line.event == Event::LogBegun && number == 1 {
            self.begun(line);
        }
        if let (Event::RecordRemoved, Some(run)) = (line.event, &line.run) {
            self.checked.removed.insert(run.clone());
        }
        if let (Event::RunFinished | Event::RunInterrupted | Event::Refused, Some(run)) = (line.event, &line.run)
            && let Some(sha256) = line.about.get("record").and_then(|sha256| sha256.as_str())
        {
            self.checked.records.insert(run.clone(), sha256.to_owned());
        }
        if let (Event::Precheck, Some(run)) = (line.event, &line.run)
            && let Some(sha256) = line.about.get("sha256").and_then(|sha256| sha256.as_str())
        {
            self.checked.prechecks.insert(run.clone(), sha256.to_owned());
        }
    }

    /// The log of an older version is what it was when this one began.
    fn begun(&mut self, line: &Line) {
        let told = line.about.get("continues").filter(|told| !told.is_null());
        let sha256 = told.and_then(|told| told.get("sha256")).and_then(|sha256| sha256.as_str());
        if sha256 != self.old.as_ref().map(|(sha256, _)| sha256.as_str()) {
            self.checked.tell(1, "the log before it, audit.jsonl, is not what it was when this one began");
        }
    }

    fn end(mut self) -> Checked {
        let size = self.tree.size();
        if self.torn > 0 {
            // Whoever appends next tells of it; nobody has yet.
            self.checked.torn += self.torn;
        }
        for mark in self.marks.iter().filter(|mark| mark.size > size) {
            let what = format!("the log ends here; at the checkpoint of {} it had {} lines", mark.time, mark.size);
            self.checked.tell(size, what);
        }
        self.checked.lines = size;
        self.checked.root = hex(&self.tree.root());
        self.checked
    }
}

impl Growing {
    /// The root, if a checkpoint is of this size.
    fn root_if_marked(&self, marks: &[Checkpoint]) -> Option<Hash> {
        marks.iter().any(|mark| mark.size == self.size()).then(|| self.root())
    }
}
