//! All findings together: a document, and how bad it is.
//!
//! Takes entries as they come; gives counts of all and the entries themselves, up to a number; trusts nothing; refuses to be longer:
//! of too many entries those with findings are kept first, and the rest is counted.

use serde::{Deserialize, Serialize};

use super::finding::{NOTHING, verdict};
use super::look::Looked;
use super::parent::Walked;
use super::rules::{Level, Rules, Site};

/// How many entries with findings are kept, and as many without.
const KEPT: usize = 10_000;

/// A report of the pre-check.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this format.
    pub version: u32,
    /// The run, if it was one.
    pub run: Option<String>,
    /// What was looked at.
    pub directory: String,
    /// SHA-256 of the run's list of outputs, which was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// Who asked for it, in a report that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// By which rules.
    pub rules: ByRules,
    /// When (UTC, RFC 3339).
    pub at: String,
    /// The program.
    pub by: String,
    /// How many of each.
    pub summary: Summary,
    /// What was not looked at, never or this time.
    pub not_looked_at: Vec<String>,
    /// What was looked at, with what was found.
    pub files: Vec<File>,
    /// How many more there were.
    pub more: u64,
}

/// By which rules.
#[derive(Debug, Serialize)]
pub struct ByRules {
    /// Version of the data.
    pub version: String,
    /// SHA-256 of all rules and numbers.
    pub sha256: String,
    /// What the site's policy sets.
    pub site: Site,
    /// Below which number a count is small.
    pub threshold: u64,
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Entries that are no directories.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Entries to be blocked.
    pub block: u64,
    /// Entries to be reviewed.
    pub review: u64,
    /// Entries with a note.
    pub note: u64,
    /// The others.
    #[serde(rename = "nothing found")]
    pub nothing: u64,
}

impl Summary {
    /// How bad the worst is; none: nothing was found.
    pub fn worst(self) -> Option<Level> {
        [(self.block, Level::Block), (self.review, Level::Review), (self.note, Level::Note)]
            .into_iter()
            .find(|(count, _)| *count > 0)
            .map(|(_, level)| level)
    }
}

/// One entry.
#[derive(Debug, Serialize)]
pub struct File {
    /// The word for it.
    pub verdict: &'static str,
    /// What it is, and what was found.
    #[serde(flatten)]
    pub looked: Looked,
}

impl Report {
    /// An empty one.
    pub fn new(run: Option<String>, directory: String, rules: &Rules, site: Site, at: String) -> Self {
        Self {
            version: 1,
            run,
            directory,
            list: None,
            asked: None,
            rules: ByRules { version: rules.version.clone(), sha256: rules.sha256(), site, threshold: rules.threshold },
            at,
            by: format!("ces {}", env!("CARGO_PKG_VERSION")),
            summary: Summary::default(),
            not_looked_at: rules.not_looked_at.always.clone(),
            files: Vec::new(),
            more: 0,
        }
    }

    /// One more entry.
    pub fn add(&mut self, looked: Looked) {
        let verdict = verdict(&looked.findings);
        let summary = &mut self.summary;
        summary.files += 1;
        let count = match looked.findings.iter().map(|finding| finding.level).min() {
            Some(Level::Block) => &mut summary.block,
            Some(Level::Review) => &mut summary.review,
            Some(Level::Note) => &mut summary.note,
            None => &mut summary.nothing,
        };
        *count += 1;
        let found = summary.files - summary.nothing;
        let kept = if verdict == NOTHING { summary.nothing } else { found };
        if kept <= KEPT as u64 {
            self.files.push(File { verdict, looked });
        } else {
            self.more += 1;
        }
    }

    /// No more entries.
    pub fn end(&mut self, walked: Walked) {
        self.summary.directories = walked.directories;
        self.not_looked_at.extend(walked.left_out);
    }

    /// How bad the worst may be of the entries that are counted and not kept; none: all are kept, or nothing was found of those.
    pub fn not_kept(&self) -> Option<Level> {
        let Summary { block, review, note, .. } = self.summary;
        [(block, Level::Block), (review, Level::Review), (note, Level::Note)].into_iter().find_map(|(all, level)| {
            let is = |file: &&File| file.looked.findings.iter().map(|finding| finding.level).min() == Some(level);
            let kept = self.files.iter().filter(is).count();
            (u64::try_from(kept).unwrap_or(u64::MAX) < all).then_some(level)
        })
    }

    /// The entries, the worst first, else in the order in which they were looked at.
    pub fn worst_first(&self) -> Vec<&File> {
        let mut files: Vec<&File> = self.files.iter().collect();
        files.sort_by_key(|file| {
            file.looked.findings.iter().map(|finding| finding.level as u8).min().unwrap_or(u8::MAX)
        });
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::look;

    #[test]
    fn what_is_not_kept_may_be_as_bad_as_the_worst_of_it() {
        let rules = Rules::of(&Site::default()).unwrap();
        let mut report = Report::new(None, "/x".to_owned(), &rules, Site::default(), String::new());
        for _ in 0..KEPT {
            report.add(look::link(b"b.txt", b"/etc", &rules));
        }
        assert_eq!((report.not_kept(), report.more), (None, 0));
        report.add(look::link(b"one more", b"/etc", &rules));
        assert_eq!((report.not_kept(), report.more), (Some(Level::Block), 1));
    }

    #[test]
    fn of_too_many_entries_all_are_counted_and_the_worst_come_first() {
        let rules = Rules::of(&Site::default()).unwrap();
        let mut report = Report::new(None, "/x".to_owned(), &rules, Site::default(), String::new());
        let stat = look::Stat { size: 1, names: 1, executable: false };
        for _ in 0..KEPT + 5 {
            report.add(look::file(b"a.txt", stat, b"x", &rules));
        }
        report.add(look::link(b"b.txt", b"/etc", &rules));
        report.end(Walked { directories: 3, left_out: vec!["the rest".to_owned()] });
        let Summary { files, block, nothing, directories, .. } = report.summary;
        assert_eq!((files, block, nothing, directories, report.more), (KEPT as u64 + 6, 1, KEPT as u64 + 5, 3, 5));
        assert_eq!(report.not_kept(), None, "nothing was found of what is not kept");
        assert_eq!(report.worst_first().first().unwrap().verdict, "block");
        assert_eq!(report.summary.worst(), Some(Level::Block));
        assert!(report.not_looked_at.len() > 3 && report.not_looked_at.last().unwrap() == "the rest");
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains("\"nothing found\":10005") && !text.contains("safe\""));
    }
}
