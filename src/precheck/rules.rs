//! Rules as data: `bundles/precheck.toml`, and what a site's policy sets of it.
//!
//! Takes the data and the site's numbers; gives rules with their levels and reasons, and a hash over all of it, so that a report says
//! by which rules it came about; trusts the data, which is part of the program (a test reads it); refuses a rule that it does not
//! know and one that is missing.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Kind, Result, Stage};

/// The data.
const TEXT: &str = include_str!("../../bundles/precheck.toml");

/// How much a finding matters; the first is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A person has to decide that it may go out all the same.
    Block,
    /// A person has to look at this.
    Review,
    /// Worth knowing.
    Note,
}

impl Level {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Review => "review",
            Self::Note => "note",
        }
    }
}

/// The rules, by the names that the data has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the data has the name and the reason of each")]
pub enum RuleName {
    Link,
    NotAFile,
    Name,
    IdentifierInName,
    Type,
    TypeDiffers,
    Size,
    Archive,
    DataFile,
    Model,
    Program,
    Unreadable,
    Rows,
    IdColumn,
    NhsNumbers,
    NhsNumber,
    TrailingData,
    NotebookOutputs,
    EmbeddedFile,
    VersionControl,
    Hidden,
    SmallCount,
    RowLevel,
    ImageMetadata,
    EmbeddedNumbers,
    Script,
    Encoded,
    Postcode,
    Email,
    NotLookedAt,
    OtherName,
    Executable,
    NotWhatTheRunLeft,
    NotSearched,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name.
    pub name: RuleName,
    /// How much it matters.
    pub level: Level,
    /// Why it is one.
    pub why: String,
}

/// What a site may set; none: as in the data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Bytes of the largest file.
    pub size: Option<u64>,
    /// Rows of the longest table.
    pub rows: Option<u64>,
    /// Below which number a count is small.
    pub threshold: Option<u64>,
    /// Whether 0 is a small count.
    pub zero: Option<bool>,
    /// Rows from which a table may have one for each person.
    pub row_level: Option<u64>,
    /// Endings of names.
    pub types: Option<Vec<String>>,
}

/// All rules in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Which version of the data.
    pub version: String,
    /// Bytes of the largest file.
    pub size: u64,
    /// Rows of the longest table.
    pub rows: u64,
    /// Below which number a count is small.
    pub threshold: u64,
    /// Whether 0 is a small count.
    pub zero: bool,
    /// Rows from which a table may have one for each person.
    pub row_level: u64,
    /// How many numbers a page may have.
    pub embedded_numbers: u64,
    /// Bytes of a file that are looked at.
    pub read: u64,
    /// Endings of names.
    pub types: Vec<String>,
    /// Names of columns with identifiers.
    pub id_columns: Vec<String>,
    /// First words of names of columns without counts.
    pub not_counts: Vec<String>,
    /// The rules.
    pub rule: Vec<Rule>,
    /// What is never judged.
    pub not_looked_at: NotLookedAt,
}

/// What is never judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotLookedAt {
    /// In every report.
    pub always: Vec<String>,
}

impl Rules {
    /// The rules of the data with what the site sets.
    ///
    /// # Errors
    /// When the data is not what it should be.
    pub fn of(site: &Site) -> Result<Self> {
        let mut rules = built_in()?.clone();
        let set = |rule: &mut u64, stated: Option<u64>| *rule = stated.unwrap_or(*rule);
        set(&mut rules.size, site.size);
        set(&mut rules.rows, site.rows);
        set(&mut rules.threshold, site.threshold);
        set(&mut rules.row_level, site.row_level);
        rules.zero = site.zero.unwrap_or(rules.zero);
        if let Some(types) = &site.types {
            rules.types = types.iter().map(|ending| ending.to_lowercase()).collect();
        }
        Ok(rules)
    }

    /// SHA-256 of all of it, in hexadecimal: the same rules have the same, and no others.
    pub fn sha256(&self) -> String {
        // What was read from text can be written.
        let text = serde_json::to_vec(self).unwrap_or_default();
        crate::evidence::line::hex(&Sha256::digest(text))
    }

    /// The level of a rule; of one that the data lacks, the worst.
    pub fn level(&self, name: RuleName) -> Level {
        self.rule.iter().find(|rule| rule.name == name).map_or(Level::Block, |rule| rule.level)
    }

    /// Whether a file with such an ending is expected, in lower case and with the dot.
    pub fn expects(&self, ending: &str) -> bool {
        self.types.iter().any(|expected| expected == ending)
    }
}

fn built_in() -> Result<&'static Rules> {
    static RULES: OnceLock<std::result::Result<Rules, String>> = OnceLock::new();
    let read = RULES.get_or_init(|| toml::from_str(TEXT).map_err(|e| e.to_string()));
    read.as_ref()
        .map_err(|e| Error::new(Stage::Outputs, Kind::Failed, "the rules of the pre-check make no sense").because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_in_the_data_once_and_with_a_reason() {
        let rules = Rules::of(&Site::default()).unwrap();
        let mut names: Vec<RuleName> = rules.rule.iter().map(|rule| rule.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(count, names.len());
        // The last of the list.
        assert_eq!(count, RuleName::NotSearched as usize + 1);
        assert!(rules.rule.iter().all(|rule| rule.why.len() > 20));
        assert!(!rules.not_looked_at.always.is_empty());
    }

    #[test]
    fn what_a_site_sets_counts_and_changes_the_hash() {
        let (plain, seven) =
            (Site::default(), Site { threshold: Some(7), types: Some(vec![".CSV".to_owned()]), ..Site::default() });
        let (plain, seven) = (Rules::of(&plain).unwrap(), Rules::of(&seven).unwrap());
        assert_eq!((plain.threshold, seven.threshold), (10, 7));
        assert!(seven.expects(".csv") && !seven.expects(".png"));
        assert_ne!(plain.sha256(), seven.sha256());
        assert_eq!(plain.sha256(), Rules::of(&Site::default()).unwrap().sha256());
        assert_eq!(plain.sha256().len(), 64);
    }
}
