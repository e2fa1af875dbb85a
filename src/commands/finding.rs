//! What `ces doctor` and `ces policy check` have looked at, and what the policy names.
//!
//! Takes a policy; gives findings; trusts the policy where it is in force; refuses nothing. What a policy names is looked at with
//! root's power only by real root: else a file of a researcher's own would tell what is in files of others.

use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::host::caller::Caller;
use crate::host::privilege::as_root;
use crate::policy::Policy;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    /// As it should be.
    Ok,
    /// A run works, with less than there could be.
    Warning,
    /// A run would be refused.
    Refused,
}

impl Grade {
    /// As it is printed.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARN",
            Self::Refused => "FAIL",
        }
    }
}

/// One thing looked at.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub what: &'static str,
    pub grade: Grade,
    pub found: String,
    pub needed: &'static str,
    pub fix: Option<String>,
}

/// A finding; without a `problem` it is as it should be.
pub(super) fn finding(
    what: &'static str,
    needed: &'static str,
    found: String,
    problem: Option<(Grade, String)>,
) -> Finding {
    let (grade, fix) = problem.map_or((Grade::Ok, None), |(grade, fix)| (grade, Some(fix)));
    Finding { what, grade, found, needed, fix }
}

/// A finding of an error, for which a run would be refused.
pub(super) fn refused(what: &'static str, needed: &'static str, error: &Error, otherwise: &str) -> Finding {
    let fix = error.hint_text().unwrap_or(otherwise).to_owned();
    finding(what, needed, error.to_string(), Some((Grade::Refused, fix)))
}

/// The list of approved images, if the policy names one: whether it can be read.
pub(super) fn approved(policy: &Policy) -> Option<Finding> {
    let (what, needed) = ("approvals", "a list that can be read");
    match as_root(|root| policy.approved(root)) {
        Ok(list) => list.map(|list| finding(what, needed, format!("{} approvals", list.all().len()), None)),
        Err(error) => Some(refused(what, needed, &error, "ces approve add makes the list")),
    }
}

/// The certificates that the policy names for registries. A run needs none: an image that cannot be pulled is no run refused.
pub(super) fn registries(policy: &Policy) -> Option<Finding> {
    let (what, needed) = ("registries", "certificates of [registries] that can be read");
    let mirrors = &policy.registries().mirrors;
    let named: Vec<(&String, &Path)> =
        mirrors.iter().filter_map(|(host, mirror)| Some((host, mirror.ca.as_deref()?))).collect();
    if named.is_empty() {
        return None;
    }
    let problem = |path: &Path| as_root(|_| std::fs::metadata(path).and_then(|_| std::fs::File::open(path))).err();
    let broken: Vec<String> = named
        .iter()
        .filter_map(|(host, path)| Some(format!("{}, of {host}: {}", path.display(), problem(path)?)))
        .collect();
    if broken.is_empty() {
        return Some(finding(what, needed, format!("{} certificates", named.len()), None));
    }
    let fix = "put the authority's certificate there (PEM); until then no image can be pulled from that registry";
    Some(finding(what, needed, broken.join("; "), Some((Grade::Warning, fix.to_owned()))))
}

/// The site's waivers, if the policy names a directory of them.
pub(super) fn waivers(policy: &Policy) -> Option<Finding> {
    policy.images().stack.waivers.as_ref()?;
    let (what, needed) = ("waivers", "documents that can be read");
    Some(match as_root(|root| policy.waivers(root)) {
        Ok(_) => finding(what, needed, "readable".to_owned(), None),
        Err(error) => {
            let fix = error.hint_text().unwrap_or("correct the document").to_owned();
            finding(what, needed, error.to_string(), Some((Grade::Warning, fix)))
        }
    })
}

/// The directory of the projects.
pub(super) fn data(policy: &Policy) -> Finding {
    let root = policy.data_root();
    let problem = (!root.is_dir())
        .then(|| (Grade::Warning, format!("make {}, with a directory for each project", root.display())));
    finding("safe data", "the directory of the projects", root.display().to_string(), problem)
}

/// What a policy names, as far as it may be looked at for this caller.
pub(super) fn named(policy: &Policy, caller: &Caller) -> Vec<Finding> {
    if caller.by_sudo {
        return Vec::new();
    }
    [approved(policy), registries(policy), waivers(policy), Some(data(policy))].into_iter().flatten().collect()
}
