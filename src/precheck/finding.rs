//! What was found of a file.
//!
//! Takes rules that hold; gives them in words, bounded in length and number; trusts nothing of what is quoted: it goes through
//! `text` where it is shown. Refuses nothing.

use serde::{Deserialize, Serialize};

use super::rules::{Level, RuleName, Rules};

/// No more findings of one file are kept.
const MOST: usize = 40;
/// No text is longer, in characters.
const LONGEST: usize = 240;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// By which rule.
    pub rule: RuleName,
    /// How much it matters.
    pub level: Level,
    /// What is there.
    pub because: String,
}

/// Findings of one file, as they come.
#[derive(Debug)]
pub struct Findings<'a> {
    rules: &'a Rules,
    found: Vec<Finding>,
}

impl<'a> Findings<'a> {
    /// None yet.
    pub fn new(rules: &'a Rules) -> Self {
        Self { rules, found: Vec::new() }
    }

    /// The rules in force.
    pub fn rules(&self) -> &'a Rules {
        self.rules
    }

    /// One more. Of too many the worst stay.
    pub fn add(&mut self, rule: RuleName, because: impl Into<String>) {
        let because = bounded(&because.into());
        self.found.push(Finding { rule, level: self.rules.level(rule), because });
        if self.found.len() > 2 * MOST {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.found.sort_by_key(|finding| finding.level);
        self.found.truncate(MOST);
    }

    /// The findings, the worst first.
    pub fn end(mut self) -> Vec<Finding> {
        self.cut();
        self.found
    }
}

/// A text as it is kept: what is too long of it is left out.
pub fn bounded(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The word for a file with these findings.
pub fn verdict(findings: &[Finding]) -> &'static str {
    findings.iter().map(|finding| finding.level).min().map_or(NOTHING, Level::name)
}

/// What is said of a file without findings: not that it is safe.
pub const NOTHING: &str = "nothing found";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::rules::Site;

    #[test]
    fn the_worst_of_many_stays_whenever_it_comes_and_texts_are_bounded() {
        let rules = Rules::of(&Site::default()).unwrap();
        let mut findings = Findings::new(&rules);
        for _ in 0..10_000 {
            findings.add(RuleName::Executable, "é".repeat(10_000));
        }
        findings.add(RuleName::Link, "to /etc/passwd");
        for _ in 0..10_000 {
            findings.add(RuleName::Email, "x");
        }
        let found = findings.end();
        assert_eq!((found.len(), found.first().unwrap().rule, verdict(&found)), (MOST, RuleName::Link, "block"));
        assert!(found.iter().all(|finding| finding.because.chars().count() <= LONGEST + 1));
        assert_eq!(verdict(&[]), "nothing found");
    }
}
