//! CSAF 2.0 documents of distributions that have RPM packages: Red Hat's advisories and VEX files, SUSE's advisories.
//!
//! Takes the bytes of one document; gives what it says of each package of a platform; trusts nothing: texts are bounded. What it says of
//! products that no image is judged by (other than Enterprise Linux and SUSE's and openSUSE's releases) is left out, and counted.
//!
//! A product is a component of a platform: the package by its URL or by name, epoch, version, release and architecture
//! (`openssl-1:3.0.7-16.el9_2.x86_64`), the platform by its CPE (Red Hat) or its name (SUSE). `fixed`, `first_fixed` and SUSE's
//! `recommended` name the version without the vulnerability; `known_affected` without a version is any version, with what `remediations` say of a fix.

use std::collections::{BTreeMap, HashMap};

use super::ecosystem;
use super::osv::Parsed;
use super::record::{Event, Note, Record};
use super::severity::Severity;
use crate::stack::csaf::{Document, FullName, Vulnerability};
use crate::stack::version::Order;

/// The longest id, name, version.
const WORD: usize = 512;
/// Characters of a summary that are kept.
const SUMMARY: usize = 160;
/// How much one document may say.
const SAID: usize = 200_000;

/// Where, which package: one key of the index.
type Key = (String, String);

/// Reads one document.
///
/// # Errors
/// In what way it is not one.
pub fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let about = &document.document;
    let modified = bounded(&about.tracking.current_release_date).unwrap_or_default();
    let mut parsed = Parsed { modified, ..Parsed::default() };
    if about.tracking.status == "deleted" {
        return Ok(Parsed { withdrawn: true, ..parsed });
    }
    let products = document.product_tree.products();
    // Many vulnerabilities are about the same products.
    let mut known: HashMap<&str, Option<(Key, Package)>> = HashMap::new();
    for vulnerability in &document.vulnerabilities {
        let ids: Vec<String> = vulnerability.ids().iter().filter_map(|id| bounded(id)).collect();
        let Some((id, aliases)) = ids.split_first() else { return Err("a vulnerability in it has no name".to_owned()) };
        let said = Said::of(vulnerability);
        let title = if vulnerability.title.is_empty() { &about.title } else { &vulnerability.title };
        let summary: String = title.chars().filter(|c| !c.is_control()).take(SUMMARY).collect();
        let mut fixes: BTreeMap<Key, Vec<(String, &str)>> = BTreeMap::new();
        let mut open: BTreeMap<Key, &str> = BTreeMap::new();
        let mut unclear: BTreeMap<Key, &str> = BTreeMap::new();
        for (status, listed) in &vulnerability.product_status {
            for product in listed {
                let found = known.entry(product).or_insert_with(|| {
                    let (package, platform) = products.package_and_platform(product)?;
                    let (place, package) = (platform_of(platform)?, Package::of(package)?);
                    Some(((place, package.name.clone()), package))
                });
                let Some((key, package)) = found else {
                    parsed.foreign += 1;
                    continue;
                };
                match (status.as_str(), &package.version) {
                    // The source package's version has no epoch where it is compared; its packages have one.
                    ("fixed" | "first_fixed" | "recommended", Some(version)) if !package.is_source => {
                        fixes.entry(key.clone()).or_default().push((version.clone(), product));
                    }
                    ("known_affected" | "last_affected" | "first_affected", None) => {
                        open.insert(key.clone(), product);
                    }
                    ("under_investigation", _) => drop(unclear.insert(key.clone(), product)),
                    _ => {}
                }
            }
        }
        let record = |product: &str| {
            let (severity, vector) = said.rating(product);
            Record {
                id: id.clone(),
                aliases: aliases.to_vec(),
                summary: summary.clone(),
                severity,
                vector,
                ..Record::default()
            }
        };
        let mut say = |key: &Key, record: Record| {
            parsed.entries.push((key.0.clone(), key.1.clone(), record));
            if parsed.entries.len() > SAID { Err("it says more than an advisory can".to_owned()) } else { Ok(()) }
        };
        let from_the_first = || Event::Introduced("0".to_owned());
        for (key, fixed) in &fixes {
            for (version, product) in first_fixes(fixed) {
                let ranges = vec![vec![from_the_first(), Event::Fixed(version.to_owned())]];
                say(key, settled(Record { ranges, ..record(product) }))?;
            }
        }
        // Where a fix is named, what is said of all other versions is said by it.
        for (key, product) in open.iter().filter(|(key, _)| !fixes.contains_key(*key)) {
            let ranges = vec![vec![from_the_first()]];
            say(key, settled(Record { ranges, note: said.note(product), ..record(product) }))?;
        }
        for (key, product) in unclear.iter().filter(|(key, _)| !fixes.contains_key(*key) && !open.contains_key(*key)) {
            say(key, Record { unordered: true, ..record(product) })?;
        }
    }
    Ok(parsed)
}

fn settled(mut record: Record) -> Record {
    record.settle(Order::Rpm);
    record
}

/// Of the versions that are said to have the fix, the first: one of packages in no module, and one of each stream, which its first number
/// tells.
fn first_fixes<'f>(fixed: &'f [(String, &'f str)]) -> Vec<(&'f str, &'f str)> {
    let mut first: BTreeMap<Option<&str>, (&str, &str)> = BTreeMap::new();
    for (version, product) in fixed {
        let bare = version.split_once(':').map_or(version.as_str(), |(_, bare)| bare);
        let stream = version.contains(".module").then(|| bare.split('.').next().unwrap_or_default());
        let earliest = first.entry(stream).or_insert((version, product));
        if Order::Rpm.cmp(version, earliest.0) == Some(std::cmp::Ordering::Less) {
            *earliest = (version, product);
        }
    }
    first.into_values().collect()
}

/// What a vulnerability says of products beside their versions, by product.
struct Said<'v> {
    vectors: HashMap<&'v str, &'v str>,
    impacts: HashMap<&'v str, &'v str>,
    notes: HashMap<&'v str, Note>,
}

impl<'v> Said<'v> {
    fn of(vulnerability: &'v Vulnerability) -> Self {
        let mut said = Self { vectors: HashMap::new(), impacts: HashMap::new(), notes: HashMap::new() };
        for score in &vulnerability.scores {
            let Some(vector) = &score.cvss_v3 else { continue };
            said.vectors.extend(score.products.iter().map(|product| (product.as_str(), vector.text.as_str())));
        }
        for threat in vulnerability.threats.iter().filter(|threat| threat.category == "impact") {
            // Without products it is about all of them.
            let all = threat.product_ids.is_empty().then_some("").into_iter();
            let products = threat.product_ids.iter().map(String::as_str).chain(all);
            said.impacts.extend(products.map(|product| (product, threat.details.as_str())));
        }
        for remediation in &vulnerability.remediations {
            let note = match remediation.category.as_str() {
                "no_fix_planned" if remediation.details.to_ascii_lowercase().contains("support") => Note::EndOfLife,
                "no_fix_planned" => Note::Ignored,
                _ => continue,
            };
            said.notes.extend(remediation.product_ids.iter().map(|product| (product.as_str(), note)));
        }
        said
    }

    /// The worse of score and vendor's rating.
    fn rating(&self, product: &str) -> (Severity, Option<String>) {
        let vector = self.vectors.get(product).copied().filter(|vector| vector.starts_with("CVSS:"));
        let scored = vector.map_or(Severity::Unknown, Severity::of_vector);
        let rated = self
            .impacts
            .get(product)
            .or_else(|| self.impacts.get(""))
            .map_or(Severity::Unknown, |word| Severity::of_word(word));
        (scored.max(rated), vector.filter(|_| scored > Severity::Unknown).map(str::to_owned))
    }

    fn note(&self, product: &str) -> Option<Note> {
        self.notes.get(product).copied()
    }
}

/// The ecosystem, as OSV calls it: `Red Hat:enterprise_linux:9::baseos`, `SUSE:Linux Enterprise Server 15 SP5`.
fn platform_of(platform: &FullName) -> Option<String> {
    let name = match platform.cpe().and_then(cpe_parts) {
        Some((vendor, rest)) if vendor == "redhat" => {
            // The release that images are judged by; extended support is another product with other fixes.
            rest.starts_with("enterprise_linux:").then(|| format!("Red Hat:{rest}"))?
        }
        Some((vendor, _)) if vendor == "suse" || vendor == "opensuse" => {
            let (vendor, release) = platform.name.split_once(' ')?;
            matches!(vendor, "SUSE" | "openSUSE").then(|| format!("{vendor}:{release}"))?
        }
        _ => return None,
    };
    bounded(&name).filter(|name| ecosystem::order(name).is_some())
}

/// Vendor and all that comes after it, of a CPE in either form: `cpe:/o:redhat:enterprise_linux:9::baseos`,
/// `cpe:2.3:o:redhat:enterprise_linux:9:*:baseos:*:*:*:*:*`.
fn cpe_parts(cpe: &str) -> Option<(String, String)> {
    let (vendor, rest) = match cpe.strip_prefix("cpe:2.3:") {
        Some(formatted) => {
            let parts: Vec<&str> =
                formatted.split(':').skip(1).map(|part| if part == "*" { "" } else { part }).collect();
            let (vendor, rest) = parts.split_first()?;
            ((*vendor).to_owned(), rest.join(":"))
        }
        None => {
            let (_, named) = cpe.strip_prefix("cpe:/")?.split_once(':')?;
            let (vendor, rest) = named.split_once(':')?;
            (vendor.to_owned(), rest.to_owned())
        }
    };
    Some((vendor, rest.trim_end_matches(':').to_owned()))
}

/// A package: of all versions where it has none.
#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: Option<String>,
    is_source: bool,
}

impl Package {
    /// By its URL, or by its name where it has none. Nothing that is no RPM package, a container for one.
    fn of(product: &FullName) -> Option<Self> {
        match product.purl() {
            Some(url) => Self::of_url(url),
            None => Self::of_name(&product.product_id).or_else(|| Self::of_any_version(&product.product_id)),
        }
    }

    fn of_url(url: &str) -> Option<Self> {
        let (path, qualifiers) =
            url.strip_prefix("pkg:rpm/")?.split_once('?').unwrap_or((url.strip_prefix("pkg:rpm/")?, ""));
        let (path, version) = path.split_once('@').map_or((path, None), |(path, version)| (path, Some(version)));
        let qualifier = |key: &str| {
            let pairs = qualifiers.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next()
        };
        let version = version.map(|version| match qualifier("epoch") {
            Some(epoch) => format!("{epoch}:{version}"),
            None => version.to_owned(),
        });
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        Some(Self {
            name: bounded(&decoded(name)?)?,
            version: version
                .map(|version| bounded(&decoded(&version)?))
                .map_or(Some(None), |version| version.map(Some))?,
            is_source: qualifier("arch") == Some("src"),
        })
    }

    /// A name alone, as older documents have those that no fix is there for. That of a container or of a part of a module is none.
    fn of_any_version(text: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        let name = bounded(text).filter(|name| name.chars().all(plain))?;
        Some(Self { name, version: None, is_source: false })
    }

    /// `NAME-[EPOCH:]VERSION-RELEASE.ARCHITECTURE`.
    fn of_name(text: &str) -> Option<Self> {
        let (text, architecture) = text.rsplit_once('.')?;
        let (text, release) = text.rsplit_once('-')?;
        let (name, version) = text.rsplit_once('-')?;
        let known =
            ["noarch", "src", "x86_64", "aarch64", "ppc64le", "s390x", "i686", "i586", "ppc64", "armv7hl", "riscv64"];
        known.contains(&architecture).then_some(())?;
        Some(Self {
            name: bounded(name)?,
            version: Some(bounded(&format!("{version}-{release}"))?),
            is_source: architecture == "src",
        })
    }
}

/// A text of a URL without its percent signs (RFC 3986, 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
        let [Some(high), Some(low)] = digits else { return None };
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn bounded(text: &str) -> Option<String> {
    (!text.is_empty() && text.len() <= WORD && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A document like Red Hat's VEX files: two platforms of which one is not looked at, and packages with and without versions.
    fn red_hat() -> Value {
        let version = |name: &str, purl: &str| {
            json!({"category": "product_version", "name": name,
                   "product": {"name": name, "product_id": name, "product_identification_helper": {"purl": purl}}})
        };
        let platform = |id: &str, cpe: &str| {
            json!({"category": "product_name", "name": id,
                   "product": {"name": id, "product_id": id, "product_identification_helper": {"cpe": cpe}}})
        };
        let component = |whole: &str, part: &str| {
            json!({"category": "default_component_of", "product_reference": part, "relates_to_product_reference": whole,
                   "full_product_name": {"name": format!("{part} of {whole}"), "product_id": format!("{whole}:{part}")}})
        };
        json!({
            "document": {"category": "csaf_vex", "title": "an advisory", "publisher": {"name": "Red Hat Product Security"},
                         "tracking": {"id": "CVE-2026-1", "current_release_date": "2026-11-01T00:00:00+00:00", "status": "final"}},
            "product_tree": {
                "branches": [{"category": "vendor", "name": "Red Hat", "branches": [
                    platform("BaseOS-9", "cpe:/o:redhat:enterprise_linux:9::baseos"),
                    platform("AppStream-9", "cpe:2.3:a:redhat:enterprise_linux:9:*:appstream:*:*:*:*:*"),
                    platform("EUS", "cpe:/a:redhat:rhel_eus:9.2::baseos"),
                    version("openssl-1:3.0.7-18.el9.x86_64", "pkg:rpm/redhat/openssl@3.0.7-18.el9?arch=x86_64&epoch=1"),
                    version("openssl-1:3.0.7-16.el9_2.x86_64", "pkg:rpm/redhat/openssl@3.0.7-16.el9_2?arch=x86_64&epoch=1"),
                    version("openssl-1:3.0.7-16.el9_2.src", "pkg:rpm/redhat/openssl@3.0.7-16.el9_2?arch=src&epoch=1"),
                    version("libstdc%2B%2B", "pkg:rpm/redhat/libstdc%2B%2B"),
                    version("old", "pkg:rpm/redhat/old?arch=src"),
                    version("container", "pkg:oci/thing@sha256%3Aab"),
                    version("nodejs-18", "pkg:rpm/redhat/nodejs@18.12.1-1.module%2Bel9?arch=x86_64&epoch=1"),
                    version("nodejs-16", "pkg:rpm/redhat/nodejs@16.18.1-3.module%2Bel9?arch=x86_64&epoch=1"),
                    {"category": "product_version", "name": "zlib",
                     "product": {"name": "zlib", "product_id": "zlib-1.2.11-40.el9.x86_64"}},
                ]}],
                "relationships": [
                    component("BaseOS-9", "openssl-1:3.0.7-18.el9.x86_64"), component("BaseOS-9", "openssl-1:3.0.7-16.el9_2.x86_64"),
                    component("BaseOS-9", "openssl-1:3.0.7-16.el9_2.src"), component("EUS", "openssl-1:3.0.7-16.el9_2.x86_64"),
                    component("BaseOS-9", "libstdc%2B%2B"), component("BaseOS-9", "old"), component("BaseOS-9", "container"),
                    component("AppStream-9", "nodejs"), component("AppStream-9:nodejs", "nodejs-18"),
                    component("AppStream-9:nodejs", "nodejs-16"), component("BaseOS-9", "zlib-1.2.11-40.el9.x86_64"),
                ],
            },
            "vulnerabilities": [{
                "cve": "CVE-2026-1", "title": "sends what it should not",
                "product_status": {
                    "fixed": ["BaseOS-9:openssl-1:3.0.7-18.el9.x86_64", "BaseOS-9:openssl-1:3.0.7-16.el9_2.x86_64",
                              "BaseOS-9:openssl-1:3.0.7-16.el9_2.src", "EUS:openssl-1:3.0.7-16.el9_2.x86_64", "BaseOS-9:container",
                              "AppStream-9:nodejs:nodejs-18", "AppStream-9:nodejs:nodejs-16", "BaseOS-9:zlib-1.2.11-40.el9.x86_64"],
                    "known_affected": ["BaseOS-9:libstdc%2B%2B", "BaseOS-9:old"],
                    "known_not_affected": ["BaseOS-9:openssl-1:3.0.7-18.el9.x86_64"],
                },
                "remediations": [{"category": "no_fix_planned", "details": "Will not fix", "product_ids": ["BaseOS-9:libstdc%2B%2B"]},
                                 {"category": "no_fix_planned", "details": "Out of support scope", "product_ids": ["BaseOS-9:old"]}],
                "threats": [{"category": "impact", "details": "Important", "product_ids": ["BaseOS-9:old"]}],
                "scores": [{"products": ["BaseOS-9:openssl-1:3.0.7-16.el9_2.x86_64"],
                            "cvss_v3": {"vectorString": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}}],
            }],
        })
    }

    #[test]
    fn packages_of_a_platform_have_what_a_vendors_document_says_of_them() {
        let parsed = parse(red_hat().to_string().as_bytes()).unwrap();
        let of = |place: &str, name: &str| -> Vec<Record> {
            let place = format!("Red Hat:enterprise_linux:9::{place}");
            let all = parsed.entries.iter().filter(|(p, n, _)| *p == place && n == name);
            all.map(|(_, _, record)| record.clone()).collect()
        };
        let fixed = |version: &str| vec![vec![Event::Introduced("0".to_owned()), Event::Fixed(version.to_owned())]];
        // The first version that has the fix, with its epoch; the other platform's says nothing of this one.
        let [openssl] = of("baseos", "openssl").try_into().unwrap();
        assert_eq!((openssl.id.as_str(), &openssl.ranges), ("CVE-2026-1", &fixed("1:3.0.7-16.el9_2")));
        assert_eq!((openssl.severity, openssl.summary.as_str()), (Severity::Critical, "sends what it should not"));
        let notes = |name: &str| {
            of("baseos", name).into_iter().map(|record| (record.note, record.severity)).collect::<Vec<_>>()
        };
        assert_eq!(notes("libstdc++"), [(Some(Note::Ignored), Severity::Unknown)]);
        assert_eq!(notes("old"), [(Some(Note::EndOfLife), Severity::High)]);
        // Two streams of a module, each with its own fix, as components of a component.
        let streams: Vec<_> = of("appstream", "nodejs").into_iter().map(|record| record.ranges).collect();
        assert_eq!(streams, [fixed("1:16.18.1-3.module+el9"), fixed("1:18.12.1-1.module+el9")]);
        assert_eq!(of("baseos", "zlib")[0].ranges, fixed("1.2.11-40.el9"));
        assert_eq!((parsed.entries.len(), parsed.foreign), (6, 2));
        assert_eq!(parsed.modified, "2026-11-01T00:00:00+00:00");
    }

    #[test]
    fn suses_platforms_are_known_by_name_and_packages_by_version_and_release() {
        let name = FullName::named;
        let platform = name("SUSE Linux Enterprise Server 15 SP5", "sles", None, Some("cpe:/o:suse:sles:15:sp5"));
        assert_eq!(platform_of(&platform).as_deref(), Some("SUSE:Linux Enterprise Server 15 SP5"));
        let leap = name("openSUSE Leap 15.5", "leap", None, Some("cpe:/o:opensuse:leap:15.5"));
        assert_eq!(platform_of(&leap).as_deref(), Some("openSUSE:Leap 15.5"));
        let package = Package::of(&name("x", "libopenssl3-3.0.8-150500.5.8.1.x86_64", None, None)).unwrap();
        assert_eq!((package.name.as_str(), package.version.as_deref()), ("libopenssl3", Some("3.0.8-150500.5.8.1")));
        let parsed = parse(include_bytes!("../../../fuzz/seeds/csaf/suse")).unwrap();
        let [(place, name, record)] = parsed.entries.try_into().unwrap();
        assert_eq!((place.as_str(), name.as_str()), ("SUSE:Linux Enterprise Server 15 SP5", "openssl-3"));
        assert_eq!(record.ranges[0][1], Event::Fixed("3.0.8-150500.5.8.1".to_owned()));
        assert_eq!((record.severity, record.summary.as_str()), (Severity::Medium, "Security update for openssl-3"));
        for text in ["", "x", "x.y", "a-1.x86_64", "-1-1.noarch", "name-1-1.exe"] {
            assert_eq!(Package::of_name(text), None, "{text}");
        }
        let bare = |text: &str| {
            Package::of(&FullName::named("x", text, None, None)).map(|package| (package.name, package.version))
        };
        assert_eq!(bare("kernel-rt"), Some(("kernel-rt".to_owned(), None)));
        assert_eq!((bare("rhel8/nodejs"), bare("nodejs:18"), bare("")), (None, None, None));
        for url in
            ["pkg:pypi/x@1", "pkg:rpm/redhat/", "pkg:rpm/redhat/%zz", "pkg:rpm/redhat/x@%", "pkg:rpm/redhat/a%0ab"]
        {
            assert_eq!(Package::of_url(url), None, "{url}");
        }
    }

    #[test]
    fn what_is_no_document_or_was_taken_back_says_nothing() {
        let deleted = br#"{"document":{"tracking":{"id":"CVE-2023-0118","status":"deleted"}}}"#;
        assert!(parse(deleted).unwrap().withdrawn);
        for text in ["{}", "[]", "{\"document\":3}", "{\"document\":{\"tracking\":{}},\"vulnerabilities\":[{}]}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        // A component of itself is none.
        let mut circle = red_hat();
        circle["product_tree"]["relationships"] = json!([{
            "product_reference": "a", "relates_to_product_reference": "a",
            "full_product_name": {"name": "a", "product_id": "a"},
        }]);
        circle["vulnerabilities"][0]["product_status"] = json!({"fixed": ["a"]});
        assert_eq!(parse(circle.to_string().as_bytes()).unwrap().foreign, 1);
    }
}
