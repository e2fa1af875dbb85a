//! OSV records: the schema of <https://ossf.github.io/osv-schema/>, as the database exports them.
//!
//! Takes the bytes of one record; gives what it says of each package; trusts nothing: texts are bounded, and a record that is not
//! of the schema is malformed. What it says of ecosystems that no image has packages of is left out, and counted.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Deserializer};

use super::ecosystem;
use super::loose::{LIST, Loose, Text};
use super::record::{Class, Event, Note, Record};
use super::severity::Severity;

/// The longest id or alias.
const ID: usize = 128;
/// The longest name of an ecosystem, of a package.
const NAME: usize = 512;
/// Characters of a summary that are kept.
const SUMMARY: usize = 160;
/// How many events all ranges of one package may have, and how many versions it may list.
const EVENTS: usize = 100_000;

/// One record, for each package that it is about.
#[derive(Debug, Default)]
pub struct Parsed {
    /// When it was last changed, as it says.
    pub modified: String,
    /// Whether it was taken back: then there is nothing else.
    pub withdrawn: bool,
    /// Ecosystem, name, record.
    pub entries: Vec<(String, String, Record)>,
    /// How many packages of other ecosystems it names.
    pub foreign: u64,
}

#[derive(Deserialize)]
struct Document<'d> {
    #[serde(borrow)]
    id: Text<'d>,
    #[serde(borrow, default)]
    modified: Text<'d>,
    #[serde(borrow, default)]
    withdrawn: Option<Text<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    aliases: Vec<Text<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    upstream: Vec<Text<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    related: Vec<Text<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    summary: Text<'d>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    severity: Vec<Rating<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    affected: Vec<Affected<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    database_specific: Specific<'d>,
}

#[derive(Deserialize)]
struct Rating<'d> {
    #[serde(borrow, default)]
    score: Text<'d>,
}

#[derive(Deserialize)]
struct Affected<'d> {
    #[serde(borrow, default)]
    package: Option<Package<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    severity: Vec<Rating<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    ranges: Vec<Range<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    versions: Vec<Text<'d>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    ecosystem_specific: Specific<'d>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    database_specific: Specific<'d>,
}

#[derive(Deserialize)]
struct Package<'d> {
    #[serde(borrow)]
    ecosystem: Text<'d>,
    #[serde(borrow)]
    name: Text<'d>,
}

#[derive(Deserialize)]
struct Range<'d> {
    #[serde(borrow, rename = "type")]
    kind: Text<'d>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    events: Vec<RawEvent<'d>>,
}

#[derive(Deserialize)]
struct RawEvent<'d> {
    #[serde(borrow, default)]
    introduced: Option<Text<'d>>,
    #[serde(borrow, default)]
    fixed: Option<Text<'d>>,
    #[serde(borrow, default)]
    last_affected: Option<Text<'d>>,
    #[serde(borrow, default)]
    limit: Option<Text<'d>>,
}

/// What databases add: each its own; a value of another type than expected says nothing.
#[derive(Default, Deserialize)]
struct Specific<'d> {
    #[serde(borrow, default)]
    severity: Loose<'d>,
    #[serde(borrow, default)]
    urgency: Loose<'d>,
    #[serde(borrow, default)]
    informational: Loose<'d>,
    #[serde(borrow, default)]
    categories: Loose<'d>,
    #[serde(borrow, default)]
    imports: Loose<'d>,
}

/// `null` where a list or an object should be is what some databases write for nothing.
fn or_default<'d, D: Deserializer<'d>, T: Deserialize<'d> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads one record.
///
/// # Errors
/// In what way it is not one.
pub fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let document: Document<'_> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let id = bounded(&document.id, ID).ok_or("its id is empty, too long, or has control characters")?;
    let modified = bounded(&document.modified, ID).unwrap_or_default();
    if document.withdrawn.is_some() {
        return Ok(Parsed { modified, withdrawn: true, ..Parsed::default() });
    }
    // Were some left out, a waiver of the others would waive all.
    if [&document.aliases, &document.upstream, &document.related].iter().any(|names| names.len() > LIST) {
        return Err("it names more vulnerabilities than an advisory can be about".to_owned());
    }
    let base = describe(&document, &id);
    let mut parsed = Parsed { modified, foreign: u64::from(document.affected.is_empty()), ..Parsed::default() };
    let mut places: HashMap<(&str, Cow<'_, str>), usize> = HashMap::new();
    for affected in &document.affected {
        let Some(package) = &affected.package else { continue };
        let Some(order) = ecosystem::order(&package.ecosystem) else {
            parsed.foreign += 1;
            continue;
        };
        if !is_word(&package.ecosystem, NAME) || !is_word(&package.name, NAME) {
            return Err("a name in it is empty, too long, or has control characters".to_owned());
        }
        let name = ecosystem::normal(&package.ecosystem, &package.name);
        let mut record = specify(base.clone(), &document, affected);
        ranges(affected, &mut record)?;
        record.settle(order);
        // One record may name a package more than once, a part of its versions each time.
        let at = *places.entry((&package.ecosystem, name.clone())).or_insert(parsed.entries.len());
        match parsed.entries.get_mut(at) {
            Some((_, _, known)) => {
                known.ranges.append(&mut record.ranges);
                known.versions.append(&mut record.versions);
                known.unordered |= record.unordered;
                known.severity = known.severity.max(record.severity);
            }
            None => parsed.entries.push(((*package.ecosystem).to_owned(), name.into_owned(), record)),
        }
    }
    Ok(parsed)
}

/// What a record says of all its packages.
fn describe(document: &Document<'_>, id: &str) -> Record {
    let ids = |texts: &[Text<'_>]| -> Vec<String> { texts.iter().filter_map(|text| bounded(text, ID)).collect() };
    let (mut aliases, mut covers) = (ids(&document.aliases), Vec::new());
    // What one vulnerability is made from is the same one; what several are made from covers them.
    match ids(&document.upstream) {
        one if one.len() == 1 => aliases.extend(one),
        several => covers = several,
    }
    if is_erratum(id) {
        covers.extend(ids(&document.related).into_iter().filter(|related| related.starts_with("CVE-")));
        covers.sort();
        covers.dedup();
    }
    let (severity, vector) = worst(&document.severity);
    let class = if id.starts_with("MAL-") { Class::Malicious } else { Class::Vulnerability };
    let summary = match document.summary.get(..SUMMARY.min(document.summary.len())) {
        Some(start) if start.is_ascii() && !has_control(start) => start.to_owned(),
        _ => document.summary.chars().filter(|c| !c.is_control()).take(SUMMARY).collect(),
    };
    Record { id: id.to_owned(), aliases, covers, summary, severity, vector, class, ..Record::default() }
}

/// What it says of one, but for the versions.
fn specify(mut record: Record, document: &Document<'_>, affected: &Affected<'_>) -> Record {
    let (own, specific) = (&affected.ecosystem_specific, &affected.database_specific);
    let urgency = own.urgency.text();
    if !affected.severity.is_empty() {
        (record.severity, record.vector) = worst(&affected.severity);
    }
    // A rating says more than a word.
    if record.severity == Severity::Unknown {
        let words = [&document.database_specific, specific, own].map(|specific| specific.severity.text());
        let worded = words.into_iter().chain([urgency]).flatten().map(Severity::of_word).max().unwrap_or_default();
        record.severity = worded.max(Severity::of_title(&record.id, &document.summary));
    }
    if specific.categories.has("malicious") {
        record.class = Class::Malicious;
    } else if specific.informational.text().is_some() && record.class == Class::Vulnerability {
        record.class = Class::Notice;
    }
    record.note = match urgency {
        Some("unimportant") => Some(Note::Unimportant),
        Some("end-of-life") => Some(Note::EndOfLife),
        _ => None,
    };
    record.only_if = own.imports.paths().into_iter().filter_map(|path| bounded(path, NAME)).collect();
    record
}

/// The worst of several ratings, and its vector.
fn worst(ratings: &[Rating<'_>]) -> (Severity, Option<String>) {
    let rated = ratings.iter().map(|rating| (rate(&rating.score), &rating.score)).max_by_key(|(severity, _)| *severity);
    match rated.filter(|(severity, _)| *severity > Severity::Unknown) {
        Some((severity, score)) => (severity, score.starts_with("CVSS:").then(|| (**score).to_owned())),
        None => (Severity::Unknown, None),
    }
}

fn rate(score: &str) -> Severity {
    if score.starts_with("CVSS:") { Severity::of_vector(score) } else { Severity::of_word(score) }
}

fn ranges(affected: &Affected<'_>, record: &mut Record) -> Result<(), &'static str> {
    let mut count = affected.versions.len();
    for range in affected.ranges.iter().filter(|range| matches!(&*range.kind, "ECOSYSTEM" | "SEMVER")) {
        count = count.saturating_add(range.events.len());
        let mut events = Vec::with_capacity(range.events.len());
        for event in &range.events {
            let text = |version: &Text<'_>| (**version).to_owned();
            let read = [
                event.introduced.as_ref().map(text).map(Event::Introduced),
                event.fixed.as_ref().map(text).map(Event::Fixed),
                event.last_affected.as_ref().map(text).map(Event::LastAffected),
            ];
            events.extend(read.into_iter().flatten());
            // An end that is no fix, and not there in practice but for `*`: what it leaves open is not guessed.
            record.unordered |= event.limit.as_ref().is_some_and(|limit| &**limit != "*");
        }
        record.ranges.push(events);
    }
    if count > EVENTS {
        return Err("it has more versions than any package");
    }
    record.versions = affected.versions.iter().map(|version| (**version).to_owned()).collect();
    // Only commits, or nothing at all: which versions are meant is not known.
    record.unordered |= count == 0;
    Ok(())
}

/// Whether a record is an advisory of a distribution, about one or more vulnerabilities.
fn is_erratum(id: &str) -> bool {
    const KINDS: [&str; 11] =
        ["ALSA-", "ALBA-", "ALEA-", "RLSA-", "RXSA-", "RHSA-", "RHBA-", "RHEA-", "SUSE-", "openSUSE-", "USN-"];
    KINDS.iter().any(|kind| id.starts_with(kind))
}

fn bounded(text: &str, most: usize) -> Option<String> {
    is_word(text, most).then(|| text.to_owned())
}

fn is_word(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !has_control(text)
}

fn has_control(text: &str) -> bool {
    if text.is_ascii() { text.bytes().any(|byte| byte.is_ascii_control()) } else { text.chars().any(char::is_control) }
}
