//! OSV records: the schema of <https://ossf.github.io/osv-schema/>, as the database exports them.
//!
//! Takes the bytes of one record; gives what it says of each package; trusts nothing: texts are bounded, and a record that is not
//! of the schema is malformed. What it says of ecosystems that no image has packages of is left out, and counted.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Deserializer};

use super::ecosystem;
use super::record::{Class, Event, Note, Record};
use super::severity::Severity;

/// The longest id or alias.
const ID: usize = 128;
/// The longest name of an ecosystem, of a package.
const NAME: usize = 512;
/// Characters of a summary that are kept.
const SUMMARY: usize = 160;
/// How many aliases, covered vulnerabilities or import paths there may be: were some left out, a waiver of the others would waive all.
const LIST: usize = 4096;
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
    id: Cow<'d, str>,
    #[serde(borrow, default)]
    modified: Cow<'d, str>,
    #[serde(borrow, default)]
    withdrawn: Option<Cow<'d, str>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    aliases: Vec<Cow<'d, str>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    upstream: Vec<Cow<'d, str>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    related: Vec<Cow<'d, str>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    summary: Cow<'d, str>,
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
    score: Cow<'d, str>,
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
    versions: Vec<Cow<'d, str>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    ecosystem_specific: Specific<'d>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    database_specific: Specific<'d>,
}

#[derive(Deserialize)]
struct Package<'d> {
    #[serde(borrow)]
    ecosystem: Cow<'d, str>,
    #[serde(borrow)]
    name: Cow<'d, str>,
}

#[derive(Deserialize)]
struct Range<'d> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'d, str>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    events: Vec<RawEvent<'d>>,
}

#[derive(Deserialize)]
struct RawEvent<'d> {
    #[serde(borrow, default)]
    introduced: Option<Cow<'d, str>>,
    #[serde(borrow, default)]
    fixed: Option<Cow<'d, str>>,
    #[serde(borrow, default)]
    last_affected: Option<Cow<'d, str>>,
    #[serde(borrow, default)]
    limit: Option<Cow<'d, str>>,
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

#[derive(Deserialize)]
#[serde(untagged)]
enum Loose<'d> {
    Text(#[serde(borrow)] Cow<'d, str>),
    Texts(#[serde(borrow)] Vec<Cow<'d, str>>),
    Imports(#[serde(borrow)] Vec<Import<'d>>),
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Import<'d> {
    #[serde(borrow)]
    path: Cow<'d, str>,
}

impl Default for Loose<'_> {
    fn default() -> Self {
        Self::Other(serde::de::IgnoredAny)
    }
}

impl Loose<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn has(&self, word: &str) -> bool {
        matches!(self, Self::Texts(texts) if texts.iter().any(|text| text == word))
    }

    fn paths(&self) -> Vec<String> {
        match self {
            // Of too many, none: then it is affected whatever is used.
            Self::Imports(all) if all.len() <= LIST => {
                all.iter().filter_map(|import| bounded(&import.path, NAME)).collect()
            }
            _ => Vec::new(),
        }
    }
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
    if [&document.aliases, &document.upstream, &document.related].iter().any(|names| names.len() > LIST) {
        return Err("it names more vulnerabilities than an advisory can be about".to_owned());
    }
    let base = describe(&document, &id);
    let mut parsed = Parsed { modified, foreign: u64::from(document.affected.is_empty()), ..Parsed::default() };
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    for affected in &document.affected {
        let Some(package) = &affected.package else { continue };
        let Some(order) = ecosystem::order(&package.ecosystem) else {
            parsed.foreign += 1;
            continue;
        };
        let named =
            |text: &str| bounded(text, NAME).ok_or("a name in it is empty, too long, or has control characters");
        let (place, name) = (named(&package.ecosystem)?, named(&package.name)?);
        let name = ecosystem::normal(&place, &name);
        let mut record = specify(base.clone(), &document, affected);
        ranges(affected, &mut record)?;
        record.settle(order);
        // One record may name a package more than once, a part of its versions each time.
        let at = *places.entry((place.clone(), name.clone())).or_insert(parsed.entries.len());
        match parsed.entries.get_mut(at) {
            Some((_, _, known)) => {
                known.ranges.append(&mut record.ranges);
                known.versions.append(&mut record.versions);
                known.unordered |= record.unordered;
                known.severity = known.severity.max(record.severity);
            }
            None => parsed.entries.push((place, name, record)),
        }
    }
    Ok(parsed)
}

/// What a record says of all its packages.
fn describe(document: &Document<'_>, id: &str) -> Record {
    let ids = |texts: &[Cow<'_, str>]| -> Vec<String> { texts.iter().filter_map(|text| bounded(text, ID)).collect() };
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
    let summary = document.summary.chars().filter(|c| !c.is_control()).take(SUMMARY).collect();
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
    record.only_if = own.imports.paths();
    record
}

/// The worst of several ratings, and its vector.
fn worst(ratings: &[Rating<'_>]) -> (Severity, Option<String>) {
    let rated = ratings.iter().map(|rating| (rate(&rating.score), &rating.score)).max_by_key(|(severity, _)| *severity);
    match rated.filter(|(severity, _)| *severity > Severity::Unknown) {
        Some((severity, score)) => (severity, Some(score.to_string()).filter(|score| score.starts_with("CVSS:"))),
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
            let text = |text: &Cow<'_, str>| text.clone().into_owned();
            let read = [
                event.introduced.as_ref().map(|version| Event::Introduced(text(version))),
                event.fixed.as_ref().map(|version| Event::Fixed(text(version))),
                event.last_affected.as_ref().map(|version| Event::LastAffected(text(version))),
            ];
            events.extend(read.into_iter().flatten());
            // An end that is no fix, and not there in practice but for `*`: what it leaves open is not guessed.
            record.unordered |= event.limit.as_ref().is_some_and(|limit| limit != "*");
        }
        record.ranges.push(events);
    }
    if count > EVENTS {
        return Err("it has more versions than any package");
    }
    record.versions = affected.versions.iter().map(|version| version.clone().into_owned()).collect();
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
    (!text.is_empty() && text.len() <= most && !text.chars().any(char::is_control)).then(|| text.to_owned())
}
