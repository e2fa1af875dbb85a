//! What is known against a stack, today.
//!
//! Takes a stack, the database, waivers and the day; gives a verdict: which vulnerabilities each package has, in which state, and
//! what could not be judged. Pure but for reading the database. A package without data is not judged, and never clean; records of
//! one vulnerability are one, whatever their names; what is waived is listed with the waiver.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::owners::is_distribution;
use super::package::{Distribution, FindingKind, Package, PackageType, Stack};
use super::vex::{Waiver, Waivers};
use super::vulndb::database::{Answer, Database, Found};
use super::vulndb::ecosystem::{self, Nowhere, Place};
use super::vulndb::record::{Class, Judgement, Note};
use super::vulndb::severity::Severity;

/// In which state a vulnerability is that a package has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A later version does not have it.
    FixAvailable,
    /// There is no version without it.
    NoFix,
    /// The distribution says that it will not fix it, or not by itself.
    DistributionIgnores,
    /// The distribution says that it does no harm there.
    DistributionUnimportant,
    /// The distribution does not support the package any more.
    EndOfLife,
    /// Whether the package has it cannot be told from its version.
    NotComparable,
}

/// One vulnerability that packages of the stack have, or may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its best known name: a CVE's where it has one.
    pub id: String,
    /// All others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The vulnerabilities that an advisory is about, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub covers: Vec<String>,
    /// What sort.
    pub class: Class,
    /// How bad, by the worst that a source says.
    pub severity: Severity,
    /// The CVSS vector that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<String>,
    /// In a line.
    pub summary: String,
    /// In which state.
    pub state: State,
    /// The version without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Affected only where one of these is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only_if: Vec<String>,
    /// The packages, as places in the stack's list.
    pub packages: Vec<usize>,
    /// Which sources say so.
    pub sources: Vec<String>,
    /// The package's own changelog says that it is fixed: evidence, no judgement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changelog_says_fixed: bool,
    /// What was said about it here; whether that counts today is `waived`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<Waiver>,
    /// Whether statements that hold today waive it for all its packages.
    #[serde(default)]
    pub waived: bool,
}

/// A package that could not be judged, or not in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unjudged {
    /// Why.
    pub why: String,
    /// The packages, as places in the stack's list.
    pub packages: Vec<usize>,
}

/// A source that the stack was judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Its name.
    pub name: String,
    /// SHA-256 of the file that it was imported from.
    pub digest: String,
    /// How old its data is today.
    pub days: i32,
    /// From when its data is.
    pub dated: String,
    /// Records of it that could not be read.
    pub unreadable: u64,
    /// Records of it that were withdrawn.
    pub withdrawn: u64,
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Version of this document.
    pub version: u32,
    /// The image's manifest digest.
    pub image: String,
    /// The day for which it holds.
    pub day: Option<Date>,
    /// The sources that were asked.
    pub sources: Vec<Used>,
    /// The worst first.
    pub known: Vec<Known>,
    /// What was not judged.
    pub unjudged: Vec<Unjudged>,
    /// How many packages were judged.
    pub judged: usize,
    /// How many are judged by the package of the distribution that has them.
    pub owned: usize,
    /// How many vulnerabilities packages had in earlier versions.
    pub fixed: usize,
    /// Programs and libraries of no package.
    pub unowned: usize,
    /// What looks like a secret.
    pub secrets: usize,
    /// Places that could not be read, or not whole: packages may be there that nobody judged.
    #[serde(default)]
    pub unread: usize,
}

/// Judges a stack.
///
/// # Errors
/// When the database is damaged.
pub fn judge(stack: &Stack, database: &Database, waivers: &Waivers, today: Date) -> std::io::Result<Verdict> {
    let mut verdict = Verdict { version: 1, image: stack.image.clone(), day: Some(today), ..Verdict::default() };
    let count = |kind| stack.findings.iter().filter(|finding| finding.kind == kind).count();
    (verdict.unowned, verdict.secrets) = (count(FindingKind::Unowned), count(FindingKind::Secret));
    verdict.unread = count(FindingKind::NotReadable);
    let mut places: BTreeMap<(Place, PackageType, bool), Vec<usize>> = BTreeMap::new();
    let mut unjudged: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut owners = Owners::new(stack, database);
    for (number, package) in stack.packages.iter().enumerate() {
        let place = match ecosystem::place(package, stack.distribution.as_ref()) {
            Err(Nowhere::Owned) => owners.place_of_unknown(package)?.ok_or(Nowhere::Owned),
            place => place,
        };
        match place {
            Ok(place) => places.entry((place, package.kind, package.module.is_some())).or_default().push(number),
            Err(Nowhere::Owned) => verdict.owned += 1,
            Err(Nowhere::Because(why)) => {
                unjudged.entry(format!("{}: {why}", kind(package.kind))).or_default().push(number)
            }
        }
    }
    let mut used = BTreeSet::new();
    for ((place, of, modular), packages) in places {
        let answer = database.look_up(&place)?;
        used.extend(answer.sources.iter().copied());
        if answer.whole {
            verdict.judged += packages.len();
        } else {
            let why = match answer.sources.is_empty() {
                true => format!("{}: no source was imported that tells of {}", kind(of), names(&place)),
                false => format!("{}: sources tell of a part of {} alone", kind(of), names(&place)),
            };
            unjudged.entry(why).or_default().extend(&packages);
        }
        let (known, fixed) = join(answer, modular);
        verdict.fixed += fixed;
        verdict.known.extend(known.into_iter().map(|(known, sources)| {
            let sources = database.sources().enumerate().filter(|(at, _)| sources.contains(at));
            let sources = sources.map(|(_, source)| source.name.clone()).collect();
            speak(Known { sources, packages: packages.clone(), ..known }, stack, waivers, today)
        }));
    }
    verdict.unjudged = unjudged.into_iter().map(|(why, packages)| Unjudged { why, packages }).collect();
    let sources = database.sources().enumerate().filter(|(at, _)| used.contains(at));
    verdict.sources = sources
        .map(|(_, source)| Used {
            name: source.name.clone(),
            digest: source.digest.clone(),
            days: age(&source.dated, today),
            dated: source.dated.clone(),
            unreadable: source.unreadable,
            withdrawn: source.withdrawn,
        })
        .collect();
    let order = |known: &Known| {
        (
            known.waived,
            std::cmp::Reverse((known.class, known.severity)),
            known.state,
            known.id.clone(),
            known.packages.clone(),
        )
    };
    verdict.known.sort_by_cached_key(order);
    Ok(verdict)
}

/// What the distribution's data knows of the packages that own others.
struct Owners<'s> {
    distribution: Option<&'s Distribution>,
    database: &'s Database,
    packages: BTreeMap<&'s str, Vec<&'s Package>>,
    /// By name: whether it tells of the package at all.
    known: BTreeMap<&'s str, bool>,
}

impl<'s> Owners<'s> {
    fn new(stack: &'s Stack, database: &'s Database) -> Self {
        let mut packages: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
        for package in stack.packages.iter().filter(|package| is_distribution(package.kind)) {
            packages.entry(&package.name).or_default().push(package);
        }
        Self { distribution: stack.distribution.as_ref(), database, packages, known: BTreeMap::new() }
    }

    /// Where to look for a package whose owner the distribution's data has never heard of. Such an owner is one of its packages that never
    /// had a vulnerability, or another's package altogether, and then nobody would judge what that one claims to have brought.
    /// None where the data knows the owner, and where no data tells of the package's own ecosystem.
    fn place_of_unknown(&mut self, package: &'s Package) -> std::io::Result<Option<Place>> {
        let Some(owner) = &package.owner else { return Ok(None) };
        let known = match self.known.get(owner.as_str()) {
            Some(known) => *known,
            None => {
                let known = self.tells_of(owner)?;
                self.known.insert(owner, known);
                known
            }
        };
        if known {
            return Ok(None);
        }
        let own = Package { owner: None, ..package.clone() };
        let Ok(place) = ecosystem::place(&own, self.distribution) else { return Ok(None) };
        Ok(Some(place).filter(|place| self.database.tells_of(place)))
    }

    /// Whether the distribution's data has a record of `owner`, in any version; where there is no such data, that the owner is not judged
    /// is told of the owner.
    fn tells_of(&self, owner: &str) -> std::io::Result<bool> {
        for package in self.packages.get(owner).into_iter().flatten() {
            let Ok(place) = ecosystem::place(package, self.distribution) else { return Ok(true) };
            let answer = self.database.look_up(&place)?;
            if answer.sources.is_empty() || !answer.found.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn kind(kind: PackageType) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn names(place: &Place) -> String {
    place.ecosystems.first().map_or_else(String::new, |first| match first {
        ecosystem::Ecosystems::One(name) => name.clone(),
        ecosystem::Ecosystems::Like(begin, end) => format!("{begin}…{end}"),
    })
}

/// Days from `dated` to `today`; more than any rule allows where it is no day.
fn age(dated: &str, today: Date) -> i32 {
    let day = dated.get(..10).and_then(|day| day.parse::<Date>().ok());
    day.and_then(|day| today.since(day).ok()).map_or(i32::MAX, |span| span.get_days())
}

/// A record with what it says of the package.
struct Judged {
    found: Found,
    judgement: Judgement,
}

/// Joins records of the same vulnerability; gives those that the package has, each with its sources, and the number of those
/// that it had in earlier versions.
fn join(answer: Answer, modular: bool) -> (Vec<(Known, BTreeSet<usize>)>, usize) {
    let judged: Vec<Judged> = answer
        .found
        .into_iter()
        .map(|found| {
            let judgement = found.record.judge(found.order, &found.version);
            Judged { judgement: in_its_module(judgement, &found, modular), found }
        })
        .collect();
    let groups = by_vulnerability(&judged);
    let (mut known, mut fixed) = (Vec::new(), 0);
    for group in groups {
        let of = |wanted: fn(&Judgement) -> bool| group.iter().any(|judged| wanted(&judged.judgement));
        match known_of(&group) {
            Some(found) => known.push(found),
            None => fixed += usize::from(of(|judgement| *judgement == Judgement::Fixed)),
        }
    }
    // An advisory says no more than the vulnerabilities it is about, where each of them is there by itself.
    let names: BTreeSet<String> =
        known.iter().filter(|(known, _)| known.covers.is_empty()).flat_map(|(known, _)| ids(known)).collect();
    known.retain(|(known, _)| known.covers.is_empty() || !known.covers.iter().all(|id| names.contains(id)));
    (known, fixed)
}

fn ids(known: &Known) -> Vec<String> {
    std::iter::once(&known.id).chain(&known.aliases).cloned().collect()
}

/// What is fixed in a module says nothing of a package that is in none, and the other way round; of two streams of one module
/// nothing tells which is meant but their versions (Fedora's modularity, `.module` in the release).
fn in_its_module(judgement: Judgement, found: &Found, modular: bool) -> Judgement {
    let Judgement::Affected(Some(fix)) = &judgement else { return judgement };
    let major = |version: &str| {
        let version = version.split_once(':').map_or(version, |(_, version)| version);
        version.split('.').next().unwrap_or_default().to_owned()
    };
    match (modular, fix.contains(".module")) {
        (false, false) => judgement,
        (true, true) if major(fix) == major(&found.version) => judgement,
        (true, true) => Judgement::NotComparable,
        (true, false) | (false, true) => Judgement::Unaffected,
    }
}

/// Records that share a name.
fn by_vulnerability(judged: &[Judged]) -> Vec<Vec<&Judged>> {
    let mut group_of: Vec<usize> = (0..judged.len()).collect();
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, judged) in judged.iter().enumerate() {
        let record = &judged.found.record;
        for id in std::iter::once(&record.id).chain(&record.aliases) {
            let other = *first.entry(id.as_str()).or_insert(at);
            let (from, to) = (group_of.get(at).copied(), group_of.get(other).copied());
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                group_of.iter_mut().filter(|group| **group == from).for_each(|group| *group = to);
            }
        }
    }
    let mut groups: BTreeMap<usize, Vec<&Judged>> = BTreeMap::new();
    for (judged, group) in judged.iter().zip(group_of) {
        groups.entry(group).or_default().push(judged);
    }
    groups.into_values().collect()
}

/// One vulnerability out of its records; none where no record says that the package has it, or may have it.
fn known_of(group: &[&Judged]) -> Option<(Known, BTreeSet<usize>)> {
    let affected = |judged: &&&Judged| matches!(judged.judgement, Judgement::Affected(_));
    let unclear = |judged: &&&Judged| judged.judgement == Judgement::NotComparable;
    let speaks: Vec<&&Judged> = match group.iter().filter(affected).collect::<Vec<_>>() {
        // Where one source can tell that it is not affected, another that cannot says nothing.
        none if none.is_empty() && group.iter().all(|judged| unclear(&judged)) => group.iter().collect(),
        some => some,
    };
    let first = speaks.first()?;
    let names: BTreeSet<&str> = group
        .iter()
        .flat_map(|judged| {
            let record = &judged.found.record;
            std::iter::once(record.id.as_str()).chain(record.aliases.iter().map(String::as_str))
        })
        .collect();
    let rank = |id: &&str| ["CVE-", "GHSA-"].iter().position(|kind| id.starts_with(kind)).unwrap_or(2);
    let id = names.iter().min_by_key(|id| (rank(id), **id)).copied()?;
    let fixes = speaks.iter().filter_map(|judged| match &judged.judgement {
        Judgement::Affected(Some(fix)) => Some(fix),
        _ => None,
    });
    // Where sources disagree, the version that all of them call fixed.
    let order = first.found.order;
    let fix = fixes.reduce(|a, b| if order.cmp(a, b) == Some(std::cmp::Ordering::Less) { b } else { a }).cloned();
    let note = speaks.iter().filter_map(|judged| judged.found.record.note).max();
    let state = match (note, &fix) {
        _ if speaks.iter().all(|judged| judged.judgement == Judgement::NotComparable) => State::NotComparable,
        (Some(Note::Unimportant), _) => State::DistributionUnimportant,
        (_, Some(_)) => State::FixAvailable,
        (Some(Note::Ignored), None) => State::DistributionIgnores,
        (Some(Note::EndOfLife), None) => State::EndOfLife,
        (None, None) => State::NoFix,
    };
    let worst =
        group.iter().max_by_key(|judged| (judged.found.record.severity, judged.found.record.vector.is_some()))?;
    let summary = group.iter().map(|judged| judged.found.record.summary.as_str()).find(|summary| !summary.is_empty());
    // What an advisory is about says nothing of what another record calls the same, nor of names that it has besides.
    let is_advisory = |judged: &&&Judged| {
        let record = &judged.found.record;
        !record.covers.is_empty() && record.aliases.iter().all(|alias| record.covers.contains(alias))
    };
    let is_covered = speaks.iter().all(is_advisory);
    let covers: BTreeSet<&String> =
        speaks.iter().filter(|_| is_covered).flat_map(|judged| &judged.found.record.covers).collect();
    let always = speaks.iter().any(|judged| judged.found.record.only_if.is_empty());
    let only_if: BTreeSet<&String> =
        speaks.iter().filter(|_| !always).flat_map(|judged| &judged.found.record.only_if).collect();
    let known = Known {
        id: id.to_owned(),
        aliases: names.iter().filter(|name| **name != id).map(|name| (*name).to_owned()).collect(),
        covers: covers.into_iter().cloned().collect(),
        class: speaks.iter().map(|judged| judged.found.record.class).max().unwrap_or_default(),
        severity: worst.found.record.severity,
        vector: worst.found.record.vector.clone(),
        summary: summary.unwrap_or_default().to_owned(),
        state,
        fix: fix.filter(|_| state != State::NotComparable),
        only_if: only_if.into_iter().cloned().collect(),
        packages: Vec::new(),
        sources: Vec::new(),
        changelog_says_fixed: false,
        statements: Vec::new(),
        waived: false,
    };
    Some((known, speaks.iter().map(|judged| judged.found.source).collect()))
}

/// Adds what the package's changelog and the waivers say.
fn speak(mut known: Known, stack: &Stack, waivers: &Waivers, today: Date) -> Known {
    let all = ids(&known);
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let packages: Vec<_> = known.packages.iter().filter_map(|number| stack.packages.get(*number)).collect();
    let in_changelog =
        |id: &str| packages.iter().all(|package| package.changelog_fixes.iter().any(|fixed| fixed == id));
    known.changelog_says_fixed = !packages.is_empty() && names.iter().any(|id| in_changelog(id));
    if waivers.is_empty() {
        return known;
    }
    // By its own name, or each of those that it is about.
    let waived = |ids: &[&str], statements: &mut BTreeSet<Waiver>| {
        let mut all = !packages.is_empty();
        for package in &packages {
            let waiver = waivers.about(stack, package, ids);
            all &= waiver.is_some_and(|waiver| waiver.holds(today));
            statements.extend(waiver.cloned());
        }
        all
    };
    let mut statements = BTreeSet::new();
    known.waived = waived(&names, &mut statements);
    if !known.waived && !known.covers.is_empty() {
        let mut all = true;
        for id in &known.covers {
            all &= waived(&[id.as_str()], &mut statements);
        }
        known.waived = all;
    }
    known.statements = statements.into_iter().collect();
    known
}
