//! What the site allows of a stack.
//!
//! Takes a verdict and the site's rules; gives each rule that it breaks, and whether that is a refusal or a remark.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use super::verdict::{State, Verdict};
use super::vulndb::record::Class;
use super::vulndb::severity::Severity;

/// What is done about something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is told.
    Report,
    /// The image is refused.
    Refuse,
}

/// The rules, `[images.stack]` of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What is done about a vulnerability above `max_severity`, a malicious package, and data that is too old.
    pub on_finding: Action,
    /// The worst that passes without a waiver.
    pub max_severity: Severity,
    /// What is done about a vulnerability that nobody has rated.
    pub unknown_severity: Action,
    /// What is done about packages that could not be judged.
    pub unjudged: Action,
    /// How old the data of a source may be; none: any age.
    pub database_max_age: Option<Duration>,
    /// What is done about programs of no package.
    pub unowned: Action,
    /// What is done about secrets.
    pub secrets: Action,
}

impl Default for Rules {
    /// All is told; what looks like a secret is refused where the site says so.
    fn default() -> Self {
        Self {
            on_finding: Action::Report,
            max_severity: Severity::High,
            unknown_severity: Action::Report,
            unjudged: Action::Report,
            database_max_age: None,
            unowned: Action::Report,
            secrets: Action::Report,
        }
    }
}

/// A rule that a stack breaks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Breach {
    /// The rule, as a key of `[images.stack]`.
    pub rule: Cow<'static, str>,
    /// What breaks it, in words.
    pub what: String,
    /// What is done about it.
    pub action: Action,
}

/// How many names a breach has.
const NAMES: usize = 8;

/// The rules that a stack breaks; those that refuse it have [`Action::Refuse`].
pub fn refusals(verdict: &Verdict, rules: &Rules) -> Vec<Breach> {
    let mut out = Vec::new();
    let mut say = |rule, action, what: String| out.push(Breach { rule: Cow::Borrowed(rule), what, action });
    // What the distribution calls harmless, what is waived, and what is no vulnerability breaks no rule.
    let open = || {
        verdict.known.iter().filter(|known| {
            !known.waived && known.state != State::DistributionUnimportant && known.class != Class::Notice
        })
    };
    let list = |ids: BTreeSet<&str>| {
        let more = ids.len().saturating_sub(NAMES);
        let names = ids.into_iter().take(NAMES).collect::<Vec<_>>().join(", ");
        if more == 0 { names } else { format!("{names} and {more} more") }
    };
    let malicious: BTreeSet<&str> =
        open().filter(|known| known.class == Class::Malicious).map(|known| known.id.as_str()).collect();
    if !malicious.is_empty() {
        say("on_finding", rules.on_finding, format!("packages that are malicious: {}", list(malicious)));
    }
    let vulnerable = || open().filter(|known| known.class == Class::Vulnerability);
    let worse: BTreeSet<&str> =
        vulnerable().filter(|known| known.severity > rules.max_severity).map(|known| known.id.as_str()).collect();
    if !worse.is_empty() {
        let (count, most) = (worse.len(), rules.max_severity.name());
        say(
            "max_severity",
            rules.on_finding,
            format!("{count} vulnerabilities above {most} without a waiver: {}", list(worse)),
        );
    }
    let unrated: BTreeSet<&str> =
        vulnerable().filter(|known| known.severity == Severity::Unknown).map(|known| known.id.as_str()).collect();
    if !unrated.is_empty() {
        say(
            "unknown_severity",
            rules.unknown_severity,
            format!("{} vulnerabilities that nobody has rated: {}", unrated.len(), list(unrated)),
        );
    }
    let packages: usize = verdict.unjudged.iter().map(|unjudged| unjudged.packages.len()).sum();
    if packages > 0 {
        let why = verdict.unjudged.iter().map(|unjudged| unjudged.why.as_str()).collect();
        say("unjudged", rules.unjudged, format!("{packages} packages were not judged: {}", list(why)));
    }
    if verdict.unread > 0 {
        // Who hides a database of packages behind damage is not judged either.
        let what = "places of the image could not be read, so that what is there was not judged";
        say("unjudged", rules.unjudged, format!("{} {what}", verdict.unread));
    }
    if let Some(most) = rules.database_max_age {
        let days = |source: &&super::verdict::Used| {
            u64::try_from(source.days).map_or(true, |days| days > most.as_secs() / 86_400)
        };
        let old: BTreeSet<&str> = verdict.sources.iter().filter(days).map(|source| source.name.as_str()).collect();
        if !old.is_empty() {
            let days = most.as_secs() / 86_400;
            say(
                "database_max_age",
                rules.on_finding,
                format!("data older than {days} days: {}; import it again", list(old)),
            );
        }
    }
    if verdict.unowned > 0 {
        say("unowned", rules.unowned, format!("{} programs and libraries of no package", verdict.unowned));
    }
    if verdict.secrets > 0 {
        say("secrets", rules.secrets, format!("{} files or variables that look like secrets", verdict.secrets));
    }
    out
}
