//! What a source says of one package, in the form in which it is kept.
//!
//! Takes ranges as OSV has them; tells whether a version is in one of them; trusts nothing: where a version has no place in the
//! order, the answer is that there is none.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::severity::Severity;
use crate::stack::version::Order;

/// What sort of record it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Not of a vulnerability: a package without maintainers, for one (RustSec's "informational").
    Notice,
    /// A vulnerability.
    #[default]
    Vulnerability,
    /// A package that does harm of its own (`MAL-`).
    Malicious,
}

/// What a distribution says it will not do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// It is not supported any more.
    EndOfLife,
    /// It will not be fixed, or not by itself (Debian: `no-dsa`, ignored, postponed).
    Ignored,
    /// It does no harm as it is built or used there.
    Unimportant,
}

/// A place in a range, from which on the state changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// This version and later ones are affected; `0`: all from the first.
    #[serde(rename = "i")]
    Introduced(String),
    /// This version and later ones are not.
    #[serde(rename = "f")]
    Fixed(String),
    /// Versions after this one are not.
    #[serde(rename = "l")]
    LastAffected(String),
}

/// One record, for one package of one ecosystem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// The same vulnerability under other names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The vulnerabilities that an advisory is about, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub covers: Vec<String>,
    /// In a line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// How bad.
    #[serde(default)]
    pub severity: Severity,
    /// The CVSS vector that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<String>,
    /// Ranges, each in the order of its versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Vec<Event>>,
    /// Affected versions that no range tells of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    /// A range or a version has no place in the order: what the record says of other versions is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unordered: bool,
    /// What sort.
    #[serde(default)]
    pub class: Class,
    /// What the distribution says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
    /// Affected only where one of these is used: import paths of Go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only_if: Vec<String>,
}

/// What a record says of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Not affected, and never was in this branch.
    Unaffected,
    /// Not affected any more.
    Fixed,
    /// Affected; the version that ends it, where there is one.
    Affected(Option<String>),
    /// It cannot be told.
    NotComparable,
}

impl Record {
    /// What it says of `version`.
    pub fn judge(&self, order: Order, version: &str) -> Judgement {
        if !order.accepts(version) {
            // The same text is the same version in any order.
            return match self.versions.iter().any(|affected| affected == version) {
                true => Judgement::Affected(None),
                false => Judgement::NotComparable,
            };
        }
        let (mut affected, mut fix, mut fixed) = (false, None::<&str>, false);
        for range in &self.ranges {
            match in_range(order, range, version) {
                Within::Yes(end) => {
                    affected = true;
                    // The nearest way out.
                    fix = match (fix, end) {
                        (Some(a), Some(b)) if order.cmp(a, b) == Some(Ordering::Greater) => Some(b),
                        (None, end) => end,
                        (fix, _) => fix,
                    };
                }
                Within::Past => fixed = true,
                Within::No => {}
                Within::NotComparable => return Judgement::NotComparable,
            }
        }
        affected |= self.versions.iter().any(|named| order.cmp(named, version).is_some_and(Ordering::is_eq));
        match (affected, self.unordered, fixed) {
            (true, ..) => Judgement::Affected(fix.map(str::to_owned)),
            (false, true, _) => Judgement::NotComparable,
            (false, false, true) => Judgement::Fixed,
            (false, false, false) => Judgement::Unaffected,
        }
    }

    /// Puts the events in order and leaves out versions that a range tells of; what has no place is noted.
    pub fn settle(&mut self, order: Order) {
        let mut unordered = false;
        self.ranges.retain_mut(|range| {
            let known = range.iter().all(|event| version_of(event) == "0" || order.accepts(version_of(event)));
            unordered |= !known;
            range.sort_by(|a, b| compare(order, a, b));
            known && !range.is_empty()
        });
        let ranges = &self.ranges;
        self.versions.retain(|version| {
            // Most are in a range; one with an end has compared them, so that they have a place in the order.
            let affected = |range: &&Vec<Event>| matches!(in_range(order, range, version), Within::Yes(_));
            let told = ranges.iter().filter(affected).map(Vec::len).max();
            unordered |= told.is_none_or(|events| events < 2) && !order.accepts(version);
            told.is_none()
        });
        self.unordered |= unordered;
    }
}

fn version_of(event: &Event) -> &str {
    match event {
        Event::Introduced(version) | Event::Fixed(version) | Event::LastAffected(version) => version,
    }
}

/// By version; at the same version an end comes before a beginning only where it was open before, which is how OSV evaluates
/// them: introduced, fixed, last affected.
fn compare(order: Order, a: &Event, b: &Event) -> Ordering {
    let rank = |event: &Event| match event {
        Event::Introduced(_) => 0,
        Event::Fixed(_) => 1,
        Event::LastAffected(_) => 2,
    };
    let first = |event: &Event| matches!(event, Event::Introduced(version) if version == "0");
    match (first(a), first(b)) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => {
            order.cmp(version_of(a), version_of(b)).unwrap_or(Ordering::Equal).then_with(|| rank(a).cmp(&rank(b)))
        }
    }
}

/// What a range says of a version.
enum Within<'r> {
    /// It is in it; what ends it.
    Yes(Option<&'r str>),
    /// It comes after a part of it.
    Past,
    No,
    NotComparable,
}

/// The schema's "Evaluation": events in order, each changes the state for versions from it on.
fn in_range<'r>(order: Order, range: &'r [Event], version: &str) -> Within<'r> {
    let (mut affected, mut ever, mut end) = (false, false, None);
    for event in range {
        let at = match event {
            Event::Introduced(first) if first == "0" => Some(Ordering::Greater),
            event => order.cmp(version, version_of(event)),
        };
        let Some(at) = at else { return Within::NotComparable };
        match (event, at) {
            (Event::Introduced(_), Ordering::Greater | Ordering::Equal) => (affected, ever) = (true, true),
            (Event::Fixed(_), Ordering::Greater | Ordering::Equal) | (Event::LastAffected(_), Ordering::Greater) => {
                affected = false;
            }
            (Event::Fixed(fix), Ordering::Less) if affected && end.is_none() => end = Some(fix.as_str()),
            _ => {}
        }
    }
    match (affected, ever) {
        (true, _) => Within::Yes(end),
        (false, true) => Within::Past,
        (false, false) => Within::No,
    }
}
