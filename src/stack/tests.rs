//! A stack judged: what the sources, the waivers and the site's rules make of it.

use std::fs::File;
use std::io::Write as _;

use jiff::civil::{Date, date};
use serde_json::json;

use super::facts;
use super::package::{Distribution, Finding, FindingKind, LayerOrigin, Package, PackageType, Stack};
use super::rules::{Action, Rules, refusals};
use super::verdict::{Known, State, Verdict, judge};
use super::vex::{self, Waivers};
use super::vulndb::builder::{Builder, Source};
use super::vulndb::database::Database;
use super::vulndb::index::Index;
use super::vulndb::record::{Class, Event, Note, Record};
use super::vulndb::severity::Severity;

const TODAY: Date = date(2026, 11, 30);
const IMAGE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

pub(super) fn package(kind: PackageType, name: &str, version: &str) -> Package {
    facts::package(kind, name, version, &format!("usr/lib/{name}")).unwrap()
}

pub(super) fn stack(packages: Vec<Package>) -> Stack {
    Stack {
        version: 1,
        image: IMAGE.to_owned(),
        pulled: "2026-11-29T08:00:00.123Z".to_owned(),
        platform: "linux/amd64".to_owned(),
        distribution: Some(Distribution {
            id: "debian".to_owned(),
            version_id: "12".to_owned(),
            ..Distribution::default()
        }),
        layers: vec![LayerOrigin { diff_id: IMAGE.to_owned(), created_by: None }],
        packages,
        ..Stack::default()
    }
}

fn record(id: &str, aliases: &[&str], fixed: Option<&str>) -> Record {
    let mut events = vec![Event::Introduced("0".to_owned())];
    events.extend(fixed.map(|fixed| Event::Fixed(fixed.to_owned())));
    let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
    Record { id: id.to_owned(), aliases, ranges: vec![events], ..Record::default() }
}

/// A source of (ecosystem, name, record).
fn source(name: &str, dated: &str, records: &[(&str, &str, Record)]) -> Index {
    telling(name, dated, records, "")
}

/// The same, of which ecosystems it tells the part `part`.
fn telling(name: &str, dated: &str, records: &[(&str, &str, Record)], part: &str) -> Index {
    let mut builder = Builder::default();
    for (ecosystem, name, record) in records {
        builder.add(ecosystem, name, record).unwrap();
    }
    let source = Source {
        version: 1,
        name: name.to_owned(),
        dated: dated.to_owned(),
        ecosystems: builder.ecosystems().into_iter().map(|name| name + part).collect(),
        ..Source::default()
    };
    let mut bytes = Vec::new();
    builder.write(source, &mut bytes).unwrap();
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    Index::open(file).unwrap()
}

fn judged(stack: &Stack, sources: Vec<Index>, waivers: &[serde_json::Value]) -> Verdict {
    let documents = waivers.iter().map(|document| vex::parse(document.to_string().as_bytes(), "w.json").unwrap());
    judge(stack, &Database::new(sources), &Waivers::new(documents), TODAY).unwrap()
}

fn one(verdict: &Verdict) -> &Known {
    assert_eq!(verdict.known.len(), 1, "{:?}", verdict.known);
    &verdict.known[0]
}

#[test]
fn records_of_one_vulnerability_are_one_with_the_worst_that_is_known() {
    let stack = stack(vec![package(PackageType::Pypi, "Thing", "1.0")]);
    let rated =
        Record { severity: Severity::High, summary: "s".to_owned(), ..record("GHSA-1", &["CVE-1"], Some("1.1")) };
    let first =
        source("osv-PyPI", "2026-11-27T00:00:00Z", &[("PyPI", "thing", record("PYSEC-1", &["CVE-1"], Some("1.2")))]);
    let other = source(
        "other",
        "2026-01-01T00:00:00Z",
        &[("PyPI", "thing", rated), ("PyPI", "thing", record("PYSEC-0", &[], Some("0.9")))],
    );
    let verdict = judged(&stack, vec![first, other], &[]);
    let known = one(&verdict);
    assert_eq!((known.id.as_str(), known.severity, known.state), ("CVE-1", Severity::High, State::FixAvailable));
    assert_eq!(known.aliases, ["GHSA-1", "PYSEC-1"]);
    assert_eq!(known.fix.as_deref(), Some("1.2"), "what all sources call fixed");
    assert_eq!(known.sources, ["osv-PyPI", "other"]);
    assert_eq!((verdict.judged, verdict.fixed), (1, 1));
    assert_eq!(verdict.sources.iter().map(|used| used.days).collect::<Vec<_>>(), [3, 333]);
}

#[test]
fn what_a_package_claims_that_the_distribution_does_not_know_is_judged_by_its_own_data() {
    let owned = |name: &str, owner: &str| Package {
        owner: Some(owner.to_owned()),
        ..package(PackageType::Pypi, name, "2.25.1")
    };
    let packages = vec![
        package(PackageType::Deb, "python3-requests", "2.25.1-2"),
        package(PackageType::Deb, "vendors-tool", "1.0"),
        owned("requests", "python3-requests"),
        owned("urllib3", "vendors-tool"),
    ];
    let debian = |known: &str| {
        source("debian-tracker", "2026-11-27T00:00:00Z", &[("Debian:12", known, record("CVE-1", &[], Some("1.0")))])
    };
    let python = || {
        let affected = |id| record(id, &[], Some("3.0"));
        let all = [("PyPI", "requests", affected("PYSEC-1")), ("PyPI", "urllib3", affected("PYSEC-2"))];
        source("osv-PyPI", "2026-11-27T00:00:00Z", &all)
    };
    let stack = stack(packages);
    // Debian has heard of `python3-requests`, and may have mended it; what a vendor brings along Debian does not look at.
    let verdict = judged(&stack, vec![debian("python3-requests"), python()], &[]);
    assert_eq!((one(&verdict).id.as_str(), verdict.owned, verdict.judged), ("PYSEC-2", 1, 3));
    // Without data of Python's, or of Debian's, it stays under its owner, of which is told what was not judged.
    for sources in [vec![debian("python3-requests")], vec![python()]] {
        let verdict = judged(&stack, sources, &[]);
        assert_eq!((verdict.known.len(), verdict.owned), (0, 2));
    }
}

#[test]
fn what_no_source_tells_of_is_not_judged_and_never_clean() {
    let mut owned = package(PackageType::Pypi, "yaml", "6");
    owned.owner = Some("python3-yaml".to_owned());
    let devel = Package { unjudged: true, ..package(PackageType::Golang, "example.org/tool", "(devel)") };
    let packages = vec![
        package(PackageType::Deb, "zlib1g", "1:1.2"),
        package(PackageType::Npm, "left", "1.0.0"),
        package(PackageType::Conda, "numpy", "1"),
        devel,
        owned,
    ];
    let verdict = judged(
        &stack(packages),
        vec![source("osv-npm", "2026-11-27", &[("npm", "other", record("GHSA-2", &[], None))])],
        &[],
    );
    assert_eq!((verdict.judged, verdict.owned, verdict.known.len()), (1, 1, 0));
    let why: Vec<_> =
        verdict.unjudged.iter().map(|unjudged| (unjudged.why.as_str(), unjudged.packages.as_slice())).collect();
    assert_eq!(why.len(), 3, "{why:?}");
    assert!(why.iter().any(|(why, packages)| why.contains("no source was imported") && *packages == [0]), "{why:?}");
    let breach = refusals(&verdict, &Rules { unjudged: Action::Refuse, ..Rules::default() });
    assert!(breach.iter().any(|breach| breach.rule == "unjudged" && breach.action == Action::Refuse), "{breach:?}");
}

#[test]
fn states_of_a_distribution_are_told_apart() {
    let names = ["fixed", "open", "ignored", "harmless", "old", "odd"];
    let mut packages: Vec<Package> = names.iter().map(|name| package(PackageType::Deb, name, "1.0-1")).collect();
    packages[5].version = "no version!".to_owned();
    packages[0].changelog_fixes = vec!["CVE-fixed".to_owned()];
    let noted = |note, id: &str| Record { note: Some(note), severity: Severity::High, ..record(id, &[], None) };
    let records = [
        ("Debian:12", "fixed", record("DEBIAN-CVE-fixed", &["CVE-fixed"], Some("1.0-2"))),
        ("Debian:12", "open", record("CVE-open", &[], None)),
        ("Debian:12", "ignored", noted(Note::Ignored, "CVE-ignored")),
        ("Debian:12", "harmless", noted(Note::Unimportant, "CVE-harmless")),
        ("Debian:12", "old", noted(Note::EndOfLife, "CVE-old")),
        ("Debian:12", "odd", record("CVE-odd", &[], Some("1"))),
    ];
    let verdict = judged(&stack(packages), vec![source("osv-Debian", "2026-11-27", &records)], &[]);
    let state = |id: &str| verdict.known.iter().find(|known| known.id == id).map(|known| known.state);
    for (id, wanted) in [
        ("CVE-fixed", State::FixAvailable),
        ("CVE-open", State::NoFix),
        ("CVE-ignored", State::DistributionIgnores),
        ("CVE-harmless", State::DistributionUnimportant),
        ("CVE-old", State::EndOfLife),
        ("CVE-odd", State::NotComparable),
    ] {
        assert_eq!(state(id), Some(wanted), "{id}");
    }
    assert!(verdict.known.iter().all(|known| known.changelog_says_fixed == (known.id == "CVE-fixed")));
    // What the distribution calls harmless breaks no rule; what it ignores does.
    let rules = Rules { on_finding: Action::Refuse, max_severity: Severity::Medium, ..Rules::default() };
    let breach = refusals(&verdict, &rules).into_iter().find(|breach| breach.rule == "max_severity").unwrap();
    assert!(
        breach.what.contains("CVE-ignored") && breach.what.contains("CVE-old") && !breach.what.contains("CVE-harmless"),
        "{breach:?}"
    );
}

#[test]
fn a_module_is_judged_by_what_is_fixed_in_it() {
    let modular = |version: &str, module: Option<&str>| {
        let mut stack =
            stack(vec![Package { module: module.map(str::to_owned), ..package(PackageType::Rpm, "nodejs", version) }]);
        stack.distribution =
            Some(Distribution { id: "almalinux".to_owned(), version_id: "8.10".to_owned(), ..Distribution::default() });
        let fix = record("ALSA-1", &[], Some("1:16.20.2-1.module_el8.8.0+1"));
        judged(&stack, vec![source("osv-AlmaLinux", "2026-11-27", &[("AlmaLinux:8", "nodejs", fix)])], &[])
    };
    assert_eq!(one(&modular("1:16.1.0-1.module_el8.5.0+1", Some("nodejs:16"))).state, State::FixAvailable);
    assert_eq!(one(&modular("1:14.1.0-1.module_el8.5.0+1", Some("nodejs:14"))).state, State::NotComparable);
    assert!(modular("1:10.1.0-1.el8", None).known.is_empty());
}

#[test]
fn an_advisory_says_no_more_than_the_vulnerabilities_that_it_is_about() {
    let advisory = Record { covers: vec!["CVE-1".to_owned(), "CVE-2".to_owned()], ..record("USN-1", &[], Some("2")) };
    let packages = vec![package(PackageType::Deb, "tool", "1")];
    let part = [("Debian:12", "tool", advisory.clone()), ("Debian:12", "tool", record("CVE-1", &[], Some("2")))];
    let ids = |verdict: &Verdict| verdict.known.iter().map(|known| known.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&judged(&stack(packages.clone()), vec![source("a", "2026-11-27", &part)], &[])), ["CVE-1", "USN-1"]);
    let whole = [&part[..], &[("Debian:12", "tool", record("CVE-2", &[], Some("2")))]].concat();
    assert_eq!(ids(&judged(&stack(packages), vec![source("a", "2026-11-27", &whole)], &[])), ["CVE-1", "CVE-2"]);
}

#[test]
fn what_one_record_is_about_hides_nothing_that_another_says() {
    let low = |id: &str| ("PyPI", "tool", record(id, &[], Some("2")));
    let covers = vec!["CVE-1".to_owned(), "CVE-2".to_owned()];
    let joins = Record { covers: covers.clone(), ..record("X-1", &["GHSA-crit"], Some("2")) };
    let crit = Record { severity: Severity::Critical, ..record("GHSA-crit", &[], Some("2")) };
    let all = [low("CVE-1"), low("CVE-2"), ("PyPI", "tool", joins), ("PyPI", "tool", crit)];
    let stack = stack(vec![package(PackageType::Pypi, "tool", "1")]);
    let verdict = judged(&stack, vec![source("a", "2026-11-27", &all)], &[]);
    let crit = verdict.known.iter().find(|known| known.id == "GHSA-crit").unwrap();
    assert_eq!((crit.severity, crit.covers.is_empty()), (Severity::Critical, true));
}

#[test]
fn that_something_does_no_harm_is_said_by_the_ecosystems_own_source_alone() {
    let crit = Record { severity: Severity::Critical, ..record("GHSA-1", &["CVE-1"], None) };
    let harmless = Record { note: Some(Note::Unimportant), ..record("X-1", &["CVE-1"], None) };
    let stack = stack(vec![package(PackageType::Pypi, "tool", "1")]);
    let own = || source("osv-PyPI", "2026-11-27", &[("PyPI", "tool", crit.clone())]);
    let other = |part: &str| telling("osv-npm", "2026-11-27", &[("PyPI", "tool", harmless.clone())], part);
    let state = |part: &str| one(&judged(&stack, vec![own(), other(part)], &[])).state;
    assert_eq!(state(&format!("/{}", Source::PART)), State::NoFix);
    assert_eq!(state(""), State::DistributionUnimportant);
}

fn openvex(products: serde_json::Value, expires: Option<&str>, status: &str, reason: &str) -> serde_json::Value {
    json!({
        "@context": "https://openvex.dev/ns/v0.2.0", "@id": "x", "author": "A. Person", "timestamp": "2026-11-01T00:00:00Z", "version": 1,
        "statements": [{"vulnerability": {"name": "CVE-1"}, "products": products, "status": status, "justification": reason, "expires": expires}]
    })
}

#[test]
fn a_waiver_counts_for_what_it_names_with_a_reason_and_until_its_day() {
    let stack = stack(vec![package(PackageType::Npm, "@a/left", "1.0.0")]);
    let waived = |document: serde_json::Value| {
        let bad = Record { severity: Severity::Critical, ..record("GHSA-1", &["CVE-1"], None) };
        let verdict = judged(&stack, vec![source("osv-npm", "2026-11-27", &[("npm", "@a/left", bad)])], &[document]);
        let known = one(&verdict).clone();
        let rules = Rules { on_finding: Action::Refuse, ..Rules::default() };
        let refuses = refusals(&verdict, &rules).iter().any(|breach| breach.rule == "max_severity");
        assert_eq!(refuses, !known.waived);
        (known.waived, known.statements.len())
    };
    let image = json!([{"@id": format!("pkg:oci/tool@{}", IMAGE.replace(':', "%3A"))}]);
    let reason = "vulnerable_code_not_in_execute_path";
    let with = |products: serde_json::Value| openvex(products, None, "not_affected", reason);
    assert_eq!(waived(with(image.clone())), (true, 1));
    assert_eq!(waived(with(json!([{"@id": "pkg:npm/%40a/left"}]))), (true, 1));
    assert_eq!(waived(with(json!([{"@id": "pkg:npm/%40a/left@1.0.0"}]))), (true, 1));
    assert_eq!(waived(with(json!([{"@id": IMAGE, "subcomponents": [{"@id": "pkg:npm/%40a/left@1.0.0"}]}]))), (true, 1));
    assert_eq!(waived(openvex(image.clone(), Some("2026-11-30"), "not_affected", reason)), (true, 1));
    // Named, and shown, and no waiver.
    assert_eq!(waived(openvex(image.clone(), Some("2026-11-29"), "not_affected", reason)), (false, 1));
    assert_eq!(waived(openvex(image.clone(), None, "not_affected", "")), (false, 1));
    assert_eq!(waived(openvex(image.clone(), None, "under_investigation", reason)), (false, 1));
    // Of something else.
    let other = IMAGE.replace('a', "b");
    assert_eq!(waived(with(json!([{"@id": format!("pkg:oci/tool@{other}")}]))), (false, 0));
    assert_eq!(waived(with(json!([{"@id": "pkg:npm/%40a/left@2.0.0"}]))), (false, 0));
    assert_eq!(waived(with(json!([{"@id": IMAGE, "subcomponents": [{"@id": "pkg:npm/right"}]}]))), (false, 0));
    let csaf = json!({
        "document": {"publisher": {"name": "P"}, "tracking": {"current_release_date": "2026-11-02T00:00:00Z"}},
        "product_tree": {"full_product_names": [{"product_id": "L", "product_identification_helper": {"purl": "pkg:npm/%40a/left@1.0.0"}}]},
        "vulnerabilities": [{"cve": "CVE-1", "product_status": {"known_not_affected": ["L"]}, "flags": [{"label": "component_not_present", "product_ids": ["L"]}]}]
    });
    assert_eq!(waived(csaf), (true, 1));
    for text in ["", "{}", "[]", r#"{"statements":[]}"#, r#"{"product_tree":{}}"#] {
        assert!(vex::parse(text.as_bytes(), "x").is_err(), "{text}");
    }
}

#[test]
fn every_rule_of_the_site_can_refuse() {
    let mut stack = stack(vec![
        package(PackageType::Npm, "bad", "1.0.0"),
        package(PackageType::Npm, "unrated", "1.0.0"),
        package(PackageType::Conda, "c", "1"),
    ]);
    let finding = |kind| Finding { kind, place: "x".to_owned(), what: "w".to_owned(), layer: Some(0), hidden: false };
    stack.findings = vec![finding(FindingKind::Unowned), finding(FindingKind::Secret)];
    let malicious = Record { class: Class::Malicious, ..record("MAL-1", &[], None) };
    let critical = Record { severity: Severity::Critical, ..record("CVE-9", &[], None) };
    let records =
        [("npm", "bad", malicious), ("npm", "bad", critical), ("npm", "unrated", record("GHSA-9", &[], None))];
    let verdict = judged(&stack, vec![source("osv-npm", "2026-10-01", &records)], &[]);
    let refuse = Rules {
        on_finding: Action::Refuse,
        max_severity: Severity::High,
        unknown_severity: Action::Refuse,
        unjudged: Action::Refuse,
        database_max_age: Some(std::time::Duration::from_secs(30 * 86_400)),
        unowned: Action::Refuse,
        secrets: Action::Refuse,
    };
    let rules = |breaches: Vec<super::rules::Breach>| {
        breaches.into_iter().map(|breach| (breach.rule.into_owned(), breach.action)).collect::<Vec<_>>()
    };
    let all = ["on_finding", "max_severity", "unknown_severity", "unjudged", "database_max_age", "unowned", "secrets"];
    assert_eq!(rules(refusals(&verdict, &refuse)), all.map(|rule| (rule.to_owned(), Action::Refuse)));
    // Without an age limit no data is too old; else all is told.
    let told = rules(refusals(&verdict, &Rules::default()));
    assert_eq!(told.len(), all.len() - 1);
    assert!(told.iter().all(|(_, action)| *action == Action::Report));
    assert_eq!(verdict.known[0].class, Class::Malicious, "the worst is first");
}

#[test]
fn three_thousand_packages_are_judged_in_no_time() {
    let packages: Vec<Package> =
        (0..3_000).map(|number| package(PackageType::Npm, &format!("package-{number}"), "1.0.0")).collect();
    let records: Vec<_> = (0..3_000)
        .flat_map(|number| {
            (0..3)
                .map(move |n| (format!("package-{number}"), record(&format!("GHSA-{number}-{n}"), &[], Some("1.0.1"))))
        })
        .collect();
    let records: Vec<_> = records.iter().map(|(name, record)| ("npm", name.as_str(), record.clone())).collect();
    let database = Database::new(vec![source("osv-npm", "2026-11-27", &records)]);
    let stack = stack(packages);
    let begun = std::time::Instant::now();
    let verdict = judge(&stack, &database, &Waivers::default(), TODAY).unwrap();
    assert_eq!(verdict.known.len(), 9_000);
    // The bar is 50 ms of an optimised build on an idle machine; a quadratic step would take minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}
