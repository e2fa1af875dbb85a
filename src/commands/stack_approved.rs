//! `ces stack --approved`: what is known today against every image that is approved; and the stacks of approved images, which are kept
//! when the images are removed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::stack_gate::{self, Place};
use super::stack_verdict::Judge;
use super::{facts, print};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::image::reference::Digest;
use crate::image::store::Store;
use crate::policy::approved::{Approval, Approved};
use crate::stack::kept::Kept;
use crate::stack::package::Stack;
use crate::stack::rules::{Action, Breach};
use crate::stack::verdict::Verdict;
use crate::stack::vulndb::record::Class;
use crate::stack::vulndb::severity::Severity;

/// Where a stack was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Read {
    /// The image is in the store.
    Store,
    /// The image is gone; its stack was kept.
    Kept,
    /// Neither is there.
    No,
}

/// An approved image, judged.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    /// How its approval calls it.
    image: Option<String>,
    digest: String,
    /// For whom it is approved.
    projects: Vec<String>,
    read: Read,
    /// What was read now.
    stack: Option<Digest>,
    /// Whether no approval that counts names this stack, and all name one.
    other_stack: bool,
    /// Vulnerabilities that nothing waives, and malicious packages.
    known: usize,
    malicious: usize,
    /// How bad the worst is.
    worst: Option<Severity>,
    /// Packages that were not judged.
    unjudged: usize,
    breaches: Vec<Breach>,
    /// Whether the rules, or its approval, refuse it today.
    refused: bool,
}

/// Judges every image that is approved today, in the order of the list.
///
/// # Errors
/// When the caller may not approve images, there is no list, or the data cannot be read.
pub(super) fn judge(place: Place<'_>, store: &Store) -> Result<Vec<Judged>> {
    let (dirs, caller, policy) = place;
    policy.may_approve(caller)?;
    let list = as_root(|root| policy.approved(root))?.ok_or_else(|| {
        Error::new(Stage::Policy, Kind::Failed, "there is no list of approved images")
            .because(format!("{} names none (images.approved)", policy.file()))
            .hint("name an image instead: ces stack IMAGE")
    })?;
    let (kept, judge) = (Kept::open(&dirs.store)?, Judge::new(dirs, policy)?);
    let mut all = Vec::new();
    for (digest, approvals) in approved_today(&list) {
        let found = stack_of(place, store, &kept, &digest)?;
        let read = found.as_ref().map_or(Read::No, |(_, read)| *read);
        let mut judged = Judged {
            image: approvals.iter().find_map(|approval| approval.name.clone()),
            digest: digest.to_string(),
            projects: approvals.iter().flat_map(|approval| approval.projects.clone()).collect(),
            read,
            stack: None,
            other_stack: false,
            known: 0,
            malicious: 0,
            worst: None,
            unjudged: 0,
            breaches: Vec::new(),
            // What nobody can judge is refused where all is to be judged.
            refused: read == Read::No && policy.images().stack.unjudged.value == Action::Refuse,
        };
        if let Some((stack, _)) = found {
            let now = stack.digest().map_err(|e| cannot_name(&digest, &e))?;
            let read: Option<Vec<&str>> = approvals.iter().map(|approval| approval.stack.as_deref()).collect();
            judged.other_stack = read.is_some_and(|read| !read.contains(&now.as_str()));
            judged.stack = Some(now);
            let verdict = judge.judge(&stack, None)?;
            judged.refused = judged.other_stack || verdict.is_refused();
            judged.count(&verdict.verdict);
            judged.breaches = verdict.breaches;
        }
        all.push(judged);
    }
    Ok(all)
}

impl Judged {
    fn count(&mut self, verdict: &Verdict) {
        let open = || verdict.known.iter().filter(|known| !known.waived);
        self.known = open().filter(|known| known.class == Class::Vulnerability).count();
        self.malicious = open().filter(|known| known.class == Class::Malicious).count();
        self.worst = open().filter(|known| known.class == Class::Vulnerability).map(|known| known.severity).max();
        self.unjudged = verdict.unjudged.iter().map(|unjudged| unjudged.packages.len()).sum();
    }

    /// Whether it would be refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }
}

/// The images in columns.
pub(super) fn text(all: &[Judged]) -> String {
    let mut rows = vec![["IMAGE", "DIGEST", "READ", "KNOWN", "WORST", "NOT JUDGED", "TODAY"].map(str::to_owned)];
    rows.extend(all.iter().map(|judged| {
        let number = |number: usize| if judged.read == Read::No { "-".to_owned() } else { number.to_string() };
        let known = match judged.malicious {
            0 => number(judged.known),
            malicious => format!("{} and {malicious} malicious", judged.known),
        };
        let read = match judged.read {
            Read::Store => "in the store",
            Read::Kept => "kept",
            Read::No => "no",
        };
        [
            judged.image.clone().unwrap_or_else(|| "-".to_owned()),
            judged.digest.get(..19).unwrap_or(&judged.digest).to_owned(),
            read.to_owned(),
            known,
            judged.worst.map_or("-", Severity::name).to_owned(),
            number(judged.unjudged),
            today(judged),
        ]
    }));
    print::columns(&rows) + "\n"
}

/// What the rules and its approval say to it today.
fn today(judged: &Judged) -> String {
    let refusing = judged.breaches.iter().filter(|breach| breach.action == Action::Refuse);
    let mut why: Vec<&str> = refusing.map(|breach| breach.rule.as_ref()).collect();
    why.extend(judged.other_stack.then_some("another stack than was approved"));
    match (why.as_slice(), judged.read) {
        ([], Read::No) => "not judged: the image is not in the store, and its stack was not kept".to_owned(),
        ([], _) => "passes".to_owned(),
        (why, _) => format!("refused: {}", why.join(", ")),
    }
}

/// Images with an approval that counts today, each with those; as the list has them.
fn approved_today(list: &Approved) -> Vec<(Digest, Vec<&Approval>)> {
    let mut order: Vec<(Digest, Vec<&Approval>)> = Vec::new();
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    for approval in list.all().iter().filter(|approval| approval.counts_on(facts::today())) {
        let Ok(digest) = approval.digest.parse::<Digest>() else { continue };
        let place = *at.entry(&approval.digest).or_insert(order.len());
        match order.get_mut(place) {
            Some((_, approvals)) => approvals.push(approval),
            None => order.push((digest, vec![approval])),
        }
    }
    order
}

/// The stack of an approved image: of the store, and kept from now on; else as it was kept.
fn stack_of(place: Place<'_>, store: &Store, kept: &Kept, digest: &Digest) -> Result<Option<(Stack, Read)>> {
    match store.find(digest.as_str()) {
        Ok(image) => {
            let stack = stack_gate::read(place, store, &image)?;
            // What is kept is what today's readers say; a damaged one is written anew.
            let same = kept.stack(digest).ok().flatten().is_some_and(|kept| kept.digest().ok() == stack.digest().ok());
            if !same {
                kept.keep_stack(digest, &stack)?;
            }
            Ok(Some((stack, Read::Store)))
        }
        Err(error) if error.kind() == Kind::Missing => Ok(kept.stack(digest)?.map(|stack| (stack, Read::Kept))),
        Err(error) => Err(error),
    }
}

/// Before images are removed: keeps the stacks of those that are approved and that `goes` is true for, where none is kept. What cannot
/// be kept is said, and no reason to stop.
///
/// # Errors
/// When standard error is closed.
pub(super) fn keep(place: Place<'_>, store: &Store, goes: impl Fn(&Digest) -> bool) -> Result<()> {
    let (dirs, _, policy) = place;
    let kept_all = || -> Result<Vec<Error>> {
        let Some(list) = as_root(|root| policy.approved(root))? else { return Ok(Vec::new()) };
        let kept = Kept::open(&dirs.store)?;
        let mut failed = Vec::new();
        for (digest, _) in approved_today(&list).into_iter().filter(|(digest, _)| goes(digest)) {
            if !matches!(kept.stack(&digest), Ok(Some(_))) {
                failed.extend(stack_of(place, store, &kept, &digest).err());
            }
        }
        Ok(failed)
    };
    let failed = kept_all().unwrap_or_else(|error| vec![error]);
    failed.iter().try_for_each(|error| print::note(&format!("the stack of an approved image is not kept: {error}")))
}

/// After images were removed: forgets what was judged of those, and stacks of images that are approved no more. What cannot be forgotten
/// is said.
///
/// # Errors
/// When standard error is closed.
pub(super) fn forget((dirs, _, policy): Place<'_>, store: &Store) -> Result<()> {
    let forgotten = || -> Result<()> {
        let Some(kept) = Kept::existing(&dirs.store)? else { return Ok(()) };
        // Ended approvals may be renewed.
        let list = as_root(|root| policy.approved(root))?;
        let listed: Option<Vec<Digest>> =
            list.map(|list| list.all().iter().filter_map(|approval| approval.digest.parse().ok()).collect());
        kept.prune(&as_root(|_| store.manifests())?, listed.as_deref())
    };
    match forgotten() {
        Ok(()) => Ok(()),
        Err(error) => print::note(&format!("what is kept of removed images stays: {error}")),
    }
}

fn cannot_name(image: &Digest, e: &std::io::Error) -> Error {
    Error::new(Stage::Store, Kind::Failed, format!("cannot name the stack of {image}")).because(e)
}
