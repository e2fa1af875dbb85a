//! What has changed since the last rehearsal of an image by the same name and command.
//!
//! Takes what was found then and now; gives what is mended and what is new; trusts neither's text (`super::show` neutralises it);
//! refuses nothing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Finding, Verdict};

/// A finding of before, as far as it is compared and told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What it came to.
    pub verdict: Verdict,
    /// Its kind.
    pub kind: String,
    /// The name, address, path or call.
    pub object: String,
    /// In words.
    pub what: String,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// How long ago the last one was, in words.
    pub ago: String,
    /// The digest of the image then.
    pub digest: String,
    /// What stood in the way or was missed then, and is not now.
    pub mended: Vec<String>,
    /// What was not found then, and is now.
    pub new: Vec<String>,
}

/// From findings of `before` and `now`; what programs do without is no difference.
pub fn between(before: &[Known], now: &[Finding], ago: String, digest: String) -> Difference {
    let then: BTreeSet<(&str, &str)> = before
        .iter()
        .filter(|known| known.verdict != Verdict::Harmless)
        .map(|known| (known.kind.as_str(), known.object.as_str()))
        .collect();
    let counts = |finding: &&Finding| finding.verdict != Verdict::Harmless;
    let is: BTreeSet<(&str, &str)> =
        now.iter().filter(counts).map(|finding| (finding.kind, finding.object.as_str())).collect();
    let mended = before
        .iter()
        .filter(|known| {
            known.verdict != Verdict::Harmless && !is.contains(&(known.kind.as_str(), known.object.as_str()))
        })
        .map(|known| known.what.clone());
    let new = now
        .iter()
        .filter(|finding| counts(finding) && !then.contains(&(finding.kind, finding.object.as_str())))
        .map(|finding| finding.what.clone());
    Difference { ago, digest, mended: mended.collect(), new: new.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mended_and_what_is_new_is_told_and_what_is_harmless_is_not() {
        let known = |kind: &str, object: &str, verdict| Known {
            verdict,
            kind: kind.to_owned(),
            object: object.to_owned(),
            what: format!("{kind} {object}"),
        };
        let found = |kind: &'static str, object: &str, verdict| Finding {
            verdict,
            kind,
            what: format!("{kind} {object}"),
            object: object.to_owned(),
            by: BTreeSet::new(),
            times: 1,
            seconds_before_end: None,
            fix: String::new(),
            probably_why: false,
        };
        let before = [
            known("name", "a", Verdict::Fails),
            known("name", "b", Verdict::Missed),
            known("lost", "/tmp", Verdict::Harmless),
        ];
        let now = [
            found("name", "b", Verdict::Fails),
            found("address", "a", Verdict::Missed),
            found("call", "clone3", Verdict::Harmless),
        ];
        let difference = between(&before, &now, "1 day ago".to_owned(), "sha256:1".to_owned());
        assert_eq!((difference.mended, difference.new), (vec!["name a".to_owned()], vec!["address a".to_owned()]));
    }
}
