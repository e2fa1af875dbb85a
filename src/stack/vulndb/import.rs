//! From a file of any format to records.
//!
//! Takes a file to read from, not its name: which format it has is seen from its first bytes. Gives a file of records; trusts
//! nothing, runs in a confined process; refuses what is too large, and what holds no record at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use sha2::{Digest as _, Sha256};

use super::builder::{Builder, Source};
use super::documents::{self, Container, RECORD};
use super::osv::Parsed;
use super::{csaf, debian, osv, secdb};

/// The longest document that is read as it comes.
const DOCUMENT: u64 = 4 << 30;
/// How many unreadable records are named.
const EXAMPLES: usize = 5;

/// Reads `from`, and writes what it says to `to`; `imported` is the time of day, RFC 3339.
///
/// # Errors
/// In words for whoever gave the file.
pub fn import(from: &mut File, to: impl Write, imported: &str) -> Result<Source, String> {
    let failed = |e: io::Error| e.to_string();
    let mut source = Source { version: 1, imported: imported.to_owned(), digest: digest(from)?, ..Source::default() };
    let mut start = [0; 4096];
    let read = from.read(&mut start).map_err(failed)?;
    from.rewind().map_err(failed)?;
    let mut builder = Builder::default();
    match format(start.get(..read).unwrap_or_default()) {
        Some(Format::Archive(container)) => from_archive(from, container, &mut builder, &mut source)?,
        Some(Format::Record(kind)) => {
            source.format = kind.name().to_owned();
            add(kind, "the document", &whole(from)?, &mut builder, &mut source)?;
            // One record says nothing of other packages of its ecosystem.
            source.ecosystems = parts(&builder.ecosystems(), Source::PART);
            source.name = name(kind, main(&builder.weights(), kind).as_deref());
        }
        Some(Format::Secdb) => {
            let read = secdb::import(&whole(from)?, &mut builder).map_err(failed)?;
            source.format = "alpine-secdb".to_owned();
            source.records = read.records;
            source.name = format!("alpine-{}-{}", read.release, read.repository);
            source.ecosystems = vec![format!("Alpine:{}/{}", read.release, read.repository)];
        }
        Some(Format::Tracker) => {
            let input = BufReader::with_capacity(1 << 20, from.take(DOCUMENT));
            source.records = debian::import(input, &mut builder).map_err(failed)?;
            (source.format, source.name) = ("debian-tracker".to_owned(), "debian-tracker".to_owned());
        }
        None => return Err("it is neither an archive (zip, tar, tar.gz, tar.zst) of OSV records or CSAF documents, nor a JSON document of OSV, of CSAF, of Debian's security tracker or of Alpine's security database".to_owned()),
    }
    if source.records == 0 {
        let first = source.examples.first().map_or_else(String::new, |example| format!("; {example}"));
        return Err(format!("it holds no record of an ecosystem that images have packages of{first}"));
    }
    if source.ecosystems.is_empty() {
        source.ecosystems = builder.ecosystems();
    }
    // These formats do not say when they were written, or may say what is not so.
    if source.dated.is_empty() || source.dated.as_str() > imported {
        source.dated = imported.to_owned();
    }
    builder.write(source, to).map_err(failed)
}

/// The same, for the process that is shut in.
///
/// # Errors
/// As [`import`].
pub fn in_child(from: &mut File, to: File, imported: &str) -> Result<(), String> {
    import(from, to, imported).map(drop)
}

/// What a document of one advisory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Osv,
    Csaf,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Osv => "osv",
            Self::Csaf => "csaf",
        }
    }

    fn parse(self, bytes: &[u8]) -> Result<Parsed, String> {
        match self {
            Self::Osv => osv::parse(bytes),
            Self::Csaf => csaf::parse(bytes),
        }
    }
}

enum Format {
    Archive(Container),
    Record(Kind),
    Secdb,
    Tracker,
}

/// By the first bytes: an archive's signature, or the first key of a JSON document.
fn format(start: &[u8]) -> Option<Format> {
    if let Some(container) = Container::of(start) {
        return Some(Format::Archive(container));
    }
    let text = String::from_utf8_lossy(start);
    let key = text.trim_start_matches('\u{feff}').trim_start().strip_prefix('{')?.trim_start().strip_prefix('"')?;
    let (key, rest) = key.split_once('"')?;
    Some(match key {
        "schema_version" | "id" | "modified" | "published" | "affected" | "aliases" | "summary" | "details" => {
            Format::Record(Kind::Osv)
        }
        "document" | "product_tree" | "vulnerabilities" => Format::Record(Kind::Csaf),
        "distroversion" | "reponame" | "urlprefix" | "apkurl" | "archs" | "packages" => Format::Secdb,
        // Every other key is a source package's name, and the keys below it those of vulnerabilities.
        _ => {
            let below = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('{')?.trim_start();
            ["\"CVE-", "\"TEMP-"].iter().any(|begin| below.starts_with(begin)).then_some(Format::Tracker)?
        }
    })
}

fn whole(from: &mut File) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(RECORD as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() > RECORD { Err(format!("it is longer than {RECORD} bytes")) } else { Ok(bytes) }
}

fn digest(from: &mut File) -> Result<String, String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer).map_err(|e| e.to_string())? {
            0 => break,
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    from.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

/// All documents of an archive, which are of one kind: another is no record of this source, and unreadable.
fn from_archive(from: &File, container: Container, builder: &mut Builder, source: &mut Source) -> Result<(), String> {
    let mut kind = None;
    documents::each(from, container, &mut |document| {
        source.dated = newest(std::mem::take(&mut source.dated), document.packed, &source.imported);
        if let Some(kind) = kind.filter(|_| document.name.ends_with(".json")) {
            return add(kind, document.name, document.bytes, builder, source);
        }
        let start = document.bytes.get(..document.bytes.len().min(4096)).unwrap_or_default();
        match (kind, format(start)) {
            (None, Some(Format::Record(found))) => {
                kind = Some(found);
                add(found, document.name, document.bytes, builder, source)
            }
            (Some(kind), Some(Format::Record(found))) if kind == found => {
                add(kind, document.name, document.bytes, builder, source)
            }
            // A README, an index, a signature.
            (_, None) if !document.name.ends_with(".json") => Ok(()),
            _ => {
                unreadable(document.name, "it is neither an OSV record nor a CSAF document", source);
                Ok(())
            }
        }
    })?;
    let kind = kind.unwrap_or(Kind::Osv);
    source.format = format!("{}-archive", kind.name());
    // An archive is of the ecosystem that most of it is of; what it says of others is a part of what is known of those.
    let main = main(&builder.weights(), kind);
    source.name = name(kind, main.as_deref());
    let (own, other): (Vec<String>, Vec<String>) =
        builder.ecosystems().into_iter().partition(|ecosystem| Some(base(ecosystem, kind)) == main);
    source.ecosystems = if source.unreadable == 0 { own } else { parts(&own, Source::UNREAD) };
    source.ecosystems.extend(parts(&other, Source::PART));
    source.ecosystems.sort();
    Ok(())
}

fn add(kind: Kind, name: &str, bytes: &[u8], builder: &mut Builder, source: &mut Source) -> Result<(), String> {
    match kind.parse(bytes) {
        Ok(parsed) => {
            source.foreign += parsed.foreign;
            source.withdrawn += u64::from(parsed.withdrawn);
            source.records += u64::from(!parsed.entries.is_empty());
            source.dated = newest(std::mem::take(&mut source.dated), &parsed.modified, &source.imported);
            for (ecosystem, package, record) in &parsed.entries {
                builder.add(ecosystem, package, record).map_err(|e| e.to_string())?;
            }
        }
        Err(why) => unreadable(name, &why, source),
    }
    Ok(())
}

fn unreadable(name: &str, why: &str, source: &mut Source) {
    source.unreadable += 1;
    if source.examples.len() < EXAMPLES {
        source.examples.push(format!("{name}: {why}").chars().take(300).collect());
    }
}

/// The later of two times that are not later than `now`: a record of next year says nothing about its source's age.
fn newest(known: String, other: &str, now: &str) -> String {
    // Some write a blank between day and time.
    let Some((day, time)) = other.get(..19).and_then(|text| text.split_at_checked(10)) else { return known };
    let time = time.get(1..).unwrap_or_default();
    if (known.get(..10), known.get(11..19)) >= (Some(day), Some(time)) {
        return known;
    }
    let other = format!("{day}T{time}Z");
    let plain = day.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if plain && other.as_str() <= now && other > known { other } else { known }
}

fn parts(ecosystems: &[String], part: &str) -> Vec<String> {
    ecosystems.iter().map(|ecosystem| format!("{ecosystem}/{part}")).collect()
}

/// `Debian` of `Debian:12`, as a word.
fn base(ecosystem: &str, kind: Kind) -> String {
    let base = ecosystem.split([':', '/']).next().unwrap_or_default().replace(' ', "-");
    // One vendor's, in one archive.
    if kind == Kind::Csaf && base == "openSUSE" { "SUSE".to_owned() } else { base }
}

/// Which ecosystem more than half of all entries are of.
fn main(weights: &[(String, usize)], kind: Kind) -> Option<String> {
    let mut of: BTreeMap<String, usize> = BTreeMap::new();
    for (ecosystem, entries) in weights {
        *of.entry(base(ecosystem, kind)).or_default() += entries;
    }
    let all: usize = of.values().sum();
    of.into_iter().find(|(_, entries)| entries * 2 > all).map(|(base, _)| base)
}

/// From its kind and its ecosystem: `osv-PyPI`, `osv-Debian`, `csaf-Red-Hat`; `osv-several` where no ecosystem has the most.
fn name(kind: Kind, main: Option<&str>) -> String {
    format!("{}-{}", kind.name(), main.unwrap_or("several"))
}
