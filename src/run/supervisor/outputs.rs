//! Outputs: after the container is dead, what is in `/safe_outputs` becomes the researcher's, and is listed.
//!
//! Two walks, each in one file: `give` changes owners and modes, with power over the run's ids, and is always completed;
//! `listing` reads as the researcher, who owns all of it by then, and may be stopped. Neither holds more than a few MiB
//! whatever is there: the list is a file beside the record, and the record has its counts alone.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Trees of any depth, walked.
pub mod tree;
/// A line of the list.
pub mod line;
/// The order of its lines.
pub mod order;
/// The list, as it is written.
pub mod list;
/// ACLs, extended attributes.
pub mod attributes;
/// Owners and modes.
pub mod give;
/// What files hold.
pub mod hash;
/// What is there.
pub mod listing;
/// Reading them, within the run's bounds.
pub mod reading;
/// What is there against what was listed.
pub mod compare;
/// Files that were written elsewhere.
pub mod outside;

/// The list goes no deeper; owners and modes do.
pub const LISTED: usize = 256;
/// How many links and refusals the record shows.
const SHOWN: usize = 8;
/// How much it shows of one, in characters.
const SHOWN_CHARACTERS: usize = 160;

/// What a run left, as the record tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// Where it is.
    pub path: PathBuf,
    /// Regular files.
    pub files: Files,
    /// Bytes of all files together, as they tell their sizes.
    pub bytes: u64,
    /// Bytes on disk.
    #[serde(default)]
    pub disk: u64,
    /// Directories below the top.
    #[serde(default)]
    pub directories: u64,
    /// Symbolic links, as text: `name -> target`; the first few.
    pub links: Few,
    /// What was removed, left alone or could not be read, and why; the first few.
    pub refused: Few,
    /// Files and directories that lost set-ID bits.
    #[serde(default)]
    pub set_ids: u64,
    /// ACLs and extended attributes that were removed.
    #[serde(default)]
    pub attributes: u64,
    /// Files without a hash, the list says why.
    #[serde(default)]
    pub not_hashed: u64,
    /// The list; none in records of older versions, and where it could not be written.
    #[serde(default)]
    pub list: Option<List>,
}

impl Outputs {
    /// Whether there was nothing at all: then no directory is kept.
    pub fn is_empty(&self) -> bool {
        let nothing = self.files.count() == 0 && self.directories == 0;
        nothing && self.links.lines().is_empty() && self.refused.lines().is_empty()
    }
}

/// Files: how many, or in records of older versions which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Files {
    /// How many.
    Count(u64),
    /// Each of them.
    Each(Vec<OutputFile>),
}

impl Default for Files {
    fn default() -> Self {
        Self::Count(0)
    }
}

impl Files {
    /// How many.
    pub fn count(&self) -> u64 {
        match self {
            Self::Count(count) => *count,
            Self::Each(files) => u64::try_from(files.len()).unwrap_or(u64::MAX),
        }
    }
}

/// One file, in records of older versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Path below the outputs directory; bytes that are not UTF-8 or not printable are escaped.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

/// The list of outputs, a file beside the record (`ID.outputs.jsonl`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Its name.
    pub file: String,
    /// Its lines.
    pub lines: u64,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
    /// Why it is not whole, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
}

/// The first few of perhaps many texts: in a document, a list whose last element says how many more there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct Few {
    first: Vec<String>,
    more: u64,
}

impl Few {
    /// One more.
    pub fn add(&mut self, text: &str) {
        if self.first.len() < SHOWN {
            self.first.push(shortened(text));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// Those of `other`, too.
    pub fn join(&mut self, other: &Self) {
        other.first.iter().for_each(|text| self.add(text));
        self.more = self.more.saturating_add(other.more);
    }

    /// Those that are shown, and the rest as a number in words.
    pub fn lines(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.first.iter().cloned().chain(more).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

/// The begin and the end of a text that is long: names come first, reasons last.
fn shortened(text: &str) -> String {
    let length = text.chars().count();
    if length <= SHOWN_CHARACTERS {
        return text.to_owned();
    }
    let half = SHOWN_CHARACTERS / 2;
    let begin = text.chars().take(half);
    begin.chain(['…']).chain(text.chars().skip(length.saturating_sub(half))).collect()
}

impl From<Few> for Vec<String> {
    fn from(few: Few) -> Self {
        few.lines()
    }
}

impl From<Vec<String>> for Few {
    fn from(mut first: Vec<String>) -> Self {
        let count = |text: &String| text.strip_prefix("and ")?.strip_suffix(" more")?.parse::<u64>().ok();
        let more = first.last().filter(|_| first.len() > SHOWN).and_then(count);
        if more.is_some() {
            first.pop();
        }
        Self { first, more: more.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_older_version_with_its_files_inside_is_read() {
        let old = r#"{"path":"/home/a/outputs_x","files":[{"path":"t.csv","size":4,"sha256":"00"}],"bytes":4,
            "links":["a -> b"],"refused":[]}"#;
        let read: Outputs = serde_json::from_str(old).unwrap();
        assert_eq!((read.files.count(), read.list, read.links.lines()), (1, None, vec!["a -> b".to_owned()]));
    }

    #[test]
    fn of_many_texts_the_first_few_are_shown_shortened_and_the_rest_counted() {
        let mut few = Few::default();
        (0..100).for_each(|n| few.add(&format!("{n}{}", "x".repeat(10_000))));
        let text = serde_json::to_string(&few).unwrap();
        assert!(text.len() < 4096 && text.contains("and 92 more"), "{text}");
        assert_eq!(serde_json::from_str::<Few>(&text).unwrap(), few);
    }
}
