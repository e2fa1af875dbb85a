use std::fs::File;
use std::io::{Seek, Write};

use super::builder::{Builder, Source};
use super::import;
use super::index::Index;
use super::record::{Class, Event, Judgement, Note, Record};
use super::severity::Severity;
use super::{ecosystem, osv};
use crate::stack::facts;
use crate::stack::package::{Distribution, Package, PackageType};
use crate::stack::version::Order;

const NOW: &str = "2026-11-30T12:00:00Z";

/// A file with these bytes, at its beginning.
fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// A zip file of documents, deflated.
fn zip_bytes(documents: &[(&str, &str)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, text) in documents {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        let packed = encoder.finish().unwrap();
        let mut checksum = flate2::Crc::new();
        checksum.update(text.as_bytes());
        let number = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
        // Version, flags, deflate, 2026-11-27 09:00:00; checksum, sizes; lengths of name and extra field.
        let mut common = vec![20, 0, 0, 0, 8, 0, 0x00, 0x48, 0x7b, 0x5d];
        common.extend(checksum.sum().to_le_bytes());
        common.extend([number(packed.len()), number(text.len()), number(name.len())].concat());
        directory.extend([&b"PK\x01\x02\x14\0"[..], &common, &[0; 10], &number(file.len()), name.as_bytes()].concat());
        file.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), &packed].concat());
    }
    let count = u16::try_from(documents.len()).unwrap().to_le_bytes();
    let [size, start] = [directory.len(), file.len()].map(|value| u32::try_from(value).unwrap().to_le_bytes());
    [&file[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &size, &start, &[0, 0]].concat()
}

fn zipped(documents: &[(&str, &str)]) -> File {
    file(&zip_bytes(documents))
}

fn imported(mut from: File) -> Result<Index, String> {
    let mut to = tempfile::tempfile().unwrap();
    import::import(&mut from, &mut to, NOW)?;
    Ok(Index::open(to).unwrap())
}

fn records(index: &Index, ecosystem: &str, name: &str) -> Vec<Record> {
    let at = index.ecosystems().iter().position(|known| known == ecosystem).unwrap_or(usize::MAX);
    index.records(at, name).unwrap()
}

const PYPI: &str = r#"{"id":"PYSEC-2024-1","modified":"2024-05-01T10:00:00Z","aliases":["CVE-2024-1"],"summary":"A \u001b[2J hole",
  "severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
  "affected":[{"package":{"ecosystem":"PyPI","name":"Some_Thing"},"ranges":[{"type":"ECOSYSTEM","events":[
    {"introduced":"2.0"},{"fixed":"2.1"},{"introduced":"0"},{"fixed":"1.4"}]},{"type":"GIT","events":[{"introduced":"0"}]}],
    "versions":["1.0","1.2","2.0.5","9.9"]}]}"#;

#[test]
fn a_record_of_osv_is_kept_by_package_and_judges_versions() {
    let index = imported(zipped(&[("PYSEC-2024-1.json", PYPI), ("README.md", "no record")])).unwrap();
    let source = index.source();
    assert_eq!((source.name.as_str(), source.records, source.packages, source.unreadable), ("osv-PyPI", 1, 1, 0));
    assert_eq!((source.dated.as_str(), source.imported.as_str()), ("2026-11-27T09:00:00Z", NOW));
    let found = records(&index, "PyPI", "some-thing");
    let record = found.first().unwrap();
    assert_eq!(
        (record.severity, record.class, record.summary.as_str()),
        (Severity::Critical, Class::Vulnerability, "A [2J hole")
    );
    // Listed, and in no range.
    assert_eq!(record.versions, ["9.9"]);
    for (version, judged) in [
        ("1.3", Judgement::Affected(Some("1.4".to_owned()))),
        ("1.4", Judgement::Fixed),
        ("2.0.0", Judgement::Affected(Some("2.1".to_owned()))),
        ("2.1", Judgement::Fixed),
        ("9.9.0", Judgement::Affected(None)),
        ("trunk", Judgement::NotComparable),
    ] {
        assert_eq!(record.judge(Order::Pep440, version), judged, "{version}");
    }
}

#[test]
fn what_is_withdrawn_malicious_or_unreadable_is_told_apart() {
    let withdrawn = PYPI.replace("\"aliases\"", "\"withdrawn\":\"2024-06-01T00:00:00Z\",\"aliases\"");
    let malicious = r#"{"id":"MAL-2024-7","modified":"2099-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"bad"},"versions":["1.0.0"]}]}"#;
    let unmaintained = r#"{"id":"RUSTSEC-1","modified":"","severity":null,"affected":[{"package":{"ecosystem":"crates.io","name":"old"},
      "ranges":[{"type":"SEMVER","events":[{"introduced":"0.0.0-0"}]}],"database_specific":{"informational":"unmaintained","categories":[]}}]}"#;
    let foreign =
        r#"{"id":"X-1","modified":"","affected":[{"package":{"ecosystem":"NuGet","name":"x"},"versions":["1"]}]}"#;
    let documents = [
        ("a.json", withdrawn.as_str()),
        ("b.json", malicious),
        ("c.json", unmaintained),
        ("d.json", foreign),
        ("e.json", "{\"id\":3}"),
    ];
    let index = imported(zipped(&documents)).unwrap();
    let source = index.source();
    assert_eq!(
        (source.name.as_str(), source.records, source.withdrawn, source.unreadable, source.foreign),
        ("osv-several", 2, 1, 1, 1)
    );
    assert!(source.examples[0].starts_with("e.json: "), "{:?}", source.examples);
    // A record of the future makes its source no younger.
    assert_eq!(source.dated, "2026-11-27T09:00:00Z");
    assert_eq!(records(&index, "npm", "bad")[0].class, Class::Malicious);
    assert_eq!(records(&index, "crates.io", "old")[0].class, Class::Notice);
    assert!(records(&index, "PyPI", "some-thing").is_empty());
}

#[test]
fn only_what_can_be_read_as_a_range_is_a_judgement() {
    let event = |events: &str| {
        let text = format!(
            r#"{{"id":"A","modified":"","affected":[{{"package":{{"ecosystem":"npm","name":"n"}},"ranges":[{{"type":"SEMVER","events":[{events}]}}]}}]}}"#
        );
        osv::parse(text.as_bytes()).unwrap().entries.remove(0).2
    };
    let last = event(r#"{"introduced":"1.0.0"},{"last_affected":"1.2.0"}"#);
    assert_eq!(last.judge(Order::Semver, "1.2.0"), Judgement::Affected(None));
    assert_eq!(last.judge(Order::Semver, "1.2.1"), Judgement::Fixed);
    assert_eq!(last.judge(Order::Semver, "0.9.0"), Judgement::Unaffected);
    assert_eq!(
        event(r#"{"introduced":"1.0.0"},{"fixed":"soon"}"#).judge(Order::Semver, "0.1.0"),
        Judgement::NotComparable
    );
    assert_eq!(
        event(r#"{"introduced":"0"},{"limit":"2.0.0"}"#).judge(Order::Semver, "not one"),
        Judgement::NotComparable
    );
    assert_eq!(
        event("").judge(Order::Semver, "1.0.0"),
        Judgement::NotComparable,
        "commits alone say nothing of versions"
    );
    for text in [
        "",
        "{}",
        "[]",
        r#"{"id":""}"#,
        r#"{"id":"A\n"}"#,
        r#"{"id":"A","affected":[{"package":{"ecosystem":"npm","name":""}}]}"#,
    ] {
        assert!(osv::parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn severities_come_from_vectors_words_and_titles() {
    assert_eq!(
        Severity::of_vector("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H"),
        Severity::Critical
    );
    assert_eq!(Severity::of_vector("CVSS:3.0/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"), Severity::Low);
    assert_eq!(Severity::of_vector("CVSS:9/nonsense"), Severity::Unknown);
    assert_eq!(
        (Severity::of_word("MODERATE"), Severity::of_word("not yet assigned")),
        (Severity::Medium, Severity::Unknown)
    );
    assert_eq!(Severity::of_title("ALSA-2026:1", "Important: kernel security update"), Severity::High);
    assert_eq!(Severity::of_title("PYSEC-1", "Critical: not the title of an erratum"), Severity::Unknown);
    assert!(Severity::Unknown < Severity::None);
}

#[test]
fn the_debian_tracker_says_what_the_distribution_will_do() {
    let text = r#"{"openssl":{"CVE-2024-2":{"description":"d","scope":"remote","releases":{
      "bookworm":{"status":"resolved","repositories":{"bookworm":"3.0.1-1"},"fixed_version":"3.0.1-1","urgency":"medium"},
      "bullseye":{"status":"open","repositories":{},"urgency":"not yet assigned","nodsa":"Minor issue","nodsa_reason":"postponed"},
      "sid":{"status":"resolved","fixed_version":"0","urgency":"unimportant"}}}}}"#;
    let index = imported(file(text.as_bytes())).unwrap();
    assert_eq!((index.source().name.as_str(), index.source().records), ("debian-tracker", 3));
    let [bookworm, bullseye, sid] = ["bookworm", "bullseye", "sid"]
        .map(|release| records(&index, &format!("Debian:{release}"), "openssl").remove(0));
    assert_eq!(bookworm.judge(Order::Deb, "3.0.0-9"), Judgement::Affected(Some("3.0.1-1".to_owned())));
    assert_eq!((bullseye.note, bullseye.judge(Order::Deb, "1.1")), (Some(Note::Ignored), Judgement::Affected(None)));
    assert_eq!((sid.note, sid.judge(Order::Deb, "1.1")), (Some(Note::Unimportant), Judgement::Unaffected));
}

#[test]
fn alpines_database_tells_of_one_release_and_repository() {
    let text = r#"{"apkurl":"{{urlprefix}}","archs":["x86_64"],"reponame":"main","urlprefix":"u","distroversion":"v3.20","packages":[
      {"pkg":{"name":"apk-tools","secfixes":{"2.12.6-r0":["CVE-2021-30139 GHSA-x"],"0":["CVE-2021-1"]}}},{"pkg":{"name":"none"}}]}"#;
    let index = imported(file(text.as_bytes())).unwrap();
    assert_eq!(
        (index.source().name.as_str(), index.source().ecosystems.as_slice()),
        ("alpine-v3.20-main", &["Alpine:v3.20/main".to_owned()][..])
    );
    let found = records(&index, "Alpine:v3.20", "apk-tools");
    let judged: Vec<_> =
        found.iter().map(|record| (record.id.as_str(), record.judge(Order::Apk, "2.12.5-r1"))).collect();
    assert_eq!(
        judged,
        [("CVE-2021-1", Judgement::Unaffected), ("CVE-2021-30139", Judgement::Affected(Some("2.12.6-r0".to_owned())))]
    );
}

#[test]
fn what_is_no_source_is_refused_with_a_reason() {
    for (bytes, why) in [
        (&b""[..], "neither"),
        (b"hello", "neither"),
        (b"{\"a\":1}", "neither"),
        (b"PK\x03\x04 cut off", "damaged or hostile"),
        (br#"{"openssl":{"CVE-1":{"releases":{"sid":[]}}}}"#, "invalid"),
        (br#"{"distroversion":"../x","reponame":"main","packages":[]}"#, "no plain name"),
    ] {
        let error = imported(file(bytes)).unwrap_err();
        assert!(error.contains(why), "{why}: {error}");
    }
    let whole = zip_bytes(&[("a.json", PYPI)]);
    for (at, why) in [(34, "checksum"), (whole.len() - 90, "damaged or hostile")] {
        let mut damaged = whole.clone();
        damaged[at..at + 8].fill(0);
        assert!(imported(file(&damaged)).is_err(), "{why}");
    }
    for length in 0..whole.len() {
        assert!(imported(file(&whole[..length])).is_err(), "{length}");
    }
    let error = imported(zipped(&[("a.json", "{\"id\":3}")])).unwrap_err();
    assert!(error.contains("no record") && error.contains("a.json"), "{error}");
}

#[test]
fn the_same_records_are_the_same_bytes_and_damage_is_no_answer() {
    let record = |id: &str| Record {
        id: id.to_owned(),
        ranges: vec![vec![Event::Introduced("0".to_owned())]],
        ..Record::default()
    };
    let written = |order: [(&str, &str); 3]| {
        let mut builder = Builder::default();
        for (name, id) in order {
            builder.add("npm", name, &record(id)).unwrap();
        }
        let mut bytes = Vec::new();
        builder.write(Source { version: 1, ..Source::default() }, &mut bytes).unwrap();
        bytes
    };
    let bytes = written([("a", "1"), ("b", "2"), ("a", "3")]);
    assert_eq!(bytes, written([("a", "3"), ("a", "1"), ("b", "2")]));
    let whole = Index::open(file(&bytes)).unwrap();
    assert_eq!(whole.records(0, "a").unwrap().len(), 2);
    assert!(whole.records(0, "c").unwrap().is_empty() && whole.records(9, "a").unwrap().is_empty());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        if let Ok(index) = Index::open(file(&damaged)) {
            // The frame of a block has a checksum; the source's document is text for people.
            let same = |name: &str| index.records(0, name).is_ok_and(|found| found != whole.records(0, name).unwrap());
            assert!(!same("a") && !same("b"), "byte {at} was changed, and the answer with it");
        }
    }
    for length in 0..bytes.len() {
        assert!(Index::open(file(&bytes[..length])).is_err(), "{length}");
    }
}

#[test]
fn a_package_is_looked_up_where_it_comes_from_and_nowhere_else() {
    let mut package = Package {
        source: Some(("openssl".to_owned(), "3.0.1-1".to_owned())),
        ..facts::package(PackageType::Deb, "libssl3", "3.0.1-1+b1", "var/lib/dpkg/status").unwrap()
    };
    let debian = Distribution {
        id: "debian".to_owned(),
        version_id: "12".to_owned(),
        codename: Some("bookworm".to_owned()),
        ..Distribution::default()
    };
    let place = ecosystem::place(&package, Some(&debian)).unwrap();
    assert_eq!(place.names, [("openssl".to_owned(), "3.0.1-1".to_owned())]);
    for (name, is_there) in [("Debian:12", true), ("Debian:bookworm", true), ("Debian:1", false), ("Ubuntu:12", false)]
    {
        assert_eq!(place.ecosystems.iter().any(|ecosystems| ecosystems.hold(name)), is_there, "{name}");
    }
    assert!(ecosystem::place(&package, None).is_err());
    let other = Distribution { id: "raspbian".to_owned(), id_like: vec!["debian".to_owned()], ..debian.clone() };
    assert!(ecosystem::place(&package, Some(&other)).is_err(), "another distribution's data says nothing of it");
    (package.kind, package.owner) = (PackageType::Pypi, Some("python3-yaml".to_owned()));
    assert_eq!(ecosystem::place(&package, Some(&debian)), Err(ecosystem::Nowhere::Owned));
    (package.owner, package.unjudged) = (None, true);
    assert!(matches!(ecosystem::place(&package, None), Err(ecosystem::Nowhere::Because(_))));
    (package.unjudged, package.name) = (false, "Ruamel.YAML__clib".to_owned());
    assert_eq!(ecosystem::place(&package, None).unwrap().names[0].0, "ruamel-yaml-clib");
}

/// A tar file of documents.
fn tarred(documents: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in documents {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn an_archive_of_vendors_documents_is_one_source_however_it_is_packed() {
    let red_hat = include_str!("../../../fuzz/seeds/csaf/redhat");
    let deleted = r#"{"document":{"tracking":{"id":"CVE-2023-0118","status":"deleted"}}}"#;
    let long = format!("{}/cve-2026-3.json", "d".repeat(98));
    let documents = [
        ("2026/cve-2026-1.json", red_hat),
        ("2026/x.json", deleted),
        ("README", "no document"),
        (&long, "{}"),
        ("a.json", PYPI),
    ];
    let plain = tarred(&documents);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let packed =
        [plain.clone(), gzip.finish().unwrap(), zstd::bulk::compress(&plain, 1).unwrap(), zip_bytes(&documents)];
    for bytes in &packed {
        let index = imported(file(bytes)).unwrap();
        let source = index.source();
        assert_eq!((source.name.as_str(), source.format.as_str()), ("csaf-Red-Hat", "csaf-archive"));
        assert_eq!((source.records, source.withdrawn, source.unreadable), (1, 1, 2), "{source:?}");
        assert_eq!(source.ecosystems, ["Red Hat:enterprise_linux:9::baseos/not all could be read"]);
        let [found] = index.records(0, "a").unwrap().try_into().unwrap();
        assert_eq!(found.judge(Order::Rpm, "1:1.0-1.module+el9"), Judgement::Fixed);
        assert_eq!(
            found.judge(Order::Rpm, "1.0-2.module+el9"),
            Judgement::Affected(Some("1:1.0-1.module+el9".to_owned()))
        );
        assert_eq!(index.records(0, "c").unwrap()[0].note, Some(Note::EndOfLife));
    }
    // What is cut off or damaged anywhere is no source.
    for at in (0..plain.len() - 1024).step_by(97) {
        assert!(imported(file(&plain[..at])).is_err(), "{at}");
    }
    let mut damaged = plain.clone();
    damaged[100] ^= 1;
    assert!(imported(file(&damaged)).is_err());
    let mut large = tar::Header::new_ustar();
    large.set_size(1 << 40);
    large.set_path("x.json").unwrap();
    large.set_cksum();
    let error = imported(file(large.as_bytes())).unwrap_err();
    assert!(error.contains("too large"), "{error}");
}

#[test]
fn one_record_tells_of_a_part_of_its_ecosystem_alone() {
    let index = imported(file(PYPI.as_bytes())).unwrap();
    assert_eq!(index.source().ecosystems, ["PyPI/one record"]);
    assert_eq!(index.source().name, "osv-PyPI");
    assert!(!index.source().is_whole());
    let index = imported(zipped(&[("a.json", PYPI)])).unwrap();
    assert_eq!(index.source().ecosystems, ["PyPI"]);
    assert!(index.source().is_whole());
}

#[test]
fn an_archive_is_of_the_ecosystem_that_most_of_it_is_of_and_whole_if_all_of_it_is_read() {
    let of = |id: &str, ecosystem: &str| {
        format!(
            r#"{{"id":"{id}","modified":"","affected":[{{"package":{{"ecosystem":"{ecosystem}","name":"n"}},"versions":["1"]}}]}}"#
        )
    };
    let [a, b, c] = [of("A", "PyPI"), of("B", "PyPI"), of("C", "npm")];
    let index = imported(zipped(&[("a.json", &a), ("b.json", &b), ("c.json", &c)])).unwrap();
    assert_eq!(index.source().name, "osv-PyPI");
    assert_eq!(index.source().ecosystems, ["PyPI", "npm/one record"]);
    let index = imported(zipped(&[("a.json", &a), ("b.json", "{\"id\":3}")])).unwrap();
    assert_eq!(index.source().ecosystems, ["PyPI/not all could be read"]);
    assert!(!index.source().is_whole());
}
