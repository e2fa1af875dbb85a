//! Whether an image may run with what is known of its software stack.
//!
//! Takes what the rules for stacks make of an image, and the list of approvals; gives a decision with its reason; trusts both; refuses
//! an image whose stack breaks a rule of `[images.stack]` that refuses, or is not the one that was read when the image was approved.

use jiff::civil::Date;

use super::Policy;
use super::approved::Approved;
use super::grant::Decision;
use crate::error::{Error, Kind, Result, Stage};
use crate::stack::kept::Standing;

/// An image that is to run: how it is called, its digest, for which project, on which day.
#[derive(Debug, Clone, Copy)]
pub struct ToRun<'a> {
    /// How it is called.
    pub name: &'a str,
    /// The digest of its manifest.
    pub digest: &'a str,
    /// For which project.
    pub project: Option<&'a str>,
    /// On which day.
    pub today: Date,
}

impl Policy {
    /// Whether a run of this image depends on what is known of its stack: the policy has rules for stacks, or all approvals that
    /// let it run say which stack was read.
    pub fn stack_counts(&self, image: &ToRun<'_>, approved: Option<&Approved>) -> bool {
        self.images().stack.stated || !read_stacks(image, approved).is_empty()
    }

    /// Whether an image with this standing may run; the decision, for `ces policy explain` and the record.
    ///
    /// # Errors
    /// When a rule of `[images.stack]` refuses it, or it is not the stack that was read when the image was approved.
    pub fn stack_may_run(
        &self,
        image: &ToRun<'_>,
        approved: Option<&Approved>,
        standing: &Standing,
    ) -> Result<Decision> {
        self.stack_is_allowed(image.name, standing)?;
        let read = read_stacks(image, approved);
        if !read.is_empty() && !read.contains(&standing.stack.as_str()) {
            let what = format!("the software stack of {} is not the one that was approved", image.name);
            return Err(Error::new(Stage::Policy, Kind::Policy, what)
                .because(format!("its approval names {}", read.join(", ")))
                .because(format!(
                    "read of it now is {}: by another version of ces, or the store has changed",
                    standing.stack
                ))
                .hint(format!(
                    "ces fsck checks the store; whoever approves reads ces stack {} again and writes what it names",
                    image.name
                )));
        }
        let told: Vec<&str> = standing.breaches.iter().map(|breach| breach.rule.as_ref()).collect();
        let sources: Vec<String> = standing
            .sources
            .iter()
            .map(|(name, dated)| format!("{name} of {}", dated.get(..10).unwrap_or(dated)))
            .collect();
        let by = if sources.is_empty() { "no vulnerability data".to_owned() } else { sources.join(", ") };
        let told = if told.is_empty() { String::new() } else { format!("; told, not refused: {}", told.join(", ")) };
        let because = if self.images().stack.stated { "images.stack" } else { "the approval's stack" };
        Ok(Decision {
            what: "software stack".to_owned(),
            value: format!("{}, judged by {by}{told}", standing.stack),
            because: because.to_owned(),
        })
    }

    /// Whether the rules for stacks allow an image with this standing; without such rules all are allowed.
    ///
    /// # Errors
    /// When one of them refuses it.
    pub fn stack_is_allowed(&self, name: &str, standing: &Standing) -> Result<()> {
        let rules = &self.images().stack;
        if !rules.stated || standing.refusals().next().is_none() {
            return Ok(());
        }
        let refused = Error::new(Stage::Policy, Kind::Policy, format!("the software stack of {name} is refused"));
        let because = standing.refusals().fold(refused, |error, breach| {
            let place = rules.origin(&breach.rule).map_or_else(|| breach.rule.to_string(), ToString::to_string);
            error.because(format!("{place}: {}", breach.what))
        });
        let whom = self.contact().map_or_else(|| "whoever runs this host".to_owned(), str::to_owned);
        Err(because.hint(format!(
            "ces stack {name} shows it, with the versions that have it mended; {whom} can waive what does not matter here"
        )))
    }
}

/// The stacks that approvals name, any of which will do; none where an approval that counts names none.
fn read_stacks<'a>(image: &ToRun<'_>, approved: Option<&'a Approved>) -> Vec<&'a str> {
    let count = approved.map(|list| list.of(image.digest, image.project)).unwrap_or_default();
    let count = count.into_iter().filter(|approval| approval.counts_on(image.today));
    count.map(|approval| approval.stack.as_deref()).collect::<Option<Vec<&str>>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::reference::Digest;
    use crate::policy::HostFacts;
    use crate::stack::rules::{Action, Breach};

    fn parse(text: &str) -> Result<Policy> {
        let facts = HostFacts { memory_bytes: 1 << 30, cpus: 1.0, privileged: true };
        Policy::parse(text, "policy.toml", &facts)
    }

    fn standing(breaches: &[(&'static str, Action)]) -> Standing {
        let breach = |(rule, action): &(&'static str, Action)| Breach {
            rule: (*rule).into(),
            what: format!("what {rule} says"),
            action: *action,
        };
        Standing {
            stack: Digest::of(b"stack"),
            breaches: breaches.iter().map(breach).collect(),
            sources: vec![("osv-PyPI".to_owned(), "2026-11-01T00:00:00Z".to_owned())],
        }
    }

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn a_stack_is_refused_by_every_rule_that_says_so_and_by_none_without_the_section() {
        let policy = parse("[images.stack]\nunowned = \"refuse\"").unwrap();
        let refused =
            standing(&[("unowned", Action::Refuse), ("unjudged", Action::Report), ("secrets", Action::Refuse)]);
        let error = policy.stack_is_allowed("tool", &refused).unwrap_err();
        assert_eq!(error.kind(), Kind::Policy);
        let text = error.to_string();
        assert!(text.contains("policy.toml line 2: images.stack.unowned: what unowned says"), "{text}");
        assert!(text.contains("what secrets says") && !text.contains("what unjudged says"), "{text}");
        assert!(error.hint_text().unwrap().contains("ces stack tool shows it"));
        policy.stack_is_allowed("tool", &standing(&[("unjudged", Action::Report)])).unwrap();
        let without = parse("").unwrap();
        without.stack_is_allowed("tool", &refused).unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = ToRun { name: "tool", digest: &digest, project: None, today: day("2026-11-30") };
        assert!(policy.stack_counts(&image, None) && !without.stack_counts(&image, None));
    }

    #[test]
    fn the_stack_that_an_approval_names_is_the_only_one_that_runs() {
        let (digest, policy) = (format!("sha256:{}", "a".repeat(64)), parse("[images.stack]").unwrap());
        let entry =
            |more: &str| format!("[[image]]\ndigest = \"{digest}\"\nprojects = [\"*\"]\napprover = \"A\"\n{more}\n");
        let list = |entries: &[&str]| {
            Approved::parse(&entries.iter().map(|more| entry(more)).collect::<String>(), "a.toml").unwrap()
        };
        let image = ToRun { name: "tool", digest: &digest, project: Some("projx"), today: day("2026-11-30") };
        let named = format!("stack = \"{}\"", Digest::of(b"stack"));
        let other = format!("stack = \"{}\"", Digest::of(b"other"));
        let ended = "expires = 2026-11-29";
        let none = standing(&[]);
        for (entries, runs) in [
            (vec![""], true),
            (vec![named.as_str()], true),
            (vec![other.as_str()], false),
            (vec![other.as_str(), named.as_str()], true),
            // An approval that says nothing of a stack approves the image as it is.
            (vec![other.as_str(), ""], true),
            (vec![other.as_str(), ended], false),
        ] {
            let outcome = policy.stack_may_run(&image, Some(&list(&entries)), &none);
            assert_eq!(outcome.is_ok(), runs, "{entries:?}: {outcome:?}");
        }
        let decision = policy.stack_may_run(&image, Some(&list(&[&named])), &none).unwrap();
        assert!(decision.value.ends_with("judged by osv-PyPI of 2026-11-01"), "{decision:?}");
        assert!(Approved::parse(&entry("stack = \"sha256:short\""), "a.toml").is_err());
    }
}
