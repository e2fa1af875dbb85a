//! What rehearsals of an image are worth: what a run says of them, and whether the policy is content.
//!
//! Takes what is known of the researcher's own rehearsals; gives words and a decision; trusts who kept them; refuses an image that
//! was not rehearsed as the policy requires.

use super::{GrantFacts, Log};
use crate::error::Result;
use crate::policy::{Policy, Rehearsing};

/// What is known of rehearsals of the image by this researcher.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rehearsed {
    /// Nothing.
    #[default]
    Never,
    /// This is one.
    Now,
    /// There was one.
    Before {
        /// How long ago, in words.
        ago: String,
        /// Under the filter of system calls that a run has now.
        same_filter: bool,
        /// Under the rules that hold now.
        same_rules: bool,
        /// Nothing stood in the way.
        ready: bool,
        /// Something was laxer, or was not looked at.
        laxer: bool,
    },
}

impl Rehearsed {
    /// Whether it tells that a run will have what it needs.
    fn counts(&self) -> bool {
        match self {
            Self::Never => false,
            Self::Now => true,
            Self::Before { same_filter, same_rules, ready, laxer, .. } => {
                *same_filter && *same_rules && *ready && !laxer
            }
        }
    }
}

impl std::fmt::Display for Rehearsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Never => f.write_str("not rehearsed here"),
            Self::Now => f.write_str("rehearsed now"),
            Self::Before { ago, same_filter, same_rules, ready, laxer } => {
                let under = match (same_filter, same_rules) {
                    (false, _) => "another filter of system calls",
                    (true, true) => "same rules",
                    (true, false) => "other rules",
                };
                let laxer = if *laxer { ", but not as strictly" } else { "" };
                let how = if *ready { "ready" } else { "NOT READY" };
                write!(f, "rehearsed {ago}, same image, {under}{laxer}: {how}")
            }
        }
    }
}

impl Policy {
    /// Refuses an image without a rehearsal where the policy requires one.
    pub(super) fn rehearsal(&self, facts: &GrantFacts, log: &mut Log) -> Result<()> {
        let (rule, rehearsed) = (&self.images.rehearsed, &facts.rehearsed);
        if rule.value == Rehearsing::Required && !rehearsed.counts() {
            let what = format!("the image may not run before a rehearsal finds it ready: {rehearsed}");
            let hint = "rehearse it on synthetic data: ces rehearse --data DIR IMAGE [ARGS]";
            return Err(self
                .refuse(what, rule, "requires one of yours on this host, by the rules in force")
                .hint(hint));
        }
        if *rehearsed != Rehearsed::Never || rule.value != Rehearsing::Free {
            log.note("rehearsal", rehearsed.to_string(), &rule.origin);
        }
        Ok(())
    }
}
