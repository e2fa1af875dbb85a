//! `[images.stack]`: what the site allows of an image's software stack.
//!
//! Takes the table; gives rules with their origins; refuses every value that is not exactly what is allowed there.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Origin, Rule, Table};
use super::units;
use crate::error::Result;
use crate::stack::rules::{Action, Rules};
use crate::stack::vulndb::severity::Severity;

/// How old the data of a source may be where the site says nothing: a month.
const MAX_AGE: Duration = Duration::from_secs(30 * 86_400);

/// The rules, each with where it is stated.
#[derive(Debug, Clone, PartialEq)]
pub struct StackRules {
    /// Whether the policy has the section: without it no run depends on what is known of its image's stack.
    pub stated: bool,
    /// What is done about a vulnerability above `max_severity`, a malicious package, and data that is too old.
    pub on_finding: Rule<Action>,
    /// The worst that passes without a waiver.
    pub max_severity: Rule<Severity>,
    /// What is done about a vulnerability that nobody has rated.
    pub unknown_severity: Rule<Action>,
    /// What is done about packages that could not be judged.
    pub unjudged: Rule<Action>,
    /// How old the data of a source may be, in whole days.
    pub database_max_age: Rule<Duration>,
    /// What is done about programs of no package.
    pub unowned: Rule<Action>,
    /// What is done about secrets.
    pub secrets: Rule<Action>,
    /// The directory of waivers.
    pub waivers: Option<Rule<PathBuf>>,
}

impl Default for StackRules {
    fn default() -> Self {
        let action = |key: &str, action| Rule::builtin(&format!("images.stack.{key}"), action);
        Self {
            stated: false,
            on_finding: action("on_finding", Action::Report),
            max_severity: Rule::builtin("images.stack.max_severity", Severity::High),
            unknown_severity: action("unknown_severity", Action::Report),
            unjudged: action("unjudged", Action::Report),
            database_max_age: Rule::builtin("images.stack.database_max_age", MAX_AGE),
            unowned: action("unowned", Action::Report),
            secrets: action("secrets", Action::Refuse),
            waivers: None,
        }
    }
}

impl StackRules {
    /// Reads the table over what is built in; `waivers` is read by the caller's rule for absolute paths.
    ///
    /// # Errors
    /// When a key is unknown or a value is not allowed.
    pub(super) fn read(
        mut table: Table<'_>,
        waivers: impl FnOnce(&mut Table<'_>) -> Result<Option<Rule<PathBuf>>>,
    ) -> Result<Self> {
        let mut rules = Self { stated: true, ..Self::default() };
        for (key, rule) in [
            ("on_finding", &mut rules.on_finding),
            ("unknown_severity", &mut rules.unknown_severity),
            ("unjudged", &mut rules.unjudged),
            ("unowned", &mut rules.unowned),
            ("secrets", &mut rules.secrets),
        ] {
            if let Some(stated) = table.text(key, "\"report\" or \"refuse\"", action)? {
                *rule = stated;
            }
        }
        let levels = "\"none\", \"low\", \"medium\", \"high\" or \"critical\"";
        if let Some(stated) = table.text("max_severity", levels, severity)? {
            rules.max_severity = stated;
        }
        let days = "a number of whole days such as \"30d\"";
        let whole_days = |text: &str| units::duration(text).filter(|age| !age.is_zero() && age.as_secs() % 86_400 == 0);
        if let Some(stated) = table.text("database_max_age", days, whole_days)? {
            rules.database_max_age = stated;
        }
        rules.waivers = waivers(&mut table)?;
        table.finish()?;
        Ok(rules)
    }

    /// The values alone, as `stack::rules` takes them.
    pub fn values(&self) -> Rules {
        Rules {
            on_finding: self.on_finding.value,
            max_severity: self.max_severity.value,
            unknown_severity: self.unknown_severity.value,
            unjudged: self.unjudged.value,
            database_max_age: Some(self.database_max_age.value),
            unowned: self.unowned.value,
            secrets: self.secrets.value,
        }
    }

    /// Every rule with its value, for people.
    pub(super) fn lines(&self) -> Vec<(&'static str, String, Option<&Origin>)> {
        let word = |rule: &Rule<Action>| match rule.value {
            Action::Report => "report".to_owned(),
            Action::Refuse => "refuse".to_owned(),
        };
        let waivers = self.waivers.as_ref();
        let binds = if self.stated { "yes" } else { "no, as there is no [images.stack]; ces stack tells them" };
        vec![
            ("stack: rules bind runs", binds.to_owned(), None),
            ("stack: worse vulnerabilities", word(&self.on_finding), Some(&self.on_finding.origin)),
            (
                "stack: vulnerabilities that pass, up to",
                self.max_severity.value.name().to_owned(),
                Some(&self.max_severity.origin),
            ),
            ("stack: unrated vulnerabilities", word(&self.unknown_severity), Some(&self.unknown_severity.origin)),
            ("stack: packages not judged", word(&self.unjudged), Some(&self.unjudged.origin)),
            (
                "stack: age of data, at most",
                units::show_duration(self.database_max_age.value),
                Some(&self.database_max_age.origin),
            ),
            ("stack: programs of no package", word(&self.unowned), Some(&self.unowned.origin)),
            ("stack: secrets", word(&self.secrets), Some(&self.secrets.origin)),
            (
                "stack: waivers",
                waivers.map_or("none".to_owned(), |rule| rule.value.display().to_string()),
                waivers.map(|rule| &rule.origin),
            ),
        ]
    }
}

impl StackRules {
    /// Where a rule is stated that a stack breaks.
    pub(super) fn origin(&self, rule: &str) -> Option<&Origin> {
        Some(match rule {
            "on_finding" => &self.on_finding.origin,
            "max_severity" => &self.max_severity.origin,
            "unknown_severity" => &self.unknown_severity.origin,
            "unjudged" => &self.unjudged.origin,
            "database_max_age" => &self.database_max_age.origin,
            "unowned" => &self.unowned.origin,
            "secrets" => &self.secrets.origin,
            _ => return None,
        })
    }
}

fn action(text: &str) -> Option<Action> {
    match text {
        "report" => Some(Action::Report),
        "refuse" => Some(Action::Refuse),
        _ => None,
    }
}

fn severity(text: &str) -> Option<Severity> {
    [Severity::None, Severity::Low, Severity::Medium, Severity::High, Severity::Critical]
        .into_iter()
        .find(|level| level.name() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{HostFacts, Policy};

    fn parse(keys: &str) -> Result<Policy> {
        let facts = HostFacts { memory_bytes: 1 << 30, cpus: 1.0, privileged: true };
        Policy::parse(&format!("[images.stack]\n{keys}\n"), "policy.toml", &facts)
    }

    #[test]
    fn rules_for_a_stack_are_read_strictly_and_shown_with_their_lines() {
        let policy = parse(
            "max_severity = \"low\"\ndatabase_max_age = \"7d\"\nunjudged = \"refuse\"\nwaivers = \"/etc/ces/vex\"",
        )
        .unwrap();
        let stack = &policy.images().stack;
        let expected = Rules {
            max_severity: Severity::Low,
            database_max_age: Some(Duration::from_secs(7 * 86_400)),
            unjudged: Action::Refuse,
            ..StackRules::default().values()
        };
        assert_eq!(stack.values(), expected);
        let shown = policy.rules();
        let line = |what: &str| {
            shown.iter().find(|rule| rule.what == what).map(|rule| (rule.value.as_str(), rule.because.as_str()))
        };
        assert_eq!(line("stack: packages not judged"), Some(("refuse", "policy.toml line 4: images.stack.unjudged")));
        assert_eq!(
            line("stack: age of data, at most"),
            Some(("7d", "policy.toml line 3: images.stack.database_max_age"))
        );
        assert_eq!(line("stack: waivers"), Some(("/etc/ces/vex", "policy.toml line 5: images.stack.waivers")));
        for keys in [
            "max_severity = \"unknown\"",
            "max_severity = \"High\"",
            "unjudged = true",
            "secrets = \"ignore\"",
            "database_max_age = \"36h\"",
            "database_max_age = \"0d\"",
            "waivers = \"vex\"",
            "max_sevrity = \"low\"",
        ] {
            let error = parse(keys).unwrap_err().to_string();
            assert!(error.contains("policy.toml line 2: images.stack."), "{keys}: {error}");
        }
    }
}
