//! What is kept of a rehearsal: that this image, under this filter and these rules, was found ready, or not.
//!
//! Takes a report; gives a `Ticket`, and what it says of a run; trusts the one who kept it (through sudo that is `ces` itself, where
//! root alone can write); refuses nothing.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Report;
use super::difference::Known;
use crate::policy::Policy;
use crate::policy::grant::Rehearsed;

/// The version of what is kept.
pub const VERSION: u32 = 1;

/// A rehearsal, as it is kept: for which image, under which filter and rules, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// Of this document.
    pub version: u32,
    /// When it ended, in seconds since 1970.
    pub when: i64,
    /// The image's reference.
    pub image: String,
    /// Its manifest's digest.
    pub digest: String,
    /// SHA-256 of the seccomp program.
    pub filter: String,
    /// SHA-256 of the rules that the policy states.
    pub rules: String,
    /// SHA-256 of the command: what stands in it may be secret.
    pub command: String,
    /// Nothing stood in the way.
    pub ready: bool,
    /// Something was not looked at. (What is laxer for this caller than for others is so in their runs, too.)
    pub laxer: bool,
}

/// A ticket, and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The ticket.
    pub ticket: Ticket,
    /// What was found.
    pub findings: Vec<Known>,
}

impl Ticket {
    /// Of a report, at this time, in seconds since 1970.
    pub fn of(report: &Report, when: i64) -> Self {
        let conditions = &report.conditions;
        Self {
            version: VERSION,
            when,
            image: report.image.clone(),
            digest: report.digest.clone(),
            filter: conditions.filter.clone(),
            rules: conditions.rules.clone(),
            command: hash_of(&report.command),
            ready: report.ready,
            laxer: conditions.light,
        }
    }

    /// What it says of a run of the same image, under this filter and these rules, now.
    pub fn says(&self, filter: &str, rules: &str, now: i64) -> Rehearsed {
        Rehearsed::Before {
            ago: ago(now.saturating_sub(self.when)),
            same_filter: self.filter == filter,
            same_rules: self.rules == rules,
            ready: self.ready,
            laxer: self.laxer,
        }
    }
}

/// SHA-256 of what the policy itself states. What it leaves to the host (its memory, its processors) is another's on another host,
/// and no rule.
pub fn rules(policy: &Policy) -> String {
    let stated = policy.rules().into_iter().filter(|rule| !rule.because.starts_with("built-in"));
    hash_of(&stated.flat_map(|rule| [rule.what, rule.value]).collect::<Vec<_>>())
}

/// SHA-256 of a command.
pub fn hash_of(command: &[String]) -> String {
    let mut hash = Sha256::new();
    for word in command {
        // With its length before each word, no two commands are alike.
        hash.update(word.len().to_le_bytes());
        hash.update(word);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time that has passed, for people: `2 hours ago`.
pub fn ago(seconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    match UNITS.into_iter().find(|(size, _)| seconds >= *size) {
        Some((size, unit)) if seconds / size == 1 => format!("1 {unit} ago"),
        Some((size, unit)) => format!("{} {unit}s ago", seconds / size),
        None => "just now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::HostFacts;

    fn ticket() -> Ticket {
        Ticket {
            version: VERSION,
            when: 1000,
            image: "localhost/tool".to_owned(),
            digest: "sha256:1".to_owned(),
            filter: "f".to_owned(),
            rules: "r".to_owned(),
            command: String::new(),
            ready: true,
            laxer: false,
        }
    }

    #[test]
    fn a_ticket_says_in_one_line_what_it_is_worth() {
        let says = |ticket: Ticket, filter, rules| ticket.says(filter, rules, 1000 + 3 * 86_400 + 3_600).to_string();
        assert_eq!(says(ticket(), "f", "r"), "rehearsed 3 days ago, same image, same rules: ready");
        assert_eq!(says(ticket(), "f", "x"), "rehearsed 3 days ago, same image, other rules: ready");
        assert_eq!(says(ticket(), "x", "r"), "rehearsed 3 days ago, same image, another filter of system calls: ready");
        let not = Ticket { ready: false, laxer: true, ..ticket() };
        assert_eq!(says(not, "f", "r"), "rehearsed 3 days ago, same image, same rules, but not as strictly: NOT READY");
    }

    #[test]
    fn a_time_is_told_in_its_greatest_unit() {
        for (seconds, shown) in [
            (-5, "just now"),
            (0, "just now"),
            (1, "1 second ago"),
            (119, "1 minute ago"),
            (7_200, "2 hours ago"),
            (86_399, "23 hours ago"),
            (i64::MAX, "106751991167300 days ago"),
        ] {
            assert_eq!(ago(seconds), shown);
        }
    }

    #[test]
    fn rules_are_the_same_where_the_same_is_stated_whatever_the_host_has() {
        let facts = |memory_bytes| HostFacts { memory_bytes, cpus: 2.0, privileged: true };
        let of = |text: &str, memory| rules(&Policy::parse(text, "p.toml", &facts(memory)).unwrap());
        let text = "[limits.memory]\nmax = \"1G\"\n";
        assert_eq!(of(text, 8 << 30), of(&format!("\n# moved\n{text}"), 16 << 30));
        assert_ne!(of(text, 8 << 30), of("[limits.memory]\nmax = \"2G\"\n", 8 << 30));
        assert_eq!(of("", 8 << 30), rules(&Policy::builtin(&facts(4 << 30))));
    }
}
